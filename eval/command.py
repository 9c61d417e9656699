"""``drive-wm evaluate``: planners x renderers x logs -> tables, Parquet and one report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from drive_wm.eval import report, vehicle
from drive_wm.eval.parts import Part, Row, step_rows
from drive_wm.eval.protocols import Protocol, get_protocol, stamp
from drive_wm.eval.run_folder import RunFolder, plain
from drive_wm.eval.runner import Order, casts, drive_part, one_thread, progress_shown, run_drives, stage_of
from drive_wm.eval.scene_view import scene_section
from drive_wm.eval.tables import failures, head_sections, planner_rows, protocol_sections
from drive_wm.eval.vehicle import make_vehicle
from drive_wm.planners.registry import PLANNERS
from drive_wm.types import InputError, Log

DYNAMICS = {"accel_lag_s": vehicle.ACCEL_LAG_S, "steer_lag_s": vehicle.STEER_LAG_S, "max_steer_rad":
            vehicle.MAX_STEER_RAD, "tracker_horizon_s": vehicle.HORIZON * vehicle.STEP_S, "q_lon": vehicle.Q_LON,
            "r_lon": vehicle.R_LON, "q_lat": plain(vehicle.Q_LAT.diagonal()), "r_lat": vehicle.R_LAT,
            "jerk_penalty": vehicle.JERK_PENALTY, "curvature_rate_penalty": vehicle.CURVATURE_RATE_PENALTY}
ALWAYS = ("constant_velocity", "ego_status")  # without these rows a number says nothing


@dataclass
class DriveTable:
    """rows: one a planner and renderer. sections: of a report. stamp: protocols.stamp and the vehicle's parameters."""

    rows: list[Row]
    sections: list[Any]
    stamp: Row


def evaluate(source: str | Sequence[str], out: Path, seed: int = 0, checkpoint: str = "tiny", log: str | None = None,
             planners: Sequence[str] = (), renderers: Sequence[str] = ("layout",), duration_s: float | None = None,
             protocol: str = "drive@1.0", traffic: str | None = None, tracking: str | None = None, workers: int = 0,
             resume: bool = False, planner_timeout_s: float | None = None, cameras: Sequence[str] = (),
             engine: str = "local") -> list[Row]:
    """Lets planners (none named, or "all": every one of the table) drive the source's logs; writes the run folder.

    duration_s, traffic, tracking: the protocol's where not given; another one is named in the protocol's version.
    cameras: only these. workers: processes, 0 for one a core. engine: "local", or "ray" for many machines, which need
    ``out`` and the source in one place. resume: goes on with a run into ``out`` that was cut off.
    """
    from drive_wm.datasets.sources import open_source

    rules = varied(get_protocol(protocol), duration_s, traffic, tracking)
    sources = (source,) if isinstance(source, str) else tuple(source)
    order = Order(sources, chosen(planners), tuple(renderers), rules, seed, checkpoint, planner_timeout_s,
                  tuple(cameras))
    ids = [log] if log is not None else open_source(sources).log_ids()
    if not ids:
        raise InputError(f"source {', '.join(sources)}: holds no drive")
    with RunFolder(out, "evaluate", seed=seed, resume=resume) as run:
        claim_order(run, order, ids, resume)
        print(words_of(rules, ids, seed), flush=True)
        with progress_shown("drives") as step:
            scenes = run_drives(run, order, ids, workers, step, engine)
        table = tabulate(scenes, order, ids)
        write_tables(run, scenes)
        report.write_report(run, "Closed-loop evaluation", table.sections + protocol_sections(table.stamp),
                            ", ".join(sources))
        run.write_json("protocol.json", table.stamp)
        brief = {name: table.stamp[name] for name in ("protocol", "config_hash", "clips_hash", "version", "vehicle")}
        failed = failures([part.row for scene in scenes for part in scene[1:]])
        run.finish({"source": ", ".join(sources), **brief, "logs": ids, "failures": failed, "planners": table.rows})
    return table.rows


def chosen(planners: Sequence[str]) -> tuple[str, ...]:
    """Those named, or all, and always those without whom there is nothing to compare with."""
    names = list(PLANNERS) if not planners or "all" in planners else list(planners)
    return (*names, *(name for name in ALWAYS if name in PLANNERS and name not in names))


