"""The generated town through the whole of nuscenes-devkit, and the round trip of drives."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from drive_wm.cli import run
from drive_wm.datasets.argoverse2 import Argoverse2Source
from drive_wm.datasets.drive_folder import DriveFolderSource
from drive_wm.datasets.nuscenes import NuScenesSource, open_map
from drive_wm.datasets.nuscenes_map_writer import with_points
from drive_wm.datasets.nuscenes_names import CATEGORY_OF, TABLES, attribute_name, category_name, token
from drive_wm.datasets.nuscenes_writer import write_nuscenes
from drive_wm.datasets.rigs import nuscenes_six
from drive_wm.datasets.town import generate
from drive_wm.geometry import interpolate_poses, wrap_angle, xyyaw_from_pose
from drive_wm.types import Log, Track

pytest.importorskip("nuscenes", reason="needs pip install nuscenes-devkit")

CITY = "singapore-onenorth"
SEED = 110_000


@pytest.fixture(scope="module")
def town() -> Log:
    return generate(SEED, duration_s=8.0, rig=nuscenes_six(56, 32))


@pytest.fixture(scope="module")
def root(town: Log, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nuscenes([town], tmp_path_factory.mktemp("nuscenes") / "set", map_name=CITY)


@pytest.fixture(scope="module")
def nusc(root: Path) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    return NuScenesSource(root).nusc


@pytest.fixture(scope="module")
def city(root: Path) -> Any:
    return open_map(root, CITY)


def places(nusc: Any) -> list[tuple[float, float]]:
    """Where the ego is at every sample."""
    heads = [nusc.get("sample_data", sample["data"]["LIDAR_TOP"]) for sample in nusc.sample]
    return [tuple(nusc.get("ego_pose", head["ego_pose_token"])["translation"][:2]) for head in heads]


# --- the devkit ---------------------------------------------------------------------------------------------------


def test_tables(root: Path, nusc: Any, town: Log) -> None:
    assert sorted(path.stem for path in (root / "v1.0-drivewm").glob("*.json")) == sorted([*TABLES, "splits"])
    assert len(nusc.sample) == 17 and len(nusc.sensor) == 7
    assert sum(record["sensor_modality"] == "camera" for record in nusc.sample_data) == 17 * 6
    assert json.loads((root / "v1.0-drivewm" / "splits.json").read_text()) == {"test": ["scene-0001"]}
    known = {name for name in CATEGORY_OF}
    assert {instance["category_token"] for instance in nusc.instance} <= {token("category", name) for name in known}
    boxes = nusc.get_boxes(nusc.sample[3]["data"]["CAM_FRONT"])
    assert len(boxes) == len(nusc.sample[3]["anns"]) == len([t for t in town.tracks if t.valid[15]])


def test_map_lanes(nusc: Any, city: Any, town: Log) -> None:
    """Lanes by place, as centrelines and by what they lead to, as the town has them."""
    assert town.map is not None
    lanes = town.map.lanes
    names = {token(town.id, "lane_connector" if lane.is_intersection else "lane", lane.id): lane
             for lane in lanes.values()}
    assert {record["token"] for record in city.lane + city.lane_connector} == set(names)
    shift = np.array(places(nusc)[0]) - town.ego.world_from_body[0, :2, 3]
    for made in [record["token"] for record in city.lane][::9]:
        lane = names[made]
        points = np.array(city.discretize_lanes([made], 1.0)[made])[:, :2] - shift
        gap = np.abs(np.linalg.norm(points[[0, -1]] - lane.centerline_m[[0, -1], :2], axis=1))
        assert gap.max() < 0.05
        assert {names[out].id for out in city.get_outgoing_lane_ids(made)} == set(lane.successors) & set(lanes)
        assert {names[out].id for out in city.get_incoming_lane_ids(made)} == set(lane.predecessors) & set(lanes)
    assert len(city.discretize_centerlines(2.0)) == len(lanes)
    for x, y in places(nusc):
        closest = names[city.get_closest_lane(x, y, radius=4)]
        line = closest.centerline_m[:, :2] + shift
        assert np.linalg.norm(line - (x, y), axis=1).min() < 2.5


def test_map_layers_and_next_roads(nusc: Any, city: Any) -> None:
    on_lane = 0
    for x, y in places(nusc):
        layers = city.layers_on_point(x, y)
        assert layers["drivable_area"] and layers["walkway"] == ""
        if layers["lane"] or layers["road_segment"]:
            following = city.get_next_roads(x, y)
            on_lane += bool(following["lane"] or following["road_segment"])
    assert on_lane >= len(nusc.sample) // 2
    found = city.get_records_in_radius(*places(nusc)[0], 80.0, ["lane", "ped_crossing", "walkway", "lane_divider"])
    assert all(found[layer] for layer in ("lane", "walkway"))
    mask = city.get_map_mask((*places(nusc)[0], 40, 40), 0.0, ["drivable_area", "walkway"], (80, 80))
    assert mask.shape == (2, 80, 80) and mask[0, 40, 40] == 1 and mask[1, 40, 40] == 0


def test_can_bus(root: Path, nusc: Any, town: Log) -> None:
    from nuscenes.can_bus.can_bus_api import NuScenesCanBus

    can = NuScenesCanBus(str(root))
    poses = can.get_messages("scene-0001", "pose")
    steps = np.linalg.norm(np.diff(town.ego.world_from_body[:, :2, 3], axis=0), axis=1)
    assert len(poses) == 401 and sum(np.hypot(*np.diff([p["pos"][:2] for p in poses], axis=0).T)) == \
        pytest.approx(steps.sum(), rel=0.01)
    assert max(message["vel"][0] for message in poses) == pytest.approx(10 * steps.max(), rel=0.05)
    assert set(can.get_messages("scene-0001", "meta")) == set(can.can_messages)
    route, driven = can.get_pose_and_route("scene-0001")
    assert len(route) and len(driven) == 401


def test_prediction_helper(nusc: Any, city: Any, town: Log) -> None:
    from nuscenes.prediction import PredictHelper, convert_global_coords_to_local

    helper = PredictHelper(nusc)
    sample = nusc.sample[4]
    known = {t.id: t for t in town.tracks if t.velocity_mps is not None and t.valid.all()}
    moving = max(known.values(), key=lambda t: float(np.linalg.norm(np.asarray(t.velocity_mps), axis=1).min()))
    instance = token(town.id, "instance", moving.id)
    future = helper.get_future_for_agent(instance, sample["token"], seconds=2, in_agent_frame=False)
    shift = np.array(places(nusc)[0]) - town.ego.world_from_body[0, :2, 3]
    np.testing.assert_allclose(future, moving.position_m[[25, 30, 35, 40], :2] + shift, atol=1e-6)
    past = helper.get_past_for_agent(instance, sample["token"], seconds=2, in_agent_frame=True)
    assert past.shape == (4, 2) and past[0, 1] < 0  # behind it, in the agent's frame, whose y looks ahead
    speed = float(np.linalg.norm(np.asarray(moving.velocity_mps)[20]))
    assert helper.get_velocity_for_agent(instance, sample["token"]) == pytest.approx(speed, abs=1.0)
    record = helper.get_sample_annotation(instance, sample["token"])
    local = convert_global_coords_to_local(future, record["translation"], record["rotation"])
    np.testing.assert_allclose(local, helper.get_future_for_agent(instance, sample["token"], 2, True), atol=1e-6)


@pytest.mark.slow
def test_renderings(nusc: Any, city: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The devkit's own pictures: a window is all that a machine without a screen cannot give them."""
    for name in ("namedWindow", "moveWindow", "imshow", "destroyAllWindows"):
        monkeypatch.setattr(cv2, name, lambda *_: None)
    monkeypatch.setattr(cv2, "waitKey", lambda *_: -1)
    sample, scene = nusc.sample[5], nusc.scene[0]["token"]
    x, y = places(nusc)[5]
    nusc.render_sample_data(sample["data"]["CAM_FRONT"], out_path=str(tmp_path / "data.png"), verbose=False)
    nusc.render_sample_data(sample["data"]["LIDAR_TOP"], out_path=str(tmp_path / "lidar.png"), verbose=False)
    nusc.render_annotation(sample["anns"][0], out_path=str(tmp_path / "annotation.png"))
    nusc.render_scene_channel(scene, "CAM_FRONT", out_path=str(tmp_path / "channel.avi"))
    nusc.render_egoposes_on_map(CITY, out_path=str(tmp_path / "poses.png"))
    city.render_egoposes_on_fancy_map(nusc, [scene], out_path=str(tmp_path / "fancy.png"), verbose=False)
    city.render_map_in_image(nusc, sample["token"], camera_channel="CAM_FRONT", out_path=str(tmp_path / "over.png"),
                             verbose=False)
    figures = {"patch": city.render_map_patch((x - 50, y - 50, x + 50, y + 50), city.non_geometric_layers)[0],
               "mask": city.render_map_mask((x, y, 80, 80), 0.0, ["drivable_area", "lane"], (100, 100))[0],
               "lines": city.render_centerlines(2.0)[0], "next": city.render_next_roads(x, y)[0]}
    for name, figure in figures.items():
        figure.savefig(tmp_path / f"{name}.png")
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(
        [*figures, "data", "lidar", "annotation", "channel", "poses", "fancy", "over"])
    for path in tmp_path.glob("*.png"):
        assert np.ptp(cv2.imread(str(path))) > 50, f"{path.name} is blank"


