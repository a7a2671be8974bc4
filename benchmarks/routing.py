"""Routed passes against the plain pass and token merging: python benchmarks/routing.py

Batch 1 and 8, 224 and 518 px; for each method milliseconds a picture (median over repeats in which the methods take
turns), speed-up on the clock and in FLOPs, GFLOPs and GMACs, all net of scores, searches and exit maps. Weights,
direction, bank and exit maps are random: they cost what fitted ones cost. On a GPU, if there is one, in bf16, timed by
CUDA events; else in fp32 on the CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import timm
import torch
from torch import Tensor

from covtoken.backbone.vit import FrozenViT
from covtoken.backbone.weights import load_backbone
from covtoken.bank.neighbors import nearest
from covtoken.economy.exit_maps import AffineMap, ExitMaps
from covtoken.economy.flops import macs, route_flops, vit_flops
from covtoken.economy.keep import budget
from covtoken.economy.merge_passes import merged_tokens
from covtoken.economy.merge_schedules import merging_flops, schedules_for
from covtoken.economy.routing import route_through
from covtoken.economy.stages import Stage
from covtoken.economy.timing import medians
from covtoken.errors import CovtokenError
from covtoken.subspace.direction import Direction

BANK = 12_000  # tokens that a search compares with
PUBLISHED = (6, 0.25)  # block and keep ratio of the published setting


@dataclass(frozen=True)
class Method:
    """A row: its name, what it runs on a batch, and the FLOPs of a picture."""

    name: str
    run: Callable[[Tensor], object]
    flops: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="random:vit_small_patch14_dinov2")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 518])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--block", type=int, default=3, help="block after which tokens are dropped")
    parser.add_argument("--ratio", type=float, default=1 / 3, help="share of the tokens that goes on")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    gpu = torch.cuda.is_available()
    precision = "bf16" if gpu else "fp32"
    where = torch.cuda.get_device_name() if gpu else f"{args.threads} CPU threads"
    print(f"{args.backbone}, {where}, {precision}, torch {torch.__version__}, timm {timm.__version__}")
    for size in args.sizes:
        vit = load_backbone(args.backbone, size)
        vit.model.to("cuda" if gpu else "cpu")
        methods = methods_of(vit, args.block, args.ratio, precision)
        for batch in args.batches:
            images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(vit.device)
            seconds = [s / batch for s in medians([partial(m.run, images) for m in methods], args.repeats, gpu)]
            print_table(f"{size} px, batch {batch}, median of {args.repeats}", methods, seconds)


def methods_of(vit: FrozenViT, block: int, ratio: float, precision: str) -> list[Method]:
    """List the plain pass first, then routes, and merging within the FLOPs of the first."""
    n_tokens = vit.rows * vit.cols
    bank = torch.randn(BANK, vit.dim, generator=torch.Generator().manual_seed(1)).to(vit.device)

    def searched(tokens: Tensor) -> Tensor:
        distances, _ = nearest(tokens.reshape(-1, tokens.shape[-1]), bank, 10)
        return distances.mean(dim=-1).reshape(tokens.shape[:-1])

    def plain(images: Tensor) -> Tensor:
        with torch.no_grad(), autocast(images, precision):
            return vit.model.forward_features(images)

    def routed(name: str, stage: Stage, with_maps: bool = False) -> Method:
        maps = random_maps(vit, stage) if with_maps else None
        flops = route_flops(vit, [stage], [budget(n_tokens, stage.ratio)], maps=with_maps).total
        return Method(name, lambda images: route_through(vit, images, [stage], maps, precision), flops)

    def named(block: int, ratio: float) -> str:
        return f"{ratio:.0%} after block {block}"

    scored = partial(random_direction, vit)
    stage = Stage(block, scored(block), ratio=ratio, sigma=0.5)
    first = routed(f"{named(block, ratio)}, exit maps", stage, with_maps=True)
    whole = vit_flops(vit, [n_tokens + vit.n_prefix] * vit.n_blocks)
    return [
        Method("plain pass", plain, whole),
        first,
        routed(named(block, ratio), stage),
        routed(f"{named(block, ratio)}, search in {BANK}", Stage(block, searched, ratio=ratio, n_compared=BANK)),
        routed(named(*PUBLISHED), Stage(PUBLISHED[0], scored(PUBLISHED[0]), ratio=PUBLISHED[1], sigma=0.5)),
        *merging(vit, block, first.flops, precision),
    ]


def merging(vit: FrozenViT, block: int, flops: int, precision: str) -> list[Method]:
    """Merge within these FLOPs, exit map included: by the equal schedule, and all at once after the route's block.

    Nothing where the model cannot merge.
    """
    try:
        found = schedules_for(vit, flops)
    except CovtokenError as error:
        print(f"no merging: {error}")
        return []
    exit_map = random_map(vit, 2)

    def merged(images: Tensor, planned: Sequence[int]) -> Tensor:
        with autocast(images, precision):
            return exit_map(merged_tokens(vit, images, planned)[0])

    names = (name for name in ("equal", f"at once after {block}") if name in found)
    return [
        Method(f"merging, {name}, exit map", partial(merged, planned=found[name]), merging_flops(vit, found[name]))
        for name in names
    ]


def autocast(images: Tensor, precision: str):
    return torch.autocast(images.device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def print_table(title: str, methods: list[Method], seconds: list[float]) -> None:
    width = max(len(method.name) for method in methods)
    print(f"\n{title}\n{'':{width}}{'ms/picture':>12}{'× clock':>9}{'× FLOPs':>9}{'share':>7}{'GFLOPs':>9}{'GMACs':>8}")
    for method, spent in zip(methods, seconds, strict=True):
        clock, work = seconds[0] / spent, methods[0].flops / method.flops
        numbers = f"{1e3 * spent:12.2f}{clock:9.2f}{work:9.2f}{clock / work:7.2f}"
        print(f"{method.name:{width}}{numbers}{method.flops / 1e9:9.2f}{macs(method.flops) / 1e9:8.2f}")


def random_direction(vit: FrozenViT, block: int) -> Direction:
    weight, mean = torch.randn(2, vit.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(block))
    return Direction(weight, mean, fitted_on(vit) | {"kind": "direction", "block": block, "pooled": True})


def random_map(vit: FrozenViT, n: int) -> AffineMap:
    """Make an exit map that reads n values of a token."""
    weight = torch.randn(n * vit.dim, vit.dim, generator=torch.Generator().manual_seed(n)) / vit.dim
    return AffineMap(weight.to(vit.device), torch.zeros(vit.dim, device=vit.device))


def random_maps(vit: FrozenViT, stage: Stage) -> ExitMaps:
    return ExitMaps(
        (random_map(vit, 1),),
        random_map(vit, 2),
        fitted_on(vit) | {"kind": "set of exit maps", "blocks": [stage.block]},
    )


def fitted_on(vit: FrozenViT) -> dict:
    """Give the header fields by which a route knows what was fitted on this backbone."""
    made = {"backbone": vit.name, "weights_sha256": vit.weights_sha256, "preprocessing": vit.preprocessing}
    return made | {"cohort_fingerprint": "random"}


if __name__ == "__main__":
    main()
