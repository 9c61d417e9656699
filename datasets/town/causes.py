"""True causes, by intervention: what the expert's drive depends on, found by taking things out and driving it again.

An agent, light or stop sign is a cause at a moment if without it the ego's speed would differ by more than 1 m/s, or
its place across the road by more than 0.5 m, at some time of the next four seconds. Nothing in the town is drawn at
random while it runs, so all of the difference comes from what was taken out. A light is taken out by making it green
for the ego, a stop sign by letting the ego pass as if it had stopped.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from drive_wm.datasets.parallel import in_parallel, worker_count
from drive_wm.datasets.town.rerun import Replay, replay_of
from drive_wm.datasets.town.rules import DT_S, GREEN, RED, Phases, stops_first
from drive_wm.datasets.town.simulation import Simulation
from drive_wm.datasets.town.streets import signal_id
from drive_wm.datasets.town.ways import STEP_M
from drive_wm.types import FloatArray, InputError, Log

SPEED_MPS, LATERAL_M, HORIZON_S = 1.0, 0.5, 4.0
EVERY_S = 1.0
PAIR_OF = 3  # pairs are made of so many nearest candidates
BEHIND_M, LOOK_M, BESIDE_M, PERSON_M = 20.0, 56.0, 5.0, 10.0  # what the driver's perception reaches from its path
SWEEP_S, SWEEP_MPS = 5.0, 7.0  # how far others are followed along their ways, at least at that speed
SIREN_M = 80.0
COLUMNS = ("time_s", "ids", "speed_mps", "lateral_m")
Change = Callable[[Simulation], None]


@dataclass(frozen=True)
class Effect:
    """How far the ego's next seconds move without ``ids``: at most so much in speed, and across the road."""

    ids: tuple[str, ...]
    speed_mps: float
    lateral_m: float

    @property
    def is_cause(self) -> bool:
        return self.speed_mps > SPEED_MPS or self.lateral_m > LATERAL_M

    @property
    def size(self) -> float:
        """In thresholds, so that 1 is where a cause begins."""
        return max(self.speed_mps / SPEED_MPS, self.lateral_m / LATERAL_M)


def owner_id(name: str) -> str:
    """The thing that a track is part of: "works-00-cone-03" -> "works-00"; any other id is its own."""
    return re.sub(r"^(works-\d+)-.*", r"\1", name)


# --- one moment ---------------------------------------------------------------------------------------------------


class Moment:
    """A replay at a time, and its ego's future as driven: what interventions are compared with."""

    def __init__(self, replay: Replay, at_s: float, horizon_s: float = HORIZON_S) -> None:
        self.replay, self.step = replay, replay.drive.step_at(at_s)
        drive = replay.drive.simulation
        self.end = min(self.step + int(round(horizon_s / DT_S)) + 1, drive.steps)
        self.sim = replay.at(self.step)
        self.way, self.near_m = self.sim.state.ways[0], float(self.sim.state.s[0])
        self.base = self._ego(drive)

    def _ego(self, sim: Simulation) -> FloatArray:
        """(K, 3) of the ego after now: arc length and offset on the way it is on now, speed."""
        span = slice(self.step, self.end)
        at, across = self.way.locate(sim.record.xy[span, 0], self.near_m)
        return np.column_stack([at, across, sim.record.speed[span, 0]])

    def future(self, change: Change) -> FloatArray:
        """The ego's (K, 3) if ``change`` is made to the simulation now."""
        sim = self.sim.fork(past=False)  # the record is overwritten from now on, and read at once
        change(sim)
        sim.run(self.end)
        return self._ego(sim)

    def effect(self, ids: tuple[str, ...]) -> Effect:
        """Of taking all of ``ids`` out together."""
        other = self.future(lambda sim: remove(sim, ids))
        speed = float(np.abs(other[:, 2] - self.base[:, 2]).max())
        return Effect(ids, round(speed, 3), round(apart(self.base, other), 3))


def apart(one: FloatArray, other: FloatArray) -> float:
    """The greatest distance across the road [m] between two drives (K, 3), at the same places along it.

    Where one of them stands or falls behind there is nothing to compare: that is a matter of speed.
    """
    low, high = max(one[0, 0], other[0, 0]), min(one[:, 0].max(), other[:, 0].max())
    if high - low < 0.5:
        return 0.0
    at = np.arange(low, high, 0.25)
    offsets = [np.interp(at, np.maximum.accumulate(d[:, 0]) + 1e-9 * np.arange(len(d)), d[:, 1]) for d in (one, other)]
    return float(np.abs(offsets[0] - offsets[1]).max())


