"""Lights, and who gives way to whom: the one home of right of way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drive_wm.datasets.town import roundabout
from drive_wm.datasets.town.network import Connector, Junction, Network, street_of
from drive_wm.types import FloatArray, IntArray

DT_S = 0.1
GREEN, YELLOW, RED = 1, 2, 3
CONNECTOR_GAP_M = 2.9
SAMPLE_M = 2.0
NEVER_M = -99.0


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


# --- right of way -------------------------------------------------------------------------------------------------


def lit(network: Network, c: Connector) -> bool:
    """Whether the junction's light binds a connector: not on a slip lane."""
    return network.junctions[c.junction].control == "signal" and not c.slip


def stops_first(network: Network, c: Connector) -> bool:
    """Whether traffic has to come to a halt at its line, free road or not."""
    junction = network.junctions[c.junction]
    return junction.control == "stop sign" and c.axis != junction.major_axis


def binds_from_afar(network: Network, c: Connector) -> bool:
    """Whether traffic that only approaches ``c`` has its right of way already: not at a roundabout."""
    return network.junctions[c.junction].control != "roundabout"


def gives_way(network: Network, mine: Connector, other: Connector) -> bool:
    """Whether traffic on ``mine`` must let traffic on ``other`` go first, lights aside; right-hand traffic.

    In this order: a slip lane to all that enter its street; a roundabout's entry to those who circulate past it; a lane
    that ends to the one that goes on; the minor road to the major one; at equal rank who comes from the right, who goes
    straight on or right before an oncoming left turn, and bicycles before those who turn across them.
    """
    junction = network.junctions[mine.junction]
    if mine.junction != other.junction or mine.start == other.start:
        return False
    if mine.slip or other.slip:
        return mine.slip and mine.end == other.end
    if junction.control == "roundabout":
        return roundabout.passes(junction, other.arm, _leaving(junction, other), mine.arm)
    if junction.control == "merge":
        return mine.end == other.end and _ends(network, mine)
    if mine.arm == other.arm:
        return other.cycle and not mine.cycle and mine.turn == -1 and other.turn == 0
    if junction.control in ("stop sign", "give way") and mine.axis != other.axis:
        return mine.axis != junction.major_axis
    return _among_equals(junction, mine, other)


def _among_equals(junction: Junction, mine: Connector, other: Connector) -> bool:
    """Oncoming traffic goes before left turns, right turns before left ones; from the right before from the left."""
    if mine.axis == other.axis:
        return mine.turn == 1 and other.turn < 1
    if junction.control != "none":
        return False
    towards = junction.arms[other.arm].heading - junction.arms[mine.arm].heading
    return bool(0.0 < towards % (2 * np.pi) < np.pi)


def _leaving(junction: Junction, c: Connector) -> int:
    """The arm on which a connector leaves."""
    return next(a for a, arm in enumerate(junction.arms) if arm.street == street_of(c.end))


def _ends(network: Network, c: Connector) -> bool:
    """Whether the lane before a lane drop is the one that has none of its number behind it."""
    return not c.cycle and int(c.start[-1]) >= network.streets[street_of(c.end)].lanes


# --- where ways meet ----------------------------------------------------------------------------------------------


def conflicts(network: Network) -> dict[str, dict[str, float]]:
    """For each connector those it meets, with the arc length along itself, from its line, at which it last does.

    To meet: same junction, other lane, middles within CONNECTOR_GAP_M of each other. In a roundabout only those meet of
    which one passes the other's entry, up to there; the other one's length is then NEVER_M: it blocks nobody behind it.
    """
    out: dict[str, dict[str, float]] = {name: {} for name in network.connectors}
    groups: dict[int, list[Connector]] = {}
    for c in network.connectors.values():
        groups.setdefault(c.junction, []).append(c)
    for j, group in groups.items():
        meet = _meet_in_ring if network.junctions[j].control == "roundabout" else _meet
        meet(network, group, out)
    return out


def _samples(c: Connector) -> FloatArray:
    return c.line[:: round(SAMPLE_M / 0.5)]


def _meet(network: Network, group: list[Connector], out: dict[str, dict[str, float]]) -> None:
    lines = [_samples(c) for c in group]
    begin = np.cumsum([0] + [len(line) for line in lines])
    points = np.concatenate(lines) - lines[0][0]
    square = (points**2).sum(1)
    near = square[:, None] + square[None] - 2.0 * points @ points.T < CONNECTOR_GAP_M**2
    rows = np.logical_or.reduceat(near, begin[:-1], axis=1)  # (points, connectors)
    for i, a in enumerate(group):
        hit = rows[begin[i] : begin[i + 1]]
        last = len(hit) - 1 - np.argmax(hit[::-1], axis=0)
        for k in np.nonzero(hit.any(0))[0]:
            if group[k].start != a.start:
                out[a.id][group[k].id] = SAMPLE_M * float(last[k]) - a.hold_m


def _meet_in_ring(network: Network, group: list[Connector], out: dict[str, dict[str, float]]) -> None:
    junction = network.junctions[group[0].junction]
    angle = roundabout.merge_angle(junction)
    for a in group:
        for b in group:
            if gives_way(network, b, a):
                spot = junction.center + junction.ring_m * np.array(
                    [np.cos(junction.arms[b.arm].heading + angle), np.sin(junction.arms[b.arm].heading + angle)])
                past = int(np.argmin(((a.line - spot) ** 2).sum(1))) * 0.5
                out[a.id][b.id] = past + 1.0
                out[b.id].setdefault(a.id, NEVER_M)
