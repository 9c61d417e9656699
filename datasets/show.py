"""A log at a glance: facts, a contact sheet of its cameras, and its world from above."""

from __future__ import annotations

from collections import Counter
from typing import Any

import cv2
import numpy as np

from drive_wm.datasets.health import forward_speed
from drive_wm.datasets.routes import route_of
from drive_wm.geometry import interpolate_poses, xyyaw_from_pose
from drive_wm.types import ByteArray, FrameError, InputError, Log

SHEET_WIDTH_PX, CELL_HEIGHT_PX = 1568, 168
DRIVEN_RGB, ROUTE_RGB = (60, 220, 120), (90, 140, 240)


def describe(log: Log) -> dict[str, Any]:
    """Plain JSON values: duration, distance, speeds, cameras, frames, tracks by category, map, licence, split, look."""
    path = xyyaw_from_pose(log.ego.world_from_body[log.ego.valid])
    speed = forward_speed(log)
    known = speed[np.isfinite(speed)]
    frames = {camera: len(log.frames.timestamps_us(camera)) for camera in log.rig.names}
    turned = np.unwrap(path[:, 2]) if len(path) else np.zeros(1)
    facts: dict[str, Any] = {
        "id": log.id, "source": log.source, "location": log.location, "licence": log.licence, "split": log.split,
        "duration_s": round((log.end_us - log.start_us) / 1e6, 2),
        "distance_m": round(float(np.linalg.norm(np.diff(path[:, :2], axis=0), axis=1).sum()), 1),
        "turned_deg": round(float(np.degrees(turned[-1] - turned[0])), 1),
        "poses": len(log.ego), "poses_invalid": int((~log.ego.valid).sum()),
        "frames_rendered": bool(log.frames.rendered), "frames": sum(frames.values()),
        "cameras": [f"{c.name} {c.width} x {c.height}, {frames[c.name]} frames" for c in log.rig.cameras],
        "tracks": len(log.tracks), "tracks_by_category": dict(Counter(it.category for it in log.tracks).most_common()),
        "signals": len(log.signals), "texts": len(log.texts), "reasons": len(log.reasons),
        "look": f"{log.look.weather}, {'night' if log.look.night else 'day'}"}
    if len(known):
        extremes = {"min": known.min(), "mean": known.mean(), "max": known.max()}
        facts["speed_mps"] = {name: round(float(value), 2) for name, value in extremes.items()}
    parts = ("lanes", "drivable", "intersections", "crossings", "walkways", "carparks", "markings", "props")
    facts["map"] = {part: len(getattr(log.map, part)) for part in parts} if log.map else None
    return facts


def fitted(image: ByteArray, width_px: int) -> ByteArray:
    """Scaled, proportions kept, into one cell of the sheet; never enlarged."""
    scale = min(width_px / image.shape[1], CELL_HEIGHT_PX / image.shape[0], 1.0)
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    scaled: ByteArray = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return scaled


def no_image(words: str, width_px: int) -> ByteArray:
    """A grey cell that says why there is no image."""
    cell = np.full((CELL_HEIGHT_PX // 2, width_px, 3), 60, np.uint8)
    cv2.putText(cell, words, (8, CELL_HEIGHT_PX // 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (240, 120, 110), 1, cv2.LINE_AA)
    return cell


def cell(log: Log, camera: str, timestamp_us: int) -> ByteArray:
    """The camera's image nearest to a time; a damaged one is shown as such."""
    times, width_px = log.frames.timestamps_us(camera), min(480, SHEET_WIDTH_PX // len(log.rig.cameras))
    if not len(times):
        return no_image("no images", width_px)
    try:
        return fitted(log.frames.read(camera, int(times[np.argmin(np.abs(times - timestamp_us))])), width_px)
    except FrameError:
        return no_image("damaged image", width_px)


def contact_sheet_of(log: Log, count: int = 6) -> ByteArray:
    """(H, W, 3) RGB: ``count`` times spread over the log, one a row, by all cameras; each cell the nearest image."""
    from drive_wm.media import contact_sheet

    if count < 1:
        raise InputError(f"contact sheet: count {count}, expected 1 or more")
    times = np.linspace(log.start_us, log.end_us, count + 2)[1:-1].astype(np.int64)
    rows = [[cell(log, camera, int(time)) for camera in log.rig.names] for time in times]
    labels = [f"{(time - log.start_us) / 1e6:.1f} s" for time in times.tolist()]
    return contact_sheet(rows, labels, log.rig.names)


def topdown_of(log: Log, timestamp_us: int | None = None, size_px: int = 640, range_m: float = 60.0) -> ByteArray:
    """(size_px, size_px, 3) RGB from above at a time (default: the middle), with the path driven and the route."""
    from drive_wm.media import draw_topdown
    from drive_wm.render import agents_at, signals_at

    wanted = (log.start_us + log.end_us) // 2 if timestamp_us is None else timestamp_us
    valid_us = log.ego.timestamps_us[log.ego.valid]
    at_us = int(valid_us[np.argmin(np.abs(valid_us - wanted))])
    pose = interpolate_poses(log.ego, np.array([at_us]))[0][0]
    driven = xyyaw_from_pose(log.ego.world_from_body[log.ego.valid])
    paths = [("route", route_of(log)[::4], ROUTE_RGB), ("driven", driven[::max(1, len(driven) // 60)], DRIVEN_RGB)]
    return draw_topdown(log.map, paths, agents_at(log, at_us), pose, size_px, range_m,
                        signals=log.signals, signal_states=signals_at(log, at_us))
