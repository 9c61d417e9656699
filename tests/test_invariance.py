"""What no metric may depend on, and what no planner may gain by: checked on simulated drives and on random scenes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from drive_wm.datasets.sources import open_source
from drive_wm.datasets.town import generate
from drive_wm.eval import metrics as m
from drive_wm.eval.evaluate import aggregate
from drive_wm.eval.loop import simulate
from drive_wm.eval.metrics import History, References, Scene
from drive_wm.eval.protocols import PROTOCOLS, Protocol, score_rollout
from drive_wm.eval.references import logged_history, references_for
from drive_wm.eval.vehicle import make_vehicle
from drive_wm.geometry import box_corners
from drive_wm.planners.registry import PLANNERS as PLANNERS_KNOWN
from drive_wm.planners.registry import make_planner
from drive_wm.types import FloatArray, Lane, Log, RoadMap, Rollout, Score, Signal

CLOSED = [p for p in PROTOCOLS.values() if p.tracking != "log"]
PLANNERS = ("log_replay", "idm", "constant_velocity", "stationary")


def driven(log: Log, planner: str, protocol: Protocol = PROTOCOLS["drive@1.0"], duration_s: float = 4.0) -> Rollout:
    return simulate(log, make_planner(planner), None, vehicle=make_vehicle(protocol.vehicle), start_s=2.0,
                    duration_s=duration_s, replan_s=protocol.replan_s)


@pytest.fixture(scope="module")
def town() -> Log:
    return generate(7, duration_s=12.0)


@pytest.fixture(scope="module")
def drives(town: Log) -> dict[str, Rollout]:
    return {name: driven(town, name, PROTOCOLS["epdms@2.2"], 6.0) for name in PLANNERS}


def references(drives: dict[str, Rollout], log: Log | None = None) -> References:
    past = logged_history(log, log.start_us + 2_000_000, 1.5) if log is not None else None
    return References(pdm=drives["log_replay"], human=drives["log_replay"], unreacting=drives["constant_velocity"],
                      history=past)


def all_scores(rollout: Rollout, given: References) -> dict[str, Score]:
    return {f"{p.id} {name}": s for p in PROTOCOLS.values() for name, s in score_rollout(rollout, p, given).items()}


def assert_same(a: dict[str, Score], b: dict[str, Score]) -> None:
    for name, score in a.items():
        assert score.valid == b[name].valid, name
        if score.valid:
            assert score.value == pytest.approx(b[name].value, abs=1e-6), name


# --- rigid motion of the whole scene, order of agents -------------------------------------------------------------


class Move:
    """A turn about the origin, then a shift."""

    def __init__(self, angle_rad: float, shift: tuple[float, float]) -> None:
        c, s = np.cos(angle_rad), np.sin(angle_rad)
        self.angle, self.turn, self.shift = angle_rad, np.array([[c, s], [-s, c]]), np.array(shift)

    def poses(self, xyyaw: FloatArray) -> FloatArray:
        return np.concatenate([xyyaw[..., :2] @ self.turn + self.shift, xyyaw[..., 2:] + self.angle], -1)

    def points(self, points: FloatArray) -> FloatArray:
        return np.concatenate([points[..., :2] @ self.turn + self.shift, points[..., 2:]], -1)

    def lane(self, lane: Lane) -> Lane:
        return replace(lane, centerline_m=self.points(lane.centerline_m), left_m=self.points(lane.left_m),
                       right_m=self.points(lane.right_m))

    def map(self, road: RoadMap) -> RoadMap:
        drivable, crossings, carparks = (tuple(map(self.points, areas)) for areas in
                                         (road.drivable, road.intersections, road.carparks))
        return replace(road, lanes={k: self.lane(v) for k, v in road.lanes.items()}, drivable=drivable,
                       intersections=crossings, carparks=carparks)

    def signal(self, signal: Signal) -> Signal:
        return replace(signal, position_m=self.points(signal.position_m))

    def rollout(self, r: Rollout) -> Rollout:
        assert r.map is not None
        return replace(r, ego_xyyaw=self.poses(r.ego_xyyaw), logged_xyyaw=self.poses(r.logged_xyyaw),
                       agents_xyyaw=self.poses(r.agents_xyyaw), map=self.map(r.map),
                       signals=tuple(map(self.signal, r.signals)))

    def references(self, given: References) -> References:
        past = given.history
        assert past is not None and given.pdm and given.human and given.unreacting
        return References(self.rollout(given.pdm), self.rollout(given.human), self.rollout(given.unreacting), None,
                          History(self.poses(past.xyyaw), past.speed_mps, past.accel_mps2))


@pytest.mark.parametrize("planner", PLANNERS)
def test_a_rigid_motion_of_the_whole_scene_changes_nothing(planner: str, drives: dict[str, Rollout], town: Log) -> None:
    given, move = references(drives, town), Move(2.3, (413.0, -87.0))
    assert_same(all_scores(drives[planner], given), all_scores(move.rollout(drives[planner]), move.references(given)))


def test_the_order_of_agents_changes_nothing(drives: dict[str, Rollout]) -> None:
    r = drives["constant_velocity"]
    order = np.random.default_rng(0).permutation(len(r.agent_ids))
    mixed = replace(r, agents_xyyaw=r.agents_xyyaw[:, order], agents_valid=r.agents_valid[:, order],
                    agents_lwh_m=r.agents_lwh_m[order], agent_ids=tuple(r.agent_ids[i] for i in order),
                    agent_categories=tuple(r.agent_categories[i] for i in order))
    assert_same(all_scores(r, references(drives)), all_scores(mixed, references(drives)))


# --- nothing is gained by stopping early, standing or failing -----------------------------------------------------


def cut(r: Rollout, steps: int) -> Rollout:
    names = ("timestamps_us", "ego_xyyaw", "ego_speed_mps", "ego_accel_mps2", "ego_steer_rad", "logged_xyyaw",
             "logged_valid", "agents_xyyaw", "agents_valid", "render_valid", "plans")
    return replace(r, **{name: getattr(r, name)[:steps] for name in names})


def test_a_shortened_drive_never_scores_higher(drives: dict[str, Rollout], town: Log) -> None:
    given = references(drives, town)
    rng = np.random.default_rng(1)
    for r in (drives["idm"], drives["constant_velocity"]):
        for protocol in PROTOCOLS.values():
            short = cut(r, int(rng.integers(12, len(r.timestamps_us))))
            whole, part = (score_rollout(x, protocol, given) for x in (r, short))
            sign = 1.0 if protocol.best == "max" else -1.0
            for name in (*protocol.factors, *(n for n, _ in protocol.weights), "total"):
                assert part[name].valid, (protocol.id, name)
                if whole[name].valid:
                    assert sign * part[name].value <= sign * whole[name].value, (protocol.id, name)


def test_standing_is_never_better_than_what_the_human_did(drives: dict[str, Rollout], town: Log) -> None:
    given = references(drives, town)
    for protocol in CLOSED:
        stood, human = (score_rollout(drives[n], protocol, given)["total"] for n in ("stationary", "log_replay"))
        assert stood.valid == human.valid and (not human.valid or stood.value <= human.value), protocol.id
    assert score_rollout(drives["stationary"], PROTOCOLS["drive@1.0"])["total"].value == 0.0


@pytest.mark.parametrize("kind", ["town", "argoverse2"])
def test_the_human_scores_near_the_maximum(kind: str, town: Log, request: pytest.FixtureRequest) -> None:
    logs = [town]
    if kind == "argoverse2":
        root: Path = request.getfixturevalue("shared_data") / "argoverse2"
        logs = [s.load(s.log_ids()[0]) for s in (open_source(f"argoverse2:{p}") for p in root.iterdir() if p.is_dir())]
    for log in logs:
        for protocol in CLOSED:
            human = driven(log, "log_replay", protocol, min(protocol.duration_s, 5.0))
            given = replace(references_for(log, protocol, 0), pdm=human)
            total = score_rollout(human, protocol, given)["total"]
            best = 5.0 if protocol.name == "ncap" else 1.0
            assert total.value > 0.95 * best if total.valid else protocol.name == "ncap", (log.id, protocol.id)


def test_how_often_the_log_is_asked_for_its_future_changes_nothing(town: Log) -> None:
    protocol = PROTOCOLS["drive@1.0"]
    often, rarely = (simulate(town, make_planner("log_replay"), None, vehicle=make_vehicle("zoe"), duration_s=4.0,
                              replan_s=replan_s, tracking="perfect") for replan_s in (0.5, 2.0))
    assert_same(score_rollout(often, protocol), score_rollout(rarely, protocol))
    assert score_rollout(often, protocol)["progress"].value == pytest.approx(1.0, abs=1e-3)


# --- batches ------------------------------------------------------------------------------------------------------


def test_a_batch_of_egos_scores_as_each_alone_in_any_order(drives: dict[str, Rollout]) -> None:
    scene = Scene.of(drives["idm"])
    egos = [Scene.of(r) for r in drives.values()]
    stacked = [np.stack([getattr(e, name) for e in egos]) for name in ("xyyaw", "speed_mps", "accel_mps2")]
    batch = m.pdm_scores(scene.with_egos(*stacked))
    protocol = PROTOCOLS["pdms@1.1"]
    for i, r in enumerate(drives.values()):
        one = score_rollout(r, protocol, References(pdm=r))
        assert batch["time_to_collision"][i] == one["time_to_collision"].value
        assert batch["comfort"][i] == one["comfort"].value
        assert batch["multiplier"][i] == one["no_at_fault_collision"].value * one["on_road"].value
    order = np.array([2, 0, 3, 1])
    mixed = m.pdm_scores(scene.with_egos(*(a[order] for a in stacked)))
    for name, values in batch.items():
        np.testing.assert_allclose(mixed[name], values[order])


def test_a_planners_forecasts_are_a_world_to_score_candidates_in(drives: dict[str, Rollout]) -> None:
    vehicle = drives["idm"].vehicle
    line = np.stack([np.linspace(0, 100, 51), np.zeros(51)], -1)
    lead = np.stack([20.0 + np.arange(51) * 0.5, np.zeros(51), np.zeros(51)], -1)[:, None]  # 5 m/s, rear at 18
    world = Scene.world(vehicle, lead, np.array([[4.0, 2.0, 1.5]]), ("car",), None, line)
    t = np.arange(41) * 0.1
    speeds = np.array([0.0, 5.0, 10.0])
    xyyaw = np.stack([speeds[:, None] * t, np.zeros((3, 41)), np.zeros((3, 41))], -1)
    found = m.pdm_scores(world.with_egos(xyyaw, np.repeat(speeds[:, None], 41, 1), np.zeros((3, 41))))
    assert found["multiplier"].tolist() == [1.0, 1.0, 0.0]  # 18 - 3.4 m are made up in 2.9 s
    assert found["ego_progress"].tolist() == pytest.approx([0.0, 1.0, 0.0])
    assert found["total"].tolist() == pytest.approx([7 / 12, 1.0, 0.0])


def test_two_leading_axes_work_as_one(drives: dict[str, Rollout]) -> None:
    egos = [Scene.of(r) for r in drives.values()]
    stacked = [np.stack([getattr(e, name) for e in egos]) for name in ("xyyaw", "speed_mps", "accel_mps2")]
    flat = egos[0].with_egos(*stacked)
    square = egos[0].with_egos(*(a.reshape(2, 2, *a.shape[1:]) for a in stacked))
    for name in ("touching", "on_road", "in_several_lanes", "bearings", "corners"):
        np.testing.assert_array_equal(getattr(square, name).reshape(getattr(flat, name).shape), getattr(flat, name))


# --- what drives are compared with ---------------------------------------------------------------------------------


def test_references_are_driven_in_the_same_scene_or_absent(town: Log) -> None:
    given = references_for(town, PROTOCOLS["epdms@2.2"], 0)
    assert given.human is not None and given.human.planner == "log_replay" and given.unreacting is None
    assert (given.pdm is None) == ("pdm_closed" not in PLANNERS_KNOWN)
    past, start = given.history, given.human.ego_xyyaw[0]
    assert past is not None and past.xyyaw.shape == (15, 3)
    assert np.hypot(*(past.xyyaw[-1, :2] - start[:2])) == pytest.approx(given.human.ego_speed_mps[0] * 0.1, abs=0.03)
    moved = np.hypot(*np.diff(past.xyyaw[:, :2], axis=0).T) / 0.1
    np.testing.assert_allclose((past.speed_mps[1:] + past.speed_mps[:-1]) / 2, moved, atol=0.05)
    assert logged_history(town, town.start_us + 500_000, 1.5) is None  # the log does not begin so early


# --- geometry on random scenes ------------------------------------------------------------------------------------


def test_overlap_agrees_with_shapely() -> None:
    shapely = pytest.importorskip("shapely")
    rng = np.random.default_rng(2)
    poses = np.concatenate([rng.uniform(-6, 6, (30, 20, 2)), rng.uniform(-4, 4, (30, 20, 1))], -1)
    boxes = box_corners(poses, rng.uniform(1, 6, (30, 20)), rng.uniform(1, 3, (30, 20)))
    found = m.overlaps(boxes[:, 0], boxes, np.ones((30, 20), bool))
    polygons = shapely.polygons(boxes)
    theirs = shapely.area(shapely.intersection(np.repeat(polygons[:, :1], 20, 1), polygons)) > 1e-9
    np.testing.assert_array_equal(found, theirs)
    assert 100 < found.sum() < 500


def test_points_in_polygons_agree_with_one_at_a_time() -> None:
    rng = np.random.default_rng(3)
    shapes = [rng.uniform(-10, 10, 2) + rng.uniform(1, 5) * np.stack([np.cos(a), np.sin(a)], -1)
              for a in (np.linspace(0, 2 * np.pi, n, endpoint=False) for n in (3, 4, 7, 12))]
    points = rng.uniform(-12, 12, (5, 40, 2))
    polygons = m.Polygons(shapes)
    np.testing.assert_array_equal(polygons.hold(points).any(-1), polygons.any(points))
    np.testing.assert_array_equal(polygons.hold(points)[..., 1], m.inside_any(points, shapes[1:2]))


def random_scene(seed: int) -> Scene:
    """An ego that wanders over two lanes and an intersection, among 14 agents that go straight, some standing."""
    rng, steps, agents = np.random.default_rng(seed), 41, 14
    t = np.arange(steps) * 0.1
    speed = np.maximum(rng.uniform(0, 9) + rng.uniform(-3, 2) * t, 0.0)
    yaw = rng.uniform(-0.3, 0.3) + rng.uniform(-0.15, 0.15) * t
    way = np.stack([np.cos(yaw), np.sin(yaw)], -1) * speed[:, None] * 0.1
    ego = np.concatenate([np.cumsum(way, 0) - way + [0.0, rng.uniform(-3, 3)], yaw[:, None]], 1)
    course, pace = rng.uniform(-np.pi, np.pi, agents), rng.uniform(0, 6, agents) * (rng.random(agents) < 0.7)
    start = np.stack([rng.uniform(-15, 35, agents), rng.uniform(-12, 12, agents)], -1)
    xy = start + np.stack([np.cos(course), np.sin(course)], -1) * (pace * t[:, None])[..., None]
    line = {y: np.array([[-30.0, y, 0], [60.0, y, 0]]) for y in (-4, -2, 0, 2, 4)}
    lanes = {"r": Lane("r", line[-2], line[0], line[-4]), "l": Lane("l", line[2], line[4], line[0])}
    areas = [np.array([[a, -4.5, 0], [b, -4.5, 0], [b, 4.5, 0], [a, 4.5, 0]]) for a, b in ((-30, 60), (12, 18))]
    box = np.stack([rng.uniform(1, 6, agents), rng.uniform(0.6, 2.5, agents), np.ones(agents)], -1)
    return Scene(ego, speed, np.gradient(speed, 0.1), make_vehicle("pacifica"), np.arange(steps) * 100_000,
                 np.concatenate([xy, np.broadcast_to(course[:, None], (steps, agents, 1))], -1),
                 rng.random((steps, agents)) < 0.95, box, tuple(map(str, range(agents))),
                 tuple(rng.choice(["car", "pedestrian", "object"], agents)), ego, np.ones(steps, bool),
                 m.Road(RoadMap("m", lanes, tuple(areas[:1]), tuple(areas[1:]))))


def slow_scores(scene: Scene) -> tuple[float, float]:
    """NC and TTC of PDMS as one would write them down first: loops, sets and shapely."""
    shapely = pytest.importorskip("shapely")
    boxes, egos = shapely.polygons(scene.boxes), shapely.polygons(scene.corners)
    met = {a for a in range(14) if scene.agents_valid[0, a] and egos[0].intersection(boxes[0, a]).area > 1e-9}
    removed, passed, worth, safe = set(met), set(met), 1.0, 1.0

    def bearing(step: int, agent: int, at: int) -> float:
        x, y = scene.agents_xyyaw[at, agent, :2] - scene.xyyaw[step, :2]
        return abs((np.arctan2(y, x) - scene.xyyaw[step, 2] + np.pi) % (2 * np.pi) - np.pi)

    for s in range(41):
        road = shapely.box(-30, -4.5, 60, 4.5)
        lanes = [shapely.box(-30, low, 60, low + 4) for low in (-4, 0)]
        held = [[lane.covers(shapely.Point(corner)) for corner in scene.corners[s]] for lane in lanes]
        loose = (not road.covers(egos[s])) or (all(map(any, held)) and not any(map(all, held)))
        for a in range(14):
            if a in removed or not scene.agents_valid[s, a] or egos[s].intersection(boxes[s, a]).area < 1e-9:
                continue
            front = shapely.LineString(scene.corners[s][[0, 3]])
            if scene.speed_mps[s] <= 0.05:
                fault = False
            elif scene.agent_speeds[s, a] <= 0.05:
                fault = True
            elif bearing(s, a, s) > np.deg2rad(150):
                fault = False
            else:
                fault = front.intersects(boxes[s, a]) or loose
            if fault:
                worth = min(worth, 0.5 if scene.agent_categories[a] == "object" else 0.0)
            else:
                removed.add(a)
        within = shapely.box(12, -4.5, 18, 4.5).covers(shapely.Point(scene.xyyaw[s, :2]))
        for k in (0, 3, 6, 9):
            go = scene.speed_mps[s] * k * 0.1
            ego = shapely.affinity.translate(egos[s], go * np.cos(scene.xyyaw[s, 2]), go * np.sin(scene.xyyaw[s, 2]))
            for a in range(14) if s + k < 41 and scene.speed_mps[s] >= 0.005 else ():
                if a in passed or not scene.agents_valid[s + k, a] or ego.intersection(boxes[s + k, a]).area < 1e-9:
                    continue
                off = bearing(s, a, s + k)
                if off < np.deg2rad(30) or ((loose or within) and off <= np.deg2rad(150)):
                    safe = 0.0
                else:
                    passed.add(a)
    return worth, safe


def test_collisions_and_ttc_agree_with_slow_loops() -> None:
    pytest.importorskip("shapely.affinity")
    found = []
    for seed in range(15):
        scene = random_scene(seed)
        scores = m.no_at_fault_collision(scene, "t").value, m.time_to_collision(scene, "t").value
        assert scores == slow_scores(scene), seed
        found.append(scores)
    assert {worth for worth, _ in found} == {0.0, 0.5, 1.0} and {safe for _, safe in found} == {0.0, 1.0}


# --- doubted images -----------------------------------------------------------------------------------------------


def test_a_clip_that_could_not_be_trusted_helps_no_one() -> None:
    base = {"renderer": "r", "oracle": False, "protocol": "drive@1.0", "config_hash": "", "version": "", "seed": 0,
            "render_valid": 1.0, "seconds": 0.0, "errors": [], "trusted": True}
    names = (*PROTOCOLS["drive@1.0"].subscores, "total")

    def row(planner: str, log: str, value: float, trusted: bool = True) -> dict[str, object]:
        return {**base, "planner": planner, "log_id": log, "trusted": trusted, **{n: value for n in names},
                **{f"{n}_valid": True for n in names}}

    rows = [row("a", "1", 0.6), row("a", "2", 1.0, False), row("b", "1", 0.5), row("b", "2", 0.1)]
    table = {entry["planner"]: entry for entry in aggregate(rows)}
    assert (table["a"]["total"], table["b"]["total"]) == (0.6, 0.5)  # clip 2 counts for neither
    assert (table["a"]["trusted"], table["a"]["excluded"], table["b"]["excluded"]) == (1, 1, 1)
    assert table["a"]["total_all"] == pytest.approx(0.8) and table["b"]["total_n"] == 1
