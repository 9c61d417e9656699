"""The flat part of a map as polygons in painting order: surfaces, islands, zebra stripes, paint and kerbs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from drive_wm.geometry import points_in_polygon, resample_polyline
from drive_wm.render_shapes import SEMANTIC
from drive_wm.types import BoolArray, FloatArray, IntArray, Marking, RoadMap

DASH_M, DASH_GAP_M = 3.0, 4.5
STRIPE_M = 0.55
RIBBON_POINTS = 12  # a long line is cut into ribbons of so many points, so that they can be culled one by one
PAINT_REACH_M = 70.0
LEVEL_M = 0.05  # streets whose heights differ by less are level
STRIPE_REACH_M = 45.0
_CLASS = {"walkway": "walkway", "island": "walkway", "drivable": "road", "carpark": "road", "intersection": "road",
          "crossing": "crossing", "stripe": "crossing", "white": "marking", "yellow": "marking", "curb": "kerb",
          "cycle lane": "cycle lane"}


@dataclass(frozen=True)
class Flat:
    """Ground polygons near a place. points: (V, 3) relative to it. starts, counts, index, convex, reach_m: (P,).

    ball_m: (P, 4), centres relative to it and radii around the polygons.
    slope: (2,) of the plane through that place that fits the points best, zero where they are level.
    """

    points: FloatArray
    starts: IntArray
    counts: IntArray
    index: IntArray
    convex: BoolArray
    reach_m: FloatArray
    ball_m: FloatArray
    slope: FloatArray


def _open(polygon: FloatArray) -> FloatArray:
    """Without a repeated last point, and with a z."""
    polygon = np.asarray(polygon, float)
    if polygon.shape[1] == 2:
        polygon = np.concatenate([polygon, np.zeros((len(polygon), 1))], 1)
    return polygon[:-1] if len(polygon) > 3 and np.allclose(polygon[0], polygon[-1]) else polygon


def _slope(points: FloatArray, range_m: float) -> FloatArray:
    if not len(points) or float(np.ptp(points[:, 2])) < LEVEL_M:
        return np.zeros(2)
    near = points[(np.abs(points[:, :2]) < range_m).all(1)].astype(float)
    slope: FloatArray = np.linalg.lstsq(near[:, :2], near[:, 2], rcond=None)[0]
    return slope


def stripes(crossing: FloatArray) -> Iterator[FloatArray]:
    """Zebra stripes (4, 3) of a crossing: along the road, side by side along the way people walk (its longer side)."""
    quad = _open(crossing)
    if len(quad) != 4:
        corners = cv2.boxPoints(cv2.minAreaRect((quad[:, :2] - quad[0, :2]).astype(np.float32))) + quad[0, :2]
        quad = np.concatenate([corners, np.full((4, 1), quad[:, 2].mean())], 1)
    if np.linalg.norm(quad[1] - quad[0]) + np.linalg.norm(quad[3] - quad[2]) < \
            np.linalg.norm(quad[2] - quad[1]) + np.linalg.norm(quad[0] - quad[3]):
        quad = np.roll(quad, -1, axis=0)
    a, b, c, d = quad
    count = max(1, int(0.5 * (np.linalg.norm(b - a) + np.linalg.norm(c - d)) / (2 * STRIPE_M)))
    for i in range(count):
        s, e = (i + 0.25) / count, (i + 0.75) / count
        yield np.stack([a + s * (b - a), a + e * (b - a), d + e * (c - d), d + s * (c - d)])


def ribbon(line: FloatArray, width_m: float) -> FloatArray:
    """(N, 3) -> (2N, 3): the band of that width around a polyline."""
    tangent = np.gradient(line[:, :2], axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1)
    normal *= 0.5 * width_m / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    left, right = line.copy(), line.copy()
    left[:, :2] += normal
    right[:, :2] -= normal
    return np.concatenate([left, right[::-1]])


def _paint(marking: Marking) -> Iterator[tuple[str, FloatArray]]:
    line = _open(marking.points_m) if len(marking.points_m) > 1 else np.zeros((0, 3))
    moved = np.ones(len(line), bool)
    moved[1:] = np.linalg.norm(np.diff(line[:, :2], axis=0), axis=1) > 1e-3
    line = line[moved]
    if len(line) < 2 or marking.style == "none":
        return
    color = {"curb": "curb", "stop line": "white"}.get(marking.style, marking.style.split(" ")[0])
    if marking.style.endswith("dashed"):
        fine = resample_polyline(line, 0.5)
        step = float(np.linalg.norm(fine[1, :2] - fine[0, :2]))
        dash, period = max(1, round(DASH_M / step)), max(2, round((DASH_M + DASH_GAP_M) / step))
        for i in range(0, len(fine) - 1, period):
            part = fine[i : i + dash + 1]
            if len(part) > 1:
                yield color, ribbon(part[[0, len(part) // 2, -1]] if len(part) > 2 else part, marking.width_m)
        return
    length = float(np.linalg.norm(np.diff(line[:, :2], axis=0), axis=1).sum())
    if length / (len(line) - 1) < 1.5:  # denser than the eye can tell
        line = resample_polyline(line, 2.0)
    for i in range(0, len(line) - 1, RIBBON_POINTS):
        yield color, ribbon(line[i : i + RIBBON_POINTS + 1], marking.width_m)


def _islands(road_map: RoadMap) -> list[bool]:
    """Which walkways lie wholly on the carriageway, and so on top of it."""
    areas = [(area[:, :2].min(0), area[:, :2].max(0), area) for area in map(_open, road_map.drivable)]
    out = []
    for walkway in road_map.walkways:
        points = _open(walkway)[:, :2]
        low, high = points.min(0), points.max(0)
        near = [area for a, b, area in areas if (low <= b).all() and (high >= a).all()]
        out.append(bool(near) and bool(np.any([points_in_polygon(points, area) for area in near], axis=0).all()))
    return out


def _between(left: FloatArray, right: FloatArray) -> Iterator[FloatArray]:
    """The strip between two lines of equally many points, in pieces that can be culled one by one."""
    for i in range(0, len(left) - 1, RIBBON_POINTS):
        part = slice(i, i + RIBBON_POINTS + 1)
        yield np.concatenate([left[part], right[part][::-1]])


def _layers(road_map: RoadMap) -> Iterator[tuple[str, FloatArray, float]]:
    """(kind of colour, polygon, greatest depth at which it is drawn) in painting order."""
    lanes = tuple(np.concatenate([lane.left_m, lane.right_m[::-1]]) for lane in road_map.lanes.values())
    drivable = road_map.drivable or lanes
    raised = _islands(road_map)
    walkways, islands = (tuple(w for w, up in zip(road_map.walkways, raised) if up is which) for which in (False, True))
    for kind, polygons in (("walkway", walkways), ("drivable", drivable), ("carpark", road_map.carparks),
                           ("intersection", road_map.intersections)):
        yield from ((kind, _open(polygon), np.inf) for polygon in polygons)
    for lane in road_map.lanes.values():
        if lane.kind == "cycle" and not lane.is_intersection:
            yield from (("cycle lane", _open(strip), np.inf) for strip in _between(lane.left_m, lane.right_m))
    for kind, polygons in (("crossing", road_map.crossings), ("island", islands)):
        yield from ((kind, _open(polygon), np.inf) for polygon in polygons)
    for crossing in road_map.crossings:
        yield from (("stripe", stripe, STRIPE_REACH_M) for stripe in stripes(crossing))
    for marking in road_map.markings:
        for color, band in _paint(marking):
            yield color, band, PAINT_REACH_M


class Ground:
    """All flat polygons of a map, prepared once."""

    def __init__(self, road_map: RoadMap) -> None:
        layers = [layer for layer in _layers(road_map) if len(layer[1]) >= 3]
        self.kinds = [kind for kind, _, _ in layers]
        self.points = np.concatenate([p for _, p, _ in layers]) if layers else np.zeros((0, 3))
        self.counts = np.array([len(p) for _, p, _ in layers], np.int64)
        self.starts = np.cumsum(self.counts) - self.counts
        self.reach_m = np.array([reach for _, _, reach in layers])
        shapes = ((p[:, :2] - p[0, :2]).astype(np.float32) for _, p, _ in layers)
        self.convex = np.array([cv2.isContourConvex(shape) for shape in shapes], bool)
        low = np.array([p[:, :2].min(0) for _, p, _ in layers]).reshape(-1, 2)
        high = np.array([p[:, :2].max(0) for _, p, _ in layers]).reshape(-1, 2)
        z = np.array([(p[:, 2].min(), p[:, 2].max()) for _, p, _ in layers]).reshape(-1, 2)
        self.center = np.column_stack([(low + high) / 2, z.mean(1)])
        self.radius = np.hypot(np.hypot(*(high - low).T), z[:, 1] - z[:, 0]) / 2
        self.classes = np.array([SEMANTIC[_CLASS[kind]] for kind in self.kinds], np.uint8)

    def colors(self, palette: Mapping[str, object]) -> FloatArray:
        """(P, 3) of every polygon."""
        return np.array([palette[kind] for kind in self.kinds], np.float32).reshape(-1, 3)

    def near(self, origin: FloatArray, range_m: float) -> Flat:
        """The polygons that come within range_m of a place, and within their own reach of it."""
        away = np.hypot(*(self.center[:, :2] - origin[:2]).T) - self.radius
        index = np.flatnonzero(away < np.minimum(range_m, self.reach_m + 5.0))
        counts = self.counts[index]
        ends = np.cumsum(counts)
        rows = np.repeat(self.starts[index] - (ends - counts), counts) + np.arange(int(counts.sum()))
        points = (self.points[rows] - origin).astype(np.float32)
        return Flat(points, ends - counts, counts, index, self.convex[index], self.reach_m[index],
                    np.column_stack([self.center[index] - origin, self.radius[index]]), _slope(points, range_m))
