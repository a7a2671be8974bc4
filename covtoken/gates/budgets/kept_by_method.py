"""Kept tokens of every method at equal budgets, counted by lesion, for gate 3 and the negative result."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

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
GREEDY_RATIO = 0.25  # the strong optimiser runs at this keep ratio alone, on at most GREEDY_PICTURES pictures
GREEDY_PICTURES = 60
NOT_EVALUATED = -1
SCHEDULES = {"dual": SPECIFIED, "repaired": REPAIRED}


def label_of(ratio: float) -> str:
    """Name a budget in metric names: ``keep0.25``."""
    return f"keep{ratio:g}"


def columns_of_scores(pictures: LesionPictures, ks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Count [L] kept tokens of every score map, ``<scorer>.<budget>``: at fixed ratios and at each k [N] of ``ks``."""
    columns = {}
    for name, maps in pictures.maps.items():
        columns |= {f"{name}.{label_of(ratio)}": _count(pictures, kept_tokens(maps, ratio=ratio)) for ratio in RATIOS}
        columns |= {f"{name}.{place}": _count(pictures, kept_tokens(maps, k=k)) for place, k in ks.items()}
    return columns


def why_not_merged(pictures: LesionPictures) -> str:
    """Say why tokens of this model cannot be merged, or "": a merged token has no rotary position."""
    try:
        check_can_merge(pictures.setting.vit)
    except CovtokenError as error:
        return str(error)
    return ""


def columns_of_merging(pictures: LesionPictures) -> dict[str, np.ndarray]:
    """Count [L] lesion tokens that survive merging to as many clusters as other methods keep tokens."""
    columns, setting = {}, pictures.setting
    for ratio in RATIOS:
        k = budget(pictures.y.shape[1], ratio)
        cluster = merge_cases(pictures.cases, setting.vit, k, progress=setting.progress)
        columns[f"merging.{label_of(ratio)}"] = _count(pictures, survives(cluster, pictures.labels.lesion))
    return columns


def columns_of_pruned(pictures: LesionPictures, name: str, pruned: Pruned, place: str) -> dict[str, np.ndarray]:
    """Count [L] kept tokens of a constrained pruner at its own k (``place``), and its top logits at fixed ratios."""
    logits, own_k = pruned.logits.numpy(), {f"{name}.{place}": _count(pictures, pruned.mask.numpy())}
    return own_k | {f"{name}.{label_of(r)}": _count(pictures, kept_tokens(logits, ratio=r)) for r in RATIOS}


def columns_of_choice(pictures: LesionPictures) -> dict[str, np.ndarray]:
    """Count [L] kept tokens of the spanning choice and of the closed-form maximum of energy, at fixed ratios."""
    columns, n_tokens = {}, pictures.y.shape[1]
    for ratio, (name, choice) in product(RATIOS, (("spanning", spanning), ("energy", largest_norms))):
        kept = as_mask(choice(pictures.y, budget(n_tokens, ratio)), n_tokens)
        columns[f"coverage_{name}.{label_of(ratio)}"] = _count(pictures, kept)
    return columns


def greedy_pictures(cohort: str) -> int:
    """Give the default number of pictures for the strong optimiser: the phantom's notebook should stay quick."""
    return 24 if cohort == "phantom" else GREEDY_PICTURES


def greedy_sets(pictures: LesionPictures, functional: str, n_pictures: int) -> tuple[np.ndarray, torch.Tensor]:
    """Run the strong optimiser at keep 0.25 on few pictures with small lesions: indices [n], chosen tokens [n, k]."""
    few = pictures.few_with_small(min(n_pictures, GREEDY_PICTURES))
    k = budget(pictures.y.shape[1], GREEDY_RATIO)
    return few, greedy(functional, pictures.y[few], k, width=pictures.width, seed=pictures.only(few).seeds(SEED))


def column_of_sets(pictures: LesionPictures, few: np.ndarray, sets: torch.Tensor) -> np.ndarray:
    """Count [L] the chosen tokens [n, k] of the pictures ``few``; −1 for lesions of other pictures."""
    kept = np.zeros((len(pictures.cases), pictures.y.shape[1]), dtype=bool)
    kept[few] = as_mask(sets, pictures.y.shape[1])
    return np.where(np.isin(pictures.lesion_picture, few), _count(pictures, kept), NOT_EVALUATED)


def pruned_by(
    pictures: LesionPictures, functional: str, schedule: str, slack: float = SLACK, seed: int = SEED
) -> Pruned:
    """Run the constrained pruner on all pictures: ``dual`` as specified, or ``repaired``."""
    seeds = pictures.seeds(seed)  # shared noise would keep the same places of the grid in every picture
    return prune(functional, pictures.y, width=pictures.width, slack=slack, seed=seeds, schedule=SCHEDULES[schedule])


def as_mask(sets: torch.Tensor | Sequence, n_tokens: int) -> np.ndarray:
    """Turn chosen tokens, int [n, k], into a mask, bool [n, T]."""
    sets = np.asarray(sets)
    mask = np.zeros((len(sets), n_tokens), dtype=bool)
    np.put_along_axis(mask, sets, True, axis=1)
    return mask


def _count(pictures: LesionPictures, kept: np.ndarray) -> np.ndarray:
    return kept_counts(kept, pictures.labels.lesions)
