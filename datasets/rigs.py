"""Rigs that the generated worlds and dash cameras wear, and sizes for a model."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from drive_wm.geometry import rotation_from_rpy
from drive_wm.types import Camera, FloatArray, InputError, Rig

# name, x, y, z of the camera in metres (rig frame), yaw in degrees, horizontal field of view in degrees
NUSCENES_SIX = (
    ("CAM_FRONT_LEFT", 1.55, 0.50, 1.50, 55.0, 65.0),
    ("CAM_FRONT", 1.70, 0.00, 1.51, 0.0, 65.0),
    ("CAM_FRONT_RIGHT", 1.55, -0.50, 1.50, -55.0, 65.0),
    ("CAM_BACK_RIGHT", 1.05, -0.48, 1.56, -110.0, 65.0),
    ("CAM_BACK", 0.05, 0.00, 1.55, 180.0, 110.0),
    ("CAM_BACK_LEFT", 1.05, 0.48, 1.56, 110.0, 65.0),
)

# one camera a side, and a ring of eight around the roof
FOUR = (
    ("CAM_FRONT", 1.70, 0.00, 1.50, 0.0, 95.0),
    ("CAM_LEFT", 1.20, 0.50, 1.55, 90.0, 95.0),
    ("CAM_BACK", 0.05, 0.00, 1.55, 180.0, 95.0),
    ("CAM_RIGHT", 1.20, -0.50, 1.55, -90.0, 95.0),
)
EIGHT = (
    ("CAM_FRONT", 1.70, 0.00, 1.70, 0.0, 60.0),
    ("CAM_FRONT_LEFT", 1.60, 0.45, 1.70, 45.0, 60.0),
    ("CAM_LEFT", 1.20, 0.50, 1.70, 90.0, 60.0),
    ("CAM_BACK_LEFT", 0.40, 0.45, 1.70, 135.0, 60.0),
    ("CAM_BACK", 0.05, 0.00, 1.70, 180.0, 60.0),
    ("CAM_BACK_RIGHT", 0.40, -0.45, 1.70, -135.0, 60.0),
    ("CAM_RIGHT", 1.20, -0.50, 1.70, -90.0, 60.0),
    ("CAM_FRONT_RIGHT", 1.60, -0.45, 1.70, -45.0, 60.0),
)
RIG_OF_CAMERA = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]]).T  # a level camera that looks ahead


def _camera(
    name: str, xyz_m: tuple[float, float, float], yaw_deg: float, fov_deg: float, width: int, height: int
) -> Camera:
    focal = width / 2 / np.tan(np.radians(fov_deg) / 2)
    intrinsics = np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    return Camera(name, width, height, intrinsics, _looking(xyz_m, yaw_deg))


def _looking(xyz_m: tuple[float, float, float], yaw_deg: float) -> FloatArray:
    """rig_from_camera of a level camera that looks along ``yaw_deg``."""
    c, s = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
    pose = np.eye(4)
    pose[:3, :3] = np.array([[s, 0.0, c], [-c, 0.0, s], [0.0, -1.0, 0.0]])
    pose[:3, 3] = xyz_m
    return pose


def nuscenes_six(width: int = 112, height: int = 64) -> Rig:
    """Six cameras placed much as on a nuScenes car, left to right as one would lay the pictures out."""
    return Rig(
        "nuscenes_six", tuple(_camera(n, (x, y, z), yaw, fov, width, height) for n, x, y, z, yaw, fov in NUSCENES_SIX)
    )


def dash(width: int = 224, height: int = 128) -> Rig:
    """One forward camera behind the windscreen, 80 degrees wide."""
    return Rig("dash", (_camera("CAM_FRONT", (1.4, 0.0, 1.35), 0.0, 80.0, width, height),))


def stereo(width: int = 224, height: int = 128, baseline_m: float = 0.5) -> Rig:
    """Two forward cameras, ``baseline_m`` apart."""
    sides = (("CAM_STEREO_LEFT", 0.5), ("CAM_STEREO_RIGHT", -0.5))
    return Rig("stereo", tuple(_camera(n, (1.5, s * baseline_m, 1.5), 0.0, 65.0, width, height) for n, s in sides))


def _ring(name: str, table: tuple[tuple[str, float, float, float, float, float], ...], width: int, height: int) -> Rig:
    return Rig(name, tuple(_camera(n, (x, y, z), yaw, fov, width, height) for n, x, y, z, yaw, fov in table))


def four_cameras(width: int = 112, height: int = 64) -> Rig:
    """One camera a side, 95 degrees wide each: everything around, with a little overlap."""
    return _ring("four_cameras", FOUR, width, height)


def eight_cameras(width: int = 112, height: int = 64) -> Rig:
    """Eight cameras around the roof, 60 degrees wide each."""
    return _ring("eight_cameras", EIGHT, width, height)


RIGS: dict[str, Callable[..., Rig]] = {
    "nuscenes_six": nuscenes_six,
    "dash": dash,
    "stereo": stereo,
    "four_cameras": four_cameras,
    "eight_cameras": eight_cameras,
}


def rig_named(name: str) -> Rig:
    """A rig of RIGS in its usual size. Raises InputError."""
    if name not in RIGS:
        near = difflib.get_close_matches(name, RIGS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"rig {name!r}, expected one of {', '.join(RIGS)}{hint}")
    return RIGS[name]()


def randomised(
    rig: Rig, rng: np.random.Generator, focal: float = 0.1, position_m: float = 0.1, angle_deg: float = 2.0
) -> Rig:
    """The rig as another car would wear it: every camera a little elsewhere, turned, with another focal length.

    focal: greatest relative change of the focal length; position_m: on each axis; angle_deg: in roll, pitch and yaw
    each; all uniform either way. Names, sizes and principal points stay. Raises InputError.
    """
    if not (0.0 <= focal < 1.0 and position_m >= 0.0 and 0.0 <= angle_deg < 90.0):
        raise InputError(f"jitter: focal {focal}, position_m {position_m}, angle_deg {angle_deg}; expected a focal in "
                         "[0, 1), a position of at least 0 and an angle in [0, 90)")
    cameras = []
    for camera in rig.cameras:
        intrinsics, pose = camera.intrinsics.copy(), camera.rig_from_camera.copy()
        intrinsics[:2, :2] *= 1.0 + rng.uniform(-focal, focal)
        pose[:3, 3] += rng.uniform(-position_m, position_m, 3)
        roll, pitch, yaw = np.radians(rng.uniform(-angle_deg, angle_deg, 3))
        ahead = pose[:3, :3] @ RIG_OF_CAMERA.T  # turned about the camera's own axes: x ahead, y left, z up
        pose[:3, :3] = ahead @ rotation_from_rpy(roll, pitch, yaw) @ RIG_OF_CAMERA
        cameras.append(replace(camera, intrinsics=intrinsics, rig_from_camera=pose))
    return Rig(rig.name, tuple(cameras))


def default_rig() -> Rig:
    return nuscenes_six()


def at_height(rig: Rig, height: int, stride: int = 16) -> Rig:
    """Every camera scaled to ``height``, and to the multiple of ``stride`` in width that keeps its proportions best."""
    cameras = []
    for camera in rig.cameras:
        width = max(stride, round(camera.width * height / camera.height / stride) * stride)
        cameras.append(camera.resized(width, height))
    return Rig(rig.name, tuple(cameras))
