"""Locking gate 1: thresholds from a selection report, headline tolerances from the measured spread of a run."""

from __future__ import annotations

import torch

from covtoken.data.cohorts import cohort_name
from covtoken.data.splits import SMALL_COHORT
from covtoken.errors import CovtokenError
from covtoken.gates import gate1, locks
from covtoken.gates.plan import METHOD_PARAMETERS, Plan
from covtoken.gates.report import GateReport, read_report, report_path

HEADLINES = (
    "auroc.recommended",
    "auroc.density",
    "auroc.attention_best",
    "auroc.centre_prior",
    "auroc.head_student",
    "auroc.saliency_head",
    "auroc.intensity",
    "organ_auroc.recommended",
    "organ_auroc.density",
    "auroc_gain.middle_minus_final",
    "image_auroc.recommended",
    "image_auroc.density",
    "aupr.recommended",
    "froc.fp1.recommended",
)
FLOOR = 5e-5  # headline numbers are locked to four decimals
SPREAD_UNITS = 24  # of bank and of selection; of a cross-fitted cohort in all
SPREAD_RUNS = (("fp32", 1), ("fp32", 2), ("bf16", 2))


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


def measure_spread(cohort: str, split: str = "selection", backbone: str = "embedded") -> dict[str, float]:
    """Largest minus smallest value of each headline over one and two threads, fp32 and bf16, the plan fixed.

    Measured on the selection split, with at most ``SPREAD_UNITS`` units of bank and selection: a tolerance needs no
    further look at the test split. Extracts anew each time.
    """
    values: dict[str, list[float]] = {}
    threads = torch.get_num_threads()
    locked = locks.entry(locks.THRESHOLDS, cohort_name(cohort), 1)
    plan = Plan.from_json(locked) if locked else None
    try:
        for precision, n_threads in SPREAD_RUNS:
            torch.set_num_threads(n_threads)
            run = gate1.run_gate1(
                cohort, split, backbone, precision=precision, cache=False, fixed_plan=plan, limit_units=SPREAD_UNITS
            )
            plan = run.plan
            for name in HEADLINES:
                if run.report.metrics.get(name, {}).get("value") is not None:
                    values.setdefault(name, []).append(run.report.metrics[name]["value"])
    finally:
        torch.set_num_threads(threads)
    return {name: max(found) - min(found) for name, found in values.items()}


def lock_headline(cohort: str, spread: dict[str, float], reason: str = "") -> list[str]:
    """Lock the committed report's headline numbers; tolerance = 3 × spread, at most ¼ of the interval's half width."""
    cohort = cohort_name(cohort)
    report = read_report(report_path(cohort, 1, recorded=True))
    headline = {}
    for name in HEADLINES:
        found = report.metrics.get(name)
        if found is None or found["value"] is None or name not in spread:
            continue
        cap = (found["ci95"][1] - found["ci95"][0]) / 8 if found["ci95"] else float("inf")
        tolerance = max(FLOOR, min(3 * spread[name], cap))
        headline[name] = {"value": round(found["value"], 4), "tolerance": round(tolerance, 5), "spread": spread[name]}
    new = {
        "headline": headline,
        "split": report.split,
        "data_fingerprint": report.provenance["data_fingerprint"],
        "weights_sha256": report.provenance["weights_sha256"],
    }
    return locks.write_entry(locks.HEADLINE, cohort, 1, new, reason=reason)
