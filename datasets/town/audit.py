"""An audit of drives: does anything in them that must not happen, and how varied are they?

It knows nothing of how a drive was made. Everything is measured on the Log as it would be learnt from, by geometry of
its own: separating axes for boxes, shapely for the road, crossed stop lines against the state of their lamps.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from drive_wm.datasets.parallel import in_parallel
from drive_wm.datasets.town.cast import EGO_CENTER_M, EGO_LWH_M
from drive_wm.datasets.town.sights import Moment, junctions_met, moments_of, time_of_day
from drive_wm.geometry import box_corners, interpolate_poses, wrap_angle, xyyaw_from_pose
from drive_wm.types import SIGNAL_STATES, BoolArray, FloatArray, InputError, IntArray, Log, RoadMap

VIOLATIONS = ("overlap", "teleport", "appearance", "collision", "red light", "off road")
TOUCH_M = 0.02  # boxes that reach less deep into one another touch
ROAD_M = 0.02  # and a box that reaches no further beyond the road is on it
STILL_MPS = 0.1
# [m/s] faster than any agent of the kind goes, and [rad/s] faster than it turns; people turn on the spot
FASTEST_MPS = {"pedestrian": 6.0, "bicycle": 16.0, "object": 45.0}
TURNING_RADPS = {"pedestrian": np.inf, "bicycle": 4.0, "object": np.inf}
TOP_MPS, TOP_TURN_RADPS = 60.0, 2.5
JUMP_M, JUMP_MPS2, TURN_RAD = 0.3, 3.0, 0.3  # what a step may differ from its velocities: JUMP_M + JUMP_MPS2 * dt^2
LONGEST_STEP_S = 1.1  # samples further apart tell nothing about jumps
IN_SIGHT_M = 40.0  # nobody may appear or vanish this near to the ego, in the open
BORDER_S = 0.05  # the first and the last moment of a log are no appearance


@dataclass(frozen=True)
class Finding:
    """One violation: what, when it began in seconds from the log's start, how many steps it lasted, in words."""

    kind: str
    at_s: float
    steps: int
    text: str


@dataclass(frozen=True)
class Audited:
    """What one log holds. Times in seconds, distances in metres; cpu_s: processor time. manoeuvres: steps of reasons.

    frames: camera frames of the whole log; drawn: how many were drawn in draw_cpu_s, with jpeg_bytes in all.
    dropped: agents that the log's maker took out of it to be rid of overlaps.
    """

    log_id: str
    findings: tuple[Finding, ...]
    duration_s: float
    distance_m: float
    stood_s: float
    steps: int
    weather: str
    time_of_day: str
    manoeuvres: Counter[tuple[str, str]]
    causes: Counter[str]
    junctions: tuple[str, ...]
    agents: Counter[str]
    moments: tuple[Moment, ...]
    frames: int = 0
    dropped: int = 0
    load_cpu_s: float = 0.0
    drawn: int = 0
    draw_cpu_s: float = 0.0
    jpeg_bytes: int = 0


# --- boxes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Boxes:
    """All boxes of a log on one clock, the ego first. pose: (T, N, 3) x, y, yaw of centres; z: (T, N); size: (N, 3)."""

    times_us: IntArray
    ids: tuple[str, ...]
    categories: tuple[str, ...]
    pose: FloatArray
    z: FloatArray
    size: FloatArray
    valid: BoolArray


def ego_boxes(log: Log, times_us: IntArray) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Centres of the ego's box (T, 3), its ground height (T,) and valid (T,)."""
    poses, valid = interpolate_poses(log.ego, times_us)
    center = xyyaw_from_pose(poses)
    center[:, :2] += EGO_CENTER_M * np.stack([np.cos(center[:, 2]), np.sin(center[:, 2])], -1)
    return center, poses[:, 2, 3], valid


