"""`drive-wm evaluate` and what belongs to it: how good planners, the world model and its words are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from drive_wm.cli.options import (
    Argument,
    CameraOption,
    CheckpointOption,
    DurationOption,
    EngineOption,
    LogOption,
    MixOption,
    Option,
    OutOption,
    OverwriteOption,
    PlannerOption,
    PlannersOption,
    RenderersOption,
    ResumeOption,
    SeedOption,
    SourceOption,
    WorkersOption,
)
from drive_wm.cli.shared import do, resumable


def evaluate(source: MixOption, log: LogOption = None, out: OutOption = None, seed: SeedOption = 0,
             overwrite: OverwriteOption = False, checkpoint: CheckpointOption = "tiny", planner: PlannersOption = [],
             renderer: RenderersOption = ["layout"],
             duration: Annotated[float | None, Option(metavar="SECONDS", help="Of a drive; the protocol's.")] = None,
             protocol: Annotated[str, Option(metavar="NAME", help="drive, pdms, epdms, nuplan_cls, ncap, hd_score, "
                                             "alpasim, l2_uniad or l2_stp3.")] = "drive@1.0",
             traffic: Annotated[str | None, Option(metavar="NAME", help="log or idm; the protocol's.")] = None,
             tracking: Annotated[str | None, Option(metavar="NAME", help="lqr or perfect; the protocol's.")] = None,
             planner_timeout: Annotated[float | None, Option(metavar="SECONDS", help="A planner's, a plan.")] = None,
             camera: CameraOption = [], workers: WorkersOption = 0, engine: EngineOption = "local",
             resume: ResumeOption = False) -> None:
    """Planners drive in the closed loop; how they fared. Interrupted, --resume goes on from the last finished drive."""
    resumable(out, resume)
    do("evaluate", out, overwrite, "drive_wm.eval.command:evaluate", source=source, log=log, seed=seed,
        checkpoint=checkpoint, planners=planner, renderers=renderer, duration_s=duration, protocol=protocol,
        traffic=traffic, tracking=tracking, planner_timeout_s=planner_timeout, cameras=camera,
        workers=workers, resume=resume, engine=engine)


def serve(
        planner: PlannerOption = "direct", checkpoint: CheckpointOption = "tiny",
        port: Annotated[int, Option("--port", metavar="N", min=0, max=65535, help="0 is a free one.")] = 50051,
        host: Annotated[str, Option("--host", metavar="NAME", help="Who may connect: 0.0.0.0 is any machine; or "
                                    "unix:///PATH.")] = "127.0.0.1",
        mode: Annotated[str, Option("--mode", metavar="NAME", help="alpasim, or carla for clients of before "
                                    "carla-driver-interface 2.")] = "alpasim") -> None:
    """A planner as AlpaSim's egodriver, over gRPC, until interrupted."""
    from drive_wm.eval.alpasim_server import serve

    serve(planner, port, host, mode, checkpoint)


def compare(runs: Annotated[list[Path], Argument(metavar="RUN RUN", help="Run folders of evaluate.")],
            out: OutOption = None, seed: SeedOption = 0, overwrite: OverwriteOption = False,
            across: Annotated[bool, Option("--across-protocols", help="Also where they were judged by different rules.")
                              ] = False) -> None:
    """Evaluations, planner by planner over the scenes they share, against the first; and what differs in them."""
    do("compare", out, overwrite, "drive_wm.eval.compare:compare", runs=runs, seed=seed, across_protocols=across)


