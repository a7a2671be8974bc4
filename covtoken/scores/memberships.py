"""Score with the memberships: A, B, N, D, D without the head, and the head's student."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from covtoken.bank.features import Block, Features
from covtoken.bank.pooling import pool3x3
from covtoken.bank.token_bank import build_bank
from covtoken.errors import CovtokenError
from covtoken.scores.recipe import Settings
from covtoken.subspace.density import sparsity
from covtoken.subspace.direction import Direction, direction_moments
from covtoken.subspace.erasure import without_linear
from covtoken.subspace.rarity import RaritySubspace
from covtoken.subspace.residual import RANK, ResidualSubspace

CHUNK = 64  # pictures held at a time
LOGIT = "saliency logit"


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
