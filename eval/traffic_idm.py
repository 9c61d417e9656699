"""Traffic that reacts: every moving vehicle follows its logged path with IDM behind whoever is on it, the ego included.

As nuPlan's IDM agents: the path is the log's, the timing is not. Where a path ends it goes on along its lane. Batched
over vehicles; pedestrians, cyclists, objects and who is parked do as the log says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from drive_wm.eval.traffic import LogReplayTraffic
from drive_wm.geometry import box_corners, project_to_polyline, relative_xyyaw, wrap_angle
from drive_wm.planners.idm import ENOUGH_M, IdmParameters, idm_acceleration, stop_arc
from drive_wm.types import SIGNAL_STATES, BoolArray, FloatArray, IntArray, Log, RoadMap, Track

if TYPE_CHECKING:
    from drive_wm.render import AgentBoxes

REACTING = ("car", "van", "truck", "bus", "motorcycle")
MOVED_M = 2.0  # who moves less than this in the whole log is parked
ONWARD_M, AHEAD_M = 80.0, 60.0
STEP_M = 1.0
MARGIN_M = 0.1  # to either side of a vehicle's own width
BRAKE_LAMP_MPS2 = -0.5
RED = SIGNAL_STATES.index("red")


@dataclass(frozen=True)
class _Course:
    """Where a vehicle drives: x, y, z (M, 3) each STEP_M, heading (M,), arcs of the stop lines on it by signal."""

    track: Track
    points: FloatArray
    heading: FloatArray
    stops: tuple[tuple[float, str], ...]

    @property
    def half_m(self) -> float:
        return float(self.track.size_lwh_m[0]) / 2

    def arc_of(self, xy: FloatArray) -> float:
        return float(project_to_polyline(np.asarray(xy)[None, :2], self.points)[0][0])


class IdmTraffic(LogReplayTraffic):
    """nuPlan's parameters by default: v0 10 m/s, s0 1 m, T 1.5 s, a 1 and b 2 m/s2."""

    name: ClassVar[str] = "idm"

    def __init__(self, parameters: IdmParameters = IdmParameters()) -> None:
        super().__init__()
        self.parameters = parameters

    def reset(self, log: Log, seed: int) -> None:
        super().reset(log, seed)
        self._tracks = {t.id: t for t in log.tracks}
        acting = set(log.metadata.get("scenario", {}).get("actors", ()))  # they keep to their script
        self._courses = {t.id: course_of(t, log) for t in log.tracks if reacts(t) and t.id not in acting}
        self._seen: set[str] = set()
        self._state: dict[str, tuple[float, float, float]] = {}  # arc of the centre, speed, acceleration
        self._last_us: int | None = None

    def step(self, timestamp_us: int, ego_xyyaw: FloatArray, ego_speed_mps: float) -> AgentBoxes:
        logged = super().step(timestamp_us, ego_xyyaw, ego_speed_mps)
        others = logged.select([i for i, name in enumerate(logged.ids) if name not in self._courses])
        if self._last_us is not None:
            self._advance((timestamp_us - self._last_us) / 1e6)
        self._admit(logged, timestamp_us, ego_xyyaw)
        boxes = _joined(others, self._boxes(logged))
        self._wish(boxes, others, timestamp_us, ego_xyyaw, ego_speed_mps)
        self._last_us = timestamp_us
        return boxes

    def _advance(self, dt_s: float) -> None:
        """One Euler step under the accelerations of the last moment; who came to the end of its path is gone."""
        moved = {name: (arc + v * dt_s, max(0.0, v + a * dt_s), a) for name, (arc, v, a) in self._state.items()}
        self._state = {name: s for name, s in moved.items() if s[0] < STEP_M * (len(self._courses[name].points) - 2)}

    def _admit(self, logged: AgentBoxes, timestamp_us: int, ego_xyyaw: FloatArray) -> None:
        """Who appears in the log starts as it is there, if nobody stands in its place."""
        new = [i for i, name in enumerate(logged.ids) if name in self._courses and name not in self._seen]
        here = [self._place(name)[:2] for name in self._state] + [self._ego_middle(ego_xyyaw)]
        for i in new:
            course, xy = self._courses[logged.ids[i]], logged.xyzyaw[i, :2]
            if self._last_us is not None and min(np.hypot(*(xy - other)) for other in here) < 2 * course.half_m:
                continue
            self._seen.add(logged.ids[i])
            self._state[logged.ids[i]] = (course.arc_of(xy), logged_speed(course.track, timestamp_us), 0.0)

    def _place(self, name: str) -> FloatArray:
        """x, y, z, yaw of a vehicle's centre."""
        course, at = self._courses[name], self._state[name][0] / STEP_M
        i = int(np.clip(at, 0, len(course.points) - 2))
        w = at - i
        turn = wrap_angle(course.heading[i + 1] - course.heading[i])
        here = course.points[i] * (1 - w) + course.points[i + 1] * w
        return np.append(here, wrap_angle(course.heading[i] + w * turn))

    def _boxes(self, logged: AgentBoxes) -> AgentBoxes:
        from drive_wm.render import AgentBoxes
        from drive_wm.render_state import default_color

        if not self._state:
            return AgentBoxes.empty()
        names = tuple(self._state)
        tracks = [self._courses[name].track for name in names]
        signs = {name: logged.indicator[i] for i, name in enumerate(logged.ids)}
        return AgentBoxes(
            np.stack([self._place(name) for name in names]), np.stack([t.size_lwh_m for t in tracks]).astype(float),
            tuple(t.category for t in tracks), names,
            np.array([t.color_rgb or default_color(t.category, t.id) for t in tracks], np.uint8),
            np.array([self._state[name][2] < BRAKE_LAMP_MPS2 for name in names]),
            np.array([signs.get(name, 0) for name in names], np.int8))

    def _wish(self, boxes: AgentBoxes, others: AgentBoxes, timestamp_us: int, ego_xyyaw: FloatArray,
              ego_speed_mps: float) -> None:
        """Accelerations for the step to come, of all vehicles at once."""
        from drive_wm.render import signals_at

        if not self._state:
            return
        assert self._log is not None
        names = list(self._state)
        arc, speed = (np.array([self._state[n][k] for n in names]) for k in (0, 1))
        things, velocity = self._things(boxes, len(others), timestamp_us, ego_xyyaw, ego_speed_mps)
        corridors = np.stack([_corridor(self._courses[n], a) for n, a in zip(names, arc)])
        width = np.array([self._courses[n].track.size_lwh_m[1] for n in names])
        near, along = leaders(corridors, width, things, velocity, own=len(others) + np.arange(len(names)))
        lights = signals_at(self._log, timestamp_us)
        stop = np.array([_stop_ahead(self._courses[n], a, lights) for n, a in zip(names, arc)])
        half = np.array([self._courses[n].half_m for n in names])
        behind = idm_acceleration(speed, along, near - half, self.parameters)
        before_line = idm_acceleration(speed, np.zeros(len(names)), stop - half, self.parameters)
        accel = np.minimum(behind, before_line)
        self._state = {n: (float(s), float(v), float(a)) for n, s, v, a in zip(names, arc, speed, accel)}

    def _things(self, boxes: AgentBoxes, replayed: int, timestamp_us: int, ego_xyyaw: FloatArray,
                ego_speed_mps: float) -> tuple[FloatArray, FloatArray]:
        """Everything that one may run into (B, 5) x, y, yaw, length, width, the ego last; and velocities (B, 2)."""
        yaw = np.append(boxes.xyzyaw[:, 3], ego_xyyaw[2])
        speed = np.array([logged_speed(self._tracks[n], timestamp_us) for n in boxes.ids[:replayed]]
                         + [self._state[n][1] for n in boxes.ids[replayed:]] + [ego_speed_mps])
        ego = [*self._ego_middle(ego_xyyaw), ego_xyyaw[2], self.vehicle.length_m, self.vehicle.width_m]
        rows = np.column_stack([boxes.xyzyaw[:, [0, 1, 3]], boxes.lwh_m[:, :2]])
        return np.concatenate([rows, [ego]]), speed[:, None] * np.stack([np.cos(yaw), np.sin(yaw)], -1)

    def _ego_middle(self, ego_xyyaw: FloatArray) -> FloatArray:
        ahead = (self.vehicle.rear_axle_to_front_m - self.vehicle.rear_axle_to_rear_m) / 2
        middle: FloatArray = ego_xyyaw[:2] + ahead * np.array([np.cos(ego_xyyaw[2]), np.sin(ego_xyyaw[2])])
        return middle


