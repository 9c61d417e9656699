"""Many futures of one past: the model's agents under candidate actions, its own plans, and how likely a plan is.

What shares a past stands side by side in one sequence: each future sees the past and itself, so the past is read once
and its keys are never copied. Axes: B futures, N steps, A agents, P frame positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from drive_wm.encoders.actions import action_bins, actions_of_bins
from drive_wm.geometry import integrate_actions
from drive_wm.model import DriveWM, rig_of
from drive_wm.types import FloatArray, InputError
from drive_wm.world.decode import Sampling, Stream, looked, next_agents, next_digits, next_step
from drive_wm.world.model import Seen, Segment, Steps
from drive_wm.world.vocabulary import RANGES, special

MODES = ("state", "token", "pixel")
LIKELIEST = Sampling(passes=1, temperature=0.0, order_temperature=0.0)


@dataclass(frozen=True)
class Futures:
    """agents: (B, N, A, 12), each in the rig frame that its future's actions led to, of all slots of the past.

    digits: (B, N, P, D) of the frames, None in mode "state". frames: one (B, N, H, W, 3) a camera in mode "pixel".
    """

    agents: FloatArray
    digits: Tensor | None
    frames: list[np.ndarray] | None


@torch.no_grad()
def roll_out(model: DriveWM, stream: Stream, actions: FloatArray, *, mode: str = "state",
             sampling: Sampling = LIKELIEST, seed: int = 0) -> Futures:
    """B futures of a stream (batch 1) under actions (B, N, 2).

    "state": agents alone, no frame is generated. "token": frames as tokens, never drawn, so that nothing is carried
    from one to the next. "pixel": drawn and carried.
    """
    if mode not in MODES:
        raise InputError(f"mode {mode!r}, expected one of {', '.join(MODES)}")
    if actions.ndim != 3 or actions.shape[2] != 2 or not np.isfinite(actions).all():
        raise InputError(f"actions: expected finite (B, N, 2), got shape {actions.shape}")
    generator = torch.Generator().manual_seed(seed)
    with torch.autocast(model.device.type, torch.bfloat16):
        if mode == "state":
            return Futures(_states(model, stream, actions, sampling, generator), None, None)
        return _tokens(model, stream, actions, sampling, generator, mode == "pixel")


def _widened(steps: Steps, count: int) -> Steps:
    """A step of batch 1 as ``count`` futures see it, without its layout."""
    def wide(x: Tensor) -> Tensor:
        return x.expand(count, *x.shape[1:])

    return replace(steps, digits=wide(steps.digits), seen=wide(torch.ones_like(steps.seen)), masked=None,
                   noise=wide(torch.zeros_like(steps.noise)), actions=wide(steps.actions),
                   actions_valid=wide(torch.ones_like(steps.actions_valid)), dt_s=wide(steps.dt_s),
                   agents=wide(steps.agents), agents_valid=wide(steps.agents_valid), layout=None,
                   layout_valid=torch.zeros(count, dtype=torch.bool, device=steps.dt_s.device))


def _moved(model: DriveWM, stream: Stream, actions: FloatArray, sampling: Sampling,
           generator: torch.Generator) -> Steps:
    """The next step of each future: what its action (B, 2) and its agents' motion make of the last."""
    ego = integrate_actions(np.zeros((len(actions), 3)), actions[:, None], float(stream.last.dt_s[0]))[:, 0]
    ego_step = torch.from_numpy(ego).float().to(model.device)
    agents = next_agents(model.world, stream, ego_step, sampling, generator)[:, None]
    act = torch.from_numpy(actions[:, None]).float().to(model.device)
    return replace(stream.last, actions=act, agents=agents, first_step=stream.last.first_step + 1)


def _states(model: DriveWM, stream: Stream, actions: FloatArray, sampling: Sampling,
            generator: torch.Generator) -> FloatArray:
    world, count = model.world, len(actions)
    cache, size = stream.cache.copy(), count * (2 + world.config.agents)
    stream = Stream(cache, _widened(stream.last, count), stream.frames, stream.hidden.expand(count, -1, -1), stream.rig)
    out = []
    for i in range(actions.shape[1]):
        step = _moved(model, stream, actions[:, i], sampling, generator)
        past = cache.past()
        length = past[0][0].shape[1] if past else 0
        imagined = min(i, cache.window)  # of the cached blocks, the newest
        hidden, keys = world.state(step, past, length - imagined * size)
        cache.add(keys)
        stream = Stream(cache, step, stream.frames, hidden, stream.rig)
        out.append(step.agents[:, 0])
    return torch.stack(out, 1).double().cpu().numpy()


