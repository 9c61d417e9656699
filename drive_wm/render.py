"""Draws what a camera would see of a Log: flat-shaded polygons, painter's order, any pose, any pinhole Rig.

"picture" is a low-poly view under the log's Look (light, weather, night). "layout" is the same geometry in the colours
of classes and instances, whatever the Look: it is what the world model is conditioned on. Both are functions of their
arguments alone, to the byte.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from drive_wm.geometry import interpolate_poses
from drive_wm.render_ground import Flat, Ground
from drive_wm.render_shapes import (
    LAYOUT_FLAT,
    LAYOUT_HIDDEN,
    LAYOUT_SKY,
    MATERIAL,
    Light,
    Shape,
    layout_paint,
    prop_shape,
)
from drive_wm.render_state import AgentBoxes, agents_at, cached, default_color, signals_at
from drive_wm.render_things import Things, agent_things, assemble, depth_keys, ranges, signal_props
from drive_wm.types import (
    SIGNAL_STATES,
    BoolArray,
    ByteArray,
    Camera,
    FloatArray,
    InputError,
    IntArray,
    Log,
    Look,
    Prop,
    Rig,
    RoadMap,
    Signal,
)

__all__ = ["AgentBoxes", "Renderer", "agents_at", "default_color", "draw_log", "signals_at"]
NEAR_M = 0.3
RANGE_M = 120.0
HORIZON_M = 1500.0
SUPERSAMPLE = 2
FAR_PX = 4e5  # beyond, coordinates are cut: OpenCV counts in 32 bits
SHIFT = 4  # fractional bits of the pixel coordinates given to OpenCV
STYLES = ("picture", "layout")


class Renderer:
    """Draws one map under one Look. Static geometry is prepared once; ``draw`` may be called for any pose."""

    def __init__(self, map: RoadMap | None, look: Look = Look(), signals: Sequence[Signal] = ()) -> None:
        road_map = map if map is not None else RoadMap("none")
        self.look, self.light = look, Light(look)
        self.ground = Ground(road_map)
        self.ground_rgb = {"picture": self.ground.colors(self.light.flat), "layout": self.ground.colors(LAYOUT_FLAT)}
        props = [*road_map.props, *signal_props(road_map.props, signals)]
        self._signal_of = [prop.signal_id or "" for prop in props]
        shapes = [_prop_shape(prop, look.night) for prop in props]
        xyzyaw = np.array([[*p.position_m, p.yaw_rad] for p in props], float).reshape(-1, 4)
        lwh = np.array([p.size_lwh_m for p in props], float).reshape(-1, 3)
        rgb = np.array([p.color_rgb for p in props], np.uint8).reshape(-1, 3)
        self.static = {"picture": assemble(shapes, xyzyaw, lwh, rgb),
                       "layout": assemble([shape.without(LAYOUT_HIDDEN) for shape in shapes], xyzyaw, lwh, rgb)}
        self._static_rgb = {style: self._paint(self.static[style], style) for style in STYLES}
        self._lamps = self._lamp_table()

    def draw(self, rig: Rig, world_from_rig: FloatArray, agents: AgentBoxes, signal_states: Mapping[str, int],
             style: str = "picture") -> dict[str, ByteArray]:
        """Camera -> (H, W, 3) uint8 RGB as the rig says. Raises InputError for an unknown style or a bad pose."""
        if style not in STYLES:
            raise InputError(f"style {style!r}, expected one of {', '.join(STYLES)}")
        if np.shape(world_from_rig) != (4, 4) or not np.isfinite(world_from_rig).all():
            raise InputError(f"world_from_rig must be a finite (4, 4) pose, got shape {np.shape(world_from_rig)}")
        origin = np.asarray(world_from_rig, float)[:3, 3]
        flat = self.ground.near(origin, RANGE_M)
        standing = self._standing(origin, agents, signal_states, style)
        rotation = np.asarray(world_from_rig, float)[:3, :3]
        return {camera.name: self._camera(_View(camera, rotation), camera, origin, flat, standing, style)
                for camera in rig.cameras}

    def _paint(self, things: Things, style: str) -> FloatArray:
        materials = np.maximum(things.materials, 0)
        if style == "picture":
            return self.light.paint(materials, things.instance_rgb, things.normals)
        return layout_paint(materials, things.instance_rgb, things.normals)

    def _standing(self, origin: FloatArray, agents: AgentBoxes, signal_states: Mapping[str, int],
                  style: str) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Quads (Q, 4, 3) relative to origin in painting order, their normals and colours (Q, 3)."""
        static = self.static[style]
        reach = np.hypot(*(static.center - origin[:2]).T) - static.half.max(1, initial=0.0)
        near = np.flatnonzero(reach < RANGE_M)
        rows = ranges(static.first[near], static.count[near])
        materials, colors = static.materials[rows], self._static_rgb[style][rows]
        lamps = np.flatnonzero(materials >= MATERIAL["if green"])
        owner = np.repeat(near, static.count[near])[lamps]
        for row, kind, prop in zip(lamps.tolist(), materials[lamps].tolist(), owner.tolist()):
            state, off, lit = self._lamps[style, kind]
            colors[row] = lit if signal_states.get(self._signal_of[prop], 0) == state else off
        here = agents.select(np.hypot(*(agents.xyzyaw[:, :2] - origin[:2]).T) < RANGE_M) if len(agents) else agents
        moving = agent_things(here)
        keys = depth_keys(np.concatenate([static.center[near], moving.center]),
                          np.concatenate([static.half[near], moving.half]),
                          np.concatenate([static.yaw[near], moving.yaw]), origin[:2])
        materials = np.concatenate([materials, moving.materials])
        count = np.concatenate([static.count[near], moving.count])
        order = np.argsort(-np.repeat(keys, count), kind="stable")
        order = order[materials[order] >= 0]
        quads = np.concatenate([static.quads[rows], moving.quads])[order] - origin
        normals = np.concatenate([static.normals[rows], moving.normals])[order]
        return quads.astype(np.float32), normals, np.concatenate([colors, self._paint(moving, style)])[order]

    def _lamp_table(self) -> dict[tuple[str, int], tuple[int, FloatArray, FloatArray]]:
        """(style, material) of a traffic light's lamp -> the state that lights it, its colours dark and lit."""
        none, ahead = np.zeros((2, 3), np.float32), np.array([[1.0, 0.0, 0.0]] * 2, np.float32)
        table = {}
        for name in ("green", "yellow", "red"):
            pair = np.array([MATERIAL["lamp off"], MATERIAL["lamp " + name]])
            painted = {"picture": self.light.paint(pair, none, ahead), "layout": layout_paint(pair, none, ahead)}
            for style, rgb in painted.items():
                table[style, MATERIAL["if " + name]] = (SIGNAL_STATES.index(name), rgb[0], rgb[1])
        return table

    def _camera(self, view: _View, camera: Camera, origin: FloatArray, flat: Flat,
                standing: tuple[FloatArray, FloatArray, FloatArray], style: str) -> ByteArray:
        quads, normals, colors = standing
        image = self._backdrop(view, flat.slope, style)
        if len(flat.starts):
            self._draw_flat(image, view, flat, style)
        if len(quads):
            facing = np.einsum("qi,qi->q", view.eye - quads[:, 0], normals) > 0
            quads, colors = quads[facing], colors[facing]
            projected = view.project(quads.reshape(-1, 3)).reshape(-1, 4, 5)
            a, b, c, d = projected.transpose(1, 0, 2)  # pairs of slices: three times as fast as .min(1)
            low, high = (pick(pick(a, b), pick(c, d)) for pick in (np.minimum, np.maximum))
            seen = np.flatnonzero(view.visible(low, high))
            projected, rgb = projected[seen], colors[seen]
            if style == "picture":
                rgb = self._haze(rgb, projected[..., 2].mean(1))
            view.fill(image, projected.reshape(-1, 5), np.full(len(seen), 4), rgb, np.ones(len(seen), bool))
        if style == "picture" and self.look.weather == "rain":
            _streaks(image, origin, self.light.horizon)
        small = cv2.resize(image, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
        return np.asarray(small, np.uint8)

    def _haze(self, rgb: FloatArray, distance_m: FloatArray) -> FloatArray:
        keep = np.exp(-np.maximum(distance_m, 0.0) / self.light.fog_m)[:, None].astype(np.float32)
        return rgb * keep + self.light.horizon.astype(np.float32) * (1 - keep)

    def _draw_flat(self, image: ByteArray, view: _View, flat: Flat, style: str) -> None:
        projected = view.project(flat.points)
        low, high = np.minimum.reduceat(projected, flat.starts), np.maximum.reduceat(projected, flat.starts)
        seen = np.flatnonzero(view.visible(low, high) & (low[:, 2] < flat.reach_m))
        counts = flat.counts[seen]
        rows = ranges(flat.starts[seen], counts)
        view.fill(image, projected[rows], counts, self.ground_rgb[style][flat.index[seen]], flat.convex[seen])
        if style == "picture":
            _veil(image, view, self.light)

    def _backdrop(self, view: _View, slope: FloatArray, style: str) -> ByteArray:
        """Sky by elevation, a level ground plane out to the horizon, and a near one that slopes as the streets do."""
        if style == "layout":
            rows = np.broadcast_to(np.array(LAYOUT_SKY, np.uint8), (view.height, 3))
        else:
            up = np.clip(view.row_up / 0.55, 0.0, 1.0)[:, None] ** 0.7
            rows = (self.light.horizon * (1 - up) + self.light.zenith * up).astype(np.uint8)
        image: ByteArray = np.tile(rows, (1, view.width)).reshape(view.height, view.width, 3)
        square = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float32)
        planes = [square * HORIZON_M]
        if slope.any():
            planes.append(np.column_stack([square[:, :2], square[:, :2] @ slope]).astype(np.float32) * RANGE_M)
        rgb = np.asarray(self.light.flat["ground"] if style == "picture" else LAYOUT_FLAT["ground"], np.float32)
        count = len(planes)
        view.fill(image, view.project(np.concatenate(planes)), np.full(count, 4), np.tile(rgb, (count, 1)),
                  np.ones(count, bool))
        return image


