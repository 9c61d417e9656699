"""Checks of the ego's poses, and of what the recorder reported beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from drive_wm.datasets.health.findings import Finding, found, many
from drive_wm.datasets.health.motion import (
    ACCEL_WINDOW_US,
    MOVING_MPS,
    column,
    course_of,
    forward_speed,
    slip,
    spaced,
    valid_path,
)
from drive_wm.geometry import quaternion_from_rotation, rotation_from_quaternion, wrap_angle, xyyaw_from_pose
from drive_wm.types import BoolArray, FloatArray, IntArray, Log

MAX_SPEED_MPS = 70.0
MAX_ACCEL_MPS2 = 15.0
JUMP_SLACK_M = 0.5          # what a pose may be off by without being a jump
GOES_ON_M = 1.0             # a path that is further off after a break than this is another path
AROUND_JUMP_US = 350_000    # wider than half of what interpolation bridges, so that no step leads across
MIN_TURN_RAD = 0.35         # a drive that turns less cannot tell left from right
MIN_UP = 0.9                # no street tilts a car by 25 degrees
GAP_FACTOR = 1.8            # of the median period
FEW_DROPPED = 3             # periods; a longer hole is a gap
CLOCK_JUMP_US = 60_000_000  # a hole of a minute is no hole
MIN_PERIOD_US, MAX_PERIOD_US = 900, 5_000_000  # a drive is sampled at 0.2 to 1000 Hz, or the times are no microseconds
HOUR_US = 3_600_000_000
UNITS = ((3.6, "km/h"), (2.237, "miles an hour"), (1.944, "knots"), (100.0, "cm/s"))
MAX_LEVER_M = 0.8
REVERSING_MPS = 6.0
LOCAL_MISMATCH_MPS, LOCAL_MISMATCH = 1.5, 0.25


def at_time(timestamp_us: int | float, log: Log) -> str:
    return f"{(float(timestamp_us) - log.start_us) / 1e6:+.2f} s"


# --- time ---------------------------------------------------------------------------------------------------------


def time_unit(where: str, times_us: IntArray) -> Iterator[Finding]:
    """Whether the median step can be one of a drive in microseconds."""
    period = float(np.median(np.diff(times_us))) if len(times_us) > 2 else MIN_PERIOD_US
    if not MIN_PERIOD_US <= period <= MAX_PERIOD_US:
        guess = "nanoseconds" if period > MAX_PERIOD_US else "milliseconds or seconds"
        yield found("time unit", where, f"the median step is {period:.0f} us: the times look like {guess}, expected "
                    "microseconds", len(times_us))


def gaps(log: Log, where: str, times_us: IntArray) -> Iterator[Finding]:
    """Holes: single samples dropped, longer gaps, and jumps of the clock."""
    if len(times_us) < 3:
        return
    steps = np.diff(times_us)
    median = float(np.median(steps))
    jumps = np.flatnonzero(steps > CLOCK_JUMP_US)
    if len(jumps):
        yield clock_jump(log, where, times_us, jumps)
    holes = (steps > GAP_FACTOR * median) & (steps <= CLOCK_JUMP_US)
    few = holes & (steps < (FEW_DROPPED + 0.5) * median) & (where != "ego")
    for kind, hits in (("dropped frame", few), ("pose gap" if where == "ego" else "frame gap", holes & ~few)):
        wide = np.flatnonzero(hits)
        if len(wide):
            worst, lost = wide[np.argmax(steps[wide])], int(np.round(steps[wide] / median - 1).sum())
            yield found(kind, where, f"{many(len(wide), 'hole')}, about {many(lost, 'sample')} missing; the widest is "
                        f"{steps[worst] / 1e6:.2f} s at {at_time(times_us[worst], log)} (period {median / 1e6:.3f} s)",
                        times_us=times_us[wide])


def clock_jump(log: Log, where: str, times_us: IntArray, jumps: IntArray) -> Finding:
    """A hole that no drive has. Its longest part is kept if it clearly is the main one; else nobody knows which is."""
    parts = np.split(times_us, jumps + 1)
    main = max(parts, key=len)
    bad = times_us if 3 * len(main) < 2 * len(times_us) else np.setdiff1d(times_us, main)
    step = float(times_us[jumps[0] + 1] - times_us[jumps[0]])
    hours = round(step / HOUR_US)
    zone = f", {hours} whole hours: a time zone?" if hours and abs(step - hours * HOUR_US) < 0.01 * HOUR_US else ""
    return found("clock jump", where, f"{many(len(jumps), 'jump')} of the clock, the first by {step / 1e6:.1f} s at "
                 f"{at_time(times_us[jumps[0]], log)}{zone}", len(jumps), bad)


def ego_times(log: Log) -> Iterator[Finding]:
    resets = log.metadata.get("clock_resets", ())
    if resets:
        line, back_s = resets[0]
        later = log.ego.timestamps_us[log.ego.timestamps_us >= int(log.metadata["clock_reset_us"])]
        yield found("clock reset", "ego", f"the clock steps back {many(len(resets), 'time')}, first by {back_s:.1f} "
                    f"s at line {line}", len(resets), later)
    dropped = int(log.metadata.get("dropped_rows", 0))
    if dropped:
        lines = ", ".join(str(line) for line in log.metadata.get("dropped_lines", ()))
        doubtful = log.metadata.get("doubtful_us", ())
        yield found("time order", "ego", f"{many(dropped, 'row')} dropped, whose time does not increase, from line "
                    f"{lines}", dropped, doubtful or log.ego.timestamps_us[:1])
    invalid = np.setdiff1d(log.ego.timestamps_us[~log.ego.valid], log.metadata.get("doubtful_us", ()))
    if len(invalid):
        yield found("invalid pose", "ego", f"{len(invalid)} of {len(log.ego)} poses are not finite or not on earth, "
                    f"the first at {at_time(invalid[0], log)}", times_us=invalid)
    yield from gaps(log, "ego", log.ego.timestamps_us[log.ego.valid])


# --- where the ego is ---------------------------------------------------------------------------------------------


def around(times_us: IntArray, at_us: IntArray) -> IntArray:
    """The times that lie within AROUND_JUMP_US of one of ``at_us``."""
    near = np.abs(times_us[:, None] - np.asarray(at_us)[None]) <= AROUND_JUMP_US
    hit: IntArray = times_us[near.any(1)]
    return hit


def broken_by(times_us: IntArray, path: FloatArray, at_us: IntArray) -> IntArray:
    """The times of the poses that breaks in the path at ``at_us`` spoil.

    Those around it; and where the path does not go on afterwards as it was, all but its main part, or all if none is.
    """
    breaks = np.split(np.unique(at_us), np.flatnonzero(np.diff(np.unique(at_us)) > AROUND_JUMP_US) + 1)
    stays = [part for part in breaks if not goes_on(times_us, path, int(part[0]), int(part[-1]))]
    bad = around(times_us, at_us)
    if not stays:
        return bad
    parts = np.split(times_us, np.searchsorted(times_us, [part[-1] for part in stays]))
    main = max(parts, key=len)
    return times_us if 3 * len(main) < 2 * len(times_us) else np.union1d(bad, np.setdiff1d(times_us, main))


def goes_on(times_us: IntArray, path: FloatArray, from_us: int, to_us: int) -> bool:
    """Whether the place after a break is the one that the speeds before and after it lead to."""
    before = np.flatnonzero(times_us < from_us - AROUND_JUMP_US // 2)[-8:]
    after = np.flatnonzero(times_us > to_us + AROUND_JUMP_US // 2)[:8]
    if min(len(before), len(after)) < 2:
        return True
    a, b = before[-1], after[0]
    speeds = [(path[part[-1], :2] - path[part[0], :2]) / (times_us[part[-1]] - times_us[part[0]])
              for part in (before, after)]
    due = path[a, :2] + (speeds[0] + speeds[1]) / 2 * (times_us[b] - times_us[a])
    return bool(np.linalg.norm(path[b, :2] - due) < GOES_ON_M)


def pose_jumps(log: Log) -> Iterator[Finding]:
    times_us, path = valid_path(log)
    if len(times_us) < 3:
        return
    step_s, moved = np.diff(times_us) / 1e6, np.linalg.norm(np.diff(path[:, :2], axis=0), axis=1)
    jumps = np.flatnonzero(moved > MAX_SPEED_MPS * step_s + JUMP_SLACK_M)
    if len(jumps):
        worst = jumps[np.argmax(moved[jumps])]
        yield found("pose jump", "ego", f"{many(len(jumps), 'jump')} faster than {MAX_SPEED_MPS:.0f} m/s; "
                    f"{moved[worst]:.1f} m in {step_s[worst]:.3f} s at {at_time(times_us[worst], log)}", len(jumps),
                    broken_by(times_us, path, np.concatenate([times_us[jumps], times_us[jumps + 1]])))
    few = spaced(times_us, ACCEL_WINDOW_US)
    if len(few) < 3:
        return
    seconds = times_us[few] / 1e6
    velocity = np.diff(path[few, :2], axis=0) / np.diff(seconds)[:, None]
    accel = np.linalg.norm(np.diff(velocity, axis=0), axis=1) / ((seconds[2:] - seconds[:-2]) / 2)
    near_jump = np.isin(times_us[few[1:-1]], around(times_us, times_us[np.concatenate([jumps, jumps + 1])]))
    hard = np.flatnonzero((accel > MAX_ACCEL_MPS2) & ~near_jump)
    if len(hard):
        worst = hard[np.argmax(accel[hard])]
        yield found("pose acceleration", "ego", f"{many(len(hard), 'time')} more than {MAX_ACCEL_MPS2:.0f} m/s2; "
                    f"{accel[worst]:.1f} m/s2 at {at_time(times_us[few[worst + 1]], log)}", len(hard),
                    broken_by(times_us, path, np.concatenate([breaking_step(times_us, path, few[h], few[h + 2])
                                                              for h in hard])))


def breaking_step(times_us: IntArray, path: FloatArray, first: int, last: int) -> IntArray:
    """The two times, within a window of samples, between which the speed differs most from the window's usual one."""
    part = slice(first, last + 1)
    velocity = np.diff(path[part, :2], axis=0) / np.diff(times_us[part])[:, None]
    worst = first + int(np.argmax(np.linalg.norm(velocity - np.median(velocity, axis=0), axis=1)))
    return times_us[worst:worst + 2]


