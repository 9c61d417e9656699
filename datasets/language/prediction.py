"""Prediction: what others will do in the next seconds, answered from what they did."""

from __future__ import annotations

import numpy as np

from drive_wm.datasets.language.facts import LATER_S, STANDING_MPS, Facts, Sight
from drive_wm.datasets.language.perception import SIDES
from drive_wm.datasets.language.templates import (
    KINDS_SEEN,
    Answer,
    meters,
    pick,
    template,
    yes_no,
)
from drive_wm.geometry import wrap_angle

ASK = "prediction"
CHANGE_MPS, TURN_RAD, CLOSER_M = 1.0, 0.5, 2.0
COURSES = ("speed up", "slow down", "keep its speed", "stop", "stand still", "move off")


def course(now: Sight, later: Sight) -> str:
    """What a road user does over LATER_S, one of COURSES."""
    if not now.moving:
        return "move off" if later.moving else "stand still"
    if not later.moving:
        return "stop"
    change = later.speed_mps - now.speed_mps
    return "speed up" if change > CHANGE_MPS else "slow down" if change < -CHANGE_MPS else "keep its speed"


def _movers(facts: Facts) -> list[Sight]:
    return [s for s in facts.nameable() if s.id in facts.later and s.word != "obstacle"]


def _one(facts: Facts, rng: np.random.Generator, moving: bool | None = None) -> tuple[Sight, Sight] | None:
    """A road user now and later; half of the time one that does something if there is such a one."""
    pool = [s for s in _movers(facts) if moving is None or s.moving == moving]
    busy = [s for s in pool if course(s, facts.later[s.id]) not in ("stand still", "keep its speed")]
    sight = pick(busy if busy and rng.random() < 0.5 else pool, rng)
    return None if sight is None else (sight, facts.later[sight.id])


def _heading_change(facts: Facts, now: Sight, later: Sight) -> float:
    ego = facts.ego_after(LATER_S)
    assert ego is not None
    return float(wrap_angle(later.heading_rad + ego[2] - now.heading_rad))


@template(ASK, "What will the {thing} do?", "What will the {thing} do next?", "What does the {thing} do now and next?",
          "Tell me what will happen with the {thing}.")
def will_do(facts: Facts, rng: np.random.Generator) -> Answer | None:
    found = _one(facts, rng)
    if found is None:
        return None
    word = course(*found)
    return Answer(f"It will {word}.", word, (found[0].id,), {"thing": facts.phrase(found[0])}, COURSES)


@template(ASK, "What will the vehicle ahead of you do?", "What will the lead vehicle do next?",
          "Will the vehicle that you follow slow down?", "What does the vehicle in your lane do next?")
def lead_will_do(facts: Facts, rng: np.random.Generator) -> Answer | None:
    lead = facts.lead
    if lead is None or not lead.visible or lead.id not in facts.later:
        return Answer("My lane is free.", None) if facts.later else None
    word = course(lead, facts.later[lead.id])
    return Answer(f"The {lead.word} ahead will {word}.", word, (lead.id,), choices=COURSES)


@template(ASK, "Will the gap to the vehicle ahead grow?", "Will you come nearer to the vehicle ahead?",
          "How will the distance to the lead vehicle change?", "Is the gap ahead going to change?")
def gap_will(facts: Facts, rng: np.random.Generator) -> Answer | None:
    lead = facts.lead
    if lead is None or not lead.visible or lead.id not in facts.later:
        return None
    change = facts.later[lead.id].distance_m - lead.distance_m
    word = "grow" if change > CLOSER_M else "shrink" if change < -CLOSER_M else "stay"
    said = "stay as it is" if word == "stay" else word
    return Answer(f"The gap will {said}.", word, (lead.id,), choices=("grow", "shrink", "stay"))


@template(ASK, "Will the light change?", "Will the light ahead change soon?",
          "Does the light change in the next seconds?", "What will the light do next?")
def light_will(facts: Facts, rng: np.random.Generator) -> Answer | None:
    now, later = facts.light(), facts.light(LATER_S)
    if now is None or later is None or facts.signal is None or not facts.later:
        return None
    said = f"it will be {later}" if now != later else f"it stays {now}"
    return yes_no(now != later, said, (facts.signal,))


@template(ASK, "Which color will the light have next?", "What colour will the light be in 3 seconds?",
          "Will the light be green, yellow or red in 3 seconds?", "What will the light show in 3 seconds?")
def light_later(facts: Facts, rng: np.random.Generator) -> Answer | None:
    later = facts.light(LATER_S)
    if later is None or facts.signal is None or not facts.later:
        return None
    return Answer(f"The light will be {later}.", later, (facts.signal,), choices=("green", "yellow", "red", "off"))


@template(ASK, "Will a pedestrian cross your way?", "Will somebody walk in front of you?",
          "Is a pedestrian going to cross before you?", "Will a pedestrian be on your lane in the next seconds?")
def pedestrian_will_cross(facts: Facts, rng: np.random.Generator) -> Answer | None:
    if not facts.later:
        return None
    people = [s for s in facts.of("pedestrian") if s.id in facts.later and 0 < s.along_m < 40]
    over = [s for s in people if s.aside_m * facts.later[s.id].aside_m < 0 or facts.later[s.id].in_lane]
    return yes_no(bool(over), "a pedestrian will cross" if over else "no pedestrian will cross my way",
                  tuple(s.id for s in over))


@template(ASK, "Will the {thing} turn?", "Is the {thing} going to turn?", "Which way will the {thing} go?",
          "Will the {thing} turn left, turn right or go straight?")
