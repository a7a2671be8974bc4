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

from covtoken.backbone.cache import features
from covtoken.backbone.feature_set import FeatureSet
from covtoken.backbone.vit import FrozenViT
from covtoken.backbone.weights import load_backbone
from covtoken.data.case import Cohort
from covtoken.data.cohorts import RECIPE_COHORTS, data_fingerprint, open_cohort, picture_size
from covtoken.data.splits import FEWEST_UNITS, N_FOLDS, SMALL_COHORT, folds, load_splits
from covtoken.errors import CovtokenError, unknown
from covtoken.evaluation.choice import choose
from covtoken.evaluation.labels import SplitLabels, label, small_cut
from covtoken.evaluation.measure import N_DRAWS, Measured, measure
from covtoken.evaluation.recorded import RecordedScores, hashed_units, to_float16
from covtoken.gates import locks
from covtoken.gates.alarm import alarm_sentence, scaled_alarm
from covtoken.gates.gate1_rows import block_rows, density_rows, gain_rows
from covtoken.gates.report import GateReport, provenance
from covtoken.subspace.alarm import check_bank
from covtoken.subspace.pooling import smooth
from covtoken.subspace.recommended import recommended_maps
from covtoken.subspace.scorers import CORESET, RECOMMENDED, SCORERS, SIGMAS, Recipe, raw_maps, recommended, score_maps

TITLE = "Where lesions live"
QUESTION = "At which block does label-free membership point at lesions, and does it beat what a person would try first?"
BASELINES = (
    "centre_prior",
    "attention_best",
    "attention_last",
    "token_norm",
    "intensity",
    "variance",
    "patchcore",
    "random",
    "saliency_head",
    "head_student",
)
MEMBERSHIPS = ("density", "residual")
FIXED = ("recommended", "rarity", "direction_without_head")  # one recipe for all cohorts: not chosen here
PROPOSED = ("recommended", *MEMBERSHIPS, "rarity", "direction_without_head")
SEARCHING = (*PROPOSED, "patchcore")  # what is proposed, and what searches a bank: neither sets a threshold
PIXELS_ONLY = (  # reported, but not among the ten recorded scorers
    "residual",
    "rarity",
    "direction_without_head",
    "token_norm",
    "attention_last",
    "variance",
    "random",
)
FEW_UNITS = 20  # with fewer evaluated units a gate prints its numbers and decides nothing
SEED = 0
METHOD_PARAMETERS = {
    "reference_size": 12_000,
    "k": 10,
    "coreset": CORESET,
    "sigmas": list(SIGMAS),
    "label_threshold": 0.25,
    "n_draws": N_DRAWS,
    "recommended": RECOMMENDED.to_json(),
}
DEFECTS = ("shuffled_masks", "transposed_grid", "final_as_middle")


@dataclass(frozen=True)
class Plan:
    """What is fixed before a test split is looked at.

    Attributes:
        recipes: scorer → recipe, ``density`` and every baseline.
        middle: the middle block (1…L): best plain density on the selection split.
        threshold: AUROC that the lower bound of ``auroc.recommended`` must beat; reason: where it comes from.
        small_cut: lesions up to this area (mm² or share of the picture) are small.
        table: every variant looked at on the selection split.
    """

    recipes: dict[str, Recipe]
    middle: int
    threshold: float
    reason: str
    small_cut: float
    table: tuple[dict, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "recipes": {name: recipe.to_json() for name, recipe in self.recipes.items()},
            "middle": self.middle,
            "threshold": self.threshold,
            "threshold_reason": self.reason,
            "small_cut": self.small_cut,
        }

    @staticmethod
    def from_json(content: dict[str, Any]) -> Plan:
        recipes = {name: Recipe.from_json(recipe) for name, recipe in content["recipes"].items()}
        return Plan(recipes, content["middle"], content["threshold"], content["threshold_reason"], content["small_cut"])


