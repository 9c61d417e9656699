"""What a model of some size costs: parameters by part, lengths, floating-point operations, memory. Nothing is computed.

One multiplication and one addition count as two operations (FLOPs). N parameters that multiply each position cost 2 N
forwards and 6 N with the backward pass (Kaplan et al., 2020, section 2.1); attention adds 4 and 12 times layers x width
x the positions that are looked at (Chowdhery et al., 2022, PaLM, appendix B, which takes the whole sequence for these;
here they are the positions up to the end of the own step). N is of the matrices of the transformer, and for frame
positions also those of layout, motion prior and head; tables, norms and what is computed once a step are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from drive_wm.model import ModelConfig
from drive_wm.tokenizer.model import STRIDE, FrameTokenizer
from drive_wm.types import InputError
from drive_wm.world.decode import Sampling
from drive_wm.world.model import CAPTION_LENGTH, WorldModel

BFLOAT16, FLOAT32 = 2, 4  # bytes


@dataclass(frozen=True)
class Costs:
    """A model on the meta device (no memory, no weights) with a number of cameras of the config's image size."""

    config: ModelConfig
    tokenizer: FrameTokenizer
    world: WorldModel
    cameras: int

    @property
    def camera_positions(self) -> int:
        return (self.config.height // STRIDE) * (self.config.width // STRIDE)

    @property
    def frame_positions(self) -> int:
        return self.cameras * self.camera_positions

    @property
    def step_positions(self) -> int:
        """Two of the action, one an agent, and those of every camera."""
        return 2 + self.config.world.agents + self.frame_positions

    @property
    def sequence_positions(self) -> int:
        return CAPTION_LENGTH + self.config.world.window * self.step_positions

    def training_flops(self) -> float:
        """Forward and backward pass of one sequence of a whole window, layout and prior at every step."""
        s, caption, window = self.step_positions, CAPTION_LENGTH, self.config.world.window
        looked_at = caption * caption + sum(s * (caption + (t + 1) * s) for t in range(window))
        forward = 2 * self._transformer * self.sequence_positions + self._attention(looked_at)
        return 3 * (forward + 2 * (self._layout + self._prior + self._head) * window * self.frame_positions)

    def flops_of_parameters(self) -> float:
        """The 2 N of a position in one forward pass, N of the transformer's matrices alone."""
        return 2.0 * self._transformer

    def step_flops(self, passes: int) -> float:
        """A generated step behind a full window: what it is told once, ``passes`` guesses, and the pass that reads it.

        Then every camera's picture is decoded, and what it shows of the next step is encoded.
        """
        s = self.step_positions
        one = 2 * self._transformer * s + self._attention(s * (CAPTION_LENGTH + self.config.world.window * s))
        frame = self.frame_positions * (2 * self._layout + self._prior + passes * self._head)
        return (passes + 1) * one + 2 * frame + self.cameras * self.tokenizer_flops()

    def tokenizer_flops(self) -> float:
        """Encoding and decoding one image, counted by torch operation by operation."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            latents = self.tokenizer.latents(torch.empty(1, 3, self.config.height, self.config.width, device="meta"))
            self.tokenizer.decode_values(latents)
        return float(counter.get_total_flops())

    def cache_bytes(self) -> int:
        """Keys and values in bfloat16 of the caption and of all steps of the window but the one that is generated."""
        t = self.config.world.transformer
        steps = (self.config.world.window - 1) * self.step_positions
        return 2 * t.layers * t.kv_heads * t.head * BFLOAT16 * (CAPTION_LENGTH + steps)

    @property
    def world_parameters(self) -> int:
        """Without the task expert."""
        return count(self.world) - count(self.world.expert)

    def weight_bytes(self) -> int:
        return BFLOAT16 * (count(self.tokenizer) + count(self.world))

    def training_bytes(self) -> int:
        """World model in training, float32: weights, their running mean, gradients, Muon's momentum; no activations."""
        return 4 * FLOAT32 * count(self.world) + BFLOAT16 * count(self.tokenizer)

    @property
    def _transformer(self) -> int:
        return matrices(self.world.transformer.modules())

    @property
    def _layout(self) -> int:
        """Its convolutions work on 4 x 4, 2 x 2 and one place a position."""
        convolutions = [m for m in self.world.layout.modules() if isinstance(m, nn.Conv2d)]
        return sum(places * matrices([m]) for places, m in zip((16, 4, 1), convolutions, strict=True))

    @property
    def _prior(self) -> int:
        return matrices([self.world.prior.mix1, self.world.prior.mix2])

    @property
    def _head(self) -> int:
        return matrices([self.world.frame_head])

    def _attention(self, pairs: int) -> float:
        """Forwards, of so many pairs of a position and one that it looks at."""
        return 4.0 * self.config.world.transformer.layers * self.config.world.transformer.width * pairs


def costs_of(config: ModelConfig, cameras: int = 6) -> Costs:
    """Raises InputError for no camera, or an image that does not divide by the stride."""
    if cameras < 1 or config.height % STRIDE or config.width % STRIDE:
        raise InputError(f"{cameras} cameras of {config.height} x {config.width}: expected at least one, and a size "
                         f"that divides by {STRIDE}")
    with torch.device("meta"):
        return Costs(config, FrameTokenizer(config.tokenizer), WorldModel(config.world), cameras)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def matrices(modules: Iterable[nn.Module]) -> int:
    """Weights of linear layers and convolutions; biases and norms cost next to nothing."""
    return sum(m.weight.numel() for m in modules if isinstance(m, (nn.Linear, nn.Conv2d)))


def figures(costs: Costs, paper: Mapping[str, float] | None = None) -> dict[str, list[dict[str, Any]]]:
    """Tables of what, value, unit; paper: name -> the value that another model's authors give, as a column beside."""
    config, passes = costs.config, Sampling().passes
    world, fsq = config.world, config.tokenizer.fsq
    length, window = costs.sequence_positions, world.window
    training, world_parameters = costs.training_flops(), costs.world_parameters
    tables: dict[str, list[tuple[str, Any, str]]] = {
        "parameters": [
            ("tokenizer", count(costs.tokenizer), ""), ("  encoder", count(costs.tokenizer.encoder), ""),
            ("  decoder", count(costs.tokenizer.decoder), ""), ("world model", world_parameters, ""),
            ("  transformer", count(costs.world.transformer), ""), ("  motion prior", count(costs.world.prior), ""),
            ("  layout", count(costs.world.layout), ""),
            ("  tables, heads and the rest", world_parameters - count(costs.world.transformer)
             - count(costs.world.prior) - count(costs.world.layout), ""),
            ("task expert, of plans and words", count(costs.world.expert), ""), ("video decoder", None, "")],
        "sequence": [
            ("layers", world.transformer.layers, ""), ("width", world.transformer.width, ""),
            ("cameras", costs.cameras, ""), ("positions a camera", costs.camera_positions, ""),
            ("tokens a position", fsq.codes, ""), ("values a token", fsq.vocabulary, ""),
            ("frame positions a step", costs.frame_positions, ""),
            ("other positions a step", costs.step_positions - costs.frame_positions, ""),
            ("positions a step", costs.step_positions, ""), ("steps a sequence", window, ""),
            ("steps a second", config.rate_hz, ""), ("caption, once a sequence", CAPTION_LENGTH, ""),
            ("positions a sequence", length, "")],
        "operations": [
            ("training, a position", training / length / 1e9, "GFLOP"),
            ("  of it 6 N", 3 * costs.flops_of_parameters() / 1e9, "GFLOP"),
            ("training, a step", training / window / 1e9, "GFLOP"),
            ("training, a sequence", training / 1e9, "GFLOP"),
            ("passes, a generated step", passes + 1, ""),
            ("generating, a step", costs.step_flops(passes) / 1e9, "GFLOP"),
            ("  of it 2 N, all passes", (passes + 1) * costs.step_positions * costs.flops_of_parameters() / 1e9,
             "GFLOP"),
            ("  of it the tokenizer", costs.cameras * costs.tokenizer_flops() / 1e9, "GFLOP")],
        "memory": [
            ("weights in bfloat16", costs.weight_bytes() / 1e6, "MB"),
            ("keys and values of a full window", costs.cache_bytes() / 1e6, "MB"),
            ("world model in training, without activations", costs.training_bytes() / 1e6, "MB")],
    }
    return {name: [{"what": what, "value": value, "unit": unit, **({} if paper is None else {"paper": paper.get(what)})}
                   for what, value, unit in rows if value is not None or (paper and what in paper)]
            for name, rows in tables.items()}
