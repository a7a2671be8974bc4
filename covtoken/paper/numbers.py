"""Read numbers of committed reports by name, and write them as text with interval, split and n."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from covtoken.errors import CovtokenError
from covtoken.gates.negative_result import OBJECTIVES, OPTIMISERS
from covtoken.names import (
    BACKBONE_NAMES,
    COLUMNS,
    METHOD_NAMES,
    TASK_NAMES,
    WAYS,
    cohort_name,
    counted,
    in_page_order,
    route_name,
    split_name,
)

MISSING = "not recorded yet"
READABLE = {
    "auroc": "token AUROC",
    "image_auroc": "AUROC inside one picture",
    "organ_image_auroc": "AUROC inside one picture's organ",
    "aupr": "token AUPR",
    "froc": "lesions found",
    "spearman": "Spearman's ρ with recall",
    "miss_small": "small lesions missed",
    "miss_gain": "difference in small lesions missed",
    "recall_small": "recall of small lesions",
    "recall_gain": "difference in recall of small lesions",
    "constraint_met": "floor met",
    "dual": "dual as specified",
    "repaired": "repaired dual",
    "gflops": "GFLOP a picture",
    "spectrum": "RankMe of pooled tokens",
    "likeness": "mean squared cosine",
    "rank": "rank in the order of choice",
    "retention_all": "lesions retained",
    "retention_small": "small lesions retained",
    "retention_gain": "difference in lesions retained",
    "coverage": "test units that keep every lesion",
    "certified_keep": "share of tokens certified",
    "risk": "lesion tokens lost, mean over units",
    "speedup_flops_net": "times fewer FLOPs, net",
    "speedup_wall_net": "times faster by the clock, net",
    "probe": "probe",
    "probe_gain": "difference of the probe",
}
READABLE |= {f"organ_{name}": f"{READABLE[name]} inside the organ" for name in ("auroc", "aupr", "froc")}
READABLE |= {f"{name}_gain": f"difference in {words}" for name, words in READABLE.items() if name.endswith("auroc")}

# Parts of names that are no method, in words.
TERMS = {
    "whole.all": "the whole pass",
    "pruning_with_search": "pruning, A's search included",
    "pruning": "pruning, no search",
    "mu_cv": "CV of μ over seeds",
    "mu_falls": "share of pictures on which μ falls as the floor loosens",
    "drop": "coverage lost",
    "constraint_met": "floor met",
    "met_before_repair": "floor met before tokens are added",
}

PARTS = METHOD_NAMES | {"membership": "membership A", "middle": "middle block", "final": "final block"}
FORMS = {"rank": "by rank", "threshold": "by threshold"}


def as_text(
    entry: dict | None, style: str = ".3f", *, interval: bool = True, signed: bool = False, none: str = ""
) -> str:
    """Write a metric as ``0.912 [0.897, 0.925]``; the value alone where it has no interval.

    A share of 0 or 1 has the exact bound over units, and says so, in place of an interval without width; so has every
    share that gate 6 counts. Where it counts several lesions of one unit, which an exact bound takes for independent,
    the interval over units stands beside it.

    Args:
        style: format of the three numbers.
        signed: put a plus before positive numbers, as differences need.
        none: text for a metric that is missing or has no value.
    """
    if not entry or entry["value"] is None:
        return none
    bounds = (entry.get("exact95", entry.get("ci95")) if interval else None) or ()
    value, *bounds = (format(number, "+" * signed + style) for number in (entry["value"], *bounds))
    exact = " exact" if "exact95" in entry else ""
    if bounds and exact and entry.get("of", 0) > entry["n_units"] and entry.get("ci95"):
        exact += f"; {', '.join(format(number, style) for number in entry['ci95'])} over units"
    return (f"{value} [{', '.join(bounds)}{exact}]" if bounds else value).replace("-", "−")


def cell(entry: dict | None, style: str = ".3f") -> str:
    """Write a metric for a narrow column: a line can break before the bracket, not inside it."""
    return as_text(entry, style).replace(", ", ",\u00a0")


def read_content(root: Path, place: str) -> dict[str, Any]:
    """Read ``gate_reports/<place>.json`` of the checkout ``root``.

    Raises:
        CovtokenError: there is no such report.
    """
    path = root / "gate_reports" / f"{place}.json"
    if not path.is_file():
        raise CovtokenError(f"gate_reports/{place}.json: {MISSING}")
    return json.loads(path.read_text())


def read_metric(root: Path, where: str) -> dict[str, Any]:
    """Read one metric of a committed report.

    Args:
        root: the checkout.
        where: ``"<cohort>/gate<N> <metric>"``.

    Raises:
        CovtokenError: there is no such report, no such metric, or no value in it.
    """
    place, _, name = where.strip().partition(" ")
    entry = read_content(root, place)["metrics"].get(name.strip())
    if not entry or entry["value"] is None:
        raise CovtokenError(f"{where}: {MISSING}")
    return entry


def is_signed(name: str) -> bool:
    """Tell whether a metric is a difference, by its name."""
    return "_gain." in name or "_minus_" in name


def about(cohort: str, report: dict[str, Any], entries: Iterable[dict[str, Any]]) -> list[str]:
    """Write what the note under a table says of a cohort: split, curation and decision, backbone if not the embedded
    one; n of its numbers."""
    counts = dict.fromkeys(
        f"{counted(entry['n_units'], 'unit')}, {counted(entry['n_images'], 'picture')}" for entry in entries
    )
    curated = f"; {report['parameters']['curated']}" if report["parameters"].get("curated") else ""
    n = " or ".join(counts) or "no number"
    name, parts = cohort_name(cohort), report["backbone"].split(", ")
    backbone = "" if parts == ["embedded"] else f", {' and '.join(BACKBONE_NAMES.get(part, part) for part in parts)}"
    return [f"{name}: {split_name(report['split'])}{backbone}{curated}; {report['decision']}.", f"n of {name}: {n}."]


def readable(name: str) -> str:
    """Write a metric's name in words: ``aupr.density.keep0.5`` → token AUPR, membership A, keep 0.5."""
    for key, words in BACKBONE_NAMES.items():
        if name.endswith(f".{key}"):
            return f"{readable(name.removesuffix(f'.{key}'))}, {words}"
    kind, _, rest = name.partition(".")
    if kind == "froc" and "_gain." in rest:  # froc.fp1_gain.…: a difference, at a rate of false alarms
        rate, _, rest = rest.partition("_gain.")
        kind, rest = f"difference in {READABLE[kind]} at {counted(int(rate[2:]), 'false alarm')} a picture", rest
    if kind in ("froc", "organ_froc") and (rate := re.match(r"fp(\d+)\.(.*)", rest)):
        kind, rest = f"{READABLE[kind]} at {counted(int(rate[1]), 'false alarm')} a picture", rate[2]
    if kind in ("probe", "probe_gain"):
        task, _, routes = rest.partition(".")
        named = " − ".join(map(route_name, routes.split("_minus_")))
        return f"{READABLE[kind]}, {TASK_NAMES.get(task, task.replace('_', ' '))}: {named}"
    if kind in ("coverage", "certified_keep", "risk"):
        form, _, level = rest.partition(".alpha")
        level, score = re.fullmatch(r"([\d.]*\d)(?:\.(\D.*))?", level).groups()
        words = f"{READABLE[kind]}, {FORMS.get(form, form.replace('_', ' '))}, α {level}"
        return f"{words}, {METHOD_NAMES.get(score, score)}" if score else words
    if kind.startswith(("speedup_", "retention_")) and "_minus_" not in rest:
        place = re.sub(r"^batch(\d+)$", r"\1 pictures at once", rest)
        return f"{READABLE[kind]}, {route_name(place)}" if rest else READABLE[kind]
    if kind in ("gflops", "dual", "repaired"):
        term = next((name for name in TERMS if rest == name or rest.startswith(f"{name}.")), "")
        rest = TERMS.get(term, "") + rest[len(term) :]
    if pair := re.fullmatch(r"(\w+)\.(\w+?)(?:\.(coverage|membership))?", rest):
        objective, optimiser, score = pair.groups()
        if objective in OBJECTIVES and optimiser in OPTIMISERS:
            same = "membership A, as many tokens as " if score == "membership" else ""
            return (
                f"{READABLE.get(kind, kind.replace('_', ' '))}, {same}{OBJECTIVES[objective]}, {OPTIMISERS[optimiser]}"
            )
    methods, dot, after = rest.partition(".")
    named = " − ".join(PARTS.get(name, name.replace("_", " ")) for name in methods.split("_minus_"))
    words = named + dot + after.replace("_", " ").replace(" minus ", " − ")
    words = words.replace(".keep", ", keep ").replace(".slack", ", slack ")
    for way, title in (COLUMNS | WAYS).items():
        words = words.replace(f".{way}", f": {title}").replace(f"− {way}", f"− {title}")
    return f"{READABLE.get(kind, kind.replace('_', ' '))}, {words}" if rest else READABLE.get(kind, kind)


def stem_of(gate: str) -> str:
    """Give the file name of a gate's reports without its ending: ``gate1``, or ``negative_result``."""
    return f"gate{gate}" if gate.isdigit() else gate


def gate_name(gate: str) -> str:
    """Write a gate's name in words: ``gate 1``, or ``negative result``."""
    return f"gate {gate}" if gate.isdigit() else gate.replace("_", " ")


def cohorts_of(root: Path, gate: str) -> list[str]:
    """List the cohorts with a committed report of a gate, in the order of pages."""
    cohorts = (path.parent.name for path in root.glob(f"gate_reports/*/{stem_of(gate)}.json"))
    return in_page_order(c for c in cohorts if not c.startswith("_"))
