"""One pinhole camera at one pose: projection, sight, clipping, and the painting of polygons."""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from itertools import repeat

import cv2
import numpy as np

from drive_wm.types import BoolArray, ByteArray, Camera, FloatArray, IntArray

NEAR_M = 0.3
FAR_PX = 4e5  # beyond, coordinates are cut: OpenCV counts in 32 bits
SHIFT = 4  # fractional bits of the pixel coordinates given to OpenCV


@lru_cache(maxsize=256)
def _rows(intrinsics: bytes, width: int, height: int) -> tuple[FloatArray, FloatArray]:
    """Linear maps of a camera point, see View.linear, and the directions (H, 3) through the middle of each row."""
    k = np.frombuffer(intrinsics).reshape(3, 3)
    # u*z, v*z and z, and how far u*z and v*z lie beyond the right and the lower edge: all linear, so that a polygon
    # is out of sight where one of them has the same sign at every corner, before or behind the camera
    linear = np.stack([k[0], k[1], k[2], k[0] - width * k[2], k[1] - height * k[2]])
    y = (np.arange(height) + 0.5 - k[1, 2]) / k[1, 1]
    rays = np.stack([np.full(height, (width / 2 - k[0, 2]) / k[0, 0]), y, np.ones(height)], 1)
    return linear, rays / np.linalg.norm(rays, axis=1, keepdims=True)


class View:
    """A camera in pixels of an image ``scale`` times as fine; points are given relative to the rig's origin."""

    def __init__(self, camera: Camera, rotation: FloatArray, scale: int = 1) -> None:
        self.width, self.height = camera.width * scale, camera.height * scale
        self.turn: FloatArray = rotation @ camera.rig_from_camera[:3, :3]
        self.eye = (rotation @ camera.rig_from_camera[:3, 3]).astype(np.float32)
        self.intrinsics: FloatArray = camera.intrinsics * np.array([[scale], [scale], [1.0]])
        rows, rays = _rows(self.intrinsics.tobytes(), self.width, self.height)
        self.linear = np.ascontiguousarray((rows @ self.turn.T).T, np.float32)
        self.row_up: FloatArray = rays @ self.turn[2]  # sine of the elevation in the middle of each row

    def project(self, points: FloatArray) -> FloatArray:
        """(N, 3) -> (N, 5): u*z, v*z, z in pixels and metres, (u - width) * z, (v - height) * z."""
        out: FloatArray = (points - self.eye) @ self.linear
        return out

    def may_see(self, ball_m: FloatArray) -> BoolArray:
        """Whether balls (N, 4), centre and radius, may touch the image: no half space of ``visible`` excludes them."""
        sides = (ball_m[:, :3] - self.eye) @ self.linear
        u, v, z, right, low = (sides[:, i] for i in range(5))
        slack = ball_m[:, 3]
        a, b, c, d, e = np.sqrt((self.linear**2).sum(0)).tolist()
        seen: BoolArray = (z > -slack * c) & (u > -slack * a) & (right < slack * d)
        seen &= (v > -slack * b) & (low < slack * e)
        return seen

    def visible(self, low: FloatArray, high: FloatArray) -> BoolArray:
        """Whether polygons with these bounds (P, 5) of their projected points may touch the image."""
        return (high[:, 2] > NEAR_M) & (high[:, 0] > 0) & (high[:, 1] > 0) & (low[:, 3] < 0) & (low[:, 4] < 0)

    def fill(self, image: ByteArray, projected: FloatArray, counts: IntArray, rgb: FloatArray,
             convex: BoolArray) -> None:
        """Paint polygons of ``counts`` consecutive points (V, 5), in order, clipped where they cross the near plane."""
        if not len(counts):
            return
        ends = np.cumsum(counts)
        starts = ends - counts
        cut = np.minimum.reduceat(projected[:, 2], starts) < NEAR_M
        pixels = fixed(projected[:, :2] / np.maximum(projected[:, 2:3], NEAR_M))
        polygons = zip(starts.tolist(), ends.tolist(), cut.tolist(), convex.tolist(), rgb.tolist())
        for a, b, clip, simple, color in polygons:
            polygon = fixed(np.array(clipped(projected[a:b, :3].tolist()))) if clip else pixels[a:b]
            if simple:
                cv2.fillConvexPoly(image, polygon, color, 8, SHIFT)
            else:
                cv2.fillPoly(image, [polygon], color, 8, SHIFT)

    def fill_quads(self, image: ByteArray, uv: FloatArray, projected: FloatArray, rgb: FloatArray) -> None:
        """Paint quads in order: uv (Q, 4, 2) in pixels, and projected (Q, 4, 5) for those that cross the near plane."""
        polygons = list(fixed(uv))
        for i in np.flatnonzero(projected[:, :, 2].min(1) < NEAR_M).tolist():
            polygons[i] = _fixed_list(clipped(projected[i, :, :3].tolist()))
        paint, eight, shift = cv2.fillConvexPoly, repeat(8), repeat(SHIFT)
        deque(map(paint, repeat(image), polygons, rgb.tolist(), eight, shift), maxlen=0)  # a loop without bytecode


def fixed(uv: FloatArray) -> IntArray:
    """Pixels as OpenCV wants them: integers of 1 / 2**SHIFT, counted from the middle of the first pixel."""
    return np.rint((np.maximum(np.minimum(uv, FAR_PX), -FAR_PX) - 0.5) * (1 << SHIFT)).astype(np.int32)


def _fixed_list(uv: list[tuple[float, float]]) -> IntArray:
    """``fixed`` for the few corners of one polygon, for which plain floats are faster."""
    one = 1 << SHIFT
    return np.array([[round((max(min(w, FAR_PX), -FAR_PX) - 0.5) * one) for w in corner] for corner in uv], np.int32)


def clipped(points: list[list[float]]) -> list[tuple[float, float]]:
    """Sutherland-Hodgman against the near plane, concave polygons included: (u*z, v*z, z) -> pixels.

    Plain floats: for the few corners of a polygon they are ten times as fast as arrays.
    """
    out = []
    u0, v0, z0 = points[-1]
    for u1, v1, z1 in points:
        if (z0 < NEAR_M) != (z1 < NEAR_M):
            t = (NEAR_M - z0) / (z1 - z0)
            out.append(((u0 + t * (u1 - u0)) / NEAR_M, (v0 + t * (v1 - v0)) / NEAR_M))
        if z1 >= NEAR_M:
            out.append((u1 / z1, v1 / z1))
        u0, v0, z0 = u1, v1, z1
    return out
