"""`drive-wm train`: the tokenizer, the world model, and the small networks beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from drive_wm.cli.options import (
    BaseOption,
    MinutesOption,
    MixOption,
    NameArgument,
    Option,
    OutOption,
    ResumeOption,
    SeedOption,
    SetOption,
    WandbOption,
    group,
)
from drive_wm.cli.shared import do, resumable

train = group("Train the tokenizer or the world model.")


@train.command("tokenizer")
def train_tokenizer(name: NameArgument, source: MixOption = [], out: OutOption = None, seed: SeedOption = 0,
                    from_: BaseOption = None, set_: SetOption = [], max_minutes: MinutesOption = None,
                    resume: ResumeOption = False, wandb: WandbOption = False) -> None:
    """Train the frame tokenizer by the run NAME."""
    _train("tokenizer", name, out, set_, sources=source, seed=seed, from_=from_, max_minutes=max_minutes, resume=resume,
           wandb=wandb)


@train.command("world")
def train_world(name: NameArgument, source: MixOption = [], out: OutOption = None, seed: SeedOption = 0,
                from_: BaseOption = None, set_: SetOption = [], max_minutes: MinutesOption = None,
                resume: ResumeOption = False, wandb: WandbOption = False) -> None:
    """Train the world model by the run NAME."""
    _train("world", name, out, set_, sources=source, seed=seed, from_=from_, max_minutes=max_minutes, resume=resume,
           wandb=wandb)


@train.command("ego-status")
def train_ego_status(source: MixOption, out: OutOption = None, seed: SeedOption = 0,
                     check: Annotated[str, Option("--check", metavar="KIND:PATH", help="Drives to measure on.")] =
                     "town:100000-100019") -> None:
    """Train the planner that sees only its own motion and the route; seconds of training, no image is drawn."""
    do("train-ego-status", out, False, "drive_wm.planners.ego_status_training:train", source=source, seed=seed,
        check=check)


@train.command("probe")
def train_probe(out: OutOption = None, seed: SeedOption = 0) -> None:
    """Train the small network by which evaluate-world reads pictures; ten minutes of one core."""
    do("train-probe", out, False, "drive_wm.eval.world.probe_training:train_probe", seed=seed)


def _train(part: str, name: str, out: Path | None, pairs: list[str], **options: Any) -> None:
    from drive_wm.config import parse_overrides

    resumable(out, options["resume"])
    do(f"train-{part}", out, False, f"drive_wm.training.train:train_{part}", name=name,
        overrides=parse_overrides(pairs), **options)
