"""Plan where a frozen ViT merges tokens: r of each block, and the schedules that fit a budget of FLOPs.

The paper merges equally many tokens after every block. That is one schedule of many: merging may start later, where
tokens say more, and may then be spread evenly or happen at once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

import numpy as np
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer

from covtoken.backbone.vit import FrozenViT
from covtoken.economy.flops import matching_flops, score_flops, vit_flops
from covtoken.economy.stages import Stage, check_stages
from covtoken.errors import CovtokenError


def schedules_for(vit: FrozenViT, flops: int, protect: Stage | None = None) -> dict[str, tuple[int, ...]]:
    """List the schedules that come nearest to a budget without exceeding it: r of each block, by name.

    "equal" is the paper's. "from s" spreads merging evenly over blocks s … L − 1. "at once after s" merges all that
    halving allows after block s, then on until the clusters are few enough. The last two merge nothing after the last
    block, where it saves nothing. A schedule that cannot reach the budget is left out, and so is one that equals an
    earlier one.

    Args:
        flops: of one picture, with all that ``merging_flops`` counts.
        protect: marks tokens that do not merge; merging then starts after its block.

    Raises:
        CovtokenError: a model that cannot merge, a budget that no schedule reaches.
    """
    check_can_merge(vit)
    n_tokens, last = vit.rows * vit.cols, vit.n_blocks - 1
    check_stages(vit, [] if protect is None else [protect])
    n_protected = 0 if protect is None else protect.count(n_tokens)
    free = n_tokens - n_protected
    if not free:
        raise CovtokenError(f"all {n_tokens} tokens are protected: protect fewer, or nothing can merge")
    kinds: dict[str, Callable[[int], tuple[int, ...]]] = {}
    if protect is None:
        kinds["equal"] = lambda n: schedule(free, n, vit.n_blocks)
    for start in range(1, last + 1) if protect is None else [protect.block]:
        kinds[f"from {start}"] = lambda n, s=start: (0,) * (s - 1) + schedule(free, n, last - s + 1) + (0,)
        kinds[f"at once after {start}"] = lambda n, s=start: (0,) * (s - 1) + at_once(free, n, last - s + 1) + (0,)
    found: dict[str, tuple[int, ...]] = {}
    for name, plan in kinds.items():
        blocks = vit.n_blocks if name == "equal" else last - int(name.split()[-1]) + 1
        planned = _largest(vit, flops, plan, range(fewest(free, blocks), free), protect)
        if planned is not None and planned not in found.values():
            found[name] = planned
    if not found:
        raise CovtokenError(
            f"no merging of {vit.name} costs at most {flops / 1e9:.3g} GFLOPs a picture: raise the budget"
            + ("" if protect is None else f", or protect fewer than {n_protected} tokens, after an earlier block")
        )
    return found


def merging_flops(vit: FrozenViT, planned: Sequence[int], protect: Stage | None = None) -> int:
    """Count the FLOPs of one picture: blocks, similarities of the blocks that merge, protecting score and exit map.

    Means over heads, normalisation, sorting and merged means are not counted. A pass that merges nothing has no map.
    """
    check_can_merge(vit)
    n_tokens = vit.rows * vit.cols
    n_protected = 0 if protect is None else protect.count(n_tokens)
    check_planned(planned, n_tokens - n_protected, vit.n_blocks)
    entering = [n_tokens + vit.n_prefix - sum(planned[:i]) for i in range(vit.n_blocks)]
    total = vit_flops(vit, entering)
    if not any(planned):
        return total
    matched = [n - n_protected for n, r in zip(entering, planned, strict=True) if r]
    total += matching_flops(matched, vit.model.blocks[0].attn.head_dim, vit.n_prefix)
    total += 0 if protect is None else score_flops(vit, protect)
    return total + 2 * n_tokens * 2 * vit.dim * vit.dim


def at_once(n_tokens: int, n_clusters: int, n_blocks: int) -> tuple[int, ...]:
    """Plan r of each block, so that T tokens become n_clusters as early as halving allows."""
    planned, left = [], n_tokens
    for _ in range(n_blocks):
        planned.append(min(most(left), left - n_clusters))
        left -= planned[-1]
    if left != n_clusters:
        raise CovtokenError(f"n_clusters = {n_clusters} is out of reach of {n_blocks} blocks and {n_tokens} tokens")
    return tuple(planned)


def check_planned(planned: Sequence[int], n_tokens: int, n_blocks: int) -> None:
    """Refuse a schedule that is not one r for each block, or merges more than half of the tokens that are left."""
    if len(planned) != n_blocks:
        raise CovtokenError(
            f"planned: {len(planned)} numbers of merged tokens, expected one for each of {n_blocks} blocks"
        )
    for block, r in enumerate(planned, start=1):
        if isinstance(r, bool) or not isinstance(r, int | np.integer) or not 0 <= r <= most(n_tokens):
            raise CovtokenError(
                f"planned: r = {r!r} after block {block}: expected 0 … {most(n_tokens)}, half of {n_tokens} tokens"
            )
        n_tokens -= r


def fewest(n_tokens: int, n_blocks: int) -> int:
    """Count the clusters that are left of T tokens if every block halves them."""
    for _ in range(n_blocks):
        n_tokens -= most(n_tokens)
    return n_tokens


def _largest(
    vit: FrozenViT, flops: int, plan: Callable[[int], tuple[int, ...]], clusters: range, protect: Stage | None
) -> tuple[int, ...] | None:
    """Plan the most clusters that the budget allows; nothing merges where it pays for the plain pass, None if none."""
    plain = plan(clusters.stop)
    if merging_flops(vit, plain, protect) <= flops:
        return plain
    within = bisect_right(clusters, flops, key=lambda n: merging_flops(vit, plan(n), protect))
    return plan(clusters[within - 1]) if within else None


def most(n_tokens: int) -> int:
    """Count the tokens of N that a block can merge away: all of A, ⌈N/2⌉; none where B is empty."""
    return (n_tokens + 1) // 2 if n_tokens > 1 else 0


def schedule(n_tokens: int, n_clusters: int, n_blocks: int) -> tuple[int, ...]:
    """Plan r of each block, so that T tokens become exactly n_clusters after the last.

    Equal but for the remainder, which the first blocks take. Late blocks that would need more than half of their tokens
    take what they can; earlier blocks, which have more, take the rest.

    Raises:
        CovtokenError: n_clusters outside 1 … T, or below what halving in every block reaches.
    """
    if isinstance(n_clusters, bool) or not isinstance(n_clusters, int | np.integer) or not 1 <= n_clusters <= n_tokens:
        raise CovtokenError(f"n_clusters = {n_clusters}: expected 1 … {n_tokens}, the patch tokens of a picture")
    left, after, planned = n_tokens - int(n_clusters), int(n_clusters), []
    for remaining in range(n_blocks, 0, -1):  # from the last, since a block may merge as many as the tokens left allow
        r = min(left // remaining, after + 1)  # N tokens of which ⌈N/2⌉ merge leave ⌊N/2⌋, hence N ≤ 2 · after + 1
        planned.append(r)
        left, after = left - r, after + r
    if left:
        raise CovtokenError(
            f"n_clusters = {n_clusters} is out of reach: {n_blocks} blocks that merge at most half of their tokens "
            f"leave {fewest(n_tokens, n_blocks)} or more of {n_tokens}"
        )
    return tuple(reversed(planned))


def check_can_merge(vit: FrozenViT) -> None:
    """Refuse a model whose blocks cannot be run one by one with merged tokens."""
    if getattr(vit.model, "rope", None) is not None:
        raise CovtokenError(
            f"{vit.name} has rotary positions, and a merged token has no one position to rotate by: "
            "take a ViT with learned positions, such as embedded or dinov2-small"
        )
    plain = isinstance(vit.model, VisionTransformer) and all(
        isinstance(block, Block) and isinstance(block.attn, Attention) for block in vit.model.blocks
    )
    if not plain:
        raise CovtokenError(
            f"{vit.name} ({type(vit.model).__name__} of {type(vit.model.blocks[0]).__name__}) cannot merge: expected a "
            "timm VisionTransformer of plain blocks, such as vit_small_patch14_dinov2"
        )
