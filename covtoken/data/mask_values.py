"""Tell a mask's marked pixels: black (0) with one other value where the lesion is; refuse anything else by name."""

from __future__ import annotations

import numpy as np

from covtoken.errors import CovtokenError

FULL = 0.9  # share of a picture above which a mask is worth a warning: it may be inverted
SHOWN = 4  # values or colours that an error names


def inside(
    values: np.ndarray, what: str, way_out: str, at_least: float | None = None, lesion_value: float | None = None
) -> tuple[np.ndarray, float | None]:
    """Tell which pixels of a mask [H, W] are marked.

    Args:
        what: names the mask, and begins the error.
        way_out: ends the error of a mask that holds several values.
        at_least: pixels of this value or more are marked.
        lesion_value: pixels of this value are marked. Without either the mask holds 0 and one positive value.

    Returns:
        [H, W] bool, and the value beside 0; None where none is marked, an option told, or the mask is boolean.

    Raises:
        CovtokenError: the mask is not [H, W], holds no real numbers, NaN, negative values or several values.
    """
    values = np.asarray(values)
    if values.ndim != 2 or 0 in values.shape:
        raise CovtokenError(f"{what}: expected a mask [H, W], got shape {values.shape}")
    if values.dtype == bool:
        marked = values.view(np.uint8) != 0  # PIL's 1-bit pictures hold the byte 255 for True
        return (~marked if lesion_value == 0 else marked), None
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        held = f"values of type {values.dtype}" if values.dtype.kind not in "iuf" else "NaN or infinite values"
        raise CovtokenError(f"{what} holds {held}: a mask holds real numbers; save it anew")
    if lesion_value is not None:
        return values == lesion_value, None
    if at_least is not None:
        return values >= at_least, None
    marked, top = values != 0, values.max()
    if top < 0 or (marked & (values != top)).any():
        raise CovtokenError(
            f"{what} holds the values {_listed([f'{v:g}' for v in np.unique(values).tolist()])}: a mask is black (0) "
            f"with one other value where the lesion is. {way_out}"
        )
    return marked, float(top) if top else None


def brightest(colour: np.ndarray, alpha: np.ndarray | None, what: str, shades: bool = False) -> tuple[np.ndarray, str]:
    """Tell the brightest channel of a colour mask, [H, W] uint8, and its one colour ("" where it is grey).

    Args:
        colour: [H, W, 3] uint8.
        alpha: [H, W] uint8, or None; where it is the same everywhere it says nothing.
        what: names the mask in the error.
        shades: accept several colours, since a threshold will tell.

    Raises:
        CovtokenError: several colours beside black, or a mask that only the alpha channel shows.
    """
    red, green, blue = (np.ascontiguousarray(colour[..., channel]) for channel in range(3))
    is_grey = np.array_equal(red, green) and np.array_equal(red, blue)
    packed = red if is_grey else red.astype(np.uint32) << 16 | green.astype(np.uint32) << 8 | blue
    if alpha is not None and alpha.min() != alpha.max() and (packed.min() == packed.max() or packed[alpha == 0].any()):
        raise CovtokenError(
            f"{what} is drawn in its alpha channel, whose transparent pixels are no background here: save it as black "
            "and white without transparency"
        )
    if is_grey:
        return red, ""
    values = np.maximum(np.maximum(red, green), blue)
    top = packed.max()
    name = str((int(top >> 16), int(top >> 8 & 255), int(top & 255)))
    if shades or ((packed == 0) | (packed == top)).all():
        return values, name
    colours = [str((c >> 16, c >> 8 & 255, c & 255)) for c in np.unique(packed[packed != 0]).tolist()]
    raise CovtokenError(
        f"{what} holds the colours {_listed(colours)} beside black: save the lesion alone as black and white, or take "
        "whatever is bright enough by `mask_at_least=128` (an option of open_cohort, or a column of index.csv)"
    )


def _listed(names: list[str]) -> str:
    if len(names) <= SHOWN + 2:
        return ", ".join(names)
    return f"{', '.join(names[:SHOWN])}, …, {names[-1]} ({len(names)} in all)"
