"""A folder with anyone's own recording: ``rig.json``, ``ego.csv`` and images or videos of one or more cameras.

Strict about structure, lenient about single rows and frames: what is damaged is masked invalid, and `health` names it.

    rig.json                            cameras: name -> width, height, intrinsics, translation_m, rotation_wxyz
    ego.csv                             timestamp_us,x_m,y_m,[z_m,roll_rad,pitch_rad,]yaw_rad[,speed_mps,...]
    frames/<camera>/<timestamp_us>.jpg  or .png; or frames/<camera>.mp4 with frames/<camera>_timestamps_us.csv

rig.json may also hold ``video_start_us``, the time of the first frame of videos without such a CSV (one for all, or by
camera), and ``origin_lat_lon_deg``, where on earth x (east) and y (north) are 0.
"""

from __future__ import annotations

import csv
import json
import re
from bisect import bisect_left
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.datasets.recorded import ImageFile, RecordedFrames, VideoFrame
from drive_wm.datasets.routes import driven_route
from drive_wm.datasets.sources import nearest
from drive_wm.datasets.video import VIDEO_SUFFIXES, open_video
from drive_wm.geometry import pose_from_quaternion, rotation_from_rpy
from drive_wm.types import (
    SPLITS,
    Camera,
    FloatArray,
    FrameError,
    Frames,
    InputError,
    IntArray,
    Log,
    Poses,
    Rig,
)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
REQUIRED_COLUMNS = ("timestamp_us", "x_m", "y_m", "yaw_rad")
OPTIONAL_COLUMNS = ("z_m", "roll_rad", "pitch_rad", "speed_mps", "accel_mps2", "yaw_rate_radps")
REPORTED_COLUMNS = ("speed_mps", "yaw_rate_radps", "yaw_rad")
MAX_IMAGE_SIDE = 16_384
MAX_TIMESTAMP_US = 2**62
MAX_POSITION_M = 2e7    # no local frame on earth is larger
RESET_US = 1_000_000    # a clock that steps back by less is jitter


# --- rig.json -----------------------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or InputError with the line."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, got a {type(value).__name__}")
    return value


def camera_from_json(name: str, value: Any) -> Camera:
    """One camera of rig.json; raises InputError naming the field."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise InputError(f"camera {name!r}: use letters, digits, '_', '-' and '.', for it names a folder")
    fields = {"width": (), "height": (), "intrinsics": (3, 3), "translation_m": (3,), "rotation_wxyz": (4,)}
    missing = [field for field in fields if not isinstance(value, dict) or field not in value]
    if missing:
        raise InputError(f"camera {name}: {', '.join(missing)} missing")
    arrays = {}
    for field, shape in fields.items():
        try:
            arrays[field] = np.array(value[field], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"camera {name}: {field} is not made of numbers ({error})") from error
        if arrays[field].shape != shape or not np.isfinite(arrays[field]).all():
            raise InputError(f"camera {name}: {field} must be finite of shape {shape}, got shape {arrays[field].shape}")
    width, height = int(arrays["width"]), int(arrays["height"])
    if not (0 < width <= MAX_IMAGE_SIDE and 0 < height <= MAX_IMAGE_SIDE):
        raise InputError(f"camera {name}: size {width} x {height}, expected 1 to {MAX_IMAGE_SIDE} pixels a side")
    if min(arrays["intrinsics"][0, 0], arrays["intrinsics"][1, 1]) <= 0:
        raise InputError(f"camera {name}: focal lengths must be positive pixels")
    rig_from_camera = pose_from_quaternion(arrays["translation_m"], arrays["rotation_wxyz"])
    return Camera(name, width, height, arrays["intrinsics"], rig_from_camera)


def read_rig(path: Path) -> tuple[Rig, dict[str, Any]]:
    """The rig and the whole of rig.json; every error names the file."""
    value = read_json(path)
    cameras = value.get("cameras")
    if not isinstance(cameras, dict) or not cameras:
        raise InputError(f"{path}: expected 'cameras': {{name: {{width, height, intrinsics, ...}}}}")
    try:
        built = tuple(camera_from_json(name, camera) for name, camera in cameras.items())
        rig = Rig(str(value.get("name", path.parent.name)), built)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return rig, value


# --- ego.csv ------------------------------------------------------------------------------------------------------


def increasing(times: IntArray) -> IntArray:
    """Indices of the longest strictly increasing run through ``times``: dropping the rest drops the fewest rows."""
    tails: list[int] = []
    tail_index: list[int] = []
    before = np.full(len(times), -1, dtype=np.int64)
    for i, value in enumerate(times.tolist()):
        at = bisect_left(tails, value)
        before[i] = tail_index[at - 1] if at else -1
        tails[at:at + 1], tail_index[at:at + 1] = [value], [i]
    kept, i = [], tail_index[-1] if tail_index else -1
    while i >= 0:
        kept.append(i)
        i = int(before[i])
    return np.array(kept[::-1], dtype=np.int64)


def number(text: str | None) -> float:
    """A cell as a number; empty or not a number gives NaN, which masks the row."""
    try:
        return float(text) if text else np.nan
    except ValueError:
        return np.nan


def timestamp(text: str | None) -> int:
    """A cell as whole microseconds, exactly; -1 where it is none."""
    try:
        value = int(text or "")
    except ValueError:
        real = number(text)
        value = round(real) if np.isfinite(real) else -1
    return value if 0 <= value < MAX_TIMESTAMP_US else -1


def read_table(path: Path) -> dict[str, list[str | None]]:
    """The columns of a CSV file with a header; raises InputError where one that is required is missing."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            header = [str(name).strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV: {getattr(error, 'strerror', None) or error}") from error
    for column in REQUIRED_COLUMNS:
        if column not in header:
            raise InputError(f"{path}: no column {column!r}{nearest(column, header)}")
    return {column: [row.get(column) for row in rows] for column in header}


