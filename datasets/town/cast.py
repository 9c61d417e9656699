"""Who is in town: the ego, traffic with its drivers, parked cars, works and vans in the way, people and where they
cross."""

from __future__ import annotations

import numpy as np

from drive_wm.datasets.town.agents import Body, Color, Driver, Size, Thing
from drive_wm.datasets.town.network import LANE_M, Connector, Network, Street, lane_id
from drive_wm.datasets.town.ways import STEP_M, YAW, Roads, length_of, ride, way_of_line
from drive_wm.types import FloatArray

EGO_LWH_M = (4.1, 1.75, 1.6)
EGO_CENTER_M = 1.35  # of the box, ahead of the rear axle
# category: share of traffic, length, width, height in metres, each drawn within 6%
KINDS = {
    "car": (0.58, 4.5, 1.85, 1.55),
    "van": (0.12, 5.3, 2.0, 2.2),
    "truck": (0.07, 7.5, 2.4, 3.1),
    "bus": (0.06, 10.5, 2.5, 3.2),
    "motorcycle": (0.08, 2.1, 0.75, 1.6),
    "bicycle": (0.09, 1.8, 0.6, 1.7),
}
PAINT = (
    (200, 30, 35),
    (30, 70, 180),
    (20, 120, 70),
    (235, 180, 30),
    (230, 230, 230),
    (235, 235, 235),
    (25, 25, 28),
    (120, 124, 130),
    (170, 175, 180),
    (225, 110, 25),
    (90, 30, 110),
    (40, 150, 190),
    (70, 75, 82),
)
CLOTHES = (
    (190, 40, 50),
    (40, 80, 170),
    (225, 200, 60),
    (40, 130, 80),
    (35, 35, 40),
    (210, 210, 205),
    (150, 80, 150),
    (220, 120, 50),
)
CONE, CONE_LWH_M, CONE_COLOR = "cone", (0.4, 0.4, 0.75), (235, 110, 30)
BARRIER_LWH_M, BARRIER_COLOR = (0.35, 2.0, 1.0), (225, 60, 40)
MAX_VEHICLES = 44
CHANGE_M = 100.0  # a street so long leaves time to change lane on it
P_STANDING, P_WORKS, P_EMERGENCY, P_PERTURBED, P_CLUMSY = 0.3, 0.3, 0.15, 0.2, 0.12

Parked = tuple[str, FloatArray, float, Size, Color]


def paint(rng: np.random.Generator, palette: tuple[Color, ...]) -> Color:
    r, g, b = np.clip(np.array(palette[int(rng.integers(len(palette)))]) + rng.integers(-14, 15, 3), 5, 250)
    return int(r), int(g), int(b)


def size_of(rng: np.random.Generator, kind: str) -> Size:
    length, width, height = (float(v) * float(rng.uniform(0.94, 1.06)) for v in KINDS[kind][1:])
    return length, width, height


def driver(rng: np.random.Generator, kind: str) -> Driver:
    """Most drive well. A clumsy one brakes late, keeps little distance, weaves, and still goes where the light is
    yellow."""
    slow = {"bicycle": 0.42, "bus": 0.88, "truck": 0.88}.get(kind, 1.0)
    factor, phase = float(rng.uniform(0.82, 1.05)) * slow, float(rng.uniform(0, 6.28))
    if rng.random() < P_CLUMSY and kind != "bicycle":
        return Driver(
            factor * 1.05, float(rng.uniform(0.65, 0.85)), 3.4, float(rng.uniform(0.18, 0.3)), phase, 2.0, True
        )
    return Driver(
        factor, float(rng.uniform(1.0, 1.6)), float(rng.uniform(1.8, 2.4)), float(rng.uniform(0.0, 0.1)), phase
    )


# --- the ego ------------------------------------------------------------------------------------------------------


