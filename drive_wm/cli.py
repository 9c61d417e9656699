"""The command line. Every command is a few lines: read the options, call the library, print a table.

Nothing heavy is imported before a command runs, so that --help answers at once.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from drive_wm import __version__

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
WorkersOption = Annotated[int, Option("--workers", metavar="K", min=0, help="Processes; 0 is one for each core.")]
LogsOption = Annotated[int, Option("--logs", metavar="N", min=1, help="How many drives.")]
NameArgument = Annotated[str, Argument(metavar="NAME", help="A run of configs/runs.py.")]
BaseOption = Annotated[str | None, Option("--from", metavar="CHECKPOINT", help="Fine-tune tiny, a folder or a hub id.")]
SetOption = Annotated[list[str], Option("--set", metavar="KEY=VALUE", help="Change the run's config; repeatable.")]
MinutesOption = Annotated[float | None, Option("--max-minutes", metavar="M", help="Stop by then, with a checkpoint.")]
ResumeOption = Annotated[bool, Option("--resume", help="Continue the run in --out exactly where it stopped.")]
WandbOption = Annotated[bool, Option("--wandb", help="Log to Weights & Biases too; offline without a key.")]


def _typer(text: str) -> typer.Typer:
    return typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None, add_completion=False)


app = _typer("A driving world model that one can train, question, steer and drive in.")
data = _typer("Look at, check, convert, generate and tokenize drives.")
train = _typer("Train the tokenizer or the world model.")
app.add_typer(data, name="data")
app.add_typer(train, name="train")


# --- data ---------------------------------------------------------------------------------------------------------


@data.command("list")
def data_list(source: MixOption = [], logs: LogsOption = 20) -> None:
    """The drives of a source; without one, the kinds of source there are."""
    from drive_wm.datasets.sources import open_source, source_kinds

    if not source:
        _table("kinds of source", ["kind", "reader"], list(source_kinds().items()))
        return
    opened = open_source(source)
    ids = opened.log_ids()
    rows = [(log.id, (log.end_us - log.start_us) / 1e6, len(log.rig.cameras), len(log.tracks), log.map is not None,
             log.split, log.licence) for log in map(opened.load, ids[:logs])]
    _table(", ".join(source), ["log", "seconds", "cameras", "tracks", "map", "split", "licence"], rows)
    if len(ids) > logs:
        print(f"and {len(ids) - logs} more; --logs {len(ids)} shows all")


@data.command("show")
def data_show(source: SourceOption, log: LogOption = None, out: OutOption = None, seed: SeedOption = 0,
              overwrite: OverwriteOption = False) -> None:
    """The facts of a drive, a contact sheet, a view from above."""
    def show(out: Path) -> None:
        from drive_wm.datasets.show import contact_sheet_of, describe, topdown_of
        from drive_wm.eval.run_folder import RunFolder
        from drive_wm.media import write_png

        opened, ids = _drives(source, log)
        drive = opened.load(ids[0])
        run = RunFolder(out, "data-show", seed=seed)
        write_png(run.file("contact_sheet.png"), contact_sheet_of(drive))
        write_png(run.file("topdown.png"), topdown_of(drive))
        run.finish(describe(drive))

    _do("data-show", out, overwrite, show)


@data.command("check")
def data_check(source: MixOption, log: LogOption = None, out: OutOption = None, seed: SeedOption = 0,
               overwrite: OverwriteOption = False) -> None:
    """Health: gaps, frozen frames, jumps, missing cameras, units."""
    def examine(out: Path) -> None:
        from drive_wm.eval.health_page import check_drives
        from drive_wm.eval.run_folder import RunFolder

        opened, ids = _drives(source, log)
        run = RunFolder(out, "data-check", seed=seed)
        reports = check_drives(opened, ids, run, lambda report: print(report.to_text()))
        run.finish({"logs": len(reports), "damaged": [report.log_id for report in reports if not report.ok]})

    _do("data-check", out, overwrite, examine)


@data.command("convert")
def data_convert(source: MixOption, log: LogOption = None, out: OutOption = None, seed: SeedOption = 0,
                 sweep_hz: Annotated[float | None, Option("--sweep-hz", metavar="N", help="The most images a second; 0 "
                                                          "for keyframes alone.")] = None) -> None:
    """Write drives in nuScenes format: keyframes twice a second, and between them what was recorded, up to 12 Hz."""
    def convert(out: Path) -> None:
        from drive_wm.datasets.nuscenes_writer import write_nuscenes

        opened, ids = _drives(source, log)
        write_nuscenes((opened.load(log_id) for log_id in ids), out, sweep_hz=sweep_hz)

    _do("data-convert", out, False, convert)


@data.command("town")
def data_town(
        logs: LogsOption = 8, out: OutOption = None, workers: WorkersOption = 0, duration: DurationOption = 20.0,
        first_seed: Annotated[int, Option("--first-seed", "--seed", metavar="N", help="Of the first drive; from 100000 "
                                          "on val, from 110000 on test.")] = 0,
        format_: Annotated[str, Option("--format", metavar="FORMAT", help="nuscenes or shards.")] = "nuscenes",
        rig: Annotated[str, Option("--rig", metavar="NAME", help="The cameras, such as dash.")] = "nuscenes_six",
        height: Annotated[int, Option("--height", metavar="PIXELS", help="Of every camera.")] = 64,
        sweep_hz: Annotated[float | None, Option("--sweep-hz", help="Images between the keyframes too.")] = None,
        logs_per_set: Annotated[int, Option("--logs-per-set", metavar="N", help="The most in a nuScenes root.")] = 100,
        ) -> None:
    """Generate drives through the town, in nuScenes format or as shards, on all cores.

    DIR is one nuScenes root, or holds several, DIR/part-000 and on, of --logs-per-set drives each: the devkit keeps all
    tables of a root in memory. The same command again continues where it was cut off. The bytes do not depend on the
    number of workers.
    """
    def build(out: Path) -> dict[str, Any]:
        from drive_wm.datasets.parallel import progress_bar
        from drive_wm.datasets.town.factory import TownOrder, build_town

        order = TownOrder(logs, first_seed, format_, rig, height, duration, sweep_hz=sweep_hz,
                          logs_per_set=logs_per_set)
        with progress_bar("drives", logs) as step:
            return build_town(order, out, workers=workers, progress=step)

    _do("data-town", out, False, build)


@data.command("audit")
def data_audit(
        source: SourceOption, log: LogOption = None, out: OutOption = None, overwrite: OverwriteOption = False,
        workers: WorkersOption = 0,
        sheet: Annotated[int, Option("--sheet", metavar="N", min=0, help="How many varied scenes to show.")] = 40,
        fail_on_violation: Annotated[bool, Option("--fail-on-violation", help="Exit code 1 if there is one.")] = False,
        ) -> None:
    """Overlaps, teleports, collisions, red lights run, off-road steps; and how varied the drives are."""
    violations = 0

    def examine(out: Path) -> None:
        nonlocal violations
        from drive_wm.datasets.parallel import progress_bar, worker_count
        from drive_wm.datasets.town import audit, tally
        from drive_wm.datasets.town.sheet import varied_scenes
        from drive_wm.eval.report import Failures, Picture, write_report
        from drive_wm.eval.run_folder import RunFolder
        from drive_wm.media import write_png

        _, ids = _drives(source, log)
        run, count = RunFolder(out, "data-audit", overwrite=overwrite), worker_count(workers)
        with progress_bar("audited", len(ids)) as step:
            audits = audit.audit(source, ids, workers=count, progress=step)
        results, violations = tally.summary(audits), tally.violation_count(audits)
        run.write_parquet("violations.parquet", tally.rows(audits))
        pictures = []
        if sheet:
            write_png(run.file("scenes.png"), varied_scenes(source, audits, sheet, workers=count))
            pictures = [Picture(run.path / "scenes.png", "varied scenes, with what should be in them")]
        write_report(run, f"Audit of {source}", [*_sections(results), Failures(tally.lines(audits)), *pictures])
        run.finish(results)

    _do("data-audit", out, overwrite, examine)
    if violations and fail_on_violation:
        raise typer.Exit(1)


@data.command("curate")
def data_curate(source: MixOption = [], out: OutOption = None, seed: SeedOption = 0, overwrite: OverwriteOption = False,
                marks: Annotated[Path | None, Option(metavar="FILE", help="Clips marked good or bad.")] = None,
                balance: Annotated[float, Option(metavar="P", help="0 as recorded to 1 all kinds equal.")] = 0.5,
                split: Annotated[str, Option(metavar="BY", help="given, place or time.")] = "given",
                licence: Annotated[list[str], Option(metavar="TEXT", help="Allow only this; repeatable.")] = [],
                set_: Annotated[list[str], Option("--set", metavar="KEY=VALUE", help="Such as limits.blur=0.6.")] = [],
                workers: Annotated[int, Option(metavar="N", min=1, help="Processes.")] = 1,
                engine: Annotated[str, Option(metavar="NAME", help="local or ray.")] = "local") -> None:
    """Clips worth training on: cut, filtered, deduplicated, split, captioned, weighed."""
    from drive_wm.config import parse_overrides

    _do("data-curate", out, overwrite, "drive_wm.datasets.curation.command:curate_to_folder", sources=source,
        seed=seed, marks=marks, exponent=balance, split_by=split, licences=licence, overrides=parse_overrides(set_),
        workers=workers, engine=engine)


@data.command("pack")
def data_pack(source: MixOption, out: OutOption = None, set_: SetOption = [], workers: WorkersOption = 0,
              tokens: Annotated[str | None, Option("--tokens", metavar="CHECKPOINT", help="Store this tokenizer's "
                                                   "tokens in place of frames.")] = None,
              to: Annotated[str, Option("--to", metavar="ADDRESS", help="Copy them there too, such as s3://...")] = "",
              ) -> None:
    """Pack drives as shards for training, a folder each source; shards:DIR packs shards anew.

    --set changes how, such as width=208 rate_hz=4 codec=lz4. The same command again continues where it was cut off.
    """
    def pack(out: Path) -> dict[str, Any]:
        from rich.console import Console
        from rich.progress import Progress

        from drive_wm.config import override, parse_overrides
        from drive_wm.datasets.parallel import worker_count
        from drive_wm.datasets.shards import ShardSpec, find_shards, pack_sources
        from drive_wm.training.tokens import CheckpointEncoder

        spec, encode = override(ShardSpec(), parse_overrides(set_)), CheckpointEncoder(tokens) if tokens else None
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("drives")
            folders = pack_sources(source, out, spec, workers=1 if encode else worker_count(workers), encode=encode,
                                   progress=lambda done, total: bar.update(task, completed=done, total=total), to=to)
        return {"folders": [{"folder": folder.name, "clips": len(find_shards(folder)),
                             "megabytes": round(sum(f.stat().st_size for f in folder.iterdir()) / 1e6, 1)}
                            for folder in folders]}

    if not source:
        raise typer.BadParameter("give --source KIND:PATH, what to pack")
    _do("data-pack", out, False, pack)


@data.command("bench")
def data_bench(source: SourceOption = "town:0-7", logs: LogsOption = 8, out: OutOption = None, seed: SeedOption = 0,
               overwrite: OverwriteOption = False, set_: SetOption = [],
               tokens: Annotated[str | None, Option("--tokens", metavar="CHECKPOINT", help="Tokens too.")] = None,
               ) -> None:
    """Clips a second of every format that training could read from, in one run."""
    def measure(out: Path) -> None:
        from dataclasses import asdict

        from drive_wm.config import override, parse_overrides
        from drive_wm.datasets.shard_bench import bench
        from drive_wm.datasets.shards import ShardSpec
        from drive_wm.eval.run_folder import RunFolder
        from drive_wm.training.tokens import CheckpointEncoder

        run, encode = RunFolder(out, "data-bench", seed=seed), CheckpointEncoder(tokens) if tokens else None
        rows = bench(source, logs=logs, spec=override(ShardSpec(), parse_overrides(set_)), seed=seed, encode=encode)
        run.finish({"formats": [asdict(row) for row in rows]})

    _do("data-bench", out, overwrite, measure)


@data.command("tokens")
def data_tokens(source: SourceOption, log: LogOption = None, out: OutOption = None, seed: SeedOption = 0,
                overwrite: OverwriteOption = False, checkpoint: CheckpointOption = "tiny") -> None:
    """A drive as the model sees it: tokens and what they stand for."""
    _do("tokens", out, overwrite, "drive_wm.use:tokens", source=source, log=log, seed=seed, checkpoint=checkpoint)


# --- train --------------------------------------------------------------------------------------------------------


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
    _do("train-ego-status", out, False, "drive_wm.planners.ego_status_training:train", source=source, seed=seed,
        check=check)


@train.command("probe")
def train_probe(out: OutOption = None, seed: SeedOption = 0) -> None:
    """Train the small network by which evaluate-world reads pictures; ten minutes of one core."""
    _do("train-probe", out, False, "drive_wm.eval.world.probe_training:train_probe", seed=seed)


def _train(part: str, name: str, out: Path | None, pairs: list[str], **options: Any) -> None:
    from drive_wm.config import parse_overrides

    _resumable(out, options["resume"])
    _do(f"train-{part}", out, False, f"drive_wm.training.train:train_{part}", name=name,
        overrides=parse_overrides(pairs), **options)


# --- use ----------------------------------------------------------------------------------------------------------


@app.command()
def generate(source: SourceOption, log: LogOption = None, out: OutOption = None, seed: SeedOption = 0,
             overwrite: OverwriteOption = False, checkpoint: CheckpointOption = "tiny", start: StartOption = 2.0,
             horizon: HorizonOption = 4.0, actions: ActionsOption = "log", mode: ModeOption = "given",
             camera: CameraOption = [], prompt: PromptOption = None) -> None:
    """The future that the model expects, in every camera."""
    _do("generate", out, overwrite, "drive_wm.use:generate", source=source, log=log, seed=seed, checkpoint=checkpoint,
        start_s=start, horizon_s=horizon, actions=actions, mode=mode, cameras=camera or None, prompt=prompt)


@app.command()
def plan(source: SourceOption, log: LogOption = None, out: OutOption = None, seed: SeedOption = 0,
         overwrite: OverwriteOption = False, checkpoint: CheckpointOption = "tiny", start: StartOption = 2.0,
         planner: PlannerOption = "direct") -> None:
    """Where the ego would go, in its cameras and from above."""
    _do("plan", out, overwrite, "drive_wm.use:plan", source=source, log=log, seed=seed, checkpoint=checkpoint,
        start_s=start, planner=planner)


@app.command()
def explain(source: SourceOption, log: LogOption = None, out: OutOption = None, seed: SeedOption = 0,
            overwrite: OverwriteOption = False, checkpoint: CheckpointOption = "tiny", start: StartOption = 2.0,
            question: QuestionOption = None) -> None:
    """What the model decides, and the causes it gives."""
    _do("explain", out, overwrite, "drive_wm.use:explain", source=source, log=log, seed=seed, checkpoint=checkpoint,
        start_s=start, question=question)


@app.command()
def evaluate(source: MixOption, log: LogOption = None, out: OutOption = None, seed: SeedOption = 0,
             overwrite: OverwriteOption = False, checkpoint: CheckpointOption = "tiny", planner: PlannersOption = [],
             renderer: RenderersOption = ["layout"],
             duration: Annotated[float | None, Option(metavar="SECONDS", help="Of a drive; the protocol's.")] = None,
             protocol: Annotated[str, Option(metavar="NAME", help="drive, pdms, epdms, nuplan_cls, ncap, hd_score, "
                                             "alpasim, l2_uniad or l2_stp3.")] = "drive@1.0",
             traffic: Annotated[str | None, Option(metavar="NAME", help="log or idm; the protocol's.")] = None,
             tracking: Annotated[str | None, Option(metavar="NAME", help="lqr or perfect; the protocol's.")] = None,
             planner_timeout: Annotated[float | None, Option(metavar="SECONDS", help="A planner's, a plan.")] = None,
             camera: CameraOption = [], workers: WorkersOption = 0, resume: ResumeOption = False) -> None:
    """Planners drive in the closed loop; how they fared. Interrupted, --resume goes on from the last finished drive."""
    _resumable(out, resume)
    _do("evaluate", out, overwrite, "drive_wm.eval.command:evaluate", source=source, log=log, seed=seed,
        checkpoint=checkpoint, planners=planner, renderers=renderer, duration_s=duration, protocol=protocol,
        traffic=traffic, tracking=tracking, planner_timeout_s=planner_timeout, cameras=camera,
        workers=workers, resume=resume)


@app.command()
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


@app.command()
def compare(runs: Annotated[list[Path], Argument(metavar="RUN RUN", help="Run folders of evaluate.")],
            out: OutOption = None, seed: SeedOption = 0, overwrite: OverwriteOption = False,
            across: Annotated[bool, Option("--across-protocols", help="Also where they were judged by different rules.")
                              ] = False) -> None:
    """Evaluations, planner by planner over the scenes they share, against the first; and what differs in them."""
    _do("compare", out, overwrite, "drive_wm.eval.compare:compare", runs=runs, seed=seed, across_protocols=across)


@app.command("evaluate-world")
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

    _do("evaluate-world", out, overwrite, "drive_wm.eval.world.command:evaluate_world", seed=seed,
        checkpoint=checkpoint, starts=starts, modes=mode or MODES, workers=workers, resume=resume,
        recorded=None if recorded is None else str(recorded))


@app.command()
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
    _resumable(out, resume)
    _do("validity", out, overwrite, "drive_wm.eval.validity:validity", source=source, seed=seed, checkpoint=checkpoint,
        planners=planner, reference=reference, simulated=simulated, duration_s=duration, protocol=protocol,
        cameras=camera, logs=logs, workers=workers, resume=resume)


@app.command()
def benchmark(source: SourceOption = "town:110000-110059", out: OutOption = None, seed: SeedOption = 0,
              overwrite: OverwriteOption = False, checkpoint: CheckpointOption = "tiny",
              starts: Annotated[int, Option("--starts", min=1, help="At most so many moving starts.")] = 24) -> None:
    """How good and how fast a checkpoint is."""
    _do("benchmark", out, overwrite, "drive_wm.eval.benchmark:benchmark", source=source, seed=seed,
        checkpoint=checkpoint, starts=starts)


@app.command()
def speed(source: SourceOption = "town:110000", out: OutOption = None, seed: SeedOption = 0,
          overwrite: OverwriteOption = False, checkpoint: CheckpointOption = "tiny",
          planner: PlannerOption = "camera", renderer: RenderersOption = ["layout", "world"],
          duration: DurationOption = 15.0) -> None:
    """What an evaluation costs on this machine: steps a second, drives an hour, memory."""
    _do("speed", out, overwrite, "drive_wm.eval.speed:speed", source=source, seed=seed, checkpoint=checkpoint,
        renderers=renderer, planner=planner, duration_s=duration)


@app.command()
def language(source: SourceOption = "town:110000-110009", log: LogOption = None, out: OutOption = None,
             seed: SeedOption = 0, overwrite: OverwriteOption = False, checkpoint: CheckpointOption = "tiny",
             moments: Annotated[int, Option("--moments", metavar="N", min=1, help="At most so many moments.")] = 20,
             removals: Annotated[bool, Option(help="Take things out of what the model sees, too.")] = True) -> None:
    """Do the model's words belong to what it sees, decides and plans?"""
    _do("language", out, overwrite, "drive_wm.eval.language:language", source=source, log=log, seed=seed,
        checkpoint=checkpoint, moments=moments, removals=removals)


