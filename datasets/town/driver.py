"""The ego's reasons: what its driver decided every half second, and what bound it, read from the drive itself."""

from __future__ import annotations

import numpy as np

from drive_wm.datasets.town.rules import DT_S, GREEN
from drive_wm.datasets.town.streets import Network, signal_id
from drive_wm.datasets.town.traffic import BEND, FREE, LEAD, LINE, Body, Record, Traffic
from drive_wm.types import VULNERABLE, Cause, Explanation, FloatArray, IntArray

AHEAD_S = 2.0
STANDING_MPS = 0.3

ACT_WORDS = {
    "proceed": "Going on",
    "speed up": "Speeding up",
    "slow down": "Slowing down",
    "stop": "Stopping",
    "yield": "Giving way",
    "follow": "Following",
    "hold": "Waiting",
}
SIDE_WORDS = {
    "keep": "",
    "turn left": " and turning left",
    "turn right": " and turning right",
    "nudge left": " and moving a little left",
    "nudge right": " and moving a little right",
    "change lane left": " and changing to the left lane",
    "change lane right": " and changing to the right lane",
}


def say(longitudinal: str, lateral: str, causes: tuple[Cause, ...]) -> str:
    """One English sentence for a decision and its first cause."""
    cause = causes[0] if causes else Cause("none")
    why = {
        "lead vehicle": f"because of the {cause.category or 'vehicle'} ahead",
        "pedestrian": "because a pedestrian is on the road",
        "red light": f"because the light ahead is {cause.state or 'red'}",
        "stop sign": "because of the stop sign",
        "give way": "to give way at the junction",
        "bend": "because of the bend",
        "free road": "because the road ahead is free",
        "speed limit": "because of the speed limit",
        "obstacle": "because something is in the way",
        "route": "to follow the route",
    }.get(cause.kind, "")
    return f"{ACT_WORDS[longitudinal]}{SIDE_WORDS[lateral]} {why}".rstrip() + "."


def _in_rig(xy: FloatArray, record: Record, step: int, ego: Body) -> tuple[float, float]:
    yaw = record.yaw[step, 0]
    delta = xy - record.xy[step, 0]
    x = np.cos(yaw) * delta[0] + np.sin(yaw) * delta[1] + ego.center_m
    return round(float(x), 2), round(float(np.cos(yaw) * delta[1] - np.sin(yaw) * delta[0]), 2)


