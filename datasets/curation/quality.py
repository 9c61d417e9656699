"""How good a clip's recording is: one number a measure, the worst camera's, and the limits that drop a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from drive_wm.datasets.health import Finding, check
from drive_wm.datasets.health.cameras import Seen, exposure, frozen, small
from drive_wm.datasets.health.ego import GAP_FACTOR, check_ego, pose_jumps
from drive_wm.datasets.health.masks import hit
from drive_wm.geometry import interpolate_poses
from drive_wm.types import ByteArray, Camera, FrameError, IntArray, Log, Poses

PAIRS = 6               # of neighbouring images looked at, a camera and clip
MOMENTS = (1 / 6, 1 / 2, 5 / 6)  # of a clip: where it is hashed and shown, and where drawn images are looked at
BLUR_KERNEL = 9
BLUR_SIDE_PX = 640
CHECKED_BLUR = 8        # images of a camera whose sharpness is measured
POSE_RATE_HZ = 10.0


@dataclass(frozen=True)
class Limits:
    """The most that a kept clip may have of each measure; shares are of images, pairs of images, or times.

    blur: 0 sharp to 1 (Crete et al. 2007). sync_s: how far the worst camera is from the slowest one, 95% of times.
    """

    too_short_s: float = 0.0
    missing_cameras: float = 0.0
    broken_share: float = 0.05
    frozen_share: float = 0.1
    blur: float = 0.55
    dark_share: float = 0.5
    bright_share: float = 0.3
    lost_share: float = 0.05
    sync_s: float = 0.06
    pose_jumps: float = 0.0
    invalid_share: float = 0.05
    damaged_share: float = 0.05


# Measure -> what a clip is called that has too much of it, the most telling first.
REASONS: dict[str, str] = {
    "too_short_s": "too short", "missing_cameras": "missing camera", "invalid_share": "invalid poses",
    "pose_jumps": "pose jump", "broken_share": "broken images", "frozen_share": "frozen images",
    "dark_share": "under-exposed", "bright_share": "over-exposed", "blur": "blurred",
    "lost_share": "dropped frames", "sync_s": "sync gap", "damaged_share": "damaged"}

# Kinds of damage that health finds over the whole log and that are measured here in samples of each clip too.
ALSO_MEASURED = {"frozen image": "frozen_share", "under-exposed": "dark_share", "over-exposed": "bright_share",
                 "broken image": "broken_share", "invalid pose": "invalid_share"}
JUMPS = ("pose jump", "pose acceleration")  # counted in the clip itself


@dataclass(frozen=True)
class Quality:
    """measures: name -> value, of REASONS and a few more for the classifier. worst: measure -> the camera it is of.

    damage: kinds of damage that health found in the log -> share of the clip that they hit.
    """

    measures: Mapping[str, float]
    worst: Mapping[str, str]
    damage: Mapping[str, float]

    def reasons(self, limits: Limits) -> list[str]:
        """What is beyond its limit, in words; damage by the name that health has for it."""
        found = [words for name, words in REASONS.items()
                 if name != "damaged_share" and self.measures[name] > getattr(limits, name)]
        return found + [kind for kind, share in self.damage.items() if share > limits.damaged_share]

    def score(self, limits: Limits) -> float:
        """1 for nothing wrong, down to 0: the mean over measures of how far each stays below its limit."""
        parts = [self.measures[name] / (getattr(limits, name) or 1.0) for name in REASONS]
        return float(np.mean(1 - np.clip(parts, 0.0, 1.0)))


def damage_of(log: Log) -> tuple[Finding, ...]:
    """What health finds in the log that makes poses or images invalid; of a drawn one the images are not doubted."""
    findings = tuple(check_ego(log)) if log.frames.rendered else check(log).findings
    return tuple(finding for finding in findings if finding.masks and finding.kind not in JUMPS)


def measure(log: Log, start_us: int, end_us: int, min_s: float, findings: Sequence[Finding] = ()) -> Quality:
    """All measures of the log's clip from start_us to end_us (inclusive). findings: what ``damage_of`` the log said."""
    values = {"too_short_s": max(0.0, min_s - (end_us - start_us) / 1e6), **poses(log, start_us, end_us)}
    worst: dict[str, str] = {}
    means: dict[str, list[float]] = {}
    for camera in log.rig.cameras:
        for name, value in of_camera(log, camera, start_us, end_us).items():
            if name in ("brightness", "contrast", "change"):
                means.setdefault(name, []).append(value)
            elif value > values.get(name, -1.0):
                values[name], worst[name] = value, camera.name
    values["sync_s"], worst["sync_s"] = sync(log, start_us, end_us)
    values |= {name: float(np.nanmean(of)) if np.isfinite(of).any() else 0.0 for name, of in means.items()}
    damage = damages(log, start_us, end_us, findings)
    for kind, name in ALSO_MEASURED.items():
        share, camera_name = damage.pop(kind, (0.0, ""))
        if share > values.get(name, 0.0):
            values[name], worst[name] = share, camera_name
    values["damaged_share"] = max((share for share, _ in damage.values()), default=0.0)
    return Quality({name: round(float(value), 5) for name, value in values.items()}, worst,
                   {kind: round(share, 5) for kind, (share, _) in damage.items()})


