"""Drives by the thousand: cut off and continued, on any number of workers, the bytes are the same."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from drive_wm.cli import run
from drive_wm.datasets.nuscenes import NuScenesSource
from drive_wm.datasets.parallel import in_parallel, worker_count
from drive_wm.datasets.town.factory import STAMP, TownOrder, build_town
from drive_wm.types import InputError

ROOT = Path(__file__).resolve().parents[1]
SMALL: dict[str, Any] = {"rig": "dash", "height_px": 16, "duration_s": 2.0}


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("factory") / "town"
    build_town(TownOrder(3, 110_000, logs_per_set=2, **SMALL), out)
    return out


def test_large_orders_are_several_sets(made: Path) -> None:
    assert sorted(path.name for path in made.iterdir()) == ["part-000", "part-001", STAMP]
    first, second = (NuScenesSource(made / part) for part in ("part-000", "part-001"))
    assert first.log_ids() == ["town-110000", "town-110001"] and second.log_ids() == ["town-110002"]
    log = second.load("town-110002")
    assert log.rig.name == "dash" and log.split == "test" and len(log.frames.timestamps_us("CAM_FRONT")) == 5
    assert not list(made.rglob(".*"))


@pytest.mark.slow
def test_two_workers_write_the_same_bytes(made: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    order = TownOrder(3, 110_000, logs_per_set=2, **SMALL)
    result = build_town(order, tmp_path / "town", workers=2, progress=lambda logs, frames: told.append((logs, frames)))
    assert contents(tmp_path / "town") == contents(made)
    assert sum(logs for logs, _ in told) == 3 and sum(frames for _, frames in told) == result["frames"] == 15
    assert result["bytes"] == sum(len(data) for data in contents(made).values())


def test_a_killed_run_is_no_data_set_and_is_continued(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "town"
    code = (f"from pathlib import Path; from drive_wm.datasets.town.factory import *\n"
            f"build_town(TownOrder(3, 110_000, logs_per_set=2, **{SMALL!r}), Path({str(out)!r}), workers=2)")
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)})
    rows = out / "part-000" / "v1.0-drivewm" / ".scenes"
    while process.poll() is None and not list(rows.glob("*.rows")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(InputError, match="versions"):
        NuScenesSource(out / "part-001")
    kept = {path: path.stat().st_mtime_ns for path in rows.glob("*.rows")}
    time.sleep(1.0)  # workers without a parent end
    told: list[int] = []
    build_town(TownOrder(3, 110_000, logs_per_set=2, **SMALL), out, workers=2,
               progress=lambda logs, _: told.append(logs))
    assert contents(out) == contents(made) and len(kept) >= 1 and sum(told) == 3


def test_a_finished_order_is_left_as_it_is(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()}
    result = build_town(TownOrder(3, 110_000, logs_per_set=2, **SMALL), made)
    assert result["frames"] == 15 and len(result["sources"]) == 2
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()} == before


def test_other_orders_into_the_same_folder_are_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"logs 3 \(now 4\)"):
        build_town(TownOrder(4, 110_000, logs_per_set=2, **SMALL), made)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something already"):
        build_town(TownOrder(1, **SMALL), tmp_path)
    wrongs: list[tuple[dict[str, Any], str]] = [
        ({"format": "waymo"}, "nuscenes or shards"), ({"first_seed": 119_999}, "town seed 120001"),
        ({"logs_per_set": 9001}, "1 to 9000"), ({"logs": 0}, "at least 1 log")]
    for wrong, words in wrongs:
        with pytest.raises(InputError, match=words):
            TownOrder(**{"logs": 3, **wrong})
    with pytest.raises(InputError, match="dash"):
        build_town(TownOrder(1, rig="dsh"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_shards(tmp_path: Path) -> None:
    from drive_wm.datasets.shards import find_shards

    result = build_town(TownOrder(1, 110_000, "shards", height_px=16), tmp_path / "packed")
    assert result["shards"] == 1 and [shard.meta["log_id"] for shard in find_shards(tmp_path / "packed")] == \
        ["town-110000"]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"data town --logs 1 --first-seed 7 --workers 1 --rig dash --height 16 --duration 1 --out {tmp_path / 'set'}"
    assert run(line.split()) == 0 and f"nuscenes:{tmp_path / 'set'}" in "".join(capsys.readouterr().out.split())
    assert NuScenesSource(tmp_path / "set").log_ids() == ["town-000007"]
    assert run(line.replace("--height 16", "--height 24").split()) == 1
    assert "height_px 16 (now 24)" in capsys.readouterr().err


def test_in_parallel_gives_everything_once_and_the_first_failure() -> None:
    for workers in (1, 2):
        assert dict(in_parallel(math.isqrt, [0, 1, 4, 9, 16, 25], workers)) == dict(enumerate(range(6)))
        with pytest.raises(ValueError, match="nonnegative"):
            list(in_parallel(math.isqrt, [*range(5), -1, *range(40)], workers))
    with pytest.raises(InputError, match="a worker process died"):
        list(in_parallel(os._exit, [1, 1], 2))
    assert worker_count(3) == 3 and worker_count(0) >= 1
    with pytest.raises(InputError, match="workers -1"):
        worker_count(-1)
