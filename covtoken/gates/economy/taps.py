"""Score pictures at the taps of a route: ours and every rival at the same blocks, with what each compares a token with.

A tap lies at a quarter, a third or half of the model's depth. Directions that read block 6 are taught to the earlier
blocks; the others are refitted, or read, at the tap. The saliency head itself needs the whole pass: its student stands
for it.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import torch

from covtoken.bank.features import Features
from covtoken.bank.pooling import pool3x3, smooth
from covtoken.bank.token_bank import REFERENCE_SIZE, TokenBank, build_bank
from covtoken.economy.stages import Score
from covtoken.errors import CovtokenError
from covtoken.evaluation.records import to_float16
from covtoken.leak_guard import construction
from covtoken.protocol.plan import Plan
from covtoken.protocol.setting import SEED
from covtoken.scores.memberships import LOGIT, fit, rarity_of, token_maps
from covtoken.scores.recipe import Recipe, at_depth
from covtoken.scores.recommended import direction_maps
from covtoken.scores.scorers import score_maps
from covtoken.subspace.consensus import taught
from covtoken.subspace.density import sparsity
from covtoken.subspace.direction import Direction

DEPTHS = (3, 4, 6)  # of 12 blocks
TAP_SIGMA = 0.5  # of a score that was taught to an earlier block, in tokens
TAUGHT = ("recommended", "attention_fit", "attention_head_fit")
SEARCHED = {"density": REFERENCE_SIZE, "density_1000": 1_000}  # tokens that each token is compared with
OURS = ("recommended", "direction", *SEARCHED)
RIVALS = ("attention_best", "head_student", "centre_prior", "random")  # they search no bank: one sets the threshold
FITS = ("attention_fit", "attention_head_fit")  # C−'s fit on saliency: printed beside, and no threshold, as in gate 1
SCORES = (*OURS, *FITS, *RIVALS)


@dataclass(frozen=True, eq=False)
class Tap:
    """A score at a block: how its map is made, and what it costs.

    Attributes:
        recipe: pooling, smoothing and sign of the map.
        direction: fitted on the bank, where the score is one.
        bank: searched, where the score is A.
    """

    name: str
    block: int
    recipe: Recipe
    direction: Direction | None = None
    bank: TokenBank | None = None

    @property
    def key(self) -> str:
        """Name the score and its block, as records and metrics do."""
        return key_of(self.name, self.block)

    @property
    def n_compared(self) -> int:
        """Count the vectors that a token is compared with: of a direction one, of a search the bank's."""
        return 1 if self.direction is not None else 0 if self.bank is None else len(self.bank)

    @property
    def score(self) -> Score:
        """Give what a route's stage reads at the tap: the direction, or the search of the bank."""
        if self.direction is not None:
            return self.direction
        if self.bank is None:
            raise CovtokenError(f"{self.key} is no function of the tap's tokens: route by its maps")
        return self._search

    def _search(self, tokens: torch.Tensor) -> torch.Tensor:
        rows = math.isqrt(tokens.shape[1])
        pooled = pool3x3(tokens, rows, tokens.shape[1] // rows) if self.recipe.pooled else tokens
        return sparsity(pooled, self.bank)

    @property
    def header(self) -> dict:
        """Give the header of what was fitted or searched."""
        return (self.direction if self.direction is not None else self.bank).header

    def maps(self, bank_features: Features, features: Features) -> np.ndarray:
        """Score pictures: maps [N, T] float32, rounded to float16 as records keep them."""
        return to_float16(self.raw_maps(bank_features, features)).astype(np.float32)

    def raw_maps(self, bank_features: Features, features: Features) -> np.ndarray:
        """Score pictures: maps [N, T] float32 on the score's own scale."""
        if self.direction is not None:
            return direction_maps(self.recipe, self.direction, features)
        if self.bank is None:
            return score_maps(self.recipe, bank_features, features, seed=SEED)
        units = self.bank.unit_ids(features.units)
        raw = token_maps(lambda z, part: sparsity(z, self.bank, units[part]), self.block, self.recipe.pooled, features)
        return smooth(raw, features.rows, features.cols, self.recipe.sigma)


def key_of(name: str, block: int) -> str:
    """Name a score at a block: ``recommended.block3``."""
    return f"{name}.block{block}"


def blocks_of(n_blocks: int) -> list[int]:
    """List the taps of a model with L = ``n_blocks``."""
    return sorted({at_depth(depth, n_blocks) for depth in DEPTHS})


def needed_blocks(plan: Plan, n_blocks: int) -> tuple[list[int], list[int]]:
    """List the blocks whose tokens, and those whose attention, the taps and their teachers read."""
    recipes = [plan.recipes[name] for name in (*TAUGHT, "direction") if name in plan.recipes]
    tokens = {recipe.block for recipe in recipes} | {recipe.settings.target_block for recipe in recipes}
    attention = {getattr(recipe.settings, "attention_block", None) for recipe in recipes} - {None}
    taps = blocks_of(n_blocks)
    return sorted(tokens | set(taps)), sorted(attention | set(taps))


def fit_taps(
    plan: Plan,
    bank_features: Features,
    n_blocks: int,
    names: Iterable[str] = SCORES,
    keys: Container[str] | None = None,
) -> dict[str, Tap]:
    """Fit every score at every tap on the bank, by key; the bank is searched once.

    Args:
        keys: to fit (None: all).

    Raises:
        LabelLeak: something like a label was handed in.
    """
    rarity_at, found = cache(partial(rarity_of, bank_features)), {}
    for name in (name for name in names if name in SEARCHED or name in plan.recipes):
        recipe = plan.recipes["density" if name in SEARCHED else name]
        with construction("a tap's score"):
            teacher = None
            if name in TAUGHT:
                teacher = fit(recipe.scorer, recipe.block, bank_features, recipe.settings, rarity_at)
            wanted = (block for block in blocks_of(n_blocks) if keys is None or key_of(name, block) in keys)
            for block in wanted:
                tap = _tap(name, block, recipe, teacher, bank_features, rarity_at)
                found[tap.key] = tap
    return found


def _tap(name: str, block: int, recipe: Recipe, teacher: Direction | None, bank_features: Features, rarity_at) -> Tap:
    here = recipe if recipe.block is None else replace(recipe, block=block)
    if teacher is not None and block == recipe.block:
        return Tap(name, block, here, teacher)
    if teacher is not None:
        return Tap(name, block, replace(here, sigma=TAP_SIGMA), taught(teacher, bank_features, block))
    if name == "direction":
        return Tap(name, block, here, fit("direction", block, bank_features, recipe.settings, rarity_at))
    if name == "head_student":
        fitted = Direction.fit_target(bank_features, block, bank_features.saliency(), target=LOGIT)
        return Tap(name, block, replace(here, pooled=True), fitted)
    if name in SEARCHED:
        return Tap(name, block, here, bank=build_bank(bank_features, block, SEARCHED[name], recipe.pooled))
    return Tap(name, block, here)