def reacts(track: Track) -> bool:
    """A vehicle that moves in the log."""
    seen = track.position_m[track.valid, :2]
    return track.category in REACTING and len(seen) > 1 and float(np.ptp(seen, axis=0).max()) > MOVED_M


def logged_speed(track: Track, timestamp_us: int) -> float:
    """m/s in the log around a time, over the two samples about 0.25 s before and after."""
    times = track.timestamps_us[track.valid]
    low, high = np.searchsorted(times, [timestamp_us - 250_000, timestamp_us + 250_000])
    low, high = max(0, min(int(low), len(times) - 2)), min(max(int(high), 1), len(times) - 1)
    if high <= low:
        return 0.0
    xy = track.position_m[track.valid][[low, high], :2]
    return float(np.linalg.norm(xy[1] - xy[0]) / (times[high] - times[low]) * 1e6)


def course_of(track: Track, log: Log) -> _Course:
    """The logged path, then its lane and what follows it (straight on where there is none)."""
    seen = track.position_m[track.valid]
    keep = [0]
    for i in range(1, len(seen)):
        if np.hypot(*(seen[i] - seen[keep[-1]])[:2]) > 0.5:
            keep.append(i)
    line = seen[keep]
    if len(line) < 2:
        line = seen[[0, -1]]
    line = np.concatenate([line, onward(line, log.map)])
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line[:, :2], axis=0), axis=1))])
    at = np.arange(0.0, length[-1], STEP_M)
    points = np.stack([np.interp(at, length, line[:, d]) for d in range(3)], -1)
    course = np.arctan2(*np.gradient(points[:, :2], axis=0)[:, ::-1].T)
    return _Course(track, points, course, _stops(points, log.map))


