"""Does a future obey? Which action it shows, told by the truths of all; and the path read off it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drive_wm.eval.world.futures import Course, Shots
from drive_wm.eval.world.probe import Reading
from drive_wm.eval.world.protocol import WorldProtocol
from drive_wm.geometry import integrate_actions, relative_xyyaw, wrap_angle, xyyaw_from_pose
from drive_wm.media import psnr_db
from drive_wm.types import BoolArray, FloatArray

SIDES = ("left", "right")


@dataclass(frozen=True)
class Shown:
    """Pictures of one action at K steps: shots (K, H, W, 3) a camera, and the probe's features of them."""

    shots: Shots
    features: Mapping[str, FloatArray]

    @classmethod
    def of(cls, shots: Shots, read: Mapping[str, Reading]) -> Shown:
        return cls(shots, {name: reading.features for name, reading in read.items()})


def nearness(made: Shown, truth: Shown) -> dict[str, FloatArray]:
    """(K,) by measure, higher is nearer: PSNR in pixels, minus the mean square in features; mean over cameras."""
    pixels = [psnr_db(made.shots[n], truth.shots[n]) for n in made.shots]
    features = [-np.square(made.features[n] - truth.features[n]).mean((1, 2, 3)) for n in made.shots]
    return {"pixels": np.mean(pixels, 0), "features": np.mean(features, 0)}


def one_path(courses: Sequence[Course], steps: Sequence[int], protocol: WorldProtocol) -> BoolArray:
    """(A, A, K) whether two actions have led to the same place by then: then nobody could tell them apart."""
    at = np.array(steps) - 1
    xyyaw = np.stack([xyyaw_from_pose(c.poses[at]) for c in courses])
    gap = xyyaw[:, None] - xyyaw[None]
    same: BoolArray = ((np.hypot(gap[..., 0], gap[..., 1]) < protocol.same_m)
                       & (np.abs(wrap_angle(gap[..., 2])) < protocol.same_rad))
    return same


def tell(made: Mapping[str, Shown], truths: Mapping[str, Shown], courses: Mapping[str, Course], steps: Sequence[int],
         protocol: WorldProtocol) -> list[dict[str, Any]]:
    """A row an action and step: told_* 1.0 where the nearest truth is that of its own action, else 0.0.

    Actions that would have hit something by then are not candidates, and have no row. told_or_same_*: a truth of the
    same path counts as its own. side_*: of left and right alone.
    """
    names = [name for name in protocol.actions if name in truths]
    same = one_path([courses[n] for n in names], steps, protocol)
    free = np.array([[courses[n].free[k - 1] for k in steps] for n in names])
    rows = []
    for i, action in enumerate(names):
        near = [nearness(made[action], truths[other]) for other in names]
        for j, k in enumerate(steps):
            if not free[i, j]:
                continue
            row: dict[str, Any] = {"action": action, "step": k, "candidates": int(free[:, j].sum())}
            for measure in ("pixels", "features"):
                score = np.where(free[:, j], [n[measure][j] for n in near], -np.inf)
                best = int(np.argmax(score))
                row[f"told_{measure}"] = float(best == i)
                row[f"told_or_same_{measure}"] = float(same[i, best, j])
                if action in SIDES and all(side in names and free[names.index(side), j] for side in SIDES):
                    other = score[names.index(SIDES[1 - SIDES.index(action)])]
                    row[f"side_{measure}"] = float(score[i] > other)
            rows.append(row)
    return rows


def path_of(moved: FloatArray) -> FloatArray:
    """(N, 2) metres and radians moved in each step -> (N, 3) x, y, yaw after each, from the origin."""
    travel = np.where(np.abs(moved[:, 0]) < 1e-3, 1e-3, moved[:, 0])
    return integrate_actions(np.zeros(3), np.stack([travel, moved[:, 1] / travel], -1), 1.0)


def path_errors(moved: FloatArray, start: FloatArray, poses: FloatArray) -> FloatArray:
    """(N,) metres between the path read off N + 1 pictures and the poses (N, 4, 4) that were asked for."""
    asked = relative_xyyaw(xyyaw_from_pose(start), xyyaw_from_pose(poses))
    gap: FloatArray = np.linalg.norm(path_of(moved)[:, :2] - asked[:, :2], axis=1)
    return gap
