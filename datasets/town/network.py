"""The words of the street network: streets, junctions and their arms, connectors; where things lie across a street.

Everything is planar (z = 0) and 2-D here; ``road_map`` lifts it. Traffic keeps to the right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from drive_wm.types import FloatArray

LANE_M = 3.5
CYCLE_M = 1.8
PARKING_M = 2.3
SHOULDER_M = 0.5
ONE_WAY_SHOULDER_M = 1.0  # there is no oncoming lane to swing out into
WALKWAY_M = 3.2
CORNER_RADIUS_M = 5.0
CROSSING_ROOM_M = 5.0  # between the end of the rounded corner and the stop line
ZEBRA_REACH_M = 3.0  # from the middle of a mid-block crossing to the line before it
SLIP_M = 16.0  # how far before the stop line a slip lane leaves, and behind the junction it joins
CYCLIST_SIDE_M = -1.1  # where bicycles ride in a lane that they share
CONTROLS = ("signal", "stop sign", "give way", "none", "roundabout", "zebra", "merge")


@dataclass
class Street:
    """``line`` is the middle of the carriageway from node ``a`` to ``b`` (None: dead end), trimmed at the stop lines.

    lanes: each way; of a one-way street, which runs along ``line``, all of them. cycle: a lane on either side.
    median_m: width of the raised island between the directions, 0 without one.
    """

    index: int
    line: FloatArray
    lanes: int
    parking: bool
    limit_mps: float
    a: int | None
    b: int | None
    one_way: bool = False
    cycle: bool = False
    median_m: float = 0.0

    @property
    def edge_m(self) -> float:
        """From the middle to the outer edge of the outermost lane for cars."""
        return self.lanes * LANE_M / 2 if self.one_way else self.median_m / 2 + self.lanes * LANE_M

    @property
    def half_m(self) -> float:
        """From the middle to either kerb."""
        bare_m = ONE_WAY_SHOULDER_M if self.one_way else SHOULDER_M
        return self.edge_m + self.cycle * CYCLE_M + (PARKING_M if self.parking else bare_m)

    @property
    def cycle_offset_m(self) -> float:
        return self.edge_m + CYCLE_M / 2

    @property
    def bay_m(self) -> float:
        """From the middle to the middle of the parking bays."""
        return self.edge_m + self.cycle * CYCLE_M + PARKING_M / 2 + 0.1

    def count(self, forward: bool) -> int:
        return 0 if self.one_way and not forward else self.lanes

    def lane_offset_m(self, lane: int) -> float:
        """Middle of a lane, to the right of ``line`` as its own traffic sees it; lane 0 is the leftmost."""
        return (lane + 0.5) * LANE_M + (-self.lanes * LANE_M if self.one_way else self.median_m) / 2

    @cached_property
    def normals(self) -> FloatArray:
        """(N, 2) unit vectors to the left; made once, so the line must not change after."""
        return _normals(self.line)

    def shifted(self, left_m: float) -> FloatArray:
        """The street's line moved to its left."""
        return self.line + left_m * self.normals


@dataclass(frozen=True)
class Arm:
    """A street as seen from a junction: ``heading`` points away from it; ``outgoing`` where the street starts here."""

    street: int
    heading: float
    outgoing: bool
    axis: int


@dataclass
class Junction:
    """control: one of CONTROLS; stop sign and give way bind the minor axis. reach_m: centre to stop lines.

    slips: pairs of arms (from, to) with a right-turn bypass. ring_m: radius of the circulating lane's middle, or 0.
    Mid-block crossings ("zebra") and lane drops ("merge") are junctions of two arms.
    """

    index: int
    center: FloatArray
    control: str
    major_axis: int
    arms: list[Arm] = field(default_factory=list)
    crossings: list[int] = field(default_factory=list)
    reach_m: float = 0.0
    slips: list[tuple[int, int]] = field(default_factory=list)
    ring_m: float = 0.0

    @property
    def real(self) -> bool:
        return self.control not in ("zebra", "merge")


@dataclass(frozen=True)
class Connector:
    """A path through a junction from lane ``start`` to lane ``end``; turn: -1 right, 0 straight, +1 left.

    hold_m: where along it the stop or yield line lies. slip: a right-turn bypass. cycle: for bicycles only.
    """

    id: str
    junction: int
    start: str
    end: str
    turn: int
    axis: int
    arm: int
    line: FloatArray
    hold_m: float = 0.0
    slip: bool = False
    cycle: bool = False


@dataclass
class Network:
    """spine: the ego's streets, all run forward; turns: what it does at the junction after each of them but the last.

    exits: lane -> the connectors that leave it; cycle_exits: the same for bicycles, from cycle lanes and shared lanes.
    cuts: (street, side +1 left or -1 right, at its end) -> metres of kerb and walkway that a slip lane takes there.
    islands: raised polygons (N, 2) within the roads.
    """

    streets: list[Street]
    junctions: list[Junction]
    turns: list[int]
    spine: list[int]
    lane_lines: dict[str, FloatArray] = field(default_factory=dict)
    connectors: dict[str, Connector] = field(default_factory=dict)
    exits: dict[str, list[str]] = field(default_factory=dict)
    cycle_lines: dict[str, FloatArray] = field(default_factory=dict)
    cycle_exits: dict[str, list[str]] = field(default_factory=dict)
    cuts: dict[tuple[int, int, bool], float] = field(default_factory=dict)
    islands: list[FloatArray] = field(default_factory=list)