def boxes_of(log: Log) -> Boxes:
    """The ego's box and those of all tracks at every time at which a track is known (else at the ego's times)."""
    known = [track.timestamps_us for track in log.tracks]
    times = np.unique(np.concatenate(known)) if known else log.ego.timestamps_us
    center, ground, valid = ego_boxes(log, times)
    count = len(log.tracks) + 1
    pose, z = np.zeros((len(times), count, 3)), np.zeros((len(times), count))
    seen = np.zeros((len(times), count), bool)
    pose[:, 0], z[:, 0], seen[:, 0] = center, ground + EGO_LWH_M[2] / 2, valid
    for i, track in enumerate(log.tracks, 1):
        at = np.searchsorted(times, track.timestamps_us)
        pose[at, i, :2], pose[at, i, 2] = track.position_m[:, :2], track.yaw_rad
        z[at, i], seen[at, i] = track.position_m[:, 2], track.valid
    size = np.array([EGO_LWH_M, *(tuple(track.size_lwh_m) for track in log.tracks)], np.float64)
    return Boxes(times, ("ego", *(track.id for track in log.tracks)),
                 ("ego", *(track.category for track in log.tracks)), pose, z, size, seen)


def depth_of_overlap(a: FloatArray, size_a: FloatArray, b: FloatArray, size_b: FloatArray) -> FloatArray:
    """How far boxes reach into one another, (M,) metres, negative where apart: a, b (M, 3) x y yaw, sizes (M, 3).

    The least overlap over the four directions of their sides (separating axis theorem).
    """
    corners = [box_corners(at, size[:, 0], size[:, 1]) for at, size in ((a, size_a), (b, size_b))]
    depth = np.full(len(a), np.inf)
    for yaw in (a[:, 2], a[:, 2] + np.pi / 2, b[:, 2], b[:, 2] + np.pi / 2):
        axis = np.stack([np.cos(yaw), np.sin(yaw)], -1)[:, None]
        along_a, along_b = ((box * axis).sum(-1) for box in corners)
        depth = np.minimum(depth, np.minimum(along_a.max(1) - along_b.min(1), along_b.max(1) - along_a.min(1)))
    return depth


def _pairs_near(boxes: Boxes) -> IntArray:
    """(P, 2) pairs i < j whose swept surroundings meet at all."""
    radius = np.hypot(boxes.size[:, 0], boxes.size[:, 1])[:, None] / 2
    xy = np.where(boxes.valid[..., None], boxes.pose[..., :2], np.nan)
    known = boxes.valid.any(0)
    low, high = np.full((len(known), 2), np.inf), np.full((len(known), 2), -np.inf)
    low[known], high[known] = np.nanmin(xy[:, known], 0), np.nanmax(xy[:, known], 0)
    low, high = low - radius, high + radius
    meet = ((low[:, None] <= high[None]) & (low[None] <= high[:, None])).all(-1)
    return np.argwhere(np.triu(meet, 1))


def overlaps(boxes: Boxes) -> Iterator[tuple[int, int, IntArray, float]]:
    """Pairs that overlap: indices i < j, the rows of times at which they do, and how deep at most in metres."""
    reach = np.hypot(boxes.size[:, 0], boxes.size[:, 1]) / 2
    for i, j in _pairs_near(boxes).tolist():
        gap = boxes.pose[:, i, :2] - boxes.pose[:, j, :2]
        at = np.flatnonzero(boxes.valid[:, i] & boxes.valid[:, j] & ((gap**2).sum(-1) < (reach[i] + reach[j]) ** 2))
        if not len(at):
            continue
        size_i, size_j = (np.broadcast_to(boxes.size[k], (len(at), 3)) for k in (i, j))
        depth = depth_of_overlap(boxes.pose[at, i], size_i, boxes.pose[at, j], size_j)
        upright = (boxes.size[i, 2] + boxes.size[j, 2]) / 2 - np.abs(boxes.z[at, i] - boxes.z[at, j])
        hit = (depth > TOUCH_M) & (upright > TOUCH_M)
        if hit.any():
            yield i, j, at[hit], float(depth[hit].max())


