"""Scenarios for evaluation, each with a jittered seed: other agents do as their script says, the ego must cope.

Every one of them is solved by the expert whose drive is in the log, and not by going on at the speed of its start. The
stationary, frontal and side ones are in the manner of Euro NCAP's, as NeuroNCAP (Ljungbergh et al. 2024) put them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from drive_wm.datasets.town import cast, streets
from drive_wm.datasets.town.agents import Body, Driver, Gate, Person, Script, Thing
from drive_wm.datasets.town.drive import Drive, split_of
from drive_wm.datasets.town.network import Connector, Network, Street, lane_id
from drive_wm.datasets.town.rules import DT_S, GREEN, RED, Phases, conflicts, gives_way
from drive_wm.datasets.town.simulation import Simulation
from drive_wm.datasets.town.ways import YAW, Roads, Way, length_of, way_of_line
from drive_wm.types import FloatArray, InputError, Log, Look, Rig

DURATION_S = 12.0
ATTEMPTS = 400


@dataclass
class Stage:
    """Where a scenario plays: the ego on a lane of its route, and who acts in it."""

    rng: np.random.Generator
    roads: Roads
    street: Street
    lane: str
    ego: Body
    v: float
    turn: Connector | None
    bodies: list[Body]
    people: list[Person]
    things: list[Thing]
    parked: list[cast.Parked]

    @property
    def front_m(self) -> float:
        return self.ego.start_m + cast.EGO_CENTER_M + cast.EGO_LWH_M[0] / 2

    def actor(self, way: Way, at_m: float, speed: float, script: Script, kind: str = "car") -> None:
        name = f"actor-{sum(b.id.startswith('actor') for b in self.bodies)}"
        size = cast.size_of(self.rng, kind)
        self.bodies.append(
            Body(
                name,
                kind,
                size,
                way,
                at_m - (0.3 if size[0] < 7.0 else 0.15) * size[0],
                speed,
                Driver(1.0),
                -99.0,
                cast.paint(self.rng, cast.PAINT),
                1,
                script=script,
            )
        )

    def along(self, lane: str, at_m: float = 0.0) -> Way:
        return self.roads.walk(np.random.default_rng(7), lane, from_m=at_m, turns=self.ego.turns)

    def thing(self, at_m: float, offset_m: float, hazard: bool) -> Thing:
        return replace(
            cast.standing(self.rng, "actor-0", self.roads.pieces[self.lane].line, at_m, offset_m), hazard=hazard
        )


def _constant(
    speed: float,
    offset: tuple[float, ...] = (),
    times: tuple[float, ...] = (0.0,),
    ego_at_m: float | None = None,
) -> Script:
    return Script(times, (speed,) * len(times), offset, ego_at_m, speed)


# --- what happens -------------------------------------------------------------------------------------------------


def _stationary(g: Stage) -> bool:
    g.things.append(g.thing(g.front_m + g.rng.uniform(34.0, 42.0), float(g.rng.uniform(-0.4, 0.4)), False))
    return True


def _frontal(g: Stage) -> bool:
    """An oncoming car comes over the middle of the road and stays there."""
    lane = lane_id(g.street.index, False, 0)
    way = g.along(lane)
    length, meet_s = length_of(g.roads.pieces[lane].line), float(g.rng.uniform(3.6, 4.2))
    speed = float(g.rng.uniform(7.0, 9.0))
    at = length - (g.front_m + meet_s * g.v) - meet_s * speed
    if at < 2.0 or way.span(at + 1.0)[2] != lane:
        return False
    shift = float(g.rng.uniform(2.1, 2.4))
    g.actor(way, at, speed, Script((0.0, 0.8, 2.6, 60.0), (speed,) * 4, (0.0, 0.0, shift, shift), None, speed))
    return True


def _cut_in(g: Stage) -> bool:
    side = 1 if g.roads.beside(g.lane, 1) else -1
    lane = g.roads.beside(g.lane, side)
    if lane is None:
        return False
    slower = g.v - float(g.rng.uniform(3.0, 4.0))
    gap = float(g.rng.uniform(17.0, 20.0))
    begin = g.ego.start_m + g.v * float(g.rng.uniform(1.0, 1.6))
    script = Script(
        (0.0, 1.8, 3.0, 60.0),
        (slower, slower, slower - 2.0, slower - 2.0),
        (0.0, -3.5 * side, -3.5 * side, -3.5 * side),
        begin,
        slower,
    )
    g.actor(g.along(lane, g.ego.start_m), g.front_m + gap + 2.5, slower, script)
    return True


def _hard_brake(g: Stage) -> bool:
    gap, begin = float(g.rng.uniform(15.0, 19.0)), g.ego.start_m + g.v * float(g.rng.uniform(1.0, 2.0))
    stop_s = g.v / float(g.rng.uniform(5.5, 6.5))
    g.actor(
        g.along(g.lane, g.ego.start_m),
        g.front_m + gap + 2.5,
        g.v,
        Script((0.0, stop_s, 60.0), (g.v, 0.0, 0.0), (), begin, g.v),
    )
    return True


def _occluded_pedestrian(g: Stage) -> bool:
    """Somebody steps onto the road from behind a van that is parked at the kerb."""
    street, rng = g.street, g.rng
    pace, at = float(rng.uniform(1.6, 2.0)), g.front_m + float(rng.uniform(34.0, 40.0))
    row = way_of_line(g.roads.pieces[g.lane].line).at(at)
    u = np.array([np.cos(row[YAW]), np.sin(row[YAW])])
    left = np.array([-u[1], u[0]])
    middle = row[:2] + street.lane_offset_m(int(g.lane[-1])) * left
    size, aside = cast.size_of(rng, "van"), street.lane_offset_m(int(g.lane[-1]))
    bay = max(street.bay_m if street.parking else 0.0, aside + cast.EGO_LWH_M[1] / 2 + 0.5 + size[1] / 2)
    g.parked.append(
        ("van", middle - u * (size[0] / 2 + 1.0) - left * bay, float(row[YAW]), size, cast.paint(rng, cast.PAINT))
    )
    edge = max(street.half_m + 0.3, aside + 4.8)
    line = np.stack([middle + spot * left for spot in (-edge - 2.2, -edge, street.half_m + 0.3, street.half_m + 2.0)])
    begin, end = 2.2, 2.2 + edge + street.half_m + 0.3
    # the pedestrian is in the middle of the ego's lane when the ego's front comes at constant speed
    walk_s = (edge - aside) / pace
    trigger = at - (cast.EGO_CENTER_M + cast.EGO_LWH_M[0] / 2) - g.v * (walk_s + 0.35)
    if trigger < g.ego.start_m + 2.0:
        return False
    g.people.append(
        Person(
            "actor-0",
            (0.6, 0.6, float(rng.uniform(1.5, 1.85))),
            way_of_line(line),
            begin - 0.1,
            pace,
            cast.paint(rng, cast.CLOTHES),
            Gate(begin, end, "jaywalk"),
            Script((0.0,), (pace,), (), trigger, 0.0),
        )
    )
    return True


def _crossing(g: Stage, bound: Callable[[Connector], bool]) -> bool:
    """An actor crosses the ego's way and reaches it when the ego would, at constant speed."""
    network, mine = g.roads.network, g.turn
    assert mine is not None
    met = conflicts(network)[mine.id]
    others = [c for c in (network.connectors[n] for n in met) if c.turn == 0 and not c.cycle and bound(c)]
    for k in g.rng.permutation(len(others)):
        other = others[int(k)]
        gaps = np.linalg.norm(mine.line[:, None] - other.line[None], axis=-1)
        m, o = np.unravel_index(int(gaps.argmin()), gaps.shape)
        meet_s = (length_of(g.roads.pieces[g.lane].line) + 0.5 * float(m) - g.front_m + 2.0) / g.v
        length, speed = length_of(g.roads.pieces[other.start].line), float(g.rng.uniform(8.0, 10.0))
        at = length + 0.5 * float(o) - speed * meet_s
        if at < 4.0:
            speed = (length + 0.5 * float(o) - 4.0) / meet_s
            at = 4.0
        if speed > 5.5 and meet_s > 2.6:
            way = g.roads.walk(np.random.default_rng(3), other.start, turns={other.start: other.id})
            g.actor(way, at, speed, _constant(speed))
            return True
    return False