@dataclass(frozen=True)
class Gate1Run:
    """A report, the scores it was computed from, and the parts that a notebook draws."""

    report: GateReport
    recorded: RecordedScores
    plan: Plan
    cases: tuple
    cohort: Cohort


def run_gate1(
    cohort: str = "phantom",
    split: str = "selection",
    backbone: str = "embedded",
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
        cohort: a committed cohort, or a folder with ``index.csv``.
        split: ``selection`` (choose and report), ``test`` (the plan comes from the lock; for a cohort without a lock,
            from its own selection split in the same run) or ``crossfit`` (small cohorts: recipe of a large cohort).
        data: the cohort's folder, where it is not under ``COVTOKEN_DATA``.
        defect: plant one of ``DEFECTS``, for the test that the verdict turns.
        fixed_plan: evaluate this plan, whatever the lock holds (spread measurements).
        need_lock: refuse to make a plan in this run, as recording asks.
        limit_units: only so many units of each split, by keyed hash (spread measurements).

    Raises:
        CovtokenError: unknown names, a lock made for other data or weights, a split without lesions.
    """
    started = time.perf_counter()
    opened = open_cohort(cohort, **({"folder": data} if data else {}))
    vit = load_backbone(backbone, picture_size=picture_size(opened.name))
    split = resolve_split(opened, split)
    extracting = _Extractor(vit, precision, cache, progress)
    if limit_units:
        opened = limited(opened, limit_units)
    found = binding(opened, vit)
    plan, locked = (fixed_plan, True) if fixed_plan else _plan_for(opened, split, extracting, found, need_lock)
    maps, labels, cases, alarms = _score(opened, split, plan, extracting)
    _need_lesions(labels, opened, split)
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


def decide(measured: Measured, threshold: float, n_units: int) -> tuple[str, dict[str, Any]]:
    """GO, NO-GO or NO-VERDICT, and each check behind it; a verdict against every baseline, whatever it is."""
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
    if n_units < FEW_UNITS:
        return "NO-VERDICT", checks
    return ("GO" if checks["middle_beats_final"] and checks["lower_bound_beats_threshold"] else "NO-GO"), checks


def make_plan(cohort: Cohort, extracting: _Extractor) -> Plan:
    """Choose every recipe, the middle block and the threshold on the selection split.

    Raises:
        CovtokenError: the cohort is too small to choose anything on.
    """
    splits = load_splits(cohort)
    vit = extracting.vit
    bank = extracting(_in_split(cohort, splits, "bank"))
    selection_cases = _in_split(cohort, splits, "selection")
    selection = extracting(selection_cases)
    labels = label(selection_cases, cohort, selection.rows, selection.cols)
    _need_lesions(labels, cohort, "selection")
    chosen = {}
    for name in (*MEMBERSHIPS, *SCORERS):
        no_head = "saliency" in SCORERS[name].needs and not vit.has_saliency_head
        if name in chosen or name in ("direction", *FIXED) or no_head:
            continue
        final = (vit.n_blocks, "norm") if name == "density" else ()
        chosen[name] = choose(name, bank, selection, labels, vit.n_blocks, blocks=final, seed=SEED)
    plain = [row for row in chosen["density"].table if not row["pooled"] and row["sigma"] == 0]
    middle_blocks = {row["block"] for row in plain} - {vit.n_blocks, "norm"}
    middle = max((row for row in plain if row["block"] in middle_blocks), key=lambda row: row["auroc"])["block"]
    norms = max(("token_norm", "token_norm_centred"), key=lambda name: chosen[name].auroc)
    chosen["token_norm"] = chosen[norms]
    chosen.pop("token_norm_centred")
    chosen["attention_best"] = chosen.pop("attention")
    simple = {name: choice.auroc for name, choice in chosen.items() if name not in SEARCHING}
    best = max(simple, key=simple.get)
    return Plan(
        recipes={name: choice.recipe for name, choice in chosen.items()} | fixed_recipes(vit),
        middle=middle,
        threshold=round(simple[best], 4),
        reason=f"best tuned baseline without a rarity search on the selection split: {best}",
        small_cut=small_cut(labels.lesions),
        table=tuple(row for choice in chosen.values() for row in choice.table),
    )


def fixed_recipes(vit: FrozenViT) -> dict[str, Recipe]:
    """The recipes that no cohort chooses: the recommended one, PN as its target is made, and D without the head."""
    recipe = recommended(vit.n_blocks)
    found = {"recommended": recipe, "rarity": Recipe("rarity", recipe.extra[0], True, recipe.sigma)}
    if vit.has_saliency_head:
        found["direction_without_head"] = replace(recipe, scorer="direction_without_head")
    return found


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


def binding(cohort: Cohort, vit: FrozenViT) -> dict[str, Any]:
    """What a lock binds: the data, the weights and the method's parameters."""
    return {
        "data_fingerprint": data_fingerprint(cohort),
        "weights_sha256": vit.weights_sha256,
        "method": {"picture_size": vit.picture_size, "seed": SEED, **METHOD_PARAMETERS},
    }


def resolve_split(cohort: Cohort, split: str) -> str:
    """Small cohorts have the one split ``crossfit``; large ones have selection and test."""
    if split not in ("selection", "test", "crossfit"):
        raise CovtokenError(f"split {split!r}: expected selection, test or crossfit")
    return "crossfit" if len(cohort.units) < SMALL_COHORT else ("test" if split == "crossfit" else split)


def limited(cohort: Cohort, n_units: int) -> Cohort:
    """The cohort with at most ``n_units`` units of each split, chosen by keyed hash, so blind to everything else.

    A small cohort, which has no split but its folds, keeps so many in all, and enough to be cross-fitted.
    """
    small = len(cohort.units) < SMALL_COHORT
    splits = dict.fromkeys(cohort.units, "all") if small else load_splits(cohort)
    n_units = max(n_units, FEWEST_UNITS) if small else n_units
    kept = []
    for split in sorted(set(splits.values())):
        units = (unit for unit in cohort.units if splits[unit] == split)
        kept += sorted(units, key=lambda unit: hashed_units([unit])[0])[:n_units]
    return replace(cohort, cases=cohort.subset(kept))


def recorded_names(plan: Plan, n_blocks: int) -> list[str]:
    """The at most ten scorers whose scores are recorded (the centre prior is recomputed from the grid)."""
    plain = [f"density.block{plan.middle}", f"density.block{n_blocks}", "density.norm"]
    return [
        "recommended",
        "density",
        *dict.fromkeys(plain),
        *(n for n in BASELINES if n not in PIXELS_ONLY and n != "centre_prior"),
    ]


def centre_maps(plan: Plan, rows: int, cols: int, n: int) -> np.ndarray:
    """The centre prior's maps [n, T]: they depend on the grid alone."""
    blank = FeatureSet.from_arrays({}, rows, cols, units=["-"] * n)
    return score_maps(plan.recipes["centre_prior"], blank, blank)


class _Extractor:
    """Cases → FeatureSet of everything gate 1 reads, extracted once."""

    def __init__(self, vit: FrozenViT, precision: str, cache: bool, progress: bool) -> None:
        self.vit, self.precision, self.cache, self.progress = vit, precision, cache, progress
        side = vit.picture_size // vit.patch
        self.grid = (side, side)

    def __call__(self, cases) -> FeatureSet:
        blocks = range(1, self.vit.n_blocks + 1)
        return features(
            cases,
            self.vit,
            blocks=(*blocks, "norm"),
            attention=tuple(blocks),
            saliency=self.vit.has_saliency_head,
            precision=self.precision,
            cache=self.cache,
            progress=self.progress,
        )


def _plan_for(
    cohort: Cohort, split: str, extracting: _Extractor, found: dict, need_lock: bool = False
) -> tuple[Plan, bool]:
    """The locked plan where there is one, the recipe cohort's plan for a small cohort, else a plan made here.

    Args:
        need_lock: refuse, before anything is extracted, instead of making a plan here.
    """
    if split == "crossfit":
        return _recipe_plan(cohort, extracting.vit, found), True
    if split == "test":
        entry = locks.entry(locks.THRESHOLDS, cohort.name, 1)
        if entry is not None and entry["backbone"] == extracting.vit.name:
            locks.check_binding(entry, found, f"{cohort.name} gate 1")
            return Plan.from_json(entry), True
    if need_lock:
        raise CovtokenError(
            f"{cohort.name}: no lock for backbone {extracting.vit.name!r}, nothing is recorded. Run the selection "
            "split, then `covtoken lock thresholds`"
        )
    return make_plan(cohort, extracting), False


def _recipe_plan(cohort: Cohort, vit: FrozenViT, found: dict) -> Plan:
    """A small cohort chooses nothing: the locked recipe of its modality, with its own small-lesion cut set later.

    Where that recipe cohort has no lock, BUSI's recipe stands in; the plan's reason names it.
    """
    if cohort.modality not in RECIPE_COHORTS:
        raise unknown(f"modality of {cohort.name} (it names the recipe)", cohort.modality, list(RECIPE_COHORTS))
    if len(cohort.units) < FEWEST_UNITS:
        raise CovtokenError(
            f"{cohort.name} has {len(cohort.units)} units: cross-fitting needs at least {FEWEST_UNITS}, so that the "
            "others give a bank; add patients"
        )
    recipe_cohort = RECIPE_COHORTS[cohort.modality]
    for name in (recipe_cohort, "busi"):
        entry = locks.entry(locks.THRESHOLDS, name, 1)
        if entry is not None and entry["backbone"] == vit.name:
            own_data = {"data_fingerprint": found["data_fingerprint"]}  # other data is the point of a recipe
            locks.check_binding(entry | own_data, found, f"{name} gate 1, as the recipe of {cohort.name}")
            plan = Plan.from_json(entry)
            return replace(plan, reason=f"recipe and threshold of {name}: {plan.reason}")
    raise CovtokenError(
        f"{cohort.name} has {len(cohort.units)} units, fewer than {SMALL_COHORT}: it takes the locked recipe of "
        f"{recipe_cohort!r}, and none is locked for backbone {vit.name!r}. Use the backbone of a lock in "
        f"configs/{locks.THRESHOLDS}, or run `covtoken gate 1 --cohort {recipe_cohort} --backbone {vit.name}`, then "
        f"`covtoken lock thresholds --cohort {recipe_cohort}`"
    )


def _score(cohort: Cohort, split: str, plan: Plan, extracting: _Extractor):
    """Score maps [N, T] in float16 by name, labels, and the evaluated cases; labels enter after the scores exist."""
    if split == "crossfit":
        fold_of = folds(cohort.units, N_FOLDS)
        everything = extracting(cohort.cases)
        of = np.array([fold_of[case.unit] for case in cohort.cases])
        inside = [np.flatnonzero(of == fold) for fold in range(N_FOLDS)]
        pairs = [(everything.subset(np.flatnonzero(of != f)), everything.subset(rows)) for f, rows in enumerate(inside)]
        evaluated = [cohort.cases[i] for rows in inside for i in rows]
    else:
        splits = load_splits(cohort)
        evaluated = _in_split(cohort, splits, split)
        pairs = [(extracting(_in_split(cohort, splits, "bank")), extracting(evaluated))]
    extracting.grid = (pairs[0][1].rows, pairs[0][1].cols)
    parts = [_all_maps(plan, bank, pictures, extracting.vit) for bank, pictures in pairs]
    alarms = _heed_alarms(parts, pairs, plan, extracting.vit)
    maps = {name: to_float16(np.concatenate([part[name] for part in parts])) for name in parts[0]}
    return maps, label(evaluated, cohort, *extracting.grid), tuple(evaluated), alarms


def _all_maps(plan: Plan, bank: FeatureSet, pictures: FeatureSet, vit: FrozenViT) -> dict[str, np.ndarray]:
    chosen = {name: recipe for name, recipe in plan.recipes.items() if name not in FIXED}
    maps = {name: score_maps(recipe, bank, pictures, seed=SEED) for name, recipe in chosen.items()}
    try:
        maps |= recommended_maps(plan.recipes["recommended"], bank, pictures, "direction_without_head" in plan.recipes)
    except CovtokenError as error:
        n = f"{len(set(bank.units))} units, {len(bank)} pictures"
        raise CovtokenError(
            f"no direction can be fitted to this bank of {n}: {error}; give pictures that differ"
        ) from error
    for block in range(1, vit.n_blocks + 1):
        maps[f"density.block{block}"] = raw_maps("density", block, False, bank, pictures, seed=SEED)
        maps[f"attention.block{block}"] = raw_maps("attention", block, False, bank, pictures, seed=SEED)
    maps["density.norm"] = raw_maps("density", "norm", False, bank, pictures, seed=SEED)
    return maps


def _heed_alarms(parts: list[dict[str, np.ndarray]], pairs, plan: Plan, vit: FrozenViT) -> list[dict[str, Any]]:
    """Ask the label-free alarm whether the banks carry a direction; where one fires, A stands in for the recommended.

    In cross-fitting it stands in for all folds: D and A have other scales, and one pooled number needs one score.

    Returns:
        the alarms as the report keeps them, a dict a bank: fired, reasons, statistics, score, fallback, limits_of.
    """
    limits, recipes, limits_of = scaled_alarm(vit)
    fallback, said, stand_in = recipes.fallback, [], []
    for maps, (bank, pictures) in zip(parts, pairs, strict=True):
        raw = None if fallback.pooled else maps.get(f"density.block{fallback.block}")
        theirs = None if raw is None else smooth(raw, pictures.rows, pictures.cols, fallback.sigma)
        theirs = score_maps(fallback, bank, pictures, seed=SEED) if theirs is None else theirs
        ours = maps["recommended"] if plan.recipes["recommended"] == recipes.direction else None
        said.append(check_bank(bank, pictures, recipes.direction, fallback, limits, ours, theirs))
        stand_in.append(theirs)
    fired = any(alarm.fired for alarm in said)
    for maps, theirs in zip(parts, stand_in, strict=True):
        maps["recommended"] = theirs if fired else maps["recommended"]
    return [
        {
            "fired": alarm.fired,
            "reasons": list(alarm.reasons),
            "statistics": {k: None if v is None else round(v, 4) for k, v in alarm.statistics.items()},
            "score": "A" if fired else "D",
            "fallback": fallback.to_json(),
            "limits_of": limits_of,
        }
        for alarm in said
    ]


def _in_split(cohort: Cohort, splits: dict[str, str], split: str):
    cases = tuple(case for case in cohort.cases if splits.get(case.unit) == split)
    if not cases:
        raise CovtokenError(f"{cohort.name}: no case in the {split} split; the cohort has {len(cohort.units)} units")
    return cases


def _need_lesions(labels: SplitLabels, cohort: Cohort, split: str) -> None:
    if not labels.lesions:
        raise CovtokenError(
            f"{cohort.name}: none of the {len(labels.unit)} pictures of the {split} split holds a lesion, so nothing "
            "can be measured; check the masks, or add pictures"
        )


def _unit_names(cases) -> list[str]:
    return sorted({case.unit for case in cases})


def _report(recorded, measured, others, plan, cohort, locked, alarms, started) -> GateReport:
    header, labels = recorded.header, recorded.labels
    decision, checks = decide(measured, plan.threshold, measured.n[0])
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
