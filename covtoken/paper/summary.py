"""Write ``SUMMARY.md`` and ``NEGATIVE_RESULT.md`` from the committed JSON reports: no number in them is typed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from covtoken.gates import gate1
from covtoken.gates.negative_result import OBJECTIVES, OPTIMISERS, PAIRS
from covtoken.names import LABELS, WAYS, cohort_name, in_page_order, split_name
from covtoken.paper.confirmation_rows import confirmation_lines
from covtoken.paper.history_table import HEAD, history_rows
from covtoken.paper.numbers import as_text, gate_name
from covtoken.protocol.history import Change
from covtoken.protocol.plan import BASELINES, RIVALS
from covtoken.protocol.report import GateReport

ORDER = ("0", "1", "alarm", "2", "3", "4", "5", "6", "negative_result")
BEST_RIVAL, SIGNS = "best baseline", "sign test"  # no metrics: worked out of several
GAIN = "miss_gain.recommended_minus_attention_best.keep0.25"
NUMBERS = {
    "1": {
        **{f"auroc.{name}": f"token AUROC, {LABELS[name]}" for name in ("recommended", "with_head", "direction")},
        "auroc.density": "… membership A",
        BEST_RIVAL: "… best baseline or rival, by name",
        **{f"auroc_gain.recommended_minus_{name}": f"C− minus {LABELS[name]}" for name in (*RIVALS, "direction")},
        "image_auroc.recommended": "AUROC inside one picture, C−",
        "image_auroc_gain.recommended_minus_direction": "… C− minus D",
        "aupr.recommended": "AUPR, C−",
        "froc.fp1.recommended": "lesions found at one false alarm a picture, C−",
        "auroc_gain.middle_minus_final": "A, middle − final block",
    },
    "2": {
        "spearman.rankme.keep0.25": "ρ of RankMe with recall, keep 0.25",
        "spearman.control.keep0.25": "ρ of membership mass (control)",
        "spearman.attention_mass.keep0.25": "ρ of attention mass",
    },
    "3": {
        "miss_small.recommended.keep0.25": "small lesions missed, C−, keep 0.25",
        "miss_small.density.keep0.25": "… membership A",
        "miss_small.attention_best.keep0.25": "… tuned attention",
        "miss_small.merging.keep0.25": "… token merging",
        "miss_small.coverage_repaired.keep0.25": "… coverage, repaired dual",
        GAIN: "attention minus C− (positive: C− misses fewer)",
        SIGNS: "… units won : lost, exact p of the sign test",
    },
    "4": {
        "dual.constraint_met": "floor met, dual as specified",
        "dual.mu_cv": "CV of μ over seeds, as specified",
        "repaired.met_before_repair": "floor met, repaired, before tokens are added until it is",
        "repaired.mu_cv": "CV of μ over seeds, repaired",
    },
    "5": {
        "auroc.recommended.refitted": "token AUROC, C−, own recipe and bank",
        "auroc.recommended.elsewhere": f"… {WAYS['elsewhere']} (decides)",
        "auroc.recommended.carried": f"… {WAYS['carried']}",
        "auroc.recommended.foreign": f"… {WAYS['foreign']} (control)",
        "auroc.density.elsewhere": "token AUROC, membership A, recipe chosen elsewhere",
        "auroc.density.carried": f"… A, {WAYS['carried']}",
    },
    "6": {
        "retention_all": "lesions retained by the chosen route",
        "retention_small": "… small lesions",
        "retention_all.published": "… all, at the published setting",
        "speedup_flops_net": "times fewer FLOPs, net",
        "speedup_flops_net.published": "… at the published setting",
        "coverage.rank.alpha0.1": "units that keep every lesion, certified at α = 0.1",
        "certified_keep.rank.alpha0.1": "share of tokens that this certifies",
        "probe.segmentation_ap.chosen": "lesion tokens from routed features, average precision",
        "probe_gain.segmentation_ap.chosen_minus_full": "… minus the full pass",
        "probe_gain.malignancy.chosen_minus_full": "malignant or benign, AUROC, minus the full pass",
    },
    "negative_result": {
        "recall_small.membership": "recall of small lesions, membership A, keep 0.25",
        "recall_small.coverage_greedy": "… RankMe, greedy, keep 0.25",
        "recall_small.coverage_repaired": "… repaired dual, own k, mean over seeds",
        "recall_small.membership_at_coverage_repaired": "… membership A at that k",
        "recall_small.coverage_dual": "… dual as specified, own k",
        "recall_small.rankme.dual.membership": "… membership A at that k",
    },
}
DECIDING_N = ("units, repaired dual", "units, greedy")
ALIKE = {
    "more": ("repeat each other more than", "coverage pays for few of them"),
    "undecided": ("do not repeat each other beyond doubt more or less than", "no difference is shown"),
    "less": ("repeat each other less than", "redundancy cannot be why coverage loses lesions here"),
}
WRITTEN = "Written by `covtoken report` from the committed reports."
SMALL_N = "95 % intervals over units in brackets; *exact*: by Clopper and Pearson over units, where a share is 0 or 1."
COUNTED = (
    "Gate 6 counts lesions and units, so its bounds are exact throughout; where a unit holds several lesions, the "
    "interval over units stands beside."
)


def summary(reports: Iterable[GateReport], history: Iterable[Change]) -> str:
    """Write the decision of every gate on every cohort, what was changed after a look, then the headline numbers."""
    reports, by_gate = list(reports), {}
    confirmed = confirmation_lines(reports)
    for report in (report for report in reports if str(report.gate) != "confirmation"):
        by_gate.setdefault(str(report.gate), {})[report.cohort] = report
    cohorts = in_page_order({c for of_gate in by_gate.values() for c in of_gate})
    gates = [gate for gate in ORDER if gate in by_gate]
    decisions, numbers = [], []
    for gate in gates:
        of_gate, title = by_gate[gate], _title(gate, by_gate[gate])
        if gate == "1":
            verdicts = {c: gate1.verdicts(report) for c, report in of_gate.items()}
            for score in gate1.OURS:
                cells = (verdicts[c].get(score, "–") if c in verdicts else "–" for c in cohorts)
                decisions.append([f"{title}: {LABELS[score]}", *cells])
        else:
            decisions.append([title, *(of_gate[c].decision if c in of_gate else "–" for c in cohorts)])
    for gate in (gate for gate in gates if gate in NUMBERS):
        for name, words in NUMBERS[gate].items():
            cells = [_number(by_gate[gate][c], name) if c in by_gate[gate] else "–" for c in cohorts]
            numbers.append([f"{gate_name(gate)}: {words}", *cells])
    return "\n".join(
        [
            "# Every gate, every cohort",
            "",
            f"{WRITTEN} GO and NO-GO answer the gate's question; NO-VERDICT: too few units, or no answer possible. "
            "NO-GO is a finding like any other; GO of the negative result means that it holds. Gate 1's decision is "
            "C−'s; the published claim is about membership A, and C reads the saliency head: their verdicts "
            "stand under it.",
            "",
            *markdown_lines(["gate", *map(cohort_name, cohorts)], decisions),
            "",
            *([*confirmed, ""] if confirmed else []),
            "Each evaluation ran under a lock that was made before it. But rules, recipes and functionals were changed "
            "between evaluations, when test numbers of earlier ones were known:",
            "",
            *markdown_lines(HEAD, history_rows(history)),
            "",
            f"Headline numbers. {SMALL_N}" + (f" {COUNTED}" if "6" in by_gate else ""),
            "",
            *markdown_lines(["", *map(cohort_name, cohorts)], numbers),
            "",
        ]
    )


def best_rival(report: GateReport) -> tuple[str, dict]:
    """Find gate 1's best baseline or rival by token AUROC on the evaluated split: its name in words, and its metric."""
    entries = {name: report.metrics.get(f"auroc.{name}") for name in (*BASELINES, *RIVALS)}
    known = {name: entry for name, entry in entries.items() if entry and entry["value"] is not None}
    best = max(known, key=lambda name: known[name]["value"])
    return LABELS[best], known[best]


