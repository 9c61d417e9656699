"""Room for what stands beside the streets: a grid that knows roads, walking lines and what was built before."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from drive_wm.geometry import box_corners
from drive_wm.types import ByteArray, FloatArray, Prop

CELL_M = 0.25
MARGIN_M = 60.0
WALKING_CELLS = 1  # drawn three cells wide: kept free along the middle of a walkway
SHIFT = 4  # fractional bits of the coordinates given to OpenCV


class Site:
    """Collects props. Nothing that is put touches a road, a walking line or another prop's footprint."""

    def __init__(self, roads: Iterable[FloatArray], walks: Iterable[FloatArray],
                 around: FloatArray | None = None) -> None:
        """Polygons of roads, lines along which people walk, and points (N, 2) around which to build: all roads'."""
        roads = [np.asarray(polygon)[:, :2] for polygon in roads]
        points = np.concatenate(roads) if around is None else around
        self.low = points.min(0) - MARGIN_M
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

    def clearance(self, points: FloatArray) -> float:
        """Metres from the nearest road to the nearest of points (N, 2); 0 on a road, MARGIN_M off the grid."""
        column, row = ((points - self.low) / CELL_M).astype(int).T
        inside = (row >= 0) & (column >= 0) & (row < self.away_m.shape[0]) & (column < self.away_m.shape[1])
        return float(self.away_m[row[inside], column[inside]].min(initial=MARGIN_M))

    def _touches(self, grid: ByteArray, box: FloatArray) -> bool:
        cells = self._cells(box)
        low = np.maximum((cells.min(0) >> SHIFT) - 1, 0).astype(np.int32)
        high = np.minimum((cells.max(0) >> SHIFT) + 2, grid.shape[::-1])
        if (high <= low).any():
            return True
        part = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        cv2.fillConvexPoly(part, cells - (low << SHIFT), (1,), 8, SHIFT)
        hit = part & grid[low[1] : high[1], low[0] : high[0]]
        return bool(hit.any())

    def put(self, kind: str, xy: FloatArray, yaw: float, lwh: tuple[float, float, float], color: tuple[int, int, int],
            clear_m: float = 0.25, foot_m: float | None = None, signal: str | None = None) -> bool:
        """Stand a prop there if there is room, ``clear_m`` from any road. foot_m: what it takes on the ground.

        Its whole box must be free of other props; only its foot must be off roads and walking lines.
        """
        if self.clearance(np.asarray(xy)[None]) < clear_m:
            return False
        pose = np.array([xy[0], xy[1], yaw])
        box = box_corners(pose, np.array(lwh[0]), np.array(lwh[1]))
        foot = box if foot_m is None else box_corners(pose, np.array(foot_m), np.array(foot_m))
        edge = np.concatenate([foot, (foot + foot[[1, 2, 3, 0]]) / 2])
        if self.clearance(edge) < clear_m or self._touches(self.walked, foot) or self._touches(self.taken, box):
            return False
        self._take(box)
        self.props.append(Prop(kind, np.array([xy[0], xy[1], 0.0]), float(yaw), np.array(lwh, float), color, signal))
        return True

    def _take(self, box: FloatArray) -> None:
        cv2.fillConvexPoly(self.taken, self._cells(box), (1,), 8, SHIFT)
