"""The drive folder: what is written is what is read, structure is strict, single rows and frames are masked."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from drive_wm.datasets.curation import places
from drive_wm.datasets.drive_folder import DriveFolderSource, increasing
from drive_wm.datasets.routes import driven_route
from drive_wm.geometry import xyyaw_from_pose
from drive_wm.types import FrameError, InputError, IntArray, Log

FORWARD = [0.5, -0.5, 0.5, -0.5]  # x right, y down, z ahead, in a rig of x ahead, y left, z up
START_US, STEP_US = 1_700_000_000_000_000, 100_000


def rig_json(cameras: tuple[str, ...] = ("front",), width: int = 64, height: int = 48) -> dict[str, Any]:
    one = {"width": width, "height": height, "intrinsics": [[50, 0, width / 2], [0, 50, height / 2], [0, 0, 1]],
           "translation_m": [1.5, 0.0, 1.4], "rotation_wxyz": FORWARD}
    return {"name": "test", "cameras": {name: one for name in cameras}, "licence": "mine"}


def write_drive(folder: Path, cameras: tuple[str, ...] = ("front",), count: int = 12, suffix: str = "png") -> Path:
    """A drive at 10 m/s, every pixel of image i of value 10 i, ten images a second."""
    folder.mkdir(parents=True)
    (folder / "rig.json").write_text(json.dumps(rig_json(cameras)))
    times = START_US + STEP_US * np.arange(count)
    rows = ["timestamp_us,x_m,y_m,yaw_rad"] + [f"{t},{i}.0,0.0,0.0" for i, t in enumerate(times)]
    (folder / "ego.csv").write_text("\n".join(rows))
    for camera in cameras:
        (folder / "frames" / camera).mkdir(parents=True)
        for i, time in enumerate(times):
            image = np.full((48, 64, 3), 10 * i, np.uint8)
            image[..., 0] = 255  # blue in OpenCV's order
            cv2.imwrite(str(folder / "frames" / camera / f"{time}.{suffix}"), image)
    return folder


def load(folder: Path) -> Log:
    source = DriveFolderSource(folder)
    return source.load(source.log_ids()[0])


def edit_csv(folder: Path, row: int, text: str) -> None:
    path = folder / "ego.csv"
    lines = path.read_text().splitlines()
    lines[row + 1] = text
    path.write_text("\n".join(lines))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    log = load(write_drive(tmp_path / "monday"))
    assert (log.id, log.source, log.licence, log.frames.rendered) == ("monday", "drive_folder", "mine", False)
    np.testing.assert_allclose(xyyaw_from_pose(log.ego.world_from_body)[:, 0], np.arange(12))
    image = log.frames.read("front", START_US + 3 * STEP_US)
    assert image.shape == (48, 64, 3) and image.dtype == np.uint8
    np.testing.assert_array_equal(image[0, 0], [30, 30, 255])  # RGB
    np.testing.assert_array_equal(log.rig.camera("front").rig_from_camera[:3, 2], [1, 0, 0])  # looks ahead


def test_a_folder_of_drives_and_eight_cameras(tmp_path: Path) -> None:
    write_drive(tmp_path / "a", tuple(f"cam{i}" for i in range(8)), count=3)
    write_drive(tmp_path / "b", count=3, suffix="jpg")
    source = DriveFolderSource(tmp_path)
    assert source.log_ids() == ["a", "b"]
    assert len(source.load("a").rig.cameras) == 8
    assert source.load("b").frames.read("front", START_US).shape == (48, 64, 3)


def test_cameras_may_differ_in_times_and_lack_frames(tmp_path: Path) -> None:
    folder = write_drive(tmp_path / "a", ("left", "right"))
    (folder / "frames" / "right" / f"{START_US}.png").rename(folder / "frames" / "right" / f"{START_US + 7}.png")
    for i in (4, 5):
        (folder / "frames" / "right" / f"{START_US + i * STEP_US}.png").unlink()
    frames = load(folder).frames
    assert len(frames.timestamps_us("left")) == 12 and len(frames.timestamps_us("right")) == 10
    assert frames.timestamps_us("right")[0] == START_US + 7
    with pytest.raises(FrameError, match="no image at"):
        frames.read("right", START_US)


def test_damaged_images_raise_only_when_read(tmp_path: Path) -> None:
    folder = write_drive(tmp_path / "a", suffix="jpg")
    paths = [folder / "frames" / "front" / f"{START_US + i * STEP_US}.jpg" for i in range(12)]
    paths[0].write_bytes(paths[0].read_bytes()[:-80])
    paths[1].write_bytes(b"")
    paths[2].write_bytes(b"no image at all")
    cv2.imwrite(str(paths[3]), np.zeros((24, 32, 3), np.uint8))
    frames = load(folder).frames
    paths[4].unlink()
    told = ("truncated", "neither JPEG nor PNG", "neither", "32 x 24, the rig says 64 x 48", "missing")
    for i, message in enumerate(told):
        with pytest.raises(FrameError, match=message):
            frames.read("front", START_US + i * STEP_US)
    assert frames.read("front", START_US + 5 * STEP_US).shape == (48, 64, 3)


def test_a_nan_row_is_masked_and_a_row_out_of_order_dropped(tmp_path: Path) -> None:
    folder = write_drive(tmp_path / "a")
    edit_csv(folder, 2, f"{START_US + 2 * STEP_US},nan,0.0,0.0")
    edit_csv(folder, 6, f"{START_US},6.0,0.0,0.0")
    log = load(folder)
    assert len(log.ego) == 11 and np.flatnonzero(~log.ego.valid).tolist() == [0, 2]  # two rows claim the first time
    assert np.isfinite(log.ego.world_from_body).all()
    assert log.metadata["dropped_rows"] == 1 and log.metadata["dropped_lines"] == [8]


def test_one_time_far_in_the_future_costs_one_row() -> None:
    np.testing.assert_array_equal(increasing(np.array([1, 2, 10**15, 3, 4])), [0, 1, 3, 4])
    np.testing.assert_array_equal(increasing(np.array([1, 1, 2])), [1, 2])
    assert len(increasing(np.array([], dtype=np.int64))) == 0


def test_optional_columns_may_be_empty(tmp_path: Path) -> None:
    folder = write_drive(tmp_path / "a", count=4)
    rows = ["timestamp_us,x_m,y_m,z_m,roll_rad,pitch_rad,yaw_rad,speed_mps"]
    rows += [f"{START_US + i * STEP_US},{i},0,,,0.01,0," for i in range(4)]
    (folder / "ego.csv").write_text("\n".join(rows))
    log = load(folder)
    assert log.ego.valid.all() and log.metadata["reported"]["speed_mps"] == [None] * 4
    np.testing.assert_allclose(log.ego.world_from_body[:, 2, 0], -np.sin(0.01))


def test_the_route_goes_on_along_the_last_heading(tmp_path: Path) -> None:
    route = (driven_route(load(write_drive(tmp_path / "a")).ego, extend_m=60.0))
    np.testing.assert_allclose(route[[0, -1]], [[0, 0], [71, 0]], atol=1e-6)
    assert np.linalg.norm(np.diff(route, axis=0), axis=1).max() <= 1.001


def test_a_place_not_on_earth_is_masked_and_a_jump_makes_no_endless_route(tmp_path: Path) -> None:
    folder = write_drive(tmp_path / "a")
    edit_csv(folder, 3, f"{START_US + 3 * STEP_US},1e300,0.0,0.0")
    edit_csv(folder, 5, f"{START_US + 5 * STEP_US},1e7,0.0,0.0")
    edit_csv(folder, 7, f"{'9' * 40},7.0,0.0,0.0")
    log = load(folder)
    assert log.ego.valid.sum() == 10 and len(log.ego) == 11 and len(log.metadata["route"]) <= 20_001


def filmed(folder: Path, name: str = "front.mp4", times: IntArray | None = None, count: int = 12) -> Path:
    """The drive with a video in place of its images: frame i of grey 20 i, ten a second; ``times`` beside it."""
    av = pytest.importorskip("av", reason="videos need PyAV")
    path = folder / "frames" / name
    shutil.rmtree(folder / "frames" / path.stem)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 5
        for i in range(count):
            image = np.full((48, 64, 3), 20 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    if times is not None:
        path.with_name(f"{path.stem}_timestamps_us.csv").write_text("timestamp_us\n" + "\n".join(map(str, times)))
    return folder


def described(folder: Path, **more: Any) -> Path:
    rig = json.loads((folder / "rig.json").read_text())
    (folder / "rig.json").write_text(json.dumps({**rig, **more}))
    return folder


def test_video_with_its_times(tmp_path: Path) -> None:
    times = START_US + STEP_US * np.arange(12) + 5_000 * (np.arange(12) % 2)
    frames = load(filmed(write_drive(tmp_path / "a"), times=times)).frames
    np.testing.assert_array_equal(frames.timestamps_us("front"), times)
    for i in (7, 0, 11):
        assert abs(float(frames.read("front", int(times[i])).mean()) - 20 * i) < 4


@pytest.mark.parametrize("more", [-1, 1])
def test_times_of_more_or_fewer_frames_than_the_video_has_are_refused(tmp_path: Path, more: int) -> None:
    filmed(write_drive(tmp_path / "a"), times=START_US + STEP_US * np.arange(12 + more))
    with pytest.raises(InputError, match=f"timestamps_us.csv: has {12 + more} times, but front.mp4 has 12 frames"):
        load(tmp_path / "a")


@pytest.mark.parametrize("name", ["front.mp4", "front.mov", "front.mkv", "front.avi", "front.m4v"])
def test_a_video_without_times_counts_from_its_start(tmp_path: Path, name: str) -> None:
    folder = filmed(write_drive(tmp_path / "a"), name)
    with pytest.raises(InputError, match="front_timestamps_us.csv beside it, .* or video_start_us in rig.json"):
        load(folder)
    for told in (START_US + 3, {"front": START_US + 3}):
        frames = load(described(folder, video_start_us=told)).frames
        np.testing.assert_array_equal(frames.timestamps_us("front"), START_US + 3 + STEP_US * np.arange(12))
    assert abs(float(frames.read("front", START_US + 3 + 7 * STEP_US).mean()) - 140) < 4


def test_a_video_that_cannot_be_opened_breaks_its_own_frames_only(tmp_path: Path) -> None:
    folder = filmed(write_drive(tmp_path / "a", ("front", "left")), times=START_US + STEP_US * np.arange(12))
    (folder / "frames" / "front.mp4").write_bytes(b"cut off")
    frames = load(folder).frames
    assert frames.read("left", START_US).shape == (48, 64, 3)
    with pytest.raises(FrameError, match="front.mp4: cannot be opened"):
        frames.read("front", START_US)


def test_drives_with_an_origin_meet_on_earth(tmp_path: Path) -> None:
    """The origin of b lies 100 m north of that of a, and its path 100 m south of it: they drove the same road."""
    north_deg = 100.0 / 111_412.0  # metres a degree of latitude on the ellipsoid at 49 degrees north: near enough
    described(write_drive(tmp_path / "a"), origin_lat_lon_deg=[49.0, 8.4])
    rows = ["timestamp_us,x_m,y_m,yaw_rad"] + [f"{START_US + i * STEP_US},{i}.0,-100.0,0.0" for i in range(12)]
    (write_drive(tmp_path / "b") / "ego.csv").write_text("\n".join(rows))
    described(tmp_path / "b", origin_lat_lon_deg=[49.0 + north_deg, 8.4])
    write_drive(tmp_path / "c")
    source = DriveFolderSource(tmp_path)
    logs = [source.load(name) for name in "abc"]
    a, b, c = (places.where(log, log.start_us, log.end_us) for log in logs)
    assert a.frame == b.frame == "earth" and c.frame == "drive_folder:c"
    assert np.abs(a.points_m - b.points_m).max() < 0.3
    for seed in range(8):
        (split_a, _), (split_b, _) = places.by_place([a, b], places.SplitSpec(seed=seed))
        assert split_a == split_b
    leak, = places.leaks([a, b, c], ["train", "test", "test"], buffer_m=50.0)
    assert (leak.a, leak.b) == (0, 1) and leak.distance_m < 0.3


def broken(folder: Path, name: str, value: Any) -> None:
    rig = rig_json()
    rig["cameras"]["front"][name] = value
    (folder / "rig.json").write_text(json.dumps(rig))


def unknown_camera(folder: Path) -> None:
    (folder / "frames" / "frint").mkdir()


STRUCTURE = {
    "unknown camera": (unknown_camera, "no camera 'frint'; did you mean 'front'"),
    "json": (lambda f: (f / "rig.json").write_text("{"), "cannot be read as JSON"),
    "no cameras": (lambda f: (f / "rig.json").write_text("{}"), "expected 'cameras'"),
    "intrinsics": (lambda f: broken(f, "intrinsics", [1, 2]), "front: intrinsics must be finite of shape"),
    "words": (lambda f: broken(f, "width", "wide"), "front: width is not made of numbers"),
    "rotation": (lambda f: broken(f, "rotation_wxyz", [0, 0, 0, 0]), "quaternion"),
    "size": (lambda f: broken(f, "height", 10**9), "expected 1 to"),
    "column": (lambda f: (f / "ego.csv").write_text("timestamp_us,x_m,y_m,yaw\n1,2,3,4"), "did you mean 'yaw'"),
    "no rows": (lambda f: (f / "ego.csv").write_text("timestamp_us,x_m,y_m,yaw_rad\n"), "none of its 0 rows"),
    "all nan": (lambda f: (f / "ego.csv").write_text("timestamp_us,x_m,y_m,yaw_rad\n1,nan,,x"), "none of its 1 rows"),
    "no table": (lambda f: (f / "ego.csv").unlink(), "cannot be read as CSV"),
    "binary table": (lambda f: (f / "ego.csv").write_bytes(b"\xff\xfe\x00\x01"), "cannot be read as CSV"),
    "image name": (lambda f: (f / "frames" / "front" / "img_001.png").touch(), "named by its time"),
    "two of a camera": (lambda f: (f / "frames" / "front.mp4").touch(), "more than one folder of images or video"),
    "start": (lambda f: described(f, video_start_us=1.5), "rig.json: video_start_us: expected whole microseconds"),
    "whose start": (lambda f: described(f, video_start_us={"frnt": 1}), "no camera 'frnt'; did you mean 'front'"),
    "origin": (lambda f: described(f, origin_lat_lon_deg=[8.4]), "expected [latitude, longitude]"),
    "far origin": (lambda f: described(f, origin_lat_lon_deg=[149, 8.4]), "the latitude first"),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_a_broken_structure_is_one_clear_line(name: str, tmp_path: Path) -> None:
    folder = write_drive(tmp_path / "a", count=2)
    damage, message = STRUCTURE[name]
    damage(folder)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_camera_names_cannot_leave_the_folder(tmp_path: Path) -> None:
    folder = write_drive(tmp_path / "a", count=2)
    rig = rig_json(("../../elsewhere",))
    (folder / "rig.json").write_text(json.dumps(rig))
    with pytest.raises(InputError, match="names a folder"):
        load(folder)


def test_recorded_drives_read_as_described(shared_data: Path) -> None:
    source = DriveFolderSource(shared_data / "drives")
    for name, count, metres in (("karlsruhe_0001", 108, 107), ("karlsruhe_0005", 154, None)):
        log = source.load(name)
        path = xyyaw_from_pose(log.ego.world_from_body)
        assert len(log.ego) == count and log.ego.valid.all() and "CC BY-NC-SA 3.0" in log.licence
        if metres:
            assert abs(np.linalg.norm(np.diff(path[:, :2], axis=0), axis=1).sum() - metres) < 1.5
        for camera in log.rig.cameras:
            times = log.frames.timestamps_us(camera.name)
            assert len(times) == count
            assert log.frames.read(camera.name, times[-1]).shape == (camera.height, camera.width, 3)
