"""Planning by imagination: candidates are rolled out in the world model, judged, refined, and the best is driven."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from drive_wm.encoders.actions import MAX_CURVATURE_INV_M, MAX_SPEED_MPS
from drive_wm.eval.metrics import STEP_S
from drive_wm.eval.metrics.progress import relative_progress
from drive_wm.geometry import (
    actions_from_xyyaw,
    compose_xyyaw,
    integrate_actions,
    project_to_polyline,
    relative_xyyaw,
    resample_polyline,
    xyyaw_from_pose,
)
from drive_wm.planners.base import POINT_S, TIMES_S, Planner
from drive_wm.planners.direct import route_points
from drive_wm.planners.futures import MODES, plan_likelihood, roll_out, sample_plans
from drive_wm.planners.idm import IdmPlanner, path_points
from drive_wm.planners.proposals import (
    FORECAST,
    STATES,
    Judge,
    Judged,
    at_10_hz,
    constant_velocity,
    judge,
    seen_agents,
    side_by_side,
    to_world,
)
from drive_wm.scene import clip_of
from drive_wm.types import BoolArray, Clip, FloatArray, InputError, IntArray, Log, Observation, Plan, Trajectory
from drive_wm.world.decode import Stream
from drive_wm.world.inputs import route_vector

SEARCHES = ("none", "cem", "mppi")
FRACTIONS = (1.0, 0.75, 0.5, 0.25, 0.0)  # of the speed limit, each reached gently
OFFSETS_M, BENDS_INV_M = (0.0, -1.0, 1.0), (0.0, -0.02, 0.02)  # beside the route; without one, of the way on
GENTLE_ACCEL_MPS2, GENTLE_DECEL_MPS2, HARD_DECEL_MPS2 = 1.5, 2.5, 4.0
LEAST_SPEED_MPS = 4.0  # that a lattice reaches for where no limit is known
OFF_ROUTE_M = 2.0  # mean distance from the route at which a candidate without a map is worth 1 / e
PROGRESS_SHARE = 5 / 12  # of the PDM score
KNOTS_S = np.array([0.0, 2.0, 4.0])  # noise is drawn there and interpolated: a driver's changes are smooth


@dataclass(frozen=True)
class Search:
    """How candidates are refined: kind "cem", "mppi" or "none"; rounds of ``count`` samples.

    elite: the share that CEM fits. heat: of MPPI's weights, in score. noise: m/s and 1/m of the first round.
    """

    kind: str = "cem"
    rounds: int = 2
    count: int = 16
    elite: float = 0.25
    heat: float = 0.05
    noise: tuple[float, float] = (1.0, 0.008)

    def __post_init__(self) -> None:
        if self.kind not in SEARCHES or self.rounds < 0 or self.count < 2:
            raise InputError(f"search {self.kind!r} of {self.rounds} rounds of {self.count}: expected one of "
                             f"{', '.join(SEARCHES)}, 0 rounds or more, 2 samples or more")


class ImaginePlanner(Planner):
    """The model's own plans and a lattice around the route, each with the agents that the model imagines around it.

    mode: how futures are imagined, "state" (agents alone), "token" (frames as tokens, never drawn), "pixel" (and
    drawn). search: "cem", "mppi" or "none", ``rounds`` of ``count``. samples: of the model's plans. likelihood: what a
    nat a token of the model's own opinion is worth, in score (with a map, ten times that without). A candidate is worth
    its PDM score among its own agents, nothing where it runs a red light; without a map also what it keeps to the
    route. cameras: which it looks through, "all" or "front" (by default where frames are generated: it is what they
    cost). The same seed and observation give the same plan.
    """

    name = "imagine"
    requires = frozenset({"frames", "agents", "route", "map", "signals"})

    def __init__(self, checkpoint: str = "tiny", mode: str = "state", search: str = "cem", rounds: int = 2,
                 count: int = 16, samples: int = 8, temperature: float = 1.0, likelihood: float = 0.01,
                 cameras: str = "", vehicle: str = "pacifica", explain: bool = False) -> None:
        from drive_wm.model import DriveWM

        if mode not in MODES:
            raise InputError(f"mode {mode!r}, expected one of {', '.join(MODES)}")
        self.cameras = cameras or ("all" if mode == "state" else "front")
        if self.cameras not in ("all", "front"):
            raise InputError(f"cameras {cameras!r}, expected all or front")
        self.model, self.mode, self.search = DriveWM.from_pretrained(checkpoint), mode, Search(search, rounds, count)
        self.samples, self.temperature, self.likelihood, self.explain = samples, temperature, likelihood, explain
        self.judge, self.seed = Judge(vehicle), 0
        self.history_steps, self.rate_hz = self.model.config.context, self.model.config.rate_hz

    def reset(self, seed: int, log: Log | None = None) -> None:
        self.seed = seed

    def plan(self, observation: Observation) -> Plan:
        moment = Moment.of(self, observation)
        rng = np.random.default_rng([self.seed, int(observation.timestamps_us[-1]) % 2**32])
        tried = self._tried(moment, np.concatenate([moment.own, lattice(moment)]))
        for i in range(self.search.rounds if self.search.kind != "none" else 0):
            tried = tried.and_(self._tried(moment, refined(self.search, tried.actions, tried.worth, i, rng)))
        actions, worth = tried.actions, tried.worth
        best = int(np.argmax(np.round(worth, 9)))
        paths = integrate_actions(np.zeros((len(actions), 3)), actions, POINT_S)
        candidates = tuple(Trajectory(TIMES_S.copy(), path) for path in paths)
        chosen = Plan(candidates[best], candidates, 1.0 - worth, actions=actions[best])
        if not self.explain:
            return chosen
        said = self.model.explain(moment.clip, route=moment.route, plan=chosen, stream=moment.stream)
        return replace(chosen, explanation=said)

    def _tried(self, moment: Moment, actions: FloatArray) -> Tried:
        judged = self.judged(moment, actions)
        fits = (~moment.runs_red(judged.xyyaw)).astype(float)
        opinion, said = self.likelihood, np.zeros(len(actions))
        if moment.observation.map is None:
            fits, opinion = fits * np.exp(-moment.off_line_m(actions) / OFF_ROUTE_M), 10 * opinion
        if opinion:
            said = plan_likelihood(self.model, moment.stream, moment.route_features, actions)
        scores = judged.scores
        besides = judged.rank - PROGRESS_SHARE * scores["multiplier"] * scores["ego_progress"]
        return Tried(actions, scores["progress_m"], scores["multiplier"], fits,
                     fits * besides + opinion * np.clip(said, -10.0, 0.0))

    def judged(self, moment: Moment, actions: FloatArray) -> Judged:
        """PDM scores of candidates (B, 8, 2), each among the agents of its own future."""
        observation = moment.observation
        start = np.zeros((len(actions), 1, 3))
        poses = np.concatenate([start, integrate_actions(start[:, 0], actions, POINT_S)], 1)  # (B, 9, 3)
        agents = moment.imagined(self, poses, actions)
        scene = self.judge.world(observation, agents[0], moment.every_agent, moment.line)
        egos = scene.with_egos(*self.judge.drives(observation, at_10_hz(poses, POINT_S, STATES + 10)))
        return judge(side_by_side(egos, agents))


@dataclass(frozen=True)
class Tried:
    """Candidates (B, 8, 2) and what they were found to be, (B,) each.

    Progress counts relative to the best of all that were tried, so it is put in last: besides is all other worth.
    """

    actions: FloatArray
    progress_m: FloatArray
    multiplier: FloatArray
    fits: FloatArray
    besides: FloatArray

    @property
    def worth(self) -> FloatArray:
        """(B,) more is better."""
        progress = relative_progress(self.progress_m, self.multiplier)
        return self.besides + self.fits * PROGRESS_SHARE * self.multiplier * progress

    def and_(self, other: Tried) -> Tried:
        return Tried(*(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))


@dataclass(frozen=True)
class Moment:
    """What is known of now. own: the model's plans (K, 8, 2), the likeliest first. line: (N, 2) the way to go.

    slots: which of the model's agents are there. others: (M, 12) agents that the model has no slot for.
    reds: arcs along the line before which the front must stop.
    """

    observation: Observation
    clip: Clip
    stream: Stream
    route: FloatArray | None
    route_features: torch.Tensor
    own: FloatArray
    line: FloatArray
    others: FloatArray
    reds: FloatArray
    limit_mps: float
    front_m: float

    @classmethod
    def of(cls, planner: ImaginePlanner, observation: Observation) -> Moment:
        model = planner.model
        observation = observation if planner.cameras == "all" else front_only(observation)
        clip = clip_of(observation, model.rig_for(observation.rig), planner.rate_hz, model.config.world.agents)
        stream, route = model.read(clip), route_points(observation)
        features = torch.from_numpy(route_vector(route, last_speed(clip))).to(model.device)[None]
        greedy, _ = sample_plans(model, stream, features, 1, temperature=0.0)
        drawn, _ = sample_plans(model, stream, features, max(planner.samples, 1), temperature=planner.temperature,
                                seed=planner.seed)
        line = way_to_go(observation, greedy[0])
        vehicle = planner.judge.vehicle_of(observation)
        idm = IdmPlanner(vehicle.rear_axle_to_front_m, vehicle.width_m)
        reds = np.array([light.arc_m for light in idm.red_lights(observation, line)])
        named = {name for name, valid in zip(clip.agent_ids, clip.agents_valid[-1]) if valid}
        others = [i for i, name in enumerate(observation.agent_ids) if name not in named]
        rest = observation
        if observation.agents is not None and observation.agents_valid is not None:
            rest = replace(observation, agents=observation.agents[:, others],
                           agents_valid=observation.agents_valid[:, others])
        known = observation.map is not None
        limit = idm.desired_speed(observation) if known else max(LEAST_SPEED_MPS, observation.speed_mps)
        return cls(observation, clip, stream, route, features, np.concatenate([greedy, drawn[:planner.samples]]), line,
                   seen_agents(rest), reds, limit, vehicle.rear_axle_to_front_m)

    @property
    def slots(self) -> IntArray:
        """(A,) of the model's agents, those that are there."""
        return np.flatnonzero(self.clip.agents_valid[-1])

    @property
    def every_agent(self) -> FloatArray:
        """(A + M, 12) rig frame of now: the model's, then the others."""
        return np.concatenate([self.clip.agents[-1, self.slots], self.others])

    def imagined(self, planner: ImaginePlanner, poses: FloatArray, actions: FloatArray) -> FloatArray:
        """(B, T, A + M, 3) in the world at 10 Hz. poses: (B, 9, 3) of the futures; others go on as they do."""
        future = roll_out(planner.model, self.stream, actions, mode=planner.mode, seed=planner.seed)
        now = np.repeat(self.clip.agents[None, None, -1, self.slots, :3], len(actions), 0)
        local = compose_xyyaw(poses[:, 1:, None], future.agents[:, :, self.slots, :3])
        fine = at_10_hz(np.concatenate([now, local], 1).swapaxes(1, 2), POINT_S, FORECAST).swapaxes(1, 2)
        others = constant_velocity(self.others, np.arange(FORECAST) * STEP_S)
        return to_world(self.observation, np.concatenate([fine, np.repeat(others[None], len(actions), 0)], 2))

    def runs_red(self, xyyaw: FloatArray) -> BoolArray:
        """(B,) whether the front of drives (B, S, 3) in the world passes a stop line that shows red."""
        if not len(self.reds):
            return np.zeros(len(xyyaw), dtype=bool)
        here = xyyaw_from_pose(self.observation.world_from_rig)
        ends = relative_xyyaw(here, xyyaw[:, -1])[:, :2]
        arcs, _, _ = project_to_polyline(np.concatenate([np.zeros((1, 2)), ends]), self.line)
        front = arcs + self.front_m
        passed: BoolArray = ((front[1:, None] > self.reds) & (front[0] <= self.reds + 1.0)).any(1)
        return passed

    def off_line_m(self, actions: FloatArray) -> FloatArray:
        """(B,) mean distance from the way to go."""
        xy = integrate_actions(np.zeros((len(actions), 3)), actions, POINT_S)[..., :2]
        _, offset, _ = project_to_polyline(xy.reshape(-1, 2), self.line)
        mean: FloatArray = np.abs(offset).reshape(xy.shape[:2]).mean(1)
        return mean


