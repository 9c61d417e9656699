"""Is a recording sound? Looks for what silently ruins training: wrong units, mirrored axes, gaps, frozen images.

Thresholds are physical or relative to the log itself, so that a dash camera and a full rig go through the same checks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from drive_wm.geometry import interpolate_poses, wrap_angle, xyyaw_from_pose
from drive_wm.types import Camera, FloatArray, FrameError, IntArray, Log

SEVERITIES = ("error", "warning", "info")
MAX_SPEED_MPS = 70.0
MAX_ACCEL_MPS2 = 15.0
MAX_AGENT_SPEED_MPS = 70.0
JUMP_SLACK_M = 0.5          # what a pose may be off by without being a jump
ACCEL_WINDOW_US = 250_000   # shorter differences of differences measure the noise of the positions
SPEED_WINDOW_S = 0.1        # fast poses are noisy poses
MOVING_MPS = 2.0            # below it a direction of travel is not defined well
MIN_TURN_RAD = 0.35         # a drive that turns less cannot tell left from right
GAP_FACTOR = 1.8            # of the median period
FROZEN_LEVELS = 0.25        # mean difference of two images, of 255: sensor noise alone is more
FROZEN_MOVED_M = 0.25
MIN_PAIRS, MIN_SHIFT_PX, MAX_LAG_US = 20, 0.5, 1_000_000
DARK_LEVEL, BRIGHT_LEVEL, EXPOSED_SHARE = 6, 250, 0.75
MIN_PERIOD_US, MAX_PERIOD_US = 900, 5_000_000  # a drive is sampled at 0.2 to 1000 Hz, or the times are no microseconds
HOUR_US = 3_600_000_000
DEFAULT_PIXEL_SAMPLES = 200
RENDERED_PIXEL_SAMPLES = 4


@dataclass(frozen=True)
class Finding:
    """One thing found. where: camera, time or agent; count: how many times. severity: one of SEVERITIES."""

    severity: str
    kind: str
    where: str
    message: str
    count: int = 1


@dataclass(frozen=True)
class HealthReport:
    """What was found in a log, worst first."""

    log_id: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """No error; warnings and remarks may stand."""
        return not any(finding.severity == "error" for finding in self.findings)

    def kinds(self, severity: str | None = None) -> set[str]:
        return {f.kind for f in self.findings if severity in (None, f.severity)}

    def to_text(self) -> str:
        counts = ", ".join(f"{sum(f.severity == s for f in self.findings)} {s}s" for s in SEVERITIES[:2])
        lines = [f"{self.log_id}: {'sound' if self.ok else 'DAMAGED'} ({counts})"]
        return "\n".join([*lines, *(f"  {f.severity:7} {f.kind:16} {f.where}: {f.message}" for f in self.findings)])

    def to_dict(self) -> dict[str, Any]:
        return {"log_id": self.log_id, "ok": self.ok, "findings": [dict(vars(f)) for f in self.findings]}


def check(log: Log, pixel_samples: int | None = None) -> HealthReport:
    """All checks. ``pixel_samples``: images decoded a camera (default 200, 4 where they are drawn); raises nothing."""
    samples = pixel_samples if pixel_samples is not None else (
        RENDERED_PIXEL_SAMPLES if log.frames.rendered else DEFAULT_PIXEL_SAMPLES)
    found = [finding for look in EGO_CHECKS for finding in look(log)]
    for camera in log.rig.cameras:
        found += camera_times(log, camera.name)
        found += camera_images(log, camera, samples)
    found += agents(log)
    return HealthReport(log.id, tuple(sorted(found, key=lambda f: SEVERITIES.index(f.severity))))


# --- the ego ------------------------------------------------------------------------------------------------------


def valid_path(log: Log) -> tuple[IntArray, FloatArray]:
    """Times (N,) in microseconds and x, y, yaw (N, 3) of the valid poses."""
    return log.ego.timestamps_us[log.ego.valid], xyyaw_from_pose(log.ego.world_from_body[log.ego.valid])


def spaced(times_us: IntArray, step_us: int) -> IntArray:
    """Indices of samples at least ``step_us`` apart; a jump between two of them stays visible."""
    kept = [0] if len(times_us) else []
    for i in range(1, len(times_us)):
        if times_us[i] - times_us[kept[-1]] >= step_us:
            kept.append(i)
    return np.array(kept, dtype=np.int64)


def forward_speed(log: Log) -> FloatArray:
    """(N,) m/s at the ego's poses, between its neighbours at least SPEED_WINDOW_S apart; NaN where invalid."""
    times_us, path = valid_path(log)
    speed = np.full(len(log.ego), np.nan)
    if len(times_us) > 1:
        seconds = (times_us - times_us[0]) / 1e6
        half = max(SPEED_WINDOW_S / 2, float(np.median(np.diff(seconds))))
        start, end = np.maximum(seconds - half, 0.0), np.minimum(seconds + half, seconds[-1])
        moved = [np.interp(end, seconds, path[:, d]) - np.interp(start, seconds, path[:, d]) for d in (0, 1)]
        speed[log.ego.valid] = np.hypot(*moved) / (end - start)
    return speed


