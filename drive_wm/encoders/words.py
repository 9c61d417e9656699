"""Agents in words: what kind, which colour, on which side, how far, moving or not; as people name them in questions."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from drive_wm.decisions import STANDING_MPS
from drive_wm.encoders.text import word_id
from drive_wm.types import AGENT_COLUMNS, CATEGORIES

KIND_WORDS = tuple({"object": "obstacle"}.get(category, category) for category in CATEGORIES)
AHEAD_RAD, BESIDE_RAD = 0.45, 2.2
SIDES = ("ahead", "on the left", "on the right", "behind")
FARTHEST_M = 60  # the largest number that is one word
SHADES = 16  # of red, green and blue, that colours are looked up by
WORDS_OF_AN_AGENT = 5
_X, _Y, _VX, _VY, _CATEGORY, _RED = (AGENT_COLUMNS.index(name) for name in ("x_m", "y_m", "vx_mps", "vy_mps",
                                                                            "category", "r"))


def color_name(rgb: Sequence[int]) -> str:
    """The everyday name of a paint."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(v / 255 for v in rgb))
    if lightness < 0.16:
        return "black"
    if saturation < 0.2 or lightness > 0.93:
        return "white" if lightness > 0.75 else "grey" if lightness > 0.25 else "black"
    degrees = hue * 360
    if lightness < 0.3 and 15 < degrees < 45:
        return "brown"
    names = ((14, "red"), (38, "orange"), (66, "yellow"), (170, "green"), (255, "blue"), (335, "purple"), (361, "red"))
    return next(name for limit, name in names if degrees < limit)


def side_of(bearing_rad: float) -> str:
    """One of SIDES, of a bearing in (-pi, pi], left positive."""
    if abs(bearing_rad) < AHEAD_RAD:
        return "ahead"
    return "behind" if abs(bearing_rad) > BESIDE_RAD else "on the left" if bearing_rad > 0 else "on the right"


def agent_words(agents: Tensor) -> Tensor:
    """(..., 12) AGENT_COLUMNS -> (..., WORDS_OF_AN_AGENT) ids in [0, TEXT_VOCABULARY), of single words."""
    kinds, colors, sides, moves, numbers = (table.to(agents.device) for table in _tables())
    x, y = agents[..., _X], agents[..., _Y]
    bearing = torch.atan2(y, x)
    side = torch.where(bearing > 0, 1, 2)
    side = torch.where(bearing.abs() < AHEAD_RAD, 0, torch.where(bearing.abs() > BESIDE_RAD, 3, side))
    red, green, blue = (agents[..., _RED + i].div(256 / SHADES).long().clamp(0, SHADES - 1) for i in range(3))
    moving = (torch.hypot(agents[..., _VX], agents[..., _VY]) >= STANDING_MPS).long()
    metres = torch.hypot(x, y).round().long().clamp(0, FARTHEST_M)
    return torch.stack([kinds[agents[..., _CATEGORY].long()], colors[(red * SHADES + green) * SHADES + blue],
                        sides[side], moves[moving], numbers[metres]], -1)


@cache
def _tables() -> tuple[Tensor, ...]:
    middle = [int((i + 0.5) * 256 / SHADES) for i in range(SHADES)]
    paints = [color_name((r, g, b)) for r in middle for g in middle for b in middle]
    words = (KIND_WORDS, paints, [side.split()[-1] for side in SIDES], ("standing", "moving"),
             [str(n) for n in range(FARTHEST_M + 1)])
    return tuple(torch.tensor([word_id(word) for word in some]) for some in words)
