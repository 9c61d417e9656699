"""What the task expert learns: segments about one moment of each clip, padded into batches of like length.

    <plan> actions                                          to act
    <question> words <decision> ... <end>                   to decide before there is a plan; where the true causes
                                                            are not known, the decision alone
    <plan> actions <question> words <decision> ... <end>    the act, then its reason (post hoc)
    <decision> two ids <plan> actions                       to act as told
    <question> words <causes> ... <text> words <end>        to answer, sometimes behind a plan
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from drive_wm.datasets.shards import Sample
from drive_wm.decisions import OUTLOOK_S, course_of
from drive_wm.encoders.text import QUESTIONS, decode_text, encode_text
from drive_wm.encoders.words import SIDES, agent_words
from drive_wm.geometry import integrate_actions
from drive_wm.types import Clip, InputError, Trajectory
from drive_wm.world.inputs import route_vector
from drive_wm.world.model import Seen, Segment, WorldModel
from drive_wm.world.reasons import (
    MAX_QUESTION_TOKENS,
    answer_ids,
    decision_ids,
    plan_ids,
    question_ids,
    text_ids,
)
from drive_wm.world.vocabulary import RANGES, special

BEHIND_A_PLAN = 0.3  # share of the questions
BESIDE_THE_POINT = 0.25  # share of the questions that follow a sentence on another scene
ROWS = 24  # segments of one batch: sorted by length before, so that little is padded

HINDSIGHT = 0.5  # share of the instructions that are what the drive to come looks like, not what its driver meant

Row = tuple[list[int], list[bool]]  # ids, and where the next one is learned


def segments_of(batch: Sequence[Sample], now: int, plan_steps: int, questions: int, drills: int, seed: int,
                device: torch.device) -> list[Segment]:
    """All segments about step ``now`` of the batch's clips; at most so many questions and drills a clip."""
    rng = np.random.default_rng(seed)
    said = [[t.text for t in sample.clip.texts if t.question is not None] for sample in batch]
    rows = [(i, row) for i, sample in enumerate(batch)
            for row in rows_of(sample, now, plan_steps, questions, drills, rng, sum(said[:i] + said[i + 1:], []))]
    rows.sort(key=lambda it: len(it[1][0]))
    return [padded(rows[k:k + ROWS], device) for k in range(0, len(rows), ROWS)]


def rows_of(sample: Sample, now: int, plan_steps: int, questions: int, drills: int, rng: np.random.Generator,
            elsewhere: Sequence[str] = ()) -> Iterator[Row]:
    """elsewhere: sentences on other scenes, one of which now and then precedes a question."""
    clip, at_us = sample.clip, int(sample.clip.timestamps_us[now])
    plan = plan_row(sample, now, plan_steps)
    known = any(plan[1])
    if known:
        yield plan
    asked = [t for t in clip.texts if t.question is not None and t.start_us <= at_us < t.end_us]
    reason = clip.reasons[now] if len(clip.reasons) > now else None
    visible = tuple(i if v else "" for i, v in zip(clip.agent_ids, clip.agents_valid[now]))

    def told(question: str, answer: list[int], grounded: bool = True) -> Row:
        if elsewhere and rng.random() < BESIDE_THE_POINT:
            aside = elsewhere[rng.integers(len(elsewhere))]
            if len(encode_text(aside)) + len(encode_text(question)) <= MAX_QUESTION_TOKENS:
                question = f"{aside} {question}"
        return reply(question, answer, grounded)

    if reason is not None:
        why = (*QUESTIONS, *(str(t.question) for t in asked if t.text == reason.text))
        decision = decision_ids(reason.longitudinal, reason.lateral)
        row = told(str(rng.choice(why)), answer_ids(reason, visible) if asked else decision)
        yield row
        if known:
            yield joined(plan, row)
            obeyed = rng.random() < HINDSIGHT and course_driven(sample, now, plan_steps)
            yield joined((decision_ids(*obeyed) if obeyed else decision, [False] * 3), plan)
    others = [t for t in asked if reason is None or t.text != reason.text]
    for k in rng.permutation(len(others))[:questions]:
        text = others[k]
        try:
            row = told(str(text.question), text_ids(text.text, text.about or (), visible), text.about is not None)
        except InputError:  # words of a foreign data set that are too long to be read
            continue
        yield joined(plan, row) if rng.random() < BEHIND_A_PLAN and known else row
    for question, answer, name in drilled(clip, now, drills, rng):
        yield told(question, text_ids(answer, (name,), visible))


