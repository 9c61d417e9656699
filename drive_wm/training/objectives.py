"""What the world model learns from a batch: to fill in frames, to foresee agents, to plan, and to explain."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drive_wm.encoders.agents import motion_tokens
from drive_wm.world.model import Steps, WorldModel
from drive_wm.world.vocabulary import special


@dataclass(frozen=True)
class ObjectiveConfig:
    alternate: float = 0.6  # share of samples whose every second step is masked; the others', their last 1 to 3
    noise_max: float = 0.25  # up to this share of context tokens is replaced, so that rollouts do not drift
    drop_action: float = 0.1
    drop_caption: float = 0.5
    drop_layout: float = 0.5
    drop_agents: float = 0.1
    drop_carried: float = 0.1
    agent_weight: float = 0.1
    latent_weight: float = 0.5  # where the model has a head for it (model.latent)


def mask_steps(steps: Steps, config: ObjectiveConfig, codes: int) -> Tensor:
    """(B, T, P, K) True where a token is to be predicted. Within a masked step the share follows a cosine (MaskGIT)."""
    b, t, p, _ = steps.digits.shape
    device = steps.digits.device
    index = torch.arange(t, device=device)
    alternate = torch.rand(b, 1, device=device) < config.alternate
    odd = torch.randint(0, 2, (b, 1), device=device)
    last = torch.randint(1, 4, (b, 1), device=device)
    chosen = torch.where(alternate, (index + odd) % 2 == 0, index >= t - last) & (index > 0)
    share = torch.cos(torch.rand(b, t, device=device) * math.pi / 2)
    return (torch.rand(b, t, p, codes, device=device) < share[:, :, None, None]) & chosen[:, :, None, None]


def add_noise(steps: Steps, noise_max: float, levels: Tensor) -> Steps:
    """Replaces some tokens, half by those of other places and half by near ones, with the share told to the model.

    What is carried to a step has its own, which is not told: the model must judge it by the frames before.
    """
    def some() -> Tensor:
        b, t = steps.noise.shape
        device = steps.noise.device
        return torch.rand(b, t, device=device) * noise_max * (torch.rand(b, t, device=device) < 0.7)

    noise, share = some(), some()
    return replace(steps, digits=corrupted(steps.digits, noise, levels), noise=noise,
                   carried=None if steps.carried is None else corrupted(steps.carried, share, levels),
                   carried_drawn=None if steps.carried_drawn is None else corrupted(steps.carried_drawn, share, levels))


def corrupted(digits: Tensor, share: Tensor, levels: Tensor) -> Tensor:
    """digits (B, T, P, D) with that share (B, T) of the positions replaced."""
    b, t, p, d = digits.shape
    device = digits.device
    replaced = torch.rand(b, t, p, 1, device=device) < share[:, :, None, None]
    foreign = digits[:, :, torch.randperm(p, device=device)]
    near = digits + torch.randint(-1, 2, (b, t, p, d), device=device)
    near = near.clamp_min(0).minimum(levels.to(device) - 1)
    other = torch.where(torch.rand(b, t, p, 1, device=device) < 0.5, foreign, near)
    return torch.where(replaced, other, digits)


def drop_conditions(steps: Steps, config: ObjectiveConfig) -> Steps:
    """Any modality may be missing in use, so each is dropped for some samples."""
    b, device = steps.digits.shape[0], steps.digits.device

    def kept(p: float) -> Tensor:
        return torch.rand(b, device=device) >= p

    actions_valid = steps.actions_valid & kept(config.drop_action)[:, None]
    carries = (actions_valid & kept(config.drop_carried)[:, None])[:, :, None, None]  # an unknown move carries nothing
    before = torch.cat([steps.digits[:, :1], steps.digits[:, :-1]], 1)

    def carried(digits: Tensor | None) -> Tensor | None:
        return None if digits is None else torch.where(carries, digits, before)

    return replace(steps, actions_valid=actions_valid, carried=carried(steps.carried),
                   carried_drawn=carried(steps.carried_drawn),
                   layout_valid=steps.layout_valid & kept(config.drop_layout),
                   agents_valid=steps.agents_valid & kept(config.drop_agents)[:, None, None])


def drop_caption(caption: Tensor, p: float) -> Tensor:
    """A caption is dropped whole: its opening stays, the words become padding."""
    dropped = torch.rand(caption.shape[0], 1, device=caption.device) < p
    first = torch.arange(caption.shape[1], device=caption.device) == 0
    return torch.where(dropped & ~first, special("<pad>"), caption)


def frame_loss(model: WorldModel, hidden: Tensor, digits: Tensor, masked: Tensor) -> Tensor:
    """Mean cross-entropy in nats a digit, over the masked tokens alone.

    hidden (..., P, d), digits (..., P, D), masked (..., P, K).
    """
    fsq = model.config.fsq
    rows = masked.any(-1)
    logits = model.digit_logits(hidden[rows])
    target = digits[rows]
    weight = masked[rows].repeat_interleave(len(fsq.levels), -1).float()
    losses = torch.stack([F.cross_entropy(one.float(), target[:, i], reduction="none")
                          for i, one in enumerate(logits)], -1)
    return (losses * weight).sum() / weight.sum().clamp_min(1)


def latent_loss(head: nn.Module, hidden: Tensor, teacher: Tensor, masked: Tensor) -> Tensor:
    """How far the hidden states that ``head`` foresees at masked positions are from those of who sees the frame.

    hidden (..., P, d) of the model that guesses; teacher (..., P, d) of the running mean of its weights, which read the
    same steps with nothing masked or replaced; masked (..., P, K). Smooth L1 between states of zero mean and unit
    variance each, as data2vec (Baevski et al., 2022) and I-JEPA (Assran et al., 2023) have it; the teacher's is a
    constant. Nothing collapses, since the same states must say the tokens too.
    """
    rows = masked.any(-1)
    wanted = F.layer_norm(teacher[rows].float(), teacher.shape[-1:]).detach()
    return F.smooth_l1_loss(head(hidden[rows]).float(), wanted)


def agent_loss(model: WorldModel, hidden: Tensor, steps: Steps) -> Tensor:
    """Cross-entropy of every agent's motion token from each step to the next, where it is seen in both."""
    ego_step = ego_steps(steps.actions[:, 1:], steps.dt_s)
    dt_s = steps.dt_s[:, None].expand_as(ego_step[..., 0])
    target = motion_tokens(steps.agents[:, :-1], steps.agents[:, 1:], ego_step, dt_s)
    seen = steps.agents_valid[:, :-1] & steps.agents_valid[:, 1:] & steps.actions_valid[:, 1:, None]
    accel, turn = model.motion_logits(hidden[:, :-1])
    if not seen.any():
        return accel.sum() * 0.0
    wanted = target[seen]
    return (F.cross_entropy(accel[seen].float(), wanted[:, 0]) + F.cross_entropy(turn[seen].float(), wanted[:, 1])) / 2


def ego_steps(actions: Tensor, dt_s: Tensor) -> Tensor:
    """Actions (B, N, 2), seconds (B,) -> (B, N, 3) x, y, yaw of each next pose in the frame of the one before."""
    travel = actions[..., 0] * dt_s[:, None]
    turn = travel * actions[..., 1]
    chord = travel * torch.sinc(turn / (2 * math.pi))
    return torch.stack([chord * torch.cos(turn / 2), chord * torch.sin(turn / 2), turn], -1)
