"""The task expert: what it is taught and says, and that it changes nothing of what the world model does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from drive_wm.datasets.clips import lengthened, make_clip, part_of
from drive_wm.datasets.language import Facts, taught
from drive_wm.datasets.language.reasons import by_intervention
from drive_wm.datasets.shards import Sample, ShardSpec, WindowSampler, build_shards, find_shards
from drive_wm.datasets.town import generate
from drive_wm.datasets.town.causes import Effect, owner_id
from drive_wm.encoders.agents import route_features
from drive_wm.encoders.text import decode_text
from drive_wm.encoders.words import agent_words
from drive_wm.geometry import project_to_polyline
from drive_wm.model import DriveWM, ModelConfig
from drive_wm.presets import small, transformer
from drive_wm.tokenizer.model import TokenizerConfig
from drive_wm.training.segments import course_driven, drilled, plan_row, reply, routes_at, rows_of, segments_of
from drive_wm.training.train import train_world
from drive_wm.types import Cause, Explanation, InputError, Log, Text
from drive_wm.world.decode import answer_grammar, looked, read_context, write_segment, write_segments
from drive_wm.world.expert import Segment, TaskExpert
from drive_wm.world.inputs import caption_ids, steps_from_clips
from drive_wm.world.model import WorldConfig
from drive_wm.world.reasons import MOST_IDS, answer_ids, decision_ids, plan_ids, question_ids, read_text, text_ids
from drive_wm.world.vocabulary import special

ROUTE = torch.zeros(1, 18)
SMALL = ModelConfig(TokenizerConfig(channels=(8, 8, 16, 16), decoder_blocks=1),
                    WorldConfig(transformer(64, 2), window=4, layout_channels=8))
DRIVE = "town:7"


@pytest.fixture(scope="module")
def log() -> Log:
    return taught(generate(7, duration_s=8.0), 2.0, 0.5, rounds=1)


@pytest.fixture(scope="module")
def model() -> DriveWM:
    torch.manual_seed(1)
    made = DriveWM.create(SMALL)
    for parameter in made.world.parameters():  # zero-initialised outputs would hide what depends on what
        torch.nn.init.normal_(parameter, std=0.2)
    return made


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "town_7-7"
    build_shards([DRIVE], folder, ShardSpec(end_s=4.0, min_steps=4, questions_every_s=1.5))
    (folder / "complete").write_text(DRIVE)
    return folder


def sample(log: Log, start_s: float = 0.5, steps: int = 12) -> Sample:
    from drive_wm.datasets.clips import nearest_agents
    from drive_wm.datasets.routes import route_ahead

    clip = make_clip(log, log.start_us + int(start_s * 1e6), steps, 2.0, layout=True,
                     rig=log.rig.resized(64, 32))
    return Sample(nearest_agents(clip, 16, 3), route_ahead(log, clip.ego))


# --- what is taught -----------------------------------------------------------------------------------------------


def test_reasons_are_the_true_causes_the_named_ones_first() -> None:
    reason = Explanation("slow down", "keep", (Cause("lead vehicle", "car-1", "car", (9.0, 0.0)), Cause("bend")))
    effects = [Effect(("signal0_1",), 5.0, 0.0), Effect(("car-1",), 2.0, 0.0), Effect(("works-00", "bus-2"), 1.5, 0.0)]
    things = {"works-00": Cause("obstacle", "works-00-cone-03", "object", (20.0, 1.0), visible=True),
              "car-1": Cause("lead vehicle", "car-1", "car", (9.0, 0.0), visible=False)}
    made = by_intervention(reason, effects, things, "yellow")
    assert [c.visible for c in made.causes] == [False, None, True, None]
    assert [(c.kind, c.agent_id) for c in made.causes] == [
        ("lead vehicle", "car-1"), ("red light", "signal0_1"), ("obstacle", "works-00-cone-03"), ("bend", None)]
    assert made.text == "I slow down because there is a car ahead and the light is yellow."
    nothing = by_intervention(replace(reason, causes=(Cause("lead vehicle", "car-9"),)), [], {})
    assert [c.kind for c in nothing.causes] == ["free road"]


def test_a_taught_log_gives_true_causes_at_its_moments(log: Log) -> None:
    moments = {t.start_us for t in log.texts}
    assert len(moments) == 4 and all(t.end_us - t.start_us == 500_000 for t in log.texts)
    reasons = dict(log.reasons)
    for at_us in moments:
        facts = Facts(log, at_us)
        named = {owner_id(c.agent_id) for c in reasons[at_us].causes if c.agent_id}
        assert named <= facts.cause_ids


def test_a_shard_keeps_questions_and_windows_may_end_after_it(shards: Path) -> None:
    sampler = WindowSampler([find_shards(shards)], 8, 3, seed=0, least=4, camera_dropout=0.0, order="sequential")
    clips = [s.clip for step in range(sampler.batches_a_pass) for s in sampler.batch(step)]
    assert sampler.windows == 6 and all(len(c.timestamps_us) == 8 == len(c.agents) for c in clips)
    assert any(t.question for c in clips for t in c.texts)
    short = [c for c in clips if not c.ego_valid.all()]
    assert short and all(c.ego_valid[:4].all() and not c.actions_valid[-1] for c in short)
    assert not any(c.agents_valid[~c.ego_valid].any() or c.frames_valid[~c.ego_valid].any() for c in clips)


def test_windows_with_questions_come_first(shards: Path) -> None:
    (shard,) = find_shards(shards)
    assert shard.asked.tolist() == [i % 3 == 0 and i < 8 for i in range(9)]
    sampler = WindowSampler([[shard]], 8, 4, seed=0, least=4, unasked=0.0)
    starts = {int(s.clip.timestamps_us[3]) for step in range(5) for s in sampler.batch(step)}
    assert starts == {int(t) for t in shard.read(0, 9)[0].timestamps_us[[3, 6]]}


def test_parts_of_clips(log: Log) -> None:
    clip = sample(log).clip
    part = part_of(clip, 2, 5)
    assert len(part.timestamps_us) == 3 and part.actions.shape == (2, 2) and part.reasons == clip.reasons[2:5]
    assert all(t.start_us < part.timestamps_us[-1] + 1 and t.end_us > part.timestamps_us[0] for t in part.texts)
    long = lengthened(part, 6)
    assert len(long.timestamps_us) == 6 and np.array_equal(np.diff(long.timestamps_us), np.full(5, 500_000))
    assert np.array_equal(long.actions[:2], part.actions) and lengthened(part, 3) is part


def test_rows_of_every_form(log: Log) -> None:
    rows = list(rows_of(sample(log), 3, 8, 5, 0, np.random.default_rng(0)))
    begins = [ids[0] for ids, _ in rows]
    plan = plan_row(sample(log), 3, 8)
    assert rows[0] == plan and len(plan[0]) == 17 and sum(plan[1]) == 16
    assert begins.count(special("<decision>")) == 1 and begins.count(special("<question>")) >= 2
    for ids, learned in rows:
        assert len(ids) == len(learned) and any(learned) and not learned[-1]
    told = [(ids, learned) for ids, learned in rows if ids[0] == special("<decision>")][0]
    assert not any(told[1][:3]) and told[0][3:] == plan[0]  # the decision is given, and the plan begins by itself


@pytest.mark.parametrize("speeds, course", [
    (np.linspace(6.0, 0.0, 9), "stop"), (np.linspace(4.0, 9.0, 9), "speed up"), (np.linspace(8.0, 3.0, 9), "slow down"),
    (np.full(9, 5.0), "proceed"), (np.zeros(9), "hold")])
def test_who_is_told_what_the_drive_looks_like_sees_it_done(log: Log, speeds: np.ndarray, course: str) -> None:
    one = sample(log)
    actions, known = one.clip.actions.copy(), np.ones(len(one.clip.actions), bool)
    actions[2:11] = np.column_stack([speeds, np.zeros(9)])  # the first led to where it is decided
    made = replace(one, clip=replace(one.clip, actions=actions, actions_valid=known))
    driven = course_driven(made, 3, 8)
    assert driven is not None and driven[0] == course
    told = {tuple(ids[:3]) for seed in range(30) for ids, _ in rows_of(made, 3, 8, 0, 0, np.random.default_rng(seed))
            if ids[0] == special("<decision>")}
    assert tuple(decision_ids(*driven)) in told
    soon_unknown = replace(made, clip=replace(made.clip, actions_valid=np.arange(len(known)) < 4))
    assert course_driven(soon_unknown, 3, 8) is None


def test_what_is_not_known_is_not_learned(log: Log) -> None:
    short = sample(log)
    valid = short.clip.actions_valid.copy()
    valid[5:] = False
    row = plan_row(replace(short, clip=replace(short.clip, actions_valid=valid)), 3, 8)
    assert len(row[0]) == 1 + 2 * 2  # two actions are known from step 3 on
    asked = reply("Why?", text_ids("no"))
    assert asked[1] == [False, False, True, True, True, True, False]
    assert reply("Why?", text_ids("no"), grounded=False)[1] == [False, False, True, False, True, True, False]


def test_causes_are_learned_where_they_are_true(log: Log) -> None:
    asked = sample(log)
    unasked = replace(asked, clip=replace(asked.clip, texts=()))
    causes = [sum(special("<causes>") in ids for ids, _ in rows_of(one, 3, 8, 0, 0, np.random.default_rng(0)))
              for one in (asked, unasked)]
    decided = [ids for ids, _ in rows_of(unasked, 3, 8, 0, 0, np.random.default_rng(0)) if special("<question>") in ids]
    assert causes == [2, 0] and len(decided) == 2 and all(ids[-3] == special("<decision>") for ids in decided)


def test_a_sentence_on_another_scene_changes_no_answer(log: Log) -> None:
    one, aside = sample(log), "It is a nice day."
    plain, beside = (list(rows_of(one, 3, 8, 20, 5, np.random.default_rng(2), said)) for said in ((), [aside]))
    words = question_ids(aside)
    longer = [ids for ids, _ in beside if ids[:len(words)] == words]
    assert 0 < len(longer) < len(beside) / 2 and not any(ids[:len(words)] == words for ids, _ in plain)
    assert all(special("<end>") == ids[-1] and special("<causes>") in ids for ids in longer)


def test_questions_too_long_to_read_are_passed_over(log: Log) -> None:
    one = sample(log)
    at = int(one.clip.timestamps_us[3])
    texts = (Text(at, at + 1, "no", "x" * 500, "perception"), Text(at, at + 1, "yes", "Is it dark?", "perception"))
    rows = list(rows_of(replace(one, clip=replace(one.clip, texts=texts, reasons=())), 3, 8, 9, 0,
                        np.random.default_rng(0)))
    assert len(rows) == 2  # the plan and one answer


def test_segments_stand_behind_their_own_clips(model: DriveWM, log: Log) -> None:
    batch = [sample(log), sample(log, 1.0)]
    segments = segments_of(batch, 3, 8, 4, 6, 0, torch.device("cpu"))
    steps = steps_from_clips([part_of(s.clip, 0, 4) for s in batch], model.tokenizer, torch.device("cpu"), 16)
    caption = caption_ids([None, None], torch.device("cpu"))
    with torch.no_grad():
        _, keys = model.world.read(caption, steps)
        seen = model.world.look(steps.part(3, 4), keys, routes_at(batch, 3, torch.device("cpu")))
        for segment in segments:
            assert segment.of is not None
            hidden, _ = model.world.expert(segment, seen)
            for k in (0, len(segment.ids) - 1):
                i = int(segment.of[k])
                alone, _ = model.world.expert(Segment(segment.ids[k:k + 1]), seen.of(torch.tensor([i])))
                assert torch.allclose(hidden[k], alone[0], atol=1e-4)


# --- what it says -------------------------------------------------------------------------------------------------


def test_many_answers_at_once_are_those_one_by_one(model: DriveWM, log: Log) -> None:
    clip = part_of(sample(log).clip, 0, 4)
    asked = ["Is it dark?", "How many cars do you see?", "What is ahead?", "Is it clear?"]
    whole = model.answers(clip, asked)
    assert whole == [model.answers(clip, [q])[0] for q in asked] and all(whole)


def test_both_forms_of_an_answer_can_be_parsed(model: DriveWM, log: Log) -> None:
    clip = part_of(sample(log).clip, 0, 4)
    stream = model.read(clip)
    for form in ("<decision>", "<causes>"):
        grammar = answer_grammar([("pedestrian",)] * 16, 2, 4, forms=(form,))
        ids = write_segment(model.world, stream, question_ids("Why?"), torch.zeros(1, 18), grammar, MOST_IDS,
                            temperature=3.0, generator=torch.Generator().manual_seed(0))
        assert ids[0] == special(form) and ids[-1] == special("<end>")
        assert bool(read_text(ids)) == (form == "<causes>")  # the words of a decision are rendered from what is typed
    rows = write_segments(model.world, stream, [question_ids("Why?")] * 3, torch.zeros(1, 18),
                          answer_grammar([("pedestrian",)] * 16, 2, 4), MOST_IDS, temperature=3.0,
                          generator=torch.Generator().manual_seed(0))
    assert all(ids.count(special("<end>")) == 1 == ids.index(special("<end>")) // (len(ids) - 1) for ids in rows)


def test_reasons_come_before_or_after_the_plan(model: DriveWM, log: Log) -> None:
    clip = part_of(sample(log).clip, 0, 4)
    after, before = model.explain(clip), model.explain(clip, before_plan=True)
    assert after.post_hoc and not before.post_hoc
    plan = model.plan(clip, decision=("stop", "keep"))
    assert plan.actions is not None and plan.actions.shape == (8, 2)
    with torch.no_grad():  # what is told is seen by what is planned
        past = looked(model.world, model.read(clip), ROUTE)
        told = [model.world.expert(Segment(torch.tensor([[*decision_ids(d, "keep"), special("<plan>")]])),
                                   past)[0][0, -1] for d in ("stop", "speed up")]
    assert not torch.allclose(told[0], told[1])
    for decision in (("fly", "keep"), ("stop", "up")):
        with pytest.raises(InputError, match="expected one of"):
            model.plan(clip, decision=decision)
    with pytest.raises(InputError, match="no actions"):
        model.explain(clip, plan=replace(plan, actions=None))


def test_it_sees_which_agent_has_which_slot(model: DriveWM, log: Log) -> None:
    """Two agents change places: nothing for the world model, to which they are a set; for a pointer it is all."""
    clip = part_of(sample(log).clip, 0, 2)
    assert clip.agents_valid[-1, :2].all()
    order = [1, 0, *range(2, 16)]
    other = replace(clip, agents=clip.agents[:, order], agents_valid=clip.agents_valid[:, order])
    asked = Segment(torch.tensor([question_ids("Why?")]))
    hidden = []
    with torch.no_grad():
        for one in (clip, other):
            steps = steps_from_clips([one], model.tokenizer, torch.device("cpu"), 16)
            frames, said = model.world(caption_ids([None], torch.device("cpu")), steps, asked, ROUTE)
            assert said is not None
            hidden.append((model.world.frame_hidden(frames), said))
    assert torch.allclose(hidden[0][0], hidden[1][0], atol=1e-4) and not torch.allclose(hidden[0][1], hidden[1][1],
                                                                                       atol=1e-4)


def test_who_has_no_slot_is_no_cause() -> None:
    made = Explanation("yield", "keep", (Cause("pedestrian", "a"), Cause("give way", "b"), Cause("red light", "s")))
    assert answer_ids(made, ("a", "")) == answer_ids(replace(made, causes=(made.causes[0], made.causes[2])), ("a", ""))


# --- what it leaves alone -----------------------------------------------------------------------------------------


def test_frames_do_not_know_of_it(model: DriveWM, log: Log) -> None:
    clip = part_of(sample(log).clip, 0, 3)
    steps = steps_from_clips([clip], model.tokenizer, torch.device("cpu"), 16)
    caption = caption_ids([None], torch.device("cpu"))
    with torch.no_grad():
        alone, _ = model.world(caption, steps)
        beside, said = model.world(caption, steps, Segment(torch.tensor([question_ids("Why?")])), ROUTE)
        stream = read_context(model.world, caption, steps)
        one, _ = model.world.expert(Segment(torch.tensor([question_ids("Why?")])),
                                    looked(model.world, stream, ROUTE))
    assert torch.equal(alone, beside) and said is not None and torch.allclose(said, one, atol=1e-3)


def test_taught_alone_it_leaves_the_world_as_it_was(tmp_path: Path, shards: Path) -> None:
    base = DriveWM.create(SMALL).save_pretrained(tmp_path / "base")
    done = train_world("tiny_expert", sources=[f"shards:{shards}"], out=tmp_path / "run", from_=str(base),
                       overrides={"steps": "3", "data.batch_size": "2", "questions": "4"})
    assert done["steps"] == 3 and np.isfinite(done["loss"])
    made = tmp_path / "run" / "checkpoint"
    for name, same in (("world", True), ("tokenizer", True), ("expert", False)):
        before, after = ((folder / f"{name}.safetensors").read_bytes() for folder in (base, made))
        assert (before == after) is same, name


def test_a_narrow_expert_reads_a_wide_world() -> None:
    config = small().world
    assert config.expert is not None and config.expert.width * 4 == config.transformer.width
    torch.manual_seed(0)
    wide = transformer(128, 1)
    narrow = replace(wide, width=32, heads=wide.kv_heads, mlp=64, head_width=wide.head)
    expert = TaskExpert(narrow, wide)
    past = [(torch.randn(1, 5, wide.kv_heads, wide.head), torch.randn(1, 5, wide.kv_heads, wide.head))]
    seen = expert.look(torch.zeros(1, 3, 12), torch.ones(1, 3, dtype=torch.bool), ROUTE, 3, past)
    hidden, _ = expert(Segment(torch.tensor([plan_ids(np.ones((2, 2)))])), seen)
    assert hidden.shape == (1, 5, 32)
    with pytest.raises(InputError, match="kv_heads must be the world model's"):
        TaskExpert(replace(narrow, kv_heads=1), wide)


# --- agents in words ----------------------------------------------------------------------------------------------


def test_agents_are_told_in_the_words_of_questions(log: Log) -> None:
    facts = Facts(log, log.start_us + 2_000_000)
    clip = sample(log, 0.5, 4).clip
    near = {s.id: s for s in facts.sights}
    words = agent_words(torch.from_numpy(clip.agents[-1]))
    told = {name: [decode_text([i]).lower() for i in row] for name, row in zip(clip.agent_ids, words.tolist())
            if name in near}
    assert len(told) > 5
    for name, (kind, _, side, moving, metres) in told.items():
        sight = near[name]
        assert kind == sight.word and side == sight.where.split()[-1] and int(metres) == round(sight.distance_m)
        assert (moving == "moving") == sight.moving
    assert all(told[name][1] == near[name].color for name in told)


def test_agents_stand_on_the_route_or_aside(log: Log) -> None:
    rng = np.random.default_rng(0)
    agents = torch.from_numpy(rng.normal(0, 15, (2, 40, 12)))
    route = torch.tensor([[[5.0, 0], [10, 0], [14, 3], [14, 8], [14, 18], [14, 28], [20, 36], [30, 36]]] * 2).double()
    made = route_features(agents, route).numpy()
    line = np.concatenate([np.zeros((1, 2)), route[0].numpy()])
    arc, aside, _ = project_to_polyline(agents[0, :, :2].numpy(), line)
    ahead = agents[0, :, 0].numpy() > 0  # the route's first metres go on behind the ego
    assert ahead.sum() > 10 and np.allclose(made[0, ahead, 0] * 30, arc[ahead], atol=1e-6)
    inside = ahead & (arc > 0) & (arc < 74) & (np.abs(aside) < 20)
    assert inside.sum() > 5 and np.allclose(np.abs(made[0, inside, 1]) * 5, np.abs(aside[inside]), atol=1e-6)
    assert np.array_equal(np.sign(made[0, inside, 1]), np.sign(aside[inside]))
    straight = torch.stack([torch.arange(1.0, 9) * 5, torch.zeros(8)], -1)[None].double()
    three = torch.zeros(1, 3, 12).double()
    three[0, :, :2] = torch.tensor([[20.0, 1.0], [20, 2], [-8, 0.5]])
    assert np.allclose(route_features(three, straight)[0], [[2 / 3, 0.2, 1], [2 / 3, 0.4, 0], [-8 / 30, 0.1, 0]])


def test_drills_ask_what_the_agents_answer(log: Log) -> None:
    clip = sample(log).clip
    made = drilled(clip, 3, 100, np.random.default_rng(0))
    assert len(made) > 8 and len(drilled(clip, 3, 5, np.random.default_rng(0))) == 5
    facts = Facts(log, int(clip.timestamps_us[3]))
    for question, answer, name in made:
        assert name in clip.agent_ids
        if question.startswith("Where is the"):
            color, kind = question[len("Where is the "):-1].split()
            alike = [s for s in facts.sights if s.word == kind and s.color == color]
            assert len(alike) != 1 or answer == f"It is {alike[0].where}."
    assert len({q for q, _, _ in made}) == len(made)  # whatever is asked has one answer