def _overlap_findings(log: Log, boxes: Boxes) -> Iterator[Finding]:
    for i, j, at, depth in overlaps(boxes):
        names = " and ".join(f"{boxes.categories[k]} {boxes.ids[k]}" if k else "the ego" for k in (i, j))
        yield Finding("overlap" if i else "collision", _seconds(log, boxes.times_us[at[0]]), len(at),
                      f"{names}, {depth:.2f} m deep")


# --- jumps --------------------------------------------------------------------------------------------------------


def jumps(times_us: IntArray, position_m: FloatArray, yaw_rad: FloatArray, valid: BoolArray, category: str,
          velocity_mps: FloatArray | None = None) -> IntArray:
    """Rows from which an agent goes further or turns more than its kind can, or than its own velocities say."""
    dt = np.diff(times_us) / 1e6
    both = valid[:-1] & valid[1:] & (dt <= LONGEST_STEP_S)
    step = np.diff(position_m[:, :2], axis=0)
    wrong = np.linalg.norm(step, axis=1) > FASTEST_MPS.get(category, TOP_MPS) * dt + JUMP_M
    wrong |= np.abs(wrap_angle(np.diff(yaw_rad))) > TURNING_RADPS.get(category, TOP_TURN_RADPS) * dt + TURN_RAD
    if velocity_mps is not None:
        expected = (velocity_mps[:-1] + velocity_mps[1:]) / 2 * dt[:, None]
        wrong |= np.linalg.norm(step - expected, axis=1) > JUMP_M + JUMP_MPS2 * dt**2
    rows: IntArray = np.flatnonzero(wrong & both)
    return rows


def _teleports(log: Log) -> Iterator[Finding]:
    ego = xyyaw_from_pose(log.ego.world_from_body)
    paths: list[tuple[Any, ...]] = [("the ego", "ego", log.ego.timestamps_us, ego[:, :2], ego[:, 2], log.ego.valid,
                                     None)]
    paths += [(f"{t.category} {t.id}", t.category, t.timestamps_us, t.position_m, t.yaw_rad, t.valid, t.velocity_mps)
              for t in log.tracks]
    for name, category, times, position, yaw, valid, velocity in paths:
        for k in jumps(times, position, yaw, valid, category, velocity).tolist():
            moved = float(np.linalg.norm(position[k + 1, :2] - position[k, :2]))
            turned = float(np.degrees(np.abs(wrap_angle(yaw[k + 1] - yaw[k]))))
            yield Finding("teleport", _seconds(log, times[k]), 1, f"{name}, {moved:.2f} m and {turned:.0f} degrees in "
                          f"{(times[k + 1] - times[k]) / 1e6:.2f} s")


def _appearances(log: Log, boxes: Boxes) -> Iterator[Finding]:
    """Agents that come into being or cease to be within IN_SIGHT_M of the ego, other than at the log's ends."""
    start, end = boxes.times_us[0] + BORDER_S * 1e6, boxes.times_us[-1] - BORDER_S * 1e6
    for i in range(1, len(boxes.ids)):
        there = np.concatenate([[False], boxes.valid[:, i], [False]])
        begins, ends = np.flatnonzero(~there[:-1] & there[1:]), np.flatnonzero(there[:-1] & ~there[1:]) - 1
        for word, rows in (("appears", begins), ("vanishes", ends)):
            for k in rows[(boxes.times_us[rows] > start) & (boxes.times_us[rows] < end)].tolist():
                away = float(np.linalg.norm(boxes.pose[k, i, :2] - boxes.pose[k, 0, :2]))
                if boxes.valid[k, 0] and away < IN_SIGHT_M:
                    yield Finding("appearance", _seconds(log, boxes.times_us[k]), 1,
                                  f"{boxes.categories[i]} {boxes.ids[i]} {word} {away:.1f} m from the ego")


# --- rules --------------------------------------------------------------------------------------------------------


