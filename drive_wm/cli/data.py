"""`drive-wm data`: look at, check, convert, generate, curate, pack and tokenize drives."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from drive_wm.cli.options import (
    CheckpointOption,
    DurationOption,
    EngineOption,
    LogOption,
    LogsOption,
    MixOption,
    Option,
    OutOption,
    OverwriteOption,
    SeedOption,
    SetOption,
    SourceOption,
    WorkersOption,
    group,
)
from drive_wm.cli.shared import do, drives, sections, table

data = group("Look at, check, convert, generate and tokenize drives.")


@data.command("list")
def data_list(source: MixOption = [], logs: LogsOption = 20) -> None:
    """The drives of a source; without one, the kinds of source there are."""
    from drive_wm.datasets.sources import open_source, source_kinds

    if not source:
        table("kinds of source", ["kind", "reader"], list(source_kinds().items()))
        return
    opened = open_source(source)
    ids = opened.log_ids()
    rows = [(log.id, (log.end_us - log.start_us) / 1e6, len(log.rig.cameras), len(log.tracks), log.map is not None,
             log.split, log.licence) for log in map(opened.load, ids[:logs])]
    table(", ".join(source), ["log", "seconds", "cameras", "tracks", "map", "split", "licence"], rows)
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

        opened, ids = drives(source, log)
        drive = opened.load(ids[0])
        with RunFolder(out, "data-show", seed=seed) as run:
            write_png(run.file("contact_sheet.png"), contact_sheet_of(drive))
            write_png(run.file("topdown.png"), topdown_of(drive))
            run.finish(describe(drive))

    do("data-show", out, overwrite, show)


@data.command("check")
def data_check(source: MixOption, log: LogOption = None, out: OutOption = None, seed: SeedOption = 0,
               overwrite: OverwriteOption = False) -> None:
    """Health: gaps, frozen frames, jumps, missing cameras, units."""
    def examine(out: Path) -> None:
        from drive_wm.eval.health_page import check_drives
        from drive_wm.eval.run_folder import RunFolder

        opened, ids = drives(source, log)
        with RunFolder(out, "data-check", seed=seed) as run:
            reports = check_drives(opened, ids, run, lambda report: print(report.to_text()))
            run.finish({"logs": len(reports), "damaged": [report.log_id for report in reports if not report.ok]})

    do("data-check", out, overwrite, examine)


@data.command("convert")
def data_convert(source: MixOption, log: LogOption = None, out: OutOption = None, seed: SeedOption = 0,
                 sweep_hz: Annotated[float | None, Option("--sweep-hz", metavar="N", help="The most images a second; 0 "
                                                          "for keyframes alone.")] = None) -> None:
    """Write drives in nuScenes format: keyframes twice a second, and between them what was recorded, up to 12 Hz."""
    def convert(out: Path) -> None:
        from drive_wm.datasets.nuscenes_writer import write_nuscenes

        opened, ids = drives(source, log)
        write_nuscenes((opened.load(log_id) for log_id in ids), out, sweep_hz=sweep_hz)

    do("data-convert", out, False, convert)


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

    do("data-town", out, False, build)


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

        _, ids = drives(source, log)
        count = worker_count(workers)
        with RunFolder(out, "data-audit") as run:
            with progress_bar("audited", len(ids)) as step:
                audits = audit.audit(source, ids, workers=count, progress=step)
            results, violations = tally.summary(audits), tally.violation_count(audits)
            run.write_parquet("violations.parquet", tally.rows(audits))
            pictures = []
            if sheet:
                write_png(run.file("scenes.png"), varied_scenes(source, audits, sheet, workers=count))
                pictures = [Picture(run.path / "scenes.png", "varied scenes, with what should be in them")]
            write_report(run, f"Audit of {source}", [*sections(results), Failures(tally.lines(audits)), *pictures])
            run.finish(results)

    do("data-audit", out, overwrite, examine)
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
                engine: EngineOption = "local") -> None:
    """Clips worth training on: cut, filtered, deduplicated, split, captioned, weighed."""
    from drive_wm.config import parse_overrides

    do("data-curate", out, overwrite, "drive_wm.eval.curation_page:curate_to_folder", sources=source,
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
        from drive_wm.training.tokens import CheckpointCodec

        spec, tokenizer = override(ShardSpec(), parse_overrides(set_)), CheckpointCodec(tokens) if tokens else None
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("drives")
            folders = pack_sources(source, out, spec, workers=workers or 1 if tokenizer else worker_count(workers),
                                   tokenizer=tokenizer,
                                   progress=lambda done, total: bar.update(task, completed=done, total=total), to=to)
        return {"folders": [{"folder": folder.name, "clips": len(find_shards(folder)),
                             "megabytes": round(sum(f.stat().st_size for f in folder.iterdir()) / 1e6, 1)}
                            for folder in folders]}

    if not source:
        raise typer.BadParameter("give --source KIND:PATH, what to pack")
    do("data-pack", out, False, pack)


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
        from drive_wm.training.tokens import CheckpointCodec

        with RunFolder(out, "data-bench", seed=seed) as run:
            rows = bench(source, logs=logs, spec=override(ShardSpec(), parse_overrides(set_)), seed=seed,
                         tokenizer=CheckpointCodec(tokens) if tokens else None)
            run.finish({"formats": [asdict(row) for row in rows]})

    do("data-bench", out, overwrite, measure)


@data.command("tokens")
def data_tokens(source: SourceOption, log: LogOption = None, out: OutOption = None, seed: SeedOption = 0,
                overwrite: OverwriteOption = False, checkpoint: CheckpointOption = "tiny") -> None:
    """A drive as the model sees it: tokens and what they stand for."""
    do("tokens", out, overwrite, "drive_wm.use:tokens", source=source, log=log, seed=seed, checkpoint=checkpoint)
