"""Time to collision: would the ego, going on as it does, soon hit someone who matters?"""

from __future__ import annotations

import numpy as np

from drive_wm.eval.metrics.base import STEP_S, score
from drive_wm.eval.metrics.collision import AHEAD_RAD, BEHIND_RAD, STOPPED_MPS, collision_worth
from drive_wm.eval.metrics.geometry import boxes_overlap, overlaps
from drive_wm.eval.metrics.scene import Scene
from drive_wm.geometry import box_corners, wrap_angle
from drive_wm.types import BoolArray, FloatArray, Rollout, Score

CREEPING_MPS = 0.005  # a slower ego is not asked


def steps_in_danger(scene: Scene, ahead_steps: tuple[int, ...] = (0, 3, 6, 9), last_step: int | None = None,
                    first_hit: bool = True, intersections: bool = True, bearing_now: bool = False,
                    skip_touched: bool = False, ahead_rad: float = AHEAD_RAD,
                    behind_rad: float = BEHIND_RAD) -> BoolArray:
    """(..., S): the ego's box, moved on at constant velocity, overlaps a track where that is at the same time, and the
    track is ahead, or is not behind while the ego is in several lanes, off the road (or in an intersection).

    last_step: states after it are not asked. first_hit: of each track only the first overlap counts, as in NAVSIM: one
    that does not matter removes the track. bearing_now: of where the track is, not of where it will be.
    """
    hits = np.stack([_projected(scene, k) for k in ahead_steps], -2)  # (..., S, K, A)
    if last_step is not None:
        hits[..., last_step + 1:, :, :] = False
    hits &= ~scene.touching[..., 0, None, None, :]  # who overlaps the ego from the start is not asked about
    if skip_touched:
        hits &= ~np.logical_or.accumulate(scene.touching, -2)[..., None, :]
    hits &= (np.abs(scene.speed_mps) >= CREEPING_MPS)[..., None, None]
    *at, step, k, agent = np.nonzero(hits)
    here, then = (*at, step), step if bearing_now else step + np.array(ahead_steps)[k]
    gap = scene.agents_xyyaw[then, agent, :2] - scene.xyyaw[here][:, :2]
    bearing = np.abs(wrap_angle(np.arctan2(gap[:, 1], gap[:, 0]) - scene.xyyaw[here][:, 2]))
    loose = scene.strayed | scene.in_intersection if intersections else scene.strayed
    matters = (bearing < ahead_rad) | (loose[here] & (bearing <= behind_rad))
    if first_hit and len(agent):
        _, first = np.unique(np.stack([*at, agent]), axis=1, return_index=True)  # nonzero() goes in order of time
        matters &= np.isin(np.arange(len(agent)), first)
    danger = np.zeros(scene.xyyaw.shape[:-1], dtype=bool)
    danger[tuple(axis[matters] for axis in here)] = True
    return danger


def _projected(scene: Scene, ahead: int) -> BoolArray:
    """(..., S, A) overlaps of the ego carried on for ``ahead`` steps; False where the agents are not known so far."""
    count = max(0, min(scene.steps, len(scene.agents_xyyaw) - ahead))
    out = np.zeros((*scene.xyyaw.shape[:-1], len(scene.agent_ids)), dtype=bool)
    if ahead == 0:
        return scene.touching.copy()
    pose = scene.xyyaw[..., :count, :].copy()
    course = np.stack([np.cos(pose[..., 2]), np.sin(pose[..., 2])], -1)
    pose[..., :2] += course * (scene.speed_mps[..., :count] * ahead * STEP_S)[..., None]
    boxes, valid = scene.boxes[ahead: ahead + count], scene.agents_valid[ahead: ahead + count]
    out[..., :count, :] = overlaps(scene.footprints(pose), boxes, valid)
    return out


