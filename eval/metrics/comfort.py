"""How a passenger would feel it: accelerations, jerks and turning, smoothed as NAVSIM smooths them."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from drive_wm.eval.metrics.base import STEP_S, score, unknown
from drive_wm.eval.metrics.scene import Scene
from drive_wm.eval.vehicle import EgoState, drive_step, fit_reference, reference_from_trajectory
from drive_wm.types import FloatArray, Rollout, Score

Bounds = tuple[tuple[str, float, float], ...]
COMFORT_BOUNDS: dict[str, tuple[float, float]] = {  # strict
    "longitudinal_accel_mps2": (-4.05, 2.40),
    "lateral_accel_mps2": (-4.89, 4.89),
    "jerk_mps3": (-8.37, 8.37),
    "longitudinal_jerk_mps3": (-4.13, 4.13),
    "yaw_accel_radps2": (-1.93, 1.93),
    "yaw_rate_radps": (-0.95, 0.95),
}
BOUNDS: Bounds = tuple((name, low, high) for name, (low, high) in COMFORT_BOUNDS.items())
DECIMALS = 8  # a strict bound is not left to rounding errors


@lru_cache(maxsize=64)
def _filter(count: int, window: int, order: int, derivative: int, between: bool) -> FloatArray:
    """(count, count): the smoother as a matrix. between: an even window is read at its middle, between two samples."""
    out = np.zeros((count, count))
    if derivative > order:
        return out
    half, offset = window // 2, np.arange(window)
    fit = np.linalg.pinv(np.vander(offset.astype(float), order + 1, increasing=True))  # (order + 1, window)
    even = between and window % 2 == 0
    for i in range(count):
        inner = half <= i < count - half
        first = i - half + 1 if even and inner else int(np.clip(i - half, 0, count - window))
        at = (window - 1) / 2 if even and inner else float(i - first)
        weights = np.zeros(window)
        for p in range(derivative, order + 1):
            weights += np.prod(np.arange(p - derivative + 1, p + 1)) * at ** (p - derivative) * fit[p]
        out[i, first: first + window] = weights
    return out / STEP_S**derivative


def savitzky_golay(values: FloatArray, window: int, order: int, derivative: int = 0,
                   between: bool = True) -> FloatArray:
    """(..., N) smoothed, or its derivative per second: a polynomial fitted to the window around each sample.

    At the ends the outermost whole window is used. Equals scipy.signal.savgol_filter with mode "interp", also in that
    an even window is read half a step late; between=False reads it at the sample. Savitzky and Golay, 1964.
    """
    count = values.shape[-1]
    window = min(window, count)
    smoothed: FloatArray = values @ _filter(count, window, min(order, window - 1), derivative, between).T
    return smoothed


def motion(drive: Rollout | Scene, accel_window: int = 8, jerk_window: int = 15,
           between: bool = True) -> dict[str, FloatArray]:
    """The smoothed quantities of COMFORT_BOUNDS, (..., S) each; (window, order): acceleration 8, 2; jerk 15, 2; yaw
    rate 5, 2; yaw acceleration 5, 3. Lateral acceleration is speed times yaw rate; jerk that of the whole acceleration.
    """
    scene = Scene.of(drive)
    yaw = np.unwrap(scene.xyyaw[..., 2], axis=-1)
    yaw_rate = savitzky_golay(yaw, 5, 2, 1)
    lateral = scene.speed_mps * yaw_rate
    moved = {
        "longitudinal_accel_mps2": savitzky_golay(scene.accel_mps2, accel_window, 2, 0, between),
        "lateral_accel_mps2": savitzky_golay(lateral, accel_window, 2, 0, between),
        "jerk_mps3": savitzky_golay(np.hypot(scene.accel_mps2, lateral), jerk_window, 2, 1),
        "longitudinal_jerk_mps3": savitzky_golay(scene.accel_mps2, jerk_window, 2, 1),
        "yaw_accel_radps2": savitzky_golay(yaw, 5, 3, 2),
        "yaw_rate_radps": yaw_rate,
    }
    return {name: np.round(values, DECIMALS) for name, values in moved.items()}


def steps_comfortable(moved: dict[str, FloatArray], bounds: Bounds = BOUNDS) -> FloatArray:
    """(..., S) 1 where every quantity lies strictly within its bounds, else 0."""
    return np.all([(moved[name] > low) & (moved[name] < high) for name, low, high in bounds], axis=0).astype(float)


def comfort(drive: Rollout | Scene, protocol: str, *, bounds: Bounds = BOUNDS, accel_window: int = 8,
            jerk_window: int = 15, between: bool = True) -> Score:
    """PDMS' C: 1 where every quantity stays strictly within its bounds all the time. evidence: the extremes of each."""
    scene = Scene.of(drive)
    moved = motion(scene, accel_window, jerk_window, between)
    fine = steps_comfortable(moved, bounds)
    extremes = {name: (float(v.min()), float(v.max())) for name, v in moved.items()}
    return score(scene.rollout, "comfort", float(fine.all()), protocol, fine, extremes=extremes)


def history_comfort(drive: Rollout | Scene, protocol: str, *, bounds: Bounds = BOUNDS) -> Score:
    """EPDMS' HC: C of the drive with the log's past (References.history) put before it; unknown without that past."""
    scene = Scene.of(drive)
    past = scene.references.history
    if past is None or not len(past.xyyaw):
        return unknown(scene.rollout, "history_comfort", protocol, "no past of the ego was given")
    moved = motion(scene.with_egos(np.concatenate([past.xyyaw, scene.xyyaw]),
                                   np.concatenate([past.speed_mps, scene.speed_mps]),
                                   np.concatenate([past.accel_mps2, scene.accel_mps2])))
    fine = steps_comfortable(moved, bounds)
    extremes = {name: (float(v.min()), float(v.max())) for name, v in moved.items()}
    return score(scene.rollout, "history_comfort", float(fine.all()), protocol, fine[len(past.xyyaw):],
                 extremes=extremes, history_steps=len(past.xyyaw))


