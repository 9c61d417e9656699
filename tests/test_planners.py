import inspect
from pathlib import Path

import numpy as np
import pytest

from drive_wm.config import load_object
from drive_wm.planners.base import TIMES_S, Planner, check_plan, stand_still
from drive_wm.planners.idm import IdmPlanner, occupancy, speed_profile, stop_arc
from drive_wm.planners.registry import PLANNERS, make_planner, takes_checkpoint
from drive_wm.types import FloatArray, InputError, Lane, Plan, RoadMap, Trajectory
from tests.scenes import ROUTE, car, seen


def last(plan: Plan) -> FloatArray:
    return plan.trajectory.xyyaw[-1]


def test_baselines() -> None:
    assert (make_planner("stationary").plan(seen()).trajectory.xyyaw == 0).all()
    plan = make_planner("constant_velocity").plan(seen(speed=6.0))
    np.testing.assert_allclose(plan.trajectory.xyyaw[:, 0], 6.0 * TIMES_S)
    assert len(plan.trajectory.times_s) == 8 and plan.trajectory.times_s[-1] == 4.0


def test_registry_names_paths_and_files(tmp_path: Path) -> None:
    assert make_planner("drive_wm.planners.baselines:Stationary").name == "stationary"
    assert make_planner("idm", front_m=3.4).front_m == 3.4  # type: ignore[attr-defined]
    file = tmp_path / "mine.py"
    file.write_text("from drive_wm.planners.baselines import Stationary\nclass Mine(Stationary):\n    name = 'mine'\n")
    assert make_planner(f"{file}:Mine").name == "mine"
    with pytest.raises(InputError, match="did you mean 'stationary'"):
        make_planner("stationry")
    for wrong in (f"{file}:Yours", f"{tmp_path / 'absent.py'}:Mine", "no_such_package_x.y:Z", "numpy:ndarray"):
        with pytest.raises(InputError):
            make_planner(wrong)
    with pytest.raises(InputError, match="options"):
        make_planner("idm", nonsense=1)
    assert {"stationary", "constant_velocity", "log_replay", "idm", "direct"} <= set(PLANNERS)


def test_the_table_names_planners_by_their_own_names() -> None:
    for name, path in PLANNERS.items():
        found = load_object(path)
        assert issubclass(found, Planner) and found.name == name
        takes = "checkpoint" in inspect.signature(found).parameters
        assert takes == takes_checkpoint(name), name


def test_a_planner_cannot_ask_for_what_does_not_exist() -> None:
    with pytest.raises(InputError, match="future"):
        type("Cheat", (Planner,), {"requires": frozenset({"future"})})


def test_what_is_no_plan_is_refused() -> None:
    for wrong in (None, stand_still(), Plan(Trajectory(np.array([0.5]), np.zeros((1, 3))))):
        with pytest.raises(InputError):
            check_plan(wrong)
    with pytest.raises(InputError, match="NaN"):
        Trajectory(TIMES_S, np.full((8, 3), np.nan))


def test_log_replay_needs_its_log() -> None:
    planner = make_planner("log_replay")
    assert planner.oracle
    with pytest.raises(InputError, match="log"):
        planner.reset(0, None)


def test_idm_keeps_speed_on_a_free_road_and_stops_behind_a_standing_car() -> None:
    planner = IdmPlanner()
    free = planner.plan(seen(speed=10.0))
    assert last(free)[0] == pytest.approx(40.0, abs=0.5) and free.explanation is not None
    assert free.explanation.causes[0].kind == "free road"
    plan = planner.plan(seen(speed=8.0, agents=[car(22.0, 0.0)]))
    assert last(plan)[0] < 22.0 - 2.0 - 4.049 and plan.explanation is not None
    assert plan.explanation.causes[0].agent_id == "a0" and plan.explanation.longitudinal in ("stop", "slow down")


def test_idm_looks_only_at_its_corridor() -> None:
    planner = IdmPlanner()
    free = last(planner.plan(seen()))[0]
    assert last(planner.plan(seen(agents=[car(22.0, 3.0)])))[0] == free  # next lane
    assert last(planner.plan(seen(agents=[car(-8.0, 0.0, vx=9.0)])))[0] == free  # behind
    assert last(planner.plan(seen(agents=[car(22.0, 2.2)])))[0] < free  # sticks out into it
    driving, standing = (last(planner.plan(seen(agents=[car(22.0, 0.0, vx=v)])))[0] for v in (8.0, 0.0))
    assert driving > standing


def test_idm_waits_for_one_who_is_about_to_cross() -> None:
    crossing = np.array([[*car(20.0, 5.0, vy=-2.0, yaw=-np.pi / 2, category="pedestrian"), 0, 0, 0]])
    leaving = np.array([[*car(20.0, 5.0, vy=2.0, yaw=np.pi / 2), 0, 0, 0]])
    beside = np.array([[*car(20.0, 3.2, vx=8.0), 0, 0, 0]])
    assert [bool(occupancy(a, ROUTE, 1.4)[0][0]) for a in (crossing, leaving, beside)] == [True, False, False]


def lane(name: str, x0: float, x1: float, signal: str | None, is_intersection: bool) -> Lane:
    x = np.linspace(x0, x1, 8)
    line = [np.stack([x, np.full(8, y), np.zeros(8)], -1) for y in (0.0, 1.75, -1.75)]
    return Lane(name, line[0], line[1], line[2], is_intersection, 8.0, signal_id=signal)


@pytest.mark.parametrize("inside", [False, True])
def test_idm_stops_at_a_red_light_before_the_line(inside: bool) -> None:
    lanes = [lane("in", -20.0, 25.0, None if inside else "s", False),
             lane("cross", 25.0, 40.0, "s" if inside else None, True)]
    road = RoadMap("m", {one.id: one for one in lanes})
    stop = {state: IdmPlanner().plan(seen(map=road, signal_states={"s": state})) for state in (1, 3)}
    assert last(stop[1])[0] > 28.0 and last(stop[3])[0] < 25.0 - 4.049 + 0.1
    assert stop[3].explanation is not None and stop[3].explanation.causes[0].kind == "red light"


def test_a_light_for_another_road_is_not_ours() -> None:
    across = np.stack([np.full(8, 25.0), np.linspace(-20, 0, 8)], 1)
    against = np.stack([np.linspace(40, 10, 8), np.zeros(8)], 1)
    assert stop_arc(across, False, ROUTE) > 1e3 and stop_arc(against, True, ROUTE) > 1e3


def test_idm_takes_bends_slowly_and_comes_back_to_its_line() -> None:
    turn = np.linspace(0, np.pi / 2, 16)
    quarter = np.stack([39 + 10 * np.sin(turn), 10 - 10 * np.cos(turn)], 1)
    bend = np.concatenate([np.stack([np.arange(40.0), np.zeros(40)], 1), quarter])
    limit = speed_profile(np.asarray(bend), 12.0)
    assert limit[0] > limit[38] and 3.0 < limit[45] < 6.5
    shifted = IdmPlanner().plan(seen(speed=8.0, route=ROUTE - [0.0, 1.0]))
    side = shifted.trajectory.xyyaw[:, 1]
    assert side[-1] == pytest.approx(-1.0, abs=0.05) and side[0] > -0.6 and abs(shifted.trajectory.xyyaw[-1, 2]) < 0.01


def test_idm_works_without_map_agents_and_lights_but_not_without_a_route() -> None:
    bare = seen(agents=None, map=None, signal_states=None)
    assert last(IdmPlanner().plan(bare))[0] > 25.0
    with pytest.raises(InputError, match="route"):
        IdmPlanner().plan(seen(route=None))
