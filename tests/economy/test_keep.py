"""Budgets: the law of k, which tokens stay when scores tie, and what the kept tokens hold of the lesions, by hand."""

from __future__ import annotations

import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covtoken.economy.keep import RATIOS, budget, kept_counts, kept_tokens, recall, retained
from covtoken.errors import CovtokenError


@settings(max_examples=200, deadline=None)
@given(n_tokens=st.integers(1, 5000), ratio=st.floats(1e-12, 1))
def test_budget_law(n_tokens, ratio):
    k = budget(n_tokens, ratio)
    assert k == max(1, math.ceil(ratio * n_tokens - 1e-9)) and isinstance(k, int)
    assert 1 <= k <= n_tokens


def test_a_written_ratio_means_its_fraction():
    """The float nearest to 7/100 keeps 7 of 100 tokens, though times 100 it is above 7, and 8 of 101."""
    for parts in range(1, 101):
        for part in range(1, parts + 1):
            for n_tokens in (parts, 7 * parts, 256, 1369, 12 * parts + 1):
                wanted = math.ceil(Fraction(part * n_tokens, parts))
                assert budget(n_tokens, part / parts) == wanted, (n_tokens, part, parts)


@pytest.mark.parametrize(
    ("n_tokens", "ratio", "k"),
    [
        *((10, 0.1, 1), (256, 0.25, 64), (256, 0.1, 26), (256, 0.5, 128), (5, 0.5, 3), (30, 0.1, 3), (100, 0.29, 29)),
        *((100, 0.07, 7), (200, 0.14, 28), (101, 0.07, 8), (3, 0.01, 1), (1, 1e-12, 1), (1369, 1, 1369), (1, 0.5, 1)),
    ],
)
def test_budgets_by_hand(n_tokens, ratio, k):
    assert budget(n_tokens, ratio) == k


def test_the_reported_ratios():
    assert RATIOS == (0.5, 0.25, 0.1)


@pytest.mark.parametrize("ratio", [0, -0.1, 1.0001, float("nan"), float("inf"), -float("inf")])
def test_ratios_outside_are_refused(ratio):
    with pytest.raises(CovtokenError, match="keep ratio"):
        budget(10, ratio)
    with pytest.raises(CovtokenError, match="keep ratio"):
        kept_tokens(np.ones((2, 10)), ratio=ratio)


@pytest.mark.parametrize("ratio", ["0.5", True, None, [0.5], np.bool_(True), 1 + 0j])
def test_ratios_of_another_type_are_refused(ratio):
    with pytest.raises(CovtokenError, match=r"keep ratio .*a number in"):
        budget(10, ratio)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.longdouble])
def test_a_ratio_of_another_precision_means_what_is_written(kind):
    """0.3 in float32 lies above 0.3 and would keep 31 of 100 tokens; 0.19 in float16 below, and 260 of 1369."""
    for n_tokens, ratio, k in ((10, 0.1, 1), (256, 0.25, 64), (100, 0.3, 30), (100, 0.6, 60), (1369, 0.19, 261)):
        assert budget(n_tokens, kind(str(ratio))) == k and isinstance(budget(n_tokens, kind(str(ratio))), int)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_tokens=st.integers(1, 40), levels=st.integers(1, 6), data=st.data())
def test_exactly_k_of_the_best_stay_and_ties_go_by_position(seed, n_tokens, levels, data):
    scores = np.random.default_rng(seed).integers(-levels, levels, (3, n_tokens)) / 4
    k = data.draw(st.integers(0, n_tokens))
    kept = kept_tokens(scores, k=k)
    assert kept.dtype == bool and kept.shape == scores.shape
    for row, stay in zip(scores, kept):
        best = sorted(range(n_tokens), key=lambda t: (-row[t], t))[:k]
        assert np.flatnonzero(stay).tolist() == sorted(best)


def test_ratio_is_the_budget_of_each_picture():
    scores = np.random.default_rng(0).standard_normal((4, 256))
    for ratio, k in zip(RATIOS, (128, 64, 26)):
        kept = kept_tokens(scores, ratio=ratio)
        assert (kept.sum(1) == k).all() and (kept == kept_tokens(scores, k=k)).all()
        assert all(scores[i][kept[i]].min() > scores[i][~kept[i]].max() for i in range(4))


def test_a_k_for_each_picture():
    scores = np.array([[1.0, 2, 3], [3, 2, 1], [2, 2, 2], [0, 5, 0]])
    kept = kept_tokens(scores, k=[0, 1, 2, 3])
    assert kept.tolist() == [[False] * 3, [True, False, False], [True, True, False], [True] * 3]
    assert (kept_tokens(scores, k=np.array([0, 1, 2, 3])) == kept).all()


def test_threshold_keeps_scores_that_reach_it():
    scores = np.array([[0.1, 0.5, 0.9], [0.5, 0.4, -np.inf], [np.inf, 0.2, 0.1]])
    expected = [[False, True, True], [True, False, False], [True, False, False]]
    assert kept_tokens(scores, threshold=0.5).tolist() == expected
    assert kept_tokens(scores, threshold=0.0)[0].all(), "0 is a threshold, not the absence of one"
    assert not kept_tokens(scores, threshold=2.0)[:2].any()


