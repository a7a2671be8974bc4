"""Erase from D what it shares with another map: does it only find that map back?

Two erasures of a target t (the saliency head's logit) that the bank's tokens predict by a direction β:

- ``Direction.without``: tokens lose their component *along* β. Tokens vary in a correlated way, so the rest can still
  predict t, and D can go on finding it.
- ``without_linear``, which answers the question: an oblique projection x ↦ x − m − σ βᵀ(x − m) / (βᵀσ), σ = cov(x, t),
  after which no direction whatever, D's or a new one, is correlated with t on the bank. With β of ordinary least
  squares it is the least such change of tokens in their own metric (LEACE, Belrose et al. 2023).
"""

from __future__ import annotations

from covtoken.errors import CovtokenError
from covtoken.subspace.direction import Direction
from covtoken.subspace.ridge import Moments, central, solve


def without_linear(direction: Direction, moments: Moments, ridge: float = 0.0, target: str = "map") -> Direction:
    """Read ``direction`` off tokens that carry no linear information on a target: ω′ = ω − (ω·σ)/(β·σ) β.

    Args:
        moments: of tokens of the direction's block, pooled as its header says, and the target (``direction_moments``).
        ridge: of β; at 0 the erasure is LEACE's.
        target: its name, for the header.

    Raises:
        CovtokenError: tokens of another width, a target that no direction predicts, or as ``ridge.solve``.
    """
    if len(moments.x) != len(direction.weight):
        raise CovtokenError(
            f"the direction has width {len(direction.weight)}, the sums of the target {len(moments.x)}: sum tokens of "
            f"block {direction.header['block']}"
        )
    beta, sigma = solve(moments, ridge)[0], central(moments)[1]
    if not beta @ sigma > 0:
        raise CovtokenError(f"no direction of the tokens predicts the {target}: there is nothing to erase")
    left = direction.weight - (direction.weight @ sigma) / (beta @ sigma) * beta
    return direction.replaced(left, without_linear=target)
