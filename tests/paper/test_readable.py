"""Pages can be read by everyone: in dark, on a phone, by a screen reader, printed, cited, and by a program."""

from __future__ import annotations

import json
import re
from html import unescape

import pytest
import yaml
from built_book import DESK, PHONE, opened_page, toc_files
from docutils import nodes

from covtoken.errors import CovtokenError
from covtoken.paper import drawn
from covtoken.paper.charts.offline_renderer import to_html
from covtoken.paper.charts.style import ticks_around_zero
from covtoken.paper.pages.base import make_note, say_once
from covtoken.paper.site.cite import as_bibtex, read_citation
from covtoken.paper.site.llms import llms_text
from covtoken.paper.site.pdf import paper_pages, write_pdf
from covtoken.paper.tables.behind import MOST_ROWS, table_behind
from covtoken.paths import project_root

ROOT = project_root()
INTERVAL = re.compile(r"[+−]?\d\.\d{3} \[[+−]?\d\.\d{3}, [+−]?\d\.\d{3}\]")
SERIOUS = ("serious", "critical")
# Marks of a chart are one picture with one name; of the rows of a long table, the first stand for all.
LEFT_OUT = [[".covtoken-chart svg"], ["tbody tr:nth-child(n+6)"], [".citation-list"]]  # the last is docutils' own
RULES = {"light": {}, "dark": {"runOnly": ["color-contrast"]}}  # what differs by colours is checked in both


@pytest.mark.slow
def test_no_page_has_a_serious_finding_in_light_or_dark(html, browser):
    from axe_playwright_python.sync_playwright import Axe

    found, axe = [], Axe()
    for name in toc_files():
        page = opened_page(browser, html, name, DESK)
        page.add_style_tag(content="* { transition: none !important }")  # colours are measured, not on their way
        for theme, options in RULES.items():
            page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
            context = {"exclude": LEFT_OUT}
            response = axe.run(page, context=context, options={"preload": False, **options}).response
            for rule in (rule for rule in response["violations"] if rule["impact"] in SERIOUS):
                found += [f"{name}, {theme}, {rule['id']}: {node['html'][:160]}" for node in rule["nodes"][:3]]
        page.close()
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_a_phone_shows_ten_rows_of_a_long_table_and_its_first_column(html, browser):
    page = opened_page(browser, html, "gate1_results", PHONE)
    page.locator("table.is-folded").last.evaluate("table => { table.id = 'long' }")  # its class goes when it unfolds
    table = page.locator("#long")
    shown = "rows => rows.filter(row => row.offsetParent !== null).length"
    rows = table.locator("tbody tr")
    total = rows.count()
    assert rows.evaluate_all(shown) == 10 < total
    page.locator(".covtoken-unfold").last.click()
    assert rows.evaluate_all(shown) == total
    box = page.locator(".covtoken-scroll.is-cut").first
    assert box.get_attribute("tabindex") == "0" and page.locator(".covtoken-hint:visible").count() > 0
    first = box.locator("tbody td:not([colspan])").first
    left = first.bounding_box()["x"]
    box.evaluate("box => { box.scrollLeft = 120 }")
    assert abs(first.bounding_box()["x"] - left) < 2
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [DESK, PHONE])
def test_no_table_of_a_notebook_or_of_gate_6_is_wider_than_its_column(html, browser, width):
    """Folded ones are opened first; a phone shows the rows of a wide one as cards, whose cells name their column."""
    wide = """() => {
      document.querySelectorAll("details:not(.covtoken-behind)").forEach(folded => { folded.open = true; });
      return new Promise(done => setTimeout(() => done([...document.querySelectorAll(".bd-article table")]
        .filter(table => !table.closest(".covtoken-behind") && table.offsetWidth > table.parentElement.clientWidth + 2)
        .map(table => table.innerText.slice(0, 60))), 300));
    }"""
    names = [name for name in toc_files() if name.startswith("notebooks/")]
    for name in [*names, "gate6_results", "negative_result"]:
        page = opened_page(browser, html, name, width)
        assert not page.evaluate(wide), name
        if width == PHONE:
            heads = page.locator(".is-cards td:not(:first-child)").evaluate_all(
                "cells => cells.map(cell => 'head' in cell.dataset)"
            )
            assert all(heads), name
        page.close()


