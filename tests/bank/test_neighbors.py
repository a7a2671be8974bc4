"""Exact neighbours against brute force in float64 and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from covtoken.bank import neighbors
from covtoken.bank.neighbors import mean_distance, nearest
from covtoken.errors import CovtokenError


def brute(q, b, k, qu=None, bu=None):
    d = np.sqrt(((q[:, None].astype(np.float64) - b[None].astype(np.float64)) ** 2).sum(2))
    if qu is not None:
        d[qu[:, None] == bu[None]] = np.inf
    return np.sort(d, 1)[:, :k], np.argsort(d, 1)[:, :k]


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(57, 24)).astype(np.float32), rng.normal(size=(400, 24)).astype(np.float32)


def test_agrees_with_scikit_learn(data):
    q, b = data
    distances, indices = nearest(q, b, 10)
    expected, which = NearestNeighbors(n_neighbors=10, algorithm="brute").fit(b).kneighbors(q)
    np.testing.assert_allclose(distances, expected, atol=1e-5)
    np.testing.assert_array_equal(indices, which)


@pytest.mark.parametrize(("queries", "bank"), [(8192, 8192), (5, 33)])
def test_leaves_the_own_unit_out_in_any_chunks(data, monkeypatch, queries, bank):
    monkeypatch.setattr(neighbors, "QUERY_CHUNK", queries)
    monkeypatch.setattr(neighbors, "BANK_CHUNK", bank)
    q, b = data
    rng = np.random.default_rng(1)
    qu, bu = rng.integers(-1, 9, len(q)), rng.integers(0, 7, len(b))  # units −1, 7 and 8 own no bank token
    distances, indices = nearest(q, b, 6, qu, bu)
    expected, which = brute(q, b, 6, qu, bu)
    np.testing.assert_allclose(distances, expected, atol=1e-5)
    np.testing.assert_array_equal(indices, which)
    assert (bu[indices] != qu[:, None]).all()


def test_a_token_never_finds_its_own_unit(data):
    _, b = data
    units = np.arange(len(b)) // 20
    np.testing.assert_allclose(nearest(b, b, 3, units, units)[0], brute(b, b, 3, units, units)[0], atol=1e-5)


def test_duplicates_are_at_exactly_zero_far_from_the_origin(data):
    q, b = data
    b = np.concatenate([b, q, q]) + np.float32(300)
    distances, indices = nearest(q + np.float32(300), b, 3)
    assert (distances[:, :2] == 0).all() and (distances[:, 2] > 0).all()
    np.testing.assert_array_equal(indices[:, 0], 400 + np.arange(57))
    np.testing.assert_allclose(distances, brute(q + np.float32(300), b, 3)[0], atol=1e-3)


def test_many_ties_keep_distances_exact():
    b = np.zeros((50, 4), np.float32)
    b[40:] = 1
    assert (nearest(np.zeros((3, 4), np.float32), b, 45)[0] == np.repeat([0, 2], [40, 5])).all()


def test_torch_engine_agrees_with_faiss(data):
    q, b = (torch.from_numpy(x) for x in data)
    values, found = neighbors._torch_part(q, b, 10)
    np.testing.assert_array_equal(found.numpy(), brute(*data, 10)[1])
    squared = values + (q * q).sum(1, keepdim=True)
    np.testing.assert_allclose(squared.sqrt().numpy(), brute(*data, 10)[0], atol=1e-4)
    distances, indices = nearest(q, b, 10)
    assert isinstance(distances, torch.Tensor) and torch.equal(indices, found)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: the torch engine runs on the CPU above")
def test_gpu_agrees_with_brute_force(data):
    q, b = (torch.from_numpy(x).cuda() for x in data)
    units = np.arange(57) % 5, np.arange(400) % 7
    distances, indices = nearest(q, b, 10, *units)
    np.testing.assert_array_equal(indices.cpu().numpy(), brute(*data, 10, *units)[1])
    np.testing.assert_allclose(distances.cpu().numpy(), brute(*data, 10, *units)[0], atol=1e-4)


def test_mean_distance_is_the_mean_over_k(data):
    np.testing.assert_allclose(mean_distance(*data, 4), brute(*data, 4)[0].mean(1), atol=1e-5)


def test_bad_input_is_refused(data):
    q, b = data
    with pytest.raises(CovtokenError, match="queries hold NaN"):
        nearest(np.full_like(q, np.nan), b, 2)
    broken = b.copy()
    broken[7, 3] = np.inf
    with pytest.raises(CovtokenError, match="bank hold NaN"):
        nearest(q, broken, 2)
    with pytest.raises(CovtokenError, match="only 400"):
        nearest(q, b, 401)
    with pytest.raises(CovtokenError, match="only 0"):
        nearest(q, b, 1, np.zeros(57, int), np.zeros(400, int))
    with pytest.raises(CovtokenError, match="share D"):
        nearest(q[:, :5], b, 2)
    with pytest.raises(CovtokenError, match="of neither"):
        nearest(q, b, 2, np.zeros(57, int))
