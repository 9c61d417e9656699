"""Decoding: frames by masked prediction in a few parallel passes or token by token, task segments under a grammar.

Axes as in ``world.model``. A ``Stream`` is a scene being continued: its cache, newest step, agents and clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from drive_wm.encoders.agents import apply_motion
from drive_wm.types import CAUSE_KINDS, LATERAL, LONGITUDINAL, ByteArray, InputError, Rig
from drive_wm.world.inputs import caption_ids
from drive_wm.world.model import Seen, Segment, Steps, WorldModel
from drive_wm.world.reasons import AGENT_CAUSES, MAX_ABOUT, SIGNAL_CAUSES
from drive_wm.world.transformer import Cache, KeyValues
from drive_wm.world.vocabulary import POINT_NOTHING, POINT_SIGNAL, POINTERS, RANGES, TABLE_SIZE, legal, special


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho and Salimans, 2022) by the action, the layout and the caption, each on its own.

    The logits are l + sum over m of (w_m - 1) * (l - l_m), where l_m are those of the same step with m dropped as in
    training. A weight of 1 is off and costs nothing; any other costs one more forward a pass, in the same batch.
    rise: a pass that has decided the share x of its passes adds x**rise of (w - 1); 0 is the same in all, 1 rises
    evenly as in Muse (Chang et al., 2023). decay: what is left of (w - 1) from one step of a rollout to the next.
    """

    action: float = 1.0
    layout: float = 1.0
    caption: float = 1.0
    rise: float = 0.0
    decay: float = 1.0

    def __post_init__(self) -> None:
        if not all(0 <= getattr(self, f.name) < math.inf for f in fields(self)):
            raise InputError(f"guidance needs finite values >= 0, got {self}")

    @classmethod
    def parse(cls, text: str) -> Guidance:
        """"action=2,layout=1.5" -> Guidance; raises InputError."""
        known = [f.name for f in fields(cls)]
        values: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = part.strip().partition("=")
            try:
                values[name] = float(value)
            except ValueError:
                name = ""
            if name not in known:
                raise InputError(f"guidance {text!r}: {part!r} is not NAME=NUMBER with a name of {', '.join(known)}; "
                                 "for example action=2,layout=1.5")
        return cls(**values)

    def at(self, index: int) -> Guidance:
        """That of step ``index`` of a rollout, counted from 1."""
        left = self.decay ** (index - 1)
        return replace(self, **{m: 1 + (getattr(self, m) - 1) * left for m in MODALITIES})


MODALITIES = ("action", "layout", "caption")


@dataclass(frozen=True)
class Sampling:
    """passes: of parallel decoding. temperature: of the tokens. order_temperature: of the order in which they are kept;
    0 keeps the surest first, which copies the frame before. raster: one token after the other, the exact baseline.
    top_k: only the likeliest k levels of a digit are drawn, 0: all."""

    passes: int = 6
    temperature: float = 0.7
    order_temperature: float = 2.0
    raster: bool = False
    top_k: int = 0
    guidance: Guidance = Guidance()

    def __post_init__(self) -> None:
        if self.passes < 1 or self.temperature < 0 or self.order_temperature < 0 or self.top_k < 0:
            raise InputError(f"sampling needs passes >= 1, temperatures >= 0 and top_k >= 0, got {self}")

    def at(self, index: int) -> Sampling:
        """That of step ``index`` of a rollout, counted from 1."""
        return replace(self, guidance=self.guidance.at(index))


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
    looked: Seen | None = None  # what tasks see of it, once one was given


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
    known = replace(step, digits=next_digits(model, stream, step, sampling, generator), masked=None)
    hidden, keys, frames = model.step(known, stream.cache.past(), stream.frames)
    cache = stream.cache.copy()
    cache.add(keys)
    return Stream(cache, known, frames, hidden, stream.rig)


def next_digits(model: WorldModel, stream: Stream, step: Steps, sampling: Sampling,
                generator: torch.Generator) -> Tensor:
    """The frames of ``step`` alone, (B, 1, P, D), for where nothing follows."""
    decode = _raster if sampling.raster else _parallel
    return decode(FrameLogits(model, stream, step, sampling.guidance), sampling, generator)


