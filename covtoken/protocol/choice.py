"""Choosing a recipe: the same grid for every score and baseline, pooled AUROC on the selection split, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from covtoken.bank.features import Block, Features
from covtoken.bank.pooling import smooth
from covtoken.evaluation.labels import SplitLabels
from covtoken.evaluation.stats import auroc
from covtoken.scores.recipe import Recipe
from covtoken.scores.scorers import choices, raw_maps


@dataclass(frozen=True)
class Choice:
    """The winning recipe of one scorer, its selection AUROC, and every variant that was looked at."""

    recipe: Recipe
    auroc: float
    table: tuple[dict, ...]


def choose(
    scorer: str,
    bank: Features,
    selection: Features,
    labels: SplitLabels,
    n_blocks: int,
    blocks: Sequence[Block] = (),
    seed: int = 0,
) -> Choice:
    """The recipe of ``scorer`` that maximises pooled token AUROC on the selection split (first of equals).

    Args:
        bank, selection: FeatureSets of the two splits, disjoint by unit.
        labels: the selection split's token labels [N, T].
        n_blocks: L of the backbone; the grid takes its middle blocks from it.
        blocks: further blocks to look at, reported in the table but never chosen (final block, early blocks).

    Returns:
        the choice; its table has a row ``{scorer, block, pooled, sigma, sign, auroc}`` for each variant.
    """
    grid = choices(scorer, n_blocks)
    eligible = {(r.block, r.pooled) for r in grid}
    extra = [
        Recipe(scorer, block, False, 0.0) for block in blocks if block is not None and (block, False) not in eligible
    ]
    keep = ~labels.ignore
    rows, winner, best = [], None, -np.inf
    ordered = sorted(grid, key=_group) + extra
    for (_, pooled), members in groupby(ordered, key=_group):
        members = list(members)
        maps = raw_maps(scorer, members[0].block, pooled, bank, selection, seed=seed, settings=members[0].settings)
        for recipe in members:
            smoothed = smooth(maps, selection.rows, selection.cols, recipe.sigma) * recipe.sign
            value = auroc(smoothed[keep], labels.lesion[keep])
            rows.append(
                {
                    "scorer": scorer,
                    "block": recipe.block,
                    "pooled": recipe.pooled,
                    "sigma": recipe.sigma,
                    "sign": recipe.sign,
                    "auroc": value,
                }
            )
            if (recipe.block, recipe.pooled) in eligible and value > best:
                winner, best = recipe, value
    return Choice(winner, best, tuple(rows))


def _group(recipe: Recipe) -> tuple[str, bool]:
    return f"{recipe.block:>04}" if isinstance(recipe.block, int) else str(recipe.block), recipe.pooled
