"""What stands beside the streets: buildings, plants, lamps, signs, furniture; never on a road or where people walk."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

import numpy as np

from drive_wm.datasets.town import streets
from drive_wm.datasets.town.site import Site
from drive_wm.datasets.town.streets import (
    WALKWAY_M,
    Arm,
    Junction,
    Network,
    Street,
    mouth,
    must_stop_at,
    offset_line,
    signal_id,
)
from drive_wm.geometry import points_in_polygon, wrap_angle
from drive_wm.render_state import cached
from drive_wm.types import FloatArray, Prop

Choice = TypeVar("Choice", bound=Hashable)

FACADES = (
    (178, 92, 72),
    (205, 178, 140),
    (150, 156, 165),
    (214, 206, 192),
    (122, 88, 70),
    (190, 140, 96),
    (104, 120, 138),
    (226, 196, 150),
    (160, 70, 60),
    (140, 150, 120),
    (200, 200, 205),
    (92, 98, 110),
)
LEAVES, NEEDLES, HEDGE = (62, 118, 52), (40, 92, 58), (52, 98, 48)
GREY, DARK, RED = (95, 98, 104), (52, 62, 58), (196, 40, 34)
SIGN_LWH_M = (0.12, 0.75, 2.7)
MAST_LWH_M = (0.4, 1.06, 5.0)
KERB_M = 0.75  # from the kerb to what stands along it
SIGHT_M = 13.0  # no tree so near before a junction, where it would hide lights and signs
NEAR_ROUTE_M = 140.0
MAST_SEARCH_M = 14.0
SETBACKS_M = (0.0, 0.0, 1.2, 3.0)
# each with its share
STREETS = {"urban": 0.6, "suburban": 0.28, "park": 0.12}
GAPS_M = {0.3: 0.6, 1.0: 0.25, 5.0: 0.15}
PLANTS, SMALL_PLANTS = {"tree": 0.55, "conifer": 0.2, "shrub": 0.25}, {"shrub": 1.0}
FURNITURE = {"bin": 0.35, "hydrant": 0.2, "bench": 0.3, "bollard": 0.15}


class _Path:
    """A line that is walked along again and again."""

    def __init__(self, line: FloatArray) -> None:
        self.line, self.arc = line, streets.arc_length(line)
        self.length = float(self.arc[-1])

    def at(self, at_m: float) -> tuple[FloatArray, float]:
        """The point at that arc length, and the heading there."""
        at = np.array([at_m, min(at_m + 1.0, self.length), max(at_m - 1.0, 0.0)])
        (x, ahead_x, back_x), (y, ahead_y, back_y) = (np.interp(at, self.arc, self.line[:, d]) for d in range(2))
        return np.array([x, y]), float(np.arctan2(ahead_y - back_y, ahead_x - back_x))


def _left(yaw: float) -> FloatArray:
    return np.array([-np.sin(yaw), np.cos(yaw)])


def _color(rng: np.random.Generator, base: tuple[int, int, int], spread: int = 14) -> tuple[int, int, int]:
    r, g, b = (min(max(v + d, 0), 255) for v, d in zip(base, rng.integers(-spread, spread + 1, 3).tolist()))
    return r, g, b


def _pick(rng: np.random.Generator, shares: dict[Choice, float]) -> Choice:
    """One of few by their shares; as ``Generator.choice``, which takes ten times as long."""
    at, chosen = rng.random() * sum(shares.values()), next(iter(shares))
    for chosen, share in shares.items():
        at -= share
        if at < 0:
            break
    return chosen


def _facade(rng: np.random.Generator) -> tuple[int, int, int]:
    return _color(rng, FACADES[int(rng.integers(len(FACADES)))])


def _extended(network: Network, street: Street) -> FloatArray:
    """The street's line run on over its junctions and past its dead ends, so that corners and ends are built up."""
    first, last = street.line[0] - street.line[1], street.line[-1] - street.line[-2]
    a = network.junctions[street.a].reach_m if street.a is not None else 16.0
    b = network.junctions[street.b].reach_m if street.b is not None else 16.0
    start, end = (tip + reach * way / np.linalg.norm(way)
                  for tip, reach, way in ((street.line[0], a, first), (street.line[-1], b, last)))
    return np.concatenate([start[None], street.line, end[None]])


# --- buildings and plants behind the walkways ---------------------------------------------------------------------


