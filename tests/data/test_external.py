"""External cohorts stay shut: by name, by folder, by index, as a renamed copy, as another cohort's data folder."""

from __future__ import annotations

import ast
import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from covtoken.cli import app as cli
from covtoken.data import external
from covtoken.data.case import Case, Cohort
from covtoken.data.cohorts import COMMITTED, EXTERNAL, external_folder, open_cohort
from covtoken.data.external import External, check_index, index_sha256
from covtoken.data.readers import folder as reader
from covtoken.errors import CovtokenError
from covtoken.gates import headlines, runs
from covtoken.paths import PACKAGE, project_root
from covtoken.protocol.setting import open_setting
from covtoken.studies import ablation
from covtoken.studies.study import open_study

KEPT = r"external, kept for one confirmation.*only `covtoken confirm --cohort busbra-external`"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder that stands in for an external one, and is registered by its index."""
    root = tmp_path / "stand_in"
    root.mkdir()
    rows = ["image,mask,patient"]
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (16, 16), np.uint8)).save(root / f"i{i}.png")
        Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save(root / f"m{i}.png")
        rows.append(f"i{i}.png,m{i}.png,p{i}")
    (root / "index.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.setenv("COVTOKEN_DATA", str(tmp_path))
    monkeypatch.setitem(EXTERNAL, "busbra-external", External("stand_in", "busi", index_sha256(root)))
    return root


def refused(opens, *arguments, **options):
    with pytest.raises(CovtokenError, match=KEPT):
        opens(*arguments, **options)


def test_no_external_cohort_is_a_committed_one():
    assert set(EXTERNAL) == {"busbra-external", "lidc-external"} and not set(EXTERNAL) & set(COMMITTED)


def test_the_name_and_every_path_are_refused(tree, tmp_path, monkeypatch):
    os.symlink(tree, tmp_path / "link")
    monkeypatch.chdir(tree)
    for place in (
        "busbra-external",
        tree,
        str(tree),
        f"{tree}/",
        tree / "index.csv",
        tmp_path / "link",
        ".",
        "../link",
    ):
        refused(open_cohort, place)
    refused(open_cohort, tree, name="mine")
    for name in ("lidc-crops", "lits", "busi"):
        refused(open_cohort, name, folder=tree)
    refused(reader.read, tree)


def test_a_renamed_copy_is_known_by_its_index_and_a_folder_by_its_name(tree, tmp_path):
    copy = tmp_path / "mine"
    shutil.copytree(tree, copy)
    refused(open_cohort, copy)
    refused(open_cohort, copy, name="other")
    (copy / "index.csv").write_text((tree / "index.csv").read_text() + "\n")  # another index, so no longer that list
    assert len(open_cohort(copy).cases) == 3
    refused(open_cohort, copy, name="busbra-external")
    for name in ("Stand_In", "busbra-external"):
        other = tmp_path / "deep" / name
        shutil.copytree(copy, other)
        refused(open_cohort, other)


def own(tmp_path, image, mask="m0.png"):
    """A folder of one's own beside the stand-in, whose index lists a picture and a mask."""
    root = tmp_path / "own"
    root.mkdir(exist_ok=True)
    for name, pixels in (("mine.png", np.arange(256).reshape(16, 16)), ("m0.png", np.eye(16) * 255)):
        Image.fromarray(pixels.astype(np.uint8)).save(root / name)
    (root / "index.csv").write_text(f"image,mask,patient\n{image},{mask},p0\n")
    return root


def test_a_folder_that_reaches_into_an_external_one_is_refused(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "size_of", lambda file: pytest.fail("a picture was opened first"))
    root = own(tmp_path, "images/i0.png")
    (root / "images").symlink_to(tree)  # the folder of the pictures
    refused(open_cohort, root)
    refused(open_cohort, root, name="other")
    (root / "one.png").symlink_to(tree / "i0.png")  # a single picture
    refused(open_cohort, own(tmp_path, "one.png"))
    refused(open_cohort, own(tmp_path, "mine.png", "images/m0.png"))  # a mask
    (root / "organ").symlink_to(tree)
    (tree / "mine.png").write_bytes((root / "mine.png").read_bytes())
    refused(open_cohort, own(tmp_path, "mine.png", ""))  # the organ mask beside it

    tree.rename(tmp_path / "renamed")  # known by its index
    (root / "images").unlink()
    (root / "images").symlink_to(tmp_path / "renamed")
    refused(open_cohort, own(tmp_path, "images/i0.png"))


