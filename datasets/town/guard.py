"""What a drive must not hold, looked for once it is run; a seed's log is its first drive without any of it.

The simulation is made so that none of this happens. Where it still does, the seed draws another town.
"""

from __future__ import annotations

import numpy as np

from drive_wm.datasets.town import cast, streets
from drive_wm.datasets.town.drive import Drive, prepare
from drive_wm.datasets.town.rules import RED
from drive_wm.datasets.town.simulation import IN_SIGHT_M
from drive_wm.geometry import box_corners, points_in_polygon
from drive_wm.types import BoolArray, FloatArray

ATTEMPTS = 12
NEAR_M = IN_SIGHT_M - 4.0


def drawn(seed: int, duration_s: float) -> Drive:
    """The first drive of a seed without faults, run; the last one if none of ATTEMPTS is without."""
    for attempt in range(ATTEMPTS):
        drive = prepare(seed, duration_s, attempt).run()
        if not faults(drive):
            break
    return drive


def faults(drive: Drive) -> list[str]:
    """What went wrong in a drive that was run, in words."""
    checks = (("overlap", bool(drive.tracks[1])), ("red light", _runs_red(drive)), ("appearance", _appears(drive)),
              ("end of the way", _runs_out(drive)))
    return [name for name, found in checks if found] or (["off road"] if _off_road(drive) else [])


def _runs_red(drive: Drive) -> bool:
    """Whether the ego's front comes over a line whose light is red in that step."""
    sim = drive.simulation
    for n, (since, way) in enumerate(sim.taken):
        until = sim.taken[n + 1][0] if n + 1 < len(sim.taken) else sim.steps
        begin = max(since, drive.first)
        front = sim.record.s[begin:until, 0] + sim.front[0]
        for event in way.events:
            c = sim.roads.network.connectors[event.connector]
            over = np.flatnonzero((front[:-1] <= event.stop_m) & (front[1:] > event.stop_m))
            if len(over) and c.junction in sim.phases and not c.slip:
                states = sim.phases[c.junction].states[begin + over[0] : begin + over[0] + 2, c.axis]
                if (states == RED).any():
                    return True
    return False


def _appears(drive: Drive) -> bool:
    """Whether a vehicle begins or ceases to be near the ego while the log runs."""
    record = drive.simulation.record
    there, xy = record.active[drive.first :, 1:], record.xy[drive.first :, 1:]
    away = np.hypot(*np.moveaxis(xy - record.xy[drive.first :, :1], -1, 0))
    changes = there[1:] != there[:-1]
    return bool((changes & (np.where(there[1:], away[1:], away[:-1]) < NEAR_M)).any())


def _runs_out(drive: Drive) -> bool:
    sim = drive.simulation
    return bool(sim.state.s[0] + sim.front[0] > sim.length[0] - 1.0)


def _off_road(drive: Drive) -> bool:
    """Whether a corner of the ego's box leaves the drivable area."""
    length, width, _ = cast.EGO_LWH_M
    corners = box_corners(drive.ego_center, np.array(length), np.array(width)).reshape(-1, 2)
    road = streets.map_of(drive.simulation.roads.network)
    return bool(_outside(corners, [ring[:, :2] for ring in road.drivable]).any())


def _outside(points: FloatArray, polygons: list[FloatArray]) -> BoolArray:
    """(N,) points that are in none of the polygons."""
    left = np.ones(len(points), bool)
    for polygon in polygons:
        low, high = polygon.min(0), polygon.max(0)
        near = np.flatnonzero(left & (points >= low).all(1) & (points <= high).all(1))
        left[near[points_in_polygon(points[near], polygon)]] = False
    return left
