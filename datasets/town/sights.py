"""What is to be seen in a drive, moment by moment, so that scenes can be counted and chosen for variety."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drive_wm.geometry import box_corners, interpolate_poses, points_in_polygon, relative_xyyaw, xyyaw_from_pose
from drive_wm.types import SIGNAL_STATES, Explanation, FloatArray, Log, Look

EVERY_S = 1.0
AHEAD_M, SMALL_AHEAD_M, HALF_VIEW_RAD = 40.0, 22.0, 0.55
SMALL = ("pedestrian", "bicycle", "motorcycle", "object")
CAUSE_WINDOW_US = 8_000_000
EDGE_M, CROSSING_REACH_M = 12.0, 8.0


@dataclass(frozen=True)
class Moment:
    """A time of a log and what a person should see there, as words such as "weather: fog" or "sees: bus"."""

    log_id: str
    timestamp_us: int
    features: frozenset[str]


def time_of_day(look: Look) -> str:
    return "night" if look.night else "dusk" if look.sun < 0.2 else "day"


def junctions_met(log: Log) -> tuple[str, ...]:
    """Kinds of the junctions that the ego enters, in order: the log's own metadata, else as seen from its map."""
    told = log.metadata.get("junctions")
    if told is not None:
        return tuple(str(kind["kind"] if isinstance(kind, dict) else kind) for kind in told)
    return tuple(kind for _, kind in _entered(log))


def _entered(log: Log) -> list[tuple[int, str]]:
    """(time, kind) of every intersection that the ego's path enters, and of every zebra away from them, by time."""
    if log.map is None:
        return []
    path, out = log.ego.world_from_body[:, :2, 3], []
    places = [(polygon, False) for polygon in log.map.intersections] + [(ring, True) for ring in log.map.crossings]
    for polygon, zebra in places:
        inside = np.flatnonzero(points_in_polygon(path, polygon) & log.ego.valid)
        if len(inside) and not (zebra and _at_an_intersection(log, polygon)):
            at = int(log.ego.timestamps_us[inside[0]])
            out.append((at, "zebra" if zebra else _kind(log, polygon, at)))
    return sorted(out)


def _at_an_intersection(log: Log, crossing: FloatArray) -> bool:
    assert log.map is not None
    middle = crossing[:, :2].mean(0)
    return any(np.linalg.norm(polygon[:, :2] - middle, axis=1).min() < CROSSING_REACH_M
               or bool(points_in_polygon(middle[None], polygon)[0]) for polygon in log.map.intersections)


def _kind(log: Log, polygon: FloatArray, entered_us: int) -> str:
    """What controls an intersection: a ring of lanes, lamps or signs at its edge; else what the reasons name before."""
    assert log.map is not None
    middle = polygon[:, :2].mean(0)
    reach = float(np.linalg.norm(polygon[:, :2] - middle, axis=1).max()) + EDGE_M
    signs = {prop.kind for prop in log.map.props if np.linalg.norm(prop.position_m[:2] - middle) < reach}
    if "roundabout_sign" in signs or _has_ring(log, polygon):
        return "roundabout"
    lines = [signal.position_m if signal.stop_line_m is None else np.asarray(signal.stop_line_m).mean(0)
             for signal in log.signals]
    if any(np.linalg.norm(line[:2] - middle) < reach for line in lines):
        return "signal"
    named = {cause.kind for at, why in log.reasons if entered_us - CAUSE_WINDOW_US < at <= entered_us
             for cause in why.causes}
    for kind in ("stop sign", "give way"):
        if kind.replace(" sign", "").replace(" ", "_") + "_sign" in signs or kind in named:
            return kind
    return "no sign"


