"""Open the volumes of a cohort, with the cohort whose bank they are scored by; no mask is opened here.

Chest CT is scored by the bank of the lung windows (``lidc-crops``): pictures of 64 to 80 pixels of a slice, scaled to
8 bit crop by crop. So a slice is shown in windows of that side and on that grey scale, as gates see it
(``covtoken.data.readers.volume_cohorts``), and only in those places of the volume that show lung: which ones is decided
by their HU alone, the same for all slices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from covtoken.data.case import Case, Cohort, SlicedVolume
from covtoken.data.cohorts import open_cohort
from covtoken.data.phantoms import phantom_volume
from covtoken.data.readers.volume_cohorts import CROPS, LUNG_HU, WINDOW_PX
from covtoken.errors import CovtokenError, unknown
from covtoken.evaluation.lesion_volumes import read_lesion_volume

LUNG_SHARE = 0.1  # of a place's pixels, over the slices sampled
SAMPLED = 8  # slices of a volume


@dataclass(frozen=True)
class Source:
    """Volumes to evaluate.

    Attributes:
        volumes: in their order.
        bank: cohort whose bank split feeds the bank, and whose lock names the recipes.
        curated: how the volumes were chosen upstream, or "".
        region: what is shown of each slice.
    """

    volumes: tuple[SlicedVolume, ...]
    bank: str
    curated: str = ""
    region: str = "the whole slice"


def open_source(cohort: str, data: str | None = None) -> Source:
    """Open the volumes of a cohort by its name.

    Args:
        data: folder of the cohort, if not under ``COVTOKEN_DATA``.

    Raises:
        CovtokenError: a cohort without volumes, missing data, or a volume that shows no lung.
    """
    if cohort not in SOURCES:
        raise unknown("cohort of volumes", cohort, list(SOURCES))
    return SOURCES[cohort](data)


def _phantom(data: str | None) -> Source:
    if data is not None:
        raise CovtokenError(f"phantom volumes are drawn, not read: leave the data folder ({data}) out")
    return Source(phantom_volume.read(), "phantom")


def _chest(name: str, data: str | None) -> Source:
    cohort = open_cohort(name, data, region="windows", window_px=WINDOW_PX)
    region = f"windows of {WINDOW_PX} px where the volume shows lung, by HU alone, on the lung windows' grey scale"
    return Source(sliced(cohort), "lidc-crops", cohort.curated, region)


def sliced(cohort: Cohort) -> tuple[SlicedVolume, ...]:
    """Group the windows of a volume cohort by volume and slice, and keep the places that show lung.

    Raises:
        CovtokenError: a volume whose slices' distance is not known, or that shows no lung.
    """
    by_volume: dict[str, dict[int, list[Case]]] = defaultdict(lambda: defaultdict(list))
    for case in cohort.cases:  # sorted by name: in each slice the windows have one order
        by_volume[case.volume][case.slice_index].append(case)
    volumes = []
    for name, slices in sorted(by_volume.items()):
        first = slices[min(slices)][0]
        if first.slice_mm is None:
            raise CovtokenError(f"{first.source}: the distance between slices is not known, so nothing has a z in mm")
        places = lung_places([slices[at] for at in sorted(slices)])
        if not len(places):
            raise CovtokenError(f"volume {name!r} of {cohort.name} shows no lung: is it chest CT in Hounsfield units?")
        cases = tuple(replace(slices[at][place], organ=CROPS) for at in sorted(slices) for place in places)
        z_mm = tuple(at * first.slice_mm for at in sorted(slices))
        volumes.append(SlicedVolume(name, first.unit, cases, z_mm, partial(_lesions, cohort, name)))
    return tuple(volumes)


def lung_places(slices: list[list[Case]]) -> list[int]:
    """List the windows, by their place in a slice, that show lung in the slices sampled: blind to every mask."""
    step = max(1, len(slices) // SAMPLED)
    shares = [[_lung_share(case.pixels()) for case in windows] for windows in slices[step // 2 :: step]]
    return np.flatnonzero(np.mean(shares, axis=0) >= LUNG_SHARE).tolist()


def _lung_share(hu: np.ndarray) -> float:
    return float(((hu > LUNG_HU[0]) & (hu < LUNG_HU[1])).mean())


def _lesions(cohort: Cohort, volume: str) -> tuple[dict[int, float], Callable[[Case], np.ndarray]]:
    found = read_lesion_volume(cohort, volume)
    return {lesion.number: lesion.volume_mm3 for lesion in found.lesions}, found.numbers


SOURCES: dict[str, Callable[[str | None], Source]] = {
    "phantom": _phantom,
    "msd-task06": partial(_chest, "msd-task06"),
    "lidc-idri": partial(_chest, "lidc-idri"),
}
