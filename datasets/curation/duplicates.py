"""Near-duplicates: clips that look the same and drive the same. Of each such group the best is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from drive_wm.datasets.curation.quality import MOMENTS
from drive_wm.geometry import interpolate_poses, relative_xyyaw, xyyaw_from_pose
from drive_wm.types import ByteArray, Camera, FloatArray, IntArray, Log

HASH_SIDE_PX = 32
PATH_POINTS = 16
_BITS = np.array([bin(i).count("1") for i in range(256)], dtype=np.int64)


@dataclass(frozen=True)
class Likeness:
    """How alike two clips are that count as one: on average ``bits`` of 64 differ, and in no image more than twice as
    many; the paths lie within path_m, or path_share of their length; they last as long, within path_share."""

    bits: float = 5.0
    path_m: float = 0.5
    path_share: float = 0.05


def phash(image: ByteArray) -> int:
    """64 bits of an RGB image: which of its 63 lowest frequencies lie above their median (pHash, Zauner 2010)."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (HASH_SIDE_PX, HASH_SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:8, :8].ravel()
    bits = low > np.median(low[1:])
    bits[0] = False  # the mean brightness
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def distance(a: IntArray, b: IntArray) -> IntArray:
    """Bits that differ between hashes (uint64), broadcast."""
    different = np.bitwise_xor(a, b)
    shape = different.shape
    return _BITS[np.ascontiguousarray(different).reshape(-1, 1).view(np.uint8)].sum(-1).reshape(shape)


def forward_camera(log: Log) -> Camera:
    """The camera that looks most straight ahead, the first of equals."""
    return max(log.rig.cameras, key=lambda camera: round(float(camera.rig_from_camera[0, 2]), 6))


def hashes(images: Sequence[ByteArray]) -> tuple[int, ...]:
    """The clip's hash, one number an image of MOMENTS."""
    return tuple(phash(image) for image in images)


def path(log: Log, start_us: int, end_us: int) -> FloatArray:
    """(PATH_POINTS, 2) metres: where the ego is at equal steps of time, in the rig frame of the clip's start."""
    at = np.linspace(start_us, end_us, PATH_POINTS).round().astype(np.int64)
    xyyaw = xyyaw_from_pose(interpolate_poses(log.ego, at)[0])
    return relative_xyyaw(xyyaw[0], xyyaw)[:, :2]


def duplicates(hashed: Sequence[Sequence[int]], paths: Sequence[FloatArray], seconds: Sequence[float],
               scores: Sequence[float], likeness: Likeness = Likeness()) -> dict[int, int]:
    """Index of each clip that is to go -> index of the better one kept in its stead; equal scores keep the earlier.

    Clips come best first; each is compared with those kept, so that every one that goes is truly near to its keeper and
    chains of small differences do not swallow a drive. A clip without all its hashes is like no other.
    """
    usable = [i for i in range(len(hashed)) if len(hashed[i]) == len(MOMENTS)]
    order = sorted(usable, key=lambda i: (-scores[i], i))
    kept: list[int] = []
    out: dict[int, int] = {}
    codes = np.zeros((len(order), len(MOMENTS)), dtype=np.uint64)
    tracks, lasts = np.zeros((len(order), PATH_POINTS, 2)), np.zeros(len(order))
    for i in order:
        n = len(kept)
        code = np.array(hashed[i], dtype=np.uint64)
        length = float(np.linalg.norm(np.diff(paths[i], axis=0), axis=1).sum())
        limit = max(likeness.path_m, likeness.path_share * length)
        same = np.flatnonzero(np.abs(lasts[:n] - seconds[i]) <= likeness.path_share * seconds[i])
        same = same[np.linalg.norm(tracks[same] - paths[i], axis=2).mean(1) <= limit]
        differ = distance(codes[same], code)
        same = same[(differ.mean(1) <= likeness.bits) & (differ <= 2 * likeness.bits).all(1)]
        if len(same):
            out[i] = kept[int(same[0])]
            continue
        codes[n], tracks[n], lasts[n] = code, paths[i], seconds[i]
        kept.append(i)
    return out
