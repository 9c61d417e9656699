"""A nuScenes data set in the making: every scene's rows in a file of its own, joined into the 13 tables at the end.

So scenes can be written by many processes and after an interruption, memory does not grow with their number, and the
bytes depend on nothing but the scenes. A set without its tables (``scene.json`` comes last) is no data set to a reader.

    <root>/<version>/.scenes/<scene>.rows   a line of JSON about the scene, then a line for each of SCENE_TABLES
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from drive_wm.datasets.nuscenes_names import ATTRIBUTES, CATEGORY_OF, TABLES, VISIBILITY, token
from drive_wm.types import InputError

SCENE_TABLES = ("instance", "calibrated_sensor", "ego_pose", "log", "sample", "sample_data", "sample_annotation", "map",
                "scene")
EMPTY_CLOUD = "samples/LIDAR_TOP/empty.pcd.bin"


def start_set(root: Path, version: str) -> None:
    """The folders and the one lidar cloud that all scenes share; may be called again."""
    _parts(root, version).mkdir(parents=True, exist_ok=True)
    for cut_off in (root / version).rglob(".*.part"):
        cut_off.unlink()
    cloud = root / EMPTY_CLOUD
    cloud.parent.mkdir(parents=True, exist_ok=True)
    _whole(cloud, np.zeros((1, 5), np.float32).tobytes())  # x, y, z, intensity, ring: one point at the sensor


def is_merged(root: Path, version: str) -> bool:
    return (root / version / "scene.json").is_file()


def write_part(root: Path, version: str, scene: str, tables: Mapping[str, list[dict[str, Any]]],
               **about: Any) -> dict[str, Any]:
    """The rows of one scene as a whole file; returns ``about`` (log, split, channels, frames) as ``read_part`` does."""
    lines = [json.dumps({"scene": scene, **about}), *(json.dumps(tables[table])[1:-1] for table in SCENE_TABLES)]
    _whole(_parts(root, version) / f"{scene}.rows", "\n".join(lines).encode())
    return {"scene": scene, **about}


def read_part(root: Path, version: str, scene: str) -> dict[str, Any] | None:
    """What was said about a scene when it was written; None where it was not, or not to its end."""
    path = _parts(root, version) / f"{scene}.rows"
    if not path.is_file():
        return None
    with path.open() as file:
        about: dict[str, Any] = json.loads(file.readline())
    return about


def merge_set(root: Path, version: str) -> None:
    """All tables and splits.json from the scenes that are there, in order of their names; InputError for none."""
    parts = sorted(_parts(root, version).glob("*.rows"))
    if not parts:
        raise InputError("no log was given; a nuScenes data set needs one at least")
    channels: dict[str, str] = {}
    splits: dict[str, list[str]] = {}
    files = {table: _open(root / version, table) for table in SCENE_TABLES}
    for part in parts:
        with part.open() as lines:
            about = json.loads(lines.readline())
            for table in SCENE_TABLES:
                _append(files[table], lines.readline().rstrip("\n"))
        splits.setdefault(about["split"], []).append(about["scene"])
        for channel, modality in about["channels"].items():
            if channels.setdefault(channel, modality) != modality:
                raise InputError(f"log {about['log']}: camera {channel!r} needs a name other than LIDAR_TOP")
    for table, rows in _fixed_tables(channels).items():
        _whole(root / version / f"{table}.json", json.dumps(rows).encode())
    _whole(root / version / "splits.json", json.dumps(splits).encode())
    for table, file in files.items():  # scene.json is the last: with it the set is there
        file.write("]")
        file.close()
        os.replace(file.name, root / version / f"{table}.json")
    clear_parts(root, version)


def clear_parts(root: Path, version: str) -> None:
    """Removes the scenes' own files once the tables are there."""
    if is_merged(root, version):
        shutil.rmtree(_parts(root, version), ignore_errors=True)


def _fixed_tables(channels: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    def named(table: str, names: Iterable[str]) -> list[dict[str, Any]]:
        return [{"token": token(table, name), "name": name, "description": ""} for name in names]

    return {"category": named("category", (name for name in CATEGORY_OF if name != "vehicle.ego")),
            "attribute": named("attribute", ATTRIBUTES),
            "visibility": [{"token": key, "level": level, "description": f"{level[1:]}% of it is visible"}
                           for key, level in VISIBILITY.items()],
            "sensor": [{"token": token("sensor", channel), "channel": channel, "modality": modality}
                       for channel, modality in channels.items()]}


def _parts(root: Path, version: str) -> Path:
    return root / version / ".scenes"


def _open(folder: Path, table: str) -> TextIO:
    file = (folder / f".{table}.json.part").open("w")
    file.write("[")
    return file


def _append(file: TextIO, rows: str) -> None:
    if rows:
        file.write(", " * (file.tell() > 1) + rows)


def _whole(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_bytes(data)
    os.replace(temporary, path)


assert set(TABLES) == {*SCENE_TABLES, "category", "attribute", "visibility", "sensor"}
