"""The CAN bus files of a nuScenes scene, derived from the ego's poses alone.

What a path does not tell (pedals, torque, battery, solar cells) is 0. Speeds, accelerations and turning rates are in
the rig frame, as nuScenes has them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.geometry import inverse_pose, quaternion_from_rotation, rotation_from_quaternion
from drive_wm.types import FloatArray, IntArray, Poses

WHEELBASE_M = 2.588  # Renault Zoe, the car of nuScenes
STEERING_RATIO = 15.0  # steering wheel over road wheel: the files hold the wheel in the driver's hands
WHEEL_RADIUS_M = 0.305


def motion(ego: Poses) -> dict[str, FloatArray]:
    """velocity, accel, rotation_rate (N, 3) in the rig frame at the times of ``ego``, by second-order differences."""
    n = len(ego)
    if n < 2:
        return {key: np.zeros((n, 3)) for key in ("velocity", "accel", "rotation_rate")}
    times_s = (ego.timestamps_us - ego.timestamps_us[0]) / 1e6
    rotation = ego.world_from_body[:, :3, :3]
    to_rig = np.swapaxes(rotation, 1, 2)
    velocity = np.gradient(ego.world_from_body[:, :3, 3], times_s, axis=0)
    accel = np.gradient(velocity, times_s, axis=0)
    spin = to_rig @ np.gradient(rotation, times_s, axis=0)  # R^T dR/dt is the cross-product matrix of the turning rate
    rate = np.stack([spin[:, 2, 1] - spin[:, 1, 2], spin[:, 0, 2] - spin[:, 2, 0], spin[:, 1, 0] - spin[:, 0, 1]], -1)
    return {"velocity": (to_rig @ velocity[..., None])[..., 0], "accel": (to_rig @ accel[..., None])[..., 0],
            "rotation_rate": rate / 2}


def _at(values: FloatArray, times_us: IntArray, at_us: IntArray) -> FloatArray:
    return np.stack([np.interp(at_us, times_us, column) for column in values.T], -1)


def can_messages(ego: Poses) -> dict[str, Any]:
    """Message name -> what its file holds, for the whole of ``ego`` (valid poses only)."""
    start, end = int(ego.timestamps_us[0]), int(ego.timestamps_us[-1])
    moving = motion(ego)

    def sample(rate_hz: float) -> tuple[IntArray, FloatArray, FloatArray, FloatArray]:
        at = start + np.round(np.arange(0.0, (end - start) / 1e6 + 1e-9, 1.0 / rate_hz) * 1e6).astype(np.int64)
        return at, *(np.round(_at(moving[k], ego.timestamps_us, at), 6) for k in ("velocity", "accel", "rotation_rate"))

    at, velocity, accel, rate = sample(100.0)
    quaternions = _orientation(ego, at)
    speed = velocity[:, 0]
    curvature = np.where(np.abs(speed) > 0.2, rate[:, 2] / np.where(np.abs(speed) > 0.2, speed, 1.0), 0.0)
    wheel = np.round(np.arctan(WHEELBASE_M * curvature) * STEERING_RATIO, 6)
    odometer = np.concatenate([[0.0], np.cumsum(np.abs(speed[:-1]) * 0.01)])
    gravity = inverse_pose(ego.world_from_body)[:, :3, 2] * 9.81
    felt = np.round(accel + _at(gravity, ego.timestamps_us, at), 6)
    messages: dict[str, Any] = {
        "ms_imu": [{"linear_accel": f, "q": q, "rotation_rate": r, "utime": t} for f, q, r, t in
                   zip(felt.tolist(), quaternions.tolist(), rate.tolist(), at.tolist(), strict=True)],
        "steeranglefeedback": [{"utime": t, "value": w} for t, w in zip(at.tolist(), wheel.tolist(), strict=True)],
        "zoe_veh_info": [_zoe(*row) for row in zip(at.tolist(), speed.tolist(), accel.tolist(), wheel.tolist(),
                                                   odometer.tolist(), strict=True)],
        "zoesensors": [{"brake_sensor": 0.0, "steering_sensor": w, "throttle_sensor": 0.0, "utime": t}
                       for t, w in zip(at.tolist(), wheel.tolist(), strict=True)],
        "vehicle_monitor": [_monitor(at[i], speed[i], accel[i, 0], rate[i, 2], wheel[i])
                            for i in range(0, len(at), 50)],
    }
    half = slice(0, None, 2)  # pose runs at 50 Hz
    position = _at(ego.world_from_body[:, :3, 3], ego.timestamps_us, at[half])
    rows = zip(at[half].tolist(), position.tolist(), quaternions[half].tolist(), velocity[half].tolist(),
               accel[half].tolist(), rate[half].tolist(), strict=True)
    messages["pose"] = [{"accel": a, "orientation": q, "pos": p, "rotation_rate": r, "utime": t, "vel": v}
                        for t, p, q, v, a, r in rows]
    messages["meta"] = {name: _stats(rows) for name, rows in messages.items()}
    messages["route"] = position[::5, :2].tolist()
    return messages


def _orientation(ego: Poses, at_us: IntArray) -> FloatArray:
    """(M, 4) w x y z: quaternions of neighbouring poses blended linearly and normalised."""
    q = quaternion_from_rotation(ego.world_from_body[:, :3, :3])
    for i in range(1, len(q)):
        q[i] *= 1.0 if q[i] @ q[i - 1] >= 0 else -1.0
    blended = _at(q, ego.timestamps_us, at_us)
    return np.round(quaternion_from_rotation(rotation_from_quaternion(blended)), 9)


def _zoe(utime: int, speed: float, accel: list[float], wheel: float, odometer: float) -> dict[str, float]:
    rpm = round(speed / (2 * np.pi * WHEEL_RADIUS_M) * 60, 4)
    wheels = {f"{corner}_wheel_speed": rpm for corner in ("FL", "FR", "RL", "RR")}
    unknown = dict.fromkeys(("left_solar", "meanEffTorque", "pedal_cc", "regen", "requestedTorqueAfterProc",
                             "right_solar", "steer_offset_can"), 0.0)
    degrees = round(float(np.degrees(wheel)), 4)
    return {**wheels, **unknown, "longitudinal_accel": accel[0], "transversal_accel": accel[1],
            "odom": round(odometer, 4), "odom_speed": round(speed * 3.6, 4), "steer_corrected": degrees,
            "steer_raw": degrees, "utime": utime}


def _monitor(utime: int, speed: float, accel: float, yaw_rate: float, wheel: float) -> dict[str, float]:
    unknown = dict.fromkeys(("available_distance", "battery_level", "brake", "left_signal", "right_signal",
                             "steering_speed", "throttle"), 0)
    rpm = round(float(speed) / (2 * np.pi * WHEEL_RADIUS_M) * 60, 4)
    return {**unknown, "brake_switch": int(accel < -0.5), "gear_position": 7, "rear_left_rpm": rpm,
            "rear_right_rpm": rpm, "steering": round(float(np.degrees(wheel)), 4), "utime": int(utime),
            "vehicle_speed": round(float(speed) * 3.6, 4), "yaw_rate": round(float(np.degrees(yaw_rate)), 4)}


def _stats(messages: list[dict[str, Any]]) -> dict[str, Any]:
    span_s = (messages[-1]["utime"] - messages[0]["utime"]) / 1e6
    stats: dict[str, Any] = {"message_count": len(messages), "timespan": span_s,
                             "message_freq": (len(messages) - 1) / span_s if span_s else 0.0}
    for key in messages[0]:
        if key != "utime":
            values = np.array([message[key] for message in messages], dtype=np.float64)
            stats[key] = {name: np.round(getattr(values, name)(0), 6).tolist()
                          for name in ("min", "max", "mean", "std")}
    return {"vars": stats, **{k: stats.pop(k) for k in ("message_count", "timespan", "message_freq")}}


def write_can(ego: Poses, folder: Path, scene: str) -> None:
    """The eight files ``<scene>_<message>.json`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in can_messages(ego).items():
        (folder / f"{scene}_{name}.json").write_text(json.dumps(content))
