"""Argoverse 2 sensor logs, read from their feather tables and map JSON; drawn where their images are absent.

    <log>/city_SE3_egovehicle.feather  annotations.feather  calibration/*.feather  map/log_map_archive_*.json
    <log>/sensors/cameras/<camera>/<timestamp_ns>.jpg     optional

The world is the data set's city frame. Its ego frame lies at the centre of the rear axle; ours lies on the ground
below it, so WHEEL_RADIUS_M is taken from the poses and added to the cameras. Tracks do not change by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.datasets.drive_folder import increasing, read_json
from drive_wm.datasets.recorded import ImageFile, RecordedFrames, VideoFrame
from drive_wm.datasets.routes import driven_route
from drive_wm.datasets.sources import nearest
from drive_wm.geometry import pose_from_quaternion, project_to_polyline, resample_polyline, wrap_angle, xyyaw_from_pose
from drive_wm.types import (
    SPLITS,
    BoolArray,
    Camera,
    FloatArray,
    FrameError,
    InputError,
    IntArray,
    Lane,
    Log,
    Marking,
    Poses,
    Rig,
    RoadMap,
    Track,
)

WHEEL_RADIUS_M = 0.33
RENDER_HZ = 10.0
ROUTE_AHEAD_M, BLEND_M = 60.0, 20.0
RENDER_HEIGHT_PX = 256
MAX_POSE_GAP_NS = 50_000_000  # an annotation further than this from any pose cannot be placed
LICENCE = "CC BY-NC-SA 4.0"
RING_CAMERAS = ("ring_front_center", "ring_front_left", "ring_front_right", "ring_side_left", "ring_side_right",
                "ring_rear_left", "ring_rear_right")

# A rider and the bicycle below it are annotated as two boxes, and stay two tracks. Anything unlisted is an object.
CATEGORY_OF = {
    "REGULAR_VEHICLE": "car", "LARGE_VEHICLE": "truck", "BOX_TRUCK": "truck", "TRUCK": "truck", "TRUCK_CAB": "truck",
    "VEHICULAR_TRAILER": "truck", "BUS": "bus", "SCHOOL_BUS": "bus", "ARTICULATED_BUS": "bus", "RAILED_VEHICLE": "bus",
    "MOTORCYCLE": "motorcycle", "MOTORCYCLIST": "motorcycle", "BICYCLE": "bicycle", "BICYCLIST": "bicycle",
    "WHEELED_DEVICE": "bicycle", "WHEELED_RIDER": "pedestrian", "PEDESTRIAN": "pedestrian", "WHEELCHAIR": "pedestrian",
    "OFFICIAL_SIGNALER": "pedestrian", "STROLLER": "pedestrian",
    "ANIMAL": "object", "DOG": "object", "BOLLARD": "object", "CONSTRUCTION_BARREL": "object", "SIGN": "object",
    "CONSTRUCTION_CONE": "object", "STOP_SIGN": "object", "MESSAGE_BOARD_TRAILER": "object",
    "MOBILE_PEDESTRIAN_CROSSING_SIGN": "object", "TRAFFIC_LIGHT_TRAILER": "object",
}
# mark type -> style and total width; a double line is one wide line
MARKING_OF = {
    "SOLID_WHITE": ("white solid", 0.15), "DASHED_WHITE": ("white dashed", 0.15),
    "SOLID_YELLOW": ("yellow solid", 0.15), "DASHED_YELLOW": ("yellow dashed", 0.15),
    "DOUBLE_SOLID_WHITE": ("white solid", 0.35), "DOUBLE_DASH_WHITE": ("white dashed", 0.35),
    "DOUBLE_SOLID_YELLOW": ("yellow solid", 0.35), "DOUBLE_DASH_YELLOW": ("yellow dashed", 0.35),
    "SOLID_DASH_WHITE": ("white solid", 0.35), "DASH_SOLID_WHITE": ("white solid", 0.35),
    "SOLID_DASH_YELLOW": ("yellow solid", 0.35), "DASH_SOLID_YELLOW": ("yellow solid", 0.35),
    "SOLID_BLUE": ("white solid", 0.15), "NONE": ("none", 0.15), "UNKNOWN": ("none", 0.15),
}
DRIVEN_LANE_TYPES = ("VEHICLE", "BUS")


# --- tables -------------------------------------------------------------------------------------------------------


def read_feather(path: Path, columns: tuple[str, ...]) -> dict[str, Any]:
    """Columns of a feather table as arrays; raises InputError where the file, a column or pyarrow is missing."""
    try:
        from pyarrow import feather
    except ImportError as error:
        raise InputError(f"reading Argoverse 2 needs pyarrow ({error}): pip install 'pyarrow>=17,<26'") from error
    try:
        table = feather.read_table(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a feather table: {error}") from error
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise InputError(f"{path}: columns {', '.join(missing)} missing; it has {', '.join(table.column_names)}")
    return {column: np.array(table[column].to_pylist()) for column in columns}


QUATERNION, TRANSLATION, SIZE = ("qw", "qx", "qy", "qz"), ("tx_m", "ty_m", "tz_m"), ("length_m", "width_m", "height_m")


def poses_of(table: dict[str, Any]) -> FloatArray:
    """(N, 4, 4) of the rows of a table."""
    translation, quaternion = (np.stack([table[c] for c in names], -1) for names in (TRANSLATION, QUATERNION))
    return pose_from_quaternion(translation, quaternion)


def lifted(height_m: float) -> FloatArray:
    pose = np.eye(4)
    pose[2, 3] = height_m
    return pose


def read_ego(folder: Path) -> tuple[IntArray, FloatArray]:
    """Times in ns (N,) and city_from_axle (N, 4, 4), sorted, times different in microseconds too."""
    table = read_feather(folder / "city_SE3_egovehicle.feather", ("timestamp_ns", *QUATERNION, *TRANSLATION))
    order = np.argsort(table["timestamp_ns"], kind="stable")
    kept = order[increasing(table["timestamp_ns"][order] // 1000)]
    if not len(kept):
        raise InputError(f"{folder}: city_SE3_egovehicle.feather has no pose")
    return table["timestamp_ns"][kept], poses_of(table)[kept]


def read_rig(folder: Path) -> Rig:
    """The ring cameras with their own sizes. Images are taken as undistorted, as by the data set's own camera model."""
    inner_columns = ("sensor_name", "fx_px", "fy_px", "cx_px", "cy_px", "width_px", "height_px")
    inner = read_feather(folder / "calibration" / "intrinsics.feather", inner_columns)
    outer_columns = ("sensor_name", *QUATERNION, *TRANSLATION)
    outer = read_feather(folder / "calibration" / "egovehicle_SE3_sensor.feather", outer_columns)
    rig_from_sensor = dict(zip(outer["sensor_name"].tolist(), lifted(WHEEL_RADIUS_M) @ poses_of(outer)))
    rows = {name: i for i, name in enumerate(inner["sensor_name"].tolist())}
    names = [name for name in RING_CAMERAS if name in rows and name in rig_from_sensor]
    if not names:
        raise InputError(f"{folder}: calibration has none of the cameras {', '.join(RING_CAMERAS)}")
    cameras = []
    for name in names:
        fx, fy, cx, cy, width, height = (float(inner[column][rows[name]]) for column in inner_columns[1:])
        matrix = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
        cameras.append(Camera(name, int(width), int(height), matrix, rig_from_sensor[name]))
    return Rig("argoverse2", tuple(cameras))


