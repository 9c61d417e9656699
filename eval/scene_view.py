"""What a report shows of a scene: the map from above, who was where, the camera's film, and the moments that cost."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from drive_wm.eval.parts import Part, Row
from drive_wm.geometry import inverse_pose, pose_from_xyyaw, relative_xyyaw, transform_points
from drive_wm.types import ByteArray, FloatArray, Log, Rig, Rollout, Score

if TYPE_CHECKING:
    from drive_wm.eval.loop import FrameCallback
    from drive_wm.eval.report import Scene

VIEW_PX, VIEW_STEPS, FILM_STEPS = 840, 2, 10
LEAST_M, MOST_M, AROUND_M = 60.0, 120.0, 40.0
SHOWN_M = 42.0  # to either side of the ego on the page
FILM_HEIGHT_PX = 96
GONE = -32768  # in place of a coordinate
COLORS = ("#2f6bff", "#e0652b", "#0b8f6a", "#9a3fd0", "#c21f5b", "#b08900", "#007f9e", "#6b7280", "#7a4b2a", "#4d8f00")
# sub-scores whose per-step evidence falls where the ego did wrong, and what to call that
FAULTS: Mapping[str, str] = {
    "on_road": "off the road", "traffic_lights": "red light", "driving_direction": "wrong way",
    "time_to_collision": "close call", "lane_keeping": "out of its lane", "comfort": "jolt",
    "history_comfort": "jolt", "extended_comfort": "unsteady plan", "stayed_on_path": "left the path"}


# --- what is kept of a drive --------------------------------------------------------------------------------------


def infractions(rollout: Rollout, scores: Mapping[str, Score]) -> list[Row]:
    """The first moment of each wrong: {step, kind, text, counted}, in order of time. counted: it costs score."""
    found = [{"step": step, "kind": "failure", "text": message, "counted": True}
             for step, message in rollout.plan_errors.items()]
    for score in scores.values():
        for contact in score.evidence.get("contacts", ()):
            text = f"{contact['kind']} contact with {contact['category']} {contact['id']}"
            found.append({"step": contact["step"], "kind": "collision", "text": text, "counted": contact["at_fault"]})
        if score.name in FAULTS and score.per_step is not None and score.valid and score.value < 1.0:
            low = np.flatnonzero(np.asarray(score.per_step, dtype=np.float64) < 1.0)
            if len(low):
                found.append({"step": int(low[0]), "kind": score.name, "text": FAULTS[score.name], "counted": True})
    if not rollout.render_valid.all():
        first = int(np.argmin(rollout.render_valid))
        found.append({"step": first, "kind": "untrusted", "text": "images no longer to be trusted", "counted": False})
    kept = {(f["step"], f["text"]): f for f in found}
    return [kept[key] for key in sorted(kept)]


def drive_arrays(rollout: Rollout, film: Sequence[ByteArray], with_agents: bool) -> dict[str, Any]:
    """ego: (V, 3) each VIEW_STEPS; agents (V, A, 3), their sizes, and the film as one JPEG."""
    arrays: dict[str, Any] = {"ego": rollout.ego_xyyaw[::VIEW_STEPS].astype(np.float32)}
    if with_agents:
        where = np.where(rollout.agents_valid[..., None], rollout.agents_xyyaw, np.nan)[::VIEW_STEPS]
        arrays |= {"agents": where.astype(np.float32), "agents_lw": rollout.agents_lwh_m[:, :2].astype(np.float32)}
    if film:
        arrays |= {"film": _jpeg(np.concatenate(list(film), 1)), "film_count": np.array([len(film)])}
    return arrays


def filming(film: list[ByteArray], rig: Rig) -> FrameCallback:
    """Keeps the front camera's picture every FILM_STEPS."""
    front = front_of(rig)

    def keep(step: int, timestamp_us: int, frames: dict[str, ByteArray], agents: Any, pose: FloatArray) -> None:
        if step % FILM_STEPS == 0 and front in frames:
            film.append(_scaled(frames[front]))

    return keep


def front_of(rig: Rig) -> str:
    """The camera that looks ahead the most."""
    return max(rig.cameras, key=lambda c: float(c.rig_from_camera[0, 2])).name


# --- what is kept of a scene --------------------------------------------------------------------------------------


