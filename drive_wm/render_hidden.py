"""Which quads stand behind houses: most of a town does, and what is not painted costs nothing."""

from __future__ import annotations

import numpy as np

from drive_wm.render_view import NEAR_M, View
from drive_wm.types import BoolArray, FloatArray, IntArray

BIN_PX = 8  # columns of the image that are judged together
LEVEL = 1e-3  # a camera tilted by less has upright edges of houses upright in its image
BEHIND_M = 0.5
LEAST = 100  # with fewer quads looking costs more than painting


def in_sight(view: View, uv: FloatArray, depth: FloatArray, walls: IntArray) -> BoolArray:
    """Whether quads with corners uv (Q, 4, 2) and depth (Q, 4) are not wholly behind one of the ``walls`` among them.

    A wall is an upright quad whose first two corners are at its foot. It counts in columns that it fills; in each the
    nearest wall and the one that reaches highest are kept, so a quad may be hidden and yet be reported in sight. All
    are in sight of a camera that is not level.
    """
    all_seen = np.ones(len(uv), bool)
    if len(uv) < LEAST or abs(view.turn[2, 0]) > LEVEL or abs(view.turn[2, 2]) > LEVEL:
        return all_seen
    walls = walls[depth[walls].min(1) > NEAR_M]
    if not len(walls):
        return all_seen
    top, foot, far = _columns(view, uv[walls], depth[walls])
    nearest, highest = far.argmin(0), top.argmin(0)
    column = np.arange(top.shape[1])
    a, b, c, d = uv.transpose(1, 0, 2)
    low, high = np.minimum(np.minimum(a, b), np.minimum(c, d)), np.maximum(np.maximum(a, b), np.maximum(c, d))
    near = depth.min(1) - BEHIND_M
    hidden = np.zeros((len(uv), len(column)), bool)
    for best in (nearest, highest):
        hidden |= (far[best, column] < near[:, None]) & (top[best, column] <= low[:, 1:]) & \
            (foot[best, column] >= high[:, 1:])
    first = np.clip((low[:, 0] / BIN_PX).astype(int), 0, len(column) - 1)
    last = np.clip((high[:, 0] / BIN_PX).astype(int), 0, len(column) - 1)
    shown = np.zeros((len(uv), len(column) + 1), np.int16)
    np.cumsum(~hidden, axis=1, dtype=np.int16, out=shown[:, 1:])
    rows = np.arange(len(uv))
    seen: BoolArray = shown[rows, last + 1] > shown[rows, first]
    return seen


def _columns(view: View, uv: FloatArray, depth: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(W, columns) each: the lowest top, the highest foot and the greatest depth of walls, inf where not filled."""
    edge = np.arange(0, view.width + BIN_PX, BIN_PX, dtype=np.float32)
    u0, u1 = uv[:, 0, 0], uv[:, 1, 0]
    share = (edge - u0[:, None]) / np.where(np.abs(u1 - u0) < 1e-6, 1e-6, u1 - u0)[:, None]
    inside = (share >= 0) & (share <= 1)
    filled = inside[:, :-1] & inside[:, 1:]
    top = uv[:, 3, 1, None] + share * (uv[:, 2, 1] - uv[:, 3, 1])[:, None]
    foot = uv[:, 0, 1, None] + share * (uv[:, 1, 1] - uv[:, 0, 1])[:, None]
    inverse = 1 / depth[:, 0, None] + share * (1 / depth[:, 1] - 1 / depth[:, 0])[:, None]
    nearer = np.minimum(inverse[:, :-1], inverse[:, 1:])
    far = np.where(filled, 1 / np.where(filled, nearer, 1.0), np.inf)
    return np.where(filled, np.maximum(top[:, :-1], top[:, 1:]), np.inf), np.minimum(foot[:, :-1], foot[:, 1:]), far
