"""Where the ego is meant to go: the only thing about the future that a planner is told."""

from __future__ import annotations

import numpy as np

from drive_wm.geometry import project_to_polyline, resample_polyline, transform_points, xyyaw_from_pose
from drive_wm.types import FloatArray, Log

ROUTE_DISTANCES_M = (5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0)
EXTENSION_M = 60.0


def route_of(log: Log) -> FloatArray:
    """(N, 2) world: the log's own route, or else the path that was driven, extended straight ahead by 60 m.

    The driven path tells where the log went, not when: a planner that follows it still has to choose its speed.
    """
    given = log.metadata.get("route")
    if given is not None and len(given) >= 2:
        return np.asarray(given, dtype=np.float64)[:, :2]
    xyyaw = xyyaw_from_pose(log.ego.world_from_body[log.ego.valid])
    path = [xyyaw[0, :2]]
    for point in xyyaw[:, :2]:
        if np.linalg.norm(point - path[-1]) > 0.5:
            path.append(point)
    yaw = xyyaw[-1, 2]
    path.append(path[-1] + EXTENSION_M * np.array([np.cos(yaw), np.sin(yaw)]))
    return np.stack(path)


def points_ahead(route: FloatArray, world_from_rig: FloatArray) -> FloatArray:
    """The route (N, 2) world at ROUTE_DISTANCES_M along it from the ego's place: (8, 2) in the rig frame, metres."""
    arc, _, _ = project_to_polyline(world_from_rig[None, :2, 3], route)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(route, axis=0), axis=1))])
    at = np.minimum(arc[0] + np.array(ROUTE_DISTANCES_M), length[-1])
    world = np.stack([np.interp(at, length, route[:, d]) for d in range(2)], -1)
    flat = np.eye(4)
    yaw = xyyaw_from_pose(world_from_rig)[2]
    flat[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    flat[:3, 3] = world_from_rig[:3, 3]
    inverse = np.linalg.inv(flat)
    return transform_points(inverse, np.column_stack([world, np.full(len(world), flat[2, 3])]))[:, :2]


def route_ahead(log: Log, ego: FloatArray) -> FloatArray:
    """(T, 8, 2): ``points_ahead`` for every pose (T, 4, 4) of a clip."""
    route = resample_polyline(route_of(log), 2.0)
    return np.stack([points_ahead(route, pose) for pose in ego])
