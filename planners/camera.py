"""A driver of the simplest kind that needs its eyes: it follows the route, and brakes for what does not look like road.

It uses no map, no boxes and no learned part. So it is a planner whose score depends on the images alone, with which a
simulator's images can be put to the test.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from drive_wm.geometry import project_to_polyline, resample_polyline
from drive_wm.planners.base import TIMES_S, Planner
from drive_wm.planners.idm import DT_S, ENOUGH_M, IdmParameters, idm_acceleration, path_points
from drive_wm.types import ByteArray, Camera, Explanation, FloatArray, InputError, Observation, Plan, Trajectory

NEAREST_M, REFERENCE_M, ACROSS_M = 6.0, 4.0, 0.8
BLOCKED_SHARE = 0.6  # of the points across the lane


class CameraPlanner(Planner):
    """cruise_mps: its wish. threshold: how far a colour (0 to 255) is from the road's nearest the car to be something
    else. reach_m: how far it looks. headway_s: of the IDM with which it keeps its distance.
    """

    name: ClassVar[str] = "camera"
    requires: ClassVar[frozenset[str]] = frozenset({"frames", "route"})
    history_steps = 2

    def __init__(self, cruise_mps: float = 8.0, threshold: float = 40.0, reach_m: float = 35.0, headway_s: float = 1.5,
                 front_m: float = 3.427) -> None:
        self.threshold, self.reach_m, self.front_m = threshold, reach_m, front_m
        self.parameters = IdmParameters(desired_speed_mps=cruise_mps, headway_s=headway_s, min_gap_m=3.0,
                                        accel_mps2=1.5, decel_mps2=3.0)

    def plan(self, observation: Observation) -> Plan:
        if observation.frames is None or observation.route is None or len(observation.route) < 2:
            raise InputError("the camera planner needs images and a route in the observation")
        line = resample_polyline(np.asarray(observation.route, dtype=np.float64), 1.0)
        start, offset, heading = (float(v[0]) for v in project_to_polyline(np.zeros((1, 2)), line))
        camera = max(observation.rig.cameras, key=lambda c: float(c.rig_from_camera[0, 2]))
        images = observation.frames[camera.name]
        before, now = (self.clear_m(image, camera, line, start) for image in (images[0], images[-1]))
        passed_s = float(observation.timestamps_us[-1] - observation.timestamps_us[0]) / 1e6
        approach = (now - before) / max(passed_s, 0.1) if now < ENOUGH_M and before < ENOUGH_M else -ENOUGH_M
        lead = float(np.clip(observation.speed_mps + approach, 0.0, observation.speed_mps))
        arc = self._drive(start, observation.speed_mps, start + now, lead)
        xyyaw = path_points(line, arc, start, offset, -heading, max(8.0, 1.5 * observation.speed_mps))
        steps = np.round(TIMES_S / DT_S).astype(int)
        return Plan(Trajectory(TIMES_S.copy(), xyyaw[steps]),
                    explanation=Explanation("slow down" if now < ENOUGH_M else "proceed", "keep"))

    def clear_m(self, image: ByteArray, camera: Camera, line: FloatArray, start_m: float) -> float:
        """Metres along the route to the first two in a row that do not look like road; ENOUGH_M where all of it does.
        """
        from drive_wm.media import project

        ahead = np.arange(NEAREST_M, self.reach_m, 1.0)
        course = np.unwrap(np.arctan2(*np.diff(line, axis=0)[:, ::-1].T))
        at = np.clip(start_m + ahead, 0.0, len(line) - 1.001)
        x, y = (np.interp(at, np.arange(len(line)), line[:, d]) for d in range(2))
        yaw = np.interp(at, np.arange(len(course)) + 0.5, course)
        side = np.linspace(-ACROSS_M, ACROSS_M, 5)
        points = np.stack([x[:, None] - side * np.sin(yaw)[:, None], y[:, None] + side * np.cos(yaw)[:, None],
                           np.zeros((len(ahead), 5))], -1)
        pixels, depth = project(camera, points)
        u, v = (np.floor(pixels[..., d]).astype(int) for d in range(2))
        seen = (depth > 0.5) & (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
        colors = image[np.clip(v, 0, camera.height - 1), np.clip(u, 0, camera.width - 1)].astype(np.float64)
        first = int(np.argmax(seen.any(1)))
        near = colors[first: first + int(REFERENCE_M)][seen[first: first + int(REFERENCE_M)]]
        if not len(near):
            return ENOUGH_M
        strange = (np.abs(colors - np.median(near, axis=0)).max(-1) > self.threshold) & seen
        blocked = strange.sum(1) >= BLOCKED_SHARE * np.maximum(seen.sum(1), 1)
        both = np.flatnonzero(blocked[:-1] & blocked[1:])
        return float(ahead[both[0]]) if len(both) else ENOUGH_M

    def _drive(self, arc_m: float, speed_mps: float, near_m: float, lead_mps: float) -> FloatArray:
        """Arc lengths (41,) under IDM behind what blocks the way."""
        arcs, speed = [arc_m], max(speed_mps, 0.0)
        for step in range(round(TIMES_S[-1] / DT_S)):
            gap = near_m + lead_mps * step * DT_S - arcs[-1] - self.front_m
            accel = float(np.clip(idm_acceleration(speed, lead_mps, gap, self.parameters), -6.0,
                                  self.parameters.accel_mps2))
            arcs.append(arcs[-1] + speed * DT_S)
            speed = max(0.0, speed + accel * DT_S)
        return np.array(arcs)
