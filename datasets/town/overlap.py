"""Whether boxes overlap: a check of whole drives, and the separating axes beneath it."""

from __future__ import annotations

import numpy as np

from drive_wm.geometry import box_corners
from drive_wm.types import BoolArray, FloatArray, Track

TRAFFIC = ("vehicle", "pedestrian", "emergency")  # what may move, though it stand through a whole log


def overlapping(
    tracks: list[Track], ego_xyyaw: FloatArray, ego_lwh_m: tuple[float, float, float], margin_m: float = 0.1
) -> set[int]:
    """Indices of tracks to drop so that no two boxes, nor any box and the ego's (box centres (T, 3)), ever overlap."""
    pose = np.stack([ego_xyyaw] + [np.concatenate([t.position_m[:, :2], t.yaw_rad[:, None]], -1) for t in tracks])
    lwh = np.array([ego_lwh_m] + [tuple(t.size_lwh_m) for t in tracks])
    valid = np.stack([np.ones(len(ego_xyyaw), bool)] + [t.valid for t in tracks])
    moving = np.array([True] + [t.id.startswith(TRAFFIC) or bool(np.ptp(t.position_m[:, :2], axis=0).any())
                                for t in tracks])
    radius = np.hypot(lwh[:, 0], lwh[:, 1]) / 2
    lost: set[int] = set()
    low, high = pose[:, :, :2].min(1) - radius[:, None], pose[:, :, :2].max(1) + radius[:, None]
    for i in range(len(pose)):
        later = np.arange(i + 1, len(pose))
        meet = (low[later] <= high[i]).all(1) & (high[later] >= low[i]).all(1)
        later = later[meet & (moving[later] | moving[i])]
        if i in lost or not len(later):
            continue
        apart = (pose[later, :, 0] - pose[i, :, 0]) ** 2 + (pose[later, :, 1] - pose[i, :, 1]) ** 2
        close = apart < ((radius[later] + radius[i]) ** 2)[:, None]
        k, t = np.nonzero(close & valid[later] & valid[i])
        if len(k):
            hit = boxes_meet(
                pose[i, t], np.tile(lwh[i] + margin_m, (len(t), 1)), pose[later[k], t], lwh[later[k]] + margin_m
            )
            lost |= set(later[k[hit]].tolist())
    return {i - 1 for i in lost}


def boxes_meet(a: FloatArray, lwh_a: FloatArray, b: FloatArray, lwh_b: FloatArray) -> BoolArray:
    """Separating axes for pairs of boxes: a, b (M, 3) x, y, yaw; sizes (M, 2+) -> (M,).

    Touching is meeting, which a town must not have; for the metrics' ``boxes_overlap`` it is no collision.
    """
    ca, cb = box_corners(a, lwh_a[:, 0], lwh_a[:, 1]), box_corners(b, lwh_b[:, 0], lwh_b[:, 1])
    meet = np.ones(len(a), bool)
    for yaw in (a[:, 2], a[:, 2] + np.pi / 2, b[:, 2], b[:, 2] + np.pi / 2):
        axis = np.stack([np.cos(yaw), np.sin(yaw)], -1)
        pa, pb = np.einsum("md,mkd->mk", axis, ca), np.einsum("md,mkd->mk", axis, cb)
        meet &= (pa.max(1) >= pb.min(1)) & (pb.max(1) >= pa.min(1))
    return meet
