"""The intelligent driver model (Treiber, Hennecke and Helbing, 2000), and a planner that follows a route with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drive_wm.geometry import (
    box_corners,
    project_to_polyline,
    resample_polyline,
    transform_points,
    wrap_angle,
    xyyaw_from_pose,
)
from drive_wm.planners.base import TIMES_S, Planner
from drive_wm.types import (
    AGENT_COLUMNS,
    CATEGORIES,
    SIGNAL_STATES,
    VULNERABLE,
    BoolArray,
    Cause,
    Explanation,
    FloatArray,
    InputError,
    Observation,
    Plan,
    Trajectory,
)

DT_S = 0.1
LATERAL_ACCEL_MPS2 = 2.0  # in bends, well inside the comfort bound of 4.89
BEND_BRAKING_MPS2 = 1.5
CROSSING_S = 2.0  # how far ahead crossing agents are carried on at constant velocity
ENOUGH_M = 1e4


@dataclass(frozen=True)
class IdmParameters:
    """v0 desired speed, s0 gap at rest, T headway, a acceleration, b comfortable braking."""

    desired_speed_mps: float = 10.0
    min_gap_m: float = 1.0
    headway_s: float = 1.5
    accel_mps2: float = 1.0
    decel_mps2: float = 2.0


def idm_acceleration(speed_mps: FloatArray | float, lead_speed_mps: FloatArray | float, gap_m: FloatArray | float,
                     parameters: IdmParameters, desired_speed_mps: float | None = None) -> FloatArray:
    """a (1 - (v/v0)^4 - (s*/s)^2) with s* = s0 + vT + v dv / (2 sqrt(ab)); any broadcastable shapes, m/s2.

    gap_m: bumper to bumper, floored at 0.1 m. s* is floored at s0, or a fleeing lead would act as a brake.
    """
    p = parameters
    v, lead, gap = np.broadcast_arrays(speed_mps, lead_speed_mps, gap_m)
    v0 = p.desired_speed_mps if desired_speed_mps is None else desired_speed_mps
    closing = v * (v - lead) / (2 * np.sqrt(p.accel_mps2 * p.decel_mps2))
    wanted = p.min_gap_m + np.maximum(0.0, v * p.headway_s + closing)
    accel: FloatArray = p.accel_mps2 * (1 - (v / max(v0, 0.1)) ** 4 - (wanted / np.maximum(gap, 0.1)) ** 2)
    return accel


@dataclass(frozen=True)
class Obstacle:
    """Something on the path: its near end at arc_m from now on, moving along it with speed_mps."""

    arc_m: float
    speed_mps: float
    cause: Cause


class IdmPlanner(Planner):
    """Follows the route's line, with IDM behind whatever stands, drives or will cross on it, and before red lights.

    front_m, width_m: the ego's front bumper ahead of the rear axle, and its width. Without a map it works from route
    and agents alone (no lights, desired speed from ``parameters``).
    """

    name = "idm"
    requires = frozenset({"agents", "route", "map", "signals"})
    history_steps = 2

    def __init__(self, front_m: float = 4.049, width_m: float = 2.297, margin_m: float = 0.3,
                 parameters: IdmParameters = IdmParameters(decel_mps2=3.0)) -> None:
        self.front_m, self.half_width_m, self.margin_m = front_m, width_m / 2, margin_m
        self.parameters = parameters

    def plan(self, observation: Observation) -> Plan:
        if observation.route is None or len(observation.route) < 2:
            raise InputError("the idm planner needs a route of two points or more in the observation")
        line = resample_polyline(np.asarray(observation.route, dtype=np.float64), 1.0)
        start_arc, offset, heading = (float(v[0]) for v in project_to_polyline(np.zeros((1, 2)), line))
        obstacles = self._agents(observation, line) + self.red_lights(observation, line)
        obstacles = [o for o in obstacles if o.arc_m > start_arc + self.front_m - 1.0]
        limit = speed_profile(line, self.desired_speed(observation))
        arc, speed, leader = self._drive(start_arc, observation.speed_mps, obstacles, limit)
        xyyaw = path_points(line, arc, start_arc, offset, -heading, max(8.0, 1.5 * observation.speed_mps))
        steps = np.round(TIMES_S / DT_S).astype(int)
        explanation = explain(observation.speed_mps, float(speed[30]), leader, xyyaw[steps[5], 2])
        return Plan(Trajectory(TIMES_S.copy(), xyyaw[steps]), explanation=explanation)

    def _drive(self, arc_m: float, speed_mps: float, obstacles: list[Obstacle],
               limit_mps: FloatArray) -> tuple[FloatArray, FloatArray, Obstacle | None]:
        """Arc lengths and speeds (41,) under IDM, and the obstacle that brakes hardest now."""
        near = np.array([o.arc_m for o in obstacles] or [ENOUGH_M])
        lead_speed = np.array([o.speed_mps for o in obstacles] or [speed_mps])
        arcs, speeds = [arc_m], [max(speed_mps, 0.0)]
        leader: Obstacle | None = None
        for step in range(round(TIMES_S[-1] / DT_S)):
            v0 = float(np.interp(arcs[-1], np.arange(len(limit_mps)), limit_mps))
            gap = near + lead_speed * step * DT_S - arcs[-1] - self.front_m
            # (v/v0)^4 alone brakes far too hard where the limit drops: free driving and interaction are kept apart
            free = float(idm_acceleration(speeds[-1], speeds[-1], ENOUGH_M, self.parameters, v0))
            accel = idm_acceleration(speeds[-1], lead_speed, gap, self.parameters, v0) - free
            accel += max(free, -1.2 * BEND_BRAKING_MPS2)
            if step == 0 and obstacles and accel.min() < 0.5 * self.parameters.accel_mps2:
                leader = obstacles[int(np.argmin(accel))]
            chosen = float(np.clip(accel.min(), -2 * self.parameters.decel_mps2, self.parameters.accel_mps2))
            arcs.append(arcs[-1] + speeds[-1] * DT_S)
            speeds.append(max(0.0, speeds[-1] + chosen * DT_S))
        return np.array(arcs), np.array(speeds), leader

    def _agents(self, observation: Observation, line: FloatArray) -> list[Obstacle]:
        if observation.agents is None or observation.agents_valid is None:
            return []
        slots = np.flatnonzero(observation.agents_valid[-1])
        slots = slots[_near_line(observation.agents[-1, slots], line, self.half_width_m + self.margin_m)]
        agents = observation.agents[-1, slots]
        occupied, near, along = occupancy(agents, line, self.half_width_m + self.margin_m)
        found = []
        for i in np.flatnonzero(occupied):
            category = CATEGORIES[int(agents[i, AGENT_COLUMNS.index("category")])]
            cause = Cause("pedestrian" if category == "pedestrian" else "obstacle" if category == "object" else
                          "lead vehicle", observation.agent_ids[slots[i]] if observation.agent_ids else None, category,
                          (float(agents[i, 0]), float(agents[i, 1])))
            found.append(Obstacle(float(near[i]), float(along[i]), cause))
        return found

    def red_lights(self, observation: Observation, line: FloatArray) -> list[Obstacle]:
        """Stop lines of red lights on the path, and of yellow ones before which one can still stop."""
        if observation.map is None or not observation.signal_states:
            return []
        rig_from_world = np.linalg.inv(observation.world_from_rig)
        stopping_m = observation.speed_mps**2 / (2 * self.parameters.decel_mps2)
        found = []
        low, high = line.min(0) - 2.0, line.max(0) + 2.0
        for lane in observation.map.lanes.values():
            state = SIGNAL_STATES[observation.signal_states.get(lane.signal_id or "", 0)]
            if state not in ("red", "yellow"):
                continue
            center = transform_points(rig_from_world, lane.centerline_m)[:, :2]
            if not ((center.max(0) > low) & (center.min(0) < high)).all():
                continue
            arc = stop_arc(center, lane.is_intersection, line)
            reach = arc - self.front_m
            if arc < ENOUGH_M and reach > -1.0 and (state == "red" or reach > stopping_m):
                found.append(Obstacle(arc + self.parameters.min_gap_m / 2, 0.0,
                                       Cause("red light", lane.signal_id, state=state)))
        return found

    def desired_speed(self, observation: Observation) -> float:
        """The speed limit of the lane under the ego, where the map knows one."""
        lanes = observation.map.lanes.values() if observation.map is not None else ()
        ego = xyyaw_from_pose(observation.world_from_rig)
        best, best_m = self.parameters.desired_speed_mps, 2.5
        for lane in lanes:
            if lane.speed_limit_mps is None or np.abs(lane.centerline_m[:, :2] - ego[:2]).min(0).max() > 60.0:
                continue
            _, offset, heading = project_to_polyline(ego[None, :2], lane.centerline_m)
            if abs(offset[0]) < best_m and abs(wrap_angle(heading[0] - ego[2])) < 0.8:
                best, best_m = lane.speed_limit_mps, abs(float(offset[0]))
        return best


def _near_line(agents: FloatArray, line: FloatArray, half_width_m: float) -> BoolArray:
    """(A,) those which might touch the corridor within CROSSING_S: most do not, and the full test is costly."""
    _, offset, _ = project_to_polyline(agents[:, :2], line)
    reach = np.hypot(agents[:, 5], agents[:, 6]) / 2 + np.hypot(agents[:, 3], agents[:, 4]) * CROSSING_S
    near: BoolArray = np.abs(offset) < half_width_m + reach + 0.5
    return near


def occupancy(agents: FloatArray, line: FloatArray, half_width_m: float) -> tuple[BoolArray, FloatArray, FloatArray]:
    """Agents (A, 12) against a corridor around ``line``: on it (A,), near end's arc (A,) m, speed along it (A,) m/s.

    All are looked at now; those whose course crosses the line are also carried on for CROSSING_S at constant velocity.
    """
    ahead_s = np.arange(0.0, CROSSING_S + 0.01, 0.25)
    xyyaw = np.repeat(agents[None, :, :3], len(ahead_s), 0)  # (K, A, 3)
    xyyaw[..., :2] += ahead_s[:, None, None] * agents[None, :, 3:5]
    grow = np.where(np.isin(agents[:, 8], [CATEGORIES.index(c) for c in VULNERABLE]), 0.3, 0.0)
    corners = box_corners(xyyaw, agents[:, 5], agents[:, 6])
    sides = (corners + np.roll(corners, -1, -2)) / 2
    points = np.concatenate([corners, sides, xyyaw[..., None, :2]], -2)  # (K, A, 9, 2)
    arc, offset, heading = (v.reshape(points.shape[:3]) for v in project_to_polyline(points.reshape(-1, 2), line))
    inside = (arc > 0) & (np.abs(offset) < half_width_m + grow[None, :, None])
    angle = np.abs(wrap_angle(np.arctan2(agents[:, 4], agents[:, 3]) - heading[0, :, -1]))
    speed = np.hypot(agents[:, 3], agents[:, 4])
    crossing = (angle > 0.6) & (angle < 2.5) & (speed > 0.3)
    inside[1:] &= crossing[None, :, None]
    along = np.where(crossing, 0.0, np.maximum(0.0, speed * np.cos(angle)))
    near = np.where(inside, arc, np.inf).min((0, 2))
    return np.isfinite(near), near, along


def stop_arc(center: FloatArray, is_intersection: bool, line: FloatArray) -> float:
    """Where along ``line`` one must stop for a lane (N, 2) with a red light, ENOUGH_M where it is not on the line.

    A lane inside an intersection is not entered; one before it is driven to its end.
    """
    probe = center[: max(2, len(center) // 2)] if is_intersection else center[-max(2, len(center) // 2):]
    probe = resample_polyline(probe, 1.0)
    arc, offset, heading = project_to_polyline(probe, line)
    course = np.arctan2(*np.diff(probe, axis=0)[:, ::-1].T)
    aligned = np.abs(wrap_angle(heading[:-1] - course)) < 0.6
    length = float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())
    on_line = (np.abs(offset[:-1]) < 1.2) & aligned & (arc[:-1] > 0) & (arc[:-1] < length - 1e-3)
    end = 0 if is_intersection else -1
    if not on_line.any() or (is_intersection and not on_line.all()) or (not is_intersection and not on_line[-1]):
        return ENOUGH_M
    return float(arc[end])


def speed_profile(line: FloatArray, desired_mps: float) -> FloatArray:
    """Allowed speed at each point of a line of 1 m steps: the bends' limits, carried back by gentle braking."""
    step = np.diff(line, axis=0)
    course = np.unwrap(np.arctan2(step[:, 1], step[:, 0]))
    turn = np.abs(np.convolve(np.diff(course), np.ones(5) / 5, mode="same")) if len(course) > 6 else np.zeros(0)
    limit = np.full(len(line), desired_mps)
    limit[1 : 1 + len(turn)] = np.minimum(desired_mps, np.sqrt(LATERAL_ACCEL_MPS2 / np.maximum(turn, 1e-4)))
    for i in range(len(limit) - 2, -1, -1):
        limit[i] = min(limit[i], np.sqrt(limit[i + 1] ** 2 + 2 * BEND_BRAKING_MPS2))
    return limit


