"""Measure how good a score is, and how sure that is: AUROC, AUPR and their intervals over *units*, not tokens.

Tokens of one patient are correlated, so every interval draws whole units with replacement. A draw is a row of counts
(``unit_draws``), and the same rows serve every score: ``interval(a - b)`` of two arrays of draws from one ``weights``
is the paired interval of a difference. All arrays of scores here may be [N, T] with units [N], or flat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, norm, rankdata

from covtoken.errors import CovtokenError
from covtoken.evaluation.froc import froc as froc  # beside the other metrics


def auroc(scores: np.ndarray, positive: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Compute P(score of a positive > score of a negative), ties ½, over the tokens in ``mask`` (None: all).

    NaN where either class is empty. Raises CovtokenError on NaN scores and unequal shapes.
    """
    scores, positive, _ = _flat(scores, positive, None, mask)
    p = int(positive.sum())
    n = len(positive) - p
    if p == 0 or n == 0:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - p * (p + 1) / 2) / (p * n))


def aupr(scores: np.ndarray, positive: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Compute average precision: Σ (recall step) × precision, a step for each distinct score. NaN without positives."""
    scores, positive, _ = _flat(scores, positive, None, mask)
    return float(_average_precision(scores, positive, np.zeros(len(scores), dtype=np.int64), np.ones((1, 1)))[0])


class UnitWins:
    """Give every bootstrap draw of a pooled AUROC from one unit × unit matrix, exactly (book/method.md).

    ``M[i, j]`` counts how often a positive token of unit i beats a negative token of unit j, ties ½; ``p`` and ``n``
    count the positives and negatives of each unit. A draw with unit counts w has AUROC wᵀMw / (wᵀp · wᵀn), just what
    the drawn units' tokens, concatenated, would give. Memory: the matrix and one pass of the positives.

    Args:
        scores: [N, T] or flat.
        positive: bool, the shape of ``scores``.
        unit: int, [N] or the shape of ``scores``, numbered 0 … U − 1.
        mask: bool, tokens that count (leave ignored tokens out here).
        n_units: U; needed only if the last units own no picture.
    """

    def __init__(self, scores, positive, unit, mask=None, n_units: int | None = None) -> None:
        scores, positive, unit = _flat(scores, positive, unit, mask)
        self.n_units = _count_units(unit, n_units)
        self.p = np.bincount(unit[positive], minlength=self.n_units).astype(np.float64)
        self.n = np.bincount(unit[~positive], minlength=self.n_units).astype(np.float64)
        # Sorted positives make each search walk the unit's negatives once instead of jumping about in them.
        order = np.argsort(scores[positive], kind="stable")
        high, owner = scores[positive][order], unit[positive][order]
        low, low_owner = scores[~positive], unit[~positive]
        order = np.lexsort((low, low_owner))
        low, ends = low[order], np.cumsum(self.n).astype(np.int64)
        self.M = np.zeros((self.n_units, self.n_units))
        for j, end in enumerate(ends):
            negatives = low[end - int(self.n[j]) : end]
            if len(negatives) == 0 or len(high) == 0:
                continue
            wins = np.searchsorted(negatives, high, "left") + np.searchsorted(negatives, high, "right")
            self.M[:, j] = np.bincount(owner, weights=wins, minlength=self.n_units) / 2

    def auroc(self, weights: np.ndarray | None = None) -> np.ndarray | float:
        """Compute the AUROC under unit counts [draws, U] → [draws], or, without them, of the data itself (a float).

        A draw without positives or without negatives is NaN.
        """
        w = np.ones((1, self.n_units)) if weights is None else _weights(weights, self.n_units)
        pairs = (w @ self.p) * (w @ self.n)
        wins = ((w @ self.M) * w).sum(1)
        values = np.divide(wins, pairs, out=np.full(len(w), np.nan), where=pairs > 0)
        return float(values[0]) if weights is None else values


def aupr_draws(scores, positive, unit, weights: np.ndarray, mask=None) -> np.ndarray:
    """Compute the average precision of every draw: weights [draws, U] → [draws]; tokens are sorted once for all."""
    scores, positive, unit = _flat(scores, positive, unit, mask)
    return _average_precision(scores, positive, unit, _weights(weights, _count_units(unit, np.shape(weights)[1])))


def unit_draws(n_units: int, n_draws: int = 2000, seed: int = 0) -> np.ndarray:
    """Draw units with replacement, as counts [draws, U] float64 that sum to U. Share them to pair differences."""
    if n_units < 1 or n_draws < 1:
        raise CovtokenError(f"a bootstrap needs at least one unit and one draw, got {n_units} and {n_draws}")
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=n_draws).astype(np.float64)


def interval(draws: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Take the percentile interval of bootstrap draws; NaN draws are left out; (NaN, NaN) if none is left."""
    draws = np.asarray(draws, dtype=np.float64)
    draws = draws[~np.isnan(draws)]
    if len(draws) == 0:
        return float("nan"), float("nan")
    lo, hi = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(lo), float(hi)


def image_auroc(scores: np.ndarray, positive: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Compute the AUROC inside each picture, [N, T] → [N]; NaN where a picture lacks a class.

    Its ``np.nanmean`` is the paper's image AUROC, its bootstrap ``mean_draws(values, unit, weights)``.
    """
    mask = np.ones(np.shape(scores), dtype=bool) if mask is None else mask
    return np.array([auroc(s, p, m) for s, p, m in zip(scores, positive, mask, strict=True)], dtype=np.float64)


def mean_draws(values: np.ndarray, unit: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average items (pictures, lesions) under every draw: values [n], unit [n], weights [draws, U] → [draws].

    NaN items are left out. Serves image AUROC, miss rates (items are lesions) and FROC hits alike.
    """
    values, unit = np.asarray(values, dtype=np.float64), np.asarray(unit)
    n_units = _count_units(unit, np.shape(weights)[1])
    there = ~np.isnan(values)
    sums = np.bincount(unit[there], weights=values[there], minlength=n_units)
    counts = np.bincount(unit[there], minlength=n_units)
    w = _weights(weights, n_units)
    total = w @ counts
    return np.divide(w @ sums, total, out=np.full(len(w), np.nan), where=total > 0)


@dataclass(frozen=True)
class DeLong:
    """AUROC of a score with DeLong's standard error."""

    auroc: float
    se: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Compute the normal interval of the AUROC."""
        half = float(norm.ppf((1 + level) / 2)) * self.se
        return self.auroc - half, self.auroc + half


def delong(scores, positive) -> DeLong:
    """Compute DeLong's standard error by midranks in float64 (Sun and Xu 2014).

    It takes the tokens of a patient for independent, so it comes out too small: gates decide on ``UnitWins`` instead.
    Raises CovtokenError with fewer than two tokens in a class.
    """
    scores, labels, _ = _flat(scores, positive, None, None)
    p, n = int(labels.sum()), int((~labels).sum())
    if p < 2 or n < 2:
        raise CovtokenError(f"DeLong needs two positives and two negatives, got {p} and {n}")
    ranks = rankdata(scores)
    v10 = (ranks[labels] - rankdata(scores[labels])) / n  # placements of each positive among the negatives
    v01 = 1 - (ranks[~labels] - rankdata(scores[~labels])) / p  # and the reverse
    return DeLong(float(v10.mean()), float(np.sqrt(v10.var(ddof=1) / p + v01.var(ddof=1) / n)))


def clopper_pearson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Compute the exact binomial interval for k of n. Raises CovtokenError unless 0 ≤ k ≤ n and n ≥ 1."""
    if not (n >= 1 and 0 <= k <= n):
        raise CovtokenError(f"clopper_pearson: expected 0 ≤ k ≤ n and n ≥ 1, got k = {k}, n = {n}")
    tail = (1 - level) / 2
    lo = 0.0 if k == 0 else float(beta.ppf(tail, k, n - k + 1))
    hi = 1.0 if k == n else float(beta.ppf(1 - tail, k + 1, n - k))
    return lo, hi


def _average_precision(scores, positive, unit, weights) -> np.ndarray:
    """Compute average precision under unit counts, by a small matrix product per chunk of distinct positive scores.

    Every number on the way is whole, so that the order of sums changes nothing.
    """
    n_units = weights.shape[1]
    order = np.argsort(-scores, kind="stable")
    scores, positive, unit = scores[order], positive[order], unit[order]
    # Tokens fall into steps: step g holds what lies between the (g−1)-th and the g-th distinct positive score, so that
    # precision is read only where recall moves.
    levels = np.unique(scores[positive])[::-1]
    step = len(levels) - np.searchsorted(levels[::-1], scores, "right")
    hit_unit, hit_step = unit[positive], step[positive]  # one or more a step
    above = np.zeros(n_units)
    seen = np.zeros(len(weights))
    total = weights @ np.bincount(hit_unit, minlength=n_units)
    result = np.zeros(len(weights))
    width = max(1, 2_000_000 // max(n_units, len(weights)))
    for start in range(0, len(levels), width):
        stop = min(start + width, len(levels))
        lo, hi = np.searchsorted(step, [start, stop])
        cell = (step[lo:hi] - start) * n_units + unit[lo:hi]
        everyone = np.bincount(cell, minlength=(stop - start) * n_units).reshape(stop - start, n_units)
        taken = above + np.cumsum(everyone, 0)
        above = taken[-1]
        taken = weights @ taken.T
        first, last = np.searchsorted(hit_step, [start, stop])
        true = np.cumsum(np.take(weights, hit_unit[first:last], axis=1), axis=1)
        if last - first > stop - start:  # positives of equal scores: the last of each
            true = np.take(true, np.searchsorted(hit_step[first:last], np.arange(start, stop), "right") - 1, axis=1)
        true += seen[:, None]
        gained = np.diff(true, axis=1, prepend=seen[:, None])
        seen = true[:, -1].copy()
        result += (gained * np.divide(true, taken, out=np.zeros_like(true), where=taken > 0)).sum(1)
    return np.divide(result, total, out=np.full(len(weights), np.nan), where=total > 0)


def _flat(scores, positive, unit, mask):
    """Flatten scores (float64), positives (bool) and units (int) of the tokens that count; refuse NaN, odd shapes."""
    scores, positive = np.asarray(scores), np.asarray(positive)
    if scores.shape != positive.shape:
        raise CovtokenError(f"scores and labels must have one shape, got {scores.shape} and {positive.shape}")
    if unit is not None:
        unit = np.asarray(unit)
        if not np.issubdtype(unit.dtype, np.integer):
            raise CovtokenError(f"units must be integers 0 … U − 1, got {unit.dtype}: number them first")
        if unit.shape != scores.shape and unit.shape != scores.shape[:1]:
            raise CovtokenError(f"units must be one per picture or per token of {scores.shape}, got {unit.shape}")
        unit = np.broadcast_to(unit.reshape(unit.shape + (1,) * (scores.ndim - unit.ndim)), scores.shape)
    if mask is not None:
        mask = np.asarray(mask, dtype=bool)
        if mask.shape != scores.shape:
            raise CovtokenError(f"the mask must have the scores' shape {scores.shape}, got {mask.shape}")
        scores, positive = scores[mask], positive[mask]
        unit = None if unit is None else unit[mask]
    scores = scores.reshape(-1).astype(np.float64)
    if n_nan := int(np.isnan(scores).sum()):
        raise CovtokenError(f"{n_nan} of {len(scores)} scores are NaN: a score must order all tokens")
    return scores, positive.reshape(-1).astype(bool), None if unit is None else unit.reshape(-1).astype(np.int64)


def _count_units(unit: np.ndarray, n_units: int | None) -> int:
    top = int(unit.max()) + 1 if len(unit) else 0
    n_units = top if n_units is None else int(n_units)
    if top > n_units or (len(unit) and unit.min() < 0):
        raise CovtokenError(f"units must be numbered 0 … {n_units - 1}, got {int(unit.min())} … {top - 1}")
    return n_units


def _weights(weights: np.ndarray, n_units: int) -> np.ndarray:
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[1] != n_units:
        raise CovtokenError(f"draws must be [draws, {n_units}] for {n_units} units, got {weights.shape}")
    return weights
