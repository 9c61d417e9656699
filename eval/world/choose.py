"""How the starts of ``world@1.0`` were chosen: ``python -m drive_wm.eval.world.choose FILE`` writes the list anew.

Test seeds are walked in order. A drive's moments from 3 to 7 s, every half second, qualify where the ego moves then and on
average over the next 4 s. The first moment that fits the stratum which still has the fewest starts is taken.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from drive_wm.datasets.town import GENERATOR_VERSION, generate
from drive_wm.eval.world.protocol import PROTOCOL, STRATA
from drive_wm.geometry import interpolate_poses, points_in_polygon
from drive_wm.render import agents_at
from drive_wm.types import FloatArray, Log

FIRST_SEED, EACH = 110_000, 40
MOMENTS_S = np.arange(3.0, 7.01, 0.5)
DENSE, DENSE_M = 8, 40.0  # so many moving agents within that


def choose() -> list[tuple[int, float, str, float]]:
    """(seed, start_s, stratum, speed_mps), strata taking turns."""
    found: dict[str, list[tuple[int, float, str, float]]] = {name: [] for name in STRATA}
    seed = FIRST_SEED
    while any(len(rows) < EACH for rows in found.values()):
        row = start_in(generate(seed, duration_s=PROTOCOL.drive_s), seed,
                       sorted((n for n in STRATA if len(found[n]) < EACH), key=lambda n: (len(found[n]), STRATA.index(n))))
        if row is not None:
            found[row[2]].append(row)
        seed += 1
    return [found[name][i] for i in range(EACH) for name in STRATA]


def start_in(log: Log, seed: int, wanted: list[str]) -> tuple[int, float, str, float] | None:
    """The first moment for the first stratum of ``wanted`` that this drive has any of."""
    moments = [(float(s), *motion(log, float(s))) for s in MOMENTS_S]
    moving = [(s, now) for s, now, mean in moments if min(now, mean) >= PROTOCOL.moving_mps]
    for stratum in wanted:
        for start_s, speed in moving:
            if belongs(log, start_s, stratum):
                return seed, start_s, stratum, round(speed, 2)
    return None


def motion(log: Log, start_s: float) -> tuple[float, float]:
    """Speed over the step that led here, and on average over the next 4 s, m/s."""
    now = log.start_us + int(start_s * 1e6)
    at = now + np.array([-int(1e6 / PROTOCOL.rate_hz), 0, int(PROTOCOL.horizon_s * 1e6)])
    xy = interpolate_poses(log.ego, at)[0][:, :2, 3]
    moved = np.hypot(*np.diff(xy, axis=0).T)
    return float(moved[0] * PROTOCOL.rate_hz), float(moved[1] / PROTOCOL.horizon_s)


def belongs(log: Log, start_s: float, stratum: str) -> bool:
    now = log.start_us + int(start_s * 1e6)
    if stratum == "night":
        return log.look.night
    if stratum == "rain":
        return log.look.weather == "rain" and not log.look.night
    if stratum == "day":
        return log.look.weather != "rain" and not log.look.night
    times = now + np.arange(0, int(PROTOCOL.horizon_s * 1e6) + 1, 250_000)
    path = interpolate_poses(log.ego, times)[0][:, :2, 3]
    if stratum == "junction":
        return log.map is not None and any(points_in_polygon(path, area).any() for area in log.map.intersections)
    return _moving_near(log, now, path[0]) >= DENSE


def _moving_near(log: Log, now: int, xy: FloatArray) -> int:
    here, later = agents_at(log, now), agents_at(log, now + 1_000_000)
    after = {name: later.xyzyaw[i, :2] for i, name in enumerate(later.ids)}
    near = np.hypot(*(here.xyzyaw[:, :2] - xy).T) < DENSE_M
    return sum(bool(near[i]) and name in after and float(np.hypot(*(after[name] - here.xyzyaw[i, :2]))) > 0.5
               for i, name in enumerate(here.ids))


if __name__ == "__main__":
    rows = choose()
    lines = ",\n".join("  " + json.dumps(row) for row in rows)
    Path(sys.argv[1]).write_text(f'{{"town_version": {json.dumps(GENERATOR_VERSION)}, "starts": [\n{lines}\n]}}\n')
