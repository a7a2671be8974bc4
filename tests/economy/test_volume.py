"""Volumes: both budgets keep equally many tokens, smoothing goes by mm, and a lesion counts over all its slices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from covtoken.economy.keep import budget, kept_counts, recall, retained
from covtoken.economy.volume import BUDGETS, LesionTokens, kept_in_volume, lesion_sizes, smooth_along_z
from covtoken.errors import CovtokenError

SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 12))
RATIOS = st.floats(0.01, 1.0)
SIGMAS = st.floats(0.1, 40.0)
# Whole numbers: many ties, which are where a budget could go wrong.
TIED = SHAPES.flatmap(lambda shape: arrays(np.int64, shape, elements=st.integers(-3, 3)))


def _scores(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@given(TIED, RATIOS)
def test_both_ways_keep_equally_many_tokens(scores, ratio):
    n_slices, n_tokens = scores.shape
    kept = {spend: kept_in_volume(scores, ratio, spend) for spend in BUDGETS}
    assert kept["uniform"].sum() == kept["global"].sum() == n_slices * budget(n_tokens, ratio)
    assert (kept["uniform"].sum(axis=1) == budget(n_tokens, ratio)).all()


@given(TIED, RATIOS)
def test_the_global_budget_keeps_the_best_of_the_volume(scores, ratio):
    kept = kept_in_volume(scores, ratio)
    if not kept.all():
        assert scores[kept].min() >= scores[~kept].max()


@given(st.integers(1, 6), arrays(np.int64, st.integers(1, 12), elements=st.integers(-3, 3)), RATIOS, st.integers(0, 9))
def test_slices_of_equal_scores_share_the_budget_evenly(n_slices, values, ratio, seed):
    """Equal multisets in another order in each slice: the global budget is the uniform one, ties and all."""
    scores = np.random.default_rng(seed).permuted(np.tile(values, (n_slices, 1)), axis=1)
    np.testing.assert_array_equal(kept_in_volume(scores, ratio), kept_in_volume(scores, ratio, "uniform"))


@given(SHAPES, RATIOS, st.integers(0, 99))
def test_a_lesion_that_outscores_all_slices_only_gains_under_the_global_budget(shape, ratio, seed):
    scores = _scores(shape, seed)
    rng = np.random.default_rng(seed)
    tokens = rng.permutation(shape[1])[: rng.integers(1, shape[1] + 1)]
    scores[0, tokens] += 100
    lesion = [LesionTokens(np.zeros_like(tokens), tokens)]
    even, whole = (kept_counts(kept_in_volume(scores, ratio, spend), lesion) for spend in ("uniform", "global"))
    assert whole >= even and whole == min(len(tokens), shape[0] * budget(shape[1], ratio))


def test_a_slice_without_much_gives_its_tokens_to_one_with_more():
    scores = np.array([[9.0, 8, 7, 1], [3, 2, 1, 0], [6, 0, 0, 0]])
    assert kept_in_volume(scores, 0.25, "uniform").tolist() == [[1, 0, 0, 0]] * 3
    assert kept_in_volume(scores, 0.25).tolist() == [[1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert kept_in_volume(scores[::-1], 0.25)[::-1].tolist() == kept_in_volume(scores, 0.25).tolist()


@given(SHAPES, SIGMAS, st.floats(-1e3, 1e3))
def test_smoothing_keeps_a_constant_also_at_the_ends(shape, sigma, value):
    z = np.cumsum(1 + np.arange(shape[0]) % 3)
    np.testing.assert_allclose(smooth_along_z(np.full(shape, value), z, sigma), value, atol=1e-9)


@given(SHAPES, SIGMAS, st.integers(0, 99))
def test_the_order_of_slices_does_not_matter(shape, sigma, seed):
    scores, z = _scores(shape, seed), _scores(shape[:1], seed + 1) * 20
    order = np.random.default_rng(seed).permutation(shape[0])
    np.testing.assert_allclose(smooth_along_z(scores[order], z[order], sigma), smooth_along_z(scores, z, sigma)[order])


def test_smoothing_by_nothing_is_the_identity():
    scores = _scores((5, 3))
    np.testing.assert_array_equal(smooth_along_z(scores, np.arange(5) * 5.0, 0), scores)
    far = smooth_along_z(scores, np.arange(5) * 500.0, 5.0)
    np.testing.assert_allclose(far, scores, atol=1e-12)  # nothing comes from half a metre away


def test_smoothing_goes_by_millimetres():
    """A single bright slice of three, at 0, 5 and 15 mm, with σ = 5 mm: weights e^-½, e^-2 and e^-4.5 by hand."""
    scores, z = np.array([[1.0], [0.0], [0.0]]), np.array([0.0, 5.0, 15.0])
    near, middle, far = np.exp(-0.5), np.exp(-2.0), np.exp(-4.5)
    by_hand = [1 / (1 + near + far), near / (near + 1 + middle), far / (far + middle + 1)]
    np.testing.assert_allclose(smooth_along_z(scores, z, 5.0)[:, 0], by_hand)


def test_a_lesion_is_retained_by_half_of_its_tokens_over_all_its_slices():
    """Two lesions by hand: the first keeps 2 of 4 tokens, all in one slice; the second 1 of 3."""
    scores = np.array([[5.0, 4, 0, 1], [2, 0, 3, 0]])
    lesions = [
        LesionTokens(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 3])),
        LesionTokens(np.array([0, 1, 1]), np.array([2, 2, 3])),
    ]
    kept = kept_in_volume(scores, 0.25 + 0.25 / 2, "global")  # two of four a slice: 5, 4, 3, 2
    counts, sizes = kept_counts(kept, lesions), lesion_sizes(lesions)
    assert counts.tolist() == [2, 1] and sizes.tolist() == [4, 3]
    assert retained(counts, sizes).tolist() == [True, False]
    assert recall(counts, sizes) == pytest.approx(3 / 7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kept_in_volume(_scores((2, 3)), 0.5, "globe"), "globe"),
        (lambda: kept_in_volume(_scores((2, 3)), 0.0), "keep ratio"),
        (lambda: kept_in_volume(np.full((2, 3), np.nan), 0.5), "NaN"),
        (lambda: smooth_along_z(_scores((2, 3)), [0.0, 0.0], 1), "distinct positions"),
        (lambda: smooth_along_z(_scores((2, 3)), [0.0, np.nan], 1), "distinct positions"),
        (lambda: smooth_along_z(_scores((2, 3)), [0.0], 1), r"z_mm \[S\]"),
        (lambda: smooth_along_z(_scores((2, 3)), [0.0, 1.0], -1), "sigma_mm"),
        (lambda: smooth_along_z(np.full((2, 3), np.inf), [0.0, 1.0], 1), "not finite"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(CovtokenError, match=message):
        call()