def damages(log: Log, start_us: int, end_us: int, findings: Sequence[Finding]) -> dict[str, tuple[float, str]]:
    """Kind of damage -> the largest share of a clip's poses, or of one camera's images, that it hits; whose."""
    out: dict[str, tuple[float, str]] = {}
    for finding in findings:
        camera = finding.where in log.rig.names
        every = np.asarray(log.frames.timestamps_us(finding.where)) if camera else log.ego.timestamps_us
        clip = within(every, start_us, end_us)
        share = float(np.isin(clip, hit(finding, every)).mean()) if len(clip) else 0.0
        if share and (camera or finding.where == "ego"):
            out[finding.kind] = max((share, finding.where), out.get(finding.kind, (0.0, "")))
    return out


# --- the ego ------------------------------------------------------------------------------------------------------


def cut_ego(log: Log, start_us: int, end_us: int) -> Log:
    """The log with the poses of a clip only."""
    times = log.ego.timestamps_us
    part = slice(int(np.searchsorted(times, start_us)), int(np.searchsorted(times, end_us, side="right")))
    return replace(log, ego=Poses(times[part], log.ego.world_from_body[part], log.ego.valid[part]))


def poses(log: Log, start_us: int, end_us: int) -> dict[str, float]:
    """Jumps and impossible accelerations (health.ego.pose_jumps), and the share of times without a pose."""
    clip = cut_ego(log, start_us, end_us)
    jumps = sum(finding.count for finding in pose_jumps(clip)) if len(clip.ego) > 2 else 0
    grid = np.arange(start_us, end_us + 1, int(1e6 / POSE_RATE_HZ), dtype=np.int64)
    _, valid = interpolate_poses(log.ego, grid)
    return {"pose_jumps": float(jumps), "invalid_share": 1.0 - float(valid.mean())}


# --- cameras ------------------------------------------------------------------------------------------------------


def within(times_us: IntArray, start_us: int, end_us: int) -> IntArray:
    return times_us[(times_us >= start_us) & (times_us <= end_us)]


def of_camera(log: Log, camera: Camera, start_us: int, end_us: int) -> dict[str, float]:
    """The measures of one camera; where it has no image at all, it is missing and the rest is nothing."""
    every = np.asarray(log.frames.timestamps_us(camera.name))
    times = within(every, start_us, end_us)
    if not len(times):
        return {"missing_cameras": 1.0, "broken_share": 0.0, "frozen_share": 0.0, "blur": 0.0, "dark_share": 0.0,
                "bright_share": 0.0, "lost_share": 1.0, "brightness": np.nan, "contrast": np.nan, "change": np.nan}
    chosen = sorted(set(moments(times, start_us, end_us)))
    if not log.frames.rendered:  # what is drawn cannot freeze, and costs its drawing
        chosen = pairs(len(times))
    images, seen, broken = read(log, camera, times, chosen)
    found = {"missing_cameras": 0.0, "lost_share": lost(every, start_us, end_us), "broken_share": broken / len(chosen)}
    return found | pixels(log, images, seen)


def pairs(count: int) -> list[int]:
    """Indices of PAIRS pairs of neighbours spread over the whole; all of them where there are few."""
    if count <= 2 * PAIRS:
        return list(range(count))
    return sorted({int(i) + k for i in np.linspace(0, count - 2, PAIRS) for k in (0, 1)})


