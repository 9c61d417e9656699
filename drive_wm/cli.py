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
def data_list(source: Annotated[str | None, Option("--source", metavar="KIND:PATH")] = None,
              logs: LogsOption = 20) -> None:
    """The drives of a source; without one, the kinds of source there are."""
    from drive_wm.datasets.sources import open_source, source_kinds

    if source is None:
        _table("kinds of source", ["kind", "reader"], list(source_kinds().items()))
        return
    opened = open_source(source)
    ids = opened.log_ids()
    rows = [(log.id, (log.end_us - log.start_us) / 1e6, len(log.rig.cameras), len(log.tracks), log.map is not None,
             log.split, log.licence) for log in map(opened.load, ids[:logs])]
    _table(source, ["log", "seconds", "cameras", "tracks", "map", "split", "licence"], rows)
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
def data_check(source: SourceOption, log: LogOption = None, out: OutOption = None, seed: SeedOption = 0,
               overwrite: OverwriteOption = False) -> None:
    """Health: gaps, frozen frames, jumps, missing cameras, units."""
    def examine(out: Path) -> None:
        from drive_wm.datasets.health import check
        from drive_wm.eval.run_folder import RunFolder

        opened, ids = _drives(source, log)
        reports = [check(opened.load(log_id)) for log_id in ids]
        for report in reports:
            print(report.to_text())
        run = RunFolder(out, "data-check", seed=seed)
        run.write_json("health.json", [report.to_dict() for report in reports])
        run.finish({"logs": len(reports), "damaged": [report.log_id for report in reports if not report.ok]})

    _do("data-check", out, overwrite, examine)


@data.command("convert")
def data_convert(source: SourceOption, log: LogOption = None, out: OutOption = None, seed: SeedOption = 0) -> None:
    """Write drives in nuScenes format."""
    def convert(out: Path) -> None:
        from drive_wm.datasets.nuscenes_writer import write_nuscenes

        opened, ids = _drives(source, log)
        write_nuscenes((opened.load(log_id) for log_id in ids), out)

    _do("data-convert", out, False, convert)


@data.command("town")
def data_town(logs: LogsOption = 8, out: OutOption = None, seed: SeedOption = 0) -> None:
    """Generate drives through the town, in nuScenes format."""
    def build(out: Path) -> None:
        from drive_wm.datasets.nuscenes_writer import write_nuscenes
        from drive_wm.datasets.town import generate as drive_through

        write_nuscenes((drive_through(seed + i) for i in range(logs)), out)

    _do("data-town", out, False, build)


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


def _train(part: str, name: str, out: Path | None, pairs: list[str], **options: Any) -> None:
    from drive_wm.config import parse_overrides

    if options["resume"] and out is None:
        raise typer.BadParameter("--resume needs --out, the folder of the run to continue")
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
def evaluate(source: SourceOption, log: LogOption = None, out: OutOption = None, seed: SeedOption = 0,
             overwrite: OverwriteOption = False, checkpoint: CheckpointOption = "tiny", planner: PlannersOption = [],
             renderer: RenderersOption = ["layout"], duration: DurationOption = 15.0) -> None:
    """Planners drive in the closed loop; how they fared."""
    _do("evaluate", out, overwrite, "drive_wm.eval.command:evaluate", source=source, log=log, seed=seed,
        checkpoint=checkpoint, planners=planner, renderers=renderer, duration_s=duration)


@app.command()
def benchmark(source: SourceOption = "town:110000-110059", out: OutOption = None, seed: SeedOption = 0,
              overwrite: OverwriteOption = False, checkpoint: CheckpointOption = "tiny",
              starts: Annotated[int, Option("--starts", min=1, help="At most so many moving starts.")] = 24) -> None:
    """How good and how fast a checkpoint is."""
    _do("benchmark", out, overwrite, "drive_wm.eval.benchmark:benchmark", source=source, seed=seed,
        checkpoint=checkpoint, starts=starts)


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


@contextmanager
def _nothing_half_written(folder: Path, command: str) -> Iterator[None]:
    from drive_wm.eval.run_folder import clear_run, read_summary

    before = read_summary(folder) if folder.is_dir() else None
    try:
        yield
    except BaseException:
        after = read_summary(folder) if folder.is_dir() else None
        started = after is not None and not after["complete"] and after != before
        if started and not command.startswith("train-"):
            clear_run(folder, command)
        raise


def _drives(source: str, log: str | None) -> tuple[Any, list[str]]:
    """The opened source, and the ids asked for: the one named, or all."""
    from drive_wm.datasets.sources import open_source
    from drive_wm.types import InputError

    opened = open_source(source)
    ids = [log] if log is not None else opened.log_ids()
    if not ids:
        raise InputError(f"source {source}: holds no drive")
    return opened, ids


def _results(title: str, results: Mapping[str, Any]) -> None:
    """Plain values as one table, every list of records as a table of its own."""
    tables = {key: value for key, value in results.items()
              if isinstance(value, list) and value and all(isinstance(row, dict) for row in value)}
    _facts(title, {key: value for key, value in results.items() if key not in tables})
    for name, rows in tables.items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        _table(name.replace("_", " "), columns, [[row.get(column) for column in columns] for row in rows])


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
