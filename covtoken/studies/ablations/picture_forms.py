"""Give a backbone the same pictures in another form: at another size, or padded to a square and not squashed to it.

A padded picture fills the upper left of its square. Tokens of which less than half is picture are *outside*: they enter
no reference and are not evaluated. A direction is fitted on whole grids, so there they are replaced by the mirror image
of the tokens inside: nothing of the padding itself is ever read, and pooling at the edge repeats it, as everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from covtoken.backbone.feature_set import FeatureSet
from covtoken.backbone.weights import load_backbone
from covtoken.data.case import Case, Cohort
from covtoken.data.intensity import WINDOWS_HU
from covtoken.data.masks import read_mask
from covtoken.evaluation.labels import SplitLabels, token_labels
from covtoken.leak_guard import refuse_labels
from covtoken.protocol.setting import Setting

HALF = 0.5  # of a token that must be picture


def at_size(setting: Setting, picture_size: int) -> Setting:
    """Load the setting's backbone for pictures of ``picture_size`` pixels: another grid of tokens.

    Raises:
        CovtokenError: a size that does not fit the patch.
    """
    if picture_size == setting.vit.picture_size:
        return setting
    return replace(setting, vit=load_backbone(setting.vit.name, picture_size=picture_size), digests={})


def padded(case: Case) -> Case:
    """Pad a case to a square on load, black, below and to the right; a square picture stays the very case."""
    height, width = case.pixels().shape
    if height == width:
        return case
    return replace(case, load=partial(_to_square, case), source=f"{case.source}, padded to a square")


def _to_square(case: Case) -> np.ndarray:
    pixels = case.pixels()
    black = WINDOWS_HU[case.organ][0] if case.modality == "ct" else 0.0
    return np.pad(pixels, _margins(pixels.shape), constant_values=black)


def _margins(shape: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    side = max(shape)
    return (0, side - shape[0]), (0, side - shape[1])


def extent(shape: tuple[int, int], rows: int, cols: int) -> tuple[int, int]:
    """Count the rows and columns of a padded picture's grid of which at least half is picture, at least one each.

    Args:
        shape: (H, W) of the picture before padding, pixels.
    """
    side = max(shape)
    return max(1, int(rows * shape[0] / side + HALF)), max(1, int(cols * shape[1] / side + HALF))


def inside_of(cases: Sequence[Case], rows: int, cols: int) -> np.ndarray:
    """Mark the tokens that hold picture, [N, T] bool; cases before padding."""
    out = np.zeros((len(cases), rows, cols), dtype=bool)
    for i, case in enumerate(cases):
        height, width = extent(case.pixels().shape, rows, cols)
        out[i, :height, :width] = True
    return out.reshape(len(cases), -1)


def padded_labels(cases: Sequence[Case], cohort: Cohort, labels: SplitLabels, inside: np.ndarray) -> SplitLabels:
    """Label padded pictures: masks are padded alike, and tokens outside do not count.

    Args:
        cases: before padding.
        labels: theirs, on the same grid; units and names stay.
        inside: [N, T] bool.

    Raises:
        LabelLeak: something label-free is being built.
    """
    refuse_labels(f"the labels of cohort {cohort.name!r}")
    masks = (read_mask(cohort.masks[case.name]) for case in cases)
    squares = (np.pad(mask, _margins(mask.shape)) for mask in masks)
    found = [token_labels(square, labels.rows, labels.cols, picture=i) for i, square in enumerate(squares)]
    lesion = np.stack([each.lesion for each in found])
    ignore = np.stack([each.ignore for each in found]) | ~inside
    lesions = tuple(each for one in found for each in one.lesions)
    return replace(labels, lesion=lesion & inside, ignore=ignore, organ=None, lesions=lesions)


def mirrored(features: FeatureSet, inside: np.ndarray) -> FeatureSet:
    """Replace tokens and maps outside by the mirror image of those inside, picture by picture, whatever is read."""
    return replace(features, read=_Mirrored(features.read, _sources(inside, features.rows, features.cols)))


def _sources(inside: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """Give for each token the place of the token that is read there, [N, T]."""
    out = np.empty(inside.shape, dtype=np.int64)
    for i, grid in enumerate(inside.reshape(-1, rows, cols)):
        row, col = (_folded(side, int(grid.any(axis=axis).sum())) for side, axis in ((rows, 1), (cols, 0)))
        out[i] = (row[:, None] * cols + col).ravel()
    return out


def _folded(side: int, n: int) -> np.ndarray:
    """Fold 0 … side − 1 back into 0 … n − 1, the edge repeated: 0 1 2 2 1 0 0 1 …"""
    place = np.arange(side) % (2 * n)
    return np.minimum(place, 2 * n - 1 - place)


@dataclass(frozen=True)
class _Mirrored:
    """Read from another reader, tokens outside a picture mirrored."""

    inner: object = field(repr=False)
    sources: np.ndarray = field(repr=False)  # [N, T]

    def __call__(self, name: str, indices: Sequence[int]) -> Tensor:
        found = self.inner(name, indices)
        return torch.stack([each[self.sources[i]] for each, i in zip(found, indices, strict=True)])
