"""How far the ego came, against the log, or against a reference planner in the same scene."""

from __future__ import annotations

import numpy as np

from drive_wm.eval.metrics.base import score, unknown
from drive_wm.eval.metrics.collision import collision_worth
from drive_wm.eval.metrics.geometry import follow_polyline
from drive_wm.eval.metrics.road_map import extended
from drive_wm.eval.metrics.scene import Scene
from drive_wm.types import BoolArray, FloatArray, Rollout, Score

LEFT_PATH_M = 4.0  # further from the log's path than this, driving on is no progress (AlpaSim ends the scene there)
SHORT_LOG_M = 5.0
ROLLING_S = 1.2  # a tracked ego that is told to stand rolls on for 1.1 s of its speed
EXTENSION_M = 80.0
NO_PATH = "the log has no ego path"


def _length(line: FloatArray) -> float:
    return float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())


def progress(drive: Rollout | Scene, protocol: str, *, left_path_m: float = LEFT_PATH_M,
             short_log_m: float = SHORT_LOG_M) -> Score:
    """How far along the log's path the ego came, over how far the log came in the same time, at most 1.

    Progress ends where the ego is more than 4 m off the path. A log that moved less than 5 m asks for none: 1
    (AlpaSim). per_step: metres along the path. Unknown where the log has no path.
    """
    scene = Scene.of(drive)
    line = scene.logged_path[:, :2]
    if len(line) < 2:
        return unknown(scene.rollout, "progress", protocol, NO_PATH)
    logged_m = _length(line)
    if logged_m < short_log_m:
        return score(scene.rollout, "progress", 1.0, protocol, logged_m=logged_m,
                     why=f"the log moved less than {short_log_m:g} m")
    arcs, gaps = follow_polyline(scene.xyyaw[:, :2], line, 0.0)
    travelled = arcs - arcs[0]
    left = gaps > left_path_m
    last = len(left) - 1 if not left.any() else max(int(np.argmax(left)) - 1, 0)
    driven_m = float(travelled[last])
    return score(scene.rollout, "progress", float(np.clip(driven_m / logged_m, 0.0, 1.0)), protocol, travelled,
                 driven_m=driven_m, logged_m=logged_m, left_path_at=last + 1 if left.any() else None)


def made_progress(drive: Rollout | Scene, protocol: str, *, least: float = 0.2, rolling_s: float = ROLLING_S) -> Score:
    """nuPlan's gate: 1 where progress is at least 0.2, else 0, so that standing is worth nothing.

    The way that a moving ego rolls while it stops is taken off both sides first, or braking at once would pass. Where
    less than 5 m then remain of the log's way, standing was right: 1.
    """
    scene = Scene.of(drive)
    whole = progress(scene, protocol)
    if not whole.valid:
        return unknown(scene.rollout, "made_progress", protocol, NO_PATH)
    rolling_m = rolling_s * max(float(scene.speed_mps[0]), 0.0)
    asked_m = whole.evidence["logged_m"] - rolling_m
    share = 1.0 if asked_m < SHORT_LOG_M else (whole.evidence["driven_m"] - rolling_m) / asked_m
    return score(scene.rollout, "made_progress", float(share >= least), protocol, share=share, rolling_m=rolling_m)


# --- along the route ----------------------------------------------------------------------------------------------


def route_line(scene: Scene) -> FloatArray | None:
    """(N, 2): the scene's own line, or the log's path, continued along its lanes (straight on without a map), and
    straight back before it."""
    path = scene.logged_path
    if scene.line is not None:
        return scene.line
    if not len(path):
        return None
    ahead = np.zeros((0, 2))
    if scene.road is not None and scene.route:
        ahead = scene.road.ahead(scene.route[-1], path[-1, :2], EXTENSION_M)
    return extended(path[:, :2], float(path[0, 2]), ahead, EXTENSION_M)


def route_progress_m(scene: Scene) -> FloatArray | None:
    """(..., S) signed metres of the middle of the ego along the route since the start; None without a log's path."""
    line = route_line(scene)
    if line is None:
        return None
    arcs, _ = follow_polyline(scene.center, line, EXTENSION_M if scene.line is None else None)
    return arcs - arcs[..., :1]


def gate(scene: Scene) -> FloatArray:
    """(...) PDMS' NC * DAC; where no map can tell, NC alone."""
    on = scene.on_road
    off = np.ones(scene.xyyaw.shape[:-2]) if on is None else on.all(-1).astype(float)
    worth: FloatArray = collision_worth(scene)[..., -1] * off
    return worth


def relative_progress(progress_m: FloatArray, multiplier: FloatArray, short_m: float = SHORT_LOG_M) -> FloatArray:
    """PDMS' EP among proposals (B,): p * mult / max(p * mult); 1 (0 where mult is 0) where that maximum is <= 5 m."""
    raw = np.maximum(progress_m, 0.0) * multiplier
    most = float(raw.max())
    return raw / most if most > short_m else (multiplier > 0).astype(float)


