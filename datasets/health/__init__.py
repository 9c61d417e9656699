"""Is a recording sound? Looks for what silently ruins training: wrong units, mirrored axes, gaps, frozen images.

Thresholds are physical or relative to the log itself, so that a dash camera and a full rig go through the same checks.
`check` judges a Log, `examine` also what its source keeps beside it, and `fit` makes what is damaged invalid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from drive_wm.datasets.health.agents import check_agents
from drive_wm.datasets.health.cameras import (
    Seen,
    calibration,
    camera_times,
    cameras_apart,
    look_at,
    pixels,
    same_in_two,
)
from drive_wm.datasets.health.ego import check_ego
from drive_wm.datasets.health.findings import KINDS, SEVERITIES, Finding, HealthReport, Kind, found, sorted_findings
from drive_wm.datasets.health.masks import SoundFrames, bad_frames, bad_poses, masked, validity, without_poses
from drive_wm.datasets.health.motion import column, course_of, forward_speed
from drive_wm.datasets.health.seen import check_motion
from drive_wm.geometry import points_in_polygon
from drive_wm.types import FloatArray, InputError, Log

__all__ = ["KINDS", "SEVERITIES", "Finding", "HealthReport", "Kind", "SoundFrames", "bad_frames", "bad_poses", "check",
           "check_speeds", "column", "course_of", "examine", "fit", "forward_speed", "load_fit", "masked",
           "validity"]

ON_MAP_SHARE = 0.3
MAP_SAMPLES = 40


def check(log: Log, pixel_samples: int | None = None) -> HealthReport:
    """All checks. ``pixel_samples``: images decoded a camera (default 240, 4 where they are drawn); raises nothing."""
    return report_of(log, [], pixel_samples)


def report_of(log: Log, known: list[Finding], pixel_samples: int | None = None) -> HealthReport:
    """``check``, with what is known already: images are compared with those poses only that are sound."""
    findings = [*known, *whole(log), *check_ego(log), *cameras_apart(log)]
    sound = without_poses(log, bad_poses(log, tuple(findings)))
    all_seen: list[Seen] = []
    for camera in log.rig.cameras:
        times = list(camera_times(log, camera.name))
        findings += [*times, *calibration(camera)]
        if not any(f.kind in ("missing camera", "time unit") for f in times):
            all_seen.append(look_at(log, camera, pixel_samples))
            findings += camera_findings(sound, all_seen[-1], [f for f in findings if f.where == camera.name])
    findings += same_in_two(log, all_seen)
    findings += check_agents(log)
    return HealthReport(log.id, sorted_findings(findings), log.start_us)


def camera_findings(log: Log, seen: Seen, known: list[Finding]) -> Iterator[Finding]:
    yield from pixels(log, seen)
    told = any(f.kind == "clock jump" or (f.kind == "clock offset" and not f.times_us) for f in known)
    if seen.stored and not told:
        yield from check_motion(log, seen)


def whole(log: Log) -> Iterator[Finding]:
    """What concerns the log as a whole: its licence, and whether its map and its path are of one place."""
    if log.licence.strip().lower() in ("", "unknown", "none"):
        yield found("no licence", "log", "it says no licence: nobody may use the drive, nor a model trained on it")
    if log.map is not None and log.map.drivable and log.ego.valid.any():
        rows = np.flatnonzero(log.ego.valid)
        points = log.ego.world_from_body[rows[::max(1, len(rows) // MAP_SAMPLES)], :2, 3]
        on = np.any([points_in_polygon(points, area[:, :2]) for area in log.map.drivable], axis=0)
        if on.mean() < ON_MAP_SHARE:
            yield found("off the map", "log", f"{1 - on.mean():.0%} of the path lies outside the map's drivable area")


def examine(source: Any, log_id: str, pixel_samples: int | None = None) -> tuple[Log | None, HealthReport]:
    """A source's log and its report, with the CAN bus and the order of the tables where they are nuScenes.

    A log that cannot be opened is None, and its report says why.
    """
    try:
        log: Log = source.load(log_id)
        known: list[Finding] = []
        if getattr(source, "kind", "") == "nuscenes":
            log, known = beside_nuscenes(source, log_id, log)
    except InputError as error:
        return None, HealthReport(log_id, (found("unreadable", "log", " ".join(str(error).split())),))
    return log, report_of(log, known, pixel_samples)


def beside_nuscenes(source: Any, log_id: str, log: Log) -> tuple[Log, list[Finding]]:
    from drive_wm.datasets.health.tables import reported, table_findings

    scene = source.scenes[log_id]
    columns = reported(log, source.root, scene["name"])
    if columns:
        log = replace(log, metadata={**log.metadata, "reported": columns})
    return log, list(table_findings(source.nusc, scene))


def fit(log: Log, report: HealthReport | None = None) -> Log:
    """The log made fit to learn from: what its report (default: a check made now) found damaged is invalid.

    Poses, images and tracks hit by a finding that masks become invalid; the rest stays as it is, and stays lazy.
    """
    return masked(log, report or check(log))


def load_fit(source: Any, log_id: str) -> Log:
    """A source's log, fit to learn from and to ask about. A log whose images are drawn is sound by construction.

    Raises InputError where it cannot be read.
    """
    log = source.load(log_id)
    if log.frames.rendered:
        return log
    examined, report = examine(source, log_id)
    return fit(examined or log, report)


def check_speeds(log: Log) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Name -> seconds from the start and m/s: the speed of the poses, and the one reported where there is one.

    NaN stands between samples that a gap parts.
    """
    seconds, said = (log.ego.timestamps_us - log.start_us) / 1e6, column(log, "speed_mps")
    steps = np.diff(seconds, append=seconds[-1:])
    gaps = np.flatnonzero(steps > 3 * np.median(steps)) + 1
    speeds = {"from the poses": (np.insert(seconds, gaps, np.nan), np.insert(forward_speed(log), gaps, np.nan))}
    said = np.insert(said, gaps, np.nan)
    return {**speeds, "reported": (speeds["from the poses"][0], said)} if np.isfinite(said).any() else speeds
