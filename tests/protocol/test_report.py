"""The report's schema: what is written is read back, and what does not fit is refused by name."""

import json

import pytest

from covtoken.errors import CovtokenError
from covtoken.protocol.report import GateReport, metric, read_report, report_path, write_report

KEYS = (
    *("schema", "gate", "title", "question", "cohort", "split", "backbone", "parameters", "thresholds", "metrics"),
    *("checks", "decision", "human_signoff", "chart_data", "provenance"),
)


def _report(**changes):
    fields = dict(
        gate=1,
        title="t",
        question="q",
        cohort="busi",
        split="test",
        backbone="b",
        parameters={},
        thresholds={},
        metrics={"auroc.density": metric(0.8, (0.7, 0.9), 10, 20, 30)},
        checks={},
        decision="GO",
        chart_data={},
        provenance={},
    )
    return GateReport(**(fields | changes))


def test_round_trip_and_keys(tmp_path):
    path = write_report(_report(), tmp_path / "busi" / "gate1.json")
    assert sorted(json.loads(path.read_text())) == sorted(KEYS)
    assert read_report(path) == _report()
    assert json.loads(path.read_text())["human_signoff"] is None
    assert list(path.parent.iterdir()) == [path], "a temporary file was left behind"


def test_signoff_changes_nothing_else(tmp_path):
    signed = _report().signed("A. Reader", "2026-01-01", "read")
    assert signed.human_signoff == {"name": "A. Reader", "when": "2026-01-01", "remark": "read"}
    assert signed.metrics == _report().metrics


def test_nan_becomes_null():
    assert metric(float("nan"), (0.1, float("nan")), 1, 1, 1) == {
        "value": None, "ci95": None, "n_units": 1, "n_images": 1, "n_tokens": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c.replace("covtoken-gate-report/1", "other"),
        lambda c: c[:-20],
        lambda c: c.replace('"split"', '"cut"'),
    ],
)
def test_damaged_reports_are_refused_by_name(tmp_path, damage):
    path = write_report(_report(), tmp_path / "gate1.json")
    path.write_text(damage(path.read_text()))
    with pytest.raises(CovtokenError, match=r"gate1\.json"):
        read_report(path)


def test_unknown_decision_is_refused():
    with pytest.raises(CovtokenError, match="expected one of GO, NO-GO, NO-VERDICT"):
        _report(decision="MAYBE")


def test_committed_and_ignored_places(tmp_path):
    assert report_path("busi", 1, recorded=True, root=tmp_path) == tmp_path / "gate_reports/busi/gate1.json"
    assert report_path("busi", 1, recorded=False, root=tmp_path) == tmp_path / "gate_reports/_run/busi/gate1.json"
