"""NVIDIA's Physical AI Autonomous Vehicles data set, through its own devkit: seven cameras, egomotion, boxes, no map.

``physical_ai:CACHE@REVISION``, a Hugging Face cache with clips that the devkit has downloaded, and the commit they are
of. Written against the devkit's interface (physical_ai_av 0.2.3) and its documentation; NOT run on the data, which is
under a licence of its own. Its rig frame is ours: x forward, y left, z up, the rear axle on the ground.

Its cameras are f-theta (angle to radius by a polynomial). They are given as the pinholes that a `Camera` is: images are
rectified when read, to at most MAX_FOV_DEG, as a pinhole spends its pixels on the rim beyond that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from drive_wm.datasets.routes import driven_route
from drive_wm.datasets.sources import nearest
from drive_wm.datasets.video import read_frame
from drive_wm.geometry import interpolate_poses, pose_from_quaternion, xyyaw_from_pose
from drive_wm.types import (
    SPLITS,
    ByteArray,
    Camera,
    FloatArray,
    FrameError,
    InputError,
    IntArray,
    Log,
    Poses,
    Rig,
    Track,
)

MAX_FOV_DEG, MAX_HEIGHT_PX = 100.0, 540
EGO_SLACK_US = 100_000
LICENCE = "NVIDIA Autonomous Vehicle Dataset License"
CAMERAS = ("camera_front_wide_120fov", "camera_front_tele_30fov", "camera_cross_left_120fov",
           "camera_cross_right_120fov", "camera_rear_left_70fov", "camera_rear_right_70fov", "camera_rear_tele_30fov")
NEEDED = ("egomotion", "camera_intrinsics", "sensor_extrinsics")
BOXES = "obstacle.offline"
CATEGORY_OF = {"automobile": "car", "other_vehicle": "car", "heavy_truck": "truck", "trailer": "truck", "bus": "bus",
               "person": "pedestrian", "stroller": "pedestrian", "rider": "bicycle", "animal": "object",
               "protruding_object": "object"}


# --- tables -------------------------------------------------------------------------------------------------------


def read_table(path: Path, columns: tuple[str, ...]) -> dict[str, Any]:
    """Columns of a Parquet file as arrays; raises InputError where one is missing."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(f"reading {path.name} needs pyarrow ({error}): pip install 'pyarrow>=18,<26'") from error
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a Parquet table: {error}") from error
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise InputError(f"{path}: columns {', '.join(missing)} missing; it has {', '.join(table.column_names)}")
    return {column: np.array(table[column].to_pylist()) for column in columns}


def read_ego(path: Path, start_us: int, end_us: int) -> Poses:
    """anchor_from_rig of a clip, cut to the span of its images: egomotion goes on for a minute more."""
    table = read_table(path, ("timestamp", "qw", "qx", "qy", "qz", "x", "y", "z"))
    times, first = np.unique(table["timestamp"].astype(np.int64), return_index=True)
    poses = pose_from_quaternion(np.stack([table[k][first] for k in "xyz"], -1),
                                 np.stack([table[k][first] for k in ("qw", "qx", "qy", "qz")], -1))
    within = (times >= start_us - EGO_SLACK_US) & (times <= end_us + EGO_SLACK_US)
    if not within.any():
        raise InputError(f"{path}: no pose between {start_us} and {end_us} us, where the images are")
    return Poses(times[within], poses[within], np.ones(int(within.sum()), bool))