def path_points(line: FloatArray, arc_m: FloatArray, start_m: float, offset_m: float, angle_rad: float,
                merge_m: float, target_m: FloatArray | float = 0.0) -> FloatArray:
    """Poses (..., 3) at arcs (...) of ``line``, whose lateral offset and angle at the start go over into target_m
    (broadcast; left positive) and the line's own heading within merge_m, as a cubic does."""
    course = np.unwrap(np.arctan2(*np.diff(line, axis=0)[:, ::-1].T))
    at = np.arange(len(line)) * float(np.linalg.norm(line[1] - line[0]))
    yaw = np.interp(arc_m, (at[1:] + at[:-1]) / 2, course)
    u = np.clip((arc_m - start_m) / merge_m, 0.0, 1.0)
    slope = np.tan(np.clip(wrap_angle(angle_rad), -0.6, 0.6)) * merge_m
    side = target_m + (offset_m - target_m) * (1 - 3 * u**2 + 2 * u**3) + slope * u * (1 - u) ** 2
    tilt = ((offset_m - target_m) * (6 * u**2 - 6 * u) + slope * (1 - u) * (1 - 3 * u)) / merge_m
    past = np.maximum(arc_m - at[-1], 0.0)  # straight on past the route's end
    x = np.interp(arc_m, at, line[:, 0]) + past * np.cos(yaw) - side * np.sin(yaw)
    y = np.interp(arc_m, at, line[:, 1]) + past * np.sin(yaw) + side * np.cos(yaw)
    return np.stack([x, y, wrap_angle(yaw + np.arctan(tilt))], -1)


def explain(speed_mps: float, later_mps: float, leader: Obstacle | None, turn_rad: float) -> Explanation:
    """The decision in words, with the obstacle that made it."""
    lateral = "turn left" if turn_rad > 0.35 else "turn right" if turn_rad < -0.35 else "keep"
    if leader is None:
        change = later_mps - speed_mps
        longitudinal = "speed up" if change > 1.0 else "slow down" if change < -1.0 else "proceed"
        return Explanation(longitudinal, lateral, (Cause("route" if lateral != "keep" else "free road"),))
    if later_mps < 0.3:
        return Explanation("hold" if speed_mps < 0.3 else "stop", lateral, (leader.cause,))
    following = leader.cause.kind == "lead vehicle" and leader.speed_mps > 0.5
    return Explanation("follow" if following else "slow down", lateral, (leader.cause,))
