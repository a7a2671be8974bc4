"""Give every way through a frozen ViT that is compared at equal FLOPs one signature: images in, a complete map out.

Here are the plain pass, a route and a pass that stops early; ``merge_passes`` adds merging. All but the plain pass show
what ridges predict of the full pass; the ridges are fitted on the bank's pictures, without labels.

    route = route_pass(vit, stages, maps, "route")
    rivals = [stop_early_pass(vit, bank_cases, stop_early_block_for(vit, route.flops))]
    rivals.append(tuned_merging(vit, bank_cases, route.flops).best)
    rivals[0].run(images).tokens  # [n, T, D], to be held against plain_pass(vit).run(images).tokens
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import torch
from torch import Tensor

from covtoken.backbone.vit import FrozenViT
from covtoken.data.case import Case
from covtoken.economy.exit_maps import RIDGE, AffineMap, ExitMaps
from covtoken.economy.flops import route_flops, vit_flops
from covtoken.economy.routing import batches, route_through
from covtoken.economy.stages import Stage, check_stages
from covtoken.errors import CovtokenError
from covtoken.leak_guard import construction
from covtoken.subspace.ridge import MapMoments, solve_map

HELD_OUT = 5  # every fifth of the bank's pictures is summed apart, to judge what is fitted on the others

Pairs = Callable[[Tensor], list[tuple[Tensor, Tensor]]]
"""Gives, of images [n, 3, S, S], for each map what it reads, [n, t, K], and what that shall become, [n, t, D]."""


@dataclass(frozen=True)
class PassOutput:
    """Output of n pictures, float32: what the normed map of the full pass is taken to be."""

    tokens: Tensor  # [n, T, D], complete, after exit maps
    prefix: Tensor  # [n, P, D], CLS, then registers; normed, and mapped where the pass stops early


@dataclass(frozen=True)
class Pass:
    """A way through the model.

    Attributes:
        name: for tables.
        flops: of one picture; blocks, scores, similarities of merging and exit maps (``flops`` says what is left out).
        run: takes images [n, 3, S, S] on the model's device.
    """

    name: str
    flops: int
    run: Callable[[Tensor], PassOutput] = field(repr=False)


def plain_pass(vit: FrozenViT, remember: bool = False) -> Pass:
    """Make the full forward pass, with which all others are compared.

    Args:
        remember: keep what it gave of each batch in memory, for passes that are fitted on the same pictures.
    """
    known: dict[bytes, PassOutput] = {}

    def run(images: Tensor) -> PassOutput:
        key = sha256(images.cpu().numpy().tobytes()).digest() if remember else b""
        if key not in known:
            found = vit.extract(images, ["norm"])
            made = PassOutput(found.tokens["norm"], found.prefix["norm"])
            if not remember:
                return made
            known[key] = made
        return known[key]

    return Pass("plain pass", vit_flops(vit, [vit.rows * vit.cols + vit.n_prefix] * vit.n_blocks), run)


def route_pass(vit: FrozenViT, stages: Sequence[Stage], maps: ExitMaps | None, name: str) -> Pass:
    """Make a pass of a route.

    Args:
        stages: that keep equally many tokens of every picture, by ratio or one k, so that the FLOPs are known.
        maps: ``exit_maps.fit_exit_maps`` of these stages.

    Raises:
        CovtokenError: stages or maps that do not fit, counts that differ by picture, a score of unknown cost.
    """
    check_stages(vit, stages)
    if maps is not None:
        maps.check(vit, stages)
    counts = [stage.count(vit.rows * vit.cols) for stage in stages]
    counts = [min(counts[: i + 1]) for i in range(len(counts))]

    def run(images: Tensor) -> PassOutput:
        routed = route_through(vit, images, stages, maps)
        return PassOutput(routed.tokens, routed.prefix)

    return Pass(name, route_flops(vit, stages, counts, maps=maps is not None).total, run)


def stop_early_pass(
    vit: FrozenViT, bank_cases: Sequence[Case], block: int, batch: int = 8, plain: Pass | None = None
) -> Pass:
    """Make a pass that runs blocks 1 … block; a ridge predicts the normed final patches, another CLS and registers.

    Args:
        block: 1 … L − 1.
        batch: pictures a pass while the ridges are fitted.
        plain: ``plain_pass``, where it remembers these pictures.

    Raises:
        LabelLeak: a picture is a registered mask file.
        CovtokenError: a block out of range, no case, a picture that cannot be read.
    """
    flops = stop_early_flops(vit, block)

    def stopped(images: Tensor) -> list[Tensor]:
        vit.check_request(images, [], [], False, "fp32")
        stream, rope = vit.embed(images)
        stream = vit.run(stream, rope, 1, block).float()
        return [stream[:, vit.n_prefix :], stream[:, : vit.n_prefix]]

    def pairs(images: Tensor) -> list[tuple[Tensor, Tensor]]:
        full = plain.run(images)
        return list(zip(stopped(images), [full.tokens, full.prefix], strict=True))[: 2 if vit.n_prefix else 1]

    plain = plain or plain_pass(vit)
    fitted, held_out = sum_pairs(vit, bank_cases, pairs, "a pass that stops early", batch)
    maps = [solve_exit_map(one + other) for one, other in zip(fitted, held_out, strict=True)]

    def run(images: Tensor) -> PassOutput:
        patches, prefix = stopped(images)
        return PassOutput(maps[0](patches), maps[1](prefix) if vit.n_prefix else prefix)

    return Pass(f"stop after block {block}", flops, run)


def stop_early_block_for(vit: FrozenViT, flops: int) -> int:
    """Find the last block, 1 … L − 1, at which a pass may stop within the FLOPs of one picture.

    Raises:
        CovtokenError: the budget is below one block and the exit maps.
    """
    within = [block for block in range(1, vit.n_blocks) if stop_early_flops(vit, block) <= flops]
    if not within:
        raise CovtokenError(
            f"{flops / 1e9:.3g} GFLOPs a picture are out of reach of {vit.name}: the patch embedding, one block and "
            f"the exit maps take {stop_early_flops(vit, 1) / 1e9:.3g}"
        )
    return within[-1]


def sum_pairs(
    vit: FrozenViT, bank_cases: Sequence[Case], pairs: Pairs, what: str, batch: int
) -> tuple[list[MapMoments], list[MapMoments]]:
    """Sum what exit maps are fitted on: one sum a map over four fifths of the bank's pictures, one over every fifth.

    Args:
        what: is being fitted, for error messages.
        batch: pictures a pass; only these are in memory.
    """
    fitted, held_out = [], []
    with construction(what):
        for part, images, _ in batches(bank_cases, vit, batch):
            apart = torch.arange(part.start, part.stop) % HELD_OUT == HELD_OUT - 1
            found = pairs(images)
            for totals, rows in ((fitted, ~apart), (held_out, apart)):
                sums = [MapMoments.of(x[rows].flatten(0, 1), y[rows].flatten(0, 1)) for x, y in found]
                totals[:] = [one + more for one, more in zip(totals, sums, strict=True)] if totals else sums
    return fitted, held_out


def solve_exit_map(moments: MapMoments) -> AffineMap:
    """Solve for an exit map with the λ of a route's."""
    weight, bias, _ = solve_map(moments, RIDGE)
    return AffineMap(weight.float(), bias.float())


def stop_early_flops(vit: FrozenViT, block: int) -> int:
    """Count the FLOPs of one picture that stops after a block, with an exit map of every token."""
    vit.check_block(block, allow_norm=False)
    if block == vit.n_blocks:
        raise CovtokenError(f"block {block} is the last of {vit.name}: a pass that stops there is the plain pass")
    n = vit.rows * vit.cols + vit.n_prefix
    return vit_flops(vit, [n] * block + [0] * (vit.n_blocks - block)) + 2 * n * vit.dim**2
