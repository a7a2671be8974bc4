"""Diagnoses come through the label door: refused inside construction, and independent of every name."""

import pickle
from dataclasses import astuple, replace

import numpy as np
import pytest
from PIL import Image

from covtoken.data.case import Cohort, MaskRef
from covtoken.data.readers import busi, folder, phantom
from covtoken.errors import CovtokenError
from covtoken.evaluation.diagnosis import diagnoses
from covtoken.leak_guard import LabelLeak, construction, refuse_label_arrays


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(1, 255, (40, 48), np.uint8))


@pytest.fixture
def cohort(tmp_path):
    """BUSI's layout; one file's name says another class than its folder."""
    mask = np.zeros((40, 48), bool)
    mask[4:9, 5:12] = True
    names = {"benign": ["benign (1)", "malignant (7)"], "malignant": ["malignant (1)"], "normal": ["normal (1)"]}
    for kind, stems in names.items():
        (tmp_path / kind).mkdir()
        for stem in stems:
            picture(len(kind) + sum(map(ord, stem))).save(tmp_path / kind / f"{stem}.png")
            Image.fromarray(mask & (kind != "normal")).save(tmp_path / kind / f"{stem}_mask.png")
    return busi.read(tmp_path, tmp_path / "splits")


@pytest.fixture
def listed(tmp_path):
    """Write a folder's list with the given cells of the column ``diagnosis``, a row each, and read it."""

    def read(*cells, column="diagnosis") -> Cohort:
        lines = [f"image,mask,patient,{column}"]
        for i, cell in enumerate(cells):
            picture(i).save(tmp_path / f"p{i}.png")
            lines.append(f"p{i}.png,,u{i},{cell}")
        (tmp_path / "index.csv").write_text("\n".join(lines) + "\n")
        return folder.read(tmp_path, "mine")

    return read


def test_the_folder_decides_and_not_the_name(cohort):
    assert [case.name for case in cohort.cases] == ["benign (1)", "malignant (1)", "malignant (7)", "normal (1)"]
    found = diagnoses(cohort, cohort.cases)
    assert found.tolist() == [0, 1, 0, -1] and found.dtype == np.int8
    assert diagnoses(cohort, cohort.cases[::-1]).tolist() == [-1, 0, 1, 0]


def test_renaming_changes_nothing(cohort):
    new = dict(zip((case.name for case in cohort.cases), ("normal (9)", "benign (9)", "x", "malignant (9)")))
    cases = tuple(replace(case, name=new[case.name], unit="benign", source="malignant") for case in cohort.cases)
    renamed = replace(cohort, cases=cases, masks={new[name]: ref for name, ref in cohort.masks.items()})
    assert diagnoses(renamed, cases).tolist() == diagnoses(cohort, cohort.cases).tolist()


def test_inside_construction_nothing_tells_the_diagnosis(cohort):
    benign, malignant = cohort.masks["benign (1)"], cohort.masks["malignant (1)"]
    twins = [MaskRef("empty", key="4x4", diagnosis=diagnosis) for diagnosis in ("benign", "malignant")]
    attacks = [lambda ref: ref.diagnosis, lambda ref: getattr(ref, "diagnosis", ""), astuple, repr, hash]
    for attack in (*attacks, lambda ref: ref == twins[0], lambda ref: replace(ref, key="")):
        assert attack(twins[0]) != attack(twins[1])
        with construction("a bank"), pytest.raises(LabelLeak):
            attack(twins[1])
    with construction("a bank"):
        with pytest.raises(LabelLeak, match="the diagnoses of cohort 'busi' was asked for while a bank"):
            diagnoses(cohort, cohort.cases)
        with pytest.raises(LabelLeak, match="the diagnosis of a mask reference"):
            _ = benign.diagnosis
        sent = pickle.loads(pickle.dumps(malignant))  # as all mask references may be
    assert sent == malignant and sent.diagnosis == "malignant"
    with pytest.raises(LabelLeak, match="int8"):
        refuse_label_arrays("a bank", diagnoses(cohort, cohort.cases))


def test_a_list_may_tell_diagnoses(listed):
    cohort = listed("benign", "Malignant ", "", "normal")
    assert diagnoses(cohort, cohort.cases).tolist() == [0, 1, -1, -1]
    unlabelled = listed("benign", "malignant", column="note")
    assert diagnoses(unlabelled, unlabelled.cases).tolist() == [-1, -1]
    with construction("a bank"), pytest.raises(LabelLeak):
        listed("benign")


def test_unknown_words_and_cases_are_refused(listed, cohort):
    with pytest.raises(CovtokenError, match=r"index.csv, line 3: diagnosis 'BI-RADS 4': expected benign, malignant"):
        listed("benign", "BI-RADS 4")
    with pytest.raises(CovtokenError, match=r"case 'benign \(1\)' has no mask entry"):
        diagnoses(replace(cohort, masks={}), cohort.cases)


def test_the_phantom_has_none():
    cohort = phantom.read()
    assert set(diagnoses(cohort, cohort.cases).tolist()) == {-1}
