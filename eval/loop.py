"""The closed loop: renderer, vehicle, traffic and planner, step by step. It knows none of their kinds.

What happens is written down as a Rollout; nothing is judged here (metrics.py does that).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from drive_wm.datasets.routes import route_of
from drive_wm.eval.metrics import follow_polyline
from drive_wm.eval.sensors import LayoutSensors, SensorRenderer
from drive_wm.eval.traffic import LogReplayTraffic, Traffic
from drive_wm.eval.vehicle import (
    STEP_S,
    EgoState,
    Reference,
    braking_reference,
    drive_step,
    reference_from_trajectory,
)
from drive_wm.geometry import (
    actions_from_xyyaw,
    interpolate_poses,
    pose_from_xyzyaw,
    relative_xyyaw,
    resample_polyline,
    wrap_angle,
    xyyaw_from_pose,
)
from drive_wm.planners.base import Planner, check_plan
from drive_wm.types import (
    CATEGORIES,
    BoolArray,
    ByteArray,
    FloatArray,
    InputError,
    IntArray,
    Log,
    Observation,
    Plan,
    Rig,
    Rollout,
    Vehicle,
)

if TYPE_CHECKING:
    from drive_wm.render import AgentBoxes

STEP_US = round(STEP_S * 1e6)
VELOCITY_STEPS = 3  # agents' velocities are differences over 0.3 s: shorter ones are mostly annotation noise
ROUTE_AHEAD_M, ROUTE_EXTENSION_M, ROUTE_SPACING_M = 120.0, 60.0, 2.0
FrameCallback = Callable[[int, int, dict[str, ByteArray], "AgentBoxes", FloatArray], None]


@dataclass(frozen=True)
class Moment:
    """The world at one time. pose: (4, 4) world_from_rig."""

    timestamp_us: int
    xyyaw: FloatArray
    pose: FloatArray
    boxes: AgentBoxes


def simulate(log: Log, planner: Planner, renderer: SensorRenderer | None, *, vehicle: Vehicle, rig: Rig | None = None,
             seed: int = 0, start_s: float = 2.0, duration_s: float = 15.0, traffic: Traffic | None = None,
             replan_s: float = 0.5, tracking: str = "lqr", on_frames: FrameCallback | None = None) -> Rollout:
    """Let ``planner`` drive from start_s into the log for duration_s, or until the log ends.

    The ego starts with the log's pose and speed, and the first Observation's history is the log's. Images are drawn
    only for a planner that requires "frames", or where ``on_frames(step, timestamp_us, frames, agents,
    world_from_rig)`` wants to see them. A planner that raises or answers with no drivable plan is not asked again:
    plan_errors names the step, and the ego brakes with 4 m/s2 along its last path. The route in an Observation is
    metadata["route"], else the line that the log drove, without its times (see log_route). tracking "log" is open
    loop: plans are written down, and the ego stays on the log. The same arguments give the same bytes.
    """
    loop = _Loop(log, planner, vehicle, traffic or LogReplayTraffic(), seed, start_s, duration_s, replan_s, tracking)
    cameras = _Cameras(log, planner, renderer, rig or log.rig, loop.history_us, seed, on_frames)
    loop.wake()
    for step in range(loop.steps):
        loop.look(step)
        if step % loop.frame_every == 0:
            cameras.update(step, loop)
        if step % loop.replan_every == 0 and step < loop.steps - 1:
            loop.ask(step, cameras)
        if step < loop.steps - 1:
            loop.drive(step)
    return loop.rollout(renderer.name if renderer is not None and cameras.needed else "none", cameras.valid)


class _Loop:
    """The state of one closed loop; ``moments`` starts with the log's own past."""

    def __init__(self, log: Log, planner: Planner, vehicle: Vehicle, traffic: Traffic, seed: int, start_s: float,
                 duration_s: float, replan_s: float, tracking: str) -> None:
        self.log, self.planner, self.vehicle, self.tracking, self.seed = log, planner, vehicle, tracking, seed
        self.frame_every, self.replan_every = _steps("1 / rate_hz", 1 / planner.rate_hz), _steps("replan_s", replan_s)
        if self.replan_every % self.frame_every:
            raise InputError(f"replanning every {replan_s} s does not fit images at {planner.rate_hz} Hz: "
                             "give a multiple of their period")
        past = (planner.history_steps - 1) * self.frame_every
        if start_s < past * STEP_S - 1e-9:
            raise InputError(f"planner {planner.name} wants {past * STEP_S:.1f} s of history, "
                             f"but the drive starts {start_s} s into the log")
        self.start_us = log.start_us + round(start_s * 1e6)
        available = (log.end_us - self.start_us) // STEP_US + 1
        if available < 11:
            raise InputError(f"log {log.id} ends {max(available - 1, 0) * STEP_S:.1f} s after the start at "
                             f"{start_s} s; expected at least 1 s to drive")
        self.steps = int(min(round(duration_s / STEP_S) + 1, available))
        self.past_steps = past + VELOCITY_STEPS
        self.history_us = self.start_us - np.arange(planner.history_steps)[::-1] * self.frame_every * STEP_US
        self.timestamps_us = self.start_us + np.arange(self.steps) * STEP_US
        self.traffic = traffic
        traffic.vehicle = vehicle
        traffic.reset(log, seed)
        self.state = initial_state(log, self.start_us, vehicle)
        self.moments = self._past()
        self.states: list[EgoState] = []
        self.plans: list[Plan | None] = []
        self.errors: dict[int, str] = {}
        self.reference: Reference | None = None
        self.planned_at = 0
        self.route = log_route(log)
        self.route_arc: float | None = None
        self.drawer: LayoutSensors | None = None

    def _past(self) -> list[Moment]:
        from drive_wm.render import agents_at

        times = self.start_us - np.arange(self.past_steps, 0, -1) * STEP_US
        poses, _ = interpolate_poses(self.log.ego, np.maximum(times, self.log.start_us))
        return [Moment(int(t), xyyaw_from_pose(p), p, agents_at(self.log, int(t))) for t, p in zip(times, poses)]

    def wake(self) -> None:
        """Reset the planner; one that fails already here brakes from the first step on."""
        try:
            self.planner.reset(self.seed, self.log if self.planner.oracle else None)
        except Exception as error:  # recorded and scored zero, as in ask()
            self.errors[0] = f"{type(error).__name__}: {error}"
            self.reference = braking_reference(self.state, self.state.xyyaw[None, :2])

    def look(self, step: int) -> None:
        now = int(self.timestamps_us[step])
        boxes = self.traffic.step(now, self.state.xyyaw, float(self.state.speed_mps))
        pose = ground_pose(self.log, self.state.xyyaw, now, step == 0)
        self.moments.append(Moment(now, self.state.xyyaw, pose, boxes))
        self.states.append(self.state)
        self.plans.append(None)

    def past(self, step: int) -> list[int]:
        """Indices into moments of the planner's history, the newest last."""
        now = self.past_steps + step
        return [now - k * self.frame_every for k in range(self.planner.history_steps - 1, -1, -1)]

    def ask(self, step: int, cameras: _Cameras) -> None:
        if self.errors:
            return
        observation = self._observe(step, cameras)
        try:
            plan = check_plan(self.planner.plan(observation))
        except Exception as error:  # a planner's failure is a result of the test: it is recorded and scores zero
            self.errors[step] = f"{type(error).__name__}: {error}"
            self.reference = braking_reference(self.state, self._last_path(step))
        else:
            self.plans[step] = plan
            self.reference = reference_from_trajectory(self.state.xyyaw, plan.trajectory)
        self.planned_at = step

    def _last_path(self, step: int) -> FloatArray:
        """The rest of what was being followed, from the ego on (N, 2)."""
        here = self.state.xyyaw[None, :2]
        if self.reference is None:
            return here
        rest = self.reference.xyyaw[step - self.planned_at + 1:, :2]
        return np.concatenate([here, rest])

    def drive(self, step: int) -> None:
        if self.tracking == "log":
            self.state = initial_state(self.log, int(self.timestamps_us[step + 1]), self.vehicle)
            return
        assert self.reference is not None
        self.state = drive_step(self.state, self.reference, step - self.planned_at, self.vehicle, self.tracking)

    def _observe(self, step: int, cameras: _Cameras) -> Observation:
        from drive_wm.render import signals_at

        needs, index = self.planner.requires, self.past(step)
        now = self.moments[-1]
        times = np.array([self.moments[i].timestamp_us for i in index], dtype=np.int64)
        world = np.stack([self.moments[i].xyyaw for i in index])
        frames, frames_valid = cameras.history() if "frames" in needs else (None, None)
        agents, agents_valid, ids = observed_agents(self.moments, index) if "agents" in needs else (None, None, ())
        return Observation(
            timestamps_us=times, rig=cameras.rig, ego_xyyaw=relative_xyyaw(now.xyyaw, world),
            speed_mps=float(self.state.speed_mps), actions=actions_from_xyyaw(world, times / 1e6),
            world_from_rig=now.pose.copy(), frames=frames, frames_valid=frames_valid, agents=agents,
            agents_valid=agents_valid, agent_ids=ids, route=self._route_ahead() if "route" in needs else None,
            map=self.log.map if "map" in needs else None,
            signal_states=signals_at(self.log, now.timestamp_us) if "signals" in needs else None,
            layout=self._layout(index, cameras.rig) if "layout" in needs else None, vehicle=self.vehicle,
            accel_mps2=float(self.state.accel_mps2), steer_rad=float(self.state.steer_rad))

    def _route_ahead(self) -> FloatArray:
        ego = self.state.xyyaw
        arc, _ = follow_polyline(ego[None, :2], self.route, self.route_arc)
        self.route_arc = float(arc[0])
        spacing = float(np.linalg.norm(self.route[1] - self.route[0]))
        first = int(self.route_arc / spacing)
        ahead = self.route[first: first + int(ROUTE_AHEAD_M / spacing) + 2]
        points = np.concatenate([ahead, np.zeros((len(ahead), 1))], 1)
        return relative_xyyaw(ego, points)[:, :2]

    def _layout(self, index: list[int], rig: Rig) -> dict[str, ByteArray]:
        from drive_wm.render import signals_at

        if self.drawer is None:
            self.drawer = LayoutSensors("layout")
            self.drawer.reset(self.log, rig, self.history_us, self.seed)
        drawn = [self.drawer.render(m.timestamp_us, m.pose, m.boxes, signals_at(self.log, m.timestamp_us), None)[0]
                 for m in (self.moments[i] for i in index)]
        return {name: np.stack([d[name] for d in drawn]) for name in rig.names}

    def rollout(self, renderer: str, render_valid: Mapping[int, bool]) -> Rollout:
        driven = self.moments[self.past_steps:]
        xyyaw, valid, lwh, ids, categories = stack_agents([m.boxes for m in driven])
        logged, logged_valid = interpolate_poses(self.log.ego, self.timestamps_us)
        trusted = np.ones(len(driven), dtype=bool)
        for step, ok in render_valid.items():
            trusted[step: step + self.frame_every] = ok
        return Rollout(
            log_id=self.log.id, planner=self.planner.name, renderer=renderer, seed=self.seed, vehicle=self.vehicle,
            timestamps_us=self.timestamps_us[: len(driven)], ego_xyyaw=np.stack([m.xyyaw for m in driven]),
            ego_speed_mps=np.array([float(s.speed_mps) for s in self.states]),
            ego_accel_mps2=np.array([float(s.accel_mps2) for s in self.states]),
            ego_steer_rad=np.array([float(s.steer_rad) for s in self.states]),
            logged_xyyaw=xyyaw_from_pose(logged), logged_valid=logged_valid, agents_xyyaw=xyyaw, agents_valid=valid,
            agents_lwh_m=lwh, agent_ids=ids, agent_categories=categories, map=self.log.map, signals=self.log.signals,
            plans=tuple(self.plans), plan_errors=dict(self.errors), render_valid=trusted,
            completed=len(driven) == self.steps, planned_steps=self.steps)


