from dataclasses import replace

import numpy as np
import pytest

from drive_wm.eval import metrics as m
from drive_wm.eval.metrics import Scene
from drive_wm.eval.protocols import PROTOCOLS, config_hash, get_protocol, score_rollout, total_score
from drive_wm.eval.vehicle import make_vehicle
from drive_wm.types import InputError, RoadMap, Rollout
from tests.scenes import drive, still, straight, street

P = "drive@1.0"


# --- overlap ---


def test_separating_axes() -> None:
    square = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], float)
    diamond = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], float) * np.sqrt(2)
    assert m.boxes_overlap(square, square + [1.9, 0.0]) and not m.boxes_overlap(square, square + [2.1, 0.0])
    assert not m.boxes_overlap(square, square + [2.0, 0.0])  # touching
    assert m.boxes_overlap(square, diamond + [1.6, 1.6]) and not m.boxes_overlap(square, diamond + [2.1, 2.1])
    many = np.stack([square + [d, 0.0] for d in (0.0, 1.5, 3.0)])
    assert m.boxes_overlap(square, many).tolist() == [True, True, False]


# --- collisions: the ego's front bumper starts at x = 4 ---


def test_front_collision_is_at_fault_and_dated() -> None:
    ahead = straight(2.0) + [12.0, 0, 0]  # rear bumper at 10, ego closes at 8 m/s: contact after 0.75 s
    found = m.contacts(drive(straight(10.0), agents=[("car", ahead)]))
    assert [(c["step"], c["kind"], c["at_fault"]) for c in found] == [(8, "front", True)]
    score = m.no_at_fault_collision(drive(straight(10.0), agents=[("car", ahead)]), P)
    assert score.value == 0.0 and score.per_step is not None and score.per_step.tolist() == [1.0] * 8 + [0.0] * 33


def test_rear_collision_is_not_the_egos_fault() -> None:
    behind = straight(8.0) + [-8.0, 0, 0]
    r = drive(straight(3.0), agents=[("car", behind)])
    assert [(c["kind"], c["at_fault"]) for c in m.contacts(r)] == [("rear", False)]
    assert m.no_at_fault_collision(r, P).value == 1.0


def test_standing_ego_is_not_at_fault_and_standing_agent_makes_it_so() -> None:
    towards = straight(5.0, yaw=np.pi) + [15.0, 0, 0]
    assert [c["kind"] for c in m.contacts(drive(still(0, 0), agents=[("car", towards)]))] == ["stopped ego"]
    hit = m.contacts(drive(straight(5.0), agents=[("car", still(12.0, 1.5))]))
    assert [(c["kind"], c["at_fault"]) for c in hit] == [("stopped agent", True)]


def test_annotation_noise_does_not_make_a_parked_car_move() -> None:
    noisy = still(12.0, 0.0) + np.random.default_rng(0).normal(0, 0.01, (41, 1)) * [1, 0, 0]
    assert Scene.of(drive(straight(5.0), agents=[("car", noisy)])).agent_speeds[8:].mean() < m.STOPPED_MPS
    assert Scene.of(drive(straight(5.0), agents=[("car", still(12.0, 0.0))])).agent_speeds.max() == 0.0


def test_side_collision_depends_on_where_the_ego_is() -> None:
    aside = np.stack([straight(5.0)[:, 0] + 0.5, 5.0 - np.arange(41) * 0.1, np.zeros(41)], -1)  # into the ego's flank
    in_lane, between = straight(5.0, y=-2.0), straight(5.0, y=0.0)
    shifted = aside - [0, 2.0, 0]
    kept = m.contacts(drive(in_lane, agents=[("car", shifted)], map=street()))
    strayed = m.contacts(drive(between, agents=[("car", aside)], map=street()))
    blind = m.contacts(drive(in_lane, agents=[("car", shifted)]))
    assert [(c["kind"], c["at_fault"]) for c in kept] == [("lateral", False)]
    assert [(c["kind"], c["at_fault"]) for c in strayed] == [("lateral", True)]
    assert [(c["kind"], c["at_fault"]) for c in blind] == [("lateral", True)]


def test_static_objects_cost_half_and_overlap_at_the_start_nothing() -> None:
    r = drive(straight(5.0), agents=[("object", still(15.0, 0.0)), ("car", still(2.0, 0.0))])
    assert [c["kind"] for c in m.contacts(r)] == ["at start", "stopped agent"]
    assert m.no_at_fault_collision(r, P).value == 0.5


