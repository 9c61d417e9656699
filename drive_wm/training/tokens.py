"""Frames tokenized once, when they are packed, so that training the world model never encodes them again."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

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


class CheckpointEncoder:
    """Images -> digits by the tokenizer of a checkpoint; it is loaded again in each process that it travels to."""

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint
        self._tokenizer: FrameTokenizer | None = None
        self.fingerprint = fingerprint(self.tokenizer)

    @property
    def tokenizer(self) -> FrameTokenizer:
        if self._tokenizer is None:
            from drive_wm.model import DriveWM

            self._tokenizer = DriveWM.from_pretrained(self.checkpoint).tokenizer.eval()
        return self._tokenizer

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tokenizer": None}

    def __call__(self, images: ByteArray) -> ByteArray:
        """(N, H, W, 3) uint8 -> (N, h, w, D) uint8 digits, in float32."""
        import torch

        from drive_wm.world.inputs import pixels_of

        device = next(self.tokenizer.parameters()).device
        parts = [self.tokenizer.encode(pixels_of(images[i:i + BATCH], device)) for i in range(0, len(images), BATCH)]
        return torch.cat(parts).cpu().numpy().astype(np.uint8)
