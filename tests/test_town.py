"""The generated town: the same seed gives the same drive, nobody collides, reasons point at things that exist."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from drive_wm.datasets.rigs import dash, nuscenes_six, stereo
from drive_wm.datasets.town import TownSource, generate, overlapping, split_of
from drive_wm.datasets.town.cast import EGO_CENTER_M, EGO_LWH_M
from drive_wm.geometry import box_corners, points_in_polygon, xyyaw_from_pose
from drive_wm.types import InputError, Log

SEEDS, MORE_SEEDS = range(200, 205), range(205, 220)


@lru_cache(maxsize=64)
def town(seed: int) -> Log:
    return generate(seed)


def ego_boxes(log: Log) -> np.ndarray:
    pose = xyyaw_from_pose(log.ego.world_from_body)
    pose[:, 0] += EGO_CENTER_M * np.cos(pose[:, 2])
    pose[:, 1] += EGO_CENTER_M * np.sin(pose[:, 2])
    return pose


def test_same_seed_same_bytes_and_another_seed_another_town() -> None:
    a, b, c = generate(3), generate(3), generate(4)
    assert a.ego.world_from_body.tobytes() == b.ego.world_from_body.tobytes()
    assert a.ego.world_from_body.tobytes() != c.ego.world_from_body.tobytes()
    assert a.reasons == b.reasons and a.metadata == b.metadata and a.look == b.look
    for one, two in zip(a.tracks, b.tracks, strict=True):
        assert (
            one.id == two.id and one.position_m.tobytes() == two.position_m.tobytes() and one.color_rgb == two.color_rgb
        )
    assert a.map is not None and b.map is not None
    assert [p.position_m.tobytes() for p in a.map.props] == [p.position_m.tobytes() for p in b.map.props]


def test_the_seed_tells_the_split_and_bad_seeds_are_refused() -> None:
    assert [split_of(s) for s in (0, 99_999, 100_000, 109_999, 110_000, 119_999)] == [
        "train",
        "train",
        "val",
        "val",
        "test",
        "test",
    ]
    for seed in (-1, 120_000):
        with pytest.raises(InputError, match="seed"):
            generate(seed)
    with pytest.raises(InputError, match="duration_s"):
        generate(0, duration_s=0.0)


@pytest.mark.parametrize("seed", [*SEEDS, *(pytest.param(seed, marks=pytest.mark.slow) for seed in MORE_SEEDS)])
def test_ego_meets_nobody_stays_on_the_road_and_moves_smoothly(seed: int) -> None:
    log = town(seed)
    boxes = ego_boxes(log)
    assert overlapping(list(log.tracks), boxes, EGO_LWH_M, margin_m=0.0) == set()
    corners = box_corners(boxes, np.array(EGO_LWH_M[0]), np.array(EGO_LWH_M[1])).reshape(-1, 2)
    assert log.map is not None
    on_road = np.any([points_in_polygon(corners, polygon) for polygon in log.map.drivable], axis=0)
    assert on_road.mean() > 0.995
    speed = np.linalg.norm(np.diff(log.ego.world_from_body[:, :2, 3], axis=0), axis=1) * 10
    assert speed.max() < 14.5 and np.abs(np.diff(speed)).max() < 0.75
    yaw = np.unwrap(xyyaw_from_pose(log.ego.world_from_body)[:, 2])
    assert (np.abs(np.diff(yaw)) * 10 * speed).max() < 4.0


@pytest.mark.parametrize("seed", list(SEEDS)[:3])
def test_lanes_are_linked_both_ways_and_meet_end_to_end(seed: int) -> None:
    road = town(seed).map
    assert road is not None
    signals = {s.id: s for s in town(seed).signals}
    for lane in road.lanes.values():
        for name in lane.successors:
            after = road.lanes[name]
            assert lane.id in after.predecessors
            assert np.linalg.norm(lane.centerline_m[-1] - after.centerline_m[0]) < 0.3
        if lane.left_neighbor:
            assert road.lanes[lane.left_neighbor].right_neighbor == lane.id
        if lane.signal_id:
            assert lane.is_intersection and lane.id in signals[lane.signal_id].lane_ids
    bound = {p.signal_id for p in road.props if p.kind == "traffic_light"}
    assert bound == set(signals)


@pytest.mark.parametrize("seed", list(SEEDS)[:2])
def test_nothing_stands_on_the_road(seed: int) -> None:
    road = town(seed).map
    assert road is not None
    for prop in road.props:
        points = prop.position_m[None, :2]
        if prop.kind in ("building", "hedge"):
            length, width = prop.size_lwh_m[:2]
            box = box_corners(np.array([*prop.position_m[:2], prop.yaw_rad]), length, width)
            points = np.concatenate([box, (box + np.roll(box, -1, 0)) / 2])
        for polygon in road.drivable:
            assert not points_in_polygon(points, polygon).any(), (seed, prop)


def test_reasons_come_every_half_second_and_point_at_things_that_exist() -> None:
    kinds: set[str] = set()
    for seed in SEEDS:
        log = town(seed)
        known = {t.id for t in log.tracks} | {s.id for s in log.signals}
        assert [t for t, _ in log.reasons] == list(range(log.start_us, log.end_us + 1, 500_000))
        for _, reason in log.reasons:
            assert reason.text.endswith(".") and not reason.post_hoc
            kinds |= {cause.kind for cause in reason.causes}
            assert all(cause.agent_id is None or cause.agent_id in known for cause in reason.causes)
    assert {"free road", "lead vehicle", "red light", "bend"} <= kinds


@pytest.mark.slow
def test_drives_are_varied() -> None:
    turns, standing, curved = [], [], []
    for seed in range(200, 224):
        log = town(seed)
        pose = xyyaw_from_pose(log.ego.world_from_body)
        speed = np.linalg.norm(np.diff(pose[:, :2], axis=0), axis=1) * 10
        yaw = np.unwrap(pose[:, 2])
        turns.append(any(r.lateral in ("turn left", "turn right") for _, r in log.reasons) and np.ptp(yaw) > 0.8)
        curved.append(np.ptp(yaw) > 0.2)
        standing.append(float((speed < 0.3).mean()))
    assert np.mean(turns) >= 0.2 and np.mean(curved) >= 0.35
    assert np.mean(standing) <= 0.22


def test_route_runs_from_the_first_pose_to_well_beyond_the_last() -> None:
    for seed in SEEDS:
        log = town(seed)
        route = np.array(log.metadata["route"])
        ego = log.ego.world_from_body[:, :2, 3]
        assert np.linalg.norm(route[0] - ego[0]) < 2.0
        nearest = np.linalg.norm(route[None] - ego[:, None], axis=-1)
        assert nearest.min(1).max() < 1.6
        rest = route[nearest[-1].argmin() :]
        assert np.linalg.norm(np.diff(rest, axis=0), axis=1).sum() >= 60.0


def test_source_reads_seeds_and_ranges_and_refuses_the_rest() -> None:
    assert TownSource("").log_ids()[0] == "town-110000" and len(TownSource("").log_ids()) == 10
    assert TownSource("5-7").log_ids() == ["town-000005", "town-000006", "town-000007"]
    assert TownSource("9").load("town-000009").id == "town-000009"
    for text in ("x", "7-", "-7", "9-3", "1-200000"):
        with pytest.raises(InputError):
            TownSource(text)
    with pytest.raises(InputError, match="holds"):
        TownSource("5-7").load("town-000008")


def test_rigs_look_where_their_names_say() -> None:
    rig = nuscenes_six(112, 64)
    forward = {c.name: c.rig_from_camera[:3, 2] for c in rig.cameras}
    assert np.allclose(forward["CAM_FRONT"], [1, 0, 0]) and np.allclose(forward["CAM_BACK"], [-1, 0, 0])
    assert forward["CAM_FRONT_LEFT"][1] > 0.5 and forward["CAM_BACK_RIGHT"][1] < -0.5
    for camera in (*rig.cameras, *dash().cameras, *stereo().cameras):
        rotation = camera.rig_from_camera[:3, :3]
        assert np.allclose(rotation @ rotation.T, np.eye(3)) and np.linalg.det(rotation) == pytest.approx(1.0)
        assert rotation[2, 1] == -1.0


def test_frames_are_drawn_when_read_and_the_same_each_time() -> None:
    log = generate(12, duration_s=2.0)
    times = log.frames.timestamps_us("CAM_FRONT")
    assert log.frames.rendered and len(times) == 21
    image = log.frames.read("CAM_FRONT", int(times[3]))
    assert image.shape == (64, 112, 3) and image.std() > 10
    log.frames.read("CAM_BACK", int(times[9]))
    assert (log.frames.read("CAM_FRONT", int(times[3])) == image).all()
    with pytest.raises(InputError, match="no image"):
        log.frames.read("CAM_FRONT", int(times[3]) + 1)
