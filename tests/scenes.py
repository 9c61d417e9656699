"""What several tests set their scenes with: drives, roads and moments that one can compute by hand."""

from dataclasses import replace
from typing import Any

import numpy as np

from drive_wm.types import (
    CATEGORIES,
    Camera,
    FloatArray,
    Lane,
    Observation,
    Rig,
    RoadMap,
    Rollout,
    Vehicle,
)

RIG = Rig("one", (Camera("front", 8, 4, np.eye(3), np.eye(4)),))
ROUTE = np.stack([np.arange(0.0, 121.0, 2.0), np.zeros(61)], 1)  # 120 m along +x
CAR = Vehicle("test", 3.0, 2.0, 4.0, 1.0)  # x from -1 to 4 around the rear axle, its middle at 1.5


def straight(speed: float, steps: int = 41, y: float = 0.0, yaw: float = 0.0) -> FloatArray:
    t = np.arange(steps) * 0.1
    return np.stack([speed * t * np.cos(yaw), y + speed * t * np.sin(yaw), np.full(steps, yaw)], -1)


def still(x: float, y: float, yaw: float = 0.0, steps: int = 41) -> FloatArray:
    return np.tile([x, y, yaw], (steps, 1))


def drive(ego: FloatArray, logged: FloatArray | None = None, agents: list[tuple[str, FloatArray]] | None = None,
          **changes: Any) -> Rollout:
    steps, agents = len(ego), agents or []
    speed = np.hypot(*np.gradient(ego[:, :2], 0.1, axis=0).T)
    base = Rollout(
        log_id="hand", planner="p", renderer="none", seed=0, vehicle=CAR, timestamps_us=np.arange(steps) * 100_000,
        ego_xyyaw=ego, ego_speed_mps=speed, ego_accel_mps2=np.gradient(speed, 0.1), ego_steer_rad=np.zeros(steps),
        logged_xyyaw=ego if logged is None else logged, logged_valid=np.ones(steps, bool),
        agents_xyyaw=np.stack([a for _, a in agents], 1) if agents else np.zeros((steps, 0, 3)),
        agents_valid=np.ones((steps, len(agents)), bool), agents_lwh_m=np.tile([4.0, 2.0, 1.5], (len(agents), 1)),
        agent_ids=tuple(f"a{i}" for i in range(len(agents))), agent_categories=tuple(c for c, _ in agents), map=None,
        signals=(), plans=(None,) * steps, plan_errors={}, render_valid=np.ones(steps, bool), completed=True,
        planned_steps=steps)
    return replace(base, **changes)


def lane(name: str, low: float, high: float, begin: float = -50.0, end: float = 100.0, **more: Any) -> Lane:
    """Along +x between y = low and high, or along -x where begin > end."""
    x = np.array([begin, end])
    left, right = (high, low) if end > begin else (low, high)
    line = [np.stack([x, np.full(2, y), np.zeros(2)], -1) for y in ((low + high) / 2, left, right)]
    return Lane(name, *line, **more)


def square(x0: float, x1: float, y0: float, y1: float) -> FloatArray:
    return np.array([[x0, y0, 0], [x1, y0, 0], [x1, y1, 0], [x0, y1, 0]], float)


def street(**more: Any) -> RoadMap:
    """Two ways: lane "r" along +x below y = 0, lane "o" along -x above it."""
    lanes = {"r": lane("r", -4.0, 0.0, speed_limit_mps=10.0), "o": lane("o", 0.0, 4.0, 100.0, -50.0)}
    return RoadMap("street", **{"lanes": lanes, "drivable": (square(-50, 100, -4, 4),), **more})


def seen(speed: float = 8.0, agents: list[list[float]] | None = None, **changes: Any) -> Observation:
    """One moment at the origin; agents: x, y, yaw, vx, vy, length, width, height, category."""
    table = np.array([[*a, 0, 0, 0] for a in agents or []], float).reshape(1, -1, 12)
    values: dict[str, Any] = dict(
        timestamps_us=np.array([1_000_000]), rig=RIG, ego_xyyaw=np.zeros((1, 3)), speed_mps=speed,
        actions=np.zeros((0, 2)), world_from_rig=np.eye(4), agents=table,
        agents_valid=np.ones(table.shape[:2], bool), route=ROUTE,
        agent_ids=tuple(f"a{i}" for i in range(table.shape[1])))
    return Observation(**{**values, **changes})


def car(x: float, y: float, vx: float = 0.0, vy: float = 0.0, yaw: float = 0.0, category: str = "car") -> list[float]:
    """A row of ``seen``'s agents, 4 m long and 2 m wide."""
    return [x, y, yaw, vx, vy, 4.0, 2.0, 1.5, CATEGORIES.index(category)]
