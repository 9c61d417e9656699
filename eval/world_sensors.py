"""The world model as the simulator's cameras: it imagines what the ego would see where it went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from drive_wm.eval.sensors import SensorRenderer
from drive_wm.types import BoolArray, ByteArray, FloatArray, IntArray, Log, Rig, RoadMap

if TYPE_CHECKING:
    from drive_wm.render import AgentBoxes, Renderer

TRUSTED_PSNR_DB = 14.0  # against the drawn reference, where there is one
TRUSTED_STEPS = 8  # beyond it, where there is none: the horizon the model was trained on


class WorldModelSensors(SensorRenderer):
    """Continues the log's own past under the actions the ego takes, with the layout given.

    A step is trusted while the images agree with the drawn reference (town, Argoverse), and where there is none
    (recorded images) for the first TRUSTED_STEPS steps.
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
        self._places: dict[str, FloatArray] = {}  # where each agent was a step ago, for its velocity
        self._step_s = 1 / rate

    def render(self, timestamp_us: int, world_from_rig: FloatArray, agents: AgentBoxes,
               signal_states: Mapping[str, int], action: FloatArray | None) -> tuple[dict[str, ByteArray], bool]:
        self._index += 1
        drawn = None
        if self._renderer:
            drawn = self._renderer.draw(self._own, world_from_rig, agents, signal_states, "layout")
        self._stream, step = self.model.advance(
            self._stream, self._own, np.zeros(2) if action is None else action, self._index, self._generator,
            self.sampling, None if drawn is None else (lambda *_: drawn), self._in_slots(agents, world_from_rig))
        frames = dict(step.frames)
        return self._to_rig(frames), self._trusted(frames, world_from_rig, agents, signal_states)

    def _in_slots(self, agents: AgentBoxes, world_from_rig: FloatArray) -> tuple[FloatArray, BoolArray]:
        """Boxes -> (A, 12) and (A,); an agent keeps its slot, a newcomer takes that of one gone, nearest first."""
        from drive_wm.geometry import inverse_pose, transform_points, xyyaw_from_pose
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
                 signal_states: Mapping[str, int]) -> bool:
        if not self._reference or self._renderer is None:
            return self._index <= TRUSTED_STEPS
        truth = self._renderer.draw(self._own, pose, agents, signal_states, "picture")
        error = np.mean([np.mean((truth[n].astype(float) - frames[n]) ** 2) for n in frames])
        return bool(10 * np.log10(255.0**2 / max(error, 1e-9)) >= TRUSTED_PSNR_DB)