def _red_lights(log: Log) -> Iterator[Finding]:
    """Stop lines that the ego's front crosses towards the lamp while it is red."""
    center, _, valid = ego_boxes(log, log.ego.timestamps_us)
    heading = np.stack([np.cos(center[:, 2]), np.sin(center[:, 2])], -1)
    front = center[:, :2] + EGO_LWH_M[0] / 2 * heading
    for signal in log.signals:
        if signal.stop_line_m is None:
            continue
        crossed, share = _crossings(front, np.asarray(signal.stop_line_m)[:, :2])
        towards = heading[:-1] @ np.array([np.cos(signal.yaw_rad), np.sin(signal.yaw_rad)]) < 0
        for k in np.flatnonzero(crossed & towards & valid[:-1] & valid[1:]).tolist():
            a, b = log.ego.timestamps_us[k], log.ego.timestamps_us[k + 1]
            at = int(a + share[k] * (b - a))
            if SIGNAL_STATES[signal.state_at(at)] == "red":
                yield Finding("red light", _seconds(log, at), 1, f"the ego passes the stop line of {signal.id} at red")


def _crossings(path: FloatArray, line: FloatArray) -> tuple[BoolArray, FloatArray]:
    """Which steps of a path (T, 2) cross a line of two points, (T-1,), and at which share of the step."""
    step, side = np.diff(path, axis=0), line[1] - line[0]
    rel = line[0] - path[:-1]
    cross = step[:, 0] * side[1] - step[:, 1] * side[0]
    safe = np.where(np.abs(cross) > 1e-12, cross, 1.0)
    share = (rel[:, 0] * side[1] - rel[:, 1] * side[0]) / safe
    along = (rel[:, 0] * step[:, 1] - rel[:, 1] * step[:, 0]) / safe
    hit: BoolArray = (np.abs(cross) > 1e-12) & (share >= 0) & (share < 1) & (along >= 0) & (along <= 1)
    return hit, share


def road_surface(road: RoadMap) -> Any:
    """The drivable area with car parks as one shapely geometry, ROAD_M wider; None where the map has none."""
    import shapely

    rings = [ring[:, :2] for ring in (*road.drivable, *road.carparks)]
    if not rings:
        return None
    surface = shapely.union_all([shapely.Polygon(ring).buffer(ROAD_M, join_style="mitre") for ring in rings])
    shapely.prepare(surface)
    return surface


def _off_road(log: Log) -> Iterator[Finding]:
    """Steps of the ego at which a corner, or the middle of a side, of its box is beyond the drivable area."""
    import shapely

    surface = road_surface(log.map) if log.map is not None else None
    if surface is None:
        return
    center, _, valid = ego_boxes(log, log.ego.timestamps_us)
    corners = box_corners(center, np.asarray(EGO_LWH_M[0]), np.asarray(EGO_LWH_M[1]))
    outline = np.concatenate([corners, (corners + np.roll(corners, -1, 1)) / 2], 1)  # (T, 8, 2)
    outside = ~shapely.contains_xy(surface, outline[..., 0], outline[..., 1])
    at = np.flatnonzero(outside.any(1) & valid)
    if len(at):
        far = shapely.distance(shapely.points(outline[at][outside[at]]), surface).max() + ROAD_M
        yield Finding("off road", _seconds(log, log.ego.timestamps_us[at[0]]), len(at),
                      f"the ego reaches {far:.2f} m beyond the drivable area")


def _seconds(log: Log, timestamp_us: int) -> float:
    return round((int(timestamp_us) - log.start_us) / 1e6, 3)


# --- one log, all logs --------------------------------------------------------------------------------------------


def findings_of(log: Log) -> tuple[Finding, ...]:
    """All violations of a log, by time."""
    boxes = boxes_of(log)
    found = [*_overlap_findings(log, boxes), *_teleports(log), *_appearances(log, boxes), *_red_lights(log),
             *_off_road(log)]
    return tuple(sorted(found, key=lambda it: (it.at_s, it.kind, it.text)))


