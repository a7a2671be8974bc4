"""The clock of the benchmarks: the shortest of several runs, for what disturbs a run only makes it longer."""

from __future__ import annotations

import time


def best_of(times: int, run) -> float:
    """The shortest wall time of ``times`` runs, in seconds."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
