"""Make what gate 1's notebook shows of a run: a table, cases to look at, and DeLong's interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from covtoken.data.intensity import to_unit_range
from covtoken.data.masks import read_mask
from covtoken.evaluation.labels import SplitLabels
from covtoken.evaluation.stats import delong
from covtoken.gates.gate1 import OURS
from covtoken.names import LABELS
from covtoken.paper.numbers import cell
from covtoken.protocol.plan import BASELINES, PROPOSED, RIVALS
from covtoken.protocol.report import GateRun


def scorer_table(
    metrics: dict[str, dict], among: Sequence[str] | None = None, *, in_organ: bool = False
) -> pd.DataFrame:
    """Lay out AUROC, AUROC inside one image, AUPR, and FROC at 1 and 4: a row a scorer, all tuned alike.

    Args:
        among: the scorers to show, in this order; None: all.
        in_organ: over the organ's tokens alone, where the cohort has organs; image AUROC is left out.
    """
    rows = []
    for scorer in among or (*PROPOSED, *RIVALS, *BASELINES, "intensity_flipped"):
        if f"auroc.{scorer}" in metrics:
            kinds = {f"organ_{kind}" if in_organ else kind: title for kind, title in COLUMNS.items()}
            cells = {title: cell(metrics.get(f"{kind}.{scorer}")) for kind, title in kinds.items()}
            rows.append({"score": LABELS[scorer]} | {title: text for title, text in cells.items() if text})
    table = pd.DataFrame(rows).set_index("score").fillna("")
    return table if len(table.columns) else table.iloc[:0]


COLUMNS = {
    "auroc": "AUROC",
    "image_auroc": "AUROC in one image",
    "aupr": "AUPR",
    "froc.fp1": "found at 1 FP",
    "froc.fp4": "found at 4 FP",
}


def best_scorers(metrics: dict[str, dict], n: int = 3) -> list[str]:
    """Name the scores that have a verdict, then the n best by AUROC of all that stand against them."""
    found = {name: (metrics.get(f"auroc.{name}") or {}).get("value") for name in (*RIVALS, *BASELINES)}
    known = [name for name, value in found.items() if value is not None]
    return [*OURS, *sorted(known, key=lambda name: -found[name])[:n]]


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