def scene_part(log: Log, rig: Rig, rollout: Rollout) -> Part:
    """The map from above, who the log holds, and what its own front camera saw; ``rollout``: any drive of the scene."""
    path = rollout.logged_xyyaw[rollout.logged_valid]
    middle = path[len(path) // 2] if len(path) else rollout.ego_xyyaw[0]
    reach = float(np.hypot(*(path[:, :2] - middle[:2]).T).max()) if len(path) else 0.0
    range_m = float(np.clip(reach + AROUND_M, LEAST_M, MOST_M))
    # the picture has its origin at 68% of its height: what is in the middle has to be in the middle
    origin = pose_from_xyyaw(middle)
    origin[:2, 3] -= 0.36 * range_m * origin[:2, 0]
    above = _map_picture(log, origin, range_m)
    film = [_scaled(image) for image in _recorded(log, rig, rollout)]
    v = rollout.vehicle
    car = [v.length_m, v.width_m, (v.rear_axle_to_front_m - v.rear_axle_to_rear_m) / 2]
    row = {"vehicle": car, "log_id": log.id, "location": log.location, "licence": log.licence, "range_m": range_m,
           "origin": [float(origin[0, 3]), float(origin[1, 3]), float(middle[2])]}
    arrays = {**drive_arrays(rollout, film, True), "map": _jpeg(above),
              "log": np.where(rollout.logged_valid[:, None], rollout.logged_xyyaw, np.nan)[::VIEW_STEPS].astype("f4")}
    return Part(row, {}, [], arrays)


def _map_picture(log: Log, origin: FloatArray, range_m: float) -> ByteArray:
    """The map alone: everybody who moves is drawn over it by the page."""
    from drive_wm.media import TopView, draw_map

    above = TopView(origin, VIEW_PX, range_m)
    if log.map is not None:
        draw_map(above, log.map)
    return above.image


def _recorded(log: Log, rig: Rig, rollout: Rollout) -> list[ByteArray]:
    """The log's front camera every FILM_STEPS, black where it has no image."""
    from drive_wm.types import FrameError

    front = rig.camera(front_of(rig))
    times = log.frames.timestamps_us(front.name)
    images = []
    for at in rollout.timestamps_us[::FILM_STEPS] if len(times) else ():
        try:
            images.append(log.frames.read(front.name, int(times[np.argmin(np.abs(times - at))])))
        except FrameError:
            images.append(np.zeros((front.height, front.width, 3), np.uint8))
    return images


def _scaled(image: ByteArray) -> ByteArray:
    import cv2

    width = round(image.shape[1] * FILM_HEIGHT_PX / image.shape[0])
    way = cv2.INTER_AREA if image.shape[0] > FILM_HEIGHT_PX else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, FILM_HEIGHT_PX), interpolation=way), np.uint8)


def _jpeg(image: ByteArray) -> ByteArray:
    import cv2

    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 75])
    assert done
    return np.asarray(data, np.uint8).reshape(-1)


# --- for the page -------------------------------------------------------------------------------------------------


def scene_section(scene: Part, drives: Sequence[Part]) -> Scene:
    """A scene with its drives as the report's template wants it."""
    from drive_wm.eval.report import Moment, Scene, SceneDrive

    films = [_film("log", scene, -1)] if "film" in scene.arrays else []
    shown, data = [], []
    for i, part in enumerate(drives):
        label = part.row["planner"] + (f" ({part.row['renderer']})" if part.row["renderer"] != "none" else "")
        moments = [Moment(f["step"] / 10, f["text"], f["counted"]) for f in part.infractions]
        total = part.row["total"] if part.row["total_valid"] else None
        shown.append(SceneDrive(label, total, COLORS[i % len(COLORS)], moments, bool(part.row["trusted"]),
                                bool(part.row["oracle"])))
        films += [_film(label, part, i)] if "film" in part.arrays else []
        own = part if "agents" in part.arrays else scene
        data.append({"color": COLORS[i % len(COLORS)], "ego": _packed(scene, part.arrays["ego"]),
                     **({"agents": _agents(scene, own)} if own is part else {})})
    facts = {"px": VIEW_PX, "scale": VIEW_PX / (2 * scene.row["range_m"]), "around": SHOWN_M, "dt": VIEW_STEPS / 10,
             "car": scene.row["vehicle"],
             "count": max((len(p.arrays["ego"]) for p in drives), default=1), "film_dt": FILM_STEPS / 10,
             "log": _packed(scene, scene.arrays["log"]), "agents": _agents(scene, scene), "drives": data}
    note = f"{scene.row['location']}; licence: {scene.row['licence']}"
    return Scene(scene.row["log_id"], note, _uri(scene.arrays["map"]), json.dumps(facts), shown, films)


def _film(label: str, part: Part, drive: int) -> Any:
    from drive_wm.eval.report import Film

    return Film(label, _uri(part.arrays["film"]), int(part.arrays["film_count"][0]), drive)


def _agents(scene: Part, part: Part) -> Row:
    """Those in the picture: lengths and widths in pixels, and places (V, A, 3)."""
    where, scale = part.arrays["agents"].astype(np.float64), VIEW_PX / (2 * scene.row["range_m"])
    local = relative_xyyaw(np.array(scene.row["origin"]), where)
    with np.errstate(invalid="ignore"):
        seen = (np.abs(local[..., :2]) < 2.0 * scene.row["range_m"]).all(-1).any(0) if where.size else \
            np.zeros(where.shape[1], bool)
    sizes = np.round(part.arrays["agents_lw"][seen] * scale, 1).tolist()
    return {"lw": sizes, "at": _packed(scene, where[:, seen])}


def _packed(scene: Part, xyyaw: FloatArray) -> str:
    """(..., 3) world -> base64 of int16: pixels * 16 of the picture, and milliradians of heading on it."""
    origin = np.array(scene.row["origin"])
    rig = transform_points(inverse_pose(pose_from_xyyaw(origin)),
                           np.concatenate([xyyaw[..., :2], 0.0 * xyyaw[..., :1]], -1).astype(np.float64))
    scale = VIEW_PX / (2 * scene.row["range_m"])
    turn = xyyaw[..., 2] - origin[2]
    values = np.stack([16 * (VIEW_PX / 2 - rig[..., 1] * scale), 16 * (0.68 * VIEW_PX - rig[..., 0] * scale),
                       1000 * np.arctan2(np.sin(turn), np.cos(turn))], -1)
    values = np.where(np.isfinite(values).all(-1, keepdims=True), np.clip(np.rint(values), -32000, 32000), GONE)
    return base64.b64encode(values.astype("<i2").tobytes()).decode()


def _uri(data: ByteArray) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


__all__ = ["drive_arrays", "filming", "front_of", "infractions", "scene_part", "scene_section"]
