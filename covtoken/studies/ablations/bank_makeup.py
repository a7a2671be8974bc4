"""Make banks of few units, of units with or without lesions, and with one lesion type planted in a share of them.

**Chosen by a label.** ``units_with_lesions`` opens masks, outside every construction, and ``pure_banks`` picks units by
what it found: an ablation for evaluation alone, which feeds no recipe. Its banks bear ``chosen_by_mask``, so that
``build_bank``, every scorer and every plan refuse them; ``for_this_ablation`` alone, at the place of use, lifts that.

**Blind to labels.** Shares of units, and the units in which a lesion is planted, are the smallest keyed hashes of
names. A planted lesion is ``grown_pictures.grown``: the frozen generator's pictures with a lesion of one size, grey
level, grain and rim drawn over them; place and texture follow from the picture's name. It occurs nowhere else in the
phantom, so how often a bank has seen it is exactly what was planted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from covtoken.backbone.feature_set import FeatureSet
from covtoken.data.case import Case
from covtoken.data.phantoms.grown_pictures import grown
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import Lesion, SplitLabels, label, token_labels
from covtoken.keys import smallest
from covtoken.leak_guard import refuse_labels
from covtoken.protocol.setting import Setting

NO_LESIONS, NATURAL, ONLY_LESIONS = "no lesions", "natural", "only lesions"
PURITIES = (NO_LESIONS, NATURAL, ONLY_LESIONS)
CHOSEN_BY_LABEL = "units chosen by their masks: an ablation for evaluation alone, which feeds no recipe"
FEWEST = 5  # units of a bank chosen by a label
KEY = "covtoken-ablations"
PLANTED_TOKENS = 8  # of 256: the size of the planted lesion


def units_with_lesions(setting: Setting, cases: Sequence[Case]) -> set[str]:
    """Name the units of which a picture holds a lesion, through the one door to masks.

    Raises:
        LabelLeak: something label-free is being built.
    """
    labels = label(cases, setting.cohort, *setting.grid)
    return {cases[lesion.picture].unit for lesion in labels.lesions}


def pure_banks(bank: FeatureSet, with_lesions: set[str]) -> dict[str, FeatureSet]:
    """Pick banks of the same number of units, without lesions, as they come, and with lesions; refused by construction.

    Args:
        bank: the bank's pictures.
        with_lesions: their units that hold a lesion, as ``units_with_lesions`` finds them.

    Returns:
        banks by name, in the order of ``PURITIES``; where one kind has fewer than ``FEWEST`` units, it is left out and
        does not limit the others.
    """
    refuse_labels("the choice of a bank by its masks")
    units = set(bank.units)
    kinds = {NO_LESIONS: units - with_lesions, NATURAL: units, ONLY_LESIONS: units & with_lesions}
    kinds = {name: of_kind for name, of_kind in kinds.items() if len(of_kind) >= FEWEST}
    n = min((len(of_kind) for of_kind in kinds.values()), default=0)
    picked = {name: set(smallest(of_kind, n, KEY)) for name, of_kind in kinds.items()}
    # By a boolean array: what it gives bears the mark of a choice by label.
    return {name: bank.subset(np.array([u in chosen for u in bank.units])) for name, chosen in picked.items()}


def for_this_ablation(bank: FeatureSet) -> FeatureSet:
    """Lift the refusal of a bank chosen by a label, to measure what the choice does; the mark stays on ``bank``."""
    return replace(bank, chosen_by_mask=False)


def planted_units(units: Sequence[str], share: float) -> list[str]:
    """Choose the units in which a lesion is planted: ``share`` of them, rounded, at least one above 0, nested by hash.

    Raises:
        CovtokenError: a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise CovtokenError(f"share of planted units must lie in [0, 1], got {share}")
    names = set(units)
    return smallest(names, max(1, round(share * len(names))) if share else 0, KEY)


def planted_cases(cases: Sequence[Case], units: Sequence[str]) -> list[Case]:
    """Plant the lesion type in every picture of the named units; the others stay as they are, in their order."""
    wanted = set(units)
    return [grown(case, PLANTED_TOKENS)[0] if case.unit in wanted else case for case in cases]


def planted_labels(cases: Sequence[Case], labels: SplitLabels) -> SplitLabels:
    """Label the planted lesions alone: the pictures' own lesions are neither to be found nor false alarms.

    Args:
        cases: before planting.
        labels: theirs.

    Raises:
        LabelLeak: something label-free is being built.
    """
    refuse_labels("the labels of planted lesions")
    rows, cols = labels.rows, labels.cols
    found = [token_labels(grown(c, PLANTED_TOKENS)[1], rows, cols, picture=i) for i, c in enumerate(cases)]
    lesion, touched = (np.stack([getattr(each, name) for each in found]) for name in ("lesion", "ignore"))
    lesions: tuple[Lesion, ...] = tuple(lesion for each in found for lesion in each.lesions)
    ignore = (touched | labels.lesion | labels.ignore) & ~lesion
    return replace(labels, lesion=lesion, ignore=ignore, lesions=lesions)


def smaller_banks(
    bank: FeatureSet, sizes: Sequence[int], keys: Sequence[str]
) -> Iterator[tuple[int, list[FeatureSet]]]:
    """Yield (units, banks of so many units, one a key), and the whole bank last; sizes near the whole are left out."""
    units = set(bank.units)
    for n in sizes:
        if n < 0.7 * len(units):
            chosen = (set(smallest(units, n, key)) for key in keys)
            yield n, [bank.subset([i for i, u in enumerate(bank.units) if u in wanted]) for wanted in chosen]
    yield len(units), [bank]