def test_an_invalid_agent_is_not_there() -> None:
    r = drive(straight(5.0), agents=[("car", still(12.0, 0.0))])
    assert m.no_at_fault_collision(replace(r, agents_valid=np.zeros((41, 1), bool)), P).value == 1.0


def test_time_to_collision_sees_the_crash_before_it_happens() -> None:
    ahead = still(30.0, 0.0)
    score = m.time_to_collision(drive(straight(10.0), agents=[("car", ahead)]), P)
    assert score.value == 0.0 and score.evidence["first_step"] == 16  # 24 m to go, 9 m in 0.9 s
    assert m.time_to_collision(drive(straight(10.0, steps=11), agents=[("car", ahead[:11])]), P).value == 1.0


# --- road ---


def test_one_corner_off_the_road_is_off_the_road() -> None:
    assert m.on_road(drive(straight(5.0, y=2.9), map=street()), P).value == 1.0
    off = m.on_road(drive(straight(5.0, y=3.1), map=street()), P)
    assert off.value == 0.0 and off.valid and off.evidence["first_step_off"] == 0
    turned = drive(straight(1.0, y=2.9), map=street())
    turned.ego_xyyaw[20, 2] = 0.1  # front-left corner at y = 2.9 + 4 sin 0.1 + 1 cos 0.1 = 4.29
    assert m.on_road(turned, P).evidence["first_step_off"] == 20


def test_the_road_is_a_union_and_unknown_without_a_map() -> None:
    halves = tuple(np.array([[a, -4, 0], [b, -4, 0], [b, 4, 0], [a, 4, 0]], float) for a, b in ((-50, 6), (6, 100)))
    road = RoadMap("two", drivable=halves[:1], carparks=halves[1:])
    assert m.on_road(drive(straight(5.0), map=road), P).value == 1.0
    unknown = m.on_road(drive(straight(5.0)), P)
    assert not unknown.valid and np.isnan(unknown.value)


def test_several_lanes_means_none_holds_the_whole_ego() -> None:
    assert Scene.of(drive(straight(5.0, y=0.0), map=street())).in_several_lanes.all()
    assert not Scene.of(drive(straight(5.0, y=-2.0), map=street())).in_several_lanes.any()


# --- progress ---


def test_progress_is_the_share_of_the_logs_way() -> None:
    logged = straight(10.0)
    assert m.progress(drive(straight(5.0), logged), P).value == pytest.approx(0.5)
    assert m.progress(drive(straight(12.0), logged), P).value == 1.0
    assert m.progress(drive(still(0, 0), logged), P).value == 0.0
    assert m.progress(drive(straight(10.0, yaw=np.pi), logged), P).value == 0.0


def test_no_progress_far_from_the_path_and_none_asked_of_a_standing_log() -> None:
    away = straight(10.0, yaw=0.5)
    score = m.progress(drive(away, straight(10.0)), P)
    assert 0.1 < score.value < 0.25 and score.evidence["left_path_at"] == 9  # 4 m / sin 0.5 = 8.3 m
    assert m.progress(drive(still(0, 0), straight(1.0)), P).value == 1.0  # 4 m in 4 s


def test_progress_follows_a_line_that_crosses_itself() -> None:
    turn = np.linspace(0, 2 * np.pi, 41)
    loop = np.stack([20 * np.sin(turn), 20 - 20 * np.cos(turn), turn], -1)
    assert m.progress(drive(loop, loop), P).value == pytest.approx(1.0)
    assert m.progress(drive(loop[:1].repeat(41, 0), loop), P).value == pytest.approx(0.0)


# --- comfort ---


def driven(accel: float, steps: int = 61) -> Rollout:
    t = np.arange(steps) * 0.1
    ego = np.stack([15 * t + accel * t**2 / 2, 0 * t, 0 * t], -1)
    return drive(ego, ego_speed_mps=15 + accel * t, ego_accel_mps2=np.full(steps, accel))


@pytest.mark.parametrize("accel, fine", [(2.39, 1.0), (2.41, 0.0), (-4.04, 1.0), (-4.06, 0.0), (2.40, 0.0)])
def test_longitudinal_acceleration_bounds_are_strict(accel: float, fine: float) -> None:
    assert m.comfort(driven(accel), P).value == fine


