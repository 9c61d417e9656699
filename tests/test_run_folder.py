"""Run folders: what is refused, what is replaced, and that the same input gives the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from drive_wm.eval.run_folder import RunFolder, clear_run, next_folder, read_summary, replacing
from drive_wm.types import Cause, InputError

ROWS = [{"step": 0, "x_m": np.float32(1.5), "ok": True, "path": np.arange(3)},
        {"step": 1, "x_m": float("nan"), "note": "ü"}]


def finished(path: Path, command: str = "plan") -> RunFolder:
    run = RunFolder(path, command, seed=7, arguments=["plan", "--seed", "7"])
    run.write_json("scores.json", {"a": np.float64(1.25), "b": [float("inf")], "c": Cause("bend")})
    run.write_parquet("steps.parquet", ROWS)
    run.file("media/x.txt").write_text("x")
    run.finish({"score": 0.5, "missing": float("nan")})
    return run


def test_summary_says_how_the_run_was_made(tmp_path: Path) -> None:
    run = finished(tmp_path / "a" / "b")
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["schema"] == "drive_wm.run@1" and summary["complete"] and summary["seed"] == 7
    assert summary["arguments"] == ["plan", "--seed", "7"] and summary["results"] == {"score": 0.5, "missing": None}
    assert summary["files"] == ["media/x.txt", "scores.json", "steps.parquet"]
    scores = json.loads((run.path / "scores.json").read_text())
    assert scores["a"] == 1.25 and scores["b"] == [None] and scores["c"]["kind"] == "bend"


def test_the_same_rows_give_the_same_bytes_and_come_back(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    a, b = finished(tmp_path / "a"), finished(tmp_path / "b")
    for name in (*a.files, "summary.json"):
        assert (a.path / name).read_bytes() == (b.path / name).read_bytes(), name
    rows = pq.read_table(a.path / "steps.parquet").to_pylist()
    assert rows[0] == {"step": 0, "x_m": 1.5, "ok": True, "path": [0, 1, 2], "note": None}
    assert rows[1] == {"step": 1, "x_m": None, "ok": None, "path": None, "note": "ü"}


def test_an_unfinished_run_is_marked(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a", "plan")
    run.write_text("note.txt", "half")
    summary = read_summary(run.path)
    assert summary is not None and not summary["complete"] and summary["files"] == ["note.txt"]


def test_what_is_not_ours_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match="name a new folder|expected a folder"):
            RunFolder(path, "plan", overwrite=True)
    finished(tmp_path / "run")
    with pytest.raises(InputError, match="'plan', not of 'generate'"):
        RunFolder(tmp_path / "run", "generate", overwrite=True)
    with pytest.raises(InputError, match="--overwrite"):
        RunFolder(tmp_path / "run", "plan")
    assert (tmp_path / "run" / "media" / "x.txt").exists() and sorted(p.name for p in tmp_path.iterdir()) == [
        "file", "letter.txt", "run"]


def test_overwrite_removes_the_earlier_run_and_nothing_else(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    (tmp_path / "run" / "mine.txt").write_text("keep")
    RunFolder(tmp_path / "run", "plan", overwrite=True).finish({})
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["mine.txt", "summary.json"]


def test_a_summary_edited_by_hand_cannot_remove_files_outside(tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("keep")
    run = finished(tmp_path / "run")
    summary = json.loads((run.path / "summary.json").read_text())
    (run.path / "summary.json").write_text(json.dumps(summary | {"files": ["../outside.txt", "scores.json"]}))
    clear_run(run.path, "plan")
    assert (tmp_path / "outside.txt").exists() and not (run.path / "scores.json").exists()


def test_resume_keeps_the_files(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    assert "steps.parquet" in RunFolder(tmp_path / "run", "plan", resume=True).files
    assert (tmp_path / "run" / "steps.parquet").exists()


def test_a_cleared_run_leaves_no_folder(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    clear_run(tmp_path / "run", "plan")
    assert not (tmp_path / "run").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_names_outside_the_folder_are_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a", "plan")
    for name in ("../x", "/x", "a/../../x"):
        with pytest.raises(ValueError, match="inside its own folder"):
            run.file(name)


def test_numbers_of_folders_go_up(tmp_path: Path) -> None:
    for name in ("plan-2", "plan-x", "plan-world-9"):
        (tmp_path / name).mkdir()
    assert next_folder("plan", tmp_path) == tmp_path / "plan-3"
    assert next_folder("demo", tmp_path) == tmp_path / "demo-1"


def test_a_block_that_fails_clears_what_it_wrote_but_never_what_it_resumed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path / "run", "plan") as run:
        run.write_text("half.txt", "half")
        1 / 0
    assert not (tmp_path / "run").exists()
    RunFolder(tmp_path / "run", "plan").write_text("kept.txt", "kept")
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path / "run", "plan", resume=True):
        1 / 0
    assert (tmp_path / "run" / "kept.txt").read_text() == "kept"
