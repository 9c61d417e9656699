"""A start made ready: its past read once, its truth under every action, and futures of it in every mode.

Shots are pictures by camera: (T, H, W, 3) uint8, one a step in the order of the steps asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from drive_wm.datasets.clips import time_grid
from drive_wm.datasets.town.overlap import boxes_meet
from drive_wm.eval.world.protocol import MODES, WorldProtocol
from drive_wm.geometry import integrate_actions, xyyaw_from_pose
from drive_wm.media import EGO_CENTER_M, EGO_LWH_M
from drive_wm.model import DriveWM, GeneratedStep, LayoutSource, Sampling
from drive_wm.render import Labels, Renderer, agents_at, signals_at
from drive_wm.reproject import Drawn, Reprojector, draw_known
from drive_wm.scene import Scene, action_variant, boxes_of, ego_poses, known_agents
from drive_wm.types import BoolArray, ByteArray, Clip, FloatArray, Log, Rig, RoadMap
from drive_wm.world.inputs import pixels_of
from drive_wm.world.model import Steps

Shots = dict[str, ByteArray]
CARRIED = {"carried, given": "given", "carried, none": "none"}  # contenders without a model, and what they are told


@dataclass(frozen=True)
class Course:
    """An action carried out. actions (N, 2); poses (N, 4, 4) after each; free (N,): nothing was hit so far."""

    name: str
    actions: FloatArray
    poses: FloatArray
    free: BoolArray


@dataclass
class Opening:
    """A start of a log: everything that does not depend on the mode. N steps of the true actions are known."""

    scene: Scene
    protocol: WorldProtocol
    steps: int

    @cached_property
    def renderer(self) -> Renderer:
        log = self.scene.log
        return Renderer(log.map or RoadMap("none"), log.look, log.signals)

    @property
    def rig(self) -> Rig:
        return self.scene.context.rig

    @property
    def drawn(self) -> bool:
        """Its cameras are drawn, so that the truth of any action, and labels, are known."""
        return self.scene.log.frames.rendered and self.scene.log.map is not None

    @property
    def modes(self) -> tuple[str, ...]:
        """Without map and tracks there is no layout to give or to imagine."""
        log = self.scene.log
        return MODES if log.map is not None or log.tracks else ("none",)

    @cached_property
    def times_us(self) -> list[int]:
        """Of step 0, which is now, and of all steps after it."""
        return time_grid(self.scene.now_us, self.steps + 1, self.protocol.rate_hz).tolist()

    @cached_property
    def future(self) -> Clip:
        """What the log recorded, step 0 is now."""
        return self.scene.future(self.steps)

    def course(self, action: str) -> Course:
        """The log's own, as far as it is known, or another one over the protocol's horizon."""
        if action == "log":
            return Course(action, self.future.actions, self.future.ego[1:], np.ones(self.steps, bool))
        actions = action_variant(action, self.scene, min(self.steps, self.protocol.steps(self.protocol.horizon_s)))
        poses = ego_poses(self.scene, actions)
        return Course(action, actions, poses, free_way(self.scene.log, poses, self.times_us[1:]))

    def truth(self, course: Course, steps: Sequence[int]) -> Shots:
        """What the cameras saw, or would have seen, after those steps (counted from 1)."""
        if course.name == "log":
            return {n: self.future.frames[n][list(steps)] for n in self.rig.names}
        drawn = [self.renderer.draw(self.rig, course.poses[k - 1], agents_at(self.scene.log, self.times_us[k]),
                                    signals_at(self.scene.log, self.times_us[k])) for k in steps]
        return stacked(drawn, self.rig)

    def labels(self, course: Course, steps: Sequence[int]) -> list[Mapping[str, Labels]]:
        log = self.scene.log
        return [self.renderer.labels(self.rig, course.poses[k - 1], agents_at(log, self.times_us[k]),
                                     signals_at(log, self.times_us[k])) for k in steps]

    def copied(self, steps: Sequence[int]) -> Shots:
        """The last pictures seen, again and again."""
        frames = self.scene.context.frames
        return {n: np.repeat(frames[n][-1:], len(steps), 0) for n in self.rig.names}

    def layout(self, course: Course, mode: str) -> LayoutSource | None:
        """Map and lights of the log from the course's poses, with the log's agents or with those that were imagined."""
        if mode == "none":
            return None
        log, ids = self.scene.log, self.scene.context.agent_ids

        def draw(index: int, agents: FloatArray, valid: BoolArray) -> Drawn:
            at, pose = self.times_us[index], course.poses[index - 1]
            boxes = agents_at(log, at) if mode == "given" else boxes_of(agents, valid, ids, pose)
            return draw_known(self.renderer, self.rig, pose, boxes, signals_at(log, at), ids)

        return draw


class Futures:
    """Generates futures of one opening; what came before is read once with the layout and once without."""

    def __init__(self, model: DriveWM, opening: Opening, seed: int) -> None:
        self.model, self.opening, self.seed = model, opening, seed
        self.first: dict[str, Steps] = {}  # by mode, what the first step of the true actions was told
        self.made: dict[tuple[str, str], list[GeneratedStep]] = {}
        context = opening.scene.context
        self.streams = {False: model.read(replace(context, layout=None))}
        if context.layout is not None:
            self.streams[True] = model.read(context)

    def generate(self, course: Course, mode: str, steps: int | None = None) -> list[GeneratedStep]:
        """The course's first ``steps`` steps, or all of it; what was made once is kept."""
        kept = self.made.get((course.name, mode), [])
        if len(kept) >= (steps or len(course.actions)):
            return kept[:steps]
        given = known_agents(self.opening.scene, course.poses) if mode == "given" else None
        layout, generator = self.opening.layout(course, mode), torch.Generator().manual_seed(self.seed)
        stream, out = self.streams[mode != "none"], []
        sampling = Sampling(passes=self.opening.protocol.passes)
        for i, action in enumerate(course.actions[:steps]):
            agents = None if given is None else (given[0][i], given[1][i])
            stream, step = self.model.advance(stream, action, i + 1, generator, sampling, layout, agents)
            if i == 0 and course.name == "log":
                self.first[mode] = stream.last
            out.append(step)
        self.made[course.name, mode] = out
        return out

    def carried(self, course: Course, mode: str, steps: Sequence[int]) -> Shots:
        """No model: the last pictures seen, carried from step to step by the actions; "given" along the drawn depth."""
        opening, context = self.opening, self.opening.scene.context
        given = known_agents(opening.scene, course.poses) if mode == "given" else None
        layout, reprojector = opening.layout(course, mode), Reprojector(opening.rig)
        pictures: Mapping[str, ByteArray] = {n: context.frames[n][-1] for n in opening.rig.names}
        agents, valid, made = context.agents[-1], context.agents_valid[-1], []
        for i, action in enumerate(course.actions[:max(steps)]):
            now, known = (given[0][i], given[1][i]) if given is not None else (agents, valid)
            drawn = layout(i + 1, now, known) if layout is not None else None
            move = integrate_actions(np.zeros(3), action[None], 1 / context.rate_hz)[0]
            pictures = reprojector.carry(pictures, move, drawn, agents, now, valid & known)
            agents, valid = now, known
            made.append(pictures)
        return stacked([made[k - 1] for k in steps], opening.rig)


