"""Every number on a page leads to where it comes from, every chart to its data, and the commands give the same."""

from __future__ import annotations

import csv
import io
import json
import re
from html import unescape

import pytest
from built_book import opened_page
from typer.testing import CliRunner

from covtoken.cli.app import app
from covtoken.errors import CovtokenError
from covtoken.paper import drawn
from covtoken.paper.doors import NO_LOOK, open_door, split_at_numbers, texts_of
from covtoken.paper.numbers import as_text, read_content
from covtoken.paths import project_root

ROOT = project_root()
ROLE = re.compile(r"\{report(?:-value|-n)?\}`([^`]+)`")
CHARTS = drawn.charts_of_book(ROOT)


def test_the_command_prints_what_the_report_holds():
    report = read_content(ROOT, "busi/gate1")
    printed = CliRunner().invoke(app, ["number", "busi/gate1 auroc.recommended"]).output
    found = dict(line.split(": ", 1) for line in printed.splitlines())
    entry = report["metrics"]["auroc.recommended"]
    assert found["value"] == as_text(entry) and found["split"] == report["split"] == "test"
    assert found["n"] == f"{entry['n_units']} units, {entry['n_images']} pictures"
    assert found["weights"] == report["provenance"]["weights_sha256"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", found["date"])
    assert found["printed by"] == 'covtoken number "busi/gate1 auroc.recommended"'
    assert found["recorded by"] == "covtoken gate 1 --cohort busi --split test --record"


def test_a_wrong_name_is_refused_with_the_nearest():
    with pytest.raises(CovtokenError, match=r"busi/gate1 auroc.recomended: not recorded yet; did you mean auroc.reco"):
        open_door(ROOT, "busi/gate1 auroc.recomended")
    with pytest.raises(CovtokenError, match=r"gate_reports/busi/gate9.json"):
        open_door(ROOT, "busi/gate9 auroc.recommended")
    assert open_door(ROOT, "busi/gate0 agreement.batch_size.final").when == NO_LOOK


def test_every_number_in_a_text_opens():
    named = {where for path in (ROOT / "book").glob("*.md") for where in ROLE.findall(path.read_text())}
    assert len(named) > 80
    for where in named:
        door = open_door(ROOT, where)
        assert door.where in door.prints and door.n and door.weights


def test_a_text_is_cut_at_numbers_that_a_single_metric_has():
    entries = {"auroc.a": (0.9, [0.8, 1.0]), "auroc.b": (0.7, [0.6, 0.8]), "auroc.c": (0.7, [0.6, 0.8])}
    report = {"metrics": {name: {"value": v, "ci95": ci} for name, (v, ci) in entries.items()}}
    parts = split_at_numbers("a 0.900 [0.800,\u00a01.000], b 0.700 [0.600, 0.800]", texts_of({"toy/gate1": report}))
    assert parts[1] == ("0.900 [0.800,\u00a01.000]", "toy/gate1", "auroc.a")
    assert [part[0] for part in parts] == ["a ", "0.900 [0.800,\u00a01.000]", ", b 0.700 [0.600, 0.800]"]


def cells_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def is_number(cell: str) -> bool:
    return bool(re.fullmatch(r"-?[\d.]+(?:e-?\d+)?", cell))


def same(cell: str, value) -> bool:
    """Whether a cell of CSV holds a value of a chart."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return cell == ("" if value is None else str(value))
    if isinstance(value, list | dict):
        return json.loads(cell) == value
    return cell == str(value) or (is_number(cell) and float(cell) == float(value))


@pytest.mark.parametrize("name", CHARTS)
def test_the_csv_equals_the_chart(name):
    chart = drawn.draw_by_name(ROOT, name)
    rows, columns = cells_of(chart.csv()), list(chart.data[0])
    # What the marks of the chart are drawn from, but for ticks, stripes and names.
    points = [row for table in chart.spec["datasets"].values() for row in table if len(set(row) & set(columns)) >= 2]
    points = [row for row in points if len(row) > 4 or not {"top", "text", "zero"} & set(row)]
    assert rows and len(rows) <= len(points)
    unseen = list(rows)
    for point in points:
        shown = {column: point[column] for column in columns if column in point}
        found = [row for row in rows if all(same(row[column], value) for column, value in shown.items())]
        assert found, f"{shown} is drawn and not in the CSV"
        unseen = [row for row in unseen if row not in found]
    assert not unseen, "in the CSV and not drawn"
    if any(part in name for part in RECOMPUTED):
        return
    recorded = [numbers_of(row) for row in chart.rows]
    for row in map(numbers_of, chart.data):  # and it is a row of the report
        assert any(all(row.get(column, value) == value for column, value in each.items()) for each in recorded), row


# Pictures; cells laid out anew; the clock and the chosen setting joined to the curves.
RECOMPUTED = ("token_marks", "transfer_heatmap", "retention_by_clock", "retention_curves")


def numbers_of(row: dict) -> dict[str, float]:
    """The numbers of a row without its bounds, which a chart puts on the value where there are none."""
    given = {name: value for name, value in row.items() if name not in ("lo", "hi")}
    return {name: value for name, value in given.items() if isinstance(value, float) and value == value}


def test_every_chart_of_a_page_has_a_name_of_its_own(tmp_path):
    texts = [path.read_text() for path in (ROOT / "book").glob("*.md")]
    shown = {
        tuple(found) for text in texts for found in re.findall(r"^```\{(\w+)-chart\} (.*\n(?::.*\n)*)", text, re.M)
    }
    assert len(CHARTS) == len(shown), "one name, two charts; the paper may show a chart of an appendix again, as it is"
    name = "busi-gate1-gain_forest-gains"
    done = CliRunner().invoke(app, ["figure", name, "-o", str(tmp_path)])
    assert done.exit_code == 0 and (tmp_path / f"{name}.svg").read_text().startswith("<svg")
    report = read_content(ROOT, "busi/gate1")["chart_data"]["gains"]
    values = sorted(float(row["value"]) for row in cells_of((tmp_path / f"{name}.csv").read_text()))
    assert values == sorted(row["value"] for row in report)


@pytest.mark.slow
def test_no_number_and_no_chart_of_a_page_is_a_dead_end(html):
    rows = dict(re.findall(r'<tr id="([^"]+)">(.*?)</tr>', (html / "numbers.html").read_text(), re.S))
    doors, charts = 0, set()
    for path in html.glob("*.html"):
        text = path.read_text()
        for link in re.findall(r'<a class="[^"]*covtoken-door[^>]*>', text):
            anchor = unescape(re.search(r'href="(?:numbers.html)?#([^"]+)"', link)[1])
            where = re.search(r'covtoken number "([^"]+)"', unescape(re.search(r'title="([^"]*)"', link)[1]))[1]
            assert anchor in rows and open_door(ROOT, where).anchor == anchor, f"{path.name}: {where}"
            doors += 1
        captions = "".join(re.findall(r'<span class="covtoken-sources">.*?</code>', text, re.S))
        for name in re.findall(r"covtoken figure ([\w.-]+)</code>", re.sub("</?span[^>]*>", "", captions)):
            assert name in CHARTS and all((html / "charts" / f"{name}.{end}").is_file() for end in ("csv", "svg")), name
            charts.add(name)
    assert doors > 1500 and charts == set(CHARTS)  # a chart may stand on two pages
    shown = {where for path in (ROOT / "book").glob("*.md") for where in ROLE.findall(path.read_text())}
    for where in shown:
        door = open_door(ROOT, where)
        assert door.value in unescape(rows[door.anchor]) and door.n in unescape(rows[door.anchor]), where


@pytest.mark.slow
def test_a_number_says_where_it_comes_from_on_hover_focus_and_tap(html, browser):
    page = opened_page(browser, html, "index", 1280)
    link, popup = page.locator("a.covtoken-door").first, page.locator("#covtoken-popup")
    lines = [text.strip() for text in open_door(ROOT, "busi/gate1 auroc.recommended").line.split(" · ")]
    link.hover()
    assert popup.is_visible() and popup.get_attribute("role") == "tooltip"
    page.keyboard.press("Escape")
    assert not popup.is_visible()
    page.locator("a.covtoken-door", has_text=lines[1]).first.focus()
    assert popup.locator("div").all_inner_texts() == lines
    page.close()
    phone = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = phone.new_page()
    page.goto((html / "index.html").as_uri())
    link = page.locator("a.covtoken-door").first
    link.tap()
    assert page.locator("#covtoken-popup").is_visible() and page.url.endswith("index.html")
    link.tap()
    page.wait_for_url("**/numbers.html#*")
    phone.close()
