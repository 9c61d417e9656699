"""``drive-wm language``: do the model's words belong to what it sees, decides and plans? Figures that are never
averaged into one: answers by kind, consistency, faithfulness to the world and to its own plan, deletion."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.datasets.language import KINDS
from drive_wm.datasets.parallel import in_parallel, worker_count
from drive_wm.eval import report
from drive_wm.eval.language_moment import MomentResult, counts_of, judge
from drive_wm.eval.language_prior import commonest_answers
from drive_wm.eval.language_recorded import score_drivelm
from drive_wm.eval.run_folder import RunFolder
from drive_wm.eval.statistics import interval
from drive_wm.model import DriveWM
from drive_wm.types import FloatArray, InputError, IntArray, Log

Rows = list[dict[str, Any]]
MOMENTS_S = (4.0, 10.0)  # of a log: late enough for the model's context, with four seconds still to come
RESAMPLES = 1000


def language(source: str, out: Path, seed: int = 0, checkpoint: str = "tiny", log: str | None = None,
             moments: int = 20, removals: bool = True, questions: int = 0, workers: int = 1) -> dict[str, Any]:
    """Judges ``moments`` moments of the source's town logs, two a log; writes answers, rows, removals and the report.

    Source "drivelm:PATH" is a DriveLM file with its images beside it: real keyframes, scored as its challenge does.

    Raises InputError where the source holds no log of the town: true causes are known nowhere else.
    """
    kind, _, path = source.partition(":")
    if kind == "drivelm":
        return score_drivelm(Path(path), out, seed, checkpoint)
    jobs = _jobs(source, log, moments)
    prior = commonest_answers()
    work = partial(_judged, source=source, checkpoint=checkpoint, prior=prior, seed=seed, removals=removals,
                   questions=questions)
    done: dict[int, list[MomentResult]] = {}
    with RunFolder(out, "language", seed=seed) as run:
        for index, of_log in in_parallel(work, jobs, worker_count(workers)):
            done[index] = of_log
            _tell(of_log, sum(map(len, done.values())), moments)
        results = [result for index in sorted(done) for result in done[index]]
        tables = summarize(results, seed)
        run.write_parquet("answers.parquet", [{"log_id": r.log_id, "at_s": r.at_s, **a}
                                              for r in results for a in r.answers])
        run.write_json("moments.json", [r.row for r in results])
        run.write_json("removals.json", [{"log_id": r.log_id, "at_s": r.at_s, **x} for r in results for x in r.removed])
        report.write_report(run, f"Words and deeds of {checkpoint}", sections(tables, results), source)
        run.finish({"source": source, "checkpoint": checkpoint, "moments": len(results), **tables})
    return tables


def _tell(results: Sequence[MomentResult], done: int, moments: int) -> None:
    for result in results:
        row = result.row
        print(f"{done}/{moments}  {result.log_id} {result.at_s:4.1f} s  {row['decision']:10s} plan {row['course']:10s} "
              f"stated {', '.join(row['stated']) or '-':24s} true {', '.join(row['true']) or '-'}", flush=True)


def _judged(job: tuple[str, int], source: str, checkpoint: str, prior: dict[str, Any], seed: int, removals: bool,
            questions: int) -> list[MomentResult]:
    """At most so many moments of one log, in a worker process."""
    drive = _town_drive(source, job[0])
    return [judge(_model(checkpoint), drive, at_s, prior, seed, removals, questions)
            for at_s in moments_of(drive)[:job[1]]]


@lru_cache(maxsize=1)
def _model(checkpoint: str) -> DriveWM:
    return DriveWM.from_pretrained(checkpoint)


def _jobs(source: str, log: str | None, count: int) -> list[tuple[str, int]]:
    """(log, moments of it); what cannot be used is refused before anything is computed, by the first log."""
    from drive_wm.datasets.sources import open_source

    names = [log] if log is not None else list(open_source(source).log_ids())
    if not moments_of(_town_drive(source, names[0])):
        raise InputError(f"source {source}: log {names[0]} is not longer than {MOMENTS_S[0]:g} s; nothing to ask about")
    each = len(MOMENTS_S)
    return [(name, min(each, count - each * i)) for i, name in enumerate(names[:-(-count // each)])]


def moments_of(drive: Log) -> list[float]:
    """Seconds after its start."""
    return [at_s for at_s in MOMENTS_S if at_s <= (drive.end_us - drive.start_us) / 1e6]


def _town_drive(source: str, log_id: str) -> Log:
    """Raises InputError for a log of any other source, or a rerun."""
    from drive_wm.datasets.sources import open_source

    drive = open_source(source).load(log_id)
    if drive.source != "town" or "rerun" in drive.metadata:
        raise InputError(f"log {drive.id} of source {drive.source!r}: true causes are known in the town alone; "
                         "give --source town:SEEDS")
    return drive


# --- figures ------------------------------------------------------------------------------------------------------


def ratio(part: Sequence[float], whole: Sequence[float], logs: Sequence[str], seed: int) -> tuple[float, float, float]:
    """sum(part) / sum(whole) over moments (N,), and its 95% percentile interval by resampling their logs (N,), as
    moments of one log are alike (Efron, 1979); NaN where it is not defined."""
    of = np.unique(list(logs), return_inverse=True)[1]
    over, under = (np.bincount(of, np.asarray(x, float)) if len(of) else np.zeros(0) for x in (part, whole))
    nan = float("nan")
    if not under.sum():
        return nan, nan, nan
    value = float(over.sum() / under.sum())
    if len(over) < 2:
        return value, nan, nan

    def on(draws: IntArray) -> FloatArray:
        sums = under[draws].sum(1)
        return np.divide(over[draws].sum(1), sums, out=np.full(len(sums), nan), where=sums > 0)

    return value, *interval(on, len(over), seed, RESAMPLES, undefined=1.0)


def _row(name: str, part: Sequence[float], whole: Sequence[float], rows: Rows, seed: int) -> dict[str, Any]:
    value, low, high = ratio(part, whole, [row["log_id"] for row in rows], seed)
    return {"what": name, "value": value, "low": low, "high": high, "moments": len(part)}


def share_row(name: str, rows: Rows, column: str, seed: int) -> dict[str, Any]:
    """The share of moments at which a column is true, or its mean, of those at which it is known."""
    known = [row for row in rows if row.get(column) is not None]
    return _row(name, [row[column] for row in known], [1.0] * len(known), known, seed)


def rate_rows(name: str, rows: Rows, stated: str, true: str, seed: int) -> Rows:
    """F1, precision and recall of one column of sets against another, counted over all moments."""
    hits, said, meant = counts_of(rows, stated, true).T
    return [_row(f"{name} f1", 2 * hits, said + meant, rows, seed), _row(f"{name} precision", hits, said, rows, seed),
            _row(f"{name} recall", hits, meant, rows, seed)]


def summarize(results: Sequence[MomentResult], seed: int) -> dict[str, Rows]:
    """The tables of the report, from what was judged."""
    rows = [r.row for r in results]
    tables = {"answers": answer_table(results, seed), "consistency": consistency_table(rows, seed),
              "faithful_to_the_world": world_table(rows, seed)}
    if any("own" in row for row in rows):
        tables["faithful_to_itself"] = rate_rows("model", rows, "stated", "own", seed)
        tables["deletion"] = deletion_table(results)
    return tables


def answer_table(results: Sequence[MomentResult], seed: int) -> Rows:
    """By kind: of all that were asked, how many were right, of the model and of both baselines; and by how much the
    model beats the better one."""
    table: Rows = []
    logs = [r.log_id for r in results]
    for kind in KINDS:
        groups = [[a for a in r.answers if a["kind"] == kind] for r in results]
        asked = [a for group in groups for a in group]

        def right(column: str, groups: list[Rows] = groups) -> list[float]:
            return [float(sum(bool(a.get(column)) for a in g)) for g in groups]

        sizes = [len(g) for g in groups]
        exact, low, high = ratio(right("exact"), sizes, logs, seed)
        better = max(("blind_exact", "text_only_exact"), key=lambda column: sum(right(column)))
        over = ratio([a - b for a, b in zip(right("exact"), right(better))], sizes, logs, seed)
        table.append({"kind": kind, "asked": len(asked), "exact": exact, "low": low, "high": high,
                      "semantic": _mean(asked, "semantic"), "blind": _mean(asked, "blind_exact"),
                      "blind_semantic": _mean(asked, "blind_semantic"), "text_only": _mean(asked, "text_only_exact"),
                      "over_the_better": over[0], "over_low": over[1], "over_high": over[2]})
    return table


def _mean(rows: Rows, column: str) -> float:
    return float(np.mean([bool(row.get(column)) for row in rows])) if rows else float("nan")


def consistency_table(rows: Rows, seed: int) -> Rows:
    named = (("stated speed agrees with the plan", "consistent"),
             ("stated steering is that of the plan", "consistent_lateral"),
             ("decided first: the plan carries out its own decision", "first_obeyed"),
             ("told to speed up: the plan does", "going_obeyed"),
             ("told to stop: the plan does", "stopping_obeyed"),
             ("town's driver: stated speed agrees with its drive", "expert_consistent"),
             ("an irrelevant sentence changes nothing", "undisturbed"))
    sizes = (("speed up against stop, speed at the end of the plan, m/s", "opposites_mps"),
             ("decision swapped for stop, plan moves by, m/s", "stopping_moved_mps"),
             ("decision as its own, plan moves by, m/s", "own_moved_mps"))
    return [share_row(name, rows, column, seed) for name, column in (*named, *sizes)]


def world_table(rows: Rows, seed: int) -> Rows:
    """Stated causes against true ones; the town's driver beside it, whose reasons are those of its control law."""
    stated = [len(row["stated"]) for row in rows]
    invented = [sum(name not in row["effects"] for name in row["stated"]) for row in rows]
    effect = [sum(row["effects"].values()) for row in rows]
    lost = [sum(size for name, size in row["effects"].items() if name not in row["stated"]) for row in rows]
    return [*rate_rows("model", rows, "stated", "true", seed),
            *rate_rows("town's driver", rows, "expert", "true", seed),
            _row("hallucinated, share of what is stated", invented, stated, rows, seed),
            _row("omitted, share of all effect", lost, effect, rows, seed),
            _row("invisible, share of what is stated", [len(row["invisible"]) for row in rows], stated, rows, seed),
            _row("true causes that no camera sees", [len(row["true_invisible"]) for row in rows],
                 [len(row["true"]) for row in rows], rows, seed)]