def held_poses(log: Log) -> Iterator[Finding]:
    """Positions that repeat exactly although the ego drove just before: a slow receiver written at a fast rate."""
    times_us, path = valid_path(log)
    if len(times_us) < 4:
        return
    same = np.concatenate([[False], (np.diff(path[:, :2], axis=0) == 0).all(1)])
    fresh = np.flatnonzero(~same)
    bad: list[int] = []
    for start, end in zip(fresh, [*fresh[1:], len(times_us)]):
        since = np.searchsorted(times_us, times_us[start] - 500_000)
        seconds = (times_us[start] - times_us[since]) / 1e6
        if end - start > 1 and seconds > 0:
            speed = np.linalg.norm(path[start, :2] - path[since, :2]) / seconds
            if speed > MOVING_MPS and speed > 0.5 * MAX_ACCEL_MPS2 * (times_us[start] - times_us[start - 1]) / 1e6:
                bad += range(start + 1, end)
    if bad:
        yield found("held pose", "ego", f"{many(len(bad), 'position')} exactly as before while the ego drives, the "
                    f"first at {at_time(times_us[bad[0]], log)}", times_us=times_us[bad])


# --- which way it looks -------------------------------------------------------------------------------------------


def attitude(log: Log) -> Iterator[Finding]:
    """Rotations must be proper, with z up: else they are mirrored, a camera's, or quaternions in another order."""
    times, rotation = log.ego.timestamps_us[log.ego.valid], log.ego.world_from_body[log.ego.valid][:, :3, :3]
    if not len(rotation):
        return
    mirrored = np.linalg.det(rotation) < 0
    if mirrored.any():
        yield found("left-handed pose", "ego", f"{int(mirrored.sum())} of {len(mirrored)} rotations are mirrored",
                    times_us=times[mirrored])
        return
    tilted = rotation[:, 2, 2] < MIN_UP
    if not tilted.any():
        return
    reordered = rotation_from_quaternion(np.roll(quaternion_from_rotation(rotation), 1, axis=-1))
    if np.mean(tilted) > 0.5 and -np.median(rotation[:, 2, 1]) > MIN_UP:
        yield found("camera pose", "ego", "the poses' y axis points down: they are a camera's, not the rig's")
    elif np.median(reordered[:, 2, 2]) > 0.99 and (reordered[:, 2, 2] >= MIN_UP).all():
        yield found("quaternion order", "ego", "the poses lie on their side, but stand upright if their quaternions "
                    "are read as x y z w; expected w x y z")
    else:
        worst = float(np.degrees(np.arccos(np.clip(rotation[:, 2, 2].min(), -1, 1))))
        yield found("tilted pose", "ego", f"{int(tilted.sum())} of {len(rotation)} poses tilt by more than 25 degrees, "
                    f"up to {worst:.0f}: roll or pitch may be in degrees", times_us=times[tilted])


