"""Ablations of D on the selection split, and the rule that chooses from them the block which D reads.

    content = run_ablation("busi")     # selection split alone: the bank split is the bank, no test split is opened
    recipe, ranking = recommend()      # from the committed ablations of the recipe cohorts

All variants share a bank, so only the block of the chosen recipe is used; ``covtoken.studies.banks`` chooses the rest.

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
from covtoken.bank.token_bank import KEY, REFERENCE_SIZE, origin
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import SplitLabels
from covtoken.evaluation.stats import auroc, image_auroc
from covtoken.scores.grids import middle_blocks
from covtoken.scores.memberships import token_maps
from covtoken.scores.scorers import SIGMAS
from covtoken.studies import study
from covtoken.studies.study import Study, recipe_cohorts
from covtoken.subspace import direction as directions
from covtoken.subspace.direction import Direction
from covtoken.subspace.erasure import without_linear
from covtoken.subspace.ridge import Moments

STUDY = Study("ablation", "covtoken-ablation/1", "covtoken ablate", rows="factorial")
QUANTILES = (0.8, 0.85, 0.9, 0.95)
RIDGES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
SIZES = (1_000, 3_000, REFERENCE_SIZE)
SHARES = (0.25, 0.5, 1.0)
KEYS = (KEY, "covtoken-ablation-1", "covtoken-ablation-2")
ROUNDS, ROUND_RIDGES = (0, 1, 2, 3), (1.0, 3.0)
HEADS = ("kept", "its direction out", "all it says linearly out")
FIELDS = ("block", "quantile", "ridge", "sigma", "rounds")


@dataclass(frozen=True)
class Variant:
    """Settings of D: ``share`` of the bank's units, ``head`` out of ``HEADS``, the rest as in ``DirectionSettings``."""

    block: int
    target_block: int
    quantile: float = 0.9
    ridge: float = 1.0
    pooled: bool = True
    sigma: float = 0.5
    size: int = REFERENCE_SIZE
    share: float = 1.0
    key: str = KEY
    rounds: int = 0
    head: str = HEADS[0]


