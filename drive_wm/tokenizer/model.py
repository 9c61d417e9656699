"""The frame tokenizer: a convolutional autoencoder at stride 16 with a finite scalar bottleneck.

Axes: B images, H x W pixels, h x w = H/16 x W/16 positions, D latent dimensions, K tokens a position.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drive_wm.tokenizer.fsq import FSQ, FSQConfig
from drive_wm.types import InputError

STRIDE = 16


@dataclass(frozen=True)
class TokenizerConfig:
    fsq: FSQConfig = FSQConfig()
    channels: tuple[int, ...] = (32, 80, 144, 256)  # at strides 2, 4, 8, 16
    encoder_blocks: int = 1
    decoder_blocks: int = 2


class Block(nn.Module):
    """Residual: norm, 3 x 3, gelu, 3 x 3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.gelu(self.conv1(self.norm(x))))


class FrameTokenizer(nn.Module):
    """pixels (B, 3, H, W) in [0, 1] <-> tokens (B, h, w, K); one encoder for discrete tokens and continuous latents."""

    def __init__(self, config: TokenizerConfig = TokenizerConfig()) -> None:
        super().__init__()
        self.config = config
        self.fsq = FSQ(config.fsq)
        widths = config.channels
        down: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, widths[0], 3, padding=1)]
        for here, below in zip(widths, (*widths[1:], None)):
            down += [Block(here) for _ in range(config.encoder_blocks)]
            if below is not None:
                down.append(nn.Conv2d(here, below, 4, stride=2, padding=1))
        self.encoder = nn.Sequential(*down, Block(widths[-1]), nn.GroupNorm(8, widths[-1]), nn.GELU(),
                                     nn.Conv2d(widths[-1], config.fsq.dims, 1))
        up: list[nn.Module] = [nn.Conv2d(config.fsq.dims, widths[-1], 3, padding=1), Block(widths[-1])]
        for here, above in zip(widths[::-1], (*widths[::-1][1:], None)):
            up += [Block(here) for _ in range(config.decoder_blocks)]
            if above is not None:
                up += [nn.Conv2d(here, above * 4, 1), nn.PixelShuffle(2), nn.Conv2d(above, above, 3, padding=1)]
        self.decoder = nn.Sequential(*up, nn.GroupNorm(8, widths[0]), nn.GELU(), nn.Conv2d(widths[0], 12, 3, padding=1),
                                     nn.PixelShuffle(2))

    def latents(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> continuous latents (B, h, w, D), before the bottleneck's tanh."""
        if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] % STRIDE or pixels.shape[3] % STRIDE:
            raise InputError(f"tokenizer: expected (B, 3, H, W) with H and W divisible by {STRIDE}, "
                             f"got {tuple(pixels.shape)}")
        return self.encoder(pixels * 2 - 1).movedim(1, -1)

    def decode_values(self, values: Tensor) -> Tensor:
        """Quantised values (B, h, w, D) in [-1, 1] -> pixels (B, 3, H, W), not clamped."""
        return self.decoder(values.movedim(-1, 1)) * 0.5 + 0.5

    def forward(self, pixels: Tensor) -> Tensor:
        """Reconstruction (B, 3, H, W)."""
        return self.decode_values(self.fsq.quantize(self.latents(pixels)).to(pixels.dtype))

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> FSQ digits (B, h, w, D) long; ``fsq.tokens`` makes token ids of them."""
        return self.fsq.digits(self.latents(pixels))

    @torch.no_grad()
    def decode(self, digits: Tensor) -> Tensor:
        """FSQ digits (B, h, w, D) -> pixels (B, 3, H, W) in [0, 1]."""
        dtype = next(self.parameters()).dtype
        return self.decode_values(self.fsq.values(digits).to(dtype)).float().clamp(0, 1)


def reconstruction_loss(predicted: Tensor, pixels: Tensor) -> Tensor:
    """Squared error, plus absolute error of the pixel differences so that edges stay; both over (B, 3, H, W)."""
    error = (predicted - pixels).float()
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.square().mean() * 10 + error.abs().mean() * 0.2 + edges * 0.2


def psnr(predicted: Tensor, pixels: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of (..., 3, H, W) in [0, 1], one value an image: -10 log10(MSE)."""
    return -10 * torch.log10((predicted.float() - pixels.float()).square().mean((-1, -2, -3)).clamp_min(1e-10))
