"""What a clip shows, by rule: tags for balance and search, and captions in the words that the model knows."""

from __future__ import annotations

from typing import Any

import numpy as np

from drive_wm.datasets.clips import agent_arrays, time_grid
from drive_wm.datasets.curation.segments import Segment
from drive_wm.datasets.routes import driven_route
from drive_wm.encoders.text import caption as caption_of_look
from drive_wm.geometry import interpolate_poses, points_in_polygon, project_to_polyline, transform_points
from drive_wm.types import CATEGORIES, BoolArray, FloatArray, Log, Look, Text

GRID_HZ = 2.0
NEAR_M, NEAR_ON_FOOT_M = 50.0, 25.0
LEAD_M, LEAD_OFFSET_M = (2.0, 40.0), 1.5
LEAD_SHARE = 0.5            # of the clip that the same vehicle is ahead
NIGHT_BRIGHTNESS = 60.0     # mean level of 255; a recorded street by day is well above 80
PACE_MPS = 2.0              # a smaller change of speed is none
MOVES_MPS = 1.0
VEHICLES = ("car", "van", "truck", "bus", "motorcycle")
MANY = 6
STOPS = ("standing", "stopping", "starting")

# Manoeuvre -> words of a caption, all in encoders/text.py.
DOING = {"standing": "standing", "stopping": "stopping", "starting": "speeding up", "straight": "straight",
         "bend left": "bend left", "bend right": "bend right", "turn left": "turning left",
         "turn right": "turning right", "u-turn": "turning back", "change lane left": "changing lane left",
         "change lane right": "changing lane right", "unknown": ""}


def look_words(log: Log, brightness: float) -> tuple[str, str]:
    """Weather and time of day ("" where nobody said): as the log says, else day or night by the brightness."""
    if log.frames.rendered or log.look != Look():
        weather, time = caption_of_look(log.look).split(" ", 1)
        return weather, time
    return "", "night" if brightness < NIGHT_BRIGHTNESS else "day"


def traffic(log: Log, start_us: int, end_us: int) -> dict[str, Any]:
    """Who is within 50 m (25 m for people and cycles), as many as on average at a time, and the lead vehicle.

    Nothing is said without tracks.
    """
    if not log.tracks:
        return {}
    grid = time_grid(start_us, int((end_us - start_us) / 1e6 * GRID_HZ) + 1, GRID_HZ)
    ego, valid = interpolate_poses(log.ego, grid)
    agents, seen, ids = agent_arrays(log, grid, ego, valid)
    distance_m = np.hypot(agents[..., 0], agents[..., 1])
    near, beside = seen & (distance_m < NEAR_M), seen & (distance_m < NEAR_ON_FOOT_M)
    kind = np.array(CATEGORIES)[agents[..., 8].astype(int)]
    moves = (np.hypot(agents[..., 3], agents[..., 4]) * seen > MOVES_MPS).any(0)  # at some time of the clip

    def usual(who: BoolArray) -> int:
        return int(round(float(who.sum(1).mean()))) if near.size else 0

    vehicle, person, cyclist = np.isin(kind, VEHICLES), kind == "pedestrian", kind == "bicycle"
    return {"vehicles": usual(near & vehicle & moves), "parked": usual(near & vehicle & ~moves),
            "pedestrians": usual(beside & person), "cyclists": usual(beside & cyclist & moves),
            "lead": lead_vehicle(log, ego, agents, near, kind)}


