"""Asking a drive in a notebook: a session plays a log, answers with causes and a plan, and tries what would be.

    session = Session("town:110008", at_s=5.0)
    session.play()
    answer = session.ask("Why are you slowing down?")
    session.what_if(without=answer.things[0]); session.what_if(actions="brake")

Everything that is returned shows itself: ``_repr_html_`` holds its pictures and films and loads nothing from elsewhere.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from drive_wm.datasets.clips import make_clip, time_grid
from drive_wm.datasets.language.facts import Facts
from drive_wm.datasets.routes import points_ahead, route_of
from drive_wm.datasets.town.causes import Effect, owner_id, replay_for
from drive_wm.datasets.town.rerun import rerun
from drive_wm.eval.language_moment import SIGNAL, Said, ask, plan_moved, true_ids, without
from drive_wm.eval.report import embed, say_cause
from drive_wm.geometry import (
    actions_from_xyyaw,
    compose_xyyaw,
    interpolate_poses,
    transform_points,
    xyyaw_from_pose,
)
from drive_wm.media import FONT, Color, draw_trajectory_in_camera, png_bytes, tile_cameras, write_mp4
from drive_wm.model import DriveWM
from drive_wm.render import agents_at
from drive_wm.scene import VARIANTS, Scene, action_variant, load_log, open_scene
from drive_wm.types import (
    AGENT_COLUMNS,
    CATEGORIES,
    ByteArray,
    Cause,
    Clip,
    Explanation,
    FloatArray,
    InputError,
    IntArray,
    Log,
    Plan,
    Poses,
    Track,
)
from drive_wm.use.answers import WHY, check_question, driver_reason
from drive_wm.use.future import Future, imagine
from drive_wm.use.pictures import (
    MARK_COLORS,
    Mark,
    above,
    best_camera,
    finer,
    marked_cameras,
    marks_of,
    of_width,
)

AS_IS: Color = (0, 114, 178)
WHAT_IF: Color = (230, 120, 0)
DRIVER: Color = (0, 158, 115)
DRIVER_THEN: Color = (204, 121, 167)
NEAR = 3  # things that are offered to be taken out, beside stated and true causes
Things = str | Cause | Sequence[str | Cause]


class Session:
    """A log, a model, and a moment of the log that is asked about.

    source, log: as on the command line. at_s: seconds after the log's start. Raises InputError where there is no such
    log, checkpoint or moment.
    """

    def __init__(self, source: str = "town:110008", log: str | None = None, checkpoint: str = "tiny",
                 at_s: float = 5.0, seed: int = 0) -> None:
        self.model = DriveWM.from_pretrained(checkpoint)
        self.log, self.seed = load_log(source, log), seed
        self.at(at_s)

    def at(self, at_s: float) -> Session:
        """Moves to another moment of the log."""
        self.scene = open_scene(self.log, self.model, at_s)
        self.at_s = at_s
        self._as_is: dict[int, Future] = {}  # by their number of steps
        self._effects: list[Effect] | None = None
        return self

    def play(self, begin_s: float = 0.0, duration_s: float = 20.0, rate_hz: float = 5.0) -> Film:
        """All cameras and the view from above; drawn logs are drawn large, recorded ones are shown as they are."""
        length_s = min(duration_s, (self.log.end_us - self.log.start_us) / 1e6 - begin_s)
        if begin_s < 0 or length_s <= 0 or rate_hz <= 0:
            raise InputError(f"play from {begin_s:g} s for {duration_s:g} s at {rate_hz:g} Hz: log {self.log.id} lasts "
                             f"{(self.log.end_us - self.log.start_us) / 1e6:.1f} s")
        log = finer(self.log, 320)
        rig = replace(log.rig, cameras=tuple(of_width(c, 320) for c in log.rig.cameras))
        clip = make_clip(log, log.start_us + int(begin_s * 1e6), int(length_s * rate_hz) + 1, rate_hz, rig=rig)
        images = []
        for t in range(len(clip.timestamps_us)):
            moment = replace(clip, timestamps_us=clip.timestamps_us[:t + 1], ego=clip.ego[:t + 1])
            cameras = tile_cameras({name: clip.frames[name][t] for name in rig.names})
            side = max(cameras.shape[0], 240)
            picture = above(Scene(log, moment, np.zeros((0, 2))), [], size_px=side)
            images.append(beside([cameras, picture]))
        return Film(images, rate_hz, f"{self.log.id}, {begin_s:g} s to {begin_s + length_s:g} s")

    def ask(self, question: str = WHY) -> Answer:
        """The model's answer now. Raises InputError for a question that it cannot read, see ``check_question``."""
        check_question(question, self.log.rig)
        if self._effects is None:
            self._effects = Facts(self.log, self.scene.now_us).causes
        return Answer(self.scene, ask(self.model, self.scene, question, self.seed), f"{self.at_s:g} s", self._effects)

    def what_if(self, without: Things = (), actions: str | FloatArray | None = None, *, question: str = WHY,
                horizon_s: float = 4.0, again: bool = True) -> WhatIf:
        """The same moment with things taken out, or with other actions (N, 2), or with both.

        without: ids of agents, causes of an answer, or "signal" for the light ahead, which then is green. actions: a
        word ("brake", "accelerate", "left", "right", "keep", "log") or an array; by default the model's new plan.
        again: a log of the town is driven again from now on, so that all others react; otherwise, and with other logs,
        things are only taken from what the model sees. Answers are those of now, and with actions those at the end of
        the imagined futures. Raises InputError for what is not there, or cannot be taken out.
        """
        gone = self._gone(without)
        if not gone and actions is None:
            raise InputError("what if what? Give without=... (an id, a cause or \"signal\"), or actions=...")
        rate = self.model.config.rate_hz
        count = round(horizon_s * rate)
        if count < 1:
            raise InputError(f"horizon_s {horizon_s:g}: expected at least {1 / rate:g} s, which is one step")
        chosen = action_variant(actions, self.scene, count) if isinstance(actions, str) else actions
        driven = again and self.log.source == "town" and "rerun" not in self.log.metadata
        log = self._driven_again(gone, chosen) if driven else self.log
        scene = replace(open_scene(taken_out(log, gone, driven), self.model, self.at_s), route=self.scene.route)
        before, as_is = self._unchanged(count, question)
        after = Answer(scene, ask(self.model, scene, question, self.seed), f"{self.at_s:g} s")
        future = self._imagine(scene, padded(after.plan, count) if chosen is None else np.asarray(chosen))
        kinds = {owner_id(t.id): t.category for t in self.log.tracks}
        title = " and ".join([f"without {name} ({kinds[name]})" if name != SIGNAL else "with a green light"
                              for name in gone]
                             + ([] if chosen is None else [f"I {actions}" if isinstance(actions, str)
                                                           else "I drive other actions"]))
        if chosen is not None:
            before, after = (self._later(f, question) for f in (as_is, future))
        return WhatIf(f"What if: {title}", before, after, as_is, future, self.scene,
                      driven and bool(gone) and chosen is None)

    def box(self) -> Any:
        """A text box to ask in, with lists of what to take out and what to do; a hint where ipywidgets is missing."""
        try:
            widgets = importlib.import_module("ipywidgets")
            display = importlib.import_module("IPython.display").display
        except ImportError:
            return Note("A text box needs ipywidgets: pip install \"drive-wm[notebook]\". "
                        "Without it: session.ask(\"...\") and session.what_if(...)")
        shown = widgets.Output()

        def show(make: Any) -> None:
            shown.clear_output(wait=True)
            with shown:
                try:
                    display(make())
                except InputError as error:
                    display(Note(str(error)))

        wide = widgets.Layout(width="34em")
        words = widgets.Text(value="Why are you slowing down?", description="Question", layout=wide)
        asked = widgets.Button(description="Ask", button_style="primary")
        thing = widgets.Dropdown(options=[("nothing", ""), *((n, n) for n in self.ask().things)], description="Without")
        action = widgets.Dropdown(options=[("as planned", ""), *((v, v) for v in VARIANTS)], description="Action")
        tried = widgets.Button(description="What if?")
        asked.on_click(lambda _: show(lambda: self.ask(words.value)))
        tried.on_click(lambda _: show(lambda: self.what_if(thing.value or (), action.value or None,
                                                           question=words.value)))
        return widgets.VBox([widgets.HBox([words, asked]), widgets.HBox([thing, action, tried]), shown])

    def _repr_html_(self) -> str:
        log = self.log
        rows = [("log", log.id), ("length", f"{(log.end_us - log.start_us) / 1e6:.1f} s"), ("now", f"{self.at_s:g} s"),
                ("cameras", ", ".join(log.rig.names)), ("agents now", len(agents_at(log, self.scene.now_us))),
                ("licence", log.licence), ("model", self.model.name)]
        return page(table((), rows))

    # --- what if ---

    def _gone(self, things: Things) -> list[str]:
        """Ids of what is to be taken out, each known and possible to take out."""
        known = {owner_id(t.id) for t in self.log.tracks}
        ids = []
        for thing in [things] if isinstance(things, (str, Cause)) else things:
            name = thing.agent_id if isinstance(thing, Cause) else thing
            if name is None:
                kind = thing.kind if isinstance(thing, Cause) else thing
                raise InputError(f"the cause {kind!r} is no thing that can be taken out; "
                                 f"such are {', '.join(self.ask().things) or 'none here'}")
            name = SIGNAL if name.startswith(SIGNAL) else owner_id(name)
            if name == SIGNAL and Facts(self.log, self.scene.now_us).signal is None:
                raise InputError(f"log {self.log.id} at {self.at_s:g} s: no traffic light ahead that could be green")
            if name != SIGNAL and name not in known:
                raise InputError(f"nothing of id {name!r} in log {self.log.id}; what can be taken out here: "
                                 f"{', '.join(self.ask().things) or 'nothing'}")
            ids.append(name)
        return list(dict.fromkeys(ids))

    def _driven_again(self, gone: Sequence[str], actions: FloatArray | None) -> Log:
        """The town from now on, in which all others react; what never moves is no part of its simulation."""
        sim = replay_for(self.log).drive.simulation
        able = {b.id for b in sim.bodies} | {p.id for p in sim.people} | {t.id for t in sim.things}
        light = Facts(self.log, self.scene.now_us).signal if SIGNAL in gone else None
        return rerun(self.log, at_s=self.at_s, remove=tuple(n for n in gone if n in able),
                     signals={light: "green"} if light else None, ego=actions, rate_hz=self.model.config.rate_hz)

    def _unchanged(self, count: int, question: str) -> tuple[Answer, Future]:
        """The answer of now and the future under its plan, which several what-ifs are compared with."""
        before = self.ask(question)
        if count not in self._as_is:
            self._as_is[count] = self._imagine(self.scene, padded(before.plan, count))
        return before, self._as_is[count]

    def _imagine(self, scene: Scene, actions: FloatArray) -> Future:
        return imagine(self.model, scene, actions, mode="imagined", seed=self.seed, own_actions=False)

    def _later(self, future: Future, question: str) -> Answer:
        scene = imagined_scene(future)
        later_s = len(future.steps) / self.model.config.rate_hz
        return Answer(scene, ask(self.model, scene, question, self.seed), f"{later_s:g} s later, imagined")


