"""Scaling: the law is found again from its own points, and a small ladder is climbed, cut off and resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drive_wm.cli import run
from drive_wm.config import to_json
from drive_wm.datasets.shards import ShardSpec, build_shards
from drive_wm.model import DriveWM, ModelConfig
from drive_wm.presets import transformer
from drive_wm.tokenizer.model import TokenizerConfig
from drive_wm.training.scaling import Ladder, PowerLaw, Size, fit_power_law, tokens_of, validation_loss
from drive_wm.training.tokens import CheckpointCodec
from drive_wm.types import InputError
from drive_wm.use.scaling import scaling
from drive_wm.world.model import WorldConfig

TINIEST = ModelConfig(TokenizerConfig(channels=(8, 8, 16, 16), decoder_blocks=1),
                      WorldConfig(transformer(32, 1), window=4, layout_channels=8))
SIZES = ("64x1", "32x1", "32x2", "64x2")
SETTINGS: dict[str, Any] = {"sizes": SIZES, "steps": 2, "windows": 4, "seed": 1, "overrides": {
    "data.batch_size": "2", "model.window": "4", "model.layout_channels": "8"}}


@pytest.mark.parametrize("law", [PowerLaw(3e9, -0.08, 0.9), PowerLaw(2e4, -0.4, 1.3), PowerLaw(1e7, -0.15, 0.0)])
def test_the_law_is_found_from_its_points(law: PowerLaw) -> None:
    x = np.geomspace(1e6, 1e10, 6)
    found = fit_power_law(list(x), [law(v) for v in x])
    assert found(1e11) == pytest.approx(law(1e11), rel=2e-3)
    if law.c:
        assert (found.c, found.b) == pytest.approx((law.c, law.b), rel=0.03)
        assert np.log(found.a) == pytest.approx(np.log(law.a), rel=0.03)


def test_one_run_gone_wrong_does_not_turn_the_law() -> None:
    law, x = PowerLaw(2e4, -0.4, 1.3), list(np.geomspace(1e5, 1e10, 8))
    loss = [law(v) for v in x]
    loss[3] *= 1.2
    assert fit_power_law(x, loss)(1e11) == pytest.approx(law(1e11), rel=0.01)


def test_too_little_is_no_law() -> None:
    for x, loss, words in (([1.0, 2.0], [3.0, 2.0], "at least 3 different sizes, got 2"),
                           ([1.0, 1.0, 2.0], [3.0, 3.0, 2.0], "got 2 with 3"),
                           ([1.0, 2.0, 3.0], [3.0, 2.0], "2 losses"),
                           ([1.0, 2.0, 3.0], [3.0, 2.0, float("nan")], "finite")):
        with pytest.raises(InputError, match=words):
            fit_power_law(x, loss)


@pytest.mark.parametrize("text, words", [("64", "WIDTHxLAYERS"), ("64x", "WIDTHxLAYERS"), ("50x2", "divides by 32"),
                                         ("64x0", "at least one layer")])
def test_a_size_that_cannot_be(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Size.parse(text)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(DriveWM.create(TINIEST).save_pretrained(tmp_path_factory.mktemp("model") / "tiniest"))


@pytest.fixture(scope="module")
def shards(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tokens of a drive to learn from, and of one of the town's validation seeds."""
    root = tmp_path_factory.mktemp("shards")
    for name, seed in (("training", 5), ("validation", 100_001)):
        build_shards([f"town:{seed}"], root / name, ShardSpec(end_s=3.0, min_steps=4),
                     tokenizer=CheckpointCodec(checkpoint))
    return {name: f"shards:{root / name}" for name in ("training", "validation")}


