"""Where streets and junctions lie: a bent, jittered lattice around the ego's route, with stubs where it ends.

Streets of one lattice line are one road and share their cross-section; mid-block crossings and lane drops divide them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drive_wm.datasets.town import roundabout
from drive_wm.datasets.town.network import (
    CROSSING_ROOM_M,
    SLIP_M,
    ZEBRA_REACH_M,
    Arm,
    Junction,
    Network,
    Street,
    arc_length,
    corner,
    cut,
    unit,
)
from drive_wm.geometry import wrap_angle
from drive_wm.types import FloatArray

STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # the four ways out of a lattice node
STRAIGHT_M = 30.0  # a street leaves its junction straight
MIN_RADIUS_M = 32.0
STUB_CLEARANCE_M = 34.0
MIN_STUB_M = 58.0
ROUTE_END_M = 190.0  # where the route comes from and goes to
TAPER_M = 16.0  # half the length over which a lane ends
SLIP_ROOM_M = 46.0  # the least length of a street with a slip lane
P_SLIP = 0.75
Cell = tuple[int, int]


@dataclass
class Road:
    """The cross-section that the streets of a lattice line share."""

    lanes: int
    parking: bool
    cycle: bool
    median_m: float
    limit_mps: float
    one_way: int = 0  # +1 or -1 along the lattice line


@dataclass
class Plan:
    """cells: route first. heads: cell -> headings of its four ways out. lines: (cell, way) -> centre line outwards."""

    route: list[Cell]
    ways: list[int]
    cells: list[Cell]
    center: dict[Cell, FloatArray]
    heads: dict[Cell, tuple[float, ...]]
    lines: dict[tuple[Cell, int], FloatArray]


def _beside(cell: Cell, way: int) -> Cell:
    return cell[0] + STEPS[way][0], cell[1] + STEPS[way][1]


def _arms(plan: Plan, cell: Cell) -> int:
    """How many streets meet at a cell."""
    return sum((cell, w) in plan.lines or (_beside(cell, w), (w + 2) % 4) in plan.lines for w in range(4))


def draw_turns(rng: np.random.Generator, count: int) -> list[int]:
    """+1 left, 0 straight, -1 right; never the same turn twice: the route is a staircase and does not meet itself."""
    turns: list[int] = []
    last = 0
    for i in range(count):
        p_turn = 0.56 if i == 0 else 0.42
        turn = int(rng.choice([-1, 0, 1], p=[p_turn / 2, 1 - p_turn, p_turn / 2]))
        turn = 0 if turn == last else turn
        last = turn or last
        turns.append(turn)
    return turns


def _route(turns: list[int]) -> tuple[list[Cell], list[int]]:
    """The cells of the route and the way that it takes out of each."""
    cells, ways, way = [(0, 0)], [], 0
    for turn in turns:
        way = (way + turn) % 4
        ways.append(way)
        cells.append(_beside(cells[-1], way))
    return cells[:-1], ways


def _cells(rng: np.random.Generator, route: list[Cell], ways: list[int]) -> list[Cell]:
    """The route's cells and some beside it; those where the route comes from and goes to stay empty."""
    taken = {_beside(route[0], 2), _beside(route[-1], ways[-1])}
    out = list(route)
    for cell in route:
        for way in range(4):
            other = _beside(cell, way)
            if other not in taken and other not in out and rng.random() < 0.34:
                out.append(other)
            taken.add(other)
    return out


def _place(rng: np.random.Generator, plan: Plan, tame: float) -> None:
    """Positions and headings of the cells: a lattice of uneven spacing, bent as a whole, each node turned a little."""
    low = np.min(plan.cells, axis=0) - 1
    size = np.max(plan.cells, axis=0) - low + 2
    xs, ys = (np.cumsum(rng.uniform(104.0, 138.0, n)) for n in size)
    origin = np.array([xs[-low[0]], ys[-low[1]]])
    bend = rng.uniform(-1.0, 1.0) * tame / 620.0 + 1e-9
    turned = rng.uniform(-np.pi, np.pi)
    rotation = np.stack([unit(turned), unit(turned + np.pi / 2)], -1)
    for cell in plan.cells:
        x, y = np.array([xs[cell[0] - low[0]], ys[cell[1] - low[1]]]) - origin
        along = bend * x
        at = np.array([(1 / bend - y) * np.sin(along), 1 / bend - (1 / bend - y) * np.cos(along)])
        plan.center[cell] = rotation @ at + rng.uniform(-7.0, 7.0, 2) * tame
        head = turned + along + float(np.clip(rng.normal(0.0, 0.17), -0.3, 0.3)) * tame
        cross = head + np.pi / 2 + rng.uniform(-0.17, 0.17) * tame
        plan.heads[cell] = (head, cross, head + np.pi, cross + np.pi)


