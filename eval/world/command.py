"""``drive-wm evaluate-world``: ``world@1.0`` on a checkpoint, into a run folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.datasets.parallel import in_parallel, progress_bar, worker_count
from drive_wm.eval import report
from drive_wm.eval.run_folder import RunFolder, plain
from drive_wm.eval.world.aims import reached
from drive_wm.eval.world.measure import COPY, Job, Measured, measure
from drive_wm.eval.world.parts import read_part, write_part
from drive_wm.eval.world.probe import SHIPPED, Probe
from drive_wm.eval.world.protocol import MODES, PROTOCOL, RECORDED, Start, WorldProtocol, stamp, town_starts
from drive_wm.eval.world.summary import Records, shown, tables
from drive_wm.media import write_png
from drive_wm.model import DriveWM, find_checkpoint
from drive_wm.types import InputError

RANDOM, EXTREME = 10, 5  # sheets drawn at random, and each of best and worst
RANKED_S = 3.0  # by PSNR over copying at this horizon

NOTES = {
    "frames": "PSNR and SSIM over all cameras under the true actions. over copy: the same start's PSNR over that of "
              "its last frame; under reconstruction: what the tokens alone would have reached above it. carried: "
              "no model, the last frame moved on by geometry alone, what every mode's prior sees. overlap: how far "
              "neighbouring cameras agree where they see the same; the truth's own value is the ceiling.",
    "seen_by_the_probe": "Read by a small network that was taught on drawn pictures alone. mIoU over the pixels of all "
                         "starts; agents kept: of those it finds in the true picture; the row of the truth is what "
                         "the probe can do.",
    "action_told": "Share of futures nearer to the drawn truth of their own action than to that of any other of the "
                   "six; chance is one over the candidates. or same path: a truth that led to the same place "
                   "counts as its own. path ADE: between the path read off the future and the one that was asked for.",
    "actions_blocked": "Share of starts at which an action leads into a building or an agent before the horizon, and "
                       "for how long it is free: from then on it is neither asked for nor a candidate.",
    "agents_motion": "Moving agents, where they were said to be against where they were, beside constant velocity.",
    "path_read": "Mean distance between the driven path and the one that the probe reads off the front camera, true "
                 "actions. The row of the truth is the reader's own error; copying stands still.",
    "drift": "Fréchet distance between probe features of made and true pictures, at the starts followed to the end.",
    "context_lengths": "At 1, 4 and 16 times the two seconds of context, at the starts that are followed to the end.",
    "code_length": "Bits that the model needs for the true next step in its own tokens, by pixel and second: whatever "
                   "the tokenizer, but for what that one loses.",
    "cameras_away": "The most forward cameras alone: PSNR on them alone, on them among all, and what taking the others "
                    "away cost.",
    "by_stratum": "The same by kind of start.",
}
MODE_NOTE = ("A given layout is knowledge of the future; an imagined one takes map and lights from the log and the "
             "agents from the model; none knows neither. Figures of different modes must not be compared.")


def evaluate_world(out: Path, checkpoint: str = "tiny", seed: int = 0, starts: int | None = 50,
                   modes: Sequence[str] = MODES, workers: int = 1, recorded: str | None = None, resume: bool = False,
                   protocol: WorldProtocol = PROTOCOL) -> dict[str, Any]:
    """Measures a checkpoint on the first ``starts`` of the frozen list (None: all 200) and on recorded drives.

    recorded: the folder that holds drives/, argoverse2/ and nuscenes_one_sample/, or None to leave these out; their
    tables stand apart. Every mode is reported beside copying and the tokenizer's reconstruction. resume: goes on with a
    run that was cut off, from the last start that was finished. Raises InputError.
    """
    chosen = tuple(m for m in MODES if m in modes)
    if unknown := set(modes) - set(MODES):
        raise InputError(f"--mode {sorted(unknown)[0]!r}: expected one of {', '.join(MODES)}")
    town = town_starts(starts)
    real = recorded_starts(recorded)
    find_checkpoint(checkpoint)
    Probe.load()
    jobs = [Job(s, checkpoint, protocol, chosen, seed, i % protocol.long_every == 0) for i, s in enumerate(town)]
    jobs += [Job(s, checkpoint, protocol, chosen, seed, False, str(recorded)) for s in real]
    with RunFolder(out, "evaluate-world", seed=seed, resume=resume) as run:
        weights = hashlib.sha256((SHIPPED / "probe.safetensors").read_bytes()).hexdigest()[:12]
        stamped = {**stamp(len(town), chosen, protocol), "probe": weights}
        claim_order(run, {"stamp": stamped, "checkpoint": checkpoint, "seed": seed,
                          "recorded": [s.id for s in real]}, resume)
        measured = measure_all(run, jobs, workers)
        return write(run, measured[:len(town)], measured[len(town):], stamped, checkpoint, protocol)


def recorded_starts(folder: str | None) -> list[Start]:
    """The recorded starts whose drives lie below ``folder``; none of them there raises InputError."""
    if folder is None:
        return []
    there = [s for s in RECORDED if (Path(folder) / s.source.partition(":")[2]).is_dir()]
    if not there:
        wanted = ", ".join(dict.fromkeys(s.source.partition(":")[2] for s in RECORDED))
        raise InputError(f"--recorded {folder}: holds none of {wanted}; give the folder that does")
    return there


def claim_order(run: RunFolder, order: Mapping[str, Any], resume: bool) -> None:
    """order.json of this run; a resumed one has to be of the same order."""
    said, path = plain(order), run.path / "order.json"
    if resume and path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if other := sorted(k for k in said if before.get(k) != said[k]):
            raise InputError(f"--resume {run.path}: begun with another {', '.join(other)}; "
                             "give the same, or a new folder")
    run.write_json("order.json", said)


def measure_all(run: RunFolder, jobs: Sequence[Job], workers: int) -> list[Measured]:
    """In the order of the jobs, whatever the number of workers; every start is kept as soon as it is done."""
    parts = [run.path / f"starts/{i:03d}.npz" for i in range(len(jobs))]
    todo = [i for i, path in enumerate(parts) if not path.is_file()]
    run.keep = True  # what is finished from here on stays, to be resumed
    with progress_bar("starts", len(jobs), len(jobs) - len(todo)) as step:
        for k, one in in_parallel(measure, [jobs[i] for i in todo], worker_count(workers)):
            i = todo[k]
            write_part(run.file(f"starts/{i:03d}.npz"), one)
            step(1, 0)
            if not sys.stderr.isatty():
                print(f"{one.start.id}, {i + 1} of {len(jobs)}", flush=True)
    return [read_part(path, job.start) for path, job in zip(parts, jobs)]


def write(run: RunFolder, town: Sequence[Measured], real: Sequence[Measured], stamped: Mapping[str, Any],
          checkpoint: str, protocol: WorldProtocol) -> dict[str, Any]:
    """rows.parquet, a parquet a table, protocol.json, sheets, report.html and the summary."""
    made = tables(town, protocol)
    real_made = {f"recorded: {name}": table for name, table in tables(real, protocol).items() if name in REAL_TABLES}
    aims = reached(made)
    left_out = [text for m in [*town, *real] for text in m.left_out]
    run.write_parquet("rows.parquet", [row for m in [*town, *real] for row in m.rows])
    run.write_json("protocol.json", {**stamped, **dataclasses.asdict(protocol)})
    for title, table in made.items():
        run.write_parquet(f"tables/{title}.parquet", table)
    name = DriveWM.from_pretrained(checkpoint).name
    long = len(range(0, len(town), protocol.long_every))
    facts = {"protocol": stamped["protocol"], "checkpoint": name, "starts": len(town), "of them to the end": long,
             "configuration": stamped["config_hash"], "probe": stamped["probe"]}
    sections: list[Any] = [report.KeyValues(facts), report.Text(MODE_NOTE),
                           report.Heading("Aims", "Floor and goal were set before the run."), table_of(aims),
                           curves(made, protocol)]
    for title, table in {**made, **real_made}.items():
        note = NOTES.get(title.removeprefix("recorded: "), "")
        sections += [report.Heading(title.replace("_", " ").capitalize(), note), table_of(table)]
    sections += sheets(run, [*town], run.seed)
    sections += [report.Heading("Recorded drives")] if real else []
    sections += [picture(run, m, "recorded") for m in real if m.sheet is not None]
    sections += [report.Heading("Left out", "What could not be measured, and starts whose town has changed."),
                 report.Failures(left_out)]
    report.write_report(run, f"{stamped['protocol']}: {name}", sections, "Is the world model any good?")
    results = {"checkpoint": name, **stamped, "left_out": len(left_out), "aims": aims,
               **{title: brief(table) for title, table in {**made, **real_made}.items() if title in PRINTED}}
    run.finish(results)
    return results


REAL_TABLES = ("frames", "agents_motion", "seen_by_the_probe")
PRINTED = ("frames", "action_told", "drift", "code_length", "recorded: frames")
PRINTED_S = (0.0, 1.0, 3.0, 30.0)


def brief(table: Records) -> Records:
    """What of a table is printed; all of it is in tables/ and in the report."""
    return [row for row in shown(table) if row.get("time_s", 0.0) in PRINTED_S]


def curves(made: Mapping[str, Records], protocol: WorldProtocol) -> report.Chart:
    """PSNR by horizon, of every mode beside copying and the tokens, as far as all starts go."""
    rows = [r for r in made["frames"] if r.get("psnr_db") is not None and 0 < r["time_s"] <= protocol.horizon_s]
    series = {mode: np.array([[r["time_s"], r["psnr_db"]] for r in rows if r["mode"] == mode])
              for mode in dict.fromkeys(r["mode"] for r in rows)}
    return report.Chart(series, "seconds ahead", "PSNR, dB", "Under the true actions, mean over cameras and starts.")


def table_of(table: Records) -> report.Table:
    rows = shown(table)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return report.Table(columns, [[row.get(c) for c in columns] for row in rows])


def sheets(run: RunFolder, measured: Sequence[Measured], seed: int) -> list[Any]:
    """Ten starts at random, the five best and the five worst of one mode, the imagined layout where there is one."""
    shown_ones = [m for m in measured if m.sheet is not None and margin(m) is not None]
    ranked = sorted(shown_ones, key=lambda m: margin(m) or 0.0)
    if not ranked:
        return []
    some = np.random.default_rng(seed).permutation(len(ranked))[:RANDOM]
    groups = {"at random": [ranked[i] for i in sorted(some)], "worst": ranked[:EXTREME],
              "best": ranked[-EXTREME:][::-1]}
    out: list[Any] = []
    for title, members in groups.items():
        out.append(report.Heading(f"Futures: {title}", f"By PSNR over copy-last at {RANKED_S:g} s, true actions."))
        out += [picture(run, m, title.replace(" ", "_")) for m in members]
    return out


def picture(run: RunFolder, measured: Measured, group: str) -> report.Picture:
    assert measured.sheet is not None
    path = run.file(f"sheets/{group}/{measured.start.id.replace('@', '_').replace(':', '_').replace('/', '_')}.png")
    write_png(path, measured.sheet)
    value = margin(measured)
    over = "" if value is None else f", {value:+.1f} dB over copying at {RANKED_S:g} s"
    return report.Picture(path, f"{measured.start.id} ({measured.start.stratum}){over}")


def margin(measured: Measured) -> float | None:
    """PSNR over copying, of the first mode that was run of imagined, given, none."""
    at = {row["mode"]: row["psnr_db"] for row in measured.rows
          if row["time_s"] == RANKED_S and row["action"] == "log" and row.get("psnr_db") is not None}
    mode = next((m for m in ("imagined", "given", "none") if m in at), None)
    return None if mode is None or COPY not in at else at[mode] - at[COPY]


