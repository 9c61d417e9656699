"""Any Log as a nuScenes data set that the devkit, NuScenesMap, NuScenesCanBus and PredictHelper open.

Every log becomes one scene with a world of its own: its map has its own location, ``<location>-<scene number>``.
``NuScenesMap`` itself knows the names of four cities only: open such a map with ``nuscenes.open_map``, read
``maps/expansion/<location>.json`` directly, or write a single log with ``map_name="singapore-onenorth"``.
Frames that lie outside the ego's known path are left out: nuScenes has no image without a pose.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from drive_wm.datasets.nuscenes_can import write_can
from drive_wm.datasets.nuscenes_extras import FORMAT, SceneExtras, TrackExtras, extras_path, to_json
from drive_wm.datasets.nuscenes_map_writer import map_points, write_expansion, write_mask
from drive_wm.datasets.nuscenes_names import NO_CAN_SCENES, attribute_name, category_name, token
from drive_wm.datasets.nuscenes_set import EMPTY_CLOUD, SCENE_TABLES, merge_set, start_set, write_part
from drive_wm.geometry import bracket, interpolate_poses, quaternion_from_rotation, wrap_angle
from drive_wm.types import FloatArray, FrameError, InputError, IntArray, Log, Poses, Track

MARGIN_M = 50.0
LARGEST_M = 1000.0  # a log that reaches further is moved near the origin: the mask covers all from there to its end
MAX_GAP_US = 600_000
PARKED_M = 0.2
CAMERA_HZ = 12.0  # nuScenes' own cameras; what is recorded faster is thinned to this
RATE_SLACK = 0.1  # a camera said to run at 12 Hz may run at 13
# full colour resolution: a lamp that is two pixels wide keeps its colour
JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
LIDAR_MOUNT = {"translation": [0.94, 0.0, 1.84], "rotation": [0.5**0.5, 0.0, 0.0, -(0.5**0.5)]}
Progress = Callable[[str], None]


@dataclass(frozen=True)
class WriteOptions:
    """keyframe_hz: rate of samples and annotations. sweep_hz: the most images a second, those between keyframes
    counted; 0 for keyframes only, None for 12 of what was recorded and for keyframes only of what is drawn.

    map_name: location of the map instead of the log's own (one log only).
    """

    version: str = "v1.0-drivewm"
    keyframe_hz: float = 2.0
    sweep_hz: float | None = None
    map_name: str | None = None
    can_bus: bool = True

    def __post_init__(self) -> None:
        sweeps = self.sweep_hz is None or self.sweep_hz >= 0
        if not re.fullmatch(r"[\w.-]+", self.version) or not self.keyframe_hz > 0 or not sweeps:
            raise InputError(f"version {self.version!r} must be a plain name, keyframe_hz ({self.keyframe_hz}) "
                             f"positive and sweep_hz ({self.sweep_hz}) not negative")


def write_nuscenes(logs: Iterable[Log], out: Path, version: str = "v1.0-drivewm", keyframe_hz: float = 2.0,
                   sweep_hz: float | None = None, progress: Progress | None = None, *, map_name: str | None = None,
                   can_bus: bool = True) -> Path:
    """Write ``logs`` as the nuScenes data set ``out`` and return it; it appears there as a whole or not at all.

    Options as in WriteOptions; progress: called with each id when written. One log at a time is held in memory.
    Raises InputError: ``out`` holds something already, no log, two logs of one id, or a log that cannot be written.
    """
    out, options = Path(out), WriteOptions(version, keyframe_hz, sweep_hz, map_name, can_bus)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} holds something already; name a new folder, or remove it first")
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        start_set(work, version)
        ids: set[str] = set()
        for log in logs:
            _check_next(log, ids, map_name)
            write_scene(log, work, len(ids), options)
            ids.add(log.id)
            if progress:
                progress(log.id)
        merge_set(work, version)
        work.chmod(0o755)
        os.replace(work, out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return out


def _check_next(log: Log, ids: set[str], map_name: str | None) -> None:
    if log.id in ids:
        raise InputError(f"two logs have the id {log.id!r}; ids must differ")
    if map_name and ids:
        raise InputError(f"map_name={map_name!r} holds one map, so only one log; leave it out for several")


def write_scene(log: Log, root: Path, number: int, options: WriteOptions = WriteOptions()) -> dict[str, Any]:
    """One log as the scene ``number`` (from 0) of the set ``root``, whose tables ``merge_set`` writes from all scenes.

    Images, maps, CAN bus and extras go to their places, the rows of the tables into a file of the scene's own, last
    and whole: a scene without one was cut off. Returns what write_part does. Processes may write scenes side by side.
    """
    writer = _Writer(_Scene(log, scene_name(number), options.keyframe_hz, options.sweep_hz), root, options)
    return write_part(root, options.version, writer.scene.name, writer.write(), log=log.id, split=log.split,
                      channels=writer.channels, frames=writer.frames)


def convert(source: str, out: Path, log_ids: Iterable[str] | None = None, **options: Any) -> Path:
    """Logs of ``KIND:PATH`` (all, or those named) as a nuScenes data set. options: those of ``write_nuscenes``."""
    from drive_wm.datasets.sources import open_source

    opened = open_source(source)
    names = opened.log_ids() if log_ids is None else log_ids
    return write_nuscenes((opened.load(name) for name in names), Path(out), **options)


def _scene_numbers() -> Iterator[int]:
    yield from (number for number in range(1, 10_000) if number not in NO_CAN_SCENES)


def scene_name(number: int) -> str:
    """The name of the scene ``number``, counted from 0; the devkit opens the CAN bus of every one of them."""
    found = next(islice(_scene_numbers(), number, None), None)
    if found is None:
        raise InputError("nuScenes numbers its scenes with four digits: write fewer than 10,000 logs a data set")
    return f"scene-{found:04d}"


def _nearest(times_us: IntArray, at_us: IntArray) -> IntArray:
    """Index of the sample nearest to each query."""
    after = np.clip(np.searchsorted(times_us, at_us), 1, max(len(times_us) - 1, 1))
    if len(times_us) == 1:
        return np.zeros(len(at_us), int)
    return np.where(at_us - times_us[after - 1] <= times_us[after] - at_us, after - 1, after)


def _pick(times_us: IntArray, grid_us: IntArray, rate_hz: float) -> dict[int, int]:
    """Frame index -> index of the grid's time that it is taken for: the nearest, no frame and no grid time twice."""
    if len(times_us) == 0 or len(grid_us) == 0:
        return {}
    index = _nearest(times_us, grid_us)
    gap = np.abs(times_us[index] - grid_us)
    chosen: dict[int, int] = {}
    for k in np.argsort(gap, kind="stable").tolist():
        if gap[k] <= 0.5e6 / rate_hz:
            chosen.setdefault(int(index[k]), k)
    return chosen


