"""Optimisers of coverage against every set there is, against pivoted QR of LAPACK, and their promises."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import qr

from covtoken.coverage.functionals import FUNCTIONALS, coverage, set_coverage
from covtoken.coverage.greedy import greedy, largest_norms, repaired, spanning
from covtoken.errors import CovtokenError

WIDTH = 24
SEEDS = st.integers(0, 2**32 - 1)


def tokens(seed: int, *shape: int, even: bool = False) -> torch.Tensor:
    """Gaussian, of very unequal norms unless even."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal(shape) * (1 if even else rng.gamma(2, size=(*shape[:-1], 1))))


def pivots(y: torch.Tensor) -> list[int]:
    """Of one picture [T, r], by LAPACK."""
    return qr(y.numpy().T, pivoting=True, mode="r")[1].tolist()


def value_of(name: str, y: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    return set_coverage(name, y, chosen[:, None], width=WIDTH)[:, 0]


def exhaustive(name: str, y: torch.Tensor, k: int) -> torch.Tensor:
    """The set of k tokens that maximises a functional, int [k], by trying all; y: [T, r] of few tokens."""
    sets = torch.tensor(list(combinations(range(len(y)), k)))
    return sets[set_coverage(name, y, sets, width=WIDTH).argmax()]


def all_different(chosen: torch.Tensor) -> bool:
    return all(len(set(one)) == len(one) for one in chosen.tolist())


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("name", ["rankme", "coding_rate"])
@pytest.mark.parametrize(("n_tokens", "r", "k"), [(10, 4, 5), (9, 6, 3), (10, 3, 7), (8, 4, 1), (6, 4, 6), (10, 5, 2)])
def test_greedy_with_swaps_is_nearly_the_best_of_all_sets(name, n_tokens, r, k, even):
    """RankMe of tokens whose norms differ tenfold has poor sets that no single exchange improves; nothing else has."""
    y = tokens(n_tokens + r + k, 20, n_tokens, r, even=even)
    best = torch.stack([exhaustive(name, one, k) for one in y])
    found = greedy(name, y, k, width=WIDTH, candidates=n_tokens, swaps=100)
    assert found.shape == (20, k) and all_different(found)
    reached = value_of(name, y, found) / value_of(name, y, best)
    worst, mean = (0.95, 0.99) if even or name == "coding_rate" else (0.85, 0.975)
    assert reached.min() >= worst and reached.mean() > mean, reached
    assert (reached <= 1 + 1e-6).all(), "the oracle was beaten"


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_the_oracle_tries_all_sets(name):
    y = tokens(0, 8, 3)
    for k in (1, 3, 8):
        sets = list(combinations(range(8), k))
        weight = torch.zeros(len(sets), 8).scatter(1, torch.tensor(sets), 1.0)
        values = coverage(name, y.expand(len(sets), -1, -1), weight, width=WIDTH)
        chosen = exhaustive(name, y, k)
        assert len(sets) == comb(8, k) and chosen.shape == (k,)
        assert float(value_of(name, y[None], chosen[None])) == pytest.approx(float(values.max()), rel=1e-5)


def test_largest_norms_are_the_best_for_energy():
    y = tokens(1, 6, 10, 4)
    for k in (1, 4, 9, 10):
        found = largest_norms(y, k)
        for one, chosen in zip(y, found):
            assert set(chosen.tolist()) == set(exhaustive("energy", one, k).tolist())
        climbed = greedy("energy", y, k, width=WIDTH, candidates=10, swaps=0)
        assert torch.equal(climbed.sort(dim=1).values, found.sort(dim=1).values)
    norms = y.norm(dim=-1).gather(1, largest_norms(y, 10))
    assert (norms.diff(dim=1) <= 0).all()


def test_equal_norms_stay_in_order():
    y = torch.eye(4).repeat(3, 1)[None]
    assert largest_norms(y, 5).tolist() == [[0, 1, 2, 3, 4]]


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, r=st.integers(1, 8), more=st.integers(0, 12))
def test_spanning_is_pivoted_qr(seed, r, more):
    y = tokens(seed, 3, r + more, r)
    found = spanning(y, r)
    assert found.tolist() == [pivots(one)[:r] for one in y]


def test_spanning_is_pivoted_qr_at_full_size():
    y = tokens(2, 2, 256, 64)
    assert spanning(y, 64).tolist() == [pivots(one)[:64] for one in y]


def test_spanning_of_fewer_is_the_beginning_of_more():
    y = tokens(3, 4, 30, 6)
    assert torch.equal(spanning(y, 20)[:, :9], spanning(y, 9))


