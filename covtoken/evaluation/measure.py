"""Measure score maps, fresh or recorded, against labels: metrics with unit-bootstrap intervals."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from covtoken.errors import CovtokenError
from covtoken.evaluation import stats
from covtoken.evaluation.froc import froc
from covtoken.evaluation.labels import SplitLabels

N_DRAWS = 2000
FEWEST_FOR_INTERVAL = 5  # units
FP_RATES = (1, 4)


SHARES = {
    "miss",
    "miss_small",
    "recall_small",
    "constraint_met",
    "met_before_repair",
    "mu_falls",
    "froc",
    "organ_froc",
}  # of a count


@dataclass
class Measured:
    """Values and bootstrap draws by metric name, all on the same draws, so that differences are paired."""

    n: tuple[int, int, int]  # units, images, tokens behind every pooled number
    values: dict[str, float] = field(default_factory=dict)
    draws: dict[str, np.ndarray] = field(default_factory=dict)
    own_n: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # n by metric name, where fewer enter
    more: dict[str, dict[str, int]] = field(default_factory=dict)  # further counts by metric name, for report entries

    def add(self, name: str, value: float, draws: np.ndarray, n: tuple[int, int, int] | None = None) -> None:
        """Add a metric; ``n``: units, images, tokens, where they are not those of every pooled number."""
        self.values[name], self.draws[name] = float(value), draws
        if n is not None:
            self.own_n[name] = n

    def difference(self, name: str, a: str, b: str, of: Measured | None = None) -> None:
        """Add ``name`` = metric a − metric b, paired draw by draw; both must stand on the same tokens.

        Args:
            of: where b was measured (None: here), on the same pictures and draws.
        """
        of = of or self
        n, n_b = self.own_n.get(a), of.own_n.get(b)
        if n != n_b or self.n != of.n or self.draws[a].shape != of.draws[b].shape:
            raise CovtokenError(f"{a} and {b} stand on other tokens ({n}, {n_b}): they are not paired")
        self.add(name, self.values[a] - of.values[b], self.draws[a] - of.draws[b], n)

    def interval(self, name: str) -> tuple[float, float]:
        """Compute the 95 % percentile interval over units; NaN where fewer than five were evaluated."""
        if 0 < self.n[0] < FEWEST_FOR_INTERVAL:  # 0: every number has units of its own
            return np.nan, np.nan
        return stats.interval(self.draws[name])

    def entries(self) -> dict[str, dict]:
        """Give the report entries of all metrics.

        A share of exactly 0 or 1 gets ``exact95`` beside its bootstrap interval, which has no width there.
        """
        out = {}
        for name, value in self.values.items():
            units, images, tokens = self.own_n.get(name, self.n)
            low, high = (float(x) for x in self.interval(name))
            finite = np.isfinite([value, low, high])
            out[name] = {
                "value": float(value) if finite[0] else None,
                "ci95": [low, high] if finite[1:].all() else None,
                "n_units": units,
                "n_images": images,
                "n_tokens": tokens,
                **self.more.get(name, {}),
            }
            if SHARES & set(name.split(".")) and value in (0, 1) and low == high == value:
                out[name]["exact95"] = list(stats.clopper_pearson(round(value * units), units))
        return out


def measure(
    maps: dict[str, np.ndarray],
    labels: SplitLabels,
    rows: int,
    cols: int,
    *,
    full: tuple[str, ...] | None = None,
    image: Container[str] = (),
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> Measured:
    """Measure the AUROC of every map, and AUPR, image AUROC, FROC and in-organ numbers of the maps in ``full``.

    >>> from covtoken import label, open_cohort
    >>> cohort = open_cohort("phantom", n=40)
    >>> labels = label(cohort.cases[:4], cohort, rows=16, cols=16)
    >>> measure({"perfect": labels.lesion.astype(float)}, labels, 16, 16, n_draws=50).values["auroc.perfect"]
    1.0

    Metrics are named ``auroc.<name>``, ``aupr.<name>``, ``image_auroc.<name>``, ``froc.fp1.<name>``,
    ``froc.fp4.<name>``, and with ``organ_`` before for tokens inside the organ's mask, on the pictures that have a mask
    (left out where no lesion token or no other token lies there).

    Args:
        maps: [N, T] by name.
        labels: of the same pictures, in the same order.
        rows: of the token grid; T = rows × cols.
        full: names of maps to measure fully (None: all).
        image: names of maps that get image AUROC beside the pooled one.

    Raises:
        CovtokenError: maps that are no numbers [N, T] of the labels' pictures, or labels without lesion tokens or
            without others.
    """
    maps = _checked(maps, labels, rows, cols)
    keep = ~labels.ignore
    if not (labels.lesion & keep).any() or not (~labels.lesion & keep).any():
        raise CovtokenError("the evaluated pictures hold no lesion token (or no other): AUROC is not defined")
    names, unit = np.unique(labels.unit, return_inverse=True)
    weights = stats.unit_draws(len(names), n_draws, seed)
    lesion_unit = unit[[lesion.picture for lesion in labels.lesions]]
    out = Measured((len(names), len(unit), int(keep.sum())))
    organ = _in_organ(labels)
    for name, values in maps.items():
        _add_auroc(out, f"auroc.{name}", values, labels.lesion, keep, unit, weights)
        everything = full is None or name in full
        if everything or name in image:
            each = stats.image_auroc(values, labels.lesion, keep)
            held = np.flatnonzero(~np.isnan(each))  # lesion pictures alone
            n = (len(np.unique(unit[held])), len(held), int(keep[held].sum()))
            _add_mean(out, f"image_auroc.{name}", each, unit, weights, n if len(held) else None)
        if not everything:
            continue
        average = stats.aupr(values, labels.lesion, keep)
        out.add(f"aupr.{name}", average, stats.aupr_draws(values, labels.lesion, unit, weights, keep))
        for rate, point in froc(values.reshape(-1, rows, cols), labels, FP_RATES).items():
            _add_mean(out, f"froc.fp{rate:g}.{name}", point.hits, lesion_unit, weights)
            out.more[f"froc.fp{rate:g}.{name}"] = {"n_lesions": len(lesion_unit)}
        if organ is not None:
            _add_organ(out, name, values, organ, unit, weights)
    return out


def _checked(maps, labels, rows: int, cols: int) -> dict[str, np.ndarray]:
    """Give the maps as float64, each of the labels' pictures and tokens; the error says which is not."""
    if not isinstance(labels, SplitLabels):
        raise CovtokenError(f"measure takes labels as covtoken.label gives them, got {type(labels).__name__}")
    if not isinstance(maps, Mapping):
        raise CovtokenError(f"measure takes maps by name, such as {{'mine': maps}}, got {type(maps).__name__}")
    n, n_tokens = labels.lesion.shape
    if rows * cols != n_tokens:
        raise CovtokenError(f"a grid of {rows} × {cols} does not hold the labels' {n_tokens} tokens a picture")
    arrays = {}
    for name, values in maps.items():
        try:
            arrays[name] = array = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise CovtokenError(f"map {name!r}: expected numbers [{n}, {n_tokens}], got {values!r:.60}") from error
        if array.shape != (n, n_tokens) or np.isnan(array).any():
            came = f"got {list(array.shape)}" + (" with NaN" if np.isnan(array).any() else "")
            raise CovtokenError(f"map {name!r}: expected numbers [{n}, {n_tokens}], as the labels are, {came}")
    return arrays


