"""O is its two parts in the bank's own units; its variants are its recipes; the rule is the stated one."""

import json

import numpy as np
import pytest
import torch
from stub_features import StubFeatures, stub_labels

from covtoken.bank.pooling import smooth
from covtoken.bank.token_bank import build_bank
from covtoken.data.case import Case, Cohort
from covtoken.errors import CovtokenError
from covtoken.evaluation.stats import auroc
from covtoken.paper.tables.studies import in_organ_table
from covtoken.paths import project_root
from covtoken.protocol.report import committed_reports, report_path
from covtoken.scores.recipe import IN_ORGAN, InOrganSettings, Recipe, in_organ
from covtoken.scores.scorers import raw_maps, score_maps
from covtoken.studies import in_organ as choice
from covtoken.studies.ablation import recipe_cohorts
from covtoken.subspace.density import DensitySubspace
from covtoken.subspace.direction import Direction

RECIPE = Recipe("in_organ", 3, False, 0.5, settings=InOrganSettings(2, 0.7))


@pytest.fixture(scope="module")
def both():
    return StubFeatures.of(6, 2), StubFeatures.of(4, 2, prefix="v")


def test_it_is_a_and_the_student_in_the_banks_own_units(both):
    bank, features = both
    fitted = DensitySubspace.fit(build_bank(bank, 3), rank=8)
    own = fitted.sparsity.double()
    density = (fitted.score(features.tokens(3)).double() - own.mean()) / own.std(correction=0)
    student = Direction.fit_target(bank, 2, bank.saliency(), False)
    said = student.score(bank.tokens(2)).double()
    head = (student.score(features.tokens(2)).double() - said.mean()) / said.std(correction=0)
    raw = raw_maps("in_organ", 3, False, bank, features, settings=InOrganSettings(2, 0.7))
    np.testing.assert_allclose(raw, density + 0.7 * head, atol=1e-4)
    np.testing.assert_allclose(score_maps(RECIPE, bank, features), smooth(raw, 4, 5, 0.5), atol=1e-6)


def test_recipes_of_another_form_are_refused(both):
    with pytest.raises(CovtokenError, match=r"takes InOrganSettings\(student_block, weight\)"):
        raw_maps("in_organ", 3, False, *both)


def test_the_heads_scale_and_offset_do_not_matter(both, monkeypatch):
    plain = score_maps(RECIPE, *both)
    logits = StubFeatures.saliency
    monkeypatch.setattr(StubFeatures, "saliency", lambda self: 40 * logits(self) - 7)
    np.testing.assert_allclose(score_maps(RECIPE, *both), plain, atol=1e-4)


def test_a_head_that_says_nothing_is_refused(both, monkeypatch):
    monkeypatch.setattr(StubFeatures, "saliency", lambda self: torch.zeros(len(self), 20))
    with pytest.raises(CovtokenError, match="nothing to fit a direction to"):
        score_maps(RECIPE, *both)


def test_another_depth_reads_the_same_share_of_it():
    assert in_organ(12) == IN_ORGAN
    assert in_organ(24).block == 18 and in_organ(24).settings == InOrganSettings(12, IN_ORGAN.settings.weight)


def test_a_row_is_the_recipe_and_weight_zero_is_a_alone(both):
    bank, features = both
    rows = choice.evaluate(bank, features, stub_labels(), n_blocks=4)
    assert len(rows) == 3 * (4 + 1) * 3  # blocks 2, 3, 4; weights and none; σ
    for block, weight, sigma in ((3, 0.5, 0.5), (4, 2.0, 0.0)):
        (row,) = [r for r in rows if (r["block"], r["weight"], r["sigma"]) == (block, weight, sigma)]
        maps = score_maps(Recipe("in_organ", block, False, sigma, settings=InOrganSettings(2, weight)), bank, features)
        assert row["auroc"] == pytest.approx(auroc(maps.ravel(), stub_labels().lesion.ravel()), abs=2e-6)
    (alone,) = [r for r in rows if (r["block"], r["weight"], r["sigma"]) == (3, 0.0, 1.0)]
    density = score_maps(Recipe("density", 3, False, 1.0), bank, features)
    assert alone["auroc"] == pytest.approx(auroc(density.ravel(), stub_labels().lesion.ravel()), abs=2e-6)


