"""What is true at a moment of a log, in the terms that people ask in: the source of every answer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from drive_wm.datasets.clips import track_states
from drive_wm.datasets.language.reasons import by_intervention
from drive_wm.datasets.routes import route_of
from drive_wm.datasets.town.causes import Effect, Moment, causes_at, owner_id, replay_for, true_causes
from drive_wm.decisions import STANDING_MPS
from drive_wm.encoders.words import KIND_WORDS, color_name, side_of
from drive_wm.geometry import (
    interpolate_poses,
    project_to_polyline,
    relative_xyyaw,
    resample_polyline,
    wrap_angle,
    xyyaw_from_pose,
)
from drive_wm.render import Renderer, agents_at
from drive_wm.render_state import cached
from drive_wm.types import CATEGORIES, SIGNAL_STATES, Cause, Explanation, FloatArray, InputError, Log, RoadMap

RANGE_M = 50.0
LOOK_WIDTH, LEAST_PIXELS = 240, 5  # an agent is seen where it covers so many pixels of an image that wide
LANE_HALF_M, LIGHT_M, ROUTE_TURN_RAD = 1.6, 60.0, 0.6
LATER_S = 3.0
PLURALS = {"bus": "buses"}


@dataclass(frozen=True)
class Sight:
    """One agent from the ego. x_m, y_m: rig frame. along_m, aside_m: of the ego's route, ahead and left positive."""

    id: str
    category: str
    color: str
    x_m: float
    y_m: float
    heading_rad: float
    speed_mps: float
    along_m: float
    aside_m: float
    visible: bool

    @property
    def word(self) -> str:
        return KIND_WORDS[CATEGORIES.index(self.category)]

    @property
    def distance_m(self) -> float:
        return float(np.hypot(self.x_m, self.y_m))

    @property
    def where(self) -> str:
        """ "ahead", "on the left", "on the right" or "behind"."""
        return side_of(float(np.arctan2(self.y_m, self.x_m)))

    @property
    def moving(self) -> bool:
        return self.speed_mps >= STANDING_MPS

    @property
    def in_lane(self) -> bool:
        """On the ego's route, before it."""
        return 0.5 < self.along_m < RANGE_M and abs(self.aside_m) < LANE_HALF_M

    @property
    def oncoming(self) -> bool:
        return self.x_m > 0 and abs(float(wrap_angle(self.heading_rad))) > 2.4 and self.moving


