"""Compute what lesions need: the smallest k, or the highest score threshold, at which they are retained.

need(lesion) is the in-picture rank of its ⌈size/2⌉-th best token, so a lesion is retained at k exactly when need ≤ k
(``keep.retained``). A unit's number is that of its most demanding lesion. All of a certificate is computed from these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from covtoken.economy.keep import RETAINED, token_ranks
from covtoken.errors import CovtokenError


def lesion_needs(scores: np.ndarray, lesions: Sequence) -> np.ndarray:
    """Find the smallest k at which each lesion is retained, int64 [L].

    Args:
        scores: [N, T], high scores are kept.
        lesions: ``evaluation.labels.Lesion``, or anything with ``picture`` and ``tokens``.

    Raises:
        CovtokenError: scores that are no numbers or NaN, or a lesion without tokens.
    """
    ranks = token_ranks(scores)
    wanted = [_half(lesion.tokens) for lesion in lesions]
    best = [np.partition(ranks[lesion.picture, lesion.tokens], n)[n] for lesion, n in zip(lesions, wanted)]
    return np.array(best, dtype=np.int64)


def lesion_thresholds(scores: np.ndarray, lesions: Sequence) -> np.ndarray:
    """Find the highest threshold at which each lesion is retained, float64 [L]; arguments as ``lesion_needs``.

    Scores ≥ threshold are kept, so this is the score of the lesion's ⌈size/2⌉-th best token.
    """
    token_ranks(scores)  # refuses what has no order
    scores = np.asarray(scores).astype(np.float64)
    wanted = [_half(lesion.tokens) for lesion in lesions]
    best = [-np.partition(-scores[lesion.picture, lesion.tokens], n)[n] for lesion, n in zip(lesions, wanted)]
    return np.array(best, dtype=np.float64)


def unit_needs(needs: np.ndarray, lesions: Sequence, unit: np.ndarray, lesion_free: bool = False):
    """Take the largest need over each unit's lesions.

    Args:
        needs: [L], of ``lesions``.
        unit: [N] int, of the pictures.
        lesion_free: include the units without a lesion, which need 0: they are retained whatever is kept.

    Returns:
        units [n], ascending, and their needs [n] int64.
    """
    return _by_unit(needs, lesions, unit, 0 if lesion_free else None, np.maximum)


def unit_thresholds(thresholds: np.ndarray, lesions: Sequence, unit: np.ndarray, lesion_free: bool = False):
    """Take the lowest threshold over each unit's lesions; as ``unit_needs``, a unit without a lesion has +infinity."""
    return _by_unit(thresholds, lesions, unit, np.inf if lesion_free else None, np.minimum)


def lesion_units(lesions: Sequence, unit: np.ndarray) -> np.ndarray:
    """List the units with a lesion, ascending, without a look at any score."""
    return np.unique(np.asarray(unit)[[lesion.picture for lesion in lesions]] if len(lesions) else [])


def _by_unit(values, lesions, unit, empty, worst) -> tuple[np.ndarray, np.ndarray]:
    values, unit = np.asarray(values), np.asarray(unit)
    if len(values) != len(lesions):
        raise CovtokenError(f"{len(values)} values for {len(lesions)} lesions: expected one a lesion")
    picture = np.array([lesion.picture for lesion in lesions], dtype=np.int64)
    owner = unit[picture]
    units = np.unique(owner if empty is None else unit)
    start = -np.inf if worst is np.maximum else np.inf
    result = np.full(len(units), start)
    worst.at(result, np.searchsorted(units, owner), values)
    if empty is not None:
        result[~np.isin(units, owner)] = empty
    return units, result.astype(np.int64) if worst is np.maximum else result


def _half(tokens) -> int:
    """Give the position, from 0, of the token that retains a lesion, with its best tokens first."""
    if len(tokens) == 0:
        raise CovtokenError("a lesion without tokens: every lesion owns at least one (evaluation.labels)")
    return math.ceil(RETAINED * len(tokens)) - 1
