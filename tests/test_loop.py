from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drive_wm.datasets.sources import open_source
from drive_wm.eval.evaluate import aggregate, bootstrap, drive, evaluate
from drive_wm.eval.loop import log_route, simulate
from drive_wm.eval.parts import step_columns
from drive_wm.eval.protocols import PROTOCOLS
from drive_wm.eval.sensors import RENDERERS, LayoutSensors, RecordedSensors, SensorRenderer, make_renderer
from drive_wm.eval.vehicle import make_vehicle
from drive_wm.geometry import integrate_actions, pose_from_xyyaw, xyyaw_from_pose
from drive_wm.planners.base import TIMES_S, Planner, stand_still
from drive_wm.planners.baselines import ConstantVelocity, LogReplay, Stationary
from drive_wm.planners.idm import IdmPlanner
from drive_wm.render import AgentBoxes
from drive_wm.types import (
    ByteArray,
    Camera,
    FloatArray,
    InputError,
    IntArray,
    Lane,
    Log,
    Observation,
    Plan,
    Poses,
    Prop,
    Rig,
    RoadMap,
    Rollout,
    Track,
    Trajectory,
)

PROTOCOL = replace(PROTOCOLS["drive@1.0"], duration_s=6.0)
ZOE = make_vehicle("zoe")
RATE = 10


class Grey:
    """Frames whose brightness is their time, at 2 Hz."""

    rendered = True

    def timestamps_us(self, camera: str) -> IntArray:
        return np.arange(0, 13) * 1_000_000

    def read(self, camera: str, timestamp_us: int) -> ByteArray:
        return np.full((8, 16, 3), timestamp_us // 100_000, np.uint8)


def rig() -> Rig:
    forward = np.array([[0, 0, 1, 1.5], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]], float)
    camera = Camera("front", 16, 8, np.array([[8.0, 0, 8], [0, 8.0, 4], [0, 0, 1]]), forward)
    return Rig("one", (camera,))


def track(name: str, x: FloatArray, y: float, category: str = "car") -> Track:
    n = len(x)
    position = np.stack([x, np.full(n, y), np.full(n, 0.75)], -1)
    times = np.arange(n) * 100_000
    return Track(name, category, np.array([4.0, 1.8, 1.5]), times, position, np.zeros(n), np.ones(n, bool))


