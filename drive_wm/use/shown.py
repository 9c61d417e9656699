"""What a notebook shows: films, answers at a moment, and what would be; each has its own ``_repr_html_``."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from drive_wm.datasets.language.facts import Facts
from drive_wm.datasets.town.causes import Effect, owner_id
from drive_wm.eval.language_moment import SIGNAL, Said, plan_moved, true_ids
from drive_wm.eval.report import embed, say_cause
from drive_wm.geometry import (
    actions_from_xyyaw,
    compose_xyyaw,
    interpolate_poses,
    xyyaw_from_pose,
)
from drive_wm.media import Color, draw_trajectory_in_camera, png_bytes, tile_cameras, write_mp4
from drive_wm.render import agents_at
from drive_wm.scene import Scene
from drive_wm.types import (
    ByteArray,
    Explanation,
    FloatArray,
    Log,
    Plan,
)
from drive_wm.use.answers import driver_reason, sighted
from drive_wm.use.future import Future
from drive_wm.use.html import beside, chip, columns, img, legend, of_size, page, table, titled
from drive_wm.use.pictures import (
    ABOUT_COLOR,
    MARK_COLORS,
    Mark,
    above,
    best_camera,
    marked_cameras,
    marks_of,
    of_width,
)

AS_IS: Color = (0, 114, 178)
WHAT_IF: Color = (230, 120, 0)
DRIVER: Color = (0, 158, 115)
DRIVER_THEN: Color = (204, 121, 167)
NEAR = 3  # things that are offered to be taken out, beside stated and true causes


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
        made = sighted(self.scene, self.explanation)
        causes = "".join(f"<li>{chip(color)}{escape(say_cause(c))}</li>" for c, color in zip(made.causes, MARK_COLORS))
        fit = "which the plan does too" if self.said.consistent else f"while the plan is to {self.said.course}"
        about = chip(ABOUT_COLOR) if made.about else ""
        return (f"<p class='question'>{escape(made.question or '')}</p><p class='answer'>{about}{escape(made.text)}</p>"
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
