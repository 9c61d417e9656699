"""Ego actions <-> bins. Speeds are finer when slow, curvatures finer when nearly straight; zero is exact in both."""

from __future__ import annotations

import torch
from torch import Tensor

SPEED_BINS, CURVATURE_BINS = 64, 65
MAX_SPEED_MPS, MAX_CURVATURE_INV_M = 30.0, 0.25

_SPEEDS = MAX_SPEED_MPS * torch.linspace(0, 1, SPEED_BINS, dtype=torch.float64) ** 1.5
_UNIT = torch.linspace(-1, 1, CURVATURE_BINS, dtype=torch.float64)
_CURVATURES = MAX_CURVATURE_INV_M * _UNIT * _UNIT.abs()


def _nearest(values: Tensor, centres: Tensor) -> Tensor:
    centres = centres.to(values.device)
    return torch.bucketize(values.double(), (centres[1:] + centres[:-1]) / 2)


def action_bins(actions: Tensor) -> Tensor:
    """(..., 2) speed_mps, curvature_inv_m -> (..., 2) bin indices; values outside the range go to the end bins."""
    speed, curvature = actions[..., 0].contiguous(), actions[..., 1].contiguous()
    return torch.stack([_nearest(speed, _SPEEDS), _nearest(curvature, _CURVATURES)], -1)


def actions_of_bins(bins: Tensor) -> Tensor:
    """(..., 2) bin indices -> (..., 2) speed_mps, curvature_inv_m in float64."""
    return torch.stack([_SPEEDS.to(bins.device)[bins[..., 0]], _CURVATURES.to(bins.device)[bins[..., 1]]], -1)


def action_features(actions: Tensor, dt_s: Tensor) -> Tensor:
    """(..., 2), (...) seconds -> (..., 6): scaled speed, curvature, travel, turn, lateral shift and step length."""
    speed, curvature = actions[..., 0].float(), actions[..., 1].float()
    travel = speed * dt_s
    turn = travel * curvature
    return torch.stack([speed / 10, curvature * 10, travel / 5, turn * 4, travel * turn / 2, dt_s], -1)
