"""Scenario drives begin where nothing is decided yet: who does not react crashes, and the expert does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drive_wm.datasets.sources import open_source
from drive_wm.eval.command import evaluate
from drive_wm.eval.evaluate import drive_seed
from drive_wm.eval.protocols import get_protocol
from drive_wm.eval.references import references_for
from drive_wm.eval.scenarios import LEAD_IN_S, gate, rules_for, start_s, with_lead_in
from drive_wm.geometry import xyyaw_from_pose
from drive_wm.types import Log


def scene(kind: str) -> Log:
    source = open_source(f"town:{kind}/110000-110000")
    return source.load(source.log_ids()[0])


def test_a_scenario_gets_a_past_at_its_first_speed() -> None:
    log = scene("cut-in")
    longer = with_lead_in(log)
    assert with_lead_in(longer) is longer and longer.end_us == log.end_us
    assert longer.start_us == log.start_us - 2_000_000
    xyyaw = xyyaw_from_pose(longer.ego.world_from_body)
    steps = np.hypot(*np.diff(xyyaw[:25, :2], axis=0).T)
    assert steps[:20] == pytest.approx(np.full(20, steps[19]), abs=1e-6) and abs(steps[20] - steps[19]) < 0.05
    actor, before = (next(t for t in x.tracks if t.id == "actor-0") for x in (longer, log))
    np.testing.assert_array_equal(actor.position_m[20:], before.position_m)
    assert np.ptp(np.diff(actor.position_m[:20, :2], axis=0), axis=0).max() < 1e-6
    assert start_s(longer, get_protocol("drive")) == pytest.approx(
        LEAD_IN_S + log.metadata["scenario"]["start_s"], abs=0.051)
    assert len(longer.frames.timestamps_us("CAM_FRONT")) == 141


def test_other_logs_stay_and_start_as_the_protocol_says() -> None:
    log = open_source("town:110000").load("town-110000")
    assert with_lead_in(log) is log and start_s(log, get_protocol("drive")) == 2.0


@pytest.mark.parametrize("kind", ["stationary", "frontal", "side"])
def test_ncap_scenes_are_fit_for_it(kind: str) -> None:
    log = with_lead_in(scene(kind))
    rules, seed = rules_for(log, get_protocol("ncap")), drive_seed(0, log)
    references = references_for(log, rules, seed)
    assert gate(log, rules, references, seed) == []


def test_ncap_from_the_command(tmp_path: Path) -> None:
    rows = evaluate("town:stationary/110000-110000", tmp_path / "run", planners=["log_replay"], protocol="ncap",
                    workers=1)
    assert {row["planner"]: row["ncap"] for row in rows} | {"ego_status": 0} == {
        "log_replay (oracle)": 5.0, "constant_velocity": 0.0, "ego_status": 0}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "NCAP by type" in page and "All scenes are fit for it" in page
