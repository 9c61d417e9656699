"""Whether what the cameras see moves as the poses say: to the same side, at the same time, by the same angle."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from drive_wm.datasets.health.cameras import Seen, small
from drive_wm.datasets.health.findings import Finding, found
from drive_wm.datasets.health.motion import valid_path
from drive_wm.geometry import bracket
from drive_wm.types import BoolArray, FloatArray, IntArray, Log

MIN_PAIRS, MIN_SHIFT_PX, MAX_LAG_US, LAG_STEP_US = 20, 0.5, 1_000_000, 20_000
MIN_LAG_US = 70_000
GOOD_FIT = 0.8          # share of the variance explained
MIN_LIKELIER = 10.0     # logarithm of how much likelier a lag makes what was seen than none, for it to be believed
MIN_RESPONSE = 0.05
MAX_GAP_US = 600_000


def shift_of(before: FloatArray, after: FloatArray) -> float:
    """Pixels that the upper part of a scene, the far one, moved to the right; NaN where the two share nothing."""
    rows = before.shape[0] * 6 // 10
    window = cv2.createHanningWindow((before.shape[1], rows), cv2.CV_32F)
    (dx, _), response = cv2.phaseCorrelate(before[:rows], after[:rows], window)
    return float(dx) if response > MIN_RESPONSE else np.nan


def shifts(seen: Seen) -> tuple[IntArray, FloatArray]:
    """Indices (N,) of the first image of each pair, and how far the scene moved (N,) in focal lengths: radians."""
    pairs = seen.pairs()
    images = {i: small(seen.grey[i]) for i in {*pairs.tolist(), *(pairs + 1).tolist()}}
    moved = np.array([shift_of(images[i], images[i + 1]) for i in pairs.tolist()])
    width = next((image.shape[1] for image in images.values()), 1)
    return pairs, moved / (seen.camera.intrinsics[0, 0] * width / seen.camera.width)


class Motion:
    """What one camera saw move, against the ego's turning and driving at any lag."""

    def __init__(self, log: Log, seen: Seen) -> None:
        self.seen = seen
        self.pairs, self.moved = shifts(seen)
        self.pose_us, path = valid_path(log)
        driven = np.cumsum(np.linalg.norm(np.diff(path[:, :2], axis=0, prepend=path[:1, :2]), axis=1))
        self.path = np.stack([np.unwrap(path[:, 2]), driven], -1)
        self.pixel = 1.0 / float(seen.camera.intrinsics[0, 0] * min(1.0, 160 / seen.camera.width))

    def told(self, lag_us: int) -> FloatArray:
        """(N, 2) turning in rad and metres driven between the images of each pair, if their times were lag_us later."""
        (a, ok_a), (b, ok_b) = (self._at(self.seen.times_us[self.pairs + k] + lag_us) for k in (0, 1))
        return np.where((ok_a & ok_b)[:, None], b - a, np.nan)

    def _at(self, at_us: IntArray) -> tuple[FloatArray, BoolArray]:
        """Heading and metres driven (N, 2) at the times asked for, and valid (N,)."""
        before, weight, valid = bracket(self.pose_us, at_us, MAX_GAP_US)
        after, w = np.minimum(before + 1, len(self.pose_us) - 1), weight[:, None]
        return self.path[before] * (1 - w) + self.path[after] * w, valid

    def fit(self, lag_us: int) -> tuple[float, FloatArray]:
        """Share of the variance explained by turning, driving and a constant, and the three factors; NaN if too few."""
        told = self.told(lag_us)
        use = np.isfinite(self.moved) & np.isfinite(told).all(1)
        turn = told[use, 0]
        if use.sum() < MIN_PAIRS or float(np.sqrt(np.mean(turn**2))) < MIN_SHIFT_PX * self.pixel:
            return np.nan, np.full(3, np.nan)
        factors = np.column_stack([told[use], np.ones(use.sum())])
        solution = np.linalg.lstsq(factors, self.moved[use], rcond=None)[0]
        rest = self.moved[use] - factors @ solution
        return float(1 - rest.var() / max(self.moved[use].var(), 1e-12)), solution

    def lag(self) -> tuple[int, float, float]:
        """The lag that fits best, in us, how well it fits, and how well none does."""
        now, _ = self.fit(0)
        lags = np.arange(-MAX_LAG_US, MAX_LAG_US + 1, 5 * LAG_STEP_US)
        fits = np.array([self.fit(int(lag))[0] for lag in lags])
        if not np.isfinite(fits).any():
            return 0, np.nan, now
        centre = int(lags[np.nanargmax(fits)])
        lags = centre + np.arange(-4, 5) * LAG_STEP_US
        fits = np.array([self.fit(int(lag))[0] for lag in lags])
        return int(lags[np.nanargmax(fits)]), float(np.nanmax(fits)), now


def check_motion(log: Log, seen: Seen) -> Iterator[Finding]:
    """A turn by a to the left moves a far scene f a pixels to the right in any level camera."""
    if abs(seen.camera.rig_from_camera[2, 2]) > 0.5 or not log.ego.valid.any():  # it looks down or up
        return
    moving = Motion(log, seen)
    fit, factors = moving.fit(0)
    lag_us, best, now = moving.lag()
    if not np.isfinite(best) or not np.isfinite(fit):
        return
    if fit > 0.5 and factors[0] < -0.4:
        yield found("mirrored image", seen.name, "the scene turns to the other side than the poses do: the images or "
                    "the yaw are mirrored")
        return
    likelier = len(moving.pairs) / 2 * float(np.log(max(1 - now, 1e-6) / max(1 - best, 1e-6)))
    if best > GOOD_FIT and abs(lag_us) >= MIN_LAG_US and likelier > MIN_LIKELIER:
        late = "late" if lag_us < 0 else "early"
        yield found("clock offset", seen.name, f"against the poses, the times of the images are "
                    f"{abs(lag_us) / 1e6:.2f} s too {late}")
