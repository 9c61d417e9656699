"""Open loop on the log, as nuScenes' planners report it: six points at 2 Hz against where the log went.

The rollout's ego is on the log (tracking "log"); every plan with 3 s of log after it is one sample. Two conventions
give very different numbers of the same plans: UniAD takes the error AT 1, 2 and 3 s, ST-P3 the mean over the points up
to then. Neither can tell a good driver: most of nuScenes is straight on, and the ego's own speed predicts it well.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from drive_wm.eval.metrics.base import STEP_S, score, unknown
from drive_wm.eval.metrics.scene import Scene
from drive_wm.geometry import compose_xyyaw, relative_xyyaw
from drive_wm.types import BoolArray, FloatArray, IntArray, Rollout, Score

POINTS, POINT_STEPS = 6, 5  # 6 points, 0.5 s apart
FAILED_L2_M = 100.0
FAILED_COLLISION = 1.0
ON_LOG_M = 0.1
WHY = "no plan of 3 s on the log with 3 s of log after it: run it with the ego on the log (tracking 'log')"


@dataclass(frozen=True)
class Samples:
    """N plans: step (N,), plan and truth (N, 6, 3) in the rig frame of their step, off_log: plans left out."""

    scene: Scene
    step: IntArray
    plan: FloatArray
    truth: FloatArray
    off_log: int

    @cached_property
    def later(self) -> IntArray:
        """(N, 6) steps of the points."""
        return self.step[:, None] + np.arange(1, POINTS + 1) * POINT_STEPS


def samples(scene: Scene) -> Samples:
    """Plans made on the log (within 0.1 m) that reach 3 s and can be compared."""
    plans = scene.rollout.plans if scene.rollout is not None else ()
    times = np.arange(1, POINTS + 1) * POINT_STEPS * STEP_S
    found: list[tuple[int, FloatArray, FloatArray]] = []
    off = 0
    for step, plan in enumerate(plans):
        later = step + np.arange(POINTS + 1) * POINT_STEPS
        if plan is None or later[-1] >= scene.steps or not scene.logged_valid[later].all():
            continue
        here = scene.logged_xyyaw[step]
        points = plan.trajectory
        if np.hypot(*(scene.xyyaw[step, :2] - here[:2])) > ON_LOG_M or points.times_s[-1] < times[-1] - 1e-6:
            off += 1
            continue
        at, xyyaw = np.concatenate([[0.0], points.times_s]), np.concatenate([np.zeros((1, 3)), points.xyyaw])
        xyyaw[:, 2] = np.unwrap(xyyaw[:, 2])
        along = np.stack([np.interp(times, at, xyyaw[:, d]) for d in range(3)], -1)
        found.append((step, along, relative_xyyaw(here, scene.logged_xyyaw[later[1:]])))
    shape = (len(found), POINTS, 3)
    planned, truth = (np.array([f[i] for f in found]).reshape(shape) for i in (1, 2))
    return Samples(scene, np.array([step for step, _, _ in found], dtype=int), planned, truth, off)


def _reported(per_point: FloatArray, cumulative: bool) -> dict[str, float]:
    """(6,) -> at 1, 2, 3 s: the value then, or the mean of all points up to then."""
    return {f"{s} s": float(per_point[:2 * s].mean() if cumulative else per_point[2 * s - 1]) for s in (1, 2, 3)}


def l2(drive: Rollout | Scene, protocol: str, *, cumulative: bool) -> Score:
    """Metres between plan and log, the mean of the values for 1, 2 and 3 s (in evidence); 100 where the planner failed.

    cumulative: ST-P3's convention, else UniAD's. per_step: mean over a plan's points, at its step; NaN elsewhere.
    """
    scene = Scene.of(drive)
    found = samples(scene)
    if not len(found.step):
        return unknown(scene.rollout, "l2", protocol, WHY, worst=FAILED_L2_M)
    gap = np.linalg.norm((found.plan - found.truth)[..., :2], axis=-1)  # (N, 6)
    at = _reported(gap.mean(0), cumulative)
    steps = np.full(scene.steps, np.nan)
    steps[found.step] = gap.mean(1)
    return score(scene.rollout, "l2", float(np.mean(list(at.values()))), protocol, steps, worst=FAILED_L2_M,
                 samples=len(found.step), off_log=found.off_log, **at)


# --- collisions on a grid -----------------------------------------------------------------------------------------


def _cells(poses: FloatArray, length_m: float, width_m: float, forward_m: float, cell_m: float,
           with_yaw: bool) -> tuple[FloatArray, BoolArray]:
    """Centres (N, 6, C, 2) of the cells around poses (N, 6, 3), and which of them the footprint covers.

    Without yaw as UniAD and ST-P3 have it: the cells under an unturned box at the origin, shifted by whole cells.
    """
    reach = int(np.ceil(np.hypot(length_m / 2 + forward_m, width_m / 2) / cell_m)) + 1
    k = np.arange(-reach, reach + 1)
    offset = np.stack(np.meshgrid(k, k, indexing="ij"), -1).reshape(-1, 2)  # (C, 2)
    shift = np.floor(poses[..., None, :2] / cell_m)
    centres = (shift + offset + 0.5) * cell_m
    local = (offset + 0.5) * cell_m * np.ones_like(centres)
    if with_yaw:
        local = relative_xyyaw(poses[..., None, :], np.concatenate([centres, np.zeros_like(centres[..., :1])], -1))
    covered = (np.abs(local[..., 0] - forward_m) < length_m / 2) & (np.abs(local[..., 1]) < width_m / 2)
    return centres, covered


def _occupied(found: Samples, centres: FloatArray, half_m: float) -> BoolArray:
    """(N, 6, C) cells whose centre lies in an agent's box at that time, within the grid around the ego."""
    scene, world = found.scene, compose_xyyaw
    here = scene.logged_xyyaw[found.step][:, None, None]
    points = world(here, np.concatenate([centres, np.zeros_like(centres[..., :1])], -1))[..., :2]
    boxes, valid = scene.agents_xyyaw[found.later], scene.agents_valid[found.later]  # (N, 6, A, 3)
    gap = points[..., None, :] - boxes[..., None, :, :2]
    c, s = np.cos(boxes[..., None, :, 2]), np.sin(boxes[..., None, :, 2])
    along, across = c * gap[..., 0] + s * gap[..., 1], c * gap[..., 1] - s * gap[..., 0]
    size = scene.agents_lwh_m[:, :2] / 2
    inside = (np.abs(along) <= size[:, 0]) & (np.abs(across) <= size[:, 1]) & valid[..., None, :]
    occupied: BoolArray = inside.any(-1) & (np.abs(centres) < half_m).all(-1)
    return occupied


