"""Print the paper as one PDF, by the browser that the tests use: ``python -m covtoken.paper.site.pdf HTML PDF``."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import yaml

from covtoken.errors import CovtokenError
from covtoken.paper.site.cite import read_citation
from covtoken.paths import project_root, write_then_rename

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BACK_MATTER = ("references",)
SCALE = 0.85  # of the screen's letters
WIDTH = round(718 / SCALE)  # px, of A4 within its margins: charts draw themselves as wide as the sheet
MARGIN = {"top": "16mm", "bottom": "18mm", "left": "10mm", "right": "10mm"}
# Drawing is asynchronous: a page is ready when it holds what it says it holds.
DRAWN = (
    "() => document.querySelectorAll('.covtoken-chart').length === "
    "document.querySelectorAll('.covtoken-chart.vega-embed svg').length && "
    "document.querySelectorAll('.math').length <= document.querySelectorAll('mjx-container svg').length"
)


def find_browser() -> str | None:
    """Find Chromium or Chrome on this machine."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def paper_pages(root: Path) -> list[str]:
    """Name the pages of the paper in their order: the first page, the first part of ``_toc.yml``, the references."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *(chapter["file"] for chapter in toc["parts"][0]["chapters"]), *BACK_MATTER]


def write_pdf(browser, html: Path, names: Iterable[str], target: Path, title: str = "covtoken") -> Path:
    """Print built pages one after the other into one file, in light colours.

    Args:
        browser: an open Playwright browser.
        html: the folder of the built book.
        names: of pages, without their ending.
        title: of the file.

    Raises:
        CovtokenError: a page that is not built.
    """
    from pypdf import PdfWriter

    writer = PdfWriter()
    page = browser.new_page(viewport={"width": WIDTH, "height": 1000}, color_scheme="light")
    page.emulate_media(media="print", color_scheme="light")
    for name in names:
        path = html / f"{name}.html"
        if not path.is_file():
            raise CovtokenError(f"{path}: no such page; build the book first (make book)")
        page.goto(path.resolve().as_uri())
        page.evaluate("document.documentElement.dataset.theme = 'light'")
        page.wait_for_function(DRAWN, timeout=60_000)
        printed = page.pdf(format="A4", margin=MARGIN, scale=SCALE, print_background=True)
        writer.append(io.BytesIO(printed), outline_item=page.title().partition(" — ")[0])
    page.close()
    writer.add_metadata({"/Title": title})
    with write_then_rename(target) as temporary, temporary.open("wb") as stream:
        writer.write(stream)
    return target


def main(html: str, target: str) -> None:
    """Print the paper from a built book."""
    from playwright.sync_api import sync_playwright

    found = find_browser()
    if found is None:
        raise SystemExit(f"no browser to print with: install one of {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        root = project_root()
        title = read_citation(root)["title"]
        print(write_pdf(browser, Path(html), paper_pages(root), Path(target), title))
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
