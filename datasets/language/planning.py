"""Planning: what the driver will do, and what would be if it did something else or if somebody were not there.

The what-ifs are answered by driving on in the simulation with that change.
"""

from __future__ import annotations

import numpy as np

from drive_wm.datasets.language.facts import LATER_S, Facts, Sight
from drive_wm.datasets.language.templates import KINDS_SEEN, YES_NO, Answer, listed, meters, template, yes_no
from drive_wm.datasets.town.causes import HORIZON_S, SPEED_MPS, candidates, control_ahead, owner_id, remove
from drive_wm.datasets.town.rerun import ACCELERATE_MPS2, BRAKE_MPS2
from drive_wm.datasets.town.rules import DT_S
from drive_wm.datasets.town.simulation import Simulation
from drive_wm.datasets.town.ways import YAW
from drive_wm.decisions import COURSES, longitudinal_of
from drive_wm.geometry import box_corners
from drive_wm.types import LATERAL, LONGITUDINAL, FloatArray

ASK = "planning"
SAY = {"proceed": "keep driving", "speed up": "speed up", "slow down": "slow down", "stop": "stop", "yield": "give way",
       "follow": "follow the vehicle ahead", "hold": "stand still"}
SAY_LATERAL = {"keep": "keep my lane", "nudge left": "move a little left", "nudge right": "move a little right",
               "change lane left": "change to the left lane", "change lane right": "change to the right lane"}
BUMP_M = 0.1  # boxes must overlap by so much to have met


def _speeds(facts: Facts, until_s: float = HORIZON_S) -> tuple[FloatArray, FloatArray] | None:
    times = np.arange(0.0, until_s + 0.1, 0.5)
    speeds = [facts.speed_after(float(t)) for t in times]
    known = [s for s in speeds if s is not None]
    return (np.array(known), times) if len(known) == len(times) else None


@template(ASK, "What will you do?", "What will you do next?", "What is your decision?", "What are you going to do?",
          "How do you go on?")
def will_you_do(facts: Facts, rng: np.random.Generator) -> Answer | None:
    reason = facts.reason
    if reason is None:
        return None
    said = SAY[reason.longitudinal]
    return Answer(f"I {said}.", reason.longitudinal, (), choices=LONGITUDINAL)


@template(ASK, "Which way will you steer?", "Will you turn, change lane or keep your lane?",
          "What will you do with the steering?", "Do you stay in your lane?")
def will_you_steer(facts: Facts, rng: np.random.Generator) -> Answer | None:
    reason = facts.reason
    if reason is None:
        return None
    return Answer(f"I {SAY_LATERAL.get(reason.lateral, reason.lateral)}.", reason.lateral, (), choices=LATERAL)


@template(ASK, "How fast will you be in 3 seconds?", "What speed will you have in 3 seconds?",
          "In 3 seconds, how fast will you be?", "What will be your speed in 3 seconds?")
def speed_later(facts: Facts, rng: np.random.Generator) -> Answer | None:
    speed = facts.speed_after(LATER_S)
    if speed is None:
        return None
    return Answer(f"I will go {meters(speed)} a second.", round(speed))


@template(ASK, "How fast are you going?", "What is your speed now?", "How fast do you drive?",
          "At which speed are you driving?")
def speed_now(facts: Facts, rng: np.random.Generator) -> Answer | None:
    speed = facts.speed_after(0.0)
    if speed is None:
        return None
    return Answer(f"I go {meters(speed)} a second.", round(speed))


@template(ASK, "Will you stop?", "Will you stand still within 4 seconds?", "Are you going to stop?",
          "Do you come to a stop in the next 4 seconds?")
def will_you_stop(facts: Facts, rng: np.random.Generator) -> Answer | None:
    found = _speeds(facts)
    if found is None:
        return None
    stands = bool(found[0].min() < 0.3)
    return yes_no(stands, "I will stand" if stands else "I will not stand")


@template(ASK, "How far will you go in 3 seconds?", "How many metres will you drive in 3 seconds?",
          "In 3 seconds, how far will you have gone?", "Which distance will you drive in 3 seconds?")
def way_later(facts: Facts, rng: np.random.Generator) -> Answer | None:
    found = _speeds(facts, LATER_S)
    if found is None:
        return None
    way_m = float(((found[0][1:] + found[0][:-1]) / 2 * 0.5).sum())
    return Answer(f"I will go {meters(way_m)}.", round(way_m))


@template(ASK, "Where does your route go?", "Will your route turn soon?", "Which way does the route go next?",
          "Left, right or straight: where do you go?")
def route_goes(facts: Facts, rng: np.random.Generator) -> Answer:
    word = facts.route_turn
    said = "goes straight" if word == "straight" else f"turns {word}"
    return Answer(f"My route {said}.", word, (), choices=("left", "right", "straight"))


