"""Scores of whole drives and sets of drives that are no product of sub-scores: HD, two stages, NCAP, proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from drive_wm.eval.metrics.base import score, unknown
from drive_wm.eval.metrics.collision import collision_worth, impact
from drive_wm.eval.metrics.comfort import motion, steps_comfortable
from drive_wm.eval.metrics.progress import progress, relative_progress, route_progress_m
from drive_wm.eval.metrics.scene import Scene
from drive_wm.eval.metrics.ttc import steps_in_danger
from drive_wm.types import FloatArray, InputError, Rollout, Score

NCAP_TYPES = ("stationary", "frontal", "side")


# --- HD-Score -----------------------------------------------------------------------------------------------------


def drive_quality(drive: Rollout | Scene, protocol: str, *, ttc_weight: float = 5.0,
                  comfort_weight: float = 2.0) -> Score:
    """HUGSIM's mean over time of NC * DAC * (5 TTC + 2 C) / 7, each as it stands at that step.

    The mean is over all steps that were planned: one that was not driven is worth 0. Without a map DAC is unknown,
    and so is this.
    """
    scene = Scene.of(drive)
    if scene.on_road is None:
        return unknown(scene.rollout, "drive_quality", protocol, "the log has no drivable area")
    fine = ttc_weight * ~steps_in_danger(scene, first_hit=False) + comfort_weight * steps_comfortable(motion(scene))
    steps = collision_worth(scene) * scene.on_road * fine / (ttc_weight + comfort_weight)
    planned = scene.rollout.planned_steps if scene.rollout is not None else scene.steps
    return score(scene.rollout, "drive_quality", float(steps.sum()) / max(planned, scene.steps), protocol, steps)


def route_completion(drive: Rollout | Scene, protocol: str) -> Score:
    """min(RC, 1): the share of the log's way that the ego came, as ``progress``."""
    whole = progress(drive, protocol)
    return Score("route_completion", whole.value, whole.valid, protocol, whole.per_step, whole.evidence)


# --- proposals ----------------------------------------------------------------------------------------------------


def pdm_scores(scene: Scene) -> dict[str, FloatArray]:
    """PDMS of a batch of egos (B, S, 3) in one world, each sub-score (B,) and "total"; EP is relative to the best.

    As evidence also "progress_m" (B,), and "collision_worth" and "danger" (B, S): NC so far, and where TTC fails.
    """
    way = route_progress_m(scene)
    if way is None:
        raise InputError("proposals cannot be scored without a route: the scene's log has no ego path")
    worth, danger = collision_worth(scene), steps_in_danger(scene)
    multiplier = worth[..., -1] if scene.on_road is None else worth[..., -1] * scene.on_road.all(-1)
    scores = {"multiplier": multiplier, "progress_m": way[..., -1],
              "ego_progress": relative_progress(way[..., -1], multiplier),
              "time_to_collision": (~danger.any(-1)).astype(float), "collision_worth": worth, "danger": danger,
              "comfort": steps_comfortable(motion(scene)).all(-1).astype(float)}
    weighted = 5 * scores["ego_progress"] + 5 * scores["time_to_collision"] + 2 * scores["comfort"]
    return {**scores, "total": multiplier * weighted / 12}


# --- two stages ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """A first-stage score, where its raw plan ended (2,), and synthetic drives: starts (K, 2), their scores (K,)."""

    first: float
    endpoint_xy: FloatArray
    starts_xy: FloatArray
    second: FloatArray

    @property
    def value(self) -> float:
        return self.first * float(pseudo_weights(self.endpoint_xy, self.starts_xy) @ self.second)


def pseudo_weights(endpoint_xy: FloatArray, starts_xy: FloatArray, variance_m2: float = 0.1) -> FloatArray:
    """(K,) proportional to exp(-d^2 / (2 * 0.1)) of the distance to each start; uniform where all are about 0."""
    weight = np.exp(-((np.asarray(starts_xy) - endpoint_xy) ** 2).sum(-1) / (2 * variance_m2))
    total = float(weight.sum())
    if np.isclose(total, 0.0):
        return np.full(len(weight), 1.0 / len(weight))
    normed: FloatArray = weight / total
    return normed


def two_stage(groups: Sequence[tuple[Stage, Stage]]) -> float:
    """EPDMS: S1 * sum(w * S2), averaged over each pair (t, t - 0.5 s), then over groups."""
    return float(np.mean([(now.value + before.value) / 2 for now, before in groups]))


# --- NCAP ---------------------------------------------------------------------------------------------------------


def ncap_gate(unreacting: Rollout, oracle: Rollout) -> list[str]:
    """Why a scene is not fit for NCAP, nothing if it is: who does not react must crash, who knows it must not."""
    reasons = [] if impact(unreacting) is not None else ["an unreacting ego does not crash"]
    hit = impact(oracle)
    return reasons + ([f"an oracle hits {hit['id']} after {hit['time_s']:.2f} s"] if hit is not None else [])


def ncap_mean(runs: Mapping[str, Mapping[str, Sequence[float]]], protocol: str = "ncap@1.0") -> Score:
    """type -> scenario -> the scores of its runs: the mean over runs, then scenarios, then the three types.

    Unknown while one of stationary, frontal and side is missing; evidence holds the mean of each type that is there.
    """
    strange = sorted(set(runs) - set(NCAP_TYPES))
    if strange:
        raise InputError(f"NCAP scenario types {strange}, expected {', '.join(NCAP_TYPES)}")
    means = {kind: float(np.mean([np.mean(values) for values in scenarios.values()]))
             for kind, scenarios in runs.items() if scenarios}
    missing = [kind for kind in NCAP_TYPES if kind not in means]
    value = float("nan") if missing else float(np.mean(list(means.values())))
    return Score("ncap", value, not missing, protocol, None, {**means, "missing": missing})
