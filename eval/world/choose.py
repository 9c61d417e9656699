"""How the starts of ``world@1.0`` were chosen: ``python -m drive_wm.eval.world.choose FILE`` writes the list anew.

Test seeds are walked in order. A drive's moments from 3 to 7 s, every half second, qualify where the ego moves then and
on average over the next 4 s. The first moment that fits the stratum which still has the fewest starts is taken.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from drive_wm.datasets.town import GENERATOR_VERSION, draw_look, generate
from drive_wm.eval.world.protocol import PROTOCOL, STRATA
from drive_wm.geometry import interpolate_poses, points_in_polygon
from drive_wm.render import agents_at
from drive_wm.types import FloatArray, Log, Look

FIRST_SEED, EACH = 110_000, 40
MOMENTS_S = np.arange(3.0, 7.01, 0.5)
DENSE, DENSE_M = 8, 40.0  # so many moving agents within that


def choose() -> list[tuple[int, float, str, float]]:
    """(seed, start_s, stratum, speed_mps), strata taking turns."""
    found: dict[str, list[tuple[int, float, str, float]]] = {name: [] for name in STRATA}
    seed = FIRST_SEED
    while any(len(rows) < EACH for rows in found.values()):
        look = draw_look(np.random.default_rng([seed, 2]), seed)  # as the town draws it, long before the drive is known
        wanted = sorted((n for n in STRATA if len(found[n]) < EACH and may_be(look, n)),
                        key=lambda n: (len(found[n]), STRATA.index(n)))
        row = start_in(generate(seed, duration_s=PROTOCOL.drive_s), seed, wanted) if wanted else None
        if row is not None:
            print(row, flush=True)
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


def may_be(look: Look, stratum: str) -> bool:
    """Whether a drive of that look can be of the stratum; junctions and dense traffic there are at any time."""
    kind = "night" if look.night else "rain" if look.weather == "rain" else "day"
    return stratum in (kind, "junction", "dense")


def belongs(log: Log, start_s: float, stratum: str) -> bool:
    now = log.start_us + int(start_s * 1e6)
    if not may_be(log.look, stratum):
        return False
    if stratum in ("day", "night", "rain"):
        return True
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


def module_of(rows: list[tuple[int, float, str, float]]) -> str:
    """The text of starts.py."""
    told = [f"({seed}, {start_s:g}, \"{stratum}\", {speed:g})" for seed, start_s, stratum, speed in rows]
    lines = ["    " + ", ".join(told[i:i + 3]) + "," for i in range(0, len(told), 3)]
    head = ('"""The frozen starts of ``world@1.0``: seed, start in seconds, stratum, the ego\'s speed in m/s. '
            'By choose.py."""')
    return "\n".join([head, "", f'TOWN_VERSION = "{GENERATOR_VERSION}"', "ROWS = (", *lines, ")", ""])


if __name__ == "__main__":
    rows = choose()
    Path(sys.argv[1]).write_text(module_of(rows))
