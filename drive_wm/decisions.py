"""A decision as seen from outside: what speeds and places amount to, by the thresholds of the town's labels.

The same rules read the path that was driven, a plan, and what would have been, so that words and deeds can be compared.
"""

from __future__ import annotations

import numpy as np

from drive_wm.geometry import project_to_polyline
from drive_wm.types import FloatArray, Trajectory

STANDING_MPS = 0.3
ACCEL_MPS2 = 0.4  # m/s2 beyond which the town's driver says that it speeds up or slows down
NUDGE_M, LANE_M, TURN_RAD = 0.35, 1.5, 0.5
OUTLOOK_S = 1.0
COURSES = ("hold", "stop", "slow down", "proceed", "speed up")
# what a stated decision may look like from outside: a leader, a light or right of way cannot be read from a path
COMPATIBLE = {
    "proceed": {"proceed"}, "speed up": {"speed up"}, "slow down": {"slow down", "stop"}, "stop": {"stop", "slow down"},
    "yield": {"slow down", "stop", "hold"}, "follow": {"proceed", "speed up", "slow down"}, "hold": {"hold"}}


def longitudinal_of(speeds_mps: FloatArray, times_s: FloatArray) -> str:
    """One of COURSES, from speeds (N,) at times (N,) that begin at 0 = now and go on for at least a second."""
    now, soon = (float(np.interp(t, times_s, speeds_mps)) for t in (0.0, OUTLOOK_S))
    if now < STANDING_MPS and soon < STANDING_MPS:
        return "hold"
    accel = (soon - now) / OUTLOOK_S
    if accel > ACCEL_MPS2:
        return "speed up"
    if now >= STANDING_MPS and float(np.min(speeds_mps)) < STANDING_MPS:
        return "stop"
    return "slow down" if accel < -ACCEL_MPS2 else "proceed"


def lateral_of(xyyaw: FloatArray, route: FloatArray) -> str:
    """One of LATERAL, from poses (N, 3) and the route (M, 2) in one frame: turns by heading, else by shifts off it."""
    turn = float(np.unwrap(xyyaw[:, 2])[-1] - xyyaw[0, 2])
    if abs(turn) > TURN_RAD:
        return "turn left" if turn > 0 else "turn right"
    aside = project_to_polyline(xyyaw[:, :2], route)[1] if len(route) > 1 else xyyaw[:, 1]
    shift = float(aside[-1] - aside[0])
    side = "left" if shift > 0 else "right"
    return f"change lane {side}" if abs(shift) > LANE_M else f"nudge {side}" if abs(shift) > NUDGE_M else "keep"


def course_of(actions: FloatArray, trajectory: Trajectory, speed_mps: float,
              route: FloatArray | None) -> tuple[str, str]:
    """Of a plan: one of COURSES, and one of LATERAL. actions (N, 2) of it; speed_mps: now; route (M, 2) ahead, or None
    for straight on."""
    times = np.concatenate([[0.0], trajectory.times_s])
    path = np.concatenate([np.zeros((1, 3)), trajectory.xyyaw])
    ahead = np.zeros((0, 2)) if route is None else np.concatenate([np.zeros((1, 2)), route])
    return longitudinal_of(np.concatenate([[speed_mps], actions[:, 0]]), times), lateral_of(path, ahead)


def agrees(stated: str, course: str) -> bool:
    """Whether a stated longitudinal decision can look like ``course``."""
    return course in COMPATIBLE[stated]