def read_tracks(path: Path, ego: Poses) -> tuple[Track, ...]:
    """Boxes, given in the rig frame of their own time, in the anchor frame; those without a pose are dropped."""
    center, size = ("center_x", "center_y", "center_z"), ("size_x", "size_y", "size_z")
    turn = ("orientation_w", "orientation_x", "orientation_y", "orientation_z")
    table = read_table(path, ("timestamp_us", "track_id", "label_class", "reference_frame", *center, *size, *turn))
    if set(table["reference_frame"].tolist()) - {"rig"}:
        raise InputError(f"{path}: boxes in the frames {sorted(set(table['reference_frame'].tolist()))}, expected rig")
    world_from_rig, posed = interpolate_poses(ego, table["timestamp_us"])
    position, rotation = (np.stack([table[k] for k in names], -1) for names in (center, turn))
    world_from_box = world_from_rig @ pose_from_quaternion(position, rotation)
    tracks = []
    for name in sorted(set(table["track_id"][posed].tolist())):
        rows = np.flatnonzero((table["track_id"] == name) & posed)
        times, first = np.unique(table["timestamp_us"][rows].astype(np.int64), return_index=True)
        rows = rows[first]
        tracks.append(Track(
            id=str(name), category=CATEGORY_OF.get(str(table["label_class"][rows[0]]), "object"),
            size_lwh_m=np.median([table[k][rows] for k in size], 1), timestamps_us=times,
            position_m=world_from_box[rows, :3, 3], yaw_rad=xyyaw_from_pose(world_from_box[rows])[:, 2],
            valid=np.ones(len(rows), bool)))
    return tuple(tracks)


# --- cameras ------------------------------------------------------------------------------------------------------


class Lens(Protocol):
    """A camera model of the devkit: rays are in the camera frame, pixels (u, v) from the top left."""

    width: int
    height: int

    def ray2pixel(self, ray: FloatArray) -> FloatArray: ...

    def pixel2ray(self, pixel: FloatArray) -> FloatArray: ...


def pinhole_of(name: str, lens: Lens, rig_from_camera: FloatArray) -> Camera:
    """The pinhole that looks where the lens does, as wide as it is or MAX_FOV_DEG, at most MAX_HEIGHT_PX high."""
    center = lens.ray2pixel(np.array([[1e-6, 0.0, 1.0]]))[0]
    rim = lens.pixel2ray(np.array([[0.0, center[1]], [lens.width - 1.0, center[1]]]))
    half = min(float(np.arccos(np.clip(rim[:, 2], -1, 1)).min()), np.radians(MAX_FOV_DEG) / 2)
    height = min(MAX_HEIGHT_PX, lens.height)
    width = round(lens.width * height / lens.height)
    focal = width / 2 / np.tan(half)
    matrix = np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    return Camera(name, width, height, matrix, rig_from_camera)


def rectifying_map(camera: Camera, lens: Lens) -> FloatArray:
    """(H, W, 2) float32: where in the lens's image each pixel of the pinhole's comes from."""
    v, u = np.mgrid[:camera.height, :camera.width] + 0.5
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(camera.intrinsics).T
    rays[..., 0] += 1e-9  # the model divides by the distance from the axis
    return np.asarray(lens.ray2pixel(rays) - 0.5, np.float32)


@dataclass
class _View:
    """One camera of a clip. ``video`` is where its frames are, in the order of ``times_us``."""

    camera: Camera
    lens: Lens
    times_us: IntArray
    video: Path
    lookup: FloatArray | None = None


class RectifiedFrames:
    """`Frames` of f-theta videos, seen through pinholes."""

    rendered = False

    def __init__(self, views: Mapping[str, _View]) -> None:
        self.views = dict(views)

    def timestamps_us(self, camera: str) -> IntArray:
        return self.views[camera].times_us

    def read(self, camera: str, timestamp_us: int) -> ByteArray:
        import cv2

        view = self.views[camera]
        index = int(np.searchsorted(view.times_us, timestamp_us))
        if index >= len(view.times_us) or view.times_us[index] != timestamp_us:
            raise FrameError(f"camera {camera}: no image at {int(timestamp_us)}")
        image = read_frame(view.video, index)
        if image.shape[:2] != (view.lens.height, view.lens.width):
            raise FrameError(f"camera {camera}: image is {image.shape[1]} x {image.shape[0]}, calibrated for "
                             f"{view.lens.width} x {view.lens.height}")
        if view.lookup is None:
            view.lookup = rectifying_map(view.camera, view.lens)
        return np.asarray(cv2.remap(image, view.lookup, None, cv2.INTER_LINEAR), np.uint8)  # type: ignore[call-overload]


# --- the source ---------------------------------------------------------------------------------------------------


