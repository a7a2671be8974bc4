"""Maximise coverage strongly: a spanning choice by pivoted QR, and stochastic greedy maximisation with swaps.

Does the pruner of ``dual`` lose lesions because it optimises badly, or because of what it optimises?
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from covtoken.coverage.functionals import CODING_EPSILON, coverage, set_coverage
from covtoken.errors import CovtokenError

CANDIDATES, SWAPS = 64, 256
SPENT = 1e-9  # of the largest squared norm: what is left of a token that the chosen ones already span


def spanning(y: Tensor, k: int, first: Tensor | None = None) -> Tensor:
    """Choose k tokens of each picture by column-pivoted QR, int [B, k], in the order chosen.

    Args:
        y: projected tokens [B, T, r].
        first: int [B], the token to begin with (None: the largest norm).

    Each step takes the token with the largest part outside the span of those chosen, which greedily maximises their
    volume. Past the rank it starts over on the remaining tokens.
    """
    y = y.double()
    n, n_tokens, _ = y.shape
    _check_k(k, n_tokens)
    everyone, taken = torch.arange(n), torch.zeros(n, n_tokens, dtype=torch.bool)
    left, chosen = y.clone(), []
    floor = SPENT * y.square().sum(-1).amax(-1)
    for step in range(k):
        size = left.square().sum(-1).masked_fill(taken, -1.0)
        restart = size.amax(-1) <= floor
        if restart.any():
            left[restart] = y[restart]
            size = left.square().sum(-1).masked_fill(taken, -1.0)
        pick = first if step == 0 and first is not None else size.argmax(-1)
        chosen.append(pick)
        taken[everyone, pick] = True
        pivot = left[everyone, pick]
        pivot = pivot / pivot.norm(dim=-1, keepdim=True).clamp(min=1e-300)
        left = left - (left @ pivot[..., None]) * pivot[:, None]
    return torch.stack(chosen, dim=1)


def largest_norms(y: Tensor, k: int) -> Tensor:
    """Choose the k tokens of each picture that maximise energy, int [B, k]: a closed form."""
    _check_k(k, y.shape[1])
    return y.double().square().sum(-1).sort(dim=-1, descending=True, stable=True).indices[:, :k]


def greedy(
    name: str, y: Tensor, k: int, *, width: int, candidates: int = CANDIDATES, swaps: int = SWAPS, seed=0
) -> Tensor:
    """Choose k tokens of each picture that nearly maximise a functional, int [B, k].

    Args:
        name: the coverage functional.
        y: projected tokens [B, T, r].
        width: D of the unprojected tokens.
        candidates: random remaining tokens of which each step takes the best (Mirzasoleiman et al. 2015).
        swaps: random exchanges of a chosen for another token, tried at the end and kept where they gain.
        seed: a number, or one a picture.
    """
    y = y.double()
    n, n_tokens, _ = y.shape
    _check_k(k, n_tokens)
    streams = streams_of(seed, n)
    everyone = torch.arange(n)
    chosen = torch.empty(n, 0, dtype=torch.long)
    taken = torch.zeros(n, n_tokens, dtype=torch.bool)
    value = torch.zeros(n, dtype=torch.float64)
    for _ in range(k):
        draw = _uniform(streams, n_tokens).masked_fill(taken, 2.0)
        offered = draw.argsort(dim=1)[:, : min(candidates, n_tokens - chosen.shape[1])]
        gained = _with_each(name, y, chosen, offered, width)
        best = gained.argmax(dim=1)
        pick, value = offered[everyone, best], gained[everyone, best]
        chosen = torch.cat([chosen, pick[:, None]], dim=1)
        taken[everyone, pick] = True
    for _ in range(swaps if k < n_tokens else 0):
        out = (_uniform(streams, 1)[:, 0] * k).long()
        new = _uniform(streams, n_tokens).masked_fill(taken, 2.0).argmin(dim=1)
        trial = chosen.clone()
        trial[everyone, out] = new
        tried = set_coverage(name, y, trial[:, None], width=width)[:, 0]
        better = tried > value
        taken[everyone[better], chosen[better, out[better]]] = False
        taken[everyone[better], new[better]] = True
        chosen, value = torch.where(better[:, None], trial, chosen), torch.where(better, tried, value)
    return chosen


def streams_of(seed: int | Sequence[int], n: int) -> list[torch.Generator]:
    """Give each of n pictures a random stream: all of the same seed, or each of its own."""
    seeds = [seed] * n if isinstance(seed, int) else list(seed)
    if len(seeds) != n:
        raise CovtokenError(f"{len(seeds)} seeds for {n} pictures: give one, or one a picture")
    return [torch.Generator().manual_seed(int(number)) for number in seeds]


def _uniform(streams: Sequence[torch.Generator], size: int) -> Tensor:
    return torch.stack([torch.rand(size, generator=stream) for stream in streams])


def _with_each(name: str, y: Tensor, chosen: Tensor, offered: Tensor, width: int) -> Tensor:
    """Coverage [B, c] of the chosen tokens [B, k] together with each of the offered [B, c]."""
    if name != "coding_rate":
        sets = torch.cat([chosen[:, None].expand(-1, offered.shape[1], -1), offered[..., None]], dim=2)
        return set_coverage(name, y, sets, width=width)
    # det(A + c u uᵀ) = det A · (1 + c uᵀ A⁻¹ u): one factor a step serves every candidate.
    kept, new = (torch.gather(y, 1, index[..., None].expand(-1, -1, y.shape[-1])) for index in (chosen, offered))
    scale = width / ((chosen.shape[1] + 1) * CODING_EPSILON**2)
    eye = torch.eye(y.shape[-1], dtype=torch.float64)
    factor = torch.linalg.cholesky(eye + scale * kept.transpose(1, 2) @ kept)
    before = factor.diagonal(dim1=1, dim2=2).log().sum(1, keepdim=True)
    solved = torch.linalg.solve_triangular(factor, new.transpose(1, 2), upper=False)
    return before + 0.5 * torch.log1p(scale * solved.square().sum(1))


def repaired(name: str, y: Tensor, mask: Tensor, least: Tensor, *, width: int) -> Tensor:
    """Add the best tokens to ``mask`` [B, T], one by one, until each picture's coverage reaches ``least`` [B].

    The best token has the largest slope of the functional in its weight: one eigendecomposition a step for all tokens.
    """
    y, mask = y.double(), mask.clone()
    empty = ~mask.any(dim=1)  # without a token no slope tells them apart
    mask[empty, y[empty].square().sum(-1).argmax(dim=1)] = True
    active = torch.arange(len(y))
    while len(active):
        weight = mask[active].double().requires_grad_(True)
        value = coverage(name, y[active], weight, width=width)
        slope = torch.autograd.grad(value.sum(), weight)[0]
        wanting = (value.detach() < least[active]) & ~mask[active].all(dim=1)
        active, slope = active[wanting], slope[wanting]
        if len(active):
            best = slope.masked_fill(mask[active], -torch.inf).argmax(dim=1)
            mask[active, best] = True
    return mask


def _check_k(k: int, n_tokens: int) -> None:
    if not 1 <= k <= n_tokens:
        raise CovtokenError(f"k = {k}: expected 1 … {n_tokens}, the tokens of a picture")
