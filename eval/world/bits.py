"""How many bits the model needs to write down what truly came next: its own code, priced by its own predictions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from drive_wm.eval.world.futures import Shots
from drive_wm.model import DriveWM
from drive_wm.types import Rig
from drive_wm.world.decode import Stream
from drive_wm.world.inputs import pixels_of
from drive_wm.world.model import Steps


@torch.no_grad()
def bits_of_step(model: DriveWM, before: Stream, told: Steps, truth: Shots, rig: Rig, passes: int, seed: int) -> float:
    """Bits of the true frames of the step after ``before``, all cameras, written in ``passes`` groups.

    told: the step as generation was told it (action, agents, layout). Tokens are written in a random order in groups of
    the sizes that decoding uses, each group priced given the true ones before it: a code that a decoder with the same
    weights can read, so an upper bound of the tokens' information. truth: one picture a camera.
    """
    with torch.autocast(model.device.type, torch.bfloat16):
        parts = [model.tokenizer.encode(pixels_of(truth[n][:1], model.device)).flatten(1, 2) for n in rig.names]
        digits = torch.cat(parts, 1)[:, None]
        return sum(_groups(model, before, replace(told, digits=digits), passes, seed))


def _groups(model: DriveWM, before: Stream, step: Steps, passes: int, seed: int) -> list[float]:
    world, past = model.world, before.cache.past()
    codes, (_, _, p, _) = world.config.fsq.codes, step.digits.shape
    order = torch.randperm(p * codes, generator=torch.Generator().manual_seed(seed)).to(step.digits.device)
    ends = [p * codes - int(math.cos((i + 1) / passes * math.pi / 2) * p * codes) for i in range(passes)]
    ends[-1] = p * codes
    bits, begin = [], 0
    for end in ends:
        hidden = torch.ones(p * codes, dtype=torch.bool, device=step.digits.device)
        hidden[order[:begin]] = False
        masked = hidden.view(1, 1, p, codes)
        read = world.step(replace(step, masked=masked), past, before.frames)[0]
        logits = world.digit_logits(world.frame_hidden(read))
        bits.append(float(token_bits(logits, step.digits[:, 0], codes).flatten()[order[begin:end]].sum()))
        begin = end
    return bits


def token_bits(logits: list[Tensor], digits: Tensor, codes: int) -> Tensor:
    """D logits (1, P, levels) and digits (1, P, D) -> bits of every token (1, P, K)."""
    nats = [F.cross_entropy(one[0].float(), digits[0, :, i], reduction="none") for i, one in enumerate(logits)]
    return (torch.stack(nats, -1).unflatten(-1, (codes, -1)).sum(-1) / np.log(2))[None]
