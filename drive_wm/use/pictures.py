"""What several commands share: image quality, pictures at a viewing size, marked causes, arrays on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from drive_wm.datasets.language.facts import Facts
from drive_wm.datasets.rendered import RenderedFrames
from drive_wm.geometry import box_corners
from drive_wm.media import FONT, Color, TopView, draw_boxes_in_camera, draw_topdown, project, tile_cameras
from drive_wm.render import AgentBoxes, agents_at, signals_at
from drive_wm.scene import Scene
from drive_wm.types import BoolArray, ByteArray, Camera, Clip, Explanation, FloatArray, Log
from drive_wm.world.reasons import SIGNAL

ZOOM = 2  # of small frames in pictures
# of causes, then of what an answer is about; Okabe and Ito: colour-blind safe
MARK_COLORS: tuple[Color, ...] = ((213, 94, 0), (0, 114, 178), (204, 121, 167), (86, 180, 233))
ABOUT_COLOR: Color = (230, 159, 0)
LIGHT_LWH_M = np.array([0.7, 0.7, 1.3])  # of the box around a light's head
WHITE: Color = (255, 255, 255)


def psnr_db(a: ByteArray, b: ByteArray) -> float:
    """-10 log10 of the mean squared error of two images of equal shape, in units of full scale."""
    return float(-10 * np.log10(max(np.mean((a.astype(np.float64) - b) ** 2) / 255.0**2, 1e-10)))


def zoomed(image: ByteArray) -> ByteArray:
    return np.kron(image, np.ones((ZOOM, ZOOM, 1), np.uint8)) if image.shape[0] < 200 else image


def one_row(frames: Any) -> ByteArray:
    return tile_cameras(frames, rows=1)


def write_arrays(path: Path, **arrays: Any) -> None:
    from drive_wm.eval.run_folder import replacing

    with replacing(path) as temporary, temporary.open("wb") as f:
        np.savez(f, **arrays)


def mean_psnr(a: ByteArray, b: ByteArray, valid: BoolArray) -> float | None:
    return float(np.mean([psnr_db(x, y) for x, y in zip(a[valid], b[valid])])) if valid.any() else None


# --- a moment at a viewing size -----------------------------------------------------------------------------------


def front_camera(clip: Clip) -> str:
    """The camera that looks most forward."""
    return max(clip.rig.cameras, key=lambda c: float(c.rig_from_camera[0, 2])).name


def full_image(scene: Scene, camera: str, width: int, height: int) -> ByteArray:
    """The image of now at a viewing size: the log's own frame, or black where the model saw none."""
    image = scene.context.frames[camera][-1]
    if scene.context.frames_valid[-1, scene.context.rig.names.index(camera)]:
        times = scene.log.frames.timestamps_us(camera)
        image = scene.log.frames.read(camera, int(times[np.argmin(np.abs(times - scene.now_us))]))
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def of_width(camera: Camera, width: int) -> Camera:
    return camera.resized(width, round(camera.height * width / camera.width))


def finer(log: Log, width: int) -> Log:
    """A drawn log drawn anew, ``width`` pixels wide, for the eye; a recorded one as it is."""
    if not log.frames.rendered or log.map is None:
        return log
    large = replace(log, rig=replace(log.rig, cameras=tuple(of_width(c, width) for c in log.rig.cameras)))
    return replace(large, frames=RenderedFrames(large))


# --- causes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mark:
    """What a cause or an answer points to: its name and a box. xyzyaw: (4,) world, of the box's centre. lwh_m: (3,)."""

    label: str
    color: Color
    xyzyaw: FloatArray
    lwh_m: FloatArray

    @property
    def boxes(self) -> AgentBoxes:
        return AgentBoxes(self.xyzyaw[None], self.lwh_m[None], ("object",), (self.label,),
                          np.array([self.color], np.uint8), np.zeros(1, bool), np.zeros(1, np.int8))


def marks_of(scene: Scene, made: Explanation) -> list[Mark]:
    """A mark for each cause, and for whom the answer is about, that is there to be pointed at: agents, and the light
    ahead."""
    boxes, marks = agents_at(scene.log, scene.now_us), []
    pointed = [(cause.kind, color, cause.agent_id) for cause, color in zip(made.causes, MARK_COLORS)]
    for label, color, name in [*pointed, *(("answer", ABOUT_COLOR, name) for name in made.about)]:
        if name in boxes.ids:
            i = boxes.ids.index(str(name))
            marks.append(Mark(label, color, boxes.xyzyaw[i], boxes.lwh_m[i]))
        elif name:
            ahead = Facts(scene.log, scene.now_us).signal
            marks += [Mark(label, color, np.array([*s.position_m, s.yaw_rad]), LIGHT_LWH_M)
                      for s in scene.log.signals if s.id == (ahead if name == SIGNAL else name)]
    return marks


