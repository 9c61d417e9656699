"""Questions and answers from typed truth: the same seed the same words, answers that are so, and words with a code."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from drive_wm.datasets.language import KINDS, TEMPLATES, Facts, caption_of, distracted, qa_of, with_texts
from drive_wm.datasets.language.planning import overlap
from drive_wm.datasets.language.templates import many, template
from drive_wm.datasets.town import generate
from drive_wm.decisions import agrees, lateral_of, longitudinal_of
from drive_wm.encoders.text import WORDS, encode_text
from drive_wm.encoders.words import color_name
from drive_wm.geometry import box_corners
from drive_wm.types import CATEGORIES, InputError, Log
from drive_wm.world.reasons import MAX_QUESTION_TOKENS, MAX_TEXT_TOKENS

SEED, AT_S = 110_005, 9.5


@pytest.fixture(scope="module")
def log() -> Log:
    return generate(SEED)


@pytest.fixture(scope="module")
def facts(log: Log) -> Facts:
    return Facts(log, log.start_us + int(AT_S * 1e6))


def test_every_kind_has_twelve_templates_of_four_paraphrases() -> None:
    counts = Counter(t.kind for t in TEMPLATES.values())
    assert set(counts) == set(KINDS) and min(counts.values()) >= 12
    assert all(len(set(t.questions)) >= 4 for t in TEMPLATES.values())


def test_the_same_seed_gives_the_same_questions_and_another_seed_others(log: Log, facts: Facts) -> None:
    first = qa_of(log, AT_S, 3, facts=facts)
    assert first == qa_of(log, AT_S, 3, facts=facts)
    assert [q.question for q in first] != [q.question for q in qa_of(log, AT_S, 4, facts=facts)]
    assert {q.kind for q in first} == set(KINDS)


def test_each_log_is_asked_in_its_own_words(log: Log) -> None:
    """With the log left out of the draw, all drives would be asked about the same kind, in the same words."""
    def counted(name: str) -> str:
        return next(q.question for q in qa_of(replace(log, id=name), AT_S, kinds=("perception",)) if q.name == "count")

    assert counted("one") == counted("one") and len({counted(str(i)) for i in range(30)}) > 8


def test_questions_and_answers_fit_into_the_segment(log: Log, facts: Facts) -> None:
    for qa in qa_of(log, AT_S, 1, facts=facts):
        assert len(encode_text(qa.question)) <= MAX_QUESTION_TOKENS, qa.question
        assert len(encode_text(qa.answer)) <= MAX_TEXT_TOKENS, qa.answer
        assert "{" not in qa.question + qa.answer


def test_answers_are_what_the_log_says(log: Log, facts: Facts) -> None:
    found = {qa.name: qa for qa in qa_of(log, AT_S, 1, facts=facts)}
    assert facts.reason is not None and facts.log is log
    assert found["will_you_do"].value == facts.reason.longitudinal
    assert found["weather"].value == log.look.weather
    distance = found["distance"]
    track = next(t for t in log.tracks if t.id == distance.evidence[0])
    ego, other = log.ego.world_from_body[95, :2, 3], track.position_m[95, :2]
    assert distance.value == round(float(np.hypot(*(other - ego))))
    assert found["cause_count"].value == len(facts.cause_ids)


def test_who_is_not_there_has_no_colour(log: Log, facts: Facts) -> None:
    seen = {s.word for s in facts.seen}
    for seed in range(5):
        qa = next(q for q in qa_of(log, AT_S, seed, ("perception",), facts) if q.name == "absent")
        assert qa.value is None and qa.answer.startswith("I see no ")
        assert qa.answer.removeprefix("I see no ").rstrip(".") not in seen


def test_what_a_camera_does_not_see_is_not_asked_about(log: Log, facts: Facts) -> None:
    hidden = {s.id for s in facts.sights} - facts.visible_ids
    assert hidden  # a parked car behind a house, at least
    asked = {i for q in qa_of(log, AT_S, 2, ("perception",), facts) for i in q.evidence}
    assert asked and not asked & hidden


def test_without_reasons_only_what_is_seen_is_asked(log: Log) -> None:
    foreign = replace(log, source="elsewhere", reasons=(), metadata={"route": log.metadata["route"]})
    names = {q.name for q in qa_of(foreign, AT_S, 0)}
    assert {"count", "speed_now", "will_do"} <= names
    assert not names & {"why", "if_gone", "is_cause", "will_you_do"}


def test_texts_are_valid_until_the_next(log: Log) -> None:
    bare = replace(log, source="elsewhere", reasons=(), metadata={"route": log.metadata["route"]})
    texts = with_texts(bare, every_s=8.0).texts
    captions = [t for t in texts if t.kind == "caption"]
    assert [t.start_us - log.start_us for t in captions] == [0, 8_000_000, 16_000_000]
    assert all(t.end_us <= log.end_us and (t.question is None) == (t.kind == "caption") for t in texts)


def test_a_caption_says_light_weather_and_decision(facts: Facts) -> None:
    words = caption_of(facts)
    assert facts.log.look.weather in words and " I " in words


def test_a_distractor_keeps_the_question() -> None:
    assert distracted("Why?", 1).endswith(" Why?") and distracted("Why?", 1) == distracted("Why?", 1) != "Why?"


def test_unknown_kinds_and_times_are_refused(log: Log) -> None:
    with pytest.raises(InputError, match="expected one of perception"):
        qa_of(log, AT_S, kinds=("poetry",))
    with pytest.raises(InputError, match="no valid pose"):
        qa_of(log, 99.0)
    with pytest.raises(ValueError, match="paraphrases"):
        template("perception", "Only one?")(lambda facts, rng: None)


def test_words_of_old_keep_their_ids() -> None:
    assert WORDS[189] == "steady" and WORDS[0] == "." and len(WORDS) <= 512


def test_colours_have_everyday_names() -> None:
    named = {(200, 30, 35): "red", (30, 70, 180): "blue", (20, 120, 70): "green", (235, 180, 30): "yellow",
             (235, 235, 235): "white", (25, 25, 28): "black", (120, 124, 130): "grey", (225, 110, 25): "orange",
             (90, 30, 110): "purple"}
    assert {rgb: color_name(rgb) for rgb in named} == named


def test_numbers_are_said_in_words() -> None:
    assert (many(0, "car"), many(1, "bus"), many(3, "bus")) == ("no cars", "one bus", "three buses")
    assert len(CATEGORIES) == 8


# --- decisions ----------------------------------------------------------------------------------------------------

TIMES = np.arange(0.0, 4.1, 0.5)


@pytest.mark.parametrize("speeds, course", [
    (np.zeros(9), "hold"), (5 + 1.0 * TIMES, "speed up"), (np.full(9, 5.0), "proceed"), (5 - 0.5 * TIMES, "slow down"),
    (np.maximum(5 - 2 * TIMES, 0), "stop"), (np.maximum(0.0, TIMES - 0.2), "speed up"), (5 - 0.3 * TIMES, "proceed")])
def test_a_course_is_read_off_speeds(speeds: np.ndarray, course: str) -> None:
    assert longitudinal_of(speeds, TIMES) == course


def test_sideways_is_read_off_the_route() -> None:
    along = np.linspace(0, 30, 9)
    route = np.column_stack([np.linspace(0, 60, 20), np.zeros(20)])
    flat = np.zeros(9)
    assert lateral_of(np.column_stack([along, flat, flat]), route) == "keep"
    assert lateral_of(np.column_stack([along, along / 30, flat]), route) == "nudge left"
    assert lateral_of(np.column_stack([along, -along / 10, flat]), route) == "change lane right"
    assert lateral_of(np.column_stack([along, along, along / 30]), route) == "turn left"


def test_words_agree_with_what_they_may_look_like() -> None:
    assert agrees("yield", "stop") and agrees("follow", "proceed") and agrees("hold", "hold")
    assert not agrees("speed up", "hold") and not agrees("hold", "proceed") and not agrees("yield", "speed up")


def test_boxes_overlap_where_no_axis_parts_them() -> None:
    def box(x: float, y: float, yaw: float) -> np.ndarray:
        return box_corners(np.array([x, y, yaw]), np.array(4.0), np.array(2.0))

    assert overlap(box(0, 0, 0), box(3.9, 0, 0)) and not overlap(box(0, 0, 0), box(4.1, 0, 0))
    assert not overlap(box(0, 0, 0), box(3.2, 2.2, -np.pi / 4))  # their bounding boxes do
