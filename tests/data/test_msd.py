"""Decathlon tasks: real chest CTs, and small trees with the traps of the official archives."""

from __future__ import annotations

import json
import pickle

import nibabel
import numpy as np
import pytest
from stub_volumes import LESION, SHAPE, SPACING, canonical, decathlon, write

from covtoken.data.cohorts import cohort_name, open_cohort
from covtoken.data.intensity import WINDOWS_HU, to_unit_range
from covtoken.data.masks import check_masks, read_mask
from covtoken.data.readers import msd
from covtoken.data.readers.volume_cohorts import LUNG_SHARE, VOLUMES, WINDOW_PX
from covtoken.data.splits import load_splits, shared_units
from covtoken.errors import CovtokenError
from covtoken.leak_guard import LabelLeak, construction
from covtoken.protocol.report import read_report, report_path


@pytest.fixture
def edited(tmp_path):
    """A liver task whose ``dataset.json`` a function changed."""

    def edit(change):
        root = decathlon(tmp_path / "Task03_Liver")
        about = json.loads((root / "dataset.json").read_text())
        change(about)
        (root / "dataset.json").write_text(json.dumps(about))
        return root

    return edit


def test_slices_carry_pixels_place_and_masks(tmp_path):
    pixels, labels = canonical()
    cohort = msd.read(decathlon(tmp_path / "Task03_Liver"), "msd-task03")
    assert [case.name for case in cohort.cases] == [f"liver_0_z{index}" for index in range(SHAPE[2])]
    for case in cohort.cases:
        index = case.slice_index
        assert (case.unit, case.volume, case.modality, case.organ) == ("liver_0", "liver_0", "ct", "liver")
        assert case.spacing_mm == (SPACING[1], SPACING[0]) and case.slice_mm == SPACING[2]
        assert np.array_equal(case.pixels(), pixels[::-1, ::-1, index].T)
        assert np.array_equal(pickle.loads(pickle.dumps(case.load))(), case.pixels())
        assert np.array_equal(read_mask(cohort.masks[case.name]), labels[::-1, ::-1, index].T == 2)
        assert np.array_equal(read_mask(cohort.organs[case.name]), labels[::-1, ::-1, index].T >= 1)
    check_masks(cohort)


def test_every_nth_slice_and_options_that_do_not_exist(tmp_path):
    root = decathlon(tmp_path / "Task03_Liver")
    assert [case.slice_index for case in msd.read(root, every=2).cases] == [0, 2, 4]
    with pytest.raises(CovtokenError, match="every=0"):
        msd.read(root, every=0)
    with pytest.raises(CovtokenError, match=r"msd-task03.*evry"):
        open_cohort("msd-task03", root, evry=2)


def test_windows_are_cut_from_picture_and_mask_alike(tmp_path):
    root = decathlon(tmp_path / "Task03_Liver")
    whole = msd.read(root)
    cut = msd.read(root, region="windows", window_px=4)
    assert len(cut.cases) == 2 * 2 * len(whole.cases)  # 8 × 6 pixels
    for case in cut.cases:
        row, column, height, width = cut.masks[case.name].window
        full = whole.cases[case.slice_index]
        assert np.array_equal(case.pixels(), full.pixels()[row : row + height, column : column + width])
        expected = read_mask(whole.masks[full.name])[row : row + height, column : column + width]
        assert np.array_equal(read_mask(cut.masks[case.name]), expected)


def test_the_body_box_is_cut_from_picture_and_mask_alike(tmp_path):
    """A body in the middle of air, with a table below: the box keeps the body alone, and lesions stay in place."""
    pixels = np.full((80, 90, 4), -1000, np.int16)
    pixels[20:60, 30:70] = 40
    pixels[5:75, 4:6] = 200  # a table, thinner than any body
    labels = np.zeros(pixels.shape, np.uint8)
    labels[30:33, 40:50, 1:3] = 1
    root = decathlon(tmp_path / "Task06_Lung", ("background", "cancer"), ("lung_001",))
    write(root / "imagesTr" / "lung_001.nii.gz", pixels)
    write(root / "labelsTr" / "lung_001.nii.gz", labels)
    cohort = msd.read(root, region="body")
    for case in cohort.cases:
        seen, mask = case.pixels(), read_mask(cohort.masks[case.name])
        assert seen.shape == mask.shape == (40 + 16, 40 + 16), "the body and a margin of 8 pixels"
        assert (seen > 0).sum() == 40 * 40 and mask.sum() == labels[..., case.slice_index].sum()
        assert set(seen[mask]) <= {40.0}
        pickle.loads(pickle.dumps(cohort.masks[case.name]))


