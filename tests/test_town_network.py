"""The town's streets: everything is joined up, fits the road, and right of way is as the rules of the road have it."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import numpy as np
import pytest

from drive_wm.datasets.town import roundabout, rules, streets
from drive_wm.datasets.town.lanes import lane_pairs
from drive_wm.datasets.town.network import CONTROLS, Arm, Connector, Junction, Network, Street
from drive_wm.geometry import box_corners, points_in_polygon, wrap_angle
from drive_wm.types import RoadMap

SEEDS = range(400, 412)
EGO_LENGTH_M, EGO_WIDTH_M, EGO_CENTER_M = 4.1, 1.75, 1.35


@lru_cache(maxsize=64)
def town(seed: int) -> tuple[Network, RoadMap]:
    network = streets.plan_network(np.random.default_rng([seed, 1]))
    streets.lay_lanes(network)
    return network, streets.road_map(network, str(seed))


def crossroads(control: str, headings: str = "ENWS", lanes: int = 1, major: str = "EW", **more: object) -> Network:
    """Streets of 80 m towards points of the compass from a junction at the origin; those of ``major`` go first."""
    angle = {"E": 0.0, "N": np.pi / 2, "W": np.pi, "S": -np.pi / 2}
    ring = 12.0 if control == "roundabout" else 0.0
    reach = ring + roundabout.APPROACH_M if ring else 17.0
    made, arms = [], []
    for i, name in enumerate(headings):
        out = np.array([np.cos(angle[name]), np.sin(angle[name])])
        line = np.arange(reach, 100.0, 2.0)[:, None] * out
        made.append(Street(i, line, lanes, False, 11.0, 0, None, **more))  # type: ignore[arg-type]
        arms.append(Arm(i, angle[name], True, int(name not in major)))
    arms.sort(key=lambda arm: float(wrap_angle(arm.heading)))
    junction = Junction(0, np.zeros(2), control, 0, arms, [], reach, [], ring)
    network = Network(made, [junction], [], [])
    streets.lay_lanes(network)
    return network


def way(network: Network, headings: str, name: str, cycle: bool = False) -> Connector:
    """The connector of "EW": from the east arm to the west arm."""
    a, b = headings.index(name[0]), headings.index(name[1])
    return next(c for c in network.connectors.values() if c.cycle == cycle and streets.street_of(c.start) == a
                and streets.street_of(c.end) == b)


def waits(control: str, mine: str, other: str, headings: str = "ENWS") -> bool:
    network = crossroads(control, headings)
    return rules.gives_way(network, way(network, headings, mine), way(network, headings, other))


@pytest.mark.parametrize("mine, other, expected", [
    ("SN", "EW", True), ("EW", "SN", False),  # minor and major, straight across
    ("SE", "WE", True), ("WE", "SE", False),  # a right turn into the major road
    ("EN", "WE", False), ("ES", "WE", True), ("WE", "ES", False), ("ES", "WS", True),  # left turns wait for oncoming
    ("SW", "NS", True), ("NS", "SW", False), ("SW", "NE", False),  # also among the minor arms; two left turns pass
    ("ES", "SN", False), ("SN", "ES", True),  # a left turn off the major road still goes before the minor one
])
def test_minor_roads_give_way_and_left_turns_wait_for_oncoming(mine: str, other: str, expected: bool) -> None:
    assert waits("give way", mine, other) is expected
    assert waits("stop sign", mine, other) is expected


@pytest.mark.parametrize("mine, other, expected", [
    ("SN", "EW", True), ("EW", "SN", False),  # from the south, the east is on the right
    ("EW", "NS", True), ("NS", "WE", True), ("WE", "SN", True), ("SN", "WE", False),
    ("SW", "NS", True), ("NS", "SW", False), ("SN", "NS", False),
])
def test_uncontrolled_junctions_right_goes_before_left(mine: str, other: str, expected: bool) -> None:
    assert waits("none", mine, other) is expected


@pytest.mark.parametrize("mine, other, expected", [
    ("EW", "SN", False), ("SN", "EW", False),  # the light decides
    ("ES", "WE", True), ("WE", "ES", False), ("ES", "WS", True),
])
def test_signals_leave_only_left_turns_to_the_rules(mine: str, other: str, expected: bool) -> None:
    assert waits("signal", mine, other) is expected


@pytest.mark.parametrize("mine, other, expected", [
    ("SN", "WN", True), ("SN", "WE", True), ("SE", "WE", True),  # from the west they come round past the south arm
    ("SN", "EW", False), ("SN", "ES", False),  # from the east only round the north: past west and south if on to N
    ("SN", "NE", True), ("SN", "WS", False),  # who leaves before an entry does not pass it
])
def test_entries_of_a_roundabout_wait_for_those_who_pass_them(mine: str, other: str, expected: bool) -> None:
    assert waits("roundabout", mine, other) is expected


def test_a_stop_sign_halts_the_minor_road_only_and_a_light_binds_all_but_slip_lanes() -> None:
    network = crossroads("stop sign")
    assert rules.stops_first(network, way(network, "ENWS", "SN"))
    assert not rules.stops_first(network, way(network, "ENWS", "EW"))
    assert not rules.lit(network, way(network, "ENWS", "SN"))
    signal, ring = crossroads("signal"), crossroads("roundabout")
    assert rules.lit(signal, way(signal, "ENWS", "SN")) and rules.binds_from_afar(signal, way(signal, "ENWS", "SN"))
    assert not rules.binds_from_afar(ring, way(ring, "ENWS", "SN"))


def test_bicycles_go_straight_on_before_those_who_turn_across_them() -> None:
    network = crossroads("signal", cycle=True)
    bicycle = way(network, "ENWS", "SN", cycle=True)
    assert rules.gives_way(network, way(network, "ENWS", "SE"), bicycle)  # turns right across its lane
    assert rules.gives_way(network, way(network, "ENWS", "NE"), bicycle)  # oncoming, turns left
    assert not rules.gives_way(network, way(network, "ENWS", "SN"), bicycle)
    assert not rules.gives_way(network, bicycle, way(network, "ENWS", "SE"))


def test_slip_lanes_and_ending_lanes_give_way() -> None:
    found = Counter[str]()
    for seed in range(400, 440):
        network, _ = town(seed)
        ending = [c for c in network.connectors.values() if c.slip or network.junctions[c.junction].control == "merge"]
        for c in ending:
            for o in network.connectors.values():
                if c.slip and o.end == c.end and o.start != c.start:
                    found["slip"] += 1
                    assert rules.gives_way(network, c, o) and not rules.gives_way(network, o, c)
                merge = network.junctions[c.junction].control == "merge" and not c.cycle and not o.cycle
                if merge and c.end == o.end and c.start != o.start:
                    found["merge"] += 1
                    last = int(c.start[-1]) > int(o.start[-1])
                    assert rules.gives_way(network, c, o) == last and rules.gives_way(network, o, c) != last
    assert found["slip"] > 10 and found["merge"] > 10


def test_nobody_gives_way_to_his_own_lane_or_another_junction_and_rarely_each_to_the_other() -> None:
    for seed in list(SEEDS)[:4]:
        network, _ = town(seed)
        meets = rules.conflicts(network)
        for name, others in meets.items():
            c = network.connectors[name]
            assert not rules.gives_way(network, c, c)
            for other in others:
                o = network.connectors[other]
                assert o.junction == c.junction and o.start != c.start and name in meets[other]
                if network.junctions[c.junction].control != "roundabout":  # there each may pass the other's entry
                    assert not (rules.gives_way(network, c, o) and rules.gives_way(network, o, c))


def test_ways_that_cross_conflict_and_ways_apart_do_not() -> None:
    network = crossroads("signal")
    meets = rules.conflicts(network)
    straight, across, back = (way(network, "ENWS", n) for n in ("SN", "EW", "NS"))
    assert across.id in meets[straight.id] and back.id not in meets[straight.id]
    # the way from the south runs at x = 1.75, the one from the east at y = 1.75: 17 + 1.75 m along, within 2.9 m
    assert meets[straight.id][across.id] == pytest.approx(17.0 + 1.75 + 2.9, abs=2.0)


def test_inside_a_roundabout_blocks_an_entry_until_it_is_past_it() -> None:
    network = crossroads("roundabout")
    meets = rules.conflicts(network)
    round_west, south, east = (way(network, "ENWS", name) for name in ("WN", "SN", "EN"))
    assert meets[south.id][round_west.id] == rules.NEVER_M  # who enters behind is no obstacle to who is inside
    past = meets[round_west.id][south.id]
    spot = round_west.line[int(past * 2)]
    assert np.hypot(*spot) == pytest.approx(12.0, abs=0.3)  # on the ring, a quarter turn and the merge's angle on
    merge = roundabout.merge_angle(network.junctions[0])
    assert np.arctan2(spot[1], spot[0]) == pytest.approx(-np.pi / 2 + merge, abs=0.15)
    assert meets[south.id][east.id] > 0.0 and meets[east.id][south.id] == rules.NEVER_M


def test_circulating_lanes_lead_from_every_arm_to_every_other() -> None:
    network = crossroads("roundabout")
    lanes = streets.road_map(network, "ring").lanes
    for a in range(4):
        seen, rest = set(), [streets.lane_id(a, False, 0)]
        while rest:
            name = rest.pop()
            if name not in seen:
                seen.add(name)
                rest += lanes[name].successors
        assert {streets.lane_id(b, True, 0) for b in range(4)} <= seen
    assert not any(name in lanes for name in network.connectors)  # whole ways are traffic's, not the map's


def test_slip_lanes_leave_before_the_lights_and_the_line_stays_where_it_was() -> None:
    found = 0
    for seed in range(400, 440):
        network, road = town(seed)
        for slip in (c for c in network.connectors.values() if c.slip):
            found += 1
            length = float(streets.arc_length(slip.line)[-1])
            assert 0.3 * length < slip.hold_m < 0.9 * length and not rules.lit(network, slip)
            assert road.lanes[slip.id].signal_id is None
            junction = network.junctions[slip.junction]
            arm = junction.arms[slip.arm]
            outward = np.array([np.cos(arm.heading), np.sin(arm.heading)])
            for c in (network.connectors[n] for n in network.exits[slip.start]):
                if not c.slip:
                    at_line = (c.line[int(c.hold_m * 2)] - junction.center) @ outward
                    assert at_line == pytest.approx(junction.reach_m, abs=0.7) and c.hold_m == 16.0
    assert found > 5


def test_lanes_of_an_approach() -> None:
    assert lane_pairs(1, {0: 1, 1: 1, -1: 1}) == {0: [(0, 0)], 1: [(0, 0)], -1: [(0, 0)]}
    assert lane_pairs(3, {0: 1, 1: 1, -1: 2})[0] == [(1, 0)]  # the outer lanes only turn
    assert lane_pairs(2, {0: 1}) == {0: [(0, 0), (1, 0)]}  # a lane ends
    assert lane_pairs(1, {0: 2}) == {0: [(0, 0), (0, 1)]}
    assert lane_pairs(3, {1: 3, -1: 2}) == {1: [(0, 0), (1, 1)], -1: [(2, 1)]}
    for n in (1, 2, 3):
        for out in ({1: 1}, {-1: 2}, {1: 2, -1: 1}, {0: 3, 1: 1}, {0: 1, -1: 3}):
            pairs = lane_pairs(n, out)
            assert {i for ways in pairs.values() for i, _ in ways} == set(range(n)) and set(pairs) == set(out)


# --- the network of a seed ----------------------------------------------------------------------------------------


def test_every_junction_kind_lane_count_and_furnishing_occurs_at_a_telling_rate() -> None:
    have = Counter[str]()
    seeds = range(400, 440)
    for seed in seeds:
        network, _ = town(seed)
        have.update({j.control for j in network.junctions} | {f"{s.lanes} lanes" for s in network.streets})
        have.update({f"{len(j.arms)} arms" for j in network.junctions if j.real})
        have["slip"] += any(j.slips for j in network.junctions)
        for what in ("one_way", "cycle", "median_m", "parking"):
            have[what] += any(getattr(street, what) for street in network.streets)
        driven = [network.streets[s].b for s in network.spine[:-1]]
        real = [network.junctions[b] for b in driven if b is not None and network.junctions[b].real]
        assert 3 <= len(real) <= 5 and len(network.turns) == len(network.spine) - 1
        have.update({f"ego {junction.control}" for junction in real})
    for kind in (*CONTROLS, "1 lanes", "2 lanes", "3 lanes", "3 arms", "4 arms", "slip", "one_way", "cycle", "median_m",
                 "parking", *(f"ego {kind}" for kind in CONTROLS[:5])):
        assert have[kind] >= 0.07 * len(seeds), (kind, have)


def test_streets_that_do_not_meet_keep_clear_of_each_other() -> None:
    for seed in range(400, 430):
        network, _ = town(seed)
        for i, one in enumerate(network.streets):
            for two in network.streets[:i]:
                if not ({one.a, one.b} & {two.a, two.b}) - {None}:
                    gap = np.linalg.norm(one.line[::2, None] - two.line[None, ::2], axis=-1).min()
                    assert gap > one.half_m + two.half_m + 2 * streets.WALKWAY_M - 1.0, (seed, one.index, two.index)


@pytest.mark.parametrize("seed", SEEDS)
def test_lanes_join_and_end_only_where_the_town_does(seed: int) -> None:
    network, road = town(seed)
    for lane in road.lanes.values():
        line = lane.centerline_m[:, :2]
        ahead = line[-1] - line[-2]
        for name in lane.successors:
            after = road.lanes[name].centerline_m[:, :2]
            onward = after[1] - after[0]
            assert np.linalg.norm(line[-1] - after[0]) < 0.1, (lane.id, name)
            turn = wrap_angle(np.arctan2(onward[1], onward[0]) - np.arctan2(ahead[1], ahead[0]))
            assert abs(float(turn)) < 0.2, (lane.id, name)
        for ends, node in ((lane.successors, lane.id[-2] == "f"), (lane.predecessors, lane.id[-2] != "f")):
            if not ends:
                assert lane.id[0] == "s"
                street = network.streets[streets.street_of(lane.id)]
                assert (street.b if node else street.a) is None, lane.id


@pytest.mark.parametrize("seed", SEEDS)
def test_ways_through_junctions_can_be_driven(seed: int) -> None:
    for c in town(seed)[0].connectors.values():
        line = c.line[::4]
        yaw = np.unwrap(np.arctan2(*np.diff(line, axis=0).T[::-1]))
        assert np.abs(np.diff(yaw)).max(initial=0.0) / 2.0 < 1 / 4.0, c.id
        assert np.linalg.norm(np.diff(c.line, axis=0), axis=1).max() < 0.56, c.id


def lane_paths(network: Network) -> list[list[str]]:
    """Lanes and connectors along the ego's streets, from each lane from which they can be followed to their end."""
    out = []
    for first in range(network.streets[network.spine[0]].lanes):
        chain = [streets.lane_id(network.spine[0], True, first)]
        for after in network.spine[1:]:
            onward = [c for c in network.exits[chain[-1]] if streets.street_of(network.connectors[c].end) == after]
            beside = [n for n in network.exits if n[:-1] == chain[-1][:-1] and n != chain[-1]]
            if not onward:  # a lane that leads elsewhere: its neighbour's way, as after a change of lane
                onward = [c for n in beside for c in network.exits[n]
                          if streets.street_of(network.connectors[c].end) == after]
            assert onward, f"nobody can follow the route from {chain[-1]}"
            chain += [onward[0], network.connectors[onward[0]].end]
        out.append(chain)
    return out


