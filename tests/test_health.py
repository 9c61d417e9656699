"""Each way to damage a recording is found and named; a sound recording has no error."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from drive_wm.datasets.drive_folder import DriveFolderSource
from drive_wm.datasets.health import HealthReport, check, column, forward_speed

FORWARD = [0.5, -0.5, 0.5, -0.5]
START_US, STEP_US, COUNT = 1_700_000_000_000_000, 100_000, 60
HOUR_US = 3_600_000_000
Table = dict[str, list]


def table() -> Table:
    """Left along a circle of 20 m at 8 m/s for 6 s, 137 degrees."""
    turn = 8.0 / 20.0 * 0.1 * np.arange(COUNT)
    return {"timestamp_us": (START_US + STEP_US * np.arange(COUNT)).tolist(),
            "x_m": (20 * np.sin(turn)).tolist(), "y_m": (20 * (1 - np.cos(turn))).tolist(), "yaw_rad": turn.tolist(),
            "speed_mps": [8.0] * COUNT, "yaw_rate_radps": [0.4] * COUNT}


def winding() -> Table:
    """An S of 6 s at 8 m/s whose heading swings by 0.5 rad."""
    time_s = 0.1 * np.arange(COUNT)
    yaw = 0.5 * np.sin(2 * np.pi * time_s / 4.0)
    step = 0.8 * np.stack([np.cos(yaw), np.sin(yaw)], -1)
    path = np.cumsum(step, 0) - step / 2
    return {"timestamp_us": (START_US + STEP_US * np.arange(COUNT)).tolist(),
            "x_m": path[:, 0].tolist(), "y_m": path[:, 1].tolist(), "yaw_rad": yaw.tolist()}


def panorama(yaw_rad: float, rng_seed: int = 0) -> np.ndarray:
    """What a camera of focal length 50 px sees of far things all around, (48, 64, 3)."""
    noise = np.random.default_rng(rng_seed).integers(0, 255, (6, 120, 3), dtype=np.uint8)
    wide = cv2.resize(noise, (960, 48), interpolation=cv2.INTER_CUBIC)
    left = 400.0 - 50.0 * yaw_rad
    return cv2.warpAffine(wide, np.array([[1.0, 0.0, -left], [0.0, 1.0, 0.0]]), (64, 48))


def write_drive(folder: Path, rows: Table, cameras: tuple[str, ...] = ("front",), shift_us: int = 0) -> Path:
    """Images show the true turning of ``rows`` as they were at first, whatever was done to them since."""
    folder.mkdir(parents=True)
    one = {"width": 64, "height": 48, "intrinsics": [[50, 0, 32], [0, 50, 24], [0, 0, 1]],
           "translation_m": [1.5, 0.0, 1.4], "rotation_wxyz": FORWARD}
    (folder / "rig.json").write_text(json.dumps({"cameras": {name: one for name in cameras}}))
    lines = [",".join(rows)] + [",".join(map(str, row)) for row in zip(*rows.values())]
    (folder / "ego.csv").write_text("\n".join(lines))
    truth = table()["yaw_rad"] if "speed_mps" in rows else winding()["yaw_rad"]
    for camera in cameras:
        (folder / "frames" / camera).mkdir(parents=True)
        for i in range(COUNT):
            image = panorama(truth[i])
            cv2.imwrite(str(folder / "frames" / camera / f"{START_US + shift_us + i * STEP_US}.jpg"), image)
    return folder


def report(folder: Path) -> HealthReport:
    source = DriveFolderSource(folder)
    return check(source.load(source.log_ids()[0]))


def scaled(name: str, factor: float) -> Callable[[Table], None]:
    def change(rows: Table) -> None:
        rows[name] = [value * factor for value in rows[name]]
    return change


def put(name: str, row: int, value: object) -> Callable[[Table], None]:
    def change(rows: Table) -> None:
        rows[name][row] = value
    return change


def nanoseconds(rows: Table) -> None:
    rows["timestamp_us"] = [t * 1000 for t in rows["timestamp_us"]]


def seconds(rows: Table) -> None:
    rows["timestamp_us"] = [t / 1e6 for t in rows["timestamp_us"]]


def degrees(rows: Table) -> None:
    rows["yaw_rad"] = np.degrees(rows["yaw_rad"]).tolist()


def compass(rows: Table) -> None:
    rows["yaw_rad"] = (np.pi / 2 - np.array(rows["yaw_rad"])).tolist()


def swapped(rows: Table) -> None:
    rows["x_m"], rows["y_m"] = rows["y_m"], rows["x_m"]


def gap(rows: Table) -> None:
    for name in rows:
        rows[name] = rows[name][:20] + rows[name][30:]


ROWS: dict[str, tuple[Callable[[Table], None], str]] = {
    "NaN pose": (put("x_m", 5, "nan"), "invalid pose"),
    "time out of order": (put("timestamp_us", 9, START_US), "time order"),
    "time repeated": (put("timestamp_us", 9, START_US + 8 * STEP_US), "time order"),
    "nanoseconds": (nanoseconds, "time unit"),
    "milliseconds": (scaled("timestamp_us", 1e-3), "time unit"),
    "seconds": (seconds, "time unit"),
    "km/h": (scaled("speed_mps", 3.6), "speed unit"),
    "miles an hour": (scaled("speed_mps", 2.237), "speed unit"),
    "speed scaled": (scaled("speed_mps", 1.3), "speed mismatch"),
    "degrees": (degrees, "yaw unit"),
    "degrees a second": (scaled("yaw_rate_radps", 57.3), "yaw rate unit"),
    "yaw rate sign": (scaled("yaw_rate_radps", -1), "mirrored axes"),
    "compass heading": (compass, "mirrored axes"),
    "x and y swapped": (swapped, "mirrored axes"),
    "pose jump": (put("x_m", 30, 500.0), "pose jump"),
    "pose step": (put("x_m", 30, 22.0), "pose acceleration"),
    "pose gap": (gap, "pose gap"),
}


@pytest.mark.parametrize("name", ROWS)
def test_damaged_rows_are_named(name: str, tmp_path: Path) -> None:
    rows = table()
    change, kind = ROWS[name]
    change(rows)
    found = report(write_drive(tmp_path / "a", rows))
    assert kind in found.kinds(), found.to_text()
    assert kind == "pose gap" or not found.ok


def paths_of(folder: Path) -> list[Path]:
    return sorted((folder / "frames" / "front").iterdir())


def missing(paths: list[Path]) -> None:
    paths[10].unlink()


def truncated(paths: list[Path]) -> None:
    paths[10].write_bytes(paths[10].read_bytes()[:200])


def empty(paths: list[Path]) -> None:
    paths[10].write_bytes(b"")


def frozen(paths: list[Path]) -> None:
    for path in paths[20:24]:
        path.write_bytes(paths[19].read_bytes())


def one_frozen_but_encoded_again(paths: list[Path]) -> None:
    cv2.imwrite(str(paths[20]), cv2.imread(str(paths[19])), [cv2.IMWRITE_JPEG_QUALITY, 100])


def resized(paths: list[Path]) -> None:
    cv2.imwrite(str(paths[3]), np.zeros((20, 20, 3), np.uint8))


def black(paths: list[Path]) -> None:
    cv2.imwrite(str(paths[3]), np.zeros((48, 64, 3), np.uint8))


def white(paths: list[Path]) -> None:
    cv2.imwrite(str(paths[3]), np.full((48, 64, 3), 255, np.uint8))


def gone(paths: list[Path]) -> None:
    for path in paths:
        path.unlink()
    other = paths[0].parent.parent / "spare"
    cv2.imwrite(str(other / paths[0].name), np.zeros((48, 64, 3), np.uint8))


IMAGES: dict[str, tuple[Callable[[list[Path]], None], str]] = {
    "missing frame": (missing, "frame gap"),
    "truncated JPEG": (truncated, "broken image"),
    "empty file": (empty, "broken image"),
    "frozen": (frozen, "frozen image"),
    "frozen, encoded again": (one_frozen_but_encoded_again, "frozen image"),
    "another size": (resized, "image size"),
    "black": (black, "under-exposed"),
    "white": (white, "over-exposed"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_damaged_images_are_named(name: str, tmp_path: Path) -> None:
    folder = write_drive(tmp_path / "a", table())
    damage, kind = IMAGES[name]
    damage(paths_of(folder))
    found = report(folder)
    assert kind in found.kinds(), found.to_text()
    assert all(finding.where == "front" for finding in found.findings)


@pytest.mark.parametrize("cameras", [("front",), tuple(f"cam{i}" for i in range(8))])
def test_a_sound_drive_has_no_finding(cameras: tuple[str, ...], tmp_path: Path) -> None:
    found = report(write_drive(tmp_path / "a", table(), cameras))
    assert found.ok and not found.findings, found.to_text()


def test_a_camera_without_images_is_missing(tmp_path: Path) -> None:
    folder = write_drive(tmp_path / "a", table(), ("front", "spare"))
    gone(paths_of(folder))
    assert "missing camera" in report(folder).kinds("error")


@pytest.mark.parametrize("shift_us, words", [
    (2 * HOUR_US, "time zone"), (90_000_000, "90.0 s apart"), (3_000_000, "lie outside")])
def test_clocks_apart_are_named(shift_us: int, words: str, tmp_path: Path) -> None:
    found = report(write_drive(tmp_path / "a", table(), shift_us=shift_us))
    assert [words in finding.message for finding in found.findings if finding.kind == "clock offset"] == [True]


def test_images_of_another_time_and_mirrored_images_are_told_from_sound_ones(tmp_path: Path) -> None:
    assert not report(write_drive(tmp_path / "sound", winding())).findings
    late = report(write_drive(tmp_path / "late", winding(), shift_us=400_000))
    assert ["0.40 s too late" in f.message for f in late.findings if (f.kind, f.severity) == ("clock offset", "error")]
    folder = write_drive(tmp_path / "mirrored", winding())
    for path in paths_of(folder):
        cv2.imwrite(str(path), cv2.imread(str(path))[:, ::-1])
    assert report(folder).kinds("error") == {"mirrored image"}


def test_report_as_text_and_as_json(tmp_path: Path) -> None:
    rows = table()
    scaled("speed_mps", 3.6)(rows)
    found = report(write_drive(tmp_path / "a", rows))
    assert "a: DAMAGED (1 errors, 0 warnings)" in found.to_text() and "km/h" in found.to_text()
    assert json.loads(json.dumps(found.to_dict()))["findings"][0]["kind"] == "speed unit"


def test_recorded_drives_are_sound_and_agree_with_gps(shared_data: Path) -> None:
    source = DriveFolderSource(shared_data / "drives")
    for name in source.log_ids():
        log = source.load(name)
        found = check(log)
        assert found.ok, found.to_text()
        assert np.nanmean(np.abs(column(log, "speed_mps") - forward_speed(log))) < 0.15
