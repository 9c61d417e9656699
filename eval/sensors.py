"""What the planner's cameras show while the ego goes its own way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np

from drive_wm.geometry import interpolate_poses, relative_xyyaw, xyyaw_from_pose
from drive_wm.planners.registry import make
from drive_wm.types import ByteArray, FloatArray, FrameError, InputError, IntArray, Log, Rig

if TYPE_CHECKING:
    from drive_wm.render import AgentBoxes

MAX_DEVIATION_M, MAX_DEVIATION_RAD = 2.0, np.deg2rad(15.0)
RENDERERS: dict[str, str] = {
    "recorded": "drive_wm.eval.sensors:RecordedSensors",
    "layout": "drive_wm.eval.sensors:LayoutSensors",
    "world": "drive_wm.eval.world_sensors:WorldModelSensors",
}


class SensorRenderer(ABC):
    """Camera images from where the ego is. A camera that has none is absent from the answer."""

    name: ClassVar[str] = ""

    @abstractmethod
    def reset(self, log: Log, rig: Rig, history_timestamps_us: IntArray, seed: int) -> None:
        """Before a drive: the log, the cameras wanted and the times (T,) of the planner's past, the newest is now."""

    @abstractmethod
    def render(self, timestamp_us: int, world_from_rig: FloatArray, agents: AgentBoxes,
               signal_states: Mapping[str, int], action: FloatArray | None) -> tuple[dict[str, ByteArray], bool]:
        """camera -> (H, W, 3) RGB from the pose (4, 4), and whether they can be trusted.

        action: (2,) mean speed_mps and curvature_inv_m that led here from the image before; times come in order.
        """

    def history(self, log: Log, rig: Rig, history_timestamps_us: IntArray) -> list[dict[str, ByteArray]]:
        """The images of the T past times, the newest being now: the log's own, unless a renderer knows better."""
        return [recorded_frames(log, rig, int(t)) for t in history_timestamps_us]


def make_renderer(name_or_path: str, **options: Any) -> SensorRenderer:
    """A renderer by name, ``package.module:Class`` or ``file.py:Class``."""
    renderer: SensorRenderer = make(name_or_path, RENDERERS, SensorRenderer, "renderer", "drive_wm.renderers", options)
    return renderer


class RecordedSensors(SensorRenderer):
    """The log's images, whatever the ego does; to be trusted only within 2 m and 15 degrees of the log."""

    name = "recorded"

    def reset(self, log: Log, rig: Rig, history_timestamps_us: IntArray, seed: int) -> None:
        self._log, self._rig = log, rig

    def render(self, timestamp_us: int, world_from_rig: FloatArray, agents: AgentBoxes,
               signal_states: Mapping[str, int], action: FloatArray | None) -> tuple[dict[str, ByteArray], bool]:
        frames = recorded_frames(self._log, self._rig, timestamp_us)
        pose, known = interpolate_poses(self._log.ego, np.array([timestamp_us]))
        gap = relative_xyyaw(xyyaw_from_pose(pose[0]), xyyaw_from_pose(world_from_rig))
        near = np.hypot(gap[0], gap[1]) <= MAX_DEVIATION_M and abs(gap[2]) <= MAX_DEVIATION_RAD
        return frames, bool(known[0] and near and len(frames) == len(self._rig.cameras))


class LayoutSensors(SensorRenderer):
    """The log's map and the agents drawn from where the ego is: the reference. ``style`` "picture" or "layout".

    Not to be trusted from within a building, where no car can be.
    """

    name = "layout"

    def __init__(self, style: str = "picture") -> None:
        self.style = style

    def reset(self, log: Log, rig: Rig, history_timestamps_us: IntArray, seed: int) -> None:
        from drive_wm.render import Renderer

        if log.map is None:
            raise InputError(f"log {log.id} has no map to draw; use the renderer 'recorded' or 'world'")
        self._renderer, self._rig = Renderer(log.map, log.look, log.signals), rig
        houses = [p for p in log.map.props if p.kind == "building"]
        self._houses = np.array([[p.position_m[0], p.position_m[1], p.yaw_rad] for p in houses]).reshape(-1, 3)
        self._half_m = np.array([p.size_lwh_m[:2] / 2 for p in houses]).reshape(-1, 2)

    def render(self, timestamp_us: int, world_from_rig: FloatArray, agents: AgentBoxes,
               signal_states: Mapping[str, int], action: FloatArray | None) -> tuple[dict[str, ByteArray], bool]:
        frames = self._renderer.draw(self._rig, world_from_rig, agents, signal_states, self.style)
        inside = np.abs(relative_xyyaw(self._houses, xyyaw_from_pose(world_from_rig))[:, :2]) < self._half_m
        return frames, not inside.all(1).any()

    def history(self, log: Log, rig: Rig, history_timestamps_us: IntArray) -> list[dict[str, ByteArray]]:
        from drive_wm.render import agents_at, signals_at

        poses, _ = interpolate_poses(log.ego, history_timestamps_us)
        return [self.render(int(t), pose, agents_at(log, int(t)), signals_at(log, int(t)), None)[0]
                for t, pose in zip(history_timestamps_us, poses)]


def recorded_frames(log: Log, rig: Rig, timestamp_us: int) -> dict[str, ByteArray]:
    """Each camera's image nearest in time, within half its period, at the rig's size; a missing one is left out."""
    frames: dict[str, ByteArray] = {}
    for camera in rig.cameras:
        source = log.rig.camera(camera.name).resized(camera.width, camera.height)
        if not np.allclose(source.intrinsics, camera.intrinsics, rtol=0.02, atol=1.0):
            raise InputError(f"camera {camera.name} of rig {rig.name} does not see what the log's camera recorded: "
                             "other intrinsics; use the renderer 'layout' or 'world', or the log's rig resized")
        times = log.frames.timestamps_us(camera.name)
        if not len(times):
            continue
        nearest = int(times[np.argmin(np.abs(times - timestamp_us))])
        period = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
        if abs(nearest - timestamp_us) > period / 2 + 1:
            continue
        try:
            image = log.frames.read(camera.name, nearest)
        except FrameError:
            continue  # absent from the answer: the observation marks it as invalid
        size = (camera.width, camera.height)
        frames[camera.name] = image if image.shape[1::-1] == size else \
            np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return frames
