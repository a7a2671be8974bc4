"""D without what it shares with another map: does it only find that map back?

Two erasures, of one target t (the saliency head's logit) that the bank's tokens predict by a direction β:

- ``Direction.without``, the plain one: tokens lose their component *along* β. Tokens vary in a correlated
  way, so what is left of them can still predict t, and D can go on finding it.
- ``without_linear``, the honest one for this question: an oblique projection x ↦ x − m − σ βᵀ(x − m) / (βᵀσ), with
  σ = cov(x, t), after which cov(x, t) = 0: no direction whatever, D's or a new one, is correlated with t on the bank.
  With β of ordinary least squares it is the least change of tokens, in their own metric, that does so (LEACE, Belrose
  et al. 2023).
"""

from __future__ import annotations

from covtoken.errors import CovtokenError
from covtoken.subspace.direction import Direction
from covtoken.subspace.ridge import Moments, central, solve


def without_linear(direction: Direction, moments: Moments, ridge: float = 0.0, target: str = "map") -> Direction:
    """``direction``, read off tokens that carry no linear information on a target: ω′ = ω − (ω·σ)/(β·σ) β.

    Args:
        moments: of the bank's tokens at the direction's block, pooled as its header says, with the target as t
            (``direction_moments``). ridge: of β; at 0 the erasure is LEACE's. target: its name, for the header.

    Raises:
        CovtokenError: tokens of another width, a target that no direction predicts, or as ``ridge.solve``.
    """
    if len(moments.x) != len(direction.weight):
        raise CovtokenError(
            f"the direction has width {len(direction.weight)}, the sums of the target {len(moments.x)}: sum tokens of "
            f"block {direction.header['block']}"
        )
    beta, _ = solve(moments, ridge)
    _, sigma, _ = central(moments)
    if not beta @ sigma > 0:
        raise CovtokenError(f"no direction of the tokens predicts the {target}: there is nothing to erase")
    left = direction.weight - (direction.weight @ sigma) / (beta @ sigma) * beta
    return direction.replaced(left, without_linear=target)
