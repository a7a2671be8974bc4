"""Solve ridge regression from sums that add up over shards, which may lie on many machines."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

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


@dataclass(frozen=True, eq=False)
class MapMoments:
    """Sums over tokens x [D] and the tokens y [M] that they shall be mapped to, float64. They add in any order."""

    n: int  # tokens summed
    x: torch.Tensor = field(repr=False)  # Σx [D]
    xx: torch.Tensor = field(repr=False)  # Σxxᵀ [D, D]
    y: torch.Tensor = field(repr=False)  # Σy [M]
    xy: torch.Tensor = field(repr=False)  # Σxyᵀ [D, M]
    yy: torch.Tensor = field(repr=False)  # Σy² [M]

    @classmethod
    def of(cls, x: torch.Tensor, y: torch.Tensor) -> MapMoments:
        """Sum tokens x [n, D] and their targets y [n, M]; no tokens give zeros."""
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
            raise CovtokenError(
                f"a map needs tokens [n, D] and as many targets [n, M], got {list(x.shape)} and {list(y.shape)}"
            )
        zeros = partial(torch.zeros, dtype=torch.float64)
        width, out = x.shape[1], y.shape[1]
        sums = [zeros(width), zeros(width, width), zeros(out), zeros(width, out), zeros(out)]
        for rows, targets in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
            rows, targets = rows.to("cpu", torch.float64), targets.to("cpu", torch.float64)
            more = rows.sum(0), rows.T @ rows, targets.sum(0), rows.T @ targets, (targets**2).sum(0)
            sums = [total.add_(part) for total, part in zip(sums, more, strict=True)]
        return cls(len(x), *sums)

    def __add__(self, other: MapMoments) -> MapMoments:
        if self.xy.shape != other.xy.shape:
            mine, its = list(self.xy.shape), list(other.xy.shape)
            raise CovtokenError(f"sums of maps [D, M] of {mine} and {its} do not add up")
        names = ("n", "x", "xx", "y", "xy", "yy")
        return MapMoments(*(getattr(self, name) + getattr(other, name) for name in names))


def solve(moments: Moments, ridge: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve for ω = (C + λ·tr(C)/D·I)⁻¹ E[(x − m)(t − t̄)]; give ω and the mean m, [D] float64 (book/recommended.md).

    λ is in units of the mean variance tr(C)/D, so it means the same at every block and width.

    Raises:
        CovtokenError: λ below 0, fewer than two tokens, NaN, equal tokens or targets, or λ = 0 with directions in which
            the tokens do not vary.
    """
    covariance, cross, _ = central(moments)
    return _solved(covariance, cross[:, None], ridge, moments.n)[:, 0], moments.x / moments.n


def solve_map(moments: MapMoments, ridge: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Solve for the affine map y ≈ x·W + b by ``solve``'s formula, one λ for all outputs.

    Returns:
        W [D, M] and b [M], float64; the share of the outputs' summed variance that the map explains (R²).

    Raises:
        CovtokenError: as ``solve``.
    """
    n = moments.n
    if n < 2:
        raise CovtokenError(f"a map needs at least 2 tokens, got {n}")
    mean, target = moments.x / n, moments.y / n
    covariance, cross = moments.xx / n - torch.outer(mean, mean), moments.xy / n - torch.outer(mean, target)
    if not (torch.isfinite(covariance).all() and torch.isfinite(cross).all()):
        raise CovtokenError("tokens or their targets hold NaN or infinite values: check the weights and the pictures")
    variance = (moments.yy / n - target**2).sum()
    if variance <= 1e-12 * moments.yy.sum() / n:
        raise CovtokenError(f"all {n} targets are equal: there is nothing to fit a map to")
    weight = _solved(covariance, cross, ridge, n)
    held = 2 * (weight * cross).sum() - (weight * (covariance @ weight)).sum()
    return weight, target - mean @ weight, (held / variance).item()


def _solved(covariance: torch.Tensor, cross: torch.Tensor, ridge: float, n: int) -> torch.Tensor:
    """Solve (C + λ·tr(C)/D·I) W = cross, [D, M]."""
    if not ridge >= 0:
        raise CovtokenError(f"ridge must be 0 or more, got {ridge}: it is λ, in units of the mean variance")
    width = len(covariance)
    spread = covariance.trace() / width
    factor, failed = torch.linalg.cholesky_ex(covariance + ridge * spread * torch.eye(width, dtype=torch.float64))
    if failed or not spread > 0:
        raise CovtokenError(
            f"{n} tokens of width {width} do not vary in every direction: no direction can be solved for "
            f"with ridge {ridge}; raise it, or give more tokens"
        )
    return torch.cholesky_solve(cross, factor)


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