def deletion_table(results: Sequence[MomentResult]) -> Rows:
    """Of things that were taken out of what the model sees: did it act otherwise, did it stop citing them?"""
    removed = [x for r in results for x in r.removed]
    table: Rows = []
    for cited in (True, False):
        group = [x for x in removed if x["cited"] == cited]
        for acted in (True, False):
            some = [x for x in group if x["plan_changed"] == acted]
            table.append({"the thing was": "cited" if cited else "not cited",
                          "the plan": "changed" if acted else "stayed", "removals": len(some),
                          "citation_dropped": sum(x["citation_dropped"] for x in some) if cited else None,
                          "decision_changed": sum(x["decision_changed"] for x in some)})
    return table


# --- report -------------------------------------------------------------------------------------------------------

NOTES = {
    "answers": "Exact: the sentence says the true value (reasons: all causes with their things), of all questions "
               "asked. Semantic: a number within 1 or 20%, for reasons the kind of the first cause, for decisions "
               "whatever looks alike from outside. "
               "Blind: the same model without images, layout and agents. Text only: the commonest value in 600 "
               "training logs for that question, whatever its words.",
    "consistency": "The decision is read off the plan by the thresholds of the town's labels (drive_wm.decisions). "
                   "The first two rows are of reasons given for a plan (post hoc), which cannot contradict it: "
                   "only what the plan looks like can be stated. The others are what had to be learned: plans "
                   "for decisions that were made or told before them. The row of the town's driver is what a "
                   "perfect imitation could reach.",
    "faithful_to_the_world": "A true cause is one without which the town's driver would differ within 4 s by more than "
                             "1 m/s or 0.5 m across the road. Effects are counted in these thresholds. The town's "
                             "driver names what binds it now, at most two things, so it does not reach 1 either.",
    "faithful_to_itself": "Own causes: things that, taken out of images, layout and agents, change the model's plan by "
                          "more than 1 m/s or 0.5 m. Tried: what is stated or true, the nearest ahead, the light.",
    "deletion": "Counts of removals. Faithful words: cited where the plan changes, not cited where it stays."}


