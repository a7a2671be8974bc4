"""Choose pictures of a selection split by lesion size, and rank their tokens by every score, for the explorer page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from covtoken.backbone.vit import FrozenViT
from covtoken.data.case import Case
from covtoken.data.intensity import to_unit_range
from covtoken.data.masks import read_mask
from covtoken.economy.flops import search_flops, vit_flops
from covtoken.economy.keep import RETAINED, kept_counts, kept_tokens, retained, token_ranks
from covtoken.evaluation.labels import Lesion, SplitLabels
from covtoken.evaluation.stats import auroc
from covtoken.protocol.plan import METHOD_PARAMETERS
from covtoken.protocol.planning import plan_for
from covtoken.protocol.setting import SEED, Setting
from covtoken.scores.recipe import Recipe
from covtoken.scores.recommended import LINEAR, fixed_maps
from covtoken.scores.scorers import find, score_maps
from covtoken.studies.study import open_study, split_features

SCORES = ("recommended", "with_head", "direction", "density", "attention_best", "saliency_head", "intensity")
N_PICTURES, N_WORST = 12, 3  # of a cohort
RATIO = 0.25  # of the tokens kept in Figure 1
SIZE = 224  # px
FIRST, WORST, SPREAD = "figure 1", "worst of C−", "size"  # why a picture was chosen


@dataclass(frozen=True, eq=False)
class Explored:
    """Pictures of a cohort: pixels and masks [N, SIZE, SIZE], and the numbers that the page shows."""

    pictures: list[np.ndarray] = field(repr=False)
    masks: list[np.ndarray] = field(repr=False)
    numbers: dict[str, Any]


def explored(cohort: str, backbone: str = "embedded", **inputs) -> Explored:
    """Score the selection split by the locked recipes, then choose pictures and write their ranks down.

    Args:
        inputs: ``data``, ``cache`` and ``progress`` of ``open_setting``.

    Raises:
        CovtokenError: unknown names, a cohort without the splits or lesions, or without a lock.
    """
    setting = open_study(cohort, backbone, **inputs)
    plan = plan_for(setting, need_lock=True, may_choose=False)
    recipes = {name: plan.recipes[name] for name in SCORES}
    blocks = {recipe.block for recipe in recipes.values() if "tokens" in find(recipe.scorer).needs}
    blocks |= {recipe.settings.target_block for recipe in recipes.values() if recipe.scorer in LINEAR}
    attention = {recipe.block for recipe in recipes.values() if recipe.scorer == "attention"}
    bank, selection, labels = split_features(setting, sorted(blocks), True, sorted(attention))
    linear = {name: recipe for name, recipe in recipes.items() if recipe.scorer in LINEAR}
    maps = fixed_maps(linear, bank, selection)
    for name, recipe in recipes.items():
        if name not in maps:
            maps[name] = score_maps(recipe, bank, selection, seed=SEED)
    cases = setting.cases_of("selection")
    inside = {name: _inside(maps[name], labels) for name in SCORES}
    units = [case.unit for case in cases]
    chosen, n_single = chosen_pictures(labels, units, maps["recommended"], inside["recommended"])
    ranks = {name: token_ranks(maps[name]) for name in SCORES}
    entries, pictures, masks = [], [], []
    for place, index, why in chosen:
        picture, mask = picture_and_mask(setting, cases[index])
        (lesion,) = (lesion for lesion in labels.lesions if lesion.picture == index)
        entries.append(
            {
                "case": cases[index].name,
                "why": why,
                "lesion_share_of_the_picture": round(lesion.share, 4),
                "place_by_size": place + 1,
                "lesion_tokens": lesion.tokens.tolist(),
                "auroc_in_this_picture": {name: round(float(inside[name][index]), 4) for name in SCORES},
                # A byte a token: how many tokens of the picture come before it.
                "ranks": {name: bytes((ranks[name][index] - 1).astype(np.uint8)).hex() for name in SCORES},
            }
        )
        pictures.append(picture)
        masks.append(mask)
    numbers = {
        "cohort": setting.cohort.name,
        "split": "selection",
        "grid": [selection.rows, selection.cols],
        "pictures_with_one_lesion": n_single,
        "lesions_in_the_split": len(labels.lesions),
        "missed_by_tokens_kept": {name: missed_by_budget(ranks[name], labels) for name in SCORES},
        "flops_share_by_tokens_kept": {name: flops_shares(setting.vit, recipe) for name, recipe in recipes.items()},
        "known_after_block": {name: known_after(setting.vit, recipe) for name, recipe in recipes.items()},
        "cases": entries,
        "weights_sha256": setting.vit.weights_sha256,
    }
    return Explored(pictures, masks, numbers)


def chosen_pictures(
    labels: SplitLabels, units: Sequence[str], maps: np.ndarray, inside: np.ndarray, n: int = N_PICTURES
) -> tuple[list[tuple[int, int, str]], int]:
    """Choose pictures with one lesion, a unit once: Figure 1's, the score's worst, the rest evenly spread by size.

    Args:
        units: N, of the labelled pictures.
        maps: [N, T] of C−.
        inside: [N], C−'s AUROC inside each picture.

    Returns:
        (place by size from 0, index of the picture, why) by size, and the number of pictures with one lesion.
    """
    order = [lesion.picture for lesion in single_lesions(labels)]
    chosen: dict[int, str] = {}

    def is_free(index: int) -> bool:
        return units[index] not in {units[other] for other in chosen}

    chosen |= dict.fromkeys(nearest_to_the_median(kept_tokens(maps, ratio=RATIO), labels).values(), FIRST)
    for index in sorted(order, key=lambda index: (inside[index], labels.names[index])):
        if sum(why == WORST for why in chosen.values()) < N_WORST and is_free(index):
            chosen[index] = WORST
    for target in np.linspace(0, len(order) - 1, max(n - len(chosen), 0)):
        places = sorted(range(len(order)), key=lambda place: (abs(place - target), place))
        nearest = next((order[place] for place in places if is_free(order[place])), None)
        if nearest is not None:
            chosen[nearest] = SPREAD
    return sorted((order.index(index), index, why) for index, why in chosen.items()), len(order)


def nearest_to_the_median(kept: np.ndarray, labels: SplitLabels) -> dict[str, int]:
    """Find the kept and the lost lesion whose size is nearest to the median, among pictures with a single lesion.

    The size of the lesion chooses, not the score: the score only says which of the two it is.

    Args:
        kept: [N, T] bool, the tokens that stay.

    Returns:
        "kept" or "lost" → index of the picture; no entry where no lesion came out so.
    """
    single, found = single_lesions(labels), {}
    stays = retained(kept_counts(kept, single), np.array([len(lesion.tokens) for lesion in single]))
    middle = (len(single) - 1) / 2
    for place in sorted(range(len(single)), key=lambda place: (abs(place - middle), place)):
        found.setdefault("kept" if stays[place] else "lost", single[place].picture)
    return found


def single_lesions(labels: SplitLabels) -> list[Lesion]:
    """List the lesions that are the only one of their picture, the smallest first."""
    of_picture = np.bincount([lesion.picture for lesion in labels.lesions], minlength=len(labels.names))
    alone = (lesion for lesion in labels.lesions if of_picture[lesion.picture] == 1)
    return sorted(alone, key=lambda lesion: (lesion.share, labels.names[lesion.picture]))


def picture_and_mask(setting: Setting, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Read a case's picture, [SIZE, SIZE] in 0…1, and its mask, [SIZE, SIZE] bool, both squashed to a square."""
    mask = read_mask(setting.cohort.masks[case.name])
    return _squashed(to_unit_range(case.pixels(), case)), _squashed(mask.astype(np.float32)) >= 0.5


