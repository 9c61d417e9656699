"""Small things that several commands share: image quality, pictures at a viewing size, arrays on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.media import tile_cameras
from drive_wm.types import BoolArray, ByteArray

ZOOM = 2  # of small frames in pictures


def psnr_db(a: ByteArray, b: ByteArray) -> float:
    """-10 log10 of the mean squared error of two images of equal shape, in units of full scale."""
    return float(-10 * np.log10(max(np.mean((a.astype(np.float64) - b) ** 2) / 255.0**2, 1e-10)))


def zoomed(image: ByteArray) -> ByteArray:
    return np.kron(image, np.ones((ZOOM, ZOOM, 1), np.uint8)) if image.shape[0] < 200 else image


def one_row(frames: Any) -> ByteArray:
    return tile_cameras(frames, rows=1)


def write_arrays(path: Path, **arrays: Any) -> None:
    from drive_wm.eval.run_folder import replacing

    with replacing(path) as temporary, temporary.open("wb") as f:
        np.savez(f, **arrays)


def mean_psnr(a: ByteArray, b: ByteArray, valid: BoolArray) -> float | None:
    return float(np.mean([psnr_db(x, y) for x, y in zip(a[valid], b[valid])])) if valid.any() else None
