"""Gate 1, where lesions live: membership against masks, block by block, beside every baseline.

Two steps that never mix. ``plan`` looks at the selection split alone and fixes block, pooling, smoothing, signs and the
threshold. ``run`` evaluates a fixed plan on a split: what it prints can no longer be tuned.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch

from covtoken.backbone.vit import FrozenViT
from covtoken.data.case import Cohort
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import SplitLabels, small_cut
from covtoken.evaluation.measure import Measured, measure
from covtoken.evaluation.recorded import RecordedScores, hashed_units
from covtoken.gates.alarm import alarm_sentence
from covtoken.gates.gate1_rows import block_rows, density_rows, gain_rows
from covtoken.gates.plan import BASELINES, PROPOSED, SEED, Plan, binding, resolve_split
from covtoken.gates.planning import plan_for
from covtoken.gates.report import GateReport, provenance
from covtoken.gates.scoring import Extractor, centre_maps, limited, need_lesions, open_inputs, score
from covtoken.subspace.scorers import in_organ

TITLE = "Where lesions live"

QUESTION = "At which block does label-free membership point at lesions, and does it beat what a person would try first?"

PIXELS_ONLY = (  # reported, but not among the ten recorded scorers
    "residual",
    "rarity",
    "direction_without_head",
    "in_organ",
    "token_norm",
    "attention_last",
    "variance",
    "random",
)

FEW_UNITS = 20  # with fewer evaluated units a gate prints its numbers and decides nothing

DEFECTS = ("shuffled_masks", "transposed_grid", "final_as_middle")


@dataclass(frozen=True)
class Gate1Run:
    """A report, the scores it was computed from, and the parts that a notebook draws."""

    report: GateReport
    recorded: RecordedScores
    plan: Plan
    cases: tuple
    cohort: Cohort


def run_gate1(
    cohort: str | Cohort = "phantom",
    split: str = "selection",
    backbone: str | FrozenViT = "embedded",
    *,
    data: str | None = None,
    precision: str = "fp32",
    cache: bool = True,
    progress: bool = True,
    defect: str | None = None,
    fixed_plan: Plan | None = None,
    need_lock: bool = False,
    limit_units: int | None = None,
) -> Gate1Run:
    """Gate 1 of one cohort from pixels.

    Args:
        cohort, backbone, data: as in ``scoring.open_inputs``.
        split: ``selection`` (choose and report), ``test`` (the plan comes from the lock; for a cohort without a lock,
            from its own selection split in the same run) or ``crossfit`` (small cohorts: recipe of a large cohort).
        defect: plant one of ``DEFECTS``, for the test that the verdict turns.
        fixed_plan: evaluate this plan, whatever the lock holds (spread measurements).
        need_lock: refuse to make a plan in this run, as recording asks.
        limit_units: only so many units of each split, by keyed hash (spread measurements).

    Raises:
        CovtokenError: unknown names, a lock made for other data or weights, a split without lesions.
    """
    started = time.perf_counter()
    opened, vit = open_inputs(cohort, backbone, data)
    split = resolve_split(opened, split)
    extracting = Extractor(vit, precision, cache, progress)
    if limit_units:
        opened = limited(opened, limit_units)
    found = binding(opened, vit)
    plan, locked = (fixed_plan, True) if fixed_plan else plan_for(opened, split, extracting, found, need_lock)
    maps, labels, cases, alarms = score(opened, split, plan, extracting)
    need_lesions(labels, opened, split)
    if split == "crossfit":
        plan = replace(plan, small_cut=small_cut(labels.lesions))
    if defect:
        labels, plan = plant(defect, labels, plan, vit.n_blocks, extracting.grid)
    header = {
        "cohort": opened.name,
        "split": split,
        "backbone": vit.name,
        "rows": extracting.grid[0],
        "cols": extracting.grid[1],
        "n_blocks": vit.n_blocks,
        "plan": plan.to_json(),
        "units": hashed_units(_unit_names(cases)),
        "recommended_is": alarms[0]["score"],
        **found,
    }
    kept = {name: values for name, values in maps.items() if name in recorded_names(plan, vit.n_blocks)}
    recorded = RecordedScores(kept, labels, header)
    measured = headline(recorded)
    rest = {name: values for name, values in maps.items() if name not in kept}
    others = measure(rest, labels, *extracting.grid, full=PIXELS_ONLY)
    kinds = ("auroc", "image_auroc", "organ_auroc", "organ_image_auroc")
    for kind, other in product(kinds, (*PROPOSED, *BASELINES, "intensity_flipped")):
        ours, theirs = f"{kind}.in_organ", f"{kind}.{other}"
        of = measured if theirs in measured.values else others
        if ours in others.values and theirs in of.values and ours != theirs:
            others.difference(f"{kind}_gain.in_organ_minus_{other}", ours, theirs, of=of)
    report = _report(recorded, measured, others, plan, opened, locked, alarms, started)
    return Gate1Run(report, recorded, plan, cases, opened)


def headline(recorded: RecordedScores) -> Measured:
    """The headline metrics from recorded scores: the same function for a fresh run and for a committed file."""
    rows, cols = recorded.grid
    plan = Plan.from_json(recorded.header["plan"])
    n_blocks = recorded.header["n_blocks"]
    maps = dict(recorded.scores)
    maps["centre_prior"] = centre_maps(plan, rows, cols, len(recorded.labels.unit))
    if recorded.header["split"] == "crossfit":  # a small cohort chooses no sign: the recipe's and its opposite
        maps["intensity_flipped"] = -maps["intensity"]
    measured = measure(maps, recorded.labels, rows, cols)
    finals = [f"auroc.density.block{n_blocks}", "auroc.density.norm"]
    better = max((name for name in finals if name in measured.values), key=measured.values.get)
    measured.difference("auroc_gain.middle_minus_final", f"auroc.density.block{plan.middle}", better)
    for ours, kind in product((name for name in ("recommended", "density") if name in maps), ("auroc", "image_auroc")):
        others = ("density", *BASELINES, "intensity_flipped")
        for other in (name for name in others if name in maps and name != ours):
            measured.difference(f"{kind}_gain.{ours}_minus_{other}", f"{kind}.{ours}", f"{kind}.{other}")
    return measured


def decide(
    measured: Measured, threshold: float, n_units: int, own_threshold: bool = True
) -> tuple[str, dict[str, Any]]:
    """GO, NO-GO or NO-VERDICT, and each check behind it; a verdict against every baseline, whatever it is.

    Args:
        own_threshold: whether the threshold is of this backbone; that of another decides nothing.
    """
    gain_low = measured.interval("auroc_gain.middle_minus_final")[0]
    checks: dict[str, Any] = {
        "middle_beats_final": bool(gain_low > 0),
        "lower_bound_beats_threshold": bool(measured.interval("auroc.recommended")[0] > threshold),
        "lower_bound_of_density_beats_threshold": bool(measured.interval("auroc.density")[0] > threshold),
    }
    for name in measured.values:
        kind, _, pair = name.partition("_gain.")
        ours, _, other = pair.partition("_minus_")
        if ours in ("recommended", "density"):
            below, above = measured.interval(name)
            checks[f"{kind}.{ours}_against_{other}"] = "wins" if below > 0 else "loses" if above < 0 else "undecided"
    if n_units < FEW_UNITS or not own_threshold:
        return "NO-VERDICT", checks
    return ("GO" if checks["middle_beats_final"] and checks["lower_bound_beats_threshold"] else "NO-GO"), checks


def plant(defect: str, labels: SplitLabels, plan: Plan, n_blocks: int, grid: tuple[int, int]):
    """Labels or plan with one planted defect: the verdict must turn.

    ``shuffled_masks`` gives each picture the labels of another; ``transposed_grid`` swaps rows and columns;
    ``final_as_middle`` calls the final block the middle one.
    """
    if defect not in DEFECTS:
        raise CovtokenError(f"unknown defect {defect!r}: expected one of {', '.join(DEFECTS)}")
    if defect == "final_as_middle":
        return labels, replace(plan, middle=n_blocks)
    n = len(labels.unit)
    if defect == "shuffled_masks":
        order, token = np.random.default_rng(SEED).permutation(n), np.arange(labels.lesion.shape[1])
    else:
        order, token = np.arange(n), np.arange(grid[0] * grid[1]).reshape(grid).T.ravel()
    new_place, new_token = np.argsort(order), np.argsort(token)
    lesions = tuple(
        replace(lesion, picture=int(new_place[lesion.picture]), tokens=np.sort(new_token[lesion.tokens]))
        for lesion in labels.lesions
    )
    moved = {name: getattr(labels, name)[order][:, token] for name in ("lesion", "ignore")}
    return replace(labels, **moved, lesions=lesions), plan


def recorded_names(plan: Plan, n_blocks: int) -> list[str]:
    """The at most ten scorers whose scores are recorded (the centre prior is recomputed from the grid)."""
    plain = [f"density.block{plan.middle}", f"density.block{n_blocks}", "density.norm"]
    return [
        "recommended",
        "density",
        *dict.fromkeys(plain),
        *(n for n in BASELINES if n not in PIXELS_ONLY and n != "centre_prior"),
    ]


def _unit_names(cases) -> list[str]:
    return sorted({case.unit for case in cases})


def _report(recorded, measured, others, plan, cohort, locked, alarms, started) -> GateReport:
    header, labels = recorded.header, recorded.labels
    own_threshold = locked or header["split"] != "crossfit"  # an unlocked recipe of a small cohort is another's
    decision, checks = decide(measured, plan.threshold, measured.n[0], own_threshold)
    checks["plan_locked_before"] = locked
    metrics = others.entries() | measured.entries()
    return GateReport(
        gate=1,
        title=TITLE,
        question=QUESTION,
        cohort=cohort.name,
        split=header["split"],
        backbone=header["backbone"],
        parameters={
            **header["method"],
            **plan.to_json(),
            "curated": cohort.curated,
            "n_lesions": len(labels.lesions),
            "n_lesion_images": int(labels.lesion.any(axis=1).sum()),
            "n_variants_looked_at": len(plan.table),
            "in_organ": in_organ(header["n_blocks"]).to_json() if "auroc.in_organ" in metrics else None,
            "alarm": alarms,
            "alarm_says": alarm_sentence(alarms),
        },
        thresholds={"auroc.recommended": plan.threshold, "reason": plan.reason, "locked": locked},
        metrics=metrics,
        checks=checks,
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
        provenance=provenance(
            data_fingerprint=header["data_fingerprint"],
            weights_sha256=header["weights_sha256"],
            seed=SEED,
            wall_seconds=time.perf_counter() - started,
            threads=torch.get_num_threads(),
        ),
    )
