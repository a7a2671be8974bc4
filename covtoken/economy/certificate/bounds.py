"""Bound what a new unit needs, from a calibration set of n exchangeable units: split conformal and risk control.

With l = ⌊(n+1)α⌋, the rank form takes the l-th largest need, which is the ⌈(n+1)(1−α)⌉-th smallest, and the threshold
form the l-th smallest threshold: a strict keep is a large k and a small threshold, so the index differs. Both promise
P(a new unit is retained) ≥ 1 − α, over the draw of calibration units and new unit together (Vovk et al. 2005). Leading
axes of all arrays are separate calibration sets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import binom

from covtoken.errors import CovtokenError

_ROUNDING = 1e-9  # (n+1)α of a written α is whole where it should be


def allowed_misses(n: int, alpha: float) -> int:
    """Compute l = ⌊(n+1)α⌋, by which all conformal bounds are chosen; 0 where nothing can be certified."""
    if isinstance(alpha, bool) or not isinstance(alpha, float | int | np.number) or not 0 < alpha < 1:
        raise CovtokenError(f"alpha = {alpha!r}: expected a number in (0, 1), the share of units that may be lost")
    return math.floor((n + 1) * float(alpha) + _ROUNDING)


def fewest_units(alpha: float) -> int:
    """Count the calibration units that α asks for at least, ⌈1/α − 1⌉."""
    allowed_misses(0, alpha)
    return math.ceil(1 / float(alpha) - 1 - _ROUNDING)


def check_level(n: int, alpha: float) -> None:
    """Refuse an α below 1/(n+1): call it before anything expensive runs.

    Raises:
        CovtokenError: α out of (0, 1), or too small for n units.
    """
    if allowed_misses(n, alpha) < 1:
        raise CovtokenError(
            f"alpha = {alpha} cannot be certified with n = {n} calibration units, only alpha ≥ 1/(n+1) = "
            f"{1 / (n + 1):.4f}: the honest answer is to keep all tokens; calibrate on at least {fewest_units(alpha)} "
            "units, or ask for a larger alpha"
        )


def rank_bound(needs: np.ndarray, alpha: float) -> np.ndarray:
    """Take the ⌈(n+1)(1−α)⌉-th smallest need of n units: int or float [..., n] → [...].

    Raises:
        CovtokenError: α < 1/(n+1), or NaN.
    """
    needs = _values(needs, alpha)
    place = needs.shape[-1] - allowed_misses(needs.shape[-1], alpha)
    return np.partition(needs, place, axis=-1)[..., place]


def threshold_bound(thresholds: np.ndarray, alpha: float) -> np.ndarray:
    """Take the ⌊(n+1)α⌋-th smallest threshold of n units: float [..., n] → [...]; errors as ``rank_bound``."""
    thresholds = _values(thresholds, alpha)
    place = allowed_misses(thresholds.shape[-1], alpha) - 1
    return np.partition(thresholds, place, axis=-1)[..., place]


def expected_risk_bound(losses: np.ndarray, alpha: float) -> np.ndarray:
    """Choose the strictest setting whose expected loss is ≤ α (conformal risk control, Angelopoulos et al. 2022).

    Chosen is the last setting, from keep-all on, up to which n/(n+1) · mean loss + 1/(n+1) ≤ α.

    Args:
        losses: [..., n, K] in [0, 1], monotone: settings in order of falling keep ratio, the first one keeps all.

    Returns:
        Index of the setting, int [...].

    Raises:
        CovtokenError: α < 1/(n+1), or losses outside [0, 1].
    """
    losses = _losses(losses)
    n = losses.shape[-2]
    check_level(n, alpha)
    holds = (losses.sum(axis=-2) + 1) / (n + 1) <= alpha + _ROUNDING
    if not holds[..., 0].all():
        raise CovtokenError("keeping all tokens has a loss above 0: give settings from keep-all down")
    return np.minimum.accumulate(holds, axis=-1).sum(axis=-1) - 1


def hoeffding_bentkus(losses: np.ndarray, alpha: float) -> np.ndarray:
    """Compute a p-value of "the expected loss is above α" for each setting (Learn-then-Test, Angelopoulos et al. 2021).

    It is the smaller of Hoeffding's tight bound, exp(−n · KL(mean, α)), and Bentkus's, e · P(Bin(n, α) ≤ ⌈n · mean⌉).

    Args:
        losses: [..., n, K] in [0, 1].

    Returns:
        [..., K], at most 1.
    """
    losses = _losses(losses)
    allowed_misses(0, alpha)
    n, total = losses.shape[-2], losses.sum(axis=-2)
    mean = np.minimum(total / n, alpha)  # above α Hoeffding says nothing
    with np.errstate(divide="ignore", invalid="ignore"):
        divergence = np.where(mean > 0, mean * np.log(mean / alpha), 0) + (1 - mean) * np.log((1 - mean) / (1 - alpha))
    bentkus = math.e * binom.cdf(np.ceil(total - _ROUNDING), n, alpha)
    return np.minimum(np.minimum(np.exp(-n * divergence), bentkus), 1)


def _values(values, alpha) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim == 0 or values.dtype.kind not in "iuf" or np.isnan(values).any():
        raise CovtokenError(f"expected numbers [..., units] without NaN, got {values.dtype} of shape {values.shape}")
    check_level(values.shape[-1], alpha)
    return values


def _losses(losses: np.ndarray | Sequence) -> np.ndarray:
    losses = np.asarray(losses, dtype=np.float64)
    if losses.ndim < 2 or losses.shape[-2] == 0 or losses.shape[-1] == 0:
        raise CovtokenError(f"losses must be [..., units, settings] and not empty, got shape {losses.shape}")
    if not ((losses >= -_ROUNDING) & (losses <= 1 + _ROUNDING)).all():
        raise CovtokenError("losses outside [0, 1]: these bounds hold for shares only")
    return losses
