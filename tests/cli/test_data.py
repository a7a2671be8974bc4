"""``covtoken data``: what is printed for people and programs, and with which exit code."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from covtoken.cli.app import app
from covtoken.data.external import EXTERNAL
from covtoken.data.fetch.data_sets import DATA_SETS
from covtoken.errors import CovtokenError


def run(*arguments):
    return CliRunner().invoke(app, ["data", *map(str, arguments)], env={"COLUMNS": "80"})


@pytest.fixture
def own(tmp_path):
    """A folder of twelve patients; ``[x]`` in its name must not be read as markup."""
    root = tmp_path / "own [x]"
    root.mkdir()
    rows, mask = ["image,mask,patient"], np.zeros((96, 96), np.uint8)
    mask[5:20, 5:20] = 255
    for i in range(12):
        field = gaussian_filter(np.random.default_rng(i).standard_normal((96, 96)), 6)
        Image.fromarray(((field - field.min()) / np.ptp(field) * 255).astype(np.uint8)).save(root / f"i{i}.png")
        Image.fromarray(mask).save(root / f"m{i}.png")
        rows.append(f"i{i}.png,m{i}.png,p{i}")
    (root / "index.csv").write_text("\n".join(rows) + "\n")
    return root


def test_list_without_a_root_says_how_to_set_it(monkeypatch):
    monkeypatch.delenv("COVTOKEN_DATA", raising=False)
    done = run("list")
    assert done.exit_code == 0 and "COVTOKEN_DATA is not set" in done.stderr
    lines = done.stdout.splitlines()
    assert all(any(line.startswith(name) for line in lines) for name in DATA_SETS)
    assert "covtoken data fetch msd-task03" in done.stdout and max(map(len, lines)) <= 80


def test_list_finds_folders_by_name_and_opens_none(tmp_path, monkeypatch):
    monkeypatch.setenv("COVTOKEN_DATA", str(tmp_path))
    for folder in ("Dataset_BUSI_with_GT", "Task06_Lung", EXTERNAL["busbra-external"].folder):
        (tmp_path / folder).mkdir(mode=0)
    said = json.loads(run("list", "--json").stdout)
    rows = {row["name"]: row for row in said["data_sets"]}
    assert said["root"] == str(tmp_path)
    assert {n for n, row in rows.items() if row["found"]} == {"phantom", "busi", "msd-task06", "busbra-external"}
    assert rows["busi"]["next"] == "covtoken data check busi" and rows["lits"]["next"] == "see data_cards/lits.md"
    assert rows["kits23"]["next"] == "covtoken data fetch kits23"
    assert rows["busbra-external"]["next"] == "covtoken confirm --cohort busbra-external"
    assert rows["msd-task06"]["licence"] == "CC BY-SA 4.0" and rows["msd-task06"]["kind"] == "data set"


def test_check_prints_and_its_exit_code_says_whether_a_gate_would_take_it(own):
    done = run("check", own)
    assert done.exit_code == 0 and "own [x]: nothing here stops a gate; 0 notes" in done.stdout
    assert "12, 12" in done.stdout and done.stderr == ""
    for i in range(1, 12):
        (own / f"m{i}.png").write_text("not a mask")
    done = run("check", own)
    assert done.exit_code == 1 and "own [x]: 11 problems that stop a gate; 0 notes" in done.stdout
    assert done.stdout.count("PROBLEM, mask: ") == 11 and "PROBLEM, mask: 1 more; --all" in done.stdout
    assert run("check", own, "--all").stdout.count("is of no known format") == 11
    said = json.loads(run("check", own, "--json").stdout)
    assert said["stops"] and len(said["findings"]) == 11 and said["numbers"]["with_lesion"] == 1


def test_check_of_a_name_that_is_not_there():
    done = run("check", "bussi")
    assert isinstance(done.exception, CovtokenError) and "did you mean busi" in str(done.exception)


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("kits23", ["git clone https://github.com/neheller/kits23", "pip install -e .", "kits23_download_data"]),
        ("lidc-idri", ["NBIA Data Retriever", "cancerimagingarchive.net"]),
        ("busi", ["No public source gives a hash", "--sha256"]),
    ],
)
def test_fetch_prints_the_official_steps_with_licence_and_citation(name, steps, monkeypatch):
    monkeypatch.delenv("COVTOKEN_DATA", raising=False)
    done = run("fetch", name)
    assert done.exit_code == 1 and all(step in done.stdout for step in steps)
    assert done.stdout.startswith(f"{name}: {DATA_SETS[name].licence}. Cite: {DATA_SETS[name].citation}")
    assert "covtoken data check " + name in done.stdout


def test_fetch_says_licence_first_and_leaves_what_is_there(tmp_path, monkeypatch):
    told = {}
    monkeypatch.setattr("covtoken.data.fetch.fetch.download", lambda url, file, known, report: told.update(a=file))
    monkeypatch.setattr("covtoken.data.fetch.fetch.unpack", lambda archive, top, target, report: archive.touch() or 3)
    done = run("fetch", "msd-task06", "--to", tmp_path)
    assert done.exit_code == 0 and told["a"] == tmp_path / "Task06_Lung.tar"
    assert "licence CC BY-SA 4.0. Cite: Antonelli" in done.stderr
    assert f"3 files. Next: COVTOKEN_DATA={tmp_path} covtoken data check msd-task06" in done.stdout
    (tmp_path / "Task06_Lung").mkdir()
    told.clear()
    assert "is there already" in run("fetch", "msd-task06", "--to", tmp_path).stdout and not told
