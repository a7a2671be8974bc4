"""The coreset against the plain greedy loop and against the best possible cover."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covtoken.bank import coreset
from covtoken.bank.coreset import farthest_first, greedy_k_center
from covtoken.errors import CovtokenError


def plain_greedy(x: torch.Tensor, size: int) -> list[int]:
    """The definition: one column of distances after the other over all points."""
    chosen = [(x * x).sum(1).argmin().item()]
    nearest = torch.full((len(x),), torch.inf)
    while len(chosen) < min(size, len(x)):
        nearest = torch.minimum(nearest, ((x - x[chosen[-1]]) ** 2).sum(1))
        nearest[chosen] = -torch.inf
        chosen.append(nearest.argmax().item())
    return chosen


@st.composite
def grids(draw):
    """Points with whole coordinates: float32 is exact on them, ties and duplicates abound."""
    seed, n, d, span = (draw(st.integers(*limits)) for limits in ((0, 10**6), (1, 60), (1, 4), (1, 9)))
    return torch.randint(-span, span + 1, (n, d), generator=torch.Generator().manual_seed(seed)).float()


@settings(max_examples=150, deadline=None)
@given(grids(), st.integers(1, 70), st.integers(1, 70))
def test_candidates_change_no_choice(x, size, candidates):
    assert farthest_first(x, size, candidates).tolist() == plain_greedy(x, size)


def test_blocks_change_no_choice(monkeypatch):
    x = torch.randint(-50, 51, (700, 5), generator=torch.Generator().manual_seed(1)).float()
    expected = plain_greedy(x, 300)
    monkeypatch.setattr(coreset, "ROWS", 33)
    monkeypatch.setattr(coreset, "NEW", 4)
    assert farthest_first(x, 300, candidates=90).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(grids(), st.integers(1, 3), st.integers(1, 20))
def test_the_radius_is_at_most_twice_the_best(x, size, candidates):
    x = x[:14]
    d = torch.cdist(x, x)
    ours = d[farthest_first(x, size, candidates)].min(0).values.max()
    best = min(d[list(some)].min(0).values.max() for some in combinations(range(len(x)), min(size, len(x))))
    assert ours <= 2 * best + 1e-5


def test_it_is_deterministic_for_a_seed():
    x = torch.randn(300, 200, generator=torch.Generator().manual_seed(2))
    first, again, other = (greedy_k_center(x, 40, dims=16, seed=seed).tolist() for seed in (5, 5, 6))
    assert first == again and first != other
    assert greedy_k_center(x, 40, seed=5, dims=200).tolist() == greedy_k_center(x, 40, seed=6, dims=200).tolist()


def test_bad_points_are_refused():
    with pytest.raises(CovtokenError, match="NaN"):
        greedy_k_center(torch.full((4, 2), torch.nan), 2)
    with pytest.raises(CovtokenError, match="size ≥ 1"):
        greedy_k_center(torch.zeros(4, 2), 0)
