"""Gate 1 compares membership with masks, block by block, beside every baseline.

``covtoken.protocol.planning`` fixes block, pooling, smoothing, signs and threshold on the selection split alone;
``run`` evaluates that plan on a split, where nothing can be tuned any more.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from covtoken.data.case import Case
from covtoken.data.splits import SMALL_SPLITS
from covtoken.evaluation.labels import SplitLabels, mark_small, small_cuts
from covtoken.evaluation.measure import Measured, measure
from covtoken.evaluation.records import RecordedScores
from covtoken.gates.gate1_rows import block_rows, density_rows, gain_rows
from covtoken.protocol.alarm_limits import alarm_sentence
from covtoken.protocol.plan import BASELINES, FEW_UNITS, PROPOSED, RIVALS, Plan, records_header
from covtoken.protocol.report import GateReport, GateRun, check_defect
from covtoken.protocol.scoring import centre_maps, need_lesions, score, shuffled_masks
from covtoken.protocol.setting import Setting
from covtoken.scores.recipe import in_organ

TITLE = "Where lesions live"
QUESTION = "At which block does label-free membership point at lesions, and does it beat what a person would try first?"
PIXELS_ONLY = (  # reported, but not among the recorded scorers
    *("residual", "rarity", "without_head", "in_organ", "patchcore", "musc"),
    *("token_norm", "attention_last", "variance", "random"),
)
OURS = ("recommended", "with_head", "density")  # whose verdicts are printed side by side: C−, C and A
GAINS = ("auroc", "image_auroc", "aupr", "organ_auroc")
DEFECTS = ("shuffled_masks", "transposed_grid", "final_as_middle")
HEADLINES = (
    *(f"auroc.{name}" for name in (*OURS, "direction", *RIVALS, "attention_best", "centre_prior", "head_student")),
    *("auroc.saliency_head", "auroc.intensity", "organ_auroc.recommended", "organ_auroc.density"),
    *("auroc_gain.middle_minus_final", "image_auroc.recommended", "image_auroc.density"),
    *("aupr.recommended", "froc.fp1.recommended"),
)


@dataclass(frozen=True)
class Scored:
    """Setting, plan and the N cases of a gate 1 run, in the order of the recorded scores."""

    setting: Setting
    plan: Plan
    cases: tuple[Case, ...]


def run(setting: Setting, plan: Plan, *, defect: str | None = None) -> GateRun:
    """Run gate 1 from pixels.

    Args:
        defect: plant one of ``DEFECTS``, to test that the verdict turns.

    Raises:
        CovtokenError: an unknown defect, a split without lesions.
    """
    check_defect(defect, DEFECTS)
    started = time.perf_counter()
    vit, grid = setting.vit, setting.grid
    maps, labels, cases, alarms = score(setting, plan)
    need_lesions(labels, setting.cohort, setting.split)
    if setting.small:
        plan = replace(plan, small_cuts=small_cuts(labels, cases))
    labels = mark_small(labels, cases, plan.small_cuts)
    if defect:
        labels, plan = plant(defect, labels, plan, vit.n_blocks, grid)
    shape = {"rows": grid[0], "cols": grid[1], "n_blocks": vit.n_blocks}
    more = {"plan": plan.to_json(), "recommended_is": alarms[0]["score"]}
    header = records_header(setting, sorted({case.unit for case in cases}), **shape, **more)
    kept = {name: values for name, values in maps.items() if name in recorded_names(plan, vit.n_blocks)}
    recorded = RecordedScores(kept, labels, header)
    measured = headline(recorded)
    rest = {name: values for name, values in maps.items() if name not in kept}
    others = measure(rest, labels, *grid, full=PIXELS_ONLY)
    kinds = ("auroc", "image_auroc", "organ_auroc", "organ_image_auroc")
    for kind, other in product(kinds, (*PROPOSED, *RIVALS, *BASELINES, "intensity_flipped")):
        in_organ_name, name = f"{kind}.in_organ", f"{kind}.{other}"
        source = measured if name in measured.values else others
        if in_organ_name in others.values and name in source.values and in_organ_name != name:
            others.difference(f"{kind}_gain.in_organ_minus_{other}", in_organ_name, name, of=source)
    for ours, kind, other in product(OURS, GAINS, PIXELS_ONLY):
        pair = f"{kind}.{ours}", f"{kind}.{other}"
        if other in (*BASELINES, "in_organ") and pair[0] in measured.values and pair[1] in others.values:
            measured.difference(f"{kind}_gain.{ours}_minus_{other}", *pair, of=others)
    own_threshold = plan.locked or not setting.small  # an unlocked recipe of a small cohort is another's
    decision, checks = decide(measured, plan.threshold, measured.n[0], own_threshold)
    metrics = others.entries() | measured.entries()
    report = setting.report(
        *(1, TITLE, QUESTION),
        started=started,
        parameters={
            **header["method"],
            **plan.to_json(),
            "curated": setting.cohort.curated,
            "n_lesions": len(labels.lesions),
            "n_lesion_images": int(labels.lesion.any(axis=1).sum()),
            "in_organ": in_organ(vit.n_blocks).to_json() if "auroc.in_organ" in metrics else None,
            "alarm": alarms,
            "alarm_says": alarm_sentence(alarms),
        },
        thresholds={"auroc.recommended": plan.threshold, "reason": plan.reason, "locked": plan.locked},
        metrics=metrics,
        checks=checks | {"plan_locked_before": plan.locked},
        decision=decision,
        chart_data={
            "blocks": block_rows(metrics),
            "densities": density_rows(recorded),
            "gains": gain_rows(metrics, ours="recommended"),
            "image_gains": gain_rows(metrics, "image_auroc_gain", "recommended"),
            "density_gains": gain_rows(metrics),
            "density_image_gains": gain_rows(metrics, "image_auroc_gain"),
            "selection": list(plan.table),
        },
    )
    return GateRun(report, recorded, Scored(setting, plan, cases))


def headline(recorded: RecordedScores) -> Measured:
    """Measure the headline metrics from recorded scores, fresh or committed."""
    rows, cols = recorded.grid
    plan = Plan.from_json(recorded.header["plan"])
    n_blocks = recorded.header["n_blocks"]
    maps = dict(recorded.scores)
    maps["centre_prior"] = centre_maps(plan, rows, cols, len(recorded.labels.unit))
    if recorded.header["split"] in SMALL_SPLITS:  # a small cohort chooses no sign: the recipe's and its opposite
        maps["intensity_flipped"] = -maps["intensity"]
    measured = measure(maps, recorded.labels, rows, cols)
    finals = [f"auroc.density.block{n_blocks}", "auroc.density.norm"]
    better = max((name for name in finals if name in measured.values), key=measured.values.get)
    measured.difference("auroc_gain.middle_minus_final", f"auroc.density.block{plan.middle}", better)
    named = [name for name in (*OURS, "direction", *RIVALS, *BASELINES, "intensity_flipped") if name in maps]
    for ours, other, kind in product(OURS, named, GAINS):
        if ours in maps and other != ours and f"{kind}.{ours}" in measured.values:
            measured.difference(f"{kind}_gain.{ours}_minus_{other}", f"{kind}.{ours}", f"{kind}.{other}")
    return measured


def decide(
    measured: Measured, threshold: float, n_units: int, own_threshold: bool = True
) -> tuple[str, dict[str, Any]]:
    """Decide GO, NO-GO or NO-VERDICT; return it with the checks, which compare with every baseline.

    Args:
        own_threshold: whether the threshold was locked for this backbone; another backbone's threshold decides nothing.
    """
    gain_low = measured.interval("auroc_gain.middle_minus_final")[0]
    checks: dict[str, Any] = {"middle_beats_final": bool(gain_low > 0)}
    for name in OURS:
        if f"auroc.{name}" in measured.values:
            checks[_beats(name)] = bool(measured.interval(f"auroc.{name}")[0] > threshold)
    for name in measured.values:
        kind, _, pair = name.partition("_gain.")
        scorer, _, other = pair.partition("_minus_")
        if scorer in OURS:
            below, above = measured.interval(name)
            checks[f"{kind}.{scorer}_against_{other}"] = "wins" if below > 0 else "loses" if above < 0 else "undecided"
    if n_units < FEW_UNITS or not own_threshold:
        return "NO-VERDICT", checks
    return _verdict(checks, "recommended"), checks


def verdicts(report: GateReport) -> dict[str, str]:
    """Give the gate's decision by score: C−'s, which is the gate's, C's where there is a head, and membership A's.

    The published claim is about A.
    """
    names = [name for name in OURS if _beats(name) in report.checks]
    few = report.decision == "NO-VERDICT"
    return {name: "NO-VERDICT" if few else _verdict(report.checks, name) for name in names}


def _beats(name: str) -> str:
    return "lower_bound_beats_threshold" if name == "recommended" else f"lower_bound_of_{name}_beats_threshold"


def _verdict(checks: dict[str, Any], name: str) -> str:
    return "GO" if checks["middle_beats_final"] and checks[_beats(name)] else "NO-GO"


def plant(defect: str, labels: SplitLabels, plan: Plan, n_blocks: int, grid: tuple[int, int]):
    """Plant a defect in labels or plan; return both. The verdict must turn.

    ``shuffled_masks`` gives each picture the labels of another picture; ``transposed_grid`` swaps grid rows and
    columns; ``final_as_middle`` calls the final block the middle block.
    """
    check_defect(defect, DEFECTS)
    if defect == "final_as_middle":
        return labels, replace(plan, middle=n_blocks)
    if defect == "shuffled_masks":
        return shuffled_masks(labels), plan
    token = np.arange(grid[0] * grid[1]).reshape(grid).T.ravel()
    new_token = np.argsort(token)
    lesions = tuple(replace(lesion, tokens=np.sort(new_token[lesion.tokens])) for lesion in labels.lesions)
    moved = {name: getattr(labels, name)[:, token] for name in ("lesion", "ignore")}
    return replace(labels, **moved, lesions=lesions), plan


def recorded_names(plan: Plan, n_blocks: int) -> list[str]:
    """Name the at most 13 scorers whose scores are recorded (the centre prior is recomputed from the grid)."""
    plain = dict.fromkeys([f"density.block{plan.middle}", f"density.block{n_blocks}", "density.norm"])
    baselines = [name for name in BASELINES if name not in PIXELS_ONLY and name != "centre_prior"]
    return [*OURS, "direction", *RIVALS, *plain, *baselines]
