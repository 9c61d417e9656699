"""``drive-wm evaluate``: planners x renderers x logs -> tables, Parquet, film strips and one report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.eval import report
from drive_wm.eval.evaluate import Result, Row, aggregate, drive, drive_seed, per_step_rows
from drive_wm.eval.loop import FrameCallback
from drive_wm.eval.protocols import Protocol, get_protocol, stamp
from drive_wm.eval.references import references_for
from drive_wm.eval.run_folder import RunFolder
from drive_wm.eval.sensors import SensorRenderer, make_renderer
from drive_wm.geometry import pose_from_xyyaw
from drive_wm.planners.base import Planner
from drive_wm.planners.registry import PLANNERS, make_planner
from drive_wm.types import ByteArray, FloatArray, Log, Rig

STRIP_STEPS = 25  # a picture of the film strip every 2.5 s
COLORS = ((60, 220, 120), (255, 120, 90), (110, 160, 255), (250, 210, 80), (220, 120, 255), (120, 230, 230),
          (240, 240, 240))


@dataclass
class DriveTable:
    """rows: one a planner and renderer. sections: of a report. results: one a drive. stamp: protocols.stamp."""

    rows: list[Row]
    sections: list[Any]
    results: list[Result] = field(default_factory=list)
    stamp: Row = field(default_factory=dict)


def evaluate(source: str, out: Path, seed: int = 0, checkpoint: str = "tiny", log: str | None = None,
             planners: Sequence[str] = (), renderers: Sequence[str] = ("layout",),
             duration_s: float | None = None, protocol: str = "drive@1.0") -> list[Row]:
    """Lets planners (none named, or "all": every one of the table) drive the source's logs; writes the run folder.

    duration_s: the protocol's where not given; another one is named in the protocol's version.
    """
    from drive_wm.datasets.sources import open_source

    names = list(PLANNERS) if not planners or "all" in planners else list(planners)
    if not get_protocol(protocol).closed_loop:  # without these rows such a number says nothing
        names += [name for name in ("constant_velocity", "ego_status") if name in PLANNERS and name not in names]
    opened = open_source(source)
    logs = [opened.load(i) for i in ([log] if log is not None else opened.log_ids())]
    run = RunFolder(out, "evaluate", seed=seed)
    table = drive_table(run, logs, names, list(renderers), seed=seed, checkpoint=checkpoint, duration_s=duration_s,
                        protocol=protocol, progress=print)
    report.write_report(run, "Closed-loop evaluation", table.sections + _protocol_sections(table.stamp), source)
    run.write_json("protocol.json", table.stamp)
    brief = {name: table.stamp[name] for name in ("protocol", "config_hash", "clips_hash", "version", "vehicle")}
    run.finish({"source": source, **brief, "logs": [entry.id for entry in logs], "planners": table.rows})
    return table.rows


def drive_table(run: RunFolder, logs: Sequence[Log], planners: Sequence[str], renderers: Sequence[str], *, seed: int,
                checkpoint: str, duration_s: float | None, protocol: str = "drive@1.0",
                progress: Callable[[str], None] | None = None) -> DriveTable:
    """Every planner drives every log; Parquet and pictures go into ``run``, the sections into the caller's report."""
    rules = lasting(get_protocol(protocol), duration_s)
    made = [make_planner(name, **_options(name, checkpoint)) for name in planners]
    eyes = [make_renderer(name, **({"checkpoint": checkpoint} if name == "world" else {})) for name in renderers]
    results, sections = [], []
    marked = stamp(rules, [log.id for log in logs], seed)
    said = (f"{rules.id}: total = {rules.formula}; {rules.duration_s:g} s a drive at {rules.rate_hz:g} Hz, "
            f"seed {seed}, {rules.vehicle}, {len(logs)} clips {marked['clips_hash']}, version {marked['version']}, "
            f"config {marked['config_hash']}. ")
    if progress:
        progress(said)
    for log in logs:
        rig = _rig(log, made, eyes)
        film: dict[str, list[ByteArray]] = {}
        compared = references_for(log, rules, drive_seed(seed, log))
        own: list[Result] = []
        for planner in made:
            for eye in (eyes if "frames" in planner.requires else [None]):
                strip = film.setdefault(f"{planner.name} ({eye.name})", []) if eye is not None else None
                keep = _keep(strip, rig) if strip is not None else None
                own.append(drive(log, planner, eye, rules, seed, rig, keep, compared))
                if progress:
                    row = own[-1].row
                    progress(f"{log.id}  {planner.name:18s} {row['renderer']:8s} total {row['total']:.3f}  "
                             f"{row['seconds']:.1f} s")
        sections += _log_sections(run, log, own, film)
        results += own
    run.write_parquet("drives.parquet", [_flat(result.row) for result in results])
    run.write_parquet("steps.parquet", [row for r in results for row in per_step_rows(r.rollout, r.scores)])
    rows = [_row(entry, rules) for entry in aggregate([r.row for r in results], rules, seed)]
    failures = [f"{r.row['log_id']}, {r.row['planner']}: {message}" for r in results for message in r.row["errors"]]
    note = (f"{said}Oracles know the future. Missing: not known on these logs. A clip on which some planner's images "
            "could not be trusted is left out of every row's means (excluded).")
    head: list[Any] = [report.Table(list(rows[0]), [list(row.values()) for row in rows], note,
                                    best={"total": rules.best},
                                    unranked=[i for i, row in enumerate(rows) if row["planner"].endswith("(oracle)")]),
                       report.Failures(failures)]
    return DriveTable(rows, head + sections, results, marked)


