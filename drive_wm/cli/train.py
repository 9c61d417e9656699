"""`drive-wm train`: the tokenizer, the world model, and the small networks beside them; `drive-wm scaling`
and `ablation`."""

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
    OverwriteOption,
    ResumeOption,
    SeedOption,
    SetOption,
    WandbOption,
    WorkersOption,
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


@train.command("decoder")
def train_decoder(from_: Annotated[str, Option("--from", metavar="CHECKPOINT", help="Whose tokens it is to sharpen.")],
                  source: MixOption = [], out: OutOption = None, seed: SeedOption = 0, set_: SetOption = []) -> None:
    """Train the picture decoder of a checkpoint: tokens, carried pictures and layout to pixels; half an hour of a core.
    """
    from drive_wm.config import parse_overrides

    do("train-decoder", out, False, "drive_wm.training.decoder:train_decoder", from_=from_, sources=source, seed=seed,
        overrides=parse_overrides(set_))


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


def scaling(
        source: MixOption = [], out: OutOption = None, seed: SeedOption = 0, overwrite: OverwriteOption = False,
        checkpoint: Annotated[str, Option("--from", metavar="CHECKPOINT", help="Whose tokenizer is used.")] = "tiny",
        validation: Annotated[list[str], Option("--validation", metavar="KIND:PATH", help="Held-out drives; eight of "
                                                "the town's by default.")] = [],
        size: Annotated[list[str], Option("--size", metavar="WIDTHxLAYERS", help="Repeatable, at least four; 32x2 to "
                                          "192x6 by default.")] = [],
        steps: Annotated[int, Option("--steps", metavar="N", min=1, help="Of every size's training.")] = 300,
        windows: Annotated[int, Option("--windows", metavar="N", min=1, help="Held-out ones, at most.")] = 64,
        name: Annotated[str, Option("--run", metavar="NAME", help="A run of configs/runs.py.")] = "tiny_world",
        set_: SetOption = [], workers: WorkersOption = 1, resume: ResumeOption = False) -> None:
    """Train a ladder of small sizes and foretell the largest from the others, before it is trained."""
    from drive_wm.config import parse_overrides
    from drive_wm.datasets.parallel import worker_count
    from drive_wm.use.scaling import SIZES

    resumable(out, resume)
    do("scaling", out, overwrite, "drive_wm.use.scaling:scaling", sources=source, validation=validation, seed=seed,
        checkpoint=checkpoint, sizes=size or SIZES, steps=steps, windows=windows, run=name,
        overrides=parse_overrides(set_), workers=worker_count(workers), resume=resume)


def ablation(
        source: MixOption = [], out: OutOption = None, seed: SeedOption = 0, overwrite: OverwriteOption = False,
        checkpoint: Annotated[str, Option("--from", metavar="CHECKPOINT", help="Whose tokenizer is used.")] = "tiny",
        validation: Annotated[list[str], Option("--validation", metavar="KIND:PATH", help="Held-out drives; eight of "
                                                "the town's by default.")] = [],
        change: Annotated[list[str], Option("--change", metavar="'NAME: KEY=VALUE, ...'", help="Repeatable; the "
                                            "design's own choices by default.")] = [],
        size: Annotated[str, Option("--size", metavar="WIDTHxLAYERS", help="The run's by default.")] = "",
        steps: Annotated[int, Option("--steps", metavar="N", min=1, help="Of every training.")] = 300,
        windows: Annotated[int, Option("--windows", metavar="N", min=1, help="Held-out ones, at most.")] = 64,
        starts: Annotated[int, Option("--starts", metavar="N", min=1, help="Of rollouts, on held-out drives.")] = 8,
        starts_of: Annotated[str, Option("--starts-of", metavar="KIND:PATH", help="Where those drives come from.")] =
        "town:100010-100049",
        name: Annotated[str, Option("--run", metavar="NAME", help="A run of configs/runs.py.")] = "tiny_world",
        set_: SetOption = [], workers: WorkersOption = 1, resume: ResumeOption = False) -> None:
    """Train the world model as it is and with one change at a time, and say what each is worth."""
    from drive_wm.config import parse_overrides
    from drive_wm.datasets.parallel import worker_count

    resumable(out, resume)
    do("ablation", out, overwrite, "drive_wm.use.ablation:ablation", sources=source, validation=validation, seed=seed,
        checkpoint=checkpoint, changes=change, size=size, steps=steps, windows=windows, starts=starts,
        starts_of=starts_of, run=name, overrides=parse_overrides(set_), workers=worker_count(workers), resume=resume)


def _train(part: str, name: str, out: Path | None, pairs: list[str], **options: Any) -> None:
    from drive_wm.config import parse_overrides

    resumable(out, options["resume"])
    do(f"train-{part}", out, False, f"drive_wm.training.train:train_{part}", name=name,
        overrides=parse_overrides(pairs), **options)
