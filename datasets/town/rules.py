"""Lights and the geometry of right of way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drive_wm.datasets.town.streets import Network
from drive_wm.types import IntArray

DT_S = 0.1
GREEN, YELLOW, RED = 1, 2, 3
CONNECTOR_GAP_M = 2.9


@dataclass
class Phases:
    """The lights of one junction: states (T, 2) of its two axes on the simulation's grid."""

    junction: int
    states: IntArray


def draw_phases(rng: np.random.Generator, junction: int, steps: int, ego: tuple[int, float] | None) -> Phases:
    """Green 8-12 s, yellow 3 s, all red 1.5 s, in turn. ``ego``: its axis and the
    second at which it comes, which is in its green or in the last seconds before."""
    greens = rng.uniform(8.0, 12.0, 2)
    cycle = greens.sum() + 9.0
    start = rng.uniform(0, cycle)
    if ego is not None:
        axis, at = ego
        start = (0.0 if axis == 0 else greens[0] + 4.5) - at + rng.uniform(-5.5, greens[axis])
    t = (start + np.arange(steps) * DT_S) % cycle
    states = np.full((steps, 2), RED)
    for axis, begin in ((0, 0.0), (1, greens[0] + 4.5)):
        states[(t >= begin) & (t < begin + greens[axis]), axis] = GREEN
        states[(t >= begin + greens[axis]) & (t < begin + greens[axis] + 3.0), axis] = YELLOW
    return Phases(junction, states)


def conflicts(network: Network) -> dict[str, dict[str, float]]:
    """For each connector those it meets, with the arc length along itself at which it last does.

    To meet: same junction, other lane, middles within CONNECTOR_GAP_M of each other.
    """
    out: dict[str, dict[str, float]] = {name: {} for name in network.connectors}
    by_junction: dict[int, list[str]] = {}
    for name, c in network.connectors.items():
        by_junction.setdefault(c.junction, []).append(name)
    for names in by_junction.values():
        lines = [network.connectors[n].line[::4] for n in names]
        for i, a in enumerate(names):
            for j, b in enumerate(names[:i]):
                if network.connectors[a].start == network.connectors[b].start:
                    continue
                near = ((lines[i][:, None] - lines[j][None]) ** 2).sum(-1) < CONNECTOR_GAP_M**2
                if near.any():
                    out[a][b] = 2.0 * float(np.nonzero(near.any(1))[0][-1])
                    out[b][a] = 2.0 * float(np.nonzero(near.any(0))[0][-1])
    return out
