"""A generated town: streets, traffic, an expert driver with reasons. The same seed gives the same drive."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from drive_wm.datasets.rendered import NoFrames, RenderedFrames
from drive_wm.datasets.rigs import default_rig
from drive_wm.datasets.town import cast, driver, scenery, streets
from drive_wm.datasets.town.rules import DT_S, Phases, draw_phases
from drive_wm.datasets.town.traffic import Body, Record, Traffic
from drive_wm.geometry import box_corners, pose_from_xyzyaw
from drive_wm.types import (
    BoolArray,
    Explanation,
    FloatArray,
    InputError,
    IntArray,
    Log,
    Look,
    Poses,
    Rig,
    Signal,
    Track,
)

GENERATOR_VERSION = "1"
WARM_UP_S = 2.0
REASON_EVERY_STEPS = 5
ROUTE_BEYOND_M = 60.0
START_US = 1_000_000_000


def split_of(seed: int) -> str:
    """train below 100000, then val and test, ten thousand each."""
    if not 0 <= seed < 120_000:
        raise InputError(f"town seed {seed}: expected 0..99999 (train), 100000..109999 (val) or 110000..119999 (test)")
    return "train" if seed < 100_000 else "val" if seed < 110_000 else "test"


def draw_look(rng: np.random.Generator, seed: int) -> Look:
    """65% dry day, 10% rain, 10% fog, 15% dusk or night."""
    kind = rng.random()
    weather = str(rng.choice(["clear", "overcast"], p=[0.6, 0.4]))
    sun = float(rng.uniform(0.35, 1.0))
    if kind >= 0.85:
        sun = float(rng.uniform(-0.6, 0.15))
    elif kind >= 0.65:
        weather = "rain" if kind < 0.75 else "fog"
    return Look(weather, sun, seed)


def _signals(network: streets.Network, phases: dict[int, Phases], times_us: IntArray) -> tuple[Signal, ...]:
    out = []
    for j, phase in phases.items():
        junction = network.junctions[j]
        for a, arm in enumerate(junction.arms):
            far, _, yaw = scenery.signal_mast(network, junction, arm)
            state = phase.states[-len(times_us) :, arm.axis].astype(np.int8)
            keep = np.concatenate([[True], np.diff(state) != 0])
            lanes = tuple(c.id for c in network.connectors.values() if c.junction == j and c.arm == a)
            width = network.streets[arm.street].lanes * streets.LANE_M
            line = np.stack([streets.mouth(network, junction, arm, junction.reach_m, side) for side in (0.0, width)])
            out.append(
                Signal(
                    streets.signal_id(j, a),
                    np.array([*far, 4.4]),
                    yaw,
                    times_us[keep],
                    state[keep],
                    lanes,
                    streets.lift(line),
                )
            )
    return tuple(out)


def _vehicle_tracks(traffic: Traffic, record: Record, times_us: IntArray, first: int) -> list[Track]:
    blink = driver.indicators(traffic, record)[first:]
    out = []
    for i, body in enumerate(traffic.bodies[1:], start=1):
        valid = record.active[first:, i]
        if valid.any():
            speed, yaw = record.speed[first:, i], record.yaw[first:, i]
            velocity = speed[:, None] * np.stack([np.cos(yaw), np.sin(yaw)], -1)
            brake = (record.accel[first:, i] < -0.4) | (speed < 0.2)
            out.append(_track(body, times_us, record.xy[first:, i], yaw, valid, velocity, brake, blink[:, i]))
    return out


def _track(
    body: Body,
    times_us: IntArray,
    xy: FloatArray,
    yaw: FloatArray,
    valid: BoolArray,
    velocity: FloatArray,
    brake: BoolArray | None = None,
    blink: IntArray | None = None,
) -> Track:
    position = np.concatenate([xy, np.full((len(xy), 1), body.size_lwh_m[2] / 2)], -1)
    return Track(
        body.id,
        body.category,
        np.array(body.size_lwh_m),
        times_us,
        position,
        yaw,
        valid,
        velocity,
        body.color,
        brake,
        blink,
    )


def _people_tracks(traffic: Traffic, record: Record, times_us: IntArray, first: int) -> list[Track]:
    out = []
    for i, body in enumerate(traffic.people):
        yaw, speed = record.person_yaw[first:, i], record.person_speed[first:, i]
        velocity = speed[:, None] * np.stack([np.cos(yaw), np.sin(yaw)], -1)
        out.append(_track(body, times_us, record.person_xy[first:, i], yaw, np.ones(len(times_us), bool), velocity))
    return out


def _parked_tracks(rng: np.random.Generator, network: streets.Network, times_us: IntArray) -> list[Track]:
    out: list[Track] = []
    n = len(times_us)
    for street in network.streets:
        for kind, xy, yaw, size, color in cast.parked(rng, street):
            position = np.tile([xy[0], xy[1], size[2] / 2], (n, 1))
            out.append(
                Track(
                    f"parked-{len(out):03d}",
                    kind,
                    np.array(size),
                    times_us,
                    position,
                    np.full(n, yaw),
                    np.ones(n, bool),
                    np.zeros((n, 2)),
                    color,
                    np.zeros(n, bool),
                    np.zeros(n, np.int8),
                )
            )
    return out


def overlapping(
    tracks: list[Track], ego_xyyaw: FloatArray, ego_lwh_m: tuple[float, float, float], margin_m: float = 0.1
) -> set[int]:
    """Indices of tracks to drop so that no two boxes, nor any box and the ego's (box centres (T, 3)), ever overlap."""
    pose = np.stack([ego_xyyaw] + [np.concatenate([t.position_m[:, :2], t.yaw_rad[:, None]], -1) for t in tracks])
    lwh = np.array([ego_lwh_m] + [tuple(t.size_lwh_m) for t in tracks])
    valid = np.stack([np.ones(len(ego_xyyaw), bool)] + [t.valid for t in tracks])
    moving = np.array([True] + [not t.id.startswith("parked") for t in tracks])
    radius = np.hypot(lwh[:, 0], lwh[:, 1]) / 2
    lost: set[int] = set()
    for i in range(len(pose)):
        later = np.arange(i + 1, len(pose))
        later = later[moving[later] | moving[i]]
        close = ((pose[later, :, 0] - pose[i, :, 0]) ** 2 + (pose[later, :, 1] - pose[i, :, 1]) ** 2) < (
            (radius[later] + radius[i]) ** 2
        )[:, None]
        k, t = np.nonzero(close & valid[later] & valid[i])
        if len(k) == 0 or i in lost:
            continue
        hit = _boxes_meet(pose[i, t], lwh[i] + margin_m, pose[later[k], t], lwh[later[k]] + margin_m)
        lost |= set(later[k[hit]].tolist())
    return {i - 1 for i in lost}


