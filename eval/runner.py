"""Drives by the hundred: in parallel processes, each written down as it ends, so that a killed run goes on from there.

A drive depends on its order, its log, its planner and its renderer alone; so the tables are the same bytes whatever the
number of workers, and whether or not the run was cut off.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from drive_wm.config import parse_overrides
from drive_wm.datasets.parallel import in_parallel, worker_count
from drive_wm.datasets.sources import open_source
from drive_wm.eval.evaluate import drive, drive_seed
from drive_wm.eval.metrics import References, Road
from drive_wm.eval.parts import Part, part_name, read_part, slug, step_columns, write_part
from drive_wm.eval.protocols import Protocol
from drive_wm.eval.references import references_for
from drive_wm.eval.run_folder import RunFolder
from drive_wm.eval.scenarios import gate, rules_for, with_lead_in
from drive_wm.eval.scene_view import drive_arrays, filming, infractions, scene_part
from drive_wm.eval.sensors import SensorRenderer, make_renderer
from drive_wm.planners.base import Planner
from drive_wm.planners.registry import make_planner, takes_checkpoint
from drive_wm.types import ByteArray, InputError, Log, Rig

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Order:
    """Everything that a drive depends on, besides its log, planner and renderer. cameras: only these; none is all."""

    sources: tuple[str, ...]
    planners: tuple[str, ...]
    renderers: tuple[str, ...]
    protocol: Protocol
    seed: int = 0
    checkpoint: str = "tiny"
    planner_timeout_s: float | None = None
    cameras: tuple[str, ...] = ()

    def planner(self, spec: str) -> Planner:
        """Of ``NAME`` or ``NAME,option=value,...``, which is then its name in tables."""
        name, *pairs = spec.split(",")
        options: dict[str, Any] = {"checkpoint": self.checkpoint} if takes_checkpoint(name) else {}
        planner = make_planner(name, timeout_s=self.planner_timeout_s, **options, **_values(pairs))
        if pairs:
            setattr(planner, "name", spec.rpartition(":")[2])
        return planner

    def renderer(self, name: str) -> SensorRenderer:
        return make_renderer(name, **({"checkpoint": self.checkpoint} if name == "world" else {}))


def _values(pairs: Sequence[str]) -> dict[str, Any]:
    """['threshold=40', 'explain=true'] -> numbers, truth values and text, as JSON has them."""
    found: dict[str, Any] = {}
    for name, text in parse_overrides(pairs).items():
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


@dataclass(frozen=True)
class Cast:
    """A planner of an order as it calls itself, and the renderers that it drives with ("none": it sees no images)."""

    spec: str
    name: str
    renderers: tuple[str, ...]
    height_px: int | None


Job = tuple[Order, str, str, tuple[tuple[str, str, str], ...], int | None]


def casts(order: Order) -> list[Cast]:
    """Makes every planner and renderer once, so that a wrong name or option is told before the first drive."""
    found = []
    eyes = [order.renderer(name) for name in order.renderers]
    heights = [_height(eye) for eye in eyes]
    for spec in order.planners:
        planner = order.planner(spec)
        sees = "frames" in planner.requires
        if sees and not order.renderers:
            raise InputError(f"planner {planner.name} requires frames: give one or more renderers such as 'layout'")
        found.append(Cast(spec, planner.name, order.renderers if sees else ("none",), _height(planner)))
        close(planner)
    for kind, names in (("planner", [c.name for c in found]), ("renderer", list(order.renderers))):
        if len(set(names)) < len(names):
            raise InputError(f"two of one name in {kind}s {names}: their rows could not be told apart")
    if not found:
        raise InputError("no planner to evaluate, expected one or more names such as 'idm'")
    known = [h for h in [*(c.height_px for c in found), *heights] if h is not None]
    return [replace(cast, height_px=known[0] if known else None) for cast in found]


def close(planner: Planner) -> None:
    """Ends a planner's process, where it has one."""
    end = getattr(planner, "close", None)
    if callable(end):
        end()


def _height(part: object) -> int | None:
    """The image height that a model among planners and renderers wants."""
    model = getattr(part, "model", None)
    return None if model is None else int(model.config.height)


# --- all drives ---------------------------------------------------------------------------------------------------


def run_drives(run: RunFolder, order: Order, log_ids: Sequence[str], workers: int = 0,
               progress: Callable[[int, int, str], None] | None = None, engine: str = "local") -> list[list[Part]]:
    """Every planner drives every log, or what is left of that; for each log its scene's part, then the drives'.

    engine: of ``parallel.ENGINES``. progress: called with (drives done, drives in all, log id), first with those of an
    earlier run. Results are in the order of the arguments.
    """
    crew = casts(order)
    pairs = [(cast.spec, cast.name, eye) for cast in crew for eye in cast.renderers]
    names = {log_id: [f"parts/{slug(log_id)}/scene.safetensors"] + [part_name(log_id, p, e) for _, p, e in pairs]
             for log_id in log_ids}
    run.keep = True  # what is finished from here on stays, to be resumed
    run.expect([name for several in names.values() for name in several])
    _sweep(run.path)
    left = {log_id: tuple(pair for pair, name in zip(pairs, names[log_id][1:]) if not (run.path / name).is_file())
            for log_id in log_ids}
    count = worker_count(workers)
    jobs = _jobs(order, run.path, left, crew[0].height_px, count)
    total = len(pairs) * len(log_ids)
    done = total - sum(len(todo) for todo in left.values())
    tell = progress or (lambda done, total, log_id: None)
    tell(done, total, "")
    with one_thread():
        for index, made in in_parallel(run_job, jobs, count, engine):
            done += made
            tell(done, total, jobs[index][2])
    return [[read_part(run.path / name) for name in names[log_id]] for log_id in log_ids]


