"""Traffic that reacts: it follows the log's paths, stops behind whoever stands on them, and starts again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from drive_wm.datasets.rendered import NoFrames
from drive_wm.eval.traffic_idm import IdmTraffic, course_of, leaders, logged_speed, reacts
from drive_wm.eval.vehicle import make_vehicle
from drive_wm.geometry import pose_from_xyyaw
from drive_wm.planners.idm import ENOUGH_M
from drive_wm.types import Camera, FloatArray, Lane, Log, Poses, Rig, RoadMap, Signal, Track

TIMES = np.arange(101, dtype=np.int64) * 100_000
FAR = np.array([0.0, 500.0, 0.0])


def track(name: str, x: FloatArray, y: float = 0.0, category: str = "car") -> Track:
    position = np.stack([x, np.full(len(x), y), np.full(len(x), 0.75)], -1)
    return Track(name, category, np.array([4.0, 1.8, 1.5]), TIMES, position, np.zeros(len(x)), np.ones(len(x), bool))


def log_of(*tracks: Track, road: RoadMap | None = None, signals: tuple[Signal, ...] = (), **metadata: object) -> Log:
    ego = pose_from_xyyaw(np.tile(FAR, (len(TIMES), 1)))
    rig = Rig("one", (Camera("front", 8, 4, np.eye(3), np.eye(4)),))
    return Log("made", "test", rig, Poses(TIMES, ego, np.ones(len(TIMES), bool)), NoFrames(), tracks, road, signals,
               metadata=metadata)


def run(log: Log, ego: FloatArray = FAR, steps: int = 100) -> dict[str, FloatArray]:
    """id -> (S, 2) x and y."""
    traffic = IdmTraffic()
    traffic.vehicle = make_vehicle("zoe")
    traffic.reset(log, 0)
    places: dict[str, list[FloatArray]] = {}
    for t in TIMES[:steps]:
        boxes = traffic.step(int(t), ego, 0.0)
        for i, name in enumerate(boxes.ids):
            places.setdefault(name, []).append(boxes.xyzyaw[i, :2])
    return {name: np.stack(rows) for name, rows in places.items()}


MOVING = 8.0 * TIMES / 1e6


def test_on_a_free_road_it_drives_the_logs_path_and_on() -> None:
    place = run(log_of(track("a", MOVING)))["a"]
    assert place[0] == pytest.approx([0.0, 0.0]) and len(place) == 100
    assert (np.diff(place[:, 0]) > 0.7).all() and np.abs(place[:, 1]).max() < 1e-6
    assert place[-1, 0] > 79.0  # 8 m/s and more: towards its wish of 10


def test_it_stops_behind_an_ego_that_stands_in_its_way() -> None:
    place = run(log_of(track("a", MOVING)), ego=np.array([50.0, 0.0, 0.0]))["a"]
    front, ego_rear = place[-1, 0] + 2.0, 50.0 - make_vehicle("zoe").rear_axle_to_rear_m
    assert 0.5 < ego_rear - front < 4.0 and abs(place[-1, 0] - place[-5, 0]) < 0.3


def test_it_passes_one_that_stands_beside_its_way() -> None:
    assert run(log_of(track("a", MOVING)), ego=np.array([50.0, 3.5, 0.0]))["a"][-1, 0] > 79.0


def test_followers_queue_and_never_touch() -> None:
    place = run(log_of(track("a", MOVING), track("b", MOVING - 12.0)), ego=np.array([60.0, 0.0, 0.0]))
    assert (place["a"][:, 0] - place["b"][:, 0]).min() > 4.0


def test_people_cyclists_and_the_parked_do_as_the_log_says() -> None:
    log = log_of(track("walker", MOVING / 8, 20.0, "pedestrian"), track("parked", np.full(101, 9.0), 30.0),
                 track("rider", MOVING / 2, 40.0, "bicycle"))
    place = run(log, ego=np.array([3.0, 20.0, 0.0]))
    assert not any(reacts(t) for t in log.tracks)
    for t in log.tracks:
        np.testing.assert_allclose(place[t.id], t.position_m[:100, :2])


def test_actors_of_a_scenario_keep_to_their_script() -> None:
    log = log_of(track("actor-0", MOVING), scenario={"kind": "cut-in", "actors": ["actor-0"]})
    assert run(log, ego=np.array([50.0, 0.0, 0.0]))["actor-0"][-1, 0] == pytest.approx(79.2)


def test_red_holds_it_at_the_line_until_green() -> None:
    x = np.linspace(0, 40, 21)
    edge = {y: np.stack([x, np.full(21, y), np.zeros(21)], -1) for y in (0.0, 1.7, -1.7)}
    road = RoadMap("field", {"a": Lane("a", edge[0.0], edge[1.7], edge[-1.7], signal_id="s")})
    for state, least, most in ((3, 30.0, 38.5), (1, 79.0, 200.0)):
        light = Signal("s", np.array([42.0, 3.0, 5.0]), np.pi, np.array([0]), np.array([state], np.int8), ("a",))
        assert least < run(log_of(track("a", MOVING), road=road, signals=(light,)))["a"][-1, 0] < most


def test_nobody_appears_inside_another() -> None:
    late = replace(track("late", MOVING), valid=TIMES >= 3_000_000)  # at 24 m, where the ego stands
    place = run(log_of(late), ego=np.array([24.0, 0.0, 0.0]))
    assert "late" not in place or np.abs(place["late"][:, 0] - 25.4).min() > 4.0


def test_who_leads_and_how_fast() -> None:
    line = np.column_stack([np.arange(60.0), np.zeros(60), np.zeros(60)])
    things = np.array([[0, 0, 0, 4, 2], [30, 0.5, 0, 4, 2], [20, 4.0, 0, 4, 2], [15, 0, np.pi / 2, 4, 2]], float)
    velocity = np.array([[9.0, 0], [3.0, 0], [5.0, 0], [0.0, 6.0]])
    near, along = leaders(line[None], np.array([2.0]), things[:3], velocity[:3], np.array([0]))
    assert (near[0], along[0]) == (pytest.approx(28.0, abs=0.01), pytest.approx(3.0))
    near, along = leaders(line[None], np.array([2.0]), things, velocity, np.array([0]))
    assert (near[0], along[0]) == (pytest.approx(14.0, abs=0.01), pytest.approx(0.0, abs=1e-9))
    assert leaders(line[None], np.array([2.0]), things[:1], velocity[:1], np.array([0]))[0][0] == ENOUGH_M


def test_courses_and_speeds_are_the_logs() -> None:
    a = track("a", MOVING)
    assert logged_speed(a, 5_000_000) == pytest.approx(8.0) and logged_speed(a, 0) == pytest.approx(8.0)
    course = course_of(a, log_of(a))
    assert course.points[-1, 0] > 155.0 and np.abs(course.heading).max() < 1e-9 and course.stops == ()
