"""One self-contained report.html for a run: no network, no script from elsewhere; pictures and videos lie inside it.

A report is a title and a list of sections, plain values that a command fills in; the template turns them into HTML.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeGuard

import numpy as np

from drive_wm import __version__
from drive_wm import types as words
from drive_wm.eval.run_folder import RunFolder
from drive_wm.types import ByteArray, InputError

MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".mp4": "video/mp4"}


@dataclass(frozen=True)
class Heading:
    kind: ClassVar[str] = "heading"
    text: str
    note: str = ""


@dataclass(frozen=True)
class Text:
    """Paragraphs of plain text, parted by an empty line."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Table:
    """Rows of values; None and NaN are shown as missing, never as 0.

    best: column -> "max" | "min", to be marked. unranked: rows that compete for no mark, such as an oracle's.
    """

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    best: Mapping[str, str] = field(default_factory=dict)
    unranked: Sequence[int] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table of {len(self.columns)} columns got a row of {len(row)}: {list(row)}")


@dataclass(frozen=True)
class Picture:
    """image: (H, W, 3) uint8 RGB, or the path of a PNG or JPEG. narrow: do not stretch it over the whole page."""

    kind: ClassVar[str] = "picture"
    image: ByteArray | Path | str
    caption: str = ""
    narrow: bool = False


@dataclass(frozen=True)
class Video:
    """The path of an MP4. All videos of a report play in step."""

    kind: ClassVar[str] = "video"
    path: Path | str
    caption: str = ""


@dataclass(frozen=True)
class KeyValues:
    kind: ClassVar[str] = "keyvalues"
    items: Mapping[str, Any]


@dataclass(frozen=True)
class Explanation:
    """A decision, its causes (strongest first) and its words, as an answer to ``question``."""

    kind: ClassVar[str] = "explanation"
    decision: str
    causes: Sequence[str] = ()
    text: str = ""
    question: str | None = None
    post_hoc: bool = False

    @classmethod
    def of(cls, explanation: words.Explanation) -> Explanation:
        return cls(f"{explanation.longitudinal}, {explanation.lateral}", [say_cause(c) for c in explanation.causes],
                   explanation.text, explanation.question, explanation.post_hoc)


@dataclass(frozen=True)
class Failures:
    """What went wrong, one line each; shown even when empty, so that silence is a statement."""

    kind: ClassVar[str] = "failures"
    items: Sequence[str] = ()


@dataclass(frozen=True)
class Chart:
    """Lines over a common axis. series: name -> (N, 2) of x and y; NaN breaks a line."""

    kind: ClassVar[str] = "chart"
    series: Mapping[str, Any]
    x_label: str = ""
    y_label: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Timeline:
    """What is known over time, a bar each. rows: name -> (start, end, state); state: "sound", "damaged", "missing"."""

    kind: ClassVar[str] = "timeline"
    rows: Mapping[str, Sequence[tuple[float, float, str]]]
    x_label: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Row:
    """Sections beside one another, below one another on a narrow screen."""

    kind: ClassVar[str] = "row"
    sections: Sequence[Any]


@dataclass(frozen=True)
class Moment:
    """Something to look at, at_s into a drive. counted: it cost score."""

    at_s: float
    text: str
    counted: bool = True


@dataclass(frozen=True)
class SceneDrive:
    """A row of a scene: who drove, how well, and what went wrong."""

    label: str
    total: float | None
    color: str
    moments: Sequence[Moment] = ()
    trusted: bool = True
    oracle: bool = False


@dataclass(frozen=True)
class Film:
    """Pictures side by side in one image, ``count`` of them. drive: the row it belongs to, -1 for the log's own."""

    label: str
    uri: str
    count: int
    drive: int = -1


@dataclass(frozen=True)
class Scene:
    """A scene from above that can be scrubbed. data: JSON for the page's script, see scene_view.scene_section."""

    kind: ClassVar[str] = "scene"
    name: str
    note: str
    map_uri: str
    data: str
    drives: Sequence[SceneDrive]
    films: Sequence[Film] = ()


Section = (Heading | Text | Table | Picture | Video | KeyValues | Explanation | Failures | Chart | Timeline | Row
           | Scene)


