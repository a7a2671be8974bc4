"""Headline numbers, locked: a notebook must reproduce them within 3 × the measured spread of a run."""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from dataclasses import replace

import torch

from covtoken.data.cohorts import cohort_name
from covtoken.data.external import refuse_external
from covtoken.errors import CovtokenError, unknown
from covtoken.evaluation.records import load_records, load_scores, records_path, scores_path
from covtoken.gates import runs
from covtoken.paths import project_root
from covtoken.protocol import locks
from covtoken.protocol.plan import Plan
from covtoken.protocol.planning import plan_for
from covtoken.protocol.report import committed_reports, read_report, report_path
from covtoken.protocol.setting import open_setting

HEADLINES = {gate: module.HEADLINES for gate, module in runs.MODULES.items() if gate != "0"}
HEADLINE_OF = {gate: runs.MODULES[gate].headline for gate in HEADLINES}
BUDGETS = ("2", "3", "4", "negative_result")
# Numbers that hang on a chain of choices (greedy, the dual's steps, merging) move with a processor's rounding, which a
# spread measured on a single processor cannot show: they are no headlines that a lock could promise.
CHAINED = ("greedy", "spanning", "coverage_repaired", "merging", "mu_cv", "mu_falls", "before_repair")
FLOOR = 5e-5  # headline numbers are locked to four decimals
SPREAD_UNITS = {"1": 24}  # of bank and of selection
FEWER_UNITS = 12  # for the other gates, which cost more, and for cross-fitted cohorts, whose units have many slices
SPREAD_OPTIONS = {"3": {"n_greedy": 8}, "4": {"n_seeds": 2, "n_pictures": 8}, "negative_result": {"n_greedy": 8}}
SPREAD_RUNS = (("fp32", 1), ("fp32", 2), ("bf16", 2))  # precision, threads


def lock_headlines(cohort: str, gate: str, reason: str = "") -> list[str]:
    """Measure the spread of a gate (or of all ``budgets``), lock its headline numbers; return the lines old → new.

    Raises:
        CovtokenError: an external cohort, an unknown gate, or a gate without a committed report.
    """
    refuse_external(cohort)
    gates = BUDGETS if gate == "budgets" else (gate,)
    for name in gates:
        if name not in HEADLINES:
            raise unknown("gate", name, [*HEADLINES, "budgets"])
        read_report(report_path(cohort_name(cohort), name, recorded=True))  # refuse before minutes of measuring
    spreads = measure_spreads(cohort, gates)
    return [line for name in gates for line in lock_headline(cohort, name, spreads[name], reason)]


def measure_spreads(
    cohort: str, gates: tuple[str, ...], split: str = "selection", backbone: str = "embedded"
) -> dict[str, dict[str, float]]:
    """Measure, by gate, the largest minus the smallest value of each headline over ``SPREAD_RUNS``, the plan fixed.

    Runs use few units of the bank and selection splits, since a tolerance needs no look at the test split. Each run
    extracts anew, into a cache of its own.
    """
    values: dict[str, dict[str, list[float]]] = {gate: defaultdict(list) for gate in gates}
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
                    n_units = FEWER_UNITS if opened.small else SPREAD_UNITS.get(gate, FEWER_UNITS)
                    setting = replace(opened, precision=precision).limited(n_units)
                    plan = plan or replace(plan_for(setting, may_choose=gate in runs.CHOOSING), locked=True)
                    metrics = runs.GATES[gate](setting, plan, **SPREAD_OPTIONS.get(gate, {})).report.metrics
                    for name in HEADLINES[gate]:
                        if metrics.get(name, {}).get("value") is not None:
                            values[gate][name].append(metrics[name]["value"])
    finally:
        torch.set_num_threads(threads)
        os.environ.pop("COVTOKEN_CACHE")
        if cache is not None:
            os.environ["COVTOKEN_CACHE"] = cache
    return {gate: {name: max(v) - min(v) for name, v in by_name.items()} for gate, by_name in values.items()}


def lock_headline(cohort: str, gate: str, spread: dict[str, float], reason: str = "") -> list[str]:
    """Lock a committed report's headline numbers."""
    cohort = cohort_name(cohort)
    report = read_report(report_path(cohort, gate, recorded=True))
    headline = {}
    for name in HEADLINES[gate]:
        entry = report.metrics.get(name)
        chained = any(word in name for word in CHAINED)
        if entry is None or entry["value"] is None or name not in spread or chained:
            continue
        tolerance = tolerance_of(entry, spread[name])
        headline[name] = {"value": round(entry["value"], 4), "tolerance": tolerance, "spread": spread[name]}
    if not headline:
        raise CovtokenError(
            f"{cohort} gate {gate}: no headline number has both a committed value and a measured spread"
        )
    bound = {key: report.provenance[key] for key in ("data_fingerprint", "weights_sha256")}
    new = {"headline": headline, "split": report.split, **bound}
    return locks.write_entry(locks.HEADLINE, cohort, gate, new, reason=reason)


def tolerance_of(entry: dict, spread: float) -> float:
    """Allow a headline 3 × its measured spread, at most ¼ of its interval's half width, at least ``FLOOR``."""
    cap = (entry["ci95"][1] - entry["ci95"][0]) / 8 if entry["ci95"] else float("inf")
    return round(max(FLOOR, min(3 * spread, cap)), 5)


def recorded_metrics(gate: str, but: str = "") -> dict[str, dict[str, dict]]:
    """Recompute a gate's headline metrics from its committed records, by cohort.

    A cohort scored with another's bank is left out: it has no selection split to measure a tolerance on, so no headline
    of it is locked.

    Args:
        gate: 1 to 6, or ``negative_result``.
        but: a cohort to leave out.
    """
    metrics = {}
    for report in committed_reports():
        if str(report.gate) != gate or report.cohort == but or report.split == "carried":
            continue
        path = scores_path(project_root(), report.cohort)
        path = path if gate == "1" else records_path(project_root(), report.cohort, gate)
        if path.exists():
            records = load_scores(path) if gate == "1" else load_records(path)
            metrics[report.cohort] = HEADLINE_OF[gate](records).entries()
    return metrics


def locked_text(gate: str, cohort: str, metrics: dict[str, dict], recorded: dict[str, dict[str, dict]]) -> str:
    """Write the locked cell's text: this run's cohort from pixels, the others recomputed from their records."""
    return "\n".join(locks.reproduction(name, gate, each) for name, each in [(cohort, metrics), *recorded.items()])
