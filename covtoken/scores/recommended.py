"""Score by the recipes that no cohort chooses, from one search of the bank: C−, C, D, PN, and the rivals of C−.

Each is a score of its own in ``scorers``; run one by one they would search the bank many times for the same rarity.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial

import numpy as np
import torch

from covtoken.bank.features import Features
from covtoken.bank.pooling import smooth
from covtoken.bank.token_bank import check_alike, check_fits, need_features
from covtoken.errors import CovtokenError
from covtoken.leak_guard import construction, refuse_label_arrays, refuse_label_choice
from covtoken.scores.memberships import fit, rarity_of, token_maps
from covtoken.scores.recipe import Recipe
from covtoken.subspace.direction import Direction
from covtoken.subspace.rarity import RaritySubspace

LINEAR = ("consensus", "direction", "without_head")


def fixed_maps(recipes: Mapping[str, Recipe], bank_features: Features, features: Features) -> dict[str, np.ndarray]:
    """Score by recipes of directions and of rarity, the search shared: maps [N, T] float32 by name.

    The same numbers as ``score_maps`` gives of each recipe.

    Args:
        recipes: by name, of the scores ``LINEAR`` and ``rarity``.
        bank_features: the bank's pictures.
        features: the pictures to score.

    Raises:
        LabelLeak: something like a label was handed in.
        CovtokenError: a recipe of another score, or pictures whose features were made otherwise than the bank's.
    """
    refuse_label_arrays("the recommended score", features)
    rarity_at, out = cache(partial(rarity_of, bank_features)), {}
    for name, recipe in recipes.items():
        _check(recipe, bank_features, (*LINEAR, "rarity"))
        check_alike(bank_features, features, recipe.block)
        with construction("the recommended score"):
            if recipe.scorer == "rarity":
                reference, _ = rarity_at(recipe.block)
                score = partial(_rarity, reference, reference.bank.unit_ids(features.units))
            else:
                score = partial(_linear, fit(recipe.scorer, recipe.block, bank_features, recipe.settings, rarity_at))
        maps = token_maps(score, recipe.block, True, features)
        out[name] = _finished(maps, recipe, features)
    return out


def direction_of(recipe: Recipe, bank_features: Features) -> Direction:
    """Fit the recommended recipe's direction once, for pictures that come later (``direction_maps``).

    >>> from covtoken import FeatureSet, RECOMMENDED
    >>> tokens = {block: torch.randn(12, 16, 8) for block in (6, 9)}
    >>> features = FeatureSet.from_arrays(tokens, rows=4, cols=4, units="abcdefghijkl")
    >>> direction = direction_of(RECOMMENDED, features)
    >>> direction.header["block"], direction_maps(RECOMMENDED, direction, features).shape
    (6, (12, 16))

    Raises:
        LabelLeak: something like a label was handed in.
        CovtokenError: a recipe of another score.
    """
    _check(recipe, bank_features)
    with construction("the recommended score"):
        return fit(recipe.scorer, recipe.block, bank_features, recipe.settings)


def direction_maps(recipe: Recipe, fitted: Direction, features: Features) -> np.ndarray:
    """Score pictures by a direction that was fitted before: the recommended maps [N, T] float32.

    Raises:
        LabelLeak: something like a label was handed in.
        CovtokenError: a direction of another block, or of features that were made otherwise (``check_fits``).
    """
    refuse_label_arrays("the recommended score", features)
    need_features("the recommended score", features)
    check_fits(fitted, features, block=recipe.block, pooled=True)
    return _finished(token_maps(partial(_linear, fitted), recipe.block, True, features), recipe, features)


def _linear(fitted: Direction, tokens: torch.Tensor, part: slice) -> torch.Tensor:
    return fitted.score(tokens)


def _rarity(reference: RaritySubspace, units: np.ndarray, tokens: torch.Tensor, part: slice) -> torch.Tensor:
    return reference.score(tokens, units[part])


def _finished(maps: np.ndarray, recipe: Recipe, features: Features) -> np.ndarray:
    if not np.isfinite(maps).all():
        raise CovtokenError(
            f"score {recipe.scorer!r} at block {recipe.block} gave NaN: check the weights and the pictures"
        )
    return recipe.sign * smooth(maps, features.rows, features.cols, recipe.sigma)


def _check(recipe: Recipe, bank_features: Features, scorers: tuple[str, ...] = LINEAR) -> None:
    refuse_label_arrays("the recommended score", bank_features)
    refuse_label_choice("the recommended score", bank_features)
    if recipe.scorer not in scorers or not recipe.pooled:
        raise CovtokenError(f"the recommended score is a direction on pooled tokens, got {recipe.scorer!r}")
