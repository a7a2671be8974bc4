"""Choose real pictures of a selection split by lesion size, a kept lesion and a lost one, and score them with C−."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from covtoken.data.case import Case
from covtoken.data.intensity import to_unit_range
from covtoken.data.masks import read_mask
from covtoken.economy.keep import kept_counts, kept_tokens, retained
from covtoken.evaluation.labels import SplitLabels
from covtoken.evaluation.stats import auroc
from covtoken.protocol.setting import Setting
from covtoken.scores.recipe import recommended
from covtoken.scores.recommended import direction_maps, direction_of
from covtoken.studies.study import open_study, split_features

RATIO = 0.25  # of the tokens kept
SIZE = 224  # px


@dataclass(frozen=True, eq=False)
class Panel:
    """A picture of the figure, [SIZE, SIZE] in 0…1, its mask, its score and kept tokens [rows, cols], its numbers."""

    picture: np.ndarray = field(repr=False)
    mask: np.ndarray = field(repr=False)
    score: np.ndarray = field(repr=False)
    kept: np.ndarray = field(repr=False)
    numbers: dict[str, Any]


def chosen_panels(cohort: str, backbone: str = "embedded", **inputs) -> list[Panel]:
    """Fit C− on the bank split; give two pictures of the selection split, a lesion that is kept and one that is lost.

    Args:
        inputs: ``data``, ``cache`` and ``progress`` of ``open_setting``.

    Raises:
        CovtokenError: unknown names, or a cohort without the splits or lesions.
    """
    setting = open_study(cohort, backbone, **inputs)
    recipe = recommended(setting.vit.n_blocks)
    blocks = sorted({recipe.block, recipe.settings.target_block})
    bank, selection, labels = split_features(setting, blocks, False)
    maps = direction_maps(recipe, direction_of(recipe, bank), selection)
    kept = kept_tokens(maps, ratio=RATIO)
    cases = setting.cases_of("selection")
    panels = []
    for outcome, (index, about) in nearest_to_the_median(kept, labels).items():
        case = cases[index]
        inside = auroc(maps[index], labels.lesion[index], ~labels.ignore[index])
        numbers = {"cohort": setting.cohort.name, "split": "selection", "case": case.name, "outcome": outcome}
        numbers |= about | {"auroc_in_this_picture": round(float(inside), 4), "keep_ratio": RATIO}
        shape = (selection.rows, selection.cols)
        pixels = picture_and_mask(setting, case)
        panels.append(Panel(*pixels, maps[index].reshape(shape), kept[index].reshape(shape), numbers))
    return panels


def picture_and_mask(setting: Setting, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Read a case's picture, [SIZE, SIZE] in 0…1, and its mask, [SIZE, SIZE] bool, both squashed to a square."""
    mask = read_mask(setting.cohort.masks[case.name])
    return _squashed(to_unit_range(case.pixels(), case)), _squashed(mask.astype(np.float32)) >= 0.5


def nearest_to_the_median(kept: np.ndarray, labels: SplitLabels) -> dict[str, tuple[int, dict[str, Any]]]:
    """Find the kept and the lost lesion whose size is nearest to the median, among pictures with a single lesion.

    The size of the lesion chooses, not the score: the score only says which of the two it is.

    Args:
        kept: [N, T] bool, the tokens that stay.

    Returns:
        {"kept" or "lost": (index of the picture, its numbers)}; no entry where no lesion came out so.
    """
    counts = kept_counts(kept, labels.lesions)
    stays = retained(counts, np.array([len(lesion.tokens) for lesion in labels.lesions]))
    of_picture = np.bincount([lesion.picture for lesion in labels.lesions], minlength=len(labels.names))
    single = sorted(
        (i for i, lesion in enumerate(labels.lesions) if of_picture[lesion.picture] == 1),
        key=lambda i: (labels.lesions[i].share, labels.names[labels.lesions[i].picture]),
    )
    middle, found = (len(single) - 1) / 2, {}
    for place in sorted(range(len(single)), key=lambda place: (abs(place - middle), place)):
        lesion = labels.lesions[single[place]]
        outcome = "kept" if stays[single[place]] else "lost"
        numbers = {
            "lesion_share_of_the_picture": round(lesion.share, 4),
            "place_by_size": place + 1,
            "pictures_with_one_lesion": len(single),
            "lesion_tokens": len(lesion.tokens),
            "lesion_tokens_kept": int(counts[single[place]]),
            "lesions_kept_in_the_split": int(stays.sum()),
            "lesions_in_the_split": len(labels.lesions),
        }
        found.setdefault(outcome, (lesion.picture, numbers))
    return {outcome: found[outcome] for outcome in ("kept", "lost") if outcome in found}


def _squashed(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(np.asarray(pixels, dtype=np.float32)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(image), 0, 1)
