"""Rigs see what they should, and jittered ones stay rigs."""

from __future__ import annotations

import numpy as np
import pytest

from drive_wm.datasets.rigs import RIGS, default_rig, eight_cameras, four_cameras, nuscenes_six, randomised, rig_named
from drive_wm.types import Camera, FloatArray, InputError


def yaw_rad(camera: Camera) -> float:
    axis = camera.rig_from_camera[:3, 2]
    return float(np.arctan2(axis[1], axis[0]))


def fov_rad(camera: Camera) -> float:
    return float(2 * np.arctan(camera.width / 2 / camera.intrinsics[0, 0]))


def test_rigs_have_names_and_a_misspelt_one_is_suggested() -> None:
    for name in RIGS:
        assert rig_named(name).name == name
    with pytest.raises(InputError, match="did you mean nuscenes_six"):
        rig_named("nuscene_six")


@pytest.mark.parametrize("rig", [four_cameras(), eight_cameras(), nuscenes_six()], ids=lambda rig: rig.name)
def test_rings_leave_no_gap(rig: object) -> None:
    cameras = sorted(rig.cameras, key=yaw_rad)  # type: ignore[attr-defined]
    for a, b in zip(cameras, cameras[1:] + cameras[:1]):
        turn = (yaw_rad(b) - yaw_rad(a)) % (2 * np.pi)
        assert turn < (fov_rad(a) + fov_rad(b)) / 2


def angle_deg(a: FloatArray, b: FloatArray) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(a.T @ b) - 1) / 2, -1, 1))))


def test_jitter_stays_within_its_bounds_and_keeps_rotations() -> None:
    base = default_rig()
    turned, focal = [], []
    for seed in range(20):
        rig = randomised(base, np.random.default_rng(seed), focal=0.2, position_m=0.15, angle_deg=3.0)
        assert rig.names == base.names
        for was, now in zip(base.cameras, rig.cameras):
            r = now.rig_from_camera[:3, :3]
            assert np.allclose(r @ r.T, np.eye(3), atol=1e-12) and np.isclose(np.linalg.det(r), 1.0)
            assert np.abs(now.rig_from_camera[:3, 3] - was.rig_from_camera[:3, 3]).max() <= 0.15
            assert (now.intrinsics[:, 2] == was.intrinsics[:, 2]).all() and (now.width, now.height) == (112, 64)
            assert np.isclose(now.intrinsics[0, 0] / was.intrinsics[0, 0], now.intrinsics[1, 1] / was.intrinsics[1, 1])
            focal.append(now.intrinsics[0, 0] / was.intrinsics[0, 0])
            turned.append(angle_deg(was.rig_from_camera[:3, :3], r))
    assert 0.8 <= min(focal) < 0.85 and 1.15 < max(focal) <= 1.2
    assert 3.0 < max(turned) <= 3.0 * np.sqrt(3) + 0.2


def test_jitter_is_seeded_and_none_is_none() -> None:
    base = default_rig()
    a, b = (randomised(base, np.random.default_rng(5)) for _ in range(2))
    same = randomised(base, np.random.default_rng(5), 0.0, 0.0, 0.0)
    for was, first, second, still in zip(base.cameras, a.cameras, b.cameras, same.cameras):
        assert (first.rig_from_camera == second.rig_from_camera).all() and (first.intrinsics == second.intrinsics).all()
        assert not np.allclose(first.rig_from_camera, was.rig_from_camera)
        assert np.allclose(still.rig_from_camera, was.rig_from_camera) and (still.intrinsics == was.intrinsics).all()
    with pytest.raises(InputError, match="focal 1.5"):
        randomised(base, np.random.default_rng(0), focal=1.5)


def test_a_camera_turned_in_yaw_alone_keeps_its_horizon() -> None:
    rig = randomised(default_rig(), np.random.default_rng(1), 0.0, 0.0, 2.0)
    assert any(abs(c.rig_from_camera[2, 2]) > 1e-3 for c in rig.cameras)  # pitched
    assert any(abs(c.rig_from_camera[2, 0]) > 1e-3 for c in rig.cameras)  # rolled
