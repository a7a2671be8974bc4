"""Mend what the theme puts around a page: its downloads, and scripts that stand on it twice."""

from __future__ import annotations

from sphinx.application import Sphinx


def give_notebooks(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Let the download button give a notebook where the page is one, and else the print alone.

    The source of any other page holds roles that only this build can fill.
    """
    for group in context.get("header_buttons", []):
        if group.get("label") != "download-buttons":
            continue
        is_notebook = context.get("page_source_suffix") == ".ipynb"
        group["buttons"] = [
            button for button in group["buttons"] if is_notebook or button["label"] != "download-source-button"
        ]


def drop_twins(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Keep one of scripts with equal bodies: a second declaration of the same constant is an error to a browser."""
    scripts, seen = context.get("script_files", []), set()
    for script in list(scripts):
        body = (getattr(script, "attributes", None) or {}).get("body")
        if body and body in seen:
            scripts.remove(script)
        seen.add(body)


def register(app: Sphinx) -> None:
    """Change a page's context after the theme has filled it."""
    app.connect("html-page-context", give_notebooks, priority=950)
    app.connect("html-page-context", drop_twins, priority=950)
