"""Cut large slices into square windows that overlap by half, so that what is small owns tokens of its own.

A window is prepared as a picture of its own. A bank's slices are cut as those that it scores, so that tokens of both
show tissue at one scale.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from covtoken.data.case import Case
from covtoken.data.pictures import Window
from covtoken.data.regions import read_cut
from covtoken.errors import CovtokenError
from covtoken.maps.inputs.planes import SMALLEST


def check_tile(tile: int | None, fewest: int = SMALLEST) -> None:
    """Refuse a window of fewer pixels a side than ``fewest``, the smallest picture or a model's tokens a side."""
    if tile is not None and (isinstance(tile, bool) or not isinstance(tile, int) or tile < fewest):
        why = "the smallest picture" if fewest == SMALLEST else f"the model's grid has {fewest} tokens a side"
        raise CovtokenError(
            f"tile {tile!r}: expected the side of a window, a whole number of {fewest} pixels or more ({why}); such as "
            "128, or leave it out"
        )


def windows(size: tuple[int, int], tile: int | None) -> list[Window]:
    """List the windows (row, column, height, width) of a slice [H, W], row by row; all of it where it is not larger.

    The last window of a row or column ends where the slice does. A side shorter than ``tile`` is not cut.

    >>> windows((4, 7), 4)
    [(0, 0, 4, 4), (0, 2, 4, 4), (0, 3, 4, 4)]
    """
    sides = [length if tile is None else min(length, tile) for length in size]
    starts = [
        [*range(0, length - side, max(1, side // 2)), length - side] for length, side in zip(size, sides, strict=True)
    ]
    return [(row, column, *sides) for row in starts[0] for column in starts[1]]


def pieces(case: Case, size: tuple[int, int], tile: int | None) -> list[Case]:
    """Give the windows of a slice as Cases of its unit; the slice itself where it is not cut."""
    found = windows(size, tile)
    if len(found) == 1:
        return [case]
    return [replace(case, name=f"{case.name}@{w[0]},{w[1]}", load=partial(read_cut, case.load, w)) for w in found]
