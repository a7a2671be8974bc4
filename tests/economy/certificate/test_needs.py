"""Needs against the definition of retained, losses against recall, and the label-free half against a loop over k."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covtoken.economy.certificate.label_free import is_vacuous, share_lost, unit_disagreements
from covtoken.economy.certificate.losses import unit_losses
from covtoken.economy.certificate.needs import (
    lesion_needs,
    lesion_thresholds,
    lesion_units,
    unit_needs,
    unit_thresholds,
)
from covtoken.economy.keep import kept_counts, kept_tokens, retained, token_ranks
from covtoken.errors import CovtokenError


def made_up(seed, n=4, n_tokens=12, levels=5, n_lesions=6):
    """Scores [n, T] with many ties, lesions that may overlap, and two pictures a unit."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(-levels, levels, (n, n_tokens)) / 4
    lesions = []
    for _ in range(n_lesions):
        tokens = np.sort(rng.permutation(n_tokens)[: rng.integers(1, n_tokens + 1)])
        lesions.append(SimpleNamespace(picture=int(rng.integers(n)), tokens=tokens))
    return scores, lesions, np.arange(n) // 2


seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, levels=st.integers(1, 40))
def test_a_lesion_is_retained_exactly_from_its_need_on(seed, levels):
    scores, lesions, _ = made_up(seed, levels=levels)
    needs, sizes = lesion_needs(scores, lesions), np.array([len(lesion.tokens) for lesion in lesions])
    for k in range(scores.shape[1] + 1):
        kept = kept_counts(kept_tokens(scores, k=k), lesions)
        assert (retained(kept, sizes) == (needs <= k)).all()


@settings(max_examples=60, deadline=None)
@given(seed=seeds, levels=st.integers(1, 40))
def test_a_lesion_is_retained_exactly_up_to_its_threshold(seed, levels):
    scores, lesions, _ = made_up(seed, levels=levels)
    highest, sizes = lesion_thresholds(scores, lesions), np.array([len(lesion.tokens) for lesion in lesions])
    for threshold in [*np.unique(scores), scores.max() + 1, scores.min() - 1]:
        for asked in (threshold, np.nextafter(threshold, np.inf)):
            kept = kept_counts(kept_tokens(scores, threshold=float(asked)), lesions)
            assert (retained(kept, sizes) == (asked <= highest)).all()


@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_a_unit_is_as_demanding_as_its_worst_lesion(seed):
    scores, lesions, unit = made_up(seed, n=10, n_lesions=4)
    needs, highest = lesion_needs(scores, lesions), lesion_thresholds(scores, lesions)
    units, worst = unit_needs(needs, lesions, unit)
    assert units.tolist() == sorted({int(unit[lesion.picture]) for lesion in lesions})
    assert units.tolist() == lesion_units(lesions, unit).tolist() and worst.dtype == np.int64
    _, lowest = unit_thresholds(highest, lesions, unit)
    for u, need, threshold in zip(units, worst, lowest):
        own = [i for i, lesion in enumerate(lesions) if unit[lesion.picture] == u]
        assert need == max(needs[own]) and threshold == min(highest[own])
    everyone, with_free = unit_needs(needs, lesions, unit, lesion_free=True)
    assert everyone.tolist() == [0, 1, 2, 3, 4]
    assert with_free[units].tolist() == worst.tolist()
    free = np.setdiff1d(everyone, units)
    assert (with_free[free] == 0).all()
    assert np.isposinf(unit_thresholds(highest, lesions, unit, lesion_free=True)[1][free]).all()


def test_needs_by_hand():
    scores = np.array([[5.0, 4, 4, 3, 1]], dtype=np.float16)
    lesion = [SimpleNamespace(picture=0, tokens=np.array(tokens)) for tokens in ([0], [2], [1, 2, 4], [3, 4], [1, 4])]
    assert token_ranks(scores).tolist() == [[1, 2, 3, 4, 5]]
    assert lesion_needs(scores, lesion).tolist() == [1, 3, 3, 4, 2]
    assert lesion_thresholds(scores, lesion).tolist() == [5, 4, 4, 3, 4]
    assert lesion_needs(scores, []).shape == (0,) and lesion_units([], np.zeros(1, int)).shape == (0,)


def test_refusals():
    one = [SimpleNamespace(picture=0, tokens=np.array([], dtype=int))]
    with pytest.raises(CovtokenError, match="without tokens"):
        lesion_needs(np.ones((1, 3)), one)
    with pytest.raises(CovtokenError, match="1 scores are NaN"):
        lesion_thresholds(np.array([[np.nan, 1.0]]), [])
    with pytest.raises(CovtokenError, match="2 values for 1 lesions"):
        unit_needs(np.ones(2), one, np.zeros(1, int))
    with pytest.raises(CovtokenError, match="no lesion"):
        unit_losses(np.ones((1, 3)), [], np.zeros(1, int), [1])


@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_loss_is_the_lost_share_of_a_units_lesion_tokens(seed):
    scores, lesions, unit = made_up(seed)
    ks = list(range(scores.shape[1], -1, -1))
    losses = unit_losses(scores, lesions, unit, ks)
    assert (losses[:, 0] == 0).all() and (losses[:, -1] == 1).all() and (np.diff(losses, axis=1) >= 0).all()
    for row, u in zip(losses, lesion_units(lesions, unit)):
        own = [lesion for lesion in lesions if unit[lesion.picture] == u]
        for k, loss in zip(ks, row):
            kept = kept_counts(kept_tokens(scores, k=k), own).sum()
            assert loss == pytest.approx(1 - kept / sum(len(lesion.tokens) for lesion in own))


@settings(max_examples=40, deadline=None)
@given(seed=seeds, k_whole=st.integers(1, 12))
def test_disagreement_is_the_smallest_k_that_holds_w(seed, k_whole):
    whole, _, unit = made_up(seed)
    route = made_up(seed + 1)[0]
    wanted = kept_tokens(whole, k=k_whole)
    units, found = unit_disagreements(whole, route, k_whole, unit)
    assert units.tolist() == [0, 1]
    for u, d in zip(units, found):
        own = unit == u
        holds = [not (wanted & ~kept_tokens(route, k=k))[own].any() for k in range(13)]
        assert d == holds.index(True)
    for k in (0, 5, 12):
        assert share_lost(whole, route, k_whole, k) == (wanted & ~kept_tokens(route, k=k)).sum() / wanted.sum()
    assert (unit_disagreements(whole, whole, k_whole, unit)[1] == k_whole).all()


def test_label_free_refusals():
    with pytest.raises(CovtokenError, match="differ"):
        unit_disagreements(np.ones((1, 3)), np.ones((1, 4)), 1, np.zeros(1, int))
    with pytest.raises(CovtokenError, match="k_whole = 0"):
        unit_disagreements(np.ones((1, 3)), np.ones((1, 3)), 0, np.zeros(1, int))
    with pytest.raises(CovtokenError, match="expected 0 … 3"):
        unit_disagreements(np.ones((1, 3)), np.ones((1, 3)), 4, np.zeros(1, int))
    assert is_vacuous(91, 100) and not is_vacuous(90, 100)
