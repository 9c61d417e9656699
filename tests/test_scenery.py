"""What stands beside the streets stands clear of them, over many towns."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from drive_wm.datasets.town import scenery, streets
from drive_wm.datasets.town.site import Site
from drive_wm.geometry import box_corners, points_in_polygon, project_to_polyline
from drive_wm.types import PROP_KINDS, FloatArray, Prop

SEEDS = range(6)
MORE_SEEDS = range(6, 40)
TREES = ("tree", "conifer")


def town(seed: int) -> tuple[streets.Network, tuple[Prop, ...]]:
    rng = np.random.default_rng(seed)
    network = streets.plan_network(rng)
    streets.lay_lanes(network)
    return network, scenery.furnish(rng, network)


@pytest.fixture(scope="module")
def towns() -> list[tuple[streets.Network, tuple[Prop, ...]]]:
    return [town(seed) for seed in SEEDS]


def points_of(prop: Prop) -> FloatArray:
    """Corners and middles of the sides of what a prop takes on the ground: of trees and posts their foot."""
    narrow = prop.kind in TREES or prop.kind in ("traffic_light", "lamp", "pole") or prop.kind.endswith("sign")
    length, width = (0.2, 0.2) if narrow else prop.size_lwh_m[:2]
    box = box_corners(np.array([*prop.position_m[:2], prop.yaw_rad]), np.array(length), np.array(width))
    return np.concatenate([box, (box + np.roll(box, -1, 0)) / 2])


def test_nothing_stands_on_a_road(towns: list[tuple[streets.Network, tuple[Prop, ...]]]) -> None:
    stands_clear(SEEDS, towns)


@pytest.mark.slow
def test_nothing_stands_on_a_road_in_many_towns() -> None:
    stands_clear(MORE_SEEDS, [town(seed) for seed in MORE_SEEDS])


def stands_clear(seeds: range, towns: list[tuple[streets.Network, tuple[Prop, ...]]]) -> None:
    for seed, (network, props) in zip(seeds, towns):
        road_map = streets.road_map(network, "x")
        points = np.stack([points_of(prop) for prop in props])
        raised = np.zeros(len(props), bool)
        for island in network.islands:
            raised |= points_in_polygon(points, island[:, :2]).all(1)
        for polygon in (*road_map.drivable, *road_map.crossings):
            inside = points_in_polygon(points, polygon).any(1) & ~raised
            assert not inside.any(), (seed, [props[i] for i in np.flatnonzero(inside)])


def test_the_middle_of_the_walkways_is_free(towns: list[tuple[streets.Network, tuple[Prop, ...]]]) -> None:
    for network, props in towns:
        points = np.concatenate([points_of(prop) for prop in props])
        for street in network.streets:
            for side in (1, -1):
                line = streets.offset_line(street.line, side * (street.half_m + streets.WALKWAY_M / 2))
                near = points[np.abs(points - line.mean(0)).max(1) < 90.0]
                if len(near):
                    assert np.abs(project_to_polyline(near, line)[1]).min() > 0.2


def test_no_prop_is_inside_another(towns: list[tuple[streets.Network, tuple[Prop, ...]]]) -> None:
    share = np.stack(np.meshgrid(np.linspace(-0.5, 0.5, 5), np.linspace(-0.5, 0.5, 5)), -1).reshape(-1, 2)
    for seed, (_, props) in zip(SEEDS, towns):
        xy = np.array([p.position_m[:2] for p in props])
        size = np.array([p.size_lwh_m[:2] for p in props])
        yaw = np.array([p.yaw_rad for p in props])
        c, s = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
        local = share * size[:, None]
        x, y = local[..., 0], local[..., 1]
        grid = xy[:, None] + np.stack([c * x - s * y, s * x + c * y], -1)
        for i in range(len(props)):
            d = grid - xy[i]
            along, across = c[i] * d[..., 0] + s[i] * d[..., 1], c[i] * d[..., 1] - s[i] * d[..., 0]
            hit = ((np.abs(along) < size[i, 0] / 2 - 0.1) & (np.abs(across) < size[i, 1] / 2 - 0.1)).any(1)
            hit[i] = False
            assert not hit.any(), (seed, props[i], [props[j] for j in np.flatnonzero(hit)])


def test_every_arm_of_a_signalled_junction_has_a_light_that_faces_it(
        towns: list[tuple[streets.Network, tuple[Prop, ...]]]) -> None:
    for network, props in towns:
        lights: dict[str | None, list[Prop]] = {}
        for prop in props:
            if prop.kind == "traffic_light":
                lights.setdefault(prop.signal_id, []).append(prop)
        for junction in network.junctions:
            for a, arm in enumerate(junction.arms if junction.control == "signal" else ()):
                mine = lights[streets.signal_id(junction.index, a)]
                stop = junction.center + junction.reach_m * streets.unit(arm.heading)
                for prop in mine:
                    assert np.cos(prop.yaw_rad - arm.heading) > 0.99
                    assert np.linalg.norm(prop.position_m[:2] - stop) < 60.0


def test_towns_hold_all_kinds_and_the_same_seed_the_same_things(
        towns: list[tuple[streets.Network, tuple[Prop, ...]]]) -> None:
    kinds = Counter(prop.kind for _, props in towns for prop in props)
    assert set(kinds) <= set(PROP_KINDS)
    assert {"building", "tree", "conifer", "shrub", "hedge", "lamp", "bench", "bin", "hydrant", "bollard", "bus_stop",
            "speed_sign", "traffic_light", "crossing_sign"} <= set(kinds)
    assert kinds["stop_sign"] + kinds["give_way_sign"] > 0
    again = town(4)[1]
    assert [(p.kind, p.position_m.tobytes()) for p in again] == [(p.kind, p.position_m.tobytes()) for p in towns[4][1]]


def test_a_site_refuses_roads_walking_lines_and_what_is_taken() -> None:
    road = np.array([[-30.0, -4.0], [30.0, -4.0], [30.0, 4.0], [-30.0, 4.0]])
    site = Site([road], [np.array([[-30.0, 6.0], [30.0, 6.0]])])
    grey = (90, 90, 90)
    assert not site.put("bin", np.array([0.0, 3.0]), 0.0, (1.0, 1.0, 1.0), grey)
    assert not site.put("bin", np.array([0.0, 6.0]), 0.0, (1.0, 1.0, 1.0), grey)
    assert site.put("bin", np.array([0.0, 8.0]), 0.3, (1.0, 1.0, 1.0), grey)
    assert not site.put("bin", np.array([0.5, 8.5]), 0.0, (1.0, 1.0, 1.0), grey)
    assert site.put("tree", np.array([4.0, 5.0]), 0.0, (1.9, 1.9, 6.0), grey, foot_m=0.4)  # only its crown overhangs
    assert not site.put("bin", np.array([4.0, 5.0]), 0.0, (0.3, 0.3, 1.0), grey)
    assert abs(site.clearance(0.0, 9.0) - 5.0) < 0.4
    assert [prop.kind for prop in site.props] == ["bin", "tree"]