def _side(g: Stage) -> bool:
    network, mine = g.roads.network, g.turn
    return mine is not None and _crossing(g, lambda c: c.axis != mine.axis and gives_way(network, c, mine))


def _red_light_runner(g: Stage) -> bool:
    mine = g.turn
    return mine is not None and _crossing(g, lambda c: c.axis != mine.axis)


def _unprotected_left(g: Stage) -> bool:
    mine, network = g.turn, g.roads.network
    return mine is not None and _crossing(g, lambda c: c.axis == mine.axis and gives_way(network, mine, c))


def _merging(g: Stage) -> bool:
    """The ego's lane is closed ahead; others drive beside it on the lane to its left."""
    lane = g.roads.beside(g.lane, 1)
    if lane is None:
        return False
    name, line = "works-00", g.roads.pieces[g.lane].line
    g.things.append(cast.works(name, line, g.front_m + float(g.rng.uniform(44.0, 50.0)), 12.0, 1.2))
    first, speed = g.front_m + float(g.rng.uniform(-3.0, 3.0)), g.v + float(g.rng.uniform(-0.5, 0.3))
    for k in range(3):
        at = first - k * float(g.rng.uniform(13.0, 16.0))
        if at > 3.0:
            g.actor(g.along(lane, at), at, speed, _constant(speed), "car" if k else str(g.rng.choice(["car", "van"])))
    return bool(g.bodies)


