"""The README tells the truth: its table is the reports', its Python runs, its links lead somewhere."""

import re

from covtoken.paper import readme_table as tables
from covtoken.paper import summary
from covtoken.paper.readme_table import BEGIN, END, readme_numbers
from covtoken.paths import project_root
from covtoken.protocol.history import read_history
from covtoken.protocol.report import committed_reports

TEXT = (project_root() / "README.md").read_text()


def test_table_is_what_the_reports_say():
    shown = TEXT.split(BEGIN)[1].split(END)[0].strip()
    assert shown == readme_numbers(committed_reports()), "run `covtoken report`"
    assert "BUSI" in shown and "phantom" in shown


def test_the_first_python_block_runs():
    block = re.search(r"```python\n(.*?)```", TEXT, re.S).group(1)
    assert len(block.strip().splitlines()) == 6
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    assert tuple(names["membership"].shape) == (4, 256)
    assert names["kept"].sum(axis=1).tolist() == [64] * 4


def test_links_lead_to_files():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", TEXT):
        assert (project_root() / target).exists(), f"README links to {target}"


def test_a_number_on_fewer_units_than_its_column_says_so():
    entry = {"value": 0.25, "ci95": [0.0151, 0.4709], "n_units": 5}
    assert tables._cell(entry, 28) == "0.250 [0.015, 0.471] (5 units)"
    assert tables._cell(entry, 5) == "0.250 [0.015, 0.471]"
    assert tables._cell(None, 5) == tables._cell(entry | {"value": None}, 5) == "–"


def test_the_summaries_are_what_the_reports_say():
    reports, folder = committed_reports(), project_root() / "gate_reports"
    assert (folder / "SUMMARY.md").read_text() == summary.summary(reports, read_history()), "run `covtoken report`"
    assert (folder / "NEGATIVE_RESULT.md").read_text() == summary.negative_result(reports), "run `covtoken report`"
