"""Pictures of what is wrong: the path from above, and the images in question beside their neighbours."""

from __future__ import annotations

import textwrap

import cv2
import numpy as np

from drive_wm.datasets.health.findings import Finding, HealthReport
from drive_wm.datasets.health.masks import bad_poses
from drive_wm.geometry import xyyaw_from_pose
from drive_wm.types import ByteArray, FloatArray, FrameError, IntArray, Log

SIZE_PX, LEAST_PX, MOST_PX, MARGIN_PX, SHIFT = 1240, 300, 760, 70, 4
PAPER, ROAD, SOUND, BAD, INK, SOFT = (250, 250, 252), (226, 229, 235), (11, 143, 106), (179, 38, 30), (20, 24, 31), \
    (140, 148, 160)
CELL_PX, LINE_LETTERS = 360, 36
HOLES = ("dropped frame", "frame gap")
LARGEST_STEP_M = 50.0  # no line is drawn between places further apart


def bounds(points: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The centre of the bulk of the points, and its size in metres; a few that flew off do not shrink it to a dot."""
    low, high = np.percentile(points, [2, 98], axis=0)
    centre, across = (low + high) / 2, float((high - low).max())
    near = points[np.abs(points - centre).max(1) <= 1.5 * across + 1e-9]
    low, high = (near.min(0), near.max(0)) if len(near) else (low, high)
    return (low + high) / 2, np.maximum(high - low, 1e-6)


def path_above(log: Log, report: HealthReport) -> ByteArray:
    """(H, SIZE_PX, 3) RGB: the path driven, red where its poses are damaged, on the map's drivable area."""
    points = xyyaw_from_pose(log.ego.world_from_body)[:, :2]
    centre, size = bounds(points)
    scale = float(((np.array([SIZE_PX, MOST_PX]) - 2 * MARGIN_PX) / size).min())
    height = int(max(LEAST_PX, size[1] * scale + 2 * MARGIN_PX))
    image = np.full((height, SIZE_PX, 3), PAPER, np.uint8)

    def place(xy: FloatArray) -> IntArray:
        pixels = np.array([SIZE_PX / 2, height / 2]) + (xy - centre) * [scale, -scale]
        return np.round(np.clip(pixels, -4000, 4000) * 2**SHIFT).astype(np.int32)

    for area in log.map.drivable if log.map is not None else ():
        cv2.fillPoly(image, [place(area[:, :2])], ROAD, cv2.LINE_AA, SHIFT)
    bad = np.isin(log.ego.timestamps_us, bad_poses(log, report.findings)) | ~log.ego.valid
    pixels, steps = place(points), np.linalg.norm(np.diff(points, axis=0), axis=1)
    for i in np.flatnonzero(steps < max(LARGEST_STEP_M, 0.05 * float(size.max()))).tolist():
        color = BAD if bad[i] or bad[i + 1] else SOUND
        cv2.line(image, pixels[i].tolist(), pixels[i + 1].tolist(), color, 4, cv2.LINE_AA, SHIFT)
    for at in pixels[bad][:200]:
        cv2.circle(image, at.tolist(), 5 * 2**SHIFT, BAD, -1, cv2.LINE_AA, SHIFT)
    cv2.circle(image, pixels[0].tolist(), 9 * 2**SHIFT, INK, -1, cv2.LINE_AA, SHIFT)
    words(image, "start", (int(pixels[0, 0] / 2**SHIFT) - 20, int(pixels[0, 1] / 2**SHIFT) + 32), INK)
    scale_bar(image, scale)
    return image


def words(image: ByteArray, text: str, at: tuple[int, int], color: tuple[int, int, int], size: float = 0.6) -> None:
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, color, 1, cv2.LINE_AA)


def scale_bar(image: ByteArray, scale: float) -> None:
    """A round length of about a fifth of the picture, with its metres."""
    rough = 0.15 * SIZE_PX / scale
    power = 10.0 ** np.floor(np.log10(rough))
    length = max(m * power for m in (1, 2, 5) if m * power <= rough)
    x, y = SIZE_PX - 30, image.shape[0] - 24
    cv2.line(image, (x - round(length * scale), y), (x, y), INK, 2)
    words(image, f"{length:g} m", (x - round(length * scale), y - 8), INK)


# --- moments ------------------------------------------------------------------------------------------------------


def no_image(height: int, text: str) -> ByteArray:
    """Grey, with the reason in it."""
    image = np.full((height, CELL_PX, 3), ROAD, np.uint8)
    for i, line in enumerate(textwrap.wrap(text, LINE_LETTERS)[:4]):
        words(image, line, (14, height // 2 + 20 * i - 10), BAD)
    return image


def cell(log: Log, camera: str, time_us: int | None) -> ByteArray:
    """One image fitted to CELL_PX, or grey with the reason where there is none."""
    shape = log.rig.camera(camera)
    height = int(np.clip(round(CELL_PX * shape.height / shape.width), 80, 2 * CELL_PX))
    if time_us is None:
        return no_image(height, "no image")
    try:
        image = log.frames.read(camera, time_us)
    except FrameError as error:
        return no_image(height, str(error).rpartition(": ")[2])
    how = cv2.INTER_AREA if image.shape[1] > CELL_PX else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(image, (CELL_PX, height), interpolation=how), np.uint8)


def moment(log: Log, finding: Finding, time_us: int) -> list[tuple[str, ByteArray]]:
    """The image before, the one in question and the one after, each with its time and what it is."""
    times = np.asarray(log.frames.timestamps_us(finding.where))
    i = int(np.argmin(np.abs(times - time_us)))
    around: list[tuple[int | None, str]] = [(i - 1, "before"), (i, finding.kind), (i + 1, "after")]
    if finding.kind in HOLES:
        around = [(i, "before"), (None, finding.kind), (i + 1, "after")]
    cells = []
    for k, name in around:
        at = int(times[k]) if k is not None and 0 <= k < len(times) else None
        said = "" if at is None else f"{(at - log.start_us) / 1e6:+.2f} s: "
        cells.append((f"{said}{name}", cell(log, finding.where, at)))
    return cells


def bad_moments(log: Log, report: HealthReport, most: int = 6) -> list[tuple[Finding, list[tuple[str, ByteArray]]]]:
    """Three images for each finding about single images of a camera, worst first, at its first time."""
    hits = [f for f in report.findings if f.where in log.rig.names and f.times_us and f.severity != "info"]
    return [(f, moment(log, f, f.times_us[0])) for f in hits[:most]]
