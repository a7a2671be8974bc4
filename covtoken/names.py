"""Name methods, measures, ways and routes in tables and charts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from covtoken.errors import unknown

LABELS = {
    "density": "membership A",
    "attention": "CLS attention",
    "attention_best": "attention, tuned",
    "attention_last": "attention, last block",
    "centre_prior": "centre prior",
    "token_norm": "token norm",
    "intensity": "brightness",
    "intensity_flipped": "brightness, other sign",
    "residual": "membership B",
    "recommended": "C−",
    "with_head": "C",
    "direction": "D",
    "attention_fit": "C−'s fit on attention",
    "attention_head_fit": "C−'s fit on attention and head",
    "rarity": "rarity PN",
    "without_head": "C− without the head",
    "head_student": "head's student",
    "in_organ": "O, inside an organ",
    "variance": "patch variance",
    "patchcore": "PatchCore-style",
    "musc": "MuSc-style",
    "random": "random",
    "saliency_head": "saliency head",
}

METHOD_NAMES = LABELS | {
    "density_1000": "membership A, 1,000 tokens",
    "merging": "token merging",
    "coverage_dual": "coverage, dual as specified",
    "coverage_repaired": "coverage, dual repaired",
    "coverage_spanning": "coverage, spanning choice",
    "coverage_energy": "energy, closed form",
    "coverage_greedy": "RankMe, greedy",
    "coverage_greedy_coding_rate": "coding rate, greedy",
}
MEASURE_NAMES = {
    "rankme": "RankMe",
    "coding_rate": "coding rate",
    "energy": "energy",
    "control": "membership mass (control)",
    "attention_mass": "attention mass",
}
# Ways in which gate 5 scores the same pictures.
WAYS = {
    "refitted": "usual recipe, own bank",
    "elsewhere": "recipe chosen elsewhere, own bank",
    "carried": "bank of another cohort, same modality",
    "foreign": "bank of the other modality",
}

# Columns in which the confirmation scores the same pictures.
COLUMNS = {"carried": "bank carried over", "crossfit": "cross-fitted"}

# Routes of gate 6 whose features the probes read; a route by another score has that score's name.
ROUTE_NAMES = {
    "full": "full pass",
    "chosen": "chosen route",
    "chosen_mixed": "chosen route, probe trained on both",
    "published": "published setting",
    "merging_tuned": "token merging, tuned",
    "merging_protected": "token merging, lesions protected",
    "stop_early": "stop early",
    "chosen_without_maps": "chosen route, without exit maps",
    "chosen_search": "as many tokens, by a search of 12,000",
}
TASK_NAMES = {
    "segmentation_auroc": "lesion tokens, AUROC",
    "segmentation_ap": "lesion tokens, average precision",
    "segmentation_dice": "lesion tokens, Dice",
    "malignancy": "malignant or benign, AUROC",
}

MEMBERSHIPS = tuple(METHOD_NAMES[name] for name in ("recommended", "density", "residual"))
KINDS = dict.fromkeys(METHOD_NAMES, "baseline")
KINDS |= dict.fromkeys(("recommended", "with_head", "direction", "density", "density_1000", "residual"), "membership")
KINDS |= {name: "coverage" for name in METHOD_NAMES if name.startswith("coverage_")}
_KIND_OF_LABEL = {METHOD_NAMES[name]: kind for name, kind in KINDS.items()}

# Cohorts as pages write them, in the order of tables: the phantom last, since it says nothing about patients.
COHORT_NAMES = {
    "busi": "BUSI",
    "lidc-crops": "LIDC windows",
    "lits": "LiTS slices",
    "kits19": "KiTS19 slices",
    "busbra-external": "BUS-BRA",
    "lidc-external": "further LIDC windows",
    "lidc-idri": "LIDC-IDRI volumes",
    "kits23": "KiTS23 volumes",
    "msd-task03": "Decathlon task 3",
    "msd-task06": "Decathlon task 6",
    "msd-task07": "Decathlon task 7",
    "phantom": "phantom",
}
# What a report was evaluated on.
SPLIT_NAMES = {
    "crossfit": "all pictures in five folds",
    "carried": "all pictures with the bank of another cohort",
    "all": "all pictures",
}

BACKBONE_NAMES = {
    "embedded": "embedded weights",
    "random:vit_small_patch14_dinov2": "random ViT-S",
    "random:meddinov3": "random ViT-B, HU",
}

# Columns of chart data, as tooltips and the tables behind charts head them; of one that is not here, "_" becomes " ".
COLUMN_WORDS = {
    "lo": "95 % from",
    "hi": "95 % to",
    "scorer": "score",
    "name": "score",
    "row": "row",
    "keep": "share kept",
    "cv": "spread of μ over seeds",
    "mu": "price μ",
    "k": "tokens kept",
    "floor_at": "slack",
    "met": "floor met",
    "auroc": "token AUROC",
    "image_auroc": "AUROC inside a picture",
    "speedup": "times fewer FLOPs",
    "miss": "small lesions lost",
    "membership_miss": "small lesions lost by membership",
    "which": "compared with",
    "lost": "small lesions lost",
    "backing": "backing of the bank",
    "gain": "gain over the baseline",
    "comparison": "what differs",
    "n_lesions": "lesions",
    "n_small": "small lesions",
    "retained_small": "small lesions retained",
    "recall": "share of lesion tokens kept",
    "n": "calibration units",
    "m": "test units",
    "title": "way",
    "col": "column",
    "all": "retained",
    "small": "retained, small lesions",
    "reading": "reading",
    "fired": "alarm fired",
    "failed": "C− failed",
    "sigma_mm": "slice distance, mm",
    "alpha": "α",
}

# Labels in the rows of reports that were recorded before a method had its short name.
FORMER_LABELS = {"C−, recommended": "C−", "C, with the saliency head": "C"}


def with_short_names(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give a chart's recorded rows with each method under its present label."""
    return [
        {key: FORMER_LABELS.get(value, value) if isinstance(value, str) else value for key, value in row.items()}
        for row in rows
    ]


