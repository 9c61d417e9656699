"""True causes by intervention: who is taken out, and how far the driver's next seconds move."""

from __future__ import annotations

import numpy as np
import pytest

from drive_wm.datasets.town import generate
from drive_wm.datasets.town.causes import (
    Effect,
    Moment,
    apart,
    candidates,
    causes_at,
    causes_of_many,
    owner_id,
    replay_for,
    true_causes,
    with_causes,
)
from drive_wm.types import InputError, Log

SEED = 110_005


@pytest.fixture(scope="module")
def log() -> Log:
    return generate(SEED, duration_s=12.0)


def test_thresholds() -> None:
    assert not Effect(("a",), 1.0, 0.5).is_cause
    assert Effect(("a",), 1.01, 0.0).is_cause and Effect(("a",), 0.0, 0.51).is_cause
    assert Effect(("a",), 2.0, 0.25).size == 2.0 and Effect(("a",), 0.0, 1.5).size == 3.0


def test_parts_belong_to_their_works() -> None:
    assert owner_id("works-00-cone-03") == "works-00" and owner_id("works-00") == "works-00"
    assert owner_id("vehicle-007") == "vehicle-007"


def test_places_are_compared_where_both_have_been() -> None:
    s = np.linspace(0, 20, 41)
    straight = np.column_stack([s, np.zeros(41), np.full(41, 5.0)])
    slower = np.column_stack([s / 2, np.where(s / 2 > 5, 0.8, 0.0), np.full(41, 2.5)])
    assert apart(straight, slower) == pytest.approx(0.8)
    standing = np.column_stack([np.zeros(41), np.full(41, 2.0), np.zeros(41)])
    assert apart(straight, standing) == 0.0  # they share no stretch of road


def test_taking_out_nobody_changes_nothing(log: Log) -> None:
    assert Moment(replay_for(log), 5.0).effect(()) == Effect((), 0.0, 0.0)


def test_a_cause_changes_the_drive_and_a_parked_car_does_not(log: Log) -> None:
    replay = replay_for(log)
    causes = true_causes(replay, 9.0)
    assert causes and all(e.is_cause for e in causes)
    assert [e.size for e in causes] == sorted((e.size for e in causes), reverse=True)
    names = candidates(Moment(replay, 9.0))
    assert not any(n.startswith("parked") for n in names)
    assert {n for e in causes for n in e.ids} <= set(names)


def test_who_is_left_out_of_the_candidates_has_no_effect(log: Log) -> None:
    moment = Moment(replay_for(log), 9.0)
    sim, tried = moment.sim, set(candidates(moment))
    everyone = [b.id for i, b in enumerate(sim.bodies) if i and sim.state.active[i]]
    rest = [n for n in [*everyone, *(p.id for p in sim.people)] if n not in tried]
    assert len(rest) > 10
    assert not any(e.is_cause for e in true_causes(moment.replay, 9.0, among=rest[:8]))


def test_causes_are_stored_with_the_log(log: Log) -> None:
    told = with_causes(log, every_s=9.0)
    table = told.metadata["causes"]
    assert table["columns"] == ["time_s", "ids", "speed_mps", "lateral_m"] and table["rows"]
    at = table["rows"][0][0]
    assert causes_at(told, at)[0].ids == tuple(table["rows"][0][1])
    _, again = next(causes_of_many([log], every_s=9.0, workers=1))
    assert again.metadata["causes"]["rows"] == table["rows"] and again.tracks == log.tracks


def test_a_log_without_them_says_so(log: Log) -> None:
    with pytest.raises(InputError, match="with_causes"):
        causes_at(log, 2.0)


def test_only_a_drive_of_the_town_can_be_driven_again(log: Log) -> None:
    from dataclasses import replace

    with pytest.raises(InputError, match="drive of the town"):
        with_causes(replace(log, source="nuscenes"))
