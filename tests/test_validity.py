"""Does a simulator judge as another does? Small sets of scores of which the answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drive_wm.eval.action_check import ActionCheck, alternative_poses, alternatives, identified
from drive_wm.eval.command import evaluate
from drive_wm.eval.compare import compare
from drive_wm.eval.parts import Part
from drive_wm.eval.validity import judged
from drive_wm.types import InputError

LOGS = ("a", "b", "c")


def part(planner: str, renderer: str, log: str, total: float, trusted: bool = True) -> Part:
    row = {"planner": planner, "renderer": renderer, "log_id": log, "total": total, "trusted": trusted,
           "render_valid": 1.0 if trusted else 0.5, "l2_to_log": 1.0}
    return Part(row, {}, [], {"ego": np.full((4, 3), 2.0 if renderer == "world" else 0.0)})


def scenes(world: dict[str, float], doubted: str | None = None) -> list[list[Part]]:
    real = {"p": 0.2, "q": 0.5, "r": 0.9}
    return [[Part({}, {}), *(part(p, "layout", log, real[p]) for p in real),
             *(part(p, "world", log, world[p], not (p == "q" and log == doubted)) for p in real),
             part("blind", "none", log, 0.1)] for log in LOGS]


def figures(results: dict[str, Any], which: str) -> dict[str, Any]:
    return {row["measure"]: row["value"] for row in results["agreement"] if row["scenes"] == which}


def test_the_same_order_agrees_and_the_reverse_does_not() -> None:
    good = judged(scenes({"p": 0.1, "q": 0.4, "r": 0.8}), "layout", "world", 0)
    assert figures(good, "all") == {"pearson": pytest.approx(1.0), "spearman": pytest.approx(1.0),
                                    "r2": pytest.approx(1.0), "mmrv": 0.0}
    assert good["planners_that_see"] == ["p", "q", "r"] and good["planners_that_do_not"] == ["blind"]
    assert good["planners"][0]["paths_apart_m"] == pytest.approx(np.sqrt(8.0)) and good["untrusted_rollouts"] == 0
    bad = figures(judged(scenes({"p": 0.8, "q": 0.4, "r": 0.1}), "layout", "world", 0), "all")
    assert bad["spearman"] == pytest.approx(-1.0) and bad["mmrv"] == pytest.approx((0.7 + 0.4 + 0.7) / 3)


def test_an_untrusted_rollout_is_counted_and_its_scene_left_out_for_all() -> None:
    results = judged(scenes({"p": 0.1, "q": 0.4, "r": 0.8}, doubted="b"), "layout", "world", 0)
    counts = {row["scenes"]: row["count"] for row in results["agreement"]}
    assert counts == {"all": 3, "trusted": 2} and results["untrusted_rollouts"] == 1
    assert results["trusted_steps"] == pytest.approx(8.5 / 9)


def test_planners_that_see_nothing_prove_nothing() -> None:
    with pytest.raises(InputError, match="look at frames"):
        judged([[Part({}, {}), part("blind", "none", "a", 0.1)]], "layout", "world", 0)


# --- the check of a frame -----------------------------------------------------------------------------------------


def picture(shift: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(0)
    wide = np.repeat(np.repeat(rng.integers(0, 255, (8, 40, 3)), 4, 0), 4, 1).astype(np.uint8)
    return wide[:, 40 + shift: 104 + shift]


def test_a_frame_is_told_by_the_truth_that_it_is_nearest_to() -> None:
    truths = [picture(s) for s in (0, -8, 8)]
    noisy = np.clip(picture(0).astype(int) + np.random.default_rng(1).integers(-60, 60, truths[0].shape), 0, 255)
    assert identified(noisy.astype(np.uint8), truths) is True
    assert identified(picture(8), truths) is False
    assert identified(picture(0), [picture(0), picture(0)]) is None  # standing: nothing could be told


def test_trust_is_a_majority_that_a_single_frame_does_not_break() -> None:
    check = ActionCheck()
    assert [check.trusted(told) for told in (None, False, None, False, True, True, True)] == [
        True, True, True, False, False, False, True]


def test_other_actions_lead_elsewhere() -> None:
    ways = alternatives(np.array([8.0, 0.0]))
    ends = alternative_poses(np.zeros(3), ways, 0.5)
    assert ends[0] == pytest.approx([4.0, 0.0, 0.0]) and ends[1] == pytest.approx([0.0, 0.0, 0.0])
    assert ends[2, 0] == pytest.approx(6.0) and ends[3, 2] == pytest.approx(0.24) == -ends[4, 2]


def test_drawn_frames_obey_and_turned_ones_do_not() -> None:
    """On a generated drive, seen by a camera that is turned by 5 degrees unawares."""
    from drive_wm.datasets.rigs import at_height
    from drive_wm.datasets.sources import open_source
    from drive_wm.eval.world_sensors import pose_like
    from drive_wm.geometry import actions_from_xyyaw, interpolate_poses, xyyaw_from_pose
    from drive_wm.render import Renderer, agents_at, signals_at

    log = open_source("town:110000").load("town-110000")
    rig, renderer = at_height(log.rig.subset(["CAM_FRONT"]), 64), Renderer(log.map, log.look, log.signals)
    times = log.start_us + np.arange(3_000_000, 6_000_001, 500_000)
    poses, _ = interpolate_poses(log.ego, times)
    xyyaw, told = xyyaw_from_pose(poses), list[tuple[bool | None, bool | None]]()
    for k in range(1, len(times)):
        scene = agents_at(log, int(times[k])), signals_at(log, int(times[k]))
        action = actions_from_xyyaw(xyyaw[k - 1: k + 1], np.array([0.0, 0.5]))[0]
        others = alternative_poses(xyyaw[k - 1], alternatives(action)[1:], 0.5)
        turned = xyyaw[k] + np.array([0.0, 0.0, np.deg2rad(5.0)])
        *truths, wrong = (renderer.draw(rig, pose, *scene, "picture")["CAM_FRONT"]
                          for pose in (poses[k], *(pose_like(poses[k], other) for other in (*others, turned))))
        told.append((identified(truths[0], truths), identified(wrong, truths)))
    assert all(own for own, _ in told) and sum(bool(wrong) for _, wrong in told) <= len(told) // 3


# --- compare ------------------------------------------------------------------------------------------------------


def test_runs_are_compared_over_the_scenes_they_share(tmp_path: Path) -> None:
    def run(name: str, **options: Any) -> Path:
        evaluate(options.pop("source", "town:110000-110001"), tmp_path / name, workers=1, duration_s=2.0,
                 **{"planners": ["constant_velocity"], **options})
        return tmp_path / name

    first, other, strange = run("one"), run("two", source="town:110001-110001"), run(
        "three", source="town:110001-110001", traffic="idm")
    rows = compare([first, other], tmp_path / "compared")
    assert all(row["scenes"] == 1 and row["difference"] == 0.0 for row in rows)
    page = (tmp_path / "compared" / "report.html").read_text()
    assert "What differs" in page and "clips" in page and (tmp_path / "compared" / "scenes.parquet").is_file()
    with pytest.raises(InputError, match="different rules .*--across-protocols"):
        compare([first, strange], tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    compare([first, strange], tmp_path / "meant", across_protocols=True)
    assert "DIFFERENT rules" in (tmp_path / "meant" / "report.html").read_text()
    with pytest.raises(InputError, match="two or more"):
        compare([first], tmp_path / "lonely")
    with pytest.raises(InputError, match="no run folder"):
        compare([first, tmp_path], tmp_path / "lost")
