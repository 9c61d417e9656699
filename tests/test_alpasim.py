"""AlpaSim's contract: frames and units by hand, then both ends over real gRPC where carla-driver-interface is there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from drive_wm.eval.alpasim_cameras import Eye, RadialLens, eye_of
from drive_wm.eval.alpasim_server import Session, serving
from drive_wm.eval.loop import simulate
from drive_wm.eval.sensors import LayoutSensors
from drive_wm.eval.vehicle import make_vehicle
from drive_wm.geometry import pose_from_xyyaw, pose_from_xyzyaw
from drive_wm.planners import alpasim_wire as wire
from drive_wm.planners.alpasim import AlpasimPlanner
from drive_wm.planners.base import TIMES_S, Planner
from drive_wm.planners.baselines import ConstantVelocity, LogReplay
from drive_wm.planners.idm import IdmPlanner
from drive_wm.planners.registry import PLANNERS, make_planner
from drive_wm.types import Camera, FloatArray, InputError, Log, Observation, Plan, Rig, Trajectory

FORWARD = np.array([[0.0, 0, 1, 1.5], [-1, 0, 0, 0.0], [0, -1, 0, 1.4], [0, 0, 0, 1]])  # optical axis along the rig's x
needs_package = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("carla_driver_interface") is None,
    reason="needs carla-driver-interface: pip install 'drive-wm[alpasim]'")


def message(value: Any) -> Any:
    """A dict as protobuf would show it."""
    if isinstance(value, dict):
        return SimpleNamespace(**{k: message(v) for k, v in value.items()})
    return [message(v) for v in value] if isinstance(value, list) else value


def camera(width: int = 8, height: int = 4) -> Camera:
    return Camera("CAM_FRONT", width, height, np.array([[4.0, 0, 4], [0, 4.0, 2], [0, 0, 1]]), FORWARD)


# --- frames, units, times -----------------------------------------------------------------------------------------


def test_a_camera_that_looks_ahead_has_alpasims_quaternion() -> None:
    said = wire.camera_message(camera(), "camera_front")
    assert said["rig_to_camera"]["vec"] == {"x": 1.5, "y": 0.0, "z": 1.4}
    q = said["rig_to_camera"]["quat"]
    assert [q[k] for k in "wxyz"] == pytest.approx([0.5, -0.5, 0.5, -0.5])
    lens = said["intrinsics"]
    assert (lens["resolution_w"], lens["resolution_h"], lens["logical_id"]) == (8, 4, "camera_front")
    assert lens["opencv_pinhole_param"] == {"focal_length_x": 4.0, "focal_length_y": 4.0, "principal_point_x": 4.0,
                                            "principal_point_y": 2.0}
    np.testing.assert_allclose(wire.pose_of(message(said["rig_to_camera"])), FORWARD, atol=1e-12)


def test_an_unset_quaternion_is_no_rotation() -> None:
    unset = message({"vec": wire.vector((1, 2, 3)), "quat": {"w": 0.0, "x": 0.0, "y": 0.0, "z": 0.0}})
    np.testing.assert_array_equal(wire.pose_of(unset), pose_from_xyzyaw(np.array([1.0, 2, 3]), 0.0))


def test_a_plan_in_local_is_seen_from_the_rig() -> None:
    """The ego stands at (10, 5) and looks along +y: 2 m ahead is (10, 7), 1 m to its left is (9, 5)."""
    here = pose_from_xyyaw(np.array([10.0, 5.0, np.pi / 2]))
    ahead = pose_from_xyyaw(np.array([[10.0, 5.0, np.pi / 2], [10.0, 7.0, np.pi / 2], [9.0, 5.0, np.pi]]))
    said = message(wire.trajectory_message(np.array([1_000_000, 1_500_000, 3_000_000]), ahead))
    plan = wire.plan_of(said, 1_000_000, here)
    assert plan is not None
    np.testing.assert_allclose(plan.times_s, [0.5, 2.0])  # the pose of now is not a plan
    np.testing.assert_allclose(plan.xyyaw, np.array([[2, 0, 0], [0, 1, np.pi / 2]]), atol=1e-12)


def test_a_plan_that_ends_now_means_hold_and_one_with_nan_is_refused() -> None:
    here = np.eye(4)
    assert wire.plan_of(message({"poses": []}), 5, here) is None
    assert wire.plan_of(message(wire.trajectory_message(np.array([5]), np.eye(4)[None])), 5, here) is None
    wrong = message(wire.trajectory_message(np.array([5, 1_000_005]), np.stack([np.eye(4)] * 2)))
    wrong.poses[1].pose.vec.x = float("nan")
    with pytest.raises(InputError, match="NaN"):
        wire.plan_of(wrong, 5, here)


def observation(yaw: float = 0.0, **more: Any) -> Observation:
    """10 m/s straight on at 2 Hz, at (1e6, 2e6) of a world of its own."""
    rig = Rig("test", (camera(),))
    past = np.array([[-10.0, 0, 0], [-5, 0, 0], [0, 0, 0]])
    times = np.array([1_000_000, 1_500_000, 2_000_000])
    return Observation(times, rig, past, 10.0, np.tile([10.0, 0.02], (2, 1)),
                       pose_from_xyyaw(np.array([1e6, 2e6, yaw])), **more)


def test_local_starts_where_the_drive_does_with_the_worlds_axes() -> None:
    seen = observation(yaw=np.pi / 2)
    poses = wire.past_poses(seen, seen.world_from_rig[:3, 3])
    np.testing.assert_allclose(poses[:, :2, 3], [[0, -10], [0, -5], [0, 0]], atol=1e-9)
    np.testing.assert_allclose(poses[:, :2, 0], [[0, 1]] * 3, atol=1e-12)  # heads along +y at all times


def test_dynamic_states_are_in_the_rig_frame() -> None:
    """10 m/s on a curvature of 0.02 is 0.2 rad/s, and 2 m/s2 to the left."""
    *_, now = wire.state_messages(observation(accel_mps2=-1.5))
    assert now["linear_velocity"] == {"x": 10.0, "y": 0.0, "z": 0.0}
    assert now["angular_velocity"]["z"] == pytest.approx(0.2)
    assert now["linear_acceleration"]["x"] == -1.5 and now["linear_acceleration"]["y"] == pytest.approx(2.0)


def test_images_keep_their_colours() -> None:
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, :4, 0], image[:, 4:, 2] = 255, 255  # red on the left, blue on the right
    np.testing.assert_array_equal(wire.decode_image(wire.encode_image(image, "png"), "c"), image)
    assert np.abs(wire.decode_image(wire.encode_image(image, "jpeg"), "c").astype(int) - image)[:, [0, 7]].max() < 60
    with pytest.raises(InputError, match="camera c: 3 bytes that are no PNG or JPEG"):
        wire.decode_image(b"abc", "c")


# --- lenses -------------------------------------------------------------------------------------------------------


def test_a_radial_lens_puts_45_degrees_where_its_polynomial_says() -> None:
    angles = np.linspace(0, 1.2, 4096)
    lens = RadialLens(200, 100, np.array([100.0, 50.0]), np.eye(2), angles, 80 * angles)
    right, up = lens.ray2pixel(np.array([[1.0, 0, 1], [0, -1, 1]]))
    np.testing.assert_allclose(right, [100 + 80 * np.pi / 4, 50], atol=1e-6)
    np.testing.assert_allclose(up, [100, 50 - 80 * np.pi / 4], atol=1e-6)
    np.testing.assert_allclose(lens.pixel2ray(right), np.array([1, 0, 1]) / np.sqrt(2), atol=1e-6)


def proto(kind: str, **parameters: Any) -> Any:
    from carla_driver_interface.protocol import AvailableCamera

    lens = {"resolution_w": 200, "resolution_h": 100, kind: parameters}
    return AvailableCamera(logical_id="c", intrinsics=lens, rig_to_camera=wire.pose_message(FORWARD))


CENTER = {"principal_point_x": 100.0, "principal_point_y": 50.0}
FOCAL = {"focal_length_x": 80.0, "focal_length_y": 80.0}


@needs_package
@pytest.mark.parametrize("kind, parameters, radius", [
    ("ftheta_param", {"angle_to_pixeldist_poly": [0, 80], "max_angle": 1.4}, 80 * 0.5),
    ("ftheta_param", {"pixeldist_to_angle_poly": [0, 1 / 80], "reference_poly": 1}, 80 * 0.5),
    ("opencv_fisheye_param", {**FOCAL, "radial_coeffs": [0.1], "max_angle": 1.2}, 80 * 0.5 * (1 + 0.1 * 0.5**2)),
    ("opencv_pinhole_param", {**FOCAL, "radial_coeffs": [0.1]}, 80 * np.tan(0.5) * (1 + 0.1 * np.tan(0.5) ** 2)),
])
def test_declared_lenses_see_half_a_radian_where_their_formulas_say(kind: str, parameters: dict[str, Any],
                                                                    radius: float) -> None:
    eye = eye_of(proto(kind, **CENTER, **parameters))
    assert eye.lens is not None and eye.camera.width == 200
    ray = np.array([[np.sin(0.5), 0.0, np.cos(0.5)]])
    np.testing.assert_allclose(eye.lens.ray2pixel(ray), [[100 + radius, 50]], atol=1e-4)
    np.testing.assert_allclose(eye.lens.pixel2ray(eye.lens.ray2pixel(ray)), ray, atol=1e-4)


@needs_package
def test_a_white_dot_on_a_fisheye_lies_where_the_pinhole_looks_at_it() -> None:
    """Seen at 0.5 rad to the right, in an image half as large as declared."""
    eye = eye_of(proto("ftheta_param", **CENTER, angle_to_pixeldist_poly=[0, 80], max_angle=1.4))
    image = np.zeros((50, 100, 3), np.uint8)
    image[24:26, 69:71] = 255  # around (140, 50) of the declared 200 x 100
    seen = eye.see(wire.encode_image(image, "png"))[..., 0].astype(float)
    row, column = ((np.indices(seen.shape) + 0.5) * seen).sum((1, 2)) / seen.sum()
    k = eye.camera.intrinsics
    assert column == pytest.approx(k[0, 2] + k[0, 0] * np.tan(0.5), abs=0.7)
    assert row == pytest.approx(k[1, 2], abs=0.7)


@needs_package
def test_plain_pinholes_pass_and_windshields_do_not() -> None:
    plain = proto("opencv_pinhole_param", **CENTER, **FOCAL)
    eye = eye_of(plain)
    assert eye.lens is None and eye.camera.intrinsics[0].tolist() == [80, 0, 100]
    plain.intrinsics.bivariate_windshield_model_param.SetInParent()
    with pytest.raises(InputError, match="camera c is behind a windshield"):
        eye_of(plain)


# --- what a served planner sees -----------------------------------------------------------------------------------


class Recorder(Planner):
    """Writes down what it sees, and stays."""

    name = "recorder"
    requires = frozenset({"frames", "route", "agents"})
    history_steps, rate_hz = 3, 2.0

    def __init__(self) -> None:
        self.seen: list[Observation] = []

    def plan(self, observation: Observation) -> Plan:
        self.seen.append(observation)
        return Plan(Trajectory(TIMES_S.copy(), np.zeros((len(TIMES_S), 3))))


class Path_(SimpleNamespace):
    """Timed poses, with the little that carla_driver_interface's Trajectory is asked for."""

    def interpolate(self, timestamp_us: int) -> Any:
        return self.poses[self.timestamps_us.index(timestamp_us)]