# --- do consecutive plans agree? ----------------------------------------------------------------------------------

EXTENDED_BOUNDS = (("acceleration", 0.7), ("jerk", 0.5), ("yaw_rate", 0.1), ("yaw_acceleration", 0.1))


def followed_plans(scene: Scene, follow_s: float = 4.0) -> tuple[list[int], Scene | None]:
    """Steps at which a plan was made, (K,), and the egos (K, N, 3) if the tracker had followed each to its end, for
    follow_s or as far as the shortest reaches; None without a plan."""
    rollout = scene.rollout
    made = [(i, plan.trajectory) for i, plan in enumerate(rollout.plans) if plan is not None] if rollout else []
    if not made or rollout is None:
        return [], None
    at = [i for i, _ in made]
    count = round(min(follow_s, *(float(t.times_s[-1]) for _, t in made)) / STEP_S)
    ways = [reference_from_trajectory(scene.xyyaw[i], t).xyyaw[: count + 1] for i, t in made]
    reference = fit_reference(np.stack(ways))
    states = [EgoState(scene.xyyaw[at], scene.speed_mps[at], scene.accel_mps2[at], rollout.ego_steer_rad[at])]
    for k in range(count):
        states.append(drive_step(states[-1], reference, k, scene.vehicle))
    return at, scene.with_egos(np.stack([s.xyyaw for s in states], 1), np.stack([s.speed_mps for s in states], 1),
                               np.stack([s.accel_mps2 for s in states], 1))


def disagreement(first: Scene, second: Scene, later_steps: int) -> dict[str, float]:
    """RMS differences over the common time of two drives, the second ``later_steps`` after the first."""
    count = min(first.steps - later_steps, second.steps)
    parts = (_cut(first, later_steps, later_steps + count), _cut(second, 0, count))
    a, b = ({"acceleration": savitzky_golay(whole, 8, 2),
             "jerk": savitzky_golay(whole, 15, 2, 1),
             "yaw_rate": savitzky_golay(yaw, 5, 2, 1),
             "yaw_acceleration": savitzky_golay(yaw, 5, 2, 2)} for whole, yaw in map(_felt, parts))
    return {name: float(np.sqrt(np.mean((a[name] - b[name]) ** 2))) for name in a}


def _cut(scene: Scene, begin: int, end: int) -> Scene:
    return replace(scene, xyyaw=scene.xyyaw[begin:end], speed_mps=scene.speed_mps[begin:end],
                   accel_mps2=scene.accel_mps2[begin:end])


def _felt(scene: Scene) -> tuple[FloatArray, FloatArray]:
    """The whole acceleration, and the heading without jumps, (S,) each."""
    yaw = np.unwrap(scene.xyyaw[:, 2])
    return np.hypot(scene.accel_mps2, scene.speed_mps * savitzky_golay(yaw, 5, 2, 1)), yaw


def extended_comfort(drive: Rollout | Scene, protocol: str, *, bounds: tuple[tuple[str, float], ...] = EXTENDED_BOUNDS,
                     within_s: float = 0.55, follow_s: float = 4.0) -> Score:
    """EPDMS' EC: 1 where two drives, started less than 0.55 s apart, do not differ by more than the bounds (RMS over
    their common time), else 0.

    The two are this drive and References.previous; without that, the consecutive plans of this drive, each followed by
    the tracker for 4 s or as far as it reaches, and all pairs must agree. Unknown where there is neither.
    """
    scene = Scene.of(drive)
    pairs = _drive_pair(scene, within_s) or _plan_pairs(scene, within_s, follow_s)
    if not pairs:
        return unknown(scene.rollout, "extended_comfort", protocol, f"no two plans less than {within_s:g} s apart")
    steps, worst = np.ones(scene.steps), dict.fromkeys((name for name, _ in bounds), 0.0)
    for step, gaps in pairs:
        steps[step] = float(all(gaps[name] <= most for name, most in bounds))
        worst = {name: max(value, gaps[name]) for name, value in worst.items()}
    return score(scene.rollout, "extended_comfort", float(steps.all()), protocol, steps, worst_rms=worst,
                 pairs=len(pairs))


def _drive_pair(scene: Scene, within_s: float) -> list[tuple[int, dict[str, float]]]:
    previous = scene.references.previous
    if previous is None:
        return []
    later_s = (int(scene.timestamps_us[0]) - int(previous.timestamps_us[0])) / 1e6
    if not 0 < later_s < within_s:
        return []
    return [(0, disagreement(Scene.of(previous, road=scene.road), scene, round(later_s / STEP_S)))]


def _plan_pairs(scene: Scene, within_s: float, follow_s: float) -> list[tuple[int, dict[str, float]]]:
    at, egos = followed_plans(scene, follow_s)
    if egos is None:
        return []
    drives = [egos.with_egos(egos.xyyaw[k], egos.speed_mps[k], egos.accel_mps2[k]) for k in range(len(at))]
    return [(j, disagreement(a, b, j - i)) for i, j, a, b in zip(at, at[1:], drives, drives[1:])
            if (j - i) * STEP_S < within_s and egos.steps > j - i]
