"""The recommended score from one fit is what its parts are one by one."""

from dataclasses import replace

import numpy as np
import pytest
from stub_features import StubFeatures

from covtoken.errors import CovtokenError
from covtoken.scores.recipe import RECOMMENDED, Recipe, recommended
from covtoken.scores.recommended import direction_maps, direction_of, recommended_maps
from covtoken.scores.scorers import score_maps
from covtoken.subspace.direction import DirectionSettings

RECIPE = Recipe("direction", 2, True, 0.5, settings=DirectionSettings(3, 0.9, 1.0, 2))


def test_one_fit_gives_what_each_score_gives():
    bank, others = StubFeatures.of(12, prefix="b"), StubFeatures.of(3, prefix="q")
    found = recommended_maps(RECIPE, bank, others, with_head=True)
    alone = {
        "recommended": RECIPE,
        "rarity": Recipe("rarity", 3, True, 0.5),
        "direction_without_head": replace(RECIPE, scorer="direction_without_head"),
    }
    assert set(found) == set(alone)
    for name, recipe in alone.items():
        np.testing.assert_array_equal(found[name], score_maps(recipe, bank, others), err_msg=name)
    assert set(recommended_maps(RECIPE, bank, others, with_head=False)) == {"recommended", "rarity"}


def test_rounds_change_the_direction_and_other_scores_are_refused():
    bank, others = StubFeatures.of(12, prefix="b"), StubFeatures.of(3, prefix="q")
    plain = recommended_maps(replace(RECIPE, settings=DirectionSettings(3)), bank, others, with_head=False)
    assert (plain["recommended"] != recommended_maps(RECIPE, bank, others, with_head=False)["recommended"]).any()
    with pytest.raises(CovtokenError, match="pooled direction, got 'density'"):
        recommended_maps(Recipe("density", 2), bank, others, with_head=False)


@pytest.mark.parametrize("field", ["backbone", "weights_sha256", "preprocessing", "precision"])
def test_pictures_made_otherwise_are_refused_by_name(field):
    bank, others = StubFeatures.of(12, prefix="b").made(), StubFeatures.of(3, prefix="q").made(**{field: "other"})
    with pytest.raises(CovtokenError, match=f"{field}: the bank's have '.*', these 'other'"):
        recommended_maps(RECIPE, bank, others, with_head=False)
    fitted = direction_of(RECIPE, bank)
    with pytest.raises(CovtokenError, match=f"this direction does not fit .{field}: expected 'other'"):
        direction_maps(RECIPE, fitted, others)
    with pytest.raises(CovtokenError, match="block: expected 3, the direction has 2"):
        direction_maps(replace(RECIPE, block=3), fitted, bank)


def test_another_depth_reads_the_same_share_of_it():
    assert recommended(12) == RECOMMENDED
    assert (recommended(24).block, recommended(24).settings.target_block) == (12, 18)
    assert recommended(4).block == 2 and recommended(1).block == 1
