"""Muon for the matrices inside the network, AdamW for everything else (embeddings, heads, norms, biases)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SMALLEST_SIDE = 32  # a matrix with a shorter side has too few directions to be worth orthogonalising


@dataclass(frozen=True)
class OptimizerConfig:
    lr: float = 1e-3  # of AdamW
    muon_lr: float = 0.02  # of Muon; 0 gives every parameter to AdamW
    warmup: int = 60
    final: float = 0.02  # share of the rates at the end of the cosine
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    ema: float = 0.998


def schedule(config: OptimizerConfig, step: int, steps: int) -> float:
    """The share of the peak rates at a step: linear warm-up, then a cosine to ``final``."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = min(1.0, (step - config.warmup) / max(1, steps - config.warmup))
    return config.final + (1 - config.final) * (1 + math.cos(math.pi * done)) / 2


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """(m, n) -> its nearest semi-orthogonal matrix, roughly: singular values between 0.7 and 1.2.

    Newton-Schulz iteration with the quintic of Jordan et al., "Muon", 2024; in bfloat16, which it tolerates.
    """
    wide = matrix.bfloat16() if matrix.shape[0] <= matrix.shape[1] else matrix.bfloat16().T
    x = wide / (wide.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x if matrix.shape[0] <= matrix.shape[1] else x.T).to(matrix.dtype)


class MuonAdamW(torch.optim.AdamW):
    """Groups with ``muon`` are stepped along the orthogonalised momentum of their gradient, the others as by AdamW.

    A convolution's kernel counts as a matrix (out, in * height * width). Muon's rate is that of a square matrix; a tall
    one is scaled by sqrt(out / in), so that every output moves alike.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"] if group["muon"] else ():
                if parameter.grad is not None:
                    self._muon(parameter, group)
                    parameter.grad = None  # AdamW passes over what has no gradient
        super().step()
        return loss

    def _muon(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["step"], state["momentum"] = torch.zeros(()), torch.zeros_like(parameter)
        state["step"] += 1
        state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
        update = parameter.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
        tall = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(orthogonal(update).view_as(parameter), alpha=-group["lr"] * tall)


def make_optimizer(network: nn.Module, config: OptimizerConfig) -> MuonAdamW:
    """Every trained parameter in one of three groups; ``peak`` is the rate that the schedule scales."""
    matrices: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    inner = {f"{name}.weight" for name, module in network.named_modules()
             if isinstance(module, (nn.Linear, nn.Conv2d)) and not name.endswith("head")}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        big = parameter.ndim >= 2 and min(parameter.flatten(1).shape) >= SMALLEST_SIDE
        if config.muon_lr > 0 and name in inner and big:
            matrices.append(parameter)
        else:
            (decayed if parameter.ndim >= 2 else others).append(parameter)
    adam: dict[str, Any] = {"muon": False, "peak": config.lr, "lr": config.lr}
    groups: list[dict[str, Any]] = [
        {"params": matrices, "muon": True, "peak": config.muon_lr, "lr": config.muon_lr,
         "momentum": 0.9, "weight_decay": config.weight_decay},
        {"params": decayed, "weight_decay": config.weight_decay, **adam},
        {"params": others, "weight_decay": 0.0, **adam}]
    return MuonAdamW([group for group in groups if group["params"]], betas=config.betas)
