"""Time passes beside each other: medians over repeats in which they take turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch


def medians(runs: Sequence[Callable[[], object]], repeats: int, gpu: bool = False) -> list[float]:
    """Take the median seconds of each run; runs take turns, and the first round, which warms up, does not count.

    Args:
        runs: what is timed, without arguments.
        repeats: rounds that count.
        gpu: time by CUDA events, not by the processor's clock.
    """
    seconds: list[list[float]] = [[] for _ in runs]
    for repeat in range(repeats + 1):
        for run, mine in zip(runs, seconds, strict=True):
            elapsed = _on_gpu(run) if gpu else _on_cpu(run)
            if repeat:
                mine.append(elapsed)
    return [median(mine) for mine in seconds]


def _on_cpu(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _on_gpu(run: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3
