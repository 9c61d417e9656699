"""Curation on planted drives: what is wrong with each is known, and so is what must come out."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from drive_wm import cli
from drive_wm.datasets.curation import balance, captions, places, segments
from drive_wm.datasets.curation.curate import CurationSpec, curate, split
from drive_wm.datasets.curation.duplicates import Likeness, distance, duplicates, phash
from drive_wm.datasets.curation.examine import Candidate
from drive_wm.datasets.curation.manifest import licence_allowed, read_manifest, trace
from drive_wm.datasets.curation.marks import FEATURES, Classifier, fit, learn, read_marks
from drive_wm.datasets.curation.quality import blur
from drive_wm.datasets.curation.segments import Segment, SegmentSpec
from drive_wm.datasets.rendered import NoFrames
from drive_wm.encoders.text import encode_text
from drive_wm.geometry import integrate_actions, pose_from_xyyaw
from drive_wm.types import (
    WEATHERS,
    Camera,
    FloatArray,
    InputError,
    Lane,
    Log,
    Poses,
    Rig,
    RoadMap,
    Track,
)

START_US = 1_700_000_000_000_000
WIDTH, HEIGHT, CAMERA_HZ = 96, 64, 5
LICENCE = "CC BY 4.0"


def path_of(pieces: list[tuple[float, float, float]], hz: float = 10.0) -> FloatArray:
    """(seconds, speed, curvature) after one another -> poses (N, 3) at hz."""
    actions = np.concatenate([np.tile([speed, bend], (round(seconds * hz), 1)) for seconds, speed, bend in pieces])
    return np.concatenate([np.zeros((1, 3)), integrate_actions(np.zeros(3), actions, 1 / hz)])


def camera(name: str = "front", forward: bool = True) -> Camera:
    mount = np.eye(4)
    mount[:3, :3] = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]]) if forward else np.array(
        [[0, 0, -1], [1, 0, 0], [0, -1, 0]])
    mount[2, 3] = 1.5
    return Camera(name, WIDTH, HEIGHT, np.array([[60.0, 0, 48], [0, 60, 32], [0, 0, 1]]), mount)


def log_of(xyyaw: FloatArray, *, keep: FloatArray | None = None, **changes: object) -> Log:
    """A log without images along a path at 10 Hz; ``keep``: the rows that have a pose."""
    times = START_US + np.arange(len(xyyaw), dtype=np.int64) * 100_000
    rows = np.arange(len(xyyaw)) if keep is None else keep
    ego = Poses(times[rows], pose_from_xyyaw(xyyaw[rows]), np.ones(len(rows), bool))
    return replace(Log("planted", "drive_folder", Rig("one", (camera(),)), ego, NoFrames()), **changes)  # type: ignore


Damage = Callable[[str, int, np.ndarray], np.ndarray | None]


def write_drive(folder: Path, *, pieces: list[tuple[float, float, float]] | None = None, scene: int = 0,
                damage: Damage | None = None, cameras: tuple[str, ...] = ("front", "back"), start_us: int = START_US,
                jump_m: float = 0.0, late_us: int = 0, licence: str = LICENCE) -> Path:
    """A drive folder: ten seconds straight at 8 m/s unless said otherwise, past a wall of noise, the scene's own."""
    path = path_of(pieces or [(10, 8, 0)])
    path[len(path) // 2:, 0] += jump_m
    driven = np.append(0.0, np.cumsum(np.minimum(np.linalg.norm(np.diff(path[:, :2], axis=0), axis=1), 2.0)))
    folder.mkdir(parents=True)
    mount = {"width": WIDTH, "height": HEIGHT, "intrinsics": camera().intrinsics.tolist(),
             "translation_m": [1, 0, 1.5], "rotation_wxyz": [0.5, -0.5, 0.5, -0.5]}
    rig = {"name": "planted", "cameras": {name: mount for name in cameras}, "licence": licence, "source": "planted"}
    (folder / "rig.json").write_text(json.dumps(rig))
    rows = [f"{start_us + i * 100_000},{x},{y},{yaw}" for i, (x, y, yaw) in enumerate(path)]
    (folder / "ego.csv").write_text("timestamp_us,x_m,y_m,yaw_rad\n" + "\n".join(rows) + "\n")
    for k, name in enumerate(cameras):
        wall = np.random.default_rng((scene, k)).integers(0, 256, (16, 200), dtype=np.uint8)
        wall = np.repeat(np.repeat(wall, 4, axis=0), 4, axis=1)  # 64 x 800 px, 4 px a metre
        (folder / "frames" / name).mkdir(parents=True)
        for i in range((len(path) - 1) * CAMERA_HZ // 10 + 1):
            at = int(4 * driven[i * 10 // CAMERA_HZ])
            image: np.ndarray | None = np.repeat(wall[:, at:at + WIDTH, None], 3, axis=2)
            image = damage(name, i, image) if damage is not None and image is not None else image
            if image is not None:
                time = start_us + i * 1_000_000 // CAMERA_HZ + late_us * k
                cv2.imwrite(str(folder / "frames" / name / f"{time}.png"), image)
    return folder


def reasons(folder: Path, **changes: object) -> set[str]:
    rows = curate([f"drive_folder:{folder}"], CurationSpec(**changes)).rows  # type: ignore[arg-type]
    return {reason for row in rows for reason in row.reason.split(", ")} - {""}


# --- clips --------------------------------------------------------------------------------------------------------


def test_a_log_is_cut_where_it_begins_and_ends_to_turn() -> None:
    quarter_s = np.pi / 2 * 12 / 6  # a quarter of a circle of 12 m at 6 m/s
    log = log_of(path_of([(10, 6, 0), (quarter_s, 6, 1 / 12), (10, 6, 0)]))
    found = segments.segments(log, SegmentSpec(min_s=3.0, lead_s=2.0))
    assert [s.manoeuvre for s in found] == ["straight", "turn left", "straight"]
    assert (found[0].end_us - START_US) / 1e6 == pytest.approx(10, abs=0.6)
    assert found[1].start_us == found[0].end_us - 2_000_000  # its approach is in the clip
    assert (found[2].start_us - START_US) / 1e6 == pytest.approx(10 + quarter_s, abs=0.6)
    assert found[2].end_us == pytest.approx(log.end_us, abs=100_000)


def test_a_wide_curve_is_a_bend_and_a_stop_is_a_stop() -> None:
    bend = segments.segments(log_of(path_of([(8, 10, -1 / 120)])))
    assert [s.manoeuvre for s in bend] == ["bend right"]
    stop = segments.segments(log_of(path_of([(8, 8, 0), (12, 0, 0)])))
    assert [(s.manoeuvre, s.speed) for s in stop] == [("straight", "medium"), ("standing", "standing")]


def test_lane_changes_are_told_from_curves_and_by_the_map() -> None:
    left, swing = path_of([(5, 12, 0), (2.2, 12, 0.012), (2.2, 12, -0.012), (6, 12, 0)]), 3.5
    assert left[-1, 1] == pytest.approx(swing * 2.4, rel=0.2)  # both halves and what is driven askew in between
    left[:, 1] *= swing / left[-1, 1]
    assert "change lane left" in [s.manoeuvre for s in segments.segments(log_of(left))]
    arc = segments.segments(log_of(path_of([(10, 12, 1 / 400)])))
    assert not any("lane" in s.manoeuvre for s in arc)
    one = Lane("a", np.array([[-20.0, 0, 0], [80, 0, 0]]), np.zeros((2, 3)), np.zeros((2, 3)), right_neighbor="b")
    two = replace(one, id="b", centerline_m=one.centerline_m + [60, swing, 0], right_neighbor=None, left_neighbor="a")
    follows = RoadMap("m", {"a": replace(one, successors=("b",), right_neighbor=None), "b": replace(
        two, left_neighbor=None, centerline_m=np.array([[60, swing, 0.0], [260, swing, 0]]))})
    assert not any("lane" in s.manoeuvre for s in segments.segments(log_of(left, map=follows)))  # the road shifts


def test_a_map_tells_a_lane_change_in_a_bend() -> None:
    def circle(radius_m: float) -> FloatArray:
        angle = np.linspace(0, 1, 60)
        return np.column_stack([radius_m * np.sin(angle), 200 - radius_m * np.cos(angle), np.zeros(60)])

    none = np.zeros((2, 3))
    road = RoadMap("m", {"outer": Lane("outer", circle(200), none, none, left_neighbor="inner"),
                         "inner": Lane("inner", circle(196.5), none, none, right_neighbor="outer")})
    radius = np.interp(np.arange(160), [60, 90], [200, 196.5])
    angle = np.arange(160) / 160 * 0.9
    path = np.column_stack([radius * np.sin(angle), 200 - radius * np.cos(angle), angle])
    motion = segments.motions(log_of(path))[0]
    crossed = list(segments.lane_crossings(motion, segments.Lanes(road), ()))
    assert [span.label for span in crossed] == ["change lane left"] and abs(crossed[0].start + 20 - 75) <= 5
    assert "change lane left" in [s.manoeuvre for s in segments.segments(log_of(path, map=road))]
    assert not list(segments.lane_crossings(motion, segments.Lanes(road), [segments.Span(60, 90, "turn left")]))


def test_clips_keep_their_lengths_and_cross_no_gap() -> None:
    spec = SegmentSpec(min_s=4.0, max_s=9.0)
    found = segments.segments(log_of(path_of([(30, 8, 0)])), spec)
    lengths = [(s.end_us - s.start_us) / 1e6 for s in found]
    assert len(found) == 4 and max(lengths) <= 9.0 and sum(lengths) == pytest.approx(30, abs=0.11)
    rows = np.concatenate([np.arange(100), np.arange(120, 301)])  # no poses from 9.9 to 12 s
    gap = segments.segments(log_of(path_of([(30, 8, 0)]), keep=rows), spec)
    assert not any(s.start_us < START_US + 11_000_000 < s.end_us for s in gap)
    brief = segments.segments(log_of(path_of([(2, 8, 0), (1, 8, 0.1), (9, 8, 0)])), spec)
    assert all((s.end_us - s.start_us) / 1e6 >= 4.0 for s in brief)
    with pytest.raises(InputError, match="max at least twice min"):
        SegmentSpec(min_s=4, max_s=5)


# --- quality ------------------------------------------------------------------------------------------------------


def test_a_sound_drive_is_kept(tmp_path: Path) -> None:
    assert reasons(write_drive(tmp_path / "drive")) == set()


def freeze(name: str, i: int, image: np.ndarray) -> np.ndarray | None:
    return FIRST.setdefault(name, image) if 20 <= i < 30 else image


FIRST: dict[str, np.ndarray] = {}


@pytest.mark.parametrize(("expected", "damage"), [
    ("frozen images", freeze),
    ("under-exposed", lambda name, i, image: image // 64 if name == "back" else image),
    ("over-exposed", lambda name, i, image: np.full_like(image, 255) if i % 2 else image),
    ("blurred", lambda name, i, image: cv2.GaussianBlur(image, (0, 0), 6) if name == "front" else image),
    ("dropped frames", lambda name, i, image: None if name == "back" and 20 <= i < 30 else image),
    ("missing camera", lambda name, i, image: None if name == "back" else image),
])
def test_each_planted_damage_drops_the_clip_by_its_name(tmp_path: Path, expected: str, damage: Damage) -> None:
    FIRST.clear()
    assert expected in reasons(write_drive(tmp_path / "drive", damage=damage))


def test_cameras_out_of_step_and_poses_that_jump(tmp_path: Path) -> None:
    assert "sync gap" in reasons(write_drive(tmp_path / "late", late_us=90_000))
    assert "pose jump" in reasons(write_drive(tmp_path / "jump", jump_m=30.0))


def test_blur_grows_with_the_blur() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    values = [blur(image)] + [blur(np.asarray(cv2.GaussianBlur(image, (0, 0), s), np.uint8)) for s in (1, 2, 4)]
    assert values == sorted(values) and values[0] < 0.2 < 0.4 < values[-1]


# --- duplicates ---------------------------------------------------------------------------------------------------


def test_the_hash_survives_a_new_size_and_noise_but_not_another_image() -> None:
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
    image = np.asarray(cv2.resize(coarse, (192, 128), interpolation=cv2.INTER_CUBIC), np.uint8)
    noisy = np.clip(cv2.resize(image, (96, 64)).astype(int) + rng.integers(-6, 7, (64, 96, 3)), 0, 255).astype(np.uint8)
    codes = np.array([phash(image), phash(noisy), phash(image[:, ::-1].copy())], dtype=np.uint64)
    assert distance(codes[:1], codes[1:2])[0] <= 4 < 16 < distance(codes[:1], codes[2:])[0]
    assert distance(np.array([0b1011], np.uint64), np.array([0b0001], np.uint64))[0] == 2


def test_the_best_of_a_group_stays_and_chains_do_not_swallow_it() -> None:
    paths = [np.column_stack([np.linspace(0, 80, 16), np.zeros(16)])] * 4
    codes = [[0, 0, 0], [0b1111] * 3, [0b11111111] * 3, [0, 0, 0]]  # 4 bits from one to the next
    assert duplicates(codes, paths, [10.0] * 4, [0.5, 0.9, 0.4, 0.8]) == {3: 1, 0: 1, 2: 1}
    assert duplicates(codes, paths, [10.0] * 4, [0.9, 0.5, 0.4, 0.9]) == {3: 0, 1: 0}  # the third is 8 from the first
    apart = [paths[0], paths[0] + [0, 9], paths[0], paths[0]]
    assert duplicates([[0] * 3] * 4, apart, [10.0, 10.0, 20.0, 10.0], [1.0] * 4, Likeness()) == {3: 0}


def test_a_planted_copy_is_found_and_another_drive_is_not(tmp_path: Path) -> None:
    write_drive(tmp_path / "a", scene=1)
    write_drive(tmp_path / "b", scene=2)
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    done = curate([f"drive_folder:{tmp_path}"])
    twins = {row.log_id: row.duplicate_of for row in done.rows if row.duplicate_of}
    assert set(twins) == {"copy"} and twins["copy"].startswith("drive_folder/a@")
    assert {row.reason for row in done.rows if row.log_id == "copy"} == {"near-duplicate"}
    described = json.loads((tmp_path / "copy" / "rig.json").read_text())
    (tmp_path / "copy" / "rig.json").write_text(json.dumps(described | {"split": "test"}))
    tested = curate([f"drive_folder:{tmp_path}"])  # the test keeps its clip, the training loses it
    assert {row.log_id for row in tested.rows if row.duplicate_of} == {"a"}


# --- marks --------------------------------------------------------------------------------------------------------


def measures_of(blurs: list[float]) -> list[dict[str, float]]:
    return [dict.fromkeys(FEATURES, 0.0) | {"blur": value} for value in blurs]


def test_a_classifier_learns_what_was_marked_and_says_how_well(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sharp, soft = rng.normal(0.2, 0.05, 20).tolist(), rng.normal(0.5, 0.05, 10).tolist()
    learned = learn(measures_of(sharp + soft), [True] * 20 + [False] * 10)
    assert learned.accuracy >= 0.9 and learned.base_rate == pytest.approx(2 / 3) and learned.marks == 30
    again = Classifier.from_json(json.loads(json.dumps(learned.to_json())))
    p = again.good(measures_of([0.2, 0.5]))
    assert again == learned and p[0] > 0.5 > p[1]
    nothing = learn(measures_of(rng.normal(0.3, 0.1, 40).tolist()), [bool(i % 2) for i in range(40)])
    assert nothing.accuracy < 0.75  # what tells nothing cannot be learned
    with pytest.raises(InputError, match="3 clips marked good and 1 bad"):
        learn(measures_of([0.1, 0.2, 0.3, 0.9]), [True, True, True, False])


def test_the_regression_meets_its_own_optimum() -> None:
    x, good = np.array([[-1.0], [-1], [1], [1]]), np.array([False, True, False, True])
    assert fit(x, good) == pytest.approx([0.0, 0.0], abs=1e-9)  # by symmetry
    w = fit(np.array([[-1.0], [1.0]]), np.array([False, True]), l2=1.0)[0]
    assert w == pytest.approx(2 / (1 + np.exp(w)))  # d/dw of 2 log(1 + exp(-w)) + w^2 / 2 is zero


def test_marks_are_read_and_decide(tmp_path: Path) -> None:
    (tmp_path / "marks.csv").write_text("clip_id,mark\na,good\nb,bad\n")
    (tmp_path / "marks.json").write_text('{"a": "keep", "b": false}')
    assert read_marks(tmp_path / "marks.csv") == read_marks(tmp_path / "marks.json") == {"a": True, "b": False}
    (tmp_path / "odd.csv").write_text("a,fine\n")
    with pytest.raises(InputError, match="expected good or bad"):
        read_marks(tmp_path / "odd.csv")
    source = f"drive_folder:{write_drive(tmp_path / 'drive')}"
    clip = curate([source]).rows[0].clip_id
    done = curate([source], marks={clip: False})
    assert done.rows[0].reason == "marked bad" and done.classifier is None and "no classifier" in done.notes[0]
    with pytest.raises(InputError, match="none of the 1 marks"):
        curate([source], marks={"nobody": True})


# --- captions -----------------------------------------------------------------------------------------------------


def test_captions_use_words_of_the_list_and_the_short_one_fits() -> None:
    for weather in (*WEATHERS, "unknown"):
        for manoeuvre in segments.MANOEUVRES:
            for lead, count, place in (("", 0, "unknown"), ("car", 1, "town"), ("bus", 9, "boston-seaport")):
                tags = {"weather": weather, "time": "dusk", "manoeuvre": manoeuvre, "junction": True, "pace": "steady",
                        "location": place, "vehicles": count, "pedestrians": count, "cyclists": count, "lead": lead}
                short, long = captions.short_caption(tags), captions.long_caption(tags)
                assert len(encode_text(short)) <= 5, short
                assert all(i >= 256 for i in encode_text(short) + encode_text(long)), long


def test_the_traffic_around_is_counted_and_the_lead_vehicle_named() -> None:
    log = log_of(path_of([(10, 8, 0)]))
    times, xyyaw = log.ego.timestamps_us, path_of([(10, 8, 0)])

    def track(name: str, category: str, x_m: float, y_m: float, moves: bool) -> Track:
        position = np.column_stack([x_m + xyyaw[:, 0] * moves, np.full(len(times), y_m), np.zeros(len(times))])
        return Track(name, category, np.array([4.0, 2, 2]), times, position, np.zeros(len(times)),
                     np.ones(len(times), bool))

    tracks = (track("lead", "truck", 15, 0, True), track("beside", "car", 10, 3.5, True),
              track("parked", "car", 40, -4, False), track("walker", "pedestrian", 30, 6, False))
    found = captions.traffic(replace(log, tracks=tracks), log.start_us, log.end_us)
    assert found == {"vehicles": 2, "parked": 1, "pedestrians": 1, "cyclists": 0, "lead": "truck"}
    tags = captions.tags(replace(log, tracks=tracks), Segment(log.start_us, log.end_us, "straight", "medium"), 120.0)
    assert captions.long_caption(tags) == "day. the ego is going straight behind a truck. vehicles, a pedestrian."
    assert captions.look_words(log, 30.0) == ("", "night")
    assert captions.traffic(log, log.start_us, log.end_us) == {}  # nobody annotated, nothing said


# --- balance ------------------------------------------------------------------------------------------------------


def test_weights_are_inverse_frequencies_to_a_power() -> None:
    tags = [{"m": "straight"}, {"m": "straight"}, {"m": "turn"}]
    seconds = [6.0, 2.0, 2.0]  # 80% straight, 20% turning
    half = balance.weights(tags, seconds, 0.5, ("m",))
    assert half[2] / half[0] == pytest.approx((0.8 / 0.2) ** 0.5)
    assert np.average(half, weights=seconds) == pytest.approx(1.0)
    even = balance.weights(tags, seconds, 1.0, ("m",))
    assert even[2] * 2 == pytest.approx(even[0] * 8)  # as much turning as going straight
    assert balance.weights(tags, seconds, 0.0, ("m",)).tolist() == [1.0, 1.0, 1.0]
    two = balance.weights([t | {"w": w} for t, w in zip(tags, "arr")], seconds, 0.5, ("m", "w"))
    assert two[2] / two[0] == pytest.approx((0.8 / 0.2 * 0.6 / 0.4) ** 0.5)
    rare = balance.weights([{"m": str(i == 99), "w": str(i == 99)} for i in range(100)], [1.0] * 100, 1.0, ("m", "w"))
    assert rare.max() == pytest.approx(8.0, rel=1e-4) and rare.mean() == pytest.approx(1.0)  # not 99
    with pytest.raises(InputError, match="--balance 2"):
        balance.weights(tags, seconds, 2.0, ("m",))


# --- places -------------------------------------------------------------------------------------------------------


def line(x_m: float, y_m: float, length_m: float, frame: str = "city", start_s: float = 0.0) -> places.Where:
    xs = np.arange(0, length_m + 1, places.SPACING_M)
    points = np.column_stack([x_m + xs, np.full(len(xs), y_m), np.zeros(len(xs))])
    start = START_US + int(start_s * 1e6)
    return places.Where(frame, True, points, start, start + 10_000_000)


def test_no_place_leaks_by_construction_and_a_planted_leak_is_found() -> None:
    rng = np.random.default_rng(0)
    clips = [line(x, y, 80) for x, y in rng.uniform(-4000, 4000, (600, 2))]
    spec = places.SplitSpec((0.7, 0.1, 0.2), region_m=400, buffer_m=50)
    found = places.by_place(clips, spec)
    kept = [i for i, (_, why) in enumerate(found) if not why]
    assert {found[i][0] for i in kept} == {"train", "val", "test"} and len(kept) > 400
    assert places.leaks([clips[i] for i in kept], [found[i][0] for i in kept], spec.buffer_m) == []
    everything = places.leaks(clips, [name for name, _ in found], spec.buffer_m)
    assert everything and all("" != found[leak.a][1] or "" != found[leak.b][1] for leak in everything)
    assert places.by_place(clips[:10], spec) == found[:10]  # drives added later move no place
    planted = [line(0, 0, 100), line(50, 30, 100), line(50, 30, 100, "another city")]
    leak = places.leaks(planted, ["train", "test", "test"], 50.0)
    assert [(it.a, it.b, it.distance_m) for it in leak] == [(0, 1, 30.0)]
    assert places.leaks(planted, ["train", "test", "test"], 25.0) == []


def test_one_place_has_one_split_whatever_is_above_and_most_clips_are_kept() -> None:
    spec = places.SplitSpec((0.0, 0.0, 1.0))
    assert places.by_place([line(0, 0, 80)], spec) == [("test", "")]
    spec = places.SplitSpec((1.0, 0.0, 0.0))
    assert places.by_place([line(499, 499, 400)], spec) == [("train", "")]
    rng = np.random.default_rng(1)
    found = places.by_place([line(x, y, 80) for x, y in rng.uniform(-9000, 9000, (1000, 2))], places.SplitSpec())
    kept = [name for name, why in found if not why]
    assert 800 < len(kept) and 0.05 < kept.count("test") / len(kept) < 0.2


def test_time_fences_leave_a_gap() -> None:
    clips = [line(0, 0, 50, start_s=1000.0 * k) for k in range(10)]
    spec = places.SplitSpec((0.6, 0.2, 0.2), gap_s=600)
    assert [name for name, _ in places.by_time(clips, spec)] == ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    assert all(not why for _, why in places.by_time(clips, spec))
    near = places.by_time(clips, replace(spec, gap_s=1200))
    assert [bool(why) for _, why in near] == [False] * 5 + [True] + [False] + [True] + [False] * 2
    splits = [name for name, _ in near]
    assert {(it.a, it.b) for it in places.leaks(clips, splits, 50, 1200)} == {(5, 6), (7, 8)}  # those that were dropped
    with pytest.raises(InputError, match="no calendar time"):
        places.by_time([replace(clips[0], start_us=0)], spec)


def test_frames_are_shared_by_city_by_origin_and_by_seed() -> None:
    log = log_of(path_of([(10, 8, 0)]))
    assert places.frame_of(log) == ("drive_folder:planted", False)
    assert places.frame_of(replace(log, source="nuscenes", location="boston-seaport"))[0] == "nuscenes:boston-seaport"
    assert places.frame_of(replace(log, source="town", metadata={"seed": 3})) == ("town:3", True)
    north = places.earth_from_local(49.0, 8.4, np.array([[0.0, 0, 0], [0, 1000, 0], [300, 400, 0]]))
    assert np.linalg.norm(north[1] - north[0]) == pytest.approx(1000)
    assert np.linalg.norm(north[2] - north[0]) == pytest.approx(500)
    moved = places.earth_from_local(49.0 + 1000 / 111_229.0, 8.4, np.zeros((1, 3)))  # metres a degree there
    assert np.linalg.norm(moved[0] - north[1]) < 2.0
    at = places.where(replace(log, metadata={places.ORIGIN: [49.0, 8.4]}), log.start_us, log.end_us)
    assert at.frame == "earth" and np.linalg.norm(at.points_m[-1] - at.points_m[0]) == pytest.approx(80, abs=0.1)


# --- the whole ----------------------------------------------------------------------------------------------------


def test_licences_are_matched_whole() -> None:
    assert licence_allowed("CC BY-NC 4.0", []) and licence_allowed("CC BY-NC 4.0", ["cc by-nc*"])
    assert not licence_allowed("CC BY-NC 4.0", ["CC BY"])


def test_a_source_of_another_licence_is_refused(tmp_path: Path) -> None:
    write_drive(tmp_path / "drives" / "a", scene=1)
    write_drive(tmp_path / "drives" / "b", scene=2, licence="proprietary")
    spec = CurationSpec(licences=(LICENCE,))
    rows = curate([f"drive_folder:{tmp_path / 'drives'}"], spec).rows
    assert {(row.log_id, row.reason) for row in rows} == {("a", ""), ("b", "licence")}
    with pytest.raises(InputError, match="'proprietary' is not among those allowed"):
        curate([f"drive_folder:{tmp_path / 'drives' / 'b'}"], spec)


def test_the_command_writes_a_manifest_that_leads_back(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write_drive(tmp_path / "drives" / "a", scene=1, pieces=[(8, 8, 0), (3, 6, 1 / 11), (8, 8, 0)])
    write_drive(tmp_path / "drives" / "b", scene=2)
    bytes_of = []
    for workers in (1, 2):
        out = tmp_path / f"run{workers}"
        assert cli.run(["data", "curate", "--source", f"drive_folder:{tmp_path / 'drives'}", "--out", str(out),
                        "--workers", str(workers), "--set", "segments.lead_s=1.5"]) == 0
        bytes_of.append([(out / name).read_bytes() for name in ("manifest.jsonl", "manifest.parquet", "kept.png")])
    assert bytes_of[0] == bytes_of[1]
    rows = read_manifest(tmp_path / "run1")
    assert pq.read_table(tmp_path / "run1" / "manifest.parquet").num_rows == len(rows)
    turn = [row for row in rows if row.tags["manoeuvre"] == "turn left"]
    assert len(turn) == 1 and turn[0].keep and turn[0].captions[0] == "day turning left"
    train = [row for row in rows if row.keep]
    assert np.average([r.weight for r in train], weights=[r.seconds for r in train]) == pytest.approx(1, abs=1e-5)
    assert turn[0].weight > max(row.weight for row in train if row.tags["manoeuvre"] == "straight")
    back = trace(rows, "a", turn[0].end_us)
    assert json.loads((tmp_path / "run1" / "spec.json").read_text())["segments"]["lead_s"] == 1.5
    assert turn[0] in back and turn[0].lineage["licence"] == LICENCE
    assert turn[0].lineage["recorded_utc"].startswith("2023-11-14T22:13:2")
    summary = json.loads((tmp_path / "run1" / "summary.json").read_text())
    assert summary["complete"] and summary["results"]["kept"] == len(train)
    assert {"report.html", "kept.png", "manifest.jsonl", "manifest.parquet"} <= set(summary["files"])


def test_a_drive_that_cannot_be_read_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write_drive(tmp_path / "a", scene=1)
    write_drive(tmp_path / "b", scene=2)
    (tmp_path / "b" / "ego.csv").write_text("nothing\n")
    for source, kept in ((tmp_path, True), (tmp_path / "b", False)):
        out = tmp_path.with_name(f"{tmp_path.name}-{kept}")
        assert cli.run(["data", "curate", "--source", f"drive_folder:{source}", "--out", str(out)]) == 0
        rows = read_manifest(out)
        assert [row.reason for row in rows if row.log_id == "b"] == ["unreadable"]
        assert any(row.keep for row in rows) == kept
        told, = json.loads((out / "summary.json").read_text())["results"]["unreadable"]
        assert told.startswith("b: ") and "no column 'timestamp_us'" in told
        assert told in html.unescape((out / "report.html").read_text())
        assert pq.read_table(out / "manifest.parquet")["caption"].to_pylist()[-1] == ""
    with pytest.raises(InputError, match="local or ray"):
        curate([f"drive_folder:{tmp_path}"], engine="spark")


def test_a_place_split_moves_recordings_and_never_a_seed() -> None:
    spec = CurationSpec(split_by="place", splits=places.SplitSpec((0.0, 0.0, 1.0)))
    city = Candidate("nuscenes:x", "a", 0, 10_000_000, "", frame="nuscenes:city", shared=True,
                     points_m=[[0, 0, 0]], lineage={"told": {}})
    town = replace(city, source="town:7", frame="town:7", lineage={"told": {"seed": 7}})
    assert split([city, town], [[], []], spec) == ["test", "train"]


@pytest.mark.slow
def test_ray_gives_the_same_manifest(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    write_drive(tmp_path / "a", scene=1)
    write_drive(tmp_path / "b", scene=2)
    source = f"drive_folder:{tmp_path}"
    assert curate([source], engine="ray", workers=2).rows == curate([source]).rows
