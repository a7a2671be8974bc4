"""Open an input: its slices as Cases, and the grid of the array that its map is written to.

The map of a picture has the picture's shape. The map of a NIfTI file has its shape, affine, qform and sform. The map of
DICOM is indexed (column, row, slice). A slice of the map is always a view of that array, so that a map lands where its
picture came from.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
from nibabel.orientations import apply_orientation, io_orientation

from covtoken.data.case import Case
from covtoken.data.pictures import MOST_PIXELS, npy_header, open_image, read_array, read_picture, reading
from covtoken.data.volumes import VolumeSlice, slice_of, space_of
from covtoken.errors import CovtokenError
from covtoken.maps.inputs import dicom
from covtoken.maps.inputs.grey import Grey
from covtoken.maps.inputs.listing import Input

SMALLEST = 8  # pixels a side
_HEADER = ("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d")
_HEADER += ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")


@dataclass(frozen=True)
class Grid:
    """Where a map's values go.

    Attributes:
        shape: of the array that is written.
        view: (array, slice) → its [H, W] as the Case of that slice sees it, a view.
        affine: array index → mm, [4, 4]; None: spacing is unknown.
        header: what a NIfTI header says of place; None: the map is no NIfTI file.
        frame: what mm are counted from.
        spacing_mm: (row, column) of a slice, or None.
        slice_mm: distance of slices; None where there is a single one or it is unknown.
        axes: names of the array's axes.
    """

    shape: tuple[int, ...]
    view: Callable[[np.ndarray, int], np.ndarray]
    affine: np.ndarray | None
    header: dict | None
    spacing_mm: tuple[float, float] | None
    slice_mm: float | None
    axes: tuple[str, ...]
    frame: str = "right, anterior, superior"

    @property
    def size(self) -> tuple[int, int]:
        """Give (H, W) of a slice."""
        return self.view(np.broadcast_to(np.uint8(0), self.shape), 0).shape

    def place(self, index: int, row: float, column: float) -> list[float]:
        """Give the array index, a float an axis, of a place in a slice.

        Args:
            index: of the slice.
            row, column: pixel centres lie at whole numbers.
        """
        found = []
        for axis, length in enumerate(self.shape):
            along = np.arange(length).reshape([-1 if other == axis else 1 for other in range(len(self.shape))])
            plane = self.view(np.broadcast_to(along, self.shape), index)  # the index along this axis, no memory
            start = float(plane[0, 0])
            found.append(start + row * _step(plane[:, 0]) + column * _step(plane[0, :]))
        return found

    def mm(self, place: Sequence[float]) -> list[float] | None:
        """Give mm of an array index in ``frame``; None where spacing is unknown."""
        if self.affine is None:
            return None
        padded = [*place, *[0.0] * (3 - len(place)), 1.0]
        return [float(value) for value in (self.affine @ padded)[: 3 if self.header else len(place)]]


@dataclass(frozen=True)
class Opened:
    """An opened input: its slices in the map's order, and the map's grid."""

    cases: tuple[Case, ...]
    grid: Grid
    stored: str  # see ``Grey.case``


def open_input(item: Input, grey: Grey, unit: str = "") -> Opened:
    """Open an input by its header; slices are read when they are asked for.

    Args:
        grey: what stored values mean.
        unit: of its Cases; "": its own name.

    Raises:
        CovtokenError: the file is missing, damaged, tiny, of another shape, or nothing says what its values mean.
    """
    loads, size, grid, stored, sources = _OPEN[item.kind](item)
    if min(size) < SMALLEST:
        raise CovtokenError(f"{sources[0]} is {size[0]}×{size[1]} pixels: expected {SMALLEST} a side; leave it out")
    if len(loads) == 1:
        names = [item.name]
    else:
        digits = len(str(len(loads) - 1))
        names = [f"{item.name}_z{index:0{digits}}" for index in range(len(loads))]
    about = {"unit": unit or item.name, "spacing_mm": grid.spacing_mm, "slice_mm": grid.slice_mm}
    cases = tuple(
        grey.case(stored, load, name=name, source=source, slice_index=index, **about)
        for index, (load, name, source) in enumerate(zip(loads, names, sources))
    )
    return Opened(cases, grid, stored)


def stored_as(item: Input) -> str:
    """Say how an input stores its values, by its header alone."""
    return _OPEN[item.kind](item)[3]


def picture_grid(shape: tuple[int, ...], spacing_mm: tuple[float, float] | None = None) -> Grid:
    """Give the grid of an array [H, W] or [S, H, W]."""
    axes = ("slice", "row", "column")[-len(shape) :]
    view = (lambda array, index: array) if len(shape) == 2 else (lambda array, index: array[index])
    known = spacing_mm is not None and len(shape) == 2
    affine = np.diag([*spacing_mm, 1.0, 1.0]) if known else None
    return Grid(
        tuple(shape), view, affine, None, spacing_mm, None, axes, "the centre of the top left pixel: down, right"
    )


def nifti_grid(image: nibabel.Nifti1Image, axis: int = 2) -> Grid:
    """Give the grid of a NIfTI image of two or three axes.

    Args:
        axis: canonical axis that slices lie across.
    """
    shape = tuple(int(side) for side in image.shape)
    turn = io_orientation(image.affine)
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)[np.argsort(turn[:, 0])]  # along canonical axes
    columns, rows = (other for other in range(3) if other != axis)

    def view(array: np.ndarray, index: int) -> np.ndarray:
        whole = array if array.ndim == 3 else array[..., np.newaxis]
        return slice_of(apply_orientation(whole, turn), index, axis)

    header = {name: np.array(image.header[name]) for name in _HEADER}
    sides, gap = (float(spacing[rows]), float(spacing[columns])), float(spacing[axis])
    return Grid(shape, view, np.array(image.affine), header, sides, gap, ("i", "j", "k")[: len(shape)])


def _picture(item: Input):
    file = item.files[0]
    with open_image(file, "picture") as image:
        size, mode = (image.height, image.width), image.mode
    stored = "16 bit" if mode.startswith("I") else "float" if mode == "F" else "8 bit"
    return [partial(read_picture, file)], size, picture_grid(size, item.spacing_mm), stored, [str(file)]


def _npy(item: Input):
    file = item.files[0]
    with reading(file, "picture"), file.open("rb") as stream:
        _, dtype = npy_header(stream)
        if dtype.hasobject:
            raise CovtokenError(f"picture {file} holds Python objects, which are never loaded: save plain numbers")
        values = np.load(file, mmap_mode="r", allow_pickle=False)
    if values.dtype.kind not in "biuf":
        raise CovtokenError(f"picture {file} cannot be read as numbers: it holds {values.dtype}; save it anew")
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise CovtokenError(f"picture {file}: expected [H, W] or [slices, H, W], got shape {list(values.shape)}")
    if values.shape[-1] * values.shape[-2] > MOST_PIXELS:
        raise CovtokenError(f"picture {file} is {list(values.shape)} pixels: {MOST_PIXELS} are the most; scale it down")
    count = 1 if values.ndim == 2 else len(values)
    loads = [partial(_npy_slice, file, None if values.ndim == 2 else index) for index in range(count)]
    signed = values.dtype.kind == "i"
    stored = "float" if values.dtype.kind == "f" else "8 bit" if values.dtype.itemsize == 1 else "16 bit"
    size, grid = tuple(map(int, values.shape[-2:])), picture_grid(tuple(map(int, values.shape)), item.spacing_mm)
    return loads, size, grid, "other" if signed else stored, [str(file)] * count


def _npy_slice(file: Path, index: int | None) -> np.ndarray:
    if index is None:
        return read_array(file, "picture")
    with reading(file, "picture"):
        return np.array(np.load(file, mmap_mode="r", allow_pickle=False)[index], dtype=np.float32)


def _nifti(item: Input):
    file = item.files[0]
    with reading(file, "picture"), file.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        image = nibabel.Nifti1Image.from_stream(gzip.GzipFile(fileobj=raw) if packed else raw)
        shape = tuple(int(side) for side in image.shape)
        stored = "8 bit" if image.get_data_dtype() == np.uint8 and image.dataobj.slope == 1 else "other"
        if not 2 <= len(shape) <= 3:
            raise CovtokenError(
                f"{file} has {len(shape)} axes, {'×'.join(map(str, shape))}: expected a picture or a volume; save one "
                "phase or channel as a file of its own (for example `fslroi`)"
            )
    if len(shape) == 2:
        if image.get_data_dtype().kind not in "biuf":
            raise CovtokenError(f"{file} holds values of type {image.get_data_dtype()}: save it as numbers")
        if not abs(np.linalg.det(image.affine[:3, :3])) > 1e-9:
            raise CovtokenError(f"{file}: its affine turns no picture into mm; mend the header")
        axis = int(io_orientation(image.affine)[2, 0])
        grid = nifti_grid(image, axis)
        loads = [partial(_flat, file, grid)]
    else:
        space = space_of(file)
        flat = [at for at, side in enumerate(shape) if side == 1]
        axis = space.axes[flat[0]] if len(flat) == 1 else 2
        grid = nifti_grid(image, axis)
        loads = [VolumeSlice(file, index, axis) for index in range(space.shape[axis])]
    size = grid.view(np.broadcast_to(np.float32(0), shape), 0).shape
    sources = [str(file)] if len(loads) == 1 else [f"{file}, slice {index}" for index in range(len(loads))]
    return loads, size, grid, stored, sources


def _flat(file: Path, grid: Grid) -> np.ndarray:
    """Read a NIfTI file of two axes as its map's grid sees it."""
    return grid.view(read_array(file, "picture").reshape(grid.shape).astype(np.float32), 0)


