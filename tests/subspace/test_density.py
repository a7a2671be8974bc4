"""Subspace A against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stub_features import StubFeatures

from covtoken.bank.token_bank import TokenBank, build_bank
from covtoken.errors import CovtokenError
from covtoken.subspace.density import DensitySubspace


@pytest.fixture
def bank():
    return build_bank(StubFeatures.of(8, 3), 2, size=300)


def sparsity_by_definition(z, own, bank, k):
    d = torch.cdist(z.double(), bank.tokens.double())
    d[torch.as_tensor(own)[:, None] == torch.as_tensor(bank.units)[None]] = torch.inf
    return d.sort(1).values[:, :k].mean(1).float()


def test_sparsity_leaves_the_own_unit_out(bank):
    fitted = DensitySubspace.fit(bank, k=10, rank=4)
    torch.testing.assert_close(fitted.sparsity, sparsity_by_definition(bank.tokens, bank.units, bank, 10))
    tokens = StubFeatures.of(8, 3).tokens(2)[:5]
    units = bank.unit_ids(["u0", "u0", "u0", "u1", "stranger"])
    expected = sparsity_by_definition(tokens.reshape(-1, 8), np.repeat(units, 20), bank, 10)
    torch.testing.assert_close(fitted.score(tokens, units), expected.reshape(5, 20))
    assert (fitted.score(tokens)[0] <= fitted.score(tokens, units)[0]).all()
    assert fitted.score(tokens[0]).shape == (20,)


def test_projector_is_onto_the_principal_directions_of_sparse_tokens(bank):
    fitted = DensitySubspace.fit(bank, k=5, alpha=0.1, rank=3)
    p = fitted.directions @ fitted.directions.T
    torch.testing.assert_close(p @ p, p, atol=1e-5, rtol=0)
    assert p.trace().item() == pytest.approx(3, abs=1e-5)
    sparse = bank.tokens[fitted.sparsity.argsort(descending=True)[:30]] - bank.tokens.mean(0)
    _, _, vt = np.linalg.svd(sparse.numpy().astype(np.float64))
    np.testing.assert_allclose(p.numpy(), vt[:3].T @ vt[:3], atol=1e-4)


def test_a_planted_rare_direction_is_found():
    tokens = StubFeatures.of(8, 3).tokens(2)
    tokens[:, 0, 5] += 12  # one token of each picture; k = 60 looks beyond the others like it
    bank = TokenBank(tokens.reshape(480, 8), np.repeat(np.arange(8), 60), {})
    assert DensitySubspace.fit(bank, k=60, alpha=0.1, rank=1).directions[5, 0].abs() > 0.95


def test_few_sparse_tokens_span_no_more_directions_than_they_are(bank):
    """What lies beyond is chosen by rounding: it would turn from one machine to another."""
    sparse = DensitySubspace.fit(bank, k=5, alpha=0.01, rank=8)  # three tokens
    assert sparse.directions.shape == (8, 3)
    tokens = bank.tokens[sparse.sparsity.argsort(descending=True)[:3]] - sparse.mean
    torch.testing.assert_close(tokens @ sparse.directions @ sparse.directions.T, tokens, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("options", "words"), [({"alpha": 0}, "alpha"), ({"rank": 9}, "1 … 8"), ({"k": 299}, "lower k")]
)
def test_bad_settings_are_refused(bank, options, words):
    with pytest.raises(CovtokenError, match=words):
        DensitySubspace.fit(bank, **({"rank": 4} | options))