def taken_out(log: Log, gone: Sequence[str], driven: bool) -> Log:
    """The log as the model is to see it. A rerun's light turns green now; recorded images cannot be changed."""
    names = [name for name in gone if not (driven and name == SIGNAL)]
    if not names:
        return log
    changed = without(log, names)
    return changed if log.frames.rendered else replace(changed, frames=log.frames)


def padded(plan: Plan, count: int) -> FloatArray:
    """(count, 2) the plan's actions, its last one held."""
    if plan.actions is None:
        raise InputError("the plan has no actions; only plans of a model that thinks in actions can be imagined")
    actions: FloatArray = plan.actions[np.minimum(np.arange(count), len(plan.actions) - 1)]
    return actions


# --- an imagined moment -------------------------------------------------------------------------------------------


class ClipFrames:
    """The images of a clip, as the frames of a log."""

    rendered = False

    def __init__(self, clip: Clip) -> None:
        self.clip = clip

    def timestamps_us(self, camera: str) -> IntArray:
        return self.clip.timestamps_us

    def read(self, camera: str, timestamp_us: int) -> ByteArray:
        return np.asarray(self.clip.frames[camera][int(np.searchsorted(self.clip.timestamps_us, timestamp_us))])


def imagined_scene(future: Future) -> Scene:
    """The end of an imagined future as a moment like any other: its images, its agents and the ego's imagined path are
    what the model goes on from, and all that pictures show; map and lights are the log's."""
    log, past = future.scene.log, future.scene.context
    steps, keep = future.steps, len(past.timestamps_us)

    def joined(old: Any, new: Any) -> Any:
        return np.concatenate([old, np.stack(new)])[-keep:]

    drawn = past.layout is not None and all(s.layout is not None for s in steps)
    times = time_grid(past.timestamps_us[-1], len(steps) + 1, past.rate_hz)[1:]
    clip = replace(
        past, timestamps_us=joined(past.timestamps_us, times),
        frames={n: joined(past.frames[n], [s.frames[n] for s in steps]) for n in past.rig.names},
        frames_valid=joined(past.frames_valid, np.ones((len(steps), len(past.rig.names)), bool)),
        ego=joined(past.ego, future.poses), ego_valid=joined(past.ego_valid, np.ones(len(steps), bool)),
        actions=np.concatenate([past.actions, future.actions])[-(keep - 1):] if keep > 1 else past.actions,
        actions_valid=joined(past.actions_valid, np.ones(len(steps), bool))[-(keep - 1):] if keep > 1
        else past.actions_valid,
        agents=joined(past.agents, [s.agents for s in steps]),
        agents_valid=joined(past.agents_valid, [s.agents_valid for s in steps]),
        layout={n: joined((past.layout or {})[n], [(s.layout or {})[n] for s in steps]) for n in past.rig.names}
        if drawn else None, reasons=())
    route = route_of(log)
    seen = replace(log, rig=clip.rig, ego=Poses(clip.timestamps_us, clip.ego, clip.ego_valid),
                   frames=ClipFrames(clip), tracks=tuple(tracks_of(clip)), reasons=(),
                   metadata={"route": route.tolist()})
    return Scene(seen, clip, points_ahead(route, clip.ego[-1]))


