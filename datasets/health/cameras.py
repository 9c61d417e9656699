"""Checks of the cameras: their times, their files, and their pixels at low resolution."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from drive_wm.datasets.health.ego import HOUR_US, at_time, gaps, time_unit
from drive_wm.datasets.health.findings import Finding, found, many
from drive_wm.geometry import interpolate_poses, quaternion_from_rotation, rotation_from_quaternion
from drive_wm.types import ByteArray, Camera, FloatArray, FrameError, IntArray, Log

PREVIEW_PX = 320            # blur is still seen at this width
SMALL_PX, COARSE_PX = 160, 24  # at the second, a scene barely changes from one image to the next
FROZEN_LEVELS = 0.25        # mean difference of two images, of 255: sensor noise alone is more
FROZEN_MOVED_M = 0.25
REPEATED_MOVED_M = 1.0
DARK_LEVEL, BRIGHT_LEVEL, EXPOSED_SHARE = 6, 250, 0.75
BLURRED, LIKE_CONTRAST = 0.35, 0.6  # of the sharpness and of the contrast of the images around
MIN_DETAIL = 1.5            # levels between neighbouring pixels
MIN_SHARPNESS = 2.0         # levels; below it a scene has nothing that could blur
ODD_FACTOR, ODD_LEVELS = 1.6, 6.0
AROUND = 5                  # images to either side that one is compared with
OUTSIDE_SLACK_US = 100_000
DEFAULT_PIXEL_SAMPLES = 240
DRAWN_PIXEL_SAMPLES = 4
SMALL_FILE = 0.7            # of the size of those around: black, white, blurred and broken images compress well


@dataclass
class Seen:
    """What was looked at of one camera. bad: time -> why; prints: time -> (bytes, CRC) of its file; grey: by index."""

    camera: Camera
    times_us: IntArray
    stored: bool
    bad: dict[int, str] = field(default_factory=dict)
    prints: dict[int, tuple[int, int]] = field(default_factory=dict)
    grey: dict[int, ByteArray] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.camera.name

    def pairs(self) -> IntArray:
        """Indices whose next image was looked at as well."""
        return np.array([i for i in sorted(self.grey) if i + 1 in self.grey], dtype=np.int64)


def look_at(log: Log, camera: Camera, samples: int | None) -> Seen:
    """Every file of a camera is read once, ``samples`` of its images are decoded, small and grey.

    All where there are few; else pairs of neighbours spread over the log, and those whose file is oddly small.
    """
    frames: Any = log.frames
    times = np.asarray(frames.timestamps_us(camera.name), dtype=np.int64)
    seen = Seen(camera, times, hasattr(frames, "previews"))
    if seen.stored:
        for time in times.tolist():
            try:
                if (made := frames.fingerprint(camera.name, time)) is not None:
                    seen.prints[time] = made
            except FrameError as error:
                seen.bad[time] = str(error)
    count = samples if samples is not None else DEFAULT_PIXEL_SAMPLES if seen.stored else DRAWN_PIXEL_SAMPLES
    index_of = {int(times[i]): i for i in chosen(seen, count) if int(times[i]) not in seen.bad}
    for time, image in previews(log, camera, list(index_of)):
        if isinstance(image, FrameError):
            seen.bad[time] = str(image)
        else:
            seen.grey[index_of[time]] = image
    return seen


def chosen(seen: Seen, samples: int) -> list[int]:
    """Indices of the images to decode."""
    count = len(seen.times_us)
    if count <= samples:
        return list(range(count))
    starts = np.linspace(0, count - 2, max(1, samples // 2)).astype(int)
    picked = {int(i) + k for i in starts for k in (0, 1)}
    sizes = np.array([seen.prints.get(t, (0, 0))[0] for t in seen.times_us.tolist()], dtype=np.float64)
    if sizes.any():
        small = np.flatnonzero(sizes < SMALL_FILE * local_median(sizes))[:samples // 2]
        picked |= {j for i in small.tolist() for j in range(max(0, i - 1), min(count, i + 2))}
    return sorted(picked)


def local_median(values: FloatArray) -> FloatArray:
    """The median of each value's neighbours, itself left out; one that has none is its own."""
    if len(values) < 2:
        return values
    padded = np.pad(np.asarray(values, dtype=np.float64), AROUND, constant_values=np.nan)
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * AROUND + 1).copy()
    around[:, AROUND] = np.nan
    around.sort(axis=1)  # NaN last
    row, count = np.arange(len(values)), (~np.isnan(around)).sum(1)
    return (around[row, (count - 1) // 2] + around[row, count // 2]) / 2


def previews(log: Log, camera: Camera, times_us: list[int]) -> Iterator[tuple[int, ByteArray | FrameError]]:
    """Grey images of about PREVIEW_PX width; of files without decoding them in full where that can be."""
    frames: Any = log.frames
    if hasattr(frames, "previews"):
        yield from frames.previews(camera.name, times_us, PREVIEW_PX)
        return
    for time in times_us:
        try:
            yield time, cv2.cvtColor(frames.read(camera.name, time), cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)
        except FrameError as error:
            yield time, error


# --- times --------------------------------------------------------------------------------------------------------


def camera_times(log: Log, camera: str) -> Iterator[Finding]:
    """Missing cameras, gaps, order, and whether the camera's clock is the ego's."""
    times = np.asarray(log.frames.timestamps_us(camera), dtype=np.int64)
    if not len(times):
        yield found("missing camera", camera, "the rig has it, but there is no image of it")
        return
    if unit := list(time_unit(camera, times)):
        yield from unit
        return
    backwards = np.flatnonzero(np.diff(times) <= 0) + 1
    if len(backwards):
        yield found("time order", camera, f"{many(len(backwards), 'image')} whose time does not increase",
                    times_us=times[backwards])
    yield from gaps(log, camera, times)
    outside = (times < log.start_us - OUTSIDE_SLACK_US) | (times > log.end_us + OUTSIDE_SLACK_US)
    if outside.all():
        offset = float(np.median(times)) - (log.start_us + log.end_us) / 2
        hours = round(offset / HOUR_US)
        whole = hours and abs(offset - hours * HOUR_US) < max(60_000_000, log.end_us - log.start_us)
        hint = f"a whole number of hours ({hours:+d}): a time zone" if whole else f"{offset / 1e6:+.1f} s apart"
        yield found("clock offset", camera, f"no image lies within the ego's times: {hint}", len(times))
    elif outside.any():
        yield found("clock offset", camera, f"{int(outside.sum())} of {len(times)} images lie outside the ego's times",
                    times_us=times[outside], severity="warning")


def cameras_apart(log: Log) -> Iterator[Finding]:
    """A camera that begins and ends later than all the others, by the same time, has a clock of its own."""
    times = {camera: np.asarray(log.frames.timestamps_us(camera), dtype=np.int64) for camera in log.rig.names}
    spans = {camera: at for camera, at in times.items() if len(at) > 10}
    for camera, at in spans.items():
        others = [other for name, other in spans.items() if name != camera]
        if len(others) < 2:
            continue
        period = float(np.median(np.diff(at)))
        first, last = (np.array([other[k] for other in others], dtype=np.float64) for k in (0, -1))
        begins, ends = at[0] - np.median(first), at[-1] - np.median(last)
        agree = max(float(np.ptp(first)), float(np.ptp(last)), abs(begins - ends)) < 0.3 * period
        if agree and abs(begins) > 0.9 * period:
            yield found("clock offset", camera, f"it begins and ends {begins / 1e6:+.2f} s from all other cameras: its "
                        "clock differs")


# --- files and pixels ---------------------------------------------------------------------------------------------


def bad_images(log: Log, seen: Seen) -> Iterator[Finding]:
    """One finding for wrong sizes and one for the rest, each with its first example."""
    sizes = {time for time, text in seen.bad.items() if re.search(r"(the rig says|expected) \d+ x \d+", text)}
    for kind, times in (("image size", sizes), ("broken image", seen.bad.keys() - sizes)):
        if times:
            first = min(times)
            yield found(kind, seen.name, f"{many(len(times), 'image')}; the first at {at_time(first, log)}: "
                        f"{seen.bad[first]}", times_us=times)


def exposure(log: Log, seen: Seen) -> Iterator[Finding]:
    for kind, test in (("under-exposed", lambda g: g <= DARK_LEVEL), ("over-exposed", lambda g: g >= BRIGHT_LEVEL)):
        hits = [i for i, grey in seen.grey.items() if float(test(grey).mean()) > EXPOSED_SHARE]
        yield from images_found(log, kind, seen, hits)


def images_found(log: Log, kind: str, seen: Seen, hits: list[int], words: str = "") -> Iterator[Finding]:
    if hits:
        first = at_time(seen.times_us[min(hits)], log)
        yield found(kind, seen.name, f"{len(hits)} of {len(seen.grey)} images looked at{words}, the first at {first}",
                    times_us=seen.times_us[hits])


def sharpness(grey: ByteArray) -> tuple[float, float, float]:
    """Mean size of the Laplacian in levels, its sharpest half percent against the contrast, and the contrast itself."""
    edges, contrast = np.abs(cv2.Laplacian(grey, cv2.CV_16S)), float(cv2.meanStdDev(grey)[1][0, 0])
    counts = np.cumsum(np.bincount(edges.ravel()))
    sharpest = int(np.searchsorted(counts, 0.995 * edges.size))
    return float(edges.mean()), sharpest / (contrast + 4.0), contrast


def blurred(log: Log, seen: Seen) -> Iterator[Finding]:
    """Images whose edges are all much softer than those around, at a like contrast: a bare wall is no blur."""
    order = sorted(seen.grey)
    if len(order) < 2 * AROUND:
        return
    sharp = np.array([sharpness(seen.grey[i]) for i in order])
    usual = np.stack([local_median(values) for values in sharp.T], -1)
    soft = (sharp[:, :2] < BLURRED * usual[:, :2]).all(1) & (sharp[:, 2] > LIKE_CONTRAST * usual[:, 2])
    hits = soft & (usual[:, 0] > MIN_SHARPNESS)
    yield from images_found(log, "blurred image", seen, [order[i] for i in np.flatnonzero(hits)],
                            f": less than {BLURRED:.0%} of the sharpness of those around")


def small(grey: ByteArray, size_px: int = SMALL_PX) -> FloatArray:
    """float32 of at most size_px a side, by area, so that noise of single pixels does not matter."""
    scale = size_px / max(grey.shape)
    size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
    resized = cv2.resize(grey, size, interpolation=cv2.INTER_AREA) if scale < 1 else grey
    return resized.astype(np.float32)


def moved_m(log: Log, from_us: IntArray, to_us: IntArray) -> FloatArray:
    """Metres between the ego's places at pairs of times, NaN where one is not known."""
    before, ok_a = interpolate_poses(log.ego, from_us)
    after, ok_b = interpolate_poses(log.ego, to_us)
    return np.where(ok_a & ok_b, np.linalg.norm(after[:, :2, 3] - before[:, :2, 3], axis=1), np.nan)


def frozen(log: Log, seen: Seen) -> Iterator[Finding]:
    """Images that repeat the one before although the ego moved; of a recorded one, to the byte, also at a stop."""
    pairs, times = seen.pairs(), seen.times_us
    stuck: set[int] = set()
    if len(pairs):
        change = np.array([np.abs(small(seen.grey[i + 1]) - small(seen.grey[i])).mean() for i in pairs.tolist()])
        bare = np.array([is_bare(seen.grey[i]) for i in pairs.tolist()])
        alike = pairs[(change < FROZEN_LEVELS) & ~bare]
        stuck = set((alike[moved_m(log, times[alike], times[alike + 1]) > FROZEN_MOVED_M] + 1).tolist())
    same = np.array([i for i in range(len(times) - 1) if alike_files(seen, i, i + 1)], dtype=np.int64)
    if len(same):
        bare = np.array([i in seen.grey and is_bare(seen.grey[i]) for i in same.tolist()])
        moved = (moved_m(log, times[same], times[same + 1]) > FROZEN_MOVED_M) & ~bare
        stuck |= set((same[moved | (not log.frames.rendered)] + 1).tolist())
    if stuck:
        first = at_time(times[min(stuck)], log)
        yield found("frozen image", seen.name, f"{many(len(stuck), 'image')} the same as the one before, first at "
                    f"{first}", times_us=times[sorted(stuck)])


def is_bare(grey: ByteArray) -> bool:
    """Nothing in it tells a place from the one beside: a wall that fills the image, or stripes along the motion."""
    return float(np.abs(np.diff(small(grey), axis=1)).mean()) < MIN_DETAIL


def alike_files(seen: Seen, i: int, j: int) -> bool:
    a, b = (seen.prints.get(int(seen.times_us[k])) for k in (i, j))
    return a is not None and a == b


def repeated(log: Log, seen: Seen) -> Iterator[Finding]:
    """Files that are the same to the byte, but not next to one another, taken at different places."""
    by_print: dict[tuple[int, int], list[int]] = {}
    for i, time in enumerate(seen.times_us.tolist()):
        if time in seen.prints:
            by_print.setdefault(seen.prints[time], []).append(i)
    pairs = np.array([pair for group in by_print.values() if len(group) > 1 and not exposed_at(seen, group[0])
                      for pair in zip(group, group[1:]) if pair[1] - pair[0] > 1])
    if not len(pairs):
        return
    apart = moved_m(log, seen.times_us[pairs[:, 0]], seen.times_us[pairs[:, 1]]) > REPEATED_MOVED_M
    hits = set(pairs[apart].ravel().tolist())
    if hits:
        yield found("repeated image", seen.name, f"{many(len(hits), 'image')} the same as another one taken elsewhere, "
                    f"the first at {at_time(seen.times_us[min(hits)], log)}", times_us=seen.times_us[sorted(hits)])


def exposed_at(seen: Seen, i: int) -> bool:
    grey = seen.grey.get(i)
    return grey is not None and float(((grey <= DARK_LEVEL) | (grey >= BRIGHT_LEVEL)).mean()) > EXPOSED_SHARE


def same_in_two(log: Log, all_seen: list[Seen]) -> Iterator[Finding]:
    """Files that two cameras share to the byte."""
    owner: dict[tuple[int, int], tuple[Seen, int]] = {}
    hits: dict[str, dict[int, str]] = {}
    for seen in all_seen:
        mine = {seen.prints[t]: (t, i) for i, t in enumerate(seen.times_us.tolist()) if t in seen.prints}
        for key, (time, i) in mine.items():
            other = owner.setdefault(key, (seen, time))
            if other[0] is not seen and not exposed_at(seen, i):
                hits.setdefault(seen.name, {})[time] = other[0].name
                hits.setdefault(other[0].name, {})[other[1]] = seen.name
    for camera, times in hits.items():
        owners = ", ".join(sorted(set(times.values())))
        yield found("same image", camera, f"{many(len(times), 'image')} also among those of {owners}, "
                    f"the first at {at_time(min(times), log)}", times_us=times)


def odd(log: Log, seen: Seen) -> Iterator[Finding]:
    """Images that differ from both neighbours although those two agree: damaged data, or from elsewhere."""
    images = {i: small(grey, COARSE_PX) for i, grey in seen.grey.items()}
    pairs = [i for i in seen.pairs().tolist() if images[i].shape == images[i + 1].shape]
    change = np.array([np.abs(images[i + 1] - images[i]).mean() for i in pairs])
    usual = dict(zip(pairs, local_median(change))) if len(pairs) > 1 else {}
    by_pair = dict(zip(pairs, change))
    hits = []
    for i in pairs:
        if i - 1 in by_pair and not exposed_at(seen, i):
            least, across = min(by_pair[i - 1], by_pair[i]), np.abs(images[i + 1] - images[i - 1]).mean()
            if least > max(ODD_LEVELS, ODD_FACTOR * across, 1.5 * usual[i]):
                hits.append(i)
    yield from images_found(log, "odd image", seen, hits, ": unlike both neighbours, which agree")


CHECKS = (bad_images, exposure, blurred, frozen, repeated, odd)


def pixels(log: Log, seen: Seen) -> Iterator[Finding]:
    """All checks of one camera's images; of drawn ones only those that drawing can get wrong."""
    for look in CHECKS if seen.stored else CHECKS[:2]:
        yield from look(log, seen)
    looked = len(seen.grey) + len(seen.bad)
    if looked < len(seen.times_us) and seen.stored:
        yield found("sampled", seen.name, f"pixels of {len(seen.grey)} of {len(seen.times_us)} images were looked at",
                    len(seen.grey))


# --- calibration --------------------------------------------------------------------------------------------------

CENTRE_X, CENTRE_Y, MAX_ANISOTROPY = (0.3, 0.7), (0.15, 0.85), 0.2
MAX_MOUNT_M, MAX_HEIGHT_M = 15.0, 6.0
MIN_DOWN, MAX_ROLL, MAX_UP = 0.2, 0.4, 0.5  # a camera may look down steeply, but not up, nor roll far


def calibration(camera: Camera) -> Iterator[Finding]:
    """Intrinsics must fit the size of the images, and the mount must be one on a car with the sky above."""
    k = np.asarray(camera.intrinsics, dtype=np.float64)
    x, y, stretch = k[0, 2] / camera.width, k[1, 2] / camera.height, k[0, 0] / max(k[1, 1], 1e-9)
    if not (CENTRE_X[0] < x < CENTRE_X[1] and CENTRE_Y[0] < y < CENTRE_Y[1]):
        yield found("intrinsics", camera.name, f"the principal point ({k[0, 2]:.0f}, {k[1, 2]:.0f}) lies {x:.2f} and "
                    f"{y:.2f} across an image of {camera.width} x {camera.height}: they are of another image size")
    elif abs(np.log(max(stretch, 1e-9))) > MAX_ANISOTROPY:
        yield found("intrinsics", camera.name, f"fx / fy is {stretch:.2f}: they are of another image size",
                    severity="warning")
    pose = camera.rig_from_camera
    far = bool((np.abs(pose[:3, 3]) > MAX_MOUNT_M).any()) or not -0.5 < pose[2, 3] < MAX_HEIGHT_M
    if far:
        place = ", ".join(f"{value:.4g}" for value in pose[:3, 3])
        yield found("camera mount", camera.name, f"it sits at ({place}) m: not on a car (millimetres, or z down?)")
    if not is_upright(pose[:3, :3]):
        yield found("camera mount", camera.name, f"its images do not stand upright: {guess_mount(pose[:3, :3])}")


def is_upright(rotation: FloatArray) -> bool:
    """Whether a camera's y axis points down in the rig, its x axis lies level and it does not look at the sky."""
    return bool(-rotation[2, 1] > MIN_DOWN and abs(rotation[2, 0]) < MAX_ROLL and rotation[2, 2] < MAX_UP)


def guess_mount(rotation: FloatArray) -> str:
    """What a rotation that does not stand upright may be instead."""
    if is_upright(rotation_from_quaternion(np.roll(quaternion_from_rotation(rotation), 1))):
        return "its quaternion may be in the order x y z w; expected w x y z"
    if is_upright(rotation.T):
        return "it may be camera_from_rig; expected rig_from_camera"
    if rotation[2, 2] > 0.85:
        return "it may use axes x forward, z up; expected x right, y down, z ahead"
    return "expected x right, y down, z ahead, in the rig frame"
