"""Make what gate 0's notebook shows: checks, planted defects, and the text of its locked cell."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from covtoken.backbone.weights import load_backbone
from covtoken.data.cohorts import open_cohort
from covtoken.gates.gate0 import DEFECTS, decide, run
from covtoken.protocol.report import GateReport, committed_reports
from covtoken.protocol.setting import open_setting


def locked_text(report: GateReport, committed: Sequence[GateReport] | None = None) -> str:
    """Write the notebook's locked cell: this run's checks, then those of every other cohort.

    Args:
        report: this run's.
        committed: reports of any gate (None: all committed ones).
    """
    committed = committed_reports() if committed is None else committed
    others = [other for other in committed if other.gate == 0 and other.cohort != report.cohort]
    lines = []
    for shown, how in ((report, "this run"), *((other, "committed report") for other in others)):
        sound = shown.decision == decide(shown.checks)
        lines.append(
            f"{shown.cohort}, gate 0, {how}: {shown.decision if sound else 'DECISION DOES NOT FIT ITS CHECKS'}"
        )
        lines += [f"  {name:<40} {bool(outcome)}" for name, outcome in sorted(shown.checks.items())]
    return "\n".join(lines)


def check_table(report: GateReport) -> pd.DataFrame:
    """Lay out whether each check holds, with its worst number and its bound where it has them."""
    rows = []
    for name, outcome in report.checks.items():
        worst = [entry["value"] for key, entry in report.metrics.items() if f"{key}.".startswith(f"{name}.")]
        by_block = [r["value"] for r in report.chart_data["agreement"] if name == f"agreement.{r['comparison']}"]
        measured = f"{max(by_block or worst):.2g}" if by_block or worst else ""
        bound = report.thresholds.get(name)
        rows.append({"check": name, "holds": outcome, "measured": measured, "bound": "" if bound is None else bound})
    return pd.DataFrame(rows).set_index("check").sort_index()


def defect_table() -> pd.DataFrame:
    """Plant each defect into a small phantom and a tiny random ViT; lay out the decision and the failed checks."""
    cohort, vit = open_cohort("phantom", n=24), load_backbone("random:vit_tiny_patch16_224", 96)
    setting = open_setting(cohort, None, vit, progress=False)
    rows = []
    for defect in (None, *DEFECTS):
        report = run(setting, defect=defect).report
        failed = ", ".join(name for name, outcome in report.checks.items() if not outcome)
        rows.append({"planted defect": defect or "none", "decision": report.decision, "failed checks": failed})
    return pd.DataFrame(rows).set_index("planted defect")
