"""Merge tokens by any schedule and complete the output map; choose the schedule that stays nearest to the full pass.

Each token shows what a ridge predicts from the normed value of its cluster and from its own raw value after the block
where merging starts, the last at which all tokens were there. The ridge is that of a route's kept tokens: fitted on the
bank's pictures, without labels. A schedule that merges nothing is the plain pass, without a map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from covtoken.backbone.vit import FrozenViT
from covtoken.data.case import Case
from covtoken.economy.exit_maps import AffineMap
from covtoken.economy.merge_schedules import check_can_merge, merging_flops, schedules_for
from covtoken.economy.merging import merge_planned
from covtoken.economy.passes import HELD_OUT, Pass, PassOutput, plain_pass, solve_exit_map, sum_pairs
from covtoken.economy.stages import Stage
from covtoken.errors import CovtokenError
from covtoken.subspace.ridge import MapMoments


@dataclass(frozen=True)
class Tried:
    """A schedule of merging and how far it stays from the full pass."""

    name: str
    planned: tuple[int, ...]  # r of each block
    flops: int
    error: float  # mean squared error of a number of the completed map, on the held-out pictures of the bank


@dataclass(frozen=True)
class TunedMerging:
    """The schedule of the smallest error, as a pass whose map is fitted on all of the bank; and all that were tried."""

    best: Pass
    tried: tuple[Tried, ...]


def merging_pass(
    vit: FrozenViT,
    bank_cases: Sequence[Case],
    planned: Sequence[int],
    protect: Stage | None = None,
    name: str = "merging",
    batch: int = 8,
    plain: Pass | None = None,
) -> Pass:
    """Make a pass that merges by a schedule; each token then shows what a ridge predicts of its cluster and itself.

    Args:
        planned: r of each block.
        protect: marks tokens that do not merge, by a score at the block where merging starts.
        batch: pictures a pass while the ridge is fitted.
        plain: ``plain_pass``, where it remembers these pictures.

    Raises:
        LabelLeak: a picture is a registered mask file.
        CovtokenError: what ``merging.merge_planned`` refuses, no case, a picture that cannot be read.
    """
    flops, exit_map = merging_flops(vit, planned, protect), None
    if any(planned):
        pairs = _pairs(vit, [planned], protect, plain)
        fitted, held_out = sum_pairs(vit, bank_cases, pairs, "the exit map of merging", batch)
        exit_map = solve_exit_map(fitted[0] + held_out[0])
    return _pass(vit, planned, protect, exit_map, flops, name)


def tuned_merging(
    vit: FrozenViT,
    bank_cases: Sequence[Case],
    flops: int,
    protect: Stage | None = None,
    schedules: Mapping[str, Sequence[int]] | None = None,
    batch: int = 8,
    plain: Pass | None = None,
) -> TunedMerging:
    """Choose a schedule within a budget, without labels: the one whose completed map is nearest to the full pass.

    Each schedule's ridge is fitted on four fifths of the bank's pictures and judged on every fifth, by the squared
    error of all tokens. The chosen schedule's ridge is then fitted on all of them.

    Args:
        flops: of one picture.
        protect: as in ``merging_pass``.
        schedules: to choose among, by name; without it ``merge_schedules.schedules_for``.
        plain: ``plain_pass``, where it remembers these pictures.

    Raises:
        LabelLeak: a picture is a registered mask file.
        CovtokenError: a model that cannot merge, a budget out of reach or exceeded, fewer than five pictures.
    """
    check_can_merge(vit)
    plans = dict(schedules_for(vit, flops, protect) if schedules is None else schedules)
    costs = {name: merging_flops(vit, planned, protect) for name, planned in plans.items()}
    for name, cost in costs.items():
        if cost > flops:
            raise CovtokenError(f"schedule {name!r} takes {cost} FLOPs a picture, more than the budget of {flops}")
    if not plans or len(bank_cases) < HELD_OUT:
        raise CovtokenError(
            f"{len(plans)} schedules and {len(bank_cases)} pictures: expected at least one schedule, and {HELD_OUT} "
            "pictures, every fifth of which judges"
        )
    pairs = _pairs(vit, list(plans.values()), protect, plain)
    fitted, held_out = sum_pairs(vit, bank_cases, pairs, "the schedule of merging", batch)
    tried, sums = [], {}
    for (name, planned), one, other in zip(plans.items(), fitted, held_out, strict=True):
        error = squared_error(other, solve_exit_map(one)) if any(planned) else 0.0
        tried.append(Tried(name, tuple(planned), costs[name], error))
        sums[name] = one + other
    best = min(tried, key=lambda one: one.error)
    kind = "merging" if protect is None else f"merging, {protect.count(vit.rows * vit.cols)} protected"
    exit_map = solve_exit_map(sums[best.name]) if any(best.planned) else None
    chosen = _pass(vit, best.planned, protect, exit_map, best.flops, f"{kind}, {best.name}")
    return TunedMerging(chosen, tuple(tried))


def squared_error(moments: MapMoments, exit_map: AffineMap) -> float:
    """Compute the mean squared error of a map's numbers on the tokens that were summed: E‖y − x·W − b‖² ÷ D."""
    weight, bias, n = exit_map.weight.double(), exit_map.bias.double(), moments.n
    predicted = (weight * (moments.xx @ weight)).sum() + 2 * (moments.x @ weight) @ bias + n * bias @ bias
    crossed = (weight * moments.xy).sum() + bias @ moments.y
    return ((moments.yy.sum() - 2 * crossed + predicted) / (n * len(bias))).item()


def _pass(
    vit: FrozenViT,
    planned: Sequence[int],
    protect: Stage | None,
    exit_map: AffineMap | None,
    flops: int,
    name: str,
) -> Pass:
    def run(images: Tensor) -> PassOutput:
        both, prefix = merged_tokens(vit, images, planned, protect)
        return PassOutput(both[..., : vit.dim].contiguous() if exit_map is None else exit_map(both), prefix)

    return Pass(name, flops, run)


def _pairs(
    vit: FrozenViT, plans: Sequence[Sequence[int]], protect: Stage | None, plain: Pass | None = None
) -> Callable[[Tensor], list[tuple[Tensor, Tensor]]]:
    """Make the function that gives what the map of each schedule reads and shall give; one plain pass serves all."""
    plain = plain or plain_pass(vit)

    def pairs(images: Tensor) -> list[tuple[Tensor, Tensor]]:
        full = plain.run(images).tokens
        return [(merged_tokens(vit, images, planned, protect)[0], full) for planned in plans]

    return pairs


@torch.no_grad()
def merged_tokens(
    vit: FrozenViT, images: Tensor, planned: Sequence[int], protect: Stage | None = None
) -> tuple[Tensor, Tensor]:
    """Give [normed value of its cluster, own raw value] of each token, [n, T, 2·D], and the normed prefix."""
    merged = merge_planned(vit, images, planned, protect)
    normed, prefix = vit.model.norm(merged.tokens).float(), vit.model.norm(merged.prefix).float()
    own_cluster = normed.gather(1, merged.cluster.unsqueeze(-1).expand(-1, -1, vit.dim))
    return torch.cat([own_cluster, merged.before.float()], dim=-1), prefix
