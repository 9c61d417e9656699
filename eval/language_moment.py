"""One held-out moment of the town: what the model says and plans, what is true, and what changes when things go."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from drive_wm import decisions
from drive_wm.datasets.language import Facts, distracted, qa_of
from drive_wm.datasets.language.facts import Sight
from drive_wm.datasets.rendered import RenderedFrames
from drive_wm.datasets.town.causes import LATERAL_M, SPEED_MPS, Effect, owner_id
from drive_wm.decisions import agrees, longitudinal_of
from drive_wm.eval.language_answers import answer_rows
from drive_wm.eval.language_scores import f1_of
from drive_wm.model import WHY, DriveWM
from drive_wm.scene import Scene, open_scene
from drive_wm.types import SIGNAL_STATES, Clip, Explanation, FloatArray, InputError, Log, Plan
from drive_wm.world.decode import Stream
from drive_wm.world.reasons import SIGNAL, is_signal

TRIED = 4  # agents whose removal is tried on the model's plan, beside those it names
GOING = ("speed up", "keep")  # what is told to a model that would not, and the opposite to one that would
STOPPING = ("stop", "keep")


@dataclass(frozen=True)
class Said:
    """What the model makes of a scene: its explanation, its plan, and what that plan looks like from outside."""

    explanation: Explanation
    plan: Plan
    course: str
    lateral: str

    @property
    def ids(self) -> set[str]:
        """Things that it names as causes: agents, and "signal" for any light."""
        return cause_ids(self.explanation)

    @property
    def consistent(self) -> bool:
        return agrees(self.explanation.longitudinal, self.course)


@dataclass
class MomentResult:
    """Plain rows about one moment. removed: one for each thing taken out of what the model sees."""

    log_id: str
    at_s: float
    answers: list[dict[str, Any]] = field(default_factory=list)
    row: dict[str, Any] = field(default_factory=dict)
    removed: list[dict[str, Any]] = field(default_factory=list)


def cause_ids(explanation: Explanation) -> set[str]:
    names = {owner_id(c.agent_id) for c in explanation.causes if c.agent_id}
    return {SIGNAL if is_signal(name) else name for name in names}


def true_ids(effects: Iterable[Effect]) -> dict[str, float]:
    """id -> the greatest effect of which it is part, in thresholds; lights and signs are "signal"."""
    out: dict[str, float] = {}
    for effect in effects:
        for name in effect.ids:
            key = SIGNAL if is_signal(name) else owner_id(name)
            out[key] = max(out.get(key, 0.0), effect.size)
    return out


# --- the model ----------------------------------------------------------------------------------------------------


def ask(model: DriveWM, scene: Scene, question: str = WHY, seed: int = 0, stream: Stream | None = None) -> Said:
    stream = stream or model.read(scene.context)
    plan = model.plan(scene.context, scene.route, stream=stream, seed=seed)
    explanation = model.explain(scene, question, plan=plan, stream=stream, seed=seed)
    return Said(explanation, plan, *course_of(scene, plan))


def course_of(scene: Scene, plan: Plan) -> tuple[str, str]:
    """Of a plan: one of decisions.COURSES, and one of LATERAL."""
    if plan.actions is None:
        raise InputError("the plan has no actions; only plans of a model that thinks in actions can be read")
    return decisions.course_of(plan.actions, plan.trajectory, float(scene.last_action[0]), scene.route)


def blinded(scene: Scene) -> Scene:
    """The scene with neither images nor layout nor agents: the ego's past and its route are left."""
    clip = scene.context
    empty = {name: np.zeros_like(images) for name, images in clip.frames.items()}
    dark: Clip = replace(clip, frames=empty, frames_valid=np.zeros_like(clip.frames_valid), layout=None,
                         agents=np.zeros_like(clip.agents), agents_valid=np.zeros_like(clip.agents_valid))
    return replace(scene, context=dark)


def without(log: Log, names: Iterable[str]) -> Log:
    """The log as it looks without these: tracks gone from images, layout and agents; "signal" makes lights green."""
    gone = set(names)
    signals = log.signals
    if SIGNAL in gone:
        green = SIGNAL_STATES.index("green")
        signals = tuple(replace(s, state=np.full_like(s.state, green)) for s in signals)
    bare = replace(log, tracks=tuple(t for t in log.tracks if owner_id(t.id) not in gone), signals=signals)
    return replace(bare, frames=RenderedFrames(bare))


def plan_moved(one: Plan, other: Plan) -> tuple[float, float]:
    """(speed [m/s], sideways [m]): the greatest difference of two plans of equal length."""
    assert one.actions is not None and other.actions is not None
    speed = float(np.abs(one.actions[:, 0] - other.actions[:, 0]).max())
    across = np.abs(one.trajectory.xyyaw[:, 1] - other.trajectory.xyyaw[:, 1])
    same = np.abs(one.trajectory.xyyaw[:, 0] - other.trajectory.xyyaw[:, 0]) < 3.0  # far apart along: a matter of speed
    return speed, float(across[same].max()) if same.any() else 0.0


# --- a moment -----------------------------------------------------------------------------------------------------


