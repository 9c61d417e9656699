"""Disjoint id ranges for everything discrete in the one sequence; an id outside its range raises.

History actions and future actions have ranges of their own: sharing them corrupts the loss of whoever predicts one
and is shown the other. Frame tokens come last; they are embedded by their FSQ digits and not by a table.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from drive_wm.encoders.actions import CURVATURE_BINS, SPEED_BINS
from drive_wm.encoders.text import TEXT_VOCABULARY
from drive_wm.types import CAUSE_KINDS, LATERAL, LONGITUDINAL, InputError

SPECIAL = ("<pad>", "<caption>", "<plan>", "<question>", "<decision>", "<causes>", "<text>", "<end>", "<no action>")
MAX_AGENTS = 16
POINTERS = MAX_AGENTS + 2  # every agent slot, a signal, nothing
POINT_SIGNAL, POINT_NOTHING = MAX_AGENTS, MAX_AGENTS + 1


@dataclass(frozen=True)
class IdRange:
    name: str
    start: int
    size: int

    @property
    def stop(self) -> int:
        return self.start + self.size

    def encode(self, index: Tensor) -> Tensor:
        """Indices in [0, size) -> ids; raises InputError for any other."""
        self._check(index, 0, self.size)
        return index + self.start

    def decode(self, ids: Tensor) -> Tensor:
        """Ids of this range -> indices; raises InputError for an id of another range."""
        self._check(ids, self.start, self.stop)
        return ids - self.start

    def _check(self, values: Tensor, low: int, high: int) -> None:
        if values.numel() and (int(values.min()) < low or int(values.max()) >= high):
            raise InputError(f"illegal {self.name} id: got {int(values.min())} to {int(values.max())}, "
                             f"expected {low} to {high - 1}")


def _ranges() -> dict[str, IdRange]:
    sizes = {"special": len(SPECIAL), "text": TEXT_VOCABULARY, "longitudinal": len(LONGITUDINAL),
             "lateral": len(LATERAL), "cause": len(CAUSE_KINDS), "pointer": POINTERS,
             "past_speed": SPEED_BINS, "past_curvature": CURVATURE_BINS,
             "future_speed": SPEED_BINS, "future_curvature": CURVATURE_BINS}
    out, start = {}, 0
    for name, size in sizes.items():
        out[name] = IdRange(name, start, size)
        start += size
    return out


RANGES = _ranges()
TABLE_SIZE = max(r.stop for r in RANGES.values())
FRAME_START = TABLE_SIZE  # frame token k of the flat sequence is FRAME_START + token


def special(name: str) -> int:
    return RANGES["special"].start + SPECIAL.index(name)


def legal(names: tuple[str, ...], extra: tuple[str, ...] = ()) -> Tensor:
    """(TABLE_SIZE,) bool: which ids a constrained decoder may emit: whole ranges and single special tokens."""
    mask = torch.zeros(TABLE_SIZE, dtype=torch.bool)
    for name in names:
        mask[RANGES[name].start:RANGES[name].stop] = True
    for name in extra:
        mask[special(name)] = True
    return mask
