"""Average locally on the token grid: tokens before they are scored, and score maps after."""

from __future__ import annotations

from numbers import Real

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

from covtoken.errors import CovtokenError


def pool3x3(tokens: torch.Tensor | np.ndarray, rows: int, cols: int) -> torch.Tensor | np.ndarray:
    """Pool tokens: ½ z + ½ the mean of z's 3 × 3 neighbourhood (book/method.md), edges replicated; type as ``tokens``.

    Args:
        tokens: [N, T, D] with T = rows · cols, row-major. Score maps go in as [N, T, 1].

    Raises:
        CovtokenError: no numbers, or not on that grid.
    """
    try:
        z = torch.as_tensor(tokens)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CovtokenError(f"expected tokens [N, {rows} × {cols}, D], got {tokens!r:.60}") from error
    n, t, d = _on_grid(z.shape, 3, rows, cols)
    grid = z.reshape(n, rows, cols, d).permute(0, 3, 1, 2)
    padded = torch.nn.functional.pad(grid, (1, 1, 1, 1), mode="replicate")
    mean = torch.nn.functional.avg_pool2d(padded, 3, stride=1)
    pooled = (0.5 * grid + 0.5 * mean).permute(0, 2, 3, 1).reshape(n, t, d)
    return pooled.numpy() if isinstance(tokens, np.ndarray) else pooled


def smooth(maps: np.ndarray, rows: int, cols: int, sigma: float) -> np.ndarray:
    """Smooth score maps [N, T] by a Gaussian of ``sigma`` tokens, edges replicated, float32; σ = 0 changes nothing.

    Raises:
        CovtokenError: no numbers, not on that grid, or a σ that is no number of 0 … T tokens.
    """
    try:
        values = np.asarray(maps, dtype=np.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CovtokenError(f"expected score maps [N, {rows} × {cols}], got {maps!r:.60}") from error
    n, t = _on_grid(values.shape, 2, rows, cols)
    if not isinstance(sigma, Real) or isinstance(sigma, bool) or not 0 <= sigma <= t:
        raise CovtokenError(f"sigma must be a number of 0 … {t} tokens, got {sigma!r}")
    if sigma == 0:
        return values
    grid = values.reshape(n, rows, cols)
    for axis in (1, 2):
        grid = gaussian_filter1d(grid, sigma, axis=axis, mode="nearest")
    return grid.reshape(n, t)


def _on_grid(shape, n_axes: int, rows: int, cols: int) -> tuple[int, ...]:
    if len(shape) != n_axes or shape[1] != rows * cols:
        form = "[N, T]" if n_axes == 2 else "[N, T, D]"
        raise CovtokenError(f"expected {form} with T = {rows} × {cols}, got {tuple(shape)}")
    return tuple(shape)