def shrunk(rig: Rig, height_px: int) -> Rig:
    """The rig with no image higher than ``height_px``, proportions kept."""
    def one(camera: Camera) -> Camera:
        scale = min(1.0, height_px / camera.height)
        return camera.resized(max(1, round(camera.width * scale)), max(1, round(camera.height * scale)))
    return Rig(rig.name, tuple(one(camera) for camera in rig.cameras))


def read_tracks(folder: Path, ego_ns: IntArray, city_from_axle: FloatArray) -> tuple[tuple[Track, ...], Counter[str]]:
    """Boxes carried from the ego frame of their time to the city frame; and how many rows had an unlisted category."""
    path = folder / "annotations.feather"
    if not path.is_file():
        return (), Counter()
    table = read_feather(path, ("timestamp_ns", "track_uuid", "category", *SIZE, *QUATERNION, *TRANSLATION))
    after = np.clip(np.searchsorted(ego_ns, table["timestamp_ns"]), 1, len(ego_ns) - 1)
    closer = np.abs(ego_ns[after - 1] - table["timestamp_ns"]) <= np.abs(ego_ns[after] - table["timestamp_ns"])
    near = np.where(closer, after - 1, after)
    if (np.abs(ego_ns[near] - table["timestamp_ns"]) > MAX_POSE_GAP_NS).any():
        raise InputError(f"{path}: has boxes more than {MAX_POSE_GAP_NS / 1e9} s away from any ego pose")
    city_from_box = city_from_axle[near] @ poses_of(table)
    size = np.stack([table[column] for column in SIZE], -1)
    ids, group = np.unique(table["track_uuid"], return_inverse=True)
    tracks = []
    for i, name in enumerate(ids.tolist()):
        rows = np.flatnonzero(group == i)
        rows = rows[np.argsort(table["timestamp_ns"][rows], kind="stable")]
        rows = rows[increasing(table["timestamp_ns"][rows] // 1000)]
        pose = city_from_box[rows]
        tracks.append(Track(
            id=name, category=CATEGORY_OF.get(str(table["category"][rows[0]]), "object"),
            size_lwh_m=np.median(size[rows], 0), timestamps_us=table["timestamp_ns"][rows] // 1000,
            position_m=pose[:, :3, 3], yaw_rad=xyyaw_from_pose(pose)[:, 2], valid=np.ones(len(rows), bool)))
    return tuple(tracks), Counter(c for c in table["category"].tolist() if c not in CATEGORY_OF)


# --- map ----------------------------------------------------------------------------------------------------------


def line_of(points: list[dict[str, float]]) -> FloatArray:
    return np.array([[p["x"], p["y"], p["z"]] for p in points], dtype=np.float64).reshape(-1, 3)


def resample_to(line: FloatArray, count: int) -> FloatArray:
    """(N, 3) -> (count, 3) at equal steps of the line's length."""
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    at = np.linspace(0.0, arc[-1], count)
    return np.stack([np.interp(at, arc, line[:, d]) for d in range(3)], -1)


def length_of(line: FloatArray) -> float:
    return float(np.linalg.norm(np.diff(line[:, :2], axis=0), axis=1).sum())


def lane_of(segment: dict[str, Any], known: dict[str, dict[str, Any]]) -> Lane:
    """A lane whose centreline is the mean of its boundaries; an oncoming neighbour is none to change to."""
    left, right = line_of(segment["left_lane_boundary"]), line_of(segment["right_lane_boundary"])
    count = max(2, int(np.ceil(max(length_of(left), length_of(right)) / 2.0)) + 1)
    left, right = resample_to(left, count), resample_to(right, count)

    def direction(s: dict[str, Any]) -> FloatArray:
        ends = line_of(s["left_lane_boundary"])[[0, -1], :2] + line_of(s["right_lane_boundary"])[[0, -1], :2]
        return (ends[1] - ends[0]) / max(float(np.linalg.norm(ends[1] - ends[0])), 1e-9)

    def neighbor(side: str) -> str | None:
        other = known.get(str(segment.get(f"{side}_neighbor_id")))
        return str(other["id"]) if other and float(direction(segment) @ direction(other)) > 0.5 else None

    return Lane(
        id=str(segment["id"]), centerline_m=(left + right) / 2, left_m=left, right_m=right,
        is_intersection=bool(segment["is_intersection"]),
        left_neighbor=neighbor("left"), right_neighbor=neighbor("right"),
        successors=tuple(str(i) for i in segment.get("successors", ()) if str(i) in known),
        predecessors=tuple(str(i) for i in segment.get("predecessors", ()) if str(i) in known))


def painted(segments: list[dict[str, Any]]) -> Iterator[Marking]:
    """The paint between lanes, once each: neighbours share a line, the oncoming one backwards."""
    seen: set[tuple[tuple[float, ...], ...]] = set()
    for segment in segments:
        for side in ("left", "right"):
            style, width = MARKING_OF.get(str(segment[f"{side}_lane_mark_type"]), ("none", 0.15))
            line = line_of(segment[f"{side}_lane_boundary"])
            ends = sorted(tuple(float(v) for v in np.round(line[i, :2])) for i in (0, -1))
            key = (*ends, (round(length_of(line)),))
            if style != "none" and len(line) > 1 and key not in seen:
                seen.add(key)
                yield Marking(style, line, width)


def kerbs(areas: list[FloatArray]) -> Iterator[Marking]:
    """The outer edges of all drivable areas together, less those where the map was cut off along its bounding box."""
    try:
        import shapely
    except ImportError as error:
        raise InputError(f"the kerbs of an Argoverse 2 map need shapely ({error}): pip install shapely") from error
    polygons = [shapely.make_valid(shapely.Polygon(area)) for area in areas]
    whole = shapely.union_all([polygon.buffer(0.02, join_style="mitre") for polygon in polygons])
    corners = np.concatenate(areas)
    low, high = corners[:, :2].min(0), corners[:, :2].max(0)
    for polygon in shapely.get_parts(whole):
        for ring in (polygon.exterior, *polygon.interiors):
            points = np.asarray(ring.coords)[:, :2]
            heights = corners[((points[:, None] - corners[None, :, :2]) ** 2).sum(-1).argmin(1), 2]
            points = np.column_stack([points, heights])
            cut = np.zeros(len(points) - 1, dtype=bool)
            for edge in (low, high):
                on = np.abs(points[:, :2] - edge) < 0.1
                cut |= (on[:-1] & on[1:]).any(1)
            for run in np.split(np.arange(len(cut)), np.flatnonzero(np.diff(cut.astype(int))) + 1):
                if len(run) and not cut[run[0]]:
                    yield Marking("curb", points[run[0]:run[-1] + 2], 0.15)


def open_ring(points: FloatArray) -> FloatArray:
    return points[:-1] if len(points) > 3 and np.allclose(points[0], points[-1]) else points


def read_map(folder: Path) -> tuple[RoadMap | None, str]:
    """The vector map around a log, and the name of its city; None where the log has none. Speed limits are not in it.

    Bicycle lanes are no lanes to drive on, but their paint is there.
    """
    paths = sorted((folder / "map").glob("log_map_archive_*.json"))
    if not paths:
        return None, "unknown"
    data = read_json(paths[0])
    city = paths[0].stem.split("____")[-1].split("_city")[0]
    try:
        segments = list(data["lane_segments"].values())
        known = {str(s["id"]): s for s in segments if s["lane_type"] in DRIVEN_LANE_TYPES}
        lanes = {name: lane_of(segment, known) for name, segment in known.items()}
        areas = [open_ring(line_of(area["area_boundary"])) for area in data["drivable_areas"].values()]
        areas = [area for area in areas if len(area) >= 3]
        crossings = tuple(np.concatenate([line_of(c["edge1"]), line_of(c["edge2"])[::-1]])
                          for c in data["pedestrian_crossings"].values())
        markings = (*painted(segments), *(kerbs(areas) if areas else ()))
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise InputError(f"{paths[0]}: not an Argoverse 2 map ({type(error).__name__}: {error})") from error
    crossroads = tuple(np.concatenate([it.left_m, it.right_m[::-1]]) for it in lanes.values() if it.is_intersection)
    return RoadMap(city, lanes, tuple(areas), crossroads, crossings, markings=markings), city


def lane_ahead(road: RoadMap, pose: FloatArray, length_m: float) -> FloatArray | None:
    """(N, 2) along the lane that ``pose`` (4, 4) drives in and its straightest successors; None where it is in none."""
    best, here = None, xyyaw_from_pose(pose)
    for lane in road.lanes.values():
        arc, offset, heading = project_to_polyline(here[None], lane.centerline_m)
        beside_m, turned = abs(float(offset[0])), abs(float(wrap_angle(heading[0] - here[2])))
        if beside_m < 2.0 and turned < 0.6 and (best is None or beside_m + 3.0 * turned < best[0]):
            best = beside_m + 3.0 * turned, lane, float(arc[0])
    if best is None:
        return None
    _, lane, start_m = best
    line, seen = lane.centerline_m[:, :2], {lane.id}
    while length_of(line) - start_m < length_m:
        after = [road.lanes[i] for i in lane.successors if i not in seen]
        if not after:
            break
        lane = min(after, key=lambda it: abs(float(wrap_angle(end_heading(it.centerline_m) - end_heading(line)))))
        seen.add(lane.id)
        line = np.concatenate([line, lane.centerline_m[1:, :2]])
    fine = resample_polyline(line, 1.0)
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(fine, axis=0), axis=1))])
    beside = here[:2] - np.array([np.interp(start_m, arc, fine[:, d]) for d in (0, 1)])
    fine = fine + np.clip(1.0 - (arc - start_m) / BLEND_M, 0.0, 1.0)[:, None] * beside  # no jump to the lane's middle
    return fine[(arc > start_m + 1.0) & (arc < start_m + length_m)]