def write_report(run: RunFolder, title: str, sections: Sequence[Section], subtitle: str = "") -> Path:
    """report.html in the run's folder. The same sections give the same bytes."""
    text = render_report(title, sections, subtitle, seed=run.seed, arguments=run.arguments)
    return run.write_text("report.html", text)


def render_report(title: str, sections: Sequence[Section], subtitle: str = "", *, seed: int | None = None,
                  arguments: Sequence[str] = ()) -> str:
    """The HTML text; raises InputError where a picture or video is absent or of an unknown kind."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
    except ImportError as error:
        raise InputError("reports need jinja2: pip install jinja2") from error
    environment = Environment(loader=PackageLoader("drive_wm.eval"), autoescape=select_autoescape(["html", "j2"]),
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"cell": cell, "cells": cells, "numeric": numeric_columns, "best": best_rows, "embed": embed,
                            "plot": plot, "bars": bars, "script": script}
    template = environment.get_template("report.html.j2")
    return template.render(title=title, subtitle=subtitle, sections=sections, seed=seed, version=__version__,
                           command=" ".join(["drive-wm", *arguments]) if arguments else "")


def say_cause(cause: words.Cause) -> str:
    """'red light s3 (red), 12.0 m ahead and 1.5 m left'."""
    parts = [cause.kind] + ([cause.category] if cause.category and cause.category not in cause.kind else [])
    text = " ".join(parts + ([cause.agent_id] if cause.agent_id else []))
    if cause.state:
        text += f" ({cause.state})"
    if cause.visible is False:
        text += " (hidden)"
    if cause.position_m is None:
        return text
    x, y = cause.position_m
    along, across = "ahead" if x >= 0 else "behind", "left" if y >= 0 else "right"
    return f"{text}, {abs(x):.1f} m {along} and {abs(y):.1f} m {across}"


def script(text: str) -> Any:
    """JSON that may stand inside a <script> element as it is."""
    from markupsafe import Markup

    return Markup(text.replace("<", "\\u003c"))


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def is_float(value: Any) -> TypeGuard[float]:
    return isinstance(value, (float, np.floating))


def cell(value: Any, decimals: int | None = None) -> str:
    """A value as a reader wants it, an en dash where there is none; decimals: of a float, by its size unless given."""
    if value is None or (is_number(value) and not math.isfinite(value)):
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if not is_float(value):
        return f"{value:,}" if is_number(value) else str(value)
    if decimals is None and value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:,.{decimals_for(abs(value)) if decimals is None else decimals}f}"


def decimals_for(size: float) -> int:
    return 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 3


def cells(table: Table) -> list[list[str]]:
    """The text of every cell; a column's floats share their number of decimals, so that they align.

    Unless one is a thousand times another: then they are different things, and each is written by its own size.
    """
    columns = []
    for i in range(len(table.columns)):
        values = [row[i] for row in table.rows]
        sizes = [abs(v) for v in values if is_float(v) and math.isfinite(v)]
        unlike = max(sizes, default=0.0) >= 1000 * min((size for size in sizes if size), default=1.0)
        columns.append([cell(value, None if unlike else decimals_for(max(sizes, default=0.0))) for value in values])
    return [list(row) for row in zip(*columns)]


def numeric_columns(table: Table) -> set[int]:
    """Indices of the columns that hold numbers and nothing else but missing values."""
    columns = {i: [row[i] for row in table.rows if row[i] is not None] for i in range(len(table.columns))}
    return {i for i, values in columns.items() if values and all(map(is_number, values))}


def best_rows(table: Table) -> dict[str, set[int]]:
    """Column -> indices of the rows that hold its best value."""
    marked: dict[str, set[int]] = {}
    for column, way in table.best.items():
        place = list(table.columns).index(column)
        column_values = ((i, row[place]) for i, row in enumerate(table.rows) if i not in table.unranked)
        values = {i: value for i, value in column_values if is_number(value) and math.isfinite(value)}
        if values:
            best = (max if way == "max" else min)(values.values())
            marked[column] = {i for i, value in values.items() if value == best}
    return marked


def embed(source: ByteArray | Path | str) -> str:
    """A data URI of an image array, or of a PNG, JPEG or MP4 file."""
    if isinstance(source, np.ndarray):
        return _data_uri("image/png", _png(source))
    path = Path(source)
    media_type = MEDIA_TYPES.get(path.suffix.lower())
    if media_type is None:
        raise InputError(f"report: {path.name} is neither of {', '.join(MEDIA_TYPES)}")
    if not path.is_file():
        raise InputError(f"report: {path} does not exist")
    return _data_uri(media_type, path.read_bytes())


def _data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def _png(image: ByteArray) -> bytes:
    import cv2

    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"picture must be (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"picture of shape {image.shape} cannot be written as PNG")
    return data.tobytes()


# --- the line chart -----------------------------------------------------------------------------------------------

CHART_W, CHART_H, LEFT, RIGHT, TOP, BOTTOM = 1080.0, 340.0, 72.0, 16.0, 12.0, 50.0


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that lie within [low, high]."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def plot(chart: Chart) -> dict[str, Any]:
    """Everything the SVG of a chart needs, in its own pixels: ticks, and the pieces of each line."""
    series = {name: np.asarray(points, dtype=np.float64).reshape(-1, 2) for name, points in chart.series.items()}
    points = np.concatenate([*series.values(), np.empty((0, 2))])
    finite = points[np.isfinite(points).all(1)]
    if not len(finite):
        raise ValueError("chart: holds no finite point")
    low, high = finite.min(0), finite.max(0)
    flat = high - low < 1e-12
    margin = np.where(flat, np.maximum(np.abs(high), 1.0) * 0.5, [0.0, 0.06] * (high - low))
    low, high = low - margin, high + margin
    scale = np.array([CHART_W - LEFT - RIGHT, TOP + BOTTOM - CHART_H]) / (high - low)  # y grows downwards in SVG

    def place(xy: np.ndarray) -> np.ndarray:
        return np.array([LEFT, CHART_H - BOTTOM]) + (xy - low) * scale

    return {"width": CHART_W, "height": CHART_H, "left": LEFT, "right": CHART_W - RIGHT, "bottom": CHART_H - BOTTOM,
            "x_ticks": [(place(np.array([x, low[1]]))[0], f"{x:g}") for x in ticks(low[0], high[0])],
            "y_ticks": [(place(np.array([low[0], y]))[1], f"{y:g}") for y in ticks(low[1], high[1])],
            "lines": [(name, _pieces(place(xy))) for name, xy in series.items()]}


BAR_H, BAR_GAP, LETTER_W = 18.0, 10.0, 8.2


def bars(timeline: Timeline) -> dict[str, Any]:
    """The SVG of a timeline in its own pixels: ticks, and rectangles (x, y, width, state) under each row's name."""
    stretches = [stretch for row in timeline.rows.values() for stretch in row]
    if not stretches:
        raise ValueError("timeline: holds no stretch")
    low, high = min(s[0] for s in stretches), max(s[1] for s in stretches)
    left = 20 + LETTER_W * max(map(len, timeline.rows))
    scale = (CHART_W - left - RIGHT) / max(high - low, 1e-9)
    rows = [(name, TOP + i * (BAR_H + BAR_GAP), [(left + (a - low) * scale, max((b - a) * scale, 2.0), state)
                                                for a, b, state in row])
            for i, (name, row) in enumerate(timeline.rows.items())]
    bottom = TOP + len(rows) * (BAR_H + BAR_GAP)
    states = [state for state in ("sound", "damaged", "missing") if any(s[2] == state for s in stretches)]
    return {"width": CHART_W, "height": bottom + BOTTOM - 8, "left": left, "right": CHART_W - RIGHT, "bottom": bottom,
            "rows": rows, "bar": BAR_H, "states": states,
            "x_ticks": [(left + (x - low) * scale, f"{x:g}") for x in ticks(low, high)]}


def _pieces(xy: np.ndarray) -> list[str]:
    """SVG point lists of the unbroken stretches of a line (N, 2)."""
    valid = np.isfinite(xy).all(1)
    cuts = np.flatnonzero(np.diff(valid.astype(np.int8))) + 1
    stretches = [part for part, ok in zip(np.split(xy, cuts), np.split(valid, cuts)) if len(ok) and ok[0]]
    return [" ".join(f"{x:.1f},{y:.1f}" for x, y in part) for part in stretches]
