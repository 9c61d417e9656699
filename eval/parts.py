"""A finished drive as one small file, from which tables and reports are built: what a killed run goes on from."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.eval.run_folder import plain, replacing
from drive_wm.types import InputError, Rollout, Score

SCHEMA = "drive_wm.drive@1"
Row = dict[str, Any]
COLUMNS = ("timestamp_us", "x_m", "y_m", "yaw_rad", "speed_mps", "accel_mps2", "steer_rad", "logged_x_m", "logged_y_m",
           "logged_yaw_rad", "planned", "error", "render_valid")


@dataclass
class Part:
    """row: plain values, as of ``evaluate.drive``. steps: column -> S plain values. infractions: moments to look at.

    arrays: what a report shows of the drive (see scene_view).
    """

    row: Row
    steps: dict[str, list[Any]]
    infractions: list[Row] = field(default_factory=list)
    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)


def slug(name: str) -> str:
    """A file name of a name: the same for the same, different for different ones."""
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:100]
    return safe if safe == name else f"{safe}.{zlib.crc32(name.encode()):08x}"


def part_name(log_id: str, planner: str, renderer: str) -> str:
    """The file of a drive, relative to its run folder."""
    return f"parts/{slug(log_id)}/{slug(planner)}.{slug(renderer)}.safetensors"


def step_columns(rollout: Rollout, scores: Mapping[str, Score]) -> dict[str, list[Any]]:
    """Each column of the per-step table, a value a step; None where there is none."""
    known = rollout.logged_valid
    columns: dict[str, Any] = {
        "timestamp_us": rollout.timestamps_us, "x_m": rollout.ego_xyyaw[:, 0], "y_m": rollout.ego_xyyaw[:, 1],
        "yaw_rad": rollout.ego_xyyaw[:, 2], "speed_mps": rollout.ego_speed_mps, "accel_mps2": rollout.ego_accel_mps2,
        "steer_rad": rollout.ego_steer_rad}
    for d, name in enumerate(("logged_x_m", "logged_y_m", "logged_yaw_rad")):
        columns[name] = np.where(known, rollout.logged_xyyaw[:, d], np.nan)
    columns |= {"planned": [plan is not None for plan in rollout.plans],
                "error": [rollout.plan_errors.get(i) for i in range(len(rollout.timestamps_us))],
                "render_valid": rollout.render_valid}
    for name, score in scores.items():
        if name != "total":
            empty = [None] * len(rollout.timestamps_us)
            columns[f"{name}_step"] = empty if score.per_step is None else score.per_step
    return {name: plain(np.asarray(v) if not isinstance(v, list) else v) for name, v in columns.items()}


def write_part(path: Path, part: Part) -> None:
    """Whole or not at all: under a temporary name, then renamed."""
    from safetensors.numpy import save_file

    said = {"schema": SCHEMA, "row": part.row, "steps": part.steps, "infractions": part.infractions}
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(value) for name, value in part.arrays.items()}
    with replacing(path) as temporary:
        save_file(arrays or {"none": np.zeros(0, np.uint8)}, temporary, {"drive_wm": json.dumps(plain(said))})


def read_part(path: Path) -> Part:
    """Raises InputError where the file is no drive of this version."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            said = json.loads((file.metadata() or {}).get("drive_wm", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read ({error}); remove it and say --resume to drive it again") from error
    if said.get("schema") != SCHEMA:
        raise InputError(f"{path} is {said.get('schema')!r}, expected {SCHEMA}; run again into a new folder")
    row = {name: float("nan") if value is None and f"{name}_valid" in said["row"] else value
           for name, value in said["row"].items()}
    return Part(row, said["steps"], said["infractions"], arrays)


def step_rows(part: Part) -> list[Row]:
    """The per-step table of a drive, a row a step."""
    row, names = part.row, list(part.steps)
    head = {"log_id": row["log_id"], "planner": row["planner"], "renderer": row["renderer"], "seed": row["seed"]}
    return [{**head, "step": i, **dict(zip(names, values))} for i, values in enumerate(zip(*part.steps.values()))]
