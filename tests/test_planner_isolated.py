"""A planner in a file of its own, and every mistake that it can make."""

import time
from pathlib import Path

import numpy as np
import pytest

from drive_wm.planners.base import TIMES_S
from drive_wm.planners.isolated import IsolatedPlanner, PlannerError
from drive_wm.planners.messages import pack, unpack
from drive_wm.planners.registry import make_planner
from drive_wm.types import Explanation, InputError, Lane, Plan, RoadMap, Trajectory
from tests.scenes import seen

FILE = '''
import os, time
import numpy as np
from drive_wm.planners.base import TIMES_S, Planner, stand_still
from drive_wm.types import Plan, Trajectory

class Mine(Planner):
    """Drives straight on, unless it is told to make a mistake."""
    name = "mine"
    requires = frozenset({"map", "route"})
    history_steps = 3

    def __init__(self, mistake="none"):
        self.mistake, self.seed = mistake, -1

    def reset(self, seed, log=None):
        self.seed = seed
        if self.mistake == "reset":
            raise KeyError("no such seed")

    def plan(self, observation):
        print("what a planner prints is no message")
        points = np.zeros((len(TIMES_S), 3))
        points[:, 0] = TIMES_S * observation.speed_mps
        points[:, 1] = self.seed + len(observation.map.lanes)
        if self.mistake == "shape":
            return Plan(Trajectory(TIMES_S, points[:, :2]))
        if self.mistake == "nan":
            return Plan(Trajectory(TIMES_S, points * np.nan))
        if self.mistake == "type":
            return points
        if self.mistake == "short":
            return Plan(Trajectory(TIMES_S[:1], points[:1]))
        if self.mistake == "raise":
            raise ValueError("the sky\\nis falling")
        if self.mistake == "sleep":
            time.sleep(60)
        if self.mistake == "exit":
            os._exit(3)
        return Plan(Trajectory(TIMES_S, points))
'''
LINE = np.array([[0.0, 0, 0], [10, 0, 0]])
MAP = RoadMap("m", {"a": Lane("a", LINE, LINE + [0, 1.75, 0], LINE - [0, 1.75, 0], successors=("b",))})
SEEN = seen(5.0, route=LINE[:, :2], map=MAP, signal_states={"s": 1})


@pytest.fixture
def spec(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(FILE)
    return f"{tmp_path / 'mine.py'}:Mine"


def test_words_survive_the_way_between_processes() -> None:
    plan = Plan(Trajectory(TIMES_S, np.zeros((8, 3))), (), np.array([0.5, np.inf]), Explanation("hold", "keep"))
    seen, back = unpack(pack([SEEN, plan])[8:])
    assert back.explanation == plan.explanation and back.costs.tolist() == [0.5, np.inf] and back.actions is None
    assert seen.map.lanes["a"].successors == ("b",) and seen.signal_states == {"s": 1}
    assert seen.route.dtype == np.float64 and (seen.route == SEEN.route).all() and seen.rig.names == ("front",)
    for no_word in (object(), np.array([object()]), {"a": Path()}):
        with pytest.raises(InputError, match="cannot be sent"):
            pack(no_word)
    with pytest.raises(InputError, match="unknown word 'Popen'"):
        text = b'{"Popen": {}}'
        unpack(len(text).to_bytes(4, "little") + text)


def test_a_file_plans_in_a_process_of_its_own(spec: str) -> None:
    planner = make_planner(spec)
    assert isinstance(planner, IsolatedPlanner) and planner.name == "mine" and planner.history_steps == 3
    assert planner.requires == {"map", "route"} and not planner.oracle
    planner.reset(7)
    for _ in range(2):  # the second time the map is not sent again
        points = planner.plan(SEEN).trajectory.xyyaw
        assert points[-1].tolist() == [20.0, 8.0, 0.0]
    planner.close()
    with pytest.raises(PlannerError, match="not running"):
        planner.plan(SEEN)
    planner.reset(0)
    assert planner.plan(SEEN).trajectory.xyyaw[0, 1] == 1.0
    planner.close()


@pytest.mark.parametrize("mistake, says", [
    ("shape", r"InputError: trajectory: 8 times need xyyaw \(8, 3\), got \(8, 2\)"),
    ("nan", "holds NaN"), ("type", "returned ndarray, expected drive_wm.types.Plan"), ("short", "at least 1 s"),
    ("raise", r"ValueError: the sky is falling \(mine.py, line 35\)$"), ("sleep", "no answer within 1.5 s"),
    ("exit", r"its process ended \(exit code 3\)"), ("reset", "KeyError: 'no such seed'")])
def test_each_mistake_is_one_line_and_the_next_drive_goes_on(spec: str, mistake: str, says: str) -> None:
    planner = make_planner(spec, timeout_s=1.5 if mistake == "sleep" else 20.0, mistake=mistake)
    began = time.monotonic()
    with pytest.raises(PlannerError, match=says) as error:
        planner.reset(0)
        planner.plan(SEEN)
    assert "mine.py:Mine" in str(error.value) and "\n" not in str(error.value)
    assert time.monotonic() - began < 20.0
    if mistake != "reset":
        planner.reset(1)  # a new scene: the process is there again
    planner.close()


def test_what_cannot_be_made_is_said_before_the_first_drive(tmp_path: Path, spec: str) -> None:
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "oracle.py").write_text("from drive_wm.planners.baselines import LogReplay\n"
                                        "class Oracle(LogReplay):\n    oracle = True\n")
    for path, says in ((f"{tmp_path}/broken.py:Mine", "line 1: SyntaxError"),
                       (f"{tmp_path}/oracle.py:Oracle", "oracle"),
                       (f"{tmp_path}/none.py:Mine", "no file"), (spec.replace("Mine", "Yours"), "has no 'Yours'")):
        with pytest.raises(InputError, match=says):
            make_planner(path)
    with pytest.raises(InputError, match="options"):
        make_planner(spec, nonsense=1)
    with pytest.raises(InputError, match="more than 0"):
        make_planner(spec, timeout_s=0.0)


def test_what_is_built_in_runs_here() -> None:
    assert not isinstance(make_planner("stationary", timeout_s=5.0), IsolatedPlanner)
    assert isinstance(make_planner("drive_wm.planners.baselines:Stationary", timeout_s=5.0), IsolatedPlanner)
