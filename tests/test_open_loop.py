"""Plans against the log, in both conventions, and the collision grid with and without the footprint's turn."""

from dataclasses import replace

import numpy as np
import pytest

from drive_wm.eval import metrics as m
from drive_wm.eval.evaluate import evaluate
from drive_wm.eval.metrics.base import failed
from drive_wm.eval.protocols import PROTOCOLS, score_rollout
from drive_wm.types import FloatArray, Plan, Rollout, Trajectory
from tests.scenes import drive, straight

P = "test@1"
TIMES = np.arange(1, 9) * 0.5


def on_the_log(plan: FloatArray | None, agents: list[FloatArray] | None = None, speed: float = 10.0,
               steps: int = 61) -> Rollout:
    """6 s at constant speed along +x, with one plan (8, 3) made at the start."""
    plans = (Plan(Trajectory(TIMES, plan)) if plan is not None else None,) + (None,) * (steps - 1)
    return drive(straight(speed, steps), agents=[("car", np.tile(a, (steps, 1))) for a in agents or []], plans=plans)


def along(speed: float = 10.0, y: float = 0.0, yaw: float = 0.0) -> FloatArray:
    return np.stack([speed * TIMES, np.full(8, y), np.full(8, yaw)], -1)


def test_the_two_conventions_of_l2() -> None:
    slow = on_the_log(along(9.0))  # 1 m behind after each second
    at, upto = (m.l2(slow, P, cumulative=c) for c in (False, True))
    assert [at.evidence[f"{s} s"] for s in (1, 2, 3)] == pytest.approx([1.0, 2.0, 3.0]) and at.value == pytest.approx(2)
    assert [upto.evidence[f"{s} s"] for s in (1, 2, 3)] == pytest.approx([0.75, 1.25, 1.75])
    assert upto.value == pytest.approx(1.25) and upto.evidence["samples"] == 1


def test_a_plan_off_the_log_or_too_short_or_too_late_is_no_sample() -> None:
    good = on_the_log(along())
    assert m.l2(good, P, cumulative=False).value == pytest.approx(0.0)
    off = m.l2(replace(good, ego_xyyaw=good.ego_xyyaw + [0, 0.2, 0]), P, cumulative=False)
    assert not off.valid and np.isnan(off.value)
    short = Plan(Trajectory(TIMES[:4], along()[:4]))
    assert not m.l2(replace(good, plans=(short,) + (None,) * 60), P, cumulative=False).valid
    late = replace(good, plans=(None,) * 31 + good.plans[:1] + (None,) * 29)  # 2.9 s of log left
    assert not m.l2(late, P, cumulative=False).valid


def test_a_failed_planner_gets_the_worst() -> None:
    bad = replace(on_the_log(None), plan_errors={0: "ValueError: x"})
    scores = score_rollout(bad, PROTOCOLS["l2_uniad@1.0"])
    assert failed(bad) and scores["total"].value == m.FAILED_L2_M and scores["collision_rate"].value == 1.0


def test_a_collision_at_one_second_in_both_conventions() -> None:
    aside = on_the_log(along(y=3.0), [np.array([10.5, 3.0, 0.0])])  # the plan is beside the log; the box is met at 1 s
    at, upto = (m.collision_rate(aside, P, cumulative=c) for c in (False, True))
    assert [at.evidence[f"{s} s"] for s in (1, 2, 3)] == [1.0, 0.0, 0.0] and at.value == pytest.approx(1 / 3)
    assert [upto.evidence[f"{s} s"] for s in (1, 2, 3)] == pytest.approx([1 / 2, 1 / 4, 1 / 6])


def test_times_at_which_the_log_itself_collides_are_left_out() -> None:
    wall = on_the_log(along(), [np.array([10.5, 0.0, 0.0])])
    assert m.collision_rate(wall, P, cumulative=False).value == 0.0


def test_only_the_turned_footprint_meets_a_car_beside() -> None:
    turned = along()
    turned[1, 2] = np.pi / 2  # at 1 s across the road: from 1.542 m to the right to 2.542 m to the left
    beside = on_the_log(turned, [np.array([10.0, 2.8, 0.0])])  # its side at 1.8 m
    assert m.collision_rate(beside, P, cumulative=False).value == 0.0
    true = m.collision_rate(beside, P, cumulative=False, with_yaw=True)
    assert true.evidence["1 s"] == 1.0 and true.evidence["2 s"] == 0.0


def test_agents_beyond_the_grid_are_not_seen() -> None:
    far = along(20.0)
    met = [m.collision_rate(on_the_log(far, [np.array([x, 0.0, 0.0])]), P, cumulative=False).value for x in (40, 60)]
    assert met == [pytest.approx(1 / 3), 0.0]  # at 2 s, and at 3 s beyond 50 m


def test_the_loop_keeps_the_ego_on_the_log() -> None:
    from drive_wm.datasets.town import generate

    log = generate(3, duration_s=8.0)
    found = {r.row["planner"]: r for r in evaluate([log], ["log_replay", "stationary"], [], "l2_stp3")}
    assert found["log_replay"].row["total"] == pytest.approx(0.0, abs=0.05)
    assert found["stationary"].row["total"] > found["log_replay"].row["total"]
    for result in found.values():
        np.testing.assert_allclose(result.rollout.ego_xyyaw, result.rollout.logged_xyyaw, atol=1e-6)
        assert result.scores["l2"].evidence["off_log"] == 0 and result.scores["l2"].evidence["samples"] == 7