def state(times_us: list[int], poses: FloatArray, speed: float, **more: Any) -> Any:
    """carla_driver_interface's SessionState as far as it is looked at; one 8 x 4 camera."""
    axis = SimpleNamespace(x=speed, y=0.0, z=0.0)
    states = [SimpleNamespace(linear_velocity=axis, linear_acceleration=axis) for _ in times_us]
    given = {"uuid": "u", "seed": 3, "scene_id": "", "cameras": {"CAM_FRONT": None}, "lock": threading.Lock(),
             "ego_trajectory": Path_(timestamps_us=times_us, poses=[SimpleNamespace(as_matrix=lambda p=p: p)
                                                                   for p in poses]),
             "dynamic_states": states, "frame_history": {"CAM_FRONT": []}, "route_waypoints_in_rig": np.zeros((0, 3)),
             "route_timestamp_us": 0, "ground_truth_in_rig": None}
    return SimpleNamespace(**{**given, **more})


def session(planner: Planner, given: Any, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr("drive_wm.eval.alpasim_server.eye_of", lambda declared: Eye(camera(), camera()))
    return Session(planner, given)


def frame(at_us: int, value: int) -> Any:
    data = wire.encode_image(np.full((4, 8, 3), value, np.uint8), "png")
    return SimpleNamespace(frame_end_us=at_us, image_bytes=data)


def test_a_past_from_before_the_session_is_its_first_speed_carried_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told of 0.2 s at 5 m/s along +y, up to (0, 1): 1 s ago it would have been at (0, -4), 5 m behind."""
    poses = pose_from_xyyaw(np.array([[0.0, 0, np.pi / 2], [0, 1, np.pi / 2]]))
    seen = session(ConstantVelocity(), state([1_000_000, 1_200_000], poses, 5.0), monkeypatch).observe(1_200_000)
    assert seen.speed_mps == 5.0 and seen.timestamps_us.tolist() == [1_200_000] and seen.frames is None
    planner = Recorder()
    seen = session(planner, state([1_000_000, 1_200_000], poses, 5.0), monkeypatch).observe(1_200_000)
    np.testing.assert_allclose(seen.ego_xyyaw, np.array([[-5, 0, 0], [-2.5, 0, 0], [0, 0, 0]]), atol=1e-9)
    np.testing.assert_allclose(seen.actions, [[5, 0], [5, 0]], atol=1e-9)
    assert seen.agents is not None and seen.agents.shape == (3, 0, 12) and seen.route is None


def test_where_no_speed_is_told_it_comes_from_the_poses(monkeypatch: pytest.MonkeyPatch) -> None:
    poses = pose_from_xyyaw(np.array([[0.0, 0, 0], [0.5, 0, 0], [1.5, 0, 0]]))
    seen = session(ConstantVelocity(), state([0, 100_000, 200_000], poses, 0.0), monkeypatch).observe(200_000)
    assert seen.speed_mps == pytest.approx(10.0) and seen.accel_mps2 is None


def test_each_time_gets_its_nearest_image_and_what_is_too_far_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wanted at 1.0, 1.5 and 2.0 s within 0.25 s; there are 0.7 (too early), 1.4, 1.7 and 2.0 s."""
    frames = [frame(700_000, 70), frame(1_400_000, 140), frame(1_700_000, 170), frame(2_000_000, 200)]
    given = state([2_000_000], np.eye(4)[None], 5.0, frame_history={"CAM_FRONT": frames})
    seen = session(Recorder(), given, monkeypatch).observe(2_000_000)
    assert seen.frames is not None and seen.frames_valid is not None
    assert seen.frames_valid[:, 0].tolist() == [False, True, True]
    assert seen.frames["CAM_FRONT"][:, 0, 0, 0].tolist() == [0, 140, 200]


def test_without_an_image_of_now_the_answer_is_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    planner = Recorder()
    blind = session(planner, state([2_000_000], np.eye(4)[None], 5.0), monkeypatch)
    assert blind.plan(2_000_000) is None and not planner.seen
    assert session(planner, state([], np.zeros((0, 4, 4)), 5.0), monkeypatch).plan(0) is None


def test_a_route_sent_earlier_is_seen_from_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent at the origin: 10 m and 20 m ahead. The ego has since driven 4 m and turned left by 90 degrees."""
    poses = pose_from_xyyaw(np.array([[0.0, 0, 0], [4, 0, np.pi / 2]]))
    given = state([1_000_000, 2_000_000], poses, 4.0, route_timestamp_us=1_000_000,
                  route_waypoints_in_rig=np.array([[10.0, 0, 0], [20, 0, 0]]))
    seen = session(Recorder(), given, monkeypatch).observe(2_000_000)
    assert seen.route is not None
    np.testing.assert_allclose(seen.route, [[0, -6], [0, -16]], atol=1e-9)


def test_an_oracle_drives_the_recorded_path_where_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded: 5 m/s along the rig's x from (7, 0), heading +y."""
    here = pose_from_xyyaw(np.array([[7.0, 0, np.pi / 2]]))
    truth = Path_(timestamps_us=[0, 10_000_000],
                  poses=[SimpleNamespace(as_matrix=lambda x=x: pose_from_xyyaw(np.array([x, 0.0, 0.0])))
                         for x in (0.0, 50.0)])
    plan = session(LogReplay(), state([0], here, 5.0, ground_truth_in_rig=truth), monkeypatch).plan(0)
    assert plan is not None
    np.testing.assert_allclose(plan.trajectory.xyyaw[:, 0], 5.0 * TIMES_S, atol=1e-9)
    with pytest.raises(InputError, match="log_replay knows the future, and the runtime did not send it"):
        session(LogReplay(), state([0], here, 5.0), monkeypatch).plan(0)


# --- over gRPC: a runtime of theirs drives ours --------------------------------------------------------------------


def fake_loop(port: int, **options: Any) -> Any:
    from carla_driver_interface.testing import FakeCamera, FakeLoop

    return FakeLoop(f"127.0.0.1:{port}", [FakeCamera(width=64, height=36)], **options)


@needs_package
def test_their_loop_drives_constant_velocity_straight_on() -> None:
    with serving(ConstantVelocity) as port, fake_loop(port, initial_speed_mps=5.0) as loop:
        result = loop.run(21)
    np.testing.assert_allclose(result.ego.positions[-1], [10.0, 0, 0], atol=1e-4)  # 2 s at 5 m/s
    assert result.steps == 21 and result.speeds_mps[-1] == pytest.approx(5.0, abs=1e-3)


@needs_package
def test_their_loop_drives_idm_back_to_the_middle_of_the_lane() -> None:
    with serving(IdmPlanner) as port:
        with fake_loop(port, initial_speed_mps=5.0, initial_lateral_offset_m=1.0) as loop:
            result = loop.run(60)
    offset = np.abs(result.lateral_offsets_m)
    assert offset[0] == 1.0 and offset[-1] < 0.3 and (np.diff(offset) < 0.01).all()
    assert result.speeds_mps[-1] > 6.0  # a free road


@needs_package
def test_two_runtimes_at_once_get_a_planner_each() -> None:
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder())
        return made[-1]

    with serving(make) as port, ExitStack() as stack:
        loops = [stack.enter_context(fake_loop(port, initial_speed_mps=v)) for v in (0.0, 8.0)]
        threads = [threading.Thread(target=loop.run, args=(6,)) for loop in loops]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        before = len(made)
        loops[0].run(1)  # closed sessions have given their planners back
    assert before == len(made) <= 2 and sum(len(planner.seen) for planner in made) == 13
    last = made[0].seen[-1]
    assert last.frames is not None and last.rig.names == ("camera_front",)
    picture = last.frames["camera_front"][-1]
    assert picture.shape == (36, 64, 3)
    assert picture[0, 32, 2] > 180 > picture[35, 32, 2]  # blue sky above grey road: RGB, and the right way up
    assert np.ptp(last.rig.cameras[0].rig_from_camera[:3, 3] - [2.5, 0, 1.5]) < 1e-6
    np.testing.assert_allclose(last.rig.cameras[0].rig_from_camera[:3, :3], FORWARD[:3, :3], atol=1e-6)