def reported(values: FloatArray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def read_ego(path: Path) -> tuple[Poses, dict[str, Any]]:
    """The rig's poses, and what `health` needs to judge them: the columns as reported, and the lines dropped.

    A row with a NaN, or a place not on earth, is kept with valid False; a row whose time does not increase is dropped.
    Raises InputError where no row is valid.
    """
    table = read_table(path)
    raw_times = np.array([timestamp(text) for text in table["timestamp_us"]], dtype=np.int64)
    readable = np.flatnonzero(raw_times >= 0)
    kept = readable[increasing(raw_times[readable])]
    columns = {name: np.array([number(text) for text in table[name]], dtype=np.float64)[kept]
               for name in (*REQUIRED_COLUMNS[1:], *OPTIONAL_COLUMNS) if name in table}
    attitude = {name: np.zeros(len(kept)) for name in ("z_m", "roll_rad", "pitch_rad")}
    for name in attitude.keys() & columns.keys():  # an empty cell is 0, a written NaN is damage
        empty = np.array([not table[name][i] for i in kept], dtype=bool)
        attitude[name] = np.where(empty, 0.0, columns[name])
    parts = {**columns, **attitude}
    pose = np.stack([parts[name] for name in ("x_m", "y_m", "z_m", "roll_rad", "pitch_rad", "yaw_rad")], -1)
    valid = np.isfinite(pose).all(1) & (np.abs(pose) < MAX_POSITION_M).all(1)
    if not valid.any():
        raise InputError(f"{path}: none of its {len(raw_times)} rows is a valid pose; "
                         f"expected numbers in {', '.join(REQUIRED_COLUMNS)}")
    pose = pose[nearest_valid(valid)]
    world_from_body = np.tile(np.eye(4), (len(kept), 1, 1))
    world_from_body[:, :3, 3], world_from_body[:, :3, :3] = pose[:, :3], rotation_from_rpy(*pose[:, 3:].T)
    dropped = sorted(set(range(len(raw_times))) - set(kept.tolist()))
    times = raw_times[kept]
    doubtful = np.isin(times, contested(table, raw_times, dropped))
    facts = {"dropped_rows": len(dropped), "dropped_lines": [i + 2 for i in dropped[:5]],
             "doubtful_us": times[doubtful].tolist(), **clock_resets(raw_times, readable),
             "reported": {name: reported(columns[name]) for name in REPORTED_COLUMNS if name in columns}}
    return Poses(times, world_from_body, valid & ~doubtful), facts


def contested(table: dict[str, list[str | None]], times_us: IntArray, dropped: list[int]) -> IntArray:
    """Times that two rows claim which do not say the same: nobody knows which of them is right."""
    rows = list(zip(*table.values()))
    first: dict[int, int] = {}
    clash = {int(times_us[i]) for i in range(len(rows)) if rows[first.setdefault(int(times_us[i]), i)] != rows[i]}
    return np.array(sorted(clash & {int(times_us[i]) for i in dropped}), dtype=np.int64)


def clock_resets(times_us: IntArray, rows: IntArray) -> dict[str, Any]:
    """Where the clock stepped back and went on from there: [line, seconds] each, and the time from which that hurts."""
    t = times_us[rows]
    back = [i for i in range(2, len(t) - 2) if t[i - 1] - t[i] > RESET_US and t[i] < t[i - 2] and t[i + 2] < t[i - 1]
            and t[i] < t[i + 1] < t[i + 2]]
    if not back:
        return {}
    return {"clock_resets": [[int(rows[i]) + 2, float(t[i - 1] - t[i]) / 1e6] for i in back],
            "clock_reset_us": int(min(t[i] for i in back))}


def nearest_valid(valid: FloatArray) -> IntArray:
    """For each row the index of a valid one, itself where it is: masked rows still hold a finite pose."""
    known = np.flatnonzero(valid)
    return known[np.clip(np.searchsorted(known, np.arange(len(valid)), side="right") - 1, 0, None)]


# --- frames -------------------------------------------------------------------------------------------------------


def list_images(folder: Path) -> dict[int, ImageFile | VideoFrame]:
    """time -> image of one camera's folder; a name that is no time raises InputError."""
    images: dict[int, ImageFile | VideoFrame] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        if not re.fullmatch(r"[0-9]{1,19}", path.stem) or int(path.stem) >= MAX_TIMESTAMP_US:
            raise InputError(f"{path}: expected an image named by its time, <timestamp_us>{path.suffix}")
        if int(path.stem) in images:
            raise InputError(f"{path}: two images of one camera at the same time")
        images[int(path.stem)] = ImageFile(path)
    return images


def list_video(path: Path, start_us: int | None) -> dict[int, ImageFile | VideoFrame]:
    """time -> frame of one camera's video: from the times beside it, else its own from ``start_us`` on."""
    times_path = path.with_name(f"{path.stem}_timestamps_us.csv")
    if times_path.is_file():
        times = video_times(times_path, path)
    elif start_us is None:
        raise InputError(f"{path}: needs {times_path.name} beside it, one time a line in the order of the frames, or "
                         "video_start_us in rig.json, the time of its first frame")
    else:
        try:
            times = (start_us + open_video(path).times_us).tolist()
        except FrameError as error:
            raise InputError(f"{path}: its frames have no times: {error}") from error
    return {time: VideoFrame(path, i) for i, time in enumerate(times)}


def video_times(path: Path, video: Path) -> list[int]:
    """The times of a video's frames, written one a line. As many as it has frames, else nobody knows whose they are."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    lines = [line.split(",")[0].strip() for line in text.splitlines() if line.strip()]
    lines = lines[1:] if lines and timestamp(lines[0]) < 0 else lines
    times = [timestamp(line) for line in lines]
    if not times or min(times) < 0 or len(set(times)) != len(times):
        raise InputError(f"{path}: expected one different whole number of microseconds a line")
    try:
        count = len(open_video(video))
    except FrameError:
        return times  # each of its frames is broken, which `health` names; other cameras may be whole
    if count != len(times):
        raise InputError(f"{path}: has {len(times)} times, but {video.name} has {count} frames; write one line a frame")
    return times


def video_starts(described: dict[str, Any], rig: Rig) -> dict[str, int]:
    """camera -> time of the first frame of its video, as far as rig.json tells; raises InputError."""
    told = described.get("video_start_us", {})
    starts = told if isinstance(told, dict) else dict.fromkeys(rig.names, told)
    for name, start in starts.items():
        if name not in rig.names:
            raise InputError(f"video_start_us: no camera {name!r}{nearest(name, list(rig.names))}")
        if type(start) is not int or not 0 <= start < MAX_TIMESTAMP_US:
            raise InputError(f"video_start_us: expected whole microseconds, got {start!r}")
    return starts


def origin(described: dict[str, Any]) -> list[float]:
    """[latitude, longitude] in degrees of the drive's x = y = 0; raises InputError where it is no place on earth."""
    try:
        latitude, longitude = (float(value) for value in described["origin_lat_lon_deg"])
    except (TypeError, ValueError) as error:
        raise InputError(f"origin_lat_lon_deg {described['origin_lat_lon_deg']!r}: expected [latitude, longitude]") \
            from error
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        raise InputError(f"origin_lat_lon_deg [{latitude}, {longitude}]: expected degrees, the latitude first")
    return [latitude, longitude]


def find_frames(folder: Path, rig: Rig, starts: dict[str, int]) -> RecordedFrames:
    """The images of a drive folder; a camera that rig.json does not have raises InputError naming it."""
    root = folder / "frames"
    if not root.is_dir():
        raise InputError(f"{folder}: no folder 'frames'; expected frames/<camera>/<timestamp_us>.jpg")
    images: dict[str, dict[int, ImageFile | VideoFrame]] = {}
    for path in sorted([*root.iterdir(), *(p for p in folder.iterdir() if p.is_file())]):
        if path.name.startswith(".") or not (path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES):
            continue
        name = path.name if path.is_dir() else path.stem
        if name not in rig.names:
            raise InputError(f"{path}: rig.json has no camera {name!r}{nearest(name, list(rig.names))}")
        if name in images:
            raise InputError(f"{path}: camera {name} has more than one folder of images or video; keep one")
        images[name] = list_images(path) if path.is_dir() else list_video(path, starts.get(name))
    if not any(images.values()):
        raise InputError(f"{root}: holds no image; expected <camera>/<timestamp_us>.jpg of {', '.join(rig.names)}")
    return RecordedFrames(rig, images)


class DriveFolderSource:
    """One drive folder, or a folder of drive folders."""

    kind = "drive_folder"

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise InputError(f"{self.path}: expected a folder with rig.json, or a folder of such folders")
        whole = (self.path / "rig.json").is_file()
        folders = [self.path.resolve()] if whole else sorted(p.parent for p in self.path.glob("*/rig.json"))
        if not folders:
            raise InputError(f"{self.path}: neither it nor a folder in it has a rig.json")
        self.folders = {folder.name: folder for folder in folders}

    def log_ids(self) -> list[str]:
        return list(self.folders)

    def load(self, log_id: str) -> Log:
        """The drive; raises InputError for a broken structure, never for a single damaged row or image."""
        if log_id not in self.folders:
            raise InputError(f"{self.path}: no drive {log_id!r}{nearest(log_id, self.log_ids())}")
        folder = self.folders[log_id]
        rig, described = read_rig(folder / "rig.json")
        ego, facts = read_ego(folder / "ego.csv")
        split = described.get("split", "train")
        if split not in SPLITS:
            raise InputError(f"{folder / 'rig.json'}: split {split!r}, expected one of {', '.join(SPLITS)}")
        words: dict[str, Any] = {key: str(described[key]) for key in ("source", "calibration") if key in described}
        try:
            starts = video_starts(described, rig)
            words |= {"origin_lat_lon_deg": origin(described)} if "origin_lat_lon_deg" in described else {}
        except InputError as error:
            raise InputError(f"{folder / 'rig.json'}: {error}") from error
        frames: Frames = find_frames(folder, rig, starts)
        return Log(id=log_id, source=self.kind, rig=rig, ego=ego, frames=frames, split=split,
                   licence=str(described.get("licence", "unknown")), location=str(described.get("location", "unknown")),
                   metadata={**words, **facts, "route": np.round(driven_route(ego), 3).tolist()})
