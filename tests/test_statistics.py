"""Numbers that say whether a difference is more than luck, worked out by hand."""

import numpy as np
import pytest

from drive_wm.eval.statistics import agreement, holm, mmrv, paired, pearson, r_squared, sign_flip_p, spearman


def test_sign_flips_are_exact_for_few_pairs() -> None:
    assert sign_flip_p(np.array([1.0, 1.0, 1.0]), 0) == 2 / 8  # only all plus and all minus are as large
    assert sign_flip_p(np.array([1.0, -1.0, 0.0]), 0) == 1.0
    assert sign_flip_p(np.zeros(4), 0) == 1.0
    drawn = sign_flip_p(np.full(20, 0.5), 0)
    assert drawn == sign_flip_p(np.full(20, 0.5), 0) == pytest.approx(1e-4, abs=2e-4)


def test_pairs_with_an_unknown_are_left_out() -> None:
    gap = paired([1.0, 2.0, np.nan, 4.0], [0.0, 1.0, 5.0, 3.0])
    assert (gap.count, gap.difference, gap.low, gap.high) == (3, 1.0, 1.0, 1.0) and gap.p == 0.25


def test_holm() -> None:
    assert holm([0.01, 0.04, float("nan"), 0.03])[:2] == [pytest.approx(0.03), pytest.approx(0.06)]
    assert holm([0.01, 0.04, float("nan"), 0.03])[3] == pytest.approx(0.06) and holm([0.9, 0.8]) == [1.0, 1.0]


def test_correlations() -> None:
    x = np.array([0.0, 1.0, 2.0, 3.0])
    assert pearson(x, 2.0 * x + 1.0) == pytest.approx(1.0) and pearson(x, -x) == pytest.approx(-1.0)
    assert spearman(x, np.exp(x)) == pytest.approx(1.0) and r_squared(x, -x) == pytest.approx(1.0)
    assert spearman(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(np.sqrt(3) / 2)
    assert np.isnan(pearson(x, np.ones(4)))


def test_mmrv_is_the_worst_that_a_wrong_order_costs() -> None:
    real = np.array([0.0, 0.5, 1.0])
    assert mmrv(real, real * 3.0) == 0.0
    assert mmrv(real, np.array([0.5, 0.0, 1.0])) == pytest.approx((0.5 + 0.5 + 0.0) / 3)
    assert mmrv(real, -real) == pytest.approx((1.0 + 0.5 + 1.0) / 3)


def test_agreement_of_a_faithful_simulator() -> None:
    rng = np.random.default_rng(0)
    reference = rng.random((5, 1)) + 0.01 * rng.random((5, 30))
    found = agreement(reference, reference)
    assert found["pearson"][0] == pytest.approx(1.0) and found["mmrv"] == (0.0, 0.0, 0.0)
    noise = agreement(reference, rng.random((5, 30)))
    assert noise["pearson"][1] <= noise["pearson"][0] <= noise["pearson"][2] < 1.0