def make_log(curvature: float = 0.0, seconds: float = 10.0, speed: float = 8.0) -> Log:
    """Straight for 3 s, then into an arc; a car 30 m ahead at the same speed and one parked beside the road."""
    n = round(seconds * RATE)
    actions = np.tile([speed, 0.0], (n, 1))
    actions[:, 1] = curvature * np.clip((np.arange(n) - 30) / 10, 0.0, 1.0)
    xyyaw = np.concatenate([np.zeros((1, 3)), integrate_actions(np.zeros(3), actions, 1 / RATE)])
    times = np.arange(n + 1) * (1_000_000 // RATE)
    area = np.array([[-50, -60, 0], [250, -60, 0], [250, 60, 0], [-50, 60, 0]], float)
    x = np.array([-50.0, 250.0])
    edge = {y: np.stack([x, np.full(2, y), np.zeros(2)], -1) for y in (0.0, 2.0, -2.0)}
    road = RoadMap("field", {"a": Lane("a", edge[0.0], edge[2.0], edge[-2.0])}, (area,))
    tracks = (track("lead", 30 + speed * times / 1e6, 0.0), track("parked", np.full(n + 1, 60.0), 20.0))
    return Log("made", "test", rig(), Poses(times, pose_from_xyyaw(xyyaw), np.ones(n + 1, bool)), Grey(), tracks, road)


def run(planner: Planner, log: Log | None = None, renderer: SensorRenderer | None = None, **options: Any) -> Rollout:
    return simulate(log or make_log(), planner, renderer, vehicle=ZOE, **{"duration_s": 6.0, **options})


class Listener(Stationary):
    """Keeps what it was shown."""

    name = "listener"
    requires = frozenset({"agents", "map", "signals", "route", "frames"})
    history_steps = 4

    def reset(self, seed: int, log: Log | None = None) -> None:
        self.heard: list[Observation] = []
        assert log is None

    def plan(self, observation: Observation) -> Plan:
        self.heard.append(observation)
        return super().plan(observation)


class Broken(Planner):
    """Fails in one way at its third plan."""

    name = "broken"

    def __init__(self, how: str) -> None:
        self.how, self.asked = how, 0

    def reset(self, seed: int, log: Log | None = None) -> None:
        self.asked = 0

    def plan(self, observation: Observation) -> Plan:
        self.asked += 1
        if self.asked < 3:
            return ConstantVelocity().plan(observation)
        if self.how == "raise":
            raise RuntimeError("no idea")
        if self.how == "shape":
            return Plan(Trajectory(TIMES_S, np.zeros((8, 2))))
        if self.how == "nan":
            plan = Plan(stand_still())
            plan.trajectory.xyyaw[2, 0] = np.nan  # after the type's own check
            return plan
        return "left"  # type: ignore[return-value]


class Counting(LayoutSensors):
    calls = 0

    def render(self, *arguments: Any, **named: Any) -> tuple[dict[str, ByteArray], bool]:
        self.calls += 1
        return super().render(*arguments, **named)


# --- driving ---


@pytest.mark.parametrize("curvature", [0.0, 0.02, -0.03])
def test_log_replay_stays_on_the_log(curvature: float) -> None:
    rollout = run(LogReplay(), make_log(curvature))
    gap = np.hypot(*(rollout.ego_xyyaw - rollout.logged_xyyaw)[:, :2].T)
    assert gap.max() < 0.5 and rollout.completed and not rollout.plan_errors
    perfect = run(LogReplay(), make_log(curvature), tracking="perfect")
    assert np.hypot(*(perfect.ego_xyyaw - perfect.logged_xyyaw)[:, :2].T).max() < 0.1


def test_the_drive_starts_as_the_log_was() -> None:
    rollout = run(ConstantVelocity())
    np.testing.assert_allclose(rollout.ego_xyyaw[0], [16.0, 0.0, 0.0], atol=1e-9)
    assert rollout.ego_speed_mps[0] == pytest.approx(8.0) and len(rollout.timestamps_us) == 61
    assert rollout.agent_ids == ("lead", "parked") and rollout.agents_xyyaw[0, 0, 0] == pytest.approx(46.0)
    assert [step for step, plan in enumerate(rollout.plans) if plan is not None] == list(range(0, 60, 5))


def test_the_order_of_planners_is_as_it_must_be() -> None:
    names = ["stationary", "constant_velocity", "log_replay", "idm"]
    results = evaluate([make_log(), make_log(0.02)], names, [], PROTOCOL)
    mean = {row["planner"]: row["total"] for row in aggregate([r.row for r in results], PROTOCOL)}
    assert mean["stationary"] == 0.0 and mean["log_replay"] > 0.95
    assert all(total > mean["stationary"] for name, total in mean.items() if name != "stationary")


def test_a_drive_ends_with_the_log_and_says_what_does_not_fit() -> None:
    assert len(run(Stationary(), duration_s=60.0).timestamps_us) == 81
    for option, value in (("start_s", 9.5), ("replan_s", 0.25), ("replan_s", 0.3)):
        options: dict[str, Any] = {option: value}
        with pytest.raises(InputError):
            run(Stationary(), **options)
    with pytest.raises(InputError, match="history"):
        run(Listener(), renderer=LayoutSensors(), start_s=0.5)
    with pytest.raises(InputError, match="renderer"):
        run(Listener())


# --- what a planner sees ---


def test_the_observation_holds_what_was_asked_for_and_is_in_the_right_frame() -> None:
    planner = Listener()
    run(planner, renderer=LayoutSensors())
    first = planner.heard[0]
    np.testing.assert_array_equal(first.timestamps_us, [500_000, 1_000_000, 1_500_000, 2_000_000])
    np.testing.assert_allclose(first.ego_xyyaw[:, 0], [-12.0, -8.0, -4.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(first.actions, np.tile([8.0, 0.0], (3, 1)), atol=1e-6)
    assert first.agents is not None and first.frames is not None and first.route is not None
    assert first.agent_ids == ("lead", "parked") and first.frames["front"].shape == (4, 8, 16, 3)
    np.testing.assert_allclose(first.agents[:, 0, :7], np.tile([30.0, 0, 0, 8.0, 0, 4.0, 1.8], (4, 1)), atol=1e-6)
    assert first.route[0, 0] == pytest.approx(0.0, abs=2.5) and first.route[-1, 0] > 100.0


def test_nothing_is_filled_that_was_not_asked_for_and_no_image_is_drawn() -> None:
    seen: list[Observation] = []

    class Blind(Stationary):
        def plan(self, observation: Observation) -> Plan:
            seen.append(observation)
            return super().plan(observation)

    renderer = Counting()
    run(Blind(), renderer=renderer)
    for value in ("frames", "agents", "map", "route", "signal_states", "layout"):
        assert getattr(seen[0], value) is None
    assert renderer.calls == 0


def plan_points(rollout: Rollout) -> FloatArray:
    assert rollout.plans[0] is not None
    return rollout.plans[0].trajectory.xyyaw


def other_future(log: Log, now_us: int) -> Log:
    """The same log up to now, and another afterwards."""
    later = log.ego.timestamps_us > now_us
    poses = log.ego.world_from_body.copy()
    poses[later, :3, 3] += [3.0, 7.0, 1.0]
    tracks = []
    for one in log.tracks:
        position = one.position_m.copy()
        position[one.timestamps_us > now_us] += [-15.0, 2.0, 0.0]
        tracks.append(replace(one, position_m=position))
    return replace(log, ego=replace(log.ego, world_from_body=poses), tracks=tuple(tracks))


def test_the_first_plan_does_not_depend_on_the_future() -> None:
    log = replace(make_log(0.02), metadata={"route": [[0.0, 0.0], [40.0, 0.0], [80.0, 5.0]]})
    changed = other_future(log, 2_000_000)
    for make in (Stationary, ConstantVelocity, IdmPlanner):
        np.testing.assert_array_equal(plan_points(run(make(), log)), plan_points(run(make(), changed)))
    assert not np.array_equal(plan_points(run(LogReplay(), log)), plan_points(run(LogReplay(), changed)))
    heard = []
    for one in (log, changed):
        planner = Listener()
        run(planner, one, LayoutSensors())
        heard.append(planner.heard[0])
    a, b = heard
    for name in ("ego_xyyaw", "actions", "world_from_rig", "agents", "agents_valid", "route", "speed_mps"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert a.frames is not None and b.frames is not None
    np.testing.assert_array_equal(a.frames["front"], b.frames["front"])


def test_a_route_from_the_logs_path_tells_no_times() -> None:
    route = log_route(make_log(0.02))
    spacing = np.linalg.norm(np.diff(route, axis=0), axis=1)
    assert np.ptp(spacing) < 0.05 and np.linalg.norm(route[-1] - make_log(0.02).ego.world_from_body[-1, :2, 3]) > 55.0
    fast = log_route(make_log(0.0, seconds=10.0, speed=8.0))
    slow = log_route(make_log(0.0, seconds=20.0, speed=4.0))
    np.testing.assert_allclose(fast[-1], slow[-1], atol=1e-6)
    with pytest.raises(InputError, match="route"):
        log_route(replace(make_log(), metadata={"route": ["nowhere"]}))


# --- failures ---


@pytest.mark.parametrize("how", ["raise", "nan", "shape", "type"])
def test_a_failing_planner_is_recorded_braked_and_scored_zero(how: str) -> None:
    planner = Broken(how)
    result = drive(make_log(), planner, None, PROTOCOL, seed=0)
    rollout = result.rollout
    assert list(rollout.plan_errors) == [10] and planner.asked == 3
    assert rollout.completed and len(rollout.ego_xyyaw) == 61
    assert rollout.ego_speed_mps[-1] < 0.1 and np.isfinite(rollout.ego_xyyaw).all()
    assert result.row["total"] == 0.0 and result.row["total_valid"] and result.row["errors"]
    assert aggregate([result.row], PROTOCOL)[0]["failed"] == 1


def test_a_planner_that_cannot_even_start_is_recorded_too() -> None:
    class Unready(Stationary):
        def reset(self, seed: int, log: Log | None = None) -> None:
            raise FileNotFoundError("weights")

    result = drive(make_log(), Unready(), None, PROTOCOL, seed=0)
    assert result.row["planner"] == "Unready" and result.row["errors"] == ["step 0: FileNotFoundError: weights"]
    assert result.row["total"] == 0.0 and result.rollout.ego_speed_mps[-1] < 0.1


def test_two_planners_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="told apart"):
        evaluate([make_log()], ["idm", "drive_wm.planners.idm:IdmPlanner"], [], PROTOCOL)


# --- sensors ---


def test_recorded_images_are_trusted_only_near_the_log() -> None:
    planner = Listener()
    rollout = run(planner, renderer=RecordedSensors())
    frames = planner.heard[0].frames
    assert frames is not None and frames["front"][:, 0, 0, 0].tolist() == [0, 10, 10, 20]  # within half a period
    assert rollout.render_valid[0] and not rollout.render_valid[-1]
    assert run(LogReplay(), renderer=RecordedSensors()).render_valid.all()


def test_a_missing_camera_is_marked_and_not_invented() -> None:
    class Dark(Grey):
        def timestamps_us(self, camera: str) -> IntArray:
            return np.zeros(0, dtype=np.int64)

    planner = Listener()
    rollout = run(planner, replace(make_log(), frames=Dark()), RecordedSensors())
    assert planner.heard[0].frames_valid is not None and not planner.heard[0].frames_valid.any()
    assert not rollout.render_valid.any()


def test_no_image_from_within_a_building_is_trusted() -> None:
    log = make_log()
    assert log.map is not None
    house = Prop("building", np.array([45.0, 0.0, 0.0]), 0.3, np.array([10.0, 10.0, 8.0]), (200, 200, 200))

    class Driver(ConstantVelocity):
        requires = frozenset({"frames"})

    rollout = run(Driver(), replace(log, map=replace(log.map, props=(house,))), LayoutSensors())
    near = np.abs(rollout.ego_xyyaw[:, 0] - 45.0)
    assert not rollout.render_valid[near < 1.0].any() and rollout.render_valid[near > 12.0].all()
    assert run(Driver(), log, LayoutSensors()).render_valid.all()


def test_layout_is_drawn_of_the_past_for_a_planner_that_wants_it() -> None:
    class Sketcher(Listener):
        requires = frozenset({"layout"})

    planner = Sketcher()
    run(planner)
    layout = planner.heard[0].layout
    assert layout is not None and layout["front"].shape == (4, 8, 16, 3) and layout["front"].std() > 0


def test_a_recorded_drive_without_map_or_agents(shared_data: Path) -> None:
    source = open_source(f"drive_folder:{shared_data / 'drives' / 'karlsruhe_0005'}")
    log = source.load(source.log_ids()[0])

    class Watcher(LogReplay):
        requires = frozenset({"frames"})

    result = drive(log, Watcher(), RecordedSensors(), PROTOCOL, seed=0)
    assert result.row["trusted"] and not result.row["on_road_valid"] and result.row["total"] > 0.9
    gap = np.hypot(*(result.rollout.ego_xyyaw - result.rollout.logged_xyyaw)[:, :2].T)
    assert gap.max() < 1.0


def test_renderers_by_name() -> None:
    assert isinstance(make_renderer("layout"), LayoutSensors) and set(RENDERERS) == {"recorded", "layout", "world"}
    with pytest.raises(InputError, match="did you mean 'layout'"):
        make_renderer("layuot")
    with pytest.raises(InputError, match="map"):
        run(Listener(), replace(make_log(), map=None), LayoutSensors())


def test_the_renderer_hears_where_the_ego_is_and_what_it_did() -> None:
    heard: list[tuple[int, FloatArray, FloatArray]] = []

    class Ear(SensorRenderer):
        name = "ear"

        def reset(self, log: Log, rig: Rig, history_timestamps_us: IntArray, seed: int) -> None:
            self.rig, self.past = rig, history_timestamps_us

        def render(self, timestamp_us: int, world_from_rig: FloatArray, agents: AgentBoxes,
                   signal_states: Mapping[str, int], action: FloatArray | None) -> tuple[dict[str, ByteArray], bool]:
            assert action is not None
            heard.append((timestamp_us, xyyaw_from_pose(world_from_rig), action))
            return {"front": np.zeros((8, 16, 3), np.uint8)}, True

    class Driver(ConstantVelocity):
        requires = frozenset({"frames"})

    renderer = Ear()
    rollout = run(Driver(), renderer=renderer)
    assert renderer.past.tolist() == [2_000_000]
    assert [t for t, _, _ in heard] == list(range(2_500_000, 8_000_001, 500_000))
    np.testing.assert_allclose(heard[0][1], rollout.ego_xyyaw[5])
    np.testing.assert_allclose(heard[3][2], [8.0, 0.0], atol=0.05)


# --- the same again ---


def test_same_seed_same_bytes_and_images_on_demand() -> None:
    images: list[bytes] = []

    def keep(step: int, timestamp_us: int, frames: dict[str, ByteArray], agents: AgentBoxes, pose: FloatArray) -> None:
        images.append(frames["front"].tobytes())

    a, b = (run(IdmPlanner(), make_log(0.02), LayoutSensors(), seed=3, on_frames=keep) for _ in range(2))
    for name in ("ego_xyyaw", "ego_speed_mps", "ego_accel_mps2", "ego_steer_rad", "agents_xyyaw", "render_valid"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes(), name
    assert len(images) == 26 and images[:13] == images[13:] and len(set(images)) > 10


def test_rows_tables_and_steps_agree() -> None:
    results = evaluate([make_log()], ["constant_velocity"], ["layout"], PROTOCOL, seed=1)
    row = results[0].row
    assert row["renderer"] == "none" and row["seed"] == 1
    assert row["protocol"] == "drive@1.0" and len(row["config_hash"]) == 12
    steps = step_columns(results[0].rollout, results[0].scores)
    assert {len(column) for column in steps.values()} == {61} == {row["steps"]}
    assert steps["planned"][0] and steps["on_road_step"][0] == 1.0
    table = aggregate([row, {**row, "total": 0.0}], PROTOCOL)
    assert table[0]["logs"] == 2 and table[0]["total"] == pytest.approx(row["total"] / 2)
    assert table[0]["total_low"] <= table[0]["total"] <= table[0]["total_high"]
    assert np.isnan(bootstrap(np.zeros(0), 0)[0]) and bootstrap(np.ones(5), 0) == (1.0, 1.0, 1.0)
    with pytest.raises(InputError, match="planner"):
        evaluate([make_log()], [], [], PROTOCOL)
