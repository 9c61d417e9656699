"""nuScenes in: every scene a Log, through the real nuscenes-devkit; the real cities and the sets that we write alike.

Scenes that we wrote carry extras (``nuscenes_extras``) and come back whole; a foreign scene has what its tables hold:
six cameras or any number, ego poses of every sensor, annotations, and the map expansion where it is installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from drive_wm.datasets.nuscenes_extras import SceneExtras, TrackExtras, extras_path, read_extras
from drive_wm.datasets.nuscenes_map import read_expansion
from drive_wm.datasets.nuscenes_names import CATEGORY_OF, TABLES, token
from drive_wm.datasets.recorded import ImageFile, RecordedFrames
from drive_wm.datasets.sources import nearest
from drive_wm.geometry import pose_from_quaternion
from drive_wm.types import (
    SPLITS,
    Camera,
    FloatArray,
    InputError,
    IntArray,
    Log,
    Look,
    Poses,
    Rig,
    RoadMap,
    Signal,
    Text,
    Track,
)

LICENCE = "CC BY-NC-SA 4.0 with the nuScenes terms of use (non-commercial)"
MAP_MARGIN_M = 120.0
MAX_VELOCITY_GAP_US = 1_500_000  # as the devkit's box_velocity


@contextmanager
def _whole(what: str) -> Iterator[None]:
    """Any way in which damaged tables make reading fail, told as one InputError."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, AssertionError, OSError) as error:
        raise InputError(f"{what} cannot be read: {error!r}; tables and maps/ must be whole and of one set") from error


def _devkit() -> Any:
    try:
        from nuscenes.nuscenes import NuScenes
    except ImportError as error:
        raise InputError(f"reading nuScenes needs its devkit ({error}): pip install nuscenes-devkit") from error
    return NuScenes


def find_version(path: str | Path) -> tuple[Path, str]:
    """ROOT or ROOT@VERSION -> (root, version). Raises InputError where no version, or more than one, is there."""
    text = str(path)
    root, version = (Path(text), "") if Path(text).is_dir() or "@" not in text else \
        (Path(text.rpartition("@")[0]), text.rpartition("@")[2])
    root = root.expanduser()
    if not root.is_dir():
        raise InputError(f"no folder {root}; expected the root of a nuScenes data set, with samples/ and maps/")
    found = sorted(p.parent.name for p in root.glob("*/scene.json"))
    if version and version not in found:
        raise InputError(f"{root} has no version {version!r}; it has {', '.join(found) or 'none'}")
    if not version and len(found) != 1:
        raise InputError(f"{root} has {len(found)} versions ({', '.join(found) or 'no folder with a scene.json'}); "
                         f"say which: {root}@VERSION")
    version = version or found[0]
    if missing := [table for table in TABLES if not (root / version / f"{table}.json").is_file()]:
        raise InputError(f"{root / version} lacks {', '.join(f'{table}.json' for table in missing)}: "
                         "a nuScenes version has 13 tables")
    return root, version


def open_map(root: str | Path, location: str) -> Any:
    """The devkit's NuScenesMap of any location, able to draw. The devkit itself lets the four real cities pass only."""
    _devkit()
    from nuscenes.map_expansion import map_api

    if not (Path(root) / "maps" / "expansion" / f"{location}.json").is_file():
        raise InputError(f"{root} has no map expansion maps/expansion/{location}.json")
    if location not in map_api.locations:
        map_api.locations.append(location)
    map_api.descartes = SimpleNamespace(PolygonPatch=_polygon_patch)
    return map_api.NuScenesMap(dataroot=str(root), map_name=location)


