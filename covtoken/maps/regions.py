"""Find the regions above the threshold on the token grid, and say where they lie and how rare they are.

A region is a set of connected tokens, across slices too. A bilinear map has its peaks at the centres of patches, so
that tokens lose nothing against pixels here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import label as connected

from covtoken.maps.inputs.planes import Grid
from covtoken.scores.threshold import BankScores

MOST = 5  # regions that are listed


def regions(tokens: np.ndarray, threshold: float, scores: BankScores, grid: Grid) -> list[dict[str, Any]]:
    """List the regions with the highest peaks; the peak alone where nothing lies above the threshold.

    Args:
        tokens: [slices, rows, cols] of a case, constant slices at the bank's lowest score.
        threshold: tokens above it are flagged.

    Returns:
        of each, highest first: rank of its peak among the bank's tokens, position of the peak and of the centre
        (weighed by score above the threshold), tokens, and whether it is flagged.
    """
    parts, count = connected(tokens > threshold, structure=np.ones((3, 3, 3)))
    if not count:
        peak = np.unravel_index(int(tokens.argmax()), tokens.shape)
        return [_region(np.array([peak]), tokens, scores, grid, flagged=False)]
    where = np.argwhere(parts)
    of = parts[tuple(where.T)]
    peaks = sorted(range(1, count + 1), key=lambda number: -float(tokens[tuple(where[of == number].T)].max()))
    return [_region(where[of == number], tokens, scores, grid, True, threshold) for number in peaks[:MOST]]


def _region(
    where: np.ndarray, tokens: np.ndarray, scores: BankScores, grid: Grid, flagged: bool, threshold: float = 0.0
) -> dict[str, Any]:
    values = tokens[tuple(where.T)].astype(np.float64)
    weights = values - threshold if flagged else np.ones(len(values))
    centre = (where * weights[:, None]).sum(0) / weights.sum()
    peak = where[int(values.argmax())]
    area = None
    height, width = grid.size
    if grid.spacing_mm is not None and len(np.unique(where[:, 0])) == 1:
        area = len(where) * height * width / tokens.shape[1] / tokens.shape[2] * grid.spacing_mm[0] * grid.spacing_mm[1]
    return {
        "rank": round(scores.rank(float(values.max())), 6),
        "score": float(f"{values.max():.6g}"),
        "flagged": flagged,
        "tokens": len(where),
        "slices": [int(where[:, 0].min()), int(where[:, 0].max())],
        "peak": _place(peak, tokens, grid),
        "centre": _place(centre, tokens, grid),
        "area_mm2": None if area is None else round(area, 1),
        "area_mm2_reason": None if area is not None else "spacing is unknown" if not grid.spacing_mm else "in 3-D",
    }


def _place(at: np.ndarray, tokens: np.ndarray, grid: Grid) -> dict[str, Any]:
    """Give the place of a token, or between tokens: array index by axis, and mm or why there are none."""
    height, width = grid.size
    row, column = ((at[i] + 0.5) * side / tokens.shape[i] - 0.5 for i, side in ((1, height), (2, width)))
    low = int(np.floor(at[0]))
    index = grid.place(low, row, column)
    if at[0] > low:  # between two slices
        index = [a + (b - a) * (at[0] - low) for a, b in zip(index, grid.place(low + 1, row, column))]
    mm = grid.mm(index)
    return {
        "px": {name: round(value, 2) for name, value in zip(grid.axes, index)},
        "mm": None if mm is None else [round(value, 2) for value in mm],
        "mm_reason": None if mm is not None else "spacing is unknown",
        "mm_from": None if mm is None else grid.frame,
    }
