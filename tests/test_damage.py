"""Every kind of damage, done to a drive folder and to a nuScenes folder: found, named, and in no clip as valid."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from drive_wm.datasets.clips import make_clip
from drive_wm.datasets.health import KINDS, HealthReport, examine, fit
from drive_wm.datasets.nuscenes_writer import write_nuscenes
from drive_wm.datasets.sources import open_source
from drive_wm.geometry import (
    inverse_pose,
    pose_from_quaternion,
    pose_from_xyzyaw,
    quaternion_from_rotation,
    xyyaw_from_pose,
)
from drive_wm.types import ByteArray, Camera, Clip, FloatArray, IntArray, Log, Poses, Rig, Track

START_US, HOUR_US, SPEED_MPS, FOCAL_PX = 1_700_000_000_000_000, 3_600_000_000, 8.0, 50.0
TIMES_US = START_US + 50_000 * np.arange(161)   # eight seconds
MOUNTS = {"front": 0.0, "left": 1.0}
LEVEL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])


def yaw_at(times_us: IntArray) -> FloatArray:
    return 0.5 * np.sin(2 * np.pi * (times_us - START_US) / 4e6)


def panorama(seed: int = 0) -> np.ndarray:
    """Large and small things, as in the world."""
    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.integers(0, 255, size, dtype=np.uint8), (960, 48), interpolation=cv2.INTER_CUBIC)
              for size in ((2, 16), (6, 60), (24, 480))]
    return (np.array([0.3, 0.3, 0.4]) @ np.array(layers).reshape(3, -1)).reshape(48, 960).astype(np.uint8)


class Cameras:
    """What cameras of 64 x 48 pixels see of far things all around, with sensor noise, ten times a second."""

    rendered = False
    far = panorama()

    def timestamps_us(self, camera: str) -> IntArray:
        return TIMES_US[::2]

    def read(self, camera: str, timestamp_us: int) -> ByteArray:
        yaw = float(yaw_at(np.array(timestamp_us))) + MOUNTS[camera]
        shift = np.array([[1.0, 0.0, FOCAL_PX * yaw - 440.0], [0.0, 1.0, 0.0]])
        grey = cv2.warpAffine(self.far, shift, (64, 48)).astype(np.float64)
        noise = np.random.default_rng([timestamp_us - START_US, list(MOUNTS).index(camera)]).normal(0, 3, grey.shape)
        return np.repeat(np.clip(0.8 * grey + 20 + noise, 0, 255).astype(np.uint8)[..., None], 3, 2)


def drive() -> Log:
    """An S at 8 m/s; cars beside it that drive as it does, one parked, and somebody on foot."""
    yaw, seconds = yaw_at(TIMES_US), (TIMES_US - START_US) / 1e6
    path = np.cumsum(0.05 * SPEED_MPS * np.stack([np.cos(yaw), np.sin(yaw), 0 * yaw], -1), 0)
    cameras = []
    for name, turn in MOUNTS.items():
        pose = pose_from_xyzyaw(np.array([1.5, 0.3 * turn, 1.4]), turn)
        pose[:3, :3] = pose[:3, :3] @ LEVEL
        cameras.append(Camera(name, 64, 48, np.array([[FOCAL_PX, 0, 32], [0, FOCAL_PX, 24], [0, 0, 1]]), pose))
    every, ok = TIMES_US[::2], np.ones(81, bool)
    tracks = [Track(f"car{k}", "car", np.array([4.5, 1.9, 1.5]), every, path[::2] + [6.0 * k, 4.0, 0.75], yaw[::2], ok)
              for k in (1, 2, 3)]
    walk = np.stack([20 + 0 * seconds, 5 - seconds, 0.9 + 0 * seconds], -1)[::2]
    still = np.tile([30.0, 9, 1.1], (81, 1))
    tracks += [Track("parked", "van", np.array([5.0, 2.1, 2.2]), every, still, 0 * yaw[::2], ok),
               Track("walker", "pedestrian", np.array([0.6, 0.6, 1.8]), every, walk, 0 * yaw[::2] - np.pi / 2, ok)]
    ego = Poses(TIMES_US, pose_from_xyzyaw(path, yaw), np.ones(161, bool))
    return Log("drive", "drive_folder", Rig("two", tuple(cameras)), ego, Cameras(), tuple(tracks), licence="mine")


# --- the two folders ----------------------------------------------------------------------------------------------


class DriveFolder:
    """A drive folder to be damaged."""

    kind = "drive_folder"

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def write(cls, log: Log, root: Path) -> None:
        root.mkdir()
        cameras = {c.name: {"width": c.width, "height": c.height, "intrinsics": c.intrinsics.tolist(),
                            "translation_m": c.rig_from_camera[:3, 3].tolist(),
                            "rotation_wxyz": quaternion_from_rotation(c.rig_from_camera[:3, :3]).tolist()}
                   for c in log.rig.cameras}
        (root / "rig.json").write_text(json.dumps({"cameras": cameras, "licence": log.licence}))
        x, y, yaw = xyyaw_from_pose(log.ego.world_from_body).T
        columns = {"timestamp_us": log.ego.timestamps_us, "x_m": x, "y_m": y, "yaw_rad": yaw, "roll_rad": 0 * x,
                   "speed_mps": 0 * x + SPEED_MPS, "yaw_rate_radps": np.gradient(yaw, 0.05)}
        cls(root).put({name: values.tolist() for name, values in columns.items()})
        for camera in log.rig.names:
            (root / "frames" / camera).mkdir(parents=True)
            for time in log.frames.timestamps_us(camera).tolist():
                cv2.imwrite(str(root / "frames" / camera / f"{time}.jpg"), log.frames.read(camera, time))

    def rows(self) -> dict[str, list[Any]]:
        with (self.root / "ego.csv").open() as file:
            table = list(csv.DictReader(file))
        return {name: [int(row[name]) if name == "timestamp_us" else float(row[name]) for row in table]
                for name in table[0]}

    def put(self, rows: dict[str, list[Any]]) -> None:
        lines = [",".join(rows)] + [",".join(map(str, row)) for row in zip(*rows.values())]
        (self.root / "ego.csv").write_text("\n".join(lines))

    def edit(self, change: Callable[[dict[str, np.ndarray]], object]) -> None:
        rows = {name: np.array(values) for name, values in self.rows().items()}
        change(rows)
        self.put({name: values.tolist() for name, values in rows.items()})

    def rig(self, change: Callable[[dict[str, Any]], object], camera: str = "left") -> None:
        rig = json.loads((self.root / "rig.json").read_text())
        change(rig["cameras"][camera])
        (self.root / "rig.json").write_text(json.dumps(rig))

    def images(self, camera: str = "front") -> list[Path]:
        return sorted((self.root / "frames" / camera).iterdir())

    def retime(self, camera: str, to: Callable[[IntArray], IntArray]) -> None:
        paths = self.images(camera)
        times = to(np.array([int(path.stem) for path in paths]))
        for path in paths:
            path.rename(path.with_suffix(".old"))
        for path, time in zip(paths, times.tolist()):
            path.with_suffix(".old").rename(path.with_name(f"{time}.jpg"))

    def repose(self, to: Callable[[np.ndarray], np.ndarray]) -> None:
        """Poses (N, 4, 4) anew; a rotation is written as roll (about x) and yaw."""
        def change(rows: dict[str, np.ndarray]) -> None:
            pose = to(pose_from_xyzyaw(np.stack([rows["x_m"], rows["y_m"], 0 * rows["x_m"]], -1), rows["yaw_rad"]))
            rows["x_m"], rows["y_m"] = pose[:, 0, 3], pose[:, 1, 3]
            rows["yaw_rad"] = np.arctan2(pose[:, 1, 0], pose[:, 0, 0])
            rows["roll_rad"] = np.arctan2(pose[:, 2, 1], pose[:, 2, 2])
        self.edit(change)

    def reclock(self, to: Callable[[IntArray], IntArray]) -> None:
        self.edit(lambda rows: rows.update(timestamp_us=to(rows["timestamp_us"])))


class NuScenes(DriveFolder):
    """The same drive as nuScenes, to be damaged."""

    kind = "nuscenes"

    @classmethod
    def write(cls, log: Log, root: Path) -> None:
        write_nuscenes([log], root, version="v", sweep_hz=10)

    def table(self, name: str, change: Callable[[list[dict[str, Any]]], object]) -> None:
        path = self.root / "v" / f"{name}.json"
        records = json.loads(path.read_text())
        change(records)
        path.write_text(json.dumps(records))

    def records(self, camera: str) -> list[dict[str, Any]]:
        records = json.loads((self.root / "v" / "sample_data.json").read_text())
        return sorted((r for r in records if f"/{camera}/" in r["filename"]), key=lambda record: record["timestamp"])

    def images(self, camera: str = "front") -> list[Path]:
        return [self.root / record["filename"] for record in self.records(camera)]

    def rig(self, change: Callable[[dict[str, Any]], object], camera: str = "left") -> None:
        token = self.records(camera)[0]["calibrated_sensor_token"]
        names = {"intrinsics": "camera_intrinsic", "translation_m": "translation", "rotation_wxyz": "rotation"}

        def edit(records: list[dict[str, Any]]) -> None:
            record = next(r for r in records if r["token"] == token)
            ours = {key: record[name] for key, name in names.items()}
            change(ours)
            record.update({names[key]: value for key, value in ours.items()})
        self.table("calibrated_sensor", edit)

    def retime(self, camera: str, to: Callable[[IntArray], IntArray]) -> None:
        tokens = [record["token"] for record in self.records(camera)]
        new = dict(zip(tokens, to(np.array([r["timestamp"] for r in self.records(camera)])).tolist()))
        self.table("sample_data", lambda rs: [r.update(timestamp=new.get(r["token"], r["timestamp"])) for r in rs])

    def repose(self, to: Callable[[np.ndarray], np.ndarray]) -> None:
        def change(records: list[dict[str, Any]]) -> None:
            records.sort(key=lambda record: record["timestamp"])
            poses = pose_from_quaternion(np.array([r["translation"] for r in records]),
                                         np.array([r["rotation"] for r in records]))
            poses = to(poses)
            for record, pose, q in zip(records, poses, quaternion_from_rotation(poses[:, :3, :3])):
                record.update(translation=pose[:3, 3].tolist(), rotation=q.tolist())
        self.table("ego_pose", change)

    def reclock(self, to: Callable[[IntArray], IntArray]) -> None:
        def change(records: list[dict[str, Any]]) -> None:
            records.sort(key=lambda record: record["timestamp"])
            for record, time in zip(records, to(np.array([r["timestamp"] for r in records])).tolist()):
                record["timestamp"] = time
        self.table("ego_pose", change)

    def quaternions(self, table: str) -> None:
        self.table(table, lambda rs: [r.update(rotation=[*r["rotation"][1:], r["rotation"][0]]) for r in rs])

    def boxes(self, change: Callable[[dict[str, Any]], object], which: slice = slice(None)) -> None:
        self.table("sample_annotation", lambda records: [change(record) for record in records[which]])

    def can(self, change: Callable[[dict[str, Any]], object]) -> None:
        path = next((self.root / "can_bus").glob("*_pose.json"))
        rows = json.loads(path.read_text())
        for row in rows:
            change(row)
        path.write_text(json.dumps(rows))

    def unlicensed(self) -> None:
        path = next((self.root / "v" / "drive_wm").iterdir())
        path.write_text(json.dumps({**json.loads(path.read_text()), "licence": "unknown"}))


# --- damages: name -> the kind that must be found, and how it is done -----------------------------------------------


def scaled(name: str, factor: float) -> Callable[[DriveFolder], None]:
    return lambda d: d.edit(lambda rows: rows.update({name: rows[name] * factor}))


def moved(pose: np.ndarray, rows: Any, by: tuple[float, float]) -> np.ndarray:
    out = pose.copy()
    out[rows, :2, 3] += by
    return out


def swapped(pose: np.ndarray) -> np.ndarray:
    out = pose.copy()
    out[:, [0, 1], 3] = pose[:, [1, 0], 3]
    return out


def flipped(pose: np.ndarray) -> np.ndarray:
    out = pose.copy()
    out[:, 1, 3] *= -1
    return out


def held(pose: np.ndarray) -> np.ndarray:
    out = pose.copy()
    out[:, :3, 3] = pose[np.arange(len(pose)) // 4 * 4, :3, 3]
    return out


def of_sensor(ahead_m: float, axes: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    mount = pose_from_xyzyaw(np.array([ahead_m, 0.0, 0.0]), 0.0)
    mount[:3, :3] = axes
    return lambda pose: pose @ mount


def drop_rows(d: DriveFolder, rows: slice) -> None:
    d.edit(lambda table: table.update({name: np.delete(values, rows) for name, values in table.items()}))


def nan_row(d: DriveFolder) -> None:
    d.edit(lambda rows: rows["x_m"].__setitem__(slice(40, 44), np.nan))


def swap_rows(d: DriveFolder) -> None:
    d.edit(lambda rows: [values.__setitem__([60, 61], values[[61, 60]]) for values in rows.values()])


def put_bytes(path: Path, data: bytes) -> None:
    """A new file: the old one is shared with the sound folder."""
    path.unlink()
    path.write_bytes(data)


def paint(change: Callable[[np.ndarray], np.ndarray], which: slice = slice(30, 32)) -> Callable[[DriveFolder], None]:
    def damage(d: DriveFolder) -> None:
        for path in d.images()[which]:
            put_bytes(path, cv2.imencode(".jpg", change(cv2.imread(str(path))))[1].tobytes())
    return damage


def copied(frm: int, to: slice, camera: str = "front") -> Callable[[DriveFolder], None]:
    def damage(d: DriveFolder) -> None:
        data = d.images()[frm].read_bytes()
        for path in d.images(camera)[to]:
            put_bytes(path, data)
    return damage


def cut(size: int) -> Callable[[DriveFolder], None]:
    def damage(d: DriveFolder) -> None:
        for path in d.images()[20:22]:
            put_bytes(path, path.read_bytes()[:size])
    return damage


def corrupt(d: DriveFolder) -> None:
    """The end marker is there, the middle is not."""
    path = d.images()[30]
    data = bytearray(path.read_bytes())
    data[len(data) // 3:-2] = bytes(len(data) - len(data) // 3 - 2)
    put_bytes(path, bytes(data))


def delete(which: slice, camera: str = "front") -> Callable[[DriveFolder], None]:
    def damage(d: DriveFolder) -> None:
        for path in d.images(camera)[which]:
            path.unlink()
    return damage


def half_later(times: IntArray) -> IntArray:
    return np.where(np.arange(len(times)) >= len(times) // 2, times + HOUR_US, times)


def half_earlier(times: IntArray) -> IntArray:
    return np.where(np.arange(len(times)) >= len(times) // 2, times - HOUR_US, times)


def doubled(times: IntArray) -> IntArray:
    return np.where(np.arange(len(times)) == 50, times[49], times)


def every_clock(to: Callable[[IntArray], IntArray]) -> Callable[[DriveFolder], None]:
    def damage(d: DriveFolder) -> None:
        d.reclock(to)
        for camera in MOUNTS:
            d.retime(camera, to)
    return damage


def all_late(by_us: int) -> Callable[[DriveFolder], None]:
    def damage(d: DriveFolder) -> None:
        for camera in MOUNTS:
            d.retime(camera, lambda t: t + by_us)
    return damage


def unlicensed(d: DriveFolder) -> None:
    rig = json.loads((d.root / "rig.json").read_text())
    (d.root / "rig.json").write_text(json.dumps({"cameras": rig["cameras"]}))


def nan_pose(d: NuScenes) -> None:
    d.repose(lambda p: moved(p, slice(40, 44), (np.nan, 0.0)))


def nan_quaternions(records: list[dict[str, Any]], rows: slice) -> None:
    for record in sorted(records, key=lambda record: record.get("timestamp", 0))[rows]:
        record["rotation"] = [np.nan, 0.0, 0.0, 0.0]


def far_box(record: dict[str, Any]) -> None:
    record["translation"][0] += 400.0


BOTH: dict[str, tuple[str, Callable[[Any], object]]] = {
    "x and y swapped": ("mirrored axes", lambda d: d.repose(swapped)),
    "y mirrored": ("mirrored axes", lambda d: d.repose(flipped)),
    "poses of a camera": ("camera pose", lambda d: d.repose(of_sensor(1.7, LEVEL))),
    "poses of a sensor ahead": ("lever arm", lambda d: d.repose(of_sensor(1.7, np.eye(3)))),
    "poses tilted": ("tilted pose", lambda d: d.repose(of_sensor(
        0.0, np.array([[1, 0, 0], [0, np.cos(2.0), -np.sin(2.0)], [0, np.sin(2.0), np.cos(2.0)]])))),
    "poses turned": ("heading", lambda d: d.repose(of_sensor(0.0, pose_from_xyzyaw(np.zeros(3), 1.57)[:3, :3]))),
    "pose jump": ("pose jump", lambda d: d.repose(lambda p: moved(p, 70, (300.0, 0.0)))),
    "pose jump that stays": ("pose jump", lambda d: d.repose(lambda p: moved(p, slice(70, None), (0.0, 50.0)))),
    "pose step": ("pose acceleration", lambda d: d.repose(lambda p: moved(p, slice(70, None), (0.0, 2.0)))),
    "poses held": ("held pose", lambda d: d.repose(held)),
    "clock jump": ("clock jump", lambda d: d.reclock(half_later)),
    "time zone": ("clock offset", all_late(2 * HOUR_US)),
    "one camera in another time zone": ("clock offset", lambda d: d.retime("left", lambda t: t + HOUR_US)),
    "half of a camera an hour later": ("clock jump", lambda d: d.retime("left", half_later)),
    "all images 0.1 s late": ("clock offset", all_late(100_000)),
    "one camera 0.1 s late": ("clock offset", lambda d: d.retime("left", lambda t: t + 100_000)),
    "milliseconds": ("time unit", every_clock(lambda t: t // 1000)),
    "nanoseconds": ("time unit", every_clock(lambda t: t * 1000)),
    "frozen": ("frozen image", copied(19, slice(20, 24))),
    "repeated later": ("repeated image", copied(10, slice(40, 41))),
    "image of another camera": ("same image", copied(12, slice(30, 31), "left")),
    "image from elsewhere": ("odd image", paint(lambda image: 255 - image, slice(33, 34))),
    "black": ("under-exposed", paint(lambda image: 0 * image)),
    "white": ("over-exposed", paint(lambda image: 0 * image + 255)),
    "blurred": ("blurred image", paint(lambda image: cv2.GaussianBlur(image, (0, 0), 2.5))),
    "another size": ("image size", paint(lambda image: image[::2, ::2])),
    "mirrored images": ("mirrored image", paint(lambda image: image[:, ::-1], slice(None))),
    "truncated JPEG": ("broken image", cut(300)),
    "empty file": ("broken image", cut(0)),
    "corrupt JPEG": ("odd image", corrupt),
    "intrinsics of twice the size": ("intrinsics", lambda d: d.rig(
        lambda c: c.update(intrinsics=(np.diag([2.0, 2, 1]) @ c["intrinsics"]).tolist()))),
    "mount in millimetres": ("camera mount", lambda d: d.rig(
        lambda c: c.update(translation_m=[1000 * v for v in c["translation_m"]]))),
    "mount as x y z w": ("camera mount", lambda d: d.rig(
        lambda c: c.update(rotation_wxyz=[*c["rotation_wxyz"][1:], c["rotation_wxyz"][0]]))),
    "mount the wrong way round": ("camera mount", lambda d: d.rig(
        lambda c: c.update(rotation_wxyz=[c["rotation_wxyz"][0], *(-v for v in c["rotation_wxyz"][1:])]))),
}
FOLDER: dict[str, tuple[str, Callable[[Any], object]]] = {
    "km/h": ("speed unit", scaled("speed_mps", 3.6)),
    "speed off by a third": ("speed mismatch", scaled("speed_mps", 1.3)),
    "speed off for a second": ("speed mismatch", lambda d: d.edit(
        lambda rows: rows["speed_mps"].__setitem__(slice(80, 100), 12.0))),
    "degrees": ("yaw unit", scaled("yaw_rad", 57.29578)),
    "degrees a second": ("yaw rate unit", scaled("yaw_rate_radps", 57.29578)),
    "yaw rate sign": ("yaw rate sign", scaled("yaw_rate_radps", -1)),
    "positions in feet": ("position unit", lambda d: [scaled(name, 3.2808)(d) for name in ("x_m", "y_m")]),
    "positions in degrees": ("position unit", lambda d: [scaled(name, 9e-6)(d) for name in ("x_m", "y_m")]),
    "clock reset": ("clock reset", lambda d: d.reclock(half_earlier)),
    "rows in another order": ("time order", swap_rows),
    "time twice": ("time order", lambda d: d.reclock(doubled)),
    "pose gap": ("pose gap", lambda d: drop_rows(d, slice(60, 90))),
    "NaN pose": ("invalid pose", nan_row),
    "frame gap": ("frame gap", delete(slice(30, 40))),
    "dropped frame": ("dropped frame", delete(slice(30, 31))),
    "missing camera": ("missing camera", delete(slice(None), "left")),
    "no licence": ("no licence", unlicensed),
}
NUSCENES: dict[str, tuple[str, Callable[[Any], object]]] = {
    "km/h": ("speed unit", lambda d: d.can(lambda row: row.update(vel=[3.6 * v for v in row["vel"]]))),
    "yaw rate sign": ("yaw rate sign", lambda d: d.can(
        lambda row: row.update(rotation_rate=[-v for v in row["rotation_rate"]]))),
    "poses as x y z w": ("quaternion order", lambda d: d.quaternions("ego_pose")),
    "clock reset": ("clock jump", lambda d: d.reclock(half_earlier)),
    "time twice": ("time order", lambda d: d.retime("front", doubled)),
    "NaN pose": ("invalid pose", nan_pose),
    "NaN quaternion": ("invalid pose", lambda d: d.table("ego_pose", lambda rs: nan_quaternions(rs, slice(40, 44)))),
    "NaN quaternion of a box": ("agent box", lambda d: d.table(
        "sample_annotation", lambda rs: nan_quaternions(rs, slice(3, 4)))),
    "NaN quaternion of a camera": ("unreadable", lambda d: d.rig(lambda c: c.update(rotation_wxyz=[np.nan] * 4))),
    "missing images": ("broken image", delete(slice(30, 40))),
    "length and width swapped": ("box order", lambda d: d.boxes(
        lambda r: r.update(size=[r["size"][k] for k in (1, 0, 2)]))),
    "boxes turned": ("agent heading", lambda d: d.boxes(lambda r: r.update(rotation=[0.7071, 0, 0, 0.7071]))),
    "box jump": ("agent jump", lambda d: d.boxes(far_box, slice(5, 6))),
    "box of centimetres": ("agent box", lambda d: d.boxes(lambda r: r.update(size=[100 * v for v in r["size"]]))),
    "NaN box": ("agent box", lambda d: d.boxes(lambda r: r["translation"].__setitem__(0, float("nan")), slice(3, 4))),
    "boxes in the rig frame": ("agent frame", lambda d: d.boxes(lambda r: r.update(translation=[1e4, 5.0, 1.0]))),
    "no licence": ("no licence", lambda d: d.unlicensed()),
    "table cut off": ("unreadable", lambda d: d.table("ego_pose", lambda records: records.clear())),
}
CASES = [(cls, name, *case) for cls, only in ((DriveFolder, FOLDER), (NuScenes, NUSCENES))
         for name, case in {**BOTH, **only}.items()]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Clip]]:
    """Kind -> a sound folder, and its clip."""
    pytest.importorskip("nuscenes", reason="needs pip install nuscenes-devkit")
    out = {}
    for cls in (DriveFolder, NuScenes):
        root = tmp_path_factory.mktemp("clean") / "drive"
        cls.write(drive(), root)
        log, report = open_and_examine(cls.kind, root)
        assert log is not None and not report.findings, report.to_text()
        out[cls.kind] = (root, clip_of(log))
    return out


def copy(root: Path, to: Path) -> None:
    """Images are linked, for they are many; damage puts new files in their places."""
    shutil.copytree(root, to, copy_function=lambda a, b: os.link(a, b) if a.endswith(".jpg") else shutil.copy(a, b))


def open_and_examine(kind: str, root: Path) -> tuple[Log | None, HealthReport]:
    source = open_source(f"{kind}:{root}")
    return examine(source, source.log_ids()[0])


def clip_of(log: Log) -> Clip:
    return make_clip(log, START_US, 81, 10.0)


def assert_true_where_valid(clip: Clip, truth: Clip) -> None:
    """What a damaged drive's clip calls valid is what the sound drive's clip holds."""
    assert not (clip.ego_valid & ~truth.ego_valid).any() and not (clip.frames_valid & ~truth.frames_valid).any()
    off = inverse_pose(truth.ego[clip.ego_valid]) @ clip.ego[clip.ego_valid]
    assert np.abs(off[:, :3, 3]).max(initial=0) < 0.3 and np.abs(off[:, :3, :3] - np.eye(3)).max(initial=0) < 0.1
    wrong = np.abs(clip.actions - truth.actions)[clip.actions_valid]
    assert wrong[:, 0].max(initial=0) < 0.5 and wrong[:, 1].max(initial=0) < 0.05
    for c, camera in enumerate(clip.rig.cameras):
        seen, true = (item.frames[camera.name][clip.frames_valid[:, c]] for item in (clip, truth))
        np.testing.assert_array_equal(seen, true)
        sound = truth.rig.camera(camera.name)
        if clip.frames_valid[:, c].any():
            np.testing.assert_allclose(camera.intrinsics, sound.intrinsics)
            np.testing.assert_allclose(camera.rig_from_camera, sound.rig_from_camera)
    for a, name in enumerate(clip.agent_ids):
        b, ok = truth.agent_ids.index(name), clip.agents_valid[:, a] & clip.ego_valid
        np.testing.assert_allclose(clip.agents[ok, a, :8], truth.agents[ok, b, :8], atol=0.5)


def is_slow(cls: type[DriveFolder], name: str) -> bool:
    """Poses that are wrong in themselves are the same Log from either folder; one folder is enough most times."""
    return cls is NuScenes and name.startswith(("pose", "x and y", "y mirrored")) and name not in NUSCENES


@pytest.mark.parametrize("cls, name, kind, damage", [
    pytest.param(*case, id=f"{case[0].kind}: {case[1]}", marks=[pytest.mark.slow] if is_slow(*case[:2]) else [])
    for case in CASES])
def test_damage_is_named_and_in_no_clip(cls: type[DriveFolder], name: str, kind: str, damage: Callable[[Any], object],
                                        clean: dict[str, tuple[Path, Clip]], tmp_path: Path) -> None:
    root, truth = clean[cls.kind]
    copy(root, tmp_path / "drive")
    damage(cls(tmp_path / "drive"))
    log, report = open_and_examine(cls.kind, tmp_path / "drive")
    assert kind in report.kinds(), report.to_text()
    hit = next(f for f in report.findings if f.kind == kind)
    assert hit.mend and hit.count >= 1 and (hit.masks or not hit.times_us or hit.severity != "error")
    if log is None:
        assert kind == "unreadable"
        return
    assert_true_where_valid(clip_of(fit(log, report)), truth)


def test_every_kind_of_damage_is_tried() -> None:
    tried = {case[2] for case in CASES}
    others = {"sampled", "off the map", "left-handed pose", "agent clock", "reversing"}  # these need another log
    assert tried | others == set(KINDS) and len(tried) > 40


def test_a_damaged_clip_would_be_wrong_without_the_check(clean: dict[str, tuple[Path, Clip]],
                                                         tmp_path: Path) -> None:
    root, truth = clean["drive_folder"]
    copy(root, tmp_path / "drive")
    d = DriveFolder(tmp_path / "drive")
    d.repose(lambda p: moved(p, slice(130, None), (0.0, 50.0)))
    log, report = open_and_examine("drive_folder", d.root)
    assert log is not None
    with pytest.raises(AssertionError):
        assert_true_where_valid(clip_of(log), truth)
    kept = clip_of(fit(log, report))
    assert kept.ego_valid[:60].all() and not kept.ego_valid[66:].any() and kept.frames_valid.all()


def test_rotations_that_mirror_and_tracks_of_another_day() -> None:
    from drive_wm.datasets.health import check

    log = drive()
    left = log.ego.world_from_body @ np.diag([1.0, -1.0, 1.0, 1.0])
    assert "left-handed pose" in check(replace(log, ego=replace(log.ego, world_from_body=left))).kinds("error")
    late = tuple(replace(track, timestamps_us=track.timestamps_us + 24 * HOUR_US) for track in log.tracks)
    assert "agent clock" in check(replace(log, tracks=late)).kinds("error")
