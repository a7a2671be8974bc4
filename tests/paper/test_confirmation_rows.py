"""The confirmation's table says which column decides, against what, and what does best of all others."""

from __future__ import annotations

from dataclasses import replace

from covtoken.names import COLUMNS
from covtoken.paper.confirmation_rows import best_other, brief, confirmation_lines
from covtoken.paper.numbers import is_signed, readable
from covtoken.paper.pages.checks import in_words
from covtoken.protocol.report import GateReport

VALUES = {"recommended": 0.9, "with_head": 0.92, "without_head": 0.95, "direction": 0.85, "density": 0.8}


def toy(decision="GO") -> GateReport:
    metrics = {}
    for column in COLUMNS:
        values = VALUES | ({"centre_prior": 0.97} if column == "carried" else {})
        for name, value in values.items():
            metrics[f"auroc.{name}.{column}"] = entry(value)
            metrics[f"auroc_gain.recommended_minus_{name}.{column}"] = entry(0.9 - value)
    checks = {f"auroc.recommended_against_density.{column}": "undecided" for column in COLUMNS}
    locked = {
        "column": "crossfit",
        "rival": "density",
        "primary": "auroc_gain.recommended_minus_density.crossfit",
    }
    about = ("confirmation", "", "", "busbra-external", "external", "embedded")
    return GateReport(*about, {"n_units": 30}, locked, metrics, checks, decision, {}, {})


def entry(value: float) -> dict:
    return {"value": value, "ci95": [value - 0.01, value + 0.01], "n_units": 30, "n_images": 31, "n_tokens": 9}


def test_a_row_a_column_and_the_verdict_where_it_was_locked():
    lines = confirmation_lines([toy()])
    table = [line[2:-2].split(" | ") for line in lines if line.startswith("| ")]
    head, best, says = (next(row for row in table if row[0] == name) for name in ("", "the best of all others", "says"))
    assert head[1:] == ["BUS-BRA (30 units), bank carried over", "BUS-BRA (30 units), **cross-fitted**"]
    assert best[1:] == ["0.970 [0.960, 0.980], centre prior", "0.850 [0.840, 0.860], D"]
    assert says[1:] == ["undecided", "**GO**"]
    assert any(row[2] == "+0.100 [+0.090, +0.110]" for row in table if row[0] == "C− minus that rival")
    assert any("not a blind confirmation" in line for line in lines)


def test_what_is_better_beyond_doubt_is_named_by_column_score_and_kind():
    lost = {
        "aupr.recommended_against_head_student.carried": "loses",
        "auroc.recommended_against_head_student.carried": "loses",
        "auroc.with_head_against_direction.carried": "loses",
        "aupr.with_head_against_direction.carried": "wins",
    }
    lines = confirmation_lines([replace(toy(), checks=toy().checks | lost)])
    carried, cross = "- BUS-BRA, bank carried over: ", "- BUS-BRA, cross-fitted: "
    assert lines[-4:] == [
        f"{carried}C− loses to head's student (pooled, AUPR)",
        f"{carried}C loses to D (pooled)",
        f"{cross}C− loses to none",
        f"{cross}C loses to none",
    ]


def test_nothing_is_said_where_nothing_is_recorded():
    assert confirmation_lines([]) == []


def test_parts_of_c_are_no_rivals():
    metrics = toy().metrics
    assert best_other(metrics, "crossfit") == "direction" and best_other(metrics, "carried") == "centre_prior"


def test_a_terminal_gets_the_comparison_that_decided():
    said = brief(toy("NO-GO"))
    assert said[-1].startswith("NO-GO: auroc_gain.recommended_minus_density.crossfit is +0.100 [+0.090, +0.110]")
    assert len(said) == 2 + len(COLUMNS) and not any("*" in line for line in said)


def test_names_with_a_column_are_words():
    gain = "froc.fp1_gain.recommended_minus_density.crossfit"
    assert is_signed(gain)
    assert readable(gain) == "difference in lesions found at 1 false alarm a picture, C− − membership A: cross-fitted"
    many = "recall_small.rankme.repaired.membership"
    assert readable(many) == "recall of small lesions, membership A, as many tokens as RankMe, dual, repaired"
    assert readable("aupr.density.crossfit") == "token AUPR, membership A: cross-fitted"
    assert in_words("auroc.recommended_against_density.carried") == (
        "token AUROC, bank carried over: C− against membership A"
    )
    assert in_words("miss.density_against_random") == "missed: membership A against random"
