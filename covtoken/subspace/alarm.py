"""A warning, without any label, that the distilled direction is not to be trusted with this bank.

D is fitted to a call on the bank's own tokens. Where the bank is poor, the call is about something else than what is
rare, and D points there with as much contrast as ever. Four things can be asked without a label:

    units       how many units fed the bank. One cannot be halved, and two leave no second opinion.
    agreement   Spearman's ρ, over query tokens, of D and a score that searches the bank (A), which has no call to get
                wrong. A poor call turns D away from A; a sound one refines it.
    drift       how far the queries' tokens lie from the bank, A's median over the median sparsity of the bank itself:
                1 for pictures like the bank's.
    halves      Pearson's r, over query tokens, of D fitted on either half of the bank's units.

``check_bank`` computes the first three and, where asked, the fourth; ``Limits`` says which decide, and where. The
limits are an argument: they were fixed on selection splits (``covtoken.gates.alarm``, configs/alarm.lock.json).
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields

import numpy as np
from scipy.stats import spearmanr

from covtoken.errors import CovtokenError
from covtoken.leak_guard import construction, refuse_label_arrays, refuse_label_choice
from covtoken.subspace.bank import build_bank
from covtoken.subspace.density import sparsity
from covtoken.subspace.pooling import pool3x3
from covtoken.subspace.scorers import Recipe, score_maps

KEY = "covtoken-alarm-v1"  # of the samples of units, pictures and tokens below
FEWEST_UNITS = 4  # two in either half: a bank token needs tokens of other units
UNITS_A_HALF = 60
QUERY_PICTURES = 64
BANK_TOKENS = 2_000  # reference tokens whose own sparsity is looked at: enough for a median


@dataclass(frozen=True)
class Limits:
    """Where the alarm fires: a statistic below its ``…_min`` or above its ``…_max``; None: it does not decide."""

    units_min: int = FEWEST_UNITS
    agreement_min: float | None = None
    drift_max: float | None = None
    halves_min: float | None = None

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> Limits:
        known = {field.name for field in fields(cls)}
        if set(data) != known:
            raise CovtokenError(f"limits of an alarm: expected {', '.join(sorted(known))}, got {', '.join(data)}")
        return cls(**data)


@dataclass(frozen=True)
class Alarm:
    """What was found.

    Attributes:
        statistics: name -> number, None where it could not be computed or was not asked for.
        fired: D is not to be trusted. reasons: why, a sentence each; empty where it has not fired.
    """

    statistics: dict[str, float | None]
    fired: bool
    reasons: tuple[str, ...]

    @property
    def recommended(self) -> str:
        """The score to use with this bank: D, or A where the alarm has fired."""
        return "A" if self.fired else "D"

    def __str__(self) -> str:
        if not self.fired:
            return "no alarm: D may be used with this bank"
        return f"ALARM: {'; '.join(self.reasons)}. Use A with this bank, or D with a larger bank"


def check_bank(
    bank_features, features, recipe: Recipe, fallback: Recipe, limits: Limits, maps=None, fallback_maps=None
) -> Alarm:
    """Ask whether D, as ``recipe`` makes it from a bank, is to be trusted on pictures.

    Args:
        bank_features, features: FeatureSets of the bank's pictures and of those to be scored.
        recipe: of D. fallback: of the score that it is held against and falls back to (A).
        maps, fallback_maps: [N, T] of both recipes where they exist already; they are computed on a sample otherwise.

    Raises:
        LabelLeak: something like a label was handed in, or a mask was opened meanwhile.
        CovtokenError: what the recipes' scorers raise.
    """
    return judge(statistics(bank_features, features, recipe, fallback, limits, maps, fallback_maps), limits)


def judge(found: dict[str, float | None], limits: Limits) -> Alarm:
    """The alarm of these statistics. One that decides and could not be computed fires."""
    reasons = []
    few = found["units"] < limits.units_min
    if few:
        reasons.append(f"the bank has {found['units']:.0f} units, fewer than {limits.units_min}")
    for name, what in (("agreement", "D and A agree by ρ"), ("halves", "D of two halves of the bank agrees by r")):
        value, limit = found[name], getattr(limits, f"{name}_min")
        unknown_of_few = few and value is None  # said already
        if limit is not None and not unknown_of_few and (value is None or value < limit):
            reasons.append(f"{what} = {_number(value)}, less than {limit:.2f}")
    far, limit = found["drift"], limits.drift_max
    if limit is not None and not (few and far is None) and (far is None or far > limit):
        reasons.append(
            f"the pictures lie {_number(far)} times as far from the bank as it from itself, {limit:.2f} at most"
        )
    return Alarm(dict(found), bool(reasons), tuple(reasons))


def statistics(
    bank_features,
    features,
    recipe: Recipe,
    fallback: Recipe,
    limits: Limits,
    maps=None,
    fallback_maps=None,
    halves=None,
) -> dict[str, float | None]:
    """The four numbers; arguments as ``check_bank``. halves: compute them (default: where they decide)."""
    refuse_label_arrays("an alarm", bank_features, features, *(m for m in (maps, fallback_maps) if m is not None))
    refuse_label_choice("an alarm", bank_features)
    if len(bank_features) == 0 or len(features) == 0:
        raise CovtokenError(f"an alarm needs pictures, got {len(bank_features)} of a bank and {len(features)} to score")
    halves = limits.halves_min is not None if halves is None else halves
    units = len(set(bank_features.units))
    found: dict[str, float | None] = dict.fromkeys(("units", "agreement", "drift", "halves"))
    found["units"] = float(units)
    if units < 2:
        return found  # no bank token has tokens of another unit to be compared with
    with construction("an alarm"):
        # Sorted: a sum in another order would move the last digit.
        chosen = sorted(range(len(features)), key=lambda i: (_hash(features.digests[i]), features.units[i]))
        chosen = chosen[:QUERY_PICTURES]
        sample = features.subset(chosen)
        bank_features = _sorted(bank_features)
        ours = score_maps(recipe, bank_features, sample) if maps is None else np.asarray(maps)[chosen]
        theirs = (
            score_maps(fallback, bank_features, sample) if fallback_maps is None else np.asarray(fallback_maps)[chosen]
        )
        found["agreement"] = _finite(spearmanr(ours.ravel(), theirs.ravel())[0])
        found["drift"] = drift(bank_features, sample, fallback)
        if halves and units >= FEWEST_UNITS:
            found["halves"] = halves_agree(*bank_halves(bank_features), sample, recipe)
    return found


def drift(bank_features, features, fallback: Recipe) -> float | None:
    """Median sparsity of the pictures' tokens over that of the bank's own, each against other units; 1: alike."""
    bank = build_bank(bank_features, fallback.block, pooled=fallback.pooled)
    own = sparsity(bank.tokens[:BANK_TOKENS], bank, bank.units[:BANK_TOKENS]).median()
    far, units = [], bank.unit_ids(features.units)
    for part, tokens in features.chunks(fallback.block):
        tokens = pool3x3(tokens, features.rows, features.cols) if fallback.pooled else tokens
        far.append(sparsity(tokens, bank, units[part]).numpy().ravel())
    return _finite(np.median(np.concatenate(far)) / float(own)) if own > 0 else None


def bank_halves(bank_features):
    """Two FeatureSets, disjoint by unit: at most ``UNITS_A_HALF`` units each, by keyed hash of the unit."""
    units = sorted(set(bank_features.units), key=_hash)[: 2 * UNITS_A_HALF]
    half_of = {unit: i % 2 for i, unit in enumerate(units)}
    return tuple(
        bank_features.subset([i for i, unit in enumerate(bank_features.units) if half_of.get(unit) == half])
        for half in (0, 1)
    )


def halves_agree(first, second, features, recipe: Recipe) -> float | None:
    """Pearson's r of the maps that a recipe makes of ``features`` with either half of a bank."""
    a, b = (score_maps(recipe, half, features).ravel().astype(np.float64) for half in (first, second))
    return _finite(np.corrcoef(a, b)[0, 1])


def _sorted(features):
    return features.subset(sorted(range(len(features)), key=lambda i: (features.digests[i], features.units[i])))


def _hash(name: str) -> str:
    return hashlib.blake2b(name.encode(), key=KEY.encode(), digest_size=8).hexdigest()


def _finite(value) -> float | None:
    return float(value) if np.isfinite(value) else None


def _number(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.2f}"
