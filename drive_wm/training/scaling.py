"""A ladder of sizes of the world model: each trained alike, measured on windows it never saw, and a law through them.

GAIA-1 (Hu et al., 2023, section 4) fits loss = c + (x / a)^b to the validation losses of small models over the compute
that trained them, and foretells the loss of the full one; the form is that of Kaplan et al., 2020 with a floor.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drive_wm.config import find_run, override, to_json
from drive_wm.costs import costs_of, count
from drive_wm.datasets.shards import READY, ShardSpec, WindowSampler, find_shards, pack_sources
from drive_wm.model import DriveWM, ModelConfig
from drive_wm.presets import transformer
from drive_wm.training.objectives import ObjectiveConfig, frame_loss, mask_steps
from drive_wm.training.tasks import WorldRun
from drive_wm.training.tokens import CheckpointCodec
from drive_wm.training.train import train_world
from drive_wm.types import InputError
from drive_wm.world.inputs import caption_ids, steps_from_clips

FEWEST = 3  # points that determine three numbers


@dataclass(frozen=True)
class PowerLaw:
    """loss(x) = c + (x / a)^b; b below 0, c the loss that no x gets below."""

    a: float
    b: float
    c: float

    def __call__(self, x: float) -> float:
        return self.c + math.exp(self.b * (math.log(x) - math.log(self.a)))


def fit_power_law(x: Sequence[float], loss: Sequence[float]) -> PowerLaw:
    """The law nearest in relative error, by Huber's loss, from the best of many starts (Hoffmann et al., 2022, D.2).

    Raises InputError for fewer than three different x, or a value that is not finite and above 0.
    """
    from scipy.optimize import least_squares

    if len(x) != len(loss) or len(set(x)) < FEWEST:
        raise InputError(f"a power law with a floor has three numbers: expected at least {FEWEST} different sizes, "
                         f"got {len(set(x))} with {len(loss)} losses")
    if not all(math.isfinite(v) and v > 0 for v in (*x, *loss)):
        raise InputError(f"a power law needs finite sizes and losses above 0, got {list(x)} and {list(loss)}")
    log_x, log_loss, least = np.log(x), np.log(loss), math.log(min(loss))
    centred = log_x - log_x.mean()  # so that the three numbers do not trade places

    def error(p: np.ndarray) -> np.ndarray:
        return np.logaddexp(p[0], p[1] + p[2] * centred) - log_loss

    bounds = ([least - 14, least - 14, -3.0], [least, math.inf, -0.01])
    fits = [least_squares(error, (least + math.log(floor), least + math.log1p(0.05 - floor), b), loss="huber",
                          f_scale=1e-3, bounds=bounds, xtol=1e-12, ftol=1e-12, gtol=1e-12, max_nfev=300)
            for floor in (0.01, 0.3, 0.6, 0.8, 0.95) for b in (-0.05, -0.2, -0.5, -1.0)]
    floor, amplitude, b = min(fits, key=lambda fit: fit.cost).x
    return PowerLaw(math.exp(log_x.mean() - amplitude / b), float(b), math.exp(floor))


@dataclass(frozen=True)
class Size:
    width: int
    layers: int

    @property
    def name(self) -> str:
        return f"{self.width}x{self.layers}"

    @staticmethod
    def parse(text: str) -> Size:
        """'64x3' -> width 64, 3 layers; raises InputError for another form or a size that cannot be built."""
        width, by, layers = text.partition("x")
        if not (by and width.isdecimal() and layers.isdecimal()):
            raise InputError(f"size {text!r}: expected WIDTHxLAYERS, for example 64x3")
        transformer(int(width), int(layers))
        return Size(int(width), int(layers))


@dataclass(frozen=True)
class Ladder:
    """What all rungs share. training, validation: ``shards:FOLDER`` each, of tokens. windows: of validation."""

    run: str
    checkpoint: str
    training: tuple[str, ...]
    validation: tuple[str, ...]
    steps: int
    windows: int
    seed: int
    overrides: Mapping[str, str]

    def changes(self, size: Size) -> dict[str, str]:
        """Frames alone are learned, in all cameras, so that the operations counted are those that were done."""
        shared = {"tokenizer": self.checkpoint, "steps": str(self.steps), "task_share": "0", "data.camera_dropout": "0",
                  "optimizer.warmup": str(max(1, min(60, self.steps // 10))),
                  "checkpoint_every": str(max(1, self.steps // 4)), "sheet_every": str(self.steps)}
        network = to_json(transformer(size.width, size.layers))
        return {**shared, **self.overrides, "model.transformer": json.dumps(network)}

    def config(self, size: Size) -> WorldRun:
        """The run of a size; raises InputError where the run's name or an override is wrong."""
        run = find_run(self.run)()
        if not isinstance(run, WorldRun):
            raise InputError(f"run {self.run!r} is a {type(run).__name__}; a ladder needs a run of the world model")
        return override(run, self.changes(size))

    def climb(self, size: Size, folder: Path) -> dict[str, Any]:
        """Trains a size in ``folder``, going on where it was cut off, and measures it -> a row of the table."""
        run, began = self.config(size), time.monotonic()
        train_world(self.run, sources=self.training, out=folder, seed=self.seed, overrides=self.changes(size),
                    resume=True)
        model = DriveWM.from_pretrained(folder / "checkpoint", "cuda" if torch.cuda.is_available() else "cpu")
        loss, spread = validation_loss(model, self.validation, run.data.batch_size,
                                       math.ceil(self.windows / run.data.batch_size), self.seed)
        shutil.rmtree(folder / "state")  # nothing goes on from a finished rung
        return {"size": size.name, **self.foreseen(size), "steps": run.steps, "loss_nats": loss,
                "standard_error": spread, "minutes": round((time.monotonic() - began) / 60, 2)}

    def foreseen(self, size: Size) -> dict[str, float]:
        """How large a size is, known before it is trained: parameters of its transformer, operations of its training.

        Of a rig whose cameras are all of the size of the first.
        """
        run, sizes = self.config(size), find_shards(self.training[0].removeprefix(READY))[0].facts.sizes
        tokenizer = DriveWM.from_pretrained(self.checkpoint).tokenizer.config
        world = replace(run.model, fsq=tokenizer.fsq)
        costs = costs_of(ModelConfig(tokenizer, world, height=sizes[0][0], width=sizes[0][1]), len(sizes))
        return {"parameters": count(costs.world.transformer),
                "training_flops": costs.training_flops() * run.data.batch_size * run.steps}