def _sweeps(times_us: IntArray, keys: list[int], most_hz: float) -> list[int]:
    """Of a camera's images those between its keyframes: every k-th from each keyframe on, k by its rate."""
    if not most_hz or len(times_us) < 2:
        return []
    step = max(1, int(np.ceil(1e6 / float(np.median(np.diff(times_us))) / most_hz - RATE_SLACK)))
    index = np.arange(len(times_us))
    slot = np.searchsorted(np.array(keys, int), index, side="right")
    since = index - np.array([0, *keys])[slot]
    until = np.array([*keys, len(times_us) + step])[slot] - index
    found = np.flatnonzero((since % step == 0) & (until >= step / 2))
    return sorted(set(found.tolist()) - set(keys))


def _links(records: list[dict[str, Any]]) -> None:
    """prev and next of a chain, empty at its ends."""
    for record in records:
        record.update(prev="", next="")
    for before, after in pairwise(records):
        before["next"], after["prev"] = after["token"], before["token"]


class _Scene:
    """One log on its way into the tables: its grid of samples, its ego poses and its place in the world."""

    def __init__(self, log: Log, name: str, keyframe_hz: float, sweep_hz: float | None) -> None:
        self.log, self.name = log, name
        keep = log.ego.valid & np.isfinite(log.ego.world_from_body).all((1, 2))
        if not keep.any():
            raise InputError(f"log {log.id}: no valid ego pose, so it has no place in the world")
        self.ego = Poses(log.ego.timestamps_us[keep], log.ego.world_from_body[keep], np.ones(keep.sum(), bool))
        self.times_us = {name: self._posed(np.asarray(log.frames.timestamps_us(name))) for name in log.rig.names}
        self.keys_us = self._keyframes(keyframe_hz)
        most_hz = (0.0 if log.frames.rendered else CAMERA_HZ) if sweep_hz is None else sweep_hz
        self.images = {name: self._images(name, keyframe_hz, most_hz) for name in log.rig.names}
        self.ego_times: set[int] = set()
        self.shift_m, self.canvas_m = self._placement()

    def _posed(self, times_us: IntArray) -> IntArray:
        return times_us[interpolate_poses(self.ego, times_us, MAX_GAP_US)[1]] if len(times_us) else times_us

    def _keyframes(self, rate_hz: float) -> IntArray:
        """The even grid, moved to the times of the first camera that has frames."""
        start, end = int(self.ego.timestamps_us[0]), int(self.ego.timestamps_us[-1])
        grid = start + np.round(np.arange(0.0, (end - start) / 1e6 + 1e-6, 1.0 / rate_hz) * 1e6).astype(np.int64)
        frames = next((times for times in self.times_us.values() if len(times)), None)
        if frames is not None:
            taken = _pick(frames, grid, rate_hz)
            moved = {k: int(frames[i]) for i, k in taken.items()}
            grid = np.unique([moved.get(k, int(t)) for k, t in enumerate(grid)])
        return self._posed(grid)

    def _images(self, camera: str, keyframe_hz: float, most_hz: float) -> list[tuple[int, int, bool]]:
        """(time, sample, is a keyframe), by time."""
        times = self.times_us[camera]
        chosen = {i: (k, True) for i, k in _pick(times, self.keys_us, keyframe_hz).items()}
        sweeps = _sweeps(times, sorted(chosen), most_hz)
        chosen.update({i: (int(k), False) for i, k in zip(sweeps, _nearest(self.keys_us, times[sweeps]), strict=True)})
        return [(int(times[i]), *chosen[i]) for i in sorted(chosen)]

    def _placement(self) -> tuple[FloatArray, tuple[float, float]]:
        """What is added to x and y so that all is positive, in whole metres, and the size of the canvas."""
        points = [self.ego.world_from_body[:, :2, 3], *map_points(self.log.map)]
        points += [track.position_m[track.valid, :2] for track in self.log.tracks]
        everything = np.concatenate(points)
        low, high = everything.min(0), everything.max(0)
        fits = (low >= 0).all() and (high <= LARGEST_M).all()
        shift = np.zeros(2) if fits else np.ceil(MARGIN_M - low)
        width, height = np.ceil(high + shift + MARGIN_M).tolist()
        return shift, (width, height)

    def token(self, *parts: object) -> str:
        return token(self.log.id, *parts)

    def file(self, camera: str, timestamp_us: int, is_key: bool) -> str:
        return f"{'samples' if is_key else 'sweeps'}/{camera}/{self.name}__{camera}__{timestamp_us}.jpg"

    def moved(self, xyz: FloatArray) -> list[float]:
        return [float(xyz[0] + self.shift_m[0]), float(xyz[1] + self.shift_m[1]), float(xyz[2])]