@pytest.mark.slow
def test_the_pdf_has_the_numbers_of_its_pages(html, browser, tmp_path):
    from pypdf import PdfReader

    target = write_pdf(browser, html, ["results_finding"], tmp_path / "paper.pdf", "Paper")
    text = " ".join(" ".join(sheet.extract_text() for sheet in PdfReader(target).pages).split())
    page = opened_page(browser, html, "results_finding", DESK)
    page.emulate_media(media="print")
    shown = INTERVAL.findall(" ".join(page.inner_text(".bd-article").replace("\u00a0", " ").split()))
    page.close()
    printed = INTERVAL.findall(text.replace("\u00a0", " "))
    assert len(shown) > 40 and sorted(printed) == sorted(shown)
    with pytest.raises(CovtokenError, match="no such page"):
        write_pdf(browser, html, ["absent"], target)


@pytest.mark.slow
def test_the_built_site_can_be_kept_and_cited(html):
    assert "(results_finding.html)" in (html / "llms.txt").read_text()
    for name in ("index", "conclusion"):
        assert "@misc{covtoken2026" in re.sub("<[^>]*>", "", unescape((html / f"{name}.html").read_text()))
    for name in toc_files():
        text = (html / f"{name}.html").read_text()
        assert ("btn-download-source-button" in text) == name.startswith("notebooks/"), name
        assert text.count("THEBE_JS_URL =") <= 1, name


def test_a_table_stands_behind_a_chart():
    chart = drawn.draw_by_name(ROOT, "busi-gate3-miss_by_method-miss")
    behind = table_behind(chart, "charts/x.csv")
    assert behind.count("<tr>") == 1 + MOST_ROWS < len(chart.data) and 'href="charts/x.csv"' in behind
    first = chart.data[0]
    assert f"<td>{first['method']}</td>" in unescape(behind) and f"<td>{first['value']:.4g}</td>" in behind
    assert "share kept" in behind


def test_readers_see_no_raw_keys():
    for name in (
        "busi-gate6-retention_curves-curves",
        "busi-gate2-rho_by_measure-rho",
        "backbones-transfer_heatmap-cells-density",
    ):
        chart = drawn.draw_by_name(ROOT, name)
        behind = re.sub('href="[^"]*"|class="[^"]*"', "", table_behind(chart, "x.csv"))
        assert not re.findall(r"[a-z]+_[a-z]+|\w\|\w|\brankme\b", behind), name
        titles = re.findall(r'"field":"(\w+)","(?:format":"[^"]*",")?title":"([^"]*)"', to_html(chart.spec, svg=""))
        assert titles and not [title for _, title in titles if "_" in title]


def test_ticks_hold_zero_and_are_few():
    for low, high in ((-0.13, 0.45), (0.01, 0.02), (-3, -1), (-0.004, 0.018), (0, 0)):
        ticks = ticks_around_zero(low, high)
        assert 0 in ticks and len(ticks) <= 7 and ticks[0] <= low and ticks[-1] >= high


def test_a_note_is_said_once_a_page():
    page = nodes.document(None, None)
    page += [make_note("Values.", "busi: test split.", "n of busi: 3."), make_note("Shares.", "busi: test split.")]
    say_once(None, page)
    first, second = (note.astext() for note in page.children)
    assert first.count("busi: test split.") == 1 and "busi" not in second and second.startswith("Shares.")


def test_the_citation_comes_from_its_file(tmp_path):
    citation, content = read_citation(ROOT), yaml.safe_load((ROOT / "CITATION.cff").read_text())
    entry = as_bibtex(citation)
    assert content["preferred-citation"]["title"] in entry and f"version {content['version']}" in entry
    assert entry.count("{") == entry.count("}")
    (tmp_path / "CITATION.cff").write_text("title: x\n")
    with pytest.raises(CovtokenError, match="no version"):
        read_citation(tmp_path)
    with pytest.raises(CovtokenError, match="no such file"):
        read_citation(tmp_path / "absent")


def test_a_program_finds_every_page_and_the_paper_is_a_part_of_them():
    text = llms_text(ROOT / "book")
    assert re.findall(r"\]\(([^)]+)\.html\)", text) == toc_files()[1:]
    assert set(paper_pages(ROOT)) <= set(toc_files()) and paper_pages(ROOT)[0] == "index"


def test_a_workflow_publishes_the_pages():
    steps = yaml.safe_load((ROOT / ".github/workflows/pages.yml").read_text())["jobs"]["publish"]["steps"]
    uses = [step.get("uses", "").partition("@")[0] for step in steps]
    assert uses.index("actions/upload-pages-artifact") < uses.index("actions/deploy-pages")
    assert json.dumps(steps).count("book/_build/html") == 1
