"""Muon for matrices, AdamW for the rest, and a state on disk that goes on exactly."""

from pathlib import Path

import torch
from torch import nn

from drive_wm.training.optimizer import MuonAdamW, OptimizerConfig, make_optimizer, orthogonal, schedule
from drive_wm.training.state import load_state, save_state


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 36)
        self.conv = nn.Conv2d(4, 36, 3, padding=1)  # as a matrix 36 x 36
        self.thin = nn.Linear(36, 8)
        self.inner = nn.Linear(36, 36)
        self.out_head = nn.Linear(36, 40)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.conv(x).mean((2, 3)) + self.table(torch.arange(len(x)))
        return self.out_head(torch.tanh(self.inner(hidden))).mean() + self.thin(hidden).square().mean()


def test_the_rates_warm_up_and_fall() -> None:
    config = OptimizerConfig(warmup=10, final=0.1)
    shares = [schedule(config, step, 100) for step in range(100)]
    assert shares[0] == 0.1 and max(shares) == shares[10] == 1.0 and abs(shares[-1] - 0.1) < 0.01


def test_singular_values_come_near_one_whatever_they_were() -> None:
    torch.manual_seed(0)
    for shape in ((48, 96), (96, 48)):
        matrix = torch.randn(shape) @ torch.diag(torch.logspace(0, -1.5, shape[1]))
        values = torch.linalg.svdvals(orthogonal(matrix).float())
        assert 0.5 < values.min() and values.max() < 1.3
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        assert (orthogonal(matrix) * (u @ v)).sum() > 0.9 * (u @ v).square().sum() ** 0.5 * orthogonal(matrix).norm()


def test_only_matrices_inside_the_network_are_orthogonalised() -> None:
    model = Small()
    groups = make_optimizer(model, OptimizerConfig()).param_groups
    muon = {id(p) for group in groups if group["muon"] for p in group["params"]}
    assert muon == {id(model.conv.weight), id(model.inner.weight)}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert not any(g["muon"] for g in make_optimizer(model, OptimizerConfig(muon_lr=0.0)).param_groups)


def train(model: Small, optimizer: MuonAdamW, steps: int) -> None:
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(5, 4, 6, 6)).backward()
        optimizer.step()


def test_training_goes_on_exactly_from_a_saved_state(tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = Small()
    first = make_optimizer(whole, OptimizerConfig())
    train(whole, first, 3)
    save_state(tmp_path, 3, whole, whole, first, {})
    again = Small()
    second = make_optimizer(again, OptimizerConfig())
    load_state(tmp_path / "step-3", again, again, second)
    train(whole, first, 2)
    train(again, second, 2)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters()))


def test_a_step_moves_a_matrix_by_its_rate_in_every_direction() -> None:
    model = Small()
    optimizer = make_optimizer(model, OptimizerConfig(muon_lr=0.1, weight_decay=0.0))
    before = model.inner.weight.detach().clone()
    train(model, optimizer, 1)
    moved = torch.linalg.svdvals(model.inner.weight.detach() - before)
    assert moved.max() < 0.13 and moved[0] > 0.05
