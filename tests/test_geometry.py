"""Frames, arcs and interpolation, against numbers worked out by hand."""

import numpy as np
import pytest

from drive_wm.geometry import (
    actions_from_xyyaw,
    box_corners,
    compose_xyyaw,
    integrate_actions,
    interpolate_poses,
    inverse_pose,
    points_in_polygon,
    pose_from_xyyaw,
    project_to_polyline,
    quaternion_from_rotation,
    relative_xyyaw,
    resample_polyline,
    rotation_from_quaternion,
    rotation_from_rpy,
    transform_points,
    wrap_angle,
    xyyaw_from_pose,
)
from drive_wm.types import InputError, Poses


def test_angles_wrap_to_the_half_open_circle() -> None:
    assert np.allclose(wrap_angle(np.array([np.pi, -np.pi, 3 * np.pi, 0.1, 2 * np.pi])), [np.pi, np.pi, np.pi, 0.1, 0])


def test_a_quarter_circle() -> None:
    """Radius 10 m, 90 degrees to the left, in one action of pi * 5 m/s for one second."""
    end = integrate_actions(np.zeros(3), np.array([[5 * np.pi, 0.1]]), 1.0)
    assert np.allclose(end, [[10.0, 10.0, np.pi / 2]])
    assert np.allclose(actions_from_xyyaw(np.vstack([np.zeros(3), end]), np.array([0.0, 1.0])), [[5 * np.pi, 0.1]])


def test_actions_and_poses_are_inverse() -> None:
    rng = np.random.default_rng(0)
    actions = np.stack([rng.uniform(0.5, 10, 30), rng.uniform(-0.2, 0.2, 30)], -1)
    path = np.vstack([[1.0, 2.0, 0.5], integrate_actions(np.array([1.0, 2.0, 0.5]), actions, 0.5)])
    assert np.allclose(actions_from_xyyaw(path, np.arange(31) * 0.5), actions)


def test_standing_and_reversing() -> None:
    path = np.array([[0.0, 0, 0], [0, 0, 0.3], [-2, 0, 0.3]])
    actions = actions_from_xyyaw(path, np.array([0.0, 1.0, 2.0]))
    assert actions[0].tolist() == [0.0, 0.0] and actions[1, 0] < -1.5


def test_rotations_round_trip() -> None:
    rotations = rotation_from_rpy(*np.random.default_rng(1).uniform(-3, 3, (3, 100)))
    assert np.allclose(rotation_from_quaternion(quaternion_from_rotation(rotations)), rotations)
    with pytest.raises(InputError, match="zero or not finite"):
        rotation_from_quaternion(np.zeros(4))


def test_relative_and_composed_poses_are_inverse() -> None:
    origin, other = np.array([3.0, -1.0, 2.5]), np.array([[5.0, 5.0, -3.0]])
    assert np.allclose(compose_xyyaw(origin, relative_xyyaw(origin, other)), other)
    pose = pose_from_xyyaw(origin)
    assert np.allclose(inverse_pose(pose) @ pose, np.eye(4)) and np.allclose(xyyaw_from_pose(pose), origin)
    turned = pose_from_xyyaw(np.array([1.0, 2.0, np.pi / 2]))
    assert np.allclose(transform_points(turned, np.array([[1.0, 0.0]])), [[1.0, 3.0]])


def poses(valid: list[bool]) -> Poses:
    xyyaw = np.array([[0.0, 0, 3.0], [1, 0, -3.0], [2, 0, -2.9], [3, 0, -2.8]])[:len(valid)]
    return Poses(np.arange(len(valid)) * 100_000, pose_from_xyyaw(xyyaw), np.array(valid))


def test_interpolation_takes_the_short_way_round() -> None:
    between, valid = interpolate_poses(poses([True] * 4), np.array([50_000]))
    assert valid.all() and np.allclose(between[0, :2, 3], [0.5, 0])
    assert np.allclose(np.abs(xyyaw_from_pose(between)[0, 2]), np.pi)


def test_gaps_are_bridged_only_if_they_are_short() -> None:
    hole = poses([True, False, False, True])
    near, valid = interpolate_poses(hole, np.array([100_000]), max_gap_us=300_000)
    assert valid.all() and np.allclose(near[0, 0, 3], 1.0)
    assert not interpolate_poses(hole, np.array([100_000]), max_gap_us=299_999)[1].any()
    ends = interpolate_poses(hole, np.array([0, 300_000, 300_001, -1]), max_gap_us=1)[1]
    assert ends.tolist() == [True, True, False, False]
    assert not interpolate_poses(poses([False, False]), np.array([0]))[1].any()


def test_polylines_and_polygons() -> None:
    line = np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 10.0]])
    arc, offset, heading = project_to_polyline(np.array([[4.0, 2.0], [12.0, 5.0]]), line)
    assert np.allclose(arc, [4, 15]) and np.allclose(offset, [2, -2]) and np.allclose(heading, [0, np.pi / 2])
    assert np.allclose(resample_polyline(line, 5.0)[:, 0], [0, 5, 10, 10, 10])
    square = np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]])
    points = np.array([[1.0, 1], [5, 1], [-1, 2], [3.9, 3.9]])
    assert points_in_polygon(points, square).tolist() == [True, False, False, True]


def test_box_corners_of_a_turned_box() -> None:
    corners = box_corners(np.array([1.0, 1.0, np.pi / 2]), np.array(4.0), np.array(2.0), 1.0)
    assert np.allclose(corners, [[0, 4], [0, 0], [2, 0], [2, 4]])
