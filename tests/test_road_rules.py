"""Direction, lights, lane, limits, progress and time to collision, on scenes small enough for pencil and paper."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from drive_wm.eval import metrics as m
from drive_wm.eval.metrics import References, Scene
from drive_wm.types import FloatArray, Lane, RoadMap, Signal, Vehicle
from tests.scenes import drive, lane, square, still, straight, street

P = "test@1"


# --- driving direction ---


@pytest.mark.parametrize("speed, worth", [(1.9, 1.0), (2.1, 0.5), (5.9, 0.5), (6.1, 0.0)])
def test_metres_outside_the_routes_lanes_in_a_second(speed: float, worth: float) -> None:
    oncoming = drive(straight(speed, y=2.0), straight(8.0, y=-2.0), map=street())
    assert m.driving_direction(oncoming, P).value == worth
    assert m.driving_direction(drive(straight(speed, y=-2.0), map=street()), P).value == 1.0
    crossing = street(intersections=(square(-50, 100, -4, 4),))
    assert m.driving_direction(replace(oncoming, map=crossing), P).value == 1.0
    assert not m.driving_direction(replace(oncoming, map=None), P).valid


@pytest.mark.parametrize("speed, worth", [(1.9, 1.0), (2.1, 0.5), (5.9, 0.5), (6.1, 0.0)])
def test_metres_against_the_lane_in_a_second(speed: float, worth: float) -> None:
    assert m.against_traffic(drive(straight(speed, y=2.0), map=street()), P).value == worth
    assert m.against_traffic(drive(straight(speed, y=-2.0), map=street()), P).value == 1.0
    assert m.against_traffic(drive(straight(speed, y=9.0), map=street()), P).value == 1.0  # no lane, no direction


def test_a_short_time_on_the_wrong_side_is_forgiven_and_its_end_is_seen() -> None:
    ego = straight(8.0, y=-2.0)
    ego[10:12, 1] = 2.0  # two steps: 0.8 m and the sideways jump of 4.08 m into it
    found = m.driving_direction(drive(ego, straight(8.0, y=-2.0), map=street()), P)
    assert found.value == 0.5 and found.evidence["worst_m"] == pytest.approx(np.hypot(0.8, 4.0) + 0.8)


def test_lanes_beside_and_after_the_driven_ones_are_on_the_route() -> None:
    lanes = {"a": lane("a", -4, 0, -50, 20, successors=("b", "c"), left_neighbor="n"), "n": lane("n", 0, 4, -50, 20),
             "b": lane("b", -4, 0, 20, 60), "c": lane("c", -4, 0, 20, 60), "far": lane("far", 8, 12)}
    road = m.Road(RoadMap("m", lanes))
    chain = road.lanes_along(straight(3.0, y=-2.0))
    assert [road.lanes[i].id for i in chain] == ["a"]
    assert {road.lanes[i].id for i in road.on_route(chain)} == {"a", "n", "b", "c"}


def test_the_driven_chain_prefers_connected_lanes_to_crossing_ones() -> None:
    lanes = {"a": lane("a", -4, 0, -50, 10, successors=("b",)), "b": lane("b", -4, 0, 10, 30, successors=("c",)),
             "c": lane("c", -4, 0, 30, 90), "twin": lane("twin", -3.9, -0.1, 10, 30)}
    road = m.Road(RoadMap("m", lanes))
    assert [road.lanes[i].id for i in road.lanes_along(straight(12.0, y=-2.0))] == ["a", "b", "c"]


# --- red lights ---


def crossing(states: list[int], times_s: list[float]) -> dict[str, Any]:
    lanes = {"a": lane("a", -4, 0, -50, 20, successors=("b",)),
             "b": lane("b", -4, 0, 20, 40, successors=("c",), is_intersection=True), "c": lane("c", -4, 0, 40, 100)}
    signal = Signal("s", np.array([20.0, -5.0, 5.0]), 0.0, (np.array(times_s) * 1e6).astype(int),
                    np.array(states, dtype=np.int8), ("b",))
    return {"map": RoadMap("crossing", lanes, (square(-50, 100, -4, 0),)), "signals": (signal,)}


def test_a_red_light_is_run_where_the_bumper_enters_its_lane() -> None:
    ego = straight(5.1, y=-2.0)  # front at 4 + 5.1 t: beyond x = 20 after 3.14 s
    red = m.traffic_lights(drive(ego, **crossing([3], [0.0])), P)
    assert red.value == 0.0 and red.evidence["overlaps"] == [{"lane": "b", "step": 32, "came_in_on_red": True}]
    assert red.per_step is not None and red.per_step.tolist() == [1.0] * 32 + [0.0] * 9
    assert m.traffic_lights(drive(ego, **crossing([3, 1], [0.0, 3.0])), P).value == 1.0
    late = m.traffic_lights(drive(ego, **crossing([1, 3], [0.0, 3.5])), P)
    assert late.value == 0.0 and late.evidence["overlaps"][0]["came_in_on_red"] is False
    assert m.traffic_lights(drive(straight(3.0, y=-2.0), ego, **crossing([3], [0.0])), P).value == 1.0


def test_a_red_light_of_another_way_does_not_matter() -> None:
    scene = crossing([3], [0.0])
    own = scene["map"]
    across = replace(lane("b", -4, 0), centerline_m=np.array([[30, -50, 0], [30, 50, 0]], float),
                     left_m=np.array([[28, -50, 0], [28, 50, 0]], float),
                     right_m=np.array([[32, -50, 0], [32, 50, 0]], float))
    lanes = {**own.lanes, "x": replace(across, id="x")}
    scene = {"map": replace(own, lanes=lanes), "signals": (replace(scene["signals"][0], lane_ids=("x",)),)}
    assert m.traffic_lights(drive(straight(10.0, y=-2.0), **scene), P).value == 1.0


# --- lane keeping ---


def test_half_a_metre_off_for_twenty_steps() -> None:
    logged = straight(10.0, y=-2.0)
    found = m.lane_keeping(drive(straight(10.0, y=-1.4), logged, map=street()), P)
    assert found.value == 0.0 and found.per_step is not None and found.per_step.sum() == 19
    assert m.lane_keeping(drive(straight(10.0, y=-1.6), logged, map=street()), P).value == 1.0
    for steps, worth in ((19, 1.0), (20, 0.0)):
        ego = straight(10.0, y=-2.0)
        ego[3: 3 + steps, 1] = -1.4
        assert m.lane_keeping(drive(ego, logged, map=street()), P).value == worth


@pytest.mark.parametrize("last, worth", [(24, 1.0), (25, 0.0)])
def test_an_intersection_is_skipped_and_resets_nothing(last: int, worth: float) -> None:
    ego = straight(10.0, y=-2.0)  # the middle is at 1.5 + i metres: in the intersection for i = 9 ... 13
    ego[:last, 1] = -1.4
    ego[9:14, 1] = -2.0  # back in the middle, but nobody looks: 9 steps before and last - 14 after
    road = street(intersections=(square(10, 15, -4, 4),))
    assert m.lane_keeping(drive(ego, straight(10.0, y=-2.0), map=road), P).value == worth


# --- limits ---


def test_speed_over_the_limit_costs_its_share() -> None:
    assert m.speed_limit(drive(straight(10.0, y=-2.0), map=street()), P).value == pytest.approx(1.0)
    over = m.speed_limit(drive(straight(11.115, y=-2.0), map=street()), P)
    assert over.value == pytest.approx(1 - 41 * 1.115 / (2.23 * 40))
    assert not m.speed_limit(drive(straight(11.0, y=2.0), map=street()), P).valid  # that lane has none
    assert not m.speed_limit(drive(straight(11.0)), P).valid


def test_nuplan_lets_a_corner_stand_out_by_30_cm() -> None:
    for y, exact, lenient in ((-3.1, 0.0, 1.0), (-3.29, 0.0, 1.0), (-3.31, 0.0, 0.0), (-2.9, 1.0, 1.0)):
        r = drive(straight(5.0, y=y), map=street())
        assert m.on_road(r, P).value == exact and m.on_road(r, P, tolerance_m=0.3).value == lenient


# --- progress ---


def with_pdm(ego: FloatArray, pdm: FloatArray, logged: FloatArray | None = None, **more: Any) -> Scene:
    logged = straight(8.0) if logged is None else logged
    return Scene.of(drive(ego, logged, **more), References(pdm=drive(pdm, logged, **more)))


def test_ego_progress_is_relative_to_pdm_closed() -> None:
    assert m.ego_progress(with_pdm(straight(3.75), straight(5.0)), P).value == pytest.approx(0.75)
    assert m.ego_progress(with_pdm(straight(6.0), straight(5.0)), P).value == 1.0
    assert m.ego_progress(with_pdm(still(0, 0), straight(5.0)), P).value == 0.0
    assert m.ego_progress(with_pdm(straight(-1.0), straight(5.0)), P).value == 0.0
    assert not m.ego_progress(drive(straight(5.0)), P).valid


def test_ego_progress_asks_nothing_of_a_scene_of_five_metres() -> None:
    assert m.ego_progress(with_pdm(still(0, 0), straight(1.25)), P).value == 1.0  # 5 m in 4 s
    assert m.ego_progress(with_pdm(still(0, 0), straight(1.26)), P).value == 0.0
    wall: dict[str, Any] = {"agents": [("car", still(9.5, 0))]}  # its rear at 7.5, 3.5 m ahead of the bumper
    assert m.ego_progress(with_pdm(straight(1.2), straight(0.5), **wall), P).value == 0.0  # 4.8 m, and a crash
    assert m.ego_progress(with_pdm(straight(0.5), straight(8.0), **wall), P).value == 1.0  # the other one crashed


def test_epdms_progress_is_a_clipped_ratio() -> None:
    def ep(ego: float, pdm: float) -> float:
        return m.ego_progress(with_pdm(straight(ego), straight(pdm)), P, clipped_ratio=True).value

    assert ep(6.0, 5.0) == 1.0 and ep(4.0, 5.0) == pytest.approx(0.8) and ep(0.0, 1.2) == 1.0


def test_progress_goes_on_past_the_end_of_the_log_along_its_lanes() -> None:
    turn = np.linspace(0, np.pi / 2, 20)
    arc = np.stack([40 + 20 * np.sin(turn), -22 + 20 * np.cos(turn), 0 * turn], -1)  # right turn of 20 m radius
    bend = Lane("bend", arc, arc, arc)
    lanes = {"r": lane("r", -4, 0, -50, 40, successors=("bend",)), "bend": bend}
    ego = np.concatenate([straight(10.0, 41, y=-2.0), np.stack([arc[:, 0], arc[:, 1], -turn], -1)])
    logged = straight(8.0, len(ego), y=-2.0)
    logged[25:] = logged[24]
    scene = Scene.of(drive(ego, logged, map=RoadMap("m", lanes), vehicle=Vehicle("p", 3, 2, 2, 2)))
    assert m.expert_progress(scene, P).evidence["driven_m"] == pytest.approx(40 + 10 * np.pi, abs=0.3)


@pytest.mark.parametrize("ego, expert, worth", [(0.75, 1.5, 0.5), (0.25, 0.25, 1.0), (0.25, 2.5, 0.2),
                                                (-0.45, 2.5, 0.2), (-0.55, 2.5, 0.0), (3.0, 2.0, 1.0)])
def test_nuplan_progress(ego: float, expert: float, worth: float) -> None:
    r = drive(straight(ego), straight(expert))
    assert m.expert_progress(r, P).value == pytest.approx(worth)
    assert m.is_making_progress(r, P).value == float(worth >= 0.2 - 1e-9)


# --- time to collision ---


@pytest.mark.parametrize("gap, worth", [(9.05, 1.0), (8.95, 0.0)])
def test_nuplan_time_to_collision_must_be_above_095_s(gap: float, worth: float) -> None:
    r = drive(straight(10.0, steps=11), agents=[("car", still(16.0 + gap, 0, steps=11))])  # gap ahead of it at 1 s
    found = m.least_time_to_collision(r, P)
    assert found.value == worth and found.evidence["least_s"] == pytest.approx(1.0 if worth else 0.9)


def test_nuplan_time_to_collision_moves_the_agent_and_is_0_at_a_crash() -> None:
    away = straight(10.0, steps=11) + [12.0, 0, 0]
    fled = drive(straight(10.0, steps=11), agents=[("car", away)])
    assert m.least_time_to_collision(fled, P).evidence["least_s"] is None
    crash = drive(straight(10.0), agents=[("car", still(20.0, 0))])
    assert m.least_time_to_collision(crash, P).evidence["least_s"] == 0.0


@pytest.mark.parametrize("rear_m, worth", [(13.05, 1.0), (12.95, 0.0)])
def test_pdm_time_to_collision_looks_09_s_ahead(rear_m: float, worth: float) -> None:
    r = drive(straight(10.0, steps=11), agents=[("car", still(rear_m + 2, 0, steps=11))])  # bumper at 4 + 9 m in 0.9 s
    at_start = m.time_to_collision(r, P, leave_out_last=9)  # of 11 steps the first two are asked; after 0.1 s 1 m less
    first = m.time_to_collision(r, P, leave_out_last=10)
    assert first.value == worth and at_start.value == 0.0


def test_a_track_beside_matters_only_where_the_ego_is_between_lanes_or_in_an_intersection() -> None:
    pressing = straight(5.0) + [-2.0, 1.0, 0]  # beside the ego's rear, 3 m to its left, and 1 m/s nearer
    pressing[:, 1] -= np.arange(41) * 0.1
    r = drive(straight(5.0, y=-2.0), agents=[("car", pressing)], map=street())
    assert m.time_to_collision(r, P).value == 1.0  # where it will be is 37 degrees off the ego's heading
    within = m.time_to_collision(replace(r, map=street(intersections=(square(-50, 100, -4, 4),))), P)
    astride = replace(r, ego_xyyaw=straight(5.0, y=-0.5), agents_xyyaw=r.agents_xyyaw + [0, 1.5, 0])
    between = m.time_to_collision(astride, P)
    assert within.value == 0.0 == between.value and within.evidence["first_step"] == 2  # 2.8 - 0.9 m is under 2 m