def _tokens(model: DriveWM, stream: Stream, actions: FloatArray, sampling: Sampling, generator: torch.Generator,
            draw: bool) -> Futures:
    count = len(actions)
    stream = Stream(stream.cache.expand(count), _widened(stream.last, count),
                    stream.frames.expand(count, -1, -1), stream.hidden.expand(count, -1, -1), stream.rig)
    agents, digits, pictures = [], [], []
    for i in range(actions.shape[1]):
        step = _moved(model, stream, actions[:, i], sampling, generator)
        if draw:
            moves = integrate_actions(np.zeros((count, 3)), actions[:, i:i + 1], float(step.dt_s[0]))[:, 0]
            carried = model.carry(stream, moves)
            step = replace(step, carried=model.encoded(carried, step.grids))
        agents.append(step.agents[:, 0])
        if i + 1 == actions.shape[1] and not draw:  # nothing follows that would read it
            digits.append(next_digits(model.world, stream, step, sampling.at(i + 1), generator)[:, 0])
            break
        stream = next_step(model.world, stream, step, sampling.at(i + 1), generator)
        digits.append(stream.last.digits[:, 0])
        if draw:
            stream.pictures = model.pictures(digits[-1], step.grids, rig_of(stream).names, carried)
            pictures.append(stream.pictures)
    frames = [np.stack(camera, 1) for camera in zip(*pictures)] if draw else None
    return Futures(torch.stack(agents, 1).double().cpu().numpy(), torch.stack(digits, 1), frames)


# --- plans --------------------------------------------------------------------------------------------------------


def _opened(model: DriveWM, stream: Stream, route: Tensor) -> tuple[Tensor, Seen, int]:
    """<plan> behind the past -> its hidden (d,), what is then seen, of batch 1, and how many positions that is."""
    opening = torch.tensor([[special("<plan>")]], device=model.device)
    hidden, seen = model.world.expert(Segment(opening), looked(model.world, stream, route))
    return hidden[0, 0], seen, seen.keys[0][0].shape[1]


def _logits(model: DriveWM, hidden: Tensor, index: int) -> Tensor:
    """(..., d) -> (..., bins) of the plan's token ``index``: a speed, then a curvature, and so on."""
    wanted = RANGES["future_speed" if index % 2 == 0 else "future_curvature"]
    return model.world.expert.head(hidden)[..., wanted.start:wanted.stop].float()


def _first_ids(device: torch.device) -> Tensor:
    return torch.tensor([RANGES["future_speed"].start, RANGES["future_curvature"].start], device=device)


@torch.no_grad()
def sample_plans(model: DriveWM, stream: Stream, route: Tensor, count: int, *, temperature: float = 1.0,
                 seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """``count`` plans of the model (K, 8, 2) as actions, and the mean log-probability of their tokens (K,), nats.

    route: (1, F) as ``inputs.route_vector``. temperature 0 says the likeliest token each time.
    """
    expert, generator = model.world.expert, torch.Generator().manual_seed(seed)
    length = 2 * model.world.config.plan_steps
    bins, surety = [], []
    with torch.autocast(model.device.type, torch.bfloat16):
        hidden, seen, shared = _opened(model, stream, route)
        last = hidden.expand(count, -1)
        for i in range(length):
            logits = _logits(model, last, i)
            drawn = _drawn(logits, temperature, generator)
            surety.append(torch.log_softmax(logits, -1).gather(-1, drawn[:, None])[:, 0])
            bins.append(drawn)
            if i + 1 == length:
                break
            out, seen = expert.go_on((drawn + _first_ids(model.device)[i % 2])[:, None], seen, shared)
            last = out[:, 0]
    actions = actions_of_bins(torch.stack(bins, 1).view(count, -1, 2).cpu())
    return actions.numpy(), torch.stack(surety, 1).mean(1).double().cpu().numpy()


def _drawn(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    if temperature <= 0:
        return logits.argmax(-1)
    share = torch.softmax(logits / temperature, -1).cpu()
    return torch.multinomial(share, 1, generator=generator)[:, 0].to(logits.device)


@torch.no_grad()
def plan_likelihood(model: DriveWM, stream: Stream, route: Tensor, actions: FloatArray) -> FloatArray:
    """Mean log-probability (B,), nats a token, of plans (B, 8, 2) as the model would have said them."""
    expert, (count, steps, _) = model.world.expert, actions.shape
    bins = action_bins(torch.from_numpy(np.asarray(actions))).to(model.device)
    ids = (bins + _first_ids(model.device)).view(count, 2 * steps)
    with torch.autocast(model.device.type, torch.bfloat16):
        hidden, seen, shared = _opened(model, stream, route)
        out, _ = expert.go_on(ids[:, :-1], seen, shared)  # the last token is said, and not read
        states = torch.cat([hidden.expand(count, 1, -1), out], 1)
        said = [torch.log_softmax(_logits(model, states[:, i], i), -1).gather(-1, bins.view(count, -1)[:, i:i + 1])
                for i in range(2 * steps)]
    return torch.cat(said, 1).mean(1).double().cpu().numpy()


__all__ = ["LIKELIEST", "MODES", "Futures", "plan_likelihood", "roll_out", "sample_plans"]
