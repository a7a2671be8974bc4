"""Locked headline numbers are the committed reports', each with the tolerance that its spread gives."""

from __future__ import annotations

import pytest

from covtoken.gates.headlines import FLOOR, HEADLINES, tolerance_of
from covtoken.protocol import locks
from covtoken.protocol.report import committed_reports

REPORTS = {(report.cohort, f"gate{report.gate}"): report for report in committed_reports()}
LOCKED = [
    (cohort, gate, name, locked)
    for cohort, gates in locks.read_lock(locks.HEADLINE)["entries"].items()
    for gate, entry in gates.items()
    for name, locked in entry["headline"].items()
]


@pytest.mark.parametrize(("cohort", "gate", "name", "locked"), LOCKED, ids=lambda value: str(value)[:40])
def test_a_locked_number_is_the_reports_with_the_tolerance_of_its_spread(cohort, gate, name, locked):
    entry = REPORTS[cohort, gate].metrics[name]
    assert locked["value"] == round(entry["value"], 4)
    assert locked["tolerance"] == tolerance_of(entry, locked["spread"])
    assert name in HEADLINES[gate.removeprefix("gate")]


def test_the_tolerance_is_three_spreads_within_a_quarter_of_the_half_width():
    entry = {"value": 0.5, "ci95": [0.4, 0.6]}
    assert tolerance_of(entry, 0.001) == 0.003
    assert tolerance_of(entry, 0.1) == 0.025
    assert tolerance_of(entry, 0) == FLOOR
    assert tolerance_of({"value": 0.5, "ci95": None}, 0.1) == 0.3