def will_turn(facts: Facts, rng: np.random.Generator) -> Answer | None:
    movers = [s for s in _movers(facts) if s.moving and s.word != "pedestrian"]
    turners = [s for s in movers if abs(_heading_change(facts, s, facts.later[s.id])) > TURN_RAD]
    sight = pick(turners if turners and rng.random() < 0.5 else movers, rng)
    if sight is None:
        return None
    turn = _heading_change(facts, sight, facts.later[sight.id])
    word = "left" if turn > TURN_RAD else "right" if turn < -TURN_RAD else "straight"
    said = "go straight" if word == "straight" else f"turn {word}"
    return Answer(f"It will {said}.", word, (sight.id,), {"thing": facts.phrase(sight)}, ("left", "right", "straight"))


@template(ASK, "Will the {thing} start to move?", "Will the {thing} stay where it is?", "Does the {thing} wait or go?",
          "Is the {thing} going to move off?")
def will_start(facts: Facts, rng: np.random.Generator) -> Answer | None:
    found = _one(facts, rng, moving=False)
    if found is None:
        return None
    word = course(*found)
    return Answer(f"It will {word}.", word, (found[0].id,), {"thing": facts.phrase(found[0])},
                  ("move off", "stand still"))


@template(ASK, "Where will the {thing} be in 3 seconds?", "On which side will the {thing} be in 3 seconds?",
          "Will the {thing} be ahead or behind in 3 seconds?", "In 3 seconds, where is the {thing}?")
def will_be(facts: Facts, rng: np.random.Generator) -> Answer | None:
    found = _one(facts, rng)
    if found is None:
        return None
    word = found[1].where
    return Answer(f"It will be {word}.", word, (found[0].id,), {"thing": facts.phrase(found[0])}, SIDES)


@template(ASK, "How fast will the {thing} be in 3 seconds?", "What speed will the {thing} have in 3 seconds?",
          "In 3 seconds, how fast is the {thing}?", "What will be the speed of the {thing} in 3 seconds?")
def will_be_fast(facts: Facts, rng: np.random.Generator) -> Answer | None:
    found = _one(facts, rng)
    if found is None:
        return None
    value = round(found[1].speed_mps)
    return Answer(f"It will go {meters(value)} a second.", value, (found[0].id,), {"thing": facts.phrase(found[0])})


@template(ASK, "Will the {thing} pass you?", "Will the oncoming {word} go past you in 3 seconds?",
          "Will the {thing} be past you soon?", "Is the {thing} going to pass?")
def oncoming_will_pass(facts: Facts, rng: np.random.Generator) -> Answer | None:
    sight = pick([s for s in _movers(facts) if s.oncoming and s.word != "pedestrian"], rng)
    if sight is None:
        return None
    passed = facts.later[sight.id].x_m < 0
    return yes_no(passed, "it will be past me in 3 seconds" if passed else "it will still be ahead", (sight.id,),
                  {"thing": facts.phrase(sight), "word": sight.word})


@template(ASK, "Will somebody move into your lane?", "Will a vehicle come into your lane?",
          "Is anybody going to move in front of you?", "Does somebody change into your lane?")
def will_enter_lane(facts: Facts, rng: np.random.Generator) -> Answer | None:
    if not facts.later:
        return None
    comers = [s for s in facts.seen if s.id in facts.later and not s.in_lane and s.word != "pedestrian"
              and 0 < s.along_m < 40 and facts.later[s.id].in_lane and s.moving]
    return yes_no(bool(comers), f"a {comers[0].word} will" if comers else "nobody will", tuple(s.id for s in comers))


@template(ASK, "Will the vehicle behind come nearer?", "Does somebody come nearer from behind?",
          "Will who drives behind you come closer?", "Will the vehicle behind you come closer?")
def behind_will(facts: Facts, rng: np.random.Generator) -> Answer | None:
    back = [s for s in facts.seen if s.where == "behind" and abs(s.aside_m) < 2 and s.id in facts.later
            and s.word != "pedestrian"]
    if not facts.later:
        return None
    if not back:
        return Answer("I see nobody behind.", None)
    nearer = facts.later[back[0].id].distance_m < back[0].distance_m - 1.0
    return yes_no(nearer, "it will come nearer" if nearer else "it will not come nearer", (back[0].id,))


@template(ASK, "Who will be nearest to you in 3 seconds?", "What will be the nearest road user in 3 seconds?",
          "In 3 seconds, who is nearest?", "Which road user will be closest in 3 seconds?")
def nearest_later(facts: Facts, rng: np.random.Generator) -> Answer | None:
    known = [facts.later[s.id] for s in facts.seen if s.id in facts.later]
    if not known:
        return None
    sight = min(known, key=lambda s: s.distance_m)
    return Answer(f"The {sight.color} {sight.word}.", sight.word, (sight.id,), choices=KINDS_SEEN)


@template(ASK, "What will the {absent} do?", "Will the {absent} turn?", "Where will the {absent} be in 3 seconds?",
          "Is the {absent} going to stop?")
def absent_will(facts: Facts, rng: np.random.Generator) -> Answer | None:
    """Has no answer, and should be told so."""
    missing = [word for word in KINDS_SEEN if not facts.of(word)]
    word = str(rng.choice(missing)) if missing else ""
    return Answer(f"I see no {word}.", None, (), {"absent": word}) if missing else None


__all__ = ["COURSES", "STANDING_MPS", "course"]
