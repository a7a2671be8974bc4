"""Show the confirmation on external cohorts, from committed reports.

Directives: ``{confirmation-table}``, a row a cohort and column with its verdict; ``{column-table} COHORT``, a row a
score with its numbers in both columns; ``{confirmation-looks}``, how often each external cohort was opened. They warn
where nothing is recorded.
"""

from __future__ import annotations

import re
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from covtoken.data.external import EXTERNAL
from covtoken.errors import CovtokenError
from covtoken.names import COLUMNS, LABELS, cohort_name
from covtoken.paper.confirmation_rows import GATE, lost_lines, on_its_side, rows_of
from covtoken.paper.doors import texts_of
from covtoken.paper.numbers import MISSING, about, cell
from covtoken.paper.pages.base import Reader, make_note, make_table
from covtoken.protocol.looks import log_path, read_looks
from covtoken.protocol.report import GateReport

KINDS = {"auroc": "AUROC", "image_auroc": "inside one picture", "aupr": "AUPR"}


class ConfirmationTable(Reader, SphinxDirective):
    """Lay out the deciding comparison and the best of all others, a row a cohort and column."""

    def run(self) -> list[nodes.Node]:
        reports = self.reports(GATE)
        if not reports:
            return self.refused(CovtokenError(f"{GATE}: {MISSING}"))
        texts = texts_of({f"{cohort}/{GATE}": report for cohort, report in reports.items()})
        rows = [
            [_unbroken(cell.strip("*")) for cell in row] for r in reports.values() for row in rows_of(GateReport(**r))
        ]
        lines = [line for r in reports.values() for line in lost_lines(GateReport(**r))]
        lost = nodes.bullet_list("", *(nodes.list_item("", nodes.paragraph(text=line)) for line in lines))
        head, *rows = on_its_side(rows)
        rows = [[row[0], *(self.linked(cell, texts) for cell in row[1:])] for row in rows]
        table = make_table(head, rows)
        table["classes"].append("covtoken-wrap")
        return [table, nodes.paragraph(text="What is better there beyond doubt:"), lost]


def _unbroken(text: str) -> str:
    """Keep each interval on one line."""
    return re.sub(r"\[[^\]]*\]", lambda interval: interval[0].replace(" ", "\u00a0"), text)


class ColumnTable(Reader, SphinxDirective):
    """Lay out a cohort's scores, the best of the deciding column first: each number carried and cross-fitted."""

    required_arguments = 1
    option_spec: ClassVar = {"kinds": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        cohort, kinds = self.arguments[0], self.options.get("kinds", " ".join(KINDS)).split()
        try:
            report = self.report(f"{cohort}/{GATE}")
        except CovtokenError as error:
            return self.refused(error)
        metrics, first = report["metrics"], report["thresholds"]["column"]
        names = {name: metrics.get(f"auroc.{name}.{first}") for name in LABELS}
        names = sorted((n for n, entry in names.items() if entry), key=lambda n: -names[n]["value"])
        places = [(kind, column) for kind in kinds for column in COLUMNS]
        head = ["", *(f"{KINDS.get(kind, kind)}, {COLUMNS[column]}" for kind, column in places)]
        rows = [[LABELS[n], *(self._cell(report, f"{k}.{n}.{c}") for k, c in places)] for n in names]
        note = about(cohort, report, [metrics[f"auroc.recommended.{column}"] for column in COLUMNS])
        table = make_table(head, rows)
        table["classes"].append("covtoken-wrap")
        return [table, make_note("95 % intervals over units.", *note)]

    def _cell(self, report: dict, name: str) -> nodes.Node:
        text = cell(report["metrics"].get(name))
        return self.door(f"{report['cohort']}/{GATE}", name, [nodes.Text(text)]) if text else nodes.Text("–")


class ConfirmationLooks(Reader, SphinxDirective):
    """Count in a sentence how often each external cohort was opened, from the log of looks."""

    def run(self) -> list[nodes.Node]:
        self.depends_on(log_path(recorded=True, root=self.root()))
        days = {cohort: [] for cohort in EXTERNAL}
        for look in read_looks(self.root()):
            if look["cohort"] in days:
                days[look["cohort"]].append(look["when"][:10])
        if not any(days.values()):
            return self.refused(CovtokenError(f"gate_reports/test_log.jsonl, {GATE}: {MISSING}"))
        parts = (f"{cohort_name(cohort)}: {len(when)} ({', '.join(when) or 'never'})" for cohort, when in days.items())
        return [nodes.paragraph(text=f"Recorded looks of this project at the external cohorts: {'; '.join(parts)}.")]


def register(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("confirmation-table", ConfirmationTable)
    app.add_directive("column-table", ColumnTable)
    app.add_directive("confirmation-looks", ConfirmationLooks)
