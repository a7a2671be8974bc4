"""Define cases and cohorts: pictures in physical units, each with its unit and where its mask lies (unopened)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from covtoken.data.pictures import Window
from covtoken.data.regions import BodyBox
from covtoken.errors import CovtokenError
from covtoken.leak_guard import refuse_labels

MODALITIES = ("ultrasound", "ct", "ct8")
DIAGNOSES = ("benign", "malignant", "normal")
_TELLING = frozenset({"kind", "files", "key", "diagnosis"})  # attributes of a MaskRef that tell a case's label


@dataclass(frozen=True)
class LabelSlice:
    """A slice of a label volume: where it lies, and what the volume's values mean. It is the same for every lesion.

    Attributes:
        index, axis: as in ``covtoken.data.volumes.VolumeSlice``.
        inside: the values that are lesion (or organ).
        known: all values that the task has; any other is an error.
    """

    index: int
    axis: int
    inside: tuple[int, ...]
    known: tuple[int, ...]


@dataclass(frozen=True)
class MaskRef:
    """A mask's place and how to read it. It cannot open anything: only ``covtoken.data.masks`` can.

    Inside ``construction`` its ``kind``, ``files``, ``key`` and ``diagnosis`` raise ``LabelLeak``: they tell which case
    is free of lesions, or what its lesion is. It can still be pickled there.

    Attributes:
        kind: ``"png"`` (files of any format, OR-ed), ``"nifti"`` (a slice of a label volume), ``"lidc"`` (a slice of
            the readers' contours), ``"phantom"`` (drawn from ``key``) or ``"empty"`` (no lesion).
        files: read only through the mask door.
        key: input of a generator that needs no files; the slice's SOP UID for ``"lidc"``.
        at_least: smallest pixel value inside; None: the mask is black (0) with one other value.
        lesion_value: the pixel value inside, whatever others there are; None: as ``at_least`` says.
        labels: which slice of a label volume this is, and what its values mean.
        window: what is cut from mask and picture alike: (row, column, height, width) in pixels, or the body's box;
            None: nothing is cut.
        size: (H, W) of the whole picture where the reader knows it; a mask of another size is refused.
        picture: the picture's file, for that refusal.
        diagnosis: one of ``DIAGNOSES`` as the data set gives it for the picture, or ``""`` where it gives none; read it
            through ``covtoken.evaluation.diagnosis``.
    """

    kind: str
    files: tuple[Path, ...] = ()
    key: str = ""
    at_least: float | None = None
    lesion_value: float | None = None
    labels: LabelSlice | None = None
    window: Window | BodyBox | None = None
    size: tuple[int, int] | None = None
    picture: str = ""
    diagnosis: str = ""

    def __getattribute__(self, name: str):
        if name in _TELLING:
            refuse_labels(f"the {name} of a mask reference")
        return object.__getattribute__(self, name)


@dataclass(frozen=True)
class Case:
    """A picture. ``load`` gives [H, W] float32 in physical units (HU for CT; 0–255 for 8-bit pictures).

    Attributes:
        name: unique within the cohort, also the name in splits and reports.
        unit: the patient, or the near-duplicate group where patients are unknown.
        modality: one of ``MODALITIES``: ``"ultrasound"``, ``"ct"`` (HU) or ``"ct8"`` (CT already windowed to 8 bit).
        load: picklable, takes nothing.
        source: the file or generator key, for error messages.
        spacing_mm: (row, column) pixel spacing in mm, or None where unknown.
        slice_index: position in a volume, or None.
        organ: names the HU window (``covtoken.data.intensity``).
        volume: name of the volume that the slice is cut from, or "".
        slice_mm: distance between neighbouring slices of that volume in mm, or None.
    """

    name: str
    unit: str
    modality: str
    load: Callable[[], np.ndarray] = field(repr=False, compare=False)
    source: str = ""
    spacing_mm: tuple[float, float] | None = None
    slice_index: int | None = None
    organ: str = ""
    volume: str = ""
    slice_mm: float | None = None

    def pixels(self) -> np.ndarray:
        """Load the picture, [H, W] float32, physical units.

        Raises:
            CovtokenError: the file is missing, unreadable, not two-dimensional or holds NaN.
        """
        pixels = np.asarray(self.load(), dtype=np.float32)
        if pixels.ndim != 2 or 0 in pixels.shape:
            raise CovtokenError(f"{self.source or self.name}: expected a picture [H, W], got shape {pixels.shape}")
        if not np.isfinite(pixels).all():
            raise CovtokenError(
                f"{self.source or self.name}: the picture holds NaN or infinite values; repair it first"
            )
        return pixels


def picture_digest(pixels: np.ndarray) -> str:
    """Hash a picture's shape and float32 values (sha256), to name it in caches and keyed hashes."""
    pixels = np.ascontiguousarray(pixels, dtype=np.float32)
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


@dataclass(frozen=True)
class Cohort:
    """Cases of a data set, with mask and organ references by case name, kept apart from the pictures.

    Attributes:
        name: as in ``configs/splits/<name>.json`` and ``gate_reports/<name>/``.
        modality: decides the recipe cohort of small cohorts.
        cases: sorted by name.
        masks: lesion masks by case name.
        organs: organ masks by case name, of all, some or no cases.
        curated: upstream curation that a table must mention, or "".
        left_out: (file, reason) where the reader skipped a file.
    """

    name: str
    modality: str
    cases: tuple[Case, ...]
    masks: dict[str, MaskRef] = field(repr=False)
    organs: dict[str, MaskRef] = field(default_factory=dict, repr=False)
    curated: str = ""
    left_out: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.cases:
            raise CovtokenError(f"cohort {self.name!r} holds no case: check the folder and its layout (data_cards/)")
        names = [case.name for case in self.cases]
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if twice:
            raise CovtokenError(f"cohort {self.name!r}: case names occur twice: {', '.join(twice[:5])}")

    @cached_property
    def units(self) -> tuple[str, ...]:
        """Distinct units, sorted."""
        return tuple(sorted({case.unit for case in self.cases}))

    def subset(self, units: Sequence[str]) -> tuple[Case, ...]:
        """Choose the cases of some units, in the cohort's order."""
        wanted = set(units)
        return tuple(case for case in self.cases if case.unit in wanted)