@dataclass
class _Cameras:
    """The planner's last T images; keeps no more than those."""

    log: Log
    planner: Planner
    renderer: SensorRenderer | None
    rig: Rig
    history_us: IntArray
    seed: int
    on_frames: FrameCallback | None
    needed: bool = False
    valid: dict[int, bool] = field(default_factory=dict)
    kept: list[dict[str, ByteArray]] = field(default_factory=list)

    def __post_init__(self) -> None:
        blind = "frames" not in self.planner.requires
        if self.renderer is None and not blind:
            raise InputError(f"planner {self.planner.name} requires frames: give a renderer")
        self.needed = self.renderer is not None and (not blind or self.on_frames is not None)

    def update(self, step: int, loop: _Loop) -> None:
        from drive_wm.render import signals_at

        if not self.needed or self.renderer is None:
            return
        now = loop.moments[-1]
        if step == 0:
            self.renderer.reset(self.log, self.rig, self.history_us, _part_seed(self.seed, self.log.id, "sensors"))
            self.kept = list(self.renderer.history(self.log, self.rig, self.history_us))
            self.valid[0] = len(self.kept[-1]) == len(self.rig.cameras)
        else:
            before = loop.moments[-1 - loop.frame_every]
            period = np.array([0.0, loop.frame_every * STEP_S])
            action = actions_from_xyyaw(np.stack([before.xyyaw, now.xyyaw]), period)[0]
            signals = signals_at(self.log, now.timestamp_us)
            frames, ok = self.renderer.render(now.timestamp_us, now.pose, now.boxes, signals, action)
            self.kept = [*self.kept, frames][-len(self.history_us):]
            self.valid[step] = bool(ok)
        if "frames" not in self.planner.requires:
            self.valid.clear()  # nobody was misled by these images
        if self.on_frames is not None:
            self.on_frames(step, now.timestamp_us, self.kept[-1], now.boxes, now.pose)

    def history(self) -> tuple[dict[str, ByteArray], BoolArray]:
        """camera -> (T, H, W, 3), zeros where an image is missing, and valid (T, C)."""
        valid = np.array([[name in frames for name in self.rig.names] for frames in self.kept])
        stacked = {c.name: np.stack([f.get(c.name, np.zeros((c.height, c.width, 3), np.uint8)) for f in self.kept])
                   for c in self.rig.cameras}
        return stacked, valid


