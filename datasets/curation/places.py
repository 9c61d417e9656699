"""Splits in which no place, or no time, leaks from training to test; and the check that none does.

A place needs a frame that logs share: a city's map frame, or the earth for a log with an origin. A log without either
is a place of its own, and that it meets another cannot be seen.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from drive_wm.geometry import interpolate_poses, resample_polyline
from drive_wm.types import SPLITS, FloatArray, InputError, IntArray, Log

CITY_FRAMES = ("nuscenes", "argoverse2")    # sources whose world frame is their city's
ORIGIN = "origin_lat_lon_deg"               # metadata: [latitude, longitude] of the world frame, x east, y north
SPACING_M = 5.0
WALL_CLOCK_US = 946_684_800_000_000         # the year 2000; earlier times are no calendar times
WGS84_A_M, WGS84_E2 = 6_378_137.0, 6.69437999014e-3


@dataclass(frozen=True)
class SplitSpec:
    """shares: of train, val, test. region_m: side of the squares that go to one split whole. buffer_m: how far training
    keeps away from test. gap_s: the same in time."""

    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    region_m: float = 500.0
    buffer_m: float = 50.0
    gap_s: float = 600.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise InputError(f"split shares {self.shares}: expected three that sum to 1: train, val, test")
        if not 0 < self.buffer_m <= self.region_m or self.gap_s < 0:
            raise InputError(f"buffer {self.buffer_m} m, regions {self.region_m} m, gap {self.gap_s} s: "
                             "expected 0 < buffer <= region, gap not negative")


@dataclass(frozen=True)
class Where:
    """Where and when a clip was driven. frame: names the coordinates; shared: other logs use them too.

    points_m: (N, 3) every 5 m. start_us, end_us: in the log's clock.
    """

    frame: str
    shared: bool
    points_m: FloatArray
    start_us: int
    end_us: int


@dataclass(frozen=True)
class Leak:
    """Two clips (by index) of different splits that come closer than they may."""

    a: int
    b: int
    distance_m: float
    apart_s: float


# --- frames -------------------------------------------------------------------------------------------------------


def frame_of(log: Log) -> tuple[str, bool]:
    """The name of the log's world coordinates, and whether other logs may share them."""
    if ORIGIN in log.metadata:
        return "earth", True
    if "seed" in log.metadata:  # a generated town is the same place in each of its reruns
        return f"{log.source}:{log.metadata['seed']}", True
    if log.source in CITY_FRAMES and log.location != "unknown":
        return f"{log.source}:{log.location}", True
    return f"{log.source}:{log.id}", False


def earth_from_local(lat_deg: float, lon_deg: float, points: FloatArray) -> FloatArray:
    """East-north-up metres (N, 3) around an origin on the ellipsoid -> earth-centred metres (N, 3), WGS 84."""
    if not (-90 <= lat_deg <= 90 and -180 <= lon_deg <= 180):
        raise InputError(f"{ORIGIN} [{lat_deg}, {lon_deg}]: expected latitude and longitude in degrees")
    lat, lon = np.radians(lat_deg), np.radians(lon_deg)
    normal = WGS84_A_M / np.sqrt(1 - WGS84_E2 * np.sin(lat) ** 2)
    origin = normal * np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), (1 - WGS84_E2) * np.sin(lat)])
    east = np.array([-np.sin(lon), np.cos(lon), 0.0])
    up = np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    return origin + points @ np.stack([east, np.cross(up, east), up])


def where(log: Log, start_us: int, end_us: int) -> Where:
    """The driven path of a clip in the frame that it shares with others; heights are left out but on the earth."""
    times = np.unique(np.append(np.arange(start_us, end_us, 500_000), end_us))
    poses, valid = interpolate_poses(log.ego, times)
    flat = np.column_stack([poses[valid][:, :2, 3], np.zeros(int(valid.sum()))])
    moved = len(flat) > 1 and float(np.ptp(flat, axis=0).max()) > 0.1
    points = resample_polyline(flat, SPACING_M) if moved else flat[:1]
    frame, shared = frame_of(log)
    if frame == "earth":
        latitude, longitude = (float(value) for value in log.metadata[ORIGIN])
        points = earth_from_local(latitude, longitude, points)
    return Where(frame, shared, points, start_us, end_us)


def ground(at: Where) -> FloatArray:
    """The coordinates that tell a place: all three on the earth, else x and y, for a city is flat."""
    return at.points_m if at.frame == "earth" else at.points_m[:, :2]


def regions(points_m: FloatArray, region_m: float) -> set[tuple[int, ...]]:
    return {tuple(cell) for cell in np.floor(points_m / region_m).astype(int).tolist()}


