"""K-means prototypes against scikit-learn from the same start, and the laws of merging."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from stub_features import StubFeatures

from covtoken.bank.prototypes import Sums, kmeans_prototypes, prototype_bank, shard_sums
from covtoken.bank.token_bank import build_bank, check_fits, load_bank
from covtoken.errors import CovtokenError
from covtoken.leak_guard import LabelLeak, under_construction
from covtoken.subspace.density import sparsity


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(7, 5, generator=generator)
    return centres[torch.randint(7, (600,), generator=generator)] + torch.randn(600, 5, generator=generator)


def test_it_is_scikit_learns_k_means_from_the_same_start(tokens):
    centres, inertias = kmeans_prototypes(tokens, tokens[:9], iterations=300, tolerance=0)
    x = tokens.double().numpy()
    oracle = KMeans(9, init=x[:9], n_init=1, max_iter=300, tol=0, algorithm="lloyd").fit(x)
    np.testing.assert_allclose(centres, oracle.cluster_centers_, atol=1e-4)
    assert inertias[-1] == pytest.approx(oracle.inertia_, rel=1e-5)


def test_inertia_never_rises_even_where_clusters_are_empty(tokens):
    start = tokens[:1].repeat(12, 1)  # eleven of twelve start empty
    centres, inertias = kmeans_prototypes(tokens, start, iterations=40, tolerance=0)
    assert (np.diff(inertias) <= 1e-6 * inertias[0]).all() and inertias[-1] < 0.2 * inertias[0]
    assert shard_sums(tokens, centres).count.min() > 0


def test_more_clusters_than_different_tokens(tokens):
    few = tokens[:3].repeat(10, 1)
    centres, inertias = kmeans_prototypes(few, few[:8], iterations=5)
    assert inertias[-1] == pytest.approx(0, abs=1e-6) and torch.isfinite(centres).all()


def test_shards_and_their_order_change_rounding_only(tokens):
    whole, inertias = kmeans_prototypes(tokens, tokens[:9], iterations=8, tolerance=0)
    shards = list(tokens.split(77))
    for order in (shards, shards[::-1], [shards[3], tokens[:0], *shards[:3], *shards[4:]]):
        parts, other = kmeans_prototypes(lambda order=order: iter(order), tokens[:9], iterations=8, tolerance=0)
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)
        assert other == pytest.approx(inertias, rel=1e-6)
    sums = [pickle.loads(pickle.dumps(shard_sums(shard, whole))) for shard in shards]
    assert Sums.merge(sums[0], sums[1]).count.tolist() == shard_sums(tokens[:154], whole).count.tolist()


def test_a_bank_of_prototypes_says_what_it_is(tmp_path):
    features = StubFeatures.of(6, 3)
    bank = build_bank(features, 2, size=200)
    small = prototype_bank(bank, 20)
    assert small.tokens.shape == (20, 8) and small.header["size"] == 20
    assert small.header["prototypes"]["of"] == bank.header["content_sha256"] != small.header["content_sha256"]
    check_fits(small, features, 2, False)
    small.save(tmp_path / "small.safetensors")
    again = load_bank(tmp_path / "small.safetensors")
    assert torch.equal(again.tokens, small.tokens) and again.header == small.header
    own = small.unit_ids(["u0", "stranger"])
    assert not set(own) & set(small.units) and len(set(small.units)) == 20  # nobody's tokens, none left out
    z = features.tokens(2)[:2]
    torch.testing.assert_close(sparsity(z, small, own, 3), sparsity(z, small, None, 3))
    shuffled = prototype_bank(build_bank(features.subset(range(17, -1, -1)), 2, size=200), 20)
    torch.testing.assert_close(shuffled.tokens, small.tokens)


def test_it_runs_under_construction_and_refuses_labels(tokens):
    seen = []

    def shards():
        seen.append(under_construction())
        yield tokens

    kmeans_prototypes(shards, tokens[:3], iterations=1)
    assert seen == ["prototypes"] and not under_construction()
    with pytest.raises(LabelLeak, match="prototypes"):
        kmeans_prototypes(tokens > 0, tokens[:3])


def test_bad_settings_are_refused(tokens):
    bank = build_bank(StubFeatures.of(2, 1), 2, size=30)
    for n in (0, 31):
        with pytest.raises(CovtokenError, match="1 … 30"):
            prototype_bank(bank, n)
    with pytest.raises(CovtokenError, match="a pass"):
        kmeans_prototypes(tokens, tokens[:3], iterations=0)
    with pytest.raises(CovtokenError, match="NaN"):
        kmeans_prototypes(tokens * torch.nan, tokens[:3])
    once = iter([tokens])
    with pytest.raises(CovtokenError, match="anew in every pass"):
        kmeans_prototypes(lambda: once, tokens[:3], iterations=3)