def _blocked_lane(g: Stage) -> bool:
    """A van stands in the lane, and somebody comes towards the ego just there."""
    at = g.front_m + float(g.rng.uniform(32.0, 38.0))
    g.things.append(replace(g.thing(at, float(g.rng.uniform(-0.7, -0.3)), True), id="standing-00"))
    lane = lane_id(g.street.index, False, 0)
    length, speed = length_of(g.roads.pieces[lane].line), float(g.rng.uniform(7.0, 9.0))
    begin = length - at - 3.5 * speed + float(g.rng.uniform(-4.0, 4.0))
    if begin < 3.0:
        return False
    g.actor(g.along(lane), begin, speed, _constant(speed))
    return True


@dataclass(frozen=True)
class Template:
    """Where a scenario can play and what happens. turn: the ego's at the junction, None: the street is what matters."""

    happens: Callable[[Stage], bool]
    least_m: float = 84.0
    lanes: int = 1
    two_way: bool = False
    turn: int | None = None
    controls: tuple[str, ...] = ()


TEMPLATES = {
    "stationary": Template(_stationary),
    "frontal": Template(_frontal, 84.0, 1, True),
    "side": Template(_side, 36.0, turn=0, controls=("give way", "stop sign")),
    "cut-in": Template(_cut_in, 84.0, 2),
    "hard-brake": Template(_hard_brake),
    "occluded-pedestrian": Template(_occluded_pedestrian, 70.0),
    "red-light-runner": Template(_red_light_runner, 36.0, turn=0, controls=("signal",)),
    "merging": Template(_merging, 95.0, 2),
    "unprotected-left": Template(_unprotected_left, 36.0, turn=1, controls=("signal", "give way", "stop sign", "none")),
    "blocked-lane": Template(_blocked_lane, 95.0, 1, True),
}
KINDS = tuple(TEMPLATES)


# --- the stage ----------------------------------------------------------------------------------------------------


def _bend(line: FloatArray) -> float:
    delta = np.diff(line, axis=0)
    return float(np.ptp(np.unwrap(np.arctan2(delta[:, 1], delta[:, 0]))))


def _streets(network: Network, t: Template) -> list[int]:
    """Places on the spine whose street suits a template."""
    out = []
    for k, index in enumerate(network.spine):
        street = network.streets[index]
        straight = _bend(street.line) < 0.12 and length_of(street.line) > t.least_m
        lanes = street.lanes == 1 if t.lanes == 1 and t.turn is None else street.lanes >= t.lanes
        two = not t.two_way or (not street.one_way and street.median_m == 0)
        if t.turn is not None:
            ends = k < len(network.turns) and street.b is not None
            if not ends or network.turns[k] != t.turn or network.junctions[street.b or 0].control not in t.controls:
                continue
            junction = network.junctions[street.b or 0]
            arm = next((a for a in junction.arms if a.street == index), None)
            if arm is None or (junction.control in ("give way", "stop sign") and arm.axis != junction.major_axis):
                continue
        if straight and lanes and two:
            out.append(k)
    return out


