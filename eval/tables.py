"""The tables of an evaluation: planners with intervals, differences over the same scenes, NCAP by type, failures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from drive_wm.eval import report
from drive_wm.eval.evaluate import aggregate
from drive_wm.eval.parts import Row
from drive_wm.eval.protocols import Protocol
from drive_wm.eval.statistics import holm, paired

BASELINE = "constant_velocity"
Key = tuple[str, str]


def planner_rows(rows: Sequence[Row], protocol: Protocol, seed: int) -> list[Row]:
    """A short row a planner and renderer: means over scenes, the total with its interval; best first."""
    out = [_row(entry, protocol) for entry in aggregate(rows, protocol, seed)]
    sign = -1.0 if protocol.best == "max" else 1.0
    return sorted(out, key=lambda row: sign * row["total"] if np.isfinite(row["total"]) else np.inf)


def _row(entry: Row, protocol: Protocol) -> Row:
    row: Row = {"planner": entry["planner"] + (" (oracle)" if entry["oracle"] else ""), "renderer": entry["renderer"],
                "logs": entry["logs"], "failed": entry["failed"], "total": entry["total"],
                "total_low": entry["total_low"], "total_high": entry["total_high"]}
    row |= {name: entry[name] for name in protocol.subscores}
    return row | {"trusted": entry["trusted"], "excluded": entry["excluded"], "total_all": entry["total_all"],
                  "seconds": entry["seconds"]}


def totals(rows: Sequence[Row]) -> dict[Key, dict[str, float]]:
    """(planner, renderer) -> log -> total, NaN where unknown; logs with an untrusted drive are left out for all."""
    doubted = {row["log_id"] for row in rows if not row["trusted"]}
    found: dict[Key, dict[str, float]] = {}
    for row in rows:
        if row["log_id"] not in doubted:
            found.setdefault((row["planner"], row["renderer"]), {})[row["log_id"]] = row["total"]
    return found


def paired_rows(rows: Sequence[Row], protocol: Protocol, seed: int) -> list[Row]:
    """Each planner's difference to constant velocity and to the best planner that is no oracle, scene by scene."""
    found = totals(rows)
    oracles = {(row["planner"], row["renderer"]) for row in rows if row["oracle"]}
    means = {key: float(np.nanmean(list(t.values()))) for key, t in found.items()
             if key not in oracles and np.isfinite(list(t.values())).any()}
    if not means:
        return []
    best = (max if protocol.best == "max" else min)(means, key=lambda key: means[key])
    table: list[Row] = []
    baseline = next((key for key in found if key[0] == BASELINE), None)
    for name, other in (("vs_constant_velocity", baseline), ("vs_best", best)):
        for i, (key, mine) in enumerate(found.items()):
            if len(table) <= i:
                table.append({"planner": key[0], "renderer": key[1]})
            if other is None or key == other:
                table[i] |= dict.fromkeys((name, f"{name}_low", f"{name}_high", f"{name}_p"))
                continue
            logs = [log for log in mine if log in found[other]]
            gap = paired([mine[log] for log in logs], [found[other][log] for log in logs], seed)
            table[i] |= {name: gap.difference, f"{name}_low": gap.low, f"{name}_high": gap.high, f"{name}_p": gap.p}
        asked = [row[f"{name}_p"] for row in table]
        for row, p in zip(table, holm([float("nan") if p is None else p for p in asked])):
            row[f"{name}_p"] = p
    return table


def ncap_rows(rows: Sequence[Row]) -> list[Row]:
    """NCAP as it is published: the mean over runs, then scenarios, then types; of scenes that are fit for it."""
    from drive_wm.eval.metrics import NCAP_TYPES, ncap_mean

    out = []
    for planner, renderer in totals(rows):
        runs: dict[str, dict[str, list[float]]] = {kind: {} for kind in NCAP_TYPES}
        mine = [row for row in rows if (row["planner"], row["renderer"]) == (planner, renderer)]
        for row in mine:
            if row["scenario"] in runs and not row["unfit"] and row["total_valid"]:
                runs[row["scenario"]].setdefault(row["log_id"], []).append(row["total"])
        mean = ncap_mean(runs)
        out.append({"planner": planner, "renderer": renderer, "ncap": mean.value if mean.valid else None,
                    **{kind: mean.evidence.get(kind) for kind in NCAP_TYPES},
                    "scenes": sum(len(found) for found in runs.values())})
    return sorted(out, key=lambda row: -(row["ncap"] or 0.0))


def failures(rows: Sequence[Row]) -> list[str]:
    return [f"{row['log_id']}, {row['planner']}{'' if row['renderer'] == 'none' else ' ' + row['renderer']}: {message}"
            for row in rows for message in row["errors"]]


def table_section(rows: Sequence[Row], note: str, **options: Any) -> report.Table:
    return report.Table(list(rows[0]), [list(row.values()) for row in rows], note, **options)


def head_sections(rows: Sequence[Row], table: Sequence[Row], protocol: Protocol, seed: int, said: str) -> list[Any]:
    """What stands above the scenes."""
    note = (f"{said}Intervals are 95% bootstrap intervals over scenes. Oracles know the future. Missing: not known on "
            "these logs. A scene on which some planner's images could not be trusted is left out of every row's means "
            "(excluded); total_all keeps it.")
    unranked = [i for i, row in enumerate(table) if row["planner"].endswith("(oracle)")]
    sections: list[Any] = [table_section(table, note, best={"total": protocol.best}, unranked=unranked)]
    if protocol.name == "ncap":
        unfit = sorted({f"{row['log_id']}: {reason}" for row in rows for reason in row["unfit"]})
        left = f" Left out, as unfit: {'; '.join(unfit)}." if unfit else " All scenes are fit for it."
        sections += [report.Heading("NCAP by type"), table_section(
            ncap_rows(rows), "Mean over runs, then scenarios, then types. Constant velocity has to crash in a scene, "
            "and the expert who drove its log must not." + left)]
    gaps = paired_rows(rows, protocol, seed)
    if gaps:
        sections += [report.Heading("Differences over the same scenes"), table_section(
            gaps, "Mean difference of the total, its 95% interval, and the p of a sign-flip test, corrected for the "
                  "number of planners (Holm).")]
    return [*sections, report.Failures(failures(rows))]


def protocol_sections(marked: Row) -> list[Any]:
    """What the numbers were computed with, threshold by threshold."""
    rows = [[name, threshold, json.dumps(value)] for name, given in marked["thresholds"].items()
            for threshold, value in given.items()]
    facts = {name: value for name, value in marked.items()
             if name not in ("thresholds", "weights", "clips", "vehicle_parameters")}
    body = [[name, json.dumps(value)] for name, value in marked["vehicle_parameters"].items() if name != "name"]
    return [report.Heading("Protocol", "All of it is in protocol.json, with the list of clips."),
            report.KeyValues(facts), report.Table(["sub-score", "threshold", "value"], rows),
            report.Table([f"vehicle {marked['vehicle']}", "value"], body, "Dimensions in metres; the tracker's.")]
