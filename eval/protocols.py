"""Named, versioned, frozen ways to evaluate. A number without its protocol cannot be compared."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass

from drive_wm.eval import metrics
from drive_wm.types import InputError, Rollout, Score

METRICS: dict[str, Callable[[Rollout, str], Score]] = {
    "no_at_fault_collision": metrics.no_at_fault_collision,
    "on_road": metrics.on_road,
    "made_progress": metrics.made_progress,
    "progress": metrics.progress,
    "comfort": metrics.comfort,
    "time_to_collision": metrics.time_to_collision,
    "l2_to_log": metrics.l2_to_log,
}


@dataclass(frozen=True)
class Protocol:
    """total = product of ``factors`` * weighted mean of ``weights``; ``reported`` are printed beside and not counted.

    The drive starts start_s into a log and lasts duration_s, or until the log ends. vehicle: one of vehicle.VEHICLES.
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

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def formula(self) -> str:
        terms = " + ".join(f"{weight:g} {name}" for name, weight in self.weights)
        return f"{' * '.join(self.factors)} * ({terms}) / {sum(weight for _, weight in self.weights):g}"

    @property
    def subscores(self) -> tuple[str, ...]:
        return (*self.factors, *(name for name, _ in self.weights), *self.reported)


PROTOCOLS: dict[str, Protocol] = {
    # The project's first form. Without a map on_road is unknown and left out of the product, which evidence says.
    "drive@1.0": Protocol(
        "drive", "1.0", duration_s=15.0, start_s=2.0, replan_s=0.5, vehicle="zoe", tracking="lqr", traffic="log",
        factors=("no_at_fault_collision", "on_road", "made_progress"), weights=(("progress", 5.0), ("comfort", 2.0)),
        reported=("time_to_collision", "l2_to_log")),
}


def get_protocol(name: str | Protocol) -> Protocol:
    if isinstance(name, Protocol):
        return name
    if name not in PROTOCOLS:
        raise InputError(f"unknown protocol {name!r}, expected one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def config_hash(protocol: Protocol) -> str:
    """12 hex digits of everything that the protocol fixes."""
    text = json.dumps(dataclasses.asdict(protocol), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def score_rollout(rollout: Rollout, protocol: Protocol) -> dict[str, Score]:
    """Every sub-score by name, and "total" computed from those very values."""
    scores = {name: METRICS[name](rollout, protocol.id) for name in protocol.subscores}
    return {**scores, "total": total_score(scores, protocol)}


def total_score(scores: dict[str, Score], protocol: Protocol) -> Score:
    """The protocol's formula over the valid sub-scores; those unknown are left out and named in the evidence."""
    left_out = [name for name in protocol.subscores if name not in protocol.reported and not scores[name].valid]
    factor = math.prod(scores[name].value for name in protocol.factors if scores[name].valid)
    known = [(scores[name].value, weight) for name, weight in protocol.weights if scores[name].valid]
    if not known:
        return Score("total", float("nan"), False, protocol.id, None, {"left_out": left_out})
    mean = sum(value * weight for value, weight in known) / sum(weight for _, weight in known)
    return Score("total", factor * mean, True, protocol.id, None, {"formula": protocol.formula, "left_out": left_out})
