"""Argoverse 2: a log written by hand has the values one can compute; the real logs stand on their map."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="Argoverse 2 needs a pyarrow that works with this numpy", exc_type=ImportError)

from drive_wm.datasets.argoverse2 import CATEGORY_OF, WHEEL_RADIUS_M, Argoverse2Source
from drive_wm.datasets.clips import make_clip
from drive_wm.datasets.health import check
from drive_wm.datasets.show import contact_sheet_of, describe, topdown_of
from drive_wm.geometry import project_to_polyline, transform_points
from drive_wm.types import CATEGORIES, MARKINGS, InputError, Log

START_NS, STEP_NS, COUNT = 315_966_253_000_000_000, 100_000_000, 5
HALF = float(np.sqrt(0.5))


def feather(path: Path, columns: dict[str, Any]) -> None:
    import pyarrow
    from pyarrow import feather as arrow

    path.parent.mkdir(parents=True, exist_ok=True)
    arrow.write_feather(pyarrow.table(columns), str(path))


def pose_columns(count: int, x: list[float], y: float, z: float, yaw_half: tuple[float, float]) -> dict[str, Any]:
    return {"qw": [yaw_half[0]] * count, "qx": [0.0] * count, "qy": [0.0] * count, "qz": [yaw_half[1]] * count,
            "tx_m": x, "ty_m": [y] * count, "tz_m": [z] * count}


def segment(number: int, left_y: float, right_y: float, **more: Any) -> dict[str, Any]:
    """A lane along +y (north) from y = 0 to 40, given by the x of its left and right boundary."""
    def line(x: float, count: int) -> list[dict[str, float]]:
        return [{"x": x, "y": float(y), "z": 10.0} for y in np.linspace(0, 40, count)]
    return {"id": number, "is_intersection": False, "lane_type": "VEHICLE", "left_lane_boundary": line(left_y, 2),
            "right_lane_boundary": line(right_y, 5),
            "left_lane_mark_type": "DASHED_WHITE", "right_lane_mark_type": "NONE",
            "successors": [99], "predecessors": [], "left_neighbor_id": None, "right_neighbor_id": None, **more}


def write_log(folder: Path) -> Path:
    """The ego drives north (yaw 90 degrees) at 10 m/s along x = 2; a car stands 10 m ahead and 3 m left of it."""
    times = [START_NS + i * STEP_NS for i in range(COUNT)]
    north = (HALF, HALF)
    ego = pose_columns(COUNT, [2.0] * COUNT, 0.0, 10.0 + WHEEL_RADIUS_M, north)
    ego["ty_m"] = [float(i) for i in range(COUNT)]
    ego = {"timestamp_ns": [*times, times[-1] + 1], **{k: [*v, v[-1]] for k, v in ego.items()}}  # a time twice, in us
    feather(folder / "city_SE3_egovehicle.feather", ego)
    boxes = pose_columns(COUNT, [10.0 - i for i in range(COUNT)], 3.0, 0.75 - WHEEL_RADIUS_M, (1.0, 0.0))
    feather(folder / "annotations.feather", {
        "timestamp_ns": times, "track_uuid": ["car"] * COUNT, "category": ["REGULAR_VEHICLE"] * COUNT,
        "length_m": [4.0] * COUNT, "width_m": [1.8] * COUNT, "height_m": [1.5] * COUNT, **boxes})
    feather(folder / "calibration" / "intrinsics.feather", {
        "sensor_name": ["ring_front_center", "stereo_front_left"], "fx_px": [800.0] * 2, "fy_px": [800.0] * 2,
        "cx_px": [400.0] * 2, "cy_px": [512.0] * 2, "width_px": [800] * 2, "height_px": [1024] * 2})
    feather(folder / "calibration" / "egovehicle_SE3_sensor.feather", {
        "sensor_name": ["ring_front_center"], "qw": [0.5], "qx": [-0.5], "qy": [0.5], "qz": [-0.5],
        "tx_m": [1.6], "ty_m": [0.0], "tz_m": [1.4]})
    area = [{"x": float(x), "y": float(y), "z": 10.0} for x, y in ((-4, 0), (8, 0), (8, 40), (-4, 40))]
    oncoming = segment(3, -4, -8)
    for side in ("left", "right"):
        oncoming[f"{side}_lane_boundary"].reverse()
    known = {"1": segment(1, 0, 4, right_neighbor_id=2, left_neighbor_id=3),
             "2": segment(2, 4, 8, left_neighbor_id=1, is_intersection=True),
             "3": oncoming, "4": segment(4, 8, 10, lane_type="BIKE")}
    known["1"]["right_lane_mark_type"] = known["2"]["left_lane_mark_type"] = "DOUBLE_SOLID_YELLOW"
    edges = {f"edge{k}": [{"x": float(x), "y": 30.0 + 3 * k, "z": 10.0} for x in (-4, 8)] for k in (1, 2)}
    (folder / "map").mkdir()
    streets = {"lane_segments": known, "drivable_areas": {"1": {"area_boundary": area}},
               "pedestrian_crossings": {"1": edges}}
    (folder / "map" / "log_map_archive_x____PIT_city_1.json").write_text(json.dumps(streets))
    return folder


@pytest.fixture()
def log(tmp_path: Path) -> Log:
    return Argoverse2Source(write_log(tmp_path / "val" / "abc")).load("abc")


def test_poses_tracks_and_cameras_stand_on_the_ground(log: Log) -> None:
    assert len(log.ego) == COUNT and log.split == "val" and log.location == "PIT" and log.licence == "CC BY-NC-SA 4.0"
    np.testing.assert_allclose(log.ego.world_from_body[2, :3, 3], [2, 2, 10], atol=1e-9)
    np.testing.assert_allclose(log.ego.world_from_body[2, :2, 0], [0, 1], atol=1e-9)
    np.testing.assert_allclose(log.rig.cameras[0].rig_from_camera[:3, 3], [1.6, 0, 1.4 + WHEEL_RADIUS_M])
    car, = log.tracks
    assert (car.category, car.size_lwh_m.tolist()) == ("car", [4.0, 1.8, 1.5])
    np.testing.assert_allclose(car.position_m, np.tile([-1.0, 10.0, 10.75], (COUNT, 1)), atol=1e-9)  # stands on z = 10
    np.testing.assert_allclose(car.yaw_rad, np.pi / 2)


def test_lanes_have_middles_and_neighbours_that_can_be_driven(log: Log) -> None:
    assert log.map is not None and set(log.map.lanes) == {"1", "2", "3"}
    lane = log.map.lanes["1"]
    np.testing.assert_allclose(lane.centerline_m[:, 0], 2.0)
    assert (lane.right_neighbor, lane.left_neighbor, lane.successors, lane.speed_limit_mps) == ("2", None, (), None)
    assert len(log.map.intersections) == 1 and len(log.map.crossings) == 1 and log.map.crossings[0].shape == (4, 3)


def test_paint_is_drawn_once_and_kerbs_stand_where_the_road_ends(log: Log) -> None:
    assert log.map is not None and {marking.style for marking in log.map.markings} <= set(MARKINGS)
    yellow = [marking for marking in log.map.markings if marking.style == "yellow solid"]
    assert len(yellow) == 1
    np.testing.assert_allclose(yellow[0].points_m[:, 0], 4.0)
    assert not [m for m in log.map.markings if m.style == "curb"]  # the only area ends where the map was cut


def test_frames_are_drawn_where_none_were_recorded(log: Log) -> None:
    assert log.frames.rendered and log.rig.cameras[0].height == 256 and log.rig.cameras[0].width == 200
    times = log.frames.timestamps_us("ring_front_center")
    np.testing.assert_array_equal(np.diff(times), 100_000)
    assert log.frames.read("ring_front_center", int(times[0])).shape == (256, 200, 3)


def test_recorded_images_are_read_by_their_nanoseconds(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "abc")
    images = folder / "sensors" / "cameras" / "ring_front_center"
    images.mkdir(parents=True)
    cv2.imwrite(str(images / f"{START_NS + 123_456}.jpg"), np.full((1024, 800, 3), 90, np.uint8))
    log = Argoverse2Source(tmp_path).load("abc")
    assert not log.frames.rendered and log.split == "train"
    assert log.frames.timestamps_us("ring_front_center").tolist() == [START_NS // 1000 + 123]
    assert log.frames.read("ring_front_center", START_NS // 1000 + 123).shape == (1024, 800, 3)


def add_camera(folder: Path, name: str, width: int, height: int, phase_ms: int, scale: float) -> None:
    """A ring camera at 20 Hz, each image brighter by 5 than the last; calibrated for width x height, stored scaled."""
    from pyarrow import feather as arrow

    for table, row in (("intrinsics", {"fx_px": 800.0, "fy_px": 800.0, "cx_px": width / 2, "cy_px": height / 2,
                                       "width_px": width, "height_px": height}),
                       ("egovehicle_SE3_sensor", {"qw": 0.5, "qx": -0.5, "qy": 0.5, "qz": -0.5, "tx_m": 1.6,
                                                  "ty_m": 0.0, "tz_m": 1.4})):
        path = folder / "calibration" / f"{table}.feather"
        columns = arrow.read_table(path).to_pydict()
        feather(path, {k: v + [row.get(k, name)] for k, v in columns.items()})
    images = folder / "sensors" / "cameras" / name
    images.mkdir(parents=True)
    for i in range(2 * COUNT - 1):
        at = START_NS + phase_ms * 1_000_000 + i * STEP_NS // 2
        picture = np.full((round(height * scale), round(width * scale), 3), 60 + 5 * i, np.uint8)
        cv2.imwrite(str(images / f"{at}.jpg"), picture)


def test_a_clip_of_recorded_images_has_the_nearest_of_each_camera(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "abc")
    add_camera(folder, "ring_side_left", 2048, 1536, 7, 0.125)
    add_camera(folder, "ring_rear_left", 2048, 1536, -20, 0.25)
    log = Argoverse2Source(tmp_path).load("abc")
    assert log.rig.names == ("ring_side_left", "ring_rear_left")  # ring_front_center has no images here
    side = log.rig.camera("ring_side_left")
    assert (side.width, side.height) == (256, 192) and side.intrinsics[:2, 2].tolist() == [128.0, 96.0]
    broken = folder / "sensors" / "cameras" / "ring_side_left" / f"{START_NS + 7_000_000 + 2 * STEP_NS // 2}.jpg"
    broken.write_bytes(broken.read_bytes()[:500])
    clip = make_clip(log, log.start_us, COUNT, 10.0, rig=log.rig.resized(64, 48))
    assert clip.frames_valid.tolist() == [[True, True], [False, True], [True, True], [True, True], [True, True]]
    for i, image in enumerate(clip.frames["ring_side_left"]):  # taken 7 ms after each step
        assert image.mean() == (0 if i == 1 else 60 + 10 * i)
    # taken 20 ms before and 30 ms after each step: the earlier is nearer
    assert [round(float(image.mean())) for image in clip.frames["ring_rear_left"]] == [60, 70, 80, 90, 100]


def test_images_that_do_not_fit_their_calibration_are_refused(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "abc")
    add_camera(folder, "ring_side_left", 2048, 1536, 0, 0.125)
    images = folder / "sensors" / "cameras" / "ring_side_left"
    (images / "first.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="named by its time"):
        Argoverse2Source(tmp_path).load("abc")
    (images / "first.jpg").unlink()
    cv2.imwrite(str(images / f"{START_NS}.jpg"), np.zeros((192, 192, 3), np.uint8))
    with pytest.raises(InputError, match="192 x 192, calibrated for 2048 x 1536"):
        Argoverse2Source(tmp_path).load("abc")


def test_the_route_goes_on_along_the_lane(log: Log) -> None:
    route = np.array(log.metadata["route"])
    assert route[-1, 1] > 38 and np.abs(route[:, 0] - 2.0).max() < 0.01
    assert np.linalg.norm(np.diff(route, axis=0), axis=1).max() < 1.01


def test_what_is_broken_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="city_SE3_egovehicle.feather"):
        Argoverse2Source(tmp_path)
    folder = write_log(tmp_path / "abc")
    with pytest.raises(InputError, match="no log 'abd'; did you mean 'abc'"):
        Argoverse2Source(tmp_path).load("abd")
    feather(folder / "annotations.feather", {"timestamp_ns": [START_NS]})
    with pytest.raises(InputError, match="columns track_uuid"):
        Argoverse2Source(tmp_path).load("abc")
    (folder / "annotations.feather").write_bytes(b"no table")
    with pytest.raises(InputError, match="cannot be read as a feather table"):
        Argoverse2Source(tmp_path).load("abc")


def test_the_table_of_categories_uses_our_words() -> None:
    assert set(CATEGORY_OF.values()) <= set(CATEGORIES)


def test_real_logs_stand_on_their_map(shared_data: Path) -> None:
    """Two independent sources of height agree: the ego's poses and the boxes against the map's lanes."""
    source = Argoverse2Source(shared_data / "argoverse2")
    tracks = []
    for log_id in source.log_ids():
        log = source.load(log_id)
        assert log.map is not None and log.ego.valid.all() and not log.metadata["unlisted_categories"]
        tracks.append(len(log.tracks))
        ground = np.concatenate([lane.centerline_m for lane in log.map.lanes.values()])
        cars = [t.position_m[::10] - [0, 0, t.size_lwh_m[2] / 2] for t in log.tracks if t.category == "car"]
        for points, tolerance in ((log.ego.world_from_body[::100, :3, 3], 0.05), (np.concatenate(cars), 0.05)):
            distance = ((points[:, None, :2] - ground[None, :, :2]) ** 2).sum(-1)
            near = distance.min(1) < 9
            height = points[near, 2] - ground[distance.argmin(1)[near], 2]
            assert near.sum() > 10 and abs(np.median(height)) < tolerance
        ego = log.ego.world_from_body[::100]
        lines = [lane.centerline_m for lane in log.map.lanes.values()]
        offset = np.min([np.abs(project_to_polyline(ego[:, :2, 3], line)[1]) for line in lines], axis=0)
        assert np.median(offset) < 1.0  # it drives in its lane
        assert check(log).ok
    assert sorted(tracks) == [114, 146]


def test_real_boxes_are_seen_by_the_camera_that_looks_at_them(shared_data: Path) -> None:
    """The bus ahead in adcf7d18 is in the drawn front image where the pinhole says it is."""
    log = Argoverse2Source(shared_data / "argoverse2").load("adcf7d18-0510-35b0-a2fa-b4cea13a6d76")
    time = int(log.frames.timestamps_us("ring_front_center")[120])
    row = int(np.argmin(np.abs(log.ego.timestamps_us - time)))
    camera = log.rig.camera("ring_front_center")
    seen = []
    for track in (t for t in log.tracks if t.category == "bus"):
        i = int(np.argmin(np.abs(track.timestamps_us - time)))
        rig = transform_points(np.linalg.inv(log.ego.world_from_body[row]), track.position_m[i])
        x, y, z = transform_points(np.linalg.inv(camera.rig_from_camera), rig)
        u, v, _ = camera.intrinsics @ (x / z, y / z, 1.0)
        seen.append(z > 0 and 0 <= u < camera.width and 0 <= v < camera.height)
    assert any(seen)


def test_facts_and_pictures_of_a_real_log(shared_data: Path) -> None:
    source = Argoverse2Source(shared_data / "argoverse2")
    log = source.load(source.log_ids()[0])
    facts = json.loads(json.dumps(describe(log)))
    assert facts["duration_s"] == 15.5 and facts["tracks_by_category"]["car"] == 71 and facts["map"]["lanes"] == 163
    sheet, above = contact_sheet_of(log, count=1), topdown_of(log, size_px=128)
    assert sheet.ndim == 3 and sheet.std() > 10 and above.shape == (128, 128, 3)
