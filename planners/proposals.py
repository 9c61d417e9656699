"""Candidate drives, judged by the evaluator's own rules before one of them is chosen.

Axes: B candidates, S states at 10 Hz, A agents, T forecast states. Everything here is in the world frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from drive_wm.eval.metrics import STEP_S, Road, Scene, pdm_scores
from drive_wm.eval.vehicle import VEHICLES, EgoState, fit_reference, follow
from drive_wm.geometry import compose_xyyaw, transform_points, wrap_angle, xyyaw_from_pose
from drive_wm.types import CATEGORIES, BoolArray, FloatArray, InputError, Observation, RoadMap, Vehicle

FAR_M = 10_000.0
STATES = 41  # of a 4 s drive
FORECAST = STATES + 9  # time to collision looks 0.9 s further
NEAR_M, ACCEL_RESERVE_MPS = 15.0, 3.0
EQUAL = 0.005
LATE_COLLISION = 0.05  # what a second without a collision is worth where no candidate is clean


@dataclass(frozen=True)
class Judged:
    """scores: those of ``pdm_scores``, (B,) each. danger: (B, S) steps in which TTC or NC fails. xyyaw: (B, S, 3)."""

    scores: dict[str, FloatArray]
    danger: BoolArray
    xyyaw: FloatArray
    rank: FloatArray

    @property
    def best(self) -> int:
        """The first that is as good as any: order candidates by preference."""
        return int(np.argmax(self.rank >= self.rank.max() - EQUAL))


class Judge:
    """Maps are prepared once and kept; the rest is a function of its arguments."""

    def __init__(self, vehicle: str = "pacifica") -> None:
        if vehicle not in VEHICLES:
            raise InputError(f"unknown vehicle {vehicle!r}, expected one of {', '.join(VEHICLES)}")
        self.vehicle = VEHICLES[vehicle]
        self._road: tuple[RoadMap, Road] | None = None

    def vehicle_of(self, observation: Observation) -> Vehicle:
        """The observation's, else the one given by name."""
        return observation.vehicle or self.vehicle

    def road(self, road_map: RoadMap | None) -> Road | None:
        if road_map is None:
            return None
        if self._road is None or self._road[0] is not road_map:
            self._road = (road_map, Road(road_map))
        return self._road[1]

    def drives(self, observation: Observation, paths: FloatArray) -> tuple[FloatArray, ...]:
        """What the tracker makes of paths (B, N+1, 3), rig frame of now, 0.1 s a step: poses (B, S, 3) in the world,
        speeds and accelerations (B, S)."""
        here = xyyaw_from_pose(observation.world_from_rig)
        start = EgoState(here, np.array(max(observation.speed_mps, 0.0)), np.array(observation.accel_mps2 or 0.0),
                         np.array(observation.steer_rad or 0.0))
        paths = paths[:, : STATES + 10]  # the tracker looks a second ahead
        return follow(start, fit_reference(compose_xyyaw(here, paths)), STATES, self.vehicle_of(observation))

    def world(self, observation: Observation, forecast: FloatArray, agents: FloatArray, line: FloatArray) -> Scene:
        """forecast: (T, A, 3) in the world. agents: (A, 12), for sizes and classes. line: (N, 2) to go, rig frame."""
        categories = tuple(CATEGORIES[int(c)] for c in agents[:, 8])
        world_line = transform_points(_flat(observation.world_from_rig), line)
        return Scene.world(self.vehicle_of(observation), forecast, agents[:, 5:8], categories,
                           self.road(observation.map), world_line)


def judge(scene: Scene) -> Judged:
    """PDM scores of a scene of candidates. Where none is clean, whoever stays longer without a collision is better."""
    scores = pdm_scores(scene)
    worth, danger = scores["collision_worth"], scores["danger"].astype(bool)
    on = np.ones(worth.shape) if scene.on_road is None else scene.on_road
    rank = scores["total"] + LATE_COLLISION * STEP_S * (worth * (0.5 + 0.5 * on)).sum(-1)
    return Judged(scores, danger | (worth < 1.0), scene.xyyaw, rank)