@app.command()
def demo(out: OutOption = None, seed: SeedOption = 0, overwrite: OverwriteOption = False,
         checkpoint: CheckpointOption = "tiny") -> None:
    """All of it on a drive that comes along: one report."""
    _do("demo", out, overwrite, "drive_wm.use:demo", seed=seed, checkpoint=checkpoint)


@app.command()
def info(checkpoint: CheckpointOption = "tiny") -> None:
    """What a checkpoint is, and what this machine offers."""
    from drive_wm.use import info

    _results(checkpoint, info(checkpoint))


def _show_version(asked: bool) -> None:
    if asked:
        print(f"drive-wm {__version__}")
        raise typer.Exit()


VersionOption = Annotated[bool, Option("--version", callback=_show_version, is_eager=True, help="Show the version.")]


@app.callback()
def _before(version: VersionOption = False) -> None:
    pass


# --- shared -------------------------------------------------------------------------------------------------------


def _do(command: str, out: Path | None, overwrite: bool, function: str | Callable[..., Any], /,
        **options: Any) -> None:
    """Calls ``function(out=..., **options)``, "module:name" imported now, and shows what its run folder says.

    A run that fails leaves nothing half-written behind; only a training keeps its checkpoints.
    """
    from drive_wm.config import load_object
    from drive_wm.eval.run_folder import clear_run, next_folder, read_summary

    folder = out or next_folder(command)
    if overwrite:
        clear_run(folder, command)
    call = load_object(function) if isinstance(function, str) else function
    print(f"run folder: {folder}", flush=True)
    with _nothing_half_written(folder, command):
        answer = call(out=folder, **options)
    summary = read_summary(folder)
    results = summary["results"] if summary is not None else answer
    if isinstance(results, Mapping):
        _results(command, results)
    if (folder / "report.html").is_file():
        print(f"report: {folder / 'report.html'}")


