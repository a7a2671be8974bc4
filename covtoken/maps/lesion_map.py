"""Turn token scores into a map of the picture's shape, and give the whole way from an array or image to a map.

vit = covtoken.load_backbone("embedded")
direction = covtoken.shipped_direction("ultrasound")
found = covtoken.lesion_map(pixels, vit, direction)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import nibabel
import numpy as np
import torch

from covtoken.backbone.token_model import TokenModel
from covtoken.data.case import Case
from covtoken.data.intensity import to_input
from covtoken.data.regions import cut
from covtoken.errors import CovtokenError
from covtoken.maps.banks import Scorer, is_constant, of_direction
from covtoken.maps.fast import precision_of
from covtoken.maps.inputs.grey import Grey
from covtoken.maps.inputs.planes import SMALLEST, Grid, nifti_grid, picture_grid
from covtoken.maps.inputs.tiles import check_tile, pieces, windows
from covtoken.subspace.direction import Direction

Pixels = TypeVar("Pixels", np.ndarray, nibabel.Nifti1Image)
CHUNK = 16  # slices of a volume that are scored at a time


def lesion_map(
    pixels: Pixels,
    vit: TokenModel,
    direction: Direction,
    *,
    organ: str = "",
    window: tuple[float, float] | None = None,
    tile: int | None = None,
    fast: bool = False,
) -> Pixels:
    """Map an array or a NIfTI image by a direction: C− of every pixel, higher where the picture is rarer.

    >>> from covtoken import load_backbone, open_cohort
    >>> from covtoken.maps.banks import fit_bank, with_scores
    >>> vit = load_backbone("random:vit_tiny_patch16_224", 96)
    >>> direction = with_scores(fit_bank(open_cohort("phantom", n=40).cases[:20], vit, {}, whole=True))
    >>> lesion_map(np.random.default_rng(0).random((60, 80)), vit, direction).shape
    (60, 80)

    Args:
        pixels: [H, W] or [slices, H, W]: 8 bit, or floats in 0 … 1; other values need ``organ`` or ``window``. A NIfTI
            image of two or three axes.
        vit: the backbone that the direction was fitted to.
        direction: as ``shipped_direction``, ``load_direction`` or ``covtoken fit`` give it.
        organ: reads values as HU through the organ's fixed window.
        window: (black, white) in the array's values, instead.
        tile: side in pixels of the windows that larger slices are cut into; they overlap by half, and the map is the
            mean where they do.
        fast: score in bf16 where the processor of ``vit`` multiplies it, else in fp32.

    Returns:
        float32 of the same shape; of a NIfTI image, an image with its affine. A constant slice holds the bank's lowest
        score.

    Raises:
        CovtokenError: another shape, values of unknown meaning, a tile smaller than the backbone's grid, or a direction
            that does not fit the backbone or the tile.
    """
    check_tile(tile, max(vit.rows, vit.cols, SMALLEST))
    grey = Grey("ct" if organ else "", organ, None if window is None else (float(window[0]), float(window[1])))
    if isinstance(pixels, nibabel.Nifti1Image):
        if not 2 <= len(pixels.shape) <= 3:
            raise CovtokenError(f"expected a NIfTI image of two or three axes, got shape {pixels.shape}")
        flat = [axis for axis, side in enumerate(pixels.shape) if side == 1]
        turn = nibabel.orientations.io_orientation(pixels.affine)
        cut_across = 2 if len(pixels.shape) == 2 else flat[0] if len(flat) == 1 else None
        grid = nifti_grid(pixels, 2 if cut_across is None else int(turn[cut_across, 0]))
        values, kind = np.asanyarray(pixels.dataobj), pixels.get_data_dtype()
    else:
        values = np.asarray(pixels)
        if values.ndim not in (2, 3) or 0 in values.shape:
            raise CovtokenError(f"expected pixels [H, W] or [slices, H, W], got shape {list(values.shape)}")
        grid, kind = picture_grid(values.shape), values.dtype
    stored = "8 bit" if kind == np.uint8 else "other"
    if stored == "other" and values.dtype.kind == "f" and values.min() >= 0 and values.max() <= 1:
        stored, grey = "float", grey.with_tops({"float": 1.0}, {"float": 0.0})
    cases = [
        grey.case(stored, partial(grid.view, values, index), name=f"slice {index}", unit="picture")
        for index in range(n_slices(grid))
    ]
    scorer = of_direction(direction, vit, {}, "this direction", tile)
    out = np.empty(grid.shape, np.float32)
    fill(out, grid, cases, scorer, vit, precision_of(fast, str(vit.device)), tile)
    if isinstance(pixels, nibabel.Nifti1Image):
        return nibabel.Nifti1Image(out, pixels.affine, _float_header(pixels.header))
    return out


def fill(
    out: np.ndarray,
    grid: Grid,
    cases: Sequence[Case],
    scorer: Scorer,
    vit: TokenModel,
    precision: str = "fp32",
    tile: int | None = None,
    step: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Score the slices of a case and write their maps into an array of the grid's shape, a few at a time.

    Args:
        step: called after each slice.

    Returns:
        token maps [slices, rows, cols] float32, of slices that are cut their maps read where tokens of that size would
        lie; which slices are constant [slices] bool. Those hold the lowest score of the bank, since nothing in them can
        be rare.
    """
    tokens: list[np.ndarray] = []
    constant: list[bool] = []
    window = windows(grid.size, tile)[0]
    if window[2:] != grid.size:
        high, wide = (round(side * n / window[i]) for i, side, n in zip((2, 3), grid.size, (vit.rows, vit.cols)))
        for index, case in enumerate(cases):
            plane = grid.view(out, index)
            plane[...], same = _joined(case, grid.size, tile, scorer, vit, precision)
            tokens.append(upsampled(plane, (high, wide)))
            constant.append(same)
            step()
        return np.stack(tokens), np.array(constant)
    for scores, same in scored(cases, scorer, vit, precision):
        plane = grid.view(out, len(tokens))
        plane[...] = upsampled(scores, plane.shape)
        tokens.append(scores)
        constant.append(same)
        step()
    return np.stack(tokens), np.array(constant)