def tracks_of(clip: Clip) -> list[Track]:
    """The clip's agents as tracks of the world, each where it is valid."""
    out = []
    for slot, name in enumerate(clip.agent_ids):
        valid = clip.agents_valid[:, slot]
        if not name or not valid[-1]:
            continue
        rows = clip.agents[:, slot]
        last = dict(zip(AGENT_COLUMNS, rows[-1]))
        height = rows[:, AGENT_COLUMNS.index("height_m")]
        places = np.stack([transform_points(pose, np.array([[row[0], row[1], h / 2]]))[0]
                           for pose, row, h in zip(clip.ego, rows, height)])
        color = (int(last["r"]), int(last["g"]), int(last["b"]))
        out.append(Track(name, CATEGORIES[int(last["category"])], rows[-1, 5:8], clip.timestamps_us, places,
                         rows[:, 2] + xyyaw_from_pose(clip.ego)[:, 2], valid, color_rgb=color))
    return out


# --- what is shown ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Note:
    """A line of text."""

    text: str

    def _repr_html_(self) -> str:
        return page(f"<p class='note'>{escape(self.text)}</p>")


@dataclass(frozen=True)
class Film:
    """Images (H, W, 3) of one size at a rate."""

    images: Sequence[ByteArray]
    rate_hz: float
    caption: str = ""

    @cached_property
    def html(self) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "film.mp4"
            write_mp4(path, self.images, self.rate_hz)
            source = embed(path)
        return (f"<figure><video controls loop muted playsinline poster='{embed(self.images[-1])}' "
                f"src='{source}'></video><figcaption>{escape(self.caption)}</figcaption></figure>")

    def _repr_html_(self) -> str:
        return page(self.html)


