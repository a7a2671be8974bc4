"""Decide, once for a whole run, what a stored value means, so that one grey level is one grey level in every picture.

--window LOW HIGH    black and white are these two stored values
CT in HU             the fixed window of --organ (``covtoken.data.intensity``)
8 bit                0 … 255
16 bit               0 … the smallest of 255, 1023, 4095, 16383 and 65535 that holds every value of the run
floats               0 … 1 where all of the run lie there, else 0 … 255
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from covtoken.data.case import Case
from covtoken.data.intensity import WINDOWS_HU
from covtoken.errors import CovtokenError, unknown

MODALITIES = ("ultrasound", "ct")
_TOPS = {"16 bit": (255, 1023, 4095, 16383, 65535), "float": (1, 255)}


@dataclass(frozen=True)
class Grey:
    """How stored values of a run are read.

    Attributes:
        modality: ``ultrasound``, ``ct`` or "" where nobody said.
        organ: names the HU window.
        window: (black, white) in stored values; None: as the module says.
        tops: white of 16-bit and of float pictures, once they are known.
    """

    modality: str = ""
    organ: str = ""
    window: tuple[float, float] | None = None
    tops: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.modality and self.modality not in MODALITIES:
            raise unknown("modality", self.modality, list(MODALITIES))
        if self.organ and self.organ not in WINDOWS_HU:
            raise unknown("organ (it names the HU window)", self.organ, list(WINDOWS_HU))
        if self.window is not None and not -1e9 < self.window[0] < self.window[1] < 1e9:
            low, high = self.window
            raise CovtokenError(f"window {low:g} {high:g}: expected two numbers, black below white, such as -160 240")

    def case(self, stored: str, load: Callable[[], np.ndarray], **about) -> Case:
        """Make the Case of a slice.

        Args:
            stored: ``8 bit``, ``16 bit``, ``float`` or ``other`` (HU where the modality is CT).
            load: gives [H, W] in stored values.
            about: fields of the Case: name, unit, source, spacing_mm, ….

        Raises:
            CovtokenError: nobody said what the values mean.
        """
        source = about.get("source") or about["name"]
        if self.window is not None:
            return Case(modality="ct8", load=partial(_scaled, load, *self.window, source), **about)
        if self.modality == "ct" and stored != "8 bit":
            if not self.organ:
                raise CovtokenError(
                    f"{source}: CT is read through a fixed HU window: name it with --organ "
                    f"({', '.join(WINDOWS_HU)}) or give --window LOW HIGH"
                )
            return Case(modality="ct", load=load, organ=self.organ, **about)
        if stored == "other":
            raise CovtokenError(
                f"{source}: nothing says what its values mean: add --modality ct --organ lung (or another organ) for "
                "HU, else --window LOW HIGH with the values of black and white"
            )
        if stored == "8 bit":
            return Case(modality="ct8" if self.modality == "ct" else "ultrasound", load=load, **about)
        return Case(modality="ct8", load=partial(_scaled, load, 0, self.tops.get(stored, 255), source), **about)

    def with_tops(self, highest: dict[str, float], lowest: dict[str, float]) -> Grey:
        """Fix the white of 16-bit and float pictures by the highest value of the run.

        >>> Grey().with_tops({"16 bit": 3000.0}, {"16 bit": 0.0}).tops
        {'16 bit': 4095}
        """
        tops = {}
        for stored, value in highest.items():
            if lowest[stored] < 0 or value > _TOPS[stored][-1]:
                raise CovtokenError(
                    f"{stored} pictures hold {lowest[stored]:g} … {value:g}: give --window LOW HIGH with the values of "
                    "black and white, or --modality ct --organ … for HU"
                )
            tops[stored] = next(top for top in _TOPS[stored] if value <= top)
        return replace(self, tops=tops)

    def to_json(self) -> dict:
        """Give what decides a grey level, for records."""
        window = None if self.window is None else list(self.window)
        return {"modality": self.modality or None, "organ": self.organ or None, "window": window, "tops": self.tops}


def _scaled(load: Callable[[], np.ndarray], low: float, high: float, source: str | Path) -> np.ndarray:
    values = np.asarray(load(), dtype=np.float32)
    if not np.isfinite(values).all():
        raise CovtokenError(f"{source}: the picture holds NaN or infinite values; repair it first")
    return np.clip((values - low) * (255 / (high - low)), 0, 255)
