"""The picture decoder: what it may look at, what it learns from, and that pictures live on from step to step."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from drive_wm.datasets.shards import ShardSpec
from drive_wm.decoder.model import DecoderConfig, PictureDecoder
from drive_wm.model import DriveWM, ModelConfig, Sampling
from drive_wm.scene import load_log, open_scene
from drive_wm.tokenizer.model import TokenizerConfig
from drive_wm.training.decoder import DecoderRun, train_decoder
from drive_wm.training.optimizer import OptimizerConfig
from drive_wm.types import InputError
from drive_wm.world.model import WorldConfig
from drive_wm.world.transformer import TransformerConfig

SMALL = ModelConfig(
    TokenizerConfig(channels=(8, 8, 16, 16), decoder_blocks=1),
    WorldConfig(TransformerConfig(width=32, layers=1, heads=2, kv_heads=1, mlp=32, rope_pairs=(3, 2, 3)), window=4,
                layout_channels=8))
RUN = DecoderRun(model=DecoderConfig((16, 16), 1), sources=("town:0-1",), check=("town:100000-100000",), steps=40,
                 batch=16, spec=ShardSpec(end_s=3.5), optimizer=OptimizerConfig(lr=3e-3, warmup=5))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, float]]]:
    root = tmp_path_factory.mktemp("decoder")
    DriveWM.create(SMALL).save_pretrained(root / "small")
    return root / "sharp", train_decoder(str(root / "small"), root / "sharp", run=RUN)["check"]


def test_an_unknown_layout_is_not_looked_at() -> None:
    torch.manual_seed(0)
    decoder = PictureDecoder(DecoderConfig((16, 16), 1)).eval()
    for parameter in decoder.parameters():  # the last layer begins at zero
        torch.nn.init.normal_(parameter, std=0.2)
    decoded, carried, one, two = torch.rand(4, 2, 3, 32, 32)
    known = torch.tensor([False, True])
    a, b = (decoder(decoded, carried, layout, known) for layout in (one, two))
    assert torch.equal(a[0], b[0]) and not torch.allclose(a[1], b[1])


def test_it_learns_to_take_over_what_was_seen(trained: tuple[Path, dict[str, dict[str, float]]]) -> None:
    """The tokens are those of random weights and stand for nothing, so what is right must come from elsewhere."""
    for values in trained[1].values():
        assert values["decoder_db"] > values["tokens_db"] + 3


def test_a_checkpoint_keeps_it(trained: tuple[Path, dict[str, dict[str, float]]]) -> None:
    model = DriveWM.from_pretrained(trained[0])
    assert list(model.parts) == ["tokenizer", "world", "expert", "decoder"] and model.config.decoder == RUN.model
    assert json.loads((trained[0] / "decoder.json").read_text())["check"] == trained[1]
    with pytest.raises(InputError, match="not empty"):
        train_decoder("tiny", trained[0], run=RUN)


def test_its_pictures_are_carried_on(trained: tuple[Path, dict[str, dict[str, float]]]) -> None:
    """The tokens of a first step are the same without it; what it made of them changes the second."""
    sharp = DriveWM.from_pretrained(trained[0])
    blunt = DriveWM(sharp.config, sharp.tokenizer, sharp.world)
    assert blunt.config == replace(sharp.config, decoder=None)
    scene = open_scene(load_log("town:110003", None), sharp, 3.0)
    actions = np.tile(scene.last_action, (2, 1))
    a, b = (list(m.rollout(scene.context, actions, sampling=Sampling(passes=1, temperature=0.0)))
            for m in (sharp, blunt))
    assert np.array_equal(a[0].digits, b[0].digits) and not np.array_equal(a[1].digits, b[1].digits)
    assert not np.array_equal(a[0].frames["CAM_FRONT"], b[0].frames["CAM_FRONT"])