@pytest.mark.parametrize("seed", SEEDS)
def test_the_route_can_be_followed_and_a_car_on_it_stays_on_the_road(seed: int) -> None:
    network, road = town(seed)
    for chain in lane_paths(network):
        lines = [network.lane_lines[n] if n in network.lane_lines else network.connectors[n].line for n in chain]
        assert sum(float(streets.arc_length(line)[-1]) for line in lines) > 330.0
        for name, line in zip(chain, lines):
            tangent = np.gradient(line, axis=0)
            yaw = np.arctan2(tangent[:, 1], tangent[:, 0])[:, None]
            pose = np.concatenate([line + EGO_CENTER_M * np.concatenate([np.cos(yaw), np.sin(yaw)], 1), yaw], 1)
            keep = slice(2, -2) if name == chain[0] or name == chain[-1] else slice(None)
            corners = box_corners(pose[keep], np.array(EGO_LENGTH_M), np.array(EGO_WIDTH_M)).reshape(-1, 2)
            on = np.any([points_in_polygon(corners, polygon) for polygon in road.drivable], axis=0)
            assert on.all(), (name, corners[~on][:2])


@pytest.mark.parametrize("seed", list(SEEDS)[:4])
def test_lanes_lie_on_the_road_and_walkways_and_islands_do_not(seed: int) -> None:
    network, road = town(seed)
    for lane in road.lanes.values():
        inner = lane.centerline_m[1:-1:2, :2]
        assert np.any([points_in_polygon(inner, polygon) for polygon in road.drivable], axis=0).all(), lane.id
        assert not np.any([points_in_polygon(inner, polygon) for polygon in road.walkways]), lane.id
    for line, _ in streets.walk_lines(network):
        assert not np.any([points_in_polygon(line[1:-1], polygon) for polygon in road.drivable])


