"""Turn scores into kept tokens by a budget, and count what the kept tokens hold of the lesions (book/method.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import numpy as np

from covtoken.errors import CovtokenError

RATIOS = (0.5, 0.25, 0.1)  # always reported
RETAINED = 0.5  # a lesion counts as retained if at least this share of its tokens is kept


def budget(n_tokens: int, ratio: float) -> int:
    """Compute k = max(1, ⌈ρT⌉); rounding of ρT itself never adds a token. Raises CovtokenError unless 0 < ρ ≤ 1."""
    if not _is_number(ratio) or not 0 < ratio <= 1:
        raise CovtokenError(f"keep ratio {ratio!r}: it is the share of patch tokens kept, a number in (0, 1]")
    if isinstance(ratio, np.floating):
        ratio = float(str(ratio))  # 0.3 in float32 means 0.3, not the number just above it, which may keep one more
    return max(1, math.ceil(ratio * n_tokens - 1e-9))


def kept_tokens(
    scores: np.ndarray,
    *,
    ratio: float | None = None,
    threshold: float | None = None,
    k: int | Sequence[int] | None = None,
) -> np.ndarray:
    """Mark the tokens that stay, [N, T] bool, by exactly one of three budgets. High scores stay.

    >>> kept_tokens(np.array([[0.1, 0.7, 0.3, 0.7]]), ratio=0.5).tolist()
    [[False, True, False, True]]

    Equal scores are kept in the order of their tokens, so that no result depends on a sort's whims.

    Args:
        scores: [N, T].
        ratio: keep the best ``budget(T, ratio)`` tokens of each picture.
        threshold: keep scores ≥ threshold.
        k: keep the best k of each picture, one number or N of them, 0 … T.

    Raises:
        CovtokenError: none or several budgets, one of another type or out of range, scores that are no numbers or NaN.
    """
    scores = _numbers(scores)
    if sum(given is not None for given in (ratio, threshold, k)) != 1:
        raise CovtokenError("give exactly one of ratio, threshold and k")
    if threshold is not None:
        if not _is_number(threshold) or threshold != threshold:
            raise CovtokenError(f"threshold {threshold!r}: expected a number on the scale of the scores")
        return scores >= threshold
    n, n_tokens = scores.shape
    counts = np.asarray(budget(n_tokens, ratio) if k is None else k)
    if counts.shape not in ((), (n,)) or (counts.size and counts.dtype.kind not in "iu"):
        raise CovtokenError(f"k = {k!r}: expected a whole number of tokens, or {n} of them, one a picture")
    counts = np.broadcast_to(counts, (n,))
    if counts.size and (counts.min() < 0 or counts.max() > n_tokens):
        raise CovtokenError(f"k = {counts.min()} … {counts.max()}: expected 0 … {n_tokens}, the tokens of a picture")
    return token_ranks(scores) <= counts[:, None]


def token_ranks(scores: np.ndarray) -> np.ndarray:
    """Rank the tokens of each picture, [N, T] int64: 1 is the best, equal scores go by position.

    A token stays among the best k exactly when its rank ≤ k (``kept_tokens``).

    Args:
        scores: [N, T], high scores first.

    Raises:
        CovtokenError: scores that are no numbers or NaN.
    """
    scores = _numbers(scores)
    rank = np.empty(scores.shape, dtype=np.int64)
    order = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(1, scores.shape[1] + 1), scores.shape), axis=1)
    return rank


def _numbers(scores) -> np.ndarray:
    scores = np.asarray(scores)
    if scores.ndim != 2 or scores.dtype.kind not in "biuf":
        raise CovtokenError(f"scores must be numbers [pictures, tokens], got shape {scores.shape} of {scores.dtype}")
    if np.isnan(scores).any():
        raise CovtokenError(f"{int(np.isnan(scores).sum())} scores are NaN: no ranking can be made of them")
    return scores


def _is_number(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def kept_counts(kept: np.ndarray, lesions: Sequence) -> np.ndarray:
    """Count the tokens of each lesion (``picture``, ``tokens``) that are in ``kept`` [N, T] bool: int [L]."""
    return np.array([np.count_nonzero(kept[lesion.picture, lesion.tokens]) for lesion in lesions], dtype=np.int64)


def retained(counts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Mark the lesions that survive, bool [...]: at least half of their tokens [...] are kept."""
    return np.asarray(counts) >= RETAINED * np.asarray(sizes)


def recall(counts: np.ndarray, sizes: np.ndarray) -> float:
    """Compute the kept share of lesion tokens, pooled; NaN for none."""
    total = np.asarray(sizes).sum()
    return float(np.asarray(counts).sum() / total) if total else float("nan")
