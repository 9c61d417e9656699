"""The sizes of the model by name, from two cores to GAIA-1's, and the figures of GAIA-1 that its preset is compared to.

`tiny` is the defaults of the configs and ships with weights. The others follow from a width and a number of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from drive_wm.model import ModelConfig
from drive_wm.tokenizer.fsq import FSQConfig
from drive_wm.tokenizer.model import TokenizerConfig
from drive_wm.types import InputError
from drive_wm.world.model import WorldConfig
from drive_wm.world.transformer import TransformerConfig


def transformer(width: int, layers: int, head: int = 32) -> TransformerConfig:
    """The proportions that all sizes share: a key head for two query heads, an MLP of 2.75 widths; head: its width.

    Raises InputError for a width that the heads do not divide, or no layer.
    """
    if layers < 1 or width < head or width % head or head % 16:
        raise InputError(f"size {width} x {layers}: expected a width that divides by {head}, and at least one layer")
    heads, eighth = width // head, head // 16  # rotary pairs, half a head, are shared out 3 : 2 : 3
    return TransformerConfig(width, layers, heads, max(1, heads // 2), width * 11 // 4,
                             (3 * eighth, 2 * eighth, 3 * eighth))


def world(size: TransformerConfig, fsq: FSQConfig, **others: Any) -> WorldConfig:
    """A world model of some size with an expert of a quarter of its width, which reads the same keys (as in pi0)."""
    narrow = size.width // 4
    expert = replace(size, width=narrow, heads=size.kv_heads, mlp=narrow * 11 // 4, head_width=size.head)
    return WorldConfig(size, fsq, expert=expert, **others)


def tiny() -> ModelConfig:
    """About 20 M: six cameras at 64 x 112, trains and runs on two cores. The shipped weights are of this size."""
    return ModelConfig()


def small() -> ModelConfig:
    """About 0.1 B: six cameras at 256 x 448, for one GPU."""
    tokenizer = TokenizerConfig(channels=(64, 128, 192, 320))
    size = world(transformer(768, 12, head=64), tokenizer.fsq, layout_channels=64)
    return ModelConfig(tokenizer, size, width=448, height=256)


def base() -> ModelConfig:
    """About 1 B: small's tokenizer, so that its tokens serve both, and a wider and deeper world model."""
    tokenizer = small().tokenizer
    size = world(transformer(2048, 20, head=128), tokenizer.fsq, layout_channels=64)
    return ModelConfig(tokenizer, size, width=448, height=256)


def gaia1() -> ModelConfig:
    """GAIA-1's size in this architecture (Hu et al., 2023, arXiv 2309.17080): 6.5 B, one camera at 288 x 512.

    18 x 32 positions of one token of 8192 values, 26 steps at 6.25 Hz, as there. The step's layout is ours: two action
    tokens, 16 agents and the frame, the caption once in front; there 32 text tokens, the frame and two action tokens.
    """
    fsq = FSQConfig((8, 8, 8, 16), codes=1)
    tokenizer = TokenizerConfig(fsq, (192, 384, 704, 1408), encoder_blocks=2, decoder_blocks=2)
    size = world(transformer(4096, 32, head=128), fsq, window=26, layout_channels=64)
    return ModelConfig(tokenizer, size, rate_hz=6.25, width=512, height=288)


@dataclass(frozen=True)
class Preset:
    """A size, and the number of cameras that it is meant for (any rig works)."""

    config: Callable[[], ModelConfig]
    cameras: int = 6


PRESETS: Mapping[str, Preset] = {"tiny": Preset(tiny), "small": Preset(small), "base": Preset(base),
                                 "gaia1": Preset(gaia1, cameras=1)}


# What the paper says of GAIA-1, by the names of ``costs.figures``. Operations and memory are 6 N, 2 N and two bytes of
# its parameters, as it does not give the layers that an attention term needs; there 576 passes write one token each.
GAIA1_PAPER: Mapping[str, float] = {
    "tokenizer": 0.3e9, "world model": 6.5e9, "video decoder": 2.6e9, "width": 4096, "cameras": 1,
    "positions a camera": 576, "tokens a position": 1, "values a token": 8192, "frame positions a step": 576,
    "other positions a step": 34, "positions a step": 610, "steps a sequence": 26, "steps a second": 6.25,
    "caption, once a sequence": 0, "positions a sequence": 15860, "  of it 6 N": 6 * 6.5,
    "passes, a generated step": 576, "  of it 2 N, all passes": 2 * 6.5 * 576, "weights in bfloat16": 2 * 6.8e3,
}
GAIA1_NOTE = ("the paper's column is GAIA-1's (arXiv 2309.17080). Its step is 32 text tokens, 576 image tokens and two "
              "of the action, written one by one; here a step is two of the action, 16 agents and 576 frame positions, "
              "written in a few parallel passes that each read all of them, and the caption stands once in front. Its "
              "video decoder has no counterpart: the tokenizer decodes frame by frame.")