def _boxes_meet(a: FloatArray, lwh_a: FloatArray, b: FloatArray, lwh_b: FloatArray) -> BoolArray:
    """Separating axes for pairs of boxes: a, b (M, 3) x, y, yaw."""
    ca = box_corners(a, np.broadcast_to(lwh_a[..., 0], len(a)), np.broadcast_to(lwh_a[..., 1], len(a)))
    cb = box_corners(b, lwh_b[:, 0], lwh_b[:, 1])
    meet = np.ones(len(a), bool)
    for yaw in (a[:, 2], a[:, 2] + np.pi / 2, b[:, 2], b[:, 2] + np.pi / 2):
        axis = np.stack([np.cos(yaw), np.sin(yaw)], -1)
        pa, pb = np.einsum("md,mkd->mk", axis, ca), np.einsum("md,mkd->mk", axis, cb)
        meet &= (pa.max(1) >= pb.min(1)) & (pb.max(1) >= pa.min(1))
    return meet


def _route(body: Body, start_m: float, end_m: float) -> list[list[float]]:
    """The route's middle from the ego's first position to at least 60 m beyond its last, every 2 m."""
    line = body.path.line[int(start_m * 2) :]
    short = end_m + ROUTE_BEYOND_M + 20.0 - body.path.length_m
    if short > 0:
        direction = line[-1] - line[-5]
        direction /= np.linalg.norm(direction)
        line = np.concatenate([line, line[-1] + np.arange(0.5, short, 0.5)[:, None] * direction])
    keep = line[: int((end_m - start_m + 140.0) * 2) : 4]
    return [[round(float(x), 3), round(float(y), 3)] for x, y in keep]


def _ego_pass_s(ego: Body, junction: int, network: streets.Network) -> tuple[int, float] | None:
    """Axis and rough time at which the ego comes to a junction's line, from the start of the simulation."""
    for event in ego.path.events:
        c = network.connectors[event.connector]
        if c.junction == junction:
            return c.axis, (event.stop_m - ego.start_m) / 8.0
    return None


