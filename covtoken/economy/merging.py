"""Merge tokens instead of dropping them: the baseline of Token Merging (ToMe, Bolya et al. 2023), from the paper.

After each block the patch tokens are split by turns into two sets A and B; every token of A proposes to the token of B
whose key is most similar, and the r best proposals are merged by a mean weighted with token sizes. Later attention
counts a token by its size. It differs from the paper:

- Tokens are merged after a block, not between its attention and its MLP, so that the model's own blocks run unchanged.
  The keys are still the ones of that block's attention.
- Only patch tokens take turns: CLS and registers are in neither set and never merge.
- r differs between blocks where exactly n clusters ask for it (``schedule``).
- No training with merging: the model stays frozen (the paper reports this too, as "off the shelf").
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from covtoken.backbone.vit import FrozenViT
from covtoken.data.case import Case
from covtoken.data.intensity import check_input, to_input
from covtoken.economy.keep import kept_tokens
from covtoken.economy.merge_schedules import check_can_merge, check_planned, most, schedule
from covtoken.economy.stages import Stage, check_stages
from covtoken.errors import CovtokenError
from covtoken.leak_guard import construction

HALF = 0.5  # a merged lesion token survives if lesion tokens make up at least this share of its cluster


@dataclass(frozen=True)
class Merged:
    """Clusters and tokens of B pictures after merging."""

    cluster: Tensor  # [B, T] int64, the final cluster of each patch token, 0 … n_clusters − 1, none empty
    tokens: Tensor  # [B, n_clusters, D], the residual stream after the last block, CLS and registers split off
    counts: tuple[int, ...]  # tokens that enter each block, CLS and registers included
    prefix: Tensor  # [B, P, D], the residual stream of CLS and registers after the last block
    before: Tensor  # [B, T, D], patch tokens after the first block that merges, before they do; without one, ``tokens``


def match(keys: Tensor, r: int) -> Tensor:
    """Match tokens to merge r of N: the new place of each, [B, N] int64, values 0 … N − r − 1, none empty.

    A is the even positions, B the odd ones. Each token of A proposes to its most similar token of B (cosine), and the
    r most similar pairs merge; several may share their token of B. The rest of A comes first, then B, each in order.
    Of equal similarities the earlier token wins, in A as in B.

    Args:
        keys: [B, N, dim], mean over heads.
        r: 0 … ``most(N)``.

    Raises:
        CovtokenError: shape, or r out of range.
    """
    if keys.ndim != 3:
        raise CovtokenError(f"keys: expected [B, N, dim], got {list(keys.shape)}")
    n_batch, n_tokens, _ = keys.shape
    if not 0 <= r <= most(n_tokens):
        raise CovtokenError(f"r = {r}: of {n_tokens} tokens 0 … {most(n_tokens)} can be merged at once, half of them")
    if r == 0:
        return torch.arange(n_tokens, device=keys.device).repeat(n_batch, 1)
    if not torch.isfinite(keys).all():
        raise CovtokenError("keys hold NaN or infinity: check the weights and the pictures")
    keys = torch.nn.functional.normalize(keys, dim=-1)
    similarity = keys[:, 0::2] @ keys[:, 1::2].transpose(1, 2)  # [B, |A|, |B|]
    best, partner = similarity.max(dim=-1)
    n_a, n_b = similarity.shape[1:]
    strongest = best.argsort(dim=1, descending=True, stable=True)[:, :r]
    merges = torch.zeros_like(best, dtype=torch.bool).scatter_(1, strongest, True)
    into = torch.empty(n_batch, n_tokens, dtype=torch.int64, device=keys.device)
    into[:, 0::2] = torch.where(merges, n_a - r + partner, (~merges).cumsum(dim=1) - 1)
    into[:, 1::2] = torch.arange(n_a - r, n_a - r + n_b, device=keys.device)
    return into


def merge(tokens: Tensor, sizes: Tensor, into: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Average tokens [B, N, D] that share a place, weighted by size, and sum their sizes: [B, n, D] and [B, n].

    Args:
        sizes: [B, N], original tokens in each.
        into: [B, N], from ``match``.
        n: places, none empty.
    """
    summed = sizes.new_zeros(len(sizes), n).scatter_add_(1, into, sizes)
    index = into.unsqueeze(-1).expand_as(tokens)
    total = tokens.new_zeros(len(tokens), n, tokens.shape[-1]).scatter_add_(1, index, tokens * sizes.unsqueeze(-1))
    return total / summed.unsqueeze(-1), summed


