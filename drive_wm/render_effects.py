"""Light and weather painted over the ground and the picture: haze, pools of light, reflections, streaks of rain."""

from __future__ import annotations

import zlib
from functools import lru_cache

import cv2
import numpy as np

from drive_wm.render_light import Light
from drive_wm.render_view import NEAR_M, View, clipped, fixed
from drive_wm.types import ByteArray, FloatArray

POOL_M = 7.5  # radius of the light of a street lamp on the ground
POOL_REACH_M = 70.0
UNIT = 72  # level of the light map that leaves the ground as it is; 255 is the brightest
REFLECTION = 0.5
KEPT_PX = 1_000_000  # what belongs to larger images is made anew each time, so that memory stays small
_POOL = ((1.0, (104, 99, 90)), (0.72, (142, 131, 112)), (0.42, (196, 178, 146)))
_CONES = ((14.0, 3.0, (100, 98, 94)), (8.0, 1.9, (138, 134, 124)))  # metres ahead, half width there, level
_OWN_CONES = ((34.0, 8.5, (88, 87, 84)), (30.0, 7.0, (106, 104, 100)), (25.0, 5.6, (126, 123, 117)),
              (20.0, 4.3, (148, 144, 136)), (14.0, 3.0, (172, 168, 158)))


def veil(image: ByteArray, view: View, light: Light) -> None:
    """Haze over the ground, row by row: its distance follows from the height of the eye and the slope of the ray."""
    red, green, blue = np.rint(light.horizon).tolist()
    make = _veil if view.width * view.height <= KEPT_PX else _veil.__wrapped__
    first, last, keep, haze = make(view.row_up.tobytes(), view.width, round(max(float(view.eye[2]), 0.5), 3),
                                   light.fog_m, light.wet, (red, green, blue))
    if last > first:
        part = image[first:last]
        cv2.multiply(part, keep, part, 1 / 255)
        cv2.add(part, haze, part)


@lru_cache(maxsize=16)
def _veil(row_up: bytes, width: int, eye_m: float, fog_m: float, wet: bool,
          horizon: tuple[float, float, float]) -> tuple[int, int, ByteArray, ByteArray]:
    """First and last + 1 row of the ground, how much of it is seen (rows, width, 3) of 255, and the haze before it."""
    down = -np.frombuffer(row_up)
    ground = np.flatnonzero(down > 0)
    if not len(ground) or len(ground) != ground[-1] - ground[0] + 1:
        return 0, 0, np.zeros((0, width, 3), np.uint8), np.zeros((0, width, 3), np.uint8)
    down = np.maximum(down[ground], 1e-4)
    keep = np.exp(-eye_m / down / fog_m)
    if wet:  # a wet road mirrors the sky at grazing angles
        keep = keep * (1 - 0.5 * np.exp(-down / 0.09))
    share = np.rint(255 * keep)[:, None, None] * np.ones((1, width, 3))
    haze = np.rint((1 - share / 255) * np.array(horizon))
    return int(ground[0]), int(ground[-1]) + 1, share.astype(np.uint8), haze.astype(np.uint8)


def streaks(image: ByteArray, origin: FloatArray, rgb: FloatArray) -> None:
    rng = np.random.default_rng(zlib.crc32(np.round(origin, 3).tobytes()))
    height, width = image.shape[:2]
    start = rng.uniform(0, 1, (26, 2)) * (width, height)
    length = height * rng.uniform(0.04, 0.09, 26)
    color = tuple(float(v) for v in np.minimum(rgb + 26, 255))
    for (x, y), d in zip(start, length):
        cv2.line(image, (int(x), int(y)), (int(x - 0.15 * d), int(y + d)), color, 1)


def _fan(start: float, ahead: float, near: float, wide: float) -> FloatArray:
    """A beam on the ground along +x, from ``near`` to ``wide`` metres either side, round at its far end."""
    end = ahead - 0.35 * wide
    return np.array([[start, near], [start, -near], [end, -wide], [ahead, -0.6 * wide], [ahead, 0.6 * wide],
                     [end, wide]])


