"""What stands beside a road: buildings, plants, lamps, signs and furniture, as quads in their own frames."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from drive_wm.render_shapes import Builder, Shape, Span, barrier, cone

STOREY_M = 3.4
BAY_M = 2.6
LAMP_ARM_M = 1.6  # from the pole of a street lamp to its head, along +x
BOARD_M = (1.06, 2.3)  # backing board of a traffic light, width and height
LENS_M = 0.9  # a lit lamp of a traffic light: two pixels of a picture 112 wide and 65 degrees at 35 m


def _wall(b: Builder, start: Span, end: Span, z: Span, material: str, off: float, share: Span = (0.0, 1.0),
          lean: float = 0.0) -> None:
    """A strip of the wall from start to end (outside on the right hand), ``off`` metres in front of it.

    ``lean`` more at its lower edge.
    """
    dx, dy = end[0] - start[0], end[1] - start[1]
    norm = math.hypot(dx, dy)
    nx, ny, far = dy / norm, -dx / norm, off + lean
    (px, py), (qx, qy) = ((start[0] + t * dx, start[1] + t * dy) for t in share)
    b.quad(((px + nx * far, py + ny * far, z[0]), (qx + nx * far, qy + ny * far, z[0]),
            (qx + nx * off, qy + ny * off, z[1]), (px + nx * off, py + ny * off, z[1])), material)


def _windows(b: Builder, start: Span, end: Span, floors: int, storey: float, style: int, first: int, piers: bool,
             rng: np.random.Generator, night: bool) -> None:
    """A band of glass a floor, cut into windows by piers of the wall's colour; by night some are lit."""
    length = math.dist(start, end)
    bays = max(1, int(length / BAY_M))
    low, high = ((0.36, 0.78), (0.3, 0.8), (0.14, 0.94))[style]
    for floor in range(first, floors):
        z = ((floor + low) * storey, (floor + high) * storey)
        _wall(b, start, end, z, "band", 0.02)
        for bay in np.flatnonzero(rng.random(bays) < 0.22).tolist() if night else ():
            _wall(b, start, end, z, "lit", 0.03, ((bay + 0.14) / bays, (bay + 0.86) / bays))
    if piers and floors > first:
        half = (0.26, 0.24, 0.06)[style] / bays
        for k in range(bays + 1):
            share = (max(0.0, k / bays - half), min(1.0, k / bays + half))
            _wall(b, start, end, (first * storey, floors * storey), "pier", 0.04, share)


def _shop(b: Builder, start: Span, end: Span, storey: float, awning: str, night: bool) -> None:
    """Shop windows, a door and an awning along the ground floor."""
    top = min(2.7, 0.78 * storey)
    _wall(b, start, end, (0.35, top), "shop lit" if night else "shop", 0.05, (0.04, 0.96))
    door = 1.3 / max(3.0, math.dist(start, end))
    _wall(b, start, end, (0.0, top), "door", 0.07, (0.44, 0.44 + door))
    _wall(b, start, end, (top - 0.15, top + 0.55), awning, 0.06, (0.02, 0.98), lean=0.6)


def _building(b: Builder, long: float, w: float, h: float, seed: int, night: bool, fine: bool) -> None:
    """Walls, windows in one of three styles, at times shops below and a pitched roof on top."""
    rng = np.random.default_rng(seed)
    style, shop, pitched = int(rng.integers(3)), rng.random() < 0.4, rng.random() < 0.7
    awning = ("awning red", "awning green", "awning blue")[int(rng.integers(3))]
    pitch = min(0.34 * min(long, w), 3.6) if h < 12.5 and pitched and style < 2 else 0.0
    eaves = h - pitch
    floors = max(1, round(eaves / STOREY_M))
    x, y = (-long / 2, long / 2), (-w / 2, w / 2)
    b.box(x, y, (0.0, eaves), "wall", top="roof")
    corners = [(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])]
    for i in range(4):
        start, end = corners[i], corners[(i + 1) % 4]
        front = (i % 2 == 0) == (long >= w)
        first = 1 if shop and front and floors > 1 else 0
        _windows(b, start, end, floors, eaves / floors, style, first, fine and front, rng, night)
        if first:
            _shop(b, start, end, eaves / floors, awning, night)
    if pitch:
        _pitched(b, (x[0] - 0.3, x[1] + 0.3), (y[0] - 0.3, y[1] + 0.3), (eaves - 0.25, h),
                 "tiles" if rng.random() < 0.6 else "slate")


