"""Who else is on the road at each step of a closed loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from drive_wm.planners.idm import IdmParameters, idm_acceleration
from drive_wm.types import FloatArray, InputError, Log, Vehicle

if TYPE_CHECKING:
    from drive_wm.render import AgentBoxes

__all__ = ["IdmParameters", "LogReplayTraffic", "TRAFFIC", "Traffic", "idm_acceleration", "make_traffic"]


class Traffic(ABC):
    """Agents that may or may not react to the ego. Seeded: the same log, seed and ego give the same agents.

    vehicle: the ego's, which the loop sets before ``reset``.
    """

    name: ClassVar[str] = ""
    vehicle: Vehicle

    @abstractmethod
    def reset(self, log: Log, seed: int) -> None: ...

    @abstractmethod
    def step(self, timestamp_us: int, ego_xyyaw: FloatArray, ego_speed_mps: float) -> AgentBoxes:
        """The agents at a time, given the ego's rear axle (3,) in the world at that time; times come in order."""


class LogReplayTraffic(Traffic):
    """Agents do what the log says, whatever the ego does; that they may run into its back is known to the metrics."""

    name = "log"

    def __init__(self) -> None:
        self._log: Log | None = None

    def reset(self, log: Log, seed: int) -> None:
        self._log = log

    def step(self, timestamp_us: int, ego_xyyaw: FloatArray, ego_speed_mps: float) -> AgentBoxes:
        from drive_wm.render import agents_at

        if self._log is None:
            raise InputError("traffic was not reset with a log")
        return agents_at(self._log, timestamp_us)


TRAFFIC: dict[str, str] = {
    "log": "drive_wm.eval.traffic:LogReplayTraffic",
    "idm": "drive_wm.eval.traffic_idm:IdmTraffic",
}


def make_traffic(name: str) -> Traffic:
    from drive_wm.config import load_object

    if name not in TRAFFIC:
        raise InputError(f"unknown traffic {name!r}, expected one of {', '.join(TRAFFIC)}")
    traffic: Traffic = load_object(TRAFFIC[name])()
    return traffic