def onward(line: FloatArray, road: RoadMap | None) -> FloatArray:
    """(N, 3) points of the ONWARD_M that follow a line's end: its lane's, or straight on."""
    end, step = line[-1], line[-1] - line[-2]
    heading = float(np.arctan2(step[1], step[0]))
    ahead = _lane_ahead(end, heading, road) if road is not None else np.zeros((0, 3))
    if len(ahead):
        last = ahead[-1] - (ahead[-2] if len(ahead) > 1 else end)
        end, heading = ahead[-1], float(np.arctan2(last[1], last[0]))
    reached = len(ahead) * STEP_M
    rest = max(ONWARD_M - reached, 2.0)
    far = end + rest * np.array([np.cos(heading), np.sin(heading), 0.0])
    out: FloatArray = np.concatenate([ahead, far[None]])
    return out


def _lane_ahead(end: FloatArray, heading: float, road: RoadMap) -> FloatArray:
    """Points from 8 m ahead of a pose on, along the lane under it and its straightest successors."""
    lane, at = _lane_under(end, heading, road)
    points: list[FloatArray] = []
    while lane is not None and len(points) < ONWARD_M / STEP_M:
        center = road.lanes[lane].centerline_m
        length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(center[:, :2], axis=0), axis=1))])
        arcs = np.arange(at, length[-1], STEP_M)
        points += list(np.stack([np.interp(arcs, length, center[:, d]) for d in range(3)], -1)[:, :])
        onwards = [name for name in road.lanes[lane].successors if name in road.lanes]
        lane = min(onwards, key=lambda name: (_bend(road.lanes[name].centerline_m), name)) if onwards else None
        at = 0.0 if not len(arcs) else STEP_M - (length[-1] - arcs[-1])
    chosen = np.array(points[8: int(ONWARD_M / STEP_M)]).reshape(-1, 3)
    chosen[:, 2] = end[2]
    return chosen


def _lane_under(point: FloatArray, heading: float, road: RoadMap) -> tuple[str | None, float]:
    best, best_m, at = None, 2.5, 0.0
    for name, lane in road.lanes.items():
        if lane.kind != "vehicle" or np.abs(lane.centerline_m[:, :2] - point[:2]).min(0).max() > 60.0:
            continue
        arc, offset, course = project_to_polyline(point[None, :2], lane.centerline_m)
        if abs(offset[0]) < best_m and abs(wrap_angle(course[0] - heading)) < 0.6:
            best, best_m, at = name, abs(float(offset[0])), float(arc[0])
    return best, at


def _bend(center: FloatArray) -> float:
    step = np.diff(center[:, :2], axis=0)
    course = np.arctan2(step[:, 1], step[:, 0])
    return float(abs(wrap_angle(course[-1] - course[0])))


def _stops(points: FloatArray, road: RoadMap | None) -> tuple[tuple[float, str], ...]:
    """Arc and signal of every stop line on a path."""
    lanes = [] if road is None else [lane for lane in road.lanes.values() if lane.signal_id is not None]
    low, high = points[:, :2].min(0) - 5.0, points[:, :2].max(0) + 5.0
    found = []
    for lane in lanes:
        center = lane.centerline_m[:, :2]
        if len(points) > 2 and ((center > low) & (center < high)).all(1).any():
            arc = stop_arc(center, lane.is_intersection, points[:, :2])
            if arc < ENOUGH_M:
                found.append((arc, str(lane.signal_id)))
    return tuple(sorted(set(found)))


