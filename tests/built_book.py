"""Build the book as a reader gets it, and open its pages in a browser that has no network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from covtoken.paper.site.pdf import DRAWN, find_browser

BROWSER = find_browser()


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
