"""nuScenes in and out: what we write opens in the devkit, and comes back as the log that it was."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drive_wm.datasets.drive_folder import DriveFolderSource
from drive_wm.datasets.nuscenes import NuScenesSource, find_version, open_map
from drive_wm.datasets.nuscenes_map import lane_sides, read_expansion, simple_pieces
from drive_wm.datasets.nuscenes_map_writer import write_expansion
from drive_wm.datasets.nuscenes_writer import convert, write_nuscenes
from drive_wm.datasets.rigs import nuscenes_six
from drive_wm.datasets.town import generate
from drive_wm.geometry import pose_from_xyzyaw
from drive_wm.render import draw_log
from drive_wm.types import (
    ByteArray,
    Camera,
    Cause,
    Explanation,
    FrameError,
    InputError,
    IntArray,
    Lane,
    Log,
    Look,
    Marking,
    Poses,
    Prop,
    Rig,
    RoadMap,
    Signal,
    Text,
    Track,
)

pytest.importorskip("nuscenes", reason="needs pip install nuscenes-devkit")

CITY = "singapore-onenorth"
START_US = 1_000_000


def camera(name: str, yaw_rad: float) -> Camera:
    pose = pose_from_xyzyaw(np.array([1.5, 0.0, 1.6]), yaw_rad)
    pose[:3, :3] = pose[:3, :3] @ np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    return Camera(name, 32, 16, np.array([[20.0, 0, 16], [0, 20, 8], [0, 0, 1]]), pose)


RIG = Rig("two", (camera("CAM_FRONT", 0.0), camera("CAM_BACK", np.pi)))


class Painted:
    """In-memory frames at 10 Hz: a flat colour that tells the time; one of CAM_BACK is unreadable."""

    rendered = True

    def timestamps_us(self, camera: str) -> IntArray:
        return START_US + 100_000 * np.arange(41)

    def read(self, camera: str, timestamp_us: int) -> ByteArray:
        if camera == "CAM_BACK" and timestamp_us == START_US + 1_000_000:
            raise FrameError("unreadable")
        return np.full((16, 32, 3), (timestamp_us - START_US) // 20_000, np.uint8)


def straight(x: float, y: float, length: float) -> np.ndarray:
    return np.stack([np.linspace(x, x + length, 5), np.full(5, y), np.zeros(5)], -1)


def lane(name: str, x: float, y: float, length: float, **more: Any) -> Lane:
    return Lane(name, straight(x, y, length), straight(x, y + 1.75, length), straight(x, y - 1.75, length), **more)


def square(x: float, y: float, w: float, h: float) -> np.ndarray:
    return np.array([[x, y, 0], [x + w, y, 0], [x + w, y + h, 0], [x, y + h, 0]], np.float64)


def small_map() -> RoadMap:
    lanes = {"a": lane("a", -60, 0, 50, successors=("x",), left_neighbor="b", signal_id="light", speed_limit_mps=13.9),
             "b": lane("b", -60, 3.5, 50, right_neighbor="a"),
             "x": lane("x", -10, 0, 20, is_intersection=True, predecessors=("a",))}
    return RoadMap("small", lanes, (square(-60, -3, 70, 10),), (square(-10, -3, 20, 10),), (square(-15, -3, 3, 10),),
                   (square(-60, -6, 70, 3),), (square(-40, 7, 5, 5),),
                   (Marking("white dashed", straight(-60, 1.75, 50)), Marking("stop line", straight(-11, 0, 1), 0.3)),
                   (Prop("tree", np.array([-30.0, 12, 0]), 0.5, np.array([2.0, 2, 6]), (30, 120, 40)),
                    Prop("traffic_light", np.array([-10.0, -3, 0]), 3.1, np.array([0.3, 0.3, 4]), (9, 9, 9), "light")))


def small_log(name: str = "town/7", origin: tuple[float, float] = (0.0, 0.0)) -> Log:
    """Four seconds at 10 m/s along +x from (-55, 0), a car ahead, a pedestrian with a hole, a cyclist who leaves."""
    times = START_US + 50_000 * np.arange(81)
    t = (times - START_US) / 1e6
    ego = pose_from_xyzyaw(np.stack([-55 + 10 * t + origin[0], 0 * t + origin[1], 0 * t], -1), 0.02 * np.sin(t))
    at, seconds = START_US + 100_000 * np.arange(41), 0.1 * np.arange(41)


    def path(x: Any, y: Any, z: float) -> np.ndarray:
        return np.stack(np.broadcast_arrays(x, y, z, seconds)[:3], -1).astype(np.float64)

    tracks = (
        Track("car-1", "van", np.array([5.0, 2, 2.2]), at, path(-40 + 8 * seconds, 0.1 * seconds, 1.1), 0.1 * seconds,
               np.ones(41, bool), np.tile([8.0, 0.1], (41, 1)), (200, 10, 30), seconds > 2,
              np.where(seconds > 3, 1, 0).astype(np.int8)),
        Track("walker", "pedestrian", np.array([0.5, 0.6, 1.7]), at, path(-13.0, seconds, 0.85), 0 * at + np.pi / 2,
               (seconds < 1) | (seconds > 2.05)),
        Track("cyclist", "bicycle", np.array([1.8, 0.6, 1.6]), at[:21], path(-50 + 5 * seconds, -1.0, 0.8)[:21],
              np.full(21, -3.1), np.ones(21, bool), color_rgb=(1, 2, 3)))
    signals = (Signal("light", np.array([-10.0, -3, 4]), np.pi, START_US + np.array([0, 2_000_000]),
                      np.array([3, 1], np.int8), ("a",), np.array([[-11.0, -1.75, 0], [-11, 1.75, 0]])),)
    reason = Explanation("follow", "keep", (Cause("lead vehicle", "car-1", "van", (15.0, 0.0)),), "follow the van")
    texts = (Text(START_US, START_US + 10, "A van ahead"), Text(START_US, START_US, "two", "how many?"))
    return Log(name, "town", RIG, Poses(times, ego, np.ones(81, bool)), Painted(), tracks, small_map(), signals,
               Look("rain", 0.3, 5), texts, ((START_US, reason),), "Apache-2.0", "town", "val",
               {"seed": 7, "route": [[0.0, 1.5]]})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nuscenes([small_log()], tmp_path_factory.mktemp("nuscenes") / "set", sweep_hz=10, map_name=CITY)


@pytest.fixture(scope="module")
def back(written: Path) -> Log:
    return NuScenesSource(written).load("town/7")


def test_devkit_opens_all_tables(written: Path) -> None:
    nusc = NuScenesSource(written).nusc
    assert {name: len(getattr(nusc, name)) for name in nusc.table_names} == {
        "category": 23, "attribute": 8, "visibility": 4, "instance": 3, "sensor": 3, "calibrated_sensor": 3,
        "ego_pose": 81, "log": 1, "scene": 1, "sample": 9, "sample_data": 41 + 40 + 9,
        "sample_annotation": 9 + 6 + 5, "map": 1}
    assert sum(record["is_key_frame"] for record in nusc.sample_data) == 9 + 8 + 9  # one keyframe was unreadable
    sample = nusc.sample[0]
    path, boxes, intrinsics = nusc.get_sample_data(sample["data"]["CAM_FRONT"])
    assert Path(path).is_file() and intrinsics.shape == (3, 3)
    van = next(box for box in boxes if box.name == "vehicle.car")
    np.testing.assert_allclose(van.center, [0.0, 0.5, 13.5], atol=1e-6)  # 15 m ahead of the axle, the camera at 1.5 m
    np.testing.assert_allclose(nusc.box_velocity(nusc.sample_annotation[1]["token"])[:2], [8.0, 0.1], atol=1e-6)
    assert nusc.get("log", nusc.scene[0]["log_token"])["location"] == CITY
    assert all((written / record["filename"]).is_file() for record in nusc.sample_data)


def test_devkit_opens_map(written: Path) -> None:
    from nuscenes.map_expansion.map_api import NuScenesMap
    nusc, city = NuScenesSource(written).nusc, NuScenesMap(str(written), CITY)
    x, y, _ = nusc.get("ego_pose", nusc.sample_data[0]["ego_pose_token"])["translation"]
    closest = city.get_closest_lane(x, y, radius=3)
    points = np.array(city.discretize_lanes([closest], 0.5)[closest])
    assert np.abs(points[:, 1] - y).max() < 1e-6 and np.ptp(points[:, 0]) == pytest.approx(50)
    assert len(city.get_outgoing_lane_ids(closest)) == 1
    found = city.get_records_in_patch((x, y - 8, x + 70, y + 14))
    assert {layer: len(records) for layer, records in found.items() if records} == {
        "drivable_area": 1, "road_segment": 1, "lane": 2, "ped_crossing": 1, "walkway": 1, "stop_line": 1,
        "carpark_area": 1, "lane_divider": 1, "traffic_light": 1}
    half = city.get_map_mask((x + 20, y, 20, 40), 0.0, ["drivable_area"], (20, 40))[0]
    assert half.mean() == pytest.approx(0.5, abs=0.1)
    mask = nusc.map[0]["mask"]
    assert mask.is_on_mask(x, y).all() and not mask.is_on_mask(x, y + 20).any()


def test_devkit_reads_can_bus_and_predicts(written: Path) -> None:
    from nuscenes.can_bus.can_bus_api import NuScenesCanBus
    from nuscenes.prediction import PredictHelper
    can = NuScenesCanBus(str(written))
    counts = {name: len(can.get_messages("scene-0001", name)) for name in can.can_messages}
    assert counts == {"ms_imu": 401, "pose": 201, "steeranglefeedback": 401, "vehicle_monitor": 9, "zoesensors": 401,
                      "zoe_veh_info": 401}
    assert set(can.get_messages("scene-0001", "meta")) == set(can.can_messages)
    speeds = [message["vel"][0] for message in can.get_messages("scene-0001", "pose")]
    np.testing.assert_allclose(speeds, 10.0, atol=0.01)
    route, pose = can.get_pose_and_route("scene-0001")
    assert np.abs(route[0] - pose[0]).max() < 1e-9
    helper = PredictHelper(NuScenesSource(written).nusc)
    sample = helper.data.sample[4]["token"]
    van = helper.data.instance[0]["token"]
    future = helper.get_future_for_agent(van, sample, seconds=2, in_agent_frame=False)
    past = helper.get_past_for_agent(van, sample, seconds=2, in_agent_frame=False)
    np.testing.assert_allclose(np.diff(future[:, 0]), 4.0, atol=1e-6)
    assert past.shape == (4, 2) and helper.get_velocity_for_agent(van, sample) == pytest.approx(8.0, abs=0.01)


def test_comes_back_as_it_was(back: Log) -> None:
    log = small_log()
    for name in ("id", "source", "licence", "location", "split", "look", "texts", "reasons", "metadata"):
        assert getattr(back, name) == getattr(log, name)
    np.testing.assert_array_equal(back.ego.timestamps_us, log.ego.timestamps_us)
    np.testing.assert_allclose(back.ego.world_from_body, log.ego.world_from_body, atol=1e-9)
    assert back.rig.names == log.rig.names and back.frames.rendered
    for ours, theirs in zip(back.rig.cameras, log.rig.cameras, strict=True):
        np.testing.assert_allclose(ours.rig_from_camera, theirs.rig_from_camera, atol=1e-9)
        np.testing.assert_array_equal(ours.intrinsics, theirs.intrinsics)
    assert back.map is not None and log.map is not None
    assert list(back.map.lanes) == list(log.map.lanes)
    for key, kept in back.map.lanes.items():
        before = log.map.lanes[key]
        np.testing.assert_array_equal(kept.left_m, before.left_m)
        assert (kept.successors, kept.left_neighbor, kept.speed_limit_mps) == \
            (before.successors, before.left_neighbor, before.speed_limit_mps)
    assert [marking.style for marking in back.map.markings] == ["white dashed", "stop line"]
    assert [prop.signal_id for prop in back.map.props] == [None, "light"]
    assert [back.signals[0].state_at(START_US + s * 1_000_000) for s in (0, 1, 3)] == [3, 3, 1]
    assert back.signals[0].lane_ids == ("a",) and back.signals[0].state.dtype == np.int8


def test_tracks_at_keyframes(back: Log) -> None:
    log = small_log()
    assert [(track.id, track.category, track.color_rgb) for track in back.tracks] == \
        [("car-1", "van", (200, 10, 30)), ("walker", "pedestrian", None), ("cyclist", "bicycle", (1, 2, 3))]
    for ours, theirs in zip(back.tracks, log.tracks, strict=True):
        at = np.searchsorted(theirs.timestamps_us, ours.timestamps_us)
        np.testing.assert_array_equal(np.diff(ours.timestamps_us), 500_000)
        np.testing.assert_allclose(ours.position_m[ours.valid], theirs.position_m[at][ours.valid], atol=1e-9)
        np.testing.assert_allclose(ours.yaw_rad[ours.valid], theirs.yaw_rad[at][ours.valid], atol=1e-9)
        np.testing.assert_array_equal(ours.valid, theirs.valid[at])
        np.testing.assert_array_equal(ours.size_lwh_m, theirs.size_lwh_m)
    van, walker = back.tracks[0], back.tracks[1]
    assert van.brake is not None and van.brake.tolist() == [False] * 5 + [True] * 4
    assert van.indicator is not None and van.indicator.tolist() == [0] * 7 + [1] * 2
    assert walker.valid.tolist() == [True, True, False, False, False, True, True, True, True]


def test_images_of_keyframes_and_sweeps(back: Log) -> None:
    assert len(back.frames.timestamps_us("CAM_FRONT")) == 41 and len(back.frames.timestamps_us("CAM_BACK")) == 40
    image = back.frames.read("CAM_FRONT", START_US + 2_000_000)
    assert image.shape == (16, 32, 3) and np.abs(image.astype(int) - 100).max() <= 2
    with pytest.raises(FrameError, match="CAM_BACK"):
        back.frames.read("CAM_BACK", START_US + 1_000_000)


def test_truncated_image_is_a_frame_error(tmp_path: Path) -> None:
    root = write_nuscenes([small_log()], tmp_path / "set")
    log = NuScenesSource(root).load("town/7")
    path = next((root / "samples" / "CAM_FRONT").glob(f"*__{START_US}.jpg"))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(FrameError):
        log.frames.read("CAM_FRONT", START_US)


def test_without_extras_the_tables_and_the_expansion_speak(tmp_path: Path) -> None:
    """As a foreign data set is read: coordinates are nuScenes', lanes are seen through their polygons."""
    root = write_nuscenes([small_log()], tmp_path / "set", map_name=CITY)
    (root / "v1.0-drivewm" / "drive_wm" / "scene-0001.json").unlink()
    log = NuScenesSource(root).load("scene-0001")
    shift = log.ego.world_from_body[0, :2, 3] - [-55, 0]
    np.testing.assert_allclose(shift, [110, 56])  # the map reaches to (-60, -6), the margin is 50 m
    assert log.split == "val" and log.map is not None and len(log.tracks) == 3
    assert {track.category for track in log.tracks} == {"car", "pedestrian", "bicycle"}
    van = next(track for track in log.tracks if track.category == "car")
    assert van.velocity_mps is not None
    np.testing.assert_allclose(van.velocity_mps, np.tile([8.0, 0.1], (9, 1)), atol=1e-6)
    lanes = sorted(log.map.lanes.values(), key=lambda lane: (lane.is_intersection, lane.centerline_m[0, 1]))
    a, b, crossing = lanes
    np.testing.assert_allclose(a.left_m[:, 1] - shift[1], 1.75, atol=1e-6)
    np.testing.assert_allclose(a.right_m[:, 1] - shift[1], -1.75, atol=1e-6)
    assert a.successors == (crossing.id,) and crossing.predecessors == (a.id,) and crossing.is_intersection
    assert (a.left_neighbor, b.right_neighbor, a.right_neighbor, b.left_neighbor) == (b.id, a.id, None, None)
    assert len(log.map.drivable) == len(log.map.intersections) == len(log.map.crossings) == len(log.map.walkways) == 1
    assert len(log.signals) == 1 and log.signals[0].state.tolist() == [0]
    assert [(m.style, len(m.points_m)) for m in log.map.markings] == [("white dashed", 5), ("curb", 5)]


