"""Ridge from sums: scikit-learn as the oracle, and sums that add up over any shards."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from covtoken.errors import CovtokenError
from covtoken.subspace import ridge as ridge_module
from covtoken.subspace.ridge import MapMoments, Moments, explained, solve, solve_map

NAMES = ("n", "x", "xx", "t", "xt", "tt")


def drawn(seed=0, n=400, width=7):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, width)) @ rng.standard_normal((width, width)) + 5 * rng.standard_normal(width)
    t = (x - x.mean(0)) @ rng.standard_normal(width) + rng.standard_normal(n) > 0
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(t.astype(np.float64))


def assert_same_sums(a: Moments, b: Moments):
    for name in NAMES:
        left, right = (np.asarray(getattr(m, name), dtype=np.float64) for m in (a, b))
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-9 * np.abs(right).max(), err_msg=name)


@pytest.mark.parametrize("ridge", [0.0, 0.01, 1.0, 30.0])
def test_it_is_scikit_learns_ridge(ridge):
    x, t = drawn()
    weight, mean = solve(Moments.of(x, t), ridge)
    centred = x.double() - x.double().mean(0)
    alpha = ridge * (centred**2).sum().item() / x.shape[1]  # n · λ · tr(C)/D: scikit-learn's objective is not ÷ n
    oracle = Ridge(alpha=alpha, solver="cholesky").fit(x.double(), t)
    np.testing.assert_allclose(weight, oracle.coef_, rtol=1e-7)
    np.testing.assert_allclose(mean, x.double().mean(0), rtol=1e-12)
    assert explained(Moments.of(x, t), weight) == pytest.approx(oracle.score(x.double(), t), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(0, 400), max_size=6), order=st.randoms())
def test_shards_in_any_order_give_the_same_direction(seed, cuts, order):
    x, t = drawn(seed)
    edges = [0, *sorted(cuts), 400]
    shards = [Moments.of(x[a:b], t[a:b]) for a, b in pairwise(edges)]  # some are empty
    order.shuffle(shards)
    total = sum(shards[1:], shards[0])
    whole = Moments.of(x, t)
    assert_same_sums(total, whole)
    (weight, mean), (again, same) = solve(total), solve(whole)
    assert torch.linalg.vector_norm(weight - again) <= 1e-9 * torch.linalg.vector_norm(again)
    torch.testing.assert_close(mean, same, rtol=1e-9, atol=1e-9)


def test_grids_of_tokens_chunks_and_pickles_change_nothing(monkeypatch):
    x, t = drawn()
    whole = Moments.of(x, t)
    assert_same_sums(Moments.of(x.reshape(8, 50, 7), t.reshape(8, 50)), whole)
    sent = pickle.loads(pickle.dumps(whole))
    assert all(np.array_equal(getattr(sent, name), getattr(whole, name)) for name in NAMES)
    assert torch.equal(solve(sent)[0], solve(whole)[0])
    monkeypatch.setattr(ridge_module, "CHUNK", 33)
    assert_same_sums(Moments.of(x, t), whole)


def test_the_sums_are_the_sums():
    x, t = drawn(n=50)
    m, z = Moments.of(x, t), x.double()
    assert (m.n, m.t, m.tt) == (50, t.sum(), (t**2).sum())
    for found, expected in ((m.x, z.sum(0)), (m.xx, z.T @ z), (m.xt, z.T @ t)):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_distant_mean_costs_no_digits():
    x, t = drawn()
    far = Moments.of(x.double() + 1000, t)
    torch.testing.assert_close(solve(far)[0], solve(Moments.of(x, t))[0], rtol=1e-6, atol=1e-9)


def test_what_cannot_be_solved_is_refused():
    x, t = drawn()
    with pytest.raises(CovtokenError, match="ridge must be 0 or more"):
        solve(Moments.of(x, t), -1)
    with pytest.raises(CovtokenError, match="all 400 targets are 0"):
        solve(Moments.of(x, 0 * t))
    with pytest.raises(CovtokenError, match=r"all 400 targets are 0\.3"):
        solve(Moments.of(x, 0 * t + 0.3))
    with pytest.raises(CovtokenError, match="at least 2 tokens"):
        solve(Moments.of(x[:1], t[:1]))
    with pytest.raises(CovtokenError, match="NaN"):
        solve(Moments.of(torch.full_like(x, torch.nan), t))
    for ridge in (0.0, 1.0):
        with pytest.raises(CovtokenError, match="do not vary"):
            solve(Moments.of(torch.zeros(400, 7), t), ridge)
    with pytest.raises(CovtokenError, match=f"ridge {0.0}"):
        solve(Moments.of(torch.cat([x, torch.zeros(400, 1)], 1), t), 0.0)
    with pytest.raises(CovtokenError, match="one target each"):
        Moments.of(x, t[:-1])
    with pytest.raises(CovtokenError, match="width 7 and 6"):
        Moments.of(x, t) + Moments.of(x[:, :6], t)


def drawn_map(seed=0, n=300, width=6, out=4):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, width)) @ rng.standard_normal((width, width)) + 5 * rng.standard_normal(width)
    y = x @ rng.standard_normal((width, out)) + rng.standard_normal((n, out)) - 3
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y.astype(np.float32))


@pytest.mark.parametrize("ridge", [0.0, 0.01, 1.0])
def test_a_map_is_scikit_learns_ridge_and_one_direction_an_output(ridge):
    x, y = drawn_map()
    moments = MapMoments.of(x, y)
    weight, bias, share = solve_map(moments, ridge)
    centred = x.double() - x.double().mean(0)
    alpha = ridge * (centred**2).sum().item() / x.shape[1]
    oracle = Ridge(alpha=alpha, solver="cholesky").fit(x.double(), y.double())
    np.testing.assert_allclose(weight.T, oracle.coef_, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(bias, oracle.intercept_, rtol=1e-7)
    left = ((y.numpy() - oracle.predict(x.double())) ** 2).sum() / ((y - y.double().mean(0)) ** 2).sum().item()
    assert share == pytest.approx(1 - left, abs=1e-9)
    for i in range(y.shape[1]):
        one, _ = solve(Moments.of(x, y[:, i]), ridge)
        np.testing.assert_allclose(weight[:, i], one, rtol=1e-9, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(0, 300), max_size=5), order=st.randoms())
def test_shards_in_any_order_give_the_same_map(seed, cuts, order):
    x, y = drawn_map(seed)
    shards = [MapMoments.of(x[a:b], y[a:b]) for a, b in pairwise([0, *sorted(cuts), 300])]
    order.shuffle(shards)
    total, whole = sum(shards[1:], shards[0]), MapMoments.of(x, y)
    for name in ("x", "xx", "y", "xy", "yy"):
        torch.testing.assert_close(getattr(total, name), getattr(whole, name), rtol=1e-9, atol=1e-6)
    assert total.n == whole.n == 300
    torch.testing.assert_close(solve_map(total, 0.01)[0], solve_map(whole, 0.01)[0], rtol=1e-6, atol=1e-8)


def test_maps_that_cannot_be_solved_are_refused():
    x, y = drawn_map()
    with pytest.raises(CovtokenError, match="as many targets"):
        MapMoments.of(x, y[:-1])
    with pytest.raises(CovtokenError, match="do not add up"):
        MapMoments.of(x, y) + MapMoments.of(x, y[:, :2])
    with pytest.raises(CovtokenError, match="at least 2 tokens"):
        solve_map(MapMoments.of(x[:1], y[:1]))
    with pytest.raises(CovtokenError, match="nothing to fit a map to"):
        solve_map(MapMoments.of(x, torch.ones(300, 4)))
    with pytest.raises(CovtokenError, match="NaN or infinite"):
        solve_map(MapMoments.of(x, y * float("nan")))
    with pytest.raises(CovtokenError, match="ridge must be 0 or more"):
        solve_map(MapMoments.of(x, y), -1.0)
    with pytest.raises(CovtokenError, match="do not vary in every direction"):
        solve_map(MapMoments.of(torch.cat([x, x], dim=1), y), 0.0)
