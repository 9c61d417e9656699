"""What metrics look at: one ego, or a batch of candidate egos, among the same agents on one clock and one map."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from drive_wm.eval.metrics.base import STEP_S
from drive_wm.eval.metrics.geometry import overlaps
from drive_wm.eval.metrics.road_map import Road
from drive_wm.geometry import box_corners, wrap_angle
from drive_wm.types import BoolArray, FloatArray, InputError, IntArray, Rollout, Signal, Vehicle

SPEED_WINDOW = 5  # steps to either side: over one step, annotation noise would make parked cars move


@dataclass(frozen=True)
class History:
    """The ego before a drive, H steps of STEP_S that end one step before it: xyyaw (H, 3), speed and accel (H,)."""

    xyyaw: FloatArray
    speed_mps: FloatArray
    accel_mps2: FloatArray


@dataclass(frozen=True)
class References:
    """What some sub-scores need beyond the rollout; where it is None they are unknown, never invented.

    pdm: PDM-Closed in the same scene (its progress normalises that of others). human: the log, driven again in the
    same scene (the human filter). unreacting: who keeps on at constant velocity (the impact speed of NCAP). previous:
    the same planner, started up to 0.55 s earlier (extended comfort of drives with one plan). history: of the log.
    """

    pdm: Rollout | None = None
    human: Rollout | None = None
    unreacting: Rollout | None = None
    previous: Rollout | None = None
    history: History | None = None


@dataclass(frozen=True)
class Scene:
    """xyyaw (..., S, 3), speed_mps and accel_mps2 (..., S) of the ego's rear axle; agents (T, A, ...) with T >= S.

    ``of`` makes one from a Rollout, ``world`` from forecasts; ``with_egos`` puts a batch of candidates into the same
    world. All derived arrays keep the leading axes and are computed once, when first asked for. logged_xyyaw: (S, 3),
    logged_valid: (S,). line: (N, 2) the way to go, where progress is not to be measured along the log's.
    """

    xyyaw: FloatArray
    speed_mps: FloatArray
    accel_mps2: FloatArray
    vehicle: Vehicle
    timestamps_us: IntArray
    agents_xyyaw: FloatArray
    agents_valid: BoolArray
    agents_lwh_m: FloatArray
    agent_ids: tuple[str, ...]
    agent_categories: tuple[str, ...]
    logged_xyyaw: FloatArray
    logged_valid: BoolArray
    road: Road | None = None
    signals: tuple[Signal, ...] = ()
    references: References = field(default_factory=References)
    rollout: Rollout | None = None
    line: FloatArray | None = None

    @classmethod
    def world(cls, vehicle: Vehicle, agents_xyyaw: FloatArray, agents_lwh_m: FloatArray, categories: tuple[str, ...],
              road: Road | None, line: FloatArray, steps: int = 41) -> Scene:
        """Forecasts (T, A, 3) of agents in the world frame, T >= steps, and a way to go (N, 2): what a planner has to
        score its candidates with, given to ``with_egos`` and then to ``pdm_scores``. The ego stands at the origin.
        """
        count, agents = agents_xyyaw.shape[:2]
        still, times = np.zeros((steps, 3)), np.arange(count) * round(STEP_S * 1e6)
        ids, seen = tuple(map(str, range(agents))), np.ones((count, agents), dtype=bool)
        return cls(still, still[:, 0], still[:, 0], vehicle, times, agents_xyyaw, seen, agents_lwh_m, ids, categories,
                   still, np.zeros(steps, dtype=bool), road, line=np.asarray(line, dtype=np.float64)[:, :2])

    @classmethod
    def of(cls, drive: Rollout | Scene, references: References | None = None, road: Road | None = None) -> Scene:
        """``road``: the map already prepared, where many drives share it. Raises InputError off the 10 Hz clock."""
        if isinstance(drive, Scene):
            return drive if references is None else replace(drive, references=references)
        r = drive
        steps = np.diff(r.timestamps_us)
        if len(steps) and (np.abs(steps - STEP_S * 1e6) > 1e3).any():
            raise InputError(f"rollout of {r.log_id}: steps of {steps.min()} to {steps.max()} us, expected 100000 each")
        return cls(r.ego_xyyaw, r.ego_speed_mps, r.ego_accel_mps2, r.vehicle, r.timestamps_us, r.agents_xyyaw,
                   r.agents_valid, r.agents_lwh_m, r.agent_ids, r.agent_categories, r.logged_xyyaw, r.logged_valid,
                   road or (Road(r.map) if r.map is not None else None), r.signals, references or References(), r)

    def with_egos(self, xyyaw: FloatArray, speed_mps: FloatArray, accel_mps2: FloatArray) -> Scene:
        """The same world with other egos: (..., S, 3), (..., S), (..., S)."""
        return replace(self, xyyaw=xyyaw, speed_mps=speed_mps, accel_mps2=accel_mps2, rollout=None)

    @property
    def steps(self) -> int:
        return self.xyyaw.shape[-2]

    def footprints(self, xyyaw: FloatArray) -> FloatArray:
        """Corners (..., 4, 2) of the ego at poses (..., 3), front-left first then counter-clockwise."""
        v, shape = self.vehicle, xyyaw.shape[:-1]
        middle = (v.rear_axle_to_front_m - v.rear_axle_to_rear_m) / 2
        return box_corners(xyyaw, np.full(shape, v.length_m), np.full(shape, v.width_m), middle)

    @cached_property
    def corners(self) -> FloatArray:
        """(..., S, 4, 2)."""
        return self.footprints(self.xyyaw)

    @cached_property
    def center(self) -> FloatArray:
        """(..., S, 2) middle of the footprint."""
        middle: FloatArray = (self.corners[..., 0, :] + self.corners[..., 2, :]) / 2
        return middle

    @cached_property
    def boxes(self) -> FloatArray:
        """(T, A, 4, 2) of the agents."""
        lwh = np.broadcast_to(self.agents_lwh_m, (*self.agents_xyyaw.shape[:2], 3))
        return box_corners(self.agents_xyyaw, lwh[..., 0], lwh[..., 1])

    @cached_property
    def touching(self) -> BoolArray:
        """(..., S, A)."""
        return overlaps(self.corners, self.boxes[: self.steps], self.agents_valid[: self.steps])

    @cached_property
    def bearings(self) -> FloatArray:
        """(..., S, A) absolute angle from the ego's heading to the way from its rear axle to the agent's middle."""
        gap = self.agents_xyyaw[: self.steps, :, :2] - self.xyyaw[..., None, :2]
        course = np.arctan2(gap[..., 1], gap[..., 0]) - self.xyyaw[..., None, 2]
        bearing: FloatArray = np.abs(wrap_angle(course))
        return bearing

    @cached_property
    def agent_speeds(self) -> FloatArray:
        """(T, A) m/s over up to +-0.5 s of valid steps; 0 where fewer than two are known."""
        valid = self.agents_valid
        if not valid.size:
            return np.zeros(valid.shape)
        seen = np.argsort(~valid, axis=0, kind="stable")  # the k-th valid step of each agent
        count = valid.sum(0)
        rank: IntArray = np.cumsum(valid, 0) - valid
        last = np.maximum(count - 1, 0)
        low = np.take_along_axis(seen, np.clip(rank - SPEED_WINDOW, 0, last), 0)
        high = np.take_along_axis(seen, np.clip(rank + SPEED_WINDOW, 0, last), 0)
        xy, column = self.agents_xyyaw[..., :2], np.arange(valid.shape[1])
        moved = np.linalg.norm(xy[high, column] - xy[low, column], axis=-1)
        return np.where(count < 2, 0.0, moved / np.maximum((high - low) * STEP_S, STEP_S))

    @cached_property
    def on_road(self) -> BoolArray | None:
        """(..., S) all four corners on drivable area, intersections or car parks; None without a map."""
        if self.road is None or not len(self.road.areas):
            return None
        on: BoolArray = self.road.areas.any(self.corners).all(-1)
        return on

    @cached_property
    def in_several_lanes(self) -> BoolArray:
        """(..., S) more than one lane holds a corner of the ego, and none holds all four."""
        if self.road is None:
            return np.zeros(self.xyyaw.shape[:-1], dtype=bool)
        held = self.road.lane_areas.hold(self.corners)  # (..., S, 4, L)
        several: BoolArray = (held.any(-2).sum(-1) > 1) & ~held.all(-2).any(-1)
        return several

    @cached_property
    def strayed(self) -> BoolArray:
        """(..., S) in several lanes or off the road."""
        return self.in_several_lanes if self.on_road is None else self.in_several_lanes | ~self.on_road

    @cached_property
    def in_intersection(self) -> BoolArray:
        """(..., S) of the rear axle."""
        return self._in_intersection(self.xyyaw[..., :2])

    @cached_property
    def center_in_intersection(self) -> BoolArray:
        return self._in_intersection(self.center)

    def _in_intersection(self, points: FloatArray) -> BoolArray:
        if self.road is None:
            return np.zeros(points.shape[:-1], dtype=bool)
        return self.road.intersections.any(points)

    @cached_property
    def logged_path(self) -> FloatArray:
        """(M, 3) valid poses of the log."""
        path: FloatArray = self.logged_xyyaw[self.logged_valid]
        return path

    @cached_property
    def route(self) -> tuple[int, ...]:
        """Lanes that the log drove along, in order; empty where there is no map."""
        return self.road.lanes_along(self.logged_path) if self.road is not None and len(self.logged_path) else ()

    @cached_property
    def route_lanes(self) -> set[int]:
        """The route's lanes, their neighbours of the same direction, and what continues them."""
        return self.road.on_route(self.route) if self.road is not None else set()