@pytest.mark.parametrize("rate, speed, fine", [(0.94, 4.0, 1.0), (0.96, 4.0, 0.0), (0.5, 9.7, 1.0), (0.5, 9.8, 0.0)])
def test_yaw_rate_and_lateral_acceleration_bounds(rate: float, speed: float, fine: float) -> None:
    t = np.arange(41) * 0.1
    ego = np.stack([speed / rate * np.sin(rate * t), speed / rate * (1 - np.cos(rate * t)), rate * t], -1)
    r = drive(ego, ego_speed_mps=np.full(41, speed), ego_accel_mps2=np.zeros(41))
    assert m.comfort(r, P).value == fine


@pytest.mark.parametrize("jerk, fine", [(4.12, 1.0), (4.14, 0.0)])
def test_longitudinal_jerk_bound(jerk: float, fine: float) -> None:
    accel = -2.0 + jerk * np.arange(11) * 0.1  # to about 2.1 in one second, inside the bounds of acceleration
    r = drive(straight(10.0, steps=11), ego_accel_mps2=accel, ego_speed_mps=np.full(11, 10.0))
    assert m.motion(r)["longitudinal_jerk_mps3"] == pytest.approx(np.full(11, jerk))
    assert m.comfort(r, P).value == fine


def test_savitzky_golay_is_exact_on_its_polynomials_and_agrees_with_scipy() -> None:
    t = np.arange(30) * 0.1
    np.testing.assert_allclose(m.savitzky_golay(3 + 2 * t - t**2, 5, 2, 1), 2 - 2 * t, atol=1e-9)
    np.testing.assert_allclose(m.savitzky_golay(t**3, 5, 3, 2), 6 * t, atol=1e-8)
    signal = pytest.importorskip("scipy.signal")
    noise = np.random.default_rng(0).normal(size=30)
    theirs = signal.savgol_filter(noise, 15, 2, deriv=1, delta=0.1)
    np.testing.assert_allclose(m.savitzky_golay(noise, 15, 2, 1), theirs, atol=1e-9)


# --- the log, failures, totals ---


def test_distance_to_the_log_at_three_times() -> None:
    score = m.l2_to_log(drive(straight(9.0), straight(10.0)), P)
    assert score.value == pytest.approx(2.0)
    assert [score.evidence[f"{s} s"] for s in (1, 2, 3)] == pytest.approx([1.0, 2.0, 3.0])


def test_a_failed_or_shortened_drive_gets_the_worst_and_is_not_dropped() -> None:
    good = drive(straight(10.0), map=street())
    raised = replace(good, plan_errors={5: "ValueError: x"})
    for bad in (raised, replace(good, completed=False), replace(good, planned_steps=50)):
        scores = score_rollout(bad, PROTOCOLS[P])
        assert scores["total"].value == 0.0 and scores["total"].valid
        assert scores["l2_to_log"].value == m.FAILED_L2_M
        assert all(scores[name].value == 0.0 for name in ("no_at_fault_collision", "on_road", "progress", "comfort"))


def test_totals_follow_from_the_reported_scores() -> None:
    protocol = PROTOCOLS[P]
    scores = score_rollout(drive(straight(5.0), straight(10.0), map=street()), protocol)
    assert scores["total"].value == pytest.approx((5 * 0.5 + 2 * 1.0) / 7)
    unknown = score_rollout(drive(straight(5.0), straight(10.0)), protocol)
    assert unknown["total"].evidence["left_out"] == ["on_road"] and unknown["total"].value == scores["total"].value
    assert total_score(scores, protocol).value == scores["total"].value
    assert score_rollout(drive(still(0, 0), straight(10.0), map=street()), protocol)["total"].value == 0.0


def test_protocols_are_named_and_hashed() -> None:
    protocol = get_protocol("drive@1.0")
    assert protocol.id == P and make_vehicle(protocol.vehicle)
    assert config_hash(protocol) == config_hash(replace(protocol)) != config_hash(replace(protocol, duration_s=8.0))
    assert protocol.formula == "no_at_fault_collision * on_road * made_progress * (5 progress + 2 comfort) / 7"
    with pytest.raises(InputError, match="drive@1.0"):
        get_protocol("drive@9")