def _prop_shape(prop: Prop, night: bool) -> Shape:
    l_m, w_m, h_m = (round(float(v), 2) for v in prop.size_lwh_m)
    lit = night and prop.kind == "building"
    return prop_shape(prop.kind, l_m, w_m, h_m, zlib.crc32(np.round(prop.position_m, 2).tobytes()) if lit else 0, night)


class _View:
    """One camera at one pose, in pixels of the supersampled image; points are given relative to the rig's origin."""

    def __init__(self, camera: Camera, rotation: FloatArray) -> None:
        self.width, self.height = camera.width * SUPERSAMPLE, camera.height * SUPERSAMPLE
        turn = rotation @ camera.rig_from_camera[:3, :3]
        self.eye = (rotation @ camera.rig_from_camera[:3, 3]).astype(np.float32)
        k = camera.intrinsics * np.array([[SUPERSAMPLE], [SUPERSAMPLE], [1.0]])
        # u*z, v*z and z, and how far u*z and v*z lie beyond the right and the lower edge: all linear, so that a polygon
        # is out of sight where one of them has the same sign at every corner, before or behind the camera
        rows = np.stack([k[0], k[1], k[2], k[0] - self.width * k[2], k[1] - self.height * k[2]])
        self.linear = np.ascontiguousarray((rows @ turn.T).T, np.float32)
        x, y = (self.width / 2 - k[0, 2]) / k[0, 0], (np.arange(self.height) + 0.5 - k[1, 2]) / k[1, 1]
        self.row_up: FloatArray = (turn[2, 0] * x + turn[2, 1] * y + turn[2, 2]) / np.sqrt(x * x + y * y + 1.0)

    def project(self, points: FloatArray) -> FloatArray:
        """(N, 3) -> (N, 5): u*z, v*z, z in pixels and metres, (u - width) * z, (v - height) * z."""
        out: FloatArray = (points - self.eye) @ self.linear
        return out

    def visible(self, low: FloatArray, high: FloatArray) -> BoolArray:
        """Whether polygons with these bounds (P, 5) of their projected points may touch the image."""
        return (high[:, 2] > NEAR_M) & (high[:, 0] > 0) & (high[:, 1] > 0) & (low[:, 3] < 0) & (low[:, 4] < 0)

    def fill(self, image: ByteArray, projected: FloatArray, counts: IntArray, rgb: FloatArray,
             convex: BoolArray) -> None:
        """Paint polygons of ``counts`` consecutive points (V, 5), in order, clipped where they cross the near plane."""
        if not len(counts):
            return
        ends = np.cumsum(counts)
        starts = ends - counts
        cut = np.minimum.reduceat(projected[:, 2], starts) < NEAR_M
        pixels = _fixed(projected[:, :2] / np.maximum(projected[:, 2:3], NEAR_M))
        polygons = zip(starts.tolist(), ends.tolist(), cut.tolist(), convex.tolist(), rgb.tolist())
        for a, b, clip, simple, color in polygons:
            polygon = _clipped(projected[a:b, :3].tolist()) if clip else pixels[a:b]
            if simple:
                cv2.fillConvexPoly(image, polygon, color, 8, SHIFT)
            else:
                cv2.fillPoly(image, [polygon], color, 8, SHIFT)


