"""Gate 6 decides from records, as by hand; committed records give the committed numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, betabinom
from stub_economy import N_TOKENS, in_order, records

from covtoken.evaluation.records import load_records, records_path
from covtoken.gates import gate6
from covtoken.keys import hash_unit
from covtoken.paths import project_root
from covtoken.protocol.report import committed_reports

REPORTS = [report for report in committed_reports() if str(report.gate) == "6"]
CHECKS = ("route_is_the_masked_pass", "all_work_is_counted", "certificate_fits")


def decide(made, threshold=1.5):
    return gate6.decide(made, gate6.headline(made), threshold)


@pytest.mark.skipif(not REPORTS, reason="no report of gate 6 is committed")
@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.cohort)
def test_committed_records_give_the_committed_numbers_and_decision(report):
    recorded = load_records(records_path(project_root(), report.cohort, 6))
    measured = gate6.headline(recorded)
    found = measured.entries()
    probes = {name for name in report.metrics if name.startswith(("probe.", "probe_gain."))}
    assert found.keys() == report.metrics.keys() - probes, "probes look at tokens, which no record holds"
    for name, entry in found.items():
        assert entry["value"] == pytest.approx(report.metrics[name]["value"], abs=1e-9, nan_ok=True), name
        assert entry["ci95"] == pytest.approx(report.metrics[name]["ci95"], abs=1e-9), name
        assert [entry.get(part) for part in ("count", "of")] == [report.metrics[name].get(p) for p in ("count", "of")]
    decision, checks = gate6.decide(recorded, measured, report.thresholds["speedup_flops_net"])
    assert decision == report.decision and checks.items() <= report.checks.items()
    for name, rows in gate6.chart_data(recorded).items():
        assert in_order(rows) == in_order(report.chart_data[name]), name


@pytest.mark.skipif(not REPORTS, reason="no report of gate 6 is committed")
@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.cohort)
def test_a_committed_report_has_every_headline(report):
    assert set(gate6.HEADLINES) <= report.metrics.keys()


def test_a_setting_that_holds_is_a_go():
    decision, checks = decide(records())
    assert decision == "GO"
    assert all(checks[name] is True for name in (*CHECKS, "faster_than_rivals", "coverage_within_its_law"))


@pytest.mark.parametrize("check", CHECKS)
def test_each_check_that_fails_is_a_no_go(check):
    decision, checks = decide(records(checks={check: False}))
    assert decision == "NO-GO" and checks[check] is False and checks["faster_than_rivals"]


def test_a_setting_must_be_faster_than_the_best_rival_not_as_fast():
    made = records(speedup=2.0)
    measured = gate6.headline(made)
    for threshold, decision in ((1.99, "GO"), (2.0, "NO-GO"), (2.5, "NO-GO")):
        found, checks = gate6.decide(made, measured, threshold)
        assert (found, checks["faster_than_rivals"]) == (decision, decision == "GO")


def test_coverage_may_fall_to_the_lower_edge_of_its_law_and_not_below():
    """The certificate of needs 1 … 39 at α = 0.1 keeps 36 tokens; of 40 units, c need no more than these."""
    edge = int(betabinom(40, 39 + 1 - 4, 4).ppf(0.025))
    for covered, decision in ((40, "GO"), (edge, "GO"), (edge - 1, "NO-GO")):
        found, checks = decide(records(needs=[36] * covered + [37] * (40 - covered)))
        assert (found, checks["coverage_within_its_law"]) == (decision, decision == "GO")


def test_a_certificate_of_too_few_units_gives_no_verdict():
    decision, checks = decide(records(calibration=range(1, 9)))
    assert decision == "NO-VERDICT" and checks["coverage_within_its_law"] is False


def test_a_setting_that_drops_nothing_gives_no_verdict():
    made = records(k=N_TOKENS)
    del made.header["checks"]  # there is no route to check
    assert decide(made)[0] == "NO-VERDICT"


def test_few_units_or_no_calibration_give_no_verdict():
    assert decide(records(needs=[5] * 19))[0] == "NO-VERDICT"
    assert decide(records(needs=[5] * 20))[0] == "GO"
    for made in (records(needs=[5] * 19, speedup=1.0), records(needs=[5] * 19, checks={CHECKS[0]: False})):
        assert decide(made)[0] == "NO-VERDICT"
    made = records(calibration=())
    decision, checks = decide(made)
    assert decision == "NO-VERDICT" and checks["faster_than_rivals"] and "coverage_within_its_law" not in checks
    assert not any(name.startswith(("coverage", "certified_keep")) for name in gate6.headline(made).values)
    assert gate6.chart_data(made).keys() == {"curves", "missed"}


def test_units_without_a_lesion_do_not_count_towards_a_verdict():
    made = records(needs=[5] * 19)
    unit = np.arange(30, dtype=np.int32)  # eleven more pictures without a lesion
    made = type(made)(made.arrays | {"unit": unit}, made.header | {"units": [f"u{i}" for i in range(30)]})
    assert decide(made)[0] == "NO-VERDICT"


def test_retention_is_a_count_with_exact_bounds():
    needs = list(range(1, 41))
    small = [need > 30 for need in needs]
    made = records(needs, k=36, small=small, rivals={"random": ([n + 10 for n in needs], 30)})
    found = gate6.headline(made).entries()
    for name, count, of in (
        ("retention_all", 36, 40),
        ("retention_small", 6, 10),
        ("retention_all.random", 20, 40),
        ("retention_small.random", 0, 10),
        ("retention_all.published", 16, 40),
    ):
        entry = found[name]
        assert (entry["count"], entry["of"], entry["value"]) == (count, of, count / of), name
        low = beta.ppf(0.025, count, of - count + 1) if count else 0
        assert entry["exact95"] == pytest.approx([low, beta.ppf(0.975, count + 1, of - count)]), name
    assert found["retention_gain.recommended_minus_random"]["value"] == 16 / 40
    assert found["speedup_flops_net"]["value"] == 2.0 and found["speedup_flops_net"]["ci95"] is None
    assert found["speedup_flops_net.published"]["value"] == 1.6
    assert "retention_gain.recommended_minus_recommended" not in found


def test_rivals_at_equal_flops_win_lose_or_stay_undecided():
    needs = [5] * 40
    rivals = {"direction": ([50] * 40, 30), "random": (needs, 30), "centre_prior": ([5] * 20 + [50] * 20, 30)}
    _, checks = decide(records(needs, rivals=rivals))
    against = {name: checks[f"retention.recommended_against_{name}"] for name in rivals}
    assert against == {"direction": "wins", "random": "undecided", "centre_prior": "wins"}
    worse = records([5] * 20 + [50] * 20, rivals={"random": (needs, 30)})
    assert decide(worse)[1]["retention.recommended_against_random"] == "loses"


def test_a_win_needs_an_exact_test_over_enough_units_adjusted_for_all_rivals():
    """Of 40 units n differ, all one way: p = 2 ÷ 2ⁿ, times the number of scores by Holm."""
    won = {n: ([50] * n + [5] * (40 - n), 30) for n in (5, 6, 7)}
    for n, alone, beside_others in ((5, "undecided", "undecided"), (6, "wins", "undecided"), (7, "wins", "wins")):
        rivals = {"random": won[n]}
        assert decide(records([5] * 40, rivals=rivals))[1]["retention.recommended_against_random"] == alone
        rivals |= {"centre_prior": ([5] * 40, 30)}
        found = gate6.headline(records([5] * 40, rivals=rivals)).entries()["retention_gain.recommended_minus_random"]
        assert found["p_exact"] == pytest.approx(2 * 0.5**n) and found["p_holm"] == pytest.approx(4 * 0.5**n)
        assert (found["units_won"], found["units_lost"]) == (n, 0)
        assert decide(records([5] * 40, rivals=rivals))[1]["retention.recommended_against_random"] == beside_others
    for n, word in ((19, "undecided"), (20, "wins")):
        made = records([5] * n, rivals={"random": ([50] * n, 30)})
        assert decide(made)[1]["retention.recommended_against_random"] == word


def test_merged_lesions_and_losses_are_measured_where_recorded():
    arrays = {"merged": np.array([1] * 30 + [0] * 10, np.uint8), "loss/expected_risk.alpha0.1": np.full(40, 0.05)}
    arrays["certified_k/expected_risk.alpha0.1"] = np.array([64])
    found = gate6.headline(records(arrays=arrays, speedup_wall_net={"batch8": 1.7})).entries()
    assert (found["retention_all.merging"]["count"], found["retention_all.merging"]["of"]) == (30, 40)
    assert found["retention_gain.recommended_minus_merging"]["value"] == pytest.approx(6 / 40)
    assert found["risk.expected_risk.alpha0.1"]["value"] == pytest.approx(0.05)
    kept = found["certified_keep.expected_risk.alpha0.1"]
    assert kept["value"] == 64 / N_TOKENS and kept["n_units"] == 39
    assert found["speedup_wall_net.batch8"]["value"] == 1.7
    more = [hash_unit(f"c{i}") for i in range(50)]  # eleven calibration units without a lesion count for nothing
    again = gate6.headline(records(arrays=arrays, calibration_units=more)).entries()
    assert again["certified_keep.expected_risk.alpha0.1"]["n_units"] == 39


def test_coverage_is_the_share_of_test_units_under_the_certified_k():
    found = gate6.headline(records()).entries()
    for alpha, k in ((0.05, 38), (0.1, 36), (0.2, 32)):  # of needs 1 … 39, the ⌈40·(1 − α)⌉-th
        entry = found[f"coverage.rank.alpha{alpha:g}"]
        assert (entry["count"], entry["of"], entry["n_units"]) == (k, 40, 40)
        assert found[f"certified_keep.rank.alpha{alpha:g}"]["value"] == k / N_TOKENS
        assert found[f"certified_keep.rank.alpha{alpha:g}"]["n_units"] == 39
        assert found[f"coverage.threshold.alpha{alpha:g}"]["count"] == k
    assert set(gate6.HEADLINES) <= found.keys()


def test_missed_lesions_are_counted_by_size_and_place():
    needs, small, border = [1, 50, 50, 2, 50, 50, 50], [1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0, 0]
    rows = gate6.missed_rows(records(needs, k=36, small=small, border=border))
    assert [tuple(row.values()) for row in rows] == [
        ("small", "inside", 2, 1),
        ("small", "at the border", 1, 1),
        ("other", "inside", 2, 2),
        ("other", "at the border", 2, 1),
    ]


def test_curves_hold_the_share_retained_at_each_speed_up_within_reach():
    made = records(needs=range(1, 41), small=[need <= 10 for need in range(1, 41)])
    rows = gate6.curve_rows(made)
    ks = [60, 54, 48, 42, 36, 30, 24, 18, 12, 6]
    assert [row["speedup"] for row in rows] == list(gate6.SPEEDUPS)
    for row, k in zip(rows, ks, strict=True):
        assert (row["score"], row["block"], row["keep"]) == ("recommended", 1, k / N_TOKENS)
        assert row["all"] == min(k, 40) / 40 and row["small"] == min(k, 10) / 10
    made.header["curves"]["recommended.block1"][4:] = [0] * 6
    assert len(gate6.curve_rows(made)) == 4  # what no k reaches has no point
    made.arrays["merged_at/1.55"] = np.array([1] * 10 + [0] * 30, np.uint8)
    merged = {"score": "merging", "block": 1, "speedup": 1.55, "all": 0.25, "small": 1.0}
    assert gate6.curve_rows(made)[4:] == [merged]
    assert gate6.curve_rows(records(needs=[1, 2], small=[0, 0]))[0]["small"] is None


def test_a_lesion_touches_the_border_in_the_outer_rows_and_columns():
    for tokens, touches in (([9, 10], False), ([54], False), ([8], True), ([15], True), ([3], True), ([60, 52], True)):
        assert gate6._at_border(np.array(tokens), 8, 8) is touches
