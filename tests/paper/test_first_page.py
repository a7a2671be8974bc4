"""Words of the first page follow from the reports: who is better, who fails, what is not sure, and every verdict."""

from __future__ import annotations

import pytest

from covtoken.errors import CovtokenError
from covtoken.gates import gate1
from covtoken.names import LABELS
from covtoken.paper.numbers import read_metric
from covtoken.paper.pages.recipes import middle_text, recipe_rows
from covtoken.paper.verdict_grid import COHORTS, verdict_rows
from covtoken.paths import project_root
from covtoken.protocol.report import committed_reports
from covtoken.scores.recipe import FIXED

ROOT = project_root()
REPORTS = committed_reports()
ROWS = verdict_rows(REPORTS)


def sign(where: str) -> int:
    """Give 1 or −1 where an interval lies beyond zero, else 0."""
    low, high = read_metric(ROOT, where)["ci95"]
    return int(low > 0) - int(high < 0)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("busi/gate1 auroc_gain.recommended_minus_attention_best", 1),
        ("lidc-crops/gate1 auroc_gain.recommended_minus_attention_best", 1),
        ("lits/gate1 auroc_gain.recommended_minus_attention_last", -1),
        ("kits19/gate1 auroc_gain.recommended_minus_attention_last", -1),
        ("lits/gate1 organ_auroc_gain.recommended_minus_density", -1),
        ("busi/gate1 auroc_gain.density_minus_attention_best", -1),
        ("busi/gate1 auroc_gain.recommended_minus_attention_head_fit", 0),
        ("lidc-crops/gate1 auroc_gain.recommended_minus_attention_head_fit", 0),
        ("busbra-external/confirmation auroc_gain.recommended_minus_attention_fit.crossfit", -1),
    ],
)
def test_better_and_not_told_apart(where, expected):
    assert sign(where) == expected


def test_membership_fails_where_the_recommended_score_passes_and_no_pruning_win_is_sure():
    busi = next(report for report in REPORTS if (str(report.gate), report.cohort) == ("1", "busi"))
    assert gate1.verdicts(busi)["density"] == "NO-GO" and gate1.verdicts(busi)["recommended"] == "GO"
    third = {report.cohort: report.decision for report in REPORTS if str(report.gate) == "3"}
    assert "GO" not in third.values()
    text = (ROOT / "gate_reports" / "NEGATIVE_RESULT.md").read_text()
    assert "No mechanism tried here holds on every cohort." in text


def test_the_grid_holds_every_verdict():
    shown = {(row.gate, cohort) for row in ROWS for cohort, cell in row.cells.items() if cell}
    asked = {(str(r.gate), r.cohort) for r in REPORTS if r.cohort in COHORTS}
    assert asked == {pair for pair in shown if pair[0] != "confirmation"}
    assert list(COHORTS)[-1] == "phantom"
    for row in ROWS:
        for cell in row.cells.values():
            assert cell is None or cell.n or not cell.number or " of " in cell.number, f"{row.question}: no n"


def test_a_gate_without_a_question_is_refused():
    class Other:
        gate, cohort = "9", "busi"

    with pytest.raises(CovtokenError, match="gate 9: add its question"):
        verdict_rows([Other()])


def test_the_recipe_table_says_what_the_locks_say():
    rows = {name: dict(zip(FIXED, values)) for name, *values in recipe_rows()}
    for report in REPORTS:
        for name, recipe in report.parameters.get("fixed", {}).items():
            if name not in FIXED or recipe["scorer"] != "consensus":
                continue
            sources, target, quantile, ridge, rounds, inside, *_ = recipe["extra"]
            assert rows["quantile above which a token is called"][name] == f"{quantile:g}"
            assert rows["ridge λ"][name] == f"{ridge:g}" and rows["rounds of agreement"][name] == f"{rounds}"
            assert rows["weight v of the view inside the picture"][name] == f"{inside:g}"
            assert rows["block whose tokens are read"][name] == f"{recipe['block']}"
            if "rarity" in sources:
                assert rows["block whose rarity is taken"][name] == f"{target}"
    assert set(rows["ridge λ"]) == set(FIXED) <= set(LABELS)


def test_a_middle_block_at_the_edge_says_so():
    assert "10 on busi, the last one allowed; 9 on lits." in middle_text({"busi": 10, "lits": 9})
    assert "last one allowed" not in middle_text({"lits": 9})
