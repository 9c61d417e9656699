"""Questions and answers about a moment of a log, rendered from what is true there. The same seed, the same words."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from drive_wm.datasets.language import explanation, perception, planning, prediction  # noqa: F401  fill the table
from drive_wm.datasets.language.facts import Facts
from drive_wm.datasets.language.templates import KINDS, TEMPLATES
from drive_wm.types import InputError, Log, Text

DISTRACTORS = ("I like the town.", "It is nice to drive.", "My friend has a blue car.",
               "I was in a bus on the day before.", "There was a bicycle on the road before.", "I do not like to wait.")


@dataclass(frozen=True)
class QA:
    """kind: one of KINDS. name: of the template. evidence: ids of tracks and signals.

    value: the answer as plain values, None where the question has none (and ``answer`` says so). choices: the values
    among which it lies; empty where it is open.
    """

    question: str
    answer: str
    kind: str
    name: str
    evidence: tuple[str, ...] = ()
    value: Any = None
    choices: tuple[Any, ...] = ()


def qa_of(log: Log, at_s: float, seed: int = 0, kinds: Sequence[str] = KINDS, facts: Facts | None = None) -> list[QA]:
    """Every question of the table that can be asked ``at_s`` seconds into a log, once, in one of its paraphrases.

    Which one, and about whom, is drawn from (seed, question, log, time) alone. What only the town knows (reasons, what
    would be if) is not asked of other logs. About 0.4 s of a core, and 0.7 s more for a town log that holds no causes.
    Raises InputError for an unknown kind, or where the log has no pose.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"kind of question {kind!r}, expected one of {', '.join(KINDS)}")
    facts = facts or Facts(log, log.start_us + int(round(at_s * 1e6)))
    out = []
    for name, template in TEMPLATES.items():
        rng = np.random.default_rng([seed, zlib.crc32(f"{log.id} {name}".encode()), facts.at_us % 2**31])
        phrase = str(rng.choice(template.questions))
        found = template.find(facts, rng) if template.kind in kinds else None
        if found is not None:
            out.append(QA(phrase.format(**found.slots), found.text, template.kind, name, found.ids, found.value,
                          found.choices))
    return out


def distracted(question: str, seed: int) -> str:
    """The question after a sentence that has nothing to do with it: the answer must stay."""
    rng = np.random.default_rng([seed, zlib.crc32(question.encode())])
    return f"{rng.choice(DISTRACTORS)} {question}"


def caption_of(facts: Facts) -> str:
    """A sentence or two on what a moment shows: light, weather, who is ahead, what the driver does."""
    asked = np.random.default_rng(0)
    parts = [perception.time_of_day(facts, asked).text[:-1] + f" and {facts.log.look.weather}.",
             perception.seen_ahead(facts, asked).text]
    light = facts.light()
    parts += [f"The light is {light}."] if light else []
    parts += [f"I {planning.SAY[facts.reason.longitudinal]}."] if facts.reason else []
    return " ".join(parts)


def with_texts(log: Log, every_s: float = 2.0, seed: int = 0) -> Log:
    """The log with ``texts``: a caption and all questions every so many seconds, each valid until the next."""
    texts: list[Text] = []
    length_s = (log.end_us - log.start_us) / 1e6
    for at_s in np.arange(0.0, length_s - 0.5, every_s):
        facts = Facts(log, log.start_us + int(round(at_s * 1e6)))
        span = (facts.at_us, min(facts.at_us + int(every_s * 1e6), log.end_us))
        texts.append(Text(*span, caption_of(facts)))
        texts += _asked(facts, span, seed)
    return replace(log, texts=log.texts + tuple(texts))


def taught(log: Log, every_s: float, valid_s: float, until_s: float = 1e9, rounds: int = 2) -> Log:
    """A town log as a model learns from it: questions every so many seconds, each valid for ``valid_s``, and at those
    moments reasons whose causes are true. rounds: of all questions, in other words and about others. About 0.9 s of a
    core a moment."""
    texts: list[Text] = []
    reasons = dict(log.reasons)
    for at_s in np.arange(0.0, min((log.end_us - log.start_us) / 1e6 - 0.5, until_s), every_s):
        facts = Facts(log, log.start_us + int(round(at_s * 1e6)))
        span = facts.at_us, facts.at_us + int(valid_s * 1e6)
        texts += [text for seed in range(rounds) for text in _asked(facts, span, seed)]
        if facts.truth is not None:
            reasons[facts.at_us] = facts.truth
    return replace(log, texts=log.texts + tuple(texts), reasons=tuple(sorted(reasons.items())))


def _asked(facts: Facts, span: tuple[int, int], seed: int) -> list[Text]:
    return [Text(*span, qa.answer, qa.question, qa.kind, qa.evidence)
            for qa in qa_of(facts.log, facts.at_s, seed, facts=facts)]


__all__ = ["DISTRACTORS", "KINDS", "QA", "TEMPLATES", "Facts", "caption_of", "distracted", "qa_of", "taught",
           "with_texts"]
