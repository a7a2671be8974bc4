"""Picture files to arrays: 8-bit formats by PIL, NumPy and 2-D NIfTI for Hounsfield units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from covtoken.errors import CovtokenError

Window = tuple[int, int, int, int]


def read_picture(file: Path, channel: str = "", window: Window | None = None) -> np.ndarray:
    """A picture file as [H, W] float32, in the file's own units.

    Args:
        channel: ``"R"``, ``"G"`` or ``"B"`` of a colour picture; ``""`` takes luminance.
        window: (row, column, height, width) to cut, in pixels.
    """
    try:
        if is_array(file):
            pixels = read_array(file)
        else:
            with Image.open(file) as image:
                pixels = np.asarray(_grey(image, channel, file))
    except FileNotFoundError as error:
        raise CovtokenError(f"picture {file} is missing: restore it, or take its row out of the list") from error
    except (OSError, ValueError, UnidentifiedImageError) as error:
        raise _unreadable(file, error) from error
    if pixels.ndim != 2:
        raise CovtokenError(f"picture {file}: expected one slice [H, W], got shape {pixels.shape}; cut volumes first")
    if window is not None:
        row, column, height, width = window
        pixels = pixels[row : row + height, column : column + width]
    return pixels.astype(np.float32)


def size_of(file: Path) -> tuple[int, int]:
    """(H, W) of a picture file, from its header."""
    if is_array(file):
        return read_picture(file).shape
    try:
        with Image.open(file) as image:
            return image.height, image.width
    except FileNotFoundError as error:
        raise CovtokenError(f"picture {file} is missing: restore it, or take its row out of the list") from error
    except (OSError, UnidentifiedImageError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> CovtokenError:
    if _is_dicom(file):
        return CovtokenError(
            f"picture {file} is DICOM, and a folder's pictures are PNG, JPEG, TIFF, BMP, .npy or 2-D NIfTI: convert "
            "each slice, CT in Hounsfield units to .npy or NIfTI"
        )
    return CovtokenError(f"picture {file} cannot be read ({error}): it may be truncated; fetch it again")


def _is_dicom(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def is_array(file: Path) -> bool:
    """Whether the file is NumPy or NIfTI, which carry physical units."""
    return file.name.endswith((".npy", ".nii", ".nii.gz"))


def read_array(file: Path) -> np.ndarray:
    """The values of a .npy or NIfTI file, axes of length one dropped. Raises ValueError or OSError if unreadable."""
    if file.suffix == ".npy":
        return np.load(file, allow_pickle=False).squeeze()
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        return np.asarray(nibabel.load(file).dataobj).squeeze()
    except ImageFileError as error:
        raise ValueError(str(error)) from error


def _grey(image: Image.Image, channel: str, file: Path) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return image  # 16- or 32-bit grey: PIL's conversion to 8 bit would clip it
    if channel:
        bands = image.convert("RGB").split()
        if channel not in ("R", "G", "B"):
            raise CovtokenError(f"channel {channel!r} of {file}: choose R, G or B")
        return bands["RGB".index(channel)]
    return image.convert("L")
