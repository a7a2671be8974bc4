"""Measure what probes score on the passes of a route, against the full pass on the same draws of units."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from covtoken.errors import CovtokenError
from covtoken.evaluation import stats
from covtoken.evaluation.labels import SplitLabels
from covtoken.evaluation.measure import N_DRAWS, Measured
from covtoken.evaluation.probes import recordable

FULL = "full"
TASKS = ("segmentation_auroc", "segmentation_ap", "segmentation_dice", "malignancy")


def add_probe_metrics(
    measured: Measured,
    scores: Mapping[str, Mapping[str, np.ndarray | None]],
    thresholds: Mapping[str, float],
    labels: SplitLabels,
    malignant: np.ndarray | None = None,
    *,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> None:
    """Add ``probe.<task>.<route>`` of every route, and ``probe_gain.<task>.<route>_minus_full`` of every other.

    Tasks: ``segmentation_auroc``, ``segmentation_ap`` and ``segmentation_dice``, pooled over the tokens that count, and
    ``malignancy``, the AUROC over pictures with a diagnosis, left out where a class has none. Scores are rounded by
    ``recordable`` first, so that recorded ones give the same numbers.

    Args:
        measured: takes the metrics.
        scores: by route, among them ``"full"``: ``"segmentation"`` [N, T] and ``"malignancy"`` [N] or None.
        thresholds: by route, the threshold of the probe that scored its tokens.
        labels: of the same pictures, in the same order.
        malignant: [N] as ``diagnoses`` gives it, or None.
        n_draws, seed: of the bootstrap over units; as in ``measure``, so that all differences are paired.

    Raises:
        CovtokenError: no full pass, a route without threshold, other shapes, NaN scores, no lesion token or no other.
    """
    if FULL not in scores or set(scores) - set(thresholds):
        raise CovtokenError(
            f"probes need scores of the pass {FULL!r} and a threshold of every route, got scores of "
            f"{', '.join(scores) or 'none'} and thresholds of {', '.join(thresholds) or 'none'}"
        )
    keep = ~labels.ignore
    if not (labels.lesion & keep).any() or not (~labels.lesion & keep).any():
        raise CovtokenError("the pictures hold no lesion token (or no other): probes cannot be measured on them")
    names, unit = np.unique(labels.unit, return_inverse=True)
    weights = stats.unit_draws(len(names), n_draws, seed)
    held = _diagnosed(malignant, len(unit))
    n = (len(names), len(unit), int(keep.sum()))
    n_held = (len(np.unique(unit[held])), len(held), len(held) * keep.shape[1])
    for route in (FULL, *(route for route in scores if route != FULL)):
        tokens = _rounded(scores[route]["segmentation"], keep.shape, f"segmentation scores of {route!r}")
        wins = stats.UnitWins(tokens, labels.lesion, unit, keep, len(names))
        measured.add(f"probe.segmentation_auroc.{route}", wins.auroc(), wins.auroc(weights), n)
        average = stats.aupr(tokens, labels.lesion, keep)
        draws = stats.aupr_draws(tokens, labels.lesion, unit, weights, keep)
        measured.add(f"probe.segmentation_ap.{route}", average, draws, n)
        each = _dice_counts(tokens >= np.float16(thresholds[route]), labels.lesion, keep, unit, len(names))
        measured.add(f"probe.segmentation_dice.{route}", dice(each.sum(0)), dice(weights @ each), n)
        pictures = scores[route].get("malignancy")
        if len(held) and pictures is not None:
            pictures = _rounded(pictures, unit.shape, f"malignancy scores of {route!r}")[held]
            wins = stats.UnitWins(pictures, malignant[held] == 1, unit[held], n_units=len(names))
            measured.add(f"probe.malignancy.{route}", wins.auroc(), wins.auroc(weights), n_held)
        for task in TASKS if route != FULL else ():
            own, full = f"probe.{task}.{route}", f"probe.{task}.{FULL}"
            if own in measured.values and full in measured.values:
                measured.difference(f"probe_gain.{task}.{route}_minus_{FULL}", own, full)


def dice(counts: np.ndarray) -> np.ndarray:
    """Compute Dice from counts [..., 3] of true positives, tokens taken and lesion tokens; NaN where both are none."""
    hits, taken, lesion = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    total = taken + lesion
    return np.divide(2 * hits, total, out=np.full(np.shape(total), np.nan), where=total > 0)


def _dice_counts(taken, lesion, keep, unit, n_units: int) -> np.ndarray:
    """Count the true positives, taken tokens and lesion tokens of each unit, [U, 3]."""
    each = [(part & keep).sum(1) for part in (taken & lesion, taken, lesion)]
    return np.stack([np.bincount(unit, weights=count, minlength=n_units) for count in each], axis=1)


def _diagnosed(malignant: np.ndarray | None, n: int) -> np.ndarray:
    """Find the pictures with a diagnosis; none where a class has none."""
    if malignant is None:
        return np.empty(0, dtype=np.int64)
    if np.shape(malignant) != (n,):
        raise CovtokenError(f"expected a diagnosis of each of {n} pictures, got {list(np.shape(malignant))}")
    both = (malignant == 0).any() and (malignant == 1).any()
    return np.flatnonzero((malignant >= 0) & both)


def _rounded(scores: np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
    if np.shape(scores) != tuple(shape):
        raise CovtokenError(f"{what}: expected {list(shape)}, as the labels are, got {list(np.shape(scores))}")
    return recordable(scores)
