"""One's own folder: columns, units, windows blind to the mask, and no label-like column on a case."""

from __future__ import annotations

import dataclasses
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from covtoken.data.cohorts import cohort_name, data_fingerprint, open_cohort
from covtoken.data.masks import check_masks, read_mask
from covtoken.data.pictures import read_picture
from covtoken.data.readers import folder
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import label
from covtoken.leak_guard import LabelLeak, construction, refuse_label_arrays

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
    cohort = folder.read(tree, channel="G", modality="ct8", mask_at_least=1)
    assert cohort.name == "mine" and [case.unit for case in cohort.cases] == ["P1", "P1", "P2"]
    assert [case.slice_index for case in cohort.cases] == [7, None, None]
    np.testing.assert_array_equal(cohort.cases[0].pixels(), smooth(10).astype(np.float32))
    assert read_mask(cohort.masks["s0"]).sum() == 100 and set(cohort.organs) == {"s0"}
    empty = read_mask(cohort.masks["s2"])
    assert empty.shape == (96, 96) and not empty.any()
    assert read_mask(folder.read(tree, mask_at_least=2).masks["s0"]).sum() == 9


def test_nothing_about_the_lesion_reaches_a_case(tree):
    before = folder.read(tree)
    text = (tree / "index.csv").read_text().replace("99,0.5,lesion", "12345,0.987,ZEBRA")
    (tree / "index.csv").write_text(text)
    after = folder.read(tree)
    assert before.cases == after.cases
    shown = repr([dataclasses.astuple(case) for case in after.cases])
    assert "12345" not in shown and "0.987" not in shown and "ZEBRA" not in shown


def test_window_is_cut_from_picture_and_mask_alike_and_is_blind_to_the_mask(tree):
    cohort = folder.read(tree, channel="R", mask_at_least=2, window_sides=(64, 80))
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
    again = folder.read(tree, channel="R", mask_at_least=2, window_sides=(64, 80))
    assert [again.masks[name].window for name in again.masks] == [cohort.masks[name].window for name in cohort.masks]
    assert len({cohort.masks[name].window for name in cohort.masks}) == 3


