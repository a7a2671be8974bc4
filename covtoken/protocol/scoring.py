"""From a plan to score maps, which every scoring gate makes before it opens a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from covtoken.backbone.feature_set import FeatureSet
from covtoken.backbone.vit import FrozenViT
from covtoken.bank.pooling import smooth
from covtoken.data.case import Case, Cohort
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import SplitLabels, label
from covtoken.evaluation.records import to_float16
from covtoken.protocol.alarm_limits import Recipes, scaled_alarm
from covtoken.protocol.plan import FIXED, Plan
from covtoken.protocol.setting import SEED, Setting
from covtoken.scores.alarm import Limits, check_bank
from covtoken.scores.in_organ import in_organ_parts
from covtoken.scores.recipe import Recipe, in_organ
from covtoken.scores.recommended import fixed_maps
from covtoken.scores.scorers import raw_maps, score_maps


def score(
    setting: Setting, plan: Plan
) -> tuple[dict[str, np.ndarray], SplitLabels, tuple[Case, ...], list[dict[str, Any]]]:
    """Score the pictures of a split, then read their labels.

    Returns:
        maps [N, T] float16 by name; labels; the N cases in the maps' order; the alarm's answer for each bank.
    """
    pairs, cases = setting.pairs()
    parts = [all_maps(plan, bank, pictures, setting.vit) for bank, pictures in pairs]
    alarms = heed_alarms(parts, pairs, plan, setting.vit)
    maps = {name: to_float16(np.concatenate([part[name] for part in parts])) for name in parts[0]}
    return maps, label(cases, setting.cohort, *setting.grid), cases, alarms


def all_maps(plan: Plan, bank: FeatureSet, pictures: FeatureSet, vit: FrozenViT) -> dict[str, np.ndarray]:
    """Score by every recipe of the plan, by O, and by plain density and attention at every block: maps [N, T]."""
    blocks = range(1, vit.n_blocks + 1)
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
        maps |= fixed_maps({name: plan.recipes[name] for name in FIXED if name in plan.recipes}, bank, pictures)
    except CovtokenError as error:
        n = f"{len(set(bank.units))} units, {len(bank)} pictures"
        why = f"no direction can be fitted to this bank of {n}: {error}; give pictures that differ"
        raise CovtokenError(why) from error
    for block in blocks:
        maps[f"density.block{block}"] = plain[block]
        maps[f"attention.block{block}"] = raw_maps("attention", block, False, bank, pictures, seed=SEED)
    maps["density.norm"] = plain["norm"]
    if vit.has_saliency_head:
        maps["in_organ"] = _in_organ(in_organ(vit.n_blocks), bank, pictures, maps)
    return maps


def _in_organ(recipe: Recipe, bank: FeatureSet, pictures: FeatureSet, maps: dict[str, np.ndarray]) -> np.ndarray:
    """Make O's maps [N, T] from A's plain map of its block."""
    student_block, weight = recipe.settings.student_block, recipe.settings.weight
    density = maps[f"density.block{recipe.block}"]
    density, student = in_organ_parts(recipe.block, student_block, recipe.pooled, bank, pictures, density)
    return smooth(density + weight * student, pictures.rows, pictures.cols, recipe.sigma)


def heed_alarms(
    parts: list[dict[str, np.ndarray]],
    pairs: Sequence[tuple[FeatureSet, FeatureSet]],
    plan: Plan,
    vit: FrozenViT,
    alarm: tuple[Limits, Recipes, str | None] | None = None,
) -> list[dict[str, Any]]:
    """Check every bank with the label-free alarm; if it fires for any, A's maps replace the recommended in all parts.

    A pooled number needs the same score everywhere, since C− and A have different scales.

    Args:
        parts: maps by name, a dict for each pair; changed in place.
        plan: whose recommended recipe made the maps.
        alarm: limits, recipes and whose limits they are (None: the locked ones, ``scaled_alarm``).

    Returns:
        for each bank what the report keeps: fired, reasons, statistics, score, fallback, limits_of.
    """
    limits, recipes, limits_of = alarm or scaled_alarm(vit)
    if plan.locked and plan.recipes["recommended"] != recipes.direction:
        raise CovtokenError(
            "the alarm's limits were fixed for another recommended recipe than the locked one: run "
            "`covtoken alarm --define --reason '…'`"
        )
    fallback, alarms, fallback_maps = recipes.fallback, [], []
    for maps, (bank, pictures) in zip(parts, pairs, strict=True):
        raw = None if fallback.pooled else maps.get(f"density.block{fallback.block}")
        if raw is None:
            fallback_maps.append(score_maps(fallback, bank, pictures, seed=SEED))
        else:
            fallback_maps.append(smooth(raw, pictures.rows, pictures.cols, fallback.sigma))
        direct = maps["recommended"] if plan.recipes["recommended"] == recipes.direction else None
        alarms.append(check_bank(bank, pictures, recipes.direction, fallback, limits, direct, fallback_maps[-1]))
    fired = any(alarm.fired for alarm in alarms)
    if fired:
        for maps, scores in zip(parts, fallback_maps, strict=True):
            maps["recommended"] = scores
    return [
        {
            "fired": alarm.fired,
            "reasons": list(alarm.reasons),
            "statistics": {k: None if v is None else round(v, 4) for k, v in alarm.statistics.items()},
            "score": "A" if fired else "C−",
            "fallback": fallback.to_json(),
            "limits_of": limits_of,
        }
        for alarm in alarms
    ]


def need_lesions(labels: SplitLabels, cohort: Cohort, split: str) -> None:
    """Refuse a split without lesions: nothing can be measured there."""
    if not labels.lesions:
        raise CovtokenError(
            f"{cohort.name}: none of the {len(labels.unit)} pictures of the {split} split holds a lesion, so nothing "
            "can be measured; check the masks, or add pictures"
        )


def centre_maps(plan: Plan, rows: int, cols: int, n: int) -> np.ndarray:
    """Make the centre prior's maps [n, T], which depend on the grid alone."""
    blank = FeatureSet.from_arrays({}, rows, cols, units=["-"] * n)
    return score_maps(plan.recipes["centre_prior"], blank, blank)


def shuffled_masks(labels: SplitLabels) -> SplitLabels:
    """Give each picture the lesions of another picture, as a mix-up of files would."""
    n = len(labels.unit)
    if n < 2:
        raise CovtokenError("one lesion picture: its masks cannot be shuffled")
    cycle = np.random.default_rng(SEED).permutation(n)
    order = np.empty(n, dtype=int)
    order[cycle] = np.roll(cycle, 1)  # no picture keeps its own
    place = np.argsort(order)
    lesions = tuple(replace(lesion, picture=int(place[lesion.picture])) for lesion in labels.lesions)
    return replace(labels, lesion=labels.lesion[order], ignore=labels.ignore[order], lesions=lesions)
