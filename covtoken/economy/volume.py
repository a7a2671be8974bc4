"""Spend one token budget on a whole volume, or the same number of tokens evenly on its slices; smooth scores along z.

A uniform budget keeps the best k of T tokens in each of S slices. A global budget keeps the best S · k tokens of the
volume, wherever they lie. It needs scores on one scale: those of a distilled direction are one dot product a token, and
A's are distances, so both are; CLS attention sums to one inside a slice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real

import numpy as np

from covtoken.economy.keep import budget, kept_tokens, token_ranks
from covtoken.errors import CovtokenError, unknown

BUDGETS = ("uniform", "global")
SIGMAS_MM = (0.0, 2.5, 5.0)


@dataclass(frozen=True)
class LesionTokens:
    """A connected lesion of a volume, by the tokens it owns; ``kept_counts`` counts those that are kept.

    Attributes:
        picture: [n] slice of each of its tokens.
        tokens: [n] place of each in its slice.
        volume_mm3: size.
        volume: index of its volume in the evaluated list.
    """

    picture: np.ndarray
    tokens: np.ndarray
    volume_mm3: float = float("nan")
    volume: int = 0


def kept_in_volume(scores: np.ndarray, ratio: float, spend: str = "global") -> np.ndarray:
    """Mark the tokens of a volume that stay, [S, T] bool: S · max(1, ⌈ρT⌉) of them, however they are spent.

    Equal scores go by their rank inside the slice, so that slices share what a tie leaves.

    Args:
        scores: [S, T], high scores first.
        ratio: share of the tokens kept, in (0, 1].
        spend: ``uniform`` (as many in each slice) or ``global`` (the best of the volume).

    Raises:
        CovtokenError: another way to spend, a ratio out of range, scores that are no numbers or NaN.
    """
    if spend not in BUDGETS:
        raise unknown("way to spend a volume's tokens", spend, BUDGETS)
    if spend == "uniform":
        return kept_tokens(scores, ratio=ratio)
    rank = token_ranks(scores)
    n_slices, n_tokens = rank.shape
    slices = np.broadcast_to(np.arange(n_slices)[:, None], rank.shape)
    order = np.lexsort((slices.ravel(), rank.ravel(), -np.asarray(scores, dtype=np.float64).ravel()))
    kept = np.zeros(rank.size, dtype=bool)
    kept[order[: n_slices * budget(n_tokens, ratio)]] = True
    return kept.reshape(rank.shape)


def smooth_along_z(scores: np.ndarray, z_mm: np.ndarray, sigma_mm: float) -> np.ndarray:
    """Smooth scores along z by a Gaussian of ``sigma_mm``, [S, T] float64; σ = 0 changes nothing.

    Slices count by their distance in mm, so their order does not matter. Weights sum to one at every slice, so that a
    constant stays and the volume's ends are not pulled down.

    Args:
        scores: [S, T].
        z_mm: [S] position of each slice.
        sigma_mm: 0 or more.

    Raises:
        CovtokenError: positions that are not S distinct finite numbers, scores that are not finite, a σ out of range.
    """
    scores, z = np.asarray(scores, dtype=np.float64), np.asarray(z_mm, dtype=np.float64)
    if not isinstance(sigma_mm, Real) or isinstance(sigma_mm, bool) or not 0 <= sigma_mm < np.inf:
        raise CovtokenError(f"sigma_mm must be a number of mm, 0 or more, got {sigma_mm!r}")
    if scores.ndim != 2 or z.shape != scores.shape[:1]:
        raise CovtokenError(f"expected scores [S, T] and z_mm [S], got {scores.shape} and {z.shape}")
    if not np.isfinite(z).all() or len(np.unique(z)) < len(z):
        raise CovtokenError(f"z_mm must hold {len(z)} distinct positions in mm, got {np.sort(z)}: check the slices")
    if not np.isfinite(scores).all():
        raise CovtokenError(f"{int((~np.isfinite(scores)).sum())} scores are not finite: nothing can be smoothed")
    if sigma_mm == 0:
        return scores
    weights = np.exp(-(((z[:, None] - z[None]) / sigma_mm) ** 2) / 2)
    return weights / weights.sum(axis=1, keepdims=True) @ scores


def lesion_sizes(lesions: Iterable[LesionTokens]) -> np.ndarray:
    """Count the tokens of each lesion over all its slices, int [L]."""
    return np.array([len(lesion.tokens) for lesion in lesions], dtype=np.int64)
