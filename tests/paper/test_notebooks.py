"""Notebooks: paired, executed, light; nbval fails when a headline moves, for the phantom and for recorded cohorts."""

import html
import json
import os
import re
import shutil
import subprocess
import sys

import jupytext
import numpy as np
import pytest

from covtoken.evaluation.records import RecordedScores, load_scores, save_scores
from covtoken.paper.numbers import as_text
from covtoken.paper.tables import ablations
from covtoken.paths import project_root
from covtoken.protocol.report import committed_reports

ROOT = project_root()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
GATES = [path for path in NOTEBOOKS if path.stem != "ablations"]  # that has rows of a study, and no report


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_pair_is_in_step(path):
    twin = jupytext.read(path.parent / "py" / f"{path.stem}.py")
    pairs = [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]
    assert pairs == [(cell.cell_type, cell.source) for cell in twin.cells], "run `jupytext --sync notebooks/*.ipynb`"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_executed_light_and_clean(path):
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    tags = [tag for cell in notebook["cells"] for tag in cell["metadata"].get("tags", [])]
    assert path.stat().st_size < 1_000_000 and len(notebook["cells"]) < 15
    assert {"parameters", "nbval-check-output"} <= set(tags)
    assert all(cell["execution_count"] for cell in code), "committed without being run"
    kinds = [output["output_type"] for cell in code for output in cell["outputs"]]
    assert "error" not in kinds and "display_data" in kinds + ["display_data"] * ("execute_result" in kinds)
    assert "NOT REPRODUCED" not in path.read_text()
    assert str(ROOT) not in path.read_text(), "a path of this machine is in the outputs"


def _shown(path):
    """All that a notebook's outputs show as text, without markup."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        for output in cell.get("outputs", []):
            texts = [output.get("text", [])]
            if not {"image/svg+xml", "image/png"} & output.get("data", {}).keys():
                texts += [output.get("data", {}).get(kind, []) for kind in ("text/html", "text/plain")]
            parts += [re.sub(r"<[^>]+>", " ", "".join(text)) for text in texts]
    return html.unescape("\n".join(parts)).replace("\u00a0", " ")


def _reports(path):
    gate = path.stem.removeprefix("gate")
    return [report for report in committed_reports() if str(report.gate) == gate]


@pytest.mark.parametrize("path", GATES, ids=lambda p: p.stem)
def test_every_number_with_an_interval_is_a_committed_one(path):
    """An edited cell of a table fails here: nbval looks at one cell alone."""
    reports = _reports(path)
    if path.stem == "gate5":  # its ways on other backbones stand in records of their own
        reports = [*reports, *(r for r in committed_reports() if str(r.gate) == "backbones")]
    known = {
        as_text(entry, style, signed=signed)
        for report in reports
        for entry in report.metrics.values()
        for style in (".3f", ".2f", ".1f", ".0%")
        for signed in (False, True)
    }
    text = _shown(path)
    shown = re.findall(r"[+−]?\d+(?:\.\d+)?%? \[[^\[\]]*\d(?: exact)?\]", text)
    assert shown or path.stem == "gate0"
    assert not [number for number in shown if number not in known]


def test_the_ablations_sentences_are_those_of_the_committed_tables():
    """Every cohort's, the phantom's too: what the notebook measured from pixels is what was recorded."""
    shown, contents = _shown(ROOT / "notebooks" / "ablations.ipynb"), ablations.committed()
    told = [ablations.follows(name, content) for name in ablations.TITLES for content in contents.values()]
    assert "phantom" in contents and not [sentence for sentence in told if sentence not in shown]
    numbers = re.findall(r"[+−]?\d\.\d+ \[[^\[\]]*\d\]", shown)
    assert numbers and not [number for number in numbers if number not in " ".join(told)]


@pytest.mark.parametrize("path", GATES, ids=lambda p: p.stem)
def test_the_verdict_and_the_checks_are_the_reports(path):
    shown, report = _shown(path), _reports(path)[0]
    assert report.cohort == "phantom" and re.search(rf"\b{report.decision}\b", shown)
    for name, outcome in report.checks.items() if path.stem != "gate0" else ():
        assert f"  {name}: {outcome}\n" in shown + "\n", name


@pytest.fixture
def copy(tmp_path):
    """A copy of the checkout, small enough to break."""
    for name in ("covtoken", "configs", "gate_reports", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "_run"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def _nbval(root):
    environment = os.environ | {"PYTHONPATH": str(root), "JUPYTER_PREFER_ENV_PATH": "1"}
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "-vv", "-p", "no:cacheprovider", "notebooks/gate1.ipynb"]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=500)


@pytest.mark.slow
def test_nbval_fails_where_a_headline_moves(copy):
    """A recorded one (BUSI) and one from pixels (the phantom), in one run."""
    path = copy / "gate_reports" / "busi" / "scores.safetensors"
    recorded = load_scores(path)
    noise = np.random.default_rng(0).normal(0, 0.1, recorded.labels.lesion.shape)
    moved = recorded.scores | {"density": (recorded.scores["density"] + noise).astype(np.float16)}
    save_scores(RecordedScores(moved, recorded.labels, recorded.header), path)
    source = copy / "covtoken" / "protocol" / "scoring.py"
    honest = "maps = {name: to_float16("
    assert honest in source.read_text()
    source.write_text(source.read_text().replace(honest, "maps = {name: to_float16(-"))
    result = _nbval(copy)
    assert result.returncode == 1, result.stdout[-3000:]
    for cohort, moved in (("phantom", True), ("busi", True), ("lits", False)):
        pattern = rf"{cohort}, gate 1\n(?:  .*\n)*?  .*NOT REPRODUCED"
        assert bool(re.search(pattern, result.stdout)) is moved, result.stdout[-3000:]
