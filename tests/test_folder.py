"""One's own folder: columns, units, windows blind to the mask, and no label-like column on a case."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from covtoken.data import folder
from covtoken.data.cohorts import COMMITTED, cohort_name, data_fingerprint, open_cohort, picture_size
from covtoken.data.masks import read_mask
from covtoken.data.pictures import read_picture
from covtoken.errors import CovtokenError
from covtoken.leak_guard import LabelLeak, construction

HEAD = "image,mask,patient,slice,lesion_px,lesion_frac,note\n"


def smooth(seed: int, shape=(96, 96)) -> np.ndarray:
    field = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 6)
    return ((field - field.min()) / np.ptp(field) * 255).astype(np.uint8)


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "mine"
    for sub in ("images", "masks", "organ"):
        (root / sub).mkdir(parents=True)
    votes = np.zeros((96, 96), np.uint8)
    votes[40:50, 40:50], votes[44:47, 44:47] = 1, 3
    for index in range(3):
        colour = np.stack([smooth(index), smooth(index + 10), smooth(index + 20)], axis=-1)
        Image.fromarray(colour).save(root / "images" / f"s{index}.png")
        Image.fromarray(votes).save(root / "masks" / f"s{index}.png")
    Image.fromarray(np.full((96, 96), 255, np.uint8)).save(root / "organ" / "s0.png")
    (root / "index.csv").write_text(
        HEAD + "images/s0.png,masks/s0.png,P1,7,99,0.5,lesion\n"
        "images/s1.png,masks/s1.png,P1,not a number,99,0.5,lesion\n"
        "images/s2.png,,P2,,0,0,none\n"
    )
    return root


def test_cases_units_masks_and_organs(tree):
    cohort = folder.read(tree, channel="G", modality="ct8")
    assert cohort.name == "mine" and [case.unit for case in cohort.cases] == ["P1", "P1", "P2"]
    assert [case.slice_index for case in cohort.cases] == [7, None, None]
    np.testing.assert_array_equal(cohort.cases[0].pixels(), smooth(10).astype(np.float32))
    assert read_mask(cohort.masks["s0"]).sum() == 100 and set(cohort.organs) == {"s0"}
    empty = read_mask(cohort.masks["s2"])
    assert empty.shape == (96, 96) and not empty.any()
    assert read_mask(folder.read(tree, votes_at_least=2).masks["s0"]).sum() == 9


def test_nothing_about_the_lesion_reaches_a_case(tree):
    before = folder.read(tree)
    text = (tree / "index.csv").read_text().replace("99,0.5,lesion", "12345,0.987,ZEBRA")
    (tree / "index.csv").write_text(text)
    after = folder.read(tree)
    assert before.cases == after.cases
    shown = repr([dataclasses.astuple(case) for case in after.cases])
    assert "12345" not in shown and "0.987" not in shown and "ZEBRA" not in shown


def test_window_is_cut_from_picture_and_mask_alike_and_is_blind_to_the_mask(tree):
    cohort = folder.read(tree, channel="R", votes_at_least=2, window_sides=(64, 80))
    for index, case in enumerate(cohort.cases):
        row, column, height, width = cohort.masks[case.name].window
        assert height == width and 64 <= height <= 80 and row + height <= 96 and column + width <= 96
        whole = smooth(index)[row : row + height, column : column + width]
        np.testing.assert_array_equal(case.pixels(), whole.astype(np.float32))
        assert read_mask(cohort.masks[case.name]).shape == (height, width)
    full = read_mask(dataclasses.replace(cohort.masks["s0"], window=None))
    row, column, height, width = cohort.masks["s0"].window
    np.testing.assert_array_equal(read_mask(cohort.masks["s0"]), full[row : row + height, column : column + width])

    Image.fromarray(np.zeros((96, 96), np.uint8)).save(tree / "masks" / "s0.png")
    again = folder.read(tree, channel="R", votes_at_least=2, window_sides=(64, 80))
    assert [again.masks[name].window for name in again.masks] == [cohort.masks[name].window for name in cohort.masks]
    assert len({cohort.masks[name].window for name in cohort.masks}) == 3


def test_unknown_patients_are_grouped_by_likeness(tree):
    Image.fromarray(smooth(50)).save(tree / "images" / "s1.png")
    Image.fromarray(smooth(50) // 2).save(tree / "images" / "s2.png")
    (tree / "index.csv").write_text("image,mask\nimages/s0.png,\nimages/s1.png,\nimages/s2.png,\n")
    assert [case.unit for case in folder.read(tree).cases] == ["s0", "s1", "s1"]


def test_dicom_is_named_and_not_called_truncated(tree):
    (tree / "images" / "s0.dcm").write_bytes(bytes(128) + b"DICM" + bytes(200))
    text = (tree / "index.csv").read_text().replace("images/s0.png", "images/s0.dcm")
    (tree / "index.csv").write_text(text)
    for read in (lambda: folder.read(tree), lambda: read_picture(tree / "images" / "s0.dcm")):
        with pytest.raises(CovtokenError, match=r"s0\.dcm is DICOM, .*Hounsfield units to \.npy or NIfTI"):
            read()


def test_hounsfield_arrays(tree):
    np.save(tree / "images" / "h.npy", np.full((5, 6), -600, np.int16))
    (tree / "index.csv").write_text("image,mask,patient,spacing,organ_name\nimages/h.npy,,P,0.7 0.8,lung\n")
    (case,) = folder.read(tree).cases
    assert (case.modality, case.organ, case.spacing_mm) == ("ct", "lung", (0.7, 0.8))
    assert (case.pixels() == -600).all()
    np.save(tree / "images" / "h.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(CovtokenError, match=r"h\.npy cannot be read"):
        case.pixels()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,patient\nimages/s0.png,P\n", "lacks the column 'mask'"),
        ("image,mask\nimages/none.png,\n", "line 2: image file .*none.png does not exist"),
        ("image,mask\nimages/s0.png,masks/none.png\n", "line 2: mask file"),
        ("image,mask\nimages/s0.png,\nimages/s0.png,\n", "lists the image images/s0 twice"),
        ("image,mask\n", "holds no case"),
        ("image,mask,patient,spacing\nimages/s0.png,,P,wide\n", "spacing 'wide'"),
        ("image,mask,patient,spacing\nimages/s0.png,,P,nan\n", "spacing 'nan'"),
        ("image,mask\nimages/s0.png,images/../images/s0.png\n", "line 2: image and mask are one file"),
        ("", "lacks the column 'image'; it has: none"),
    ],
)
def test_bad_index(tree, text, message):
    (tree / "index.csv").write_text(text)
    with pytest.raises(CovtokenError, match=message):
        folder.read(tree)


def test_an_index_that_is_no_text_is_refused_by_name(tree):
    (tree / "index.csv").write_bytes("image,mask,patient\nimages/s0.png,,Müller\n".encode("latin-1"))
    with pytest.raises(CovtokenError, match=r"index\.csv cannot be read .*UTF-8"):
        folder.read(tree)


def test_organ_masks_are_guarded_like_lesion_masks(tree):
    folder.read(tree)
    for file in ("masks/s0.png", "organ/s0.png"):
        with construction("a bank"), pytest.raises(LabelLeak):
            (tree / file).read_bytes()


def test_open_cohort_by_name_and_folder(tree, monkeypatch):
    assert open_cohort(str(tree)).name == open_cohort(tree / "index.csv").name == "mine"
    assert cohort_name(tree) == cohort_name(f"{tree}/index.csv") == cohort_name("mine") == "mine"
    with pytest.raises(CovtokenError, match=r"did you mean phantom.*or a folder that holds index.csv"):
        open_cohort("fantom")
    for name in (tree, "phantom"):
        with pytest.raises(CovtokenError, match="leave the data folder"):
            open_cohort(name, folder=tree)
    with pytest.raises(CovtokenError, match="bears the name of the committed cohort 'busi'"):
        open_cohort(tree, name="busi")
    with pytest.raises(CovtokenError, match="unexpected keyword argument 'colour'"):
        open_cohort("phantom", colour=3)
    monkeypatch.delenv("COVTOKEN_DATA", raising=False)
    with pytest.raises(CovtokenError, match=r"'lits' not found: COVTOKEN_DATA is not set.*lits/index.csv"):
        open_cohort("lits")
    tree.rename(tree.with_name("lits"))
    with pytest.raises(CovtokenError, match="bears the name of the committed cohort 'lits'"):
        open_cohort(tree.with_name("lits"))
    assert {picture_size(name) for name in COMMITTED} == {224}


def test_fingerprint_sees_pixels_and_not_labels(tree):
    before = data_fingerprint(folder.read(tree))
    Image.fromarray(np.zeros((96, 96), np.uint8)).save(tree / "masks" / "s0.png")
    assert data_fingerprint(folder.read(tree)) == before
    Image.fromarray(smooth(99)).save(tree / "images" / "s2.png")
    assert data_fingerprint(folder.read(tree)) != before


@pytest.mark.parametrize(("name", "cases", "units"), [("lits", 288, 34), ("kits19", 56, 28), ("lidc-crops", 600, 600)])
def test_real_folders(covtoken_data, name, cases, units):
    try:
        cohort = open_cohort(name)
    except CovtokenError as error:
        pytest.skip(str(error))
    assert (len(cohort.cases), len(cohort.units)) == (cases, units) and cohort.curated
    first = cohort.cases[0]
    assert read_mask(cohort.masks[first.name]).shape == first.pixels().shape
