"""Rarity at second order against its definition by brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_features import StubFeatures

from covtoken.bank.pooling import pool3x3
from covtoken.bank.token_bank import TokenBank, build_bank
from covtoken.errors import CovtokenError
from covtoken.leak_guard import LabelLeak, under_construction
from covtoken.scores.scorers import choices, raw_maps
from covtoken.subspace import rarity as rarity_module
from covtoken.subspace.rarity import RaritySubspace


def by_definition(z, own, bank, bank_units, k, neighbours):
    """N [Q] in float64, token by token."""

    def others(token, unit):
        distances = np.linalg.norm(bank.astype(np.float64) - token.astype(np.float64), axis=1)
        distances[bank_units == unit] = np.inf
        return np.argsort(distances, kind="stable"), np.sort(distances)

    sparsity = np.array([others(token, unit)[1][:k].mean() for token, unit in zip(bank, bank_units)])
    return np.array([sparsity[others(token, unit)[0][:neighbours]].mean() for token, unit in zip(z, own)]), sparsity


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_units=st.integers(3, 8), k=st.integers(1, 12), neighbours=st.integers(1, 20))
def test_it_is_the_mean_sparsity_of_the_nearest_tokens_of_other_units(seed, n_units, k, neighbours):
    rng = np.random.default_rng(seed)
    bank_units = np.concatenate([np.arange(n_units), rng.integers(n_units, size=60)])
    bank = rng.standard_normal((len(bank_units), 5)).astype(np.float32)
    bank += 3 * rng.standard_normal((n_units, 5)).astype(np.float32)[bank_units]  # own units are near: they tempt
    largest = np.bincount(bank_units).max()
    k, neighbours = min(k, len(bank) - largest), min(neighbours, len(bank) - largest)
    queries = np.concatenate([bank[:9], rng.standard_normal((9, 5)).astype(np.float32)])
    own = np.concatenate([bank_units[:9], rng.integers(-1, n_units, 9)])
    fitted = RaritySubspace.fit(TokenBank(torch.from_numpy(bank), bank_units, {}), k, neighbours)
    expected, sparsity = by_definition(queries, own, bank, bank_units, k, neighbours)
    np.testing.assert_allclose(fitted.sparsity, sparsity, rtol=1e-5)
    np.testing.assert_allclose(fitted.score(torch.from_numpy(queries), own), expected, rtol=1e-5)


def test_a_tokens_own_unit_would_have_changed_it():
    features = StubFeatures.of(6, 2)
    bank = build_bank(features, 2)
    fitted, units = RaritySubspace.fit(bank), bank.unit_ids(features.units)
    tokens = features.tokens(2)
    apart, together = fitted.score(tokens, units), fitted.score(tokens)
    assert apart.shape == (12, 20) and (apart != together).any()
    strangers = RaritySubspace(bank, 10, 30, fitted.sparsity).score(tokens, bank.unit_ids(["none"] * 12))
    assert torch.equal(strangers, together)
    only = RaritySubspace.fit(build_bank(features.subset(range(2, 12)), 2))
    inner = torch.as_tensor([(only.bank.tokens == token).all(1).any() for token in bank.tokens])
    known = RaritySubspace(only.bank, 10, 30, _matched(only.bank, bank, fitted.sparsity))
    assert inner.sum() == 200  # a bank without the unit holds all tokens of the others, with their sparsity as before
    torch.testing.assert_close(known.score(tokens[:2]), apart[:2])


def _matched(part, whole, values):
    return torch.stack([values[(whole.tokens == token).all(1)][0] for token in part.tokens])


def test_one_distant_token_in_a_crowd_is_less_rare_than_a_sparse_neighbourhood():
    rng = np.random.default_rng(0)
    crowd, sparse = 0.1 * rng.standard_normal((300, 4)), 3 * rng.standard_normal((60, 4)) + 30
    bank = TokenBank(torch.tensor(np.concatenate([crowd, sparse]), dtype=torch.float32), np.arange(360), {})
    fitted = RaritySubspace.fit(bank)
    beside_the_crowd, amid_the_sparse = torch.tensor([[5.0, 0, 0, 0], [30.0, 30, 30, 30]])
    assert fitted.score(beside_the_crowd) < 0.2 < 1 < fitted.score(amid_the_sparse)


def test_pn_is_n_on_pooled_tokens_and_a_pooled_bank():
    bank, features = StubFeatures.of(6, 2), StubFeatures.of(3, 2, prefix="v")
    for pooled in (False, True):
        z = pool3x3(features.tokens(2), 4, 5) if pooled else features.tokens(2)
        expected = RaritySubspace.fit(build_bank(bank, 2, pooled=pooled)).score(z)
        np.testing.assert_allclose(raw_maps("rarity", 2, pooled, bank, features), expected, rtol=1e-5)
    grids = [[(r.block, r.pooled, r.sigma) for r in choices(name, 12)] for name in ("rarity", "density")]
    assert grids[0] == grids[1]


def test_it_is_fitted_under_construction_and_refuses_labels(monkeypatch):
    bank, real, seen = build_bank(StubFeatures.of(), 2, size=50), rarity_module.mean_distance, set()
    monkeypatch.setattr(rarity_module, "mean_distance", lambda *a: (seen.add(under_construction()), real(*a))[1])
    RaritySubspace.fit(bank)
    assert seen == {"the rarity subspace"} and not under_construction()
    for leak in (bank.tokens > 0, (bank.tokens > 0).float()):
        with pytest.raises(LabelLeak, match="the rarity subspace"):
            RaritySubspace.fit(TokenBank(leak, bank.units, bank.header))


@pytest.mark.parametrize(("options", "words"), [({"neighbours": 0}, "at least 1"), ({"k": 49}, "lower k")])
def test_bad_settings_are_refused(options, words):
    with pytest.raises(CovtokenError, match=words):
        RaritySubspace.fit(build_bank(StubFeatures.of(), 2, size=50), **options)
    with pytest.raises(CovtokenError, match="NaN"):
        RaritySubspace.fit(build_bank(StubFeatures.of(), 2, size=50)).score(torch.full((3, 8), torch.nan))
