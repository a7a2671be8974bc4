"""Count what a cohort holds, picture by picture: what is kept of one is a few numbers and, for some, a thumbnail."""

from __future__ import annotations

from array import array
from collections import Counter

import numpy as np

from covtoken.data.case import Case, Cohort
from covtoken.data.check.look import Look
from covtoken.data.splits import N_FOLDS, SMALL_COHORT, SPLITS, listed_files, load_splits
from covtoken.errors import CovtokenError

QUANTILES = {"smallest": 0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "largest": 1}


class Census:
    """Running counts over the pictures of a cohort (``add``), and their summary (``numbers``)."""

    def __init__(self, cohort: Cohort) -> None:
        self.cohort = cohort
        self.shapes: Counter = Counter()
        self.spacings: Counter = Counter()
        self.n_with = self.n_without = 0
        self.low, self.high = np.inf, -np.inf
        self.lesions_px, self.lesions_mm2, self.shares = array("d"), array("d"), array("d")

    def add(self, case: Case, look: Look) -> None:
        """Count one picture."""
        if look.shape is not None:
            self.shapes[look.shape] += 1
            self.low, self.high = min(self.low, look.low), max(self.high, look.high)
        if case.spacing_mm is not None:
            self.spacings[case.spacing_mm] += 1
        if look.lesions is None:
            return
        if not len(look.lesions):
            self.n_without += 1
            return
        self.n_with += 1
        self.lesions_px.extend(look.lesions.tolist())
        self.shares.append(look.lesions.sum() / look.n_pixels)
        if case.spacing_mm is not None:
            self.lesions_mm2.extend((look.lesions * np.prod(case.spacing_mm)).tolist())

    def numbers(self) -> dict:
        """Summarise the counts: plain numbers, texts, lists and dicts, ready for JSON; None where nothing is known."""
        heights, widths = (Counter(), Counter())
        for (height, width), n in self.shapes.items():
            heights[height] += n
            widths[width] += n
        read = sum(self.shapes.values())
        sizes = [n for n in Counter(case.unit for case in self.cohort.cases).values() if n > 1]
        return {
            "cases": len(self.cohort.cases),
            "units": len(self.cohort.units),
            "units_of_several": {"units": len(sizes), "cases": sum(sizes)},
            "modality": ", ".join(sorted({case.modality for case in self.cohort.cases})),
            "curated": self.cohort.curated,
            "pictures_read": read,
            "with_lesion": self.n_with,
            "without_lesion": self.n_without,
            "with_several_mask_files": sum(len(ref.files) > 1 for ref in self.cohort.masks.values()),
            "with_organ_mask": len(self.cohort.organs),
            "height_px": _spread(heights),
            "width_px": _spread(widths),
            "values": [self.low, self.high] if read else None,
            "spacing_row_mm": _spread(Counter(row for row, _ in self.spacings.elements())),
            "spacing_column_mm": _spread(Counter(column for _, column in self.spacings.elements())),
            "lesions": len(self.lesions_px),
            "lesion_area_px": _quantiles(self.lesions_px),
            "lesion_area_mm2": _quantiles(self.lesions_mm2),
            "lesion_share": _quantiles(self.shares),
            "splits": self._splits(),
        }

    def _splits(self) -> dict | None:
        try:
            splits, listed = load_splits(self.cohort), set(listed_files(self.cohort.name).values())
        except CovtokenError:
            return None  # an edited file is a finding
        units, cases = Counter(splits.values()), Counter(splits[case.unit] for case in self.cohort.cases)
        return {
            "file": f"configs/splits/{self.cohort.name}.json" if listed else None,
            "cross_fitted": N_FOLDS if len(self.cohort.units) < SMALL_COHORT else None,
            **{name: {"units": units[name], "cases": cases[name]} for name in SPLITS},
        }


def _spread(counts: Counter) -> dict | None:
    """Give smallest, median and largest of counted values."""
    if not counts:
        return None
    values = sorted(counts)
    half, seen = sum(counts.values()) / 2, 0
    for middle in values:
        seen += counts[middle]
        if seen >= half:
            break
    return {"smallest": values[0], "median": middle, "largest": values[-1]}


def _quantiles(values: array) -> dict | None:
    if not len(values):
        return None
    return {name: float(value) for name, value in zip(QUANTILES, np.quantile(values, list(QUANTILES.values())))}
