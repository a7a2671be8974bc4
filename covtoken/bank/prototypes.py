"""Condense a bank to prototypes, its k-means centres: a second and smaller bank of tokens that stand for many.

One iteration is a map over shards (``shard_sums``) and a merge of sums (``Sums.merge``). Both are pure and picklable,
so shards may lie on many machines; the order of shards changes the result by rounding only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch

from covtoken.bank.neighbors import nearest
from covtoken.bank.token_bank import TokenBank, need_bank
from covtoken.errors import CovtokenError
from covtoken.leak_guard import construction, refuse_label_arrays

CHUNK = 16_384  # tokens a shard, where a tensor is given
FAR = 64  # farthest tokens that a pass remembers: so many empty clusters can move in one iteration


def prototype_bank(bank: TokenBank, n: int, iterations: int = 25) -> TokenBank:
    """Make a bank of ``n`` prototypes of ``bank``; ``header["prototypes"]`` records the bank and the passes.

    k-means starts from the bank's first n tokens: they have the smallest keyed hashes, a random choice that no draw and
    no order of pictures decides. A prototype mixes tokens of many units. Each therefore counts as a unit of its own,
    numbered beyond ``header["units"]``, and *no picture that fed the bank can be left out of it*: use it for pictures
    of other units only.

    Raises:
        CovtokenError: n below 1 or above the bank's tokens.
    """
    need_bank("a bank of prototypes", bank)
    if not 1 <= n <= len(bank):
        raise CovtokenError(f"prototypes must number 1 … {len(bank)} (the bank's tokens), got {n}")
    centres, inertias = kmeans_prototypes(bank.tokens, bank.tokens[:n], iterations)
    units = len(bank.header["units"]) + np.arange(n, dtype=np.int64)
    made = {"method": "k-means", "of": bank.header["content_sha256"], "passes": len(inertias), "inertia": inertias[-1]}
    return bank.derive(centres, units, size=n, prototypes=made)


def kmeans_prototypes(
    tokens: torch.Tensor | Callable[[], Iterable[torch.Tensor]],
    start: torch.Tensor,
    iterations: int = 25,
    tolerance: float = 1e-4,
) -> tuple[torch.Tensor, list[float]]:
    """Run Lloyd's k-means from ``start`` [K, D], in passes over shards of tokens.

    A cluster without tokens moves to one of the tokens that lie farthest from their centres, so inertia never rises.

    Args:
        tokens: [N, D], or a function that gives the shards [n, D] anew for every pass.
        iterations: passes at most.
        tolerance: stop when a pass lowers inertia by no more than this share of it.

    Returns:
        Centres [K, D] float32, and inertia (the sum of squared distances of tokens to their centres) before each pass.

    Raises:
        LabelLeak: something like a label among the tokens.
        CovtokenError: no tokens, NaN, or fewer than one iteration.
    """
    if iterations < 1 or start.ndim != 2 or len(start) == 0:
        raise CovtokenError(f"k-means needs a start [K, D] and a pass, got {tuple(start.shape)} and {iterations}")
    shards = (lambda: tokens.split(CHUNK)) if isinstance(tokens, torch.Tensor) else tokens
    centres, inertias = start.to(torch.float32), []
    with construction("prototypes"):
        while len(inertias) < iterations:
            sums = reduce(Sums.merge, (shard_sums(shard, centres) for shard in shards() if len(shard)), None)
            if sums is None:
                raise CovtokenError("k-means was given no tokens: give shards anew in every pass, not one iterator")
            centres = sums.centres(centres)
            inertias.append(sums.inertia)
            if len(inertias) > 1 and inertias[-2] - inertias[-1] <= tolerance * inertias[-2]:
                break
    return centres, inertias


@dataclass(frozen=True)
class Sums:
    """Sums of a k-means pass over some shards."""

    count: torch.Tensor  # [K] tokens by cluster
    total: torch.Tensor  # [K, D] float64, their sums
    inertia: float  # Σ squared distances
    far: torch.Tensor  # [≤ FAR, D] the tokens farthest from their centres, farthest first
    distance: torch.Tensor  # [≤ FAR] of these tokens to their centres, squared

    def merge(self: Sums | None, other: Sums) -> Sums:
        """Add sums; None stands for no shard yet."""
        if self is None:
            return other
        far, distance = torch.cat([self.far, other.far]), torch.cat([self.distance, other.distance])
        top = distance.topk(min(FAR, len(distance))).indices
        count, total, inertia = self.count + other.count, self.total + other.total, self.inertia + other.inertia
        return Sums(count, total, inertia, far[top], distance[top])

    def centres(self, before: torch.Tensor) -> torch.Tensor:
        """Average each cluster, [K, D] float32; an empty cluster takes a far token, or stays if none is left."""
        means = (self.total / self.count.clamp_min(1)[:, None]).float()
        empty = (self.count == 0).nonzero()[:, 0]
        away = self.far[self.distance > 0][: len(empty)]
        means[empty] = before[empty]
        means[empty[: len(away)]] = away
        return means


def shard_sums(shard: torch.Tensor, centres: torch.Tensor) -> Sums:
    """Sum tokens [n, D] by nearest centre [K, D]."""
    refuse_label_arrays("prototypes", shard)
    shard = shard.to(torch.float32)
    distance, cluster = (column[:, 0] for column in nearest(shard, centres, 1))
    squared = distance.double() ** 2
    total = torch.zeros(centres.shape, dtype=torch.float64).index_add_(0, cluster, shard.double())
    top = squared.topk(min(FAR, len(squared))).indices
    count = cluster.bincount(minlength=len(centres))
    return Sums(count, total, squared.sum().item(), shard[top], squared[top])
