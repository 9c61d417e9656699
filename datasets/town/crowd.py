"""People: they walk along their way, wait at the kerb, cross when they may, and some cross where they should not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from drive_wm.datasets.town.agents import Gate, Person
from drive_wm.datasets.town.rules import DT_S, RED
from drive_wm.datasets.town.ways import STEP_M, YAW, Way
from drive_wm.types import BoolArray, FloatArray

if TYPE_CHECKING:
    from drive_wm.datasets.town.simulation import Simulation

KERB_M = 0.8  # how near to the kerb one waits
KEEP_RIGHT_M = 0.62
# what a driver must be left: braking in m/s2 that suffices, seconds to react
LEFT_TO_DRIVERS = {"light": (2.2, 0.6), "zebra": (2.2, 0.6), "jaywalk": (3.0, 0.8)}


def table(ways: list[Way]) -> FloatArray:
    """Ways as one array (N, K, 8); each stays at its end."""
    out = np.zeros((len(ways), max((len(w.rows) for w in ways), default=1) + 1, 8))
    for i, way in enumerate(ways):
        out[i, : len(way.rows)], out[i, len(way.rows) :] = way.rows, way.rows[-1]
    return out


def poses(sim: Simulation) -> tuple[FloatArray, FloatArray]:
    """Where people are (P, 2) and where they face (P,)."""
    at = np.minimum(np.maximum(sim.state.ps / STEP_M, 0.0), sim.walks.shape[1] - 2)
    k, rows = at.astype(int), np.arange(len(at))
    here, after = sim.walks[rows, k], sim.walks[rows, k + 1]
    now = here[:, : YAW + 1] + (after[:, : YAW + 1] - here[:, : YAW + 1]) * (at - k)[:, None]
    aside = sim.state.pd[:, None] * np.stack([-np.sin(now[:, YAW]), np.cos(now[:, YAW])], -1)
    return now[:, :2] + aside, now[:, YAW]


def decide(sim: Simulation) -> None:
    """Who at a kerb goes now, and who asks drivers to let it cross."""
    st = sim.state
    for i, person in enumerate(sim.people):
        gate = person.gate
        if gate is None or not gate.begin_m - KERB_M <= st.ps[i] < gate.begin_m:
            st.asking[i] = False
            continue
        if person.script is not None:
            continue
        may = _light_allows(sim, person, gate) and not _in_the_way(sim, person, gate).any()
        st.asking[i] = gate.kind == "zebra" and not may
        sim.state.pbegan[i] = 1.0 if may else 0.0


def _light_allows(sim: Simulation, person: Person, gate: Gate) -> bool:
    if gate.kind != "light" or sim.dark(gate.junction):
        return True
    need = int(0.5 * (gate.end_m - gate.begin_m) / person.pace_mps / DT_S)
    axis = sim.roads.network.junctions[gate.junction].arms[gate.arm].axis
    return bool((sim.phases[gate.junction].states[sim.state.step :, axis][:need] == RED).all())


def _in_the_way(sim: Simulation, person: Person, gate: Gate) -> BoolArray:
    """(N,) vehicles that will cross the person's line and could not stop for it with ease."""
    st = sim.state
    a, b = (
        person.way.line[int(gate.begin_m / STEP_M)],
        person.way.line[min(int(gate.end_m / STEP_M), len(person.way.line) - 1)],
    )
    length = float(np.linalg.norm(b - a))
    u = (b - a) / length
    rel = sim.ahead_xy - a
    along, across = rel @ u, rel[..., 0] * u[1] - rel[..., 1] * u[0]
    step_m = sim.ahead_m[:, 1] if sim.ahead_m.shape[1] > 1 else np.ones(len(sim.bodies))
    meets = (np.abs(across) < 0.9 + step_m[:, None] / 2) & (along > -1.5) & (along < length + 1.5)
    reach = np.where(meets.any(1), sim.ahead_m[np.arange(len(meets)), meets.argmax(1)], np.inf) - sim.lwh[:, 0] / 2
    brake, react_s = LEFT_TO_DRIVERS[gate.kind]
    # one who accelerates from a line must be left as much as one who drives slowly
    v = np.maximum(st.v, np.where((st.grant >= 0) & np.isinf(st.gap), 3.0, 0.0))
    near = reach < v * v / (2 * brake) + react_s * v + 2.5
    stops = (st.line < reach - 1.0) & (st.v**2 / 2 / np.maximum(st.line, 0.5) < 2.5)
    rolling = (st.v > 0.3) | (reach < 0.5) & (reach > -4.0) | (st.a > 0.3)
    return st.active & near & rolling & ~stops


