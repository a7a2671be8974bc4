"""From a plan to score maps: what every gate that scores pictures does before it opens a mask."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from covtoken.backbone.cache import features
from covtoken.backbone.feature_set import FeatureSet
from covtoken.backbone.vit import FrozenViT
from covtoken.backbone.weights import load_backbone
from covtoken.data.case import Cohort
from covtoken.data.cohorts import open_cohort, picture_size
from covtoken.data.masks import check_masks
from covtoken.data.splits import FEWEST_UNITS, N_FOLDS, SMALL_COHORT, folds, load_splits
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import SplitLabels, label
from covtoken.evaluation.recorded import hashed_units, to_float16
from covtoken.gates.alarm import scaled_alarm
from covtoken.gates.plan import FIXED, SEED, Plan
from covtoken.subspace.alarm import check_bank
from covtoken.subspace.pooling import smooth
from covtoken.subspace.recommended import recommended_maps
from covtoken.subspace.scorers import Recipe, in_organ, in_organ_parts, raw_maps, score_maps


def open_inputs(
    cohort: str | Cohort, backbone: str | FrozenViT = "embedded", data: str | None = None, masks: bool = True
) -> tuple[Cohort, FrozenViT]:
    """Open a cohort and load a backbone, unless they are open and loaded already.

    Masks in which nothing can be measured are refused here, before minutes of extraction.

    Args:
        cohort: a committed name, a folder with ``index.csv``, or a Cohort.
        backbone: by name, or loaded.
        data: the cohort's folder, where it is not under ``COVTOKEN_DATA``.
        masks: whether lesions will be measured.
    """
    opened = cohort if isinstance(cohort, Cohort) else open_cohort(cohort, **({"folder": data} if data else {}))
    if masks:
        check_masks(opened)
    if not isinstance(backbone, FrozenViT):
        backbone = load_backbone(backbone, picture_size=picture_size(opened.name))
    return opened, backbone


class Extractor:
    """Cases → FeatureSet of everything gate 1 reads, extracted once."""

    def __init__(self, vit: FrozenViT, precision: str, cache: bool, progress: bool) -> None:
        self.vit, self.precision, self.cache, self.progress = vit, precision, cache, progress
        side = vit.picture_size // vit.patch
        self.grid = (side, side)

    def __call__(self, cases) -> FeatureSet:
        blocks = range(1, self.vit.n_blocks + 1)
        return features(
            cases,
            self.vit,
            blocks=(*blocks, "norm"),
            attention=tuple(blocks),
            saliency=self.vit.has_saliency_head,
            precision=self.precision,
            cache=self.cache,
            progress=self.progress,
        )


def limited(cohort: Cohort, n_units: int) -> Cohort:
    """The cohort with at most ``n_units`` units of each split, chosen by keyed hash, so blind to everything else.

    A small cohort, which has no split but its folds, keeps so many in all, and enough to be cross-fitted.
    """
    small = len(cohort.units) < SMALL_COHORT
    splits = dict.fromkeys(cohort.units, "all") if small else load_splits(cohort)
    n_units = max(n_units, FEWEST_UNITS) if small else n_units
    kept = []
    for split in sorted(set(splits.values())):
        units = (unit for unit in cohort.units if splits[unit] == split)
        kept += sorted(units, key=lambda unit: hashed_units([unit])[0])[:n_units]
    return replace(cohort, cases=cohort.subset(kept))


def evaluated_pairs(cohort: Cohort, split: str, extracting: Extractor) -> tuple[list[tuple], tuple]:
    """(bank features, picture features) pairs, and the evaluated cases in the order of all their pictures.

    One pair for a split of a large cohort; one a fold where the cohort is cross-fitted.
    """
    if split == "crossfit":
        fold_of = folds(cohort.units, N_FOLDS)
        everything = extracting(cohort.cases)
        of = np.array([fold_of[case.unit] for case in cohort.cases])
        inside = [np.flatnonzero(of == fold) for fold in range(N_FOLDS)]
        pairs = [(everything.subset(np.flatnonzero(of != f)), everything.subset(rows)) for f, rows in enumerate(inside)]
        evaluated = [cohort.cases[i] for rows in inside for i in rows]
    else:
        splits = load_splits(cohort)
        evaluated = in_split(cohort, splits, split)
        pairs = [(extracting(in_split(cohort, splits, "bank")), extracting(evaluated))]
    extracting.grid = (pairs[0][1].rows, pairs[0][1].cols)
    return pairs, tuple(evaluated)


def score(cohort: Cohort, split: str, plan: Plan, extracting: Extractor):
    """Score maps [N, T] in float16 by name, labels, and the evaluated cases; labels enter after the scores exist."""
    pairs, evaluated = evaluated_pairs(cohort, split, extracting)
    parts = [all_maps(plan, bank, pictures, extracting.vit) for bank, pictures in pairs]
    alarms = heed_alarms(parts, pairs, plan, extracting.vit)
    maps = {name: to_float16(np.concatenate([part[name] for part in parts])) for name in parts[0]}
    return maps, label(evaluated, cohort, *extracting.grid), evaluated, alarms


def all_maps(plan: Plan, bank: FeatureSet, pictures: FeatureSet, vit: FrozenViT) -> dict[str, np.ndarray]:
    """Maps [N, T] of every recipe of the plan, of O, and of plain density and attention at every block."""
    blocks = tuple(range(1, vit.n_blocks + 1))
    plain = {block: raw_maps("density", block, False, bank, pictures, seed=SEED) for block in (*blocks, "norm")}
    maps = {}
    for name, recipe in plan.recipes.items():
        if name in FIXED:
            continue
        if recipe.scorer == "density" and not recipe.pooled:  # searched already
            maps[name] = recipe.sign * smooth(plain[recipe.block], pictures.rows, pictures.cols, recipe.sigma)
        else:
            maps[name] = score_maps(recipe, bank, pictures, seed=SEED)
    try:
        maps |= recommended_maps(plan.recipes["recommended"], bank, pictures, "direction_without_head" in plan.recipes)
    except CovtokenError as error:
        n = f"{len(set(bank.units))} units, {len(bank)} pictures"
        raise CovtokenError(
            f"no direction can be fitted to this bank of {n}: {error}; give pictures that differ"
        ) from error
    for block in blocks:
        maps[f"density.block{block}"] = plain[block]
        maps[f"attention.block{block}"] = raw_maps("attention", block, False, bank, pictures, seed=SEED)
    maps["density.norm"] = plain["norm"]
    if vit.has_saliency_head:
        maps["in_organ"] = _in_organ(in_organ(vit.n_blocks), bank, pictures, maps)
    return maps


def _in_organ(recipe: Recipe, bank: FeatureSet, pictures: FeatureSet, maps: dict[str, np.ndarray]) -> np.ndarray:
    """O's maps [N, T], from A's plain map of its block."""
    student_block, weight = recipe.extra
    density = maps[f"density.block{recipe.block}"]
    density, student = in_organ_parts(recipe.block, student_block, recipe.pooled, bank, pictures, density)
    return smooth(density + weight * student, pictures.rows, pictures.cols, recipe.sigma)


def heed_alarms(parts: list[dict[str, np.ndarray]], pairs, plan: Plan, vit: FrozenViT) -> list[dict[str, Any]]:
    """Ask the label-free alarm whether the banks carry a direction; where one fires, A stands in for the recommended.

    In cross-fitting it stands in for all folds: D and A have other scales, and one pooled number needs one score.

    Returns:
        the alarms as the report keeps them, a dict a bank: fired, reasons, statistics, score, fallback, limits_of.
    """
    limits, recipes, limits_of = scaled_alarm(vit)
    fallback, said, stand_in = recipes.fallback, [], []
    for maps, (bank, pictures) in zip(parts, pairs, strict=True):
        raw = None if fallback.pooled else maps.get(f"density.block{fallback.block}")
        theirs = None if raw is None else smooth(raw, pictures.rows, pictures.cols, fallback.sigma)
        theirs = score_maps(fallback, bank, pictures, seed=SEED) if theirs is None else theirs
        ours = maps["recommended"] if plan.recipes["recommended"] == recipes.direction else None
        said.append(check_bank(bank, pictures, recipes.direction, fallback, limits, ours, theirs))
        stand_in.append(theirs)
    fired = any(alarm.fired for alarm in said)
    for maps, theirs in zip(parts, stand_in, strict=True):
        maps["recommended"] = theirs if fired else maps["recommended"]
    return [
        {
            "fired": alarm.fired,
            "reasons": list(alarm.reasons),
            "statistics": {k: None if v is None else round(v, 4) for k, v in alarm.statistics.items()},
            "score": "A" if fired else "D",
            "fallback": fallback.to_json(),
            "limits_of": limits_of,
        }
        for alarm in said
    ]


def in_split(cohort: Cohort, splits: dict[str, str], split: str):
    cases = tuple(case for case in cohort.cases if splits.get(case.unit) == split)
    if not cases:
        raise CovtokenError(f"{cohort.name}: no case in the {split} split; the cohort has {len(cohort.units)} units")
    return cases


def need_lesions(labels: SplitLabels, cohort: Cohort, split: str) -> None:
    if not labels.lesions:
        raise CovtokenError(
            f"{cohort.name}: none of the {len(labels.unit)} pictures of the {split} split holds a lesion, so nothing "
            "can be measured; check the masks, or add pictures"
        )


def centre_maps(plan: Plan, rows: int, cols: int, n: int) -> np.ndarray:
    """The centre prior's maps [n, T]: they depend on the grid alone."""
    blank = FeatureSet.from_arrays({}, rows, cols, units=["-"] * n)
    return score_maps(plan.recipes["centre_prior"], blank, blank)
