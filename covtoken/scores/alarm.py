"""Warn, without any label, where the distilled direction is not to be trusted with a bank.

C− is fitted to a call on the bank's own tokens. Where the bank is poor, the call is about something else than what is
rare, and C− points there with as much contrast as ever. Four statistics need no label:

    units       how many units fed the bank. With two or three, a single one decides what is rare.
    agreement   Spearman's ρ, over query tokens, of C− and A, which searches the bank and has no call to get wrong.
    backing     how often A ranks a token of C−'s top tenth above a token of the rest (an AUROC). Agreement looks at all
                tokens, of which nearly all are background; backing at those that C− points to.
    drift       how far the queries' tokens lie from the bank: A's median over the median sparsity of the bank itself,
                1 for pictures like the bank's.

``Limits`` says which decide, and where; selection splits fixed them (``covtoken.studies.alarm``,
configs/alarm.lock.json).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import numpy as np
from scipy.stats import rankdata, spearmanr

from covtoken.bank.features import Features
from covtoken.bank.token_bank import build_bank
from covtoken.errors import CovtokenError
from covtoken.keys import hash_of
from covtoken.leak_guard import construction, refuse_label_arrays, refuse_label_choice
from covtoken.scores.recipe import Recipe
from covtoken.scores.scorers import score_maps
from covtoken.subspace.density import sparsity

KEY = "covtoken-alarm-v1"  # of the samples of units, pictures and tokens below
FEWEST_UNITS = 4
TOP = 0.9  # quantile of C−'s map above which a token is of its top tenth
QUERY_PICTURES = 64
BANK_TOKENS = 2_000  # reference tokens whose own sparsity is looked at: enough for a median


@dataclass(frozen=True)
class Limits:
    """Limits of the alarm, which fires below a ``…_min`` and above a ``…_max``; None: a statistic does not decide."""

    units_min: int = FEWEST_UNITS
    agreement_min: float | None = None
    backing_min: float | None = None
    drift_max: float | None = None

    def to_json(self) -> dict:
        """Give the limits as the lock keeps them."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> Limits:
        """Read what ``to_json`` gives."""
        known = {field.name for field in fields(cls)}
        if set(data) != known:
            raise CovtokenError(f"limits of an alarm: expected {', '.join(sorted(known))}, got {', '.join(data)}")
        return cls(**data)


@dataclass(frozen=True)
class Alarm:
    """The alarm's verdict on a bank."""

    statistics: dict[str, float | None]  # by name; None where it could not be computed or was not asked for
    fired: bool  # C− is not to be trusted
    reasons: tuple[str, ...]  # why, a sentence each; empty where it has not fired

    @property
    def recommended(self) -> str:
        """The score to use with this bank: C−, or A where the alarm has fired."""
        return "A" if self.fired else "C−"

    def __str__(self) -> str:
        if not self.fired:
            return "no alarm: C− may be used with this bank"
        return f"ALARM: {'; '.join(self.reasons)}. Use A with this bank, or C− with a larger bank"


def check_bank(
    bank_features: Features,
    features: Features,
    recipe: Recipe,
    fallback: Recipe,
    limits: Limits,
    maps=None,
    fallback_maps=None,
) -> Alarm:
    """Check whether C−, as ``recipe`` makes it from a bank, is to be trusted on pictures.

    Args:
        bank_features: the bank's pictures.
        features: the pictures to be scored.
        recipe: of C−.
        fallback: of the score that C− is held against and gives way to (A).
        maps: C−'s [N, T] where they exist already (None: computed on a sample).
        fallback_maps: A's, likewise.

    Raises:
        LabelLeak: something like a label was handed in, or a mask was opened meanwhile.
        CovtokenError: what the recipes' scorers raise.
    """
    return judge(statistics(bank_features, features, recipe, fallback, maps, fallback_maps), limits)


def judge(found: dict[str, float | None], limits: Limits) -> Alarm:
    """Decide on statistics by name. A statistic that decides and could not be computed fires."""
    reasons = []
    few = found["units"] < limits.units_min
    if few:
        reasons.append(f"the bank has {found['units']:.0f} units, fewer than {limits.units_min}")
    for name, what in (("agreement", "C− and A agree by ρ"), ("backing", "A backs what C− points to by AUROC")):
        value, limit = found[name], getattr(limits, f"{name}_min")
        if limit is not None and ((value is None and not few) or (value is not None and value < limit)):
            reasons.append(f"{what} = {_number(value)}, less than {limit:.2f}")
    far, limit = found["drift"], limits.drift_max
    if limit is not None and ((far is None and not few) or (far is not None and far > limit)):
        reasons.append(
            f"the pictures lie {_number(far)} times as far from the bank as it from itself, {limit:.2f} at most"
        )
    return Alarm(dict(found), bool(reasons), tuple(reasons))


def statistics(
    bank_features: Features, features: Features, recipe: Recipe, fallback: Recipe, maps=None, fallback_maps=None
) -> dict[str, float | None]:
    """Compute the four statistics, None below two units or where a map is constant; arguments as ``check_bank``."""
    refuse_label_arrays("an alarm", bank_features, features, *(m for m in (maps, fallback_maps) if m is not None))
    refuse_label_choice("an alarm", bank_features)
    if len(bank_features) == 0 or len(features) == 0:
        raise CovtokenError(f"an alarm needs pictures, got {len(bank_features)} of a bank and {len(features)} to score")
    units = len(set(bank_features.units))
    out: dict[str, float | None] = {"units": float(units), "agreement": None, "backing": None, "drift": None}
    if units < 2:
        return out  # no bank token has tokens of another unit to be compared with
    with construction("an alarm"):
        # Sorted: a sum in another order would move the last digit.
        chosen = sorted(range(len(features)), key=lambda i: (hash_of(features.digests[i], KEY), features.units[i]))
        chosen = chosen[:QUERY_PICTURES]
        sample = features.subset(chosen)
        order = sorted(zip(bank_features.digests, bank_features.units, range(len(bank_features))))
        bank_features = bank_features.subset([index for *_, index in order])
        d, a = (
            (score_maps(r, bank_features, sample) if given is None else np.asarray(given)[chosen]).ravel()
            for r, given in ((recipe, maps), (fallback, fallback_maps))
        )
        if len(d) and d.min() < d.max() and a.min() < a.max():
            out["agreement"] = _finite(spearmanr(d, a)[0])
        out["backing"] = backing(d, a)
        own = own_sparsity(bank_features, fallback)
        out["drift"] = _finite(np.median(a) / own) if own > 0 else None
    return out


def backing(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    """Measure how often map ``theirs`` ranks a token of the top tenth of map ``ours`` above a token of the rest.

    Ties count half; 1: always, ½: by chance. Both maps are of the same tokens, in any equal shape.
    """
    ours, theirs = np.ravel(ours), np.ravel(theirs)
    top = ours > np.quantile(ours, TOP)
    n, rest = int(top.sum()), int((~top).sum())
    if not n:
        return None
    return float((rankdata(theirs)[top].sum() - n * (n + 1) / 2) / (n * rest))


def own_sparsity(bank_features: Features, fallback: Recipe) -> float:
    """Compute the median sparsity of the bank's own tokens, each against those of other units."""
    bank = build_bank(bank_features, fallback.block, pooled=fallback.pooled)
    return float(sparsity(bank.tokens[:BANK_TOKENS], bank, bank.units[:BANK_TOKENS]).median())


def _finite(value) -> float | None:
    return float(value) if np.isfinite(value) else None


def _number(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.2f}"
