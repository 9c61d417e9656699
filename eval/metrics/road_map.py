"""A RoadMap prepared for metrics: areas, lanes and their directions, and the lanes that a drive went along."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

from drive_wm.eval.metrics.geometry import Polygons
from drive_wm.geometry import project_to_polyline, resample_polyline, wrap_angle
from drive_wm.types import BoolArray, FloatArray, Lane, RoadMap

ALIGNED_RAD = np.deg2rad(60.0)  # a lane further off the ego's heading than this is crossed, not driven
NEAR_LANE_M = 5.0  # a path further from a lane's centreline is not in it
JUMP_COST = 10.0  # metres of offset that a jump between unconnected lanes is worth
PATH_STEP_M, AHEAD_M = 2.0, 100.0


class Road:
    """Build once per map, share among drives. Lanes are known by their index in ``lanes``.

    areas: drivable area, intersections and car parks (roadblocks lie within them). intersections: their polygons and
    the lanes that are marked as within one.
    """

    def __init__(self, road: RoadMap) -> None:
        self.lanes: list[Lane] = list(road.lanes.values())
        self.index = {lane.id: i for i, lane in enumerate(self.lanes)}
        outlines = [np.concatenate([lane.left_m, lane.right_m[::-1]]) for lane in self.lanes]
        self.lane_areas = Polygons(outlines)
        self.areas = Polygons((*road.drivable, *road.intersections, *road.carparks))
        within = [outline for lane, outline in zip(self.lanes, outlines) if lane.is_intersection]
        self.intersections = Polygons((*road.intersections, *within))

    def _linked(self, ids: Iterable[str | None]) -> set[int]:
        return {self.index[name] for name in ids if name is not None and name in self.index}

    @cached_property
    def after(self) -> list[set[int]]:
        """Successors of each lane."""
        return [self._linked(lane.successors) for lane in self.lanes]

    @cached_property
    def beside(self) -> list[set[int]]:
        """Neighbours to change to, of each lane."""
        return [self._linked((lane.left_neighbor, lane.right_neighbor)) for lane in self.lanes]

    def place(self, lane: int, points: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Arc length, signed offset and heading of points (M, 2) on a lane's centreline."""
        return project_to_polyline(points, self.lanes[lane].centerline_m)

    def headings(self, points: FloatArray) -> FloatArray:
        """(M, 2) -> (M, L): direction of each lane that holds the point, at its nearest place; NaN elsewhere."""
        held = self.lane_areas.hold(points)
        heading = np.full(held.shape, np.nan)
        for lane in np.flatnonzero(held.any(0)):
            at = held[:, lane]
            heading[at, lane] = self.place(lane, points[at])[2]
        return heading

    def speed_limits(self, points: FloatArray, yaw_rad: FloatArray) -> FloatArray:
        """(M, 2), (M,) -> (M,) limit of the best aligned lane that holds the point and has one; NaN without."""
        limits = np.array([np.nan if lane.speed_limit_mps is None else lane.speed_limit_mps for lane in self.lanes])
        turn = np.abs(wrap_angle(self.headings(points) - yaw_rad[:, None]))
        turn = np.where(np.isnan(turn) | np.isnan(limits), np.inf, turn)
        if not turn.size:
            return np.full(len(points), np.nan)
        best = np.argmin(turn, 1)
        return np.where(np.isfinite(turn[np.arange(len(points)), best]), limits[best], np.nan)

    def lanes_along(self, path: FloatArray) -> tuple[int, ...]:
        """The chain of lanes under a driven path (M, 3), in order: the cheapest by offset and by jumps (Viterbi)."""
        path = _thinned(path)
        cost = np.full((len(path), len(self.lanes)), np.inf)
        for lane in self.lane_areas.near(path[:, :2]):
            arc, offset, heading = self.place(lane, path[:, :2])
            fits = (np.abs(wrap_angle(heading - path[:, 2])) < ALIGNED_RAD) & (np.abs(offset) < NEAR_LANE_M)
            cost[fits, lane] = np.abs(offset[fits])
        known = cost[np.isfinite(cost).any(1)]
        return self._cheapest(known) if len(known) else ()

    def _cheapest(self, cost: FloatArray) -> tuple[int, ...]:
        used = np.flatnonzero(np.isfinite(cost).any(0))
        cost = cost[:, used]
        jump = np.full((len(used), len(used)), JUMP_COST)
        for i, a in enumerate(used):
            free = {a} | self.after[a] | self.beside[a]
            jump[i, [j for j, b in enumerate(used) if b in free]] = 0.0
        best, back = cost[0], []
        for row in cost[1:]:
            total = best[:, None] + jump
            back.append(np.argmin(total, 0))
            best = total.min(0) + row
        chain = [int(np.argmin(best))]
        for step in reversed(back):
            chain.append(int(step[chain[-1]]))
        chain.reverse()
        kept = [c for i, c in enumerate(chain) if i == 0 or c != chain[i - 1]]
        return tuple(int(used[c]) for c in kept)

    def on_route(self, chain: Sequence[int], ahead_m: float = AHEAD_M) -> set[int]:
        """The chain, what continues it for ``ahead_m``, and all lanes of the same direction beside these."""
        route = set(chain)
        front = {(lane, 0.0) for lane in chain[-1:]}
        while front:
            lane, gone = front.pop()
            if gone > ahead_m:
                continue
            for then in self.after[lane] - route:
                route.add(then)
                front.add((then, gone + _length(self.lanes[then].centerline_m)))
        waiting = list(route)
        while waiting:
            more = self.beside[waiting.pop()] - route
            route |= more
            waiting += more
        return route

    def outside(self, points: FloatArray, lanes: Iterable[int]) -> BoolArray:
        """Points (..., 2) in none of these lanes."""
        return ~Polygons([self.lane_areas.polygons[i] for i in sorted(lanes)]).any(points)

    def center_distance(self, points: FloatArray, lanes: Iterable[int]) -> FloatArray:
        """(M, 2) -> (M,) metres to the nearest of these lanes' centrelines."""
        best = np.full(len(points), np.inf)
        for lane in lanes:
            best = np.minimum(best, np.abs(self.place(lane, points)[1]))
        return best

    def ahead(self, lane: int, start_xy: FloatArray, length_m: float) -> FloatArray:
        """Centreline (N, 2) from next to ``start_xy`` on, through the straightest successors, for ``length_m``."""
        line = self.lanes[lane].centerline_m[:, :2]
        arc = float(self.place(lane, start_xy[None])[0][0])
        along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
        points, gone, seen = line[along > arc + 0.5], along[-1] - arc, {lane}
        while gone < length_m and self.after[lane] - seen:
            course = _course(self.lanes[lane].centerline_m)
            lane = min(self.after[lane] - seen,
                       key=lambda i: (abs(float(wrap_angle(_course(self.lanes[i].centerline_m) - course))), i))
            seen.add(lane)
            line = self.lanes[lane].centerline_m[:, :2]
            points, gone = np.concatenate([points, line[1:]]), gone + _length(line)
        return points


