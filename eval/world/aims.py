"""What the world model is aimed at: a floor, a goal, and what a run of ``world@1.0`` reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Aim:
    """A value of a table: the row where ``where`` holds, the column ``metric``. most: the value should be at most."""

    text: str
    table: str
    where: tuple[tuple[str, Any], ...]
    metric: str
    floor: float
    goal: float | None = None
    most: bool = False


def _at(mode: str, time_s: float) -> tuple[tuple[str, Any], ...]:
    return (("mode", mode), ("time_s", time_s))


def _mode(mode: str, told: tuple[float, float], over: Mapping[float, tuple[float, float | None]]) -> tuple[Aim, ...]:
    return (Aim("action told of six at 1 s", "action_told", _at(mode, 1.0), "told", *told),
            *(Aim(f"PSNR over copy-last at {s:g} s, dB", "frames", _at(mode, s), "over_copy_db", *v)
              for s, v in over.items()))


AIMS: tuple[Aim, ...] = (
    *_mode("imagined", (0.80, 0.95), {1.0: (4.0, 6.0), 3.0: (3.0, 4.0)}),
    Aim("left against right at 1 s", "action_told", _at("imagined", 1.0), "left_or_right", 0.95, 0.98),
    Aim("agents off at 3 s over constant velocity's", "agents_motion", _at("imagined", 3.0), "over_constant_velocity",
        1.0, most=True),
    *_mode("given", (0.95, 0.99), {1.0: (6.0, 8.0), 3.0: (6.0, 8.0)}),
    Aim("agents kept at 2 s", "seen_by_the_probe", _at("given", 2.0), "agents_kept", 0.80, 0.95),
    Aim("colour of those kept at 2 s", "seen_by_the_probe", _at("given", 2.0), "colour_kept", 0.80),
    *_mode("none", (0.65, 0.90), {1.0: (3.0, None), 3.0: (2.0, None)}),
    *(aim for mode in ("given", "imagined", "none") for aim in (
        Aim("mIoU at 2 s, share of the reconstruction's", "seen_by_the_probe", _at(mode, 2.0),
            "share_of_reconstruction", 0.60, 0.80),
        Aim("Fréchet distance at 30 s over that at 4 s", "drift", _at(mode, 30.0), "over_that_at_4_s", 1.5, most=True),
        Aim("cost of cameras taken away at 2 s, three left, dB", "cameras_away", (*_at(mode, 2.0), ("cameras", 3)),
            "cost_db", 1.0, most=True))),
)


def reached(tables: Mapping[str, Records]) -> list[dict[str, Any]]:
    """A row an aim: floor, goal, what was reached with its interval, the verdict; None where it was not measured."""
    out = []
    for aim in AIMS:
        row = next((r for r in tables.get(aim.table, ()) if all(r.get(k) == v for k, v in aim.where)), {})
        value = row.get(aim.metric)
        out.append({"mode": dict(aim.where)["mode"], "aim": aim.text, "floor": aim.floor, "goal": aim.goal,
                    "reached": value, "low": row.get(f"{aim.metric}_low"), "high": row.get(f"{aim.metric}_high"),
                    "verdict": verdict(aim, value)})
    return out


def verdict(aim: Aim, value: float | None) -> str:
    if value is None or value != value:
        return "not measured"
    sign = -1.0 if aim.most else 1.0
    if aim.goal is not None and sign * value >= sign * aim.goal:
        return "goal"
    return "floor" if sign * value >= sign * aim.floor else "missed"
