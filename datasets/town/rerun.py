"""What would have happened: a drive rerun from any moment with something else in it.

Up to ``at_s`` the counterfactual is the drive itself, bit for bit; from there the simulation goes on with the change.
Nothing is drawn at random while it runs, and what an agent chooses later is drawn from its own seed, so that all
differences come from the change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from drive_wm.datasets.town.drive import Drive, prepare
from drive_wm.datasets.town.guard import ATTEMPTS, faults
from drive_wm.datasets.town.rules import DT_S, Phases
from drive_wm.datasets.town.simulation import Simulation
from drive_wm.datasets.town.streets import signal_id
from drive_wm.geometry import integrate_actions
from drive_wm.types import SIGNAL_STATES, FloatArray, InputError, Log, Look, Rig

EGO_WORDS = ("brake", "accelerate", "left", "right", "keep")
BRAKE_MPS2, ACCELERATE_MPS2, STEER_INV_M = 4.0, 2.0, 0.03
SNAPSHOT_STEPS = 10


class Replay:
    """A drive with its simulation kept every second, to go on from anywhere at little cost."""

    def __init__(self, drive: Drive) -> None:
        self.drive, sim = drive, drive.simulation
        self.kept: list[tuple[int, Simulation]] = []
        while sim.state.step < sim.steps:
            if sim.state.step % SNAPSHOT_STEPS == 0:
                self.kept.append((sim.state.step, sim.fork(past=False)))
            sim.step()

    def at(self, step: int) -> Simulation:
        """A simulation of its own that stands at a step, with the drive's past behind it."""
        _, kept = self.kept[min(step // SNAPSHOT_STEPS, len(self.kept) - 1)]
        twin = kept.fork(past=False)
        twin.record = self.drive.simulation.record.copy()
        twin.run(step)
        return twin


@lru_cache(maxsize=4)
def replay_of(seed: int, duration_s: float, scenario: str | None = None) -> Replay:
    """The drive of a seed, run and kept."""
    if scenario is None:
        for attempt in range(ATTEMPTS):
            replay = Replay(prepare(seed, duration_s, attempt))
            if not faults(replay.drive):
                break
        return replay
    from drive_wm.datasets.town.scenarios import prepare_scenario

    return Replay(prepare_scenario(scenario, seed))


def simulate_from(replay: Replay, at_s: float, horizon_s: float, remove: tuple[str, ...] = ()) -> FloatArray:
    """The ego's (x, y, yaw, speed) (K, 4) at 10 Hz for a time after ``at_s``, without the agents of ``remove``."""
    sim = replay.at(replay.drive.step_at(at_s))
    begin = sim.state.step
    sim.remove(set(remove))
    end = min(begin + int(round(horizon_s / DT_S)) + 1, sim.steps)
    sim.run(end)
    r = sim.record
    return np.column_stack([r.xy[begin:end, 0], r.yaw[begin:end, 0], r.speed[begin:end, 0]])


def causes_by_removal(replay: Replay, at_s: float, horizon_s: float = 4.0, within_m: float = 45.0) -> dict[str, float]:
    """For each agent near the ego: how far, in metres at most, the ego's drive moves if that agent is not there."""
    sim, step = replay.drive.simulation, replay.drive.step_at(at_s)
    end = min(step + int(round(horizon_s / DT_S)) + 1, sim.steps)
    base = sim.record.xy[step:end, 0]
    near = [
        b.id
        for i, b in enumerate(sim.bodies)
        if i and sim.record.active[step, i] and np.hypot(*(sim.record.xy[step, i] - base[0])) < within_m
    ]
    near += [p.id for i, p in enumerate(sim.people) if np.hypot(*(sim.record.person_xy[step, i] - base[0])) < within_m]
    near += [t.id for t in sim.things if np.hypot(*(np.array(t.xyyaw[:2]) - base[0])) < within_m]
    return {
        name: round(float(np.hypot(*(simulate_from(replay, at_s, horizon_s, (name,))[:, :2] - base).T).max()), 3)
        for name in near
    }


# --- a whole log --------------------------------------------------------------------------------------------------


def rerun(
    seed_or_log: int | Log,
    *,
    at_s: float,
    remove: tuple[str, ...] = (),
    signals: Mapping[str, str] | None = None,
    ego: FloatArray | str | None = None,
    rate_hz: float = 10.0,
    look: Look | None = None,
    rig: Rig | None = None,
    duration_s: float = 20.0,
) -> Log:
    """The log of a seed (or a town log) as it would have gone on from ``at_s`` seconds after its start.

    remove: ids of tracks that are not there any more (of works: all that belongs to them). signals: signal id ->
    "green", "red" (that arm's axis, the other one gets the opposite) or "off" for the whole junction (then its
    streets' order of priority holds). ego: (N, 2) actions speed_mps, curvature_inv_m at ``rate_hz``, after which it
    stands; or one of "brake", "accelerate", "left", "right", "keep". look: another weather or time of day. Raises
    InputError.
    """
    replay, rig, look = _replay_for(seed_or_log, duration_s, rig, look)
    drive = replay.drive
    sim = replay.at(drive.step_at(at_s))
    _remove(sim, remove)
    _set_signals(sim, signals or {})
    if ego is not None:
        sim.forced = _forced(sim, ego, rate_hz)
    sim.run()
    told: dict[str, Any] = {
        "at_s": at_s,
        "remove": list(remove),
        "signals": dict(signals or {}),
        "ego": ego if ego is None or isinstance(ego, str) else np.asarray(ego).round(4).tolist(),
    }
    changed = replace(drive, simulation=sim, facts={**drive.facts, "rerun": told})
    return changed.log(rig, look)


def _replay_for(
    seed_or_log: int | Log, duration_s: float, rig: Rig | None, look: Look | None
) -> tuple[Replay, Rig | None, Look | None]:
    if isinstance(seed_or_log, int):
        return replay_of(seed_or_log, duration_s), rig, look
    log = seed_or_log
    if log.source != "town" or "seed" not in log.metadata:
        raise InputError(f"log {log.id} of source {log.source!r}: only logs of the town can be rerun")
    if "rerun" in log.metadata:
        raise InputError(f"log {log.id} is a rerun already: rerun the original with both changes instead")
    told = log.metadata.get("scenario")
    length_s = round((log.end_us - log.start_us) / 1e6, 3)
    replay = replay_of(int(log.metadata["seed"]), length_s, told["kind"] if told else None)
    return replay, rig or log.rig, look or log.look


def _remove(sim: Simulation, names: tuple[str, ...]) -> None:
    known = {b.id for b in sim.bodies[1:]} | {p.id for p in sim.people}
    parts = {part[0]: thing.id for thing in sim.things for part in thing.parts}
    known |= {thing.id for thing in sim.things}
    for name in names:
        if name not in known | set(parts):
            raise InputError(
                f"remove {name!r}: nobody of that id; moving agents and things in the way can be removed, "
                f"such as {', '.join(sorted(known)[:4])}"
            )
    sim.remove({parts.get(name, name) for name in names})


def _set_signals(sim: Simulation, signals: Mapping[str, str]) -> None:
    network = sim.roads.network
    known = {signal_id(j, a): (j, a) for j in sim.phases for a in range(len(network.junctions[j].arms))}
    for name, word in signals.items():
        if name not in known or word not in ("green", "red", "off"):
            raise InputError(
                f"signals {name!r}: {word!r}; expected green, red or off for one of {', '.join(known) or 'none'}"
            )
        j, a = known[name]
        states, axis = sim.phases[j].states.copy(), network.junctions[j].arms[a].axis
        after = states[sim.state.step :]
        if word == "off":
            after[:] = SIGNAL_STATES.index("off")
            sim.dark_junctions.add(j)
        else:
            other = {"green": "red", "red": "green"}[word]
            after[:], after[:, axis] = SIGNAL_STATES.index(other), SIGNAL_STATES.index(word)
        sim.phases[j] = Phases(j, states)


def _forced(sim: Simulation, ego: FloatArray | str, rate_hz: float) -> FloatArray:
    """(steps, 4) the ego's centre, yaw and speed: as driven so far, then by the actions."""
    r, k = sim.record, sim.state.step
    xy, yaw = sim.poses()
    count = sim.steps - 1 - k
    center = float(sim.center[0])
    heading = np.array([np.cos(yaw[0]), np.sin(yaw[0])])
    start = np.array([*(xy[0] - center * heading), yaw[0]])
    actions = _actions(sim, ego, rate_hz, count)
    path = np.concatenate([start[None], integrate_actions(start, actions, DT_S)])
    speed = np.concatenate([[sim.state.v[0]], actions[:, 0]])
    out = np.zeros((sim.steps, 4))
    out[:k] = np.column_stack([r.xy[:k, 0], r.yaw[:k, 0], r.speed[:k, 0]])
    out[k:, :2] = path[:, :2] + center * np.stack([np.cos(path[:, 2]), np.sin(path[:, 2])], -1)
    out[k:, 2], out[k:, 3] = path[:, 2], speed
    return out


def _actions(sim: Simulation, ego: FloatArray | str, rate_hz: float, count: int) -> FloatArray:
    """(count, 2) at 10 Hz."""
    v, r, k = float(sim.state.v[0]), sim.record, sim.state.step
    if not isinstance(ego, str):
        given = np.asarray(ego, dtype=np.float64)
        if given.ndim != 2 or given.shape[1] != 2 or not len(given) or not np.isfinite(given).all():
            raise InputError(f"ego: actions of shape {given.shape}, expected finite (N, 2) speed_mps, curvature_inv_m")
        at = (np.arange(count) * DT_S * rate_hz + 1e-9).astype(int)
        return np.where((at < len(given))[:, None], given[np.minimum(at, len(given) - 1)], 0.0)
    if ego not in EGO_WORDS:
        raise InputError(f"ego {ego!r}: expected actions or one of {', '.join(EGO_WORDS)}")
    gain = {"brake": -BRAKE_MPS2, "accelerate": ACCELERATE_MPS2}.get(ego, 0.0)
    speed = np.maximum(v + gain * DT_S * (np.arange(count) + 0.5), 0.0)
    moved = float(np.hypot(*(r.xy[k - 1, 0] - r.xy[k - 2, 0]))) if k > 1 else 0.0
    bend = (float(r.yaw[k - 1, 0] - r.yaw[k - 2, 0]) / moved) if moved > 0.05 else 0.0
    steer = {"left": STEER_INV_M, "right": -STEER_INV_M}.get(ego, float(np.clip(bend, -0.1, 0.1)))
    return np.column_stack([np.minimum(speed, max(v, 14.0)), np.full(count, steer)])
