"""A drive from a seed: builds the town and its cast, simulates them, and makes a Log of what happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from drive_wm.datasets.rendered import NoFrames, RenderedFrames
from drive_wm.datasets.rigs import default_rig
from drive_wm.datasets.town import cast, driver, people, scenery, streets
from drive_wm.datasets.town.agents import Body, Person, Thing
from drive_wm.datasets.town.overlap import overlapping
from drive_wm.datasets.town.rules import DT_S, Phases, draw_phases
from drive_wm.datasets.town.simulation import Simulation
from drive_wm.datasets.town.ways import STEP_M, Roads
from drive_wm.geometry import pose_from_xyzyaw
from drive_wm.types import FloatArray, InputError, IntArray, Log, Look, Poses, Rig, Signal, Track

GENERATOR_VERSION = "2"
WARM_UP_S = 2.0
ROUTE_BEYOND_M = 60.0
DROP_MARGIN_M = 0.05
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


@dataclass
class Drive:
    """A town with its cast, ready to be simulated. ``simulation`` is at step 0 until ``run``."""

    seed: int
    name: str
    simulation: Simulation
    parked: list[cast.Parked]
    first: int
    split: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 0

    def run(self) -> Drive:
        self.simulation.run()
        return self

    def step_at(self, at_s: float) -> int:
        """The simulation's step at a time of the log."""
        last = (self.simulation.steps - 1 - self.first) * DT_S
        if not 0.0 <= at_s <= last:
            raise InputError(f"at_s {at_s:g}: the log runs from 0 to {last:g} seconds")
        return self.first + int(round(at_s / DT_S))

    @property
    def times_us(self) -> IntArray:
        return START_US + np.arange(self.simulation.steps - self.first, dtype=np.int64) * 100_000

    @property
    def ego_center(self) -> FloatArray:
        """(T, 3) x, y, yaw of the ego's box as the log shows it."""
        record = self.simulation.record
        return np.concatenate([record.xy[self.first :, 0], record.yaw[self.first :, :1]], -1)

    @cached_property
    def tracks(self) -> tuple[list[Track], set[int]]:
        """All tracks of a drive that was run, and the indices of those that overlap others or the ego."""
        tracks = _tracks(self, self.times_us)
        return tracks, overlapping(tracks, self.ego_center, cast.EGO_LWH_M, margin_m=DROP_MARGIN_M)

    def log(self, rig: Rig | None = None, look: Look | None = None) -> Log:
        return _log_of(self, rig, look)


def _ego_pass_s(ego: Body, junction: int, network: streets.Network) -> tuple[int, float] | None:
    """Axis and rough time at which the ego comes to a junction's line, from the start of the simulation."""
    for event in ego.way.events:
        c = network.connectors[event.connector]
        if c.junction == junction:
            return c.axis, (event.stop_m - ego.start_m) / 8.0
    return None


def lights(rng: np.random.Generator, network: streets.Network, ego: Body, steps: int) -> dict[int, Phases]:
    signalled = [j.index for j in network.junctions if j.control == "signal"]
    return {j: draw_phases(rng, j, steps, _ego_pass_s(ego, j, network)) for j in signalled}


def prepare(seed: int, duration_s: float, attempt: int = 0) -> Drive:
    """Draws the town of a seed; each part of it from a generator of its own. attempt: another town of the same seed."""
    split = split_of(seed)
    if not 1.0 <= duration_s <= 120.0:
        raise InputError(f"duration_s {duration_s}: expected 1 to 120 seconds")
    again = [attempt] if attempt else []
    rng = np.random.default_rng([seed, 1, *again])
    network = streets.plan_network(rng)
    streets.lay_lanes(network)
    parked_rng, cast_rng = (np.random.default_rng([seed, part, *again]) for part in (4, 5))
    at_kerb = [(street.index, *car) for street in network.streets for car in cast.parked(parked_rng, street)]
    roads = Roads(network, {(index, side) for index, side, _ in at_kerb})
    ego = cast.ego_body(cast_rng, roads)
    things = cast.obstacles(cast_rng, roads, ego)
    density = float(cast_rng.uniform(0.5, 1.0))
    bodies = cast.vehicles(np.random.default_rng([seed, 6, *again]), roads, ego, things, density)
    xy = np.array([car[1] for _, _, car in at_kerb] + [p for t in things for p in cast.outline(t)]).reshape(-1, 2)
    folk = people.people(np.random.default_rng([seed, 7, *again]), roads, ego, xy, int(cast_rng.integers(14, 30)))
    steps, first = int(round((duration_s + WARM_UP_S) / DT_S)) + 1, int(round(WARM_UP_S / DT_S))
    phases = lights(cast_rng, network, ego, steps)
    simulation = Simulation(roads, bodies, folk, things, phases, steps, cast.perturbation(cast_rng, first))
    simulation.kerbside = np.array([(*car[1], car[2], *car[3][:2]) for _, _, car in at_kerb]).reshape(-1, 5)
    kerbside = [car for _, _, car in at_kerb]
    return Drive(seed, f"town-{seed:06d}", simulation, kerbside, first, split, attempt=attempt)