def at_time(timestamp_us: int | float, log: Log) -> str:
    return f"{(float(timestamp_us) - log.start_us) / 1e6:+.2f} s"


def time_unit(log: Log) -> Iterator[Finding]:
    for where, times in [("ego", log.ego.timestamps_us), *((c, log.frames.timestamps_us(c)) for c in log.rig.names)]:
        if len(times) < 3:
            continue
        period = float(np.median(np.diff(times)))
        if not MIN_PERIOD_US <= period <= MAX_PERIOD_US:
            guess = "nanoseconds" if period > MAX_PERIOD_US else "milliseconds or seconds"
            yield Finding("error", "time unit", where,
                          f"the median step is {period:.0f} us: the times look like {guess}, expected microseconds")


def ego_rows(log: Log) -> Iterator[Finding]:
    dropped = int(log.metadata.get("dropped_rows", 0))
    if dropped:
        lines = ", ".join(str(line) for line in log.metadata.get("dropped_lines", ()))
        yield Finding("error", "time order", "ego",
                      f"{dropped} rows whose time does not increase were dropped, from line {lines}", dropped)
    invalid = np.flatnonzero(~log.ego.valid)
    if len(invalid):
        first = at_time(log.ego.timestamps_us[invalid[0]], log)
        yield Finding("error", "invalid pose", "ego",
                      f"{len(invalid)} of {len(log.ego)} poses are NaN, the first at {first}", len(invalid))
    yield from gaps(log, "ego", log.ego.timestamps_us[log.ego.valid], "pose gap")


def gaps(log: Log, where: str, times_us: IntArray, kind: str) -> Iterator[Finding]:
    if len(times_us) < 3:
        return
    steps = np.diff(times_us)
    median = float(np.median(steps))
    wide = np.flatnonzero(steps > GAP_FACTOR * median)
    if len(wide):
        worst = wide[np.argmax(steps[wide])]
        lost = int(np.round(steps[wide] / median - 1).sum())
        widest = f"{steps[worst] / 1e6:.2f} s at {at_time(times_us[worst], log)}"
        yield Finding("warning", kind, where, f"{len(wide)} gaps, about {lost} samples missing; the widest is {widest} "
                      f"(period {median / 1e6:.3f} s)", len(wide))


