"""Fit what the tokens of a route show in its output map: ridges from what the route has to what the full pass gives.

A dropped token shows the value that a ridge predicts from its raw value at its tap. A kept token, which lost part of
its context, is corrected by a ridge from its own normed value and its raw value at the first tap, the last at which all
tokens were there. Both are fitted on the bank's pictures, without labels. A picture that drops nothing is left alone.

Over shards, ``exit_sums`` is a map and its results add up in any order; ``ExitMaps.of`` solves.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from covtoken.backbone.vit import FrozenViT
from covtoken.bank.tensor_file import content_digest, read_tensors, write_tensors
from covtoken.bank.token_bank import check_fits, origin
from covtoken.data.case import Case
from covtoken.economy.routing import batches, route_through
from covtoken.economy.stages import Stage, check_stages
from covtoken.errors import CovtokenError
from covtoken.leak_guard import construction
from covtoken.subspace.direction import Direction
from covtoken.subspace.ridge import MapMoments, solve_map

KIND = "exit maps"
RIDGE = 0.1  # λ; a tap's 0.01 overfits the map of kept tokens, which is twice as wide and sees a third of the tokens


@dataclass(frozen=True, eq=False)
class AffineMap:
    """Map tokens [..., D] to x·W + b, [..., M], in float32."""

    weight: Tensor = field(repr=False)  # W [D, M] float32
    bias: Tensor = field(repr=False)  # b [M] float32

    def __call__(self, tokens: Tensor) -> Tensor:
        weight, bias = (part.to(tokens.device) for part in (self.weight, self.bias))
        flat = tokens.float().reshape(-1, len(weight))
        return torch.addmm(bias, flat, weight).reshape(*tokens.shape[:-1], weight.shape[1])


@dataclass(frozen=True, eq=False)
class ExitSums:
    """Sums of a shard of the bank's pictures, from which exit maps are solved; shards add up."""

    dropped: tuple[MapMoments, ...]  # one a stage: raw value of the tokens that came there → normed full value
    kept: MapMoments  # [normed routed value, raw value at the first tap] → normed full value
    digests: tuple[str, ...]  # of the pictures
    units: tuple[str, ...]

    def __add__(self, other: ExitSums) -> ExitSums:
        if len(self.dropped) != len(other.dropped):
            raise CovtokenError(f"sums of {len(self.dropped)} and {len(other.dropped)} stages do not add up")
        dropped = tuple(a + b for a, b in zip(self.dropped, other.dropped, strict=True))
        return ExitSums(dropped, self.kept + other.kept, self.digests + other.digests, self.units + other.units)


@dataclass(frozen=True, eq=False)
class ExitMaps:
    """Exit maps of a route.

    Attributes:
        dropped: one a stage, [D, D].
        kept: [2·D, D], of the normed routed value, then the raw value at the first tap.
        header: kind, blocks (of the stages), stages (in words), ridge, explained (R² of each map on the fitted tokens),
            n_tokens, content_sha256; the origin (``token_bank.origin``).
    """

    dropped: tuple[AffineMap, ...]
    kept: AffineMap
    header: dict

    @classmethod
    def of(cls, sums: ExitSums, vit: FrozenViT, stages: Sequence[Stage], ridge: float = RIDGE) -> ExitMaps:
        """Solve for the maps of the route that was summed, from the sums over all shards.

        Args:
            ridge: λ, see ``subspace.ridge.solve``.

        Raises:
            CovtokenError: another number of stages, λ below 0, no picture that drops a token, values that are NaN.
        """
        if len(sums.dropped) != len(stages):
            raise CovtokenError(f"sums of {len(sums.dropped)} stages do not fit a route of {len(stages)}")
        if sums.kept.n < 2:
            raise CovtokenError("the route keeps and drops no token of the bank's pictures: there is no map to fit")
        solved = [solve_map(moments, ridge) for moments in (*sums.dropped, sums.kept)]
        made = {"weights_sha256": vit.weights_sha256, "preprocessing": vit.preprocessing, "precision": "fp32"}
        source = SimpleNamespace(backbone=vit.name, digests=sums.digests, units=sums.units, **made)
        header = origin(source) | {
            "kind": f"set of {KIND}",
            "blocks": [int(stage.block) for stage in stages],
            "ridge": float(ridge),
        }
        header |= {"stages": [in_words(stage) for stage in stages], "explained": [share for _, _, share in solved]}
        header["n_tokens"] = [moments.n for moments in (*sums.dropped, sums.kept)]
        maps = [AffineMap(weight.float(), bias.float()) for weight, bias, _ in solved]
        return cls(tuple(maps[:-1]), maps[-1], _sealed(maps, header))

    def check(self, vit: FrozenViT, stages: Sequence[Stage]) -> None:
        """Refuse to serve another backbone, other blocks, or a direction of another bank.

        The score and the budget of a stage may differ from those that were fitted on: the header names these.
        """
        check_fits(self, vit)
        blocks = [stage.block for stage in stages]
        if blocks != self.header["blocks"]:
            raise CovtokenError(f"these exit maps are of stages after blocks {self.header['blocks']}, not {blocks}")
        for stage in stages:
            if isinstance(stage.score, Direction):
                banks = [head["cohort_fingerprint"] for head in (stage.score.header, self.header)]
                if banks[0] != banks[1]:
                    raise CovtokenError(
                        f"the direction at block {stage.block} was fitted on bank {banks[0][:12]}, the exit maps on "
                        f"{banks[1][:12]}: fit both on the pictures of one bank"
                    )

    def save(self, path: Path) -> None:
        """Write the maps to one safetensors file, or nothing."""
        write_tensors(Path(path), _tensors([*self.dropped, self.kept]), self.header, kind=KIND)


