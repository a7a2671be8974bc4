"""Ablations say what D itself gives, the rule is the stated one, and the recommended recipe is what it gives."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from stub_features import StubFeatures

from covtoken.bank.pooling import pool3x3, smooth
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import Lesion, SplitLabels
from covtoken.evaluation.stats import auroc, image_auroc
from covtoken.paper.pages.studies import note, table_rows
from covtoken.paper.tables.studies import WORDS, factorial_table, ranking_table, single_table, value_text
from covtoken.paths import project_root
from covtoken.protocol.report import committed_reports
from covtoken.scores.recipe import RECOMMENDED, Recipe
from covtoken.scores.scorers import score_maps
from covtoken.studies import ablation
from covtoken.subspace.direction import Direction, DirectionSettings

RECORDED = [c for c in ablation.recipe_cohorts() if (project_root() / "gate_reports" / c / "ablation.json").is_file()]


@pytest.fixture(scope="module")
def splits():
    bank, selection = StubFeatures.of(12, 3), StubFeatures.of(4, 2, prefix="v")
    lesion = torch.zeros(8, 20, dtype=torch.bool).numpy()
    lesion[:6, 7:9] = True
    ignore = np.zeros_like(lesion)
    ignore[:, 3] = True
    lesions = tuple(Lesion(np.array([7, 8]), 1.0, 0.1, i) for i in range(6))
    labels = SplitLabels(lesion, ignore, None, np.arange(8) // 2, lesions, tuple("abcd"), (), 4, 5)
    return bank, selection, labels


@pytest.fixture(scope="module")
def found(splits):
    return ablation.ablate(*splits, n_blocks=4, with_head=True)


def _values(maps, labels):
    keep = ~labels.ignore
    inside = np.nanmean(image_auroc(maps, labels.lesion, keep))
    return pytest.approx((auroc(maps[keep], labels.lesion[keep]), inside), abs=2e-6)


def _row(rows, **wanted):
    (row,) = [row for row in rows if all(row[k] == v for k, v in wanted.items())]
    return row["auroc"], row["image_auroc"]


def test_the_factorial_is_whole_and_each_variant_is_the_recipe(splits, found):
    bank, selection, labels = splits
    assert len(found["factorial"]) == 3 * 4 * 6 * 3  # blocks 2, 3, 4 of 4
    for block, quantile, ridge, sigma in ((2, 0.9, 10.0, 0.5), (4, 0.8, 0.3, 1.0), (3, 0.95, 100.0, 0.0)):
        recipe = Recipe("direction", block, True, sigma, settings=DirectionSettings(3, quantile, ridge))
        got = _row(found["factorial"], block=block, quantile=quantile, ridge=ridge, sigma=sigma)
        assert got == _values(score_maps(recipe, bank, selection), labels)


def test_one_setting_at_a_time(splits, found):
    bank, selection, labels = splits
    single = found["single"]
    assert found["default"] | {"block": 2, "target_block": 3, "ridge": 1.0} == found["default"]
    default = _row(found["factorial"], block=2, quantile=0.9, ridge=1.0, sigma=0.5)
    for name in ("block", "target_block", "quantile", "ridge", "pooled", "sigma", "size", "share", "key", "head"):
        assert _row(single, setting=name, value=found["default"][name]) == default
        assert {row["value"] for row in single if row["setting"] == name} == set(found["ladder"][name])

    def scored(fitted, pool=True, of=selection):
        z = pool3x3(of.tokens(2), 4, 5) if pool else of.tokens(2)
        return _values(smooth(fitted.score(z).numpy(), 4, 5, 0.5), labels)

    other = Direction.fit(bank, 2, DirectionSettings(3, ridge=1.0), key="covtoken-ablation-1")
    assert _row(single, setting="key", value="covtoken-ablation-1") == scored(other)
    assert _row(single, setting="target_block", value=2) == scored(
        Direction.fit(bank, 2, DirectionSettings(2, ridge=1.0))
    )
    quarter = ablation._share_of(bank, 0.25)
    assert len(set(quarter.units)) == 3 and len(quarter) == 9
    assert _row(single, setting="share", value=0.25) == scored(
        Direction.fit(quarter, 2, DirectionSettings(3, ridge=1.0))
    )
    head = Direction.fit_target(bank, 2, bank.saliency())
    plain = Direction.fit(bank, 2, DirectionSettings(3, ridge=1.0)).without(head)
    assert _row(single, setting="head", value=ablation.HEADS[1]) == scored(plain)
    known = {(row["setting"], row["value"]) for row in single if row["value"] != found["default"][row["setting"]]}
    inside = {("block", 3), ("block", 4)} | {(n, v) for n, v in known if n in ("quantile", "ridge", "sigma", "rounds")}
    rounds = [row for row in found["rounds"] if row["rounds"]]
    assert len(rounds) == 2 * 3 * 3 and found["n_variants"] == len(found["factorial"]) + len(rounds) + len(
        known - inside
    )
    again = Direction.fit(bank, 2, DirectionSettings(3, ridge=1.0, rounds=2))
    assert _row(single, setting="rounds", value=2) == scored(again) != default and again.header["rounds"] == 2


def test_the_search_runs_once_a_target(splits, found, monkeypatch):
    seen, real = [], ablation._rarity
    monkeypatch.setattr(ablation, "_rarity", lambda bank, v: (seen.append(v), real(bank, v))[1])
    monkeypatch.setattr(ablation, "QUANTILES", (0.9,))  # fewer, for speed
    monkeypatch.setattr(ablation, "RIDGES", (1.0,))
    again = ablation.ablate(*splits, n_blocks=4, with_head=True)
    rows = [row for row in found["single"] if row["value"] in again["ladder"][row["setting"]]]
    assert again["single"] == rows, "an ablation is deterministic"
    assert len(seen) == 1 + 2 + 2 + 2 + 2  # the default, two more targets, sizes, shares and keys


def _content(cohort, factorial, **changes):
    rows = [
        dict(zip(("block", "quantile", "ridge", "sigma", "auroc"), row)) | {"image_auroc": 0.5, "rounds": 0}
        for row in factorial
    ]
    content = {
        "schema": ablation.STUDY.schema, "split": "selection", "cohort": cohort, "backbone": "b", "n_blocks": 12,
        "n": {"units": 3, "images": 4, "bank_units": 5}, "n_variants": len(rows), "factorial": rows, "rounds": [],
        "default": {"target_block": 9, "block": 6}, "ladder": {"block": [6]},
        "single": [{"setting": "block", "value": 6, "auroc": 0.912345, "image_auroc": 0.9}],
        "provenance": {"weights_sha256": "w"},
    }  # fmt: skip
    return content | changes


def _write(tmp_path, by_row, **changes):
    """Both cohorts' files from {(block, quantile, ridge, σ): mean}; the cohorts differ by ± 0.01."""
    for cohort, off in zip(ablation.recipe_cohorts(), (0.01, -0.01), strict=True):
        rows = [(*key, mean + off) for key, mean in by_row.items()]
        ablation.STUDY.write(_content(cohort, rows), recorded=True, root=tmp_path)
    return tmp_path