@dataclass(frozen=True)
class _Organ:
    """The labels cut to the organ."""

    inside: np.ndarray  # [N, T] bool, tokens that count
    pictures: np.ndarray  # [n] indices of the pictures that have any
    labels: SplitLabels  # of those pictures, lesions cut to the organ; lesions without a token in it are left out
    left_out: int  # lesions without a token in the organ, on all pictures


def _in_organ(labels: SplitLabels) -> _Organ | None:
    """Cut the labels to the organ; None where it is without lesion tokens or holds no others."""
    if labels.organ is None:
        return None
    inside = labels.organ & ~labels.ignore
    if not (labels.lesion & inside).any() or not (~labels.lesion & inside).any():
        return None
    pictures = np.flatnonzero(inside.any(axis=1))
    place = {picture: row for row, picture in enumerate(pictures.tolist())}
    lesions = []
    for lesion in labels.lesions:
        tokens = lesion.tokens[labels.organ[lesion.picture, lesion.tokens]]
        if len(tokens):
            lesions.append(replace(lesion, tokens=tokens, picture=place[lesion.picture]))
    cut = replace(
        labels,
        lesion=(labels.lesion & labels.organ)[pictures],
        ignore=(labels.ignore | ~labels.organ)[pictures],
        organ=labels.organ[pictures],
        unit=labels.unit[pictures],
        lesions=tuple(lesions),
        names=(),
    )
    return _Organ(inside, pictures, cut, len(labels.lesions) - len(lesions))


def _add_organ(out: Measured, name: str, values, organ: _Organ, unit, weights) -> None:
    """Add the in-organ numbers of one map, each with the units, images and tokens that it stands on."""
    inside, lesion = organ.inside, np.zeros_like(organ.inside)
    lesion[organ.pictures] = organ.labels.lesion

    def n(pictures: np.ndarray) -> tuple[int, int, int]:
        return len(np.unique(unit[pictures])), len(pictures), int(inside[pictures].sum())

    everything = n(organ.pictures)
    _add_auroc(out, f"organ_auroc.{name}", values, lesion, inside, unit, weights, everything)
    average = stats.aupr(values, lesion, inside)
    out.add(f"organ_aupr.{name}", average, stats.aupr_draws(values, lesion, unit, weights, inside), everything)
    each = stats.image_auroc(values, lesion, inside)
    defined = np.flatnonzero(~np.isnan(each))
    if len(defined):
        _add_mean(out, f"organ_image_auroc.{name}", each, unit, weights, n(defined))
    # Below every score of the organ, tokens outside give no component and hide none at the organ's edge.
    only = np.where(organ.labels.organ, values[organ.pictures], -np.inf)
    lesion_unit = unit[organ.pictures][[lesion.picture for lesion in organ.labels.lesions]]
    grids = only.reshape(-1, organ.labels.rows, organ.labels.cols)
    for rate, point in froc(grids, organ.labels, FP_RATES).items():
        metric = f"organ_froc.fp{rate:g}.{name}"
        _add_mean(out, metric, point.hits, lesion_unit, weights, everything)
        out.more[metric] = {"n_lesions": len(lesion_unit), "n_lesions_outside": organ.left_out}


def _add_auroc(out: Measured, name: str, values, lesion, keep, unit, weights, n=None) -> None:
    wins = stats.UnitWins(values, lesion, unit, keep, weights.shape[1])
    out.add(name, wins.auroc(), wins.auroc(weights), n)


def _add_mean(out: Measured, name: str, values: np.ndarray, unit: np.ndarray, weights: np.ndarray, n=None) -> None:
    values = np.asarray(values, dtype=np.float64)
    out.add(name, np.nanmean(values), stats.mean_draws(values, unit, weights), n)
