"""Show every verdict as one coloured grid (``{verdict-grid}``), from the committed reports."""

from __future__ import annotations

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from covtoken.errors import CovtokenError
from covtoken.paper.numbers import MISSING, stem_of
from covtoken.paper.pages.base import Reader, make_note
from covtoken.paper.verdict_grid import COHORTS, Cell, verdict_rows
from covtoken.protocol.report import committed_reports

CLASSES = {"GO": "verdict-go", "NO-GO": "verdict-no-go", "NO-VERDICT": "verdict-none"}
WORDS = (
    "GO and NO-GO answer the question of their row; NO-VERDICT: too few units, or no answer possible. Brackets: 95 % "
    "intervals over units; n: units (patients; in BUSI, groups of near-duplicates). Grey: the phantom, drawn pictures "
    "that test the code and say nothing about patients. Slices of liver and kidney were chosen by lesion upstream, as "
    "were the lung crops."
)


class VerdictGrid(Reader, SphinxDirective):
    """Lay out the verdicts: a row a question that links to its chapter, a column a kind of picture."""

    def run(self) -> list[nodes.Node]:
        reports = committed_reports(self.root())
        for report in reports:
            self.depends_on(self.root() / "gate_reports" / report.cohort / f"{stem_of(str(report.gate))}.json")
        try:
            rows = verdict_rows(reports)
        except CovtokenError as error:
            return self.refused(error)
        first = {report.cohort: report for report in reports if str(report.gate) == "1"}
        if not first:
            return self.refused(CovtokenError(f"gate 1: {MISSING}"))
        head = nodes.row("", nodes.entry("", nodes.paragraph(text="")))
        for cohort, (kind, name) in COHORTS.items():
            entry = first[cohort].metrics["auroc.density"] if cohort in first else {}
            n = f"{entry['n_units']} units, {entry['n_images']} pictures" if entry else ""
            head += _entry(cohort, [("", kind), ("covtoken-n", name), ("covtoken-n", n)])
        body = [
            nodes.row("", nodes.entry("", self._question(row)), *(_cell(c, row.cells[c]) for c in COHORTS))
            for row in rows
        ]
        group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in range(len(COHORTS) + 1)), cols=len(COHORTS) + 1)
        group += [nodes.thead("", head), nodes.tbody("", *body)]
        return [nodes.table("", group, classes=["covtoken-table", "verdict-grid"]), make_note(WORDS)]

    def _question(self, row) -> nodes.paragraph:
        link = addnodes.pending_xref(
            *("", nodes.inline(text=row.question)),
            **{"refdomain": "std", "reftype": "doc", "reftarget": f"/{row.page}", "refexplicit": True},
            refdoc=self.env.docname,
            refwarn=True,
        )
        return nodes.paragraph("", "", link, nodes.inline(text=row.quantity, classes=["covtoken-n"]))


def _cell(cohort: str, cell: Cell | None) -> nodes.entry:
    """Make a coloured cell: verdict, number, interval, n; a dash where the question was not asked."""
    if cell is None:
        return _entry(cohort, [("", "–")])
    number, _, interval = cell.number.partition(" [")
    lines = [("verdict", cell.verdict), ("covtoken-n", number)]
    lines += [("covtoken-n", f"[{interval}")] if interval else []
    return _entry(cohort, [*lines, *([("covtoken-n", cell.n)] if cell.n else [])], CLASSES.get(cell.verdict))


def _entry(cohort: str, lines: list[tuple[str, str]], colour: str | None = None) -> nodes.entry:
    parts = [nodes.inline(text=text, classes=[name] if name else []) for name, text in lines]
    classes = [name for name in (colour, "phantom" if cohort == "phantom" else None) if name]
    return nodes.entry("", nodes.paragraph("", "", *parts), classes=classes)


def register(app: Sphinx) -> None:
    """Register the directive."""
    app.add_directive("verdict-grid", VerdictGrid)
