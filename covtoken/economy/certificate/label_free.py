"""Calibrate a route without labels: bound the k at which it loses a token that the whole pass would keep.

W = the k_whole best tokens of a picture by the score of the unrouted pass; R(k) = the k tokens that the route keeps by
its score at the tap. A unit disagrees up to d = the smallest k with W ⊆ R(k) in all its pictures; ``rank_bound`` of d
over units with and without lesions gives P(W ⊄ R(k)) ≤ α₁ (as RC-EENN, arXiv 2405.20915, does for early exits).
k_whole must be fixed before calibration, on the selection split: else d of the calibration units would depend on them.
"""

from __future__ import annotations

import numpy as np

from covtoken.economy.keep import kept_tokens, token_ranks
from covtoken.errors import CovtokenError

VACUOUS_ABOVE = 0.9  # share of the tokens; one token decides d, so that k may come near T


def unit_disagreements(
    whole: np.ndarray, route: np.ndarray, k_whole: int, unit: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compute d of each unit: the smallest k at which the route keeps all of W in all its pictures.

    Args:
        whole: [N, T] scores of the unrouted pass.
        route: [N, T] scores at the tap.
        k_whole: 1 … T, fixed before calibration.
        unit: [N] int, of the pictures.

    Returns:
        units [n], ascending, and d [n] int64 in k_whole … T.

    Raises:
        CovtokenError: unlike shapes, NaN, or k_whole out of range.
    """
    wanted, rank = _both(whole, route, k_whole)
    units, row = np.unique(np.asarray(unit), return_inverse=True)
    found = np.zeros(len(units), dtype=np.int64)
    np.maximum.at(found, row, np.where(wanted, rank, 0).max(axis=1))
    return units, found


def share_lost(whole: np.ndarray, route: np.ndarray, k_whole: int, k: int) -> float:
    """Compute the share of W that a route of k tokens loses, pooled over pictures; arguments as above."""
    wanted, rank = _both(whole, route, k_whole)
    return float((wanted & (rank > k)).sum() / wanted.sum())


def is_vacuous(k: int, n_tokens: int) -> bool:
    """Say whether a route of k of T tokens keeps so many that its promise is worth nothing."""
    return k > VACUOUS_ABOVE * n_tokens


def _both(whole, route, k_whole) -> tuple[np.ndarray, np.ndarray]:
    if np.shape(whole) != np.shape(route):
        raise CovtokenError(f"scores of the whole pass {np.shape(whole)} and of the route {np.shape(route)} differ")
    wanted, rank = kept_tokens(whole, k=k_whole), token_ranks(route)
    if not wanted.any():
        raise CovtokenError(f"k_whole = {k_whole} of {np.shape(whole)} scores: expected at least one token to keep")
    return wanted, rank