def merge_through(vit: FrozenViT, images: Tensor, n_clusters: int) -> Merged:
    """Run the model's own blocks one by one and merge patch tokens after each, equally many, to ``n_clusters``.

    Args:
        images: [B, 3, S, S] from ``FrozenViT.prepare``.
        n_clusters: T is the plain forward pass.

    Raises:
        CovtokenError: what ``merge_planned`` refuses, an n_clusters that ``schedule`` refuses.
    """
    check_can_merge(vit)
    return merge_planned(vit, images, schedule(vit.rows * vit.cols, n_clusters, vit.n_blocks))


def merge_planned(vit: FrozenViT, images: Tensor, planned: Sequence[int], protect: Stage | None = None) -> Merged:
    """Run the model's own blocks one by one and merge ``planned`` patch tokens after each; float32, no gradients.

    Keys are read where ``Attention`` hands them to its product (after a query-key norm, if any). From the first merge
    on, the log of the token sizes is added to the attention logits through the block's ``attn_mask``: the paper's
    proportional attention.

    Args:
        images: [B, 3, S, S] from ``FrozenViT.prepare``.
        planned: r of each block (``merge_schedules``).
        protect: scores the tokens after the first block that merges; those that it would let go on are in neither A nor
            B. The others take turns in their order.

    Raises:
        CovtokenError: a model with rotary positions (a merged token has no position to rotate by) or without timm's
            plain blocks, a wrong shape, more merged tokens than half of those that may, a score at another block.
    """
    check_can_merge(vit)
    vit.check_request(images, [], [], False, "fp32")
    model, n_prefix = vit.model, int(vit.model.num_prefix_tokens)
    n_tokens = vit.rows * vit.cols
    n_protected = 0 if protect is None else _check_protect(vit, planned, protect)
    check_planned(planned, n_tokens - n_protected, vit.n_blocks)
    seen: list[Tensor] = []  # keys [B, heads, sequence, head_dim] of the block that ran last
    counts, before = [], None
    with torch.no_grad():
        stream = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images.float()))))
        cluster = torch.arange(n_tokens, device=stream.device).repeat(len(stream), 1)
        sizes = stream.new_ones(len(stream), n_tokens)
        for block, r in zip(model.blocks, planned, strict=True):
            counts.append(stream.shape[1])
            weights = None
            if stream.shape[1] < n_prefix + n_tokens:
                weights = torch.nn.functional.pad(sizes.log(), (n_prefix, 0))[:, None, None]  # log 1 = 0 for the prefix
            handle = block.attn.k_norm.register_forward_hook(lambda module, args, out: seen.append(out)) if r else None
            try:
                stream = block(stream, attn_mask=weights)
            finally:
                if handle is not None:
                    handle.remove()
            if r:
                patches, keys = stream[:, n_prefix:], seen.pop().mean(dim=1)[:, n_prefix:]
                if before is None:
                    before = patches
                    if n_protected:
                        patches, keys, cluster = _protected_first(protect, vit, patches, keys)
                into = match(keys[:, n_protected:], r)
                alone = torch.arange(n_protected, device=into.device).repeat(len(into), 1)
                into = torch.cat([alone, n_protected + into], dim=1)
                merged, sizes = merge(patches, sizes, into, into.shape[1] - r)
                stream = torch.cat([stream[:, :n_prefix], merged], dim=1)
                cluster = into.gather(1, cluster)
    patches, prefix = stream[:, n_prefix:].contiguous(), stream[:, :n_prefix].contiguous()
    return Merged(cluster, patches, tuple(counts), prefix, patches if before is None else before.contiguous())


