"""Read slices and lesions of a NIfTI label volume, for ``covtoken.data.masks`` alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.ndimage import find_objects
from scipy.ndimage import label as connected

from covtoken.data.case import LabelSlice, MaskRef
from covtoken.data.volumes import read_volume, slice_of
from covtoken.errors import CovtokenError
from covtoken.leak_guard import refuse_labels


def mask_of(ref: MaskRef) -> np.ndarray:
    """Read the slice of a label volume that a reference names, [H, W] bool, uncut.

    Raises:
        LabelLeak: something label-free is being built.
        CovtokenError: the file cannot be read, or the slice holds values outside its task or is of another size.
    """
    refuse_labels(f"the mask of {ref.picture or 'a slice'}")
    at, file = ref.labels, ref.files[0]
    values = slice_of(read_volume(file, "mask file"), at.index, at.axis)
    if ref.size is not None and values.shape != tuple(ref.size):
        raise CovtokenError(
            f"mask {file} has slices of {values.shape[0]}×{values.shape[1]} pixels, its picture {ref.picture} of "
            f"{ref.size[0]}×{ref.size[1]}: they must be the same size; export the mask again from the picture"
        )
    return _inside(values, at, file, f"in slice {at.index}")


def lesion_ids(ref: MaskRef) -> tuple[dict[int, int], Callable[[MaskRef], np.ndarray]]:
    """Number the lesions of a whole label volume: components of lesion voxels that touch by face, edge or corner.

    Args:
        ref: of any slice of the volume.

    Returns:
        number → voxels of the lesion, and a function that gives the numbers [H, W] int32 in the slice of a reference,
        uncut, 0 outside.

    Raises:
        LabelLeak, CovtokenError: as ``mask_of``.
    """
    refuse_labels(f"the lesions of {ref.files}")
    at, file = ref.labels, ref.files[0]
    volume = read_volume(file, "mask file")
    lesion = np.empty(volume.shape, bool)
    for index in range(volume.shape[at.axis]):
        of_slice = np.moveaxis(volume, at.axis, 0)[index]
        np.moveaxis(lesion, at.axis, 0)[index] = _inside(of_slice, at, file, f"in slice {index}")
    box = (find_objects(lesion.view(np.uint8)) or [None])[0]
    if box is None:
        return {}, lambda other: np.zeros(slice_of(lesion, other.labels.index, at.axis).shape, np.int32)
    parts, _ = connected(lesion[box], structure=np.ones((3, 3, 3)))
    voxels = {number: int(n) for number, n in enumerate(np.bincount(parts.ravel())) if number}
    shape = lesion.shape

    def numbers(other: MaskRef) -> np.ndarray:
        index = other.labels.index
        found = np.zeros([side for axis, side in enumerate(shape) if axis != at.axis], np.int32)
        if box[at.axis].start <= index < box[at.axis].stop:
            inside = tuple(side for axis, side in enumerate(box) if axis != at.axis)
            found[inside] = np.moveaxis(parts, at.axis, 0)[index - box[at.axis].start]
        return slice_of(found[None], 0, 0)

    return voxels, numbers


def _inside(values: np.ndarray, at: LabelSlice, file: Path, where: str) -> np.ndarray:
    strange = values[~np.isin(values, at.known)]
    if len(strange):
        raise CovtokenError(
            f"mask file {file} holds the value {strange[0]:g} {where}, and its task knows "
            f"{', '.join(map(str, at.known))} alone: it is of another task, or was interpolated; export it "
            "again"
        )
    return np.isin(values, at.inside)