def _stop_ahead(course: _Course, arc_m: float, lights: dict[str, int]) -> float:
    """Metres from the vehicle's centre to the next red light's line; one that its front has passed is no more asked."""
    front = arc_m + course.half_m
    red = [stop for stop, signal in course.stops if stop > front - 1.0 and lights.get(signal, 0) == RED]
    return min(red, default=ENOUGH_M + arc_m) - arc_m


def _corridor(course: _Course, arc_m: float) -> FloatArray:
    """(K, 3) x, y, heading each STEP_M from the vehicle's centre on."""
    at = np.clip(arc_m / STEP_M + np.arange(int(AHEAD_M / STEP_M)), 0, len(course.points) - 1.001)
    i = at.astype(int)
    w = (at - i)[:, None]
    return np.column_stack([course.points[i, :2] * (1 - w) + course.points[i + 1, :2] * w, course.heading[i]])


def leaders(corridors: FloatArray, width_m: FloatArray, things: FloatArray, velocity_mps: FloatArray,
            own: IntArray) -> tuple[FloatArray, FloatArray]:
    """Who is next on each corridor (A, K, 3): metres to its near end (A,) from the corridor's start, ENOUGH_M where
    there is nobody, and its speed along the corridor (A,).

    things: (B, 5) x, y, yaw, length, width; own: (A,) the row of each corridor's vehicle among them.
    """
    near, along = np.full(len(corridors), ENOUGH_M), np.zeros(len(corridors))
    reach = np.hypot(things[:, 3], things[:, 4]) / 2
    close = np.zeros((len(corridors), len(things)), dtype=bool)
    for a, line in enumerate(corridors):
        gap = np.hypot(line[::4, None, 0] - things[None, :, 0], line[::4, None, 1] - things[None, :, 1]).min(0)
        close[a] = gap < reach + width_m[a] / 2 + MARGIN_M + 2 * STEP_M
    close[np.arange(len(corridors)), own] = False
    which, thing = np.nonzero(close)
    if not len(which):
        return near, along
    points = _grid(things[thing])  # (P, 15, 2)
    lines = corridors[which]
    distance = np.linalg.norm(points[:, :, None] - lines[:, None, :, :2], axis=-1)  # (P, 15, K)
    k = distance.argmin(-1)
    local = relative_xyyaw(np.take_along_axis(lines, k[..., None], 1), np.concatenate([points, points[..., :1]], -1))
    inside: BoolArray = np.abs(local[..., 1]) <= width_m[which, None] / 2 + MARGIN_M
    inside &= (np.abs(local[..., 0]) <= STEP_M) & (k * STEP_M + local[..., 0] > 0)
    arc = np.where(inside, k * STEP_M + local[..., 0], ENOUGH_M)
    best = arc.min(1)
    heading = lines[np.arange(len(which)), k[np.arange(len(which)), arc.argmin(1)], 2]
    speed = velocity_mps[thing, 0] * np.cos(heading) + velocity_mps[thing, 1] * np.sin(heading)
    for a, arc_m, v in zip(which, best, speed):
        if arc_m < near[a]:
            near[a], along[a] = arc_m, max(float(v), 0.0)
    return near, along


def _grid(things: FloatArray) -> FloatArray:
    """(P, 15, 2) points all over each box (P, 5): five along it, three across."""
    corners = box_corners(things[:, :3], things[:, 3], things[:, 4])  # front-left, rear-left, rear-right, front-right
    u = np.linspace(0.0, 1.0, 5)[:, None]
    left = corners[:, None, 0] * (1 - u) + corners[:, None, 1] * u
    right = corners[:, None, 3] * (1 - u) + corners[:, None, 2] * u
    out: FloatArray = np.concatenate([left, (left + right) / 2, right], 1)
    return out


def _joined(a: AgentBoxes, b: AgentBoxes) -> AgentBoxes:
    from drive_wm.render import AgentBoxes

    def both(x: Any, y: Any, default: int) -> Any:
        return np.concatenate([np.full(len(p), default) if v is None else v for p, v in ((a, x), (b, y))])

    return AgentBoxes(np.concatenate([a.xyzyaw, b.xyzyaw]), np.concatenate([a.lwh_m, b.lwh_m]),
                      a.categories + b.categories, a.ids + b.ids, np.concatenate([a.colors, b.colors]),
                      np.concatenate([a.brake, b.brake]), np.concatenate([a.indicator, b.indicator]),
                      both(a.siren, b.siren, 0).astype(np.int8), both(a.lights, b.lights, 1).astype(bool))
