"""Make what gate 1's notebook shows of a run: a table, cases to look at, and DeLong's interval."""

from __future__ import annotations

import numpy as np
import pandas as pd

from covtoken.data.intensity import to_unit_range
from covtoken.data.masks import read_mask
from covtoken.evaluation.labels import SplitLabels
from covtoken.evaluation.stats import delong
from covtoken.names import LABELS
from covtoken.paper.numbers import cell
from covtoken.protocol.plan import BASELINES, PROPOSED, RIVALS
from covtoken.protocol.report import GateRun


def scorer_table(metrics: dict[str, dict]) -> pd.DataFrame:
    """Lay out pooled, image and in-organ AUROC, AUPR, and FROC at 1 and 4: a row a scorer, all tuned alike."""
    rows = []
    for scorer in (*PROPOSED, *RIVALS, *BASELINES, "intensity_flipped"):
        if f"auroc.{scorer}" in metrics:
            cells = {title: cell(metrics.get(f"{kind}.{scorer}")) for kind, title in COLUMNS.items()}
            rows.append({"scorer": scorer} | {title: text for title, text in cells.items() if text})
    return pd.DataFrame(rows).set_index("scorer").fillna("")


COLUMNS = {
    "auroc": "AUROC",
    "image_auroc": "image AUROC",
    "organ_auroc": "in-organ AUROC",
    "aupr": "AUPR",
    "froc.fp1": "sensitivity, 1 FP",
    "froc.fp4": "sensitivity, 4 FP",
    "organ_aupr": "in-organ AUPR",
    "organ_froc.fp1": "in-organ sensitivity, 1 FP",
    "organ_froc.fp4": "in-organ sensitivity, 4 FP",
}
SIDE_BY_SIDE = ("recommended", "density", "attention_best", "saliency_head")


def lesion_cases(run: GateRun, n: int = 6, scorers: tuple[str, ...] = SIDE_BY_SIDE) -> list[dict]:
    """Make panels for ``charts.pictures.lesion_maps``, a row a case, evenly spread over lesion size, not by score."""
    labels, scores = run.records.labels, run.records.scores
    maps = {LABELS[scorer]: scores[scorer] for scorer in scorers if scorer in scores}
    return panels_by_size(run.pictures, labels, maps, n, np.flatnonzero(labels.lesion.any(axis=1)))


def panels_by_size(pictures, labels: SplitLabels, maps: dict[str, np.ndarray], n: int, among: np.ndarray) -> list[dict]:
    """Make panels of n cases evenly spread over lesion size, a row a case.

    Args:
        pictures: scored pictures, with their cases and setting.
        maps: panel name → score map [N, T].
        among: indices of the pictures to choose from.
    """
    area = np.zeros(len(labels.unit))
    for lesion in labels.lesions:
        area[lesion.picture] += lesion.share
    ordered, panels = among[np.argsort(area[among], kind="stable")], []
    for i in ordered[np.unique(np.linspace(0, len(ordered) - 1, n).round().astype(int))]:
        case = pictures.cases[i]
        mask = read_mask(pictures.setting.cohort.masks[case.name])
        shared = {"picture": to_unit_range(case.pixels(), case), "mask": mask, "case": case.name}
        grids = {name: values[i].astype(float).reshape(labels.rows, labels.cols) for name, values in maps.items()}
        panels += [shared | {"name": name, "score": grid} for name, grid in grids.items()]
    return panels


def delong_line(run: GateRun, scorer: str = "recommended") -> str:
    """Write DeLong's interval of a pooled AUROC, which takes tokens for independent, beside the unit bootstrap's."""
    interval = run.report.metrics[f"auroc.{scorer}"]["ci95"]
    if interval is None:
        return f"auroc.{scorer}: fewer than five units, so no interval: DeLong would take tokens for independent"
    below, above = interval
    labels = run.records.labels
    keep = ~labels.ignore
    low, high = delong(run.records.scores[scorer].astype(np.float64)[keep], labels.lesion[keep]).interval()
    return (
        f"auroc.{scorer}: DeLong [{low:.3f}, {high:.3f}], bootstrap over units [{below:.3f}, {above:.3f}]. Tokens of "
        "one patient are correlated, which DeLong does not know; the gate decides by units."
    )