def _polygon_patch(polygon: Any, **look: Any) -> Any:
    """descartes.PolygonPatch for shapely 2: descartes itself, by which the devkit draws maps, knows shapely 1 only."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    parts = getattr(polygon, "geoms", [polygon])
    rings = [np.asarray(ring.coords)[:, :2] for part in parts for ring in (part.exterior, *part.interiors)]
    return PathPatch(Outline.make_compound_path(*(Outline(ring, closed=True) for ring in rings)), **look)


class NuScenesSource:
    """Logs of one version of a nuScenes data set. A log's id is its scene's name, or the id it was written under."""

    kind = "nuscenes"
    takes_path = False  # ROOT@VERSION is no path

    def __init__(self, path: str | Path) -> None:
        self.root, self.version = find_version(path)

    @cached_property
    def nusc(self) -> Any:
        """The devkit's database, loaded on first use."""
        with _whole(str(self.root / self.version)):
            return _devkit()(version=self.version, dataroot=str(self.root), verbose=False)

    @cached_property
    def scenes(self) -> dict[str, dict[str, Any]]:
        """Log id -> scene record."""
        found: dict[str, dict[str, Any]] = {}
        with _whole(str(self.root / self.version / "scene.json")):
            for scene in self.nusc.scene:
                ours = extras_path(self.root / self.version, scene["name"]).is_file()
                found[self.nusc.get("log", scene["log_token"])["logfile"] if ours else scene["name"]] = scene
        return found

    @cached_property
    def splits(self) -> dict[str, str]:
        """Scene name -> split: splits.json of the version if it is there, else the devkit's official lists."""
        path = self.root / self.version / "splits.json"
        with _whole(str(path)):
            if path.is_file():
                lists = json.loads(path.read_text())
            else:
                from nuscenes.utils.splits import create_splits_scenes

                lists = create_splits_scenes()
            return {name: split for split in SPLITS for key in (f"mini_{split}", split) for name in lists.get(key, ())}

    def log_ids(self) -> list[str]:
        return list(self.scenes)

    def load(self, log_id: str) -> Log:
        """One scene as a Log; images stay on disk. Raises InputError for an unknown id or broken tables."""
        if log_id not in self.scenes:
            raise InputError(f"{self.root}: no log {log_id!r}{nearest(log_id, self.log_ids())}")
        with _whole(f"scene {log_id} of {self.root / self.version}"):
            return self._load(log_id, self.scenes[log_id])

    def _load(self, log_id: str, scene: dict[str, Any]) -> Log:
        extras = read_extras(self.root / self.version, scene["name"])
        samples = list(self._chain("sample", scene["first_sample_token"]))
        channels = self._channels(samples)
        rig = self._rig(channels, extras)
        location = self.nusc.get("log", scene["log_token"])["location"]
        frames = RecordedFrames(rig, {channel: {r["timestamp"]: ImageFile(self.root / r["filename"]) for r in records}
                                      for channel, records in channels.items() if channel in rig.names})
        split = self.splits.get(scene["name"], "train")
        ego, tracks = self._ego(channels, extras), self._tracks(samples, extras)
        if extras:
            frames.rendered = extras.rendered
            return Log(log_id, extras.source, rig, ego, frames, tracks, extras.map, _int8_states(extras.signals),
                       extras.look, extras.texts, extras.reasons, extras.licence, extras.location, split,
                       extras.metadata)
        road_map, signals = self._map(location, ego, tracks)
        texts = (Text(int(ego.timestamps_us[0]), int(ego.timestamps_us[-1]), scene["description"]),) \
            if scene["description"] else ()
        return Log(log_id, "nuscenes", rig, ego, frames, tracks, road_map, signals, _look(scene["description"]), texts,
                   licence=LICENCE, location=location, split=split, metadata={"scene_token": scene["token"]})

    def _chain(self, table: str, first: str, link: str = "next") -> Iterator[dict[str, Any]]:
        """The record of a token and those after it. Raises InputError where they run in a circle."""
        seen: set[str] = set()
        while first:
            if first in seen:
                raise InputError(f"{self.root / self.version}/{table}.json: the records after {first} run in a circle")
            seen.add(first)
            record = self.nusc.get(table, first)
            yield record
            first = record[link]

    def _channels(self, samples: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
        """Channel -> its sample_data of the scene by time, keyframes and sweeps; radars are left aside."""
        heads: dict[str, str] = {}
        for sample in samples:
            for channel, made in sample["data"].items():
                heads.setdefault(channel, made)
        found = {}
        for channel, made in heads.items():
            record = self.nusc.get("sample_data", made)
            if record["sensor_modality"] in ("camera", "lidar"):
                before = list(self._chain("sample_data", record["prev"], "prev"))
                found[channel] = [*before[::-1], *self._chain("sample_data", made)]
        return found

    def _rig(self, channels: dict[str, list[dict[str, Any]]], extras: SceneExtras | None) -> Rig:
        """Cameras by the calibration of their first image; a camera of ours without any image, as it was written."""
        cameras: dict[str, Camera] = {camera.name: camera for camera in extras.rig.cameras} if extras else {}
        for channel, records in channels.items():
            if records[0]["sensor_modality"] == "camera":
                mount = self.nusc.get("calibrated_sensor", records[0]["calibrated_sensor_token"])
                try:
                    pose = pose_from_quaternion(np.array(mount["translation"]), np.array(mount["rotation"]))
                except InputError as error:
                    path = self.root / self.version / "calibrated_sensor.json"
                    raise InputError(f"{path}: camera {channel}: {error}") from error
                intrinsics = np.array(mount["camera_intrinsic"], np.float64)
                cameras[channel] = Camera(channel, records[0]["width"], records[0]["height"], intrinsics, pose)
        return Rig(extras.rig.name if extras else "nuscenes", tuple(cameras.values()))

    def _ego(self, channels: dict[str, list[dict[str, Any]]], extras: SceneExtras | None) -> Poses:
        """The log's own poses where we wrote them, else those of all cameras and lidars, merged by time."""
        if extras:
            records = [self.nusc.get("ego_pose", token(extras.log_id, "ego_pose", int(t))) for t in extras.ego_us]
        else:
            records = [self.nusc.get("ego_pose", record["ego_pose_token"]) for of in channels.values() for record in of]
        by_time = {record["timestamp"]: record for record in reversed(records)}
        times = sorted(by_time)
        poses = _poses(_unshift([by_time[t]["translation"] for t in times], extras),
                       [by_time[t]["rotation"] for t in times])
        return Poses(np.array(times, np.int64), poses, np.isfinite(poses).all((1, 2)))

    def _tracks(self, samples: list[dict[str, Any]], extras: SceneExtras | None) -> tuple[Track, ...]:
        """Instances at the samples from their first to their last annotation, invalid where one lacks."""
        seen: dict[str, dict[int, dict[str, Any]]] = {}
        for k, sample in enumerate(samples):
            for made in sample["anns"]:
                record = self.nusc.get("sample_annotation", made)
                seen.setdefault(record["instance_token"], {})[k] = record
        if extras:  # the order in which they were written
            seen = {key: seen[key] for key in sorted(seen, key=list({**extras.tracks, **seen}).index)}
        times = np.array([sample["timestamp"] for sample in samples], np.int64)
        return tuple(_track(instance, records, times, extras) for instance, records in seen.items())

    def _map(self, location: str, ego: Poses, tracks: tuple[Track, ...]) -> tuple[RoadMap | None, tuple[Signal, ...]]:
        path = self.root / "maps" / "expansion" / f"{location}.json"
        if not path.is_file():
            return None, ()
        points = ego.world_from_body[ego.valid, :2, 3]
        if not len(points):
            return None, ()
        road_map, signals = read_expansion(path, points.min(0) - MAP_MARGIN_M, points.max(0) + MAP_MARGIN_M, location)
        return road_map, tuple(replace(signal, timestamps_us=ego.timestamps_us[:1]) for signal in signals)


def _unshift(translation: list[Any], extras: SceneExtras | None) -> FloatArray:
    moved = np.array(translation, np.float64).reshape(-1, 3)
    if extras:
        moved[:, :2] -= extras.shift_m
    return moved


def _poses(translation_m: FloatArray, wxyz: list[Any]) -> FloatArray:
    """(N, 3) and N quaternions -> (N, 4, 4). Without a rotation there is no place either: it is NaN, as damage is."""
    rotation = np.array(wxyz, np.float64)
    lost = ~(np.linalg.norm(rotation, axis=1) > 1e-6) | ~np.isfinite(rotation).all(1)
    return pose_from_quaternion(np.where(lost[:, None], np.nan, translation_m),
                                np.where(lost[:, None], [1.0, 0.0, 0.0, 0.0], rotation))


def _int8_states(signals: tuple[Signal, ...]) -> tuple[Signal, ...]:
    return tuple(replace(signal, state=signal.state.astype(np.int8)) for signal in signals)


def _look(description: str) -> Look:
    """Weather and time of day as nuScenes' scene descriptions tell them."""
    words = description.lower()
    return Look("rain" if "rain" in words else "clear", -0.3 if "night" in words else 0.8)


def _track(instance: str, records: dict[int, dict[str, Any]], times_us: IntArray, extras: SceneExtras | None) -> Track:
    """records: sample index -> annotation. Velocities are central differences where nothing better was written."""
    rows = np.array(sorted(records))
    first, last = int(rows[0]), int(rows[-1])
    ordered = [records[k] for k in rows.tolist()]
    name = ordered[0]["category_name"]
    if name not in CATEGORY_OF:
        raise InputError(f"unknown nuScenes category {name!r}; known are {', '.join(CATEGORY_OF)}")
    count, at = last - first + 1, rows - first

    def spread(values: Any, dtype: Any) -> Any:
        values = np.asarray(values, dtype)
        out = np.zeros((count, *values.shape[1:]), dtype)
        out[at] = values
        return out

    poses = _poses(_unshift([record["translation"] for record in ordered], extras), [r["rotation"] for r in ordered])
    position = poses[:, :3, 3]
    width, length, height = ordered[0]["size"]
    own = extras.tracks.get(instance) if extras else None
    if own is None or len(ordered) != _annotated(own, len(ordered)):
        own = TrackExtras(own.id if own else instance, own.category if own else CATEGORY_OF[name],
                          own.color_rgb if own else None)
    velocity = own.velocity_mps if own.velocity_mps is not None else _velocity(position, times_us[rows])
    return Track(
        own.id, own.category, np.array([length, width, height], np.float64), times_us[first:last + 1],
        spread(position, np.float64), spread(np.arctan2(poses[:, 1, 0], poses[:, 0, 0]), np.float64),
        spread(np.isfinite(position).all(1), bool), None if velocity is None else spread(velocity, np.float64),
        own.color_rgb,
        None if own.brake is None else spread(own.brake, bool),
        None if own.indicator is None else spread(own.indicator, np.int8),
        None if own.siren is None else spread(own.siren, bool))


def _annotated(own: TrackExtras, otherwise: int) -> int:
    """Number of annotations that the extras speak of: it differs where someone edited the tables since."""
    lists = [values for values in (own.brake, own.indicator, own.velocity_mps, own.siren) if values is not None]
    return len(lists[0]) if lists else otherwise


def _velocity(position: FloatArray, times_us: IntArray) -> FloatArray | None:
    """(N, 2), None where annotations lie too far apart to tell."""
    if len(position) < 2 or np.diff(times_us).max() > MAX_VELOCITY_GAP_US:
        return None
    velocity: FloatArray = np.gradient(position[:, :2], times_us / 1e6, axis=0)
    return velocity
