"""Follow lesions through the slices of a volume: which 3-D lesion a pixel belongs to, and how large each is.

Retention in a volume counts lesions of three dimensions (book/method.md): a slice's piece of a lesion is no lesion.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from covtoken.data.case import Case, Cohort
from covtoken.data.masks import read_lesion_ids
from covtoken.errors import CovtokenError
from covtoken.leak_guard import refuse_labels


@dataclass(frozen=True)
class VolumeLesion:
    """A lesion of three dimensions.

    Attributes:
        number: from 1, within its volume.
        volume_mm3: of all its voxels, in slices that the cohort leaves out too.
        diameter_mm: of a ball of that volume.
    """

    number: int
    volume_mm3: float
    diameter_mm: float


@dataclass(frozen=True)
class LesionVolume:
    """The lesions of a volume.

    Attributes:
        volume: its name, as in ``Case.volume``.
        lesions: by number.
    """

    volume: str
    lesions: tuple[VolumeLesion, ...]
    _numbers: Callable[[Case], np.ndarray] = field(repr=False, compare=False)

    def numbers(self, case: Case) -> np.ndarray:
        """Give the lesion of each pixel of a case of this volume, [H, W] int32, cut as its picture; 0: none.

        Raises:
            LabelLeak: something label-free is being built.
            CovtokenError: the case is of another volume.
        """
        refuse_labels(f"the lesions of {case.name}")
        if case.volume != self.volume:
            raise CovtokenError(f"case {case.name!r} is of volume {case.volume!r}, these lesions of {self.volume!r}")
        return self._numbers(case)


def read_lesion_volume(cohort: Cohort, volume: str) -> LesionVolume:
    """Number the 3-D lesions of a volume: components that touch by a corner, or nodules as readers drew them (LIDC).

    Args:
        cohort: a volume cohort.
        volume: as in ``Case.volume``; ``volumes_of`` lists those of a unit.

    Raises:
        LabelLeak: something label-free is being built.
        CovtokenError: no such volume, its masks are missing or damaged, or its slices' distance is not known.
    """
    refuse_labels(f"the lesions of {volume}")
    case = next((case for case in cohort.cases if case.volume == volume and volume), None)
    if case is None:
        raise CovtokenError(f"cohort {cohort.name!r} has no volume {volume!r}: its cases name theirs, `case.volume`")
    if case.name not in cohort.masks:
        raise CovtokenError(f"cohort {cohort.name!r}: volume {volume!r} has no masks; it cannot be evaluated")
    if case.spacing_mm is None or case.slice_mm is None:
        raise CovtokenError(f"{case.source}: the distance between slices is not known, so no lesion has a size in mm")
    voxels, numbers = read_lesion_ids(cohort.masks[case.name])
    voxel_mm3 = math.prod(case.spacing_mm) * case.slice_mm
    lesions = tuple(
        VolumeLesion(number, count * voxel_mm3, (6 * count * voxel_mm3 / math.pi) ** (1 / 3))
        for number, count in sorted(voxels.items())
    )
    return LesionVolume(volume, lesions, lambda other: numbers(cohort.masks[other.name]))


def volumes_of(cohort: Cohort, unit: str) -> tuple[str, ...]:
    """List the volumes of a unit, sorted; a patient may have been scanned twice."""
    return tuple(sorted({case.volume for case in cohort.cases if case.unit == unit and case.volume}))
