"""Score with the memberships: A, B, N, D, C− and C, C− without the head, and the head's student."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from covtoken.bank.features import Block, Features
from covtoken.bank.pooling import pool3x3, smooth
from covtoken.bank.token_bank import build_bank
from covtoken.errors import CovtokenError, unknown
from covtoken.scores.recipe import SETTINGS, Settings
from covtoken.subspace.consensus import ConsensusSettings, Passes, fit_consensus
from covtoken.subspace.density import sparsity
from covtoken.subspace.direction import (
    Direction,
    bank_rarity,
    direction_moments,
    distilled,
    rarity_target,
    target_reference,
)
from covtoken.subspace.erasure import without_linear
from covtoken.subspace.rarity import RaritySubspace
from covtoken.subspace.residual import RANK, ResidualSubspace

CHUNK = 64  # pictures held at a time
LOGIT = "saliency logit"
SOURCE_SIGMA = 1.0  # in tokens, of maps that are no rarity
SMOOTHED_SOURCES = {
    "head": lambda features, settings: features.saliency(),
    "attention": lambda features, settings: features.attention(settings.attention_block),
}


def token_maps(
    score: Callable[[torch.Tensor, slice], torch.Tensor], block: Block, pooled: bool, features: Features
) -> np.ndarray:
    """Apply ``score(tokens [n, T, D], slice) -> [n, T]`` picture chunk by picture chunk, after pooling."""
    parts = []
    for part, tokens in features.chunks(block, size=CHUNK):
        tokens = pool3x3(tokens, features.rows, features.cols) if pooled else tokens
        parts.append(np.asarray(score(tokens, part), dtype=np.float32))
    return np.concatenate(parts)


def density(
    block: Block, pooled: bool, bank_features: Features, features: Features, seed: int, settings: Settings | None
) -> np.ndarray:
    """Score with membership A, which needs the bank alone, not its own sparsity (``DensitySubspace.fit``)."""
    bank = build_bank(bank_features, block, pooled=pooled)
    units = bank.unit_ids(features.units)
    return token_maps(lambda z, part: sparsity(z, bank, units[part]), block, pooled, features)


def residual(
    block: Block, pooled: bool, bank_features: Features, features: Features, seed: int, settings: Settings | None
) -> np.ndarray:
    """Score with membership B, on A's bank; of tokens below 128 values half of the directions are normal."""
    bank = build_bank(bank_features, block, pooled=pooled)
    fitted = ResidualSubspace.fit(bank, min(RANK, bank.tokens.shape[1] // 2))
    return token_maps(lambda z, part: fitted.score(z), block, pooled, features)


def rarity(
    block: Block, pooled: bool, bank_features: Features, features: Features, seed: int, settings: Settings | None
) -> np.ndarray:
    """Score with N, and with PN where pooled."""
    bank = build_bank(bank_features, block, pooled=pooled)
    fitted, units = RaritySubspace.fit(bank), bank.unit_ids(features.units)
    return token_maps(lambda z, part: fitted.score(z, units[part]), block, pooled, features)


def linear(scorer: str) -> Callable[..., np.ndarray]:
    """Give the scorer of D (``direction``), C− and C (``consensus``), or C− ``without_head``, all on pooled tokens.

    The last reads tokens that say nothing linear about the head's logit: does C− only find the head back?
    """

    def score(
        block: Block, pooled: bool, bank_features: Features, features: Features, seed: int, settings: Settings | None
    ) -> np.ndarray:
        if not pooled:
            raise CovtokenError(f"score {scorer!r} reads pooled tokens: give pooled=True")
        fitted = fit(scorer, block, bank_features, settings or SETTINGS[scorer]())
        return token_maps(lambda z, part: fitted.score(z), block, True, features)

    return score


def fit(
    scorer: str,
    block: Block,
    bank_features: Features,
    settings: Settings,
    rarity_at: Callable[[Block], tuple[RaritySubspace, torch.Tensor]] | None = None,
    progress: bool = False,
    passes: Passes | None = None,
) -> Direction:
    """Fit the direction of a score that is ``linear``.

    Args:
        rarity_at: gives a target block's reference and the bank's rarity (None: ``rarity_of``), which costs a search.
        passes: of a consensus, over shards.
    """
    rarity_at = rarity_at or partial(rarity_of, bank_features, progress=progress)
    if scorer == "direction":
        return distilled(bank_features, block, *rarity_at(settings.target_block), settings, progress)
    names, about, sources = settings.sources.split("+"), {}, []
    for name in names:
        if name == "rarity":
            reference, rarity = rarity_at(settings.target_block)
            made = rarity_target(reference, settings.quantile, 0.0)
            about = {key: made[key] for key in ("target_block", "size", "k", "neighbours", "key")}
        sources.append(rarity if name == "rarity" else source_map(name, bank_features, settings))
    fitted = fit_consensus(bank_features, block, sources, settings, about, progress, passes)
    if scorer == "without_head":
        head = direction_moments(bank_features, block, bank_features.saliency())
        fitted = without_linear(fitted, head, target=LOGIT)
    return fitted


def rarity_of(
    bank_features: Features, target_block: Block, progress: bool = False
) -> tuple[RaritySubspace, torch.Tensor]:
    """Search a bank: the reference of its rarity at a block, and PN [N, T] of its own pictures."""
    reference = target_reference(bank_features, target_block, progress=progress)
    return reference, bank_rarity(bank_features, reference, progress)


def source_map(name: str, bank_features: Features, settings: ConsensusSettings) -> torch.Tensor:
    """Make a source of a consensus that needs no bank: a map [N, T] of the bank's pictures, smoothed."""
    if name not in SMOOTHED_SOURCES:
        raise unknown("source of a consensus", name, ["rarity", *SMOOTHED_SOURCES])
    maps = np.asarray(SMOOTHED_SOURCES[name](bank_features, settings))
    return torch.as_tensor(smooth(maps, bank_features.rows, bank_features.cols, SOURCE_SIGMA))


def head_student(
    block: Block, pooled: bool, bank_features: Features, features: Features, seed: int, settings: Settings | None
) -> np.ndarray:
    """Score with a linear map from the tokens of one block to the saliency head's logit (book/method.md)."""
    logits = bank_features.saliency()
    fitted = Direction.fit_target(bank_features, block, logits, pooled, target=LOGIT)
    return token_maps(lambda z, part: fitted.score(z), block, pooled, features)
