"""What is to be seen in a generated picture, by the probe: classes, the agents that should be there, lamps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from drive_wm.eval.world.lamps import Lamp
from drive_wm.eval.world.probe import Reading, class_counts
from drive_wm.eval.world.protocol import WorldProtocol
from drive_wm.render import SEMANTICS, Labels
from drive_wm.types import BoolArray, ByteArray, FloatArray, IntArray

KINDS = {"vehicle": ("car", "van", "truck", "bus"), "two-wheeler": ("motorcycle", "bicycle"),
         "pedestrian": ("pedestrian",)}
KIND_OF_CLASS = np.zeros(len(SEMANTICS), np.uint8)  # 0: none of these
for _index, _names in enumerate(KINDS.values()):
    KIND_OF_CLASS[[SEMANTICS.index(name) for name in _names]] = _index + 1
MARGIN_PX = 3  # what is read so near to a true agent is that agent


@dataclass
class Sights:
    """What one step of a future shows, over all cameras. counts: (3, classes) as ``probe.class_counts``.

    asked: true agents in sight that the probe finds in the true picture; kept: of those, found in the generated one;
    colored: of those kept, with their colour. invented: agents where none is, in ``images``. lamps, lamps_right.
    """

    counts: IntArray
    asked: int = 0
    kept: int = 0
    colored: int = 0
    invented: int = 0
    images: int = 0
    lamps: int = 0
    lamps_right: int = 0


def look(frames: Mapping[str, ByteArray], read: Mapping[str, tuple[Reading, int]], truth: Mapping[str, ByteArray],
         true_classes: Mapping[str, ByteArray], labels: Mapping[str, Labels], lamps: Mapping[str, Sequence[Lamp]],
         protocol: WorldProtocol) -> Sights:
    """One step. read: camera -> reading and the row of it; true_classes: what the probe read in the true pictures."""
    sights = Sights(np.zeros((3, len(SEMANTICS)), np.int64))
    for name, label in labels.items():
        reading, row = read[name]
        classes = reading.classes[row]
        sights.counts = sights.counts + class_counts(classes, label.semantics)
        sights.images += 1
        kinds, true_kinds = KIND_OF_CLASS[classes], KIND_OF_CLASS[true_classes[name]]
        for pixels, kind in agents_in(label, protocol.seen_pixels):
            if (true_kinds[pixels] == kind).mean() < protocol.kept_share:
                continue
            mine = pixels & (kinds == kind)
            kept = mine.sum() >= protocol.kept_share * pixels.sum()
            sights.asked, sights.kept = sights.asked + 1, sights.kept + int(kept)
            if kept:
                far = np.linalg.norm(mean_lab(frames[name], mine) - mean_lab(truth[name], mine))
                sights.colored += int(far <= protocol.color_lab)
        sights.invented += invented(kinds, label, protocol.seen_pixels)
        for lamp in lamps[name]:
            sights.lamps += 1
            sights.lamps_right += int(reading.lamps[row][:, lamp.pixels].sum(1).argmax() == lamp.state)
    return sights


def agents_in(label: Labels, least: int) -> list[tuple[BoolArray, int]]:
    """(pixels, kind) of the agents of KINDS in a picture."""
    found = []
    ids, sizes = np.unique(label.instance[label.instance >= 0], return_counts=True)
    for owner in ids[sizes >= least]:
        pixels = label.instance == owner
        kind = int(np.bincount(KIND_OF_CLASS[label.semantics[pixels]], minlength=len(KINDS) + 1).argmax())
        if kind:
            found.append((pixels, kind))
    return found


def invented(kinds: ByteArray, label: Labels, least: int) -> int:
    """Patches read as one kind of agent, of at least so many pixels, that touch no true agent."""
    import cv2

    there = cv2.dilate((label.instance >= 0).astype(np.uint8), np.ones((2 * MARGIN_PX + 1,) * 2, np.uint8)) > 0
    total = 0
    for kind in range(1, len(KINDS) + 1):
        count, patch, stats, _ = cv2.connectedComponentsWithStats((kinds == kind).astype(np.uint8))
        touched = set(np.unique(patch[there]).tolist())
        total += sum(i not in touched and stats[i, cv2.CC_STAT_AREA] >= least for i in range(1, count))
    return total


def mean_lab(image: ByteArray, pixels: BoolArray) -> FloatArray:
    """(3,) CIE L*a*b* of the mean colour of those pixels."""
    import cv2

    rgb = (image[pixels].mean(0) / 255).astype(np.float32).reshape(1, 1, 3)
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), np.float64).reshape(3)


def mean_iou(counts: IntArray, least: int = 1) -> float:
    """Mean over the classes that are there, of (3, classes) summed over pictures."""
    both, said, true = counts
    there = true >= least
    return float((both[there] / np.maximum(said + true - both, 1)[there]).mean()) if there.any() else float("nan")