def beams(fronts: FloatArray) -> list[tuple[FloatArray, tuple[int, int, int]]]:
    """Light of the head lamps of vehicles whose fronts are at (N, 4): x, y, z of the ground, yaw."""
    out = []
    for ahead, wide, level in _CONES:
        fan = _fan(0.1, ahead, 0.7, wide)
        for x, y, z, yaw in fronts.tolist():
            c, s = np.cos(yaw), np.sin(yaw)
            xy = fan @ np.array([[c, s], [-s, c]]) + (x, y)
            out.append((np.column_stack([xy, np.full(len(xy), z)]), level))
    return out


def own_beams(rotation: FloatArray) -> list[tuple[FloatArray, tuple[int, int, int]]]:
    """Light of the ego's own head lamps, from its front 3.6 m ahead of the rear axle."""
    return [(np.column_stack([_fan(3.6, ahead, 0.12 * wide + 0.5, wide), np.zeros(6)]) @ rotation.T, level)
            for ahead, wide, level in _OWN_CONES]


def pools(lamps: FloatArray) -> list[tuple[FloatArray, tuple[int, int, int]]]:
    """Light below the heads of street lamps whose feet are at (N, 3)."""
    turn = np.linspace(0.0, 2 * np.pi, 12, endpoint=False)
    ring = np.stack([np.cos(turn), np.sin(turn), 0 * turn], 1) * POOL_M
    return [(lamp + share * ring, level) for share, level in _POOL for lamp in lamps]


def light_ground(image: ByteArray, view: View, patches: list[tuple[FloatArray, tuple[int, int, int]]],
                 strength: float) -> None:
    """Brighten the image where patches of light (polygon (N, 3) relative to the rig, level) lie, softly.

    strength: 1 in the dark, less while there is other light.
    """
    if not patches:
        return
    counts = np.array([len(points) for points, _ in patches])
    starts = np.cumsum(counts) - counts
    projected = view.project(np.concatenate([points for points, _ in patches]).astype(np.float32))
    low, high = np.minimum.reduceat(projected, starts), np.maximum.reduceat(projected, starts)
    level = np.full((view.height // 2, view.width // 2, 3), UNIT, np.uint8)
    seen = np.flatnonzero(view.visible(low, high)).tolist()
    for i in seen:
        corners = clipped(projected[starts[i] : starts[i] + counts[i], :3].tolist())
        rgb = tuple(UNIT + strength * (value - UNIT) for value in patches[i][1])
        cv2.fillConvexPoly(level, fixed(0.5 * np.array(corners)), rgb, 8, 4)
    if seen:
        soft = max(3, view.width // 64)
        softened = cv2.blur(level, (soft, max(1, soft // 3)))
        cv2.multiply(image, cv2.resize(softened, (view.width, view.height)), image, 1 / UNIT)


def reflect(image: ByteArray, view: View, quads: FloatArray, base_m: FloatArray, rgb: FloatArray) -> None:
    """Mirror shining quads (Q, 4, 3) in the wet ground at heights (Q,), drawn out downwards."""
    mirrored = quads.copy()
    mirrored[..., 2] = 2 * base_m[:, None] - quads[..., 2]
    projected = view.project(mirrored.reshape(-1, 3)).reshape(-1, 4, 5)
    seen = view.visible(projected.min(1), projected.max(1)) & (projected[..., 2].min(1) > NEAR_M)
    if seen.any():
        glow = np.zeros((view.height // 2, view.width // 2, 3), np.uint8)
        corners = fixed(0.5 * projected[seen][..., :2] / projected[seen][..., 2:3])
        for polygon, color in zip(corners, (REFLECTION * rgb[seen]).tolist()):
            cv2.fillConvexPoly(glow, polygon, color, 8, 4)
        softened = cv2.blur(glow, (3, max(3, view.height // 18)))
        cv2.add(image, cv2.resize(softened, (view.width, view.height)), image)
