"""LesionPictures in memory: lesion tokens are alike and far from the bank, so membership sees them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch

from covtoken.backbone.cache import digest_key
from covtoken.data.case import Case, Cohort, MaskRef
from covtoken.evaluation.labels import Lesion, SplitLabels, mark_small, small_cuts
from covtoken.gates.budgets.lesion_pictures import LesionPictures
from covtoken.protocol.plan import Plan
from covtoken.protocol.scoring import shuffled_masks
from covtoken.protocol.setting import Setting
from covtoken.scores.recipe import Recipe

ROWS, DIM, RANK = 8, 12, 10
SIMPLE = ("centre_prior", "attention_best", "intensity", "random")


def lesion_pictures(n=60, seed=0, alike=0.3, mixed=False, split="test") -> LesionPictures:
    """``n`` pictures of 8 × 8 tokens, each with a lesion of 2 to 6 tokens; ``alike``: spread inside a lesion."""
    rng = np.random.default_rng(seed)
    n_tokens = ROWS * ROWS
    tokens = rng.normal(size=(n, n_tokens, DIM)) * np.linspace(1.5, 0.6, DIM)
    lesion, lesions = np.zeros((n, n_tokens), bool), []
    for i in range(n):
        size = int(rng.integers(2, 7))
        row, col = rng.integers(0, ROWS - 2, 2)
        places = [(row + d // 3) * ROWS + col + d % 3 for d in range(size)]
        lesion[i, places] = True
        tokens[i, places] = 2.2 * rng.choice([-1, 1], DIM) + alike * rng.normal(size=(size, DIM))
        lesions.append(Lesion(np.array(sorted(places)), size / n_tokens, size / n_tokens, i))
    names = tuple(f"p{i:02d}" for i in range(n))
    labels = SplitLabels(lesion, np.zeros_like(lesion), None, np.arange(n), tuple(lesions), names, names, ROWS, ROWS)
    distance = np.linalg.norm(tokens, axis=2)
    maps = {"recommended": distance + 0.1 * rng.normal(size=distance.shape), "density": distance, "residual": distance}
    maps |= {name: rng.normal(size=distance.shape) for name in SIMPLE}
    maps["attention_best"] = maps["attention_best"] + 0.8 * lesion
    recipes = {name: Recipe(name, 9) for name in maps}
    cases = tuple(Case(name, name, "ultrasound", partial_picture) for name in names)
    cuts = small_cuts(labels, cases)
    labels = mark_small(labels, cases, cuts)
    plan = Plan(recipes, 9, 0.7, "made up", cuts, locked=True)
    cohort = Cohort("stub", "ultrasound", cases, {name: MaskRef("empty", key="8x8") for name in names})
    vit = SimpleNamespace(
        name="stub", input="unit", weights_sha256="0", picture_size=8, model=SimpleNamespace(blocks=[object()])
    )
    setting = Setting(cohort, split, vit, digests={digest_key(case, vit): ("0", "0") for case in cases})
    centred = torch.from_numpy(tokens).float()
    y = torch.from_numpy(tokens[..., :RANK]).double()
    pictures = LesionPictures(setting, plan, maps, y, centred, labels, cases, [{"fired": False}])
    return replace(pictures, labels=shuffled_masks(labels)) if mixed else pictures


def partial_picture() -> np.ndarray:
    return np.zeros((8, 8), np.float32)