def test_appledouble_files_are_no_pictures(edited):
    """Where a script has listed them, or where they merely lie in the folder."""
    junk = {"image": "./imagesTr/._liver_0.nii.gz", "label": "./labelsTr/._liver_0.nii.gz"}
    root = edited(lambda about: about["training"].append(junk))
    for entry in junk.values():
        (root / entry).write_bytes(b"\0\5\26\7" + bytes(100))
    cohort = msd.read(root)
    assert cohort.units == ("liver_0",)
    assert [(file.rpartition("/")[2], why) for file, why in cohort.left_out] == [
        ("._liver_0.nii.gz", "AppleDouble file, no picture")
    ]


def test_test_cases_have_no_labels(edited):
    root = edited(lambda about: about["test"].append("./imagesTs/liver_9.nii.gz"))
    write(root / "imagesTs" / "liver_9.nii.gz", canonical()[0])
    assert msd.read(root).units == ("liver_0",)
    both = msd.read(root, with_test=True)
    assert both.units == ("liver_0", "liver_9")
    assert {both.cases[0].unit} == {both.cases[0].volume} and len(both.masks) == SHAPE[2]
    assert not any(name.startswith("liver_9") for name in both.masks)


def test_a_case_without_tumour_has_empty_masks(tmp_path):
    root = decathlon(tmp_path / "Task03_Liver", cases=("liver_0", "liver_1"))
    write(root / "labelsTr" / "liver_1.nii.gz", np.minimum(canonical()[1], 1))
    cohort = msd.read(root)
    assert not any(read_mask(cohort.masks[case.name]).any() for case in cohort.subset(["liver_1"]))
    assert any(read_mask(cohort.masks[case.name]).any() for case in cohort.subset(["liver_0"]))


def test_values_outside_the_task_are_refused(tmp_path):
    root = decathlon(tmp_path / "Task03_Liver")
    labels = canonical()[1].astype(np.float32)
    labels[LESION] = 1.5  # resampled by interpolation
    file = write(root / "labelsTr" / "liver_0.nii.gz", labels)
    cohort = msd.read(root)
    with pytest.raises(CovtokenError, match=r"holds the value 1\.5 in slice 3.* 0, 1, 2 alone") as error:
        read_mask(cohort.masks["liver_0_z3"])
    assert str(file) in str(error.value)


@pytest.mark.parametrize("damage", ["shape", "affine", "4-D", "missing"])
def test_damaged_pairs_are_named_when_the_cohort_is_opened(tmp_path, damage):
    root = decathlon(tmp_path / "Task03_Liver")
    picture, mask = (root / folder / "liver_0.nii.gz" for folder in ("imagesTr", "labelsTr"))
    pixels, labels = canonical()
    if damage == "shape":
        write(mask, labels[:, :, :-1])
    elif damage == "affine":
        write(mask, labels, origin=(3, 0, 0))
    elif damage == "4-D":
        nibabel.save(nibabel.Nifti1Image(np.stack([pixels] * 2, -1), np.eye(4)), picture)
    else:
        picture.unlink()
    with pytest.raises(CovtokenError, match=r"imagesTr/liver_0\.nii\.gz") as error:
        msd.read(root)
    assert (str(mask) in str(error.value)) == (damage in ("shape", "affine"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda about: about.pop("training"), "no list of a decathlon task"),
        (lambda about: about["training"].append("./imagesTr/liver_0.nii.gz"), "no list of a decathlon task"),
        (lambda about: about["training"].clear(), "lists no case"),
        (lambda about: about.update(modality={"0": "FLAIR", "1": "T1w"}), "FLAIR, T1w.*CT alone"),
        (lambda about: about.update(labels={"0": "background", "1": "spleen"}), "names no lesion.*spleen"),
    ],
)
def test_other_lists_are_refused(edited, change, words):
    with pytest.raises(CovtokenError, match=words):
        msd.read(edited(change))