def front_only(observation: Observation) -> Observation:
    """As seen through the camera that looks most forward."""
    rig = observation.rig
    best = max(range(len(rig.cameras)), key=lambda i: float(rig.cameras[i].rig_from_camera[0, 2]))
    if observation.frames is None or observation.frames_valid is None:
        return observation
    name = rig.names[best]
    return replace(observation, rig=rig.subset([name]), frames={name: observation.frames[name]},
                   frames_valid=observation.frames_valid[:, best:best + 1])


def last_speed(clip: Clip) -> float:
    """As the model was taught to read it: of the action that led to now."""
    return float(clip.actions[-1, 0]) if len(clip.actions) and clip.actions_valid[-1] else 0.0


def way_to_go(observation: Observation, greedy: FloatArray) -> FloatArray:
    """(N, 2) every metre: the route, else where the model's likeliest plan leads and on."""
    if observation.route is not None and len(observation.route) > 1:
        return resample_polyline(np.asarray(observation.route, dtype=np.float64), 1.0)
    poses = integrate_actions(np.zeros(3), np.maximum(greedy, [0.5, -np.inf]), POINT_S)
    end = poses[-1]
    on = end[:2] + 60.0 * np.array([np.cos(end[2]), np.sin(end[2])])
    return resample_polyline(np.concatenate([np.zeros((1, 2)), poses[:, :2], on[None]]), 1.0)


