"""Show scores beside each other, cohort by cohort, from committed reports.

Directives: ``{report-matrix}`` (one kind of number, a row a score, a column a cohort), ``{across-chart}`` (a chart of
several cohorts), ``{verdict-table}`` (one score against every baseline) and ``{alarm-table}`` (alarm against failure).
They warn where no report is recorded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from covtoken.errors import CovtokenError
from covtoken.names import MEASURE_NAMES, METHOD_NAMES, cohort_name, split_name
from covtoken.paper.across import draw_across
from covtoken.paper.numbers import MISSING, READABLE, about, as_text, cohorts_of, is_signed, readable, stem_of
from covtoken.paper.pages.base import Reader, make_note, make_table, number_table


class ReportMatrix(Reader, SphinxDirective):
    """Lay out numbers, a row a number and a column a cohort; a dash where a cohort has none.

    Either ``:metrics:``, by their full names, or one ``:kind:`` of number for the ``:scores:`` named, ``:at:`` a budget
    where the kind has them (``keep0.25``). ``:caption:`` numbers the table.
    """

    option_spec: ClassVar = {
        name: directives.unchanged for name in ("gate", "cohorts", "metrics", "kind", "scores", "at", "caption")
    }

    def run(self) -> list[nodes.Node]:
        gate, kind = self.options.get("gate", "1"), self.options.get("kind", "")
        place = f".{self.options['at']}" if "at" in self.options else ""
        names = {f"{kind}.{score}{place}": NAMES[score] for score in self.options.get("scores", "").split()}
        names |= {name: readable(name) for name in self.options.get("metrics", "").split()}
        try:
            reports = self.reports(gate, self.options.get("cohorts", "").split())
        except CovtokenError as error:
            return self.refused(error)
        entries = {cohort: _with_value(report["metrics"], names) for cohort, report in reports.items()}
        rows = []
        for name, label in under_heads(names) if "metrics" in self.options else names.items():
            cells = (
                self.door(f"{cohort}/{stem_of(gate)}", name, _stacked(name, found[name])) if name in found else "–"
                for cohort, found in entries.items()
            )
            rows.append([label, *cells] if name else [label])
        notes = [part for cohort, report in reports.items() for part in about(cohort, report, entries[cohort].values())]
        words = f"{KIND_WORDS.get(kind, 'Values')}, 95 % intervals over units."
        table = make_table(["", *map(cohort_name, reports)], rows)
        table = number_table(self.env, table, self.options.get("caption", ""))
        return [table, make_note(words, *notes)]


def under_heads(names: dict[str, str]) -> list[tuple[str, str]]:
    """Put numbers of one kind under a row that names it: (metric or nothing, label); one of its kind keeps its name."""
    kinds = {name: label.partition(", ") for name, label in names.items()}
    counts = Counter(kind for kind, _, _ in kinds.values())
    rows, last = [], ""
    for name, (kind, _, rest) in kinds.items():
        if counts[kind] < 2 or not rest:
            rows.append((name, names[name]))
            continue
        if kind != last:
            rows.append(("", kind[0].upper() + kind[1:]))
        rows.append((name, rest))
        last = kind
    return rows


def _with_value(metrics: dict, names: Iterable[str]) -> dict[str, dict]:
    return {name: metrics[name] for name in names if metrics.get(name) and metrics[name]["value"] is not None}


def _stacked(name: str, entry: dict) -> list[nodes.Node]:
    """Put the interval under its value: five cohorts then fit beside each other."""
    value, _, interval = as_text(entry, signed=is_signed(name)).partition(" ")
    return [nodes.inline(text=value), nodes.inline(text=interval, classes=["covtoken-interval"])]


NAMES = METHOD_NAMES | MEASURE_NAMES
KIND_WORDS = {name: words[0].upper() + words[1:] for name, words in READABLE.items()} | {
    "miss_small": "Small lesions missed (less than half of the tokens kept)",
    "recall_small": "Recall of small lesions, pooled over their tokens",
    "spearman": "Spearman's ρ with lesion recall, mean over pictures",
    "auroc": "Pooled token AUROC",
}
for _kind in ("froc", "organ_froc"):
    KIND_WORDS[f"{_kind}.fp1"] = f"{KIND_WORDS[_kind]} at 1 false alarm a picture"
    KIND_WORDS[f"{_kind}.fp4"] = f"{KIND_WORDS[_kind]} at 4 false alarms a picture"


class AcrossChart(Reader, SphinxDirective):
    """Draw a chart of several cohorts: ``{across-chart} gains NAME``, ``values`` or ``blocks``."""

    required_arguments = 2
    option_spec: ClassVar = {
        name: directives.unchanged_required for name in ("title", "gate", "cohorts", "metrics", "score")
    }

    def run(self) -> list[nodes.Node]:
        try:
            return self.figure(draw_across(self.root(), *self.arguments, self.options))
        except CovtokenError as error:
            return self.refused(error)


class VerdictTable(Reader, SphinxDirective):
    """Say whether one score wins, loses or is undecided: a row a baseline and a column a cohort."""

    option_spec: ClassVar = {name: directives.unchanged for name in ("gate", "kinds", "ours")}

    def run(self) -> list[nodes.Node]:
        gate = self.options.get("gate", "1")
        reports = self.reports(gate)
        if not reports:
            return self.refused(CovtokenError(f"gate {gate}: {MISSING}"))
        rows, ours = [], self.options.get("ours", "density")
        for kind in self.options.get("kinds", "auroc image_auroc aupr").split():
            start = f"{kind}.{ours}_against_"
            names = dict.fromkeys(n for report in reports.values() for n in report["checks"] if n.startswith(start))
            for name in names:
                label = f"{METHOD_NAMES[name.removeprefix(start)]}, {KINDS[kind]}"
                rows.append([label, *(str(report["checks"].get(name, "–")) for report in reports.values())])
        # What is lost stands first: a reader of ten rows has seen the losses.
        rows.sort(key=lambda row: ("loses" not in row, "undecided" not in row))
        lines = [nodes.list_item("", nodes.paragraph(text=line)) for line in _losses(OURS[ours], reports, rows)]
        words = nodes.bullet_list("", *lines)
        notes = [
            part for c, report in reports.items() for part in about(c, report, [report["metrics"][f"auroc.{ours}"]])
        ]
        shown = [[row[0], *(nodes.inline(text=cell, classes=[f"reads-{cell}"]) for cell in row[1:])] for row in rows]
        return [make_table([f"{OURS[ours]} against", *map(cohort_name, reports)], shown), words, make_note(*notes)]


KINDS = {"auroc": "pooled", "image_auroc": "inside a picture", "aupr": "AUPR", "organ_auroc": "inside the organ"}
OURS = METHOD_NAMES | {"recommended": "C−", "with_head": "C"}


def _losses(ours: str, reports: dict, rows: list[list[str]]) -> list[str]:
    """Name every baseline that beats the method, a line a cohort."""
    lines = []
    for column, cohort in enumerate(reports, start=1):
        kinds: dict[str, list[str]] = {}
        for row in (row for row in rows if row[column] == "loses"):
            name, _, kind = row[0].rpartition(", ")
            kinds.setdefault(kind, []).append(name)
        lost = "; ".join(f"{kind} to {_listed(names)}" for kind, names in kinds.items())
        lines.append(f"{cohort_name(cohort)}: {ours} loses {lost or 'to none'}.")
    return lines


def _listed(names: list[str]) -> str:
    """Join names, some of which hold a comma."""
    return " · ".join(names)


class AlarmTable(Reader, SphinxDirective):
    """Show how often alarm and failure go together, a row a cohort, from the committed alarm reports."""

    def run(self) -> list[nodes.Node]:
        rows, total = [], np.zeros((2, 2), dtype=int)
        for cohort in cohorts_of(self.root(), "alarm"):
            report = self.report(f"{cohort}/alarm")
            checks, metrics = report["checks"], report["metrics"]
            failed, worked = ([checks[f"{a}_{b}"] for a in ("fired", "silent")] for b in ("failed", "worked"))
            means = [f"{metrics[f'mean_auroc.{name}']['value']:.3f}" for name in ("d", "a", "recommended")]
            total += [failed, worked]
            rows.append([f"{cohort_name(cohort)}, {split_name(report['split'])}", *_right(failed, worked), *means])
        if not rows:
            return self.refused(CovtokenError(f"alarm: {MISSING}"))
        rows.append(["all", *_right(*total), "–", "–", "–"])
        head = ["", "failed: fired", "worked: silent", "right", "mean AUROC of C−", "of A", "of what the alarm says"]
        return [make_table(head, rows)]


def _right(failed, worked) -> list[str]:
    """Count the right alarms where C− failed and where it worked, and both; each argument is (fired, silent)."""
    pairs = ((failed[0], sum(failed)), (worked[1], sum(worked)))
    return [f"{right} of {n}" for right, n in (*pairs, map(sum, zip(*pairs, strict=True)))]


def register(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("report-matrix", ReportMatrix)
    app.add_directive("across-chart", AcrossChart)
    app.add_directive("verdict-table", VerdictTable)
    app.add_directive("alarm-table", AlarmTable)
