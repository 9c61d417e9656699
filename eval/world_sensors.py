"""The world model as the simulator's cameras: it imagines what the ego would see where it went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from drive_wm.eval.action_check import ActionCheck, alternative_poses, alternatives, identified
from drive_wm.eval.sensors import SensorRenderer
from drive_wm.geometry import interpolate_poses, pose_from_xyyaw, xyyaw_from_pose
from drive_wm.reproject import draw_known
from drive_wm.types import BoolArray, ByteArray, FloatArray, IntArray, Log, Rig, RoadMap

if TYPE_CHECKING:
    from drive_wm.render import AgentBoxes, Renderer

TRUSTED_STEPS = 8  # where no truth can be drawn: the horizon the model was trained on


class WorldModelSensors(SensorRenderer):
    """Continues the log's own past under the actions the ego takes, with the layout given.

    A step is trusted while the front camera's frames obey the actions (see action_check), and where no truth of other
    actions can be drawn (recorded images) for the first TRUSTED_STEPS steps.
    """

    name: ClassVar[str] = "world"

    def __init__(self, checkpoint: str = "tiny", passes: int = 4) -> None:
        from drive_wm.model import DriveWM, Sampling

        self.model, self.sampling = DriveWM.from_pretrained(checkpoint), Sampling(passes=passes)

    def reset(self, log: Log, rig: Rig, history_timestamps_us: IntArray, seed: int) -> None:
        from drive_wm.datasets.clips import make_clip, nearest_agents
        from drive_wm.render import Renderer

        self._own, self._rig = self.model.rig_for(rig), rig
        steps = len(history_timestamps_us)
        rate = 1e6 / float(np.diff(history_timestamps_us).mean()) if steps > 1 else self.model.config.rate_hz
        clip = make_clip(log, int(history_timestamps_us[0]), steps, rate, rig=self._own, layout=True)
        clip = nearest_agents(clip, self.model.config.world.agents, steps - 1)
        self._slots = list(clip.agent_ids)
        self._stream = self.model.read(clip)
        self._generator = torch.Generator().manual_seed(seed % 2**31)
        known = log.map is not None or bool(log.tracks)
        self._renderer: Renderer | None = Renderer(log.map or RoadMap("none"), log.look, log.signals) if known else None
        self._reference = log.frames.rendered and log.map is not None
        self._index = 0
        self._check = ActionCheck()
        self._before = xyyaw_from_pose(interpolate_poses(log.ego, history_timestamps_us[-1:])[0][0])
        front = max(self._own.cameras, key=lambda c: float(c.rig_from_camera[0, 2]))
        self._front = replace(self._own, cameras=(front,))
        self._places: dict[str, FloatArray] = {}  # where each agent was a step ago, for its velocity
        self._step_s = 1 / rate

    def render(self, timestamp_us: int, world_from_rig: FloatArray, agents: AgentBoxes,
               signal_states: Mapping[str, int], action: FloatArray | None) -> tuple[dict[str, ByteArray], bool]:
        self._index += 1
        slots = self._in_slots(agents, world_from_rig)
        drawn = None
        if self._renderer:
            drawn = draw_known(self._renderer, self._own, world_from_rig, agents, signal_states, self._slots)
        self._stream, step = self.model.advance(
            self._stream, np.zeros(2) if action is None else action, self._index, self._generator,
            self.sampling, None if drawn is None else (lambda *_: drawn), slots)
        frames = dict(step.frames)
        taken = np.zeros(2) if action is None else action
        return self._to_rig(frames), self._trusted(frames, world_from_rig, agents, signal_states, taken)

    def _in_slots(self, agents: AgentBoxes, world_from_rig: FloatArray) -> tuple[FloatArray, BoolArray]:
        """Boxes -> (A, 12) and (A,); an agent keeps its slot, a newcomer takes that of one gone, nearest first."""
        from drive_wm.geometry import inverse_pose, transform_points
        from drive_wm.types import CATEGORIES

        local = transform_points(inverse_pose(world_from_rig), agents.xyzyaw[:, :3])
        distance = np.hypot(local[:, 0], local[:, 1])
        order = [i for i in np.argsort(distance, kind="stable") if distance[i] < 60.0]
        here = {agents.ids[i] for i in order}
        free = [s for s, name in enumerate(self._slots) if name not in here]
        rows, valid = np.zeros((len(self._slots), 12)), np.zeros(len(self._slots), bool)
        for i in order:
            if agents.ids[i] not in self._slots:
                if not free:
                    continue
                self._slots[free.pop(0)] = agents.ids[i]
            slot = self._slots.index(agents.ids[i])
            yaw = agents.xyzyaw[i, 3] - xyyaw_from_pose(world_from_rig)[2]
            moved = agents.xyzyaw[i, :2] - self._places.get(agents.ids[i], agents.xyzyaw[i, :2])
            velocity = world_from_rig[:2, :2].T @ moved / self._step_s
            category = CATEGORIES.index(agents.categories[i])
            rows[slot] = [*local[i, :2], yaw, *velocity, *agents.lwh_m[i], category, *agents.colors[i]]
            valid[slot] = True
        self._places = {name: agents.xyzyaw[i, :2] for i, name in enumerate(agents.ids)}
        return rows, valid

    def _to_rig(self, frames: dict[str, ByteArray]) -> dict[str, ByteArray]:
        import cv2

        out: dict[str, ByteArray] = {}
        for camera in self._rig.cameras:
            image = frames[camera.name]
            same = image.shape[:2] == (camera.height, camera.width)
            out[camera.name] = image if same else np.asarray(cv2.resize(image, (camera.width, camera.height)), np.uint8)
        return out

    def _trusted(self, frames: dict[str, ByteArray], pose: FloatArray, agents: AgentBoxes,
                 signal_states: Mapping[str, int], action: FloatArray) -> bool:
        before, self._before = self._before, xyyaw_from_pose(pose)
        if not self._reference or self._renderer is None:
            return self._index <= TRUSTED_STEPS
        others = alternative_poses(before, alternatives(action)[1:], self._step_s)
        poses = [pose, *(pose_like(pose, other) for other in others)]
        name = self._front.names[0]
        truths = [self._renderer.draw(self._front, p, agents, signal_states, "picture")[name] for p in poses]
        return self._check.trusted(identified(frames[name], truths))


def pose_like(pose: FloatArray, xyyaw: FloatArray) -> FloatArray:
    """(4, 4) at another x, y, yaw with the height, roll and pitch of ``pose``."""
    turn = pose_from_xyyaw(np.array([0.0, 0.0, xyyaw[2] - xyyaw_from_pose(pose)[2]]))
    out: FloatArray = turn @ pose
    out[:2, 3] = xyyaw[:2]
    out[2, 3] = pose[2, 3]
    return out
