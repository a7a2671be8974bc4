"""Coverage functionals against their definitions by SVD, their bounds and counter-examples, and their gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covtoken.coverage.functionals import (
    FUNCTIONALS,
    coding_rate,
    coverage,
    energy,
    gram,
    project,
    rankme,
    set_coverage,
)
from covtoken.errors import CovtokenError

WIDTH = 24
SEEDS = st.integers(0, 2**32 - 1)


def by_definition(name: str, y: np.ndarray, kept: np.ndarray, width: int = WIDTH) -> float:
    """METHOD §4, one set, through the SVD of the kept rows or a determinant of their outer product. y: [T, r]."""
    z = y[kept]
    if name == "energy":
        return float(np.linalg.norm(z) ** 2 / np.linalg.norm(y) ** 2)
    if not len(z):
        return 0.0
    if name == "rankme":
        singular = np.linalg.svd(z, compute_uv=False)
        share = singular / singular.sum() + 1e-7
        return float(np.exp(-(share * np.log(share)).sum()))
    return float(np.linalg.slogdet(np.eye(z.shape[1]) + width / (len(z) * 0.5**2) * z.T @ z)[1] / 2)


def tokens(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed % 2**63), dtype=torch.float64)


@pytest.mark.parametrize("name", FUNCTIONALS)
@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, n_tokens=st.integers(1, 30), r=st.integers(1, 12), scale=st.sampled_from([1e-3, 1.0, 50.0]))
def test_they_are_their_definitions(name, seed, n_tokens, r, scale):
    rng = np.random.default_rng(seed)
    y = scale * rng.standard_normal((n_tokens, r)) * rng.gamma(1, size=(n_tokens, 1))
    kept = rng.random(n_tokens) < rng.random()
    found = coverage(name, torch.from_numpy(y), torch.from_numpy(kept), width=WIDTH)
    # Beyond min(k, r) singular values that are zero each add 1e-7 log 1e-7 to RankMe's exponent.
    assert float(found) == pytest.approx(by_definition(name, y, kept), rel=3e-5 if name == "rankme" else 1e-8)
    rows = coverage(name, torch.from_numpy(y), torch.from_numpy(kept), width=WIDTH, rows=True)
    assert float(rows) == pytest.approx(float(found), rel=3e-5 if name == "rankme" else 1e-12)


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_they_are_their_definitions_at_full_size(name):
    y, kept = tokens(0, 256, 64), torch.rand(256, generator=torch.Generator().manual_seed(1)) < 0.5
    found = coverage(name, y, kept, width=384)
    assert float(found) == pytest.approx(by_definition(name, y.numpy(), kept.numpy(), 384), rel=1e-9)
    with_float32 = coverage(name, y.float(), kept.float(), width=384)
    assert with_float32.dtype == torch.float64 and float(with_float32) == pytest.approx(float(found), rel=1e-5)


def test_named_functions_are_the_functionals():
    y, weight = tokens(2, 3, 9, 4), (tokens(3, 3, 9) > 0).double()
    for name, found in (
        ("rankme", rankme(y, weight)),
        ("coding_rate", coding_rate(y, weight, width=WIDTH)),
        ("energy", energy(y, weight)),
    ):
        assert torch.equal(found, coverage(name, y, weight, width=WIDTH))
    assert torch.equal(rankme(y), rankme(y, torch.ones(3, 9)))
    torch.testing.assert_close(gram(y, weight), torch.einsum("btr,bt,bts->brs", y, weight, y))


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_a_batch_is_its_pictures_one_by_one(name):
    """More matrices than go to one thread, with two leading dimensions."""
    y, weight = tokens(4, 5, 7, 11, 6), (tokens(5, 5, 7, 11) > 0).double()
    found = coverage(name, y, weight, width=WIDTH)
    alone = [[float(coverage(name, y[i, j], weight[i, j], width=WIDTH)) for j in range(7)] for i in range(5)]
    assert found.shape == (5, 7)
    np.testing.assert_allclose(found, alone, rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, n_tokens=st.integers(1, 20), r=st.integers(1, 8), name=st.sampled_from(FUNCTIONALS))
def test_the_order_of_tokens_does_not_matter(seed, n_tokens, r, name):
    y, weight = tokens(seed, n_tokens, r), tokens(seed + 1, n_tokens).abs().clamp(max=1)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n_tokens))
    a, b = coverage(name, y, weight, width=WIDTH), coverage(name, y[order], weight[order], width=WIDTH)
    assert float(a) == pytest.approx(float(b), rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, r=st.integers(1, 8), name=st.sampled_from(FUNCTIONALS))
def test_a_rotation_of_the_directions_does_not_matter(seed, r, name):
    y, weight = tokens(seed, 12, r), (tokens(seed + 1, 12) > -0.5).double()
    turn = torch.linalg.qr(tokens(seed + 2, r, r))[0]
    a, b = coverage(name, y, weight, width=WIDTH), coverage(name, y @ turn, weight, width=WIDTH)
    assert float(a) == pytest.approx(float(b), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, n_tokens=st.integers(1, 24), r=st.integers(1, 12), rank=st.integers(1, 12), scale=st.floats(-6, 6))
def test_rankme_lies_between_one_and_the_rank(seed, n_tokens, r, rank, scale):
    y = 10**scale * tokens(seed, n_tokens, rank) @ tokens(seed + 1, rank, r)
    value = float(rankme(y))
    assert 1 - 1e-3 <= value <= min(n_tokens, r, rank) + 1e-3
    assert value == pytest.approx(float(rankme(7 * y)), rel=1e-5), "RankMe has no scale"


@pytest.mark.parametrize("r", [1, 2, 64])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_rankme_of_one_token_is_one(r, scale):
    y, one = scale * tokens(6, 40, r), torch.zeros(40)
    one[17] = 1
    sets = torch.tensor([[17]])
    found = rankme(y, one), rankme(y[17:18]), coverage("rankme", y, one, width=384, rows=True)
    for value in (*found, set_coverage("rankme", y, sets, width=384)[0]):
        assert float(value) == pytest.approx(1, abs=1e-3)
    assert float(rankme(y.float(), one)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("n", [2, 8, 32, 64])
def test_rankme_of_orthogonal_tokens_is_their_number(n):
    y = 3 * torch.linalg.qr(tokens(7, 64, 64))[0]
    assert float(rankme(y[:n])) == pytest.approx(n, rel=2e-4)  # 64 − n zeros, each + 1e-7
    assert float(set_coverage("rankme", y, torch.arange(n)[None], width=384)[0]) == pytest.approx(n, rel=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, n_tokens=st.integers(2, 20), r=st.integers(1, 6))
def test_energy_never_falls_and_ends_at_one(seed, n_tokens, r):
    y = tokens(seed, n_tokens, r) * (tokens(seed + 1, n_tokens, 1) > -0.5)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n_tokens))
    weight, values = torch.zeros(n_tokens, dtype=torch.float64), [0.0]
    for token in order:
        weight[token] = 1
        values.append(float(energy(y, weight)))
    assert (np.diff(values) >= -1e-12).all() and values[0] == 0
    assert values[-1] == pytest.approx(1 if y.abs().sum() > 0 else 0)


def test_rankme_may_fall_when_a_token_is_added():
    """Two directions evenly held; a second token along the first makes the spectrum less even."""
    y = torch.tensor([[1.0, 0], [0, 1], [3, 0]])
    two, three = rankme(y, torch.tensor([1.0, 1, 0])), rankme(y)
    assert float(two) == pytest.approx(2, abs=1e-3)
    p = np.array([10**0.5, 1]) / (10**0.5 + 1)
    assert float(three) == pytest.approx(np.exp(-(p * np.log(p)).sum()), abs=1e-3) and three < two - 0.2


def test_the_coding_rate_may_fall_when_a_token_is_added():
    y = torch.tensor([[2.0, 0], [0, 1], [0, 0]])
    two, three = coding_rate(y, torch.tensor([1.0, 1, 0]), width=4), coding_rate(y, width=4)
    assert float(two) == pytest.approx(0.5 * np.log((1 + 8 * 4) * (1 + 8)))
    assert float(three) == pytest.approx(0.5 * np.log((1 + 16 / 3 * 4) * (1 + 16 / 3))) and three < two


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("name", FUNCTIONALS)
def test_the_empty_set_covers_nothing(name, rows):
    y = tokens(8, 3, 9, 4)
    assert coverage(name, y, torch.zeros(3, 9), width=WIDTH, rows=rows).tolist() == [0, 0, 0]
    some = torch.zeros(3, 9, dtype=torch.bool)
    some[1, :5] = True
    found = coverage(name, y, some, width=WIDTH, rows=rows)
    assert found[0] == found[2] == 0 and found[1] > 0
    assert coverage(name, 0 * y, width=WIDTH, rows=rows).tolist() == [0, 0, 0]


def awkward() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    y, ones = tokens(9, 10, 4), torch.ones(10, dtype=torch.float64)
    one = torch.zeros_like(ones)
    one[3] = 1
    return {
        "repeated": (y[[0, 0, 0, 1, 1, 2, 2, 2, 2, 2]], ones),
        "one": (y, one),
        "none": (y, 0 * ones),
        "all equal": (y[:1].expand(10, -1), ones),
        "all equal, half kept": (y[:1].expand(10, -1), torch.tensor([1.0, 0] * 5)),
        "zero": (0 * y, ones),
        "zero, none kept": (0 * y, 0 * ones),
        "one is zero": (y * (torch.arange(10) != 3)[:, None], one),
        "fewer than directions": (tokens(10, 3, 8), ones[:3]),
        "equal singular values": (torch.eye(4, dtype=torch.float64).repeat(2, 1), ones[:8]),
        "tiny": (1e-150 * y, ones),
        "one token, one direction": (y[:1, :1], ones[:1]),
    }


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("name", FUNCTIONALS)
@pytest.mark.parametrize("case", awkward())
def test_gradients_are_finite(case, name, rows):
    y, weight = awkward()[case]
    weight = weight.clone().requires_grad_(True)
    value = coverage(name, y, weight, width=WIDTH, rows=rows)
    slope = torch.autograd.grad(value.sum(), weight)[0]
    assert torch.isfinite(value) and torch.isfinite(slope).all()
    assert slope.abs().max() < 1e6


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_equal_tokens_have_equal_slopes(name):
    y, weight = awkward()["repeated"]
    weight = weight.clone().requires_grad_(True)
    slope = torch.autograd.grad(coverage(name, y, weight, width=WIDTH).sum(), weight)[0]
    for same in (slice(0, 3), slice(3, 5), slice(5, 10)):
        torch.testing.assert_close(slope[same], slope[same][:1].expand_as(slope[same]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("name", FUNCTIONALS)
@pytest.mark.parametrize("kind", ["between", "kept or dropped"])
@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_finite_differences(name, rows, kind, seed):
    y = tokens(seed, 14, 4)
    generator = torch.Generator().manual_seed(seed)
    weight = 0.2 + torch.rand(14, generator=generator, dtype=torch.float64)
    if kind == "kept or dropped":
        weight = (torch.arange(14) % 7 != seed).double()
    leaf = weight.clone().requires_grad_(True)
    found = torch.autograd.grad(coverage(name, y, leaf, width=WIDTH, rows=rows), leaf)[0]
    shift = 1e-5 * torch.eye(14, dtype=torch.float64)
    ahead, behind = (coverage(name, y.expand(14, -1, -1), weight + s, width=WIDTH, rows=rows) for s in (shift, -shift))
    torch.testing.assert_close(found, (ahead - behind) / 2e-5, rtol=1e-6, atol=1e-8)


def test_gradients_of_a_batch_are_those_of_its_pictures_scaled_from_above():
    y, above = tokens(11, 9, 12, 5), torch.arange(1.0, 10, dtype=torch.float64)
    weight = torch.ones(9, 12, dtype=torch.float64, requires_grad=True)
    together = torch.autograd.grad((above * rankme(y, weight)).sum(), weight)[0]
    for i in range(9):
        one = torch.ones(12, dtype=torch.float64, requires_grad=True)
        alone = torch.autograd.grad(rankme(y[i], one), one)[0]
        torch.testing.assert_close(together[i], above[i] * alone)


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_only_a_linear_weight_gives_dropped_tokens_a_slope(name):
    """In a mask on rows only the coding rate's k has one, the same for every dropped token."""
    y = tokens(12, 10, 3)
    weight = (torch.arange(10) < 6).double().requires_grad_(True)
    slope = [torch.autograd.grad(coverage(name, y, weight, width=WIDTH, rows=r), weight)[0][6:] for r in (False, True)]
    assert slope[0].unique().numel() == 4
    if name == "coding_rate":
        assert slope[1][0] < 0 and slope[1].unique().numel() == 1
    else:
        assert (slope[1] == 0).all()


