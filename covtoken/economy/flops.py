"""Count floating-point operations of a plain ViT and of its routes in closed form, 2 per multiply-add, for one picture.

Counted: patch embedding, linear layers, the two products of attention, a route's scores and exit maps. Not counted:
norms, softmax, activations, biases, positions (rotary ones too), pooling and smoothing of score maps, sorting. The
result is work, not time. ``counted_flops`` is PyTorch's own count, which the tests hold the closed forms against; it
sees no search outside PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from timm.layers import Attention, AttentionRope
from timm.models.eva import EvaAttention
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from covtoken.backbone.vit import FrozenViT
from covtoken.economy.stages import Stage, check_stages
from covtoken.errors import CovtokenError
from covtoken.subspace.direction import Direction


def vit_flops(vit: FrozenViT, tokens_per_block: Sequence[int]) -> int:
    """Count the FLOPs of one picture from the tokens that enter each block, CLS and registers included.

    Layer shapes are read from the model, so that a gated MLP or another head width needs no case of its own. The patch
    embedding sees all patches: tokens are dropped later.

    Raises:
        CovtokenError: not one number a block, a number that is no count, or a layer that this formula does not know.
    """
    tokens = [_count(n, f"tokens of block {i}") for i, n in enumerate(tokens_per_block, start=1)]
    if len(tokens) != vit.n_blocks:
        counts = f"{len(tokens)} token counts for {vit.name}"
        raise CovtokenError(f"{counts}: expected one for each of {vit.n_blocks} blocks")
    embedding = getattr(vit.model.patch_embed, "proj", None)
    if not isinstance(embedding, nn.Conv2d):
        raise CovtokenError(f"cannot count the patch embedding of {vit.name}: expected one convolution named proj")
    total = 2 * vit.rows * vit.cols * embedding.weight.numel()
    for block, n in zip(vit.model.blocks, tokens):
        linear, width = _widths(block, vit.name)
        total += 2 * n * linear + 4 * n * n * width  # attention: queries by keys, then weights by values
    return total


def prune_flops(vit: FrozenViT, block: int, kept: int) -> int:
    """Count the FLOPs of a picture that keeps ``kept`` patch tokens after ``block``; all run through blocks 1 … block.

    CLS and registers always stay. The score that chooses is not counted; ``search_flops`` gives a search's part.

    Args:
        block: 1 … L; after L nothing is saved.
        kept: 0 … T.

    Raises:
        CovtokenError: a block that the model does not have, kept out of range, or what ``vit_flops`` refuses.
    """
    vit.check_block(block, allow_norm=False)
    n_tokens, n_prefix = vit.rows * vit.cols, int(vit.model.num_prefix_tokens)
    if _count(kept, "kept") > n_tokens:
        raise CovtokenError(f"kept = {kept}: expected 0 … {n_tokens}, the patch tokens of a picture")
    before, after = n_tokens + n_prefix, int(kept) + n_prefix
    return vit_flops(vit, [before] * block + [after] * (vit.n_blocks - block))


@dataclass(frozen=True)
class RouteFlops:
    """FLOPs of a routed picture by what they are spent on, and those of the plain pass."""

    blocks: int  # patch embedding and blocks
    scores: int  # at all taps: a dot product a token, or a search
    maps: int  # exit maps
    plain: int

    @property
    def total(self) -> int:
        return self.blocks + self.scores + self.maps

    @property
    def speedup(self) -> float:
        """Divide the plain pass by the route, net of scores and exit maps."""
        return self.plain / self.total


def macs(flops: int) -> int:
    """Convert FLOPs, as counted here, to multiply-adds: half of them."""
    return flops // 2


def counted_flops(run: Callable[[], object]) -> int:
    """Count the FLOPs of what ``run`` calls with PyTorch's counter, attention forced to the path that it can see."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def route_flops(vit: FrozenViT, stages: Sequence[Stage], counts: Sequence[int], maps: bool = False) -> RouteFlops:
    """Count the FLOPs of a picture in a route, its scores included.

    Args:
        counts: patch tokens of the picture that go on after each stage (``Routed.counts``).
        maps: the route has exit maps. A picture that keeps all its tokens uses none.

    Raises:
        CovtokenError: stages that do not fit the model, counts that grow or are no counts, a score that does not say
            what it compares a token with (``Stage.n_compared``): no search goes uncounted.
    """
    check_stages(vit, stages)
    n_tokens, n_prefix, width = vit.rows * vit.cols, vit.n_prefix, vit.dim
    counts = [_count(n, f"tokens kept at block {stage.block}") for n, stage in zip(counts, stages, strict=True)]
    here = [n_tokens, *counts]
    if any(after > before for before, after in pairwise(here)):
        raise CovtokenError(f"counts {counts}: expected at most {n_tokens}, and none larger than the one before")
    entering, ends = [], [0, *(stage.block for stage in stages), vit.n_blocks]
    for n, (before, last) in zip(here, pairwise(ends), strict=True):
        entering += [n + n_prefix] * (last - before)
    plain = vit_flops(vit, [n_tokens + n_prefix] * vit.n_blocks)
    scores = sum(score_flops(vit, stage) for stage in stages)
    corrected = counts[-1] if counts else n_tokens
    mapped = (n_tokens - corrected) * width**2 + corrected * 2 * width**2 if maps and corrected < n_tokens else 0
    return RouteFlops(vit_flops(vit, entering), scores, 2 * mapped, plain)


