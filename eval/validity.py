"""``drive-wm validity``: does the world model judge planners as the reference renderer does?

The same planners, scenes and seeds drive once with the world model's images and once with the reference's. Only those
that look at frames can tell the two apart, so only they are counted; those that do not drive once, as floor and ceiling
of the scale. A rollout whose images stopped obeying the actions (action_check) is counted and shown, and the
scene it is of is left out of the trusted figures for every planner, so that it helps no one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.eval import report
from drive_wm.eval.command import claim_order, protocol_sections, tabulate, varied, words_of, write_tables
from drive_wm.eval.parts import Part, Row
from drive_wm.eval.protocols import get_protocol
from drive_wm.eval.run_folder import RunFolder
from drive_wm.eval.runner import Order, progress_shown, run_drives
from drive_wm.eval.statistics import agreement
from drive_wm.types import FloatArray, InputError

PLANNERS = ("direct", "camera", "camera,cruise_mps=5", "camera,cruise_mps=12", "camera,threshold=20",
            "camera,threshold=80", "camera,reach_m=18", "camera,headway_s=3")
BLIND = ("constant_velocity", "log_replay")
MEASURED = {
    "pearson": "correlation of the planners' mean totals", "spearman": "correlation of their ranks",
    "r2": "share of the variance explained (NAVSIM reports 0.8 for its pseudo-simulation)",
    "mmrv": "mean maximum rank violation, 0 is best, in units of the total"}


def validity(source: str | Sequence[str], out: Path, seed: int = 0, checkpoint: str = "tiny",
             planners: Sequence[str] = (), reference: str = "layout", simulated: str = "world",
             duration_s: float | None = 6.0, protocol: str = "drive@1.0", cameras: Sequence[str] = (),
             logs: int | None = None, workers: int = 0, resume: bool = False) -> dict[str, Any]:
    """Writes the run folder. planners: at least three that look at frames; logs: the first so many of the source."""
    from drive_wm.datasets.sources import open_source

    if reference == simulated:
        raise InputError(f"reference and simulated are both {reference!r}, expected two renderers")
    sources = (source,) if isinstance(source, str) else tuple(source)
    ids = open_source(sources).log_ids()[:logs]
    rules = varied(get_protocol(protocol), duration_s)
    names = tuple(dict.fromkeys([*(planners or PLANNERS), *BLIND]))
    order = Order(sources, names, (reference, simulated), rules, seed, checkpoint, None, tuple(cameras))
    with RunFolder(out, "validity", seed=seed, resume=resume) as run:
        claim_order(run, order, ids, resume)
        print(words_of(rules, ids, seed), flush=True)
        with progress_shown("drives") as step:
            scenes = run_drives(run, order, ids, workers, step)
        results = judged(scenes, reference, simulated, seed)
        table = tabulate(scenes, order, ids)
        write_tables(run, scenes)
        run.write_json("protocol.json", table.stamp)
        report.write_report(run, f"Does {simulated} judge as {reference} does?",
                            [*_sections(results), *table.sections, *protocol_sections(table.stamp)], ", ".join(sources))
        run.finish({"source": ", ".join(sources), "protocol": rules.id, **results})
    return results


def judged(scenes: Sequence[Sequence[Part]], reference: str, simulated: str, seed: int) -> dict[str, Any]:
    """Figures of agreement, planner by planner and together; ``scenes`` as of ``run_drives``."""
    rows = [part.row for scene in scenes for part in scene[1:]]
    seeing = list(dict.fromkeys(row["planner"] for row in rows if row["renderer"] == simulated))
    blind = [row["planner"] for row in rows if row["planner"] not in seeing]
    logs = list(dict.fromkeys(row["log_id"] for row in rows))
    at = {(row["planner"], row["renderer"], row["log_id"]): row for row in rows}
    if len(seeing) < 3:
        raise InputError(f"{len(seeing)} planners look at frames ({', '.join(seeing) or 'none'}), expected three or "
                         "more: the scores of those that do not are the same under every renderer")
    real, made = (np.array([[at[p, eye, log]["total"] for log in logs] for p in seeing])
                  for eye in (reference, simulated))
    trusted = np.array([[at[p, simulated, log]["trusted"] for log in logs] for p in seeing])
    known = np.isfinite(real).all(0) & np.isfinite(made).all(0)
    chosen = {"all": known, "trusted": known & trusted.all(0)}
    return {"reference": reference, "simulated": simulated, "planners_that_see": seeing,
            "planners_that_do_not": list(dict.fromkeys(blind)), "scenes": len(logs),
            "agreement": [row for name, mask in chosen.items() for row in agreed(real, made, mask, name, seed)],
            "planners": _by_planner(at, seeing, logs, reference, simulated, scenes),
            "rollouts": int(trusted.size), "untrusted_rollouts": int((~trusted).sum()),
            "trusted_steps": float(np.mean([at[p, simulated, log]["render_valid"] for p in seeing for log in logs]))}


def agreed(reference: FloatArray, simulated: FloatArray, mask: np.ndarray[Any, Any], scenes: str,
           seed: int) -> list[Row]:
    """A row a measure over the scenes of ``mask``; no numbers where there are fewer than two."""
    count = int(mask.sum())
    if count < 2:
        return [{"scenes": scenes, "count": count, "measure": name, "value": None, "low": None, "high": None}
                for name in MEASURED]
    found = agreement(reference[:, mask], simulated[:, mask], seed)
    return [{"scenes": scenes, "count": count, "measure": name, "value": value, "low": low, "high": high}
            for name, (value, low, high) in found.items()]


def _by_planner(at: dict[tuple[str, str, str], Row], planners: Sequence[str], logs: Sequence[str], reference: str,
                simulated: str, scenes: Sequence[Sequence[Part]]) -> list[Row]:
    """How each planner fared under both, how far apart its two drives went, and how much could be trusted."""
    paths = {(p.row["planner"], p.row["renderer"], p.row["log_id"]): p for scene in scenes for p in scene[1:]}
    out = []
    for name in planners:
        apart = [_apart(paths[name, reference, log], paths[name, simulated, log]) for log in logs]
        off = [at[name, simulated, log].get("l2_to_log", float("nan")) for log in logs]
        mine = [at[name, simulated, log] for log in logs]
        out.append({"planner": name, **{f"total_{eye}": float(np.nanmean([at[name, eye, log]["total"] for log in logs]))
                                        for eye in (reference, simulated)},
                    "same_verdict": float(np.mean([abs(at[name, reference, log]["total"] - row["total"]) < 0.05
                                                   for log, row in zip(logs, mine)])),
                    "paths_apart_m": float(np.mean(apart)),
                    "from_log_m": float(np.nanmean(off)) if np.isfinite(off).any() else None,
                    "trusted_steps": float(np.mean([row["render_valid"] for row in mine])),
                    "untrusted_rollouts": sum(not row["trusted"] for row in mine)})
    return out


def _apart(a: Part, b: Part) -> float:
    """Mean distance in metres of two drives of one scene."""
    count = min(len(a.arrays["ego"]), len(b.arrays["ego"]))
    return float(np.linalg.norm(a.arrays["ego"][:count, :2] - b.arrays["ego"][:count, :2], axis=1).mean())


def _cross(x: float, y: float, size: float = 0.012) -> list[list[float]]:
    """A mark of a chart that draws lines."""
    return [[x - size, y], [x + size, y], [float("nan")] * 2, [x, y - 2 * size], [x, y + 2 * size]]


def _sections(results: dict[str, Any]) -> list[Any]:
    agreement_rows, planners = results["agreement"], results["planners"]
    said = (f"{len(results['planners_that_see'])} planners look at frames: {', '.join(results['planners_that_see'])}. "
            f"Not counted, as they do not: {', '.join(results['planners_that_do_not'])}. "
            f"{results['untrusted_rollouts']} of {results['rollouts']} rollouts under {results['simulated']} held "
            "steps whose images did not obey the action; "
            f"{100 * results['trusted_steps']:.0f}% of all steps may be trusted.")
    rows = [[r["scenes"], r["count"], r["measure"], r["value"], r["low"], r["high"], MEASURED[r["measure"]]]
            for r in agreement_rows]
    names = (f"total_{results['reference']}", f"total_{results['simulated']}")
    marks = {row["planner"]: _cross(row[names[0]], row[names[1]]) for row in planners}
    return [report.Text(said),
            report.Table(["scenes", "count", "measure", "value", "low", "high", "what it is"], rows,
                         "95% bootstrap intervals over scenes. trusted: only scenes on which no planner's rollout "
                         "failed the check."),
            report.Heading("Planner by planner", "same verdict: share of scenes on which the totals differ by less "
                           "than 0.05; paths apart: mean distance between the two drives of a scene."),
            report.Table(list(planners[0]), [list(row.values()) for row in planners]),
            report.Chart({"as in the reference": [[0, 0], [1, 1]], **marks}, names[0].replace("_", " "),
                         names[1].replace("_", " "), "mean totals under both renderers"),
            report.Heading("All drives")]
