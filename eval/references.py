"""The other drives of a scene that a protocol compares with: PDM-Closed's, the human's, an unreacting one's."""

from __future__ import annotations

import numpy as np

from drive_wm.eval.loop import STEP_US, simulate
from drive_wm.eval.metrics import STEP_S, History, References, failed, savitzky_golay
from drive_wm.eval.protocols import Protocol
from drive_wm.eval.traffic import make_traffic
from drive_wm.eval.vehicle import make_vehicle
from drive_wm.geometry import actions_from_xyyaw, interpolate_poses, xyyaw_from_pose
from drive_wm.planners.registry import PLANNERS, make_planner
from drive_wm.types import Log, Rollout


def references_for(log: Log, protocol: Protocol, seed: int) -> References:
    """The drives that ``protocol.references`` names, without images, and the log's past; None where one cannot be had.

    It cannot where there is no such planner, or where that planner itself failed: then what needs it is unknown.
    """
    drives = {role: _drive(log, name, protocol, seed) for role, name in protocol.references if name in PLANNERS}
    past = logged_history(log, log.start_us + round(protocol.start_s * 1e6), protocol.history_s)
    return References(history=past, **{role: drive for role, drive in drives.items() if drive is not None})


def _drive(log: Log, planner: str, protocol: Protocol, seed: int) -> Rollout | None:
    rollout = simulate(log, make_planner(planner), None, vehicle=make_vehicle(protocol.vehicle), seed=seed,
                       start_s=protocol.start_s, duration_s=protocol.duration_s, traffic=make_traffic(protocol.traffic),
                       replan_s=protocol.replan_s, tracking=protocol.tracking)
    return None if failed(rollout) else rollout


def logged_history(log: Log, start_us: int, seconds: float) -> History | None:
    """The log's last ``seconds`` before start_us in steps of 0.1 s; None where the log does not hold so much.

    Speed over each step, acceleration the smoothed derivative of it (Savitzky-Golay over 0.5 s).
    """
    count = round(seconds / STEP_S)
    times = start_us - np.arange(count + 1, -1, -1) * STEP_US
    if count < 5 or times[0] < log.start_us:
        return None
    poses, valid = interpolate_poses(log.ego, times)
    if not valid.all():
        return None
    xyyaw = xyyaw_from_pose(poses)
    speed = actions_from_xyyaw(xyyaw, times / 1e6)[:, 0]  # of the step that begins at each pose but the last
    return History(xyyaw[1:-1], (speed[1:] + speed[:-1]) / 2, savitzky_golay(speed, 5, 2, 1)[1:])
