"""Measure FROC: lesion sensitivity at a number of false positives a picture, on components of tokens.

As the threshold falls, tokens join into 8-connected components. Each component counts once, at the place where it is
born (its peak; a plateau of equal scores is one birth), and goes on counting after it has merged: otherwise a smooth
map would end as one component that covers the picture, touches every lesion and costs nothing. A birth on a lesion's
tokens hits that lesion; a birth on no lesion token, and not on ignored tokens alone, is a false positive. The operating
point of a rate is the lowest threshold at which the mean number of false positives a picture does not exceed it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import label as connected
from scipy.ndimage import maximum_filter

from covtoken.errors import CovtokenError


@dataclass(frozen=True)
class FrocPoint:
    """An operating point. Bootstrap ``hits`` with ``stats.mean_draws``, at the threshold of the full sample."""

    rate: float  # false positives a picture, asked
    threshold: float  # −inf where all births together stay within the rate
    fp_per_image: float  # reached
    hits: np.ndarray  # [n_lesions] bool, in the order of ``labels.lesions``

    @property
    def sensitivity(self) -> float:
        """Share of lesions hit; NaN without lesions."""
        return float(self.hits.mean()) if len(self.hits) else float("nan")


def froc(maps: np.ndarray, labels, fp_rates: Sequence[float] = (1, 4)) -> dict[float, FrocPoint]:
    """Compute the operating points of score maps [N, rows, cols], by rate of false positives a picture.

    Args:
        labels: ``SplitLabels``, or whatever has its ``lesion``, ``ignore`` and ``lesions``. Pictures without lesion
            count.
    """
    maps = np.asarray(maps, dtype=np.float64)
    if maps.ndim != 3 or (len(maps), maps[0].size) != labels.lesion.shape:
        raise CovtokenError(f"FROC maps must be [N, rows, cols] and fit labels {labels.lesion.shape}, got {maps.shape}")
    if np.isnan(maps).any():
        raise CovtokenError("maps hold NaN: a score must order all tokens")
    births = [_births(*picture) for picture in zip(maps, *_peaks(maps), labels.lesion, labels.ignore)]
    false = np.sort(np.concatenate([values[wrong] for values, wrong, _ in births]))[::-1]
    best = np.array([_best_birth(births[lesion.picture], lesion.tokens) for lesion in labels.lesions], dtype=float)
    points = {}
    for rate in fp_rates:
        allowed = int(np.floor(rate * len(maps) + 1e-9))
        kept = false[:allowed]
        if allowed < len(false):  # the next false positive is one too many, and so are its equals
            kept = kept[kept > false[allowed]]
            threshold = np.nextafter(false[allowed], np.inf)
        else:
            threshold = -np.inf
        hits = (best >= threshold) & np.isfinite(best)
        points[rate] = FrocPoint(float(rate), float(threshold), len(kept) / len(maps), hits)
    return points


def _peaks(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mark tokens [N, rows, cols] that no neighbour exceeds, and tokens that have a neighbour of equal score."""
    top = maximum_filter(maps, size=(1, 3, 3), mode="nearest") == maps
    tied = np.zeros(maps.shape, dtype=bool)
    rows, cols = maps.shape[1:]
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = np.s_[:, : rows - down, max(0, -across) : cols - max(0, across)]
        there = np.s_[:, down:, max(0, across) : cols + min(0, across)]
        equal = maps[here] == maps[there]
        tied[here] |= equal
        tied[there] |= equal
    return top, tied


def _births(scores, top, tied, lesion, ignore) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the births of a picture's components: (scores [B], is a false positive [B], plateau [T] int, 0 = no birth).

    A birth is a connected plateau of equal scores that no neighbour exceeds.
    """
    single = top & ~tied  # a token without an equal neighbour is its own plateau: the common case
    count = int(single.sum())
    plateau = np.zeros(scores.shape, dtype=np.int64)
    plateau[single] = np.arange(1, count + 1)
    for level in np.unique(scores[top & tied]):
        parts, n = connected((scores == level) & tied, structure=np.ones((3, 3)))
        for part in range(1, n + 1):
            inside = parts == part
            if top[inside].all():
                count += 1
                plateau[inside] = count
    flat = plateau.ravel()
    values = np.zeros(count)
    values[flat[flat > 0] - 1] = scores.ravel()[flat > 0]
    right = np.zeros(count, dtype=bool)
    right[flat[(flat > 0) & lesion] - 1] = True
    solid = np.zeros(count, dtype=bool)
    solid[flat[(flat > 0) & ~ignore] - 1] = True
    return values, solid & ~right, flat


def _best_birth(births: tuple[np.ndarray, np.ndarray, np.ndarray], tokens: np.ndarray) -> float:
    """Take the highest birth on a lesion's tokens, or −inf: a lesion without a peak of its own is never hit."""
    values, _, flat = births
    own = flat[np.asarray(tokens)]
    return float(values[own[own > 0] - 1].max()) if (own > 0).any() else -np.inf