def matching_flops(counts: Sequence[int], head_dim: int, n_prefix: int) -> int:
    """Count the FLOPs of merging's similarities, |A| · |B| products of keys [head_dim] in every block.

    Every block is taken to match; ``merge_through`` skips a block that merges nothing, so for n_clusters close to T
    this is an upper bound. Means over heads, normalisation, sorting and the merged means are not counted.

    Args:
        counts: tokens that enter each block, as in ``Merged``, CLS and registers (n_prefix of them) included.

    Raises:
        CovtokenError: a number that is no count, or fewer tokens in a block than n_prefix.
    """
    head_dim, n_prefix = _count(head_dim, "head_dim"), _count(n_prefix, "n_prefix")
    patches = [_count(n, f"tokens of block {i}") - n_prefix for i, n in enumerate(counts, start=1)]
    if min(patches, default=0) < 0:
        raise CovtokenError(f"a block has {min(patches) + n_prefix} tokens, fewer than its {n_prefix} prefix tokens")
    return sum(2 * ((n + 1) // 2) * (n // 2) * head_dim for n in patches)


def search_flops(n_queries: int, n_bank: int, width: int) -> int:
    """Count the FLOPs of an exact search, each query by each bank token; choosing the nearest is not counted."""
    return 2 * _count(n_queries, "n_queries") * _count(n_bank, "n_bank") * _count(width, "width")


def score_flops(vit: FrozenViT, stage: Stage) -> int:
    """Count the FLOPs of a stage's score on one picture: each token by each vector that it is compared with.

    Raises:
        CovtokenError: a function that does not say what it compares a token with (``Stage.n_compared``).
    """
    n_compared = 1 if stage.n_compared is None and isinstance(stage.score, Direction) else stage.n_compared
    if n_compared is None:
        raise CovtokenError(
            f"the score at block {stage.block} does not say what it costs: give the stage n_compared, the size of the "
            "bank that it searches, or 0 if the pass itself gives the score"
        )
    return search_flops(vit.rows * vit.cols, _count(n_compared, "n_compared"), vit.dim)


def _widths(block: nn.Module, name: str) -> tuple[int, int]:
    """Count the weights of a block's linear layers, each applied once to each token; give its attention's width too."""
    attn, mlp = getattr(block, "attn", None), getattr(block, "mlp", None)
    if not isinstance(attn, Attention | AttentionRope | EvaAttention) or mlp is None:
        raise CovtokenError(
            f"cannot count blocks of kind {type(block).__name__} in {name}: expected one softmax attention (attn) and "
            "one MLP (mlp)"
        )
    linear = 0
    for layer in block.modules():
        for weight in layer.parameters(recurse=False):
            if weight.ndim < 2:  # biases, norms and layer scale
                continue
            if not isinstance(layer, nn.Linear):
                kind = type(layer).__name__
                raise CovtokenError(f"cannot count a {kind} in a block of {name}: expected linear layers")
            linear += weight.numel()
    return linear, attn.proj.in_features


def _count(value: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise CovtokenError(f"{what} = {value!r}: expected a whole number ≥ 0")
    return int(value)
