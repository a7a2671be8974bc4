"""Read picture files: PNG, JPEG, TIFF and BMP by PIL; NumPy and 2-D NIfTI, which carry Hounsfield units."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from covtoken.errors import CovtokenError

Window = tuple[int, int, int, int]

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")  # of PIL: no other decoder is ever started
KNOWN = "PNG, JPEG, TIFF, BMP, .npy or 2-D NIfTI"
MOST_PIXELS = 13_000**2  # a picture of more is refused by name

_opening = threading.Lock()

_STARTS = {
    b"\x89PNG": "PNG",
    b"\xff\xd8": "JPEG",
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0"), "TIFF"),
    b"BM": "BMP",
    b"\x93NUMPY": "NumPy",
    b"\x1f\x8b": "gzip",
    b"GIF8": "GIF",
    **dict.fromkeys((b"%!PS", b"\xc5\xd0\xd3\xc6"), "EPS"),
    b"%PDF": "PDF",
    b"RIFF": "WebP",
    b"PK": "a zip archive (.npz is one)",
}


def read_picture(file: Path, channel: str = "", window: Window | None = None) -> np.ndarray:
    """Read a picture file as [H, W] float32, in the file's own units.

    Args:
        channel: ``"R"``, ``"G"`` or ``"B"`` of a colour picture; ``""`` takes luminance.
        window: (row, column, height, width) to cut, in pixels.

    Raises:
        CovtokenError: the file is missing, may not be read, is of another format, truncated, too large, holds more
            than one picture, or no numbers.
    """
    if is_array(file):
        pixels = read_array(file, "picture")
    else:
        with open_image(file, "picture") as image:
            pixels = np.asarray(_grey(image, channel, file))
    if window is not None:
        row, column, height, width = window
        pixels = pixels[row : row + height, column : column + width]
    return pixels.astype(np.float32)


def size_of(file: Path) -> tuple[int, int]:
    """Give (H, W) of a picture file, from its header where PIL reads it; raise as ``read_picture``."""
    if is_array(file):
        return read_array(file, "picture").shape
    with open_image(file, "picture") as image:
        return image.height, image.width


def is_array(file: Path) -> bool:
    """Say whether the file is NumPy or NIfTI, which carry physical units."""
    return file.name.lower().endswith((".npy", ".nii", ".nii.gz"))


def read_array(file: Path, what: str) -> np.ndarray:
    """Read the numbers [H, W] of a .npy or NIfTI file without axes of length one; judge its header first.

    Args:
        what: ``"picture"`` or ``"mask file"``, for the error.
    """
    with reading(file, what):
        if file.name.lower().endswith(".npy"):
            with file.open("rb") as stream:
                _check_header(file, what, *npy_header(stream))
                stream.seek(0)
                return np.load(stream, allow_pickle=False).squeeze()
        import nibabel

        image = nibabel.load(file)
        _check_header(file, what, image.shape, image.get_data_dtype())
        return np.asarray(image.dataobj).squeeze()


@contextmanager
def open_image(file: Path, what: str) -> Iterator[Image.Image]:
    """Open a file of one picture with PIL; errors of the decoder in the block name the file.

    Args:
        what: ``"picture"`` or ``"mask file"``, for the error.
    """
    with reading(file, what), _opened(file) as image:
        _check_area(file, what, (image.height, image.width))
        pages = getattr(image, "n_frames", 1)
        if pages > 1:
            raise CovtokenError(
                f"{what} {file} holds {pages} pages or frames, and one picture is expected: save the one that is meant "
                "as a file of its own"
            )
        yield image


@contextmanager
def reading(file: Path, what: str) -> Iterator[None]:
    """Turn a decoder's error in the block into a CovtokenError that names the file and the way out."""
    try:
        yield
    except CovtokenError:
        raise
    except Exception as error:  # decoders raise nearly anything on a damaged file
        raise _unreadable(file, what, error) from error


