"""The ego's reasons: what its driver decided every half second, what bound it, and the values that this came from.

They are not guessed from the drive afterwards: the simulation writes down, in each step, which of the accelerations
it weighed was the least and whom that was about. ``ACCORD`` says which causes a decision may have; ``say`` puts it in
words.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from drive_wm.datasets.town.agents import (
    AHEAD,
    BEND,
    FREE,
    GIVE_WAY,
    LANE_CHANGE,
    LEAD,
    LIGHT,
    LIMIT,
    PASS,
    PULL_OVER,
    SIREN,
    STOP_SIGN,
)
from drive_wm.datasets.town.record import EGO_VALUES
from drive_wm.datasets.town.rules import DT_S, GREEN
from drive_wm.datasets.town.simulation import Simulation
from drive_wm.datasets.town.streets import signal_id
from drive_wm.decisions import STANDING_MPS
from drive_wm.types import Cause, Explanation, FloatArray

EVERY_STEPS = 5

# decision -> the kinds of cause that it may name first
ACCORD = {
    "proceed": {"free road", "speed limit", "bend", "obstacle"},
    "speed up": {"free road"},
    "slow down": {"lead vehicle", "bend", "speed limit", "obstacle", "red light", "stop sign"},
    "stop": {"lead vehicle", "red light", "stop sign", "obstacle"},
    "yield": {"pedestrian", "give way"},
    "follow": {"lead vehicle"},
    "hold": {"lead vehicle", "red light", "stop sign", "obstacle"},
}
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
    "change lane left": " and moving over to the left",
    "change lane right": " and moving over to the right",
}


def say(longitudinal: str, lateral: str, causes: tuple[Cause, ...]) -> str:
    """One English sentence for a decision and its first cause."""
    cause = causes[0] if causes else Cause("none")
    what = {"object": "works", None: "vehicle"}.get(cause.category, cause.category)
    what = "emergency vehicle" if (cause.agent_id or "").startswith("emergency") else what
    if longitudinal == "follow":
        return f"Following the {what} ahead{SIDE_WORDS[lateral]}."
    if longitudinal == "proceed" and cause.kind == "obstacle":
        return f"Driving past the {what}{SIDE_WORDS[lateral]}."
    why = {
        "lead vehicle": f"because of the {cause.state + ' ' if cause.state else ''}{what} ahead",
        "pedestrian": "because a pedestrian is on the road",
        "red light": f"because the light ahead is {cause.state or 'red'}",
        "stop sign": "because of the stop sign",
        "give way": f"to let the {what} pass" if cause.agent_id else "because others have right of way",
        "bend": "because of the bend",
        "free road": "because the road ahead is free",
        "speed limit": "at the speed limit",
        "obstacle": f"because the {what} ahead blocks the way" if what != "works" else "because of the works ahead",
        "route": "to follow the route",
    }.get(cause.kind, "")
    return f"{ACT_WORDS[longitudinal]}{SIDE_WORDS[lateral]} {why}".rstrip() + "."


class Reasons:
    """Builds the Explanation and the values of any step of a simulation that was run."""

    def __init__(self, sim: Simulation, kept: set[str], signal_xy: dict[str, FloatArray]) -> None:
        self.sim, self.record, self.kept, self.signal_xy = sim, sim.record, kept, signal_xy

    def _in_rig(self, xy: FloatArray, step: int) -> tuple[float, float]:
        yaw = self.record.yaw[step, 0]
        delta = xy - self.record.xy[step, 0]
        x = np.cos(yaw) * delta[0] + np.sin(yaw) * delta[1] + self.sim.center[0]
        return round(float(x), 2), round(float(np.cos(yaw) * delta[1] - np.sin(yaw) * delta[0]), 2)

    def _about(self, kind: str, index: int, step: int) -> Cause:
        """A cause that points at a box, if it can be seen in the log."""
        sim, r = self.sim, self.record
        n, p = len(sim.bodies), len(sim.people)
        if index < 0:
            return Cause(kind)
        if index >= n + p:
            thing = sim.things[index - n - p]
            parts = [(part[0], np.array(part[2][:2])) for part in thing.parts] or [
                (thing.id, np.array(thing.xyyaw[:2]))
            ]
            name, xy = min(parts, key=lambda part: float(np.hypot(*(part[1] - r.xy[step, 0]))))
            return Cause(
                "obstacle", name if name in self.kept else None, thing.category, self._in_rig(xy, step), "standing"
            )
        agent = sim.bodies[index] if index < n else sim.people[index - n]
        xy = r.xy[step, index] if index < n else r.person_xy[step, index - n]
        state = None
        if index < n:
            state = "standing" if r.speed[step, index] < STANDING_MPS else "moving"
        category = sim.bodies[index].category if index < n else "pedestrian"
        return Cause(
            "pedestrian" if index >= n else kind,
            agent.id if agent.id in self.kept else None,
            category,
            self._in_rig(xy, step),
            state,
        )

    def _light(self, step: int) -> Cause:
        junction, arm, axis = (int(v) for v in self.record.light[step])
        state = int(self.sim.phases[junction].states[step, axis]) if junction in self.sim.phases else GREEN
        name = signal_id(junction, arm)
        position = self._in_rig(self.signal_xy[name], step) if name in self.signal_xy else None
        return Cause("red light", name if position else None, None, position, "yellow" if state == 2 else "red")

    def cause(self, step: int) -> Cause:
        """What bound the ego most in this step."""
        kind, index, _ = (int(v) for v in self.record.why[step])
        if kind in (LEAD, AHEAD, GIVE_WAY, SIREN):
            return self._about("lead vehicle" if kind == LEAD else "give way", index, step)
        if kind == LIGHT:
            return self._light(step)
        names = {STOP_SIGN: "stop sign", BEND: "bend", LIMIT: "speed limit", FREE: "free road"}
        ahead = (round(float(self.record.values[step, 5]), 2), 0.0) if kind == STOP_SIGN else None
        return Cause(names[kind], None, None, ahead)

    def longitudinal(self, step: int, cause: Cause) -> str:
        v, a = float(self.record.speed[step, 0]), float(self.record.accel[step, 0])
        standing = v < STANDING_MPS
        if cause.kind in ("pedestrian", "give way"):
            return "yield"
        if cause.kind in ("red light", "stop sign"):
            near = float(self.record.values[step, 5]) < v * v / 2.0 + 8.0
            return "hold" if standing else "stop" if near else "slow down"
        if cause.kind in ("lead vehicle", "obstacle"):
            if standing:
                return "hold"
            if cause.kind == "obstacle" and a > -0.3:
                return "proceed"
            if a > -0.5 and cause.kind == "lead vehicle":
                return "follow"
            return "stop" if cause.state == "standing" and self._plan(step)[0] != PASS else "slow down"
        if cause.kind == "free road":
            return "speed up" if a > 0.4 else "proceed"
        return "slow down" if a < -0.4 else "proceed"

    def _plan(self, step: int) -> tuple[int, int]:
        return int(self.record.plan[step, 0]), int(self.record.plan_of[step, 0])

    def lateral(self, step: int) -> tuple[str, Cause | None]:
        """What the ego does across the road, and why."""
        plan, about = self._plan(step)
        turn = int(self.record.turning[step])
        offset, aim = (float(v) for v in self.record.values[step, 6:8])
        shift = aim - offset
        side = "left" if shift > 0 else "right"
        if plan == LANE_CHANGE and abs(shift) > 0.5:
            return f"change lane {side}", self._about("lead vehicle", about, step) if about >= 0 else Cause("route")
        if plan in (PASS, PULL_OVER) and abs(shift) > 0.3:
            kind = "give way" if plan == PULL_OVER else "lead vehicle"
            return f"{'change lane' if abs(aim) > 1.5 else 'nudge'} {side}", self._about(kind, about, step)
        if turn:
            return ("turn left" if turn > 0 else "turn right"), Cause("route")
        if abs(shift) > 0.35:
            return f"{'change lane' if abs(shift) > 1.5 else 'nudge'} {side}", Cause("route")
        return "keep", None

    def at(self, step: int) -> Explanation:
        cause = self.cause(step)
        lateral, why = self.lateral(step)
        causes = (cause,) if why is None or why.kind == cause.kind and why.agent_id == cause.agent_id else (cause, why)
        longitudinal = self.longitudinal(step, cause)
        return Explanation(longitudinal, lateral, causes, say(longitudinal, lateral, causes))

    def all(self, first: int) -> list[tuple[int, Explanation]]:
        """(step after first, Explanation) every half second."""
        return [(k, self.at(k + first)) for k in range(0, self.sim.steps - first, EVERY_STEPS)]

    def values(self, first: int) -> dict[str, Any]:
        """The numbers behind each Explanation, None where there is none."""
        rows = self.record.values[first::EVERY_STEPS]
        table = [
            [round(k * EVERY_STEPS * DT_S, 2), *(round(float(v), 3) if np.isfinite(v) else None for v in row)]
            for k, row in enumerate(rows)
        ]
        return {"columns": ["time_s", *EGO_VALUES], "rows": table}
