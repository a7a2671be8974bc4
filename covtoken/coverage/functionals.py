"""Measure the coverage of kept tokens: RankMe, coding rate and energy of projected, centred tokens (book/method.md).

Each is a function of the weighted Gram matrix Σ w_t y_t y_tᵀ of projected tokens y, w = 1 for kept and 0 for dropped
tokens: one small symmetric matrix a set, never an SVD of [T, D]. The weight is linear in that matrix, so that a dropped
token still has a gradient, which a mask on the tokens (w²) would take from it.

Everything is float64: in float32 the RankMe of a single token comes out as 1.012.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from covtoken.errors import CovtokenError, unknown

FUNCTIONALS = ("rankme", "coding_rate", "energy")
EPSILON = 1e-7  # added to RankMe's shares, as its authors do
CODING_EPSILON = 0.5  # ε_c, the distortion of the coding rate
FEWEST_IN_PARTS = 8
FLOOR = 1e-2  # of the largest singular value: see _RankMe.backward


def project(tokens: Tensor, mean: Tensor, directions: Tensor) -> Tensor:
    """Centre tokens [..., D] by ``mean`` [D] and give their coordinates in orthonormal ``directions`` [D, r], float64.

    The Gram spectrum of the coordinates [..., r] is that of P_L z, P_L = directions · directionsᵀ.
    """
    if tokens.shape[-1] != len(mean) or directions.shape[0] != len(mean):
        raise CovtokenError(
            f"tokens [..., {tokens.shape[-1]}], mean [{len(mean)}] and directions {list(directions.shape)} do not fit"
        )
    return (tokens.double() - mean.double()) @ directions.double()


def coverage(name: str, y: Tensor, weight: Tensor | None = None, *, width: int, rows: bool = False) -> Tensor:
    """Measure the coverage [...] of each set of tokens.

    Args:
        name: ``rankme``, ``coding_rate`` or ``energy``.
        y: projected tokens [..., T, r].
        weight: [..., T]; None keeps all.
        width: D of the unprojected tokens.
        rows: the weight multiplies the tokens, so that w² stands in the Gram: equal for 0 and 1, but not in slope.
    """
    if name not in FUNCTIONALS:
        raise unknown("coverage functional", name, list(FUNCTIONALS))
    y, weight = _checked(y, weight)
    inside = weight.square() if rows else weight
    if name == "energy":
        return energy(y, inside)
    matrix = _small_gram(y, weight) if rows and name == "rankme" else gram(y, inside)
    return rankme_of_gram(matrix) if name == "rankme" else coding_rate_of_gram(matrix, weight.sum(-1), width)


def rankme(y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Compute exp(−Σ p log p), p the singular values of the kept tokens normalised to sum 1 (+ 1e-7); 0 for none.

    >>> round(float(rankme(torch.eye(8)[:3])), 2)  # three directions, equally strong
    3.0

    Between 1 and min(k, r) up to 1e-3 (Garrido et al. 2023). A token that repeats the strongest direction *lowers* it.
    """
    return rankme_of_gram(gram(y, weight))


def coding_rate(y: Tensor, weight: Tensor | None = None, *, width: int) -> Tensor:
    """Compute ½ log det(I + D / (k ε_c²) Σ w y yᵀ), k = Σ w, ε_c = ½; 0 for none (Yu et al. 2020).

    >>> float(coding_rate(torch.eye(8), width=8)) > float(coding_rate(torch.ones(8, 8) / 8**0.5, width=8))
    True

    Not monotone either: k stands in the denominator, so a token of norm 0 lowers it.
    """
    y, weight = _checked(y, weight)
    return coding_rate_of_gram(gram(y, weight), weight.sum(-1), width)