class Facts:
    """Of a log at ``at_us``. What costs is computed when it is first asked for, and kept.

    Raises InputError where the log has no valid pose then.
    """

    def __init__(self, log: Log, at_us: int) -> None:
        self.log, self.at_us = log, int(at_us)
        self.pose = self._pose(self.at_us)
        if self.pose is None:
            raise InputError(f"log {log.id} has no valid pose {self.at_s:g} s after its start; nothing is known there")

    @property
    def at_s(self) -> float:
        return (self.at_us - self.log.start_us) / 1e6

    def _pose(self, at_us: int) -> FloatArray | None:
        pose, valid = interpolate_poses(self.log.ego, np.array([at_us]))
        return pose[0] if valid[0] else None

    # --- the ego ---

    def ego_after(self, seconds: float) -> FloatArray | None:
        """x, y, yaw in the rig frame of now, or None beyond the log."""
        later = self._pose(self.at_us + int(seconds * 1e6))
        if later is None or self.pose is None:
            return None
        return np.asarray(relative_xyyaw(xyyaw_from_pose(self.pose), xyyaw_from_pose(later)))

    def speed_after(self, seconds: float) -> float | None:
        """Over 0.2 s around that time."""
        late, early = self.ego_after(seconds + 0.1), self.ego_after(seconds - 0.1)
        if late is None or early is None:
            late, early = self.ego_after(seconds), self.ego_after(seconds - 0.2)
        if late is None or early is None:
            late, early = self.ego_after(seconds + 0.2), self.ego_after(seconds)
        return None if late is None or early is None else float(np.hypot(*(late - early)[:2]) / 0.2)

    @cached_property
    def route(self) -> FloatArray:
        route: FloatArray = cached("language route", self.log, lambda log: resample_polyline(route_of(log), 1.0))
        return route

    @cached_property
    def route_turn(self) -> str:
        """ "left", "right" or "straight": how the route's heading changes over the next 35 m."""
        assert self.pose is not None
        arc, _, _ = project_to_polyline(self.pose[None, :2, 3], self.route)
        ahead = self.route[int(arc[0]):int(arc[0]) + 36]
        steps = np.diff(ahead, axis=0)
        turn = float(wrap_angle(np.arctan2(*steps[-1][::-1]) - np.arctan2(*steps[0][::-1]))) if len(steps) > 1 else 0.0
        return "left" if turn > ROUTE_TURN_RAD else "right" if turn < -ROUTE_TURN_RAD else "straight"

    @cached_property
    def reason(self) -> Explanation | None:
        """What the log's driver decided, at most 0.26 s away."""
        near = min(self.log.reasons, key=lambda it: abs(it[0] - self.at_us), default=None)
        return near[1] if near is not None and abs(near[0] - self.at_us) <= 260_000 else None

    @cached_property
    def truth(self) -> Explanation | None:
        """``reason`` with the causes that interventions found; as it is where they are not known."""
        if self.reason is None or self.causes is None:
            return self.reason
        things: dict[str, Cause] = {}
        for sight in self.sights:  # the nearest part speaks for what has many
            things.setdefault(owner_id(sight.id), self._as_cause(sight))
        return by_intervention(self.reason, self.causes, things, self.light())

    def _as_cause(self, sight: Sight) -> Cause:
        lead = self.lead is not None and self.lead.id == sight.id
        kind = ("pedestrian" if sight.category == "pedestrian" else "obstacle" if sight.category == "object"
                else "lead vehicle" if lead or sight.in_lane else "give way")
        return Cause(kind, sight.id, sight.category, (sight.x_m, sight.y_m), visible=sight.visible)

    # --- others ---

    @cached_property
    def visible_ids(self) -> frozenset[str]:
        """Who covers at least LEAST_PIXELS of some camera; what hides them is drawn too."""
        log, boxes = self.log, agents_at(self.log, self.at_us)
        renderer = cached("language renderer", log, lambda one: Renderer(one.map or RoadMap("none"), one.look,
                                                                         one.signals))
        rig = log.rig.resized(LOOK_WIDTH, LOOK_WIDTH * log.rig.cameras[0].height // log.rig.cameras[0].width)
        seen: set[str] = set()
        for it in renderer.draw(rig, self.pose, boxes, {}, "instance").values():
            owners, pixels = np.unique(it[it >= 0], return_counts=True)
            seen |= {boxes.ids[i] for i, n in zip(owners, pixels) if n >= LEAST_PIXELS}
        return frozenset(seen)

    @cached_property
    def sights(self) -> tuple[Sight, ...]:
        """All agents within RANGE_M, the nearest first."""
        return self._sights(0.0)

    @cached_property
    def later(self) -> dict[str, Sight]:
        """id -> the same agents LATER_S from now, seen from where the ego is then; empty beyond the log."""
        return {s.id: s for s in self._sights(LATER_S, 2 * RANGE_M)} if self.ego_after(LATER_S) is not None else {}

    def _sights(self, seconds: float, range_m: float = RANGE_M) -> tuple[Sight, ...]:
        at_us = self.at_us + int(seconds * 1e6)
        pose, boxes = self._pose(at_us), agents_at(self.log, at_us)
        if pose is None or not len(boxes):
            return ()
        ego = xyyaw_from_pose(pose)
        local = relative_xyyaw(ego, boxes.xyzyaw[:, [0, 1, 3]])
        near = np.flatnonzero(np.hypot(local[:, 0], local[:, 1]) < range_m)
        own, _, _ = project_to_polyline(ego[None, :2], self.route)
        arc, aside, _ = project_to_polyline(boxes.xyzyaw[:, :2], self.route)
        speeds = {t.id: track_states(t, np.array([at_us]))[1][0] for t in self.log.tracks
                  if t.id in {boxes.ids[i] for i in near}}
        found = [Sight(boxes.ids[i], boxes.categories[i], color_name([int(v) for v in boxes.colors[i]]),
                       float(local[i, 0]), float(local[i, 1]), float(local[i, 2]),
                       float(np.hypot(*speeds[boxes.ids[i]])), float(arc[i] - own[0]), float(aside[i]),
                       seconds == 0.0 and boxes.ids[i] in self.visible_ids) for i in near]
        return tuple(sorted(found, key=lambda s: s.distance_m))

    @cached_property
    def seen(self) -> tuple[Sight, ...]:
        return tuple(s for s in self.sights if s.visible)

    def of(self, word: str) -> list[Sight]:
        """Those seen of a kind, the nearest first."""
        return [s for s in self.seen if s.word == word]

    @cached_property
    def lead(self) -> Sight | None:
        """The nearest vehicle or obstacle before the ego on its route, seen or not by a camera."""
        inside = [s for s in self.sights if s.in_lane and s.category != "pedestrian"]
        return min(inside, key=lambda s: s.along_m, default=None)

    def phrase(self, sight: Sight) -> str:
        """ "red car ahead", and "nearest red car ahead" where there are several."""
        alike = [s for s in self.seen if (s.color, s.word, s.where) == (sight.color, sight.word, sight.where)]
        return f"{'nearest ' if len(alike) > 1 else ''}{sight.color} {sight.word} {sight.where}"

    def nameable(self) -> list[Sight]:
        """Those seen that ``phrase`` tells apart from all others: of alike ones the nearest."""
        first: dict[tuple[str, str, str], Sight] = {}
        for sight in self.seen:
            first.setdefault((sight.color, sight.word, sight.where), sight)
        return list(first.values())

    # --- lights ---

    @cached_property
    def signal(self) -> str | None:
        """The id of the light that the ego drives to: the nearest stop line across its route, within LIGHT_M."""
        own, _, _ = project_to_polyline(np.asarray(self.pose)[None, :2, 3], self.route)
        best: tuple[float, str] | None = None
        for signal in self.log.signals:
            if signal.stop_line_m is None:
                continue
            line = np.asarray(signal.stop_line_m)[:, :2]
            arc, aside, heading = project_to_polyline(line.mean(0)[None], self.route)
            ends = project_to_polyline(line, self.route)[1]
            crosses = ends.min() - 0.5 < 0 < ends.max() + 0.5 and abs(aside[0]) < 8.0
            faces = np.cos(float(heading[0]) - signal.yaw_rad) < -0.5
            if crosses and faces and 0.0 < arc[0] - own[0] < LIGHT_M and (best is None or arc[0] < best[0]):
                best = (float(arc[0]), signal.id)
        return None if best is None else best[1]

    def light(self, seconds: float = 0.0) -> str | None:
        """ "green", "yellow", "red", ...: of ``signal``."""
        for signal in self.log.signals:
            if signal.id == self.signal:
                return SIGNAL_STATES[signal.state_at(self.at_us + int(seconds * 1e6))]
        return None

    # --- what depends on what ---

    @cached_property
    def causes(self) -> list[Effect] | None:
        """True causes by intervention: as stored with the log, otherwise found now; None outside the town."""
        if self.log.source != "town" or "rerun" in self.log.metadata or "seed" not in self.log.metadata:
            return None
        told = self.log.metadata.get("causes")
        if told is not None and abs(self.at_s / told["every_s"] - round(self.at_s / told["every_s"])) < 1e-3:
            return causes_at(self.log, self.at_s)
        return true_causes(replay_for(self.log), self.at_s)

    @cached_property
    def moment(self) -> Moment | None:
        """To try what would be; None outside the town."""
        return None if self.causes is None else Moment(replay_for(self.log), self.at_s)

    @property
    def cause_ids(self) -> set[str]:
        return {name for effect in self.causes or [] for name in effect.ids}
