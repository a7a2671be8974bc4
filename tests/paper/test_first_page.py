"""Words of the first page, and of the published table, follow from the reports; the grid holds every verdict."""

from __future__ import annotations

import numpy as np
import pytest

from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import Lesion, SplitLabels
from covtoken.gates import gate1
from covtoken.names import LABELS
from covtoken.paper.explorer.content import read_explorer
from covtoken.paper.first_figure import VIEWS, panels_of, views
from covtoken.paper.numbers import read_metric
from covtoken.paper.pages.recipes import middle_text, recipe_rows
from covtoken.paper.verdict_grid import DECIDE_NOTHING, FURTHER, columns_of, verdict_rows
from covtoken.paths import project_root
from covtoken.protocol.report import committed_reports
from covtoken.scores.recipe import FIXED
from covtoken.studies.explorer import nearest_to_the_median

ROOT = project_root()
REPORTS = committed_reports()
ROWS = verdict_rows(REPORTS)
FOUR = ("busi", "lidc-crops", "kits19", "lits")


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
        # of book/published.md: published with the opposite sign
        *((f"{cohort}/negative_result spectrum.lesion_minus_background", -1) for cohort in FOUR),
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
    asked = {(str(r.gate), r.cohort) for r in REPORTS if r.cohort not in FURTHER.values()}
    asked = {pair for pair in asked if pair[0] not in DECIDE_NOTHING}
    assert asked == {pair for pair in shown if pair[0] != "confirmation"}
    assert columns_of(["new", "phantom", "busi"])[-2:] == ["new", "phantom"]
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


def lesions_of(sizes: list[tuple[int, int]]) -> SplitLabels:
    """Give labels of pictures of 4 tokens with a lesion of one token each; sizes are (picture, share in percent)."""
    n = 1 + max(picture for picture, _ in sizes)
    lesions = tuple(Lesion(np.array([0]), share / 100, share / 100, picture) for picture, share in sizes)
    none = np.zeros((n, 4), bool)
    names = tuple(f"p{i}" for i in range(n))
    return SplitLabels(none, none, None, np.arange(n), lesions, names, names, 2, 2)


def test_size_chooses_the_pictures_and_the_score_says_which_they_are():
    labels = lesions_of([(0, 1), (1, 2), (2, 3), (3, 4), (4, 9), (5, 3), (5, 3)])  # picture 5 has two lesions
    kept = np.zeros((6, 4), bool)
    kept[[0, 1, 4, 5], 0] = True
    found = nearest_to_the_median(kept, labels)
    assert found == {"kept": 1, "lost": 2}
    kept[:, 0] = True
    assert set(nearest_to_the_median(kept, labels)) == {"kept"}


def test_the_first_figure_shows_a_retained_and_a_missed_lesion_of_each_cohort():
    panels = list(panels_of(read_explorer(ROOT)))
    assert [(panel["cohort"], panel["retained"]) for panel in panels] == [
        *(("busi", True), ("busi", False), ("lidc-crops", True), ("lidc-crops", False))
    ]
    for panel in panels:
        drawn = views(panel, "pictures/")
        assert set(drawn) == set(VIEWS) and all(f"pictures/{panel['file']}" in svg for svg in drawn.values())
        assert drawn["kept"].count("h-14z") == 256 - panel["k"] == 192
        words = "retained" if panel["retained"] else "missed"
        assert f"{words}, {panel['lesion_tokens_kept']} of {len(panel['lesion_tokens'])} lesion tokens" in drawn["map"]
