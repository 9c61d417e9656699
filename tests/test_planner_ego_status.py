"""The planner that sees nothing: its samples, its training in small, and the weights that come along."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from drive_wm.datasets.town import generate
from drive_wm.geometry import pose_from_xyyaw
from drive_wm.planners.ego_status import FEATURES, WEIGHTS, EgoStatusPlanner
from drive_wm.planners.ego_status_training import Recipe, Samples, fit, gathered, open_loop, samples_of, train
from drive_wm.planners.registry import make_planner
from drive_wm.types import Camera, InputError, Log, Observation, Poses, Rig

RIG = Rig("one", (Camera("front", 8, 4, np.eye(3), np.eye(4)),))


class NoFrames:
    rendered = True

    def timestamps_us(self, camera: str) -> np.ndarray:
        return np.zeros(0, dtype=np.int64)

    def read(self, camera: str, timestamp_us: int) -> np.ndarray:
        raise AssertionError("no image is needed")


def straight(speed: float, seconds: float = 8.0) -> Log:
    times = np.arange(round(seconds * 10) + 1) * 100_000
    x = speed * times / 1e6
    ego = Poses(times, pose_from_xyyaw(np.stack([x, 0 * x, 0 * x], 1)), np.ones(len(times), bool))
    return Log(f"straight-{speed:g}", "test", RIG, ego, NoFrames())


def test_samples_of_a_steady_drive() -> None:
    samples = samples_of(straight(6.0))
    count = round((8.0 - 1.5 - 4.0) / 0.2) + 1
    assert samples.features.shape == (count, FEATURES) and samples.speed_mps == pytest.approx(np.full(count, 6.0))
    first = samples.features[0]
    assert first[:4] == pytest.approx([0.6, 0.0, 0.6, 0.0], abs=1e-5)  # speed / 10, no acceleration, past actions
    assert first[8:10] == pytest.approx([0.25, 0.0], abs=1e-5) and first[-1] == 1.0  # the route 5 m ahead, / 20
    np.testing.assert_allclose(samples.xyyaw[0, :, 0], 6.0 * np.arange(1, 9) * 0.5, atol=1e-6)
    assert len(samples_of(straight(6.0, 5.0)).features) == 0  # too short


def test_a_start_beside_the_log_comes_back_to_it_in_two_seconds() -> None:
    beside = samples_of(straight(6.0), copies=3, seed=1)
    count = len(beside.features) // 4
    moved = beside.xyyaw[count:]
    heading = moved[:, -1, 2]  # the log's heading, seen from the start
    side = moved[:, :, 1] * np.cos(heading)[:, None] - moved[:, :, 0] * np.sin(heading)[:, None]
    assert np.abs(side[:, -1]).max() > 0.3 and np.abs(side[:, 4:] - side[:, -1:]).max() < 1e-6


def test_it_learns_steady_driving_in_a_moment_and_the_same_seed_gives_the_same_weights() -> None:
    samples = gathered([straight(v) for v in (2.0, 5.0, 9.0)], 0, 0)
    recipe = Recipe(steps=150, batch=32, copies=0)
    nets = [fit(samples, recipe, seed=3) for _ in range(2)]
    rows = open_loop(nets[0], samples)
    assert rows[0]["l2_3s_m"] < 1.0 and rows[1] == {"planner": "constant_velocity", "l2_1s_m": 0.0, "l2_2s_m": 0.0,
                                                     "l2_3s_m": 0.0, "l2_4s_m": 0.0}
    for a, b in zip(*(net.parameters() for net in nets)):
        assert (a == b).all()
    with pytest.raises(InputError, match="5.5 s"):
        gathered([straight(2.0, 4.0)], 0, 0)


def test_the_shipped_weights_beat_constant_velocity_where_they_never_were() -> None:
    assert sum(f.stat().st_size for f in WEIGHTS.iterdir()) < 200_000
    card = (WEIGHTS / "README.md").read_text()
    assert "town:0-239" in card and "constant_velocity" in card and "drive-wm train ego-status" in card
    samples = samples_of(generate(100_021))
    ours, still = open_loop(EgoStatusPlanner().net, Samples(samples.features, samples.xyyaw, samples.speed_mps))
    assert ours["l2_3s_m"] < 0.8 * still["l2_3s_m"]


def test_it_plans_from_any_past_and_turns_with_the_route() -> None:
    planner = make_planner("ego_status")
    ahead = np.stack([np.arange(0.0, 90.0, 2.0), np.zeros(45)], 1)
    bend = np.stack([20 * np.sin(np.arange(45) / 30), 20 - 20 * np.cos(np.arange(45) / 30)], 1)
    past = Observation(np.array([0]), RIG, np.zeros((1, 3)), 6.0, np.zeros((0, 2)), np.eye(4), route=ahead)
    plan = planner.plan(past)
    assert plan.actions is not None and plan.actions.shape == (8, 2) and 8.0 < plan.trajectory.xyyaw[-1, 0] < 40.0
    left = planner.plan(replace(past, route=bend, actions=np.array([[6.0, 0.0], [6.0, 0.0]]), accel_mps2=0.0))
    assert left.trajectory.xyyaw[-1, 1] > 3.0 > abs(plan.trajectory.xyyaw[-1, 1])
    assert np.isfinite(planner.plan(replace(past, route=None)).trajectory.xyyaw).all()
    with pytest.raises(InputError, match="train ego-status"):
        EgoStatusPlanner("nowhere")


def test_the_recipe_writes_what_the_planner_reads(tmp_path: Path) -> None:
    import drive_wm.datasets.sources as sources

    class Made:
        def log_ids(self) -> list[str]:
            return ["a"]

        def load(self, log_id: str) -> Log:
            return straight(4.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "open_source", lambda source: Made())
        said = train("made:", tmp_path / "run", check="made:", recipe=Recipe(steps=2, batch=4))
    assert said["samples"] == 13 * 3 and (tmp_path / "run" / "summary.json").is_file()
    assert EgoStatusPlanner(tmp_path / "run").net is not None
