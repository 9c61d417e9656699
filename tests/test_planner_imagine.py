"""Many futures of one past, and the planner that chooses among them, with a small model of random weights."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from drive_wm.datasets.rigs import dash
from drive_wm.encoders.actions import action_bins, actions_of_bins
from drive_wm.model import DriveWM, ModelConfig
from drive_wm.planners import futures, imagine
from drive_wm.planners.direct import chosen, slowed
from drive_wm.planners.imagine import ImaginePlanner, Moment, Search, Tried, front_only, lattice, ramp, refined
from drive_wm.tokenizer.fsq import FSQConfig
from drive_wm.tokenizer.model import TokenizerConfig
from drive_wm.types import InputError, Lane, Observation, RoadMap
from drive_wm.world.decode import Sampling
from drive_wm.world.model import WorldConfig
from drive_wm.world.transformer import Span, Transformer, TransformerConfig

SMALL = TransformerConfig(width=64, layers=2, heads=4, kv_heads=2, mlp=96, rope_pairs=(3, 2, 3))
ROUTE = np.stack([np.arange(0.0, 121.0, 2.0), np.zeros(61)], 1)


@pytest.fixture(scope="module")
def model() -> DriveWM:
    made = DriveWM.create(ModelConfig(TokenizerConfig(FSQConfig(), (8, 8, 16, 16)), WorldConfig(SMALL, agents=4), 2.0,
                                      64, 32, 2))
    for parameter in made.world.parameters():  # zero-initialised outputs would hide every leak
        torch.nn.init.normal_(parameter, std=0.2)
    return made


def observation(**changes: Any) -> Observation:
    """Two steps at 6 m/s on a wide straight road, a car standing 18 m ahead in the lane."""
    rng = np.random.default_rng(0)
    rig = dash(64, 32)
    x = np.linspace(-50.0, 150.0, 21)
    line = [np.stack([x, np.full(21, y), np.zeros(21)], 1) for y in (0.0, 6.0, -6.0)]
    area = np.array([[-50, -6, 0], [150, -6, 0], [150, 6, 0], [-50, 6, 0]], float)
    agents = np.tile(np.array([18.0, 0, 0, 0, 0, 4, 2, 1.5, 0, 90, 90, 90]), (2, 1, 1))
    agents[0, 0, 0] = 21.0
    values: dict[str, Any] = dict(
        timestamps_us=np.array([0, 500_000]), rig=rig, ego_xyyaw=np.array([[-3.0, 0, 0], [0, 0, 0]]), speed_mps=6.0,
        actions=np.array([[6.0, 0.0]]), world_from_rig=np.eye(4), route=ROUTE,
        frames={c.name: rng.integers(0, 255, (2, c.height, c.width, 3), dtype=np.uint8) for c in rig.cameras},
        frames_valid=np.ones((2, len(rig.cameras)), bool), agents=agents, agents_valid=np.ones((2, 1), bool),
        agent_ids=("car",), signal_states={},
        map=RoadMap("m", {"a": Lane("a", line[0], line[1], line[2], speed_limit_mps=8.0)}, drivable=(area,)))
    return Observation(**{**values, **changes})


@pytest.fixture(scope="module")
def planner(model: DriveWM) -> ImaginePlanner:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DriveWM, "from_pretrained", classmethod(lambda cls, name: model))
        return ImaginePlanner(rounds=1, count=4, samples=2)


@pytest.fixture(scope="module")
def moment(planner: ImaginePlanner) -> Moment:
    return Moment.of(planner, observation())


# --- futures of one past ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
def test_futures_side_by_side_are_what_each_is_alone(causal: bool) -> None:
    torch.manual_seed(0)
    net = Transformer(SMALL)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    places = torch.randint(0, 9, (12, 3))
    context, x = torch.randn(1, 5, 64), torch.randn(3, 7, 64)  # 3 futures: a block of 4 positions, then one of 3
    with torch.no_grad():
        _, past = net(context, places[:5], [Span(0, 5)])

        def joined(keys: Any) -> Any:
            return [(torch.cat([a, c], 1), torch.cat([b, d], 1)) for (a, b), (c, d) in zip(past, keys)]

        alone = [net(x[i:i + 1, :4], places[5:9], [Span(0, 4, causal)], past)[0] for i in range(3)]
        span = Span(0, 12, causal, futures=3, shared=5)
        hidden, keys = net(x[:, :4].reshape(1, 12, 64), places[5:9].repeat(3, 1), [span], past)
        assert torch.allclose(hidden.view(3, 4, 64), torch.cat(alone), atol=1e-5)
        if causal:
            return
        more = [net(x[i:i + 1, 3:], places[5:9], [Span(0, 4)], joined(net(x[i:i + 1, :4], places[5:9], [Span(0, 4)],
                                                                          past)[1]))[0] for i in range(3)]
        hidden, _ = net(x[:, 3:].reshape(1, 12, 64), places[5:9].repeat(3, 1), [span], joined(keys))
    assert torch.allclose(hidden.view(3, 4, 64), torch.cat(more), atol=1e-5)


def test_a_future_does_not_depend_on_its_neighbours(model: DriveWM, moment: Moment) -> None:
    actions = np.stack([np.full((8, 2), [v, k]) for v, k in ((6.0, 0.0), (3.0, 0.02), (8.0, -0.03))])
    many = futures.roll_out(model, moment.stream, actions)
    assert many.agents.shape == (3, 8, 4, 12) and many.digits is None
    for i in range(3):
        alone = futures.roll_out(model, moment.stream, actions[i:i + 1]).agents[0]
        np.testing.assert_allclose(many.agents[i, 0], alone[0], atol=1e-5)  # bfloat16 may decide otherwise later on


def test_tokens_and_pixels_have_the_right_shapes_and_the_same_seed_the_same_bytes(model: DriveWM,
                                                                                  moment: Moment) -> None:
    actions = np.full((2, 2, 2), [6.0, 0.0])
    hot = Sampling(passes=2, temperature=1.0)
    a, b, c = (futures.roll_out(model, moment.stream, actions, mode="pixel", sampling=hot, seed=s) for s in (1, 1, 2))
    assert a.digits is not None and b.digits is not None and c.digits is not None and a.frames is not None
    assert a.digits.shape[:2] == (2, 2) and [f.shape for f in a.frames] == [(2, 2, 32, 64, 3)] * len(a.frames)
    assert torch.equal(a.digits, b.digits) and not torch.equal(a.digits, c.digits)
    for wrong, mode in ((actions, "dream"), (actions[0], "state")):
        with pytest.raises(InputError, match="expected"):
            futures.roll_out(model, moment.stream, wrong, mode=mode)


def test_a_plan_is_as_likely_as_it_was_when_it_was_drawn(model: DriveWM, moment: Moment) -> None:
    drawn, said = futures.sample_plans(model, moment.stream, moment.route_features, 5, seed=3)
    assert drawn.shape == (5, 8, 2) and len(np.unique(drawn[:, 0, 0])) > 1
    bins = actions_of_bins(action_bins(torch.from_numpy(drawn))).numpy()
    np.testing.assert_array_equal(bins, drawn)
    np.testing.assert_allclose(futures.plan_likelihood(model, moment.stream, moment.route_features, drawn), said,
                               atol=0.1)


def test_the_greedy_plan_is_the_models_own(model: DriveWM, moment: Moment) -> None:
    greedy, _ = futures.sample_plans(model, moment.stream, moment.route_features, 1, temperature=0.0)
    plan = model.plan(moment.clip, moment.route, stream=moment.stream)
    assert plan.actions is not None
    np.testing.assert_array_equal(greedy[0, :2], plan.actions[:2])  # bfloat16 may decide otherwise later on


# --- the planner --------------------------------------------------------------------------------------------------


def test_the_lattice_starts_at_the_present_speed_and_goes_along_the_route(moment: Moment) -> None:
    np.testing.assert_allclose(ramp(6.0, 8.0), [6.375, 7.125, 7.791667, 8, 8, 8, 8, 8], atol=0.06)
    assert ramp(6.0, 0.0).tolist()[:5] == pytest.approx([5.375, 4.125, 2.875, 1.625, 0.5], abs=0.13)
    ways = lattice(moment)
    assert ways.shape == (16, 8, 2) and moment.limit_mps == 8.0
    np.testing.assert_allclose(ways[0], np.stack([ramp(6.0, 8.0), np.zeros(8)], 1), atol=1e-6)  # the line itself
    assert ways[1, 0, 1] < 0 < ways[2, 0, 1]  # to its right, to its left
    bends = lattice(replace(moment, route=None))
    assert sorted(set(bends[:, 0, 1])) == [-0.02, 0.0, 0.02]


def test_it_does_not_run_into_a_standing_car_and_says_what_it_weighed(planner: ImaginePlanner,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    steady = torch.nn.Linear(64, 50)
    with torch.no_grad():
        steady.weight.zero_()
        steady.bias.zero_()[[12, 25 + 12]] = 1.0  # the middle bins: neither faster nor slower, straight on
    monkeypatch.setitem(planner.model.world._modules, "motion_head", steady)
    planner.reset(0)
    plan, again = planner.plan(observation()), planner.plan(observation())
    assert len(plan.candidates) == 1 + 2 + 16 + 4 and plan.costs is not None and plan.actions is not None
    np.testing.assert_array_equal(plan.trajectory.xyyaw, again.trajectory.xyyaw)
    assert plan.costs.min() == plan.costs[[c is plan.trajectory for c in plan.candidates].index(True)]
    ahead = plan.trajectory.xyyaw
    passes = (ahead[:, 0] < 12.0) | (np.abs(ahead[:, 1]) > 1.8)
    assert passes.all()


def test_it_stops_for_red(planner: ImaginePlanner, moment: Moment) -> None:
    red = replace(moment, reds=np.array([15.0]))
    reach = np.zeros((2, 41, 3))
    reach[:, -1, 0] = 5.0, 14.0
    assert red.runs_red(reach).tolist() == [False, True] and not moment.runs_red(reach).any()
    assert not replace(moment, reds=np.array([1.0])).runs_red(reach).any()  # the front stands on it already


def test_it_plans_without_map_without_route_and_through_one_camera(planner: ImaginePlanner) -> None:
    for seen in (observation(map=None), observation(map=None, route=None), observation(agents=None, agents_valid=None,
                                                                                       agent_ids=())):
        assert np.isfinite(planner.plan(seen).trajectory.xyyaw).all()
    from drive_wm.datasets.rigs import nuscenes_six

    rig = nuscenes_six(64, 32)
    frames = {c.name: np.zeros((2, c.height, c.width, 3), np.uint8) for c in rig.cameras}
    one = front_only(observation(rig=rig, frames=frames, frames_valid=np.ones((2, 6), bool)))
    assert one.rig.names == ("CAM_FRONT",) and list(one.frames or ()) == ["CAM_FRONT"]


def test_refinement_moves_towards_what_was_better() -> None:
    slow, fast = np.full((8, 8, 2), [2.0, 0.0]), np.full((8, 8, 2), [9.0, 0.01])
    tried, worth = np.concatenate([slow, fast]), np.repeat([0.2, 1.0], 8)
    for kind in ("cem", "mppi"):
        drawn = refined(Search(kind, count=6), tried, worth, 0, np.random.default_rng(0))
        assert drawn.shape == (6, 8, 2) and drawn[0] == pytest.approx(np.full((8, 2), [9.0, 0.01]), abs=1e-2)
        assert 0.1 < drawn[1:, :, 0].std() < 3.0 and (drawn[..., 0] >= 0).all()
    with pytest.raises(InputError, match="cem"):
        Search("anneal")


def test_progress_counts_against_the_best_of_all_rounds() -> None:
    one, all_clean = np.zeros((1, 8, 2)), np.ones(1)
    slow, fast, crash = (Tried(one, np.array([m]), clean, all_clean, np.array([0.5])) for m, clean in (
        (10.0, all_clean), (40.0, all_clean), (90.0, 0 * all_clean)))
    assert slow.worth == pytest.approx([0.5 + 5 / 12])
    assert slow.and_(fast).and_(crash).worth == pytest.approx([0.5 + 5 / 48, 0.5 + 5 / 12, 0.5])


def test_how_one_of_many_plans_is_chosen() -> None:
    plans = np.stack([np.full((8, 2), [v, 0.0]) for v in (1.0, 5.0, 6.0, 20.0, 23.0)])
    said = np.array([-1.0, -3.0, -2.0, -0.5, -4.0])
    for how, speed in (("likeliest", 20.0), ("medoid", 6.0), ("median", 6.0), ("mean", 11.0), ("greedy", 20.0)):
        assert chosen(plans, said, how)[0, 0] == speed


def test_a_plan_is_slowed_on_its_own_path() -> None:
    plan = np.stack([np.full(8, 8.0), np.linspace(0.0, 0.07, 8)], 1)  # bends more and more
    slower = slowed(plan, 8.0)
    assert slower.shape == (5, 8, 2) and slower[1, :, 0].tolist() == [7.5, 6.5, 5.5, 4.5, 3.5, 2.5, 1.5, 0.5]
    assert slower[4, 3:, 0].tolist() == [0.0] * 5
    assert slower[1, 3, 1] == pytest.approx(0.01 * (7.5 + 6.5 + 5.5 + 2.25 - 4.0) / 8.0)  # as bent as there on the way


def test_wrong_options_are_refused_at_once() -> None:
    for name, value in (("mode", "dream"), ("search", "anneal"), ("cameras", "rear")):
        options: dict[str, Any] = {name: value}
        with pytest.raises(InputError, match="expected"):
            imagine.ImaginePlanner(**options)