def _protocol_sections(marked: Row) -> list[Any]:
    """What the numbers were computed with, threshold by threshold."""
    rows = [[name, threshold, json.dumps(value)] for name, given in marked["thresholds"].items()
            for threshold, value in given.items()]
    facts = {name: value for name, value in marked.items() if name not in ("thresholds", "weights", "clips")}
    return [report.Heading("Protocol", "All of it is in protocol.json, with the list of clips."),
            report.KeyValues(facts), report.Table(["sub-score", "threshold", "value"], rows)]


def lasting(protocol: Protocol, duration_s: float | None) -> Protocol:
    """The protocol with another duration, which its version then names: such scores do not compare with its own."""
    if duration_s is None or duration_s == protocol.duration_s:
        return protocol
    return replace(protocol, version=f"{protocol.version}+{duration_s:g}s", duration_s=duration_s)


def _options(planner: str, checkpoint: str) -> dict[str, Any]:
    return {"checkpoint": checkpoint} if planner == "direct" else {}


def _rig(log: Log, planners: Sequence[Planner], renderers: Sequence[SensorRenderer]) -> Rig:
    """The log's cameras at the size that a model among planners or renderers wants: what is not needed is not drawn."""
    for part in (*planners, *renderers):
        model = getattr(part, "model", None)
        if model is not None:
            rig: Rig = model.rig_for(log.rig)
            return rig
    return log.rig


def _keep(strip: list[ByteArray], rig: Rig) -> FrameCallback:
    front = max(rig.cameras, key=lambda c: float(c.rig_from_camera[0, 2])).name

    def keep(step: int, timestamp_us: int, frames: dict[str, ByteArray], agents: Any, pose: FloatArray) -> None:
        if step % STRIP_STEPS == 0 and front in frames:
            strip.append(frames[front])

    return keep


def _log_sections(run: RunFolder, log: Log, results: Sequence[Result], film: dict[str, list[ByteArray]]) -> list[Any]:
    from drive_wm.media import contact_sheet, draw_topdown, write_png
    from drive_wm.render import agents_at, signals_at

    rollout = results[0].rollout
    middle = rollout.logged_xyyaw[len(rollout.logged_xyyaw) // 2]
    start = int(rollout.timestamps_us[0])
    pose = pose_from_xyyaw(middle)
    paths = [("log", rollout.logged_xyyaw[rollout.logged_valid], (160, 160, 160))]
    paths += [(f"{r.rollout.planner} {r.row['renderer']}", r.rollout.ego_xyyaw, COLORS[i % len(COLORS)])
              for i, r in enumerate(results)]
    reach = float(np.abs(rollout.logged_xyyaw[:, :2] - middle[:2]).max()) + 15.0
    above = draw_topdown(log.map, paths, agents_at(log, start), pose, size_px=560, range_m=max(40.0, reach),
                         signals=log.signals, signal_states=signals_at(log, start))
    write_png(run.file(f"{log.id}/topdown.png"), above)
    out: list[Any] = [report.Heading(log.id, f"{log.location}; licence: {log.licence}"),
                      report.Picture(above, "paths from above")]
    strips = {name: images for name, images in film.items() if images}
    if strips:
        columns = max(len(images) for images in strips.values())
        rows = [[np.kron(i, np.ones((2, 2, 1), np.uint8)) for i in images] for images in strips.values()]
        sheet = contact_sheet(rows, list(strips), [f"{k * STRIP_STEPS / 10:g} s" for k in range(columns)])
        write_png(run.file(f"{log.id}/film.png"), sheet)
        out.append(report.Picture(sheet, "what the planners' front camera showed"))
    return out


def _row(entry: Row, protocol: Protocol) -> Row:
    """The aggregate as a short row: means, the total with its interval."""
    row: Row = {"planner": entry["planner"] + (" (oracle)" if entry["oracle"] else ""), "renderer": entry["renderer"],
                "logs": entry["logs"], "failed": entry["failed"], "total": entry["total"]}
    if np.isfinite(entry["total_low"]):
        row |= {"total_low": entry["total_low"], "total_high": entry["total_high"]}
    row |= {name: entry[name] for name in protocol.subscores}
    return row | {"trusted": entry["trusted"], "excluded": entry["excluded"], "total_all": entry["total_all"],
                  "seconds": entry["seconds"]}


def _flat(row: Row) -> Row:
    """Lists as text, and without wall seconds: the same seed gives the same bytes."""
    return {k: str(v) if isinstance(v, list) else v for k, v in row.items() if k != "seconds"}


__all__ = ["DriveTable", "drive_table", "evaluate"]
