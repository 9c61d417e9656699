"""Across the road: changing lane, passing what blocks, pulling over for a siren, and what the ego sees coming.

All of it is one wish, ``aim``: the offset from one's way that a vehicle steers to. A change of lane takes the
neighbour's way and keeps one's place, so that the wish is then 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from drive_wm.datasets.town.agents import LANE_CHANGE, NO_PLAN, PASS, PULL_OVER
from drive_wm.datasets.town.rules import DT_S
from drive_wm.datasets.town.ways import CURVATURE, LIMIT, ONCOMING, ROOM_LEFT, ROOM_RIGHT, STEP_M, YAW, Way, place_on
from drive_wm.geometry import box_corners
from drive_wm.types import FloatArray, IntArray

if TYPE_CHECKING:
    from drive_wm.datasets.town.simulation import Simulation

PASS_GAP_M = {"thing": 0.6, "bicycle": 1.0, "other": 0.75}
BEHIND_THING_M = 7.0  # room to pull out
HORIZON_S = np.arange(0.0, 5.01, 0.25)


def decide(sim: Simulation, box: tuple, xy: FloatArray, yaw: FloatArray) -> None:
    """Plans of all vehicles: ends those that are done with, and makes new ones where one is blocked or must turn."""
    st = sim.state
    n, p = len(sim.bodies), len(sim.people)
    st.cap[:], st.cap_of[:] = 99.0, -1
    if (sim.siren & st.active).any():
        _make_room(sim, yaw)
    for i in np.nonzero(st.plan != NO_PLAN)[0]:
        _go_on(sim, int(i), box, xy, yaw)
    slow = st.lead_v < 0.65 * np.minimum(sim.rows(st.s)[:, LIMIT] * sim.factor, 12.0)
    blocked = st.active & ~sim.scripted & (st.plan == NO_PLAN) & slow & (st.gap < 12.0 + 2.2 * st.v)
    passable = (st.lead >= n + p) | (st.lead >= 0) & (st.lead < n) & (sim.bike | (st.plan == PULL_OVER))[
        np.clip(st.lead, 0, n - 1)
    ]
    passable |= sim.siren & (st.lead >= 0) & (st.lead < n)
    for i in np.nonzero(blocked)[0]:
        j = int(st.lead[i])
        if not sim.bike[i] and sim.siren[i] == 0 and _try_lanes(sim, int(i), box, xy, yaw, j):
            continue
        if passable[i] and not sim.bike[i]:
            _try_pass(sim, int(i), j, box, yaw)
    for i in np.nonzero(st.active & ~sim.scripted & (st.plan == NO_PLAN))[0]:
        if sim.bodies[i].turns:
            _keep_route(sim, int(i), box, yaw)
    waits = (st.lead >= n + p) & (st.plan != PASS) & ~sim.scripted
    st.gap[waits] -= BEHIND_THING_M


# --- lanes --------------------------------------------------------------------------------------------------------


def _around(sim: Simulation, i: int, box: tuple, way: Way, s: float, d: float, ahead_m: float = 0.0) -> bool:
    """Whether there is room for vehicle i at (s, d) of a way, just before and behind it, where others are or go."""
    bxy, byaw, half, speed, there = box
    st = sim.state
    at, across = way.locate(bxy, s)
    rel = at - (s + sim.center[i])
    heading = way.rows[np.clip((at / STEP_M).astype(int), 0, len(way.rows) - 1), YAW]
    same = np.cos(byaw - heading) > 0
    goes = np.concatenate([st.aim - st.d, np.zeros(len(bxy) - len(st.d))]) * np.where(same, 1.0, -1.0)
    to_side = np.minimum(across, across + goes) - d, np.maximum(across, across + goes) - d
    band = half[:, 1] + sim.lwh[i, 1] / 2 + 0.5
    side = there & (to_side[0] < band) & (to_side[1] > -band)
    side[i] = False
    apart = np.abs(rel) - half[:, 0] - sim.lwh[i, 0] / 2
    v = float(st.v[i])
    need = np.where(
        rel > 0,
        np.maximum(2.5 + 0.3 * v, ahead_m) + 1.6 * np.maximum(v - speed, 0) + np.where(same, 0.0, 60.0),
        2.5 + 0.45 * speed + 2.2 * np.maximum(speed - v, 0),
    )
    need = np.where((rel < 0) & ~same, 2.0, need)
    return not bool((side & (apart < need)).any())


def _change_to(sim: Simulation, i: int, lane: str, box: tuple, yaw: FloatArray, ahead_m: float = 0.0) -> bool:
    """Takes the way of a neighbouring lane if there is room on it; the walk from there is drawn from i's own seed."""
    st = sim.state
    body = sim.bodies[i]
    rng = np.random.default_rng([body.seed, int(st.changes[i]) + 1])
    long = body.size_lwh_m[0] > 7.0
    rear = _rear(sim, i)
    at = float(np.linalg.norm(sim.roads.pieces[lane].line - rear, axis=1).argmin())
    way = sim.roads.walk(rng, lane, from_m=at, long=long, turns=body.turns)
    s, d, e = place_on(way, rear, float(yaw[i]))
    begin, end, _ = way.spans[0]
    if not (1.5 < abs(d) < 5.0 and begin + 1.0 < s < end - 10.0 and abs(e) < 0.5) or not _around(
        sim, i, box, way, s, 0.0, ahead_m
    ):
        return False
    sim.take_way(i, way, s, d, e)
    st.changes[i] += 1
    st.plan[i], st.plan_s[i], st.aim[i] = LANE_CHANGE, 0.0, 0.0
    return True


