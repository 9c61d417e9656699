"""A small street network around a route: centre lines, junctions, lanes with connectors, paint, kerbs and walkways.

Everything is planar (z = 0) and 2-D here; ``road_map`` lifts it. Streets run from node to node or to a dead end; the
ego's route is the spine, and every junction on it has cross streets that really exist.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from drive_wm.geometry import resample_polyline, wrap_angle
from drive_wm.types import FloatArray, Lane, Marking, RoadMap

LANE_M = 3.5
PARKING_M = 2.3
SHOULDER_M = 0.5
WALKWAY_M = 3.2
CORNER_RADIUS_M = 5.0
CROSSING_ROOM_M = 5.0  # between the end of the rounded corner and the stop line
STUB_CLEARANCE_M = 36.0


@dataclass
class Street:
    """A two-way street; ``line`` runs from node ``a`` to node ``b`` (None: dead end) trimmed at the stop lines."""

    index: int
    line: FloatArray
    lanes: int
    parking: bool
    limit_mps: float
    a: int | None
    b: int | None

    @property
    def half_m(self) -> float:
        return self.lanes * LANE_M + (PARKING_M if self.parking else SHOULDER_M)


@dataclass(frozen=True)
class Arm:
    """A street as seen from a junction: ``heading`` points away from it; ``outgoing`` where the street starts here."""

    street: int
    heading: float
    outgoing: bool
    axis: int


@dataclass
class Junction:
    """control: "signal", or what binds the minor axis ("stop sign", "give way"). reach_m: centre to stop lines."""

    index: int
    center: FloatArray
    control: str
    major_axis: int
    arms: list[Arm] = field(default_factory=list)
    crossings: list[int] = field(default_factory=list)
    reach_m: float = 0.0


@dataclass(frozen=True)
class Connector:
    """A path through a junction from lane ``start`` to lane ``end``; turn: -1 right, 0 straight, +1 left."""

    id: str
    junction: int
    start: str
    end: str
    turn: int
    axis: int
    arm: int
    line: FloatArray


@dataclass
class Network:
    streets: list[Street]
    junctions: list[Junction]
    turns: list[
        int
    ]  # the ego's turn at each junction, which are met in order; street i leads to junction i on the spine
    spine: list[int]
    lane_lines: dict[str, FloatArray] = field(default_factory=dict)
    connectors: dict[str, Connector] = field(default_factory=dict)
    exits: dict[str, list[str]] = field(default_factory=dict)


def unit(heading: float) -> FloatArray:
    return np.array([np.cos(heading), np.sin(heading)])


def offset_line(line: FloatArray, left_m: float | FloatArray) -> FloatArray:
    """The polyline moved to its left by ``left_m``: one value, or (N, 1)."""
    tangent = np.gradient(line, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    return line + left_m * np.stack([-tangent[:, 1], tangent[:, 0]], -1)


def lift(points: FloatArray, z_m: float = 0.0) -> FloatArray:
    return np.concatenate([points, np.full((len(points), 1), z_m)], -1)


def lane_id(street: int, forward: bool, lane: int) -> str:
    return f"s{street}{'f' if forward else 'b'}{lane}"


# --- laying out ---------------------------------------------------------------------------------------------------


def _edge(
    rng: np.random.Generator, start: FloatArray, heading: float, length_m: float, p_curved: float
) -> tuple[FloatArray, float]:
    """A centre line (N, 2) from ``start`` and its final heading: straight, or straight - arc - straight."""
    turn = 0.0
    if rng.random() < p_curved:
        radius = rng.uniform(25.0, 120.0)
        turn = float(np.clip(rng.uniform(30.0, 75.0) / radius, 0.25, 1.2)) * rng.choice([-1, 1])
    arc_m = abs(turn) * (radius if turn else 1.0)
    ends = max(34.0, (length_m - arc_m) / 2)
    at = np.arange(0.0, 2 * ends + arc_m + 1e-6, 1.0)
    yaw = heading + turn * np.clip((at - ends) / max(arc_m, 1e-6), 0.0, 1.0)
    middle = (yaw[:-1] + yaw[1:]) / 2
    step = np.stack([np.cos(middle), np.sin(middle)], -1) * np.diff(at)[:, None]
    return start + np.concatenate([np.zeros((1, 2)), np.cumsum(step, 0)]), float(yaw[-1])


def _crosses_itself(lines: list[FloatArray]) -> bool:
    points = np.concatenate([line[::6] for line in lines])
    far = np.linalg.norm(points[:, None] - points[None], axis=-1)
    apart = np.abs(np.arange(len(points))[:, None] - np.arange(len(points))[None]) * 6.0
    return bool(((far < 55.0) & (apart > 110.0)).any())


def _draw_turns(rng: np.random.Generator, count: int) -> list[int]:
    """+1 left, 0 straight, -1 right; never twice the same turn in succession, which would lead round a block."""
    turns: list[int] = []
    last = 0
    for i in range(count):
        p_turn = 0.56 if i == 0 else 0.4
        turn = int(rng.choice([-1, 0, 1], p=[p_turn / 2, 1 - p_turn, p_turn / 2]))
        turn = 0 if turn == last else turn
        last = turn or last
        turns.append(turn)
    return turns


def plan_network(rng: np.random.Generator) -> Network:
    """Spine first (drawn anew while it crosses itself), then the cross streets, cut short where they meet others."""
    for attempt in range(40):
        count = int(rng.integers(3, 5))
        turns = _draw_turns(rng, count) if attempt < 39 else [0] * count
        heading, position = rng.uniform(-np.pi, np.pi), np.zeros(2)
        lines, nodes = [], []
        for i in range(count + 1):
            length = 150.0 if i in (0, count) else rng.uniform(75.0, 125.0)
            line, heading = _edge(rng, position, heading, length, 0.38)
            lines.append(line)
            position = line[-1]
            if i < count:
                cross = heading + np.pi / 2 + rng.uniform(-0.17, 0.17)
                nodes.append((position.copy(), heading, cross))
                heading = (heading, cross, cross + np.pi)[turns[i]]
        if not _crosses_itself(lines):
            break
    return _grow(rng, turns, lines, nodes)


def _grow(rng: np.random.Generator, turns: list[int], lines: list[FloatArray], nodes: list[tuple]) -> Network:
    streets: list[Street] = []
    count = len(nodes)

    def add(line: FloatArray, like: Street | None, a: int | None, b: int | None) -> Street:
        lanes = like.lanes if like else int(rng.choice([1, 2], p=[0.6, 0.4]))
        parking = like.parking if like else bool(rng.random() < 0.55)
        limit = like.limit_mps if like else float(rng.choice([8.3, 11.1, 13.9], p=[0.2, 0.45, 0.35]))
        streets.append(Street(len(streets), line, lanes, parking, limit, a, b))
        return streets[-1]

    for i, line in enumerate(lines):
        like = streets[-1] if i and turns[i - 1] == 0 else None
        add(line, like, i - 1 if i else None, i if i < count else None)
    junctions = []
    for i, (center, heading, cross) in enumerate(nodes):
        control = str(rng.choice(["signal", "stop sign", "give way"], p=[0.64, 0.16, 0.2]))
        junction = Junction(i, center, control, int(rng.random() < 0.2))
        arms = {
            2: Arm(i, heading + np.pi, False, 0),
            turns[i]: Arm(i + 1, (heading, cross, cross + np.pi)[turns[i]], True, abs(turns[i])),
        }
        others = [t for t in (0, 1, -1) if t != turns[i]]
        drop = int(rng.choice(others)) if rng.random() < 0.2 else None
        for turn in others:
            out = (heading, cross, cross + np.pi)[turn]
            stub = _stub(rng, center, out, [s.line for s in streets])
            if turn == drop or stub is None:
                continue
            twin = arms.get({0: 2, 1: -1, -1: 1}[turn])
            street = add(stub, streets[twin.street] if twin else None, i, None)
            arms[turn] = Arm(street.index, out, True, abs(turn))
        junction.arms = sorted(arms.values(), key=lambda arm: float(wrap_angle(arm.heading)))
        junctions.append(junction)
    network = Network(streets, junctions, turns, list(range(count + 1)))
    _trim(rng, network)
    return network


def _stub(rng: np.random.Generator, center: FloatArray, heading: float, lines: list[FloatArray]) -> FloatArray | None:
    """A straight cross street, ended before it comes near any other; None where less than 55 m are left."""
    line = center + np.arange(0.0, rng.uniform(95.0, 140.0))[:, None] * unit(heading)
    others = np.concatenate([other[::3] for other in lines])
    others = others[np.linalg.norm(others - center, axis=1) > 50.0]
    if len(others):
        close = np.linalg.norm(line[:, None] - others[None], axis=-1).min(1) < STUB_CLEARANCE_M
        line = line[: int(np.argmax(close))] if close.any() else line
    return line if len(line) >= 55 else None


def corner(network: Network, junction: Junction, first: Arm, second: Arm) -> tuple[FloatArray | None, float]:
    """Where the kerbs of two neighbouring arms (counter-clockwise) meet, and how much of each the rounding takes."""
    angle = (second.heading - first.heading) % (2 * np.pi)
    if angle > np.radians(150):
        return None, 0.0
    ha, hb = network.streets[first.street].half_m, network.streets[second.street].half_m
    along = (hb + ha * np.cos(angle)) / np.sin(angle)
    u = unit(first.heading)
    point = junction.center + along * u + ha * np.array([-u[1], u[0]])
    return point, CORNER_RADIUS_M * float(np.tan((np.pi - angle) / 2))


def _trim(rng: np.random.Generator, network: Network) -> None:
    for junction in network.junctions:
        reach = 0.0
        for first, second in zip(junction.arms, junction.arms[1:] + junction.arms[:1]):
            point, taken = corner(network, junction, first, second)
            if point is not None:
                reach = max(
                    reach, *(float((point - junction.center) @ unit(arm.heading)) + taken for arm in (first, second))
                )
        junction.reach_m = reach + CROSSING_ROOM_M
        keep = junction.control == "signal"
        junction.crossings = [i for i in range(len(junction.arms)) if keep or rng.random() < 0.5]
    for street in network.streets:
        length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(street.line, axis=0), axis=1))])
        begin = network.junctions[street.a].reach_m if street.a is not None else 0.0
        end = length[-1] - (network.junctions[street.b].reach_m if street.b is not None else 0.0)
        at = np.linspace(begin, end, max(2, int((end - begin) / 2.0) + 1))
        street.line = np.stack([np.interp(at, length, street.line[:, d]) for d in range(2)], -1)


# --- lanes --------------------------------------------------------------------------------------------------------


def lay_lanes(network: Network) -> None:
    """Fills lane_lines, connectors and exits (lane -> the connectors that leave it)."""
    for street in network.streets:
        for forward in (True, False):
            base = street.line if forward else street.line[::-1]
            for lane in range(street.lanes):
                name = lane_id(street.index, forward, lane)
                network.lane_lines[name] = offset_line(base, -(lane + 0.5) * LANE_M)
                network.exits[name] = []
    for junction in network.junctions:
        for a, arm in enumerate(junction.arms):
            for other in junction.arms:
                if other is not arm:
                    _connect(network, junction, a, arm, other)


def _connect(network: Network, junction: Junction, a: int, arm: Arm, other: Arm) -> None:
    angle = float(wrap_angle(other.heading - arm.heading - np.pi))
    turn = 0 if abs(angle) < 0.7 else int(np.sign(angle))
    n, m = network.streets[arm.street].lanes, network.streets[other.street].lanes
    pairs = {0: [(i, min(i, m - 1)) for i in range(n)], 1: [(0, 0)], -1: [(n - 1, m - 1)]}[turn]
    for i, j in pairs:
        start, end = lane_id(arm.street, not arm.outgoing, i), lane_id(other.street, other.outgoing, j)
        name = f"j{junction.index}_{start}_{end}"
        line = _curve(
            network.lane_lines[start][-1], arm.heading + np.pi, network.lane_lines[end][0], other.heading, turn
        )
        network.connectors[name] = Connector(name, junction.index, start, end, turn, arm.axis, a, line)
        network.exits[start].append(name)


def _curve(p0: FloatArray, h0: float, p1: FloatArray, h1: float, turn: int) -> FloatArray:
    """Straight, round, straight; the round part is a cubic that is close to a circle."""
    u0, u1 = unit(h0), unit(h1)
    if turn == 0:
        k = np.linalg.norm(p1 - p0) / 3
        controls = [p0, p0 + k * u0, p1 - k * u1, p1]
    else:
        d0, d1 = np.linalg.solve(np.stack([u0, u1], -1), p1 - p0)
        d = min(d0, d1, 9.0 if turn < 0 else 99.0)
        meet = p0 + d0 * u0
        controls = [meet - d * u0, meet - 0.45 * d * u0, meet + 0.45 * d * u1, meet + d * u1]
    t = np.linspace(0.0, 1.0, 25)[:, None]
    a, b, c, e = controls
    round_part = (1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * b + 3 * t**2 * (1 - t) * c + t**3 * e
    points = np.concatenate([p0[None], round_part, p1[None]])
    keep = np.concatenate([[True], np.linalg.norm(np.diff(points, axis=0), axis=1) > 1e-6])
    return resample_polyline(points[keep], 0.5)


# --- the map ------------------------------------------------------------------------------------------------------


def signal_id(junction: int, arm: int) -> str:
    return f"signal{junction}_{arm}"


def _lanes(network: Network) -> dict[str, Lane]:
    into: dict[str, list[str]] = {name: [] for name in network.lane_lines}
    for c in network.connectors.values():
        into[c.end].append(c.id)
    lanes = {}
    for name, line in network.lane_lines.items():
        street, lane = network.streets[int(name[1:-2])], int(name[-1])
        left = name[:-1] + str(lane - 1) if lane > 0 else None
        right = name[:-1] + str(lane + 1) if lane + 1 < street.lanes else None
        lanes[name] = Lane(
            name,
            lift(line),
            lift(offset_line(line, LANE_M / 2)),
            lift(offset_line(line, -LANE_M / 2)),
            False,
            street.limit_mps,
            tuple(network.exits[name]),
            tuple(into[name]),
            left,
            right,
        )
    for c in network.connectors.values():
        junction = network.junctions[c.junction]
        signal = signal_id(c.junction, c.arm) if junction.control == "signal" else None
        limit = min(network.streets[int(n[1:-2])].limit_mps for n in (c.start, c.end))
        line = c.line[::2] if len(c.line) % 2 else np.concatenate([c.line[::2], c.line[-1:]])
        lanes[c.id] = Lane(
            c.id,
            lift(line),
            lift(offset_line(line, LANE_M / 2)),
            lift(offset_line(line, -LANE_M / 2)),
            True,
            limit,
            (c.end,),
            (c.start,),
            None,
            None,
            signal,
        )
    return lanes


def mouth(network: Network, junction: Junction, arm: Arm, reach_m: float, side: float) -> FloatArray:
    """The point of an arm at ``reach_m`` from the centre and ``side`` metres left of its middle, looking outwards."""
    u = unit(arm.heading)
    return junction.center + reach_m * u + side * np.array([-u[1], u[0]])


def _corner_curves(network: Network, junction: Junction) -> list[tuple[FloatArray, FloatArray]]:
    """For each pair of neighbouring arms: the kerb from arm to arm (N, 2), and the walkway's polygon behind it."""
    out = []
    for first, second in zip(junction.arms, junction.arms[1:] + junction.arms[:1]):
        ha, hb = network.streets[first.street].half_m, network.streets[second.street].half_m
        begin, end = (
            mouth(network, junction, first, junction.reach_m, ha),
            mouth(network, junction, second, junction.reach_m, -hb),
        )
        back = [
            mouth(network, junction, second, junction.reach_m, -hb - WALKWAY_M),
            mouth(network, junction, first, junction.reach_m, ha + WALKWAY_M),
        ]
        point, taken = corner(network, junction, first, second)
        kerb = np.stack([begin, end])
        if point is not None:
            t = np.linspace(0.0, 1.0, 7)[:, None]
            p, q = point + taken * unit(first.heading), point + taken * unit(second.heading)
            kerb = np.concatenate([begin[None], (1 - t) ** 2 * p + 2 * t * (1 - t) * point + t**2 * q, end[None]])
            inner = np.linalg.solve(np.stack([unit(first.heading), -unit(second.heading)], -1), back[0] - back[1])[0]
            back.insert(1, back[1] + inner * unit(first.heading))
        out.append((kerb, np.concatenate([kerb, np.stack(back)])))
    return out


