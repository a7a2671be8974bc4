"""Kept tokens of every method at equal budgets, as counts a lesion: what gate 3 and the negative result record."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from covtoken.coverage.dual import REPAIRED, SLACK, SPECIFIED, Pruned, prune
from covtoken.coverage.greedy import greedy, largest_norms, spanning
from covtoken.economy.keep import RATIOS, budget, kept_counts, kept_tokens
from covtoken.economy.merging import check_can_merge, merge_cases, survives
from covtoken.errors import CovtokenError
from covtoken.gates.budgets.lesion_pictures import LesionPictures
from covtoken.protocol.setting import SEED

MEMBERSHIPS = ("recommended", "density", "residual")
GREEDY_RATIO = 0.25  # the strong optimiser is run at one keep ratio, on at most GREEDY_PICTURES pictures
GREEDY_PICTURES = 60
NOT_EVALUATED = -1
SCHEDULES = {"dual": SPECIFIED, "repaired": REPAIRED}


def label_of(ratio: float) -> str:
    """``keep0.25``: how a budget is called in metric names."""
    return f"keep{ratio:g}"


def columns_of_scores(pictures: LesionPictures, ks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``<scorer>.<budget>`` → counts [L] of every score map, at the fixed ratios and at each k [N] of ``ks``."""
    found = {}
    for name, maps in pictures.maps.items():
        for ratio in RATIOS:
            found[f"{name}.{label_of(ratio)}"] = _count(pictures, kept_tokens(maps, ratio=ratio))
        for place, k in ks.items():
            found[f"{name}.{place}"] = _count(pictures, kept_tokens(maps, k=k))
    return found


def why_not_merged(pictures: LesionPictures) -> str:
    """Why tokens of this model cannot be merged, or nothing: a merged token has no rotary position."""
    try:
        check_can_merge(pictures.setting.vit)
    except CovtokenError as error:
        return str(error)
    return ""


def columns_of_merging(pictures: LesionPictures) -> dict[str, np.ndarray]:
    """Counts of lesion tokens that survive merging to as many clusters as the others keep tokens."""
    found = {}
    for ratio in RATIOS:
        k, setting = budget(pictures.y.shape[1], ratio), pictures.setting
        cluster = merge_cases(pictures.cases, setting.vit, k, progress=setting.progress)
        found[f"merging.{label_of(ratio)}"] = _count(pictures, survives(cluster, pictures.labels.lesion))
    return found


def columns_of_pruned(pictures: LesionPictures, name: str, pruned: Pruned, place: str) -> dict[str, np.ndarray]:
    """Counts of a constrained pruner at its own k (``place``), and of the top k of its logits at the fixed ratios."""
    found = {f"{name}.{place}": _count(pictures, pruned.mask.numpy())}
    for ratio in RATIOS:
        found[f"{name}.{label_of(ratio)}"] = _count(pictures, kept_tokens(pruned.logits.numpy(), ratio=ratio))
    return found


def columns_of_choice(pictures: LesionPictures) -> dict[str, np.ndarray]:
    """Counts of the spanning choice and of the closed-form maximum of energy, at the fixed ratios."""
    found = {}
    for ratio in RATIOS:
        n_tokens, place = pictures.y.shape[1], label_of(ratio)
        k = budget(n_tokens, ratio)
        found[f"coverage_spanning.{place}"] = _count(pictures, as_mask(spanning(pictures.y, k), n_tokens))
        found[f"coverage_energy.{place}"] = _count(pictures, as_mask(largest_norms(pictures.y, k), n_tokens))
    return found


def greedy_pictures(cohort: str) -> int:
    """How many pictures the strong optimiser is run on by default: the phantom's notebook should stay quick."""
    return 24 if cohort == "phantom" else GREEDY_PICTURES


def greedy_sets(pictures: LesionPictures, functional: str, n_pictures: int) -> tuple[np.ndarray, torch.Tensor]:
    """(picture indices [n], chosen tokens [n, k]) of the strong optimiser at keep 0.25, on a seeded choice."""
    few = pictures.few(min(n_pictures, GREEDY_PICTURES))
    k = budget(pictures.y.shape[1], GREEDY_RATIO)
    return few, greedy(functional, pictures.y[few], k, width=pictures.width, seed=pictures.only(few).seeds(SEED))


def column_of_sets(pictures: LesionPictures, few: np.ndarray, sets: torch.Tensor) -> np.ndarray:
    """Counts [L] of chosen tokens [n, k] of the pictures ``few``; −1 for lesions of other pictures."""
    kept = np.zeros((len(pictures.cases), pictures.y.shape[1]), dtype=bool)
    kept[few] = as_mask(sets, pictures.y.shape[1])
    return np.where(np.isin(pictures.lesion_picture, few), _count(pictures, kept), NOT_EVALUATED)


def pruned_by(
    pictures: LesionPictures, functional: str, schedule: str, slack: float = SLACK, seed: int = SEED
) -> Pruned:
    """The constrained pruner on all pictures: ``dual`` as specified, or ``repaired``."""
    seeds = pictures.seeds(seed)  # one noise for all would keep the same places of the grid in every picture
    return prune(functional, pictures.y, width=pictures.width, slack=slack, seed=seeds, schedule=SCHEDULES[schedule])


def as_mask(sets: torch.Tensor | Sequence, n_tokens: int) -> np.ndarray:
    """Chosen tokens int [n, k] → bool [n, T]."""
    sets = np.asarray(sets)
    mask = np.zeros((len(sets), n_tokens), dtype=bool)
    np.put_along_axis(mask, sets, True, axis=1)
    return mask


def _count(pictures: LesionPictures, kept: np.ndarray) -> np.ndarray:
    return kept_counts(kept, pictures.labels.lesions)
