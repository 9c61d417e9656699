"""PDM-Closed on roads that one can draw by hand."""

from typing import Any

import numpy as np
import pytest

from drive_wm.eval.metrics import pdm_scores
from drive_wm.eval.vehicle import VEHICLES, EgoState, fit_reference, follow
from drive_wm.planners.pdm_closed import Corridor, PdmClosed, braking
from drive_wm.planners.proposals import FORECAST, Judge, at_10_hz, constant_velocity, judge, side_by_side
from drive_wm.planners.registry import make_planner
from drive_wm.types import FloatArray, InputError, Lane, Observation, Plan, RoadMap
from tests import scenes
from tests.scenes import ROUTE, car

LENGTH_M = 160.0


def road(half_m: float = 5.0, signal: str | None = None) -> RoadMap:
    """One lane along x, 10 m wide, with a limit of 8 m/s; it ends at 30 m where it has a light."""
    end = 30.0 if signal else LENGTH_M
    x = np.linspace(-20.0, end, 12)
    middle, left, right = (np.stack([x, np.full(12, y), np.zeros(12)], 1) for y in (0.0, half_m, -half_m))
    lane = Lane("a", middle, left, right, speed_limit_mps=8.0, signal_id=signal)
    box = np.array([[-20, -half_m, 0], [LENGTH_M, -half_m, 0], [LENGTH_M, half_m, 0], [-20, half_m, 0]], float)
    return RoadMap("m", {"a": lane}, drivable=(box,))


def seen(**what: Any) -> Observation:
    return scenes.seen(**{"map": road(), "vehicle": VEHICLES["zoe"], **what})


def drive(**what: Any) -> tuple[Plan, FloatArray]:
    plan = make_planner("pdm_closed").plan(seen(**what))
    return plan, plan.trajectory.xyyaw


def test_a_free_road_is_driven_at_the_limit_for_8_s() -> None:
    plan, way = drive()
    assert plan.trajectory.times_s[-1] == pytest.approx(8.0) and len(way) == 80
    assert way[-1] == pytest.approx([64.0, 0.0, 0.0], abs=0.5)
    assert plan.costs is not None and len(plan.candidates) == 15 and np.argmin(plan.costs) == 0


def test_it_stops_behind_a_standing_car_and_before_a_red_light() -> None:
    _, way = drive(agents=[car(28.0, 0.0)])
    front = way[:, 0].max() + VEHICLES["zoe"].rear_axle_to_front_m
    assert 20.0 < front < 26.0 and np.hypot(*(way[-1] - way[-10])[:2]) < 0.3
    for state, stops in ((3, True), (1, False)):
        _, way = drive(map=road(signal="s"), signal_states={"s": state})
        assert (way[-1, 0] + VEHICLES["zoe"].rear_axle_to_front_m < 30.6) == stops


def test_it_passes_beside_what_stands_half_in_the_lane() -> None:
    _, way = drive(agents=[car(28.0, -1.9)])  # 0.9 m beside the line, too near for a Zoe; not so from 1 m further left
    beside = way[np.argmin(np.abs(way[:, 0] - 26.0))]
    assert way[-1, 0] > 55.0 and beside[1] == pytest.approx(1.0, abs=0.1)


def test_it_returns_to_its_line_from_beside_and_off_its_heading() -> None:
    _, way = drive(route=ROUTE - [0.0, 1.5], world_from_rig=np.eye(4))
    assert way[20, 1] < -0.3 and way[-1, 1] == pytest.approx(-1.5, abs=0.1)


def test_it_brakes_hard_when_slow_and_even_the_best_is_in_danger() -> None:
    crossing = car(6.5, 1.4, vy=-0.4, yaw=-np.pi / 2, category="pedestrian")
    _, way = drive(speed=4.0, agents=[crossing])
    assert way[-1, 0] == pytest.approx(4.0**2 / (2 * 4.05), abs=0.1)
    path = np.stack([np.linspace(0, 40, 81), np.zeros(81), np.zeros(81)], 1)
    assert braking(path, 4.05)[[0, 5, 10, 80], 0] == pytest.approx([0.0, 1.51875, 2.025, 2.025])