def _write(root, values, weights="w", **other):
    """One table a recipe cohort: the second's values are 0.02 lower."""
    for i, cohort in enumerate(recipe_cohorts()):
        rows = [
            {"block": b, "weight": w, "sigma": s, "student_block": 6, "auroc": v - 0.02 * i, "image_auroc": 0.9}
            for (b, w, s), v in values.items()
        ]
        content = {"schema": choice.STUDY.schema, "cohort": cohort, "split": "selection", "variants": rows}
        content["provenance"] = {"weights_sha256": weights if i else "w"}
        path = choice.STUDY.write(content | other, recorded=True, root=root)
    return path


def test_the_rule_takes_the_best_mean_and_breaks_ties_by_cost(tmp_path):
    _write(tmp_path, {(9, 0.5, 0.5): 0.9, (8, 1.0, 1.0): 0.8985, (8, 0.5, 0.5): 0.8975, (8, 0.0, 0.5): 0.95})
    recipe, rows = choice.recommend(tmp_path)
    assert recipe == Recipe(
        "in_organ", 8, False, 1.0, settings=InOrganSettings(6, 1.0)
    )  # tied with 9; 0.0025 is no tie; A is no O
    assert [row["tied"] for row in rows] == [True, True, False, False]
    assert in_organ_table(rows).row_count == 4


def test_a_cohort_that_is_evaluated_whole_chooses_nothing():
    small = Cohort("tiny", "ultrasound", (Case("p0", "u0", "ultrasound", lambda: np.zeros((8, 8))),), {})
    with pytest.raises(CovtokenError, match=r"tiny has 1 units.*chooses nothing. Choose on busi or lidc-crops"):
        choice.run_in_organ(small, "random:vit_tiny_patch16_224")


def test_what_does_not_belong_together_is_refused(tmp_path):
    with pytest.raises(CovtokenError, match="covtoken in-organ --cohort busi --record"):
        choice.recommend(tmp_path)
    _write(tmp_path, {(9, 0.5, 0.5): 0.9}, weights="other")
    with pytest.raises(CovtokenError, match="other weights"):
        choice.recommend(tmp_path)
    path = _write(tmp_path, {(9, 0.5, 0.5): 0.9}, split="test")
    with pytest.raises(CovtokenError, match="on the selection split"):
        choice.recommend(tmp_path)
    path.write_text("[]")
    with pytest.raises(CovtokenError, match="on the selection split"):
        choice.STUDY.read(path.parent.name, tmp_path)
    path = _write(tmp_path, {(9, 0.5, 0.5): 0.9})
    path.write_text(path.read_text().replace("0.9", "0.95"))
    with pytest.raises(CovtokenError, match="edited by hand"):
        choice.STUDY.read(path.parent.name, tmp_path)
    path = _write(tmp_path, {})
    with pytest.raises(CovtokenError, match="holds no variants"):
        choice.STUDY.read(path.parent.name, tmp_path)
    path.write_text("[")
    with pytest.raises(CovtokenError, match="not readable as JSON"):
        choice.STUDY.read(path.parent.name, tmp_path)


def test_the_recipe_is_what_the_rule_gives_of_the_committed_tables():
    missing = [c for c in recipe_cohorts() if not report_path(c, "in_organ", recorded=True).is_file()]
    if missing:
        pytest.skip(f"no table is recorded of {', '.join(missing)}")
    assert choice.recommend()[0] == IN_ORGAN, "set IN_ORGAN to what `covtoken in-organ --choose` prints"
    content = json.loads((project_root() / "gate_reports" / "busi" / "in_organ.json").read_text())
    assert content["split"] == "selection" and "no test split" in content["note"]


def test_no_gate_report_is_mixed_up_with_a_table_and_gains_are_paired():
    reports = committed_reports()
    assert all(str(report.gate) != "in_organ" for report in reports)
    inside = [r for r in reports if r.gate == 1 and "organ_auroc.in_organ" in r.metrics]
    assert {r.cohort for r in inside} == {"phantom", "kits19", "lits"}  # those with organ masks
    for report in inside:
        values = {name: entry["value"] for name, entry in report.metrics.items()}
        gain = values["organ_auroc_gain.in_organ_minus_density"]
        assert gain == pytest.approx(values["organ_auroc.in_organ"] - values["organ_auroc.density"], abs=1e-6)
        recipe = Recipe.from_json(report.parameters["in_organ"])
        assert recipe == IN_ORGAN
