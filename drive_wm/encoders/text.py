"""Words <-> ids of our own: a fixed list of words, and bytes for every other word, so that any text has a code."""

from __future__ import annotations

import re

from drive_wm.types import Cause, Explanation, InputError, Look

_WORDS = """
. , ? ! : - ' the a an is are am was be i you it we me my your its this that there here and or but not no yes because
of to in on at by for from with as if when while ahead behind left right front back near far road lane street junction
crossing light lights sign traffic red green yellow vehicle vehicles car cars van truck bus motorcycle bicycle cyclist
pedestrian pedestrians object obstacle lead route bend limit speed free way give what why where who which how many much
do does doing will would should can could going go goes driving drive keep keeping keeps slow slowing down up speeding
stop stopping stopped stand standing wait waiting yield yielding follow following proceed proceeding hold holding turn
turning turns nudge nudging change changing straight move moving ego next now see seen color colour white black grey
blue day night dusk clear overcast rain rainy fog foggy town city scene weather sunny dark metres meters explain tell
decision reason cause happening happen nothing has brake braking accelerate accelerating steer steering so since due
steady
after all another anybody away before brown buses causes closer closest come count course courses cross danger decides
differently direction distance drives eight eleven every fast faster five four friend gap giving gone grow hard have hit
ignore into kind like long main makes matter metre most must nearer nearest need nice nine nobody none number off
oncoming one only orange others past pass purple react s same second seconds seven show shrink side signal six slower
somebody soon stands start state stay stays take taken ten thing things three time too twelve two user walk were whom
within without word 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36
37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60
""".split()
WORDS = tuple(dict.fromkeys(_WORDS))
WORD_SLOTS = 512  # the list may grow without moving the other ranges
TEXT_VOCABULARY = 256 + WORD_SLOTS
_INDEX = {word: 256 + i for i, word in enumerate(WORDS)}
MAX_CHARACTERS = 2000

QUESTIONS = ("Why are you doing this?", "Why?", "What are you doing and why?", "Explain your decision.",
             "Why are you slowing down?", "Why do you drive so?", "What will you do next, and why?",
             "What is the reason for your speed?")


def word_id(word: str) -> int:
    """Of a word that has one; KeyError for any other."""
    return _INDEX[word]


def encode_text(text: str) -> list[int]:
    """Text -> ids in [0, TEXT_VOCABULARY); case is folded. Raises InputError where it is empty or too long."""
    if not text.strip():
        raise InputError("the text is empty; ask something, for example: \"Why are you slowing down?\"")
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"the text has {len(text)} characters; at most {MAX_CHARACTERS} are read")
    ids: list[int] = []
    for word in re.findall(r"\w+|[^\w\s]", text.lower()):
        if word in _INDEX:
            ids.append(_INDEX[word])
        else:
            ids.extend([0x20, *word.encode("utf-8")])  # a space marks where a spelt word begins
    return ids


def decode_text(ids: list[int]) -> str:
    """The inverse up to case and spacing; unused word slots are left out."""
    pieces: list[str] = []
    spelt = bytearray()
    for i in [*ids, -1]:
        if 0 <= i < 256 and i != 0x20:
            spelt.append(i)
            continue
        if spelt:
            pieces.append(spelt.decode("utf-8", errors="replace"))
            spelt = bytearray()
        if i >= 256 and i - 256 < len(WORDS):
            pieces.append(WORDS[i - 256])
    text = re.sub(r"\s+([.,?!:'])", r"\1", " ".join(pieces))
    text = re.sub(r"\bi\b", "I", text)
    return re.sub(r"(^|[.?!]\s+)(\w)", lambda m: m[1] + m[2].upper(), text)


_DOING = {"proceed": "I keep driving", "speed up": "I speed up", "slow down": "I slow down", "stop": "I stop",
          "yield": "I give way", "follow": "I follow the vehicle ahead", "hold": "I stand still"}
_LATERAL = {"keep": "", "nudge left": " and nudge left", "nudge right": " and nudge right",
            "turn left": " and turn left", "turn right": " and turn right", "change lane left": " and change lane left",
            "change lane right": " and change lane right"}


def _because(cause: Cause) -> str:
    thing = cause.category or "vehicle"
    where = ""
    if cause.position_m is not None:
        x, y = cause.position_m
        side = " on the left" if y > 0 else " on the right"
        where = " behind" if x < -1 else " ahead" if abs(y) < max(2.0, 0.35 * x) else side
    return {"none": "nothing is in the way", "lead vehicle": f"there is a {thing}{where}",
            "pedestrian": f"there is a pedestrian{where}", "red light": f"the light is {cause.state or 'red'}",
            "stop sign": "there is a stop sign", "give way": f"a {thing}{where} has the right of way",
            "bend": "the road has a bend", "speed limit": "of the speed limit",
            "obstacle": f"there is an obstacle{where}", "free road": "the road is free",
            "route": "the route turns"}[cause.kind]


def explanation_text(explanation: Explanation) -> str:
    """The prose of a typed decision: the typed causes decide what it says, and nothing else."""
    doing = _DOING[explanation.longitudinal] + _LATERAL[explanation.lateral]
    if not explanation.causes:
        return f"{doing}."
    because = " and ".join(list(dict.fromkeys(map(_because, explanation.causes)))[:2])
    return f"{doing} because {because}."


def caption(look: Look) -> str:
    """A few words on how a scene looks, which condition the generated frames."""
    light = "night" if look.sun < 0 else "dusk" if look.sun < 0.2 else "day"
    return f"{look.weather} {light}"