def remove(sim: Simulation, ids: Sequence[str]) -> None:
    """Takes agents, lights and stop signs out of a simulation from now on."""
    control = control_ahead(sim)
    for name in ids:
        if control is not None and name == control:
            _open(sim)
    sim.remove({owner_id(name) for name in ids})


def control_ahead(sim: Simulation) -> str | None:
    """The light (its signal's id) or stop sign that the ego comes to next, if it binds."""
    c = _next_connector(sim)
    if c is None:
        return None
    if c.junction in sim.phases:
        return signal_id(c.junction, c.arm)
    bound = stops_first(sim.roads.network, c) and not sim.state.halted[0]
    return f"stop{c.junction}_{c.arm}" if bound else None


def _next_connector(sim: Simulation) -> Any:
    st = sim.state
    for event in st.ways[0].events:
        if event.stop_m > st.s[0] + sim.front[0] - 1.5:
            return sim.roads.network.connectors[event.connector]
    return None


def _open(sim: Simulation) -> None:
    c = _next_connector(sim)
    if c.junction not in sim.phases:
        sim.state.halted[0] = True
        return
    states = sim.phases[c.junction].states.copy()
    states[sim.state.step:] = RED
    states[sim.state.step:, c.axis] = GREEN
    sim.phases[c.junction] = Phases(c.junction, states)


# --- who may matter -----------------------------------------------------------------------------------------------


def candidates(moment: Moment) -> list[str]:
    """Ids of all that the ego's driver could react to within the horizon, the nearest first.

    Parked cars are no part of the simulation, and who walks along a street never enters it. Of the rest: those whose
    way, as far as they may come, passes the piece of the ego's way that it drives or looks at; who crosses or may cross
    it; what stands in it; sirens; and the light or sign ahead, where that is not open all along.
    """
    sim = moment.sim
    st, path = sim.state, _path_ahead(moment)
    xy, _ = sim.poses()
    found: list[tuple[float, str]] = []
    reach = np.maximum(1.2 * st.v, SWEEP_MPS) * SWEEP_S
    for i in np.nonzero(st.active)[0]:
        distance = float(np.hypot(*(xy[i] - xy[0])))
        if i and (_passes(sim, int(i), float(reach[i]), path) or (sim.siren[i] and distance < SIREN_M)):
            found.append((distance, sim.bodies[i].id))
    for i in sim.with_gate:
        gate, person = sim.people[i].gate, sim.people[i]
        assert gate is not None
        place = person.way.line[int(gate.begin_m / STEP_M):int(gate.end_m / STEP_M) + 2]
        if st.ps[i] <= gate.end_m and _nearest(place, path) < PERSON_M:
            found.append((float(np.hypot(*(person.way.at(float(st.ps[i]))[:2] - xy[0]))), person.id))
    for thing, pose, here in zip(sim.things, sim.thing_pose, sim.here_things):
        if here and _nearest(pose[None, :2], path) < BESIDE_M + thing.size_lwh_m[0] / 2:
            found.append((float(np.hypot(*(pose[:2] - xy[0]))), thing.id))
    control = control_ahead(sim)
    return [name for _, name in sorted(found)] + ([control] if control and not _always_green(moment) else [])


def _path_ahead(moment: Moment) -> FloatArray:
    way, s, v = moment.way, moment.near_m, float(moment.sim.state.v[0])
    begin, end = max(0.0, s - BEHIND_M), s + max(1.3 * v, SWEEP_MPS) * HORIZON_S + LOOK_M
    return way.line[int(begin / STEP_M):int(end / STEP_M) + 1:4]


def _passes(sim: Simulation, i: int, reach_m: float, path: FloatArray) -> bool:
    way, s = sim.state.ways[i], float(sim.state.s[i])
    line = way.line[int(s / STEP_M):int((s + reach_m) / STEP_M) + 2:4]
    return bool(len(line)) and _nearest(line, path) < BESIDE_M


def _nearest(points: FloatArray, path: FloatArray) -> float:
    return float(np.sqrt(((points[:, None] - path[None]) ** 2).sum(-1).min())) if len(points) and len(path) else np.inf


def _always_green(moment: Moment) -> bool:
    c = _next_connector(moment.sim)
    phases = moment.sim.phases.get(c.junction)
    return phases is not None and bool((phases.states[moment.step:moment.end, c.axis] == GREEN).all())


# --- causes -------------------------------------------------------------------------------------------------------


