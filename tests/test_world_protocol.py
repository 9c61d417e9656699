"""The world protocol: its frozen starts, and every metric on pictures and paths that one can compute by hand."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from drive_wm.datasets.rendered import NoFrames
from drive_wm.datasets.rigs import dash
from drive_wm.datasets.town import generate, split_of
from drive_wm.eval.world import aims, choose, images, lamps, probe, seen, summary, told
from drive_wm.eval.world.bits import token_bits
from drive_wm.eval.world.command import evaluate_world
from drive_wm.eval.world.futures import Course, free_way
from drive_wm.eval.world.protocol import PROTOCOL, STRATA, WorldProtocol, stamp, town_starts
from drive_wm.geometry import pose_from_xyyaw
from drive_wm.model import DriveWM, ModelConfig
from drive_wm.render import SEMANTICS, Labels, Renderer, agents_at, signals_at
from drive_wm.tokenizer.model import TokenizerConfig
from drive_wm.types import SIGNAL_STATES, InputError, Log, Poses, Prop, RoadMap, Signal
from drive_wm.world.model import WorldConfig
from drive_wm.world.transformer import TransformerConfig

CAR, ROAD = SEMANTICS.index("car"), SEMANTICS.index("road")


# --- starts -------------------------------------------------------------------------------------------------------


def test_the_frozen_starts_are_200_test_drives_and_any_beginning_is_stratified() -> None:
    starts = town_starts()
    assert len(starts) == 200 == len({s.seed for s in starts})
    assert all(split_of(s.seed) == "test" and s.speed_mps >= PROTOCOL.moving_mps for s in starts)
    for count in (5, 50, 200):
        names = [s.stratum for s in town_starts(count)]
        assert all(names.count(name) == count // len(STRATA) for name in STRATA)


def test_a_start_is_what_the_rule_finds() -> None:
    start = town_starts(1)[0]
    found = choose.start_in(generate(start.seed, duration_s=PROTOCOL.drive_s), start.seed, [start.stratum])
    assert found == (start.seed, start.start_s, start.stratum, start.speed_mps)


def test_the_last_start_reaches_sixteen_times_the_context() -> None:
    latest = max(s.start_s for s in town_starts())
    assert latest + PROTOCOL.long_s <= PROTOCOL.drive_s and PROTOCOL.long_s == 16 * PROTOCOL.training_context_s


def test_a_part_of_the_protocol_is_named_as_one() -> None:
    assert stamp(200, ("none",))["protocol"] == "world@1.0" and stamp(50, ("none",))["protocol"] == "world@1.0/50"
    with pytest.raises(InputError, match="--starts 201"):
        town_starts(201)


# --- pictures -----------------------------------------------------------------------------------------------------


def test_psnr_and_ssim_by_hand() -> None:
    black, grey = np.zeros((2, 32, 32, 3), np.uint8), np.full((2, 32, 32, 3), 51, np.uint8)
    assert images.psnr_db(black, grey) == pytest.approx([20 * math.log10(5)] * 2)  # an error of a fifth everywhere
    assert images.ssim(grey[0], grey[0]) == pytest.approx(1.0)
    assert images.ssim(black[0], grey[0]) == pytest.approx(images.C1 / (51**2 + images.C1), rel=1e-3)


def test_cameras_at_one_place_see_the_same() -> None:
    camera = dash(32, 16).cameras[0]
    rig = dataclasses.replace(dash(32, 16), cameras=(camera, dataclasses.replace(camera, name="TWIN")))
    label = Labels(np.zeros((16, 32), np.uint8), np.full((16, 32), 9.0, np.float32), np.full((16, 32), -1, np.int32))
    (shared,) = images.overlaps(rig, {name: label for name in rig.names})
    assert len(shared[2]) == 16 * 32 and np.array_equal(shared[2], shared[3])
    picture = np.random.default_rng(0).integers(0, 200, (16, 32, 3)).astype(np.uint8)
    assert images.agreement_db({camera.name: picture, "TWIN": picture}, [shared]) == 100.0
    off = images.agreement_db({camera.name: picture, "TWIN": np.asarray(picture + 51, np.uint8)}, [shared])
    assert off == pytest.approx(20 * math.log10(5))


# --- what is seen -------------------------------------------------------------------------------------------------


def car_at(columns: slice) -> Labels:
    classes, instance = np.full((20, 40), ROAD, np.uint8), np.full((20, 40), -1, np.int32)
    classes[4:10, columns], instance[4:10, columns] = CAR, 0
    return Labels(classes, np.full((20, 40), 5.0, np.float32), instance)


def sights(read: np.ndarray, picture: np.ndarray, truth: np.ndarray) -> seen.Sights:
    label = car_at(slice(4, 12))
    reading = probe.Reading(read[None], read[None] * 0.0, np.zeros((1, 3, 20, 40)), np.zeros((1, 1)), np.zeros((1, 1)))
    return seen.look({"C": picture}, {"C": (reading, 0)}, {"C": truth}, {"C": label.semantics}, {"C": label}, {"C": []},
                     PROTOCOL)


def test_an_agent_is_kept_with_its_colour_or_vanishes_and_another_is_invented() -> None:
    truth = np.full((20, 40, 3), 90, np.uint8)
    truth[4:10, 4:12] = (200, 30, 30)
    same = sights(car_at(slice(4, 12)).semantics, truth, truth)
    assert (same.asked, same.kept, same.colored, same.invented) == (1, 1, 1, 0)
    repainted = truth.copy()
    repainted[4:10, 4:12] = (30, 30, 200)
    assert (lambda s: (s.kept, s.colored))(sights(car_at(slice(4, 12)).semantics, repainted, truth)) == (1, 0)
    half = sights(car_at(slice(9, 15)).semantics, truth, truth)  # three of eight columns, and the rest beside it
    assert (half.asked, half.kept, half.invented) == (1, 0, 0)
    elsewhere = sights(car_at(slice(25, 33)).semantics, truth, truth)
    assert (elsewhere.kept, elsewhere.invented) == (0, 1)


def test_mean_iou_over_the_classes_that_are_there() -> None:
    read, truth = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    assert seen.mean_iou(probe.class_counts(read, truth)) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_frechet_of_gaussians() -> None:
    cloud = np.random.default_rng(0).normal(size=(400, 3))
    assert probe.frechet(cloud, cloud) == pytest.approx(0.0, abs=1e-9)
    assert probe.frechet(cloud, cloud + [3.0, 4.0, 0.0]) == pytest.approx(25.0)
    assert probe.frechet(cloud, 2 * cloud - cloud.mean(0)) == pytest.approx(np.trace(np.cov(cloud.T)))  # (2 - 1)^2 tr
    assert math.isnan(probe.frechet(cloud[:1], cloud))


def log_with(map_: RoadMap, signals: tuple[Signal, ...] = ()) -> Log:
    times = np.arange(3) * 1_000_000
    poses = Poses(times, np.tile(np.eye(4), (3, 1, 1)), np.ones(3, bool))
    return Log("hand", "hand", dash(), poses, NoFrames(), (), map_, signals)


def test_a_lamp_is_asked_for_where_its_head_is_in_sight_and_faces_the_camera() -> None:
    camera = dash(224, 128).cameras[0]
    head = np.array([21.4, 0.0, 1.35])  # straight ahead of the camera, at 20 m

    def found(yaw: float, state: str, depth_m: float = 20.0) -> list[lamps.Lamp]:
        signal = Signal("s", head, yaw, np.array([0]), np.array([SIGNAL_STATES.index(state)], np.int8))
        label = Labels(np.full((128, 224), SEMANTICS.index("traffic light"), np.uint8),
                       np.full((128, 224), depth_m, np.float32), np.full((128, 224), -1, np.int32))
        return list(lamps.lamps_in(log_with(RoadMap("none"), (signal,)), camera, np.eye(4), label, 0))

    (lamp,) = found(math.pi, "red")
    assert lamps.LAMP_STATES[lamp.state] == "red" and lamp.pixels[64, 112] and not lamp.pixels[64, 150]
    assert not found(0.0, "red") and not found(math.pi, "off") and not found(math.pi, "red", depth_m=12.0)


# --- obedience ----------------------------------------------------------------------------------------------------


def shown(value: float) -> told.Shown:
    picture = np.full((1, 8, 8, 3), value, np.uint8)
    return told.Shown({"C": picture}, {"C": picture[:, None, :, :, 0] / 10.0})


def courses(blocked: str = "") -> dict[str, Course]:
    places = {"log": (10.0, 0.0), "keep": (10.2, 0.0), "left": (9.0, 3.0), "right": (9.0, -3.0)}
    return {name: Course(name, np.zeros((1, 2)), pose_from_xyyaw(np.array([[x, y, 0.0]])), np.array([name != blocked]))
            for name, (x, y) in places.items()}


def test_the_nearest_truth_tells_the_action() -> None:
    truths = {"log": shown(50), "keep": shown(55), "left": shown(100), "right": shown(200)}
    made = {"log": shown(56), "keep": shown(54), "left": shown(110), "right": shown(90)}
    rows = {r["action"]: r for r in told.tell(made, truths, courses(), [1], PROTOCOL)}
    assert [rows[a]["told_pixels"] for a in ("log", "keep", "left", "right")] == [0.0, 1.0, 1.0, 0.0]
    assert rows["log"]["told_or_same_pixels"] == 1.0 and rows["right"]["told_or_same_pixels"] == 0.0
    assert (rows["left"]["side_features"], rows["right"]["side_features"]) == (1.0, 0.0)
    assert "side_pixels" not in rows["log"] and {r["candidates"] for r in rows.values()} == {4}


def test_an_action_that_hit_something_is_neither_asked_for_nor_a_candidate() -> None:
    truths = {"log": shown(50), "keep": shown(55), "left": shown(100), "right": shown(200)}
    rows = {r["action"]: r for r in told.tell(truths, truths, courses("left"), [1], PROTOCOL)}
    assert set(rows) == {"log", "keep", "right"} and rows["log"]["candidates"] == 3
    assert "side_pixels" not in rows["right"]


def test_a_way_through_a_house_is_not_free_from_there_on() -> None:
    house = Prop("building", np.array([30.0, 0.0, 0.0]), 0.0, np.array([8.0, 8.0, 6.0]), (9, 9, 9))
    poses = pose_from_xyyaw(np.array([[10.0, 0, 0], [20.0, 0, 0], [29.0, 0, 0], [50.0, 0, 0]]))
    assert free_way(log_with(RoadMap("one", props=(house,))), poses, [0] * 4).tolist() == [True, True, False, False]


def test_the_path_read_off_moves() -> None:
    quarter = np.array([[math.pi, math.pi / 2]])  # an arc of radius 2
    assert told.path_of(quarter) == pytest.approx(np.array([[2.0, 2.0, math.pi / 2]]))
    straight = np.array([[5.0, 0.0], [5.0, 0.0]])
    start = pose_from_xyyaw(np.array([3.0, 4.0, math.pi / 2]))
    driven = pose_from_xyyaw(np.array([[3.0, 9.0, math.pi / 2], [4.0, 14.0, math.pi / 2]]))
    assert told.path_errors(straight, start, driven) == pytest.approx([0.0, 1.0])


def test_even_odds_cost_three_bits_a_digit() -> None:
    bits = token_bits([torch.zeros(1, 5, 8)] * 12, torch.zeros(1, 5, 12, dtype=torch.long), 3)
    assert bits.shape == (1, 5, 3) and torch.allclose(bits, torch.tensor(12.0))


# --- tables -------------------------------------------------------------------------------------------------------


def test_a_mean_over_logs_with_its_interval() -> None:
    rows = [{"log": str(i), "value": float(i % 2), "n": 1 + i % 2} for i in range(40)]
    mean = summary.estimate(rows, "value", None, 500)
    share = summary.estimate(rows, "value", "n", 500)
    assert mean is not None and share is not None
    assert mean.value == 0.5 and mean.logs == 40 and 0.3 < mean.low < 0.5 < mean.high < 0.7
    assert share.value == pytest.approx(20 / 60) and summary.estimate(rows, "value", None, 500) == mean
    assert summary.estimate(rows, "other", None, 10) is None


def test_margins_are_against_the_same_start_and_step() -> None:
    rows = [{"start": s, "log": s, "step": 1, "mode": m, "psnr_db": v} for s, v0 in (("a", 20.0), ("b", 30.0))
            for m, v in (("copy last", v0), ("none", v0 + 2), ("reconstruction", v0 + 5))]
    made = {(r["start"], r["mode"]): r for r in summary.with_margins(rows)}
    assert made["a", "none"]["over_copy_db"] == 2.0 and made["b", "none"]["under_reconstruction_db"] == 3.0


def test_an_aim_is_reached_missed_or_not_measured() -> None:
    least, most = aims.Aim("x", "t", (), "m", 0.8, 0.95), aims.Aim("x", "t", (), "m", 1.5, None, most=True)
    assert [aims.verdict(least, v) for v in (0.7, 0.8, 0.96, None, math.nan)] == [
        "missed", "floor", "goal", "not measured", "not measured"]
    assert [aims.verdict(most, v) for v in (1.4, 1.6)] == ["floor", "missed"]


def test_every_aim_is_a_column_of_a_table() -> None:
    columns: dict[str, dict[str, Any]] = {
        "action_told": summary.TOLD, "frames": summary.FRAMES, "agents_motion": summary.AGENTS,
        "seen_by_the_probe": summary.SEEN | {"share_of_reconstruction": None}, "cameras_away": summary.CAMERAS,
        "drift": {"over_that_at_4_s": None}}
    assert all(aim.metric in columns[aim.table] for aim in aims.AIMS)


# --- whole --------------------------------------------------------------------------------------------------------


def test_the_shipped_probe_reads_a_drive_it_never_saw() -> None:
    log, read = generate(100_700), probe.Probe.load()
    at = log.start_us + 5_000_000
    pose, agents, states = log.ego.world_from_body[50], agents_at(log, at), signals_at(log, at)
    renderer = Renderer(log.map, log.look, log.signals)
    pictures, labels = renderer.draw(log.rig, pose, agents, states), renderer.labels(log.rig, pose, agents, states)
    reading = read.read([pictures[n] for n in log.rig.names])
    right = np.mean([reading.classes[i] == labels[n].semantics for i, n in enumerate(log.rig.names)])
    assert right > 0.75 and reading.pooled.shape == (6, probe.WIDTHS[-1])


def test_a_run_leaves_tables_sheets_and_aims_and_repeats_itself(tmp_path: Path) -> None:
    transformer = TransformerConfig(width=32, layers=1, heads=2, kv_heads=1, mlp=32, rope_pairs=(3, 2, 3))
    config = ModelConfig(TokenizerConfig(channels=(8, 8, 16, 16), decoder_blocks=1), WorldConfig(transformer))
    DriveWM.create(config).save_pretrained(tmp_path / "small")
    protocol = WorldProtocol(drive_s=10.0, horizon_s=1.0, long_s=1.5, told_at_s=(1.0,), read_at_s=(0.5, 1.0, 1.5),
                             cameras_left=(1,), bootstrap=20, passes=1)
    made = [evaluate_world(tmp_path / name, str(tmp_path / "small"), starts=1, modes=("imagined",), protocol=protocol)
            for name in ("one", "two")]
    assert made[0]["protocol"] == "world@1.0+changed/1" and {r["mode"] for r in made[0]["frames"]} == {
        "truth", "reconstruction", "copy last", "carried, given", "carried, none", "imagined"}
    assert (tmp_path / "one/rows.parquet").read_bytes() == (tmp_path / "two/rows.parquet").read_bytes()
    again = evaluate_world(tmp_path / "one", str(tmp_path / "small"), starts=1, modes=("imagined",), protocol=protocol,
                           resume=True)  # nothing is left to be measured
    assert again["frames"] == made[0]["frames"] and again["action_told"] == made[0]["action_told"]
    with pytest.raises(InputError, match="begun with another seed"):
        evaluate_world(tmp_path / "one", str(tmp_path / "small"), 1, starts=1, modes=("imagined",), protocol=protocol,
                       resume=True)
    assert list((tmp_path / "one/sheets").rglob("*.png")) == [] and (tmp_path / "one/report.html").is_file()
    told_rows = {(r["mode"], r["time_s"]): r for r in made[0]["action_told"]}
    assert told_rows["reconstruction", 1.0]["candidates"] > 3 and ("imagined", 1.0) in told_rows
