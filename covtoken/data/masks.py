"""Read masks: the one door through which covtoken reads any mask, so that one guard holds for all."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from covtoken.data.case import Case, Cohort, MaskRef
from covtoken.data.mask_values import FULL, brightest, inside
from covtoken.data.pictures import is_array, open_image, read_array, read_picture
from covtoken.data.regions import cut
from covtoken.errors import CovtokenError
from covtoken.leak_guard import refuse_labels

LOSSY = 128  # from which value on a JPEG mask is lesion: compression leaves faint ghosts beside the edge
MANY = 500  # masks from which a progress bar is shown
WAY_OUT = (
    "Say which value is lesion, `lesion_value=2`, or from which on, `mask_at_least=128` (an organ mask: "
    "`organ_at_least=1`): options of open_cohort for a folder, or columns of index.csv"
)
_warned_of: set[Path] = set()


class Mark(NamedTuple):
    """The value or colour beside black in a mask file, and the file."""

    value: str
    file: Path


def read_mask(ref: MaskRef) -> np.ndarray:
    """Read a mask, [H, W] bool, at its picture's native resolution (cut to ``ref.window`` where one is given).

    Raises:
        LabelLeak: something label-free is being built.
        CovtokenError: a file is missing, unreadable, of another size than its picture, or holds several values and
            ``ref`` does not say which is lesion.
    """
    return read_marked(ref)[0]


def read_marked(ref: MaskRef) -> tuple[np.ndarray, Mark | None]:
    """Read a mask as ``read_mask`` does, with its mark beside black for ``one_mark``; None where it says nothing."""
    refuse_labels(f"the mask of {ref.picture or 'a case'}")
    if ref.kind not in _KINDS:
        raise CovtokenError(
            f"mask of {ref.picture or ref.files}: unknown kind {ref.kind!r}; known: {', '.join(_KINDS)}"
        )
    mask, mark = _KINDS[ref.kind](ref)
    return cut(mask, ref.window), mark


def read_lesion_ids(ref: MaskRef) -> tuple[dict[int, int], Callable[[MaskRef], np.ndarray]]:
    """Number the 3-D lesions of the volume that a mask's slice belongs to.

    Args:
        ref: of any slice of the volume.

    Returns:
        number → voxels of the lesion in the whole volume, and a function that gives the numbers [H, W] int32 in the
        slice of a reference, cut as the reference says, 0 outside lesions.

    Raises:
        LabelLeak: something label-free is being built.
        CovtokenError: as ``read_mask``, or the mask is no slice of a volume.
    """
    refuse_labels(f"the lesions of {ref.picture or 'a volume'}")
    voxels, numbers = _of_volumes(ref).lesion_ids(ref)
    return voxels, lambda other: cut(numbers(other), other.window)


def one_mark(first: Mark | None, now: Mark | None) -> Mark | None:
    """Compare a mask's mark with the first of the cohort, and give the mark to compare the next with.

    Raises:
        CovtokenError: the marks differ, so that no value means the same in all masks of a cohort.
    """
    if first is not None and now is not None and first.value != now.value:
        raise CovtokenError(
            f"mask file {first.file} holds {first.value} beside 0, and {now.file} holds {now.value}: one cohort marks "
            f"its lesions by one value. {WAY_OUT}"
        )
    return first or now


def check_mask_files(cohort: Cohort) -> None:
    """Read every mask of a cohort once, before anything long begins; warn of masks that cover nearly everything.

    Raises:
        LabelLeak: something label-free is being built.
        CovtokenError: as ``read_mask`` and ``one_mark``, or the pictures look like masks and the masks like pictures.
    """
    refuse_labels(f"the masks of cohort {cohort.name!r}")
    _refuse_swapped(cohort)
    shown = len(cohort.masks) >= MANY and sys.stderr.isatty()
    full, marks = [], {}
    refs = [(ref, False) for ref in cohort.masks.values()] + [(ref, True) for ref in cohort.organs.values()]
    for ref, is_organ in track(refs, "masks", console=Console(stderr=True), disable=not shown):
        mask, mark = read_marked(ref)
        marks[is_organ] = one_mark(marks.get(is_organ), mark)
        if not is_organ and mask.mean() > FULL:
            full += ref.files
    warn_of_full(full, stacklevel=4)


def warn_of_full(files: Sequence[Path], stacklevel: int = 3) -> None:
    """Warn of mask files that cover nearly everything: a line for all, and once a file."""
    new = [file for file in files if file not in _warned_of]
    _warned_of.update(new)
    if new:
        more = f" (and {len(new) - 1} more)" if len(new) > 1 else ""
        warnings.warn(
            f"mask file {new[0]}{more} covers more than nine tenths of its picture: if the lesion is the black part, "
            "say `lesion_value=0`",
            stacklevel=stacklevel,
        )


def check_masks(cohort: Cohort, cases: Sequence[Case] | None = None) -> None:
    """Refuse a cohort in which nothing can be measured; read masks until lesion and surroundings were seen.

    Args:
        cases: the cases to evaluate; None: all.

    Raises:
        LabelLeak: something label-free is being built.
        CovtokenError: no case has a mask, or all masks are empty, or all are full.
    """
    refuse_labels(f"the masks of cohort {cohort.name!r}")
    cases = cohort.cases if cases is None else cases
    refs = [cohort.masks[case.name] for case in cases if case.name in cohort.masks]
    if all(ref.kind == "empty" for ref in refs):
        fault = f"none of the {len(cases)} pictures has a mask"
    else:
        lesion = rest = False
        for ref in refs:
            mask = read_mask(ref)
            lesion, rest = lesion or mask.any(), rest or not mask.all()
            if lesion and rest:
                return
        fault = f"the masks of all {len(cases)} pictures " + ("cover the whole picture" if lesion else "are empty")
    raise CovtokenError(
        f"{cohort.name}: {fault}, so nothing can be measured: check the mask column; for maps without masks use "
        "covtoken.features and covtoken.score_maps"
    )


def _refuse_swapped(cohort: Cohort) -> None:
    """Refuse a cohort whose first picture that has a mask and is not flat is two-valued, its mask not."""
    for case in cohort.cases:
        ref = cohort.masks.get(case.name)
        if ref is None or not ref.files:
            continue
        levels = len(np.unique(case.pixels()))
        if levels == 1:
            continue
        if levels == 2 and len(np.unique(read_picture(ref.files[0]))) > 2:
            raise CovtokenError(
                f"{cohort.name}: {case.source} holds two values, as a mask does, and its mask {ref.files[0]} more: the "
                "columns image and mask look swapped"
            )
        return


def _any_of(ref: MaskRef) -> tuple[np.ndarray, Mark | None]:
    if not ref.files:
        raise CovtokenError(f"mask of {ref.picture or 'a case'}: kind {ref.kind!r} needs at least one file")
    mask = mark = None
    for file in ref.files:
        part, mark_here = _read(file, ref)
        size = ref.size if ref.size is not None else (None if mask is None else mask.shape)
        if size is not None:
            _check_size(file, part.shape, size, ref)
        mask = part if mask is None else mask | part
        mark = one_mark(mark, mark_here)
    return mask, mark


def _read(file: Path, ref: MaskRef) -> tuple[np.ndarray, Mark | None]:
    """Tell the marked pixels of a mask file: a PIL format (colour: brightest channel), NumPy or 2-D NIfTI."""
    what, colour, at_least = f"mask file {file}", "", ref.at_least
    if is_array(file):
        values = read_array(file, "mask file")
    else:
        with open_image(file, "mask file") as image:
            if ref.size is not None:
                _check_size(file, (image.height, image.width), ref.size, ref)  # before it is decoded
            if image.format in ("JPEG", "MPO") and at_least is None:
                at_least = LOSSY
                if ref.lesion_value is not None:
                    raise CovtokenError(
                        f"{what} is a JPEG, which blurs values, so `lesion_value` cannot be read from it: save it as "
                        "PNG, or say `mask_at_least=128` instead"
                    )
            if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
                values = np.asarray(image)
            else:  # by colour: a palette's index is no value
                alpha = "transparency" in image.info or image.mode.endswith(("A", "a"))
                bands = np.asarray(image.convert("RGBA" if alpha else "RGB"))
                alpha = bands[..., 3] if alpha else None
                values, colour = brightest(bands[..., :3], alpha, what, shades=at_least is not None)
    marked, value = inside(values, what, WAY_OUT, at_least, ref.lesion_value)
    return marked, None if value is None else Mark(colour or f"{value:g}", file)


def _check_size(file: Path, came: tuple[int, ...], size: tuple[int, int], ref: MaskRef) -> None:
    if tuple(came) != tuple(size):
        beside = ref.picture or ref.files[0]
        raise CovtokenError(
            f"mask {file} is {came[0]}×{came[1]} pixels, its picture {beside} is {size[0]}×{size[1]}: "
            "they must be the same size; export the mask again from the picture"
        )


def _empty(ref: MaskRef) -> tuple[np.ndarray, None]:
    height, _, width = ref.key.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise CovtokenError(f"an empty mask needs its size as 'HxW' in pixels, got {ref.key!r}")
    return np.zeros((int(height), int(width)), dtype=bool), None


def _phantom(ref: MaskRef) -> tuple[np.ndarray, None]:
    from covtoken.data.readers import phantom  # late: no other cohort needs it

    return phantom.mask_of(ref.key), None


def _of_volume(ref: MaskRef) -> tuple[np.ndarray, None]:
    return _of_volumes(ref).mask_of(ref), None


def _of_volumes(ref: MaskRef):
    """Import the module that reads the masks of a volume's kind; pictures need neither."""
    if ref.kind not in _VOLUMES:
        raise CovtokenError(f"mask of {ref.picture or ref.files}: kind {ref.kind!r} is no slice of a volume")
    return import_module(f"covtoken.data.readers.{_VOLUMES[ref.kind]}")


_VOLUMES = {"nifti": "label_volume", "lidc": "lidc_contours"}
_Reader = Callable[[MaskRef], tuple[np.ndarray, Mark | None]]
_KINDS: dict[str, _Reader] = {"png": _any_of, "phantom": _phantom, "empty": _empty}
_KINDS |= dict.fromkeys(_VOLUMES, _of_volume)
"""Readers of masks by kind; a reader of another format adds its own here."""