def _stage(rng: np.random.Generator, network: Network, k: int, t: Template) -> Stage | None:
    street = network.streets[network.spine[k]]
    parked = [car for s in network.streets if s.index not in (street.index,) for _, car in cast.parked(rng, s)]
    roads = Roads(
        network, {(s.index, side) for s in network.streets if s.parking and s is not street for side in (1, -1)}
    )
    turns = cast.route_turns(network)
    names = [lane_id(street.index, True, n) for n in range(street.lanes)]
    able = [n for n in names if n in turns] if t.turn is not None else names[-1:]
    if not able:
        return None
    lane = able[-1] if t.turn != 1 else able[0]
    length = length_of(roads.pieces[lane].line)
    v = float(min(rng.uniform(8.3, 10.5), street.limit_mps))
    start = float(rng.uniform(2.0, 6.0)) if t.turn is None else max(2.0, length - float(rng.uniform(26.0, 34.0)))
    way = roads.walk(np.random.default_rng(int(rng.integers(1 << 30))), lane, from_m=start, turns=turns)
    factor = v / float(max(way.at(start)[3], 1.0)) if t.turn != 1 else 1.0
    ego = Body(
        "ego",
        "car",
        cast.EGO_LWH_M,
        way,
        start,
        min(v, float(way.at(start)[3])),
        Driver(min(factor, 1.0), 1.2, 2.2),
        seed=int(rng.integers(1 << 30)),
        turns=turns,
    )
    return Stage(rng, roads, street, lane, ego, v, network.connectors.get(turns.get(lane, "")), [], [], [], parked)


def prepare_scenario(kind: str, seed: int) -> Drive:
    """The first town of the seed's that has a fitting place, with the scenario in it, ready to run."""
    split = split_of(seed)
    if kind not in TEMPLATES:
        raise InputError(f"no scenario {kind!r}; there are {', '.join(KINDS)}")
    template = TEMPLATES[kind]
    for attempt in range(ATTEMPTS):
        rng = np.random.default_rng([seed, 8, KINDS.index(kind), attempt])
        network = streets.plan_network(rng)
        places = _streets(network, template)
        if not places:
            continue
        streets.lay_lanes(network)
        stage = _stage(rng, network, places[int(rng.integers(len(places)))], template)
        if stage is not None and template.happens(stage):
            return _drive(kind, seed, split, stage)
    raise InputError(f"scenario {kind!r}, seed {seed}: no fitting place in {ATTEMPTS} towns; take another seed")


def _lights(stage: Stage, steps: int) -> dict[int, Phases]:
    """The ego's axis is green all along, the other one red."""
    network, out = stage.roads.network, {}
    for junction in network.junctions:
        if junction.control == "signal":
            axis = stage.turn.axis if stage.turn and stage.turn.junction == junction.index else 0
            states = np.full((steps, 2), RED)
            states[:, axis] = GREEN
            out[junction.index] = Phases(junction.index, states)
    return out


def _drive(kind: str, seed: int, split: str, stage: Stage) -> Drive:
    steps = int(round(DURATION_S / DT_S)) + 1
    sim = Simulation(stage.roads, [stage.ego, *stage.bodies], stage.people, stage.things, _lights(stage, steps), steps)
    starts = [b.script.ego_at_m for b in stage.bodies if b.script] + [
        p.script.ego_at_m for p in stage.people if p.script
    ]
    first = next((s for s in starts if s is not None), stage.ego.start_m)
    actors = [
        *(b.id for b in stage.bodies),
        *(p.id for p in stage.people),
        *(t.id for t in stage.things if t.id.startswith(("actor", "standing", "works"))),
    ]
    facts = {
        "scenario": {
            "kind": kind,
            "seed": seed,
            "start_s": round((first - stage.ego.start_m) / stage.v, 2),
            "actors": actors,
            "v_ref_mps": round(stage.v, 3),
        }
    }
    return Drive(seed, f"town-{kind}-{seed:06d}", sim, stage.parked, 0, split, facts)


def scenario(kind: str, seed: int, *, rig: Rig | None = None, look: Look | None = None) -> Log:
    """A log of 12 s: metadata["scenario"] = kind, seed, start_s (when it begins at constant speed), actors (ids),
    v_ref_mps."""
    return prepare_scenario(kind, seed).run().log(rig, look)
