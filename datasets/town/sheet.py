"""A contact sheet of varied scenes, each with words that say what is in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np

from drive_wm.datasets.parallel import in_parallel
from drive_wm.datasets.rendered import RenderedFrames
from drive_wm.datasets.rigs import dash
from drive_wm.datasets.sources import open_source
from drive_wm.datasets.town.audit import Audited
from drive_wm.datasets.town.sights import Moment, varied
from drive_wm.render import SEMANTICS, draw_log
from drive_wm.types import CATEGORIES, ByteArray, Log

CELL_W, CELL_H, COLUMNS = 384, 216, 5
SHOWN = 0.0015
LINE_PX, INK, PAPER = 15, (235, 235, 235), (28, 30, 34)


def front_camera(log: Log) -> str:
    """The camera that looks most nearly ahead."""
    return max(log.rig.cameras, key=lambda camera: camera.rig_from_camera[0, 2]).name


def in_picture(log: Log, timestamp_us: int, moment: Moment) -> Moment:
    """The moment with those agents only, and a light only if, that the picture shows: SHOWN of its pixels or more."""
    if not isinstance(log.frames, RenderedFrames):
        return moment
    classes = draw_log(log, timestamp_us, rig=dash(CELL_W, CELL_H), style="semantics")["CAM_FRONT"]
    share = np.bincount(classes.ravel(), minlength=len(SEMANTICS)) / classes.size
    shown = {name for name, part in zip(SEMANTICS, share, strict=True) if part >= SHOWN}
    kept = {word for word in moment.features if not word.startswith(("sees: ", "light ahead: "))}
    if share[SEMANTICS.index("traffic light")] >= SHOWN / 4:
        kept |= {word for word in moment.features if word.startswith("light ahead: ")}
    return replace(moment, features=frozenset(kept | {f"sees: {name}" for name in CATEGORIES if name in shown}))


def picture(log: Log, timestamp_us: int) -> ByteArray:
    """(216, 384, 3) ahead of the ego: by a dash camera where frames are drawn, else the nearest recorded image."""
    if isinstance(log.frames, RenderedFrames):
        seen = replace(log, rig=dash(CELL_W, CELL_H))
        return RenderedFrames(seen).read("CAM_FRONT", timestamp_us)
    camera = front_camera(log)
    times = log.frames.timestamps_us(camera)
    if not len(times):
        return np.zeros((CELL_H, CELL_W, 3), np.uint8)
    image = log.frames.read(camera, int(times[np.argmin(np.abs(times - timestamp_us))]))
    scale = min(CELL_W / image.shape[1], CELL_H / image.shape[0])
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    cell = np.zeros((CELL_H, CELL_W, 3), np.uint8)
    cell[: size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cell


def caption(moment: Moment, seconds: float) -> list[str]:
    """Three lines: which log and weather; what the ego does and why; what is to be seen."""
    by: dict[str, list[str]] = {}
    for feature in sorted(moment.features):
        kind, _, word = feature.partition(": ")
        by.setdefault(kind, []).append(word)
    place = [*(f"junction: {kind}" for kind in by.get("junction", ())),
             *(f"{state} light" for state in by.get("light ahead", ()))]
    does, why = ", ".join(by.get("does", ())), ", ".join(by.get("because", ()))
    return [f"{moment.log_id}  {seconds:.0f} s  {' '.join(by['weather'] + by['light'])}",
            f"{does} ({why})" if why else does, "  ".join([", ".join(by.get("sees", ())), *place]).strip()]


def _cell(job: tuple[str, Moment]) -> ByteArray:
    source, moment = job
    log = open_source(source).load(moment.log_id)
    image, moment = picture(log, moment.timestamp_us), in_picture(log, moment.timestamp_us, moment)
    strip = np.full((3 * LINE_PX + 4, CELL_W, 3), PAPER, np.uint8)
    for i, line in enumerate(caption(moment, (moment.timestamp_us - log.start_us) / 1e6)):
        cv2.putText(strip, line, (4, 12 + i * LINE_PX), cv2.FONT_HERSHEY_SIMPLEX, 0.38, INK, 1, cv2.LINE_AA)
    return np.concatenate([image, strip])


def scene_sheet(source: str, moments: Sequence[Moment], *, workers: int = 1,
                progress: Callable[[int, int], None] | None = None) -> ByteArray:
    """(H, W, 3) RGB: every moment's picture with its caption below it, five in a row."""
    cells: dict[int, ByteArray] = {}
    for index, cell in in_parallel(_cell, [(source, moment) for moment in moments], workers):
        cells[index] = cell
        if progress:
            progress(1, 1)
    blank = np.full((CELL_H + 3 * LINE_PX + 4, CELL_W, 3), PAPER, np.uint8)
    rows = [[cells.get(i, blank) for i in range(at, at + COLUMNS)] for at in range(0, len(moments), COLUMNS)]
    gap = np.full((len(blank), 4, 3), PAPER, np.uint8)
    lines = [np.concatenate([part for cell in row for part in (cell, gap)], 1) for row in rows]
    return np.concatenate(lines)


def varied_scenes(source: str, audits: Sequence[Audited], count: int, *, workers: int = 1) -> ByteArray:
    """The sheet of ``count`` moments of audited logs, one a log, chosen for what is in them."""
    moments = [moment for audited in audits for moment in audited.moments]
    return scene_sheet(source, varied(moments, count), workers=workers)
