"""Frames, angles, paths and interpolation by time; numpy, float64, batched over leading axes."""

from __future__ import annotations

import numpy as np

from drive_wm.types import BoolArray, FloatArray, InputError, IntArray, Poses

MIN_ARC_M = 0.05  # below this travel a curvature is not defined and is reported as 0


def wrap_angle(angle_rad: FloatArray | float) -> FloatArray:
    """To (-pi, pi]."""
    return -((-np.asarray(angle_rad, dtype=np.float64) + np.pi) % (2 * np.pi) - np.pi)


def pose_from_xyzyaw(xyz_m: FloatArray, yaw_rad: FloatArray | float) -> FloatArray:
    """(..., 3) and (...) -> (..., 4, 4), a rotation about z."""
    xyz_m, yaw_rad = np.asarray(xyz_m, dtype=np.float64), np.asarray(yaw_rad, dtype=np.float64)
    pose = np.zeros((*xyz_m.shape[:-1], 4, 4))
    pose[..., 0, 0] = pose[..., 1, 1] = np.cos(yaw_rad)
    pose[..., 1, 0] = np.sin(yaw_rad)
    pose[..., 0, 1] = -pose[..., 1, 0]
    pose[..., 2, 2] = pose[..., 3, 3] = 1.0
    pose[..., :3, 3] = xyz_m
    return pose


def pose_from_xyyaw(xyyaw: FloatArray) -> FloatArray:
    """(..., 3) x, y, yaw -> (..., 4, 4) at z = 0."""
    xyyaw = np.asarray(xyyaw, dtype=np.float64)
    xyz = np.concatenate([xyyaw[..., :2], np.zeros_like(xyyaw[..., :1])], -1)
    return pose_from_xyzyaw(xyz, xyyaw[..., 2])


def xyyaw_from_pose(pose: FloatArray) -> FloatArray:
    """(..., 4, 4) -> (..., 3) x, y and the heading of its x axis in the ground plane."""
    return np.stack([pose[..., 0, 3], pose[..., 1, 3], np.arctan2(pose[..., 1, 0], pose[..., 0, 0])], -1)


def rotation_from_rpy(roll_rad: FloatArray, pitch_rad: FloatArray, yaw_rad: FloatArray) -> FloatArray:
    """Rz(yaw) Ry(pitch) Rx(roll), (...) each -> (..., 3, 3)."""
    roll_rad, pitch_rad, yaw_rad = np.broadcast_arrays(roll_rad, pitch_rad, yaw_rad)
    cr, sr, cp, sp = np.cos(roll_rad), np.sin(roll_rad), np.cos(pitch_rad), np.sin(pitch_rad)
    cy, sy = np.cos(yaw_rad), np.sin(yaw_rad)
    rows = [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr,
            sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr, -sp, cp * sr, cp * cr]
    return np.stack(rows, -1).reshape(*roll_rad.shape, 3, 3)


def rotation_from_quaternion(wxyz: FloatArray) -> FloatArray:
    """(..., 4) w x y z -> (..., 3, 3). Raises InputError where the norm is near zero or not finite."""
    wxyz = np.asarray(wxyz, dtype=np.float64)
    norm = np.linalg.norm(wxyz, axis=-1, keepdims=True)
    if not np.isfinite(norm).all() or (norm < 1e-6).any():
        raise InputError("a rotation quaternion (w x y z) is zero or not finite")
    w, x, y, z = np.moveaxis(wxyz / norm, -1, 0)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]
    return np.stack(rows, -1).reshape(*wxyz.shape[:-1], 3, 3)


def quaternion_from_rotation(rotation: FloatArray) -> FloatArray:
    """(..., 3, 3) -> (..., 4) w x y z with w >= 0 (the eigenvector method of Bar-Itzhack, 2000)."""
    m = np.asarray(rotation, dtype=np.float64)
    k = np.empty((*m.shape[:-2], 4, 4))
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    k[..., 0, 0] = trace
    for i in range(3):
        j, n = (i + 1) % 3, (i + 2) % 3
        k[..., 0, i + 1] = k[..., i + 1, 0] = m[..., n, j] - m[..., j, n]
        k[..., i + 1, i + 1] = 2 * m[..., i, i] - trace
        k[..., i + 1, j + 1] = k[..., j + 1, i + 1] = m[..., i, j] + m[..., j, i]
    _, vectors = np.linalg.eigh(k / 3.0)
    q = vectors[..., -1]
    return q * np.where(q[..., :1] < 0, -1.0, 1.0)


def pose_from_quaternion(translation_m: FloatArray, wxyz: FloatArray) -> FloatArray:
    """(..., 3), (..., 4) -> (..., 4, 4)."""
    rotation = rotation_from_quaternion(wxyz)
    pose = np.zeros((*rotation.shape[:-2], 4, 4))
    pose[..., :3, :3], pose[..., :3, 3], pose[..., 3, 3] = rotation, translation_m, 1.0
    return pose


