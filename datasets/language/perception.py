"""Perception: what is there, where, how many, which colour, what the light shows. Only of what a camera sees."""

from __future__ import annotations

import numpy as np

from drive_wm.datasets.language.facts import Facts, Sight
from drive_wm.datasets.language.templates import (
    COLORS,
    KINDS_SEEN,
    Answer,
    a,
    listed,
    many,
    meters,
    pick,
    plural,
    sentence,
    template,
    yes_no,
)
from drive_wm.encoders.words import SIDES
from drive_wm.types import WEATHERS

ASK = "perception"
SIDE_RANGE_M = 30.0


def _side(facts: Facts, where: str) -> Answer:
    here = [s for s in facts.seen if s.where == where and s.distance_m < SIDE_RANGE_M]
    counts = {word: sum(s.word == word for s in here) for word in KINDS_SEEN}
    value = {word: n for word, n in counts.items() if n}
    if not value:
        return Answer(f"I see nobody {where}.", {})
    verb = "is" if next(iter(value.values())) == 1 else "are"
    return Answer(f"There {verb} {listed([many(n, word) for word, n in value.items()])} {where}.", value,
                  tuple(s.id for s in here))


@template(ASK, "What is ahead of you?", "What do you see ahead?", "Who is in front of you?",
          "Tell me what there is in front of the ego.", "What stands or drives ahead?")
def seen_ahead(facts: Facts, rng: np.random.Generator) -> Answer:
    return _side(facts, "ahead")


@template(ASK, "What is on your left?", "What do you see on the left?", "Who is on the left side?",
          "Tell me what there is to the left.")
def seen_left(facts: Facts, rng: np.random.Generator) -> Answer:
    return _side(facts, "on the left")


@template(ASK, "What is on your right?", "What do you see on the right?", "Who is on the right side?",
          "Tell me what there is to the right.")
def seen_right(facts: Facts, rng: np.random.Generator) -> Answer:
    return _side(facts, "on the right")


@template(ASK, "What is behind you?", "What do you see behind?", "Who is behind the ego?",
          "Tell me what there is behind.")
def seen_behind(facts: Facts, rng: np.random.Generator) -> Answer:
    return _side(facts, "behind")


@template(ASK, "What do you follow?", "Which vehicle is ahead of you in your lane?", "Who is the lead vehicle?",
          "What is next in your lane?")
def lead_vehicle(facts: Facts, rng: np.random.Generator) -> Answer:
    lead = facts.lead
    if lead is None or not lead.visible:
        return Answer("My lane is free.", "none")
    return Answer(f"{sentence(a(lead.color))} {lead.word}, {meters(lead.distance_m)} ahead.", lead.word, (lead.id,),
                  choices=KINDS_SEEN)


@template(ASK, "How far is the {thing}?", "How many metres are there to the {thing}?", "How near is the {thing}?",
          "What is the distance to the {thing}?")
def distance(facts: Facts, rng: np.random.Generator) -> Answer | None:
    sight = pick(facts.nameable(), rng)
    if sight is None:
        return None
    return Answer(f"It is {meters(sight.distance_m)} away.", round(sight.distance_m), (sight.id,), _thing(facts, sight))


@template(ASK, "How many {things} do you see?", "How many {things} are there?", "Count the {things}.",
          "What is the number of {things} that you see?")
def count(facts: Facts, rng: np.random.Generator) -> Answer:
    word = str(rng.choice(KINDS_SEEN[:7]))
    seen = facts.of(word)
    return Answer(f"I see {many(len(seen), word)}.", len(seen), tuple(s.id for s in seen), {"things": plural(word)})


@template(ASK, "Which colour is the {thing}?", "What colour does the {thing} have?",
          "What is the colour of the {thing}?", "Tell me the color of the {thing}.")
def color(facts: Facts, rng: np.random.Generator) -> Answer | None:
    alone = [s for s in facts.seen if sum((t.word, t.where) == (s.word, s.where) for t in facts.seen) == 1]
    sight = pick(alone, rng)
    if sight is None:
        return None
    return Answer(f"It is {sight.color}.", sight.color, (sight.id,), {"thing": f"{sight.word} {sight.where}"}, COLORS)


@template(ASK, "What colour is the {absent}?", "Which color does the {absent} have?", "How far is the {absent}?",
          "Is the {absent} moving?")
