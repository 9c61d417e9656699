"""The audit: a drive without fault has none, and every fault put into it is counted once, with its length."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drive_wm.cli import run
from drive_wm.datasets.rendered import NoFrames
from drive_wm.datasets.rigs import dash
from drive_wm.datasets.town import generate
from drive_wm.datasets.town.audit import AuditOptions, audit, audit_log, depth_of_overlap, findings_of
from drive_wm.datasets.town.cast import EGO_CENTER_M, EGO_LWH_M
from drive_wm.datasets.town.sights import Moment, junctions_met, varied
from drive_wm.datasets.town.tally import lines, summary, violation_count
from drive_wm.geometry import pose_from_xyzyaw
from drive_wm.types import Cause, Explanation, InputError, Log, Look, Poses, RoadMap, Signal, Track

STEPS, START_US = 101, 7_000_000
TIMES = START_US + 100_000 * np.arange(STEPS)
SECONDS = 0.1 * np.arange(STEPS)
GREEN, RED = 1, 3


def car(name: str, x: Any, y: Any = 4.0, speed: float = 0.0, category: str = "car", **more: Any) -> Track:
    """4 x 2 m, along +x, at x + speed * t."""
    position = np.stack(np.broadcast_arrays(x + speed * SECONDS, y, 0.75, SECONDS)[:3], -1).astype(np.float64)
    given = {"valid": np.ones(STEPS, bool), "yaw_rad": np.zeros(STEPS), **more}
    return Track(name, category, np.array([4.0, 2.0, 1.5]), TIMES, position, given.pop("yaw_rad"), given.pop("valid"),
                 **given)


def drive(*tracks: Track, y: Any = 0.0, signals: tuple[Signal, ...] = (), half_width_m: float = 6.0) -> Log:
    """Ten seconds along +x at 10 m/s, the rear axle from x = 0; a road from -20 to 200 m."""
    path = np.stack(np.broadcast_arrays(10.0 * SECONDS, y, 0.0, SECONDS)[:3], -1).astype(np.float64)
    ring = np.array([[-20, -half_width_m, 0], [200, -half_width_m, 0], [200, half_width_m, 0], [-20, half_width_m, 0]])
    reasons = ((START_US, Explanation("follow", "keep", (Cause("lead vehicle", "ahead"),))),
               (START_US + 500_000, Explanation("stop", "turn left")))
    return Log("hand-made", "test", dash(), Poses(TIMES, pose_from_xyzyaw(path, 0.0 * SECONDS), np.ones(STEPS, bool)),
               NoFrames(), tracks, RoadMap("road", drivable=(ring,)), signals, Look("fog", -0.5), reasons=reasons)


def lamp(x: float, states: list[tuple[float, int]], yaw_rad: float = np.pi) -> Signal:
    """A light whose stop line lies across the ego's lane at x; states: (second, state)."""
    at = np.array([START_US + int(second * 1e6) for second, _ in states])
    state = np.array([state for _, state in states], np.int8)
    line = np.array([[x, -2.0, 0.0], [x, 2.0, 0.0]])
    return Signal("light", np.array([x + 2.0, -3.0, 4.0]), yaw_rad, at, state, stop_line_m=line)


def found(log: Log) -> dict[str, int]:
    return dict(Counter(finding.kind for finding in findings_of(log)))


def test_nothing_wrong() -> None:
    walker = car("walker", 60.0, -5.0 + 1.0 * SECONDS[::-1] * 0, category="pedestrian")
    log = drive(car("parked", 30.0), car("touching", 34.0), car("ahead", 40.0, 0.0, 12.0), walker,
                signals=(lamp(50.0, [(0.0, GREEN)]),))
    assert findings_of(log) == ()


def test_overlap_of_two_others() -> None:
    """Driving past at 10 m/s, 1.5 m to the side of a 2 m wide car: side by side for 4 + 4 m, both ends open."""
    (one,) = findings_of(drive(car("parked", 30.0, 4.0), car("passing", -30.0, 5.5, 10.0)))
    assert (one.kind, one.steps, one.at_s) == ("overlap", 7, 5.7) and "parked and car passing" in one.text
    assert "0.50 m deep" in one.text


def test_boxes_at_an_angle() -> None:
    """Two squares of 2 m, one turned by 45 degrees: corner to side at 1 + sqrt(2) m."""
    size = np.full((3, 3), 2.0)
    at = np.array([[1 + 2**0.5 + away, 0.0, np.pi / 4] for away in (-0.1, 0.0, 0.1)])
    np.testing.assert_allclose(depth_of_overlap(np.zeros((3, 3)), size, at, size), [0.1, 0.0, -0.1], atol=1e-9)