# --- candidates ---------------------------------------------------------------------------------------------------


def lattice(moment: Moment) -> FloatArray:
    """(15 + 1, 8, 2): five speeds x three ways beside the route (or three bends), and a hard stop on it."""
    speed = max(moment.observation.speed_mps, 0.0)
    speeds = np.stack([*(ramp(speed, f * moment.limit_mps) for f in FRACTIONS),
                       ramp(speed, 0.0, decel_mps2=HARD_DECEL_MPS2)])  # (F, 8)
    if moment.route is None:
        bends = np.full((len(speeds), len(BENDS_INV_M), len(TIMES_S)), 0.0) + np.array(BENDS_INV_M)[:, None]
        ways = np.stack([np.repeat(speeds[:, None], len(BENDS_INV_M), 1), bends], -1)
    else:
        start, offset, heading = (float(v[0]) for v in project_to_polyline(np.zeros((1, 2)), moment.line))
        arcs = start + np.concatenate([np.zeros((len(speeds), 1)), np.cumsum(speeds * POINT_S, 1)], 1)
        poses = path_points(moment.line, arcs[:, None], start, offset, -heading, max(8.0, 1.5 * speed),
                            np.array(OFFSETS_M)[:, None])  # (F, O, 9, 3)
        times = np.concatenate([[0.0], TIMES_S])
        ways = np.stack([np.stack([actions_from_xyyaw(path, times) for path in row]) for row in poses])
    return possible(np.concatenate([ways[:-1].reshape(-1, len(TIMES_S), 2), ways[-1, :1]]))


