"""Write the tables that show committed reports, between markers, so that no number is typed by hand."""

from __future__ import annotations

from pathlib import Path

from covtoken.errors import CovtokenError
from covtoken.gates import gate1
from covtoken.names import LABELS, cohort_name, counted, in_page_order
from covtoken.paper import summary
from covtoken.paper.confirmation_rows import confirmation_lines, losses
from covtoken.paper.numbers import as_text
from covtoken.paper.tables import economy
from covtoken.paths import project_root, write_then_rename
from covtoken.protocol.history import read_history
from covtoken.protocol.plan import RIVALS
from covtoken.protocol.report import GateReport, committed_reports

BEGIN, END = "<!-- numbers:begin (written by `covtoken report`) -->", "<!-- numbers:end -->"
ROWS = {
    "auroc.recommended": "C−, recommended",
    "auroc.with_head": "C, with the saliency head",
    **{f"auroc.{name}": LABELS[name] for name in ("direction", "density")},
    "auroc.attention_best": "CLS attention",
    **{f"auroc.{name}": LABELS[name] for name in ("saliency_head", "head_student", *RIVALS)},
    **{f"auroc.{name}": LABELS[name] for name in ("intensity", "centre_prior", "patchcore", "musc")},
    **{
        f"image_auroc.{name}": f"inside one picture: {LABELS[name]}"
        for name in ("recommended", "with_head", "direction")
    },
    "aupr.recommended": "AUPR, C−",
    "froc.fp1.recommended": "lesions found at one false alarm a picture, C−",
    "froc.fp1.density": "lesions found at one false alarm a picture, A",
    "organ_auroc.recommended": "C− inside the organ",
    "organ_auroc.density": "A inside the organ",
    "auroc_gain.middle_minus_final": summary.NUMBERS["1"]["auroc_gain.middle_minus_final"],
}
ELSEWHERE = "auroc.recommended.elsewhere"


def readme_table(reports: list[GateReport]) -> str:
    """Write the README's table: a row a score with interval, a column a cohort, then decisions and notebook."""
    every = reports
    transferred = {report.cohort: report for report in reports if str(report.gate) == "5"}
    first = {report.cohort: report for report in reports if report.gate == 1}
    reports = [first[name] for name in in_page_order(first)]
    densities = [report.metrics["auroc.density"] for report in reports]
    units = [entry["n_units"] for entry in densities]
    counts = (f"({counted(entry['n_units'], 'unit')}, {counted(entry['n_images'], 'picture')})" for entry in densities)
    heads = [f"{cohort_name(report.cohort)} {count}" for report, count in zip(reports, counts, strict=True)]
    rows = [
        [label, *(_cell(report.metrics.get(name), n) for report, n in zip(reports, units, strict=True))]
        for name, label in ROWS.items()
    ]
    chosen = ("yes" if report.parameters.get("curated") else "no" for report in reports)
    rows.append(["pictures chosen by lesion upstream", *chosen])
    rivals = (summary.best_rival(report) for report in reports)
    rows.insert(4, ["best baseline or rival, by name", *(f"{as_text(entry)}, {label}" for label, entry in rivals)])
    rows.append(["**loses to**: C−", *(losses(report, "recommended") for report in reports)])
    rows.append(["**loses to**: C", *(losses(report, "with_head") for report in reports)])
    for score, name in {"recommended": "C−", "with_head": "C", "density": "A"}.items():
        rows.append([f"**gate 1 says, of {name}**", *(gate1.verdicts(report).get(score, "–") for report in reports)])
    fifth = [transferred.get(report.cohort) for report in reports]
    elsewhere = (_cell(r.metrics[ELSEWHERE] if r else None, n) for r, n in zip(fifth, units, strict=True))
    rows.append(["C− under a recipe chosen elsewhere ([gate 5](notebooks/gate5.ipynb))", *elsewhere])
    rows.append(["gate 5 says", *(r.decision if r else "–" for r in fifth)])
    sixth = {report.cohort: report for report in every if str(report.gate) == "6"}
    routes = (sixth.get(report.cohort) for report in reports)
    rows.append(["a route by C− ([gate 6](notebooks/gate6.ipynb))", *(route_cell(r) if r else "–" for r in routes)])
    rows.append(["gate 6 says", *(sixth[r.cohort].decision if r.cohort in sixth else "–" for r in reports)])
    rows.append(["printed by", *("[gate1](notebooks/gate1.ipynb)" for _ in reports)])
    return "\n".join(summary.markdown_lines(["", *heads], rows))


def readme_numbers(reports: list[GateReport]) -> str:
    """Write what stands between the README's markers: the table, and the confirmation where it is recorded."""
    return "\n".join([readme_table(reports), "", *confirmation_lines(reports)]).strip()


def route_cell(report: GateReport) -> str:
    """Say what the route of gate 6 keeps, saves and retains, beside the rival whose saving is its threshold."""
    chosen, kept = report.parameters["setting"]["chosen"], report.metrics["retention_all"]
    text = (
        f"{chosen['k']} of {chosen['n_tokens']} tokens after block {chosen['block']}, {chosen['speedup']:.2f} × fewer "
        f"FLOPs: {kept['count']} of {kept['of']} lesions in {kept['n_units']} units stay; {fastest_rival(report)}"
    )
    borrowed = report.parameters["bank"] != report.cohort
    return text + (
        f" (setting and bank of {cohort_name(report.parameters['bank'])}, half of the units)" if borrowed else ""
    )


def fastest_rival(report: GateReport) -> str:
    """Name the fastest rival of gate 6 under the same rule on selection, with its saving."""
    table = economy.setting_table(report.parameters["setting"])
    best = table[table["part"].str.contains("threshold")].iloc[0]
    return f"best rival on selection, {best.name}: {best['net speed-up']}"


def _cell(entry: dict | None, n_units: int) -> str:
    """Write value and interval, and the number of units where it is not the column's."""
    same = not entry or entry["value"] is None or entry["n_units"] == n_units
    return as_text(entry, none="–") + ("" if same else f" ({entry['n_units']} units)")


def replace_between(text: str, body: str, where: str, begin: str = BEGIN, end: str = END) -> str:
    """Replace what stands between two markers in ``text``.

    Raises:
        CovtokenError: a marker is missing.
    """
    if begin not in text or end not in text:
        raise CovtokenError(f"{where}: the markers {begin!r} … {end!r} are missing; put them where the table belongs")
    head, rest = text.split(begin, 1)
    return f"{head}{begin}\n{body}\n{end}{rest.split(end, 1)[1]}"


def write_all(root: Path | None = None) -> list[Path]:
    """Rewrite every table; return the files written."""
    root = root or project_root()
    reports, readme = committed_reports(root), root / "README.md"
    texts = {
        readme: replace_between(readme.read_text(), readme_numbers(reports), str(readme)),
        root / "gate_reports" / "SUMMARY.md": summary.summary(reports, read_history(root)),
        root / "gate_reports" / "NEGATIVE_RESULT.md": summary.negative_result(reports),
    }
    for path, text in texts.items():
        with write_then_rename(path) as temporary:
            temporary.write_text(text)
    return list(texts)