# --- the log ------------------------------------------------------------------------------------------------------


def _signals(drive: Drive, times_us: IntArray) -> tuple[Signal, ...]:
    network, out = drive.simulation.roads.network, []
    for j, phase in drive.simulation.phases.items():
        junction = network.junctions[j]
        for a, arm in enumerate(junction.arms):
            if not streets.arm_lanes(network, arm, True):
                continue  # nobody comes from there
            far, _, yaw = scenery.signal_mast(network, junction, arm)
            state = phase.states[drive.first :, arm.axis].astype(np.int8)
            keep = np.concatenate([[True], np.diff(state) != 0])
            lanes = tuple(c.id for c in network.connectors.values() if c.junction == j and c.arm == a)
            line = streets.stop_line(network, junction, arm)
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


def _still(
    name: str,
    category: str,
    xyyaw: tuple[float, float, float],
    size: cast.Size,
    color: cast.Color,
    times_us: IntArray,
    hazard: bool = False,
) -> Track:
    n = len(times_us)
    return Track(
        name,
        category,
        np.array(size),
        times_us,
        np.tile([xyyaw[0], xyyaw[1], size[2] / 2], (n, 1)),
        np.full(n, xyyaw[2]),
        np.ones(n, bool),
        np.zeros((n, 2)),
        color,
        np.zeros(n, bool),
        np.full(n, 2 * hazard, np.int8),
    )


def _vehicle_track(sim: Simulation, i: int, body: Body, times_us: IntArray, first: int) -> Track:
    r = sim.record
    speed, yaw, valid = r.speed[first:, i], r.yaw[first:, i], r.active[first:, i]
    position = np.concatenate([r.xy[first:, i], np.full((len(yaw), 1), body.size_lwh_m[2] / 2)], -1)
    velocity = speed[:, None] * np.stack([np.cos(yaw), np.sin(yaw)], -1)
    brake = (r.accel[first:, i] < -0.4) | (speed < 0.2)
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
        r.signal[first:, i],
        valid if body.siren else None,
    )


def _person_track(sim: Simulation, i: int, person: Person, times_us: IntArray, first: int) -> Track:
    r = sim.record
    yaw, speed = r.person_yaw[first:, i], r.person_speed[first:, i]
    position = np.concatenate([r.person_xy[first:, i], np.full((len(yaw), 1), person.size_lwh_m[2] / 2)], -1)
    velocity = speed[:, None] * np.stack([np.cos(yaw), np.sin(yaw)], -1)
    return Track(
        person.id,
        "pedestrian",
        np.array(person.size_lwh_m),
        times_us,
        position,
        yaw,
        np.ones(len(yaw), bool),
        velocity,
        person.color,
    )


def _thing_tracks(thing: Thing, times_us: IntArray) -> list[Track]:
    if thing.parts:
        return [_still(*part, times_us) for part in thing.parts]
    return [_still(thing.id, thing.category, thing.xyyaw, thing.size_lwh_m, thing.color, times_us, thing.hazard)]


def _tracks(drive: Drive, times_us: IntArray) -> list[Track]:
    sim, first = drive.simulation, drive.first
    out = [
        _vehicle_track(sim, i, b, times_us, first)
        for i, b in enumerate(sim.bodies)
        if i and sim.record.active[first:, i].any()
    ]
    out += [_person_track(sim, i, p, times_us, first) for i, p in enumerate(sim.people)]
    out += [track for thing in sim.things for track in _thing_tracks(thing, times_us)]
    out += [
        _still(f"parked-{i:03d}", kind, (float(xy[0]), float(xy[1]), yaw), size, color, times_us)
        for i, (kind, xy, yaw, size, color) in enumerate(drive.parked)
    ]
    for k, name in sim.gone_at:
        out = [
            replace(t, valid=t.valid & (np.arange(len(times_us)) < k - first))
            if t.id == name or t.id.startswith(f"{name}-")
            else t
            for t in out
        ]
    return [t for t in out if t.valid.any()]


