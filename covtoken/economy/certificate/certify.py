"""Calibrate a certificate from scores and the labels of the calibration split; masks are never read here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from covtoken.economy.certificate.bounds import check_level, expected_risk_bound, rank_bound, threshold_bound
from covtoken.economy.certificate.correction import (
    DELTA,
    N_RATIOS,
    check_test,
    learn_then_test,
    ratio_grid,
    union_level,
)
from covtoken.economy.certificate.document import Certificate, MadeBy, calibration_fingerprint
from covtoken.economy.certificate.label_free import share_lost, unit_disagreements
from covtoken.economy.certificate.losses import unit_losses
from covtoken.economy.certificate.needs import (
    lesion_needs,
    lesion_thresholds,
    lesion_units,
    unit_needs,
    unit_thresholds,
)
from covtoken.economy.certificate.strata import by_stratum, strictest
from covtoken.economy.keep import token_ranks
from covtoken.errors import CovtokenError, unknown
from covtoken.leak_guard import refuse_labels

SIZE = "size"


class Labels(Protocol):
    """What a calibration reads of labels, as ``evaluation.labels.SplitLabels`` has it."""

    @property
    def lesions(self) -> Sequence[Any]: ...  # each with its ``picture`` and ``tokens``

    @property
    def unit(self) -> np.ndarray: ...  # [N] int, indices into ``unit_names``

    @property
    def unit_names(self) -> Sequence[str]: ...


def certify(
    scores: np.ndarray,
    labels: Labels,
    alpha: float,
    made_by: MadeBy,
    form: str = "rank",
    *,
    strata: Mapping[str, Sequence[str]] | None = None,
    delta: float = DELTA,
) -> Certificate:
    """Calibrate a certificate on the units with a lesion.

    >>> from types import SimpleNamespace as Thing
    >>> from covtoken import MadeBy
    >>> lesions = [Thing(picture=i, tokens=np.array([i % 4])) for i in range(40)]  # a token each
    >>> labels = Thing(lesions=lesions, unit=np.arange(40), unit_names=[f"patient {i}" for i in range(40)])
    >>> scores = np.tile([4.0, 3, 2, 1, 0], (40, 1))  # of 5 tokens; high ones stay
    >>> certificate = certify(scores, labels, 0.1, MadeBy("C−", "mine", "", "", "fp32", 6, ""))
    >>> print(certificate.statement().splitlines()[0])
    4 of 5 tokens kept; every lesion retained with probability ≥ 0.9 (marginal, n = 40)

    Where strata of size are given, the setting is the strictest of the marginal bound and theirs: the size of a new
    lesion is unknown. The other strata are reported only.

    Args:
        scores: [N, T] of the calibration pictures, high scores are kept.
        labels: ``evaluation.labels.SplitLabels`` of those pictures, or anything with its ``lesions``, ``unit`` and
            ``unit_names``.
        alpha: share of units that may be lost (rank, threshold), or the bound of the expected 1 − recall.
        made_by: what made the scores.
        form: "rank", "threshold", "expected risk" or "learn-then-test".
        strata: axis ("organ", "modality", "size") → name of each lesion's stratum [L]; rank and threshold form only.
        delta: of Learn-then-Test.

    Raises:
        LabelLeak: something label-free is being built.
        CovtokenError: an α too small for n or for a stratum of size, said before any score is looked at; or scores that
            cannot be ranked.
    """
    refuse_labels("a certificate's calibration")
    lesions, unit = labels.lesions, np.asarray(labels.unit)
    strata = dict(strata or {})
    n = len(lesion_units(lesions, unit))
    _check_form(form, n, alpha, delta, strata)
    _check_sizes(strata.get(SIZE, ()), lesions, unit, alpha)
    n_tokens = _tokens(scores, unit)
    bounds, about, setting = (), {}, {"k": None, "threshold": None}
    if form in ("rank", "threshold"):
        by_rank = form == "rank"
        values = (lesion_needs if by_rank else lesion_thresholds)(scores, lesions)
        units, found = (unit_needs if by_rank else unit_thresholds)(values, lesions, unit)
        for axis, names in strata.items():
            bounds += by_stratum(values, lesions, unit, [f"{axis}: {name}" for name in names], alpha, form)
        sizes = [bound for bound in bounds if bound.name.startswith(f"{SIZE}: ")]
        marginal = (rank_bound if by_rank else threshold_bound)(found, alpha)
        worst = strictest(sizes, form) if sizes else marginal
        if by_rank:
            setting["k"] = int(max(marginal, worst))
        else:
            setting["threshold"] = float(min(marginal, worst))
    else:
        learned = form == "learn-then-test"
        ks = ratio_grid(n_tokens) if learned else np.arange(n_tokens, 0, -1)
        units, losses = lesion_units(lesions, unit), unit_losses(scores, lesions, unit, ks)
        found = losses.sum(axis=1)
        chosen = learn_then_test(losses, alpha, delta) if learned else expected_risk_bound(losses, alpha)
        setting["k"] = int(ks[chosen])
        about = {"delta": float(delta), "n_ratios": N_RATIOS} if learned else {}
    fingerprint = calibration_fingerprint(_names(labels, units), found)
    return Certificate(
        float(alpha), n, form, n_tokens, **setting, strata=bounds, made_by=made_by, calibration=fingerprint, about=about
    )


def certify_route(
    whole: np.ndarray,
    route: np.ndarray,
    labels: Labels,
    k_whole: int,
    alpha_label_free: float,
    alpha_labelled: float,
    made_by: MadeBy,
) -> Certificate:
    """Calibrate a route by its disagreement with the whole pass, and the whole pass by labels, and add both α.

    The labelled half holds k_whole against the bound of its own; both halves are over units with and without lesions,
    so the promise is not given a lesion. It is: P(the route loses a lesion of a new unit) ≤ α₁ + α₂.

    Args:
        whole: [N, T] scores of the unrouted pass.
        route: [N, T] scores at the tap.
        labels: as ``certify``, of those pictures.
        k_whole: tokens that the whole pass would keep, chosen on the selection split.
        alpha_label_free: α₁.
        alpha_labelled: α₂.
        made_by: what made the scores at the tap.

    Raises:
        LabelLeak: something label-free is being built.
        CovtokenError: an α too small for n, before any score is looked at; k_whole below what the labelled half needs.
    """
    refuse_labels("a certificate's calibration")
    lesions, unit = labels.lesions, np.asarray(labels.unit)
    alpha, n = union_level(alpha_label_free, alpha_labelled), len(np.unique(unit))
    for part in (alpha_label_free, alpha_labelled):
        check_level(n, part)
    n_tokens = _tokens(whole, unit)
    _, needs = unit_needs(lesion_needs(whole, lesions), lesions, unit, lesion_free=True)
    needed = max(1, int(rank_bound(needs, alpha_labelled)))
    if needed > k_whole:
        raise CovtokenError(
            f"k_whole = {k_whole}: alpha = {alpha_labelled} needs {needed} tokens of the whole pass; choose a larger "
            "k_whole on the selection split, or a larger alpha_labelled"
        )
    units, found = unit_disagreements(whole, route, k_whole, unit)
    k = int(rank_bound(found, alpha_label_free))
    about = {
        "alpha_label_free": float(alpha_label_free),
        "alpha_labelled": float(alpha_labelled),
        "k_whole": int(k_whole),
        "k_needed": needed,
        "share_lost": share_lost(whole, route, k_whole, k),
    }
    fingerprint = calibration_fingerprint(_names(labels, units), found)
    return Certificate(alpha, n, "route", n_tokens, k, None, (), made_by, fingerprint, about)


def _check_form(form, n, alpha, delta, strata) -> None:
    known = ["rank", "threshold", "expected risk", "learn-then-test"]
    if form not in known:
        raise unknown("form of certificate", str(form), known)
    if form == "learn-then-test":
        check_test(n, alpha, delta)
    else:
        check_level(n, alpha)
    if strata and form not in ("rank", "threshold"):
        raise CovtokenError(f"strata with form {form!r}: only rank and threshold form are certified by stratum")


def _check_sizes(names, lesions, unit, alpha) -> None:
    """Refuse a stratum of size with too few units: a setting for lesions of unknown size would have to keep all."""
    for name in sorted(set(names)):
        inside = [lesion for lesion, other in zip(lesions, names) if other == name]
        try:
            check_level(len(lesion_units(inside, unit)), alpha)
        except CovtokenError as error:
            raise CovtokenError(f"lesions of size {name!r}: {error}") from None


def _tokens(scores, unit) -> int:
    """Count the tokens of a picture; refuse scores of other pictures than the labels'."""
    n, n_tokens = token_ranks(scores).shape
    if n != len(unit):
        raise CovtokenError(f"scores of {n} pictures, labels of {len(unit)}: give both for the calibration pictures")
    return n_tokens


def _names(labels, units) -> list[str]:
    names = labels.unit_names
    return [str(names[int(u)]) if len(names) else str(int(u)) for u in units]