def lead_vehicle(log: Log, ego: FloatArray, agents: FloatArray, near: Any, kind: Any) -> str:
    """The category of what is ahead on the driven path for most of the clip, or ""."""
    route = driven_route(log.ego)
    places = np.zeros((len(ego), agents.shape[1]), dtype=bool)
    for t in range(len(ego)):
        arc, _, _ = project_to_polyline(ego[t][None, :2, 3], route)
        here = np.flatnonzero(near[t] & np.isin(kind[t], VEHICLES))
        if len(here):
            world = transform_points(ego[t], np.column_stack([agents[t, here, :2], np.zeros(len(here))]))
            along, offset, _ = project_to_polyline(world[:, :2], route)
            ahead = along - arc[0]
            places[t, here] = (ahead > LEAD_M[0]) & (ahead < LEAD_M[1]) & (np.abs(offset) < LEAD_OFFSET_M)
    share = places.mean(0) if places.size else np.zeros(0)
    if not len(share) or share.max() < LEAD_SHARE:
        return ""
    lead = int(np.argmax(share))
    return str(kind[int(np.argmax(places[:, lead])), lead])


def pace(log: Log, segment: Segment) -> str:
    """speeding up, slowing down, or steady, between the clip's first and last second."""
    at = np.array([segment.start_us, segment.start_us + 1_000_000, segment.end_us - 1_000_000, segment.end_us])
    poses, valid = interpolate_poses(log.ego, at)
    if not valid.all() or at[2] < at[1]:
        return ""
    first, last = (float(np.linalg.norm(poses[k + 1, :2, 3] - poses[k, :2, 3])) for k in (0, 2))
    return "speeding up" if last - first > PACE_MPS else "slowing down" if first - last > PACE_MPS else "steady"


def at_junction(log: Log, start_us: int, end_us: int) -> bool:
    if log.map is None or not log.map.intersections:
        return False
    points = interpolate_poses(log.ego, np.arange(start_us, end_us + 1, 500_000))[0][:, :2, 3]
    return any(bool(points_in_polygon(points, polygon).any()) for polygon in log.map.intersections)


def tags(log: Log, segment: Segment, brightness: float) -> dict[str, Any]:
    """Plain values: manoeuvre, speed, pace, junction, weather, time, place, and the traffic where it is known."""
    weather, time = look_words(log, brightness)
    return {"manoeuvre": segment.manoeuvre, "speed": segment.speed, "pace": pace(log, segment),
            "junction": at_junction(log, segment.start_us, segment.end_us), "weather": weather or "unknown",
            "time": time, "location": log.location, **traffic(log, segment.start_us, segment.end_us)}


# --- words --------------------------------------------------------------------------------------------------------


def amount(count: int, one: str, many: str) -> str:
    return f"no {many}" if not count else f"a {one}" if count == 1 else f"many {many}" if count > MANY else many


def sky(found: dict[str, Any]) -> str:
    return found["time"] if found["weather"] == "unknown" else f"{found['weather']} {found['time']}"


def short_caption(found: dict[str, Any]) -> str:
    """Look and manoeuvre, at most five tokens: what fits before the first step."""
    return f"{sky(found)} {DOING[found['manoeuvre']]}".strip()


def long_caption(found: dict[str, Any]) -> str:
    """Everything the tags say, as a sentence each for the look, the ego and the traffic."""
    place = {"town": " in a town", "unknown": ""}.get(found["location"], " in a city")
    doing = DOING[found["manoeuvre"]] or "driving"
    doing = "going straight" if doing == "straight" else f"following a {doing}" if doing.startswith("bend") else doing
    doing += " at a junction" if found["junction"] else ""
    if found["pace"] in ("speeding up", "slowing down") and found["manoeuvre"] not in STOPS:
        doing += f", {found['pace']}"
    ego = f"the ego is {doing}" + (f" behind a {found['lead']}" if found.get("lead") else "")
    words = [f"{sky(found)}{place}", ego]
    if "vehicles" in found:
        words.append(", ".join([amount(found["vehicles"], "vehicle", "vehicles"),
                                amount(found["pedestrians"], "pedestrian", "pedestrians"),
                                *(["a cyclist"] if found["cyclists"] else [])]))
    return ". ".join(words) + "."


def texts(segment: Segment, found: dict[str, Any]) -> tuple[Text, Text]:
    """The short and the long caption of a clip."""
    return (Text(segment.start_us, segment.end_us, short_caption(found)),
            Text(segment.start_us, segment.end_us, long_caption(found)))
