"""Who is in town: moving vehicles and their paths, parked cars, people on walkways and at crossings."""

from __future__ import annotations

import numpy as np

from drive_wm.datasets.town.paths import STEP_M, Path, ego_pieces, make_path, random_path, wobble
from drive_wm.datasets.town.streets import LANE_M, PARKING_M, WALKWAY_M, Network, Street, mouth, offset_line
from drive_wm.datasets.town.traffic import Body
from drive_wm.types import FloatArray

EGO_LWH_M = (4.1, 1.75, 1.6)
EGO_CENTER_M = 1.35  # of the box, ahead of the rear axle
# category: share of traffic, length, width, height in metres, each drawn within 6%
KINDS = {
    "car": (0.62, 4.5, 1.85, 1.55),
    "van": (0.11, 5.3, 2.0, 2.2),
    "truck": (0.08, 7.5, 2.4, 3.1),
    "bus": (0.06, 10.5, 2.5, 3.2),
    "motorcycle": (0.07, 2.1, 0.75, 1.6),
    "bicycle": (0.06, 1.8, 0.6, 1.7),
}
PAINT = (
    (200, 30, 35),
    (30, 70, 180),
    (20, 120, 70),
    (235, 180, 30),
    (230, 230, 230),
    (235, 235, 235),
    (25, 25, 28),
    (120, 124, 130),
    (170, 175, 180),
    (225, 110, 25),
    (90, 30, 110),
    (40, 150, 190),
    (70, 75, 82),
)
CLOTHES = (
    (190, 40, 50),
    (40, 80, 170),
    (225, 200, 60),
    (40, 130, 80),
    (35, 35, 40),
    (210, 210, 205),
    (150, 80, 150),
    (220, 120, 50),
)
MAX_VEHICLES = 46


def _paint(rng: np.random.Generator, palette: tuple[tuple[int, int, int], ...]) -> tuple[int, int, int]:
    r, g, b = np.clip(np.array(palette[int(rng.integers(len(palette)))]) + rng.integers(-14, 15, 3), 5, 250)
    return int(r), int(g), int(b)


def _size(rng: np.random.Generator, kind: str) -> tuple[float, float, float]:
    length, width, height = (float(v) * float(rng.uniform(0.94, 1.06)) for v in KINDS[kind][1:])
    return length, width, height


def ego_body(rng: np.random.Generator, network: Network) -> Body:
    pieces = ego_pieces(rng, network)
    length = float(np.linalg.norm(np.diff(pieces[0][0], axis=0), axis=1).sum())
    start = length - rng.uniform(14.0, min(80.0, length - 40.0))
    path = make_path(pieces, wobble(rng, start, 700.0))
    to_line = length - start - EGO_CENTER_M - EGO_LWH_M[0] / 2
    speed = min(
        rng.uniform(0.55, 0.95) * float(path.limit_mps[int(start / STEP_M)]), np.sqrt(2 * 1.4 * max(to_line, 1.0))
    )
    return Body("ego", "car", EGO_LWH_M, path, start, float(speed), float(rng.uniform(0.86, 1.0)))


def _kind(rng: np.random.Generator) -> str:
    shares = np.array([k[0] for k in KINDS.values()])
    return list(KINDS)[int(rng.choice(len(KINDS), p=shares / shares.sum()))]


def _vehicle(
    rng: np.random.Generator, network: Network, name: str, lane: str, at_m: float, to_line_m: float, enter_s: float
) -> Body:
    kind = _kind(rng)
    if kind == "bicycle" and (int(lane[-1]) + 1 < network.streets[int(lane[1:-2])].lanes or rng.random() < 0.5):
        kind = "car"
    size = _size(rng, kind)
    path = random_path(rng, network, lane, at_m, kind in ("truck", "bus"), -1.1 if kind == "bicycle" else 0.0)
    limit = float(path.limit_mps[min(int(at_m / STEP_M), len(path.limit_mps) - 1)])
    factor = float(rng.uniform(0.78, 1.05)) * (0.42 if kind == "bicycle" else 1.0)
    room = max(to_line_m - 0.8 * size[0], 0.0)
    speed = min(rng.uniform(0.5, 0.9) * limit * factor, np.sqrt(2 * 1.2 * room))
    return Body(name, kind, size, path, at_m, float(speed), factor, enter_s, _paint(rng, PAINT))


