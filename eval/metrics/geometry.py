"""Overlap of boxes, points in polygons and arcs along lines: numpy, any leading batch axes, no loop over steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drive_wm.geometry import points_in_polygon
from drive_wm.types import BoolArray, FloatArray


def boxes_overlap(a: FloatArray, b: FloatArray) -> BoolArray:
    """Separating axes: convex quadrilaterals (..., 4, 2), broadcast -> (...); touching is not overlapping."""
    a, b = np.broadcast_arrays(a, b)
    apart = np.zeros(a.shape[:-2], dtype=bool)
    for box in (a, b):
        for i in range(2):
            axis = (box[..., i + 1, :] - box[..., i, :])[..., None, :]
            pa, pb = _dot(a, axis), _dot(b, axis)
            apart |= (pa.max(-1) <= pb.min(-1)) | (pb.max(-1) <= pa.min(-1))
    return ~apart


def _dot(a: FloatArray, b: FloatArray) -> FloatArray:
    """Over a last axis of two: far faster than a sum over it."""
    along: FloatArray = np.multiply(a[..., 0], b[..., 0])
    return along + np.multiply(a[..., 1], b[..., 1])


def overlaps(egos: FloatArray, boxes: FloatArray, valid: BoolArray) -> BoolArray:
    """egos (..., S, 4, 2) against boxes (S, A, 4, 2), valid (S, A) -> (..., S, A); far pairs are not looked at."""
    (middle_e, reach_e), (middle_b, reach_b) = _circles(egos), _circles(boxes)
    dx, dy = (middle_e[..., None, i] - middle_b[..., i] for i in (0, 1))
    found: BoolArray = (dx * dx + dy * dy < (reach_e[..., None] + reach_b) ** 2) & valid
    pairs = np.nonzero(found)
    found[pairs] = boxes_overlap(egos[pairs[:-1]], boxes[pairs[-2:]])
    return found


def _circles(boxes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Middle (..., 2) and half diagonal (...) of boxes (..., 4, 2)."""
    middle = (boxes[..., 0, :] + boxes[..., 2, :]) / 2
    return middle, np.hypot(*np.moveaxis(boxes[..., 0, :] - middle, -1, 0))


def segments_hit_boxes(start: FloatArray, end: FloatArray, box: FloatArray) -> BoolArray:
    """Whether segments (..., 2) to (..., 2) meet convex boxes (..., 4, 2), touching included -> (...)."""
    sliver = np.stack([start, end, end, start], -2)
    across = np.stack([start[..., 1] - end[..., 1], end[..., 0] - start[..., 0]], -1)
    meets = np.ones(box.shape[:-2], dtype=bool)
    for axis in (box[..., 1, :] - box[..., 0, :], box[..., 2, :] - box[..., 1, :], across):
        ps, pb = (sliver * axis[..., None, :]).sum(-1), (box * axis[..., None, :]).sum(-1)
        meets &= (ps.max(-1) >= pb.min(-1)) & (pb.max(-1) >= ps.min(-1))
    return meets


class Polygons:
    """Many polygons (N, 2+) asked about many points; each is looked at only where its bounding box reaches."""

    def __init__(self, polygons: Sequence[FloatArray]) -> None:
        self.polygons = [np.asarray(p, dtype=np.float64)[:, :2] for p in polygons]
        self.low = np.array([p.min(0) for p in self.polygons]).reshape(-1, 2)
        self.high = np.array([p.max(0) for p in self.polygons]).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.polygons)

    def near(self, points: FloatArray, margin_m: float = 0.0) -> list[int]:
        """Indices of the polygons whose box meets the box around all points (M, 2)."""
        if not len(points) or not len(self):
            return []
        low, high = points.min(0) - margin_m, points.max(0) + margin_m
        return [int(i) for i in np.flatnonzero(((self.high >= low) & (self.low <= high)).all(1))]

    def hold(self, points: FloatArray) -> BoolArray:
        """Points (..., 2) -> (..., K): in which polygons each lies."""
        flat = points.reshape(-1, 2)
        held = np.zeros((len(flat), len(self)), dtype=bool)
        for i in self.near(flat):
            at = np.flatnonzero((flat >= self.low[i]).all(1) & (flat <= self.high[i]).all(1))
            if len(at):
                held[at, i] = points_in_polygon(flat[at], self.polygons[i])
        return held.reshape(*points.shape[:-1], len(self))

    def any(self, points: FloatArray) -> BoolArray:
        """Points (..., 2) -> (...): in at least one polygon; what is found inside is not asked again."""
        flat = points.reshape(-1, 2)
        inside = np.zeros(len(flat), dtype=bool)
        for i in self.near(flat):
            at = np.flatnonzero(~inside & (flat >= self.low[i]).all(1) & (flat <= self.high[i]).all(1))
            if len(at):
                inside[at] = points_in_polygon(flat[at], self.polygons[i])
        return inside.reshape(points.shape[:-1])

    def distance(self, points: FloatArray) -> FloatArray:
        """Metres from points (M, 2) to the nearest polygon's edge; infinite where none is within 1 m or so."""
        best = np.full(len(points), np.inf)
        for i in self.near(points, 1.0):
            best = np.minimum(best, _to_edges(points, self.polygons[i]))
        return best


def _to_edges(points: FloatArray, polygon: FloatArray) -> FloatArray:
    delta = np.roll(polygon, -1, axis=0) - polygon
    rel = points[:, None] - polygon[None]
    t = np.clip((rel * delta).sum(-1) / np.maximum((delta**2).sum(-1), 1e-12), 0.0, 1.0)
    distance: FloatArray = np.sqrt(((rel - t[..., None] * delta) ** 2).sum(-1)).min(-1)
    return distance


def inside_any(points: FloatArray, polygons: Sequence[FloatArray]) -> BoolArray:
    """Points (..., 2) in at least one polygon."""
    return Polygons(polygons).any(points)


def follow_polyline(points: FloatArray, line: FloatArray, near_m: float | None = None,
                    window_m: float = 30.0) -> tuple[FloatArray, FloatArray]:
    """Arc lengths (..., M) and distances (..., M) of successive points (..., M, 2) on a line (N, 2).

    Each is sought within window_m of the one before, so that a line which crosses itself is followed and not cut short;
    without ``near_m`` the first is sought everywhere.
    """
    start, delta = line[:-1], np.diff(line, axis=0)
    length = np.maximum(np.linalg.norm(delta, axis=1), 1e-9)
    begin, unit = np.concatenate([[0.0], np.cumsum(length)])[:-1], delta / length[:, None]
    arcs, gaps = np.zeros(points.shape[:-1]), np.zeros(points.shape[:-1])
    near = None if near_m is None else np.full(points.shape[:-2], near_m)
    for i in range(points.shape[-2]):
        rel = points[..., i, None, :] - start
        t = np.clip(_dot(rel, delta) / length, 0.0, length)
        gap = np.hypot(rel[..., 0] - t * unit[:, 0], rel[..., 1] - t * unit[:, 1])
        if near is not None:
            gap = np.where(np.abs(begin + t - near[..., None]) <= window_m, gap, gap + 1e6)
        best = np.argmin(gap, -1)[..., None]
        near = begin[best[..., 0]] + np.take_along_axis(t, best, -1)[..., 0]
        arcs[..., i], gaps[..., i] = near, np.take_along_axis(gap, best, -1)[..., 0]
    return arcs, gaps
