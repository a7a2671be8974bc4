"""A coreset: few points such that every point has one near (greedy k-center, as PatchCore uses it)."""

from __future__ import annotations

import torch

from covtoken.errors import CovtokenError


def greedy_k_center(points: torch.Tensor, size: int, dims: int = 128, seed: int = 0) -> torch.Tensor:
    """Indices [size] of points chosen one by one, each the farthest from those chosen so far.

    Distances are taken after a seeded Gaussian projection to ``dims`` where that is fewer; one column of distances is
    held at a time, never N × N. It starts from the point nearest to the mean, so that no draw decides.

    Args:
        points: [N, D]. size: at most N are returned.
    """
    if points.ndim != 2 or len(points) == 0 or size < 1:
        raise CovtokenError(f"a coreset needs points [N, D] and size ≥ 1, got {tuple(points.shape)} and {size}")
    x = points.to(torch.float32)
    x = x - x.mean(0)
    if dims < x.shape[1]:
        generator = torch.Generator().manual_seed(seed)
        x = x @ (torch.randn(x.shape[1], dims, generator=generator) / dims**0.5).to(x.device)
    norms = (x * x).sum(1)
    latest = norms.argmin()
    chosen = [latest]
    nearest = torch.full_like(norms, torch.inf)
    for _ in range(min(size, len(x)) - 1):
        squared = torch.addmv(norms, x, x[latest], alpha=-2) + norms[latest]
        nearest = torch.minimum(nearest, squared)
        nearest[latest] = -torch.inf  # rounding must not choose a point twice
        latest = nearest.argmax()
        chosen.append(latest)
    return torch.stack(chosen)
