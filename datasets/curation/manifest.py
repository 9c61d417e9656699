"""The curated manifest: one row a clip, with all that leads back from a training sample to where it came from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from drive_wm.types import SPLITS, InputError

FORMAT = "drive_wm.curated@1"
NAME = "manifest.jsonl"


@dataclass(frozen=True)
class Row:
    """One clip. start_us, end_us: inclusive, in the log's clock. Only rows with ``keep`` are trained on.

    weight: of every window of the clip; its mean over time is 1 in each split. captions: one of at most five tokens,
    and a long one. duplicate_of: the clip kept instead. lineage: source, log, times, licence, and what else is known.
    """

    clip_id: str
    source: str
    log_id: str
    start_us: int
    end_us: int
    split: str
    keep: bool
    reason: str
    weight: float
    captions: tuple[str, ...]
    tags: Mapping[str, Any]
    quality: Mapping[str, float]
    score: float
    duplicate_of: str
    licence: str
    lineage: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.end_us < self.start_us or self.split not in SPLITS or self.weight < 0:
            raise InputError(f"clip {self.clip_id}: {self.start_us} to {self.end_us} us, split {self.split!r}, weight "
                             f"{self.weight}: expected times in order, one of {', '.join(SPLITS)}, no negative weight")

    @property
    def seconds(self) -> float:
        return (self.end_us - self.start_us) / 1e6

    def to_json(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def row_from_json(value: Any, where: str) -> Row:
    names = {field.name for field in fields(Row)}
    if not isinstance(value, dict) or not names <= set(value):
        missing = sorted(names - set(value)) if isinstance(value, dict) else "everything"
        raise InputError(f"{where}: no curated clip, it lacks {missing}")
    known: dict[str, Any] = {name: value[name] for name in names}
    return Row(**known | {"captions": tuple(value["captions"])})


def read_manifest(path: Path) -> list[Row]:
    """All rows, kept and dropped, of a manifest.jsonl or of the folder that holds it. Raises InputError."""
    file = path / NAME if path.is_dir() else path
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; make one with: drive-wm data curate --out {path}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(row_from_json(json.loads(line), f"{file} line {number}"))
        except json.JSONDecodeError as error:
            raise InputError(f"{file} line {number}: is not JSON ({error})") from error
    if len({row.clip_id for row in rows}) < len(rows):
        raise InputError(f"{file}: two rows have one clip_id")
    return rows


def flat(row: Row) -> dict[str, Any]:
    """For a table: one column a tag and measure, captions by length ("" where the clip was not looked at), lineage as
    JSON."""
    value = row.to_json()
    captions, found, measures = value.pop("captions"), value.pop("tags"), value.pop("quality")
    lineage = json.dumps(value.pop("lineage"), sort_keys=True)
    return {**value, "caption": "".join(captions[:1]), "caption_long": "".join(captions[-1:]),
            **{f"tag_{k}": v for k, v in sorted(found.items())}, **{f"q_{k}": v for k, v in sorted(measures.items())},
            "lineage": lineage}


def trace(rows: Iterable[Row], log_id: str, timestamp_us: int, source: str | None = None) -> list[Row]:
    """The clips that a moment of a log is in: from a training sample back to its rows and their lineage."""
    return [row for row in rows if row.log_id == log_id and row.start_us <= timestamp_us <= row.end_us
            and source in (None, row.source)]


def licence_allowed(licence: str, allowed: Sequence[str]) -> bool:
    """Whether a licence is on the list: the whole text, or a pattern with *, case folded; an empty list allows all.

    A plain name must be the whole text: "CC BY" is not "CC BY-NC".
    """
    return not allowed or any(fnmatchcase(licence.lower(), pattern.lower()) for pattern in allowed)
