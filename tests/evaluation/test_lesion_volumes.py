"""3-D lesions: numbered through slices, in mm, whatever part of the volume a cohort shows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from stub_volumes import SHAPE, SPACING, decathlon, kits, write

from covtoken.data.case import Case, Cohort
from covtoken.data.cohorts import open_cohort
from covtoken.data.masks import read_mask
from covtoken.data.readers import kits23, msd
from covtoken.errors import CovtokenError
from covtoken.evaluation.lesion_volumes import read_lesion_volume, volumes_of
from covtoken.leak_guard import LabelLeak, construction

VOXEL_MM3 = math.prod(SPACING)


@pytest.fixture
def labels():
    """Two lesions: one of 5 voxels whose halves meet at a corner between slices, one of a single voxel."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3, 1:3, 1] = 2
    labels[3, 3, 2] = 2
    labels[5, 7, 4] = 2
    labels[3, 4, 4] = 1  # organ
    return labels


@pytest.mark.parametrize("layout", ["decathlon", "kits"])
def test_voxels_that_touch_by_a_corner_are_one_lesion(tmp_path, labels, layout):
    if layout == "kits":
        root = kits(tmp_path, (0,))
        write(root / "case_00000" / "segmentation.nii.gz", labels, "IPL")
        cohort, volume = kits23.read(root), "case_00000"
    else:
        root = decathlon(tmp_path)
        write(root / "labelsTr" / "liver_0.nii.gz", labels)
        cohort, volume = msd.read(root), "liver_0"
    assert volumes_of(cohort, volume) == (volume,)
    found = read_lesion_volume(cohort, volume)
    assert sorted(lesion.volume_mm3 for lesion in found.lesions) == pytest.approx([VOXEL_MM3, 5 * VOXEL_MM3])
    for lesion in found.lesions:
        assert math.pi / 6 * lesion.diameter_mm**3 == pytest.approx(lesion.volume_mm3)
    maps = [found.numbers(case) for case in cohort.cases]
    for case, numbers in zip(cohort.cases, maps):
        assert np.array_equal(numbers > 0, read_mask(cohort.masks[case.name]))
    large = next(lesion.number for lesion in found.lesions if lesion.volume_mm3 > VOXEL_MM3)
    assert [int((numbers == large).sum()) for numbers in maps] == [0, 4, 1, 0, 0]
    assert set(np.unique(maps[4])) == {0, 3 - large}


def test_a_lesion_keeps_size_and_number_in_a_part_of_the_volume(tmp_path, labels):
    root = decathlon(tmp_path)
    write(root / "labelsTr" / "liver_0.nii.gz", labels)
    whole = read_lesion_volume(msd.read(root), "liver_0")
    cut = msd.read(root, every=2, region="windows", window_px=3)
    found = read_lesion_volume(cut, "liver_0")
    assert found.lesions == whole.lesions
    seen = set()
    for case in cut.cases:
        numbers = found.numbers(case)
        assert numbers.shape == case.pixels().shape
        assert np.array_equal(numbers > 0, read_mask(cut.masks[case.name]))
        seen |= set(np.unique(numbers).tolist())
    assert seen == {0, 1, 2}


def test_a_volume_without_lesions_and_names_that_do_not_exist(tmp_path, labels):
    root = decathlon(tmp_path)
    write(root / "labelsTr" / "liver_0.nii.gz", np.minimum(labels, 1))
    cohort = msd.read(root)
    found = read_lesion_volume(cohort, "liver_0")
    assert found.lesions == () and not any(found.numbers(case).any() for case in cohort.cases)
    assert found.numbers(cohort.cases[0]).shape == cohort.cases[0].pixels().shape
    with pytest.raises(CovtokenError, match="no volume 'liver_9'"):
        read_lesion_volume(cohort, "liver_9")
    with pytest.raises(CovtokenError, match="is of volume ''"):
        found.numbers(Case("x", "x", "ct", lambda: np.zeros((2, 2))))
    bare = Cohort("bare", "ct", cohort.cases, {})
    with pytest.raises(CovtokenError, match="no masks"):
        read_lesion_volume(bare, "liver_0")


def test_lesions_stay_shut_in_construction(tmp_path):
    cohort = msd.read(decathlon(tmp_path))
    found = read_lesion_volume(cohort, "liver_0")
    with construction("a bank"):
        for read in (lambda: read_lesion_volume(cohort, "liver_0"), lambda: found.numbers(cohort.cases[3])):
            with pytest.raises(LabelLeak, match="lesions of"):
                read()


def test_pictures_are_no_volumes():
    cohort = open_cohort("phantom", n=2)
    assert volumes_of(cohort, cohort.units[0]) == ()
    with pytest.raises(CovtokenError, match="no volume ''"):
        read_lesion_volume(cohort, "")


def test_real_nodule(covtoken_data):
    if not (covtoken_data / "LIDC-IDRI" / "LIDC-IDRI-0314").is_dir():
        pytest.skip("no LIDC-IDRI-0314 under COVTOKEN_DATA")
    cohort = open_cohort("lidc-idri", every=3)
    (lesion,) = read_lesion_volume(cohort, "LIDC-IDRI-0314").lesions
    assert 10 < lesion.diameter_mm < 25
