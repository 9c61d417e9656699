"""The model as a planner: one pass over the past, then its own action tokens; no frames are imagined."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from drive_wm.planners.base import POINT_S, TIMES_S, Planner
from drive_wm.types import FloatArray, InputError, Log, Observation, Plan, Trajectory

CHOICES = ("safe", "greedy", "likeliest", "medoid", "median", "mean")
BRAKING_MPS2 = (1.0, 2.0, 3.0, 4.0, 6.0)


class DirectPlanner(Planner):
    """Plans and explains from images, agents and the route. The actions are the tokens the world model is driven by.

    choose: "greedy" says the likeliest token each time; "safe" does so too, but where that plan would hit an agent at
    constant velocity (or come within 0.9 s of it), it slows down on its own path, as gently as is enough. "likeliest",
    "medoid", "median" and "mean" are of ``samples`` plans.
    """

    name: ClassVar[str] = "direct"
    requires: ClassVar[frozenset[str]] = frozenset({"frames", "agents", "route"})

    def __init__(self, checkpoint: str = "tiny", explain: bool = False, choose: str = "safe", samples: int = 16,
                 temperature: float = 1.0) -> None:
        from drive_wm.model import DriveWM
        from drive_wm.planners.proposals import Judge

        if choose not in CHOICES or samples < 1:
            raise InputError(f"choose {choose!r} of {samples} samples: expected one of {', '.join(CHOICES)}, and 1 or "
                             "more")
        self.model = DriveWM.from_pretrained(checkpoint)
        self.explain, self.choose, self.samples, self.temperature = explain, choose, samples, temperature
        self.history_steps, self.rate_hz = self.model.config.context, self.model.config.rate_hz
        self.judge, self.seed = Judge(), 0

    def reset(self, seed: int, log: Log | None = None) -> None:
        self.seed = seed

    def plan(self, observation: Observation) -> Plan:
        import torch

        from drive_wm.planners.futures import sample_plans
        from drive_wm.scene import clip_of
        from drive_wm.world.inputs import route_vector

        model = self.model
        clip = clip_of(observation, model.rig_for(observation.rig), self.rate_hz, model.config.world.agents)
        route, stream = route_points(observation), model.read(clip)
        speed = float(clip.actions[-1, 0]) if len(clip.actions) else 0.0
        features = torch.from_numpy(route_vector(route, speed)).to(model.device)[None]
        greedy = self.choose in ("safe", "greedy")
        count, heat = (1, 0.0) if greedy else (self.samples, self.temperature)
        drawn, said = sample_plans(model, stream, features, count, temperature=heat, seed=self.seed)
        if self.choose == "safe":
            drawn = np.concatenate([drawn, slowed(drawn[0], observation.speed_mps)])
            said = -self._danger(observation, drawn)  # of equals the first, and so the gentlest, is taken
        plan = as_plan(chosen(drawn, said, self.choose), drawn, said)
        if not self.explain:
            return plan
        return replace(plan, explanation=model.explain(clip, route=route, plan=plan, stream=stream))

    def _danger(self, observation: Observation, actions: FloatArray) -> FloatArray:
        """(K,) of plans (K, 8, 2): 0 where nobody is hit, up to 1 for who is hit at once."""
        from drive_wm.planners.proposals import STATES, at_10_hz, forecast_scene, judge

        poses = np.concatenate([np.zeros((len(actions), 1, 3)), paths(actions)], 1)
        egos = self.judge.drives(observation, at_10_hz(poses, POINT_S, STATES + 10))
        judged = judge(forecast_scene(self.judge, replace(observation, map=None)).with_egos(*egos))
        first = np.where(judged.danger.any(1), judged.danger.argmax(1), STATES)
        danger: FloatArray = 1.0 - first / STATES
        return danger


def chosen(actions: FloatArray, said: FloatArray, how: str) -> FloatArray:
    """One plan (N, 2) of K (K, N, 2), whose mean log-probabilities are ``said`` (K,)."""
    if how == "median":
        middle: FloatArray = np.median(actions, 0)
        return middle
    if how == "mean":
        mean: FloatArray = actions.mean(0)
        return mean
    if how == "medoid":
        xy = paths(actions)[..., :2]
        apart = np.linalg.norm(xy[:, None] - xy[None], axis=-1).mean((1, 2))
        nearest: FloatArray = actions[int(np.argmin(apart))]
        return nearest
    likeliest: FloatArray = actions[int(np.argmax(said))]
    return likeliest


def slowed(actions: FloatArray, speed_mps: float) -> FloatArray:
    """The path of actions (N, 2) from now on, driven no faster than each of BRAKING_MPS2 allows -> (5, N, 2)."""
    at = (np.arange(len(actions)) + 0.5) * POINT_S
    most = np.maximum(0.0, speed_mps - np.array(BRAKING_MPS2)[:, None] * at)
    speeds = np.minimum(actions[:, 0], most)
    own, arcs = (np.cumsum(v * POINT_S, -1) - v * POINT_S / 2 for v in (actions[:, 0], speeds))
    bends = np.interp(arcs, own, actions[:, 1])
    slower: FloatArray = np.stack([speeds, bends], -1)
    return slower


def as_plan(actions: FloatArray, candidates: FloatArray, said: FloatArray) -> Plan:
    """The plan of ``actions`` (N, 2), with what it was chosen from; their cost is what the model was unsure of."""
    others = tuple(Trajectory(TIMES_S.copy(), path) for path in paths(candidates))
    return Plan(Trajectory(TIMES_S.copy(), paths(actions)), others, -said, actions=actions)


def paths(actions: FloatArray) -> FloatArray:
    """(..., N, 2) -> (..., N, 3) in the rig frame of now."""
    from drive_wm.geometry import integrate_actions

    return integrate_actions(np.zeros((*actions.shape[:-2], 3)), actions, POINT_S)


def route_points(observation: Observation) -> FloatArray | None:
    """The observation's route (N, 2), rig frame, at the distances that the model was taught: (8, 2), or None."""
    from drive_wm.datasets.routes import points_ahead

    if observation.route is None or len(observation.route) < 2:
        return None
    return points_ahead(observation.route, np.eye(4))
