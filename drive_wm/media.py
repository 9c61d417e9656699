"""Pictures and films: read, written whole or not at all, and laid out. Images are (H, W, 3) uint8 RGB."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from drive_wm.geometry import box_corners, inverse_pose, transform_points, xyyaw_from_pose
from drive_wm.render import AgentBoxes
from drive_wm.types import SIGNAL_STATES, ByteArray, Camera, FloatArray, FrameError, InputError, RoadMap, Signal

Color = tuple[int, int, int]
NEAR_M = 0.3
RIBBON_M = 1.8
STRIP = (28, 30, 34)
FONT = cv2.FONT_HERSHEY_SIMPLEX
SIGNAL_COLORS: dict[str, Color] = {"unknown": (130, 130, 130), "green": (40, 220, 100), "yellow": (250, 200, 40),
                                   "red": (240, 50, 50), "off": (80, 80, 80)}
EGO_LWH_M, EGO_CENTER_M = np.array([4.6, 1.9, 1.6]), 1.4


# --- files --------------------------------------------------------------------------------------------------------


def _whole(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path`` (same suffix), then put it there in one step."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    try:
        write(Path(name))
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _checked(image: ByteArray) -> ByteArray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise InputError(f"an image must be (H, W, 3) uint8 RGB, got {image.dtype} of shape {image.shape}")
    return image


def png_bytes(image: ByteArray) -> bytes:
    """The image as a PNG file's bytes."""
    ok, data = cv2.imencode(".png", cv2.cvtColor(_checked(image), cv2.COLOR_RGB2BGR))
    if not ok:
        raise InputError("OpenCV could not write this image as PNG")
    return bytes(data.tobytes())


def write_png(path: str | Path, image: ByteArray) -> None:
    data = png_bytes(image)
    _whole(path, lambda temporary: temporary.write_bytes(data))


