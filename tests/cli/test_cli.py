"""Bad input: one line that names the thing and the way out, exit code 2, nothing half-written."""

import csv
import os
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from covtoken.cli import app as cli
from covtoken.data.masks import read_mask
from covtoken.data.readers import phantom
from covtoken.errors import CovtokenError
from covtoken.gates import runs
from covtoken.paths import project_root
from covtoken.protocol import setting
from covtoken.protocol.setting import open_setting

TINY = "random:vit_tiny_patch16_224"


def _run(*arguments, **environment):
    command = [sys.executable, "-c", "from covtoken.cli.app import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | environment)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["gate", "1", "--cohort", "bussi"], "did you mean busi"),
        (["gate", "9"], "unknown gate '9'"),
        (["gate", "1", "--record"], "--record needs --split test"),
        (["gate", "1", "--cohort", "phantom", "--split", "training"], "expected selection, test, crossfit or carried"),
        (["gate", "1", "--backbone", "vit_smal_patch14_dinov2"], "vit_small_patch14_dinov2"),
        (["alarm", "--cohort", "bussi"], "did you mean busi"),
        (["lock", "everything"], "expected thresholds, headline or confirmation"),
        (["signoff", "../../x", "--cohort", "phantom", "--name", "A"], "no name of a gate or a cohort"),
        (["gate", "1", "--name", "mine"], "--name mine is for a folder"),
        (["gate", "1", "--weights", "/nowhere.pth"], "weights file /nowhere.pth does not exist"),
        (["signoff", "1", "--cohort", "nowhere", "--name", "A"], "no report at"),
        (["signoff", "1", "--cohort", "/tmp/nowhere", "--name", "A"], "gate_reports/nowhere/gate1.json"),
        (["lock", "thresholds", "--cohort", "/tmp/nowhere"], "gate_reports/_run/nowhere/gate1.json"),
        (["lock", "headline", "--cohort", "/tmp/nowhere"], "gate_reports/nowhere/gate1.json"),
        (["gate", "1", "--cohort", "/tmp/nowhere"], "/tmp/nowhere is no folder"),
        (["gate", "1", "--data", "/tmp"], "leave the data folder (/tmp) out"),
        (["ablate", "--cohort", "bussi"], "did you mean busi"),
        (["confirm", "--cohort", "busbra-external"], "is opened once and nobody peeks"),
        (["confirm", "--cohort", "busi", "--record"], "unknown external cohort 'busi'"),
        (["confirm", "--cohort", "busi"], "unknown external cohort 'busi'"),
        (["lock", "confirmation", "--cohort", "busi"], "unknown external cohort 'busi'"),
        (["lock", "confirmation"], "lock confirmation needs --cohort: busbra-external or lidc-external"),
        (["lock", "confirmation", "--cohort", "busbra-external", "--gate", "1"], "leave --gate 1 out"),
        (["lock", "thresholds", "--cohort", "busbra-external"], "kept for one confirmation"),
        (["lock", "headline", "--cohort", "busbra-external"], "kept for one confirmation"),
        (["ablate", "--choose", "--record"], "leave --record out"),
        (["ablate", "--choose", "--cohort", "busi"], "leave --cohort out"),
        (["ablate", "--choose", "--banks", "--backbone", "dinov2-base"], "leave --backbone out"),
        (["in-organ", "--choose", "--data", "/tmp", "--record"], "leave --data, --record out"),
        (["gate", "1", "--cohort", "lidc-external"], "kept for one confirmation"),
        (["gate", "1", "--split", "test", "--record", "--precision", "bf16"], "recorded numbers are fp32"),
    ],
)
def test_one_clear_line_and_exit_code_2(arguments, expected, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["covtoken", *arguments])
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # which the command sets
    before = sorted((project_root() / "gate_reports").glob("*/*"))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    assert expected in said and said.count("\n") == 1 and "Traceback" not in said
    assert sorted((project_root() / "gate_reports").glob("*/*")) == before