def tokens_of(sources: Sequence[str], root: Path, checkpoint: str, run: WorldRun, workers: int = 1) -> tuple[str, ...]:
    """Every source as ``shards:FOLDER`` of the checkpoint's tokens: below ``root``, or where they lie already.

    Raises InputError for tokens of another tokenizer.
    """
    codec, data, ready = CheckpointCodec(checkpoint), run.data, []
    spec = ShardSpec(data.width, data.height, data.rate_hz, data.phases, data.start_s, data.end_s,
                     min_steps=run.model.window)
    for source in sources:
        made_by = {""}
        if source.startswith(READY):
            made_by = {shard.facts.tokenizer for shard in find_shards(source.removeprefix(READY))}
        if made_by == {codec.fingerprint}:
            ready.append(source)
        elif made_by == {""}:
            ready += [f"{READY}{folder}" for folder in
                      pack_sources([source], root, spec, workers=workers, tokenizer=codec)]
        else:
            raise InputError(f"{source}: holds tokens of another tokenizer than {checkpoint}'s; give shards with "
                             "frames, or --from the checkpoint that made them")
    return tuple(ready)


@torch.no_grad()
def validation_loss(model: DriveWM, sources: Sequence[str], batch_size: int, batches: int,
                    seed: int = 0) -> tuple[float, float]:
    """Cross-entropy in nats a digit of masked frame tokens, and its standard error over batches.

    On windows of ``shards:FOLDER`` tokens, at most so many batches, with nothing dropped and no noise; windows and
    masks follow from the seed and the batch's number alone, so that all sizes are asked the same.
    """
    world, device = model.world, model.device
    groups = [find_shards(source.removeprefix(READY)) for source in sources]
    sampler = WindowSampler(groups, world.config.window, batch_size, seed, agents=world.config.agents,
                            camera_dropout=0.0, order="shuffled")
    losses, weights = [], []
    for step in range(min(batches, sampler.batches_a_pass)):
        samples = sampler.batch(step)
        torch.manual_seed(seed * 1_000_003 + step)
        with torch.autocast(device.type, torch.bfloat16):
            steps = steps_from_clips([s.clip for s in samples], model.tokenizer, device, world.config.agents)
            masked = mask_steps(steps, ObjectiveConfig(), world.config.fsq.codes)
            hidden, _ = world(caption_ids([s.clip.look for s in samples], device), replace(steps, masked=masked))
            asked = masked & steps.seen[..., None]
            losses.append(float(frame_loss(world, world.frame_hidden(hidden), steps.digits, asked)))
            weights.append(float(asked.sum()))
    spread = float(np.std(losses, ddof=1)) / math.sqrt(len(losses)) if len(losses) > 1 else math.nan
    return float(np.average(losses, weights=weights)), spread
