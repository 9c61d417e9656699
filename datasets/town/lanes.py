"""Lanes of the streets and the connectors that join them through junctions: turns, slip lanes, ways of bicycles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from drive_wm.datasets.town import roundabout
from drive_wm.datasets.town.network import (
    SLIP_M,
    Arm,
    Connector,
    Junction,
    Network,
    arc_length,
    cut,
    cycle_id,
    lane_id,
    street_of,
)
from drive_wm.geometry import resample_polyline, wrap_angle
from drive_wm.types import FloatArray

KERB_TURN_M, CYCLE_TURN_M = 9.0, 6.0  # how far from its corner a turn beside a kerb begins
Way = tuple[int, int, int, int, int]  # arm in, arm out, lane in, lane out, turn


def lay_lanes(network: Network) -> None:
    """Fills lane_lines, cycle_lines, connectors, exits and cycle_exits, and cuts slip lanes into large junctions."""
    for street in network.streets:
        for forward in (True, False):
            base = slice(None) if forward else slice(None, None, -1)
            sign = -1.0 if forward else 1.0
            for lane in range(street.count(forward)):
                name = lane_id(street.index, forward, lane)
                network.lane_lines[name] = street.shifted(sign * street.lane_offset_m(lane))[base]
                network.exits[name] = []
            if street.cycle:
                name = cycle_id(street.index, forward)
                network.cycle_lines[name] = street.shifted(sign * street.cycle_offset_m)[base]
    for junction in network.junctions:
        _join(network, junction)
        if junction.control != "roundabout":
            _join_cycles(network, junction)
    for junction in network.junctions:
        _cut_slips(network, junction)
    for c in network.connectors.values():
        table = network.cycle_exits if c.cycle else network.exits
        table.setdefault(c.start, []).append(c.id)


def turn_of(arm: Arm, other: Arm) -> int:
    """+1 left, 0 straight on, -1 right, for traffic that comes in on ``arm`` and leaves on ``other``."""
    angle = float(wrap_angle(other.heading - arm.heading - np.pi))
    return 0 if abs(angle) < 0.7 else int(np.sign(angle))


def lane_pairs(n: int, out: dict[int, int]) -> dict[int, list[tuple[int, int]]]:
    """Which of ``n`` lanes into a junction leads to which lane out, for each turn; ``out``: turn -> lanes out.

    Left turns leave from the left lane and right turns from the right one; what has no straight on is shared between
    them. Where fewer lanes go on than come, the right lane only turns, then the left one, else lanes merge.
    """
    pairs: dict[int, list[tuple[int, int]]] = {}
    if 0 not in out:
        left = 0 if 1 not in out else n if -1 not in out else max(1, n - 1 if out[1] > 1 else 1)
        right = n - left if 1 in out and n > left else (n if 1 not in out else 1)
        if 1 in out:
            pairs[1] = [(i, min(i, out[1] - 1)) for i in range(left)]
        if -1 in out:
            pairs[-1] = [(i, max(out[-1] - n + i, 0)) for i in range(n - right, n)]
        return pairs
    m, first, last = out[0], 0, n
    last -= n > m and -1 in out
    first += last - first > m and 1 in out
    straight = [(i, min(i - first, m - 1)) for i in range(first, last)]
    pairs[0] = straight + [(last - 1, j) for j in range(last - first, m)]
    if 1 in out:
        pairs[1] = [(0, 0)]
    if -1 in out:
        pairs[-1] = [(n - 1, out[-1] - 1)]
    return pairs


def _join(network: Network, junction: Junction) -> None:
    """Connectors for cars between all arms, turns back excepted."""
    made: set[Way] = set()
    for a, arm in enumerate(junction.arms):
        n = network.streets[arm.street].count(not arm.outgoing)
        ways: dict[int, list[tuple[int, Arm]]] = {}
        for b, other in enumerate(junction.arms):
            if other is not arm and network.streets[other.street].count(other.outgoing):
                ways.setdefault(turn_of(arm, other), []).append((b, other))
        if not n or not ways:
            continue
        out = {t: max(network.streets[o.street].count(o.outgoing) for _, o in w) for t, w in ways.items()}
        for turn, pairs in lane_pairs(n, out).items():
            for b, _ in ways[turn]:
                made |= {(a, b, i, j, turn) for i, j in pairs}
    for a, b, i, j, turn in sorted(made | _unreached(network, junction, made)):
        _connect(network, junction, a, b, i, j, turn)


def _unreached(network: Network, junction: Junction, made: set[Way]) -> set[Way]:
    """Ways to the lanes out of a junction that none leads to: from the nearest, the lane beside it is as good."""
    out = set()
    for b, arm in enumerate(junction.arms):
        ways = sorted(way for way in made if way[1] == b)
        for lane in range(network.streets[arm.street].count(arm.outgoing)):
            if ways and all(way[3] != lane for way in ways):
                a, _, i, _, turn = min(ways, key=lambda way: (way[:2] in junction.slips, abs(way[3] - lane), way))
                out.add((a, b, i, lane, turn))
    return out


def _connect(network: Network, junction: Junction, a: int, b: int, i: int, j: int, turn: int) -> None:
    arm, other = junction.arms[a], junction.arms[b]
    start, end = lane_id(arm.street, not arm.outgoing, i), lane_id(other.street, other.outgoing, j)
    if junction.control == "roundabout":
        line = roundabout.way_through(network, junction, a, b)
    else:
        near_kerb = turn < 0 or any(network.streets[x.street].one_way for x in (arm, other))
        line = curve(network.lane_lines[start], network.lane_lines[end], turn, KERB_TURN_M if near_kerb else 99.0)
    name = f"j{junction.index}_{start}_{end}"
    network.connectors[name] = Connector(name, junction.index, start, end, turn, arm.axis, a, line)


def _riding_line(network: Network, street: int, forward: bool) -> tuple[str, FloatArray]:
    """The lane that bicycles use on a street: its cycle lane, or the right one that they share."""
    if network.streets[street].cycle:
        name = cycle_id(street, forward)
        return name, network.cycle_lines[name]
    name = lane_id(street, forward, network.streets[street].count(forward) - 1)
    return name, network.lane_lines[name]


def _join_cycles(network: Network, junction: Junction) -> None:
    """Ways of bicycles wherever a cycle lane begins, ends or goes on; left only at a T."""
    for a, arm in enumerate(junction.arms):
        if not network.streets[arm.street].count(not arm.outgoing):
            continue
        others = [o for o in junction.arms if o is not arm and network.streets[o.street].count(o.outgoing)]
        gentle = [o for o in others if turn_of(arm, o) <= 0 or len(junction.arms) == 3] or others
        start, from_line = _riding_line(network, arm.street, not arm.outgoing)
        for other in gentle:
            end, to_line = _riding_line(network, other.street, other.outgoing)
            if start[-1] == "c" or end[-1] == "c":
                turn = turn_of(arm, other)
                name = f"j{junction.index}_{start}_{end}_cycle"
                line = curve(from_line, to_line, turn, CYCLE_TURN_M if turn < 0 else 99.0)
                network.connectors[name] = Connector(name, junction.index, start, end, turn, arm.axis, a, line,
                                                     cycle=True)


def curve(start: FloatArray, end: FloatArray, turn: int, widest_m: float) -> FloatArray:
    """From the end of one line to the beginning of another: straight, round, straight; the round part is a cubic that
    is close to a circle. widest_m bounds how far from the corner a turn begins, so that it clears the kerb."""
    p0, p1 = start[-1], end[0]
    u0, u1 = (d / np.linalg.norm(d) for d in (start[-1] - start[-2], end[1] - end[0]))
    if turn == 0:
        k = np.linalg.norm(p1 - p0) / 3
        controls = [p0, p0 + k * u0, p1 - k * u1, p1]
    else:
        d0, d1 = np.linalg.solve(np.stack([u0, u1], -1), p1 - p0)
        d = min(d0, d1, widest_m)
        meet = p0 + d0 * u0
        controls = [meet - d * u0, meet - 0.45 * d * u0, meet + 0.45 * d * u1, meet + d * u1]
    t = np.linspace(0.0, 1.0, 25)[:, None]
    a, b, c, e = controls
    round_part = (1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * b + 3 * t**2 * (1 - t) * c + t**3 * e
    points = np.concatenate([p0[None], round_part, p1[None]])
    keep = np.concatenate([[True], np.linalg.norm(np.diff(points, axis=0), axis=1) > 1e-6])
    return resample_polyline(points[keep], 0.5)


# --- slip lanes ---------------------------------------------------------------------------------------------------


def _cut_slips(network: Network, junction: Junction) -> None:
    """Gives the planned slip lanes their room: the right lanes end before, and begin behind, the junction proper."""
    for a, b in junction.slips:
        arm, other = junction.arms[a], junction.arms[b]
        n, m = network.streets[arm.street].lanes, network.streets[other.street].lanes
        start, end = lane_id(arm.street, not arm.outgoing, n - 1), lane_id(other.street, other.outgoing, m - 1)
        network.connectors = {k: c for k, c in network.connectors.items()
                              if not (c.turn == -1 and c.start == start and street_of(c.end) == other.street)}
        line = network.lane_lines[start]
        length = float(arc_length(line)[-1])
        tail = cut(line, length - SLIP_M, length, 0.5)
        network.lane_lines[start] = cut(line, 0.0, length - SLIP_M)
        line = network.lane_lines[end]
        length = float(arc_length(line)[-1])
        head = cut(line, 0.0, SLIP_M, 0.5)
        network.lane_lines[end] = cut(line, SLIP_M, length)
        for name, c in network.connectors.items():
            if c.start == start and not c.cycle:
                network.connectors[name] = replace(c, line=np.concatenate([tail, c.line[1:]]), hold_m=SLIP_M)
            elif c.end == end and not c.cycle:
                network.connectors[name] = replace(c, line=np.concatenate([c.line, head[1:]]))
        line = curve(network.lane_lines[start], network.lane_lines[end], -1, 99.0)
        name = f"j{junction.index}_{start}_{end}"
        hold = 0.62 * float(arc_length(line)[-1])
        network.connectors[name] = Connector(name, junction.index, start, end, -1, arm.axis, a, line, hold, True)


def slip_lines(network: Network, junction: Junction) -> list[FloatArray]:
    """The ways of a junction's slip lanes, in the order of ``junction.slips``."""
    by_arm = {c.arm: c.line for c in network.connectors.values() if c.slip and c.junction == junction.index}
    return [by_arm[a] for a, _ in junction.slips]
