"""What a closed loop was worth: pure functions of one Rollout, each with its validity and its evidence step by step.

A planner that raised, answered with NaN or did not reach the end gets the worst value, valid, and is never dropped.
Definitions follow PDMS of NAVSIM where they say so; in every score 1 is best, except l2_to_log in metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from drive_wm.geometry import box_corners, points_in_polygon, wrap_angle
from drive_wm.types import BoolArray, FloatArray, Rollout, Score

STEP_S = 0.1
STOPPED_MPS = 0.05
BEHIND_RAD, AHEAD_RAD = np.deg2rad(150.0), np.deg2rad(30.0)
LEFT_PATH_M = 4.0  # further from the log's path than this, driving on is no progress (AlpaSim ends the scene there)
SHORT_LOG_M = 5.0
ROLLING_S = 1.2  # a tracked ego that is told to stand rolls on for 1.1 s of its speed
FAILED_L2_M = 100.0
TTC_AHEAD = (0, 3, 6, 9)  # steps
COMFORT_BOUNDS: dict[str, tuple[float, float]] = {  # strict
    "longitudinal_accel_mps2": (-4.05, 2.40),
    "lateral_accel_mps2": (-4.89, 4.89),
    "jerk_mps3": (-8.37, 8.37),
    "longitudinal_jerk_mps3": (-4.13, 4.13),
    "yaw_accel_radps2": (-1.93, 1.93),
    "yaw_rate_radps": (-0.95, 0.95),
}


def failed(rollout: Rollout) -> bool:
    """The planner failed, or the rollout is shorter than it was to be."""
    return bool(rollout.plan_errors) or not rollout.completed or len(rollout.timestamps_us) < rollout.planned_steps


def _score(rollout: Rollout, name: str, value: float, protocol: str, per_step: FloatArray | None = None, *,
           worst: float = 0.0, **evidence: Any) -> Score:
    if failed(rollout):
        value, evidence = worst, {**evidence, "failed": dict(rollout.plan_errors) or "cut short"}
    return Score(name, float(value), True, protocol, per_step, evidence)


def _unknown(name: str, protocol: str, why: str) -> Score:
    return Score(name, float("nan"), False, protocol, None, {"why": why})


# --- geometry of boxes --------------------------------------------------------------------------------------------


def boxes_overlap(a: FloatArray, b: FloatArray) -> BoolArray:
    """Separating axes: convex quadrilaterals (..., 4, 2), broadcast -> (...); touching is not overlapping."""
    a, b = np.broadcast_arrays(a, b)
    apart = np.zeros(a.shape[:-2], dtype=bool)
    for box in (a, b):
        for i in range(2):
            axis = box[..., i + 1, :] - box[..., i, :]
            pa, pb = (a * axis[..., None, :]).sum(-1), (b * axis[..., None, :]).sum(-1)
            apart |= (pa.max(-1) <= pb.min(-1)) | (pb.max(-1) <= pa.min(-1))
    return ~apart


def segment_hits_box(start: FloatArray, end: FloatArray, box: FloatArray) -> bool:
    """Whether a segment (2,), (2,) meets a convex box (4, 2)."""
    sliver = np.stack([start, end, end, start])
    axes = [box[1] - box[0], box[2] - box[1], np.array([-(end - start)[1], (end - start)[0]])]
    return all((sliver @ n).max() >= (box @ n).min() and (box @ n).max() >= (sliver @ n).min() for n in axes)


def ego_corners(rollout: Rollout, xyyaw: FloatArray | None = None) -> FloatArray:
    """(..., 4, 2) footprints of the ego, front-left first then counter-clockwise."""
    v = rollout.vehicle
    poses = rollout.ego_xyyaw if xyyaw is None else xyyaw
    shape = poses.shape[:-1]
    middle = (v.rear_axle_to_front_m - v.rear_axle_to_rear_m) / 2
    return box_corners(poses, np.full(shape, v.length_m), np.full(shape, v.width_m), middle)


def agent_corners(rollout: Rollout) -> FloatArray:
    """(S, A, 4, 2)."""
    lwh = np.broadcast_to(rollout.agents_lwh_m, (*rollout.agents_xyyaw.shape[:2], 3))
    return box_corners(rollout.agents_xyyaw, lwh[..., 0], lwh[..., 1])


def _bearings(rollout: Rollout) -> FloatArray:
    """(S, A) absolute angle between the ego's heading and the way from its rear axle to each agent's centre."""
    gap = rollout.agents_xyyaw[..., :2] - rollout.ego_xyyaw[:, None, :2]
    bearing: FloatArray = np.abs(wrap_angle(np.arctan2(gap[..., 1], gap[..., 0]) - rollout.ego_xyyaw[:, None, 2]))
    return bearing


def agent_speeds(rollout: Rollout) -> FloatArray:
    """(S, A) m/s over up to +-0.5 s of valid steps: over one step, annotation noise would make parked cars move."""
    steps, agents = rollout.agents_valid.shape
    speed = np.zeros((steps, agents))
    for a in range(agents):
        seen = np.flatnonzero(rollout.agents_valid[:, a])
        if len(seen) < 2:
            continue
        at = np.searchsorted(seen, np.arange(steps))
        low, high = seen[np.clip(at - 5, 0, len(seen) - 1)], seen[np.clip(at + 5, 0, len(seen) - 1)]
        moved = np.hypot(*(rollout.agents_xyyaw[high, a, :2] - rollout.agents_xyyaw[low, a, :2]).T)
        speed[:, a] = moved / np.maximum((high - low) * STEP_S, STEP_S)
    return speed


# --- road ---------------------------------------------------------------------------------------------------------


def inside_any(points: FloatArray, polygons: Sequence[FloatArray]) -> BoolArray:
    """Points (..., 2) in at least one polygon."""
    flat = points.reshape(-1, 2)
    inside = np.zeros(len(flat), dtype=bool)
    for polygon in polygons:
        low, high = polygon[:, :2].min(0), polygon[:, :2].max(0)
        near = np.flatnonzero(~inside & (flat >= low).all(1) & (flat <= high).all(1))
        if len(near):
            inside[near] = points_in_polygon(flat[near], polygon[:, :2])
    return inside.reshape(points.shape[:-1])


def steps_on_road(rollout: Rollout) -> BoolArray | None:
    """(S,) all four corners on drivable area, intersections or car parks; None without a map."""
    road = rollout.map
    polygons = (*road.drivable, *road.intersections, *road.carparks) if road is not None else ()
    if not polygons:
        return None
    on_road: BoolArray = inside_any(ego_corners(rollout), polygons).all(-1)
    return on_road


def steps_in_several_lanes(rollout: Rollout) -> BoolArray:
    """(S,) more than one lane holds a corner of the ego, and none holds all four."""
    corners = ego_corners(rollout)
    holders, whole = np.zeros(len(corners), dtype=int), np.zeros(len(corners), dtype=bool)
    for lane in rollout.map.lanes.values() if rollout.map is not None else ():
        held = inside_any(corners, [np.concatenate([lane.left_m, lane.right_m[::-1]])])
        holders += held.any(-1)
        whole |= held.all(-1)
    return (holders > 1) & ~whole


def on_road(rollout: Rollout, protocol: str) -> Score:
    """PDMS' DAC: 0 if any corner of the ego ever leaves the road, no tolerance. Unknown without a map."""
    steps = steps_on_road(rollout)
    if steps is None:
        return _unknown("on_road", protocol, "the log has no drivable area")
    first = None if steps.all() else int(np.argmin(steps))
    return _score(rollout, "on_road", float(steps.all()), protocol, steps.astype(float), first_step_off=first)


