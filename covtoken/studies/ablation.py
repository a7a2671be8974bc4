"""Ablations of D on the selection split, and the rule that chooses from them the block which D reads.

    content = run_ablation("busi")     # selection split alone: the bank split is the bank, no test split is opened
    recipe, ranking = recommend()      # from the committed ablations of the recipe cohorts

All is tried with one bank, so of the recipe it gives only the block is used; ``bank_choice`` chooses the rest.

**The rule.** Among the factorial's variants that read D at a block ≤ L/2, so that a route can act on it, take the
highest mean over the recipe cohorts of pooled token AUROC. Variants within 0.002 of that are tied. A tie goes to the
earlier block (the cheaper route), then to the smaller σ, then to the ridge nearest 1 in ratio, then to the quantile
nearest 0.9, then to fewer rounds, then to the higher mean. Rounds were tried at the default block and quantile alone.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from covtoken.bank.features import Features
from covtoken.bank.pooling import smooth
from covtoken.bank.token_bank import KEY, origin
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import SplitLabels
from covtoken.evaluation.stats import auroc, image_auroc
from covtoken.keys import smallest
from covtoken.scores.grids import middle_blocks
from covtoken.scores.memberships import token_maps
from covtoken.scores.recipe import Recipe
from covtoken.scores.scorers import SIGMAS
from covtoken.studies.study import (
    Study,
    content_of,
    from_the_usual,
    open_study,
    ranked,
    recipe_cohorts,
    split_features,
)
from covtoken.subspace.direction import (
    Direction,
    DirectionSettings,
    bank_rarity,
    direction_moments,
    moments_at_cuts,
    rarity_cut,
    refined,
    target_reference,
)
from covtoken.subspace.erasure import without_linear
from covtoken.subspace.ridge import Moments

STUDY = Study("ablation", "covtoken-ablation/1", "covtoken ablate", rows="factorial")
QUANTILES = (0.8, 0.85, 0.9, 0.95)
RIDGES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
SIZES = (1_000, 3_000, 12_000)
SHARES = (0.25, 0.5, 1.0)
KEYS = (KEY, "covtoken-ablation-1", "covtoken-ablation-2")
ROUNDS, ROUND_RIDGES = (0, 1, 2, 3), (1.0, 3.0)
HEADS = ("kept", "its direction out", "all it says linearly out")


@dataclass(frozen=True)
class Variant:
    """One setting of D. ``share`` is of the bank's units, ``head`` one of ``HEADS``, the rest as in ``fit_many``."""

    block: int
    target_block: int
    quantile: float = 0.9
    ridge: float = 1.0
    pooled: bool = True
    sigma: float = 0.5
    size: int = 12_000
    share: float = 1.0
    key: str = KEY
    rounds: int = 0
    head: str = HEADS[0]


