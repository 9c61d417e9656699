"""Where one manoeuvre ends and the next begins, from the ego's motion; a map, where there is one, is heard too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from drive_wm.geometry import interpolate_poses, project_to_polyline, wrap_angle, xyyaw_from_pose
from drive_wm.types import BoolArray, FloatArray, InputError, IntArray, Log, RoadMap

RATE_HZ = 10.0
MAX_GAP_US = 600_000        # what interpolate_poses bridges; no clip crosses a wider gap
SMOOTH_S = 1.0              # speeds and rates are differences over this
STAND_MPS, STAND_S = 0.5, 1.5
SPEED_EDGES_MPS = (STAND_MPS, 5.0, 11.0, 18.0)
SPEEDS = ("standing", "slow", "medium", "fast", "very fast")
HYSTERESIS_MPS = 0.7
TURN_RATE_RADPS = 0.06      # slower changes of heading are corrections
TURN_RAD, BEND_RAD, U_TURN_RAD = 0.6, 0.35, 2.4
ROUNDABOUT_S = 2.0          # between turns to one side and to the other
TURN_RADIUS_M = 50.0        # a wider change of heading is a bend of the road
LANE_CHANGE_M = (2.3, 5.0)  # lateral shift of one lane
LANE_CHANGE_S = (3.0, 4.0, 5.0, 6.0, 7.0)
LANE_CHANGE_MPS = 3.0
CROSSING_S = 4.0            # of a change of lanes that the map tells, around the crossing
LANE_REACH_M, LANE_HEADING_RAD = 2.0, 0.6
SAME_HEADING_RAD, MAX_SWING_RAD = 0.05, 0.35
MANOEUVRES = ("standing", "stopping", "starting", "straight", "bend left", "bend right", "turn left", "turn right",
              "u-turn", "change lane left", "change lane right", "unknown")
EVENTS = ("turn left", "turn right", "u-turn", "change lane left", "change lane right")


@dataclass(frozen=True)
class SegmentSpec:
    """min_s, max_s: length of a clip. lead_s: how much of what came before a turn or lane change is in its clip too."""

    min_s: float = 4.0
    max_s: float = 20.0
    lead_s: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.min_s <= self.max_s / 2 or self.lead_s < 0:
            raise InputError(f"clips of {self.min_s} to {self.max_s} s with a lead of {self.lead_s} s: "
                             "expected 0 < min, max at least twice min, lead not negative")


@dataclass(frozen=True)
class Segment:
    """One clip's times, both ends inclusive, what the ego does in it, and how fast on average (one of SPEEDS)."""

    start_us: int
    end_us: int
    manoeuvre: str
    speed: str


@dataclass(frozen=True)
class Motion:
    """An unbroken stretch on a 10 Hz grid: times_us (N,), xyyaw (N, 3) with yaw unwrapped, speed and yaw rate (N,)."""

    times_us: IntArray
    xyyaw: FloatArray
    speed_mps: FloatArray
    yaw_rate_radps: FloatArray


@dataclass(frozen=True)
class Span:
    """Samples [start, end) of a Motion with one label."""

    start: int
    end: int
    label: str

    @property
    def length(self) -> int:
        return self.end - self.start


def motions(log: Log) -> list[Motion]:
    """The stretches of the log between gaps of its poses."""
    times = log.ego.timestamps_us[log.ego.valid]
    if not len(times):
        return []
    cuts = np.flatnonzero(np.diff(times) > MAX_GAP_US) + 1
    return [_motion(log, int(part[0]), int(part[-1])) for part in np.split(times, cuts)]


def _motion(log: Log, start_us: int, end_us: int) -> Motion:
    times = np.arange(start_us, end_us + 1, int(1e6 / RATE_HZ), dtype=np.int64)
    path = xyyaw_from_pose(interpolate_poses(log.ego, times, MAX_GAP_US)[0])
    path[:, 2] = np.unwrap(path[:, 2])
    seconds = (times - start_us) / 1e6
    before, after = np.maximum(seconds - SMOOTH_S / 2, 0.0), np.minimum(seconds + SMOOTH_S / 2, seconds[-1])
    moved = np.stack([np.interp(after, seconds, path[:, d]) - np.interp(before, seconds, path[:, d])
                      for d in range(3)], -1)
    rate = moved / np.maximum(after - before, 1e-6)[:, None]
    return Motion(times, path, np.hypot(rate[:, 0], rate[:, 1]), rate[:, 2])


