"""FROC: lesion sensitivity at a number of false positives a picture, on components of tokens.

At a threshold t the tokens with score ≥ t form 8-connected components. A lesion is hit if one of its tokens is in a
component. A component is a false positive if it holds no lesion token and is not made of ignored tokens alone. The
threshold falls from high to low; the operating point for a rate is the last distinct threshold before the mean number
of false positives a picture *first* exceeds the rate (components merge as t falls, so the count may come down again:
later, accidental returns are not used).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from covtoken.errors import CovtokenError


@dataclass(frozen=True)
class FrocPoint:
    """One operating point.

    ``hits`` [n_lesions] bool, in the order of ``labels.lesions``: bootstrap it over units with ``stats.mean_draws``
    (the threshold stays that of the full sample). ``threshold`` is +inf if even the top token exceeds the rate.
    """

    rate: float
    threshold: float
    fp_per_image: float
    hits: np.ndarray

    @property
    def sensitivity(self) -> float:
        """Share of lesions hit; NaN without lesions."""
        return float(self.hits.mean()) if len(self.hits) else float("nan")


def froc(maps: np.ndarray, labels, fp_rates: Sequence[float] = (1, 4)) -> dict[float, FrocPoint]:
    """Operating points of score maps [N, rows, cols] by rate of false positives a picture.

    Args:
        labels: has ``lesion`` [N, T] bool, ``ignore`` [N, T] bool and ``lesions``, a list of things with ``picture``
            (row of ``maps``) and ``tokens`` (int array). Pictures without lesion count.
    """
    maps = np.asarray(maps, dtype=np.float64)
    if maps.ndim != 3 or (len(maps), maps[0].size) != labels.lesion.shape:
        raise CovtokenError(f"FROC maps must be [N, rows, cols] and fit labels {labels.lesion.shape}, got {maps.shape}")
    if np.isnan(maps).any():
        raise CovtokenError("maps hold NaN: a score must order all tokens")
    near = _neighbours(*maps.shape[1:])
    maps = maps.reshape(len(maps), -1)
    steps = [false_positives(m, le, ig, near) for m, le, ig in zip(maps, labels.lesion, labels.ignore)]
    at = np.concatenate([thresholds for thresholds, _ in steps])
    change = np.concatenate([np.diff(counts, prepend=0) for _, counts in steps])
    order = np.argsort(-at, kind="stable")
    at, mean = at[order], np.cumsum(change[order]) / len(maps)
    last = np.flatnonzero(np.append(np.diff(at) != 0, True))  # the cohort's count once all ties have entered
    at, mean = at[last], mean[last]
    best = np.array([maps[lesion.picture][np.asarray(lesion.tokens)].max() for lesion in labels.lesions], dtype=float)
    points = {}
    for rate in fp_rates:
        over = np.flatnonzero(mean > rate)
        i = (over[0] if len(over) else len(at)) - 1
        threshold, found = (float(at[i]), float(mean[i])) if i >= 0 else (float("inf"), 0.0)
        points[rate] = FrocPoint(float(rate), threshold, found, best >= threshold)
    return points


def false_positives(scores, lesion, ignore, near) -> tuple[np.ndarray, np.ndarray]:
    """False-positive components of one picture at each of its distinct scores: (thresholds descending, counts).

    Tokens enter from the highest score down and join their neighbours' components (union-find), which gives all
    thresholds in one pass.
    """
    order = np.argsort(-scores, kind="stable").tolist()
    values, lesion = scores.tolist(), lesion.tolist()
    solid = (~np.asarray(ignore)).tolist()
    parent: list[int] = [-1] * len(values)
    touches, counts_as = list(lesion), list(solid)
    count, thresholds, counts = 0, [], []
    for i, token in enumerate(order):
        root = parent[token] = token
        count += counts_as[root] and not touches[root]
        for other in near[token]:
            if parent[other] < 0:
                continue
            while parent[other] != other:
                parent[other] = parent[parent[other]]
                other = parent[other]
            if other == root:
                continue
            count -= (counts_as[root] and not touches[root]) + (counts_as[other] and not touches[other])
            parent[other] = root
            touches[root] |= touches[other]
            counts_as[root] |= counts_as[other]
            count += counts_as[root] and not touches[root]
        if i + 1 == len(order) or values[order[i + 1]] != values[token]:
            thresholds.append(values[token])
            counts.append(count)
    return np.array(thresholds), np.array(counts, dtype=np.int64)


def _neighbours(rows: int, cols: int) -> list[list[int]]:
    """The 8-neighbourhood of every token on a rows × cols grid."""
    return [
        [
            a * cols + b
            for a in range(max(r - 1, 0), min(r + 2, rows))
            for b in range(max(c - 1, 0), min(c + 2, cols))
            if (a, b) != (r, c)
        ]
        for r in range(rows)
        for c in range(cols)
    ]
