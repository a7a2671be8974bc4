"""Sphinx extension of the working paper: scores beside each other, cohort by cohort, from committed reports.

Directives: ``{report-matrix}`` (one kind of number, a row a score, a column a cohort), ``{verdict-table}`` (one score
against every baseline: wins, loses, undecided) and ``{alarm-table}`` (alarm against failure). Like ``reports``
they warn where no report is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from covtoken.errors import CovtokenError
from covtoken.names import MEASURE_NAMES, METHOD_NAMES
from covtoken.paper.numbers import (
    MISSING,
    about,
    as_text,
    cohorts_of,
    is_signed,
    read_content,
    readable,
    stem_of,
)
from covtoken.paper.pages.base import Reader, make_table


class ReportMatrix(Reader, SphinxDirective):
    """A row a number and a column a cohort; a dash where a cohort has none.

    Either ``:metrics:``, by their full names, or one ``:kind:`` of number and the ``:scores:`` it is shown of, ``:at:``
    a budget where the kind has them (``keep0.25``).
    """

    option_spec: ClassVar = {
        name: directives.unchanged for name in ("gate", "cohorts", "metrics", "kind", "scores", "at")
    }

    def run(self) -> list[nodes.Node]:
        gate, root, kind = self.options.get("gate", "1"), self.root(), self.options.get("kind", "")
        place = f".{self.options['at']}" if "at" in self.options else ""
        names = {f"{kind}.{score}{place}": NAMES[score] for score in self.options.get("scores", "").split()}
        names |= {name: readable(name) for name in self.options.get("metrics", "").split()}
        cohorts = self.options.get("cohorts", "").split() or cohorts_of(root, gate)
        try:
            reports = {cohort: read_content(root, f"{cohort}/{stem_of(gate)}") for cohort in cohorts}
        except CovtokenError as error:
            return [nodes.paragraph("", "", self.missing(error, self.lineno))]
        for cohort in reports:
            self.depends_on(root / "gate_reports" / cohort / f"{stem_of(gate)}.json")
        found = {cohort: _found(report, names) for cohort, report in reports.items()}
        rows = [
            [label, *(_stacked(name, found[cohort][name]) if name in found[cohort] else "–" for cohort in reports)]
            for name, label in names.items()
        ]
        notes = [about(cohort, report, found[cohort].values()) for cohort, report in reports.items()]
        words = f"{KIND_WORDS.get(kind, 'Values')}, 95 % intervals over units. {' '.join(notes)}"
        return [make_table(["", *reports], rows), nodes.paragraph(text=words, classes=["covtoken-note"])]


def _found(report: dict, names: Iterable[str]) -> dict[str, dict]:
    """The entries of those names that have a value."""
    metrics = report["metrics"]
    return {name: metrics[name] for name in names if metrics.get(name) and metrics[name]["value"] is not None}


def _stacked(name: str, entry: dict) -> nodes.Node:
    """A value with its interval under it: five cohorts then fit beside each other."""
    value, _, interval = as_text(entry, signed=is_signed(name)).partition(" ")
    lines = [nodes.inline(text=value), nodes.inline(text=interval, classes=["covtoken-interval"])]
    return nodes.inline("", "", *lines, classes=["covtoken-number"])


NAMES = METHOD_NAMES | MEASURE_NAMES
KIND_WORDS = {
    "miss_small": "Small lesions missed (less than half of the tokens kept)",
    "recall_small": "Recall of small lesions, pooled over their tokens",
    "spearman": "Spearman's ρ with lesion recall, mean over pictures",
    "auroc": "Pooled token AUROC",
    "image_auroc": "AUROC inside one image",
    "aupr": "Token AUPR",
    "organ_auroc": "Token AUROC inside the organ",
    "organ_aupr": "Token AUPR inside the organ",
    "organ_froc.fp1": "Lesion sensitivity inside the organ at 1 false positive an image",
    "organ_froc.fp4": "Lesion sensitivity inside the organ at 4 false positives an image",
    "froc.fp1": "Lesion sensitivity at 1 false positive an image",
    "froc.fp4": "Lesion sensitivity at 4 false positives an image",
}


class VerdictTable(Reader, SphinxDirective):
    """One score against every baseline: wins, loses or undecided, a row a baseline and a column a cohort."""

    option_spec: ClassVar = {name: directives.unchanged for name in ("gate", "kinds", "ours")}

    def run(self) -> list[nodes.Node]:
        gate, root = self.options.get("gate", "1"), self.root()
        try:
            reports = {cohort: read_content(root, f"{cohort}/{stem_of(gate)}") for cohort in cohorts_of(root, gate)}
            if not reports:
                raise CovtokenError(f"gate {gate}: {MISSING}")
        except CovtokenError as error:
            return [nodes.paragraph("", "", self.missing(error, self.lineno))]
        for cohort in reports:
            self.depends_on(root / "gate_reports" / cohort / f"{stem_of(gate)}.json")
        rows, ours = [], self.options.get("ours", "density")
        for kind in self.options.get("kinds", "auroc image_auroc").split():
            start = f"{kind}.{ours}_against_"
            names = dict.fromkeys(n for report in reports.values() for n in report["checks"] if n.startswith(start))
            for name in names:
                label = f"{name.removeprefix(start).replace('_', ' ')}, {KINDS[kind]}"
                rows.append([label, *(str(report["checks"].get(name, "–")) for report in reports.values())])
        words = nodes.paragraph(text=_losses(OURS[ours], reports, rows))
        ns = [about(cohort, report, [report["metrics"][f"auroc.{ours}"]]) for cohort, report in reports.items()]
        note = nodes.paragraph(text=" ".join(ns), classes=["covtoken-note"])
        return [make_table([f"{OURS[ours]} against", *reports], rows), words, note]


KINDS = {"auroc": "pooled", "image_auroc": "inside an image"}
OURS = {"density": "membership A", "recommended": "the recommended score"}


def _losses(ours: str, reports: dict, rows: list[list[str]]) -> str:
    """One sentence that names every baseline that beats the method, cohort by cohort."""
    found = []
    for column, cohort in enumerate(reports, start=1):
        lost = [row[0] for row in rows if row[column] == "loses"]
        found.append(f"on {cohort} to {'; '.join(lost)}" if lost else f"on {cohort} to nothing")
    return f"Read as: {ours} loses {', '.join(found[:-1])}{' and ' if found[:-1] else ''}{found[-1]}."


class AlarmTable(Reader, SphinxDirective):
    """How often alarm and failure go together, a row a cohort, from the committed alarm reports."""

    def run(self) -> list[nodes.Node]:
        root, rows, total = self.root(), [], np.zeros((2, 2), dtype=int)
        found = sorted(path.parent.name for path in root.glob("gate_reports/*/alarm.json"))
        for cohort in (name for name in found if not name.startswith("_")):
            self.depends_on(root / "gate_reports" / cohort / "alarm.json")
            report = read_content(root, f"{cohort}/alarm")
            checks, metrics = report["checks"], report["metrics"]
            failed, worked = ([checks[f"{a}_{b}"] for a in ("fired", "silent")] for b in ("failed", "worked"))
            means = [f"{metrics[f'mean_auroc.{name}']['value']:.3f}" for name in ("d", "a", "recommended")]
            total += [failed, worked]
            rows.append([f"{cohort}, {report['split']}", *_right(failed, worked), *means])
        if not rows:
            return [nodes.paragraph("", "", self.missing(CovtokenError(f"alarm: {MISSING}"), self.lineno))]
        rows.append(["all", *_right(*total), "–", "–", "–"])
        head = ["", "failed: fired", "worked: silent", "right", "mean AUROC of D", "of A", "of what the alarm says"]
        return [make_table(head, rows)]


def _right(failed, worked) -> list[str]:
    """Of (fired, silent) where D failed and where it worked: how many of each were right, and of all."""
    return [
        f"{failed[0]} of {sum(failed)}",
        f"{worked[1]} of {sum(worked)}",
        f"{failed[0] + worked[1]} of {sum(failed) + sum(worked)}",
    ]


def register(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("report-matrix", ReportMatrix)
    app.add_directive("verdict-table", VerdictTable)
    app.add_directive("alarm-table", AlarmTable)
