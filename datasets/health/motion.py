"""How the ego moved, from its poses alone: speed, direction of travel, turning."""

from __future__ import annotations

import numpy as np

from drive_wm.geometry import xyyaw_from_pose
from drive_wm.types import BoolArray, FloatArray, IntArray, Log

SPEED_WINDOW_S = 0.1        # fast poses are noisy poses
ACCEL_WINDOW_US = 250_000   # shorter differences of differences measure the noise of the positions
MOVING_MPS = 2.0            # below it a direction of travel is not defined well


def valid_path(log: Log) -> tuple[IntArray, FloatArray]:
    """Times (N,) in microseconds and x, y, yaw (N, 3) of the valid poses."""
    return log.ego.timestamps_us[log.ego.valid], xyyaw_from_pose(log.ego.world_from_body[log.ego.valid])


def spaced(times_us: IntArray, step_us: int) -> IntArray:
    """Indices of samples at least ``step_us`` apart; a jump between two of them stays visible."""
    kept = [0] if len(times_us) else []
    for i in range(1, len(times_us)):
        if times_us[i] - times_us[kept[-1]] >= step_us:
            kept.append(i)
    return np.array(kept, dtype=np.int64)


def forward_speed(log: Log) -> FloatArray:
    """(N,) m/s at the ego's poses, between its neighbours at least SPEED_WINDOW_S apart; NaN where invalid."""
    times_us, path = valid_path(log)
    speed = np.full(len(log.ego), np.nan)
    if len(times_us) > 1:
        seconds = (times_us - times_us[0]) / 1e6
        half = max(SPEED_WINDOW_S / 2, float(np.median(np.diff(seconds))))
        start, end = np.maximum(seconds - half, 0.0), np.minimum(seconds + half, seconds[-1])
        moved = [np.interp(end, seconds, path[:, d]) - np.interp(start, seconds, path[:, d]) for d in (0, 1)]
        speed[log.ego.valid] = np.hypot(*moved) / (end - start)
    return speed


def velocity_at(log: Log) -> tuple[IntArray, FloatArray, FloatArray]:
    """Rows (M,) of poses at least ACCEL_WINDOW_US apart, their seconds (M,), velocity (M, 2) m/s world; M may be 0."""
    times_us, path = valid_path(log)
    few = spaced(times_us, ACCEL_WINDOW_US)
    if len(few) < 4:
        return np.zeros(0, np.int64), np.zeros(0), np.zeros((0, 2))
    seconds = (times_us[few] - times_us[0]) / 1e6
    return np.flatnonzero(log.ego.valid)[few], seconds, np.gradient(path[few, :2], seconds, axis=0)


def course_of(log: Log) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Direction of travel (N,) unwrapped, its rate (N,), and where the ego moves fast enough for both."""
    course, rate = np.full(len(log.ego), np.nan), np.full(len(log.ego), np.nan)
    moving = np.zeros(len(log.ego), dtype=bool)
    rows, seconds, velocity = velocity_at(log)
    fast = np.linalg.norm(velocity, axis=1) > MOVING_MPS
    if fast.sum() < 4:
        return course, rate, moving
    direction = np.unwrap(np.arctan2(velocity[:, 1], velocity[:, 0])[fast])
    course[rows[fast]], rate[rows[fast]] = direction, np.gradient(direction, seconds[fast])
    moving[rows[fast]] = True
    return course, rate, moving


def slip(log: Log) -> tuple[FloatArray, FloatArray]:
    """Speed to the left of the rig's origin (M,) m/s and turning (M,) rad/s where the ego moves.

    A point at the rear axle moves straight ahead; one that lies l ahead of it moves to the left by l times the turning.
    """
    rows, seconds, velocity = velocity_at(log)
    yaw = np.unwrap(xyyaw_from_pose(log.ego.world_from_body[rows])[:, 2])
    fast = np.linalg.norm(velocity, axis=1) > MOVING_MPS
    if fast.sum() < 4:
        return np.zeros(0), np.zeros(0)
    left = np.cos(yaw) * velocity[:, 1] - np.sin(yaw) * velocity[:, 0]
    return left[fast], np.gradient(yaw, seconds)[fast]


def column(log: Log, name: str) -> FloatArray:
    """(N,) of a column as the recorder reported it, NaN where it did not."""
    values = log.metadata.get("reported", {}).get(name)
    if values is None or len(values) != len(log.ego):
        return np.full(len(log.ego), np.nan)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
