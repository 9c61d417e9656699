"""Decoding: frames by masked prediction in a few parallel passes or token by token, task segments under a grammar.

Axes as in ``world.model``. A ``Stream`` is a scene being continued: its cache, newest step, agents and clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from drive_wm.encoders.agents import apply_motion
from drive_wm.types import ByteArray, InputError, Rig
from drive_wm.world.model import Segment, Steps, WorldModel
from drive_wm.world.transformer import Cache, KeyValues, Span
from drive_wm.world.vocabulary import RANGES, TABLE_SIZE, legal, special


@dataclass(frozen=True)
class Sampling:
    """passes: of parallel decoding. temperature: of the tokens. order_temperature: of the order in which they are kept;
    0 keeps the surest first, which copies the frame before. raster: one token after the other, the exact baseline."""

    passes: int = 6
    temperature: float = 0.7
    order_temperature: float = 2.0
    raster: bool = False

    def __post_init__(self) -> None:
        if self.passes < 1 or self.temperature < 0 or self.order_temperature < 0:
            raise InputError(f"sampling needs passes >= 1 and temperatures >= 0, got {self}")


@dataclass
class Stream:
    """A scene read so far. last: its newest step (T = 1), frames: that step's plain embedding, hidden: its output.

    rig: its cameras. pictures: one (B, H, W, 3) uint8 a camera of that step, where they were drawn already.
    """

    cache: Cache
    last: Steps
    frames: Tensor
    hidden: Tensor
    rig: Rig | None = None
    pictures: list[ByteArray] | None = None


def read_context(model: WorldModel, caption: Tensor, steps: Steps) -> Stream:
    """Reads T known steps into a cache, a step at a time, as generation will."""
    cache = Cache(model.config.window - 1)
    cache.prefix = model.caption(caption)
    frames: Tensor | None = None
    for t in range(steps.noise.shape[1]):
        one = steps.part(t, t + 1)
        hidden, keys, frames = model.step(one, cache.past(), frames)
        cache.add(keys)
    assert frames is not None
    return Stream(cache, one, frames, hidden)


def next_agents(model: WorldModel, stream: Stream, ego_step: Tensor, sampling: Sampling,
                generator: torch.Generator) -> Tensor:
    """Agents (B, A, 12) a step later as the model imagines them. ego_step: (B, 3) of the ego's own move."""
    accel, turn = model.motion_logits(stream.hidden)
    tokens = torch.stack([_draw(logits, sampling.temperature, generator) for logits in (accel, turn)], -1)
    return apply_motion(stream.last.agents[:, 0], tokens, ego_step, stream.last.dt_s)


def next_step(model: WorldModel, stream: Stream, step: Steps, sampling: Sampling, generator: torch.Generator) -> Stream:
    """Generates the frames of ``step`` (T = 1; digits are ignored, all else is given), reads them into the cache."""
    past = stream.cache.past()
    decode = _raster if sampling.raster else _parallel
    digits = decode(model, step, past, stream.frames, sampling, generator)
    known = replace(step, digits=digits, masked=None)
    hidden, keys, frames = model.step(known, past, stream.frames)
    cache = stream.cache.copy()
    cache.add(keys)
    return Stream(cache, known, frames, hidden, stream.rig)


def _parallel(model: WorldModel, step: Steps, past: KeyValues | None, before: Tensor, sampling: Sampling,
              generator: torch.Generator) -> Tensor:
    """MaskGIT (Chang et al., 2022): all tokens are guessed in every pass, and a growing share of them is kept.

    The order is the probability of what was drawn plus Gumbel noise that fades: greedy order copies the last frame.
    """
    fsq = model.config.fsq
    b, _, p, d = step.digits.shape
    digits = torch.zeros_like(step.digits)
    masked = torch.ones(b, 1, p, fsq.codes, dtype=torch.bool, device=digits.device)
    told = model.told(replace(step, masked=masked), before[:, None])
    for i in range(sampling.passes):
        logits = _frame_logits(model, replace(step, digits=digits, masked=masked), past, told)
        drawn, surety = _draw_digits(logits, sampling.temperature, generator)
        hidden_codes = masked.repeat_interleave(len(fsq.levels), -1)
        digits = torch.where(hidden_codes, drawn[:, None], digits)
        keep_masked = int(math.cos((i + 1) / sampling.passes * math.pi / 2) * p * fsq.codes)
        if i + 1 == sampling.passes or keep_masked == 0:
            break
        score = surety.unflatten(-1, (fsq.codes, -1)).sum(-1)
        noise = _gumbel(score.shape, generator, score.device) * sampling.order_temperature
        noise = noise * (1 - (i + 1) / sampling.passes)
        score = torch.where(masked[:, 0], score + noise, math.inf).flatten(1)
        order = score.argsort(1)
        again = torch.zeros_like(score, dtype=torch.bool).scatter(1, order[:, :keep_masked], True)
        masked = (again & masked.flatten(1)).view_as(masked)
    return digits