def unit(heading: float) -> FloatArray:
    return np.array([np.cos(heading), np.sin(heading)])


def _normals(line: FloatArray) -> FloatArray:
    tangent = np.gradient(line, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    return np.stack([-tangent[:, 1], tangent[:, 0]], -1)


def offset_line(line: FloatArray, left_m: float | FloatArray) -> FloatArray:
    """The polyline moved to its left by ``left_m``: one value, or (N, 1)."""
    return line + left_m * _normals(line)


def lift(points: FloatArray, z_m: float = 0.0) -> FloatArray:
    out = np.empty((len(points), 3))
    out[:, :2], out[:, 2] = points, z_m
    return out


def arc_length(line: FloatArray) -> FloatArray:
    """(N,) metres along a polyline."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])


def cut(line: FloatArray, begin_m: float, end_m: float, spacing_m: float = 2.0) -> FloatArray:
    """The part of a polyline from begin_m to end_m, in equal steps of about ``spacing_m``."""
    length = arc_length(line)
    at = np.linspace(begin_m, end_m, max(2, int((end_m - begin_m) / spacing_m) + 1))
    return np.stack([np.interp(at, length, line[:, d]) for d in range(2)], -1)


def lane_id(street: int, forward: bool, lane: int) -> str:
    return f"s{street}{'f' if forward else 'b'}{lane}"


def cycle_id(street: int, forward: bool) -> str:
    return f"s{street}{'f' if forward else 'b'}c"


def street_of(lane: str) -> int:
    """Index of the street of a lane or of a cycle lane."""
    return int(lane[1:-2])


def signal_id(junction: int, arm: int) -> str:
    return f"signal{junction}_{arm}"


def mouth(network: Network, junction: Junction, arm: Arm, reach_m: float, side: float) -> FloatArray:
    """The point of an arm at ``reach_m`` from the centre and ``side`` metres left of its middle, looking outwards."""
    u = unit(arm.heading)
    return junction.center + reach_m * u + side * np.array([-u[1], u[0]])


def corner(network: Network, junction: Junction, first: Arm, second: Arm) -> tuple[FloatArray | None, float]:
    """Where the kerbs of two neighbouring arms (counter-clockwise) meet, and how much of each the rounding takes."""
    angle = (second.heading - first.heading) % (2 * np.pi)
    if angle > np.radians(150):
        return None, 0.0
    ha, hb = network.streets[first.street].half_m, network.streets[second.street].half_m
    along = (hb + ha * np.cos(angle)) / np.sin(angle)
    u = unit(first.heading)
    point = junction.center + along * u + ha * np.array([-u[1], u[0]])
    return point, CORNER_RADIUS_M * float(np.tan((np.pi - angle) / 2))


def arm_lanes(network: Network, arm: Arm, drives_in: bool) -> list[str]:
    """The lanes of an arm that lead into the junction, or out of it; the cycle lane last."""
    forward, street = arm.outgoing != drives_in, network.streets[arm.street]
    lanes = [lane_id(street.index, forward, k) for k in range(street.count(forward))]
    return lanes + ([cycle_id(street.index, forward)] if street.cycle else [])


def must_stop_at(junction: Junction, arm: Arm) -> bool:
    """Whether an arm has a stop line or a yield line."""
    bound = {"signal": True, "zebra": True, "roundabout": True, "none": False, "merge": False}
    return bound.get(junction.control, arm.axis != junction.major_axis)


def inbound_span(network: Network, arm: Arm) -> tuple[float, float]:
    """From where to where the lanes into the junction lie, in metres left of the arm's middle, looking outwards."""
    street = network.streets[arm.street]
    if street.one_way:
        return (0.0, 0.0) if arm.outgoing else (-street.edge_m, street.edge_m)
    return street.median_m / 2, street.edge_m + street.cycle * CYCLE_M


def stop_line(network: Network, junction: Junction, arm: Arm) -> FloatArray:
    """(2, 2) where traffic of an arm has to stop, from its left to its right."""
    inner, outer = inbound_span(network, arm)
    return np.stack([mouth(network, junction, arm, junction.reach_m - 0.3, s) for s in (inner + 0.2, outer)])


def walk_lines(network: Network, from_kerb_m: float = 1.6) -> list[tuple[FloatArray, int]]:
    """Lines along which people can walk without touching a road, each with its street's index."""
    out = []
    for street in network.streets:
        for side in (1, -1):
            line = street.shifted(side * (street.half_m + from_kerb_m))
            begin, end = (network.cuts.get((street.index, side, at_end), 0.0) for at_end in (False, True))
            length = float(arc_length(line)[-1])
            if length - begin - end > 12.0:
                out.append((cut(line, begin, length - end) if begin or end else line, street.index))
    return out
