"""What a gate notebook shows of a run: tables, cases to look at, and the text of its locked cell."""

from __future__ import annotations

import numpy as np
import pandas as pd

from covtoken.data.intensity import to_unit_range
from covtoken.data.masks import read_mask
from covtoken.evaluation.stats import delong
from covtoken.names import LABELS
from covtoken.protocol.plan import BASELINES, PROPOSED
from covtoken.protocol.report import GateRun


def scorer_table(metrics: dict[str, dict]) -> pd.DataFrame:
    """One row a scorer, tuned alike: pooled, image and in-organ AUROC, AUPR, FROC at 1 and 4."""
    rows = []
    for scorer in (*PROPOSED, *BASELINES, "intensity_flipped"):
        if f"auroc.{scorer}" not in metrics:
            continue
        row = {"scorer": scorer}
        for kind, title in (
            ("auroc", "AUROC"),
            ("image_auroc", "image AUROC"),
            ("organ_auroc", "in-organ AUROC"),
            ("aupr", "AUPR"),
            ("froc.fp1", "sensitivity, 1 FP"),
            ("froc.fp4", "sensitivity, 4 FP"),
            ("organ_aupr", "in-organ AUPR"),
            ("organ_froc.fp1", "in-organ sensitivity, 1 FP"),
            ("organ_froc.fp4", "in-organ sensitivity, 4 FP"),
        ):
            entry = metrics.get(f"{kind}.{scorer}")
            if entry is not None and entry["value"] is not None:
                low, high = entry["ci95"] or (np.nan, np.nan)
                row[title] = f"{entry['value']:.3f} [{low:.3f},\u00a0{high:.3f}]"  # breaks before the bracket alone
        rows.append(row)
    return pd.DataFrame(rows).set_index("scorer").fillna("")


SIDE_BY_SIDE = ("recommended", "density", "attention_best", "saliency_head")


def lesion_cases(run: GateRun, n: int = 6, scorers: tuple[str, ...] = SIDE_BY_SIDE) -> list[dict]:
    """Panels for ``figures.lesion_maps``, a row a case: lesions of evenly spread sizes, not chosen by score."""
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
        shared = {
            "picture": to_unit_range(case.pixels(), case),
            "mask": read_mask(masks[case.name]),
        }
        for scorer in (name for name in scorers if name in run.records.scores):
            score = run.records.scores[scorer][i].astype(np.float64).reshape(rows, cols)
            panels.append(shared | {"name": LABELS[scorer], "case": case.name, "score": score})
    return panels


def delong_line(run: GateRun, scorer: str = "recommended") -> str:
    """DeLong's interval of a pooled AUROC beside the unit bootstrap: it takes tokens for independent."""
    labels = run.records.labels
    keep = ~labels.ignore
    low, high = delong(run.records.scores[scorer].astype(np.float64)[keep], labels.lesion[keep]).interval()
    below, above = run.report.metrics[f"auroc.{scorer}"]["ci95"]
    return (
        f"auroc.{scorer}: DeLong [{low:.3f}, {high:.3f}], bootstrap over units [{below:.3f}, {above:.3f}]. Tokens of "
        "one patient are correlated, which DeLong does not know; the gate decides by units."
    )