def judge(model: DriveWM, log: Log, at_s: float, prior: dict[str, Any], seed: int = 0, removals: bool = True,
          questions: int = 0) -> MomentResult:
    """Everything about one moment. removals: take things out of what the model sees too, by far the costliest part.

    questions: so many of all that can be asked, drawn anew for each moment; 0 asks all.
    """
    facts = Facts(log, log.start_us + int(round(at_s * 1e6)))
    scene = open_scene(log, model, at_s)
    dark = blinded(scene)
    stream, dark_stream = model.read(scene.context), model.read(dark.context)
    said = ask(model, scene, seed=seed, stream=stream)
    result = MomentResult(log.id, at_s)
    asked = qa_of(log, at_s, seed, facts=facts)
    if 0 < questions < len(asked):
        rng = np.random.default_rng([seed, zlib.crc32(log.id.encode()), round(at_s * 1e3)])
        asked = [asked[i] for i in np.sort(rng.permutation(len(asked))[:questions])]
    words = [qa.question for qa in asked]
    blind = ask(model, dark, seed=seed, stream=dark_stream)
    result.answers = answer_rows(asked, said.explanation, model.answers(scene, words, stream=stream, seed=seed),
                                 blind.explanation, model.answers(dark, words, stream=dark_stream, seed=seed), prior)
    stray = model.explain(scene, distracted(WHY, seed), plan=said.plan, stream=stream, seed=seed)
    true = true_ids(facts.causes or [])
    result.row = {
        "log_id": log.id, "at_s": at_s, "decision": said.explanation.longitudinal, "lateral": said.explanation.lateral,
        "course": said.course, "course_lateral": said.lateral, "consistent": said.consistent,
        "consistent_lateral": said.explanation.lateral == said.lateral,
        "text": said.explanation.text, "stated": sorted(said.ids), "true": sorted(true), "effects": true,
        "expert": sorted(cause_ids(facts.reason)) if facts.reason else [],
        "expert_consistent": _expert_agrees(facts), "invisible": sorted(unseen(facts, said.ids)),
        "true_invisible": sorted(unseen(facts, true)), "undisturbed": _same(stray, said.explanation),
        **instructed(model, scene, stream, said, seed)}
    if removals:
        result.removed = [_removal(model, log, at_s, said, name, seed) for name in tried(scene, facts, said, true)]
        result.row["own"] = sorted(r["id"] for r in result.removed if r["plan_changed"])
    return result


def instructed(model: DriveWM, scene: Scene, stream: Stream, said: Said, seed: int) -> dict[str, Any]:
    """Reason first: does a plan follow the decision it is given? Of the model's own, made before it plans; of two
    opposite ones on this scene; and, as a control, how far the plan moves where the decision is the own one again."""
    def told(decision: tuple[str, str]) -> tuple[Plan, str]:
        plan = model.plan(scene.context, scene.route, decision=decision, stream=stream, seed=seed)
        return plan, course_of(scene, plan)[0]

    first = model.explain(scene, WHY, before_plan=True, stream=stream, seed=seed)
    own, own_course = told((first.longitudinal, first.lateral))
    (going, going_course), (stopping, stopping_course) = told(GOING), told(STOPPING)
    return {"first": first.longitudinal, "first_obeyed": agrees(first.longitudinal, own_course),
            "going_obeyed": agrees(GOING[0], going_course), "stopping_obeyed": agrees(STOPPING[0], stopping_course),
            "opposites_mps": _end_speed(going) - _end_speed(stopping), "own_moved_mps": plan_moved(own, said.plan)[0],
            "stopping_moved_mps": plan_moved(stopping, said.plan)[0]}


def _end_speed(plan: Plan) -> float:
    assert plan.actions is not None
    return float(plan.actions[-1, 0])


def _same(one: Explanation, other: Explanation) -> bool:
    return (one.longitudinal, one.lateral, one.causes) == (other.longitudinal, other.lateral, other.causes)


def _expert_agrees(facts: Facts) -> bool | None:
    """Whether the town's own driver did what it says, by the same rules: what a perfect model could reach."""
    times = np.arange(0.0, 4.01, 0.5)
    speeds = [facts.speed_after(float(t)) for t in times]
    if facts.reason is None or any(s is None for s in speeds):
        return None
    return agrees(facts.reason.longitudinal, longitudinal_of(np.array(speeds, float), times))


def unseen(facts: Facts, names: Iterable[str]) -> set[str]:
    visible = {owner_id(s.id) for s in facts.seen}
    return {name for name in names if name != SIGNAL and name not in visible}


def tried(scene: Scene, facts: Facts, said: Said, true: Iterable[str]) -> list[str]:
    """What is taken out: what is stated, what is true, and the nearest agents ahead that the model is shown."""
    shown = {owner_id(i) for i, v in zip(scene.context.agent_ids, scene.context.agents_valid[-1]) if v}
    ahead: list[Sight] = [s for s in facts.seen if s.x_m > 0 and owner_id(s.id) in shown]
    near = list(dict.fromkeys(owner_id(s.id) for s in ahead))[:TRIED]
    light = [SIGNAL] if facts.signal is not None else []
    known = {owner_id(t.id) for t in scene.log.tracks} | {SIGNAL}
    return [name for name in dict.fromkeys([*sorted(said.ids), *sorted(true), *near, *light]) if name in known]


def _removal(model: DriveWM, log: Log, at_s: float, said: Said, name: str, seed: int) -> dict[str, Any]:
    other = ask(model, open_scene(without(log, [name]), model, at_s), seed=seed)
    speed, lateral = plan_moved(said.plan, other.plan)
    changed = speed > SPEED_MPS or lateral > LATERAL_M
    decision = (said.explanation.longitudinal, said.explanation.lateral)
    return {"id": name, "cited": name in said.ids, "plan_changed": changed, "speed_mps": speed, "lateral_m": lateral,
            "decision_changed": decision != (other.explanation.longitudinal, other.explanation.lateral),
            "citation_dropped": name in said.ids and name not in other.ids}


def counts_of(rows: Sequence[dict[str, Any]], stated: str, true: str) -> FloatArray:
    """(N, 3) hits, stated, true of two columns of sets."""
    return np.array([f1_of(row[stated], row[true]) for row in rows], float).reshape(-1, 3)
