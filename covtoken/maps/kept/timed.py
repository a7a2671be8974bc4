"""Time the plain pass against a route on a person's own pictures, and say what the route's output is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from covtoken.backbone.vit import FrozenViT
from covtoken.bank.pooling import pool3x3
from covtoken.bank.token_bank import check_fits
from covtoken.data.case import Case
from covtoken.economy.exit_maps import fit_exit_maps
from covtoken.economy.flops import route_flops
from covtoken.economy.route_check import TOLERANCE, check_route
from covtoken.economy.routing import batches, route_through
from covtoken.economy.stages import Stage
from covtoken.economy.timing import ratios, seconds_of
from covtoken.errors import CovtokenError
from covtoken.gates.economy.clock import machine
from covtoken.maps.kept.own_direction import Keep
from covtoken.subspace.direction import Direction

FEWEST_FITTED = 12  # pictures that exit maps are fitted on at least


def time_route(
    cases: Sequence[Case],
    vit: FrozenViT,
    direction: Direction,
    keep: Keep,
    batch: int = 8,
    repeats: int = 5,
    progress: bool = False,
) -> dict[str, Any]:
    """Run pictures through the plain pass and through a route, in turns.

    Every other picture fits the exit maps, which complete the output of dropped tokens; the others are timed, and there
    the route's output is held against the plain pass's. Too few pictures: no exit maps, all are timed.

    Args:
        cases: the pictures.
        direction: what scores the tokens at its block.
        keep: how many go on from there.
        batch: pictures a pass.
        repeats: rounds that count.

    Returns:
        JSON content: machine, pictures, block, what is kept, ``passes`` (plain, route: GFLOPs and ms a picture),
        speed-ups in FLOPs and as measured with quartiles, and the cosine similarity of outputs.

    Raises:
        CovtokenError: a picture that cannot be read, a direction that does not fit, or a route that is no route.
    """
    if repeats < 1:
        raise CovtokenError(f"repeats {repeats}: expected 1 round or more")
    check_fits(direction, vit)
    stage = Stage(direction.header["block"], _score(direction, vit), n_compared=1, **keep.as_budget())
    fitted = cases[::2] if len(cases) >= 2 * FEWEST_FITTED else []
    maps = fit_exit_maps(fitted, vit, [stage], batch=batch, progress=progress) if fitted else None
    images = [given for _, given, _ in batches(cases[1::2] if fitted else cases, vit, batch)]
    check_route(vit, images[0][:1], [stage])

    def plain() -> list[Tensor]:
        with torch.no_grad():
            return [vit.model.forward_features(some)[:, vit.n_prefix :] for some in images]

    def route() -> list:
        return [route_through(vit, some, [stage], maps) for some in images]

    n = sum(map(len, images))
    whole, spent = seconds_of([plain, route], repeats, gpu=vit.device.type == "cuda")
    routed = route()
    counts = [count for some in routed for (count,) in some.counts([stage])]
    flops = [route_flops(vit, [stage], [count], maps=maps is not None) for count in counts]
    per_route = float(np.mean([each.total for each in flops]))
    middle, low, high = ratios(whole, spent)
    kept = torch.cat([some.kept for some in routed])
    alike = torch.cat(
        [
            torch.nn.functional.cosine_similarity(some.tokens, full.float(), dim=-1).cpu()
            for some, full in zip(routed, plain(), strict=True)
        ]
    )
    similar = {"kept": alike[kept], "dropped": alike[~kept]}
    return {
        "machine": machine(vit),
        "backbone": vit.name,
        "block": stage.block,
        "keep": keep.words,
        "pictures": {"timed": n, "fitted": len(fitted)},
        "batch": batch,
        "repeats": repeats,
        "exit_maps": maps is not None,
        "tokens": {"of": vit.rows * vit.cols, "kept": float(np.mean(counts))},
        "passes": [
            {"pass": "plain", "gflops": flops[0].plain / 1e9, "ms": 1e3 * float(np.median(whole)) / n},
            {"pass": "route", "gflops": per_route / 1e9, "ms": 1e3 * float(np.median(spent)) / n},
        ],
        "speedup_flops": flops[0].plain / per_route,
        "speedup_measured": {"median": middle, "low": low, "high": high},
        "similarity": {name: float(found.median()) if len(found) else None for name, found in similar.items()},
        "checked": f"kept tokens are those of the masked pass to {TOLERANCE:g}",
    }


def _score(direction: Direction, vit: FrozenViT) -> Callable[[Tensor], Tensor]:
    """Score by a direction as a plain function: these exit maps are of other pictures than its bank, and stay here."""

    def score(tokens: Tensor) -> Tensor:
        found = direction.score(tokens)
        return pool3x3(found.unsqueeze(-1), vit.rows, vit.cols).squeeze(-1) if direction.header["pooled"] else found

    return score