def _protected_first(protect: Stage, vit: FrozenViT, patches: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Move the protected tokens of [B, T, D] to the front, in order; give patches, keys and each token's place."""
    scores = protect.scores(patches.float(), vit.rows, vit.cols)
    chosen = torch.from_numpy(kept_tokens(scores, k=protect.count(patches.shape[1])))
    order = (~chosen).to(torch.int8).argsort(dim=1, stable=True).to(patches.device)
    moved = (part.gather(1, order.unsqueeze(-1).expand_as(part)) for part in (patches, keys))
    return *moved, order.argsort(dim=1)


def _check_protect(vit: FrozenViT, planned: Sequence[int], protect: Stage) -> int:
    """Count the protected tokens; refuse a score that this model cannot use where merging starts."""
    check_stages(vit, [protect])
    start = next((block for block, r in enumerate(planned, start=1) if r), protect.block)
    if start != protect.block:
        raise CovtokenError(f"merging starts after block {start}, but protects by a score at block {protect.block}")
    return protect.count(vit.rows * vit.cols)


def merge_cases(
    cases: Sequence[Case], vit: FrozenViT, n_clusters: int, batch: int = 8, progress: bool = True
) -> np.ndarray:
    """Merge the tokens of cases, read as ``covtoken.backbone.cache.features`` does: final clusters, [N, T] int64.

    Args:
        batch: pictures a pass; only these are in memory.
        progress: show a bar on stderr where that is a terminal.

    Raises:
        LabelLeak: a picture is a registered mask file.
        CovtokenError: no case, a picture that cannot be read, or what ``merge_through`` refuses.
    """
    cases = list(cases)
    if not cases:
        raise CovtokenError("no cases to merge: the cohort or split is empty")
    if batch < 1:
        raise CovtokenError(f"batch {batch}: expected at least 1 picture a pass")
    check_can_merge(vit)
    schedule(vit.rows * vit.cols, n_clusters, vit.n_blocks)
    for case in cases:
        check_input(case, vit.input)
    clusters = []
    bar = {"console": Console(stderr=True), "disable": not (progress and sys.stderr.isatty())}
    with construction("merging"), torch.inference_mode():
        for start in track(range(0, len(cases), batch), "merging", **bar):
            squashed = [vit.squash(to_input(case.pixels(), case, vit.input)) for case in cases[start : start + batch]]
            images = vit.normalise(torch.stack(squashed)).to(vit.device)
            clusters.append(merge_through(vit, images, n_clusters).cluster.cpu().numpy())
    return np.concatenate(clusters)


def survives(cluster: np.ndarray, lesion: np.ndarray) -> np.ndarray:
    """Mark the lesion tokens that outlive merging, bool: at least half of their cluster is lesion. Evaluation only.

    Args:
        cluster: [N, T] int ≥ 0.
        lesion: [N, T] bool.

    Raises:
        CovtokenError: shapes that differ, clusters that are no integers ≥ 0, lesions that are not bool.
    """
    cluster, lesion = np.asarray(cluster), np.asarray(lesion)
    if cluster.ndim != 2 or cluster.shape != lesion.shape:
        raise CovtokenError(f"expected cluster and lesion of one shape [N, T], got {cluster.shape} and {lesion.shape}")
    if lesion.dtype != bool:
        raise CovtokenError(f"lesion must be bool, got {lesion.dtype}")
    if not np.issubdtype(cluster.dtype, np.integer) or (cluster.size and cluster.min() < 0):
        raise CovtokenError(f"cluster must be integers ≥ 0, got {cluster.dtype}")
    if not cluster.size:
        return lesion.copy()
    n_ids = int(cluster.max()) + 1
    ids = cluster.astype(np.int64) + n_ids * np.arange(len(cluster))[:, None]  # one number per picture and cluster
    size = np.bincount(ids.ravel(), minlength=n_ids * len(cluster))
    hit = np.bincount(ids.ravel(), weights=lesion.ravel(), minlength=n_ids * len(cluster))
    return lesion & (hit[ids] >= HALF * size[ids])