def true_causes(replay: Replay, at_s: float, *, pairs: int = PAIR_OF, among: Sequence[str] | None = None
                ) -> list[Effect]:
    """All causes at ``at_s`` seconds into the log, the strongest first. among: what to try, by default ``candidates``.

    Of the ``pairs`` nearest each pair is tried too; it is reported where neither of them is a cause by itself (either
    would be enough). Where neither one nor two are a cause and yet all together are, a smallest set that is one is
    reported: no member of it can be left out. Raises InputError for a time outside the log.
    """
    moment = Moment(replay, at_s)
    names = candidates(moment) if among is None else list(among)
    alone = [moment.effect((name,)) for name in names]
    weak = [e.ids[0] for e in alone[:pairs] if not e.is_cause]
    together = [moment.effect(pair) for pair in combinations(weak, 2)]
    found = [e for e in alone + together if e.is_cause] or _smallest(moment, names)
    return sorted(found, key=lambda e: (-e.size, e.ids))


def _smallest(moment: Moment, names: Sequence[str]) -> list[Effect]:
    """A set that is a cause while none of its members can be left out; the farthest are left out first, half of them at
    a time, then fewer (delta debugging, Zeller and Hildebrandt, 2002). Nothing where not even all together are a cause.
    """
    whole = moment.effect(tuple(names)) if len(names) > 1 else None
    if whole is None or not whole.is_cause:
        return []
    chunk = len(names) // 2
    while chunk:
        for end in range(len(whole.ids), 0, -chunk):
            fewer = moment.effect(whole.ids[:max(end - chunk, 0)] + whole.ids[end:])
            whole = fewer if fewer.is_cause else whole
        chunk //= 2
    return [whole]


def replay_for(log: Log) -> Replay:
    """The simulation behind a town log; raises InputError for any other log, and for a rerun."""
    if log.source != "town" or "seed" not in log.metadata or "rerun" in log.metadata:
        raise InputError(f"log {log.id} of source {log.source!r}: true causes need a drive of the town "
                         "that is no rerun; elsewhere nothing can be taken out of the world")
    told = log.metadata.get("scenario")
    length_s = round((log.end_us - log.start_us) / 1e6, 3)
    return replay_of(int(log.metadata["seed"]), length_s, told["kind"] if told else None)


def with_causes(log: Log, every_s: float = EVERY_S) -> Log:
    """The log with metadata["causes"]: {"columns", "rows", "every_s", "cpu_s"}, a row for each cause of each moment.

    ids: those that are a cause, several where only all of them together are. About 0.7 s of one core a moment.
    """
    return replace(log, metadata={**log.metadata, "causes": _table(replay_for(log), log, every_s)})


def _table(replay: Replay, log: Log, every_s: float) -> dict[str, Any]:
    began, rows = time.process_time(), []
    length_s = (log.end_us - log.start_us) / 1e6
    for k in range(int((length_s - 0.5) / every_s) + 1):
        at_s = round(k * every_s, 3)
        rows += [[at_s, list(e.ids), e.speed_mps, e.lateral_m] for e in true_causes(replay, at_s)]
    return {"columns": list(COLUMNS), "rows": rows, "every_s": every_s,
            "cpu_s": round(time.process_time() - began, 3)}


def causes_of_many(logs: Sequence[Log], every_s: float = EVERY_S, workers: int = 0) -> Iterator[tuple[int, Log]]:
    """(index, ``with_causes``) of each log as it is done; ``workers`` processes, one a core where 0."""
    bare = [(replace(log, metadata={k: log.metadata[k] for k in ("seed", "scenario") if k in log.metadata}, tracks=(),
                     map=None, reasons=()), every_s) for log in logs]
    for index, table in in_parallel(_job, bare, worker_count(workers)):
        yield index, replace(logs[index], metadata={**logs[index].metadata, "causes": table})


def _job(job: tuple[Log, float]) -> dict[str, Any]:
    log, every_s = job
    return _table(replay_for(log), log, every_s)


def causes_at(log: Log, at_s: float) -> list[Effect]:
    """The causes stored nearest to a time, the strongest first; raises InputError where the log has none stored."""
    told = log.metadata.get("causes")
    if told is None:
        raise InputError(f"log {log.id} holds no causes; make them with datasets.town.causes.with_causes(log)")
    every_s = float(told["every_s"])
    at = round(round(at_s / every_s) * every_s, 3)
    return [Effect(tuple(ids), speed, lateral) for t, ids, speed, lateral in told["rows"] if abs(t - at) < 1e-3]