# --- collisions ---------------------------------------------------------------------------------------------------


def contacts(rollout: Rollout) -> list[dict[str, Any]]:
    """First contact with each agent, classified as in PDMS: {step, id, category, kind, at_fault}.

    The first that matches decides: the ego stands (not at fault), the agent stands (at fault), the agent is behind
    (not), the ego's front bumper hits (at fault), else lateral: at fault while the ego is in several lanes or off the
    road, or where no map can tell. Agents that overlap the ego when the drive begins are no one's fault.
    """
    touching = boxes_overlap(ego_corners(rollout)[:, None], agent_corners(rollout)) & rollout.agents_valid
    if not touching.any():
        return []
    speeds, bearings, corners = agent_speeds(rollout), _bearings(rollout), ego_corners(rollout)
    road = steps_on_road(rollout)
    strayed = np.ones(len(corners), dtype=bool) if road is None else ~road | steps_in_several_lanes(rollout)
    found = []
    for a in np.flatnonzero(touching.any(0)):
        step = int(np.argmax(touching[:, a]))
        box = agent_corners(rollout)[step, a]
        if step == 0:
            kind, fault = "at start", False
        elif abs(rollout.ego_speed_mps[step]) <= STOPPED_MPS:
            kind, fault = "stopped ego", False
        elif speeds[step, a] <= STOPPED_MPS:
            kind, fault = "stopped agent", True
        elif bearings[step, a] > BEHIND_RAD:
            kind, fault = "rear", False
        elif segment_hits_box(corners[step, 0], corners[step, 3], box):
            kind, fault = "front", True
        else:
            kind, fault = "lateral", bool(strayed[step])
        found.append({"step": step, "id": rollout.agent_ids[a], "category": rollout.agent_categories[a], "kind": kind,
                      "at_fault": fault})
    return sorted(found, key=lambda c: (c["step"], c["id"]))


