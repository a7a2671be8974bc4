"""Choose a recipe: the same grid for every score and baseline, by pooled AUROC on the selection split alone."""

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
    """The winning recipe of a scorer, its selection AUROC, and a table of every variant tried."""

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
    """Choose the recipe of ``scorer`` that maximises pooled token AUROC on the selection split (first of equals).

    Args:
        bank: features of the bank split.
        selection: features of the selection split, disjoint from the bank by unit.
        labels: the selection split's token labels [N, T].
        n_blocks: L of the backbone, which gives the grid its middle blocks.
        blocks: further blocks (final or early) for the table, never chosen.

    Returns:
        the choice; its table has a row ``{scorer, block, pooled, sigma, sign, auroc}`` for each variant.
    """
    grid = choices(scorer, n_blocks)
    eligible = {(r.block, r.pooled) for r in grid}
    extra = [Recipe(scorer, b, False, 0.0) for b in blocks if b is not None and (b, False) not in eligible]
    keep = ~labels.ignore
    rows, winner, best = [], None, -np.inf
    for (_, pooled), members in groupby(sorted(grid, key=_group) + extra, key=_group):
        members = list(members)
        maps = raw_maps(scorer, members[0].block, pooled, bank, selection, seed=seed, settings=members[0].settings)
        for recipe in members:
            smoothed = smooth(maps, selection.rows, selection.cols, recipe.sigma) * recipe.sign
            value = auroc(smoothed[keep], labels.lesion[keep])
            setting = {name: getattr(recipe, name) for name in ("block", "pooled", "sigma", "sign")}
            rows.append({"scorer": scorer, **setting, "auroc": value})
            if (recipe.block, recipe.pooled) in eligible and value > best:
                winner, best = recipe, value
    return Choice(winner, best, tuple(rows))


def _group(recipe: Recipe) -> tuple[str, bool]:
    return f"{recipe.block:>04}" if isinstance(recipe.block, int) else str(recipe.block), recipe.pooled
