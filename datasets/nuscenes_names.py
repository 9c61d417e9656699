"""nuScenes' fixed vocabulary, and how it maps to ours."""

from __future__ import annotations

import hashlib

from drive_wm.types import FloatArray, Track

TABLES = ("category", "attribute", "visibility", "instance", "sensor", "calibrated_sensor", "ego_pose", "log", "scene",
          "sample", "sample_data", "sample_annotation", "map")

# nuScenes category -> types.CATEGORIES. A wheelchair is a person, a trailer stands for the truck that pulls it.
CATEGORY_OF = {
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.wheelchair": "pedestrian",
    "human.pedestrian.stroller": "pedestrian",
    "human.pedestrian.personal_mobility": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "animal": "object",
    "vehicle.car": "car",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.truck": "truck",
    "vehicle.construction": "truck",
    "vehicle.emergency.ambulance": "van",
    "vehicle.emergency.police": "car",
    "vehicle.trailer": "truck",
    "movable_object.barrier": "object",
    "movable_object.trafficcone": "object",
    "movable_object.pushable_pullable": "object",
    "movable_object.debris": "object",
    "static_object.bicycle_rack": "object",
    "vehicle.ego": "car",  # only in sets with the lidarseg extension
}

# ours -> nuScenes, which counts vans among the cars
NAME_OF = {
    "car": "vehicle.car",
    "van": "vehicle.car",
    "truck": "vehicle.truck",
    "bus": "vehicle.bus.rigid",
    "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle",
    "pedestrian": "human.pedestrian.adult",
    "object": "movable_object.debris",
}

ATTRIBUTES = ("vehicle.moving", "vehicle.stopped", "vehicle.parked", "cycle.with_rider", "cycle.without_rider",
              "pedestrian.sitting_lying_down", "pedestrian.standing", "pedestrian.moving")
VISIBILITY = {"1": "v0-40", "2": "v40-60", "3": "v60-80", "4": "v80-100"}

# scenes for which NuScenesCanBus refuses to open any file
NO_CAN_SCENES = frozenset((*range(161, 169), *range(170, 177), *range(309, 315)))


def category_name(track: Track) -> str:
    """nuScenes' category of a track: finer than ours where siren or size tell, and read back as ours."""
    if track.siren is not None and track.siren.any() and track.category in ("car", "van"):
        return "vehicle.emergency.police" if track.category == "car" else "vehicle.emergency.ambulance"
    if track.category == "object":
        return _object_name(track.size_lwh_m)
    return NAME_OF[track.category]


def _object_name(size_lwh_m: FloatArray) -> str:
    longer, shorter, height = max(size_lwh_m[:2]), min(size_lwh_m[:2]), size_lwh_m[2]
    if longer <= 0.6 and 0.4 <= height <= 1.2:
        return "movable_object.trafficcone"
    return "movable_object.barrier" if longer >= 1.0 and shorter <= 0.8 and height <= 1.5 else NAME_OF["object"]


def attribute_name(category: str, speed_mps: float, parked: bool = False) -> str | None:
    """nuScenes' attribute for an agent of one of our categories, or None where it has none."""
    if category in ("bicycle", "motorcycle"):
        return "cycle.with_rider"
    if category == "pedestrian":
        return "pedestrian.moving" if speed_mps > 0.2 else "pedestrian.standing"
    if category == "object":
        return None
    if parked:
        return "vehicle.parked"
    return "vehicle.moving" if speed_mps > 0.5 else "vehicle.stopped"


def token(*parts: object) -> str:
    """32 hex digits that depend on the parts only: the same log always gets the same tokens."""
    return hashlib.md5("\0".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()