def heading(log: Log) -> Iterator[Finding]:
    """Yaw must be the direction of travel. A constant difference is a turned frame, a constant sum a mirrored one."""
    course, _, moving = course_of(log)
    if moving.sum() < 5:
        return
    yaw = xyyaw_from_pose(log.ego.world_from_body)[moving, 2]
    direct, mirrored = np.exp(1j * (yaw - course[moving])).mean(), np.exp(1j * (yaw + course[moving])).mean()
    if np.ptp(course[moving]) > MIN_TURN_RAD and abs(mirrored) > 0.97 and abs(mirrored) > abs(direct) + 0.01:
        swapped = abs(abs(float(np.angle(mirrored))) - np.pi / 2) < 0.3
        guess = "x and y look swapped, or yaw counts from north" if swapped else "one axis looks mirrored"
        yield found("mirrored axes", "ego", f"yaw grows clockwise against the path: {guess}; expected x forward, "
                    "y left, yaw counter-clockwise")
    elif abs(direct) < 0.9:
        yield found("heading", "ego", "yaw does not follow the direction of travel")
    elif abs(float(np.angle(direct))) > np.radians(15):
        degrees = float(np.degrees(np.angle(direct)))
        slow = float(np.nanmax(forward_speed(log))) < REVERSING_MPS
        yield found("reversing" if slow and abs(degrees) > 165 else "heading", "ego",
                    f"yaw is {degrees:+.0f} degrees from the direction of travel")