class _Writer:
    """Collects one scene's rows of the tables, and writes every other file."""

    def __init__(self, scene: _Scene, root: Path, options: WriteOptions) -> None:
        self.scene, self.root, self.options, self.frames = scene, root, options, 0
        self.tables: dict[str, list[dict[str, Any]]] = {table: [] for table in SCENE_TABLES}
        self.channels: dict[str, str] = {}

    def write(self) -> dict[str, list[dict[str, Any]]]:
        """Everything; returns the rows."""
        scene, log = self.scene, self.scene.log
        samples = self._samples(scene)
        location = self._log_and_map(scene)
        missing = self._images(scene, samples)
        tracks = self._annotations(scene, samples)
        self._ego_poses(scene)
        self._scene(scene, samples)
        self._extras(scene, tracks, missing)
        if log.map is not None:
            write_expansion(log.map, log.signals, log.id, scene.shift_m, scene.canvas_m,
                            self.root / "maps" / "expansion" / f"{location}.json")
        if self.options.can_bus:
            body = scene.ego.world_from_body.copy()
            body[:, :2, 3] += scene.shift_m
            write_can(replace(scene.ego, world_from_body=body), self.root / "can_bus", scene.name)
        return self.tables

    def _samples(self, scene: _Scene) -> list[dict[str, Any]]:
        samples = [{"token": scene.token("sample", k), "timestamp": int(t), "scene_token": scene.token("scene")}
                   for k, t in enumerate(scene.keys_us)]
        _links(samples)
        self.tables["sample"] += samples
        return samples

    def _scene(self, scene: _Scene, samples: list[dict[str, Any]]) -> None:
        captions = [text.text for text in scene.log.texts if text.question is None]
        self.tables["scene"].append({
            "token": scene.token("scene"), "log_token": scene.token("log"), "nbr_samples": len(samples),
            "name": scene.name, "description": ". ".join(captions) or scene.log.id,
            "first_sample_token": samples[0]["token"], "last_sample_token": samples[-1]["token"]})

    def _log_and_map(self, scene: _Scene) -> str:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", scene.log.location).strip("-") or "unknown"
        location = self.options.map_name or f"{plain}-{scene.name[-4:]}"
        day = np.datetime_as_string(np.datetime64(int(scene.keys_us[0]), "us"), "D")
        self.tables["log"].append({"token": scene.token("log"), "logfile": scene.log.id, "vehicle": scene.log.rig.name,
                                   "date_captured": str(day), "location": location})
        made = scene.token("map")
        self.tables["map"].append({"token": made, "category": "semantic_prior", "filename": f"maps/{made}.png",
                                   "log_tokens": [scene.token("log")]})
        write_mask(scene.log.map, scene.shift_m, scene.canvas_m, self.root / "maps" / f"{made}.png")
        return location

    def _mount(self, scene: _Scene, channel: str, modality: str, **record: Any) -> str:
        """calibrated_sensor of a channel of this scene; the sensor itself is shared by all scenes."""
        if not re.fullmatch(r"[\w.-]+", channel) or self.channels.setdefault(channel, modality) != modality:
            raise InputError(f"log {scene.log.id}: camera {channel!r} needs a plain name other than LIDAR_TOP")
        made = scene.token("calibrated_sensor", channel)
        self.tables["calibrated_sensor"].append({"token": made, "sensor_token": token("sensor", channel), **record})
        return made

    def _record(self, scene: _Scene, channel: str, sample: dict[str, Any], timestamp_us: int, mount: str,
                **record: Any) -> dict[str, Any]:
        scene.ego_times.add(timestamp_us)
        return {"token": scene.token("sample_data", channel, timestamp_us), "sample_token": sample["token"],
                "ego_pose_token": scene.token("ego_pose", timestamp_us), "calibrated_sensor_token": mount,
                "timestamp": timestamp_us, **record}

    def _images(self, scene: _Scene, samples: list[dict[str, Any]]) -> list[tuple[str, int]]:
        """The sample_data of every channel, and the pictures; returns the frames that could not be read."""
        missing = self._pictures(scene)
        for camera in scene.log.rig.cameras:
            rotation = quaternion_from_rotation(camera.rig_from_camera[:3, :3]).tolist()
            mount = self._mount(scene, camera.name, "camera", translation=camera.rig_from_camera[:3, 3].tolist(),
                                rotation=rotation, camera_intrinsic=camera.intrinsics.tolist())
            self._chain([self._record(scene, camera.name, samples[k], timestamp_us, mount, fileformat="jpg",
                                      is_key_frame=is_key, height=camera.height, width=camera.width,
                                      filename=scene.file(camera.name, timestamp_us, is_key))
                         for timestamp_us, k, is_key in scene.images[camera.name]
                         if (camera.name, timestamp_us) not in missing])
        mount = self._mount(scene, "LIDAR_TOP", "lidar", **LIDAR_MOUNT, camera_intrinsic=[])
        self._chain([self._record(scene, "LIDAR_TOP", sample, sample["timestamp"], mount, fileformat="pcd",
                                  is_key_frame=True, height=0, width=0, filename=EMPTY_CLOUD) for sample in samples])
        return missing

    def _pictures(self, scene: _Scene) -> list[tuple[str, int]]:
        """All images by time, not by camera: frames that are drawn come for all cameras at once."""
        missing: list[tuple[str, int]] = []
        due = [(timestamp_us, camera, is_key) for camera, images in scene.images.items()
               for timestamp_us, _, is_key in images]
        for timestamp_us, camera, is_key in sorted(due, key=lambda image: image[0]):
            try:
                self._picture(scene.log, camera, timestamp_us, self.root / scene.file(camera, timestamp_us, is_key))
                self.frames += 1
            except FrameError:
                missing.append((camera, timestamp_us))
        return missing

    def _chain(self, records: list[dict[str, Any]]) -> None:
        _links(records)
        self.tables["sample_data"] += records

    @staticmethod
    def _picture(log: Log, camera: str, timestamp_us: int, path: Path) -> None:
        image = cv2.cvtColor(log.frames.read(camera, timestamp_us), cv2.COLOR_RGB2BGR)
        ok, encoded = cv2.imencode(".jpg", image, JPEG)
        if not ok:
            raise InputError(f"log {log.id}: the frame of {camera} at {timestamp_us} cannot be written as JPEG")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded.tobytes())

    def _ego_poses(self, scene: _Scene) -> None:
        """The log's own poses, and one for every image between them."""
        times = np.array(sorted(scene.ego_times | set(scene.ego.timestamps_us.tolist())), np.int64)
        poses, _ = interpolate_poses(scene.ego, times, MAX_GAP_US)
        own = np.searchsorted(times, scene.ego.timestamps_us)
        poses[own] = scene.ego.world_from_body
        for t, pose, q in zip(times.tolist(), poses, quaternion_from_rotation(poses[:, :3, :3]).tolist(), strict=True):
            self.tables["ego_pose"].append({"token": scene.token("ego_pose", t), "timestamp": t, "rotation": q,
                                            "translation": scene.moved(pose[:3, 3])})

    def _annotations(self, scene: _Scene, samples: list[dict[str, Any]]) -> dict[str, TrackExtras]:
        """Tracks at the samples' times, where valid; a track seen between two samples only leaves no trace."""
        kept: dict[str, TrackExtras] = {}
        for track in scene.log.tracks:
            before, weight, valid = bracket(track.timestamps_us, scene.keys_us, MAX_GAP_US)
            after = np.minimum(before + 1, len(track.timestamps_us) - 1)
            valid &= (track.valid[before] | (weight == 1)) & (track.valid[after] | (weight == 0))
            if not valid.any():
                continue
            before, after, weight = before[valid], after[valid], weight[valid]
            instance = scene.token("instance", track.id)
            kept[instance] = extras = _track_extras(track, before, after, weight)
            turn = wrap_angle(track.yaw_rad[after] - track.yaw_rad[before])
            yaw = track.yaw_rad[before] + weight * turn
            position = _mix(track.position_m, before, after, weight)
            speed = _speeds(position, scene.keys_us[valid], extras.velocity_mps)
            records = [self._box(scene, track, instance, samples[k], position[i], float(yaw[i]), float(speed[i]))
                       for i, k in enumerate(np.flatnonzero(valid).tolist())]
            _links(records)
            self.tables["sample_annotation"] += records
            self.tables["instance"].append({
                "token": instance, "category_token": token("category", category_name(track)),
                "nbr_annotations": len(records), "first_annotation_token": records[0]["token"],
                "last_annotation_token": records[-1]["token"]})
        return kept

    @staticmethod
    def _box(scene: _Scene, track: Track, instance: str, sample: dict[str, Any], position: FloatArray, yaw: float,
             speed: float) -> dict[str, Any]:
        length, width, height = (float(side) for side in track.size_lwh_m)
        attribute = attribute_name(track.category, speed, _parked(track))
        return {"token": scene.token("sample_annotation", track.id, sample["timestamp"]),
                "sample_token": sample["token"], "instance_token": instance, "visibility_token": "4",
                "attribute_tokens": [token("attribute", attribute)] if attribute else [],
                "translation": scene.moved(position), "size": [width, length, height],
                "rotation": [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))],
                "num_lidar_pts": 1, "num_radar_pts": 0}  # tools drop boxes without a point

    def _extras(self, scene: _Scene, tracks: dict[str, TrackExtras], missing: list[tuple[str, int]]) -> None:
        log = scene.log
        extras = SceneExtras(
            format=FORMAT, log_id=log.id, source=log.source, rig=log.rig, shift_m=scene.shift_m,
            ego_us=scene.ego.timestamps_us, rendered=log.frames.rendered, tracks=tracks, map=log.map,
            signals=log.signals, look=log.look, texts=log.texts, reasons=log.reasons, licence=log.licence,
            location=log.location, split=log.split, metadata=log.metadata, missing=tuple(missing))
        path = extras_path(self.root / self.options.version, scene.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(to_json(extras)))


