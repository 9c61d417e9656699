"""Physical AI AV: its lenses become pinholes, its boxes stand still; its devkit on a set written by hand."""

import io
import json
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drive_wm.datasets.clips import make_clip
from drive_wm.datasets.physical_ai import CATEGORY_OF, pinhole_of, read_ego, read_tracks, rectifying_map
from drive_wm.datasets.sources import open_source
from drive_wm.types import CATEGORIES, ByteArray, FloatArray, InputError

pytest.importorskip("pyarrow", reason="Physical AI AV needs a pyarrow that works with this numpy", exc_type=ImportError)
av = pytest.importorskip("av")

W, H, FOCAL = 320, 180, 160 / np.radians(60)  # 120 degrees wide, a radius of FOCAL a radian
FRAMES, CLIP, REVISION = 30, "0000aaaa-0000-0000-0000-000000000000", "a" * 40
FRONT = "camera_front_wide_120fov"
FORWARD = {"qx": -0.5, "qy": 0.5, "qz": -0.5, "qw": 0.5}  # camera z is the rig's x, camera x is right


class Equidistant:
    """An f-theta lens whose polynomial is linear."""

    width, height = W, H

    def ray2pixel(self, ray: FloatArray) -> FloatArray:
        across = np.linalg.norm(ray[..., :2], axis=-1, keepdims=True)
        return np.array([W / 2, H / 2]) + FOCAL * np.arctan2(across, ray[..., 2:]) * ray[..., :2] / across

    def pixel2ray(self, pixel: FloatArray) -> FloatArray:
        p = pixel - [W / 2, H / 2]
        r = np.linalg.norm(p, axis=-1, keepdims=True)
        return np.concatenate([np.sin(r / FOCAL) * p / r, np.cos(r / FOCAL)], -1)


def parquet(path: Path | io.BytesIO, columns: dict[str, Any]) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    write_table(pyarrow.table(columns), path)


def ego_columns() -> dict[str, Any]:
    """10 m/s along x at 100 Hz for 3 s, of which the images see the first."""
    times = np.arange(0, 3_000_000, 10_000)
    zero = np.zeros(len(times))
    return {"timestamp": times, "x": times * 1e-5, "y": zero, "z": zero, "qx": zero, "qy": zero, "qz": zero,
            "qw": zero + 1}


def box_columns() -> dict[str, Any]:
    """A parked car that stands at x = 20 m, y = 3 m of the anchor frame, seen from the moving rig."""
    times = np.arange(0, 1_000_000, 100_000)
    zero = np.zeros(len(times))
    return {"timestamp_us": times, "track_id": ["7"] * len(times), "label_class": ["automobile"] * len(times),
            "reference_frame": ["rig"] * len(times), "center_x": 20 - times * 1e-5, "center_y": zero + 3,
            "center_z": zero + 0.75, "size_x": zero + 4.5, "size_y": zero + 1.9, "size_z": zero + 1.5,
            "orientation_x": zero, "orientation_y": zero, "orientation_z": zero + np.sqrt(0.5),
            "orientation_w": zero + np.sqrt(0.5)}


