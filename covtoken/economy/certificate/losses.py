"""Compute the loss that risk control bounds: 1 − recall, the lost share of a unit's lesion tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from covtoken.economy.keep import token_ranks
from covtoken.errors import CovtokenError


def unit_losses(scores: np.ndarray, lesions: Sequence, unit: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """Compute 1 − recall of every unit with a lesion when each picture keeps its best k tokens, float64 [n, K].

    A unit's lesion tokens are pooled over its pictures and lesions. Rows follow ``needs.lesion_units``.

    Args:
        scores: [N, T], high scores are kept.
        lesions: with ``picture`` and ``tokens``.
        unit: [N] int, of the pictures.
        ks: [K] tokens kept, 0 … T.

    Raises:
        CovtokenError: scores that are no numbers or NaN, or no lesion.
    """
    if len(lesions) == 0:
        raise CovtokenError("no lesion: recall is not defined without one")
    ranks, ks = token_ranks(scores), np.asarray(ks)
    units, row = np.unique(np.asarray(unit)[[lesion.picture for lesion in lesions]], return_inverse=True)
    kept, size = np.zeros((len(units), len(ks))), np.zeros(len(units))
    for lesion, i in zip(lesions, row):
        kept[i] += np.searchsorted(np.sort(ranks[lesion.picture, lesion.tokens]), ks, side="right")
        size[i] += len(lesion.tokens)
    return 1 - kept / size[:, None]