def default(n_blocks: int) -> Variant:
    """Make the variant from which single settings are moved: read at L/2, target at 0.75 L (6 and 9 of 12)."""
    return Variant(max(1, n_blocks // 2), max(1, round(0.75 * n_blocks)))


def ladder(n_blocks: int, with_head: bool) -> dict[str, tuple]:
    """List the values of each setting, in the order of the table."""
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
    """Run the ablation of a cohort from pixels; return its content, ready to be written.

    Raises:
        CovtokenError: unknown names, or a cohort without bank or selection split or without lesions in it.
    """
    started = time.perf_counter()
    setting = study.open_study(cohort, backbone, data=data, cache=cache, progress=progress)
    n_blocks, has_head = setting.vit.n_blocks, setting.vit.has_saliency_head
    steps = ladder(n_blocks, has_head)
    splits = study.split_features(setting, sorted({*steps["block"], *steps["target_block"]}), has_head)
    tables = ablate(*splits, n_blocks, with_head=has_head, progress=progress)
    return study.content_of(STUDY, setting, splits, started, **tables)


def ablate(
    bank: Features,
    selection: Features,
    labels: SplitLabels,
    n_blocks: int,
    with_head: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Measure pooled and image AUROC on the selection split, for the factorial and for single settings.

    Args:
        bank: features of the bank split, streamed block by block.
        selection: features of the selection split.
        labels: of the selection split.
        with_head: also try D without the saliency head (bank and selection then need ``saliency``).

    Returns:
        ``{default, ladder, n_variants, factorial, rounds, single}``. Rows of ``factorial`` (block × quantile × ridge ×
        σ, at the default target block, 0 rounds) and of ``rounds`` (rounds × ridge × σ at the default block and
        quantile) have ``FIELDS``, ``auroc`` and ``image_auroc``; rows of ``single`` have ``setting``, ``value`` and
        both AUROCs.
    """
    centre, steps = default(n_blocks), ladder(n_blocks, with_head)
    rarity = _rarity(bank, centre)
    factorial = {}
    for block in track(steps["block"], "factorial", disable=not progress):
        moved = product(QUANTILES, RIDGES, SIGMAS)
        variants = [replace(centre, block=block, quantile=q, ridge=r, sigma=s) for q, r, s in moved]
        factorial |= _evaluated(variants, bank, rarity, selection, labels)
    by_rounds = _rounds(centre, bank, rarity, selection, labels, progress)
    known, rows = factorial | by_rounds, []
    moved = [(name, value) for name, values in steps.items() for value in values]
    for name, value in track(moved, "one at a time", disable=not progress):
        variant = replace(centre, **{name: value})
        if variant not in known:
            fresh = name in ("target_block", "size", "share", "key")  # another target; else another reading of the same
            part = _share_of(bank, variant.share)
            known |= _evaluated([variant], part, _rarity(part, variant) if fresh else rarity, selection, labels)
        rows.append({"setting": name, "value": value} | known[variant])
    return {
        "default": asdict(centre),
        "ladder": {name: list(values) for name, values in steps.items()},
        "n_variants": len(known),
        "factorial": [{name: getattr(v, name) for name in FIELDS} | values for v, values in factorial.items()],
        "rounds": [{name: getattr(v, name) for name in FIELDS} | values for v, values in by_rounds.items()],
        "single": rows,
    }


def recommend(root: Path | None = None, cohorts: Sequence[str] = ()) -> tuple[int, list[dict[str, Any]]]:
    """Choose D's block by the rule above; return it with the ranking: tied variants in the rule's order, then by mean.

    Args:
        cohorts: whose tables count; the recipe cohorts if empty.

    Returns:
        block; rows ``{block, quantile, ridge, sigma, rounds, mean, <cohort>…, tied}``.

    Raises:
        CovtokenError: an ablation is not recorded, or the cohorts' are of other backbones or grids.
    """
    contents = {cohort: STUDY.read(cohort, root) for cohort in cohorts or recipe_cohorts()}
    kinds = {(c["backbone"], c["provenance"]["weights_sha256"], json.dumps(c["ladder"])) for c in contents.values()}
    if len(kinds) > 1:
        names = ", ".join(contents)
        raise CovtokenError(f"the ablations of {names} are of other backbones, weights or grids: record them alike")
    content = next(iter(contents.values()))
    tables: dict[str, dict[tuple, float]] = {}
    for cohort, c in contents.items():
        tables[cohort] = {tuple(row[k] for k in FIELDS): row["auroc"] for row in (*c["factorial"], *c["rounds"])}
    rows = []
    for key in tables[content["cohort"]]:
        each = {cohort: table[key] for cohort, table in tables.items()}
        if key[0] <= content["n_blocks"] / 2:
            rows.append(dict(zip(FIELDS, key)) | {"mean": sum(each.values()) / len(each)} | each)
    usual = study.from_the_usual
    rows = study.ranked(rows, lambda row: (row["block"], row["sigma"], *usual(row), row["rounds"], -row["mean"]))
    return rows[0]["block"], rows


def _rarity(bank: Features, variant: Variant) -> torch.Tensor:
    """Compute the bank's rarity (passes 1 and 2), the costly step, once for each target block, reference and bank."""
    reference = directions.target_reference(bank, variant.target_block, variant.size, key=variant.key)
    return directions.bank_rarity(bank, reference)


def _share_of(bank: Features, share: float):
    """Keep the bank's pictures of a share of its units, those of the smallest hashed names."""
    return bank if share == 1 else study.share_of(bank, math.ceil(share * len(set(bank.units))), "")


def _evaluated(
    variants: list[Variant], bank: Features, rarity: torch.Tensor, selection: Features, labels: SplitLabels
) -> dict[Variant, dict[str, float]]:
    """Measure {auroc, image_auroc} of variants that share block and rarity [N, T], in a pass over bank and pictures."""
    block, pooled = variants[0].block, variants[0].pooled
    quantiles = list(dict.fromkeys(v.quantile for v in variants))
    cuts = [directions.rarity_cut(rarity, q) for q in quantiles]
    moments = dict(zip(quantiles, directions.moments_at_cuts(bank, block, rarity, cuts, pooled), strict=True))
    places = list(dict.fromkeys(replace(v, sigma=0.0) for v in variants))  # σ comes after the score
    weights = torch.stack([_direction(moments[p.quantile], p, bank, rarity).weight for p in places], dim=1).float()
    raw = token_maps(lambda z, part: z @ weights, block, pooled, selection)  # [N, T, places]
    maps = (raw[..., places.index(replace(variant, sigma=0.0))] for variant in variants)
    return {v: values_of(scores, v.sigma, selection, labels) for v, scores in zip(variants, maps)}


def _rounds(
    centre: Variant, bank: Features, rarity: torch.Tensor, selection: Features, labels: SplitLabels, progress: bool
) -> dict[Variant, dict[str, float]]:
    """Measure {auroc, image_auroc} of rounds × ridge × σ at the default block and quantile, round after round."""
    out, fitted = {}, None
    cuts = [directions.rarity_cut(rarity, centre.quantile)]
    moments = directions.moments_at_cuts(bank, centre.block, rarity, cuts, centre.pooled)[0]
    for ridge, n in track(list(product(ROUND_RIDGES, ROUNDS)), "rounds", disable=not progress):
        variant = replace(centre, ridge=ridge, rounds=n, sigma=0.0)
        fitted = directions.refined(fitted, bank, rarity) if n else _direction(moments, variant, bank, rarity)
        weight = fitted.weight.float()
        raw = token_maps(lambda z, part, weight=weight: z @ weight, centre.block, centre.pooled, selection)
        out |= {replace(variant, sigma=s): values_of(raw, s, selection, labels) for s in SIGMAS}
    return out


def values_of(raw: np.ndarray, sigma: float, selection: Features, labels: SplitLabels) -> dict[str, float]:
    """Measure pooled and image AUROC of maps [N, T], smoothed by ``sigma``."""
    keep, maps = ~labels.ignore, smooth(raw, selection.rows, selection.cols, sigma)
    inside = np.nanmean(image_auroc(maps, labels.lesion, keep))
    over_all = auroc(maps[keep], labels.lesion[keep])
    return {"auroc": round(float(over_all), 6), "image_auroc": round(float(inside), 6)}


def _direction(moments: Moments, variant: Variant, bank: Features, rarity: torch.Tensor) -> Direction:
    """Fit D; without a head, take out its student's direction (λ = 1) or all linear information (LEACE)."""
    about = {"target": "rarity", "quantile": variant.quantile, "pooled": variant.pooled}
    fitted = Direction.from_moments(moments, origin(bank), variant.block, variant.ridge, **about)
    for _ in range(variant.rounds):
        fitted = directions.refined(fitted, bank, rarity)
    if variant.head == HEADS[0]:
        return fitted
    head = (bank, variant.block, bank.saliency())
    if variant.head == HEADS[1]:
        return fitted.without(Direction.fit_target(*head, variant.pooled))
    return without_linear(fitted, directions.direction_moments(*head, pooled=variant.pooled))


def settings(content: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield (setting, its rows) of the table ``single``, in order; the default's row carries ``default: True``."""
    for name in dict.fromkeys(row["setting"] for row in content["single"]):
        rows = [row for row in content["single"] if row["setting"] == name]
        yield name, [row | {"default": row["value"] == content["default"][name]} for row in rows]
