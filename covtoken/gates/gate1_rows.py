"""Rows for gate 1's charts, from its metrics and recorded scores."""

from __future__ import annotations

import numpy as np

from covtoken.evaluation.records import RecordedScores
from covtoken.names import LABELS
from covtoken.protocol.report import with_interval

# Drawn block by block already, or a variant of a score that is drawn: more rules than a chart can label.
NOT_DRAWN = (
    *("density", "attention_best", "attention_last", "residual"),
    *("rarity", "without_head", "direction", "attention_fit", "attention_head_fit", "in_organ", "intensity_flipped"),
)


def block_rows(metrics: dict[str, dict]) -> list[dict]:
    """List rows of the AUROC-by-block chart: {scorer, block, value, lo, hi}; block None: a baseline without blocks."""
    rows = []
    for name, entry in metrics.items():
        scorer, _, block = name.removeprefix("auroc.").partition(".")
        if not name.startswith("auroc.") or entry["value"] is None or (scorer in NOT_DRAWN and not block):
            continue
        place = int(block[5:]) if block.startswith("block") else block or None
        rows.append({"scorer": LABELS[scorer], "block": place, **with_interval(entry)})
    return sorted(rows, key=lambda r: (r["scorer"], r["block"] is None, r["block"] == "norm", r["block"] or 0))


def gain_rows(metrics: dict[str, dict], kind: str = "auroc_gain", ours: str = "density") -> list[dict]:
    """List rows of the forest of differences, ``ours`` minus each baseline: {label, value, lo, hi}."""
    start = f"{kind}.{ours}_minus_"
    return [
        {"label": LABELS[name.removeprefix(start)], **with_interval(entry)}
        for name, entry in sorted(metrics.items(), key=lambda item: item[1]["value"] or 0)
        if name.startswith(start) and entry["ci95"]
    ]


def density_rows(recorded: RecordedScores, n_bins: int = 40) -> list[dict]:
    """List histogram rows of the scores of lesion tokens and all others: {panel, group, score, density}."""
    keep, rows = ~recorded.labels.ignore, []
    for name in ("recommended", "density", "attention_best", "saliency_head"):
        if name not in recorded.scores:
            continue
        values = recorded.scores[name].astype(np.float64)
        edges = np.linspace(*np.quantile(values[keep], (0.001, 0.999)), n_bins + 1)
        for kind, mask in (("lesion", recorded.labels.lesion & keep), ("other", ~recorded.labels.lesion & keep)):
            heights, _ = np.histogram(values[mask], bins=edges, density=True)
            for x, height in zip((edges[:-1] + edges[1:]) / 2, heights):
                place = {"panel": LABELS[name], "group": f"{kind} tokens"}
                rows.append(place | {"score": round(float(x), 4), "density": round(float(height), 4)})
    return rows