def test_places_on_a_ring_become_corners() -> None:
    ring = np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]])
    points = np.array([[3.0, 0.0], [1.0, 0.001], [4.0, 4.0], [2.0, 2.0], [0.0, 1.0]])
    expected = np.array([[0, 0], [1, 0.001], [3, 0], [4, 0], [4, 4], [0, 4], [0, 1]])
    np.testing.assert_allclose(with_points(ring, points), expected)


def test_names_tell_siren_and_size() -> None:
    at = np.zeros(1, np.int64)

    def track(category: str, size: tuple[float, float, float], siren: bool | None = None) -> Track:
        return Track("a", category, np.array(size), at, np.zeros((1, 3)), np.zeros(1), np.ones(1, bool),
                     siren=None if siren is None else np.array([siren]))

    for ours, theirs in ((track("van", (5, 2, 2), True), "vehicle.emergency.ambulance"),
                         (track("car", (5, 2, 2), True), "vehicle.emergency.police"),
                         (track("car", (5, 2, 2), False), "vehicle.car"),
                         (track("object", (0.4, 0.4, 0.75)), "movable_object.trafficcone"),
                         (track("object", (2.0, 0.35, 1.0)), "movable_object.barrier"),
                         (track("object", (0.9, 0.9, 0.9)), "movable_object.debris")):
        assert category_name(ours) == theirs and CATEGORY_OF[theirs] == ours.category
    assert attribute_name("car", 0.0, parked=True) == "vehicle.parked" and attribute_name("object", 0.0) is None


