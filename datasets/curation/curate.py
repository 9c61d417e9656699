"""Many sources -> one manifest: each log is examined, locally or on Ray; then clips are compared and weighed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from drive_wm.datasets.curation import places
from drive_wm.datasets.curation.balance import CEILING, EXPONENT
from drive_wm.datasets.curation.balance import weights as balanced_weights
from drive_wm.datasets.curation.duplicates import Likeness, duplicates
from drive_wm.datasets.curation.examine import Candidate, ExamineSpec, absolute, examine, opened
from drive_wm.datasets.curation.manifest import Row
from drive_wm.datasets.curation.marks import MIN_MARKS, Classifier, learn
from drive_wm.datasets.curation.quality import Limits
from drive_wm.datasets.curation.segments import SegmentSpec
from drive_wm.datasets.parallel import in_order
from drive_wm.types import SPLITS, InputError

SPLIT_BY = ("given", "place", "time")


@dataclass(frozen=True)
class CurationSpec:
    """How clips are chosen. licences: those allowed, empty for all. split_by: given (the logs' own), place or time.

    balance, ceiling: the exponent, and the most that a weight may be, see balance.weights.
    """

    segments: SegmentSpec = SegmentSpec()
    limits: Limits = Limits()
    likeness: Likeness = Likeness()
    splits: places.SplitSpec = places.SplitSpec()
    split_by: str = "given"
    licences: tuple[str, ...] = ()
    balance: float = EXPONENT
    ceiling: float = CEILING
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split_by not in SPLIT_BY:
            raise InputError(f"split by {self.split_by!r}, expected one of {', '.join(SPLIT_BY)}")
        if not 0 <= self.balance <= 1:
            raise InputError(f"--balance {self.balance}: expected 0 (as recorded) to 1 (all kinds equally often)")

    @property
    def examine(self) -> ExamineSpec:
        return ExamineSpec(self.segments, self.limits, self.splits.region_m, self.licences)


@dataclass(frozen=True)
class Curated:
    """rows: one a clip, in the order of the sources. candidates: what was found out about each. leaks: of kept clips.

    notes: what a user should know, one line each.
    """

    rows: list[Row]
    candidates: list[Candidate]
    leaks: list[places.Leak]
    classifier: Classifier | None = None
    notes: list[str] = field(default_factory=list)


def examine_all(sources: Sequence[str], spec: ExamineSpec, workers: int, engine: str,
                progress: Callable[[int, int], None] | None) -> list[Candidate]:
    """The candidates of every log of every source, in order; the same on any engine and number of workers."""
    named = list(dict.fromkeys(absolute(source) for source in sources))
    jobs = [{"source": source, "log_id": log_id} for source in named for log_id in opened(source).log_ids()]
    if not jobs:
        raise InputError("the sources hold no log; name one with --source KIND:PATH")
    function = partial(examine, spec=spec)
    found = in_order(function, jobs, workers, progress, engine)
    out = [Candidate(**value) for text in found for value in json.loads(text)]
    for source in named:
        of = [candidate for candidate in out if candidate.source == source]
        if all(candidate.refused == "licence" for candidate in of):
            licences = ", ".join(sorted({candidate.licence for candidate in of}))
            raise InputError(f"source {source}: its licence {licences!r} is not among those allowed, "
                             f"{', '.join(spec.licences)}; leave the source out, or allow it with --licence")
    return out


# --- the whole ----------------------------------------------------------------------------------------------------


def curate(sources: Sequence[str], spec: CurationSpec = CurationSpec(), *, marks: Mapping[str, bool] | None = None,
           workers: int = 1, engine: str = "local", progress: Callable[[int, int], None] | None = None) -> Curated:
    """Clips of all sources, each kept or dropped with a reason, with split, weight, captions and lineage.

    marks: clip_id -> good, by a person; they outrank the quality limits, and teach a classifier where there are enough.
    Raises InputError for an unknown source, engine or licence.
    """
    found = examine_all(sources, spec.examine, workers, engine, progress)
    ids = clip_ids(found)
    reasons = [first_reasons(candidate, spec) for candidate in found]
    scores = [heuristic(candidate, spec) for candidate in found]
    classifier, notes = apply_marks(found, ids, marks or {}, reasons, scores, spec.seed)
    splits = split(found, reasons, spec)
    twin_of = drop_duplicates(found, reasons, scores, splits, spec.likeness)
    weights = weigh(found, reasons, splits, spec)
    kept = [i for i, why in enumerate(reasons) if not why]
    leaks = find_leaks(found, splits, kept, spec)
    rows = [Row(ids[i], c.source, c.log_id, c.start_us, c.end_us, splits[i], not reasons[i], ", ".join(reasons[i]),
                weights[i], tuple(c.captions), c.tags, c.measures, round(scores[i], 4),
                ids[twin_of[i]] if i in twin_of else "", c.licence, c.lineage) for i, c in enumerate(found)]
    alone = len({c.frame for c in found if c.frame and not c.shared})
    if alone:
        notes.append(f"{alone} logs have coordinates of their own: whether they share a place with others is unknown; "
                     "origin_lat_lon_deg in the rig.json of a drive folder tells")
    return Curated(rows, found, leaks, classifier, notes)


def clip_ids(found: Sequence[Candidate]) -> list[str]:
    """KIND/LOG@SECONDS; a log of the same kind and name from a later source gets ~2, ~3 and so on."""
    names: dict[tuple[str, str], list[str]] = {}
    out = []
    for c in found:
        kind = c.source.partition(":")[0]
        sources = names.setdefault((kind, c.log_id), [])
        if c.source not in sources:
            sources.append(c.source)
        again = sources.index(c.source)
        mark = f"~{again + 1}" if again else ""
        out.append(f"{kind}/{c.log_id}{mark}@{c.lineage.get('offset_s', 0.0):06.2f}")
    return out


def first_reasons(candidate: Candidate, spec: CurationSpec) -> list[str]:
    if candidate.refused:
        return [candidate.refused]
    return candidate.quality.reasons(spec.limits)


def heuristic(candidate: Candidate, spec: CurationSpec) -> float:
    return 0.0 if candidate.refused else candidate.quality.score(spec.limits)


def apply_marks(found: Sequence[Candidate], ids: list[str], marks: Mapping[str, bool], reasons: list[list[str]],
                scores: list[float], seed: int) -> tuple[Classifier | None, list[str]]:
    """A person's marks decide; a classifier learned from them scores all clips, and drops those it finds bad."""
    if not marks:
        return None, []
    marked = [i for i, name in enumerate(ids) if name in marks and not found[i].refused]
    if not marked:
        raise InputError(f"none of the {len(marks)} marks names a clip here; clips are called such as {ids[0]}")
    notes = [f"{len(marks) - len(marked)} marks name no clip of these sources"] if len(marks) > len(marked) else []
    good = [marks[ids[i]] for i in marked]
    classifier = None
    if min(sum(good), len(good) - sum(good)) < MIN_MARKS:
        notes.append(f"no classifier: {sum(good)} good and {len(good) - sum(good)} bad marks, "
                     f"{MIN_MARKS} of each needed")
    else:
        classifier = learn([found[i].measures for i in marked], good, seed)
        usable = [i for i, c in enumerate(found) if not c.refused]
        for i, p in zip(usable, classifier.good([found[i].measures for i in usable]).tolist()):
            scores[i] = p
            if p < 0.5:
                reasons[i].append("like clips marked bad")
    for i in marked:
        reasons[i][:] = [] if marks[ids[i]] else ["marked bad"]
    return classifier, notes


def drop_duplicates(found: Sequence[Candidate], reasons: list[list[str]], scores: Sequence[float],
                    splits: Sequence[str], likeness: Likeness) -> dict[int, int]:
    """Among clips still kept; index of each that goes -> index of its keeper. What is tested on outlasts its twin."""
    kept = [i for i, why in enumerate(reasons) if not why]
    hashed = [[int(code, 16) for code in found[i].hashes] for i in kept]
    paths, seconds = [np.array(found[i].path_m) for i in kept], [found[i].seconds for i in kept]
    near = duplicates(hashed, paths, seconds, [scores[i] + 2 * SPLITS.index(splits[i]) for i in kept], likeness)
    out = {kept[a]: kept[b] for a, b in near.items()}
    for i in out:
        reasons[i].append("near-duplicate")
    return out


def split(found: Sequence[Candidate], reasons: list[list[str]], spec: CurationSpec) -> list[str]:
    """The split of each clip. A generated log keeps its own: its seed is its place, and tests are told by seed."""
    splits = [c.given_split for c in found]
    if spec.split_by == "given":
        return splits
    looked = [i for i, c in enumerate(found) if not c.refused and "seed" not in c.lineage["told"]]
    make = places.by_place if spec.split_by == "place" else places.by_time
    for i, (name, why) in zip(looked, make([found[i].where for i in looked], spec.splits)):
        splits[i] = name
        if why:
            reasons[i].append(why)
    return splits


def weigh(found: Sequence[Candidate], reasons: list[list[str]], splits: Sequence[str],
          spec: CurationSpec) -> list[float]:
    """Balanced within each split over its kept clips; a dropped clip weighs nothing."""
    out = [0.0] * len(found)
    for name in set(splits):
        of = [i for i, why in enumerate(reasons) if not why and splits[i] == name]
        tags, seconds = [found[i].tags for i in of], [found[i].seconds for i in of]
        found_weights = balanced_weights(tags, seconds, spec.balance, ceiling=spec.ceiling)
        for i, weight in zip(of, found_weights.tolist()):
            out[i] = round(weight, 6)
    return out


def find_leaks(found: Sequence[Candidate], splits: Sequence[str], kept: Sequence[int],
               spec: CurationSpec) -> list[places.Leak]:
    """places.leaks over the kept clips, by their indices among all."""
    gap = spec.splits.gap_s if spec.split_by == "time" else None
    near = places.leaks([found[i].where for i in kept], [splits[i] for i in kept], spec.splits.buffer_m, gap)
    return [places.Leak(kept[leak.a], kept[leak.b], leak.distance_m, leak.apart_s) for leak in near]