def _rear(sim: Simulation, i: int) -> FloatArray:
    row = sim.state.ways[i].at(float(sim.state.s[i]))
    return row[:2] + sim.state.d[i] * np.array([-np.sin(row[YAW]), np.cos(row[YAW])])


def _try_lanes(sim: Simulation, i: int, box: tuple, xy: FloatArray, yaw: FloatArray, lead: int) -> bool:
    """Another lane of the same direction, if what blocks is not just the queue at a light."""
    st = sim.state
    begin, end, lane = st.ways[i].span(float(st.s[i]))
    left = end - st.s[i] - sim.front[i]
    n = len(sim.bodies)
    if st.grant[i] >= 0 or left < 18.0 + 2.0 * st.v[i] or abs(st.d[i]) > 0.6:
        return False
    if lead < n and ((st.lead_v[i] < 0.5 or st.v[i] < 2.0) and not sim.bike[lead] and st.plan[lead] != PULL_OVER):
        return False
    for side in (1, -1):
        other = sim.roads.beside(lane, side)
        if other is not None and (not sim.bodies[i].turns or _reaches(sim, i, other) >= _reaches(sim, i, lane)):
            if _change_to(sim, i, other, box, yaw, 14.0):
                st.plan_of[i] = lead
                return True
    return False


def _reaches(sim: Simulation, i: int, lane: str) -> bool:
    """Whether the route leads on from this lane."""
    return lane in sim.bodies[i].turns


def _keep_route(sim: Simulation, i: int, box: tuple, yaw: FloatArray) -> None:
    """Changes towards the lane from which the route goes on; the nearer the line, the slower it drives meanwhile."""
    st = sim.state
    begin, end, lane = st.ways[i].span(float(st.s[i]))
    if lane in sim.roads.network.connectors or _reaches(sim, i, lane):
        return
    for side in (1, -1):
        other = sim.roads.beside(lane, side)
        while other is not None and not _reaches(sim, i, other):
            other = sim.roads.beside(other, side)
        if other is None:
            continue
        left = end - st.s[i] - sim.front[i]
        step = sim.roads.beside(lane, side)
        if left > 14.0 and abs(st.d[i]) < 0.6 and step is not None and _change_to(sim, i, step, box, yaw):
            st.plan_of[i] = -1
            return
        if 14.0 < left < 60.0:
            st.cap[i] = max(2.5, np.sqrt(2 * 1.2 * max(left - 16.0, 0.1)))


