"""Pooling and smoothing against the plain definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from covtoken.bank.pooling import pool3x3, smooth
from covtoken.errors import CovtokenError


def test_pool3x3_is_half_self_half_replicated_neighbourhood():
    z = np.random.default_rng(0).normal(size=(2, 12, 3)).astype(np.float32)
    padded = np.pad(z.reshape(2, 3, 4, 3), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    expected = np.zeros_like(z).reshape(2, 3, 4, 3)
    for r in range(3):
        for c in range(4):
            expected[:, r, c] = padded[:, r : r + 3, c : c + 3].mean((1, 2)) / 2 + padded[:, r + 1, c + 1] / 2
    pooled = pool3x3(z, 3, 4)
    assert isinstance(pooled, np.ndarray)
    np.testing.assert_allclose(pooled, expected.reshape(z.shape), atol=1e-6)
    assert torch.equal(pool3x3(torch.from_numpy(z), 3, 4), torch.from_numpy(pooled))


def test_smooth_is_a_gaussian_inside_each_picture():
    maps = np.random.default_rng(1).normal(size=(3, 20)).astype(np.float32)
    for i, row in enumerate(smooth(maps, 4, 5, 1.0)):
        np.testing.assert_allclose(
            row.reshape(4, 5), gaussian_filter(maps[i].reshape(4, 5), 1.0, mode="nearest"), atol=1e-6
        )
    np.testing.assert_array_equal(smooth(maps, 4, 5, 0), maps)
    np.testing.assert_allclose(smooth(np.ones((1, 20)), 4, 5, 0.5), 1, atol=1e-6)


@pytest.mark.parametrize("sigma", [float("nan"), float("inf"), -1, 1e9, "1", True, None])
def test_a_sigma_that_is_no_width_is_refused(sigma):
    with pytest.raises(CovtokenError, match=r"sigma must be a number of 0 … 20 tokens, got "):
        smooth(np.ones((1, 20)), 4, 5, sigma)


def test_text_is_neither_tokens_nor_a_map():
    with pytest.raises(CovtokenError, match=r"expected score maps .*, got 'map.npy'"):
        smooth("map.npy", 4, 5, 1)
    with pytest.raises(CovtokenError, match=r"expected tokens .*, got 'tokens.npy'"):
        pool3x3("tokens.npy", 4, 5)


def test_a_wrong_grid_is_refused():
    with pytest.raises(CovtokenError, match="4 × 4"):
        smooth(np.zeros((1, 20)), 4, 4, 1)
    with pytest.raises(CovtokenError, match="4 × 4"):
        pool3x3(np.zeros((1, 20, 2)), 4, 4)
