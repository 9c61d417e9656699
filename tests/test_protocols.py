"""Comfort, totals, NCAP, HD-Score and AlpaSim by hand, and what every score is printed with."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from drive_wm.eval import metrics as m
from drive_wm.eval.metrics import History, References, Scene
from drive_wm.eval.protocols import (
    PROTOCOLS,
    Protocol,
    config_hash,
    get_protocol,
    human_filter,
    score_rollout,
    stamp,
    thresholds,
)
from drive_wm.types import FloatArray, InputError, Plan, Score, Trajectory
from tests.scenes import drive, still, straight, street

P = "test@1"


# --- comfort ---


def test_every_comfort_bound_is_strict_on_both_sides() -> None:
    moved = {name: np.zeros(3) for name in m.COMFORT_BOUNDS}
    from drive_wm.eval.metrics.comfort import steps_comfortable

    for name, (low, high) in m.COMFORT_BOUNDS.items():
        for value, fine in ((high, 0.0), (high - 1e-6, 1.0), (low, 0.0), (low + 1e-6, 1.0)):
            assert steps_comfortable({**moved, name: np.array([0, value, 0])}).tolist() == [1.0, fine, 1.0], name


@pytest.mark.parametrize("accel, fine", [(1.92, 1.0), (1.94, 0.0)])
def test_yaw_acceleration_is_the_second_derivative_of_the_heading(accel: float, fine: float) -> None:
    t = np.arange(6) * 0.1 - 0.25
    r = drive(np.stack([0 * t, 0 * t, accel * t**2 / 2], -1), ego_speed_mps=np.zeros(6), ego_accel_mps2=np.zeros(6))
    np.testing.assert_allclose(m.motion(r)["yaw_accel_radps2"], accel, atol=1e-7)
    assert m.comfort(r, P).value == fine


@pytest.mark.parametrize("jerk, fine", [(4.12, 1.0), (4.14, 0.0)])
def test_jerk_of_the_whole_acceleration(jerk: float, fine: float) -> None:
    """Longitudinal and whole jerk agree on a straight line, where the tighter bound decides."""
    accel = 0.1 + jerk * np.arange(6) * 0.1
    r = drive(straight(10.0, 6), ego_accel_mps2=accel, ego_speed_mps=np.full(6, 10.0))
    np.testing.assert_allclose(m.motion(r)["jerk_mps3"], jerk, atol=1e-7)
    assert m.comfort(r, P).value == fine


@pytest.mark.parametrize("window, order, derivative", [(8, 2, 0), (15, 2, 1), (5, 2, 1), (5, 3, 2), (41, 2, 0)])
def test_smoothing_is_scipys(window: int, order: int, derivative: int) -> None:
    signal = pytest.importorskip("scipy.signal")
    noise = np.random.default_rng(0).normal(size=(3, 41))
    theirs = signal.savgol_filter(noise, window, order, deriv=derivative, delta=0.1, axis=-1)
    np.testing.assert_allclose(m.savitzky_golay(noise, window, order, derivative), theirs, atol=1e-9)


def test_history_comfort_feels_the_past() -> None:
    r = drive(straight(10.0))
    past = History(np.stack([np.arange(-15, 0) * 1.0, np.zeros(15), np.zeros(15)], -1), np.full(15, 10.0), np.zeros(15))
    assert m.history_comfort(Scene.of(r, References(history=past)), P).value == 1.0
    hard = replace(past, accel_mps2=np.full(15, -5.0))
    found = m.history_comfort(Scene.of(r, References(history=hard)), P)
    assert found.value == 0.0 and m.comfort(r, P).value == 1.0
    assert found.per_step is not None and len(found.per_step) == 41
    assert not m.history_comfort(r, P).valid


@pytest.mark.parametrize("accel, worth", [(0.69, 1.0), (0.71, 0.0)])
def test_two_drives_half_a_second_apart_must_agree(accel: float, worth: float) -> None:
    before = drive(straight(10.0), ego_accel_mps2=np.full(41, accel))
    now = drive(straight(10.0), ego_accel_mps2=np.zeros(41), timestamps_us=500_000 + np.arange(41) * 100_000)
    found = m.extended_comfort(Scene.of(now, References(previous=before)), P)
    assert found.value == worth and found.evidence["worst_rms"]["acceleration"] == pytest.approx(accel)
    late = replace(now, timestamps_us=now.timestamps_us + 100_000)
    assert not m.extended_comfort(Scene.of(late, References(previous=before)), P).valid


def test_consecutive_plans_must_agree() -> None:
    times = np.arange(1, 9) * 0.5
    keep = Plan(Trajectory(times, np.stack([10 * times, 0 * times, 0 * times], -1)))
    stop = Plan(Trajectory(times, np.stack([np.minimum(10 * times, 10), 0 * times, 0 * times], -1)))
    same, torn = [(keep if i in (0, 5) else None) for i in range(41)], [None] * 41
    torn[0], torn[5] = keep, stop  # type: ignore[call-overload]
    assert m.extended_comfort(drive(straight(10.0), plans=tuple(same)), P).value == 1.0
    found = m.extended_comfort(drive(straight(10.0), plans=tuple(torn)), P)
    assert found.value == 0.0 and found.per_step is not None and np.flatnonzero(found.per_step == 0).tolist() == [5]
    assert not m.extended_comfort(drive(straight(10.0), plans=(keep,) + (None,) * 40), P).valid


# --- totals ---


def test_pdms_by_hand() -> None:
    protocol = PROTOCOLS["pdms@1.1"]
    r, pdm = (drive(straight(v, y=-2.0), straight(5.0, y=-2.0), map=street()) for v in (3.75, 5.0))
    scores = score_rollout(r, protocol, References(pdm=pdm))
    assert scores["total"].value == pytest.approx((5 * 0.75 + 5 + 2) / 12)
    crashed = replace(r, agents_xyyaw=still(12.0, -2.0)[:, None], agents_valid=np.ones((41, 1), bool),
                      agents_lwh_m=np.array([[4.0, 2.0, 1.5]]), agent_ids=("a",), agent_categories=("object",))
    half = score_rollout(crashed, protocol, References(pdm=replace(crashed, ego_xyyaw=pdm.ego_xyyaw)))
    assert half["no_at_fault_collision"].value == 0.5 and half["time_to_collision"].value == 0.0
    assert half["total"].value == pytest.approx(0.5 * (5 * 0.75 + 0 + 2) / 12)


def test_no_total_without_what_it_requires_but_zero_for_a_failure() -> None:
    protocol = PROTOCOLS["pdms@1.1"]
    r = drive(straight(5.0, y=-2.0), map=street())
    total = score_rollout(r, protocol)["total"]
    assert not total.valid and total.evidence["missing"] == ["ego_progress"]
    for bad in (replace(r, plan_errors={3: "ValueError: x"}), replace(r, ego_xyyaw=r.ego_xyyaw * np.nan)):
        failed = score_rollout(bad, protocol)
        assert failed["total"].valid and failed["total"].value == 0.0


def test_epdms_by_hand() -> None:
    protocol = PROTOCOLS["epdms@2.2"]
    history = History(straight(4.0, 15, y=-1.4) - [6.0, 0, 0], np.full(15, 4.0), np.zeros(15))
    r = drive(straight(4.0, y=-1.4), straight(5.0, y=-2.0), map=street(),
              plans=tuple(Plan(Trajectory(np.array([4.0]), np.array([[16.0, 0, 0]]))) if i in (0, 5) else None
                          for i in range(41)))
    pdm = drive(straight(5.0, y=-2.0), map=street())
    scores = score_rollout(r, protocol, References(pdm=pdm, history=history))
    assert {n: scores[n].value for n in ("lane_keeping", "history_comfort", "extended_comfort")} == {
        "lane_keeping": 0.0, "history_comfort": 1.0, "extended_comfort": 1.0}
    assert scores["total"].value == pytest.approx((5 * 0.8 + 5 + 0 + 2 + 2) / 16)
    human = drive(straight(5.0, y=-1.4), straight(5.0, y=-2.0), map=street())
    filtered = score_rollout(r, protocol, References(pdm=pdm, human=human))
    assert filtered["lane_keeping"].value == 1.0 and filtered["lane_keeping"].evidence["filtered"] == 0.0
    assert filtered["total"].value == pytest.approx((5 * 0.8 + 5 + 2 + 2) / 14)  # HC is not known here


def test_the_human_excuses_only_what_was_exactly_zero() -> None:
    def named(**values: float) -> dict[str, Score]:
        return {name: Score(name, v, True, P) for name, v in values.items()}

    own = named(on_road=0.0, driving_direction=0.5, lane_keeping=0.0, comfort=0.0)
    out = human_filter(own, named(on_road=0.0, driving_direction=0.0, lane_keeping=0.5, comfort=0.0))
    assert {n: s.value for n, s in out.items()} == {"on_road": 1.0, "driving_direction": 1.0, "lane_keeping": 0.0,
                                                    "comfort": 0.0}


def test_two_stages_by_hand() -> None:
    near = m.Stage(0.8, np.zeros(2), np.array([[0.0, 0.0], [np.sqrt(0.2), 0.0]]), np.array([1.0, 0.0]))
    np.testing.assert_allclose(m.pseudo_weights(near.endpoint_xy, near.starts_xy), [1 / (1 + np.exp(-1)),
                                                                                    1 / (1 + np.exp(1))])
    far = m.Stage(0.6, np.zeros(2), np.array([[100.0, 0.0], [0.0, 100.0]]), np.array([0.5, 0.7]))
    assert far.value == pytest.approx(0.6 * 0.6)
    first = (0.8 / (1 + np.exp(-1)) + 0.36) / 2
    assert m.two_stage([(near, far)]) == pytest.approx(first)
    assert m.two_stage([(near, far), (far, far)]) == pytest.approx((first + 0.36) / 2)


def test_nuplan_by_hand() -> None:
    r = drive(straight(11.115, y=-2.0), straight(22.23, y=-2.0), map=street())
    scores = score_rollout(r, PROTOCOLS["nuplan_cls@1.0"])
    assert scores["total"].value == pytest.approx((5 * 0.5 + 5 + 4 * (1 - 41 / 80) + 2) / 16)


@pytest.mark.parametrize("hit, worth", [(["object"], 0.5), (["object", "object"], 0.0), (["car"], 0.0),
                                        (["bicycle"], 0.0), ([], 1.0)])
def test_nuplan_counts_collisions_by_kind(hit: list[str], worth: float) -> None:
    agents = [(kind, still(12.0 + 6 * i, 0)) for i, kind in enumerate(hit)]
    assert m.counted_collisions(drive(straight(8.0), agents=agents), P).value == worth


# --- NCAP ---


def ncap(ego: FloatArray, agent: FloatArray, speed: float = 10.0) -> Score:
    reference = drive(straight(speed, len(ego)), agents=[("car", agent)])
    return m.ncap(Scene.of(drive(ego, agents=[("car", agent)]), References(unreacting=reference)), P)


def test_ncap_by_hand() -> None:
    wall = still(30.05, 0, steps=61)  # its rear 24.05 m ahead of the bumper
    half = ncap(straight(5.0, 61), wall)
    assert half.value == pytest.approx(4 * (1 - 5 / 10)) and half.evidence["impact"]["time_s"] == pytest.approx(4.85)
    assert half.evidence["reference_impact"]["speed_mps"] == pytest.approx(10.0)
    assert ncap(straight(3.0, 61), wall).value == 5.0
    assert ncap(straight(10.0, 61), wall).value == 0.0 and ncap(straight(12.0, 61), wall).value == 0.0
    frontal = straight(-5.0, 61) + [50.0, 0, 0]
    frontal[:, 2] = np.pi
    assert ncap(straight(4.0, 61), frontal).value == pytest.approx(4 * (1 - 9 / 15))
    gone = ncap(straight(3.0, 61), still(30.0, 20.0, steps=61))
    assert not gone.valid and "does not crash" in gone.evidence["why"]


def test_an_ncap_scene_must_be_hard_and_possible() -> None:
    wall = [("car", still(30.05, 0, steps=61))]
    crash, stop = drive(straight(10.0, 61), agents=wall), drive(straight(3.0, 61), agents=wall)
    assert m.ncap_gate(crash, stop) == []
    assert m.ncap_gate(stop, crash) == ["an unreacting ego does not crash", "an oracle hits a0 after 2.45 s"]


def test_ncap_sees_between_the_steps() -> None:
    flash = still(2.0, -2.2 - 4.4 * 4, steps=11) + np.arange(11)[:, None] * [0, 4.4, 0]  # outside at every whole step
    r = drive(still(0, 0, steps=11), agents=[("car", flash)], agents_lwh_m=np.array([[0.2, 0.2, 1.0]]))
    hit = m.impact(r)
    assert m.contacts(r) == [] and hit is not None
    assert hit["time_s"] == pytest.approx(0.45) and hit["speed_mps"] == pytest.approx(44.0)


def test_ncap_mean_over_runs_scenarios_and_types() -> None:
    runs = {"stationary": {"a": [5.0, 3.0]}, "frontal": {"b": [0.0], "c": [4.0, 4.0]}, "side": {"d": [2.0]}}
    assert m.ncap_mean(runs).value == pytest.approx((4 + 2 + 2) / 3)
    part = m.ncap_mean({"stationary": {"a": [5.0]}})
    assert not part.valid and part.evidence["missing"] == ["frontal", "side"]
    with pytest.raises(InputError, match="rear"):
        m.ncap_mean({"rear": {"a": [1.0]}})


# --- HD-Score and AlpaSim ---


def test_hd_score_by_hand() -> None:
    protocol = PROTOCOLS["hd_score@1.0"]
    half = score_rollout(drive(straight(5.0, y=-2.0), straight(10.0, y=-2.0), map=street()), protocol)
    assert half["total"].value == pytest.approx(0.5)
    off = straight(5.0, y=-2.0)
    off[20:, 1] = -3.2
    quality = m.drive_quality(drive(off, ego_speed_mps=np.full(41, 5.0), ego_accel_mps2=np.zeros(41), map=street()), P)
    assert quality.value == pytest.approx(20 / 41)
    jerky = drive(straight(5.0, y=-2.0), ego_accel_mps2=np.full(41, 3.0), map=street())
    assert m.drive_quality(jerky, P).value == pytest.approx(5 / 7)


@pytest.mark.parametrize("speed, worth", [(4.0, 0.5), (8.0, 1.0), (6.0, 0.75), (12.0, 1.0), (0.0, 0.0)])
def test_alpasim_progress_saturates_at_80_percent(speed: float, worth: float) -> None:
    r = drive(straight(speed, y=-2.0), straight(10.0, y=-2.0), map=street())
    assert score_rollout(r, PROTOCOLS["alpasim@1.0"])["total"].value == pytest.approx(worth)


def test_alpasim_fails_off_the_path_but_not_past_its_end() -> None:
    for y, worth in ((3.9, 1.0), (4.0, 0.0)):
        assert m.stayed_on_path(drive(straight(10.0, y=y), straight(10.0)), P).value == worth
    assert m.stayed_on_path(drive(straight(20.0), straight(5.0)), P).value == 1.0
    assert m.saturated_progress(drive(still(0, 0), straight(1.2)), P).value == 1.0  # the log moved 4.8 m


def test_alpasim_faults_front_and_side_but_not_rear() -> None:
    def worth(ego: FloatArray, agent: FloatArray) -> tuple[float, list[str]]:
        found = m.no_front_or_lateral_collision(drive(ego, agents=[("car", agent)]), P)
        return found.value, [c["kind"] for c in found.evidence["contacts"]]

    assert worth(straight(10.0), still(20.0, 0)) == (0.0, ["front"])
    assert worth(still(0, 0), straight(5.0) + [-8.0, 0, 0]) == (1.0, ["rear"])
    aside = np.stack([np.full(41, 1.5), 6.0 - np.arange(41) * 0.1, np.full(41, 0.0)], -1)
    aside[:, 2] = np.pi / 2  # 2 m wide along x, between the bumpers
    assert worth(still(0, 0), aside) == (0.0, ["lateral"])


# --- what comes with a score ---


def test_every_threshold_is_in_the_hash_and_in_the_stamp() -> None:
    assert len({config_hash(p) for p in PROTOCOLS.values()}) == len(PROTOCOLS)
    protocol = PROTOCOLS["nuplan_cls@1.0"]
    assert thresholds(protocol)["on_road"] == {"tolerance_m": 0.3}
    assert thresholds(protocol)["time_to_collision"]["least_s"] == 0.95
    strict = tuple(replace(t, thresholds=()) if t.name == "on_road" else t for t in protocol.terms)
    other = replace(protocol, terms=strict)
    assert config_hash(other) != config_hash(protocol)
    marked = stamp(protocol, ["b", "a"], 7)
    assert marked["clips"] == ["b", "a"] and marked["seed"] == 7 and marked["config_hash"] == config_hash(protocol)
    assert {"version", "vehicle", "duration_s", "rate_hz", "weights", "clips_hash"} <= set(marked)


def test_protocols_by_short_name_and_with_every_subscore_known() -> None:
    assert get_protocol("epdms") is PROTOCOLS["epdms@2.2"]
    with pytest.raises(InputError, match="did you mean 'pdms@1.1'"):
        get_protocol("pdms@1")
    r = drive(straight(5.0, y=-2.0), map=street())
    for protocol in PROTOCOLS.values():
        assert isinstance(protocol, Protocol) and set(score_rollout(r, protocol)) == {*protocol.subscores, "total"}


def test_totals_equal_their_formula_of_the_scores_shown() -> None:
    r = drive(straight(5.0, y=-2.0), straight(6.0, y=-2.0), map=street())
    for protocol in (p for p in PROTOCOLS.values() if p.tracking != "log"):
        scores = score_rollout(r, protocol, References(pdm=r, unreacting=drive(
            straight(9.0), agents=[("car", still(20, 0))])))
        known = {n: s.value for n, s in scores.items() if s.valid}
        if "total" not in known:
            continue
        weights = {n: w for n, w in protocol.weights if n in known}
        product = np.prod([known[n] for n in protocol.factors if n in known])
        mean = sum(w * known[n] for n, w in weights.items()) / sum(weights.values()) if weights else 1.0
        assert known["total"] == pytest.approx(product * mean), protocol.id


def test_an_untrusted_drive_says_so() -> None:
    trusted = np.ones(41, bool)
    trusted[30:] = False
    scores = score_rollout(drive(straight(5.0), render_valid=trusted), PROTOCOLS["drive@1.0"])
    assert all(s.evidence["trusted_share"] == pytest.approx(30 / 41) for s in scores.values())


def test_a_run_says_by_what_it_was_judged(tmp_path: Path) -> None:
    from drive_wm.eval.command import evaluate

    rows = evaluate("town:110003", tmp_path / "run", planners=["stationary"], protocol="alpasim", duration_s=2.0,
                    workers=1)
    told = json.loads((tmp_path / "run" / "protocol.json").read_text())
    assert "stationary" in {row["planner"] for row in rows}
    assert {"stayed_on_path", "trusted", "excluded"} <= set(rows[0])
    assert told["protocol"] == "alpasim@1.0+2s" and told["clips"] == ["town-110003"]
    assert told["thresholds"]["progress"] == {"saturation": 0.8, "short_log_m": 5.0}
    assert told["config_hash"] in (tmp_path / "run" / "report.html").read_text()
