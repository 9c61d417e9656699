import numpy as np
import pytest

from drive_wm.eval.vehicle import (
    EgoState,
    bicycle_step,
    braking_reference,
    drive_step,
    fit_reference,
    make_vehicle,
    reference_from_trajectory,
)
from drive_wm.geometry import integrate_actions
from drive_wm.types import FloatArray, InputError, Trajectory

PACIFICA = make_vehicle("pacifica")


def state(x: float = 0.0, y: float = 0.0, yaw: float = 0.0, speed: float = 0.0, accel: float = 0.0,
          steer: float = 0.0) -> EgoState:
    return EgoState(np.array([x, y, yaw]), np.array(speed), np.array(accel), np.array(steer))


def arc(speed: float, curvature: float, seconds: float = 4.0) -> FloatArray:
    n = round(seconds / 0.1)
    poses = integrate_actions(np.zeros(3), np.tile([speed, curvature], (n, 1)), 0.1)
    return np.concatenate([np.zeros((1, 3)), poses])


def test_presets_are_the_published_dimensions() -> None:
    zoe = make_vehicle("zoe")
    assert PACIFICA.length_m == pytest.approx(5.176) and PACIFICA.wheelbase_m == 3.089
    assert (zoe.length_m, zoe.width_m) == (pytest.approx(4.084), 1.73)
    with pytest.raises(InputError, match="pacifica"):
        make_vehicle("pacifca")


def test_bicycle_lags_follow_the_first_order_law() -> None:
    after = bicycle_step(state(speed=5.0), np.array(3.0), np.array(0.6), PACIFICA)
    assert after.accel_mps2 == pytest.approx(1.0)  # 0.1 / (0.1 + 0.2) of 3
    assert after.steer_rad == pytest.approx(0.04)  # 0.1 / (0.1 + 0.05) of 0.06
    assert after.speed_mps == pytest.approx(5.1)
    np.testing.assert_allclose(after.xyyaw, [0.5, 0.0, 0.0])


def test_bicycle_turns_with_speed_times_tan_steer_over_wheelbase() -> None:
    after = bicycle_step(state(speed=4.0, steer=0.2), np.array(0.0), np.array(0.0), PACIFICA)
    assert after.xyyaw[2] == pytest.approx(0.4 * np.tan(0.2) / 3.089)


def test_brakes_do_not_push_the_car_back() -> None:
    now = state(speed=0.2, accel=-4.0)
    for _ in range(10):
        now = bicycle_step(now, np.array(-4.0), np.array(0.0), PACIFICA)
    assert now.speed_mps == 0.0 and now.xyyaw[0] < 0.05


def test_profile_recovers_constant_speed_and_curvature() -> None:
    reference = fit_reference(arc(7.0, 0.05))
    np.testing.assert_allclose(reference.speed_mps, 7.0, atol=0.02)
    np.testing.assert_allclose(reference.curvature_inv_m, 0.05, atol=1e-3)


@pytest.mark.parametrize("curvature", [0.0, 0.04, -0.08])
def test_tracker_stays_on_an_arc(curvature: float) -> None:
    reference = fit_reference(arc(6.0, curvature))
    now = state(speed=6.0, steer=np.arctan(3.089 * curvature))
    for step in range(30):
        now = drive_step(now, reference, step, PACIFICA)
    assert np.hypot(*(now.xyyaw - reference.xyyaw[30])[:2]) < 0.35
    assert abs(now.xyyaw[2] - reference.xyyaw[30, 2]) < 0.03


def test_tracker_closes_a_lateral_gap() -> None:
    reference = fit_reference(arc(8.0, 0.0))
    now = state(y=0.5, speed=8.0)
    for step in range(40):
        now = drive_step(now, reference, step, PACIFICA)
    assert abs(now.xyyaw[1]) < 0.1


def test_tracking_is_the_same_one_by_one_and_as_a_batch() -> None:
    singles = [fit_reference(arc(5.0, c)) for c in (0.0, 0.05)]
    batch = fit_reference(np.stack([arc(5.0, 0.0), arc(5.0, 0.05)]))
    many = EgoState(np.zeros((2, 3)), np.full(2, 5.0), np.zeros(2), np.zeros(2))
    one = [state(speed=5.0), state(speed=5.0)]
    for step in range(10):
        many = drive_step(many, batch, step, PACIFICA)
        one = [drive_step(s, r, step, PACIFICA) for s, r in zip(one, singles)]
    np.testing.assert_allclose(many.xyyaw, np.stack([s.xyyaw for s in one]), atol=1e-9)


def test_perfect_tracking_lands_on_the_reference() -> None:
    ahead = Trajectory(np.array([1.0]), np.array([[4.0, 0.0, 0.0]]))
    reference = reference_from_trajectory(np.array([10.0, 5.0, np.pi / 2]), ahead)
    now = drive_step(state(10.0, 5.0, np.pi / 2, speed=4.0), reference, 0, PACIFICA, "perfect")
    np.testing.assert_allclose(now.xyyaw, [10.0, 5.4, np.pi / 2], atol=1e-9)
    assert now.speed_mps == pytest.approx(4.0)
    with pytest.raises(InputError, match="tracking"):
        drive_step(now, reference, 0, PACIFICA, "exact")


def test_braking_stops_along_the_path() -> None:
    path = np.stack([np.arange(0.0, 30.0), np.zeros(30)], 1)
    now, reference = state(speed=8.0), braking_reference(state(speed=8.0), path)
    assert reference.xyyaw[-1, 0] == pytest.approx(8.0)  # v^2 / 2b
    for step in range(60):
        now = drive_step(now, reference, step, PACIFICA)
    assert now.speed_mps < 0.05 and 6.0 < now.xyyaw[0] < 13.0 and abs(now.xyyaw[1]) < 0.05


def test_braking_without_any_path_goes_straight_on() -> None:
    reference = braking_reference(state(yaw=np.pi / 2, speed=4.0), np.zeros((1, 2)))
    np.testing.assert_allclose(reference.xyyaw[-1], [0.0, 2.0, np.pi / 2], atol=1e-9)
