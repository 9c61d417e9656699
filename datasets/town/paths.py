"""Paths through the network: the ego's route with its lane changes and wobble, and random walks for the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drive_wm.datasets.town.streets import Network, lane_id, offset_line
from drive_wm.geometry import resample_polyline
from drive_wm.types import FloatArray

STEP_M = 0.5
LATERAL_ACCEL_MPS2 = 2.0
COMFORT_BRAKE_MPS2 = 1.3


@dataclass(frozen=True)
class Event:
    """A junction on a path: from arc length stop_m (the stop line) to exit_m the path follows the connector."""

    stop_m: float
    exit_m: float
    connector: str


@dataclass(frozen=True)
class Path:
    """line: (K, 2) every 0.5 m. limit_mps: (K,), the speed that limit, bends and comfort allow."""

    line: FloatArray
    yaw_rad: FloatArray
    limit_mps: FloatArray
    events: tuple[Event, ...]

    @property
    def length_m(self) -> float:
        return (len(self.line) - 1) * STEP_M


def _length(line: FloatArray) -> float:
    return float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())


def _smooth(values: FloatArray, width: int) -> FloatArray:
    padded = np.concatenate([np.full(width // 2, values[0]), values, np.full(width // 2, values[-1])])
    return np.convolve(padded, np.ones(width) / width, "valid")


def _even(line: FloatArray) -> FloatArray:
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    at = np.arange(0.0, length[-1], STEP_M)
    return np.stack([np.interp(at, length, line[:, d]) for d in range(2)], -1)


def make_path(pieces: list[tuple[FloatArray, float, str | None]], lateral_m: FloatArray | None = None) -> Path:
    """Joins pieces (line, speed limit, connector or None); ``lateral_m`` (K,) moves the line to its left."""
    lines: list[FloatArray] = []
    events: list[Event] = []
    limits: list[tuple[float, float]] = []
    at = 0.0
    for line, limit, connector in pieces:
        length = _length(line)
        if connector is not None:
            events.append(Event(at, at + length, connector))
        at += length
        lines.append(line if not lines else line[1:])
        limits.append((at, limit))
    line = _even(np.concatenate(lines))
    if lateral_m is not None:
        line = offset_line(
            line, np.interp(np.arange(len(line)) * STEP_M, np.arange(len(lateral_m)) * STEP_M, lateral_m)[:, None]
        )
        line = _even(line)
    tangent = np.gradient(line, axis=0)
    yaw = _smooth(np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0])), 5)
    curvature = _smooth(np.gradient(yaw) / STEP_M, 7)
    posted = np.array([limit for _, limit in limits])[
        np.searchsorted([a for a, _ in limits], np.arange(len(line)) * STEP_M).clip(0, len(limits) - 1)
    ]
    speed = np.minimum(posted, np.sqrt(LATERAL_ACCEL_MPS2 / np.maximum(np.abs(curvature), 1e-4)))
    ramp = 2 * COMFORT_BRAKE_MPS2 * STEP_M * np.arange(len(line))
    reachable = np.minimum.accumulate((speed**2 + ramp)[::-1])[::-1] - ramp
    return Path(line, yaw, np.sqrt(reachable), tuple(events))


def random_path(
    rng: np.random.Generator, network: Network, start: str, from_m: float, straight: bool, side_m: float
) -> Path:
    """A walk of about 330 m from a lane, ``from_m`` along it; ``side_m`` moves it left (bicycles keep right)."""
    pieces: list[tuple[FloatArray, float, str | None]] = []
    name, length = start, -from_m
    while True:
        line, limit = network.lane_lines[name], network.streets[int(name[1:-2])].limit_mps
        pieces.append((line, limit, None))
        length += _length(line)
        choices = [network.connectors[c] for c in network.exits[name]]
        choices = [c for c in choices if c.turn == 0 or not straight]
        if length > 330 or not choices:
            break
        weight = np.array([3.0 if c.turn == 0 else 1.0 for c in choices])
        chosen = choices[int(rng.choice(len(choices), p=weight / weight.sum()))]
        pieces.append((chosen.line, limit, chosen.id))
        length += _length(chosen.line)
        name = chosen.end
    lateral = np.full(4000, side_m) if side_m else None
    return make_path(pieces, lateral)


def _blend(network: Network, street: int, first: int, last: int) -> FloatArray:
    """The middle of lane ``first``, changing to lane ``last`` in mid-street."""
    a = resample_polyline(network.lane_lines[lane_id(street, True, first)], 1.0)
    if first == last:
        return a
    b = resample_polyline(network.lane_lines[lane_id(street, True, last)], len(a) and _length(a) / (len(a) - 1))
    b = np.stack([np.interp(np.linspace(0, 1, len(a)), np.linspace(0, 1, len(b)), b[:, d]) for d in range(2)], -1)
    at = np.linspace(0, _length(a), len(a))
    t = np.clip((at - at[-1] / 2) / min(45.0, at[-1] * 0.8) + 0.5, 0.0, 1.0)[:, None]
    t = t * t * (3 - 2 * t)
    return a * (1 - t) + b * t


def ego_pieces(rng: np.random.Generator, network: Network) -> list[tuple[FloatArray, float, str | None]]:
    """The spine, lane by lane: left turns leave from the left lane and right turns from the right one."""
    pieces: list[tuple[FloatArray, float, str | None]] = []
    lane = int(rng.integers(network.streets[0].lanes))
    for i, street in enumerate(network.spine):
        lanes, limit = network.streets[street].lanes, network.streets[street].limit_mps
        if i == len(network.turns):
            pieces.append((_blend(network, street, lane, lane), limit, None))
            break
        wanted = {1: 0, -1: lanes - 1, 0: lane}[network.turns[i]]
        pieces.append((_blend(network, street, lane, wanted), limit, None))
        nexts = [network.connectors[c] for c in network.exits[lane_id(street, True, wanted)]]
        chosen = next(c for c in nexts if c.end.startswith(f"s{network.spine[i + 1]}f"))
        pieces.append((chosen.line, limit, chosen.id))
        lane = int(chosen.end[-1])
    return pieces


def wobble(rng: np.random.Generator, start_m: float, length_m: float) -> FloatArray:
    """The driver's lateral error along the route (K,), at most 0.7 m: none, an early offset, or slow waves."""
    at = np.arange(0.0, length_m + 50.0, STEP_M)
    kind = rng.random()
    if kind < 0.7:
        return np.zeros(len(at))
    if kind < 0.85:
        return rng.uniform(0.25, 0.7) * rng.choice([-1, 1]) / (1 + np.exp((at - start_m - rng.uniform(18, 35)) / 6.0))
    waves = sum(np.sin(2 * np.pi * (at / rng.uniform(45, 110) + rng.random())) for _ in range(2))
    return np.asarray(waves) * rng.uniform(0.12, 0.33)
