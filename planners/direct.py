"""The model as a planner: one pass over the past, then its own action tokens; no frames are imagined."""

from __future__ import annotations

from typing import ClassVar

from drive_wm.planners.base import Planner
from drive_wm.types import FloatArray, Log, Observation, Plan


class DirectPlanner(Planner):
    """Plans and explains from images, agents and the route. The actions are the tokens the world model is driven by."""

    name: ClassVar[str] = "direct"
    requires: ClassVar[frozenset[str]] = frozenset({"frames", "agents", "route"})

    def __init__(self, checkpoint: str = "tiny", explain: bool = False) -> None:
        from drive_wm.model import DriveWM

        self.model = DriveWM.from_pretrained(checkpoint)
        self.explain = explain
        self.history_steps, self.rate_hz = self.model.config.context, self.model.config.rate_hz
        self.seed = 0

    def reset(self, seed: int, log: Log | None = None) -> None:
        self.seed = seed

    def plan(self, observation: Observation) -> Plan:
        from dataclasses import replace

        from drive_wm.scene import clip_of

        model = self.model
        clip = clip_of(observation, model.rig_for(observation.rig), self.rate_hz, model.config.world.agents)
        route = route_points(observation)
        stream = model.read(clip)
        plan = model.plan(clip, route, stream=stream, seed=self.seed)
        return replace(plan, explanation=model.explain(clip, route=route, stream=stream)) if self.explain else plan


def route_points(observation: Observation) -> FloatArray | None:
    """The observation's route (N, 2), rig frame, at the distances that the model was taught: (8, 2), or None."""
    import numpy as np

    from drive_wm.datasets.routes import points_ahead

    if observation.route is None or len(observation.route) < 2:
        return None
    return points_ahead(observation.route, np.eye(4))