def pose_jumps(log: Log) -> Iterator[Finding]:
    times_us, path = valid_path(log)
    if len(times_us) < 3:
        return
    step_s, moved = np.diff(times_us) / 1e6, np.linalg.norm(np.diff(path[:, :2], axis=0), axis=1)
    jumps = np.flatnonzero(moved > MAX_SPEED_MPS * step_s + JUMP_SLACK_M)
    if len(jumps):
        worst = jumps[np.argmax(moved[jumps])]
        yield Finding("error", "pose jump", "ego", f"{len(jumps)} jumps faster than {MAX_SPEED_MPS:.0f} m/s; "
                      f"{moved[worst]:.1f} m in {step_s[worst]:.3f} s at {at_time(times_us[worst], log)}", len(jumps))
    few = spaced(times_us, ACCEL_WINDOW_US)
    if len(few) < 3:
        return
    seconds = times_us[few] / 1e6
    velocity = np.diff(path[few, :2], axis=0) / np.diff(seconds)[:, None]
    accel = np.linalg.norm(np.diff(velocity, axis=0), axis=1) / ((seconds[2:] - seconds[:-2]) / 2)
    hard = np.flatnonzero(accel > MAX_ACCEL_MPS2)
    if len(hard):
        worst = hard[np.argmax(accel[hard])]
        yield Finding("error", "pose acceleration", "ego", f"{len(hard)} times more than {MAX_ACCEL_MPS2:.0f} m/s2; "
                      f"{accel[worst]:.1f} m/s2 at {at_time(times_us[few[worst + 1]], log)}", len(hard))


def column(log: Log, name: str) -> FloatArray:
    """(N,) of a column as the recorder reported it, NaN where it did not."""
    values = log.metadata.get("reported", {}).get(name)
    if values is None:
        return np.full(len(log.ego), np.nan)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


UNITS = ((3.6, "km/h"), (2.237, "miles an hour"), (1.944, "knots"), (100.0, "cm/s"))


def reported_speed(log: Log) -> Iterator[Finding]:
    """Speed column against the speed of the positions: the ratio betrays the unit."""
    said, seen = column(log, "speed_mps"), forward_speed(log)
    use = np.isfinite(said) & (seen > MOVING_MPS)
    if use.sum() < 5:
        return
    ratio = float(np.median(np.abs(said[use]) / seen[use]))
    unit = next((name for factor, name in UNITS if abs(ratio / factor - 1) < 0.08), None)
    if unit:
        yield Finding("error", "speed unit", "ego",
                      f"speed_mps is {ratio:.2f} times the speed of the positions: it looks like {unit}")
    elif abs(ratio - 1) > 0.1:
        yield Finding("error", "speed mismatch", "ego", f"speed_mps is {ratio:.2f} times the speed of the positions")


def reported_turning(log: Log) -> Iterator[Finding]:
    """Yaw column against 2 pi; yaw rate column against the rate of the path's own direction."""
    yaw = column(log, "yaw_rad")
    outside = float(np.mean(np.abs(yaw[np.isfinite(yaw)]) > 2 * np.pi + 0.1)) if np.isfinite(yaw).any() else 0.0
    if outside > 0.2:
        yield Finding("error", "yaw unit", "ego", f"{outside:.0%} of yaw_rad lies beyond 2 pi: it looks like degrees")
    said, (course, rate, moving) = column(log, "yaw_rate_radps"), course_of(log)
    use = moving & np.isfinite(said) & np.isfinite(rate)
    if use.sum() < 5 or np.ptp(course[use]) < MIN_TURN_RAD:
        return
    slope = float((said[use] @ rate[use]) / (rate[use] @ rate[use]))
    if 35 < abs(slope) < 80:
        yield Finding("error", "yaw rate unit", "ego",
                      f"yaw_rate_radps is {abs(slope):.1f} times the path's: it looks like degrees a second")
    if slope < -0.5:
        yield Finding("error", "mirrored axes", "ego",
                      "yaw_rate_radps has the opposite sign of the path's turning; expected left positive")


