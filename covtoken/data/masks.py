"""The one door to masks: every mask in covtoken is read here, and nowhere else, so that one guard holds for all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from covtoken.data.case import MaskRef
from covtoken.data.pictures import is_array, read_array
from covtoken.errors import CovtokenError
from covtoken.leak_guard import refuse_labels


def read_mask(ref: MaskRef) -> np.ndarray:
    """The mask, [H, W] bool, at its picture's native resolution (cut to ``ref.window`` where one is given).

    Raises:
        LabelLeak: something label-free is being built.
        CovtokenError: a file is missing, unreadable or of another size than its picture.
    """
    refuse_labels(f"the mask {ref.key or ', '.join(str(file) for file in ref.files)}")
    if ref.kind == "empty":
        mask = np.zeros(_size_in(ref.key), dtype=bool)
    elif ref.kind == "phantom":
        from covtoken.data import phantom  # phantom imports case, as this module does: late, to keep import order free

        mask = phantom.mask_of(ref.key)
    elif ref.kind in ("png", "votes"):
        mask = _any_of(ref)
    else:
        raise CovtokenError(
            f"mask of {ref.picture or ref.files}: unknown kind {ref.kind!r}; known: png, votes, phantom"
        )
    if ref.window is None:
        return mask
    row, column, height, width = ref.window
    return mask[row : row + height, column : column + width]


def _any_of(ref: MaskRef) -> np.ndarray:
    if not ref.files:
        raise CovtokenError(f"mask of {ref.picture or 'a case'}: kind {ref.kind!r} needs at least one file")
    mask = None
    for file in ref.files:
        part = _pixels(file) >= ref.at_least
        size = ref.size if ref.size is not None else (None if mask is None else mask.shape)
        if size is not None and part.shape != tuple(size):
            beside = ref.picture or ref.files[0]
            raise CovtokenError(
                f"mask {file} is {part.shape[0]}×{part.shape[1]} pixels, its picture {beside} is {size[0]}×{size[1]}: "
                "they must be the same size; export the mask again from the picture"
            )
        mask = part if mask is None else mask | part
    return mask


def _pixels(file: Path) -> np.ndarray:
    """Pixel values [H, W] of a mask file: PNG or any PIL format (colour: brightest channel), NumPy or 2-D NIfTI."""
    try:
        if is_array(file):
            values = read_array(file)
        else:
            with Image.open(file) as image:
                if image.mode in ("LA", "RGBA", "CMYK", "YCbCr"):
                    image = image.convert("RGB")  # an opaque alpha channel is not a mask
                values = np.asarray(image)
                values = values.max(axis=-1) if values.ndim == 3 else values
    except FileNotFoundError as error:
        raise CovtokenError(f"mask file {file} is missing: restore it, or leave its case out") from error
    except (OSError, ValueError, UnidentifiedImageError) as error:
        raise CovtokenError(
            f"mask file {file} cannot be read ({error}): it may be truncated; fetch it again"
        ) from error
    if values.ndim != 2:
        raise CovtokenError(f"mask file {file}: expected [H, W], got shape {values.shape}")
    return values


def _size_in(key: str) -> tuple[int, int]:
    height, _, width = key.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise CovtokenError(f"an empty mask needs its size as 'HxW' in pixels, got {key!r}")
    return int(height), int(width)
