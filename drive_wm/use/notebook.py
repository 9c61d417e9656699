"""Asking a drive in a notebook: a session plays a log, answers with causes and a plan, and tries what would be.

    session = Session("town:110008", at_s=5.0)
    session.play()
    answer = session.ask("Why are you slowing down?")
    session.what_if(without=answer.things[0]); session.what_if(actions="brake")

Everything that is returned shows itself: ``_repr_html_`` holds its pictures and films and loads nothing from elsewhere.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from drive_wm.datasets.clips import make_clip, time_grid
from drive_wm.datasets.language.facts import Facts
from drive_wm.datasets.routes import points_ahead, route_of
from drive_wm.datasets.town.causes import Effect, owner_id, replay_for
from drive_wm.datasets.town.rerun import rerun
from drive_wm.eval.language_moment import SIGNAL, ask, without
from drive_wm.geometry import (
    transform_points,
    xyyaw_from_pose,
)
from drive_wm.media import tile_cameras
from drive_wm.model import DriveWM
from drive_wm.render import agents_at
from drive_wm.scene import VARIANTS, Scene, action_variant, load_log, open_scene
from drive_wm.types import (
    AGENT_COLUMNS,
    CATEGORIES,
    ByteArray,
    Cause,
    Clip,
    FloatArray,
    InputError,
    IntArray,
    Log,
    Plan,
    Poses,
    Track,
)
from drive_wm.use.answers import WHY, check_question
from drive_wm.use.future import Future, imagine
from drive_wm.use.html import beside, page, table
from drive_wm.use.pictures import (
    above,
    finer,
    of_width,
)
from drive_wm.use.shown import Answer, Film, Note, WhatIf

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
