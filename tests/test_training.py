"""Objectives and runs: a killed run resumed equals one that was not, nothing half-written, clear refusals."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from drive_wm.datasets.clips import make_clip
from drive_wm.datasets.shards import Shard, ShardSpec, WindowSampler, build_shards, find_shards
from drive_wm.datasets.town import generate
from drive_wm.model import DriveWM, ModelConfig
from drive_wm.tokenizer.model import TokenizerConfig
from drive_wm.training.objectives import ObjectiveConfig, mask_steps
from drive_wm.types import InputError
from drive_wm.world.inputs import steps_from_clips
from drive_wm.world.model import WorldConfig
from drive_wm.world.transformer import TransformerConfig

SMALL = ModelConfig(
    TokenizerConfig(channels=(8, 8, 16, 16), decoder_blocks=1),
    WorldConfig(TransformerConfig(width=32, layers=1, heads=2, kv_heads=1, mlp=32, rope_pairs=(3, 2, 3)), window=4,
                layout_channels=8))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "town_5-6"
    build_shards(["town:5-6"], folder, ShardSpec(end_s=4.0, min_steps=4))
    (folder / "complete").write_text("town:5-6")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return DriveWM.create(SMALL).save_pretrained(tmp_path_factory.mktemp("model") / "small")


def test_a_shard_holds_what_the_clip_did(shards: Path) -> None:
    shard = Shard(shards / "town-000005.0.safetensors")
    clip, route = shard.read(1, 3, [2, 0])
    log = generate(5)
    truth = make_clip(log, log.start_us, 9, 2.0, layout=True)
    names = (truth.rig.names[2], truth.rig.names[0])
    assert clip.rig.names == names and route.shape == (3, 8, 2)
    for name in names:
        assert np.array_equal(clip.frames[name], truth.frames[name][1:4])
        assert clip.layout is not None and truth.layout is not None
        assert np.array_equal(clip.layout[name], truth.layout[name][1:4])
    assert np.allclose(clip.actions, truth.actions[1:3]) and clip.agent_ids == truth.agent_ids
    assert clip.reasons == truth.reasons[1:4]


def test_a_batch_is_a_function_of_its_step(shards: Path) -> None:
    one, two = (WindowSampler([find_shards(shards)], 4, 2, seed=3) for _ in range(2))
    for step in (7, 0, 7):
        a, b = one.batch(step), two.batch(step)
        assert [s.clip.log_id for s in a] == [s.clip.log_id for s in b]
        assert all(np.array_equal(x.clip.timestamps_us, y.clip.timestamps_us) for x, y in zip(a, b))
    times = [one.batch(k)[0].clip.timestamps_us for k in range(1, 8)]
    assert any(not np.array_equal(times[0], t) for t in times[1:])


def test_a_damaged_shard_says_so(shards: Path, tmp_path: Path) -> None:
    broken = tmp_path / "x.safetensors"
    broken.write_bytes((shards / "town-000005.0.safetensors").read_bytes()[:1000])
    with pytest.raises(InputError, match="not a readable shard"):
        Shard(broken)


def test_masks_follow_the_schedule(shards: Path) -> None:
    samples = WindowSampler([find_shards(shards)], 4, 64, seed=0, camera_dropout=0).batch(0)
    tokenizer = DriveWM.create(SMALL).tokenizer
    with torch.no_grad():
        steps = steps_from_clips([s.clip for s in samples], tokenizer, torch.device("cpu"), 16)
    torch.manual_seed(0)
    masked = mask_steps(steps, ObjectiveConfig(alternate=1.0), 3).any(-1).any(-1)
    assert not masked[:, 0].any()  # nothing leads to the first step
    assert not (masked[:, 1:] & masked[:, :-1]).any()
    last = mask_steps(steps, ObjectiveConfig(alternate=0.0), 3).any(-1).any(-1)
    assert last[:, 3].float().mean() > 0.9 and not last[:, 0].any()


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from drive_wm.training.train import train_world
train_world("tiny_world", out=sys.argv[1], from_=sys.argv[2], seed=4, resume=len(sys.argv) > 4, sources=["town:5-6"],
            overrides={"steps": "6", "checkpoint_every": "2", "sheet_every": "100", "data.batch_size": "2",
                       "data.shards": sys.argv[3]})
"""


def losses(path: Path) -> list[str]:
    return [line.split(",", 1)[1] for line in path.read_text().splitlines()[1:]]


def test_a_killed_run_resumed_is_the_run_that_was_not(shards: Path, checkpoint: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    whole = [sys.executable, "-c", SCRIPT, str(tmp_path / "whole"), str(checkpoint), str(shards.parent)]
    subprocess.run(whole, env=environment, check=True, capture_output=True, timeout=300)
    cut = [sys.executable, "-c", SCRIPT, str(tmp_path / "cut"), str(checkpoint), str(shards.parent)]
    process = subprocess.Popen(cut, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pointer = tmp_path / "cut" / "state" / "last.json"
    while process.poll() is None and not pointer.exists():
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([*cut, "resume"], env=environment, check=True, capture_output=True, timeout=300)
    assert losses(tmp_path / "cut" / "metrics.csv") == losses(tmp_path / "whole" / "metrics.csv")
    one, two = ((tmp_path / n / "checkpoint" / "world.safetensors").read_bytes() for n in ("cut", "whole"))
    assert one == two
    assert not list((tmp_path / "cut").rglob("*.tmp"))


def test_a_run_is_not_overwritten(shards: Path, checkpoint: Path, tmp_path: Path) -> None:
    from drive_wm.training.train import train_tokenizer, train_world

    (tmp_path / "state").mkdir()
    with pytest.raises(InputError, match="--resume"):
        train_world("tiny_world", out=tmp_path, from_=str(checkpoint))
    with pytest.raises(InputError, match="not a TokenizerRun"):
        train_tokenizer("tiny_world", out=tmp_path / "x")
    with pytest.raises(InputError, match="did you mean"):
        train_world("tiny_wrld", out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_checkpoint_comes_back_and_a_damaged_one_says_so(checkpoint: Path, tmp_path: Path) -> None:
    model = DriveWM.from_pretrained(checkpoint)
    again = DriveWM.from_pretrained(model.save_pretrained(tmp_path / "again"))
    for a, b in zip(model.world.parameters(), again.world.parameters()):
        assert torch.equal(a, b)
    weights = tmp_path / "again" / "world.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged"):
        DriveWM.from_pretrained(tmp_path / "again")
    meta = json.loads((tmp_path / "again" / "config.json").read_text())
    (tmp_path / "again" / "config.json").write_text(json.dumps(meta | {"format": "other"}))
    with pytest.raises(InputError, match="format 'other'"):
        DriveWM.from_pretrained(tmp_path / "again")
    with pytest.raises(InputError, match="no checkpoint 'tinny'"):
        DriveWM.from_pretrained("tinny")
