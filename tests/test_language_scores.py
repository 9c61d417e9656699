"""Scores of words, each computed by hand; DriveLM and LingoQA read and scored."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from drive_wm.datasets.drivelm import keyframe_logs, read_drivelm, spoken, tag_of, with_drivelm
from drive_wm.datasets.language import QA, TEMPLATES
from drive_wm.datasets.lingoqa import read_lingoqa, with_lingoqa
from drive_wm.datasets.town import generate
from drive_wm.datasets.town.causes import Effect
from drive_wm.eval.language import answer_table, deletion_table, ratio, summarize, world_table
from drive_wm.eval.language_answers import right, same_reasons
from drive_wm.eval.language_moment import (
    SIGNAL,
    MomentResult,
    cause_ids,
    plan_moved,
    true_ids,
    without,
)
from drive_wm.eval.language_prior import PRIOR, counted
from drive_wm.eval.language_scores import (
    bleu,
    drivelm_scores,
    f1_of,
    lingoqa_scores,
    match_f1,
    rouge_l,
    same_answer,
)
from drive_wm.types import LONGITUDINAL, Cause, Explanation, InputError, Plan, Trajectory

# --- words --------------------------------------------------------------------------------------------------------


def test_bleu_by_hand() -> None:
    # 1-grams 4 of 5, 2-grams 2 of 4, no penalty: sqrt(0.8 * 0.5)
    assert bleu(["the car is red now"], ["the car was red now"], 2) == pytest.approx(np.sqrt(0.8 * 0.5))
    # "the the the": clipped to the one "the"; 1 of 3
    assert bleu(["the the the"], ["the red car"], 1) == pytest.approx(1 / 3)
    # half as long: precision 1, penalty exp(1 - 4/2)
    assert bleu(["red car"], ["a red car here"], 1) == pytest.approx(np.exp(-1))
    assert bleu(["Yes, it is red."], ["yes it is red"]) == 1.0
    assert bleu(["no"], ["yes"]) == 0.0 and np.isnan(bleu([], []))


def test_bleu_is_of_the_corpus_and_not_a_mean() -> None:
    # 3 of 4 words together; the mean of sentences would be (1 + 0.5) / 2
    assert bleu(["red car", "a bus"], ["red car", "one bus"], 1) == pytest.approx(3 / 4)


def test_rouge_l_by_hand() -> None:
    # common subsequence "police kill gunman" of 3; lengths 4 and 4: P = R = F = 3/4
    assert rouge_l("police ended kill gunman", "police kill the gunman") == pytest.approx(0.75)
    # P = 1, R = 1/2: (1 + 1.44) / 2 / (0.5 + 1.44)
    assert rouge_l("red car", "a red old car") == pytest.approx(2.44 * 0.5 / (0.5 + 1.44))
    assert rouge_l("", "a car") == 0.0 == rouge_l("bus", "a car")


def test_answers_are_the_same_up_to_case_and_stops() -> None:
    assert same_answer("Yes.", "yes") and not same_answer("yes", "yes indeed")


def test_objects_match_within_sixteen_pixels() -> None:
    truth = "Notice <c1,CAM_FRONT,100.0,200.0>, then <c2,CAM_FRONT,500.0,300.0>."
    assert match_f1(truth, truth) == 1.0
    assert match_f1("<c1,CAM_FRONT,110.0,205.9>", truth) == pytest.approx(2 / 3)  # 15.9 away: one of two found
    assert match_f1("<c1,CAM_FRONT,110.0,206.0>", truth) == 0.0  # 16.0 is too far
    assert match_f1("<c1,CAM_FRONT,101.0,200.0> <c2,CAM_FRONT,99.0,200.0>", truth) == pytest.approx(0.5)  # claimed once
    assert match_f1("nobody", "nobody") == 0.0


def test_drivelm_figures_by_tag() -> None:
    scores = drivelm_scores(["Yes.", "no", "a red car"], ["Yes.", "Yes.", "a red car"],
                            ["accuracy", "accuracy", "language"])
    assert scores["accuracy"] == 0.5 and scores["match"] is None
    assert scores["bleu_1"] == 1.0 and scores["rouge_l"] == pytest.approx(1.0)


def test_lingoqa_takes_the_best_reference() -> None:
    scores = lingoqa_scores(["the light is red"], [["stop", "The light is red."]])
    assert scores == pytest.approx({"exact": 1.0, "bleu_4": 1.0, "rouge_l": 1.0})


# --- sets and intervals -------------------------------------------------------------------------------------------


def test_the_commonest_answers_are_those_of_training_logs() -> None:
    told = json.loads(PRIOR.read_text())
    assert set(told["answers"]) >= set(TEMPLATES) and told["seeds"][1] < 100_000
    few = counted([3, 4], [1.5], workers=1)
    assert set(few["answers"]) <= set(told["answers"]) and few["moments_s"] == [1.5]
    assert few["answers"]["route_goes"] in ("left", "right", "straight")


def test_hits_of_sets() -> None:
    assert f1_of(["a", "b", "b"], ["b", "c", "d"]) == (1, 2, 3)


def test_a_ratio_is_of_sums_and_its_interval_holds_it() -> None:
    value, low, high = ratio([1, 0, 3], [1, 1, 4], "abc", seed=0)
    assert value == pytest.approx(4 / 6) and low <= value <= high
    assert ratio([1, 0, 3], [1, 1, 4], "abc", seed=0) == (value, low, high)
    assert np.isnan(ratio([0.0], [0.0], "a", 0)[0]) and np.isnan(ratio([1.0], [2.0], "a", 0)[1])
    assert ratio([1, 0, 1, 2], [1, 1, 2, 2], "aabb", 0) == ratio([1, 3], [2, 4], "ab", 0)  # logs, not moments


def test_lights_are_one_thing_and_cones_their_works() -> None:
    explanation = Explanation("stop", "keep", (Cause("red light", "signal0_2"), Cause("obstacle", "works-00-cone-01")))
    assert cause_ids(explanation) == {SIGNAL, "works-00"}
    effects = [Effect(("stop1_0",), 3.0, 0.0), Effect(("a", "b"), 2.0, 0.0), Effect(("a",), 1.5, 0.0)]
    assert true_ids(effects) == {SIGNAL: 3.0, "a": 2.0, "b": 2.0}


def row(stated: list[str], effects: dict[str, float], own: list[str]) -> dict:
    return {"log_id": "log", "stated": stated, "true": sorted(effects), "effects": effects, "expert": [], "own": own,
            "invisible": [], "true_invisible": [], "consistent": True, "consistent_lateral": None,
            "expert_consistent": None, "undisturbed": True, "opposites_mps": 3.0}


def test_the_tables_by_hand() -> None:
    rows = [row(["a"], {"a": 3.0, "b": 1.0}, ["a"]), row(["x"], {}, []), row([], {"c": 4.0}, ["c"])]
    table = {line["what"]: line["value"] for line in world_table(rows, 0)}
    assert table["model precision"] == 0.5 and table["model recall"] == pytest.approx(1 / 3)
    assert table["model f1"] == pytest.approx(2 * 1 / 5)
    assert table["hallucinated, share of what is stated"] == 0.5  # x
    assert table["omitted, share of all effect"] == pytest.approx(5 / 8)  # b and c
    removed = [{"id": "a", "cited": True, "plan_changed": True, "citation_dropped": True, "decision_changed": True},
               {"id": "y", "cited": False, "plan_changed": False, "citation_dropped": False, "decision_changed": True}]
    result = MomentResult("log", 1.0, [], rows[0], removed)
    assert [line["removals"] for line in deletion_table([result])] == [1, 0, 0, 1]
    assert set(summarize([result], 0)) == {"answers", "consistency", "faithful_to_the_world", "faithful_to_itself",
                                           "deletion"}


def test_a_kind_is_told_beside_the_better_baseline() -> None:
    answers = [{"kind": "planning", "name": "a", "exact": True, "semantic": True, "blind_exact": False,
                "text_only_exact": True},
               {"kind": "planning", "name": "b", "exact": False, "semantic": True, "blind_exact": False,
                "text_only_exact": True}]
    line = next(r for r in answer_table([MomentResult("log", 1.0, answers)], 0) if r["kind"] == "planning")
    assert (line["exact"], line["semantic"], line["blind"], line["text_only"]) == (0.5, 1.0, 0.0, 1.0)
    assert line["over_the_better"] == -0.5


def qa(answer: str, value: object, choices: tuple[str, ...] = ()) -> QA:
    return QA("?", answer, "perception", "any", (), value, choices)


@pytest.mark.parametrize("asked, said, exact, semantic", [
    (qa("It is red.", "red", ("red", "green")), "it is Red", True, True),
    (qa("It is red.", "red", ("red", "green")), "The green one is not red.", False, False),
    (qa("It is on the left.", "on the left", ("on the left", "on the right")), "On the left, I think.", True, True),
    (qa("It is 20 metres away.", 20), "It is 23 metres away.", False, True),
    (qa("It is 20 metres away.", 20), "It is 25 metres away.", False, False),
    (qa("I see two cars.", 2), "2", True, True),
    (qa("Not at all.", 0), "By 1 metre a second.", False, True),
    (qa("Yes, it is moving.", "yes", ("yes", "no")), "Yes, it drives.", True, True),
    (qa("Yes, it is moving.", "yes", ("yes", "no")), "It is moving, no doubt.", False, False),
    (qa("I see no bus.", None), "I see no bus", True, True),
    (qa("I see no bus.", None), "It is blue.", False, False),
    (qa("I am not stopping. I speed up.", None), "I am not stopping. I keep driving.", False, True),
    (qa("I give way.", "yield", LONGITUDINAL), "I stop.", False, True),
    (qa("I give way.", "yield", LONGITUDINAL), "I speed up.", False, False),
    (qa("I see nobody ahead.", {}), "", False, False)])
def test_answers_by_hand(asked: QA, said: str, exact: bool, semantic: bool) -> None:
    assert right(asked, said) == (exact, semantic)


def test_reasons_are_compared_with_their_things() -> None:
    made = Explanation("yield", "keep", (Cause("pedestrian", "pedestrian-01"), Cause("red light", "signal")))
    assert same_reasons(made, [["red light", "signal0_2"], ["pedestrian", "pedestrian-01"]]) == (True, False)
    assert same_reasons(made, [["pedestrian", "pedestrian-02"]]) == (False, True)


def test_plans_differ_by_speed_and_sideways() -> None:
    def plan(speed: float, y: float) -> Plan:
        times = np.arange(1, 5) / 2
        return Plan(Trajectory(times, np.column_stack([speed * times, np.full(4, y), np.zeros(4)])),
                    actions=np.column_stack([np.full(4, speed), np.zeros(4)]))

    assert plan_moved(plan(5.0, 0.0), plan(5.5, 0.8)) == pytest.approx((0.5, 0.8))
    assert plan_moved(plan(5.0, 0.0), plan(0.0, 0.0)) == pytest.approx((5.0, 0.0))


def test_what_is_taken_out_is_gone_from_images_and_tracks() -> None:
    log = generate(110_005, duration_s=2.0)
    bare = without(log, ["works-00", SIGNAL])
    assert any(t.id.startswith("works-00-") for t in log.tracks)
    assert not any(t.id.startswith("works-00-") for t in bare.tracks) and len(bare.tracks) > 10
    assert bare.frames is not log.frames and bare.reasons == log.reasons
    assert all((s.state == 1).all() for s in bare.signals)


# --- adapters -----------------------------------------------------------------------------------------------------


def test_drivelm_is_read(shared_data: Path) -> None:
    questions = read_drivelm(shared_data / "drivelm_scene" / "qa.json")
    assert len(questions) == 479 and len({q.frame for q in questions}) == 5
    assert {q.kind for q in questions} == {"perception", "prediction", "planning", "behavior"}
    first = min(questions, key=lambda q: q.at_us)
    assert first.at_us == 1_533_280_036_162_460 and len(first.images) == 6
    perfect = drivelm_scores([q.answer for q in questions], [q.answer for q in questions], [q.tag for q in questions])
    assert all(value == pytest.approx(1.0) for value in perfect.values())


def test_drivelm_texts_lie_on_the_log(shared_data: Path) -> None:
    log = generate(0, duration_s=2.0)
    path = shared_data / "drivelm_scene" / "qa.json"
    with pytest.raises(InputError, match="no keyframe"):
        with_drivelm(log, path)
    from drive_wm.types import Poses

    shift = 1_533_280_036_000_000 - log.start_us
    moved = replace(log, ego=Poses(log.ego.timestamps_us + shift, log.ego.world_from_body, log.ego.valid))
    texts = with_drivelm(moved, path).texts
    assert texts and all("<c" not in t.text + str(t.question) for t in texts)
    assert {t.start_us for t in texts} == {1_533_280_036_162_460}


def test_keyframes_are_logs_of_one_moment(shared_data: Path) -> None:
    logs = keyframe_logs(shared_data / "drivelm_scene" / "qa.json")
    assert len(logs) == 5 and all(log.start_us == log.end_us for log in logs)
    front = logs[0].frames.read("CAM_FRONT", logs[0].start_us)
    assert front.shape == (900, 1600, 3) and sum(len(log.texts) for log in logs) == 479


def test_names_of_objects_become_words() -> None:
    assert spoken("Is <c1,CAM_FRONT,1.0,2.0> moving?", {"<c1,CAM_FRONT,1.0,2.0>": "Red car."}) == \
        "Is the red car moving?"
    assert tag_of("Is it?", "No.") == "accuracy" and tag_of("What is it?", "A car.") == "language"


def test_what_is_not_drivelm_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "qa.json"
    for text, said in (("{", "cannot be read"), ('{"scene": {}}', "not DriveLM's format"), ("{}", "no question")):
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            read_drivelm(path)


ROWS = [{"question_id": "q1", "segment_id": "s1", "images": ["0.jpg", "1.jpg", "2.jpg"], "question": "Why?",
         "answer": answer} for answer in ("A red light.", "The light is red.")]


@pytest.mark.parametrize("ending", ["json", "csv", "parquet"])
def test_lingoqa_is_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"val.{ending}"
    if ending == "json":
        path.write_text(json.dumps(ROWS))
    elif ending == "csv":
        lines = [f"{r['question_id']},{r['segment_id']},\"['0.jpg' '1.jpg' '2.jpg']\",{r['question']},{r['answer']}"
                 for r in ROWS]
        path.write_text("question_id,segment_id,images,question,answer\n" + "\n".join(lines))
    else:
        pq = pytest.importorskip("pyarrow.parquet")
        pq.write_table(pytest.importorskip("pyarrow").Table.from_pylist(ROWS), path)
    (question,) = read_lingoqa(path)
    assert question.answers == ("A red light.", "The light is red.") and question.images == ("0.jpg", "1.jpg", "2.jpg")
    log = generate(0, duration_s=5.0)
    texts = with_lingoqa(log, path, "s1").texts
    assert [t.start_us - log.start_us for t in texts] == [2_000_000, 2_000_000] and texts[1].text == "The light is red."
    with pytest.raises(InputError, match="no question about segment"):
        with_lingoqa(log, path)


def test_what_is_not_lingoqa_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "val.json"
    path.write_text('[{"question": "Why?"}]')
    with pytest.raises(InputError, match="row 0 has no question_id"):
        read_lingoqa(path)
