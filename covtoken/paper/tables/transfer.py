"""Make what gate 5's notebook shows: rows of the heat map, a table, and verdicts in words."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from covtoken.gates.gate5 import cells
from covtoken.gates.transfer.rows import SCORES, joined_metrics
from covtoken.gates.transfer.ways import deciding
from covtoken.names import METHOD_NAMES, WAYS
from covtoken.paper.numbers import as_text, cell
from covtoken.protocol.plan import BASELINES
from covtoken.protocol.report import GateReport, committed_reports


def heat_rows(report: GateReport, recorded: dict[str, dict[str, dict]]) -> list[dict]:
    """Give the heat map's rows of this run, of every recomputed cohort, and of external and tiny cohorts.

    Args:
        recorded: cohort → metrics, recomputed from its records.
    """
    found = joined_metrics() | recorded
    found.pop(report.cohort, None)
    return [*report.chart_data["cells"], *(row for c, metrics in found.items() for row in cells(c, metrics))]


def backbone_rows() -> list[dict]:
    """Give the cells of every committed record of backbones."""
    return [row for r in committed_reports() if str(r.gate) == "backbones" for row in r.chart_data["cells"]]


def transfer_table(
    metrics: dict[str, dict], kind: str = "auroc", among: Iterable[str] = (*SCORES, *BASELINES)
) -> pd.DataFrame:
    """Lay out one kind of AUROC with 95 % intervals: a row a score with any, a column a way with any."""
    rows = []
    for score in among:
        entries = {title: metrics.get(f"{kind}.{score}.{way}") for way, title in WAYS.items()}
        if any(entries.values()):
            rows.append({"score": METHOD_NAMES[score]} | {title: cell(e) for title, e in entries.items()})
    table = pd.DataFrame(rows).set_index("score")
    return table.loc[:, (table != "").any()]


def best_scorers(metrics: dict[str, dict], n: int = 3) -> list[str]:
    """Name the proposed scores, then the n best baselines by AUROC under their usual recipe."""
    found = {name: (metrics.get(f"auroc.{name}.refitted") or {}).get("value") for name in BASELINES}
    known = [name for name, value in found.items() if value is not None]
    return [*SCORES, *sorted(known, key=lambda name: -found[name])[:n]]


def backbones_table(rows: list[dict]) -> pd.DataFrame:
    """Lay out pooled AUROC with 95 % intervals: a row a cohort with its n, backbone and score, a column a way."""
    table: dict[tuple, dict] = {}
    for row in (row for row in rows if row["kind"] == "auroc"):
        key = f"{row['cohort']}, n = {row['n_units']}", row["backbone"], METHOD_NAMES[row["score"]]
        ci95 = None if row["lo"] is None else [row["lo"], row["hi"]]
        table.setdefault(key, {})[WAYS[row["way"]]] = cell({"value": row["value"], "ci95": ci95})
    keys = ("cohort, units", "backbone", "score")
    columns = [title for title in WAYS.values() if any(title in row for row in table.values())]
    return (
        pd.DataFrame([dict(zip(keys, key)) | row for key, row in table.items()])
        .set_index(list(keys))[columns]
        .fillna("")
    )


def verdicts(report: GateReport) -> str:
    """Say, a line a cohort, whether the recipe holds there: for this run, then for the committed reports."""
    others = [r for r in committed_reports() if str(r.gate) == "5" and r.cohort != report.cohort]
    return "\n".join(map(verdict, [report, *others]))


def verdict(report: GateReport) -> str:
    """Say of one cohort, by anatomy and modality, whether a recipe chosen elsewhere holds."""
    name, p = f"auroc.recommended.{deciding(report.split)}", report.parameters
    entry, threshold = report.metrics[name], report.thresholds[name]
    where = f"{report.cohort} ({', '.join(p['organs']) or 'no organ named'}; {p['modality']})"
    holds = {"GO": "holds", "NO-GO": "does not hold", "NO-VERDICT": "decides nothing"}[report.decision]
    return (
        f"{where}: {report.decision}; the recipe of {p['elsewhere']} {holds}: {as_text(entry)}, "
        f"{entry['n_units']} units, against {threshold:.3f}"
    )