@pytest.fixture(scope="module")
def climbed(checkpoint: str, shards: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ladder") / "run"
    scaling(out, [shards["training"]], [shards["validation"]], checkpoint, **SETTINGS)
    return out


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_ladder_foretells_its_largest_size(climbed: Path) -> None:
    result, said = read(climbed / "scaling.json"), read(climbed / "prediction.json")
    assert [row["size"] for row in result["sizes"]] == ["32x1", "32x2", "64x1", "64x2"]
    assert result["held_out"] == said["size"] == "64x2"
    x, loss = ([row[name] for row in result["sizes"]] for name in ("training_flops", "loss_nats"))
    assert x == sorted(x) and all(0.5 < v < 4 for v in loss)  # digits of eight levels: log 8 is 2.08
    law = result["laws"][0]
    assert law["over"] == "training_flops" and law["truth"] == loss[-1]
    assert law["predicted"] == pytest.approx(fit_power_law(x[:3], loss[:3])(x[3]))  # of the three that are not it
    assert law["error_percent"] == pytest.approx(100 * (law["predicted"] / loss[-1] - 1))
    written = (climbed / "prediction.json").stat().st_mtime_ns
    assert (climbed / "rungs/64x1/rung.json").stat().st_mtime_ns < written
    assert (climbed / "rungs/64x2/metrics.csv").stat().st_mtime_ns > written  # before it was trained
    assert "Foretold and found" in (climbed / "report.html").read_text()
    summary = read(climbed / "summary.json")
    assert summary["complete"] and {"rungs.parquet", "rungs/32x1/checkpoint/world.safetensors"} <= set(summary["files"])
    assert not list(climbed.glob("rungs/*/state"))


def test_a_ladder_cut_off_is_resumed(climbed: Path, checkpoint: str, shards: dict[str, str], tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(climbed, cut)
    shutil.rmtree(cut / "rungs" / "64x2")
    for name in ("scaling.json", "rungs.parquet", "report.html"):
        (cut / name).unlink()
    kept = (cut / "rungs/32x1/rung.json").stat().st_mtime_ns
    given = ([shards["training"]], [shards["validation"]], checkpoint)
    with pytest.raises(InputError, match="begun with another steps"):
        scaling(cut, *given, resume=True, **(SETTINGS | {"steps": 3}))
    again = scaling(cut, *given, resume=True, **SETTINGS)
    assert (cut / "rungs/32x1/rung.json").stat().st_mtime_ns == kept
    before = read(climbed / "scaling.json")
    assert again["laws"] == before["laws"] and again["sizes"][-1]["loss_nats"] == before["sizes"][-1]["loss_nats"]


def test_the_loss_is_of_held_out_windows_and_repeats(climbed: Path, shards: dict[str, str]) -> None:
    model = DriveWM.from_pretrained(climbed / "rungs" / "64x2" / "checkpoint")
    one, two = (validation_loss(model, [shards["validation"]], 2, 2, seed=1) for _ in range(2))
    assert one == two and one[0] == read(climbed / "scaling.json")["sizes"][-1]["loss_nats"]
    assert validation_loss(model, [shards["training"]], 2, 2, seed=1)[0] != one[0]
    trained = read(climbed / "rungs/64x2/config.json")["run"]
    assert trained["data"]["sources"] == [shards["training"]]
    assert trained["model"]["transformer"] == to_json(transformer(64, 2))


def test_what_cannot_be_a_ladder_is_refused_before_anything_is_written(
        checkpoint: str, shards: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "none"
    held = ("--validation", shards["validation"])
    for options, words in ((("--size", "32x1", "--size", "64x1"), "at least 4"),
                           (("--set", "stepz=3", *held), "no field"), (("--from", "absent", *held), "no checkpoint"),
                           (("--run", "tiny_tokenizer", *held), "needs a run of the world model"),
                           (("--validation", shards["training"]), "trained on too")):
        line = ["scaling", "--source", shards["training"], "--from", checkpoint, "--out", str(out), *options]
        assert run(line) == 1 and words in capsys.readouterr().err and not out.exists()
    assert run(["scaling", "--resume"]) == 2


def test_tokens_of_another_tokenizer_are_refused(shards: dict[str, str], checkpoint: str, tmp_path: Path) -> None:
    other = DriveWM.create(TINIEST, seed=9).save_pretrained(tmp_path / "other")
    config = Ladder("tiny_world", str(other), (), (), 2, 4, 0, {}).config(Size(32, 1))
    with pytest.raises(InputError, match="tokens of another tokenizer"):
        tokens_of([shards["training"]], tmp_path / "tokens", str(other), config)
    assert tokens_of([shards["training"]], tmp_path / "tokens", checkpoint, config) == (shards["training"],)