def vehicles(rng: np.random.Generator, network: Network, ego: Body, density: float) -> list[Body]:
    """The ego first, then traffic on every lane with room between, then those that will enter at the dead ends."""
    out = [ego]
    here = ego.path.line[int(ego.start_m / STEP_M)]
    lanes = list(network.lane_lines)
    for name in [lanes[i] for i in rng.permutation(len(lanes))]:
        line = network.lane_lines[name]
        length = float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())
        at = rng.uniform(1.0, 40.0)
        ends_blind = not network.exits[name]
        while at < length - 11.0 - (12.0 if ends_blind else 0.0) and len(out) < MAX_VEHICLES:
            point = line[int(at / length * (len(line) - 1))]
            if np.linalg.norm(point - here) > (15.0 if rng.random() < 0.6 else 30.0):
                out.append(_vehicle(rng, network, f"vehicle-{len(out):03d}", name, float(at), length - at, -99.0))
            at += 15.0 + rng.exponential(42.0 / density)
    entries = [name for name in lanes if name not in {c.end for c in network.connectors.values()}]
    for _ in range(int(12 * density)):
        name = entries[int(rng.integers(len(entries)))]
        out.append(_vehicle(rng, network, f"vehicle-{len(out):03d}", name, 0.0, 60.0, float(rng.uniform(0.0, 22.0))))
    return out


def parked(
    rng: np.random.Generator, street: Street
) -> list[tuple[str, FloatArray, float, tuple[float, float, float], tuple[int, int, int]]]:
    """(category, xy, yaw, size, colour) of cars at both kerbs, none near the junctions."""
    if not street.parking:
        return []
    out = []
    share = rng.uniform(0.2, 0.75)
    for side in (1, -1):
        line = offset_line(street.line, side * (street.lanes * LANE_M + PARKING_M / 2 + 0.1))
        arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
        at = 9.0 + rng.uniform(0, 5)
        while at < arc[-1] - 10.0:
            if rng.random() < share:
                kind = "van" if rng.random() < 0.15 else "car"
                xy = np.array([np.interp(at, arc, line[:, d]) for d in range(2)])
                ahead = np.array([np.interp(at + 0.5, arc, line[:, d]) for d in range(2)]) - xy
                yaw = float(np.arctan2(ahead[1], ahead[0])) + (np.pi if side > 0 else 0.0)
                out.append((kind, xy, yaw, _size(rng, kind), _paint(rng, PAINT)))
            at += rng.uniform(6.3, 8.0)
    return out


def _walk_path(line: FloatArray) -> Path:
    return make_path([(line, 2.0, None)])


def people(rng: np.random.Generator, network: Network, count: int) -> list[Body]:
    """Some walk along a street, some come to a crossing, cross when they may, and walk on."""
    out: list[Body] = []
    gates = [(j.index, a) for j in network.junctions for a in j.crossings]
    for i in range(count):
        size = (0.6, 0.6, float(rng.uniform(1.5, 1.9)))
        pace = float(rng.uniform(1.1, 1.7))
        gate = None
        if gates and rng.random() < 0.5:
            line, gate = _crossing_line(rng, network, *gates[int(rng.integers(len(gates)))])
            path = _walk_path(line)
            start = float(rng.uniform(max(gate[2] - 14.0, 0.5), gate[2] - 1.0))
        else:
            street = network.streets[int(rng.integers(len(network.streets)))]
            side = float(rng.choice([-1, 1])) * (street.half_m + rng.uniform(1.3, WALKWAY_M - 0.5))
            line = offset_line(street.line, side)
            path = _walk_path(line if rng.random() < 0.5 else line[::-1])
            start = float(rng.uniform(0.0, max(path.length_m - 30.0, 1.0)))
        out.append(
            Body(f"pedestrian-{i:02d}", "pedestrian", size, path, start, pace, color=_paint(rng, CLOTHES), gate=gate)
        )
    return out


def _crossing_line(
    rng: np.random.Generator, network: Network, j: int, a: int
) -> tuple[FloatArray, tuple[int, int, float, float]]:
    junction = network.junctions[j]
    arm = junction.arms[a]
    side = float(rng.choice([-1, 1]))
    kerb, walk = (
        network.streets[arm.street].half_m + 0.3,
        network.streets[arm.street].half_m + 1.5 + rng.uniform(0, 0.8),
    )
    at, far = junction.reach_m - rng.uniform(2.2, 3.8), junction.reach_m + 22.0
    spots = ((far, walk), (at, walk), (at, kerb), (at, -kerb), (at, -walk), (far, -walk))
    line = np.stack([mouth(network, junction, arm, r, side * s) for r, s in spots])
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    return line, (j, a, float(arc[2]), float(arc[3]))