@dataclass(frozen=True)
class Answer:
    """What the model says and plans at a moment. moment: when that is. effects: true causes, where they are known."""

    scene: Scene
    said: Said
    moment: str
    effects: list[Effect] | None = None

    @property
    def explanation(self) -> Explanation:
        return self.said.explanation

    @property
    def text(self) -> str:
        return self.explanation.text

    @property
    def plan(self) -> Plan:
        return self.said.plan

    @property
    def path(self) -> FloatArray:
        """(N + 1, 3) world x, y, yaw of the plan, from now on."""
        here = xyyaw_from_pose(self.scene.pose)
        return np.concatenate([here[None], compose_xyyaw(here, self.plan.trajectory.xyyaw)])

    @property
    def things(self) -> list[str]:
        """What can be taken out: true causes, the strongest first, then stated ones, then the nearest agents ahead."""
        log, clip = self.scene.log, self.scene.context
        known = {owner_id(t.id) for t in log.tracks}
        known |= {SIGNAL} if Facts(log, self.scene.now_us).signal is not None else set()
        true = true_ids(self.effects or [])
        rows = [(float(np.hypot(*row[:2])), name) for name, row, valid
                in zip(clip.agent_ids, clip.agents[-1], clip.agents_valid[-1]) if valid and row[0] > 0]
        names = [*sorted(true, key=lambda n: -true[n]), *sorted(self.said.ids),
                 *[owner_id(name) for _, name in sorted(rows)[:NEAR]]]
        return [name for name in dict.fromkeys(names) if name in known]

    @cached_property
    def marks(self) -> list[Mark]:
        """Boxes at the causes that the model states, and at those true ones that it leaves out."""
        stated = marks_of(self.scene, self.explanation)
        names = set(true_ids(self.effects or [])) - self.said.ids
        boxes = agents_at(self.scene.log, self.scene.now_us)
        return stated + [Mark("true cause", DRIVER, boxes.xyzyaw[i], boxes.lwh_m[i])
                         for i, name in enumerate(boxes.ids) if owner_id(name) in names]

    @cached_property
    def cameras(self) -> dict[str, ByteArray]:
        """Camera -> what it sees, 720 pixels wide, with the marks in it."""
        return marked_cameras(self.scene, self.marks, 720)

    @cached_property
    def main(self) -> ByteArray:
        """The camera that sees the first cause best, with the plan on its ground."""
        name = best_camera(self.scene, self.marks)
        camera = of_width(self.scene.log.rig.camera(name), 720)
        return draw_trajectory_in_camera(self.cameras[name], camera, self.plan.trajectory.xyyaw, AS_IS, 0.4)

    @cached_property
    def above(self) -> ByteArray:
        return above(self.scene, self.marks, [(self.path, AS_IS, 5)])

    @property
    def picture(self) -> ByteArray:
        return beside([self.main, self.above])

    def words(self) -> str:
        made = self.explanation
        causes = "".join(f"<li>{chip(color)}{escape(say_cause(c))}</li>" for c, color in zip(made.causes, MARK_COLORS))
        fit = "which the plan does too" if self.said.consistent else f"while the plan is to {self.said.course}"
        return (f"<p class='question'>{escape(made.question or '')}</p><p class='answer'>{escape(made.text)}</p>"
                f"<p><b>{escape(made.longitudinal)}, {escape(made.lateral)}</b>, {fit}.</p>"
                f"<ol>{causes}</ol>")

    def truth(self) -> str:
        """What the town's driver gave as its reason, and what truly changes its drive."""
        parts = []
        driver = driver_reason(self.scene)
        if driver is not None:
            causes = "; ".join(say_cause(c) for c in driver.causes)
            parts.append(f"<p>The driver of the log: <b>{escape(driver.longitudinal)}, {escape(driver.lateral)}</b>"
                         f" ({escape(causes)}).</p>")
        if self.effects is not None:
            rows = [(" and ".join(e.ids), f"{e.speed_mps:.1f}", f"{e.lateral_m:.1f}",
                     "yes" if set(true_ids([e])) & self.said.ids else "no") for e in self.effects]
            parts.append(table(("true cause", "speed, m/s", "sideways, m", "stated"), rows) if rows
                         else "<p>Nothing that can be taken out would change how it drives.</p>")
        return "".join(parts)

    def _repr_html_(self) -> str:
        every = tile_cameras({name: of_size(image, 360, cv2.INTER_AREA) for name, image in self.cameras.items()})
        left = img(self.main) + img(every) + f"<p class='small'>{escape(self.scene.log.id)}, {escape(self.moment)}</p>"
        return page(columns(left, self.words() + img(self.above) + legend([("the plan", AS_IS)]) + self.truth()))

    def _repr_png_(self) -> bytes:
        return png_bytes(self.picture)