def drilled(clip: Clip, now: int, count: int, rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """At most so many questions about single agents of step ``now``, their answers, in the words of the town's, and
    the agent's id.

    What links a question to an agent is learned from many examples or not at all; these cost nothing to make. They are
    about whoever has a slot, seen by a camera or not.
    """
    there = np.flatnonzero(clip.agents_valid[now])
    rows = agent_words(torch.from_numpy(clip.agents[now][there]))
    told = [tuple(decode_text([i]).lower() for i in row) for row in rows.tolist()]
    where = {side.split()[-1]: side for side in SIDES}
    out: list[tuple[str, str, str]] = []
    for i, (kind, color, side, moving, metres) in zip(there, told):
        name = clip.agent_ids[i]
        alike = [sum(all(row[i] == mine for i, mine in pairs) for row in told) for pairs in (
            ((0, kind), (2, side)), ((0, kind), (1, color)), ((0, kind), (1, color), (2, side)))]
        if alike[0] == 1:
            out.append((f"Which colour is the {kind} {where[side]}?", f"It is {color}.", name))
        if alike[1] == 1:
            out.append((f"Where is the {color} {kind}?", f"It is {where[side]}.", name))
        if alike[2] == 1:
            thing = f"{color} {kind} {where[side]}"
            out += [(f"How far is the {thing}?", f"It is {metres} metre{'' if metres == '1' else 's'} away.", name),
                    (f"Is the {thing} moving?", f"{'Yes' if moving == 'moving' else 'No'}, it is {moving}.", name)]
    return [out[i] for i in rng.permutation(len(out))[:count]]


def course_driven(sample: Sample, now: int, plan_steps: int) -> tuple[str, str] | None:
    """What the drive to come looks like (``decisions.course_of``); None where it is known for less than a second.

    A driver that says "proceed" may yet stop within the plan. Who is told "stop" must: these are the instructions that
    the actions behind them carry out (hindsight relabelling, Andrychowicz et al. 2017).
    """
    clip = sample.clip
    actions = clip.actions[now:now + known_steps(sample, now, plan_steps)]
    if len(actions) < OUTLOOK_S * clip.rate_hz or not now:
        return None
    times = np.arange(1, len(actions) + 1) / clip.rate_hz
    driven = Trajectory(times, integrate_actions(np.zeros(3), actions, 1 / clip.rate_hz))
    return course_of(actions, driven, float(clip.actions[now - 1, 0]), sample.route[now])


def known_steps(sample: Sample, now: int, plan_steps: int) -> int:
    """Actions from ``now`` on, up to the first that is not known."""
    valid = sample.clip.actions_valid[now:now + plan_steps]
    return int(np.argmin(valid)) if not valid.all() else len(valid)


def plan_row(sample: Sample, now: int, plan_steps: int) -> Row:
    """<plan> and the actions to come, up to the first that is not known."""
    ids = plan_ids(sample.clip.actions[now:now + known_steps(sample, now, plan_steps)])
    return ids, [*([True] * (len(ids) - 1)), False]


def reply(question: str, answer: list[int], grounded: bool = True) -> Row:
    """grounded: it is known what the answer is about; where it is not, pointing is not learned."""
    asked = question_ids(question)
    learned = [*([False] * (len(asked) - 1)), *([True] * len(answer)), False]
    if not grounded:
        learned[len(asked)] = False
    return [*asked, *answer], learned


def joined(first: Row, second: Row) -> Row:
    """What begins the second is given, not guessed."""
    return first[0] + second[0], first[1] + second[1]


def padded(rows: Sequence[tuple[int, Row]], device: torch.device) -> Segment:
    """(number of the clip, row) -> one segment."""
    length = max(len(ids) for _, (ids, _) in rows)
    out = torch.full((len(rows), length), special("<pad>"), device=device)
    loss_on = torch.zeros(len(rows), length, dtype=torch.bool, device=device)
    of = torch.tensor([i for i, _ in rows], device=device)
    for k, (_, (ids, learned)) in enumerate(rows):
        out[k, :len(ids)] = torch.tensor(ids, device=device)
        loss_on[k, :len(ids)] = torch.tensor(learned, device=device)
    return Segment(out, loss_on, of)


def segment_losses(model: WorldModel, seen: Seen, segment: Segment) -> Tensor:
    """Cross-entropy of each next id where ``loss_on`` says so, (number of those,). seen: before the segment."""
    assert segment.loss_on is not None
    rows = segment.loss_on[:, :-1]
    hidden, seen = model.expert(segment, seen)
    logits = model.expert.head(hidden[:, :-1], seen)[rows]
    return F.cross_entropy(logits.float(), segment.ids[:, 1:][rows], reduction="none")


def routes_at(batch: Sequence[Sample], now: int, device: torch.device) -> Tensor:
    """(B, F) route features at step ``now``: the speed is that of the action that led there."""
    rows = [route_vector(s.route[now], float(s.clip.actions[now - 1, 0]) if now else 0.0) for s in batch]
    return torch.from_numpy(np.stack(rows)).to(device)


def is_plan(segment: Segment) -> Tensor:
    """(B, N-1) where the next id is an action."""
    start, stop = RANGES["future_speed"].start, RANGES["future_curvature"].stop
    return (segment.ids[:, 1:] >= start) & (segment.ids[:, 1:] < stop)


__all__ = ["is_plan", "routes_at", "segment_losses", "segments_of"]
