"""A small MLP that sees nothing but its own motion and the route: what driving blind is worth (Li et al., 2024)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from drive_wm.datasets.routes import ROUTE_DISTANCES_M, points_ahead
from drive_wm.geometry import integrate_actions
from drive_wm.model import PRETRAINED, load_weights
from drive_wm.planners.base import POINT_S, TIMES_S, Planner
from drive_wm.types import FloatArray, InputError, Observation, Plan, Trajectory

PAST = 3  # actions at 2 Hz that it knows
POINTS = len(ROUTE_DISTANCES_M)
FEATURES = 2 + 2 * PAST + 2 * POINTS + 1
ACTIONS = len(TIMES_S)
WIDTH = 128
SPEED_SCALE, CURVATURE_SCALE = 10.0, 20.0  # [1 / (m/s)], [m]
WEIGHTS = PRETRAINED / "ego_status"


class EgoStatusNet(nn.Module):
    """(B, FEATURES) -> actions (B, 8, 2): changes of speed against now, and curvatures."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU(),
                                 nn.Linear(WIDTH, 2 * ACTIONS))

    def forward(self, features: Tensor) -> Tensor:
        out = self.net(features).unflatten(-1, (ACTIONS, 2))
        speed = (features[:, :1] * SPEED_SCALE + out[..., 0] * SPEED_SCALE).clamp_min(0.0)
        return torch.stack([speed, out[..., 1] / CURVATURE_SCALE], -1)


def features_of(speed_mps: FloatArray, accel_mps2: FloatArray, actions: FloatArray,
                route: FloatArray | None) -> FloatArray:
    """(...), (...), past actions (..., PAST, 2), route points (..., 8, 2) rig frame or None -> (..., FEATURES)."""
    speed_mps = np.asarray(speed_mps, dtype=np.float64)
    lead = speed_mps.shape
    past = np.asarray(actions) * [1 / SPEED_SCALE, CURVATURE_SCALE]
    known = np.full((*lead, 1), float(route is not None))
    points = np.zeros((*lead, 2 * POINTS)) if route is None else np.reshape(route, (*lead, 2 * POINTS)) / 20
    status = np.stack([speed_mps / SPEED_SCALE, np.asarray(accel_mps2) / 3], -1)
    out: FloatArray = np.concatenate([status, past.reshape(*lead, 2 * PAST), points, known], -1).astype(np.float32)
    return out


class EgoStatusPlanner(Planner):
    """Speed, acceleration, three past actions and eight points of the route in, eight actions out; no sensors.

    weights: a folder that ``drive-wm train ego-status`` wrote; the shipped one by default.
    """

    name = "ego_status"
    requires = frozenset({"route"})
    history_steps = PAST + 1

    def __init__(self, weights: str | Path = WEIGHTS) -> None:
        self.net = load(weights)

    def plan(self, observation: Observation) -> Plan:
        actions = self.actions(observation)
        xyyaw = integrate_actions(np.zeros(3), actions, POINT_S)
        return Plan(Trajectory(TIMES_S.copy(), xyyaw), actions=actions)

    @torch.no_grad()
    def actions(self, observation: Observation) -> FloatArray:
        """(8, 2) from now on. A shorter past is continued backwards by its oldest action."""
        past = observation.actions[-PAST:]
        if not len(past):
            past = np.array([[observation.speed_mps, 0.0]])
        past = np.concatenate([np.repeat(past[:1], PAST - len(past), 0), past])
        accel = observation.accel_mps2
        if accel is None:  # over half a step: the last action's speed is a mean over the step
            accel = float(np.clip((observation.speed_mps - past[-1, 0]) / (POINT_S / 2), -4.0, 4.0))
        route = None
        if observation.route is not None and len(observation.route) > 1:
            route = points_ahead(observation.route, np.eye(4))
        features = features_of(np.array(observation.speed_mps), np.array(accel), past, route)
        out: FloatArray = self.net(torch.from_numpy(features)[None])[0].double().numpy()
        return out


def load(folder: str | Path) -> EgoStatusNet:
    """Raises InputError where the weights are missing or foreign."""
    net = EgoStatusNet()
    path = Path(folder) / "ego_status.safetensors"
    if not path.is_file():
        raise InputError(f"no file {path}, expected a folder that drive-wm train ego-status wrote")
    load_weights(path, net)
    return net.eval()
