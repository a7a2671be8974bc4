"""Bounds against order statistics by hand, and risk control against MAPIE."""

from __future__ import annotations

import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.risk_control import MultiLabelClassificationController, control_fwer
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value

from covtoken.economy.certificate.bounds import (
    allowed_misses,
    check_level,
    expected_risk_bound,
    fewest_units,
    hoeffding_bentkus,
    rank_bound,
    threshold_bound,
)
from covtoken.economy.certificate.correction import (
    check_test,
    fixed_sequence,
    learn_then_test,
    ratio_grid,
    union_level,
)
from covtoken.economy.certificate.losses import unit_losses
from covtoken.economy.certificate.strata import Stratum, by_stratum, strictest
from covtoken.errors import CovtokenError

hundredths = st.integers(1, 99)


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 400), percent=hundredths, seed=st.integers(0, 2**32 - 1))
def test_order_statistics(n, percent, seed):
    alpha, exact = percent / 100, Fraction(percent, 100)
    needs = np.random.default_rng(seed).integers(0, 50, n)
    if exact < Fraction(1, n + 1):
        for bound in (rank_bound, threshold_bound):
            with pytest.raises(CovtokenError, match=rf"n = {n} calibration units.*honest answer is to keep all"):
                bound(needs, alpha)
        assert n < fewest_units(alpha)
        return
    assert n >= fewest_units(alpha) and check_level(n, alpha) is None
    ordered = sorted(needs.tolist())
    assert rank_bound(needs, alpha) == ordered[math.ceil((n + 1) * (1 - exact)) - 1]
    assert threshold_bound(needs, alpha) == ordered[math.floor((n + 1) * exact) - 1]
    assert rank_bound(needs, alpha) == -threshold_bound(-needs, alpha)
    assert rank_bound(needs, alpha) >= rank_bound(needs, (percent + 1) / 101)


def test_the_first_n_of_each_level():
    assert [fewest_units(a) for a in (0.05, 0.1, 0.2, 1 / 3, 0.5, 0.3)] == [19, 9, 4, 2, 1, 3]
    assert allowed_misses(19, 0.05) == 1 and allowed_misses(18, 0.05) == 0 and allowed_misses(9, 0.1) == 1
    with pytest.raises(CovtokenError, match=r"alpha = 0.05 .* n = 10 .* 0.0909.*at least 19 units"):
        check_level(10, 0.05)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 1.5, float("nan"), "0.1", True, None])
def test_alphas_outside(alpha):
    with pytest.raises(CovtokenError, match="expected a number in"):
        check_level(100, alpha)


def test_bad_values():
    for bad in ([1.0, np.nan] * 10, 3.0, ["a"] * 20):
        with pytest.raises(CovtokenError, match="without NaN"):
            rank_bound(np.array(bad), 0.1)
    for bad in (np.full((20, 3), 1.5), np.full((20, 3), np.nan), np.full((20, 3), -0.5)):
        with pytest.raises(CovtokenError, match="outside"):
            expected_risk_bound(bad, 0.1)
    with pytest.raises(CovtokenError, match="not empty"):
        hoeffding_bentkus(np.zeros((0, 3)), 0.1)
    for choose in (expected_risk_bound, learn_then_test):
        with pytest.raises(CovtokenError, match="from keep-all down"):
            choose(np.ones((100, 3)), 0.1)
        with pytest.raises(CovtokenError, match="honest answer"):
            choose(np.zeros((5, 3)), 0.1)


def test_what_a_test_needs_at_least():
    assert check_test(22, 0.1, 0.1) is None  # .9²² = .098
    with pytest.raises(CovtokenError, match="at least 22 units"):
        check_test(21, 0.1, 0.1)
    with pytest.raises(CovtokenError, match="delta = 1"):
        check_test(100, 0.1, 1)
    assert (fixed_sequence(np.array([[0.01, 0.2, 0.01], [0.2, 0, 0], [0, 0, 0]]), 0.1) == [1, 0, 3]).all()
    assert union_level(0.05, 0.05) == 0.1
    for bad in ((0.5, 0.5), (0.0, 0.1)):
        with pytest.raises(CovtokenError, match="sum below 1"):
            union_level(*bad)


