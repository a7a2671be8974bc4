"""Group near-duplicate pictures: where patients are unknown, pictures that look alike share a unit.

Two pictures are near-duplicates when their 32×32 box thumbnails correlate above 0.95; a unit is a connected component,
named by its first file. Masks are never read (book/method.md).
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
SAME_PICTURE = 0.9999  # correlation of two thumbnails of one picture, but for rounding


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Box-average a picture [H, W] to [SIDE·SIDE] float32 of mean 0 and length 1 (all zero if it is flat)."""
    small = Image.fromarray(np.asarray(pixels, dtype=np.float32)).resize((SIDE, SIDE), Image.Resampling.BOX)
    vector = np.asarray(small, dtype=np.float64).ravel()
    vector = vector - vector.mean()
    length = np.linalg.norm(vector)
    return (vector / length if length > 1e-6 * SIDE else 0 * vector).astype(np.float32)


def groups(names: list[str], thumbnails: Iterable[np.ndarray]) -> dict[str, str]:
    """Assign every picture its near-duplicate group, named by the group's first file in sorted order.

    Args:
        thumbnails: a ``thumbnail`` for each name, streamed.
    """
    order = np.argsort(np.array(names))
    pairs = alike_pairs(np.stack(list(thumbnails))[order])
    links = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(names), len(names)))
    _, component = connected_components(links, directed=False)
    first: dict[int, str] = {}
    return {names[i]: first.setdefault(int(label), names[i]) for i, label in zip(order, component)}


def pairs_across_units(cohort: Cohort, across_splits: bool = True) -> list[tuple[str, str, float]]:
    """Find near-duplicate cases of different units: (name, name, correlation), strongest first.

    Args:
        across_splits: only pairs whose units lie in different splits, which gate 0 refuses.
    """
    cases, splits = cohort.cases, load_splits(cohort)
    vectors = np.stack([thumbnail(case.pixels()) for case in cases])
    pairs = []
    for i, j in alike_pairs(vectors):
        a, b = cases[i], cases[j]
        if a.unit != b.unit and (not across_splits or splits[a.unit] != splits[b.unit]):
            pairs.append((a.name, b.name, float(vectors[i] @ vectors[j])))
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))


def drawn(cohort: Cohort) -> bool:
    """Say whether the pictures are drawn from independent seeds, so that look-alikes share only the generator.

    Among such pictures only the same picture twice is a near-duplicate; look-alikes are counted and reported.
    """
    return all(ref.kind == "phantom" for ref in cohort.masks.values())


def alike_pairs(vectors: np.ndarray, chunk: int = 1024) -> np.ndarray:
    """Find index pairs i < j with correlation above the threshold, [P, 2]; two flat pictures count as alike.

    Args:
        vectors: thumbnails [N, SIDE·SIDE], as ``thumbnail`` gives them.
        chunk: how many are compared with all at a time.
    """
    flat, pairs = ~vectors.any(axis=1), []
    for start in range(0, len(vectors), chunk):
        close = vectors[start : start + chunk] @ vectors.T > CORRELATION
        close |= flat[start : start + chunk, None] & flat[None, :]
        rows, columns = np.nonzero(close)
        keep = columns > rows + start
        pairs.append(np.stack([rows[keep] + start, columns[keep]], axis=1))
    return np.concatenate(pairs) if pairs else np.zeros((0, 2), dtype=int)
