"""Set a threshold without labels: a quantile of scores of bank tokens that the direction was not fitted on.

The bank is cross-fitted over its units: each token is scored by a direction that its unit did not feed. So the share of
tokens above the quantile q is 1 − q on pictures like the bank's, lesions or none: the threshold says how rare, not how
sick. What is kept are quantiles, a few kB whatever the bank's size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from covtoken.errors import CovtokenError

QUANTILE = 0.99
_HUNDREDTHS = [i / 100 for i in range(100)]
_TAIL = [1 - step * 10.0**-power for power in (2, 3, 4) for step in range(9, 0, -1)]
LEVELS = tuple(sorted({round(level, 6) for level in [*_HUNDREDTHS, *_TAIL, 1.0]}))


@dataclass(frozen=True)
class BankScores:
    """Quantiles of held-out scores of a bank.

    Attributes:
        scores: at ``LEVELS``, rising.
        n: tokens that they were taken of.
    """

    scores: tuple[float, ...]
    n: int

    @classmethod
    def of(cls, scores: np.ndarray) -> BankScores:
        """Summarise scores of any shape. Raises CovtokenError where there are none or some are not finite.

        >>> BankScores.of(np.arange(101.0)).at(0.99)
        99.0
        """
        values = np.asarray(scores, dtype=np.float64).ravel()
        if not values.size or not np.isfinite(values).all():
            raise CovtokenError(f"a bank's scores: expected finite numbers, got {values.size} with some that are not")
        return cls(tuple(float(value) for value in np.quantile(values, LEVELS)), int(values.size))

    def at(self, quantile: float) -> float:
        """Give the score at a quantile, linear between ``LEVELS``.

        Raises:
            CovtokenError: a quantile outside [0.5, 1), or so high that the bank has no token above it.
        """
        check_quantile(quantile)
        if quantile > 1 - 1 / self.n:
            raise CovtokenError(
                f"quantile {quantile:g}: the bank has {self.n} tokens, so none lies above it: {1 - 10 / self.n:.4f} at "
                "most is of use"
            )
        return float(np.interp(quantile, LEVELS, self.scores))

    def rank(self, score: float) -> float:
        """Give the share of the bank's tokens that lie below a score, 0 … 1."""
        return float(np.interp(score, self.scores, LEVELS))

    @property
    def scale(self) -> tuple[float, float]:
        """Lowest and highest score of the colours: the bank's median and its .9999 quantile."""
        low, high = (float(np.interp(level, LEVELS, self.scores)) for level in (0.5, 0.9999))
        return low, high if high > low else low + 1.0

    def to_json(self) -> dict:
        """Give what a direction's header keeps."""
        return {"levels": list(LEVELS), "scores": [float(f"{score:.7g}") for score in self.scores], "n": self.n}

    @classmethod
    def from_json(cls, data: object, source: str) -> BankScores:
        """Read what ``to_json`` gives; ``source`` begins the error."""
        scores = data.get("scores") if isinstance(data, dict) else None
        fits = isinstance(scores, list) and data.get("levels") == list(LEVELS) and len(scores) == len(LEVELS)
        if not fits or not all(isinstance(s, float | int) for s in scores) or not (np.diff(scores) >= 0).all():
            raise CovtokenError(
                f"{source} holds no held-out scores of its bank, so it sets no threshold: make it with `covtoken fit "
                "FOLDER -o direction.safetensors`"
            )
        return cls(tuple(map(float, scores)), int(data["n"]))


def check_quantile(quantile: float) -> None:
    """Refuse a quantile outside [0.5, 1). Raises CovtokenError."""
    if not 0.5 <= quantile < 1:
        raise CovtokenError(f"quantile {quantile:g}: expected 0.5 or more and below 1; 0.99 flags a hundredth")