def test_the_grid_of_ratios():
    assert ratio_grid(200).tolist() == list(range(200, 0, -1))
    grid = ratio_grid(256)
    assert len(grid) == 200 and grid[0] == 256 and grid[100] == 128 and grid[-1] == 2 and (np.diff(grid) <= 0).all()


def rankings(seed, n=40, n_tokens=100):
    """Ranks that favour lesion tokens, and which tokens are lesion: [n, T] each."""
    rng = np.random.default_rng(seed)
    lesion = rng.random((n, n_tokens)) < 0.08
    lesion[:, 0] = True
    scores = rng.normal(size=lesion.shape) + 2 * lesion
    return scores, lesion


@pytest.mark.parametrize("seed", range(5))
def test_expected_risk_against_mapie(seed):
    """MAPIE keeps probabilities above a threshold; with probabilities (T − rank + ½)/T, threshold 1 − k/T keeps k."""
    scores, lesion = rankings(seed)
    n, n_tokens = scores.shape
    lesions = [SimpleNamespace(picture=i, tokens=np.flatnonzero(row)) for i, row in enumerate(lesion)]
    rank = np.argsort(np.argsort(-scores, axis=1), axis=1)  # no ties
    thresholds = np.arange(n_tokens) / n_tokens
    probability = (n_tokens - rank - 0.5) / n_tokens
    for alpha in (0.06180, 0.11, 0.2345):  # at no tie of bound and α, where MAPIE asks for <
        oracle = MultiLabelClassificationController(
            lambda x: probability, risk="recall", method="crc", target_level=1 - alpha, predict_params=thresholds
        ).calibrate(np.zeros((n, 1)), lesion.astype(int))
        ks = np.arange(n_tokens, 0, -1)
        ours = ks[expected_risk_bound(unit_losses(scores, lesions, np.arange(n), ks), alpha)]
        assert ours == n_tokens - round(float(oracle.best_predict_param[0]) * n_tokens)


@pytest.mark.parametrize("seed", range(5))
def test_learn_then_test_against_mapie(seed):
    scores, lesion = rankings(seed, n=60)
    lesions = [SimpleNamespace(picture=i, tokens=np.flatnonzero(row)) for i, row in enumerate(lesion)]
    losses = unit_losses(scores, lesions, np.arange(60), ratio_grid(100))
    for alpha in (0.05, 0.1, 0.2):
        theirs = compute_hoeffding_bentkus_p_value(np.floor(losses.mean(axis=0) * 1e12) / 1e12, 60, alpha)[:, 0]
        np.testing.assert_allclose(hoeffding_bentkus(losses, alpha), np.minimum(theirs, 1), rtol=1e-6)
        if alpha == 0.05:
            assert learn_then_test(losses, alpha, 0.1) == control_fwer(theirs, 0.1, "fixed_sequence").max()
        else:
            assert learn_then_test(losses, alpha, 0.05) == control_fwer(theirs, 0.05, "fixed_sequence").max()


def test_strata():
    lesions = [SimpleNamespace(picture=i, tokens=np.array([0])) for i in (0, 0, 1, 2, 3, 4)]
    unit, needs = np.arange(5), np.array([9, 2, 3, 4, 5, 6])
    names = ["small", "large", "small", "small", "small", "large"]
    found = by_stratum(needs, lesions, unit, names, 0.2)
    assert found == (Stratum("large", 2, None), Stratum("small", 4, 9))
    assert [stratum.says for stratum in found] == ["vacuous", "9"]
    assert strictest(found) is None and strictest(()) is None
    assert strictest((Stratum("a", 9, 3), Stratum("b", 9, 5))) == 5
    assert strictest((Stratum("a", 9, 0.25), Stratum("b", 9, -0.5)), "threshold") == -0.5
    found = by_stratum(-needs / 2, lesions, unit, names, 0.2, "threshold")
    assert found[1] == Stratum("small", 4, -4.5)
    with pytest.raises(CovtokenError, match="expected one each"):
        by_stratum(needs, lesions, unit, names[1:], 0.2)