def varied(protocol: Protocol, duration_s: float | None = None, traffic: str | None = None,
           tracking: str | None = None) -> Protocol:
    """The protocol with another duration, traffic or tracking, which its version then names: scores of the two do not
    compare."""
    from drive_wm.eval.traffic import TRAFFIC

    for what, given, known in (("traffic", traffic, tuple(TRAFFIC)), ("tracking", tracking, ("lqr", "perfect"))):
        if given is not None and given not in known:
            raise InputError(f"{what} {given!r}, expected one of {', '.join(known)}")
    asked: dict[str, Any] = {"duration_s": duration_s, "traffic": traffic, "tracking": tracking}
    for name, value in asked.items():
        if value is not None and value != getattr(protocol, name):
            said = f"{value:g}s" if name == "duration_s" else value
            changed: dict[str, Any] = {name: value, "version": f"{protocol.version}+{said}"}
            protocol = replace(protocol, **changed)
    return protocol


def claim_order(run: RunFolder, order: Order, log_ids: Sequence[str], resume: bool) -> None:
    """order.json of this run; a resumed run has to be of the same order."""
    said = plain({"order": asdict(order), "logs": list(log_ids)})
    path = run.path / "order.json"
    if resume and path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        other = sorted(k for k in said["order"] if before.get("order", {}).get(k) != said["order"][k])
        other += ["logs"] if before.get("logs") != said["logs"] else []
        if other:
            raise InputError(f"--resume {run.path}: begun with other {', '.join(other)}; give the same or a new folder")
    run.write_json("order.json", said)


def words_of(rules: Protocol, log_ids: Sequence[str], seed: int) -> str:
    """Everything without which a score cannot be compared, in a sentence."""
    marked = stamp(rules, log_ids, seed)
    return (f"{rules.id}: total = {rules.formula}; {rules.duration_s:g} s a drive at {rules.rate_hz:g} Hz, "
            f"{rules.traffic} traffic, seed {seed}, {rules.vehicle}, {len(log_ids)} clips {marked['clips_hash']}, "
            f"version {marked['version']}, config {marked['config_hash']}. ")


def tabulate(scenes: Sequence[Sequence[Part]], order: Order, log_ids: Sequence[str]) -> DriveTable:
    """Tables and scenes of a report; scenes: for each log its own part and then its drives'."""
    rows = [part.row for scene in scenes for part in scene[1:]]
    table = planner_rows(rows, order.protocol, order.seed)
    said = words_of(order.protocol, log_ids, order.seed)
    marked = {**stamp(order.protocol, log_ids, order.seed),
              "vehicle_parameters": {**plain(make_vehicle(order.protocol.vehicle)), **DYNAMICS}}
    head = head_sections(rows, table, order.protocol, order.seed, said)
    views = [scene_section(scene[0], scene[1:]) for scene in scenes]
    return DriveTable(table, [*head, report.Heading("Scenes", "Choose a planner's row, or a moment of it; the slider "
                                                              "goes through time."), *views], marked)


def write_tables(run: RunFolder, scenes: Sequence[Sequence[Part]]) -> None:
    """drives.parquet and steps.parquet: without wall seconds, so that the same seed gives the same bytes."""
    drives = [part for scene in scenes for part in scene[1:]]
    run.write_parquet("drives.parquet", [_flat(part.row) for part in drives])
    run.write_parquet("steps.parquet", [row for part in drives for row in step_rows(part)])


def _flat(row: Row) -> Row:
    return {k: str(v) if isinstance(v, list) else v for k, v in row.items() if k != "seconds"}


def drive_table(run: RunFolder, logs: Sequence[Log], planners: Sequence[str], renderers: Sequence[str], *, seed: int,
                checkpoint: str, duration_s: float | None, protocol: str = "drive@1.0",
                progress: Callable[[str], None] | None = None) -> DriveTable:
    """Every planner drives every log, in this process; tables go into ``run``, sections into the caller's page."""
    order = Order((), tuple(planners), tuple(renderers), varied(get_protocol(protocol), duration_s), seed, checkpoint)
    crew, scenes = casts(order), list[list[Part]]()
    with one_thread():
        for log in logs:
            stage, parts = stage_of(order, log, crew[0].height_px), list[Part]()
            for cast, eye in ((cast, eye) for cast in crew for eye in cast.renderers):
                part, scene = drive_part(order, stage, cast.spec, eye)
                parts = [*(parts or [scene()]), part]
                if progress:
                    progress(f"{log.id}  {cast.name:18s} {eye:8s} total {part.row['total']:.3f}")
            scenes.append(parts)
    write_tables(run, scenes)
    return tabulate(scenes, order, [log.id for log in logs])


__all__ = ["DriveTable", "drive_table", "evaluate"]