def _number(report: GateReport, name: str) -> str:
    if name == BEST_RIVAL:
        label, entry = best_rival(report)
        return f"{_cell(entry)}, {label}"
    if name == SIGNS:
        entry = report.metrics[GAIN]
        return f"{entry['units_won']} : {entry['units_lost']}, p = {entry['p_exact']:.3f}"
    return _cell(report.metrics.get(name))


def negative_result(reports: Iterable[GateReport]) -> str:
    """Write a table a cohort, a row an objective and optimiser, and the mechanism in numbers under it."""
    by_name = {report.cohort: report for report in reports if str(report.gate) == "negative_result"}
    reports = [by_name[name] for name in in_page_order(by_name)]
    lines = [
        "# The negative result, in numbers",
        "",
        *("<!-- holds:begin -->", "", *what_holds(reports), "", "<!-- holds:end -->", ""),
        f"{WRITTEN} Each row is one objective under one optimiser; membership A keeps as many tokens of the same "
        f"pictures. Missed: small lesions of which less than half is kept. {SMALL_N}",
        "",
    ]
    lines += [
        *markdown_lines(
            ["cohort", "decision", *DECIDING_N, "tokens of a lesion repeat each other"],
            [
                [
                    cohort_name(report.cohort),
                    f"**{report.decision}**",
                    *map(str, _deciding_n(report)),
                    _repeats(report),
                ]
                for report in reports
            ],
        ),
        "",
    ]
    for report in reports:
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
        curated = f" {_sentence(p['curated'])}." if p.get("curated") else ""
        lines += [
            f"## {cohort_name(report.cohort)}: {report.decision}",
            "",
            f"{_sentence(split_name(report.split))}, {p['n_lesion_images']} lesion pictures, small lesions in "
            f"{metrics['recall_small.membership']['n_units']} units; floor: a drop of at most "
            f"{p['slack']:g} of what all tokens cover.{curated}",
            "",
            *markdown_lines([*head, "missed by membership A"], rows),
            "",
            mechanism(report),
            "",
            counter_findings(report),
            "",
        ]
    return "\n".join(lines)