def collisions(found: Samples, with_yaw: bool, length_m: float, width_m: float, forward_m: float, cell_m: float,
               half_m: float) -> FloatArray:
    """(N, 6) 1 where the plan's footprint meets an agent and the log's own does not, else 0."""

    def hits(poses: FloatArray) -> BoolArray:
        centres, covered = _cells(poses, length_m, width_m, forward_m, cell_m, with_yaw)
        met: BoolArray = (covered & _occupied(found, centres, half_m)).any(-1)
        return met

    return (hits(found.plan) & ~hits(found.truth)).astype(float)


def collision_rate(drive: Rollout | Scene, protocol: str, *, cumulative: bool, with_yaw: bool = False,
                   length_m: float = 4.084, width_m: float = 1.85, forward_m: float = 0.5, cell_m: float = 0.5,
                   half_m: float = 50.0) -> Score:
    """Share of plans that meet an agent's box on a grid of 200 x 200 cells of 0.5 m: the mean of 1, 2 and 3 s.

    Times at which the log's own footprint collides are left out, as UniAD and ST-P3 do. with_yaw: the footprint is
    turned with the plan; theirs is not, so that beside a row of cars a turning plan passes for free.
    """
    scene, name = Scene.of(drive), "collision_rate_turned" if with_yaw else "collision_rate"
    found = samples(scene)
    if not len(found.step):
        return unknown(scene.rollout, name, protocol, WHY, worst=FAILED_COLLISION)
    hit = collisions(found, with_yaw, length_m, width_m, forward_m, cell_m, half_m)
    at = _reported(hit.mean(0), cumulative)
    steps = np.full(scene.steps, np.nan)
    steps[found.step] = hit.max(1)
    return score(scene.rollout, name, float(np.mean(list(at.values()))), protocol, steps, worst=FAILED_COLLISION,
                 samples=len(found.step), **at)


def l2_to_log(drive: Rollout | Scene, protocol: str) -> Score:
    """Metres between the ego and the log at 1, 2 and 3 s of the closed loop, and their mean; 100 if it failed."""
    scene = Scene.of(drive)
    gap = np.hypot(*(scene.xyyaw[:, :2] - scene.logged_xyyaw[:, :2]).T)
    gap = np.where(scene.logged_valid, gap, np.nan)
    steps = {f"{s} s": round(s / STEP_S) for s in (1, 2, 3)}
    at = {name: float(gap[step]) for name, step in steps.items() if step < len(gap) and np.isfinite(gap[step])}
    if not at:
        return unknown(scene.rollout, "l2_to_log", protocol, "the log has no pose at 1, 2 or 3 s", worst=FAILED_L2_M)
    return score(scene.rollout, "l2_to_log", float(np.mean(list(at.values()))), protocol, gap, worst=FAILED_L2_M, **at)