@pytest.mark.parametrize("name", FUNCTIONALS)
@pytest.mark.parametrize("k", [1, 2, 5, 6, 7, 12])
def test_coverage_of_sets_is_that_of_weights(name, k):
    """Both Grams: k tokens of 6 directions, fewer, as many and more; for one picture and for several."""
    rng = np.random.default_rng(k)
    y = tokens(13, 3, 12, 6)
    sets = torch.from_numpy(np.stack([[rng.permutation(12)[:k] for _ in range(5)] for _ in range(3)]))
    weight = torch.zeros(3, 5, 12).scatter(2, sets, 1.0)
    expected = coverage(name, y[:, None].expand(-1, 5, -1, -1), weight, width=WIDTH)
    found = set_coverage(name, y, sets, width=WIDTH)
    assert found.shape == (3, 5) and not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=0)
    torch.testing.assert_close(set_coverage(name, y[1], sets[1], width=WIDTH), expected[1], rtol=2e-5, atol=0)
    direct = [by_definition(name, y[0].numpy(), one.numpy()) for one in sets[0]]
    np.testing.assert_allclose(found[0], direct, rtol=2e-5)


def test_sets_of_float32_tokens_are_measured_in_float64():
    y, sets = tokens(14, 8, 20).float(), torch.tensor([[4], [2]])
    assert set_coverage("rankme", y, sets, width=WIDTH).tolist() == pytest.approx([1, 1], abs=1e-3)