def test_a_direction_is_found_where_the_pinhole_says() -> None:
    camera = pinhole_of("c", Equidistant(), np.eye(4))
    assert (camera.width, camera.height) == (W, H)
    np.testing.assert_allclose(camera.intrinsics[0, 0], 160 / np.tan(np.radians(50)))  # 100 of the 120 degrees
    where = rectifying_map(camera, Equidistant())
    assert where.shape == (H, W, 2)
    column = round(160 + camera.intrinsics[0, 0] * np.tan(np.radians(30)) - 0.5)
    np.testing.assert_allclose(where[H // 2, column, 0], 160 + FOCAL * np.radians(30) - 0.5, atol=0.7)
    np.testing.assert_allclose(where[H // 2, [0, -1], 0], [160 - FOCAL * np.radians(50), 159 + FOCAL * np.radians(50)],
                               atol=0.7)


def test_a_parked_car_stands_still(tmp_path: Path) -> None:
    parquet(tmp_path / "ego.parquet", ego_columns())
    parquet(tmp_path / "boxes.parquet", box_columns())
    ego = read_ego(tmp_path / "ego.parquet", 0, 1_000_000)
    assert (ego.timestamps_us[0], ego.timestamps_us[-1]) == (0, 1_100_000)
    car, = read_tracks(tmp_path / "boxes.parquet", ego)
    np.testing.assert_allclose(car.position_m, np.tile([20, 3, 0.75], (10, 1)), atol=1e-9)
    np.testing.assert_allclose(car.yaw_rad, np.pi / 2)
    assert (car.id, car.category, car.size_lwh_m.tolist()) == ("7", "car", [4.5, 1.9, 1.5])
    parquet(tmp_path / "boxes.parquet", box_columns() | {"reference_frame": ["world"] * 10})
    with pytest.raises(InputError, match="expected rig"):
        read_tracks(tmp_path / "boxes.parquet", ego)
    assert set(CATEGORY_OF.values()) <= set(CATEGORIES)


def test_without_the_devkit_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "physical_ai_av", None)
    with pytest.raises(InputError, match=r"drive-wm\[physical-ai\]"):
        open_source("physical_ai:somewhere")


# --- the devkit on a set written by hand --------------------------------------------------------------------------


def line_at_30_degrees(brightness: int) -> ByteArray:
    image = np.zeros((H, W, 3), np.uint8)
    image[:, round(W / 2 + FOCAL * np.radians(30)) - 2:][:, :4] = brightness
    return image


def video(path: Path) -> bytes:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = W, H, "yuv420p"
        for i in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(line_at_30_degrees(255 - 3 * i), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 30)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path.read_bytes()


def zipped(path: Path, members: dict[str, bytes | dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            if not isinstance(content, bytes):
                buffer = io.BytesIO()
                parquet(buffer, content)
                content = buffer.getvalue()
            archive.writestr(name, content)


def write_set(cache: Path) -> None:
    """One clip in a Hugging Face cache, as the devkit leaves it."""
    import pandas  # type: ignore[import-not-found,import-untyped,unused-ignore]

    root = cache / "datasets--nvidia--PhysicalAI-Autonomous-Vehicles" / "snapshots" / REVISION
    for folder in ("metadata", "splits", "calibration/camera_intrinsics", "calibration/sensor_extrinsics"):
        (root / folder).mkdir(parents=True)
    zips = {FRONT: ("camera", {"video": f"{{clip_id}}.{FRONT}.mp4",
                               "frame_timestamps": f"{{clip_id}}.{FRONT}.timestamps.parquet"}),
            "egomotion": ("labels", {"egomotion": "{clip_id}.egomotion.parquet"}),
            "obstacle.offline": ("labels", {"obstacle.offline": "{clip_id}.obstacle.offline.parquet"})}
    rows: list[tuple[str, str, str, str | None]] = [
        (name, kind, f"{kind}/{name}/{name}.chunk_{{chunk_id:04d}}.zip", json.dumps(files))
        for name, (kind, files) in zips.items()]
    rows += [(name, "calibration", f"calibration/{name}/{name}.chunk_{{chunk_id:04d}}.parquet", None)
             for name in ("camera_intrinsics", "sensor_extrinsics")]
    columns = ["feature", "directory", "chunk_path", "clip_files_in_zip"]
    pandas.DataFrame(rows, columns=columns).to_csv(root / "features.csv", index=False)
    clips = pandas.Index([CLIP], name="clip_id")
    pandas.DataFrame({"chunk": [0]}, index=clips).to_parquet(root / "clip_index.parquet")
    pandas.DataFrame({"split": ["val"]}, index=clips).to_parquet(root / "splits/default.parquet")
    present = pandas.DataFrame({row[0]: [True] for row in rows}, index=clips)
    present.to_parquet(root / "metadata/feature_presence.parquet")
    pandas.DataFrame({"country": ["Germany"]}, index=clips).to_parquet(root / "metadata/data_collection.parquet")
    camera = pandas.MultiIndex.from_tuples([(CLIP, FRONT)], names=["clip_id", "camera_name"])
    lens = {"width": W, "height": H, "cx": W / 2, "cy": H / 2, "fw_poly_1": FOCAL, "bw_poly_1": 1 / FOCAL,
            **{f"{way}_poly_{i}": 0.0 for way in ("fw", "bw") for i in (0, 2, 3, 4)}}
    mount = {**FORWARD, "x": 1.7, "y": 0.1, "z": 1.4}
    for name, row in (("camera_intrinsics", lens), ("sensor_extrinsics", mount)):
        frame = pandas.DataFrame({key: [value] for key, value in row.items()}, index=camera)
        frame.to_parquet(root / f"calibration/{name}/{name}.chunk_0000.parquet")
    times = {"timestamp": 5_000 + np.arange(FRAMES) * 33_333}
    zipped(root / f"camera/{FRONT}/{FRONT}.chunk_0000.zip", {
        f"{CLIP}.{FRONT}.mp4": video(cache / "v.mp4"), f"{CLIP}.{FRONT}.timestamps.parquet": times})
    zipped(root / "labels/egomotion/egomotion.chunk_0000.zip", {f"{CLIP}.egomotion.parquet": ego_columns()})
    zipped(root / "labels/obstacle.offline/obstacle.offline.chunk_0000.zip", {
        f"{CLIP}.obstacle.offline.parquet": box_columns()})


def test_a_clip_through_the_devkit(tmp_path: Path) -> None:
    pytest.importorskip("physical_ai_av", reason="the devkit is an extra: drive-wm[physical-ai]")
    write_set(tmp_path)
    source = open_source(f"physical_ai:{tmp_path}@{REVISION}")
    assert source.log_ids() == [CLIP]
    log = source.load(CLIP)
    assert (log.split, log.rig.names, len(log.tracks), log.map) == ("val", (FRONT,), 1, None)
    camera = log.rig.cameras[0]
    mount = [[0, 0, 1, 1.7], [-1, 0, 0, 0.1], [0, -1, 0, 1.4]]
    np.testing.assert_allclose(camera.rig_from_camera[:3], mount, atol=1e-9)
    assert log.frames.timestamps_us(FRONT).tolist() == [5_000 + i * 33_333 for i in range(FRAMES)]
    image = log.frames.read(FRONT, 5_000)[H // 2, :, 0].astype(float)
    image[image < 128] = 0
    column = (image * (np.arange(W) + 0.5)).sum() / image.sum()
    assert abs(column - (W / 2 + camera.intrinsics[0, 0] * np.tan(np.radians(30)))) < 1.5
    clip = make_clip(log, 5_000, 5, 5.0, rig=log.rig.resized(112, 64))
    assert clip.frames_valid.all() and np.allclose(clip.actions, [10.0, 0.0])
    np.testing.assert_allclose(clip.agents[0, 0, :3], [19.95, 3.0, np.pi / 2], atol=1e-6)
    with pytest.raises(InputError, match="no clip '1'"):
        source.load("1")
