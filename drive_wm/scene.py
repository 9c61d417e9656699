"""A moment of a log, made ready for the model: its recent past, its route, and what is known of what comes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from drive_wm.datasets.clips import make_clip, nearest_agents, time_grid
from drive_wm.datasets.health import load_fit
from drive_wm.datasets.routes import points_ahead, route_of
from drive_wm.datasets.sources import open_source
from drive_wm.geometry import (
    integrate_actions,
    pose_from_xyyaw,
    pose_from_xyzyaw,
    relative_xyyaw,
    transform_points,
    xyyaw_from_pose,
)
from drive_wm.model import DriveWM, LayoutSource
from drive_wm.render import AgentBoxes, Renderer, agents_at, signals_at
from drive_wm.reproject import Drawn, draw_known
from drive_wm.types import (
    CATEGORIES,
    BoolArray,
    ByteArray,
    Clip,
    FloatArray,
    InputError,
    Log,
    Observation,
    Rig,
    RoadMap,
)

BRAKE_MPS2, ACCELERATE_MPS2, STEER_INV_M = 4.0, 2.0, 0.05
VARIANTS = ("log", "brake", "accelerate", "left", "right", "keep")


@dataclass(frozen=True)
class Scene:
    """context: the model's past steps, the newest is now, agents in slots. route: (8, 2) points ahead, rig frame."""

    log: Log
    context: Clip
    route: FloatArray

    @property
    def now_us(self) -> int:
        return int(self.context.timestamps_us[-1])

    @property
    def last_action(self) -> FloatArray:
        """(2,) what led to now; zero where that is not known."""
        clip = self.context
        known: FloatArray = clip.actions[-1] if len(clip.actions) and clip.actions_valid[-1] else np.zeros(2)
        return known

    @property
    def pose(self) -> FloatArray:
        return self.context.ego[-1]

    def future(self, steps: int) -> Clip:
        """What the log recorded from now on: step 0 is now. Steps past its end are invalid."""
        return make_clip(self.log, self.now_us, steps + 1, self.context.rate_hz, rig=self.context.rig)


def load_log(source: str, log: str | None) -> Log:
    """The log named, or the source's first; what is damaged in it is marked invalid."""
    opened = open_source(source)
    ids = opened.log_ids()
    if not ids:
        raise InputError(f"source {source}: holds no drive")
    return load_fit(opened, log if log is not None else ids[0])


def open_scene(log: Log, model: DriveWM, start_s: float, *, cameras: list[str] | None = None,
               layout: bool = True) -> Scene:
    """The moment start_s after the log's beginning, with as much of the model's context as lies before it.

    Raises InputError where the log has no such moment, or neither image nor pose then.
    """
    rate = model.config.rate_hz
    if start_s < 0 or log.start_us + start_s * 1e6 > log.end_us + 1:
        raise InputError(f"--start {start_s:g} s: log {log.id} lasts {(log.end_us - log.start_us) / 1e6:.1f} s; "
                         "give a time within it")
    steps = min(model.config.context, 1 + int(start_s * rate + 1e-6))
    rig = model.rig_for(log.rig.subset(cameras) if cameras else log.rig)
    start_us = log.start_us + int(start_s * 1e6) - int((steps - 1) / rate * 1e6)
    clip = make_clip(log, start_us, steps, rate, rig=rig, layout=layout)
    if not clip.frames_valid[-1].any():
        raise InputError(f"log {log.id} has no image within {250 / rate:.0f} ms of {start_s:g} s; "
                         "drive-wm data check tells where its images are")
    if not clip.ego_valid[-1]:
        raise InputError(f"log {log.id} has no valid ego pose at {start_s:g} s; choose another --start")
    clip = nearest_agents(clip, model.config.world.agents, steps - 1)
    return Scene(log, clip, points_ahead(route_of(log), clip.ego[-1]))


