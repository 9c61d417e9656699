"""Ways: the lanes that an agent follows, joined into one table that is read by arc length.

A vehicle's place is (s, d, e): arc length along its way, offset to the left of it, heading relative to it. Changing
lane is taking another way and keeping one's place in the world.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drive_wm.datasets.town.network import CYCLIST_SIDE_M, LANE_M, Connector, Network, Street, offset_line, street_of
from drive_wm.geometry import resample_polyline, wrap_angle
from drive_wm.types import FloatArray

STEP_M = 0.5
LATERAL_ACCEL_MPS2 = 2.0
COMFORT_BRAKE_MPS2 = 1.3
WAY_M = 400.0
X, Y, YAW, LIMIT, CURVATURE, ROOM_LEFT, ROOM_RIGHT, ONCOMING = range(8)


@dataclass(frozen=True)
class Event:
    """A junction on a way: from arc length stop_m (the stop line) to exit_m the way follows the connector."""

    stop_m: float
    exit_m: float
    connector: str


@dataclass(frozen=True)
class Way:
    """rows: (K, 8) every 0.5 m: x, y, yaw, speed that limit and bends allow, curvature, and the room in metres to the
    left and right of the line within lanes of the same direction, and beyond that to the left in oncoming lanes.

    spans: (begin_m, end_m, lane) of the lanes and connectors in order.
    """

    rows: FloatArray
    events: tuple[Event, ...]
    spans: tuple[tuple[float, float, str], ...]

    @property
    def line(self) -> FloatArray:
        return self.rows[:, :2]

    @property
    def length_m(self) -> float:
        return (len(self.rows) - 1) * STEP_M

    def span(self, s: float) -> tuple[float, float, str]:
        for span in self.spans:
            if s < span[1]:
                return span
        return self.spans[-1]

    def locate(self, xy: FloatArray, near_m: float | None = None) -> tuple[FloatArray, FloatArray]:
        """Arc length and left offset of points (M, 2); within 60 m of near_m, or anywhere."""
        first, last = 0, len(self.rows)
        if near_m is not None:
            first, last = max(0, int((near_m - 60) / STEP_M)), min(last, int((near_m + 75) / STEP_M) + 1)
        rows = self.rows[first:last]
        delta = np.asarray(xy)[:, None] - rows[None, :, :2]
        k = (delta**2).sum(-1).argmin(1)
        delta, yaw = delta[np.arange(len(k)), k], rows[k, YAW]
        along = delta[:, 0] * np.cos(yaw) + delta[:, 1] * np.sin(yaw)
        across = delta[:, 1] * np.cos(yaw) - delta[:, 0] * np.sin(yaw)
        return (first + k) * STEP_M + along, across

    def at(self, s: float) -> FloatArray:
        """The row (8,) at arc length s."""
        at = min(max(s / STEP_M, 0.0), len(self.rows) - 1.001)
        k = int(at)
        row: FloatArray = self.rows[k] + (self.rows[k + 1] - self.rows[k]) * (at - k)
        return row


def length_of(line: FloatArray) -> float:
    return float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())


def smooth(values: FloatArray, width: int) -> FloatArray:
    padded = np.concatenate([np.full(width // 2, values[0]), values, np.full(width // 2, values[-1])])
    return np.convolve(padded, np.ones(width) / width, "valid")


def _even(line: FloatArray, lengths: FloatArray) -> FloatArray:
    at = np.arange(0.0, lengths[-1], STEP_M)
    return np.stack([np.interp(at, lengths, line[:, d]) for d in range(2)], -1)


@dataclass(frozen=True)
class Piece:
    """A lane or connector as a way needs it."""

    line: FloatArray
    limit_mps: float
    connector: Connector | None
    room: tuple[float, float, float]  # left, right, oncoming, from the middle of the lane


def way_of(pieces: list[tuple[str, Piece]]) -> Way:
    """Joins lanes and connectors, in order, into one Way."""
    line = np.concatenate([p.line if i == 0 else p.line[1:] for i, (_, p) in enumerate(pieces)])
    steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
    keep = np.concatenate([[True], steps > 1e-6])
    lengths = np.concatenate([[0.0], np.cumsum(steps)])[keep]
    rows = np.zeros((len(np.arange(0.0, lengths[-1], STEP_M)), 8))
    rows[:, :2] = _even(line[keep], lengths)
    tangent = np.gradient(rows[:, :2], axis=0)
    rows[:, YAW] = smooth(np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0])), 5)
    rows[:, CURVATURE] = smooth(np.gradient(rows[:, YAW]) / STEP_M, 7)
    ends = np.cumsum([length_of(p.line) for _, p in pieces])
    owner = np.searchsorted(ends, np.arange(len(rows)) * STEP_M, side="right").clip(0, len(pieces) - 1)
    facts = np.array([(p.limit_mps, *p.room) for _, p in pieces])[owner]
    rows[:, ROOM_LEFT:] = facts[:, 1:]
    speed = np.minimum(facts[:, 0], np.sqrt(LATERAL_ACCEL_MPS2 / np.maximum(np.abs(rows[:, CURVATURE]), 1e-4)))
    ramp = 2 * COMFORT_BRAKE_MPS2 * STEP_M * np.arange(len(rows))
    rows[:, LIMIT] = np.sqrt(np.minimum.accumulate((speed**2 + ramp)[::-1])[::-1] - ramp)
    begins = np.concatenate([[0.0], ends[:-1]])
    spans = tuple((float(a), float(b), name) for a, b, (name, _) in zip(begins, ends, pieces))
    events = tuple(Event(a + p.connector.hold_m, b, name) for (a, b, name), (_, p) in zip(spans, pieces) if p.connector)
    return Way(rows, events, spans)


def way_of_line(line: FloatArray, limit_mps: float = 2.0) -> Way:
    """A way of its own, off the lanes: people's."""
    way = way_of([("", Piece(line, limit_mps, None, (0.0, 0.0, 0.0)))])
    way.rows[:, YAW] = smooth(way.rows[:, YAW], 13)  # people turn while they walk on
    return way


