"""What nuScenes tables and the CAN bus tell that a Log does not: order within a channel, clocks, the speed measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.datasets.health.findings import Finding, found
from drive_wm.geometry import bracket
from drive_wm.types import FloatArray, InputError, IntArray, Log

MAX_POSE_OFF_US = 20_000    # an image's ego pose is of its own time
MAX_CAN_GAP_US = 1_000_000


def read_can(root: Path, scene: str) -> tuple[IntArray, dict[str, FloatArray]] | None:
    """Times and columns of the scene's CAN bus pose file, None where there is none; raises InputError if broken."""
    path = root / "can_bus" / f"{scene}_pose.json"
    if not path.is_file():
        return None
    try:
        rows = json.loads(path.read_text())
        times = np.array([row["utime"] for row in rows], dtype=np.int64)
        speed = np.array([row["vel"][0] for row in rows], dtype=np.float64)
        rate = np.array([row["rotation_rate"][2] for row in rows], dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path}: is no CAN bus pose file ({error!r}); copy it again, or delete it") from error
    order = np.unique(times, return_index=True)[1]
    return times[order], {"speed_mps": speed[order], "yaw_rate_radps": rate[order]}


def reported(log: Log, root: Path, scene: str) -> dict[str, list[float | None]]:
    """The CAN bus' speed and yaw rate at the times of the log's poses, None where it was silent."""
    read = read_can(root, scene)
    if read is None or not len(read[0]):
        return {}
    times, columns = read
    before, weight, valid = bracket(times, log.ego.timestamps_us, MAX_CAN_GAP_US)
    after = np.minimum(before + 1, len(times) - 1)
    out = {}
    for name, values in columns.items():
        mixed = values[before] * (1 - weight) + values[after] * weight
        out[name] = [float(v) if ok and np.isfinite(v) else None for v, ok in zip(mixed, valid)]
    return out


def camera_records(nusc: Any, scene: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Camera -> its sample_data of the scene in the order in which they are linked, keyframes and sweeps."""
    heads: dict[str, str] = {}
    token = scene["first_sample_token"]
    seen: set[str] = set()
    while token and token not in seen:
        seen.add(token)
        sample = nusc.get("sample", token)
        for channel, made in sample["data"].items():
            heads.setdefault(channel, made)
        token = sample["next"]
    out = {}
    for channel, made in heads.items():
        record = nusc.get("sample_data", made)
        if record["sensor_modality"] == "camera":
            while record["prev"]:
                record = nusc.get("sample_data", record["prev"])
            out[channel] = [record]
            while record["next"] and len(out[channel]) < len(nusc.sample_data):
                record = nusc.get("sample_data", record["next"])
                out[channel].append(record)
    return out


def table_findings(nusc: Any, scene: Mapping[str, Any]) -> Iterator[Finding]:
    """Order and clocks of each camera's records."""
    for camera, records in camera_records(nusc, scene).items():
        times = np.array([record["timestamp"] for record in records], dtype=np.int64)
        back = np.flatnonzero(np.diff(times) <= 0) + 1
        if len(back):
            worst = float((times[back - 1] - times[back]).max()) / 1e6
            yield found("time order", camera, f"{len(back)} records are linked behind one of the same or a later "
                        f"time (by up to {worst:.2f} s)", len(back), np.concatenate([times[back], times[back - 1]]))
        poses = np.array([nusc.get("ego_pose", record["ego_pose_token"])["timestamp"] for record in records], np.int64)
        off = times - poses
        if np.median(np.abs(off)) > MAX_POSE_OFF_US:
            yield found("clock offset", camera, f"its images' times lie {np.median(off) / 1e6:+.2f} s from those of "
                        "the ego poses that they point to")
        elif (hit := np.abs(off) > MAX_POSE_OFF_US).any():
            yield found("clock offset", camera, f"{int(hit.sum())} images' times lie up to "
                        f"{np.abs(off).max() / 1e6:.2f} s from those of the ego poses that they point to",
                        times_us=times[hit])
