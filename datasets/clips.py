"""Log -> Clip: a window on a fixed time grid, where what is missing is masked and never silently repeated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from drive_wm.geometry import (
    actions_from_xyyaw,
    bracket,
    interpolate_poses,
    inverse_pose,
    wrap_angle,
    xyyaw_from_pose,
)
from drive_wm.types import (
    AGENT_COLUMNS,
    CATEGORIES,
    BoolArray,
    ByteArray,
    Clip,
    Explanation,
    FloatArray,
    FrameError,
    InputError,
    IntArray,
    Log,
    Rig,
    Text,
    Track,
)

if TYPE_CHECKING:
    from drive_wm.reproject import Drawn

AGENT_RANGE_M = 60.0
AGENT_MAX_GAP_US = 600_000  # nuScenes annotates at 2 Hz
POSE_MAX_GAP_US = 600_000
STALE_MOVED_M = 0.25


def time_grid(start_us: int, steps: int, rate_hz: float) -> IntArray:
    """(steps,) microseconds from start_us on, rate_hz a second, rounded without drift."""
    return start_us + np.round(np.arange(steps) * 1e6 / rate_hz).astype(np.int64)


def nearest_frames(times_us: IntArray, grid_us: IntArray, tolerance_us: int) -> tuple[IntArray, BoolArray]:
    """For each grid time the index of the nearest image and whether it lies within tolerance."""
    if len(times_us) == 0:
        return np.zeros(len(grid_us), int), np.zeros(len(grid_us), bool)
    after = np.clip(np.searchsorted(times_us, grid_us), 1, max(len(times_us) - 1, 1)) if len(times_us) > 1 else None
    if after is None:
        nearest = np.zeros(len(grid_us), int)
    else:
        closer = np.abs(times_us[after - 1] - grid_us) <= np.abs(times_us[after] - grid_us)
        nearest = np.where(closer, after - 1, after)
    return nearest, np.abs(times_us[nearest] - grid_us) <= tolerance_us


def used_once(index: IntArray, near: BoolArray, times_us: IntArray, grid_us: IntArray) -> BoolArray:
    """``near`` without repeats: an image that is the nearest of several grid times serves only the nearest of them."""
    if not len(times_us):
        return near
    order = np.argsort(np.abs(times_us[index] - grid_us), kind="stable")
    winners = order[np.unique(index[order], return_index=True)[1]]
    return near & np.isin(np.arange(len(index)), winners)


def read_frames(log: Log, rig: Rig, grid_us: IntArray, tolerance_us: int) -> tuple[dict[str, ByteArray], BoolArray]:
    """Images of every camera of ``rig`` (sized as it says) at the grid times: camera -> (T, H, W, 3), valid (T, C).

    No image serves two grid times.
    """
    import cv2

    frames = {c.name: np.zeros((len(grid_us), c.height, c.width, 3), np.uint8) for c in rig.cameras}
    valid = np.zeros((len(grid_us), len(rig.cameras)), bool)
    times = [np.asarray(log.frames.timestamps_us(c.name)) for c in rig.cameras]
    nearest = []
    for t_us in times:
        index, near = nearest_frames(t_us, grid_us, tolerance_us)
        nearest.append((index, used_once(index, near, t_us, grid_us)))
    for t in range(len(grid_us)):  # time by time: a drawn log makes all cameras of one time at once
        for c, camera in enumerate(rig.cameras):
            index, near = nearest[c]
            if not near[t]:
                continue
            try:
                image = log.frames.read(camera.name, int(times[c][index[t]]))
            except FrameError:
                continue  # masked; the health report names it
            if image.shape[:2] != (camera.height, camera.width):
                size = (camera.width, camera.height)
                image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
            frames[camera.name][t], valid[t, c] = image, True
    return frames, valid


def stale(frames: dict[str, ByteArray], valid: BoolArray, ego: FloatArray, ego_valid: BoolArray) -> BoolArray:
    """(T, C) recorded images that are the valid one before them to the byte, although the ego moved since."""
    out = np.zeros_like(valid)
    for c, images in enumerate(frames.values()):
        steps = np.flatnonzero(valid[:, c])
        for before, now in zip(steps, steps[1:]):
            moved = float(np.linalg.norm(ego[now, :2, 3] - ego[before, :2, 3]))
            if ego_valid[before] and ego_valid[now] and moved > STALE_MOVED_M:
                out[now, c] = np.array_equal(images[before], images[now])
    return out


def unbroken(log: Log, grid_us: IntArray) -> BoolArray:
    """(T-1,) whether no hole in the valid poses, longer than interpolation bridges, lies between two grid times."""
    times = log.ego.timestamps_us[log.ego.valid]
    steps = np.diff(times)
    holes = np.flatnonzero(steps > max(POSE_MAX_GAP_US, 1.8 * float(np.median(steps)) if len(steps) else 0.0))
    begun = np.searchsorted(times[holes], grid_us[1:], side="left")
    over = np.searchsorted(times[holes + 1], grid_us[:-1], side="right")
    return np.asarray(begun == over)


def track_states(track: Track, at_us: IntArray) -> tuple[FloatArray, FloatArray, BoolArray]:
    """A track at times (T,): x, y, z, yaw (T, 4) world, velocity (T, 2) world, valid (T,); interpolated."""
    before, weight, valid = bracket(track.timestamps_us, at_us, AGENT_MAX_GAP_US)
    after = np.minimum(before + 1, len(track.timestamps_us) - 1)
    valid = valid & track.valid[before] & track.valid[after]
    w = weight[:, None]
    position = track.position_m[before] * (1 - w) + track.position_m[after] * w
    yaw = track.yaw_rad[before] + wrap_angle(track.yaw_rad[after] - track.yaw_rad[before]) * weight
    if track.velocity_mps is not None:
        velocity = track.velocity_mps[before] * (1 - w) + track.velocity_mps[after] * w
    else:
        gap = np.maximum(track.timestamps_us[after] - track.timestamps_us[before], 1)[:, None] / 1e6
        velocity = (track.position_m[after] - track.position_m[before])[:, :2] / gap
    return np.column_stack([position, yaw]), np.nan_to_num(velocity), valid


def agent_arrays(log: Log, grid_us: IntArray, ego: FloatArray,
                 ego_valid: BoolArray) -> tuple[FloatArray, BoolArray, tuple[str, ...]]:
    """All tracks that come within AGENT_RANGE_M: (T, A, 12) with AGENT_COLUMNS in each step's rig frame, valid, ids."""
    from drive_wm.render_state import default_color

    inverse = inverse_pose(ego)
    ego_yaw = xyyaw_from_pose(ego)[:, 2]
    rows, masks, ids = [], [], []
    for track in log.tracks:
        state, velocity, valid = track_states(track, grid_us)
        local = np.einsum("tij,tj->ti", inverse[:, :3, :3], state[:, :3]) + inverse[:, :3, 3]
        valid = valid & ego_valid & (np.hypot(local[:, 0], local[:, 1]) < AGENT_RANGE_M)
        if not valid.any():
            continue
        c, s = np.cos(ego_yaw), np.sin(ego_yaw)
        row = np.zeros((len(grid_us), len(AGENT_COLUMNS)))
        row[:, 0:2], row[:, 2] = local[:, :2], wrap_angle(state[:, 3] - ego_yaw)
        row[:, 3], row[:, 4] = c * velocity[:, 0] + s * velocity[:, 1], c * velocity[:, 1] - s * velocity[:, 0]
        row[:, 5:8], row[:, 8] = track.size_lwh_m, CATEGORIES.index(track.category)
        row[:, 9:12] = track.color_rgb or default_color(track.category, track.id)
        rows.append(np.where(valid[:, None], row, 0.0))
        masks.append(valid)
        ids.append(track.id)
    shape = (len(grid_us), 0, len(AGENT_COLUMNS))
    agents = np.stack(rows, 1) if rows else np.zeros(shape)
    return agents, np.stack(masks, 1) if masks else np.zeros(shape[:2], bool), tuple(ids)


