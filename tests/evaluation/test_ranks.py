"""Grouped Spearman against scipy and against every permutation there is; p under the null; Holm by hand."""

from __future__ import annotations

from itertools import permutations, product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, kstest, spearmanr

from covtoken.errors import CovtokenError
from covtoken.evaluation.ranks import grouped_spearman, holm, sign_test


def test_each_group_equals_scipy_with_ties_and_any_order():
    rng = np.random.default_rng(0)
    group = rng.permutation(np.repeat(["c", "a", "b"], [7, 20, 60]))
    x, y = rng.integers(0, 6, 87), rng.integers(0, 4, 87) + rng.random(87).round(1)
    found = grouped_spearman(x, y, group, n_permutations=10)
    assert list(found.groups) == ["a", "b", "c"]
    expected = [spearmanr(x[group == g], y[group == g]).statistic for g in "abc"]
    np.testing.assert_allclose(found.by_group, expected, atol=1e-12)
    assert found.rho == pytest.approx(np.mean(expected))
    assert found.n_constant == 0


def test_constant_groups_are_left_out_and_counted():
    x = np.array([1, 2, 3, 4, 5, 5, 5, 1, 2, 3, 9])
    y = np.array([2, 4, 6, 8, 1, 2, 3, 7, 7, 7, 9])
    group = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3])
    found = grouped_spearman(x, y, group, n_permutations=99)
    assert found.rho == pytest.approx(1) and (len(found.groups), found.n_constant) == (4, 3)
    assert np.isnan(found.by_group[1:]).all()
    alone = grouped_spearman(x[:4], y[:4], group[:4], n_permutations=99)
    assert alone.p == found.p, "constant groups must not touch the test"
    none = grouped_spearman(x[4:], y[4:], group[4:])
    assert np.isnan(none.rho) and np.isnan(none.p) and none.n_constant == 3


@pytest.mark.parametrize("sign", [1, -1])
def test_p_agrees_with_every_permutation(sign):
    """Two-sided: the sign of an association changes its ρ alone."""
    x = [np.array([1.0, 2, 3, 4]), np.array([3.0, 1, 2])]
    y = [sign * np.array([1.0, 3, 2, 4]), sign * np.array([2.0, 1, 1])]

    def mean_rho(first, second):
        return (spearmanr(x[0], first).statistic + spearmanr(x[1], second).statistic) / 2

    observed = mean_rho(*y)
    null = np.array([mean_rho(a, b) for a, b in product(*(list(map(list, permutations(v))) for v in y))])
    exact = (np.abs(null) >= abs(observed) - 1e-9).mean()
    n = 20_000
    found = grouped_spearman(np.concatenate(x), np.concatenate(y), [0] * 4 + [1] * 3, n_permutations=n)
    assert found.rho == pytest.approx(observed)
    low, high = binom.ppf([1e-5, 1 - 1e-5], n, exact)
    assert (low + 1) / (n + 1) <= found.p <= (high + 1) / (n + 1)


def test_p_is_uniform_under_the_null():
    """Groups of different levels and sizes: shuffling across groups, or one shuffle for all, would not be."""
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(6), [5, 8, 8, 8, 12, 20])
    p = []
    for run in range(600):
        level = 5 * rng.standard_normal(6)[group]
        x, y = level + rng.standard_normal(len(group)), level + rng.standard_normal(len(group))
        p.append(grouped_spearman(x, y, group, n_permutations=199, seed=run).p)
    assert kstest(p, "uniform").pvalue > 1e-3
    assert binom.cdf(np.sum(np.array(p) <= 0.05), 600, 0.05) < 1 - 1e-4


def test_p_finds_an_effect_and_never_reaches_zero():
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(20), 60)
    x = rng.standard_normal(1200)
    y = x + rng.standard_normal(1200)
    found = grouped_spearman(x, y, group)
    assert found.p == pytest.approx(1 / 5001)
    assert (
        grouped_spearman(x, y, group, n_permutations=99, seed=3).p
        == grouped_spearman(x, y, group, n_permutations=99, seed=3).p
    )
    assert np.isnan(grouped_spearman(x, y, group, n_permutations=0).p)


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, then never falling: 0.04, 0.06, 0.06, 0.06.
    found = holm({"d": 0.04, "a": 0.01, "c": 0.03, "b": 0.02})
    assert found == pytest.approx({"d": 0.06, "a": 0.04, "c": 0.06, "b": 0.06}) and list(found) == list("dacb")
    assert holm({"a": 0.9, "b": 0.6}) == pytest.approx({"a": 1.0, "b": 1.0})
    assert holm({"one": 0.03}) == pytest.approx({"one": 0.03})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grouped_spearman([1, 2], [1, 2, 3], [0, 0]), "alike"),
        (lambda: grouped_spearman([], [], []), "no values"),
        (lambda: grouped_spearman([1, np.nan], [1, 2], [0, 0]), "1 of 2 values of x are NaN"),
        (lambda: grouped_spearman([1, 2], [1, 2], [0, 0], n_permutations=-1), "-1 permutations"),
        (lambda: holm({}), "no p-value"),
        (lambda: holm({"a": 0.1, "b": float("nan")}), "b = nan"),
        (lambda: holm({"a": 1.2}), r"a = 1\.2"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(CovtokenError, match=message):
        call()


def test_holm_is_statsmodels_holm():
    from statsmodels.stats.multitest import multipletests

    p = np.random.default_rng(0).random(23) ** 3
    found = holm({str(i): value for i, value in enumerate(p)})
    assert list(found.values()) == pytest.approx(multipletests(p, method="holm")[1].tolist())


@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from([-1.0, 0.0, 0.5, 1.0, np.nan])), min_size=1, max_size=40))
@settings(deadline=None)
def test_the_sign_test_is_the_binomial_over_units_that_differ(pairs):
    unit, difference = np.array([u for u, _ in pairs]), np.array([d for _, d in pairs])
    sums = [np.nansum(difference[unit == u]) for u in set(unit)]
    won, lost = sum(s > 0 for s in sums), sum(s < 0 for s in sums)
    found = sign_test(difference, unit)
    assert found[:2] == (won, lost)
    # Two-sided, symmetric null: twice the tail of the rarer sign, at most 1.
    tail = sum(comb(won + lost, k) for k in range(min(won, lost) + 1)) / 2 ** (won + lost)
    assert found[2] == pytest.approx(min(1.0, 2 * tail))


def test_five_of_one_sign_are_not_sure_and_six_are():
    for n, p in ((5, 0.0625), (6, 0.03125)):
        assert sign_test(np.ones(n), np.arange(n)) == (n, 0, p)
    assert sign_test(np.ones(9), np.zeros(9, int)) == (1, 0, 1.0)  # nine lesions of one unit are one unit
