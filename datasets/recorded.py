"""Images that lie in files: one a file, or frames of a video; read whole, probed without decoding, or seen small."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from drive_wm.types import ByteArray, FrameError, InputError, IntArray, Rig

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
PNG_START, PNG_END = b"\x89PNG", b"IEND\xaeB`\x82"
REDUCED = {1: cv2.IMREAD_GRAYSCALE, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
           8: cv2.IMREAD_REDUCED_GRAYSCALE_8}
TAIL_BYTES = 4096  # cameras pad their JPEGs; the end marker is looked for in this many last bytes


# --- one image ----------------------------------------------------------------------------------------------------


def probe_image(path: Path) -> None:
    """Raises FrameError where an image is missing, empty or cut off; reads only its two ends."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            tail = file.read()
    except OSError as error:
        raise FrameError(f"image {path.name}: missing or unreadable ({error.strerror})") from error
    if head.startswith(JPEG_START):
        whole = JPEG_END in tail
    elif head.startswith(PNG_START):
        whole = PNG_END in tail
    else:
        raise FrameError(f"image {path.name}: neither JPEG nor PNG ({size} bytes)")
    if not whole:
        raise FrameError(f"image {path.name}: truncated, its end is missing ({size} bytes)")


def read_image(path: Path) -> ByteArray:
    """(H, W, 3) uint8 RGB; raises FrameError. A cut-off JPEG is refused: OpenCV would fill the rest with grey."""
    probe_image(path)
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise FrameError(f"image {path.name}: cannot be decoded")
    rgb: ByteArray = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
    return rgb


def preview_image(path: Path, factor: int) -> ByteArray:
    """(h, w) uint8 grey, a ``factor`` (1, 2, 4, 8) smaller: a JPEG is scaled while it is decoded."""
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), REDUCED[factor])
    if image is None:
        raise FrameError(f"image {path.name}: cannot be decoded")
    return image.astype(np.uint8, copy=False)


@dataclass(frozen=True)
class ImageFile:
    """One image in a file of its own."""

    path: Path

    def probe(self) -> None:
        probe_image(self.path)

    def fingerprint(self) -> tuple[int, int] | None:
        """Bytes and CRC of the file; raises FrameError where it is missing or cut off."""
        probe_image(self.path)
        data = self.path.read_bytes()
        return len(data), zlib.crc32(data)

    def read(self) -> ByteArray:
        return read_image(self.path)


@dataclass(frozen=True)
class VideoFrame:
    """The frame ``index``, in the order of display, of a video."""

    path: Path
    index: int

    def probe(self) -> None:
        count = len(video_pts(self.path))
        if self.index >= count:
            raise FrameError(f"video {self.path.name}: has {count} frames, frame {self.index} is missing")

    def fingerprint(self) -> tuple[int, int] | None:
        """None: a frame of a video has no bytes of its own. Raises FrameError where it is missing."""
        self.probe()
        return None

    def read(self) -> ByteArray:
        self.probe()
        return read_video_frame(self.path, video_pts(self.path)[self.index])


def import_av() -> Any:
    """PyAV, or an InputError that says how to install it."""
    try:
        import av
    except ImportError as error:
        raise InputError(f"reading videos needs PyAV ({error}): pip install av") from error
    return av


@lru_cache(maxsize=64)
def video_pts(path: Path) -> tuple[int, ...]:
    """The presentation times of a video's frames in its own time base, sorted; nothing is decoded."""
    av = import_av()
    try:
        with av.open(str(path)) as container:
            return tuple(sorted(packet.pts for packet in container.demux(video=0) if packet.pts is not None))
    except (av.FFmpegError, IndexError) as error:
        raise FrameError(f"video {path.name}: cannot be opened ({error})") from error


def read_video_frame(path: Path, pts: int) -> ByteArray:
    """(H, W, 3) uint8 RGB at a presentation time. Opened anew each time: no state to share between processes."""
    av = import_av()
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            container.seek(pts, stream=stream, backward=True)
            for frame in container.decode(stream):
                if frame.pts is not None and frame.pts >= pts:
                    return frame.to_ndarray(format="rgb24")
    except av.FFmpegError as error:
        raise FrameError(f"video {path.name}: cannot be decoded at {pts} ({error})") from error
    raise FrameError(f"video {path.name}: truncated before {pts}")