def inverse_pose(pose: FloatArray) -> FloatArray:
    """The inverse of rigid poses (..., 4, 4)."""
    out = np.zeros_like(pose)
    rotation_t = np.swapaxes(pose[..., :3, :3], -1, -2)
    out[..., :3, :3] = rotation_t
    out[..., :3, 3] = -(rotation_t @ pose[..., :3, 3:])[..., 0]
    out[..., 3, 3] = 1.0
    return out


def transform_points(pose: FloatArray, points: FloatArray) -> FloatArray:
    """a_from_b (4, 4) applied to points (..., 3) of b; for (..., 2) a z of 0 is assumed, and 2 columns come back."""
    points = np.asarray(points, dtype=np.float64)
    columns = points.shape[-1]
    return points @ pose[:columns, :columns].T + pose[:columns, 3]


def relative_xyyaw(origin: FloatArray, xyyaw: FloatArray) -> FloatArray:
    """World poses (..., 3) seen from the pose ``origin`` (..., 3), both x, y, yaw."""
    origin, xyyaw = np.asarray(origin, dtype=np.float64), np.asarray(xyyaw, dtype=np.float64)
    c, s = np.cos(origin[..., 2]), np.sin(origin[..., 2])
    dx, dy = xyyaw[..., 0] - origin[..., 0], xyyaw[..., 1] - origin[..., 1]
    return np.stack([c * dx + s * dy, c * dy - s * dx, wrap_angle(xyyaw[..., 2] - origin[..., 2])], -1)


def compose_xyyaw(origin: FloatArray, local: FloatArray) -> FloatArray:
    """The inverse of ``relative_xyyaw``: poses given in the frame of ``origin``, in the world."""
    origin, local = np.asarray(origin, dtype=np.float64), np.asarray(local, dtype=np.float64)
    c, s = np.cos(origin[..., 2]), np.sin(origin[..., 2])
    x = origin[..., 0] + c * local[..., 0] - s * local[..., 1]
    y = origin[..., 1] + s * local[..., 0] + c * local[..., 1]
    return np.stack([x, y, wrap_angle(origin[..., 2] + local[..., 2])], -1)


def actions_from_xyyaw(xyyaw: FloatArray, times_s: FloatArray) -> FloatArray:
    """Poses (T, 3) at times (T,) -> actions (T-1, 2): speed_mps and curvature_inv_m of the arc to the next pose.

    The arc of constant curvature with the chord and the change of heading that are seen: length = chord * (a / sin a),
    a = half the change of heading; signed by whether the ego moved forward. Exact inverse of ``integrate_actions``.
    """
    step = relative_xyyaw(xyyaw[:-1], xyyaw[1:])
    half = step[:, 2] / 2
    forward = step[:, 0] * np.cos(half) + step[:, 1] * np.sin(half)
    length = forward / np.sinc(half / np.pi)
    moved = np.abs(length) > MIN_ARC_M
    curvature = np.where(moved, step[:, 2] / np.where(moved, length, 1.0), 0.0)
    return np.stack([length / np.diff(times_s), curvature], -1)


def integrate_actions(start_xyyaw: FloatArray, actions: FloatArray, dt_s: float | FloatArray) -> FloatArray:
    """(..., 3), (..., N, 2), seconds a step -> (..., N, 3): poses after each action, on arcs of constant curvature."""
    actions = np.asarray(actions, dtype=np.float64)
    length = actions[..., 0] * np.asarray(dt_s)
    turn = length * actions[..., 1]
    chord = length * np.sinc(turn / (2 * np.pi))
    yaw = np.asarray(start_xyyaw)[..., 2:3] + np.cumsum(turn, -1)
    middle = yaw - turn / 2
    x = np.asarray(start_xyyaw)[..., 0:1] + np.cumsum(chord * np.cos(middle), -1)
    y = np.asarray(start_xyyaw)[..., 1:2] + np.cumsum(chord * np.sin(middle), -1)
    return np.stack([x, y, wrap_angle(yaw)], -1)


def bracket(timestamps_us: IntArray, at_us: IntArray, max_gap_us: int) -> tuple[IntArray, FloatArray, BoolArray]:
    """For each query time: index of the sample before, weight of the one after, and whether both are near enough.

    A query is invalid outside the samples' range, and where the two samples around it lie more than max_gap_us apart.
    """
    timestamps_us, at_us = np.asarray(timestamps_us), np.asarray(at_us)
    if len(timestamps_us) == 1:
        return np.zeros(at_us.shape, int), np.zeros(at_us.shape), at_us == timestamps_us[0]
    before = np.clip(np.searchsorted(timestamps_us, at_us, side="right") - 1, 0, len(timestamps_us) - 2)
    gap = timestamps_us[before + 1] - timestamps_us[before]
    weight = (at_us - timestamps_us[before]) / gap
    exact = (weight == 0) | (weight == 1)
    valid = (weight >= 0) & (weight <= 1) & ((gap <= max_gap_us) | exact)
    return before, np.clip(weight, 0.0, 1.0), valid


