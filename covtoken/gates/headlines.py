"""Locking headline numbers: what a notebook must reproduce, within 3 × the measured spread of a run."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace

import torch

from covtoken.data.cohorts import cohort_name
from covtoken.errors import CovtokenError, unknown
from covtoken.evaluation.records import load_records, load_scores, records_path, scores_path
from covtoken.gates import gate1, gate2, gate3, gate4, gate5, negative_result, runs
from covtoken.paths import project_root
from covtoken.protocol import locks
from covtoken.protocol.plan import Plan
from covtoken.protocol.planning import plan_for
from covtoken.protocol.report import committed_reports, read_report, report_path
from covtoken.protocol.setting import open_setting

GATE1 = (
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
HEADLINES = {
    "1": GATE1,
    "2": gate2.HEADLINES,
    "3": gate3.HEADLINES,
    "4": gate4.HEADLINES,
    "5": gate5.HEADLINES,
    "negative_result": negative_result.HEADLINES,
}
HEADLINE_OF = {
    "1": gate1.headline,
    "2": gate2.headline,
    "3": gate3.headline,
    "4": gate4.headline,
    "5": gate5.headline,
    "negative_result": negative_result.headline,
}
BUDGETS = ("2", "3", "4", "negative_result")
# What hangs on a chain of choices (greedy, the dual's steps, merging): another processor's rounding moves it, and a
# spread measured on one processor cannot know. Such numbers are locked where they are recomputed from records alone.
CHAINED = ("greedy", "spanning", "coverage_repaired", "merging", "mu_cv", "mu_falls")
FROM_PIXELS = "phantom"  # the cohort that notebooks run from pixels
FLOOR = 5e-5  # headline numbers are locked to four decimals
SPREAD_UNITS = {"1": 24}  # of bank and of selection
FEWER_UNITS = 12  # for the other gates, whose runs cost more, and of cross-fitted cohorts, whose units have many slices
SPREAD_OPTIONS = {
    "3": {"n_greedy": 8},
    "4": {"n_seeds": 2, "n_pictures": 8},
    "negative_result": {"n_greedy": 8},
}
SPREAD_RUNS = (("fp32", 1), ("fp32", 2), ("bf16", 2))  # precision, threads


def lock_headlines(cohort: str, gate: str, reason: str = "") -> list[str]:
    """Measure the spread of a gate (or of all ``budgets``) and lock its headline numbers; returns lines old → new."""
    gates = BUDGETS if gate == "budgets" else (gate,)
    for one in gates:
        if one not in HEADLINES:
            raise unknown("gate", one, [*HEADLINES, "budgets"])
        read_report(report_path(cohort_name(cohort), one, recorded=True))  # refuse before minutes of measuring
    spreads = measure_spreads(cohort, gates)
    return [line for one in gates for line in lock_headline(cohort, one, spreads[one], reason)]


def measure_spreads(
    cohort: str, gates: tuple[str, ...], split: str = "selection", backbone: str = "embedded"
) -> dict[str, dict[str, float]]:
    """Measure, by gate, the largest minus the smallest value of each headline over ``SPREAD_RUNS``, the plan fixed.

    Measured on the selection split, with few units of bank and selection: a tolerance needs no further look at the
    test split. Each run extracts anew, into a cache of its own.
    """
    values: dict[str, dict[str, list[float]]] = {gate: {} for gate in gates}
    opened = open_setting(cohort, split, backbone)
    threads, cache = torch.get_num_threads(), os.environ.get("COVTOKEN_CACHE")
    locked = locks.entry(locks.THRESHOLDS, opened.cohort.name, 1)
    plan = replace(Plan.from_json(locked), locked=True) if locked else None
    try:
        for precision, n_threads in SPREAD_RUNS:
            torch.set_num_threads(n_threads)
            with tempfile.TemporaryDirectory() as folder:
                os.environ["COVTOKEN_CACHE"] = folder
                for gate in gates:
                    small = opened.split == "crossfit"
                    n_units = FEWER_UNITS if small else SPREAD_UNITS.get(gate, FEWER_UNITS)
                    setting = replace(opened, precision=precision).limited(n_units)
                    plan = plan or replace(plan_for(setting, may_choose=gate in runs.CHOOSING), locked=True)
                    metrics = runs.GATES[gate](setting, plan, **SPREAD_OPTIONS.get(gate, {})).report.metrics
                    for name in HEADLINES[gate]:
                        if metrics.get(name, {}).get("value") is not None:
                            values[gate].setdefault(name, []).append(metrics[name]["value"])
    finally:
        torch.set_num_threads(threads)
        os.environ.pop("COVTOKEN_CACHE")
        if cache is not None:
            os.environ["COVTOKEN_CACHE"] = cache
    return {gate: {name: max(v) - min(v) for name, v in found.items()} for gate, found in values.items()}


def lock_headline(cohort: str, gate: str, spread: dict[str, float], reason: str = "") -> list[str]:
    """Lock the committed report's headline numbers; tolerance = 3 × spread, at most ¼ of the interval's half width."""
    cohort = cohort_name(cohort)
    report = read_report(report_path(cohort, gate, recorded=True))
    headline = {}
    for name in HEADLINES[gate]:
        found = report.metrics.get(name)
        if found is None or found["value"] is None or name not in spread:
            continue
        if cohort == FROM_PIXELS and any(word in name for word in CHAINED):
            continue
        cap = (found["ci95"][1] - found["ci95"][0]) / 8 if found["ci95"] else float("inf")
        tolerance = max(FLOOR, min(3 * spread[name], cap))
        headline[name] = {"value": round(found["value"], 4), "tolerance": round(tolerance, 5), "spread": spread[name]}
    if not headline:
        raise CovtokenError(
            f"{cohort} gate {gate}: no headline number has both a committed value and a measured spread"
        )
    new = {
        "headline": headline,
        "split": report.split,
        "data_fingerprint": report.provenance["data_fingerprint"],
        "weights_sha256": report.provenance["weights_sha256"],
    }
    return locks.write_entry(locks.HEADLINE, cohort, gate, new, reason=reason)


def recorded_metrics(gate: str, but: str = "") -> dict[str, dict[str, dict]]:
    """Recompute the headline metrics of a gate from what is recorded, by cohort.

    Args:
        gate: 1 to 5, or ``negative_result``.
        but: a cohort to leave out.
    """
    found = {}
    for report in committed_reports():
        if str(report.gate) != gate or report.cohort == but:
            continue
        path = scores_path(project_root(), report.cohort)
        path = path if gate == "1" else records_path(project_root(), report.cohort, gate)
        if path.exists():
            records = load_scores(path) if gate == "1" else load_records(path)
            found[report.cohort] = HEADLINE_OF[gate](records).entries()
    return found


def locked_text(gate: str, cohort: str, metrics: dict[str, dict], recorded: dict[str, dict[str, dict]]) -> str:
    """The locked cell's text: this run's cohort from pixels, every other recomputed from its records."""
    parts = [locks.reproduction(cohort, gate, metrics)]
    parts += [locks.reproduction(name, gate, found) for name, found in recorded.items()]
    return "\n".join(parts)