class Roads:
    """The network as agents see it: pieces, neighbours, and walks along it."""

    def __init__(self, network: Network, parked: set[tuple[int, int]]) -> None:
        """parked: (street, side) with cars at the kerb; side 1 is the left of the street's line."""
        self.network, self.parked = network, parked
        self.pieces: dict[str, Piece] = {}
        for name, line in network.lane_lines.items():
            self.pieces[name] = Piece(line, self.street(name).limit_mps, None, self._room(name))
        for name, line in network.cycle_lines.items():
            self.pieces[name] = Piece(line, self.street(name).limit_mps, None, (0.9, 0.9, 0.0))
        for c in network.connectors.values():
            limit = min(self.street(c.start).limit_mps, self.street(c.end).limit_mps)
            self.pieces[c.id] = Piece(c.line, limit, c, (LANE_M / 2, LANE_M / 2, 0.0))
        self.tight = {c.id: self._radius_m(c.line) for c in network.connectors.values()}
        self.goes_on = self._goes_on()

    def _goes_on(self) -> dict[str, float]:
        """lane -> metres that one can drive from its start without coming to a dead end, up to WAY_M."""
        length = {lane: length_of(line) for lane, line in self.network.lane_lines.items()}
        ends = {lane: [self.network.connectors[c].end for c in self.network.exits[lane]] for lane in length}
        out = dict(length)
        for _ in range(12):
            after = {lane: max((out[end] for end in ends[lane]), default=0.0) for lane in length}
            out = {lane: min(metres + after[lane], WAY_M) for lane, metres in length.items()}
        return out

    def street(self, lane: str) -> Street:
        return self.network.streets[street_of(lane)]

    def _room(self, lane: str) -> tuple[float, float, float]:
        street, k = self.street(lane), int(lane[-1])
        side = -1 if lane[-2] == "f" else 1
        bare = (street.index, side) not in self.parked and not street.cycle
        kerb = street.half_m if bare else street.edge_m + 0.1
        oncoming = 0.0 if street.one_way or street.median_m else street.lanes * LANE_M
        return (k + 0.5) * LANE_M, kerb - street.lane_offset_m(k), oncoming

    @staticmethod
    def _radius_m(line: FloatArray) -> float:
        way = _even(line, np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))]))
        tangent = np.gradient(way, axis=0)
        yaw = smooth(np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0])), 5)
        return float(1 / max(np.abs(smooth(np.gradient(yaw) / STEP_M, 7)).max(), 1e-3))

    def beside(self, lane: str, side: int) -> str | None:
        """The lane of the same direction to the left (+1) or right (-1)."""
        if lane not in self.network.lane_lines:
            return None
        other = lane[:-1] + str(int(lane[-1]) - side)
        return other if other in self.network.lane_lines else None

    def walk(
        self,
        rng: np.random.Generator,
        lane: str,
        *,
        from_m: float = 0.0,
        long: bool = False,
        turns: dict[str, str] | None = None,
    ) -> Way:
        """From a lane at random to WAY_M beyond from_m; ``turns``: lane -> connector where the way is set, and off it
        only where one can drive on longest.

        Long vehicles take no bend of less than 13 m radius.
        """
        chain, length, turns = [lane], -from_m, turns or {}
        while True:
            length += length_of(self.pieces[lane].line)
            choices = [self.network.connectors[c] for c in self.network.exits[lane]]
            choices = [c for c in choices if not long or c.turn == 0 or self.tight[c.id] > 13.0] or choices[:1]
            if length > WAY_M or not choices:
                break
            if turns:
                most = max(self.goes_on[c.end] for c in choices)
                choices = [c for c in choices if self.goes_on[c.end] == most]
            weight = np.array([3.0 if c.turn == 0 else 1.3 for c in choices])
            drawn = choices[int(rng.choice(len(choices), p=weight / weight.sum()))]
            chosen = self.network.connectors[turns[lane]] if lane in turns else drawn
            chain += [chosen.id, chosen.end]
            length += length_of(chosen.line)
            lane = chosen.end
        return way_of([(name, self.pieces[name]) for name in chain])


