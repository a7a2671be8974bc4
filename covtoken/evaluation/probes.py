"""Fit frozen linear probes to labels, to ask whether features still do a job (book/method.md). Evaluation only.

Two jobs: tell lesion tokens from others, and tell malignant from benign pictures. A probe is a logistic regression
(``covtoken.evaluation.logistic``) whose strength of penalty is chosen on held-out units of the training split. Classes
are not weighted: AUROC and AP look at ranks, Dice has a threshold of its own, and weights would only cost precision. To
train one probe on two passes, concatenate their tokens, labels and units; a unit stays in one fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from covtoken.errors import CovtokenError
from covtoken.evaluation.logistic import fit_logistic
from covtoken.leak_guard import refuse_labels

SEGMENTATION_STRENGTHS = (1e-1, 1e-2, 1e-3, 1e-4)
MALIGNANCY_STRENGTHS = (1e1, 1.0, 1e-1, 1e-2)  # more features than pictures
CHUNK = 16_384  # rows held in float64 at a time
_LARGEST = 6e4  # below the largest float16


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """Score features by a linear map to log odds.

    Attributes:
        weight: [F] float64, of features as they come: the standardisation is folded in.
        bias: log odds of features of zeros.
        strength: of the penalty, as cross-validation chose it.
        threshold: the score from which on a token counts as lesion, with the best Dice on the training tokens; a
            float16 value, for scores as ``recordable`` rounds them. NaN for a probe of pictures.
    """

    weight: np.ndarray = field(repr=False)
    bias: float
    strength: float
    threshold: float = float("nan")

    def scores(self, x: Tensor | np.ndarray) -> np.ndarray:
        """Compute the log odds [...] float64 of features [..., F].

        Raises:
            LabelLeak: something label-free is being built, and a probe knows labels.
            CovtokenError: features of another width.
        """
        refuse_labels("the scores of a probe")
        x = torch.as_tensor(x)
        if x.shape[-1] != len(self.weight):
            raise CovtokenError(f"the probe takes features [..., {len(self.weight)}], got {list(x.shape)}")
        weight = torch.from_numpy(self.weight)
        rows = x.reshape(-1, x.shape[-1]).split(CHUNK)
        return (
            torch.cat([part.to("cpu", torch.float64) @ weight + self.bias for part in rows])
            .numpy()
            .reshape(x.shape[:-1])
        )


def fit_segmentation(
    tokens: Tensor | np.ndarray,
    lesion: np.ndarray,
    ignore: np.ndarray,
    unit: np.ndarray,
    strengths: Sequence[float] = SEGMENTATION_STRENGTHS,
) -> LinearProbe:
    """Fit a probe that tells lesion tokens from others, with the threshold of best Dice on the training tokens.

    Args:
        tokens: [N, T, D], computed in their own precision, at least float32.
        lesion: [N, T] bool.
        ignore: [N, T] bool, tokens to leave out.
        unit: [N], a unit a picture.
        strengths: of the penalty, to choose from.

    Raises:
        LabelLeak: something label-free is being built.
        CovtokenError: other shapes, tokens that are not finite, or a class in fewer than three units.
    """
    refuse_labels("a probe")
    tokens, lesion, ignore, unit = torch.as_tensor(tokens), np.asarray(lesion), np.asarray(ignore), np.asarray(unit)
    if (
        tokens.ndim != 3
        or not lesion.shape == ignore.shape == tuple(tokens.shape[:2])
        or unit.shape != lesion.shape[:1]
    ):
        raise CovtokenError(
            f"a probe needs tokens [N, T, D], labels [N, T] and units [N], got {list(tokens.shape)}, "
            f"{list(lesion.shape)}, {list(ignore.shape)} and {list(unit.shape)}"
        )
    keep = ~ignore.astype(bool)
    x, y = tokens[torch.from_numpy(keep)], lesion[keep].astype(bool)
    units = np.broadcast_to(unit[:, None], keep.shape)[keep]
    probe = LinearProbe(*fit_logistic(x, y, units, strengths))
    return replace(probe, threshold=_best_dice(recordable(probe.scores(x)), y))


def fit_malignancy(
    features: Tensor | np.ndarray,
    malignant: np.ndarray,
    unit: np.ndarray,
    strengths: Sequence[float] = MALIGNANCY_STRENGTHS,
) -> LinearProbe:
    """Fit a probe that tells malignant pictures from benign ones, under a stronger penalty than that of tokens.

    Args:
        features: [N, F], such as ``picture_features`` gives them.
        malignant: [N], bool, or as ``diagnoses`` gives it; pictures of −1 are left out.
        unit: [N], a unit a picture.
        strengths: of the penalty, to choose from.

    Raises:
        LabelLeak: something label-free is being built.
        CovtokenError: other shapes, features that are not finite, or a class in fewer than three units.
    """
    refuse_labels("a probe")
    features, told, unit = torch.as_tensor(features), np.asarray(malignant).astype(np.int8), np.asarray(unit)
    if features.ndim != 2 or not told.shape == unit.shape == tuple(features.shape[:1]):
        raise CovtokenError(
            f"a probe needs features [N, F], diagnoses [N] and units [N], got {list(features.shape)}, "
            f"{list(told.shape)} and {list(unit.shape)}"
        )
    keep = told >= 0
    return LinearProbe(*fit_logistic(features[torch.from_numpy(keep)], told[keep] == 1, unit[keep], strengths))


def picture_features(tokens: Tensor | np.ndarray, prefix: Tensor | np.ndarray) -> Tensor:
    """Concatenate the class token and the mean patch token of each picture, [N, 2 D].

    Args:
        tokens: patch tokens [N, T, D].
        prefix: [N, P, D], the class token first; registers after it are left out.
    """
    tokens, prefix = torch.as_tensor(tokens), torch.as_tensor(prefix)
    if tokens.ndim != 3 or prefix.ndim != 3 or prefix.shape[1] == 0 or tokens.shape[::2] != prefix.shape[::2]:
        raise CovtokenError(
            f"expected tokens [N, T, D] and prefix [N, P, D], got {list(tokens.shape)}, {list(prefix.shape)}"
        )
    return torch.cat([prefix[:, 0], tokens.mean(1)], dim=1)


def recordable(scores: np.ndarray) -> np.ndarray:
    """Round scores to float16 as records hold them, cut to its range. Raises CovtokenError on NaN."""
    scores = np.asarray(scores)
    if np.isnan(scores).any():
        raise CovtokenError(f"{int(np.isnan(scores).sum())} of {scores.size} probe scores are NaN")
    return np.clip(scores, -_LARGEST, _LARGEST).astype(np.float16)


def _best_dice(scores: np.ndarray, positive: np.ndarray) -> float:
    """Find the score from which on taking tokens gives the best Dice; the highest such score."""
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(positive[order])
    dice = 2 * hits / (np.arange(len(hits)) + 1 + hits[-1])
    last = np.append(scores[1:] != scores[:-1], True)  # equal scores are taken together
    return float(scores[last][dice[last].argmax()])
