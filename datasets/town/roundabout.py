"""Roundabouts: one circulating lane, counter-clockwise, that every arm enters and leaves along a curve."""

from __future__ import annotations

import numpy as np

from drive_wm.datasets.town.network import LANE_M, Arm, Junction, Network, mouth, unit
from drive_wm.geometry import resample_polyline
from drive_wm.types import FloatArray

APPROACH_M = 13.0  # from the circulating lane's middle to the yield lines' crossing room
RING_HALF_M = 3.0  # half the circulating lane's width: long vehicles sweep
MIN_ANGLE_RAD = 1.08  # between neighbouring arms
SPLITTER_HALF_M = 0.6


def fits(arms: list[Arm]) -> bool:
    """Whether arms, sorted by heading, lie far enough apart."""
    return len(arms) > 2 and all(_gap(arms, i) >= MIN_ANGLE_RAD for i in range(len(arms)))


def _gap(arms: list[Arm], i: int) -> float:
    """The angle from an arm to the next one, counter-clockwise."""
    return float((arms[(i + 1) % len(arms)].heading - arms[i].heading) % (2 * np.pi))


def merge_angle(junction: Junction) -> float:
    """The angle from an arm to where its entry joins the ring, the same before it to where its exit leaves."""
    return min(0.68, min(_gap(junction.arms, i) for i in range(len(junction.arms))) / 2 - 0.03)


def _on_ring(junction: Junction, angle: float) -> FloatArray:
    return junction.center + junction.ring_m * unit(angle)


def _cubic(p: FloatArray, hp: float, q: FloatArray, hq: float) -> FloatArray:
    k = 0.38 * np.linalg.norm(q - p)
    t = np.linspace(0.0, 1.0, 17)[:, None]
    a, b = p + k * unit(hp), q - k * unit(hq)
    curve: FloatArray = (1 - t) ** 3 * p + 3 * t * (1 - t) ** 2 * a + 3 * t**2 * (1 - t) * b + t**3 * q
    return curve


def entry(network: Network, junction: Junction, a: int) -> FloatArray:
    """From the mouth of an arm to the ring."""
    arm = junction.arms[a]
    angle = arm.heading + merge_angle(junction)
    start = mouth(network, junction, arm, junction.reach_m, LANE_M / 2)
    turn_in = mouth(network, junction, arm, junction.ring_m + 7.5, LANE_M / 2)
    curve = _cubic(turn_in, arm.heading + np.pi, _on_ring(junction, angle), angle + np.pi / 2)
    return np.concatenate([start[None], curve])


def leave(network: Network, junction: Junction, a: int) -> FloatArray:
    """From the ring to the mouth of an arm."""
    arm = junction.arms[a]
    angle = arm.heading - merge_angle(junction)
    end = mouth(network, junction, arm, junction.reach_m, -LANE_M / 2)
    turned = mouth(network, junction, arm, junction.ring_m + 7.5, -LANE_M / 2)
    curve = _cubic(_on_ring(junction, angle), angle + np.pi / 2, turned, arm.heading)
    return np.concatenate([curve, end[None]])


def arc(junction: Junction, begin: float, sweep: float, radius_m: float | None = None) -> FloatArray:
    """Points along a circle around the junction from the angle ``begin``, counter-clockwise."""
    angles = begin + np.linspace(0.0, sweep, max(2, int(abs(sweep) / 0.12) + 2))
    circle = np.stack([np.cos(angles), np.sin(angles)], -1)
    return junction.center + (radius_m or junction.ring_m) * circle


def way_through(network: Network, junction: Junction, a: int, b: int) -> FloatArray:
    """From the mouth of arm ``a`` along the ring to the mouth of arm ``b``, (N, 2) every 0.5 m."""
    merge = merge_angle(junction)
    sweep = (junction.arms[b].heading - junction.arms[a].heading) % (2 * np.pi) - 2 * merge
    ring = arc(junction, junction.arms[a].heading + merge, sweep)
    line = np.concatenate([entry(network, junction, a), ring[1:-1], leave(network, junction, b)])
    return resample_polyline(line, 0.5)


