"""The options that several commands share, and how a group of commands is made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Option, Argument = typer.Option, typer.Argument

SourceOption = Annotated[str, Option("--source", metavar="KIND:PATH", help="Where the drives come from.")]
MixOption = Annotated[list[str], Option("--source", metavar="KIND:PATH", help="Where drives come from; repeat to mix.")]
LogOption = Annotated[str | None, Option("--log", metavar="ID", help="Which drive; the first (or all) by default.")]
OutOption = Annotated[Path | None, Option("--out", metavar="DIR", help="Run folder; runs/<command>-<n> by default.")]
SeedOption = Annotated[int, Option("--seed", metavar="N", help="The same seed gives the same bytes.")]
OverwriteOption = Annotated[bool, Option("--overwrite", help="Replace an earlier run of this command in --out.")]
CheckpointOption = Annotated[str, Option("--from", metavar="CHECKPOINT", help="tiny, a folder, or a hub id.")]
StartOption = Annotated[float, Option("--start", metavar="SECONDS", help="Now, counted from the drive's start.")]
HorizonOption = Annotated[float, Option("--horizon", metavar="SECONDS", help="How far ahead.")]
ActionsOption = Annotated[
    str, Option("--actions", metavar="NAME", help="log, brake, accelerate, left, right, keep, or a planner.")]
ModeOption = Annotated[str, Option("--mode", metavar="MODE", help="The layout is given, imagined or none.")]
CameraOption = Annotated[list[str], Option("--camera", metavar="NAME", help="Only this camera; repeatable.")]
PromptOption = Annotated[str | None, Option("--prompt", metavar="TEXT", help="How it looks, such as rain night.")]
PlannerOption = Annotated[str, Option("--planner", metavar="NAME", help="Who plans.")]
PlannersOption = Annotated[list[str], Option("--planner", metavar="NAME", help="Who drives; repeatable, or all.")]
RenderersOption = Annotated[list[str], Option("--renderer", metavar="NAME", help="What the planner sees; repeatable.")]
DurationOption = Annotated[float, Option("--duration", metavar="SECONDS", help="How long each drive lasts.")]
QuestionOption = Annotated[str | None, Option("--question", metavar="TEXT", help="What to ask; why, by default.")]
EngineOption = Annotated[str, Option("--engine", metavar="NAME", help="local or ray.")]
WorkersOption = Annotated[int, Option("--workers", metavar="K", min=0, help="Processes; 0 is one for each core.")]
LogsOption = Annotated[int, Option("--logs", metavar="N", min=1, help="How many drives.")]
NameArgument = Annotated[str, Argument(metavar="NAME", help="A run of configs/runs.py.")]
BaseOption = Annotated[str | None, Option("--from", metavar="CHECKPOINT", help="Fine-tune tiny, a folder or a hub id.")]
SetOption = Annotated[list[str], Option("--set", metavar="KEY=VALUE", help="Change the run's config; repeatable.")]
MinutesOption = Annotated[float | None, Option("--max-minutes", metavar="M", help="Stop by then, with a checkpoint.")]
ResumeOption = Annotated[bool, Option("--resume", help="Continue the run in --out exactly where it stopped.")]
WandbOption = Annotated[bool, Option("--wandb", help="Log to Weights & Biases too; offline without a key.")]


def group(text: str) -> typer.Typer:
    return typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None, add_completion=False)
