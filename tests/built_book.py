"""Build the book as a reader gets it, and open its pages in a browser that has no network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from covtoken.paper.site.pdf import DRAWN, find_browser
from covtoken.paths import project_root

BROWSER = find_browser()
PHONE, DESK = 390, 1280  # px
# Texts of charts that a reader does not see whole.
CUT_TEXTS = """() => [...document.querySelectorAll('.covtoken-chart svg')].flatMap(svg => {
  const box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(text => text.textContent.trim()).filter(text => {
    const own = text.getBoundingClientRect();
    return own.width && (own.right > box.right + 1 || own.left < box.left - 1);
  }).map(text => text.textContent);
})"""


def build(book: Path, output: Path, *options: str) -> subprocess.CompletedProcess:
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(book), "--path-output", str(output)]
    return subprocess.run([*command, "--all", "--keep-going", *options], capture_output=True, text=True, timeout=600)


def opened_page(browser, html: Path, name: str, width: int):
    """The page at a width, from the disk; every request that would leave the disk is refused and counted."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.refused, page.errors = [], []

    def gate(route):
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            page.refused.append(route.request.url)
            route.abort()

    page.route("**/*", gate)
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
    page.goto((html / f"{name}.html").as_uri())
    page.wait_for_function(DRAWN, timeout=60_000)
    return page


def toc_files() -> list[str]:
    """Every page that ``_toc.yml`` names, the root first."""
    toc = yaml.safe_load((project_root() / "_toc.yml").read_text())

    def walk(entries):
        for entry in entries:
            yield entry["file"]
            yield from walk(entry.get("sections", []))

    return [toc["root"], *(name for part in toc["parts"] for name in walk(part["chapters"]))]