@needs_package
@pytest.mark.parametrize("name", sorted(set(PLANNERS) - {"log_replay", "imagine"}))  # tested below; takes seconds
def test_every_planner_can_be_served(name: str) -> None:
    """0.3 s on a straight road from 5 m/s: none goes backwards, off its lane or faster than 10 m/s."""
    with serving(lambda: make_planner(name)) as port, fake_loop(port, initial_speed_mps=5.0) as loop:
        path = loop.run(4).ego.positions
    assert 0.0 <= path[-1, 0] < 5.0 and (np.diff(path[:, 0]) > -1e-3).all() and np.abs(path[:, 1]).max() < 0.2


@needs_package
def test_a_runtime_that_declares_no_revision_is_alpasims_own() -> None:
    """Its cameras are optical frames, its egomotion comes in batches; asked to, it sends what was recorded.

    The ego heads along +y at (3, 0); recorded are 5 m/s straight on, and the answer is in ``local``.
    """
    import grpc
    from carla_driver_interface import protocol as p

    class Watched(LogReplay):
        def plan(self, observation: Observation) -> Plan:
            seen.append(observation)
            return super().plan(observation)

    seen: list[Observation] = []
    ego = pose_from_xyyaw(np.array([[3, -0.5, np.pi / 2], [3, 0, np.pi / 2]]))
    recorded = pose_from_xyyaw(np.array([[0.0, 0, 0], [50, 0, 0]]))
    truth = wire.trajectory_message(np.array([100_000, 10_100_000]), recorded)
    with serving(Watched) as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = p.EgodriverServiceStub(channel)
        stub.start_session(p.DriveSessionRequest(session_uuid="u", rollout_spec={
            "vehicle": {"available_cameras": [wire.camera_message(camera(), "front")]}}))
        stub.submit_egomotion_observation(p.RolloutEgoTrajectory(
            session_uuid="u", trajectory=wire.trajectory_message(np.array([0, 100_000]), ego),
            dynamic_states=[{"linear_velocity": wire.vector((5, 0, 0))}] * 2))
        stub.submit_recording_ground_truth(p.GroundTruthRequest(
            session_uuid="u", ground_truth={"timestamp_us": 100_000, "trajectory": truth}))
        answer = stub.drive(p.DriveRequest(session_uuid="u", time_now_us=100_000, time_query_us=200_000)).trajectory
        stub.close_session(p.DriveSessionCloseRequest(session_uuid="u"))
    np.testing.assert_allclose(seen[0].rig.camera("front").rig_from_camera, FORWARD, atol=1e-6)
    assert seen[0].speed_mps == 5.0
    assert [entry.timestamp_us for entry in answer.poses] == [100_000, *(100_000 + 500_000 * np.arange(1, 9))]
    np.testing.assert_allclose([[e.pose.vec.x, e.pose.vec.y] for e in answer.poses],
                               np.stack([np.full(9, 3.0), 2.5 * np.arange(9)], -1), atol=1e-4)