def _simulate(seed: int, duration_s: float) -> tuple[np.random.Generator, Traffic, Record, dict[int, Phases]]:
    rng = np.random.default_rng([seed, 1])
    network = streets.plan_network(rng)
    streets.lay_lanes(network)
    ego = cast.ego_body(rng, network)
    bodies = cast.vehicles(rng, network, ego, float(rng.uniform(0.5, 1.0)))
    people = cast.people(rng, network, int(rng.integers(12, 30)))
    steps = int(round((duration_s + WARM_UP_S) / DT_S)) + 1
    signalled = [j.index for j in network.junctions if j.control == "signal"]
    phases = {j: draw_phases(rng, j, steps, _ego_pass_s(ego, j, network)) for j in signalled}
    traffic = Traffic(network, bodies, people, phases, steps)
    return rng, traffic, traffic.run(), phases


def generate(seed: int, *, duration_s: float = 20.0, rig: Rig | None = None, look: Look | None = None) -> Log:
    """A drive of ``duration_s`` at 10 Hz, all of it drawn from ``seed`` (0..119999, which also tells the split).

    Ego and tracks share one clock. reasons: an Explanation every 0.5 s. metadata["route"]: [[x, y], ...] world metres,
    from the first pose to at least 60 m beyond the last. Frames are drawn when they are read. Raises InputError.
    """
    split = split_of(seed)
    if not 1.0 <= duration_s <= 120.0:
        raise InputError(f"duration_s {duration_s}: expected 1 to 120 seconds")
    rng, traffic, record, phases = _simulate(seed, duration_s)
    network, ego = traffic.network, traffic.bodies[0]
    first = int(round(WARM_UP_S / DT_S))
    times_us = START_US + np.arange(traffic.steps - first, dtype=np.int64) * 100_000
    center = np.concatenate([record.xy[first:, 0], record.yaw[first:, :1]], -1)
    rear = center[:, :2] - ego.center_m * np.stack([np.cos(center[:, 2]), np.sin(center[:, 2])], -1)
    tracks = _vehicle_tracks(traffic, record, times_us, first) + _people_tracks(traffic, record, times_us, first)
    tracks += _parked_tracks(rng, network, times_us)
    lost = overlapping(tracks, center, ego.size_lwh_m)
    tracks = [track for i, track in enumerate(tracks) if i not in lost]
    road = replace(streets.road_map(network, f"town-{seed:06d}"), props=scenery.furnish(rng, network))
    signals = _signals(network, phases, times_us)
    reasons = _reasons(traffic, record, {t.id for t in tracks}, signals, times_us, first)
    drawn = draw_look(np.random.default_rng([seed, 2]), seed)
    arc = record.arc[:, 0]
    log = Log(
        f"town-{seed:06d}",
        "town",
        rig or default_rig(),
        Poses(times_us, pose_from_xyzyaw(streets.lift(rear), center[:, 2]), np.ones(len(times_us), bool)),
        NoFrames(),
        tuple(tracks),
        road,
        signals,
        look or drawn,
        (),
        reasons,
        "Apache-2.0 (generated)",
        "town",
        split,
        {"generator_version": GENERATOR_VERSION, "seed": seed, "route": _route(ego, float(arc[first]), float(arc[-1]))},
    )
    return replace(log, frames=RenderedFrames(log))


def _reasons(
    traffic: Traffic, record: Record, kept: set[str], signals: tuple[Signal, ...], times_us: IntArray, first: int
) -> tuple[tuple[int, Explanation], ...]:
    maker = driver.Reasons(traffic, record, kept, {s.id: s.position_m[:2] for s in signals})
    return tuple((int(times_us[k]), maker.at(k + first)) for k in range(0, len(times_us), REASON_EVERY_STEPS))


class TownSource:
    """Generated logs by seed: "" is 110000-110009, "SEED" is one, "A-B" is all from A to B. Raises InputError."""

    kind = "town"
    takes_path = False

    def __init__(self, path: str = "") -> None:
        first, _, last = (path or "110000-110009").partition("-")
        if not first.isdecimal() or not (last.isdecimal() or (not last and "-" not in path)):
            raise InputError(f"town:{path}: expected a seed or a range of seeds such as town:7 or town:110000-110009")
        self.seeds = range(int(first), int(last or first) + 1)
        if not self.seeds:
            raise InputError(f"town:{path}: the range is empty; its first seed must not be larger than its last")
        split_of(self.seeds[0]), split_of(self.seeds[-1])

    def log_ids(self) -> list[str]:
        return [f"town-{seed:06d}" for seed in self.seeds]

    def load(self, log_id: str) -> Log:
        seed = log_id.removeprefix("town-")
        if not seed.isdecimal() or int(seed) not in self.seeds:
            raise InputError(f"no log {log_id!r} here; this source holds {self.log_ids()[0]} to {self.log_ids()[-1]}")
        return generate(int(seed))
