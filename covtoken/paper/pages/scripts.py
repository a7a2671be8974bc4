"""Give pages the scripts that draw formulas and charts without a network."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from sphinx.application import Sphinx

from covtoken.paper.charts.offline_renderer import write_bundle
from covtoken.paper.pages.base import logger, say_once
from covtoken.paths import write_then_rename

MATHJAX_SHA256 = "a4354ff94fd868aea0cc6eaaa79a57fda0588646fc46ee3700a349ee0a11cbe6"  # npm mathjax 3.2.2


def write_scripts(app: Sphinx, config) -> None:
    """Copy MathJax and Vega from installed packages into the book's ``_extra``."""
    extra = Path(app.srcdir) / "_extra"
    write_bundle(extra / "vega" / "vega-bundle.js")
    target = extra / "mathjax" / "tex-svg-full.js"
    if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == MATHJAX_SHA256:
        return
    try:
        # The wheel holds npm's files unchanged (same digest), so that no node is needed to draw formulas offline.
        scripts = [f for f in files("sphinx-mathjax-offline") or [] if f.name == "tex-svg-full.js"]
    except PackageNotFoundError:
        scripts = []
    content = scripts[0].locate().read_bytes() if scripts else b""
    if hashlib.sha256(content).hexdigest() != MATHJAX_SHA256:
        logger.warning(
            "formulas cannot be drawn: install MathJax 3.2.2 with `pip install sphinx-mathjax-offline==0.0.2`"
        )
        return
    with write_then_rename(target) as temporary:
        temporary.write_bytes(content)


def add_vega(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Load Vega (0.9 MB) on pages that hold a chart, and only there."""
    if "covtoken-chart" in (context.get("body") or ""):
        app.add_js_file("../vega/vega-bundle.js")


def drop_mathjax(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Take MathJax (2.3 MB) from pages without a formula: Sphinx loads it wherever a page further down has one."""
    if 'class="math' not in (context.get("body") or ""):
        scripts = context["script_files"]
        scripts[:] = [script for script in scripts if "mathjax" not in str(getattr(script, "filename", script))]


def register(app: Sphinx) -> None:
    """Write the scripts before a build, and load them where a page needs them."""
    # Before Sphinx checks that html_extra_path exists (priority 800).
    app.connect("config-inited", write_scripts, priority=100)
    app.connect("doctree-read", say_once)
    app.connect("html-page-context", add_vega)
    app.connect("html-page-context", drop_mathjax, priority=900)  # after Sphinx has added it
