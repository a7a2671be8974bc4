"""Write the confirmation on the external cohorts as rows: a row a cohort and column, from the committed reports."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from covtoken.names import COLUMNS, LABELS, cohort_name
from covtoken.paper.numbers import as_text
from covtoken.protocol.report import GateReport

GATE = "confirmation"
HEAD = (
    *("cohort", "column", "C−", "the locked rival", "C− minus that rival"),
    *("the best of all others", "C− minus that best", "C, with the saliency head", "says"),
)
KINDS = {
    "auroc": "pooled",
    "image_auroc": "inside one picture",
    "organ_auroc": "inside the organ",
    "aupr": "AUPR",
    "froc.fp1": "lesions found at one false alarm a picture",
}
NO_OTHERS = ("recommended", "with_head", "without_head", "rarity")  # C−, C and parts of them


def confirmation_lines(reports: Iterable[GateReport]) -> list[str]:
    """Write Markdown lines of the external cohorts' table, or none where none is recorded."""
    rows = [row for report in reports if str(report.gate) == GATE for row in rows_of(report)]
    if not rows:
        return []
    head, *body = on_its_side(rows)
    table = [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body)]
    return [
        "External cohorts, pooled token AUROC, 95 % intervals over units. No setting was chosen on these pictures, but "
        "earlier forms of every score had been tried on them, the search for a successor of D began because D lost on "
        "BUS-BRA, and C− was named with those results known: an independent re-run, not a blind confirmation. The "
        "column in bold decides, by the difference to its rival, which was locked from the recipe cohort's selection "
        "split.",
        "",
        *table,
        "",
        "What is better there beyond doubt:",
        "",
        *(f"- {line}" for report in reports if str(report.gate) == GATE for line in lost_lines(report)),
    ]


def on_its_side(rows: Iterable[list[str]]) -> list[list[str]]:
    """Turn rows of ``rows_of`` into columns, headed by cohort and way: four of them need no scrolling."""
    first, ways, *others = zip(HEAD, *rows, strict=True)
    return [["", *map(", ".join, zip(first[1:], ways[1:], strict=True))], *map(list, others)]


def lost_lines(report: GateReport) -> list[str]:
    """Say what C− and C lose to on an external cohort, a line a column and score."""
    return [
        f"{cohort_name(report.cohort)}, {words}: {LABELS[score]} loses to {losses(report, score, column)}"
        for column, words in COLUMNS.items()
        for score in ("recommended", "with_head")
    ]


def losses(report: GateReport, score: str, column: str = "") -> str:
    """List what a score loses to beyond doubt, and by which kinds of number; ``column`` is the confirmation's."""
    end, lost = f".{column}" if column else "", {}
    for kind, words in KINDS.items():
        start = f"{kind}.{score}_against_"
        for name, said in report.checks.items():
            if name.startswith(start) and name.endswith(end) and said == "loses":
                lost.setdefault(LABELS[name.removeprefix(start).removesuffix(end)], []).append(words)
    return "; ".join(f"{other} ({', '.join(kinds)})" for other, kinds in lost.items()) or "none"


def rows_of(report: GateReport) -> list[list[str]]:
    """Give a report's rows, one a column; the deciding column is bold and carries the verdict."""
    metrics, locked, rows = report.metrics, report.thresholds, []
    for column, words in COLUMNS.items():
        decides = column == locked["column"]
        best = best_other(metrics, column)
        gains = [_text(metrics, f"auroc_gain.recommended_minus_{other}.{column}") for other in (locked["rival"], best)]
        values = [f"{_text(metrics, f'auroc.{other}.{column}')}, {LABELS[other]}" for other in (locked["rival"], best)]
        ours = [_text(metrics, f"auroc.{name}.{column}") for name in ("recommended", "with_head")]
        says = report.decision if decides else report.checks[f"auroc.recommended_against_{locked['rival']}.{column}"]
        cells = [f"{cohort_name(report.cohort)} ({metrics[f'auroc.recommended.{column}']['n_units']} units)", words]
        cells += [ours[0], values[0], gains[0], values[1], gains[1], ours[1], says]
        rows.append([f"**{cell}**" if decides and place in (1, 8) else cell for place, cell in enumerate(cells)])
    return rows


def best_other(metrics: dict[str, dict[str, Any]], column: str) -> str:
    """Name the score with the highest pooled AUROC in a column, C− and C and their parts left out."""
    start, end = "auroc.", f".{column}"
    values = {
        name[len(start) : -len(end)]: entry["value"]
        for name, entry in metrics.items()
        if name.startswith(start) and name.endswith(end) and entry["value"] is not None
    }
    return max((name for name in values if name not in NO_OTHERS), key=values.get)


def brief(report: GateReport) -> list[str]:
    """Say a confirmation in a few lines of a terminal."""
    lines = [f"confirmation, {report.cohort}: {report.parameters['n_units']} units, {report.backbone}"]
    for cells in rows_of(report):
        parts = (f"{head} {cell.replace('*', '')}" for head, cell in zip(HEAD[2:], cells[2:], strict=True))
        lines.append(f"  {cells[1].replace('*', '')}: {'; '.join(parts)}")
    primary = report.thresholds["primary"]
    return [*lines, f"{report.decision}: {primary} is {_text(report.metrics, primary)}, above 0 is GO"]


def _text(metrics: dict[str, dict[str, Any]], name: str) -> str:
    return as_text(metrics.get(name), signed="_gain." in name, none="–")
