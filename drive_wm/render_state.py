"""A log at one moment: the boxes of its agents and the state of its lights."""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drive_wm.geometry import wrap_angle
from drive_wm.types import BoolArray, ByteArray, FloatArray, InputError, IntArray, Log, Track

MAX_GAP_US = 1_100_000
FLASH_US = 250_000  # a siren's two lamps take turns
PARKED_M = 0.5
_PALETTES = {
    "pedestrian": ((198, 48, 44), (44, 84, 170), (222, 176, 52), (70, 140, 84), (232, 232, 226),
                   (150, 84, 150), (230, 120, 40)),
    "truck": ((228, 228, 224), (190, 60, 50), (70, 110, 170), (200, 160, 60), (110, 130, 110)),
    "bus": ((214, 60, 48), (236, 190, 50), (60, 130, 190), (80, 150, 90)),
    "object": ((236, 120, 36), (180, 180, 176), (220, 80, 50)),
}
_CAR_PALETTE = ((232, 232, 230), (36, 38, 42), (148, 152, 158), (176, 34, 36), (36, 72, 158), (218, 170, 34),
                (36, 104, 76), (110, 60, 36), (92, 120, 150))


@dataclass(frozen=True)
class AgentBoxes:
    """Boxes at one time. xyzyaw: (A, 4) world, z of the box's centre. lwh_m: (A, 3). colors: (A, 3) uint8 RGB.

    brake: (A,). indicator: (A,) int8, +1 left, -1 right, 2 both, 0 none. siren: (A,) int8, 0 off, 1 or 2 which of its
    two lamps is lit; None is off. lights: (A,) whether its lamps are on where others' are, or None, which is on.
    """

    xyzyaw: FloatArray
    lwh_m: FloatArray
    categories: tuple[str, ...]
    ids: tuple[str, ...]
    colors: ByteArray
    brake: BoolArray
    indicator: IntArray
    siren: IntArray | None = None
    lights: BoolArray | None = None

    def __post_init__(self) -> None:
        n = len(self.ids)
        got = (self.xyzyaw.shape, self.lwh_m.shape, len(self.categories), self.colors.shape, self.brake.shape,
               self.indicator.shape)
        if got != ((n, 4), (n, 3), n, (n, 3), (n,), (n,)):
            raise InputError(f"agent boxes: {n} ids need arrays (A, 4), (A, 3), A, (A, 3), (A,), (A,), got {got}")
        for name, value in (("siren", self.siren), ("lights", self.lights)):
            if value is not None and value.shape != (n,):
                raise InputError(f"agent boxes: {n} ids need {name} ({n},), got {value.shape}")

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, which: IntArray | BoolArray | Sequence[int]) -> AgentBoxes:
        """Those boxes, by index or by mask, in that order."""
        index = np.arange(len(self))[np.asarray(which)] if len(which) else np.zeros(0, int)
        return AgentBoxes(self.xyzyaw[index], self.lwh_m[index], tuple(self.categories[i] for i in index),
                          tuple(self.ids[i] for i in index), self.colors[index], self.brake[index],
                          self.indicator[index], None if self.siren is None else self.siren[index],
                          None if self.lights is None else self.lights[index])

    @staticmethod
    def empty() -> AgentBoxes:
        return AgentBoxes(np.zeros((0, 4)), np.zeros((0, 3)), (), (), np.zeros((0, 3), np.uint8), np.zeros(0, bool),
                          np.zeros(0, np.int8))


def default_color(category: str, agent_id: str) -> tuple[int, int, int]:
    """The colour of an agent that has none, always the same for the same id."""
    palette = _PALETTES.get(category, _CAR_PALETTE)
    return palette[zlib.crc32(agent_id.encode()) % len(palette)]


_CACHE: dict[tuple[str, int], tuple[weakref.ref[Any], Any]] = {}


def cached(kind: str, thing: Any, make: Callable[[Any], Any]) -> Any:
    """What ``make`` made of this very thing, such as a log, kept as long as that lives."""
    key = (kind, id(thing))
    found = _CACHE.get(key)
    if found is None or found[0]() is not thing:
        found = (weakref.ref(thing, lambda _: _CACHE.pop(key, None)), make(thing))
        _CACHE[key] = found
    return found[1]