def _pitched(b: Builder, x: Span, y: Span, z: Span, material: str) -> None:
    """A hipped roof whose ridge runs along the longer side."""
    run = 0.5 * min(x[1] - x[0], y[1] - y[0])
    if x[1] - x[0] >= y[1] - y[0]:
        middle = 0.5 * (y[0] + y[1])
        b.frustum(x, y, (x[0] + 0.8 * run, x[1] - 0.8 * run), (middle, middle), z, material)
    else:
        middle = 0.5 * (x[0] + x[1])
        b.frustum(x, y, (middle, middle), (y[0] + 0.8 * run, y[1] - 0.8 * run), z, material)


def _tree(b: Builder, long: float, w: float, h: float, fine: bool) -> None:
    """A trunk and a crown that widens, then closes."""
    r = max(0.1, 0.06 * min(long, w))
    b.box((-r, r), (-r, r), (0.0, 0.5 * h), "wood")

    def across(share: float) -> tuple[Span, Span]:
        return (-share * long, share * long), (-share * w, share * w)

    if fine:
        b.frustum(*across(0.3), *across(0.5), (0.34 * h, 0.52 * h), "leaves")
        b.frustum(*across(0.5), *across(0.42), (0.52 * h, 0.78 * h), "leaves", top="light leaves")
        b.frustum(*across(0.42), *across(0.16), (0.78 * h, h), "light leaves")
    else:
        b.frustum(*across(0.42), *across(0.5), (0.36 * h, 0.6 * h), "leaves")
        b.frustum(*across(0.5), *across(0.2), (0.6 * h, h), "leaves", top="light leaves")


def _conifer(b: Builder, long: float, w: float, h: float, fine: bool) -> None:
    b.box((-0.12, 0.12), (-0.12, 0.12), (0.0, 0.2 * h), "wood")
    tiers = ((0.12, 0.55, 0.5, 0.16), (0.42, 0.8, 0.36, 0.1), (0.68, 1.0, 0.24, 0.01)) if fine else \
        ((0.12, 1.0, 0.5, 0.01),)
    for low, high, wide, narrow in tiers:
        b.frustum((-wide * long, wide * long), (-wide * w, wide * w), (-narrow * long, narrow * long),
                  (-narrow * w, narrow * w), (low * h, high * h), "leaves")


def _shrub(b: Builder, long: float, w: float, h: float, fine: bool) -> None:
    b.frustum((-0.4 * long, 0.4 * long), (-0.4 * w, 0.4 * w), (-0.5 * long, 0.5 * long), (-0.5 * w, 0.5 * w),
              (0.0, 0.45 * h), "leaves")
    b.box((-0.5 * long, 0.5 * long), (-0.5 * w, 0.5 * w), (0.45 * h, h), "leaves", top="light leaves",
          taper=0.25 * min(long, w))


def _traffic_light(b: Builder, h: float, fine: bool) -> None:
    """Mast, backing board and head; the lit lamp covers its place and glows beyond it, so that it survives."""
    low = max(0.0, h - BOARD_M[1])
    b.semantic = "pole"
    b.box((-0.09, 0.09), (-0.09, 0.09), (0.0, max(low, 0.1)), "metal")
    b.semantic = "traffic light"
    half = BOARD_M[0] / 2
    b.box((-0.1, 0.16), (-half, half), (low, h), "housing")
    step = (h - low) / 3
    names = ("green", "yellow", "red")
    for i in range(3) if fine else ():
        z = low + (i + 0.5) * step
        b.octagon(0.18, z, 0.26, "lamp off")
    for i, name in enumerate(names):
        z = min(max(low + (i + 0.5) * step, low + LENS_M / 2), h - LENS_M / 2)
        b.octagon(0.2, z, LENS_M / 2, "if " + name) if fine else \
            b.plate(0.2, (-LENS_M / 2, LENS_M / 2), (z - LENS_M / 2, z + LENS_M / 2), "if " + name)


def _lamp(b: Builder, h: float, night: bool) -> None:
    b.semantic = "pole"
    b.box((-0.08, 0.08), (-0.08, 0.08), (0.0, h), "metal")
    b.box((0.0, LAMP_ARM_M), (-0.05, 0.05), (h - 0.12, h), "metal")
    head = (LAMP_ARM_M - 0.25, LAMP_ARM_M + 0.5)
    b.box(head, (-0.2, 0.2), (h - 0.06, h + 0.1), "metal")
    lit = "street lamp lit" if night else "street lamp"
    b.box((head[0] + 0.05, head[1] - 0.05), (-0.17, 0.17), (h - 0.2, h - 0.06), lit)


