"""The recipe is chosen over banks of many sizes: the rows are the recipes, the rule is the stated one."""

import json
from dataclasses import astuple
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from stub_features import StubFeatures, stub_labels

from covtoken.errors import CovtokenError
from covtoken.evaluation.stats import auroc
from covtoken.paper.pages.studies import bank_rows, compared
from covtoken.paper.tables.studies import banks_table
from covtoken.paths import project_root
from covtoken.protocol.chain import digest_of
from covtoken.scores.recipe import FIXED, Recipe
from covtoken.scores.scorers import score_maps
from covtoken.studies import banks as choice
from covtoken.studies.ablation import recipe_cohorts
from covtoken.subspace.consensus import ConsensusSettings
from covtoken.subspace.direction import DirectionSettings


def test_a_row_is_the_recipe_that_it_names(monkeypatch):
    for name, values in (
        ("INSIDES", (0.0, 0.5)),
        ("QUANTILES", (0.8,)),
        ("RIDGES", (3.0,)),
        ("COMPONENTS", ("none", "peak")),
    ):
        monkeypatch.setattr(choice, name, values)
    bank, selection, labels = StubFeatures.of(12, prefix="b"), StubFeatures.of(4, 2, prefix="q"), stub_labels()
    sources = ("rarity", "attention", "rarity+head")
    rows = choice.evaluate(bank, selection, labels, sources, 2, 3, 4)
    assert len(rows) == len(sources) * 2 * 1 * 1 * 2 * 2 * 2
    for row in rows:
        settings = DirectionSettings(3, row["quantile"], row["ridge"], row["rounds"], row["inside"])
        recipe = Recipe("direction", 2, True, row["sigma"], settings=settings)
        if (row["component"], row["sources"]) != ("none", "rarity"):
            consensus = ConsensusSettings(row["sources"], *astuple(settings), row["component"], 4)
            recipe = Recipe("consensus", 2, True, row["sigma"], settings=consensus)
        maps = score_maps(recipe, bank, selection)
        assert row["auroc"] == pytest.approx(auroc(maps.ravel(), labels.lesion.ravel()), abs=1e-6)
        inside = [auroc(m, lesion) for m, lesion in zip(maps, labels.lesion) if lesion.any()]
        assert row["image_auroc"] == pytest.approx(np.mean(inside), abs=1e-6)
    assert len({row["auroc"] for row in rows}) > 4


def test_banks_are_shares_of_the_units_and_the_whole_bank_comes_once():
    bank = StubFeatures.of(40, 2)
    found = [(share, key, set(part.units), len(part)) for share, key, part in choice.banks_of(bank)]
    assert [share for share, *_ in found] == [s for s in choice.SHARES for _ in (choice.KEYS if s < 1 else (0,))]
    for share, _, units, pictures in found:
        assert len(units) == max(2, round(share * 40)) and pictures == 2 * len(units)
    assert all(a[2] != b[2] for a, b in zip(found[:-1:2], found[1:-1:2])), "two keys, two banks"


def _content(cohort, means, **changes):
    """A table in which every variant has its mean with one bank, 0.02 more with a second, as much less with a third."""
    offs = (0.0, 0.02, -0.02)
    variants = [
        dict(zip(choice.FIELDS, ("rarity", *key)))
        | {"auroc": [mean + off for off in offs], "image_auroc": [mean - off for off in offs]}
        for key, mean in means.items()
    ]
    banks = [{"share": share, "key": "k", "units": 10} for share in (1.0, 0.5, 0.2)]
    about = {"backbone": "b", "block": 6, "target_block": 9, "attention_block": 11, "banks": banks}
    about["provenance"] = {"weights_sha256": "w"}
    found = {"schema": choice.STUDY.schema, "cohort": cohort, "split": "selection", "variants": variants}
    return found | about | changes


def _write(root, means, monkeypatch, block=6, **changes):
    monkeypatch.setattr(choice.ablation, "recommend", lambda root=None, cohorts=(): (block, []))
    about = {"provenance": {"weights_sha256": "w"}}
    monkeypatch.setattr(choice.ablation, "STUDY", SimpleNamespace(read=lambda cohort, root=None: about))
    for cohort in recipe_cohorts():
        found = _content(cohort, means, **(changes if cohort == recipe_cohorts()[-1] else {}))
        choice.STUDY.write(found, recorded=True, root=root)
    return root


def test_the_rule(tmp_path, monkeypatch):
    orders = [  # inside, quantile, ridge, rounds, σ: each later one wins over all before it
        ((0.75, 0.95, 3.0, 2, "none", 0.5), 0.9300),
        ((0.75, 0.95, 3.0, 2, "none", 0.0), 0.9281),
        ((0.75, 0.95, 1.0, 2, "none", 0.0), 0.9281),
        ((0.75, 0.90, 1.0, 2, "none", 0.0), 0.9281),
        ((0.75, 0.90, 1.0, 0, "none", 0.0), 0.9281),
        ((0.50, 0.90, 1.0, 0, "none", 0.0), 0.9281),
    ]
    behind = {(0.0, 0.9, 1.0, 0, "none", 0.0): 0.9279}
    for n in range(1, len(orders) + 1):
        root = _write(tmp_path, behind | dict(orders[:n]), monkeypatch)
        recipe, ranking = choice.recommend(root, components=("none",))
        inside, quantile, ridge, rounds, _, sigma = orders[n - 1][0]
        assert recipe == Recipe(
            "direction", 6, True, sigma, settings=DirectionSettings(9, quantile, ridge, rounds, inside)
        )
        assert sum(row["tied"] for row in ranking) == n and ranking[-1]["inside"] == 0.0
    assert ranking[0]["busi"]["lowest"] == pytest.approx(0.9281 - 0.02)
    assert banks_table(ranking).row_count == len(ranking)


