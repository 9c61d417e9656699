"""What a log must not hold: a drive with one such thing in it is not shown, and the seed draws another."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from drive_wm.datasets.town import generate, overlapping, people, rerun, streets
from drive_wm.datasets.town.cast import EGO_CENTER_M
from drive_wm.datasets.town.drive import Drive, junctions_entered, prepare
from drive_wm.datasets.town.guard import faults
from drive_wm.geometry import points_in_polygon
from drive_wm.types import Log, Track

SEED, REDRAWN = 300, 739
TURNS_AT_A_LIGHT = 110301


def fresh(seed: int = SEED) -> Drive:
    return prepare(seed, 4.0).run()


@lru_cache(maxsize=1)
def redrawn() -> Log:
    return generate(REDRAWN, duration_s=10.0)


def test_a_drive_without_faults_and_with_one_of_each_kind() -> None:
    assert faults(fresh()) == []
    drive = fresh()
    drive.simulation.record.xy[drive.first :, 0] += [300.0, 300.0]
    assert faults(drive) == ["off road"]
    drive = fresh()
    record, parked = drive.simulation.record, drive.simulation.kerbside[0]
    record.xy[drive.first + 3 :, 0], record.yaw[drive.first + 3 :, 0] = parked[:2], parked[2]
    assert faults(drive) == ["overlap"]
    drive = fresh()
    drive.simulation.length[0] = drive.simulation.state.s[0]
    assert faults(drive) == ["end of the way"]


def test_a_vehicle_that_vanishes_beside_the_ego_is_a_fault_and_one_far_away_is_not() -> None:
    drive = fresh()
    record = drive.simulation.record
    away = np.hypot(*(record.xy[drive.first :, 1:] - record.xy[drive.first :, :1]).transpose(2, 0, 1)).min(0)
    gone = int(np.where(record.active[drive.first :, 1:].all(0), away, 0.0).argmax()) + 1
    assert away[gone - 1] > 60.0
    record.active[drive.first + 5 :, gone] = False
    assert faults(drive) == []
    record.xy[drive.first :, gone] = record.xy[drive.first :, 0] + [0.0, 35.0]
    assert "appearance" in faults(drive)


def test_a_seed_with_a_fault_draws_another_town_and_is_rerun_in_it() -> None:
    log = redrawn()
    assert faults(prepare(REDRAWN, 10.0).run()) == ["overlap"]
    assert log.metadata["attempt"] == 1 and log.metadata["dropped"] == 0
    again = rerun.rerun(log, at_s=5.0, ego="brake")
    before = log.ego.timestamps_us <= log.start_us + 4_900_000
    assert (again.ego.world_from_body[before] == log.ego.world_from_body[before]).all()


def test_junctions_are_those_whose_line_the_ego_passes() -> None:
    drive = prepare(TURNS_AT_A_LIGHT, 20.0).run()
    (entered,) = junctions_entered(drive)
    junction = drive.simulation.roads.network.junctions[entered[0]]
    rear = drive.simulation.rear_of_ego[drive.first :]
    front = rear + (EGO_CENTER_M + 2.05) * (drive.ego_center[:, :2] - rear) / EGO_CENTER_M
    away = np.hypot(*(front - junction.center).T)
    assert entered[1] == junction.control == "signal" and away[0] > junction.reach_m > away.min()


@pytest.mark.parametrize("seed", range(6))
def test_whoever_walks_to_a_crossing_stays_off_the_road_until_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = streets.plan_network(rng)
    streets.lay_lanes(network)
    road = streets.map_of(network).drivable
    for junction in network.junctions:
        for a in junction.crossings:
            arm = junction.arms[a]
            if any((arm.street, side, not arm.outgoing) in network.cuts for side in (1, -1)):
                continue
            line, gate = people.crossing_line(rng, network, junction.index, a)
            arc = streets.arc_length(line)
            off = line[(arc <= gate.begin_m + 1e-6) | (arc >= gate.end_m - 1e-6)]
            inside = [int(points_in_polygon(off, polygon).sum()) for polygon in road]
            assert not any(inside), (junction.index, a)


def standing(name: str, x: float) -> Track:
    """A car that stands at x for three steps."""
    return Track(name, "car", np.array([4.5, 1.8, 1.5]), np.arange(3) * 100_000, np.tile([x, 0.0, 0.75], (3, 1)),
                 np.zeros(3), np.ones(3, bool))


def test_traffic_that_stands_through_a_whole_log_is_checked_too() -> None:
    """What was placed once may touch; who drives may not, whether it ever moved or not."""
    away = np.tile([100.0, 0.0, 0.0], (3, 1))
    size = (4.5, 1.8, 1.5)
    assert overlapping([standing("parked-000", 0.0), standing("standing-00", 2.0)], away, size) == set()
    assert overlapping([standing("standing-00", 0.0), standing("vehicle-001", 2.0)], away, size) == {1}
    assert overlapping([standing("standing-00", 0.0), standing("vehicle-001", 5.0)], away, size) == set()