# --- passing ------------------------------------------------------------------------------------------------------


def _seen_along(sim: Simulation, i: int, j: int, box: tuple) -> tuple[float, float, float, float]:
    """Box j in i's coordinates: first and last arc length, right and left offset."""
    bxy, byaw, half, _, _ = box
    corners = box_corners(np.array([*bxy[j], byaw[j]]), np.array(2 * half[j, 0]), np.array(2 * half[j, 1]))
    at, across = sim.state.ways[i].locate(corners, float(sim.state.s[i]))
    return float(at.min()), float(at.max()), float(across.min()), float(across.max())


def _try_pass(sim: Simulation, i: int, j: int, box: tuple, yaw: FloatArray, oncoming: bool = False) -> bool:
    """Plans to drive around box j: within the own lanes, or over the oncoming ones while those are free."""
    st, way, n = sim.state, sim.state.ways[i], len(sim.bodies)
    first, last, right, left = _seen_along(sim, i, j, box)
    kind = "thing" if j >= n else "bicycle" if sim.bike[j] else "other"
    half = sim.lwh[i, 1] / 2 + PASS_GAP_M[kind]
    v, v_other = float(st.v[i]), float(box[3][j])
    pace = max(v, 5.0)
    v_other = -v_other if oncoming else v_other
    way_m = (last - st.s[i] - sim.rear[i] + 4.0) * pace / max(pace - v_other, 1.5)
    rows = way.rows[int(st.s[i] / STEP_M) : int((st.s[i] + max(way_m, 10.0)) / STEP_M) + 1]
    if not len(rows):
        return False
    room_left, room_right = float(rows[:, ROOM_LEFT].min()) - 0.1, float(rows[:, ROOM_RIGHT].min()) - 0.1
    own = sim.lwh[i, 1] / 2
    to_left, to_right = left + half, right - half
    if oncoming or (to_right >= -room_right + own and abs(to_right) < abs(to_left)):
        aim = max(min(to_right, 0.0), -room_right + own) if oncoming else min(to_right, 0.0)
    elif to_left + own <= room_left:
        aim = max(to_left, 0.0)
    elif to_left + own <= room_left + float(rows[:, ONCOMING].min()) - 0.3 and (
        sim.siren[i] and to_left < 1.6 or _oncoming_free(sim, i, way_m, way_m / pace, to_left, box)
    ):
        aim = to_left
    else:
        return False
    if abs(aim) + own > 1.9 and not sim.siren[i] and not _around_aim(sim, i, aim, j, box):
        return False
    st.plan[i], st.plan_of[i], st.plan_s[i], st.aim[i] = PASS, j, 0.0, aim
    return True


def _around_aim(sim: Simulation, i: int, aim: float, j: int, box: tuple) -> bool:
    """Room beside vehicle i at another offset; the passed box does not count, nor who queues behind it."""
    st, n = sim.state, len(sim.bodies)
    at, across = st.ways[i].locate(box[0][:n], float(st.s[i]))
    queue = (at < st.s[i] + sim.center[i]) & (np.abs(across) < 1.3) & (np.abs(st.aim) < 1.0)
    there = box[4].copy()
    there[n:], there[:n] = False, there[:n] & ~queue
    there[j] = False
    return _around(sim, i, (*box[:4], there), st.ways[i], float(st.s[i]), aim)