def fit_exit_maps(
    cases: Sequence[Case],
    vit: FrozenViT,
    stages: Sequence[Stage],
    ridge: float = RIDGE,
    batch: int = 8,
    progress: bool = False,
) -> ExitMaps:
    """Fit the exit maps of a route on the bank's pictures; a full and a routed pass each, and no label.

    Args:
        cases: the bank's.
        stages: of the route; a count ``k`` one a picture counts all cases.
        ridge: λ, see ``subspace.ridge.solve``.
        batch: pictures a pass; only these are in memory.
        progress: show a bar on stderr where that is a terminal.

    Raises:
        LabelLeak: a picture is a registered mask file.
        CovtokenError: no case, a picture that cannot be read, stages that do not fit the model, or what ``of`` refuses.
    """
    return ExitMaps.of(exit_sums(cases, vit, stages, batch, progress), vit, stages, ridge)


def exit_sums(
    cases: Sequence[Case], vit: FrozenViT, stages: Sequence[Stage], batch: int = 8, progress: bool = False
) -> ExitSums:
    """Sum the bank's pictures, or a shard of them; arguments as ``fit_exit_maps``."""
    cases = list(cases)
    check_stages(vit, stages)
    total = None
    bar = {"console": Console(stderr=True), "disable": not (progress and sys.stderr.isatty())}
    with construction(KIND):
        parts = batches(cases, vit, batch)
        for part, images, digests in track(parts, "exit maps", -(-len(cases) // max(1, batch)), **bar):
            dropped, kept = sums_of(vit, images, [stage.at(part) for stage in stages])
            summed = ExitSums(dropped, kept, digests, tuple(case.unit for case in cases[part]))
            total = summed if total is None else total + summed
    return total


def sums_of(
    vit: FrozenViT, images: Tensor, stages: Sequence[Stage], full: Tensor | None = None
) -> tuple[tuple[MapMoments, ...], MapMoments]:
    """Sum one batch of images [n, 3, S, S]: for each stage, and for the tokens kept to the end.

    Args:
        full: [n, T, D], the normed tokens of the plain pass, where they are known.
    """
    full = vit.extract(images, ["norm"]).tokens["norm"] if full is None else full
    routed = route_through(vit, images, stages)
    dropped = []
    for stage, tap in zip(stages, routed.taps, strict=True):
        came = (routed.exits >= stage.block).to(full.device)
        dropped.append(MapMoments.of(tap[came], full[came]))
    kept = (routed.kept & ~routed.kept.all(dim=1, keepdim=True)).to(full.device)
    first = routed.taps[0] if stages else full
    return tuple(dropped), MapMoments.of(torch.cat([routed.tokens[kept], first[kept]], dim=-1), full[kept])


def load_exit_maps(path: Path) -> ExitMaps:
    """Read exit maps. Raises CovtokenError, with the path, if missing, damaged, edited or no exit maps."""
    path = Path(path)
    tensors, header = read_tensors(path, kind=KIND)
    names = [*(f"dropped{i}" for i in range(len(header.get("blocks", [])))), "kept"]
    expected = {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    if tensors.keys() != expected or any(tensor.dtype != torch.float32 for tensor in tensors.values()):
        came = ", ".join(f"{name} {list(x.shape)} {x.dtype}" for name, x in sorted(tensors.items())) or "none"
        raise CovtokenError(
            f"{path}: edited or damaged: expected float32 weights and biases, came {came}; fit it again"
        )
    maps = [AffineMap(tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in names]
    sealed, digest = header.get("content_sha256", "nothing"), _sealed(maps, header)["content_sha256"]
    if digest != sealed:
        raise CovtokenError(
            f"{path}: edited or damaged: content is {digest[:12]}, its header says {str(sealed)[:12]}; fit it again"
        )
    return ExitMaps(tuple(maps[:-1]), maps[-1], header)


def in_words(stage: Stage) -> str:
    """Describe a stage for a header: its block, its score and its budget."""
    score = stage.score
    if isinstance(score, Direction):
        name = f"direction {score.header['content_sha256'][:12]}"
    else:
        name = str(getattr(score, "__qualname__", type(score).__qualname__))
    given = {"ratio": stage.ratio, "threshold": stage.threshold, "k": stage.k if np.ndim(stage.k) == 0 else "each"}
    budget = ", ".join(f"{key} {value}" for key, value in given.items() if value is not None)
    return f"block {stage.block}, {name}, sigma {stage.sigma:g}, {budget}"


def _tensors(maps: Sequence[AffineMap]) -> dict[str, Tensor]:
    names = [*(f"dropped{i}" for i in range(len(maps) - 1)), "kept"]
    parts = ((f"{name}.{part}", getattr(held, part)) for name, held in zip(names, maps) for part in ("weight", "bias"))
    return dict(parts)


def _sealed(maps: Sequence[AffineMap], header: dict) -> dict:
    header = {k: v for k, v in header.items() if k != "content_sha256"}
    values = torch.cat([tensor.flatten() for tensor in _tensors(maps).values()])
    return header | {"content_sha256": content_digest(values, np.zeros(0, np.int64), header)}
