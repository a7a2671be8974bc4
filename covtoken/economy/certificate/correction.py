"""Correct for several tests or several promises: a fixed sequence of settings, and the union bound of two halves."""

from __future__ import annotations

import math

import numpy as np

from covtoken.economy.certificate.bounds import hoeffding_bentkus
from covtoken.economy.keep import budget
from covtoken.errors import CovtokenError

N_RATIOS = 200
DELTA = 0.1  # probability over calibration draws that Learn-then-Test is wrong


def ratio_grid(n_tokens: int, n_ratios: int = N_RATIOS) -> np.ndarray:
    """List the tokens kept at n_ratios keep ratios from 1 down in equal steps, int64 [n_ratios]; some may be equal."""
    return np.array([budget(n_tokens, (n_ratios - i) / n_ratios) for i in range(n_ratios)], dtype=np.int64)


def fixed_sequence(p_values: np.ndarray, delta: float) -> np.ndarray:
    """Reject hypotheses in their order until one stays: how many, int [...], of p-values [..., K].

    The order is fixed before the data are seen, so each is tested at the full δ and the chance of any false rejection
    is ≤ δ.
    """
    return np.minimum.accumulate(np.asarray(p_values) <= delta, axis=-1).sum(axis=-1)


def check_test(n: int, alpha: float, delta: float = DELTA) -> None:
    """Refuse what n units cannot show even without a loss, before anything runs: (1−α)ⁿ must be ≤ δ.

    Raises:
        CovtokenError: too few units for α and δ.
    """
    if not 0 < delta < 1:
        raise CovtokenError(f"delta = {delta!r}: expected a number in (0, 1)")
    lossless = hoeffding_bentkus(np.zeros((max(n, 1), 1)), alpha)[0]
    if n < 1 or lossless > delta:
        fewest = math.ceil(math.log(delta) / math.log(1 - alpha) - 1e-9)
        raise CovtokenError(
            f"alpha = {alpha} cannot be shown at delta = {delta} with n = {n} calibration units: the honest answer is "
            f"to keep all tokens; calibrate on at least {fewest} units, or ask for a larger alpha"
        )


def learn_then_test(losses: np.ndarray, alpha: float, delta: float = DELTA) -> np.ndarray:
    """Choose the last setting in sequence whose expected loss is shown to be ≤ α, with probability ≥ 1 − δ.

    Args:
        losses: [..., n, K] in [0, 1], settings from keep-all down.

    Returns:
        Index of the setting, int [...].

    Raises:
        CovtokenError: too few units for α and δ, or losses outside [0, 1].
    """
    losses = np.asarray(losses)
    check_test(losses.shape[-2] if losses.ndim > 1 else 0, alpha, delta)
    n_rejected = fixed_sequence(hoeffding_bentkus(losses, alpha), delta)
    if (n_rejected == 0).any():
        raise CovtokenError("keeping all tokens has a loss above 0: give settings from keep-all down")
    return n_rejected - 1


def union_level(*alphas: float) -> float:
    """Add the α of promises that must all hold. Raises CovtokenError if the sum promises nothing."""
    total = round(sum(alphas), 12)
    if min(alphas) <= 0 or total >= 1:
        raise CovtokenError(f"alphas {', '.join(map(str, alphas))}: each must be above 0, and their sum below 1")
    return total
