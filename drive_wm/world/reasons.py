"""Explanations <-> ids of a task segment: <question> words <decision> two ids <causes> pairs <text> words <end>.

A cause is a pair (kind, pointer); the pointer names an agent's slot of the last step, a signal, or nothing. What cannot
be seen (an agent that has no slot) is pointed to as nothing rather than as something else.
"""

from __future__ import annotations

from drive_wm.encoders.text import decode_text, encode_text, explanation_text
from drive_wm.types import (
    AGENT_COLUMNS,
    CATEGORIES,
    CAUSE_KINDS,
    LATERAL,
    LONGITUDINAL,
    Cause,
    Explanation,
    FloatArray,
    InputError,
)
from drive_wm.world.vocabulary import MAX_AGENTS, POINT_NOTHING, POINT_SIGNAL, RANGES, special

MAX_CAUSES = 2
MAX_QUESTION_TOKENS = 64
MAX_TEXT_TOKENS = 48
SIGNAL_CAUSES = ("red light", "stop sign", "give way")


def question_ids(question: str) -> list[int]:
    words = encode_text(question)
    if len(words) > MAX_QUESTION_TOKENS:
        raise InputError(f"the question has {len(words)} tokens; at most {MAX_QUESTION_TOKENS} are read. "
                         "Ask something shorter")
    return [special("<question>"), *(RANGES["text"].start + w for w in words), special("<decision>")]


def answer_ids(explanation: Explanation, agent_ids: tuple[str, ...]) -> list[int]:
    """What follows ``question_ids``."""
    ids = [RANGES["longitudinal"].start + LONGITUDINAL.index(explanation.longitudinal),
           RANGES["lateral"].start + LATERAL.index(explanation.lateral), special("<causes>")]
    for cause in explanation.causes[:MAX_CAUSES]:
        ids += [RANGES["cause"].start + CAUSE_KINDS.index(cause.kind),
                RANGES["pointer"].start + pointer(cause, agent_ids)]
    ids.append(special("<text>"))
    ids += [RANGES["text"].start + w for w in encode_text(explanation_text(explanation))[:MAX_TEXT_TOKENS]]
    return [*ids, special("<end>")]


def pointer(cause: Cause, agent_ids: tuple[str, ...]) -> int:
    if cause.agent_id in agent_ids and cause.agent_id:
        return agent_ids.index(cause.agent_id)
    return POINT_SIGNAL if cause.kind in SIGNAL_CAUSES and cause.agent_id else POINT_NOTHING


def read_answer(ids: list[int], question: str, agents: FloatArray, agent_ids: tuple[str, ...]) -> Explanation:
    """Ids as decoded under the grammar -> Explanation. agents: (A, 12) of the last step, for classes and places."""
    longitudinal = LONGITUDINAL[ids[0] - RANGES["longitudinal"].start]
    lateral = LATERAL[ids[1] - RANGES["lateral"].start]
    text_at = ids.index(special("<text>"))
    pairs = ids[3:text_at]
    causes = tuple(_cause(pairs[i] - RANGES["cause"].start, pairs[i + 1] - RANGES["pointer"].start, agents, agent_ids)
                   for i in range(0, len(pairs) - 1, 2))
    end = ids.index(special("<end>")) if special("<end>") in ids else len(ids)
    words = [i - RANGES["text"].start for i in ids[text_at + 1:end]]
    return Explanation(longitudinal, lateral, causes, decode_text(words), question)


def _cause(kind: int, slot: int, agents: FloatArray, agent_ids: tuple[str, ...]) -> Cause:
    name = CAUSE_KINDS[kind]
    if slot >= MAX_AGENTS or slot >= len(agent_ids) or not agent_ids[slot]:
        return Cause(name, "signal" if slot == POINT_SIGNAL else None)
    row = dict(zip(AGENT_COLUMNS, agents[slot]))
    return Cause(name, agent_ids[slot], CATEGORIES[int(row["category"])], (float(row["x_m"]), float(row["y_m"])))
