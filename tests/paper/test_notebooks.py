"""Notebooks: paired, executed, light; nbval fails when a headline moves, for the phantom and for recorded cohorts."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import jupytext
import numpy as np
import pandas as pd
import pytest

from covtoken.evaluation.records import RecordedScores, load_scores, save_scores
from covtoken.gates.headlines import CHAINED
from covtoken.names import cohort_name
from covtoken.paper.numbers import as_text
from covtoken.paper.tables import ablations, shown
from covtoken.paper.verdict_grid import deciding_metric
from covtoken.paths import project_root
from covtoken.protocol.report import committed_reports

ROOT = project_root()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
GATES = [path for path in NOTEBOOKS if path.stem not in ("ablations", "any_module")]  # which have no report


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
    assert path.stat().st_size < 1_000_000 and len(notebook["cells"]) < 21
    assert {"parameters", "nbval-check-output"} <= set(tags)
    assert all(cell["execution_count"] for cell in code), "committed without being run"
    kinds = [output["output_type"] for cell in code for output in cell["outputs"]]
    assert "error" not in kinds and "display_data" in kinds + ["display_data"] * ("execute_result" in kinds)
    assert "NOT REPRODUCED" not in path.read_text()
    assert str(ROOT) not in path.read_text(), "a path of this machine is in the outputs"


FOLDED = {"hide-cell", "hide-output"}
KINDS = {"covtoken-verdict": "verdict", "covtoken-chart": "figure", "covtoken-frame": "table"}
MOST_COLUMNS = 6  # of the table that a reader sees first; a folded one may have one more


def _code(path):
    """Code cells after the parameters, each with its tags."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    tags = [set(cell["metadata"].get("tags", [])) for cell in cells]
    start = next(i for i, found in enumerate(tags) if "parameters" in found)
    return list(zip(cells, tags, strict=True))[start + 1 :]


def _kinds(cell):
    """Kinds of what a cell shows: verdict, figure, table, or text."""
    pages = ["".join(output.get("data", {}).get("text/html", [])) for output in cell["outputs"]]
    return [next((kind for mark, kind in KINDS.items() if mark in page), "text") for page in pages]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_reader_sees_a_verdict_then_one_figure_then_one_table(path):
    seen = [_kinds(cell) for cell, tags in _code(path) if cell["outputs"] and not tags & FOLDED]
    assert seen[:3] == [["verdict"], ["figure"], ["table"]], seen


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_plumbing_and_all_that_is_more_are_folded_and_the_locked_cell_is_last(path):
    notebook = json.loads(path.read_text())
    cells, tags = notebook["cells"], [set(cell["metadata"].get("tags", [])) for cell in notebook["cells"]]
    assert "nbval-check-output" in tags[-1]
    imports = next(i for i, cell in enumerate(cells) if cell["cell_type"] == "code")
    assert "hide-input" in tags[imports] and "parameters" in tags[imports + 1]
    if path.stem == "any_module":  # its code is what it shows
        return
    assert "hide-input" in tags[imports + 2], "the run's call is plumbing"
    heads = {"".join(cell["source"]).partition("\n")[0]: i for i, cell in enumerate(cells)}
    more = heads["## More from this run"]
    again = next(i for head, i in heads.items() if head.startswith("## Recomputed from "))
    assert imports + 4 < more < again
    assert all("hide-cell" in tags[i] for i in range(more, again) if cells[i]["cell_type"] == "code")
    log = [i for i in range(again, len(cells)) if _kinds_of_log(cells[i])]
    assert all(tags[i] & FOLDED for i in log), "long text stands open"


def _kinds_of_log(cell):
    printed = "".join("".join(output.get("text", [])) for output in cell.get("outputs", []))
    return printed.count("\n") > 15


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_table_of_a_notebook_has_many_columns(path):
    found = []
    for cell, tags in _code(path):
        for output in cell["outputs"]:
            for table in re.findall(r"<table.*?</thead>", "".join(output.get("data", {}).get("text/html", [])), re.S):
                columns = len(re.findall("<th[ >]", table.partition("</tr>")[0]))
                found.append(columns)
                assert columns <= MOST_COLUMNS + bool(tags & FOLDED), table
    assert found


def test_a_notebook_is_not_titled_as_a_chapter_is():
    pages = [page.read_text() for page in (ROOT / "book").glob("*.md")]
    chapters = {page.partition("\n")[0].removeprefix("# ") for page in pages if page.startswith("# ")}
    cells = ["".join(json.loads(path.read_text())["cells"][0]["source"]) for path in NOTEBOOKS]
    titles = [cell.partition("\n")[0].removeprefix("# ") for cell in cells]
    assert all(title.startswith("Run it: ") for title in titles) and len(set(titles)) == len(titles)
    plain = [re.sub(r"^gate \d[,:] ", "", title.removeprefix("Run it: ")).lower() for title in titles]
    ends = {chapter.lower() for chapter in chapters} | {chapter.partition(": ")[2].lower() for chapter in chapters}
    assert not ends & {*titles, *plain}