def course_of(log: Log) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Direction of travel (N,) unwrapped, its rate (N,), and where the ego moves fast enough for both."""
    course, rate = np.full(len(log.ego), np.nan), np.full(len(log.ego), np.nan)
    moving = np.zeros(len(log.ego), dtype=bool)
    times_us, path = valid_path(log)
    few = spaced(times_us, ACCEL_WINDOW_US)
    if len(few) < 4:
        return course, rate, moving
    seconds = (times_us[few] - times_us[0]) / 1e6
    velocity = np.gradient(path[few, :2], seconds, axis=0)
    rows = np.flatnonzero(log.ego.valid)[few]
    fast = np.linalg.norm(velocity, axis=1) > MOVING_MPS
    direction = np.unwrap(np.arctan2(velocity[:, 1], velocity[:, 0])[fast])
    if fast.sum() < 4:
        return course, rate, moving
    course[rows[fast]], rate[rows[fast]] = direction, np.gradient(direction, seconds[fast])
    moving[rows[fast]] = True
    return course, rate, moving


def heading(log: Log) -> Iterator[Finding]:
    """Yaw must be the direction of travel. A constant difference is a turned frame, a constant sum a mirrored one."""
    course, _, moving = course_of(log)
    if moving.sum() < 5:
        return
    yaw = xyyaw_from_pose(log.ego.world_from_body)[moving, 2]
    direct, mirrored = np.exp(1j * (yaw - course[moving])).mean(), np.exp(1j * (yaw + course[moving])).mean()
    if np.ptp(course[moving]) > MIN_TURN_RAD and abs(mirrored) > 0.97 and abs(mirrored) > abs(direct) + 0.01:
        yield Finding("error", "mirrored axes", "ego",
                      "yaw grows clockwise against the path; expected x forward, y left, yaw counter-clockwise")
    elif abs(direct) < 0.9:
        yield Finding("error", "heading", "ego", "yaw does not follow the direction of travel")
    elif abs(float(np.angle(direct))) > np.radians(15):
        degrees = float(np.degrees(np.angle(direct)))
        level = "warning" if abs(degrees) > 165 else "error"  # reversing is odd, not wrong
        yield Finding(level, "heading", "ego", f"yaw is {degrees:+.0f} degrees from the direction of travel")


EGO_CHECKS: tuple[Callable[[Log], Iterator[Finding]], ...] = (
    time_unit, ego_rows, pose_jumps, reported_speed, reported_turning, heading)


# --- cameras ------------------------------------------------------------------------------------------------------


def camera_times(log: Log, camera: str) -> Iterator[Finding]:
    """Missing cameras, gaps, order, and whether the camera's clock is the ego's."""
    times = log.frames.timestamps_us(camera)
    if not len(times):
        yield Finding("error", "missing camera", camera, "the rig has it, but there is no image of it")
        return
    backwards = int((np.diff(times) <= 0).sum())
    if backwards:
        yield Finding("error", "time order", camera, f"{backwards} images whose time does not increase", backwards)
    yield from gaps(log, camera, times, "frame gap")
    outside = (times < log.start_us - 100_000) | (times > log.end_us + 100_000)
    if outside.all():
        offset = float(np.median(times)) - (log.start_us + log.end_us) / 2
        hours = round(offset / HOUR_US)
        whole = hours and abs(offset - hours * HOUR_US) < max(60_000_000, log.end_us - log.start_us)
        hint = f"a whole number of hours ({hours:+d}): a time zone" if whole else f"{offset / 1e6:+.1f} s apart"
        yield Finding("error", "clock offset", camera, f"no image lies within the ego's times: {hint}", len(times))
    elif outside.any():
        count = int(outside.sum())
        yield Finding("warning", "clock offset", camera,
                      f"{count} of {len(times)} images lie outside the ego's times", count)


def camera_images(log: Log, camera: Camera, samples: int) -> Iterator[Finding]:
    """Every image is probed where its files can be; ``samples`` of them, in pairs of neighbours, are decoded."""
    times, frames = log.frames.timestamps_us(camera.name), log.frames
    bad: dict[int, str] = {}
    probe = getattr(frames, "probe", None)
    if probe is not None:
        for time in times.tolist():
            try:
                probe(camera.name, time)
            except FrameError as error:
                bad[time] = str(error)
    chosen = pair_sample(len(times), samples)
    images: dict[int, FloatArray] = {}
    for i in chosen:
        time = int(times[i])
        if time in bad:
            continue
        try:
            images[i] = small_grey(frames.read(camera.name, time))
        except FrameError as error:
            bad[time] = str(error)
    yield from bad_images(log, camera.name, bad)
    yield from exposure(log, camera.name, times, images)
    if not frames.rendered:
        yield from frozen(log, camera.name, times, images)
        yield from turning_seen(log, camera, times, images)
    if len(images) + len(bad) < len(times) and not frames.rendered:
        yield Finding("info", "sampled", camera.name,
                      f"pixels of {len(images)} of {len(times)} images were looked at", len(images))


def bad_images(log: Log, camera: str, bad: dict[int, str]) -> Iterator[Finding]:
    """One finding for wrong sizes and one for the rest, each with its first example."""
    sizes = {time: text for time, text in bad.items() if re.search(r"(the rig says|expected) \d+ x \d+", text)}
    broken = {time: text for time, text in bad.items() if time not in sizes}
    for kind, texts in (("image size", sizes), ("broken image", broken)):
        if texts:
            first = min(texts)
            yield Finding("error", kind, camera,
                          f"{len(texts)} images; the first at {at_time(first, log)}: {texts[first]}", len(texts))


def pair_sample(count: int, samples: int) -> list[int]:
    """Indices of neighbouring pairs spread over the whole; all of them where there are few."""
    if count <= samples:
        return list(range(count))
    starts = np.linspace(0, count - 2, max(1, samples // 2)).astype(int)
    return sorted({int(i) + k for i in starts for k in (0, 1)})


def small_grey(image: Any) -> FloatArray:
    """(h, w) float32 of at most 160 pixels a side, by area, so that noise of single pixels does not matter."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = 160 / max(grey.shape)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return grey.astype(np.float32)