def nearest_agents(clip: Clip, count: int, at: int) -> Clip:
    """The clip with its ``count`` agents nearest to the ego at step ``at``, by distance, padded with invalid slots."""
    distance = np.hypot(clip.agents[at, :, 0], clip.agents[at, :, 1]) if clip.agents.shape[1] else np.zeros(0)
    seen = clip.agents_valid[at] if len(distance) else np.zeros(0, bool)
    order = np.argsort(np.where(seen, distance, 1e9), kind="stable")[:count]
    order = order[seen[order]] if len(order) else order
    steps, pad = len(clip.timestamps_us), count - len(order)
    agents = np.concatenate([clip.agents[:, order], np.zeros((steps, pad, clip.agents.shape[2]))], 1)
    valid = np.concatenate([clip.agents_valid[:, order], np.zeros((steps, pad), bool)], 1)
    ids = tuple(clip.agent_ids[i] for i in order) + ("",) * pad
    return replace(clip, agents=agents, agents_valid=valid, agent_ids=ids)


def reasons_at(log: Log, grid_us: IntArray, tolerance_us: int) -> tuple[Explanation | None, ...]:
    times = np.array([t for t, _ in log.reasons], dtype=np.int64)
    index, near = nearest_frames(times, grid_us, tolerance_us)
    return tuple(log.reasons[i][1] if ok else None for i, ok in zip(index, near))


