"""A language model as initial weights: the copied layers say what its own say, and training goes on from there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from drive_wm.encoders.text import WORDS, word_id
from drive_wm.model import DriveWM, ModelConfig
from drive_wm.tokenizer.model import TokenizerConfig
from drive_wm.training.train import train_world
from drive_wm.types import InputError
from drive_wm.world.language_model import KNOWN, begin_from, copy_layers, shaped_like
from drive_wm.world.model import WorldConfig, WorldModel
from drive_wm.world.transformer import Span, Transformer
from drive_wm.world.vocabulary import RANGES

transformers = pytest.importorskip("transformers")
SHAPE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 96, "head_dim": 16, "vocab_size": 400, "max_position_embeddings": 128}


def saved(folder: Path, family: str) -> Path:
    """A small model of random weights and a tokenizer of bytes, as transformers saves them."""
    from tokenizers import ByteLevelBPETokenizer

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **SHAPE)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator([" ".join(WORDS)] * 3, vocab_size=400, show_progress=False)
    transformers.PreTrainedTokenizerFast(tokenizer_object=pieces._tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=sorted(KNOWN))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp(request.param), request.param)


def test_the_copied_layers_say_what_the_model_says(folder: Path) -> None:
    config = shaped_like(str(folder), WorldConfig())
    assert config.transformer.qk_norm == (folder.name.startswith("qwen3")) and config.expert is None
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    along = replace(config.transformer, rope_pairs=(8, 0, 0), rope_base=10_000.0)  # as along a text
    ours = Transformer(along)
    copy_layers({k.removeprefix("model."): v for k, v in theirs.state_dict().items()}, ours)
    ids = torch.randint(0, 400, (2, 9))
    positions = torch.stack([torch.arange(9), torch.zeros(9), torch.zeros(9)], -1)
    with torch.no_grad():
        embedded = theirs.get_input_embeddings()(ids)
        hidden, _ = ours(embedded, positions, [Span(0, 9, causal=True)])
        expected = theirs.model(inputs_embeds=embedded).last_hidden_state
    assert torch.allclose(hidden, expected, atol=2e-4)


def test_words_begin_as_the_mean_of_their_pieces(folder: Path) -> None:
    world = WorldModel(shaped_like(str(folder), WorldConfig(layout_channels=8)))
    begin_from(str(folder), world)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight
    pieces = transformers.AutoTokenizer.from_pretrained(folder)
    means = torch.stack([theirs[pieces(f" {w}").input_ids].mean(0) for w in ("pedestrian", "red")])
    for table in (world.table, world.expert.table):
        rows = table.weight[[RANGES["text"].start + word_id(w) for w in ("pedestrian", "red")]]
        assert torch.allclose(torch.cosine_similarity(rows, means), torch.ones(2), atol=1e-4)
        assert 0.5 < float(rows.std() / table.weight.std()) < 2


def test_training_begins_from_it(folder: Path, tmp_path: Path) -> None:
    tokenizer = TokenizerConfig(channels=(8, 8, 16, 16), decoder_blocks=1)
    DriveWM.create(ModelConfig(tokenizer)).save_pretrained(tmp_path / "eyes")
    settings = {"language_model": str(folder), "tokenizer": str(tmp_path / "eyes"), "steps": "2", "data.end_s": "6",
                "data.width": "64", "data.height": "32", "data.batch_size": "1", "task_share": "0.5"}
    done = train_world("tiny_world", sources=["town:7"], out=tmp_path / "run", overrides=settings)
    assert done["steps"] == 2
    made = DriveWM.from_pretrained(tmp_path / "run" / "checkpoint").config.world
    assert made.transformer.width == 64 and made.transformer.layers == 2 and made.expert is None
    with pytest.raises(InputError, match="give one of both"):
        train_world("tiny_world", sources=["town:7"], out=tmp_path / "other", overrides=settings,
                    from_=str(tmp_path / "run" / "checkpoint"))


def test_what_it_cannot_begin_from_is_named(tmp_path: Path) -> None:
    transformers.AutoConfig.for_model("gpt2").save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="is a gpt2; expected one of llama, qwen3"):
        shaped_like(str(tmp_path / "other"), WorldConfig())
    with pytest.raises(InputError, match="cannot be read"):
        shaped_like(str(tmp_path / "nothing"), WorldConfig())
    transformers.AutoConfig.for_model("llama", **SHAPE, attention_bias=True).save_pretrained(tmp_path / "biased")
    with pytest.raises(InputError, match="has biases"):
        shaped_like(str(tmp_path / "biased"), WorldConfig())