class _Stack:
    """All tracks of a log end to end, so that one search finds the samples around a time in every one of them."""

    def __init__(self, log: Log) -> None:
        tracks = [t for t in log.tracks if len(t.timestamps_us)]
        self.tracks = tracks
        self.count = np.array([len(t.timestamps_us) for t in tracks], np.int64)
        self.first = np.cumsum(self.count) - self.count
        self.times = np.concatenate([np.zeros(0, np.int64), *(t.timestamps_us for t in tracks)]).astype(np.int64)
        self.start = int(self.times.min()) if tracks else 0
        self.span = int(self.times.max()) - self.start + 2 if tracks else 2
        self.keys = self.times - self.start + np.repeat(np.arange(len(tracks)), self.count) * self.span
        if not tracks:
            return
        self.position = np.concatenate([t.position_m for t in tracks])
        self.yaw = np.concatenate([t.yaw_rad for t in tracks])
        self.valid = np.concatenate([t.valid for t in tracks])
        self.brake = np.concatenate([np.zeros(len(t.valid), bool) if t.brake is None else t.brake for t in tracks])
        self.indicator = np.concatenate([np.zeros(len(t.valid), np.int8) if t.indicator is None else t.indicator
                                         for t in tracks])
        self.siren = np.concatenate([np.zeros(len(t.valid), bool) if t.siren is None else t.siren for t in tracks])
        self.lights = np.array([_in_use(t) for t in tracks])
        self.lwh = np.array([t.size_lwh_m for t in tracks], float)
        self.colors = np.array([t.color_rgb or default_color(t.category, t.id) for t in tracks], np.uint8)

    def at(self, timestamp_us: int) -> AgentBoxes:
        offset = timestamp_us - self.start
        if not self.tracks or not 0 <= offset < self.span:
            return AgentBoxes.empty()
        found = np.searchsorted(self.keys, np.arange(len(self.tracks)) * self.span + offset, side="right") - 1
        before = np.clip(found, self.first, self.first + self.count - 1)
        after = np.minimum(before + 1, self.first + self.count - 1)
        gap = self.times[after] - self.times[before]
        w = np.where(gap > 0, (timestamp_us - self.times[before]) / np.maximum(gap, 1), 0.0)
        exact = self.times[before] == timestamp_us
        ok = self.valid[before] & (exact | ((w > 0) & (w < 1) & self.valid[after] & (gap <= MAX_GAP_US)))
        rows = np.flatnonzero(ok)
        b, a, w = before[rows], after[rows], w[rows, None]
        turn = wrap_angle(self.yaw[a] - self.yaw[b])
        position = self.position[b] * (1 - w) + self.position[a] * w
        xyzyaw = np.concatenate([position, self.yaw[b, None] + turn[:, None] * w], 1)
        return AgentBoxes(xyzyaw, self.lwh[rows], tuple(self.tracks[i].category for i in rows),
                          tuple(self.tracks[i].id for i in rows), self.colors[rows], self.brake[b],
                          self.indicator[b].astype(np.int8),
                          self.siren[b].astype(np.int8) * np.int8(1 + timestamp_us // FLASH_US % 2), self.lights[rows])


def _in_use(track: Track) -> bool:
    """A vehicle that neither moves nor brakes nor signals throughout a log is parked, and its lamps are off."""
    moved = track.valid.any() and float(np.ptp(track.position_m[track.valid, :2], axis=0).max()) > PARKED_M
    return bool(moved or any(flag is not None and np.any(flag) for flag in (track.brake, track.indicator, track.siren)))


def agents_at(log: Log, timestamp_us: int) -> AgentBoxes:
    """The tracks that are valid at a time, linearly between samples at most 1.1 s apart, yaw along the shorter arc."""
    boxes: AgentBoxes = cached("stack", log, _Stack).at(int(timestamp_us))
    return boxes


def signals_at(log: Log, timestamp_us: int) -> dict[str, int]:
    """Signal id -> index into SIGNAL_STATES."""
    return {signal.id: signal.state_at(int(timestamp_us)) for signal in log.signals}