def test_a_corridor_knows_who_is_and_who_will_be_on_it() -> None:
    agents = np.array([[*car(20.0, 0.0, vx=3.0), 0, 0, 0], [*car(20.0, 8.0, vy=-2.0), 0, 0, 0],
                       [*car(20.0, 9.0), 0, 0, 0]])
    near = Corridor.of(agents, ROUTE, 3.0).near_m(0.0, 1.2)  # (K, A), every 0.5 s
    assert near[[0, 2], 0].tolist() == [18.0, 21.0]  # its rear end, 3 m further after a second
    assert np.isinf(near[:6, 1]).all() and near[7, 1] == pytest.approx(18.0)  # there when 8 - 2 t - 1 < 1.2
    assert np.isinf(near[:, 2]).all()


def test_the_vehicle_is_the_observations_own() -> None:
    long = make_planner("pdm_closed").plan(seen(agents=[car(28.0, 0.0)], vehicle=VEHICLES["pacifica"]))
    short = make_planner("pdm_closed").plan(seen(agents=[car(28.0, 0.0)]))
    gap = short.trajectory.xyyaw[-1, 0] - long.trajectory.xyyaw[-1, 0]
    assert gap == pytest.approx(4.049 - 3.427, abs=0.15)
    with pytest.raises(InputError, match="unknown vehicle"):
        PdmClosed("bus")
    with pytest.raises(InputError, match="route"):
        drive(route=None)


def test_a_batch_is_followed_as_one_is() -> None:
    x = np.arange(51) * 0.1
    paths = np.stack([np.stack([v * x, s * x**2, 2 * s * x / v], 1) for v, s in ((5.0, 0.0), (8.0, 0.1))])
    start = EgoState(np.zeros(3), np.array(6.0), np.array(0.5), np.array(0.01))
    batch = follow(start, fit_reference(paths), 41, VEHICLES["zoe"])
    for i in range(2):
        for one, many in zip(follow(start, fit_reference(paths[i]), 41, VEHICLES["zoe"]), batch):
            np.testing.assert_allclose(many[i], one, atol=1e-12)
    assert batch[0].shape == (2, 41, 3) and batch[1].shape == (2, 41)


def test_worlds_side_by_side_are_judged_as_each_alone() -> None:
    one, planner = seen(), Judge()
    agents = np.array([[*car(20.0, 0.0), 0, 0, 0]])
    times = np.arange(FORECAST) * 0.1
    near, far = (constant_velocity(agents + shift, times) for shift in (0.0, np.array([0, 30.0, *[0] * 10])))
    paths = np.repeat(np.stack([np.arange(51) * 0.8, np.zeros(51), np.zeros(51)], 1)[None], 2, 0)
    egos = planner.world(one, near, agents, ROUTE).with_egos(*planner.drives(one, paths))
    both = judge(side_by_side(egos, np.stack([near, far])))
    assert both.scores["multiplier"].tolist() == [0.0, 1.0] and both.best == 1
    for i, forecast in enumerate((near, far)):
        alone = pdm_scores(planner.world(one, forecast, agents, ROUTE).with_egos(*planner.drives(one, paths[:1])))
        for name in ("collision_worth", "danger", "comfort"):
            np.testing.assert_array_equal(both.scores[name][i], alone[name][0])


def test_poses_between_and_beyond_the_steps() -> None:
    poses = np.array([[0.0, 0, np.pi - 0.1], [1.0, 0, -np.pi + 0.1]])
    fine = at_10_hz(poses, 0.5, 11)
    assert fine[:, 0] == pytest.approx(np.arange(11) * 0.2) and fine[5, 2] == pytest.approx(np.pi + 0.1)
