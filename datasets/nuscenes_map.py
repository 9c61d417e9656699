"""nuScenes' map expansion -> RoadMap: any city, real or written by us, cropped to the surroundings of a drive."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.geometry import project_to_polyline, wrap_angle
from drive_wm.types import BoolArray, FloatArray, InputError, Lane, Marking, RoadMap, Signal

CENTERLINE_STEP_M = 1.0
DEFAULT_HALF_WIDTH_M = 1.75  # where a centreline leaves its lane's polygon, and there is nothing to measure
WIDEST_HALF_M = 6.0
KERB_JOIN_M = 0.05  # pieces of drivable area this near to one another have no kerb between them
KERB_MARGIN_M = 1.0
CAP_M = 0.5  # an edge this near to an end of the centreline closes the lane and is none of its sides
PAINT = {"SOLID_WHITE": "white solid", "DASHED_WHITE": "white dashed", "SOLID_YELLOW": "yellow solid",
         "DASHED_YELLOW": "yellow dashed", "ZIGZAG_WHITE": "white solid"}


class _Expansion:
    """One file, parsed, its records by token."""

    def __init__(self, path: Path) -> None:
        try:
            self.layers: dict[str, Any] = json.loads(path.read_text())
            self.nodes = {node["token"]: (node["x"], node["y"]) for node in self.layers["node"]}
            self.polygons = {record["token"]: record for record in self.layers["polygon"]}
            self.lines = {record["token"]: record["node_tokens"] for record in self.layers["line"]}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no nuScenes map expansion ({error!r}); download or write it again") from error

    def ring(self, token: str) -> FloatArray:
        return self.points(self.polygons[token]["exterior_node_tokens"])

    def points(self, tokens: list[str]) -> FloatArray:
        return np.array([self.nodes[token] for token in tokens], np.float64).reshape(-1, 2)


@lru_cache(maxsize=4)
def _expansion(path: Path, _modified_ns: int) -> _Expansion:
    return _Expansion(path)


def read_expansion(path: Path, low_m: FloatArray, high_m: FloatArray, name: str) -> tuple[RoadMap, tuple[Signal, ...]]:
    """The map within the box low_m (2,) .. high_m (2,), world coordinates, and its traffic lights in unknown state.

    Lines lie at z = 0. Lane boundaries are the lane's polygon seen from its centreline. Raises InputError.
    """
    try:
        expansion = _expansion(path, path.stat().st_mtime_ns)
        lanes = _lanes(expansion, low_m, high_m)
        areas = {layer: _areas(expansion, layer, low_m, high_m)
                 for layer in ("drivable_area", "ped_crossing", "walkway", "carpark_area")}
        crossings = _areas(expansion, "road_segment", low_m, high_m, only="is_intersection")
        road_map = RoadMap(name, lanes, areas["drivable_area"], crossings, areas["ped_crossing"], areas["walkway"],
                           areas["carpark_area"],
                           (*_markings(expansion, low_m, high_m, name), *_kerbs(areas["drivable_area"], low_m, high_m)))
        return road_map, _signals(expansion, low_m, high_m)
    except KeyError as error:
        raise InputError(f"{path}: a record lacks or refers to a missing {error}; get a whole copy of version 1.3") \
            from error


def _flat(points: FloatArray) -> FloatArray:
    return np.concatenate([points[:, :2], np.zeros((len(points), 1))], -1)


def _touches(points: FloatArray, low: FloatArray, high: FloatArray) -> bool:
    return len(points) > 0 and bool((points.max(0) >= low).all() and (points.min(0) <= high).all())


# --- areas --------------------------------------------------------------------------------------------------------


def simple_pieces(polygon: Any) -> list[FloatArray]:
    """A shapely geometry as rings (N, 2) without holes: cut upright through each hole."""
    if polygon.geom_type != "Polygon":
        return [ring for part in getattr(polygon, "geoms", ()) for ring in simple_pieces(part)]
    if polygon.is_empty:
        return []
    if not polygon.interiors:
        return [np.asarray(polygon.exterior.coords)[:-1, :2]]
    x_min, y_min, x_max, y_max = polygon.bounds
    cut = polygon.interiors[0].centroid.x
    halves = (_box(x_min, y_min, cut, y_max), _box(cut, y_min, x_max, y_max))
    return [ring for half in halves for ring in simple_pieces(polygon.intersection(half))]


def _box(*bounds: float) -> Any:
    from shapely.geometry import box

    return box(*bounds)


def _areas(expansion: _Expansion, layer: str, low: FloatArray, high: FloatArray,
           only: str = "") -> tuple[FloatArray, ...]:
    """Polygons of a layer within the window, without holes; ``only``: a field of the record that must be true."""
    from shapely.geometry import Polygon

    window, found = _box(*low, *high), []
    for record in expansion.layers[layer]:
        if only and not record[only]:
            continue
        tokens = record["polygon_tokens"] if layer == "drivable_area" else [record["polygon_token"]]
        for token in filter(None, tokens):
            ring = expansion.ring(token)
            if len(ring) < 3 or not _touches(ring, low, high):
                continue
            holes = [expansion.points(hole["node_tokens"]) for hole in expansion.polygons[token]["holes"]]
            polygon = Polygon(ring, [hole for hole in holes if len(hole) > 2])
            whole = polygon.is_valid and not polygon.interiors and window.contains(polygon)
            found += [ring] if whole else simple_pieces(polygon.buffer(0).intersection(window))
    return tuple(_flat(ring) for ring in found)


# --- lanes --------------------------------------------------------------------------------------------------------


def _centerline(paths: list[dict[str, Any]]) -> FloatArray:
    """Arclines -> (N, 2), by the devkit's own helper; the doubled points where two arclines meet are dropped."""
    from nuscenes.map_expansion.arcline_path_utils import discretize_lane

    points = np.array(discretize_lane(paths, CENTERLINE_STEP_M))[:, :2]
    keep = np.concatenate([[True], np.linalg.norm(np.diff(points, axis=0), axis=1) > 1e-3])
    return points[keep]