def ego_progress(drive: Rollout | Scene, protocol: str, *, short_m: float = SHORT_LOG_M,
                 clipped_ratio: bool = False) -> Score:
    """PDMS' EP: p * mult / N with p = max(0, way along the route), mult = NC * DAC, N the larger p * mult of PDM-Closed
    and the planner; 1 (0 where mult = 0) where N <= 5 m. clipped_ratio: EPDMS' clip(p / N, 0, 1), N PDM-Closed's alone.

    Unknown without PDM-Closed's drive of the same scene (References.pdm).
    """
    scene = Scene.of(drive)
    pdm, own_m = scene.references.pdm, route_progress_m(scene)
    if pdm is None or own_m is None:
        why = NO_PATH if own_m is None else "no drive of PDM-Closed in this scene to compare with"
        return unknown(scene.rollout, "ego_progress", protocol, why)
    other = Scene.of(pdm, road=scene.road)
    other_m = route_progress_m(other)
    assert other_m is not None
    ways = np.array([max(float(own_m[-1]), 0.0), max(float(other_m[-1]), 0.0)])
    worth = np.array([float(gate(scene)), float(gate(other))])
    if clipped_ratio:
        norm = ways[1] * worth[1]
        value = 1.0 if norm <= short_m else float(np.clip(ways[0] / norm, 0.0, 1.0))
    else:
        norm = float((ways * worth).max())
        value = float(relative_progress(ways, worth, short_m)[0])
    return score(scene.rollout, "ego_progress", value, protocol, own_m, driven_m=ways[0], pdm_m=ways[1], norm_m=norm)


def expert_progress(drive: Rollout | Scene, protocol: str, *, least_m: float = 2.0) -> Score:
    """nuPlan's EP: min(1, max(ego, 2 m) / max(expert, 2 m)) along the log's route; 0 if the ego went back over 2 m."""
    scene = Scene.of(drive)
    own_m, line = route_progress_m(scene), route_line(scene)
    if own_m is None or line is None:
        return unknown(scene.rollout, "progress", protocol, NO_PATH)
    driven_m = float(own_m[-1])
    arcs, _ = follow_polyline(scene.logged_path[:, :2], line, EXTENSION_M)
    expert_m = float(arcs[-1] - arcs[0])
    value = 0.0 if driven_m < -least_m else min(1.0, max(driven_m, least_m) / max(expert_m, least_m))
    return score(scene.rollout, "progress", value, protocol, own_m, driven_m=driven_m, expert_m=expert_m)


def is_making_progress(drive: Rollout | Scene, protocol: str, *, least: float = 0.2, least_m: float = 2.0) -> Score:
    """nuPlan's gate: 1 where expert_progress is at least 0.2, else 0."""
    whole = expert_progress(drive, protocol, least_m=least_m)
    scene = Scene.of(drive)
    if not whole.valid:
        return unknown(scene.rollout, "made_progress", protocol, NO_PATH)
    return score(scene.rollout, "made_progress", float(whole.value >= least), protocol, share=whole.value)


# --- AlpaSim ------------------------------------------------------------------------------------------------------


def _along_log(scene: Scene) -> tuple[FloatArray, FloatArray, float] | None:
    """Metres along the log's path (S,), distance from it, past its end from its continuation (S,), and its length."""
    path = scene.logged_path
    if not len(path):
        return None
    offset = scene.center[0] - scene.xyyaw[0, :2]  # the log's middle of the car, as the ego's
    c, s = np.cos(path[:, 2] - scene.xyyaw[0, 2]), np.sin(path[:, 2] - scene.xyyaw[0, 2])
    middle = path[:, :2] + np.stack([c * offset[0] - s * offset[1], s * offset[0] + c * offset[1]], -1)
    line = extended(middle, float(path[0, 2]), np.zeros((0, 2)), EXTENSION_M)
    arcs, gaps = follow_polyline(scene.center, line, EXTENSION_M)
    logged = follow_polyline(middle, line, EXTENSION_M)[0]
    return arcs - logged[0], gaps, float(logged[-1] - logged[0])


def stayed_on_path(drive: Rollout | Scene, protocol: str, *, corridor_m: float = LEFT_PATH_M) -> Score:
    """AlpaSim: 0 once the ego is 4 m or more beside the log's path; driving on past its end is not leaving it.

    Leaving ends the scene there, as a failure: what follows would be judged against agents that cannot know.
    """
    scene = Scene.of(drive)
    found = _along_log(scene)
    if found is None:
        return unknown(scene.rollout, "stayed_on_path", protocol, NO_PATH)
    left: BoolArray = np.logical_or.accumulate(found[1] >= corridor_m)
    return score(scene.rollout, "stayed_on_path", float(not left.any()), protocol, (~left).astype(float),
                 left_path_at=int(np.argmax(left)) if left.any() else None, furthest_m=float(found[1].max()))


def saturated_progress(drive: Rollout | Scene, protocol: str, *, saturation: float = 0.8,
                       short_log_m: float = SHORT_LOG_M) -> Score:
    """AlpaSim: min(progress / 0.8, 1), progress being the share of the log's way in the same time; 1 where that is
    less than 5 m."""
    scene = Scene.of(drive)
    found = _along_log(scene)
    if found is None:
        return unknown(scene.rollout, "progress", protocol, NO_PATH)
    arcs, _, logged_m = found
    share = 1.0 if logged_m < short_log_m else float(np.clip(arcs[-1] / logged_m, 0.0, 1.0))
    return score(scene.rollout, "progress", min(share / saturation, 1.0), protocol, arcs, share=share,
                 logged_m=logged_m)