def _jobs(order: Order, folder: Path, left: Mapping[str, tuple[tuple[str, str, str], ...]], height_px: int | None,
          workers: int) -> list[Job]:
    """One a log; where there are fewer logs than workers, one a drive."""
    busy = {log_id: todo for log_id, todo in left.items() if todo}
    if len(busy) >= workers:
        return [(order, str(folder), log_id, todo, height_px) for log_id, todo in busy.items()]
    return [(order, str(folder), log_id, (pair,), height_px) for log_id, todo in busy.items() for pair in todo]


def _sweep(folder: Path) -> None:
    """Removes what a killed run was writing."""
    for path in folder.glob("parts/*/.*.part.safetensors"):
        path.unlink(missing_ok=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """One core a process: several of many threads each starve one another, and sums would depend on their number."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch is not None else 0
    if torch is not None:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
        if torch is not None:
            torch.set_num_threads(threads)


# --- in a worker --------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """A log with what all of its drives share. unfit: why it is no scene of this protocol, nothing if it is."""

    log: Log
    rules: Protocol
    rig: Rig
    references: References
    road: Road | None
    unfit: list[str]


def stage_of(order: Order, log: Log, height_px: int | None) -> Stage:
    """The log made ready: a scenario gets its past, and the drives that others are compared with are driven."""
    from drive_wm.datasets.rigs import at_height

    log = with_lead_in(log)
    rules, seed = rules_for(log, order.protocol), drive_seed(order.seed, log)
    rig = log.rig.subset(order.cameras) if order.cameras else log.rig
    rig = rig if height_px is None else at_height(rig, height_px)
    references = references_for(log, rules, seed)
    unfit = gate(log, rules, references, seed) if rules.name == "ncap" else []
    return Stage(log, rules, rig, references, Road(log.map) if log.map is not None else None, unfit)


@lru_cache(maxsize=2)
def _renderer(order: Order, name: str) -> SensorRenderer:
    return order.renderer(name)


@lru_cache(maxsize=4)
def _heavy_planner(order: Order, spec: str) -> Planner:
    return order.planner(spec)


@lru_cache(maxsize=1)
def _stage(order: Order, log_id: str, height_px: int | None) -> Stage:
    return stage_of(order, open_source(order.sources).load(log_id), height_px)


def run_job(job: Job) -> int:
    """Drives and writes down; the number of drives."""
    order, folder, log_id, todo, height_px = job
    stage = _stage(order, log_id, height_px)
    for spec, name, eye in todo:
        part, scene = drive_part(order, stage, spec, eye)
        path = Path(folder) / f"parts/{slug(log_id)}/scene.safetensors"
        if not path.is_file():
            write_part(path, scene())
        write_part(Path(folder) / part_name(log_id, name, eye), part)
    return len(todo)


def drive_part(order: Order, stage: Stage, spec: str, eye: str) -> tuple[Part, Callable[[], Part]]:
    """A drive, and how to make what the report shows of its scene."""
    heavy = takes_checkpoint(spec.partition(",")[0])
    planner = _heavy_planner(order, spec) if heavy else order.planner(spec)
    film: list[ByteArray] = []
    renderer = None if eye == "none" else _renderer(order, eye)
    try:
        result = drive(stage.log, planner, renderer, stage.rules, order.seed, stage.rig,
                       filming(film, stage.rig) if renderer is not None else None, stage.references, stage.road,
                       order.protocol)
    finally:
        if not heavy:
            close(planner)
    rollout, scores = result.rollout, result.scores
    row = {**result.row, "scenario": stage.log.metadata.get("scenario", {}).get("kind"), "unfit": stage.unfit}
    part = Part(row, step_columns(rollout, scores), infractions(rollout, scores),
                drive_arrays(rollout, film, with_agents=order.protocol.traffic != "log"))
    return part, lambda: scene_part(stage.log, stage.rig, rollout)


# --- seen by a person ---------------------------------------------------------------------------------------------


@contextmanager
def progress_shown(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """Yields what ``run_drives`` calls: a bar with scenes a second and the time left; lines without a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    begun, first = time.monotonic(), -1
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
               TimeElapsedColumn())
    live = sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=not live) as bar:
        task: Any = bar.add_task(title, total=None, rate="")

        def step(done: int, total: int, what: str) -> None:
            nonlocal first
            if first < 0:
                first = done
                bar.update(task, total=total, completed=done)
                return
            said = rate(time.monotonic() - begun, done - first, total - done)
            bar.update(task, total=total, completed=done, rate=said)
            if not live:
                print(f"{done}/{total}  {what}  {said}", flush=True)

        yield step


def rate(spent_s: float, made: int, left: int) -> str:
    """'0.52 scenes/s  0:03:20 left'."""
    seconds = round(spent_s / max(made, 1) * left)
    left_hms = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{made / max(spent_s, 1e-9):.2f} scenes/s  {left_hms} left"


__all__ = ["Cast", "Order", "Stage", "casts", "drive_part", "one_thread", "progress_shown", "run_drives", "run_job",
           "stage_of"]
