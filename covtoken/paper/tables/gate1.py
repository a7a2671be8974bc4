"""Make what gate 1's notebook shows of a run: a table, cases to look at, and DeLong's interval."""

from __future__ import annotations

import numpy as np
import pandas as pd

from covtoken.data.intensity import to_unit_range
from covtoken.data.masks import read_mask
from covtoken.evaluation.stats import delong
from covtoken.names import LABELS
from covtoken.paper.numbers import cell
from covtoken.protocol.plan import BASELINES, PROPOSED
from covtoken.protocol.report import GateRun


def scorer_table(metrics: dict[str, dict]) -> pd.DataFrame:
    """Lay out pooled, image and in-organ AUROC, AUPR, and FROC at 1 and 4: a row a scorer, all tuned alike."""
    rows = []
    for scorer in (*PROPOSED, *BASELINES, "intensity_flipped"):
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
    rows, cols = run.records.grid
    labels, masks = run.records.labels, run.pictures.setting.cohort.masks
    area = np.zeros(len(labels.unit))
    for lesion in labels.lesions:
        area[lesion.picture] += lesion.share
    with_lesion = np.flatnonzero(labels.lesion.any(axis=1))
    ordered = with_lesion[np.argsort(area[with_lesion], kind="stable")]
    picked = ordered[np.unique(np.linspace(0, len(ordered) - 1, n).round().astype(int))]
    panels = []
    for i in picked:
        case = run.pictures.cases[i]
        shared = {"picture": to_unit_range(case.pixels(), case), "mask": read_mask(masks[case.name])}
        for scorer in (name for name in scorers if name in run.records.scores):
            score = run.records.scores[scorer][i].astype(np.float64).reshape(rows, cols)
            panels.append(shared | {"name": LABELS[scorer], "case": case.name, "score": score})
    return panels


def delong_line(run: GateRun, scorer: str = "recommended") -> str:
    """Write DeLong's interval of a pooled AUROC, which takes tokens for independent, beside the unit bootstrap's."""
    labels = run.records.labels
    keep = ~labels.ignore
    low, high = delong(run.records.scores[scorer].astype(np.float64)[keep], labels.lesion[keep]).interval()
    below, above = run.report.metrics[f"auroc.{scorer}"]["ci95"]
    return (
        f"auroc.{scorer}: DeLong [{low:.3f}, {high:.3f}], bootstrap over units [{below:.3f}, {above:.3f}]. Tokens of "
        "one patient are correlated, which DeLong does not know; the gate decides by units."
    )