# --- what happens -------------------------------------------------------------------------------------------------


def runs(labels: list[str] | IntArray) -> list[tuple[int, int]]:
    """[start, end) of every stretch of equal values."""
    values = np.asarray(labels)
    cuts = np.flatnonzero(values[1:] != values[:-1]) + 1
    return list(zip([0, *cuts.tolist()], [*cuts.tolist(), len(values)]))


def turns(motion: Motion) -> Iterator[Span]:
    """Changes of heading to one side; those of one side less than a second apart are one."""
    side = np.where(np.abs(motion.yaw_rate_radps) > TURN_RATE_RADPS, np.sign(motion.yaw_rate_radps), 0).astype(int)
    side[motion.speed_mps < STAND_MPS] = 0
    for a, b in runs(side):
        if side[a] == 0 and 0 < a and b < len(side) and b - a < RATE_HZ and side[a - 1] == side[b]:
            side[a:b] = side[b]
    turned: list[tuple[int, int, float]] = []
    for a, b in runs(side):
        angle = float(motion.xyyaw[b - 1, 2] - motion.xyyaw[a, 2])
        if side[a] != 0 and abs(angle) >= BEND_RAD:
            turned.append((a, b, angle))
    for a, b, angle in turned:
        way = "left" if angle > 0 else "right"
        length_m = float(motion.speed_mps[a:b].sum() / RATE_HZ)
        back = any(other * angle < 0 and max(c - b, a - d) < ROUNDABOUT_S * RATE_HZ for c, d, other in turned)
        if abs(angle) > U_TURN_RAD and not back:  # who also turns back goes around a roundabout
            yield Span(a, b, "u-turn")
        elif abs(angle) >= TURN_RAD and length_m / abs(angle) < TURN_RADIUS_M:
            yield Span(a, b, f"turn {way}")
        else:
            yield Span(a, b, f"bend {way}")


def lane_changes(motion: Motion, road: RoadMap | None, turning: Sequence[Span] = ()) -> Iterator[Span]:
    """From one lane of the map to its neighbour; and shifts by a lane's width between two equal headings.

    A shift is measured across the mean of the two headings: along an arc of constant curvature it is zero. It is clear
    of ``turning`` and of other changes, and a map overrules: there must be two lanes. The quickest come first.
    """
    lanes = Lanes(road) if road is not None else None
    crossings = list(lane_crossings(motion, lanes, turning)) if lanes else []
    yield from crossings
    taken = [*turning, *crossings]
    path = motion.xyyaw
    for seconds in LANE_CHANGE_S:
        step = int(seconds * RATE_HZ)
        if len(path) <= step:
            return
        shift, fits = lane_shifts(path, step)
        refused = np.zeros(0)
        for i in np.argsort(-np.abs(shift) * fits, kind="stable")[:int(fits.sum())].tolist():
            if any(i < other.end and other.start < i + step + 1 for other in taken) or (
                    np.abs(refused - i) < RATE_HZ).any():
                continue
            side = "left" if shift[i] > 0 else "right"
            a, b = (lanes.at(path[k]) for k in (i, i + step)) if lanes else (None, None)
            if lanes:
                side = lanes.side(a, b, side) if a is not None and b is not None else ""
            if side:
                taken.append(Span(i, i + step + 1, f"change lane {side}"))
                yield taken[-1]
            else:
                refused = np.append(refused, i)  # the map says the same of what begins within a second


def lane_shifts(path: FloatArray, step: int) -> tuple[FloatArray, BoolArray]:
    """(M,) metres to the left from each sample to the one ``step`` later, and whether that may be a lane change."""
    start, end = path[:-step], path[step:]
    turned, middle = end[:, 2] - start[:, 2], (end[:, 2] + start[:, 2]) / 2
    moved = end[:, :2] - start[:, :2]
    shift = np.cos(middle) * moved[:, 1] - np.sin(middle) * moved[:, 0]
    ahead = np.cos(middle) * moved[:, 0] + np.sin(middle) * moved[:, 1]
    swing = np.abs(np.lib.stride_tricks.sliding_window_view(path[:, 2], step + 1) - middle[:, None]).max(1)
    return shift, (np.abs(turned) < SAME_HEADING_RAD) & (np.abs(shift) >= LANE_CHANGE_M[0]) & (
        np.abs(shift) <= LANE_CHANGE_M[1]) & (ahead > LANE_CHANGE_MPS * step / RATE_HZ) & (swing < MAX_SWING_RAD)