def test_a_bridge_is_no_overlap() -> None:
    above = car("above", 30.0)
    above.position_m[:, 2] += 5.0
    assert found(drive(car("below", 30.0), above)) == {}


def test_collision_of_the_ego() -> None:
    """Lengths (4 + L) / 2 to either side of the standing car; the ego's centre moves a metre a step."""
    reach = (4.0 + EGO_LWH_M[0]) / 2 - 0.02
    steps = int(np.sum(np.abs(EGO_CENTER_M + 10 * SECONDS - 50.0) < reach))
    (one,) = findings_of(drive(car("standing", 50.0, 0.0)))
    assert (one.kind, one.steps) == ("collision", steps) and "the ego and car standing" in one.text


@pytest.mark.parametrize("step_m, kinds", [(0.2, {}), (8.0, {"teleport": 1})])
def test_teleport_of_a_car(step_m: float, kinds: dict[str, int]) -> None:
    """A car without velocities may do 60 m/s, so 6 m in a step; one with velocities may not leave them by 0.33 m."""
    jump = step_m * (SECONDS > 5.05)
    assert found(drive(car("jumper", 60.0 + jump))) == kinds


def test_teleport_against_its_own_velocity_and_turning() -> None:
    still = np.zeros((STEPS, 2))
    assert found(drive(car("a", 60.0 + 0.4 * (SECONDS > 5.05), velocity_mps=still))) == {"teleport": 1}
    assert found(drive(car("b", 60.0, yaw_rad=np.where(SECONDS > 5.05, 0.5, 0.0)))) == {}
    assert found(drive(car("c", 60.0, yaw_rad=np.where(SECONDS > 5.05, np.pi, 0.0)))) == {"teleport": 1}
    assert found(drive(car("d", 60.0, category="pedestrian", yaw_rad=np.where(SECONDS > 5.05, np.pi, 0.0)))) == {}
    hole = np.abs(SECONDS - 5.05) > 0.1
    assert found(drive(car("e", 150.0 + 8.0 * (SECONDS > 5.05), valid=hole))) == {}  # unseen between


def test_teleport_of_the_ego() -> None:
    (one,) = findings_of(drive(y=np.where(SECONDS > 5.05, -3.0, 3.0) * 2, half_width_m=9.0))
    assert (one.kind, one.at_s) == ("teleport", 5.0) and "the ego" in one.text


@pytest.mark.parametrize("x, kinds", [(30.0, {"appearance": 2}), (150.0, {})])
def test_appearance_and_vanishing(x: float, kinds: dict[str, int]) -> None:
    there = (SECONDS > 0.95) & (SECONDS < 2.05)
    assert found(drive(car("ghost", x, valid=there))) == kinds


def crossing_s(x: float) -> float:
    return (x - EGO_CENTER_M - EGO_LWH_M[0] / 2) / 10.0


def test_red_lights() -> None:
    at = crossing_s(50.0)
    assert found(drive(signals=(lamp(50.0, [(0.0, RED)]),))) == {"red light": 1}
    assert found(drive(signals=(lamp(50.0, [(0.0, GREEN), (at - 0.01, RED)]),))) == {"red light": 1}
    assert found(drive(signals=(lamp(50.0, [(0.0, GREEN), (at + 0.01, RED)]),))) == {}
    assert found(drive(signals=(lamp(50.0, [(0.0, RED), (at - 0.01, GREEN)]),))) == {}
    assert found(drive(signals=(lamp(50.0, [(0.0, RED)], yaw_rad=0.0),))) == {}  # it faces the other way
    assert found(drive(signals=(lamp(150.0, [(0.0, RED)]),))) == {}  # not reached


def test_off_road() -> None:
    """The road's edge at 1.5 m: the ego's side, 0.875 m from its middle, is beyond it while y > 0.625 + 0.02."""
    drift = 1.0 * np.exp(-((SECONDS - 5.0) ** 2))
    steps = int(np.sum(drift + EGO_LWH_M[1] / 2 > 1.5 + 0.02))
    (one,) = findings_of(drive(y=drift, half_width_m=1.5))
    assert (one.kind, one.steps) == ("off road", steps)
    assert f"{1.0 + EGO_LWH_M[1] / 2 - 1.5:.2f} m beyond" in one.text


