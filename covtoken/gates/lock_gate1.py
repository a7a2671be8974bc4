"""Locking gate 1: its plan, from a selection report."""

from __future__ import annotations

from covtoken.data.cohorts import cohort_name
from covtoken.data.splits import SMALL_COHORT
from covtoken.errors import CovtokenError
from covtoken.gates import locks
from covtoken.gates.plan import METHOD_PARAMETERS
from covtoken.gates.report import GateReport, read_report, report_path


def lock_thresholds(cohort: str, reason: str = "") -> list[str]:
    """Lock the plan of the last selection run of ``cohort``; returns the lines old → new.

    Raises:
        CovtokenError: no selection run was made, or the cohort is small and takes its recipe from another.
    """
    cohort = cohort_name(cohort)
    report = read_report(report_path(cohort, 1, recorded=False))
    if report.split == "crossfit":
        raise CovtokenError(
            f"{cohort} has fewer than {SMALL_COHORT} units: it chooses nothing and takes the locked recipe of a "
            "large cohort, so there is nothing to lock"
        )
    if report.split != "selection":
        raise CovtokenError(
            f"the last run of {cohort} was on its {report.split} split: a lock is made from selection alone; "
            f"run `covtoken gate 1 --cohort {cohort} --split selection` first"
        )
    return locks.write_entry(locks.THRESHOLDS, cohort, 1, plan_entry(report), reason=reason)


def plan_entry(report: GateReport) -> dict:
    """The lock entry of a selection report: plan, backbone, and what it binds."""
    fields = ("recipes", "middle", "threshold", "threshold_reason", "small_cut")
    method = {k: v for k, v in report.parameters.items() if k in {"picture_size", "seed", *METHOD_PARAMETERS}}
    return {
        **{name: report.parameters[name] for name in fields},
        "backbone": report.backbone,
        "data_fingerprint": report.provenance["data_fingerprint"],
        "weights_sha256": report.provenance["weights_sha256"],
        "method": method,
        "source_digest": report.provenance["source_digest"],
    }
