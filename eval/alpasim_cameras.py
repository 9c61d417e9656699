"""The cameras that an AlpaSim runtime declares, as the pinholes that our words know.

AlpaSim's are f-theta, OpenCV fisheye or OpenCV pinhole, the last also distorted. What is not a plain pinhole is seen
through one: images are looked up through the exact model. A windshield in front of a camera is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from drive_wm.datasets.physical_ai import Lens, pinhole_of, rectifying_map
from drive_wm.planners.alpasim_wire import decode_image, pose_of
from drive_wm.types import ByteArray, Camera, FloatArray, InputError

PIXELDIST_TO_ANGLE = 1  # of FthetaCameraParam.PolynomialType
SAMPLES = 4096  # of a radial model's table: linear between them, wrong by some millionths of a pixel


@dataclass
class RadialLens:
    """A ray at ``angles`` from the axis lies ``radii`` from ``center_px``, both (SAMPLES,), then sheared by ``shear``.

    Rays (..., 3) in the optical frame; pixels (..., 2) from the top left of the image, whose first pixel is centred at
    0.5.
    """

    width: int
    height: int
    center_px: FloatArray
    shear: FloatArray
    angles: FloatArray
    radii: FloatArray

    def ray2pixel(self, ray: FloatArray) -> FloatArray:
        across = np.linalg.norm(ray[..., :2], axis=-1, keepdims=True)
        radius = np.interp(np.arctan2(across, ray[..., 2:]), self.angles, self.radii, right=1e6)  # outside: no pixel
        return np.asarray(radius * ray[..., :2] / np.maximum(across, 1e-12) @ self.shear.T + self.center_px)

    def pixel2ray(self, pixel: FloatArray) -> FloatArray:
        offset = (pixel - self.center_px) @ np.linalg.inv(self.shear).T
        radius = np.linalg.norm(offset, axis=-1, keepdims=True)
        angle = np.interp(radius, self.radii, self.angles)
        return np.concatenate([np.sin(angle) * offset / np.maximum(radius, 1e-12), np.cos(angle)], -1)


@dataclass
class DistortedPinhole:
    """OpenCV's pinhole: intrinsics (3, 3), distortion (12,) k1 k2 p1 p2 k3 k4 k5 k6 s1 s2 s3 s4."""

    width: int
    height: int
    intrinsics: FloatArray
    distortion: FloatArray

    def ray2pixel(self, ray: FloatArray) -> FloatArray:
        still = np.zeros(3)
        pixels, _ = cv2.projectPoints(np.ascontiguousarray(ray.reshape(-1, 1, 3), np.float64), still, still,
                                      self.intrinsics, self.distortion)
        return np.asarray(pixels.reshape(*ray.shape[:-1], 2))

    def pixel2ray(self, pixel: FloatArray) -> FloatArray:
        at = cv2.undistortPoints(np.ascontiguousarray(pixel.reshape(-1, 1, 2), np.float64), self.intrinsics,
                                 self.distortion).reshape(*pixel.shape[:-1], 2)
        ray = np.concatenate([at, np.ones_like(at[..., :1])], -1)
        return np.asarray(ray / np.linalg.norm(ray, axis=-1, keepdims=True))