@pytest.mark.parametrize("report", [r for r in committed_reports() if str(r.gate) in "0123456 negative_result"])
def test_a_verdict_is_a_sentence_with_number_interval_n_and_threshold(report):
    said = shown.verdict(report)
    assert said.startswith(report.decision) and said.endswith(".") and "\n" not in said
    assert not re.findall(r"[a-z]+_[a-z]+", said), "a raw key"
    assert cohort_name(report.cohort) in said
    if report.gate == 0:
        assert f"{sum(map(bool, report.checks.values()))} of {len(report.checks)} checks" in said
        return
    assert re.search(r"\(n = \d+ units\)", said) and "threshold" in said
    name = "auroc.recommended" if report.gate == 1 else None if report.gate == 5 else deciding_metric(report)
    style = ".2f" if report.gate == 6 else ".3f"
    assert name is None or as_text(report.metrics[name], style, signed="_gain." in name) in said


def test_a_verdict_without_numbers_says_so():
    report = next(r for r in committed_reports() if r.gate == 1)
    empty = replace(report, metrics={}, thresholds={}, decision="NO-VERDICT")
    assert "not measured" in shown.verdict(empty) and "threshold" not in shown.verdict(empty)
    assert shown.verdict(empty).startswith("NO-VERDICT (too few units")


def test_what_comes_out_again_is_counted():
    first = "phantom, gate 1\n  a  +0.1 ± 0.1  reproduced\n  b  +0.1 ± 0.1  NOT REPRODUCED: 2"
    said = shown.reproduced(f"{first}\nbusi, gate 1\n  a  reproduced")
    assert said.startswith("Recomputed: 2 of 3 locked numbers") and "BUSI" in said


def test_a_table_keeps_long_cells_and_sets_intervals_small():
    page = shown.frame_html(pd.DataFrame({"a": ["0.5 [0.4,\u00a00.6]", "word " * 30]}))
    assert '0.5 <span class="covtoken-interval">[0.4,\u00a00.6]</span>' in page
    assert page.count("word") == 30 and "&lt;" in shown.frame_html(pd.DataFrame({"a": ["<b>"]}))
    assert shown.Sentence("a < b\nc")._repr_html_().count("<p ") == 2 and repr(shown.Sentence("a")) == "a"


def _shown(path):
    """All that a notebook's outputs show as text, without markup."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        for output in cell.get("outputs", []):
            texts = [output.get("text", [])]
            if not {"image/svg+xml", "image/png"} & output.get("data", {}).keys():
                texts += [output.get("data", {}).get(kind, []) for kind in ("text/html", "text/plain")]
            parts += [re.sub(r"<[^>]+>", " ", re.sub(" ?<span[^>]*> ?", " ", "".join(text))) for text in texts]
    return html.unescape("\n".join(parts)).replace("\u00a0", " ")


def _reports(path):
    gate = path.stem.removeprefix("gate")
    return [report for report in committed_reports() if str(report.gate) == gate]


MOVE_WITH_A_PROCESSOR = ("gate3", "gate4", "negative_result")


def _is_chained(name, entry):
    """Whether a number hangs on a chain of choices or steps, which move with a processor's rounding."""
    return entry["ci95"] and any(word in name for word in (*CHAINED, "repaired", "dual.mu"))


def _is_near(number, entry):
    """Whether value and bounds differ from the committed ones by less than the committed interval is wide."""
    shown = [float(part.replace("−", "-")) for part in re.findall(r"[+−]?\d+(?:\.\d+)?", number)][:3]
    low, high = entry["ci95"]
    wanted = (entry["value"], *entry.get("exact95", (low, high)))
    return all(abs(a - b) <= high - low for a, b in zip(shown, wanted, strict=True))


@pytest.mark.parametrize("path", GATES, ids=lambda p: p.stem)
def test_every_number_with_an_interval_is_a_committed_one(path):
    """An edited cell of a table fails here: nbval looks at one cell alone.

    What hangs on a chain of choices, of the cohort that is run from pixels, need only be near the committed number.
    """
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
    numbers = re.findall(r"[+−]?\d+(?:\.\d+)?%? \[[^\[\]]*\d(?: exact)?\]", text)
    assert numbers or path.stem == "gate0"
    moving = reports if path.stem in MOVE_WITH_A_PROCESSOR else []
    chained = [e for r in moving if r.cohort == "phantom" for name, e in r.metrics.items() if _is_chained(name, e)]
    assert not [n for n in numbers if n not in known and not any(_is_near(n, entry) for entry in chained)]


def test_the_ablations_sentences_are_those_of_the_committed_tables():
    """Every cohort's, the phantom's too: what the notebook measured from pixels is what was recorded."""
    text, contents = _shown(ROOT / "notebooks" / "ablations.ipynb"), ablations.committed()
    told = [ablations.follows(name, content) for name in ablations.TITLES for content in contents.values()]
    assert "phantom" in contents and not [sentence for sentence in told if sentence not in text]
    told += [as_text(row["minus_default"], signed=True) for c in contents.values() for row in c["rows"]]
    numbers = re.findall(r"[+−]?\d\.\d+ \[[^\[\]]*\d\]", text)
    assert numbers and not [number for number in numbers if number not in " ".join(told)]


@pytest.mark.parametrize("path", GATES, ids=lambda p: p.stem)
def test_the_verdict_and_the_checks_are_the_reports(path):
    text, report = _shown(path), _reports(path)[0]
    assert report.cohort == "phantom" and re.search(rf"\b{report.decision}\b", text)
    for name, outcome in report.checks.items() if path.stem != "gate0" else ():
        assert f"  {name}: {outcome}\n" in text + "\n", name


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
