"""From rows to tables: means with intervals by bootstrap over logs, and what was aimed at beside what was reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drive_wm.eval.statistics import interval
from drive_wm.eval.world.measure import COPY, RECONSTRUCTION, TRUTH, Measured
from drive_wm.eval.world.probe import frechet
from drive_wm.eval.world.protocol import MODES, WorldProtocol
from drive_wm.types import FloatArray

Row = dict[str, Any]
Records = list[Row]

# name -> (column, None: mean over rows that have it; or (numerator, denominator): share of sums)
FRAMES = {"psnr_db": ("psnr_db", None), "ssim": ("ssim", None), "over_copy_db": ("over_copy_db", None),
          "under_reconstruction_db": ("under_reconstruction_db", None), "overlap_db": ("overlap_db", None)}
SEEN = {"agents_kept": ("agents_kept", "agents_asked"), "colour_kept": ("agents_colored", "agents_kept"),
        "invented_per_image": ("agents_invented", "images"), "lamps_right": ("lamps_right", "lamps_asked")}
TOLD = {"told": ("told_pixels", None), "told_in_features": ("told_features", None),
        "told_or_same_path": ("told_or_same_pixels", None), "left_or_right": ("side_pixels", None),
        "left_or_right_in_features": ("side_features", None), "candidates": ("candidates", None),
        "path_ade_m": ("asked_path_ade_m", None)}
AGENTS = {"off_m": ("agents_off_m", "agents_moving"), "constant_velocity_off_m": ("steady_off_m", "agents_moving"),
          "over_constant_velocity": ("agents_off_m", "steady_off_m")}
BLOCKED = {"blocked": ("blocked", None), "free_s": ("free_s", None)}
SHORTLY_S = (1.0, 3.0)  # where tables of many rows are read
CODE = {"bits_per_pixel_s": ("bits_per_pixel_s", None)}
CAMERAS = {"alone_db": ("alone_db", None), "among_all_db": ("among_all_db", None), "cost_db": ("cost_db", None)}


@dataclass(frozen=True)
class Estimate:
    """A value with the 2.5% and 97.5% quantiles of its bootstrap over logs; n logs are behind it."""

    value: float
    low: float
    high: float
    logs: int


def with_margins(rows: Iterable[Row]) -> Records:
    """Adds what compares a row with another of the same start and step: over copying, under the tokens, alone."""
    rows = list(rows)
    at = {(r["start"], r["step"], r["mode"]): r["psnr_db"] for r in rows if r.get("psnr_db") is not None}
    out = []
    for row in rows:
        row = dict(row)
        mine, copied, best = (at.get((row["start"], row["step"], mode)) for mode in (row["mode"], COPY, RECONSTRUCTION))
        if row.get("psnr_db") is not None and copied is not None and best is not None:
            assert mine is not None
            row["over_copy_db"], row["under_reconstruction_db"] = mine - copied, best - mine
        if "cameras" in row:
            row["cost_db"] = row["among_all_db"] - row["alone_db"]
        out.append(row)
    return out


def estimates(rows: Sequence[Row], keys: Sequence[str], metrics: Mapping[str, tuple[str, str | None]],
              draws: int) -> dict[tuple[Any, ...], dict[str, Estimate]]:
    """By the values of ``keys``, every metric that any of the rows has."""
    groups: dict[tuple[Any, ...], Records] = {}
    for row in rows:
        if any(row.get(column) is not None for column, _ in metrics.values()):
            groups.setdefault(tuple(row.get(k) for k in keys), []).append(row)
    out: dict[tuple[Any, ...], dict[str, Estimate]] = {}
    for group, members in groups.items():
        found = {name: estimate(members, column, per, draws) for name, (column, per) in metrics.items()}
        out[group] = {name: one for name, one in found.items() if one is not None}
    return out


def estimate(rows: Sequence[Row], column: str, per: str | None, draws: int) -> Estimate | None:
    """None where no row has it; NaN where the denominator is zero."""
    sums: dict[str, list[float]] = {}
    for row in rows:
        if row.get(column) is not None and np.isfinite(row[column]):
            mine = sums.setdefault(row["log"], [0.0, 0.0])
            mine[0] += row[column]
            mine[1] += 1 if per is None else row[per]
    return None if not sums else bootstrapped(np.array(list(sums.values())), lambda s: ratio(s.sum(-2)), draws)


def ratio(sums: FloatArray) -> FloatArray:
    """(..., 2) numerator and denominator -> (...)."""
    return np.asarray(np.where(sums[..., 1] > 0, sums[..., 0] / np.maximum(sums[..., 1], 1e-12), np.nan))


def bootstrapped(logs: FloatArray, value: Callable[[FloatArray], FloatArray], draws: int) -> Estimate:
    """logs: (L, ...) one entry a log; value: (..., L, ...) -> (...). Always the same draws for the same L."""
    low, high = interval(lambda at: value(logs[at]), len(logs), 0, draws, undefined=1.0)
    return Estimate(float(value(logs)), low, high, len(logs))


# --- what only sums can tell --------------------------------------------------------------------------------------


def iou_estimates(measured: Sequence[Measured], draws: int) -> dict[tuple[str, int], dict[str, Estimate]]:
    """(mode, step) -> mIoU over the pixels of all starts, and as a share of the reconstruction's; paired draws."""
    out: dict[tuple[str, int], dict[str, Estimate]] = {}
    for mode, step in dict.fromkeys(key for m in measured for key in m.counts):
        both = [(m.counts[mode, step], m.counts[RECONSTRUCTION, step]) for m in measured if (mode, step) in m.counts]
        pairs = np.array(both, dtype=np.float64)  # (L, 2, 3, classes)
        out[mode, step] = {"miou": bootstrapped(pairs[:, 0], _iou, draws),
                           "share_of_reconstruction": bootstrapped(pairs, _iou_share, draws)}
    return out


