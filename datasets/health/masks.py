"""A log made fit to learn from: what is damaged is invalid, the rest is as it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from drive_wm.datasets.health.findings import Finding, HealthReport
from drive_wm.types import ByteArray, FrameError, Frames, IntArray, Log, Poses, Track


class SoundFrames:
    """`Frames` without those that are damaged: they are not listed, and reading one raises FrameError."""

    def __init__(self, frames: Frames, bad: Mapping[str, IntArray]) -> None:
        self._frames, self.rendered = frames, frames.rendered
        self._bad = {camera: frozenset(times.tolist()) for camera, times in bad.items()}

    def timestamps_us(self, camera: str) -> IntArray:
        times, bad = self._frames.timestamps_us(camera), self._bad.get(camera)
        return times[~np.isin(times, list(bad))] if bad else times

    def read(self, camera: str, timestamp_us: int) -> ByteArray:
        if int(timestamp_us) in self._bad.get(camera, ()):
            raise FrameError(f"camera {camera} at {int(timestamp_us)}: damaged, see its health report")
        return self._frames.read(camera, timestamp_us)

    def __getattr__(self, name: str) -> Any:
        """What files can do beyond the protocol (fingerprints, previews), where they can."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._frames, name)


def bad_poses(log: Log, findings: tuple[Finding, ...]) -> IntArray:
    """Times of the ego's poses that must not be used."""
    return union([hit(f, log.ego.timestamps_us) for f in findings if f.masks and f.where == "ego"])


def bad_frames(log: Log, findings: tuple[Finding, ...]) -> dict[str, IntArray]:
    """Camera -> times of the images that must not be used."""
    return {camera: union([hit(f, log.frames.timestamps_us(camera)) for f in findings
                           if f.masks and f.where == camera]) for camera in log.rig.names}


def hit(finding: Finding, every_us: IntArray) -> IntArray:
    return np.array(finding.times_us, dtype=np.int64) if finding.times_us else every_us


def union(times: list[IntArray]) -> IntArray:
    return np.unique(np.concatenate([np.zeros(0, np.int64), *times]))


def without_poses(log: Log, bad_us: IntArray) -> Log:
    """The log with those poses invalid, and the route driven found anew."""
    if not len(bad_us):
        return log
    ego = Poses(log.ego.timestamps_us, log.ego.world_from_body, log.ego.valid & ~np.isin(log.ego.timestamps_us, bad_us))
    metadata = dict(log.metadata)
    if log.source == "drive_folder" and "route" in metadata:
        from drive_wm.datasets.routes import driven_route

        metadata["route"] = np.round(driven_route(ego), 3).tolist() if ego.valid.any() else []
    return replace(log, ego=ego, metadata=metadata)


def without_tracks(tracks: tuple[Track, ...], findings: tuple[Finding, ...]) -> tuple[Track, ...]:
    hits = [f for f in findings if f.masks and f.where == "tracks"]
    every, ids = any(not f.ids for f in hits), {name for f in hits for name in f.ids}
    return tuple(replace(track, valid=np.zeros_like(track.valid)) if every or track.id in ids else track
                 for track in tracks)


def masked(log: Log, report: HealthReport) -> Log:
    """The log in which everything that the report found damaged is invalid."""
    log = without_poses(log, bad_poses(log, report.findings))
    bad = {camera: times for camera, times in bad_frames(log, report.findings).items() if len(times)}
    frames: Frames = SoundFrames(log.frames, bad) if bad else log.frames
    return replace(log, frames=frames, tracks=without_tracks(log.tracks, report.findings))


def validity(log: Log, report: HealthReport) -> dict[str, list[tuple[float, float, str]]]:
    """Row -> stretches (start_s, end_s, "sound" | "damaged" | "missing") of the ego's poses and of every camera."""
    bad = {"ego": bad_poses(log, report.findings), **bad_frames(log, report.findings)}
    times = {"ego": log.ego.timestamps_us, **{c: log.frames.timestamps_us(c) for c in log.rig.names}}
    invalid = log.ego.timestamps_us[~log.ego.valid]
    bad["ego"] = union([bad["ego"], invalid])
    return {name: stretches(log, np.asarray(times[name]), bad[name]) for name in times}


def stretches(log: Log, times_us: IntArray, bad_us: IntArray) -> list[tuple[float, float, str]]:
    """Each sample stands for half a period to either side; what no sample stands for is missing."""
    start, end = log.start_us, log.end_us
    inside = times_us[(times_us >= start - 1_000_000) & (times_us <= end + 1_000_000)]
    if not len(inside):
        return [(0.0, (end - start) / 1e6, "missing")]
    half = float(np.median(np.diff(inside))) / 2 if len(inside) > 1 else 500_000.0
    out: list[tuple[float, float, str]] = []
    at = float(min(start, inside[0] - half) - start)
    for time, damaged in zip((inside - start).tolist(), np.isin(inside, bad_us).tolist()):
        if time - half > at + 0.8 * half:
            out.append((at / 1e6, (time - half) / 1e6, "missing"))
            at = time - half
        state = "damaged" if damaged else "sound"
        if out and out[-1][2] == state:
            out[-1] = (out[-1][0], (time + half) / 1e6, state)
        else:
            out.append((at / 1e6, (time + half) / 1e6, state))
        at = time + half
    if end - start > at + 2 * half:
        out.append((at / 1e6, (end - start) / 1e6, "missing"))
    return out
