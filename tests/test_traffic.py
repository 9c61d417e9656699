import numpy as np
import pytest

from drive_wm.eval.traffic import IdmParameters, LogReplayTraffic, idm_acceleration, make_traffic
from drive_wm.geometry import pose_from_xyyaw
from drive_wm.types import Camera, FrameError, Frames, InputError, Log, Poses, Rig, Track

GOLDEN = IdmParameters(desired_speed_mps=30.0, min_gap_m=2.0, headway_s=1.5, accel_mps2=0.73, decel_mps2=1.67)


class NoFrames(Frames):
    rendered = False

    def timestamps_us(self, camera: str) -> np.ndarray:
        return np.zeros(0, dtype=np.int64)

    def read(self, camera: str, timestamp_us: int) -> np.ndarray:
        raise FrameError(f"no image of {camera} at {timestamp_us}")


def small_log() -> Log:
    times = np.arange(11, dtype=np.int64) * 100_000
    ego = pose_from_xyyaw(np.stack([times / 1e5, 0.0 * times, 0.0 * times], -1))
    position = np.stack([10 + times / 1e6 * 3, 2.0 + 0 * times, 0.8 + 0 * times], -1)
    track = Track("a", "car", np.array([4.0, 2.0, 1.6]), times, position, np.zeros(11), times >= 300_000)
    rig = Rig("one", (Camera("front", 8, 4, np.eye(3), np.eye(4)),))
    return Log("small", "test", rig, Poses(times, ego, np.ones(11, bool)), NoFrames(), tracks=(track,))


def test_idm_golden_value() -> None:
    accel = idm_acceleration(3.0, 2.0, 15.0 - 5.0 - 5.0, GOLDEN)
    assert float(accel) == pytest.approx(-1.073366, abs=1e-6)


def test_idm_holds_its_speed_on_a_free_road() -> None:
    p = IdmParameters()
    assert float(idm_acceleration(10.0, 10.0, 1e9, p)) == pytest.approx(0.0, abs=1e-6)
    assert float(idm_acceleration(0.0, 0.0, 1e9, p)) == pytest.approx(p.accel_mps2)


def test_idm_over_a_batch() -> None:
    accel = idm_acceleration(np.full(3, 5.0), np.array([5.0, 3.0, 0.0]), np.array([20.0, 20.0, 20.0]), GOLDEN)
    assert accel.shape == (3,) and (np.diff(accel) < 0).all()


def test_replay_shows_the_log_and_only_valid_agents() -> None:
    traffic = LogReplayTraffic()
    traffic.reset(small_log(), seed=0)
    assert traffic.step(200_000, np.zeros(3), 0.0).ids == ()
    boxes = traffic.step(500_000, np.array([99.0, 9.0, 0.0]), 5.0)
    assert boxes.ids == ("a",)
    np.testing.assert_allclose(boxes.xyzyaw[0], [11.5, 2.0, 0.8, 0.0])


def test_unknown_traffic_and_missing_reset_are_told() -> None:
    with pytest.raises(InputError, match="log"):
        make_traffic("idmm")
    with pytest.raises(InputError, match="reset"):
        LogReplayTraffic().step(0, np.zeros(3), 0.0)
