"""Time gate 6's settings on this machine: the plain pass, routes, a pass that stops early and merging take turns.

No picture is read. Directions, banks and exit maps hold random numbers: they cost what fitted ones cost. All savings
are net of scores, searches and exit maps.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from covtoken.backbone.vit import FrozenViT
from covtoken.backbone.weights import load_backbone
from covtoken.bank.neighbors import nearest
from covtoken.economy.exit_maps import AffineMap, ExitMaps
from covtoken.economy.flops import route_flops, vit_flops
from covtoken.economy.merge_passes import merged_tokens
from covtoken.economy.merge_schedules import merging_flops, schedules_for
from covtoken.economy.passes import stop_early_block_for, stop_early_flops
from covtoken.economy.routing import route_through
from covtoken.economy.stages import Stage
from covtoken.economy.timing import ratios, seconds_of
from covtoken.errors import CovtokenError
from covtoken.gates.economy.choice import PUBLISHED, SPEEDUPS
from covtoken.protocol.report import GateReport
from covtoken.studies.study import Study
from covtoken.subspace.direction import Direction

STUDY = Study("clock", "covtoken/clock/1", "covtoken clock", rows="passes")
BATCHES, REPEATS = (1, 8), 15
BANK = 12_000  # tokens that a search compares with


@dataclass(frozen=True)
class Timed:
    """A pass: its name, what it runs on a batch, and the FLOPs of a picture."""

    name: str
    run: Callable[[Tensor], object]
    flops: int


def time_settings(
    report: GateReport, repeats: int = REPEATS, progress: Callable[[str], None] = print
) -> dict[str, Any]:
    """Time what a report of gate 6 chose, and the drop after its block along the speed-ups of its curves.

    Args:
        report: of gate 6, on a backbone that is at hand.
        repeats: rounds that count; in each all passes take turns.
        progress: is told what is being timed.

    Returns:
        JSON content with ``passes`` and ``curve``, rows {pass, batch, speedup_flops, speedup_wall, low, high, ms}: the
        median over rounds of the plain pass's seconds over the pass's, and the quartiles.
    """
    vit, chosen = load_backbone(report.backbone), report.parameters["setting"]["chosen"]
    merging = report.parameters["setting"]["merging"]
    schedules = ["equal", *([merging["schedule"]] if merging else [])]
    passes = passes_of(vit, chosen["block"], chosen["k"], "chosen", tuple(dict.fromkeys(schedules)))
    rows = []
    for batch in BATCHES:
        progress(f"{len(passes)} passes, {batch} pictures at once")
        rows += time_rows(vit, passes, batch, repeats)
    budgets = {speedup: _within(vit, chosen["block"], speedup) for speedup in SPEEDUPS}
    curve = [plain_of(vit), *(routed(vit, f"{s:g}", chosen["block"], k) for s, k in budgets.items() if k)]
    progress(f"{len(curve)} passes of the curve, {max(BATCHES)} pictures at once")
    drawn = [row for row in time_rows(vit, curve, max(BATCHES), repeats) if row["pass"] != "full"]
    return {
        "schema": STUDY.schema,
        "cohort": report.cohort,
        "backbone": vit.name,
        "picture_size": vit.picture_size,
        "chosen": {name: chosen[name] for name in ("block", "k", "n_tokens")},
        "machine": machine(vit),
        "repeats": repeats,
        "passes": rows,
        "curve": [row | {"speedup": float(row["pass"])} for row in drawn],
    }


def passes_of(
    vit: FrozenViT, block: int, k: int, name: str, schedules: Iterable[str] = (), precision: str = "fp32"
) -> list[Timed]:
    """List the plain pass, a route with and without exit maps or by a search, and what costs as much; the plain first.

    Args:
        block: after which the route drops tokens.
        k: tokens that go on.
        name: of the route.
        schedules: of merging, by name, as far as they reach the route's FLOPs.
        precision: ``fp32`` or ``bf16``.
    """
    first = routed(vit, name, block, k, precision=precision)
    n_tokens, found = vit.rows * vit.cols, [plain_of(vit, precision), first]
    found.append(routed(vit, f"{name}_without_maps", block, k, with_maps=False, precision=precision))
    found.append(routed(vit, f"{name}_search", block, k, compared=BANK, precision=precision))
    depth = max(1, round(PUBLISHED[0] * vit.n_blocks / 12))
    quarter = -(-n_tokens * int(100 * PUBLISHED[1]) // 100)
    found.append(routed(vit, "published", depth, quarter, precision=precision))
    with suppress(CovtokenError):  # the budget is below one block
        found.append(_stopped(vit, stop_early_block_for(vit, first.flops), precision))
    return found + _merging(vit, first.flops, tuple(schedules), precision)


def time_rows(
    vit: FrozenViT,
    passes: Sequence[Timed],
    batch: int,
    repeats: int,
    gpu: bool = False,
    images: Tensor | None = None,
) -> list[dict[str, Any]]:
    """Time passes, the first of which is the whole one; see ``time_settings`` for the rows.

    Args:
        images: [batch, 3, S, S], normalised (None: random ones).
    """
    size = vit.picture_size
    if images is None:
        images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    images = images.to(vit.device)
    seconds = seconds_of([partial(each.run, images) for each in passes], repeats, gpu)
    rows = []
    for each, spent in zip(passes, seconds, strict=True):
        middle, low, high = ratios(seconds[0], spent)
        row = {"pass": each.name, "batch": batch, "speedup_flops": passes[0].flops / each.flops, "flops": each.flops}
        row |= {"speedup_wall": middle, "low": low, "high": high, "ms": 1e3 * sorted(spent)[len(spent) // 2] / batch}
        rows.append(row)
    return rows


def machine(vit: FrozenViT) -> dict[str, Any]:
    """Say what timed: processor or GPU, threads, and the load before, over the last minute."""
    gpu = vit.device.type == "cuda"
    about = {"device": torch.cuda.get_device_name() if gpu else platform.machine(), "cpus": os.cpu_count()}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return about | {"threads": torch.get_num_threads(), "torch": torch.__version__, "load": load}


def plain_of(vit: FrozenViT, precision: str = "fp32") -> Timed:
    """Make the plain pass, ``full``."""

    def run(images: Tensor) -> Tensor:
        with torch.no_grad(), autocast(images, precision):
            return vit.model.forward_features(images)

    return Timed("full", run, vit_flops(vit, [vit.rows * vit.cols + vit.n_prefix] * vit.n_blocks))


def routed(
    vit: FrozenViT,
    name: str,
    block: int,
    k: int,
    with_maps: bool = True,
    compared: int = 0,
    precision: str = "fp32",
) -> Timed:
    """Make a route by a random direction, or by a search of ``compared`` random tokens."""
    score = _search(vit, compared) if compared else random_direction(vit, block)
    stage = Stage(block, score, k=k, sigma=0.0 if compared else 0.5, n_compared=compared or 1)
    maps = random_maps(vit, stage) if with_maps else None
    flops = route_flops(vit, [stage], [k], maps=with_maps).total
    return Timed(name, lambda images: route_through(vit, images, [stage], maps, precision), flops)


def random_direction(vit: FrozenViT, block: int) -> Direction:
    """Make a direction of random numbers, on pooled tokens of a block."""
    weight, mean = torch.randn(2, vit.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(block))
    return Direction(weight, mean, _fitted_on(vit) | {"kind": "direction", "block": block, "pooled": True})


def random_maps(vit: FrozenViT, stage: Stage) -> ExitMaps:
    """Make exit maps of random numbers for a stage."""
    header = _fitted_on(vit) | {"kind": "set of exit maps", "blocks": [stage.block]}
    return ExitMaps((_random_map(vit, 1),), _random_map(vit, 2), header)


def autocast(images: Tensor, precision: str):
    """Give the context in which a precision holds."""
    return torch.autocast(images.device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def _merging(vit: FrozenViT, flops: int, schedules: Sequence[str], precision: str) -> list[Timed]:
    try:
        found = schedules_for(vit, flops) if schedules else {}
    except CovtokenError:  # a model that cannot merge, or a budget that no schedule reaches
        return []
    exit_map = _random_map(vit, 2)

    def merged(images: Tensor, planned: Sequence[int]) -> Tensor:
        with autocast(images, precision):
            return exit_map(merged_tokens(vit, images, planned)[0])

    names = [name for name in schedules if name in found]
    return [
        Timed(f"merging, {name}", partial(merged, planned=found[name]), merging_flops(vit, found[name]))
        for name in names
    ]


def _stopped(vit: FrozenViT, block: int, precision: str) -> Timed:
    exit_map = _random_map(vit, 1)

    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        with autocast(images, precision):
            stream, rope = vit.embed(images)
            return exit_map(vit.run(stream, rope, 1, block))

    return Timed("stop_early", run, stop_early_flops(vit, block))


def _within(vit: FrozenViT, block: int, speedup: float) -> int:
    """Find the largest k < T whose route saves at least as much; 0 if none does."""
    plain = plain_of(vit).flops
    stage = Stage(block, random_direction(vit, block), k=1)
    counts = range(1, vit.rows * vit.cols)
    return max((k for k in counts if plain / route_flops(vit, [stage], [k], maps=True).total >= speedup), default=0)


def _search(vit: FrozenViT, compared: int) -> Callable[[Tensor], Tensor]:
    bank = torch.randn(compared, vit.dim, generator=torch.Generator().manual_seed(1)).to(vit.device)

    def searched(tokens: Tensor) -> Tensor:
        distances, _ = nearest(tokens.reshape(-1, tokens.shape[-1]), bank, 10)
        return distances.mean(dim=-1).reshape(tokens.shape[:-1])

    return searched


def _random_map(vit: FrozenViT, n: int) -> AffineMap:
    """Make an exit map of random numbers that reads n values of a token."""
    weight = torch.randn(n * vit.dim, vit.dim, generator=torch.Generator().manual_seed(n)) / vit.dim
    return AffineMap(weight.to(vit.device), torch.zeros(vit.dim, device=vit.device))


def _fitted_on(vit: FrozenViT) -> Mapping[str, str]:
    """Give the header fields by which a route knows what was fitted on this backbone."""
    made = {"backbone": vit.name, "weights_sha256": vit.weights_sha256, "preprocessing": vit.preprocessing}
    return made | {"cohort_fingerprint": "random"}