def _post(b: Builder, h: float) -> None:
    b.semantic = "pole"
    b.box((-0.05, 0.05), (-0.05, 0.05), (0.0, h), "metal")
    b.semantic = "sign"


def _stop_sign(b: Builder, w: float, h: float) -> None:
    _post(b, h - 0.4)
    b.octagon(-0.06, h - 0.5 * w, 0.5 * w, "metal", front=False)
    b.octagon(0.06, h - 0.5 * w, 0.5 * w, "sign white")
    b.octagon(0.07, h - 0.5 * w, 0.44 * w, "sign red")
    b.plate(0.08, (-0.3 * w, 0.3 * w), (h - 0.58 * w, h - 0.42 * w), "sign white")


def _give_way_sign(b: Builder, w: float, h: float) -> None:
    _post(b, h - 0.5 * w)
    for x, material, grow in ((-0.06, "metal", 1.0), (0.06, "sign red", 1.0), (0.07, "sign white", 0.6)):
        half, top, tip = 0.5 * w * grow, h - 0.28 * w * (1 - grow), h - 0.87 * w + 0.59 * w * (1 - grow)
        s = 1.0 if x > 0 else -1.0
        b.quad(((x, 0.0, tip), (x, s * half, top), (x, -s * half, top), (x, -s * half, top)), material)


def _round_sign(b: Builder, w: float, h: float, ring: str, face: str, mark: str) -> None:
    _post(b, h - 0.4)
    z = h - 0.5 * w
    b.octagon(-0.06, z, 0.5 * w, "metal", front=False)
    b.octagon(0.06, z, 0.5 * w, ring)
    b.octagon(0.07, z, 0.34 * w, face)
    if mark == "roundabout":
        b.octagon(0.08, z, 0.24 * w, "sign white")
        b.octagon(0.09, z, 0.13 * w, face)
    else:
        for y in (-0.2 * w, 0.04 * w):
            b.plate(0.08, (y, y + 0.16 * w), (z - 0.16 * w, z + 0.16 * w), "sign dark")


def _crossing_sign(b: Builder, w: float, h: float) -> None:
    """A blue square with a white triangle and a figure in it."""
    _post(b, h - 0.4)
    b.plate(-0.06, (-0.5 * w, 0.5 * w), (h - w, h), "metal", front=False)
    b.plate(0.06, (-0.5 * w, 0.5 * w), (h - w, h), "sign blue")
    b.quad(((0.07, -0.42 * w, h - 0.9 * w), (0.07, 0.42 * w, h - 0.9 * w), (0.07, 0.0, h - 0.1 * w),
            (0.07, 0.0, h - 0.1 * w)), "sign white")
    b.plate(0.08, (-0.07 * w, 0.07 * w), (h - 0.84 * w, h - 0.36 * w), "sign dark")


def _board_sign(b: Builder, w: float, h: float) -> None:
    _post(b, 0.8 * h)
    b.box((-0.04, 0.08), (-max(w, 0.5) / 2, max(w, 0.5) / 2), (h - max(w, 0.6), h), "body")


def _bench(b: Builder, long: float, w: float, h: float) -> None:
    """A seat along x; its back is at -y."""
    for x in (-0.4 * long, 0.4 * long):
        b.box((x - 0.05, x + 0.05), (-0.45 * w, 0.45 * w), (0.0, 0.48 * h), "metal")
    b.box((-0.5 * long, 0.5 * long), (-0.5 * w, 0.5 * w), (0.48 * h, 0.56 * h), "plank")
    b.box((-0.5 * long, 0.5 * long), (-0.5 * w, -0.4 * w), (0.62 * h, h), "plank")


def _bin(b: Builder, long: float, w: float, h: float) -> None:
    b.frustum((-0.4 * long, 0.4 * long), (-0.4 * w, 0.4 * w), (-0.5 * long, 0.5 * long), (-0.5 * w, 0.5 * w),
              (0.0, 0.86 * h), "body")
    b.box((-0.5 * long, 0.5 * long), (-0.5 * w, 0.5 * w), (0.86 * h, h), "housing", taper=0.08)