def _raster(model: WorldModel, step: Steps, past: KeyValues | None, before: Tensor, sampling: Sampling,
            generator: torch.Generator) -> Tensor:
    """One token after the other in rig, row, column order, each seeing all before it: the GAIA-1 baseline."""
    fsq = model.config.fsq
    digits = torch.zeros_like(step.digits)
    b, _, p, _ = digits.shape
    masked = torch.ones(b, 1, p, fsq.codes, dtype=torch.bool, device=digits.device)
    told = model.told(replace(step, masked=masked), before[:, None])
    width = len(fsq.levels)
    for position in range(p):
        for code in range(fsq.codes):
            logits = _frame_logits(model, replace(step, digits=digits, masked=masked), past, told, position)
            drawn, _ = _draw_digits(logits, sampling.temperature, generator)
            part = slice(code * width, (code + 1) * width)
            digits[:, 0, position, part] = drawn[:, 0, part]
            masked[:, 0, position, code] = False
    return digits


def _frame_logits(model: WorldModel, step: Steps, past: KeyValues | None, told: Tensor,
                  position: int | None = None) -> list[Tensor]:
    hidden = model.frame_hidden(model.step(step, past, None, told)[0])
    return model.digit_logits(hidden if position is None else hidden[:, position:position + 1])


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """(..., n) -> (...) indices by the Gumbel trick; temperature 0 takes the likeliest."""
    logits = logits.float()
    if temperature > 0:
        logits = logits / temperature + _gumbel(logits.shape, generator, logits.device)
    return logits.argmax(-1)


def _draw_digits(logits: list[Tensor], temperature: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """D tensors (B, P, levels) -> digits (B, P, D) and the log-probability of each."""
    drawn = torch.stack([_draw(one, temperature, generator) for one in logits], -1)
    surety = [torch.log_softmax(one.float(), -1).gather(-1, drawn[..., i:i + 1])[..., 0]
              for i, one in enumerate(logits)]
    return drawn, torch.stack(surety, -1)


def _gumbel(shape: torch.Size, generator: torch.Generator, device: torch.device) -> Tensor:
    uniform = torch.rand(shape, generator=generator)  # drawn on the CPU: the same seed gives the same tokens everywhere
    return -torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7))).to(device)


# --- task segments ------------------------------------------------------------------------------------------------

Grammar = Callable[[list[int]], Tensor]  # ids emitted so far -> (TABLE_SIZE,) bool of those that may follow


def write_segment(model: WorldModel, stream: Stream, opening: list[int], route: Tensor, grammar: Grammar, most: int, *,
                  temperature: float, generator: torch.Generator) -> list[int]:
    """Continues ``opening`` (B = 1) until <end> or ``most`` ids; what the grammar forbids cannot be said."""
    past = stream.cache.past()
    first_step = stream.last.first_step + 1
    device = route.device
    ids: list[int] = list(opening)
    out: list[int] = []
    done = 0
    while len(out) < most:
        fresh = torch.tensor([ids[done:]], device=device)
        x = model.embed_segment(Segment(fresh, route)) if done == 0 else model.table(fresh)
        positions = model.segment_positions(first_step, len(ids) - done, device, start=done)
        hidden, keys = model.transformer(x, positions, [Span(0, len(ids) - done, causal=True)], past)
        if past is not None:
            keys = [(torch.cat([a, c], 1), torch.cat([b, d], 1)) for (a, b), (c, d) in zip(past, keys)]
        past = keys
        done = len(ids)
        allowed = grammar(out).to(device)
        logits = model.text_head(hidden[0, -1]).float().masked_fill(~allowed, -math.inf)
        chosen = int(_draw(logits[None], temperature, generator))
        ids.append(chosen)
        out.append(chosen)
        if chosen == special("<end>"):
            break
    return out


def plan_grammar(out: list[int]) -> Tensor:
    return legal(("future_speed",) if len(out) % 2 == 0 else ("future_curvature",))


def answer_grammar(slots_used: list[bool], max_causes: int, max_text: int) -> Grammar:
    """Decision, <causes>, pairs of kind and pointer, <text>, words, <end>. Empty agent slots cannot be pointed to."""
    def grammar(out: list[int]) -> Tensor:
        n = len(out)
        if n < 3:
            return legal((("longitudinal",), ("lateral",), ())[n], ("<causes>",) if n == 2 else ())
        if special("<text>") in out:
            words = n - out.index(special("<text>")) - 1
            return legal((), ("<end>",)) if words >= max_text else legal(("text",), ("<end>",) if words else ())
        if (n - 3) % 2 == 1:
            return _pointers(slots_used)
        return legal((), ("<text>",)) if (n - 3) // 2 >= max_causes else legal(("cause",), ("<text>",))
    return grammar


def _pointers(slots_used: list[bool]) -> Tensor:
    mask = torch.zeros(TABLE_SIZE, dtype=torch.bool)
    start = RANGES["pointer"].start
    for slot in range(RANGES["pointer"].size):
        mask[start + slot] = slot >= len(slots_used) or slots_used[slot]
    return mask
