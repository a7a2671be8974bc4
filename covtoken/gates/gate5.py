"""Gate 5 tests transfer: a recipe chosen on one cohort, run unchanged on others; and banks that come from elsewhere.

The same pictures are scored in four ways (``WAYS``). *Elsewhere* decides: its recipes were chosen on a single other
cohort, and where two could give them, the worse counts. *Carried* and *foreign* keep the cohort's own recipe and change
the bank alone; *foreign*, the control, should fail. The recommended score is the direction itself: the label-free
alarm, which lets membership A replace it in gate 1, is not asked.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from covtoken.backbone.feature_set import FeatureSet
from covtoken.backbone.vit import FrozenViT
from covtoken.backbone.weights import load_backbone
from covtoken.bank.token_bank import check_alike
from covtoken.data.case import Case, Cohort
from covtoken.data.cohorts import RECIPE_COHORTS
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import label
from covtoken.evaluation.measure import Measured, measure
from covtoken.evaluation.records import RecordedScores, Records, load_scores, scores_path, to_float16
from covtoken.evaluation.stats import auroc
from covtoken.leak_guard import construction
from covtoken.names import WAYS
from covtoken.paths import project_root
from covtoken.protocol import locks
from covtoken.protocol.plan import BASELINES, FEW_UNITS, Plan, records_header
from covtoken.protocol.planning import at_this_depth
from covtoken.protocol.report import GateRun, check_defect, with_interval
from covtoken.protocol.scoring import need_lesions, shuffled_masks
from covtoken.protocol.setting import SEED, Setting, carried_bank
from covtoken.scores.memberships import fit, rarity_of
from covtoken.scores.recipe import Recipe
from covtoken.scores.recommended import LINEAR, direction_maps
from covtoken.scores.scorers import SCORERS, score_maps
from covtoken.studies import banks as bank_choice

TITLE = "Transfer"
QUESTION = "Does a recipe that was chosen on one cohort find lesions of other organs and modalities, unchanged?"
DECIDING = "elsewhere"
SHOWN = ("recommended", "density", *BASELINES)
KINDS = ("auroc", "image_auroc")
RECORDED = ("recommended", "density")  # whose maps are kept; the baselines' numbers stand in the report
SOURCES = tuple(dict.fromkeys(RECIPE_COHORTS.values()))
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
class Source:
    """A cohort that chose recipes (scorer → recipe), with the fingerprint of its data and the backbone's weights."""

    cohort: str
    recipes: dict[str, Recipe]
    data_fingerprint: str
    weights_sha256: str


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
    own = Source(cohort.name, plan.recipes, data, vit.weights_sha256)
    sources = [own] if defect == "own_recipe" else [source(name, vit) for name in SOURCES if name != cohort.name]
    pairs, cases = setting.pairs()
    pictures = pairs[0][1] if len(pairs) == 1 else setting.features(cases)  # of all folds, in their order
    elsewhere = setting
    if defect == "other_backbone":
        elsewhere = replace(setting, vit=load_backbone(f"random:{_TIMM}", vit.picture_size))
    banks, blank = banks_elsewhere(elsewhere, pictures, need_all)
    ways: dict[str, tuple[dict[str, Recipe], list]] = {"refitted": (plan.recipes, pairs)}
    ways |= {f"recipe_of_{source.cohort}": (source.recipes, pairs) for source in sources}
    misfits = []
    for way, (origin, way_pairs) in banks.items():  # only the bank changes
        try:
            for pair in way_pairs:
                check_alike(pair[0], pair[1])
        except CovtokenError as error:
            misfits.append(f"{origin}: {error}")
            continue
        ways[way] = (plan.recipes, way_pairs)
    maps = all_maps(ways, len(cases))
    labels = label(cases, cohort, *setting.grid)
    need_lesions(labels, cohort, setting.split)
    if defect == "shuffled_masks":
        labels = shuffled_masks(labels)

    def reached(source: Source) -> float:
        recommended = maps[f"recommended.recipe_of_{source.cohort}"].astype(np.float64)
        return auroc(recommended, labels.lesion, ~labels.ignore)

    worse = min(sources, key=reached)
    renamed = {name.replace(f".recipe_of_{worse.cohort}", f".{DECIDING}"): values for name, values in maps.items()}
    more = {"gate": "5", "rows": setting.grid[0], "cols": setting.grid[1], "elsewhere": worse.cohort}
    header = records_header(setting, sorted({case.unit for case in cases}), **more)
    kept = {f"{score}.{way}" for score in RECORDED for way in WAYS} & renamed.keys()
    extra = {name: renamed[name] for name in sorted(kept) if not name.endswith(".refitted")}
    refitted = {score: renamed[f"{score}.refitted"] for score in RECORDED}
    scores = RecordedScores(refitted, labels, header)
    records = Records(extra, header)
    measured = headline(records, scores)
    rest = {name: values for name, values in renamed.items() if name not in kept}
    others = measure(rest, labels, *setting.grid, full=(), image=rest)
    baselines = [name for name in BASELINES if f"auroc.{name}.{DECIDING}" in others.values]
    for score, kind in product(baselines, KINDS):
        pair = (f"{kind}.recommended.{DECIDING}", f"{kind}.{score}.{DECIDING}")
        measured.difference(f"{kind}_gain.recommended_minus_{score}.{DECIDING}", *pair, of=others)
    checks: dict[str, Any] = {
        "bank_fits": not misfits if banks else "not tried",
        "recipe_chosen_elsewhere": all(s.cohort != own.cohort and s.data_fingerprint != data for s in sources),
        "plan_locked_before": plan.locked,
    }
    same_backbone = all(source.weights_sha256 == vit.weights_sha256 for source in sources)
    decision, checks = decide(measured, plan.threshold, checks, same_backbone)
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
            "elsewhere": worse.cohort,
            "sources": used,
            "banks": {way: origin for way, (origin, _) in banks.items()},
            "blank": blank,
            "misfits": misfits,
        },
        thresholds={f"auroc.recommended.{DECIDING}": plan.threshold, "reason": plan.reason, "locked": plan.locked},
        metrics=metrics,
        checks=checks,
        decision=decision,
        chart_data={"cells": cells(cohort.name, metrics)},
    )
    return GateRun(report, records, Transfer(plan, cases, scores))