def _iou(counts: FloatArray) -> FloatArray:
    """(..., L, 3, classes) -> (...): mean over the classes that are there."""
    both, said, true = np.moveaxis(counts.sum(-3), -2, 0)
    there = true > 0
    values = both / np.maximum(said + true - both, 1)
    return np.asarray((values * there).sum(-1) / np.maximum(there.sum(-1), 1))


def _iou_share(pairs: FloatArray) -> FloatArray:
    return np.asarray(_iou(pairs[..., 0, :, :]) / np.maximum(_iou(pairs[..., 1, :, :]), 1e-9))


def drift(measured: Sequence[Measured], protocol: WorldProtocol) -> Records:
    """Fréchet distance in probe features to the truth at each horizon, over the starts that go to the end."""
    last = max((step for m in measured for _, step in m.pooled), default=0)
    long = [m for m in measured if (TRUTH, last) in m.pooled]
    rows: Records = []
    base = protocol.steps(protocol.horizon_s)
    modes = [k for k in dict.fromkeys(mode for m in long for mode, _ in m.pooled) if k != TRUTH]
    for mode in modes:
        steps = [k for k in protocol.at(protocol.read_at_s) if (mode, k) in long[0].pooled]
        values = {k: frechet(*(np.concatenate([m.pooled[kind, k] for m in long]) for kind in (mode, TRUTH)))
                  for k in steps}
        for k in steps:
            rows.append({"mode": mode, "time_s": k / protocol.rate_hz, "frechet": values[k],
                         "over_that_at_4_s": values[k] / values[base] if values.get(base) else None,
                         "starts": len(long), "images": sum(len(m.pooled[mode, k]) for m in long)})
    return rows


# --- tables -------------------------------------------------------------------------------------------------------


def tables(measured: Sequence[Measured], protocol: WorldProtocol) -> dict[str, Records]:
    """All tables of a run, by name; every value with its interval."""
    rows, draws = with_margins(row for m in measured for row in m.rows), protocol.bootstrap
    horizons = set(protocol.read_at_s)
    read = [r for r in rows if r["time_s"] in horizons or r["step"] == 0]
    seen = estimates(read, ("mode", "time_s"), SEEN, draws)
    for (mode, step), found in iou_estimates(measured, draws).items():
        if step / protocol.rate_hz in horizons:
            seen[mode, step / protocol.rate_hz] = found | seen.get((mode, step / protocol.rate_hz), {})
    out = {"frames": records(("mode", "time_s"), estimates(read, ("mode", "time_s"), FRAMES, draws)),
           "seen_by_the_probe": records(("mode", "time_s"), seen),
           "action_told": records(("mode", "time_s"), estimates(rows, ("mode", "time_s"), TOLD, draws)),
           "action_told_by_action": records(("mode", "action", "time_s"), estimates(
               [r for r in rows if r["time_s"] in SHORTLY_S], ("mode", "action", "time_s"),
               {k: TOLD[k] for k in ("told", "told_or_same_path", "path_ade_m")}, draws)),
           "actions_blocked": records(("action",), estimates(rows, ("action",), BLOCKED, draws)),
           "agents_motion": records(("mode", "time_s"), estimates(rows, ("mode", "time_s"), AGENTS, draws)),
           "path_read": records(("mode", "time_s"), estimates(
               read, ("mode", "time_s"), {"ade_m": ("path_ade_m", None)}, draws)),
           "drift": drift(measured, protocol),
           "context_lengths": context_lengths(rows, protocol),
           "code_length": records(("mode",), estimates(rows, ("mode",), CODE, draws)),
           "cameras_away": records(("mode", "cameras", "time_s"), estimates(
               [r for r in read if "cameras" in r], ("mode", "cameras", "time_s"), CAMERAS, draws)),
           "by_stratum": records(("mode", "stratum", "time_s"), estimates(
               [r for r in read if r["time_s"] in SHORTLY_S and r["mode"] in MODES], ("mode", "stratum", "time_s"),
               {k: FRAMES[k] for k in ("psnr_db", "over_copy_db")}, draws))}
    return {name: found for name, found in out.items() if found}


def context_lengths(rows: Sequence[Row], protocol: WorldProtocol) -> Records:
    """Quality at 1, 4 and 16 times the context that training used."""
    at = {times * protocol.training_context_s: times for times in (1, 4, 16)}
    some = [{**r, "times": at[r["time_s"]]} for r in rows if r["time_s"] in at]
    whole = {r["start"] for r in some if r["times"] == 16}
    chosen = [r for r in some if r["start"] in whole]
    metrics = {k: FRAMES[k] for k in ("psnr_db", "over_copy_db", "ssim")} | {"agents_kept": SEEN["agents_kept"]}
    return records(("mode", "times"), estimates(chosen, ("mode", "times"), metrics, protocol.bootstrap))


def records(keys: Sequence[str], found: Mapping[tuple[Any, ...], Mapping[str, Estimate]]) -> Records:
    """Rows of plain values: a metric, its _low and _high, and from how many logs; None where a row lacks one."""
    names = max((list(values) for values in found.values()), key=len, default=[])
    out = []
    for group, values in found.items():
        row: Row = dict(zip(keys, group))
        for name in names:
            one = values.get(name)
            row |= {name: one and one.value, f"{name}_low": one and one.low, f"{name}_high": one and one.high}
        row["logs"] = max((one.logs for one in values.values()), default=0)
        out.append(row)
    return out


def shown(table: Records) -> Records:
    """A table without its intervals, as it is printed."""
    return [{k: v for k, v in row.items() if not k.endswith(("_low", "_high"))} for row in table]

