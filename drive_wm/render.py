"""Draws what a camera would see of a Log: flat-shaded polygons, painter's order, any pose, any pinhole Rig.

"picture" is a low-poly view under the log's Look (light, weather, night). "layout" is the same geometry in the colours
of classes and instances, whatever the Look: it is what the world model is conditioned on. "semantics", "depth" and
"instance" say what is at the centre of each pixel. All are functions of their arguments alone, to the byte.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from drive_wm.geometry import interpolate_poses
from drive_wm.render_effects import KEPT_PX, POOL_REACH_M, beams, light_ground, own_beams, pools, reflect, streaks, veil
from drive_wm.render_ground import Flat, Ground
from drive_wm.render_hidden import in_sight
from drive_wm.render_labels import Labels, Polygons, label
from drive_wm.render_light import (
    BEACON,
    EMISSIVE,
    FACADE_FLAT,
    LAYOUT_FLAT,
    LAYOUT_HIDDEN,
    LAYOUT_SKY,
    MATERIAL,
    SHADOW,
    Light,
    layout_paint,
)
from drive_wm.render_props import LAMP_ARM_M, prop_shape
from drive_wm.render_shapes import SEMANTIC, SEMANTICS
from drive_wm.render_state import AgentBoxes, agents_at, cached, default_color, signals_at
from drive_wm.render_things import Things, agent_things, assemble, depth_keys, ranges, signal_props
from drive_wm.render_view import NEAR_M, View
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

__all__ = ["SEMANTICS", "STYLES", "AgentBoxes", "Labels", "Renderer", "agents_at", "default_color", "draw_log",
           "signals_at"]
RANGE_M = 120.0
HORIZON_M = 1500.0
SUPERSAMPLE = 2
FINE_M = {"picture": 42.0, "layout": 24.0, "labels": 42.0}  # props, and agents at 3/4 of it, are simpler farther away
BEACON_HAZE = 0.4  # lamps are seen through this share of the haze
BACKDROPS = 12  # so many empty pictures are kept
# what of a thing is left out: its windows and its shadow neither have a class of their own nor a depth
HIDDEN = {"picture": SHADOW & ~SHADOW, "layout": LAYOUT_HIDDEN, "labels": FACADE_FLAT | SHADOW}
PAINTED = ("picture", "layout")
STYLES = (*PAINTED, "semantics", "depth", "instance")
_SQUARE = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float32)


@dataclass
class _Standing:
    """M things of one moment, in painting order, with Q quads. ball_m: (M, 4), first, count, owner, base_m: (M,).

    Coordinates are relative to the rig's origin. owner: index of the agent, -1 for props. normals are zero where a
    quad is hidden.
    """

    ball_m: FloatArray
    first: IntArray
    count: IntArray
    owner: IntArray
    base_m: FloatArray
    quads: FloatArray
    normals: FloatArray
    rgb: FloatArray
    materials: IntArray
    classes: IntArray

    def __post_init__(self) -> None:
        self.offset = np.einsum("qi,qi->q", self.quads[:, 0], self.normals)  # of the planes of the quads

    def rows(self, view: View) -> tuple[IntArray, IntArray]:
        """The quads that face the eye of the things that it may see, in painting order, and their things."""
        seen = np.flatnonzero(view.may_see(self.ball_m))
        rows = ranges(self.first[seen], self.count[seen])
        facing = (self.normals @ view.eye > self.offset)[rows]
        return rows[facing], np.repeat(seen, self.count[seen])[facing]


class Renderer:
    """Draws one map under one Look. Static geometry is prepared once; ``draw`` may be called for any pose."""

    def __init__(self, map: RoadMap | None, look: Look = Look(), signals: Sequence[Signal] = ()) -> None:
        road_map = map if map is not None else RoadMap("none")
        self.look, self.light = look, Light(look)
        self.ground = Ground(road_map)
        self.ground_rgb = {"picture": self.ground.colors(self.light.flat), "layout": self.ground.colors(LAYOUT_FLAT)}
        props = [*road_map.props, *signal_props(road_map.props, signals)]
        self._signal_of = [prop.signal_id or "" for prop in props]
        self._feet = np.array([_below_head(prop) for prop in props if prop.kind == "lamp"]).reshape(-1, 3)
        xyzyaw = np.array([[*p.position_m, p.yaw_rad] for p in props], float).reshape(-1, 4)
        lwh = np.array([p.size_lwh_m for p in props], float).reshape(-1, 3)
        rgb = np.array([p.color_rgb for p in props], np.uint8).reshape(-1, 3)
        self._shapes = [_prop_shape(prop, look.night, self.light.dark, fine)
                        for fine in (True, False) for prop in props]
        self._twice = [np.concatenate([value, value]) for value in (xyzyaw, lwh, rgb)]  # fine shapes, then simple ones
        self._static: dict[str, tuple[Things, FloatArray]] = {}
        self._backdrops: dict[tuple[Any, ...], ByteArray] = {}
        self._lit = {SIGNAL_STATES.index(name): MATERIAL["if " + name] for name in ("green", "yellow", "red")}
        self._lamp = {MATERIAL["if " + name]: MATERIAL["lamp " + name] for name in ("green", "yellow", "red")}

    def draw(self, rig: Rig, world_from_rig: FloatArray, agents: AgentBoxes, signal_states: Mapping[str, int],
             style: str = "picture") -> dict[str, NDArray[Any]]:
        """Camera -> (H, W, 3) uint8 RGB, H x W as the rig says; or what ``labels`` has, if ``style`` names it.

        "semantics": (H, W) uint8. "depth": (H, W) float32 metres along the optical axis, inf for the sky.
        "instance": (H, W) int32. Raises InputError for an unknown style or a bad pose.
        """
        if style not in STYLES:
            raise InputError(f"style {style!r}, expected one of {', '.join(STYLES)}")
        if style not in PAINTED:
            found = self.labels(rig, world_from_rig, agents, signal_states)
            return {name: {"semantics": it.semantics, "depth": it.depth_m, "instance": it.instance}[style]
                    for name, it in found.items()}
        pose = _checked(world_from_rig)
        origin, rotation = pose[:3, 3], pose[:3, :3]
        flat = self.ground.near(origin, RANGE_M)
        standing = self._standing(origin, agents, signal_states, style)
        patches = self._patches(origin, rotation, agents) if style == "picture" and self.light.dark else []
        if patches:
            _flood(standing, rotation, self.light.darkness)
        return {camera.name: self._camera(View(camera, rotation, SUPERSAMPLE), camera, origin, flat, standing, patches,
                                          style) for camera in rig.cameras}

    def labels(self, rig: Rig, world_from_rig: FloatArray, agents: AgentBoxes,
               signal_states: Mapping[str, int]) -> dict[str, Labels]:
        """Camera -> class, depth and instance at the centre of every pixel. Raises InputError for a bad pose."""
        pose = _checked(world_from_rig)
        flat = self.ground.near(pose[:3, 3], RANGE_M)
        standing = self._standing(pose[:3, 3], agents, signal_states, "labels")
        ground = self._ground_polygons(flat)
        out = {}
        for camera in rig.cameras:
            view = View(camera, pose[:3, :3])
            rows, things = standing.rows(view)
            upright = Polygons(standing.quads[rows].reshape(-1, 3), np.full(len(rows), 4), standing.classes[rows],
                               standing.owner[things])
            out[camera.name] = label(view, ground, upright)
        return out

    def _ground_polygons(self, flat: Flat) -> Polygons:
        planes = _planes(flat.slope)
        points = np.concatenate([planes.reshape(-1, 3), flat.points])
        classes = np.concatenate([np.full(len(planes), SEMANTIC["terrain"]), self.ground.classes[flat.index]])
        return Polygons(points, np.concatenate([np.full(len(planes), 4), flat.counts]), classes,
                        np.full(len(classes), -1))

    def _paint(self, things: Things, style: str) -> FloatArray:
        materials = np.maximum(things.materials, 0)
        if style == "picture":
            return self.light.paint(materials, things.instance_rgb, things.normals)
        return layout_paint(materials, things.instance_rgb, things.normals)

    def static(self, style: str) -> tuple[Things, FloatArray]:
        """The props as a style shows them, and the colours of their quads; made when it is first drawn."""
        if style not in self._static:
            things = assemble([shape.without(HIDDEN[style]) for shape in self._shapes], *self._twice)
            self._static[style] = things, self._paint(things, style)
        return self._static[style]

    def _standing(self, origin: FloatArray, agents: AgentBoxes, signal_states: Mapping[str, int],
                  style: str) -> _Standing:
        (static, static_rgb), n = self.static(style), len(self._signal_of)
        away = np.hypot(*(static.xyzyaw[:n, :2] - origin[:2]).T) - static.half[:n].max(1, initial=0.0)
        near = np.flatnonzero(away < RANGE_M)
        near = near + n * (away[near] > FINE_M[style])
        rows = ranges(static.first[near], static.count[near])
        materials, rgb, normals = static.materials[rows], static_rgb[rows], static.normals[rows]
        self._signals(np.repeat(near % max(n, 1), static.count[near]), materials, rgb, normals, signal_states, style)
        which = np.flatnonzero(np.hypot(*(agents.xyzyaw[:, :2] - origin[:2]).T) < RANGE_M)
        moving = agent_things(agents.select(which), origin[:2], self.light.lamps_on, 0.75 * FINE_M[style])
        xyzyaw = np.concatenate([static.xyzyaw[near], moving.xyzyaw])
        half = np.concatenate([static.half[near], moving.half])
        keys = depth_keys(*(it.astype(np.float32) for it in (xyzyaw[:, :2] - origin[:2], half, xyzyaw[:, 3])))
        order = np.argsort(-keys, kind="stable")
        count = np.concatenate([static.count[near], moving.count])
        ball = np.concatenate([static.ball_m[near], moving.ball_m])
        ball[:, :3] -= origin
        quads = np.concatenate([static.quads[rows] - (origin - static.anchor).astype(np.float32),
                                moving.quads - (origin - moving.anchor).astype(np.float32)])
        shown = (moving.materials >= 0) & ~HIDDEN[style][np.maximum(moving.materials, 0)]
        owner = np.concatenate([np.full(len(near), -1), which])
        return _Standing(
            ball[order].astype(np.float32), (np.cumsum(count) - count)[order], count[order], owner[order],
            (xyzyaw[:, 2] - origin[2])[order], quads, np.concatenate([normals, moving.normals * shown[:, None]]),
            np.concatenate([rgb, self._paint(moving, style)]), np.concatenate([materials, moving.materials]),
            np.concatenate([static.classes[rows], moving.classes]))

    def _signals(self, prop: IntArray, materials: IntArray, rgb: FloatArray, normals: FloatArray,
                 signal_states: Mapping[str, int], style: str) -> None:
        """Light the lamp of each traffic light that its state names, and hide the glow of the others, in place."""
        lamps = np.flatnonzero(materials >= MATERIAL["if green"])
        for row, kind, owner in zip(lamps.tolist(), materials[lamps].tolist(), prop[lamps].tolist()):
            if self._lit.get(signal_states.get(self._signal_of[owner], 0)) == kind:
                lit = np.array([self._lamp[kind]])
                one, none = normals[row : row + 1], np.zeros((1, 3), np.float32)
                materials[row] = lit[0]
                rgb[row] = (self.light.paint(lit, none, one) if style == "picture" else layout_paint(lit, none, one))[0]
            else:
                normals[row] = 0.0

    def _patches(self, origin: FloatArray, rotation: FloatArray,
                 agents: AgentBoxes) -> list[tuple[FloatArray, tuple[int, int, int]]]:
        """What street lamps and head lamps light up on the ground, dim patches first."""
        near = self._feet[np.hypot(*(self._feet[:, :2] - origin[:2]).T) < POOL_REACH_M]
        driving = np.array([c not in ("pedestrian", "bicycle", "object") for c in agents.categories], bool)
        driving &= np.ones(len(agents), bool) if agents.lights is None else agents.lights
        driving &= np.hypot(*(agents.xyzyaw[:, :2] - origin[:2]).T) < POOL_REACH_M
        front = agents.xyzyaw[driving].copy()
        front[:, :2] += 0.5 * agents.lwh_m[driving, :1] * np.stack([np.cos(front[:, 3]), np.sin(front[:, 3])], 1)
        front[:, 2] -= agents.lwh_m[driving, 2] / 2
        front[:, :3] -= origin
        return sorted(pools(near - origin) + beams(front) + own_beams(rotation), key=lambda patch: patch[1])

    def _camera(self, view: View, camera: Camera, origin: FloatArray, flat: Flat, standing: _Standing,
                patches: list[tuple[FloatArray, tuple[int, int, int]]], style: str) -> ByteArray:
        image = self._backdrop(view, flat.slope, style)
        if len(flat.starts):
            self._draw_flat(image, view, flat, style)
        picture = style == "picture"
        if picture:
            veil(image, view, self.light)
        if patches:
            light_ground(image, view, patches, self.light.darkness)
        self._draw_standing(image, view, standing, picture)
        if picture and self.light.wet:
            streaks(image, origin, self.light.horizon)
        small = cv2.resize(image, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
        return np.asarray(small, np.uint8)

    def _draw_standing(self, image: ByteArray, view: View, standing: _Standing, picture: bool) -> None:
        rows, things = standing.rows(view)
        projected = view.project(standing.quads[rows].reshape(-1, 3)).reshape(-1, 4, 5)
        a, b, c, d = projected.transpose(1, 0, 2)  # pairs of slices: three times as fast as .min(1)
        low, high = (pick(pick(a, b), pick(c, d)) for pick in (np.minimum, np.maximum))
        seen = np.flatnonzero(view.visible(low, high))
        materials = standing.materials[rows]
        if picture and self.light.wet:
            beacon = np.flatnonzero(BEACON[materials])
            reflect(image, view, standing.quads[rows[beacon]], standing.base_m[things[beacon]],
                    standing.rgb[rows[beacon]])
        rows, projected, materials = rows[seen], projected[seen], materials[seen]
        uv = projected[..., :2] / np.maximum(projected[..., 2:3], NEAR_M)
        seen = np.flatnonzero(in_sight(view, uv, projected[..., 2], np.flatnonzero(materials == MATERIAL["wall"])))
        rows, projected, uv = rows[seen], projected[seen], uv[seen]
        rgb = standing.rgb[rows]
        if picture:
            rgb = self._haze(rgb, projected[:, 0, 2], EMISSIVE[materials[seen]])
        view.fill_quads(image, uv, projected, rgb)

    def _haze(self, rgb: FloatArray, distance_m: FloatArray, emissive: BoolArray) -> FloatArray:
        through = np.maximum(distance_m, 0.0) * np.where(emissive, BEACON_HAZE, 1.0)
        keep = np.exp(-through / self.light.fog_m)[:, None].astype(np.float32)
        return rgb * keep + self.light.horizon.astype(np.float32) * (1 - keep)

    def _draw_flat(self, image: ByteArray, view: View, flat: Flat, style: str) -> None:
        may = np.flatnonzero(view.may_see(flat.ball_m))
        counts = flat.counts[may]
        if not len(may):
            return
        projected = view.project(flat.points[ranges(flat.starts[may], counts)])
        starts = np.cumsum(counts) - counts
        low, high = np.minimum.reduceat(projected, starts), np.maximum.reduceat(projected, starts)
        seen = np.flatnonzero(view.visible(low, high) & (low[:, 2] < flat.reach_m[may]))
        rows = ranges(starts[seen], counts[seen])
        view.fill(image, projected[rows], counts[seen], self.ground_rgb[style][flat.index[may[seen]]],
                  flat.convex[may[seen]])

    def _backdrop(self, view: View, slope: FloatArray, style: str) -> ByteArray:
        """Sky and ground planes; where the ground is level, they are the same wherever the rig stands."""
        key = (style, view.width, view.height, view.intrinsics.tobytes(), np.round(view.turn[2], 6).tobytes(),
               round(float(view.eye[2]), 3), slope.tobytes())
        found = self._backdrops.get(key)
        if found is None:
            found = self._draw_backdrop(view, slope, style)
            if len(self._backdrops) > BACKDROPS:
                self._backdrops.clear()
            if view.width * view.height > KEPT_PX:
                return found
            self._backdrops[key] = found
        return found.copy()

    def _draw_backdrop(self, view: View, slope: FloatArray, style: str) -> ByteArray:
        """Sky by elevation, a level ground plane out to the horizon, and a near one that slopes as the streets do."""
        if style == "layout":
            rows = np.tile(np.array(LAYOUT_SKY, np.uint8), (view.height, 1))
        else:
            up = np.clip(view.row_up / 0.55, 0.0, 1.0)[:, None] ** 0.7
            rows = (self.light.horizon * (1 - up) + self.light.zenith * up).astype(np.uint8)
        image: ByteArray = np.repeat(rows[:, None], view.width, 1)
        planes = _planes(slope)
        rgb = np.asarray(self.light.flat["ground"] if style == "picture" else LAYOUT_FLAT["ground"], np.float32)
        count = len(planes)
        view.fill(image, view.project(planes.reshape(-1, 3)), np.full(count, 4), np.tile(rgb, (count, 1)),
                  np.ones(count, bool))
        return image


def _planes(slope: FloatArray) -> FloatArray:
    """(1 or 2, 4, 3): the level plane to the horizon, and the near one where streets slope."""
    planes = [_SQUARE * HORIZON_M]
    if slope.any():
        planes.append(np.column_stack([_SQUARE[:, :2], _SQUARE[:, :2] @ slope]).astype(np.float32) * RANGE_M)
    return np.stack(planes)


def _flood(standing: _Standing, rotation: FloatArray, strength: float) -> None:
    """The ego's head lamps by night on what stands before it, in place."""
    ahead, aside = standing.ball_m[:, :2] @ rotation[:2, 0], np.abs(standing.ball_m[:, :2] @ rotation[:2, 1])
    beam = np.clip(1.4 - aside / np.maximum(0.3 * ahead + 2.5, 0.1), 0.0, 1.0) * (ahead > 2.0)
    gain = 1.0 + 1.3 * strength * beam * np.exp(-np.maximum(ahead, 0.0) / 22.0)
    for k in np.flatnonzero(gain > 1.02).tolist():
        rows = slice(int(standing.first[k]), int(standing.first[k] + standing.count[k]))
        matt = ~EMISSIVE[np.maximum(standing.materials[rows], 0)]
        standing.rgb[rows][matt] = np.minimum(standing.rgb[rows][matt] * np.float32(gain[k]), 255)


def _checked(world_from_rig: FloatArray) -> FloatArray:
    if np.shape(world_from_rig) != (4, 4) or not np.isfinite(world_from_rig).all():
        raise InputError(f"world_from_rig must be a finite (4, 4) pose, got shape {np.shape(world_from_rig)}")
    return np.asarray(world_from_rig, float)


def _below_head(lamp: Prop) -> FloatArray:
    return np.asarray(lamp.position_m) + LAMP_ARM_M * np.array([np.cos(lamp.yaw_rad), np.sin(lamp.yaw_rad), 0.0])


def _prop_shape(prop: Prop, night: bool, dark: bool, fine: bool) -> Any:
    l_m, w_m, h_m = (round(float(v), 2) for v in prop.size_lwh_m)
    if prop.kind == "building":
        return prop_shape(prop.kind, l_m, w_m, h_m, zlib.crc32(np.round(prop.position_m, 2).tobytes()), night, fine)
    return prop_shape(prop.kind, l_m, w_m, h_m, 0, dark, fine)


def draw_log(log: Log, timestamp_us: int, rig: Rig | None = None, world_from_rig: FloatArray | None = None,
             style: str = "picture") -> dict[str, NDArray[Any]]:
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
