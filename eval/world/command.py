"""``drive-wm evaluate-world``: ``world@1.0`` on a checkpoint, into a run folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.datasets.town.parallel import in_parallel, progress_bar, worker_count
from drive_wm.eval import report
from drive_wm.eval.run_folder import RunFolder
from drive_wm.eval.world.aims import reached
from drive_wm.eval.world.measure import COPY, Job, Measured, measure
from drive_wm.eval.world.probe import Probe
from drive_wm.eval.world.protocol import MODES, PROTOCOL, RECORDED, Start, WorldProtocol, stamp, town_starts
from drive_wm.eval.world.summary import Records, shown, tables
from drive_wm.media import write_png
from drive_wm.model import DriveWM, find_checkpoint
from drive_wm.types import InputError

RANDOM, EXTREME = 10, 5  # sheets drawn at random, and each of best and worst
RANKED_S = 3.0  # by PSNR over copying at this horizon

NOTES = {
    "frames": "PSNR and SSIM over all cameras under the true actions. over copy: the same start's PSNR over that of its last "
              "frame; under reconstruction: what the tokens alone would have reached. overlap: how far neighbouring cameras "
              "agree where they see the same, PSNR between them; the truth's own value is the ceiling.",
    "seen_by_the_probe": "Read by a small network that was taught on drawn pictures alone. mIoU over the pixels of all starts; "
                         "agents kept: of those it finds in the true picture; the row of the truth is what the probe can do.",
    "action_told": "Share of futures nearer to the drawn truth of their own action than to that of any other of the six; chance "
                   "is one over the candidates. or same path: a truth that led to the same place counts as its own. path ADE: "
                   "between the path read off the future and the one that was asked for; standing still has no such row.",
    "agents_motion": "Moving agents, where they were said to be against where they were, beside constant velocity.",
    "path_read": "Mean distance between the driven path and the one the probe reads off the front camera, true actions. The row "
                 "of the truth is the reader's own error; copying stands still.",
    "drift": "Fréchet distance between probe features of made and true pictures, at the starts that are followed to the end.",
    "context_lengths": "At 1, 4 and 16 times the two seconds of context, at the starts that are followed to the end.",
    "code_length": "Bits the model needs for the true next step in its own tokens, by pixel and second: whatever the tokenizer, "
                   "but for what that one loses.",
    "cameras_away": "The most forward cameras alone: PSNR on them alone, on them among all, and what taking the others away cost.",
    "by_stratum": "The same by kind of start.",
}
MODE_NOTE = ("A given layout is knowledge of the future; an imagined one takes map and lights from the log and the agents from "
             "the model; none knows neither. Figures of different modes must not be compared.")


def evaluate_world(out: Path, checkpoint: str = "tiny", seed: int = 0, starts: int | None = 50,
                   modes: Sequence[str] = MODES, workers: int = 1, recorded: str | None = None,
                   protocol: WorldProtocol = PROTOCOL) -> dict[str, Any]:
    """Measures a checkpoint on the first ``starts`` of the frozen list (None: all 200) and on recorded drives.

    recorded: the folder that holds drives/, argoverse2/ and nuscenes_one_sample/, or None to leave these out; their tables
    stand apart. Every mode is reported beside copying and the tokenizer's reconstruction. Raises InputError.
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
    with RunFolder(out, "evaluate-world", seed=seed) as run:
        measured = list(measure_all(jobs, workers))
        return write(run, measured[:len(town)], measured[len(town):], stamp(len(town), chosen), checkpoint, protocol)


def recorded_starts(folder: str | None) -> list[Start]:
    """The recorded starts whose drives lie below ``folder``; none of them there raises InputError."""
    if folder is None:
        return []
    there = [s for s in RECORDED if (Path(folder) / s.source.partition(":")[2]).is_dir()]
    if not there:
        wanted = ", ".join(dict.fromkeys(s.source.partition(":")[2] for s in RECORDED))
        raise InputError(f"--recorded {folder}: holds none of {wanted}; give the folder that does")
    return there


def measure_all(jobs: Sequence[Job], workers: int) -> Iterator[Measured]:
    """In the order of the jobs, whatever the number of workers."""
    found: dict[int, Measured] = {}
    with progress_bar("world@1.0", len(jobs)) as step:
        for index, one in in_parallel(measure, jobs, worker_count(workers)):
            found[index] = one
            step(1, 0)
    return iter([found[i] for i in range(len(jobs))])


def write(run: RunFolder, town: Sequence[Measured], real: Sequence[Measured], stamped: Mapping[str, Any], checkpoint: str,
          protocol: WorldProtocol) -> dict[str, Any]:
    """rows.parquet, tables.parquet a table, sheets, report.html and the summary."""
    made = tables(town, protocol)
    real_made = {f"recorded: {name}": table for name, table in tables(real, protocol).items() if name in REAL_TABLES}
    aims = reached(made)
    left_out = [text for m in [*town, *real] for text in m.left_out]
    run.write_parquet("rows.parquet", [row for m in [*town, *real] for row in m.rows])
    for name, table in made.items():
        run.write_parquet(f"tables/{name}.parquet", table)
    name = DriveWM.from_pretrained(checkpoint).name
    sections: list[Any] = [report.KeyValues({"protocol": stamped["protocol"], "checkpoint": name, "starts": len(town),
                                             "of them to the end": sum(i % protocol.long_every == 0 for i in range(len(town))),
                                             "configuration": stamped["config_hash"]}),
                           report.Text(MODE_NOTE), report.Heading("Aims", "Floor and goal were set before the run."),
                           table_of(aims)]
    for title, table in {**made, **real_made}.items():
        sections += [report.Heading(title.replace("_", " "), NOTES.get(title.removeprefix("recorded: "), "")), table_of(table)]
    sections += sheets(run, [*town], run.seed)
    sections += [report.Heading("Recorded drives")] if real else []
    sections += [picture(run, m, "recorded") for m in real if m.sheet is not None]
    sections += [report.Heading("Left out", "What could not be measured, and starts whose town has changed."),
                 report.Failures(left_out)]
    report.write_report(run, f"{stamped['protocol']}: {name}", sections, "Is the world model any good?")
    results = {"checkpoint": name, **stamped, "left_out": len(left_out), "aims": aims,
               **{title: shown(table) for title, table in {**made, **real_made}.items() if title in PRINTED}}
    run.finish(results)
    return results


REAL_TABLES = ("frames", "agents_motion", "seen_by_the_probe")
PRINTED = ("frames", "seen_by_the_probe", "action_told", "agents_motion", "drift", "code_length", "recorded: frames")


def table_of(table: Records) -> report.Table:
    rows = shown(table)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return report.Table(columns, [[row.get(c) for c in columns] for row in rows])


def sheets(run: RunFolder, measured: Sequence[Measured], seed: int) -> list[Any]:
    """Ten starts at random, the five best and the five worst of one mode, the imagined layout where there is one."""
    ranked = sorted((m for m in measured if m.sheet is not None and margin(m) is not None), key=lambda m: margin(m) or 0.0)
    if not ranked:
        return []
    some = np.random.default_rng(seed).permutation(len(ranked))[:RANDOM]
    groups = {"at random": [ranked[i] for i in sorted(some)], "worst": ranked[:EXTREME], "best": ranked[-EXTREME:][::-1]}
    out: list[Any] = []
    for title, members in groups.items():
        out.append(report.Heading(f"Futures: {title}", f"Ranked by PSNR over copy-last at {RANKED_S:g} s, true actions."))
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


