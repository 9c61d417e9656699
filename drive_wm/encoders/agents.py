"""Agents <-> features and motion tokens.

An agent is one position of a step. It goes in as its state (position, heading, velocity, size, class, colour in the rig
frame) and comes out as a motion token for the next step: a change of speed and a rate of turn, so that a rolled-out
agent keeps its identity, its size and its colour.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from drive_wm.types import CATEGORIES

FEATURES = 10 + len(CATEGORIES) + 3
ROUTE_FEATURES, LANE_HALF_M = 3, 1.6
ACCEL_BINS, TURN_BINS = 25, 25
_UNIT = torch.linspace(-1, 1, 25)
_ACCELS = 8.0 * _UNIT * _UNIT.abs()  # [m/s2]
_TURNS = 1.5 * _UNIT * _UNIT.abs()  # [rad/s]
_X, _Y, _YAW, _VX, _VY, _L, _W, _H, _CAT, _R = range(10)


def agent_features(agents: Tensor) -> Tensor:
    """(..., 12) AGENT_COLUMNS -> (..., FEATURES) scaled to about one."""
    x, y, yaw = agents[..., _X], agents[..., _Y], agents[..., _YAW]
    numbers = [x / 30, y / 30, torch.cos(yaw), torch.sin(yaw), agents[..., _VX] / 10, agents[..., _VY] / 10,
               agents[..., _L] / 5, agents[..., _W] / 2, agents[..., _H] / 2, torch.log1p(torch.hypot(x, y)) / 3]
    kind = torch.nn.functional.one_hot(agents[..., _CAT].long(), len(CATEGORIES)).to(agents.dtype)
    return torch.cat([torch.stack(numbers, -1), kind, agents[..., _R:_R + 3] / 255], -1)


def route_features(agents: Tensor, route: Tensor) -> Tensor:
    """Agents (B, A, 12) and points of the route ahead (B, P, 2), both in the rig frame -> (B, A, ROUTE_FEATURES): how
    far along it each is, how far aside (left positive), both scaled to about one, and whether that is in the ego's
    lane, before it."""
    points = torch.cat([torch.zeros_like(route[:, :1]), route], 1)
    start, step = points[:, None, :-1], points.diff(dim=1)[:, None]  # (B, 1, P, 2)
    length = step.norm(dim=-1).clamp(min=1e-3)
    offset = agents[:, :, None, :2] - start
    share = (offset * step).sum(-1) / length**2
    first = torch.arange(share.shape[-1], device=share.device) == 0
    share = torch.where(first, share.clamp(max=1), share.clamp(0, 1))  # the first goes on behind the ego
    off = offset - share[..., None] * step
    nearest = off.norm(dim=-1).argmin(-1, keepdim=True)
    before = torch.cat([torch.zeros_like(length[..., :1]), length.cumsum(-1)[..., :-1]], -1)
    along = (before + share * length).gather(-1, nearest)[..., 0]
    side = (step[..., 0] * off[..., 1] - step[..., 1] * off[..., 0]).sign()
    aside = (off.norm(dim=-1) * side).gather(-1, nearest)[..., 0]
    in_lane = (along > 0.5) & (aside.abs() < LANE_HALF_M)
    return torch.stack([along / 30, (aside / 5).clamp(-4, 4), in_lane.to(along.dtype)], -1)


def move_frame(agents: Tensor, ego_step: Tensor) -> Tensor:
    """Agents of step t (..., A, 12) seen from the rig at t+1; ego_step (..., 3): x, y, yaw of t+1 in the frame of t."""
    c, s = torch.cos(ego_step[..., 2:3]), torch.sin(ego_step[..., 2:3])
    dx, dy = agents[..., _X] - ego_step[..., 0:1], agents[..., _Y] - ego_step[..., 1:2]
    vx, vy = agents[..., _VX], agents[..., _VY]
    out = agents.clone()
    out[..., _X], out[..., _Y] = c * dx + s * dy, c * dy - s * dx
    out[..., _VX], out[..., _VY] = c * vx + s * vy, c * vy - s * vx
    out[..., _YAW] = _wrap(agents[..., _YAW] - ego_step[..., 2:3])
    return out


def _wrap(angle: Tensor) -> Tensor:
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def _course(agents: Tensor) -> tuple[Tensor, Tensor]:
    """Speed and direction of travel; where an agent stands, its heading."""
    vx, vy = agents[..., _VX], agents[..., _VY]
    speed = torch.hypot(vx, vy)
    return speed, torch.where(speed > 0.5, torch.atan2(vy, vx), agents[..., _YAW])


def motion_tokens(now: Tensor, after: Tensor, ego_step: Tensor, dt_s: Tensor) -> Tensor:
    """The tokens (..., A, 2) that take agents ``now`` (rig frame t) to ``after`` (rig frame t+1)."""
    moved = move_frame(now, ego_step)
    speed, course = _course(moved)
    dx, dy = after[..., _X] - moved[..., _X], after[..., _Y] - moved[..., _Y]
    travel = torch.hypot(dx, dy)
    seen = torch.where(travel > 0.3, torch.atan2(dy, dx), course)
    accel = (travel / dt_s[..., None] - speed) / dt_s[..., None]
    turn = 2 * _wrap(seen - course) / dt_s[..., None]
    turn = torch.where(turn.abs() * dt_s[..., None] > math.pi / 2, torch.zeros_like(turn), turn)
    return torch.stack([_bin(accel, _ACCELS), _bin(turn, _TURNS)], -1)


def _bin(values: Tensor, centres: Tensor) -> Tensor:
    centres = centres.to(values)
    return torch.bucketize(values.contiguous(), (centres[1:] + centres[:-1]) / 2)


def apply_motion(now: Tensor, tokens: Tensor, ego_step: Tensor, dt_s: Tensor) -> Tensor:
    """Agents (..., A, 12) moved by their tokens and seen from the rig at t+1; speed never falls below zero."""
    moved = move_frame(now, ego_step)
    speed, course = _course(moved)
    accel, turn = _ACCELS.to(now)[tokens[..., 0]], _TURNS.to(now)[tokens[..., 1]]
    mean = (speed + accel * dt_s[..., None]).clamp_min(0.0)
    middle, end = course + turn * dt_s[..., None] / 2, course + turn * dt_s[..., None]
    out = moved.clone()
    out[..., _X] = moved[..., _X] + mean * dt_s[..., None] * torch.cos(middle)
    out[..., _Y] = moved[..., _Y] + mean * dt_s[..., None] * torch.sin(middle)
    out[..., _VX], out[..., _VY] = mean * torch.cos(end), mean * torch.sin(end)
    out[..., _YAW] = torch.where(mean > 0.3, _wrap(moved[..., _YAW] + (end - course)), moved[..., _YAW])
    return out
