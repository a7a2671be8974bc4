"""Correlate ranks within groups (images), with a permutation p-value, and correct by Holm.

A coverage value and a recall are comparable only inside one picture, so ρ is taken there and averaged, and the null
hypothesis is made there too: values are shuffled within each picture, never across (book/method.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, rankdata

from covtoken.errors import CovtokenError


@dataclass(frozen=True)
class GroupedSpearman:
    """Spearman's ρ averaged over groups; for an interval, ``by_group`` goes into ``stats.mean_draws``."""

    rho: float  # mean over the groups where ρ is defined; NaN if there is none
    p: float  # permutation p-value of that mean; NaN likewise
    by_group: np.ndarray  # [G] ρ of each group, NaN where x or y is constant
    groups: np.ndarray  # [G] sorted group names
    n_constant: int  # groups left out since x or y does not vary in them
    n_permutations: int


def grouped_spearman(
    x: np.ndarray, y: np.ndarray, group: np.ndarray, *, n_permutations: int = 5000, seed: int = 0
) -> GroupedSpearman:
    """Average Spearman's ρ between x and y [n] inside each group over groups, with a within-group permutation test.

    Args:
        group: [n] names of any sortable kind.
        n_permutations: 0 leaves p NaN.
        seed: of the permutations.

    Returns:
        p = (b + 1) / (n + 1), b of n permutations with |ρ| at least the data's (Phipson and Smyth 2010).

    Raises:
        CovtokenError: other shapes, NaN, no value, fewer than 0 permutations.
    """
    x, y, group = _checked(x, y, group)
    if n_permutations < 0:
        raise CovtokenError(f"{n_permutations} permutations: expected 0 or more")
    groups, member = np.unique(group, return_inverse=True)
    order = np.argsort(member, kind="stable")
    ends = np.cumsum(np.bincount(member))[:-1]
    pairs = [(_unit_ranks(a), _unit_ranks(b)) for a, b in zip(np.split(x[order], ends), np.split(y[order], ends))]
    by_group = np.array([np.nan if a is None or b is None else np.clip(a @ b, -1, 1) for a, b in pairs])
    varied = [pair for pair, rho in zip(pairs, by_group) if not np.isnan(rho)]
    if not varied:
        return GroupedSpearman(float("nan"), float("nan"), by_group, groups, len(groups), n_permutations)
    rho, p = float(np.nanmean(by_group)), float("nan")
    if n_permutations:
        null = _null_means(varied, n_permutations, np.random.default_rng(seed))
        # Equal arrangements must count as equal, whatever the order in which their products were summed.
        p = float((np.count_nonzero(np.abs(null) >= abs(rho) - 1e-10) + 1) / (n_permutations + 1))
    return GroupedSpearman(rho, p, by_group, groups, len(groups) - len(varied), n_permutations)


def sign_test(differences: np.ndarray, unit: np.ndarray) -> tuple[int, int, float]:
    """Test by signs, exactly, whether units gain more often than they lose.

    Args:
        differences: [L]; a unit's sign is that of its sum. NaN is left out.
        unit: [L] int.

    Returns:
        units that gain, units that lose, and the two-sided binomial p over both (1 if no unit differs).
    """
    held = ~np.isnan(differences)
    sums = np.bincount(unit[held], differences[held]) if held.any() else np.zeros(0)
    won, lost = int((sums > 1e-12).sum()), int((sums < -1e-12).sum())
    return won, lost, float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust p-values by Holm, by name, in the order given: all tests of a family, or the promise does not hold.

    The same numbers as statsmodels gives, without its quarter of a second a call.

    Raises:
        CovtokenError: no p-value, or one that is NaN or outside 0…1.
    """
    if not p_values:
        raise CovtokenError("holm: no p-value given")
    bad = [f"{name} = {p}" for name, p in p_values.items() if not 0 <= p <= 1]
    if bad:
        raise CovtokenError(f"holm: p-values must lie in 0…1, got {', '.join(bad)}; leave out tests that were not made")
    p = np.fromiter(p_values.values(), dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return dict(zip(p_values, adjusted.tolist()))


def _unit_ranks(values: np.ndarray) -> np.ndarray | None:
    """Compute midranks, centred and of unit length, so that ρ is a dot product; None for constant values."""
    ranks = rankdata(values)
    ranks -= ranks.mean()
    length = np.sqrt(ranks @ ranks)
    return ranks / length if length > 0 else None


def _null_means(pairs: list[tuple[np.ndarray, np.ndarray]], n_permutations: int, rng) -> np.ndarray:
    """Draw means of ρ over groups, [n_permutations], y shuffled anew and independently in every group."""
    total = np.zeros(n_permutations)
    for x, y in pairs:
        total += rng.permuted(np.broadcast_to(y, (n_permutations, len(y))), axis=1) @ x
    return total / len(pairs)


def _checked(x, y, group) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y, group = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), np.asarray(group)
    if not (x.ndim == 1 and x.shape == y.shape == group.shape):
        raise CovtokenError(f"x, y and group must be [n] alike, got {x.shape}, {y.shape} and {group.shape}")
    if len(x) == 0:
        raise CovtokenError("no values to correlate: the split or the family of kept sets is empty")
    for name, values in (("x", x), ("y", y)):
        if np.isnan(values).any():
            raise CovtokenError(f"{int(np.isnan(values).sum())} of {len(values)} values of {name} are NaN")
    return x, y, group