def source(name: str, vit: FrozenViT) -> Source:
    """Give the recipes of a single recipe cohort: those of its lock, and the recommended rule over its own tables.

    On a backbone without a lock they are moved to the same depth, and decide nothing.

    Raises:
        CovtokenError: that cohort has no lock.
    """
    entry = locks.entry(locks.THRESHOLDS, name, 1)
    if entry is None:
        raise CovtokenError(
            f"no recipe of {name} is locked, so none can be carried elsewhere: run `covtoken gate 1 --cohort {name}`, "
            f"then `covtoken lock thresholds --cohort {name}`"
        )
    plan = Plan.from_json(entry)
    plan = plan if entry["backbone"] == vit.name else at_this_depth(plan, vit)
    chosen, _ = bank_choice.recommend(cohorts=(name,))
    here = plan.recipes["recommended"]  # its blocks are at this backbone's depth
    places = {name: getattr(here.settings, name) for name in ("target_block", "attention_block")}
    chosen = replace(chosen, block=here.block, settings=replace(chosen.settings, **places))
    return Source(name, plan.recipes | {"recommended": chosen}, entry["data_fingerprint"], entry["weights_sha256"])


def banks_elsewhere(
    setting: Setting, pictures: FeatureSet, need_all: bool = False
) -> tuple[dict[str, tuple[str, list]], dict[str, str]]:
    """Build the banks that do not come from the cohort's own split, by way, and say why a way has none.

    The phantom draws two modalities: each half is scored with the other half's bank, and no other cohort is like it.

    Args:
        setting: the evaluated cohort, and the backbone of the banks.
        pictures: features of the evaluated split.
        need_all: raise where a bank's data are missing, as recording asks, instead of leaving the way blank.

    Returns:
        way → (what feeds the bank, pairs of bank and pictures as ``_scored`` takes them); way → reason.
    """
    cohort = setting.cohort
    if cohort.name == "phantom":
        bank = setting.features(setting.cases_of("bank"))
        blank = {"carried": "no other cohort is drawn as the phantom is"}
        return {"foreign": ("the phantom's other half", _crossed(cohort, bank, pictures))}, blank
    near = RECIPE_COHORTS.get(cohort.modality)
    banks, blank = {}, {}
    for way, name in (("carried", near), ("foreign", next(name for name in SOURCES if name != near))):
        if name == cohort.name:
            blank[way] = "the cohort is itself the recipe cohort of its modality"
            continue
        if name is None:
            blank[way] = f"no recipe cohort is of the modality {cohort.modality!r}"
            continue
        try:
            banks[way] = (name, [(carried_bank(name, setting), pictures)])
        except CovtokenError as error:
            if need_all:
                raise
            blank[way] = str(error)
    return banks, blank


