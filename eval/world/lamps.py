"""Traffic lights as a camera sees them: which pixels show a lamp, and what state it has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from drive_wm.geometry import inverse_pose, transform_points
from drive_wm.render import SEMANTICS, Labels
from drive_wm.types import SIGNAL_STATES, BoolArray, Camera, FloatArray, Log

LAMP_STATES = ("green", "yellow", "red")
HEAD_M = 0.9  # half of what a head and its board span, [m]
FARTHEST_M, LEAST_PIXELS = 45.0, 3
FACING = 0.5  # cosine of the widest angle at which a lamp is still seen
_CLASS = SEMANTICS.index("traffic light")


@dataclass(frozen=True)
class Lamp:
    """A lamp in a picture. pixels: (H, W) that show its head. state: index into LAMP_STATES."""

    signal_id: str
    pixels: BoolArray
    state: int


def lamps_in(log: Log, camera: Camera, world_from_rig: FloatArray, labels: Labels, timestamp_us: int) -> Iterator[Lamp]:
    """The lit lamps whose head is in sight of the camera, seen from the side that it shows to traffic."""
    world_from_camera = world_from_rig @ camera.rig_from_camera
    camera_from_world = inverse_pose(world_from_camera)
    rows, columns = np.mgrid[: camera.height, : camera.width]
    for signal in log.signals:
        state = SIGNAL_STATES[signal.state_at(timestamp_us)]
        at = transform_points(camera_from_world, signal.position_m)
        if state not in LAMP_STATES or not 1.0 < at[2] < FARTHEST_M:
            continue
        towards = (world_from_camera[:2, 3] - signal.position_m[:2]) / max(
            float(np.hypot(*(world_from_camera[:2, 3] - signal.position_m[:2]))), 1e-6)
        if towards @ [np.cos(signal.yaw_rad), np.sin(signal.yaw_rad)] < FACING:
            continue
        u, v, _ = camera.intrinsics @ at / at[2]
        reach = max(1.5, camera.intrinsics[0, 0] * HEAD_M / at[2])
        near = (np.abs(columns + 0.5 - u) <= reach) & (np.abs(rows + 0.5 - v) <= reach)
        pixels = near & (labels.semantics == _CLASS) & (np.abs(labels.depth_m - at[2]) < 1.5)
        if pixels.sum() >= LEAST_PIXELS:
            yield Lamp(signal.id, pixels, LAMP_STATES.index(state))
