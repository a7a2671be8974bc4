"""Score with O, for inside an organ: membership A joined by a student of the saliency head."""

from __future__ import annotations

import numpy as np

from covtoken.bank.features import Block, Features
from covtoken.bank.token_bank import build_bank, check_alike
from covtoken.errors import CovtokenError
from covtoken.leak_guard import refuse_label_arrays
from covtoken.scores import memberships
from covtoken.scores.memberships import LOGIT, token_maps
from covtoken.scores.recipe import InOrganSettings
from covtoken.subspace.density import sparsity
from covtoken.subspace.direction import Direction


def in_organ_parts(
    block: Block,
    student_block: Block,
    pooled: bool,
    bank_features: Features,
    features: Features,
    density: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Give the two maps [N, T] whose weighted sum is O: membership A, and the head's student, unsmoothed.

    Each is in standard deviations of the scores of the bank's own tokens (for A, own unit left out), so that a weight
    means the same with every bank. Both read tokens as they are, or both pooled ones.

    Args:
        density: A's raw maps [N, T] where they exist already.
    """
    refuse_label_arrays("score 'in_organ'", bank_features, features)
    check_alike(bank_features, features, block)
    bank = build_bank(bank_features, block, pooled=pooled)
    if density is None:
        density = memberships.density(block, pooled, bank_features, features, 0, None)
    student = Direction.fit_target(bank_features, student_block, bank_features.saliency(), pooled, target=LOGIT)
    maps, own = (
        token_maps(lambda z, part: student.score(z), student_block, pooled, f) for f in (features, bank_features)
    )
    return _standardised(density, sparsity(bank.tokens, bank, bank.units).numpy()), _standardised(maps, own)


def _standardised(values: np.ndarray, own: np.ndarray) -> np.ndarray:
    spread = float(np.std(own, dtype=np.float64))
    if not spread > 0:
        raise CovtokenError("every token of the bank scores the same: give pictures that differ")
    return (values - float(np.mean(own, dtype=np.float64))) / spread


def in_organ(
    block: Block, pooled: bool, bank_features: Features, features: Features, seed: int, settings: InOrganSettings | None
) -> np.ndarray:
    """Score with O.

    Raises:
        CovtokenError: without settings, which hold the student's block and weight.
    """
    if settings is None:
        raise CovtokenError("score 'in_organ' takes InOrganSettings(student_block, weight), got none")
    density, student = in_organ_parts(block, settings.student_block, pooled, bank_features, features)
    return density + settings.weight * student