class Lanes:
    """The lanes of a map, found by place: their bounding boxes tell which few are worth a closer look."""

    def __init__(self, road: RoadMap) -> None:
        self.lanes = road.lanes
        self._all = list(road.lanes.values())
        boxes = [np.r_[lane.centerline_m[:, :2].min(0), -lane.centerline_m[:, :2].max(0)] for lane in self._all]
        self._boxes = np.array(boxes).reshape(-1, 4)  # lower corner, and the upper one negated

    def at(self, xyyaw: FloatArray) -> str | None:
        """The lane whose middle is nearest within LANE_REACH_M and runs the ego's way, or None."""
        best, name = LANE_REACH_M, None
        inside = (self._boxes <= np.r_[xyyaw[:2], -xyyaw[:2]] + LANE_REACH_M).all(1)
        for lane in (self._all[i] for i in np.flatnonzero(inside)):
            _, offset, heading = project_to_polyline(xyyaw[None, :2], lane.centerline_m)
            if abs(offset[0]) < best and abs(float(wrap_angle(heading[0] - xyyaw[2]))) < LANE_HEADING_RAD:
                best, name = abs(float(offset[0])), lane.id
        return name

    def side(self, start: str, end: str, unknown: str = "", reach: int = 8) -> str:
        """To which side of the lanes that continue ``start`` the lane ``end`` lies: "left", "right", "" for none.

        ``unknown`` where it is another lane whose neighbours the map does not tell.
        """
        ahead, edge = {start}, {start}
        for _ in range(reach):
            edge = {lane for name in edge if name in self.lanes for lane in self.lanes[name].successors} - ahead
            ahead |= edge
        lane = self.lanes[end]
        beside = "left" if lane.right_neighbor in ahead else "right" if lane.left_neighbor in ahead else unknown
        return "" if end in ahead else beside


def lane_crossings(motion: Motion, lanes: Lanes, turning: Sequence[Span]) -> Iterator[Span]:
    """Where the ego comes nearer to the middle of a neighbouring lane than to that of its own, but in turns."""
    every, around = int(RATE_HZ / 2), int(CROSSING_S / 2 * RATE_HZ)
    before: str | None = None
    for i in range(0, len(motion.xyyaw), every):
        now = lanes.at(motion.xyyaw[i])
        side = lanes.side(before, now) if before is not None and now is not None else ""
        crossing = i - every // 2
        clear = not any(span.start - every <= crossing < span.end + every for span in turning if "turn" in span.label)
        if side and clear and motion.speed_mps[i] > STAND_MPS:
            yield Span(max(0, crossing - around), min(len(motion.xyyaw), crossing + around), f"change lane {side}")
        before = now


def speed_bins(speed_mps: FloatArray) -> IntArray:
    """(N,) index into SPEEDS; a bin is left only when the speed is beyond its edge by HYSTERESIS_MPS."""
    out = np.searchsorted(SPEED_EDGES_MPS, speed_mps, side="right")
    for i in range(1, len(out)):
        low, high = (np.searchsorted(SPEED_EDGES_MPS, speed_mps[i] + d, side="right")
                     for d in (-HYSTERESIS_MPS, HYSTERESIS_MPS))
        if out[i - 1] > 0 and low <= out[i - 1] <= high and out[i] != 0:
            out[i] = out[i - 1]
    return out


def standing(motion: Motion) -> Iterator[Span]:
    still = motion.speed_mps < STAND_MPS
    for a, b in runs(still.astype(int)):
        if still[a] and b - a >= STAND_S * RATE_HZ:
            yield Span(a, b, "standing")


def spans_of(motion: Motion, road: RoadMap | None) -> list[Span]:
    """The whole stretch, sample by sample, as events over speed regimes ("straight/medium" and so on)."""
    labels = np.array([f"straight/{SPEEDS[max(1, i)]}" for i in speed_bins(motion.speed_mps).tolist()], dtype=object)
    turning = list(turns(motion))
    layers = [standing(motion), (s for s in turning if "bend" in s.label), lane_changes(motion, road, turning),
              (s for s in turning if "bend" not in s.label)]
    for number, span in enumerate(span for layer in layers for span in layer):
        labels[span.start:span.end] = f"{span.label}/{number}"  # the number keeps two turns in a row apart
    return [Span(a, b, str(labels[a])) for a, b in runs(np.asarray(labels.tolist()))]