def test_spanning_starts_over_past_the_rank():
    """The second round is pivoted QR of what the first one left, and so on, to the last token."""
    y = tokens(4, 3, 20, 6)
    found = spanning(y, 20)
    assert found.sort(dim=1).values.tolist() == [list(range(20))] * 3
    for one, chosen in zip(y, found.tolist()):
        for begin in (0, 6, 12):
            left = [t for t in range(20) if t not in chosen[:begin]]
            expected = [left[p] for p in pivots(one[left])[:6]]
            assert chosen[begin : begin + 6] == expected


def test_spanning_starts_over_at_the_rank_of_each_picture():
    rank2, full = tokens(5, 12, 2) @ tokens(6, 2, 6), tokens(7, 12, 6)
    found = spanning(torch.stack([rank2, full, 1e-3 * rank2]), 8)
    assert all_different(found) and found[0].tolist() == found[2].tolist()
    assert found[1, :6].tolist() == pivots(full)[:6]
    left = [t for t in range(12) if t not in found[0, :2].tolist()]
    assert found[0, 2:4].tolist() == [left[p] for p in pivots(rank2[left])[:2]]


@pytest.mark.parametrize(
    "y",
    [torch.zeros(1, 9, 4), torch.ones(1, 9, 4), torch.eye(4)[[0] * 4 + [1] * 5][None], 1e-160 * torch.ones(1, 9, 4)],
    ids=["zero", "equal", "two kinds", "tiny"],
)
def test_spanning_of_awkward_tokens_takes_different_ones(y):
    for k in (1, 5, 9):
        assert all_different(spanning(y, k)) and spanning(y, k).shape == (1, k)
        begun = spanning(y, k, first=torch.tensor([7]))
        assert begun[0, 0] == 7 and all_different(begun)


def test_two_kinds_of_tokens_take_turns():
    y = torch.eye(4)[[0] * 4 + [1] * 5][None]
    kinds = (spanning(y, 8)[0] >= 4).tolist()
    assert all(a != b for a, b in zip(kinds[::2], kinds[1::2]))


def test_spanning_from_a_given_token():
    y = tokens(8, 5, 15, 4)
    first = torch.tensor([0, 3, 14, 3, 7])
    found = spanning(y, 15, first=first)
    assert torch.equal(found[:, 0], first) and all_different(found)
    for one, chosen in zip(y, found.tolist()):
        q = one[chosen[0]] / one[chosen[0]].norm()
        rest = [t for t in range(15) if t != chosen[0]]
        outside = one[rest] - torch.outer(one[rest] @ q, q)
        assert chosen[1:4] == [rest[p] for p in pivots(outside)[:3]]


def test_spanning_does_not_depend_on_the_neighbours():
    y = torch.stack(
        [tokens(9, 12, 5), tokens(10, 12, 2) @ tokens(11, 2, 5), torch.zeros(12, 5), 1e6 * tokens(12, 12, 5)]
    )
    y[2, 3] = float("1e-30")
    together = spanning(y, 11)
    for i in range(4):
        assert torch.equal(spanning(y[i : i + 1], 11)[0], together[i])
    assert torch.equal(spanning(y.flip(0), 11).flip(0), together)


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_seeds_reproduce(name):
    y = tokens(13, 6, 40, 5)
    options = {"width": WIDTH, "candidates": 4, "swaps": 10}
    first = greedy(name, y, 6, seed=3, **options)
    torch.rand(11)
    assert torch.equal(greedy(name, y, 6, seed=3, **options), first)
    assert not torch.equal(greedy(name, y, 6, seed=4, **options), first)
    state = torch.get_rng_state()
    greedy(name, y, 6, seed=3, **options)
    assert torch.equal(torch.get_rng_state(), state), "the global stream was used"


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_swaps_and_candidates_never_make_it_worse(name):
    y = tokens(14, 8, 40, 5)
    few = greedy(name, y, 8, width=WIDTH, candidates=2, swaps=0)
    swapped = greedy(name, y, 8, width=WIDTH, candidates=2, swaps=60)
    assert all_different(few) and all_different(swapped)
    gain = value_of(name, y, swapped) - value_of(name, y, few)
    assert (gain >= 0).all() and gain.max() > 0
    all_of_them = greedy(name, y, 8, width=WIDTH, candidates=40, swaps=0)
    assert value_of(name, y, all_of_them).mean() > value_of(name, y, few).mean()


