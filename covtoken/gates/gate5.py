"""Gate 5, transfer: a recipe chosen on one cohort, run unchanged on others; and banks that come from elsewhere.

Four ways to score the same pictures (``WAYS``). *Elsewhere* decides: its recipes were chosen on one other cohort alone,
and where two could give them, the one that does worse counts. *Carried* and *foreign* keep the cohort's own recipe and
change the bank alone; of *foreign*, the control, one expects that it fails. The recommended score is the direction
itself: the label-free alarm, which lets membership A stand in for it in gate 1, has no say here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from covtoken.backbone.feature_set import FeatureSet
from covtoken.backbone.vit import FrozenViT
from covtoken.backbone.weights import load_backbone
from covtoken.bank.token_bank import check_alike
from covtoken.data.case import Case, Cohort
from covtoken.data.cohorts import RECIPE_COHORTS
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import SplitLabels, label
from covtoken.evaluation.measure import Measured, measure
from covtoken.evaluation.records import RecordedScores, Records, load_scores, scores_path, to_float16
from covtoken.evaluation.stats import auroc
from covtoken.keys import hash_unit
from covtoken.leak_guard import construction
from covtoken.names import WAYS
from covtoken.paths import project_root
from covtoken.protocol import locks
from covtoken.protocol.plan import BASELINES, FEW_UNITS, Plan, binding
from covtoken.protocol.planning import at_this_depth
from covtoken.protocol.report import GateRun, check_defect
from covtoken.protocol.scoring import need_lesions, shuffled_masks
from covtoken.protocol.setting import SEED, Setting, open_setting
from covtoken.scores.recipe import Recipe
from covtoken.scores.recommended import direction_maps
from covtoken.scores.scorers import SCORERS, score_maps
from covtoken.studies import banks as bank_choice
from covtoken.subspace.direction import bank_rarity, distilled, target_reference

TITLE = "Transfer"
QUESTION = "Does a recipe that was chosen on one cohort find lesions of other organs and modalities, unchanged?"
DECIDING = "elsewhere"
SHOWN = ("recommended", "density", *BASELINES)
RECORDED = ("recommended", "density")  # whose maps are kept; the baselines' numbers stand in the report
SOURCES = tuple(dict.fromkeys(RECIPE_COHORTS.values()))
ROUNDING = 1e-4  # a difference below it is another machine's float32, not another score
DEFECTS = {
    "other_backbone": "bank_fits",
    "shuffled_masks": "lower_bound_beats_threshold",
    "own_recipe": "recipe_chosen_elsewhere",
}
"""Planted defect → the check that must turn."""
HEADLINES = (
    *(f"{kind}.{score}.{way}" for kind in ("auroc", "image_auroc") for score in RECORDED for way in WAYS),
    f"auroc_gain.recommended.{DECIDING}_minus_refitted",
)


@dataclass(frozen=True)
class Source:
    """Where the recipes of the deciding way were chosen.

    Attributes:
        cohort: its name. recipes: scorer → recipe. data_fingerprint: of the data that chose them.
        weights_sha256: of the backbone on which they were chosen.
    """

    cohort: str
    recipes: dict[str, Recipe]
    data_fingerprint: str
    weights_sha256: str


@dataclass(frozen=True)
class Transfer:
    """What a gate 5 run scored.

    Attributes:
        plan: the cohort's own. cases: N, in the order of the maps. scores: the maps of *refitted*, with the labels.
    """

    plan: Plan
    cases: tuple[Case, ...]
    scores: RecordedScores


def run(setting: Setting, plan: Plan, *, defect: str | None = None, need_all: bool = False) -> GateRun:
    """Run gate 5 from pixels.

    Args:
        setting: cohort, split and backbone.
        plan: the cohort's own.
        defect: plant one of ``DEFECTS``: ``other_backbone`` builds the banks from elsewhere with random weights,
            ``shuffled_masks`` mixes masks up, ``own_recipe`` takes the cohort's own recipe for one chosen elsewhere.
        need_all: raise where the data of a bank from elsewhere are not there, as recording asks.

    Raises:
        CovtokenError: no recipe locked elsewhere, a split without lesions.
    """
    check_defect(defect, tuple(DEFECTS))
    started = time.perf_counter()
    cohort, vit, bound = setting.cohort, setting.vit, binding(setting)
    own = Source(cohort.name, plan.recipes, bound["data_fingerprint"], vit.weights_sha256)
    sources = [own] if defect == "own_recipe" else [source(name, vit) for name in SOURCES if name != cohort.name]
    pairs, cases = setting.pairs()
    pictures = pairs[0][1] if len(pairs) == 1 else setting.features(cases)  # of all folds, in their order
    elsewhere = setting
    if defect == "other_backbone":
        elsewhere = replace(setting, vit=load_backbone(f"random:{_TIMM}", vit.picture_size), digests={})
    banks, blank = banks_elsewhere(elsewhere, pictures, need_all)
    ways: dict[str, tuple[dict[str, Recipe], list]] = {"refitted": (plan.recipes, pairs)}
    ways |= {f"recipe_of_{one.cohort}": (one.recipes, pairs) for one in sources}
    misfits = []
    for way, (of, found) in banks.items():  # only the bank changes
        try:
            for pair in found:
                check_alike(pair[0], pair[1])
        except CovtokenError as error:
            misfits.append(f"{of}: {error}")
            continue
        ways[way] = (plan.recipes, found)
    maps = all_maps(ways, len(cases))
    labels = label(cases, cohort, *setting.grid)
    need_lesions(labels, cohort, setting.split)
    if defect == "shuffled_masks":
        labels = shuffled_masks(labels)
    worse = min(sources, key=lambda one: _auroc(maps[f"recommended.recipe_of_{one.cohort}"], labels))
    renamed = {name.replace(f".recipe_of_{worse.cohort}", f".{DECIDING}"): values for name, values in maps.items()}
    header = {
        "cohort": cohort.name,
        "gate": "5",
        "split": setting.split,
        "backbone": vit.name,
        "units": [hash_unit(unit) for unit in sorted({case.unit for case in cases})],
        "rows": setting.grid[0],
        "cols": setting.grid[1],
        "elsewhere": worse.cohort,
        **bound,
    }
    kept = {f"{score}.{way}" for score in RECORDED for way in WAYS} & renamed.keys()
    extra = {name: renamed[name] for name in sorted(kept) if not name.endswith(".refitted")}
    refitted = {score: renamed[f"{score}.refitted"] for score in RECORDED}
    scores = RecordedScores(refitted, labels, header)
    records = Records(extra, header)
    measured = headline(records, scores)
    rest = {name: values for name, values in renamed.items() if name not in kept}
    others = measure(rest, labels, *setting.grid, full=(), image=rest)
    for score in (name for name in BASELINES if f"auroc.{name}.{DECIDING}" in others.values):
        for kind in ("auroc", "image_auroc"):
            ours, theirs = f"{kind}.recommended.{DECIDING}", f"{kind}.{score}.{DECIDING}"
            measured.difference(f"{kind}_gain.recommended_minus_{score}.{DECIDING}", ours, theirs, of=others)
    checks: dict[str, Any] = {
        "bank_fits": not misfits if banks else "not tried",
        "recipe_chosen_elsewhere": all(_is_other(one, own) for one in sources),
        "plan_locked_before": plan.locked,
    }
    same_backbone = all(one.weights_sha256 == vit.weights_sha256 for one in sources)
    decision, checks = decide(measured, plan.threshold, checks, same_backbone)
    metrics = others.entries() | measured.entries()
    report = setting.report(
        *(5, TITLE, QUESTION),
        started=started,
        parameters={
            **bound["method"],
            "curated": cohort.curated,
            "modality": cohort.modality,
            "organs": sorted({case.organ for case in cases if case.organ}),
            "n_lesions": len(labels.lesions),
            "n_lesion_images": int(labels.lesion.any(axis=1).sum()),
            "elsewhere": worse.cohort,
            "sources": [
                {"cohort": s.cohort, "recipes": {name: r.to_json() for name, r in s.recipes.items() if name in SHOWN}}
                for s in sources
            ],
            "banks": {way: of for way, (of, _) in banks.items()},
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
    """The recipes that one recipe cohort alone gives: its lock's, and the recommended rule over its own tables.

    On a backbone of no lock they are moved to the same depth, and decide nothing.

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
    chosen = replace(
        chosen, block=here.block, settings=replace(chosen.settings, target_block=here.settings.target_block)
    )
    return Source(name, plan.recipes | {"recommended": chosen}, entry["data_fingerprint"], entry["weights_sha256"])


