"""What was kept and what was dropped, to be looked at: clips as strips of three images with words below."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Sequence
from itertools import zip_longest

import cv2
import numpy as np

from drive_wm.datasets.curation.examine import THUMBNAIL_PX, Candidate
from drive_wm.datasets.curation.manifest import Row
from drive_wm.types import ByteArray

COLUMNS, STRIP_PX, GAP_PX, LINE_PX = 2, 100, 8, 15
MOMENTS_SHOWN = 3
PAPER, INK, RED = (250, 250, 248), (40, 40, 44), (176, 32, 32)
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.42


def spread(rows: Sequence[Row], count: int) -> list[int]:
    """Indices of up to ``count`` rows, in turn of each source and, there, of each manoeuvre or first reason to drop."""
    groups: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, row in enumerate(rows):
        kind = row.reason.partition(",")[0] or str(row.tags["manoeuvre"])
        groups[row.source][kind].append(i)
    turns = [[list(group) for group in kinds.values()] for kinds in groups.values()]
    queues = [[i for rank in zip_longest(*kinds) for i in rank if i is not None] for kinds in turns]
    return [i for rank in zip_longest(*queues) for i in rank if i is not None][:count]


def strip(candidate: Candidate) -> ByteArray:
    """(STRIP_PX, 3 thumbnails wide, 3): the clip's moments, left to right; grey where an image could not be read."""
    out = np.full((STRIP_PX, MOMENTS_SHOWN * THUMBNAIL_PX, 3), 225, np.uint8)
    for k, text in enumerate(candidate.images[:MOMENTS_SHOWN]):
        image = cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            continue
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        scale = min(1.0, STRIP_PX / image.shape[0])
        size = max(1, int(image.shape[1] * scale)), max(1, int(image.shape[0] * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        y, x = (STRIP_PX - size[1]) // 2, k * THUMBNAIL_PX + (THUMBNAIL_PX - size[0]) // 2
        out[y:y + size[1], x:x + size[0]] = image
    return out


def fitting(text: str, width_px: int) -> str:
    """The text, or its beginning with two dots, so that it is no wider."""
    if cv2.getTextSize(text, FONT, FONT_SCALE, 1)[0][0] <= width_px:
        return text
    while text and cv2.getTextSize(text + "..", FONT, FONT_SCALE, 1)[0][0] > width_px:
        text = text[:-1]
    return text + ".."


def wrapped(text: str, width_px: int, lines: int) -> list[str]:
    """The text in at most so many lines; what does not fit into the last ends in two dots."""
    out = [""]
    for word in text.split():
        longer = f"{out[-1]} {word}".strip()
        if len(out) < lines and cv2.getTextSize(longer, FONT, FONT_SCALE, 1)[0][0] > width_px:
            out.append(word)
        else:
            out[-1] = longer
    return [*(fitting(line, width_px) for line in out), *[""] * (lines - len(out))]


def tile(row: Row, candidate: Candidate) -> ByteArray:
    """A strip with the clip's name and length, why it was dropped or what it weighs, and its caption or error."""
    picture = strip(candidate)
    state = f"DROPPED: {row.reason}" if not row.keep else f"{row.split}, weight {row.weight:.2f}"
    if row.duplicate_of:
        state += f" of {row.duplicate_of}"
    elif not row.keep and candidate.camera:
        state += f" ({candidate.camera})"
    width, told = picture.shape[1] - 4, row.captions[-1] if row.captions else str(row.lineage.get("error", ""))
    lines = [(f"{row.clip_id}  {row.seconds:.1f} s", INK), (state, INK if row.keep else RED),
             *((line, INK) for line in wrapped(told, width, 2))]
    words = np.full((len(lines) * LINE_PX + 4, picture.shape[1], 3), PAPER, np.uint8)
    for k, (text, color) in enumerate(lines):
        at = (2, (k + 1) * LINE_PX - 3)
        cv2.putText(words, fitting(text, width), at, FONT, FONT_SCALE, color, 1, cv2.LINE_AA)
    return np.concatenate([picture, words])


def sheet(rows: Sequence[Row], found: Sequence[Candidate], chosen: Sequence[int]) -> ByteArray | None:
    """(H, W, 3) RGB of the chosen clips, two beside one another; None where there are none."""
    tiles = [tile(rows[i], found[i]) for i in chosen]
    if not tiles:
        return None
    height, width = tiles[0].shape[:2]
    lines = -(-len(tiles) // COLUMNS)
    out = np.full((lines * (height + GAP_PX) + GAP_PX, COLUMNS * (width + GAP_PX) + GAP_PX, 3), PAPER, np.uint8)
    for k, image in enumerate(tiles):
        y = GAP_PX + k // COLUMNS * (height + GAP_PX)
        x = GAP_PX + k % COLUMNS * (width + GAP_PX)
        out[y:y + height, x:x + width] = image
    return out
