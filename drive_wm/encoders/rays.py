"""Camera geometry -> features: a position is known by the ray through it, never by its camera's index."""

from __future__ import annotations

import numpy as np

from drive_wm.tokenizer.model import STRIDE
from drive_wm.types import Camera, FloatArray, InputError, IntArray, Rig

BANDS = (1.0, 2.0, 4.0, 8.0)
FEATURES = 3 + 3 + 2 + 6 * len(BANDS)


def grid_of(camera: Camera) -> tuple[int, int]:
    """(rows, columns) of token positions; raises InputError for a size that does not divide by the stride."""
    if camera.height % STRIDE or camera.width % STRIDE:
        height, width = camera.height // STRIDE * STRIDE, camera.width // STRIDE * STRIDE
        raise InputError(f"camera {camera.name}: {camera.width} x {camera.height} pixels; "
                         f"both must divide by {STRIDE}. Ask for --size {height}x{width}")
    return camera.height // STRIDE, camera.width // STRIDE


def ray_features(rig: Rig) -> tuple[FloatArray, IntArray, list[tuple[int, int]]]:
    """(P, FEATURES) features, (P, 2) row and column of every position in rig order, and the cameras' grids.

    Features: unit ray in the rig frame, camera position / 2 m, angular size of the position, Fourier bands of the ray.
    """
    features, cells, grids = [], [], []
    for camera in rig.cameras:
        rows, columns = grid_of(camera)
        v, u = np.mgrid[0:rows, 0:columns].reshape(2, -1)
        pixels = np.stack([(u + 0.5) * STRIDE, (v + 0.5) * STRIDE, np.ones(u.shape)], -1)
        rays = pixels @ np.linalg.inv(camera.intrinsics).T @ camera.rig_from_camera[:3, :3].T
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        extent = np.array([STRIDE / camera.intrinsics[0, 0], STRIDE / camera.intrinsics[1, 1]])
        place = np.concatenate([camera.rig_from_camera[:3, 3] / 2, extent])
        bands = [f(np.pi * b * rays) for b in BANDS for f in (np.sin, np.cos)]
        features.append(np.concatenate([rays, np.tile(place, (len(rays), 1)), *bands], 1))
        cells.append(np.stack([v, u], -1))
        grids.append((rows, columns))
    return np.concatenate(features).astype(np.float32), np.concatenate(cells), grids
