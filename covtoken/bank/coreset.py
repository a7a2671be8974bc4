"""Choose a coreset: few points such that every point has a chosen one near (greedy k-center, as PatchCore uses it).

The next centre is the farthest point, as in the plain loop; only the order of work differs. Every point but the
``CANDIDATES`` farthest lies within some distance t of a centre, and distances only fall. So while a candidate is
farther than t, the farthest candidate is the farthest point, and the other points need not be looked at. Once none is,
they catch up with all new centres together, in one matrix product instead of many products with a vector.
"""

from __future__ import annotations

import torch

from covtoken.errors import CovtokenError

CANDIDATES = 16_384  # the farthest points, which alone follow each new centre; up to so many points it is a plain loop
ROWS = 16_384  # points times NEW centres: a block of distances small enough for the cache
NEW = 256


def greedy_k_center(points: torch.Tensor, size: int, dims: int = 128, seed: int = 0) -> torch.Tensor:
    """Choose points one by one, each the farthest from those chosen so far: indices [min(size, N)] into points [N, D].

    >>> greedy_k_center(torch.tensor([[0.0], [0.1], [5.0], [9.0]]), 2).tolist()
    [2, 0]

    Distances are taken after a seeded Gaussian projection to ``dims`` where that is fewer, in float32: points that are
    equally far but for rounding may come in either order. It starts from the point nearest to the mean, so that no
    draw decides. Memory: the points, their centred copy, and a block of distances, never N × N.

    Raises:
        CovtokenError: no such points, NaN among them, or a size below 1.
    """
    if not isinstance(points, torch.Tensor):
        raise CovtokenError(f"a coreset needs points, a tensor [N, D], got {type(points).__name__}")
    if points.ndim != 2 or len(points) == 0 or size < 1:
        raise CovtokenError(f"a coreset needs points [N, D] and size ≥ 1, got {tuple(points.shape)} and {size}")
    x = points.to(torch.float32)
    x = x - x.mean(0)
    if dims < x.shape[1]:
        generator = torch.Generator().manual_seed(seed)
        x = x @ (torch.randn(x.shape[1], dims, generator=generator) / dims**0.5).to(x.device)
    return farthest_first(x, size)


def farthest_first(x: torch.Tensor, size: int, candidates: int = CANDIDATES) -> torch.Tensor:
    """Choose greedily among points [N, D] float32, from the point nearest to the origin: indices [min(size, N)].

    Raises:
        CovtokenError: NaN or infinity: every later distance would be as bad.
    """
    norms = (x * x).sum(1)
    if not torch.isfinite(norms).all():
        raise CovtokenError("the points hold NaN or infinite values, or overflow float32: no distance to them is known")
    size = min(size, len(x))
    nearest = torch.full_like(norms, torch.inf)  # squared, to the chosen; −∞ for the chosen themselves
    new = norms.argmin()[None]
    if len(x) <= candidates:
        return _follow(x, norms, nearest, new[0], size, -torch.inf)
    chosen = new
    while len(chosen) < size:
        _catch_up(nearest, x, norms, new)
        bound = nearest.topk(candidates + 1, sorted=False).values.min()
        rows = (nearest > bound).nonzero()[:, 0]
        rows = rows if len(rows) else nearest.argmax()[None]  # more points than candidates are equally far
        first = nearest[rows].argmax()
        new = rows[_follow(x[rows], norms[rows], nearest[rows], first, size - len(chosen), bound)]
        chosen = torch.cat([chosen, new])
    return chosen


def _follow(x, norms, nearest, first: torch.Tensor, size: int, bound) -> torch.Tensor:
    """Choose ``first``, then the farthest point each time, up to ``size`` and while it is farther than ``bound``."""
    chosen = [first]
    while len(chosen) < size:
        latest = chosen[-1]
        squared = torch.addmv(norms, x, x[latest], alpha=-2) + norms[latest]
        nearest = torch.minimum(nearest, squared)
        nearest[latest] = -torch.inf  # rounding must not choose a point twice
        latest = nearest.argmax()
        if nearest[latest] <= bound:
            break
        chosen.append(latest)
    return torch.stack(chosen)


def _catch_up(nearest: torch.Tensor, x: torch.Tensor, norms: torch.Tensor, new: torch.Tensor) -> None:
    """Lower ``nearest`` [N] in place to the squared distances to the centres ``new``, block by block."""
    for centres in new.split(NEW):
        c, c_norms = x[centres], norms[centres]
        for start in range(0, len(x), ROWS):
            part = slice(start, start + ROWS)
            squared = torch.addmm(c_norms, x[part], c.T, alpha=-2).amin(1) + norms[part]
            torch.minimum(nearest[part], squared, out=nearest[part])
    nearest[new] = -torch.inf
