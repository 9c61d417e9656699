"""`notebooks/explain.ipynb`: its code cells run in order in one namespace, with the shipped checkpoint.

No notebook package is needed: a cell's last expression is displayed by calling its ``_repr_html_``, as Jupyter does.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drive_wm.datasets.clips import make_clip
from drive_wm.datasets.language.facts import Facts
from drive_wm.datasets.rigs import nuscenes_six
from drive_wm.datasets.town import generate
from drive_wm.datasets.town.causes import owner_id
from drive_wm.media import draw_topdown
from drive_wm.render import agents_at
from drive_wm.scene import Scene
from drive_wm.types import Cause, Explanation, InputError
from drive_wm.use import explain
from drive_wm.use.answers import check_question, sighted
from drive_wm.use.notebook import Session
from drive_wm.use.pictures import Mark, above, draw_marks
from drive_wm.use.shown import Answer, Film, WhatIf

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "explain.ipynb"


@dataclass
class Ran:
    """names: the notebook's variables. shown: cell id -> (object, its HTML)."""

    names: dict[str, Any] = field(default_factory=dict)
    shown: dict[str, tuple[Any, str]] = field(default_factory=dict)


def run_cells(path: Path = NOTEBOOK) -> Ran:
    ran = Ran()
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, cell["id"], "exec"), ran.names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), cell["id"], "eval"), ran.names)
            ran.shown[cell["id"]] = value, value._repr_html_() if hasattr(value, "_repr_html_") else ""
    return ran


@pytest.fixture(scope="module")
def ran() -> Ran:
    return run_cells()


def test_the_notebook_is_committed_without_outputs() -> None:
    text = NOTEBOOK.read_text()
    cells = json.loads(text)["cells"]
    assert len(text) < 10_000
    assert all(not c["outputs"] and c["execution_count"] is None for c in cells if c["cell_type"] == "code")


def test_every_cell_shows_itself_and_loads_nothing(ran: Ran) -> None:
    kinds = {name: type(value) for name, (value, _) in ran.shown.items()}
    assert kinds["session"] is Session and kinds["play"] is Film and kinds["ask"] is Answer
    assert kinds["what-if-without"] is WhatIf and kinds["what-if-action"] is WhatIf
    for name in ("session", "play", "ask", "what-if-without", "what-if-action"):
        html = ran.shown[name][1]
        assert html.startswith("<style>") and "://" not in html and "<script" not in html
    assert "data:video/mp4;base64," in ran.shown["play"][1] and "data:video/mp4" in ran.shown["what-if-without"][1]


def test_the_answer_is_one_to_the_question_with_a_plan_and_pictures(ran: Ran) -> None:
    answer = ran.names["answer"]
    assert answer.explanation.question == "Why are you slowing down?" and answer.text
    assert answer.text in ran.shown["ask"][1].replace("&#x27;", "'")
    assert answer.plan.trajectory.xyyaw.shape == (8, 3)
    assert set(answer.cameras) == set(nuscenes_six().names) and answer._repr_png_().startswith(b"\x89PNG")
    assert any(mark.label == "true cause" for mark in answer.marks) or answer.explanation.causes[0].agent_id
    for picture in (answer.main, answer.above):  # the first mark's colour is in both
        assert (picture == answer.marks[0].color).all(-1).sum() > 30
    assert answer.picture.std() > 10 and len(answer.cameras["CAM_FRONT"][0]) == 720


def test_the_true_cause_is_offered_first_and_taken_out_of_the_world(ran: Ran) -> None:
    answer, made = ran.names["answer"], ran.names["without"]
    strongest = max(answer.effects, key=lambda e: e.size)
    assert ran.names["thing"] == strongest.ids[0] == answer.things[0]
    left = {owner_id(t.id) for t in made.future.scene.log.tracks}
    assert ran.names["thing"] in {owner_id(t.id) for t in made.start.log.tracks} and ran.names["thing"] not in left
    assert ran.names["thing"] not in made.after.scene.context.agent_ids
    assert ran.names["thing"] not in {c.agent_id for c in made.after.explanation.causes}
    speeds = np.array([[float(v) for v in row[3:5]] for row in made.rows])
    assert np.abs(speeds[:, 0] - speeds[:, 1]).max() > 1.0  # the town's driver truly drives otherwise
    assert any(not np.array_equal(made.before.cameras[n], made.after.cameras[n]) for n in made.before.cameras)
    assert made.before.explanation.question == made.after.explanation.question


def test_causes_say_whether_a_camera_sees_them(ran: Ran) -> None:
    scene = ran.names["answer"].scene
    boxes = agents_at(scene.log, scene.now_us)
    seen = Facts(scene.log, scene.now_us).visible_ids
    names = [next(i for i in boxes.ids if i in seen), next(i for i in boxes.ids if i not in seen), "signal", None]
    made = Explanation("stop", "keep", tuple(Cause("give way", name) for name in names))
    assert [c.visible for c in sighted(scene, made).causes] == [True, False, None, None]


def test_another_action_leads_to_another_future_and_is_asked_about_there(ran: Ran) -> None:
    made = ran.names["brake"]
    assert (np.diff(made.future.actions[:, 0]) <= 0).all() and made.future.actions[-1, 0] < made.as_is.actions[-1, 0]
    gone_m = [np.linalg.norm(a.scene.pose[:2, 3] - made.start.pose[:2, 3]) for a in (made.before, made.after)]
    assert gone_m[1] < gone_m[0] - 1.0
    assert any(not np.array_equal(made.as_is.steps[-1].frames[n], made.future.steps[-1].frames[n])
               for n in made.future.steps[-1].frames)
    assert "imagined" in made.after.moment and made.after.scene.now_us > made.start.now_us
    assert np.array_equal(made.after.scene.context.frames["CAM_FRONT"][-1], made.future.steps[-1].frames["CAM_FRONT"])
    assert len(made.strips) == 3 and made.sheet.std() > 10


