"""Who ran into whom: contacts, whose fault they were, and how hard they were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from drive_wm.eval.metrics.base import STEP_S, score, unknown
from drive_wm.eval.metrics.geometry import boxes_overlap, overlaps, segments_hit_boxes
from drive_wm.eval.metrics.scene import Scene
from drive_wm.geometry import box_corners, wrap_angle
from drive_wm.types import VULNERABLE, BoolArray, FloatArray, IntArray, Rollout, Score

STOPPED_MPS = 0.05
BEHIND_RAD, AHEAD_RAD = np.deg2rad(150.0), np.deg2rad(30.0)
KINDS = ("at start", "stopped ego", "stopped agent", "rear", "front", "lateral")
STATIC = ("object",)


@dataclass(frozen=True)
class Contacts:
    """First contact of each ego of a batch with each agent, N in all. at: indices of the batch axes, (N,) each."""

    at: tuple[IntArray, ...]
    agent: IntArray
    step: IntArray
    kind: IntArray
    at_fault: BoolArray


def first_contacts(scene: Scene, stopped_mps: float = STOPPED_MPS, behind_rad: float = BEHIND_RAD) -> Contacts:
    """First contacts, classified as in PDMS; the first that matches decides.

    Overlap when the drive begins (no one's fault), the ego stands (not at fault), the agent stands (at fault), the
    agent is behind (not), the ego's front bumper hits (at fault), else lateral: at fault while the ego is in several
    lanes or off the road, or where no map can tell.
    """
    *at, agent = np.nonzero(scene.touching.any(-2))
    step = np.argmax(scene.touching, -2)[(*at, agent)]
    here = (*at, step)
    ego = scene.corners[here]
    front = segments_hit_boxes(ego[:, 0], ego[:, 3], scene.boxes[step, agent])
    tests = [step == 0, np.abs(scene.speed_mps[here]) <= stopped_mps, scene.agent_speeds[step, agent] <= stopped_mps,
             scene.bearings[(*here, agent)] > behind_rad, front]
    kind = np.select(tests, range(5), 5)
    loose = scene.strayed[here] if scene.on_road is not None else np.ones(len(step), dtype=bool)
    return Contacts(tuple(at), agent, step, kind, (kind == 2) | (kind == 4) | ((kind == 5) & loose))


def contacts(drive: Rollout | Scene, **rule: float) -> list[dict[str, Any]]:
    """The first contact with each agent in order of time: {step, id, category, kind, at_fault}."""
    scene = Scene.of(drive)
    found = first_contacts(scene, **rule)
    rows = [{"step": int(s), "id": scene.agent_ids[a], "category": scene.agent_categories[a], "kind": KINDS[k],
             "at_fault": bool(f)} for a, s, k, f in zip(found.agent, found.step, found.kind, found.at_fault)]
    return sorted(rows, key=lambda c: (c["step"], c["id"]))


def collision_worth(scene: Scene, static_worth: float = 0.5, **rule: float) -> FloatArray:
    """(..., S) 1 until the first contact at fault, then 0 for agents or ``static_worth`` for static objects."""
    worth = np.ones(scene.xyyaw.shape[:-1])
    found = first_contacts(scene, **rule)
    static = np.isin(np.array(scene.agent_categories, dtype=object)[found.agent], STATIC)
    guilty = np.flatnonzero(found.at_fault)
    where = tuple(axis[guilty] for axis in (*found.at, found.step))
    np.minimum.at(worth, where, np.where(static[guilty], static_worth, 0.0))
    return np.minimum.accumulate(worth, -1)


def no_at_fault_collision(drive: Rollout | Scene, protocol: str, *, static_worth: float = 0.5,
                          stopped_mps: float = STOPPED_MPS, behind_rad: float = BEHIND_RAD) -> Score:
    """PDMS' NC: 1 without an at-fault contact, 0.5 where only static objects were hit, else 0."""
    scene, rule = Scene.of(drive), {"stopped_mps": stopped_mps, "behind_rad": behind_rad}
    worth = collision_worth(scene, static_worth, **rule)
    return score(scene.rollout, "no_at_fault_collision", worth[-1], protocol, worth, contacts=contacts(scene, **rule))


def counted_collisions(drive: Rollout | Scene, protocol: str, *, static_allowed: int = 1,
                       stopped_mps: float = STOPPED_MPS, behind_rad: float = BEHIND_RAD) -> Score:
    """nuPlan's NC: the product over {vulnerable road users, vehicles, objects} of max(0, 1 - n / (allowed + 1)).

    n: at-fault contacts; allowed is 0 for the first two. per_step: the product so far.
    """
    scene = Scene.of(drive)
    found = contacts(scene, stopped_mps=stopped_mps, behind_rad=behind_rad)
    counts = np.zeros((3, scene.steps))
    for c in found:
        if c["at_fault"]:
            group = 0 if c["category"] in VULNERABLE else 2 if c["category"] in STATIC else 1
            counts[group, c["step"]:] += 1
    allowed = np.array([[0.0], [0.0], [static_allowed]])
    worth = np.maximum(0.0, 1.0 - counts / (allowed + 1.0)).prod(0)
    return score(scene.rollout, "no_at_fault_collision", worth[-1], protocol, worth, contacts=found)


def no_front_or_lateral_collision(drive: Rollout | Scene, protocol: str) -> Score:
    """AlpaSim: 0 once an agent touches the ego other than with the ego's rear bumper alone.

    A contact that meets the front bumper is "front", else one that meets the rear bumper "rear" (not at fault), else
    "lateral"; the agents' speeds do not matter. Who overlaps the ego from the start is left out.
    """
    scene = Scene.of(drive)
    found, worth = [], np.ones(scene.steps)
    for a in np.flatnonzero(scene.touching.any(0) & ~scene.touching[0]):
        step = int(np.argmax(scene.touching[:, a]))
        ego, box = scene.corners[step], scene.boxes[step, a]
        front, rear = segments_hit_boxes(ego[[0, 1]], ego[[3, 2]], np.stack([box, box]))
        kind = "front" if front else "rear" if rear else "lateral"
        found.append({"step": step, "id": scene.agent_ids[a], "category": scene.agent_categories[a], "kind": kind,
                      "at_fault": kind != "rear"})
        if kind != "rear":
            worth[step:] = 0.0
    return score(scene.rollout, "no_front_or_lateral_collision", worth[-1], protocol, worth,
                 contacts=sorted(found, key=lambda c: (c["step"], c["id"])))


# --- how hard -----------------------------------------------------------------------------------------------------


def impact(drive: Rollout | Scene, substeps: int = 2) -> dict[str, Any] | None:
    """The first contact with anyone, whoever's fault, on a grid ``substeps`` times finer than the drive's: {time_s,
    id, speed_mps: |v_ego - v_agent|}, the harder of two at once; None without one.

    Poses are interpolated linearly. Agents that overlap the ego from the start are left out.
    """
    scene = Scene.of(drive)
    ego, agents = _finer(scene.xyyaw, substeps), _finer(scene.agents_xyyaw[: scene.steps], substeps)
    valid = scene.agents_valid[: scene.steps]
    both = np.concatenate([np.repeat(valid[:-1], substeps, 0), valid[-1:]])
    both[:-1] &= np.repeat(valid[1:], substeps, 0) | (np.arange(len(both) - 1) % substeps == 0)[:, None]
    lwh = np.broadcast_to(scene.agents_lwh_m, (*agents.shape[:2], 3))
    touching = overlaps(scene.footprints(ego), box_corners(agents, lwh[..., 0], lwh[..., 1]), both)
    touching &= ~touching[0]
    if not touching.any():
        return None
    i = int(np.argmax(touching.any(1)))
    s = min(i // substeps, scene.steps - 2)
    who = np.flatnonzero(touching[i])
    speed = _finer(scene.speed_mps[:, None], substeps)[i, 0]
    velocity = speed * np.array([np.cos(ego[i, 2]), np.sin(ego[i, 2])])
    theirs = _velocities(scene, s)[who]
    closing = np.linalg.norm(velocity - theirs, axis=1)
    worst = int(np.argmax(closing))
    return {"time_s": i * STEP_S / substeps, "id": scene.agent_ids[who[worst]], "speed_mps": float(closing[worst])}


def _finer(values: FloatArray, substeps: int) -> FloatArray:
    """(S, ..., D) -> ((S - 1) * substeps + 1, ..., D), linear between; a third column is an angle."""
    step = np.diff(values, axis=0)
    if values.shape[-1] == 3:
        step[..., 2] = wrap_angle(step[..., 2])
    part = (np.arange(substeps) / substeps).reshape(-1, *(1,) * (values.ndim - 1))
    fine = (values[:-1, None] + step[:, None] * part).reshape(len(step) * substeps, *values.shape[1:])
    return np.concatenate([fine, values[-1:]])


def _velocities(scene: Scene, step: int) -> FloatArray:
    """(A, 2) between a step and the next, or the one before where an agent ends; 0 where it is seen once only."""
    xy, valid = scene.agents_xyyaw[..., :2], scene.agents_valid
    ahead, before = (xy[step + 1] - xy[step]) / STEP_S, (xy[step] - xy[max(step - 1, 0)]) / STEP_S
    known = valid[step] & valid[step + 1]
    fallback = valid[step] & valid[max(step - 1, 0)] & (step > 0)
    return np.where(known[:, None], ahead, np.where(fallback[:, None], before, 0.0))


def ncap(drive: Rollout | Scene, protocol: str, *, best: float = 5.0, touched: float = 4.0,
         substep_s: float = 0.05) -> Score:
    """NeuroNCAP (Ljungbergh et al., 2024): 5 without a collision, else 4 max(0, 1 - v_i / v_r).

    v_i: relative speed at first contact; v_r: that of the unreacting reference in the same scene. Unknown where that
    reference is missing or does not crash: then it is no NCAP scene.
    """
    scene, substeps = Scene.of(drive), round(STEP_S / substep_s)
    reference = scene.references.unreacting
    would = impact(reference, substeps) if reference is not None else None
    if would is None:
        why = "no drive of an unreacting ego was given" if reference is None else "an unreacting ego does not crash"
        return unknown(scene.rollout, "ncap", protocol, why)
    hit = impact(scene, substeps)
    value = best if hit is None else touched * max(0.0, 1.0 - hit["speed_mps"] / max(would["speed_mps"], 1e-9))
    steps = np.full(scene.steps, best)
    if hit is not None:
        steps[int(np.ceil(hit["time_s"] / STEP_S - 1e-6)):] = value
    return score(scene.rollout, "ncap", value, protocol, steps, impact=hit, reference_impact=would)


__all__ = ["AHEAD_RAD", "BEHIND_RAD", "Contacts", "KINDS", "STOPPED_MPS", "boxes_overlap", "collision_worth",
           "contacts", "counted_collisions", "first_contacts", "impact", "ncap", "no_at_fault_collision",
           "no_front_or_lateral_collision"]