def absent(facts: Facts, rng: np.random.Generator) -> Answer | None:
    """Has no answer, and should be told so."""
    missing = [word for word in KINDS_SEEN if not facts.of(word)]
    if not missing:
        return None
    word = str(rng.choice(missing))
    return Answer(f"I see no {word}.", None, (), {"absent": word})


@template(ASK, "What does the light show?", "Which color is the traffic light?", "What colour is the light ahead?",
          "What state is the light in?", "Is the light ahead green, yellow or red?")
def light(facts: Facts, rng: np.random.Generator) -> Answer:
    state = facts.light()
    if state is None or facts.signal is None:
        return Answer("There is no light ahead.", None)
    return Answer(f"The light is {state}.", state, (facts.signal,), choices=("green", "yellow", "red", "off"))


@template(ASK, "Is there a {word}?", "Do you see a {word}?", "Is a {word} near?", "Can you see a {word} now?")
def exists(facts: Facts, rng: np.random.Generator) -> Answer:
    word = str(rng.choice(KINDS_SEEN[:7]))
    seen = facts.of(word)
    said = f"there is {a(word)} {seen[0].where}" if seen else f"I see no {word}"
    return yes_no(bool(seen), said, tuple(s.id for s in seen[:1]), {"word": word})


@template(ASK, "Who is nearest to you?", "What is the nearest road user?", "What is closest to the ego?",
          "Which road user is nearest?")
def nearest(facts: Facts, rng: np.random.Generator) -> Answer:
    if not facts.seen:
        return Answer("I see nobody.", "none")
    sight = facts.seen[0]
    return Answer(f"{sentence(a(sight.color))} {sight.word} {sight.where}, {meters(sight.distance_m)} away.",
                  sight.word, (sight.id,), choices=KINDS_SEEN)


@template(ASK, "Is the {thing} moving?", "Does the {thing} move?", "Is the {thing} moving or standing?",
          "Tell me if the {thing} is moving.")
def moving(facts: Facts, rng: np.random.Generator) -> Answer | None:
    sight = pick(facts.nameable(), rng)
    if sight is None:
        return None
    return yes_no(sight.moving, "it is moving" if sight.moving else "it is standing", (sight.id,), _thing(facts, sight))


@template(ASK, "Where is the {thing}?", "On which side is the {thing}?", "Is the {thing} ahead, behind, left or right?",
          "In which direction is the {thing}?")
def where(facts: Facts, rng: np.random.Generator) -> Answer | None:
    alone = [s for s in facts.nameable() if sum((t.word, t.color) == (s.word, s.color) for t in facts.seen) == 1]
    sight = pick(alone, rng)
    if sight is None:
        return None
    return Answer(f"It is {sight.where}.", sight.where, (sight.id,), {"thing": f"{sight.color} {sight.word}"}, SIDES)


@template(ASK, "Is a pedestrian on the road ahead?", "Is there a pedestrian on your way?",
          "Does a pedestrian stand or walk before you?", "Do you see a pedestrian in your lane?")
def pedestrian_in_way(facts: Facts, rng: np.random.Generator) -> Answer:
    there = [s for s in facts.of("pedestrian") if s.in_lane]
    return yes_no(bool(there), "there is a pedestrian ahead" if there else "there is no pedestrian on my way",
                  tuple(s.id for s in there))


@template(ASK, "What is the weather?", "How is the weather?", "Is it clear, overcast, rainy or foggy?",
          "What weather do you see?")
def weather(facts: Facts, rng: np.random.Generator) -> Answer:
    word = facts.log.look.weather
    said = {"rain": "It is rainy.", "fog": "It is foggy."}.get(word, f"It is {word}.")
    return Answer(said, word, choices=WEATHERS)


@template(ASK, "Is it day or night?", "What time of day is it?", "Is it dark?", "Is it day, dusk or night?")
def time_of_day(facts: Facts, rng: np.random.Generator) -> Answer:
    sun = facts.log.look.sun
    word = "night" if sun < 0 else "dusk" if sun < 0.2 else "day"
    return Answer(f"It is {word}.", word, choices=("day", "dusk", "night"))


def _thing(facts: Facts, sight: Sight) -> dict[str, str]:
    return {"thing": facts.phrase(sight)}
