"""Reruns and scenarios: the past stays what it was, the future depends on what was changed, and every scenario can be
solved, but not by going on as before."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from drive_wm.datasets.town import TownSource, generate
from drive_wm.datasets.town.cast import EGO_CENTER_M, EGO_LWH_M
from drive_wm.datasets.town.overlap import boxes_meet
from drive_wm.datasets.town.rerun import causes_by_removal, replay_of, rerun
from drive_wm.datasets.town.scenarios import KINDS, scenario
from drive_wm.geometry import project_to_polyline, xyyaw_from_pose
from drive_wm.types import InputError, Log

SEED, AT_S = 300, 6.0


@lru_cache(maxsize=32)
def made(kind: str, seed: int) -> Log:
    return scenario(kind, seed)


def moved(a: Log, b: Log) -> np.ndarray:
    """(T,) metres between the egos of two logs."""
    delta = a.ego.world_from_body[:, :2, 3] - b.ego.world_from_body[:, :2, 3]
    return np.hypot(delta[:, 0], delta[:, 1])


def met(log: Log, center: np.ndarray, name: str) -> bool:
    """Whether boxes of the ego's size at centres (T, 3) meet the box of a track, or of what belongs to it."""
    hit = False
    for track in log.tracks:
        if track.id == name or track.id.startswith(f"{name}-"):
            other = np.concatenate([track.position_m[:, :2], track.yaw_rad[:, None]], -1)
            own = np.tile(np.array(EGO_LWH_M[:2]), (len(center), 1))
            size = np.tile(np.asarray(track.size_lwh_m)[:2], (len(center), 1))
            hit |= bool((boxes_meet(center, own, other, size) & track.valid).any())
    return hit


def centers(log: Log) -> np.ndarray:
    pose = xyyaw_from_pose(log.ego.world_from_body)
    pose[:, :2] += EGO_CENTER_M * np.stack([np.cos(pose[:, 2]), np.sin(pose[:, 2])], -1)
    return pose


def constant_velocity(log: Log) -> np.ndarray:
    """Box centres (T, 3) of an ego that goes straight on at the speed of the first step."""
    pose = centers(log)
    step = pose[1, :2] - pose[0, :2]
    start = np.tile(pose[0], (len(pose), 1))
    start[:, :2] += np.arange(len(pose))[:, None] * step
    return start


# --- reruns -------------------------------------------------------------------------------------------------------


def test_nothing_changed_nothing_changes() -> None:
    original, again = generate(SEED), rerun(SEED, at_s=AT_S)
    assert again.ego.world_from_body.tobytes() == original.ego.world_from_body.tobytes()
    assert [t.position_m.tobytes() for t in again.tracks] == [t.position_m.tobytes() for t in original.tracks]
    assert again.reasons == original.reasons and again.metadata["rerun"]["at_s"] == AT_S


def test_the_past_is_kept_bit_by_bit_and_the_action_is_obeyed_after_it() -> None:
    original = generate(SEED)
    braked = rerun(original, at_s=AT_S, ego="brake")
    k = int(AT_S * 10) + 1
    assert (braked.ego.world_from_body[:k] == original.ego.world_from_body[:k]).all()
    for track in braked.tracks:
        old = next(t for t in original.tracks if t.id == track.id)
        assert (track.position_m[:k] == old.position_m[:k]).all()
    speed = np.hypot(*np.diff(braked.ego.world_from_body[:, :2, 3], axis=0).T) * 10
    v = speed[k - 2]
    assert speed[k + 4] == pytest.approx(max(v - 4.0 * 0.55, 0.0), abs=0.35)  # 4 m/s2, middle of the sixth step
    assert speed[-1] == 0.0 or v > 40.0


def test_actions_given_at_another_rate_are_driven() -> None:
    turned = rerun(SEED, at_s=AT_S, ego=np.array([[5.0, 0.0], [5.0, 0.1]]), rate_hz=2.0)
    pose = xyyaw_from_pose(turned.ego.world_from_body)[60:72]
    step = np.hypot(*np.diff(pose[:, :2], axis=0).T)
    assert np.allclose(step[:5], 0.5, atol=1e-6) and np.allclose(step[10:], 0.0, atol=1e-9)  # then it stands
    assert np.allclose(np.diff(np.unwrap(pose[:, 2]))[5:10], 0.05, atol=1e-6)  # 0.5 m at 0.1 1/m