def lane_sides(center: FloatArray, ring: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Left and right boundary (N, 2): where the normal of each centre point first meets the polygon (M, 2).

    The two edges across the lane's ends do not count. A point that sees nothing within 6 m takes its neighbours' width.
    """
    tangent = np.gradient(center, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], -1) / np.maximum(np.linalg.norm(tangent, axis=1), 1e-9)[:, None]
    edge = np.roll(ring, -1, 0) - ring
    to_start = ring[None] - center[:, None]  # (N, M, 2)
    cross = normal[:, None, 0] * edge[None, :, 1] - normal[:, None, 1] * edge[None, :, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        along = (to_start[..., 0] * edge[None, :, 1] - to_start[..., 1] * edge[None, :, 0]) / cross
        on_edge = (to_start[..., 0] * normal[:, None, 1] - to_start[..., 1] * normal[:, None, 0]) / cross
    hit = (on_edge >= -1e-6) & (on_edge <= 1 + 1e-6) & ~_caps(center, ring)

    def side(sign: int) -> FloatArray:
        reach = np.where(hit & (sign * along > 0.05), sign * along, np.inf).min(1)
        known = reach < WIDEST_HALF_M
        at = np.flatnonzero(known)
        width = np.full(len(center), DEFAULT_HALF_WIDTH_M)
        if len(at):
            width = np.interp(np.arange(len(center)), at, reach[at])
        return center + sign * width[:, None] * normal

    return side(1), side(-1)


def _caps(center: FloatArray, ring: FloatArray) -> BoolArray:
    """(M,) which edges of the ring the centreline's ends lie on."""
    edge = np.roll(ring, -1, 0) - ring
    rel = center[[0, -1], None] - ring[None]
    t = np.clip((rel * edge).sum(-1) / np.maximum((edge**2).sum(-1), 1e-12), 0.0, 1.0)
    near: BoolArray = (np.linalg.norm(rel - t[..., None] * edge, axis=-1) < CAP_M).any(0)
    return near


def _lanes(expansion: _Expansion, low: FloatArray, high: FloatArray) -> dict[str, Lane]:
    lanes: dict[str, Lane] = {}
    for layer in ("lane", "lane_connector"):
        for record in expansion.layers[layer]:
            token = record["token"]
            ring = expansion.ring(record["polygon_token"]) if record.get("polygon_token") else np.zeros((0, 2))
            if token not in expansion.layers["arcline_path_3"] or not _touches(ring, low, high):
                continue
            center = _centerline(expansion.layers["arcline_path_3"][token])
            if len(center) < 2:
                continue
            left, right = lane_sides(center, ring)
            ways = expansion.layers["connectivity"].get(token, {})
            lanes[token] = Lane(token, _flat(center), _flat(left), _flat(right), layer == "lane_connector", None,
                                tuple(ways.get("outgoing", ())), tuple(ways.get("incoming", ())),
                                kind="cycle" if record.get("lane_type") == "BIKE" else "vehicle")
    inside = {token: replace(lane, successors=tuple(i for i in lane.successors if i in lanes),
                             predecessors=tuple(i for i in lane.predecessors if i in lanes))
              for token, lane in lanes.items()}
    return with_neighbors(inside)


def with_neighbors(lanes: dict[str, Lane]) -> dict[str, Lane]:
    """Lanes side by side in one direction, found by geometry: boundaries within 0.7 m, headings within 20 degrees."""
    plain = [lane for lane in lanes.values() if not lane.is_intersection and lane.kind == "vehicle"]
    if not plain:
        return lanes
    middles = np.array([lane.left_m[len(lane.left_m) // 2, :2] for lane in plain])
    headings = np.array([_heading(lane.left_m) for lane in plain])
    left_of: dict[str, str] = {}
    for other in plain:
        near = np.flatnonzero((np.abs(middles - other.right_m[:, :2].mean(0)) < 200).all(1))
        _, offset, heading = project_to_polyline(middles[near], other.right_m)
        for i in near[(np.abs(offset) < 0.7) & (np.abs(wrap_angle(headings[near] - heading)) < 0.35)]:
            if plain[i].id != other.id:
                left_of[plain[i].id] = other.id
    right_of = {other: lane for lane, other in left_of.items()}
    return {token: replace(lane, left_neighbor=left_of.get(token), right_neighbor=right_of.get(token))
            for token, lane in lanes.items()}


def _heading(line: FloatArray) -> float:
    i = min(len(line) // 2, len(line) - 2)
    return float(np.arctan2(*(line[i + 1, :2] - line[i, :2])[::-1]))


# --- paint and lights ---------------------------------------------------------------------------------------------


def _markings(expansion: _Expansion, low: FloatArray, high: FloatArray, name: str) -> tuple[Marking, ...]:
    """Lane dividers as they are painted; road dividers yellow in Boston and in our maps, white in Singapore."""
    markings: list[Marking] = []
    for record in expansion.layers["lane_divider"]:
        segments = record.get("lane_divider_segments", [])
        nodes = expansion.points([segment["node_token"] for segment in segments])
        for (a, b), segment in zip(pairwise(nodes), segments, strict=False):  # the last node begins no segment
            style = next((paint for key, paint in PAINT.items() if segment["segment_type"].endswith(key)), None)
            if style and _touches(np.stack([a, b]), low, high):
                if markings and markings[-1].style == style and np.array_equal(markings[-1].points_m[-1, :2], a):
                    longer = np.concatenate([markings[-1].points_m, _flat(b[None])])
                    markings[-1] = Marking(style, longer)
                else:
                    markings.append(Marking(style, _flat(np.stack([a, b]))))
    divider = "white solid" if name.startswith("singapore") else "yellow solid"
    for record in expansion.layers["road_divider"]:
        points = expansion.points(expansion.lines[record["line_token"]])
        if len(points) > 1 and _touches(points, low, high):
            markings.append(Marking(divider, _flat(points)))
    return tuple(markings)


def _kerbs(drivable: tuple[FloatArray, ...], low: FloatArray, high: FloatArray) -> list[Marking]:
    """The outline of all drivable area together, without the sides of the window."""
    from shapely.geometry import Polygon
    from shapely.ops import unary_union

    if not drivable:
        return []
    whole = unary_union([Polygon(ring[:, :2]).buffer(KERB_JOIN_M, join_style="mitre") for ring in drivable])
    inside = whole.boundary.intersection(_box(*(low + KERB_MARGIN_M), *(high - KERB_MARGIN_M)))
    lines = [np.asarray(line.coords) for line in getattr(inside, "geoms", [inside]) if line.geom_type == "LineString"]
    return [Marking("curb", _flat(line), 0.2) for line in lines if len(line) > 1]


def _signals(expansion: _Expansion, low: FloatArray, high: FloatArray) -> tuple[Signal, ...]:
    signals = []
    for record in expansion.layers["traffic_light"]:
        pose = record["pose"]
        if _touches(np.array([[pose["tx"], pose["ty"]]]), low, high):
            signals.append(Signal(record["token"], np.array([pose["tx"], pose["ty"], pose["tz"]]), float(pose["rz"]),
                                  np.zeros(1, np.int64), np.zeros(1, np.int8)))
    return tuple(signals)
