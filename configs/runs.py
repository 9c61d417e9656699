"""Named runs: a function that returns a config, and a line in the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def tiny_tokenizer() -> Any:
    """A tokenizer of tiny's size: six cameras at 64 x 112 on the town. What made the shipped one is in its card."""
    from drive_wm.training.tasks import DataConfig, OptimizerConfig, TokenizerRun

    data = DataConfig(("town:0-599",), end_s=12.0, batch_size=8, camera_dropout=0.0)
    return TokenizerRun("tiny_tokenizer", data=data, optimizer=OptimizerConfig(lr=1.5e-3), steps=3600)


def tiny_world() -> Any:
    """A world model of tiny's size, on the tokens of a trained tokenizer (--from or --set tokenizer=FOLDER).

    Pack the tokens once (drive-wm data pack --tokens) and give them with --source shards:DIR: frames are decoded and
    encoded again to be carried to the next step, which costs more than a training step.
    """
    from drive_wm.training.tasks import DataConfig, OptimizerConfig, WorldRun

    return WorldRun("tiny_world", data=DataConfig(("town:0-599",), end_s=7.0, batch_size=4),
                    optimizer=OptimizerConfig(lr=1e-3, ema=0.997), steps=2400, task_share=0.3)


def tiny_expert() -> Any:
    """Teaches the task expert of a trained world model (--from) to plan, to explain and to answer; no frame changes.

    Give drives that the world model was not trained on, packed with questions (drive-wm data pack --tokens CHECKPOINT
    --set end_s=7 --set questions_every_s=1.5 --set carried=false), and many more without, for the plans: what it has
    seen it knows by heart, and plans that were learned there do not hold elsewhere.
    """
    from drive_wm.training.tasks import DataConfig, ObjectiveConfig, OptimizerConfig, WorldRun

    return WorldRun("tiny_expert", data=DataConfig(("town:600-999",), end_s=7.0, questions_every_s=1.5, batch_size=6),
                    objective=ObjectiveConfig(drop_layout=0.25),
                    optimizer=OptimizerConfig(lr=1e-3, muon_lr=0.01, ema=0.995), steps=3300,
                    expert_only=True, questions=10, drills=12, unasked=0.25)


def small_tokenizer() -> Any:
    """A tokenizer of small's size, for one GPU: six cameras at 256 x 448 on the town. Not trained by us yet.

    Pack the drives once (drive-wm data pack --set width=448 --set height=256) and give them with --source shards:DIR.
    """
    from drive_wm.presets import small
    from drive_wm.training.tasks import DataConfig, OptimizerConfig, TokenizerRun

    model = small()
    data = DataConfig(("town:0-1999",), width=model.width, height=model.height, batch_size=8, camera_dropout=0.0)
    return TokenizerRun("small_tokenizer", model.tokenizer, data, OptimizerConfig(lr=1e-3), steps=40_000,
                        checkpoint_every=1000, sheet_every=2000)


def small_world() -> Any:
    """A world model of small's size (0.1 B), for one GPU, on small_tokenizer's tokens. Not trained by us yet."""
    from drive_wm.presets import small
    from drive_wm.training.tasks import DataConfig, OptimizerConfig, WorldRun

    model = small()
    data = DataConfig(("town:0-1999",), width=model.width, height=model.height, batch_size=4)
    return WorldRun("small_world", model=model.world, data=data, optimizer=OptimizerConfig(lr=6e-4, warmup=500),
                    steps=60_000, checkpoint_every=1000, sheet_every=2000)


def base_world() -> Any:
    """A world model of base's size (1 B), for a GPU of 80 GB, on small_tokenizer's tokens. Not trained by us yet."""
    from drive_wm.presets import base
    from drive_wm.training.tasks import DataConfig, OptimizerConfig, WorldRun

    model = base()
    data = DataConfig(("town:0-9999",), width=model.width, height=model.height, batch_size=1)
    return WorldRun("base_world", model=model.world, data=data, optimizer=OptimizerConfig(lr=3e-4, warmup=1000),
                    steps=200_000, checkpoint_every=2000, sheet_every=5000)


def adapt_tokenizer() -> Any:
    """Fine-tunes a tokenizer on a user's own drives: --from tiny --source drive_folder:PATH."""
    from drive_wm.training.tasks import DataConfig, OptimizerConfig, TokenizerRun

    data = DataConfig((), width=0, height=64, phases=5, batch_size=16, camera_dropout=0.0)
    return TokenizerRun("adapt_tokenizer", data=data,
                        optimizer=OptimizerConfig(lr=5e-4, muon_lr=0.0, warmup=20, ema=0.99), steps=300,
                        checkpoint_every=100)


def adapt_world() -> Any:
    """Fine-tunes a world model on a user's own drives: --from tiny --source drive_folder:PATH."""
    from drive_wm.training.tasks import DataConfig, OptimizerConfig, WorldRun

    return WorldRun("adapt_world", data=DataConfig((), width=0, height=64, phases=5, batch_size=4),
                    optimizer=OptimizerConfig(lr=3e-4, muon_lr=0.0, warmup=20, ema=0.99), steps=400,
                    checkpoint_every=100)


RUNS: dict[str, Callable[[], Any]] = {
    "tiny_tokenizer": tiny_tokenizer,
    "tiny_world": tiny_world,
    "tiny_expert": tiny_expert,
    "small_tokenizer": small_tokenizer,
    "small_world": small_world,
    "base_world": base_world,
    "adapt_tokenizer": adapt_tokenizer,
    "adapt_world": adapt_world,
}
