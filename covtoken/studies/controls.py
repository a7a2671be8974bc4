"""Controls of C−: what of its gain is rarity, what is the fit, and what another bank or reference costs it.

    content = run_controls("busi")     # selection split alone, fitted on the bank split

A control is C− with one thing changed, or another score beside it. Kinds:

    score      C− itself, D, C, A, rarity PN without the fit, the saliency head, its student at C−'s block and σ
    source     C−'s fit and settings on another source in the place of rarity, such as random numbers
    head       C− read off tokens that say nothing linear about the head's logit (``erasure.without_linear``)
    bank       C− fitted to few units, to pictures without lesions, to another modality
    reference  C− whose rarity is searched in tokens that another hash key chose
    component  C− with each rule for the called tokens that stay

Every difference is C− minus the control, paired. Intervals resample the scored units alone: what another bank or
another reference would change is not in them, and stands in rows of its own and in ``reference_spread``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
import torch
from rich.progress import track

from covtoken.backbone.feature_set import FeatureSet
from covtoken.bank.features import Features
from covtoken.bank.pooling import smooth
from covtoken.bank.token_bank import KEY
from covtoken.evaluation.labels import SplitLabels
from covtoken.evaluation.measure import measure
from covtoken.leak_guard import construction
from covtoken.protocol.alarm_limits import DENSITY
from covtoken.protocol.setting import SEED, Setting, open_setting
from covtoken.scores import baselines
from covtoken.scores.memberships import SOURCE_SIGMA, fit, rarity_of
from covtoken.scores.recipe import FIXED, Recipe, at_depth, needs_head, recommended, scaled
from covtoken.scores.recommended import LINEAR, direction_maps
from covtoken.scores.scorers import find, score_maps
from covtoken.studies import study
from covtoken.studies.alarm_conditions import without_lesions
from covtoken.studies.banks import KEYS
from covtoken.studies.study import Study
from covtoken.subspace.consensus import RULES, fit_consensus
from covtoken.subspace.direction import bank_rarity, target_reference

STUDY = Study("controls", "covtoken-controls/1", "covtoken ablate --controls", "controls")
MEASURES = ("auroc", "image_auroc", "aupr")
OURS, DENSITY_ROW, RARITY_ROW, RANDOM_ROW = "score/recommended", "score/density", "score/rarity", "source/random"
SOURCES = ("head", "attention", "attention+head", "rarity+head")  # that a recipe can name; others: ``other_sources``
SHARES = (0.05, 0.1, 0.2)
REFERENCE_KEYS = (KEY, "covtoken-controls-1", "covtoken-controls-2", "covtoken-controls-3")
FOREIGN = {"busi": "lidc-crops", "lidc-crops": "busi", "phantom": "busi"}
WITHOUT_LESIONS = "without lesions"
CHOSEN_BY_LABEL = "chosen by a label, for evaluation alone"


@dataclass(frozen=True, eq=False)
class Control:
    """A control's maps of the scored pictures and the bank that fed it."""

    key: str  # kind/name
    maps: np.ndarray = field(repr=False)  # [N, T]
    bank: Features = field(repr=False)
    note: str = ""  # how the bank was made


def run_controls(
    cohort: str, backbone: str = "embedded", *, data: str | None = None, cache: bool = True, progress: bool = True
) -> dict[str, Any]:
    """Measure C− and its controls on a cohort's selection split; return the content, ready to be written.

    Raises:
        CovtokenError: unknown names, or a cohort without the splits or lesions.
    """
    started = time.perf_counter()
    setting = study.open_study(cohort, backbone, data=data, cache=cache, progress=progress)
    vit, ours = setting.vit, recommended(setting.vit.n_blocks)
    recipes = recipes_on_the_whole_bank(vit.n_blocks, vit.has_saliency_head)
    both = ((recipe.block, getattr(recipe.settings, "target_block", None)) for recipe in recipes.values())
    blocks = sorted({block for pair in both for block in pair if block})
    splits = study.split_features(setting, blocks, vit.has_saliency_head, (ours.settings.attention_block,))
    bank, selection, labels = splits
    found = controls(bank, selection, recipes, other_banks(setting, bank, blocks))
    found = list(track(found, f"controls, {setting.cohort.name}", total=None, disable=not progress))
    more = measured(found, labels, selection.rows, selection.cols)
    return study.content_of(STUDY, setting, splits, started, recipe=ours.to_json(), **more)


def recipes_on_the_whole_bank(n_blocks: int, with_head: bool) -> dict[str, Recipe]:
    """List the controls that a recipe names, by kind/name, C− first; no head, where the backbone has none."""
    ours = recommended(n_blocks)

    def varied(**changes: str) -> Recipe:
        return replace(ours, settings=replace(ours.settings, **changes))

    found = {
        OURS: ours,
        **{f"score/{name}": scaled(recipe, n_blocks) for name, recipe in FIXED.items() if name != "recommended"},
        DENSITY_ROW: replace(DENSITY, block=at_depth(DENSITY.block, n_blocks)),
        RARITY_ROW: Recipe("rarity", ours.settings.target_block, True, ours.sigma),
        "score/saliency_head": Recipe("saliency_head"),
        "score/head_student": Recipe("head_student", ours.block, True, ours.sigma),
        **{f"source/{sources}": varied(sources=sources) for sources in SOURCES},
        "head/without_head": replace(ours, scorer="without_head"),
        **{f"component/{rule}": varied(component=rule) for rule in RULES},
    }
    reads_head = {key for key, r in found.items() if needs_head(r) or "saliency" in find(r.scorer).needs}
    return {key: recipe for key, recipe in found.items() if with_head or key not in reads_head}


