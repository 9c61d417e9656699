"""Checks of the annotated agents."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from drive_wm.datasets.health.findings import Finding, found
from drive_wm.geometry import interpolate_poses, wrap_angle
from drive_wm.types import Log, Track

MAX_SPEED_MPS, SLACK_M = 70.0, 2.0
VEHICLES = ("car", "van", "truck", "bus", "motorcycle", "bicycle")
LARGE = ("car", "van", "truck", "bus")
MIN_LENGTH_M, MAX_LENGTH_M = 1.2, 40.0
SWAPPED, MOST = 1.15, 0.5
MOVING_MPS, MIN_TRACKS, MAX_DISTANCE_M = 3.0, 3, 150.0
RIG_RANGE_M, FAR_M = 150.0, 3000.0


def jumps(track: Track) -> bool:
    position, times = track.position_m[track.valid], track.timestamps_us[track.valid]
    moved, step_s = np.linalg.norm(np.diff(position, axis=0), axis=1), np.diff(times) / 1e6
    return bool((moved > MAX_SPEED_MPS * step_s + SLACK_M).any())


def no_box(track: Track) -> bool:
    """Not finite, not positive, or of no size that a thing on a street has."""
    size = np.asarray(track.size_lwh_m)
    if not (np.isfinite(track.position_m).all() and np.isfinite(track.yaw_rad).all() and np.isfinite(size).all()):
        return True
    return bool((size <= 0).any() or size.max() > MAX_LENGTH_M
                or (track.category in LARGE and size[:2].max() < MIN_LENGTH_M))


def boxes(log: Log) -> Iterator[Finding]:
    odd = [track.id for track in log.tracks if no_box(track)]
    if odd:
        yield found("agent box", "tracks", f"{len(odd)} tracks ({', '.join(odd[:3])}) have a place that is not finite "
                    "or a size that nothing on a street has", len(odd), ids=odd)
    jumping = [track.id for track in log.tracks if track.id not in odd and jumps(track)]
    if jumping:
        yield found("agent jump", "tracks", f"{len(jumping)} tracks ({', '.join(jumping[:3])}) move faster than "
                    f"{MAX_SPEED_MPS:.0f} m/s", len(jumping), ids=jumping)


def box_order(log: Log) -> Iterator[Finding]:
    vehicles = [track for track in log.tracks if track.category in VEHICLES]
    wide = [track.id for track in vehicles if track.size_lwh_m[1] > SWAPPED * track.size_lwh_m[0]]
    if wide:
        most = len(wide) > MOST * len(vehicles)
        yield found("box order", "tracks", f"{len(wide)} of {len(vehicles)} vehicles are wider than long", len(wide),
                    ids=() if most else wide, severity=None if most else "warning")


def agent_heading(log: Log) -> Iterator[Finding]:
    """Moving vehicles face where they go."""
    apart = []
    for track in log.tracks:
        position, times = track.position_m[track.valid, :2], track.timestamps_us[track.valid]
        if track.category in VEHICLES and len(times) > 2 and np.isfinite(position).all():
            velocity = np.diff(position, axis=0) / (np.diff(times)[:, None] / 1e6)
            fast = np.linalg.norm(velocity, axis=1) > MOVING_MPS
            if fast.any():
                course = np.arctan2(velocity[fast, 1], velocity[fast, 0])
                apart.append(np.median(np.abs(wrap_angle(track.yaw_rad[track.valid][:-1][fast] - course))))
    if len(apart) >= MIN_TRACKS and float(np.median(apart)) > np.pi / 4:
        yield found("agent heading", "tracks", f"moving vehicles face {np.degrees(np.median(apart)):.0f} degrees away "
                    "from where they go", len(apart))


def whereabouts(log: Log) -> Iterator[Finding]:
    """Tracks lie within the ego's times, and somewhere near it."""
    spans = [(int(track.timestamps_us[0]), int(track.timestamps_us[-1])) for track in log.tracks
             if len(track.timestamps_us)]
    outside = [span for span in spans if span[1] < log.start_us - 1_000_000 or span[0] > log.end_us + 1_000_000]
    if spans and len(outside) > MOST * len(spans):
        off_s = (np.median([span[0] for span in outside]) - log.start_us) / 1e6
        yield found("agent clock", "tracks", f"{len(outside)} of {len(spans)} tracks lie outside the ego's times, "
                    f"{off_s:+.1f} s from their start", len(outside))
        return
    places = []
    for track in log.tracks:
        at = np.flatnonzero(track.valid)[:1]
        ego, ok = interpolate_poses(log.ego, track.timestamps_us[at])
        if len(at) and ok[0] and np.isfinite(track.position_m[at]).all():
            there, here = track.position_m[at[0], :2], ego[0, :2, 3]
            places.append([np.linalg.norm(there - here), np.linalg.norm(there), np.linalg.norm(here)])
    if len(places) >= MIN_TRACKS:
        apart, from_origin, ego_from_origin = np.median(places, axis=0).tolist()
        if apart > MAX_DISTANCE_M and from_origin < min(RIG_RANGE_M, 0.5 * ego_from_origin) or apart > FAR_M:
            yield found("agent frame", "tracks", f"the agents stand {apart:.0f} m from the ego, {from_origin:.0f} m "
                        "from the origin: their boxes may be in the rig's frame", len(places))


def check_agents(log: Log) -> Iterator[Finding]:
    for look in (boxes, box_order, agent_heading, whereabouts):
        yield from look(log)
