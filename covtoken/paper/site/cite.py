"""Say how to cite the paper, from ``CITATION.cff``: a line with version and date, and BibTeX."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from covtoken.errors import CovtokenError

NEEDED = ("title", "version", "date-released", "authors")


def read_citation(root: Path) -> dict[str, Any]:
    """Read ``CITATION.cff``.

    Args:
        root: the checkout.

    Returns:
        title (of the preferred citation, if it has one), authors (one text), version, and day, a ``date``.

    Raises:
        CovtokenError: no such file, or it lacks a needed field.
    """
    path = root / "CITATION.cff"
    if not path.is_file():
        raise CovtokenError(f"{path}: no such file; expected a citation in the Citation File Format")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    missing = [name for name in NEEDED if not content.get(name)]
    if missing:
        raise CovtokenError(f"{path}: no {missing[0]}; expected {', '.join(NEEDED)}")
    names = [
        each.get("name") or f"{each['family-names']}, {each['given-names']}"
        for each in content["authors"]  # an entity, or a person
    ]
    return {
        "title": content.get("preferred-citation", content)["title"],
        "authors": " and ".join(f"{{{name}}}" if "," not in name else name for name in names),
        "version": str(content["version"]),
        "day": date.fromisoformat(str(content["date-released"])),
    }


def as_bibtex(citation: dict[str, Any]) -> str:
    """Write what ``read_citation`` gives as a BibTeX entry."""
    day = citation["day"]
    fields = {
        "title": citation["title"],
        "author": citation["authors"],
        "year": f"{day:%Y}",
        "month": f"{day.month}",
        "version": citation["version"],
        "note": f"Software and working paper, version {citation['version']}, {long_date(day)}",
    }
    lines = "".join(f"  {name:<8}= {{{value}}},\n" for name, value in fields.items())
    return f"@misc{{covtoken{day:%Y},\n{lines}}}"


def long_date(day: date) -> str:
    """Write a day as ``24 November 2026``."""
    return f"{day.day} {day:%B %Y}"


class CiteBlock(SphinxDirective):
    """Show version, date and BibTeX: ``{cite-block}``."""

    def run(self) -> list[nodes.Node]:
        root = Path(self.env.srcdir).resolve().parent
        self.env.note_dependency(str(root / "CITATION.cff"))
        citation = read_citation(root)
        line = f"Version {citation['version']}, {long_date(citation['day'])}."
        entry = as_bibtex(citation)
        return [nodes.paragraph(text=line), nodes.literal_block(entry, entry, language="bibtex")]


def register(app: Sphinx) -> None:
    """Register the directive."""
    app.add_directive("cite-block", CiteBlock)