def route_turns(network: Network) -> dict[str, str]:
    """lane -> connector for every lane from which the ego's route goes on: where the next street is too short to change
    lane on it, those that lead to one of its lanes from which it goes on there too, if there are any."""
    turns: dict[str, str] = {}
    ways = list(zip(network.spine, network.spine[1:]))
    for street, after in reversed(ways):
        able = dict[str, list[Connector]]()
        for k in range(network.streets[street].lanes):
            ends = [network.connectors[c] for c in network.exits.get(lane_id(street, True, k), [])]
            able[lane_id(street, True, k)] = [c for c in ends if c.end[:-1] == lane_id(after, True, 0)[:-1]]
        if after != network.spine[-1] and length_of(network.streets[after].line) < CHANGE_M:
            onward = {lane: [c for c in ends if c.end in turns] for lane, ends in able.items()}
            able = onward if any(onward.values()) else able
        for lane, ends in able.items():
            if ends:
                turns[lane] = min(ends, key=lambda c: (c.end not in turns, abs(int(c.end[-1]) - int(lane[-1])))).id
    return turns


def ego_body(rng: np.random.Generator, roads: Roads) -> Body:
    network = roads.network
    turns = route_turns(network)
    lanes = [lane_id(network.spine[0], True, k) for k in range(network.streets[network.spine[0]].lanes)]
    onward = [lane for lane in lanes if lane in turns] or lanes
    pool = onward if rng.random() < 0.75 else lanes
    lane = pool[int(rng.integers(len(pool)))]
    length = length_of(roads.pieces[lane].line)
    start = length - float(rng.uniform(22.0, max(min(95.0, length - 20.0), 23.0)))
    if lane not in turns and length - start < CHANGE_M - 30.0:
        lane = onward[0]  # too late to change
        start += length_of(roads.pieces[lane].line) - length
    way = roads.walk(np.random.default_rng(int(rng.integers(1 << 30))), lane, from_m=start, turns=turns)
    to_line = length - start - EGO_CENTER_M - EGO_LWH_M[0] / 2
    speed = min(rng.uniform(0.6, 0.95) * float(way.at(start)[3]), np.sqrt(2 * 1.4 * max(to_line, 1.0)))
    careful = Driver(
        float(rng.uniform(0.88, 1.0)),
        float(rng.uniform(1.1, 1.5)),
        2.2,
        float(rng.choice([0.0, 0.12, 0.25], p=[0.6, 0.25, 0.15])),
        float(rng.uniform(0, 6.28)),
        2.8,
    )
    return Body(
        "ego", "car", EGO_LWH_M, way, start, float(speed), careful, seed=int(rng.integers(1 << 30)), turns=turns
    )


def perturbation(rng: np.random.Generator, step: int) -> tuple[int, float, float, float] | None:
    """A share of drives begins beside the middle of the lane, askew and at another speed: (step, m, rad, factor)."""
    values = (
        float(rng.uniform(0.4, 1.2) * rng.choice([-1, 1])),
        float(np.radians(rng.uniform(-8, 8))),
        float(rng.uniform(0.7, 1.15)),
    )
    return (step, *values) if rng.random() < P_PERTURBED else None


# --- traffic ------------------------------------------------------------------------------------------------------


def _kind(rng: np.random.Generator) -> str:
    shares = np.array([k[0] for k in KINDS.values()])
    return list(KINDS)[int(rng.choice(len(KINDS), p=shares / shares.sum()))]


def _vehicle(
    rng: np.random.Generator, roads: Roads, name: str, lane: str, at_m: float, to_line_m: float, enter_s: float
) -> Body:
    kind = _kind(rng)
    if kind == "bicycle" and roads.beside(lane, -1) is not None:
        kind = "car"
    size, seed = size_of(rng, kind), int(rng.integers(1 << 30))
    draw = np.random.default_rng([seed, 0])
    way = (
        ride(draw, roads, lane, at_m) if kind == "bicycle" else roads.walk(draw, lane, from_m=at_m, long=size[0] > 7.0)
    )
    who = driver(rng, kind)
    room = max(to_line_m - 0.8 * size[0], 0.0)
    speed = min(rng.uniform(0.6, 0.95) * float(way.at(at_m)[3]) * who.factor, np.sqrt(2 * 1.2 * room))
    return Body(name, kind, size, way, at_m, float(speed), who, enter_s, paint(rng, PAINT), seed)