def _between(p: FloatArray, hp: float, q: FloatArray, hq: float) -> FloatArray:
    """Straight, a cubic, straight; ``hq`` points away from q as hp does from p."""
    gap = float(np.linalg.norm(q - p))
    ends = min(STRAIGHT_M, 0.3 * gap)
    a, b = p + ends * unit(hp), q + ends * unit(hq)
    reach = 0.36 * np.linalg.norm(b - a)
    t = np.linspace(0.0, 1.0, 33)[:, None]
    c, d = a + reach * unit(hp), b + reach * unit(hq)
    curve = (1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * c + 3 * t**2 * (1 - t) * d + t**3 * b
    line = np.concatenate([p[None], curve, q[None]])
    return cut(line, 0.0, float(arc_length(line)[-1]), 1.0)


def _radius_m(line: FloatArray) -> float:
    """The least radius of a line with points 1 m apart, over stretches of 6 m."""
    yaw = np.unwrap(np.arctan2(*np.diff(line, axis=0).T[::-1]))
    return 6.0 / max(float(np.abs(yaw[6:] - yaw[:-6]).max()), 1e-6)


def _stub(rng: np.random.Generator, start: FloatArray, heading: float, length_m: float) -> FloatArray:
    """A dead-end street: straight, then perhaps an arc."""
    at = np.arange(0.0, length_m)
    radius = rng.uniform(45.0, 140.0) * rng.choice([-1, 1])
    turn = rng.uniform(0.25, 0.9) if rng.random() < 0.4 else 0.0
    yaw = heading + np.sign(radius) * np.minimum(np.maximum(at - STRAIGHT_M, 0.0) / abs(radius), turn)
    step = np.stack([np.cos(yaw), np.sin(yaw)], -1)[:-1]
    return start + np.concatenate([np.zeros((1, 2)), np.cumsum(step, 0)])


def _link(rng: np.random.Generator, plan: Plan) -> bool:
    """Draws the lines between cells and the stubs; False where a street would bend too sharply."""
    spine = {(c, w) for c, w in zip(plan.route, plan.ways)} | {(plan.route[0], 2)}
    open_ends = []
    for cell in plan.cells:
        for way in range(4):
            other = _beside(cell, way)
            if (other, (way + 2) % 4) in plan.lines:
                continue
            if other not in plan.cells:
                open_ends.append((cell, way))
            elif (cell, way) in spine or (other, (way + 2) % 4) in spine or rng.random() < 0.9:
                line = _between(plan.center[cell], plan.heads[cell][way], plan.center[other],
                                plan.heads[other][(way + 2) % 4])
                if _radius_m(line) < MIN_RADIUS_M:
                    return False
                plan.lines[cell, way] = line
    open_ends.sort(key=lambda end: end not in spine)
    for cell, way in open_ends:
        if not _open_end(rng, plan, cell, way, (cell, way) in spine):
            return False
    return True


def _open_end(rng: np.random.Generator, plan: Plan, cell: Cell, way: int, needed: bool) -> bool:
    """Adds a stub where there is room for it; False only where a needed one finds none."""
    if not needed and _arms(plan, cell) > 2 and rng.random() < 0.3:
        return True
    start = plan.center[cell]
    line = _stub(rng, start, plan.heads[cell][way], ROUTE_END_M if needed else rng.uniform(80.0, 125.0))
    others = [other[60::4] if c == cell else other[:-60:4] if _beside(c, w) == cell else other[::4]
              for (c, w), other in plan.lines.items()]  # streets of the same junction are close where they begin
    points = np.concatenate([np.full((1, 2), 1e6), *others])
    close = np.linalg.norm(line[::2, None] - points[None], axis=-1).min(1) < STUB_CLEARANCE_M
    line = line[: 2 * int(np.argmax(close))] if close.any() else line
    if len(line) < (0.87 * ROUTE_END_M if needed else MIN_STUB_M):
        return not needed
    plan.lines[cell, way] = line
    return True


def _draw_plan(rng: np.random.Generator) -> Plan:
    for attempt in range(80):
        count = int(rng.choice([3, 4, 5], p=[0.45, 0.4, 0.15]))
        route, ways = _route(draw_turns(rng, count))
        plan = Plan(route, ways, _cells(rng, route, ways), {}, {}, {})
        _place(rng, plan, 1.0 if attempt < 40 else 0.0)
        if _link(rng, plan) and min(_arms(plan, cell) for cell in plan.cells) > 2:
            return plan
    raise AssertionError("an even lattice always links")


# --- roads --------------------------------------------------------------------------------------------------------


def _draw_road(rng: np.random.Generator, busy: bool) -> Road:
    lanes = int(rng.choice([1, 2, 3], p=[0.46, 0.36, 0.18] if busy else [0.66, 0.26, 0.08]))
    median = lanes > 1 and rng.random() < (0.35 if lanes == 2 else 0.6)
    limits = {1: [0.34, 0.46, 0.2], 2: [0.05, 0.45, 0.5], 3: [0.0, 0.3, 0.7]}[lanes]
    one_way = int(rng.choice([-1, 1])) if lanes < 3 and not median and rng.random() < 0.14 else 0
    parking, cycle = bool(rng.random() < (0.55, 0.4, 0.15)[lanes - 1]), not one_way and bool(rng.random() < 0.3)
    median_m, limit = float(rng.uniform(1.8, 3.4)) if median else 0.0, float(rng.choice([8.3, 11.1, 13.9], p=limits))
    return Road(lanes, parking, cycle, median_m, limit, one_way)


def _roads(rng: np.random.Generator, plan: Plan) -> dict[tuple[int, int], Road]:
    """(0, row) and (1, column) -> the road; one-way roads run with the ego."""
    out: dict[tuple[int, int], Road] = {}
    driven = {(w % 2, cell[1 - w % 2]): 1 if w < 2 else -1 for cell, w in zip(plan.route, plan.ways)}
    driven.setdefault((0, 0), 1)
    for cell, way in plan.lines:
        key = (way % 2, cell[1 - way % 2])
        if key not in out:
            out[key] = _draw_road(rng, key in driven)
            if out[key].one_way:
                out[key].one_way = driven.get(key, out[key].one_way)
    for cell in plan.cells:
        row, column = out.get((0, cell[1])), out.get((1, cell[0]))
        if row and column and row.one_way and column.one_way and _arms(plan, cell) < 4:
            column.one_way = 0
    return out


def _control(rng: np.random.Generator, roads: list[Road], arms: list[Arm]) -> str:
    lanes = max(road.lanes for road in roads)
    plain = lanes == 1 and not any(road.one_way or road.cycle for road in roads)
    if plain and roundabout.fits(arms) and rng.random() < 0.5:
        return "roundabout"
    kinds = ["signal", "stop sign", "give way", "none"]
    weights = {1: [0.3, 0.2, 0.22, 0.28], 2: [0.66, 0.14, 0.2, 0.0], 3: [0.88, 0.07, 0.05, 0.0]}[lanes]
    return str(rng.choice(kinds, p=weights))


def _major(rng: np.random.Generator, arms: list[Arm], roads: dict[int, Road]) -> int:
    """The through axis of a T, else the wider road, else mostly the one that the ego comes on."""
    single = [axis for axis in (0, 1) if sum(arm.axis == axis for arm in arms) < 2]
    if len(single) == 1:
        return 1 - single[0]
    if len(roads) == 2 and roads[0].lanes != roads[1].lanes:
        return int(roads[1].lanes > roads[0].lanes)
    return int(rng.random() < 0.3)


class _Builder:
    """Turns a plan into streets and junctions."""

    def __init__(self, rng: np.random.Generator, plan: Plan) -> None:
        self.rng, self.plan, self.roads = rng, plan, _roads(rng, plan)
        self.streets: list[Street] = []
        self.junctions = [Junction(i, plan.center[cell], "none", 0) for i, cell in enumerate(plan.cells)]
        self.arms: list[dict[int, Arm]] = [{} for _ in plan.cells]
        self.spine_of: dict[tuple[Cell, int], list[int]] = {}

    def build(self) -> Network:
        plan = self.plan
        spine = [(plan.route[0], 2), *zip(plan.route, plan.ways)]
        for key, line in plan.lines.items():
            self._edge(*key, line, spine)
        for i, cell in enumerate(plan.cells):
            self._settle(i, cell)
        streets: list[int] = []
        turns: list[int] = []
        for n, key in enumerate(spine):
            pieces = self.spine_of[key]
            streets += pieces
            turns += [0] * (len(pieces) - 1)
            if n < len(plan.route):
                before = 0 if n == 0 else plan.ways[n - 1]
                turns.append((plan.ways[n] - before + 1) % 4 - 1)
        return Network(self.streets, self.junctions, turns, streets)

    def _edge(self, cell: Cell, way: int, line: FloatArray, spine: list[tuple[Cell, int]]) -> None:
        """One street, or two with a node between; turned round where the ego or one-way traffic comes the other way."""
        other, back = _beside(cell, way), (way + 2) % 4
        key = (cell, way) if (cell, way) in spine else (other, back) if (other, back) in spine else None
        road = self.roads[way % 2, cell[1 - way % 2]]
        a = self.plan.cells.index(cell)
        b = self.plan.cells.index(other) if other in self.plan.cells else None
        ways = (way, back)
        flip = key == (self.plan.route[0], 2) and key == (cell, way) or key == (other, back)
        if key is None and road.one_way:
            flip = (1 if way < 2 else -1) != road.one_way
        first: int | None = a
        if flip:
            line, first, b, ways = line[::-1], b, a, (back, way)
        made = self._divide(line, road, first, b)
        if key is not None:
            self.spine_of[key] = [street.index for street in made]
        for end, street, w, outgoing in ((first, made[0], ways[0], True), (b, made[-1], ways[1], False)):
            if end is not None:
                heading = self.plan.heads[self.plan.cells[end]][w]
                self.arms[end][w] = Arm(street.index, heading, outgoing, w % 2)

    def _street(self, line: FloatArray, road: Road, lanes: int, a: int | None, b: int | None) -> Street:
        street = Street(len(self.streets), line, lanes, road.parking, road.limit_mps, a, b, bool(road.one_way),
                        road.cycle, road.median_m)
        self.streets.append(street)
        return street

    def _divide(self, line: FloatArray, road: Road, a: int | None, b: int | None) -> list[Street]:
        """Perhaps a crossing in mid-block, or a lane that ends."""
        rng, kind, length = self.rng, self.rng.random(), len(line)
        drop = road.lanes > 1 and kind > 0.68 and length > 124
        if not drop and (kind > 0.24 or length < 100):
            return [self._street(line, road, road.lanes, a, b)]
        middle = int(length * (rng.uniform(0.46, 0.54) if a is not None and b is not None else
                               rng.uniform(0.5, 0.56) if b is None else rng.uniform(0.44, 0.5)))
        middle = max(middle, 84) if a is None and length > 160 else middle
        straight = _radius_m(line[max(middle - 22, 0) : middle + 22])
        drop = drop and straight > 90.0
        if straight < 60.0:
            return [self._street(line, road, road.lanes, a, b)]
        node = Junction(len(self.junctions), line[middle].copy(), "merge" if drop else "zebra", 0)
        node.reach_m = TAPER_M if drop else ZEBRA_REACH_M
        self.junctions.append(node)
        lanes = [road.lanes, road.lanes]
        if drop:
            lanes[int(rng.random() < 0.6 if road.one_way else rng.random() < 0.5)] -= 1
        first = self._street(line[: middle + 1], road, lanes[0], a, node.index)
        second = self._street(line[middle:], road, lanes[1], node.index, b)
        reach = int(node.reach_m)
        for street, outgoing in ((first, False), (second, True)):
            away = (street.line[reach] if outgoing else street.line[-1 - reach]) - node.center
            node.arms.append(Arm(street.index, float(np.arctan2(away[1], away[0])), outgoing, 0))
        node.crossings = [] if drop else [0]
        return [first, second]

    def _settle(self, i: int, cell: Cell) -> None:
        """The kind of a junction, once its arms are known."""
        junction, arms = self.junctions[i], self.arms[i]
        junction.arms = sorted(arms.values(), key=lambda arm: float(wrap_angle(arm.heading)))
        crossing = {way % 2: self.roads[way % 2, cell[1 - way % 2]] for way in arms}
        junction.control = _control(self.rng, list(crossing.values()), junction.arms)
        junction.major_axis = _major(self.rng, junction.arms, crossing)


def _reach(network: Network, junction: Junction) -> float:
    """From the centre to the stop lines: behind the rounded corners and the crossings."""
    reach = 0.0
    for first, second in zip(junction.arms, junction.arms[1:] + junction.arms[:1]):
        point, taken = corner(network, junction, first, second)
        if point is not None:
            along = ((point - junction.center) @ unit(arm.heading) for arm in (first, second))
            reach = max(reach, *(float(m) + taken for m in along))
    return reach + CROSSING_ROOM_M


def _trim(rng: np.random.Generator, network: Network) -> None:
    for junction in network.junctions:
        if junction.control == "roundabout":
            junction.ring_m = float(rng.uniform(11.0, 13.5))
            junction.reach_m = junction.ring_m + roundabout.APPROACH_M
        elif junction.real:
            junction.reach_m = _reach(network, junction)
        if junction.real and len(junction.arms) > 2:
            all_arms = junction.control == "signal"
            junction.crossings = [i for i in range(len(junction.arms)) if all_arms or rng.random() < 0.5]
    for street in network.streets:
        begin = network.junctions[street.a].reach_m if street.a is not None else 0.0
        end = network.junctions[street.b].reach_m if street.b is not None else 0.0
        street.line = cut(street.line, begin, float(arc_length(street.line)[-1]) - end)


def _starts_straight(street: Street, arm: Arm) -> bool:
    """Whether a street leaves a junction without a bend for as far as a slip lane takes."""
    line = cut(street.line if arm.outgoing else street.line[::-1], 0.0, SLIP_M)
    ahead = line[-1] - line[-2]
    return bool(abs(float(wrap_angle(np.arctan2(ahead[1], ahead[0]) - arm.heading))) < 0.1)


def _plan_slips(rng: np.random.Generator, network: Network, junction: Junction) -> None:
    """Right-turn bypasses at large signalled corners, where nobody parks and both streets are long enough."""
    arms = junction.arms
    for a, arm in enumerate(arms):
        b = (a + 1) % len(arms)
        pair = [network.streets[arm.street], network.streets[arms[b].street]]
        roomy = max(s.lanes for s in pair) > 1 and all(
            not (s.parking or s.cycle or s.one_way) and arc_length(s.line)[-1] > SLIP_ROOM_M for s in pair)
        angle = (arms[b].heading - arm.heading) % (2 * np.pi)
        roomy = roomy and _starts_straight(pair[0], arm) and _starts_straight(pair[1], arms[b])
        if roomy and 1.25 < angle < 1.9 and rng.random() < P_SLIP:
            junction.slips.append((a, b))
            network.cuts[arm.street, 1 if arm.outgoing else -1, not arm.outgoing] = SLIP_M
            network.cuts[arms[b].street, -1 if arms[b].outgoing else 1, not arms[b].outgoing] = SLIP_M


def plan_network(rng: np.random.Generator) -> Network:
    """Streets and junctions of one town, without lanes: the same generator state gives the same network."""
    network = _Builder(rng, _draw_plan(rng)).build()
    _trim(rng, network)
    for junction in network.junctions:
        if junction.control == "signal":
            _plan_slips(rng, network, junction)
    return network
