"""Tables written from committed reports, between markers, so that no number is typed by hand."""

from __future__ import annotations

from pathlib import Path

from covtoken.errors import CovtokenError
from covtoken.gates.lock_gate1 import HEADLINES
from covtoken.gates.report import GateReport, committed_reports
from covtoken.paths import project_root, write_then_rename

BEGIN, END = "<!-- numbers:begin (written by `covtoken report`) -->", "<!-- numbers:end -->"
LABELS = {
    "auroc.density": "token AUROC, membership A, tuned on selection",
    "auroc.attention_best": "token AUROC, best CLS attention, same tuning",
    "auroc.centre_prior": "token AUROC, centre prior",
    "auroc.saliency_head": "token AUROC, the model's own saliency head",
    "auroc_gain.middle_minus_final": "token AUROC of A, middle minus better final block",
    "image_auroc.density": "AUROC inside one image, membership A",
    "aupr.density": "token AUPR, membership A",
}


def readme_table(reports: list[GateReport]) -> str:
    """The README's table: one row a headline number and cohort, with interval, n and the notebook that prints it."""
    lines = [
        "| number | cohort | value [95 % over units] | units, images | decision | notebook |",
        "|---|---|---|---|---|---|",
    ]
    for report in reports:
        for name in HEADLINES:
            entry = report.metrics.get(name)
            if report.gate != 1 or entry is None or entry["value"] is None:
                continue
            low, high = entry["ci95"] or (float("nan"), float("nan"))
            lines.append(
                f"| {LABELS[name]} | {report.cohort} | {entry['value']:.3f} [{low:.3f}, {high:.3f}] "
                f"| {entry['n_units']}, {entry['n_images']} | {report.decision} "
                f"| [gate1](notebooks/gate{report.gate}.ipynb) |"
            )
    return "\n".join(lines)


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
