"""Score with D and two scores that explain it, from one fit: the PN its target is made of, D without the head.

Each is a score of its own in ``scorers``; run one by one they would search the bank three times for the same rarity.
"""

from __future__ import annotations

import numpy as np

from covtoken.bank.features import Features
from covtoken.bank.pooling import smooth
from covtoken.bank.token_bank import check_alike, check_fits, need_features
from covtoken.errors import CovtokenError
from covtoken.leak_guard import construction, refuse_label_arrays, refuse_label_choice
from covtoken.scores.memberships import token_maps
from covtoken.scores.recipe import Recipe
from covtoken.subspace.direction import Direction, bank_rarity, direction_moments, distilled, target_reference
from covtoken.subspace.erasure import without_linear


def recommended_maps(
    recipe: Recipe, bank_features: Features, features: Features, with_head: bool
) -> dict[str, np.ndarray]:
    """Score ``recommended``, ``rarity`` and, ``with_head``, ``direction_without_head``: maps [N, T] float32.

    The same numbers as ``score_maps`` gives of each recipe.

    Args:
        recipe: of the score ``direction``.
        bank_features: the bank's pictures.
        features: the pictures to score.
        with_head: whether the features carry the saliency head's logits.

    Raises:
        LabelLeak: something like a label was handed in.
        CovtokenError: a recipe of another score, or pictures whose features were made otherwise than the bank's.
    """
    refuse_label_arrays("the recommended score", features)
    _check(recipe, bank_features)
    check_alike(bank_features, features, recipe.block)
    target_block = recipe.settings.target_block
    with construction("the recommended score"):
        reference = target_reference(bank_features, target_block)
        rarity = bank_rarity(bank_features, reference)
        fitted = distilled(bank_features, recipe.block, reference, rarity, recipe.settings)
    units = reference.bank.unit_ids(features.units)
    raw = {
        "recommended": token_maps(lambda z, part: fitted.score(z), recipe.block, True, features),
        "rarity": token_maps(lambda z, part: reference.score(z, units[part]), target_block, True, features),
    }
    if with_head:
        head = direction_moments(bank_features, recipe.block, bank_features.saliency())
        erased = without_linear(fitted, head, target="saliency logit")
        raw["direction_without_head"] = token_maps(lambda z, part: erased.score(z), recipe.block, True, features)
    for name, maps in raw.items():
        if not np.isfinite(maps).all():
            raise CovtokenError(f"score {name!r} at block {recipe.block} gave NaN: check the weights and the pictures")
    return {name: recipe.sign * smooth(maps, features.rows, features.cols, recipe.sigma) for name, maps in raw.items()}


def direction_of(recipe: Recipe, bank_features: Features) -> Direction:
    """Fit the recommended recipe's direction once, for pictures that come later (``direction_maps``).

    Raises:
        LabelLeak: something like a label was handed in.
        CovtokenError: a recipe of another score.
    """
    _check(recipe, bank_features)
    return Direction.fit(bank_features, recipe.block, recipe.settings)


def direction_maps(recipe: Recipe, fitted: Direction, features: Features) -> np.ndarray:
    """Score pictures by a direction that was fitted before: the recommended maps [N, T] float32.

    Raises:
        LabelLeak: something like a label was handed in.
        CovtokenError: a direction of another block, or of features that were made otherwise (``check_fits``).
    """
    refuse_label_arrays("the recommended score", features)
    need_features("the recommended score", features)
    check_fits(fitted, features, block=recipe.block, pooled=True)
    maps = token_maps(lambda z, part: fitted.score(z), recipe.block, True, features)
    if not np.isfinite(maps).all():
        raise CovtokenError(f"the direction at block {recipe.block} gave NaN: check the weights and the pictures")
    return recipe.sign * smooth(maps, features.rows, features.cols, recipe.sigma)


def _check(recipe: Recipe, bank_features: Features) -> None:
    refuse_label_arrays("the recommended score", bank_features)
    refuse_label_choice("the recommended score", bank_features)
    if recipe.scorer != "direction" or not recipe.pooled:
        raise CovtokenError(f"the recommended score is the pooled direction, got {recipe.scorer!r}")
