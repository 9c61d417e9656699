"""Where the ego is meant to go: the only thing about the future that a planner is told."""

from __future__ import annotations

import numpy as np

from drive_wm.geometry import project_to_polyline, resample_polyline, transform_points, xyyaw_from_pose
from drive_wm.types import FloatArray, InputError, Log, Poses

ROUTE_DISTANCES_M = (5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0)
EXTENSION_M = 60.0
MAX_POINTS = 20_000


def driven_route(ego: Poses, extend_m: float = EXTENSION_M, spacing_m: float = 1.0) -> FloatArray:
    """The path that was driven, and ``extend_m`` more along its last heading: (N, 2) world, without its times.

    It tells where the log went, not when: who follows it still has to choose a speed, and its end is no hint to stop.
    """
    points = ego.world_from_body[ego.valid][:, :2, 3]
    heading = ego.world_from_body[ego.valid][-1][:2, 0]
    kept = [points[0]]
    for point in points[1:]:
        if np.linalg.norm(point - kept[-1]) >= spacing_m / 2:  # a standing ego's jitter is no direction
            kept.append(point)
    end = kept[-1] + max(extend_m, 1e-3) * heading / max(float(np.linalg.norm(heading)), 1e-9)
    path = np.array([*kept, end])
    length_m = float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())  # a pose that jumps may make it absurd
    return resample_polyline(path, max(spacing_m, length_m / MAX_POINTS))


def route_of(log: Log) -> FloatArray:
    """(N, 2) world: metadata["route"], [x, y] points or lane ids of the map; without it the driven path.

    Raises InputError where the route given is neither.
    """
    given = log.metadata.get("route")
    if not given:
        return driven_route(log.ego)
    items = list(given) if isinstance(given, (list, tuple)) else []
    if items and log.map is not None and all(isinstance(i, str) and i in log.map.lanes for i in items):
        return np.concatenate([log.map.lanes[item].centerline_m[:, :2] for item in items])
    if len(items) > 1 and all(np.shape(item) in ((2,), (3,)) for item in items):
        return np.asarray([item[:2] for item in items], dtype=np.float64)
    raise InputError(f"log {log.id}: metadata['route'] must be a list of [x, y] points or of lane ids of its map")


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
