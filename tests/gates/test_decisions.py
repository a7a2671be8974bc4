"""Every committed decision follows from what is recorded, under the locked threshold; every page from its report."""

from __future__ import annotations

import pytest

from covtoken.data.cohorts import RECIPE_COHORTS
from covtoken.evaluation.records import load_records, load_scores, records_path, scores_path
from covtoken.gates import gate0, gate1, gate2, gate3, gate4, gate5, gate6, negative_result
from covtoken.paths import project_root
from covtoken.protocol import locks
from covtoken.protocol.report import committed_reports

UNDECIDED = ("backbones",)  # measured, held to no threshold
REPORTS = [r for r in committed_reports() if str(r.gate) not in ("confirmation", *UNDECIDED)]  # see test_confirmation
MODALITY = {"phantom": "phantom", "busi": "ultrasound", "kits19": "ct8", "lidc-crops": "ct8", "lits": "ct8"}
CARRIED = {"lidc-idri": "ct", "msd-task06": "ct"}  # too few patients for a bank of their own


def records_of(report):
    if report.gate == 1:
        return load_scores(scores_path(project_root(), report.cohort))
    return load_records(records_path(project_root(), report.cohort, report.gate))


def locked(report, gate):
    """The entry that holds for a report: its cohort's, or the recipe cohort's where the cohort has no splits."""
    modality = (MODALITY | CARRIED)[report.cohort]
    name = RECIPE_COHORTS[modality] if report.split in ("crossfit", "carried") else report.cohort
    return locks.entry(locks.THRESHOLDS, name, gate)


def decided(report):
    """(decision, checks) made anew from records and lock alone."""
    gate = str(report.gate)
    if gate == "0":
        return gate0.decide(report.checks), {}
    if gate == "alarm":
        counts = report.checks
        right, n = counts["fired_failed"] + counts["silent_worked"], len(report.chart_data["conditions"])
        return "GO" if right / n >= report.thresholds["right"] else "NO-GO", {}
    records = records_of(report)
    if gate == "1":
        measured = gate1.headline(records)
        return gate1.decide(measured, locked(report, 1)["threshold"], measured.n[0])
    if gate in ("2", "3"):
        module = {"2": gate2, "3": gate3}[gate]
        return module.decide(module.headline(records), locked(report, gate)["threshold"])
    if gate == "4":
        measured = gate4.headline(records)
        return gate4.decide(measured, measured.n[0])
    if gate == "5":
        outside = {name: report.checks[name] for name in ("bank_fits", "recipe_chosen_elsewhere")}
        return gate5.decide(gate5.headline(records), locked(report, 1)["threshold"], outside)
    if gate == "6":
        return gate6.decide(records, gate6.headline(records), locked(report, 6)["threshold"])
    return negative_result.decide(negative_result.headline(records))


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: f"{report.cohort}-{report.gate}")
def test_decision_and_checks_follow_from_records_and_lock(report):
    decision, checks = decided(report)
    assert decision == report.decision
    wrong = {
        name: (value, report.checks.get(name)) for name, value in checks.items() if report.checks.get(name) != value
    }
    assert not wrong


@pytest.mark.parametrize("report", [r for r in REPORTS if str(r.gate) in "12356"], ids=lambda r: f"{r.cohort}-{r.gate}")
def test_the_threshold_is_the_locked_one(report):
    gate = 1 if str(report.gate) in "15" else report.gate
    numbers = [value for value in report.thresholds.values() if isinstance(value, float)]
    assert numbers and set(numbers) == {locked(report, gate)["threshold"]}
    assert report.thresholds["locked"] is True


@pytest.mark.parametrize("report", [r for r in REPORTS if r.gate == 6], ids=lambda r: r.cohort)
def test_the_setting_of_a_route_is_the_locked_one(report):
    assert report.parameters["setting"] == locked(report, 6)["setting"]
    chosen, header = report.parameters["setting"]["chosen"], records_of(report).header["chosen"]
    assert {name: header[name] for name in chosen} == chosen


def test_every_cohort_is_recorded_by_every_gate():
    gates = {str(report.gate) for report in REPORTS}
    assert gates == {"0", "1", "2", "3", "4", "5", "6", "alarm", "negative_result"}
    for cohort in MODALITY:
        assert {str(report.gate) for report in REPORTS if report.cohort == cohort} == gates
    for cohort in CARRIED:
        found = {str(report.gate): report.decision for report in REPORTS if report.cohort == cohort}
        assert found == {"1": "NO-VERDICT", "3": "NO-VERDICT"}


@pytest.mark.parametrize("report", [r for r in committed_reports() if r.gate in UNDECIDED], ids=lambda r: r.cohort)
def test_a_report_without_a_threshold_decides_nothing(report):
    assert report.decision == "NO-VERDICT" and not report.thresholds and not report.checks