def banks_elsewhere(
    setting: Setting, pictures: FeatureSet, need_all: bool = False
) -> tuple[dict[str, tuple[str, list]], dict[str, str]]:
    """Build the banks that do not come from the cohort's own split, by way, and say why a way has none.

    The phantom draws two modalities: each half is scored with the bank of the other, and no other cohort is like it.

    Args:
        setting: the evaluated cohort, and the backbone of the banks.
        pictures: of the evaluated split.
        need_all: raise where a bank's data are not there, as recording asks, instead of leaving the way blank.

    Returns:
        way → (what feeds the bank, pairs of bank and pictures as ``_scored`` takes them); way → reason.
    """
    cohort = setting.cohort
    if cohort.name == "phantom":
        bank = setting.features(setting.cases_of("bank"))
        blank = {"carried": "no other cohort is drawn as the phantom is"}
        return {"foreign": ("the phantom's other half", _crossed(cohort, bank, pictures))}, blank
    near = RECIPE_COHORTS.get(cohort.modality)
    found, blank = {}, {}
    for way, name in (("carried", near), ("foreign", next(name for name in SOURCES if name != near))):
        if name == cohort.name:
            blank[way] = "the cohort is itself the recipe cohort of its modality"
            continue
        if name is None:
            blank[way] = f"no recipe cohort is of the modality {cohort.modality!r}"
            continue
        try:
            found[way] = (name, [(carried_bank(name, setting), pictures)])
        except CovtokenError as error:
            if need_all:
                raise
            blank[way] = str(error)
    return found, blank


