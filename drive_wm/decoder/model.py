"""The picture decoder: what the tokens stand for, sharpened by the frame before carried here, and by the layout.

A token position holds 36 bits for 256 pixels, so lamps, people and the edges of markings are lost. Most of that was
seen a step ago, or is drawn: the network says for each pixel how much of the carried picture to take, and what to add.
Generated pictures are carried in their turn, so that detail lives on from step to step. Axes: B images of H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from drive_wm.tokenizer.model import Block


@dataclass(frozen=True)
class DecoderConfig:
    channels: tuple[int, int] = (48, 96)  # at strides 2 and 4
    blocks: int = 2


class PictureDecoder(nn.Module):
    """decoded, carried and layout (B, 3, H, W) in [0, 1], H and W divisible by 4 -> pixels (B, 3, H, W)."""

    def __init__(self, config: DecoderConfig = DecoderConfig()) -> None:
        super().__init__()
        self.config = config
        fine, coarse = config.channels
        self.begin = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * 10, fine, 3, padding=1), Block(fine))
        self.down = nn.Conv2d(fine, coarse, 4, stride=2, padding=1)
        self.middle = nn.Sequential(*(Block(coarse) for _ in range(config.blocks)))
        self.up = nn.Sequential(nn.Conv2d(coarse, fine * 4, 1), nn.PixelShuffle(2))
        self.end = nn.Sequential(*(Block(fine) for _ in range(config.blocks)), nn.GroupNorm(8, fine), nn.GELU(),
                                 nn.Conv2d(fine, 4 * 4, 3, padding=1), nn.PixelShuffle(2))
        last = self.end[-2]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        nn.init.constant_(last.bias[12:], -2.0)  # the gate: at first little is taken over

    def forward(self, decoded: Tensor, carried: Tensor, layout: Tensor, known: Tensor) -> Tensor:
        """known: (B,) bool, where ``layout`` is one; elsewhere it is ignored. Not clamped."""
        there = known[:, None, None, None].to(decoded.dtype)
        plane = there.expand(-1, 1, *decoded.shape[2:])
        x = self.begin(torch.cat([decoded * 2 - 1, carried * 2 - 1, (layout * 2 - 1) * there, plane], 1))
        x = x + self.up(self.middle(self.down(x)))
        added, gate = self.end(x).float().split([3, 1], 1)
        return decoded + torch.sigmoid(gate) * (carried - decoded) + added
