"""Images that lie in files: one a file, or frames of a video; read whole, probed without decoding, or seen small."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from drive_wm.datasets.video import open_video, read_frame, read_small
from drive_wm.types import ByteArray, FrameError, IntArray, Rig

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
    check_ends(path.name, head, tail, size)


def check_ends(name: str, head: bytes, tail: bytes, size: int) -> None:
    if head.startswith(JPEG_START):
        whole = JPEG_END in tail
    elif head.startswith(PNG_START):
        whole = PNG_END in tail
    else:
        raise FrameError(f"image {name}: neither JPEG nor PNG ({size} bytes)")
    if not whole:
        raise FrameError(f"image {name}: truncated, its end is missing ({size} bytes)")


def read_whole(path: Path) -> bytes:
    """The bytes of an image; raises FrameError where it is missing, empty or cut off."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FrameError(f"image {path.name}: missing or unreadable ({error.strerror})") from error
    check_ends(path.name, data[:4], data[-TAIL_BYTES:], len(data))
    return data


def read_image(path: Path) -> ByteArray:
    """(H, W, 3) uint8 RGB; raises FrameError. A cut-off JPEG is refused: OpenCV would fill the rest with grey."""
    image = cv2.imdecode(np.frombuffer(read_whole(path), np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise FrameError(f"image {path.name}: cannot be decoded")
    rgb: ByteArray = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
    return rgb


def preview_image(path: Path, factor: int) -> ByteArray:
    """(h, w) uint8 grey, a ``factor`` (1, 2, 4, 8) smaller: a JPEG is scaled while it is decoded."""
    image = cv2.imdecode(np.frombuffer(read_whole(path), np.uint8), REDUCED[factor])
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
        data = read_whole(self.path)
        return len(data), zlib.crc32(data)

    def read(self) -> ByteArray:
        return read_image(self.path)


@dataclass(frozen=True)
class VideoFrame:
    """The frame ``index``, in the order of display, of a video."""

    path: Path
    index: int

    def probe(self) -> None:
        count = len(open_video(self.path))
        if self.index >= count:
            raise FrameError(f"video {self.path.name}: has {count} frames, frame {self.index} is missing")

    def fingerprint(self) -> tuple[int, int] | None:
        """None: a frame of a video has no bytes of its own. Raises FrameError where it is missing."""
        self.probe()
        return None

    def read(self) -> ByteArray:
        return read_frame(self.path, self.index)


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
            for index, grey in read_small(path, list(time_of), width_px):
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