def what_holds(reports: list[GateReport]) -> list[str]:
    """Write on which cohorts RankMe loses to membership A, by which optimiser, and that the reason is open."""
    lost: dict[str, list[str]] = {"both": [], "greedy": [], "repaired": [], "neither": []}
    alike: dict[str, list[str]] = {"more": [], "less": [], "undecided": []}
    counts = []
    for report in reports:
        m = report.metrics
        gains = {name: m[f"recall_gain.membership_minus_coverage_{name}"] for name in ("greedy", "repaired")}
        beyond = [name for name, gain in gains.items() if _low(gain) > 0]
        n = min(gain["n_units"] for gain in gains.values())
        few = ", too few for a verdict" if report.decision == "NO-VERDICT" else ""
        lost["both" if len(beyond) == 2 else (beyond or ["neither"])[0]].append(
            f"{cohort_name(report.cohort)} ({n} units{few})"
        )
        alike[_sign(m["likeness.inside_minus_outside"])].append(
            f"{cohort_name(report.cohort)} ({m['likeness.inside']['n_small']})"
        )
        pair = [m[f"miss_small.coding_rate.greedy.{name}"] for name in ("coverage", "membership")]
        n_lesions = pair[0]["n_lesions"]
        missed = ("–" if entry["value"] is None else str(round(entry["value"] * n_lesions)) for entry in pair)
        counts.append(f"{cohort_name(report.cohort)} {' against '.join(missed)} of {pair[0]['n_lesions']}")
    told = {
        "both": "under both optimisers (the greedy choice and the repaired dual) on",
        "greedy": "under the greedy choice alone on",
        "repaired": "under the repaired dual alone on",
        "neither": "under neither on",
    }
    parts = [f"{words} {', '.join(lost[kind])}" for kind, words in told.items() if lost[kind]]
    repeated = [
        f"{words} on {', '.join(alike[kind])}"
        for kind, words in {"more": "more", "less": "less", "undecided": "neither beyond doubt"}.items()
        if alike[kind]
    ]
    same = sum(map(bool, alike.values())) == 1
    return [
        "**What holds where.** RankMe keeps less of small lesions than membership A, beyond doubt, "
        f"{'; '.join(parts)}. This is about RankMe alone. The coding rate, chosen greedily, misses of the small "
        f"lesions, with what A misses behind it: {'; '.join(counts)}.",
        "",
        "**Why is open.** Do tokens of a lesion repeat each other more than those of a moved patch of its shape, so "
        f"that coverage pays for few of them? {_sentence('; '.join(repeated))} (in brackets: small lesions among "
        f"those compared). {'It is the same' if same else 'No mechanism tried here holds'} on every cohort.",
    ]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def mechanism(report: GateReport) -> str:
    """Write one paragraph on what the data support: computed numbers, and words that follow from them."""
    m = report.metrics
    gain, gain_repaired = (m[f"recall_gain.membership_minus_coverage_{name}"] for name in ("greedy", "repaired"))
    alike, so = ALIKE[_sign(m["likeness.inside_minus_outside"])]
    compared = m["likeness.inside"]
    if not compared["n_small"]:
        so = "none of them is small, so this says nothing of small lesions"
    lost = (
        "keeps less of small lesions than membership A at the same number of tokens"
        if _low(gain) > 0
        else "does not keep less of small lesions than membership A beyond doubt"
    )
    spectrum = {
        "richer": "richer than that of as many background tokens from all over the pictures",
        "poorer": "poorer than that of as many background tokens from all over the pictures",
        "undecided": "not told apart from that of as many background tokens from all over the pictures",
    }[report.checks["lesion_spectrum"]]
    met, before = _value(m["constraint_met.rankme.dual"], ".0%"), m["met_before_repair.rankme.repaired"]
    seeds = m["recall_small.coverage_repaired"]["by_seed"]
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
        f"{_cell(gain, '+.3f')}. The repaired dual met the floor on {_value(before, '.0%')} of pictures before tokens "
        f"were added until it was met on all; it differs by {_cell(gain_repaired, '+.3f')}, and over {len(seeds)} "
        f"seeds its recall lies between {min(seeds):.3f} and {max(seeds):.3f} (the decision uses their mean). "
        f"As specified the floor is met on {met}, "
        f"with {tokens} tokens kept. Tokens of one lesion {alike} those of a patch of the same shape elsewhere in the "
        f"picture ({compared['n_lesions']} lesions of two tokens or more, of which {compared['n_small']} small; mean "
        f"squared cosine {cosines[0]} against {cosines[1]}): {so}. A choice that is paid for new directions takes the "
        f"first token of a small lesion at rank {first['spanning']} of the picture's tokens and half of them at "
        f"{half['spanning']}; membership at {first['membership']} and {half['membership']}. The spectrum of pooled "
        f"lesion tokens (RankMe {ranks[0]} against {ranks[1]}) is {spectrum}."
    )


