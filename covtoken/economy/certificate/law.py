"""Say what coverage to expect: its law over calibration sets, and what re-splits of real units show.

Given n calibration units without ties, coverage is Beta(n+1−l, l) with l = ⌊(n+1)α⌋, and the retained share of m new
units is Beta-binomial with it. With ties or a discrete score coverage is larger: only the lower edge is a test then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, betabinom

from covtoken.economy.certificate.bounds import allowed_misses, check_level, rank_bound, threshold_bound
from covtoken.errors import CovtokenError
from covtoken.keys import hash_of

N_SPLITS = 200
_KEY = "covtoken-v1 certificate"  # never changed: another key gives other splits


def coverage_law(n: int, alpha: float):
    """Give the law of coverage over draws of n calibration units, a frozen scipy Beta."""
    check_level(n, alpha)
    misses = allowed_misses(n, alpha)
    return beta(n + 1 - misses, misses)


def retained_law(n: int, alpha: float, m: int):
    """Give the law of how many of m new units are retained, a frozen scipy Beta-binomial."""
    check_level(n, alpha)
    if m < 1:
        raise CovtokenError(f"m = {m}: expected at least one new unit")
    misses = allowed_misses(n, alpha)
    return betabinom(m, n + 1 - misses, misses)


def coverage_interval(n: int, alpha: float, level: float = 0.95) -> tuple[float, float]:
    """Compute the interval that coverage falls into with probability ``level``, (1 − level)/2 outside on each side."""
    law = coverage_law(n, alpha)
    return float(law.ppf((1 - level) / 2)), float(law.ppf((1 + level) / 2))


def share_interval(n: int, alpha: float, m: int, level: float = 0.95) -> tuple[float, float]:
    """Compute the interval of the retained share of m new units, as ``coverage_interval`` and at least as probable."""
    law = retained_law(n, alpha, m)
    return float(law.ppf((1 - level) / 2) / m), float(law.ppf((1 + level) / 2) / m)


@dataclass(frozen=True)
class Resplits:
    """What a certificate does over re-splits of the same units; they overlap, so this is a spread, not a test."""

    coverage: np.ndarray  # [splits] retained share of the units that did not calibrate
    setting: np.ndarray  # [splits] certified k, or threshold


def resplits(
    values: np.ndarray,
    units: Sequence[str],
    alpha: float,
    n: int,
    form: str = "rank",
    n_splits: int = N_SPLITS,
) -> Resplits:
    """Split units anew into n that calibrate and the rest, certify, and count what the rest retains.

    A split depends on the units' names and its number alone, by a keyed hash, not on the order of units.

    Args:
        values: [U], need or threshold of each unit.
        units: [U] names, distinct; of units that neither bank nor selection used.
        n: units that calibrate, below U.
        form: "rank" or "threshold".

    Raises:
        CovtokenError: α too small for n, no unit left over, or names that repeat.
    """
    check_level(n, alpha)
    values, names = np.asarray(values), [str(unit) for unit in units]
    if len(values) != len(names) or len(set(names)) != len(names) or not n < len(names):
        raise CovtokenError(
            f"{len(values)} values, {len(set(names))} distinct names of {len(names)}, n = {n}: expected one value and "
            "one name a unit, and fewer calibration units than units"
        )
    bound: Callable = rank_bound if form == "rank" else threshold_bound
    coverage, setting = np.zeros(n_splits), np.zeros(n_splits)
    for split in range(n_splits):
        order = sorted(range(len(names)), key=lambda i: hash_of(f"{split}\0{names[i]}", _KEY))
        setting[split] = bound(values[order[:n]], alpha)
        rest = values[order[n:]]
        coverage[split] = np.mean(rest <= setting[split] if form == "rank" else rest >= setting[split])
    return Resplits(coverage, setting)
