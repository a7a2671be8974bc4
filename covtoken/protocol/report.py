"""The gate report: one JSON schema for every gate, with its decision and the provenance of its numbers."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import covtoken
from covtoken.errors import CovtokenError
from covtoken.paths import PACKAGE, project_root, write_then_rename

SCHEMA = "covtoken-gate-report/1"
NOT_GATES = (
    "ablation",
    "ablations",
    "banks",
    "clock",
    "controls",
    "in_organ",
    "volumes",
)  # committed beside the reports, in a form of their own
DECISIONS = ("GO", "NO-GO", "NO-VERDICT")


_DICTS = ("parameters", "thresholds", "metrics", "checks", "chart_data", "provenance")


@dataclass(frozen=True)
class GateReport:
    """Results of a gate on a split of a cohort.

    Attributes:
        metrics: name → ``{value, ci95: [lo, hi] | None, n_units, n_images, n_tokens}``; see ``metric``.
        checks: name → what was tested, a bool or a short word such as ``"wins"``.
        decision: GO, NO-GO or NO-VERDICT.
        human_signoff: null until ``covtoken signoff`` writes name, date and a remark.
        chart_data: rows for the figures, small enough to commit.
        provenance: see ``provenance``.
    """

    gate: int | str
    title: str
    question: str
    cohort: str
    split: str
    backbone: str
    parameters: dict[str, Any]
    thresholds: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    checks: dict[str, Any]
    decision: str
    chart_data: dict[str, Any]
    provenance: dict[str, Any]
    human_signoff: dict[str, str] | None = None
    schema: str = SCHEMA

    def __post_init__(self) -> None:
        if self.decision not in DECISIONS:
            raise CovtokenError(f"decision {self.decision!r}: expected one of {', '.join(DECISIONS)}")

    def signed(self, name: str, when: str, remark: str = "") -> GateReport:
        """Copy the report, with a person's sign-off."""
        return replace(self, human_signoff={"name": name, "when": when, "remark": remark})


@dataclass(frozen=True)
class GateRun:
    """A gate's report, the records that give its headline numbers, and the scored pictures for a notebook to draw."""

    report: GateReport
    records: Any = None
    pictures: Any = None


def check_defect(defect: str | None, known: Iterable[str]) -> None:
    """Refuse a planted defect that a gate does not know."""
    if defect is not None and defect not in known:
        raise CovtokenError(f"unknown defect {defect!r}: expected one of {', '.join(known)}")


def metric(value: float, ci95: tuple[float, float] | None, n_units: int, n_images: int, n_tokens: int) -> dict:
    """Make an entry of ``metrics``; NaN becomes null, so that the file stays standard JSON."""
    finite = None if value is None or not math.isfinite(value) else float(value)
    bounds = None if ci95 is None or not all(map(math.isfinite, ci95)) else [float(ci95[0]), float(ci95[1])]
    return {"value": finite, "ci95": bounds, "n_units": n_units, "n_images": n_images, "n_tokens": n_tokens}


def with_interval(entry: dict[str, Any]) -> dict[str, float | None]:
    """Turn an entry of ``metrics`` into the numbers of a chart row: {value, lo, hi}, None without an interval."""
    low, high = entry["ci95"] or (None, None)
    return {"value": entry["value"], "lo": low, "hi": high}


def report_path(cohort: str, gate: int | str, *, recorded: bool, root: Path | None = None) -> Path:
    """Give the path ``gate_reports/<cohort>/gateN.json``, under the ignored folder ``_run`` unless recorded."""
    base = (root or project_root()) / "gate_reports"
    for part in (cohort, str(gate)):
        if "/" in part or os.sep in part or part.startswith(".") or not part:
            raise CovtokenError(f"{part!r} is no name of a gate or a cohort, so there is no report of it")
    stem = f"gate{gate}" if isinstance(gate, int) or str(gate).isdigit() else str(gate)
    return (base if recorded else base / "_run") / cohort / f"{stem}.json"


def write_report(report: GateReport, path: Path) -> Path:
    """Write a report as JSON, whole or not at all; return its path."""
    with write_then_rename(path) as temporary:
        temporary.write_text(json.dumps(asdict(report), indent=1, sort_keys=True, allow_nan=False) + "\n")
    return path


def read_report(path: Path) -> GateReport:
    """Read a report.

    Raises:
        CovtokenError: the file is missing, no JSON, of another schema, or lacks or adds a key.
    """
    if not path.exists():
        raise CovtokenError(f"no report at {path}: write it with `covtoken gate N --cohort NAME`")
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise CovtokenError(f"{path}: not readable as JSON ({error}); run the gate again") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise CovtokenError(f"{path}: schema {schema!r}, expected {SCHEMA!r}; run the gate again")
    try:
        report = GateReport(**content)
    except TypeError as error:
        raise CovtokenError(f"{path}: keys do not fit the schema ({error}); run the gate again") from error
    except CovtokenError as error:
        raise CovtokenError(f"{path}: {error}; restore it or run the gate again") from error
    wrong = [name for name in _DICTS if not isinstance(getattr(report, name), dict)]
    wrong = wrong or [f"metrics, {name}" for name, entry in report.metrics.items() if not _is_entry(entry)]
    if wrong:
        raise CovtokenError(f"{path}: {wrong[0]} is not what the schema says; restore it or run the gate again")
    return report


def _is_entry(entry: Any) -> bool:
    """Tell whether an entry of metrics has the types that ``metric`` gives."""
    if not isinstance(entry, dict) or not {"value", "ci95", "n_units", "n_images"} <= entry.keys():
        return False
    bounds = entry["ci95"]
    numbers = [entry["value"], *(bounds if isinstance(bounds, list) else ())]
    right = bounds is None or (isinstance(bounds, list) and len(bounds) == 2)
    return right and all(x is None or (isinstance(x, int | float) and not isinstance(x, bool)) for x in numbers)


def committed_reports(root: Path | None = None) -> list[GateReport]:
    """Read every committed report, sorted by gate, then by cohort with the phantom first."""
    paths = ((root or project_root()) / "gate_reports").glob("*/*.json")
    reports = [read_report(p) for p in paths if not p.parent.name.startswith("_") and p.stem not in NOT_GATES]
    return sorted(reports, key=lambda r: (str(r.gate), r.cohort != "phantom", r.cohort))


def source_digest() -> str:
    """Compute the sha256 over the package's source files: recorded in every report, binding in none."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def provenance(*, data_fingerprint: str, weights_sha256: str, seed: int, wall_seconds: float, threads: int) -> dict:
    """Make the provenance block of a report."""
    return {
        "package_version": covtoken.__version__,
        "source_digest": source_digest(),
        "data_fingerprint": data_fingerprint,
        "weights_sha256": weights_sha256,
        "seed": seed,
        "wall_seconds": round(wall_seconds, 1),
        "threads": threads,
    }
