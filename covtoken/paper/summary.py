"""Write ``SUMMARY.md`` and ``NEGATIVE_RESULT.md`` from the committed JSON reports: no number in them is typed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from covtoken.gates.negative_result import OBJECTIVES, OPTIMISERS, PAIRS
from covtoken.names import WAYS
from covtoken.paper.numbers import as_text, gate_name
from covtoken.protocol.report import GateReport

ORDER = ("0", "1", "alarm", "2", "3", "4", "5", "negative_result")
NUMBERS = {
    "1": {
        "auroc.recommended": "token AUROC, recommended",
        "auroc.density": "token AUROC, membership A",
        "auroc_gain.middle_minus_final": "A, middle − final block",
    },
    "2": {
        "spearman.rankme.keep0.25": "ρ of RankMe with recall, keep 0.25",
        "spearman.control.keep0.25": "ρ of membership mass (control)",
        "spearman.attention_mass.keep0.25": "ρ of attention mass",
    },
    "3": {
        "miss_small.recommended.keep0.25": "small lesions missed, recommended, keep 0.25",
        "miss_small.density.keep0.25": "… membership A",
        "miss_small.attention_best.keep0.25": "… tuned attention",
        "miss_small.merging.keep0.25": "… token merging",
        "miss_small.coverage_repaired.keep0.25": "… coverage, repaired dual",
        "miss_gain.recommended_minus_attention_best.keep0.25": "recommended − attention (positive: fewer missed)",
    },
    "4": {
        "dual.constraint_met": "floor met, dual as specified",
        "dual.mu_cv": "CV of μ over seeds, as specified",
        "repaired.constraint_met": "floor met, repaired",
        "repaired.mu_cv": "CV of μ over seeds, repaired",
    },
    "5": {
        "auroc.recommended.refitted": "token AUROC, recommended, own recipe and bank",
        "auroc.recommended.elsewhere": f"… {WAYS['elsewhere']} (decides)",
        "auroc.recommended.carried": f"… {WAYS['carried']}",
        "auroc.recommended.foreign": f"… {WAYS['foreign']} (control)",
        "auroc.density.elsewhere": "token AUROC, membership A, recipe chosen elsewhere",
        "auroc.density.carried": f"… A, {WAYS['carried']}",
    },
    "negative_result": {
        "recall_small.membership": "recall of small lesions, membership A, keep 0.25",
        "recall_small.coverage_greedy": "… RankMe, greedy, keep 0.25",
        "recall_small.coverage_repaired": "… repaired dual, own k",
        "recall_small.coverage_dual": "… dual as specified, own k",
    },
}
WRITTEN = "Written by `covtoken report` from the committed reports."
SMALL_N = "95 % intervals over units in brackets."


def summary(reports: Iterable[GateReport]) -> str:
    """Write the decision of every gate on every cohort, then the headline numbers."""
    by_gate: dict[str, dict[str, GateReport]] = {}
    for report in reports:
        by_gate.setdefault(str(report.gate), {})[report.cohort] = report
    cohorts = sorted({c for of_gate in by_gate.values() for c in of_gate}, key=lambda c: (c != "phantom", c))
    gates = [gate for gate in ORDER if gate in by_gate]
    decisions = [
        [_title(gate, by_gate[gate]), *(by_gate[gate][c].decision if c in by_gate[gate] else "–" for c in cohorts)]
        for gate in gates
    ]
    numbers = []
    for gate in (gate for gate in gates if gate in NUMBERS):
        for name, words in NUMBERS[gate].items():
            entries = [by_gate[gate][c].metrics.get(name) if c in by_gate[gate] else None for c in cohorts]
            numbers.append([f"{gate_name(gate)}: {words}", *map(_cell, entries)])
    return "\n".join(
        [
            "# Every gate, every cohort",
            "",
            f"{WRITTEN} GO and NO-GO answer the gate's question by a rule that was fixed before; NO-VERDICT: too few "
            "units, or no answer possible. NO-GO is a finding like any other; GO of the negative result means that it "
            "holds.",
            "",
            *markdown_lines(["gate", *cohorts], decisions),
            "",
            f"Headline numbers. {SMALL_N}",
            "",
            *markdown_lines(["", *cohorts], numbers),
            "",
        ]
    )


def negative_result(reports: Iterable[GateReport]) -> str:
    """Write a table a cohort, a row an objective and optimiser, and the mechanism in numbers under it."""
    lines = [
        "# The negative result, in numbers",
        "",
        f"{WRITTEN} Each row is one objective under one optimiser; membership A keeps as many tokens of the same "
        f"pictures. Missed: small lesions of which less than half is kept. {SMALL_N}",
        "",
    ]
    for report in (report for report in reports if str(report.gate) == "negative_result"):
        metrics, p = report.metrics, report.parameters
        rows = []
        for functional, optimiser in PAIRS:
            title = f"{functional}.{optimiser}"
            met, kept = metrics[f"constraint_met.{title}"], metrics[f"tokens_kept.{title}"]
            coverage, membership = (metrics[f"miss_small.{title}.{name}"] for name in ("coverage", "membership"))
            words = [OBJECTIVES[functional], OPTIMISERS[optimiser], str(met["n_images"])]
            lesions = str(coverage.get("n_lesions", ""))
            rows.append([*words, _cell(met, ".2f"), _cell(kept, ".1f"), lesions, _cell(coverage), _cell(membership)])
        head = ["objective", "optimiser", "pictures", "floor met", "tokens kept", "small lesions", "missed"]
        curated = f" {p['curated']}." if p.get("curated") else ""
        lines += [
            f"## {report.cohort}: {report.decision}",
            "",
            f"{report.split} split, {p['n_lesion_images']} lesion pictures, small lesions in "
            f"{metrics['recall_small.membership']['n_units']} units, {report.backbone}; floor: a drop of at most "
            f"{p['slack']:g} of C\\*.{curated}",
            "",
            *markdown_lines([*head, "missed by membership A"], rows),
            "",
            mechanism(report),
            "",
        ]
    return "\n".join(lines)


def mechanism(report: GateReport) -> str:
    """Write one paragraph on what the data support: computed numbers, and words that follow from them."""
    m = report.metrics
    gain, gain_repaired = (m[f"recall_gain.membership_minus_coverage_{name}"] for name in ("greedy", "repaired"))
    more = _low(m["likeness.inside_minus_outside"]) > 0
    alike = "repeat each other more than" if more else "do not repeat each other beyond doubt more than"
    so = (
        "coverage pays for few of them"
        if more
        else "to coverage a lesion is a patch like any other, and gets a share of the tokens, not preference"
    )
    lost = (
        "keeps less of small lesions than membership A at the same number of tokens"
        if _low(gain) > 0
        else "does not keep less of small lesions than membership A beyond doubt"
    )
    spectrum = {
        "richer": "richer than that of as many background tokens, so lesions are not of low rank",
        "poorer": "poorer than that of as many background tokens",
        "undecided": "not told apart from that of as many background tokens",
    }[report.checks["lesion_spectrum"]]
    met = {name: _value(m[f"constraint_met.rankme.{name}"], ".0%") for name in ("dual", "repaired")}
    first, half = (
        {name: _value(m[f"rank.{part}.{name}"], ".0%") for name in ("spanning", "membership")}
        for part in ("first", "half")
    )
    recalls = [_cell(m[f"recall_small.{name}"]) for name in ("coverage_greedy", "rankme.greedy.membership")]
    cosines = [_cell(m[f"likeness.{name}"]) for name in ("inside", "outside")]
    tokens = _value(m["tokens_kept.rankme.dual"], ".1f")
    ranks = [_value(m[f"spectrum.{name}"], ".0f") for name in ("lesion", "background")]
    return (
        f"**Mechanism.** Well optimised RankMe {lost}: recall {recalls[0]} against {recalls[1]}, difference "
        f"{_cell(gain, '+.3f')}. The repaired dual, whose floor is met on {met['repaired']} of pictures, differs by "
        f"{_cell(gain_repaired, '+.3f')}; as specified the floor is met on {met['dual']}, with {tokens} tokens kept. "
        f"Tokens of one lesion {alike} those of a patch of the same shape elsewhere in the picture (mean squared "
        f"cosine {cosines[0]} against {cosines[1]}): {so}. A choice that is paid for new directions takes the first "
        f"token of a small lesion at rank {first['spanning']} of the picture's tokens and half of them at "
        f"{half['spanning']}; membership at {first['membership']} and {half['membership']}. The spectrum of pooled "
        f"lesion tokens (RankMe {ranks[0]} against {ranks[1]}) is {spectrum}."
    )


def _low(entry: dict) -> float:
    return entry["ci95"][0] if entry["ci95"] else float("-inf")


def _title(gate: str, reports: dict[str, GateReport]) -> str:
    return gate_name(gate) + (f", {next(iter(reports.values())).title.lower()}" if gate.isdigit() else "")


_cell = partial(as_text, none="–")
_value = partial(_cell, interval=False)


def markdown_lines(head: list[str], rows: list[list[str]]) -> list[str]:
    """Write a Markdown table, a line a row."""
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]
