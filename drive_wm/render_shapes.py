"""What agents are made of: quads of materials and classes in a thing's own frame.

Frame of a shape: origin at its ground centre, x forward, y left, z up, metres. What a material looks like depends on
the style, the light and the state of the thing (see render_light). ``fine`` shapes are for things close by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from drive_wm.render_light import MATERIAL
from drive_wm.types import BoolArray, FloatArray, IntArray

SEMANTICS = ("sky", "road", "marking", "walkway", "crossing", "terrain", "building", "vegetation", "pole", "sign",
             "traffic light", "kerb", "cycle lane", "car", "van", "truck", "bus", "motorcycle", "bicycle", "pedestrian",
             "object", "furniture")
SEMANTIC = {name: i for i, name in enumerate(SEMANTICS)}
Span = tuple[float, float]


@dataclass(frozen=True)
class Shape:
    """quads: (Q, 4, 3) metres, in the order of painting. normals: (Q, 3). materials, classes (SEMANTICS): (Q,)."""

    quads: FloatArray
    normals: FloatArray
    materials: IntArray
    classes: IntArray

    def without(self, hidden: BoolArray) -> Shape:
        """The shape less its quads of hidden materials; hidden: one flag a material."""
        keep = ~hidden[self.materials]
        return Shape(self.quads[keep], self.normals[keep], self.materials[keep], self.classes[keep])


class Builder:
    """Collects quads of the class ``semantic``; a thing is a pile of convex parts painted one after the other."""

    def __init__(self, semantic: str) -> None:
        self.semantic = semantic
        self.quads: list[Sequence[Sequence[float]]] = []
        self.materials: list[int] = []
        self.classes: list[int] = []

    def quad(self, corners: Sequence[Sequence[float]], material: str) -> None:
        """Four corners, counter-clockwise seen from outside; the last two may be the same."""
        self.quads.append(corners)
        self.materials.append(MATERIAL[material])
        self.classes.append(SEMANTIC[self.semantic])

    def box(self, x: Span, y: Span, z: Span, material: str, top: str | None = None, taper: float = 0.0,
            back: bool = True) -> None:
        """Sides and top of a box; ``taper`` metres are taken off every upper edge; without ``back``, no rear face."""
        t = min(taper, 0.45 * (x[1] - x[0]), 0.45 * (y[1] - y[0]))
        self.frustum(x, y, (x[0] + t, x[1] - t), (y[0] + t, y[1] - t), z, material, top, back)

    def frustum(self, x: Span, y: Span, top_x: Span, top_y: Span, z: Span, material: str, top: str | None = None,
                back: bool = True) -> None:
        """Sides and top of a solid between two rectangles; it may widen towards its top."""
        a, b, c, d = ((u, v, z[0]) for u, v in ((x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])))
        e, f, g, h = ((u, v, z[1]) for u, v in ((top_x[0], top_y[0]), (top_x[1], top_y[0]), (top_x[1], top_y[1]),
                                                 (top_x[0], top_y[1])))
        for corners in ((a, b, f, e), (b, c, g, f), (c, d, h, g), (d, a, e, h))[: 4 if back else 3]:
            self.quad(corners, material)
        self.quad((e, f, g, h), top or material)

    def plate(self, x: float, y: Span, z: Span, material: str, front: bool = True) -> None:
        """An upright rectangle across the x axis, seen from the front (+x) or from behind."""
        y0, y1 = y if front else y[::-1]
        self.quad(((x, y0, z[0]), (x, y1, z[0]), (x, y1, z[1]), (x, y0, z[1])), material)

    def flank(self, x: Span, y: float, z: Span, material: str, cut: float = 0.0) -> None:
        """An upright rectangle along the x axis at y, seen from the side it lies on; ``cut`` narrows its upper edge."""
        x0, x1, c = (*x, cut) if y < 0 else (x[1], x[0], -cut)
        self.quad(((x0, y, z[0]), (x1, y, z[0]), (x1 - c, y, z[1]), (x0 + c, y, z[1])), material)

    def octagon(self, x: float, z: float, radius_m: float, material: str, front: bool = True) -> None:
        """An upright octagon across the x axis around height z: a trapezium, a rectangle, a trapezium."""
        r, k = radius_m, 0.414 * radius_m
        s = 1.0 if front else -1.0
        for low, high, wide, narrow in ((-r, -k, k, r), (-k, k, r, r), (k, r, r, k)):
            self.quad(((x, -s * wide, z + low), (x, s * wide, z + low), (x, s * narrow, z + high),
                       (x, -s * narrow, z + high)), material)

    def shape(self) -> Shape:
        quads = np.array(self.quads, np.float32)
        (ax, ay, az), (bx, by, bz) = ((quads[:, k] - quads[:, 0]).T for k in (1, 2))
        normal = np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], 1)  # np.cross is far slower
        normal /= np.maximum(np.sqrt((normal**2).sum(1, keepdims=True)), 1e-9)
        return Shape(quads, normal.astype(np.float32), np.array(self.materials), np.array(self.classes))


def _shadow(b: Builder, long: float, w: float, grow: float = 0.12) -> None:
    """What keeps a thing from floating: a dark patch under it, in pictures only."""
    x, y = 0.5 * long + grow, 0.5 * w + grow
    b.quad(((-x, -y, 0.0), (x, -y, 0.0), (x, y, 0.0), (-x, y, 0.0)), "shadow")


def _lamps(b: Builder, long: float, w: float, low: float, high: float, bar: Span | None = None) -> None:
    """Head and tail lamps, a bar across the back that only braking shows, and indicators at the corners."""
    front, back, edge, tall = long / 2 + 0.01, -long / 2 - 0.01, w / 2, high - low
    for side in (-1.0, 1.0):
        inner, outer = sorted((0.45 * side * edge, 0.96 * side * edge))
        b.plate(front, (inner, outer), (low, high), "headlamp")
        b.plate(back, (inner, outer), (low, high), "tail", front=False)
    b.plate(back - 0.01, (-0.96 * edge, 0.96 * edge), (low, high + 0.2 * tall), "if brake", front=False)
    if bar is not None:
        b.plate(back - 0.01, (-0.4 * edge, 0.4 * edge), bar, "if brake", front=False)
    for side, name in ((1.0, "if left"), (-1.0, "if right")):
        inner, outer = sorted((0.52 * side * edge, 1.04 * side * edge))
        z = (low - 0.35 * tall, high + 0.35 * tall)
        b.plate(front + 0.02, (inner, outer), z, name)
        b.plate(back - 0.02, (inner, outer), z, name, front=False)
        b.flank((0.5 * long - 0.55, 0.5 * long), side * (edge + 0.02), z, name)


def _wheels(b: Builder, long: float, y: float, radius_m: float, at: tuple[float, ...]) -> None:
    """Discs on both sides at these shares of the length."""
    r = radius_m
    for share in at:
        x = share * long
        for side in (-y, y):
            b.flank((x - 0.6 * r, x + 0.6 * r), side, (0.0, 0.5 * r), "wheel", cut=-0.4 * r)
            b.flank((x - r, x + r), side, (0.5 * r, 1.9 * r), "wheel", cut=0.45 * r)


def _siren(b: Builder, x: Span, w: float, z: float) -> None:
    for y, name in (((0.02, 0.4 * w), "if siren 1"), ((-0.4 * w, -0.02), "if siren 2")):
        b.box(x, y, (z, z + 0.22), name)


def _car(b: Builder, long: float, w: float, h: float, fine: bool) -> None:
    waist, low = 0.58, 0.16 if not fine else 0.19
    b.box((-0.46 * long, 0.46 * long), (-0.47 * w, 0.47 * w), (0.0, 0.24 * h), "wheel")
    b.box((-0.5 * long, 0.5 * long), (-0.5 * w, 0.5 * w), (low * h, waist * h), "body")
    if fine:
        _wheels(b, long, 0.505 * w, 0.21 * h, (-0.3, 0.31))
        b.plate(0.5 * long + 0.01, (-0.34 * w, 0.34 * w), (0.2 * h, 0.33 * h), "trim")
        b.plate(-0.5 * long - 0.01, (-0.17 * w, 0.17 * w), (0.28 * h, 0.36 * h), "plate", front=False)
    _lamps(b, long, w, 0.39 * h, 0.52 * h)
    b.box((-0.36 * long, 0.2 * long), (-0.45 * w, 0.45 * w), (waist * h, h), "glass", top="body", taper=0.16 * h)
    _siren(b, (-0.1 * long, 0.0), w, h)


def _van(b: Builder, long: float, w: float, h: float, fine: bool) -> None:
    """A tall body with a short bonnet; windows only at the front, two small ones in the rear doors."""
    b.box((-0.46 * long, 0.46 * long), (-0.47 * w, 0.47 * w), (0.0, 0.2 * h), "wheel")
    nose, screen = 0.5 * long, 0.5 * long - min(0.9, 0.18 * long)
    b.box((screen, nose), (-0.48 * w, 0.48 * w), (0.14 * h, 0.5 * h), "body", back=False)
    b.frustum((-0.5 * long, screen), (-0.5 * w, 0.5 * w), (-0.5 * long, screen - 0.28 * h), (-0.5 * w, 0.5 * w),
              (0.5 * h, h), "body")
    b.box((-0.5 * long, screen), (-0.5 * w, 0.5 * w), (0.14 * h, 0.5 * h), "body")
    b.quad(((screen + 0.03, -0.44 * w, 0.52 * h), (screen + 0.03, 0.44 * w, 0.52 * h),
            (screen - 0.24 * h, 0.44 * w, 0.94 * h), (screen - 0.24 * h, -0.44 * w, 0.94 * h)), "glass")
    for side in (-1.0, 1.0):
        b.flank((screen - 0.5 * h, screen - 0.1 * h), side * (0.5 * w + 0.01), (0.54 * h, 0.86 * h), "glass",
                cut=0.06 * h)
        inner, outer = sorted((0.06 * side * w, 0.4 * side * w))
        b.plate(-0.5 * long - 0.01, (inner, outer), (0.58 * h, 0.86 * h), "glass", front=False)
    if fine:
        _wheels(b, long, 0.505 * w, 0.16 * h, (-0.3, 0.32))
    _lamps(b, long, w, 0.3 * h, 0.42 * h, bar=(0.9 * h, 0.96 * h))
    _siren(b, (0.02 * long, 0.12 * long), w, h)


def _truck(b: Builder, long: float, w: float, h: float, fine: bool) -> None:
    """A cab, a gap, and a box of a lighter colour that is higher than the cab."""
    b.box((-0.48 * long, 0.48 * long), (-0.46 * w, 0.46 * w), (0.0, 0.2 * h), "wheel")
    cab = 0.5 * long - min(2.2, 0.32 * long)
    b.box((-0.5 * long, cab - 0.2), (-0.5 * w, 0.5 * w), (0.2 * h, h), "cargo")
    b.box((cab, 0.5 * long), (-0.48 * w, 0.48 * w), (0.14 * h, 0.8 * h), "body", back=False)
    b.plate(0.5 * long + 0.01, (-0.44 * w, 0.44 * w), (0.46 * h, 0.74 * h), "glass")
    for side in (-0.48 * w - 0.01, 0.48 * w + 0.01):
        b.flank((cab + 0.5, 0.5 * long - 0.1), side, (0.48 * h, 0.72 * h), "glass")
    if fine:
        _wheels(b, long, 0.49 * w, 0.5, (-0.36, -0.22, 0.36))
        b.plate(-0.5 * long - 0.005, (-0.02 * w, 0.02 * w), (0.32 * h, h), "trim", front=False)
        b.plate(0.5 * long + 0.01, (-0.3 * w, 0.3 * w), (0.3 * h, 0.42 * h), "trim")
    _lamps(b, long, w, 0.2 * h, 0.3 * h)
    _siren(b, (cab + 0.5, cab + 1.0), w, 0.8 * h)


def _bus(b: Builder, long: float, w: float, h: float, fine: bool) -> None:
    """Windows all along, doors on the right, a lit sign over the windscreen."""
    b.box((-0.48 * long, 0.48 * long), (-0.46 * w, 0.46 * w), (0.0, 0.16 * h), "wheel")
    b.box((-0.5 * long, 0.5 * long), (-0.5 * w, 0.5 * w), (0.1 * h, 0.46 * h), "body")
    b.box((-0.5 * long, 0.5 * long), (-0.5 * w, 0.5 * w), (0.46 * h, 0.8 * h), "glass")
    b.box((-0.5 * long, 0.5 * long), (-0.5 * w, 0.5 * w), (0.8 * h, h), "body")
    b.plate(0.5 * long + 0.01, (-0.44 * w, 0.44 * w), (0.34 * h, 0.8 * h), "glass")
    b.plate(0.5 * long + 0.02, (-0.3 * w, 0.3 * w), (0.84 * h, 0.95 * h), "indicator")
    if fine:
        for k in range(1, 6):
            x = (k / 6 - 0.5) * long
            for side in (-0.5 * w - 0.01, 0.5 * w + 0.01):
                b.flank((x - 0.08, x + 0.08), side, (0.46 * h, 0.8 * h), "body")
        for x in (0.36 * long, -0.04 * long):
            b.flank((x - 0.6, x + 0.6), -0.5 * w - 0.015, (0.12 * h, 0.78 * h), "glass")
        _wheels(b, long, 0.505 * w, 0.48, (-0.28, 0.27))
    _lamps(b, long, w, 0.2 * h, 0.32 * h, bar=(0.86 * h, 0.92 * h))


def _person(b: Builder, long: float, w: float, h: float, fine: bool) -> None:
    """Two legs apart, a torso with arms, a head."""
    depth, breadth = 0.5 * min(long, 0.5), 0.5 * min(w, 0.6)
    if fine:
        b.box((-0.95 * depth, 0.15 * depth), (-0.82 * breadth, -0.08 * breadth), (0.0, 0.48 * h), "trousers")
        b.box((-0.15 * depth, 0.95 * depth), (0.08 * breadth, 0.82 * breadth), (0.0, 0.48 * h), "trousers")
        b.box((-0.45 * depth, 0.45 * depth), (-1.12 * breadth, 1.12 * breadth), (0.5 * h, 0.8 * h), "cloth")
    else:
        b.box((-0.7 * depth, 0.7 * depth), (-0.75 * breadth, 0.75 * breadth), (0.0, 0.47 * h), "trousers")
    b.box((-0.75 * depth, 0.75 * depth), (-0.9 * breadth, 0.9 * breadth), (0.46 * h, 0.84 * h), "cloth")
    b.box((-0.55 * depth, 0.55 * depth), (-0.45 * breadth, 0.45 * breadth), (0.84 * h, h), "skin")
    if fine:
        b.plate(-0.56 * depth, (-0.46 * breadth, 0.46 * breadth), (0.87 * h, h), "hair", front=False)
        b.box((-0.56 * depth, 0.5 * depth), (-0.46 * breadth, 0.46 * breadth), (0.95 * h, 1.01 * h), "hair")


def _rider(b: Builder, w: float, h: float, lean_m: float) -> None:
    """Legs, a torso that leans forward, a helmet."""
    y = 0.5 * min(max(w, 0.45), 0.6)
    b.box((-0.2, 0.22), (-0.8 * y, 0.8 * y), (0.3 * h, 0.58 * h), "trousers")
    b.frustum((-0.28, 0.12), (-0.9 * y, 0.9 * y), (lean_m - 0.2, lean_m + 0.14), (-y, y), (0.56 * h, 0.86 * h),
              "cloth")
    b.box((lean_m - 0.12, lean_m + 0.16), (-0.42 * y, 0.42 * y), (0.86 * h, 0.95 * h), "skin")
    b.box((lean_m - 0.15, lean_m + 0.16), (-0.5 * y, 0.5 * y), (0.93 * h, 1.02 * h), "helmet")


def _bicycle(b: Builder, long: float, w: float, h: float, fine: bool) -> None:
    r = min(0.34, 0.2 * long)
    for x in (-0.5 * long + r, 0.5 * long - r):
        b.box((x - 0.9 * r, x + 0.9 * r), (-0.04, 0.04), (0.06, 1.9 * r), "wheel", taper=0.25 * r)
    b.box((-0.2 * long, 0.24 * long), (-0.04, 0.04), (1.1 * r, 1.5 * r), "trim")
    b.box((0.22 * long, 0.27 * long), (-0.28, 0.28), (0.5 * h, 0.55 * h), "metal")
    b.plate(-0.5 * long + 0.2, (-0.07, 0.07), (0.36 * h, 0.45 * h), "tail", front=False)
    _rider(b, w, h, 0.14)


def _motorcycle(b: Builder, long: float, w: float, h: float, fine: bool) -> None:
    b.box((-0.5 * long, 0.5 * long), (-0.1, 0.1), (0.0, 0.36 * h), "wheel", taper=0.12)
    b.box((-0.36 * long, 0.34 * long), (-0.2, 0.2), (0.22 * h, 0.5 * h), "body", taper=0.06)
    b.box((0.24 * long, 0.34 * long), (-0.36, 0.36), (0.56 * h, 0.62 * h), "metal")
    _rider(b, w, h, 0.06)
    _lamps(b, 0.84 * long, min(w, 0.5), 0.36 * h, 0.5 * h)


def _object(b: Builder, long: float, w: float, h: float) -> None:
    """A traffic cone, a striped barrier, or else a box: what its size suggests."""
    if h >= 0.5 and max(long, w) <= 0.6:
        cone(b, max(long, w), h, "body")
    elif max(long, w) >= 1.0 and min(long, w) <= 0.7 and h <= 1.4:
        barrier(b, long, w, h)
    else:
        b.box((-0.5 * long, 0.5 * long), (-0.5 * w, 0.5 * w), (0.0, h), "body")


def cone(b: Builder, wide: float, h: float, material: str) -> None:
    """A square base and a tapering body with a white collar."""
    half, at = 0.5 * wide, (0.12, 0.42, 0.66, 1.0)
    b.box((-half, half), (-half, half), (0.0, at[0] * h), "wheel")
    width = [0.74 * half, 0.52 * half, 0.36 * half, 0.12 * half]
    for i, name in enumerate((material, "sign white", material)):
        low, top = (-width[i], width[i]), (-width[i + 1], width[i + 1])
        b.frustum(low, low, top, top, (at[i] * h, at[i + 1] * h), name)


def barrier(b: Builder, long: float, w: float, h: float) -> None:
    """A board on feet across or along the x axis, whichever is longer, striped red and white."""
    x, y = (-0.5 * long, 0.5 * long), (-0.5 * w, 0.5 * w)
    b.box(x, y, (0.0, 0.12 * h), "housing")
    thin = 0.06
    along = long >= w
    half, n = 0.5 * max(long, w), max(3, int(max(long, w) / 0.35) | 1)
    for k in range(n):
        part = ((2 * k / n - 1) * half, (2 * (k + 1) / n - 1) * half)
        sides = (part, (-thin, thin)) if along else ((-thin, thin), part)
        b.box(*sides, (0.45 * h, h), "sign white" if k % 2 else "sign red")
    for end in (-0.9 * half, 0.9 * half):
        leg = (end - 0.05, end + 0.05)
        sides = (leg, (-thin, thin)) if along else ((-thin, thin), leg)
        b.box(*sides, (0.1 * h, 0.5 * h), "housing")


_AGENTS = {"car": _car, "van": _van, "truck": _truck, "bus": _bus, "motorcycle": _motorcycle, "bicycle": _bicycle,
           "pedestrian": _person}


@lru_cache(maxsize=4096)
def agent_shape(category: str, long: float, w: float, h: float, fine: bool = True) -> Shape:
    """The shape of an agent of a category of types.CATEGORIES whose box is l x w x h metres."""
    b = Builder(category)
    if category in _AGENTS:
        _shadow(b, long, w)
        _AGENTS[category](b, long, w, h, fine)
    else:
        _object(b, long, w, h)
    return b.shape()
