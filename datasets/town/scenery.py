"""What stands beside the streets: buildings, trees, poles, hedges, traffic lights; never on a road or a walkway."""

from __future__ import annotations

import numpy as np

from drive_wm.datasets.town.streets import (
    WALKWAY_M,
    Arm,
    Junction,
    Network,
    Street,
    mouth,
    must_stop_at,
    offset_line,
    signal_id,
)
from drive_wm.geometry import box_corners, wrap_angle
from drive_wm.types import FloatArray, Prop

FACADES = (
    (178, 92, 72),
    (205, 178, 140),
    (150, 156, 165),
    (214, 206, 192),
    (122, 88, 70),
    (190, 140, 96),
    (104, 120, 138),
    (226, 196, 150),
    (160, 70, 60),
    (140, 150, 120),
    (200, 200, 205),
    (92, 98, 110),
)
SIGN_COLORS = {"stop sign": (200, 25, 30), "give way": (235, 235, 235)}
MAST_LWH_M = (0.4, 0.4, 5.0)


class Ground:
    """Tells how far a point is from the roads, and remembers the footprints of what was built."""

    def __init__(self, network: Network) -> None:
        lines = [street.line for street in network.streets]
        for junction in network.junctions:
            for arm in junction.arms:
                at = np.arange(0.0, junction.reach_m, 2.0)
                lines.append(np.stack([mouth(network, junction, arm, float(r), 0.0) for r in at]))
        arms = [arm.street for junction in network.junctions for arm in junction.arms]
        owners = list(range(len(network.streets))) + arms
        self.points = np.concatenate(lines)
        self.half = np.concatenate([np.full(len(line), network.streets[o].half_m) for line, o in zip(lines, owners)])
        self.built = np.zeros((0, 4, 2))

    def clearance(self, points: FloatArray) -> float:
        """Metres from the nearest kerb to the nearest of points (N, 2); rounded corners are covered by the walkway."""
        near = ((self.points - points[-1]) ** 2).sum(1) < 45.0**2
        if not near.any():
            return np.inf
        delta = points[:, None] - self.points[None, near]
        return float((np.sqrt((delta**2).sum(-1)) - self.half[None, near]).min())

    def free(self, box: FloatArray) -> bool:
        """Whether the rectangle (4, 2) overlaps nothing that was built (separating axes)."""
        if not len(self.built):
            return True
        others = self.built[((self.built[:, 0] - box[0]) ** 2).sum(1) < 55.0**2]
        axes = np.stack([box[0] - box[1], box[1] - box[2]])
        other_axes = np.stack([others[:, 0] - others[:, 1], others[:, 1] - others[:, 2]], 1)
        apart = np.zeros(len(others), bool)
        for k in range(2):
            apart |= _apart(np.broadcast_to(axes[k], (len(others), 2)), box, others)
            apart |= _apart(other_axes[:, k], box, others)
        return bool(apart.all())

    def build(self, xyyaw: FloatArray, length_m: float, width_m: float, clear_m: float) -> bool:
        box = box_corners(xyyaw, np.array(length_m), np.array(width_m))
        edge = np.concatenate([box, (box + box[[1, 2, 3, 0]]) / 2, box.mean(0, keepdims=True)])
        if self.clearance(edge) < clear_m or not self.free(box):
            return False
        self.built = np.concatenate([self.built, box[None]])
        return True


def _apart(axis: FloatArray, box: FloatArray, others: FloatArray) -> FloatArray:
    a = axis @ box.T
    b = np.einsum("nd,nkd->nk", axis, others)
    return (a.max(1) < b.min(1)) | (b.max(1) < a.min(1))


def _walk(line: FloatArray, at_m: float) -> tuple[FloatArray, float]:
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    xy, ahead = (np.array([np.interp(a, arc, line[:, d]) for d in range(2)]) for a in (at_m, min(at_m + 1.0, arc[-1])))
    back = np.array([np.interp(at_m - 1.0, arc, line[:, d]) for d in range(2)])
    direction = ahead - back
    return xy, float(np.arctan2(direction[1], direction[0]))


def _length(line: FloatArray) -> float:
    return float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())


def _colour(rng: np.random.Generator, base: tuple[int, int, int], spread: int = 14) -> tuple[int, int, int]:
    r, g, b = np.clip(np.array(base) + rng.integers(-spread, spread + 1, 3), 0, 255)
    return int(r), int(g), int(b)


def _prop(
    kind: str,
    xy: FloatArray,
    yaw: float,
    lwh: tuple[float, float, float],
    color: tuple[int, int, int],
    signal: str | None = None,
) -> Prop:
    return Prop(kind, np.array([xy[0], xy[1], 0.0]), yaw, np.array(lwh), color, signal)


def _extended(network: Network, street: Street) -> FloatArray:
    """The street's line run on over its junctions and past its dead ends, so that corners and ends are built up."""
    first, last = street.line[0] - street.line[1], street.line[-1] - street.line[-2]
    a = network.junctions[street.a].reach_m if street.a is not None else 16.0
    b = network.junctions[street.b].reach_m if street.b is not None else 16.0
    return np.concatenate(
        [
            [street.line[0] + a * first / np.linalg.norm(first)],
            street.line,
            [street.line[-1] + b * last / np.linalg.norm(last)],
        ]
    )


