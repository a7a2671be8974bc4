"""Show gate 6's rows, cohort by cohort: ``{economy-table} certificates`` with ``:score:``, ``:alpha:``, ``:cohorts:``.

The parts are certificates, setting, equal, missed, strata, probes and wall; a cohort that has no rows of a part is left
out and named under the table.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pandas as pd
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from covtoken.errors import CovtokenError
from covtoken.paper.numbers import MISSING
from covtoken.paper.pages.base import Reader, make_note, make_number, make_table


class EconomyTable(Reader, SphinxDirective):
    """Lay out one part of gate 6's reports, the cohort in the first column."""

    required_arguments = 1
    option_spec: ClassVar = {name: directives.unchanged_required for name in ("cohorts", "score", "alpha")}

    def run(self) -> list[nodes.Node]:
        part, frames, without = self.arguments[0], {}, []
        try:
            reports = self.reports("6", self.options.get("cohorts", "").split())
            if not reports:
                raise CovtokenError(f"gate 6: {MISSING}")
            for cohort, report in reports.items():
                frame = frame_of(part, report, self.options)
                if frame is None or frame.empty:
                    without.append(cohort)
                else:
                    frames[cohort] = frame.reset_index()
        except CovtokenError as error:
            return self.refused(error)
        if not frames:
            return [make_note(f"No cohort has {part} recorded.")]
        head = list(dict.fromkeys(column for frame in frames.values() for column in frame.columns))
        rows = [
            [cohort, *(_text(row.get(column)) for column in head)]
            for cohort, frame in frames.items()
            for row in frame.to_dict("records")
        ]
        notes = [f"{c}: {r['split']} split, {r['backbone']}; {r['decision']}." for c, r in reports.items()]
        notes += [f"Without {part}: {', '.join(without)}."] if without else []
        return [make_table(["cohort", *head], rows), make_note(" ".join(notes))]


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
        return economy.equal_table(metrics)
    if part == "probes":
        return economy.probe_table(metrics, data.get("probes", []))
    tables = {"missed": economy.missed_table, "wall": economy.wall_table}
    if part == "strata":
        strata = data.get("strata")
        return economy.strata_table(strata, setting["chosen"]["n_tokens"]) if strata else None
    if part not in tables:
        raise CovtokenError(
            f"economy-table {part!r}: expected certificates, setting, equal, missed, strata, probes or wall"
        )
    return tables[part](data[part]) if data.get(part) else None


def _text(value: Any) -> nodes.Node:
    return make_number("–" if value is None or value != value or value == "" else str(value))


def register(app: Sphinx) -> None:
    """Register the directive."""
    app.add_directive("economy-table", EconomyTable)