def no_at_fault_collision(rollout: Rollout, protocol: str) -> Score:
    """PDMS' NC: 1 without an at-fault contact, 0.5 where only static objects were hit, else 0."""
    per_step, found = np.ones(len(rollout.timestamps_us)), contacts(rollout)
    for contact in found:
        if contact["at_fault"]:
            worth = 0.5 if contact["category"] == "object" else 0.0
            per_step[contact["step"]:] = np.minimum(per_step[contact["step"]:], worth)
    return _score(rollout, "no_at_fault_collision", per_step[-1], protocol, per_step, contacts=found)


def time_to_collision(rollout: Rollout, protocol: str) -> Score:
    """PDMS' TTC: 0 if the ego at constant velocity would, within 0.9 s, hit an agent ahead (30 degrees), or one not
    behind while in several lanes or off the road. Agents touched before are left out."""
    steps, boxes = len(rollout.timestamps_us), agent_corners(rollout)
    touched = np.zeros(rollout.agents_valid.shape, dtype=bool)
    bearings, road = _bearings(rollout), steps_on_road(rollout)
    strayed = steps_in_several_lanes(rollout) | (~road if road is not None else False)
    danger = np.zeros(steps, dtype=bool)
    for ahead in TTC_AHEAD:
        n = steps - ahead
        if n < 1:
            break
        pose = rollout.ego_xyyaw[:n].copy()
        course = np.stack([np.cos(pose[:, 2]), np.sin(pose[:, 2])], -1)
        pose[:, :2] += course * (rollout.ego_speed_mps[:n] * ahead * STEP_S)[:, None]
        hit = boxes_overlap(ego_corners(rollout, pose)[:, None], boxes[ahead:]) & rollout.agents_valid[ahead:]
        if ahead == 0:
            touched = np.logical_or.accumulate(hit, 0)
        matters = (bearings[:n] < AHEAD_RAD) | (strayed[:n, None] & (bearings[:n] <= BEHIND_RAD))
        moving = rollout.ego_speed_mps[:n, None] >= 0.005
        danger[:n] |= (hit & matters & moving & ~touched[:n]).any(1)
    first = int(np.argmax(danger)) if danger.any() else None
    return _score(rollout, "time_to_collision", float(not danger.any()), protocol, (~danger).astype(float),
                  first_step=first)


# --- progress -----------------------------------------------------------------------------------------------------


def follow_polyline(points: FloatArray, line: FloatArray, near_m: float | None = None,
                    window_m: float = 30.0) -> tuple[FloatArray, FloatArray]:
    """Arc lengths (M,) and distances (M,) of successive points (M, 2) on a line (N, 2).

    Each is sought within window_m of the one before, so that a line which crosses itself is followed and not cut short;
    without ``near_m`` the first is sought everywhere.
    """
    start, delta = line[:-1], np.diff(line, axis=0)
    length = np.maximum(np.linalg.norm(delta, axis=1), 1e-9)
    begin = np.concatenate([[0.0], np.cumsum(length)])[:-1]
    arcs, gaps = np.zeros(len(points)), np.zeros(len(points))
    for i, point in enumerate(points):
        t = np.clip(((point - start) * delta).sum(1) / length, 0.0, length)
        gap = np.linalg.norm(start + delta * (t / length)[:, None] - point, axis=1)
        if near_m is not None:
            gap = np.where(np.abs(begin + t - near_m) <= window_m, gap, gap + 1e6)
        best = int(np.argmin(gap))
        arcs[i], gaps[i] = begin[best] + t[best], gap[best]
        near_m = float(arcs[i])
    return arcs, gaps


def progress(rollout: Rollout, protocol: str) -> Score:
    """How far along the log's path the ego came, over how far the log came in the same time, at most 1.

    Progress ends where the ego is more than 4 m off the path. A log that moved less than 5 m asks for none: 1
    (AlpaSim). per_step: metres along the path. Unknown where the log has no path.
    """
    line = rollout.logged_xyyaw[rollout.logged_valid, :2]
    if len(line) < 2:
        return _unknown("progress", protocol, "the log has no ego path")
    logged_m = float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())
    if logged_m < SHORT_LOG_M:
        return _score(rollout, "progress", 1.0, protocol, logged_m=logged_m, why="the log moved less than 5 m")
    arcs, gaps = follow_polyline(rollout.ego_xyyaw[:, :2], line, 0.0)
    travelled = arcs - arcs[0]
    left = gaps > LEFT_PATH_M
    last = len(left) - 1 if not left.any() else max(int(np.argmax(left)) - 1, 0)
    driven_m = float(travelled[last])
    return _score(rollout, "progress", float(np.clip(driven_m / logged_m, 0.0, 1.0)), protocol, travelled,
                  driven_m=driven_m, logged_m=logged_m, left_path_at=last + 1 if left.any() else None)


