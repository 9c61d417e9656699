"""``drive-wm compare``: two or more evaluations, planner by planner over the scenes they share, and what differs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.eval import report
from drive_wm.eval.parts import Row
from drive_wm.eval.run_folder import RunFolder, read_summary
from drive_wm.eval.statistics import holm, paired
from drive_wm.eval.tables import Key, totals
from drive_wm.types import InputError

RULES = ("protocol", "config_hash")  # runs in which these differ measured different things
SHOWN = 60


class Run:
    """What an evaluation left behind: its rows, and what it was made with."""

    def __init__(self, path: Path) -> None:
        summary = read_summary(path)
        if summary is None or summary["command"] not in ("evaluate", "validity"):
            raise InputError(f"{path}: is no run folder of drive-wm evaluate")
        if not summary["complete"]:
            raise InputError(f"{path}: was cut off; finish it first with drive-wm evaluate --resume --out {path}")
        self.path, self.name, self.seed = path, path.name, int(summary["seed"])
        self.stamp: Row = json.loads((path / "protocol.json").read_text(encoding="utf-8"))
        self.order: Row = json.loads((path / "order.json").read_text(encoding="utf-8"))["order"]
        self.rows = read_rows(path / "drives.parquet")
        self.totals = totals(self.rows)

    @property
    def facts(self) -> Row:
        """Everything it was made with, by name; the protocol's inner parts are in its hash."""
        own = {name: value for name, value in self.stamp.items() if name not in ("clips", "thresholds", "weights")}
        asked = {name: value for name, value in self.order.items() if name not in ("protocol", "seed")}
        return {**own, **asked, "clips": len(self.stamp["clips"])}


def read_rows(path: Path) -> list[Row]:
    """Rows of a Parquet table, null as NaN where a column holds numbers."""
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InputError("tables need pyarrow: pip install pyarrow") from error
    rows: list[Row] = pq.read_table(path).to_pylist()
    return [{k: float("nan") if v is None and f"{k}_valid" in row else v for k, v in row.items()} for row in rows]


def compare(runs: Sequence[Path], out: Path, seed: int = 0, across_protocols: bool = False) -> list[Row]:
    """Writes the run folder of the comparison; every run is compared with the first.

    Raises InputError where they were judged by different protocols, unless ``across_protocols`` says that it is meant.
    """
    if len(runs) < 2:
        raise InputError(f"{len(runs)} run to compare, expected two or more run folders of drive-wm evaluate")
    found = [Run(Path(path)) for path in runs]
    if len({run.name for run in found}) < len(found):
        for run in found:
            run.name = run.path.as_posix()
    other = [name for name in RULES if len({run.stamp[name] for run in found}) > 1]
    if other and not across_protocols:
        said = "; ".join(f"{name} {' and '.join(str(run.stamp[name]) for run in found)}" for name in other)
        raise InputError(f"these runs were judged by different rules ({said}), so their scores do not compare; say "
                         "--across-protocols if you mean it")
    table, scenes = paired_table(found, seed), scene_rows(found)
    if not table:
        raise InputError("these runs have no planner and renderer with scenes in common; nothing to compare")
    with RunFolder(out, "compare", seed=seed) as folder:
        folder.write_parquet("scenes.parquet", scenes)
        report.write_report(folder, "Comparison of " + " and ".join(r.name for r in found),
                            sections(found, table, scenes, bool(other)))
        folder.finish({"runs": [r.path.as_posix() for r in found], "same_rules": not other,
                       "differs": [{"what": what, **dict(zip([r.name for r in found], map(str, values)))}
                                   for what, values in differing(found).items()], "planners": table})
    return table


def differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """What was not the same in all runs -> its value in each."""
    names = dict.fromkeys(name for run in runs for name in run.facts)
    values = {name: [run.facts.get(name) for run in runs] for name in names}
    return {name: v for name, v in values.items() if any(x != v[0] for x in v)}


def paired_table(runs: Sequence[Run], seed: int) -> list[Row]:
    """A row a planner, renderer and run after the first: both means over shared scenes, their difference, p (Holm)."""
    first, rows = runs[0], list[Row]()
    for run in runs[1:]:
        for key in first.totals:
            if key not in run.totals:
                continue
            logs = shared(first.totals, run.totals, key)
            before, after = ([r.totals[key][log] for log in logs] for r in (first, run))
            if not logs:
                continue
            gap = paired(after, before, seed)
            rows.append({"planner": key[0], "renderer": key[1], "run": run.name, "scenes": gap.count,
                         "first": float(np.mean(before)), "this": float(np.mean(after)), "difference": gap.difference,
                         "low": gap.low, "high": gap.high, "p": gap.p})
    for row, p in zip(rows, holm([row["p"] for row in rows])):
        row["p"] = p
    return rows


def shared(a: Mapping[Key, Mapping[str, float]], b: Mapping[Key, Mapping[str, float]], key: Key) -> list[str]:
    """Scenes with a total in both."""
    return [log for log, value in a[key].items() if np.isfinite(value) and np.isfinite(b[key].get(log, np.nan))]


def scene_rows(runs: Sequence[Run]) -> list[Row]:
    """A row a scene, planner and run after the first, the largest differences first."""
    first = runs[0]
    rows = [{"log_id": log, "planner": key[0], "renderer": key[1], "run": run.name, "first": first.totals[key][log],
             "this": run.totals[key][log], "difference": run.totals[key][log] - first.totals[key][log]}
            for run in runs[1:] for key in first.totals if key in run.totals
            for log in shared(first.totals, run.totals, key)]
    return sorted(rows, key=lambda row: (-abs(row["difference"]), row["log_id"], row["planner"], row["renderer"]))


def sections(runs: Sequence[Run], table: Sequence[Row], scenes: Sequence[Row], other_rules: bool) -> list[Any]:
    names = [run.name for run in runs]
    missing = sorted({f"{p} ({r})" for run in runs for p, r in run.totals} - {f"{p} ({r})" for p, r in
                     set.intersection(*(set(run.totals) for run in runs))})
    warning = "The runs were judged by DIFFERENT rules: the differences mix planners and rules. " if other_rules else ""
    note = (f"{warning}first: {names[0]}. Over scenes that both runs have and could trust; 95% bootstrap interval, p "
            "of a sign-flip test corrected for the number of rows (Holm)."
            + (f" Not in all runs: {', '.join(missing)}." if missing else ""))
    moved = [row for row in scenes if abs(row["difference"]) > 1e-9]
    unlike = [[what, *map(str, values)] for what, values in differing(runs).items()]
    out: list[Any] = [report.Table(list(table[0]), [list(row.values()) for row in table], note),
                      report.Heading("What differs"),
                      report.Table(["", *names], unlike) if unlike else report.Text("Nothing: the same settings.")]
    out += [report.Heading("Scenes", f"{len(moved)} of {len(scenes)} scored differently"
                           + (f"; the {SHOWN} largest differences, all are in scenes.parquet." if len(moved) > SHOWN
                              else "."))]
    if moved:
        out.append(report.Table(list(moved[0]), [list(row.values()) for row in moved[:SHOWN]]))
    return out