def place_name(at: Where, region_m: float) -> str:
    """The region of the middle of the clip; a log in coordinates of its own is one place."""
    if not at.shared or not len(at.points_m):
        return at.frame
    cell = np.floor(ground(at)[len(at.points_m) // 2] / region_m).astype(int)
    return f"{at.frame}/" + ",".join(str(i) for i in cell.tolist())


# --- splits -------------------------------------------------------------------------------------------------------


def split_of_region(frame: str, cell: tuple[int, ...], spec: SplitSpec) -> str:
    """A place's split by a hash of its name alone, so that a drive added later never moves it."""
    digest = hashlib.sha256(f"{spec.seed}|{frame}|{cell}".encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    return SPLITS[int(np.searchsorted(np.cumsum(spec.shares)[:2], draw, side="right"))]


def by_place(clips: Sequence[Where], spec: SplitSpec) -> list[tuple[str, str]]:
    """(split, reason to drop or "") of each clip: none crosses from one split's ground to another's, and none comes
    within buffer_m of the ground of a split that is tested on (test over val over train)."""
    return [_fenced(clip, spec) for clip in clips]


def _fenced(clip: Where, spec: SplitSpec) -> tuple[str, str]:
    if not clip.shared:
        return split_of_region(clip.frame, (), spec), ""
    points = ground(clip)
    own = {split_of_region(clip.frame, cell, spec) for cell in regions(points, spec.region_m)}
    split = max(own, key=SPLITS.index)
    if len(own) > 1:
        return split, "crosses splits"
    reach = [np.array(d) * spec.buffer_m for d in product((-1, 0, 1), repeat=points.shape[1])]
    around = set().union(*(regions(points + d, spec.region_m) for d in reach))
    rank = max(SPLITS.index(split_of_region(clip.frame, cell, spec)) for cell in around)
    return split, "near another split" if rank > SPLITS.index(split) else ""


def by_time(clips: Sequence[Where], spec: SplitSpec) -> list[tuple[str, str]]:
    """(split, reason to drop or ""): in every place the oldest recordings train, the newest test, gap_s between them.

    Logs of coordinates of their own form one group a source. Raises InputError for times that are none of a calendar.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for i, clip in enumerate(clips):
        if clip.start_us < WALL_CLOCK_US:
            raise InputError(f"{clip.frame}: its times start at {clip.start_us} us, which is no calendar time; "
                             "split it by place instead")
        groups[clip.frame if clip.shared else clip.frame.partition(":")[0]].append(i)
    out: list[tuple[str, str]] = [("train", "")] * len(clips)
    for members in groups.values():
        for i, found in zip(members, _by_time([clips[i] for i in members], spec)):
            out[i] = found
    return out


def _by_time(clips: list[Where], spec: SplitSpec) -> list[tuple[str, str]]:
    order = sorted(range(len(clips)), key=lambda i: (clips[i].start_us, i))
    seconds = np.array([(clips[i].end_us - clips[i].start_us) / 1e6 for i in order])
    before = (np.cumsum(seconds) - seconds) / max(float(seconds.sum()), 1e-9)
    starts = [clips[i].start_us for i in order]
    edges = [next((t for t, share in zip(starts, before) if share >= limit - 1e-9), starts[-1] + 2**60)
             for limit in np.cumsum(spec.shares)[:2]]
    out = []
    for clip in clips:
        split = SPLITS[sum(clip.start_us >= edge for edge in edges)]
        late = any(clip.start_us < edge < clip.end_us + spec.gap_s * 1e6 for edge in edges)
        out.append((split, "near another split in time" if late else ""))
    return out


def leaks(clips: Sequence[Where], splits: Sequence[str], buffer_m: float, gap_s: float | None = None) -> list[Leak]:
    """Pairs of clips of different splits and of one frame that come within buffer_m of one another; where gap_s is
    given, only those recorded less than that apart. One a pair, by its smallest distance, nearest first."""
    from scipy.spatial import cKDTree

    by_frame: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, (clip, split) in enumerate(zip(clips, splits)):
        by_frame[clip.frame][split].append(i)
    found: dict[tuple[int, int], float] = {}
    for parts in by_frame.values():
        trees = {}
        for split, members in parts.items():
            owner = np.concatenate([np.full(len(clips[i].points_m), i) for i in members])
            trees[split] = cKDTree(np.concatenate([clips[i].points_m for i in members])), owner
        for one, other in ((a, b) for a in trees for b in trees if SPLITS.index(a) < SPLITS.index(b)):
            near = trees[one][0].sparse_distance_matrix(trees[other][0], buffer_m, output_type="coo_matrix")
            _shortest(found, trees[one][1][near.row], trees[other][1][near.col], near.data)
    out = [Leak(a, b, metres, apart_s(clips[a], clips[b])) for (a, b), metres in found.items()]
    out = [leak for leak in out if gap_s is None or leak.apart_s < gap_s]
    return sorted(out, key=lambda leak: (leak.distance_m, leak.a, leak.b))


def _shortest(found: dict[tuple[int, int], float], a: IntArray, b: IntArray, metres: FloatArray) -> None:
    for i, k, distance in zip(a.tolist(), b.tolist(), metres.tolist()):
        found[i, k] = min(distance, found.get((i, k), np.inf))


def apart_s(a: Where, b: Where) -> float:
    """Seconds between the end of one and the start of the other; 0 where they overlap."""
    return max(0, a.start_us - b.end_us, b.start_us - a.end_us) / 1e6