@needs_package
def test_a_planners_failure_reaches_the_runtime_in_words() -> None:
    import grpc

    class Broken(ConstantVelocity):
        name = "broken"

        def plan(self, observation: Observation) -> Plan:
            return "left"  # type: ignore[return-value]

    with serving(Broken) as port, fake_loop(port) as loop, pytest.raises(grpc.RpcError, match="returned str"):
        loop.run(1)


@needs_package
def test_what_cannot_be_served_is_refused_in_one_line() -> None:
    class Seer(ConstantVelocity):
        requires = frozenset({"layout"})

    with pytest.raises(InputError, match="requires the layout"), serving(Seer):
        pass
    with pytest.raises(InputError, match="mode 'x', expected one of alpasim"), serving(ConstantVelocity, mode="x"):
        pass
    with serving(ConstantVelocity) as port:
        with pytest.raises(InputError, match=f"port {port} on 127.0.0.1 cannot be had"):
            with serving(ConstantVelocity, port):
                pass


# --- over gRPC: an egodriver of theirs in our loop -----------------------------------------------------------------


def straight_log() -> Log:
    """A generated drive of 12 s."""
    from drive_wm.datasets.sources import open_source

    return open_source("town:110003").load("town-110003")


@pytest.fixture(scope="module")
def town() -> Log:
    return straight_log()


