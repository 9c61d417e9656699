"""Where the ego drove: on the road, in its direction, in its lane, past its lights and within its limits."""

from __future__ import annotations

import numpy as np

from drive_wm.eval.metrics.base import STEP_S, score, unknown
from drive_wm.eval.metrics.geometry import boxes_overlap
from drive_wm.eval.metrics.scene import Scene
from drive_wm.types import SIGNAL_STATES, BoolArray, FloatArray, Lane, Rollout, Score

RED = SIGNAL_STATES.index("red")
NO_MAP, NO_ROUTE = "the log has no drivable area", "the log drove along no lane of the map"


def on_road(drive: Rollout | Scene, protocol: str, *, tolerance_m: float = 0.0) -> Score:
    """PDMS' DAC: 0 if any corner of the ego ever leaves the road. Unknown without a map.

    The road: drivable area, intersections and car parks. tolerance_m: how far a corner may stand out (PDMS 0, nuPlan
    0.3 m).
    """
    scene = Scene.of(drive)
    steps = scene.on_road
    if steps is None or scene.road is None:
        return unknown(scene.rollout, "on_road", protocol, NO_MAP)
    if tolerance_m > 0 and not steps.all():
        corners = scene.corners[~steps].reshape(-1, 2)
        near = scene.road.areas.any(corners) | (scene.road.areas.distance(corners) <= tolerance_m)
        steps = steps.copy()
        steps[~steps] = near.reshape(-1, 4).all(-1)
    first = None if steps.all() else int(np.argmin(steps))
    return score(scene.rollout, "on_road", float(steps.all()), protocol, steps.astype(float), first_step_off=first)


# --- direction ----------------------------------------------------------------------------------------------------


def _travel(scene: Scene) -> FloatArray:
    """(..., S, 2) of the ego's middle since the step before; 0 at the first."""
    step = np.diff(scene.center, axis=-2)
    return np.concatenate([np.zeros_like(scene.center[..., :1, :]), step], -2)


def _trailing(values: FloatArray, window_s: float) -> FloatArray:
    """(..., S) sums over the last window_s, the present step included."""
    count = round(window_s / STEP_S)
    total = np.cumsum(values, -1)
    trailing: FloatArray = total - np.concatenate([np.zeros_like(total[..., :count]), total[..., :-count]], -1)[
        ..., :total.shape[-1]]
    return trailing


def wrong_way_m(scene: Scene, window_s: float = 1.0) -> FloatArray:
    """(..., S) EPDMS: metres that the middle of the ego went outside the route's lanes in the trailing second;
    intersections do not count."""
    assert scene.road is not None
    outside = scene.road.outside(scene.center, scene.route_lanes) & ~scene.center_in_intersection
    return _trailing(np.where(outside, np.linalg.norm(_travel(scene), axis=-1), 0.0), window_s)


def _graded(metres: FloatArray, fine_m: float, worst_m: float) -> FloatArray:
    graded: FloatArray = np.where(metres < fine_m, 1.0, np.where(metres < worst_m, 0.5, 0.0))
    return graded


def driving_direction(drive: Rollout | Scene, protocol: str, *, fine_m: float = 2.0, worst_m: float = 6.0,
                      window_s: float = 1.0) -> Score:
    """EPDMS' DDC: at most 2 m in any second outside the route's lanes 1, at most 6 m 0.5, else 0.

    The route's lanes: those that the log drove along, their neighbours of the same direction, and what continues them.
    """
    scene = Scene.of(drive)
    if scene.road is None or not scene.route:
        return unknown(scene.rollout, "driving_direction", protocol, NO_ROUTE)
    metres = wrong_way_m(scene, window_s)
    steps = np.minimum.accumulate(_graded(metres, fine_m, worst_m))
    return score(scene.rollout, "driving_direction", steps[-1], protocol, steps, worst_m=float(metres.max()))


def against_traffic(drive: Rollout | Scene, protocol: str, *, fine_m: float = 2.0, worst_m: float = 6.0,
                    window_s: float = 1.0) -> Score:
    """nuPlan's DDC: the same grades for how far the ego went against its lane's direction in any second.

    Of the lanes that hold its middle the one along which it went furthest counts; outside all lanes there is no
    direction.
    """
    scene = Scene.of(drive)
    if scene.road is None or not scene.road.lanes:
        return unknown(scene.rollout, "driving_direction", protocol, "the map has no lanes")
    step, heading = _travel(scene), scene.road.headings(scene.center)
    along = step[:, :1] * np.cos(heading) + step[:, 1:] * np.sin(heading)  # (S, L)
    inside = np.isfinite(along).any(1)
    along = np.where(inside, np.where(np.isfinite(along), along, -np.inf).max(1), 0.0)
    metres = np.maximum(0.0, -_trailing(along, window_s))
    steps = np.minimum.accumulate(_graded(metres, fine_m, worst_m))
    return score(scene.rollout, "driving_direction", steps[-1], protocol, steps, worst_m=float(metres.max()))


# --- lights, lane, limits -----------------------------------------------------------------------------------------