@dataclass
class Eye:
    """One declared camera. ``camera``: what a planner sees; ``pinhole``: the same, as large as what it is made from.

    lens: what took the image where that is no plain pinhole.
    """

    camera: Camera
    pinhole: Camera
    lens: Lens | None = None
    _lookup: FloatArray | None = field(default=None, repr=False)

    def see(self, data: bytes) -> ByteArray:
        """(H, W, 3) of ``camera`` from a PNG or JPEG of any size: AlpaSim renders smaller than it declares."""
        image = decode_image(data, self.camera.name)
        if self.lens is not None:
            if self._lookup is None:
                self._lookup = rectifying_map(self.pinhole, self.lens)
            scale = np.array([image.shape[1] / self.lens.width, image.shape[0] / self.lens.height])
            at = ((self._lookup + 0.5) * scale - 0.5).astype(np.float32)
            image = np.asarray(cv2.remap(image, at, None, cv2.INTER_LINEAR), np.uint8)  # type: ignore[call-overload]
        size = (self.camera.width, self.camera.height)
        return image if image.shape[1::-1] == size else \
            np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def eye_of(declared: Any) -> Eye:
    """An AvailableCamera of contract revision 2.

    Raises InputError where its model is unknown, or where a windshield bends its rays.
    """
    spec, pose, name = declared.intrinsics, pose_of(declared.rig_to_camera), declared.logical_id
    width, height = int(spec.resolution_w), int(spec.resolution_h)
    if spec.WhichOneof("external_distortion"):
        raise InputError(f"camera {name} is behind a windshield model, which is not known here; have the runtime "
                         "render it as a pinhole (carla-driver-interface alpasim wizard-config --pinhole)")
    kind = spec.WhichOneof("camera_param")
    if kind == "opencv_pinhole_param":
        matrix, distortion = _opencv(spec.opencv_pinhole_param)
        if not distortion.any():
            camera = Camera(name, width, height, matrix, pose)
            return Eye(camera, camera)
        lens: Lens = DistortedPinhole(width, height, matrix, distortion)
    elif kind == "ftheta_param":
        lens = _ftheta(spec.ftheta_param, width, height)
    elif kind == "opencv_fisheye_param":
        lens = _fisheye(spec.opencv_fisheye_param, width, height)
    else:
        raise InputError(f"camera {name} declares no lens, expected opencv_pinhole, opencv_fisheye or ftheta")
    camera = pinhole_of(name, lens, pose)
    return Eye(camera, camera, lens)


def _opencv(p: Any) -> tuple[FloatArray, FloatArray]:
    """Intrinsics (3, 3) and distortion (12,); coefficients that are not sent are 0."""
    matrix = np.array([[p.focal_length_x, 0.0, p.principal_point_x], [0.0, p.focal_length_y, p.principal_point_y],
                       [0.0, 0.0, 1.0]])
    radial, tangential, prism = (np.array([*values, *[0.0] * count][:count]) for values, count in (
        (p.radial_coeffs, 6), (p.tangential_coeffs, 2), (p.thin_prism_coeffs, 4)))
    return matrix, np.concatenate([radial[:2], tangential, radial[2:], prism])


def _ftheta(p: Any, width: int, height: int) -> RadialLens:
    """Pixels from the axis as a polynomial of the angle, or angles as one of the pixels, whichever is the reference."""
    corner = float(np.hypot(width, height))
    if len(p.angle_to_pixeldist_poly) and (p.reference_poly != PIXELDIST_TO_ANGLE or not p.pixeldist_to_angle_poly):
        angles = np.linspace(0.0, p.max_angle or np.pi / 2, SAMPLES)
        radii = np.polynomial.polynomial.polyval(angles, np.array(p.angle_to_pixeldist_poly))
    else:
        radii = np.linspace(0.0, corner, SAMPLES)
        angles = np.polynomial.polynomial.polyval(radii, np.array(p.pixeldist_to_angle_poly))
    c = p.linear_cde
    shear = np.array([[c.linear_c, c.linear_d], [c.linear_e, 1.0]]) if p.HasField("linear_cde") else np.eye(2)
    return _radial(width, height, (p.principal_point_x, p.principal_point_y), shear, angles, radii)


def _fisheye(p: Any, width: int, height: int) -> RadialLens:
    """OpenCV's: radius theta (1 + k1 theta^2 + k2 theta^4 + ...), then the focal lengths."""
    angles = np.linspace(0.0, p.max_angle or np.pi / 2, SAMPLES)
    powers = np.concatenate([[1.0], np.array(p.radial_coeffs, dtype=np.float64)])
    radii = angles * np.polynomial.polynomial.polyval(angles**2, powers)
    return _radial(width, height, (p.principal_point_x, p.principal_point_y),
                   np.diag([p.focal_length_x, p.focal_length_y]), angles, radii)


def _radial(width: int, height: int, center: tuple[float, float], shear: FloatArray, angles: FloatArray,
            radii: FloatArray) -> RadialLens:
    """Keeps the part of the table that grows: beyond it a polynomial means nothing."""
    grows = np.flatnonzero((np.diff(angles) <= 0) | (np.diff(radii) <= 0))
    end = int(grows[0]) + 1 if len(grows) else len(angles)
    if end < 2:
        raise InputError("a camera's angles do not grow with the distance from its axis: its polynomial is empty or "
                         "wrong")
    return RadialLens(width, height, np.array(center), shear, angles[:end], radii[:end])
