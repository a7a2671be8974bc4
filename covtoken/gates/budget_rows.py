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
from covtoken.gates.lesion_pictures import LesionPictures
from covtoken.gates.plan import SEED

MEMBERSHIPS = ("recommended", "density", "residual")
GREEDY_RATIO = 0.25  # the strong optimiser is run at one keep ratio, on at most GREEDY_PICTURES pictures
GREEDY_PICTURES = 60
NOT_EVALUATED = -1
SCHEDULES = {"dual": SPECIFIED, "repaired": REPAIRED}


def label_of(ratio: float) -> str:
    """``keep0.25``: how a budget is called in metric names."""
    return f"keep{ratio:g}"


def columns_of_scores(got: LesionPictures, ks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``<scorer>.<budget>`` → counts [L] of every score map, at the fixed ratios and at each k [N] of ``ks``."""
    found = {}
    for name, maps in got.maps.items():
        for ratio in RATIOS:
            found[f"{name}.{label_of(ratio)}"] = _count(got, kept_tokens(maps, ratio=ratio))
        for place, k in ks.items():
            found[f"{name}.{place}"] = _count(got, kept_tokens(maps, k=k))
    return found


def why_not_merged(got: LesionPictures) -> str:
    """Why tokens of this model cannot be merged, or nothing: a merged token has no rotary position."""
    try:
        check_can_merge(got.vit)
    except CovtokenError as error:
        return str(error)
    return ""


def columns_of_merging(got: LesionPictures, progress: bool = True) -> dict[str, np.ndarray]:
    """Counts of lesion tokens that survive merging to as many clusters as the others keep tokens."""
    found = {}
    for ratio in RATIOS:
        cluster = merge_cases(got.cases, got.vit, budget(got.y.shape[1], ratio), progress=progress)
        found[f"merging.{label_of(ratio)}"] = _count(got, survives(cluster, got.labels.lesion))
    return found


def columns_of_pruned(got: LesionPictures, name: str, pruned: Pruned, place: str) -> dict[str, np.ndarray]:
    """Counts of a constrained pruner at its own k (``place``), and of the top k of its logits at the fixed ratios."""
    found = {f"{name}.{place}": _count(got, pruned.mask.numpy())}
    for ratio in RATIOS:
        found[f"{name}.{label_of(ratio)}"] = _count(got, kept_tokens(pruned.logits.numpy(), ratio=ratio))
    return found


def columns_of_choice(got: LesionPictures) -> dict[str, np.ndarray]:
    """Counts of the spanning choice and of the closed-form maximum of energy, at the fixed ratios."""
    found = {}
    for ratio in RATIOS:
        k = budget(got.y.shape[1], ratio)
        found[f"coverage_spanning.{label_of(ratio)}"] = _count(got, as_mask(spanning(got.y, k), got.y.shape[1]))
        found[f"coverage_energy.{label_of(ratio)}"] = _count(got, as_mask(largest_norms(got.y, k), got.y.shape[1]))
    return found


def greedy_sets(got: LesionPictures, functional: str, n_pictures: int) -> tuple[np.ndarray, torch.Tensor]:
    """(picture indices [n], chosen tokens [n, k]) of the strong optimiser at keep 0.25, on a seeded choice."""
    few = got.few(min(n_pictures, GREEDY_PICTURES))
    k = budget(got.y.shape[1], GREEDY_RATIO)
    return few, greedy(functional, got.y[few], k, width=got.width, seed=got.only(few).seeds(SEED))


def column_of_sets(got: LesionPictures, few: np.ndarray, sets: torch.Tensor) -> np.ndarray:
    """Counts [L] of chosen tokens [n, k] of the pictures ``few``; −1 for lesions of other pictures."""
    kept = np.zeros((len(got.cases), got.y.shape[1]), dtype=bool)
    kept[few] = as_mask(sets, got.y.shape[1])
    return np.where(np.isin(got.lesion_picture, few), _count(got, kept), NOT_EVALUATED)


def pruned_by(got: LesionPictures, functional: str, schedule: str, slack: float = SLACK, seed: int = SEED) -> Pruned:
    """The constrained pruner on all pictures: ``dual`` as specified, or ``repaired``."""
    seeds = got.seeds(seed)  # one noise for all would keep the same places of the grid in every picture
    return prune(functional, got.y, width=got.width, slack=slack, seed=seeds, schedule=SCHEDULES[schedule])


def as_mask(sets: torch.Tensor | Sequence, n_tokens: int) -> np.ndarray:
    """Chosen tokens int [n, k] → bool [n, T]."""
    sets = np.asarray(sets)
    mask = np.zeros((len(sets), n_tokens), dtype=bool)
    np.put_along_axis(mask, sets, True, axis=1)
    return mask


def _count(got: LesionPictures, kept: np.ndarray) -> np.ndarray:
    return kept_counts(kept, got.labels.lesions)