@dataclass(frozen=True)
class WhatIf:
    """Two answers and two imagined futures of one moment: as it is, and with a change.

    start: the moment. driven: the town's driver drove again too, so that its change is known.
    """

    title: str
    before: Answer
    after: Answer
    as_is: Future
    future: Future
    start: Scene
    driven: bool

    @property
    def moved(self) -> tuple[float, float]:
        """(speed [m/s], sideways [m]): how far the model's two plans lie apart."""
        return plan_moved(self.before.plan, self.after.plan)

    @property
    def times_s(self) -> FloatArray:
        return np.arange(len(self.future.steps) + 1) / self.start.context.rate_hz

    def driver(self, log: Log) -> FloatArray:
        """(N, 3) world x, y, yaw of who drives in the log, from now on, as long as it is known."""
        poses, valid = interpolate_poses(log.ego, self.start.now_us + (self.times_s * 1e6).astype(np.int64))
        known = len(valid) if valid.all() else int(np.argmin(valid))
        return xyyaw_from_pose(poses[:known])

    @cached_property
    def paths(self) -> list[tuple[str, FloatArray, Color]]:
        here = xyyaw_from_pose(self.start.pose)[None]
        named = [("imagined as it is", np.concatenate([here, xyyaw_from_pose(self.as_is.poses)]), AS_IS),
                 ("imagined what if", np.concatenate([here, xyyaw_from_pose(self.future.poses)]), WHAT_IF),
                 ("the log's driver", self.driver(self.start.log), DRIVER)]
        if self.driven:
            named.append(("the driver, what if", self.driver(self.future.scene.log), DRIVER_THEN))
        return [one for one in named if len(one[1]) > 1]

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        """Of each second: the time and the speed along each path [m/s]."""
        speeds = [actions_from_xyyaw(path, self.times_s[:len(path)])[:, 0] for _, path, _ in self.paths]
        rate = round(self.start.context.rate_hz)
        return [(f"{self.times_s[k + 1]:g} s", *(f"{s[k]:.1f}" if k < len(s) else "–" for s in speeds))
                for k in range(rate - 1, len(self.times_s) - 1, rate)]

    @cached_property
    def strips(self) -> list[tuple[str, list[dict[str, ByteArray]]]]:
        """(name, images of each step): the two imagined futures, and what the town's cameras would see."""
        made = [("imagined as it is", [dict(s.frames) for s in self.as_is.steps]),
                ("imagined what if", [dict(s.frames) for s in self.future.steps])]
        return made + ([("drawn what if", list(self.future.truth))] if self.future.truth is not None else [])

    @cached_property
    def sheet(self) -> ByteArray:
        """The front camera at each second, a row for each of ``strips``."""
        name, rate = best_camera(self.start, []), round(self.start.context.rate_hz)
        rows = []
        for words, steps in self.strips:
            chosen = steps[rate - 1::rate] or steps[-1:]
            rows.append(titled(np.concatenate([of_size(s[name], 480) for s in chosen], 1), words))
        return np.concatenate(rows)

    @cached_property
    def film(self) -> Film:
        count = min(len(steps) for _, steps in self.strips)
        images = []
        for k in range(count):
            rows = [titled(np.concatenate([of_size(i, 240) for i in steps[k].values()], 1),
                           f"{words}, {self.times_s[k + 1]:g} s") for words, steps in self.strips]
            images.append(np.concatenate(rows))
        return Film(images, self.start.context.rate_hz, "all cameras, step by step")

    @cached_property
    def above(self) -> ByteArray:
        marks = self.before.marks if self.before.scene is self.start else []
        return above(self.start, marks, [(path, color, 5 if color in (WHAT_IF, DRIVER_THEN) else 12)
                                         for _, path, color in self.paths])

    @property
    def picture(self) -> ByteArray:
        return beside([self.sheet, self.above])

    def _repr_html_(self) -> str:
        left, right = (f"<h4>{words}, {escape(a.moment)}</h4>{img(a.main)}{a.words()}"
                       for words, a in (("As it is", self.before), ("What if", self.after)))
        answers = columns(left, right, even=True)
        table_html = table(("speed, m/s", *(name for name, _, _ in self.paths)), self.rows)
        speed, sideways = self.moved
        change = "" if self.before.scene is not self.start else \
            f"<p>The model's plan changes by up to {speed:.1f} m/s, and by {sideways:.1f} m sideways.</p>"
        seen = "" if self.start.log.frames.rendered else \
            "<p class='small'>Recorded images cannot be changed: what is taken out is still to be seen in them.</p>"
        side = img(self.above) + legend([(name, color) for name, _, color in self.paths])
        return page(f"<h3>{escape(self.title)}</h3>{answers}{change}{seen}"
                    + columns(img(self.sheet) + table_html, side) + self.film.html)

    def _repr_png_(self) -> bytes:
        return png_bytes(self.picture)