def _steps(what: str, seconds: float) -> int:
    count = round(seconds / STEP_S)
    if count < 1 or abs(count * STEP_S - seconds) > 1e-6:
        raise InputError(f"{what} is {seconds} s, expected a multiple of the simulation's step of {STEP_S} s")
    return count


def _part_seed(seed: int, log_id: str, part: str) -> int:
    """A seed of its own for each part of each drive."""
    words = [seed, zlib.crc32(log_id.encode()), zlib.crc32(part.encode())]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def initial_state(log: Log, start_us: int, vehicle: Vehicle) -> EgoState:
    """The log's pose, and its speed, acceleration and curvature extrapolated from the past 0.4 s alone."""
    times = np.maximum(start_us - np.array([400_000, 200_000, 0]), log.start_us)
    poses, valid = interpolate_poses(log.ego, times)
    if not valid.all():
        raise InputError(f"log {log.id} has no ego pose at its time {start_us} us: start elsewhere")
    xyyaw = xyyaw_from_pose(poses)
    if times[1] == times[0]:
        speed, accel, curvature = 0.0, 0.0, 0.0
    else:
        (first, _), (second, curvature) = actions_from_xyyaw(xyyaw, times / 1e6)
        speed, accel = max(0.0, 1.5 * second - 0.5 * first), float(np.clip((second - first) / 0.2, -4.0, 4.0))
    steer = float(np.clip(np.arctan(vehicle.wheelbase_m * curvature), -0.6, 0.6))
    return EgoState(xyyaw[2], np.array(speed), np.array(accel), np.array(steer))