def evaluate_world(
        out: OutOption = None, seed: SeedOption = 0, overwrite: OverwriteOption = False,
        checkpoint: CheckpointOption = "tiny",
        starts: Annotated[int, Option("--starts", metavar="N", min=1, help="The first N of the protocol's 200.")] = 50,
        mode: Annotated[list[str], Option("--mode", metavar="MODE", help="given, imagined or none; repeatable, all by "
                                          "default.")] = [],
        recorded: Annotated[Path | None, Option("--recorded", metavar="DIR", help="Where drives/, argoverse2/ and "
                                                "nuscenes_one_sample/ lie.")] = None,
        workers: WorkersOption = 1, resume: ResumeOption = False) -> None:
    """world@1.0: does a checkpoint obey, keep what is there, and last? About a minute and a half of a core a start."""
    from drive_wm.eval.world.protocol import MODES

    do("evaluate-world", out, overwrite, "drive_wm.eval.world.command:evaluate_world", seed=seed,
        checkpoint=checkpoint, starts=starts, modes=mode or MODES, workers=workers, resume=resume,
        recorded=None if recorded is None else str(recorded))


def validity(source: MixOption, out: OutOption = None, seed: SeedOption = 0, overwrite: OverwriteOption = False,
             checkpoint: CheckpointOption = "tiny", planner: PlannersOption = [],
             reference: Annotated[str, Option(metavar="NAME", help="The renderer to agree with.")] = "layout",
             simulated: Annotated[str, Option(metavar="NAME", help="The renderer that is put to the test.")] = "world",
             duration: Annotated[float, Option(metavar="SECONDS", help="Of a drive.")] = 6.0,
             protocol: Annotated[str, Option(metavar="NAME", help="As of evaluate.")] = "drive@1.0",
             camera: CameraOption = [],
             logs: Annotated[int | None, Option("--logs", metavar="N", min=1, help="Only the first N drives.")] = None,
             workers: WorkersOption = 0, resume: ResumeOption = False) -> None:
    """Does the world model judge planners as the reference renderer does? Correlations, with intervals."""
    resumable(out, resume)
    do("validity", out, overwrite, "drive_wm.eval.validity:validity", source=source, seed=seed, checkpoint=checkpoint,
        planners=planner, reference=reference, simulated=simulated, duration_s=duration, protocol=protocol,
        cameras=camera, logs=logs, workers=workers, resume=resume)


def benchmark(source: SourceOption = "town:110000-110059", out: OutOption = None, seed: SeedOption = 0,
              overwrite: OverwriteOption = False, checkpoint: CheckpointOption = "tiny",
              starts: Annotated[int, Option("--starts", min=1, help="At most so many moving starts.")] = 24) -> None:
    """How good and how fast a checkpoint is."""
    do("benchmark", out, overwrite, "drive_wm.eval.benchmark:benchmark", source=source, seed=seed,
        checkpoint=checkpoint, starts=starts)


def speed(source: SourceOption = "town:110000", out: OutOption = None, seed: SeedOption = 0,
          overwrite: OverwriteOption = False, checkpoint: CheckpointOption = "tiny",
          planner: PlannerOption = "camera", renderer: RenderersOption = ["layout", "world"],
          duration: DurationOption = 15.0) -> None:
    """What an evaluation costs on this machine: steps a second, drives an hour, memory."""
    do("speed", out, overwrite, "drive_wm.eval.speed:speed", source=source, seed=seed, checkpoint=checkpoint,
        renderers=renderer, planner=planner, duration_s=duration)


def language(source: SourceOption = "town:110000-110009", log: LogOption = None, out: OutOption = None,
             seed: SeedOption = 0, overwrite: OverwriteOption = False, checkpoint: CheckpointOption = "tiny",
             moments: Annotated[int, Option("--moments", metavar="N", min=1, help="At most so many moments.")] = 20,
             removals: Annotated[bool, Option(help="Take things out of what the model sees, too.")] = True,
             questions: Annotated[int, Option(metavar="N", min=0, help="Of a moment, drawn at random; 0: all.")] = 0,
             workers: WorkersOption = 1) -> None:
    """Do the model's words belong to what it sees, decides and plans?"""
    do("language", out, overwrite, "drive_wm.eval.language:language", source=source, log=log, seed=seed,
        checkpoint=checkpoint, moments=moments, removals=removals, questions=questions, workers=workers)
