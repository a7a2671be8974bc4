"""BUSI: the layout as downloaded, OR-ed masks, near-duplicate units, and the errors a user meets."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from covtoken.data.masks import read_mask
from covtoken.data.readers import busi
from covtoken.data.splits import extend_splits
from covtoken.errors import CovtokenError
from covtoken.evaluation.diagnosis import diagnoses


def picture(seed: int) -> np.ndarray:
    field = gaussian_filter(np.random.default_rng(seed).standard_normal((40, 56)), 5)
    return ((field - field.min()) / np.ptp(field) * 255).astype(np.uint8)


def box(rows: slice, columns: slice, shape=(40, 56)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[rows, columns] = True
    return mask


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "busi"

    def put(kind, number, pixels, *masks):
        (root / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / kind / f"{kind} ({number}).png")
        for index, mask in enumerate(masks):
            Image.fromarray(mask).save(root / kind / f"{kind} ({number})_mask{f'_{index}' if index else ''}.png")

    put("benign", 1, picture(1), box(slice(2, 8), slice(3, 9)), box(slice(20, 30), slice(30, 40)))
    put("benign", 2, picture(2), box(slice(5, 9), slice(5, 9)))
    put("malignant", 1, picture(2) // 2 + 30, box(slice(5, 9), slice(5, 9)))
    put("normal", 1, picture(3), box(slice(0), slice(0)))
    (root / "benign" / "._benign (1).png").write_bytes(b"junk")
    return root, put, tmp_path / "splits"


def test_cases_masks_and_units(tree):
    root, _, splits = tree
    cohort = busi.read(root, splits)
    assert [case.name for case in cohort.cases] == ["benign (1)", "benign (2)", "malignant (1)", "normal (1)"]
    assert [case.unit for case in cohort.cases] == ["benign (1)", "benign (2)", "benign (2)", "normal (1)"]
    np.testing.assert_array_equal(cohort.cases[0].pixels(), picture(1).astype(np.float32))
    both = read_mask(cohort.masks["benign (1)"])
    np.testing.assert_array_equal(both, box(slice(2, 8), slice(3, 9)) | box(slice(20, 30), slice(30, 40)))
    assert not read_mask(cohort.masks["normal (1)"]).any()
    told = [cohort.masks[case.name].diagnosis for case in cohort.cases]
    assert told == ["benign", "benign", "malignant", "normal"]


def test_growth_keeps_units_and_committed_files_spare_the_thumbnails(tree, monkeypatch):
    root, put, splits = tree
    first = busi.read(root, splits)
    extend_splits(first, splits, write=True)
    put("benign", 0, picture(2), box(slice(5, 9), slice(5, 9)))  # sorts first in its group, must not rename it
    grown = {case.name: case.unit for case in busi.read(root, splits).cases}
    assert grown == {**{case.name: case.unit for case in first.cases}, "benign (0)": "benign (2)"}
    (root / "benign" / "benign (0).png").unlink()
    monkeypatch.setattr(busi, "thumbnail", lambda pixels: pytest.fail("looked at a picture whose unit is committed"))
    assert busi.read(root, splits).units == first.units


def test_mask_of_another_size_names_both_files(tree):
    root, put, splits = tree
    put("benign", 1, picture(1), box(slice(2, 8), slice(3, 9), (40, 50)))
    cohort = busi.read(root, splits)
    with pytest.raises(CovtokenError, match=r"benign \(1\)_mask.png is 40×50 .*benign \(1\).png is 40×56"):
        read_mask(cohort.masks["benign (1)"])


def test_missing_data_and_masks_say_what_to_do(tree, monkeypatch, tmp_path):
    root, _, splits = tree
    monkeypatch.delenv("COVTOKEN_DATA", raising=False)
    with pytest.raises(CovtokenError, match=r"COVTOKEN_DATA is not set\. Download"):
        busi.read()
    with pytest.raises(CovtokenError, match="is not a folder"):
        busi.read(tmp_path / "nowhere")
    (root / "benign" / "benign (2)_mask.png").unlink()
    with pytest.raises(CovtokenError, match=r"benign \(2\).png has no mask file"):
        busi.read(root, splits)


def test_truncated_picture_is_named(tree):
    root, _, splits = tree
    cohort = busi.read(root, splits)
    file = root / "benign" / "benign (2).png"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(CovtokenError, match=r"benign \(2\).png cannot be read"):
        cohort.cases[1].pixels()


def test_real_busi(covtoken_data, tmp_path):
    """All of BUSI, grouped afresh: the committed groups come out, and the picture of two classes is one unit."""
    if not (covtoken_data / busi.FOLDER).is_dir():
        pytest.skip(f"{busi.FOLDER} is not under COVTOKEN_DATA")
    afresh, committed = busi.read(splits_folder=tmp_path), busi.read()
    unit = {case.name: case.unit for case in afresh.cases}
    assert unit["benign (433)"] == unit["malignant (145)"]
    assert (len(afresh.cases), len(afresh.units)) == (780, 603)
    assert unit == {case.name: case.unit for case in committed.cases}
    told = diagnoses(committed, committed.cases)
    assert [(told == value).sum() for value in (0, 1, -1)] == [437, 210, 133]