def video_previews(path: Path, wanted: Sequence[int], width_px: int) -> Iterator[tuple[int, ByteArray]]:
    """(index, (h, w) uint8 grey) of frames of a video in one pass, scaled down to about ``width_px``."""
    av, left = import_av(), set(wanted)
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for index, frame in enumerate(container.decode(stream)):
                if index in left:
                    scale = min(1.0, width_px / frame.width)
                    size = {"width": max(1, round(frame.width * scale)), "height": max(1, round(frame.height * scale))}
                    yield index, frame.to_ndarray(format="gray", **size)
                    left.discard(index)
                if not left:
                    return
    except av.FFmpegError as error:
        raise FrameError(f"video {path.name}: cannot be decoded ({error})") from error


# --- the images of a log ------------------------------------------------------------------------------------------


class RecordedFrames:
    """`Frames` over files: camera -> time -> where its image is. Sizes are those of the rig."""

    rendered = False

    def __init__(self, rig: Rig, images: Mapping[str, Mapping[int, ImageFile | VideoFrame]]) -> None:
        self.rig, self.images = rig, {camera: dict(images.get(camera, {})) for camera in rig.names}
        self._times = {camera: np.array(sorted(at), dtype=np.int64) for camera, at in self.images.items()}

    def timestamps_us(self, camera: str) -> IntArray:
        self.rig.camera(camera)
        return self._times[camera]

    def _find(self, camera: str, timestamp_us: int) -> ImageFile | VideoFrame:
        self.rig.camera(camera)
        image = self.images[camera].get(int(timestamp_us))
        if image is None:
            raise FrameError(f"camera {camera}: no image at {int(timestamp_us)}")
        return image

    def probe(self, camera: str, timestamp_us: int) -> None:
        """Raises FrameError where the image is missing or cut off, without decoding it."""
        self._find(camera, timestamp_us).probe()

    def fingerprint(self, camera: str, timestamp_us: int) -> tuple[int, int] | None:
        """Bytes and CRC of the image's file, None in a video; raises FrameError where it is missing or cut off."""
        return self._find(camera, timestamp_us).fingerprint()

    def previews(self, camera: str, times_us: Sequence[int],
                 width_px: int) -> Iterator[tuple[int, ByteArray | FrameError]]:
        """Grey images of ``width_px`` to twice that, each with its time, or the FrameError of reading it."""
        videos: dict[Path, dict[int, int]] = {}
        factor = max((f for f in REDUCED if self.rig.camera(camera).width >= f * width_px), default=1)
        for time in times_us:
            image = self._find(camera, time)
            if isinstance(image, VideoFrame):
                videos.setdefault(image.path, {})[image.index] = int(time)
                continue
            try:
                yield int(time), self._preview(camera, int(time), image, factor)
            except FrameError as error:
                yield int(time), error
        for path, time_of in videos.items():
            yield from self._video_previews(path, time_of, width_px)

    def _preview(self, camera: str, timestamp_us: int, image: ImageFile, factor: int) -> ByteArray:
        grey, expected = preview_image(image.path, factor), self.rig.camera(camera)
        height, width = (side * factor for side in grey.shape)
        if max(abs(height - expected.height), abs(width - expected.width)) >= factor:
            self.read(camera, timestamp_us)  # names both sizes
        return grey

    @staticmethod
    def _video_previews(path: Path, time_of: Mapping[int, int],
                        width_px: int) -> Iterator[tuple[int, ByteArray | FrameError]]:
        done: set[int] = set()
        error = FrameError(f"video {path.name}: ends before this frame")
        try:
            for index, grey in video_previews(path, list(time_of), width_px):
                done.add(index)
                yield time_of[index], grey
        except FrameError as broken:
            error = broken
        for index in time_of.keys() - done:
            yield time_of[index], error

    def read(self, camera: str, timestamp_us: int) -> ByteArray:
        image, expected = self._find(camera, timestamp_us).read(), self.rig.camera(camera)
        if image.shape[:2] != (expected.height, expected.width):
            raise FrameError(f"camera {camera} at {int(timestamp_us)}: image is {image.shape[1]} x {image.shape[0]}, "
                             f"the rig says {expected.width} x {expected.height}")
        return image
