"""Images that are drawn when they are asked for: any log with a map or boxes can be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from drive_wm.geometry import interpolate_poses
from drive_wm.types import ByteArray, FrameError, IntArray, Log, RoadMap

if TYPE_CHECKING:
    from drive_wm.render import Labels, Renderer


class NoFrames:
    """The frames of a log without images."""

    rendered = False

    def timestamps_us(self, camera: str) -> IntArray:
        return np.zeros(0, np.int64)

    def read(self, camera: str, timestamp_us: int) -> ByteArray:
        raise FrameError(f"{camera} at {timestamp_us}: this log has no images")


class RenderedFrames:
    """Draws ``log`` (whose own frames are ignored) at ``rate_hz`` from its first pose to its last.

    All cameras of a moment are drawn together and the newest moment is kept, so reading camera after camera is cheap.
    """

    rendered = True

    def __init__(self, log: Log, rate_hz: float = 10.0) -> None:
        self._log = log
        self._times = np.arange(log.start_us, log.end_us + 1, int(round(1e6 / rate_hz)), dtype=np.int64)
        self._renderer: Renderer | None = None
        self._newest: tuple[int, dict[str, ByteArray]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_renderer": None, "_newest": None}

    def timestamps_us(self, camera: str) -> IntArray:
        self._log.rig.camera(camera)
        return self._times

    def read(self, camera: str, timestamp_us: int) -> ByteArray:
        self._log.rig.camera(camera)
        if self._newest is None or self._newest[0] != timestamp_us:
            self._newest = (timestamp_us, self._draw(timestamp_us))
        return self._newest[1][camera]

    def labels(self, timestamp_us: int) -> dict[str, Labels]:
        """Camera -> class, depth and instance of every pixel of the image at that time; raises FrameError.

        Instances count the agents that ``render.agents_at`` gives for that time.
        """
        return self._moment(timestamp_us, "labels")

    def _draw(self, timestamp_us: int) -> dict[str, ByteArray]:
        return self._moment(timestamp_us, "draw")

    def _moment(self, timestamp_us: int, what: str) -> dict[str, Any]:
        from drive_wm import render

        log = self._log
        pose, valid = interpolate_poses(log.ego, np.array([timestamp_us]))
        if timestamp_us not in self._times or not valid[0]:
            raise FrameError(
                f"{log.id} has no image at {timestamp_us}; it has {len(self._times)}, {log.start_us} to {log.end_us}"
            )
        if self._renderer is None:
            self._renderer = render.Renderer(log.map or RoadMap(log.id), log.look, log.signals)
        draw = self._renderer.labels if what == "labels" else self._renderer.draw
        return draw(log.rig, pose[0], render.agents_at(log, timestamp_us), render.signals_at(log, timestamp_us))