def _length(line: FloatArray) -> float:
    return float(np.linalg.norm(np.diff(line[:, :2], axis=0), axis=1).sum())


def _course(line: FloatArray) -> float:
    """Where a line leads in the end."""
    return float(np.arctan2(*(line[-1, :2] - line[-2, :2])[::-1]))


def _thinned(path: FloatArray) -> FloatArray:
    """Poses about PATH_STEP_M apart: where a car stands it need not be asked again."""
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path[:, :2], axis=0), axis=1))])
    kept = np.unique(np.searchsorted(arc, np.arange(0.0, arc[-1] + PATH_STEP_M, PATH_STEP_M)).clip(0, len(arc) - 1))
    return path[kept]


def extended(path_xy: FloatArray, course_rad: float, ahead: FloatArray, length_m: float) -> FloatArray:
    """A line (N, 2) through a driven path: ``ahead`` after its end, then straight on; straight back before its start.

    course_rad: where to go from a path that stands still.
    """
    moved = np.concatenate([[True], np.linalg.norm(np.diff(path_xy, axis=0), axis=1) > 0.05])
    line = np.concatenate([path_xy[moved], ahead]) if len(ahead) else path_xy[moved]
    first = _unit(line[1] - line[0]) if len(line) > 1 else np.array([np.cos(course_rad), np.sin(course_rad)])
    last = _unit(line[-1] - line[-2]) if len(line) > 1 else first
    whole = np.concatenate([line[:1] - length_m * first, line, line[-1:] + length_m * last])
    return resample_polyline(whole, 1.0)


def _unit(step: FloatArray) -> FloatArray:
    unit: FloatArray = step / max(float(np.linalg.norm(step)), 1e-9)
    return unit
