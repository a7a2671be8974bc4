"""The book builds with warnings as errors, its pages exist, and they draw in a browser without a network."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from built_book import CUT_TEXTS, DESK, PHONE, build, opened_page, toc_files

from covtoken.errors import CovtokenError
from covtoken.paper.numbers import as_text, read_metric, readable
from covtoken.paths import project_root
from covtoken.protocol.chain import digest_of

ROOT = project_root()


@pytest.mark.slow
def test_every_page_exists(html):
    for name in toc_files():
        page = html / f"{name}.html"
        assert page.is_file(), f"{name}: in _toc.yml but not built"
        assert "</html>" in page.read_text()


@pytest.mark.slow
def test_no_page_names_a_network_script(html):
    for name in toc_files():
        text = (html / f"{name}.html").read_text()
        assert "cdn.jsdelivr" not in text.replace("cdn.jsdelivr.net/npm/thebe", ""), name


@pytest.mark.slow
def test_pages_are_light_and_only_formulas_load_mathjax(html):
    for name in toc_files():
        text = (html / f"{name}.html").read_text()
        assert len(text.encode()) < 2_000_000, name
        assert ("tex-svg-full" in text) == ('class="math' in text), name


@pytest.mark.slow
def test_reports_fill_the_abstract(html):
    report = json.loads((ROOT / "gate_reports" / "busi" / "gate1.json").read_text())
    assert as_text(report["metrics"]["auroc.density"]) in (html / "index.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_pages_draw_offline_and_fit(html, browser, width):
    for name in toc_files():
        page = opened_page(browser, html, name, width)
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0, f"{name}: {overflow} px wider than {width} px"
        assert page.evaluate(CUT_TEXTS) == [], f"{name}: texts of charts end outside them at {width} px"
        assert page.refused == [], f"{name} asks for {page.refused}"
        assert page.errors == [], f"{name}: {page.errors}"
        page.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("button", "link"), [("primary", "a[href='claim.html']"), ("secondary", "a[href='#tokens-and-membership']")]
)
def test_a_click_opens_menu_and_contents_on_a_phone(html, browser, button, link):
    """Both lie behind a button there, and the menu is the only way to a chapter that is not the next one."""
    page = opened_page(browser, html, "method", PHONE)
    inside = page.locator(f"#pst-{button}-sidebar-modal {link}, .bd-sidebar-{button} {link}")
    assert not any(entry.is_visible() for entry in inside.all())
    page.click(f".bd-header-article .{button}-toggle")
    page.wait_for_function("() => document.querySelector('dialog[open]')", timeout=15_000)
    assert any(entry.is_visible() for entry in inside.all())
    page.close()


@pytest.mark.slow
def test_charts_and_formulas_have_ink(html, browser):
    page = opened_page(browser, html, "gate1_results", DESK)
    marks = page.eval_on_selector_all(
        ".covtoken-chart.vega-embed svg", "all => all.map(svg => svg.querySelectorAll('path, text').length)"
    )
    drawn = (ROOT / "book" / "gate1_results.md").read_text().count("{report-chart}")
    assert len(marks) == drawn > 3 and min(marks) > 10
    page.close()
    page = opened_page(browser, html, "method", DESK)
    heights = page.eval_on_selector_all("mjx-container svg", "all => all.map(s => s.getBoundingClientRect().height)")
    assert len(heights) > 10 and min(heights) > 3
    page.close()


@pytest.mark.slow
def test_a_number_that_was_not_recorded_stops_the_build(tmp_path):
    """A small book of one page: a recorded number passes, an unrecorded one is an error that names it."""
    book = tmp_path / "book"
    book.mkdir()
    shutil.copy(ROOT / "_config.yml", book / "_config.yml")
    (book / "references.bib").write_text("")
    (book / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    entry = {"value": 0.912345, "ci95": [0.9, 0.92], "n_units": 3, "n_images": 4, "n_tokens": 5}
    report = tmp_path / "gate_reports" / "toy" / "gate1.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({"metrics": {"auroc.density": entry}, "decision": "GO", "parameters": {}}))
    (book / "index.md").write_text("# Toy\n\n{report}`toy/gate1 auroc.density`, {report-decision}`toy/gate1`.\n")
    done = build(book, tmp_path, "-W")
    assert done.returncode == 0, done.stderr
    assert "0.912 [0.900, 0.920]" in (tmp_path / "_build" / "html" / "index.html").read_text()

    (book / "index.md").write_text("# Toy\n\n{report}`toy/gate1 auroc.absent`\n")
    done = build(book, tmp_path, "-W")
    assert done.returncode != 0
    assert "toy/gate1 auroc.absent: not recorded yet" in done.stdout + done.stderr


def test_links_into_the_root_are_links():
    for name in ("_config.yml", "_toc.yml", "notebooks", "data_cards"):
        link = ROOT / "book" / name
        assert link.is_symlink() and os.readlink(link) == f"../{name}"


def test_metrics_are_read_by_place_and_name(tmp_path):
    folder = tmp_path / "gate_reports" / "toy"
    folder.mkdir(parents=True)
    entries = {"aupr.density": {"value": 0.5, "ci95": None}, "empty": {"value": None, "ci95": None}}
    (folder / "gate1.json").write_text(json.dumps({"metrics": entries}))
    assert as_text(read_metric(tmp_path, "toy/gate1 aupr.density")) == "0.500"
    for where in ("toy/gate1 absent", "toy/gate1 empty", "toy/gate2 aupr.density"):
        with pytest.raises(CovtokenError, match="not recorded yet"):
            read_metric(tmp_path, where)


def test_differences_carry_their_sign_and_names_are_words():
    entry = {"value": -0.0312, "ci95": [-0.05, 0.01]}
    assert as_text(entry, signed=True) == "−0.031 [−0.050, +0.010]"
    assert readable("gflops.whole.all") == "GFLOP a picture, the whole pass"
    assert readable("gflops.pruning_with_search.keep0.25") == "GFLOP a picture, pruning, A's search included, keep 0.25"
    assert readable("dual.mu_cv") == "dual as specified, CV of μ over seeds"
    assert readable("repaired.drop.slack0.05") == "repaired dual, coverage lost, slack 0.05"
    assert readable("auroc_gain.density_minus_centre_prior") == "difference in token AUROC, membership A − centre prior"


QUOTED = "e292f057be117ffb"  # of the published figures, as they were taken from the card


def test_published_figures_name_metrics_that_exist():
    figures = json.loads((ROOT / "configs" / "published.json").read_text())["figures"]
    for where in [place for figure in figures for place in figure["here"]]:
        read_metric(ROOT, where)
    quoted = [[figure[key] for key in ("what", "setting", "published")] for figure in figures]
    assert digest_of(quoted)[:16] == QUOTED, "what was published does not change"
    blank = {figure["what"]: figure["setting"] for figure in figures if not figure["here"]}
    assert all(figure["why"] for figure in figures if not figure["here"])
    # Nothing else may stay blank: this has no data here.
    assert set(blank) == {"token AUROC, density A"}
    assert "pancreas" in blank["token AUROC, density A"]