def _fixed(uv: FloatArray) -> IntArray:
    """Pixels as OpenCV wants them: integers of 1 / 2**SHIFT, counted from the middle of the first pixel."""
    return np.rint((np.clip(uv, -FAR_PX, FAR_PX) - 0.5) * (1 << SHIFT)).astype(np.int32)


def _clipped(points: list[list[float]]) -> IntArray:
    """Sutherland-Hodgman against the near plane, concave polygons included: (u*z, v*z, z) -> fixed pixels (M, 2).

    Plain floats: for the few corners of a polygon they are ten times as fast as arrays.
    """
    out = []
    u0, v0, z0 = points[-1]
    for u1, v1, z1 in points:
        if (z0 < NEAR_M) != (z1 < NEAR_M):
            t = (NEAR_M - z0) / (z1 - z0)
            out.append(((u0 + t * (u1 - u0)) / NEAR_M, (v0 + t * (v1 - v0)) / NEAR_M))
        if z1 >= NEAR_M:
            out.append((u1 / z1, v1 / z1))
        u0, v0, z0 = u1, v1, z1
    return _fixed(np.array(out))


def _veil(image: ByteArray, view: _View, light: Light) -> None:
    """Haze over the ground, row by row: its distance follows from the height of the eye and the slope of the ray."""
    down = np.maximum(-view.row_up, 1e-4)
    keep = np.where(view.row_up < 0, np.exp(-max(float(view.eye[2]), 0.5) / down / light.fog_m), 1.0)
    rows = np.flatnonzero((view.row_up < 0) & (keep < 0.99))
    if len(rows):
        share = np.rint(keep[rows] * 256).astype(np.uint16)[:, None, None]
        fog = np.rint(light.horizon).astype(np.uint16)
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        if len(rows) == part.stop - part.start:
            image[part] = (image[part] * share + fog * (256 - share)) >> 8