def _oncoming_free(sim: Simulation, i: int, way_m: float, time_s: float, aim: float, box: tuple) -> bool:
    """Nobody comes along the other side until one is back, and no junction is that near."""
    st, way = sim.state, sim.state.ways[i]
    _, end, _ = way.span(float(st.s[i]))
    if time_s > 12.0 or way_m > 90.0 or st.s[i] + way_m + 8.0 > end:
        return False
    bxy, byaw, half, speed, there = box
    near = there & (np.hypot(*(bxy - _rear(sim, i)).T) < 190.0)
    near[i] = False
    j = np.nonzero(near)[0]
    line = way.rows[max(0, int(st.s[i] / STEP_M) - 20) : int((st.s[i] + 190) / STEP_M) : 2]
    gaps = ((bxy[j, None] - line[None, :, :2]) ** 2).sum(-1)
    k = gaps.argmin(1)
    at = max(0.0, st.s[i] - 10.0) + k * 2 * STEP_M - st.s[i]
    delta = bxy[j] - line[k, :2]
    across = delta[:, 1] * np.cos(line[k, YAW]) - delta[:, 0] * np.sin(line[k, YAW])
    against = np.cos(byaw[j] - line[k, YAW]) < -0.3
    beside = (across > aim - 2.6) & (across < aim + 3.4) & (at > -2.0)
    pace = np.where(st.stuck[np.clip(j, 0, len(sim.bodies) - 1)] > 4.0, 1.0, np.maximum(speed[j], 5.0))
    return not bool((beside & against & (at < way_m + 12.0 + pace * (time_s + 1.0))).any())


def _go_on(sim: Simulation, i: int, box: tuple, xy: FloatArray, yaw: FloatArray) -> None:
    """Ends a plan that is done, or gives it up while that is still possible."""
    st = sim.state
    if not st.active[i] or sim.scripted[i]:
        st.plan[i] = NO_PLAN
    elif st.plan[i] == LANE_CHANGE:
        if abs(st.d[i]) < 0.35 and st.plan_s[i] > 1.0:
            st.plan[i], st.plan_of[i] = NO_PLAN, -1
    elif st.plan[i] == PASS:
        j = int(st.plan_of[i])
        first, last, right, left = _seen_along(sim, i, j, box)
        moving = j < len(sim.bodies)
        gone = not box[4][j] or st.s[i] + sim.rear[i] - 1.2 > last or first - st.s[i] > 90.0
        against = np.cos(box[1][j] - yaw[i]) < -0.3
        begun = against or st.s[i] + sim.front[i] + 1.0 > first or abs(st.d[i]) > 1.2
        meets = (st.lead[i] >= 0) and np.cos(box[1][st.lead[i]] - yaw[i]) < -0.3 and st.lead[i] < len(sim.bodies)
        if gone or (meets and not begun) or (moving and box[3][j] > 0.8 * st.v[i] and not begun):
            st.plan[i], st.plan_of[i], st.aim[i] = NO_PLAN, -1, sim.bodies[i].side_m
            if gone:
                nxt = sim.corridor(np.array([i]), st.aim[[i]], box, xy, yaw)
                st.gap[i], st.lead_v[i], st.lead[i] = nxt[0][0], nxt[1][0], nxt[2][0]
        elif against:
            if st.lead[i] == j:
                st.gap[i], st.lead[i] = np.inf, -1  # it is being evaded: who stands in its way does not get out of it
        elif not moving:
            st.cap[i], st.cap_of[i] = 8.0, j


