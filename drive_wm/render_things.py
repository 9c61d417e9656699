"""Standing things of one moment as quads of the world, and the order in which to paint them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drive_wm.render_light import MATERIAL
from drive_wm.render_shapes import Shape, agent_shape
from drive_wm.render_state import AgentBoxes
from drive_wm.types import ByteArray, FloatArray, IntArray, Prop, Signal

LARGE_M = 3.5  # half a length from which a thing's centre no longer tells what it hides


def ranges(starts: IntArray, counts: IntArray) -> IntArray:
    """The concatenation of arange(start, start + count) over all pairs."""
    return np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(int(counts.sum()))


@dataclass
class Things:
    """N things of Q quads in all. xyzyaw: (N, 4), z of the ground. half: (N, 2). count: (N,).

    ball_m: (N, 4), centre and radius around all quads of a thing. quads: (Q, 4, 3) float32 from anchor (3,).
    materials, classes: (Q,). instance_rgb: (Q, 3).
    """

    xyzyaw: FloatArray
    half: FloatArray
    ball_m: FloatArray
    count: IntArray
    quads: FloatArray
    normals: FloatArray
    materials: IntArray
    classes: IntArray
    instance_rgb: FloatArray
    anchor: FloatArray

    @property
    def first(self) -> IntArray:
        return np.cumsum(self.count) - self.count


def assemble(shapes: Sequence[Shape], xyzyaw: FloatArray, lwh_m: FloatArray, colors: ByteArray) -> Things:
    """Shapes put on the ground at xyzyaw (N, 4), z of the ground."""
    count = np.array([len(s.materials) for s in shapes], np.int64)
    if not len(shapes):
        none = np.zeros((0, 3), np.float32)
        return Things(np.zeros((0, 4)), np.zeros((0, 2)), np.zeros((0, 4)), count, np.zeros((0, 4, 3), np.float32),
                      none, np.zeros(0, int), np.zeros(0, int), none, np.zeros(3))
    local, normal = np.concatenate([s.quads for s in shapes]), np.concatenate([s.normals for s in shapes])
    c, s = (np.repeat(pick(xyzyaw[:, 3]).astype(np.float32), count) for pick in (np.cos, np.sin))
    anchor = xyzyaw[:, :3].mean(0)
    quads = np.empty(local.shape, np.float32)
    x, y = local[..., 0], local[..., 1]
    quads[..., 0] = c[:, None] * x - s[:, None] * y
    quads[..., 1] = s[:, None] * x + c[:, None] * y
    quads[..., 2] = local[..., 2]
    quads += np.repeat((xyzyaw[:, :3] - anchor).astype(np.float32), count, axis=0)[:, None]
    turned = np.stack([c * normal[:, 0] - s * normal[:, 1], s * normal[:, 0] + c * normal[:, 1], normal[:, 2]], 1)
    starts = np.cumsum(count) - count
    reach = np.sqrt(np.maximum.reduceat((local[..., 0] ** 2 + local[..., 1] ** 2).max(1), starts))
    top = np.maximum.reduceat(local[..., 2].max(1), starts)
    ball = np.column_stack([xyzyaw[:, :2], xyzyaw[:, 2] + top / 2, np.hypot(reach, top / 2)])
    return Things(xyzyaw, lwh_m[:, :2] / 2, ball, count, quads, turned.astype(np.float32),
                  np.concatenate([s.materials for s in shapes]), np.concatenate([s.classes for s in shapes]),
                  np.repeat(colors.astype(np.float32), count, axis=0), anchor)


def agent_things(agents: AgentBoxes, eye_xy: FloatArray, lamps_on: bool, fine_m: float) -> Things:
    """The agents as things, in detail up to fine_m away; quads that their state hides have material -1."""
    sizes = [tuple(round(float(v), 2) for v in row) for row in np.maximum(agents.lwh_m, 0.1)]
    fine = np.hypot(*(agents.xyzyaw[:, :2] - eye_xy).T) < fine_m
    shapes = [agent_shape(category, *size, bool(f)) for category, size, f in zip(agents.categories, sizes, fine)]
    ground = agents.xyzyaw.copy()
    ground[:, 2] -= agents.lwh_m[:, 2] / 2
    things = assemble(shapes, ground, agents.lwh_m, agents.colors)
    _light_up(things, agents, lamps_on)
    return things


def _light_up(things: Things, agents: AgentBoxes, lamps_on: bool) -> None:
    """Materials that a state decides become what they are at this moment."""
    siren = np.zeros(len(agents), np.int8) if agents.siren is None else agents.siren
    lights = np.ones(len(agents), bool) if agents.lights is None else agents.lights
    turning = agents.indicator[:, None] == np.array([[1, -1]])
    turning |= agents.indicator[:, None] == 2
    state = np.column_stack([agents.brake, turning, siren == 1, siren == 2, lights])
    state = np.repeat(state, things.count, axis=0)
    old = things.materials
    new = old.copy()
    hide = ("if brake", "brake"), ("if left", "indicator"), ("if right", "indicator"), ("if siren 1", "siren"), \
        ("if siren 2", "siren")
    for column, (name, lit) in enumerate(hide):
        which = old == MATERIAL[name]
        new[which] = np.where(state[which, column], MATERIAL[lit], -1)
    new[(old == MATERIAL["headlamp"]) & ~state[:, 5]] = MATERIAL["lens"]
    if lamps_on:
        new[(old == MATERIAL["tail"]) & state[:, 5]] = MATERIAL["tail lit"]
    things.materials = new


def signal_props(props: Sequence[Prop], signals: Sequence[Signal]) -> list[Prop]:
    """Masts for the signals that no prop shows; ``position_m`` of a signal is its head."""
    shown = {prop.signal_id for prop in props}
    size = np.array([0.4, 0.7, 4.6])
    return [Prop("traffic_light", s.position_m - np.array([0.0, 0.0, 3.7]), s.yaw_rad, size, (40, 40, 44), s.id)
            for s in signals if s.id not in shown]


def depth_keys(center: FloatArray, half: FloatArray, yaw: FloatArray) -> FloatArray:
    """Painting keys (N,), to be painted from large to small: the distance of the centre, mended near large boxes.

    center: (N, 2) from the eye. half: (N, 2). yaw: (N,).

    The centre of a long facade says nothing about a car beside it: a small thing whose line of sight a large box cuts
    is painted before that box, one that stands before the box is painted after it.
    """
    key: FloatArray = np.hypot(*center.T)
    large = np.flatnonzero(half.max(1) > LARGE_M) if len(half) else np.zeros(0, int)
    small = np.flatnonzero(half.max(1) <= LARGE_M) if len(half) else np.zeros(0, int)
    if not len(large):
        return key
    c, s = np.cos(yaw[large]), np.sin(yaw[large])

    def local(points: FloatArray) -> FloatArray:
        d = points[:, None] - center[large]
        return np.stack([c * d[..., 0] + s * d[..., 1], c * d[..., 1] - s * d[..., 0]], -1)

    origin = local(np.zeros((1, 2), center.dtype))
    key[large] = np.hypot(*(np.abs(origin[0]) - np.minimum(np.abs(origin[0]), half[large])).T) * 0.5 + key[large] * 0.5
    if not len(small):
        return key
    ray = local(center[small]) - origin
    ray = np.where(np.abs(ray) < 1e-6, 1e-6, ray)
    middle, per_metre = -origin / ray, 1.0 / np.abs(ray)

    def slab(margin_m: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Where along the line of sight, 1 being the small thing, it enters and leaves boxes of this half size."""
        width = margin_m * per_metre
        first, last = middle - width, middle + width
        return np.maximum(first[..., 0], first[..., 1]), np.minimum(last[..., 0], last[..., 1])

    enter, leave = slab(half[large])
    cuts = (enter < leave) & (leave > 0) & (enter < 1)
    wide_enter, wide_leave = slab(half[large] + half[small].max(1)[:, None, None])
    before = (wide_enter < wide_leave) & (wide_leave > 0) & ~cuts
    far, near = np.where(before, key[large] - 1e-3, np.inf).min(1), np.where(cuts, key[large] + 1e-3, -np.inf).max(1)
    key[small] = np.maximum(np.minimum(key[small], far), near)
    return key