def test_the_rule(tmp_path):
    best = {(7, 0.9, 1.0, 0.5): 0.99, (6, 0.9, 3.0, 1.0): 0.93, (5, 0.9, 1.0, 0.5): 0.9279, (4, 0.8, 1.0, 0.0): 0.91}
    block, ranking = ablation.recommend(_write(tmp_path, best))
    assert block == 6, "block 7 is too late, block 5 just not tied"
    assert [row["tied"] for row in ranking] == [True, False, False] and len(ranking) == 3
    orders = [  # each later one wins over all before it
        ((6, 0.9, 3.0, 1.0), 0.9300),
        ((5, 0.8, 100.0, 1.0), 0.9281),
        ((5, 0.8, 100.0, 0.5), 0.9281),
        ((5, 0.8, 3.0, 0.5), 0.9281),
        ((5, 0.9, 3.0, 0.5), 0.9281),
    ]
    for n in range(1, len(orders) + 1):
        block, ranked = ablation.recommend(_write(tmp_path, dict(orders[:n])))
        first = tuple(ranked[0][name] for name in ("block", "quantile", "ridge", "sigma"))
        assert first == orders[n - 1][0] and block == first[0]
    assert ranking_table(ranking).row_count == 4


def test_what_does_not_belong_together_is_refused(tmp_path):
    with pytest.raises(CovtokenError, match="covtoken ablate --cohort busi --record"):
        ablation.recommend(tmp_path)
    _write(tmp_path, {(6, 0.9, 1.0, 0.5): 0.9})
    other = _content("busi", [(6, 0.9, 1.0, 0.5, 0.9)], backbone="c")
    ablation.STUDY.write(other, recorded=True, root=tmp_path)
    with pytest.raises(CovtokenError, match="other backbones"):
        ablation.recommend(tmp_path)
    path = ablation.STUDY.write(other | {"split": "test"}, recorded=True, root=tmp_path)
    with pytest.raises(CovtokenError, match="on the selection split"):
        ablation.STUDY.read("busi", tmp_path)
    path.write_text("{")
    with pytest.raises(CovtokenError, match="not readable as JSON"):
        ablation.STUDY.read("busi", tmp_path)


def test_tables_mark_the_default_and_name_every_setting(tmp_path, found):
    content = _content("busi", []) | found | {"cohort": "busi"}
    path = ablation.STUDY.write(content, recorded=False, root=tmp_path)
    assert path == tmp_path / "gate_reports" / "_run" / "busi" / "ablation.json"
    content = json.loads(path.read_text())  # keys are sorted there: the table's order is that of its rows
    assert set(WORDS) == set(found["ladder"])
    assert single_table(content).row_count == len(found["single"])
    assert factorial_table(content).row_count == 12
    rows = table_rows({"busi": content, "lidc-crops": _content("lidc-crops", [])})
    assert [row[0] for row in rows][:3] == [WORDS["block"]] * 3 and len(rows) == len(found["single"]) + 1
    assert sum("(default)" in row[1] for row in rows) == len(WORDS) + 1
    assert rows[0][4:] == ["–", "–"] and rows[-1][4:] == ["0.912", "0.900"]
    assert "selection split, 3 units" in note({"busi": content})
    assert (value_text("share", 0.25), value_text("size", 12000)) == ("25 %", "12 000")


def test_an_ablation_is_no_gate_report():
    assert all(str(report.gate) != "ablation" for report in committed_reports())


@pytest.mark.parametrize("cohort", RECORDED)
def test_recorded_ablations_are_of_the_selection_split_and_small(cohort):
    content = ablation.STUDY.read(cohort)
    assert content["split"] == "selection" and "no test split" in content["note"]
    assert (project_root() / "gate_reports" / cohort / "ablation.json").stat().st_size < 300_000
    assert content["default"] == asdict(ablation.default(content["n_blocks"]))
    assert len(content["factorial"]) == 7 * 4 * 6 * 3


def test_the_recommended_recipe_reads_the_block_that_the_rule_gives():
    missing = set(ablation.recipe_cohorts()) - set(RECORDED)
    if missing:
        pytest.skip(f"no ablation is recorded of {', '.join(sorted(missing))}")
    assert ablation.recommend()[0] == RECOMMENDED.block