def drive(log: Log, planner: Planner, seconds: float = 2.0) -> Any:
    small = log.rig.subset([log.rig.names[0]]).resized(64, 36)
    return simulate(log, planner, LayoutSensors(), vehicle=make_vehicle("zoe"), rig=small, duration_s=seconds)


@needs_package
def test_a_planner_behind_the_wire_drives_as_it_does_here(town: Log) -> None:
    """idm without agents, map and lights, from route and egomotion alone."""
    class RouteOnly(IdmPlanner):
        name = "route_only"
        requires = frozenset({"route"})

    here = drive(town, RouteOnly())
    with serving(RouteOnly) as port:
        planner = AlpasimPlanner.named(f"alpasim:127.0.0.1:{port}")
        there = drive(town, planner)
        planner.close()
    assert not there.plan_errors and there.planner == f"alpasim:127.0.0.1:{port}"
    np.testing.assert_allclose(there.ego_xyyaw, here.ego_xyyaw, atol=2e-3)  # the wire is in single precision
    assert np.hypot(*(there.ego_xyyaw[-1] - there.ego_xyyaw[0])[:2]) > 1.0


@needs_package
def test_images_arrive_behind_the_wire_to_the_last_bit(town: Log) -> None:
    class Eyes(Recorder):
        requires = frozenset({"frames"})

        def plan(self, observation: Observation) -> Plan:
            super().plan(observation)
            return ConstantVelocity().plan(observation)

    here, there = Eyes(), Eyes()
    first = drive(town, here, 1.0)
    with serving(lambda: there) as port:
        second = drive(town, AlpasimPlanner(f"127.0.0.1:{port}", rate_hz=2.0, history_s=1.0), 1.0)
    assert not second.plan_errors and len(here.seen) == len(there.seen) == 2
    for a, b in zip(here.seen, there.seen):
        (name,) = a.rig.names
        assert a.frames is not None and b.frames is not None and a.frames_valid is not None
        np.testing.assert_array_equal(a.frames[name], b.frames[name])
        np.testing.assert_array_equal(a.timestamps_us, b.timestamps_us)
        np.testing.assert_allclose(a.ego_xyyaw, b.ego_xyyaw, atol=1e-3)
        np.testing.assert_allclose(a.rig.cameras[0].rig_from_camera, b.rig.cameras[0].rig_from_camera, atol=1e-6)
        np.testing.assert_allclose(a.rig.cameras[0].intrinsics, b.rig.cameras[0].intrinsics)
        assert a.speed_mps == pytest.approx(b.speed_mps, abs=1e-5)
    np.testing.assert_allclose(first.ego_xyyaw, second.ego_xyyaw, atol=1e-3)