def carried_bank(name: str, setting: Setting) -> FeatureSet:
    """Extract the bank split of a recipe cohort, without the units that are about to be scored.

    Args:
        name: of the recipe cohort.
        setting: the evaluated cohort, and the backbone of the bank.

    Raises:
        CovtokenError: its data are not there, or nothing is left.
    """
    how = {"precision": setting.precision, "cache": setting.cache, "progress": setting.progress}
    source = open_setting(name, None, setting.vit, **how).limited(setting.most_units)
    return source.features(_not_scored(source, setting.cohort.units))


def _not_scored(source: Setting, scored: Iterable[str]) -> list[Case]:
    """The bank cases of a recipe cohort whose units are not among those that are scored."""
    scored = set(scored)
    cases = [case for case in source.cases_of("bank") if case.unit not in scored]
    if not cases:
        name = source.cohort.name
        raise CovtokenError(f"every unit of the bank of {name} is also scored: there is no bank to carry over")
    return cases


def all_maps(ways: dict[str, tuple[dict[str, Recipe], list]], n: int) -> dict[str, np.ndarray]:
    """Maps [N, T] float16 by ``<score>.<way>``; a map that two ways share is made once."""
    made: dict[tuple, np.ndarray] = {}
    rarities: dict[tuple, tuple] = {}
    found = {}
    for way, (recipes, pairs) in ways.items():
        for name in (name for name in SHOWN if name in recipes):
            recipe = recipes[name]
            key = (recipe, id(pairs[0][0]) if "bank" in SCORERS[recipe.scorer].needs else len(pairs))
            if key not in made:
                made[key] = to_float16(_scored(recipe, pairs, n, rarities))
            found[f"{name}.{way}"] = made[key]
    return found