def _mix(values: FloatArray, before: IntArray, after: IntArray, weight: FloatArray) -> FloatArray:
    w = weight[:, None]
    mixed: FloatArray = np.add(values[before] * (1.0 - w), values[after] * w)
    return mixed


def _speeds(position: FloatArray, times_us: IntArray, velocity: FloatArray | None) -> FloatArray:
    if velocity is None:
        velocity = np.gradient(position[:, :2], times_us / 1e6, axis=0) if len(position) > 1 else np.zeros((1, 2))
    speeds: FloatArray = np.linalg.norm(velocity, axis=-1)
    return speeds


def _track_extras(track: Track, before: IntArray, after: IntArray, weight: FloatArray) -> TrackExtras:
    last = np.where(weight == 1, after, before)  # a lamp shows its last known state
    return TrackExtras(
        track.id, track.category, track.color_rgb, None if track.brake is None else track.brake[last],
        None if track.indicator is None else track.indicator[last],
        None if track.velocity_mps is None else _mix(track.velocity_mps, before, after, weight),
        None if track.siren is None else track.siren[last])


def _parked(track: Track) -> bool:
    """Stands for as long as it is known, and never on its brakes."""
    known = track.position_m[track.valid]
    braked = track.brake is not None and bool(track.brake[track.valid].any())
    return not braked and bool((np.ptp(known, axis=0) < PARKED_M).all())