def _resumable(out: Path | None, resume: bool) -> None:
    if resume and out is None:
        raise typer.BadParameter("--resume needs --out, the folder of the run to continue")


@contextmanager
def _nothing_half_written(folder: Path, command: str) -> Iterator[None]:
    from drive_wm.eval.run_folder import clear_run, read_summary

    before = read_summary(folder) if folder.is_dir() else None
    try:
        yield
    except BaseException:
        after = read_summary(folder) if folder.is_dir() else None
        started = after is not None and not after["complete"] and after != before
        if started and not command.startswith(("train-", "evaluate", "validity")):
            clear_run(folder, command)
        raise


def _drives(source: str | list[str], log: str | None) -> tuple[Any, list[str]]:
    """The opened source, and the ids asked for: the one named, or all."""
    from drive_wm.datasets.sources import open_source
    from drive_wm.types import InputError

    opened = open_source(source)
    ids = [log] if log is not None else opened.log_ids()
    if not ids:
        raise InputError(f"source {source if isinstance(source, str) else ', '.join(source)}: holds no drive")
    return opened, ids


def _results(title: str, results: Mapping[str, Any]) -> None:
    """Plain values as one table, every list of records as a table of its own."""
    tables = {key: value for key, value in results.items()
              if isinstance(value, list) and value and all(isinstance(row, dict) for row in value)}
    _facts(title, {key: value for key, value in results.items() if key not in tables})
    for name, rows in tables.items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        _table(name.replace("_", " "), columns, [[row.get(column) for column in columns] for row in rows])