def _dicom(item: Input):
    headers = [dicom.read_header(file) for file in item.files]
    first = headers[0]
    if any(header.frames > 1 for header in headers):
        raise CovtokenError(dicom._frames(first))
    placed = first.place is not None and first.directions is not None and first.spacing_mm is not None
    shape = (first.size[1], first.size[0], len(headers))
    spacing = item.spacing_mm or first.spacing_mm
    if placed:
        affine, step = dicom.affine_of(first, dicom.step_of(headers)), dicom.step_of(headers)
    else:
        affine, step = np.diag([*(spacing or (1.0, 1.0))[::-1], 1.0, 1.0]), None

    def view(array: np.ndarray, index: int) -> np.ndarray:
        return array[:, :, index].T

    image = nibabel.Nifti1Image(np.broadcast_to(np.float32(0), shape), affine)
    image.set_sform(affine, code=int(placed))
    image.set_qform(affine, code=int(placed))
    header = {name: np.array(image.header[name]) for name in _HEADER}
    header["xyzt_units"] = np.array(2, np.uint8)  # mm
    frame = "right, anterior, superior" if placed else "the centre of the top left pixel: right, down"
    known = affine if placed or spacing else None
    grid = Grid(shape, view, known, header, spacing, step, ("column", "row", "slice"), frame)
    stored = "other" if first.modality == "CT" else "8 bit" if first.bits <= 8 else "16 bit"
    loads = [partial(dicom.read_pixels, file) for file in item.files]
    return loads, first.size, grid, stored, [str(file) for file in item.files]


_OPEN = {"picture": _picture, "npy": _npy, "nifti": _nifti, "dicom": _dicom}


def _step(values: np.ndarray) -> float:
    return 0.0 if len(values) < 2 else (float(values[-1]) - float(values[0])) / (len(values) - 1)
