"""Named, versioned, frozen ways to evaluate. A number without its protocol cannot be compared.

| protocol | total | drive |
|---|---|---|
| drive@1.0 | NC * DAC * [progress >= 0.2] * (5 progress + 2 C) / 7 | 15 s, a plan every 0.5 s, Zoe |
| pdms@1.1 | NC * DAC * (5 EP + 5 TTC + 2 C) / 12 | 4 s, one plan, Pacifica |
| epdms@2.2 | NC * DAC * DDC * TLC * (5 EP + 5 TTC + 2 LK + 2 HC + 2 EC) / 16 | 4 s, every 0.5 s, Pacifica |
| nuplan_cls@1.0 | NC * DAC * [EP >= 0.2] * DDC * (5 EP + 5 TTC + 4 SL + 2 C) / 16 | 15 s, every 0.5 s, Pacifica |
| ncap@1.0 | 5 without a collision, else 4 max(0, 1 - v_i / v_r) | 8 s, every 0.5 s, Zoe |
| hd_score@1.0 | mean_t[NC * DAC * (5 TTC + 2 C) / 7] * min(RC, 1) | 15 s, every 0.5 s, Zoe |
| alpasim@1.0 | NC (front, lateral) * on road * on path * min(progress / 0.8, 1) | 15 s, every 0.5 s, Zoe |
| l2_uniad@1.0 | L2 AT 1, 2, 3 s; the collision rates beside it | open loop, the ego on the log |
| l2_stp3@1.0 | L2 over the points UP TO 1, 2, 3 s; the same | open loop, the ego on the log |

Some compare with other drives of the same scene (``references``): EP with PDM-Closed's, EPDMS with the human's (what
the human did not keep is asked of no one) and with the log's past (HC), NCAP with who does not react.

A sub-score that is unknown (no map, no reference) is left out of the product or the mean, and named in the total's
evidence; where a protocol ``requires`` it (EP in PDMS: without it who stands would win) the total is unknown too.

A drive whose images could not be trusted (``render_valid`` false somewhere) keeps its numbers, each with
``trusted_share`` in its evidence, and is counted and shown; ``aggregate`` says why it can never help a mean.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drive_wm import __version__
from drive_wm.eval import metrics
from drive_wm.eval.metrics import References, Road, Scene
from drive_wm.types import InputError, Rollout, Score

METRICS: dict[str, Callable[..., Score]] = {
    "against_traffic": metrics.against_traffic,
    "collision_rate": metrics.collision_rate,
    "comfort": metrics.comfort,
    "counted_collisions": metrics.counted_collisions,
    "drive_quality": metrics.drive_quality,
    "driving_direction": metrics.driving_direction,
    "ego_progress": metrics.ego_progress,
    "expert_progress": metrics.expert_progress,
    "extended_comfort": metrics.extended_comfort,
    "history_comfort": metrics.history_comfort,
    "is_making_progress": metrics.is_making_progress,
    "l2": metrics.l2,
    "l2_to_log": metrics.l2_to_log,
    "lane_keeping": metrics.lane_keeping,
    "least_time_to_collision": metrics.least_time_to_collision,
    "made_progress": metrics.made_progress,
    "ncap": metrics.ncap,
    "no_at_fault_collision": metrics.no_at_fault_collision,
    "no_front_or_lateral_collision": metrics.no_front_or_lateral_collision,
    "on_road": metrics.on_road,
    "progress": metrics.progress,
    "route_completion": metrics.route_completion,
    "saturated_progress": metrics.saturated_progress,
    "speed_limit": metrics.speed_limit,
    "stayed_on_path": metrics.stayed_on_path,
    "time_to_collision": metrics.time_to_collision,
    "traffic_lights": metrics.traffic_lights,
}


HUMAN_FILTERED = ("no_at_fault_collision", "on_road", "driving_direction", "traffic_lights", "time_to_collision",
                  "lane_keeping")


@dataclass(frozen=True)
class Term:
    """A sub-score of a protocol: which of METRICS computes it, and the thresholds that differ from its defaults."""

    name: str
    metric: str
    thresholds: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Protocol:
    """total = product of ``factors`` * weighted mean of ``weights``; ``reported`` are printed beside and not counted.

    The drive starts start_s into a log and lasts duration_s, or until the log ends. vehicle: one of vehicle.VEHICLES.
    tracking "log" is open loop: the ego stays on the log. terms: how sub-scores are computed whose name is not that of
    their metric with its defaults. requires: sub-scores without which there is no total. human_filter: a sub-score that
    is 0 for the human counts as 1. references: drives of the same scene that it compares with, by their planner.
    best: whether the highest ("max") or the lowest total is best.
    """

    name: str
    version: str
    duration_s: float
    start_s: float
    replan_s: float
    vehicle: str
    tracking: str
    traffic: str
    factors: tuple[str, ...]
    weights: tuple[tuple[str, float], ...]
    reported: tuple[str, ...] = ()
    terms: tuple[Term, ...] = ()
    requires: tuple[str, ...] = ()
    human_filter: bool = False
    references: tuple[tuple[str, str], ...] = ()
    history_s: float = 0.0
    rate_hz: float = 10.0
    best: str = "max"

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def formula(self) -> str:
        terms = " + ".join(f"{weight:g} {name}" for name, weight in self.weights)
        mean = [f"({terms}) / {sum(weight for _, weight in self.weights):g}"] if len(self.weights) > 1 else \
            [name for name, _ in self.weights]
        return " * ".join([*self.factors, *mean])

    @property
    def subscores(self) -> tuple[str, ...]:
        return (*self.factors, *(name for name, _ in self.weights), *self.reported)

    def term(self, name: str) -> Term:
        return next((term for term in self.terms if term.name == name), Term(name, name))


_LOOP: dict[str, Any] = {"start_s": 2.0, "replan_s": 0.5, "tracking": "lqr", "traffic": "log"}
_OPEN: dict[str, Any] = {**_LOOP, "duration_s": 15.0, "tracking": "log", "vehicle": "zoe", "factors": (),
                         "weights": (("l2", 1.0),), "reported": ("collision_rate", "collision_rate_turned"),
                         "best": "min"}


def _open_terms(cumulative: bool) -> tuple[Term, ...]:
    own = ("cumulative", cumulative)
    return (Term("l2", "l2", (own,)), Term("collision_rate", "collision_rate", (own,)),
            Term("collision_rate_turned", "collision_rate", (own, ("with_yaw", True))))


_PROTOCOLS = (
    # The project's first form. Without a map on_road is unknown and left out of the product, which evidence says.
    Protocol("drive", "1.0", duration_s=15.0, vehicle="zoe", **_LOOP,
             factors=("no_at_fault_collision", "on_road", "made_progress"),
             weights=(("progress", 5.0), ("comfort", 2.0)), reported=("time_to_collision", "l2_to_log"),
             terms=(Term("comfort", "comfort", (("between", False),)),
                    Term("time_to_collision", "time_to_collision",
                         (("first_hit", False), ("intersections", False), ("bearing_now", True),
                          ("skip_touched", True))))),
    # NAVSIM v1: one plan, followed by the tracker for 4 s.
    Protocol("pdms", "1.1", duration_s=4.0, vehicle="pacifica", **{**_LOOP, "replan_s": 4.0},
             factors=("no_at_fault_collision", "on_road"),
             weights=(("ego_progress", 5.0), ("time_to_collision", 5.0), ("comfort", 2.0)),
             requires=("on_road", "ego_progress"), references=(("pdm", "pdm_closed"),)),
    # NAVSIM v2, stage one; replanned every 0.5 s, so that consecutive plans can be compared (EC).
    Protocol("epdms", "2.2", duration_s=4.0, vehicle="pacifica", **_LOOP,
             factors=("no_at_fault_collision", "on_road", "driving_direction", "traffic_lights"),
             weights=(("ego_progress", 5.0), ("time_to_collision", 5.0), ("lane_keeping", 2.0),
                      ("history_comfort", 2.0), ("extended_comfort", 2.0)),
             terms=(Term("ego_progress", "ego_progress", (("clipped_ratio", True),)),
                    Term("time_to_collision", "time_to_collision", (("leave_out_last", 9),))),
             requires=("on_road", "ego_progress"), human_filter=True, history_s=1.5,
             references=(("pdm", "pdm_closed"), ("human", "log_replay"))),
    # nuPlan asks every 0.1 s; here every 0.5 s, as images come at 2 Hz.
    Protocol("nuplan_cls", "1.0", duration_s=15.0, vehicle="pacifica", **_LOOP,
             factors=("no_at_fault_collision", "on_road", "made_progress", "driving_direction"),
             weights=(("progress", 5.0), ("time_to_collision", 5.0), ("speed_limit", 4.0), ("comfort", 2.0)),
             terms=(Term("no_at_fault_collision", "counted_collisions"),
                    Term("on_road", "on_road", (("tolerance_m", 0.3),)),
                    Term("made_progress", "is_making_progress"), Term("driving_direction", "against_traffic"),
                    Term("progress", "expert_progress"), Term("time_to_collision", "least_time_to_collision")),
             requires=("made_progress", "progress")),
    Protocol("ncap", "1.0", duration_s=8.0, vehicle="zoe", **_LOOP, factors=(), weights=(("ncap", 1.0),),
             reported=("no_at_fault_collision", "on_road", "progress", "comfort"), requires=("ncap",),
             references=(("unreacting", "constant_velocity"),)),
    Protocol("hd_score", "1.0", duration_s=15.0, vehicle="zoe", **_LOOP,
             factors=("drive_quality", "route_completion"), weights=(),
             reported=("no_at_fault_collision", "on_road", "time_to_collision", "comfort"),
             terms=(Term("time_to_collision", "time_to_collision", (("first_hit", False),)),),
             requires=("drive_quality", "route_completion")),
    Protocol("alpasim", "1.0", duration_s=15.0, vehicle="zoe", **_LOOP,
             factors=("no_front_or_lateral_collision", "on_road", "stayed_on_path"), weights=(("progress", 1.0),),
             reported=("no_at_fault_collision", "comfort", "l2_to_log"),
             terms=(Term("progress", "saturated_progress"),), requires=("stayed_on_path", "progress")),
    Protocol("l2_uniad", "1.0", **_OPEN, terms=_open_terms(False)),
    Protocol("l2_stp3", "1.0", **_OPEN, terms=_open_terms(True)),
)
PROTOCOLS: dict[str, Protocol] = {protocol.id: protocol for protocol in _PROTOCOLS}


def get_protocol(name: str | Protocol) -> Protocol:
    """By id, or by name where there is one version of it."""
    if isinstance(name, Protocol):
        return name
    named = [protocol for protocol in PROTOCOLS.values() if protocol.name == name]
    if name not in PROTOCOLS and len(named) != 1:
        near = difflib.get_close_matches(name, PROTOCOLS, n=1, cutoff=0.0)
        raise InputError(f"unknown protocol {name!r}; did you mean {near[0]!r}? Known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS.get(name) or named[0]


# --- what a score is printed with ---------------------------------------------------------------------------------


def thresholds(protocol: Protocol) -> dict[str, dict[str, Any]]:
    """sub-score -> every threshold that it is computed with, those of its defaults too."""
    out = {}
    for name in protocol.subscores:
        term = protocol.term(name)
        parameters = inspect.signature(METRICS[term.metric]).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
        out[name] = {**defaults, **dict(term.thresholds)}
    return out


def config_hash(protocol: Protocol) -> str:
    """12 hex digits of everything that the protocol fixes, the thresholds of its sub-scores included."""
    text = json.dumps([dataclasses.asdict(protocol), thresholds(protocol)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def stamp(protocol: Protocol, clips: Sequence[str], seed: int) -> dict[str, Any]:
    """What every printed score comes with, as plain values: without all of it two numbers do not compare."""
    listed = hashlib.sha256("\n".join(clips).encode()).hexdigest()[:12]
    return {"protocol": protocol.id, "formula": protocol.formula, "duration_s": protocol.duration_s,
            "rate_hz": protocol.rate_hz, "replan_s": protocol.replan_s, "vehicle": protocol.vehicle,
            "tracking": protocol.tracking, "traffic": protocol.traffic, "weights": dict(protocol.weights),
            "thresholds": thresholds(protocol), "clips": list(clips), "clips_hash": listed, "seed": seed,
            "version": __version__, "config_hash": config_hash(protocol)}


# --- scores -------------------------------------------------------------------------------------------------------


def score_rollout(rollout: Rollout, protocol: Protocol, references: References | None = None,
                  road: Road | None = None) -> dict[str, Score]:
    """Every sub-score by name, and "total" computed from those very values.

    references: what the protocol compares with; road: the log's map prepared, where many drives share it.
    """
    scene = Scene.of(rollout, references, road)
    scores = _subscores(scene, protocol, protocol.subscores)
    human = scene.references.human
    if protocol.human_filter and human is not None and not metrics.failed(rollout):
        names = [name for name in HUMAN_FILTERED if name in scores]
        scores = human_filter(scores, _subscores(Scene.of(human, road=scene.road), protocol, names))
    share = float(np.mean(rollout.render_valid)) if len(rollout.render_valid) else 1.0
    trust = {"trusted_share": share}
    scores = {name: dataclasses.replace(s, evidence={**s.evidence, **trust}) for name, s in scores.items()}
    total = total_score(scores, protocol)
    return {**scores, "total": dataclasses.replace(total, evidence={**total.evidence, **trust})}


def _subscores(scene: Scene, protocol: Protocol, names: Sequence[str]) -> dict[str, Score]:
    out = {}
    for name in names:
        term = protocol.term(name)
        out[name] = METRICS[term.metric](scene, protocol.id, **dict(term.thresholds))
    return out


def human_filter(scores: Mapping[str, Score], human: Mapping[str, Score]) -> dict[str, Score]:
    """EPDMS: where the human's sub-score is exactly 0 the planner's becomes 1; evidence keeps what it was."""
    out = dict(scores)
    for name in HUMAN_FILTERED:
        own, theirs = scores.get(name), human.get(name)
        if own is not None and theirs is not None and own.valid and theirs.valid and theirs.value == 0.0:
            out[name] = dataclasses.replace(own, value=1.0, evidence={**own.evidence, "filtered": own.value})
    return out


def total_score(scores: Mapping[str, Score], protocol: Protocol) -> Score:
    """The protocol's formula over the valid sub-scores; those unknown are left out and named in the evidence.

    Unknown itself where a required one is, or where nothing is known.
    """
    counted = (*protocol.factors, *(name for name, _ in protocol.weights))
    left_out = [name for name in counted if not scores[name].valid]
    known = [(scores[name].value, weight) for name, weight in protocol.weights if scores[name].valid]
    missing = [name for name in protocol.requires if not scores[name].valid]
    evidence = {"formula": protocol.formula, "left_out": left_out}
    if missing or len(left_out) == len(counted) or (protocol.weights and not known):
        return Score("total", float("nan"), False, protocol.id, None, {**evidence, "missing": missing})
    factor = math.prod(scores[name].value for name in protocol.factors if scores[name].valid)
    mean = sum(value * weight for value, weight in known) / sum(weight for _, weight in known) if known else 1.0
    return Score("total", factor * mean, True, protocol.id, None, evidence)
