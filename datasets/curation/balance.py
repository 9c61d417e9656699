"""Sampling weights: what is rare is drawn more often, by its inverse frequency to a power."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from drive_wm.types import FloatArray, InputError

BALANCED = ("manoeuvre", "speed", "weather", "place")
CEILING = 8.0   # times the mean weight
EXPONENT = 0.5  # half-way between as recorded (0) and all kinds equal (1), as GAIA-1 (2023) has it


def frequencies(tags: Sequence[Mapping[str, Any]], seconds: Sequence[float], tag: str) -> dict[str, float]:
    """The share of time of each value of a tag."""
    time: dict[str, float] = {}
    for row, length in zip(tags, seconds):
        time[str(row[tag])] = time.get(str(row[tag]), 0.0) + length
    total = sum(time.values())
    return {value: length / total for value, length in time.items()}


def weights(tags: Sequence[Mapping[str, Any]], seconds: Sequence[float], exponent: float = EXPONENT,
            over: Sequence[str] = BALANCED, ceiling: float = CEILING) -> FloatArray:
    """(N,) weight of each moment of a clip: prod over tags (1 / frequency of its value) ** exponent, mean 1 over time.

    Each tag counts by itself, as if tags were independent (GAIA-1's product of marginals). With one tag and exponent 1
    all values are drawn equally often; with 0 all weights are 1. What is rare in every way at once is drawn at most
    ``ceiling`` times as often as the mean, so that a handful of clips is not learned by heart. Raises InputError for an
    exponent outside [0, 1] or a ceiling below 1.
    """
    if not 0 <= exponent <= 1:
        raise InputError(f"--balance {exponent}: expected 0 (as recorded) to 1 (all kinds equally often)")
    if ceiling < 1:
        raise InputError(f"balance ceiling {ceiling}: expected at least 1, the mean weight")
    if not len(tags):
        return np.zeros(0)
    log_weight = np.zeros(len(tags))
    for tag in over:
        share = frequencies(tags, seconds, tag)
        log_weight -= exponent * np.log([share[str(row[tag])] for row in tags])
    weight = np.exp(log_weight - log_weight.max())
    while weight.max() > ceiling * np.average(weight, weights=seconds) * (1 + 1e-6):  # the mean falls with each cut
        weight = np.minimum(weight, ceiling * np.average(weight, weights=seconds))
    return weight / np.average(weight, weights=seconds)