def made_progress(rollout: Rollout, protocol: str) -> Score:
    """nuPlan's gate: 1 where progress is at least 0.2, else 0, so that standing is worth nothing.

    The way that a moving ego rolls while it stops is taken off both sides first, or braking at once would pass. Where
    less than 5 m then remain of the log's way, standing was right: 1.
    """
    whole = progress(rollout, protocol)
    if not whole.valid:
        return _unknown("made_progress", protocol, "the log has no ego path")
    rolling_m = ROLLING_S * max(float(rollout.ego_speed_mps[0]), 0.0)
    asked_m = whole.evidence["logged_m"] - rolling_m
    share = 1.0 if asked_m < SHORT_LOG_M else (whole.evidence["driven_m"] - rolling_m) / asked_m
    return _score(rollout, "made_progress", float(share >= 0.2), protocol, share=share, rolling_m=rolling_m)


# --- comfort ------------------------------------------------------------------------------------------------------


def savitzky_golay(values: FloatArray, window: int, order: int, derivative: int = 0) -> FloatArray:
    """(N,) smoothed, or its derivative per second: a polynomial fitted to the window around each sample.

    At the ends the outermost whole window is used. An even window lies half a step early, yet is read at the sample.
    Savitzky and Golay, 1964.
    """
    n = len(values)
    window = min(window, n)
    order = min(order, window - 1)
    out = np.zeros(n)
    if derivative > order:
        return out
    starts = np.clip(np.arange(n) - window // 2, 0, n - window)
    fit = np.linalg.pinv(np.vander(np.arange(window), order + 1, increasing=True))  # (order+1, window)
    for i, first in enumerate(starts):
        polynomial = np.polynomial.Polynomial(fit @ values[first: first + window])
        out[i] = (polynomial.deriv(derivative) if derivative else polynomial)(i - first)
    return out / STEP_S**derivative


def motion(rollout: Rollout) -> dict[str, FloatArray]:
    """The smoothed quantities of COMFORT_BOUNDS, (S,) each; windows and orders as NAVSIM has them."""
    yaw = np.unwrap(rollout.ego_xyyaw[:, 2])
    yaw_rate = savitzky_golay(yaw, 5, 2, 1)
    longitudinal = savitzky_golay(rollout.ego_accel_mps2, 8, 2)
    lateral = savitzky_golay(rollout.ego_speed_mps * yaw_rate, 8, 2)
    moved = {
        "longitudinal_accel_mps2": longitudinal,
        "lateral_accel_mps2": lateral,
        "jerk_mps3": savitzky_golay(np.hypot(rollout.ego_accel_mps2, rollout.ego_speed_mps * yaw_rate), 15, 2, 1),
        "longitudinal_jerk_mps3": savitzky_golay(rollout.ego_accel_mps2, 15, 2, 1),
        "yaw_accel_radps2": savitzky_golay(yaw, 5, 3, 2),
        "yaw_rate_radps": yaw_rate,
    }
    # 8 decimals: a strict bound is not left to rounding errors
    return {name: np.round(values, 8) for name, values in moved.items()}


def comfort(rollout: Rollout, protocol: str) -> Score:
    """PDMS' C: 1 where every quantity stays strictly within its bounds all the time. evidence: the extremes of each."""
    moved = motion(rollout)
    fine = np.ones(len(rollout.timestamps_us), dtype=bool)
    for name, (low, high) in COMFORT_BOUNDS.items():
        fine &= (moved[name] > low) & (moved[name] < high)
    extremes = {name: (float(v.min()), float(v.max())) for name, v in moved.items()}
    return _score(rollout, "comfort", float(fine.all()), protocol, fine.astype(float), extremes=extremes)


# --- distance to the log ------------------------------------------------------------------------------------------


def l2_to_log(rollout: Rollout, protocol: str) -> Score:
    """Metres between the ego and the log at 1, 2 and 3 s of the closed loop, and their mean; 100 if it failed."""
    gap = np.hypot(*(rollout.ego_xyyaw[:, :2] - rollout.logged_xyyaw[:, :2]).T)
    gap = np.where(rollout.logged_valid, gap, np.nan)
    steps = {f"{s} s": round(s / STEP_S) for s in (1, 2, 3)}
    at = {name: float(gap[step]) for name, step in steps.items() if step < len(gap) and np.isfinite(gap[step])}
    if not at:
        return _unknown("l2_to_log", protocol, "the log has no pose at 1, 2 or 3 s")
    return _score(rollout, "l2_to_log", float(np.mean(list(at.values()))), protocol, gap, worst=FAILED_L2_M, **at)
