"""Route a frozen ViT around lesions: all tokens run the first blocks, the best-scored ones run the rest.

The sequence is sliced between the model's own blocks: gather, run, scatter. CLS and registers always stay, a rotary row
goes with its token, and pictures that keep equally many tokens run together, so that nothing is padded or masked. With
nothing dropped a route is the plain pass.

    direction = taught(consensus, bank_features, 3)    # covtoken.subspace.consensus
    stages = [Stage(block=3, score=direction, ratio=1 / 3, sigma=0.5)]
    maps = fit_exit_maps(bank_cases, vit, stages)      # covtoken.economy.exit_maps; label-free
    routed = route_through(vit, images, stages, maps)  # routed.tokens [N, T, D] is complete
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from covtoken.backbone.vit import FrozenViT
from covtoken.data.case import Case, picture_digest
from covtoken.data.intensity import check_input, to_input
from covtoken.economy.stages import Stage, check_stages
from covtoken.errors import CovtokenError
from covtoken.leak_guard import construction

if TYPE_CHECKING:
    from covtoken.economy.exit_maps import ExitMaps


@dataclass(frozen=True)
class Routed:
    """What a routed pass gives of N pictures; T patches each, float32.

    Attributes:
        tokens: [N, T, D], complete. Kept tokens: normed, and corrected by the exit maps' map of kept tokens in pictures
            that dropped any. Dropped tokens: their exit map's value; without exit maps their raw value at their tap.
        prefix: [N, P, D], CLS, then registers, normed.
        kept: [N, T] bool, on the CPU: tokens that ran all blocks.
        exits: [N, T] int64, on the CPU: the last block that each token ran.
        taps: for each stage what its score read, [N, T, D], raw; tokens dropped before hold their last value.
    """

    tokens: Tensor
    prefix: Tensor
    kept: Tensor
    exits: Tensor
    taps: tuple[Tensor, ...] = field(repr=False)

    def counts(self, stages: Sequence[Stage]) -> list[list[int]]:
        """Count the patch tokens that each picture keeps after each stage."""
        return [[int((picture > stage.block).sum()) for stage in stages] for picture in self.exits]


def route_through(
    vit: FrozenViT,
    images: Tensor,
    stages: Sequence[Stage],
    maps: ExitMaps | None = None,
    precision: str = "fp32",
) -> Routed:
    """Run pictures through the model, and drop tokens at each stage. What is dropped keeps its last value.

    Args:
        images: [N, 3, S, S] from ``FrozenViT.prepare``.
        stages: by rising block; none is the plain pass.
        maps: what dropped and kept tokens show in the output map (``exit_maps.fit_exit_maps``).
        precision: ``"fp32"``, or ``"bf16"`` for autocast; scores and exit maps are float32 either way.

    Raises:
        CovtokenError: images, stages or maps that do not fit this model or each other.
    """
    check_stages(vit, stages)
    if maps is not None:
        maps.check(vit, stages)
    vit.check_request(images, [], [], False, precision)
    cast = torch.autocast(images.device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
    ends = [0, *(stage.block for stage in stages), vit.n_blocks]
    exits = torch.full((len(images), vit.rows * vit.cols), vit.n_blocks, dtype=torch.int64)
    taps, groups = [], [_ALL]
    with torch.no_grad():
        with cast:
            stream, rope = vit.embed(images)
        patches, prefix = stream[:, vit.n_prefix :], stream[:, : vit.n_prefix]
        for (before, last), stage in zip(pairwise(ends), [*stages, None], strict=True):
            with cast:
                ran = [vit.run(*_gather(patches, prefix, rope, group), before + 1, last) for group in groups]
            patches, prefix = _scatter(patches, prefix, groups, ran)
            if stage is not None:
                taps.append(patches)
                here = (exits == vit.n_blocks).numpy()
                goes_on = stage.goes_on(stage.scores(patches.float(), vit.rows, vit.cols), here)
                exits[torch.from_numpy(here & ~goes_on)] = stage.block
                groups = _groups(torch.from_numpy(goes_on), vit)
        with cast:
            prefix, normed = vit.model.norm(prefix).float(), vit.model.norm(patches).float()
        kept = exits == vit.n_blocks
        tokens = normed if kept.all() else _complete(normed, patches.float(), exits, kept, stages, taps, maps)
    return Routed(tokens.contiguous(), prefix.contiguous(), kept, exits, tuple(taps))


def route_cases(
    cases: Sequence[Case],
    vit: FrozenViT,
    stages: Sequence[Stage],
    maps: ExitMaps | None = None,
    batch: int = 8,
    precision: str = "fp32",
) -> Iterator[tuple[slice, Routed]]:
    """Yield (slice of cases, what the route gives of them), ``batch`` pictures at a time; only these are in memory.

    Counts ``k`` given one a picture are those of all cases. No label can be read while a batch is made.

    Raises:
        LabelLeak: a picture is a registered mask file.
        CovtokenError: no case, a picture that cannot be read, or what ``route_through`` refuses.
    """
    check_stages(vit, stages)
    for part, images, _ in batches(cases, vit, batch):
        with construction("a route"):
            routed = route_through(vit, images, [stage.at(part) for stage in stages], maps, precision)
        yield part, routed


def batches(cases: Sequence[Case], vit: FrozenViT, batch: int = 8) -> Iterator[tuple[slice, Tensor, tuple[str, ...]]]:
    """Yield (slice, images [n, 3, S, S] on the model's device, picture digests), read as ``cache.features`` does."""
    cases = list(cases)
    if not cases:
        raise CovtokenError("no cases to route: the cohort or split is empty")
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise CovtokenError(f"batch {batch!r}: expected at least 1 picture a pass")
    for case in cases:
        check_input(case, vit.input)
    for start in range(0, len(cases), batch):
        some = cases[start : start + batch]
        with construction("a route"):
            pixels = [case.pixels() for case in some]
            squashed = [vit.squash(to_input(one, case, vit.input)) for one, case in zip(pixels, some, strict=True)]
        images = vit.normalise(torch.stack(squashed)).to(vit.device)
        yield slice(start, start + len(some)), images, tuple(picture_digest(one) for one in pixels)


@dataclass(frozen=True)
class _Group:
    """Pictures that run together: their numbers [m], and the k patches of each, [m, k]; None: all of both."""

    pictures: Tensor | None = None
    places: Tensor | None = None


_ALL = _Group()


def _groups(goes_on: Tensor, vit: FrozenViT) -> list[_Group]:
    """Group pictures by the number of tokens that go on, [n, T] bool."""
    if goes_on.all():
        return [_ALL]
    counts = goes_on.sum(dim=1)
    groups = []
    for k in counts.unique().tolist():
        if k + vit.n_prefix == 0:
            continue  # no token at all: nothing to run
        pictures = (counts == k).nonzero().squeeze(1)
        places = goes_on[pictures].nonzero()[:, 1].reshape(len(pictures), k)
        groups.append(_Group(pictures.to(vit.device), places.to(vit.device)))
    return groups


def _gather(patches: Tensor, prefix: Tensor, rope: Tensor | None, group: _Group) -> tuple[Tensor, Tensor | None]:
    """Take a group's sequences [m, P + k, D] out of the complete map, and the rotary rows of their patches."""
    if group.places is None:
        return torch.cat([prefix, patches], dim=1), rope
    pictures, places = group.pictures, group.places
    sequence = torch.cat([prefix[pictures], patches[pictures[:, None], places]], dim=1)
    if rope is None:
        return sequence, None
    if rope.ndim == 2:  # [T, R]: one for all blocks and heads
        return sequence, rope[places].unsqueeze(1)
    return sequence, rope[:, :, places].transpose(1, 2)  # [L, heads, T, R] → [L, m, heads, k, R]


def _scatter(patches: Tensor, prefix: Tensor, groups: list[_Group], ran: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Put what groups gave back into a copy of the complete map; other tokens keep their last value."""
    n_prefix = prefix.shape[1]
    if groups and groups[0] is _ALL:
        return ran[0][:, n_prefix:], ran[0][:, :n_prefix]
    patches, prefix = patches.clone(), prefix.clone()
    for group, stream in zip(groups, ran, strict=True):
        patches[group.pictures[:, None], group.places] = stream[:, n_prefix:].to(patches.dtype)
        prefix[group.pictures] = stream[:, :n_prefix].to(prefix.dtype)
    return patches, prefix


def _complete(normed, last, exits, kept, stages, taps, maps) -> Tensor:
    """Complete the output map [N, T, D]: normed values of kept tokens, last values of dropped ones, then the maps."""
    if maps is None:
        return torch.where(kept.unsqueeze(-1).to(last.device), normed, last)
    tokens = normed.clone()
    for stage, exit_map in zip(stages, maps.dropped, strict=True):
        left = (exits == stage.block).to(last.device)
        tokens[left] = exit_map(last[left])
    lost_context = (kept & ~kept.all(dim=1, keepdim=True)).to(last.device)
    tokens[lost_context] = maps.kept(torch.cat([normed[lost_context], taps[0][lost_context].float()], dim=-1))
    return tokens
