"""KiTS23: folders with gaps, slices along the file's first axis, pictures that a command of its own fetches."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from stub_volumes import SHAPE, SPACING, canonical, kits, write

from covtoken.data.cohorts import open_cohort
from covtoken.data.masks import read_mask
from covtoken.data.readers import kits23
from covtoken.errors import CovtokenError


def test_folders_are_listed_not_counted(tmp_path):
    cohort = kits23.read(kits(tmp_path / "dataset", (0, 3, 588)))
    assert cohort.units == ("case_00000", "case_00003", "case_00588")
    pixels, labels = canonical()
    for case in cohort.subset(["case_00003"]):
        assert (case.organ, case.spacing_mm, case.slice_mm) == ("kidney", (SPACING[1], SPACING[0]), SPACING[2])
        assert np.array_equal(case.pixels(), pixels[::-1, ::-1, case.slice_index].T)
        assert np.array_equal(read_mask(cohort.masks[case.name]), labels[::-1, ::-1, case.slice_index].T == 2)


def test_slices_follow_the_first_axis_whatever_the_header_says(tmp_path):
    """A header without directions calls the first axis the patient's right."""
    root = kits(tmp_path, (0,))
    values = {"imaging": canonical()[0], "segmentation": canonical()[1]}
    for name, each in values.items():
        stored = np.moveaxis(each, 2, 0)  # 5 slices of 6 × 8
        nibabel.save(nibabel.Nifti1Image(stored, np.diag([5, 0.8, 0.8, 1])), root / "case_00000" / f"{name}.nii.gz")
    cohort = kits23.read(root)
    assert len(cohort.cases) == SHAPE[2] and cohort.cases[0].slice_mm == 5
    assert {case.pixels().shape for case in cohort.cases} == {(SHAPE[1], SHAPE[0])}
    for case in cohort.cases:
        seen = read_mask(cohort.masks[case.name])
        assert seen.sum() == (canonical()[1][..., case.slice_index] == 2).sum()
        assert set(case.pixels()[seen]) == set(values["imaging"][values["segmentation"] == 2]) & set(
            values["imaging"][..., case.slice_index].ravel()
        )


def test_tumours_are_lesions_and_cysts_where_asked(tmp_path):
    root = kits(tmp_path, (0,))
    labels = canonical()[1]
    labels[4, 1, 1] = 3
    write(root / "case_00000" / "segmentation.nii.gz", labels, "IPL")
    sums = [
        sum(read_mask(cohort.masks[case.name]).sum() for case in cohort.cases)
        for cohort in (kits23.read(root), kits23.read(root, cysts=True))
    ]
    assert sums == [(labels == 2).sum(), (labels >= 2).sum()]
    cohort = kits23.read(root)
    assert sum(read_mask(cohort.organs[case.name]).sum() for case in cohort.cases) == (labels > 0).sum()


def test_a_case_without_its_picture_is_left_out_with_the_command(tmp_path):
    root = kits(tmp_path, (0, 1, 2))
    (root / "case_00001" / "imaging.nii.gz").unlink()
    (root / "case_00002" / "segmentation.nii.gz").unlink()
    (root / "._case_00004").mkdir()
    cohort = kits23.read(root)
    assert cohort.units == ("case_00000",)
    (picture, why), (mask, also) = cohort.left_out
    assert picture.endswith("case_00001/imaging.nii.gz") and "kits23_download_data" in why
    assert mask.endswith("case_00002/segmentation.nii.gz") and "git checkout" in also
    (root / "case_00000" / "imaging.nii.gz").unlink()
    with pytest.raises(CovtokenError, match=r"none of the 3 cases.*imaging\.nii\.gz.*kits23_download_data"):
        kits23.read(root)


def test_values_outside_the_task_are_refused(tmp_path):
    root = kits(tmp_path, (0,))
    write(root / "case_00000" / "segmentation.nii.gz", np.where(canonical()[1] == 2, 7, 0).astype(np.uint8), "IPL")
    cohort = kits23.read(root)
    with pytest.raises(CovtokenError, match=r"segmentation\.nii\.gz holds the value 7 in slice 4.* 0, 1, 2, 3 alone"):
        read_mask(cohort.masks["case_00000_z4"])


@pytest.mark.parametrize("place", ["KiTS23", "kits23", "KiTS23/dataset"])
def test_the_cohort_is_found_with_or_without_its_dataset_folder(tmp_path, monkeypatch, place):
    monkeypatch.setenv("COVTOKEN_DATA", str(tmp_path))
    kits(tmp_path / place, (5,))
    assert open_cohort("kits23").units == ("case_00005",)


def test_an_empty_clone_says_how_to_get_cases(tmp_path):
    (tmp_path / "kits23").mkdir()
    with pytest.raises(CovtokenError, match=r"holds no folder case_00000.*kits23_download_data"):
        kits23.read(tmp_path / "kits23")
