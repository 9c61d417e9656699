"""The sequence, the transformer and the decoding: causality, caches, legal ids, determinism."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from drive_wm.datasets.rigs import dash, nuscenes_six
from drive_wm.encoders.actions import CURVATURE_BINS, SPEED_BINS, action_bins, actions_of_bins
from drive_wm.encoders.agents import apply_motion, motion_tokens, move_frame
from drive_wm.encoders.rays import ray_features
from drive_wm.encoders.text import decode_text, encode_text
from drive_wm.types import AGENT_COLUMNS, CATEGORIES, CAUSE_KINDS, Cause, Explanation, InputError
from drive_wm.world.decode import Sampling, answer_grammar, next_step, read_context, write_segment
from drive_wm.world.inputs import caption_ids
from drive_wm.world.model import Segment, Steps, WorldConfig, WorldModel
from drive_wm.world.reasons import answer_ids, possible_causes, question_ids, read_about, read_answer, read_text
from drive_wm.world.transformer import Cache, TransformerConfig
from drive_wm.world.vocabulary import FRAME_START, RANGES, TABLE_SIZE, special

CONFIG = WorldConfig(TransformerConfig(width=64, layers=2, heads=4, kv_heads=2, mlp=96, rope_pairs=(3, 2, 3)),
                     agents=4, window=4)


@pytest.fixture(scope="module")
def model() -> WorldModel:
    torch.manual_seed(0)
    made = WorldModel(CONFIG)
    for parameter in made.parameters():  # zero-initialised outputs would hide every leak
        torch.nn.init.normal_(parameter, std=0.2)
    return made.eval()


def some_steps(steps: int = 3, seed: int = 0) -> Steps:
    g = torch.Generator().manual_seed(seed)
    rig = dash(64, 32)
    rays, cells, grids = ray_features(rig)
    p = len(rays)
    return Steps(
        digits=torch.randint(0, 8, (1, steps, p, 12), generator=g), masked=None,
        seen=torch.ones(1, steps, p, dtype=torch.bool), noise=torch.zeros(1, steps),
        actions=torch.rand(1, steps, 2, generator=g) * torch.tensor([10.0, 0.1]),
        actions_valid=torch.ones(1, steps, dtype=torch.bool), dt_s=torch.tensor([0.5]),
        agents=torch.rand(1, steps, 4, 12, generator=g) * 5,
        agents_valid=torch.ones(1, steps, 4, dtype=torch.bool), layout=None,
        layout_valid=torch.zeros(1, dtype=torch.bool), rays=torch.from_numpy(rays), cells=torch.from_numpy(cells),
        grids=grids)


def test_the_past_does_not_see_the_future(model: WorldModel) -> None:
    steps, caption = some_steps(), caption_ids(["clear day"], torch.device("cpu"))
    changed = replace(steps, digits=steps.digits.clone())
    changed.digits[:, 2] = 7 - changed.digits[:, 2]
    with torch.no_grad():
        a, b = model(caption, steps)[0], model(caption, changed)[0]
    assert torch.equal(a[:, :2], b[:, :2])
    assert not torch.allclose(a[:, 2], b[:, 2])


def test_a_step_sees_all_of_itself(model: WorldModel) -> None:
    steps, caption = some_steps(), caption_ids([None], torch.device("cpu"))
    changed = replace(steps, digits=steps.digits.clone())
    changed.digits[:, 1, -1] = 7 - changed.digits[:, 1, -1]
    with torch.no_grad():
        a, b = model(caption, steps)[0], model(caption, changed)[0]
    assert not torch.allclose(a[:, 1, -8], b[:, 1, -8])


def test_the_action_moves_what_it_leads_to(model: WorldModel) -> None:
    steps, caption = some_steps(), caption_ids([None], torch.device("cpu"))
    other = replace(steps, actions=steps.actions.clone())
    other.actions[:, 2] = torch.tensor([2.0, -0.2])
    with torch.no_grad():
        a, b = model(caption, steps)[0], model(caption, other)[0]
    assert torch.equal(a[:, :2], b[:, :2]) and not torch.allclose(a[:, 2], b[:, 2])


def test_reading_through_a_cache_equals_reading_at_once(model: WorldModel) -> None:
    steps, caption = some_steps(), caption_ids(["rain night"], torch.device("cpu"))
    with torch.no_grad():
        whole = model(caption, steps)[0][:, -1]
        stream = read_context(model, caption, steps)
    assert torch.allclose(whole, stream.hidden, atol=1e-4)


def test_a_rolling_cache_keeps_the_newest_and_the_caption() -> None:
    cache = Cache(2)
    cache.prefix = [(torch.full((1, 1, 1, 1), -1.0),) * 2]
    for i in range(5):
        cache.add([(torch.full((1, 1, 1, 1), float(i)),) * 2])
    past = cache.past()
    assert past is not None and past[0][0].flatten().tolist() == [-1.0, 3.0, 4.0]


def test_futures_share_one_past(model: WorldModel) -> None:
    stream = read_context(model, caption_ids([None], torch.device("cpu")), some_steps(2))
    wide = stream.cache.expand(3)
    keys = wide.blocks[0][0][0]
    assert keys.shape[0] == 3 and keys.stride(0) == 0
    past = wide.past()
    assert past is not None and past[0][0].shape[0] == 3


@pytest.mark.parametrize("sampling", [Sampling(passes=1), Sampling(passes=3), Sampling(raster=True)])
def test_the_same_seed_gives_the_same_frames(model: WorldModel, sampling: Sampling) -> None:
    steps = some_steps(3)
    with torch.no_grad():
        stream = read_context(model, caption_ids([None], torch.device("cpu")), steps.part(0, 2))
        step = steps.part(2, 3)
        one, two, three = (next_step(model, stream, step, sampling, torch.Generator().manual_seed(s)).last.digits
                           for s in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, three)
    assert int(one.min()) >= 0 and int(one.max()) <= 7


def test_generation_ignores_the_digits_it_replaces(model: WorldModel) -> None:
    steps = some_steps(3)
    hidden = replace(steps.part(2, 3), digits=torch.zeros_like(steps.part(2, 3).digits))
    with torch.no_grad():
        stream = read_context(model, caption_ids([None], torch.device("cpu")), steps.part(0, 2))
        a, b = (next_step(model, stream, s, Sampling(passes=2), torch.Generator().manual_seed(0)).last.digits
                for s in (steps.part(2, 3), hidden))
    assert torch.equal(a, b)


def test_id_ranges_are_disjoint_and_illegal_ids_raise() -> None:
    ids = [i for r in RANGES.values() for i in range(r.start, r.stop)]
    assert len(ids) == len(set(ids)) == TABLE_SIZE == FRAME_START
    with pytest.raises(InputError, match="illegal future_speed id"):
        RANGES["future_speed"].decode(torch.tensor([RANGES["past_speed"].start]))
    with pytest.raises(InputError, match="expected 0 to"):
        RANGES["past_curvature"].encode(torch.tensor([CURVATURE_BINS]))


def test_an_answer_can_always_be_parsed(model: WorldModel) -> None:
    stream = read_context(model, caption_ids([None], torch.device("cpu")), some_steps(2))
    agents = np.zeros((4, 12))
    agents[[0, 3], AGENT_COLUMNS.index("x_m")] = -5.0, 8.0
    agents[0, AGENT_COLUMNS.index("category")] = CATEGORIES.index("pedestrian")
    can = possible_causes(agents, np.array([True, False, False, True]))
    assert can == [("pedestrian",), None, None, ("lead vehicle", "give way")]
    grammar, forms = answer_grammar(can, 2, 6), set()
    for seed in range(20):
        with torch.no_grad():
            ids = write_segment(model, stream, question_ids("Why?"), torch.zeros(1, 18), grammar, 15, temperature=2.0,
                                generator=torch.Generator().manual_seed(seed))
        forms.add(ids[0])
        if ids[0] == special("<causes>"):
            about = read_about(ids, ("a", "", "", "d"))
            assert read_text(ids) and list(about) == [name for name in ("a", "d", "signal") if name in about]
            continue
        made = read_answer(ids, "Why?", agents, ("a", "", "", "d"))
        assert made.text
        for cause in made.causes:
            meant = {"pedestrian": ("a",), "lead vehicle": ("d",), "give way": ("d",), "red light": ("signal", None),
                     "stop sign": ("signal", None)}
            assert cause.kind != "obstacle" and cause.agent_id in meant.get(cause.kind, (None,))
    assert len(forms) == 2


def test_a_segment_is_causal_and_uses_the_route(model: WorldModel) -> None:
    steps, caption = some_steps(2), caption_ids([None], torch.device("cpu"))
    ids = torch.tensor([[special("<plan>"), RANGES["future_speed"].start + 3, RANGES["future_curvature"].start + 3]])
    other = ids.clone()
    other[0, 2] += 1
    with torch.no_grad():
        a, b = (model(caption, steps, Segment(i), torch.zeros(1, 18))[1] for i in (ids, other))
        c = model(caption, steps, Segment(ids), torch.ones(1, 18))[1]
    assert a is not None and b is not None and c is not None
    assert torch.equal(a[:, :2], b[:, :2]) and not torch.allclose(a[:, 2], b[:, 2]) and not torch.allclose(a, c)


def test_explanations_survive_their_tokens() -> None:
    causes = (Cause("lead vehicle", "car-2", "car", (12.0, 0.5)), Cause("red light", "s1"))
    said = Explanation("slow down", "keep", causes)
    ids = answer_ids(said, ("car-1", "car-2", "", ""))
    agents = np.zeros((4, 12))
    agents[1, :2] = 12.0, 0.5
    made = read_answer(ids, "Why?", agents, ("car-1", "car-2", "", ""))
    assert (made.longitudinal, made.lateral) == ("slow down", "keep")
    assert [(c.kind, c.agent_id) for c in made.causes] == [("lead vehicle", "car-2"), ("red light", "signal")]
    assert made.text == "I slow down because there is a car ahead and the light is red."


@pytest.mark.parametrize("kind", CAUSE_KINDS)
def test_every_cause_has_words_of_the_vocabulary(kind: str) -> None:
    from drive_wm.encoders.text import explanation_text

    text = explanation_text(Explanation("stop", "turn left", (Cause(kind, "a", "pedestrian", (8.0, -3.0)),)))
    assert all(i >= 256 for i in encode_text(text)), text


def test_any_text_has_a_code() -> None:
    assert decode_text(encode_text("Why does the Citroën stop?")) == "Why does the citroën stop?"
    for bad, what in (("  ", "empty"), ("x" * 10_000, "10000 characters")):
        with pytest.raises(InputError, match=what):
            encode_text(bad)
    with pytest.raises(InputError, match="at most"):
        question_ids("why " * 100)


def test_actions_round_trip_within_a_bin() -> None:
    grid = torch.stack(torch.meshgrid(torch.linspace(0, 30, 301), torch.linspace(-0.25, 0.25, 101), indexing="ij"), -1)
    bins = action_bins(grid)
    back = actions_of_bins(bins)
    assert int(bins[..., 0].max()) == SPEED_BINS - 1
    assert float((back - grid).abs()[..., 0].max()) < 0.37 and float((back - grid).abs()[..., 1].max()) < 0.0078
    assert torch.equal(actions_of_bins(action_bins(torch.zeros(1, 2))), torch.zeros(1, 2, dtype=torch.float64))


def test_motion_tokens_move_agents_where_they_went() -> None:
    now = torch.zeros(1, 3, 12)
    now[0, :, 0], now[0, :, 3] = torch.tensor([10.0, 20.0, 5.0]), torch.tensor([5.0, 0.0, 3.0])
    ego, dt = torch.tensor([[2.0, 0.1, 0.05]]), torch.tensor([0.5])
    moved = now.clone()
    moved[0, 0, 0] += 2.5  # kept its speed
    moved[0, 2, 0] += 0.5  # braked hard
    after = move_frame(moved, ego)
    made = apply_motion(now, motion_tokens(now, after, ego, dt), ego, dt)
    assert torch.allclose(made[..., :2], after[..., :2], atol=0.2)


def test_rays_know_a_camera_by_its_geometry() -> None:
    rig = nuscenes_six()
    whole, cells, grids = ray_features(rig)
    front = rig.subset(["CAM_FRONT"])
    one, _, _ = ray_features(front)
    i = rig.names.index("CAM_FRONT")
    start = sum(r * c for r, c in grids[:i])
    assert np.array_equal(whole[start:start + len(one)], one) and cells.shape == (168, 2)
    with pytest.raises(InputError, match="must divide by 16"):
        ray_features(front.resized(100, 64))