def test_polygons_are_simple() -> None:
    polygon = pytest.importorskip("shapely.geometry").Polygon
    for seed in SEEDS:
        _, road = town(seed)
        for name in ("drivable", "intersections", "crossings", "walkways", "carparks"):
            for i, points in enumerate(getattr(road, name)):
                assert polygon(points[:, :2]).is_valid, (seed, name, i)
        for lane in road.lanes.values():
            assert polygon(np.concatenate([lane.left_m, lane.right_m[::-1]])[:, :2]).is_valid, (seed, lane.id)


def test_one_way_streets_run_one_way_and_cycle_lanes_lie_to_the_right() -> None:
    one_way = Street(0, np.stack([np.arange(0.0, 50.0), np.zeros(50)], -1), 2, False, 8.0, None, None, one_way=True)
    assert (one_way.count(True), one_way.count(False)) == (2, 0)
    assert [one_way.lane_offset_m(k) for k in (0, 1)] == [-1.75, 1.75] and one_way.half_m == 4.5
    wide = Street(0, one_way.line, 2, True, 8.0, None, None, cycle=True, median_m=2.0)
    assert [wide.lane_offset_m(k) for k in (0, 1)] == [2.75, 6.25]
    assert wide.cycle_offset_m == pytest.approx(8.9) and wide.half_m == pytest.approx(1.0 + 7.0 + 1.8 + 2.3)
    seen = 0
    for seed in SEEDS:
        network, road = town(seed)
        for name, line in network.cycle_lines.items():
            seen += 1
            beside = road.lanes[name[:-1] + str(network.streets[streets.street_of(name)].lanes - 1)]
            assert road.lanes[name].kind == "cycle" and name not in network.lane_lines
            gap = np.linalg.norm(line[5] - beside.centerline_m[:, :2], axis=1).min()
            assert gap == pytest.approx(1.75 + 0.9, abs=0.1)
    assert seen > 20


def test_cycle_lanes_go_on_through_junctions() -> None:
    joined = 0
    for seed in SEEDS:
        network, _ = town(seed)
        for name, line in network.cycle_lines.items():
            for c in (network.connectors[n] for n in network.cycle_exits.get(name, [])):
                joined += 1
                to = network.cycle_lines.get(c.end, network.lane_lines.get(c.end))
                assert to is not None and c.cycle and c.id not in network.exits.get(name, [])
                assert np.allclose(c.line[[0, -1]], [line[-1], to[0]])
    assert joined > 20


def test_same_seed_same_network_and_another_seed_another() -> None:
    def made(seed: int) -> tuple[bytes, ...]:
        network = streets.plan_network(np.random.default_rng([seed, 1]))
        streets.lay_lanes(network)
        road = streets.road_map(network, "x")
        lines = [c.line for c in network.connectors.values()]
        return tuple(a.tobytes() for a in (*lines, *(m.points_m for m in road.markings), *road.drivable))

    assert made(7) == made(7) != made(8)
