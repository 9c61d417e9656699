"""The ego's body: a rear-axle kinematic bicycle with lagging actuators and an LQR tracker, as in nuPlan and NAVSIM.

Everything is batched over leading axes (...), so that many candidates can be rolled out at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from drive_wm.geometry import compose_xyyaw, wrap_angle
from drive_wm.types import FloatArray, InputError, Trajectory, Vehicle

STEP_S = 0.1
VEHICLES: dict[str, Vehicle] = {
    "pacifica": Vehicle("pacifica", 3.089, 2.297, 4.049, 1.127),
    "zoe": Vehicle("zoe", 2.588, 1.730, 3.427, 0.657),  # 4.084 x 1.730, the car that drove nuScenes
}
MAX_STEER_RAD = np.pi / 3
ACCEL_LAG_S, STEER_LAG_S = 0.2, 0.05
HORIZON = 10  # steps of the tracker
Q_LON, R_LON = 10.0, 1.0
Q_LAT, R_LAT = np.diag([1.0, 10.0, 0.0]), 1.0
JERK_PENALTY, CURVATURE_RATE_PENALTY = 1e-4, 1e-2
STOP_GAIN, STOP_SPEED_MPS = 0.5, 0.2


def make_vehicle(name: str) -> Vehicle:
    if name not in VEHICLES:
        raise InputError(f"unknown vehicle {name!r}, expected one of {', '.join(VEHICLES)}")
    return VEHICLES[name]


@dataclass(frozen=True)
class EgoState:
    """xyyaw: (..., 3) rear axle in the world; speed_mps, accel_mps2, steer_rad: (...)."""

    xyyaw: FloatArray
    speed_mps: FloatArray
    accel_mps2: FloatArray
    steer_rad: FloatArray


@dataclass(frozen=True)
class Reference:
    """What the tracker follows: xyyaw (..., N+1, 3) world at steps of STEP_S; speed and curvature (..., N) fitted."""

    xyyaw: FloatArray
    speed_mps: FloatArray
    curvature_inv_m: FloatArray


def reference_from_trajectory(origin_xyyaw: FloatArray, trajectory: Trajectory) -> Reference:
    """A trajectory planned at ``origin_xyyaw`` (3,), linearly interpolated from there on, and its fitted profile."""
    count = int(trajectory.times_s[-1] / STEP_S + 1e-6)
    at = np.arange(count + 1) * STEP_S
    times = np.concatenate([[0.0], trajectory.times_s])
    points = np.concatenate([np.zeros((1, 3)), trajectory.xyyaw])
    points[:, 2] = np.unwrap(points[:, 2])
    local = np.stack([np.interp(at, times, points[:, d]) for d in range(3)], -1)
    return fit_reference(compose_xyyaw(origin_xyyaw, local))


def fit_reference(xyyaw: FloatArray) -> Reference:
    """Least-squares speed (jerk-penalised) and curvature (rate-penalised) of poses (..., N+1, 3)."""
    step = np.diff(xyyaw[..., :2], axis=-2)
    heading = xyyaw[..., :-1, 2]
    forward = step[..., 0] * np.cos(heading) + step[..., 1] * np.sin(heading)  # (..., N)
    smoother, rate = _penalties(forward.shape[-1])
    speed = forward / STEP_S @ smoother.T
    arc = speed * STEP_S
    turn = wrap_angle(np.diff(xyyaw[..., 2], axis=-1))
    normal = rate + (arc**2)[..., None] * np.eye(arc.shape[-1])
    curvature = np.linalg.solve(normal, (arc * turn)[..., None])[..., 0]
    return Reference(xyyaw, speed, curvature)


@lru_cache(maxsize=16)
def _penalties(count: int) -> tuple[FloatArray, FloatArray]:
    """The linear smoother of speeds (N, N), and the penalty matrix of curvature rates (N, N)."""
    accel = np.diff(np.eye(count), axis=0) / STEP_S
    jerk = np.diff(accel, axis=0)
    smoother = np.linalg.inv(STEP_S**2 * np.eye(count) + JERK_PENALTY * jerk.T @ jerk) * STEP_S**2
    return smoother, CURVATURE_RATE_PENALTY * accel.T @ accel + 1e-10 * np.eye(count)


def track(state: EgoState, reference: Reference, step: int, vehicle: Vehicle) -> tuple[FloatArray, FloatArray]:
    """Commanded acceleration and steering rate (...) at ``step`` of the reference."""
    last = reference.speed_mps.shape[-1] - 1
    target = reference.speed_mps[..., min(step + HORIZON, last)]
    horizon_s = HORIZON * STEP_S
    accel = Q_LON * horizon_s * (target - state.speed_mps) / (R_LON + Q_LON * horizon_s**2)
    rate = _steering_rate(state, reference, step, accel, vehicle)
    stopping = (state.speed_mps <= STOP_SPEED_MPS) & (target <= STOP_SPEED_MPS)
    return (np.where(stopping, -STOP_GAIN * (state.speed_mps - target), accel), np.where(stopping, 0.0, rate))


def _steering_rate(state: EgoState, reference: Reference, step: int, accel: FloatArray, vehicle: Vehicle) -> FloatArray:
    """The rate which, held over the horizon, leaves the least lateral and heading error at its end (one-step LQR)."""
    here = reference.xyyaw[..., min(step, reference.xyyaw.shape[-2] - 1), :]
    gap = state.xyyaw - here
    lateral = -np.sin(here[..., 2]) * gap[..., 0] + np.cos(here[..., 2]) * gap[..., 1]
    k, last = np.arange(HORIZON), reference.curvature_inv_m.shape[-1] - 1
    arc = np.maximum(np.asarray(state.speed_mps)[..., None] + np.asarray(accel)[..., None] * k * STEP_S, 0.0) * STEP_S
    bend = arc * reference.curvature_inv_m[..., np.minimum(step + k, last)]  # (..., K)
    turn = arc / vehicle.wheelbase_m * np.asarray(state.steer_rad)[..., None] - bend
    heading = wrap_angle(gap[..., 2])[..., None] + np.cumsum(turn, -1)
    pushed = arc / vehicle.wheelbase_m * k * STEP_S  # what one unit of steering rate turns in each step
    push = np.cumsum(pushed, -1)
    error = np.stack([lateral + np.sum(arc * (heading - turn), -1), heading[..., -1], state.steer_rad], -1)
    end = np.sum(arc * (push - pushed), -1)
    gain = np.stack([end, push[..., -1], np.full_like(end, HORIZON * STEP_S)], -1)
    weighted = gain @ Q_LAT
    rate: FloatArray = -np.sum(weighted * error, -1) / (np.sum(weighted * gain, -1) + R_LAT)
    return rate


def bicycle_step(state: EgoState, accel_mps2: FloatArray, steer_rate: FloatArray, vehicle: Vehicle) -> EgoState:
    """One Euler step of the rear-axle bicycle; acceleration and steering follow their commands with first-order lag."""
    accel = state.accel_mps2 + STEP_S / (STEP_S + ACCEL_LAG_S) * (accel_mps2 - state.accel_mps2)
    steer = state.steer_rad + STEP_S / (STEP_S + STEER_LAG_S) * (steer_rate * STEP_S)
    v, yaw = state.speed_mps, state.xyyaw[..., 2]
    xyyaw = state.xyyaw + STEP_S * np.stack(
        [v * np.cos(yaw), v * np.sin(yaw), v * np.tan(state.steer_rad) / vehicle.wheelbase_m], -1)
    xyyaw[..., 2] = wrap_angle(xyyaw[..., 2])
    speed = v + STEP_S * accel
    stopped = (speed < 0.0) & (v >= 0.0)  # brakes hold a car, they do not push it back
    return EgoState(xyyaw, np.where(stopped, 0.0, speed), np.where(stopped, 0.0, accel),
                    np.clip(steer, -MAX_STEER_RAD, MAX_STEER_RAD))


def drive_step(state: EgoState, reference: Reference, step: int, vehicle: Vehicle, tracking: str = "lqr") -> EgoState:
    """From ``step`` of the reference to the next: "lqr" through the bicycle, "perfect" onto the reference itself."""
    if tracking == "lqr":
        return bicycle_step(state, *track(state, reference, step, vehicle), vehicle)
    if tracking != "perfect":
        raise InputError(f"tracking {tracking!r}, expected 'lqr' or 'perfect'")
    now = min(step + 1, reference.xyyaw.shape[-2] - 1)
    pose, before = reference.xyyaw[..., now, :], state.xyyaw
    move = pose - before
    speed = (move[..., 0] * np.cos(before[..., 2]) + move[..., 1] * np.sin(before[..., 2])) / STEP_S
    curvature = wrap_angle(move[..., 2]) / np.where(np.abs(speed) > 0.1, speed * STEP_S, np.inf)
    return EgoState(pose.copy(), speed, (speed - state.speed_mps) / STEP_S, np.arctan(vehicle.wheelbase_m * curvature))


def follow(state: EgoState, reference: Reference, steps: int, vehicle: Vehicle) -> tuple[FloatArray, ...]:
    """The tracker's drive along references (..., N+1, 3) from one state or a batch of them: xyyaw (..., S, 3), speed
    and acceleration (..., S), the first of S states being the start."""
    batch = reference.xyyaw.shape[:-2]
    driven = [EgoState(np.broadcast_to(state.xyyaw, (*batch, 3)), *(np.broadcast_to(v, batch) for v in (
        state.speed_mps, state.accel_mps2, state.steer_rad)))]
    for step in range(steps - 1):
        driven.append(drive_step(driven[-1], reference, step, vehicle))
    return (np.stack([s.xyyaw for s in driven], -2), np.stack([s.speed_mps for s in driven], -1),
            np.stack([s.accel_mps2 for s in driven], -1))


def braking_reference(state: EgoState, path_xy: FloatArray, decel_mps2: float = 4.0) -> Reference:
    """Stop along a path (N, 2) in the world that starts at the ego; straight on past its end."""
    speed = max(float(state.speed_mps), 0.0)
    at = np.arange(round(max(speed / decel_mps2, 1.0) / STEP_S) + HORIZON + 1) * STEP_S
    moving = np.minimum(at, speed / decel_mps2)
    arc = speed * moving - decel_mps2 * moving**2 / 2
    step = np.linalg.norm(np.diff(path_xy, axis=0), axis=1)
    path_xy = path_xy[np.concatenate([[True], step > 0.05])]
    if len(path_xy) < 2:
        path_xy = np.stack([state.xyyaw[:2], state.xyyaw[:2] + [np.cos(state.xyyaw[2]), np.sin(state.xyyaw[2])]])
    end = path_xy[-1] + 100.0 * (path_xy[-1] - path_xy[-2]) / np.linalg.norm(path_xy[-1] - path_xy[-2])
    line = np.concatenate([path_xy, end[None]])
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    xy = np.stack([np.interp(arc, length, line[:, d]) for d in range(2)], -1)
    course = np.unwrap(np.arctan2(*np.diff(line, axis=0)[:, ::-1].T))
    yaw = np.interp(arc, (length[1:] + length[:-1]) / 2, course)
    return fit_reference(np.concatenate([xy, wrap_angle(yaw)[:, None]], 1))