# --- the round trip -----------------------------------------------------------------------------------------------


def same(log: Log, back: Log, tolerance_px: float = 6.0) -> None:
    """Everything that nuScenes or its extras hold, at the keyframes."""
    for name in ("id", "source", "licence", "location", "split", "look", "texts", "reasons"):
        assert getattr(back, name) == getattr(log, name), name
    assert json.loads(json.dumps(dict(log.metadata))) == back.metadata
    np.testing.assert_array_equal(back.ego.timestamps_us, log.ego.timestamps_us)
    np.testing.assert_allclose(back.ego.world_from_body, log.ego.world_from_body, atol=1e-9)
    same_map(log, back)
    ours = {track.id: track for track in log.tracks}
    assert len(back.tracks) >= 0.95 * len(ours)  # one that lived between two keyframes is lost
    for track in back.tracks:
        same_track(ours[track.id], track)
    at = int(back.frames.timestamps_us(log.rig.names[0])[4])
    for camera in log.rig.names:
        assert np.abs(back.frames.read(camera, at).astype(int) - log.frames.read(camera, at)).mean() < tolerance_px


def same_map(log: Log, back: Log) -> None:
    assert log.map is not None and back.map is not None and list(back.map.lanes) == list(log.map.lanes)
    for key, lane in back.map.lanes.items():
        for line in ("centerline_m", "left_m", "right_m"):
            np.testing.assert_allclose(getattr(lane, line), getattr(log.map.lanes[key], line), atol=1e-9)
        assert (lane.successors, lane.signal_id) == (log.map.lanes[key].successors, log.map.lanes[key].signal_id)
    assert [(m.style, len(m.points_m)) for m in back.map.markings] == \
        [(m.style, len(m.points_m)) for m in log.map.markings]
    assert [prop.kind for prop in back.map.props] == [prop.kind for prop in log.map.props]
    for theirs, signal in zip(back.signals, log.signals, strict=True):
        assert theirs.id == signal.id and theirs.lane_ids == signal.lane_ids
        np.testing.assert_array_equal(theirs.state, signal.state)
        np.testing.assert_array_equal(theirs.timestamps_us, signal.timestamps_us)


def same_track(track: Track, back: Track) -> None:
    at = np.searchsorted(track.timestamps_us, back.timestamps_us)
    here = back.valid
    np.testing.assert_array_equal(back.valid, track.valid[at])
    np.testing.assert_allclose(back.position_m[here], track.position_m[at][here], atol=1e-6)
    assert np.abs(wrap_angle(back.yaw_rad - track.yaw_rad[at]))[here].max() < 1e-6
    np.testing.assert_allclose(back.size_lwh_m, track.size_lwh_m)
    assert (back.category, back.color_rgb) == (track.category, track.color_rgb)
    for name in ("velocity_mps", "brake", "indicator", "siren"):
        ours, theirs = getattr(track, name), getattr(back, name)
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            np.testing.assert_allclose(theirs[here], ours[at][here], atol=1e-9)