@pytest.fixture
def theirs() -> Iterator[Any]:
    """Serves carla_driver_interface's own policies: theirs(policy, **options) -> address."""
    from carla_driver_interface.server import serving as serve_theirs

    with ExitStack() as stack:
        yield lambda policy, **options: "127.0.0.1:%d" % stack.enter_context(
            serve_theirs(policy, host="127.0.0.1", **options))


@needs_package
@pytest.mark.parametrize("mode", ["carla", "alpasim"])
def test_their_route_follower_drives_in_our_loop(town: Log, theirs: Any, mode: str) -> None:
    from carla_driver_interface.policies import RouteFollowerPolicy

    class Watched(RouteFollowerPolicy):
        def on_session_close(self, session: Any) -> None:
            closed.append(session)

    closed: list[Any] = []
    with_names = f"alpasim:{theirs(Watched(), mode=mode)}?camera_front={town.rig.names[0]}&images=jpeg"
    planner = make_planner(with_names)
    rollout = drive(town, planner)
    assert isinstance(planner, AlpasimPlanner) and "route_follower" in planner.version
    planner.close()
    assert not rollout.plan_errors and np.hypot(*(rollout.ego_xyyaw[-1] - rollout.ego_xyyaw[0])[:2]) > 1.0
    (session,) = closed
    assert list(session.cameras) == ["camera_front"] and session.scene_id == ""  # never told which scene it is
    times = session.ego_trajectory.timestamps_us
    assert np.diff(times).tolist() == [100_000] * (len(times) - 1) and times[-1] - times[0] == 1_500_000 + 1_500_000
    assert np.abs(session.ego_trajectory.positions[15]).max() < 1e-3  # its local begins where the drive does


