"""Give a routed ViT as a torch module: all patch tokens run the first blocks, the best-scored ones run the rest.

    routed = route(vit, direction, keep=0.25)          # block: where the direction was fitted
    tokens, indices, output_map, prefix = routed(images)

The model's own blocks run, unmodified; ``economy.routing`` slices the sequence between them.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from covtoken.backbone.any_module import from_timm
from covtoken.backbone.vit import FrozenViT
from covtoken.economy.certificate.document import Certificate, MadeBy
from covtoken.economy.exit_maps import ExitMaps
from covtoken.economy.flops import RouteFlops, route_flops
from covtoken.economy.routing import route_through
from covtoken.economy.stages import Score, Stage, check_stages
from covtoken.errors import CovtokenError
from covtoken.subspace.direction import Direction


class RoutedTokens(NamedTuple):
    """What a routed module gives of N pictures, float32.

    Attributes:
        tokens: [N, K, D], normed: patch tokens that ran all blocks. Where pictures keep unlike numbers (by a
            threshold), K is the most, and what is missing is 0.
        indices: [N, K] int64, rising: their places on the token grid, row-major; −1 where one is missing.
        output_map: [N, T, D]: kept tokens in their places; others with what their exit map gives, without exit maps
            their value at the tap.
        prefix: [N, P, D]: CLS, then registers, normed.
    """

    tokens: Tensor
    indices: Tensor
    output_map: Tensor
    prefix: Tensor


class RoutedViT(nn.Module):
    """A frozen ViT whose later blocks run on the kept tokens alone; made by ``route``.

    Attributes:
        vit: with the preprocessing (``vit.prepare``).
        stage: tap block, score and budget.
        exit_maps: or None.
    """

    def __init__(self, vit: FrozenViT, stage: Stage, exit_maps: ExitMaps | None = None, precision: str = "fp32"):
        super().__init__()
        self.model = vit.model  # registered, so that .to() and state_dict() see it
        self.vit, self.stage, self.exit_maps, self.precision = vit, stage, exit_maps, precision

    def forward(self, images: Tensor) -> RoutedTokens:
        """Run pictures [N, 3, S, S], as ``vit.prepare`` gives them, on the model's device.

        Raises:
            CovtokenError: images of another shape, or scores that are NaN.
        """
        routed = route_through(self.vit, images, [self.stage], self.exit_maps, self.precision)
        counts = routed.kept.sum(dim=1)
        most = int(counts.max()) if len(counts) else 0
        # Stable: kept places come first, each group in the order of the grid.
        places = (~routed.kept).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        missing = torch.arange(most) >= counts.unsqueeze(1)
        places, missing = places.to(routed.tokens.device), missing.to(routed.tokens.device)
        tokens = routed.tokens.gather(1, places.unsqueeze(-1).expand(-1, -1, routed.tokens.shape[-1]))
        tokens = tokens.masked_fill(missing.unsqueeze(-1), 0)
        return RoutedTokens(tokens, places.masked_fill(missing, -1), routed.tokens, routed.prefix)

    def flops(self) -> RouteFlops:
        """Count the FLOPs of a picture: blocks, score and exit maps, and those of the plain pass.

        Raises:
            CovtokenError: pictures keep unlike numbers (a threshold), or a score of unknown cost.
        """
        count = self.stage.count(self.vit.rows * self.vit.cols)
        return route_flops(self.vit, [self.stage], [count], maps=self.exit_maps is not None)

    def train(self, mode: bool = True) -> RoutedViT:
        """Stay in eval mode, whatever is asked: the backbone is frozen."""
        return super().train(False)

    def extra_repr(self) -> str:
        budgets = {name: getattr(self.stage, name) for name in ("ratio", "k", "threshold")}
        kept = ", ".join(f"{name}={value}" for name, value in budgets.items() if value is not None)
        return f"{self.vit.label}, block={self.stage.block}, {kept}"


def route(
    vit: FrozenViT | nn.Module,
    direction: Score,
    *,
    block: int | None = None,
    keep: float | int | Certificate = 0.25,
    exit_maps: ExitMaps | None = None,
    precision: str = "fp32",
) -> RoutedViT:
    """Route a frozen ViT: give a torch module that runs the blocks after ``block`` on the kept tokens alone.

    >>> import torch
    >>> from covtoken import load_backbone, route
    >>> vit = load_backbone("random:vit_tiny_patch16_224", 96)
    >>> routed = route(vit, lambda tokens: tokens.norm(dim=-1), block=6, keep=0.25)
    >>> found = routed(torch.zeros(2, 3, 96, 96))
    >>> found.tokens.shape, found.output_map.shape
    (torch.Size([2, 9, 192]), torch.Size([2, 36, 192]))

    Args:
        vit: as ``load_backbone`` gives it, or a timm ViT as ``timm.create_model`` gives it; eval mode and no gradients
            are set on it, nothing else.
        direction: fitted to this backbone; or any function of tokens [n, T, D] that gives scores [n, T], of which the
            highest stay.
        block: tap, 1 … L − 1; None: where the direction was fitted.
        keep: share of the patch tokens that stays, in (0, 1]; or their number, 2 or more; 1 keeps all, which is the
            plain pass. Or a certificate that was calibrated with this direction.
        exit_maps: ``fit_exit_maps`` of this very stage.
        precision: ``"fp32"``, or ``"bf16"`` for autocast.

    Raises:
        CovtokenError: a direction, block, certificate or exit maps that do not fit the model, or a budget out of range.
    """
    vit = from_timm(vit) if isinstance(vit, nn.Module) else vit
    if not isinstance(vit, FrozenViT):
        raise CovtokenError(f"a route runs the blocks of a timm ViT, got {type(vit).__name__}: see `load_backbone`")
    fitted_at = direction.header["block"] if isinstance(direction, Direction) else None
    block = fitted_at if block is None else block
    if block is None:
        raise CovtokenError("block: a score that is no direction names no block; give the tap, 1 … L − 1")
    stage = Stage(block, direction, **_budget(keep, direction, vit.rows * vit.cols))
    check_stages(vit, [stage])
    if exit_maps is not None:
        exit_maps.check(vit, [stage])
    return RoutedViT(vit, stage, exit_maps, precision)


def _budget(keep: object, direction: Score, n_tokens: int) -> dict[str, Any]:
    """Give the budget of a stage."""
    if isinstance(keep, Certificate):
        if not isinstance(direction, Direction):
            raise CovtokenError("a certificate holds for the direction it was calibrated with: route by that direction")
        keep.check_fits(MadeBy.from_header(direction.header, keep.made_by.score))
        if keep.n_tokens != n_tokens:
            raise CovtokenError(
                f"this certificate is of pictures of {keep.n_tokens} tokens, and this backbone gives {n_tokens}: load "
                "it with the picture size of the calibration"
            )
        return {"threshold": keep.threshold} if keep.k is None else {"k": keep.k}
    if isinstance(keep, Integral) and not isinstance(keep, bool) and int(keep) != 1:
        if not 2 <= int(keep) <= n_tokens:
            raise CovtokenError(f"keep = {keep}: expected a share in (0, 1], or 2 … {n_tokens} tokens")
        return {"k": int(keep)}
    if isinstance(keep, bool) or not isinstance(keep, Real) or not 0 < float(keep) <= 1:
        raise CovtokenError(f"keep = {keep!r}: expected a share in (0, 1], 2 … {n_tokens} tokens, or a certificate")
    return {"ratio": float(keep)}
