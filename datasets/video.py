"""Frames of a video by their exact times, through PyAV: variable frame rates, reordered frames, cut and turned videos.

A frame is named by its place in the order of display. Reading forward decodes every frame once, any other order seeks
to the key frame before. Nothing is shared between processes or threads.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.types import ByteArray, FrameError, InputError, IntArray

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
OPEN_VIDEOS = 16  # decoders kept by a thread; each holds some frames


def import_av() -> Any:
    """PyAV, or an InputError that says how to install it."""
    try:
        import av
    except ImportError as error:
        raise InputError(f"reading videos needs PyAV ({error}): pip install av") from error
    return av


@dataclass(frozen=True)
class Video:
    """What a video holds, known without decoding it.

    pts: (N,) presentation times in the stream's time base, increasing. times_us: (N,) the same in microseconds, the
    first frame at 0. keys: (K,) places of the frames that can be decoded without others. width, height: as stored.
    """

    path: Path
    pts: IntArray
    times_us: IntArray
    keys: IntArray
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.pts)

    def nearest(self, time_us: int) -> int:
        """The frame whose time is nearest to ``time_us``, the earlier of two."""
        after = int(np.searchsorted(self.times_us, time_us))
        if after == 0 or after == len(self):
            return min(after, len(self) - 1)
        return after - int(time_us - self.times_us[after - 1] <= self.times_us[after] - time_us)


def open_video(path: Path) -> Video:
    """The table of a video's frames, kept until the file changes; raises FrameError where it cannot be opened."""
    try:
        stat = path.stat()
    except OSError as error:
        raise FrameError(f"video {path.name}: cannot be opened ({error.strerror})") from error
    return _open_video(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _open_video(path: Path, size: int, changed_ns: int) -> Video:
    av = import_av()
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            packets = [(p.pts, p.is_keyframe) for p in container.demux(stream)
                       if p.size and not p.is_discard]  # discarded: before the start of an edited video
            base, width, height = stream.time_base, stream.width, stream.height
    except (av.FFmpegError, IndexError) as error:
        raise FrameError(f"video {path.name}: cannot be opened ({error})") from error
    if not packets:
        raise FrameError(f"video {path.name}: holds no frame; was its recording cut off?")
    if any(pts is None for pts, _ in packets) or len({pts for pts, _ in packets}) != len(packets):
        raise FrameError(f"video {path.name}: its {len(packets)} frames have no times of their own; "
                         f"rewrite it with: ffmpeg -i {path.name} -fflags +genpts -c copy new.mp4")
    packets.sort()
    pts = np.array([at for at, _ in packets], np.int64)
    # whole numbers all the way: a day at 1/90000 s does not fit a float's microsecond
    times = [((int(at) - int(pts[0])) * base.numerator * 2_000_000 + base.denominator) // (2 * base.denominator)
             for at in pts]
    return Video(path, pts, np.array(times, np.int64), np.flatnonzero([key for _, key in packets]), width, height)


class _Decoder:
    """A container that goes on decoding where it stands, or seeks."""

    def __init__(self, video: Video) -> None:
        self.video = video
        self.container = import_av().open(str(video.path))
        self.stream = self.container.streams.video[0]
        self.frames: Iterator[Any] = iter(())
        self.next = len(video)  # the place that comes next; nothing does before the first seek

    def read(self, index: int) -> ByteArray:
        key = int(np.searchsorted(self.video.keys, index, side="right")) - 1
        here = self.next <= index and (key < 0 or self.video.keys[key] <= self.next)
        # frames shown before their key frame but stored after it need the key frame before that one
        for back in ((None, key, key - 1, 0) if here else (key, key - 1, 0)):
            if back is not None:
                self._seek(int(self.video.pts[self.video.keys[max(back, 0)]]) if len(self.video.keys) else 0)
            image = self._decode_to(int(self.video.pts[index]))
            if image is not None:
                self.next = index + 1
                return image
        raise FrameError(f"video {self.video.path.name}: frame {index} of {len(self.video)} cannot be decoded")

    def _seek(self, pts: int) -> None:
        self.container.seek(pts, stream=self.stream, backward=True)
        self.frames = self.container.decode(self.stream)

    def _decode_to(self, pts: int) -> ByteArray | None:
        for frame in self.frames:
            if frame.pts is not None and frame.pts >= pts:
                return upright(frame) if frame.pts == pts else None
        return None


def upright(frame: Any, **options: Any) -> ByteArray:
    """(H, W, 3) uint8 RGB of a decoded frame, turned as its display matrix says (a phone held upright)."""
    image = frame.to_ndarray(**{"format": "rgb24", **options})
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90) % 4))


_local = threading.local()


def _decoder(video: Video) -> _Decoder:
    """This thread's decoder of a video; a forked process has its own, as a file's place is shared with the parent."""
    if getattr(_local, "process", None) != os.getpid():
        _local.process, _local.decoders = os.getpid(), OrderedDict()
    decoders: OrderedDict[Path, _Decoder] = _local.decoders
    found = decoders.pop(video.path, None)
    if found is None or found.video is not video:
        found = _Decoder(video)
    decoders[video.path] = found
    while len(decoders) > OPEN_VIDEOS:
        decoders.popitem(last=False)[1].container.close()
    return found


def read_frame(path: Path, index: int) -> ByteArray:
    """(H, W, 3) uint8 RGB of the frame at place ``index``; FrameError where it is not there or cannot be decoded."""
    video = open_video(path)
    if not 0 <= index < len(video):
        raise FrameError(f"video {path.name}: has {len(video)} frames, frame {index} is missing")
    av = import_av()
    decoder = None
    try:
        decoder = _decoder(video)
        return decoder.read(index)
    except (av.FFmpegError, FrameError) as error:
        _local.decoders.pop(path, None)  # what is left of it is in no known state
        if isinstance(error, FrameError):
            raise
        raise FrameError(f"video {path.name}: cannot be decoded at frame {index} ({error})") from error


def read_small(path: Path, wanted: Sequence[int], width_px: int) -> Iterator[tuple[int, ByteArray]]:
    """(place, (h, w) uint8 grey) of frames in one pass through the video, scaled down to about ``width_px``.

    Frames that are not there are left out; raises FrameError where the video cannot be decoded.
    """
    video, av = open_video(path), import_av()
    left = {int(video.pts[index]): index for index in wanted if index < len(video)}
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                index = left.pop(frame.pts, None)
                if index is not None:
                    scale = min(1.0, width_px / frame.width)
                    size = {"width": max(1, round(frame.width * scale)), "height": max(1, round(frame.height * scale))}
                    yield index, upright(frame, format="gray", **size)
                if not left:
                    return
    except av.FFmpegError as error:
        raise FrameError(f"video {path.name}: cannot be decoded ({error})") from error
