"""Fit L2-regularised logistic regression to many rows, fast, with the penalty chosen on held-out units.

On standardised features it minimises the mean of log(1 + exp(∓z)) plus strength / 2 · |weight|², the intercept free:
scikit-learn's objective at C = 1 / (n · strength). The strength is that of the lowest loss on held-out units.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from covtoken.errors import CovtokenError
from covtoken.leak_guard import refuse_labels

N_FOLDS = 3


def fit_logistic(
    x: Tensor, y: np.ndarray, unit: np.ndarray, strengths: Sequence[float]
) -> tuple[np.ndarray, float, float]:
    """Choose the strength of the penalty on held-out units, and fit all rows.

    Args:
        x: [n, F]; computed in float64 where it comes so, else in float32.
        y: [n] bool.
        unit: [n], of any sortable kind.
        strengths: to choose from.

    Returns:
        weight [F] float64 and intercept, for features as they came, and the strength.

    Raises:
        LabelLeak: something label-free is being built.
        CovtokenError: features that are not finite, a class in fewer than three units, or no convergence.
    """
    refuse_labels("a probe")
    x = x.to("cpu", x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32)
    fold, target = _folds(y, unit), torch.from_numpy(y).to(x.dtype)
    mean, spread = x.mean(0), x.std(0, correction=0)
    if not torch.isfinite(spread).all():
        raise CovtokenError("a probe needs finite features, got NaN or infinite ones")
    spread[spread <= 1e-6 * mean.abs()] = 1  # constant features stay zero
    x = (x - mean).div_(spread)
    eigen = torch.linalg.eigh((x.T @ x).double() / len(x))

    strengths = sorted(strengths, reverse=True)  # from the strongest: each solution is the next one's start
    held_out = np.zeros(len(strengths))
    for k in range(N_FOLDS):
        counts, found = torch.from_numpy(fold != k).to(x.dtype), None
        for i, strength in enumerate(strengths):
            found = _solve(x, target, counts, strength, eigen, found, tolerance=1e-3)
            held_out[i] += _losses(x, target, found)[fold == k].sum().item()
    strength = strengths[int(held_out.argmin())]
    *weight, bias = _solve(x, target, torch.ones_like(target), strength, eigen, found, tolerance=1e-5)
    weight = np.array(weight) / spread.double().numpy()
    return weight, float(bias - weight @ mean.double().numpy()), strength


def _solve(x, y, counts, strength, eigen, start, tolerance) -> np.ndarray:
    """Minimise the mean loss of the rows that ``counts`` [n], plus the penalty; give [weight, bias], [F + 1] float64.

    L-BFGS walks in the eigenvectors of xᵀx, scaled so that the curvature is about one in all directions: it takes some
    ten steps instead of hundreds, and a gradient of ``tolerance`` leaves an error of about that size in log odds.
    """
    n = counts.sum().item()
    prior = float(counts @ y) / n
    curvature = prior * (1 - prior)
    values, vectors = (part.numpy() for part in eigen)
    scale = np.append((curvature * values.clip(0) + strength) ** -0.5, curvature**-0.5)

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        at = scale * at
        weight, bias = vectors @ at[:-1], at[-1]
        z = torch.mv(x, torch.from_numpy(weight).to(x.dtype)) + bias
        value = torch.dot(counts.double(), _loss_of(z, y).double()).item() / n + strength / 2 * weight @ weight
        residual = (torch.sigmoid(z) - y) * counts / n
        slope = torch.mv(x.T, residual).double().numpy() + strength * weight
        return value, scale * np.append(vectors.T @ slope, residual.double().sum().item())

    if start is None:
        start = np.append(np.zeros(x.shape[1]), np.log(prior / (1 - prior)))
    start = np.append(vectors.T @ start[:-1], start[-1]) / scale
    options = {"gtol": tolerance, "ftol": 0.0, "maxiter": 500, "maxcor": 20}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    if not np.abs(found.jac).max() < max(10 * tolerance, 1e-3):
        raise CovtokenError(f"a probe of strength {strength:g} did not converge: {found.message}")
    at = scale * found.x
    return np.append(vectors @ at[:-1], at[-1])


def _losses(x: Tensor, y: Tensor, solution: np.ndarray) -> Tensor:
    weight = torch.from_numpy(solution[:-1]).to(x.dtype)
    return _loss_of(torch.mv(x, weight) + float(solution[-1]), y).double()


def _loss_of(z: Tensor, y: Tensor) -> Tensor:
    return torch.nn.functional.softplus(z) - y * z


def _folds(y: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Deal units to folds, [n] int: units of positives alone, of both and of others alone, each by their positives.

    The units that hold a class then lie side by side, so that each fold gets some of either class.
    """
    names, unit = np.unique(unit, return_inverse=True)
    positives = np.bincount(unit, weights=y, minlength=len(names))
    others = np.bincount(unit, weights=~y, minlength=len(names))
    held = [int((count > 0).sum()) for count in (positives, others)]
    if min(held) < N_FOLDS:
        raise CovtokenError(
            f"a probe needs each class in at least {N_FOLDS} units, got positives in {held[0]} and others in {held[1]}"
        )
    fold = np.empty(len(names), dtype=np.int64)
    alone = (positives == 0).astype(int) - (others == 0)  # −1: positives alone, 1: others alone
    fold[np.lexsort((-positives, alone))] = np.arange(len(names)) % N_FOLDS
    return fold[unit]
