"""Presets have the size that their names promise, and what they are said to cost is what torch counts."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from drive_wm.cli import run
from drive_wm.config import find_run
from drive_wm.costs import Costs, costs_of, count, figures
from drive_wm.model import ModelConfig
from drive_wm.presets import GAIA1_PAPER, PRESETS, tiny, transformer
from drive_wm.tokenizer.model import TokenizerConfig
from drive_wm.types import InputError
from drive_wm.use import info
from drive_wm.world.model import CAPTION_LENGTH, Steps, WorldConfig

SMALL = ModelConfig(TokenizerConfig(channels=(8, 8, 16, 16), decoder_blocks=1),
                    WorldConfig(transformer(64, 2), window=3, agents=2, layout_channels=8), width=64, height=48)


@functools.cache
def costs_of_preset(name: str) -> Costs:
    return costs_of(PRESETS[name].config(), PRESETS[name].cameras)


@pytest.mark.parametrize("name, tokenizer, world", [
    ("tiny", (5e6, 12e6), (5e6, 10e6)), ("small", (10e6, 25e6), (80e6, 120e6)), ("base", (10e6, 25e6), (0.9e9, 1.2e9)),
    ("gaia1", (0.285e9, 0.315e9), (6.3e9, 6.7e9))])
def test_a_preset_has_its_size(name: str, tokenizer: tuple[float, float], world: tuple[float, float]) -> None:
    costs = costs_of_preset(name)
    assert tokenizer[0] < count(costs.tokenizer) < tokenizer[1] and world[0] < costs.world_parameters < world[1]
    assert all(p.is_meta for p in costs.world.parameters())


def test_names_and_proportions() -> None:
    assert set(PRESETS) == {"tiny", "small", "base", "gaia1"} and tiny() == ModelConfig()
    assert transformer(256, 6) == ModelConfig().world.transformer  # the rule gives the size that was measured
    for width, layers in ((100, 2), (64, 0), (0, 1)):
        with pytest.raises(InputError, match="expected a width that divides by 32"):
            transformer(width, layers)
    with pytest.raises(InputError, match="at least one"):
        costs_of(SMALL, 0)


def test_gaia1_is_laid_out_as_in_the_paper() -> None:
    costs = costs_of_preset("gaia1")
    assert (costs.camera_positions, costs.config.world.window, costs.config.rate_hz) == (18 * 32, 26, 6.25)
    assert costs.config.tokenizer.fsq.vocabulary == 8192 and costs.config.tokenizer.fsq.codes == 1
    tables = figures(costs, GAIA1_PAPER)
    compared = {row["what"]: row for rows in tables.values() for row in rows if row["paper"] is not None}
    assert set(compared) == set(GAIA1_PAPER)  # every figure of the paper stands beside one of ours
    assert compared["video decoder"]["value"] is None
    for what in ("tokenizer", "world model", "positions a sequence", "  of it 6 N"):
        assert compared[what]["value"] == pytest.approx(compared[what]["paper"], rel=0.08)


def steps_of(costs: Costs, t: int) -> Steps:
    """A batch of one, of nothing, on the meta device; every frame token is masked."""
    config, p = costs.config, costs.frame_positions
    fsq, agents = config.tokenizer.fsq, config.world.agents
    rows, columns = config.height // 16, config.width // 16
    empty: Any = torch.zeros
    return Steps(
        digits=empty(1, t, p, fsq.dims, dtype=torch.long), masked=empty(1, t, p, fsq.codes, dtype=torch.bool),
        seen=empty(1, t, p, dtype=torch.bool), noise=empty(1, t), actions=empty(1, t, 2),
        actions_valid=empty(1, t, dtype=torch.bool), dt_s=empty(1), agents=empty(1, t, agents, 12),
        agents_valid=empty(1, t, agents, dtype=torch.bool),
        layout=[empty(1, t, 3, config.height, config.width)] * costs.cameras, layout_valid=empty(1, dtype=torch.bool),
        rays=empty(p, costs.world.ray[0].in_features), cells=empty(p, 2, dtype=torch.long),
        grids=[(rows, columns)] * costs.cameras)


def test_operations_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    costs = costs_of(SMALL, 2)
    assert costs.step_positions == 2 + 2 + 2 * 12 and costs.sequence_positions == CAPTION_LENGTH + 3 * 28
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        hidden, _ = costs.world(torch.zeros(1, CAPTION_LENGTH, dtype=torch.long), steps_of(costs, 3))
        costs.world.digit_logits(costs.world.frame_hidden(hidden))
    assert costs.training_flops() == pytest.approx(3 * counter.get_total_flops(), rel=0.05)


def test_a_generated_step_costs_its_passes_and_its_cache() -> None:
    costs = costs_of(SMALL, 2)
    more = costs.step_flops(5) - costs.step_flops(4)
    assert more > 28 * costs.flops_of_parameters()  # and attention to 90 positions, and the head
    assert more == pytest.approx(28 * costs.flops_of_parameters() + 4 * 2 * 64 * 28 * 90 + 2 * 64 * 96 * 24)
    assert costs.cache_bytes() == 2 * 2 * 1 * 32 * 2 * (6 + 2 * 28)  # k and v, layers, one key head of 32, two bytes


def test_info_knows_presets_and_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    """In the figures of gaia1 stands the paper's column; a size without weights is not filled."""
    big = info("gaia1")
    assert big["preset"] == "gaia1" and "checkpoint" not in big and "16 agents" in big["compared"]
    assert big["parameters"][0].keys() == {"what", "value", "unit", "paper"}
    shipped = info("tiny", cameras=1)
    assert shipped["checkpoint"] == "tiny" and "paper" not in shipped["sequence"][0]
    assert {row["what"]: row["value"] for row in shipped["sequence"]}["frame positions a step"] == 28
    assert run(["info", "--from", "small"]) == 0
    out = capsys.readouterr().out
    assert "positions a step" in out and "GFLOP" in out and "keys and values" in out
    with pytest.raises(InputError, match="no checkpoint 'gaia': .* or a preset .tiny, small, base, gaia1"):
        info("gaia")


def test_the_runs_train_what_the_presets_are() -> None:
    for name, part in (("tiny_tokenizer", "tokenizer"), ("tiny_world", "world"), ("small_tokenizer", "tokenizer"),
                       ("small_world", "world"), ("base_world", "world")):
        run_config, preset = find_run(name)(), PRESETS[name.partition("_")[0]].config()
        assert run_config.name == name and run_config.model == getattr(preset, part)
        assert (run_config.data.width, run_config.data.height) == (preset.width, preset.height)