class FrameLogits:
    """Logits of one step's digits, guided. What all passes share is made once; what is dropped stands in the batch.

    All of them see one past, which was read with everything told: an action that is dropped is dropped, and its frames
    are not carried, in this step alone, and so is the layout; of the caption its own keys are replaced by those of an
    empty one, and the steps that have read it stay.
    """

    def __init__(self, model: WorldModel, stream: Stream, step: Steps, guidance: Guidance) -> None:
        self.model, self.step = model, step
        self.weights = {m: getattr(guidance, m) - 1 for m in MODALITIES
                        if getattr(guidance, m) != 1 and not (m == "layout" and step.layout is None)}
        self.rise = guidance.rise
        b, _, p, _ = step.digits.shape
        self.unknown = torch.ones(b, 1, p, model.config.fsq.codes, dtype=torch.bool, device=step.digits.device)
        whole = replace(step, masked=self.unknown)
        self.told = torch.cat([model.told(one, stream.frames[:, None])
                               for one in (whole, *(without(m, whole, stream.last) for m in self.weights))])
        self.past = stream.cache.past()
        if self.weights:
            pasts = [stream.cache.past(), *(_past_without(m, model, stream.cache, b) for m in self.weights)]
            self.past = [(torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer])) for layer in zip(*pasts)]

    def __call__(self, digits: Tensor, masked: Tensor, done: float, position: int | None = None) -> list[Tensor]:
        """digits (B, 1, P, D), masked (B, 1, P, K), done: the share of the passes, this one included, 0 to 1.

        -> D tensors (B, P, levels), or (B, 1, levels) of one position.
        """
        count = 1 + len(self.weights)
        if count > 1:
            digits, masked = (x.repeat(count, 1, 1, 1) for x in (digits, masked))
        step = replace(self.step, digits=digits, masked=masked, seen=self.step.seen.repeat(count, 1, 1))
        hidden = self.model.frame_hidden(self.model.step(step, self.past, None, self.told)[0])
        logits = self.model.digit_logits(hidden if position is None else hidden[:, position:position + 1])
        if count == 1:
            return logits
        strength = torch.tensor(list(self.weights.values()), device=digits.device) * done**self.rise
        return [_guided(one.float().unflatten(0, (count, -1)), strength) for one in logits]


def _guided(logits: Tensor, strength: Tensor) -> Tensor:
    """(1 + M, B, P, levels), the first with everything told; strength (M,)."""
    return logits[0] + ((logits[0] - logits[1:]) * strength[:, None, None, None]).sum(0)


def without(modality: str, step: Steps, last: Steps) -> Steps:
    """The step after ``last`` as training tells it where a modality is dropped; the caption is no part of a step."""
    if modality == "action":
        carried = None if step.carried is None else last.digits  # an unknown move carries nothing
        return replace(step, actions_valid=torch.zeros_like(step.actions_valid), carried=carried, carried_drawn=None)
    if modality == "layout":
        return replace(step, layout_valid=torch.zeros_like(step.layout_valid))
    return step


def _past_without(modality: str, model: WorldModel, cache: Cache, batch: int) -> KeyValues | None:
    if modality == "caption" and cache.prefix is not None:
        empty = model.caption(caption_ids([None] * batch, cache.prefix[0][0].device))
        cache = cache.copy()
        cache.prefix = empty
    return cache.past()