def interpolate_poses(poses: Poses, at_us: IntArray, max_gap_us: int = 600_000) -> tuple[FloatArray, BoolArray]:
    """Poses (M, 4, 4) at the times asked for, and valid (M,): linear in position, spherical in rotation.

    Invalid samples are bridged where the valid ones around them lie at most max_gap_us apart.
    """
    at_us = np.asarray(at_us, dtype=np.int64)
    times, known = poses.timestamps_us[poses.valid], poses.world_from_body[poses.valid]
    if not len(times):
        return np.tile(np.eye(4), (len(at_us), 1, 1)), np.zeros(len(at_us), bool)
    before, weight, valid = bracket(times, at_us, max_gap_us)
    a, b = known[before], known[np.minimum(before + 1, len(times) - 1)]
    qa, qb = quaternion_from_rotation(a[:, :3, :3]), quaternion_from_rotation(b[:, :3, :3])
    dot = np.sum(qa * qb, -1, keepdims=True)
    qb, dot = np.where(dot < 0, -qb, qb), np.clip(np.abs(dot), 0.0, 1.0)
    angle = np.arccos(dot)
    sine = np.where(angle > 1e-6, np.sin(angle), 1.0)
    w = weight[:, None]
    wa = np.where(angle > 1e-6, np.sin((1 - w) * angle) / sine, 1 - w)
    wb = np.where(angle > 1e-6, np.sin(w * angle) / sine, w)
    position = a[:, :3, 3] * (1 - w) + b[:, :3, 3] * w
    return pose_from_quaternion(position, wa * qa + wb * qb), valid


def box_corners(xyyaw: FloatArray, length_m: FloatArray, width_m: FloatArray,
                center_offset_m: FloatArray | float = 0.0) -> FloatArray:
    """Footprints (..., 4, 2), front-left first then counter-clockwise; centres lie center_offset_m ahead of xyyaw."""
    xyyaw = np.asarray(xyyaw, dtype=np.float64)
    half_l, half_w = np.asarray(length_m)[..., None] / 2, np.asarray(width_m)[..., None] / 2
    along = half_l * np.array([1.0, -1.0, -1.0, 1.0]) + np.asarray(center_offset_m)[..., None]
    across = half_w * np.array([1.0, 1.0, -1.0, -1.0])
    c, s = np.cos(xyyaw[..., 2:3]), np.sin(xyyaw[..., 2:3])
    return np.stack([xyyaw[..., 0:1] + c * along - s * across, xyyaw[..., 1:2] + s * along + c * across], -1)


def resample_polyline(points: FloatArray, spacing_m: float) -> FloatArray:
    """Points (N, D) at equal steps of at most spacing_m along the line; both ends are kept."""
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points[:, :2], axis=0), axis=1))])
    count = max(2, int(np.ceil(length[-1] / spacing_m)) + 1)
    at = np.linspace(0.0, length[-1], count)
    return np.stack([np.interp(at, length, points[:, d]) for d in range(points.shape[1])], -1)


def project_to_polyline(points: FloatArray, line: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Points (M, 2) on a polyline (N, 2+): arc length (M,), signed offset (M,) left positive, heading there (M,)."""
    points, line = np.asarray(points, dtype=np.float64)[:, :2], np.asarray(line, dtype=np.float64)[:, :2]
    start, delta = line[:-1], np.diff(line, axis=0)
    seg = np.maximum(np.linalg.norm(delta, axis=1), 1e-9)
    unit = delta / seg[:, None]
    rel = points[:, None] - start[None]
    t = np.clip((rel * unit).sum(-1), 0.0, seg)
    gap = rel - t[..., None] * unit
    best = np.argmin((gap**2).sum(-1), axis=1)
    rows = np.arange(len(points))
    arc = np.concatenate([[0.0], np.cumsum(seg)])[best] + t[rows, best]
    side = unit[best, 0] * rel[rows, best, 1] - unit[best, 1] * rel[rows, best, 0]
    distance = np.sqrt((gap[rows, best] ** 2).sum(-1))
    return arc, np.copysign(distance, side), np.arctan2(unit[best, 1], unit[best, 0])


def points_in_polygon(points: FloatArray, polygon: FloatArray) -> BoolArray:
    """Even-odd rule, points (..., 2), polygon (N, 2+); points on the edge may fall either way."""
    points = np.asarray(points, dtype=np.float64)
    x, y = points[..., 0, None], points[..., 1, None]
    ax, ay = polygon[:, 0], polygon[:, 1]
    bx, by = np.roll(ax, -1), np.roll(ay, -1)
    crosses = (ay > y) != (by > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        at_x = ax + (y - ay) * (bx - ax) / (by - ay)
    inside: BoolArray = (np.sum(crosses & (x < at_x), -1) % 2).astype(bool)
    return inside
