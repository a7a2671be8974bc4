"""From score maps and labels to metrics with unit-bootstrap intervals; fresh and recorded maps alike."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from covtoken.errors import CovtokenError
from covtoken.evaluation import stats
from covtoken.evaluation.froc import froc
from covtoken.evaluation.labels import SplitLabels

N_DRAWS = 2000
FP_RATES = (1, 4)


@dataclass
class Measured:
    """Values and bootstrap draws by metric name, all on the same draws, so that differences are paired.

    Attributes:
        n: (units, images, tokens) behind every pooled number.
    """

    n: tuple[int, int, int]
    values: dict[str, float] = field(default_factory=dict)
    draws: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, name: str, value: float, draws: np.ndarray) -> None:
        self.values[name], self.draws[name] = float(value), draws

    def difference(self, name: str, a: str, b: str) -> None:
        """Add ``name`` = metric a − metric b, paired draw by draw."""
        self.add(name, self.values[a] - self.values[b], self.draws[a] - self.draws[b])

    def interval(self, name: str) -> tuple[float, float]:
        """The 95 % percentile interval over units."""
        return stats.interval(self.draws[name])

    def entries(self) -> dict[str, dict]:
        """Report entries of all metrics."""
        units, images, tokens = self.n
        out = {}
        for name, value in self.values.items():
            low, high = (float(x) for x in self.interval(name))
            finite = np.isfinite([value, low, high])
            out[name] = {
                "value": float(value) if finite[0] else None,
                "ci95": [low, high] if finite[1:].all() else None,
                "n_units": units,
                "n_images": images,
                "n_tokens": tokens,
            }
        return out


def measure(
    maps: dict[str, np.ndarray],
    labels: SplitLabels,
    rows: int,
    cols: int,
    *,
    full: tuple[str, ...] | None = None,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> Measured:
    """AUROC of every map [N, T]; for the names in ``full`` (default all) also AUPR, image AUROC, FROC, in-organ AUROC.

    Metric names are ``auroc.<name>``, ``aupr.<name>``, ``image_auroc.<name>``, ``froc.fp1.<name>``,
    ``froc.fp4.<name>``, ``organ_auroc.<name>``.

    Raises:
        CovtokenError: the split holds no lesion token, or nothing else.
    """
    keep = ~labels.ignore
    if not (labels.lesion & keep).any() or not (~labels.lesion & keep).any():
        raise CovtokenError("the evaluated pictures hold no lesion token (or no other): AUROC is not defined")
    names, unit = np.unique(labels.unit, return_inverse=True)
    weights = stats.unit_draws(len(names), n_draws, seed)
    lesion_unit = unit[[lesion.picture for lesion in labels.lesions]]
    out = Measured((len(names), len(unit), int(keep.sum())))
    for name, values in maps.items():
        values = np.asarray(values, dtype=np.float64)
        _add_auroc(out, f"auroc.{name}", values, labels.lesion, keep, unit, weights)
        if full is not None and name not in full:
            continue
        average = stats.aupr(values, labels.lesion, keep)
        out.add(f"aupr.{name}", average, stats.aupr_draws(values, labels.lesion, unit, weights, keep))
        _add_mean(out, f"image_auroc.{name}", stats.image_auroc(values, labels.lesion, keep), unit, weights)
        for rate, point in froc(values.reshape(-1, rows, cols), labels, FP_RATES).items():
            _add_mean(out, f"froc.fp{rate:g}.{name}", point.hits, lesion_unit, weights)
        if labels.organ is not None:
            inside = keep & labels.organ
            if (labels.lesion & inside).any() and (~labels.lesion & inside).any():
                _add_auroc(out, f"organ_auroc.{name}", values, labels.lesion, inside, unit, weights)
    return out


def _add_auroc(out: Measured, name: str, values, lesion, keep, unit, weights) -> None:
    wins = stats.UnitWins(values, lesion, unit, keep, weights.shape[1])
    out.add(name, wins.auroc(), wins.auroc(weights))


def _add_mean(out: Measured, name: str, values: np.ndarray, unit: np.ndarray, weights: np.ndarray) -> None:
    values = np.asarray(values, dtype=np.float64)
    out.add(name, np.nanmean(values), stats.mean_draws(values, unit, weights))
