"""Is a difference more than luck? Bootstrap intervals, paired tests, and how well two simulators agree on planners.

Everything is over scenes, the unit that was drawn at random, and seeded: the same numbers give the same intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from drive_wm.types import FloatArray, IntArray

RESAMPLES, MOST_UNDEFINED = 2000, 0.1
EXACT_UP_TO = 12  # pairs; beyond, sign flips are drawn


def interval(value: Callable[[IntArray], FloatArray], count: int, seed: int, resamples: int,
             undefined: float = 0.0) -> tuple[float, float]:
    """The 95% percentile bootstrap interval (Efron, 1979) of what ``value`` makes of indices (R, count) -> (R,).

    Resamples of which that is not finite are left out; (NaN, NaN) where they reach the share ``undefined`` of all.
    """
    drawn = value(np.random.default_rng(seed).integers(0, count, (resamples, count)))
    whole = drawn[np.isfinite(drawn)]
    lost = resamples - len(whole)
    if lost and lost >= undefined * resamples:
        return float("nan"), float("nan")
    low, high = np.percentile(whole, [2.5, 97.5])
    return float(low), float(high)


def bootstrap(values: FloatArray, seed: int, resamples: int = 1000) -> tuple[float, float, float]:
    """Mean and the 95% interval of the mean; NaN where there are no values, no interval (NaN) for a single one."""
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    if len(values) == 1:
        return float(values[0]), float("nan"), float("nan")
    return float(values.mean()), *interval(lambda draws: values[draws].mean(1), len(values), seed, resamples)


@dataclass(frozen=True)
class Paired:
    """The mean of a - b over ``count`` pairs, its 95% interval and the two-sided p of the sign-flip test."""

    count: int
    difference: float
    low: float
    high: float
    p: float


def paired(a: Sequence[float], b: Sequence[float], seed: int = 0) -> Paired:
    """Compares pairs taken on the same scenes; pairs of which one is NaN are left out.

    The interval is the percentile bootstrap over pairs (Efron, 1979). p is that of Fisher's randomisation test: how
    often random signs give a mean difference as large; exact up to EXACT_UP_TO pairs that differ.
    """
    gap = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    gap = gap[np.isfinite(gap)]
    mean, low, high = bootstrap(gap, seed, RESAMPLES)
    return Paired(len(gap), mean, low, high, sign_flip_p(gap, seed) if len(gap) else float("nan"))


def sign_flip_p(gap: FloatArray, seed: int, draws: int = 9999) -> float:
    """P(|mean| >= the one observed) if each difference (N,) were as likely to have the other sign."""
    gap = gap[gap != 0.0]
    n = len(gap)
    if not n:
        return 1.0
    if n <= EXACT_UP_TO:
        signs = 1.0 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        return float(np.mean(np.abs(signs @ gap) >= abs(gap.sum()) - 1e-12))
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (draws, n))
    return float((1 + np.sum(np.abs(signs @ gap) >= abs(gap.sum()) - 1e-12)) / (draws + 1))


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for how many were asked at once (Holm, 1979); NaN stays and does not count."""
    values = np.asarray(p, dtype=np.float64)
    asked = np.flatnonzero(np.isfinite(values))
    order = asked[np.argsort(values[asked], kind="stable")]
    raised = np.maximum.accumulate(values[order] * (len(order) - np.arange(len(order))))
    out = values.copy()
    out[order] = np.minimum(raised, 1.0)
    return [float(v) for v in out]


# --- do two simulators agree? -------------------------------------------------------------------------------------


def pearson(x: FloatArray, y: FloatArray) -> float:
    """Correlation of two vectors (N,); NaN where one of them is constant."""
    if len(x) < 2 or np.ptp(x) < 1e-12 or np.ptp(y) < 1e-12:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def spearman(x: FloatArray, y: FloatArray) -> float:
    """Correlation of ranks, ties sharing their mean rank."""
    from scipy.stats import rankdata

    return pearson(rankdata(x), rankdata(y))


def r_squared(x: FloatArray, y: FloatArray) -> float:
    """The share of y's variance that a straight line in x explains: Pearson's squared."""
    return pearson(x, y) ** 2


def mmrv(real: FloatArray, simulated: FloatArray) -> float:
    """Mean maximum rank violation (SIMPLER, 2024): mean_i max_j |R_i - R_j| [(S_i > S_j) != (R_i > R_j)]; 0 is best."""
    wrong = (simulated[:, None] > simulated[None]) != (real[:, None] > real[None])
    return float((np.abs(real[:, None] - real[None]) * wrong).max(1).mean())


MEASURES: Mapping[str, Callable[[FloatArray, FloatArray], float]] = {
    "pearson": pearson, "spearman": spearman, "r2": r_squared, "mmrv": mmrv}


def agreement(reference: FloatArray, simulated: FloatArray, seed: int = 0,
              resamples: int = 1000) -> dict[str, tuple[float, float, float]]:
    """Scores (P, L) of P planners on L logs in two simulators -> measure -> value, low, high.

    A planner's score is its mean over logs; the 95% intervals are the percentile bootstrap over logs, of all planners
    at once, as they drove the same ones. Resamples in which a measure is not defined are left out; there is no interval
    where those are more than a tenth.
    """
    out = {}
    for name, measure in MEASURES.items():
        low, high = interval(
            lambda draws: np.array([measure(reference[:, d].mean(1), simulated[:, d].mean(1)) for d in draws]),
            reference.shape[1], seed, resamples, MOST_UNDEFINED)
        out[name] = (measure(reference.mean(1), simulated.mean(1)), low, high)
    return out
