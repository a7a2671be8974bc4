"""Make tables and pictures of kept tokens for the notebooks of gates 2 to 4 and the negative result."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import numpy as np
import pandas as pd

from covtoken.coverage.dual import SLACKS, certificate
from covtoken.coverage.greedy import spanning
from covtoken.economy.keep import RATIOS, budget, kept_tokens
from covtoken.gates.budgets import kept_by_method as methods
from covtoken.gates.budgets.lesion_pictures import LesionPictures
from covtoken.gates.gate2 import MEASURES, PARTS
from covtoken.gates.gate4 import NAMES as SCHEDULE_NAMES
from covtoken.gates.negative_result import OBJECTIVES, OPTIMISERS, PAIRS
from covtoken.names import MEASURE_NAMES, METHOD_NAMES
from covtoken.paper.numbers import cell
from covtoken.paper.tables.gate1 import panels_by_size


def spearman_table(metrics: dict[str, dict], ratios: Iterable[float] = RATIOS) -> pd.DataFrame:
    """Lay out ρ over all sets and within each family, and Holm's p: a row a measure and keep ratio."""
    rows = []
    for name, ratio in product(MEASURES, ratios):
        metric = f"spearman.{name}.{methods.label_of(ratio)}"
        row = {"measure": MEASURE_NAMES[name], "keep": f"{ratio:g}"}
        row |= {part: cell(metrics[metric + ("" if part == "all" else f".{part}")]) for part in PARTS}
        rows.append(row | _holm(metrics[metric]))
    return pd.DataFrame(rows).set_index(["measure", "keep"])


def miss_table(metrics: dict[str, dict]) -> pd.DataFrame:
    """Lay out the small-lesion miss rate at each keep ratio and at each pruner's own k: a row a method."""
    places = {methods.label_of(ratio): f"keep {ratio:g}" for ratio in RATIOS}
    places |= {"kdual": "k of dual", "krepaired": "k of repaired dual"}
    rows = [
        {"method": name} | {title: cell(metrics.get(f"miss_small.{key}.{place}")) for place, title in places.items()}
        for key, name in METHOD_NAMES.items()
    ]
    table = pd.DataFrame(rows).set_index("method")
    return table[(table != "").any(axis=1)]


def rival_table(metrics: dict[str, dict]) -> pd.DataFrame:
    """Lay out what each method misses at keep 0.25, best first, and the paired gain of C− over it, with Holm's p."""
    missed, gains = miss_table(metrics)[["keep 0.25"]], gain_table(metrics)[["difference", "p, Holm"]]
    table = missed[missed["keep 0.25"] != ""].join(gains).fillna("")
    table = table.sort_values("keep 0.25", key=lambda cells: cells.str.partition(" ")[0].astype(float), kind="stable")
    return table.set_axis(["small lesions missed", "minus C−'s", "p, Holm"], axis=1)


def gain_table(metrics: dict[str, dict], ours: str = "recommended", place: str = "keep0.25") -> pd.DataFrame:
    """Lay out the paired gain of ``ours`` in miss rate over each method, with Holm's p; positive favours ``ours``."""
    rows = []
    for key, name in METHOD_NAMES.items():
        entry = metrics.get(f"miss_gain.{ours}_minus_{key}.{place}")
        if entry and entry["value"] is not None:
            row = {"against": name, "difference": cell(entry, "+.3f"), "small lesions": entry.get("n_lesions", "")}
            rows.append(row | _holm(entry))
    return pd.DataFrame(rows, columns=["against", "difference", "small lesions", "p, Holm"]).set_index("against")


def _holm(entry: dict) -> dict[str, str]:
    p = entry.get("p_holm")
    return {"p, Holm": "" if p is None else f"{p:.4f}"}


def gflops_table(metrics: dict[str, dict]) -> pd.DataFrame:
    """Lay out GFLOP a picture (2 per multiply-add) by keep ratio, and how many times less than the whole model."""
    whole = metrics["gflops.whole.all"]["value"]
    rows = {}
    for kind, words in GFLOPS.items():
        entries = {f"{r:g}": metrics.get(f"gflops.{kind}.{methods.label_of(r)}") for r in RATIOS}
        rows[words] = {f"keep {r}": f"{e['value']:.2f} ({whole / e['value']:.2f} ×)" for r, e in entries.items() if e}
    return pd.DataFrame(rows).T.rename_axis(f"whole model: {whole:.2f} GFLOP")