def energy(y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Compute Σ w ‖y‖² / Σ ‖y‖² in 0 … 1, 0 where all is 0; monotone, so the k largest norms are the best k tokens."""
    y, weight = _checked(y, weight)
    squares = y.square().sum(-1)
    total = squares.sum(-1)
    return (weight * squares).sum(-1) / torch.where(total > 0, total, torch.ones_like(total))


def gram(y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sum w_t y_t y_tᵀ over the tokens, [..., r, r] float64."""
    y, weight = _checked(y, weight)
    return (y * weight[..., None]).transpose(-1, -2) @ y


def _small_gram(y: Tensor, weight: Tensor) -> Tensor:
    """Gram of weighted tokens w y, kept × kept where fewer are kept than there are directions.

    The spectrum of either side is the same but for zeros, and a dropped token has no slope in either.
    """
    most = max(1, int((weight > 0).sum(-1).max()))
    if most >= y.shape[-1]:
        return gram(y, weight.square())
    held, index = weight.topk(most, dim=-1)
    kept = torch.gather(y, -2, index[..., None].expand(*index.shape, y.shape[-1])) * (held * (held > 0))[..., None]
    return kept @ kept.transpose(-1, -2)


def set_coverage(name: str, y: Tensor, sets: Tensor, *, width: int) -> Tensor:
    """Measure the coverage [..., n_sets] of sets of k tokens, without gradients, through the smaller of the two Grams.

    Args:
        name: the coverage functional.
        y: projected tokens [..., T, r].
        sets: int [..., n_sets, k], different tokens of that picture.
        width: D of the unprojected tokens.
    """
    y, k = y.double(), sets.shape[-1]
    if name == "energy":
        squares = y.square().sum(-1)
        total = squares.sum(-1, keepdim=True)
        kept = torch.gather(squares.unsqueeze(-2).expand(*sets.shape[:-1], y.shape[-2]), -1, sets)
        return kept.sum(-1) / torch.where(total > 0, total, torch.ones_like(total))
    pictures = y.unsqueeze(-3).expand(*sets.shape[:-1], *y.shape[-2:])
    kept = torch.gather(pictures, -2, sets.unsqueeze(-1).expand(*sets.shape, y.shape[-1]))
    small = kept @ kept.transpose(-1, -2) if k < y.shape[-1] else kept.transpose(-1, -2) @ kept
    if name == "rankme":
        return rankme_of_gram(small)
    if name == "coding_rate":
        return coding_rate_of_gram(small, torch.full(small.shape[:-2], float(k), dtype=torch.float64), width)
    raise unknown("coverage functional", name, list(FUNCTIONALS))


def rankme_of_gram(matrix: Tensor) -> Tensor:
    """Compute RankMe [...] from Gram matrices [..., n, n] of either side (tokens or coordinates)."""
    if matrix.requires_grad:
        return _RankMe.apply(matrix)
    return _entropy_rank(_in_parts(torch.linalg.eigvalsh, matrix)[0])[0]


def coding_rate_of_gram(matrix: Tensor, k: Tensor, width: int) -> Tensor:
    """Compute the coding rate [...] from Gram matrices [..., n, n] of k tokens [...] of width D."""
    scale = width / (k.clamp(min=1) * CODING_EPSILON**2)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    factor = torch.linalg.cholesky(eye + scale[..., None, None] * matrix)
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _in_parts(decompose, matrix: Tensor) -> tuple[Tensor, ...]:
    """Decompose small matrices, a part in each thread: all threads on each, torch's way, are slower at 64 × 64."""
    flat = matrix.reshape(-1, *matrix.shape[-2:])
    parts = flat.chunk(os.cpu_count() or 1) if len(flat) >= FEWEST_IN_PARTS else (flat,)
    results = [out if isinstance(out, tuple) else (out,) for out in _threads().map(decompose, parts)]
    return tuple(torch.cat(pieces).reshape(*matrix.shape[:-2], *pieces[0].shape[1:]) for pieces in zip(*results))


@cache
def _threads() -> ThreadPoolExecutor:
    def one_thread() -> None:
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)

    return ThreadPoolExecutor(os.cpu_count() or 1, initializer=one_thread)


def _entropy_rank(eigenvalues: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """RankMe [...], singular values [..., n], their sum [..., 1] (1 where it is 0) and shares [..., n]."""
    # What is zero but for rounding is zero: its root would be up to 1e-8 of the largest singular value.
    noise = eigenvalues.shape[-1] * torch.finfo(eigenvalues.dtype).eps * eigenvalues.amax(-1, keepdim=True)
    singular = torch.where(eigenvalues > noise.clamp(min=0), eigenvalues, torch.zeros_like(eigenvalues)).sqrt()
    total = singular.sum(-1, keepdim=True)
    empty = total <= 0
    total = torch.where(empty, torch.ones_like(total), total)
    share = singular / total + EPSILON
    # Zeros add nothing, so that either side's Gram gives the same number.
    value = torch.exp(-torch.where(singular > 0, share * share.log(), torch.zeros_like(share)).sum(-1))
    return torch.where(empty[..., 0], torch.zeros_like(value), value), singular, total, share


class _RankMe(torch.autograd.Function):
    """A function of eigenvalues has the gradient V f'(λ) Vᵀ, which needs no gaps between them; eigh's own does."""

    @staticmethod
    def forward(ctx, matrix: Tensor) -> Tensor:
        values, vectors = _in_parts(torch.linalg.eigh, matrix)
        rank, singular, total, share = _entropy_rank(values)
        ctx.save_for_backward(rank, vectors, singular, total, share)
        return rank

    @staticmethod
    def backward(ctx, above: Tensor) -> Tensor:
        """∂/∂λ = ∂/∂s · 1/(2s), with s held above 1 % of the largest; exact where all singular values are larger.

        A direction that no kept token has yet would have an infinite slope. A token is added whole, so a slope about
        as large as the gain of a whole token is the useful one.
        """
        rank, vectors, singular, total, share = ctx.saved_tensors
        slope = -(share.log() + 1)
        by_singular = (slope - (slope * singular).sum(-1, keepdim=True) / total) / total
        floor = FLOOR * singular.amax(-1, keepdim=True)
        held = torch.maximum(singular, torch.where(floor > 0, floor, torch.ones_like(floor)))
        by_value = rank[..., None] * by_singular / (2 * held)
        return above[..., None, None] * (vectors * by_value[..., None, :]) @ vectors.transpose(-1, -2)


def _checked(y: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    y = y.double()
    if weight is None:
        weight = torch.ones(y.shape[:-1], dtype=torch.float64, device=y.device)
    if weight.shape != y.shape[:-1]:
        raise CovtokenError(f"weights {list(weight.shape)} do not fit tokens {list(y.shape)}: one weight a token")
    return y, weight.double()
