"""Pictures of a start for people: the truth, what the tokens can show, and every mode, second by second."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from drive_wm.media import contact_sheet, tile_cameras
from drive_wm.types import ByteArray

SHOWN_S = (1.0, 2.0, 4.0, 30.0)


def sheet_of(steps: tuple[int, ...], rate_hz: float, shots: Mapping[str, Mapping[str, ByteArray]]) -> ByteArray:
    """Rows: every kind of ``shots`` (camera -> (T, H, W, 3) at those steps) at SHOWN_S; cameras side by side."""
    chosen = [i for i, k in enumerate(steps) if k / rate_hz in SHOWN_S] or [len(steps) - 1]
    rows, labels = [], []
    for i in chosen:
        for kind, frames in shots.items():
            rows.append([tile_cameras({n: f[i] for n, f in frames.items()}, rows=1)])
            labels.append(f"{steps[i] / rate_hz:g} s {kind}")
    return np.ascontiguousarray(contact_sheet(rows, labels))
