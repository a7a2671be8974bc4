"""The growing lesion: recall against size, as the same lesion grows in the same phantom picture.

Only size varies. A lesion larger than the budget cannot be kept whole; below that, recall falls with size where a
method values further tokens of a lesion less than its first.
"""

from __future__ import annotations

import numpy as np

from covtoken.coverage.dual import REPAIRED, prune
from covtoken.coverage.functionals import project
from covtoken.coverage.greedy import greedy, largest_norms, spanning
from covtoken.data.masks import read_mask
from covtoken.data.phantoms.grown_pictures import SIZES, grown
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


def recall_by_size(lesion_pictures: LesionPictures) -> dict[str, np.ndarray]:
    """Draw the growing lesion on lesion-free pictures; give each method's recall at keep 0.25, and ``size`` in tokens.

    Args:
        lesion_pictures: of the phantom; its setting, plan and reference are used, its pictures are not.

    Returns:
        arrays [size, picture] by method.
    """
    setting, plan = lesion_pictures.setting, lesion_pictures.plan
    masks = setting.cohort.masks
    free = [case for case in setting.cases_of(setting.split) if not read_mask(masks[case.name]).any()]
    base = sorted(free, key=lambda case: hash_unit(case.name))[:N_PICTURES]
    drawn = [grown(case, size) for size in SIZES for case in base]
    pictures = setting.features([case for case, _ in drawn])
    lesion = np.stack([token_labels(mask, pictures.rows, pictures.cols).lesion for _, mask in drawn])
    reference, tokens = lesion_pictures.references[0], pictures.tokens(plan.middle)
    y = project(tokens, reference.subspace.mean, reference.subspace.directions)
    n_tokens, width = y.shape[1], tokens.shape[-1]
    k, seeds = budget(n_tokens, GREEDY_RATIO), picture_seeds([case.name for case, _ in drawn], SEED)
    maps = {
        "density": score_maps(plan.recipes["density"], reference.bank, pictures, seed=SEED),
        "recommended": direction_maps(plan.recipes["recommended"], reference.direction, pictures),
    }
    kept = {name: kept_tokens(scores, k=k) for name, scores in maps.items()}
    sets = {
        "rankme_greedy": greedy("rankme", y, k, width=width, seed=seeds),
        "coding_greedy": greedy("coding_rate", y, k, width=width, seed=seeds),
        "spanning": spanning(y, k),
        "energy": largest_norms(y, k),
    }
    kept |= {name: as_mask(chosen, n_tokens) for name, chosen in sets.items()}
    kept["repaired"] = kept_tokens(prune("rankme", y, width=width, schedule=REPAIRED, seed=seeds).logits.numpy(), k=k)
    size = lesion.sum(axis=1)
    share = {name: (mask & lesion).sum(axis=1) / size for name, mask in kept.items()}
    return {name: value.reshape(len(SIZES), len(base)) for name, value in (share | {"size": size}).items()}