def missed_by_budget(ranks: np.ndarray, labels: SplitLabels) -> list[int]:
    """Count the lesions of a split that are missed when 1, 2, … T tokens of each picture are kept.

    Args:
        ranks: [N, T], 1 is the best token.
    """
    needed = np.array([tokens_needed(ranks[lesion.picture], lesion.tokens) for lesion in labels.lesions])
    return [int((needed > k).sum()) for k in range(1, ranks.shape[1] + 1)]


def tokens_needed(ranks: np.ndarray, tokens: Sequence[int]) -> int:
    """Give the smallest number of kept tokens at which a lesion is retained: half of its tokens are among the best."""
    return int(np.sort(np.asarray(ranks)[np.asarray(tokens)])[int(np.ceil(RETAINED * len(tokens))) - 1])


def known_after(vit: FrozenViT, recipe: Recipe) -> int:
    """Name the block after which a score is known and tokens can be dropped: 0 before the first, L after the last."""
    needs = find(recipe.scorer).needs
    if "saliency" in needs and recipe.scorer not in LINEAR:
        return vit.n_blocks
    return recipe.block if needs & {"tokens", "attention"} else 0


def flops_shares(vit: FrozenViT, recipe: Recipe) -> list[float]:
    """Compute the share of the plain pass's FLOPs that is spent when 1, 2, … T tokens go on, the score included."""
    block, n_tokens = known_after(vit, recipe), vit.rows * vit.cols
    compared = 1 if recipe.scorer in LINEAR else METHOD_PARAMETERS["reference_size"] * (recipe.scorer == "density")
    score = search_flops(n_tokens, compared, vit.dim)
    before = [n_tokens + vit.n_prefix] * block
    plain = vit_flops(vit, [n_tokens + vit.n_prefix] * vit.n_blocks)
    spent = (vit_flops(vit, before + [k + vit.n_prefix] * (vit.n_blocks - block)) for k in range(1, n_tokens + 1))
    return [round((flops + score) / plain, 4) for flops in spent]


def _inside(maps: np.ndarray, labels: SplitLabels) -> np.ndarray:
    """Compute the AUROC inside each picture [N]; NaN where none has a meaning."""
    rows: Mapping = zip(maps, labels.lesion, ~labels.ignore, strict=True)
    return np.array([auroc(row, lesion, counts) if lesion.any() else np.nan for row, lesion, counts in rows])


def _squashed(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(np.asarray(pixels, dtype=np.float32)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(image), 0, 1)