def decode_image(data: bytes, name: str = "image") -> ByteArray:
    """JPEG or PNG bytes -> RGB. Raises FrameError where they are empty, cut short or no image."""
    if not data:
        raise FrameError(f"{name} is empty (0 bytes); copy it again")
    if data[:2] == b"\xff\xd8" and b"\xff\xd9" not in data[-1024:]:
        raise FrameError(f"{name} is a JPEG cut short (no end marker in {len(data)} bytes); copy it again")
    if data[:4] == b"\x89PNG" and b"IEND" not in data[-64:]:
        raise FrameError(f"{name} is a PNG cut short (no end chunk in {len(data)} bytes); copy it again")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise FrameError(f"{name} is not an image that OpenCV can read; expected JPEG or PNG")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def read_image(path: str | Path) -> ByteArray:
    """(H, W, 3) RGB. Raises FrameError where the file is missing, empty, cut short or no image."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise FrameError(f"image {path} cannot be read: {error.strerror or error}") from error
    return decode_image(data, f"image {path}")


def write_mp4(path: str | Path, frames: ByteArray | Sequence[ByteArray], fps: float) -> None:
    """Frames (T, H, W, 3) as H.264 where this PyAV has x264, else MPEG-4; odd sizes repeat their last row or column."""
    try:
        import av
    except ImportError as error:
        raise InputError("writing mp4 needs PyAV: pip install av") from error
    if not len(frames) or not (math.isfinite(fps) and fps > 0):
        raise InputError(f"mp4 {path}: expected one frame or more and a positive rate, "
                         f"got {len(frames)} frames at {fps} fps")
    images = [_checked(frame) for frame in frames]
    if len({image.shape for image in images}) > 1:
        raise InputError(f"mp4 {path}: frames must have one size, got {sorted({image.shape for image in images})}")
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    _whole(path, lambda temporary: _encode(av, temporary, images, fps, codec))


def _encode(av: Any, path: Path, images: Sequence[ByteArray], fps: float, codec: str) -> None:
    from fractions import Fraction

    height, width = images[0].shape[:2]
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        # one thread and no encoder's banner: the same frames give the same bytes
        stream.thread_count = 1
        stream.options = {"crf": "18", "preset": "medium", "threads": "1"} if codec == "libx264" else {"qscale": "3"}
        for image in images:
            padded = np.ascontiguousarray(np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(padded, format="rgb24")))
        container.mux(stream.encode())


def psnr_db(a: ByteArray, b: ByteArray) -> FloatArray:
    """(..., H, W, 3) uint8 each -> (...): -10 log10 of the mean squared error in units of full scale."""
    error = ((a.astype(np.float32) - b) / 255).astype(np.float64)
    quality: FloatArray = -10 * np.log10(np.maximum(np.square(error).mean((-1, -2, -3)), 1e-10))
    return quality


# --- sheets -------------------------------------------------------------------------------------------------------


def _text(image: ByteArray, text: str, at: tuple[int, int], size: float = 0.4, color: Color = (235, 235, 235)) -> None:
    cv2.putText(image, text, at, FONT, size, color, 1, cv2.LINE_AA)


def label(image: ByteArray, text: str) -> ByteArray:
    """The image with a dark strip of text above it."""
    strip = np.full((18, image.shape[1], 3), STRIP, np.uint8)
    _text(strip, text, (4, 13))
    return np.concatenate([strip, image])


def contact_sheet(rows: Sequence[Sequence[ByteArray]], row_labels: Sequence[str] = (),
                  column_labels: Sequence[str] = (), scale: int = 1, gap: int = 2) -> ByteArray:
    """Images in a grid; cells are as large as the largest image, labels stand above rows' left ends and columns."""
    if not rows or not any(len(row) for row in rows):
        raise InputError("a contact sheet needs one image or more")
    scaled = [[np.kron(_checked(image), np.ones((scale, scale, 1), np.uint8)) for image in row] for row in rows]
    height = max(image.shape[0] for row in scaled for image in row)
    width = max(image.shape[1] for row in scaled for image in row)
    columns = max(len(row) for row in scaled)
    left = 8 + max((cv2.getTextSize(text, FONT, 0.4, 1)[0][0] for text in row_labels), default=-8)
    top = 18 if column_labels else 0
    sheet = np.full((top + len(rows) * (height + gap), left + columns * (width + gap), 3), STRIP, np.uint8)
    for i, row in enumerate(scaled):
        y = top + i * (height + gap)
        if i < len(row_labels):
            _text(sheet, row_labels[i], (4, y + height // 2 + 4))
        for j, image in enumerate(row):
            x = left + j * (width + gap)
            sheet[y : y + image.shape[0], x : x + image.shape[1]] = image
    for j, text in enumerate(column_labels[:columns]):
        _text(sheet, text, (left + j * (width + gap) + 4, 13))
    return sheet


def tile_cameras(images: Mapping[str, ByteArray], rows: int | None = None) -> ByteArray:
    """All cameras of one time in one image, in the mapping's order: one row, or two where there are six or more."""
    pictures = [_checked(image) for image in images.values()]
    if not pictures:
        raise InputError("tile_cameras: got no camera")
    count = rows or (2 if len(pictures) >= 6 else 1)
    columns = math.ceil(len(pictures) / count)
    height, width = max(p.shape[0] for p in pictures), max(p.shape[1] for p in pictures)
    sheet = np.zeros((count * height, columns * width, 3), np.uint8)
    for i, picture in enumerate(pictures):
        y, x = (i // columns) * height, (i % columns) * width
        sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return sheet


# --- into a camera ------------------------------------------------------------------------------------------------


def project(camera: Camera, points_rig: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Points (..., 3) of the rig frame -> pixels (..., 2) and depth (...); pixels mean nothing where depth <= 0."""
    points = transform_points(inverse_pose(camera.rig_from_camera), points_rig)
    uvw = points @ camera.intrinsics.T
    depth = points[..., 2]
    return uvw[..., :2] / np.where(np.abs(depth) > 1e-6, depth, 1e-6)[..., None], depth


def _polygon(image: ByteArray, camera: Camera, points_rig: FloatArray, color: Color) -> bool:
    """Fill a polygon of rig points, clipped at the near plane; False where nothing of it lies before the camera."""
    p = transform_points(inverse_pose(camera.rig_from_camera), points_rig)
    kept: list[FloatArray] = []
    for a, b in zip(p, np.roll(p, -1, axis=0)):
        if a[2] >= NEAR_M:
            kept.append(a)
        if (a[2] >= NEAR_M) != (b[2] >= NEAR_M):
            kept.append(a + (NEAR_M - a[2]) / (b[2] - a[2]) * (b - a))
    if len(kept) < 3:
        return False
    uvw = np.array(kept) @ camera.intrinsics.T
    pixels = np.clip(uvw[:, :2] / uvw[:, 2:] - 0.5, -1e5, 1e5)
    cv2.fillPoly(image, [np.rint(pixels * 16).astype(np.int32)], color, cv2.LINE_AA, 4)
    return True


def draw_trajectory_in_camera(image: ByteArray, camera: Camera, xyyaw: FloatArray, color: Color = (60, 220, 120),
                              opacity: float = 0.65) -> ByteArray:
    """A copy of the image with a path (N, 3), rig frame, laid on the ground as a ribbon that pales with time."""
    out = _checked(image).copy()
    path = np.concatenate([np.zeros((1, 3)), np.asarray(xyyaw, float)])
    side = 0.5 * RIBBON_M * np.stack([-np.sin(path[:, 2]), np.cos(path[:, 2])], 1)
    left, right = path[:, :2] + side, path[:, :2] - side
    painted = out.copy()
    for i in range(len(path) - 2, -1, -1):
        quad = np.zeros((4, 3))
        quad[:, :2] = left[i], left[i + 1], right[i + 1], right[i]
        fade = 1.0 - 0.6 * i / max(1, len(path) - 2)
        shade = tuple(int(v * fade + 255 * 0.25 * (1 - fade)) for v in color)
        _polygon(painted, camera, quad, (shade[0], shade[1], shade[2]))
    return np.asarray(cv2.addWeighted(painted, opacity, out, 1 - opacity, 0), np.uint8)


def draw_boxes_in_camera(image: ByteArray, camera: Camera, world_from_rig: FloatArray, agents: AgentBoxes,
                         labels: Sequence[str] = (), color: Color = (255, 80, 200)) -> ByteArray:
    """A copy of the image with the boxes' edges and their labels; edges behind the camera are left out."""
    out = _checked(image).copy()
    camera_from_world = inverse_pose(np.asarray(world_from_rig) @ camera.rig_from_camera)
    for i in range(len(agents)):
        base = box_corners(agents.xyzyaw[i, [0, 1, 3]], agents.lwh_m[i, 0], agents.lwh_m[i, 1])
        z = agents.xyzyaw[i, 2] + 0.5 * agents.lwh_m[i, 2] * np.repeat([-1.0, 1.0], 4)
        corners = transform_points(camera_from_world, np.column_stack([np.tile(base, (2, 1)), z]))
        for a in range(4):
            for start, end in ((a, (a + 1) % 4), (a + 4, (a + 1) % 4 + 4), (a, a + 4)):
                _edge(out, camera, corners[start], corners[end], color)
        if i < len(labels) and labels[i] and corners[:, 2].min() > NEAR_M:
            uvw = corners @ camera.intrinsics.T
            uv = uvw[:, :2] / uvw[:, 2:]
            if (uv.max(0) > 0).all() and (uv.min(0) < (camera.width, camera.height)).all():
                _text(out, labels[i], (int(max(0, uv[:, 0].min())), int(max(10, uv[:, 1].min() - 4))), 0.35, color)
    return out


def _edge(image: ByteArray, camera: Camera, a: FloatArray, b: FloatArray, color: Color) -> None:
    if max(a[2], b[2]) < NEAR_M:
        return
    if min(a[2], b[2]) < NEAR_M:
        near, far = (a, b) if a[2] < b[2] else (b, a)
        a, b = near + (NEAR_M - near[2]) / (far[2] - near[2]) * (far - near), far
    uvw = np.stack([a, b]) @ camera.intrinsics.T
    p, q = np.rint(np.clip(uvw[:, :2] / uvw[:, 2:] - 0.5, -1e4, 1e4) * 16).astype(int).tolist()
    cv2.line(image, p, q, color, 1, cv2.LINE_AA, 4)


# --- from above ---------------------------------------------------------------------------------------------------


class TopView:
    """World to pixels of a square picture, the ego's heading up, the ego below the middle."""

    def __init__(self, world_from_rig: FloatArray, size_px: int, range_m: float) -> None:
        self.rig_from_world = inverse_pose(np.asarray(world_from_rig, float))
        self.size, self.scale = size_px, size_px / (2 * range_m)
        self.image = np.full((size_px, size_px, 3), (44, 50, 46), np.uint8)

    def pixels(self, points_world: FloatArray) -> FloatArray:
        """(N, 2) or (N, 3) -> (N, 2) in 1/16 pixels."""
        points = np.asarray(points_world, float)
        if points.shape[-1] == 2:
            points = np.concatenate([points, np.zeros_like(points[..., :1])], -1)
        rig = transform_points(self.rig_from_world, points)
        uv = np.stack([self.size / 2 - rig[..., 1] * self.scale, 0.68 * self.size - rig[..., 0] * self.scale], -1)
        return np.rint(np.clip(uv - 0.5, -2e4, 2e4) * 16).astype(np.int32)

    def fill(self, polygon: FloatArray, color: Color) -> None:
        cv2.fillPoly(self.image, [self.pixels(polygon)], color, cv2.LINE_AA, 4)

    def line(self, points: FloatArray, color: Color, thickness: int = 1, closed: bool = False) -> None:
        if len(points) > 1:
            cv2.polylines(self.image, [self.pixels(points)], closed, color, thickness, cv2.LINE_AA, 4)


def draw_map(above: TopView, road_map: RoadMap) -> None:
    """Surfaces, then buildings and trees, then the edges of lanes and the paint."""
    for polygons, color in ((road_map.walkways, (92, 88, 82)), (road_map.drivable, (78, 80, 84)),
                            (road_map.carparks, (86, 84, 92)), (road_map.intersections, (72, 74, 80)),
                            (road_map.crossings, (120, 120, 134))):
        for polygon in polygons:
            above.fill(polygon, color)
    for prop in road_map.props:
        if prop.kind in ("building", "tree", "hedge"):
            pose = np.array([*prop.position_m[:2], prop.yaw_rad])
            above.fill(box_corners(pose, prop.size_lwh_m[0], prop.size_lwh_m[1]),
                       (52, 84, 54) if prop.kind != "building" else (112, 98, 90))
    for lane in road_map.lanes.values():
        above.line(lane.left_m, (104, 106, 112))
        above.line(lane.right_m, (104, 106, 112))
    for marking in road_map.markings:
        if marking.style != "none":
            above.line(marking.points_m, (206, 170, 70) if marking.style.startswith("yellow") else (170, 172, 176))


def _draw_box(above: TopView, xyyaw: FloatArray, lwh_m: FloatArray, color: Color, center_m: float = 0.0) -> None:
    corners = box_corners(xyyaw, lwh_m[0], lwh_m[1], center_m)
    above.fill(corners, color)
    above.line(corners, (16, 16, 18), closed=True)
    middle, front = corners.mean(0), corners[[0, 3]].mean(0)
    above.line(np.stack([middle, front]), (16, 16, 18))


def draw_topdown(road_map: RoadMap | None, ego_paths: Sequence[tuple[str, FloatArray, Color]],
                 agents: AgentBoxes | None, world_from_rig: FloatArray, size_px: int = 384, range_m: float = 40.0,
                 signals: Sequence[Signal] | None = None, signal_states: Mapping[str, int] | None = None) -> ByteArray:
    """The scene from above, (size_px, size_px, 3), the ego's heading up.

    ego_paths: (label, (N, 3) world x y yaw, colour), listed in a legend. signal_states: id -> index into SIGNAL_STATES.
    """
    above = TopView(world_from_rig, size_px, range_m)
    if road_map is not None:
        draw_map(above, road_map)
    for signal in signals or ():
        color = SIGNAL_COLORS[SIGNAL_STATES[(signal_states or {}).get(signal.id, 0)]]
        if signal.stop_line_m is not None:
            above.line(signal.stop_line_m, color, 2)
        u, v = (above.pixels(signal.position_m[None])[0] / 16).astype(int).tolist()
        cv2.circle(above.image, (u, v), 4, color, -1, cv2.LINE_AA)
    for i in range(len(agents) if agents is not None else 0):
        assert agents is not None
        r, g, b = (int(v) for v in agents.colors[i])
        _draw_box(above, agents.xyzyaw[i, [0, 1, 3]], agents.lwh_m[i], (r, g, b))
    _draw_box(above, xyyaw_from_pose(np.asarray(world_from_rig, float)), EGO_LWH_M, (245, 245, 245), EGO_CENTER_M)
    for row, (text, path, color) in enumerate(ego_paths):
        above.line(np.asarray(path)[:, :2], color, 2)
        for u, v in (above.pixels(np.asarray(path)[:, :2]) / 16).astype(int).tolist():
            cv2.circle(above.image, (u, v), 2, color, -1, cv2.LINE_AA)
        cv2.rectangle(above.image, (6, 8 + 15 * row), (16, 16 + 15 * row), color, -1)
        _text(above.image, text, (22, 16 + 15 * row), 0.38)
    return above.image
