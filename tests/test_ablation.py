"""Ablation: every change is trained and measured alike, a cut run goes on, and the latent objective is learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from drive_wm.cli import run
from drive_wm.datasets.shards import ShardSpec, build_shards
from drive_wm.model import DriveWM, ModelConfig
from drive_wm.presets import transformer
from drive_wm.tokenizer.model import TokenizerConfig
from drive_wm.training.objectives import latent_loss
from drive_wm.training.tokens import CheckpointCodec
from drive_wm.types import InputError
from drive_wm.use.ablation import AS_IT_IS, CHANGES, parsed
from drive_wm.world.model import WorldConfig

TINIEST = ModelConfig(TokenizerConfig(channels=(8, 8, 16, 16), decoder_blocks=1),
                      WorldConfig(transformer(32, 1), window=4, layout_channels=8))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A checkpoint, and its tokens of a drive to learn from and of a held-out one."""
    root = tmp_path_factory.mktemp("ablation")
    checkpoint = str(DriveWM.create(TINIEST).save_pretrained(root / "tiniest"))
    for name, seed in (("training", 5), ("validation", 100_001)):
        build_shards([f"town:{seed}"], root / name, ShardSpec(end_s=3.0, min_steps=4),
                     tokenizer=CheckpointCodec(checkpoint))
    return {"checkpoint": checkpoint, **{k: f"shards:{root / k}" for k in ("training", "validation")}}


def line(given: dict[str, str], out: Path, *more: str) -> list[str]:
    sizes = ("data.batch_size=2", "model.window=4", "model.layout_channels=8")
    return ["ablation", "--source", given["training"], "--validation", given["validation"], "--from",
            given["checkpoint"], "--size", "32x1", "--steps", "2", "--windows", "2", "--starts", "2", "--starts-of",
            "town:100001-100006", "--out", str(out), *(part for pair in sizes for part in ("--set", pair)), *more]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_each_change_is_trained_and_measured(given: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    changes = ("--change", "latent: model.latent=true", "--change", "same: objective.agent_weight=0.1")
    assert run(line(given, out, *changes)) == 0
    found = read(out / "ablation.json")
    assert [row["change"] for row in found["trials"]] == [AS_IT_IS, "latent", "same"]
    base, latent, same = found["trials"]
    assert same["loss_nats"] == base["loss_nats"] != latent["loss_nats"]  # what changes nothing is seen to
    assert same["none 3 s"] == base["none 3 s"] and base["copy last 3 s"] == latent["copy last 3 s"]
    assert "+0.00 (+0.00 to +0.00)" in found["differences"][1].values()
    assert "What is each choice worth?" in (out / "report.html").read_text()
    logged = (out / "trials/01/metrics.csv").read_text().splitlines()
    assert "latent" in logged[0] and DriveWM.from_pretrained(out / "trials/01/checkpoint").world.latent_head is not None
    before = (out / "trials/00/trial.json").stat().st_mtime_ns
    (out / "trials/02/trial.json").unlink()
    (out / "ablation.json").unlink()
    assert run(line(given, out, *changes, "--resume")) == 0
    assert (out / "trials/00/trial.json").stat().st_mtime_ns == before
    assert read(out / "ablation.json")["trials"][2]["loss_nats"] == same["loss_nats"]
    assert run(line(given, out, *changes[:2], "--resume")) == 1


def test_what_cannot_be_compared_is_refused_before_anything_is_written(
        given: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "none"
    for more, words in ((("--change", "model.latent=true"), "expected 'NAME: KEY=VALUE"),
                        (("--change", "x: model.latency=true"), "no field"), (("--size", "33x1"), "divides by 32"),
                        (("--run", "tiny_tokenizer"), "needs a run of the world model"),
                        (("--starts-of", given["training"]), "trained on too")):
        assert run(line(given, out, *more)) == 1 and words in capsys.readouterr().err and not out.exists()
    with pytest.raises(InputError, match="expected"):
        parsed(f"{AS_IT_IS}: a=1")
    assert len(dict(map(parsed, CHANGES))) == len(CHANGES)


def test_the_latent_loss_is_of_masked_positions_alone_and_moves_the_guess() -> None:
    torch.manual_seed(0)
    head, hidden, teacher = torch.nn.Linear(8, 8), torch.randn(2, 5, 8, requires_grad=True), torch.randn(2, 5, 8)
    masked = torch.zeros(2, 5, 3, dtype=torch.bool)
    masked[0, 2, 1] = masked[1, 4] = True
    loss = latent_loss(head, hidden, teacher, masked)
    loss.backward()
    assert hidden.grad is not None
    moved = hidden.grad.abs().sum(-1) > 0
    assert torch.equal(moved, masked.any(-1))
    assert float(latent_loss(torch.nn.Identity(), teacher * 3 + 1, teacher * 3 + 1, masked)) > 0  # normalised
    normal = torch.nn.functional.layer_norm(teacher, (8,))
    assert float(latent_loss(torch.nn.Identity(), normal, teacher * 3 + 1, masked)) < 1e-6
