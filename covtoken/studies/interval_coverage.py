"""A simulation: do intervals of AUROC cover the truth when the tokens of a unit are alike?

Score of a token = its unit's effect + its own noise + ``shift`` if it is a lesion's. Between two tokens of different
units the difference is normal, so the AUROC of the population, Φ(shift / √(2 (unit² + 1))), is known exactly, and so is
whether an interval holds it. DeLong takes tokens for independent; the unit bootstrap draws whole units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from covtoken.errors import CovtokenError
from covtoken.evaluation.stats import UnitWins, delong, interval, unit_draws


@dataclass(frozen=True)
class Coverage:
    """How many of ``n_runs`` 95 % intervals hold the truth, by method, and their standard errors.

    Attributes:
        truth: AUROC of the population.
        bootstrap: number of unit-bootstrap intervals that hold the truth.
        delong: number of DeLong intervals that hold the truth.
        se_true: standard deviation of the AUROC over runs.
        se_bootstrap: root mean square of the stated standard errors, as ``se_delong``; ``se_true`` if honest.
    """

    n_runs: int
    truth: float
    bootstrap: int
    delong: int
    se_true: float
    se_bootstrap: float
    se_delong: float


def simulate(
    n_runs: int = 500,
    n_units: int = 60,
    n_tokens: int = 30,
    *,
    unit_sd: float = 0.7,
    shift: float = 1.2,
    lesion_share: float = 0.2,
    n_draws: int = 1000,
    seed: int = 0,
) -> Coverage:
    """Simulate ``n_runs`` cohorts of ``n_units`` × ``n_tokens`` tokens and count the intervals that hold the truth.

    Args:
        unit_sd: standard deviation of the unit effects (0: independent tokens); a token's own noise has 1.
        shift: added to the scores of lesion tokens.
        lesion_share: mean share of lesion tokens; between units it varies as in pictures (beta, concentration 4).

    Raises:
        CovtokenError: a run or a unit too few, or a share outside 0…1.
    """
    if n_runs < 2 or n_units < 2 or n_tokens < 1 or not 0 < lesion_share < 1:
        raise CovtokenError(
            f"simulate: expected at least 2 runs, 2 units, 1 token and a share in 0…1, "
            f"got {n_runs}, {n_units}, {n_tokens}, {lesion_share}"
        )
    truth = float(norm.cdf(shift / np.sqrt(2 * (unit_sd**2 + 1))))
    rng = np.random.default_rng(seed)
    unit = np.repeat(np.arange(n_units), n_tokens)
    held = np.zeros(2, dtype=int)
    areas, variances = [], []
    for run in range(n_runs):
        share = rng.beta(4 * lesion_share, 4 * (1 - lesion_share), n_units)
        lesion = rng.random(len(unit)) < share[unit]
        scores = unit_sd * rng.standard_normal(n_units)[unit] + rng.standard_normal(len(unit)) + shift * lesion
        draws = UnitWins(scores, lesion, unit).auroc(unit_draws(n_units, n_draws, seed=run))
        naive = delong(scores, lesion)
        intervals = (interval(draws), naive.interval())
        held += [low <= truth <= high for low, high in intervals]
        areas.append(naive.auroc)
        variances.append((np.nanvar(draws), naive.se**2))
    stated = np.sqrt(np.mean(variances, axis=0))
    return Coverage(n_runs, truth, int(held[0]), int(held[1]), float(np.std(areas, ddof=1)), *map(float, stated))