def _hydrant(b: Builder, long: float, w: float, h: float) -> None:
    b.box((-0.32 * long, 0.32 * long), (-0.32 * w, 0.32 * w), (0.0, 0.8 * h), "body")
    b.box((-0.5 * long, 0.5 * long), (-0.2 * w, 0.2 * w), (0.5 * h, 0.68 * h), "body")
    b.box((-0.38 * long, 0.38 * long), (-0.38 * w, 0.38 * w), (0.8 * h, h), "body", taper=0.12)


def _bus_stop(b: Builder, long: float, w: float, h: float) -> None:
    """A shelter along x, open towards +y: roof, glass back, a poster, a flag on a post."""
    x, y = (-0.5 * long, 0.5 * long), (-0.5 * w, 0.5 * w)
    b.box((x[0] + 0.05, x[1] - 0.05), (y[0], y[0] + 0.06), (0.25, h - 0.25), "pane")
    b.box((x[0] + 0.4, x[1] - 0.9), (y[0] + 0.15, y[0] + 0.5), (0.4, 0.48), "plank")
    b.box((x[1] - 0.12, x[1] - 0.02), (y[0], y[1] - 0.3), (0.2, h - 0.2), "poster")
    for post in (x[0] + 0.05, x[1] - 0.05):
        b.box((post - 0.05, post + 0.05), (y[1] - 0.2, y[1] - 0.1), (0.0, h - 0.2), "metal")
    b.box(x, y, (h - 0.2, h), "housing")
    b.box((x[0], x[0] + 0.7), (y[1] - 0.06, y[1]), (h, h + 0.5), "awning blue")


def _bollard(b: Builder, long: float, w: float, h: float) -> None:
    half = 0.5 * min(long, w)
    b.box((-half, half), (-half, half), (0.0, 0.7 * h), "housing")
    b.box((-half, half), (-half, half), (0.7 * h, 0.85 * h), "sign white")
    b.box((-half, half), (-half, half), (0.85 * h, h), "housing")


def _plain(material: str) -> Callable[[Builder, float, float, float], None]:
    def build(b: Builder, long: float, w: float, h: float) -> None:
        b.box((-long / 2, long / 2), (-w / 2, w / 2), (0.0, h), material)
    return build


# kind -> class, builder of length, width, height
_SIMPLE: dict[str, tuple[str, Callable[[Builder, float, float, float], None]]] = {
    "pole": ("pole", _plain("metal")),
    "hedge": ("vegetation", _plain("leaves")),
    "sign": ("sign", lambda b, long, w, h: _board_sign(b, w, h)),
    "stop_sign": ("sign", lambda b, long, w, h: _stop_sign(b, w, h)),
    "give_way_sign": ("sign", lambda b, long, w, h: _give_way_sign(b, w, h)),
    "speed_sign": ("sign", lambda b, long, w, h: _round_sign(b, w, h, "sign red", "sign white", "digits")),
    "roundabout_sign": ("sign", lambda b, long, w, h: _round_sign(b, w, h, "sign blue", "sign blue", "roundabout")),
    "crossing_sign": ("sign", lambda b, long, w, h: _crossing_sign(b, w, h)),
    "bench": ("furniture", _bench),
    "bin": ("furniture", _bin),
    "hydrant": ("furniture", _hydrant),
    "bus_stop": ("furniture", _bus_stop),
    "bollard": ("furniture", _bollard),
    "cone": ("object", lambda b, long, w, h: cone(b, max(long, w), h, "body")),
    "barrier": ("object", barrier),
}


@lru_cache(maxsize=8192)
def prop_shape(kind: str, long: float, w: float, h: float, seed: int = 0, night: bool = False,
               fine: bool = True) -> Shape:
    """The shape of a prop of a kind of types.PROP_KINDS; ``seed`` decides a building's style and its lit windows."""
    plants = {"tree": _tree, "conifer": _conifer, "shrub": _shrub}
    if kind == "building":
        b = Builder("building")
        _building(b, long, w, h, seed, night, fine)
    elif kind in plants:
        b = Builder("vegetation")
        plants[kind](b, long, w, h, fine)
    elif kind == "traffic_light":
        b = Builder("traffic light")
        _traffic_light(b, h, fine)
    elif kind == "lamp":
        b = Builder("pole")
        _lamp(b, h, night)
    else:
        semantic, build = _SIMPLE.get(kind, ("object", _plain("body")))
        b = Builder(semantic)
        build(b, long, w, h)
    return b.shape()
