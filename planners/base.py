"""What a planner is: the past and the present in, a trajectory out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from drive_wm.types import FloatArray, InputError, Log, Observation, Plan, Trajectory

SENSES = frozenset({"frames", "agents", "map", "signals", "route", "layout"})
HORIZON_S = 4.0
POINT_S = 0.5
TIMES_S = np.arange(1, round(HORIZON_S / POINT_S) + 1) * POINT_S  # (8,)


class Planner(ABC):
    """Subclass, name what you need in ``requires``, implement ``plan``.

    requires: which of SENSES the Observation shall hold; nothing else is filled. oracle: reads the log's future through
    ``reset`` and is marked so in every table. history_steps past steps at rate_hz come with each Observation.
    """

    name: ClassVar[str] = ""
    requires: ClassVar[frozenset[str]] = frozenset()
    oracle: ClassVar[bool] = False
    history_steps: int = 4
    rate_hz: float = 2.0

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        unknown = sorted(set(cls.requires) - SENSES)
        if unknown:
            raise InputError(f"planner {cls.__name__}: requires {unknown}, expected a subset of {sorted(SENSES)}")
        if "name" not in cls.__dict__:
            cls.name = cls.__name__  # never the parent's: two planners of one name would share a row

    def reset(self, seed: int, log: Log | None = None) -> None:
        """Called once before a drive. ``log`` is given to an oracle only."""

    def close(self) -> None:
        """Called once after the last drive."""

    @abstractmethod
    def plan(self, observation: Observation) -> Plan:
        """Where to go from now on: TIMES_S (0.5 ... 4 s) in the rig frame of now."""


def check_plan(plan: object) -> Plan:
    """The plan itself if it can be driven; raises InputError where it is no Plan, not finite, or shorter than 1 s."""
    if not isinstance(plan, Plan):
        raise InputError(f"a planner returned {type(plan).__name__}, expected drive_wm.types.Plan")
    points: FloatArray = np.asarray(plan.trajectory.xyyaw, dtype=np.float64)
    if points.shape != (len(plan.trajectory.times_s), 3) or not np.isfinite(points).all():
        raise InputError(f"a plan's xyyaw must be finite and (N, 3), got shape {points.shape}")
    if plan.trajectory.times_s[-1] < 1.0:
        raise InputError(f"a plan reaches {plan.trajectory.times_s[-1]:.2f} s ahead, expected at least 1 s")
    return plan


def stand_still() -> Trajectory:
    return Trajectory(TIMES_S.copy(), np.zeros((len(TIMES_S), 3)))