def _row(
    rng: np.random.Generator, network: Network, ground: Ground, street: Street, side: int, back_m: float, tall: float
) -> list[Prop]:
    """A row of houses whose fronts stand ``back_m`` behind the walkway."""
    out: list[Prop] = []
    line = _extended(network, street)
    length, at = _length(line), rng.uniform(0.0, 6.0)
    base_height = rng.uniform(7.0, 15.0) * tall
    while at < length:
        wide, deep = rng.uniform(9.0, 24.0), rng.uniform(9.0, 15.0)
        setback = back_m + rng.choice([0.0, 0.0, 1.2, 3.0])
        xy, yaw = _walk(line, at + wide / 2)
        away = side * (street.half_m + WALKWAY_M + setback + deep / 2)
        center = xy + away * np.array([-np.sin(yaw), np.cos(yaw)])
        placed = False
        for scale in (1.0, 0.6):
            if ground.build(np.array([*center, yaw]), wide * scale, deep * scale, WALKWAY_M + 0.4):
                height = float(np.clip(base_height * rng.uniform(0.6, 1.7), 4.5, 38.0))
                out.append(
                    _prop(
                        "building",
                        center,
                        yaw,
                        (wide * scale, deep * scale, height),
                        _colour(rng, FACADES[int(rng.integers(len(FACADES)))]),
                    )
                )
                placed = True
                break
        at += wide + rng.choice([0.3, 1.0, 5.0], p=[0.6, 0.25, 0.15]) if placed else 4.0
    return out


def _ends(rng: np.random.Generator, network: Network, ground: Ground, street: Street) -> list[Prop]:
    """A house across each dead end."""
    out = []
    for node, tip, before in ((street.a, street.line[0], street.line[1]), (street.b, street.line[-1], street.line[-2])):
        if node is None:
            out_dir = (tip - before) / np.linalg.norm(tip - before)
            yaw = float(np.arctan2(out_dir[1], out_dir[0]))
            center, wide = tip + 12.0 * out_dir, 2 * street.half_m + 8.0
            if ground.build(np.array([*center, yaw]), 10.0, wide, -street.half_m + 3.0):
                height = float(rng.uniform(9.0, 20.0))
                out.append(
                    _prop(
                        "building",
                        center,
                        yaw,
                        (10.0, wide, height),
                        _colour(rng, FACADES[int(rng.integers(len(FACADES)))]),
                    )
                )
    return out


def _verge(rng: np.random.Generator, street: Street, ground: Ground) -> list[Prop]:
    """Trees and lamp poles at the kerb's edge of the walkway, hedges at its far edge."""
    out: list[Prop] = []
    for side in (1, -1):
        trees = rng.random() < 0.7
        gap = rng.uniform(10.0, 22.0)
        kerb = offset_line(street.line, side * (street.half_m + 0.75))
        for k, at in enumerate(np.arange(4.0 + rng.uniform(0, 8), _length(kerb) - 4.0, gap)):
            xy, yaw = _walk(kerb, float(at))
            if k % 3 == 2:
                out.append(_prop("pole", xy, yaw, (0.2, 0.2, float(rng.uniform(6, 8))), (95, 98, 104)))
            elif trees and rng.random() < 0.8:
                crown = float(rng.uniform(2.2, 3.8))
                out.append(
                    _prop(
                        "tree", xy, yaw, (crown, crown, float(rng.uniform(4.5, 8.0))), _colour(rng, (62, 118, 52), 22)
                    )
                )
        if rng.random() < 0.45:
            back = offset_line(street.line, side * (street.half_m + WALKWAY_M + 0.45))
            for at in np.arange(6.0, _length(back) - 6.0, 7.0):
                xy, yaw = _walk(back, float(at))
                if rng.random() < 0.6 and ground.build(np.array([*xy, yaw]), 6.0, 0.7, WALKWAY_M):
                    out.append(
                        _prop("hedge", xy, yaw, (6.0, 0.7, float(rng.uniform(0.8, 1.4))), _colour(rng, (52, 98, 48)))
                    )
    return out


def signal_mast(network: Network, junction: Junction, arm: Arm) -> tuple[FloatArray, FloatArray, float]:
    """Where the far and the near mast of an arm stand (2,) each, and the yaw towards the traffic that they face."""
    half = network.streets[arm.street].half_m + 0.9
    near = mouth(network, junction, arm, junction.reach_m + 0.3, half)
    opposite = [o for o in junction.arms if abs(float(wrap_angle(o.heading - arm.heading - np.pi))) < 0.7]
    if opposite:
        side = network.streets[opposite[0].street].half_m + 0.9
        far = mouth(network, junction, opposite[0], junction.reach_m - 4.8, -side)
    else:
        cross = max(network.streets[o.street].half_m for o in junction.arms if o is not arm)
        far = mouth(network, junction, arm, -(cross + 1.6), 3.5)
    return far, near, float(wrap_angle(arm.heading))


def _junction_props(network: Network, junction: Junction, ground: Ground) -> list[Prop]:
    out = []
    for a, arm in enumerate(junction.arms):
        far, near, yaw = signal_mast(network, junction, arm)
        if junction.control == "signal":
            out += [
                _prop("traffic_light", spot, yaw, MAST_LWH_M, (40, 42, 46), signal_id(junction.index, a))
                for spot in (far, near)
            ]
        elif must_stop_at(junction, arm):
            out.append(_prop("sign", near, yaw, (0.1, 0.75, 2.6), SIGN_COLORS[junction.control]))
    return out


def furnish(rng: np.random.Generator, network: Network) -> tuple[Prop, ...]:
    """All props of a town."""
    ground = Ground(network)
    props: list[Prop] = []
    for street in network.streets:
        props += _ends(rng, network, ground, street)
    for street in network.streets:
        back = float(rng.choice([0.5, 1.5, 4.0]))
        for side in (1, -1):
            props += _row(rng, network, ground, street, side, back, 1.0)
    for street in network.streets:
        for side in (1, -1):
            props += _row(rng, network, ground, street, side, 21.0, 1.7)
    for street in network.streets:
        props += _verge(rng, street, ground)
    for junction in network.junctions:
        props += _junction_props(network, junction, ground)
    return tuple(props)