def test_projection_is_centred_and_has_the_spectrum_of_the_projector():
    z, mean = tokens(15, 2, 30, 10).float() + 5, torch.full((10,), 5.0)
    directions = torch.linalg.qr(tokens(16, 10, 3))[0].float()
    y = project(z, mean, directions)
    assert y.shape == (2, 30, 3) and y.dtype == torch.float64
    full = (z.double() - 5) @ directions.double() @ directions.double().T
    torch.testing.assert_close(torch.linalg.svdvals(full)[:, :3], torch.linalg.svdvals(y), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(y.mean(1), ((z - 5).double().mean(1)) @ directions.double())


Y = torch.zeros(2, 5, 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: coverage("rank_me", Y, width=8), "did you mean rankme"),
        (lambda: coverage("", Y, width=8), "Known: rankme, coding_rate, energy"),
        (lambda: set_coverage("rank", Y, torch.zeros(2, 1, 1, dtype=torch.long), width=8), "unknown coverage"),
        (lambda: coverage("energy", Y, torch.ones(5), width=8), "one weight a token"),
        (lambda: coverage("rankme", Y, torch.ones(2, 4), width=8), "one weight a token"),
        (lambda: rankme(Y, torch.ones(2, 5, 1)), "one weight a token"),
        (lambda: coding_rate(Y, torch.ones(2, 5, 3), width=8), "one weight a token"),
        (lambda: energy(Y, torch.ones(1, 5)), "one weight a token"),
        (lambda: gram(Y, torch.ones(2)), "one weight a token"),
        (lambda: project(torch.zeros(4, 7), torch.zeros(8), torch.zeros(8, 2)), "do not fit"),
        (lambda: project(torch.zeros(4, 8), torch.zeros(8), torch.zeros(2, 8)), "do not fit"),
        (lambda: project(torch.zeros(4, 8), torch.zeros(7), torch.zeros(8, 2)), "do not fit"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(CovtokenError, match=words):
        call()
