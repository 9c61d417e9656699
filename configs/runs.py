"""Named runs: a function that returns a config, and a line in the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def tiny_tokenizer() -> Any:
    """A tokenizer of tiny's size: six cameras at 64 x 112 on the town. What made the shipped one is in its card."""
    from drive_wm.training.tasks import DataConfig, OptimizerConfig, TokenizerRun

    data = DataConfig(("town:0-299",), end_s=12.0, batch_size=8, camera_dropout=0.0)
    return TokenizerRun("tiny_tokenizer", data=data, optimizer=OptimizerConfig(lr=1.5e-3), steps=2000)


def tiny_world() -> Any:
    """A world model of tiny's size, on the tokens of a trained tokenizer (--from or --set tokenizer=FOLDER)."""
    from drive_wm.training.tasks import DataConfig, OptimizerConfig, WorldRun

    return WorldRun("tiny_world", data=DataConfig(("town:0-299",), end_s=12.0, batch_size=4),
                    optimizer=OptimizerConfig(lr=1e-3), steps=1500, task_share=0.35)


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
    "adapt_tokenizer": adapt_tokenizer,
    "adapt_world": adapt_world,
}
