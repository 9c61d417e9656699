"""Rigs that the generated worlds and dash cameras wear, and sizes for a model."""

from __future__ import annotations

import numpy as np

from drive_wm.types import Camera, FloatArray, Rig

# name, x, y, z of the camera in metres (rig frame), yaw in degrees, horizontal field of view in degrees
NUSCENES_SIX = (
    ("CAM_FRONT_LEFT", 1.55, 0.50, 1.50, 55.0, 65.0),
    ("CAM_FRONT", 1.70, 0.00, 1.51, 0.0, 65.0),
    ("CAM_FRONT_RIGHT", 1.55, -0.50, 1.50, -55.0, 65.0),
    ("CAM_BACK_RIGHT", 1.05, -0.48, 1.56, -110.0, 65.0),
    ("CAM_BACK", 0.05, 0.00, 1.55, 180.0, 110.0),
    ("CAM_BACK_LEFT", 1.05, 0.48, 1.56, 110.0, 65.0),
)


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


def default_rig() -> Rig:
    return nuscenes_six()


def at_height(rig: Rig, height: int, stride: int = 16) -> Rig:
    """Every camera scaled to ``height``, and to the multiple of ``stride`` in width that keeps its proportions best."""
    cameras = []
    for camera in rig.cameras:
        width = max(stride, round(camera.width * height / camera.height / stride) * stride)
        cameras.append(camera.resized(width, height))
    return Rig(rig.name, tuple(cameras))