def _route(sim: Simulation, first: int) -> list[list[float]]:
    """The middle of the lanes that the ego takes, every 2 m, and on to at least 60 m beyond its last place.

    Where it changes lane the line goes over within 15 m.
    """
    rear = sim.rear_of_ego
    legs = [leg for leg, after in zip(sim.taken, [*sim.taken[1:], (sim.steps, None)]) if after[0] > first]
    parts = []
    for n, (step, way) in enumerate(legs):
        end = legs[n + 1][0] if n + 1 < len(legs) else sim.steps - 1
        at = way.locate(rear[[max(step, first), end]])[0]
        stop = at[1] if n + 1 < len(legs) else at[1] + ROUTE_BEYOND_M + 80.0
        parts.append(way.line[int((at[0] + 15.0 * (n > 0)) / STEP_M) : int(stop / STEP_M) + 1])
    line = np.concatenate(parts)
    short = (
        ROUTE_BEYOND_M + 20.0 - float(np.linalg.norm(np.diff(line[_nearest(line, rear[-1]) :], axis=0), axis=1).sum())
    )
    if short > 0:
        ahead = (line[-1] - line[-5]) / np.linalg.norm(line[-1] - line[-5])
        line = np.concatenate([line, line[-1] + np.arange(0.5, short, 0.5)[:, None] * ahead])
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    marks = np.arange(0.0, lengths[-1], 2.0)
    return [
        [round(float(x), 3), round(float(y), 3)]
        for x, y in np.stack([np.interp(marks, lengths, line[:, d]) for d in range(2)], -1)
    ]


def junctions_entered(drive: Drive) -> list[tuple[int, str]]:
    """(index, kind) of the junctions, crossings and lane drops that the ego enters while the log runs, in order."""
    sim, network, out = drive.simulation, drive.simulation.roads.network, list[tuple[int, str]]()
    for n, (since, way) in enumerate(sim.taken):
        until = sim.taken[n + 1][0] if n + 1 < len(sim.taken) else sim.steps
        front = sim.record.s[max(since, drive.first) : until, 0] + sim.front[0]
        for event in way.events if len(front) else ():
            j = network.connectors[event.connector].junction
            if front.min() <= event.stop_m < front.max() and (not out or out[-1][0] != j):
                out.append((j, {"none": "no sign"}.get(network.junctions[j].control, network.junctions[j].control)))
    return out


def _nearest(line: FloatArray, xy: FloatArray) -> int:
    return int(((line - xy) ** 2).sum(1).argmin())


def _log_of(drive: Drive, rig: Rig | None, look: Look | None) -> Log:
    sim, first = drive.simulation, drive.first
    network = sim.roads.network
    times_us, center, rear = drive.times_us, drive.ego_center, sim.rear_of_ego[first:]
    tracks, lost = drive.tracks
    kept = [track for i, track in enumerate(tracks) if i not in lost]
    props = scenery.furnish(np.random.default_rng([drive.seed, 3]), network)
    road = replace(streets.map_of(network), name=drive.name, props=props)
    signals = _signals(drive, times_us)
    maker = driver.Reasons(sim, {t.id for t in kept}, {s.id: s.position_m[:2] for s in signals})
    told = maker.all(first)
    metadata = {
        "generator_version": GENERATOR_VERSION,
        "seed": drive.seed,
        "attempt": drive.attempt,
        "route": _route(sim, first),
        "dropped": len(lost),
        "dropped_ids": sorted(tracks[i].id for i in lost),
        "junctions": [kind for _, kind in junctions_entered(drive)],
        "driver": maker.values(first),
        "perturbed_start": None if sim.disturbed is None else list(sim.disturbed),
        "clumsy": [b.id for b in sim.bodies if b.driver.clumsy and b.id in {t.id for t in kept}],
        **drive.facts,
    }
    log = Log(
        drive.name,
        "town",
        rig or default_rig(),
        Poses(times_us, pose_from_xyzyaw(streets.lift(rear), center[:, 2]), np.ones(len(times_us), bool)),
        NoFrames(),
        tuple(kept),
        road,
        signals,
        look or draw_look(np.random.default_rng([drive.seed, 2]), drive.seed),
        (),
        tuple((int(times_us[k]), reason) for k, reason in told),
        "Apache-2.0 (generated)",
        "town",
        drive.split,
        metadata,
    )
    return replace(log, frames=RenderedFrames(log))