def _joined(
    case: Case, size: tuple[int, int], tile: int | None, scorer: Scorer, vit: TokenModel, precision: str
) -> tuple[np.ndarray, bool]:
    """Score a slice window by window: the mean of their maps [H, W], and whether the whole slice is constant."""
    pixels = case.pixels()  # read once for all its windows
    parts = pieces(replace(case, load=lambda: pixels), size, tile)
    total, count, constant = np.zeros(size, np.float32), np.zeros(size, np.float32), True
    for window, (scores, same) in zip(windows(size, tile), scored(parts, scorer, vit, precision), strict=True):
        cut(total, window)[...] += upsampled(scores, window[2:])
        cut(count, window)[...] += 1
        constant &= same
    return total / count, constant


def scored(
    cases: Sequence[Case], scorer: Scorer, vit: TokenModel, precision: str = "fp32"
) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield token scores [rows, cols] of each slice, and whether it is constant, ``CHUNK`` slices in memory."""
    lowest = scorer.scores.scores[0]
    for start in range(0, len(cases), CHUNK):
        part = cases[start : start + CHUNK]
        same = [is_constant(to_input(case.pixels(), case, vit.input)) for case in part]
        left = [case for case, constant in zip(part, same) if not constant]
        maps = iter(scorer.maps(left, vit, precision) if left else ())
        for constant in same:
            flat = np.full(vit.rows * vit.cols, lowest, np.float32) if constant else next(maps)
            yield flat.reshape(vit.rows, vit.cols), constant


def upsampled(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Upsample token scores [rows, cols] to pixels [H, W] float32, bilinearly between the centres of patches.

    >>> upsampled(np.array([[0.0, 1.0]], np.float32), (1, 4)).tolist()
    [[0.0, 0.25, 0.75, 1.0]]
    """
    grid = torch.from_numpy(np.ascontiguousarray(scores, np.float32))[None, None]
    return torch.nn.functional.interpolate(grid, size=tuple(size), mode="bilinear", align_corners=False)[0, 0].numpy()


def n_slices(grid: Grid) -> int:
    """Count the slices of a grid."""
    if len(grid.shape) == 2:
        return 1
    return int(np.prod(grid.shape)) // int(np.prod(grid.size))


def _float_header(header: nibabel.Nifti1Header) -> nibabel.Nifti1Header:
    kept = header.copy()
    kept.set_data_dtype(np.float32)
    kept.extensions.clear()
    return kept
