"""Turn masks into token labels: which tokens are lesion, which are left out, and which tokens each lesion owns.

Definitions: book/method.md. A token is lesion if lesion area covers at least ``threshold`` of its patch, or if it
holds the largest share of a connected lesion, so that every lesion owns at least one token. Tokens touched below that
are left out of AUROC. Masks are area-averaged per patch from their own resolution, exactly, whatever the sizes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.ndimage import find_objects
from scipy.ndimage import label as connected

from covtoken.data.case import Case, Cohort
from covtoken.data.mask_values import FULL, inside
from covtoken.data.masks import one_mark, read_marked, warn_of_full
from covtoken.errors import CovtokenError
from covtoken.leak_guard import refuse_labels

LABEL_THRESHOLD = 0.25  # share of a patch that lesion must cover for its token to be lesion
TOUCHED = 1e-9  # share of a patch below which rounding, not lesion, is at work


@dataclass(frozen=True)
class Lesion:
    """A connected lesion of a picture."""

    tokens: np.ndarray  # row-major indices of the tokens it owns, ascending; at least one
    area: float  # mm² where the spacing is known, else share of the picture
    share: float  # of the picture
    picture: int = 0  # index of its picture in the labelled list
    small: bool = False  # at or below its modality's cut, where ``mark_small`` was told one


@dataclass(frozen=True)
class TokenLabels:
    """Labels of a picture."""

    lesion: np.ndarray  # [T] bool
    ignore: np.ndarray  # [T] bool, disjoint from ``lesion``
    lesions: tuple[Lesion, ...]  # largest first


@dataclass(frozen=True)
class SplitLabels:
    """Labels of a list of cases.

    Attributes:
        organ: [N, T] bool, tokens at least half inside the organ mask (none where a picture has no organ mask), or None
            if the cohort has no organ masks.
    """

    lesion: np.ndarray  # [N, T] bool
    ignore: np.ndarray  # [N, T] bool
    organ: np.ndarray | None
    unit: np.ndarray  # [N] int, indices into ``unit_names``
    lesions: tuple[Lesion, ...]  # of all cases, by ``lesion.picture``
    unit_names: tuple[str, ...]
    names: tuple[str, ...]  # of the cases
    rows: int
    cols: int


def token_labels(
    mask: np.ndarray,
    rows: int,
    cols: int,
    threshold: float = LABEL_THRESHOLD,
    spacing_mm: tuple[float, float] | None = None,
    picture: int = 0,
) -> TokenLabels:
    """Label the tokens of a mask on a (rows, cols) grid.

    A lesion owns the tokens that it alone covers by ``threshold``, its own largest token, and those lesion tokens
    shared with other lesions of which it holds the largest part.

    Args:
        mask: [H, W], bool, or 0 and one positive value; warns of a mask that covers nearly everything.
        spacing_mm: of the mask's pixels, (row, column); None: areas are shares of the picture.
        picture: index to give the lesions.

    Raises:
        LabelLeak: something label-free is being built.
        CovtokenError: the mask holds several values, or the threshold is out of range.
    """
    refuse_labels("token labels")
    marked, _ = inside(mask, "the mask", "Hand in which pixels are lesion: `mask == value` or `mask >= threshold`")
    if marked.mean() > FULL:
        warnings.warn(
            "the mask covers more than nine tenths of its picture: if the lesion is its black part, hand in "
            "`mask == 0`",
            stacklevel=2,
        )
    return _labelled(marked, rows, cols, threshold, spacing_mm, picture)


def _labelled(mask, rows, cols, threshold, spacing_mm, picture) -> TokenLabels:
    if not 0 < threshold <= 1:
        raise CovtokenError(f"label threshold {threshold}: a share of the patch in (0, 1]")
    total = patch_shares(mask, rows, cols).ravel()
    parts, count = connected(mask, structure=np.ones((3, 3)))
    if count == 0:
        return TokenLabels(np.zeros(rows * cols, bool), np.zeros(rows * cols, bool), ())

    pixel = 1.0 / mask.size if spacing_mm is None else spacing_mm[0] * spacing_mm[1]
    shares = np.stack([_shares_of(parts, index + 1, box, rows, cols) for index, box in enumerate(find_objects(parts))])
    largest_part = shares.argmax(axis=0)
    full = total >= threshold - TOUCHED
    lesion = full.copy()
    owned = []
    for index in range(count):
        own = shares[index] >= threshold - TOUCHED
        own |= full & (largest_part == index) & (shares[index] > TOUCHED)
        own[shares[index].argmax()] = True
        lesion |= own
        pixels = int((parts == index + 1).sum())
        owned.append(Lesion(np.flatnonzero(own), pixels * pixel, pixels / mask.size, picture))
    owned.sort(key=lambda lesion: (-lesion.share, int(lesion.tokens[0])))
    return TokenLabels(lesion, (total > TOUCHED) & ~lesion, tuple(owned))


def label(
    cases: Sequence[Case], cohort: Cohort, rows: int, cols: int, threshold: float = LABEL_THRESHOLD
) -> SplitLabels:
    """Label cases, in their order, from the cohort's lesion and organ masks; masks are read one at a time.

    >>> from covtoken import open_cohort
    >>> cohort = open_cohort("phantom", n=40)
    >>> label(cohort.cases[:4], cohort, rows=16, cols=16).lesion.shape
    (4, 256)

    Raises:
        LabelLeak: something label-free is being built.
        CovtokenError: no case, a case without an entry in ``cohort.masks``, a mask that cannot be read, or two masks
            that mark lesions by different values.
    """
    refuse_labels(f"the labels of cohort {cohort.name!r}")
    if not cases:
        raise CovtokenError(f"cohort {cohort.name!r}: no case to label")
    lesion, ignore, organ = np.zeros((3, len(cases), rows * cols), dtype=bool)
    organ = organ if cohort.organs else None
    lesions: list[Lesion] = []
    mark = organ_mark = None
    full: list[Path] = []
    for index, case in enumerate(cases):
        if case.name not in cohort.masks:
            raise CovtokenError(f"cohort {cohort.name!r}: case {case.name!r} has no mask entry; it cannot be evaluated")
        mask, value = read_marked(cohort.masks[case.name])
        mark = one_mark(mark, value)
        if mask.mean() > FULL:
            full += cohort.masks[case.name].files
        labels = _labelled(mask, rows, cols, threshold, case.spacing_mm, index)
        lesion[index], ignore[index] = labels.lesion, labels.ignore
        lesions.extend(labels.lesions)
        if organ is not None and case.name in cohort.organs:
            mask, value = read_marked(cohort.organs[case.name])
            organ_mark = one_mark(organ_mark, value)
            organ[index] = patch_shares(mask, rows, cols).ravel() >= 0.5
    warn_of_full(full)
    unit_names, unit = np.unique([case.unit for case in cases], return_inverse=True)
    names = tuple(case.name for case in cases)
    return SplitLabels(lesion, ignore, organ, unit, tuple(lesions), tuple(unit_names.tolist()), names, rows, cols)


def small_cuts(labels: SplitLabels, cases: Sequence[Case]) -> dict[str, float]:
    """Take, for each modality, the area at or below which a lesion is small: the lowest tercile of a selection split.

    Args:
        labels: of ``cases``, in their order.

    Returns:
        modality → area, mm² or share of the picture. One cut over two modalities would call one of them small.

    Raises:
        CovtokenError: no lesion to take a cut from.
    """
    areas: dict[str, list[float]] = {}
    for lesion in labels.lesions:
        areas.setdefault(cases[lesion.picture].modality, []).append(lesion.area)
    if not areas:
        raise CovtokenError("no lesion to take the small-lesion cut from: the split holds none")
    return {modality: float(np.quantile(areas[modality], 1 / 3)) for modality in sorted(areas)}


def mark_small(labels: SplitLabels, cases: Sequence[Case], cuts: dict[str, float]) -> SplitLabels:
    """Set the flag of lesions up to the cut of their picture's modality.

    Args:
        labels: of ``cases``, in their order.
        cuts: modality → area, as ``small_cuts`` gives them.

    Raises:
        CovtokenError: a lesion of a modality without a cut.
    """
    found = {cases[lesion.picture].modality for lesion in labels.lesions}
    if missing := sorted(found - cuts.keys()):
        raise CovtokenError(
            f"the plan knows a small-lesion cut for {', '.join(sorted(cuts)) or 'nothing'}, and there are lesions of "
            f"{', '.join(missing)}: the selection split it was made on held none of them"
        )
    marked = (
        replace(lesion, small=bool(lesion.area <= cuts[cases[lesion.picture].modality])) for lesion in labels.lesions
    )
    return replace(labels, lesions=tuple(marked))


def patch_shares(mask: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """Compute the share of each patch that the mask [H, W] covers, [rows, cols] float64, by exact area."""
    height, width = mask.shape
    return _overlap(height, rows) @ mask.astype(np.float64) @ _overlap(width, cols).T


def _shares_of(parts: np.ndarray, index: int, box: tuple[slice, slice], rows: int, cols: int) -> np.ndarray:
    """Compute the ``patch_shares`` [T] of a component in its bounding box."""
    height, width = parts.shape
    inside = (parts[box] == index).astype(np.float64)
    return (_overlap(height, rows)[:, box[0]] @ inside @ _overlap(width, cols)[:, box[1]].T).ravel()


@lru_cache(maxsize=64)
def _overlap(pixels: int, patches: int) -> np.ndarray:
    """Compute the share of each patch's side that each pixel covers: [patches, pixels], rows sum to one."""
    edges = np.arange(patches + 1) * (pixels / patches)
    starts = np.arange(pixels)
    low = np.maximum(edges[:-1, None], starts[None, :])
    high = np.minimum(edges[1:, None], starts[None, :] + 1)
    return np.clip(high - low, 0, None) / (pixels / patches)
