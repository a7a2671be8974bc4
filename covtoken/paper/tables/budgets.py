"""What the notebooks of gates 2 to 4 and the negative result show: tables and pictures of kept tokens."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd

from covtoken.coverage.dual import SLACKS, certificate
from covtoken.coverage.greedy import spanning
from covtoken.data.intensity import to_unit_range
from covtoken.data.masks import read_mask
from covtoken.economy.keep import RATIOS, budget, kept_tokens
from covtoken.gates.budgets import kept_by_method as rows
from covtoken.gates.budgets.lesion_pictures import LesionPictures
from covtoken.gates.gate2 import MEASURES, PARTS
from covtoken.gates.gate4 import NAMES as SCHEDULE_NAMES
from covtoken.gates.negative_result import OBJECTIVES, OPTIMISERS, PAIRS
from covtoken.names import MEASURE_NAMES, METHOD_NAMES
from covtoken.paper.numbers import cell as _cell


def cell(entry: dict | None, style: str = ".3f") -> str:
    """A number with its interval, broken before the bracket alone."""
    return _cell(entry, style, gap="\u00a0")


def spearman_table(metrics: dict[str, dict]) -> pd.DataFrame:
    """One row a measure and keep ratio: ρ over all sets and within each family, Holm's p."""
    found = []
    for name, ratio in product(MEASURES, RATIOS):
        metric = f"spearman.{name}.{rows.label_of(ratio)}"
        row = {"measure": MEASURE_NAMES[name], "keep": f"{ratio:g}"}
        row |= {part: cell(metrics[metric + ("" if part == "all" else f".{part}")]) for part in PARTS}
        p = metrics[metric].get("p_holm")
        found.append(row | {"p, Holm": "" if p is None else f"{p:.4f}"})
    return pd.DataFrame(found).set_index(["measure", "keep"])


def miss_table(metrics: dict[str, dict]) -> pd.DataFrame:
    """One row a method: small-lesion miss rate at each keep ratio, and at each pruner's own k."""
    places = {rows.label_of(ratio): f"keep {ratio:g}" for ratio in RATIOS}
    places |= {"kdual": "k of the dual", "krepaired": "k of the repaired dual"}
    found = [
        {"method": name} | {title: cell(metrics.get(f"miss_small.{key}.{place}")) for place, title in places.items()}
        for key, name in METHOD_NAMES.items()
    ]
    table = pd.DataFrame(found).set_index("method")
    return table[(table != "").any(axis=1)]


def gain_table(metrics: dict[str, dict], ours: str = "recommended", place: str = "keep0.25") -> pd.DataFrame:
    """One row a method: its miss rate minus that of ``ours``, paired, with Holm's p; positive favours ``ours``."""
    found = []
    for key, name in METHOD_NAMES.items():
        entry = metrics.get(f"miss_gain.{ours}_minus_{key}.{place}")
        if entry and entry["value"] is not None:
            p = entry.get("p_holm")
            lesions = entry.get("n_lesions", "")
            found.append(
                {"against": name, "difference": cell(entry, "+.3f"), "small lesions": lesions}
                | {"p, Holm": "" if p is None else f"{p:.4f}"}
            )
    return pd.DataFrame(found, columns=["against", "difference", "small lesions", "p, Holm"]).set_index("against")


def gflops_table(metrics: dict[str, dict]) -> pd.DataFrame:
    """GFLOP a picture (2 per multiply-add) by keep ratio, and how many times less than the whole model."""
    whole = metrics["gflops.whole.all"]["value"]
    found = {}
    for kind, words in GFLOPS.items():
        entries = {f"{r:g}": metrics.get(f"gflops.{kind}.{rows.label_of(r)}") for r in RATIOS}
        found[words] = {f"keep {r}": f"{e['value']:.2f} ({whole / e['value']:.2f} ×)" for r, e in entries.items() if e}
    return pd.DataFrame(found).T.rename_axis(f"whole model: {whole:.2f} GFLOP")


GFLOPS = {
    "pruning": "pruning after the middle block",
    "pruning_with_search": "the same, with membership A's search",
    "merging": "token merging, with its matching",
}