def open_devkit(cache: str, revision: str) -> Any:
    """The devkit's interface on a cache, or InputError that says what is missing."""
    try:
        from physical_ai_av import PhysicalAIAVDatasetInterface  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise InputError(f"Physical AI AV needs its devkit ({error}): pip install \"drive-wm[physical-ai]\"") from error
    try:
        return PhysicalAIAVDatasetInterface(revision or None, cache_dir=cache or None)
    except (OSError, ValueError) as error:
        raise InputError(f"physical_ai:{cache}: the devkit cannot open it ({error}); download clips with it first, and "
                         "name the cache and the commit: physical_ai:CACHE@REVISION") from error


class PhysicalAISource:
    """The clips of a cache whose egomotion, calibration and at least one camera are there."""

    kind = "physical_ai"
    takes_path = False  # CACHE@REVISION is no path

    def __init__(self, text: str) -> None:
        cache, _, revision = text.partition("@")
        self.text, self.devkit = text, open_devkit(str(Path(cache).expanduser()) if cache else "", revision)

    def _cached(self, chunk: int, feature: str) -> bool:
        return bool(self.devkit.is_file_cached(self.devkit.features.get_chunk_feature_filename(chunk, feature)))

    def _cameras(self, chunk: int) -> list[str]:
        return [name for name in CAMERAS if name in self.devkit.features.ALL and self._cached(chunk, name)]

    def log_ids(self) -> list[str]:
        index = self.devkit.clip_index
        ready = {int(chunk) for chunk in set(index["chunk"].tolist())
                 if all(self._cached(int(chunk), name) for name in NEEDED) and self._cameras(int(chunk))}
        return sorted(str(clip) for clip, chunk in zip(index.index, index["chunk"].tolist()) if int(chunk) in ready)

    def load(self, log_id: str) -> Log:
        """A clip of 20 s in its anchor frame, the rig's own at the start; its cameras rectified."""
        if log_id not in self.devkit.clip_index.index:
            raise InputError(f"physical_ai:{self.text}: no clip {log_id!r}{nearest(log_id, self.log_ids())}")
        chunk = int(self.devkit.get_clip_chunk(log_id))
        views = self._views(log_id, self._cameras(chunk))
        start, end = (f(edge(v.times_us) for v in views.values()) for f, edge in ((min, np.min), (max, np.max)))
        ego = read_ego(self._path(log_id, "egomotion"), int(start), int(end))
        tracks = read_tracks(self._path(log_id, BOXES), ego) if self._boxed(log_id, chunk) else ()
        index = self.devkit.clip_index
        split = str(index.at[log_id, "split"]) if "split" in index.columns else "train"
        rig = Rig("physical_ai", tuple(view.camera for view in views.values()))
        return Log(id=log_id, source=self.kind, rig=rig, ego=ego, frames=RectifiedFrames(views), tracks=tracks,
                   licence=LICENCE, split=split if split in SPLITS else "train",
                   metadata={"chunk": chunk, "route": np.round(driven_route(ego), 3).tolist()})

    def _boxed(self, clip: str, chunk: int) -> bool:
        present = self.devkit.feature_presence
        known = BOXES in self.devkit.features.ALL and self._cached(chunk, BOXES)
        return known and (BOXES not in present.columns or bool(present.at[clip, BOXES]))

    def _path(self, clip: str, feature: str, member: str | None = None) -> Path:
        """A file of a clip; features that are zipped are unpacked into the cache by the devkit."""
        paths = self.devkit.get_clip_feature_paths(clip, feature, members=[member] if member else None)
        return Path(paths[member] if member else next(iter(paths.values())))

    def _views(self, clip: str, names: list[str]) -> dict[str, _View]:
        lenses = self.devkit.get_clip_feature(clip, "camera_intrinsics").camera_models
        mounts = self.devkit.get_clip_feature(clip, "sensor_extrinsics").sensor_poses
        views = {}
        for name in (name for name in names if name in lenses and name in mounts):
            times = read_table(self._path(clip, name, "frame_timestamps"), ("timestamp",))["timestamp"].astype(np.int64)
            camera = pinhole_of(name, lenses[name], np.asarray(mounts[name].as_matrix(), np.float64))
            views[name] = _View(camera, lenses[name], times, self._path(clip, name, "video"))
        if not views:
            raise InputError(f"physical_ai:{self.text}: clip {clip} has no camera that is downloaded and calibrated")
        return views
