"""Lay out every verdict: a row a question, a column a kind of picture, with the number that decides and its n."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from covtoken.errors import CovtokenError
from covtoken.gates import gate1
from covtoken.names import counted, in_page_order
from covtoken.paper.numbers import as_text, is_signed
from covtoken.protocol.report import GateReport

COHORTS = {  # what each shows; phantom last: it tests the code and says nothing about patients
    "busi": "breast ultrasound",
    "lidc-crops": "lung CT",
    "lits": "liver CT",
    "kits19": "kidney CT",
    "phantom": "drawn",
}
TINY = {  # too few patients for any answer, and no part of a chart across cohorts
    "lidc-idri": "lung CT",
    "msd-task06": "lung CT",
}
FURTHER = {"busi": "busbra-external", "lidc-crops": "lidc-external"}  # more pictures of the kind, opened once
SCORES = {
    "recommended": "Does C−, the recommended score, find lesion tokens, beyond every simple baseline's best?",
    "with_head": "Does C, which joins the model's saliency head, do so?",
    "density": "Does membership A, the score of the published claim, do so?",
}
QUESTIONS = {
    "0": ("Is the ground firm: same tokens twice, disjoint splits, guarded masks?", ""),
    "confirmation": ("Does C− hold its lead over D on further pictures, opened once?", "difference in token AUROC"),
    "5": ("Does C− keep that with a recipe chosen on other pictures?", "token AUROC"),
    "3": (
        "Of a quarter of the tokens, does C− miss fewer small lesions than tuned attention?",
        "difference in the share missed",
    ),
    "6": ("Does a route by C− save more than its rivals, with a certificate that holds?", "times fewer FLOPs, net"),
    "alarm": ("Does a label-free alarm know when C− fails?", "conditions in which it is right"),
    "2": ("Does the coverage of kept tokens (RankMe) follow lesion recall?", "Spearman's ρ"),
    "4": ("Does the coverage floor's dual converge and meet its floor?", "share of pictures that meet it"),
    "negative_result": (
        "Does membership A keep more of small lesions than RankMe does?",
        "difference in recall, the smaller of two",
    ),
}
ROWS = ("1", "confirmation", "5", "3", "6", "alarm", "2", "4", "negative_result", "0")
DECIDE_NOTHING = ("backbones",)  # printed by gate 5's page
PAGES = {"0": "gate0_results", "confirmation": "confirmation", "alarm": "recommended"}
NUMBERS = {
    "2": "spearman.rankme.keep0.25",
    "3": "miss_gain.recommended_minus_attention_best.keep0.25",
    "4": "dual.constraint_met",
    "5": "auroc.recommended.elsewhere",
    "6": "speedup_flops_net",
}
SAID, WAS = ("fired", "silent"), ("failed", "worked")
WEAKER_OF = [f"recall_gain.membership_minus_coverage_{optimiser}" for optimiser in ("greedy", "repaired")]


@dataclass(frozen=True)
class Cell:
    """Hold a verdict, the number behind it as text, and the number of units behind that."""

    verdict: str
    number: str = ""
    n: str = ""
    name: str = ""  # of the metric


@dataclass(frozen=True)
class Row:
    """Hold a question, the gate that asks it, what its numbers are, its page, and a cell a cohort (None: not asked)."""

    gate: str
    question: str
    quantity: str
    page: str
    cells: dict[str, Cell | None]


def verdict_rows(reports: Iterable[GateReport]) -> list[Row]:
    """Write every committed verdict as rows, the questions of the recommended score first.

    Raises:
        CovtokenError: a gate whose question is not written here.
    """
    found = {(str(r.gate), r.cohort): r for r in reports if str(r.gate) not in DECIDE_NOTHING}
    unknown = sorted({gate for gate, _ in found} - {"1", *QUESTIONS})
    if unknown:
        raise CovtokenError(f"gate {unknown[0]}: add its question to covtoken/paper/verdict_grid.py")
    columns, rows = columns_of(cohort for _, cohort in found), []
    for gate in ROWS:
        page = PAGES.get(gate, f"gate{gate}_results" if gate.isdigit() else gate)
        of_gate = {c: found.get((gate, FURTHER.get(c, "") if gate == "confirmation" else c)) for c in columns}
        if gate == "1":
            for score, question in SCORES.items():
                cells = {
                    c: r and _cell(gate1.verdicts(r).get(score, "–"), r, f"auroc.{score}") for c, r in of_gate.items()
                }
                rows.append(Row(gate, question, "token AUROC", page, cells))
        else:
            cells = {c: r and _cell(r.decision, r, _deciding(r)) for c, r in of_gate.items()}
            rows.append(Row(gate, *QUESTIONS[gate], page, cells))
    return rows


def columns_of(cohorts: Iterable[str]) -> list[str]:
    """List the cohorts of the grid: those named here, then any other that is not external, the phantom last."""
    return in_page_order({*cohorts, *COHORTS} - set(FURTHER.values()))


def _deciding(report: GateReport) -> str | None:
    """Name the metric that decides; where two do, the one that comes closer to failing."""
    gate = str(report.gate)
    if gate == "negative_result":
        return min(WEAKER_OF, key=lambda name: (report.metrics[name]["ci95"] or [float("-inf")])[0])
    if gate == "confirmation":
        return report.thresholds["primary"]
    return NUMBERS.get(gate)


def _cell(verdict: str, report: GateReport, name: str | None) -> Cell:
    if str(report.gate) == "alarm":
        counts = {f"{said}_{was}": report.checks[f"{said}_{was}"] for said in SAID for was in WAS}
        return Cell(verdict, f"{counts['fired_failed'] + counts['silent_worked']} of {sum(counts.values())}")
    entry = report.metrics.get(name) if name else None
    if not entry or entry["value"] is None:
        return Cell(verdict)
    style = ".2f" if name == "speedup_flops_net" else ".3f"
    return Cell(verdict, as_text(entry, style, signed=is_signed(name)), counted(entry["n_units"], "unit"), name)