@needs_package
def test_what_is_wrong_with_an_egodriver_is_said_in_one_line(town: Log, theirs: Any) -> None:
    from carla_driver_interface.policies import ConstantSpeedPolicy

    class Picky(ConstantSpeedPolicy):
        def on_session_start(self, session: Any) -> None:
            if "camera_front_wide_120fov" not in session.cameras:
                raise ValueError("needs the camera camera_front_wide_120fov")

    address = theirs(Picky())
    said = drive(town, make_planner(f"alpasim:{address}"), 1.0).plan_errors[0]
    assert "needs the camera camera_front_wide_120fov" in said and "?THEIR_CAMERA=OUR_CAMERA" in said
    assert not drive(town, make_planner(
        f"alpasim:{address}?camera_front_wide_120fov={town.rig.names[0]}"), 1.0).plan_errors
    wrong = drive(town, make_planner(f"alpasim:{address}?camera_front_wide_120fov=CAM_NONE"), 1.0).plan_errors[0]
    assert "has no camera 'CAM_NONE'" in wrong


@needs_package
@pytest.mark.parametrize("text, match", [
    ("alpasim:127.0.0.1:1", "egodriver at 127.0.0.1:1 does not answer; start it first"),
    ("alpasim:somewhere", "expected an address such as alpasim:localhost:50051"),
    ("alpasim:127.0.0.1:1?rate_hz=fast", "rate_hz='fast' in an egodriver's address, expected a number"),
    ("alpasim:127.0.0.1:1?rate_hz=0", "rate_hz 0, history_s 1.5, timeout_s 60, expected finite numbers above 0"),
    ("alpasim:127.0.0.1:1?images=gif", "images 'gif', expected one of png, jpeg"),
])
def test_an_address_that_is_no_egodriver(text: str, match: str) -> None:
    with pytest.raises(InputError, match=match.replace("?", r"\?")):
        make_planner(text)


