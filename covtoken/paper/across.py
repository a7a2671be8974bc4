"""Draw one chart of several cohorts from the metrics of their reports: differences, values, or curves by block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from covtoken.errors import CovtokenError, unknown
from covtoken.names import METHOD_NAMES, cohort_name, kind_of, with_short_names
from covtoken.paper.captions import caption_of
from covtoken.paper.charts.scores import auroc_by_block, gain_forest, value_forest
from covtoken.paper.drawn import Drawn
from covtoken.paper.numbers import MISSING, READABLE, read_content, stem_of
from covtoken.paper.verdict_grid import COHORTS

UNITS = {"miss": "small lesions missed (share)", "recall": "recall of small lesions' tokens"}  # on an axis
KINDS = ("gains", "values", "blocks")
OURS = {"without_head": "membership"}  # it is C−, on fewer features
REAL = tuple(cohort for cohort in COHORTS if cohort != "phantom")


def draw_across(root: Path, kind: str, name: str, options: Mapping[str, str]) -> Drawn:
    """Draw one kind of number of several cohorts.

    Args:
        root: the checkout.
        kind: ``gains`` (differences beside zero), ``values`` (beside chance), or ``blocks`` (a curve a cohort).
        name: of the chart's files.
        options: ``title``; ``gate``; ``cohorts``, all with real pictures if not given; ``metrics``, by their full
            names, or for ``blocks`` ``score``, the label of the one that is drawn.

    Raises:
        CovtokenError: an unknown kind, or a number that no report of the cohorts holds.
    """
    if kind not in KINDS:
        raise unknown("kind of chart", kind, KINDS)
    cohorts, stem = options.get("cohorts", " ".join(REAL)).split(), stem_of(options["gate"])
    reports = {cohort: read_content(root, f"{cohort}/{stem}") for cohort in cohorts}
    title = options["title"]
    if kind == "blocks":
        rows = _curves(reports, options["score"])
        chart, spec = "auroc_by_block", auroc_by_block(rows, title)
    else:
        names = options["metrics"].split()
        rows = [row for cohort, report in reports.items() for row in _rows(cohort, report["metrics"], names)]
        measure = names[0].partition(".")[0].removesuffix("_gain")
        unit = UNITS.get(measure) or READABLE[measure]
        chart, draw = ("gain_forest", gain_forest) if kind == "gains" else ("value_forest", value_forest)
        found = {row["metric"] for row in rows}
        absent = [name for name in names if name not in found]
        if absent:
            raise CovtokenError(f"{stem} {absent[0]}: {MISSING}")
        spec = draw(rows, title, unit)
    files = tuple(root / "gate_reports" / cohort / f"{stem}.json" for cohort in cohorts)
    return Drawn(name, spec.to_dict(), caption_of(chart, title, rows, _evaluated(reports, rows)), rows, files)


def _rows(cohort: str, metrics: Mapping[str, Mapping | None], names: Iterable[str]) -> Iterable[dict[str, Any]]:
    """Give a row a metric that the cohort has: its method's label, value and interval (the exact one of a share)."""
    for name in names:
        entry = metrics.get(name)
        if not entry or entry["value"] is None:
            continue
        method = name.partition(".")[2].partition("_minus_")
        method = (method[2] or method[0]).partition(".")[0]
        low, high = entry.get("exact95") or entry["ci95"] or (entry["value"], entry["value"])
        label = METHOD_NAMES[method]
        row = {"cohort": cohort_name(cohort), "label": label, "value": entry["value"], "lo": low, "hi": high}
        yield row | {"metric": name, "n_units": entry["n_units"], "of": OURS.get(method) or kind_of(label)}


def _curves(reports: Mapping[str, Mapping], score: str) -> list[dict[str, Any]]:
    """Give the recorded rows of one score at every block, each named by its cohort."""
    rows = []
    for cohort, report in reports.items():
        found = [row for row in with_short_names(report["chart_data"]["blocks"]) if row["scorer"] == score]
        if not found:
            raise CovtokenError(f"{cohort}, blocks of {score}: {MISSING}")
        rows += [row | {"scorer": cohort_name(cohort)} for row in found]
    return rows


def _evaluated(reports: Mapping[str, Mapping], rows: Iterable[Mapping]) -> dict[str, Mapping]:
    """Name each report by its cohort's name on the pages; of its numbers leave those that are drawn, where rows say."""
    drawn = {row["metric"] for row in rows if "metric" in row}
    return {
        cohort_name(cohort): {
            **report,
            "metrics": {n: entry for n, entry in report["metrics"].items() if not drawn or (entry and n in drawn)},
        }
        for cohort, report in reports.items()
    }