def test_one_component_is_chosen_among_all_rules_and_loses_ties_to_none(tmp_path, monkeypatch):
    means = {(0.75, 0.93, 1.0, 2, rule, 0.5): mean for rule, mean in (("none", 0.92), ("peak", 0.93), ("mass", 0.93))}
    root = _write(tmp_path, means, monkeypatch)
    recipe, ranking = choice.recommend(root)
    settings = ConsensusSettings("rarity", 9, 0.93, 1.0, 2, 0.75, "peak")
    assert recipe == Recipe("consensus", 6, True, 0.5, settings=settings) and len(ranking) == 3
    d, alone = choice.recommend(root, components=("none",))
    assert d.scorer == "direction" and len(alone) == 1
    tied = _write(tmp_path, means | {(0.75, 0.93, 1.0, 2, "none", 0.5): 0.9281}, monkeypatch)
    assert choice.recommend(tied)[0].settings.component == "none"


def test_what_does_not_belong_together_is_refused(tmp_path, monkeypatch):
    means = {(0.0, 0.9, 1.0, 0, "none", 0.0): 0.9}
    with pytest.raises(CovtokenError, match="covtoken ablate --banks --cohort busi --record"):
        choice.recommend(tmp_path)
    other = _content("busi", {(0.5, 0.9, 1.0, 0, "none", 0.0): 0.9})["variants"]
    rekeyed = [bank | {"key": "another"} for bank in _content("busi", means)["banks"]]
    changes = ({"provenance": {"weights_sha256": "v"}}, {"backbone": "c"}, {"variants": other}, {"banks": rekeyed})
    for changed in changes:
        with pytest.raises(CovtokenError, match="record them alike"):
            choice.recommend(_write(tmp_path, means, monkeypatch, **changed))
    _write(tmp_path, means, monkeypatch)
    other = {"provenance": {"weights_sha256": "other"}}
    monkeypatch.setattr(choice.ablation, "STUDY", SimpleNamespace(read=lambda cohort, root: other))
    with pytest.raises(CovtokenError, match="the ablations that the block comes from, are of other weights"):
        choice.recommend(tmp_path)
    with pytest.raises(CovtokenError, match="gives block 5, the tables of banks are of block 6"):
        choice.recommend(_write(tmp_path, means, monkeypatch, block=5))
    with pytest.raises(CovtokenError, match="holds no variants"):
        choice.recommend(_write(tmp_path, means, monkeypatch, variants=[]))


@pytest.mark.parametrize("name", choice.PLANNED)
def test_the_committed_tables_give_the_recipes(name):
    recipe, ranking = choice.recommend(None, (), *choice.PLANNED[name])
    assert recipe == FIXED[name], "set it to what `covtoken ablate --banks --choose` prints"
    rules, sources = choice.PLANNED[name]
    grid = (choice.INSIDES, choice.QUANTILES, choice.RIDGES, choice.ROUNDS, rules, choice.SIGMAS)
    assert {tuple(row[k] for k in choice.FIELDS) for row in ranking} == set(product((sources,), *grid))


def test_the_committed_tables_hold_every_source_and_bank():
    for cohort in recipe_cohorts():
        content = choice.STUDY.read(cohort)
        grid = (choice.INSIDES, choice.QUANTILES, choice.RIDGES, choice.ROUNDS, choice.COMPONENTS, choice.SIGMAS)
        assert len(content["variants"]) == len(choice.SOURCES) * np.prod([len(values) for values in grid])
        assert len(content["banks"]) == len(choice.KEYS) * (len(choice.SHARES) - 1) + 1
        values = [row[name] for row in content["variants"] for name in choice.MEASURES]
        assert np.isfinite(values).all() and np.shape(values)[1] == len(content["banks"])


def test_the_papers_table_has_the_mean_over_the_banks_of_a_share():
    contents = {cohort: choice.STUDY.read(cohort) for cohort in recipe_cohorts()}
    rows = bank_rows(contents)
    assert [row[0] for row in rows] == ["5 %", "10 %", "20 %", "50 %", "100 %"]
    assert all(len(row) == 1 + len(contents) * len(compared(contents)) for row in rows) and "–" not in rows[0]
    variant = dict(zip(choice.FIELDS, compared(contents)["C−"]))
    (row,) = [row for row in contents["busi"]["variants"] if all(row[k] == value for k, value in variant.items())]
    small = [i for i, bank in enumerate(contents["busi"]["banks"]) if bank["share"] == 0.05]
    pooled, inside = (np.mean([row[k][i] for i in small]) for k in ("auroc", "image_auroc"))
    assert len(small) == 2 and rows[0][1] == f"{pooled:.3f} / {inside:.3f}"


OLDER = {
    "busi/ablation": "0655ca48f9d11818",
    "lidc-crops/ablation": "d269d136e28a0410",
    "busi/in_organ": "163e249fa414ce19",
    "lidc-crops/in_organ": "a7c31298f6ea71bc",
}  # of the tables that carry no digest of their own yet


def test_committed_tables_are_as_they_were_recorded():
    """A table is recorded again, never edited: ``Study.read`` refuses one that does not fit its digest."""
    stems = ("ablation", "banks", "in_organ")
    tables = [path for stem in stems for path in project_root().glob(f"gate_reports/*/{stem}.json")]
    contents = {f"{path.parent.name}/{path.stem}": json.loads(path.read_text()) for path in tables}
    older = {name: digest_of(content) for name, content in contents.items() if "digest" not in content}
    assert len(contents) == 6 and all(OLDER[name] == digest[:16] for name, digest in older.items())