def forecast_scene(judge: Judge, observation: Observation) -> Scene:
    """The world with agents at constant velocity, and the route (straight on without one) as the way to go."""
    agents = seen_agents(observation)
    forecast = to_world(observation, constant_velocity(agents, np.arange(FORECAST) * STEP_S))
    route = observation.route
    line = np.array([[0.0, 0.0], [120.0, 0.0]]) if route is None or len(route) < 2 else route
    return judge.world(observation, forecast, agents, line)


def side_by_side(scene: Scene, agents_xyyaw: FloatArray) -> Scene:
    """A scene of B egos among agents that differ from one to the other, (B, T, A, 3): one pass judges them all.

    The worlds are set FAR_M apart, where they cannot touch; what the map and the route say is taken from before.
    """
    count, steps, agents = agents_xyyaw.shape[:3]
    away = np.zeros((count, 1, 1, 3))
    away[:, 0, 0, 0] = np.arange(count) * FAR_M
    every = (agents_xyyaw + away).transpose(1, 0, 2, 3).reshape(steps, count * agents, 3)
    apart = replace(scene, xyyaw=scene.xyyaw + away[:, 0], agents_xyyaw=every,
                    agents_valid=np.ones(every.shape[:2], bool), agents_lwh_m=np.tile(scene.agents_lwh_m, (count, 1)),
                    agent_ids=scene.agent_ids * count, agent_categories=scene.agent_categories * count)
    for name in ("center", "on_road", "in_several_lanes", "strayed", "in_intersection"):
        vars(apart)[name] = getattr(scene, name)  # cached properties: where the ego really is
    return apart


def seen_agents(observation: Observation) -> FloatArray:
    """(A, 12) of now, rig frame, of those that could come near within FORECAST."""
    if observation.agents is None or observation.agents_valid is None:
        return np.zeros((0, 12))
    agents = observation.agents[-1][observation.agents_valid[-1]]
    speeds = np.hypot(agents[:, 3], agents[:, 4]) + max(observation.speed_mps, 0.0) + ACCEL_RESERVE_MPS
    found: FloatArray = agents[np.hypot(agents[:, 0], agents[:, 1]) < NEAR_M + speeds * FORECAST * STEP_S]
    return found


def constant_velocity(agents: FloatArray, times_s: FloatArray) -> FloatArray:
    """Agents (A, 12) at times (T,) from now -> (T, A, 3) x, y, yaw in the frame they are given in."""
    out = np.repeat(agents[None, :, :3], len(times_s), 0)
    out[..., :2] += times_s[:, None, None] * agents[None, :, 3:5]
    return out


def to_world(observation: Observation, xyyaw: FloatArray) -> FloatArray:
    """Poses (..., 3) of the rig frame of now, in the world."""
    return compose_xyyaw(xyyaw_from_pose(observation.world_from_rig), xyyaw)


def _flat(world_from_rig: FloatArray) -> FloatArray:
    x, y, yaw = xyyaw_from_pose(world_from_rig)
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    pose[:2, 3] = x, y
    return pose


def at_10_hz(poses: FloatArray, period_s: float, count: int) -> FloatArray:
    """Poses (..., K, 3) every period_s, the first now, -> (..., count, 3) every 0.1 s: linear between, and past the end
    on with the last step's motion."""
    at = np.arange(count) * STEP_S / period_s
    low = np.minimum(at.astype(int), poses.shape[-2] - 2)
    part = (at - low)[:, None]
    a, step = poses[..., low, :], np.diff(poses, axis=-2)[..., low, :]
    step = np.concatenate([step[..., :2], wrap_angle(step[..., 2:])], -1)
    return a + part * step


__all__ = ["FORECAST", "STATES", "Judge", "Judged", "at_10_hz", "constant_velocity", "forecast_scene", "judge",
           "seen_agents", "side_by_side", "to_world"]