def test_several_logs_each_with_its_own_map(tmp_path: Path) -> None:
    far = replace(small_log("far", (500_000.0, 4_000_000.0)), map=None, signals=(), tracks=())
    told: list[str] = []
    root = write_nuscenes([small_log(), small_log("b"), far], tmp_path / "set", progress=told.append, can_bus=False)
    source = NuScenesSource(root)
    assert source.log_ids() == told == ["town/7", "b", "far"]
    assert sorted(p.stem for p in (root / "maps" / "expansion").iterdir()) == ["town-0001", "town-0002"]
    assert len(open_map(root, "town-0002").lane) == 2
    back = source.load("far")
    assert back.map is None
    np.testing.assert_allclose(back.ego.world_from_body, far.ego.world_from_body, atol=1e-6)
    assert not (root / "can_bus").exists() and [p.name for p in tmp_path.iterdir()] == ["set"]


def test_same_log_same_bytes(written: Path, tmp_path: Path) -> None:
    again = write_nuscenes([small_log()], tmp_path / "set", sweep_hz=10, map_name=CITY)
    files = sorted(p.relative_to(written) for p in written.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert all((written / file).read_bytes() == (again / file).read_bytes() for file in files)


def test_refusals_leave_nothing_behind(tmp_path: Path, written: Path) -> None:
    log = small_log()
    with pytest.raises(InputError, match="holds something already"):
        write_nuscenes([log], written)
    with pytest.raises(InputError, match="two logs"):
        write_nuscenes([log, log], tmp_path / "a")
    with pytest.raises(InputError, match="no log was given"):
        write_nuscenes([], tmp_path / "a")
    with pytest.raises(InputError, match="one map"):
        write_nuscenes([log, small_log("b")], tmp_path / "a", map_name=CITY)
    with pytest.raises(InputError, match="no valid ego pose"):
        write_nuscenes([replace(log, ego=replace(log.ego, valid=np.zeros(81, bool)))], tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_versions_are_found_or_listed(tmp_path: Path) -> None:
    root = write_nuscenes([small_log()], tmp_path / "set", can_bus=False)
    assert find_version(root) == find_version(f"{root}@v1.0-drivewm") == (root, "v1.0-drivewm")
    with pytest.raises(InputError, match="v1.0-drivewm"):
        find_version(f"{root}@v1.0-mini")
    (root / "v2").mkdir()
    (root / "v2" / "scene.json").write_text("[]")
    with pytest.raises(InputError, match="v1.0-drivewm, v2"):
        find_version(root)
    with pytest.raises(InputError, match="lacks .*ego_pose.json"):
        find_version(f"{root}@v2")
    with pytest.raises(InputError, match="town/7"):
        NuScenesSource(f"{root}@v1.0-drivewm").load("town/8")
    (root / "v1.0-drivewm" / "ego_pose.json").write_text("[]")
    with pytest.raises(InputError, match="must be whole"):
        NuScenesSource(f"{root}@v1.0-drivewm").load("town/7")
    (root / "v1.0-drivewm" / "ego_pose.json").write_text("[{")
    with pytest.raises(InputError, match="must be whole"):
        NuScenesSource(f"{root}@v1.0-drivewm").log_ids()


def test_frames_at_their_own_times(tmp_path: Path) -> None:
    """Keyframes take the time of the first camera; another camera's image has its own time and its own ego pose."""

    class Staggered(Painted):
        def timestamps_us(self, camera: str) -> IntArray:
            return super().timestamps_us(camera)[:-1] + (13_000 if camera == "CAM_FRONT" else 37_000)

    root = write_nuscenes([replace(small_log(), frames=Staggered())], tmp_path / "set", can_bus=False)
    nusc = NuScenesSource(root).nusc
    for sample in nusc.sample[:-1]:
        front, behind = (nusc.get("sample_data", sample["data"][name]) for name in ("CAM_FRONT", "CAM_BACK"))
        assert front["timestamp"] == sample["timestamp"] and behind["timestamp"] - front["timestamp"] == 24_000
        a, b = (nusc.get("ego_pose", record["ego_pose_token"])["translation"][0] for record in (front, behind))
        assert b - a == pytest.approx(0.24, abs=1e-6)
    assert len(NuScenesSource(root).load("town/7").ego) == 81


class Filmed(Painted):
    """Recorded at ``rate_hz``."""

    rendered = False

    def __init__(self, rate_hz: int) -> None:
        self.rate_hz = rate_hz

    def timestamps_us(self, camera: str) -> IntArray:
        return START_US + np.arange(4 * self.rate_hz + 1) * 1_000_000 // self.rate_hz


@pytest.mark.parametrize("rate_hz, sweep_hz, count", [
    (10, None, 41), (30, None, 41), (10, 5.0, 25), (10, 0.0, 9), (2, None, 9)])
def test_sweeps_between_keyframes(tmp_path: Path, rate_hz: int, sweep_hz: float | None, count: int) -> None:
    """All that was recorded up to 12 Hz, of more every k-th: at 30 Hz one in three, 10 Hz. At 5 of 10 Hz the images
    lie at 0, 0.2, 0.4, 0.5 s and so on, as each keyframe counts anew."""
    log = replace(small_log(), frames=Filmed(rate_hz), map=None, tracks=())
    root = write_nuscenes([log], tmp_path / "set", sweep_hz=sweep_hz, can_bus=False)
    source = NuScenesSource(root)
    times = source.load("town/7").frames.timestamps_us("CAM_FRONT")
    assert len(times) == count and set(times) <= set(Filmed(rate_hz).timestamps_us(""))
    if sweep_hz is None:
        assert np.ptp(np.diff(times)) <= 1
    record, chain = source.nusc.get("sample_data", source.nusc.sample[0]["data"]["CAM_FRONT"]), []
    while record["next"]:
        chain.append(record["is_key_frame"])
        assert (root / record["filename"]).is_file() and record["filename"].startswith(
            "samples/" if record["is_key_frame"] else "sweeps/")
        record = source.nusc.get("sample_data", record["next"])
    assert len(chain) == count - 1 and sum(chain) == 8


def test_drawn_frames_are_keyframes_unless_more_are_asked_for(tmp_path: Path) -> None:
    root = write_nuscenes([replace(small_log(), map=None)], tmp_path / "set", can_bus=False)
    assert len(NuScenesSource(root).load("town/7").frames.timestamps_us("CAM_FRONT")) == 9


def test_cycle_lanes_are_told_from_others(tmp_path: Path) -> None:
    """A cycle lane touches the lane beside it, yet nobody changes from one to the other."""
    lanes = {"car": lane("car", -60, 0, 50), "bike": lane("bike", -60, -3.5, 50, successors=("on",), kind="cycle"),
             "on": lane("on", -10, -3.5, 20, is_intersection=True, predecessors=("bike",), kind="cycle")}
    path, reach = tmp_path / "map.json", np.full(2, 100.0)
    write_expansion(RoadMap("m", lanes), (), "m", np.zeros(2), (100.0, 100.0), path)
    written = json.loads(path.read_text())
    assert sorted(record["lane_type"] for record in written["lane"]) == ["BIKE", "CAR"]
    back, _ = read_expansion(path, -reach, reach, "m")
    assert sorted((one.kind, one.is_intersection) for one in back.lanes.values()) == [
        ("cycle", False), ("cycle", True), ("vehicle", False)]
    assert not any(one.left_neighbor or one.right_neighbor for one in back.lanes.values())


@pytest.mark.parametrize("rotation", [[float("nan"), 0, 0, 0], [0, 0, 0, 0]])
def test_a_quaternion_that_is_none_costs_its_pose_or_names_its_camera(tmp_path: Path, rotation: list[float]) -> None:
    root = write_nuscenes([small_log()], tmp_path / "set", can_bus=False)

    def spoil(table: str, row: int) -> None:
        path = root / "v1.0-drivewm" / f"{table}.json"
        records = json.loads(path.read_text())
        records[row]["rotation"] = rotation
        path.write_text(json.dumps(records))

    spoil("ego_pose", 10)
    spoil("sample_annotation", 3)
    back = NuScenesSource(root).load("town/7")
    assert np.flatnonzero(~back.ego.valid).tolist() == [10] and np.flatnonzero(~back.tracks[0].valid).tolist() == [3]
    (root / "v1.0-drivewm" / "drive_wm" / "scene-0001.json").unlink()
    assert NuScenesSource(root).load("scene-0001").map is not None
    spoil("calibrated_sensor", 1)
    with pytest.raises(InputError, match="calibrated_sensor.json: camera CAM_BACK: a rotation quaternion") as caught:
        NuScenesSource(root).load("scene-0001")
    assert "\n" not in str(caught.value)


def test_polygons_with_holes_become_simple() -> None:
    from shapely.geometry import Polygon
    holes = [[(2, 2), (4, 2), (4, 4), (2, 4)], [(6, 6), (8, 6), (8, 8), (6, 8)]]
    ring = Polygon([(0, 0), (10, 0), (10, 10), (0, 10)], holes)
    pieces = [Polygon(piece) for piece in simple_pieces(ring)]
    assert sum(piece.area for piece in pieces) == pytest.approx(ring.area) and all(piece.is_valid for piece in pieces)


def test_lane_sides_of_an_arc() -> None:
    angle = np.linspace(0, 1.2, 40)
    arc = lambda radius, at: np.stack([radius * np.sin(at), 20 - radius * np.cos(at)], -1)  # noqa: E731
    left, right = lane_sides(arc(20, angle), np.concatenate([arc(18, angle), arc(22, angle)[::-1]]))
    np.testing.assert_allclose(np.hypot(left[:, 0], left[:, 1] - 20), 18, atol=0.01)
    np.testing.assert_allclose(np.hypot(right[:, 0], right[:, 1] - 20), 22, atol=0.01)


def test_real_sample(shared_data: Path) -> None:
    source = NuScenesSource(shared_data / "nuscenes_one_sample")
    assert source.log_ids() == ["scene-0061"]
    log = source.load("scene-0061")
    assert sorted(log.rig.names) == ["CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT", "CAM_FRONT", "CAM_FRONT_LEFT",
                                     "CAM_FRONT_RIGHT"]
    assert all((camera.width, camera.height) == (1600, 900) for camera in log.rig.cameras)
    front = log.rig.camera("CAM_FRONT")
    assert front.intrinsics[0, 0] == pytest.approx(1266.417) and front.rig_from_camera[0, 2] > 0.999
    assert len(log.ego) == 7 and log.tracks == () and log.map is None and log.location == "singapore-onenorth"
    assert "construction" in log.texts[0].text
    times = {name: log.frames.timestamps_us(name) for name in log.rig.names}
    assert all(len(at) == 1 and at[0] in log.ego.timestamps_us for at in times.values())
    assert log.frames.read("CAM_FRONT", int(times["CAM_FRONT"][0])).shape == (900, 1600, 3)


def test_real_sample_can_be_written_again(shared_data: Path, tmp_path: Path) -> None:
    log = NuScenesSource(shared_data / "nuscenes_one_sample").load("scene-0061")
    root = write_nuscenes([log], tmp_path / "set")
    back = NuScenesSource(root).load("scene-0061")
    samples = json.loads((root / "v1.0-drivewm" / "sample.json").read_text())
    assert [sample["timestamp"] for sample in samples] == log.frames.timestamps_us("CAM_BACK").tolist()
    np.testing.assert_allclose(back.ego.world_from_body, log.ego.world_from_body, atol=1e-9)
    assert {name: back.frames.timestamps_us(name).tolist() for name in back.rig.names} == \
        {name: log.frames.timestamps_us(name).tolist() for name in log.rig.names}


def test_recorded_drive_becomes_nuscenes(shared_data: Path, tmp_path: Path) -> None:
    """A dash camera without map or boxes: poses with height and tilt, and uneven times, survive."""
    root = convert(f"drive_folder:{shared_data / 'drives'}", tmp_path / "set", ["karlsruhe_0001"])
    log = DriveFolderSource(shared_data / "drives").load("karlsruhe_0001")
    back = NuScenesSource(root).load("karlsruhe_0001")
    np.testing.assert_allclose(back.ego.world_from_body, log.ego.world_from_body, atol=1e-6)
    camera = back.rig.names[0]
    times = back.frames.timestamps_us(camera)
    recorded = log.frames.timestamps_us(camera)
    np.testing.assert_array_equal(times, recorded)  # ten a second
    difference = back.frames.read(camera, times[3]).astype(int) - log.frames.read(camera, times[3])
    assert np.abs(difference).mean() < 2 and back.metadata == dict(log.metadata)


def test_town_comes_back_and_is_drawn_alike(tmp_path: Path) -> None:
    """Reasons, lights, colours and props survive: at a keyframe the copy is drawn as the town is, pixel by pixel."""
    log = generate(3, duration_s=3.0, rig=nuscenes_six(56, 32).subset(["CAM_FRONT", "CAM_BACK_LEFT"]))
    back = NuScenesSource(write_nuscenes([log], tmp_path / "set")).load(log.id)
    assert back.reasons == log.reasons and back.look == log.look and back.metadata == log.metadata
    assert back.map is not None and log.map is not None and len(back.map.props) == len(log.map.props)
    for track in back.tracks:
        assert track.color_rgb and (track.category == "pedestrian" or track.brake is not None)
    at = log.start_us + 1_500_000
    expected, drawn = draw_log(log, at, style="layout"), draw_log(back, at, style="layout")
    for camera in log.rig.names:
        np.testing.assert_array_equal(drawn[camera], expected[camera])
        recorded = back.frames.read(camera, at).astype(int) - log.frames.read(camera, at)
        assert np.abs(recorded).mean() < 5
