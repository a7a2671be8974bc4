"""Subspace B against scikit-learn's PCA, and the laws of a projection."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from stub_features import StubFeatures

from covtoken.bank.pooling import pool3x3
from covtoken.bank.token_bank import TokenBank, build_bank
from covtoken.errors import CovtokenError
from covtoken.leak_guard import LabelLeak, under_construction
from covtoken.scores.scorers import choices, raw_maps
from covtoken.subspace import residual
from covtoken.subspace.residual import ResidualSubspace


def bank_of(tokens) -> TokenBank:
    return TokenBank(torch.as_tensor(tokens, dtype=torch.float32), np.arange(len(tokens)), {})


@pytest.fixture
def fitted():
    rng = np.random.default_rng(0)
    widths = np.geomspace(10, 0.1, 12)
    tokens = rng.standard_normal((500, 12)) * widths @ np.linalg.qr(rng.standard_normal((12, 12)))[0] + 7
    return ResidualSubspace.fit(bank_of(tokens), rank=5)


def test_it_is_scikit_learns_pca(fitted, monkeypatch):
    x = fitted.bank.tokens.numpy().astype(np.float64)
    pca = PCA(5, svd_solver="full").fit(x)
    np.testing.assert_allclose(fitted.mean, pca.mean_, rtol=1e-10)
    np.testing.assert_allclose(fitted.basis @ fitted.basis.T, pca.components_.T @ pca.components_, atol=1e-8)
    left = np.linalg.norm(x - pca.inverse_transform(pca.transform(x)), axis=1)
    np.testing.assert_allclose(fitted.score(fitted.bank.tokens), left, rtol=1e-6)
    monkeypatch.setattr(residual, "CHUNK", 33)
    by_chunks = ResidualSubspace.fit(fitted.bank, rank=5)
    torch.testing.assert_close(by_chunks.basis @ by_chunks.basis.T, fitted.basis @ fitted.basis.T)
    np.testing.assert_allclose(by_chunks.score(fitted.bank.tokens), left, rtol=1e-6)


def test_normal_directions_change_no_score(fitted):
    z = torch.randn(3, 4, 12, generator=torch.Generator().manual_seed(1))
    inside = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(2)).double() @ fitted.basis.T
    torch.testing.assert_close(fitted.score(z.double() + 20 * inside), fitted.score(z))
    assert fitted.score(fitted.mean + 20 * inside).max() < 1e-6
    assert fitted.score(z).shape == (3, 4) and fitted.score(z[:0]).shape == (0, 4)


def test_the_projector_off_the_normal_directions_gives_the_score(fitted):
    p = (torch.eye(12, dtype=torch.float64) - fitted.basis @ fitted.basis.T).float()
    torch.testing.assert_close(p @ p, p, atol=1e-6, rtol=0)
    assert p.trace().item() == pytest.approx(7, abs=1e-5)
    z = fitted.bank.tokens
    torch.testing.assert_close((z - fitted.mean.float()) @ p, (z - fitted.mean.float()) @ p.T)
    torch.testing.assert_close(((z - fitted.mean.float()) @ p).norm(dim=1), fitted.score(z), atol=1e-4, rtol=1e-4)


def test_small_residuals_far_from_the_origin_survive():
    rng = np.random.default_rng(3)
    tokens = torch.from_numpy(rng.standard_normal((300, 6)) * [1e4, 1e3, 1, 1e-2, 1e-2, 1e-2] + 1e3)
    fitted = ResidualSubspace.fit(TokenBank(tokens, np.arange(300), {}), rank=3)
    x = (tokens - tokens.mean(0)).numpy()
    off = np.linalg.svd(x)[2][3:]
    np.testing.assert_allclose(fitted.score(tokens), np.linalg.norm(x @ off.T, axis=1), rtol=1e-3)


@pytest.mark.parametrize("rank", [0, 12])
def test_ranks_that_leave_nothing_over_are_refused(fitted, rank):
    with pytest.raises(CovtokenError, match=f"1 … 11, got {rank}"):
        ResidualSubspace.fit(fitted.bank, rank)


def test_bad_tokens_are_refused(fitted):
    with pytest.raises(CovtokenError, match="1 … 3, got 4"):
        ResidualSubspace.fit(bank_of(fitted.bank.tokens[:5]), rank=4)
    with pytest.raises(CovtokenError, match="NaN"):
        ResidualSubspace.fit(bank_of(torch.full((50, 8), torch.nan)), rank=2)
    with pytest.raises(CovtokenError, match="as the bank's"):
        fitted.score(torch.zeros(4, 11))
    with pytest.raises(LabelLeak, match="the residual subspace"):
        ResidualSubspace.fit(TokenBank(torch.ones(40, 8, dtype=torch.bool), np.arange(40), {}), rank=2)


def test_it_is_fitted_under_construction(fitted, monkeypatch):
    real, seen = residual._gram, set()
    monkeypatch.setattr(residual, "_gram", lambda x: (seen.add(under_construction()), real(x))[1])
    ResidualSubspace.fit(fitted.bank, rank=2)
    assert seen == {"the residual subspace"} and not under_construction()


def test_the_scorer_shares_as_reference_and_grid():
    bank, features = StubFeatures.of(6, 2), StubFeatures.of(3, 2, prefix="v")
    fitted = ResidualSubspace.fit(build_bank(bank, 2, pooled=True), rank=4)  # half of the stub's width
    expected = fitted.score(pool3x3(features.tokens(2), 4, 5))
    np.testing.assert_allclose(raw_maps("residual", 2, True, bank, features), expected, atol=1e-6)
    grids = [
        [(r.block, r.pooled, r.sigma, r.sign) for r in choices(name, n)]
        for n in (4, 12)
        for name in ("residual", "density")
    ]
    assert grids[0] == grids[1] and grids[2] == grids[3]
