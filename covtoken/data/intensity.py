"""Convert physical units to a backbone's input (``FrozenViT.input``), fixed per modality and organ, never per image."""

from __future__ import annotations

import numpy as np

from covtoken.data.case import Case
from covtoken.errors import CovtokenError, unknown

# (lowest, highest) HU. Usual windows, level/width: lung -600/1500, abdomen and mediastinum 40/400, liver 50/300,
# kidney 80/400, pancreas 60/320. Fixed, so that one grey level means one tissue in every picture of a cohort.
WINDOWS_HU: dict[str, tuple[float, float]] = {
    "lung": (-1350.0, 150.0),
    "lung-crops": (-1000.0, 1200.0),  # on which lung and tissue are as grey as in the lung windows, scaled by crop
    "abdomen": (-160.0, 240.0),
    "liver": (-100.0, 200.0),
    "kidney": (-120.0, 280.0),
    "pancreas": (-100.0, 220.0),
    "mediastinum": (-160.0, 240.0),
}

INPUT_RANGE: dict[str, tuple[float, float]] = {"unit": (0.0, 1.0), "hu": (-1000.0, 1000.0)}
"""Kinds of input and the range that each is clipped to."""


def to_input(pixels: np.ndarray, case: Case, kind: str = "unit") -> np.ndarray:
    """Convert pixels [H, W] in physical units to float32 [H, W] of a kind of input, ``"unit"`` or ``"hu"``.

    Raises:
        CovtokenError: as ``to_unit_range`` and ``check_input``.
    """
    check_input(case, kind)
    if kind == "unit":
        return to_unit_range(pixels, case)
    return np.clip(np.asarray(pixels, dtype=np.float32), *INPUT_RANGE["hu"])


def check_input(case: Case, kind: str) -> None:
    """Refuse a case that a backbone of this kind cannot take: an 8-bit picture has no Hounsfield units."""
    if kind not in INPUT_RANGE:
        raise unknown("kind of backbone input", kind, list(INPUT_RANGE))
    if kind == "hu" and case.modality != "ct":
        raise CovtokenError(
            f"{case.source or case.name}: this backbone takes CT in Hounsfield units, and {case.modality} pictures are "
            "8 bit, from which HU cannot be had back; use a cohort of modality 'ct' or another backbone"
        )


def to_unit_range(pixels: np.ndarray, case: Case) -> np.ndarray:
    """Convert pixels [H, W] to float32 in [0, 1]: 8-bit pictures by 255, HU by the window of ``case.organ``, clipped.

    Raises:
        CovtokenError: HU without a known organ, or an "8-bit" picture with values outside 0…255.
    """
    pixels = np.asarray(pixels, dtype=np.float32)
    if case.modality == "ct":
        if case.organ not in WINDOWS_HU:
            raise unknown(f"organ of CT case {case.name!r} (it names the HU window)", case.organ, list(WINDOWS_HU))
        low, high = WINDOWS_HU[case.organ]
        return np.clip((pixels - low) / (high - low), 0.0, 1.0)
    if pixels.min() < 0 or pixels.max() > 255:
        raise CovtokenError(
            f"{case.source or case.name}: {case.modality} pictures are 0…255, got {pixels.min():g}…{pixels.max():g}; "
            "save 16-bit pictures as 8 bit on one scale for all; for CT in HU set modality 'ct' and an organ"
        )
    return pixels / np.float32(255.0)
