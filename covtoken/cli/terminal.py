"""Say a gate's report in a terminal, in ten lines or whole, and give the reason of its decision in words."""

from __future__ import annotations

import csv
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from covtoken.gates import gate2, gate3, gate4
from covtoken.gates.economy import certificates
from covtoken.gates.gate1 import FEW_UNITS
from covtoken.gates.transfer.ways import deciding
from covtoken.names import METHOD_NAMES
from covtoken.paper.numbers import as_text, gate_name
from covtoken.paper.readme_table import ROWS
from covtoken.paper.summary import NUMBERS
from covtoken.paper.tables.transfer import transfer_table
from covtoken.paths import write_then_rename
from covtoken.protocol.report import GateReport

BRIEF = (  # of gate 1; the rest with --full
    *(f"auroc.{name}" for name in ("recommended", "with_head", "direction", "density", "attention_best")),
    *(f"auroc.{name}" for name in ("head_student", "attention_fit", "attention_head_fit", "intensity")),
    *("image_auroc.recommended", "auroc_gain.middle_minus_final"),
)


def brief(report: GateReport) -> list[str]:
    """Say a report in about ten lines: the headline numbers, the decision and why."""
    gate = str(report.gate)
    rows = {name: ROWS[name] for name in BRIEF} if gate == "1" else NUMBERS.get(gate, {})
    evaluated = [e for name, e in report.metrics.items() if not name.startswith("certified_keep.")]  # those calibrate
    units, images = (max((e[key] for e in evaluated), default=0) for key in ("n_units", "n_images"))
    entries = ((words.removeprefix("… "), report.metrics.get(name)) for name, words in rows.items())
    shown = [
        (words, as_text(e) + (f" ({e['n_units']} units)" if e["n_units"] < units else ""))
        for words, e in entries
        if e and e["value"] is not None
    ]
    width = max((len(words) for words, _ in shown), default=0)
    head = f"{gate_name(gate)}, {report.cohort}, {report.split}: {units} units, {images} images, {report.backbone}"
    return [head, *(f"  {words:<{width}}  {number}" for words, number in shown), f"{report.decision}: {why(report)}"]


def every_way(report: GateReport) -> list[str]:
    """Lay out every score and baseline in every way of gate 5, pooled AUROC; nothing for another gate."""
    if str(report.gate) != "5":
        return []
    table = transfer_table(report.metrics)
    return table.loc[:, (table != "").any()].to_string().splitlines()


def why(report: GateReport) -> str:
    """Give the reason of a report's decision in words, with the numbers that decided."""
    by_gate = (_why0, _why1, _why2, _why3, _why4, _why5, _why6)
    gate = str(report.gate)
    return (by_gate[int(gate)] if gate.isdigit() else _why_negative)(report)