def test_greedy_of_all_tokens_is_all_tokens():
    found = greedy("rankme", tokens(15, 3, 7, 4), 7, width=WIDTH)
    assert found.sort(dim=1).values.tolist() == [list(range(7))] * 3


@pytest.mark.parametrize("name", FUNCTIONALS)
@pytest.mark.parametrize("y", [torch.zeros(2, 6, 3), torch.ones(2, 6, 3)], ids=["zero", "equal"])
def test_greedy_of_awkward_tokens(name, y):
    found = greedy(name, y, 4, width=WIDTH, swaps=20)
    assert all_different(found) and found.shape == (2, 4)


def test_inputs_are_not_changed():
    y = tokens(16, 2, 9, 4)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    before = y.clone()
    spanning(y, 9), largest_norms(y, 3), greedy("energy", y, 3, width=WIDTH, swaps=5)
    repaired("energy", y, mask, torch.ones(2), width=WIDTH)
    assert torch.equal(y, before) and not mask.any()


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, name=st.sampled_from(FUNCTIONALS), slack=st.floats(0, 0.9), start=st.floats(0, 1))
def test_repair_meets_its_constraint_or_keeps_all(seed, name, slack, start):
    y = tokens(seed, 4, 13, 4)
    mask = torch.from_numpy(np.random.default_rng(seed + 1).random((4, 13)) < start)
    full = coverage(name, y, width=WIDTH)
    least = (1 - slack) * full
    least[3] = 2 * full[3]  # cannot be met
    before = coverage(name, y, mask, width=WIDTH)
    found = repaired(name, y, mask, least, width=WIDTH)
    after = coverage(name, y, found, width=WIDTH)
    assert (found | ~mask).all(), "a token was taken away"
    assert ((after >= least - 1e-6 * full) | found.all(1)).all()
    assert name != "energy" or found[3].all()
    fine = before >= least + 1e-6 * full
    assert torch.equal(found[fine], mask[fine]), "a constraint that holds needs no token"
    alone = [repaired(name, y[i : i + 1], mask[i : i + 1], least[i : i + 1], width=WIDTH)[0] for i in range(4)]
    assert torch.equal(torch.stack(alone), found)


def test_repair_of_energy_adds_the_largest_norms_and_no_more():
    y = tokens(17, 5, 20, 6)
    for share in (0.3, 0.9, 0.999):
        found = repaired("energy", y, torch.zeros(5, 20, dtype=torch.bool), torch.full((5,), share), width=WIDTH)
        for one, kept in zip(y, found):
            norms = one.square().sum(-1)
            order = norms.argsort(descending=True)
            k = int(((norms[order].cumsum(0) / norms.sum()) < share).sum()) + 1
            assert set(kept.nonzero()[:, 0].tolist()) == set(order[:k].tolist())


@pytest.mark.parametrize("name", ["rankme", "coding_rate"])
def test_repair_prefers_a_new_direction(name):
    """Kept tokens lie along the first axis; of the rest only one does not."""
    y = torch.tensor([[[2.0, 0], [1.9, 0], [2.1, 0], [0, 1.5], [1.8, 0]]])
    mask = torch.tensor([[True, True, False, False, False]])
    least = coverage(name, y, mask, width=WIDTH) + 0.05
    assert repaired(name, y, mask, least, width=WIDTH).tolist() == [[True, True, False, True, False]]


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_repair_of_nothing(name):
    zeros, none = torch.zeros(2, 5, 3), torch.zeros(2, 5, dtype=torch.bool)
    first, second = repaired(name, zeros, none, torch.tensor([0.0, 0.1]), width=WIDTH)
    assert first.sum() <= 1, "it may begin with a token, and needs no more"
    assert second.all()


@pytest.mark.parametrize("k", [0, -1, 8])
def test_k_out_of_range(k):
    y = tokens(18, 2, 7, 3)
    for call in (
        lambda: spanning(y, k),
        lambda: largest_norms(y, k),
        lambda: greedy("rankme", y, k, width=WIDTH),
    ):
        with pytest.raises(CovtokenError, match=rf"k = {k}: expected 1 … 7"):
            call()


def test_refusals():
    for call in (
        lambda: greedy("volume", tokens(20, 1, 5, 3), 2, width=WIDTH),
        lambda: repaired("volume", tokens(20, 1, 5, 3), torch.zeros(1, 5) > 0, torch.ones(1), width=WIDTH),
    ):
        with pytest.raises(CovtokenError, match="unknown coverage functional 'volume'"):
            call()