def _row(rng: np.random.Generator, site: Site, line: _Path, half_m: float, side: int, character: str,
         back_m: float, tall: float) -> None:
    """A row of houses whose fronts stand ``back_m`` behind the walkway: closed in a town, loose in a suburb."""
    length, at = line.length, rng.uniform(0.0, 6.0)
    loose = character == "suburban"
    base = rng.uniform(5.0, 8.0) if loose else rng.uniform(7.0, 15.0) * tall
    while at < length:
        wide, deep = (rng.uniform(8.0, 14.0), rng.uniform(8.0, 11.0)) if loose else \
            (rng.uniform(9.0, 24.0), rng.uniform(9.0, 15.0))
        setback = back_m + SETBACKS_M[rng.integers(4)]
        xy, yaw = line.at(at + wide / 2)
        center = xy + side * (half_m + WALKWAY_M + setback + deep / 2) * _left(yaw)
        placed = False
        for scale in (1.0, 0.6):
            height = float(np.clip(base * rng.uniform(0.6, 1.7), 4.5, 9.5 if loose else 38.0))
            lwh = (wide * scale, deep * scale, height)
            if site.put("building", center, yaw, lwh, _facade(rng), WALKWAY_M + 0.4):
                placed = True
                break
        gap = rng.uniform(3.5, 9.0) if loose else _pick(rng, GAPS_M)
        at += wide + gap if placed else 4.0


def _ends(rng: np.random.Generator, site: Site, street: Street) -> None:
    """A house across each dead end."""
    for node, tip, before in ((street.a, street.line[0], street.line[1]), (street.b, street.line[-1], street.line[-2])):
        if node is None:
            way = (tip - before) / np.linalg.norm(tip - before)
            lwh = (10.0, 2 * street.half_m + 8.0, float(rng.uniform(9.0, 20.0)))
            site.put("building", tip + 12.0 * way, float(np.arctan2(way[1], way[0])), lwh, _facade(rng), 2.5)


def _plant(rng: np.random.Generator, site: Site, xy: FloatArray, clear_m: float, small: bool = False) -> None:
    """A tree, a conifer or a shrub."""
    kind = _pick(rng, SMALL_PLANTS if small else PLANTS)
    yaw = float(rng.uniform(-np.pi, np.pi))
    if kind == "tree":
        crown = float(rng.uniform(2.6, 5.0))
        site.put("tree", xy, yaw, (crown, crown, float(rng.uniform(5.0, 10.0))), _color(rng, LEAVES, 22), clear_m, 0.6)
    elif kind == "conifer":
        wide = float(rng.uniform(2.0, 3.4))
        site.put("conifer", xy, yaw, (wide, wide, wide * float(rng.uniform(2.2, 3.2))), _color(rng, NEEDLES), clear_m,
                 0.6)
    else:
        wide = float(rng.uniform(0.7, 1.2 if small else 2.0))
        site.put("shrub", xy, yaw, (wide, wide, wide * float(rng.uniform(0.6, 0.9))), _color(rng, HEDGE, 18), clear_m)


def _garden(rng: np.random.Generator, site: Site, line: _Path, half_m: float, side: int, character: str) -> None:
    """Hedges at the back of the walkway, and plants in what room is left behind it."""
    if rng.random() < (0.75 if character == "suburban" else 0.3):
        back = _Path(offset_line(line.line, side * (half_m + WALKWAY_M + 0.45)))
        for at in np.arange(6.0, back.length - 6.0, 7.0):
            xy, yaw = back.at(float(at))
            if rng.random() < 0.6:
                site.put("hedge", xy, yaw, (6.0, 0.7, float(rng.uniform(0.8, 1.4))), _color(rng, HEDGE), WALKWAY_M)
    every_m = {"urban": 16.0, "suburban": 7.0, "park": 3.0}[character]
    deep = 26.0 if character == "park" else 12.0
    for at in np.arange(2.0, line.length - 2.0, every_m):
        xy, yaw = line.at(float(at + rng.uniform(0.0, every_m)))
        off = half_m + WALKWAY_M + 0.8 + deep * float(rng.random()) ** 1.5
        _plant(rng, site, xy + side * off * _left(yaw), WALKWAY_M + 0.3)


# --- along the kerb -----------------------------------------------------------------------------------------------


def _bus_stop(rng: np.random.Generator, site: Site, street: Street) -> None:
    """A shelter behind the walkway on the right of either direction, open towards the road."""
    side = int(rng.choice([1, -1]))
    line = _Path(street.line)
    if rng.random() < 0.25 and line.length > 60.0:
        xy, yaw = line.at(float(rng.uniform(0.35, 0.65)) * line.length)
        center = xy + side * (street.half_m + WALKWAY_M + 0.85) * _left(yaw)
        site.put("bus_stop", center, yaw + (np.pi if side > 0 else 0.0), (4.2, 1.4, 2.5), (214, 120, 60), WALKWAY_M)