GFLOPS = {
    "pruning": "pruning after the middle block",
    "pruning_with_search": "the same, with membership A's search",
    "merging": "token merging, with its matching",
}


def dual_table(metrics: dict[str, dict]) -> pd.DataFrame:
    """Lay out μ, its variation over seeds, floor met, tokens kept and drop: a row a schedule and slack."""
    columns = {
        "mu": ("μ", ".3f"),
        "mu_cv": ("CV of μ", ".3f"),
        "constraint_met": ("floor met", ".2f"),
        "tokens_kept": ("tokens kept", ".1f"),
        "drop": ("drop / C*", ".3f"),
    }
    rows = [
        {"schedule": SCHEDULE_NAMES[name], "δ / C*": f"{slack:g}"}
        | {title: cell(metrics[f"{name}.{kind}.slack{slack:g}"], style) for kind, (title, style) in columns.items()}
        for name, slack in product(methods.SCHEDULES, SLACKS)
    ]
    return pd.DataFrame(rows).set_index(["schedule", "δ / C*"])


def pair_table(metrics: dict[str, dict]) -> pd.DataFrame:
    """Lay out what coverage misses and recalls, and A at that k: a row an objective and optimiser."""
    rows = []
    for functional, optimiser in PAIRS:
        title = f"{functional}.{optimiser}"
        met = metrics[f"constraint_met.{title}"]
        rows.append(
            {"objective": OBJECTIVES[functional], "optimiser": OPTIMISERS[optimiser], "pictures": met["n_images"]}
            | {"floor met": cell(met, ".2f"), "tokens": cell(metrics[f"tokens_kept.{title}"], ".1f")}
            | {"missed": cell(metrics[f"miss_small.{title}.coverage"])}
            | {"missed by A": cell(metrics[f"miss_small.{title}.membership"])}
            | {"recall": cell(metrics[f"recall_small.{title}.coverage"])}
            | {"A's recall": cell(metrics[f"recall_small.{title}.membership"])}
        )
    return pd.DataFrame(rows).set_index(["objective", "optimiser"])


def kept_panels(got: LesionPictures, n: int = 4, ratio: float = 0.25) -> list[dict]:
    """Make panels for ``charts.pictures.lesion_maps``, a row a case: each method's kept tokens as a map of 0 and 1.

    Cases are evenly spread over lesion size, not chosen by result.
    """
    n_tokens = got.y.shape[1]
    names = (name for name in ("density", "recommended") if name in got.maps)
    kept = {METHOD_NAMES[name]: kept_tokens(got.maps[name], ratio=ratio) for name in names}
    kept[METHOD_NAMES["coverage_spanning"]] = methods.as_mask(spanning(got.y, budget(n_tokens, ratio)), n_tokens)
    return panels_by_size(got, got.labels, kept, n, np.arange(len(got.cases)))


def certificate_line(got: LesionPictures, index: int = 0) -> str:
    """Write the coverage certificate that the repaired pruner gives one picture."""
    pruned = methods.pruned_by(got.only(np.array([index])), "rankme", "repaired")
    c = certificate(pruned, got.y[[index]], 0)
    shares = ", ".join(f"{share:.2f}" for share in c.directions_retained)
    return (
        f"{got.cases[index].name}: {c.k} of {c.n_tokens} tokens kept ({c.retention:.2f}); coverage {c.covered:.2f} of "
        f"{c.full:.2f}, a drop of {c.drop:.2f} where δ = {c.delta:.2f} is allowed: {'met' if c.met else 'NOT MET'}; "
        f"energy kept along the first directions: {shares}. It says nothing of lesions."
    )


def verdict_lines(report) -> str:
    """Write decision, threshold and checks of a report, a line each."""
    bounds = ", ".join(f"{k} {v}" for k, v in report.thresholds.items() if k not in ("reason", "value", "locked"))
    lines = [f"{report.cohort}, {report.split}: {report.decision} (against {bounds}: {report.thresholds['reason']})"]
    return "\n".join([*lines, *(f"  {name}: {outcome}" for name, outcome in sorted(report.checks.items()))])