def walk(sim: Simulation) -> None:
    """One step of 0.1 s for everybody."""
    st = sim.state
    speed = sim.pace.copy()
    furthest = sim.walk_m.copy()
    boxes, here = sim.poses(), poses(sim)
    for i in sim.with_gate:
        person = sim.people[i]
        gate = person.gate
        assert gate is not None
        if person.script is not None:
            speed[i], furthest[i] = _scripted(sim, i, person, gate)
        elif gate.begin_m - KERB_M <= st.ps[i] < gate.begin_m and st.pbegan[i] < 1.0:
            speed[i], furthest[i] = 0.0, gate.begin_m - 0.05
        st.crossing[i] = gate.begin_m <= st.ps[i] <= gate.end_m
    crosses = st.crossing & ~sim.person_scripted
    if crosses.any():
        speed[crosses & _blocked(sim, boxes, here)] = 0.0
    before, ps, pd = here[0], st.ps.copy(), st.pd.copy()
    _give_each_other_room(sim, speed, here)
    st.pv += np.minimum(np.maximum(speed - st.pv, -0.25), 0.15)
    st.ps[:] = np.minimum(st.ps + st.pv * DT_S, furthest)
    st.pv[:] = np.where(st.ps >= furthest, 0.0, st.pv)
    was = np.hypot(*(before[None] - before[:, None]).T).T
    pressed = _pressed(sim, before, was)
    if pressed.any():
        st.ps[pressed], st.pv[pressed] = ps[pressed], 0.0  # never into another: sideways at most
        still = pressed & _pressed(sim, before, was)
        st.pd[still] = pd[still]
    if crosses.any():
        still = crosses & _against_a_box(sim, boxes)
        st.pd[still] = pd[still]


def _against_a_box(sim: Simulation, vehicles: tuple[FloatArray, FloatArray]) -> BoolArray:
    """Who has come within half a metre of a vehicle: nobody steps aside into one."""
    out = _beyond(sim, poses(sim)[0][:, None], *vehicles)
    near: BoolArray = ((out < 0.5) & sim.state.active).any(1)
    return near


def _pressed(sim: Simulation, before: FloatArray, was: FloatArray) -> BoolArray:
    """Who has come nearer than 1.03 m to another's last place, and nearer than before."""
    now = np.hypot(*(before[None] - poses(sim)[0][:, None]).T).T
    near: BoolArray = ((now < 1.03) & (now < was) & sim.here_people[None]).any(1)
    return near


