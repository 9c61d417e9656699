"""A user marks some clips good or bad; a logistic regression on the quality measures learns to mark the others."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.types import BoolArray, FloatArray, InputError

FORMAT = "drive_wm.quality_classifier@1"
FEATURES = ("blur", "brightness", "contrast", "change", "dark_share", "bright_share", "frozen_share", "lost_share",
            "broken_share", "sync_s", "pose_jumps", "invalid_share")
GOOD = {"good": True, "1": True, "true": True, "keep": True, "bad": False, "0": False, "false": False, "drop": False}
MIN_MARKS = 5       # of each kind, below which nothing can be learned
FOLDS = 5


def read_marks(path: Path) -> dict[str, bool]:
    """clip_id -> good. JSON: {"clip": "good", ...}; CSV: two columns, clip_id and mark. Raises InputError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"--marks {path}: {error.strerror}") from error
    if path.suffix == ".json":
        try:
            pairs = list(json.loads(text).items())
        except (json.JSONDecodeError, AttributeError) as error:
            raise InputError(f'--marks {path}: expected JSON such as {{"clip id": "good"}} ({error})') from error
    else:
        rows = [row for row in csv.reader(text.splitlines()) if row]
        if any(len(row) < 2 for row in rows):
            raise InputError(f"--marks {path}: expected two columns a line, clip_id,mark")
        pairs = [(row[0].strip(), row[1].strip()) for row in rows if row[0].strip() != "clip_id"]
    marks: dict[str, bool] = {}
    for clip, mark in pairs:
        known = GOOD.get(str(mark).lower())
        if known is None:
            raise InputError(f"--marks {path}: {clip} is marked {mark!r}, expected good or bad")
        if marks.setdefault(str(clip), known) != known:
            raise InputError(f"--marks {path}: {clip} is marked both good and bad")
    return marks


@dataclass(frozen=True)
class Classifier:
    """p(good) = sigmoid(weights . (x - mean) / std + bias) over ``features``.

    accuracy: cross-validated; base_rate: of always saying what most marks say.
    """

    features: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    marks: int
    accuracy: float
    base_rate: float

    def good(self, measures: Sequence[Mapping[str, float]]) -> FloatArray:
        """(N,) probability of being good."""
        x = (table(measures, self.features) - np.array(self.mean)) / np.array(self.std)
        return sigmoid(x @ np.array(self.weights) + self.bias)

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Classifier:
        """Raises InputError where it is not one."""
        if value.get("format") != FORMAT:
            raise InputError(f"a classifier of format {value.get('format')!r}, expected {FORMAT}")
        known: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}
        known.pop("format")
        return cls(**known)


def table(measures: Sequence[Mapping[str, float]], features: Sequence[str] = FEATURES) -> FloatArray:
    return np.array([[float(row[name]) for name in features] for row in measures], dtype=np.float64)


def sigmoid(z: FloatArray) -> FloatArray:
    return 1.0 / (1.0 + np.exp(-np.clip(z, -30.0, 30.0)))


def fit(x: FloatArray, good: BoolArray, l2: float = 1.0, steps: int = 30) -> FloatArray:
    """(F + 1,) weights and bias of the ridge logistic regression, by Newton's method; both classes weigh the same."""
    design = np.column_stack([x, np.ones(len(x))])
    share = np.where(good, 0.5 / max(good.mean(), 1e-9), 0.5 / max(1 - good.mean(), 1e-9))
    penalty = np.diag([l2] * x.shape[1] + [1e-6])
    weights = np.zeros(design.shape[1])
    for _ in range(steps):
        p = sigmoid(design @ weights)
        slope = design.T @ (share * (p - good)) + penalty @ weights
        curve = (design * (share * p * (1 - p))[:, None]).T @ design + penalty
        weights = weights - np.linalg.solve(curve, slope)
    return weights


def scale(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    std = x.std(0)
    return x.mean(0), np.where(std > 1e-9, std, 1.0)


def learn(measures: Sequence[Mapping[str, float]], good: Sequence[bool], seed: int = 0) -> Classifier:
    """Learns from marked clips, at least MIN_MARKS of each kind, else InputError. The accuracy is of unseen folds."""
    x, y = table(measures), np.array(good, dtype=bool)
    if min(int(y.sum()), int((~y).sum())) < MIN_MARKS:
        raise InputError(f"{int(y.sum())} clips marked good and {int((~y).sum())} bad; "
                         f"a classifier needs {MIN_MARKS} of each")
    fold = np.zeros(len(y), dtype=int)
    rng = np.random.default_rng(seed)
    for kind in (True, False):  # each fold holds its share of both
        members = rng.permutation(np.flatnonzero(y == kind))
        fold[members] = np.arange(len(members)) % FOLDS
    right = 0
    for k in range(FOLDS):
        train, held = fold != k, fold == k
        mean, std = scale(x[train])
        weights = fit((x[train] - mean) / std, y[train])
        guess = ((x[held] - mean) / std) @ weights[:-1] + weights[-1] > 0
        right += int((guess == y[held]).sum())
    mean, std = scale(x)
    weights = fit((x - mean) / std, y)
    rounded = [tuple(float(v) for v in np.round(part, 8)) for part in (mean, std, weights[:-1])]
    return Classifier(FEATURES, rounded[0], rounded[1], rounded[2], round(float(weights[-1]), 8), len(y),
                      right / len(y), float(max(y.mean(), 1 - y.mean())))