def make_clip(log: Log, start_us: int, steps: int, rate_hz: float, *, rig: Rig | None = None, layout: bool = False,
              tolerance_us: int | None = None) -> Clip:
    """The window of ``steps`` steps from start_us on. ``rig``: the cameras and sizes wanted (default: the log's own).

    Images further than tolerance_us (default: a quarter of a step) from their grid time are invalid, and so is one that
    repeats another. Actions come from the poses, and are invalid over a hole in them. ``layout``: draw the log's map,
    agents and lights into every camera too (needs a map or tracks). What else may be damaged, `health.fit` masks.
    """
    if steps < 1 or rate_hz <= 0:
        raise InputError(f"a clip needs at least one step and a positive rate, got {steps} steps at {rate_hz} Hz")
    rig = rig or log.rig
    for name in rig.names:
        log.rig.camera(name)  # raises for a camera that the log does not have
    grid = time_grid(start_us, steps, rate_hz)
    tolerance = int(0.25e6 / rate_hz) if tolerance_us is None else tolerance_us
    frames, frames_valid = read_frames(log, rig, grid, tolerance)
    ego, ego_valid = interpolate_poses(log.ego, grid, POSE_MAX_GAP_US)
    ego = np.where(ego_valid[:, None, None], ego, np.eye(4))
    if not log.frames.rendered:
        repeats = stale(frames, frames_valid, ego, ego_valid)
        frames_valid = frames_valid & ~repeats
        for c, images in enumerate(frames.values()):
            images[repeats[:, c]] = 0
    xyyaw = xyyaw_from_pose(ego)
    actions_valid = ego_valid[:-1] & ego_valid[1:] & unbroken(log, grid)
    actions = np.where(actions_valid[:, None], actions_from_xyyaw(xyyaw, grid / 1e6), 0.0)
    agents, agents_valid, ids = agent_arrays(log, grid, ego, ego_valid)
    drawn = draw_layouts(log, rig, grid, ego, ego_valid) if layout and (log.map is not None or log.tracks) else None
    return Clip(log.id, rig, rate_hz, grid, frames, frames_valid, ego, ego_valid, actions, actions_valid, agents,
                agents_valid, ids, drawn, reasons_at(log, grid, int(0.5e6 / rate_hz)), log.look, log.licence,
                texts=questions_in(log.texts, grid))


def questions_in(texts: Iterable[Text], grid_us: IntArray) -> tuple[Text, ...]:
    """Those with a question that are true at one of these times at least."""
    def there(t: Text) -> bool:
        return bool(((grid_us >= t.start_us) & (grid_us < t.end_us)).any())

    return tuple(t for t in texts if t.question is not None and there(t))


