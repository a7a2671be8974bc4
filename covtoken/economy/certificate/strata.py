"""Certify strata apart (Mondrian conformal): each organ, modality or lesion size has its own bound and its own n.

The size of a lesion in a new picture is unknown, so a certificate for use takes the strictest bound over the strata
of size (``strictest``); the modality of a new picture is known, and its organ mostly is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from covtoken.economy.certificate.bounds import allowed_misses, rank_bound, threshold_bound
from covtoken.economy.certificate.needs import unit_needs, unit_thresholds
from covtoken.errors import CovtokenError

VACUOUS = "vacuous"


@dataclass(frozen=True)
class Stratum:
    """The bound of a stratum, such as ``size: small``."""

    name: str
    n: int  # units with a lesion in it
    setting: int | float | None  # k, or a score threshold; None: vacuous, n is below 1/α − 1

    @property
    def says(self) -> str:
        """Give the setting as text, or "vacuous"."""
        return VACUOUS if self.setting is None else f"{self.setting:g}"


def by_stratum(
    values: np.ndarray,
    lesions: Sequence,
    unit: np.ndarray,
    names: Sequence[str],
    alpha: float,
    form: str = "rank",
) -> tuple[Stratum, ...]:
    """Bound each stratum from the lesions in it.

    A unit counts in each stratum in which it has a lesion, by its lesions there. The promise is: of a new unit with
    lesions of that stratum, all those are retained with probability ≥ 1 − α.

    Args:
        values: [L], needs (rank form) or thresholds (threshold form) of the lesions.
        lesions: with ``picture``.
        unit: [N] int, of the pictures.
        names: [L], the stratum of each lesion.
        form: "rank" or "threshold".

    Returns:
        One a name, in the order of names.
    """
    if not len(values) == len(lesions) == len(names):
        raise CovtokenError(
            f"{len(values)} values and {len(names)} strata for {len(lesions)} lesions: expected one each"
        )
    found = []
    for name in sorted(set(names)):
        here = [i for i, other in enumerate(names) if other == name]
        inside, own = np.asarray(values)[here], [lesions[i] for i in here]
        _, needs = (unit_needs if form == "rank" else unit_thresholds)(inside, own, unit)
        bound = None
        if allowed_misses(len(needs), alpha) >= 1:
            bound = int(rank_bound(needs, alpha)) if form == "rank" else float(threshold_bound(needs, alpha))
        found.append(Stratum(str(name), len(needs), bound))
    return tuple(found)


def strictest(strata: Sequence[Stratum], form: str = "rank") -> int | float | None:
    """Take the largest k, or the lowest threshold, over strata; None if one of them is vacuous: then keep all."""
    settings = [stratum.setting for stratum in strata]
    if not settings or None in settings:
        return None
    return max(settings) if form == "rank" else min(settings)