def log_route(log: Log) -> FloatArray:
    """The way to go (N, 2) world in steps of about 2 m: ``routes.route_of``, and straight on for 60 m past its end."""
    line = route_of(log)
    course = line[-1] - line[max(0, len(line) - 4)]
    end = line[-1] + ROUTE_EXTENSION_M * course / np.linalg.norm(course)
    return resample_polyline(np.concatenate([line, end[None]]), ROUTE_SPACING_M)


def ground_pose(log: Log, xyyaw: FloatArray, timestamp_us: int, on_log: bool) -> FloatArray:
    """(4, 4) at xyyaw with height, roll and pitch of the road, taken where the log drove nearest to it."""
    if on_log:
        return interpolate_poses(log.ego, np.array([timestamp_us]))[0][0]
    poses = log.ego.world_from_body
    gap = np.hypot(*(poses[:, :2, 3] - xyyaw[:2]).T)
    near = poses[int(np.argmin(np.where(log.ego.valid, gap, np.inf)))]
    pose = pose_from_xyzyaw(np.array([xyyaw[0], xyyaw[1], near[2, 3]]), wrap_angle(xyyaw[2] - xyyaw_from_pose(near)[2]))
    pose[:3, :3] = pose[:3, :3] @ near[:3, :3]
    return pose