def ramp(speed_mps: float, wanted_mps: float, accel_mps2: float = GENTLE_ACCEL_MPS2,
         decel_mps2: float = GENTLE_DECEL_MPS2) -> FloatArray:
    """Mean speeds (8,) of steps of 0.5 s on the way from one speed to another."""
    at = np.concatenate([[0.0], TIMES_S])
    ends = np.clip(wanted_mps, speed_mps - decel_mps2 * at, speed_mps + accel_mps2 * at)
    mean: FloatArray = (ends[1:] + ends[:-1]) / 2
    return mean


def possible(actions: FloatArray) -> FloatArray:
    """What the model's bins can say."""
    return np.clip(actions, [0.0, -MAX_CURVATURE_INV_M], [MAX_SPEED_MPS, MAX_CURVATURE_INV_M])


def refined(search: Search, actions: FloatArray, worth: FloatArray, done: int, rng: np.random.Generator) -> FloatArray:
    """The next round's candidates (count, 8, 2) after ``done``, from all (B, 8, 2) so far and what they are worth.

    The first is the mean itself; noise halves every round.
    """
    least = np.array(search.noise) / 2**done
    if search.kind == "cem":
        elite = actions[np.argsort(-worth, kind="stable")[: max(2, round(search.elite * search.count))]]
        mean, spread = elite.mean(0), np.clip(elite.std(0), least / 2, 2 * least)
    else:
        weight = np.exp((worth - worth.max()) / search.heat)
        mean, spread = np.tensordot(weight / weight.sum(), actions, 1), np.broadcast_to(least, actions.shape[1:])
    drawn = rng.normal(size=(search.count - 1, len(KNOTS_S), 2))
    noise = np.stack([[np.interp(TIMES_S, KNOTS_S, knots) for knots in one.T] for one in drawn]).swapaxes(1, 2)
    return possible(np.concatenate([mean[None], mean + noise * spread]))


