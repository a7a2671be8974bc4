"""Open CT volumes in NIfTI and give their axial slices as a radiologist sees them, one volume in memory at a time.

A compressed file has no random access: any slice costs the decompression of all before it. So a volume is decompressed
once, slab by slab, held as int16 (float32 where its values are no whole numbers), and its slices are asked for in
order. What is held stays below ``HELD_BYTES``, or is a single volume, however many volumes a cohort has.
"""

from __future__ import annotations

import gzip
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from covtoken.data.pictures import reading
from covtoken.errors import CovtokenError
from covtoken.leak_guard import refuse_mask_file

HELD_BYTES = 400 * 2**20
SLAB = 16  # slices of the file's last axis that are decoded at once
APART = 0.1  # share of a voxel by which the corners of picture and mask may lie apart: rounding in headers

_lock = threading.RLock()
_held: OrderedDict[tuple, np.ndarray] = OrderedDict()  # (file, size, time of change) → canonical volume, latest last


@dataclass(frozen=True)
class Space:
    """Place of a volume's voxels in the patient, once its axes are turned to right, anterior, superior.

    Attributes:
        shape: voxels along right, anterior, superior.
        spacing_mm: along the same axes.
        affine: voxel indices → mm, [4][4].
        axes: where each axis of the file went.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    affine: tuple[tuple[float, ...], ...]
    axes: tuple[int, int, int]


@dataclass(frozen=True)
class VolumeSlice:
    """A slice of a NIfTI file: picklable, opens the file when called.

    Attributes:
        file: ``.nii`` or ``.nii.gz``.
        index: counts upwards along ``axis``, from the feet where that is 2.
        axis: canonical axis that is cut across (2: axial).
        what: ``"picture"`` or ``"mask file"``, for errors.
    """

    file: Path
    index: int
    axis: int = 2
    what: str = "picture"

    def __call__(self) -> np.ndarray:
        """Read the slice, [H, W] float32 in the file's units: rows run to the back, columns to the patient's left."""
        return slice_of(read_volume(self.file, self.what), self.index, self.axis).astype(np.float32)


def slice_of(values: np.ndarray, index: int, axis: int) -> np.ndarray:
    """Cut a slice [H, W] out of a canonical volume, turned as a radiologist sees it (a view)."""
    return np.flip(np.moveaxis(values, axis, 0)[index]).T


def read_volume(file: Path, what: str = "picture") -> np.ndarray:
    """Read a volume, its axes turned to right, anterior, superior; int16, or float32 where values are not whole.

    Do not write to it: it is held for the next slice.

    Raises:
        LabelLeak: the file is a registered mask and something label-free is being built, though it may be held already.
        CovtokenError: the file is missing, damaged, or no volume of numbers.
    """
    refuse_mask_file(file)
    with reading(file, what):
        status = file.stat()
    key = (file, status.st_size, status.st_mtime_ns)
    with _lock:  # two threads at the border of two volumes would decompress twice
        if key not in _held:
            _held[key] = _load(file, what)
        _held.move_to_end(key)
        return _held[key]


def space_of(file: Path, what: str = "picture") -> Space:
    """Read a volume's place from its header alone; raise as ``read_volume``."""
    with reading(file, what), _opened(file) as image:
        return _space(image, file, what)


def check_same_space(picture: Path, mask: Path) -> Space:
    """Compare the headers of a picture and its mask, and give their space.

    Raises:
        CovtokenError: they differ in shape or place once both are turned alike.
    """
    ours, theirs = space_of(picture), space_of(mask, "mask file")
    if ours.shape != theirs.shape:
        raise _apart(picture, mask, f"{_sides(ours.shape)} and {_sides(theirs.shape)} voxels")
    corners = np.array([[*corner, 1.0] for corner in np.ndindex(2, 2, 2)]) * [*(side - 1 for side in ours.shape), 1]
    gaps = corners @ (np.array(ours.affine) - np.array(theirs.affine)).T
    gap = float(np.linalg.norm(gaps[:, :3], axis=1).max())
    if gap > APART * min(ours.spacing_mm):
        raise _apart(picture, mask, f"up to {gap:.3g} mm apart by their affines")
    return ours


def _load(file: Path, what: str) -> np.ndarray:
    with reading(file, what), _opened(file) as image:
        _space(image, file, what)  # refuses what is no volume
        need = 2 * math.prod(image.shape)
        while _held and need + sum(values.nbytes for values in _held.values()) > HELD_BYTES:
            _held.popitem(last=False)
        whole = np.empty(image.shape, np.int16, order="F")  # as the file has it
        for start in range(0, image.shape[2], SLAB):
            part = np.asarray(image.dataobj[..., start : start + SLAB])  # scaled: float64, a slab of it
            if whole.dtype == np.int16 and not _fits_int16(part):
                whole = whole.astype(np.float32)
            whole[..., start : start + SLAB] = part
        return apply_orientation(whole, io_orientation(image.affine))


@contextmanager
def _opened(file: Path) -> Iterator[nibabel.Nifti1Image]:
    """Open a NIfTI file for as long as the block lasts: nibabel alone would begin anew at each slab."""
    with file.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        yield nibabel.Nifti1Image.from_stream(gzip.GzipFile(fileobj=raw) if packed else raw)


def _space(image: nibabel.Nifti1Image, file: Path, what: str) -> Space:
    if len(image.shape) != 3 or 0 in image.shape:
        raise CovtokenError(
            f"{what} {file}: expected a volume of three axes, got shape {_sides(image.shape)}; save one phase or "
            "channel as a file of its own"
        )
    if image.get_data_dtype().kind not in "biuf":
        raise CovtokenError(f"{what} {file} holds values of type {image.get_data_dtype()}: save it as numbers")
    affine = image.affine
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise CovtokenError(
            f"{what} {file}: its affine {np.round(affine, 3).tolist()} turns no volume into mm; mend the header"
        )
    turn = io_orientation(affine)
    canonical = affine @ inv_ornt_aff(turn, image.shape)
    axes = tuple(int(axis) for axis in turn[:, 0])
    shape = tuple(int(image.shape[axes.index(axis)]) for axis in range(3))
    spacing = tuple(float(side) for side in np.linalg.norm(canonical[:3, :3], axis=0))
    return Space(shape, spacing, tuple(tuple(map(float, row)) for row in canonical), axes)


def _fits_int16(part: np.ndarray) -> bool:
    if part.dtype in (np.uint8, np.int8, np.int16, np.bool_):
        return True
    limits = np.iinfo(np.int16)
    return bool(part.min() >= limits.min and part.max() <= limits.max and (part == np.rint(part)).all())


def _sides(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _apart(picture: Path, mask: Path, how: str) -> CovtokenError:
    return CovtokenError(
        f"mask {mask} and its picture {picture} are {how}: a mask is drawn on the voxels of its picture; export it "
        "again from that picture"
    )
