"""Score in bf16 where the processor multiplies it, and measure on a run's own pictures what that saves and changes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from covtoken.backbone.token_model import TokenModel
from covtoken.data.case import Case
from covtoken.data.intensity import to_input
from covtoken.errors import CovtokenError
from covtoken.maps.banks import Scorer

PRICED = 4  # pictures that are scored both ways
FLAGS = {"amx_bf16", "avx512_bf16"}


def precision_of(fast: bool, device: str) -> str:
    """Choose ``"bf16"`` where it is asked for and the device multiplies it, else ``"fp32"``.

    Args:
        device: auto, cpu or cuda.
    """
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        able = fast and torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = fast and bool(FLAGS & _flags())
    return "bf16" if able else "fp32"


def price(cases: Iterable[Case], scorer: Scorer, vit: TokenModel, precision: str) -> dict[str, Any]:
    """Score a few pictures in fp32 and in another precision, each after a turn to warm up.

    Returns:
        precision; pictures, seconds a picture both ways, rank correlation of their token scores and the largest
        difference in units of the score, or null with the reason in ``unknown_reason``.
    """
    known = dict.fromkeys(("pictures", "seconds_fp32", "seconds_fast", "rank_correlation", "largest_difference"))
    chosen = list(islice(_readable(cases, vit), PRICED)) if precision != "fp32" else []
    if not chosen:
        why = "this processor has no faster path" if precision == "fp32" else "no picture was left to be scored"
        return {"precision": precision, **known, "unknown_reason": why}
    alone, took, maps = replace(scorer, held=None), {}, {}
    for way in ("fp32", precision) * 2:
        started = time.perf_counter()
        maps[way] = np.stack([alone.maps([case], vit, way) for case in chosen])
        took[way] = round((time.perf_counter() - started) / len(chosen), 5)
    plain, fast = maps["fp32"], maps[precision]
    rank = spearmanr(plain, fast, axis=None).statistic if np.ptp(plain) and np.ptp(fast) else None
    gap = float(f"{np.abs(plain - fast).max():.4g}")
    found = len(chosen), took["fp32"], took[precision], None if rank is None else round(float(rank), 6), gap
    why = None if rank is not None else "the scores are the same everywhere, so they have no ranks"
    return {"precision": precision, **dict(zip(known, found, strict=True)), "unknown_reason": why}


def words(priced: dict[str, Any]) -> str:
    """Write what ``price`` found in a sentence."""
    if priced["pictures"] is None:
        return f"--fast: {priced['unknown_reason']}" + ("; going on in fp32" * (priced["precision"] == "fp32"))
    slower = "; it saves nothing here: leave it out" if priced["seconds_fast"] >= priced["seconds_fp32"] else ""
    return (
        f"--fast: {priced['seconds_fast']:.3f} s a picture in {priced['precision']}, {priced['seconds_fp32']:.3f} s in "
        f"fp32; rank correlation of the scores {priced['rank_correlation']}, largest difference "
        f"{priced['largest_difference']} (pictures: {priced['pictures']}){slower}"
    )


def _readable(cases: Iterable[Case], vit: TokenModel) -> Iterator[Case]:
    for case in cases:
        with suppress(CovtokenError, OSError):  # what is wrong with it is said where it is mapped
            to_input(case.pixels(), case, vit.input)
            yield case


def _flags() -> set[str]:
    """Read what the processor can do; on other systems than Linux, nothing is known."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.split())
    return set()