def _streaks(image: ByteArray, origin: FloatArray, rgb: FloatArray) -> None:
    rng = np.random.default_rng(zlib.crc32(np.round(origin, 3).tobytes()))
    height, width = image.shape[:2]
    start = rng.uniform(0, 1, (26, 2)) * (width, height)
    length = height * rng.uniform(0.04, 0.09, 26)
    color = tuple(float(v) for v in np.minimum(rgb + 26, 255))
    for (x, y), d in zip(start, length):
        cv2.line(image, (int(x), int(y)), (int(x - 0.15 * d), int(y + d)), color, 1)


def draw_log(log: Log, timestamp_us: int, rig: Rig | None = None, world_from_rig: FloatArray | None = None,
             style: str = "picture") -> dict[str, ByteArray]:
    """What ``rig`` (default: the log's) sees of the log's world at a time, from the ego's pose or from any other.

    Raises InputError where no pose is given and the log has none at that time.
    """
    if world_from_rig is None:
        poses, valid = interpolate_poses(log.ego, np.array([timestamp_us]))
        if not valid[0]:
            raise InputError(f"log {log.id} has no ego pose at {timestamp_us}; "
                             f"it lasts from {log.start_us} to {log.end_us}")
        world_from_rig = poses[0]
    renderer: Renderer = cached("renderer", log, lambda it: Renderer(it.map, it.look, it.signals))
    agents, states = agents_at(log, timestamp_us), signals_at(log, timestamp_us)
    return renderer.draw(rig or log.rig, world_from_rig, agents, states, style)
