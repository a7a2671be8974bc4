"""Gate 5 tests transfer: a recipe chosen on one cohort, run unchanged on others; and banks that come from elsewhere.

The same pictures are scored in four ways (``WAYS``). *Elsewhere* decides: its recipes were chosen on a single other
cohort, and where two could give them, the worse counts. *Carried* and *foreign* keep the cohort's own recipe and change
the bank alone; *foreign*, the control, should fail. The recommended score is the direction itself: the label-free
alarm, which lets membership A replace it in gate 1, is not asked. A cohort too small to feed a bank has the one way
*carried*, which decides nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from covtoken.backbone.weights import load_backbone
from covtoken.data.case import Case
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import label
from covtoken.evaluation.measure import Measured, measure
from covtoken.evaluation.records import RecordedScores, Records, load_scores, scores_path
from covtoken.gates.transfer.rows import SCORES
from covtoken.gates.transfer.ways import (
    DECIDING,
    Source,
    all_maps,
    deciding,
    sources_of,
    usual_way,
    ways_of,
    with_the_worse,
)
from covtoken.names import WAYS
from covtoken.paths import project_root
from covtoken.protocol.plan import BASELINES, FEW_UNITS, Plan, records_header
from covtoken.protocol.report import GateRun, check_defect, with_interval
from covtoken.protocol.scoring import need_lesions, shuffled_masks
from covtoken.protocol.setting import Setting

TITLE = "Transfer"
QUESTION = "Does a recipe that was chosen on one cohort find lesions of other organs and modalities, unchanged?"
SHOWN = ("recommended", "with_head", "density", *BASELINES)
KINDS = ("auroc", "image_auroc")
RECORDED = ("recommended", "density")  # whose maps are kept; the baselines' numbers stand in the report
ROUNDING = 1e-4  # a smaller difference comes from another machine's float32
_TIMM = "vit_small_patch14_dinov2"  # random weights of the embedded model's form: only names and hashes tell them apart
# Planted defect → the check that must turn.
DEFECTS = {
    "other_backbone": "bank_fits",
    "shuffled_masks": "lower_bound_beats_threshold",
    "own_recipe": "recipe_chosen_elsewhere",
}
HEADLINES = (
    *(f"{kind}.{score}.{way}" for kind, score, way in product(KINDS, RECORDED, WAYS)),
    f"auroc_gain.recommended.{DECIDING}_minus_refitted",
)


@dataclass(frozen=True)
class Transfer:
    """The cohort's own plan, the N scored cases in the maps' order, and the maps of *refitted* with the labels."""

    plan: Plan
    cases: tuple[Case, ...]
    scores: RecordedScores


def run(setting: Setting, plan: Plan, *, defect: str | None = None, need_all: bool = False) -> GateRun:
    """Run gate 5 from pixels.

    Args:
        defect: plant one of ``DEFECTS``: ``other_backbone`` builds the banks from elsewhere with random weights,
            ``shuffled_masks`` mixes masks up, ``own_recipe`` passes the cohort's own recipe off as chosen elsewhere.
        need_all: raise where the data of a bank from elsewhere are missing, as recording asks.

    Raises:
        CovtokenError: no recipe locked elsewhere, a split without lesions.
    """
    check_defect(defect, tuple(DEFECTS))
    started = time.perf_counter()
    cohort, vit, data = setting.cohort, setting.vit, setting.fingerprint
    if need_all and setting.split == "carried":
        raise CovtokenError(
            f"{cohort.name} has {len(cohort.units)} units and so one way, whose maps gate 1 records and the heat map "
            f"shows: `covtoken gate 1 --cohort {cohort.name} --split carried --record`"
        )
    own = Source(cohort.name, plan.recipes, data, vit.weights_sha256)
    elsewhere = setting
    if defect == "other_backbone":
        elsewhere = replace(setting, vit=load_backbone(f"random:{_TIMM}", vit.picture_size))
    sources = [own] if defect == "own_recipe" else sources_of(setting)
    found = ways_of(setting, plan, sources, elsewhere, need_all)
    ways, cases, banks = found.ways, found.cases, found.banks
    maps = all_maps(ways, len(cases), SHOWN)
    labels = label(cases, cohort, *setting.grid)
    need_lesions(labels, cohort, setting.split)
    if defect == "shuffled_masks":
        labels = shuffled_masks(labels)

    renamed, worse = with_the_worse(maps, labels, sources)
    decides, usual = deciding(setting.split), usual_way(setting.split)
    more = {"gate": "5", "rows": setting.grid[0], "cols": setting.grid[1], "elsewhere": worse or setting.bank_cohort}
    header = records_header(setting, sorted({case.unit for case in cases}), **more)
    kept = {f"{score}.{way}" for score in RECORDED for way in WAYS} & renamed.keys()
    extra = {name: renamed[name] for name in sorted(kept) if not name.endswith(f".{usual}")}
    refitted = {score: renamed[f"{score}.{usual}"] for score in RECORDED}
    scores = RecordedScores(refitted, labels, header)
    records = Records(extra, header)
    measured = headline(records, scores)
    rest = {name: values for name, values in renamed.items() if name not in kept}
    others = measure(rest, labels, *setting.grid, full=(), image=rest)
    compared = [name for name in ("with_head", *BASELINES) if f"auroc.{name}.{decides}" in others.values]
    for score, kind in product(compared, KINDS):
        pair = (f"{kind}.recommended.{decides}", f"{kind}.{score}.{decides}")
        measured.difference(f"{kind}_gain.recommended_minus_{score}.{decides}", *pair, of=others)
    checks: dict[str, Any] = {
        "bank_fits": not found.misfits if banks else "not tried",
        "recipe_chosen_elsewhere": all(s.cohort != own.cohort and s.data_fingerprint != data for s in sources),
        "plan_locked_before": plan.locked,
    }
    same_backbone = all(source.weights_sha256 == vit.weights_sha256 for source in sources)
    decision, checks = decide(measured, plan.threshold, checks, same_backbone, decides)
    used = []
    for origin in sources:
        shown = {name: recipe.to_json() for name, recipe in origin.recipes.items() if name in SHOWN}
        used.append({"cohort": origin.cohort, "recipes": shown})
    metrics = others.entries() | measured.entries()
    report = setting.report(
        *(5, TITLE, QUESTION),
        started=started,
        parameters={
            **header["method"],
            "curated": cohort.curated,
            "modality": cohort.modality,
            "organs": sorted({case.organ for case in cases if case.organ}),
            "n_lesions": len(labels.lesions),
            "n_lesion_images": int(labels.lesion.any(axis=1).sum()),
            "elsewhere": header["elsewhere"],
            "sources": used,
            "banks": {way: origin for way, (origin, _) in banks.items()},
            "blank": found.blank,
            "misfits": found.misfits,
        },
        thresholds={f"auroc.recommended.{decides}": plan.threshold, "reason": plan.reason, "locked": plan.locked},
        metrics=metrics,
        checks=checks,
        decision=decision,
        chart_data={"cells": cells(cohort.name, metrics)},
    )
    return GateRun(report, records, Transfer(plan, cases, scores))


def headline(records: Records, scores: RecordedScores | None = None) -> Measured:
    """Measure the headline metrics from records, fresh or committed.

    Args:
        records: maps of the other ways.
        scores: maps of *refitted* (a tiny cohort's: *carried*) and the labels (None: gate 1's committed file).

    Raises:
        CovtokenError: the two files are not of the same pictures.
    """
    cohort = records.header["cohort"]
    scores = scores or load_scores(scores_path(project_root(), cohort))
    for key in ("units", "data_fingerprint", "split", "backbone"):
        if records.header[key] != scores.header[key]:
            raise CovtokenError(f"{cohort}: gate 5's records and gate 1's scores differ in {key}: record both anew")
    if scores.header.get("recommended_is") == "A":
        raise CovtokenError(f"{cohort}: in gate 1's scores membership A stands in for the recommended score: no pair")
    usual, decides = usual_way(records.header["split"]), deciding(records.header["split"])
    maps = {f"{name}.{usual}": scores.scores[name] for name in RECORDED} | dict(records.arrays)
    measured = measure(maps, scores.labels, records.header["rows"], records.header["cols"], full=(), image=maps)
    for name, way, kind in product(RECORDED, WAYS, KINDS):
        if way != usual and f"{name}.{way}" in maps:
            pair = (f"{kind}.{name}.{way}", f"{kind}.{name}.{usual}")
            measured.difference(f"{kind}_gain.{name}.{way}_minus_{usual}", *pair)
    pair = (f"auroc.{name}.{decides}" for name in ("recommended", "density"))
    measured.difference(f"auroc_gain.recommended_minus_density.{decides}", *pair)
    return measured


def decide(
    measured: Measured, threshold: float, checks: dict[str, Any], same_backbone: bool = True, way: str = DECIDING
) -> tuple[str, dict[str, Any]]:
    """Decide GO if the recommended score under a recipe chosen elsewhere beats gate 1's threshold on this cohort.

    Args:
        threshold: AUROC, gate 1's on this cohort.
        checks: ``bank_fits`` and ``recipe_chosen_elsewhere``; without them nothing was transferred.
        same_backbone: whether the recipes were chosen on this backbone; else nothing is decided.
        way: that decides.
    """
    low = measured.interval(f"auroc.recommended.{way}")[0]
    checks = checks | {"lower_bound_beats_threshold": bool(low > threshold)}
    for name in (name for name in measured.values if "_gain." in name):
        below, above = measured.interval(name)
        word = "wins" if below > ROUNDING else "loses" if above < -ROUNDING else "undecided"
        checks[name.replace("_gain", "").replace("_minus_", "_against_")] = word
    if measured.n[0] < FEW_UNITS or not same_backbone:
        return "NO-VERDICT", checks
    needed = ("bank_fits", "recipe_chosen_elsewhere", "lower_bound_beats_threshold")
    return ("GO" if all(checks[name] for name in needed) else "NO-GO"), checks


def cells(cohort: str, metrics: dict[str, dict]) -> list[dict]:
    """List cells of the heat map, {cohort, way, score, kind, value, lo, hi}, for the ways that the cohort has."""
    drawn = []
    for kind, name, way in product(KINDS, SCORES, WAYS):
        entry = metrics.get(f"{kind}.{name}.{way}")
        if entry is not None and entry["value"] is not None:
            place = {"cohort": cohort, "way": way, "score": name, "kind": kind}
            drawn.append(place | with_interval(entry))
    return drawn
