"""Who may enter a junction. A vehicle goes in with a grant: its light lets it, nobody inside or about to arrive has
right of way over it, and nobody stands in what it would cross."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from drive_wm.datasets.town.agents import GIVE_WAY, LIGHT, STOP_SIGN
from drive_wm.datasets.town.rules import DT_S, GREEN, RED, binds_from_afar, conflicts, gives_way, lit, stops_first
from drive_wm.datasets.town.ways import Event

if TYPE_CHECKING:
    from drive_wm.datasets.town.simulation import Simulation

PATIENCE_S = 4.0
ASK_M = 60.0


class Priority:
    """Right of way of a network: who meets whom, who gives way to whom."""

    def __init__(self, sim: Simulation) -> None:
        self.sim, self.network = sim, sim.roads.network
        self.meets = conflicts(self.network)
        self._gives: dict[tuple[str, str], bool] = {}

    def gives(self, mine: str, other: str) -> bool:
        key = (mine, other)
        if key not in self._gives:
            c, o = self.network.connectors[mine], self.network.connectors[other]
            if self.sim.dark(c.junction):
                self._gives[key] = (
                    c.axis != o.axis and c.axis != self.network.junctions[c.junction].major_axis or c.turn > o.turn
                )
            else:
                self._gives[key] = bool(gives_way(self.network, c, o))
        return self._gives[key]

    def light(self, i: int, event: Event, step: int) -> int:
        c = self.network.connectors[event.connector]
        phases = self.sim.phases.get(c.junction)
        if phases is None or self.sim.siren[i] or not lit(self.network, c):
            return GREEN
        state = int(phases.states[step, c.axis])
        return GREEN if state == 4 else state

    def assign(self) -> None:
        """Fills line, line_why, line_of of the state; hands out grants on the way, nearest first."""
        sim, st = self.sim, self.sim.state
        st.line[:], st.line_why[:], st.line_of[:] = np.inf, 0, -1
        near: list[tuple[float, int, Event]] = []
        front = st.s + sim.front
        for i in np.nonzero(st.active)[0]:
            events = st.ways[i].events
            if st.grant[i] >= 0 and st.s[i] + sim.rear[i] > events[st.grant[i]].exit_m - 3.0:
                st.grant[i], st.halted[i] = -1, False
            while st.event[i] < len(events) and front[i] > events[st.event[i]].stop_m + 1.0:
                st.event[i] += 1
            if st.event[i] < len(events):
                distance = events[st.event[i]].stop_m - front[i]
                if distance < ASK_M:
                    near.append((float(distance), int(i), events[st.event[i]]))
        near.sort(key=lambda item: (not sim.siren[item[1]], item[0]))
        held_lanes: set[str] = set()  # who queues behind one that was not let in must not hold a grant
        for distance, i, event in near:
            if sim.scripted[i]:
                continue
            lane = self.network.connectors[event.connector].start
            light = self.light(i, event, st.step)
            standing = st.v[i] < 0.4 and distance < 4.0 and light == GREEN
            st.waited[i] = st.waited[i] + 2 * DT_S if standing else 0.0
            granted = st.grant[i] == st.event[i]
            why, whom = self._grant(i, event, distance, light, near)
            if why or (lane in held_lanes and not granted and distance < 25.0):
                st.line[i], st.line_why[i], st.line_of[i] = distance + 1.0, why or GIVE_WAY, whom
                if not why:
                    st.line[i] = np.inf
                held_lanes.add(lane)

    def _grant(
        self, i: int, event: Event, distance: float, light: int, near: list[tuple[float, int, Event]]
    ) -> tuple[int, int]:
        """(0, -1) where it may go on, otherwise why not and because of whom."""
        sim, st = self.sim, self.sim.state
        v = float(st.v[i])
        can_stop = distance > v * v / (2 * sim.stop_mps2[i]) + min(1.0, 0.5 * v)
        if st.grant[i] == st.event[i]:
            if light != GREEN and can_stop:
                st.grant[i] = -1
                return LIGHT, -1
            return 0, -1
        if light != GREEN and (can_stop or light == RED):
            return LIGHT, -1
        if distance > v * v / (2 * 1.7) + 9.0:
            return 0, -1  # too far to ask; no light is against it
        c = self.network.connectors[event.connector]
        stop = stops_first(self.network, c) and not sim.siren[i]
        if stop and not st.halted[i]:
            if v < 0.4 and distance < 3.0:
                st.halted[i] = True
            return STOP_SIGN, -1
        if st.grant[i] >= 0:
            return (0, -1) if distance > 6.0 else (GIVE_WAY, -1)
        whom = self._whom(i, event, distance, near)
        if whom >= 0:
            return (STOP_SIGN if stop else GIVE_WAY), whom
        st.grant[i] = st.event[i]
        return 0, -1

    def _whom(self, i: int, event: Event, to_line_m: float, near: list[tuple[float, int, Event]]) -> int:
        """The vehicle that keeps i from entering, or -1."""
        sim, st, meets = self.sim, self.sim.state, self.meets[event.connector]
        inside_m = event.exit_m - event.stop_m + sim.lwh[i, 0]
        way_m, v = max(to_line_m, 0.0) + 0.6 * inside_m, float(st.v[i])
        clear_s = (np.sqrt(v * v + 2 * 1.4 * way_m) - v) / 1.4  # until past the middle, pulling away gently
        for k in np.nonzero((st.grant >= 0) & st.active)[0]:
            if k != i:
                other = st.ways[k].events[st.grant[k]]
                far = (other.stop_m - st.s[k] - sim.front[k]) / max(float(st.v[k]), 3.5)
                if (
                    other.connector in meets
                    and far < clear_s + 0.3
                    and (st.s[k] + sim.rear[k] < other.stop_m + self.meets[other.connector][event.connector] + 1.5)
                ):
                    return int(k)
        c = self.network.connectors[event.connector]
        if not binds_from_afar(self.network, c):
            return -1
        for distance, k, other in near:
            if k == i or other.connector not in meets or st.grant[k] >= 0:
                continue
            first = sim.siren[k] and not sim.siren[i]
            if not first and (
                sim.siren[i] or not self.gives(event.connector, other.connector) or self.light(k, other, st.step) == RED
            ):
                continue
            patient = st.waited[i] < PATIENCE_S or first
            if distance / max(float(st.v[k]), 3.5) < (clear_s - 0.5 if patient else 0.0):
                return int(k)
        return -1