def _deciding_n(report: GateReport) -> tuple[int, int]:
    """Count units with small lesions behind the two comparisons that decide: the repaired dual, and greedy coverage."""
    gains = (report.metrics[f"recall_gain.membership_minus_coverage_{name}"] for name in ("repaired", "greedy"))
    return tuple(gain["n_units"] for gain in gains)


def _repeats(report: GateReport) -> str:
    """Say in a cell whether tokens of a lesion repeat each other, and of how many lesions that is known."""
    compared = report.metrics["likeness.inside"]
    word = _sign(report.metrics["likeness.inside_minus_outside"])
    return f"{word} ({compared['n_lesions']} lesions, {compared['n_small']} small, {compared['n_units']} units)"


def counter_findings(report: GateReport) -> str:
    """Write where coverage loses fewer small lesions than membership A at the same budget, with counts."""
    found = []
    for functional, optimiser in PAIRS:
        title = f"{functional}.{optimiser}"
        coverage, membership = (report.metrics[f"miss_small.{title}.{name}"] for name in ("coverage", "membership"))
        if coverage["value"] is not None and coverage["value"] < membership["value"]:
            n = coverage["n_lesions"]
            counts = (f"{round(entry['value'] * n)}" for entry in (coverage, membership))
            words = f"{OBJECTIVES[functional]}, {OPTIMISERS[optimiser]}"
            found.append(f"{words}: {' against '.join(counts)} of {n}")
    if not found:
        return "**Where coverage loses fewer.** In no row; counts that differ by a lesion or two tell nothing apart."
    return f"**Where coverage loses fewer** small lesions than membership A at the same budget: {'; '.join(found)}."


def _sign(entry: dict) -> str:
    """Say whether a difference lies beyond zero with its interval: ``more``, ``less`` or ``undecided``."""
    low, high = entry["ci95"] or (float("-inf"), float("inf"))
    return "more" if low > 0 else "less" if high < 0 else "undecided"


def _low(entry: dict) -> float:
    return entry["ci95"][0] if entry["ci95"] else float("-inf")


def _title(gate: str, reports: dict[str, GateReport]) -> str:
    return gate_name(gate) + (f", {next(iter(reports.values())).title.lower()}" if gate.isdigit() else "")


_cell = partial(as_text, none="–")
_value = partial(_cell, interval=False)


def markdown_lines(head: list[str], rows: list[list[str]]) -> list[str]:
    """Write a Markdown table, a line a row."""
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]