# --- lengths ------------------------------------------------------------------------------------------------------


def rank(label: str) -> int:
    """Events outlast standing and bends, which outlast going straight."""
    name = label.partition("/")[0]
    return 2 if name in EVENTS else 0 if name == "straight" else 1


def long_enough(spans: list[Span], shortest: int) -> list[Span]:
    """No span shorter than ``shortest`` samples: an event takes from its plain neighbours, else two become one."""
    spans = list(spans)
    while len(spans) > 1:
        i = min(range(len(spans)), key=lambda k: (spans[k].length, k))
        if spans[i].length >= shortest:
            break
        if rank(spans[i].label) == 0 or not _borrow(spans, i, shortest):
            _merge(spans, i)
    return spans


def _borrow(spans: list[Span], i: int, shortest: int) -> bool:
    """Moves the ends of span i into the plain neighbour that can spare it, the approach first."""
    need = shortest - spans[i].length
    for k in (i - 1, i + 1):
        if 0 <= k < len(spans) and rank(spans[k].label) < 2 and spans[k].length >= shortest + need:
            if k < i:
                spans[k] = replace(spans[k], end=spans[k].end - need)
                spans[i] = replace(spans[i], start=spans[i].start - need)
            else:
                spans[k] = replace(spans[k], start=spans[k].start + need)
                spans[i] = replace(spans[i], end=spans[i].end + need)
            return True
    return False


def _merge(spans: list[Span], i: int) -> None:
    """Span i joins its neighbour of lower rank, or the shorter one; the label of higher rank, then length, stays."""
    k = min((k for k in (i - 1, i + 1) if 0 <= k < len(spans)), key=lambda k: (rank(spans[k].label), spans[k].length))
    first, second = spans[min(i, k)], spans[max(i, k)]
    best = max(first, second, key=lambda span: (rank(span.label), span.length))
    spans[min(i, k):max(i, k) + 1] = [Span(first.start, second.end, best.label)]


def joined(spans: list[Span]) -> list[Span]:
    """Neighbours of one label become one."""
    out: list[Span] = []
    for span in spans:
        if out and out[-1].label == span.label:
            out[-1] = replace(out[-1], end=span.end)
        else:
            out.append(span)
    return out


def pieces(span: Span, longest: int) -> Iterator[Span]:
    """A span in equal parts of at most ``longest`` samples."""
    edges = np.linspace(span.start, span.end, int(np.ceil(span.length / longest)) + 1).round().astype(int)
    yield from (Span(int(a), int(b), span.label) for a, b in zip(edges[:-1], edges[1:]))


def segments(log: Log, spec: SegmentSpec = SegmentSpec()) -> list[Segment]:
    """The log's clips by time. Stretches shorter than ``min_s`` come back as they are, for the filter to refuse."""
    out = []
    for motion in motions(log):
        shortest = int(np.ceil(spec.min_s * RATE_HZ)) + 1  # n samples last n - 1 steps
        spans = joined(long_enough(spans_of(motion, log.map), shortest))
        for span in (piece for whole in spans for piece in pieces(whole, int(spec.max_s * RATE_HZ))):
            out.append(_segment(motion, span, spec))
    return out


def how_standing(speed_mps: FloatArray) -> str:
    """A clip that holds a stop: the stop itself, the way into it, or the way out of it."""
    still = speed_mps < STAND_MPS
    if still.mean() > 0.5:
        return "standing"
    return "starting" if still[:len(still) // 2].sum() > still[len(still) // 2:].sum() else "stopping"


def _segment(motion: Motion, span: Span, spec: SegmentSpec) -> Segment:
    name = span.label.partition("/")[0]
    last = min(span.end, len(motion.times_us) - 1)  # a clip ends where the next begins
    lead = int(spec.lead_s * RATE_HZ) if name in EVENTS else 0
    first = max(0, span.start - lead)
    speed = float(motion.speed_mps[span.start:span.end].mean())
    if len(motion.times_us) < STAND_S * RATE_HZ:
        name = "unknown"
    elif name == "standing":
        name = how_standing(motion.speed_mps[first:last + 1])
    return Segment(int(motion.times_us[first]), int(motion.times_us[last]), name,
                   SPEEDS[int(np.searchsorted(SPEED_EDGES_MPS, speed, side="right"))])
