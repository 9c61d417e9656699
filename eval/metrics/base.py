"""What all metrics share: how a Score is made, and what a failed drive is worth."""

from __future__ import annotations

from typing import Any

import numpy as np

from drive_wm.types import FloatArray, Rollout, Score

STEP_S = 0.1  # every rollout's clock


def failed(rollout: Rollout) -> bool:
    """The planner failed, drove to where no number is, or the rollout is shorter than it was to be."""
    broken = not (np.isfinite(rollout.ego_xyyaw).all() and np.isfinite(rollout.ego_speed_mps).all())
    short = not rollout.completed or len(rollout.timestamps_us) < rollout.planned_steps
    return bool(rollout.plan_errors) or short or broken


def score(rollout: Rollout | None, name: str, value: float, protocol: str, per_step: FloatArray | None = None, *,
          worst: float = 0.0, **evidence: Any) -> Score:
    """A valid Score; a failed rollout's is ``worst``, says so and is never dropped."""
    if rollout is not None and failed(rollout):
        value, evidence = worst, {**evidence, "failed": dict(rollout.plan_errors) or "cut short"}
    return Score(name, float(value), True, protocol, per_step, evidence)


def unknown(rollout: Rollout | None, name: str, protocol: str, why: str, worst: float = 0.0) -> Score:
    """What cannot be had is NaN and invalid; but a failed rollout's is ``worst`` even then."""
    if rollout is not None and failed(rollout):
        return score(rollout, name, worst, protocol, worst=worst, why=why)
    return Score(name, float("nan"), False, protocol, None, {"why": why})