@template(ASK, "Must you give way?", "Do you have to give way to somebody?", "Do you have to yield now?",
          "Is there somebody whom you give way to?")
def must_yield(facts: Facts, rng: np.random.Generator) -> Answer | None:
    reason = facts.reason
    if reason is None:
        return None
    whom = [c for c in reason.causes if c.kind in ("give way", "pedestrian")]
    yes = reason.longitudinal == "yield"
    said = f"I give way to a {whom[0].category}" if yes and whom and whom[0].category else \
        "I give way" if yes else "I do not have to"
    return yes_no(yes, said, tuple(c.agent_id for c in whom if yes and c.agent_id))


@template(ASK, "Will you go faster or slower?", "Will your speed change?", "Do you speed up or slow down?",
          "How will your speed change in the next 3 seconds?")
def speed_changes(facts: Facts, rng: np.random.Generator) -> Answer | None:
    now, later = facts.speed_after(0.0), facts.speed_after(LATER_S)
    if now is None or later is None:
        return None
    word = "faster" if later - now > SPEED_MPS else "slower" if later - now < -SPEED_MPS else "same"
    said = "keep my speed" if word == "same" else f"be {word}"
    return Answer(f"I will {said}.", word, (), choices=("faster", "slower", "same"))


# --- what if ------------------------------------------------------------------------------------------------------


def course_without(facts: Facts, names: tuple[str, ...]) -> str | None:
    """What the driver would do, one of COURSES, if these were not there."""
    if facts.moment is None:
        return None
    future = facts.moment.future(lambda sim: remove(sim, names))
    return longitudinal_of(future[:, 2], np.arange(len(future)) * DT_S) if len(future) > 12 else None


def removable(facts: Facts) -> list[Sight]:
    """Whom the simulation can take out, of those that can be told apart: the true causes first, then those near."""
    moment = facts.moment
    if moment is None:
        return []
    able = set(candidates(moment))
    pool = [s for s in facts.nameable() if owner_id(s.id) in able]
    return sorted(pool, key=lambda s: owner_id(s.id) not in facts.cause_ids)


@template(ASK, "What would you do if the {thing} were not there?", "If the {thing} were gone, what would you do?",
          "What would you do without the {thing}?", "And if the {thing} was not there, what would you do?")
def if_gone(facts: Facts, rng: np.random.Generator) -> Answer | None:
    sights = removable(facts)
    if not sights:
        return None
    sight = sights[0] if rng.random() < 0.5 else sights[int(rng.integers(len(sights)))]
    course = course_without(facts, (sight.id,))
    if course is None:
        return None
    return Answer(f"I would {SAY[course]}.", course, (sight.id,), {"thing": facts.phrase(sight)}, COURSES)


@template(ASK, "What would you do if the light were green?", "If the light was green, what would you do?",
          "And with a green light, what would you do?", "What if the light were green now?")
def if_green(facts: Facts, rng: np.random.Generator) -> Answer | None:
    if facts.moment is None:
        return None
    control = control_ahead(facts.moment.sim)
    if control is None or not control.startswith("signal"):
        return Answer("There is no light ahead.", None)
    course = course_without(facts, (control,))
    return None if course is None else Answer(f"I would {SAY[course]}.", course, (control,), choices=COURSES)


@template(ASK, "What if the {absent} were not there?", "What would you do without the {absent}?",
          "If the {absent} were gone, what would you do?", "What would you do if there was no {absent}?")
def if_absent_gone(facts: Facts, rng: np.random.Generator) -> Answer | None:
    """Rests on what is not so."""
    missing = [word for word in KINDS_SEEN if not facts.of(word)]
    word = str(rng.choice(missing)) if missing else ""
    return Answer(f"I see no {word}.", None, (), {"absent": word}) if missing else None


def forced_ego(sim: Simulation, accel_mps2: float) -> FloatArray:
    """(steps, 4) centre, yaw, speed of an ego that goes on along its way at a constant acceleration, at most 14 m/s."""
    st, k = sim.state, sim.state.step
    v0, n = float(st.v[0]), sim.steps - k
    speed = np.clip(v0 + accel_mps2 * DT_S * np.arange(n), 0.0, max(v0, 14.0))
    at = float(st.s[0]) + np.concatenate([[0.0], np.cumsum((speed[1:] + speed[:-1]) / 2 * DT_S)])
    rows = np.stack([st.ways[0].at(float(s)) for s in at])
    yaw, d = rows[:, YAW], float(st.d[0])
    xy = rows[:, :2] + d * np.stack([-np.sin(yaw), np.cos(yaw)], -1)
    out = np.zeros((sim.steps, 4))
    out[k:] = np.column_stack([xy + float(sim.center[0]) * np.stack([np.cos(yaw), np.sin(yaw)], -1), yaw, speed])
    return out