def audit_log(log: Log) -> Audited:
    """The violations of a log and what it shows. Works on any log; what it has not (map, lights, reasons) is not told.

    Raises InputError for a log without a valid pose.
    """
    if not log.ego.valid.any():
        raise InputError(f"log {log.id}: no valid ego pose, so there is nothing to audit")
    path = log.ego.world_from_body[log.ego.valid, :2, 3]
    dt = np.diff(log.ego.timestamps_us[log.ego.valid]) / 1e6
    step = np.linalg.norm(np.diff(path, axis=0), axis=1)
    frames = sum(len(log.frames.timestamps_us(camera)) for camera in log.rig.names)
    return Audited(
        log.id, findings_of(log), (log.end_us - log.start_us) / 1e6, float(step.sum()),
        float(dt[step < STILL_MPS * dt].sum()), len(log.ego), log.look.weather, time_of_day(log.look),
        Counter((why.longitudinal, why.lateral) for _, why in log.reasons),
        Counter(why.causes[0].kind if why.causes else "none" for _, why in log.reasons),
        junctions_met(log), Counter(track.category for track in log.tracks), moments_of(log), frames,
        int(log.metadata.get("dropped", 0)))


def draw_some(log: Log, moments: int, height: int) -> tuple[int, float, int]:
    """Frames read, processor seconds and their bytes as JPEG: every camera at some moments in the log's middle.

    Moments follow one another as in a reader that goes through the log; the first is not counted, for it sets up.
    """
    import cv2

    from drive_wm.datasets.rendered import RenderedFrames
    from drive_wm.datasets.rigs import at_height

    frames, rig = log.frames, log.rig
    if isinstance(frames, RenderedFrames):
        rig = at_height(rig, height)
        frames = RenderedFrames(replace(log, rig=rig))
    times = frames.timestamps_us(rig.names[0])
    times = times[max(0, (len(times) - moments) // 2 - 1):][: moments + 1]
    count, spent, size = 0, 0.0, 0
    for k, at in enumerate(times.tolist()):
        for camera in rig.names:
            if at not in frames.timestamps_us(camera):
                continue
            begun = time.process_time()
            image = frames.read(camera, at)
            if k:
                spent, count = spent + time.process_time() - begun, count + 1
                size += len(cv2.imencode(".jpg", image)[1])
    return count, spent, size


@dataclass(frozen=True)
class AuditOptions:
    """draw_every: a log out of so many is drawn, 0 for none; draw_moments of it, cameras scaled to draw_height."""

    draw_every: int = 25
    draw_moments: int = 20
    draw_height: int = 64


@lru_cache(maxsize=2)
def _opened(source: str) -> Any:
    from drive_wm.datasets.sources import open_source

    return open_source(source)


def _audit_one(job: tuple[str, str, int, AuditOptions]) -> Audited:
    source, log_id, number, options = job
    begun = time.process_time()
    log = _opened(source).load(log_id)
    spent = time.process_time() - begun
    audited = replace(audit_log(log), load_cpu_s=spent)
    if options.draw_every and number % options.draw_every == 0:
        drawn, draw_cpu_s, size = draw_some(log, options.draw_moments, options.draw_height)
        audited = replace(audited, drawn=drawn, draw_cpu_s=draw_cpu_s, jpeg_bytes=size)
    return audited


def audit(source: str, log_ids: Sequence[str] | None = None, *, workers: int = 1,
          options: AuditOptions = AuditOptions(), progress: Callable[[int, int], None] | None = None) -> list[Audited]:
    """Every log of a source (or those named), in its order, on ``workers`` processes. Raises InputError.

    progress: called with (1, 0) as each log is done.
    """
    ids = _opened(source).log_ids() if log_ids is None else log_ids
    if not ids:
        raise InputError(f"source {source}: holds no drive")
    done: dict[int, Audited] = {}
    jobs = [(source, log_id, number, options) for number, log_id in enumerate(ids)]
    for index, audited in in_parallel(_audit_one, jobs, workers):
        done[index] = audited
        if progress:
            progress(1, 0)
    return [done[index] for index in range(len(jobs))]
