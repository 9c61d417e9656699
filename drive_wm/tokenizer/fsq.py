"""Finite scalar quantisation (Mentzer et al., 2023): no codebook, so nothing can collapse.

A position holds ``codes`` tokens; a token is a number in mixed radix over ``levels``, one digit a latent dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from drive_wm.types import InputError


@dataclass(frozen=True)
class FSQConfig:
    levels: tuple[int, ...] = (8, 8, 8, 8)  # of one token; 4096 values
    codes: int = 3  # tokens a position

    @property
    def dims(self) -> int:
        return len(self.levels) * self.codes

    @property
    def vocabulary(self) -> int:
        return math.prod(self.levels)

    @property
    def all_levels(self) -> tuple[int, ...]:
        return self.levels * self.codes


class FSQ:
    """Stateless: latents z (..., D) in R <-> digits (..., D) ints <-> tokens (..., K) ints."""

    def __init__(self, config: FSQConfig) -> None:
        self.config = config
        self.top = torch.tensor(config.all_levels) - 1  # (D,)

    def quantize(self, z: Tensor) -> Tensor:
        """(..., D) -> values in [-1, 1] on the grid, with the gradient of tanh passed straight through."""
        top = self.top.to(z.device)
        bounded = torch.tanh(z.float())
        grid = torch.round((bounded + 1) / 2 * top) / top * 2 - 1
        return bounded + (grid - bounded).detach()

    def digits(self, z: Tensor) -> Tensor:
        """(..., D) latents -> (..., D) long digits."""
        return torch.round((torch.tanh(z.float()) + 1) / 2 * self.top.to(z.device)).long()

    def values(self, digits: Tensor) -> Tensor:
        """(..., D) digits -> (..., D) values in [-1, 1]."""
        return digits / self.top.to(digits.device) * 2 - 1

    def tokens(self, digits: Tensor) -> Tensor:
        """(..., D) digits -> (..., K) token ids in [0, vocabulary)."""
        grouped = digits.unflatten(-1, (self.config.codes, len(self.config.levels)))
        return (grouped * self._radix(digits.device)).sum(-1)

    def digits_of_tokens(self, tokens: Tensor) -> Tensor:
        """(..., K) token ids -> (..., D) digits. Raises InputError for an id out of range."""
        if tokens.numel() and (int(tokens.min()) < 0 or int(tokens.max()) >= self.config.vocabulary):
            raise InputError(f"frame token out of range: got {int(tokens.min())} to {int(tokens.max())}, "
                             f"expected 0 to {self.config.vocabulary - 1}")
        levels = torch.tensor(self.config.levels, device=tokens.device)
        return (tokens[..., None] // self._radix(tokens.device) % levels).flatten(-2)

    def _radix(self, device: torch.device) -> Tensor:
        radix = [math.prod(self.config.levels[:i]) for i in range(len(self.config.levels))]
        return torch.tensor(radix, device=device)
