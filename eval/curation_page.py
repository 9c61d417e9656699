"""``drive-wm data curate``: sources in, a run folder with the manifest, a report and a contact sheet out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drive_wm.config import override, to_json
from drive_wm.datasets.curation.balance import BALANCED
from drive_wm.datasets.curation.curate import Curated, CurationSpec, curate
from drive_wm.datasets.curation.manifest import NAME, Row, flat
from drive_wm.datasets.curation.marks import read_marks
from drive_wm.datasets.curation.places import Leak, SplitSpec
from drive_wm.datasets.curation.sheet import sheet, spread
from drive_wm.eval.report import Failures, Heading, KeyValues, Picture, Table, Text, write_report
from drive_wm.eval.run_folder import RunFolder
from drive_wm.media import write_png
from drive_wm.types import InputError

SHOWN, LISTED, LEAKS, VALUES = 24, 400, 20, 12


def curate_to_folder(sources: Sequence[str], out: Path, *, marks: Path | None = None, exponent: float = 0.5,
                     split_by: str = "given", licences: Sequence[str] = (),
                     overrides: Mapping[str, str] | None = None, workers: int = 1, engine: str = "local",
                     seed: int = 0) -> Curated:
    """Curates the sources into the run folder ``out``: manifest.jsonl and .parquet, report.html, contact sheets.

    exponent: of the balance. overrides: path in CurationSpec -> text, such as {"limits.blur": "0.6"}.
    """
    if not sources:
        raise InputError("name one source or more: --source KIND:PATH")
    spec = CurationSpec(splits=SplitSpec(seed=seed), split_by=split_by, licences=tuple(licences), balance=exponent,
                        seed=seed)
    spec = override(spec, overrides or {})
    marked = read_marks(marks) if marks else None
    with RunFolder(out, "data-curate", seed=seed) as run:
        done = curate(sources, spec, marks=marked, workers=workers, engine=engine, progress=show_progress())
        rows = done.rows
        run.write_json("spec.json", to_json(spec))
        run.write_text(NAME, "".join(json.dumps(row.to_json(), allow_nan=False) + "\n" for row in rows))
        run.write_parquet("manifest.parquet", [flat(row) for row in rows])
        if done.classifier:
            run.write_json("classifier.json", done.classifier.to_json())
        if done.leaks:
            run.write_json("leaks.json", [{"a": rows[leak.a].clip_id, "b": rows[leak.b].clip_id, "splits": [
                rows[leak.a].split, rows[leak.b].split], "distance_m": leak.distance_m, "apart_s": leak.apart_s}
                for leak in done.leaks])
        pictures = write_sheets(run, done)
        report(run, done, pictures)
        run.finish(summary(done))
    return done


def show_progress() -> Any:
    """A line that counts logs, where someone watches."""
    import sys

    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        print(f"\r{done} of {total} logs", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show


def write_sheets(run: RunFolder, done: Curated) -> dict[str, Path]:
    """kept.png and dropped.png, each where there is something to show."""
    pictures = {}
    for name, keep in (("kept", True), ("dropped", False)):
        of = [i for i, row in enumerate(done.rows) if row.keep == keep]
        chosen = [of[k] for k in spread([done.rows[i] for i in of], SHOWN)]
        image = sheet(done.rows, done.candidates, chosen)
        if image is not None:
            pictures[name] = run.file(f"{name}.png")
            write_png(pictures[name], image)
    return pictures


# --- numbers ------------------------------------------------------------------------------------------------------


def hours(rows: Sequence[Row]) -> float:
    return round(sum(row.seconds for row in rows) / 3600, 4)


def effective_share(rows: Sequence[Row]) -> float:
    """(sum w)^2 / (n sum w^2) over time: the share of the training time that uneven weights leave in effect (Kish)."""
    total, first = sum(row.seconds for row in rows), sum(row.seconds * row.weight for row in rows)
    return round(first**2 / (total * sum(row.seconds * row.weight**2 for row in rows)), 4)


def reason_counts(rows: Sequence[Row]) -> dict[str, int]:
    """How many clips each reason struck; a clip may have several."""
    every = Counter(part for row in rows if row.reason for part in row.reason.split(", "))
    return dict(every.most_common())


def summary(done: Curated) -> dict[str, Any]:
    kept = [row for row in done.rows if row.keep]
    facts: dict[str, Any] = {
        "logs": len({(row.source, row.log_id) for row in done.rows}), "clips": len(done.rows), "kept": len(kept),
        "hours": hours(done.rows), "hours_kept": hours(kept), "dropped": reason_counts(done.rows),
        "splits": dict(Counter(row.split for row in kept)), "leaks": len(done.leaks),
        "manoeuvres": dict(Counter(row.tags["manoeuvre"] for row in kept).most_common()),
        "licences": dict(Counter(row.licence for row in kept))}
    train = [row for row in kept if row.split == "train"]
    if train:
        facts["effective_share"] = effective_share(train)
    if done.classifier:
        facts["classifier"] = {"marks": done.classifier.marks, "accuracy": round(done.classifier.accuracy, 4),
                               "always_the_same": round(done.classifier.base_rate, 4)}
    unreadable = [f"{row.log_id}: {row.lineage['error']}" for row in done.rows if row.reason == "unreadable"]
    facts |= {"unreadable": unreadable} if unreadable else {}
    return facts | ({"notes": done.notes} if done.notes else {})


def shares(rows: Sequence[Row]) -> list[list[Any]]:
    """Tag, value, its share of the kept training time, and of what is drawn by weight."""
    train = [row for row in rows if row.keep and row.split == "train"]
    total = sum(row.seconds for row in train)
    out: list[list[Any]] = []
    for tag in BALANCED:
        time, drawn = dict[str, float](), dict[str, float]()
        for row in train:
            value = str(row.tags[tag])
            time[value] = time.get(value, 0.0) + row.seconds / total
            drawn[value] = drawn.get(value, 0.0) + row.seconds * row.weight / total
        most = sorted(time, key=lambda value: -time[value])[:VALUES]
        out += [[tag, value, round(time[value], 4), round(drawn[value], 4)] for value in most]
    return out


def say_leak(rows: Sequence[Row], leak: Leak) -> str:
    a, b = rows[leak.a], rows[leak.b]
    return f"{a.clip_id} ({a.split}) and {b.clip_id} ({b.split}) come within {leak.distance_m:.1f} m"


def report(run: RunFolder, done: Curated, pictures: dict[str, Path]) -> None:
    facts = summary(done)
    plain = {name: value for name, value in facts.items() if not isinstance(value, (dict, list))}
    sections: list[Any] = [KeyValues(plain)]
    lines = [*facts.get("unreadable", []), *(say_leak(done.rows, leak) for leak in done.leaks[:LEAKS])]
    sections += [Heading("Drives that cannot be read, and leaks between splits"), Failures(lines)]
    sections += [Text("\n\n".join(done.notes))] if done.notes else []
    if facts["dropped"]:
        sections += [Heading("Why clips were dropped"), 
                     Table(["reason", "clips"], [list(item) for item in facts["dropped"].items()])]
    for name, title in (("kept", "Kept, a few of each manoeuvre"), ("dropped", "Dropped, a few of each reason")):
        if name in pictures:
            sections += [Heading(title), Picture(pictures[name])]
    if any(row.keep and row.split == "train" for row in done.rows):
        sections += [Heading("Balance of the training clips"),
                     Table(["tag", "value", "share of time", "share drawn"], shares(done.rows))]
    table = [[row.clip_id, row.seconds, row.split, row.reason or "kept", row.weight,
              row.captions[0] if row.captions else ""] for row in done.rows[:LISTED]]
    sections += [Heading(f"Clips{'' if len(done.rows) <= LISTED else f', the first {LISTED}'}"),
                 Table(["clip", "seconds", "split", "state", "weight", "shows"], table)]
    write_report(run, "Curated clips", sections, f"{facts['kept']} of {facts['clips']} clips kept")