def _parallel(logits_of: FrameLogits, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """MaskGIT (Chang et al., 2022): all tokens are guessed in every pass, and a growing share of them is kept.

    The order is the probability of what was drawn plus Gumbel noise that fades: greedy order copies the last frame.
    """
    fsq = logits_of.model.config.fsq
    digits, masked = torch.zeros_like(logits_of.step.digits), logits_of.unknown
    for i in range(sampling.passes):
        done = (i + 1) / sampling.passes
        drawn, surety = _draw_digits(logits_of(digits, masked, done), sampling, generator)
        hidden_codes = masked.repeat_interleave(len(fsq.levels), -1)
        digits = torch.where(hidden_codes, drawn[:, None], digits)
        keep_masked = int(math.cos(done * math.pi / 2) * masked[0].numel())
        if i + 1 == sampling.passes or keep_masked == 0:
            break
        score = surety.unflatten(-1, (fsq.codes, -1)).sum(-1)
        noise = _gumbel(score.shape, generator, score.device) * sampling.order_temperature
        noise = noise * (1 - done)
        score = torch.where(masked[:, 0], score + noise, math.inf).flatten(1)
        order = score.argsort(1)
        again = torch.zeros_like(score, dtype=torch.bool).scatter(1, order[:, :keep_masked], True)
        masked = (again & masked.flatten(1)).view_as(masked)
    return digits


def _raster(logits_of: FrameLogits, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """One token after the other in rig, row, column order, each seeing all before it: the GAIA-1 baseline."""
    fsq = logits_of.model.config.fsq
    digits, masked = torch.zeros_like(logits_of.step.digits), logits_of.unknown.clone()
    width, total = len(fsq.levels), masked[0].numel()
    for position in range(digits.shape[2]):
        for code in range(fsq.codes):
            done = (position * fsq.codes + code + 1) / total
            drawn, _ = _draw_digits(logits_of(digits, masked, done, position), sampling, generator)
            part = slice(code * width, (code + 1) * width)
            digits[:, 0, position, part] = drawn[:, 0, part]
            masked[:, 0, position, code] = False
    return digits


def _draw(logits: Tensor, temperature: float, generator: torch.Generator, top_k: int = 0) -> Tensor:
    """(..., n) -> (...) indices by the Gumbel trick; temperature 0 takes the likeliest, top_k only those k."""
    logits = logits.float()
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -math.inf)
    if temperature > 0:
        logits = logits / temperature + _gumbel(logits.shape, generator, logits.device)
    return logits.argmax(-1)


def _draw_digits(logits: list[Tensor], sampling: Sampling, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """D tensors (B, P, levels) -> digits (B, P, D) and the log-probability of each."""
    drawn = torch.stack([_draw(one, sampling.temperature, generator, sampling.top_k) for one in logits], -1)
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
    return write_segments(model, stream, [opening], route, grammar, most, temperature=temperature,
                          generator=generator)[0]


def write_segments(model: WorldModel, stream: Stream, openings: Sequence[list[int]], route: Tensor, grammar: Grammar,
                   most: int, *, temperature: float, generator: torch.Generator) -> list[list[int]]:
    """The same for many openings behind one past, side by side where they are of one length; each as if alone."""
    out: list[list[int]] = [[] for _ in openings]
    for length in dict.fromkeys(len(ids) for ids in openings):
        members = [i for i, ids in enumerate(openings) if len(ids) == length]
        written = _write(model, stream, [openings[i] for i in members], route, grammar, most, temperature, generator)
        for i, ids in zip(members, written):
            out[i] = ids
    return out


def looked(model: WorldModel, stream: Stream, route: Tensor) -> Seen:
    """What every task segment at the end of the stream sees, made once for a route (1, F)."""
    if stream.looked is None or not torch.equal(stream.looked.route, route):
        past = stream.cache.past()
        assert past is not None  # a stream has read a step
        stream.looked = model.look(stream.last, past, route)
    return stream.looked


def _write(model: WorldModel, stream: Stream, openings: list[list[int]], route: Tensor, grammar: Grammar, most: int,
           temperature: float, generator: torch.Generator) -> list[list[int]]:
    count, device, expert = len(openings), route.device, model.expert
    alike = torch.zeros(count, dtype=torch.long, device=device)
    opening = Segment(torch.tensor(openings, device=device), of=alike)
    hidden, seen = expert(opening, looked(model, stream, route))
    out: list[list[int]] = [[] for _ in openings]
    while True:
        allowed = torch.stack([grammar(ids) for ids in out]).to(device)
        logits = expert.head(hidden[:, -1:], seen)[:, 0].float().masked_fill(~allowed, -math.inf)
        chosen = _draw(logits if temperature > 0 else _listed(logits), temperature, generator)
        for ids, one in zip(out, chosen.tolist()):
            if not _ended(ids):
                ids.append(one)
        if len(max(out, key=len)) >= most or all(map(_ended, out)):
            return out
        hidden, seen = expert.go_on(chosen[:, None], seen)


def _listed(logits: Tensor) -> Tensor:
    """(B, TABLE_SIZE) without the end of a list where all ways to go on with it are together likelier: the likeliest id
    alone would end a list as soon as it is unsure which of many comes next."""
    text = special("<text>")
    others = logits.clone()
    others[:, text] = -math.inf
    on = others.logsumexp(-1)
    logits[:, text] = torch.where(on > logits[:, text], -math.inf, logits[:, text])
    return logits


def _ended(ids: list[int]) -> bool:
    return bool(ids) and ids[-1] == special("<end>")


def plan_grammar(out: list[int]) -> Tensor:
    return legal(("future_speed",) if len(out) % 2 == 0 else ("future_curvature",))


def answer_grammar(agents: Sequence[Sequence[str] | None], max_causes: int, max_text: int, *,
                   forms: tuple[str, ...] = ("<decision>", "<causes>"),
                   longitudinal: Sequence[str] = LONGITUDINAL, lateral: Sequence[str] = LATERAL) -> Grammar:
    """<decision>, two ids, <causes>, pairs of kind and pointer, <text>, <end>; or <causes>, pointers, <text>, words,
    <end>.

    agents: of each slot the causes that its agent can be (``reasons.possible_causes``), None where it is empty. The
    words of a decision are rendered from what is typed, and not said. Pointers of words come in the order of slots.
    longitudinal, lateral: the decisions that may be stated.
    """
    stated = [_one_of("longitudinal", LONGITUDINAL, longitudinal), _one_of("lateral", LATERAL, lateral)]
    pointed = {kind: _pointers(range(POINT_SIGNAL, POINTERS) if kind in SIGNAL_CAUSES else
                               [i for i, can in enumerate(agents) if can and kind in can] if kind in AGENT_CAUSES else
                               [POINT_NOTHING]) for kind in CAUSE_KINDS}
    causes = _one_of("cause", CAUSE_KINDS, [kind for kind in CAUSE_KINDS if pointed[kind].any()])
    there = [i for i, can in enumerate(agents) if can is not None] + [POINT_SIGNAL]
    to_text = legal((), ("<text>",))

    def grammar(out: list[int]) -> Tensor:
        n = len(out)
        if n == 0:
            return legal((), forms)
        decides = out[0] == special("<decision>")
        if special("<text>") in out:
            words = n - out.index(special("<text>")) - 1
            return legal((), ("<end>",)) if words >= max_text or _ended(out) or decides else \
                legal(("text",), ("<end>",) if words else ())
        if not decides:
            last = out[-1] - RANGES["pointer"].start if n > 1 else -1
            return to_text if n > MAX_ABOUT else to_text | _pointers([i for i in there if i > last])
        if n < 4:
            return legal((), ("<causes>",)) if n == 3 else stated[n - 1]
        if n % 2 == 1:
            return pointed[CAUSE_KINDS[out[-1] - RANGES["cause"].start]]
        return to_text if (n - 4) // 2 >= max_causes else to_text | causes
    return grammar


def _one_of(name: str, words: Sequence[str], some: Sequence[str]) -> Tensor:
    mask = torch.zeros(TABLE_SIZE, dtype=torch.bool)
    for word in some:
        mask[RANGES[name].start + words.index(word)] = True
    return mask


def _pointers(some: Iterable[int]) -> Tensor:
    mask = torch.zeros(TABLE_SIZE, dtype=torch.bool)
    for slot in some:
        mask[RANGES["pointer"].start + slot] = True
    return mask
