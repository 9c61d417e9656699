"""`drive-wm generate, plan, explain, demo, info`: what the model answers."""

from __future__ import annotations

from drive_wm.cli.options import (
    ActionsOption,
    CameraOption,
    CheckpointOption,
    HorizonOption,
    LogOption,
    ModeOption,
    OutOption,
    OverwriteOption,
    PlannerOption,
    PromptOption,
    QuestionOption,
    SeedOption,
    SourceOption,
    StartOption,
)
from drive_wm.cli.shared import do, show_results


def generate(source: SourceOption, log: LogOption = None, out: OutOption = None, seed: SeedOption = 0,
             overwrite: OverwriteOption = False, checkpoint: CheckpointOption = "tiny", start: StartOption = 2.0,
             horizon: HorizonOption = 4.0, actions: ActionsOption = "log", mode: ModeOption = "given",
             camera: CameraOption = [], prompt: PromptOption = None) -> None:
    """The future that the model expects, in every camera."""
    do("generate", out, overwrite, "drive_wm.use:generate", source=source, log=log, seed=seed, checkpoint=checkpoint,
        start_s=start, horizon_s=horizon, actions=actions, mode=mode, cameras=camera or None, prompt=prompt)


def plan(source: SourceOption, log: LogOption = None, out: OutOption = None, seed: SeedOption = 0,
         overwrite: OverwriteOption = False, checkpoint: CheckpointOption = "tiny", start: StartOption = 2.0,
         planner: PlannerOption = "direct") -> None:
    """Where the ego would go, in its cameras and from above."""
    do("plan", out, overwrite, "drive_wm.use:plan", source=source, log=log, seed=seed, checkpoint=checkpoint,
        start_s=start, planner=planner)


def explain(source: SourceOption, log: LogOption = None, out: OutOption = None, seed: SeedOption = 0,
            overwrite: OverwriteOption = False, checkpoint: CheckpointOption = "tiny", start: StartOption = 2.0,
            question: QuestionOption = None) -> None:
    """What the model decides, and the causes it gives."""
    do("explain", out, overwrite, "drive_wm.use:explain", source=source, log=log, seed=seed, checkpoint=checkpoint,
        start_s=start, question=question)


def demo(out: OutOption = None, seed: SeedOption = 0, overwrite: OverwriteOption = False,
         checkpoint: CheckpointOption = "tiny") -> None:
    """All of it on a drive that comes along: one report."""
    do("demo", out, overwrite, "drive_wm.use:demo", seed=seed, checkpoint=checkpoint)


def info(checkpoint: CheckpointOption = "tiny") -> None:
    """What a checkpoint is, and what this machine offers."""
    from drive_wm.use import info

    show_results(checkpoint, info(checkpoint))
