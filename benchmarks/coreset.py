"""A coreset of 10,000 out of 1,000,000 tokens of 64 values: python benchmarks/coreset.py [clustered]

The tokens are random ones of 384 values (around 200 centres, of falling width, if ``clustered``), made and projected
to 64 values chunk by chunk, so that only the projection is held. Prints wall seconds of the coreset alone and the
peak memory of the whole process.
"""

from __future__ import annotations

import resource
import sys
import time

import torch

from covtoken.bank.coreset import greedy_k_center

N, WIDTH, DIMS, SIZE, CHUNK = 1_000_000, 384, 64, 10_000, 10_000


def projected(clustered: bool) -> torch.Tensor:
    """[N, DIMS] float32, the same each time."""
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(WIDTH, DIMS, generator=generator) / DIMS**0.5
    centres = torch.randn(200, WIDTH, generator=generator)
    widths = 2 * torch.logspace(0, -2, WIDTH)
    points = torch.empty(N, DIMS)
    for start in range(0, N, CHUNK):
        tokens = torch.randn(CHUNK, WIDTH, generator=generator)
        if clustered:
            tokens = tokens * widths + centres[torch.randint(200, (CHUNK,), generator=generator)]
        points[start : start + CHUNK] = tokens @ projection
    return points


def main() -> None:
    torch.set_num_threads(2)
    clustered = "clustered" in sys.argv[1:]
    points = projected(clustered)
    start = time.perf_counter()
    chosen = greedy_k_center(points, SIZE)
    seconds = time.perf_counter() - start
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    kind = "clustered" if clustered else "plain"
    print(f"{kind}: {len(points):,} × {DIMS} → {len(chosen):,}: {seconds:.1f} s, peak {peak_gb:.2f} GB")


if __name__ == "__main__":
    main()