# --- HTML and pictures --------------------------------------------------------------------------------------------

STYLE = """<style>
.dwm {background: #fff; color: #1c1f23; color-scheme: light; font: 15px/1.45 system-ui, sans-serif; padding: 10px;
      max-width: 1180px}
.dwm p {margin: .35em 0} .dwm h3 {font-size: 19px; margin: .2em 0 .5em} .dwm h4 {font-size: 15px; margin: 0 0 .3em}
.dwm .two {display: grid; grid-template-columns: 3fr 2fr; gap: 18px; align-items: start}
.dwm .even {grid-template-columns: 1fr 1fr}
.dwm img, .dwm video {width: 100%; display: block; border-radius: 5px; margin: 0 0 8px} .dwm figure {margin: 8px 0}
.dwm .question, .dwm .small, .dwm figcaption {color: #5b6470} .dwm .small, .dwm figcaption {font-size: 13px}
.dwm .answer {font-size: 19px; font-weight: 600} .dwm ol {margin: .3em 0 .7em; padding-left: 1.4em}
.dwm .chip {display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .45em}
.dwm .legend > span {margin-right: .8em}
.dwm table {border-collapse: collapse; margin: .4em 0; font-size: 14px; color: #1c1f23}
.dwm td, .dwm th {padding: 3px 12px 3px 0; border-bottom: 1px solid #d9dde2; text-align: left; background: #fff}
</style>"""


