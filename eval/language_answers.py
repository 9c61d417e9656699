"""Answers of one moment against the truth: what a sentence says, as a value, and whether it is the right one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from drive_wm.datasets.language import QA
from drive_wm.datasets.language.planning import SAY
from drive_wm.datasets.language.templates import NUMBERS, YES_NO
from drive_wm.datasets.town.causes import owner_id
from drive_wm.types import Explanation
from drive_wm.world.reasons import SIGNAL, is_signal

TYPED = ("why", "why_doing")  # told by the decision's causes, not by words
NEAR, NEAR_SHARE = 1.0, 0.2  # a number is near the true one within this, or this share of it
MISSING = object()
ALIKE = ({"proceed", "follow", "speed up"}, {"slow down", "stop", "yield"}, {"hold", "stop", "yield"})


def right(qa: QA, said: str) -> tuple[bool, bool]:
    """(exact, semantic). Exact: the same sentence, or one that says the same value: the number, the first of the
    choices, yes or no. Semantic: a near number, a decision that looks alike, a refusal for the same reason."""
    words, truth = plain(said), plain(qa.answer)
    if words == truth:
        return True, True
    if qa.value is None:
        return False, bool(words) and first_sentence(said) == first_sentence(qa.answer)
    if isinstance(qa.value, (int, float)):
        number = number_of(words)
        near = number is not None and abs(number - qa.value) <= max(NEAR, NEAR_SHARE * abs(qa.value))
        return number == qa.value, near
    if not isinstance(qa.value, str):
        return False, False
    if qa.choices == YES_NO:
        same = words.split()[:1] == [qa.value]
        return same, same
    stated = next((v for v, phrase in SAY.items() if words == f"i {phrase}"), None) or first_choice(words, qa.choices)
    return stated == qa.value, stated == qa.value or any({stated, qa.value} <= group for group in ALIKE)


def plain(text: str) -> str:
    return re.sub(r"[^\w\s]", "", text.lower()).strip()


def first_sentence(text: str) -> str:
    return plain(text.split(".")[0])


def number_of(words: str) -> float | None:
    """The first number in plain words, in digits or spelt; "not at all" and "none" are 0."""
    if words.startswith(("not at all", "none", "nobody")):
        return 0.0
    for word in words.split():
        if word.isdigit() or word in NUMBERS:
            return float(word) if word.isdigit() else float(NUMBERS.index(word))
    return None


def first_choice(words: str, choices: Sequence[Any]) -> str | None:
    """The choice that is named first; of two that begin there the longer."""
    found = [(m.start(), -len(str(c)), str(c)) for c in choices if (m := re.search(rf"\b{re.escape(str(c))}\b", words))]
    return min(found)[2] if found else None


def same_reasons(made: Explanation, truth: Sequence[Sequence[str | None]]) -> tuple[bool, bool]:
    """(exact, semantic): all causes with their things, any light being the same thing; the kind of the first."""
    stated = [[c.kind, c.agent_id] for c in made.causes]
    return _things(stated) == _things(truth), bool(stated) and bool(truth) and stated[0][0] == truth[0][0]


def _things(causes: Sequence[Sequence[str | None]]) -> set[tuple[str | None, str | None]]:
    return {(kind, SIGNAL if name and is_signal(name) else name and owner_id(name))
            for kind, name in causes}


def answer_rows(questions: Sequence[QA], made: Explanation, said: Sequence[str], blind_made: Explanation,
                blind_said: Sequence[str], prior: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a question: right or not, of the model, of the model without sight, and of the commonest value of training
    logs (``prior``), which is told which of all questions is asked."""
    rows = []
    for qa, seeing, blind in zip(questions, said, blind_said, strict=True):
        row: dict[str, Any] = {"kind": qa.kind, "name": qa.name, "question": qa.question, "truth": qa.answer,
                               "said": seeing, "blind_said": blind}
        if qa.name in TYPED:
            row["exact"], row["semantic"] = same_reasons(made, qa.value)
            row["blind_exact"], row["blind_semantic"] = same_reasons(blind_made, qa.value)
        else:
            row["exact"], row["semantic"] = right(qa, seeing)
            row["blind_exact"], row["blind_semantic"] = right(qa, blind)
        guess = prior.get(qa.name, MISSING)
        row["text_only_exact"] = (_things(guess) == _things(qa.value) if qa.name in TYPED and guess is not MISSING
                                  else guess == qa.value)
        rows.append(row)
    return rows