def test_unknown_patients_are_grouped_by_likeness(tree):
    Image.fromarray(smooth(50)).save(tree / "images" / "s1.png")
    Image.fromarray(smooth(50) // 2).save(tree / "images" / "s2.png")
    (tree / "index.csv").write_text("image,mask\nimages/s0.png,\nimages/s1.png,\nimages/s2.png,\n")
    with pytest.warns(UserWarning, match=r"no column patient: its 3 pictures are grouped by likeness into 2 units"):
        cohort = folder.read(tree)
    assert [case.unit for case in cohort.cases] == ["s0", "s1", "s1"]


def test_dicom_is_named_and_not_called_truncated(tree):
    (tree / "images" / "s0.dcm").write_bytes(bytes(128) + b"DICM" + bytes(200))
    text = (tree / "index.csv").read_text().replace("images/s0.png", "images/s0.dcm")
    (tree / "index.csv").write_text(text)
    for read in (lambda: folder.read(tree), lambda: read_picture(tree / "images" / "s0.dcm")):
        with pytest.raises(CovtokenError, match=r"s0\.dcm is DICOM, .*Hounsfield units to \.npy or NIfTI"):
            read()


def test_hounsfield_arrays(tree):
    np.save(tree / "images" / "h.npy", np.full((9, 8), -600, np.int16))
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
        ("image,mask\n\n\nimages/none.png,\n", "line 4: image file"),
        ("image,mask\nimages/s0.png,masks/none.png\n", "line 2: mask file"),
        ("image,mask\nimages/s0.png,\nimages/s0.png,\n", "lists the image images/s0 twice"),
        ("image,mask\n", "holds no case"),
        ("image,mask,patient,spacing\nimages/s0.png,,P,wide\n", "spacing 'wide'"),
        ("image,mask,patient,spacing\nimages/s0.png,,P,nan\n", "spacing 'nan'"),
        ("image,mask\nimages/s0.png,images/../images/s0.png\n", "line 2: image and mask are one file"),
        ("", "lacks the column 'image'; it has: none"),
        ("picture;mask\nimages/s0.png;\n", "lacks the column 'image'; it has: picture, mask"),
        ("image,Image,mask\nimages/s0.png,,\n", "has the column 'image' twice"),
        ("image,mask\n/etc/hostname,\n", "line 2: /etc/hostname is an absolute path"),
        ("image,mask\nC:\\i\\s0.png,\n", "line 2: C:/i/s0.png is an absolute path"),
        ("image,mask\nimages/s0.png,../mine/masks/s0.png\n", r"line 2: \.\./mine/masks/s0.png leads out of the folder"),
        (f"image,mask\nimages/{'x' * 300}.png,\n", "line 2: .*cannot be opened .File name too long"),
        ("image,mask,patient\nimages/s0.png,,P\0\n", r"line 2: patient 'P\\x00' holds a control character"),
        (f"image,mask,patient\nimages/s0.png,,{'P' * 200_000}\n", "line 2: no comma-separated text .field larger than"),
        (
            "image,mask,patient,modality\nimages/s0.png,,P,CT8\nimages/s1.png,,Q,mri\n",
            "case 's1' has the modality 'mri'. Known: ultrasound, ct, ct8",
        ),
        (
            "image,mask,patient,lesion_value\nimages/s0.png,masks/s0.png,P,1\nimages/s1.png,masks/s1.png,Q,2\n",
            "lesion_value 1, 2: expected the same in all rows",
        ),
        ("image,mask,patient,mask_at_least\nimages/s0.png,masks/s0.png,P,0\n", "mask_at_least 0: expected .* above 0"),
        (
            "image,mask,patient,mask_at_least,lesion_value\nimages/s0.png,masks/s0.png,P,1,1\n",
            "a mask is read by one of them",
        ),
    ],
    ids=lambda text: text[:40].replace("\n", " ").replace("\0", ""),
)
def test_bad_index(tree, text, message):
    (tree / "index.csv").write_text(text)
    with pytest.raises(CovtokenError, match=message):
        folder.read(tree)


def test_an_index_that_is_no_text_is_refused_by_name(tree):
    (tree / "index.csv").write_bytes("image,mask,patient\nimages/s0.png,,Müller\n".encode("latin-1"))
    with pytest.raises(CovtokenError, match=r"index\.csv cannot be read as UTF-8"):
        folder.read(tree)


