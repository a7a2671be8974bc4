"""Time passes beside each other: repeats in which they take turns, their medians, and quartiles of their ratios."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median, quantiles

import torch


def medians(runs: Sequence[Callable[[], object]], repeats: int, gpu: bool = False) -> list[float]:
    """Take the median seconds of each run; see ``seconds_of``."""
    return [median(spent) for spent in seconds_of(runs, repeats, gpu)]


def ratios(whole: Sequence[float], spent: Sequence[float]) -> tuple[float, float, float]:
    """Divide the seconds of one run by those of another, round by round: median and quartiles.

    What slows the machine for a while slows both runs of a round: a ratio within a round varies less than seconds do.
    """
    each = sorted(a / b for a, b in zip(whole, spent, strict=True))
    low, middle, high = quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
    return middle, low, high


def seconds_of(runs: Sequence[Callable[[], object]], repeats: int, gpu: bool = False) -> list[list[float]]:
    """Time each run, a list of seconds each; runs take turns, and the first round, which warms up, does not count.

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
    return seconds


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
