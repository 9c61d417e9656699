"""The drive itself at 10 Hz: vehicles in Frenet coordinates along their ways, people, and the ego, which is vehicle
0.

Every fifth of a second each vehicle looks along its own way for the first box in it (so that queues, people, works
and merging need no case of their own), is let into junctions or not, and may choose another offset or another lane.
In between it follows: the intelligent driver model along the way (Treiber et al. 2000), a steering law across it.
Nothing is drawn at random here, so that the same state always goes on in the same manner, and an agent that is taken
out changes only what depends on it.
"""

from __future__ import annotations

import numpy as np

from drive_wm.datasets.town import crowd, lateral, perturbed
from drive_wm.datasets.town.agents import (
    AHEAD,
    BEND,
    FREE,
    GIVE_WAY,
    LEAD,
    LIMIT,
    PULL_OVER,
    SIREN,
    Body,
    Person,
    Thing,
    initial_state,
)
from drive_wm.datasets.town.priority import Priority
from drive_wm.datasets.town.record import Record, empty_record
from drive_wm.datasets.town.rules import DT_S, Phases
from drive_wm.datasets.town.ways import CURVATURE, STEP_M, YAW, Roads, Way
from drive_wm.datasets.town.ways import LIMIT as LIMIT_COLUMN
from drive_wm.types import BoolArray, FloatArray, IntArray

LOOK_M, SAMPLES = 52.0, 22
STANDSTILL_M, ACCEL_MPS2 = 2.0, 1.7
JERK_MPS3 = 5.0
LOOK_EVERY = 2
IN_SIGHT_M, END_M = 45.0, 35.0  # nobody appears or vanishes so near to the ego; where one begins to stop for that