def _has_ring(log: Log, polygon: FloatArray) -> bool:
    """Whether lanes run in a circle inside: a lane from which one comes back to it without leaving the polygon."""
    assert log.map is not None
    lanes = log.map.lanes
    inside = {key for key, lane in lanes.items()
              if points_in_polygon(lane.centerline_m[len(lane.centerline_m) // 2, :2][None], polygon)[0]}
    for start in inside:
        reached, left = set[str](), [start]
        while left:
            ahead = [k for k in lanes[left.pop()].successors if k in inside and k not in reached]
            reached.update(ahead)
            left += ahead
        if start in reached:
            return True
    return False


# --- moments ------------------------------------------------------------------------------------------------------


def moments_of(log: Log) -> tuple[Moment, ...]:
    """One moment a second, with what is in front of the ego."""
    entered = _entered(log)
    whole = {f"weather: {log.look.weather}", f"light: {time_of_day(log.look)}"}
    out = []
    for at in range(log.start_us, log.end_us, int(EVERY_S * 1e6)):
        pose, valid = interpolate_poses(log.ego, np.array([at]))
        if valid[0]:
            ego = xyyaw_from_pose(pose)[0]
            features = whole | _reason_features(_reason_at(log, at)) | _sights(log, ego, at)
            out.append(Moment(log.id, at, frozenset(features | _junction_ahead(entered, at))))
    return tuple(out)


def _reason_at(log: Log, timestamp_us: int) -> Explanation | None:
    best = min(log.reasons, key=lambda it: abs(it[0] - timestamp_us), default=None)
    return best[1] if best and abs(best[0] - timestamp_us) <= 500_000 else None


def _reason_features(why: Explanation | None) -> set[str]:
    if why is None:
        return set()
    found = {f"does: {why.longitudinal}"}
    if why.lateral != "keep":
        found.add(f"does: {why.lateral}")
    return found | {f"because: {cause.kind}" for cause in why.causes[:1]}


def _junction_ahead(entered: list[tuple[int, str]], timestamp_us: int) -> set[str]:
    return {f"junction: {kind}" for at, kind in entered if -500_000 <= at - timestamp_us <= 3_000_000}


def _sights(log: Log, ego: FloatArray, timestamp_us: int) -> set[str]:
    """Agents in front that no nearer box hides, and the state of a light that faces the ego."""
    rows = [(track, int(np.argmin(np.abs(track.timestamps_us - timestamp_us)))) for track in log.tracks]
    rows = [(track, k) for track, k in rows
            if track.valid[k] and abs(int(track.timestamps_us[k]) - timestamp_us) <= 260_000]
    found = _light_ahead(log, ego, timestamp_us)
    if not rows:
        return found
    world = np.array([[*track.position_m[k, :2], track.yaw_rad[k]] for track, k in rows])
    size = np.array([track.size_lwh_m for track, _ in rows])
    local = relative_xyyaw(ego, world)
    bearing = np.arctan2(local[:, 1], np.maximum(local[:, 0], 1e-3))
    reach = np.array([SMALL_AHEAD_M if track.category in SMALL else AHEAD_M for track, _ in rows])
    ahead = (local[:, 0] > 5.0) & (local[:, 0] < reach) & (np.abs(bearing) < HALF_VIEW_RAD)
    visible = ahead & ~_hidden(local, size)
    names = Counter(rows[i][0].category for i in np.flatnonzero(visible).tolist())
    return found | {f"sees: {name}" for name in names}


def _hidden(local: FloatArray, size: FloatArray) -> FloatArray:
    """(N,) boxes whose centre lies behind another, nearer box as seen from the ego's camera."""
    corners = box_corners(local, size[:, 0], size[:, 1])
    bearing = np.arctan2(corners[..., 1], np.maximum(corners[..., 0], 0.1))
    low, high = bearing.min(1), bearing.max(1)
    middle, away = np.arctan2(local[:, 1], np.maximum(local[:, 0], 0.1)), np.hypot(local[:, 0], local[:, 1])
    tall = size[:, 2] > 1.2
    covers = (low[None] < middle[:, None]) & (middle[:, None] < high[None]) & (away[None] < away[:, None] - 1.0)
    hidden: FloatArray = (covers & tall[None] & (local[None, :, 0] > 0.5)).any(1)
    return hidden


def _light_ahead(log: Log, ego: FloatArray, timestamp_us: int) -> set[str]:
    for signal in log.signals:
        at = relative_xyyaw(ego, np.array([signal.position_m[0], signal.position_m[1], signal.yaw_rad]))
        facing = np.cos(at[2]) < -0.7
        if facing and 6.0 < at[0] < 30.0 and abs(at[1]) < 0.35 * at[0]:
            state = SIGNAL_STATES[signal.state_at(timestamp_us)]
            return {f"light ahead: {state}"} if state in ("red", "yellow", "green") else set()
    return set()


# --- variety ------------------------------------------------------------------------------------------------------


def varied(moments: Sequence[Moment], count: int) -> list[Moment]:
    """Up to ``count`` moments, one a log, greedily by how rare their features are among those chosen so far.

    Ties go to what is rarer in all, then to the earlier log: the same moments give the same choice.
    """
    total = Counter(feature for moment in moments for feature in moment.features)
    chosen: list[Moment] = []
    shown: Counter[str] = Counter()
    left = sorted(moments, key=lambda it: (it.log_id, it.timestamp_us))
    while left and len(chosen) < count:
        best = max(left, key=lambda it: (sum(1.0 / (1 + shown[f]) ** 2 for f in it.features),
                                         sum(1.0 / total[f] for f in it.features)))
        chosen.append(best)
        shown.update(best.features)
        left = [moment for moment in left if moment.log_id != best.log_id]
    return chosen
