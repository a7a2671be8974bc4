"""Extend Sphinx for the paper: every measured number on a page comes from a committed report.

What no report holds is a warning, and the book is built with warnings as errors: a page cannot quietly show a number
that was never recorded.
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

from covtoken.paper.pages import (
    checks,
    confirmation,
    economy,
    numbers,
    recipes,
    reports,
    scores,
    scripts,
    studies,
    verdicts,
    volumes,
)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register every part of the extension."""
    shown = (reports, checks, scores, verdicts, recipes, confirmation, studies, economy, volumes, numbers)
    for part in (*shown, scripts):
        part.register(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
