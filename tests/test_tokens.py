"""Tokens packed once are what training would have encoded, and no other tokenizer's are taken."""

from pathlib import Path

import numpy as np
import pytest
import torch

from drive_wm.datasets.shard_file import write_shard
from drive_wm.datasets.shards import ShardSpec, WindowSampler, build_shards, find_shards
from drive_wm.model import DriveWM, ModelConfig
from drive_wm.tokenizer.model import TokenizerConfig
from drive_wm.training.tokens import CheckpointCodec, fingerprint
from drive_wm.training.train import train_tokenizer, train_world
from drive_wm.types import ByteArray, Camera, Clip, InputError, Rig
from drive_wm.world.inputs import steps_from_clips
from drive_wm.world.model import WorldConfig
from drive_wm.world.transformer import TransformerConfig

SMALL = ModelConfig(
    TokenizerConfig(channels=(8, 8, 16, 16), decoder_blocks=1),
    WorldConfig(TransformerConfig(width=32, layers=1, heads=2, kv_heads=1, mlp=32, rope_pairs=(3, 2, 3)), window=4,
                layout_channels=8))
SETTINGS = {"steps": "2", "data.batch_size": "2", "sheet_every": "2"}


def blocks_clip(steps: int, seed: int) -> Clip:
    """Two cameras of 112 x 64 that see random blocks; the ego drives straight at 5 m/s."""
    rng, matrix = np.random.default_rng(seed), np.array([[60.0, 0, 56], [0, 60, 32], [0, 0, 1]])
    rig = Rig("r", tuple(Camera(name, 112, 64, matrix, np.eye(4)) for name in ("a", "b")))

    def images() -> ByteArray:
        small = rng.integers(0, 256, (steps, 8, 14, 3))
        return np.asarray(small.repeat(8, 1).repeat(8, 2), np.uint8)

    ego = np.tile(np.eye(4), (steps, 1, 1))
    ego[:, 0, 3] = np.arange(steps) * 2.5
    return Clip(f"log{seed}", rig, 2.0, np.arange(steps) * 500_000, {"a": images(), "b": images()},
                np.ones((steps, 2), bool), ego, np.ones(steps, bool), np.tile([5.0, 0.0], (steps - 1, 1)),
                np.ones(steps - 1, bool), np.zeros((steps, 0, 12)), np.zeros((steps, 0), bool),
                layout={"a": images(), "b": images()})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """frames: packed clips; tokens: the same as tokens of the checkpoint ``small``."""
    root = tmp_path_factory.mktemp("tokens")
    DriveWM.create(SMALL).save_pretrained(root / "small")
    (root / "frames").mkdir()
    for seed in range(2):
        write_shard(blocks_clip(9, seed), np.zeros((9, 8, 2)), "test:", root / "frames" / f"{seed}.safetensors")
    tokenizer = CheckpointCodec(str(root / "small"))
    build_shards([f"shards:{root / 'frames'}"], root / "tokens", ShardSpec(codec="lz4"), tokenizer=tokenizer)
    return root


def test_packed_tokens_are_those_of_the_frames(folder: Path) -> None:
    tokenizer, digits = DriveWM.from_pretrained(folder / "small").tokenizer, []
    for kind in ("frames", "tokens"):
        shards = find_shards(folder / kind)
        assert {shard.facts.tokenizer for shard in shards} == {"" if kind == "frames" else fingerprint(tokenizer)}
        samples = WindowSampler([shards], 4, 2, seed=1, camera_dropout=1.0).batch(0)
        with torch.autocast("cpu", torch.bfloat16):  # as training and packing do
            digits.append(steps_from_clips([s.clip for s in samples], tokenizer, torch.device("cpu"), 16).digits)
    assert torch.equal(digits[0], digits[1])
    frames, tokens = (sum(path.stat().st_size for path in (folder / kind).glob("*.safetensors"))
                      for kind in ("frames", "tokens"))
    assert tokens < frames / 8


def test_a_world_model_trains_on_tokens(folder: Path, tmp_path: Path) -> None:
    summary = train_world("tiny_world", out=tmp_path, from_=str(folder / "small"), overrides=SETTINGS,
                          sources=[f"shards:{folder / 'tokens'}"])
    assert summary["steps"] == 2 and np.isfinite(summary["loss"])
    assert list((tmp_path / "sheets").glob("*.png"))


def test_tokens_are_refused_where_they_do_not_belong(folder: Path, tmp_path: Path) -> None:
    source = [f"shards:{folder / 'tokens'}"]
    with pytest.raises(InputError, match="tokens of another tokenizer"):
        train_tokenizer("tiny_tokenizer", out=tmp_path / "a", from_=str(folder / "small"), overrides=SETTINGS,
                        sources=source)
    other = DriveWM.create(SMALL, seed=1).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="tokens of another tokenizer"):
        train_world("tiny_world", out=tmp_path / "b", from_=str(other), overrides=SETTINGS, sources=source)
