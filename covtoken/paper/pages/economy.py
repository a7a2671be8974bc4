"""Show gate 6's rows, a column a cohort: ``{economy-table} certificates``.

The parts are aims, certificates, clock, setting, equal, missed, strata, route, probes and wall. ``:show:`` names the
columns of a part that a cell holds, one below the other, with ``|`` between them, ``column = name`` for another name;
``:score:`` (``chosen``: the report's own) and ``:alpha:`` narrow the certificates; ``:caption:`` numbers the table. A
cohort that has no rows of a part is named under the table.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import pandas as pd
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from covtoken.errors import CovtokenError
from covtoken.names import cohort_name, route_name, split_name
from covtoken.paper.doors import texts_of
from covtoken.paper.numbers import MISSING
from covtoken.paper.pages.base import Reader, make_note, make_table, number_table


class EconomyTable(Reader, SphinxDirective):
    """Lay out one part of gate 6's reports, a row a label and a column a cohort."""

    required_arguments = 1
    option_spec: ClassVar = {
        name: directives.unchanged_required for name in ("cohorts", "score", "alpha", "show", "caption")
    }

    def run(self) -> list[nodes.Node]:
        part = self.arguments[0]
        try:
            reports = self.reports("6", self.options.get("cohorts", "").split())
            if not reports:
                raise CovtokenError(f"gate 6: {MISSING}")
            if part == "clock":  # a record of its own, for seconds differ by machine
                reports = {
                    cohort: report | {"clock": self.report(f"{cohort}/clock")} for cohort, report in reports.items()
                }
            frames = {cohort: frame_of(part, report, self.options) for cohort, report in reports.items()}
        except CovtokenError as error:
            return self.refused(error)
        without = [cohort for cohort, frame in frames.items() if frame is None or frame.empty]
        named = [each.partition("=") for each in self.options.get("show", "").split("|") if each.strip()]
        shown = {column.strip(): (name or column).strip() for column, _, name in named}
        cells = {c: cells_of(frame, shown, self.options) for c, frame in frames.items() if c not in without}
        if not cells:
            return [make_note(f"No cohort has {part} recorded.")]
        labels = dict.fromkeys(label for of_cohort in cells.values() for label in of_cohort)
        texts = {cohort: texts_of({f"{cohort}/gate6": reports[cohort]}) for cohort in cells}
        rows = [
            [label, *(self._stacked(found.get(label, ["–"]), texts[cohort]) for cohort, found in cells.items())]
            for label in labels
        ]
        notes = [f"{cohort_name(c)}: {split_name(r['split'])}; {r['decision']}." for c, r in reports.items()]
        notes += [f"Without {part}: {', '.join(map(cohort_name, without))}."] if without else []
        table = make_table(["", *map(cohort_name, cells)], rows)
        table = number_table(self.env, table, self.options.get("caption", ""))
        return [table, make_note(*notes)]

    def _stacked(self, lines: list[str], texts: dict) -> nodes.Node:
        """Put lines under each other, all but the first in small print."""
        parts = [
            nodes.inline("", "", self.linked(line, texts), classes=["covtoken-interval"] if i else [])
            for i, line in enumerate(lines)
        ]
        return nodes.inline("", "", *parts, classes=["covtoken-number"])


class ClockTimes(Reader, SphinxDirective):
    """Show how long passes take, in ms a picture, from what ``covtoken clock`` recorded: ``{clock-times}``."""

    def run(self) -> list[nodes.Node]:
        cohorts = sorted(path.parent.name for path in (self.root() / "gate_reports").glob("*/clock.json"))
        try:
            found = {cohort: self.report(f"{cohort}/clock") for cohort in cohorts}
        except CovtokenError as error:
            return self.refused(error)
        if not found:
            return self.refused(CovtokenError(f"gate_reports/*/clock.json: {MISSING}"))
        head, columns = ["ms a picture, in the median"], []
        for cohort, content in found.items():
            for batch in sorted({row["batch"] for row in content["passes"]}):
                head.append(f"{cohort_name(cohort)}, {'one' if batch == 1 else batch} at a time")
                columns.append({row["pass"]: row["ms"] for row in content["passes"] if row["batch"] == batch})
        names = list(dict.fromkeys(name for column in columns for name in column))
        rows = [[route_name(n), *(f"{c[n]:.0f}" if n in c else "–" for c in columns)] for n in names]
        return [make_table(head, rows), make_note(*(machine_words(c, content) for c, content in found.items()))]


