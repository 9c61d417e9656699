"""The command line: quick, and one clear line where something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from drive_wm.cli import run
from drive_wm.cli.shared import do
from drive_wm.eval.run_folder import RunFolder
from drive_wm.types import InputError

ROOT = Path(__file__).resolve().parents[1]


def shell(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("line, code, words", [
    ("gnerate", 2, "No such command 'gnerate'; did you mean 'generate'? (see drive-wm --help)"),
    ("data lst", 2, "No such command 'lst'; did you mean 'list'? (see drive-wm data --help)"),
    ("plan --sorce town:", 2, "No such option '--sorce'; did you mean '--source'? (see drive-wm plan --help)"),
    ("plan", 2, "Missing option '--source' (see drive-wm plan --help)"),
    ("plan --source town: --seed x", 2, "Invalid value for '--seed'"),
    ("train world x --resume", 2, "--resume needs --out"),
    ("data list --source twn:", 1, "did you mean 'town'"),
    ("data list --source drive_folder:absent", 1, "no such folder"),
    ("train world absent --set lr", 1, "expected KEY=VALUE"),
    ("generate --source town:110003 --guidance actoin=2", 1, "actoin"),
])
def test_a_mistake_is_one_line(line: str, code: int, words: str, capsys: pytest.CaptureFixture[str],
                               tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(line.split()) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error
    assert not list(tmp_path.iterdir())


def test_a_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIVE_WM_DEBUG", "1")
    with pytest.raises(InputError):
        run(["data", "list", "--source", "twn:"])


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for line, words in (("", "Commands:"), ("--help", "generate"), ("--version", "drive-wm 0."), ("data", "convert")):
        run(line.split())
        assert words in capsys.readouterr().out


def test_help_answers_at_once(tmp_path: Path) -> None:
    """Measured as processor time, which a busy machine does not change; the least of three, as caches fill."""
    code = ("import os, subprocess, sys\n"
            "subprocess.run([sys.executable, '-m', 'drive_wm.cli', '--help'], check=True, stdout=subprocess.DEVNULL)\n"
            "times = os.times(); print(times.children_user + times.children_system)")
    assert min(float(shell(code, tmp_path).stdout) for _ in range(3)) < 0.7


def test_an_interrupt_ends_with_130_and_no_traceback(tmp_path: Path) -> None:
    code = ("import drive_wm.cli as cli\n"
            "@cli.app.command()\n"
            "def wait() -> None:\n"
            "    raise KeyboardInterrupt\n"
            "cli.main(['wait'])")
    done = shell(code, tmp_path)
    assert done.returncode == 130 and "Traceback" not in done.stderr


@pytest.mark.parametrize("line", [
    "data audit --source town:0 --log nope --workers 1", "data curate --source twn:", "data bench --source twn:"])
def test_a_command_that_fails_at_work_leaves_no_folder(line: str, tmp_path: Path) -> None:
    assert run([*line.split(), "--out", str(tmp_path / "run")]) == 1
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_refused_leaves_the_earlier_one(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "run", "plan")
    first.write_text("result.txt", "result")
    first.finish({})

    def again(out: Path) -> None:
        RunFolder(out, "plan")

    with pytest.raises(InputError, match="--overwrite"):
        do("plan", tmp_path / "run", False, again)
    assert (tmp_path / "run" / "result.txt").exists()
    do("plan", tmp_path / "run", True, again)
    assert not (tmp_path / "run" / "result.txt").exists()


def test_results_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def work(out: Path) -> None:
        rows = [{"planner": "[idm]", "score": 0.5}, {"planner": "direct", "score": None}]
        RunFolder(out, "evaluate").finish({"log": "x", "planners": rows})

    do("evaluate", tmp_path / "run", False, work)
    out = capsys.readouterr().out
    assert f"run folder: {tmp_path / 'run'}" in out and "[idm]" in out and "0.500" in out and "–" in out


def test_a_wide_table_is_turned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def work(out: Path) -> None:
        row = {f"score_{i}": i + 0.5 for i in range(9)}
        RunFolder(out, "evaluate").finish({"rows": [{"planner": "a", **row}, {"planner": "b", **row}]})

    do("evaluate", tmp_path / "run", False, work)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["planner", "a", "b"] in lines and ["score", "8", "8.50", "8.50"] in lines


def test_a_table_too_wide_is_cut_between_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def work(out: Path) -> None:
        rows = [{"planner": f"p{k}", **{f"a_long_score_{i}": i + 0.5 for i in range(20)}} for k in range(9)]
        RunFolder(out, "evaluate").finish({"rows": rows})

    do("evaluate", tmp_path / "run", False, work)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines()[1:])) <= 80 and "a long score 19: in the run folder" in " ".join(out.split())
    assert any(line.split()[:3] == ["p8", "0.500", "1.50"] for line in out.splitlines() if line.split())


def test_what_the_machine_refuses_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run(["data", "town", "--logs", "1", "--out", str(tmp_path / "file" / "below")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_data_commands_on_a_recording(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = f"drive_folder:{shared_data / 'drives' / 'karlsruhe_0005'}"
    assert run(["data", "list", "--source", source]) == 0 and "karlsruhe_0005" in capsys.readouterr().out
    assert run(["data", "show", "--source", source, "--out", str(tmp_path / "show")]) == 0
    summary = json.loads((tmp_path / "show" / "summary.json").read_text())
    assert summary["complete"] and summary["files"] == ["contact_sheet.png", "topdown.png"]
    assert run(["data", "show", "--source", source, "--log", "nope", "--out", str(tmp_path / "none")]) == 1
    assert not (tmp_path / "none").exists()
