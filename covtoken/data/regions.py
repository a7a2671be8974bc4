"""Choose what part of a CT slice is looked at, blind to masks: all, the box of the body, or windows of one side.

A region is cut from picture and mask alike, the same for every method. A ViT squashes what it is given to one square,
so a small lesion owns tokens of its own only where the region is small.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.ndimage import binary_opening, find_objects
from scipy.ndimage import label as connected

from covtoken.data.pictures import Window
from covtoken.errors import CovtokenError, unknown

REGIONS = ("whole", "body", "windows")
BODY_HU = -500.0  # between air with the lung in it, and all other tissue
SAMPLED = 12  # slices of a volume in which its body is looked for
MARGIN = 8  # pixels kept round the body

Read = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Cutting:
    """What a stream of slices gives of a volume, decided without a mask.

    Attributes:
        every: take every n-th slice, the first one included.
        region: one of ``REGIONS``: ``"body"`` is one box a volume, seen in the volume itself.
        window_mm, window_px: side of the square windows, one of the two; the windows cover the slice.
    """

    every: int = 1
    region: str = "whole"
    window_mm: float | None = None
    window_px: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise CovtokenError(f"every={self.every!r}: expected a whole number of slices, 1 or more")
        if self.region not in REGIONS:
            raise unknown("region", self.region, list(REGIONS))
        sides = [side for side in (self.window_mm, self.window_px) if side is not None]
        if len(sides) != (self.region == "windows") or not all(side > 0 and math.isfinite(side) for side in sides):
            raise CovtokenError(
                f"region={self.region!r} with window_mm={self.window_mm} and window_px={self.window_px}: the region "
                "'windows' takes the side of its windows above 0, in mm or in pixels, and no other region does"
            )

    def windows(
        self, size: tuple[int, int], spacing_mm: tuple[float, float], slices: tuple[Read, ...]
    ) -> list[Window | BodyBox | None]:
        """List what is cut from each slice of a volume.

        Args:
            size: (H, W) of its slices.
            spacing_mm: (row, column).
            slices: of the volume, each read when called; only the body box reads any, when it is asked for.
        """
        if self.region == "whole":
            return [None]
        if self.region == "body":
            step = max(1, -(-len(slices) // SAMPLED))
            return [BodyBox(tuple(slices[step // 2 :: step]))]
        sides = [
            min(length, self.window_px or max(1, round(self.window_mm / spacing)))
            for length, spacing in zip(size, spacing_mm)
        ]
        starts = [_starts(length, side) for length, side in zip(size, sides)]
        return [(row, column, *sides) for row in starts[0] for column in starts[1]]


@dataclass(frozen=True)
class BodyBox:
    """The box of the body in a volume, looked for in some of its slices when first asked for."""

    samples: tuple[Read, ...]

    def window(self) -> Window:
        """Find the box, (row, column, height, width) in pixels; the whole slice where no body is seen."""
        return _body(self)


def window_of(region: Window | BodyBox | None) -> Window | None:
    """Give the window that a region is."""
    return region.window() if isinstance(region, BodyBox) else region


def cut(pixels: np.ndarray, region: Window | BodyBox | None) -> np.ndarray:
    """Cut a region out of a picture or mask [H, W]."""
    if region is None:
        return pixels
    row, column, height, width = window_of(region)
    return pixels[row : row + height, column : column + width]


def read_cut(read: Read, region: Window | BodyBox | None) -> np.ndarray:
    """Read a slice and cut a region out of it: a Case's ``load``, in a partial."""
    return cut(read(), region)


def body_box(pixels: np.ndarray) -> tuple[slice, slice] | None:
    """Find the box of the largest connected tissue in a slice [H, W] in HU, without table and clothes, or None."""
    tissue = binary_opening(pixels > BODY_HU, iterations=2)
    parts, count = connected(tissue)
    if not count:
        return None
    return find_objects(parts)[int(np.bincount(parts.ravel())[1:].argmax())]


@lru_cache(maxsize=4096)  # four numbers a volume
def _body(box: BodyBox) -> Window:
    boxes = []
    for read in box.samples:
        size = (pixels := read()).shape
        boxes += [found] if (found := body_box(pixels)) else []
    if not boxes:
        return 0, 0, *size
    low = [max(0, min(found[axis].start for found in boxes) - MARGIN) for axis in (0, 1)]
    high = [min(size[axis], max(found[axis].stop for found in boxes) + MARGIN) for axis in (0, 1)]
    return *low, high[0] - low[0], high[1] - low[1]


def _starts(length: int, side: int) -> list[int]:
    """Place as few windows as cover a length, evenly."""
    count = -(-length // side)
    return [round(i * (length - side) / max(1, count - 1)) for i in range(count)]
