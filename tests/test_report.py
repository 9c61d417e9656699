"""Reports: one file that needs nothing else, says what is missing, and is the same for the same run."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from drive_wm import types as words
from drive_wm.eval import report as r
from drive_wm.eval.run_folder import RunFolder
from drive_wm.types import InputError

IMAGE = np.dstack([np.full((6, 8), v, np.uint8) for v in (10, 20, 30)])


class Checker(HTMLParser):
    """Collects every address, and sees that every tag is closed."""

    EMPTY = {"meta", "img", "br", "line", "polyline", "link", "input"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag


def every_kind(folder: Path) -> list[r.Section]:
    video = folder / "v.mp4"
    video.write_bytes(b"\0\0\0\x18ftypmp42")
    rows = [["a", 10.0, 2.0], ["b", 120.5, None], ["<c>", 0.0, float("nan")]]
    table = r.Table(["planner", "progress (m)", "L2 (m)"], rows, "note", {"progress (m)": "max", "L2 (m)": "min"})
    uri = r.embed(IMAGE)
    scene = r.Scene("scene-1", "town", uri, '{"text": "</script>"}',
                    [r.SceneDrive("idm", 0.5, "#123", [r.Moment(2.3, "off the <road>"), r.Moment(4.0, "late", False)]),
                     r.SceneDrive("lost", None, "#654321", trusted=False, oracle=True)], [r.Film("log", uri, 3)])
    return [r.Heading("Future", "note"), r.Text("one\n\ntwo & <b>"), table, r.Picture(IMAGE),
            r.Failures(),
            r.Row([r.Video(video, "a"), r.Video(video, "b")]), r.KeyValues({"log": "x", "seconds": 12.345}),
            r.Failures(["broke"]), r.Explanation("stop, keep", ["red light"], "Because.", "Why?", True),
            scene,
            r.Chart({"model": [[0, 1], [1, 2], [2, np.nan], [3, 1], [4, 2]], "copy": [[0, 0], [4, 3]]}, "s", "dB")]


def test_the_report_needs_nothing_outside_itself(tmp_path: Path) -> None:
    html = r.render_report("Title <1>", every_kind(tmp_path), seed=3, arguments=["demo"])
    checker = Checker()
    checker.feed(html)
    assert not checker.open
    assert len(checker.addresses) == 4 and all(a.startswith("data:") for a in checker.addresses)
    assert not re.search(r"https?://|@import|url\(", html)
    assert "Title &lt;1&gt;" in html and "&lt;c&gt;" in html and "two &amp; &lt;b&gt;" in html and "<b>" not in html


def test_a_scene_names_its_moments_and_its_data_cannot_end_its_script(tmp_path: Path) -> None:
    html = r.render_report("T", every_kind(tmp_path))
    assert "2.3 s: off the &lt;road&gt;" in html and 'data-at="4.0"' in html and "lost (oracle)" in html
    assert r'{"text": "\u003c/script>"}' in html and html.count("data:image/png") == 3


def test_the_same_sections_give_the_same_bytes(tmp_path: Path) -> None:
    sections = every_kind(tmp_path)
    paths = [r.write_report(RunFolder(tmp_path / n, "demo", seed=3, arguments=["demo"]), "T", sections) for n in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes() and paths[0].name == "report.html"


def test_missing_values_are_shown_as_missing_and_never_win(tmp_path: Path) -> None:
    table = every_kind(tmp_path)[2]
    assert isinstance(table, r.Table)
    assert r.cells(table) == [["a", "10.0", "2.00"], ["b", "120.5", "–"], ["<c>", "0.0", "–"]]
    speeds = r.Table(["what", "value"], [["images a second", 1147.2], ["seconds a step", 0.231]])
    assert r.cells(speeds) == [["images a second", "1,147"], ["seconds a step", "0.231"]]
    assert r.best_rows(table) == {"progress (m)": {1}, "L2 (m)": {0}}
    assert r.best_rows(r.Table(["a"], [[1], [3], [2]], best={"a": "max"}, unranked=[1])) == {"a": {2}}
    assert r.best_rows(r.Table(["a"], [[None]], best={"a": "max"})) == {}


@pytest.mark.parametrize("value, text", [
    (True, "yes"), (np.bool_(False), "no"), (1234567, "1,234,567"), (0.0, "0.000"), (3.14159, "3.14"),
    (1234.5, "1,234"),
    (2e-5, "2.00e-05"), (float("inf"), "–"), ("x", "x"), (np.float32(0.25), "0.250"),
])
def test_cells(value: object, text: str) -> None:
    assert r.cell(value) == text


def test_silence_about_failures_is_a_statement() -> None:
    assert "No failures" in r.render_report("T", [r.Failures()])
    assert "2 failures" in r.render_report("T", [r.Failures(["a", "b"])])


def test_an_explanation_names_kind_agent_and_place() -> None:
    cause = words.Cause("lead vehicle", "car-3", "car", (12.04, -1.5), "braking")
    shown = r.Explanation.of(words.Explanation("slow down", "keep", (cause, words.Cause("bend")), "text", "why?"))
    assert shown.decision == "slow down, keep" and shown.question == "why?"
    assert list(shown.causes) == ["lead vehicle car car-3 (braking), 12.0 m ahead and 1.5 m right", "bend"]


def test_a_chart_breaks_where_values_are_missing_and_stays_in_its_frame() -> None:
    drawn = r.plot(r.Chart({"a": [[0, 1], [1, np.nan], [2, 3]], "b": [[0, 2], [2, 2]]}))
    (_, a), (_, b) = drawn["lines"]
    assert len(a) == 2 and len(b) == 1
    xs = [float(x) for piece in a + b for x in re.findall(r"([\d.]+),", piece)]
    assert min(xs) == drawn["left"] and max(xs) == drawn["right"]
    with pytest.raises(ValueError, match="no finite point"):
        r.plot(r.Chart({"a": [[0, np.nan]]}))
    assert r.plot(r.Chart({"flat": [[1, 5], [1, 5]]}))["lines"]


def test_ticks_are_round_and_within() -> None:
    assert r.ticks(0.5, 4.0) == [1.0, 2.0, 3.0, 4.0] and r.ticks(-0.1, 0.1) == [-0.1, -0.05, 0.0, 0.05, 0.1]


def test_unusable_media_say_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        r.embed(tmp_path / "a.png")
    with pytest.raises(InputError, match="neither"):
        r.embed(tmp_path / "a.gif")
    with pytest.raises(ValueError, match="uint8 RGB"):
        r.embed(IMAGE.astype(np.float32))
    with pytest.raises(ValueError, match="row of 1"):
        r.Table(["a", "b"], [[1]])
