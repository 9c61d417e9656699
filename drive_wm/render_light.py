"""What surfaces look like: materials, and the light of one Look that falls on them."""

from __future__ import annotations

import numpy as np

from drive_wm.types import BoolArray, FloatArray, IntArray, Look

# name: (picture colour, share of the instance's colour in a picture, the same two in a layout, emissive)
_MATERIALS: dict[str, tuple[tuple[int, int, int], float, tuple[int, int, int], float, bool]] = {
    "body": ((0, 0, 0), 1.0, (0, 0, 0), 1.0, False),
    "cargo": ((168, 166, 160), 0.3, (0, 0, 0), 1.0, False),
    "trim": ((12, 12, 14), 0.35, (10, 10, 14), 0.45, False),
    "glass": ((36, 44, 54), 0.0, (12, 14, 20), 0.35, False),
    "wheel": ((22, 22, 24), 0.0, (16, 16, 18), 0.15, False),
    "headlamp": ((255, 244, 214), 0.0, (255, 255, 255), 0.0, True),
    "lens": ((176, 180, 178), 0.0, (255, 255, 255), 0.0, False),
    "tail": ((150, 18, 22), 0.0, (110, 0, 60), 0.2, False),
    "tail lit": ((128, 8, 14), 0.0, (110, 0, 60), 0.2, True),
    "brake": ((255, 26, 30), 0.0, (255, 30, 160), 0.0, True),
    "indicator": ((255, 158, 20), 0.0, (255, 160, 0), 0.0, True),
    "siren": ((60, 110, 255), 0.0, (60, 110, 255), 0.0, True),
    "plate": ((226, 222, 196), 0.0, (10, 10, 14), 0.45, False),
    "cloth": ((0, 0, 0), 1.0, (0, 0, 0), 1.0, False),
    "skin": ((205, 160, 128), 0.0, (230, 180, 150), 0.0, False),
    "hair": ((62, 44, 34), 0.0, (230, 180, 150), 0.0, False),
    "helmet": ((238, 238, 232), 0.0, (230, 180, 150), 0.0, False),
    "trousers": ((38, 40, 58), 0.0, (20, 20, 40), 0.35, False),
    "shadow": ((40, 40, 44), 0.0, (0, 0, 0), 0.0, False),
    "wood": ((84, 62, 44), 0.0, (36, 90, 36), 0.0, False),
    "leaves": ((0, 0, 0), 1.0, (44, 132, 52), 0.0, False),
    "light leaves": ((22, 26, 10), 1.0, (44, 132, 52), 0.0, False),
    "metal": ((66, 68, 72), 0.0, (60, 60, 66), 0.0, False),
    "housing": ((24, 24, 26), 0.0, (24, 24, 28), 0.0, False),
    "plank": ((140, 98, 62), 0.0, (60, 60, 66), 0.0, False),
    "stone": ((158, 152, 142), 0.0, (190, 178, 164), 0.0, False),
    "pane": ((142, 170, 186), 0.0, (60, 60, 66), 0.0, False),
    "poster": ((222, 210, 170), 0.25, (60, 60, 66), 0.0, False),
    "sign white": ((238, 238, 234), 0.0, (240, 240, 240), 0.0, False),
    "sign red": ((208, 24, 30), 0.0, (208, 24, 30), 0.0, False),
    "sign blue": ((24, 84, 186), 0.0, (24, 84, 186), 0.0, False),
    "sign dark": ((30, 30, 34), 0.0, (30, 30, 34), 0.0, False),
    "wall": ((0, 0, 0), 1.0, (150, 100, 80), 0.5, False),
    "pier": ((0, 0, 0), 0.95, (0, 0, 0), 0.0, False),
    "band": ((20, 24, 34), 0.45, (0, 0, 0), 0.0, False),
    "shop": ((52, 62, 70), 0.0, (0, 0, 0), 0.0, False),
    "shop lit": ((236, 200, 132), 0.0, (0, 0, 0), 0.0, True),
    "awning red": ((186, 52, 46), 0.0, (0, 0, 0), 0.0, False),
    "awning green": ((44, 112, 76), 0.0, (0, 0, 0), 0.0, False),
    "awning blue": ((46, 82, 150), 0.0, (0, 0, 0), 0.0, False),
    "door": ((58, 42, 34), 0.0, (0, 0, 0), 0.0, False),
    "lit": ((255, 206, 112), 0.0, (0, 0, 0), 0.0, True),
    "roof": ((40, 40, 44), 0.5, (120, 80, 64), 0.5, False),
    "tiles": ((132, 62, 46), 0.12, (120, 80, 64), 0.5, False),
    "slate": ((72, 76, 86), 0.12, (120, 80, 64), 0.5, False),
    "street lamp": ((206, 206, 200), 0.0, (60, 60, 66), 0.0, False),
    "street lamp lit": ((255, 226, 166), 0.0, (60, 60, 66), 0.0, True),
    "lamp off": ((46, 46, 50), 0.0, (40, 40, 46), 0.0, False),
    "lamp green": ((20, 246, 96), 0.0, (0, 255, 80), 0.0, True),
    "lamp yellow": ((255, 208, 24), 0.0, (255, 220, 0), 0.0, True),
    "lamp red": ((255, 26, 24), 0.0, (255, 0, 0), 0.0, True),
    # what a state decides: each becomes one of the above, or vanishes
    "if brake": ((0, 0, 0), 0.0, (0, 0, 0), 0.0, True),
    "if left": ((0, 0, 0), 0.0, (0, 0, 0), 0.0, True),
    "if right": ((0, 0, 0), 0.0, (0, 0, 0), 0.0, True),
    "if siren 1": ((0, 0, 0), 0.0, (0, 0, 0), 0.0, True),
    "if siren 2": ((0, 0, 0), 0.0, (0, 0, 0), 0.0, True),
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


def material_flags(*names: str) -> BoolArray:
    """One flag a material, set for those names."""
    return np.isin(np.arange(len(_ROWS)), [MATERIAL[name] for name in names])


FACADE_FLAT = material_flags("pier", "band", "shop", "shop lit", "door", "lit")
FACADE = FACADE_FLAT | material_flags("awning red", "awning green", "awning blue")
SHADOW = material_flags("shadow")
LAYOUT_HIDDEN = FACADE | SHADOW
# what throws its own light far enough for a wet road to mirror it
BEACON = material_flags("headlamp", "tail lit", "brake", "indicator", "siren", "street lamp lit", "lamp green",
                        "lamp yellow", "lamp red", "shop lit")
_PEOPLE = material_flags("cloth", "skin", "helmet", "trousers")
PEOPLE_AMBIENT = 0.5  # people by night are as bright as street lamps and head lamps make them


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
        self.dark, self.wet = look.sun < 0.03, look.weather == "rain"
        self.darkness = float(np.clip((0.15 - look.sun) / 0.3, 0.0, 1.0))
        self.lamps_on = self.dark or look.weather in ("rain", "fog")
        ambient, diffuse = {"clear": (0.60, 0.52), "overcast": (0.74, 0.16), "rain": (0.56, 0.12),
                            "fog": (0.72, 0.10)}[look.weather]
        warm, blue = np.array([1.12, 0.92, 0.76]), np.array([0.9, 0.98, 1.12])
        self.ambient = _mix(np.array([0.30, 0.31, 0.38]), _mix(np.ones(3), warm, 0.5 * low) * ambient, day)
        self.ambient = self.ambient * (blue if look.weather == "rain" else 1.0)
        self.diffuse = _mix(np.full(3, 0.04), _mix(np.ones(3), warm, low) * diffuse, day)
        grounds = np.array([[104, 128, 84], [128, 122, 92], [116, 112, 108], [96, 116, 96], [140, 116, 110],
                            [122, 130, 118]])
        ground = grounds[rng.integers(len(grounds))] + rng.uniform(-8, 8, 3)
        road = np.full(3, rng.uniform(84, 104)) + rng.uniform(-6, 8, 3)
        walkway = np.array([166, 160, 150]) + rng.uniform(-14, 14, 3)
        wet = 0.72 if self.wet else 1.0
        flat = {"ground": ground, "walkway": walkway, "island": walkway, "drivable": road * wet,
                "carpark": road * wet * 1.1, "intersection": road * wet * 0.97, "crossing": road * wet,
                "cycle lane": (road * 0.62 + np.array([66, 22, 14])) * wet, "white": (236, 236, 232),
                "stripe": (236, 236, 232), "yellow": (240, 190, 52), "curb": (196, 192, 184)}
        up = np.array([[0.0, 0.0, 1.0]], np.float32)
        self.flat = {name: self.lit(np.asarray(rgb, np.float32)[None], up)[0] for name, rgb in flat.items()}

    def lit(self, rgb: FloatArray, normals: FloatArray, least: FloatArray | float = 0.0) -> FloatArray:
        """Colours (Q, 3) of matt faces with these normals (Q, 3), under at least this ambient light (Q, 1)."""
        direct = np.maximum(normals @ self.sun_direction, 0.0)[:, None]
        return np.clip(rgb * (np.maximum(self.ambient, least) + self.diffuse * direct), 0, 255)

    def paint(self, materials: IntArray, instance_rgb: FloatArray, normals: FloatArray) -> FloatArray:
        """Picture colours (Q, 3) of quads with materials (Q,) on things of colour (Q, 3)."""
        share = PICTURE_SHARE[materials][:, None]
        rgb = PICTURE_RGB[materials] + share * instance_rgb
        least = np.where(_PEOPLE[materials], PEOPLE_AMBIENT, 0.0)[:, None] if self.dark else 0.0
        return np.where(EMISSIVE[materials][:, None], rgb, self.lit(rgb, normals, least)).astype(np.float32)


LAYOUT_FLAT = {"ground": (96, 128, 80), "walkway": (190, 178, 164), "island": (190, 178, 164), "drivable": (92, 92, 92),
               "carpark": (112, 104, 112), "intersection": (84, 84, 92), "crossing": (126, 126, 150),
               "cycle lane": (112, 104, 112), "white": (240, 240, 240), "stripe": (240, 240, 240),
               "yellow": (250, 210, 70), "curb": (214, 206, 196)}
LAYOUT_SKY = (150, 190, 232)


def layout_paint(materials: IntArray, instance_rgb: FloatArray, normals: FloatArray) -> FloatArray:
    """Layout colours (Q, 3): a class's colour, or the instance's; faces along y a little darker, whatever the Look."""
    share = LAYOUT_SHARE[materials][:, None]
    rgb = LAYOUT_RGB[materials] * np.where(share == 1, 0, 1) * np.where((share > 0) & (share < 1), 1 - share, 1)
    rgb = rgb + share * instance_rgb
    shade = np.where(EMISSIVE[materials], 1.0, 1.0 - 0.14 * np.abs(normals[:, 1]))
    return np.clip(rgb * shade[:, None], 0, 255).astype(np.float32)
