"""Run every score and baseline by one signature: features in, a map of T values a picture out. High means lesion.

``raw_maps`` is what costs; Gaussian smoothing and signs are cheap and come after it, so a search loops outside:

    for (block, pooled) in …: maps = raw_maps(scorer, block, pooled, bank, features)
        for σ in …: smooth(maps, rows, cols, σ)

A recipe (score, block, pooling, σ, sign) is chosen on the selection split, on the same grid for all (book/method.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from covtoken.bank.features import Block, Features
from covtoken.bank.pooling import smooth
from covtoken.bank.token_bank import check_alike, need_features
from covtoken.errors import CovtokenError, unknown
from covtoken.leak_guard import refuse_label_arrays, refuse_label_choice
from covtoken.scores import baselines, grids, memberships
from covtoken.scores.baselines import map_like
from covtoken.scores.in_organ import in_organ
from covtoken.scores.recipe import Recipe, Settings

SIGMAS = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Scorer:
    """A score by name.

    Attributes:
        needs: what features must carry, of ``tokens``, ``attention``, ``saliency``, ``pictures``, and ``bank`` where
            the score is fitted on the bank's pictures.
    """

    name: str
    needs: frozenset[str]
    maps: Callable[..., np.ndarray]  # (block, pooled, bank_features, features, seed, settings) -> [N, T]; ``raw_maps``
    grid: Callable[[int], list[dict]]  # n_blocks -> {block, pooled[, sign, settings]} to choose from; σ comes after


def raw_maps(
    scorer: str,
    block: Block | None,
    pooled: bool,
    bank_features: Features,
    features: Features,
    seed: int = 0,
    settings: Settings | None = None,
    other_size: bool = False,
) -> np.ndarray:
    """Score pictures with a score by name; unsmoothed maps [N, T] float32.

    Args:
        scorer: a name in ``SCORERS``.
        block: 1 … L or ``"norm"``; ignored by scores that need none.
        pooled: pool 3 × 3, tokens where the score reads tokens, else the map.
        bank_features: the bank's pictures, where the score needs a bank.
        features: the N pictures to score.
        seed: of the scores that draw.
        settings: see ``Recipe``.
        other_size: score pictures of another size than the bank's, refused otherwise, to measure what that does.

    Raises:
        LabelLeak: something like a label was handed in.
        CovtokenError: an unknown score, NaN in a map, or, where the score needs a bank, features that were made
            otherwise than the bank's (``check_alike``).
    """
    refuse_label_arrays(f"score {scorer!r}", bank_features, features)
    refuse_label_choice(f"score {scorer!r}", bank_features)
    needs = find(scorer).needs
    need_features(f"score {scorer!r}", features)
    if "bank" in needs:
        check_alike(bank_features, features, block, other_size)
    maps = np.asarray(find(scorer).maps(block, pooled, bank_features, features, seed, settings), dtype=np.float32)
    if maps.shape != (len(features), features.rows * features.cols) or not np.isfinite(maps).all():
        raise CovtokenError(f"score {scorer!r} at block {block} gave {maps.shape} with NaN or a wrong shape")
    return maps


def score_maps(
    recipe: Recipe, bank_features: Features, features: Features, seed: int = 0, other_size: bool = False
) -> np.ndarray:
    """Score pictures with a recipe: maps [N, T] float32, raw, smoothed, signed; errors as ``raw_maps``.

    >>> import torch
    >>> from covtoken import FeatureSet, RECOMMENDED
    >>> bank, pictures = (
    ...     FeatureSet.from_arrays({block: torch.randn(len(units), 16, 8) for block in (6, 9)}, 4, 4, units)
    ...     for units in ("abcdefghijkl", "xy")
    ... )
    >>> score_maps(RECOMMENDED, bank, pictures).shape
    (2, 16)
    """
    if not isinstance(recipe, Recipe):
        raise CovtokenError(f"score_maps takes a Recipe, such as covtoken.RECOMMENDED, got {recipe!r}")
    place = recipe.scorer, recipe.block, recipe.pooled
    maps = raw_maps(*place, bank_features, features, seed, recipe.settings, other_size)
    return recipe.sign * smooth(maps, features.rows, features.cols, recipe.sigma)


def choices(scorer: str, n_blocks: int) -> list[Recipe]:
    """List the recipes of a score that may be chosen on the selection split of a backbone with L = ``n_blocks``."""
    return [Recipe(scorer, sigma=sigma, **place) for place in find(scorer).grid(n_blocks) for sigma in SIGMAS]


def find(scorer: str) -> Scorer:
    """Look up a score; an unknown name raises CovtokenError with the closest names."""
    if scorer not in SCORERS:
        raise unknown("score", scorer, sorted(SCORERS))
    return SCORERS[scorer]


_TABLE = (
    ("density", "tokens bank", memberships.density, grids.middle),
    ("residual", "tokens bank", memberships.residual, grids.middle),
    ("rarity", "tokens bank", memberships.rarity, grids.middle),
    ("direction", "tokens bank", memberships.linear("direction"), grids.directions),
    ("consensus", "tokens bank", memberships.linear("consensus"), grids.consensus),
    ("without_head", "tokens bank saliency", memberships.linear("without_head"), grids.consensus),
    ("centre_prior", "", map_like(baselines.centre_prior), grids.blockless),
    ("attention", "attention", map_like(baselines.attention), grids.middle_to_last),
    ("attention_last", "attention", map_like(baselines.attention), grids.last),
    ("token_norm", "tokens", baselines.token_norm, grids.middle),
    ("token_norm_centred", "tokens bank", baselines.token_norm_centred, grids.middle),
    ("intensity", "pictures", map_like(baselines.intensity), grids.both_signs),
    ("variance", "pictures", map_like(baselines.variance), grids.blockless),
    ("patchcore", "tokens bank", baselines.patchcore, grids.pairs),
    ("musc", "tokens bank", baselines.musc, grids.middle),
    ("random", "", map_like(baselines.random), grids.blockless),
    ("saliency_head", "saliency", map_like(baselines.saliency_head), grids.blockless),
    ("head_student", "tokens bank saliency", memberships.head_student, grids.from_a_third),
    ("in_organ", "tokens bank saliency", in_organ, grids.in_organ),
)
SCORERS: dict[str, Scorer] = {
    name: Scorer(name, frozenset(needs.split()), maps, grid) for name, needs, maps, grid in _TABLE
}
