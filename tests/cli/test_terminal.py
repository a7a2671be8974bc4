"""What a gate says in a terminal: for every committed report its decision, and a reason that its checks bear out."""

import pytest

from covtoken.cli import terminal
from covtoken.protocol.report import GateReport, committed_reports, metric

GATES = ("0", "1", "2", "3", "4", "6", "negative_result")
REPORTS = [report for report in committed_reports() if str(report.gate) in GATES]


@pytest.mark.parametrize("report", REPORTS, ids=lambda r: f"{r.cohort}-{r.gate}")
def test_every_committed_report_is_said_in_a_screen(report):
    lines = terminal.brief(report)
    assert report.cohort in lines[0] and 2 <= len(lines) <= 14
    assert lines[-1].startswith(f"{report.decision}: ")
    if report.decision == "NO-GO" and report.gate != 0:
        assert " not " in lines[-1], "a reason that names nothing which failed"
    if report.decision == "NO-VERDICT":
        assert lines[-1].startswith("NO-VERDICT: only ")


def _gate1(gain, recommended, n_units=30, decision="NO-GO"):
    metrics = {
        "auroc_gain.middle_minus_final": metric(*gain, n_units, n_units, 9),
        "auroc.recommended": metric(*recommended, n_units, n_units, 9),
    }
    checks = {"middle_beats_final": gain[1][0] > 0, "lower_bound_beats_threshold": recommended[1][0] > 0.8}
    thresholds = {"auroc.recommended": 0.8, "reason": "attention on selection"}
    return GateReport(
        *(1, "t", "q", "mine", "crossfit", "b", {}, thresholds, metrics, checks, decision),
        chart_data={},
        provenance={},
    )


def test_a_no_go_names_what_failed_and_only_that():
    report = _gate1((0.01, (-0.03, 0.05)), (0.95, (0.9, 0.99)))
    assert terminal.why(report) == "the middle block does not beat the final one: +0.01 [−0.03, +0.05]"
    report = _gate1((0.1, (0.05, 0.2)), (0.85, (0.7, 0.9)))
    assert terminal.why(report) == (
        "the recommended score, 0.850 [0.700, 0.900], does not lie above the threshold 0.800 (attention on selection)"
    )


def test_no_verdict_says_whether_units_or_the_backbone_is_the_reason():
    few = _gate1((0.1, (0.05, 0.2)), (0.9, (0.85, 0.95)), n_units=12, decision="NO-VERDICT")
    assert terminal.why(few).startswith("only 12 units evaluated, and a verdict needs 20; the middle block beats")
    foreign = _gate1((0.1, (0.05, 0.2)), (0.9, (0.85, 0.95)), decision="NO-VERDICT")
    assert terminal.why(foreign).startswith("settings and threshold are of another backbone")


def _gate6(speedup, retained, decision="NO-GO", n_units=30, **checks):
    share = metric(retained / n_units, None, n_units, n_units, 9) | {"count": retained, "of": n_units}
    metrics = {
        "retention_all": metric(0.97, (0.9, 1), n_units, n_units, 9),
        "speedup_flops_net": metric(speedup, None, n_units, n_units, 9),
        "coverage.rank.alpha0.1": share,
    }
    checks = {"faster_than_rivals": speedup > 1.6, "coverage_within_its_law": retained > 0.8 * n_units} | checks
    thresholds = {"speedup_flops_net": 1.6, "reason": "that of the head's student"}
    return GateReport(
        *(6, "t", "q", "mine", "test", "b", {}, thresholds, metrics, checks, decision), chart_data={}, provenance={}
    )


def test_gate_6_says_which_half_failed():
    assert terminal.why(_gate6(1.5, 29)) == (
        "the chosen route needs 1.500 times fewer FLOPs, which does not beat 1.600 (that of the head's student)"
    )
    assert terminal.why(_gate6(2.0, 20)) == (
        "the certificate's coverage at α = 0.1 is not what its law allows: 20 of 30 units"
    )
    assert terminal.why(_gate6(2.0, 29, all_work_is_counted=False)) == "its FLOPs are not all counted"
    assert "does beat 1.600" in terminal.why(_gate6(2.0, 29, "GO"))


def test_gate_6_says_why_it_decides_nothing():
    assert terminal.why(_gate6(2.0, 11, "NO-VERDICT", 12)).startswith(
        "only 12 units with a lesion, and a verdict needs"
    )
    report = _gate6(2.0, 29, "NO-VERDICT")
    del report.checks["coverage_within_its_law"]
    assert terminal.why(report).startswith("a selection split calibrates no certificate; the chosen route")
