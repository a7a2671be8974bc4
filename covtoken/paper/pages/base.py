"""Share among directives of the paper: reports of the checkout, the warning for what is missing, tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

from covtoken.paper.charts.offline_renderer import to_html
from covtoken.paper.doors import door_of, split_at_numbers
from covtoken.paper.drawn import Drawn
from covtoken.paper.numbers import MISSING, cohorts_of, read_content, stem_of
from covtoken.paper.tables.behind import table_behind

CHART_FILES = "charts"  # the folder of the built book that holds their CSV and SVG
NOTE = "covtoken-note-part"
NUMBERS = "numbers"  # the page that lists every number
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

    def door(self, place: str, name: str, shown: list[nodes.Node]) -> nodes.Node:
        """Make a number a link to its row on the page of numbers, whose title says where the number comes from.

        Args:
            place: of the report, ``"<cohort>/gate<N>"``.
            name: of the metric.
            shown: what the page shows of it.
        """
        if NUMBERS not in self.env.found_docs:  # a book without that page
            return nodes.inline("", "", *shown, classes=["covtoken-number"])
        door = door_of(self.root(), place, self.report(place), name)
        if not hasattr(self.env, "covtoken_numbers"):
            self.env.covtoken_numbers = {}
        self.env.covtoken_numbers.setdefault(self.env.docname, {})[door.where] = None
        target = self.env.app.builder.get_relative_uri(self.env.docname, NUMBERS)
        classes = ["covtoken-number", "covtoken-door"]
        return nodes.reference(
            *("", "", *shown),
            **{"refuri": f"{target}#{door.anchor}", "reftitle": door.line, "internal": True, "classes": classes},
        )

    def linked(self, text: str, texts: Mapping[str, list[tuple[str, str]]]) -> nodes.Node:
        """Make the numbers in a text doors where a single metric of ``texts`` (``texts_of``) reads so."""
        parts = [
            self.door(place, name, [nodes.Text(part)]) if place else nodes.Text(part)
            for part, place, name in split_at_numbers(text, texts)
        ]
        return nodes.inline("", "", *parts)

    def figure(self, drawn: Drawn) -> list[nodes.Node]:
        """Show a chart over one line: number, caption, data as CSV, SVG, and the command that draws it again."""
        for path in drawn.files:
            self.depends_on(path)
        files = drawn.write(Path(self.env.srcdir) / "_extra" / CHART_FILES)
        up = "../" * self.env.docname.count("/") + CHART_FILES
        links = [
            nodes.reference("", path.suffix[1:].upper(), refuri=f"{up}/{path.name}", internal=True) for path in files
        ]
        more = [
            links[0],
            nodes.Text(" · "),
            links[1],
            nodes.Text(" · "),
            nodes.literal(text=f"covtoken figure {drawn.name}"),
        ]
        # A figure with an id and a caption: Sphinx numbers it.
        caption = nodes.caption("", f"{drawn.words} ", nodes.inline("", "", *more, classes=["covtoken-sources"]))
        name = nodes.make_id(f"figure {self.env.docname} {self.env.new_serialno('chart')}")
        shown = nodes.raw("", to_html(drawn.spec, words=drawn.words), format="html")
        behind = nodes.raw("", table_behind(drawn, f"{up}/{files[0].name}"), format="html")
        return [nodes.figure("", shown, caption, ids=[name], classes=["covtoken-figure"]), behind]

    def missing(self, error: Exception, line: int) -> nodes.Node:
        """Warn, and give the words that stand in for the number."""
        logger.warning("%s", error, location=(self.env.docname, line))
        return nodes.strong(text=MISSING)

    def refused(self, error: Exception) -> list[nodes.Node]:
        """Warn, and give the paragraph that stands in for the whole directive."""
        return [nodes.paragraph("", "", self.missing(error, self.lineno))]


def make_table(head: list[str], rows: list[list]) -> nodes.table:
    """Make a table of text and nodes; a row of a single cell is a heading over the rows below it."""
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in head), cols=len(head))
    group += nodes.thead("", make_row(head))
    group += nodes.tbody("", *(make_row(row, len(head)) for row in rows))
    return nodes.table("", group, classes=["covtoken-table"])


def number_table(env: BuildEnvironment, table: nodes.table, caption: str) -> nodes.table:
    """Put a caption over a table, which Sphinx then numbers; an empty caption leaves the table as it is."""
    if caption:
        table.insert(0, nodes.title(text=caption))
        table["ids"] = [nodes.make_id(f"table {env.docname} {env.new_serialno('table')}")]
    return table


def make_row(cells: list, width: int = 1) -> nodes.row:
    """Make one row of a table; a single cell spans ``width`` columns."""
    if len(cells) == 1 < width:
        return nodes.row("", nodes.entry("", nodes.paragraph("", "", nodes.strong(text=cells[0])), morecols=width - 1))
    contents = (cell if isinstance(cell, nodes.Node) else nodes.Text(cell) for cell in cells)
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", content)) for content in contents))


def make_note(*parts: str) -> nodes.paragraph:
    """Make the small print under a table; a part that an earlier note of the page has is left out of it."""
    said = [nodes.inline("", f"{part.strip()} ", classes=[NOTE]) for part in parts if part.strip()]
    return nodes.paragraph("", "", *said, classes=["covtoken-note"])


def say_once(app: Sphinx, doctree: nodes.document) -> None:
    """Take from the notes of a page what an earlier one of them says."""
    said: set[str] = set()
    for note in [part for part in doctree.findall(nodes.paragraph) if "covtoken-note" in part["classes"]]:
        parts = [part for part in note.children if isinstance(part, nodes.inline) and NOTE in part["classes"]]
        again = [part for part in parts if part.astext() in said]
        said |= {part.astext() for part in parts}
        for part in again:
            note.remove(part)
        if again:
            note += nodes.inline("", "Splits and samples as in an earlier note on this page.")


def make_number(text: str) -> nodes.inline:
    """Make a number that stays on one line."""
    return nodes.inline(text=text, classes=["covtoken-number"])