def end_heading(line: FloatArray) -> float:
    return float(np.arctan2(line[-1, 1] - line[-2, 1], line[-1, 0] - line[-2, 0]))


def route_of(ego: Poses, road: RoadMap | None) -> list[list[float]]:
    """The path driven, then 60 m more along the lane where the map tells it, else straight on."""
    ahead = lane_ahead(road, ego.world_from_body[ego.valid][-1], ROUTE_AHEAD_M) if road else None
    if ahead is None or not len(ahead):
        return np.round(driven_route(ego, ROUTE_AHEAD_M), 3).tolist()
    whole = np.concatenate([driven_route(ego, 0.0), ahead])
    return np.round(resample_polyline(whole, 1.0), 3).tolist()


# --- logs ---------------------------------------------------------------------------------------------------------


def find_images(folder: Path, rig: Rig) -> dict[str, dict[int, ImageFile | VideoFrame]]:
    """camera -> time -> image, of the images that are there; a name that is no time raises InputError."""
    found: dict[str, dict[int, ImageFile | VideoFrame]] = {}
    for name in rig.names:
        paths = sorted((folder / "sensors" / "cameras" / name).glob("*.jpg"))
        strange = [path for path in paths if not path.stem.isdecimal()]
        if strange:
            raise InputError(f"{strange[0]}: expected an image named by its time, <timestamp_ns>.jpg")
        if paths:
            found[name] = {int(path.stem) // 1000: ImageFile(path) for path in paths}
    return found


def seen_rig(rig: Rig, images: dict[str, dict[int, ImageFile | VideoFrame]]) -> Rig:
    """The cameras that have images, sized as those are: copies of the data set are often scaled down."""
    cameras = []
    for name, at in images.items():
        camera = rig.camera(name)
        for image in at.values():
            try:
                height, width = image.read().shape[:2]
            except FrameError:
                continue  # a broken image is masked where it is used; the next one tells the size
            if abs(width / height - camera.width / camera.height) > 0.02 * camera.width / camera.height:
                raise InputError(f"camera {name}: images of {width} x {height}, calibrated for {camera.width} x "
                                 f"{camera.height}; cropped images need a calibration of their own")
            camera = camera.resized(width, height)
            break
        cameras.append(camera)
    return Rig(rig.name, tuple(cameras))


def annotated_span(times_us: IntArray, tracks: tuple[Track, ...]) -> BoolArray:
    """Which times lie where boxes were annotated: outside, the empty street would be a lie. All where none were."""
    if not tracks:
        return np.ones(len(times_us), dtype=bool)
    start, end = min(t.timestamps_us[0] for t in tracks), max(t.timestamps_us[-1] for t in tracks)
    return (times_us >= start) & (times_us <= end)


class Argoverse2Source:
    """One Argoverse 2 sensor log, or a folder of them."""

    kind = "argoverse2"

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        table = "city_SE3_egovehicle.feather"
        whole = (self.path / table).is_file()
        folders = [self.path.resolve()] if whole else sorted(p.parent for p in self.path.glob(f"*/{table}"))
        if not folders:
            raise InputError(f"{self.path}: neither it nor a folder in it has {table}")
        self.folders = {folder.name: folder for folder in folders}

    def log_ids(self) -> list[str]:
        return list(self.folders)

    def load(self, log_id: str) -> Log:
        """The log with its recorded images, or with ones drawn at RENDER_HZ in a rig shrunk to RENDER_HEIGHT_PX.

        Poses are the table's own, cut to the span of the annotations; world frame is the city's.
        """
        if log_id not in self.folders:
            raise InputError(f"{self.path}: no log {log_id!r}{nearest(log_id, self.log_ids())}")
        folder = self.folders[log_id]
        ego_ns, city_from_axle = read_ego(folder)
        tracks, unlisted = read_tracks(folder, ego_ns, city_from_axle)
        within = annotated_span(ego_ns // 1000, tracks)
        city_from_rig = city_from_axle[within] @ lifted(-WHEEL_RADIUS_M)
        ego = Poses(ego_ns[within] // 1000, city_from_rig, np.ones(len(city_from_rig), bool))
        road, city = read_map(folder)
        rig = read_rig(folder)
        images = find_images(folder, rig)
        rig = seen_rig(rig, images) if images else rig
        split = folder.parent.name if folder.parent.name in SPLITS else "train"
        log = Log(
            id=log_id, source=self.kind, rig=rig, ego=ego, frames=RecordedFrames(rig, images), tracks=tracks, map=road,
            licence=LICENCE, location=city, split=split,
            metadata={"route": route_of(ego, road), "map_location": city, "unlisted_categories": dict(unlisted)})
        return log if images else drawn(log)


def drawn(log: Log) -> Log:
    """The log with rendered frames in a shrunk rig."""
    from drive_wm.datasets.rendered import RenderedFrames

    small = replace(log, rig=shrunk(log.rig, RENDER_HEIGHT_PX))
    return replace(small, frames=RenderedFrames(small, RENDER_HZ))
