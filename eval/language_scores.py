"""Scores of answers: exact match, F1 of sets, BLEU and ROUGE-L by their definitions, and DriveLM's figures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from drive_wm.types import FloatArray

ROUGE_BETA = 1.2  # weights recall as the COCO caption tools do
MATCH_PX = 16.0


def words_of(text: str) -> list[str]:
    """Lower case, without punctuation."""
    return re.findall(r"\w+", text.lower())


def bleu(answers: Sequence[str], references: Sequence[str], order: int = 4) -> float:
    """Corpus BLEU with one reference each (Papineni et al., 2002): brevity penalty times the geometric mean of the
    clipped precisions of 1- to ``order``-grams, without smoothing; NaN where there is nothing to score."""
    hits, totals = np.zeros(order), np.zeros(order)
    length, wanted = 0, 0
    for answer, reference in zip(answers, references, strict=True):
        a, r = words_of(answer), words_of(reference)
        length, wanted = length + len(a), wanted + len(r)
        for n in range(1, order + 1):
            mine, theirs = _grams(a, n), _grams(r, n)
            hits[n - 1] += sum((mine & theirs).values())
            totals[n - 1] += sum(mine.values())
    if not len(answers):
        return float("nan")
    if not hits.all():
        return 0.0
    return float(min(1.0, np.exp(1 - wanted / length)) * np.exp(np.log(hits / totals).mean()))


def _grams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i:i + n]) for i in range(len(words) - n + 1))


def rouge_l(answer: str, reference: str, beta: float = ROUGE_BETA) -> float:
    """F-measure of the longest common subsequence (Lin, 2004): (1 + b^2) P R / (R + b^2 P)."""
    a, r = words_of(answer), words_of(reference)
    common = _common(a, r)
    if not common:
        return 0.0
    precision, recall = common / len(a), common / len(r)
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)


def _common(a: list[str], b: list[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        before = row[:]
        for j, other in enumerate(b):
            row[j + 1] = before[j] + 1 if word == other else max(before[j + 1], row[j])
    return row[-1]


def same_answer(answer: str, reference: str) -> bool:
    """Equal up to case, spacing and punctuation."""
    return words_of(answer) == words_of(reference)


def f1_of(stated: Iterable[Any], true: Iterable[Any]) -> tuple[int, int, int]:
    """(hits, stated, true) of two sets; counts add up over moments before a rate is made of them."""
    mine, theirs = set(stated), set(true)
    return len(mine & theirs), len(mine), len(theirs)


# --- DriveLM ------------------------------------------------------------------------------------------------------


def match_f1(answer: str, reference: str, within_px: float = MATCH_PX) -> float:
    """F1 of the image points that both texts name ("<c1,CAM_FRONT,714.3,503.6>" is (714.3, 503.6)): a point of the
    answer counts where the nearest unclaimed one of the reference is less than ``within_px`` away, |dx| + |dy|."""
    mine, theirs = points_in(answer), points_in(reference)
    total, found = len(theirs), 0
    for point in mine:
        gaps = np.abs(theirs - point).sum(1)
        if len(gaps) and gaps.min() < within_px:
            found += 1
            theirs = np.delete(theirs, int(gaps.argmin()), axis=0)
    return 2 * found / (len(mine) + total) if len(mine) + total else 0.0  # as the challenge counts it


def points_in(text: str) -> FloatArray:
    numbers = [float(n) for n in re.findall(r"\d+\.\d+", text)]
    return np.array(numbers[:len(numbers) // 2 * 2]).reshape(-1, 2)


def drivelm_scores(answers: Sequence[str], references: Sequence[str], tags: Sequence[str]) -> dict[str, float | None]:
    """The figures of DriveLM's challenge that need no judge, in [0, 1]: accuracy (closed questions, by exact words),
    match (questions whose answer names objects) and language (open ones: BLEU-1 to -4, ROUGE-L).

    tags: "accuracy", "match" or "language" each, see datasets.drivelm. None where there is no such question. CIDEr, the
    judge (GPT) and the final score made of all of them are not computed.
    """
    rows = list(zip(answers, references, tags, strict=True))
    closed, objects, spoken = ([(a, r) for a, r, tag in rows if tag == wanted]
                               for wanted in ("accuracy", "match", "language"))
    scores: dict[str, float | None] = {
        "accuracy": float(np.mean([same_answer(a, r) for a, r in closed])) if closed else None,
        "match": float(np.mean([match_f1(a, r) for a, r in objects])) if objects else None}
    said, wanted = [a for a, _ in spoken], [r for _, r in spoken]
    for n in range(1, 5):
        scores[f"bleu_{n}"] = bleu(said, wanted, n) if spoken else None
    scores["rouge_l"] = float(np.mean([rouge_l(a, r) for a, r in spoken])) if spoken else None
    return scores


# --- LingoQA ------------------------------------------------------------------------------------------------------


def lingoqa_scores(answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Against several references a question, the best of them: exact words, BLEU-4 (with the reference of the best
    ROUGE-L) and ROUGE-L, in [0, 1]. The benchmark's own figure is a learned judge, which is not computed."""
    best = [max(refs, key=lambda r: rouge_l(answer, r)) for answer, refs in zip(answers, references, strict=True)]
    return {"exact": float(np.mean([any(same_answer(a, r) for r in refs) for a, refs in zip(answers, references)])),
            "bleu_4": bleu(answers, best), "rouge_l": float(np.mean([rouge_l(a, r) for a, r in zip(answers, best)]))}