def default(n_blocks: int) -> Variant:
    """What one setting at a time is moved away from: read at L/2, target at 0.75 L (6 and 9 of 12)."""
    return Variant(max(1, n_blocks // 2), max(1, round(0.75 * n_blocks)))


def ladder(n_blocks: int, with_head: bool) -> dict[str, tuple]:
    """The values of each setting, in the order of the table."""
    target = default(n_blocks).target_block
    return {
        "block": tuple(range(math.ceil(n_blocks / 3), middle_blocks(n_blocks)[-1] + 1)),
        "target_block": tuple(b for b in (target - 1, target, target + 1) if 1 <= b <= n_blocks),
        "quantile": QUANTILES,
        "ridge": RIDGES,
        "pooled": (False, True),
        "sigma": SIGMAS,
        "size": SIZES,
        "share": SHARES,
        "key": KEYS,
        "rounds": ROUNDS,
    } | ({"head": HEADS} if with_head else {})


def run_ablation(
    cohort: str, backbone: str = "embedded", *, data: str | None = None, cache: bool = True, progress: bool = True
) -> dict[str, Any]:
    """The ablation of one cohort from pixels, ready to be written.

    Raises:
        CovtokenError: unknown names, or a cohort without bank or selection split or without lesions in it.
    """
    started = time.perf_counter()
    setting = open_study(cohort, backbone, data=data, cache=cache, progress=progress)
    vit = setting.vit
    steps = ladder(vit.n_blocks, vit.has_saliency_head)
    blocks = sorted({*steps["block"], *steps["target_block"]})
    splits = bank, selection, labels = split_features(setting, blocks, vit.has_saliency_head)
    found = ablate(bank, selection, labels, vit.n_blocks, with_head=vit.has_saliency_head, progress=progress)
    return content_of(STUDY, setting, splits, started, **found)


def ablate(
    bank: Features,
    selection: Features,
    labels: SplitLabels,
    n_blocks: int,
    with_head: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Pooled and image AUROC on the selection split of the factorial and of one setting at a time.

    Args:
        bank, selection: FeatureSets of the two splits, streamed block by block. labels: of the selection split.
        with_head: also D without the saliency head (both need ``saliency``).

    Returns:
        ``{default, ladder, n_variants, factorial, single}``. A row of ``factorial`` (block × quantile × ridge × σ, at
        the default target block, 0 rounds) has those five, ``auroc`` and ``image_auroc``, and so has a row of
        ``rounds`` (rounds × ridge × σ at the default block and quantile); a row of ``single`` has ``setting``,
        ``value`` and the two.
    """
    centre, steps = default(n_blocks), ladder(n_blocks, with_head)
    rarity = _rarity(bank, centre)
    five = ("block", "quantile", "ridge", "sigma", "rounds")
    factorial = {}
    for block in track(steps["block"], "factorial", disable=not progress):
        variants = [
            replace(centre, block=block, quantile=q, ridge=r, sigma=s) for q, r, s in product(QUANTILES, RIDGES, SIGMAS)
        ]
        factorial |= _evaluated(variants, bank, rarity, selection, labels)
    refined_ones = _rounds(centre, bank, rarity, selection, labels, progress)
    known, rows = factorial | refined_ones, []
    moved = [(name, value) for name, values in steps.items() for value in values]
    for name, value in track(moved, "one at a time", disable=not progress):
        variant = replace(centre, **{name: value})
        if variant not in known:
            fresh = name in ("target_block", "size", "share", "key")  # another target; else only another reading of it
            part = _share_of(bank, variant.share)
            known |= _evaluated([variant], part, _rarity(part, variant) if fresh else rarity, selection, labels)
        rows.append({"setting": name, "value": value} | known[variant])
    return {
        "default": asdict(centre),
        "ladder": {name: list(values) for name, values in steps.items()},
        "n_variants": len(known),
        "factorial": [{name: getattr(v, name) for name in five} | values for v, values in factorial.items()],
        "rounds": [{name: getattr(v, name) for name in five} | values for v, values in refined_ones.items()],
        "single": rows,
    }


def recommend(root: Path | None = None, cohorts: Sequence[str] = ()) -> tuple[Recipe, list[dict[str, Any]]]:
    """The recipe that the rule above gives, and the ranking behind it: tied variants in the rule's order, then the rest
    by mean; rows ``{block, quantile, ridge, sigma, rounds, mean, <cohort>…, tied}``.

    Args:
        cohorts: over the tables of these alone; the recipe cohorts if empty.

    Raises:
        CovtokenError: an ablation is not recorded, or the cohorts' are of other backbones or grids.
    """
    found = {cohort: STUDY.read(cohort, root) for cohort in cohorts or recipe_cohorts()}
    kinds = {(c["backbone"], c["provenance"]["weights_sha256"], json.dumps(c["ladder"])) for c in found.values()}
    if len(kinds) > 1:
        raise CovtokenError(
            f"the ablations of {', '.join(found)} are of other backbones, weights or grids: record them alike"
        )
    content = next(iter(found.values()))
    five = ("block", "quantile", "ridge", "sigma", "rounds")
    values = {
        cohort: {tuple(row[k] for k in five): row["auroc"] for row in (*c["factorial"], *c["rounds"])}
        for cohort, c in found.items()
    }
    rows = []
    for key in values[content["cohort"]]:
        each = {cohort: table[key] for cohort, table in values.items()}
        if key[0] <= content["n_blocks"] / 2:
            rows.append(dict(zip(five, key)) | {"mean": sum(each.values()) / len(each)} | each)
    rows = ranked(rows, lambda row: (row["block"], row["sigma"], *from_the_usual(row), row["rounds"], -row["mean"]))
    first, target = rows[0], content["default"]["target_block"]
    settings = DirectionSettings(target, first["quantile"], first["ridge"], first["rounds"])
    return Recipe("direction", first["block"], True, first["sigma"], settings=settings), rows


def _rarity(bank: Features, variant: Variant) -> torch.Tensor:
    """Passes 1 and 2: what costs, once for each target block, reference and bank."""
    return bank_rarity(bank, target_reference(bank, variant.target_block, variant.size, key=variant.key))


def _share_of(bank: Features, share: float):
    """The bank's pictures of that share of its units, those of the smallest hashed names: blind to all else."""
    if share == 1:
        return bank
    units = set(bank.units)
    kept = set(smallest(units, math.ceil(share * len(units))))
    return bank.subset([i for i, unit in enumerate(bank.units) if unit in kept])


def _evaluated(
    variants: list[Variant], bank: Features, rarity: torch.Tensor, selection: Features, labels: SplitLabels
) -> dict[Variant, dict[str, float]]:
    """{auroc, image_auroc} of variants of one block and one rarity [N, T], in one pass over bank and pictures each."""
    block, pooled = variants[0].block, variants[0].pooled
    quantiles = list(dict.fromkeys(v.quantile for v in variants))
    cuts = [rarity_cut(rarity, q) for q in quantiles]
    moments = dict(zip(quantiles, moments_at_cuts(bank, block, rarity, cuts, pooled), strict=True))
    places = list(dict.fromkeys(replace(v, sigma=0.0) for v in variants))  # σ comes after the score
    weights = torch.stack([_direction(moments[p.quantile], p, bank, rarity).weight for p in places], dim=1).float()
    raw = token_maps(lambda z, part: z @ weights, block, pooled, selection)  # [N, T, places]
    out = {}
    for variant in variants:
        out[variant] = values_of(raw[..., places.index(replace(variant, sigma=0.0))], variant.sigma, selection, labels)
    return out


def _rounds(
    centre: Variant, bank: Features, rarity: torch.Tensor, selection: Features, labels: SplitLabels, progress: bool
) -> dict[Variant, dict[str, float]]:
    """{auroc, image_auroc} of rounds × ridge × σ at the default block and quantile; each round starts from the last."""
    out = {}
    moments = moments_at_cuts(bank, centre.block, rarity, [rarity_cut(rarity, centre.quantile)], centre.pooled)[0]
    fitted = None
    for ridge, n in track(list(product(ROUND_RIDGES, ROUNDS)), "rounds", disable=not progress):
        variant = replace(centre, ridge=ridge, rounds=n, sigma=0.0)
        first = replace(variant, rounds=0)
        fitted = refined(fitted, bank, rarity) if n else _direction(moments, first, bank, rarity)
        weight = fitted.weight.float()
        raw = token_maps(lambda z, part, weight=weight: z @ weight, centre.block, centre.pooled, selection)
        out |= {replace(variant, sigma=s): values_of(raw, s, selection, labels) for s in SIGMAS}
    return out


def values_of(raw: np.ndarray, sigma: float, selection: Features, labels: SplitLabels) -> dict[str, float]:
    """Pooled and image AUROC of smoothed maps."""
    keep, maps = ~labels.ignore, smooth(raw, selection.rows, selection.cols, sigma)
    inside = np.nanmean(image_auroc(maps, labels.lesion, keep))
    over_all = auroc(maps[keep], labels.lesion[keep])
    return {"auroc": round(float(over_all), 6), "image_auroc": round(float(inside), 6)}


def _direction(moments: Moments, variant: Variant, bank: Features, rarity: torch.Tensor) -> Direction:
    """D; where the head is to go, without its student's direction (λ = 1) or all linear information (LEACE)."""
    about = {"target": "rarity", "quantile": variant.quantile, "pooled": variant.pooled}
    fitted = Direction.from_moments(moments, origin(bank), variant.block, variant.ridge, **about)
    for _ in range(variant.rounds):
        fitted = refined(fitted, bank, rarity)
    if variant.head == HEADS[0]:
        return fitted
    if variant.head == HEADS[1]:
        return fitted.without(Direction.fit_target(bank, variant.block, bank.saliency(), variant.pooled))
    return without_linear(fitted, direction_moments(bank, variant.block, bank.saliency(), pooled=variant.pooled))


def settings(content: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(setting, its rows) of the one-at-a-time table, in order; the default's row carries ``default: True``."""
    for name in dict.fromkeys(row["setting"] for row in content["single"]):
        rows = [row for row in content["single"] if row["setting"] == name]
        yield name, [row | {"default": row["value"] == content["default"][name]} for row in rows]