def moments(times: IntArray, start_us: int, end_us: int) -> list[int]:
    """Indices of the images nearest to MOMENTS of a clip; ``times`` are not empty."""
    return [int(np.argmin(np.abs(times - start_us - share * (end_us - start_us)))) for share in MOMENTS]


def read(log: Log, camera: Camera, times: IntArray, chosen: list[int]) -> tuple[list[ByteArray], Seen, int]:
    """A few images at full size, all chosen ones grey as health looks at them, and how many could not be read."""
    images: list[ByteArray] = []
    seen = Seen(camera, times, stored=not log.frames.rendered)
    sharp = set(chosen[::max(1, len(chosen) // CHECKED_BLUR)])
    broken = 0
    for i in chosen:
        try:
            image = log.frames.read(camera.name, int(times[i]))
        except FrameError:
            broken += 1  # counted, and a reason to drop the clip
            continue
        seen.grey[i] = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)
        if i in sharp:
            images.append(image)
    return images, seen, broken


def pixels(log: Log, images: list[ByteArray], seen: Seen) -> dict[str, float]:
    """Shares of images too dark or too bright and of pairs that froze (as health finds them), blur, and plain means."""
    greys = {i: small(grey) for i, grey in seen.grey.items()}
    exposed = {finding.kind: finding.count / max(1, len(greys)) for finding in exposure(log, seen)}
    change = [np.abs(greys[i + 1] - greys[i]).mean() for i in seen.pairs().tolist()]
    stuck = 0 if log.frames.rendered else sum(finding.count for finding in frozen(log, seen))
    return {"frozen_share": stuck / max(1, len(change)), "dark_share": exposed.get("under-exposed", 0.0),
            "bright_share": exposed.get("over-exposed", 0.0),
            "blur": float(np.median([blur(image) for image in images])) if images else 0.0,
            "brightness": float(np.mean([g.mean() for g in greys.values()])) if greys else np.nan,
            "contrast": float(np.mean([g.std() for g in greys.values()])) if greys else np.nan,
            "change": float(np.mean(change)) if change else np.nan}


def lost(every_us: IntArray, start_us: int, end_us: int) -> float:
    """The share of a camera's images that its own period promises between start and end, and that are not there."""
    if len(every_us) < 3:  # no period, and next to nothing to learn from
        return float(end_us - start_us > 2_000_000)
    period = float(np.median(np.diff(every_us)))
    start, end = max(start_us, start_us - period), end_us
    marks = np.concatenate([[start], within(every_us, start_us, end_us), [end]])
    steps = np.diff(marks)
    missing = np.where(steps > GAP_FACTOR * period, np.round(steps / period) - 1, 0).sum()
    return float(min(1.0, missing / max(1.0, (end_us - start_us) / period)))


def sync(log: Log, start_us: int, end_us: int) -> tuple[float, str]:
    """Seconds by which the worst camera misses the times of the slowest one (95th percentile), and its name."""
    times = {name: within(np.asarray(log.frames.timestamps_us(name)), start_us, end_us) for name in log.rig.names}
    there = {name: t for name, t in times.items() if len(t)}
    if len(there) < 2:
        return 0.0, log.rig.names[0]
    slowest = min(there, key=lambda name: len(there[name]))
    offsets = {}
    for name, other in there.items():
        after = np.clip(np.searchsorted(other, there[slowest]), 1, max(1, len(other) - 1))
        near = np.minimum(np.abs(other[after - 1] - there[slowest]),
                          np.abs(other[np.minimum(after, len(other) - 1)] - there[slowest]))
        offsets[name] = float(np.percentile(near, 95)) / 1e6
    worst = max(offsets, key=lambda name: offsets[name])
    return offsets[worst], worst


def blur(image: ByteArray) -> float:
    """0 (sharp) to 1: how little the image loses when it is blurred again, the worse of both directions.

    Crete, Dolmiere, Ladret, Nicolas: The blur effect, SPIE 2007. A uniform image is as blurred as can be.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = BLUR_SIDE_PX / max(grey.shape)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    sharp = grey.astype(np.float32)
    out = []
    for axis, kernel in ((0, (1, BLUR_KERNEL)), (1, (BLUR_KERNEL, 1))):
        again = cv2.blur(sharp, kernel)
        before, after = np.abs(np.diff(sharp, axis=axis)), np.abs(np.diff(again, axis=axis))
        out.append(1.0 - float(np.maximum(before - after, 0.0).sum()) / max(float(before.sum()), 1e-6))
    return max(out)
