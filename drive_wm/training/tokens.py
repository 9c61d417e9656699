"""Frames tokenized once, when they are packed, so that training the world model never encodes them again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from drive_wm.types import ByteArray

if TYPE_CHECKING:
    from drive_wm.tokenizer.model import FrameTokenizer

BATCH = 64


def fingerprint(tokenizer: FrameTokenizer) -> str:
    """Tells tokenizers apart: a hash of names, shapes and weights in float32."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tokenizer.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class TokenizerCodec:
    """Images <-> digits by a tokenizer, in bfloat16 as in training and in use."""

    def __init__(self, tokenizer: FrameTokenizer) -> None:
        self._tokenizer: FrameTokenizer | None = tokenizer
        self.fingerprint = fingerprint(tokenizer)

    @property
    def tokenizer(self) -> FrameTokenizer:
        assert self._tokenizer is not None
        return self._tokenizer

    def encode(self, images: ByteArray) -> ByteArray:
        """(N, H, W, 3) uint8 -> (N, h, w, D) uint8 digits."""
        from drive_wm.world.inputs import pixels_of

        def digits(part: ByteArray) -> Tensor:
            return self.tokenizer.encode(pixels_of(part, self._device).contiguous(memory_format=torch.channels_last))

        return self._in_parts(digits, images).astype(np.uint8)

    def decode(self, digits: ByteArray) -> ByteArray:
        """(N, h, w, D) uint8 digits -> (N, H, W, 3) uint8."""
        def pixels(part: ByteArray) -> Tensor:
            made = self.tokenizer.decode(torch.from_numpy(part).to(self._device).long())
            return (made * 255 + 0.5).to(torch.uint8).movedim(1, -1)

        return self._in_parts(pixels, digits)

    @property
    def _device(self) -> torch.device:
        return next(self.tokenizer.parameters()).device

    def _in_parts(self, work: Callable[[ByteArray], Tensor], items: ByteArray) -> ByteArray:
        with torch.no_grad(), torch.autocast(self._device.type, torch.bfloat16):
            return torch.cat([work(items[i:i + BATCH]) for i in range(0, len(items), BATCH)]).cpu().numpy()


class CheckpointCodec(TokenizerCodec):
    """The tokenizer of a checkpoint; it is loaded again in each process that it travels to."""

    def __init__(self, checkpoint: str) -> None:
        from drive_wm.model import DriveWM

        self.checkpoint = checkpoint
        super().__init__(DriveWM.from_pretrained(checkpoint).tokenizer)

    @property
    def tokenizer(self) -> FrameTokenizer:
        if self._tokenizer is None:
            from drive_wm.model import DriveWM

            self._tokenizer = DriveWM.from_pretrained(self.checkpoint).tokenizer.eval()
        return self._tokenizer

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tokenizer": None}