def part_of(clip: Clip, start: int, stop: int) -> Clip:
    """Steps [start, stop) of a clip."""
    def cut(images: Any) -> Any:
        return None if images is None else {name: x[start:stop] for name, x in images.items()}

    return replace(
        clip, timestamps_us=clip.timestamps_us[start:stop], frames=cut(clip.frames),
        frames_valid=clip.frames_valid[start:stop], ego=clip.ego[start:stop], ego_valid=clip.ego_valid[start:stop],
        actions=clip.actions[start:stop - 1], actions_valid=clip.actions_valid[start:stop - 1],
        agents=clip.agents[start:stop], agents_valid=clip.agents_valid[start:stop], reasons=clip.reasons[start:stop],
        layout=cut(clip.layout), digits=cut(clip.digits), carried=cut(clip.carried),
        carried_drawn=cut(clip.carried_drawn), texts=questions_in(clip.texts, clip.timestamps_us[start:stop]))


def lengthened(clip: Clip, steps: int) -> Clip:
    """The clip with its last step repeated until it has so many; what is added is valid nowhere."""
    more = steps - len(clip.timestamps_us)
    if more <= 0:
        return clip

    def longer(x: Any) -> Any:
        return np.concatenate([x, np.repeat(x[-1:], more, 0)])

    def hidden(x: BoolArray) -> BoolArray:
        return np.concatenate([x, np.zeros((more, *x.shape[1:]), bool)])

    def all_longer(images: Any) -> Any:
        return None if images is None else {name: longer(x) for name, x in images.items()}

    actions = np.concatenate([clip.actions, np.zeros((more, 2))])
    times = np.append(clip.timestamps_us, clip.timestamps_us[-1] + time_grid(0, more + 1, clip.rate_hz)[1:])
    return replace(clip, timestamps_us=times, frames=all_longer(clip.frames), frames_valid=hidden(clip.frames_valid),
                   ego=longer(clip.ego), ego_valid=hidden(clip.ego_valid), actions=actions,
                   actions_valid=hidden(clip.actions_valid), agents=longer(clip.agents),
                   agents_valid=hidden(clip.agents_valid), layout=all_longer(clip.layout),
                   reasons=clip.reasons + (None,) * (more if clip.reasons else 0), digits=all_longer(clip.digits),
                   carried=all_longer(clip.carried), carried_drawn=all_longer(clip.carried_drawn))


def draw_clip(log: Log, clip: Clip) -> list[Drawn | None]:
    """What is known of each step of a clip of ``log``: layout, depth and slots; None without a pose, map or tracks."""
    from drive_wm.render import Renderer, agents_at, signals_at
    from drive_wm.reproject import draw_known
    from drive_wm.types import RoadMap

    if log.map is None and not log.tracks:
        return [None] * len(clip.timestamps_us)
    renderer = Renderer(log.map or RoadMap("none"), log.look, log.signals)
    return [draw_known(renderer, clip.rig, pose, agents_at(log, at), signals_at(log, at), clip.agent_ids)
            if ok else None for at, pose, ok in zip(clip.timestamps_us.tolist(), clip.ego, clip.ego_valid)]


def draw_layouts(log: Log, rig: Rig, grid_us: IntArray, ego: FloatArray, ego_valid: BoolArray) -> dict[str, ByteArray]:
    """The known world as flat colours in every camera at every step: camera -> (T, H, W, 3); zeros without a pose."""
    from drive_wm.render import Renderer, agents_at, signals_at
    from drive_wm.types import RoadMap

    renderer = Renderer(log.map or RoadMap("none"), log.look, log.signals)
    out = {c.name: np.zeros((len(grid_us), c.height, c.width, 3), np.uint8) for c in rig.cameras}
    for t in np.flatnonzero(ego_valid):
        at = int(grid_us[t])
        for name, image in renderer.draw(rig, ego[t], agents_at(log, at), signals_at(log, at), style="layout").items():
            out[name][t] = image
    return out