@pytest.mark.parametrize("arguments", [["ablate", "--banks"], ["ablate"], ["in-organ"], ["gate", "1"]])
@pytest.mark.parametrize("backbone", ["nope", "random:nope"])
def test_an_unknown_backbone_is_said_before_missing_data(arguments, backbone, monkeypatch, capsys):
    monkeypatch.delenv("COVTOKEN_DATA", raising=False)
    test_one_clear_line_and_exit_code_2(
        [*arguments, "--cohort", "busi", "--backbone", backbone], f"unknown backbone '{backbone}'", monkeypatch, capsys
    )


def test_help_is_quick_of_imports_and_names_the_commands():
    code = "import sys, covtoken.cli.app; assert 'torch' not in sys.modules; covtoken.cli.app.app(['--help'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    known = (
        "gate",
        "lock",
        "confirm",
        "report",
        "signoff",
        "ablate",
        "in-organ",
        "alarm",
        "volumes",
        "figure",
        "clock",
    )
    for command in known:
        assert command in result.stdout


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder of twelve patients with masks; its name holds what a terminal could take for markup."""
    folder = tmp_path_factory.mktemp("own") / "müll er [x] :x:"
    folder.mkdir()
    cohort = phantom.read(n=12)
    with (folder / "index.csv").open("w", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(["image", "mask", "patient"])
        for i, case in enumerate(cohort.cases):
            Image.fromarray(np.clip(case.pixels() / 4 + 60, 0, 255).astype(np.uint8)).save(folder / f"i{i}.png")
            Image.fromarray(read_mask(cohort.masks[case.name]).astype(np.uint8) * 255).save(folder / f"m{i}.png")
            out.writerow([f"i{i}.png", f"m{i}.png", f"p{i}"])
    yield folder
    shutil.rmtree(project_root() / "gate_reports" / "_run" / folder.name, ignore_errors=True)


def test_a_folder_of_ones_own_says_in_ten_lines_what_came_out_and_why(own, tmp_path):
    gate = ("gate", "1", "--cohort", str(own), "--backbone", "random:vit_tiny_patch16_224")
    cache = {"COVTOKEN_CACHE": str(tmp_path / "cache")}
    table = tmp_path / "all.csv"
    # A terminal of 80 columns that knows ASCII alone.
    done = _run(*gate, "--full", "--csv", str(table), PYTHONIOENCODING="ascii", COLUMNS="80", **cache)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    lines = done.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("gate 1, m?ll er [x] :x:, crossfit: 12 units"))
    assert len(lines[start:]) <= 14 and not any("auroc." in line for line in lines[start:])
    assert any(line.startswith("NO-VERDICT: only 12 units") and "the middle block" in line for line in lines)
    assert lines[-1].endswith("[x] :x:/gate1.json")
    rows = list(csv.DictReader(table.open()))
    shown = "".join(line.split("|")[1].strip() for line in lines if line.startswith("|"))
    assert len(rows) > 50 and all(row["metric"] in shown for row in rows if row["value"]), "a name was cut"

    other = tmp_path / own.name  # another folder of that name: its report must not take the other's place
    shutil.copytree(own, other)
    Image.fromarray(np.asarray(Image.open(other / "i0.png"))[::-1]).save(other / "i0.png")
    with pytest.raises(CovtokenError, match=r"is the report of other pictures.*--name"):
        runs.run_and_write(1, str(other), "crossfit", backbone=TINY)
    runs._refuse_another_folder(open_setting(str(other), None, TINY, name="another one"), "1", False)
    runs._refuse_another_folder(open_setting(str(own), None, TINY), "1", False)  # the same pictures may be run again


@pytest.mark.parametrize(("value", "said"), [(0, "are empty"), (255, "cover the whole picture")])
def test_masks_in_which_nothing_can_be_measured_are_refused_before_extraction(own, tmp_path, monkeypatch, value, said):
    folder = tmp_path / "blank"
    shutil.copytree(own, folder)
    for mask in folder.glob("m*.png"):
        Image.fromarray(np.full((96, 96), value, np.uint8)).resize(Image.open(mask).size).save(mask)
    monkeypatch.setattr(setting, "features", lambda *a, **k: pytest.fail("pictures were extracted first"))
    with pytest.raises(CovtokenError, match=f"blank: the masks of all 12 pictures {said}.*for maps without masks use"):
        runs.run_and_write(1, str(folder), "crossfit", backbone=TINY)