def _street_markings(street: Street) -> list[Marking]:
    double = street.lanes == 2
    out = [Marking("yellow solid" if double else "yellow dashed", lift(street.line), 0.2)]
    for side in (1, -1):
        for lane in range(1, street.lanes):
            out.append(Marking("white dashed", lift(offset_line(street.line, side * lane * LANE_M))))
        if street.parking:
            out.append(
                Marking("white solid", lift(offset_line(street.line, side * (street.lanes * LANE_M + 0.1))), 0.1)
            )
        out.append(Marking("curb", lift(offset_line(street.line, side * street.half_m)), 0.25))
    return out


def must_stop_at(junction: Junction, arm: Arm) -> bool:
    return junction.control == "signal" or arm.axis != junction.major_axis


def road_map(network: Network, name: str) -> RoadMap:
    """Everything but the props."""
    drivable, walkways, intersections, crossings, markings = [], [], [], [], []
    for street in network.streets:
        drivable.append(
            np.concatenate([offset_line(street.line, street.half_m), offset_line(street.line, -street.half_m)[::-1]])
        )
        for side in (1, -1):
            inner, outer = (offset_line(street.line, side * (street.half_m + w)) for w in (0.0, WALKWAY_M))
            walkways.append(np.concatenate([inner, outer[::-1]]))
        markings += _street_markings(street)
    for junction in network.junctions:
        curves = _corner_curves(network, junction)
        intersections.append(np.concatenate([kerb for kerb, _ in curves]))
        walkways += [polygon for _, polygon in curves]
        markings += [Marking("curb", lift(kerb), 0.25) for kerb, _ in curves]
        for i, arm in enumerate(junction.arms):
            half = network.streets[arm.street].half_m
            if i in junction.crossings:
                crossings.append(
                    np.stack(
                        [
                            mouth(network, junction, arm, junction.reach_m - r, s * half)
                            for r, s in ((4.6, -1), (4.6, 1), (1.4, 1), (1.4, -1))
                        ]
                    )
                )
            if must_stop_at(junction, arm):
                ends = [
                    mouth(network, junction, arm, junction.reach_m - 0.3, s)
                    for s in (0.2, network.streets[arm.street].lanes * LANE_M)
                ]
                markings.append(Marking("stop line", lift(np.stack(ends)), 0.4))
    return RoadMap(
        name,
        _lanes(network),
        _lifted(drivable + intersections),
        _lifted(intersections),
        _lifted(crossings),
        _lifted(walkways),
        markings=tuple(markings),
    )


def _lifted(polygons: list[FloatArray]) -> tuple[FloatArray, ...]:
    return tuple(lift(polygon) for polygon in polygons)
