"""Numbers of committed reports in words: read by name, with interval, split and n."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from covtoken.errors import CovtokenError
from covtoken.names import WAYS

MISSING = "not recorded yet"
READABLE = {
    "auroc": "token AUROC",
    "image_auroc": "AUROC inside one image",
    "organ_auroc": "token AUROC inside the organ",
    "organ_aupr": "token AUPR inside the organ",
    "organ_image_auroc": "AUROC inside one image's organ",
    "organ_auroc_gain": "difference in token AUROC inside the organ",
    "organ_image_auroc_gain": "difference in AUROC inside one image's organ",
    "organ_froc": "lesion sensitivity inside the organ",
    "aupr": "token AUPR",
    "auroc_gain": "difference in token AUROC",
    "image_auroc_gain": "difference in AUROC inside one image",
    "froc": "lesion sensitivity",
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
}


def read_metric(root: Path, where: str) -> dict[str, Any]:
    """One metric of a committed report.

    Args:
        root: the checkout. where: ``"<cohort>/gate<N> <metric>"``.

    Raises:
        CovtokenError: no such report, no such metric, or no value in it.
    """
    place, _, name = where.strip().partition(" ")
    entry = read_content(root, place)["metrics"].get(name.strip())
    if not entry or entry["value"] is None:
        raise CovtokenError(f"{where}: {MISSING}")
    return entry


def as_text(entry: dict[str, Any], *, interval: bool = True, signed: bool = False) -> str:
    """``0.912 [0.897, 0.925]``; differences carry their sign."""
    style = "+.3f" if signed else ".3f"
    text = format(entry["value"], style)
    if interval and entry.get("ci95"):
        text += " [" + ", ".join(format(bound, style) for bound in entry["ci95"]) + "]"
    return text.replace("-", "−")


def read_content(root: Path, place: str) -> dict[str, Any]:
    path = root / "gate_reports" / f"{place}.json"
    if not path.is_file():
        raise CovtokenError(f"gate_reports/{place}.json: {MISSING}")
    return json.loads(path.read_text())


def is_signed(name: str) -> bool:
    return "_gain." in name or "_minus_" in name


def about(cohort: str, report: dict[str, Any], entries: Iterable[dict[str, Any]]) -> str:
    """What stands under every table: split, the n of its numbers, backbone, how pictures were curated, the decision."""
    found = dict.fromkeys(f"{entry['n_units']} units, {entry['n_images']} images" for entry in entries)
    curated = f"; {report['parameters']['curated']}" if report["parameters"].get("curated") else ""
    n = " or ".join(found) or "no number"
    return f"{cohort}: {report['split']} split, {n}, {report['backbone']}{curated}; {report['decision']}."


def readable(name: str) -> str:
    """A metric's name in words: ``auroc_gain.density_minus_centre_prior`` → difference in token AUROC, …"""
    kind, _, rest = name.partition(".")
    words = rest.replace("_", " ").replace(" minus ", " − ").replace("density", "membership A")
    words = words.replace(".keep", ", keep ").replace(".slack", ", slack ")
    for way, title in WAYS.items():
        words = words.replace(f".{way}", f": {title}").replace(f"− {way}", f"− {title}")
    return f"{READABLE.get(kind, kind.replace('_', ' '))}, {words}" if rest else READABLE.get(kind, kind)


def stem_of(gate: str) -> str:
    """How a gate's reports are called: ``gate1``, or ``negative_result``."""
    return f"gate{gate}" if gate.isdigit() else gate


def cohorts_of(root: Path, gate: str) -> list[str]:
    found = [path.parent.name for path in root.glob(f"gate_reports/*/{stem_of(gate)}.json")]
    return sorted((c for c in found if not c.startswith("_")), key=lambda cohort: (cohort != "phantom", cohort))


def cell(entry: dict | None, style: str = ".3f", none: str = "", gap: str = " ") -> str:
    """``0.912 [0.897, 0.925]``, or ``none`` where there is no value."""
    if not entry or entry["value"] is None:
        return none
    bounds = f" [{entry['ci95'][0]:{style}},{gap}{entry['ci95'][1]:{style}}]" if entry["ci95"] else ""
    return f"{entry['value']:{style}}{bounds}".replace("-", "−")
