"""The ego's perturbed start, so that driving back to the middle of the lane is in the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from drive_wm.datasets.town.ways import CURVATURE, ROOM_LEFT, ROOM_RIGHT, STEP_M, YAW

if TYPE_CHECKING:
    from drive_wm.datasets.town.simulation import Simulation


def disturb(sim: Simulation) -> None:
    """The ego's perturbed start: offset, heading and speed jump before the first moment that a log shows."""
    assert sim.perturb is not None
    _, lateral_m, heading, factor = sim.perturb
    st = sim.state
    if np.abs(st.ways[0].rows[int(st.s[0] / STEP_M) : int(st.s[0] / STEP_M) + 60, CURVATURE]).max() > 0.03:
        return
    for share in (1.0, 0.6, 0.3):
        d, e = st.d[0] + share * lateral_m, st.e[0] + share * heading
        if _fits(sim, d, e):
            st.d[0], st.e[0] = d, e
            st.v[0] *= factor
            sim.disturbed = (round(share * lateral_m, 4), round(share * heading, 4), round(factor, 4))
            return


def _fits(sim: Simulation, d: float, e: float) -> bool:
    """Whether the ego could start there: on the road, with nobody near, also a few metres on."""
    st = sim.state
    way, reach = st.ways[0], np.array([0.0, 3.0, 6.0, 9.0, 12.0])
    offset = d + np.sin(e) * np.minimum(reach, 6.0)
    rows = np.stack([way.at(float(st.s[0] + r + sim.center[0])) for r in reach])
    half = sim.lwh[0, 1] / 2 + sim.lwh[0, 0] / 2 * abs(np.sin(e))
    if (offset + half > rows[:, ROOM_LEFT]).any() or (offset - half < -rows[:, ROOM_RIGHT] + 0.1).any():
        return False
    own = rows[:, :2] + offset[:, None] * np.stack([-np.sin(rows[:, YAW]), np.cos(rows[:, YAW])], -1)
    xy, yaw = sim.poses()
    bxy, byaw, size, _, there = sim.boxes(xy, yaw)
    there[0] = False
    bxy = np.concatenate([bxy[there], sim.kerbside[:, :2]])
    byaw, size = (
        np.concatenate([byaw[there], sim.kerbside[:, 2]]),
        np.concatenate([size[there], sim.kerbside[:, 3:5] / 2]),
    )
    delta = own[:, None] - bxy[None]
    along = np.abs(delta[..., 0] * np.cos(byaw) + delta[..., 1] * np.sin(byaw)) - size[:, 0]
    across = np.abs(delta[..., 1] * np.cos(byaw) - delta[..., 0] * np.sin(byaw)) - size[:, 1]
    return not bool(((along < 2.6) & (across < half + 0.25)).any())
