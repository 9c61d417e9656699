"""`drive-wm generate, plan, explain, demo, info`: what the model answers."""

from __future__ import annotations

from typing import Annotated

from drive_wm.cli.options import (
    ActionsOption,
    CameraOption,
    CheckpointOption,
    HorizonOption,
    LogOption,
    ModeOption,
    Option,
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
             camera: CameraOption = [], prompt: PromptOption = None,
             guidance: Annotated[str | None, Option(metavar="NAME=W,...", help="Of action, layout and caption, each; "
                                                    "1 is off, such as action=2,layout=1.5.")] = None,
             top_k: Annotated[int, Option("--top-k", metavar="K", min=0, help="Draw among the likeliest; 0 is all.")
                              ] = 0) -> None:
    """The future that the model expects, in every camera."""
    do("generate", out, overwrite, "drive_wm.use:generate", source=source, log=log, seed=seed, checkpoint=checkpoint,
        start_s=start, horizon_s=horizon, actions=actions, mode=mode, cameras=camera or None, prompt=prompt,
        guidance=guidance, top_k=top_k)


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


def info(checkpoint: Annotated[str, Option("--from", metavar="NAME", help="A preset (tiny, small, base, gaia1), a "
                                           "checkpoint's folder or a hub id.")] = "tiny",
         cameras: Annotated[int | None, Option(metavar="N", min=1, help="Of the rig that the costs are for.")] = None,
         ) -> None:
    """What a checkpoint or a preset is and costs, and what this machine offers."""
    from drive_wm.use import info

    show_results(checkpoint, info(checkpoint, cameras))
