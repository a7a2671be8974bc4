"""What is chosen on a selection split is the best there; the threshold is the strongest baseline's."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stub_features import StubFeatures, stub_labels

from covtoken.data.cohorts import open_cohort
from covtoken.evaluation.labels import label
from covtoken.protocol.choice import choose
from covtoken.protocol.plan import SEARCHING
from covtoken.protocol.planning import make_plan
from covtoken.protocol.setting import Setting

VIT = SimpleNamespace(name="stub", n_blocks=4, has_saliency_head=False)


LESIONS: dict[str, np.ndarray] = {}  # by picture; outside of the features, for the leak guard knows a label


class Planted(StubFeatures):
    """Features in which one baseline sees the lesions and all else is noise."""

    where = ""

    def seen(self):
        return torch.from_numpy(np.stack([LESIONS[name] for name in self.names])).float()

    def attention(self, block):
        noise = super().attention(block)
        return noise + self.seen() if (self.where, block) == ("attention", 3) else noise

    def intensity(self):
        noise = super().intensity()
        return noise - 9 * self.seen() if self.where == "intensity" else noise


def planted(names, lesion, where) -> Planted:
    LESIONS.update(zip(names, lesion, strict=True))
    features = Planted(names)
    features.where = where
    return features


@pytest.fixture(scope="module")
def bank():
    return StubFeatures.of(12, prefix="b")


def test_the_block_that_sees_the_lesion_is_chosen(bank):
    labels = stub_labels()
    pictures = planted([f"q{u}/{i}" for u in range(4) for i in range(2)], labels.lesion, "attention")
    choice = choose("attention", bank, pictures, labels, 4)
    assert choice.recipe.block == 3 and choice.auroc == max(row["auroc"] for row in choice.table)
    assert choice.auroc > max(row["auroc"] for row in choice.table if row["block"] != 3)


def test_the_sign_that_finds_the_lesion_is_chosen(bank):
    labels = stub_labels()
    pictures = planted([f"q{u}/{i}" for u in range(4) for i in range(2)], labels.lesion, "intensity")
    choice = choose("intensity", bank, pictures, labels, 4)
    assert choice.recipe.sign == -1 and choice.auroc == max(row["auroc"] for row in choice.table) > 0.9


@pytest.mark.parametrize(("where", "name"), [("attention", "attention_best"), ("intensity", "intensity")])
def test_the_threshold_is_what_the_strongest_simple_baseline_reaches(where, name):
    cohort = open_cohort("phantom", n=60)

    class InMemory(Setting):
        def features(self, cases, *others, **more):
            names = [f"{case.unit}/{case.name}" for case in cases]
            return planted(names, label(cases, cohort, 4, 5).lesion, where)

    plan = make_plan(InMemory(cohort, "selection", VIT))
    renamed = {"attention": "attention_best", "token_norm_centred": "token_norm"}
    best: dict[str, float] = {}
    for row in plan.table:
        scorer = renamed.get(row["scorer"], row["scorer"])
        best[scorer] = max(best.get(scorer, 0), row["auroc"])
    simple = {scorer: value for scorer, value in best.items() if scorer not in SEARCHING}
    assert max(simple, key=simple.get) == name and plan.reason.endswith(f": {name}")
    assert plan.threshold == round(simple[name], 4) and plan.threshold > sorted(simple.values())[-2]
    for scorer, value in best.items():
        recipe = plan.recipes[scorer]
        here = [row["auroc"] for row in plan.table if renamed.get(row["scorer"], row["scorer"]) == scorer]
        assert value == max(here) and recipe is not None
    assert not plan.locked
