"""Score with the memberships: A, B, N, D, D without the head, and the head's student."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from covtoken.bank.features import Block, Features
from covtoken.bank.pooling import pool3x3, smooth
from covtoken.bank.token_bank import build_bank
from covtoken.errors import CovtokenError, unknown
from covtoken.scores.recipe import Settings
from covtoken.subspace.consensus import ConsensusSettings, fit_consensus
from covtoken.subspace.density import sparsity
from covtoken.subspace.direction import (
    Direction,
    bank_rarity,
    direction_moments,
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


def direction(
    block: Block, pooled: bool, bank_features: Features, features: Features, seed: int, settings: Settings | None
) -> np.ndarray:
    """Score with D, which reads pooled tokens alone."""
    if not pooled:
        raise CovtokenError("the distilled direction reads pooled tokens: give pooled=True")
    fitted = Direction.fit(bank_features, block, settings)
    return token_maps(lambda z, part: fitted.score(z), block, True, features)


def consensus(
    block: Block, pooled: bool, bank_features: Features, features: Features, seed: int, settings: Settings | None
) -> np.ndarray:
    """Score with C−, or with C where the head is among the sources; both read pooled tokens alone."""
    if not pooled:
        raise CovtokenError("a consensus direction reads pooled tokens: give pooled=True")
    fitted = consensus_direction(block, bank_features, settings or ConsensusSettings())
    return token_maps(lambda z, part: fitted.score(z), block, True, features)


def consensus_direction(block: Block, bank_features: Features, settings: ConsensusSettings) -> Direction:
    """Make the sources of a consensus from the bank's pictures, and fit it."""
    sources, about, grid = [], {}, (bank_features.rows, bank_features.cols)
    for name in settings.sources.split("+"):
        if name == "rarity":
            reference = target_reference(bank_features, settings.target_block)
            sources.append(bank_rarity(bank_features, reference))
            made = rarity_target(reference, settings.quantile, 0.0)
            about = {key: made[key] for key in ("target_block", "size", "k", "neighbours", "key")}
        elif name in SMOOTHED_SOURCES:
            maps = SMOOTHED_SOURCES[name](bank_features, settings)
            sources.append(torch.as_tensor(smooth(np.asarray(maps), *grid, SOURCE_SIGMA)))
        else:
            raise unknown("source of a consensus", name, ["rarity", *SMOOTHED_SOURCES])
    return fit_consensus(bank_features, block, sources, settings, about)


def direction_without_head(
    block: Block, pooled: bool, bank_features: Features, features: Features, seed: int, settings: Settings | None
) -> np.ndarray:
    """Score with D on tokens that say nothing linear about the head's logit: does D only find the head back?"""
    if not pooled:
        raise CovtokenError("the distilled direction reads pooled tokens: give pooled=True")
    head = direction_moments(bank_features, block, bank_features.saliency())
    fitted = without_linear(Direction.fit(bank_features, block, settings), head, target=LOGIT)
    return token_maps(lambda z, part: fitted.score(z), block, True, features)


def head_student(
    block: Block, pooled: bool, bank_features: Features, features: Features, seed: int, settings: Settings | None
) -> np.ndarray:
    """Score with a linear map from the tokens of one block to the saliency head's logit (book/method.md)."""
    logits = bank_features.saliency()
    fitted = Direction.fit_target(bank_features, block, logits, pooled, target=LOGIT)
    return token_maps(lambda z, part: fitted.score(z), block, pooled, features)