def full_table(report: GateReport) -> Table:
    """Lay out every metric of a report, a row each; long names are folded, never cut."""
    table = Table(title=escape(f"{gate_name(str(report.gate))}, {report.cohort}, {report.split}: {report.decision}"))
    table.add_column("metric", overflow="fold")
    for column in ("value", "95 % interval", "units", "images"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, entry in sorted(report.metrics.items()):
        if entry["value"] is not None:
            interval = "" if entry["ci95"] is None else f"{entry['ci95'][0]:+.3f} … {entry['ci95'][1]:+.3f}"
            table.add_row(
                escape(name), f"{entry['value']:+.3f}", interval, str(entry["n_units"]), str(entry["n_images"])
            )
    return table


def write_csv(report: GateReport, path: Path) -> Path:
    """Write every metric of a report to a CSV file, a row each: value, interval, units, images and tokens."""
    with write_then_rename(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        out = csv.writer(stream)
        out.writerow(["gate", "cohort", "split", "metric", "value", "low", "high", "n_units", "n_images", "n_tokens"])
        for name, entry in sorted(report.metrics.items()):
            counts = (entry[key] for key in ("n_units", "n_images", "n_tokens"))
            low, high = entry["ci95"] or ("", "")
            value = "" if entry["value"] is None else entry["value"]
            out.writerow([report.gate, report.cohort, report.split, name, value, low, high, *counts])
    return path


def _why0(report: GateReport) -> str:
    failed = sorted(name for name, holds in report.checks.items() if not holds)
    return f"these checks fail: {', '.join(failed)}" if failed else f"all {len(report.checks)} checks hold"


def _why1(report: GateReport) -> str:
    m, checks = report.metrics, report.checks
    threshold = f"{report.thresholds['auroc.recommended']:.3f} ({report.thresholds['reason']})"
    beats, reaches = checks["middle_beats_final"], checks["lower_bound_beats_threshold"]
    parts = {
        f"the middle block {'beats' if beats else 'does not beat'} the final one: "
        f"{as_text(m['auroc_gain.middle_minus_final'], '+.2f')}": beats,
        f"the recommended score, {as_text(m['auroc.recommended'])}, "
        f"{'lies above' if reaches else 'does not lie above'} the threshold {threshold}": reaches,
    }
    few = _few(m["auroc.recommended"])
    if report.decision == "NO-VERDICT" and not few:
        few = "settings and threshold are of another backbone, so they decide nothing here"
    return _said(report, parts, few)


def _why2(report: GateReport) -> str:
    m, checks = report.metrics, report.checks
    rankme, control = (m[f"spearman.{name}.{gate2.DECIDING}"] for name in ("rankme", "control"))
    follows, reaches = checks["control_follows_recall"], checks["rankme_reaches_attention_mass"]
    threshold = f"{report.thresholds['value']:.3f} ({report.thresholds['reason']})"
    words = f"RankMe's ρ with recall, {as_text(rankme)}, {'reaches' if reaches else 'does not reach'} {threshold}"
    no_control = "" if follows else f"membership mass, the control, does not follow recall: {as_text(control)}"
    return _said(report, {words: reaches}, _few(rankme) or no_control)


def _why3(report: GateReport) -> str:
    gain = report.metrics[gate3.DECIDES]
    beats = report.checks["recommended_beats_attention"]
    words = (
        f"at keep 0.25 the recommended score loses {'fewer' if beats else 'not surely fewer'} small lesions than "
        f"tuned attention: {as_text(gain, '+.3f')}"
    )
    return _said(report, {words: beats}, _few(gain, "with small lesions"))


def _why4(report: GateReport) -> str:
    cv, share = (report.metrics[f"dual.{name}"] for name in ("mu_cv", "constraint_met"))
    stable, met = (report.checks[f"dual.{name}"] for name in ("mu_is_stable", "constraint_met"))
    parts = {
        f"μ {'is' if stable else 'is not'} stable over seeds: CV {as_text(cv)} against {gate4.MOST_CV}": stable,
        f"the floor is {'met' if met else 'not met'}: on {as_text(share)} of pictures, {gate4.LEAST_MET} asked": met,
    }
    return _said(report, parts, _few(cv))


def _why5(report: GateReport) -> str:
    name, checks = f"auroc.recommended.{deciding(report.split)}", report.checks
    entry, cohort = report.metrics[name], report.parameters["elsewhere"]
    reaches = checks["lower_bound_beats_threshold"]
    threshold = f"{report.thresholds[name]:.3f} ({report.thresholds['reason']})"
    parts = {
        f"the recommended score under the recipe of {cohort}, {as_text(entry)}, "
        f"{'lies above' if reaches else 'does not lie above'} the threshold {threshold}": reaches,
        f"the recipe of {cohort} was not chosen elsewhere": checks["recipe_chosen_elsewhere"],
        f"a bank does not fit the pictures: {'; '.join(report.parameters['misfits'])}": checks["bank_fits"],
    }
    parts = {words: holds for words, holds in parts.items() if not holds or "threshold" in words}
    few = _few(entry)
    if report.decision == "NO-VERDICT" and not few:
        few = "the recipes are of another backbone, so they decide nothing here"
    return _said(report, parts, few)


def _why6(report: GateReport) -> str:
    m, checks = report.metrics, report.checks
    speedup, bound = m["speedup_flops_net"]["value"], report.thresholds["speedup_flops_net"]
    faster = checks["faster_than_rivals"]
    parts = {
        f"the chosen route needs {speedup:.3f} times fewer FLOPs, which does {'' if faster else 'not '}beat "
        f"{bound:.3f} ({report.thresholds['reason']})": faster
    }
    entry = m.get(f"coverage.{certificates.DECIDING}")
    if "coverage_within_its_law" in checks:
        holds = checks["coverage_within_its_law"]
        found = f"{entry['count']} of {entry['of']} units" if entry else "too few calibration units, so not certified"
        words = f"the certificate's coverage at α = 0.1 is {'' if holds else 'not '}what its law allows: {found}"
        parts[words] = holds
    for name, words in ROUTE_FAILS.items():
        if not checks.get(name, True):
            parts[words] = False
    few = "a selection split calibrates no certificate" if "coverage_within_its_law" not in checks else ""
    return _said(report, parts, few or _few(m["retention_all"], "with a lesion"))


ROUTE_FAILS = {
    "route_is_the_masked_pass": "the route is not the masked pass",
    "all_work_is_counted": "its FLOPs are not all counted",
    "certificate_fits": "its certificate is not its own",
}


def _why_negative(report: GateReport) -> str:
    names = ("coverage_repaired", "coverage_greedy")
    gains = {name: report.metrics[f"recall_gain.membership_minus_{name}"] for name in names}
    parts = {}
    for name, gain in gains.items():
        beats = report.checks[f"membership_beats_{name}"]
        more = "more" if beats else "not surely more"
        parts[f"membership keeps {more} of small lesions than {METHOD_NAMES[name]}: {as_text(gain, '+.3f')}"] = beats
    fewest = min(gains.values(), key=lambda gain: gain["n_units"])
    return _said(report, parts, _few(fewest, "with small lesions"))


def _few(entry: dict, which: str = "evaluated") -> str:
    if entry["n_units"] >= FEW_UNITS:
        return ""
    return f"only {entry['n_units']} units {which}, and a verdict needs {FEW_UNITS}"


def _said(report: GateReport, parts: dict[str, bool], undecided: str) -> str:
    """Say why nothing is decided; else what failed; else what holds."""
    if report.decision == "NO-VERDICT":
        return f"{undecided}; {'; '.join(parts)}" if undecided else "; ".join(parts)
    failed = [words for words, holds in parts.items() if not holds]
    return "; ".join(failed or parts)
