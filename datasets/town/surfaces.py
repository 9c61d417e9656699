"""The network as a RoadMap: lanes, drivable and walkable areas, crossings, parking, paint and kerbs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from drive_wm.datasets.town import roundabout
from drive_wm.datasets.town.lanes import slip_lines
from drive_wm.datasets.town.network import (
    CYCLE_M,
    LANE_M,
    PARKING_M,
    WALKWAY_M,
    Junction,
    Network,
    Street,
    arc_length,
    corner,
    cut,
    inbound_span,
    lift,
    mouth,
    must_stop_at,
    offset_line,
    signal_id,
    stop_line,
    street_of,
    unit,
)
from drive_wm.geometry import resample_polyline
from drive_wm.render_state import cached
from drive_wm.types import FloatArray, Lane, Marking, RoadMap

CONNECTOR_POINTS = 17
SLIP_LEFT_M, SLIP_RIGHT_M = 2.1, 2.4  # a slip lane's edges, from its middle
BAY_CLEAR_M = 8.0  # nobody parks so near a junction


@dataclass
class Parts:
    """What a RoadMap is made of, in 2-D, as it comes together."""

    drivable: list[FloatArray] = field(default_factory=list)
    intersections: list[FloatArray] = field(default_factory=list)
    crossings: list[FloatArray] = field(default_factory=list)
    walkways: list[FloatArray] = field(default_factory=list)
    carparks: list[FloatArray] = field(default_factory=list)
    markings: list[Marking] = field(default_factory=list)
    islands: list[FloatArray] = field(default_factory=list)

    def paint(self, style: str, line: FloatArray, width_m: float = 0.15) -> None:
        self.markings.append(Marking(style, lift(line), width_m))

    def island(self, outline: FloatArray) -> None:
        """A raised area within the road."""
        self.islands.append(outline)
        self.walkways.append(outline)
        self.paint("curb", np.concatenate([outline, outline[:1]]), 0.2)

    def yield_line(self, a: FloatArray, b: FloatArray) -> None:
        """A broken line across a lane: pieces of half a metre."""
        count = max(1, int(np.linalg.norm(b - a) / 1.0))
        for k in range(count):
            self.paint("stop line", a + (b - a) * np.array([[(k + 0.2) / count], [(k + 0.75) / count]]), 0.35)


def _band(inner: FloatArray, outer: FloatArray) -> FloatArray:
    return np.concatenate([inner, outer[::-1]])


# --- lanes --------------------------------------------------------------------------------------------------------


def _lane(name: str, line: FloatArray, normals: FloatArray, half_m: float, **more: object) -> Lane:
    left, right = (lift(line + side * half_m * normals) for side in (1.0, -1.0))
    return Lane(name, lift(line), left, right, **more)  # type: ignore[arg-type]


def _tangent_normals(lines: FloatArray) -> FloatArray:
    """Left normals of polylines (..., N, 2)."""
    tangent = np.gradient(lines, axis=-2)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=-1, keepdims=True), 1e-9)
    return np.stack([-tangent[..., 1], tangent[..., 0]], -1)


def _evenly(lines: list[FloatArray], count: int) -> FloatArray:
    """Polylines of even steps -> (K, count, 2)."""
    out = np.empty((len(lines), count, 2))
    for k, line in enumerate(lines):
        at = np.linspace(0.0, len(line) - 1.0, count)
        i = np.minimum(at.astype(int), len(line) - 2)
        out[k] = line[i] + (at - i)[:, None] * (line[i + 1] - line[i])
    return out


def _successors(network: Network) -> dict[str, list[str]]:
    """Lane of the map -> those that follow it; ways through a roundabout are taken apart into its circulating lanes."""
    after: dict[str, list[str]] = {name: [] for name in (*network.lane_lines, *network.cycle_lines)}
    for c in network.connectors.values():
        junction = network.junctions[c.junction]
        if junction.control == "roundabout":
            entry = f"j{c.junction}_in{c.arm}"
            if entry not in after[c.start]:
                after[c.start].append(entry)
            leaving = next(a for a, arm in enumerate(junction.arms) if arm.street == street_of(c.end))
            after[f"j{c.junction}_out{leaving}"] = [c.end]
        else:
            after[c.start].append(c.id)
            after[c.id] = [c.end]
    for junction in network.junctions:
        if junction.control == "roundabout":
            for name, _, nexts in roundabout.pieces(network, junction):
                after.setdefault(f"j{junction.index}_{name}", [f"j{junction.index}_{n}" for n in nexts])
    return after


def _street_lanes(network: Network) -> Iterator[tuple[str, FloatArray, FloatArray, float, dict[str, object]]]:
    slipped = {name for c in network.connectors.values() if c.slip for name in (c.start, c.end)}
    for name, line in network.lane_lines.items():
        street, lane = network.streets[street_of(name)], int(name[-1])
        forward = name[-2] == "f"
        normals = _tangent_normals(line) if name in slipped else street.normals if forward else -street.normals[::-1]
        neighbours = {"left_neighbor": name[:-1] + str(lane - 1) if lane > 0 else None,
                      "right_neighbor": name[:-1] + str(lane + 1) if lane + 1 < street.lanes else None}
        yield name, line, normals, LANE_M / 2, {"speed_limit_mps": street.limit_mps, **neighbours}
    for name, line in network.cycle_lines.items():
        street = network.streets[street_of(name)]
        normals = street.normals if name[-2] == "f" else -street.normals[::-1]
        yield name, line, normals, CYCLE_M / 2, {"speed_limit_mps": street.limit_mps, "kind": "cycle"}


def _junction_lanes(network: Network) -> Iterator[tuple[str, FloatArray, FloatArray, float, dict[str, object]]]:
    plain = [c for c in network.connectors.values() if network.junctions[c.junction].control != "roundabout"]
    lines = _evenly([c.line for c in plain], CONNECTOR_POINTS)
    for c, line, normals in zip(plain, lines, _tangent_normals(lines)):
        junction = network.junctions[c.junction]
        lit = junction.control == "signal" and not c.slip
        limit = min(network.streets[street_of(name)].limit_mps for name in (c.start, c.end))
        yield c.id, line, normals, (CYCLE_M if c.cycle else LANE_M) / 2, {
            "is_intersection": junction.real, "speed_limit_mps": limit,
            "signal_id": signal_id(c.junction, c.arm) if lit else None, "kind": "cycle" if c.cycle else "vehicle"}
    for junction in network.junctions:
        if junction.control == "roundabout":
            limit = min(network.streets[arm.street].limit_mps for arm in junction.arms)
            for name, line, _ in roundabout.pieces(network, junction):
                yield f"j{junction.index}_{name}", line, _tangent_normals(line), LANE_M / 2, {
                    "is_intersection": True, "speed_limit_mps": limit}


def map_lanes(network: Network) -> dict[str, Lane]:
    """All lanes of the map, linked both ways."""
    after = _successors(network)
    before: dict[str, list[str]] = {name: [] for name in after}
    for name, nexts in after.items():
        for n in nexts:
            before[n].append(name)
    lanes = {}
    for source in (_street_lanes(network), _junction_lanes(network)):
        for name, line, normals, half_m, more in source:
            if name in after:
                lanes[name] = _lane(name, line, normals, half_m, successors=tuple(after[name]),
                                    predecessors=tuple(before[name]), **more)
    return lanes


# --- streets ------------------------------------------------------------------------------------------------------


def _lay_street(network: Network, street: Street, parts: Parts) -> None:
    half, inner = street.half_m, street.median_m / 2
    left, right = street.shifted(half), street.shifted(-half)
    if inner:
        parts.drivable += [_band(street.shifted(inner), left), _band(street.shifted(-inner), right)]
        parts.island(_band(street.shifted(inner), street.shifted(-inner)))
    else:
        parts.drivable.append(_band(left, right))
    for side, kerb in ((1, left), (-1, right)):
        outer = street.shifted(side * (half + WALKWAY_M))
        begin, end = (network.cuts.get((street.index, side, at_end), 0.0) for at_end in (False, True))
        if begin or end:
            kerb, outer = (cut(line, begin, float(arc_length(line)[-1]) - end) for line in (kerb, outer))
        parts.walkways.append(_band(kerb, outer))
        parts.paint("curb", kerb, 0.25)
        _paint_side(street, side, parts)
    if not inner and not street.one_way:
        parts.paint("yellow solid" if street.lanes > 1 else "yellow dashed", street.line, 0.2)
    if street.one_way:
        for lane in range(1, street.lanes):
            parts.paint("white dashed", street.shifted(street.edge_m - lane * LANE_M))


def _paint_side(street: Street, side: int, parts: Parts) -> None:
    """Lane lines, cycle lane and parking bays of one side."""
    if not street.one_way:
        for lane in range(1, street.lanes):
            parts.paint("white dashed", street.shifted(side * (street.median_m / 2 + lane * LANE_M)))
    if street.median_m:
        parts.paint("yellow solid", street.shifted(side * (street.median_m / 2 + 0.25)), 0.12)
    if street.cycle:
        parts.paint("white solid", street.shifted(side * street.edge_m), 0.2)
    if street.parking:
        inner = street.edge_m + street.cycle * CYCLE_M + 0.1
        parts.paint("white solid", street.shifted(side * inner), 0.1)
        length = float(arc_length(street.line)[-1])
        if length > 2 * BAY_CLEAR_M + 7.0:
            edges = (street.shifted(side * inner), street.shifted(side * (inner + PARKING_M - 0.1)))
            parts.carparks.append(_band(*(cut(e, BAY_CLEAR_M, float(arc_length(e)[-1]) - BAY_CLEAR_M) for e in edges)))


# --- junctions ----------------------------------------------------------------------------------------------------


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


def _lay_crossroads(network: Network, junction: Junction, parts: Parts) -> None:
    curves = _corner_curves(network, junction)
    parts.intersections.append(np.concatenate([kerb for kerb, _ in curves]))
    bypassed = {a: line for (a, _), line in zip(junction.slips, slip_lines(network, junction))}
    for a, (kerb, walkway) in enumerate(curves):
        if a in bypassed:
            _lay_slip(network, junction, a, bypassed[a], kerb, parts)
        else:
            parts.walkways.append(walkway)
            parts.paint("curb", kerb, 0.25)


def _lay_slip(
    network: Network, junction: Junction, a: int, line: FloatArray, kerb: FloatArray, parts: Parts
) -> None:
    """A right-turn bypass behind the island that it leaves of the corner."""
    line = line[::3] if len(line) % 3 == 1 else np.concatenate([line[::3], line[-1:]])
    left, right, behind = (offset_line(line, m) for m in (SLIP_LEFT_M, -SLIP_RIGHT_M, -SLIP_RIGHT_M - WALKWAY_M))
    parts.drivable.append(_band(left, right))
    parts.walkways.append(_band(right, behind))
    parts.paint("curb", right, 0.25)
    arms = [junction.arms[a], junction.arms[(a + 1) % len(junction.arms)]]
    sides = [float(s) * unit(arm.heading + np.pi / 2) for s, arm in zip((1, -1), arms)]
    room = np.stack([(left - junction.center) @ n - network.streets[arm.street].half_m for n, arm in zip(sides, arms)])
    run, kerb = left[(room > 0.4).all(0)], resample_polyline(kerb, 1.0)
    kerb = kerb[np.linalg.norm(kerb[:, None] - line[None], axis=-1).min(1) > SLIP_LEFT_M + 0.5]
    if len(run) > 4 and len(kerb) > 4:
        parts.island(np.concatenate([kerb, run[::-1]]))
    hold = next(c.hold_m for c in network.connectors.values() if c.slip and c.junction == junction.index and c.arm == a)
    k = int(hold / 1.5)
    parts.yield_line(left[k], right[k])


def _lay_through(network: Network, junction: Junction, parts: Parts) -> None:
    """A mid-block crossing or a lane drop: the road goes on, and perhaps narrows."""
    before, after = (network.streets[arm.street] for arm in junction.arms)
    t = np.linspace(0.0, 1.0, 2 if junction.control == "zebra" else 13)[:, None]

    def edge(side: int, from_m: float, to_m: float) -> FloatArray:
        p, q = before.line[-1] + side * from_m * before.normals[-1], after.line[0] + side * to_m * after.normals[0]
        u, v = (np.array([n[1], -n[0]]) for n in (before.normals[-1], after.normals[0]))
        k = np.linalg.norm(q - p) / 3
        a, b = p + k * u, q - k * v
        line: FloatArray = (1 - t) ** 3 * p + 3 * t * (1 - t) ** 2 * a + 3 * t**2 * (1 - t) * b + t**3 * q
        return line

    inner = before.median_m / 2
    for side in (1, -1):
        kerb = edge(side, before.half_m, after.half_m)
        parts.walkways.append(_band(kerb, edge(side, before.half_m + WALKWAY_M, after.half_m + WALKWAY_M)))
        parts.paint("curb", kerb, 0.25)
        if inner:
            parts.drivable.append(_band(edge(side, inner, inner), kerb))
        if junction.control == "merge" and before.cycle:
            parts.paint("white solid", edge(side, before.edge_m, after.edge_m), 0.2)
    if inner:
        refuge = _band(edge(1, inner, inner), edge(-1, inner, inner))
        parts.walkways.append(refuge)
        parts.paint("curb", np.concatenate([refuge, refuge[:1]]), 0.2)
    else:
        parts.drivable.append(_band(edge(1, before.half_m, after.half_m), edge(-1, before.half_m, after.half_m)))
    if junction.control == "merge" and not inner and not before.one_way:
        parts.paint("yellow solid", edge(1, 0.0, 0.0), 0.2)


def _lay_crossings(network: Network, junction: Junction, parts: Parts) -> None:
    for i, arm in enumerate(junction.arms):
        street = network.streets[arm.street]
        if i in junction.crossings:
            refuge = street.median_m / 2 if junction.control == "zebra" else 0.0
            half = street.half_m
            for low, high in ((-half, -refuge), (refuge, half)) if refuge else ((-half, half),):
                corners = ((4.6, low), (4.6, high), (1.4, high), (1.4, low))
                parts.crossings.append(
                    np.stack([mouth(network, junction, arm, junction.reach_m - r, s) for r, s in corners]))
        inner, outer = inbound_span(network, arm)
        if must_stop_at(junction, arm) and outer > inner:
            line = stop_line(network, junction, arm)
            if junction.control in ("signal", "stop sign"):
                parts.paint("stop line", line, 0.4)
            else:
                parts.yield_line(*line)


def road_map(network: Network, name: str) -> RoadMap:
    """Everything but the props. Also notes the raised islands in ``network.islands``."""
    parts = Parts()
    for street in network.streets:
        _lay_street(network, street, parts)
    for junction in network.junctions:
        if junction.control == "roundabout":
            sectors, islands = roundabout.surfaces(network, junction)
            parts.intersections += sectors
            for island in islands:
                parts.island(island)
            for a in range(len(junction.arms)):
                kerb = roundabout.kerb(network, junction, a)
                parts.walkways.append(_band(kerb, offset_line(kerb, -WALKWAY_M)))
                parts.paint("curb", kerb, 0.25)
        elif junction.real:
            _lay_crossroads(network, junction, parts)
        else:
            _lay_through(network, junction, parts)
        _lay_crossings(network, junction, parts)
    network.islands = parts.islands
    return RoadMap(name, map_lanes(network), _lifted(parts.drivable + parts.intersections),
                   _lifted(parts.intersections), _lifted(parts.crossings), _lifted(parts.walkways),
                   _lifted(parts.carparks), tuple(parts.markings))


def map_of(network: Network) -> RoadMap:
    """The map of a network, made once; its name is the caller's to give."""
    made: RoadMap = cached("map", network, lambda it: road_map(it, "town"))
    return made


def _lifted(polygons: list[FloatArray]) -> tuple[FloatArray, ...]:
    return tuple(lift(polygon) for polygon in polygons)