def controls(
    bank: Features, selection: Features, recipes: Mapping[str, Recipe], banks: Sequence[tuple[str, Features, str]]
) -> Iterator[Control]:
    """Score pictures with every control, a search of each bank or reference.

    Args:
        recipes: of controls on the whole bank, by kind/name; holds C−.
        banks: (name, pictures, note) of other banks.
    """
    ours, rarity_at = recipes[OURS], cache(partial(rarity_of, bank))
    for key, recipe in recipes.items():
        made = partial(_linear_maps, rarity_at=rarity_at) if recipe.scorer in LINEAR else score_maps
        yield Control(key, made(recipe, bank, selection), bank)
    for name, source in other_sources(bank, rarity_at(ours.settings.target_block)[1]).items():
        fitted = fit_consensus(bank, ours.block, [source], replace(ours.settings, sources=name))
        yield Control(f"source/{name}", direction_maps(ours, fitted, selection), bank)
    for name, part, note in banks:
        yield Control(f"bank/{name}", _linear_maps(ours, part, selection), part, note)
    for key in REFERENCE_KEYS:
        at = rarity_at if key == KEY else partial(_rarity_under, bank, key)
        yield Control(f"reference/{key}", _linear_maps(ours, bank, selection, rarity_at=at), bank)


def other_sources(bank: Features, rarity: torch.Tensor) -> dict[str, torch.Tensor]:
    """Make the sources that no recipe names, maps [N, T]; all but the last two smoothed as a saliency source is."""
    with construction("the sources of a control"):
        plain = {"centre prior": baselines.centre_prior(None, bank, SEED), "patch variance": bank.variance()}
        plain |= {"brightness": bank.intensity(), "dark": -bank.intensity()}
        made = {name: smooth(np.asarray(maps), bank.rows, bank.cols, SOURCE_SIGMA) for name, maps in plain.items()}
        made["random"] = baselines.random(None, bank, SEED)
        return {name: torch.as_tensor(maps) for name, maps in made.items()} | {"minus rarity": -rarity}


def other_banks(setting: Setting, bank: FeatureSet, blocks: Sequence[int]) -> list[tuple[str, FeatureSet, str]]:
    """List banks of few units, BUSI's without lesions, and another modality's: (name, pictures, note)."""
    name, sizes = setting.cohort.name, {share: max(2, round(share * len(set(bank.units)))) for share in SHARES}
    banks = [(f"{share:.0%} of the units", study.share_of(bank, n, KEYS[0]), "") for share, n in sizes.items()]
    if name == "busi":
        banks.append((WITHOUT_LESIONS, without_lesions(bank), CHOSEN_BY_LABEL))
    if name in FOREIGN:
        foreign = open_setting(FOREIGN[name], None, setting.vit, cache=setting.cache, progress=setting.progress)
        pictures = foreign.features(foreign.cases_of("bank"), blocks, attention=(), saliency=False)
        banks.append(("another modality", pictures, f"bank split of {FOREIGN[name]}"))
    return banks


def measured(found: Sequence[Control], labels: SplitLabels, rows: int, cols: int) -> dict[str, Any]:
    """Measure controls: their rows, the pooled differences from A that the paper needs, and the reference's spread."""
    numbers = measure({control.key: control.maps for control in found}, labels, rows, cols)
    keys = [control.key for control in found]
    for key, kind in product(keys, MEASURES):
        numbers.difference(f"{kind}_gain.{key}", f"{kind}.{OURS}", f"{kind}.{key}")
    over_density = RARITY_ROW, RANDOM_ROW, fit_without_rarity(keys)
    for key in over_density:
        numbers.difference(f"over_density.{key}", f"auroc.{key}", f"auroc.{DENSITY_ROW}")
    entries = numbers.entries()
    table = [
        dict(zip(("kind", "control"), control.key.split("/"), strict=True), note=control.note)
        | {"bank_units": len(set(control.bank.units)), "bank_images": len(control.bank)}
        | {kind: entries[f"{kind}.{control.key}"] for kind in MEASURES}
        | {"recommended_minus": {kind: entries[f"{kind}_gain.{control.key}"] for kind in MEASURES}}
        for control in found
    ]
    values = {k: [row[k]["value"] for row in table if row["kind"] == "reference"] for k in MEASURES}
    spread = {kind: max(of_kind) - min(of_kind) for kind, of_kind in values.items()}
    over = {key: entries[f"over_density.{key}"] for key in over_density}
    return {"controls": table, "over_density": over, "reference_spread": spread}


def fit_without_rarity(keys: Sequence[str]) -> str:
    """Name the rival's row, tuned as C− is, that needs no search: on attention and head, or on attention alone."""
    return next(key for key in ("score/attention_head_fit", "score/attention_fit") if key in keys)


def _linear_maps(recipe: Recipe, bank: Features, selection: Features, rarity_at=None) -> np.ndarray:
    with construction("a control"):
        fitted = fit(recipe.scorer, recipe.block, bank, recipe.settings, rarity_at)
    return direction_maps(recipe, fitted, selection)


def _rarity_under(bank: Features, key: str, target_block: int):
    reference = target_reference(bank, target_block, key=key)
    return reference, bank_rarity(bank, reference)
