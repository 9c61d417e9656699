"""The drive itself at 10 Hz: signals, vehicles by IDM along their paths, right of way at junctions, pedestrians.

Vehicle 0 is the ego and is driven by the same rules. Every vehicle looks along its own path for the first box that lies
in it (so merging, queues and people need no case of their own), and enters a junction only with a grant: its light is
green, nobody with right of way is about to arrive, and no vehicle inside is on a connector that meets its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drive_wm.datasets.town.paths import STEP_M, Event, Path
from drive_wm.datasets.town.rules import DT_S, GREEN, RED, Phases, conflicts
from drive_wm.datasets.town.streets import Junction, Network, lane_id
from drive_wm.types import BoolArray, FloatArray, IntArray

LOOK_M, LOOK_STEP_M = 48.0, 1.5
HEADWAY_S, STANDSTILL_M, ACCEL_MPS2, BRAKE_MPS2 = 1.2, 2.0, 1.7, 2.2  # IDM, Treiber et al. 2000
JERK_MPS3 = 5.0
PATIENCE_S = 4.0
FREE, BEND, LEAD, LINE = 0, 1, 2, 3


@dataclass
class Body:
    """What moves: a vehicle or a pedestrian. The path is that of the rear axle, or of the person."""

    id: str
    category: str
    size_lwh_m: tuple[float, float, float]
    path: Path
    start_m: float
    speed_mps: float
    factor: float = 1.0
    enter_s: float = -99.0
    color: tuple[int, int, int] = (128, 128, 128)
    gate: tuple[int, int, float, float] | None = None  # junction, arm, arc length of the kerb, arc length across

    @property
    def center_m(self) -> float:
        return 0.0 if self.category == "pedestrian" else 0.3 * self.size_lwh_m[0]


@dataclass
class Record:
    """(T, N) histories of the vehicles and (T, P) of the people; ego_why: (T, 2) what bound the ego, and whom."""

    xy: FloatArray
    yaw: FloatArray
    speed: FloatArray
    accel: FloatArray
    active: BoolArray
    person_xy: FloatArray
    person_yaw: FloatArray
    person_speed: FloatArray
    ego_why: IntArray
    arc: FloatArray


def _table(bodies: list[Body]) -> FloatArray:
    """Paths as one array (N, K, 4) of x, y, yaw, speed limit; each row stays at its end."""
    table = np.zeros((len(bodies), max((len(b.path.line) for b in bodies), default=1) + 1, 4))
    for i, b in enumerate(bodies):
        rows = np.column_stack([b.path.line, b.path.yaw_rad, b.path.limit_mps * b.factor])
        table[i, : len(rows)] = rows
        table[i, len(rows) :] = rows[-1]
    return table


class Traffic:
    """One run; ``run`` returns the Record. bodies[0] is the ego."""

    def __init__(
        self, network: Network, bodies: list[Body], people: list[Body], phases: dict[int, Phases], steps: int
    ) -> None:
        self.network, self.bodies, self.people, self.phases, self.steps = network, bodies, people, phases, steps
        self.meets = conflicts(network)
        self.table, self.ways = _table(bodies), _table(people)
        self.length = np.array([b.path.length_m for b in bodies])
        self.lwh = np.array([b.size_lwh_m for b in bodies])
        self.center = np.array([b.center_m for b in bodies])
        self.front = self.center + self.lwh[:, 0] / 2
        self.s = np.array([b.start_m for b in bodies])
        self.v = np.array([b.speed_mps for b in bodies])
        self.a = np.zeros(len(bodies))
        self.active = np.array([b.enter_s < -9 for b in bodies])
        self.done = np.zeros(len(bodies), bool)
        self.event = [sum(e.stop_m < b.start_m + f for e in b.path.events) for b, f in zip(bodies, self.front)]
        self.granted: dict[int, Event] = {}
        self.wait_for: dict[int, int] = {}  # vehicle -> the person on a crossing for whom it is not let in
        self.afoot: list[tuple[int, set[tuple[int, str]]]] = []
        self.gate_lanes = [self._gate_lanes(p) for p in people]
        self.halted: set[int] = set()
        self.waited = np.zeros(
            len(bodies)
        )  # seconds at the line; others let in who has waited long, which ends deadlocks
        self.ps = np.array([p.start_m for p in people])
        self.pv = np.zeros(len(people))
        self.crossing = np.zeros(len(people), bool)

    def along(self, s: FloatArray, rows: IntArray | slice = slice(None)) -> FloatArray:
        """Path samples (..., 4) x, y, yaw, limit at arc length; rows picks the vehicles."""
        at = np.clip(s / STEP_M, 0, self.table.shape[1] - 2)
        k = at.astype(int)
        w = (at - k)[..., None]
        index = np.arange(len(self.table)) if isinstance(rows, slice) else rows
        index = index.reshape(index.shape + (1,) * (k.ndim - index.ndim))
        return self.table[index, k] * (1 - w) + self.table[index, k + 1] * w

    def centers(self) -> tuple[FloatArray, FloatArray]:
        here = self.along(self.s)
        heading = np.stack([np.cos(here[:, 2]), np.sin(here[:, 2])], -1)
        return here[:, :2] + self.center[:, None] * heading, here[:, 2]

    def person_pose(self) -> tuple[FloatArray, FloatArray]:
        at = self.ps / STEP_M
        k, rows = np.minimum(at.astype(int), self.ways.shape[1] - 2), np.arange(len(at))
        here, after = self.ways[rows, k], self.ways[rows, k + 1]
        return here[:, :2] + (after[:, :2] - here[:, :2]) * (at - k)[:, None], here[:, 2]

    # --- looking ahead ---

    def leaders(
        self, xy: FloatArray, yaw: FloatArray, pxy: FloatArray, pyaw: FloatArray
    ) -> tuple[FloatArray, FloatArray, IntArray]:
        """For each vehicle: gap to the first box in its path, that box's speed along it, its index (people last)."""
        n = len(self.bodies)
        ahead_p = np.where(self.crossing & (self.pv > 0.1), 4.5, 0.3)
        half_l = np.concatenate([self.lwh[:, 0] / 2, (ahead_p + 0.3) / 2])
        half_w = np.concatenate([self.lwh[:, 1] / 2, np.full(len(pxy), 0.35)])
        shift = ((ahead_p - 0.3) / 2)[:, None] * np.stack([np.cos(pyaw), np.sin(pyaw)], -1)
        all_xy, all_yaw = np.concatenate([xy, pxy + shift]), np.concatenate([yaw, pyaw])
        speed = np.concatenate([self.v, self.pv])
        there = np.concatenate([self.active, self.crossing])
        delta = all_xy[None] - xy[:, None]
        forward = delta[..., 0] * np.cos(yaw)[:, None] + delta[..., 1] * np.sin(yaw)[:, None]
        radius = np.minimum(16.0 + 3.5 * self.v, LOOK_M)[:, None]
        near = (np.abs(delta) < radius[..., None]).all(-1) & self.active[:, None] & there[None] & (forward > -12.0)
        near[np.arange(n), np.arange(n)] = False
        i, j = np.nonzero(near)
        gap, lead_v, lead = np.full(n, np.inf), np.zeros(n), np.full(n, -1)
        if len(i) == 0:
            return gap, lead_v, lead
        reach = np.arange(0.0, LOOK_M, LOOK_STEP_M)
        start = self.s + self.center
        points = self.along(start[:, None] + reach[None], np.arange(n))  # (N, R, 4)
        p = points[i]
        c, s = np.cos(all_yaw[j])[:, None], np.sin(all_yaw[j])[:, None]
        dx, dy = p[..., 0] - all_xy[j, 0, None], p[..., 1] - all_xy[j, 1, None]
        lx, ly = c * dx + s * dy, c * dy - s * dx
        turn = p[..., 2] - all_yaw[j][:, None]
        own = self.lwh[i, 1][:, None] / 2 + 0.25
        hit = (np.abs(lx) < half_l[j][:, None] + own * np.abs(np.sin(turn)) + 0.8) & (
            np.abs(ly) < half_w[j][:, None] + own * np.abs(np.cos(turn))
        )
        first = hit.argmax(1)
        rows = np.arange(len(i))
        found = hit[rows, first]
        cosine = np.cos(turn[rows, first])
        inside = np.where(np.abs(cosine) > 0.7, lx[rows, first] * np.sign(cosine) + half_l[j], 0.0)
        pair_gap = np.where(found, reach[first] - np.clip(inside, -0.8, 6.0) - self.lwh[i, 0] / 2, np.inf)
        order = np.lexsort((pair_gap, i))
        best = order[np.unique(i[order], return_index=True)[1]]
        best = best[np.isfinite(pair_gap[best])]
        gap[i[best]], lead[i[best]] = pair_gap[best], j[best]
        lead_v[i[best]] = np.maximum(speed[j[best]] * cosine[best], 0.0)
        return gap, lead_v, lead

    # --- right of way ---

    def light(self, event: Event, step: int) -> int:
        c = self.network.connectors[event.connector]
        phases = self.phases.get(c.junction)
        return GREEN if phases is None else int(phases.states[step, c.axis])

    def rank(self, event: Event) -> int:
        c = self.network.connectors[event.connector]
        junction = self.network.junctions[c.junction]
        minor = junction.control != "signal" and c.axis != junction.major_axis
        return 2 * minor + (c.turn == 1)

    def must_wait(
        self, i: int, event: Event, to_line_m: float, step: int, near: list[tuple[float, int, Event]]
    ) -> bool:
        mine, meets = self.rank(event), self.meets[event.connector]
        for k, e in self.granted.items():
            if (
                k != i
                and e.connector in meets
                and self.s[k] + self.center[k] - self.lwh[k, 0] / 2
                < e.stop_m + self.meets[e.connector][event.connector] + 1.5
            ):
                return True
        c = self.network.connectors[event.connector]
        for person, busy in self.afoot:
            if (c.junction, c.start) in busy or (c.junction, c.end) in busy:
                self.wait_for[i] = person
                return True
        inside_m = event.exit_m - event.stop_m + self.lwh[i, 0]
        way_m, v = max(to_line_m, 0.0) + 0.6 * inside_m, float(self.v[i])
        clear_s = (np.sqrt(v * v + 2 * 1.4 * way_m) - v) / 1.4  # until past the middle, pulling away gently
        for distance, k, other in near:
            if k != i and other.connector in meets and self.rank(other) < mine and self.light(other, step) != RED:
                if distance / max(self.v[k], 3.5) < (clear_s - 0.5 if self.waited[i] < PATIENCE_S else 0.0):
                    return True
        return False

    def _gate_lanes(self, person: Body) -> tuple[set[tuple[int, str]], set[tuple[int, str]]]:
        """The lanes (with their junction) that a crossing cuts: those on the person's first side, and the others."""
        if person.gate is None:
            return set(), set()
        j, a, begin, _ = person.gate
        junction, arm = self.network.junctions[j], self.network.junctions[j].arms[a]
        kerb = person.path.line[int(begin / STEP_M)] - junction.center
        left = np.cos(arm.heading) * kerb[1] - np.sin(arm.heading) * kerb[0] > 0  # traffic on that side drives in
        sides: dict[bool, set[tuple[int, str]]] = {}
        for drives_in in (True, False):
            forward = arm.outgoing != drives_in
            sides[drives_in] = {
                (j, lane_id(arm.street, forward, k)) for k in range(self.network.streets[arm.street].lanes)
            }
        return sides[bool(left)], sides[not left]

    def _people_on_crossings(self) -> list[tuple[int, set[tuple[int, str]]]]:
        """Who is crossing, and the lanes that they are on or will be on within some three seconds."""
        out = []
        for i in np.nonzero(self.crossing)[0]:
            _, _, begin, end = self.people[i].gate or (0, 0, 0.0, 0.0)
            to_middle = (begin + end) / 2 - self.ps[i]
            first, second = self.gate_lanes[i]
            out.append((int(i), (first if to_middle > -0.8 else set()) | (second if to_middle < 6.5 else set())))
        return out

    def lines(self, step: int) -> FloatArray:
        """Gap to the line at which each vehicle must stop, or infinity; hands out grants on the way, nearest first."""
        self.afoot, self.wait_for = self._people_on_crossings(), {}
        near: list[tuple[float, int, Event]] = []
        for i, b in enumerate(self.bodies):
            if not self.active[i]:
                continue
            held = self.granted.get(i)
            if held is not None and self.s[i] + self.center[i] - self.lwh[i, 0] / 2 > held.exit_m - 4.0:
                del self.granted[i]
                self.halted.discard(i)
            while (
                self.event[i] < len(b.path.events)
                and self.s[i] + self.front[i] > b.path.events[self.event[i]].stop_m + 1.0
            ):
                self.event[i] += 1
            if self.event[i] < len(b.path.events):
                event = b.path.events[self.event[i]]
                distance = event.stop_m - self.s[i] - self.front[i]
                if distance < 60.0:
                    near.append((distance, i, event))
        out = np.full(len(self.bodies), np.inf)
        held_lanes: set[str] = set()  # who queues behind one that was not let in must not hold a grant
        for distance, i, event in sorted(near, key=lambda item: item[0]):
            standing = self.v[i] < 0.4 and distance < 4.0 and self.light(event, step) == GREEN
            self.waited[i] = self.waited[i] + DT_S if standing else 0.0
            lane = self.network.connectors[event.connector].start
            if (lane in held_lanes and i not in self.granted) or not self._grant(i, event, distance, step, near):
                out[i] = distance + 1.0
                held_lanes.add(lane)
        return out

    def _grant(self, i: int, event: Event, distance: float, step: int, near: list[tuple[float, int, Event]]) -> bool:
        v, light = float(self.v[i]), self.light(event, step)
        junction = self.network.junctions[self.network.connectors[event.connector].junction]
        can_stop = distance > v * v / (2 * 2.2) + 3.0
        if self.granted.get(i) is event:
            if light != GREEN and can_stop:
                del self.granted[i]
                return False
            return True
        if light != GREEN and (can_stop or light == RED):
            return False
        if distance > v * v / (2 * 1.7) + 9.0:
            return True  # too far to ask; no light is against it
        stop = junction.control == "stop sign" and self.rank(event) >= 2
        if stop and i not in self.halted:
            if v < 0.4 and distance < 3.0:
                self.halted.add(i)
            return False
        if i in self.granted or self.must_wait(i, event, distance, step, near):
            return False
        self.granted[i] = event
        return True

    # --- people ---

    def _may_cross(self, person: Body, step: int) -> bool:
        assert person.gate is not None
        j, a, begin, end = person.gate
        junction = self.network.junctions[j]
        need_s = (end - begin) / person.speed_mps + 0.5
        arm = junction.arms[a]
        if j in self.phases:
            window = self.phases[j].states[step : step + int(0.5 * need_s / DT_S), arm.axis]
            if (window != RED).any():
                return False
        return not any(
            self._uses(event, junction, a) and (i in self.granted or self._soon(i, event, step))
            for i, event in self._next_events()
        )

    def _next_events(self) -> list[tuple[int, Event]]:
        ahead = [
            (i, b.path.events[self.event[i]])
            for i, b in enumerate(self.bodies)
            if self.active[i] and self.event[i] < len(b.path.events)
        ]
        return ahead + list(self.granted.items())

    def _uses(self, event: Event, junction: Junction, arm: int) -> bool:
        c = self.network.connectors[event.connector]
        street = junction.arms[arm].street
        return c.junction == junction.index and street in (int(c.start[1:-2]), int(c.end[1:-2]))

    def _soon(self, i: int, event: Event, step: int) -> bool:
        """Whether a vehicle is too near its line to stop for a person with ease."""
        distance = event.stop_m - self.s[i] - self.front[i]
        return self.light(event, step) != RED and self.v[i] > 0.6 and distance < self.v[i] ** 2 / (2 * 1.5) + 12.0

    def walk(self, step: int, pxy: FloatArray, pyaw: FloatArray, xy: FloatArray) -> None:
        for i, p in enumerate(self.people):
            speed, furthest = p.speed_mps, p.path.length_m
            if p.gate is not None:
                begin, end = p.gate[2], p.gate[3]
                at_kerb = begin - 0.8 <= self.ps[i] < begin
                if at_kerb and not self._may_cross(p, step):
                    speed, furthest = 0.0, begin - 0.05
                self.crossing[i] = begin <= self.ps[i] <= end
                if self.crossing[i]:
                    ahead = pxy[i] + 2.2 * np.array([np.cos(pyaw[i]), np.sin(pyaw[i])])
                    blocked = (
                        (np.linalg.norm(xy - ahead, axis=1) < 1.2 + self.lwh[:, 0] / 2) & self.active & (self.v > 0.3)
                    )
                    speed = 0.0 if (blocked & (np.linalg.norm(xy - pxy[i], axis=1) > 1.0)).any() else speed
            self.pv[i] += np.clip(speed - self.pv[i], -0.25, 0.12)
            self.ps[i] = min(self.ps[i] + self.pv[i] * DT_S, furthest)
            self.pv[i] = 0.0 if self.ps[i] >= furthest else self.pv[i]

    # --- the run ---

    def _enter(self, time_s: float, xy: FloatArray) -> None:
        for i in np.nonzero(~self.active & ~self.done)[0]:
            here = self.bodies[i].path.line[0]
            clear = not (self.active & (np.linalg.norm(xy - here, axis=1) < 18.0 + self.lwh[:, 0] / 2)).any()
            if time_s >= self.bodies[i].enter_s and clear:
                self.active[i] = True

    def accelerate(self, gap: FloatArray, lead_v: FloatArray, line: FloatArray) -> tuple[FloatArray, FloatArray]:
        """IDM towards the nearer of leader and line; also the three candidates (3, N): free, lead, line."""
        wish = np.maximum(self.along(self.s + 0.3 * self.v)[:, 3], 1.0)
        free = np.where(self.v > wish, -1.8 * (self.v - wish), ACCEL_MPS2 * (1 - (self.v / wish) ** 4))
        free = np.maximum(free, -2.5)
        wanted = STANDSTILL_M + np.maximum(
            0.0, HEADWAY_S * self.v + self.v * (self.v - lead_v) / (2 * np.sqrt(ACCEL_MPS2 * BRAKE_MPS2))
        )
        stop = STANDSTILL_M + np.maximum(0.0, 0.5 * self.v + self.v**2 / (2 * np.sqrt(ACCEL_MPS2 * BRAKE_MPS2)))
        lead = free - ACCEL_MPS2 * (wanted / np.maximum(gap, 0.3)) ** 2
        at_line = free - ACCEL_MPS2 * (stop / np.maximum(line, 0.3)) ** 2
        both = np.stack([free, lead, at_line])
        return np.clip(both.min(0), -7.0, ACCEL_MPS2), both

    def _awaited(self, i: int) -> int:
        """Index of the person that keeps a vehicle at its line, counted after the vehicles, or -1."""
        return len(self.bodies) + self.wait_for[i] if i in self.wait_for else -1

    def _ego_why(self, candidates: FloatArray, lead: int) -> tuple[int, int]:
        """What bound the ego in this step, and the index of whom, or -1."""
        kind = int(np.argmin(candidates))
        if kind == 0 or candidates[0] - candidates[kind] < 0.25:
            bend = self.along(self.s + 1.0)[0, 3] < 0.9 * self.bodies[0].factor * self.bodies[0].path.limit_mps.max()
            return (BEND if bend else FREE), -1
        return (LEAD, lead) if kind == 1 else (LINE, self._awaited(0))

    def run(self) -> Record:
        """Simulates all steps."""
        n, p, t = len(self.bodies), len(self.people), self.steps
        r = Record(
            np.zeros((t, n, 2)),
            np.zeros((t, n)),
            np.zeros((t, n)),
            np.zeros((t, n)),
            np.zeros((t, n), bool),
            np.zeros((t, p, 2)),
            np.zeros((t, p)),
            np.zeros((t, p)),
            np.zeros((t, 2), int),
            np.zeros((t, n)),
        )
        for step in range(t):
            xy, yaw = self.centers()
            self._enter(step * DT_S, xy)
            pxy, pyaw = self.person_pose()
            gap, lead_v, lead = self.leaders(xy, yaw, pxy, pyaw)
            line = self.lines(step)
            command, both = self.accelerate(gap, lead_v, line)
            rate = JERK_MPS3 * DT_S
            self.a = np.where(
                command < -3.5, np.maximum(command, self.a - 4 * rate), self.a + np.clip(command - self.a, -rate, rate)
            )
            self.a = np.maximum(self.a, -self.v / DT_S)
            r.ego_why[step] = self._ego_why(both[:, 0], int(lead[0]))
            r.xy[step], r.yaw[step], r.speed[step], r.accel[step], r.active[step] = xy, yaw, self.v, self.a, self.active
            r.person_xy[step], r.person_yaw[step], r.person_speed[step], r.arc[step] = pxy, pyaw, self.pv, self.s
            self.walk(step, pxy, pyaw, xy)
            moved = np.where(self.active, np.maximum(self.v * DT_S + self.a * DT_S**2 / 2, 0), 0.0)
            self.s += moved
            self.v = np.where(self.active, np.maximum(self.v + self.a * DT_S, 0.0), self.v)
            ended = self.active & (self.s + self.front > self.length)
            ended[0] = False
            self.done |= ended
            self.active &= ~ended
        return r