class Reasons:
    """Builds an Explanation for any step of a run."""

    def __init__(self, traffic: Traffic, record: Record, kept: set[str], signal_xy: dict[str, FloatArray]) -> None:
        self.traffic, self.record, self.kept, self.signal_xy = traffic, record, kept, signal_xy
        self.network: Network = traffic.network
        self.ego = traffic.bodies[0]
        self.speed, self.arc = record.speed[:, 0], record.arc[:, 0]

    def _lead_cause(self, step: int, index: int) -> Cause:
        bodies, people = self.traffic.bodies, self.traffic.people
        body = bodies[index] if index < len(bodies) else people[index - len(bodies)]
        if body.id not in self.kept:
            return Cause("none")
        xy = self.record.xy[step, index] if index < len(bodies) else self.record.person_xy[step, index - len(bodies)]
        kind = "pedestrian" if body.category == "pedestrian" else "lead vehicle"
        state = "standing" if index < len(bodies) and self.record.speed[step, index] < STANDING_MPS else "moving"
        return Cause(kind, body.id, body.category, _in_rig(xy, self.record, step, self.ego), state)

    def _line_cause(self, step: int) -> Cause:
        front = self.arc[step] + self.ego.center_m + self.ego.size_lwh_m[0] / 2
        event = next((e for e in self.ego.path.events if e.stop_m > front - 1.5), None)
        if event is None:
            return Cause("none")
        c = self.network.connectors[event.connector]
        junction = self.network.junctions[c.junction]
        if junction.control == "signal" and (light := self.traffic.light(event, step)) != GREEN:
            name = signal_id(c.junction, c.arm)
            position = _in_rig(self.signal_xy[name], self.record, step, self.ego)
            return Cause("red light", name, None, position, "yellow" if light == 2 else "red")
        ahead = round(float(event.stop_m - self.arc[step]), 2)
        minor = self.traffic.rank(event) >= 2
        return Cause("stop sign" if minor and junction.control == "stop sign" else "give way", None, None, (ahead, 0.0))

    def causes(self, step: int) -> tuple[Cause, ...]:
        kind, index = (int(v) for v in self.record.ego_why[step])
        if kind in (LEAD, LINE) and index >= 0:
            return (self._lead_cause(step, index),)
        if kind == LINE:
            return (self._line_cause(step),)
        if kind == BEND:
            return (Cause("bend"),)
        return (
            (Cause("speed limit" if self.speed[step] > 0.93 * self._limit(step) else "free road"),)
            if kind == FREE
            else ()
        )

    def _limit(self, step: int) -> float:
        path = self.ego.path
        return float(path.limit_mps[min(int(self.arc[step] * 2), len(path.limit_mps) - 1)]) * self.ego.factor

    def _lateral(self, step: int) -> str:
        now, then = self.arc[step], self.arc[step] + max(self.speed[step] * AHEAD_S, 3.0)
        for event in self.ego.path.events:
            turn = self.network.connectors[event.connector].turn
            if turn and event.stop_m < then and event.exit_m > now + 2.0:
                return "turn left" if turn > 0 else "turn right"
        return self._shift(now, then)

    def _shift(self, now: float, then: float) -> str:
        """Lane changes and nudges: how far the route's line moves across the street that it follows."""
        k = self.ego.path.line[[int(now * 2), min(int(then * 2), len(self.ego.path.line) - 1)]]
        streets = self.network.streets
        gaps = [np.linalg.norm(streets[s].line - k[0], axis=1).min() for s in self.network.spine]
        street = streets[self.network.spine[int(np.argmin(gaps))]]
        if min(gaps) > street.half_m:
            return "keep"
        across = [_across(street.line, point) for point in k]
        if across[0] is None or across[1] is None:
            return "keep"
        moved = across[1] - across[0]
        if abs(moved) > 1.2:
            return "change lane left" if moved > 0 else "change lane right"
        return "keep" if abs(moved) < 0.25 else "nudge left" if moved > 0 else "nudge right"

    def _longitudinal(self, step: int, cause: Cause) -> str:
        later = min(step + int(AHEAD_S / DT_S), len(self.speed) - 1)
        now, then = self.speed[step], self.speed[later]
        if now < STANDING_MPS and then < STANDING_MPS:
            return "yield" if cause.kind in ("pedestrian", "give way") else "hold"
        if then < STANDING_MPS:
            return "stop"
        if then - now > 1.0:
            return "speed up"
        if now - then > 1.0:
            return "yield" if cause.kind in ("pedestrian", "give way") else "slow down"
        return "follow" if cause.kind == "lead vehicle" else "proceed"

    def at(self, step: int) -> Explanation:
        causes = self.causes(step)
        longitudinal = self._longitudinal(step, causes[0] if causes else Cause("none"))
        if longitudinal == "speed up" and causes and causes[0].kind not in ("free road", "speed limit", "bend"):
            causes = (Cause("free road"), *causes)
        lateral = self._lateral(step)
        if lateral.startswith(("turn", "change")):
            causes = (*causes, Cause("route"))
        if any(c.category in VULNERABLE and c.kind == "pedestrian" for c in causes):
            causes = tuple(sorted(causes, key=lambda c: c.kind != "pedestrian"))
        return Explanation(longitudinal, lateral, causes, say(longitudinal, lateral, causes))


def _across(line: FloatArray, point: FloatArray) -> float | None:
    k = int(np.argmin(((line - point) ** 2).sum(-1)))
    if k in (0, len(line) - 1):
        return None
    heading = line[k + 1] - line[k - 1]
    delta = point - line[k]
    return float((heading[0] * delta[1] - heading[1] * delta[0]) / np.linalg.norm(heading))


def indicators(traffic: Traffic, record: Record) -> IntArray:
    """(T, N) int8: +1 left, -1 right from 25 m before a turn until its end."""
    out = np.zeros(record.arc.shape, np.int8)
    for i, body in enumerate(traffic.bodies):
        for event in body.path.events:
            turn = traffic.network.connectors[event.connector].turn
            if turn:
                near = (record.arc[:, i] > event.stop_m - 25.0) & (record.arc[:, i] < event.exit_m)
                out[near, i] = turn
    return out
