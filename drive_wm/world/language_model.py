"""A pretrained language model as initial weights: the layers of a Llama or Qwen3, and its words as ours.

The layers are the same (RMSNorm, SwiGLU, grouped queries, rotary positions), so they are copied; its rotary positions
run along a text, ours along time, rows and columns, so they are not what it was trained with, and training goes on from
there. Each of our words begins as the mean of its pieces. Needs the package transformers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from drive_wm.encoders.text import WORDS
from drive_wm.types import InputError
from drive_wm.world.model import WorldConfig, WorldModel
from drive_wm.world.transformer import Transformer, TransformerConfig
from drive_wm.world.vocabulary import RANGES

KNOWN = {"llama": False, "qwen3": True}  # whether queries and keys are normalised
FIRST_WORD = 256  # text ids below are bytes


def shaped_like(name: str, config: WorldConfig) -> WorldConfig:
    """The world model's config with transformers of the language model's shape, the expert's too.

    name: a folder as ``save_pretrained`` of transformers writes it, or a hub id. Raises InputError where it cannot be
    read, is of another family than KNOWN, or has biases.
    """
    known = _config(name)
    head = getattr(known, "head_dim", None) or known.hidden_size // known.num_attention_heads
    if head % 16:
        raise InputError(f"{name}: heads of width {head}; expected a multiple of 16, so that rotary pairs can be "
                         "shared out over time, rows and columns")
    eighth = head // 16
    shape = TransformerConfig(
        known.hidden_size, known.num_hidden_layers, known.num_attention_heads, known.num_key_value_heads,
        known.intermediate_size, (3 * eighth, 2 * eighth, 3 * eighth), config.transformer.rope_base, head,
        KNOWN[known.model_type])
    return replace(config, transformer=shape, expert=None)


def begin_from(name: str, model: WorldModel) -> None:
    """Copies layers and words into the world model's transformer and the expert's; raises InputError as above."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _config(name)
    known, tokenizer = (_read(name, kind) for kind in (AutoModelForCausalLM, AutoTokenizer))
    weights = {k.removeprefix("model."): v.float() for k, v in known.state_dict().items()}
    words = torch.stack([weights["embed_tokens.weight"][_pieces(tokenizer, word)].mean(0) for word in WORDS])
    for transformer, table in ((model.transformer, model.table), (model.expert.transformer, model.expert.table)):
        copy_layers(weights, transformer)
        _copy_words(words, table)


def copy_layers(weights: dict[str, Tensor], transformer: Transformer) -> None:
    """weights: a Llama's or Qwen3's, without "model."."""
    made = {"norm.weight": weights["norm.weight"]}
    for i in range(transformer.config.layers):
        old = {k.removeprefix(f"layers.{i}."): v for k, v in weights.items() if k.startswith(f"layers.{i}.")}
        parts = {
            "attention_norm.weight": old["input_layernorm.weight"],
            "attention.qkv.weight": torch.cat([old[f"self_attn.{x}_proj.weight"] for x in "qkv"]),
            "attention.out.weight": old["self_attn.o_proj.weight"],
            "mlp_norm.weight": old["post_attention_layernorm.weight"],
            "mlp.gate_up.weight": torch.cat([old["mlp.gate_proj.weight"], old["mlp.up_proj.weight"]]),
            "mlp.down.weight": old["mlp.down_proj.weight"]}
        if transformer.config.qk_norm:
            parts |= {f"attention.{x}_norm.weight": old[f"self_attn.{x}_norm.weight"] for x in "qk"}
        made |= {f"layers.{i}.{k}": v for k, v in parts.items()}
    transformer.load_state_dict(made)


@torch.no_grad()
def _copy_words(words: Tensor, table: nn.Embedding) -> None:
    """At the scale of the ids that have no word, so that neither drowns the other."""
    start = RANGES["text"].start + FIRST_WORD
    table.weight[start:start + len(words)] = words * (table.weight.std() / words.std())


def _pieces(tokenizer: Any, word: str) -> list[int]:
    ids: list[int] = tokenizer(f" {word}", add_special_tokens=False).input_ids
    return ids


def _config(name: str) -> Any:
    from transformers import AutoConfig

    known = _read(name, AutoConfig)
    if known.model_type not in KNOWN:
        raise InputError(f"language model {name!r} is a {known.model_type}; expected one of {', '.join(KNOWN)} "
                         "(SmolLM2 is a llama)")
    if getattr(known, "attention_bias", False) or getattr(known, "mlp_bias", False):
        raise InputError(f"language model {name!r} has biases, which the transformer here does not have")
    return known


def _read(name: str, kind: Any) -> Any:
    try:
        return kind.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(f"language model {name!r} cannot be read ({str(error).splitlines()[0]}); give a folder as "
                         "transformers saves it, or a hub id") from None


__all__ = ["KNOWN", "begin_from", "copy_layers", "shaped_like"]
