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
from covtoken.gates.gate5 import cells
from covtoken.gates.transfer.rows import joined_metrics, joined_paths
from covtoken.names import with_short_names
from covtoken.paper.captions import caption_of
from covtoken.paper.charts.offline_renderer import title_of, to_html
from covtoken.paper.history_table import HEAD, history_rows
from covtoken.paper.numbers import MISSING, about, as_text, cohorts_of, is_signed, read_metric, readable, stem_of
from covtoken.paper.pages.base import Reader, make_note, make_number, make_table
from covtoken.protocol.history import history_path, read_history
from covtoken.protocol.looks import log_path, read_looks

UNITS = {"gate3": "small lesions missed (share)"}  # of differences that are not of AUROC, by report
CHART_OPTIONS = ("score", "size", "task")  # of single charts, by their arguments' names


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
                    rows.append([cohort, readable(name), self.door(place, name, [shown])])
                notes.append(about(cohort, report, entries.values()))
            except CovtokenError as error:
                rows.append([cohort, "", self.missing(error, self.lineno)])
        table = make_table(["cohort", "quantity", "value [95 % over units]"], rows)
        return [table, make_note(" ".join(notes))]


class ReportChart(Reader, SphinxDirective):
    """Draw a chart from a committed report's ``chart_data``: ``{report-chart} busi/gate1 auroc_by_block blocks``.

    ``gate5`` without a cohort draws the rows of all cohorts together, for the score that ``:score:`` names. ``:size:``
    and ``:task:`` go to gate 6's charts.
    """

    required_arguments = 3
    option_spec: ClassVar = {name: directives.unchanged_required for name in ("title", *CHART_OPTIONS)}

    def run(self) -> list[nodes.Node]:
        from covtoken.paper.charts_by_name import CHARTS
        from covtoken.paper.tables.economy import setting_marks

        place, chart, key = self.arguments
        cohorts = [] if "/" in place else cohorts_of(self.root(), place.removeprefix("gate"))
        places = [f"{cohort}/{place}" for cohort in cohorts] or [place]
        try:
            if chart not in CHARTS:
                raise CovtokenError(f"chart {chart!r}: expected one of {', '.join(CHARTS)}")
            rows, reports = [], {}
            for name in places:
                report = reports[name.partition("/")[0]] = self.report(name)
                if not report["chart_data"].get(key):
                    raise CovtokenError(f"{name} chart_data {key}: {MISSING}")
                rows += with_short_names(report["chart_data"][key])
            if chart == "transfer_heatmap" and cohorts and place == "gate5":  # cohorts without a report of gate 5
                for path in joined_paths(self.root()).values():
                    self.depends_on(path)
                rows += [row for name, found in joined_metrics(self.root()).items() for row in cells(name, found)]
            options = {name: self.options[name] for name in self.option_spec if name in self.options}
            if chart == "auroc_by_block":
                thresholds = report["thresholds"]
                options["threshold"] = thresholds.get("auroc.recommended", thresholds.get("auroc.density"))
            if chart == "gain_forest":
                options["unit"] = UNITS.get(place.rpartition("/")[2], "token AUROC")
            if chart == "retention_curves":
                options["marks"] = setting_marks(report["metrics"], report["parameters"])
            if chart == "retention_by_clock":
                options["block"] = report["parameters"]["setting"]["chosen"]["block"]
                options["clock"] = self.report(place.replace("gate6", "clock"))["curve"]
            spec = CHARTS[chart](rows, **options).to_dict()
        except CovtokenError as error:
            return self.refused(error)
        words = caption_of(chart, self.options.get("title", title_of(spec)), rows, reports)
        # A figure with an id and a caption: Sphinx numbers it.
        drawn = nodes.raw("", to_html(spec, words=words), format="html")
        name = nodes.make_id(f"figure {self.env.docname} {self.env.new_serialno('chart')}")
        return [nodes.figure("", drawn, nodes.caption(text=words), ids=[name], classes=["covtoken-figure"])]


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
                    measured.append(f"{place.split('/')[0]}, {readable(name)}: {text}")
                except CovtokenError as error:
                    measured.append(self.missing(error, self.lineno).astext())
            columns = (figure[name] for name in ("what", "setting", "published"))
            rows.append([*columns, "; ".join(measured) or figure["why"]])
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
        rows = [[*key, str(len(days)), min(days), max(days)] for key, days in sorted(looks.items())]
        return [make_table(["cohort", "gate", "split", "recorded looks", "first", "last"], rows)]


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
