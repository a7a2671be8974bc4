"""Show verdicts as a grid (``{verdict-grid}``) and real pictures (``{picture-figure}``, ``{explorer}``)."""

from __future__ import annotations

from html import escape

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from covtoken.errors import CovtokenError
from covtoken.names import cohort_name, counted
from covtoken.paper.explorer import content as explorer
from covtoken.paper.explorer.page import SCRIPT, explorer_html
from covtoken.paper.first_figure import VIEWS, caption_of, panels_of, views
from covtoken.paper.numbers import MISSING, stem_of
from covtoken.paper.pages.base import Reader, make_note
from covtoken.paper.verdict_grid import COHORTS, FURTHER, TINY, Cell, Row, verdict_rows
from covtoken.protocol.report import committed_reports

PICTURES = f"{explorer.FOLDER.removeprefix('book/')}/"  # seen from a page at the root
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
        for cohort in rows[0].cells:
            kind = (COHORTS | TINY).get(cohort, "")
            entry = first[cohort].metrics["auroc.density"] if cohort in first else {}
            n = f"{counted(entry['n_units'], 'unit')}, {counted(entry['n_images'], 'picture')}" if entry else ""
            head += _entry(cohort, [("", kind), ("covtoken-n", cohort_name(cohort)), ("covtoken-n", n)])
        body = [nodes.row("", nodes.entry("", self._question(row)), *self._cells(row)) for row in rows]
        n_columns = len(rows[0].cells) + 1
        group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in range(n_columns)), cols=n_columns)
        group += [nodes.thead("", head), nodes.tbody("", *body)]
        return [nodes.table("", group, classes=["covtoken-table", "verdict-grid"]), make_note(WORDS)]

    def _cells(self, row: Row) -> list[nodes.entry]:
        entries = []
        for cohort, cell in row.cells.items():
            place = f"{FURTHER.get(cohort, cohort) if row.gate == 'confirmation' else cohort}/{stem_of(row.gate)}"
            number = (
                self.door(place, cell.name, [nodes.Text(cell.number.partition(" [")[0])])
                if cell and cell.name
                else None
            )
            entries.append(_cell(cohort, cell, number))
        return entries

    def _question(self, row) -> nodes.paragraph:
        link = addnodes.pending_xref(
            *("", nodes.inline(text=row.question)),
            **{"refdomain": "std", "reftype": "doc", "reftarget": f"/{row.page}", "refexplicit": True},
            refdoc=self.env.docname,
            refwarn=True,
        )
        return nodes.paragraph("", "", link, nodes.inline(text=row.quantity, classes=["covtoken-n"]))


class PictureFigure(Reader, SphinxDirective):
    """Show the cases of the first figure: a row a case, its views, its numbers and credit."""

    def run(self) -> list[nodes.Node]:
        self.depends_on(self.root() / explorer.FOLDER / "explorer.json")
        try:
            panels = list(panels_of(explorer.read_explorer(self.root())))
        except CovtokenError as error:
            return self.refused(error)
        heads = "".join(f"<th>{escape(words)}</th>" for words in VIEWS.values())
        rows = []
        for panel in panels:
            cells = "".join(f"<td>{svg}</td>" for svg in views(panel, PICTURES).values())
            rows.append(f'<tr>{cells}</tr><tr><td colspan="{len(VIEWS)}">{escape(caption_of(panel))}</td></tr>')
        credit = "; ".join(dict.fromkeys(panel["credit"] for panel in panels))
        one = {panel["cohort"]: panel for panel in panels}
        counts = " and ".join(
            f"{p['lesions_kept_in_the_split']} of {p['lesions_in_the_split']} lesions ({explorer.NAMES[c]})"
            for c, p in one.items()
        )
        words = (
            "Two pictures of each kind from the selection split: among pictures with one lesion, the retained and the "
            "missed one whose size is nearest to the median. Size chooses, not the score. Retained: at least half of "
            f"the lesion's tokens are kept. Of a quarter of the tokens, C− retains {counts} of these splits. "
        )
        more = self.env.app.builder.get_relative_uri(self.env.docname, "explorer")
        caption = nodes.caption("", words, nodes.reference("", "More pictures", refuri=more, internal=True))
        caption += [nodes.Text(". Drawn by "), nodes.literal(text="covtoken figure explorer")]
        caption += nodes.Text(f". Pictures: {credit}; shrunk to 224 px.")
        html = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        pictures = nodes.raw("", html, format="html")
        # A figure with an id and a caption: Sphinx numbers it, the first of the book.
        return [nodes.figure("", pictures, caption, ids=["figure-1"], classes=["covtoken-figure", "covtoken-pictures"])]


class Explorer(Reader, SphinxDirective):
    """Show the committed pictures of ``covtoken figure explorer``, and the budgets of gate 3's reports."""

    def run(self) -> list[nodes.Node]:
        reports = [self.root() / "gate_reports" / cohort / "gate3.json" for cohort in explorer.COHORTS]
        for path in (self.root() / explorer.FOLDER / "explorer.json", SCRIPT, *reports):
            self.depends_on(path)
        try:
            data = explorer.page_data(self.root())
        except CovtokenError as error:
            return self.refused(error)
        return [nodes.raw("", explorer_html(data, PICTURES), format="html")]


def _cell(cohort: str, cell: Cell | None, shown: nodes.Node | None) -> nodes.entry:
    """Make a coloured cell: verdict, number, interval, n; a dash where the question was not asked.

    Args:
        shown: the number as a door, where it is a metric.
    """
    if cell is None:
        return _entry(cohort, [("", "–")])
    number, _, interval = cell.number.partition(" [")
    lines = [("verdict", cell.verdict), ("covtoken-n", shown or number)]
    lines += [("covtoken-n", f"[{interval}")] if interval else []
    return _entry(cohort, [*lines, *([("covtoken-n", cell.n)] if cell.n else [])], CLASSES.get(cell.verdict))


def _entry(cohort: str, lines: list[tuple[str, str | nodes.Node]], colour: str | None = None) -> nodes.entry:
    parts = [
        nodes.inline("", "", nodes.Text(shown) if isinstance(shown, str) else shown, classes=[name] if name else [])
        for name, shown in lines
    ]
    classes = [name for name in (colour, "phantom" if cohort == "phantom" else None) if name]
    return nodes.entry("", nodes.paragraph("", "", *parts), classes=classes)


def register(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("verdict-grid", VerdictGrid)
    app.add_directive("picture-figure", PictureFigure)
    app.add_directive("explorer", Explorer)