def test_a_town_log_comes_back(root: Path, town: Log) -> None:
    same(town, NuScenesSource(root).load(town.id))


def test_siren_and_hazards_come_back(town: Log, tmp_path: Path) -> None:
    track = next(t for t in town.tracks if t.category in ("van", "car") and t.valid.all())
    on = np.arange(len(track.timestamps_us)) >= 40
    loud = replace(track, siren=on, indicator=np.where(on, 2, 0).astype(np.int8))
    log = replace(town, rig=town.rig.subset(["CAM_FRONT"]), tracks=(loud,))
    back = NuScenesSource(write_nuscenes([log], tmp_path / "set", can_bus=False)).load(town.id).tracks[0]
    assert back.siren is not None and back.siren.tolist() == [False] * 8 + [True] * 9
    assert back.indicator is not None and back.indicator.tolist() == [0] * 8 + [2] * 9
    assert back.indicator.dtype == np.int8 and back.siren.dtype == bool


@pytest.mark.slow
def test_twenty_town_logs_come_back(tmp_path: Path) -> None:
    rig = nuscenes_six(56, 32)
    seeds = range(110_020, 110_040)
    written = write_nuscenes((generate(seed, rig=rig) for seed in seeds), tmp_path / "set")
    source = NuScenesSource(written)
    assert source.log_ids() == [f"town-{seed}" for seed in seeds]
    for seed in seeds:
        same(generate(seed, rig=rig), source.load(f"town-{seed}"))


# --- recorded drives ----------------------------------------------------------------------------------------------


def test_recorded_drives_by_the_command(shared_data: Path, tmp_path: Path) -> None:
    """Both Karlsruhe drives: poses and times survive, and the devkit finds every image."""
    out = tmp_path / "karlsruhe"
    assert run(["data", "convert", "--source", f"drive_folder:{shared_data / 'drives'}", "--out", str(out)]) == 0
    source, ours = NuScenesSource(out), DriveFolderSource(shared_data / "drives")
    assert source.log_ids() == ["karlsruhe_0001", "karlsruhe_0005"]
    assert all(Path(source.nusc.get_sample_data_path(r["token"])).is_file() for r in source.nusc.sample_data)
    for log_id in source.log_ids():
        log, back = ours.load(log_id), source.load(log_id)
        np.testing.assert_allclose(back.ego.world_from_body, log.ego.world_from_body, atol=1e-6)
        assert back.rig.names == log.rig.names and back.licence == log.licence and back.map is None
        for camera in log.rig.names:
            np.testing.assert_array_equal(back.frames.timestamps_us(camera), log.frames.timestamps_us(camera))


@pytest.mark.slow
def test_argoverse_logs_by_the_command(shared_data: Path, tmp_path: Path) -> None:
    """Both logs at 10 Hz annotations: boxes stand where they stood, and the devkit's map holds their lanes."""
    out, folder = tmp_path / "argoverse", shared_data / "argoverse2"
    assert run(["data", "convert", "--source", f"argoverse2:{folder}", "--out", str(out)]) == 0
    source, ours = NuScenesSource(out), Argoverse2Source(folder)
    assert sorted(source.log_ids()) == sorted(ours.log_ids()) and len(source.log_ids()) == 2
    for log_id in source.log_ids():
        log, back = ours.load(log_id), source.load(log_id)
        record = source.scenes[log_id]
        place = source.nusc.get("log", record["log_token"])["location"]
        city = open_map(out, place)
        assert log.map is not None and len(city.lane) + len(city.lane_connector) == len(log.map.lanes)
        known = {track.id: track for track in log.tracks}
        for track in back.tracks:
            times = track.timestamps_us[track.valid]
            theirs = known[track.id]
            for axis in range(2):
                expected = np.interp(times, theirs.timestamps_us[theirs.valid], theirs.position_m[theirs.valid, axis])
                assert np.abs(track.position_m[track.valid, axis] - expected).max() < 0.3
        path = xyyaw_from_pose(back.ego.world_from_body)
        theirs_path, valid = interpolate_poses(log.ego, back.ego.timestamps_us)
        assert np.abs(path[valid, :2] - theirs_path[valid, :2, 3]).max() < 1e-3