def machine_words(cohort: str, content: dict[str, Any]) -> str:
    """Say on what the times of a cohort were taken."""
    machine, chosen = content["machine"], content["chosen"]
    return (
        f"{cohort_name(cohort)}: {machine['threads']} threads of {machine['device']} with {machine['cpus']} cores "
        f"under load {machine['load']:.1f}, torch {machine['torch']}, {content['repeats']} repeats; the chosen route "
        f"keeps {chosen['k']} of {chosen['n_tokens']} tokens after block {chosen['block']}."
    )


def cells_of(frame: pd.DataFrame, shown: dict[str, str], options: dict[str, str]) -> dict[str, list[str]]:
    """Give the lines of each row's cell by the row's label; lines after the first begin with their column's name.

    Args:
        shown: column → the name it goes by, of a cell; none: all columns.
        options: what narrowed the table is left out of the labels, and so is the tap, which differs by cohort.
    """
    left_out = {"score"} if options.get("score") == "chosen" else set()
    left_out |= {"α"} if "alpha" in options else set()
    cells: dict[str, list[str]] = {}
    for row in frame.reset_index().to_dict("records"):
        names = [name for name in frame.index.names if name not in left_out]
        label = ", ".join(f"α = {row[name]}" if name == "α" else str(row[name]) for name in names)
        label, chosen = re.sub(r" after block \d+", "", label), ""
        if label.endswith(CHOSEN):
            label, chosen = label.removesuffix(CHOSEN), ", chosen"
        wanted = (shown or dict(zip(frame.columns, frame.columns, strict=True))).items()
        values = {name: str(row[column]) for column, name in wanted if row.get(column, "") not in ("", None)}
        lines = [value if i == 0 else f"{name}: {value}" for i, (name, value) in enumerate(values.items())]
        cells.setdefault(label, [lines[0] + chosen, *lines[1:]] if lines else ["–"])
    return cells


CHOSEN = " (chosen)"


def frame_of(part: str, report: dict[str, Any], options: dict[str, str]) -> pd.DataFrame | None:
    """Make one part's table of a report's content; None: the report has no such rows.

    Args:
        options: ``score`` (``chosen`` is the report's own) and ``alpha``, of the certificates.

    Raises:
        CovtokenError: unknown part.
    """
    from covtoken.paper.tables import economy

    metrics, parameters, data = report["metrics"], report["parameters"], report["chart_data"]
    setting = parameters["setting"]
    if part == "certificates":
        score = options.get("score")
        score = setting["chosen"]["score"] if score == "chosen" else score
        alpha = float(options["alpha"]) if "alpha" in options else None
        return economy.certificate_table(data.get("certificates", []), score, alpha)
    if part == "setting":
        return economy.setting_table(setting)
    if part == "equal":
        return economy.equal_table(metrics, setting["each"])
    if part == "probes":
        return economy.probe_table(metrics, data.get("probes", []))
    tables = {"missed": economy.missed_table, "wall": economy.wall_table}
    if part == "strata":
        strata = data.get("strata")
        return economy.strata_table(strata, setting["chosen"]["n_tokens"]) if strata else None
    if part == "route":
        about = data.get("route_certificate")
        return economy.route_table(about[0]) if about else None
    if part == "clock":
        return economy.clock_frame(report["clock"]) if report.get("clock") else None
    if part == "aims":
        return economy.aims_table(report)
    if part not in tables:
        raise CovtokenError(
            f"economy-table {part!r}: expected certificates, setting, equal, missed, strata, route, aims, clock, probes"
        )
    return tables[part](data[part]) if data.get(part) else None


def register(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("economy-table", EconomyTable)
    app.add_directive("clock-times", ClockTimes)
