"""Write one line under a chart: what came out where that can be counted, then split and number of units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from covtoken.names import cohort_name, counted, split_name


def caption_of(chart: str, title: str, rows: Iterable[Mapping[str, Any]], reports: Mapping[str, Mapping]) -> str:
    """Write a chart's caption.

    Args:
        chart: its name in ``charts.table``.
        title: of the chart.
        rows: the recorded rows that it draws.
        reports: the reports that they come from, by cohort.
    """
    found = FINDINGS[chart](list(rows)) if chart in FINDINGS else ""
    return " ".join(filter(None, (as_sentence(title), found, _about(reports))))


def as_sentence(title: str) -> str:
    """End a title as a sentence; a question keeps its mark."""
    return title if title.endswith("?") else f"{title.rstrip('.')}."


def _forest(rows: list[Mapping]) -> str:
    """Count wins, losses and what is undecided, and name the losses."""
    words = Counter("wins" if row["lo"] > 0 else "loses" if row["hi"] < 0 else "undecided" for row in rows)
    lost = [": ".join(filter(None, (row.get("cohort"), row["label"]))) for row in rows if row["hi"] < 0]
    to = f" (to {', '.join(lost)})" if lost else ""
    counts = f"{words['wins']} are won, {words['loses']} lost{to}, {words['undecided']} undecided"
    return f"Of {len(rows)} comparisons {counts}."


def _blocks(rows: list[Mapping]) -> str:
    """Name the block at which each plain curve is highest."""
    best: dict[str, Mapping] = {}
    for row in (row for row in rows if isinstance(row["block"], int) and row["value"] is not None):
        if row["scorer"] not in best or row["value"] > best[row["scorer"]]["value"]:
            best[row["scorer"]] = row
    parts = [f"{name} at block {row['block']} ({row['value']:.3f})" for name, row in best.items()]
    return f"Highest, on plain tokens: {', '.join(parts)}." if parts else ""


FINDINGS = {"gain_forest": _forest, "auroc_by_block": _blocks}


def _about(reports: Mapping[str, Mapping]) -> str:
    """Name split and units, from the largest number that a report has."""
    parts = []
    for cohort, report in reports.items():
        units = max((entry.get("n_units") or 0 for entry in report["metrics"].values()), default=0)
        parts.append(
            f"{cohort_name(cohort)}, {split_name(report['split'])}" + (f", {counted(units, 'unit')}" if units else "")
        )
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""
