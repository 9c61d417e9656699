"""Explanation: why. What the driver decides, and the true causes of it, found by taking things out of the world."""

from __future__ import annotations

import numpy as np

from drive_wm.datasets.language.facts import Facts, Sight
from drive_wm.datasets.language.planning import SAY, removable
from drive_wm.datasets.language.templates import (
    NUMBERS,
    Answer,
    meters,
    pick,
    sentence,
    template,
    yes_no,
)
from drive_wm.datasets.town.causes import Effect, control_ahead, owner_id
from drive_wm.encoders.text import explanation_text
from drive_wm.types import CAUSE_KINDS, Cause

ASK = "explanation"
DOING = {"slow down": "slowing down", "stop": "stopping", "speed up": "speeding up", "hold": "standing",
         "yield": "giving way", "follow": "following the vehicle ahead", "proceed": "keeping on driving"}


def cause_value(cause: Cause) -> list[str | None]:
    return [cause.kind, cause.agent_id]


def _why(facts: Facts, slots: dict[str, str] | None = None) -> Answer | None:
    reason = facts.truth
    if reason is None:
        return None
    ids = tuple(c.agent_id for c in reason.causes if c.agent_id)
    return Answer(explanation_text(reason), [cause_value(c) for c in reason.causes], ids, slots or {})


@template(ASK, "Why are you doing this?", "Why?", "What are you doing and why?", "Explain your decision.",
          "Why do you drive so?", "What is the reason for this?")
def why(facts: Facts, rng: np.random.Generator) -> Answer | None:
    return _why(facts)


@template(ASK, "Why are you {doing}?", "What is the reason for {doing}?", "You are {doing}: why?",
          "Explain why you are {doing}.")
def why_doing(facts: Facts, rng: np.random.Generator) -> Answer | None:
    return None if facts.reason is None else _why(facts, {"doing": DOING[facts.reason.longitudinal]})


@template(ASK, "Why are you {doing}?", "You are {doing}: why?", "What is the reason for {doing}?",
          "Tell me why you are {doing}.")
def why_not_doing(facts: Facts, rng: np.random.Generator) -> Answer | None:
    """Asks for the reason of what is not done, and should be told so."""
    if facts.reason is None:
        return None
    opposite = {"speed up": ("stop", "slow down", "hold"), "proceed": ("hold",), "follow": ("hold",)}
    pool = opposite.get(facts.reason.longitudinal, ("speed up",))
    other, now = str(rng.choice(pool)), facts.reason.longitudinal
    return Answer(f"I am not {DOING[other]}. I {SAY[now]}.", None, (), {"doing": DOING[other]})


@template(ASK, "Why do you {side}?", "What is the reason to {side}?", "Why are you going to {side}?",
          "Explain why you {side}.")
def why_side(facts: Facts, rng: np.random.Generator) -> Answer | None:
    reason = facts.reason
    if reason is None or reason.lateral == "keep":
        return None
    cause = reason.causes[-1]
    said = "my route goes there" if cause.kind == "route" else f"of the {cause.category or cause.kind}"
    return Answer(f"Because {said}.", cause_value(cause), tuple(filter(None, [cause.agent_id])),
                  {"side": reason.lateral})


@template(ASK, "What kind of reason is it?", "Is it traffic, a light, a sign or the road?",
          "What is the cause of your speed?", "What decides how fast you drive?")
def cause_kind(facts: Facts, rng: np.random.Generator) -> Answer | None:
    reason = facts.truth
    if reason is None or not reason.causes:
        return None
    word = reason.causes[0].kind
    return Answer(f"{sentence(word)}.", word, tuple(filter(None, [reason.causes[0].agent_id])), choices=CAUSE_KINDS)


@template(ASK, "Who is the reason?", "Which road user makes you do this?", "Because of whom are you doing this?",
          "Who is it that you react to?")
def cause_who(facts: Facts, rng: np.random.Generator) -> Answer | None:
    reason = facts.truth
    if reason is None:
        return None
    known = {s.id: s for s in facts.sights}
    for cause in reason.causes:
        if cause.agent_id in known:
            sight = known[str(cause.agent_id)]
            return Answer(f"The {sight.color} {sight.word} {sight.where}.", sight.id, (sight.id,))
    return Answer("Nobody.", "none")


@template(ASK, "Where is what you react to?", "On which side is the reason?", "How far is what you react to?",
          "Where is the cause of your decision?")