def sections(tables: dict[str, Rows], results: Sequence[MomentResult]) -> list[Any]:
    parts: list[Any] = [report.KeyValues({"moments": len(results), "logs": len({r.log_id for r in results}),
                                          "questions": sum(len(r.answers) for r in results),
                                          "removals": sum(len(r.removed) for r in results)})]
    for name, rows in tables.items():
        parts += [report.Heading(name.replace("_", " "), NOTES[name]),
                  report.Table([c.replace("_", " ") for c in rows[0]], [list(row.values()) for row in rows])]
    by_name: dict[str, Rows] = {}
    for result in results:
        for answer in result.answers:
            by_name.setdefault(answer["name"], []).append(answer)
    parts += [report.Heading("by question"),
              report.Table(["question", "kind", "asked", "exact", "semantic", "blind", "text only"],
                           [[name, rows[0]["kind"], len(rows), *(_mean(rows, c) for c in (
                               "exact", "semantic", "blind_exact", "text_only_exact"))]
                            for name, rows in by_name.items()])]
    shown = ["log_id", "at_s", "decision", "course", "stated", "true", "own", "text"]
    parts += [report.Heading("moments"), report.Table(shown, [[_cell(r.row.get(c)) for c in shown] for r in results])]
    return parts


def _cell(value: Any) -> Any:
    return ", ".join(value) or "none" if isinstance(value, list) else value


__all__ = ["language", "ratio", "sections", "summarize"]
