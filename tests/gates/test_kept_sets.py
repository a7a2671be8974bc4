"""Kept sets of gate 2: their number, their families, and that only the picture's own name and tokens decide them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, spearmanr

from covtoken.coverage.greedy import spanning
from covtoken.errors import CovtokenError
from covtoken.gates.budgets.kept_sets import FAMILIES, PER_FAMILY, TEMPERATURES, kept_sets

N_TOKENS, K = 64, 16


def picture(seed: int, n_tokens: int = N_TOKENS, r: int = 8):
    rng = np.random.default_rng(seed)
    return rng.gamma(2, size=n_tokens), torch.from_numpy(rng.standard_normal((n_tokens, r)))


@pytest.mark.parametrize(
    ("n_tokens", "k"), [(64, 16), (64, 1), (64, 64), (64, 63), (20, 5), (7, 3), (1, 1)], ids=lambda n: str(n)
)
def test_sixty_sets_of_different_tokens(n_tokens, k):
    sets = kept_sets("p", *picture(0, n_tokens), k)
    assert PER_FAMILY * len(FAMILIES) == 60 and sets.shape == (60, k)
    assert sets.min() >= 0 and sets.max() < n_tokens and np.issubdtype(sets.dtype, np.integer)
    assert all(len(set(one)) == k for one in sets.tolist())


def test_sets_differ_within_each_family():
    sets = kept_sets("p", *picture(1), K)
    for family, least in zip(np.split(np.sort(sets, axis=1), 3), (20, 15, 10)):
        assert len(np.unique(family, axis=0)) >= least


def test_the_name_seeds_them_and_nothing_else_does():
    membership, y = picture(2)
    sets = kept_sets("case/001", membership, y, K)
    np.random.seed(5), torch.manual_seed(5)
    np.random.rand(7), torch.rand(7)
    kept_sets("another", *picture(3), K)
    assert (kept_sets("case/001", membership, y, K) == sets).all()
    others = kept_sets("case/002", membership, y, K)
    for family, other in zip(np.split(sets, 3), np.split(others, 3)):
        assert (family != other).any()
    # Names and sizes are kept apart: "a1" with 6 tokens is not "a" with 16.
    assert (kept_sets("a1", membership, y, 6)[:20] != kept_sets("a", membership, y, 16)[:20, :6]).any()


def test_inputs_are_not_changed():
    membership, y = picture(4)
    before = membership.copy(), y.clone()
    kept_sets("p", membership, y, K)
    assert (membership == before[0]).all() and torch.equal(y, before[1])


def test_families_stand_in_order_and_see_only_what_they_should():
    membership, y = picture(5)
    random, tilted, spread = np.split(kept_sets("p", membership, y, K), 3)
    other_membership, other_y = picture(6)
    again = np.split(kept_sets("p", other_membership, y, K), 3)
    assert (again[0] == random).all() and (again[1] != tilted).any() and (again[2] == spread).all()
    again = np.split(kept_sets("p", membership, other_y, K), 3)
    assert (again[0] == random).all() and (again[1] == tilted).all() and (again[2] != spread).any()


def test_spanning_sets_start_at_different_tokens():
    membership, y = picture(7)
    spread = kept_sets("p", membership, y, K)[40:]
    assert len(set(spread[:, 0].tolist())) == PER_FAMILY
    for one in spread:
        alone = spanning(y[None], K, first=torch.tensor([one[0]]))
        assert alone[0].tolist() == one.tolist()


def test_fewer_tokens_than_sets_still_start_somewhere():
    spread = kept_sets("p", *picture(8, 7), 3)[40:]
    assert set(spread[:, 0].tolist()) <= set(range(7)) and len(set(spread[:, 0].tolist())) > 2


def test_the_lowest_temperature_is_nearly_the_top_k_and_the_highest_nearly_random():
    overlap = np.zeros((PER_FAMILY, 80))
    uniform = np.zeros((PER_FAMILY, 80))
    for i in range(overlap.shape[1]):
        membership, y = picture(100 + i)
        best = np.argsort(-membership)[:K]
        sets = kept_sets(f"p{i}", membership, y, K)
        overlap[:, i] = np.isin(sets[20:40], best).mean(axis=1)
        uniform[:, i] = np.isin(sets[:20], best).mean(axis=1)
    mean = overlap.mean(axis=1)
    assert mean[0] > 0.85 and mean[-1] < 0.35
    assert spearmanr(mean, np.arange(PER_FAMILY)).statistic < -0.97
    assert uniform.mean() == pytest.approx(K / N_TOKENS, abs=0.02)
    assert mean[-1] - uniform.mean() == pytest.approx(0, abs=0.08)


def test_temperatures_are_log_spaced():
    assert len(TEMPERATURES) == PER_FAMILY and (TEMPERATURES[0], TEMPERATURES[-1]) == pytest.approx((0.1, 10))
    np.testing.assert_allclose(np.diff(np.log(TEMPERATURES)), np.log(100) / 19)


def test_tilted_draws_have_the_stated_chances():
    """One token of four: chance ∝ exp(z / temperature), at every temperature."""
    membership, y = np.array([0.3, 1.0, 2.5, 0.9]), torch.eye(4)
    n = 600
    drawn = np.array([kept_sets(f"{i}", membership, y, 1)[:40, 0] for i in range(n)])
    z = (membership - membership.mean()) / membership.std()
    p = []
    for at in (3, 7, 11, 15, 19):
        chance = np.exp(z / TEMPERATURES[at])
        p.append(_fit(drawn[:, 20 + at], n * chance / chance.sum()))
    p.append(_fit(drawn[:, :20].ravel(), np.full(4, 20 * n / 4)))
    assert min(p) > 1e-3, p


def _fit(drawn, expected):
    counts = np.bincount(drawn, minlength=4)
    frequent = expected >= 5
    pooled = [np.append(values[frequent], values[~frequent].sum()) for values in (counts, expected)]
    if pooled[1][-1] < 1:  # too rare for chi-square: they may appear, but hardly ever
        assert pooled[0][-1] <= 8
        pooled = [pooled[0][:-1], pooled[1][:-1] * pooled[0][:-1].sum() / pooled[1][:-1].sum()]
    return chisquare(*pooled).pvalue if len(pooled[0]) > 1 else 1.0


def test_only_standardised_membership_counts():
    membership, y = picture(9)
    sets = kept_sets("p", membership, y, K)
    assert (kept_sets("p", 1000 * membership + 7, y, K) == sets).all()


def test_constant_membership_tilts_nothing_and_fails_nothing():
    _, y = picture(10)
    sets = kept_sets("p", np.full(N_TOKENS, 3.0), y, K)
    assert sets.shape == (60, K) and all(len(set(one)) == K for one in sets.tolist())
    assert np.isin(sets[20], np.arange(K)).mean() < 0.8, "ties must not fall to the first tokens"


@pytest.mark.parametrize("k", [0, -1, N_TOKENS + 1])
def test_k_out_of_range(k):
    with pytest.raises(CovtokenError, match=f"k = {k}"):
        kept_sets("p", *picture(11), k)