def observation_of(scene: Scene, requires: frozenset[str]) -> Observation:
    """The scene as a planner sees it: only what it requires, and nothing of the future."""
    clip = scene.context
    xyyaw = xyyaw_from_pose(clip.ego)
    speed = float(scene.last_action[0])
    route = None
    if "route" in requires:
        whole = route_of(scene.log)
        start = int(np.argmin(np.linalg.norm(whole - scene.pose[:2, 3], axis=1)))
        ahead = np.column_stack([whole[start:], np.zeros(len(whole) - start)])
        route = relative_xyyaw(xyyaw[-1], ahead)[:, :2]
    seen = "agents" in requires
    return Observation(
        timestamps_us=clip.timestamps_us, rig=clip.rig, ego_xyyaw=relative_xyyaw(xyyaw[-1], xyyaw), speed_mps=speed,
        actions=clip.actions, world_from_rig=scene.pose, frames=clip.frames if "frames" in requires else None,
        frames_valid=clip.frames_valid if "frames" in requires else None, agents=clip.agents if seen else None,
        agents_valid=clip.agents_valid if seen else None, agent_ids=clip.agent_ids if seen else (), route=route,
        map=scene.log.map if "map" in requires else None,
        signal_states=signals_at(scene.log, scene.now_us) if "signals" in requires else None,
        layout=clip.layout if "layout" in requires else None)


def clip_of(observation: Observation, rig: Rig, rate_hz: float, slots: int) -> Clip:
    """An Observation as the model's context, with images scaled to ``rig`` (the same cameras at the model's sizes)."""
    import cv2

    def scaled(images: Mapping[str, ByteArray]) -> dict[str, ByteArray]:
        return {c.name: np.stack([cv2.resize(i, (c.width, c.height), interpolation=cv2.INTER_AREA)
                                  for i in images[c.name]]) for c in rig.cameras}

    if observation.frames is None or observation.frames_valid is None:
        raise InputError("the model plans from images: the planner must require \"frames\"")
    steps = len(observation.timestamps_us)
    world = pose_from_xyyaw(observation.ego_xyyaw)
    agents = observation.agents if observation.agents is not None else np.zeros((steps, 0, 12))
    valid = observation.agents_valid if observation.agents_valid is not None else np.zeros((steps, 0), bool)
    clip = Clip("observation", rig, rate_hz, observation.timestamps_us, scaled(observation.frames),
                observation.frames_valid, world, np.ones(steps, bool), observation.actions, np.ones(steps - 1, bool),
                agents, valid,
                observation.agent_ids, scaled(observation.layout) if observation.layout is not None else None)
    return nearest_agents(clip, slots, steps - 1)


def action_variant(name: str, scene: Scene, steps: int) -> FloatArray:
    """(steps, 2) actions from now on: the log's own, or one of VARIANTS starting at the present speed and curvature."""
    dt = 1 / scene.context.rate_hz
    if name == "log":
        future = scene.future(steps)
        if scene.now_us + steps * dt * 1e6 > scene.log.end_us + 1:
            raise InputError(f"log {scene.log.id} ends {(scene.log.end_us - scene.now_us) / 1e6:.1f} s after --start; "
                             f"{steps * dt:g} s of its actions were asked for. Give a smaller --horizon")
        if not future.actions_valid.all():
            unknown_s = (np.argmin(future.actions_valid) + 1) * dt
            raise InputError(f"log {scene.log.id} has no valid pose {unknown_s:g} s after --start, so its actions are "
                             "unknown there; drive-wm data check lists the gaps")
        return future.actions
    if name not in VARIANTS:
        raise InputError(f"--actions {name!r}: expected one of {', '.join(VARIANTS)}, or a planner")
    speed, curvature = scene.last_action
    gain = {"brake": -BRAKE_MPS2, "accelerate": ACCELERATE_MPS2}.get(name, 0.0)
    steer = {"left": STEER_INV_M, "right": -STEER_INV_M}.get(name, float(np.clip(curvature, -0.1, 0.1)))
    speeds = np.maximum(0.0, speed + gain * dt * (np.arange(steps) + 0.5 * bool(gain)))
    return np.stack([speeds, np.full(steps, steer)], -1)


