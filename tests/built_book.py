"""Build the book as a reader gets it, and open its pages in a browser that has no network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


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
    page.goto((html / f"{name}.html").as_uri())
    # Drawing is asynchronous: wait for what the page itself says it holds.
    page.wait_for_function(
        "() => document.querySelectorAll('.covtoken-chart').length === "
        "document.querySelectorAll('.covtoken-chart.vega-embed svg').length && "
        "document.querySelectorAll('.math').length <= document.querySelectorAll('mjx-container svg').length",
        timeout=60_000,
    )
    return page