def red_lanes(scene: Scene) -> dict[int, BoolArray]:
    """Lanes of the route under a light -> (S,) when that is red."""
    assert scene.road is not None
    red: dict[int, BoolArray] = {}
    for signal in scene.signals:
        named = {scene.road.index[name] for name in signal.lane_ids if name in scene.road.index}
        named |= {i for i, lane in enumerate(scene.road.lanes) if lane.signal_id == signal.id}
        at = np.searchsorted(signal.timestamps_us, scene.timestamps_us[: scene.steps], side="right") - 1
        state: BoolArray = (signal.state[at] == RED) & (at >= 0)
        for lane in sorted(named & scene.route_lanes):
            red[lane] = red.get(lane, np.zeros(len(state), dtype=bool)) | state
    return red


def traffic_lights(drive: Rollout | Scene, protocol: str) -> Score:
    """EPDMS' TLC: 0 on any overlap of the ego with a lane of the route whose light is red at that time.

    As in NAVSIM it does not matter whether the ego came in before the light turned; evidence tells when that was so.
    1 where no light governs the route; unknown where the log drove along no lane.
    """
    scene = Scene.of(drive)
    if scene.road is None or not scene.route:
        return unknown(scene.rollout, "traffic_lights", protocol, NO_ROUTE)
    ran, entered = np.zeros(scene.steps, dtype=bool), []
    for lane, red in red_lanes(scene).items():
        over = _over_lane(scene, scene.road.lanes[lane], red)
        if over.any():
            first = int(np.argmax(over))
            entered.append({"lane": scene.road.lanes[lane].id, "step": first, "came_in_on_red":
                            bool(first == 0 or red[first - 1])})
            ran |= over
    steps = (~np.logical_or.accumulate(ran)).astype(float)
    return score(scene.rollout, "traffic_lights", steps[-1], protocol, steps, overlaps=entered)


def _over_lane(scene: Scene, lane: Lane, when: BoolArray) -> BoolArray:
    """(S,) where the footprint overlaps a lane, which is a strip and is cut into quadrilaterals."""
    over, asked = np.zeros(scene.steps, dtype=bool), np.flatnonzero(when)
    count = max(len(lane.left_m), len(lane.right_m))
    left, right = _spread(lane.left_m, count), _spread(lane.right_m, count)
    strips = np.stack([left[1:], left[:-1], right[:-1], right[1:]], 1)  # (N, 4, 2)
    over[asked] = _quads_overlap(scene.corners[asked][:, None], strips[None]).any(1)
    return over


def _spread(line: FloatArray, count: int) -> FloatArray:
    """(N, 2+) -> (count, 2) points, evenly along the line unless it has as many."""
    if len(line) == count:
        return line[:, :2]
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line[:, :2], axis=0), axis=1))])
    at = np.linspace(0.0, along[-1], count)
    return np.stack([np.interp(at, along, line[:, d]) for d in range(2)], -1)


def _quads_overlap(boxes: FloatArray, quads: FloatArray) -> BoolArray:
    """Boxes against convex quadrilaterals that need not be rectangles: all four of their edges are axes."""
    both: BoolArray = boxes_overlap(boxes, quads) & boxes_overlap(boxes, np.roll(quads, 2, axis=-2))
    return both


def lane_keeping(drive: Rollout | Scene, protocol: str, *, off_m: float = 0.5, for_steps: int = 20) -> Score:
    """EPDMS' LK: 0 if the ego's middle is more than 0.5 m off the centreline for 20 steps in a row.

    Steps in an intersection are skipped; they neither count nor reset the count. The centreline: the nearest of the
    route's lanes, as a rollout names no single one.
    """
    scene = Scene.of(drive)
    if scene.road is None or not scene.route:
        return unknown(scene.rollout, "lane_keeping", protocol, NO_ROUTE)
    off = scene.road.center_distance(scene.center, scene.route_lanes)
    run, steps = 0, np.ones(scene.steps)
    for i in np.flatnonzero(~scene.center_in_intersection):
        run = run + 1 if off[i] > off_m else 0
        if run >= for_steps:
            steps[i:] = 0.0
            break
    return score(scene.rollout, "lane_keeping", steps[-1], protocol, steps, furthest_m=float(off.max()))


def speed_limit(drive: Rollout | Scene, protocol: str, *, worst_over_mps: float = 2.23) -> Score:
    """nuPlan's SL: max(0, 1 - sum(over * dt) / (2.23 m/s * T)), over the limit of the lane that the ego is in.

    per_step: m/s over. Steps on no lane with a limit are not over it; unknown where no step has one.
    """
    scene = Scene.of(drive)
    limits = np.full(scene.steps, np.nan)
    if scene.road is not None and scene.road.lanes:
        limits = scene.road.speed_limits(scene.center, scene.xyyaw[:, 2])
    if np.isnan(limits).all():
        return unknown(scene.rollout, "speed_limit", protocol, "no lane that the ego was in has a speed limit")
    over = np.maximum(0.0, np.where(np.isnan(limits), 0.0, scene.speed_mps - limits))
    value = max(0.0, 1.0 - float(over.sum()) * STEP_S / (worst_over_mps * max(scene.steps - 1, 1) * STEP_S))
    return score(scene.rollout, "speed_limit", value, protocol, over, known_share=float(np.mean(~np.isnan(limits))))

