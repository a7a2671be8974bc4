"""Share the built book and the browser among tests of the paper."""

from __future__ import annotations

from pathlib import Path

import pytest
from built_book import BROWSER, build

from covtoken.paths import project_root


@pytest.fixture(scope="session")
def html(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("built")
    done = build(project_root() / "book", output, "-W")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return output / "_build" / "html"


@pytest.fixture(scope="session")
def browser():
    if BROWSER is None:
        pytest.skip("no chromium on this machine: drawn pages are not checked")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()