def test_a_list_that_may_not_be_read_is_not_called_badly_saved(tree, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(CovtokenError, match=r"index\.csv may not be read \(permission denied\)"):
        folder.read(tree)
    monkeypatch.setattr(Path, "is_dir", refuse)  # nor a folder that may not be entered
    with pytest.raises(CovtokenError, match=r"mine cannot be opened \(Permission denied\)"):
        open_cohort(tree)
    with pytest.raises(CovtokenError, match="nosuchuser/x cannot be opened"):
        open_cohort("~nosuchuser/x")


def test_two_files_of_one_stem_are_not_called_one_image(tree):
    Image.fromarray(smooth(4)).save(tree / "images" / "s0.bmp")
    (tree / "index.csv").write_text("image,mask,patient\nimages/s0.png,,P\nimages/s1.png,,P\nimages/s0.bmp,,P\n")
    with pytest.raises(CovtokenError, match=r"lists images/s0\.png and images/s0\.bmp, two files of one stem"):
        folder.read(tree)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_header_names_separators_and_backslashes_as_people_write_them(tree, mark):
    text = '\ufeffImage , MASK,"Patient"\r\nimages\\s0.png,masks\\s0.png,P1\r\nimages/s1.png,,P2\r\n'
    (tree / "index.csv").write_text(text.replace(",", mark), encoding="utf-8", newline="")
    cohort = folder.read(tree, mask_at_least=2)
    assert [(case.name, case.unit) for case in cohort.cases] == [("s0", "P1"), ("s1", "P2")]
    assert read_mask(cohort.masks["s0"]).sum() == 9


def test_a_link_inside_the_folder_may_lead_out(tree):
    (tree / "images").rename(tree.parent / "elsewhere")
    (tree / "images").symlink_to(tree.parent / "elsewhere")
    assert len(folder.read(tree).cases) == 3


def test_links_that_lead_round_in_a_circle_are_named(tree):
    (tree / "images" / "s1.png").unlink()
    (tree / "images" / "s1.png").symlink_to("s1.png")
    with pytest.raises(CovtokenError, match=r"line 3: image file .*s1\.png does not exist"):
        folder.read(tree)
    (tree / "index.csv").unlink()
    (tree / "index.csv").symlink_to("index.csv")
    with pytest.raises(CovtokenError, match=r"index\.csv is missing \(Too many levels of symbolic links\)"):
        folder.read(tree)
    (tree.parent / "round").symlink_to("round")
    with pytest.raises(CovtokenError, match="round is no folder"):
        open_cohort(tree.parent / "round")


def test_a_tiny_picture_is_refused(tree):
    Image.fromarray(np.ones((1, 1), np.uint8)).save(tree / "images" / "s1.png")
    with pytest.raises(CovtokenError, match=r"s1\.png is 1×1 pixels: expected at least 8 a side"):
        folder.read(tree)


def test_masks_of_a_folder_are_checked_when_it_is_opened(tree):
    with pytest.raises(CovtokenError, match=r"s0\.png holds the values 0, 1, 3: .*`lesion_value=2`.*`mask_at_least"):
        open_cohort(tree)
    (tree / "masks" / "s1.png").write_bytes(b"")
    with pytest.raises(CovtokenError, match=r"masks/s1\.png is empty"):
        open_cohort(tree, mask_at_least=2)
    Image.fromarray(np.zeros((50, 50), np.uint8)).save(tree / "masks" / "s1.png")
    with pytest.raises(CovtokenError, match=r"s1\.png is 50×50 pixels, its picture .*s1\.png is 96×96"):
        open_cohort(tree, mask_at_least=2)
    Image.fromarray(np.zeros((96, 96), np.uint8)).save(tree / "masks" / "s1.png")
    two = np.zeros((96, 96), np.uint8)
    two[:9], two[9:20] = 1, 2
    Image.fromarray(two).save(tree / "organ" / "s0.png")
    with pytest.raises(CovtokenError, match=r"organ/s0\.png holds the values 0, 1, 2: .*`organ_at_least=1`"):
        open_cohort(tree, mask_at_least=2)
    cohort = open_cohort(tree, mask_at_least=2, organ_at_least=1)
    assert read_mask(cohort.masks["s0"]).sum() == 9 and read_mask(cohort.organs["s0"]).sum() == 20 * 96
    with construction("a bank"), pytest.raises(LabelLeak):
        open_cohort(tree, mask_at_least=2, organ_at_least=1)


def test_columns_say_which_value_is_lesion(tree):
    for column, value, pixels in (("lesion_value", 1, 91), ("lesion_value", 0, 9116), ("mask_at_least", 2, 9)):
        (tree / "index.csv").write_text(
            f"image,mask,patient,{column}\nimages/s0.png,masks/s0.png,P,{value}\nimages/s1.png,,Q,\n"
        )
        assert read_mask(folder.read(tree).masks["s0"]).sum() == pixels


def test_one_value_marks_the_lesions_of_all_masks(tree):
    for index, value in enumerate((1, 255)):
        mask = np.zeros((96, 96), np.uint8)
        mask[:9] = value
        Image.fromarray(mask).save(tree / "masks" / f"s{index}.png")
    with pytest.raises(CovtokenError, match=r"s0\.png holds 1 beside 0, and .*s1\.png holds 255: "):
        open_cohort(tree)
    cohort = folder.read(tree)
    with pytest.raises(CovtokenError, match=r"s0\.png holds 1 beside 0, and .*s1\.png holds 255: "):
        label(cohort.cases, cohort, 4, 4)
    assert read_mask(open_cohort(tree, mask_at_least=1).masks["s1"]).sum() == 9 * 96


def test_a_mask_that_covers_nearly_everything_is_a_warning(tree):
    for name in ("s0", "s1"):
        Image.fromarray(np.full((96, 96), 255, np.uint8)).save(tree / "masks" / f"{name}.png")
    with pytest.warns(UserWarning, match=r"s0\.png \(and 1 more\) covers more than nine tenths .*lesion_value=0"):
        cohort = open_cohort(tree)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert label(cohort.cases, cohort, 4, 4).lesion[:2].all()
    name = tree.rename(tree.with_name("another"))
    cohort = folder.read(name)
    with pytest.warns(UserWarning, match=r"another/masks/s0\.png \(and 1 more\) covers"):
        label(cohort.cases, cohort, 4, 4)


def test_swapped_columns_are_named(tree):
    mask = np.zeros((96, 96), np.uint8)
    mask[9:30, 9:30] = 255
    for name in ("s0", "s1"):
        Image.fromarray(mask).save(tree / "masks" / f"{name}.png")
    rows = "masks/s0.png,images/s0.png,P\nmasks/s1.png,images/s1.png,Q\n"
    (tree / "index.csv").write_text("image,mask,patient\n" + rows)
    with pytest.raises(CovtokenError, match=r"masks/s0\.png holds two values, .*columns image and mask look swapped"):
        open_cohort(tree)


def test_where_nothing_can_be_measured_it_is_said_before_features_are_made(tree):
    def written(masks: str, value: int):
        (tree / "index.csv").write_text("image,mask,patient\n" + masks)
        Image.fromarray(np.full((96, 96), value, np.uint8)).save(tree / "masks" / "s0.png")
        return folder.read(tree)

    one = "images/s0.png,masks/s0.png,P\n"
    with pytest.raises(CovtokenError, match=r"none of the 1 pictures has a mask, .*covtoken\.score_maps"):
        check_masks(written("images/s0.png,,P\n", 0))
    assert len(open_cohort(tree).cases) == 1, "it opens all the same: maps need no masks"
    with pytest.raises(CovtokenError, match=r"the masks of all 1 pictures are empty"):
        check_masks(written(one, 0))
    with pytest.raises(CovtokenError, match=r"the masks of all 1 pictures cover the whole picture"):
        check_masks(written(one, 255))
    cohort = written(one + "images/s1.png,,Q\n", 255)
    check_masks(cohort)
    with pytest.raises(CovtokenError, match="the masks of all 1 pictures cover"):
        check_masks(cohort, cohort.cases[:1])
    with construction("a bank"), pytest.raises(LabelLeak):
        check_masks(cohort)


def test_a_case_without_lesion_cannot_be_told_inside_construction(tree):
    cohort = folder.read(tree, mask_at_least=2)
    lesion, empty = cohort.masks["s0"], cohort.masks["s2"]
    tells = [lambda ref: ref.kind, lambda ref: ref.files, lambda ref: ref.key, repr, hash, lambda ref: ref == lesion]
    for tell in tells:
        assert tell(empty) != tell(lesion)
        with construction("a bank"):
            for ref in (lesion, empty):
                with pytest.raises(LabelLeak, match="of a mask reference was asked for while a bank"):
                    tell(ref)
    shown = ("at_least", "lesion_value", "window")
    assert [getattr(empty, name) for name in shown] == [getattr(lesion, name) for name in shown]
    assert empty.size == (96, 96) and empty.picture.endswith("images/s2.png")
    with construction("a bank"):
        copy = pickle.loads(pickle.dumps(lesion))  # a cohort can be sent to a worker, which is refused in its turn
        with pytest.raises(LabelLeak, match="mask reference"):
            refuse_label_arrays("a bank", lesion)
    assert copy == lesion and hash(copy) == hash(lesion) and copy != empty


def test_organ_masks_are_guarded_like_lesion_masks(tree):
    folder.read(tree)
    for file in ("masks/s0.png", "organ/s0.png"):
        with construction("a bank"), pytest.raises(LabelLeak):
            (tree / file).read_bytes()


def test_open_cohort_by_name_and_folder(tree, monkeypatch):
    votes = {"mask_at_least": 2}
    assert open_cohort(str(tree), **votes).name == open_cohort(tree / "index.csv", **votes).name == "mine"
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