def _verge(rng: np.random.Generator, site: Site, street: Street, side: int, character: str) -> None:
    """Lamps, trees and furniture between the kerb and where people walk."""
    kerb = _Path(offset_line(street.line, side * (street.half_m + KERB_M)))
    length = kerb.length
    lamps, spare = rng.random() < 0.85, float(rng.uniform(23.0, 31.0))
    start = float(rng.uniform(5.0, 12.0)) + (0.5 * spare if side > 0 else 0.0)
    for at in np.arange(start, length - 3.0, spare) if lamps else ():
        xy, yaw = kerb.at(float(at))
        toward = yaw - side * np.pi / 2
        site.put("lamp" if rng.random() < 0.9 else "pole", xy, toward, (0.2, 0.2, 7.0), GREY)
    trees, gap = rng.random() < 0.7, float(rng.uniform(10.0, 20.0))
    crown_m = 3.4 if street.parking else 2.5  # it may reach over a parking bay, not over a lane
    for at in np.arange(4.0 + rng.uniform(0, 8), length - 4.0, gap) if trees else ():
        crown = float(rng.uniform(2.0, crown_m))
        if _open_sight(street, float(at), length) and rng.random() < 0.8:
            site.put("tree", *kerb.at(float(at)), (crown, crown, float(rng.uniform(5.0, 8.0))), _color(rng, LEAVES, 22),
                     foot_m=0.5)
    for at in np.arange(rng.uniform(3.0, 14.0), length - 3.0, rng.uniform(14.0, 26.0)):
        xy, yaw = kerb.at(float(at))
        _furnish(rng, site, _pick(rng, FURNITURE), xy, yaw + (0.0 if side > 0 else np.pi))


def _furnish(rng: np.random.Generator, site: Site, kind: str, xy: FloatArray, yaw: float) -> None:
    """One piece of furniture whose +y looks away from the road."""
    lwh, color = {"bin": ((0.45, 0.45, 1.0), DARK), "hydrant": ((0.36, 0.36, 0.8), RED),
                  "bench": ((1.6, 0.5, 0.9), DARK), "bollard": ((0.2, 0.2, 1.0), DARK)}[kind]
    site.put(kind, xy, yaw, lwh, color, 0.2)


def _open_sight(street: Street, at_m: float, length_m: float) -> bool:
    return not ((street.a is not None and at_m < SIGHT_M) or (street.b is not None and at_m > length_m - SIGHT_M))


def _speed_signs(rng: np.random.Generator, site: Site, street: Street) -> None:
    """The limit on the right of each direction, some way behind the junction."""
    for forward in (True, False):
        if rng.random() < 0.5 and streets.arc_length(street.line)[-1] > 50.0 and (forward or not street.one_way):
            line = street.line if forward else street.line[::-1]
            xy, yaw = _Path(offset_line(line, -(street.half_m + KERB_M))).at(float(rng.uniform(14.0, 24.0)))
            site.put("speed_sign", xy, yaw + np.pi, SIGN_LWH_M, GREY, foot_m=0.2)


# --- junctions ----------------------------------------------------------------------------------------------------


def _off_the_road(network: Network, junction: Junction, spot: FloatArray, way: FloatArray) -> FloatArray:
    """The first place from ``spot`` along ``way`` at which a mast stands clear of every road, such as a slip lane."""
    low, high = np.sort([spot, spot + MAST_SEARCH_M * way], axis=0) + [[-0.5], [0.5]]
    near = [p for p, (first, last) in zip(streets.map_of(network).drivable, cached("bounds", network, _bounds))
            if (first < high).all() and (last > low).all()]
    turn = np.arange(8) * np.pi / 4
    ring = 0.45 * np.stack([np.cos(turn), np.sin(turn)], 1)
    for step in np.arange(0.0, MAST_SEARCH_M, 0.5):
        at = spot + step * way
        if not any(points_in_polygon(at + ring, polygon).any() for polygon in near):
            return at
    return spot


def _bounds(network: Network) -> list[tuple[FloatArray, FloatArray]]:
    return [(p[:, :2].min(0), p[:, :2].max(0)) for p in streets.map_of(network).drivable]


def signal_mast(network: Network, junction: Junction, arm: Arm) -> tuple[FloatArray, FloatArray, float]:
    """Where the far and the near mast of an arm stand (2,) each, and the yaw towards the traffic that they face."""
    made, key = cached("masts", network, lambda _: {}), (junction.index, arm.street, arm.outgoing)
    if key not in made:
        made[key] = _mast(network, junction, arm)
    mast: tuple[FloatArray, FloatArray, float] = made[key]
    return mast


def _mast(network: Network, junction: Junction, arm: Arm) -> tuple[FloatArray, FloatArray, float]:
    out, left = streets.unit(arm.heading), _left(arm.heading)
    near = mouth(network, junction, arm, junction.reach_m + 0.3, network.streets[arm.street].half_m + KERB_M)
    opposite = [o for o in junction.arms if abs(float(wrap_angle(o.heading - arm.heading - np.pi))) < 0.7]
    if opposite:
        side = network.streets[opposite[0].street].half_m + KERB_M
        far, way = mouth(network, junction, opposite[0], junction.reach_m - 4.8, -side), -_left(opposite[0].heading)
    else:
        cross = max(network.streets[o.street].half_m for o in junction.arms if o is not arm)
        far, way = mouth(network, junction, arm, -(cross + 1.6), 3.5), -out
    far, near = (_off_the_road(network, junction, *it) for it in ((far, way), (near, left)))
    return far, near, float(wrap_angle(arm.heading))


