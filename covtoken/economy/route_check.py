"""Check a route against a pass that slices nothing: the same blocks, with dropped tokens hidden from attention.

All tokens run all blocks; from the block after its exit on, a dropped token is masked out of every attention. CLS,
registers and kept tokens must come out as the route gives them, so that a route that loses CLS, takes another token's
rotary row or puts a value in the wrong place is noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from covtoken.backbone.vit import FrozenViT
from covtoken.economy.routing import Routed, route_through
from covtoken.economy.stages import Stage
from covtoken.errors import CovtokenError

TOLERANCE = 1e-4  # of the largest value; float32 rounding through all blocks stays below


def masked_pass(vit: FrozenViT, images: Tensor, exits: Tensor) -> tuple[Tensor, Tensor]:
    """Run all tokens through all blocks, and hide each from attention after the last block it may run.

    Args:
        images: [N, 3, S, S].
        exits: [N, T] int64, as in ``Routed``.

    Returns:
        normed patch tokens [N, T, D], of which only those with exit L mean something, and the normed prefix [N, P, D].
    """
    exits = exits.to(images.device)
    with torch.no_grad():
        stream, rope = vit.embed(images)
        prefix_stays = exits.new_full((len(exits), vit.n_prefix), vit.n_blocks)
        exits = torch.cat([prefix_stays, exits], dim=1)
        for block in range(1, vit.n_blocks + 1):
            hidden = torch.zeros(exits.shape, device=exits.device).masked_fill_(exits < block, float("-inf"))
            stream = vit.run(stream, rope, block, block, attn_mask=hidden[:, None, None])
        normed = vit.model.norm(stream).float()
    return normed[:, vit.n_prefix :], normed[:, : vit.n_prefix]


def route_error(
    vit: FrozenViT, images: Tensor, stages: Sequence[Stage], route: Callable[..., Routed] = route_through
) -> float:
    """Compute the largest deviation of kept tokens, CLS and registers from ``masked_pass``, over its largest value.

    Args:
        images: [N, 3, S, S].
        stages: without exit maps; those that drop no token compare the route with the plain pass.
        route: what is checked, called as ``route_through``.
    """
    routed = route(vit, images, stages)
    tokens, prefix = masked_pass(vit, images, routed.exits)
    kept = routed.kept.to(images.device)
    pairs = [(routed.tokens[kept], tokens[kept])]
    if vit.n_prefix:
        if routed.prefix.shape != prefix.shape:
            return float("inf")
        pairs.append((routed.prefix, prefix))
    largest = max(theirs.abs().max().item() for _, theirs in pairs if theirs.numel())
    return max((ours - theirs).abs().max().item() for ours, theirs in pairs if theirs.numel()) / largest


def check_route(
    vit: FrozenViT, images: Tensor, stages: Sequence[Stage], route: Callable[..., Routed] = route_through
) -> None:
    """Raise CovtokenError if a route is not what a pass with hidden tokens is; arguments as ``route_error``."""
    error = route_error(vit, images, stages, route)
    if not error <= TOLERANCE:
        raise CovtokenError(
            f"the route of {vit.name} is off by {error:.2g} of its largest value, more than {TOLERANCE:g}: it loses "
            "CLS or registers, or mixes up tokens or their positions"
        )
