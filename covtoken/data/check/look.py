"""Look at one picture and its mask: sizes, values, lesions, and what is wrong with them, without stopping at it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import label as connected

from covtoken.data.case import MODALITIES, Case, MaskRef
from covtoken.data.intensity import to_unit_range
from covtoken.data.mask_values import FULL
from covtoken.data.masks import Mark, read_marked
from covtoken.data.near_duplicates import thumbnail
from covtoken.errors import CovtokenError

TINY = 64  # pixels a side; a vision transformer sees a smaller picture through a few tokens' worth of detail
SPECK = 3  # pixels: a connected part of a mask no larger is hardly a lesion


@dataclass(frozen=True)
class Finding:
    """Something wrong with a cohort's files.

    Attributes:
        kind: one or two words: ``"mask"``, ``"near-duplicate"``, …
        file: where to look; a case's or unit's name where there is no file.
        what: what is wrong, and what to do.
        stops: whether a gate would refuse the cohort for it, or be wrong.
    """

    kind: str
    file: str
    what: str
    stops: bool = False


@dataclass
class Look:
    """What one picture and its mask hold.

    Attributes:
        shape: (H, W) in pixels; None where the picture cannot be read.
        low, high: smallest and largest value, in the picture's units.
        small: its ``thumbnail``, [SIDE·SIDE] float32.
        lesions: area of each 8-connected lesion, in pixels; None where no mask could be read.
        n_pixels: of the mask.
        mark: the mask's value beside black, as ``one_mark`` compares them.
        findings: what is wrong with this case.
    """

    shape: tuple[int, int] | None = None
    low: float = np.inf
    high: float = -np.inf
    small: np.ndarray | None = None
    lesions: np.ndarray | None = None
    n_pixels: int = 0
    mark: Mark | None = None
    findings: list[Finding] = field(default_factory=list)


def look_at(case: Case, ref: MaskRef | None, organ: MaskRef | None = None) -> Look:
    """Look at a case and its masks; a file that cannot be read is a finding, never an error.

    Args:
        ref: of the lesion mask; None where the cohort has none for the case.
        organ: of the organ mask.
    """
    look, file = Look(), case.source or case.name

    def found(kind: str, what: object, stops: bool = False, at: str = file) -> None:
        look.findings.append(Finding(kind, at, str(what), stops))

    try:
        _look_at_picture(look, case, found)
    except CovtokenError as error:
        found("picture", error, stops=True)
    if ref is None:
        found("no mask", "the cohort holds no mask for it: it is never evaluated")
        return look
    for mask_ref, is_organ in ((ref, False), (organ, True)):
        if mask_ref is None:
            continue
        at = str(mask_ref.files[0]) if mask_ref.files else file
        try:
            mask, mark = read_marked(mask_ref)
        except CovtokenError as error:
            found("organ mask" if is_organ else "mask", error, stops=True, at=at)
            continue
        if look.shape is not None and mask.shape != look.shape:
            sizes = ("{}×{}".format(*size) for size in (mask.shape, look.shape))
            found("mask size", "the mask is {}, its picture {}: export it again".format(*sizes), stops=True, at=at)
        elif not is_organ:
            _look_at_mask(look, mask, mask_ref, lambda kind, what, at=at: found(kind, what, at=at))
            look.mark = mark
    return look


def _look_at_picture(look: Look, case: Case, found) -> None:
    pixels = case.pixels()
    look.shape, look.low, look.high = pixels.shape, float(pixels.min()), float(pixels.max())
    look.small = thumbnail(pixels)
    if look.low == look.high:
        found("blank", f"every pixel is {look.low:g}: leave the case out, or fetch the picture again")
    if min(look.shape) < TINY:
        found("tiny", "only {}×{} pixels: fine detail is lost".format(*look.shape))
    if case.modality not in MODALITIES:
        found("modality", f"modality {case.modality!r}: expected {', '.join(MODALITIES)}", stops=True)
        return
    try:
        to_unit_range(pixels, case)
    except CovtokenError as error:
        found("values", error, stops=True)


def _look_at_mask(look: Look, mask: np.ndarray, ref: MaskRef, found) -> None:
    parts, _ = connected(mask, structure=np.ones((3, 3)))
    look.lesions, look.n_pixels = np.bincount(parts.ravel())[1:], mask.size
    share = look.lesions.sum() / mask.size
    if share and look.lesions.min() <= SPECK:
        found("speck", f"a lesion of {look.lesions.min()} px: a slip of the pen? It counts as a lesion of its own")
    if share > FULL:
        found("full mask", f"{100 * share:.0f} % of the picture is lesion: if the lesion is the black part, invert it")
    if not share and ref.diagnosis in ("benign", "malignant"):
        found("empty mask", f"the picture is {ref.diagnosis}, and its mask is black")
    if share and ref.diagnosis == "normal":
        found("mask", "the picture is normal, and its mask shows a lesion")