class Simulation:
    """One drive. ``run`` fills ``record`` up to a step; ``fork`` gives a second future of the same past."""

    def __init__(
        self,
        roads: Roads,
        bodies: list[Body],
        people: list[Person],
        things: list[Thing],
        phases: dict[int, Phases],
        steps: int,
        perturb: tuple[int, float, float, float] | None = None,
    ) -> None:
        self.roads, self.bodies, self.people, self.things, self.phases = roads, bodies, people, things, phases
        self.steps, self.perturb = steps, perturb
        self.dark_junctions: set[int] = set()
        self.lwh = np.array([b.size_lwh_m for b in bodies])
        self.center = np.array([b.center_m for b in bodies])
        self.front, self.rear = self.center + self.lwh[:, 0] / 2, self.center - self.lwh[:, 0] / 2
        drivers = [b.driver for b in bodies]
        self.factor = np.array([d.factor for d in drivers])
        self.headway = np.array([d.headway_s for d in drivers])
        self.brake = np.array([d.brake_mps2 for d in drivers])
        self.sway = np.array([d.sway_m * (b.size_lwh_m[0] < 7.0) for b, d in zip(bodies, drivers)])
        self.sway_phase = np.array([d.sway_phase for d in drivers])
        self.stop_mps2 = np.array([d.stop_mps2 for d in drivers])
        self.siren = np.array([b.siren for b in bodies])
        self.scripted = np.array([b.script is not None for b in bodies])
        self.bike = np.array([b.category == "bicycle" for b in bodies])
        self.thing_pose = np.array([t.xyyaw for t in things]).reshape(-1, 3)
        self.thing_lwh = np.array([t.size_lwh_m for t in things]).reshape(-1, 3)
        self.here_things, self.here_people = np.ones(len(things), bool), np.ones(len(people), bool)
        self.state = initial_state(bodies, people)
        self.with_gate = [i for i, p in enumerate(people) if p.gate is not None]
        self.pace = np.array([p.pace_mps for p in people])
        self.person_scripted = np.array([p.script is not None for p in people], bool)
        self.walk_m = np.array([p.way.length_m for p in people])
        self.gate_begin = np.array([p.gate.begin_m if p.gate else np.inf for p in people])
        self.gate_end = np.array([p.gate.end_m if p.gate else 0.0 for p in people])
        self.walks = crowd.table([p.way for p in people])
        self.table = crowd.table(self.state.ways)
        self.length = np.array([w.length_m for w in self.state.ways])
        self.record = empty_record(steps, len(bodies), len(people))
        self.priority = Priority(self)
        self.forced: FloatArray | None = None  # the ego's centre (steps, 4) x, y, yaw, speed from a rerun
        self.kerbside = np.zeros(
            (0, 5)
        )  # parked cars: x, y, yaw, length, width; only the perturbed start looks at them
        self.disturbed: tuple[float, float, float] | None = None
        self.taken: list[tuple[int, Way]] = [(0, bodies[0].way)]  # the ego's ways, from which step on
        self.gone_at: list[tuple[int, str]] = []
        self.ahead_xy = np.zeros((len(bodies), SAMPLES, 2))
        self.ahead_m = np.zeros((len(bodies), SAMPLES))

    # --- places ---

    def dark(self, junction: int) -> bool:
        return junction in self.dark_junctions

    def rows(self, s: FloatArray) -> FloatArray:
        """The ways' rows (N, 8) at arc lengths (N,)."""
        at = np.minimum(np.maximum(s / STEP_M, 0.0), self.table.shape[1] - 2)
        k = at.astype(int)
        index = np.arange(len(s))
        here = self.table[index, k]
        return here + (self.table[index, k + 1] - here) * (at - k)[:, None]

    def poses(self) -> tuple[FloatArray, FloatArray]:
        """Centres (N, 2) and headings (N,) of the vehicles' boxes."""
        st = self.state
        here = self.rows(st.s)
        sin, cos = np.sin(here[:, YAW]), np.cos(here[:, YAW])
        yaw = here[:, YAW] + st.e
        xy = np.stack(
            [here[:, 0] - st.d * sin + self.center * np.cos(yaw), here[:, 1] + st.d * cos + self.center * np.sin(yaw)],
            -1,
        )
        if self.forced is not None:
            xy[0], yaw[0] = self.forced[st.step, :2], self.forced[st.step, 2]
        return xy, yaw

    @property
    def rear_of_ego(self) -> FloatArray:
        """(T, 2) the ego's rear axle as recorded."""
        yaw = self.record.yaw[:, 0]
        return self.record.xy[:, 0] - self.center[0] * np.stack([np.cos(yaw), np.sin(yaw)], -1)

    def take_way(self, i: int, way: Way, s: float, d: float, e: float) -> None:
        st = self.state
        if i == 0:
            self.taken = [*self.taken, (st.step, way)]
        st.ways[i], st.s[i], st.d[i], st.e[i] = way, s, d, e
        self._fill(i, way)
        st.event[i] = sum(event.stop_m < s + self.front[i] for event in way.events)
        st.grant[i], st.halted[i] = -1, False

    def _fill(self, i: int, way: Way) -> None:
        if len(way.rows) >= self.table.shape[1]:
            more = np.repeat(self.table[:, -1:], len(way.rows) + 1 - self.table.shape[1], 1)
            self.table = np.concatenate([self.table, more], 1)
        self.table[i, : len(way.rows)] = way.rows
        self.table[i, len(way.rows) :] = way.rows[-1]
        self.length[i] = way.length_m

    # --- looking ahead ---

    def boxes(
        self, xy: FloatArray, yaw: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, BoolArray]:
        """All boxes: centres (M, 2), yaw, half sizes (M, 2), speed, and whether they are there."""
        pxy, pyaw = crowd.poses(self)
        st = self.state
        walks = np.clip(self.gate_end - st.ps + 0.3, 0.4, 3.0 + 3.0 * st.pv)  # the road before one's feet is taken
        ahead = np.where(st.crossing & (st.pv > 0.1), walks, np.where(st.asking, 5.0, 0.4))
        shift = ((ahead - 0.4) / 2)[:, None] * np.stack([np.cos(pyaw), np.sin(pyaw)], -1)
        goes = np.where(
            (np.abs(st.aim - st.d) > 0.8) & (st.v > 0.5), st.aim - st.d, 0.0
        )  # a box covers where it moves to
        normal = np.stack([-np.sin(yaw - st.e), np.cos(yaw - st.e)], -1)
        wide = np.stack([self.lwh[:, 0] / 2, self.lwh[:, 1] / 2 + np.abs(goes) / 2], -1)
        half = np.concatenate(
            [wide, np.stack([ahead / 2 + 0.1, np.full(len(pyaw), 0.35)], -1), self.thing_lwh[:, :2] / 2]
        )
        return (
            np.concatenate([xy + normal * goes[:, None] / 2, pxy + shift, self.thing_pose[:, :2]]),
            np.concatenate([yaw, pyaw, self.thing_pose[:, 2]]),
            half,
            np.concatenate([st.v, st.pv, np.zeros(len(self.things))]),
            np.concatenate([st.active, (st.crossing | st.asking) & self.here_people, self.here_things]),
        )

    def corridor(
        self, rows: IntArray, aim: FloatArray, box: tuple, xy: FloatArray, yaw: FloatArray, keep: bool = False
    ) -> tuple[FloatArray, FloatArray, IntArray]:
        """For vehicles ``rows`` that move to offset ``aim``: gap to the first box in their way, its speed along it,
        index."""
        st = self.state
        bxy, byaw, half, speed, there = box
        look = np.clip(14.0 + 3.0 * st.v[rows], 20.0, LOOK_M)
        reach = look[:, None] * np.linspace(0.0, 1.0, SAMPLES)
        k = ((st.s + self.center)[rows, None] + reach) / STEP_M
        pts = self.table[rows[:, None], np.clip(k.astype(int), 0, self.table.shape[1] - 1), :5]
        d = st.d[rows] + np.clip(self.center[rows] * np.sin(st.e[rows]), -1.5, 1.5)
        share = np.clip(reach / np.maximum(5.0, np.abs(aim - d) * (2.4 + 0.4 * st.v[rows]))[:, None], 0.0, 1.0)
        offset = d[:, None] + (aim - d)[:, None] * share * share * (3 - 2 * share)
        px, py = pts[..., 0] - offset * np.sin(pts[..., 2]), pts[..., 1] + offset * np.cos(pts[..., 2])
        if keep:
            self.ahead_xy, self.ahead_m = np.stack([px, py], -1), reach
        dx, dy = bxy[None, :, 0] - xy[rows, None, 0], bxy[None, :, 1] - xy[rows, None, 1]
        c, s = np.cos(yaw[rows])[:, None], np.sin(yaw[rows])[:, None]
        forward = dx * c + dy * s
        radius = np.hypot(half[:, 0], half[:, 1])
        same = np.cos(byaw[None] - yaw[rows, None]) > 0.5
        near = (
            there[None]
            & (forward > np.where(same, 0.0, -3.0))
            & (dx * dx + dy * dy < (look[:, None] + radius[None]) ** 2)
        )
        near[np.arange(len(rows)), rows] = False
        i, j = np.nonzero(near)
        own = self.lwh[rows, 1] / 2 + 0.25
        spacing = look / (SAMPLES - 1)
        qx, qy = px[i] - bxy[j, 0, None], py[i] - bxy[j, 1, None]
        close = (qx * qx + qy * qy).min(1) < (radius[j] + own[i] + spacing[i]) ** 2
        i, j, qx, qy = i[close], j[close], qx[close], qy[close]
        gap, lead_v, lead = np.full(len(rows), np.inf), np.zeros(len(rows)), np.full(len(rows), -1)
        if not len(i):
            return gap, lead_v, lead
        cj, sj = np.cos(byaw[j])[:, None], np.sin(byaw[j])[:, None]
        lx, ly = cj * qx + sj * qy, cj * qy - sj * qx
        turn = pts[i][..., 2] - byaw[j][:, None]
        sine, cosine = np.abs(np.sin(turn)), np.cos(turn)
        swept = own[i, None] + np.abs(pts[i][..., CURVATURE]) * (self.lwh[rows[i], :1] / 2) ** 2 / 2
        hit = (np.abs(lx) < half[j, 0, None] + swept * sine + spacing[i, None] / 2) & (
            np.abs(ly) < half[j, 1, None] + swept * np.abs(cosine) + spacing[i, None] / 2 * sine
        )
        first, at = hit.argmax(1), np.arange(len(i))
        cos_first = cosine[at, first]
        inside = np.where(np.abs(cos_first) > 0.7, lx[at, first] * np.sign(cos_first) + half[j, 0], 0.0)
        pair = np.where(hit[at, first], reach[i, first] - np.clip(inside, -1.5, 6.0) - self.lwh[rows[i], 0] / 2, np.inf)
        people = (j >= len(self.bodies)) & (j < len(self.bodies) + len(self.people))
        asks = people & ~np.concatenate([st.crossing, [False]])[np.clip(j - len(self.bodies), 0, len(self.people))]
        v = st.v[rows[i]]
        pair = np.where(asks & (pair < v * v / (2 * 1.6) + 3.0), np.inf, pair)
        order = np.lexsort((pair, i))
        best = order[np.unique(i[order], return_index=True)[1]]
        best = best[np.isfinite(pair[best])]
        gap[i[best]], lead[i[best]] = pair[best], j[best]
        lead_v[i[best]] = np.maximum(speed[j[best]] * cos_first[best], 0.0) * ~people[best]
        return gap, lead_v, lead

    def look_around(self) -> None:
        st = self.state
        xy, yaw = self.poses()
        box = self.boxes(xy, yaw)
        rows = np.arange(len(self.bodies))
        st.gap[:], st.lead_v[:], st.lead[:] = self.corridor(rows, st.aim, box, xy, yaw, keep=True)
        self.priority.assign()
        lateral.decide(self, box, xy, yaw)
        self._stay_in_sight()
        crowd.decide(self)
        lateral.foresee(self, box, xy, yaw)

    # --- motion ---

    def accelerate(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Commands (N,), the candidates (4, N): free, lead, line, foreseen; the wished speed (N,)."""
        st = self.state
        here = self.rows(st.s + 0.3 * st.v)
        wish = np.minimum(np.maximum(here[:, LIMIT_COLUMN] * self.factor, 1.0), st.cap)
        free = np.where(st.v > wish, -1.8 * (st.v - wish), ACCEL_MPS2 * (1 - (st.v / wish) ** 4))
        free = np.maximum(free, -2.5)
        root = 2 * np.sqrt(ACCEL_MPS2 * self.brake)
        wanted = STANDSTILL_M + np.maximum(0.0, self.headway * st.v + st.v * (st.v - st.lead_v) / root)
        stop = STANDSTILL_M + np.maximum(0.0, 0.5 * st.v + st.v**2 / root)
        lead = free - ACCEL_MPS2 * (wanted / np.maximum(st.gap, 0.3)) ** 2
        line = free - ACCEL_MPS2 * (stop / np.maximum(st.line, 0.3)) ** 2
        ahead = np.full(len(st.v), np.inf)
        if np.isfinite(st.threat[0]):
            ahead[0] = -min(8.0, st.v[0] ** 2 / (2 * max(st.threat[0] - 1.0, 0.5))) if st.threat[0] < 90 else np.inf
        both = np.stack([free, lead, line, ahead])
        return np.minimum(np.maximum(both.min(0), -7.0), ACCEL_MPS2), both, wish

    def _scripts(self) -> tuple[FloatArray, FloatArray]:
        """Accelerations and offsets of the scripted, NaN for all others."""
        st, n = self.state, len(self.bodies)
        accel, aim = np.full(n, np.nan), np.full(n, np.nan)
        for i in np.nonzero(self.scripted)[0]:
            script = self.bodies[i].script
            assert script is not None
            if st.began[i] < 0 and (script.ego_at_m is None or st.s[0] >= script.ego_at_m):
                st.began[i] = 0.0
            t = st.began[i]
            if t < 0:
                accel[i] = np.clip((script.before_mps - st.v[i]) / 0.3, -6.0, 3.0)
                continue
            accel[i] = np.clip((np.interp(t, script.times_s, script.speed_mps) - st.v[i]) / 0.2, -8.0, 3.0)
            if script.offset_m:
                aim[i] = np.interp(t, script.times_s, script.offset_m)
                st.aim[i] = np.interp(t + 1.5, script.times_s, script.offset_m)  # what others can see coming
            st.began[i] += DT_S
        return accel, aim

    def _steer(self, moved: FloatArray, aim: FloatArray) -> None:
        """Moves by ``moved`` along the own heading; turns towards the wished offset (damped over arc length, not over
        time: who stands does not slide)."""
        st = self.state
        reach = np.maximum(1.7, 0.35 * st.v)
        most = np.minimum(np.maximum(1.5 / np.maximum(st.v, 0.5), 0.08), 0.5)
        wish = np.minimum(np.maximum(0.35 / reach * (aim - st.d), -most), most)
        bound = np.minimum(0.15, 1.8 / np.maximum(st.v, 1.0) ** 2)
        turn = np.minimum(np.maximum((wish - st.e) / reach, -bound), bound) * moved
        middle = st.e + turn / 2
        curvature = self.rows(st.s)[:, CURVATURE]
        st.s += moved * np.cos(middle) / np.minimum(np.maximum(1 - curvature * st.d, 0.5), 2.0)
        st.d += moved * np.sin(middle)
        st.e += turn

    def step(self) -> None:
        st = self.state
        if self.perturb is not None and st.step == self.perturb[0]:
            perturbed.disturb(self)
        self._enter()
        if st.step % LOOK_EVERY == 0:
            self.look_around()
        scripted, offsets = self._scripts()
        command, both, wish = self.accelerate()
        rate = JERK_MPS3 * DT_S
        gentle = np.minimum(np.maximum(command, st.a - rate), st.a + rate)
        eased = np.where(command < -3.5, np.maximum(command, st.a - 4 * rate), gentle)
        st.a[:] = np.where(np.isnan(scripted), np.maximum(eased, -st.v / DT_S), scripted)
        self._write(both, wish)
        sway = self.sway * np.sin(st.s / 9.0 + self.sway_phase)
        aim = np.where(np.isnan(offsets), st.aim + sway, offsets)
        moved = np.where(st.active, np.maximum(st.v * DT_S + st.a * DT_S**2 / 2, 0.0), 0.0)
        st.gap -= (st.v - st.lead_v) * DT_S
        st.line -= moved
        st.threat -= moved[0]
        self._steer(moved, aim)
        st.v[:] = np.where(st.active, np.maximum(st.v + st.a * DT_S, 0.0), st.v)
        st.plan_s += DT_S
        st.stuck[:] = np.where(st.v < 0.5, st.stuck + DT_S, 0.0)
        crowd.walk(self)
        ended = st.active & (st.s + self.front > self.length - 1.0)
        ended[0] = False
        st.done |= ended
        st.active &= ~ended
        st.step += 1
        if self.forced is not None and st.step < self.steps:
            lateral.follow_forced(self)

    def _stay_in_sight(self) -> None:
        """Who comes to the end of its way with the ego near waits there until the ego has gone on."""
        st = self.state
        left = self.length - 1.0 - st.s - self.front
        for i in np.nonzero(st.active & (left < END_M))[0]:
            end = st.ways[i].line[-1] - self.state.ways[0].at(float(st.s[0]))[:2]
            if i and np.hypot(*end) < IN_SIGHT_M + 2.5 * st.v[0] and left[i] < st.line[i] and not self.scripted[i]:
                st.line[i], st.line_why[i], st.line_of[i] = left[i], GIVE_WAY, -1

    def _enter(self) -> None:
        """Lets in those whose time has come where their way begins, if there is room, out of the ego's sight."""
        st = self.state
        late = np.nonzero(~st.active & ~st.done)[0]
        if not len(late):
            return
        xy, _ = self.poses()
        for i in late:
            if st.step * DT_S >= self.bodies[i].enter_s:
                room = np.hypot(*(xy - xy[i]).T) < 18.0 + self.lwh[:, 0] / 2
                far = bool(np.hypot(*(xy[i] - xy[0])) > IN_SIGHT_M)
                st.active[i] = far and not (st.active & room).any()

    def _write(self, both: FloatArray, wish: FloatArray) -> None:
        st, r, k = self.state, self.record, self.state.step
        xy, yaw = self.poses()
        r.xy[k], r.yaw[k], r.speed[k], r.accel[k], r.active[k] = xy, yaw, st.v, st.a, st.active
        r.person_xy[k], r.person_yaw[k] = crowd.poses(self)
        r.person_speed[k] = st.pv
        r.plan[k], r.plan_of[k], r.s[k] = st.plan, st.plan_of, st.s
        r.signal[k], r.turn[k] = lateral.indicators(self)
        r.why[k] = self._why(both[:, 0], float(wish[0]))
        r.turning[k], r.light[k] = self._junction_ahead()
        r.values[k] = (st.v[0], st.a[0], wish[0], st.gap[0], st.lead_v[0], st.line[0], st.d[0], st.aim[0])

    def _why(self, candidates: FloatArray, wish: float) -> tuple[int, int, int]:
        """What binds the ego in this step, the box that it is about, and the line's reason."""
        st = self.state
        kind = int(np.argmin(candidates))
        if kind == 0 or candidates[0] - candidates[kind] < 0.25:
            if st.cap[0] <= wish + 0.05:
                return (SIREN if st.plan[0] == PULL_OVER else LEAD), int(st.cap_of[0]), 0
            bend = wish < 0.88 * self.factor[0] * self.posted(0)
            return (BEND if bend else LIMIT if st.v[0] > 0.93 * wish else FREE), -1, 0
        if kind == 1:
            return LEAD, int(st.lead[0]), 0
        if kind == 2:
            return int(st.line_why[0]), int(st.line_of[0]), 1
        return AHEAD, int(st.threat_of[0]), 0

    def _junction_ahead(self) -> tuple[int, tuple[int, int, int]]:
        """The ego's turn within two seconds or now, and (junction, arm, axis) of the next line."""
        st, connectors = self.state, self.roads.network.connectors
        turn, light = 0, (-1, -1, -1)
        for event in st.ways[0].events:
            c = connectors[event.connector]
            if event.stop_m < st.s[0] + self.front[0] + max(2.0 * st.v[0], 3.0) and st.s[0] < event.exit_m:
                turn = turn or c.turn
            if event.stop_m > st.s[0] + self.front[0] - 1.5:
                light = (c.junction, c.arm, c.axis)
                break
        return turn, light

    def posted(self, i: int) -> float:
        """The speed limit where vehicle i is."""
        way = self.state.ways[i]
        return self.roads.pieces[way.span(float(self.state.s[i]))[2]].limit_mps

    def run(self, until: int | None = None) -> Record:
        while self.state.step < (self.steps if until is None else until):
            self.step()
        return self.record

    def fork(self, past: bool = True) -> Simulation:
        """A copy that goes on by itself and shares what never changes; with past=False it writes to the same record."""
        twin = object.__new__(Simulation)
        twin.__dict__.update(self.__dict__)
        twin.state = self.state.copy()
        twin.record = self.record.copy() if past else self.record
        twin.table, twin.length = self.table.copy(), self.length.copy()
        twin.dark_junctions, twin.gone_at = set(self.dark_junctions), list(self.gone_at)
        twin.phases = dict(self.phases)
        twin.priority = Priority.__new__(Priority)
        twin.priority.__dict__.update(self.priority.__dict__)
        twin.priority.sim, twin.priority._gives = twin, {}
        return twin

    def box_id(self, index: int) -> str:
        n, p = len(self.bodies), len(self.people)
        return (
            self.bodies[index].id
            if index < n
            else self.people[index - n].id
            if index < n + p
            else self.things[index - n - p].id
        )

    def remove(self, names: set[str]) -> None:
        """Takes agents out from now on."""
        st = self.state
        self.gone_at += [(st.step, name) for name in sorted(names)]
        for i, b in enumerate(self.bodies):
            if b.id in names:
                st.active[i], st.done[i] = False, True
        self.here_things = self.here_things & np.array([t.id not in names for t in self.things], bool)
        self.here_people = self.here_people & np.array([p.id not in names for p in self.people], bool)
