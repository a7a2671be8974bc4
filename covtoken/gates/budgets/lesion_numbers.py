"""Metrics of lesions from records: miss rates and recalls with intervals over units, each with its own n."""

from __future__ import annotations

import numpy as np

from covtoken.economy.keep import recall
from covtoken.evaluation import stats
from covtoken.evaluation.measure import N_DRAWS, Measured
from covtoken.evaluation.records import Records

SEED = 0


class LesionNumbers:
    """Adds metrics of L lesions on N pictures to ``measured``, all on the same draws of units.

    Attributes:
        size: [L] tokens of each lesion.
        small: [L] bool.
        picture: [L] index of each lesion's picture.
        unit: [L] unit of each lesion.
        image_unit: [N] unit of each picture.
    """

    def __init__(self, records: Records) -> None:
        self.size, self.small = records["lesion/size"], records["lesion/small"].astype(bool)
        self.picture, self.image_unit = records["lesion/picture"], records["unit"]
        self.unit = self.image_unit[self.picture]
        n_units, n_images = len(records.header["units"]), len(self.image_unit)
        self.n_tokens = records.header["n_tokens"]
        self.weights = stats.unit_draws(n_units, N_DRAWS, SEED)
        self.measured = Measured((n_units, n_images, n_images * self.n_tokens))

    def add(self, name: str, values: np.ndarray) -> np.ndarray:
        """Add the mean over the lesions where ``values`` [L] is not NaN; return its draws."""
        held = np.flatnonzero(~np.isnan(values))
        draws = stats.mean_draws(values, self.unit, self.weights)
        self.measured.add(name, values[held].mean() if len(held) else np.nan, draws, self._n(held))
        self.measured.more[name] = {"n_lesions": len(held)}
        return draws

    def add_images(self, name: str, values: np.ndarray) -> None:
        """Add the mean over the pictures where ``values`` [N] is not NaN."""
        held = np.flatnonzero(~np.isnan(values))
        n = (len(np.unique(self.image_unit[held])), len(held), len(held) * self.n_tokens)
        draws = stats.mean_draws(values, self.image_unit, self.weights)
        self.measured.add(name, values[held].mean() if len(held) else np.nan, draws, n)

    def add_recall(self, name: str, counts: np.ndarray) -> None:
        """Add the kept share of small lesions' tokens, a ratio of sums in the draws too; counts [L], −1: unseen."""
        held = self.small & (counts >= 0)
        n_units = self.weights.shape[1]
        kept, all_ = (np.bincount(self.unit, np.where(held, each, 0), n_units) for each in (counts, self.size))
        with np.errstate(invalid="ignore", divide="ignore"):
            draws = (self.weights @ kept) / (self.weights @ all_)
        self.measured.add(name, recall(counts[held], self.size[held]), draws, self._n(np.flatnonzero(held)))
        self.measured.more[name] = {"n_lesions": int(held.sum())}

    def _n(self, held: np.ndarray) -> tuple[int, int, int]:
        pictures = np.unique(self.picture[held])
        return len(np.unique(self.unit[held])), len(pictures), len(pictures) * self.n_tokens