def test_an_external_folder_is_known_at_any_depth_of_a_path(tree, tmp_path, monkeypatch):
    (tree / "index.csv").unlink()
    (tree / "images").mkdir()
    (tree / "i0.png").rename(tree / "images" / "i0.png")
    refused(open_cohort, own(tmp_path / "stand_in", "mine.png"))  # below it
    root = own(tmp_path, "deep/Stand_In/images/i0.png")
    shutil.copytree(tree, root / "deep" / "Stand_In")  # a copy, by its name
    refused(open_cohort, root)
    (root / "deep" / "plain").mkdir()
    (root / "mine.png").rename(root / "deep" / "plain" / "stand_in.png")  # no folder of that name is passed
    assert len(open_cohort(own(tmp_path, "deep/plain/stand_in.png")).cases) == 1


def test_other_folders_open_as_before_where_no_index_is_registered(tree, monkeypatch):
    monkeypatch.setitem(EXTERNAL, "busbra-external", External("elsewhere", "busi"))
    assert len(open_cohort(tree).cases) == 3


def test_gates_studies_and_settings_are_refused(tree):
    for cohort in ("busbra-external", str(tree), str(tree / "index.csv")):
        for gate, split in (("0", "selection"), ("1", "selection"), ("1", "crossfit"), ("5", "test")):
            refused(runs.run_and_write, gate, cohort, split)
        refused(open_setting, cohort)
        refused(open_study, cohort)
        refused(ablation.run_ablation, cohort)
    refused(headlines.measure_spreads, "busbra-external", ("1",))  # it would limit the cohort to a few units
    case = Case("a", "a", "ultrasound", lambda: np.zeros((8, 8), np.float32))
    refused(open_setting, Cohort("busbra-external", "ultrasound", (case,), {}))
    with pytest.raises(CovtokenError, match="unknown gate 'confirmation'"):
        runs.run_and_write("confirmation", "busbra-external")


@pytest.mark.parametrize(
    "arguments",
    [
        ["gate", "1"],
        ["gate", "0"],
        ["gate", "1", "--split", "crossfit", "--record"],
        ["ablate"],
        ["ablate", "--banks"],
        ["in-organ"],
        ["alarm"],
    ],
)
def test_no_command_but_the_confirmation_opens_one(tree, arguments, monkeypatch, capsys):
    monkeypatch.setattr("covtoken.gates.runs.refuse_uncommitted", lambda: None)
    monkeypatch.setattr(sys, "argv", ["covtoken", *arguments, "--cohort", "busbra-external"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2 and "kept for one confirmation" in capsys.readouterr().err


def test_the_door_opens_by_name_and_for_the_registered_index_alone(tree):
    cohort = open_cohort("busbra-external", open_external=True)
    assert (cohort.name, cohort.modality, len(cohort.units)) == ("busbra-external", "ultrasound", 3) and cohort.curated
    for place in (tree, "busi"):
        with pytest.raises(CovtokenError, match="unknown external cohort"):
            open_cohort(place, open_external=True)
    with pytest.raises(CovtokenError, match="unknown external cohort"):
        external_folder("busi")
    (tree / "index.csv").write_text((tree / "index.csv").read_text() + "\n")
    with pytest.raises(CovtokenError, match=r"has the sha256 [0-9a-f]{64}, registered is"):
        open_cohort("busbra-external", open_external=True)


def test_an_index_that_is_not_registered_or_not_there_opens_nothing(tree, monkeypatch):
    monkeypatch.setitem(EXTERNAL, "busbra-external", External("stand_in", "busi"))
    with pytest.raises(CovtokenError, match=r"none is registered: enter it in covtoken/data/external\.py"):
        check_index("busbra-external", tree)
    (tree / "index.csv").unlink()
    with pytest.raises(CovtokenError, match=r"no index\.csv in"):
        check_index("busbra-external", tree)


def test_one_caller_alone_opens_external_cohorts():
    callers = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "open_external" and isinstance(node.value, ast.Constant):
                callers |= {path.relative_to(PACKAGE).as_posix()} if node.value.value else set()
    assert callers <= {"gates/confirmation.py"}
    assert external.EXTERNAL is EXTERNAL


def test_no_fixture_and_no_notebook_names_an_external_folder():
    root = project_root()
    files = [*root.glob("tests/**/*.py"), *root.glob("notebooks/py/*.py"), *root.glob("benchmarks/*.py")]
    words = ("busbra" + "_external", "lidc" + "_external")
    assert not [path.name for path in files if any(word in path.read_text() for word in words)]
