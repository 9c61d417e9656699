"""The people of a town: who strolls, who crosses at a crossing, who crosses between."""

from __future__ import annotations

import numpy as np

from drive_wm.datasets.town.agents import Body, Color, Gate, Person, Size
from drive_wm.datasets.town.cast import CLOTHES, paint, spot
from drive_wm.datasets.town.network import Arm, Network, arc_length, cut, mouth, walk_lines
from drive_wm.datasets.town.ways import YAW, Roads, way_of_line
from drive_wm.types import FloatArray

WALK_M = 22.0  # along the walkway to a crossing, and on from it


def people(rng: np.random.Generator, roads: Roads, ego: Body, parked_xy: FloatArray, count: int) -> list[Person]:
    """Some walk along a street, some cross at a crossing, and now and then one crosses between."""
    network = roads.network
    out: list[Person] = []
    ahead = _gates_ahead(network, ego)
    gates = [(j.index, a) for j in network.junctions for a in j.crossings if _walkable(network, j.index, a)]
    near = [
        g
        for g in gates
        if np.linalg.norm(
            ego.way.line[int(ego.start_m * 2) : int(ego.start_m * 2) + 500 : 10] - network.junctions[g[0]].center,
            axis=1,
        ).min()
        < 40
    ]
    for i in range(count):
        size, pace = (0.6, 0.6, float(rng.uniform(1.5, 1.9))), float(rng.uniform(1.1, 1.7))
        color, name, kind = paint(rng, CLOTHES), f"pedestrian-{i:02d}", rng.random()
        if i < 2 and (walker := _jaywalker(rng, roads, ego, parked_xy, name, size, pace, color)) is not None:
            out.append(walker)
        elif ahead and kind < 0.4:
            j, a, eta_s = ahead[int(rng.integers(len(ahead)))]
            line, gate = crossing_line(rng, network, j, a)
            early = gate.begin_m - max(eta_s - rng.uniform(1.0, 5.0), 0.0) * pace
            out.append(
                Person(name, size, way_of_line(line), float(np.clip(early, 0.3, gate.begin_m - 0.9)), pace, color, gate)
            )
        elif near and kind < 0.6:
            line, gate = crossing_line(rng, network, *near[int(rng.integers(len(near)))])
            start = float(rng.uniform(max(gate.begin_m - 16.0, 0.5), gate.begin_m - 1.0))
            out.append(Person(name, size, way_of_line(line), start, pace, color, gate))
        else:
            out.append(_stroller(rng, network, name, size, pace, color, near))
    return _apart(out)


def _apart(crowd: list[Person]) -> list[Person]:
    """Those who do not begin in each other's place."""
    kept: list[Person] = []
    for person in crowd:
        here = person.way.at(person.start_m)[:2]
        if all(np.hypot(*(other.way.at(other.start_m)[:2] - here)) > 1.3 for other in kept):
            kept.append(person)
    return kept


def _walkable(network: Network, j: int, a: int) -> bool:
    """Whether no slip lane cuts the walkways beside a crossing."""
    arm = network.junctions[j].arms[a]
    return not any((arm.street, side, not arm.outgoing) in network.cuts for side in (1, -1))


def _gates_ahead(network: Network, ego: Body) -> list[tuple[int, int, float]]:
    """(junction, arm, seconds) of the crossings that the ego drives over, with the time at which it may be there."""
    out = []
    for event in ego.way.events:
        c = network.connectors[event.connector]
        junction = network.junctions[c.junction]
        for a in (a for a in junction.crossings if _walkable(network, c.junction, a)):
            street = junction.arms[a].street
            ends = {c.start[1:-2]: event.stop_m, c.end[1:-2]: event.exit_m}
            if str(street) in ends and 15.0 < ends[str(street)] - ego.start_m < 180.0:
                out.append((c.junction, a, (ends[str(street)] - ego.start_m) / 8.5))
    return out