def free_way(log: Log, poses: FloatArray, times_us: Sequence[int]) -> BoolArray:
    """(N,) False from the first pose on at which the ego's box meets a building or an agent."""
    ego = xyyaw_from_pose(poses)
    ego[:, :2] += EGO_CENTER_M * np.stack([np.cos(ego[:, 2]), np.sin(ego[:, 2])], -1)
    walls = [p for p in (log.map.props if log.map is not None else ()) if p.kind == "building"]
    wall = np.array([[*p.position_m[:2], p.yaw_rad] for p in walls]).reshape(-1, 3)
    wall_size = np.array([p.size_lwh_m for p in walls], float).reshape(-1, 3)
    hit = np.zeros(len(poses), bool)
    for i, at in enumerate(times_us[:len(poses)]):
        boxes = agents_at(log, at)
        others = np.concatenate([wall, boxes.xyzyaw[:, [0, 1, 3]]])
        sizes = np.concatenate([wall_size, boxes.lwh_m])
        near = np.hypot(*(others[:, :2] - ego[i, :2]).T) < np.hypot(sizes[:, 0], sizes[:, 1]) / 2 + 4.0
        count = int(near.sum())
        hit[i] = count > 0 and boxes_meet(np.tile(ego[i], (count, 1)), np.tile(EGO_LWH_M, (count, 1)), others[near],
                                          sizes[near]).any()
    return ~np.logical_or.accumulate(hit)


def stacked(frames: Sequence[Mapping[str, ByteArray]], rig: Rig) -> Shots:
    """One mapping a step -> shots."""
    return {n: np.stack([f[n] for f in frames]) for n in rig.names}


def picked(made: Sequence[GeneratedStep], steps: Sequence[int], rig: Rig) -> Shots:
    return stacked([made[k - 1].frames for k in steps], rig)


def reconstructed(model: DriveWM, shots: Shots) -> Shots:
    """What the tokens of these pictures stand for: no future made of tokens can be nearer to the truth."""
    out = {}
    with torch.no_grad():
        for name, images in shots.items():
            with torch.autocast(model.device.type, torch.bfloat16):
                digits = model.tokenizer.encode(pixels_of(images, model.device))
            out[name] = model.decode_digits(digits)
    return out
