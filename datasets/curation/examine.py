"""One log -> its candidate clips: cut, measured, hashed, tagged, placed. Plain values, so that it runs anywhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from drive_wm.datasets.curation import captions, duplicates, manifest, places, quality, segments
from drive_wm.datasets.health import Finding
from drive_wm.datasets.sources import Source, open_source, source_class
from drive_wm.types import ByteArray, FrameError, InputError, IntArray, Log

THUMBNAIL_PX = 176
JPEG_QUALITY = 85


@dataclass(frozen=True)
class Candidate:
    """What one process finds out about one clip. refused: why it was not looked at ("" where it was).

    hashes: hex, one a moment. camera: the one to blame for what is wrong, or "". images: base64 JPEGs of the same
    moments, by that camera or the one that looks ahead.
    """

    source: str
    log_id: str
    start_us: int
    end_us: int
    licence: str
    refused: str = ""
    given_split: str = "train"
    measures: dict[str, float] = field(default_factory=dict)
    worst: dict[str, str] = field(default_factory=dict)
    damage: dict[str, float] = field(default_factory=dict)
    hashes: list[str] = field(default_factory=list)
    path_m: list[list[float]] = field(default_factory=list)
    frame: str = ""
    shared: bool = False
    points_m: list[list[float]] = field(default_factory=list)
    tags: dict[str, Any] = field(default_factory=dict)
    captions: list[str] = field(default_factory=list)
    camera: str = ""
    images: list[str] = field(default_factory=list)
    lineage: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return (self.end_us - self.start_us) / 1e6

    @property
    def quality(self) -> quality.Quality:
        return quality.Quality(self.measures, self.worst, self.damage)

    @property
    def where(self) -> places.Where:
        return places.Where(self.frame, self.shared, np.array(self.points_m).reshape(-1, 3), self.start_us, self.end_us)


@dataclass(frozen=True)
class ExamineSpec:
    """What every process needs to know. licences: those allowed, empty for all."""

    segments: segments.SegmentSpec = segments.SegmentSpec()
    limits: quality.Limits = quality.Limits()
    region_m: float = 500.0
    licences: tuple[str, ...] = ()


class DrawnOnce:
    """The frames of a drawn log, each moment drawn once for all cameras and kept until ``forget``."""

    rendered = True

    def __init__(self, log: Log) -> None:
        self._frames, self._rig = log.frames, log.rig
        self._drawn: dict[int, dict[str, ByteArray]] = {}

    def timestamps_us(self, camera: str) -> IntArray:
        return self._frames.timestamps_us(camera)

    def read(self, camera: str, timestamp_us: int) -> ByteArray:
        if timestamp_us not in self._drawn:
            self._drawn[timestamp_us] = {name: self._frames.read(name, timestamp_us) for name in self._rig.names}
        return self._drawn[timestamp_us][camera]

    def forget(self) -> None:
        self._drawn.clear()


@lru_cache(maxsize=4)
def opened(source: str) -> Source:
    """A source, its tables read once a process."""
    return open_source(source)


def absolute(source: str) -> str:
    """KIND:PATH with the path resolved, so that the manifest can be used from any folder."""
    kind, _, rest = source.partition(":")
    takes_path = getattr(source_class(kind), "takes_path", True)
    return f"{kind}:{Path(rest).expanduser().resolve().as_posix()}" if takes_path and rest else source


def examine(job: dict[str, str], spec: ExamineSpec) -> str:
    """{"source", "log_id"} -> the log's candidates as JSON. A log that cannot be read is one refused candidate."""
    cv2.setNumThreads(1)
    source, log_id = job["source"], job["log_id"]
    try:
        found = candidates(opened(source).load(log_id), source, spec)
    except InputError as error:
        told = {"source": source, "log_id": log_id, "error": str(error)}
        refused = Candidate(source, log_id, 0, 0, "unknown", "unreadable", lineage=told)
        return json.dumps([asdict(refused)])
    return json.dumps([asdict(candidate) for candidate in found])


def candidates(log: Log, source: str, spec: ExamineSpec) -> list[Candidate]:
    whole = Candidate(source, log.id, log.start_us, log.end_us, log.licence, given_split=log.split,
                      lineage=lineage(log, source, log.start_us, log.end_us))
    if not manifest.licence_allowed(log.licence, spec.licences):
        return [replace(whole, refused="licence")]
    cuts = segments.segments(log, spec.segments)
    if not cuts:
        return [replace(whole, refused="no valid pose")]
    if log.frames.rendered:
        log = replace(log, frames=DrawnOnce(log))
    damage = quality.damage_of(log)
    return [candidate(log, source, cut, damage, spec) for cut in cuts]


def candidate(log: Log, source: str, cut: segments.Segment, damage: Sequence[Finding], spec: ExamineSpec) -> Candidate:
    start, end = cut.start_us, cut.end_us
    found = quality.measure(log, start, end, spec.segments.min_s, damage)
    wrong = [name for name in quality.REASONS if found.measures[name] > getattr(spec.limits, name)]
    ahead = duplicates.forward_camera(log).name
    first = found.worst.get(wrong[0], "") if wrong else ""
    blamed = first if first in log.rig.names else ""
    seen = at_moments(log, ahead, start, end)
    images = seen if blamed in ("", ahead) else at_moments(log, blamed, start, end) or seen
    at = places.where(log, start, end)
    tags = captions.tags(log, cut, found.measures["brightness"]) | {"place": places.place_name(at, spec.region_m)}
    if isinstance(log.frames, DrawnOnce):
        log.frames.forget()
    return Candidate(
        source, log.id, start, end, log.licence, "", log.split,
        dict(found.measures), dict(found.worst), dict(found.damage),
        [f"{code:016x}" for code in duplicates.hashes(seen)], np.round(duplicates.path(log, start, end), 4).tolist(),
        at.frame, at.shared, np.round(at.points_m, 3).tolist(), tags, [text.text for text in captions.texts(cut, tags)],
        blamed, [thumbnail(image) for image in images], lineage(log, source, start, end))


def at_moments(log: Log, camera: str, start_us: int, end_us: int) -> list[ByteArray]:
    """Images of a camera at the clip's moments, the nearest ones; those that are missing or broken are left out."""
    times = np.asarray(log.frames.timestamps_us(camera))
    out = []
    for i in quality.moments(times, start_us, end_us) if len(times) else []:
        try:
            out.append(log.frames.read(camera, int(times[i])))
        except FrameError:
            continue  # quality.measure counts broken images; here the clip only has fewer pictures
    return out


def thumbnail(image: ByteArray) -> str:
    height = max(1, round(image.shape[0] * THUMBNAIL_PX / image.shape[1]))
    small = cv2.resize(image, (THUMBNAIL_PX, height), interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done
    return base64.b64encode(data.tobytes()).decode("ascii")


def lineage(log: Log, source: str, start_us: int, end_us: int) -> dict[str, Any]:
    """From a clip back to what was recorded: source, log, times, licence, and where the recording came from."""
    from datetime import UTC, datetime

    calendar = start_us >= places.WALL_CLOCK_US
    told = {key: log.metadata[key] for key in ("source", "scene_token", "seed", "generator_version", "rerun")
            if key in log.metadata}
    return {"source": source, "log_id": log.id, "start_us": start_us, "end_us": end_us,
            "offset_s": round((start_us - log.start_us) / 1e6, 3),
            "recorded_utc": datetime.fromtimestamp(start_us / 1e6, UTC).isoformat() if calendar else None,
            "licence": log.licence, "location": log.location, "given_split": log.split,
            "rendered": bool(log.frames.rendered), "rig": log.rig.name, "told": told}


