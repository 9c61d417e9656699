"""A run of many drives: the same bytes however it was done, and nothing lost or done twice when it is cut off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drive_wm.eval.command import chosen, evaluate, varied
from drive_wm.eval.parts import Part, part_name, read_part, slug, step_rows, write_part
from drive_wm.eval.protocols import get_protocol
from drive_wm.eval.runner import Order, casts, rate
from drive_wm.types import InputError

ROOT = Path(__file__).resolve().parents[1]
SOURCE, LOGS = "town:110000-110002", 3
OPTIONS: dict[str, Any] = {"planners": ["constant_velocity"], "duration_s": 2.0, "seed": 3}


def tables(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in ("drives.parquet", "steps.parquet")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    evaluate(SOURCE, out, workers=1, **OPTIONS)
    return out


def test_killed_and_resumed_gives_the_same_bytes_and_repeats_nothing(whole: Path, tmp_path: Path) -> None:
    out, environment = tmp_path / "run", os.environ | {"PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "drive_wm.cli", "evaluate", "--source", SOURCE, "--planner", "constant_velocity",
            "--duration", "2", "--seed", "3", "--workers", "2", "--out", str(out)]
    child = subprocess.Popen(line, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (found := sorted(out.glob("parts/*/*.none.safetensors"))) and time.monotonic() < until:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert found and not (out / "report.html").exists()
    kept = {path: path.stat().st_mtime_ns for path in found}
    (found[0].parent / ".half.1.part.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match="earlier run"):
        evaluate(SOURCE, out, workers=1, **OPTIONS)
    with pytest.raises(InputError, match="begun with other seed"):
        evaluate(SOURCE, out, workers=1, **{**OPTIONS, "seed": 4}, resume=True)
    evaluate(SOURCE, out, workers=1, **OPTIONS, resume=True)
    assert tables(out) == tables(whole)
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    assert not list(out.glob("parts/*/.*"))


def test_the_parts_are_listed_and_cleared_with_the_run(whole: Path) -> None:
    import json

    summary = json.loads((whole / "summary.json").read_text())
    there = {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()}
    assert set(summary["files"]) == there - {"summary.json"} and summary["schema"] == "drive_wm.run@1"
    planners = len(chosen(["constant_velocity"]))
    assert len(list(whole.glob("parts/*/*.none.safetensors"))) == planners * LOGS


def test_a_part_comes_back_as_it_was(tmp_path: Path) -> None:
    part = Part({"log_id": "a", "planner": "p", "renderer": "none", "seed": 1, "total": float("nan"),
                 "total_valid": False, "errors": ["x"]}, {"x_m": [1.0, None]}, [{"step": 3}], {"ego": np.eye(3)})
    write_part(tmp_path / "x" / "a.safetensors", part)
    back = read_part(tmp_path / "x" / "a.safetensors")
    assert np.isnan(back.row.pop("total")) and back.row == {k: v for k, v in part.row.items() if k != "total"}
    assert (back.steps, back.infractions) == (part.steps, part.infractions)
    np.testing.assert_array_equal(back.arrays["ego"], np.eye(3))
    assert [row["x_m"] for row in step_rows(part)] == [1.0, None] and step_rows(part)[1]["step"] == 1
    (tmp_path / "x" / "a.safetensors").write_bytes(b"junk")
    with pytest.raises(InputError, match="--resume"):
        read_part(tmp_path / "x" / "a.safetensors")


def test_names_make_distinct_files() -> None:
    assert slug("town-1") == "town-1" and slug("a/b") != slug("a_b") and "/" not in slug("../a:b c")
    assert part_name("a", "b", "none") == "parts/a/b.none.safetensors"


def test_another_duration_or_traffic_is_another_protocol() -> None:
    rules = varied(get_protocol("drive"), 4.0, "idm", "perfect")
    assert rules.id == "drive@1.0+4s+idm+perfect" and (rules.traffic, rules.tracking) == ("idm", "perfect")
    assert varied(get_protocol("drive"), 15.0, "log", None) == get_protocol("drive")
    with pytest.raises(InputError, match="traffic 'id', expected one of log, idm"):
        varied(get_protocol("drive"), None, "id")


def test_the_rows_that_give_meaning_are_always_there() -> None:
    assert chosen(["idm"])[:2] == ("idm", "constant_velocity") and chosen(["constant_velocity"])[0] == chosen([])[1]


def test_a_planner_with_options_has_a_row_of_its_own() -> None:
    order = Order((), ("camera", "camera,threshold=20"), ("layout",), get_protocol("drive"))
    assert [cast.name for cast in casts(order)] == ["camera", "camera,threshold=20"]
    assert getattr(order.planner("camera,threshold=20"), "threshold") == 20
    with pytest.raises(InputError, match="requires frames"):
        casts(Order((), ("camera",), (), get_protocol("drive")))
    with pytest.raises(InputError, match="two of one name"):
        casts(Order((), ("idm", "idm"), (), get_protocol("drive")))


def test_the_bar_says_how_long() -> None:
    assert rate(10.0, 5, 10) == "0.50 scenes/s  0:00:20 left"


@pytest.mark.slow
def test_ray_gives_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    evaluate(SOURCE, tmp_path / "run", workers=2, engine="ray", **OPTIONS)
    assert tables(tmp_path / "run") == tables(whole)


def test_an_engine_has_a_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="local or ray"):
        evaluate(SOURCE, tmp_path / "run", engine="spark", **OPTIONS)
