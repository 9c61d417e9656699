"""LingoQA questions and answers about short front camera videos (Marcu et al., 2024): as Text rows, and to be scored.

A table (Parquet, CSV or JSON rows) with the columns question_id, segment_id, images, question, answer: ``images`` lists
the segment's frames, one a second, the newest last. An evaluation set has two answers, so two rows, a question.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drive_wm.types import InputError, Log, Text

COLUMNS = ("question_id", "segment_id", "images", "question", "answer")
FRAME_US = 1_000_000


@dataclass(frozen=True)
class Question:
    """answers: all references of a question. images: paths as the table gives them, a second apart."""

    id: str
    segment: str
    images: tuple[str, ...]
    question: str
    answers: tuple[str, ...]


def read_lingoqa(path: str | Path) -> list[Question]:
    """The questions of a table in its order, references of one question together; raises InputError."""
    found: dict[tuple[str, str, str], Question] = {}
    for number, row in enumerate(_rows(Path(path))):
        missing = [c for c in COLUMNS if row.get(c) is None]
        if missing:
            raise InputError(f"{path}: row {number} has no {', '.join(missing)}; expected {', '.join(COLUMNS)}")
        key = (str(row["segment_id"]), str(row["question_id"]), str(row["question"]))
        before = found.get(key)
        answers = (before.answers if before else ()) + (str(row["answer"]),)
        found[key] = Question(key[1], key[0], _images(row["images"]), key[2], answers)
    if not found:
        raise InputError(f"{path}: holds no question")
    return list(found.values())


def _rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        if path.suffix == ".parquet":
            return _parquet(path)
        text = path.read_text(encoding="utf-8")
        return list(csv.DictReader(text.splitlines())) if path.suffix == ".csv" else list(json.loads(text))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as LingoQA's table ({error}); "
                         "expected .parquet, .csv or .json") from None


def _parquet(path: Path) -> list[Mapping[str, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InputError("LingoQA's Parquet tables need pyarrow: pip install pyarrow") from error
    try:
        rows: list[Mapping[str, Any]] = pq.read_table(path).to_pylist()
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: is no Parquet table ({error})") from None
    return rows


def _images(value: Any) -> tuple[str, ...]:
    """A list, or a list as CSV writes it."""
    if isinstance(value, str):
        parts = value.strip("[] ").replace("\n", " ").split("," if "," in value else None)
        value = [part.strip(" '\"") for part in parts]
    return tuple(str(v) for v in value if str(v))


def texts_of(questions: Sequence[Question], start_us: int) -> tuple[Text, ...]:
    """Rows for the log of one segment that begins at ``start_us``: a question is about its newest frame."""
    out = []
    for q in questions:
        now_us = start_us + (len(q.images) - 1) * FRAME_US
        out += [Text(now_us, now_us + FRAME_US, answer, q.question, "lingoqa") for answer in q.answers]
    return tuple(out)


def with_lingoqa(log: Log, path: str | Path, segment: str | None = None) -> Log:
    """The log of a segment (by its id, or the one named) with the table's texts; raises InputError if it has none."""
    wanted = segment or log.id
    mine = [q for q in read_lingoqa(path) if q.segment == wanted]
    if not mine:
        raise InputError(f"{path}: no question about segment {wanted!r}")
    return replace(log, texts=log.texts + texts_of(mine, log.start_us))
