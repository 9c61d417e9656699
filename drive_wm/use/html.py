"""Pieces of HTML that hold their pictures and load nothing, and pictures put together for them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import cv2
import numpy as np

from drive_wm.eval.report import embed
from drive_wm.media import FONT, Color
from drive_wm.types import (
    ByteArray,
)

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
