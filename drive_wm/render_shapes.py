"""What standing things are made of: coloured quads in a thing's own frame, and the light that falls on them.

Frame of a shape: origin at its ground centre, x forward, y left, z up, metres. A quad carries a material; what a
material looks like depends on the style ("picture" or "layout"), the light and the state of the thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from drive_wm.types import BoolArray, FloatArray, IntArray, Look

# name: (picture colour, share of the instance's colour in a picture, the same two in a layout, emissive)
_MATERIALS: dict[str, tuple[tuple[int, int, int], float, tuple[int, int, int], float, bool]] = {
    "body": ((0, 0, 0), 1.0, (0, 0, 0), 1.0, False),
    "trim": ((12, 12, 14), 0.35, (10, 10, 14), 0.45, False),
    "glass": ((36, 44, 54), 0.0, (12, 14, 20), 0.35, False),
    "wheel": ((22, 22, 24), 0.0, (16, 16, 18), 0.15, False),
    "headlamp": ((255, 244, 214), 0.0, (255, 255, 255), 0.0, True),
    "tail": ((150, 18, 22), 0.0, (110, 0, 60), 0.2, False),
    "brake": ((255, 26, 30), 0.0, (255, 30, 160), 0.0, True),
    "indicator": ((255, 158, 20), 0.0, (255, 160, 0), 0.0, True),
    "skin": ((205, 160, 128), 0.0, (230, 180, 150), 0.0, False),
    "trousers": ((38, 40, 58), 0.0, (20, 20, 40), 0.35, False),
    "wood": ((84, 62, 44), 0.0, (36, 90, 36), 0.0, False),
    "leaves": ((0, 0, 0), 1.0, (44, 132, 52), 0.0, False),
    "metal": ((66, 68, 72), 0.0, (60, 60, 66), 0.0, False),
    "housing": ((24, 24, 26), 0.0, (24, 24, 28), 0.0, False),
    "wall": ((0, 0, 0), 1.0, (150, 100, 80), 0.5, False),
    "band": ((20, 24, 34), 0.45, (0, 0, 0), 0.0, False),
    "lit": ((255, 206, 112), 0.0, (0, 0, 0), 0.0, True),
    "roof": ((40, 40, 44), 0.5, (120, 80, 64), 0.5, False),
    "lamp off": ((46, 46, 50), 0.0, (40, 40, 46), 0.0, False),
    "lamp green": ((34, 236, 96), 0.0, (0, 255, 80), 0.0, True),
    "lamp yellow": ((255, 208, 32), 0.0, (255, 220, 0), 0.0, True),
    "lamp red": ((255, 32, 28), 0.0, (255, 0, 0), 0.0, True),
    # what a state decides: each becomes one of the above, or vanishes
    "if brake": ((0, 0, 0), 0.0, (0, 0, 0), 0.0, True),
    "if left": ((0, 0, 0), 0.0, (0, 0, 0), 0.0, True),
    "if right": ((0, 0, 0), 0.0, (0, 0, 0), 0.0, True),
    "if green": ((0, 0, 0), 0.0, (0, 0, 0), 0.0, True),
    "if yellow": ((0, 0, 0), 0.0, (0, 0, 0), 0.0, True),
    "if red": ((0, 0, 0), 0.0, (0, 0, 0), 0.0, True),
}
MATERIAL = {name: i for i, name in enumerate(_MATERIALS)}
_ROWS = list(_MATERIALS.values())
PICTURE_RGB = np.array([row[0] for row in _ROWS], np.float32)
PICTURE_SHARE = np.array([row[1] for row in _ROWS], np.float32)
LAYOUT_RGB = np.array([row[2] for row in _ROWS], np.float32)
LAYOUT_SHARE = np.array([row[3] for row in _ROWS], np.float32)
EMISSIVE = np.array([row[4] for row in _ROWS])
LAYOUT_HIDDEN = np.isin(np.arange(len(_ROWS)), [MATERIAL["band"], MATERIAL["lit"]])


@dataclass(frozen=True)
class Shape:
    """quads: (Q, 4, 3) metres, in the order in which they are painted. normals: (Q, 3). materials: (Q,)."""

    quads: FloatArray
    normals: FloatArray
    materials: IntArray

    def without(self, hidden: BoolArray) -> Shape:
        """The shape less its quads of hidden materials; hidden: one flag a material."""
        keep = ~hidden[self.materials]
        return Shape(self.quads[keep], self.normals[keep], self.materials[keep])


class _Builder:
    """Collects quads; a thing is a pile of convex parts painted one after the other."""

    def __init__(self) -> None:
        self.quads: list[FloatArray] = []
        self.materials: list[int] = []

    def quad(self, corners: object, material: str) -> None:
        """Four corners, counter-clockwise seen from outside."""
        self.quads.append(np.asarray(corners, np.float32))
        self.materials.append(MATERIAL[material])

    def box(self, x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], material: str,
            top: str | None = None, taper: float = 0.0, back: bool = True) -> None:
        """Sides and top of a box; ``taper`` metres are taken off every upper edge; without ``back``, no rear face."""
        (x0, x1), (y0, y1), (z0, z1) = x, y, z
        t = min(taper, 0.45 * (x1 - x0), 0.45 * (y1 - y0))
        a, b, c, d = (x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)
        e, f, g, h = (x0 + t, y0 + t, z1), (x1 - t, y0 + t, z1), (x1 - t, y1 - t, z1), (x0 + t, y1 - t, z1)
        for corners in ((a, b, f, e), (b, c, g, f), (c, d, h, g), (d, a, e, h))[: 4 if back else 3]:
            self.quad(corners, material)
        self.quad((e, f, g, h), top or material)

    def plate(self, x: float, y: tuple[float, float], z: tuple[float, float], material: str,
              front: bool = True) -> None:
        """An upright rectangle across the x axis, seen from the front (+x) or from behind."""
        y0, y1 = y if front else y[::-1]
        self.quad(((x, y0, z[0]), (x, y1, z[0]), (x, y1, z[1]), (x, y0, z[1])), material)

    def shape(self) -> Shape:
        quads = np.stack(self.quads)
        normal = np.cross(quads[:, 1] - quads[:, 0], quads[:, 2] - quads[:, 0])
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
        return Shape(quads, normal.astype(np.float32), np.array(self.materials))


# --- agents -------------------------------------------------------------------------------------------------------


def _lamps(b: _Builder, length: float, width: float, low: float, high: float) -> None:
    """Head lamps, tail lamps, a bar across the back that only braking shows, and indicators at the corners."""
    front, back, edge = length / 2 + 0.01, -length / 2 - 0.01, width / 2
    for side in (-1.0, 1.0):
        inner, outer = sorted((0.45 * side * edge, 0.96 * side * edge))
        b.plate(front, (inner, outer), (low, high), "headlamp")
        b.plate(back, (inner, outer), (low, high), "tail", front=False)
    b.plate(back - 0.01, (-0.96 * edge, 0.96 * edge), (low, high), "if brake", front=False)
    for side, name in ((1.0, "if left"), (-1.0, "if right")):
        inner, outer = sorted((0.62 * side * edge, 1.0 * side * edge))
        b.plate(front + 0.02, (inner, outer), (low, high), name)
        b.plate(back - 0.02, (inner, outer), (low, high), name, front=False)


def _car(b: _Builder, long: float, w: float, h: float, cabin: tuple[float, float], waist: float) -> None:
    b.box((-0.46 * long, 0.46 * long), (-0.47 * w, 0.47 * w), (0.0, 0.24 * h), "wheel")
    b.box((-0.5 * long, 0.5 * long), (-0.5 * w, 0.5 * w), (0.16 * h, waist * h), "body")
    _lamps(b, long, w, (0.5 * waist + 0.1) * h, (0.85 * waist + 0.02) * h)
    b.box((cabin[0] * long, cabin[1] * long), (-0.45 * w, 0.45 * w), (waist * h, h), "glass", top="body",
          taper=0.16 * h)


def _lorry(b: _Builder, long: float, w: float, h: float) -> None:
    b.box((-0.48 * long, 0.48 * long), (-0.46 * w, 0.46 * w), (0.0, 0.2 * h), "wheel")
    cab = 0.5 * long - min(2.2, 0.32 * long)
    b.box((-0.5 * long, cab - 0.2), (-0.5 * w, 0.5 * w), (0.16 * h, h), "body")
    b.box((cab, 0.5 * long), (-0.48 * w, 0.48 * w), (0.14 * h, 0.8 * h), "body", back=False)
    b.plate(0.5 * long + 0.01, (-0.44 * w, 0.44 * w), (0.46 * h, 0.74 * h), "glass")
    _lamps(b, long, w, 0.2 * h, 0.3 * h)


def _bus(b: _Builder, long: float, w: float, h: float) -> None:
    b.box((-0.48 * long, 0.48 * long), (-0.46 * w, 0.46 * w), (0.0, 0.16 * h), "wheel")
    b.box((-0.5 * long, 0.5 * long), (-0.5 * w, 0.5 * w), (0.1 * h, 0.46 * h), "body")
    b.box((-0.5 * long, 0.5 * long), (-0.5 * w, 0.5 * w), (0.46 * h, 0.8 * h), "glass")
    b.box((-0.5 * long, 0.5 * long), (-0.5 * w, 0.5 * w), (0.8 * h, h), "body")
    _lamps(b, long, w, 0.2 * h, 0.32 * h)


def _person(b: _Builder, long: float, w: float, h: float, seat: float = 0.0) -> None:
    depth, breadth = 0.5 * min(long, 0.5), 0.5 * min(w, 0.6)
    b.box((-0.7 * depth, 0.7 * depth), (-0.75 * breadth, 0.75 * breadth), (seat, 0.47 * h + 0.4 * seat), "trousers")
    b.box((-0.8 * depth, 0.8 * depth), (-breadth, breadth), (0.47 * h + 0.4 * seat, 0.84 * h), "body")
    b.box((-0.55 * depth, 0.55 * depth), (-0.45 * breadth, 0.45 * breadth), (0.84 * h, h), "skin")


def _two_wheeler(b: _Builder, long: float, w: float, h: float, motor: bool) -> None:
    thick = 0.16 if motor else 0.05
    b.box((-0.5 * long, 0.5 * long), (-thick, thick), (0.0, 0.34 * h), "wheel")
    if motor:
        b.box((-0.35 * long, 0.35 * long), (-1.2 * thick, 1.2 * thick), (0.2 * h, 0.48 * h), "trim")
        _lamps(b, long, min(w, 0.45), 0.3 * h, 0.42 * h)
    else:
        b.box((0.24 * long, 0.3 * long), (-0.28, 0.28), (0.48 * h, 0.54 * h), "metal")
    _person(b, 0.5, min(max(w, 0.45), 0.6), h, seat=0.3 * h)


@lru_cache(maxsize=4096)
def agent_shape(category: str, long: float, w: float, h: float) -> Shape:
    """The shape of an agent of a category of types.CATEGORIES whose box is l x w x h metres."""
    b = _Builder()
    if category == "car":
        _car(b, long, w, h, (-0.36, 0.2), 0.58)
    elif category == "van":
        _car(b, long, w, h, (-0.48, 0.34), 0.52)
    elif category == "truck":
        _lorry(b, long, w, h)
    elif category == "bus":
        _bus(b, long, w, h)
    elif category == "pedestrian":
        _person(b, long, w, h)
    elif category in ("motorcycle", "bicycle"):
        _two_wheeler(b, long, w, h, category == "motorcycle")
    else:
        b.box((-0.5 * long, 0.5 * long), (-0.5 * w, 0.5 * w), (0.0, h), "body")
    return b.shape()


# --- props --------------------------------------------------------------------------------------------------------


def _wall(b: _Builder, start: tuple[float, float], end: tuple[float, float], z: tuple[float, float], material: str,
          off: float, share: tuple[float, float] = (0.0, 1.0)) -> None:
    """A strip of the wall from start to end (outside on the right hand), ``off`` metres in front of it."""
    a, d = np.array(start), np.array(end) - np.array(start)
    n = np.array([d[1], -d[0]]) / np.linalg.norm(d) * off
    p, q = a + share[0] * d + n, a + share[1] * d + n
    b.quad(((*p, z[0]), (*q, z[0]), (*q, z[1]), (*p, z[1])), material)


def _building(b: _Builder, long: float, w: float, h: float, rng: np.random.Generator, night: bool) -> None:
    floors = max(1, round(h / 3.4))
    storey = h / floors
    b.box((-long / 2, long / 2), (-w / 2, w / 2), (0.0, h), "wall", top="roof")
    corners = [(-long / 2, -w / 2), (long / 2, -w / 2), (long / 2, w / 2), (-long / 2, w / 2)]
    for i in range(4):
        start, end = corners[i], corners[(i + 1) % 4]
        bays = max(1, int(np.hypot(end[0] - start[0], end[1] - start[1]) / 2.5))
        for floor in range(floors):
            z = ((floor + 0.36) * storey, (floor + 0.78) * storey)
            _wall(b, start, end, z, "band", 0.02)
            for bay in np.flatnonzero(rng.random(bays) < 0.22) if night else ():
                _wall(b, start, end, z, "lit", 0.04, ((bay + 0.12) / bays, (bay + 0.88) / bays))


def _tree(b: _Builder, long: float, w: float, h: float) -> None:
    r = max(0.1, 0.06 * min(long, w))
    b.box((-r, r), (-r, r), (0.0, 0.5 * h), "wood")
    b.box((-0.46 * long, 0.46 * long), (-0.46 * w, 0.46 * w), (0.36 * h, 0.74 * h), "leaves", taper=0.06 * long)
    b.box((-0.36 * long, 0.36 * long), (-0.36 * w, 0.36 * w), (0.74 * h, h), "leaves", taper=0.16 * long)


def _traffic_light(b: _Builder, h: float) -> None:
    """Mast and head; the lamps, 0.5 m wide so that they survive small pictures, look along +x."""
    low = max(0.0, h - 1.8)
    b.box((-0.09, 0.09), (-0.09, 0.09), (0.0, max(low, 0.1)), "metal")
    b.box((-0.2, 0.2), (-0.36, 0.36), (low, h), "housing")
    for i, name in enumerate(("green", "yellow", "red")):
        b.plate(0.22, (-0.26, 0.26), (low + 0.06 + 0.58 * i, low + 0.58 + 0.58 * i), "if " + name)


@lru_cache(maxsize=4096)
def prop_shape(kind: str, long: float, w: float, h: float, seed: int, night: bool) -> Shape:
    """The shape of a prop of a kind of types.PROP_KINDS; ``seed`` decides which windows are lit at night."""
    b = _Builder()
    x, y = (-long / 2, long / 2), (-w / 2, w / 2)
    if kind == "building":
        _building(b, long, w, h, np.random.default_rng(seed), night)
    elif kind == "tree":
        _tree(b, long, w, h)
    elif kind == "traffic_light":
        _traffic_light(b, h)
    elif kind == "pole":
        b.box(x, y, (0.0, h), "metal")
    elif kind == "sign":
        b.box((-0.05, 0.05), (-0.05, 0.05), (0.0, 0.8 * h), "metal")
        b.box((-0.04, 0.08), (-max(w, 0.5) / 2, max(w, 0.5) / 2), (h - max(w, 0.6), h), "body")
    else:
        b.box(x, y, (0.0, h), "leaves" if kind == "hedge" else "body")
    return b.shape()


# --- light --------------------------------------------------------------------------------------------------------


def _mix(a: object, b: object, share: float) -> FloatArray:
    return np.asarray(a, np.float32) * (1 - share) + np.asarray(b, np.float32) * share


class Light:
    """Colours of sky, fog and ground, and the light on a face, of one Look. Colours are float RGB, 0 to 255."""

    def __init__(self, look: Look) -> None:
        rng = np.random.default_rng(look.seed)
        day = float(np.clip((look.sun + 0.15) / 0.2, 0.0, 1.0))
        low = float(np.clip(1.0 - abs(look.sun - 0.06) / 0.26, 0.0, 1.0)) * day
        hue = rng.uniform(-14, 14, 3)
        azimuth = rng.uniform(-np.pi, np.pi)
        elevation = np.arcsin(np.clip(max(look.sun, 0.08), 0.0, 1.0))
        self.sun_direction = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation),
                                       np.sin(elevation)], np.float32)
        zenith, horizon = _mix((84, 142, 226), (124, 108, 134), low), _mix((196, 218, 240), (250, 172, 124), low)
        grey = {"clear": None, "overcast": ((150, 156, 164), (190, 194, 196)),
                "rain": ((96, 104, 116), (140, 148, 156)),
                "fog": ((196, 200, 202), (200, 203, 204))}[look.weather]
        if grey is not None:
            zenith = _mix(grey[0], zenith, 0.12)
            horizon = _mix(grey[1], horizon, 0.0 if look.weather == "fog" else 0.15)
        night_zenith, night_horizon = (14, 16, 30), (46, 44, 58)
        self.zenith = np.clip(_mix(night_zenith, zenith + hue, day), 0, 255)
        self.horizon = np.clip(_mix(night_horizon, horizon + hue / 2, day), 0, 255)
        self.fog_m = {"clear": 420.0, "overcast": 300.0, "rain": 130.0, "fog": 38.0}[look.weather]
        ambient, diffuse = {"clear": (0.60, 0.52), "overcast": (0.74, 0.16), "rain": (0.56, 0.12),
                            "fog": (0.72, 0.10)}[look.weather]
        warm, blue = np.array([1.12, 0.92, 0.76]), np.array([0.9, 0.98, 1.12])
        self.ambient = _mix(np.array([0.27, 0.28, 0.36]), _mix(np.ones(3), warm, 0.5 * low) * ambient, day)
        self.ambient = self.ambient * (blue if look.weather == "rain" else 1.0)
        self.diffuse = _mix(np.full(3, 0.04), _mix(np.ones(3), warm, low) * diffuse, day)
        grounds = np.array([[104, 128, 84], [128, 122, 92], [116, 112, 108], [96, 116, 96], [140, 116, 110],
                            [122, 130, 118]])
        ground = grounds[rng.integers(len(grounds))] + rng.uniform(-8, 8, 3)
        road = np.full(3, rng.uniform(84, 104)) + rng.uniform(-6, 8, 3)
        walkway = np.array([166, 160, 150]) + rng.uniform(-14, 14, 3)
        wet = 0.72 if look.weather == "rain" else 1.0
        flat = {"ground": ground, "walkway": walkway, "drivable": road * wet, "carpark": road * wet * 1.1,
                "intersection": road * wet * 0.97, "crossing": road * wet, "white": (236, 236, 232),
                "yellow": (240, 190, 52), "curb": (196, 192, 184)}
        up = np.array([[0.0, 0.0, 1.0]], np.float32)
        self.flat = {name: self.lit(np.asarray(rgb, np.float32)[None], up)[0] for name, rgb in flat.items()}

    def lit(self, rgb: FloatArray, normals: FloatArray) -> FloatArray:
        """Colours (Q, 3) of matt faces with these normals (Q, 3)."""
        direct = np.maximum(normals @ self.sun_direction, 0.0)[:, None]
        return np.clip(rgb * (self.ambient + self.diffuse * direct), 0, 255)

    def paint(self, materials: IntArray, instance_rgb: FloatArray, normals: FloatArray) -> FloatArray:
        """Picture colours (Q, 3) of quads with materials (Q,) on things of colour (Q, 3)."""
        share = PICTURE_SHARE[materials][:, None]
        rgb = PICTURE_RGB[materials] + share * instance_rgb
        return np.where(EMISSIVE[materials][:, None], rgb, self.lit(rgb, normals)).astype(np.float32)


LAYOUT_FLAT = {"ground": (96, 128, 80), "walkway": (190, 178, 164), "drivable": (92, 92, 92),
               "carpark": (112, 104, 112), "intersection": (84, 84, 92), "crossing": (126, 126, 150),
               "white": (240, 240, 240), "yellow": (250, 210, 70), "curb": (214, 206, 196)}
LAYOUT_SKY = (150, 190, 232)


def layout_paint(materials: IntArray, instance_rgb: FloatArray, normals: FloatArray) -> FloatArray:
    """Layout colours (Q, 3): a class's colour, or the instance's; faces along y a little darker, whatever the Look."""
    share = LAYOUT_SHARE[materials][:, None]
    rgb = LAYOUT_RGB[materials] * np.where(share == 1, 0, 1) * np.where((share > 0) & (share < 1), 1 - share, 1)
    rgb = rgb + share * instance_rgb
    shade = np.where(EMISSIVE[materials], 1.0, 1.0 - 0.14 * np.abs(normals[:, 1]))
    return np.clip(rgb * shade[:, None], 0, 255).astype(np.float32)