def versioned(major: int, name: str, metadata: tuple[tuple[str, str], ...] = (), service: bool = True) -> Any:
    """A bare server that answers get_version only, as any implementation of the contract might."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc
    from carla_driver_interface import protocol as p

    class Bare(p.EgodriverServiceServicer):  # type: ignore[misc]
        def get_version(self, request: Any, context: Any) -> Any:
            context.send_initial_metadata(metadata)
            return p.VersionId(version_id=name, grpc_api_version={"major": major, "minor": 7})

    server = grpc.server(ThreadPoolExecutor(1))
    if service:
        p.add_EgodriverServiceServicer_to_server(Bare(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"127.0.0.1:{port}"


@needs_package
@pytest.mark.parametrize("name, metadata, revision", [
    ("vam-driver-0.4", (), 2),  # AlpaSim's own declare none, and speak AlpaSim's convention
    ("mine-carla-driver-interface-1.2.0", (), 1),
    ("mine-carla-driver-interface-2.3.1", (("carla-driver-interface-contract", "2"),), 2),
])
def test_the_revision_of_the_contract(name: str, metadata: Any, revision: int) -> None:
    server, address = versioned(0, name, metadata)
    assert AlpasimPlanner(address).revision == revision
    server.stop(None).wait()


@needs_package
@pytest.mark.parametrize("bare, match", [
    ({"major": 9, "name": "new"}, r"'new' at .* speaks AlpaSim's API 9\.7, expected 0\.x"),
    ({"major": 0, "name": "n", "metadata": (("carla-driver-interface-contract", "7"),)}, "revision 7"),
    ({"major": 0, "name": "n", "service": False}, "a gRPC server, but not of egodriver.EgodriverService"),
])
def test_other_versions_are_refused(bare: dict[str, Any], match: str) -> None:
    server, address = versioned(**bare)
    with pytest.raises(InputError, match=match):
        AlpasimPlanner(address)
    server.stop(None).wait()


# --- the command --------------------------------------------------------------------------------------------------


@needs_package
def test_the_command_serves_until_told_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "drive_wm.cli", "serve", "--planner", "idm", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=os.environ | {
            "PYTHONPATH": str(Path(__file__).resolve().parents[1])}) as process:
        assert process.stdout is not None
        note, line = process.stdout.readline(), process.stdout.readline()
        assert note == "note: AlpaSim's contract carries no agents, map, signals: idm drives without\n"
        assert line.startswith("serving idm on 127.0.0.1:") and line.endswith("(alpasim mode); Ctrl-C ends it\n")
        with fake_loop(int(line.split(":")[1].split()[0]), initial_speed_mps=5.0) as loop:
            assert loop.run(3).ego.positions[-1, 0] > 0.9
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.skipif(__import__("importlib.util").util.find_spec("carla_driver_interface") is not None,
                    reason="the extra is installed")
def test_without_the_extra_one_line_says_how_to_get_it() -> None:
    with pytest.raises(InputError, match=r"pip install .drive-wm\[alpasim\]"):
        make_planner("alpasim:localhost:50051")
    with pytest.raises(InputError, match=r"pip install .drive-wm\[alpasim\]"), serving(ConstantVelocity):
        pass
