"""A run folder: everything one command left behind, with a summary.json that says how it was made.

summary.json is written first, with ``complete: false``, and again after every file; so a run that was cut off is
told apart from one that ended, and a later run can clear away exactly what an earlier one wrote.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm import __version__
from drive_wm.types import InputError

SCHEMA = "drive_wm.run@1"


def plain(value: Any) -> Any:
    """JSON values of anything the project reports; NaN and infinity become null, for they are no numbers in JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"cannot write a {type(value).__name__} as JSON")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` that becomes ``path`` if the block succeeds and vanishes if it does not."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def next_folder(command: str, root: Path | str = "runs") -> Path:
    """runs/<command>-<n> with the first number above all that are taken; nothing is created."""
    pattern = re.compile(re.escape(command) + r"-(\d+)")
    taken = [int(match[1]) for path in Path(root).glob(f"{command}-*") if (match := pattern.fullmatch(path.name))]
    return Path(root) / f"{command}-{max(taken, default=0) + 1}"


class RunFolder:
    """Creates ``path`` for one run of ``command``. A folder that holds anything is refused, except:

    - ``overwrite``: a run folder of the same command is cleared of the files that run wrote, and of no other;
    - ``resume``: a run folder of the same command is kept as it is and written on.
    Raises InputError otherwise, before anything is changed. Used as ``with RunFolder(...) as run``, a block that fails
    removes what it wrote.
    """

    def __init__(self, path: Path | str, command: str = "run", *, seed: int = 0, arguments: Sequence[str] | None = None,
                 overwrite: bool = False, resume: bool = False) -> None:
        self.path, self.command, self.seed = Path(path), command, seed
        self.arguments = list(sys.argv[1:] if arguments is None else arguments)
        self.files: list[str] = []
        self.keep = resume
        self._claim(overwrite, resume)
        self._write_summary({}, complete=False)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """A run that fails leaves nothing half-written behind; one that resumes keeps what an earlier one wrote."""
        if kind is not None and not self.keep:
            clear_run(self.path, self.command)

    def file(self, name: str) -> Path:
        """The path for a file of this run that the caller writes itself (atomically), such as a video."""
        path = self.path / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{name!r}: a run writes inside its own folder only")
        path.parent.mkdir(parents=True, exist_ok=True)
        if name not in self.files:
            self.files.append(name)
            self._write_summary({}, complete=False)
        return path

    def expect(self, names: Sequence[str]) -> None:
        """Files of this run that other processes will write, atomically: they go where this run's files go."""
        self.files += [name for name in dict.fromkeys(names) if name not in set(self.files)]
        self._write_summary({}, complete=False)

    def write_text(self, name: str, text: str) -> Path:
        path = self.file(name)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
        return path

    def write_json(self, name: str, value: Any) -> Path:
        """Any nesting of numbers, arrays, dataclasses, mappings and text."""
        return self.write_text(name, json.dumps(plain(value), indent=1, allow_nan=False) + "\n")

    def write_parquet(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Columns in order of first appearance, null where a row lacks one. The same rows give the same bytes."""
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise InputError("tables need pyarrow: pip install pyarrow") from error
        columns = list(dict.fromkeys(key for row in rows for key in row))
        table = pa.table({column: [plain(row.get(column)) for row in rows] for column in columns})
        path = self.file(name)
        with replacing(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        return path

    def finish(self, results: Mapping[str, Any]) -> Path:
        """Marks the run complete and writes its results into summary.json; call it last."""
        return self._write_summary(results, complete=True)

    def _claim(self, overwrite: bool, resume: bool) -> None:
        summary = claimed_by(self.path, self.command)
        if summary is not None and resume:
            self.files = list(summary["files"])
        elif summary is not None and overwrite:
            clear_run(self.path, self.command)
        elif summary is not None and summary["files"]:
            raise InputError(f"--out {self.path}: holds an earlier run; name a new folder or say --overwrite")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--out {self.path}: cannot be created: {error.strerror}") from error

    def _write_summary(self, results: Mapping[str, Any], complete: bool) -> Path:
        summary = {"schema": SCHEMA, "command": self.command, "arguments": self.arguments, "seed": self.seed,
                   "version": __version__, "complete": complete, "files": sorted(self.files), "results": plain(results)}
        path = self.path / "summary.json"
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="utf-8", newline="\n")
        return path


def claimed_by(path: Path, command: str) -> dict[str, Any] | None:
    """The summary of the run of ``command`` in ``path``, None if that is free; InputError if it holds anything else."""
    if path.exists() and not path.is_dir():
        raise InputError(f"--out {path}: is a file, expected a folder")
    if not path.is_dir() or not any(path.iterdir()):
        return None
    summary = read_summary(path)
    if summary is None:
        raise InputError(f"--out {path}: holds files that no run wrote; name a new folder")
    if summary["command"] != command:
        raise InputError(f"--out {path}: holds a run of {summary['command']!r}, not of {command!r}; name a new folder")
    return summary


def clear_run(path: Path, command: str) -> None:
    """Removes what an earlier run of ``command`` wrote into ``path``, and the folder if nothing else is in it."""
    summary = claimed_by(path, command)
    if summary is None:
        return
    root = path.resolve()
    files = [(root / name).resolve() for name in summary["files"]]
    files = [file for file in files if file.is_relative_to(root)]  # a summary may have been edited by hand
    for file in files:
        file.unlink(missing_ok=True)
    for folder in sorted({file.parent for file in files} - {root}, reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    if [entry.name for entry in root.iterdir()] == ["summary.json"]:
        (root / "summary.json").unlink()
        root.rmdir()
    else:
        with replacing(root / "summary.json") as temporary:
            temporary.write_text(json.dumps(summary | {"complete": False, "files": [], "results": {}}, indent=1) + "\n")


def read_summary(path: Path | str) -> dict[str, Any] | None:
    """The summary of a run folder, or None where ``path`` is none."""
    file = Path(path) / "summary.json"
    if not file.is_file():
        return None
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: is not JSON ({error}); name another folder") from error
    known = isinstance(summary, dict) and summary.get("schema") == SCHEMA
    return summary if known else None