def page(body: str) -> str:
    return f"{STYLE}<div class='dwm'>{body}</div>"


def columns(left: str, right: str, even: bool = False) -> str:
    return f"<div class='two{' even' if even else ''}'><div>{left}</div><div>{right}</div></div>"


def img(image: ByteArray) -> str:
    return f"<img src='{embed(image)}'>"


def chip(color: Color) -> str:
    return f"<span class='chip' style='background:rgb{color}'></span>"


def legend(items: Sequence[tuple[str, Color]]) -> str:
    return "<p class='legend'>" + "".join(f"<span>{chip(c)}{escape(n)}</span> " for n, c in items) + "</p>"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    return "<table>" + (f"<tr>{top}</tr>" if head else "") + "".join(
        "<tr>" + "".join(f"<td>{escape(str(v))}</td>" for v in row) + "</tr>" for row in rows) + "</table>"


def of_size(image: ByteArray, width: int, how: int = cv2.INTER_CUBIC) -> ByteArray:
    height = round(image.shape[0] * width / image.shape[1])
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)


def titled(image: ByteArray, words: str) -> ByteArray:
    """The image below a white strip of dark words."""
    scale = image.shape[1] / 1600
    strip = np.full((round(44 * scale), image.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, words, (2, round(31 * scale)), FONT, scale, (28, 31, 35), 1 + (scale > 0.7), cv2.LINE_AA)
    return np.concatenate([strip, image])


def beside(images: Sequence[ByteArray]) -> ByteArray:
    """Images in a row, each as high as the first."""
    height = images[0].shape[0]
    fitted = [cv2.resize(i, (round(i.shape[1] * height / i.shape[0]), height), interpolation=cv2.INTER_AREA)
              for i in images]
    return np.asarray(np.concatenate(fitted, 1), np.uint8)