def test_sums() -> None:
    bad = drive(car("a", 50.0, 0.0), car("b", 90.0, 0.0), signals=(lamp(50.0, [(0.0, RED)]),))
    audits = [audit_log(drive(car("parked", 30.0))), audit_log(bad)]
    told = summary(audits)
    assert told["logs"] == 2 and told["km"] == pytest.approx(0.2) and told["ego_stands_share"] == 0.0
    assert violation_count(audits) == len(lines(audits)) == told["violations_in_all"] == 3
    counts = {row["violation"]: (row["count"], row["logs"]) for row in told["violations"]}
    assert counts == {"overlap": (0, 0), "teleport": (0, 0), "appearance": (0, 0), "collision": (2, 1),
                      "red light": (1, 1), "off road": (0, 0)}
    shares = {row["percent_of_steps"]: row for row in told["manoeuvres"]}
    assert shares["follow"]["keep"] == shares["stop"]["turn left"] == 50.0 and shares["all"]["all"] == 100.0
    assert told["weather"] == [{"weather": "fog", "time_of_day": "night", "logs": 2, "percent": 100.0}]
    assert told["agents"] == [{"agent": "car", "tracks": 3, "logs": 2}]


def test_standing_time() -> None:
    log = drive()
    log.ego.world_from_body[50:, 0, 3] = log.ego.world_from_body[50, 0, 3]
    assert audit_log(log).stood_s == pytest.approx(5.0)
    with pytest.raises(InputError, match="no valid ego pose"):
        audit_log(replace(log, ego=replace(log.ego, valid=np.zeros(STEPS, bool))))


def test_a_town_log_with_one_fault_of_each_kind() -> None:
    """The same faults in generated traffic are found beside nothing else."""
    log = generate(110003, duration_s=6.0)
    assert findings_of(log) == ()
    index, track = next((i, t) for i, t in enumerate(log.tracks) if t.id.startswith("parked"))
    twin = replace(track, id="twin", position_m=track.position_m + [0.3, 0.0, 0.0])
    shifted = track.position_m.copy()
    shifted[30:, 2] += 50.0  # high above everything, so that it only jumps
    shifted[30:, 0] += 9.0
    assert found(replace(log, tracks=(*log.tracks, twin))) == {"overlap": 1}
    jumped = replace(track, position_m=shifted)
    assert found(replace(log, tracks=(*log.tracks[:index], jumped, *log.tracks[index + 1:]))) == {"teleport": 1}
    assert log.map is not None
    nowhere = replace(log, map=replace(log.map, drivable=(log.map.drivable[0][:3] + 5000.0,), carparks=()))
    (one,) = findings_of(nowhere)
    assert (one.kind, one.steps) == ("off road", len(log.ego))


def test_audit_of_a_source_on_two_workers_and_its_speed() -> None:
    options = AuditOptions(draw_moments=2)
    one, two = (audit("town:110001-110002", workers=workers, options=options) for workers in (1, 2))
    assert [a.log_id for a in one] == ["town-110001", "town-110002"]
    assert [(a.findings, a.moments, a.manoeuvres) for a in one] == [(a.findings, a.moments, a.manoeuvres) for a in two]
    assert one[0].drawn == 2 * 6 and one[1].drawn == 0 and summary(one)["drawn_frames_per_s_core"] > 0
    assert one[0].frames == 201 * 6


def test_varied_choice_prefers_what_was_not_shown() -> None:
    moments = [Moment(f"log-{i}", 0, frozenset({"weather: clear", f"sees: {'bus' if i == 7 else 'car'}"}))
               for i in range(9)]
    chosen = varied([*moments, Moment("log-3", 1, frozenset({"weather: fog"}))], 3)
    assert [m.log_id for m in chosen[:2]] == ["log-7", "log-0"] and len({m.log_id for m in chosen}) == 3


def test_junctions_from_the_map() -> None:
    box = np.array([[48.0, -4, 0], [56, -4, 0], [56, 4, 0], [48, 4, 0]])
    log = drive(signals=(lamp(46.0, [(0.0, GREEN)]),))
    assert log.map is not None
    lit = replace(log, map=replace(log.map, intersections=(box, box + [0.0, 50.0, 0.0])))
    assert junctions_met(lit) == ("signal",)
    assert junctions_met(replace(lit, metadata={"junctions": ["roundabout"]})) == ("roundabout",)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "audit"
    line = f"data audit --source town:110003 --sheet 1 --workers 1 --fail-on-violation --out {out}"
    assert run(line.split()) == 0 and "expert" not in capsys.readouterr().err
    said = json.loads((out / "summary.json").read_text())
    assert said["complete"] and said["results"]["logs"] == 1 and said["results"]["violations_in_all"] == 0
    assert said["files"] == ["report.html", "scenes.png", "violations.parquet"]


@pytest.mark.slow
def test_a_hundred_town_logs_hold_no_violation() -> None:
    assert lines(audit("town:110000-110099", workers=2)) == []