def vehicles(rng: np.random.Generator, roads: Roads, ego: Body, things: list[Thing], density: float) -> list[Body]:
    """The ego first, then traffic on the lanes near its route with room between, then those that enter at dead ends."""
    out, network = [ego], roads.network
    here = ego.way.at(ego.start_m)[:2]
    route = ego.way.line[int(ego.start_m / STEP_M) : int((ego.start_m + 320) / STEP_M) : 20]
    stands = np.array([t.xyyaw[:2] for t in things]).reshape(-1, 2)
    lanes = list(network.lane_lines)
    for name in [lanes[i] for i in rng.permutation(len(lanes))]:
        line, length = network.lane_lines[name], length_of(network.lane_lines[name])
        at, blind = rng.uniform(1.0, 40.0), not network.exits[name]
        while at < length - 11.0 - (12.0 if blind else 0.0) and len(out) < MAX_VEHICLES:
            point = line[int(at / length * (len(line) - 1))]
            apart = np.linalg.norm(point - here) > (16.0 if rng.random() < 0.6 else 30.0)
            free = not len(stands) or np.linalg.norm(stands - point, axis=1).min() > 16.0
            if apart and free and np.linalg.norm(route - point, axis=1).min() < 130.0:
                out.append(_vehicle(rng, roads, f"vehicle-{len(out):03d}", name, float(at), length - at, -99.0))
            at += 16.0 + rng.exponential(46.0 / density)
    ends = {c.end for c in network.connectors.values()}
    entries = [
        name
        for name in lanes
        if name not in ends and np.linalg.norm(route - network.lane_lines[name][0], axis=1).min() < 130.0
    ]
    for _ in range(int(9 * density) if entries else 0):
        name = entries[int(rng.integers(len(entries)))]
        out.append(_vehicle(rng, roads, f"vehicle-{len(out):03d}", name, 0.0, 60.0, float(rng.uniform(0.0, 22.0))))
    if rng.random() < P_EMERGENCY:
        out += _emergency(rng, roads, ego, out)
    return out


def _emergency(rng: np.random.Generator, roads: Roads, ego: Body, others: list[Body]) -> list[Body]:
    """An ambulance or a fire engine behind the ego on its lane, if there is room for it."""
    lane = ego.way.spans[0][2]
    at = ego.start_m - float(rng.uniform(30.0, 60.0))
    if at < 6.0:
        return []
    size = (6.2, 2.15, 2.7) if rng.random() < 0.7 else (8.2, 2.4, 3.2)
    xy = ego.way.at(at)[:2]
    if any(np.linalg.norm(b.way.at(b.start_m)[:2] - xy) < 14.0 for b in others):
        return []
    color = (235, 235, 230) if size[0] < 7 else (200, 25, 30)
    way = roads.walk(np.random.default_rng(int(rng.integers(1 << 30))), lane, from_m=at, long=size[0] > 7)
    return [
        Body(
            "emergency-00",
            "van" if size[0] < 7 else "truck",
            size,
            way,
            at,
            12.0,
            Driver(1.25, 0.9, 3.0),
            -99.0,
            color,
            int(rng.integers(1 << 30)),
            0.0,
            True,
        )
    ]


# --- what stands --------------------------------------------------------------------------------------------------


def parked(rng: np.random.Generator, street: Street) -> list[tuple[int, Parked]]:
    """(side, (category, xy, yaw, size, colour)) of cars at both kerbs, none near the junctions; a side may be empty."""
    if not street.parking:
        return []
    out = []
    for side in (1, -1):
        share = float(rng.choice([0.0, 0.25, 0.5, 0.75], p=[0.15, 0.25, 0.35, 0.25]))
        line = street.shifted(side * street.bay_m)
        arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
        at = 9.0 + rng.uniform(0, 5)
        while at < arc[-1] - 10.0:
            if rng.random() < share:
                kind = "van" if rng.random() < 0.15 else "car"
                xy = np.array([np.interp(at, arc, line[:, d]) for d in range(2)])
                ahead = np.array([np.interp(at + 0.5, arc, line[:, d]) for d in range(2)]) - xy
                yaw = float(np.arctan2(ahead[1], ahead[0])) + (np.pi if side > 0 and not street.one_way else 0.0)
                out.append((side, (kind, xy, yaw, size_of(rng, kind), paint(rng, PAINT))))
            at += rng.uniform(6.3, 8.0)
    return out