def ego_poses(scene: Scene, actions: FloatArray) -> FloatArray:
    """(N, 4, 4) world_from_rig after each action, on the ground plane of now."""
    xyyaw = integrate_actions(xyyaw_from_pose(scene.pose), actions, 1 / scene.context.rate_hz)
    height = np.full(len(xyyaw), scene.pose[2, 3])
    return pose_from_xyzyaw(np.column_stack([xyyaw[:, :2], height]), xyyaw[:, 2])


def boxes_of(agents: FloatArray, valid: BoolArray, ids: tuple[str, ...], world_from_rig: FloatArray) -> AgentBoxes:
    """Agents (A, 12) of a rig frame as boxes standing on its ground."""
    rows = agents[valid]
    local = np.column_stack([rows[:, :2], rows[:, 7] / 2])
    yaw = rows[:, 2] + xyyaw_from_pose(world_from_rig)[2]
    count = len(rows)
    return AgentBoxes(np.column_stack([transform_points(world_from_rig, local), yaw]), rows[:, 5:8],
                      tuple(CATEGORIES[int(c)] for c in rows[:, 8]), tuple(i for i, v in zip(ids, valid) if v),
                      rows[:, 9:12].astype(np.uint8), np.zeros(count, bool), np.zeros(count, np.int8))


def layout_source(scene: Scene, poses: FloatArray, agents_known: bool) -> LayoutSource | None:
    """Draws the log's map and lights from each future pose, with the log's agents or with those the model imagined.

    None where the log has neither map nor tracks: there is nothing to draw.
    """
    log, rig = scene.log, scene.context.rig
    if log.map is None and not log.tracks:
        return None
    renderer = Renderer(log.map or RoadMap("none"), log.look, log.signals)
    times = time_grid(scene.now_us, len(poses) + 1, scene.context.rate_hz)

    def draw(index: int, agents: FloatArray, valid: BoolArray) -> Drawn:
        at, pose = int(times[index]), poses[index - 1]
        boxes = agents_at(log, at) if agents_known else boxes_of(agents, valid, scene.context.agent_ids, pose)
        return draw_known(renderer, rig, pose, boxes, signals_at(log, at), scene.context.agent_ids)

    return draw


def reference_frames(scene: Scene, poses: FloatArray) -> list[dict[str, ByteArray]] | None:
    """What the cameras of a drawn log would have seen from other poses; None for recorded images."""
    if not scene.log.frames.rendered or scene.log.map is None:
        return None
    renderer = Renderer(scene.log.map, scene.log.look, scene.log.signals)
    times = time_grid(scene.now_us, len(poses) + 1, scene.context.rate_hz)[1:]
    return [renderer.draw(scene.context.rig, pose, agents_at(scene.log, int(t)), signals_at(scene.log, int(t)),
                          style="picture") for t, pose in zip(times, poses)]


def known_agents(scene: Scene, poses: FloatArray) -> tuple[FloatArray, BoolArray]:
    """The log's agents in the context's slots, seen from future poses: (N, A, 12) and (N, A)."""
    from drive_wm.datasets.clips import agent_arrays

    times = time_grid(scene.now_us, len(poses) + 1, scene.context.rate_hz)[1:]
    agents, valid, ids = agent_arrays(scene.log, times, poses, np.ones(len(poses), bool))
    slots = scene.context.agent_ids
    out = np.zeros((len(poses), len(slots), agents.shape[2]))
    seen = np.zeros((len(poses), len(slots)), bool)
    for slot, name in enumerate(slots):
        if name and name in ids:
            column = ids.index(name)
            out[:, slot], seen[:, slot] = agents[:, column], valid[:, column]
    return out, seen
