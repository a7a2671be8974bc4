"""Recall as a lesion gets rarer: the same lesion grows in the same phantom picture, everything else held.

Size is the only thing that varies. A lesion larger than the budget cannot be kept whole; below that, a recall that
falls with size is that of a method which gives further tokens of the same lesion less than the first.
"""

from __future__ import annotations

import numpy as np

from covtoken.coverage.dual import REPAIRED, prune
from covtoken.coverage.functionals import project
from covtoken.coverage.greedy import greedy, largest_norms, spanning
from covtoken.data.masks import read_mask
from covtoken.data.readers.growing_lesion import SIZES, grown
from covtoken.economy.keep import budget, kept_tokens
from covtoken.evaluation.labels import token_labels
from covtoken.gates.budgets.kept_by_method import GREEDY_RATIO, as_mask
from covtoken.gates.budgets.lesion_pictures import LesionPictures
from covtoken.keys import hash_unit, picture_seeds
from covtoken.protocol.setting import SEED
from covtoken.scores.recommended import direction_maps
from covtoken.scores.scorers import score_maps

N_PICTURES = 3
METHODS = {
    "density": "membership A",
    "recommended": "recommended",
    "rankme_greedy": "RankMe, greedy",
    "coding_greedy": "coding rate, greedy",
    "spanning": "spanning choice",
    "repaired": "dual, repaired",
    "energy": "energy, closed form",
}


def rarity_recall(lesion_pictures: LesionPictures) -> dict[str, np.ndarray]:
    """Recall [size, picture] at keep 0.25 of every method, and ``size``, the lesion's tokens: on lesion-free pictures.

    Args:
        lesion_pictures: of the phantom; setting, plan and reference are used, pictures are not.
    """
    setting, plan = lesion_pictures.setting, lesion_pictures.plan
    cohort = setting.cohort
    free = [case for case in setting.cases_of(setting.split) if not read_mask(cohort.masks[case.name]).any()]
    base = sorted(free, key=lambda case: hash_unit(case.name))[:N_PICTURES]
    drawn = [grown(case, size) for size in SIZES for case in base]
    pictures = setting.features([case for case, _ in drawn])
    lesion = np.stack([token_labels(mask, pictures.rows, pictures.cols).lesion for _, mask in drawn])
    reference, tokens = lesion_pictures.references[0], pictures.tokens(plan.middle)
    fitted = reference.subspace
    y = project(tokens, fitted.mean, fitted.directions)
    n_tokens, width = y.shape[1], tokens.shape[-1]
    k, seeds = budget(n_tokens, GREEDY_RATIO), picture_seeds([case.name for case, _ in drawn], SEED)
    maps = {
        "density": score_maps(plan.recipes["density"], reference.bank, pictures, seed=SEED),
        "recommended": direction_maps(plan.recipes["recommended"], reference.direction, pictures),
    }
    kept = {name: kept_tokens(found, k=k) for name, found in maps.items()}
    sets = {
        "rankme_greedy": greedy("rankme", y, k, width=width, seed=seeds),
        "coding_greedy": greedy("coding_rate", y, k, width=width, seed=seeds),
        "spanning": spanning(y, k),
        "energy": largest_norms(y, k),
    }
    kept |= {name: as_mask(chosen, n_tokens) for name, chosen in sets.items()}
    kept["repaired"] = kept_tokens(prune("rankme", y, width=width, schedule=REPAIRED, seed=seeds).logits.numpy(), k=k)
    share = {name: (mask & lesion).sum(axis=1) / lesion.sum(axis=1) for name, mask in kept.items()}
    share["size"] = lesion.sum(axis=1)
    return {name: value.reshape(len(SIZES), len(base)) for name, value in share.items()}