def lever_arm(log: Log) -> Iterator[Finding]:
    """Where the poses' origin lies ahead of the rear axle, in bends: a sensor's place given for the rig's."""
    left, turning = slip(log)
    if len(left) < 10 or float(np.sqrt(np.mean(turning**2))) < 0.08:
        return
    arm_m = float(left @ turning / (turning @ turning))
    fit = float(left @ turning) / max(float(np.linalg.norm(left) * np.linalg.norm(turning)), 1e-9)
    if arm_m > MAX_LEVER_M and fit > 0.8:
        yield found("lever arm", "ego", f"in bends the poses swing out like a point {arm_m:.1f} m ahead of the rear "
                    "axle: they may be a sensor's")


# --- what was reported --------------------------------------------------------------------------------------------


def reported_speed(log: Log) -> Iterator[Finding]:
    """Speed as reported against the speed of the positions: the ratio betrays the unit."""
    said, seen = np.abs(column(log, "speed_mps")), forward_speed(log)
    if np.isfinite(said).sum() >= 5 and np.nanmedian(said) > MOVING_MPS and np.nanmax(seen) < 0.05 * np.nanmedian(said):
        yield found("position unit", "ego", f"the positions move at {np.nanmedian(seen):.2g} a second where speed_mps "
                    f"says {np.nanmedian(said):.1f}: they are no metres (degrees of latitude, kilometres)")
        return
    use = np.isfinite(said) & (seen > MOVING_MPS)
    if use.sum() < 5:
        return
    ratio = float(np.median(said[use] / seen[use]))
    unit = next((name for factor, name in UNITS if abs(ratio / factor - 1) < 0.08), None)
    if unit:
        yield found("speed unit", "ego", f"speed_mps is {ratio:.2f} times the speed of the positions: it looks like "
                    f"{unit}")
    elif abs(ratio / 0.3048 - 1) < 0.08:
        yield found("position unit", "ego", "the positions move 3.28 times as fast as speed_mps says: they look like "
                    "feet")
    elif abs(ratio - 1) > 0.1:
        yield found("speed mismatch", "ego", f"speed_mps is {ratio:.2f} times the speed of the positions")
    else:
        yield from local_mismatch(log, said, seen)