def dual_table(metrics: dict[str, dict]) -> pd.DataFrame:
    """One row a schedule and slack: μ, its coefficient of variation over seeds, floor met, tokens kept, drop."""
    found = []
    for name, slack in product(rows.SCHEDULES, SLACKS):
        place = f"slack{slack:g}"
        found.append(
            {"schedule": SCHEDULE_NAMES[name], "δ / C*": f"{slack:g}", "μ": cell(metrics[f"{name}.mu.{place}"])}
            | {"CV of μ": cell(metrics[f"{name}.mu_cv.{place}"])}
            | {"floor met": cell(metrics[f"{name}.constraint_met.{place}"], ".2f")}
            | {"tokens kept": cell(metrics[f"{name}.tokens_kept.{place}"], ".1f")}
            | {"drop / C*": cell(metrics[f"{name}.drop.{place}"])}
        )
    return pd.DataFrame(found).set_index(["schedule", "δ / C*"])


def pair_table(metrics: dict[str, dict]) -> pd.DataFrame:
    """One row an objective and optimiser: floor met, tokens, miss rates of coverage and of membership at that k."""
    found = []
    for functional, optimiser in PAIRS:
        title = f"{functional}.{optimiser}"
        found.append(
            {"objective": OBJECTIVES[functional], "optimiser": OPTIMISERS[optimiser]}
            | {"pictures": metrics[f"constraint_met.{title}"]["n_images"]}
            | {"floor met": cell(metrics[f"constraint_met.{title}"], ".2f")}
            | {"tokens": cell(metrics[f"tokens_kept.{title}"], ".1f")}
            | {"missed": cell(metrics[f"miss_small.{title}.coverage"])}
            | {"missed by A at that k": cell(metrics[f"miss_small.{title}.membership"])}
            | {"recall": cell(metrics[f"recall_small.{title}.coverage"])}
            | {"recall of A": cell(metrics[f"recall_small.{title}.membership"])}
        )
    return pd.DataFrame(found).set_index(["objective", "optimiser"])


def kept_panels(got: LesionPictures, n: int = 4, ratio: float = 0.25) -> list[dict]:
    """Panels for ``figures.lesion_maps``, a row a case: the tokens that each method keeps, drawn as a map of 0 and 1.

    Cases are evenly spread over lesion size, not chosen by result.
    """
    labels, k = got.labels, budget(got.y.shape[1], ratio)
    area = np.zeros(len(got.cases))
    for lesion in labels.lesions:
        area[lesion.picture] += lesion.share
    picked = np.argsort(area, kind="stable")[np.unique(np.linspace(0, len(area) - 1, n).round().astype(int))]
    kept = {name: kept_tokens(got.maps[key], ratio=ratio) for key, name in KEPT_BY.items() if key in got.maps}
    kept["coverage, spanning choice"] = rows.as_mask(spanning(got.y, k), got.y.shape[1])
    panels = []
    for i in picked:
        case = got.cases[i]
        shared = {"picture": to_unit_range(case.pixels(), case), "mask": read_mask(got.setting.cohort.masks[case.name])}
        for name, mask in kept.items():
            score = mask[i].astype(float).reshape(labels.rows, labels.cols)
            panels.append(shared | {"name": name, "case": case.name, "score": score})
    return panels


KEPT_BY = {"density": "membership A", "recommended": "recommended"}


def certificate_line(got: LesionPictures, index: int = 0) -> str:
    """The coverage certificate of one picture, as the repaired pruner gives it."""
    pruned = rows.pruned_by(got.only(np.array([index])), "rankme", "repaired")
    found = certificate(pruned, got.y[[index]], 0)
    shares = ", ".join(f"{share:.2f}" for share in found.directions_retained)
    return (
        f"{got.cases[index].name}: {found.k} of {found.n_tokens} tokens kept ({found.retention:.2f}); coverage "
        f"{found.covered:.2f} of {found.full:.2f}, a drop of {found.drop:.2f} where δ = {found.delta:.2f} is allowed: "
        f"{'met' if found.met else 'NOT MET'}; energy kept along the first directions: {shares}. "
        "It says nothing of lesions."
    )


def verdict_lines(report) -> str:
    """Decision, threshold and checks of a report, a line each."""
    bounds = ", ".join(f"{k} {v}" for k, v in report.thresholds.items() if k not in ("reason", "value", "locked"))
    lines = [f"{report.cohort}, {report.split}: {report.decision} (against {bounds}: {report.thresholds['reason']})"]
    return "\n".join([*lines, *(f"  {name}: {outcome}" for name, outcome in sorted(report.checks.items()))])