def _stroller(
    rng: np.random.Generator,
    network: Network,
    name: str,
    size: Size,
    pace: float,
    color: Color,
    near: list[tuple[int, int]],
) -> Person:
    owned = {arm.street for j, _ in near for arm in network.junctions[j].arms}
    lines = walk_lines(network, float(rng.uniform(1.2, 2.2)))
    pool = [line for line, street in lines if street in owned] or [line for line, _ in lines]
    line = pool[int(rng.integers(len(pool)))]
    way = way_of_line(line if rng.random() < 0.5 else line[::-1])
    return Person(name, size, way, float(rng.uniform(0.0, max(way.length_m - 30.0, 1.0))), pace, color)


def _jaywalker(
    rng: np.random.Generator,
    roads: Roads,
    ego: Body,
    parked_xy: FloatArray,
    name: str,
    size: Size,
    pace: float,
    color: Color,
) -> Person | None:
    """Comes to the kerb between two junctions of the route about when the ego does, and goes if drivers can still
    stop."""
    place = spot(rng, roads, ego, 60.0)
    if place is None or rng.random() < 0.5:
        return None
    lane, at = place
    street = roads.street(lane)
    if street.median_m:
        return None
    base = street.line if lane[-2] == "f" else street.line[::-1]
    row = way_of_line(base).at(at)
    u = np.array([np.cos(row[YAW]), np.sin(row[YAW])])
    near = parked_xy[np.linalg.norm(parked_xy - row[:2], axis=1) < 15.0]
    if (np.abs((near - row[:2]) @ u) < 3.8).any():
        return None  # parked cars would be in the way
    across = float(rng.choice([-1, 1])) * np.array([-u[1], u[0]])
    kerb, walkway = street.half_m + 0.3, street.half_m + 1.8
    line = np.stack(
        [
            row[:2] + walkway * across + 9.0 * u,
            row[:2] + walkway * across,
            row[:2] + kerb * across,
            row[:2] - kerb * across,
            row[:2] - walkway * across,
            row[:2] - walkway * across + 14.0 * u,
        ]
    )
    begin = 9.0 + walkway - kerb
    eta_s = (float(ego.way.locate(row[None, :2])[0][0]) - ego.start_m) / 9.0
    start = float(np.clip(begin - max(eta_s - rng.uniform(2.0, 4.5), 0.0) * pace, 0.3, begin - 0.9))
    return Person(name, size, way_of_line(line), start, max(pace, 1.4), color, Gate(begin, begin + 2 * kerb, "jaywalk"))


def crossing_line(rng: np.random.Generator, network: Network, j: int, a: int) -> tuple[FloatArray, Gate]:
    """Along the walkway to a crossing, over it and on along the other walkway."""
    junction = network.junctions[j]
    arm = junction.arms[a]
    side = float(rng.choice([-1, 1]))
    half = network.streets[arm.street].half_m
    kerb, walk = half + 0.3, half + 1.5 + rng.uniform(0, 0.8)
    at = junction.reach_m - rng.uniform(2.2, 3.8)
    over = [mouth(network, junction, arm, at, side * s) for s in (walk, kerb, -kerb, -walk)]
    here, there = (_beside(network, arm, s * walk) for s in (side, -side))
    line = np.concatenate([here[::-1], np.stack(over), there])
    arc = arc_length(line)
    first = len(here) + 1
    kind = "light" if junction.control == "signal" else "zebra"
    return line, Gate(float(arc[first]), float(arc[first + 1]), kind, j, a)


def _beside(network: Network, arm: Arm, left_m: float) -> FloatArray:
    """The walkway of an arm from its junction on for WALK_M, ``left_m`` left of its middle, looking outwards."""
    street = network.streets[arm.street]
    line = street.shifted(left_m) if arm.outgoing else street.shifted(-left_m)[::-1]
    length = float(arc_length(line)[-1])
    return cut(line, 0.0, min(WALK_M, length - 0.5))
