"""Room for what stands beside the streets: a grid that knows roads, walking lines and what was built before."""

from __future__ import annotations

import math
from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from drive_wm.types import ByteArray, FloatArray, Prop

CELL_M = 0.25
MARGIN_M = 60.0
WALKING_CELLS = 1  # drawn three cells wide: kept free along the middle of a walkway
SHIFT = 4  # fractional bits of the coordinates given to OpenCV

Corners = list[tuple[float, float]]


class Site:
    """Collects props. Nothing that is put touches a road, a walking line or another prop's footprint."""

    def __init__(self, roads: Iterable[FloatArray], walks: Iterable[FloatArray],
                 around: FloatArray | None = None) -> None:
        """Polygons of roads, lines along which people walk, and points (N, 2) around which to build: all roads'."""
        roads = [np.asarray(polygon)[:, :2] for polygon in roads]
        points = np.concatenate(roads) if around is None else around
        self.low = points.min(0) - MARGIN_M
        self.low_x, self.low_y = self.low.tolist()
        width, height = np.ceil((points.max(0) + MARGIN_M - self.low) / CELL_M).astype(int).tolist()
        road = np.zeros((height, width), np.uint8)
        for polygon in roads:
            cv2.fillPoly(road, [self._cells(polygon)], (1,), 8, SHIFT)
        self.away_m: FloatArray = cv2.distanceTransform(1 - road, cv2.DIST_L2, 3) * np.float32(CELL_M)
        self.walked = np.zeros_like(road)
        for line in walks:
            cv2.polylines(self.walked, [self._cells(line)], False, (1,), WALKING_CELLS, 8, SHIFT)
        self.taken = np.zeros_like(road)
        self.props: list[Prop] = []

    def _cells(self, points: FloatArray) -> NDArray[np.int32]:
        cells = ((np.asarray(points)[:, :2] - self.low) / CELL_M - 0.5) * (1 << SHIFT)
        return np.rint(cells).astype(np.int32)

    def clearance(self, x: float, y: float) -> float:
        """Metres from a point to the nearest road; 0 on a road, MARGIN_M off the grid."""
        column, row = int((x - self.low_x) / CELL_M), int((y - self.low_y) / CELL_M)
        height, width = self.away_m.shape
        return self.away_m.item(row, column) if 0 <= row < height and 0 <= column < width else MARGIN_M

    def _raster(self, box: Corners) -> list[tuple[int, int]]:
        return [(round(((x - self.low_x) / CELL_M - 0.5) * (1 << SHIFT)),
                 round(((y - self.low_y) / CELL_M - 0.5) * (1 << SHIFT))) for x, y in box]

    def _touches(self, grid: ByteArray, box: Corners) -> bool:
        cells = self._raster(box)
        left, top = (max((min(values) >> SHIFT) - 1, 0) for values in zip(*cells))
        right, bottom = (min((max(values) >> SHIFT) + 2, size) for values, size in zip(zip(*cells), grid.shape[::-1]))
        if right <= left or bottom <= top:
            return True
        there = grid[top:bottom, left:right]
        if not there.any():
            return False
        part = np.zeros((bottom - top, right - left), np.uint8)
        shifted = np.array([(x - (left << SHIFT), y - (top << SHIFT)) for x, y in cells], np.int32)
        cv2.fillConvexPoly(part, shifted, (1,), 8, SHIFT)
        return bool((part & there).any())

    def put(self, kind: str, xy: FloatArray, yaw: float, lwh: tuple[float, float, float], color: tuple[int, int, int],
            clear_m: float = 0.25, foot_m: float | None = None, signal: str | None = None) -> bool:
        """Stand a prop there if there is room, ``clear_m`` from any road. foot_m: what it takes on the ground.

        Its whole box must be free of other props; only its foot must be off roads and walking lines.
        """
        x, y = float(xy[0]), float(xy[1])
        if self.clearance(x, y) < clear_m:
            return False
        box = _corners(x, y, yaw, lwh[0], lwh[1])
        foot = box if foot_m is None else _corners(x, y, yaw, foot_m, foot_m)
        middles = [((ax + bx) / 2, (ay + by) / 2) for (ax, ay), (bx, by) in zip(foot, foot[1:] + foot[:1])]
        if any(self.clearance(*point) < clear_m for point in foot + middles):
            return False
        if self._touches(self.walked, foot) or self._touches(self.taken, box):
            return False
        cv2.fillConvexPoly(self.taken, np.array(self._raster(box), np.int32), (1,), 8, SHIFT)
        self.props.append(Prop(kind, np.array([x, y, 0.0]), float(yaw), np.array(lwh, float), color, signal))
        return True


def _corners(x: float, y: float, yaw: float, length_m: float, width_m: float) -> Corners:
    """``geometry.box_corners`` of one box: thousands are tried, one by one."""
    c, s = math.cos(yaw), math.sin(yaw)
    return [(x + c * a - s * b, y + s * a + c * b)
            for a, b in ((length_m / 2, width_m / 2), (-length_m / 2, width_m / 2), (-length_m / 2, -width_m / 2),
                         (length_m / 2, -width_m / 2))]
