"""What ``world@1.0`` fixes before any run: starts, context, horizons, actions, thresholds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from drive_wm.eval.world import starts
from drive_wm.types import InputError

MODES = ("given", "imagined", "none")
STRATA = ("day", "night", "rain", "junction", "dense")


@dataclass(frozen=True)
class Start:
    """A moment of a drive. seed and start_s name it in the town; a recorded one has a source and a log instead.

    speed_mps: the ego's, when the list was frozen: it tells whether the town still is what it was.
    """

    stratum: str
    start_s: float
    seed: int = -1
    speed_mps: float = 0.0
    source: str = ""
    log: str | None = None

    @property
    def id(self) -> str:
        name = self.log or self.source if self.source else f"town-{self.seed:06d}"
        return f"{name}@{self.start_s:g}"


@dataclass(frozen=True)
class WorldProtocol:
    """Starts of moving drives; context, then futures under six actions.

    A start has context_s of past. horizon_s: how far every action is followed; long_s: how far the true ones are, at
    every ``long_every``-th start (another action held for so long leaves the road). read_at_s: horizons reported;
    told_at_s: where actions are told apart. Thresholds stand here too, so that no look at a result can bend them:
    seen_pixels: an agent of fewer pixels in a camera is not asked for. kept_share: of them must be read as its kind.
    color_lab: the greatest distance in CIE Lab of a colour kept. same_m, same_rad: paths nearer than this at a horizon
    are one action there. drift_mps: the ego's speed at a start may differ by so much from the frozen list's.
    """

    name: str = "world"
    version: str = "1.0"
    rate_hz: float = 2.0
    context_s: float = 2.0
    horizon_s: float = 4.0
    long_s: float = 32.0
    long_every: int = 2
    drive_s: float = 40.0
    actions: tuple[str, ...] = ("log", "brake", "accelerate", "left", "right", "keep")
    read_at_s: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0, 4.0, 8.0, 16.0, 30.0, 32.0)
    told_at_s: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0)
    training_context_s: float = 2.0  # 1, 4 and 16 of it are 2, 8 and 32 s
    seen_pixels: int = 12
    kept_share: float = 0.5
    color_lab: float = 20.0
    same_m: float = 0.5
    same_rad: float = 0.05
    moving_mps: float = 2.0
    moving_agent_mps: float = 1.0
    drift_mps: float = 0.2
    bootstrap: int = 1000
    cameras_left: tuple[int, ...] = (3, 1)
    passes: int = 6

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"

    def steps(self, seconds: float) -> int:
        return round(seconds * self.rate_hz)

    def at(self, seconds: tuple[float, ...]) -> tuple[int, ...]:
        """Steps, counted from 1, of those horizons."""
        return tuple(self.steps(s) for s in seconds)


PROTOCOL = WorldProtocol()

# Recorded drives, by folder below the one given; what no training of the project's own recipes reads.
RECORDED = (
    Start("recorded", 11.6, source="drive_folder:drives/karlsruhe_0005"),
    Start("drawn", 4.0, source="argoverse2:argoverse2", log="7fab2350-7eaf-3b7e-a39d-6937a4c1bede"),
    Start("drawn", 10.0, source="argoverse2:argoverse2", log="7fab2350-7eaf-3b7e-a39d-6937a4c1bede"),
    Start("drawn", 4.0, source="argoverse2:argoverse2", log="adcf7d18-0510-35b0-a2fa-b4cea13a6d76"),
    Start("drawn", 10.0, source="argoverse2:argoverse2", log="adcf7d18-0510-35b0-a2fa-b4cea13a6d76"),
    Start("frames alone", 0.0, source="nuscenes:nuscenes_one_sample"),
)


def town_starts(count: int | None = None) -> list[Start]:
    """The first ``count`` of the frozen list, or all: strata take turns, so any beginning of it is stratified."""
    rows = starts.ROWS
    if count is not None and not 1 <= count <= len(rows):
        raise InputError(f"--starts {count}: {PROTOCOL.id} has 1 to {len(rows)}")
    return [Start(stratum, start_s, seed, speed) for seed, start_s, stratum, speed in rows[:count]]


def stamp(count: int, modes: tuple[str, ...], protocol: WorldProtocol = PROTOCOL) -> dict[str, Any]:
    """What every figure of a run comes with. A part of the list is named: world@1.0/50."""
    rows = starts.ROWS
    whole = json.dumps([dataclasses.asdict(protocol), rows[:count]], sort_keys=True)
    name = protocol.id if protocol == PROTOCOL else f"{protocol.id}+changed"
    return {"protocol": name if count == len(rows) else f"{name}/{count}", "starts": count, "modes": list(modes),
            "config_hash": hashlib.sha256(whole.encode()).hexdigest()[:12], "town_version": starts.TOWN_VERSION}
