"""``covtoken index`` and ``covtoken check``: names that match, names that do not, and what is wrong with a folder."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from covtoken.cli.app import app
from covtoken.errors import CovtokenError


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "80"})


def save(path, value=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(list(path.name.encode())).integers(0, 255, (40, 50)).astype(np.uint8)
    Image.fromarray(noise if value is None else np.full((40, 50), value, np.uint8)).save(path)


def mask(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    marked = np.zeros((40, 50), np.uint8)
    marked[5:20, 5:20] = 255
    Image.fromarray(marked).save(path)


def rows_of(index):
    with index.open(newline="") as stream:
        return [tuple(row) for row in csv.reader(stream)]


def test_index_matches_names_and_says_what_does_not(tmp_path):
    for name in ("a_1", "b_1", "b_2", "c_1", "d_1"):
        save(tmp_path / "pictures" / f"{name}.png")
    for name in ("a_1", "b_1_mask", "seg_b_2", "d_1_mask_1", "d_1_mask_2", "z_mask"):
        mask(tmp_path / "masks" / f"{name}.png")
    done = run("index", tmp_path / "pictures", tmp_path / "masks", "--patient", "^([^_]+)_")
    assert done.exit_code == 1
    assert rows_of(tmp_path / "index.csv") == [
        ("image", "mask", "patient"),
        ("pictures/a_1.png", "masks/a_1.png", "a"),
        ("pictures/b_1.png", "masks/b_1_mask.png", "b"),
        ("pictures/b_2.png", "masks/seg_b_2.png", "b"),
    ]
    told = [line for line in done.stdout.splitlines() if line.startswith("left out: ")]
    assert len(told) == 3 and "mask z_mask.png: no picture" in done.stdout and "c_1.png: no mask" in done.stdout
    assert "d_1.png: 2 masks (d_1_mask_1.png, d_1_mask_2.png)" in done.stdout and "2 patients" in done.stderr

    with_normal = tmp_path / "with_normal.csv"
    arguments = ("index", tmp_path / "pictures", tmp_path / "masks", "-o", with_normal, "--no-mask-is-normal", "--json")
    said = json.loads(run(*arguments).stdout)
    assert (said["pictures"], said["masks"]) == (4, 3) and ("pictures/c_1.png", "") in rows_of(with_normal)
    assert isinstance(run(*arguments).exception, CovtokenError)  # the list is there already


def test_index_of_one_folder_is_what_a_gate_reads(tmp_path):
    for i in range(12):
        save(tmp_path / "own" / f"p{i}.png")
        mask(tmp_path / "own" / f"p{i}_mask.png")
    assert run("index", tmp_path / "own", tmp_path / "own", "--patient", r"(p\d+)").exit_code == 0
    assert len(rows_of(tmp_path / "own" / "index.csv")) == 13
    done = run("check", tmp_path / "own", "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 0 and found["numbers"]["cases"] == 12 and found["numbers"]["with_lesion"] == 12


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "masks"], "nowhere is no folder"),
        (["empty", "masks"], "holds no picture"),
        (["pictures", "empty"], "no mask matches a picture"),
        (["pictures", "masks", "--patient", "("], "no regular expression"),
        (["pictures", "masks", "--patient", "x(y)"], "names no patient"),
        (["pictures", "masks", "-o", "pictures/index.csv"], "paths in a list stay inside"),
        (["pictures", "masks", "--modality", "mri"], "unknown modality 'mri'"),
    ],
)
def test_index_refuses_with_the_way_out(arguments, said, tmp_path, monkeypatch):
    save(tmp_path / "pictures/a.png")
    mask(tmp_path / "masks/a.png")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CovtokenError, match=said):
        CliRunner().invoke(app, ["index", *arguments], catch_exceptions=False)
    assert not list(tmp_path.rglob("*.csv"))


def test_check_of_plain_pictures_finds_the_blank_and_the_broken(tmp_path):
    for i in range(3):
        save(tmp_path / f"p{i}.png")
    save(tmp_path / "white.png", 255)
    mask(tmp_path / "p0_mask.png")
    done = run("check", tmp_path, "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 0 and found["problems"] == [] and found["numbers"]["blank"] == 1
    assert found["numbers"]["enough to be their own bank"].startswith("no") and found["numbers"]["slices"] == 4
    assert {note["file"] for note in found["notes"]} == {"white", "p0_mask.png"}
    (tmp_path / "torn.png").write_bytes((tmp_path / "p0.png").read_bytes()[:60])
    done = run("check", tmp_path)
    assert done.exit_code == 1 and "PROBLEM, torn:" in done.stdout and "1 problems, 2 notes" in done.stdout