def _junction_props(network: Network, site: Site, junction: Junction) -> None:
    if junction.control == "merge":
        return
    for a, arm in enumerate(junction.arms):
        if not streets.arm_lanes(network, arm, True):
            continue  # nobody comes from there
        far, near, yaw = signal_mast(network, junction, arm)
        if junction.control == "signal":
            for spot in (far, near):
                site.put("traffic_light", spot, yaw, MAST_LWH_M, (40, 42, 46), 0.25, 0.25, signal_id(junction.index, a))
            continue
        sign = {"stop sign": "stop_sign", "give way": "give_way_sign", "roundabout": "give_way_sign"}
        if junction.control in sign and (junction.control == "roundabout" or must_stop_at(junction, arm)):
            site.put(sign[junction.control], near, yaw, SIGN_LWH_M, GREY, foot_m=0.2)
        half = network.streets[arm.street].half_m + KERB_M
        if junction.control == "roundabout":
            site.put("roundabout_sign", mouth(network, junction, arm, junction.reach_m + 9.0, half), yaw, SIGN_LWH_M,
                     GREY, foot_m=0.2)
        elif a in junction.crossings or junction.control == "zebra":
            site.put("crossing_sign", mouth(network, junction, arm, junction.reach_m + 2.6, half), yaw, SIGN_LWH_M,
                     GREY, foot_m=0.2)


def _islands(rng: np.random.Generator, site: Site, network: Network, crossings: list[FloatArray]) -> None:
    """Plants and bollards on what is raised in the middle of the road, off the crossings."""
    for island in network.islands:
        low, high = island.min(0), island.max(0)
        turn = np.arange(8) * np.pi / 4
        for _ in range(int(min(14, 3 + np.prod(high - low) / 25.0))):
            xy = rng.uniform(low, high)
            small = float((high - low).min()) < 7.0
            ring = xy + (0.95 if small else 1.5) * np.stack([np.cos(turn), np.sin(turn)], 1)
            if points_in_polygon(ring, island).all() and not any(points_in_polygon(ring, c).any() for c in crossings):
                _plant(rng, site, xy, 0.0, small)


# --- all of it ----------------------------------------------------------------------------------------------------


def _site(network: Network, near: list[Street]) -> tuple[Site, list[FloatArray]]:
    """The room beside the roads around some streets, and all crossings."""
    road_map = streets.map_of(network)
    lanes = [np.concatenate([lane.left_m, lane.right_m[::-1]]) for lane in road_map.lanes.values()]
    walks = [line for line, _ in streets.walk_lines(network)]
    around = np.concatenate([_extended(network, street) for street in near])
    return Site([*road_map.drivable, *lanes], walks, around), [np.asarray(c)[:, :2] for c in road_map.crossings]


def _near_route(network: Network) -> list[Street]:
    """Streets that the ego's cameras may come to see."""
    route = np.concatenate([network.streets[i].line[::5] for i in network.spine])
    return [street for street in network.streets
            if np.linalg.norm(street.line[::3, None] - route[None], axis=-1).min() < NEAR_ROUTE_M]


def furnish(rng: np.random.Generator, network: Network) -> tuple[Prop, ...]:
    """All props of a town, what matters most to drivers first."""
    near = _near_route(network)
    site, crossings = _site(network, near)
    extended = {street.index: _Path(_extended(network, street)) for street in near}
    for junction in network.junctions:
        _junction_props(network, site, junction)
    for street in near:
        _speed_signs(rng, site, street)
        _bus_stop(rng, site, street)
    for street in near:
        _ends(rng, site, street)
    characters = {(s.index, side): _pick(rng, STREETS) for s in near for side in (1, -1)}
    for street in near:
        back, line = float(rng.choice([0.5, 1.5, 4.0])), extended[street.index]
        for side in (1, -1):
            character = characters[street.index, side]
            if character != "park":
                setback = back if character == "urban" else float(rng.uniform(4.0, 7.0))
                _row(rng, site, line, street.half_m, side, character, setback, 1.0)
    for street in near:
        for side in (1, -1):
            _row(rng, site, extended[street.index], street.half_m, side, "urban", 21.0, 1.7)
    for street in near:
        for side in (1, -1):
            _verge(rng, site, street, side, characters[street.index, side])
            _garden(rng, site, extended[street.index], street.half_m, side, characters[street.index, side])
    _islands(rng, site, network, crossings)
    return tuple(site.props)
