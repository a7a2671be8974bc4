"""The check of a cohort's files: right counts, every planted problem named with its file, none that ends it."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from covtoken.data.case import Case, Cohort, MaskRef, noting
from covtoken.data.check import run
from covtoken.data.check.findings import folder_findings, whole_findings
from covtoken.data.check.run import check
from covtoken.data.cohorts import open_cohort
from covtoken.data.external import EXTERNAL
from covtoken.data.fetch.data_sets import COHORT, DATA_SETS
from covtoken.data.readers import busi, folder
from covtoken.errors import CovtokenError
from covtoken.leak_guard import LabelLeak, construction


def smooth(seed: int, shape=(96, 80)) -> np.ndarray:
    field = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 6)
    return ((field - field.min()) / np.ptp(field) * 250 + 5).astype(np.uint8)


class Tree:
    """A folder with index.csv, written row by row."""

    def __init__(self, root):
        self.root, self.rows = root, ["image,mask,patient,spacing"]
        root.mkdir()

    def add(self, name, picture, mask=None, patient="", spacing=""):
        Image.fromarray(picture).save(self.root / f"{name}.png")
        if mask is not None:
            Image.fromarray(mask).save(self.root / f"{name}_m.png")
        self.rows.append(f"{name}.png,{'' if mask is None else f'{name}_m.png'},{patient or name},{spacing}")
        (self.root / "index.csv").write_text("\n".join(self.rows) + "\n")


def mask_of(*boxes, shape=(96, 80)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    for row, column, height, width in boxes:
        mask[row : row + height, column : column + width] = 255
    return mask


@pytest.fixture
def tree(tmp_path):
    """Twenty patients without any fault: ten with a lesion of 100 px and one of 50, ten without."""
    tree = Tree(tmp_path / "mine")
    for i in range(20):
        boxes = [(10, 10, 10, 10), (40, 40, 5, 10)] if i < 10 else []
        tree.add(f"s{i:02}", smooth(i), mask_of(*boxes), f"P{i:02}", "0.5 2")
    return tree


def found(tree, **options) -> dict[str, list]:
    """Check a tree; give findings by kind."""
    by_kind: dict[str, list] = {}
    for finding in check(str(tree.root), **options).findings:
        by_kind.setdefault(finding.kind, []).append(finding)
    return by_kind


def test_counts_sizes_and_areas_of_a_faultless_folder(tree):
    checked = check(str(tree.root))
    numbers = checked.numbers
    assert not checked.findings and not checked.stops and checked.name == "mine"
    assert [numbers[k] for k in ("cases", "units", "with_lesion", "without_lesion", "lesions")] == [20, 20, 10, 10, 20]
    assert numbers["height_px"] == {"smallest": 96, "median": 96, "largest": 96}
    assert numbers["width_px"]["median"] == 80 and numbers["values"] == [5, 255]
    assert (numbers["spacing_row_mm"]["median"], numbers["spacing_column_mm"]["median"]) == (0.5, 2)
    assert [numbers["lesion_area_px"][k] for k in ("smallest", "median", "largest")] == [50, 75, 100]
    assert numbers["lesion_area_mm2"]["largest"] == 100  # 100 px of 0.5 × 2 mm
    assert numbers["lesion_share"]["median"] == pytest.approx(150 / (96 * 80))
    splits = numbers["splits"]
    assert splits["file"] is None and splits["cross_fitted"] == 5
    assert sum(splits[name]["cases"] for name in ("bank", "selection", "calibration", "test")) == 20


def test_files_that_cannot_be_read_are_named_and_end_nothing(tree):
    tree.add("gone", smooth(30), mask_of())
    tree.add("cut", smooth(31), mask_of())
    tree.add("text", smooth(32), mask_of())
    tree.add("cutmask", smooth(33), mask_of((3, 3, 9, 9)))
    tree.add("small", smooth(34)[:7], mask_of()[:7])
    (tree.root / "gone.png").unlink()
    (tree.root / "cut.png").write_bytes((tree.root / "cut.png").read_bytes()[:-2000])
    (tree.root / "text.png").write_text("not a picture")
    (tree.root / "cutmask_m.png").write_bytes((tree.root / "cutmask_m.png").read_bytes()[:60])
    kinds = found(tree)
    assert {os.path.basename(f.file) for f in kinds["unreadable"]} == {"gone.png", "text.png", "small.png"}
    assert [os.path.basename(f.file) for f in kinds["picture"]] == ["cut.png"] and "truncated" in kinds["picture"][
        0
    ].what
    assert [os.path.basename(f.file) for f in kinds["mask"]] == ["cutmask_m.png"]
    assert all(f.stops for kind in ("unreadable", "picture", "mask") for f in kinds[kind])
    assert check(str(tree.root)).numbers["cases"] == 22
    with pytest.raises(CovtokenError):  # who collects no faults still gets the first as an error
        open_cohort(str(tree.root))


def test_masks_of_another_size_value_or_extent(tree):
    tree.add("size", smooth(40), mask_of(shape=(96, 81)))
    tree.add("value", smooth(41), mask_of((5, 5, 9, 9)) // 255 * 200)
    tree.add("full", smooth(42), mask_of((0, 0, 96, 80)))
    tree.add("speck", smooth(43), mask_of((5, 5, 9, 9), (50, 50, 1, 2)))
    kinds = found(tree)
    assert "they must be the same size" in kinds["mask"][0].what and kinds["mask"][0].file.endswith("size_m.png")
    assert kinds["mask value"][0].file.endswith("value_m.png") and kinds["mask value"][0].stops
    assert kinds["full mask"][0].what.startswith("100 %") and not kinds["full mask"][0].stops
    assert "2 px" in kinds["speck"][0].what and set(kinds) == {"mask", "mask value", "full mask", "speck"}


def test_blank_tiny_and_out_of_range_pictures(tree):
    tree.add("blank", np.full((96, 80), 7, np.uint8), mask_of())
    tree.add("tiny", smooth(44)[:40, :40], mask_of()[:40, :40])
    tree.add("deep", smooth(45).astype(np.uint16) * 9, mask_of())
    kinds = found(tree)
    assert {kind: [os.path.basename(f.file) for f in some] for kind, some in kinds.items()} == {
        "blank": ["blank.png"],
        "tiny": ["tiny.png"],
        "values": ["deep.png"],
    }
    assert "every pixel is 7" in kinds["blank"][0].what and "40×40" in kinds["tiny"][0].what
    assert kinds["values"][0].stops and not kinds["blank"][0].stops


def test_look_alikes_stop_a_gate_across_splits_alone(tree, monkeypatch):
    tree.add("twin", smooth(3), mask_of(), "P03")  # the same patient may
    assert "near-duplicate" not in found(tree)
    tree.add("again", smooth(3), mask_of(), "another")
    monkeypatch.setattr("covtoken.data.check.findings.parts", lambda c: dict.fromkeys(c.units, "bank"))
    pairs = found(tree)["near-duplicate"]
    assert len(pairs) == 2 and not any(f.stops for f in pairs) and "again.png" in pairs[0].what + pairs[1].what
    monkeypatch.setattr("covtoken.data.check.findings.parts", lambda c: {u: u for u in c.units})
    pairs = found(tree)["near-duplicate"]
    assert all(f.stops and "are one picture, in two splits" in f.what for f in pairs)
    noisy = np.clip(smooth(3) + np.random.default_rng(0).normal(0, 25, (96, 80)), 0, 255).astype(np.uint8)
    tree.add("noisy", noisy, mask_of(), "third")
    assert any("look alike (correlation 0.9" in f.what for f in found(tree)["near-duplicate"])


def test_one_patient_written_two_ways(tree, monkeypatch):
    tree.add("extra", smooth(50), mask_of(), "p 03")
    tree.add("other", smooth(51), mask_of(), "P-04")
    tree.add("far", smooth(52), mask_of(), "P4")
    monkeypatch.setattr("covtoken.data.check.findings.parts", lambda c: {u: u for u in c.units})
    assert "unit" not in found(tree)
    tree.add("same", smooth(53), mask_of(), "p03")
    units = found(tree)["unit"]
    assert [f.what for f in units] == [
        "'P03' and 'p03' look like one patient, in several splits: write the name one way"
    ]
    assert units[0].stops


def test_junk_orphans_and_patients_that_are_not_named(tree):
    (tree.root / "._s01.png").write_bytes(b"junk")
    (tree.root / "__MACOSX").mkdir()
    (tree.root / "__MACOSX" / "s01.png").write_bytes(b"junk")
    Image.fromarray(mask_of()).save(tree.root / "lonely_m.png")
    (tree.root / "notes.txt").write_text("no picture")
    tree.rows.append("s00b.png,s00_m.png,,")
    Image.fromarray(smooth(60)).save(tree.root / "s00b.png")
    (tree.root / "index.csv").write_text("\n".join(tree.rows) + "\n")
    kinds = found(tree)
    assert [os.path.basename(f.file) for f in kinds["junk"]] == ["._s01.png"]
    assert [os.path.basename(f.file) for f in kinds["orphan"]] == ["lonely_m.png"]
    assert "names no patient for 1 of its 21 pictures" in kinds["warning"][0].what
    assert set(kinds) == {"junk", "orphan", "warning"} and not any(f.stops for some in kinds.values() for f in some)


def test_too_few_units_and_masks_in_which_nothing_can_be_measured(tmp_path):
    tree = Tree(tmp_path / "few")
    for i in range(11):
        tree.add(f"s{i}", smooth(i), mask_of())
    kinds = found(tree)
    assert kinds["few units"][0].what.startswith("11 units, and a gate takes 12") and kinds["few units"][0].stops
    assert kinds["no lesion"][0].stops
    tree.add("s11", smooth(11), mask_of((3, 3, 9, 9)))
    assert not found(tree)


def test_a_folder_beyond_its_reader_is_one_problem(tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "index.csv").write_text("picture,mask\na.png,b.png\n")
    checked = check(str(tmp_path / "bad"))
    assert checked.numbers is None and checked.stops and [f.kind for f in checked.findings] == ["cannot open"]
    assert "lacks the column 'image'" in checked.findings[0].what


def test_swapped_columns_are_found(tmp_path):
    tree = Tree(tmp_path / "swapped")
    for i in range(12):
        tree.add(f"s{i}", mask_of((3, 3, 9 + i, 9)), smooth(i))
    assert [f.stops for f in found(tree)["swapped"]] == [True]


def test_units_that_a_committed_list_names_and_the_data_lack(monkeypatch):
    cases = tuple(Case(f"c{i}", f"u{i}", "ct8", lambda: np.zeros((9, 9))) for i in range(12))
    cohort = Cohort("toy", "ct8", cases, {}, left_out=(("c12.png", "near-duplicate of units in two splits: a, b"),))
    listed = {f"c{i}": f"u{i}" for i in range(14)}
    monkeypatch.setattr("covtoken.data.check.findings.listed_files", lambda name: listed)
    kinds = {f.kind: f for f in whole_findings(cohort, 1, 1)}
    assert set(kinds) == {"missing unit", "left out"} and kinds["missing unit"].stops
    assert "unit u12 and 1 more of configs/splits/toy.json" in kinds["missing unit"].what
    assert kinds["left out"].file == "c12.png"

    def edited(_):
        raise CovtokenError("toy.json was edited")

    monkeypatch.setattr("covtoken.data.check.findings.parts", edited)
    assert [f.kind for f in whole_findings(cohort, 1, 1) if f.stops] == ["splits"]


def test_busi_with_a_picture_without_mask_a_mask_without_picture_and_two_diagnoses(tmp_path):
    root = tmp_path / "Dataset_BUSI_with_GT"
    for kind in ("benign", "malignant", "normal"):
        (root / kind).mkdir(parents=True)
    for i in range(14):
        Image.fromarray(smooth(i)).save(root / "benign" / f"benign ({i}).png")
        Image.fromarray(mask_of((9, 9, 9, 9))).save(root / "benign" / f"benign ({i})_mask.png")
    Image.fromarray(mask_of((30, 9, 9, 9))).save(root / "benign" / "benign (2)_mask_1.png")
    Image.fromarray(smooth(5)).save(root / "malignant" / "malignant (1).png")
    Image.fromarray(mask_of()).save(root / "malignant" / "malignant (1)_mask.png")
    Image.fromarray(smooth(50)).save(root / "normal" / "normal (1).png")
    Image.fromarray(mask_of()).save(root / "normal" / "normal (2)_mask.png")
    checked = check("busi", str(root), splits_folder=tmp_path / "splits")
    kinds = Counter(f.kind for f in checked.findings)
    assert {"unreadable": 1, "orphan": 1, "two diagnoses": 1, "empty mask": 1}.items() <= kinds.items()
    by_kind = {f.kind: f for f in checked.findings}
    assert "normal (1).png has no mask file beside it" in by_kind["unreadable"].what
    assert by_kind["orphan"].file.endswith("normal (2)_mask.png")
    assert (
        "benign (5).png and" in by_kind["two diagnoses"].what
        and "benign and malignant" in by_kind["two diagnoses"].what
    )
    assert "is malignant, and its mask is black" in by_kind["empty mask"].what
    assert checked.numbers["with_several_mask_files"] == 1 and checked.numbers["cases"] == 15
    with pytest.raises(CovtokenError, match="has no mask file beside it"):
        busi.read(root, tmp_path / "splits")


def test_what_is_kept_does_not_grow_with_the_cohort(monkeypatch):
    """Of a hundred pictures ten are compared, spread evenly, and no more than a batch of looks is ever alive."""
    drawn, alive = [], 0

    def load(i):
        drawn.append(i)
        return smooth(i % 7).astype(np.float32)

    cases = tuple(Case(f"c{i:03}", f"u{i:03}", "ct8", lambda i=i: load(i)) for i in range(100))
    cohort = Cohort("toy", "ct8", cases, {case.name: MaskRef("empty", key="96x80") for case in cases})
    monkeypatch.setattr(run, "MOST_COMPARED", 10)
    monkeypatch.setattr(run, "AT_ONCE", 8)
    for number, _ in enumerate(run._looks(cohort), 1):
        alive = max(alive, len(drawn) - number)
    assert alive < 8 and len(drawn) == 100
    census, _, compared = run._census(cohort, lambda items, total: items)
    assert compared == 10 and census.numbers()["pictures_read"] == 100


def test_no_mask_is_read_inside_construction_and_no_external_cohort_is_opened(tree):
    with construction("a bank"), pytest.raises(LabelLeak):
        check(str(tree.root))
    with construction("a bank"), pytest.raises(LabelLeak):
        folder.read(tree.root, faults=[])
    with pytest.raises(LabelLeak), noting([], "file"):  # a leak is no fault to be noted
        raise LabelLeak("a mask")
    for name in ("busbra-external", "lidc-external"):
        with pytest.raises(CovtokenError, match="kept for one confirmation"):
            check(name)
    outside = tree.root.parent / EXTERNAL["busbra-external"].folder
    tree.root.rename(outside)
    with pytest.raises(CovtokenError, match="is external"):
        check(str(outside))


def test_a_slice_of_a_volume_uses_its_file(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"x")
    (tmp_path / "b.nii.gz").write_bytes(b"x")
    case = Case("a", "a", "ct", lambda: np.zeros((9, 9)), source=f"{tmp_path}/a.nii.gz, slice 7")
    left = [f.file for f in folder_findings(Cohort("toy", "ct", (case,), {}), tmp_path, set())]
    assert left == [str(tmp_path / "b.nii.gz")]


@pytest.mark.parametrize("name", [known.name for known in DATA_SETS.values() if known.kind == COHORT])
def test_the_table_names_the_folder_that_the_reader_takes(name, monkeypatch):
    monkeypatch.delenv("COVTOKEN_DATA", raising=False)
    with pytest.raises(CovtokenError, match=f"that holds {DATA_SETS[name].folder}/index.csv"):
        open_cohort(name)
    assert DATA_SETS["busi"].folder == busi.FOLDER


REAL = {  # cases, units, with a lesion, without, lesions' files: as the data's own README and cards count them
    "busi": (780, 603, 647, 133, 17),
    "lits": (288, 34, 157, 131, 0),
    "kits19": (56, 28, 53, 3, 0),
    "lidc-crops": (600, 600, 596, 4, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_cohorts_are_counted_right(name, covtoken_data):
    checked = check(name)
    keys = ("cases", "units", "with_lesion", "without_lesion", "with_several_mask_files")
    assert tuple(checked.numbers[key] for key in keys) == REAL[name] and not checked.stops
    twice = [f.what for f in checked.findings if f.kind == "two diagnoses"]
    assert len(twice) == (name == "busi") and all("benign (433)" in w and "malignant (145)" in w for w in twice)


VOLUMES = {  # as above, and what each folder holds that is no picture or no lesion
    "lidc-idri": (59, 1, 18, 41, "no lesions", "4 readings mark what is no lesion here: 1 × a nodule below 3 mm, 1 ×"),
    "msd-task06": (154, 3, 35, 119, "junk", "left by macOS"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VOLUMES)
def test_real_volumes_are_counted_right_and_what_is_planted_is_told(name, covtoken_data):
    checked, (*counts, kind, words) = check(name), VOLUMES[name]
    assert [checked.numbers[key] for key in ("cases", "units", "with_lesion", "without_lesion")] == counts
    found = [finding for finding in checked.findings if finding.kind == kind]
    assert len(found) == 1 and words in found[0].what and not found[0].stops
    assert [finding.kind for finding in checked.findings if finding.stops] == ["few units"]