def exposure(log: Log, camera: str, times: IntArray, images: dict[int, FloatArray]) -> Iterator[Finding]:
    for kind, test in (("under-exposed", lambda g: g <= DARK_LEVEL), ("over-exposed", lambda g: g >= BRIGHT_LEVEL)):
        hits = [i for i, grey in images.items() if float(test(grey).mean()) > EXPOSED_SHARE]
        if hits:
            yield Finding("warning", kind, camera, f"{len(hits)} of {len(images)} images looked at, "
                          f"the first at {at_time(times[hits[0]], log)}", len(hits))


def frozen(log: Log, camera: str, times: IntArray, images: dict[int, FloatArray]) -> Iterator[Finding]:
    """Neighbouring images that are the same although the ego moved."""
    pairs = np.array([i for i in images if i + 1 in images], dtype=np.int64)
    if not len(pairs):
        return
    before, ok_a = interpolate_poses(log.ego, times[pairs])
    after, ok_b = interpolate_poses(log.ego, times[pairs + 1])
    moved = np.linalg.norm(after[:, :2, 3] - before[:, :2, 3], axis=1)
    change = np.array([np.abs(images[i + 1] - images[i]).mean() for i in pairs.tolist()])
    stuck = pairs[(change < FROZEN_LEVELS) & (moved > FROZEN_MOVED_M) & ok_a & ok_b]
    if len(stuck):
        first = at_time(times[stuck[0] + 1], log)
        yield Finding("error", "frozen image", camera,
                      f"{len(stuck)} images repeat the one before while the ego moves, first at {first}", len(stuck))


