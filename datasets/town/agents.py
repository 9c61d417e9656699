"""What moves or stands in the town, and the state of a simulation: arrays that can be copied, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np

from drive_wm.datasets.town.ways import Way
from drive_wm.types import BoolArray, FloatArray, IntArray

Size = tuple[float, float, float]
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Driver:
    """How a vehicle is driven. factor: of the allowed speed; headway, brake: IDM's; sway_m: amplitude of lateral waves.

    stop_mps2: a yellow light is passed where stopping would need more than that.
    """

    factor: float = 0.95
    headway_s: float = 1.2
    brake_mps2: float = 2.2
    sway_m: float = 0.0
    sway_phase: float = 0.0
    stop_mps2: float = 2.8
    clumsy: bool = False


@dataclass(frozen=True)
class Script:
    """What an actor does whatever happens, from the moment on at which the ego's rear axle is ``ego_at_m`` along its
    way (None: at once): speed_mps (K,) at times_s (K,) and offset_m (K,) from its own way, linear in between.

    Before that its speed is ``before_mps``.
    """

    times_s: tuple[float, ...]
    speed_mps: tuple[float, ...]
    offset_m: tuple[float, ...] = ()
    ego_at_m: float | None = None
    before_mps: float = 0.0


@dataclass(frozen=True)
class Body:
    """A vehicle at the start. seed: of its own later choices, so that no other agent can change them."""

    id: str
    category: str
    size_lwh_m: Size
    way: Way
    start_m: float
    speed_mps: float
    driver: Driver = Driver()
    enter_s: float = -99.0
    color: Color = (128, 128, 128)
    seed: int = 0
    side_m: float = 0.0
    siren: bool = False
    script: Script | None = None
    turns: dict[str, str] = field(default_factory=dict)  # lane -> connector, where the route is set

    @property
    def center_m(self) -> float:
        """Of the box, ahead of the point that follows the way."""
        return (0.3 if self.size_lwh_m[0] < 7.0 else 0.15) * self.size_lwh_m[0]  # long ones steer from their middle


@dataclass(frozen=True)
class Gate:
    """Where a person crosses: arc lengths of the two kerbs. kind: "light", "zebra" or "jaywalk"."""

    begin_m: float
    end_m: float
    kind: str
    junction: int = -1
    arm: int = -1


@dataclass(frozen=True)
class Person:
    id: str
    size_lwh_m: Size
    way: Way
    start_m: float
    pace_mps: float
    color: Color
    gate: Gate | None = None
    script: Script | None = None


@dataclass(frozen=True)
class Thing:
    """What stands on the road for the whole drive: a box to the traffic, one or more tracks to the eye."""

    id: str
    category: str
    xyyaw: tuple[float, float, float]
    size_lwh_m: Size
    color: Color
    hazard: bool = False
    parts: tuple[
        tuple[str, str, tuple[float, float, float], Size, Color], ...
    ] = ()  # id, category, xyyaw, size, colour


FREE, BEND, LEAD, LIGHT, STOP_SIGN, GIVE_WAY, AHEAD, SIREN, LIMIT = range(9)
NO_PLAN, LANE_CHANGE, PASS, PULL_OVER = range(4)


@dataclass
class State:
    """All that changes. N vehicles (the ego is 0), P people. Indices into boxes count vehicles, people, then things."""

    step: int
    s: FloatArray
    d: FloatArray
    e: FloatArray
    v: FloatArray
    a: FloatArray
    aim: FloatArray  # wished d
    plan: IntArray  # NO_PLAN ...
    plan_of: IntArray  # box that the plan is about, or -1
    plan_s: FloatArray  # seconds since the plan was made
    active: BoolArray
    done: BoolArray
    event: IntArray
    grant: IntArray
    halted: BoolArray
    waited: FloatArray
    stuck: FloatArray
    changes: IntArray
    gap: FloatArray
    lead: IntArray
    lead_v: FloatArray
    line: FloatArray
    line_why: IntArray
    line_of: IntArray
    cap: FloatArray  # speed that the situation allows
    cap_of: IntArray
    threat: FloatArray  # ego only: way to the place of a foreseen collision
    threat_of: IntArray
    began: FloatArray  # seconds since the script began, -1 before
    ps: FloatArray
    pv: FloatArray
    pd: FloatArray  # of people: steps to the left of their way
    crossing: BoolArray
    asking: BoolArray
    pbegan: FloatArray
    ways: list[Way]

    def copy(self) -> State:
        twin = replace(self)
        for f in fields(self):
            if f.name != "step":
                setattr(twin, f.name, getattr(self, f.name).copy())
        return twin


def initial_state(bodies: list[Body], people: list[Person]) -> State:
    n, p = len(bodies), len(people)

    def zeros() -> FloatArray:
        return np.zeros(n)

    def none() -> IntArray:
        return np.full(n, -1)

    s = np.array([b.start_m for b in bodies])
    front = np.array([b.center_m + b.size_lwh_m[0] / 2 for b in bodies])
    event = np.array([sum(e.stop_m < s[i] + front[i] for e in b.way.events) for i, b in enumerate(bodies)], int)
    return State(
        0,
        s,
        np.array([b.side_m for b in bodies]),
        zeros(),
        np.array([b.speed_mps for b in bodies]),
        zeros(),
        np.array([b.side_m for b in bodies]),
        np.zeros(n, int),
        none(),
        zeros(),
        np.array([b.enter_s < -9 for b in bodies]),
        np.zeros(n, bool),
        event,
        none(),
        np.zeros(n, bool),
        zeros(),
        zeros(),
        np.zeros(n, int),
        np.full(n, np.inf),
        none(),
        zeros(),
        np.full(n, np.inf),
        np.zeros(n, int),
        none(),
        np.full(n, 99.0),
        none(),
        np.full(1, np.inf),
        none()[:1],
        np.full(n, -1.0),
        np.array([q.start_m for q in people]),
        np.array([q.pace_mps for q in people]) * 1.0,
        np.zeros(p),
        np.zeros(p, bool),
        np.zeros(p, bool),
        np.full(p, -1.0),
        [b.way for b in bodies],
    )