def _give_each_other_room(sim: Simulation, speed: FloatArray, here: tuple[FloatArray, FloatArray]) -> None:
    """People step to the right of who comes towards them, and do not walk into who is before them. Lowers ``speed``."""
    st = sim.state
    xy, yaw = here
    delta = xy[None] - xy[:, None]
    c, s = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    ahead, left = delta[..., 0] * c + delta[..., 1] * s, delta[..., 1] * c - delta[..., 0] * s
    facing = np.cos(yaw[None] - yaw[:, None])
    still = np.broadcast_to(st.pv < 0.1, ahead.shape)
    there = sim.here_people[None] & (ahead > 0.05)
    meets = there & ((facing < -0.3) | still) & (ahead < 5.0) & (np.abs(left) < 1.2)
    lacking = np.where(meets, (1.2 - np.abs(left)) * np.where(still, 1.0, 0.6), 0.0)
    to_right = np.where(left > -0.1, lacking + np.maximum(-left, 0.0) * 2, 0.0).max(1, initial=0.0)
    to_left = np.where(left <= -0.1, lacking, 0.0).max(1, initial=0.0)
    wish = np.where(to_right > 0, -to_right, to_left)
    beside = (there & (ahead < 3.0) & (np.abs(left) < 1.8)).any(1)
    gate = _at_gate(sim)
    shift = np.where(wish != 0, wish, np.where(beside, 0.0, np.where(gate, -KEEP_RIGHT_M, 0.0) - st.pd))
    most = np.maximum(np.where(st.crossing, 1.3, 0.7), np.abs(st.pd) - 0.07)
    waits = (speed < 0.05) & ~meets.any(1)
    step = np.minimum(np.maximum(shift, -0.07), 0.07) * ~waits
    st.pd[:] = np.minimum(np.maximum(st.pd + step, -most), np.where(gate, np.maximum(st.pd - 0.07, 0.0), most))
    first = np.arange(len(speed))[:, None] > np.arange(len(speed))[None]  # who comes first in the list goes first
    close = there & (np.abs(left) < 0.8) & (ahead < 0.9 + 0.6 * st.pv[:, None])
    close &= (facing > 0.3) | (first & (facing > -0.3)) | (ahead < 1.0)
    pace = np.where(facing > 0.3, st.pv[None] * facing, 0.0)
    np.minimum(speed, np.where(close, np.maximum(pace - 0.15, 0.0), np.inf).min(1, initial=np.inf), out=speed)


def _at_gate(sim: Simulation) -> BoolArray:
    """Who comes to a crossing or is on it: there people keep to the right, so that both directions get past."""
    at = sim.state.ps
    near: BoolArray = (at > sim.gate_begin - 6.0) & (at < sim.gate_end + 2.0) & ~sim.person_scripted
    return near


def _scripted(sim: Simulation, i: int, person: Person, gate: Gate) -> tuple[float, float]:
    """Waits where it starts until its moment has come, then goes as its script says."""
    st, script = sim.state, person.script
    assert script is not None
    if st.pbegan[i] < 0 and (script.ego_at_m is None or st.s[0] >= script.ego_at_m):
        st.pbegan[i] = 0.0
    if st.pbegan[i] < 0:
        return 0.0, gate.begin_m - 0.05
    st.pbegan[i] += DT_S
    return float(np.interp(st.pbegan[i], script.times_s, script.speed_mps)), person.way.length_m


def _blocked(
    sim: Simulation, vehicles: tuple[FloatArray, FloatArray], people: tuple[FloatArray, FloatArray]
) -> BoolArray:
    """Who has a vehicle right before the feet."""
    st, (xy, yaw) = sim.state, people
    moves = st.v > 0.3
    heading = np.stack([np.cos(yaw), np.sin(yaw)], -1)
    out = _beyond(sim, xy[:, None] + np.where(moves, 1.6, 0.9)[:, None] * heading[:, None], *vehicles)
    blocked: BoolArray = (st.active & (out < np.where(moves, 1.0, 0.5))).any(1)
    return blocked


def _beyond(sim: Simulation, points: FloatArray, boxes: FloatArray, box_yaw: FloatArray) -> FloatArray:
    """How far points (P, N or 1, 2) are outside each vehicle's box (P, N), negative inside."""
    delta = points - boxes
    c, s = np.cos(box_yaw), np.sin(box_yaw)
    along, across = delta[..., 0] * c + delta[..., 1] * s, delta[..., 1] * c - delta[..., 0] * s
    out: FloatArray = np.maximum(np.abs(along) - sim.lwh[:, 0] / 2, np.abs(across) - sim.lwh[:, 1] / 2)
    return out
