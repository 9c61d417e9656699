"""Questions as a table: each has a kind, a name, paraphrases, and a function that finds its answer in the facts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from drive_wm.datasets.language.facts import PLURALS, Facts, Sight

KINDS = ("perception", "prediction", "planning", "explanation")
LEAST_PARAPHRASES = 4


@dataclass(frozen=True)
class Answer:
    """text: a sentence. value: the same as a plain typed value (None: the question has no answer). ids: evidence.

    slots: what the question's braces stand for. choices: values among which the right one can be looked for.
    """

    text: str
    value: Any
    ids: tuple[str, ...] = ()
    slots: dict[str, str] = field(default_factory=dict)
    choices: tuple[Any, ...] = ()


Find = Callable[[Facts, np.random.Generator], Answer | None]
Found = TypeVar("Found", bound=Find)


@dataclass(frozen=True)
class Template:
    kind: str
    name: str
    questions: tuple[str, ...]
    find: Find


TEMPLATES: dict[str, Template] = {}


def template(kind: str, *questions: str) -> Callable[[Found], Found]:
    """Puts a function into the table under its own name; raises ValueError for a duplicate, or too few paraphrases."""
    def add(find: Found) -> Found:
        name = getattr(find, "__name__")
        if kind not in KINDS or name in TEMPLATES or len(set(questions)) < LEAST_PARAPHRASES:
            raise ValueError(f"template {name}: {kind}, {len(set(questions))} paraphrases, or a name that is taken")
        TEMPLATES[name] = Template(kind, name, questions, find)
        return find
    return add


# --- words --------------------------------------------------------------------------------------------------------

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
YES_NO = ("yes", "no")
COLORS = ("red", "green", "yellow", "blue", "white", "black", "grey", "orange", "purple", "brown")
KINDS_SEEN = ("car", "van", "truck", "bus", "motorcycle", "bicycle", "pedestrian", "obstacle")


def plural(word: str) -> str:
    return PLURALS.get(word, f"{word}s")


def many(count: int, word: str) -> str:
    """ "no cars", "one car", "three cars"."""
    number = NUMBERS[count] if count < len(NUMBERS) else str(count)
    return f"{number} {word if count == 1 else plural(word)}"


def a(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def meters(value: float) -> str:
    return f"{round(value)} metre{'' if round(value) == 1 else 's'}"


def listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def sentence(text: str) -> str:
    return re.sub(r"^\w", lambda m: m[0].upper(), text)


def pick(sights: list[Sight], rng: np.random.Generator, most: int = 6) -> Sight | None:
    """One of the nearest, drawn."""
    near = sights[:most]
    return near[int(rng.integers(len(near)))] if near else None


def yes_no(yes: bool, text: str, ids: tuple[str, ...] = (), slots: dict[str, str] | None = None) -> Answer:
    """text: what follows "Yes, " or "No, "."""
    word = "yes" if yes else "no"
    return Answer(f"{sentence(word)}, {text}.", word, ids, slots or {}, YES_NO)
