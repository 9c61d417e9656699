"""PDM-Closed (Dauner et al., 2023): fifteen IDM drives along the route are simulated and scored; the best is driven."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drive_wm.eval.metrics import STEP_S
from drive_wm.geometry import box_corners, project_to_polyline, resample_polyline, wrap_angle
from drive_wm.planners.base import Planner
from drive_wm.planners.idm import IdmParameters, IdmPlanner, Obstacle, path_points
from drive_wm.planners.proposals import STATES, Judge, constant_velocity, forecast_scene, judge, seen_agents
from drive_wm.types import BoolArray, FloatArray, InputError, Observation, Plan, Trajectory

FRACTIONS = (1.0, 0.8, 0.6, 0.4, 0.2)  # of the speed limit; in order of preference where scores are equal
OFFSETS_M = (0.0, -1.0, 1.0)
OUTPUT_S, COARSE_S = 8.0, 0.5
TIMES_S = np.arange(1, round(OUTPUT_S / STEP_S) + 1) * STEP_S
MARGIN_M = 0.2
HARDER, MOST_MPS2 = 1.2, 6.0  # IDM brakes a late starter with (s*/s)^2, far harder than what would stop it in time
EMERGENCY_S, EMERGENCY_MPS, EMERGENCY_MPS2 = 2.0, 5.0, 4.05


@dataclass(frozen=True)
class Corridor:
    """Who is on the way, seen along a line: times K every COARSE_S, boxes' points P.

    arc, offset: (K, A, P), NaN where a box is far away. along_mps: (A,) speed along the line.
    """

    arc: FloatArray
    offset: FloatArray
    along_mps: FloatArray

    @classmethod
    def of(cls, agents: FloatArray, line: FloatArray, reach_m: float) -> Corridor:
        """agents (A, 12) go on at constant velocity; a box is looked at where its middle comes within reach_m."""
        xyyaw = constant_velocity(agents, np.arange(0.0, OUTPUT_S + 0.01, COARSE_S))  # (K, A, 3)
        _, offset, heading = (v.reshape(xyyaw.shape[:2]) for v in project_to_polyline(xyyaw.reshape(-1, 3), line))
        close = np.abs(offset) < reach_m + np.hypot(agents[:, 5], agents[:, 6]) / 2
        _, who = np.nonzero(close)
        corners = box_corners(xyyaw[close], agents[who, 5], agents[who, 6])
        points = np.concatenate([corners, (corners + np.roll(corners, -1, -2)) / 2], -2)  # (N, 8, 2)
        found = np.full((2, *close.shape, 8), np.nan)
        for out, value in zip(found, project_to_polyline(points.reshape(-1, 2), line)):
            out[close] = value.reshape(-1, 8)
        course = np.cos(wrap_angle(np.arctan2(agents[:, 4], agents[:, 3]) - heading[0]))
        return cls(found[0], found[1], np.maximum(0.0, np.hypot(agents[:, 3], agents[:, 4]) * course))

    def near_m(self, target_m: float, half_width_m: float) -> FloatArray:
        """(K, A) arc of the near end of who stands or drives on a lane around target_m; inf for the others."""
        inside: BoolArray = np.abs(self.offset - target_m) < half_width_m
        near: FloatArray = np.where(inside & (self.arc > 0), self.arc, np.inf).min(-1, initial=np.inf)
        return near


class PdmClosed(Planner):
    """Five fractions of the speed limit x three lateral offsets, each an IDM drive (a 1.5, b 3, T 1.5, s0 1) behind
    agents at constant velocity and before red lights, followed by the tracker for 4 s and scored as PDMS does.

    Answers with 8 s of the best. Below 5 m/s, where even the best is in danger within 2 s, it brakes with 4.05 m/s2.
    vehicle: whose dimensions it assumes where the observation does not tell.
    """

    name = "pdm_closed"
    requires = frozenset({"agents", "route", "map", "signals"})
    history_steps = 1

    def __init__(self, vehicle: str = "pacifica",
                 parameters: IdmParameters = IdmParameters(accel_mps2=1.5, decel_mps2=3.0)) -> None:
        self.judge, self.parameters = Judge(vehicle), parameters

    def plan(self, observation: Observation) -> Plan:
        if observation.route is None or len(observation.route) < 2:
            raise InputError("pdm_closed needs a route of two points or more in the observation")
        line = resample_polyline(np.asarray(observation.route, dtype=np.float64), 1.0)
        paths = self._proposals(observation, line)  # (B, 81, 3), rig frame
        scene = forecast_scene(self.judge, observation)
        judged = judge(scene.with_egos(*self.judge.drives(observation, paths)))
        best = judged.best
        danger = judged.danger[best]
        chosen = paths[best]
        if danger.any() and np.argmax(danger) * STEP_S < EMERGENCY_S and observation.speed_mps <= EMERGENCY_MPS:
            chosen = braking(paths[best], observation.speed_mps)
        candidates = tuple(Trajectory(TIMES_S[: STATES - 1], path[1:STATES]) for path in paths)
        return Plan(Trajectory(TIMES_S.copy(), chosen[1:]), candidates, 1.0 - judged.scores["total"])

    def _proposals(self, observation: Observation, line: FloatArray) -> FloatArray:
        """(B, 81, 3) from now on every 0.1 s, rig frame; offsets outermost, so the line itself comes first."""
        vehicle = self.judge.vehicle_of(observation)
        idm = IdmPlanner(vehicle.rear_axle_to_front_m, vehicle.width_m, parameters=self.parameters)
        start, offset, heading = (float(v[0]) for v in project_to_polyline(np.zeros((1, 2)), line))
        reach = vehicle.width_m / 2 + MARGIN_M
        corridor = Corridor.of(seen_agents(observation), line[::2], reach + max(OFFSETS_M))
        near = np.stack([corridor.near_m(o, reach) for o in OFFSETS_M])  # (O, K, A)
        front = start + vehicle.rear_axle_to_front_m - 1.0
        near = np.where(near[:, :1] < front, np.inf, near)  # who is beside or behind now leads nobody
        arcs = self._drive(start, max(observation.speed_mps, 0.0), near, corridor.along_mps,
                           idm.red_lights(observation, line), idm.desired_speed(observation),
                           vehicle.rear_axle_to_front_m)
        targets = np.array(OFFSETS_M)[:, None, None]
        merge = max(8.0, 1.5 * observation.speed_mps)
        return path_points(line, arcs, start, offset, -heading, merge, targets).reshape(-1, arcs.shape[-1], 3)

    def _drive(self, arc_m: float, speed_mps: float, near: FloatArray, along_mps: FloatArray, lights: list[Obstacle],
               limit_mps: float, front_m: float) -> FloatArray:
        """Arc lengths (O, F, 81) of IDM behind agents whose near ends are (O, K, A), and before stop lines."""
        p, wanted = self.parameters, limit_mps * np.array(FRACTIONS)  # (F,)
        arc, speed = np.full((len(near), len(wanted)), arc_m), np.full((len(near), len(wanted)), speed_mps)
        lines = np.array([light.arc_m for light in lights])
        rate = 2 * np.sqrt(p.accel_mps2 * p.decel_mps2)
        arcs = [arc]
        for step in range(len(TIMES_S)):
            k, since = divmod(step * STEP_S + 1e-9, COARSE_S)
            lead = np.concatenate([near[:, int(k)] + along_mps * since, np.tile(lines, (len(near), 1))], 1)[:, None]
            lead_speed = np.concatenate([along_mps, np.zeros(len(lines))])
            v = speed[..., None]
            desired = p.min_gap_m + np.maximum(0.0, v * p.headway_s + v * (v - lead_speed) / rate)
            gap = np.maximum(lead - arc[..., None] - front_m, 0.1)  # (O, F, A)
            held = np.square(desired / gap).max(-1, initial=0.0)
            room = np.maximum(gap - p.min_gap_m, 0.1)
            need = (np.maximum(v - lead_speed, 0.0) ** 2 / (2 * room)).max(-1, initial=0.0)
            free = np.maximum(p.accel_mps2 * (1 - (speed / np.maximum(wanted, 0.1)) ** 4), -p.decel_mps2)
            accel = np.maximum(free - p.accel_mps2 * held, -np.clip(HARDER * need, p.decel_mps2, MOST_MPS2))
            arc = arc + speed * STEP_S
            speed = np.maximum(0.0, speed + accel * STEP_S)
            arcs.append(arc)
        return np.stack(arcs, -1)


def braking(path: FloatArray, speed_mps: float, decel_mps2: float = EMERGENCY_MPS2) -> FloatArray:
    """The same path (N, 3), straight on past its end, driven to a halt."""
    end = path[-1] + 10.0 * np.array([np.cos(path[-1, 2]), np.sin(path[-1, 2]), 0.0])
    line = np.concatenate([path, end[None]])
    at = np.minimum(np.arange(len(path)) * STEP_S, speed_mps / decel_mps2)
    arc = speed_mps * at - decel_mps2 * at**2 / 2
    gone = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line[:, :2], axis=0).T))])
    return np.stack([np.interp(arc, gone, v) for v in (line[:, 0], line[:, 1], np.unwrap(line[:, 2]))], -1)