def all_maps(ways: dict[str, tuple[dict[str, Recipe], list]], n: int) -> dict[str, np.ndarray]:
    """Score in every way: maps [N, T] float16 by ``<score>.<way>``; a map that two ways share is made once."""
    made: dict[tuple, np.ndarray] = {}
    rarities: dict[tuple, tuple] = {}
    maps = {}
    for way, (recipes, pairs) in ways.items():
        for name in (name for name in SHOWN if name in recipes):
            recipe = recipes[name]
            key = (recipe, id(pairs[0][0]) if "bank" in SCORERS[recipe.scorer].needs else len(pairs))
            if key not in made:
                made[key] = to_float16(_scored(recipe, pairs, n, rarities))
            maps[f"{name}.{way}"] = made[key]
    return maps


def headline(records: Records, scores: RecordedScores | None = None) -> Measured:
    """Measure the headline metrics from records, fresh or committed.

    Args:
        records: maps of the other ways.
        scores: maps of *refitted*, with the labels (None: gate 1's committed file of the cohort).

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
    maps = {f"{name}.refitted": scores.scores[name] for name in RECORDED} | dict(records.arrays)
    measured = measure(maps, scores.labels, records.header["rows"], records.header["cols"], full=(), image=maps)
    for name, way, kind in product(RECORDED, WAYS, KINDS):
        if way != "refitted" and f"{name}.{way}" in maps:
            pair = (f"{kind}.{name}.{way}", f"{kind}.{name}.refitted")
            measured.difference(f"{kind}_gain.{name}.{way}_minus_refitted", *pair)
    pair = (f"auroc.{name}.{DECIDING}" for name in ("recommended", "density"))
    measured.difference(f"auroc_gain.recommended_minus_density.{DECIDING}", *pair)
    return measured


def decide(
    measured: Measured, threshold: float, checks: dict[str, Any], same_backbone: bool = True
) -> tuple[str, dict[str, Any]]:
    """Decide GO if the recommended score under a recipe chosen elsewhere beats gate 1's threshold on this cohort.

    Args:
        threshold: AUROC, gate 1's on this cohort.
        checks: ``bank_fits`` and ``recipe_chosen_elsewhere``; without them nothing was transferred.
        same_backbone: whether the recipes were chosen on this backbone; else nothing is decided.
    """
    low = measured.interval(f"auroc.recommended.{DECIDING}")[0]
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
    for kind, name, way in product(KINDS, RECORDED, WAYS):
        entry = metrics.get(f"{kind}.{name}.{way}")
        if entry is not None and entry["value"] is not None:
            place = {"cohort": cohort, "way": way, "score": name, "kind": kind}
            drawn.append(place | with_interval(entry))
    return drawn


def _crossed(cohort: Cohort, bank: FeatureSet, pictures: FeatureSet) -> list[tuple]:
    """Make triples of a modality's bank, the pictures of the other modalities, and these pictures' indices."""
    modality = {case.name: case.modality for case in cohort.cases}
    of_bank, of_pictures = (np.array([modality[name] for name in part.names]) for part in (bank, pictures))
    rows = [(kind, np.flatnonzero(of_pictures != kind)) for kind in sorted(set(of_bank))]
    return [(bank.subset(np.flatnonzero(of_bank == kind)), pictures.subset(there), there) for kind, there in rows]


def _scored(recipe: Recipe, pairs: list, n: int, rarities: dict[tuple, tuple]) -> np.ndarray:
    """Score by a recipe over pairs of bank and pictures, maps [N, T]; a third entry of a pair indexes its pictures.

    Args:
        n: N, all pictures.
        rarities: reference and bank rarity by bank and target block, shared by recipes; filled here.
    """
    parts = [_part(recipe, pair[0], pair[1], rarities) for pair in pairs]
    if len(pairs[0]) == 2:
        return np.concatenate(parts)
    out = np.empty((n, parts[0].shape[1]), dtype=parts[0].dtype)
    for part, pair in zip(parts, pairs, strict=True):
        out[pair[2]] = part
    return out


def _part(recipe: Recipe, bank: FeatureSet, pictures: FeatureSet, rarities: dict[tuple, tuple]) -> np.ndarray:
    if recipe.scorer not in LINEAR:
        return score_maps(recipe, bank, pictures, seed=SEED)

    def rarity_at(target_block):
        if (id(bank), target_block) not in rarities:
            rarities[id(bank), target_block] = rarity_of(bank, target_block)
        return rarities[id(bank), target_block]

    with construction("the recommended score"):
        fitted = fit(recipe.scorer, recipe.block, bank, recipe.settings, rarity_at)
    return direction_maps(recipe, fitted, pictures)
