"""Clips -> the tensors that the world model reads; the same path for training and for use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from drive_wm.encoders.rays import ray_features
from drive_wm.encoders.text import caption, encode_text
from drive_wm.tokenizer.model import FrameTokenizer
from drive_wm.types import ByteArray, Clip, FloatArray, InputError, Look
from drive_wm.world.model import CAPTION_LENGTH, ROUTE_POINTS, Steps
from drive_wm.world.vocabulary import RANGES, special


def pixels_of(images: ByteArray, device: torch.device) -> Tensor:
    """(..., H, W, 3) uint8 -> (..., 3, H, W) float in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).movedim(-1, -3).float() / 255


def packed_digits(clips: list[Clip], packed: list[Mapping[str, ByteArray] | None],
                  device: torch.device) -> Tensor | None:
    """Digits of every clip by camera, (T, h, w, D) each -> (B, T, P, D) in rig order; None where a clip has none."""
    known = [(clip.rig.names, digits) for clip, digits in zip(clips, packed) if digits is not None]
    if len(known) < len(clips):
        return None
    parts = [torch.from_numpy(np.stack([digits[names[i]] for names, digits in known])).flatten(2, 3)
             for i in range(len(clips[0].rig.cameras))]
    return torch.cat(parts, 2).to(device).long()


def digits_of(clips: list[Clip], tokenizer: FrameTokenizer, device: torch.device) -> Tensor:
    """Frames of all cameras -> (B, T, P, D) FSQ digits in rig order; clips packed as tokens have them already."""
    packed = packed_digits(clips, [clip.digits for clip in clips], device)
    if packed is not None:
        return packed
    parts = []
    for name_index in range(len(clips[0].rig.cameras)):
        images = np.stack([clip.frames[clip.rig.names[name_index]] for clip in clips])
        pixels = pixels_of(images, device)
        digits = tokenizer.encode(pixels.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        parts.append(digits.flatten(1, 2).unflatten(0, pixels.shape[:2]))
    return torch.cat(parts, 2)


def steps_from_clips(clips: list[Clip], tokenizer: FrameTokenizer, device: torch.device, slots: int) -> Steps:
    """Clips of equal length and equal cameras -> Steps with nothing masked; raises InputError where they differ."""
    shape = {(len(c.timestamps_us), tuple((k.height, k.width) for k in c.rig.cameras)) for c in clips}
    if len(shape) != 1:
        raise InputError(f"clips of one batch must have the same steps and camera sizes, got {sorted(shape)}")
    first = clips[0]
    b, t = len(clips), len(first.timestamps_us)
    encoded = [ray_features(clip.rig) for clip in clips]
    grids = encoded[0][2]
    sizes = [rows * columns for rows, columns in grids]

    def stack(arrays: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(arrays)).to(device)

    actions = torch.zeros(b, t, 2, device=device)
    actions_valid = torch.zeros(b, t, dtype=torch.bool, device=device)
    actions[:, 1:] = stack([c.actions for c in clips]).float()
    actions_valid[:, 1:] = stack([c.actions_valid for c in clips])
    if any(c.agents.shape[1] != slots for c in clips):
        raise InputError(f"clips must have {slots} agent slots; use nearest_agents(clip, {slots}, step)")
    seen = torch.cat([stack([c.frames_valid[:, i] for c in clips])[..., None].expand(-1, -1, n)
                      for i, n in enumerate(sizes)], -1)
    layout = None
    if all(c.layout is not None for c in clips):
        layout = [pixels_of(np.stack([c.layout[c.rig.names[i]] for c in clips if c.layout is not None]), device)
                  for i in range(len(sizes))]
    return Steps(
        digits=digits_of(clips, tokenizer, device), masked=None, seen=seen, noise=torch.zeros(b, t, device=device),
        actions=actions, actions_valid=actions_valid,
        dt_s=torch.tensor([1 / c.rate_hz for c in clips], device=device, dtype=torch.float32),
        agents=stack([c.agents for c in clips]).float(), agents_valid=stack([c.agents_valid for c in clips]),
        layout=layout, layout_valid=torch.full((b,), layout is not None, device=device),
        rays=torch.from_numpy(encoded[0][0]).to(device), cells=torch.from_numpy(encoded[0][1]).to(device), grids=grids,
        carried=packed_digits(clips, [c.carried for c in clips], device),
        carried_drawn=packed_digits(clips, [c.carried_drawn for c in clips], device))


def caption_ids(looks: list[Look | str | None], device: torch.device) -> Tensor:
    """(B, CAPTION_LENGTH) ids: a look's caption, a prompt of the user, or nothing (None)."""
    rows = []
    for look in looks:
        words = [] if look is None else encode_text(look if isinstance(look, str) else caption(look))
        if len(words) > CAPTION_LENGTH - 1:
            raise InputError(f"the prompt has {len(words)} tokens; at most {CAPTION_LENGTH - 1} condition the scene, "
                             "for example \"rain night\"")
        ids = [special("<caption>"), *(RANGES["text"].start + w for w in words)]
        rows.append(ids + [special("<pad>")] * (CAPTION_LENGTH - len(ids)))
    return torch.tensor(rows, device=device)


def route_vector(points: FloatArray | None, speed_mps: float) -> FloatArray:
    """(8, 2) metres ahead or None -> the (2 * ROUTE_POINTS + 2,) features that open a task segment."""
    flat = np.zeros(2 * ROUTE_POINTS) if points is None else np.asarray(points, dtype=np.float64).reshape(-1) / 20
    return np.concatenate([flat, [0.0 if points is None else 1.0, speed_mps / 10]]).astype(np.float32)
