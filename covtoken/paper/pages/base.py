"""Share among directives of the paper: reports of the checkout, the warning for what is missing, tables."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

from covtoken.paper.numbers import MISSING, cohorts_of, read_content, stem_of

logger = logging.getLogger(__name__)


class Reader:
    """Give roles and directives the checkout's reports, and warn where one is missing."""

    def root(self) -> Path:
        return Path(self.env.srcdir).resolve().parent

    def depends_on(self, path: Path) -> None:
        """Build the page again when this file changes."""
        self.env.note_dependency(str(path))

    def report(self, place: str) -> dict[str, Any]:
        """Read ``gate_reports/<place>.json``, or refuse it; the page then depends on it."""
        self.depends_on(self.root() / "gate_reports" / f"{place}.json")
        return read_content(self.root(), place)

    def reports(self, gate: str, cohorts: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
        """Read a gate's committed reports, {cohort: content}; of every cohort, or of those named, which must exist."""
        return {c: self.report(f"{c}/{stem_of(gate)}") for c in cohorts or cohorts_of(self.root(), gate)}

    def missing(self, error: Exception, line: int) -> nodes.Node:
        """Warn, and give the words that stand in for the number."""
        logger.warning("%s", error, location=(self.env.docname, line))
        return nodes.strong(text=MISSING)

    def refused(self, error: Exception) -> list[nodes.Node]:
        """Warn, and give the paragraph that stands in for the whole directive."""
        return [nodes.paragraph("", "", self.missing(error, self.lineno))]


def make_table(head: list[str], rows: list[list]) -> nodes.table:
    """Make a table of text and nodes."""
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in head), cols=len(head))
    group += nodes.thead("", make_row(head))
    group += nodes.tbody("", *(make_row(row) for row in rows))
    return nodes.table("", group, classes=["covtoken-table"])


def number_table(env: BuildEnvironment, table: nodes.table, caption: str) -> nodes.table:
    """Put a caption over a table, which Sphinx then numbers; an empty caption leaves the table as it is."""
    if caption:
        table.insert(0, nodes.title(text=caption))
        table["ids"] = [nodes.make_id(f"table {env.docname} {env.new_serialno('table')}")]
    return table


def make_row(cells: list) -> nodes.row:
    """Make one row of a table."""
    contents = (cell if isinstance(cell, nodes.Node) else nodes.Text(cell) for cell in cells)
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", content)) for content in contents))


def make_note(text: str) -> nodes.paragraph:
    """Make the small print under a table."""
    return nodes.paragraph(text=text, classes=["covtoken-note"])


def make_number(text: str) -> nodes.inline:
    """Make a number that stays on one line."""
    return nodes.inline(text=text, classes=["covtoken-number"])