def test_without_what_blocks_the_ego_drives_on() -> None:
    log = made("hard-brake", 110_000)
    free = rerun(log, at_s=1.0, remove=("actor-0",))
    assert moved(log, free)[:11].max() == 0.0 and moved(log, free)[-1] > 20.0
    actor = next(t for t in free.tracks if t.id == "actor-0")
    assert actor.valid[:10].all() and not actor.valid[11:].any()
    assert free.metadata["scenario"]["kind"] == "hard-brake"


def test_removing_an_agent_tells_causes_from_bystanders() -> None:
    change = causes_by_removal(replay_of(110_000, 12.0, "hard-brake"), 1.5)
    assert change["actor-0"] > 3.0


def test_a_light_turned_red_stops_the_ego_and_one_turned_off_does_not() -> None:
    log = made("red-light-runner", 110_001)
    path = log.ego.world_from_body[:, :2, 3]
    heading = xyyaw_from_pose(log.ego.world_from_body)[0, 2]
    lines = {s.id: s.stop_line_m[:, :2].mean(0) for s in log.signals
             if s.stop_line_m is not None and np.cos(s.yaw_rad - heading) < -0.7}
    mine = min(lines, key=lambda name: float(np.linalg.norm(path - lines[name], axis=1).min()))
    red, off = (rerun(log, at_s=0.5, signals={mine: word}) for word in ("red", "off"))
    assert moved(log, red)[-1] > 15.0 and any(r.causes[0].kind == "red light" for _, r in red.reasons)
    assert next(s for s in off.signals if s.id == mine).state_at(off.end_us) == 4
    assert not any(r.causes[0].kind == "red light" for _, r in off.reasons)


def test_what_cannot_be_rerun_is_refused() -> None:
    with pytest.raises(InputError, match="nobody of that id"):
        rerun(SEED, at_s=AT_S, remove=("vehicle-999",))
    with pytest.raises(InputError, match="at_s"):
        rerun(SEED, at_s=99.0)
    with pytest.raises(InputError, match="brake"):
        rerun(SEED, at_s=AT_S, ego="fly")
    with pytest.raises(InputError, match=r"\(N, 2\)"):
        rerun(SEED, at_s=AT_S, ego=np.zeros((3, 3)))
    with pytest.raises(InputError, match="rerun already"):
        rerun(rerun(SEED, at_s=AT_S), at_s=AT_S)


# --- scenarios ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_expert_solves_it_and_constant_velocity_does_not(kind: str) -> None:
    log = made(kind, 110_000)
    told = log.metadata["scenario"]
    assert told["kind"] == kind and log.id == f"town-{kind}-110000" and log.metadata["dropped"] == 0
    assert not any(met(log, centers(log), actor) for actor in told["actors"])
    straight = constant_velocity(log)
    crashes = any(met(log, straight, actor) for actor in told["actors"])
    strays = np.abs(project_to_polyline(straight[:, :2], np.array(log.metadata["route"]))[1]).max() > 4.0
    assert crashes or (kind == "unprotected-left" and strays)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_seed_of_a_kind_is_solved(kind: str) -> None:
    for seed in range(110_001, 110_010):
        log = made(kind, seed)
        assert log.metadata["dropped"] == 0, seed
        assert not any(met(log, centers(log), actor) for actor in log.metadata["scenario"]["actors"]), seed


def test_scenarios_have_an_address() -> None:
    source = TownSource("cut-in/110000-110002")
    assert source.log_ids() == ["town-cut-in-110000", "town-cut-in-110001", "town-cut-in-110002"]
    assert source.load("town-cut-in-110001").metadata["scenario"]["seed"] == 110_001
    assert len(TownSource("scenarios").log_ids()) == 10 * len(KINDS)
    with pytest.raises(InputError, match="no scenario"):
        TownSource("flying/110000")
