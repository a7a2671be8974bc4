"""Show numbers, tables and charts of committed gate reports.

Roles: ``{report}`busi/gate1 auroc.density` `` (value with its 95 % interval), ``{report-value}`` (value alone),
``{report-decision}`busi/gate1` `` and ``{report-parameter}`busi/gate1 middle` ``. Directives: ``{report-table}``,
``{report-chart}``, ``{published-table}`` and ``{looks-table}``.
"""

from __future__ import annotations

import json
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

from covtoken.errors import CovtokenError
from covtoken.names import COHORT_NAMES, cohort_name, in_page_order, split_name
from covtoken.paper.drawn import OPTIONS, draw
from covtoken.paper.history_table import HEAD, history_rows
from covtoken.paper.numbers import (
    MISSING,
    about,
    as_text,
    cohorts_of,
    gate_name,
    is_signed,
    read_metric,
    readable,
    stem_of,
)
from covtoken.paper.pages.base import Reader, make_note, make_number, make_table
from covtoken.protocol.history import history_path, read_history
from covtoken.protocol.looks import log_path, read_looks


class ReportRole(Reader, SphinxRole):
    """Show a number, the decision or a parameter of a report."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def run(self):
        place, _, name = self.text.strip().partition(" ")
        try:
            text = self._find(place, name.strip())
            if self.kind in ("interval", "value", "n"):
                return [self.door(place, name.strip(), [nodes.Text(text)])], []
        except CovtokenError as error:
            return [self.missing(error, self.lineno)], []
        # A parameter may be a sentence, which breaks into lines.
        return [nodes.inline(text=text) if self.kind == "parameter" else make_number(text)], []

    def _find(self, place: str, name: str) -> str:
        report = self.report(place)
        if self.kind == "decision":
            return report["decision"]
        if self.kind == "parameter":
            parameter = report["parameters"].get(name)
            if parameter is None:
                raise CovtokenError(f"{place} {name}: {MISSING}")
            return str(parameter)
        entry = read_metric(self.root(), f"{place} {name}")
        if self.kind == "n":
            return f"{entry['n_units']} units"
        return as_text(entry, interval=self.kind == "interval", signed=is_signed(name))


class ReportTable(Reader, SphinxDirective):
    """Lay out metrics of every committed report of a gate (or of the named cohorts), a row a number."""

    option_spec: ClassVar = {
        "gate": directives.unchanged,
        "cohorts": directives.unchanged,
        "metrics": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        gate, root = self.options.get("gate", "1"), self.root()
        cohorts = self.options.get("cohorts", "").split() or cohorts_of(root, gate)
        if not cohorts:
            return self.refused(CovtokenError(f"gate {gate}: {MISSING}"))
        rows, notes = [], []
        for cohort in cohorts:
            place = f"{cohort}/{stem_of(gate)}"
            try:
                report = self.report(place)
                entries = {name: read_metric(root, f"{place} {name}") for name in self.options["metrics"].split()}
                for name, entry in entries.items():
                    shown = nodes.Text(as_text(entry, signed=is_signed(name)))
                    rows.append([cohort_name(cohort), readable(name), self.door(place, name, [shown])])
                notes.extend(about(cohort, report, entries.values()))
            except CovtokenError as error:
                rows.append([cohort_name(cohort), "", self.missing(error, self.lineno)])
        table = make_table(["cohort", "quantity", "value [95 % over units]"], rows)
        return [table, make_note(*notes)]


class ReportChart(Reader, SphinxDirective):
    """Draw a chart from a committed report's ``chart_data``: ``{report-chart} busi/gate1 auroc_by_block blocks``.

    ``gate5`` without a cohort draws the rows of all cohorts together, for the score that ``:score:`` names. ``:size:``
    and ``:task:`` go to gate 6's charts.
    """

    required_arguments = 3
    option_spec: ClassVar = {name: directives.unchanged_required for name in ("title", *OPTIONS)}

    def run(self) -> list[nodes.Node]:
        try:
            return self.figure(draw(self.root(), *self.arguments, self.options))
        except CovtokenError as error:
            return self.refused(error)


class PublishedTable(Reader, SphinxDirective):
    """Show ``configs/published.json``: published figures beside what this project measured, on which data."""

    def run(self) -> list[nodes.Node]:
        path = self.root() / "configs" / "published.json"
        self.depends_on(path)
        rows = []
        for figure in json.loads(path.read_text())["figures"]:
            measured = []
            for where in figure["here"]:
                place, name = where.split()
                self.depends_on(self.root() / "gate_reports" / f"{place}.json")
                try:
                    text = as_text(read_metric(self.root(), where), signed=is_signed(name))
                    words = nodes.Text(f"{cohort_name(place.split('/')[0])}, {readable(name)}: ")
                    measured += [words, self.door(place, name, [nodes.Text(text)])]
                except CovtokenError as error:
                    measured.append(self.missing(error, self.lineno))
                measured.append(nodes.Text("; "))
            columns = (figure[name] for name in ("what", "setting", "published"))
            rows.append([*columns, nodes.inline("", "", *measured[:-1]) if measured else figure["why"]])
        return [make_table(["headline", "published setting", "published, not reproduced here", "measured here"], rows)]


class LooksTable(Reader, SphinxDirective):
    """Show how often each test split was looked at, from ``gate_reports/test_log.jsonl``."""

    def run(self) -> list[nodes.Node]:
        path = log_path(recorded=True, root=self.root())
        self.depends_on(path)
        if not path.is_file():
            return self.refused(CovtokenError(f"gate_reports/test_log.jsonl: {MISSING}"))
        looks: dict[tuple, list[str]] = {}
        for look in read_looks(self.root()):
            looks.setdefault((look["cohort"], str(look["gate"]), look["split"]), []).append(look["when"][:10])
        rows = [
            [cohort_name(cohort), gate_name(gate), split_name(split), str(len(days)), min(days), max(days)]
            for (cohort, gate, split), days in sorted(looks.items(), key=lambda item: _place(*item[0]))
        ]
        return [make_table(["cohort", "gate", "pictures", "recorded looks", "first", "last"], rows)]


def _place(cohort: str, gate: str, split: str) -> tuple:
    """Give the place of a row of looks: cohorts in the order of pages."""
    return in_page_order([*COHORT_NAMES, cohort]).index(cohort), gate, split


class HistoryTable(Reader, SphinxDirective):
    """Show what was changed after a look at a test split, from ``configs/history.json``."""

    def run(self) -> list[nodes.Node]:
        self.depends_on(history_path(self.root()))
        return [make_table(HEAD, history_rows(read_history(self.root())))]


def register(app: Sphinx) -> None:
    """Register roles and directives."""
    kinds = {"report": "interval", "report-value": "value"}
    for name in ("report", "report-value", "report-n", "report-decision", "report-parameter"):
        app.add_role(name, ReportRole(kinds.get(name, name.removeprefix("report-"))))
    app.add_directive("report-table", ReportTable)
    app.add_directive("report-chart", ReportChart)
    app.add_directive("published-table", PublishedTable)
    app.add_directive("looks-table", LooksTable)
    app.add_directive("history-table", HistoryTable)