def beside_lane(line: FloatArray, at_m: float, offset_m: float) -> tuple[float, float, float]:
    """x, y, yaw at an arc length of a lane's middle, moved to its left."""
    way = way_of_line(line)
    row = way.at(at_m)
    return (float(row[0] - offset_m * np.sin(row[YAW])), float(row[1] + offset_m * np.cos(row[YAW])), float(row[YAW]))


def standing(rng: np.random.Generator, name: str, line: FloatArray, at_m: float, offset_m: float) -> Thing:
    """A van or car that stands in the road with its hazard lights on."""
    kind = "van" if rng.random() < 0.7 else "car"
    return Thing(name, kind, beside_lane(line, at_m, offset_m), size_of(rng, kind), paint(rng, PAINT), True)


def works(name: str, line: FloatArray, at_m: float, length_m: float, edge_m: float) -> Thing:
    """A building site from the lane's right edge to ``edge_m`` left of its middle: cones in a taper, barriers at both
    ends."""
    right = -LANE_M / 2
    width = edge_m - right
    parts = []
    count = int(length_m / 2.2) + 1
    for k in range(count):
        share = k / max(count - 1, 1)
        taper = min(1.0, 0.15 + share * 3.0)
        offset = right + max(width * taper - 0.3, 0.25)
        place = beside_lane(line, at_m + (share - 0.5) * (length_m - 0.6), offset)
        parts.append((f"{name}-cone-{k:02d}", "object", place, CONE_LWH_M, CONE_COLOR))
    if width > 1.0:
        for k, along in enumerate((-0.1, 0.4)):
            wide = min(2.0, width - 0.75)
            place = beside_lane(line, at_m + along * length_m, right + wide / 2 + 0.05)
            size = (BARRIER_LWH_M[0], wide, BARRIER_LWH_M[2])
            parts.append((f"{name}-barrier-{k:02d}", "object", place, size, BARRIER_COLOR))
    middle = beside_lane(line, at_m, right + width / 2)
    return Thing(name, "object", middle, (length_m, width, 1.0), CONE_COLOR, False, tuple(parts))


def obstacles(rng: np.random.Generator, roads: Roads, ego: Body) -> list[Thing]:
    """On the ego's route, in the outermost lane: a standing van or car in some towns, works in some."""
    out: list[Thing] = []
    for p, kind in ((P_STANDING, "standing"), (P_WORKS, "works")):
        place = spot(rng, roads, ego, 52.0)
        if rng.random() < p and place is not None and not out:
            lane, at = place
            line = roads.pieces[lane].line
            if kind == "standing":
                out.append(standing(rng, "standing-00", line, at, float(rng.uniform(-0.75, -0.3))))
            else:
                edge = float(rng.choice([-0.9, -0.3, 0.6], p=[0.4, 0.35, 0.25]))
                out.append(works("works-00", line, at, float(rng.uniform(9.0, 15.0)), edge))
    return out


def outline(thing: Thing) -> list[FloatArray]:
    """Points along the middle of a thing, at most 3 m apart."""
    x, y, yaw = thing.xyyaw
    reach = np.arange(-thing.size_lwh_m[0] / 2, thing.size_lwh_m[0] / 2 + 0.1, 2.5)
    return [np.array([x + r * np.cos(yaw), y + r * np.sin(yaw)]) for r in reach]


def spot(rng: np.random.Generator, roads: Roads, ego: Body, least_m: float) -> tuple[str, float] | None:
    """An outermost lane on the route with room before and behind, and an arc length in its middle."""
    spans = [
        (begin, end, lane)
        for begin, end, lane in ego.way.spans
        if lane not in roads.network.connectors and end - max(begin, ego.start_m + 30.0) > least_m
    ]
    spans = [span for span in spans if span[0] < ego.start_m + 140.0]
    if not spans:
        return None
    begin, end, lane = spans[int(rng.integers(len(spans)))]
    while (other := roads.beside(lane, -1)) is not None:
        lane = other
    if roads.pieces[lane].room[0] + roads.pieces[lane].room[2] < 4.6:
        return None  # a truck could not get past
    low = max(begin, ego.start_m + 30.0) - begin
    return lane, float(rng.uniform(low + 18.0, end - begin - 30.0))
