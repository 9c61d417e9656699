"""Scenario drives: where one begins, and a past for the planner that the scenario itself does not hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from drive_wm.eval.metrics import References, ncap_gate
from drive_wm.eval.protocols import Protocol
from drive_wm.geometry import compose_xyyaw, pose_from_xyyaw, xyyaw_from_pose
from drive_wm.types import FloatArray, IntArray, Log, Poses, Track

LEAD_IN_S = 2.0
STEP_US = 100_000


def start_s(log: Log, protocol: Protocol) -> float:
    """Seconds into the log at which a drive under ``protocol`` begins: at a scenario's start, else the protocol's."""
    scenario = log.metadata.get("scenario")
    if scenario is None:
        return protocol.start_s
    return round(float(log.metadata.get("lead_in_s", 0.0)) + float(scenario["start_s"]), 1)


def rules_for(log: Log, protocol: Protocol) -> Protocol:
    """The protocol as it applies to this log: with its start."""
    return replace(protocol, start_s=start_s(log, protocol))


def with_lead_in(log: Log, seconds: float = LEAD_IN_S) -> Log:
    """A scenario's log with a past in which everybody came at the speed of its beginning; any other log as it is.

    In a scenario the expert reacts from the first step on, so there is no time in it at which nothing was decided yet.
    """
    from drive_wm.datasets.rendered import RenderedFrames

    if "scenario" not in log.metadata or "lead_in_s" in log.metadata:
        return log
    back = np.arange(round(seconds * 1e6) // STEP_US, 0, -1, dtype=np.int64) * STEP_US
    ego = Poses(np.concatenate([log.start_us - back, log.ego.timestamps_us]),
                np.concatenate([_before(log, back), log.ego.world_from_body]),
                np.concatenate([np.ones(len(back), bool), log.ego.valid]))
    signals = tuple(replace(s, timestamps_us=np.concatenate([[log.start_us - back[0]], s.timestamps_us[1:]]))
                    for s in log.signals)
    longer = replace(log, ego=ego, tracks=tuple(_track_before(t, log.start_us, back) for t in log.tracks),
                     signals=signals, metadata={**log.metadata, "lead_in_s": seconds})
    return replace(longer, frames=RenderedFrames(longer)) if log.frames.rendered else longer


def _before(log: Log, back_us: IntArray) -> FloatArray:
    """(K, 4, 4) of the ego, straight back at its first speed, on the height where it begins."""
    xyyaw = xyyaw_from_pose(log.ego.world_from_body[:2])
    speed = np.hypot(*(xyyaw[1] - xyyaw[0])[:2]) / (log.ego.timestamps_us[1] - log.ego.timestamps_us[0])  # m/us
    local = np.stack([-speed * back_us, 0.0 * back_us, 0.0 * back_us], -1)
    poses = pose_from_xyyaw(compose_xyyaw(xyyaw[0], local))
    poses[:, 2, 3] = log.ego.world_from_body[0, 2, 3]
    return poses


def _track_before(track: Track, start_us: int, back_us: IntArray) -> Track:
    """The track, straight back from its first two samples where it is there from the log's beginning."""
    if len(track.timestamps_us) < 2 or not track.valid[:2].all() or track.timestamps_us[0] > start_us + STEP_US // 2:
        return track
    n, first = len(back_us), track.position_m[0]
    velocity = (track.position_m[1] - first) / (track.timestamps_us[1] - track.timestamps_us[0])

    def held(values: Any) -> Any:
        return None if values is None else np.concatenate([np.repeat(values[:1], n, 0), values])

    return replace(track, timestamps_us=np.concatenate([track.timestamps_us[0] - back_us, track.timestamps_us]),
                   position_m=np.concatenate([first - velocity * back_us[:, None], track.position_m]),
                   yaw_rad=held(track.yaw_rad), valid=held(track.valid), velocity_mps=held(track.velocity_mps),
                   brake=held(track.brake), indicator=held(track.indicator), siren=held(track.siren))


def gate(log: Log, rules: Protocol, references: References, seed: int) -> list[str]:
    """Why a log is no NCAP scene: who does not react has to crash in it, and the expert who drove the log must not."""
    from drive_wm.eval.loop import simulate
    from drive_wm.eval.traffic import make_traffic
    from drive_wm.eval.vehicle import make_vehicle
    from drive_wm.planners.baselines import LogReplay

    if references.unreacting is None:
        return ["there is no drive of an unreacting ego"]
    expert = simulate(log, LogReplay(), None, vehicle=make_vehicle(rules.vehicle), seed=seed, start_s=rules.start_s,
                      duration_s=rules.duration_s, traffic=make_traffic(rules.traffic), replan_s=rules.replan_s,
                      tracking=rules.tracking)
    return ncap_gate(references.unreacting, expert)


__all__ = ["LEAD_IN_S", "gate", "rules_for", "start_s", "with_lead_in"]
