"""Find exact nearest neighbours: by faiss on the CPU, by torch on a GPU, in chunks of queries and of bank.

Both engines expand ‖q − b‖² = ‖q‖² − 2 q·b + ‖b‖² in float32, which loses small distances between long vectors. So
vectors are centred first, a few more candidates than asked for are kept, and the distances of the candidates are
computed again from the differences themselves: duplicates come out at exactly 0.
"""

from __future__ import annotations

import faiss
import numpy as np
import torch

from covtoken.errors import CovtokenError

QUERY_CHUNK = 8192
BANK_CHUNK = 8192  # small enough that the centred copy costs little beside the search
SPARE = 8  # candidates beyond k, so that rounding in the search cannot push out a true neighbour

# faiss multiplies matrices only above this many queries (newer releases: queries × D). One picture's tokens, which
# leave out their own unit together, stay below its default, and the way without matrices takes four times as long.
faiss.cvar.distance_compute_blas_threshold = 20


def nearest(queries, bank, k: int, query_units=None, bank_units=None):
    """Find the k nearest bank tokens of every query, those of its own unit left out.

    Args:
        queries: [Q, D], numpy or torch, searched where they lie (a GPU tensor: on that GPU).
        bank: [B, D], numpy or torch.
        query_units: int [Q]; equal numbers mean the same unit.
        bank_units: int [B]; give both or neither.

    Returns:
        Euclidean distances [Q, k] float32, ascending, and indices [Q, k] int64 into ``bank``; torch if ``queries`` is.
        Which of several equally distant tokens is named at the edge of k is left open.

    Raises:
        CovtokenError: NaN or infinity, unequal widths, or a query with fewer than k tokens of other units.
    """
    as_torch = isinstance(queries, torch.Tensor)
    device = queries.device if as_torch else torch.device("cpu")
    q = torch.as_tensor(queries).to(torch.float32)
    b = torch.as_tensor(bank).to(device=device, dtype=torch.float32)
    _check(q, b)
    own, bank_units = _units(len(q), len(b), query_units, bank_units)
    order = np.argsort(bank_units, kind="stable")
    sorted_units = bank_units[order]
    if (order[1:] < order[:-1]).any():
        b = b[torch.as_tensor(order, device=device)]  # tokens of a unit side by side: leaving one out leaves two slices
    lo, hi = np.searchsorted(sorted_units, own, "left"), np.searchsorted(sorted_units, own, "right")
    short = len(b) - (hi - lo)
    if k < 1 or (len(q) and k > short.min()):
        raise CovtokenError(
            f"asked for {k} neighbours, but a query has only {short.min() if len(q) else len(b)} bank tokens of other "
            f"units among {len(b)}: lower k or give a bank of more units"
        )
    distances, indices = _search(q, b, k, _groups(lo, hi))
    indices = torch.as_tensor(order, device=device)[indices]
    return (distances, indices) if as_torch else (distances.numpy(), indices.numpy())


def mean_distance(queries, bank, k: int, query_units=None, bank_units=None):
    """Compute sparsity: the mean Euclidean distance to the k nearest tokens of other units, [Q] (book/method.md)."""
    return nearest(queries, bank, k, query_units, bank_units)[0].mean(1)


def _groups(lo: np.ndarray, hi: np.ndarray) -> list[tuple[np.ndarray, int, int]]:
    """Group queries that leave out the same slice lo:hi of the bank, at most QUERY_CHUNK a group: (queries, lo, hi)."""
    key = np.where(hi > lo, lo, -1)
    rows = np.argsort(key, kind="stable")
    same = np.split(rows, np.flatnonzero(np.diff(key[rows])) + 1) if len(rows) else []
    return [
        (group[i : i + QUERY_CHUNK], int(lo[group[0]]), int(hi[group[0]]))
        for group in same
        for i in range(0, len(group), QUERY_CHUNK)
    ]


