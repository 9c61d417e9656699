"""Class, depth and instance at the centre of every pixel, from the same polygons as the pictures.

Polygons are turned into spans of pixel centres (even-odd rule, no anti-aliasing), so that nothing is blended: on the
ground the last painted polygon holds, among standing things the nearest, and these stand on the ground, as in pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drive_wm.render_things import ranges
from drive_wm.render_view import NEAR_M, View, clipped
from drive_wm.types import ByteArray, FloatArray, IntArray


@dataclass(frozen=True)
class Labels:
    """semantics: (H, W) uint8, index into SEMANTICS. depth_m: (H, W) float32 along the optical axis, inf for the sky.

    instance: (H, W) int32, index of the agent among those that were given, -1 elsewhere.
    """

    semantics: ByteArray
    depth_m: FloatArray
    instance: IntArray


@dataclass(frozen=True)
class Polygons:
    """points: (V, 3) relative to the rig, ``counts`` (P,) of them a polygon. classes, owners: (P,), owner -1 none."""

    points: FloatArray
    counts: IntArray
    classes: IntArray
    owners: IntArray


def label(view: View, ground: Polygons, standing: Polygons) -> Labels:
    """Labels of a view: the ground in painting order, then what stands on it by depth."""
    semantics = np.zeros(view.height * view.width, np.uint8)
    depth = np.full(view.height * view.width, np.inf, np.float32)
    instance = np.full(view.height * view.width, -1, np.int32)
    for polygons, by_depth in ((ground, False), (standing, True)):
        owner, pixel, z = _fragments(view, polygons)
        if by_depth:
            order = np.argsort(-z, kind="stable")
            owner, pixel, z = owner[order], pixel[order], z[order]
        # of assignments to the same pixel the last one holds
        semantics[pixel], depth[pixel], instance[pixel] = polygons.classes[owner], z, polygons.owners[owner]
    shape = (view.height, view.width)
    return Labels(semantics.reshape(shape), depth.reshape(shape), instance.reshape(shape))


def _fragments(view: View, polygons: Polygons) -> tuple[IntArray, IntArray, FloatArray]:
    """Every (polygon, pixel centre inside it) pair, by polygon, and the depth of the polygon's plane there."""
    corner, owner = _outlines(view, polygons)
    owner, row, first, last = _spans(corner, owner, view.width, view.height)
    column = ranges(first, last - first)
    owner, row = (np.repeat(value, last - first) for value in (owner, row))
    inverse = np.einsum("fk,fk->f", _inverse_depth(view, polygons)[owner],
                        np.stack([column + 0.5, row + 0.5, np.ones(len(row))], 1))
    ahead = inverse > 0
    return owner[ahead], (row * view.width + column)[ahead], 1.0 / inverse[ahead]


def _outlines(view: View, polygons: Polygons) -> tuple[FloatArray, IntArray]:
    """Edges (E, 4) u0, v0, u1, v1 of the polygons that may be seen, cut at the near plane, and whose they are."""
    if not len(polygons.counts):
        return np.zeros((0, 4)), np.zeros(0, int)
    starts = np.cumsum(polygons.counts) - polygons.counts
    projected = view.project(polygons.points.astype(np.float64))
    low, high = np.minimum.reduceat(projected, starts), np.maximum.reduceat(projected, starts)
    seen = view.visible(low, high)
    whole = np.flatnonzero(seen & (low[:, 2] >= NEAR_M))
    counts = polygons.counts[whole]
    rows = ranges(starts[whole], counts)
    uv = [projected[rows, :2] / projected[rows, 2:3]]
    sizes, owners = [counts], [whole]
    for i in np.flatnonzero(seen & (low[:, 2] < NEAR_M)):
        cut = clipped(projected[starts[i] : starts[i] + polygons.counts[i], :3].tolist())
        uv.append(np.array(cut))
        sizes.append(np.array([len(cut)]))
        owners.append(np.array([i]))
    start, size = np.concatenate(uv), np.concatenate(sizes)
    first = np.cumsum(size) - size
    after = np.arange(len(start)) + 1
    after[first + size - 1] = first
    return np.concatenate([start, start[after]], 1), np.repeat(np.concatenate(owners), size)


def _spans(edges: FloatArray, owner: IntArray, width: int,
           height: int) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Owner, row, first and last + 1 column of the runs of pixel centres inside closed outlines, by owner."""
    u0, v0, u1, v1 = edges.T
    top, bottom = (np.clip(np.ceil(v - 0.5), 0, height).astype(np.int64)
                   for v in (np.minimum(v0, v1), np.maximum(v0, v1)))
    count = bottom - top
    edge = np.repeat(np.arange(len(edges)), count)
    row = ranges(top, count)
    share = (row + 0.5 - v0[edge]) / (v1 - v0)[edge]
    crossing = u0[edge] + share * (u1 - u0)[edge]
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)
    order = np.lexsort((column, row, owner[edge]))
    entry, leave = order[0::2], order[1::2]  # a closed outline crosses a line of centres an even number of times
    keep = column[leave] > column[entry]
    entry, leave = entry[keep], leave[keep]
    return owner[edge[entry]], row[entry], column[entry], column[leave]


def _inverse_depth(view: View, polygons: Polygons) -> FloatArray:
    """(P, 3) per polygon: 1 / depth at the pixel (u, v) is its product with (u, v, 1); planes by Newell's method."""
    if not len(polygons.counts):
        return np.zeros((0, 3))
    ends = np.cumsum(polygons.counts)
    starts = ends - polygons.counts
    after = np.arange(len(polygons.points)) + 1
    after[ends - 1] = starts
    points = polygons.points.astype(np.float64)
    middle = np.add.reduceat(points, starts) / polygons.counts[:, None]
    points = points - np.repeat(middle, polygons.counts, axis=0)
    normal = np.add.reduceat(np.cross(points, points[after]), starts)
    height = np.einsum("pi,pi->p", normal, middle - view.eye)
    with np.errstate(divide="ignore", invalid="ignore"):
        plane = (normal @ view.turn @ np.linalg.inv(view.intrinsics)) / height[:, None]
    return np.where(np.isfinite(plane), plane, 0.0)
