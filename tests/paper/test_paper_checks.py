"""Tables of checks say what the reports say."""

import pytest

from covtoken.gates import gate0
from covtoken.paper.pages.checks import READABLE, in_words, scientific, word, worst
from covtoken.protocol.report import committed_reports

REPORTS = [report for report in committed_reports() if report.gate == 0]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "equal"), (0.05, "5 · 10⁻²"), (0.0137, "1.4 · 10⁻²"), (1e-6, "1 · 10⁻⁶"), (12.0, "1.2 · 10¹")],
)
def test_small_numbers_are_readable(value, text):
    assert scientific(value) == text


def test_a_failed_check_is_loud():
    assert [word(outcome) for outcome in (True, False, None, "wins")] == ["holds", "FAILS", "–", "wins"]


@pytest.mark.parametrize(
    ("check", "words"),
    [
        ("coding_rate.keep0.25", "coding rate, keep 0.25"),
        ("dual.mu_is_stable", "dual: mu is stable"),
        ("miss.density_against_random", "missed: membership A against random"),
    ],
)
def test_names_of_checks_are_words(check, words):
    assert in_words(check) == words


def test_the_worst_block_is_shown():
    rows = [{"comparison": "same", "value": value} for value in (0.1, 0.3, 0.2)]
    report = {"chart_data": {"agreement": rows}, "metrics": {"geometry.offset": {"value": 0.01}}}
    assert worst(report, "agreement.same") == 0.3 and worst(report, "geometry.offset") == 0.01
    assert worst(report, "agreement.absent") is None


@pytest.mark.parametrize("report", REPORTS, ids=lambda r: r.cohort)
def test_every_check_has_words_and_none_is_stale(report):
    assert set(report.checks) == set(READABLE)
    assert {check for checks in gate0.DEFECTS.values() for check in checks} <= set(READABLE)