def shift_of(before: FloatArray, after: FloatArray) -> float:
    """Pixels that the upper part of a scene, the far one, moved to the right; NaN where the two share nothing."""
    rows = before.shape[0] * 6 // 10
    window = cv2.createHanningWindow((before.shape[1], rows), cv2.CV_32F)
    (dx, _), response = cv2.phaseCorrelate(before[:rows], after[:rows], window)
    return float(dx) if response > 0.05 else np.nan


def turning_seen(log: Log, camera: Camera, times: IntArray, images: dict[int, FloatArray]) -> Iterator[Finding]:
    """Whether what a forward camera sees turns as the poses do, at the same time and to the same side.

    A turn by a to the left moves a far scene f a pixels to the right. The correlation over lags finds the clock offset.
    """
    pairs = np.array([i for i in images if i + 1 in images], dtype=np.int64)
    if camera.rig_from_camera[0, 2] < 0.8 or len(pairs) < MIN_PAIRS:
        return
    seen = np.array([shift_of(images[i], images[i + 1]) for i in pairs.tolist()])
    focal_px = camera.intrinsics[0, 0] * images[int(pairs[0])].shape[1] / camera.width

    def told(lag_us: int) -> FloatArray:
        before, ok_a = interpolate_poses(log.ego, times[pairs] + lag_us)
        after, ok_b = interpolate_poses(log.ego, times[pairs + 1] + lag_us)
        turn = wrap_angle(xyyaw_from_pose(after)[:, 2] - xyyaw_from_pose(before)[:, 2])
        return np.where(ok_a & ok_b, focal_px * turn, np.nan)

    def correlation(expected: FloatArray, centred: bool) -> float:
        use = np.isfinite(seen) & np.isfinite(expected)
        a, b = seen[use], expected[use]
        if centred and use.any():
            a, b = a - a.mean(), b - b.mean()
        enough = use.sum() >= MIN_PAIRS and float(np.sqrt(np.mean(b**2))) > MIN_SHIFT_PX
        return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-9)) if enough else np.nan

    side = correlation(told(0), centred=False)
    if side < -0.6:
        yield Finding("error", "mirrored image", camera.name,
                      "the scene turns to the other side than the poses do: the images or the yaw are mirrored")
    lags = np.arange(-MAX_LAG_US, MAX_LAG_US + 1, 50_000)
    fit = np.array([correlation(told(int(lag)), centred=True) for lag in lags])
    now = fit[len(lags) // 2]
    if not np.isfinite(now):
        return
    best = int(np.nanargmax(fit))
    if fit[best] > 0.8 and abs(lags[best]) >= 150_000 and 1 - fit[best] ** 2 < 0.6 * (1 - max(now, 0.0) ** 2):
        late = "late" if lags[best] < 0 else "early"
        yield Finding("error", "clock offset", camera.name,
                      f"against the poses, the times of the images are {abs(lags[best]) / 1e6:.2f} s too {late}")


# --- agents -------------------------------------------------------------------------------------------------------


def agents(log: Log) -> Iterator[Finding]:
    """Tracks that jump, and boxes that are none."""
    jumping, odd = [], []
    for track in log.tracks:
        position, times = track.position_m[track.valid], track.timestamps_us[track.valid]
        if not np.isfinite(position).all() or not np.isfinite(track.size_lwh_m).all() or (track.size_lwh_m <= 0).any():
            odd.append(track.id)
        elif len(times) > 1:
            moved, step_s = np.linalg.norm(np.diff(position, axis=0), axis=1), np.diff(times) / 1e6
            if (moved > MAX_AGENT_SPEED_MPS * step_s + 2.0).any():
                jumping.append(track.id)
    if jumping:
        yield Finding("warning", "agent jump", ", ".join(jumping[:3]),
                      f"{len(jumping)} tracks move faster than {MAX_AGENT_SPEED_MPS:.0f} m/s", len(jumping))
    if odd:
        yield Finding("error", "agent box", ", ".join(odd[:3]),
                      f"{len(odd)} tracks have a position that is not finite or a size that is not positive", len(odd))
