"""Conditions under which the alarm is tried: a bank, pictures to score, and labels that tell whether C− failed there.

Banks are shares of a cohort's bank units by keyed hash, which no mask touches; only the lesion-free bank is chosen by a
label, BUSI's class "normal", for evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from covtoken.backbone.feature_set import FeatureSet
from covtoken.backbone.weights import load_backbone
from covtoken.data.case import Case, picture_digest
from covtoken.data.intensity import WINDOWS_HU
from covtoken.data.splits import N_FOLDS, SMALL_COHORT, folds
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import SplitLabels, label
from covtoken.evaluation.stats import auroc
from covtoken.keys import hash_of, smallest
from covtoken.protocol.alarm_limits import Recipes
from covtoken.protocol.setting import Setting, open_setting
from covtoken.scores.alarm import KEY, TOP, Limits, judge, statistics
from covtoken.scores.baselines import pictures_apart
from covtoken.scores.recipe import Recipe
from covtoken.scores.scorers import score_maps
from covtoken.studies.study import share_of

FALLS_BEHIND, NO_USE = 0.01, 0.75
FAILURE = (
    f"C− has failed where its pooled token AUROC is below A's by more than {FALLS_BEHIND}, for then the fallback is "
    f"better, or below {NO_USE}, for then the map is of no use whatever it is compared with"
)
DEFINE_SHARES = (0.02, 0.04, 0.08, 0.12, 0.18, 0.3, 1.0)
TEST_SHARES = (0.02, 0.05, 0.10, 0.25, 0.50, 1.0)
DEFINE_KEYS = ("alarm-define-0", "alarm-define-1", "alarm-define-2")
# Keys of the third trial differ from those of the first two, whose results shaped the alarm. Conditions without a
# random draw (whole bank, lesion-free bank, the large cohorts' pictures) are necessarily repeated.
TEST_KEYS = ("alarm-test-4", "alarm-test-5")
FOREIGN = {"busi": "phantom", "phantom": "busi", "lits": "lidc-crops", "kits19": "lidc-crops", "lidc-crops": "phantom"}
TEST_SPLIT = {"phantom": "test", "busi": "calibration", "lidc-crops": "calibration"}  # small cohorts: cross-fitting
FOLDS = (2, 3)  # of five: each gives conditions of its own
FEW_PICTURES, FEW_UNITS = 40, 60  # extracted anew, at another size or under noise
OTHER_SIZE = 280  # pixels: 20 × 20 tokens of 14
JUMP_PICTURES = 16
NOISE = 0.15  # standard deviation, share of the unit range


@dataclass(frozen=True)
class Condition:
    """A bank and the pictures scored with it; ``kind`` is fraction, foreign, lesion-free, size or noise."""

    name: str
    kind: str
    bank: FeatureSet
    pictures: FeatureSet
    labels: SplitLabels


def has_failed(direction: float, fallback: float) -> bool:
    """Apply the failure rule (``FAILURE``) to the pooled token AUROCs of C− and A."""
    return bool(direction < fallback - FALLS_BEHIND or direction < NO_USE)


def run_condition(condition: Condition, recipes: Recipes, limits: Limits, with_jump: bool = False) -> dict:
    """Make a condition's row: AUROC of C− and A, whether C− failed, the statistics, and whether the alarm fired.

    The alarm is asked before labels are looked at; it gets the scored maps, to save a second fit.
    """
    bank, pictures, both = condition.bank, condition.pictures, (recipes.direction, recipes.fallback)
    maps = [score_maps(recipe, bank, pictures, other_size=condition.kind == "size") for recipe in both]
    numbers = statistics(bank, pictures, *both, *maps)
    if with_jump:
        numbers["jump"] = jump(bank, pictures, recipes.direction, maps[0])
    alarm = judge(numbers, limits)
    keep = ~condition.labels.ignore
    d, a = (float(auroc(scores[keep], condition.labels.lesion[keep])) for scores in maps)
    failed = has_failed(d, a)
    return {
        **{"condition": condition.name, "kind": condition.kind, "bank_pictures": len(bank), "pictures": len(pictures)},
        **{"units_scored": len(set(pictures.units)), "tokens": int(keep.sum())},
        **{"auroc_d": d, "auroc_a": a, "gain": d - a, "failed": failed, **numbers},
        **{"fired": alarm.fired, "reasons": list(alarm.reasons), "right": failed == alarm.fired},
        "recommended": alarm.recommended,
    }


def jump(bank: FeatureSet, pictures: FeatureSet, recipe: Recipe, maps: np.ndarray) -> float:
    """Measure how much more abruptly the tokens that a map points to run out of pictures with something alike.

    Sorted by distance, bank pictures that share an anomaly come first, and then the distance jumps ("consistent
    anomalies", arXiv 2510.10456). Of each token the largest log ratio of neighbouring distances among the nearer half
    of the pictures counts: its mean over the tokens of the map's top tenth, minus that over the rest.

    Args:
        recipe: whose block's pooled tokens are compared.
        maps: [N, T] of the pictures.
    """
    chosen = sorted(range(len(pictures)), key=lambda i: hash_of(pictures.digests[i], KEY))[:JUMP_PICTURES]
    growth = []
    for apart in pictures_apart(recipe.block, True, bank, pictures.subset(chosen)):
        nearer = apart[:, : max(2, apart.shape[1] // 2)].clamp_min(1e-9).log()
        growth.append(nearer.diff(dim=1).amax(1).numpy() if nearer.shape[1] > 1 else np.zeros(len(nearer)))
    top = maps[chosen] > np.quantile(maps[chosen], TOP)
    return float(np.mean(np.array(growth)[top]) - np.mean(np.array(growth)[~top]))


def bank_shares(
    bank: FeatureSet, pictures: FeatureSet, labels: SplitLabels, shares: Sequence[float], keys: Sequence[str], tag=""
) -> Iterator[Condition]:
    """Yield conditions whose bank is a share of the bank's units: the smallest hashes under each key, two at least.

    A share that gives as many units as the previous share is left out, as is the whole bank under a second key.
    """
    n_units = len(set(bank.units))
    for key in keys:
        before = 0
        for share in shares:
            n = min(n_units, max(2, round(share * n_units)))
            if n == before or (n == n_units and key != keys[0]):
                continue
            before = n
            name = f"{tag}{share:.0%} of units, {key.rsplit('-', 1)[1]}" if n < n_units else f"{tag}whole bank"
            yield Condition(name, "fraction", share_of(bank, n, key), pictures, labels)


def define_conditions(setting: Setting, recipes: Recipes) -> Iterator[Condition]:
    """Yield the conditions that fix the limits: shares of a cohort's own bank, on its selection split."""
    cases = setting.cases_of("selection")
    bank, pictures = extract(setting, setting.cases_of("bank"), recipes), extract(setting, cases, recipes)
    labels = label(cases, setting.cohort, pictures.rows, pictures.cols)
    yield from bank_shares(bank, pictures, labels, DEFINE_SHARES, DEFINE_KEYS)


def test_conditions(setting: Setting, recipes: Recipes) -> Iterator[Condition]:
    """Yield conditions that fix no limit: other pictures, other shares, and banks and pictures of other kinds."""
    cohort = setting.cohort
    foreign_setting = open_setting(FOREIGN[cohort.name], None, setting.vit)
    foreign = extract(foreign_setting, foreign_setting.cases_of("bank"), recipes)
    for tag, bank_cases, cases in _pairs(setting):
        bank, pictures = extract(setting, bank_cases, recipes), extract(setting, cases, recipes)
        labels = label(cases, cohort, pictures.rows, pictures.cols)
        yield from bank_shares(bank, pictures, labels, TEST_SHARES, TEST_KEYS, tag)
        yield Condition(f"{tag}foreign bank, {foreign_setting.cohort.name}", "foreign", foreign, pictures, labels)
        if cohort.name == "busi":
            yield Condition("bank without lesions", "lesion-free", without_lesions(bank), pictures, labels)
        if tag in ("", f"fold {FOLDS[0]}, "):
            few = sorted(cases, key=lambda case: hash_of(case.name, TEST_KEYS[0]))[:FEW_PICTURES]
            yield from _few_pictures(setting, bank_cases, bank, few, recipes)


def without_lesions(bank: FeatureSet) -> FeatureSet:
    """Keep BUSI's bank pictures of the class "normal": chosen by a label, for evaluation alone."""
    return bank.subset([i for i, name in enumerate(bank.names) if name.startswith("normal")])


def noisy(case: Case, sigma: float = NOISE) -> Case:
    """Add Gaussian noise to a case, ``sigma`` of the unit range, seeded by the picture itself."""
    return replace(case, load=partial(_with_noise, case, sigma))


def extract(setting: Setting, cases: Sequence[Case], recipes: Recipes) -> FeatureSet:
    """Extract features into memory, for many banks are cut from them."""
    stored = setting.features(cases, recipes.blocks, attention=(), saliency=False)
    about = ("rows", "cols", "units", "names", "digests", "weights_sha256", "backbone", "preprocessing", "precision")
    return FeatureSet.from_arrays(
        {block: stored.tokens(block) for block in recipes.blocks}, **{name: getattr(stored, name) for name in about}
    )


def _pairs(setting: Setting) -> list[tuple[str, tuple[Case, ...], tuple[Case, ...]]]:
    """List (tag, bank cases, scored cases): a single pair, or two folds of a small cohort."""
    cohort = setting.cohort
    if len(cohort.units) >= SMALL_COHORT:
        return [("", setting.cases_of("bank"), setting.cases_of(TEST_SPLIT[cohort.name]))]
    pairs, fold_of = [], folds(cohort.units, N_FOLDS)
    for fold in FOLDS:
        inside = {unit for unit in cohort.units if fold_of[unit] == fold}
        pairs.append((f"fold {fold}, ", cohort.subset(set(cohort.units) - inside), cohort.subset(inside)))
    return pairs


def _few_pictures(
    setting: Setting, bank_cases: Sequence[Case], bank: FeatureSet, few: Sequence[Case], recipes: Recipes
) -> Iterator[Condition]:
    cohort, fresh = setting.cohort, replace(setting, cache=False)
    labels = label(few, cohort, bank.rows, bank.cols)
    if not labels.lesions:
        raise CovtokenError(f"{cohort.name}: the {len(few)} pictures of the noise conditions hold no lesion")
    grainy = extract(fresh, [noisy(case) for case in few], recipes)
    yield Condition("noise on the pictures", "noise", bank, grainy, labels)
    larger = replace(fresh, vit=load_backbone(setting.vit.name, picture_size=OTHER_SIZE))
    small = extract(larger, few, recipes)
    labels = label(few, cohort, small.rows, small.cols)
    yield Condition(f"{OTHER_SIZE} px, bank at {setting.vit.picture_size} px", "size", bank, small, labels)
    units = smallest({case.unit for case in bank_cases}, FEW_UNITS, TEST_KEYS[0])
    bank = extract(larger, [case for case in bank_cases if case.unit in units], recipes)
    yield Condition(f"{OTHER_SIZE} px, bank at {OTHER_SIZE} px", "size", bank, small, labels)


def _with_noise(case: Case, sigma: float) -> np.ndarray:
    pixels = case.pixels()
    low, high = WINDOWS_HU[case.organ] if case.modality == "ct" else (0.0, 255.0)
    draw = torch.Generator().manual_seed(int(picture_digest(pixels)[:12], 16))
    grain = torch.randn(pixels.shape, generator=draw).numpy() * sigma * (high - low)
    return np.clip(pixels + grain, min(low, pixels.min()), max(high, pixels.max())).astype(np.float32)
