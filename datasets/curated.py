"""The clips that a curation kept, as logs: ``curated:DIR`` those to train on, ``curated:DIR#val``, ``#test``, ``#all``.

A clip is its log cut to the clip's span, with the captions, the weight and the lineage that the curation gave it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from drive_wm.datasets.clips import AGENT_MAX_GAP_US
from drive_wm.datasets.curation.manifest import Row, read_manifest
from drive_wm.datasets.routes import route_of
from drive_wm.datasets.sources import Source, nearest, open_source
from drive_wm.geometry import interpolate_poses
from drive_wm.types import SPLITS, ByteArray, Frames, InputError, IntArray, Log, Poses, Text, Track

FRAME_SLACK_US = 100_000  # an image this far outside may still be the nearest one to the clip's first or last step


class CutFrames:
    """The frames of a log within a span."""

    def __init__(self, frames: Frames, start_us: int, end_us: int) -> None:
        self.frames, self.rendered = frames, frames.rendered
        self.span = (start_us - FRAME_SLACK_US, end_us + FRAME_SLACK_US)

    def timestamps_us(self, camera: str) -> IntArray:
        times = np.asarray(self.frames.timestamps_us(camera))
        return times[(times >= self.span[0]) & (times <= self.span[1])]

    def read(self, camera: str, timestamp_us: int) -> ByteArray:
        return self.frames.read(camera, timestamp_us)


def cut_poses(ego: Poses, start_us: int, end_us: int) -> Poses:
    """The poses from start to end, with one at either exactly."""
    inner = (ego.timestamps_us > start_us) & (ego.timestamps_us < end_us)
    ends, valid = interpolate_poses(ego, np.array([start_us, end_us]))
    return Poses(np.concatenate([[start_us], ego.timestamps_us[inner], [end_us]]).astype(np.int64),
                 np.concatenate([ends[:1], ego.world_from_body[inner], ends[1:]]),
                 np.concatenate([valid[:1], ego.valid[inner], valid[1:]]))


def cut_track(track: Track, start_us: int, end_us: int) -> Track | None:
    """The track in a span, and one gap beyond, to interpolate at the ends; None where nothing is left."""
    times = track.timestamps_us
    part = (times >= start_us - AGENT_MAX_GAP_US) & (times <= end_us + AGENT_MAX_GAP_US)
    if not part.any():
        return None

    def of(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[part]

    return replace(track, timestamps_us=times[part], position_m=track.position_m[part], yaw_rad=track.yaw_rad[part],
                   valid=track.valid[part], velocity_mps=of(track.velocity_mps), brake=of(track.brake),
                   indicator=of(track.indicator), siren=of(track.siren))


def cut_log(log: Log, start_us: int, end_us: int) -> Log:
    """A log from start to end, inclusive; map, signals and route stay whole. Raises InputError outside the log."""
    if not log.start_us <= start_us < end_us <= log.end_us:
        raise InputError(f"log {log.id}: no span {start_us} to {end_us}, it goes from {log.start_us} to {log.end_us}")
    tracks = (cut_track(track, start_us, end_us) for track in log.tracks)
    route = log.metadata.get("route") or np.round(route_of(log), 3).tolist()  # it goes on where the clip ends
    return replace(log, metadata={**log.metadata, "route": route}, ego=cut_poses(log.ego, start_us, end_us),
                   frames=CutFrames(log.frames, start_us, end_us),
                   tracks=tuple(track for track in tracks if track is not None),
                   texts=tuple(t for t in log.texts if t.start_us <= end_us and t.end_us >= start_us),
                   reasons=tuple((at, why) for at, why in log.reasons if start_us <= at <= end_us))


@lru_cache(maxsize=8)
def _source(text: str) -> Source:
    return open_source(text)


class CuratedSource:
    """The kept clips of a manifest, each a log of its own by the clip's id."""

    kind = "curated"
    takes_path = False  # what follows '#' is a split

    def __init__(self, text: str) -> None:
        path, _, split = text.partition("#")
        if split not in ("", "all", *SPLITS):
            raise InputError(f"source curated:{text}: split {split!r}, expected one of {', '.join(SPLITS)} or all")
        if not path or not Path(path).expanduser().exists():
            raise InputError(f"source curated:{text}: no such folder {path!r}; make one with: drive-wm data curate")
        wanted = SPLITS if split == "all" else (split or "train",)
        self.rows: dict[str, Row] = {row.clip_id: row for row in read_manifest(Path(path).expanduser())
                                     if row.keep and row.split in wanted}

    def log_ids(self) -> list[str]:
        return list(self.rows)

    def load(self, log_id: str) -> Log:
        if log_id not in self.rows:
            raise InputError(f"no clip {log_id!r} is kept{nearest(log_id, self.log_ids())}")
        row = self.rows[log_id]
        log = cut_log(_source(row.source).load(row.log_id), row.start_us, row.end_us)
        said = tuple(Text(row.start_us, row.end_us, caption) for caption in row.captions)
        return replace(log, id=log_id, texts=said + log.texts, split=row.split, licence=row.licence or log.licence,
                       metadata={**log.metadata, "weight": row.weight, "lineage": dict(row.lineage)})
