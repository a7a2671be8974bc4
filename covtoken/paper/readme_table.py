"""Tables written from committed reports, between markers, so that no number is typed by hand."""

from __future__ import annotations

from pathlib import Path

from covtoken.errors import CovtokenError
from covtoken.paper import summary
from covtoken.paths import project_root, write_then_rename
from covtoken.protocol.report import GateReport, committed_reports

BEGIN, END = "<!-- numbers:begin (written by `covtoken report`) -->", "<!-- numbers:end -->"
ROWS = {
    "auroc.recommended": "recommended score, D",
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

ELSEWHERE = "auroc.recommended.elsewhere"


def readme_table(reports: list[GateReport]) -> str:
    """The README's table: a row a score, a column a cohort; token AUROC with interval, then decision and notebook."""
    transferred = {report.cohort: report for report in reports if str(report.gate) == "5"}
    reports = [report for report in reports if report.gate == 1]
    n = [report.metrics["auroc.density"] for report in reports]
    heads = [f"{r.cohort} ({e['n_units']} units, {e['n_images']} images)" for r, e in zip(reports, n, strict=True)]
    rows = [
        [label, *(_cell(report.metrics.get(name), e["n_units"]) for report, e in zip(reports, n, strict=True))]
        for name, label in ROWS.items()
    ]
    chosen = ("yes" if report.parameters.get("curated") else "no" for report in reports)
    rows.append(["pictures chosen by lesion upstream", *chosen])
    rows.append(["gate 1 says", *(report.decision for report in reports)])
    fifth = [transferred.get(report.cohort) for report in reports]
    elsewhere = (_cell(r.metrics[ELSEWHERE] if r else None, e["n_units"]) for r, e in zip(fifth, n, strict=True))
    rows.append(["D under a recipe chosen elsewhere ([gate 5](notebooks/gate5.ipynb))", *elsewhere])
    rows.append(["gate 5 says", *(r.decision if r else "–" for r in fifth)])
    rows.append(["printed by", *("[gate1](notebooks/gate1.ipynb)" for _ in reports)])
    lines = [["", *heads], ["---"] * (len(heads) + 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(entry: dict | None, n_units: int) -> str:
    """Value and interval; how many units stand behind it where they are not the column's."""
    if entry is None or entry["value"] is None:
        return "–"
    low, high = entry["ci95"] or (float("nan"), float("nan"))
    fewer = "" if entry["n_units"] == n_units else f" ({entry['n_units']} units)"
    return f"{entry['value']:.3f} [{low:.3f}, {high:.3f}]{fewer}"


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
    root = root or project_root()
    reports, readme = committed_reports(root), root / "README.md"
    texts = {
        readme: replace_between(readme.read_text(), readme_table(reports), str(readme)),
        root / "gate_reports" / "SUMMARY.md": summary.summary(reports),
        root / "gate_reports" / "NEGATIVE_RESULT.md": summary.negative_result(reports),
    }
    for path, text in texts.items():
        with write_then_rename(path) as temporary:
            temporary.write_text(text)
    return list(texts)