def passes(junction: Junction, start: int, end: int, arm: int) -> bool:
    """Whether the way from arm ``start`` to arm ``end`` circulates past the entry of ``arm``."""
    n = len(junction.arms)
    return 0 < (arm - start) % n < (end - start) % n


def pieces(network: Network, junction: Junction) -> list[tuple[str, FloatArray, tuple[str, ...]]]:
    """(name, line, successors) of the lanes of a roundabout; "in0" and "out0" are the arm's own."""
    merge, n = merge_angle(junction), len(junction.arms)
    out: list[tuple[str, FloatArray, tuple[str, ...]]] = []
    for a, arm in enumerate(junction.arms):
        after = (a + 1) % n
        sweep = (junction.arms[after].heading - arm.heading) % (2 * np.pi) - 2 * merge
        out.append((f"in{a}", entry(network, junction, a), (f"ring{a}",)))
        out.append((f"ring{a}", arc(junction, arm.heading + merge, sweep), (f"out{after}", f"pass{after}")))
        out.append((f"pass{a}", arc(junction, arm.heading - merge, 2 * merge), (f"ring{a}",)))
        out.append((f"out{a}", leave(network, junction, a), ()))
    return out


def kerb(network: Network, junction: Junction, a: int) -> FloatArray:
    """The outer kerb from arm ``a`` to the next: beside the first exit's way, as wide as street and ring."""
    b = (a + 1) % len(junction.arms)
    line = resample_polyline(way_through(network, junction, a, b), 1.5)
    halves = [network.streets[junction.arms[k].street].half_m - LANE_M / 2 for k in (a, b)]
    at = np.linspace(0.0, 1.0, len(line))
    radius = np.linalg.norm(line - junction.center, axis=1)
    near = np.clip((radius - junction.ring_m - 1.0) / (APPROACH_M - 4.0), 0.0, 1.0)
    near = near * near * (3 - 2 * near)
    wide = RING_HALF_M + near * (np.where(at < 0.5, halves[0], halves[1]) - RING_HALF_M)
    tangent = np.gradient(line, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    return line + wide[:, None] * np.stack([tangent[:, 1], -tangent[:, 0]], -1)


def splitter(network: Network, junction: Junction, arm: Arm, side: float) -> FloatArray:
    """One edge (2, 2) of the island between entry and exit: its tip at the crossing, and its corner at the ring."""
    tip = mouth(network, junction, arm, junction.reach_m - 5.4, 0.0)
    base = mouth(network, junction, arm, junction.ring_m + RING_HALF_M + 0.6, side * SPLITTER_HALF_M)
    return np.stack([tip, base])


def surfaces(network: Network, junction: Junction) -> tuple[list[FloatArray], list[FloatArray]]:
    """Drivable sectors, which leave out the islands, and the islands: the middle one first, then the splitters."""
    n, inner = len(junction.arms), junction.ring_m - RING_HALF_M
    sectors, islands = [], []
    for a, arm in enumerate(junction.arms):
        after = junction.arms[(a + 1) % n]
        sweep = (after.heading - arm.heading) % (2 * np.pi)
        foot = [mouth(network, junction, x, junction.ring_m + RING_HALF_M + 0.6, 0.0) for x in (arm, after)]
        ends = [mouth(network, junction, x, junction.reach_m, 0.0) for x in (arm, after)]
        ring = arc(junction, arm.heading, sweep, inner)
        left, right = splitter(network, junction, arm, 1.0), splitter(network, junction, after, -1.0)
        sectors.append(np.concatenate([ends[0][None], kerb(network, junction, a), ends[1][None], right, foot[1][None],
                                       ring[::-1], foot[0][None], left[::-1]]))
        islands.append(np.concatenate([left, splitter(network, junction, arm, -1.0)[1:]]))
    return sectors, [arc(junction, 0.0, 2 * np.pi * 35 / 36, inner), *islands]