def test_lesions_are_known_by_their_words():
    about = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "Vessel", "2": "Tumour"}}
    assert msd._task(about, None).lesion == (2,) and msd._task(about, None).organ == (1, 2)
    about["labels"] = {"0": "background", "1": "cancer"}
    assert msd._task(about, None) == msd.Task((1,), (), (0, 1)), "a lung task has no organ"


def test_masks_stay_shut_in_construction(tmp_path):
    root = decathlon(tmp_path / "Task03_Liver")
    with construction("a bank"), pytest.raises(LabelLeak, match="header of the mask file"):
        msd.read(root)
    cohort = msd.read(root)
    with construction("a bank"):
        cohort.cases[0].pixels()
        with pytest.raises(LabelLeak):
            read_mask(cohort.masks[cohort.cases[0].name])
        with pytest.raises(LabelLeak):
            (root / "labelsTr" / "liver_0.nii.gz").read_bytes()


def test_cohorts_are_found_by_the_name_of_their_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COVTOKEN_DATA", str(tmp_path))
    (tmp_path / "Task03_Liver_old").mkdir()  # holds no dataset.json
    decathlon(tmp_path / "Task03_Liver_unpacked", cases=("liver_12",))
    decathlon(tmp_path / "Task07_Pancreas", ("background", "pancreas", "cancer"), ("pancreas_001",))
    liver, pancreas = open_cohort("msd-task03"), open_cohort("msd-task07")
    assert (liver.name, liver.modality, cohort_name("msd-task03")) == ("msd-task03", "ct", "msd-task03")
    assert pancreas.units == ("pancreas_001",) and pancreas.cases[0].organ == "pancreas"
    assert liver.units == ("volume-12",), "as the LiTS cohort names the same patient"
    assert load_splits(liver).keys() == {"volume-12"} and shared_units(liver, liver) == {"volume-12"}
    with pytest.raises(CovtokenError, match=r"Task06_Lung\* with dataset\.json.*covtoken data fetch msd-task06"):
        open_cohort("msd-task06")
    with pytest.raises(CovtokenError, match=r"no such folder.*covtoken data fetch msd-task07"):
        open_cohort("msd-task07", tmp_path)
    monkeypatch.delenv("COVTOKEN_DATA")
    for name in VOLUMES:
        with pytest.raises(CovtokenError, match=f"COVTOKEN_DATA is not set.*covtoken data fetch {name}"):
            open_cohort(name)


@pytest.mark.parametrize("name", ["lidc-idri", "msd-task06"])
def test_gates_see_what_was_recorded(name):
    """Another step or another share of lung makes another cohort, and the recorded numbers would not be its."""
    curated = read_report(report_path(name, 1, recorded=True)).parameters["curated"]
    view, windows = VOLUMES[name].view, f"windows of {WINDOW_PX} px of which at least {LUNG_SHARE:.0%} is lung"
    assert view.lung and curated.startswith(f"every {view.every}th slice, {windows}")


def test_a_folder_of_pictures_may_not_bear_a_volume_cohorts_name(tmp_path):
    (tmp_path / "kits23").mkdir()
    with pytest.raises(CovtokenError, match="name of the volume cohort 'kits23'"):
        open_cohort(tmp_path / "kits23")


def test_real_chest_ct(covtoken_data):
    """Three patients: slices as radiologists see them, tumours of soft tissue where the masks say."""
    if not list(covtoken_data.glob("Task06_Lung*")):
        pytest.skip("no Task06_Lung under COVTOKEN_DATA")
    cohort = open_cohort("msd-task06", every=4)
    assert len(cohort.units) == 3 and cohort.organs == {}
    inside, halves = [], []
    for case in cohort.cases:
        pixels, mask = case.pixels(), read_mask(cohort.masks[case.name])
        assert pixels.shape == mask.shape == (512, 512) and pixels.min() >= -1024
        inside.append(pixels[mask])
        assert to_unit_range(pixels, case).min() >= 0 and case.organ == "lung" in WINDOWS_HU
        rows = np.nonzero(pixels > 300)[0]  # bone: the spine lies at the back, below the middle of the body
        halves.append(np.median(rows) > np.median(np.nonzero(pixels > -300)[0]))
    assert -100 < np.median(np.concatenate(inside)) < 100
    assert np.mean(halves) > 0.8