def time_to_collision(drive: Rollout | Scene, protocol: str, *, ahead_steps: tuple[int, ...] = (0, 3, 6, 9),
                      leave_out_last: int = 0, first_hit: bool = True, intersections: bool = True,
                      bearing_now: bool = False, skip_touched: bool = False, ahead_rad: float = AHEAD_RAD,
                      behind_rad: float = BEHIND_RAD) -> Score:
    """PDMS' TTC: 1 where no step is in danger within 0.9 s (see steps_in_danger), else 0."""
    scene = Scene.of(drive)
    danger = steps_in_danger(scene, ahead_steps, scene.steps - 1 - leave_out_last, first_hit, intersections,
                             bearing_now, skip_touched, ahead_rad, behind_rad)
    first = int(np.argmax(danger)) if danger.any() else None
    return score(scene.rollout, "time_to_collision", float(not danger.any()), protocol, (~danger).astype(float),
                 first_step=first)


# --- nuPlan's: both go on at constant velocity --------------------------------------------------------------------


def times_to_collision(scene: Scene, horizon_s: float = 3.0, ahead_rad: float = AHEAD_RAD,
                       behind_rad: float = BEHIND_RAD) -> FloatArray:
    """(S,) seconds until the ego would overlap a track, both going straight on at their speed, in steps of 0.1 s below
    the horizon; inf without one. Tracks count as in PDMS by where they are now; none once it has touched the ego."""
    out = np.full(scene.steps, np.inf)
    loose = (scene.strayed | scene.in_intersection)[:, None]
    matters = (scene.bearings < ahead_rad) | (loose & (scene.bearings <= behind_rad))
    matters &= scene.agents_valid[: scene.steps] & ~np.logical_or.accumulate(scene.touching, 0)
    matters &= (np.abs(scene.speed_mps) > CREEPING_MPS)[:, None]
    speeds = scene.agent_speeds[: scene.steps]
    gap = np.linalg.norm(scene.agents_xyyaw[: scene.steps, :, :2] - scene.center[:, None], axis=-1)
    reach = np.linalg.norm(scene.agents_lwh_m[:, :2], axis=-1) / 2 + scene.vehicle.length_m
    step, agent = np.nonzero(matters & (gap < reach + (speeds + np.abs(scene.speed_mps)[:, None]) * horizon_s))
    after = np.arange(1, round(horizon_s / STEP_S)) * STEP_S  # (K,)
    ego = _carried(scene.xyyaw[step], scene.speed_mps[step], after)
    track = _carried(scene.agents_xyyaw[step, agent], speeds[step, agent], after)
    lwh = np.broadcast_to(scene.agents_lwh_m[agent][:, None], (*track.shape[:2], 3))
    hits = boxes_overlap(scene.footprints(ego), box_corners(track, lwh[..., 0], lwh[..., 1]))  # (N, K)
    time = np.where(hits.any(1), after[np.argmax(hits, 1)], np.inf)
    np.minimum.at(out, step, time)
    return out


def _carried(xyyaw: FloatArray, speed_mps: FloatArray, after_s: FloatArray) -> FloatArray:
    """(N, 3), (N,), (K,) -> (N, K, 3)."""
    way = speed_mps[:, None] * after_s
    yaw = np.broadcast_to(xyyaw[:, None, 2], way.shape)
    return np.stack([xyyaw[:, None, 0] + way * np.cos(yaw), xyyaw[:, None, 1] + way * np.sin(yaw), yaw], -1)


def least_time_to_collision(drive: Rollout | Scene, protocol: str, *, least_s: float = 0.95, horizon_s: float = 3.0,
                            stopped_mps: float = STOPPED_MPS) -> Score:
    """nuPlan's TTC: 1 where the least time to collision is above ``least_s``, else 0; 0 s at an at-fault collision.

    evidence: least_s seen, None where it is beyond the horizon.
    """
    scene = Scene.of(drive)
    times = times_to_collision(scene, horizon_s)
    times = np.where(collision_worth(scene, 0.0, stopped_mps=stopped_mps) < 1.0, 0.0, times)
    least = float(times.min())
    return score(scene.rollout, "time_to_collision", float(least > least_s), protocol, (times > least_s).astype(float),
                 least_s=least if np.isfinite(least) else None)