def _sections(results: Mapping[str, Any]) -> list[Any]:
    """What ``_results`` prints, as sections of a report."""
    from drive_wm.eval.report import Heading, KeyValues, Table

    tables = {key: value for key, value in results.items() if isinstance(value, list)}
    sections: list[Any] = [KeyValues({key: value for key, value in results.items() if key not in tables})]
    for name, rows in tables.items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        sections += [Heading(name.replace("_", " ")), Table(columns, [[row.get(c) for c in columns] for row in rows])]
    return sections


def _facts(title: str, facts: Mapping[str, Any]) -> None:
    if facts:
        _table(title, ["", ""], [(key, _say(value)) for key, value in facts.items()])


def _say(value: Any) -> str:
    from drive_wm.eval.report import cell

    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_say(item)}" for key, item in value.items())
    return ", ".join(map(_say, value)) or "none" if isinstance(value, (list, tuple)) else cell(value)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table; one of many columns is turned, so that it fits into a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from drive_wm.eval.report import Table as Values
    from drive_wm.eval.report import cells, numeric_columns

    values = Values(columns, [[_say(v) if isinstance(v, (list, tuple, Mapping)) else v for v in row] for row in rows])
    texts, numbers = cells(values), numeric_columns(values)
    heads = [column.replace("_", " ") for column in columns]
    if turned := len(heads) > 8 >= len(rows):
        heads, *texts = [list(line) for line in zip(*[heads, *texts])]
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_header=any(heads))
    for i, head in enumerate(heads):
        right = i > 0 and (turned or i in numbers)
        table.add_column(head, justify="right" if right else "left", overflow="fold")
    for line in texts:
        table.add_row(*line)
    Console(highlight=False, markup=False).print(table)