def _make_room(sim: Simulation, yaw: FloatArray) -> None:
    """Who is before a siren goes to the side and slows down; who was passed goes on."""
    st = sim.state
    rear = np.stack([_rear(sim, i) for i in range(len(sim.bodies))])
    reach = np.arange(0.0, 16.0, 3.0)  # back to the middle before a junction's kerb comes in
    seen = np.stack([sim.rows(st.s + r) for r in reach])
    room = np.where(np.abs(seen[..., CURVATURE]) > 0.03, 0.0, seen[..., ROOM_RIGHT]).min(0)
    for k in np.nonzero(sim.siren & st.active)[0]:
        at, across = st.ways[k].locate(rear, float(st.s[k]))
        rel = at - st.s[k]
        facing = np.cos(yaw - st.ways[k].rows[np.clip((at / STEP_M).astype(int), 0, len(st.ways[k].rows) - 1), YAW])
        before = st.active & ~sim.siren & ~sim.scripted & (rel > -10.0) & (rel < 50.0) & (np.abs(across) < 7.0)
        before &= (np.abs(facing) > 0.7) & (st.d > -2.0) & ~((st.plan == PASS) | (st.plan == LANE_CHANGE))
        before &= (facing < 0) | (across < 1.3)  # who is on its left must not come over
        side = np.clip(room - sim.lwh[:, 1] / 2 - 0.25, 0.0, 1.8)
        st.aim[before] = -side[before]
        st.plan_s[before & (st.plan != PULL_OVER)] = 0.0
        st.plan[before], st.plan_of[before] = PULL_OVER, k
        pace = np.where((facing > 0) & (st.plan_s < 6.0), 3.0, 7.0)  # who cannot be passed for long leads it on
        st.cap[before], st.cap_of[before] = pace[before], k
        over = (st.plan == PULL_OVER) & (st.plan_of == k) & ~before
        st.plan[over], st.plan_of[over], st.aim[over] = NO_PLAN, -1, 0.0


# --- the ego looks further -----------------------------------------------------------------------------------------


def foresee(sim: Simulation, box: tuple, xy: FloatArray, yaw: FloatArray) -> None:
    """Where on its way the ego must stop because of somebody who crosses it and will not or cannot stop.

    A zone is where the other's box will be on the ego's way in the next 5 s. It binds the ego if both would be there at
    the same time, the ego at its present speed; who comes towards it on its own side is evaded to the right.
    """
    st = sim.state
    before = int(st.threat_of[0])
    st.threat[0], st.threat_of[0] = np.inf, -1
    j = _who_comes(sim, xy, yaw)
    if not len(j):
        return
    theirs = _foreseen(sim, j, HORIZON_S)  # (J, T, 3)
    reach = np.arange(0.0, 46.0, 1.5)
    k = np.clip(((st.s[0] + sim.center[0] + reach) / STEP_M).astype(int), 0, sim.table.shape[1] - 1)
    way = sim.table[0, k, :3]
    share = np.clip(reach / 12.0, 0.0, 1.0)
    offset = st.d[0] * (1 - share) + st.aim[0] * share
    px, py = way[:, 0] - offset * np.sin(way[:, 2]), way[:, 1] + offset * np.cos(way[:, 2])
    c, s = np.cos(theirs[..., 2])[..., None], np.sin(theirs[..., 2])[..., None]
    dx, dy = px - theirs[..., 0, None], py - theirs[..., 1, None]
    turn = way[:, 2] - theirs[..., 2, None]
    own = sim.lwh[0, 1] / 2 + 0.3
    hit = (
        np.abs(c * dx + s * dy)
        < sim.lwh[j, 0, None, None] / 2 + own * np.abs(np.sin(turn)) + 0.75 * np.abs(np.cos(turn))
    ) & (
        np.abs(c * dy - s * dx)
        < sim.lwh[j, 1, None, None] / 2 + own * np.abs(np.cos(turn)) + 0.75 * np.abs(np.sin(turn))
    )
    v = max(float(st.v[0]), 2.5)
    # for whom it brakes already it leaves more time, lest it go on and brake again
    margin = sim.lwh[0, 0] / 2 + 0.6 + np.where(j == before, 1.5, 0.35)[:, None, None] * v
    both = hit & (np.abs(HORIZON_S[:, None] * v - reach) < margin)
    for m in np.nonzero(both.any((1, 2)))[0]:
        zone = hit[m].any(0)
        first = int(np.nonzero(both[m].any(0))[0][0])
        while first and zone[first - 1]:
            first -= 1
        whom, stop_m = int(j[m]), float(reach[first]) - sim.lwh[0, 0] / 2 - 1.5
        if np.cos(yaw[whom] - yaw[0]) < -0.8 and st.plan[0] == NO_PLAN and np.abs(st.aim[whom]) > 1.0:
            _evade(sim, whom, box, yaw)
        if 0.0 < stop_m < st.threat[0] and not (st.plan[0] == PASS and st.plan_of[0] == whom):
            st.threat[0], st.threat_of[0] = stop_m, whom


