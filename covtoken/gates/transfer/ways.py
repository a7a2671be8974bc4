"""Ways in which gate 5 scores the same pictures: where recipes and banks come from, and the maps of each.

Recipes from elsewhere were chosen on a single recipe cohort; banks from elsewhere hold nobody who is scored. The same
ways serve every backbone (``covtoken.studies.backbones``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from covtoken.backbone.feature_set import FeatureSet
from covtoken.backbone.vit import FrozenViT
from covtoken.bank.token_bank import check_alike
from covtoken.data.case import Case, Cohort
from covtoken.data.cohorts import RECIPE_COHORTS
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import SplitLabels
from covtoken.evaluation.records import to_float16
from covtoken.evaluation.stats import auroc
from covtoken.leak_guard import construction
from covtoken.protocol import locks
from covtoken.protocol.plan import Plan
from covtoken.protocol.planning import at_this_depth
from covtoken.protocol.setting import SEED, Setting, carried_bank
from covtoken.scores.memberships import fit, rarity_of
from covtoken.scores.recipe import Recipe
from covtoken.scores.recommended import LINEAR, direction_maps
from covtoken.scores.scorers import SCORERS, score_maps
from covtoken.studies import banks as bank_choice

DECIDING = "elsewhere"
SOURCES = tuple(dict.fromkeys(RECIPE_COHORTS.values()))


@dataclass(frozen=True)
class Source:
    """A cohort that chose recipes (scorer → recipe), with the fingerprint of its data and the backbone's weights."""

    cohort: str
    recipes: dict[str, Recipe]
    data_fingerprint: str
    weights_sha256: str


@dataclass(frozen=True)
class Ways:
    """How the N pictures of a split are scored.

    Attributes:
        ways: way → recipes, and pairs of bank and pictures as ``_scored`` takes them.
        cases: N, in the maps' order.
        banks: way → the cohort that feeds its bank and its pairs, for banks from elsewhere.
        blank: way → why there is none.
        misfits: banks that do not fit the pictures.
    """

    ways: dict[str, tuple[dict[str, Recipe], list]]
    cases: tuple[Case, ...]
    banks: dict[str, tuple[str, list]]
    blank: dict[str, str]
    misfits: list[str]


def usual_way(split: str) -> str:
    """Name the way that gate 1 scores: with the cohort's own bank, or with the one that a tiny cohort has."""
    return "carried" if split == "carried" else "refitted"


def deciding(split: str) -> str:
    """Name the way that decides."""
    return "carried" if split == "carried" else DECIDING


def sources_of(setting: Setting) -> list[Source]:
    """Give the recipe cohorts whose recipes count as chosen elsewhere; a tiny cohort has no way for a second one."""
    if setting.split == "carried":
        return []
    return [source(name, setting.vit) for name in SOURCES if name != setting.cohort.name]


def ways_of(
    setting: Setting, plan: Plan, sources: list[Source], elsewhere: Setting | None = None, need_all: bool = False
) -> Ways:
    """Pair every way's recipes with its bank.

    Args:
        plan: whose recipes are the usual ones.
        sources: of recipes from elsewhere.
        elsewhere: extracts the banks from elsewhere (None: ``setting``).
        need_all: raise where the data of a bank from elsewhere are missing.
    """
    pairs, cases = setting.pairs()
    ways = {usual_way(setting.split): (plan.recipes, pairs)}
    if setting.split == "carried":
        blank = dict.fromkeys(("refitted", DECIDING), f"{len(setting.cohort.units)} units are too few to feed a bank")
        return Ways(ways, cases, {"carried": (setting.bank_cohort, pairs)}, blank, [])
    ways |= {f"recipe_of_{source.cohort}": (source.recipes, pairs) for source in sources}
    pictures = pairs[0][1] if len(pairs) == 1 else setting.features(cases)  # of all folds, in their order
    banks, blank = banks_elsewhere(elsewhere or setting, pictures, need_all)
    misfits = []
    for way, (origin, way_pairs) in banks.items():  # only the bank changes
        try:
            for pair in way_pairs:
                check_alike(pair[0], pair[1])
        except CovtokenError as error:
            misfits.append(f"{origin}: {error}")
            continue
        ways[way] = (plan.recipes, way_pairs)
    return Ways(ways, cases, banks, blank, misfits)


def with_the_worse(
    maps: dict[str, np.ndarray], labels: SplitLabels, sources: list[Source]
) -> tuple[dict[str, np.ndarray], str]:
    """Rename the maps under the recipes of the source that does worse to ``DECIDING``; return them and its name.

    The recommended score alone decides which. Without sources nothing is renamed, and the name is "".
    """

    def reached(source: Source) -> float:
        recommended = maps[f"recommended.recipe_of_{source.cohort}"].astype(np.float64)
        return auroc(recommended, labels.lesion, ~labels.ignore)

    if not sources:
        return maps, ""
    worse = min(sources, key=reached).cohort
    return {name.replace(f".recipe_of_{worse}", f".{DECIDING}"): values for name, values in maps.items()}, worse


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
    recipes = dict(plan.recipes)
    for score in (score for score in ("recommended", "with_head") if score in recipes):
        components, origins = bank_choice.PLANNED[score]
        chosen, _ = bank_choice.recommend(cohorts=(name,), components=components, sources=origins)
        here = recipes[score]  # its blocks are at this backbone's depth
        places = {place: getattr(here.settings, place) for place in ("target_block", "attention_block")}
        recipes[score] = replace(chosen, block=here.block, settings=replace(chosen.settings, **places))
    return Source(name, recipes, entry["data_fingerprint"], entry["weights_sha256"])


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


def all_maps(ways: dict[str, tuple[dict[str, Recipe], list]], n: int, shown: Sequence[str]) -> dict[str, np.ndarray]:
    """Score in every way: maps [N, T] float16 by ``<score>.<way>``; a map that two ways share is made once.

    Args:
        n: N.
        shown: scores to make, where the recipes have them.
    """
    made: dict[tuple, np.ndarray] = {}
    rarities: dict[tuple, tuple] = {}
    maps = {}
    for way, (recipes, pairs) in ways.items():
        for name in (name for name in shown if name in recipes):
            recipe = recipes[name]
            key = (recipe, id(pairs[0][0]) if "bank" in SCORERS[recipe.scorer].needs else len(pairs))
            if key not in made:
                made[key] = to_float16(_scored(recipe, pairs, n, rarities))
            maps[f"{name}.{way}"] = made[key]
    return maps


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
