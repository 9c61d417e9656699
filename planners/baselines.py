"""The rows every table needs: standing, going on as before, and the one who knows the log."""

from __future__ import annotations

import numpy as np

from drive_wm.geometry import integrate_actions, interpolate_poses, relative_xyyaw, wrap_angle, xyyaw_from_pose
from drive_wm.planners.base import POINT_S, TIMES_S, Planner, stand_still
from drive_wm.types import Explanation, FloatArray, InputError, IntArray, Log, Observation, Plan, Trajectory


class Stationary(Planner):
    """Wants to be where it is."""

    name = "stationary"
    history_steps = 1

    def plan(self, observation: Observation) -> Plan:
        return Plan(stand_still(), explanation=Explanation("hold", "keep"))


class ConstantVelocity(Planner):
    """Keeps its speed and its heading, sees nothing."""

    name = "constant_velocity"
    history_steps = 1

    def plan(self, observation: Observation) -> Plan:
        actions = np.tile([max(observation.speed_mps, 0.0), 0.0], (len(TIMES_S), 1))
        xyyaw = integrate_actions(np.zeros(3), actions, POINT_S)
        return Plan(Trajectory(TIMES_S.copy(), xyyaw), explanation=Explanation("proceed", "keep"), actions=actions)


class LogReplay(Planner):
    """An oracle: drives where the log drove, and past its end straight on. A gap to the log closes in ``close_s``.

    The gap is spread over time because a tracker that follows speeds (vehicle.py) would not see a jump at the start.
    """

    name = "log_replay"
    oracle = True
    history_steps = 1

    def __init__(self, close_s: float = 1.5) -> None:
        self.close_s = close_s
        self._log: Log | None = None

    def reset(self, seed: int, log: Log | None = None) -> None:
        if log is None:
            raise InputError("log_replay reads the log's future: reset it with the log")
        self._log = log

    def plan(self, observation: Observation) -> Plan:
        if self._log is None:
            raise InputError("log_replay was not reset with a log")
        times_s = np.concatenate([[0.0], TIMES_S])
        logged = self._logged(int(observation.timestamps_us[-1]) + np.round(times_s * 1e6).astype(np.int64))
        xyyaw = relative_xyyaw(xyyaw_from_pose(observation.world_from_rig), logged)
        xyyaw = xyyaw - xyyaw[0] * np.maximum(0.0, 1.0 - times_s / self.close_s)[:, None]
        xyyaw[:, 2] = wrap_angle(xyyaw[:, 2])
        return Plan(Trajectory(TIMES_S.copy(), xyyaw[1:]))

    def _logged(self, at_us: IntArray) -> FloatArray:
        """The log's x, y, yaw (N, 3); past its end straight on with its last speed."""
        assert self._log is not None
        end = self._log.end_us
        last = [max(end - 500_000, self._log.start_us), end]
        poses, _ = interpolate_poses(self._log.ego, np.append(np.minimum(at_us, end), last))
        xyyaw = xyyaw_from_pose(poses)
        speed = np.hypot(*(xyyaw[-1] - xyyaw[-2])[:2]) / 0.5
        past_m = speed * np.maximum(at_us - end, 0) / 1e6
        xyyaw[:-2, 0] += past_m * np.cos(xyyaw[-1, 2])
        xyyaw[:-2, 1] += past_m * np.sin(xyyaw[-1, 2])
        return xyyaw[:-2]