def _opened(file: Path) -> Image.Image:
    with _opening:  # MOST_PIXELS holds instead of PIL's limit, which warns and fails in its own words
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _unreadable(file: Path, what: str, error: Exception) -> CovtokenError:
    named = f"{what} {file}"
    if isinstance(error, FileNotFoundError):
        return CovtokenError(f"{named} is missing: restore it, or leave its case out")
    if isinstance(error, PermissionError):
        return CovtokenError(f"{named} may not be read (permission denied): give yourself the right to read it")
    if isinstance(error, OSError) and error.errno is not None:
        return CovtokenError(f"{named} cannot be opened ({error.strerror}): check its path")
    holds, suffix = _format_of(file), file.suffix.lower()
    expected = {".npy": ("NumPy",), ".nii": ("NIfTI",), ".gz": ("gzip",)}.get(suffix, FORMATS)
    if holds == "nothing":
        return CovtokenError(f"{named} is empty (0 bytes): fetch it again")
    if holds == "DICOM":
        return CovtokenError(
            f"{named} is DICOM, and a folder's pictures and masks are {KNOWN}: convert each slice, CT in Hounsfield "
            "units to .npy or NIfTI"
        )
    if holds in expected:
        line = " ".join(str(error).split())
        reason = "its header asks for more memory than there is" if isinstance(error, MemoryError) else line
        return CovtokenError(f"{named} cannot be read ({reason}): it is truncated or damaged; fetch it again")
    if holds in (*FORMATS, "NumPy", "NIfTI"):
        return CovtokenError(f"{named} holds {holds}, which its name does not say: rename it")
    looks = f"looks like {holds}" if holds else "is of no known format"
    return CovtokenError(f"{named} {looks}, and pictures and masks are {KNOWN}: convert it")


def _format_of(file: Path) -> str:
    """Name a file's format by its first bytes; "" if they say nothing."""
    try:
        with file.open("rb") as stream:
            head = stream.read(352)
    except OSError:
        return ""
    if not head:
        return "nothing"
    if head[128:132] == b"DICM":
        return "DICOM"
    if head[344:347] in (b"n+1", b"ni1"):
        return "NIfTI"
    return next((name for start, name in _STARTS.items() if head.startswith(start)), "")


def npy_header(stream) -> tuple[tuple[int, ...], np.dtype]:
    """Read shape and type from a .npy file's header; raise EOFError where fewer bytes follow."""
    first = np.lib.format.read_magic(stream) == (1, 0)
    # A third version exists for named fields alone, which the reader of the second refuses.
    read_header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    follow, promised = os.fstat(stream.fileno()).st_size - stream.tell(), math.prod(shape) * dtype.itemsize
    if follow < promised and not dtype.hasobject:
        raise EOFError(f"its header promises {promised} bytes, and {follow} follow")
    return shape, dtype


def _check_header(file: Path, what: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Refuse an array that is no slice of numbers, before it is loaded."""
    if dtype.kind not in "biuf":
        raise CovtokenError(f"{what} {file} cannot be read as numbers: it holds values of type {dtype}; save it anew")
    _check_area(file, what, shape)
    if sum(side != 1 for side in shape) != 2:
        raise CovtokenError(f"{what} {file}: expected one slice [H, W], got shape {shape}; cut volumes first")


def _check_area(file: Path, what: str, shape: tuple[int, ...]) -> None:
    if math.prod(shape) > MOST_PIXELS:
        raise CovtokenError(
            f"{what} {file} is {'×'.join(map(str, shape))} pixels, and {MOST_PIXELS} are the most that is read: scale "
            "it down, picture and mask alike"
        )


def _grey(image: Image.Image, channel: str, file: Path) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return image  # 16- or 32-bit grey: PIL's conversion to 8 bit would clip it
    if channel:
        bands = image.convert("RGB").split()
        if channel not in ("R", "G", "B"):
            raise CovtokenError(f"channel {channel!r} of {file}: choose R, G or B")
        return bands["RGB".index(channel)]
    return image.convert("L")