def headline(records: Records, scores: RecordedScores | None = None) -> Measured:
    """The headline metrics: the same function for a fresh run and for the committed files.

    Args:
        scores: of *refitted*, with the labels; None: gate 1's committed file of the cohort.

    Raises:
        CovtokenError: the two files are not of the same pictures.
    """
    cohort = records.header["cohort"]
    scores = scores or load_scores(scores_path(project_root(), cohort))
    for key in ("units", "data_fingerprint", "split", "backbone"):
        if records.header[key] != scores.header[key]:
            raise CovtokenError(f"{cohort}: gate 5's records and gate 1's scores differ in {key}: record both anew")
    if scores.header.get("recommended_is", "D") != "D":
        raise CovtokenError(f"{cohort}: in gate 1's scores membership A stands in for the recommended score: no pair")
    maps = {f"{name}.refitted": scores.scores[name] for name in RECORDED} | dict(records.arrays)
    measured = measure(maps, scores.labels, records.header["rows"], records.header["cols"], full=(), image=maps)
    for name in RECORDED:
        for way in (way for way in WAYS if way != "refitted" and f"{name}.{way}" in maps):
            for kind in ("auroc", "image_auroc"):
                ours, theirs = f"{kind}.{name}.{way}", f"{kind}.{name}.refitted"
                measured.difference(f"{kind}_gain.{name}.{way}_minus_refitted", ours, theirs)
    measured.difference(
        f"auroc_gain.recommended_minus_density.{DECIDING}", f"auroc.recommended.{DECIDING}", f"auroc.density.{DECIDING}"
    )
    return measured


def decide(
    measured: Measured, threshold: float, checks: dict[str, Any], same_backbone: bool = True
) -> tuple[str, dict[str, Any]]:
    """GO if the recommended score under a recipe chosen elsewhere lies above gate 1's threshold on this cohort.

    Args:
        checks: ``bank_fits`` and ``recipe_chosen_elsewhere``; without them nothing was transferred.
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
    """Rows for the heat map: {cohort, way, score, kind, value, lo, hi}, of the ways that the cohort has."""
    found = []
    for kind in ("auroc", "image_auroc"):
        for name in RECORDED:
            for way in WAYS:
                entry = metrics.get(f"{kind}.{name}.{way}")
                if entry is not None and entry["value"] is not None:
                    low, high = entry["ci95"] or (None, None)
                    place = {"cohort": cohort, "way": way, "score": name, "kind": kind}
                    found.append(place | {"value": entry["value"], "lo": low, "hi": high})
    return found


_TIMM = "vit_small_patch14_dinov2"  # random weights of the embedded model's form: only names and hashes tell them apart


def _crossed(cohort: Cohort, bank: FeatureSet, pictures: FeatureSet) -> list[tuple]:
    """Triples of a modality's bank, the pictures of all others, and their rows."""
    modality = {case.name: case.modality for case in cohort.cases}
    of_bank, of_pictures = (np.array([modality[name] for name in one.names]) for one in (bank, pictures))
    rows = [(kind, np.flatnonzero(of_pictures != kind)) for kind in sorted(set(of_bank))]
    return [(bank.subset(np.flatnonzero(of_bank == kind)), pictures.subset(there), there) for kind, there in rows]


def _is_other(one: Source, own: Source) -> bool:
    """Whether a recipe was chosen on other data than those it is tried on."""
    return one.cohort != own.cohort and one.data_fingerprint != own.data_fingerprint


def _auroc(maps: np.ndarray, labels: SplitLabels) -> float:
    return auroc(maps.astype(np.float64), labels.lesion, ~labels.ignore)


def _scored(recipe: Recipe, pairs: list, n: int, rarities: dict[tuple, tuple]) -> np.ndarray:
    """Maps [N, T] of a recipe over pairs of bank and pictures; a third entry of a pair names the rows of its pictures.

    Args:
        n: N. rarities: what the search for rarity gave, by bank and target block: directions of several recipes share
            it. It is filled here.
    """
    parts = [_part(recipe, pair[0], pair[1], rarities) for pair in pairs]
    if len(pairs[0]) == 2:
        return np.concatenate(parts)
    out = np.empty((n, parts[0].shape[1]), dtype=parts[0].dtype)
    for part, pair in zip(parts, pairs, strict=True):
        out[pair[2]] = part
    return out


def _part(recipe: Recipe, bank: FeatureSet, pictures: FeatureSet, rarities: dict[tuple, tuple]) -> np.ndarray:
    if recipe.scorer != "direction":
        return score_maps(recipe, bank, pictures, seed=SEED)
    target_block = recipe.settings.target_block
    with construction("the recommended score"):
        if (id(bank), target_block) not in rarities:
            reference = target_reference(bank, target_block)
            rarities[id(bank), target_block] = reference, bank_rarity(bank, reference)
        fitted = distilled(bank, recipe.block, *rarities[id(bank), target_block], recipe.settings)
    return direction_maps(recipe, fitted, pictures)