def _who_comes(sim: Simulation, xy: FloatArray, yaw: FloatArray) -> IntArray:
    """Vehicles near the ego that were let in, have a script, cannot stop any more, or drive on its side of the road."""
    st = sim.state
    comes = st.active & (np.hypot(*(xy - xy[0]).T) < 70.0) & (st.v > 0.5)
    facing = np.cos(yaw - yaw[0])
    cannot_stop = np.isfinite(st.line) & (st.v**2 / (2 * np.maximum(st.line, 0.2)) > 4.0)
    comes &= (st.grant >= 0) | sim.scripted | cannot_stop | (facing < -0.7) & (np.abs(st.aim) > 1.0)
    comes &= facing < 0.7  # whom it follows is the business of the car-following law
    comes[0] = False
    return np.nonzero(comes)[0]


def _evade(sim: Simulation, j: int, box: tuple, yaw: FloatArray) -> None:
    """Goes to the right of who comes on the ego's side of the road, to where it will be."""
    st = sim.state
    bxy, byaw, half, speed, there = box
    shift = st.aim[j] - st.d[j]
    moved = bxy.copy()
    moved[j] += shift * np.array([-np.sin(byaw[j]), np.cos(byaw[j])])
    _try_pass(sim, 0, j, (moved, byaw, half, speed, there), yaw, oncoming=True)


def _foreseen(sim: Simulation, rows: IntArray, t: FloatArray) -> FloatArray:
    """Box poses (M, T, 3) of vehicles that keep their speed along their way and reach their wished offset."""
    st = sim.state
    s = st.s[rows, None] + st.v[rows, None] * t
    share = np.clip(t / 2.5, 0.0, 1.0)
    d = st.d[rows, None] * (1 - share) + st.aim[rows, None] * share
    at = np.clip((s / STEP_M).astype(int), 0, sim.table.shape[1] - 1)
    p = sim.table[rows[:, None], at, :3]
    sin, cos = np.sin(p[..., 2]), np.cos(p[..., 2])
    center = sim.center[rows, None]
    return np.stack([p[..., 0] - d * sin + center * cos, p[..., 1] + d * cos + center * sin, p[..., 2]], -1)


# --- lamps, reruns -------------------------------------------------------------------------------------------------


def indicators(sim: Simulation) -> tuple[IntArray, IntArray]:
    """(N,) +1 left, -1 right; and (N,) the turn that a vehicle takes or is about to take."""
    st = sim.state
    if st.step % 5:
        return sim.record.signal[st.step - 1], sim.record.turn[st.step - 1]
    turn = np.zeros(len(sim.bodies), np.int8)
    for i in np.nonzero(st.active)[0]:
        for event in st.ways[i].events:
            if st.s[i] < event.exit_m:
                way = sim.roads.network.connectors[event.connector].turn
                turn[i] = way if event.stop_m - st.s[i] < 25.0 else 0
                break
    shift = st.aim - st.d
    moves = np.where(np.abs(shift) > 0.6, np.sign(shift), 0).astype(np.int8)
    planned = (st.plan != NO_PLAN) | sim.scripted
    return np.where(planned & (moves != 0), moves, turn).astype(np.int8), turn


def follow_forced(sim: Simulation) -> None:
    """The ego's place on its way where a rerun moves it."""
    st = sim.state
    assert sim.forced is not None
    x, y, yaw, v = sim.forced[st.step]
    rear = np.array([x, y]) - sim.center[0] * np.array([np.cos(yaw), np.sin(yaw)])
    st.s[0], st.d[0], st.e[0] = place_on(st.ways[0], rear, float(yaw), float(st.s[0]))
    st.v[0], st.aim[0], st.plan[0] = v, 0.0, NO_PLAN


__all__ = ["DT_S", "decide", "foresee", "indicators", "follow_forced"]