# --- the way in ---------------------------------------------------------------------------------------------------

# ClickException, by its public heir: newer typers carry click inside them, older ones depend on it.
_ClickException: Any = typer.BadParameter.__mro__[2]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0 done, 1 unusable input, 2 misspelt command, 130 interrupted. One line an error."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """The exit code of a command; a traceback only for our own mistakes, or with DRIVE_WM_DEBUG=1."""
    from drive_wm.types import InputError

    try:
        code = app(arguments, standalone_mode=False, prog_name="drive-wm")
        return code if isinstance(code, int) else 0
    except _ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.ctx.get_help())
            return 2
        return _fail(_misspelt(error), 2)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (InputError, OSError) as error:
        if os.environ.get("DRIVE_WM_DEBUG") == "1":
            raise
        return _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)


def _fail(message: str, code: int) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code


def _misspelt(error: Any) -> str:
    """A usage error in one line, with the nearest command or option and where to read more."""
    message, context = str(error.format_message()).rstrip("."), getattr(error, "ctx", None)
    if context is None:
        return message
    typed = getattr(error, "option_name", None) or message.partition("'")[2].partition("'")[0]
    if message.startswith("No such command"):
        message = f"No such command {typed!r}" + _nearest(typed, context.command.list_commands(context))
    elif message.startswith("No such option"):
        known = [name for parameter in context.command.params for name in parameter.opts]
        message = f"No such option {typed!r}" + _nearest(typed, known)
    return f"{message} (see {context.command_path} --help)"


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


if __name__ == "__main__":
    main()
