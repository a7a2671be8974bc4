"""Near-duplicate pictures: where patients are unknown, pictures that look alike are one unit.

Two pictures are near-duplicates when their 32×32 box thumbnails correlate above 0.95; a unit is a connected component,
named by its first file. Looks at pictures only, never at masks (book/method.md).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from covtoken.data.case import Cohort
from covtoken.data.splits import load_splits

SIDE = 32
CORRELATION = 0.95


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """[SIDE·SIDE] float32 of a picture [H, W]: box-averaged, mean removed, unit length (all zero if it is flat)."""
    small = Image.fromarray(np.asarray(pixels, dtype=np.float32)).resize((SIDE, SIDE), Image.Resampling.BOX)
    vector = np.asarray(small, dtype=np.float64).ravel()
    vector = vector - vector.mean()
    length = np.linalg.norm(vector)
    return (vector / length if length > 1e-6 * SIDE else 0 * vector).astype(np.float32)


def groups(names: list[str], thumbnails: Iterable[np.ndarray]) -> dict[str, str]:
    """The near-duplicate group of every picture, named by its first file in sorted order; order does not matter.

    Args:
        thumbnails: one ``thumbnail`` per name, streamed.
    """
    order = np.argsort(np.array(names))
    vectors = np.stack(list(thumbnails))[order]
    pairs = _pairs(vectors)
    links = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(names), len(names)))
    _, component = connected_components(links, directed=False)
    first: dict[int, str] = {}
    by_name = {}
    for position, label in zip(order, component):
        by_name[names[position]] = first.setdefault(int(label), names[position])
    return by_name


def pairs_across_units(cohort: Cohort, across_splits: bool = True) -> list[tuple[str, str, float]]:
    """Pairs of near-duplicate cases that belong to different units, with their correlation, strongest first.

    Args:
        across_splits: only pairs whose units lie in different splits, which is what gate 0 refuses.
    """
    cases = cohort.cases
    vectors = np.stack([thumbnail(case.pixels()) for case in cases])
    splits = load_splits(cohort)
    found = []
    for i, j in _pairs(vectors):
        a, b = cases[i], cases[j]
        if a.unit != b.unit and (not across_splits or splits[a.unit] != splits[b.unit]):
            found.append((a.name, b.name, float(vectors[i] @ vectors[j])))
    return sorted(found, key=lambda pair: (-pair[2], pair[0], pair[1]))


def _pairs(vectors: np.ndarray, chunk: int = 1024) -> np.ndarray:
    """Index pairs i < j with correlation above the threshold, [P, 2]; two flat pictures count as alike."""
    flat = ~vectors.any(axis=1)
    found = []
    for start in range(0, len(vectors), chunk):
        close = vectors[start : start + chunk] @ vectors.T > CORRELATION
        close |= flat[start : start + chunk, None] & flat[None, :]
        rows, columns = np.nonzero(close)
        keep = columns > rows + start
        found.append(np.stack([rows[keep] + start, columns[keep]], axis=1))
    return np.concatenate(found) if found else np.zeros((0, 2), dtype=int)
