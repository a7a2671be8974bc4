"""Solve ridge regression from sums that add up over shards, which may lie on many machines."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from covtoken.errors import CovtokenError

CHUNK = 16_384  # tokens held in float64 at a time


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over tokens x [D] and their targets t, float64. They add in any order, equal up to rounding."""

    n: int  # tokens summed
    x: torch.Tensor = field(repr=False)  # Σx [D]
    xx: torch.Tensor = field(repr=False)  # Σxxᵀ [D, D]
    t: float  # Σt
    xt: torch.Tensor = field(repr=False)  # Σxt [D]
    tt: float  # Σt²

    @classmethod
    def of(cls, x: torch.Tensor, t: torch.Tensor) -> Moments:
        """Sum tokens [..., D] and targets [...]; no tokens give zeros."""
        if x.ndim < 2 or x.shape[:-1] != t.shape:
            raise CovtokenError(f"tokens [..., D] need one target each, got {tuple(x.shape)} and {tuple(t.shape)}")
        n, width = t.numel(), x.shape[-1]
        sum_x, sum_xt = torch.zeros(2, width, dtype=torch.float64)
        sum_xx, sum_t, sum_tt = torch.zeros(width, width, dtype=torch.float64), 0.0, 0.0
        for rows, targets in zip(x.reshape(n, width).split(CHUNK), t.reshape(n).split(CHUNK), strict=True):
            rows, targets = rows.double(), targets.double()
            sum_x += rows.sum(0)
            sum_xx.addmm_(rows.T, rows)
            sum_xt += targets @ rows
            sum_t += targets.sum().item()
            sum_tt += (targets @ targets).item()
        return cls(n, sum_x, sum_xx, sum_t, sum_xt, sum_tt)

    def __add__(self, other: Moments) -> Moments:
        if len(self.x) != len(other.x):
            raise CovtokenError(f"sums of tokens of width {len(self.x)} and {len(other.x)} do not add up")
        names = ("n", "x", "xx", "t", "xt", "tt")
        return Moments(*(getattr(self, name) + getattr(other, name) for name in names))


def solve(moments: Moments, ridge: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve for ω = (C + λ·tr(C)/D·I)⁻¹ E[(x − m)(t − t̄)]; give ω and the mean m, [D] float64 (book/recommended.md).

    λ is in units of the mean variance tr(C)/D, so it means the same at every block and width.

    Raises:
        CovtokenError: λ below 0, fewer than two tokens, NaN, equal tokens or targets, or λ = 0 with directions in which
            the tokens do not vary.
    """
    if not ridge >= 0:
        raise CovtokenError(f"ridge must be 0 or more, got {ridge}: it is λ, in units of the mean variance")
    covariance, cross, _ = central(moments)
    width = len(moments.x)
    spread = covariance.trace() / width
    factor, failed = torch.linalg.cholesky_ex(covariance + ridge * spread * torch.eye(width, dtype=torch.float64))
    if failed or not spread > 0:
        raise CovtokenError(
            f"{moments.n} tokens of width {width} do not vary in every direction: no direction can be solved for "
            f"with ridge {ridge}; raise it, or give more tokens"
        )
    return torch.cholesky_solve(cross[:, None], factor)[:, 0], moments.x / moments.n


def explained(moments: Moments, weight: torch.Tensor) -> float:
    """Compute R²: the share of the target's variance that t̄ + ω·(x − m) explains, on the tokens that were summed."""
    covariance, cross, variance = central(moments)
    return ((2 * weight @ cross - weight @ covariance @ weight) / variance).item()


def central(moments: Moments) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Compute the covariance [D, D], the covariance with the target [D] and the target's variance; all ÷ n."""
    n = moments.n
    if n < 2:
        raise CovtokenError(f"a direction needs at least 2 tokens, got {n}")
    mean, target = moments.x / n, moments.t / n
    covariance, cross = moments.xx / n - torch.outer(mean, mean), moments.xt / n - mean * target
    if not (torch.isfinite(covariance).all() and torch.isfinite(cross).all()):
        raise CovtokenError("tokens or targets hold NaN or infinite values: check the weights and the pictures")
    variance = moments.tt / n - target**2
    if variance <= 1e-12 * moments.tt / n:
        raise CovtokenError(f"all {n} targets are {target:.6g}: there is nothing to fit a direction to")
    return covariance, cross, variance