def local_mismatch(log: Log, said: FloatArray, seen: FloatArray) -> Iterator[Finding]:
    """Stretches of half a second and more in which the two differ although they agree elsewhere."""
    times = log.ego.timestamps_us
    apart = np.abs(said - seen) > np.maximum(LOCAL_MISMATCH_MPS, LOCAL_MISMATCH * np.fmax(said, seen))
    hits = [part for part in runs(apart) if times[part[-1]] - times[part[0]] >= 400_000]
    if hits:
        bad = np.concatenate(hits)
        worst = bad[np.argmax(np.abs(said - seen)[bad])]
        yield found("speed mismatch", "ego", f"speed and positions disagree in {many(len(hits), 'stretch')}, most at "
                    f"{at_time(times[worst], log)}: {said[worst]:.1f} m/s reported, {seen[worst]:.1f} m/s moved",
                    len(hits), around(times, times[bad]))


def runs(hit: BoolArray) -> list[IntArray]:
    """The indices of each unbroken stretch of True."""
    at = np.flatnonzero(hit)
    return [part for part in np.split(at, np.flatnonzero(np.diff(at) > 1) + 1) if len(part)]


def reported_turning(log: Log) -> Iterator[Finding]:
    """Yaw as written against 2 pi and against the path's turning; yaw rate against the rate of the path's direction."""
    said, (course, rate, moving) = column(log, "yaw_rate_radps"), course_of(log)
    yaw = column(log, "yaw_rad")
    outside = float(np.mean(np.abs(yaw[np.isfinite(yaw)]) > 2 * np.pi + 0.1)) if np.isfinite(yaw).any() else 0.0
    turned = moving & np.isfinite(yaw) & np.isfinite(course)
    steps, path_steps = np.abs(np.diff(yaw[turned])), np.abs(wrap_angle(np.diff(course[turned])))
    bends = (path_steps > 0.02) & (steps < 180)
    scale = float(np.median(steps[bends] / path_steps[bends])) if bends.sum() >= 5 else 1.0
    if outside > 0.2 or 35 < scale < 80:
        beyond, turns = f"{outside:.0%} of yaw_rad lies beyond 2 pi", f"yaw_rad turns {scale:.0f} times as far"
        why = beyond if outside > 0.2 else turns
        yield found("yaw unit", "ego", f"{why}: it looks like degrees")
    use = moving & np.isfinite(said) & np.isfinite(rate)
    if use.sum() < 5 or np.ptp(course[use]) < MIN_TURN_RAD:
        return
    slope = float((said[use] @ rate[use]) / (rate[use] @ rate[use]))
    if 35 < abs(slope) < 80:
        yield found("yaw rate unit", "ego", f"yaw_rate_radps is {abs(slope):.1f} times the path's: it looks like "
                    "degrees a second")
    if slope < -0.5:
        yield found("yaw rate sign", "ego", "yaw_rate_radps has the opposite sign of the path's turning; expected "
                    "left positive")


CHECKS: tuple[Callable[[Log], Iterator[Finding]], ...] = (
    ego_times, attitude, pose_jumps, held_poses, reported_speed, reported_turning, heading, lever_arm)


def check_ego(log: Log) -> Iterator[Finding]:
    """All checks of the ego; times in a wrong unit make everything else meaningless, and it is not said."""
    wrong = list(time_unit("ego", log.ego.timestamps_us))
    yield from wrong
    if not wrong:
        for look in CHECKS:
            yield from look(log)
