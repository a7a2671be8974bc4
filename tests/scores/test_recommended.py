"""The recommended score from one fit is what its parts are one by one."""

from dataclasses import replace

import numpy as np
import pytest
from stub_features import StubFeatures

from covtoken.errors import CovtokenError
from covtoken.scores.recipe import FIXED, RECOMMENDED, Recipe, fixed_recipes, recommended
from covtoken.scores.recommended import direction_maps, direction_of, fixed_maps
from covtoken.scores.scorers import score_maps
from covtoken.subspace.consensus import ConsensusSettings

RECIPE = Recipe("consensus", 2, True, 0.5, settings=ConsensusSettings(target_block=3, attention_block=4))
RECIPES = fixed_recipes(4, True)


def test_one_search_gives_what_each_score_gives():
    bank, others = StubFeatures.of(12, prefix="b"), StubFeatures.of(3, prefix="q")
    found = fixed_maps(RECIPES, bank, others)
    assert list(found) == list(RECIPES) and {*FIXED, "rarity", "without_head"} == set(RECIPES)
    for name, recipe in RECIPES.items():
        np.testing.assert_array_equal(found[name], score_maps(recipe, bank, others), err_msg=name)
    assert len({maps.tobytes() for maps in found.values()}) == len(found), "each is a score of its own"


def test_without_a_head_no_recipe_reads_it():
    assert set(RECIPES) - set(fixed_recipes(4, False)) == {"with_head", "attention_head_fit", "without_head"}


def test_rounds_change_the_direction_and_other_scores_are_refused():
    bank, others = StubFeatures.of(12, prefix="b"), StubFeatures.of(3, prefix="q")
    once = replace(RECIPE, settings=replace(RECIPE.settings, rounds=0))
    made = fixed_maps({"once": once, "twice": RECIPE}, bank, others)
    assert (made["once"] != made["twice"]).any()
    with pytest.raises(CovtokenError, match="direction on pooled tokens, got 'density'"):
        fixed_maps({"density": Recipe("density", 2)}, bank, others)


@pytest.mark.parametrize("field", ["backbone", "weights_sha256", "preprocessing", "precision"])
def test_pictures_made_otherwise_are_refused_by_name(field):
    bank, others = StubFeatures.of(12, prefix="b").made(), StubFeatures.of(3, prefix="q").made(**{field: "other"})
    with pytest.raises(CovtokenError, match=f"{field}: the bank's have '.*', these 'other'"):
        fixed_maps({"recommended": RECIPE}, bank, others)
    fitted = direction_of(RECIPE, bank)
    with pytest.raises(CovtokenError, match=f"this direction does not fit .{field}: expected 'other'"):
        direction_maps(RECIPE, fitted, others)
    with pytest.raises(CovtokenError, match="block: expected 3, the direction has 2"):
        direction_maps(replace(RECIPE, block=3), fitted, bank)


def test_another_depth_reads_the_same_share_of_it():
    assert recommended(12) == RECOMMENDED
    deep = recommended(24)
    assert (deep.block, deep.settings.target_block, deep.settings.attention_block) == (12, 18, 22)
    assert recommended(4).block == 2 and recommended(1).block == 1
