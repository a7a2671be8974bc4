"""Chest CT for the study of volumes: windows in order, only where there is lung, and never by a mask."""

from functools import partial

import numpy as np
import pytest

from covtoken.data.case import Case, Cohort
from covtoken.errors import CovtokenError
from covtoken.leak_guard import construction
from covtoken.studies import volume_sources
from covtoken.studies.volume_sources import lung_places, sliced

AIR, LUNG, BODY = -1000.0, -800.0, 40.0


def _cohort(values, n_slices=3, slice_mm=2.5, volume="v"):
    """A volume of slices with a window for each value in HU."""
    cases = [
        Case(
            f"{volume}_z{at:02}_r0000c{place:04}",
            "patient",
            "ct",
            partial(np.full, (6, 6), value),
            slice_index=at,
            volume=volume,
            slice_mm=slice_mm,
        )
        for at in range(n_slices)
        for place, value in enumerate(values)
    ]
    return Cohort("chest", "ct", tuple(sorted(cases, key=lambda case: case.name)), {})


def test_only_places_with_lung_are_shown_in_one_order():
    with construction("a choice of windows"):  # no mask is asked for
        (volume,) = sliced(_cohort([AIR, LUNG, BODY, LUNG]))
    assert volume.n_windows == 2 and volume.z_mm == (0.0, 2.5, 5.0) and volume.unit == "patient"
    assert {case.organ for case in volume.cases} == {"lung-crops"}  # the grey scale of the bank that scores them
    assert [(case.slice_index, case.name[-1]) for case in volume.cases] == [(at, p) for at in range(3) for p in "13"]


def test_a_place_is_judged_over_the_volume_so_that_slices_stay_alike():
    def windows(values):
        return [Case(str(v), "u", "ct", partial(np.full, (2, 2), v)) for v in values]

    slices = [windows([LUNG, BODY]), windows([BODY, BODY]), windows([BODY, BODY])]
    assert lung_places(slices) == [0]  # a third of the slices is more than a tenth
    assert lung_places(slices[1:]) == []


def test_volumes_of_a_cohort_are_kept_apart():
    both = (*_cohort([LUNG], volume="b").cases, *_cohort([BODY, LUNG], volume="a").cases)
    first, second = sliced(Cohort("chest", "ct", both, {}))
    assert (first.name, first.n_windows, second.name, second.n_windows) == ("a", 1, "b", 1)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(CovtokenError, match="shows no lung"):
        sliced(_cohort([AIR, BODY]))
    with pytest.raises(CovtokenError, match="distance between slices"):
        sliced(_cohort([LUNG], slice_mm=None))


def test_lesions_of_a_decathlon_volume_lie_in_its_windows(covtoken_data):
    if not list(covtoken_data.glob("Task06_Lung*")):
        pytest.skip("no Task06_Lung under COVTOKEN_DATA")
    source = volume_sources.open_source("msd-task06")
    assert source.bank == "lidc-crops" and "lung" in source.region
    volume = min(source.volumes, key=lambda volume: len(volume.cases))
    sizes, numbers = volume.lesions()
    held = np.zeros(max(sizes) + 1, dtype=int)
    for case in volume.cases:
        held += np.bincount(numbers(case).ravel(), minlength=len(held))
    assert sizes and (held[1:] > 0).any() and numbers(volume.cases[0]).shape == volume.cases[0].pixels().shape
