"""Tables written from committed reports, between markers, so that no number is typed by hand."""

from __future__ import annotations

from pathlib import Path

from covtoken.errors import CovtokenError
from covtoken.gates.report import GateReport, committed_reports
from covtoken.paths import project_root, write_then_rename

BEGIN, END = "<!-- numbers:begin (written by `covtoken report`) -->", "<!-- numbers:end -->"
COLUMNS = {
    "auroc.recommended": "recommended (D)",
    "auroc.density": "membership A",
    "auroc.attention_best": "CLS attention",
    "auroc.saliency_head": "saliency head",
    "auroc.head_student": "head's student",
    "auroc.intensity": "brightness",
    "auroc.centre_prior": "centre prior",
    "image_auroc.recommended": "D inside one image",
    "organ_auroc.recommended": "D inside the organ",
    "organ_auroc.density": "A inside the organ",
    "auroc_gain.middle_minus_final": "A, middle − final block",
}


def readme_table(reports: list[GateReport]) -> str:
    """The README's table: one row a cohort; token AUROC with interval, n, decision and the notebook that prints it."""
    head = ["cohort (units, images)", *COLUMNS.values(), "gate 1", "notebook"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for report in (r for r in reports if r.gate == 1):
        n = report.metrics["auroc.density"]
        cells = [f"{report.cohort} ({n['n_units']}, {n['n_images']})"]
        cells += [_cell(report.metrics.get(name)) for name in COLUMNS]
        lines.append(f"| {' | '.join(cells)} | {report.decision} | [gate1](notebooks/gate1.ipynb) |")
    return "\n".join(lines)


def _cell(entry: dict | None) -> str:
    if entry is None or entry["value"] is None:
        return "–"
    low, high = entry["ci95"] or (float("nan"), float("nan"))
    return f"{entry['value']:.3f} [{low:.3f}, {high:.3f}]"


def replace_between(text: str, body: str, where: str, begin: str = BEGIN, end: str = END) -> str:
    """``text`` with what stands between the markers replaced.

    Raises:
        CovtokenError: a marker is missing.
    """
    if begin not in text or end not in text:
        raise CovtokenError(f"{where}: the markers {begin!r} … {end!r} are missing; put them where the table belongs")
    head, rest = text.split(begin, 1)
    return f"{head}{begin}\n{body}\n{end}{rest.split(end, 1)[1]}"


def write_all(root: Path | None = None) -> list[Path]:
    """Rewrite every table; returns the files written."""
    path = (root or project_root()) / "README.md"
    text = replace_between(path.read_text(), readme_table(committed_reports(root)), str(path))
    with write_then_rename(path) as temporary:
        temporary.write_text(text)
    return [path]
