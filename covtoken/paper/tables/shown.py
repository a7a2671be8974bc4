"""Say a notebook's verdict in a sentence, and show its tables narrow enough for the column of a page."""

from __future__ import annotations

import re
from html import escape

import pandas as pd

from covtoken.names import METHOD_NAMES, cohort_name, split_name
from covtoken.paper.numbers import as_text
from covtoken.paper.verdict_grid import WEAKER_OF, deciding_metric
from covtoken.protocol.report import GateReport

NO_VERDICT = "NO-VERDICT (too few units, or no answer possible)"
OPTIMISED = dict(zip(WEAKER_OF, ("chosen greedily", "under the repaired dual"), strict=True))
INTERVAL = re.compile(r" (\[[^\[\]<>]*\d[^\[\]<>]*\])")


class Sentence(str):
    """Hold text that a notebook shows as paragraphs, a line each, which break where the column ends."""

    style = "covtoken-said"

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return "".join(f'<p class="{self.style}">{escape(line)}</p>' for line in self.splitlines())


class Verdict(Sentence):
    """Hold the sentence that a notebook says first."""

    style = "covtoken-verdict"


def frame_html(frame: pd.DataFrame) -> str:
    """Write a table as HTML whose intervals stand in small print below their number, so that columns stay narrow."""
    if frame.index.nlevels == 1:  # its name heads its column, not a row of its own
        frame = frame.rename_axis(index=None, columns=frame.index.name)
    with pd.option_context("display.max_colwidth", None):
        html = frame.to_html(border=0, classes="covtoken-frame")
    return INTERVAL.sub(r' <span class="covtoken-interval">\1</span>', html)


def verdict(report: GateReport) -> Verdict:
    """Say in one sentence what a gate decides of a cohort, by which number with interval and n, against which bound."""
    says = NO_VERDICT if report.decision == "NO-VERDICT" else report.decision
    split = "" if str(report.gate) == "0" else f", {split_name(report.split)}"
    return Verdict(f"{says} on {cohort_name(report.cohort)}{split}: {_SAYS[str(report.gate)](report)}.")


def _number(report: GateReport, name: str, style: str = ".3f", signed: bool = False) -> str:
    entry = report.metrics.get(name)
    n = f" (n = {entry['n_units']} units)" if entry else ""
    return as_text(entry, style, signed=signed, none="not measured") + n


def _bound(report: GateReport, name: str, words: str) -> str:
    """Say what a number is held against, and where that comes from, in words; "" where nothing is locked."""
    bound, reason = report.thresholds.get(name), report.thresholds.get("reason", "")
    if bound is None:
        return ""
    reason = re.sub(r"[a-z]+_[a-z_]+", lambda key: METHOD_NAMES.get(key[0], key[0]), reason)
    reason = re.sub(r"[a-z]+-?[a-z0-9]+", lambda key: cohort_name(key[0]), reason)
    return f"; {words} {bound:.3f}, the {reason}"


def _ground(report: GateReport) -> str:
    held = sum(map(bool, report.checks.values()))
    return f"{held} of {len(report.checks)} checks of the ground hold, from pixels to tokens, splits and masks"


def _finds(report: GateReport) -> str:
    found = f"C−, the recommended score, finds lesion tokens with an AUROC of {_number(report, 'auroc.recommended')}"
    return found + _bound(report, "auroc.recommended", "threshold")


def _follows(report: GateReport) -> str:
    found = _number(report, deciding_metric(report))
    bound = report.thresholds.get("value")
    needed = "" if bound is None else f"; threshold {bound:.3f}, what attention mass reaches on the selection split"
    return f"the coverage (RankMe) of a quarter of the tokens follows lesion recall with Spearman's ρ = {found}{needed}"


def _misses(report: GateReport) -> str:
    gain = _number(report, deciding_metric(report), signed=True)
    missed = as_text(report.metrics.get("miss_small.recommended.keep0.25"), interval=False, none="an unknown share")
    return (
        f"with a quarter of the tokens C− misses {missed} of the small lesions; tuned attention's share minus that is "
        f"{gain}; threshold 0, which the interval must lie above"
    )


def _converges(report: GateReport) -> str:
    met, most = _number(report, "dual.constraint_met"), report.thresholds
    cv = as_text(report.metrics.get("dual.mu_cv"), interval=False, none="not measured")
    return (
        f"the dual as specified meets its coverage floor on a share of {met} of the pictures, threshold "
        f"{most['dual.constraint_met']:g}, and μ varies over seeds by {cv}, threshold {most['dual.mu_cv']:g}"
    )


def _transfers(report: GateReport) -> str:
    name = next((name for name in report.thresholds if name.startswith("auroc.")), deciding_metric(report))
    recipe = f"the recipe of {cohort_name(report.parameters['elsewhere'])}, unchanged,"
    return f"with {recipe} C− finds lesion tokens with an AUROC of {_number(report, name)}" + _bound(
        report, name, "threshold"
    )


def _saves(report: GateReport) -> str:
    chosen, kept = report.parameters["setting"]["chosen"], report.metrics.get("retention_all", {})
    route = f"the route by {METHOD_NAMES.get(chosen['score'], chosen['score'])} keeps {chosen['k']} of"
    lesions = f", retains {kept['count']} of {kept['of']} lesions (n = {kept['n_units']} units)" if "of" in kept else ""
    speed = as_text(report.metrics.get("speedup_flops_net"), ".2f", none="an unknown number of")
    bound = report.thresholds.get("speedup_flops_net")
    rival = "" if bound is None else f"; threshold {bound:.2f}, what its best rival saves under the same rule"
    return f"{route} {chosen['n_tokens']} tokens{lesions} and needs {speed} times fewer FLOPs, net{rival}"


def _recalls(report: GateReport) -> str:
    name = deciding_metric(report)
    return (
        f"membership A's recall of small lesions minus that of RankMe {OPTIMISED[name]}, the closer of two, is "
        f"{_number(report, name, signed=True)}; threshold {report.thresholds['recall_gain']:g}, which the interval "
        "must lie above"
    )


_SAYS = {"0": _ground, "1": _finds, "2": _follows, "3": _misses, "4": _converges, "5": _transfers, "6": _saves}
_SAYS |= {"negative_result": _recalls}


def reproduced(locked: str) -> Sentence:
    """Count in one sentence how many locked numbers come out again.

    Args:
        locked: text of a locked cell (``gates.headlines.locked_text``).
    """
    numbers = [line for line in locked.splitlines() if line.startswith("  ")]
    good = sum("NOT REPRODUCED" not in line for line in numbers)
    cohorts = [line.partition(",")[0] for line in locked.splitlines() if not line.startswith("  ")]
    return Sentence(
        f"Recomputed: {good} of {len(numbers)} locked numbers come out within their tolerance, on "
        f"{', '.join(map(cohort_name, cohorts))}."
    )