def cause_where(facts: Facts, rng: np.random.Generator) -> Answer | None:
    known = {s.id: s for s in facts.sights}
    named = [c.agent_id for c in (facts.truth.causes if facts.truth else ()) if c.agent_id in known]
    if not named:
        return None
    sight = known[str(named[0])]
    return Answer(f"It is {sight.where}, {meters(sight.distance_m)} away.", sight.where, (sight.id,))


# --- by intervention ----------------------------------------------------------------------------------------------


def _effect(facts: Facts, sight: Sight) -> Effect | None:
    for effect in facts.causes or []:
        if effect.ids == (owner_id(sight.id),):
            return effect
    return None


def _drawn(facts: Facts, rng: np.random.Generator) -> Sight | None:
    """Half of the time a true cause, where one can be named."""
    pool = removable(facts)
    true = [s for s in pool if _effect(facts, s) is not None]
    return pick(true if true and rng.random() < 0.5 else pool, rng)


@template(ASK, "Does the {thing} change what you do?", "Do you drive so because of the {thing}?",
          "Is the {thing} a cause of what you do?", "Do you react to the {thing}?")
def is_cause(facts: Facts, rng: np.random.Generator) -> Answer | None:
    sight = _drawn(facts, rng)
    if sight is None:
        return None
    yes = _effect(facts, sight) is not None
    said = "without it I would drive in another way" if yes else "without it I would do the same"
    return yes_no(yes, said, (sight.id,), {"thing": facts.phrase(sight)})


@template(ASK, "How much does the {thing} change your speed?", "Without the {thing}, how much faster would you be?",
          "By how much does the {thing} change how you drive?", "Without the {thing}, how would your speed change?")
def effect_size(facts: Facts, rng: np.random.Generator) -> Answer | None:
    sight = _drawn(facts, rng)
    if sight is None:
        return None
    effect = _effect(facts, sight)
    size = 0 if effect is None else round(effect.speed_mps)
    return Answer(f"By {meters(size)} a second." if size else "Not at all.", size, (sight.id,),
                  {"thing": facts.phrase(sight)})


@template(ASK, "Does the light change what you do?", "Do you drive so because of the light?",
          "Is the light a cause of what you do?", "Do you react to the light?")
def light_is_cause(facts: Facts, rng: np.random.Generator) -> Answer | None:
    if facts.moment is None:
        return None
    control = control_ahead(facts.moment.sim)
    if control is None or not control.startswith("signal"):
        return Answer("There is no light ahead.", None)
    yes = control in facts.cause_ids
    return yes_no(yes, "a green light would change that" if yes else "a green light would change nothing", (control,))


@template(ASK, "Which road user changes your way most?", "Who is the main cause of what you do?",
          "Whom would it change most to take away?", "Without whom would you drive most differently?")
def main_cause(facts: Facts, rng: np.random.Generator) -> Answer | None:
    if facts.causes is None:
        return None
    known = {owner_id(s.id): s for s in facts.sights}
    for effect in facts.causes:
        if len(effect.ids) == 1 and effect.ids[0] in known:
            sight = known[effect.ids[0]]
            return Answer(f"The {sight.color} {sight.word} {sight.where}.", effect.ids[0], effect.ids)
    return Answer("Nobody.", "none")


@template(ASK, "How many things change what you do?", "How many causes are there?", "How many do you react to?",
          "Count the causes of what you do.")
def cause_count(facts: Facts, rng: np.random.Generator) -> Answer | None:
    if facts.causes is None:
        return None
    ids = sorted(facts.cause_ids)
    number = "none" if not ids else NUMBERS[len(ids)] if len(ids) < len(NUMBERS) else str(len(ids))
    return Answer(f"{sentence(number)}.", len(ids), tuple(ids))


@template(ASK, "Would you do the same if the road were free?", "Is it only the road that decides how you drive?",
          "Would nothing change without all the others?", "Do you drive as if there was nobody?")
def same_if_free(facts: Facts, rng: np.random.Generator) -> Answer | None:
    if facts.causes is None:
        return None
    yes = not facts.causes
    return yes_no(yes, "nobody changes what I do" if yes else "others change what I do", tuple(sorted(facts.cause_ids)))


@template(ASK, "Is there somebody near who does not matter?", "Whom can you ignore?",
          "Which road user near you is no cause?", "Who near you does not change what you do?")
def no_cause(facts: Facts, rng: np.random.Generator) -> Answer | None:
    if facts.causes is None:
        return None
    free = [s for s in facts.nameable() if owner_id(s.id) not in facts.cause_ids]
    if not free:
        return Answer("Nobody.", "none")
    return Answer(f"The {facts.phrase(free[0])}.", free[0].id, (free[0].id,))
