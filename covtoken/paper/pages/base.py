"""What every directive of the paper shares: where reports lie, what is missing, tables."""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from sphinx.util import logging

from covtoken.paper.numbers import MISSING

logger = logging.getLogger(__name__)


class Reader:
    """What roles and directives share: the checkout's root, dependencies and the warning for what is missing."""

    def root(self) -> Path:
        return Path(self.env.srcdir).resolve().parent

    def depends_on(self, path: Path) -> None:
        self.env.note_dependency(str(path))

    def missing(self, error: Exception, line: int) -> nodes.Node:
        logger.warning("%s", error, location=(self.env.docname, line))
        return nodes.strong(text=MISSING)


def make_table(head: list[str], rows: list[list]) -> nodes.table:
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in head), cols=len(head))
    group += nodes.thead("", make_row(head))
    group += nodes.tbody("", *(make_row(row) for row in rows))
    return nodes.table("", group, classes=["covtoken-table"])


def make_row(cells: list) -> nodes.row:
    def content(cell):
        return cell if isinstance(cell, nodes.Node) else nodes.Text(cell)

    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", content(cell))) for cell in cells))
