"""Agents in words: what kind, which colour, on which side, how far, moving or not; as people name them in questions."""

from __future__ import annotations

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
WORDS_OF_AN_AGENT = 5
_X, _Y, _VX, _VY, _CATEGORY, _RED = (AGENT_COLUMNS.index(name) for name in ("x_m", "y_m", "vx_mps", "vy_mps",
                                                                            "category", "r"))


PAINTS = ("black", "grey", "white", "brown", "red", "orange", "yellow", "green", "blue", "purple")
HUES_DEG = (14, 38, 66, 170, 255, 335)  # where the next of the coloured paints begins, red once more at the end


def color_name(rgb: Sequence[int]) -> str:
    """The everyday name of a paint."""
    return PAINTS[int(color_index(torch.tensor(rgb)))]


def color_index(rgb: Tensor) -> Tensor:
    """(..., 3) in 0 to 255 -> (...) of PAINTS, by hue, lightness and saturation (Smith, 1978, as in ``colorsys``)."""
    r, g, b = rgb.double().div(255).unbind(-1)
    high, low = rgb.amax(-1).double() / 255, rgb.amin(-1).double() / 255
    lightness, spread = (high + low) / 2, high - low
    saturation = spread / torch.where(lightness <= 0.5, high + low, 2 - high - low).clamp(min=1e-9)
    sixth = torch.where(r == high, (g - b) / spread, torch.where(g == high, 2 + (b - r) / spread, 4 + (r - g) / spread))
    degrees = (sixth.nan_to_num() * 60) % 360
    hue = torch.bucketize(degrees, torch.tensor(HUES_DEG, dtype=torch.float64, device=rgb.device), right=True)
    index = torch.where(hue == len(HUES_DEG), 0, hue) + PAINTS.index("red")
    index = torch.where((lightness < 0.3) & (degrees > 15) & (degrees < 45), PAINTS.index("brown"), index)
    plain = torch.where(lightness > 0.75, 2, torch.where(lightness > 0.25, 1, 0))
    index = torch.where((saturation < 0.2) | (lightness > 0.93), plain, index)
    return torch.where(lightness < 0.16, 0, index)


def side_of(bearing_rad: float) -> str:
    """One of SIDES, of a bearing in (-pi, pi], left positive."""
    if abs(bearing_rad) < AHEAD_RAD:
        return "ahead"
    return "behind" if abs(bearing_rad) > BESIDE_RAD else "on the left" if bearing_rad > 0 else "on the right"


def agent_words(agents: Tensor) -> Tensor:
    """(..., 12) AGENT_COLUMNS -> (..., WORDS_OF_AN_AGENT) ids in [0, TEXT_VOCABULARY), of single words."""
    kinds, paints, sides, moves, numbers = (table.to(agents.device) for table in _tables())
    x, y = agents[..., _X], agents[..., _Y]
    bearing = torch.atan2(y, x)
    side = torch.where(bearing > 0, 1, 2)
    side = torch.where(bearing.abs() < AHEAD_RAD, 0, torch.where(bearing.abs() > BESIDE_RAD, 3, side))
    moving = (torch.hypot(agents[..., _VX], agents[..., _VY]) >= STANDING_MPS).long()
    metres = torch.hypot(x, y).round().long().clamp(0, FARTHEST_M)
    return torch.stack([kinds[agents[..., _CATEGORY].long()], paints[color_index(agents[..., _RED:_RED + 3])],
                        sides[side], moves[moving], numbers[metres]], -1)


@cache
def _tables() -> tuple[Tensor, ...]:
    words = (KIND_WORDS, PAINTS, [side.split()[-1] for side in SIDES], ("standing", "moving"),
             [str(n) for n in range(FARTHEST_M + 1)])
    return tuple(torch.tensor([word_id(word) for word in some]) for some in words)
