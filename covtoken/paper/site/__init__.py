"""Extend Sphinx for who reads online, keeps or cites the paper: citation, ``llms.txt``, downloads, quiet scripts."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

from covtoken.paper.site import cite, llms, page


def setup(app: Sphinx) -> dict[str, Any]:
    """Register every part of the extension."""
    for part in (cite, llms, page):
        part.register(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