@pytest.mark.parametrize("call, message", [
    (lambda s: s.what_if(), "what if what"), (lambda s: s.what_if("vehicle-999"), "nothing of id 'vehicle-999'"),
    (lambda s: s.what_if(Cause("bend")), "'bend' is no thing that can be taken out"),
    (lambda s: s.what_if("signal"), "no traffic light ahead"), (lambda s: s.what_if(actions="fly"), "'fly': expected"),
    (lambda s: s.what_if(actions="brake", horizon_s=0.0), "one step"),
    (lambda s: s.play(begin_s=99.0), "lasts 20.0 s"), (lambda s: s.ask("Warum bremst du?"), "Ask in English")])
def test_what_cannot_be_done_is_said(ran: Ran, call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call(ran.names["session"])
    assert "\n" not in str(caught.value)


def test_the_box_asks_and_tries(ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ipywidgets")
    session, called = ran.names["session"], []
    box = session.box()
    monkeypatch.setattr(Session, "ask", lambda self, question: called.append(question))
    monkeypatch.setattr(Session, "what_if", lambda self, *args, question: called.append((*args, question)))
    (words, asked), (thing, action, tried) = (row.children for row in box.children[:2])
    words.value = "Who is ahead?"
    asked.click()
    thing.value, action.value = ran.names["thing"], "brake"
    tried.click()
    assert called == ["Who is ahead?", (ran.names["thing"], "brake", "Who is ahead?")]
    monkeypatch.undo()
    words.value = ""
    asked.click()
    assert "Note" in capsys.readouterr().out  # an error is shown, and none is raised


# --- questions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question, message", [
    ("", "empty"), ("  \n", "empty"), ("?!", "holds no words"), ("why " * 2500, "too long"), ("w" * 10_000, "too long"),
    ("why " * 65, "too long"), ("Warum bremst du?", "warum, bremst, du"), ("¿Por qué frenas?", "Ask in English"),
    ("为什么减速?", "Ask in English"), ("What does CAM_ROOF see?", "CAM_ROOF, which is not there; .*CAM_FRONT"),
    ("What is in the roof camera?", "roof camera"), ("Who is in your interior camera?", "interior camera")])
def test_what_cannot_be_answered_is_refused_in_one_line(question: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        check_question(question, nuscenes_six())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("question", [
    "Why?", "Why are you slowing down?", "What does CAM_BACK see?", "What is in the front left camera?",
    "What is in the rear camera?", "What can you see in your cameras?", "Is the pavement ahead wet?"])
def test_what_can_be_answered_is_let_through(question: str) -> None:
    assert check_question(question, nuscenes_six()) == question


def test_a_rig_is_known_by_where_its_cameras_look() -> None:
    ahead = nuscenes_six().subset(["CAM_FRONT"])
    assert check_question("What is in the front camera?", ahead)
    with pytest.raises(InputError, match="back left camera, which is not there"):
        check_question("What is in the back left camera?", ahead)


@pytest.mark.parametrize("question", ["", "why " * 2500, "Warum bremst du?"])
def test_the_command_refuses_before_anything_is_loaded(tmp_path: Path, question: str) -> None:
    with pytest.raises(InputError, match="the question"):
        explain("nowhere:at all", tmp_path / "run", checkpoint="none", question=question)
    assert not (tmp_path / "run").exists()


# --- marks --------------------------------------------------------------------------------------------------------


def test_marks_lie_where_things_are() -> None:
    camera = nuscenes_six().camera("CAM_FRONT").resized(640, 360)
    color = (213, 94, 0)
    pose = np.eye(4)
    black = np.zeros((360, 640, 3), np.uint8)
    mark = Mark("lead vehicle", color, np.array([20.0, 0.0, 0.8, 0.0]), np.array([4.5, 1.9, 1.6]))
    rows, columns = np.nonzero((draw_marks(black, camera, pose, [mark]) == color).all(-1))
    assert abs(columns.mean() - 320) < 60 and rows.max() < 300
    behind = Mark("lead vehicle", color, np.array([-20.0, 0.0, 0.8, 0.0]), mark.lwh_m)
    assert not draw_marks(black, camera, pose, [behind]).any()


def test_a_mark_from_above_lies_around_its_agent() -> None:
    log = generate(110_003)
    pose, now = log.ego.world_from_body[30], int(log.ego.timestamps_us[30])
    boxes = agents_at(log, now)
    near = int(np.argmin(np.linalg.norm(boxes.xyzyaw[:, :2] - pose[:2, 3], axis=1)))
    boxes.colors[near] = (255, 0, 255)
    plain = draw_topdown(log.map, [], boxes.select([near]), pose, 720, 38.0)
    rows, columns = np.nonzero((plain == (255, 0, 255)).all(-1))
    assert len(rows)
    scene = Scene(log, make_clip(log, now, 1, 2.0), np.zeros((0, 2)))
    mark = Mark("", (1, 200, 3), boxes.xyzyaw[near], boxes.lwh_m[near])
    at = np.nonzero((above(scene, [mark]) == (1, 200, 3)).all(-1))
    assert at[0].min() <= rows.min() and at[0].max() >= rows.max() and at[1].min() <= columns.min()