@pytest.mark.parametrize("kind", [np.uint8, np.uint64, np.int8, np.int64, bool, np.float16, np.float32])
def test_high_scores_stay_whatever_their_type(kind):
    """Minus an unsigned 0 is 0, and minus the lowest int8 is itself: both would rank first."""
    low = np.iinfo(kind).min if np.issubdtype(kind, np.integer) else 0
    scores = np.array([[low, 1, low], [1, low, low]]).astype(kind)
    assert kept_tokens(scores, k=1).tolist() == [[False, True, False], [True, False, False]]


def test_infinite_scores_and_signed_zeros_have_an_order():
    assert kept_tokens(np.array([[-np.inf, 0.0, np.inf]]), k=2).tolist() == [[False, True, True]]
    assert kept_tokens(np.array([[-0.0, 0.0, -0.0]]), k=1).tolist() == [[True, False, False]]


def test_float16_scores_keep_the_order_of_float64():
    scores = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float16)
    assert (kept_tokens(scores, ratio=0.25) == kept_tokens(scores.astype(np.float64), ratio=0.25)).all()


def test_scores_are_not_changed():
    scores = np.random.default_rng(2).standard_normal((2, 9))
    before = scores.copy()
    kept_tokens(scores, ratio=0.5), kept_tokens(scores, threshold=0.0), kept_tokens(scores, k=[1, 2])
    assert (scores == before).all()


@pytest.mark.parametrize(
    ("scores", "budgets", "words"),
    [
        ([[1.0, np.nan, np.nan]], {"ratio": 0.5}, "2 scores are NaN"),
        ([[1.0, np.nan]], {"threshold": 0.5}, "1 scores are NaN"),
        ([[1.0, np.nan]], {"k": 0}, "NaN"),
        ([1.0, 2.0], {"ratio": 0.5}, "pictures, tokens"),
        ([[[1.0]]], {"ratio": 0.5}, "pictures, tokens"),
        ([[1.0, 2.0]], {}, "exactly one"),
        ([[1.0, 2.0]], {"ratio": 0.5, "k": 1}, "exactly one"),
        ([[1.0, 2.0]], {"threshold": 0.0, "k": 0}, "exactly one"),
        ([[1.0, 2.0]], {"k": 3}, r"k = 3 … 3: expected 0 … 2"),
        ([[1.0, 2.0]], {"k": -1}, "k = -1"),
        ([[1.0, 2.0], [1.0, 2.0]], {"k": [1, 3]}, r"k = 1 … 3"),
        ([[1.0, 2.0]], {"k": 1.5}, "k = 1.5: expected a whole number of tokens"),
        ([[1.0, 2.0]], {"k": True}, "k = True: expected a whole number"),
        ([[1.0, 2.0]], {"k": "1"}, "k = '1': expected a whole number"),
        ([[1.0, 2.0]], {"k": [1, 1]}, r"k = \[1, 1\]: .* or 1 of them"),
        ([[1.0, 2.0]], {"threshold": float("nan")}, "threshold nan: expected a number"),
        ([[1.0, 2.0]], {"threshold": "0.5"}, "threshold '0.5': expected a number"),
        ([["a", "b"]], {"ratio": 0.5}, "scores must be numbers .*, got shape .1, 2. of <U1"),
    ],
)
def test_refusals(scores, budgets, words):
    with pytest.raises(CovtokenError, match=words):
        kept_tokens(np.array(scores), **budgets)


def test_what_the_kept_tokens_hold_of_the_lesions():
    kept = np.array([[1, 1, 0, 0, 0, 0], [0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0]], bool)
    where = [(0, [0, 1, 2, 3]), (0, [0, 2, 3]), (1, [1, 3, 4]), (1, [5]), (2, [0, 1]), (0, [1, 2])]
    lesions = [SimpleNamespace(picture=picture, tokens=np.array(tokens)) for picture, tokens in where]
    counts = kept_counts(kept, lesions)
    sizes = np.array([len(one.tokens) for one in lesions])
    assert counts.tolist() == [2, 1, 2, 1, 0, 1] and counts.dtype == np.int64
    assert retained(counts, sizes).tolist() == [True, False, True, True, False, True]  # half is enough, a third is not
    assert recall(counts, sizes) == pytest.approx(7 / 15)


def test_exactly_half_is_retained():
    sizes = np.arange(1, 200)
    assert (retained((sizes + 1) // 2, sizes)).all()
    assert not retained((sizes + 1) // 2 - 1, sizes).any()
    assert retained(np.array([[1, 0], [2, 1]]), np.array([2, 3])).tolist() == [[True, False], [True, False]]


def test_no_lesions_are_not_a_number():
    none = kept_counts(np.ones((2, 3), bool), [])
    assert none.shape == (0,) and none.dtype == np.int64
    assert retained(none, none).shape == (0,) and math.isnan(recall(none, none))


def test_keeping_all_retains_all_and_keeping_none_nothing():
    sizes = np.array([1, 2, 30])
    assert retained(sizes, sizes).all() and recall(sizes, sizes) == 1
    assert not retained(0 * sizes, sizes).any() and recall(0 * sizes, sizes) == 0
