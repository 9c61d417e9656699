"""What words alone can know: of every question that is asked of the town, its commonest answer in training logs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from drive_wm.datasets.language import qa_of
from drive_wm.datasets.parallel import in_parallel

PRIOR = Path(__file__).parent / "commonest_answers.json"
SEEDS, MOMENTS_S = range(600), (1.5, 3.0, 4.5, 6.0)  # what the file was counted over


@cache
def commonest_answers() -> dict[str, Any]:
    """Name of a question -> the commonest of its values."""
    found: dict[str, Any] = json.loads(PRIOR.read_text(encoding="utf-8"))["answers"]
    return found


def counted(seeds: Sequence[int] = SEEDS, moments_s: Sequence[float] = MOMENTS_S, workers: int = 1) -> dict[str, Any]:
    """The content of PRIOR, anew: two rounds of all questions a moment; about a second of a core a moment."""
    counts: dict[str, Counter[str]] = {}
    for _, of_log in in_parallel(partial(_of_log, moments_s=moments_s), list(seeds), workers):
        for name, count in of_log.items():
            counts.setdefault(name, Counter()).update(count)
    return {"seeds": [min(seeds), max(seeds)], "moments_s": list(moments_s),
            "answers": {name: json.loads(max(sorted(count), key=count.__getitem__))
                        for name, count in sorted(counts.items())}}


def _of_log(log_seed: int, moments_s: Sequence[float]) -> dict[str, Counter[str]]:
    from drive_wm.datasets.town import generate

    drive = generate(log_seed)
    counts: dict[str, Counter[str]] = {}
    for at_s in moments_s:
        for qa in (qa for seed in range(2) for qa in qa_of(drive, at_s, seed)):
            counts.setdefault(qa.name, Counter())[json.dumps(qa.value)] += 1
    return counts


__all__ = ["PRIOR", "commonest_answers", "counted"]