def observed_agents(moments: list[Moment], index: list[int]) -> tuple[FloatArray, BoolArray, tuple[str, ...]]:
    """agents (T, A, 12) as AGENT_COLUMNS, valid (T, A) and ids of all seen in the history, nearest now first."""
    here, newest = moments[index[-1]], moments[index[-1]].boxes
    order = np.argsort(np.hypot(*(newest.xyzyaw[:, :2] - here.xyyaw[:2]).T), kind="stable")
    names = [newest.ids[i] for i in order]
    names += sorted({name for i in index for name in moments[i].boxes.ids} - set(names))
    slot = {name: k for k, name in enumerate(names)}
    agents = np.zeros((len(index), len(names), 12))
    valid = np.zeros((len(index), len(names)), dtype=bool)
    for t, i in enumerate(index):
        boxes = moments[i].boxes
        rows = [slot[name] for name in boxes.ids]
        local = relative_xyyaw(moments[i].xyyaw, boxes.xyzyaw[:, [0, 1, 3]])
        velocity = box_velocities(moments, i)
        yaw = moments[i].xyyaw[2]
        turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        kind = np.array([CATEGORIES.index(c) for c in boxes.categories], dtype=float)
        agents[t, rows] = np.column_stack([local, velocity @ turn, boxes.lwh_m, kind, boxes.colors])
        valid[t, rows] = True
    return agents, valid, tuple(names)


def box_velocities(moments: list[Moment], i: int) -> FloatArray:
    """World velocities (A, 2) at moment i, from up to VELOCITY_STEPS before; an agent just appeared has 0."""
    boxes = moments[i].boxes
    velocity = np.zeros((len(boxes.ids), 2))
    for back in range(1, min(VELOCITY_STEPS, i) + 1):  # longer differences overwrite shorter ones
        before = moments[i - back].boxes
        where = {name: k for k, name in enumerate(before.ids)}
        rows = [k for k, name in enumerate(boxes.ids) if name in where]
        old = [where[boxes.ids[k]] for k in rows]
        velocity[rows] = (boxes.xyzyaw[rows, :2] - before.xyzyaw[old, :2]) / (back * STEP_S)
    return velocity


def stack_agents(steps: list[AgentBoxes]) -> tuple[FloatArray, BoolArray, FloatArray, tuple[str, ...], tuple[str, ...]]:
    """xyyaw (S, A, 3), valid (S, A), lwh (A, 3), ids and categories over all steps, ids sorted."""
    found: dict[str, tuple[FloatArray, str]] = {}
    for boxes in steps:
        for k, name in enumerate(boxes.ids):
            found.setdefault(name, (boxes.lwh_m[k], boxes.categories[k]))
    ids = tuple(sorted(found))
    slot = {name: k for k, name in enumerate(ids)}
    xyyaw, valid = np.zeros((len(steps), len(ids), 3)), np.zeros((len(steps), len(ids)), dtype=bool)
    for s, boxes in enumerate(steps):
        rows = [slot[name] for name in boxes.ids]
        xyyaw[s, rows], valid[s, rows] = boxes.xyzyaw[:, [0, 1, 3]], True
    lwh = np.stack([found[name][0] for name in ids]) if ids else np.zeros((0, 3))
    return xyyaw, valid, lwh, ids, tuple(found[name][1] for name in ids)


__all__ = ["FrameCallback", "Moment", "log_route", "simulate"]