def overlap(one: FloatArray, other: FloatArray) -> bool:
    """Whether two rectangles, corners (4, 2) in order, overlap (separating axes)."""
    for corners in (one, other):
        for axis in np.diff(corners[:3], axis=0):
            a, b = one @ axis, other @ axis
            if a.max() <= b.min() or b.max() <= a.min():
                return False
    return True


def consequences(facts: Facts, accel_mps2: float) -> tuple[str | None, tuple[str, ...]] | None:
    """Of driving on at that acceleration for HORIZON_S: whom the ego hits first (an id), and who must react."""
    moment = facts.moment
    if moment is None or moment.end - moment.step < 12:
        return None
    sim = moment.sim.fork(past=False)
    sim.forced = forced_ego(sim, accel_mps2)
    sim.run(moment.end)
    drive, span = moment.replay.drive.simulation, slice(moment.step, moment.end)
    changed = np.abs(sim.record.speed[span] - drive.record.speed[span]).max(0) > SPEED_MPS
    ids = tuple(b.id for b, c, active in zip(sim.bodies, changed, sim.record.active[moment.step]) if c and active)
    return _hit(sim, span), tuple(name for name in ids if name != sim.bodies[0].id)


def _hit(sim: Simulation, span: slice) -> str | None:
    r = sim.record
    length, width = sim.lwh[0, 0] - BUMP_M, sim.lwh[0, 1] - BUMP_M
    for k in range(span.start, span.stop, 2):
        own = box_corners(np.array([*r.xy[k, 0], r.yaw[k, 0]]), length, width)
        poses = np.concatenate([np.column_stack([r.xy[k], r.yaw[k]]),
                                np.column_stack([r.person_xy[k], r.person_yaw[k]]), sim.thing_pose])
        there = np.concatenate([r.active[k], sim.here_people, sim.here_things])
        there[0] = False
        sizes = np.concatenate([sim.lwh[:, :2], np.full((len(sim.people), 2), 0.5), sim.thing_lwh[:, :2]])
        for j in np.nonzero(there & (np.hypot(*(poses[:, :2] - r.xy[k, 0]).T) < 14.0))[0]:
            if overlap(own, box_corners(poses[j], sizes[j, 0], sizes[j, 1])):
                return sim.box_id(int(j))
    return None


def _hits(facts: Facts, accel_mps2: float, doing: str) -> Answer | None:
    found = consequences(facts, accel_mps2)
    if found is None:
        return None
    whom = {owner_id(s.id): s for s in facts.sights}.get(owner_id(found[0] or ""))
    if found[0] is None:
        return yes_no(False, f"I can {doing} for 4 seconds")
    return yes_no(True, f"I would hit the {whom.word if whom else 'vehicle'} ahead", (found[0],))


@template(ASK, "Would you hit somebody if you kept your speed?", "If you keep your speed, do you hit somebody?",
          "Is it a danger to keep your speed for 4 seconds?", "What if you do not brake: will you hit somebody?")
def if_keep(facts: Facts, rng: np.random.Generator) -> Answer | None:
    return _hits(facts, 0.0, "keep my speed")


@template(ASK, "Would you hit somebody if you accelerate?", "If you speed up now, do you hit somebody?",
          "Is it a danger to accelerate now?", "What if you accelerate: will you hit somebody?")
def if_accelerate(facts: Facts, rng: np.random.Generator) -> Answer | None:
    return _hits(facts, ACCELERATE_MPS2, "accelerate")


@template(ASK, "Who has to react if you brake hard?", "If you brake hard now, who must brake too?",
          "Would others have to react if you brake hard?", "Does somebody have to brake if you brake hard?")
def if_brake(facts: Facts, rng: np.random.Generator) -> Answer | None:
    found = consequences(facts, -BRAKE_MPS2)
    if found is None:
        return None
    known = {s.id: s for s in facts.sights}
    ids = tuple(sorted((i for i in found[1] if i in known), key=lambda i: known[i].distance_m))[:3]
    said = f"The {listed([known[i].word for i in ids])} would have to react." if ids else "Nobody would have to react."
    return Answer(said, "yes" if ids else "no", ids, choices=YES_NO)


@template(ASK, "How far do you still go if you brake hard?", "If you brake hard, how many metres do you need to stop?",
          "How long is your way to a stop if you brake now?", "Within how many metres could you stop?")
def if_brake_way(facts: Facts, rng: np.random.Generator) -> Answer | None:
    speed = facts.speed_after(0.0)
    if speed is None:
        return None
    way_m = speed * speed / (2 * BRAKE_MPS2)
    return Answer(f"I need {meters(way_m)}.", round(way_m))
