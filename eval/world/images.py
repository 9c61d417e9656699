"""Pictures against pictures: PSNR, SSIM, and whether neighbouring cameras agree where they see the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from drive_wm.geometry import inverse_pose
from drive_wm.media import psnr_db
from drive_wm.render import Labels
from drive_wm.types import ByteArray, FloatArray, Rig

WINDOW, SIGMA = 11, 1.5  # of SSIM's Gaussian, in pixels
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
LEAST_SHARED = 40  # pixels that two cameras must share to be compared
SAME_DEPTH = 0.05  # relative; nearer, it is the same surface


def ssim(a: ByteArray, b: ByteArray) -> float:
    """Structural similarity of two images (H, W, 3), mean over pixels and channels (Wang et al., 2004)."""
    import cv2

    def blur(image: FloatArray) -> FloatArray:
        return np.asarray(cv2.GaussianBlur(image, (WINDOW, WINDOW), SIGMA))

    x, y = a.astype(np.float32), b.astype(np.float32)
    mx, my = blur(x), blur(y)
    vx, vy, vxy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    return float(((2 * mx * my + C1) * (2 * vxy + C2) / ((mx * mx + my * my + C1) * (vx + vy + C2))).mean())


Overlap = tuple[str, str, FloatArray, FloatArray]  # two cameras, (M, 2) row, column of the same M points in each


def overlaps(rig: Rig, labels: Mapping[str, Labels]) -> list[Overlap]:
    """Where two cameras of a rig see the same surface, by the true depth; the sky is taken to be far away."""
    found = []
    for i, a in enumerate(rig.cameras):
        depth = np.minimum(labels[a.name].depth_m, 1e4)
        rows, columns = np.mgrid[: a.height, : a.width]
        rays = np.stack([columns + 0.5, rows + 0.5, np.ones(depth.shape)], -1) @ np.linalg.inv(a.intrinsics).T
        points = (rays * depth[..., None]).reshape(-1, 3)
        for b in rig.cameras[i + 1:]:
            b_from_a = inverse_pose(b.rig_from_camera) @ a.rig_from_camera
            at = points @ b_from_a[:3, :3].T + b_from_a[:3, 3]
            ahead = np.flatnonzero(at[:, 2] > 0.5)
            u, v, _ = b.intrinsics @ (at[ahead] / at[ahead, 2:]).T
            inside = (u >= 0) & (u < b.width) & (v >= 0) & (v < b.height)
            ahead, u, v = ahead[inside], u[inside].astype(int), v[inside].astype(int)
            there = np.minimum(labels[b.name].depth_m[v, u], 1e4)
            same = np.abs(there / at[ahead, 2] - 1) < SAME_DEPTH
            if same.sum() >= LEAST_SHARED:
                mine = np.stack(np.divmod(ahead[same], a.width), -1)
                found.append((a.name, b.name, mine, np.stack([v[same], u[same]], -1)))
    return found


def agreement_db(frames: Mapping[str, ByteArray], shared: list[Overlap]) -> float:
    """PSNR between the colours that two cameras give the same points, mean over pairs; NaN where none overlap."""
    values = [psnr_db(frames[a][None, p[:, 0], p[:, 1]], frames[b][None, q[:, 0], q[:, 1]]) for a, b, p, q in shared]
    return float(np.mean(values)) if values else float("nan")