def _search(q: torch.Tensor, b: torch.Tensor, k: int, groups) -> tuple[torch.Tensor, torch.Tensor]:
    """Search candidates chunk by chunk of the bank (each centred once for all queries), then measure them exactly."""
    wanted = k + SPARE
    centre = b[:: max(1, len(b) // 1024)].mean(0)
    values = torch.full((len(q), wanted), torch.inf, device=q.device)
    candidates = torch.zeros((len(q), wanted), dtype=torch.int64, device=q.device)
    groups = [(torch.as_tensor(rows, device=q.device), lo, hi) for rows, lo, hi in groups]
    engine = _torch_part if q.is_cuda else _faiss_part
    for start in range(0, len(b), BANK_CHUNK):
        stop = min(start + BANK_CHUNK, len(b))
        part = b[start:stop] - centre
        for rows, lo, hi in groups:
            centred, best, which = q[rows] - centre, values[rows], candidates[rows]
            pieces = ((start, min(stop, lo)), (max(start, hi), stop)) if hi > lo else ((start, stop),)
            for first, last in pieces:
                if first >= last:
                    continue
                near, at = engine(centred, part[first - start : last - start], min(wanted, last - first))
                best, pick = torch.topk(torch.cat([best, near], 1), wanted, largest=False)
                which = torch.cat([which, at + first], 1).gather(1, pick)
            values[rows], candidates[rows] = best, which
    distances = torch.empty((len(q), k), device=q.device)
    indices = torch.empty((len(q), k), dtype=torch.int64, device=q.device)
    for i in range(0, len(q), 256):
        where, order = candidates[i : i + 256].sort(1)  # equal distances then stand in the order of the bank
        exact = torch.linalg.vector_norm(b[where.reshape(-1)].view(*where.shape, -1) - q[i : i + 256, None], dim=2)
        exact[values[i : i + 256].gather(1, order).isinf()] = torch.inf  # places no token has filled
        exact, best = exact.sort(dim=1, stable=True)
        distances[i : i + 256], indices[i : i + 256] = exact[:, :k], where.gather(1, best[:, :k])
    return distances, indices


def _faiss_part(q: torch.Tensor, part: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    values, indices = faiss.knn(q.numpy(), part.numpy(), k)
    return torch.from_numpy(values), torch.from_numpy(indices)


def _torch_part(q: torch.Tensor, part: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    # ‖q‖² is the same for all of a row and is left out: it changes no order.
    squared = torch.addmm((part * part).sum(1)[None], q, part.T, alpha=-2)
    return torch.topk(squared, k, largest=False)


def _check(q: torch.Tensor, b: torch.Tensor) -> None:
    if q.ndim != 2 or b.ndim != 2 or q.shape[1] != b.shape[1]:
        raise CovtokenError(f"queries [Q, D] and bank [B, D] must share D, got {tuple(q.shape)} and {tuple(b.shape)}")
    for name, x in (("queries", q), ("bank", b)):
        # The sum is not finite if an entry is not; only then is it worth looking entry by entry.
        if len(x) and not torch.isfinite(x.sum()) and not torch.isfinite(x).all():
            raise CovtokenError(f"the {name} hold NaN or infinite values: a distance to them means nothing")


def _units(n_queries: int, n_bank: int, query_units, bank_units) -> tuple[np.ndarray, np.ndarray]:
    if (query_units is None) != (bank_units is None):
        raise CovtokenError("give units of both queries and bank, or of neither")
    if query_units is None:
        return np.full(n_queries, -1), np.zeros(n_bank, dtype=np.int64)
    own, other = (np.asarray(u.cpu() if isinstance(u, torch.Tensor) else u) for u in (query_units, bank_units))
    if own.shape != (n_queries,) or other.shape != (n_bank,):
        raise CovtokenError(f"units must be [{n_queries}] and [{n_bank}], got {own.shape} and {other.shape}")
    return own, other
