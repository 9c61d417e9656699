"""Explanations and answers <-> ids of a task segment.

    <question> words <decision> two ids <causes> pairs <text> <end>      where a decision is asked for
    <question> words <causes> pointers <text> words <end>                anything else

The words of a decision are rendered from what is typed. Any other answer first points at what it is about, nearest
first: whom a question means is found once, and then there are words for it.

A cause is a pair (kind, pointer); the pointer names an agent's slot of the last step, a signal, or nothing. What cannot
be seen (an agent that has no slot) is pointed to as nothing rather than as something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch

from drive_wm.encoders.actions import action_bins
from drive_wm.encoders.text import decode_text, encode_text, explanation_text
from drive_wm.types import (
    AGENT_COLUMNS,
    CATEGORIES,
    CAUSE_KINDS,
    LATERAL,
    LONGITUDINAL,
    BoolArray,
    Cause,
    Explanation,
    FloatArray,
    InputError,
)
from drive_wm.world.vocabulary import MAX_AGENTS, POINT_NOTHING, POINT_SIGNAL, RANGES, special

MAX_CAUSES = 4
MAX_ABOUT = 8
MAX_QUESTION_TOKENS = 64
MAX_TEXT_TOKENS = 48
MOST_IDS = 4 + MAX_ABOUT + MAX_TEXT_TOKENS  # of an answer
SIGNAL_CAUSES = ("red light", "stop sign")
SIGNAL = "signal"  # any light or sign, in what the model says
VEHICLES = tuple(c for c in CATEGORIES if c not in ("pedestrian", "object"))
AGENT_CAUSES = {"lead vehicle": VEHICLES, "pedestrian": ("pedestrian",), "give way": VEHICLES,
                "obstacle": ("object",)}  # whom each must point at


def question_ids(question: str) -> list[int]:
    words = encode_text(question)
    if len(words) > MAX_QUESTION_TOKENS:
        raise InputError(f"the question has {len(words)} tokens; at most {MAX_QUESTION_TOKENS} are read. "
                         "Ask something shorter")
    return [special("<question>"), *(RANGES["text"].start + w for w in words)]


def plan_ids(actions: FloatArray) -> list[int]:
    """<plan> and the bins of actions (N, 2)."""
    first = torch.tensor([RANGES["future_speed"].start, RANGES["future_curvature"].start])
    bins = action_bins(torch.from_numpy(np.asarray(actions, np.float64)))
    return [special("<plan>"), *(bins + first).flatten().tolist()]


def decision_ids(longitudinal: str, lateral: str) -> list[int]:
    if longitudinal not in LONGITUDINAL or lateral not in LATERAL:
        raise InputError(f"decision {longitudinal!r}, {lateral!r}: expected one of {', '.join(LONGITUDINAL)}, and one "
                         f"of {', '.join(LATERAL)}")
    return [special("<decision>"), RANGES["longitudinal"].start + LONGITUDINAL.index(longitudinal),
            RANGES["lateral"].start + LATERAL.index(lateral)]


def answer_ids(explanation: Explanation, agent_ids: tuple[str, ...]) -> list[int]:
    """What follows ``question_ids`` where a decision is asked for. Who has no slot in ``agent_ids`` is left out."""
    known = replace(explanation, causes=tuple(
        c for c in explanation.causes
        if c.kind not in AGENT_CAUSES or (c.agent_id and c.agent_id in agent_ids))[:MAX_CAUSES])
    ids = [*decision_ids(known.longitudinal, known.lateral), special("<causes>")]
    for cause in known.causes:
        ids += [RANGES["cause"].start + CAUSE_KINDS.index(cause.kind),
                RANGES["pointer"].start + pointer(cause, agent_ids)]
    return [*ids, special("<text>"), special("<end>")]


def text_ids(text: str, about: Iterable[str] = (), agent_ids: Sequence[str] = ()) -> list[int]:
    """What follows ``question_ids`` where anything else is asked. about: ids of agents, by their slots, and signals;
    of the agents those that have a slot."""
    agents = set(agent_ids) - {""}
    slots = sorted({agent_ids.index(name) if name in agents else POINT_SIGNAL for name in about
                    if name in agents or is_signal(name)})
    words = encode_text(text)[:MAX_TEXT_TOKENS]
    return [special("<causes>"), *(RANGES["pointer"].start + slot for slot in slots[:MAX_ABOUT]), special("<text>"),
            *(RANGES["text"].start + w for w in words), special("<end>")]


def pointer(cause: Cause, agent_ids: tuple[str, ...]) -> int:
    if cause.kind in AGENT_CAUSES:
        return agent_ids.index(str(cause.agent_id))
    return POINT_SIGNAL if cause.kind in SIGNAL_CAUSES and cause.agent_id else POINT_NOTHING


def possible_causes(agents: FloatArray, valid: BoolArray) -> list[tuple[str, ...] | None]:
    """Of each agent (A, 12) in the rig frame the AGENT_CAUSES that it can be; None for an empty slot. Who is to be
    followed is ahead."""
    columns = [AGENT_COLUMNS.index(name) for name in ("category", "x_m")]
    return [tuple(kind for kind, who in AGENT_CAUSES.items()
                  if CATEGORIES[int(category)] in who and (kind != "lead vehicle" or x > 0)) if there else None
            for (category, x), there in zip(agents[:, columns], valid)]


def is_signal(name: str) -> bool:
    """Whether an id, of the town's or of the model's, is that of a light or sign."""
    return name.startswith(("signal", "stop"))


def read_answer(ids: list[int], question: str, agents: FloatArray, agent_ids: tuple[str, ...]) -> Explanation:
    """Ids as decoded under the grammar -> Explanation. agents: (A, 12) of the last step, for classes and places."""
    longitudinal = LONGITUDINAL[ids[1] - RANGES["longitudinal"].start]
    lateral = LATERAL[ids[2] - RANGES["lateral"].start]
    pairs = ids[4:ids.index(special("<text>"))]
    causes = tuple(_cause(pairs[i] - RANGES["cause"].start, pairs[i + 1] - RANGES["pointer"].start, agents, agent_ids)
                   for i in range(0, len(pairs) - 1, 2))
    made = Explanation(longitudinal, lateral, causes, question=question)
    return replace(made, text=explanation_text(made))


def read_about(ids: list[int], agent_ids: tuple[str, ...]) -> tuple[str, ...]:
    """The ids of those whom an answer in words points at, "signal" for a light or sign."""
    slots = [i - RANGES["pointer"].start for i in ids[1:ids.index(special("<text>"))]]
    return tuple(SIGNAL if slot == POINT_SIGNAL else agent_ids[slot] for slot in slots)


def read_text(ids: list[int]) -> str:
    """The words after <text>."""
    end = ids.index(special("<end>")) if special("<end>") in ids else len(ids)
    return decode_text([i - RANGES["text"].start for i in ids[ids.index(special("<text>")) + 1:end]])


def _cause(kind: int, slot: int, agents: FloatArray, agent_ids: tuple[str, ...]) -> Cause:
    name = CAUSE_KINDS[kind]
    if slot >= MAX_AGENTS or slot >= len(agent_ids) or not agent_ids[slot]:
        return Cause(name, SIGNAL if slot == POINT_SIGNAL else None)
    row = dict(zip(AGENT_COLUMNS, agents[slot]))
    return Cause(name, agent_ids[slot], CATEGORIES[int(row["category"])], (float(row["x_m"]), float(row["y_m"])))