def ride(rng: np.random.Generator, roads: Roads, lane: str, from_m: float) -> Way:
    """A bicycle's way: cycle lanes where there are any, else the right of the right lane."""
    network, pieces = roads.network, []
    chosen: Connector | None = None
    name, length = lane[:-1] + "c" if lane[:-1] + "c" in network.cycle_lines else lane, -from_m
    while True:
        from_cycle = chosen is not None and chosen.cycle
        choices = [network.connectors[c] for c in network.cycle_exits.get(name, []) + network.exits.get(name, [])]
        choices = [c for c in choices if c.turn < 1 or c.cycle] or choices
        chosen = choices[int(rng.integers(len(choices)))] if choices else None
        piece = roads.pieces[name]
        if name not in network.cycle_lines:
            line = _keeping_right(piece.line, from_cycle, chosen is not None and chosen.cycle)
            piece = Piece(line, piece.limit_mps, None, (0.6, 0.6, 0.0))
        pieces.append((name, piece))
        length += length_of(piece.line)
        if length > WAY_M or chosen is None:
            return way_of(pieces)
        line = chosen.line if chosen.cycle else offset_line(chosen.line, CYCLIST_SIDE_M)
        pieces.append((chosen.id, Piece(line, piece.limit_mps, chosen, (0.6, 0.6, 0.0))))
        length += length_of(line)
        name = chosen.end


def _keeping_right(line: FloatArray, from_middle: bool, to_middle: bool) -> FloatArray:
    """The right of a lane; its middle at the ends where a cyclist's way of its own begins or ends."""
    line = resample_polyline(line, 1.0)
    at = np.arange(len(line)) * 1.0
    share = np.clip(at / 12.0, 1.0 - from_middle, 1.0) * np.clip((at[-1] - at) / 12.0, 1.0 - to_middle, 1.0)
    return offset_line(line, CYCLIST_SIDE_M * share[:, None])


def place_on(way: Way, xy: FloatArray, yaw_rad: float, near_m: float | None = None) -> tuple[float, float, float]:
    """(s, d, e) of a pose of the rear axle on a way, exact to a millimetre."""
    s = float(way.locate(xy[None], near_m)[0][0])
    for _ in range(4):
        row = way.at(s)
        s += float((xy[0] - row[X]) * np.cos(row[YAW]) + (xy[1] - row[Y]) * np.sin(row[YAW]))
    row = way.at(s)
    d = float((xy[1] - row[Y]) * np.cos(row[YAW]) - (xy[0] - row[X]) * np.sin(row[YAW]))
    return s, d, float(wrap_angle(yaw_rad - row[YAW]))