def cohort_name(cohort: str) -> str:
    """Name a cohort as pages write it; one that has no name here keeps its own."""
    return COHORT_NAMES.get(cohort, cohort)


def in_page_order(cohorts: Iterable[str]) -> list[str]:
    """Sort cohorts as tables show them: those that are named here in that order, others before the phantom."""
    places = {name: place for place, name in enumerate(COHORT_NAMES)}
    last = places["phantom"]
    return sorted(cohorts, key=lambda cohort: (places.get(cohort, last - 0.5), cohort))


def split_name(split: str) -> str:
    """Name what a report was evaluated on."""
    return SPLIT_NAMES.get(split, f"{split} split")


def counted(n: int, word: str) -> str:
    """Write a count with its word: ``1 unit``, ``3 units``."""
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def column_words(column: str) -> str:
    """Name a column of chart data in words."""
    return COLUMN_WORDS.get(column, column.replace("_", " "))


def value_words(value: str) -> str:
    """Write a text cell of chart data in words: methods, measures, routes, tasks and ways by their names."""
    for names in (METHOD_NAMES, MEASURE_NAMES, ROUTE_NAMES, TASK_NAMES, WAYS, COHORT_NAMES):
        if value in names:
            return names[value]
    name, _, block = value.partition(".block")
    if block and name in METHOD_NAMES:
        return f"{METHOD_NAMES[name]}, block {block}"
    return route_name(value) if "@" in value or "_" in value else value.replace("|", ", ")


def route_name(route: str) -> str:
    """Name a route of gate 6 in words: ``chosen@1.3`` is the chosen route at another net speed-up."""
    name, _, speedup = route.partition("@")
    words = ROUTE_NAMES.get(name) or METHOD_NAMES.get(name, name.replace("_", " "))
    return f"{words}, {speedup} ×" if speedup else words


def kind_of(label: str) -> str:
    """Give the kind of the method with a chart's label: membership, coverage or baseline.

    Raises:
        CovtokenError: no method has the label.
    """
    if label not in _KIND_OF_LABEL:
        raise unknown("method", label, list(_KIND_OF_LABEL))
    return _KIND_OF_LABEL[label]
