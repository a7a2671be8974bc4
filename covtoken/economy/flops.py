"""Count floating-point operations of a plain ViT in closed form, 2 per multiply-add, for one picture.

Counted: patch embedding, linear layers, the two products of attention. Not counted: norms, softmax, activations,
biases, positions (rotary ones too), anything after the last block. The result is work, not time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from timm.layers import Attention, AttentionRope
from timm.models.eva import EvaAttention
from torch import nn

from covtoken.backbone.vit import FrozenViT
from covtoken.errors import CovtokenError


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
