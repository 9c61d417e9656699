"""The health report itself: sound drives, logs made fit, the page, and what the table of damages leaves out."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from drive_wm.datasets.clips import make_clip
from drive_wm.datasets.drive_folder import DriveFolderSource
from drive_wm.datasets.health import check, column, examine, fit, forward_speed, validity
from drive_wm.datasets.health.cameras import calibration, chosen, look_at
from drive_wm.datasets.health.ego import pose_jumps
from drive_wm.datasets.health.findings import found, many
from drive_wm.datasets.health.pictures import path_above
from drive_wm.datasets.rigs import nuscenes_six
from drive_wm.datasets.sources import open_source
from drive_wm.eval.health_page import check_drives
from drive_wm.eval.run_folder import RunFolder
from drive_wm.geometry import pose_from_xyzyaw
from drive_wm.types import ByteArray, FloatArray, FrameError, InputError, IntArray, Log, Poses

FORWARD = [0.5, -0.5, 0.5, -0.5]
START_US, STEP_US, COUNT = 1_700_000_000_000_000, 100_000, 60


def far_image(rng: np.random.Generator, shift_px: float) -> ByteArray:
    """What a camera of 64 x 48 pixels sees of a wall of noise, moved by shift_px."""
    wall = cv2.resize(np.random.default_rng(0).integers(0, 255, (12, 60), dtype=np.uint8), (480, 48))
    grey = cv2.warpAffine(wall, np.array([[1.0, 0, shift_px - 200], [0, 1.0, 0]]), (64, 48))
    return np.repeat(np.clip(grey + rng.normal(0, 3, grey.shape), 0, 255).astype(np.uint8)[..., None], 3, 2)


def write_drive(folder: Path, speed_mps: float = 8.0, said_mps: float = 8.0, yaw_rad: float = 0.0) -> Path:
    """Straight ahead for 6 s, one camera at 10 Hz."""
    folder.mkdir(parents=True)
    camera = {"width": 64, "height": 48, "intrinsics": [[50, 0, 32], [0, 50, 24], [0, 0, 1]],
              "translation_m": [1.5, 0.0, 1.4], "rotation_wxyz": FORWARD}
    (folder / "rig.json").write_text(json.dumps({"cameras": {"front": camera}, "licence": "mine"}))
    rows = ["timestamp_us,x_m,y_m,yaw_rad,speed_mps"]
    rows += [f"{START_US + i * STEP_US},{0.1 * speed_mps * i},0.0,{yaw_rad},{said_mps}" for i in range(COUNT)]
    (folder / "ego.csv").write_text("\n".join(rows))
    (folder / "frames" / "front").mkdir(parents=True)
    rng = np.random.default_rng(1)
    for i in range(COUNT):
        image = far_image(rng, 0.5 * i)
        cv2.imwrite(str(folder / "frames" / "front" / f"{START_US + i * STEP_US}.jpg"), image)
    return folder


def load(folder: Path) -> Log:
    source = DriveFolderSource(folder)
    return source.load(source.log_ids()[0])


# --- sound drives -------------------------------------------------------------------------------------------------


def test_recorded_drives_are_sound_and_agree_with_gps(shared_data: Path) -> None:
    source = DriveFolderSource(shared_data / "drives")
    for name in source.log_ids():
        log, report = examine(source, name)
        assert log is not None and not report.findings, report.to_text()
        assert np.nanmean(np.abs(column(log, "speed_mps") - forward_speed(log))) < 0.15


@pytest.mark.parametrize("kind, folder", [("argoverse2", "argoverse2"), ("nuscenes", "nuscenes_one_sample")])
def test_recorded_data_sets_are_sound(kind: str, folder: str, shared_data: Path) -> None:
    pytest.importorskip("nuscenes" if kind == "nuscenes" else "pyarrow")
    source = open_source(f"{kind}:{shared_data / folder}")
    for name in source.log_ids():
        _, report = examine(source, name)
        assert not report.findings, report.to_text()


def test_the_town_is_sound_drawn_and_as_nuscenes(tmp_path: Path) -> None:
    pytest.importorskip("nuscenes", reason="needs pip install nuscenes-devkit")
    from drive_wm.datasets.nuscenes_writer import write_nuscenes
    from drive_wm.datasets.rendered import RenderedFrames
    from drive_wm.datasets.town import generate

    log = generate(7, duration_s=10.0)
    assert not check(log, 2).findings, check(log, 2).to_text()
    two = replace(log, rig=log.rig.subset(["CAM_FRONT", "CAM_BACK_LEFT"]))
    two = replace(two, frames=RenderedFrames(two))
    source = open_source(f"nuscenes:{write_nuscenes([two], tmp_path / 'town', sweep_hz=5)}")
    _, report = examine(source, source.log_ids()[0])
    assert not report.findings, report.to_text()


# --- logs made fit ------------------------------------------------------------------------------------------------


def test_a_log_made_fit_lists_and_reads_sound_images_only_and_travels_to_workers(tmp_path: Path) -> None:
    folder = write_drive(tmp_path / "a")
    bad = START_US + 20 * STEP_US
    (folder / "frames" / "front" / f"{bad}.jpg").write_bytes(b"")
    log = load(folder)
    sound = pickle.loads(pickle.dumps(fit(log)))
    assert len(log.frames.timestamps_us("front")) == COUNT and len(sound.frames.timestamps_us("front")) == COUNT - 1
    with pytest.raises(FrameError, match="damaged, see its health report"):
        sound.frames.read("front", bad)
    assert not check(sound).kinds("error")
    assert fit(load(write_drive(tmp_path / "b"))).frames.read("front", bad).shape == (48, 64, 3)


def test_a_clip_uses_no_image_twice_whatever_the_tolerance(tmp_path: Path) -> None:
    log = load(write_drive(tmp_path / "a"))
    clip = make_clip(log, START_US, 40, 20.0, tolerance_us=60_000)  # twice as many steps as images
    assert clip.frames_valid[:, 0].sum() == 20
    np.testing.assert_array_equal(clip.frames_valid[:, 0], np.arange(40) % 2 == 0)
    assert make_clip(log, START_US + 7, 4, 10.0, tolerance_us=0).frames_valid.sum() == 0


def test_a_clip_masks_an_image_that_repeats_the_one_before(tmp_path: Path) -> None:
    folder = write_drive(tmp_path / "a")
    paths = sorted((folder / "frames" / "front").iterdir())
    paths[11].write_bytes(paths[10].read_bytes())
    clip = make_clip(load(folder), START_US, 20, 10.0)
    assert np.flatnonzero(~clip.frames_valid[:, 0]).tolist() == [11] and clip.frames["front"][11].max() == 0


def test_no_action_leads_over_a_hole_in_the_poses(tmp_path: Path) -> None:
    log = load(write_drive(tmp_path / "a"))
    valid = np.ones(COUNT, bool)
    valid[21:29] = False  # 2.1 s to 2.8 s: between the steps at 2 s and 3 s
    clip = make_clip(replace(log, ego=replace(log.ego, valid=valid)), START_US, 6, 1.0)
    assert clip.ego_valid.all() and clip.actions_valid.tolist() == [True, True, False, True, True]
    np.testing.assert_allclose(clip.actions[clip.actions_valid], [[8.0, 0.0]] * 4, atol=1e-9)


def test_speed_comes_from_the_poses_when_none_is_reported(tmp_path: Path) -> None:
    folder = write_drive(tmp_path / "a")
    text = (folder / "ego.csv").read_text()
    (folder / "ego.csv").write_text("\n".join(line.rpartition(",")[0] for line in text.splitlines()))
    log = load(folder)
    assert not check(log).findings and np.isnan(column(log, "speed_mps")).all()
    np.testing.assert_allclose(make_clip(log, START_US, 10, 2.0).actions, [[8.0, 0.0]] * 9, atol=1e-9)


# --- single checks ------------------------------------------------------------------------------------------------


def test_backing_up_slowly_is_odd_and_at_speed_wrong(tmp_path: Path) -> None:
    slow = check(load(write_drive(tmp_path / "a", 4.0, 4.0, np.pi)))
    assert slow.ok and slow.kinds() == {"reversing"}
    assert check(load(write_drive(tmp_path / "b", 12.0, 12.0, np.pi))).kinds("error") == {"heading"}


@pytest.mark.parametrize("said_mps, kind, words", [
    (28.8, "speed unit", "km/h"), (17.9, "speed unit", "miles an hour"), (15.55, "speed unit", "knots"),
    (2.44, "position unit", "feet"), (10.0, "speed mismatch", "1.25 times"), (8.3, None, "")])
def test_the_ratio_of_speeds_betrays_the_unit(said_mps: float, kind: str | None, words: str, tmp_path: Path) -> None:
    report = check(load(write_drive(tmp_path / "a", 8.0, said_mps)), 0)
    assert report.kinds("error") == ({kind} if kind else set())
    assert words in report.to_text()


def along_x(x_m: FloatArray) -> Log:
    times = 100_000 * np.arange(len(x_m))
    pose = pose_from_xyzyaw(np.stack([x_m, 0 * x_m, 0 * x_m], -1), np.zeros(len(x_m)))
    from drive_wm.datasets.rendered import NoFrames

    return Log("x", "test", nuscenes_six(), Poses(times, pose, np.ones(len(x_m), bool)), NoFrames())


def test_an_outlier_spoils_its_surroundings_and_a_lasting_jump_the_shorter_part() -> None:
    out, stays = (np.arange(60.0) for _ in range(2))
    out[30] += 40.0
    stays[50:] += 40.0
    (outlier,), (jump,) = (list(pose_jumps(along_x(x))) for x in (out, stays))
    assert outlier.times_us == tuple(100_000 * np.arange(26, 35)) and outlier.count == 2  # 0.35 s around 2.9 to 3.1 s
    assert jump.times_us == tuple(100_000 * np.arange(46, 60)) and jump.count == 1
    assert not list(pose_jumps(along_x(np.arange(60.0) ** 2 / 20)))  # 10 m/s2


def test_mounts_of_a_real_rig_pass_and_a_portrait_camera_does_not() -> None:
    camera = nuscenes_six().cameras[0]
    assert not list(calibration(camera))
    turned = camera.rig_from_camera.copy()
    turned[:3, :3] = turned[:3, :3] @ np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    (finding,) = calibration(replace(camera, rig_from_camera=turned))
    assert finding.kind == "camera mount" and "upright" in finding.message


def test_few_images_are_decoded_and_small_files_among_them(tmp_path: Path) -> None:
    folder = write_drive(tmp_path / "a")
    black = sorted((folder / "frames" / "front").iterdir())[31]
    cv2.imwrite(str(black), np.zeros((48, 64, 3), np.uint8))
    log = load(folder)
    seen = look_at(log, log.rig.cameras[0], 10)
    assert {30, 31, 32} <= set(chosen(seen, 10)) and len(seen.grey) <= 14 and len(seen.prints) == COUNT
    assert {"under-exposed", "sampled"} <= check(log, 10).kinds()


class Wide:
    """Images of 640 x 480 pixels in memory; only what is asked for is made."""

    rendered = False

    def timestamps_us(self, camera: str) -> IntArray:
        return START_US + STEP_US * np.arange(3)

    def read(self, camera: str, timestamp_us: int) -> ByteArray:
        raise FrameError(f"{camera}: no image")


def test_a_source_that_has_no_files_is_checked_as_well() -> None:
    log = along_x(np.arange(10.0))
    report = check(replace(log, frames=Wide(), licence="mine"))
    assert {f.where for f in report.findings if f.kind == "broken image"} == set(log.rig.names)


# --- the report ---------------------------------------------------------------------------------------------------


def test_report_as_text_and_as_json(tmp_path: Path) -> None:
    folder = write_drive(tmp_path / "a", 8.0, 28.8)
    (folder / "frames" / "front" / f"{START_US + 12 * STEP_US}.jpg").write_bytes(b"")
    report = check(load(folder))
    assert "a: DAMAGED (2 errors, 0 warnings)" in report.to_text() and "km/h" in report.to_text()
    assert "mend: write speed in m/s" in report.to_text()
    speed, image = json.loads(json.dumps(report.to_dict()))["findings"]
    assert (speed["kind"], speed["camera"], speed["first_s"], speed["masked"]) == ("speed unit", None, None, False)
    assert (image["kind"], image["camera"], image["first_s"], image["masked"]) == ("broken image", "front", 1.2, True)
    assert image["count"] == 1 and image["first_us"] == START_US + 12 * STEP_US and "copy the file" in image["mend"]


def test_an_unknown_kind_cannot_be_found() -> None:
    with pytest.raises(KeyError):
        found("gremlins", "ego", "they are in the engine")
    assert (many(1, "image"), many(2, "image"), many(2, "stretch")) == ("1 image", "2 images", "2 stretches")


def test_validity_over_time(tmp_path: Path) -> None:
    folder = write_drive(tmp_path / "a")
    paths = sorted((folder / "frames" / "front").iterdir())
    paths[10].write_bytes(b"")
    for path in paths[20:30]:
        path.unlink()
    log = load(folder)
    bars = validity(log, check(log))
    assert [state for _, _, state in bars["ego"]] == ["sound"]
    assert [state for _, _, state in bars["front"]] == ["sound", "damaged", "sound", "missing", "sound"]
    np.testing.assert_allclose([bar[:2] for bar in bars["front"]][3], (1.95, 2.95))


def test_the_page_names_what_was_found_and_shows_it(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    broken = write_drive(tmp_path / "drives" / "monday")
    sorted((broken / "frames" / "front").iterdir())[10].write_bytes(b"")
    write_drive(tmp_path / "drives" / "tuesday")
    unreadable = write_drive(tmp_path / "drives" / "wednesday")
    (unreadable / "ego.csv").write_text("timestamp_us,x_m,y_m,yaw_rad\n1,nan,0,0")
    source = DriveFolderSource(tmp_path / "drives")
    run = RunFolder(tmp_path / "out", "data-check")
    reports = check_drives(source, source.log_ids(), run)
    assert [report.ok for report in reports] == [False, True, False]
    page = (tmp_path / "out" / "report.html").read_text()
    for words in ("2 of 3 drives damaged", "broken image", "copy the file", "unreadable", "front", "+1.00 s: broken"):
        assert words in page
    assert page.count("<img") == 2 + 3 and page.count('class="damaged"') >= 2 and "http" not in page
    assert [item["ok"] for item in json.loads((tmp_path / "out" / "health.json").read_text())] == [False, True, False]


def test_the_path_shows_its_damage() -> None:
    log = along_x(np.arange(60.0))
    sound, damaged = path_above(log, check(log)), along_x(np.where(np.arange(60) == 30, 500.0, np.arange(60.0)))
    images = (sound, path_above(damaged, check(damaged)))
    reds = [(image[..., 0].astype(int) - image[..., 1] > 100).sum() for image in images]
    assert reds[0] == 0 and reds[1] > 500


def test_a_broken_can_bus_file_is_one_clear_line(tmp_path: Path) -> None:
    from drive_wm.datasets.health.tables import read_can

    (tmp_path / "can_bus").mkdir()
    (tmp_path / "can_bus" / "scene-0001_pose.json").write_text("[{}]")
    assert read_can(tmp_path, "scene-0002") is None
    with pytest.raises(InputError, match="is no CAN bus pose file"):
        read_can(tmp_path, "scene-0001")