def draw_marks(image: ByteArray, camera: Camera, world_from_rig: FloatArray, marks: Sequence[Mark]) -> ByteArray:
    """A copy of the image with the marks' boxes and names; camera: at the image's size."""
    out = image.copy()
    for mark in marks:
        lines = draw_boxes_in_camera(np.zeros_like(image), camera, world_from_rig, mark.boxes, color=mark.color)
        drawn = cv2.dilate(lines, np.ones((3, 3), np.uint8))
        rows, columns = np.nonzero(drawn.any(-1))
        if len(rows):
            out[rows, columns] = drawn[rows, columns]
            tag(out, mark.label, (int(columns.min()), int(rows.min()) - 6), mark.color, image.shape[1] / 1000)
    return out


def tag(image: ByteArray, text: str, at: tuple[int, int], color: Color, scale: float) -> None:
    """White words on a coloured strip, drawn into the image; at: its lower left corner, moved to lie inside."""
    scale = max(0.5, scale)
    thick = 1 if scale < 0.8 else 2
    (width, height), below = cv2.getTextSize(text, FONT, scale, thick)
    x = min(max(0, at[0]), max(0, image.shape[1] - width - 10))
    y = min(max(height + below + 6, at[1]), image.shape[0])
    cv2.rectangle(image, (x, y - height - below - 6), (x + width + 10, y), color, -1)
    cv2.putText(image, text, (x + 5, y - below - 2), FONT, scale, WHITE, thick, cv2.LINE_AA)


def marked_cameras(scene: Scene, marks: Sequence[Mark], width: int) -> dict[str, ByteArray]:
    """Camera -> the image of now, ``width`` pixels wide, with the marks in it."""
    large = replace(scene, log=finer(scene.log, width))
    out = {}
    for camera in (of_width(c, width) for c in scene.log.rig.cameras if c.name in scene.context.frames):
        image = full_image(large, camera.name, camera.width, camera.height)
        out[camera.name] = draw_marks(image, camera, scene.pose, marks)
    return out


def best_camera(scene: Scene, marks: Sequence[Mark]) -> str:
    """The camera in whose middle the first mark lies, or the one that looks ahead."""
    if marks:
        point = np.linalg.inv(scene.pose) @ [*marks[0].xyzyaw[:3], 1.0]
        found = []
        for camera in scene.context.rig.cameras:
            pixel, depth = project(camera, point[None, :3])
            off = abs(float(pixel[0, 0]) / camera.width - 0.5)
            if depth[0] > 0 and off < 0.5:
                found.append((off, camera.name))
        if found:
            return min(found)[1]
    return front_camera(scene.context)


def above(scene: Scene, marks: Sequence[Mark], paths: Sequence[tuple[FloatArray, Color, int]] = (),
          size_px: int = 720, range_m: float = 38.0) -> ByteArray:
    """From above, the ego's heading up, with marks, and paths: (N, 2 or more) world points, colour, width in pixels."""
    log, now = scene.log, scene.now_us
    image = draw_topdown(log.map, [], agents_at(log, now), scene.pose, size_px, range_m, log.signals,
                         signals_at(log, now))
    at = TopView(scene.pose, size_px, range_m)
    for points, color, width in paths:
        pixels = at.pixels(np.asarray(points)[:, :2])
        cv2.polylines(image, [pixels], False, WHITE, width + 2, cv2.LINE_AA, 4)
        cv2.polylines(image, [pixels], False, color, width, cv2.LINE_AA, 4)
    for mark in marks:
        corners = box_corners(mark.xyzyaw[[0, 1, 3]], mark.lwh_m[0] + 0.6, mark.lwh_m[1] + 0.6)
        pixels = at.pixels(corners)
        cv2.polylines(image, [pixels], True, WHITE, 8, cv2.LINE_AA, 4)
        cv2.polylines(image, [pixels], True, mark.color, 4, cv2.LINE_AA, 4)
        right, top = (pixels / 16).astype(int)[:, 0].max(), (pixels / 16).astype(int)[:, 1].min()
        tag(image, mark.label, (int(right) + 6, int(top) + 12), mark.color, 0.7)
    return image
