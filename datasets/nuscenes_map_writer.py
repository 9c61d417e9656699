"""A RoadMap as nuScenes keeps it: the mask picture and the map expansion (version 1.3, flat: nodes have no height)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from drive_wm.datasets.nuscenes_names import token
from drive_wm.types import FloatArray, InputError, Lane, RoadMap, Signal

LAYERS = ("polygon", "line", "node", "drivable_area", "road_segment", "road_block", "lane", "lane_connector",
          "ped_crossing", "walkway", "stop_line", "carpark_area", "road_divider", "lane_divider", "traffic_light")
MASK_PIXELS_PER_M = 10  # the devkit takes this for granted
MAX_MASK_SIDE_M = 4000
DIVIDER_TYPES = {"white solid": "SINGLE_SOLID_WHITE", "white dashed": "DOUBLE_DASHED_WHITE",
                 "yellow solid": "SINGLE_SOLID_YELLOW", "yellow dashed": "SINGLE_SOLID_YELLOW"}
ARC_TOLERANCE_M = 0.01
STOP_LINE_DEPTH_M = 0.5
LANE_TYPES = {"vehicle": "CAR", "cycle": "BIKE"}
ON_RING_M = 0.01


def map_points(road_map: RoadMap | None) -> Iterator[FloatArray]:
    """Every array of points (N, 2) of a map."""
    if road_map is None:
        return
    for lane in road_map.lanes.values():
        yield from (line[:, :2] for line in (lane.centerline_m, lane.left_m, lane.right_m))
    areas = (road_map.drivable, road_map.intersections, road_map.crossings, road_map.walkways, road_map.carparks)
    yield from (polygon[:, :2] for polygons in areas for polygon in polygons)
    yield from (marking.points_m[:, :2] for marking in road_map.markings)


def write_mask(road_map: RoadMap | None, shift_m: FloatArray, canvas_m: tuple[float, float], path: Path) -> None:
    """The drivable area and the walkways in white, 10 pixels a metre, north up; 1 x 1 black where no map is known."""
    if max(canvas_m) > MAX_MASK_SIDE_M:
        raise InputError(f"a map of {canvas_m[0]:.0f} x {canvas_m[1]:.0f} m is too large for a mask picture; "
                         f"crop it to {MAX_MASK_SIDE_M} m around the drive")
    width, height = (max(1, int(np.ceil(side)) * MASK_PIXELS_PER_M) for side in canvas_m)
    mask = np.zeros((height, width) if road_map else (1, 1), np.uint8)
    for polygon in (*road_map.drivable, *road_map.walkways) if road_map else ():
        pixels = (polygon[:, :2] + shift_m) * MASK_PIXELS_PER_M
        corners = np.round(np.stack([pixels[:, 0], height - pixels[:, 1]], -1)).astype(np.int32)
        cv2.fillPoly(mask, [corners], (255,))
    encoded = cv2.imencode(".png", mask)[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded.tobytes())


def arclines(centerline_m: FloatArray) -> list[dict[str, Any]]:
    """Straight pieces that follow a centreline within 1 cm; the two arcs around each straight have length 0."""
    from shapely.geometry import LineString

    points = np.asarray(LineString(centerline_m[:, :2]).simplify(ARC_TOLERANCE_M).coords)
    delta = np.diff(points, axis=0)
    lengths, yaws = np.linalg.norm(delta, axis=1), np.arctan2(delta[:, 1], delta[:, 0])
    return [{"start_pose": [*start, yaw], "end_pose": [*end, yaw], "shape": "LSR", "radius": 999.999,
             "segment_length": [0.0, length, 0.0]}
            for start, end, yaw, length in zip(points[:-1].tolist(), points[1:].tolist(), yaws.tolist(),
                                               lengths.tolist(), strict=True) if length > 1e-3]


def with_points(ring: FloatArray, points: FloatArray) -> FloatArray:
    """The ring (N, 2) with those of the points (M, 2) that lie on it as further corners: what touches shares nodes."""
    edge = np.roll(ring, -1, 0) - ring
    rel = points[:, None] - ring[None]
    share = (rel * edge).sum(-1) / np.maximum((edge**2).sum(-1), 1e-12)
    gap = np.linalg.norm(rel - np.clip(share, 0.0, 1.0)[..., None] * edge, axis=-1)
    inner = np.minimum(share, 1.0 - share) * np.linalg.norm(edge, axis=-1) > ON_RING_M  # no corner twice
    on, side = np.nonzero((gap < ON_RING_M) & inner)
    found = sorted((float(side[k] + share[on[k], side[k]]), int(on[k])) for k in range(len(on)))
    places = [*((float(i), ring[i]) for i in range(len(ring))), *((at, points[k]) for at, k in found)]
    return np.array([point for _, point in sorted(places, key=lambda place: place[0])])


class ExpansionWriter:
    """Collects the layers of one map; ``shift_m`` (2,) is added to every point. Tokens depend on ``key`` only."""

    def __init__(self, key: str, shift_m: FloatArray) -> None:
        self.key, self.shift_m = key, shift_m
        self.layers: dict[str, list[dict[str, Any]]] = {name: [] for name in LAYERS}
        self.arclines: dict[str, list[dict[str, Any]]] = {}
        self.connectivity: dict[str, dict[str, list[str]]] = {}
        self.node_at: dict[tuple[int, int], str] = {}

    def add(self, layer: str, name: object = None, **record: Any) -> str:
        """One record more; returns its token."""
        made = token(self.key, layer, len(self.layers[layer]) if name is None else name)
        self.layers[layer].append({"token": made, **record})
        return made

    def nodes(self, points: FloatArray) -> list[str]:
        """A point within a millimetre of an earlier one is the same node, as where one lane goes on in the next."""
        return [self._node(x, y) for x, y in (points[:, :2] + self.shift_m).tolist()]

    def _node(self, x: float, y: float) -> str:
        place = round(x * 1000), round(y * 1000)
        if place not in self.node_at:
            self.node_at[place] = self.add("node", x=x, y=y)
        return self.node_at[place]

    def polygon(self, points: FloatArray) -> str:
        return self.add("polygon", exterior_node_tokens=self.nodes(points), holes=[])

    def line(self, points: FloatArray) -> str:
        return self.add("line", node_tokens=self.nodes(points))

    def lane(self, lane: Lane) -> None:
        left, right = self.nodes(lane.left_m), self.nodes(lane.right_m)
        polygon = self.add("polygon", exterior_node_tokens=[*left, *right[::-1]], holes=[])
        if lane.is_intersection:
            kind = {"lane_type": LANE_TYPES[lane.kind]} if lane.kind != "vehicle" else {}  # nuScenes itself tells none
            made = self.add("lane_connector", lane.id, polygon_token=polygon, **kind)
        else:
            edges = {"from_edge_line_token": self.add("line", node_tokens=[left[0], right[0]]),
                     "to_edge_line_token": self.add("line", node_tokens=[left[-1], right[-1]])}
            sides = {f"{side}_lane_divider_segments": [{"node_token": node, "segment_type": "NIL"} for node in nodes]
                     for side, nodes in (("left", left), ("right", right))}
            made = self.add("lane", lane.id, polygon_token=polygon, lane_type=LANE_TYPES[lane.kind], **edges,
                            **sides)
        center = lane.centerline_m[:, :2] + self.shift_m
        self.arclines[made] = arclines(center)

    def connect(self, lanes: dict[str, Lane]) -> None:
        """Connectivity among the lanes that the map holds; ids that lead out of it are left out."""
        tokens = {lane.id: token(self.key, "lane_connector" if lane.is_intersection else "lane", lane.id)
                  for lane in lanes.values()}
        for lane in lanes.values():
            ways = {"incoming": lane.predecessors, "outgoing": lane.successors}
            self.connectivity[tokens[lane.id]] = {k: [tokens[i] for i in ids if i in tokens] for k, ids in ways.items()}

    def signal(self, signal: Signal) -> None:
        x, y = (signal.position_m[:2] + self.shift_m).tolist()
        ahead = signal.position_m[:2] + np.array([np.cos(signal.yaw_rad), np.sin(signal.yaw_rad)])
        line = self.line(np.stack([signal.position_m[:2], ahead]))
        pose = {"tx": x, "ty": y, "tz": float(signal.position_m[2]), "rx": 0.0, "ry": 0.0, "rz": float(signal.yaw_rad)}
        lamps = [{"color": color, "shape": "CIRCLE", "to_road_block_tokens": [], "rel_pos": {**dict.fromkeys(pose, 0.0),
                  "tz": height}} for color, height in (("RED", 0.3), ("YELLOW", 0.0), ("GREEN", -0.3))]
        made = self.add("traffic_light", signal.id, line_token=line, traffic_light_type="VERTICAL", pose=pose,
                        items=lamps, from_road_block_token="")
        if signal.stop_line_m is not None:
            a, b = np.asarray(signal.stop_line_m)[:, :2]
            across = (b - a) / max(float(np.linalg.norm(b - a)), 1e-6) * STOP_LINE_DEPTH_M
            depth = np.array([-across[1], across[0]]) / 2
            self.add("stop_line", polygon_token=self.polygon(np.stack([a - depth, b - depth, b + depth, a + depth])),
                     stop_line_type="TRAFFIC_LIGHT", traffic_light_tokens=[made], ped_crossing_tokens=[],
                     road_block_token="")

    def areas(self, road_map: RoadMap) -> None:
        drivable = [self.polygon(polygon) for polygon in road_map.drivable]
        area = self.add("drivable_area", polygon_tokens=drivable) if drivable else ""
        ends = [line[k, :2] for lane in road_map.lanes.values() if not lane.is_intersection
                for line in (lane.left_m, lane.right_m) for k in (0, -1)]
        for polygon in road_map.intersections:
            ring = with_points(polygon[:, :2], np.array(ends).reshape(-1, 2))
            self.add("road_segment", polygon_token=self.polygon(ring), is_intersection=True,
                     drivable_area_token=area)
        for polygon in road_map.crossings:
            self.add("ped_crossing", polygon_token=self.polygon(polygon), road_segment_token="")
        for polygon in road_map.walkways:
            self.add("walkway", polygon_token=self.polygon(polygon))
        for polygon in road_map.carparks:
            self.add("carpark_area", polygon_token=self.polygon(polygon), orientation=0.0, road_block_token="")

    def dividers(self, road_map: RoadMap) -> None:
        """White paint divides lanes, yellow paint divides directions; kerbs and stop lines have other layers."""
        for marking in road_map.markings:
            if marking.style in DIVIDER_TYPES:
                layer = "lane_divider" if marking.style.startswith("white") else "road_divider"
                nodes = self.nodes(marking.points_m)
                segments = [{"node_token": node, "segment_type": DIVIDER_TYPES[marking.style]} for node in nodes]
                extra = {"lane_divider_segments": segments} if layer == "lane_divider" else {"road_segment_token": ""}
                self.add(layer, line_token=self.add("line", node_tokens=nodes), **extra)

    def content(self, canvas_m: tuple[float, float]) -> dict[str, Any]:
        return {"version": "1.3", "canvas_edge": list(canvas_m), **self.layers, "arcline_path_3": self.arclines,
                "connectivity": self.connectivity}


def write_expansion(road_map: RoadMap, signals: tuple[Signal, ...], key: str, shift_m: FloatArray,
                    canvas_m: tuple[float, float], path: Path) -> None:
    """The whole expansion into ``path``: all layers, empty where the map has nothing of the kind."""
    writer = ExpansionWriter(key, shift_m)
    for lane in road_map.lanes.values():
        writer.lane(lane)
    writer.connect(dict(road_map.lanes))
    writer.areas(road_map)
    writer.dividers(road_map)
    for signal in signals:
        writer.signal(signal)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(writer.content(canvas_m)))
