"""A plan comes from the lock, from a recipe cohort's lock, or from the cohort's own selection split."""

from __future__ import annotations

from dataclasses import replace

from covtoken.backbone.vit import FrozenViT
from covtoken.data.cohorts import RECIPE_COHORTS
from covtoken.data.splits import SMALL_COHORT
from covtoken.errors import CovtokenError, unknown
from covtoken.evaluation.labels import label, small_cuts
from covtoken.protocol import locks
from covtoken.protocol.choice import choose
from covtoken.protocol.plan import FIXED, MEMBERSHIPS, SEARCHING, Plan, binding
from covtoken.protocol.scoring import need_lesions
from covtoken.protocol.setting import SEED, Setting
from covtoken.scores.recipe import PatchCoreSettings, Recipe, at_depth, fixed_recipes
from covtoken.scores.scorers import SCORERS


def plan_for(setting: Setting, need_lock: bool = False, may_choose: bool = True) -> Plan:
    """Give the locked plan if there is one, the recipe cohort's plan to a small cohort, else make a plan here.

    Args:
        need_lock: refuse, before anything is extracted, instead of making a plan here.
        may_choose: whether a run on the selection split chooses anew; else the lock holds there too.

    Raises:
        CovtokenError: a needed lock is missing, or was made for other data, weights or parameters.
    """
    cohort, vit = setting.cohort, setting.vit
    if setting.small:
        return recipe_plan(setting, need_lock)
    if setting.split == "test" or not may_choose:
        entry = locks.entry(locks.THRESHOLDS, cohort.name, 1)
        if entry is not None and entry["backbone"] == vit.name:
            locks.check_binding(entry, binding(setting), f"{cohort.name} gate 1")
            return replace(Plan.from_json(entry), locked=True)
    if need_lock:
        raise CovtokenError(
            f"{cohort.name}: no lock for backbone {vit.name!r}, nothing is recorded. Run the selection split, then "
            "`covtoken lock thresholds`"
        )
    return make_plan(setting)


def make_plan(setting: Setting) -> Plan:
    """Choose every recipe, the middle block and the threshold on the selection split.

    Raises:
        CovtokenError: the cohort is too small to choose anything on.
    """
    vit = setting.vit
    cases = setting.cases_of("selection")
    bank, selection = setting.features(setting.cases_of("bank")), setting.features(cases)
    labels = label(cases, setting.cohort, selection.rows, selection.cols)
    need_lesions(labels, setting.cohort, "selection")
    chosen = {}
    for name in (*MEMBERSHIPS, *SCORERS):
        no_head = "saliency" in SCORERS[name].needs and not vit.has_saliency_head
        if name in chosen or name in ("consensus", "in_organ", *FIXED) or no_head:
            continue
        final = (vit.n_blocks, "norm") if name == "density" else ()
        chosen[name] = choose(name, bank, selection, labels, vit.n_blocks, blocks=final, seed=SEED)
    plain = [row for row in chosen["density"].table if not row["pooled"] and row["sigma"] == 0]
    middle_blocks = {row["block"] for row in plain} - {vit.n_blocks, "norm"}
    middle = max((row for row in plain if row["block"] in middle_blocks), key=lambda row: row["auroc"])["block"]
    norms = (chosen["token_norm"], chosen.pop("token_norm_centred"))
    chosen["token_norm"] = max(norms, key=lambda choice: choice.auroc)
    chosen["attention_best"] = chosen.pop("attention")
    simple = {name: choice.auroc for name, choice in chosen.items() if name not in SEARCHING}
    best = max(simple, key=simple.get)
    return Plan(
        recipes={name: choice.recipe for name, choice in chosen.items()}
        | fixed_recipes(vit.n_blocks, vit.has_saliency_head),
        middle=middle,
        threshold=round(simple[best], 4),
        reason=f"best tuned baseline without a rarity search on the selection split: {best}",
        small_cuts=small_cuts(labels, cases),
        table=tuple(row for choice in chosen.values() for row in choice.table),
    )


def recipe_plan(setting: Setting, need_lock: bool = False) -> Plan:
    """Take the locked recipe of a small cohort's modality: such a cohort chooses nothing.

    Order: (1) the modality's recipe cohort, locked for this backbone; (2) BUSI, locked for this backbone; (3) a lock of
    another backbone, its blocks moved to the same depth, and the plan not marked as locked. ``reason`` says which. The
    cut between small and large lesions is the cohort's own and set later.

    Args:
        setting: of a small cohort.
        need_lock: refuse (3).

    Raises:
        CovtokenError: an unknown modality, or no usable lock.
    """
    cohort, vit = setting.cohort, setting.vit
    if cohort.modality not in RECIPE_COHORTS:
        raise unknown(f"modality of {cohort.name} (it names the recipe)", cohort.modality, list(RECIPE_COHORTS))
    recipe_cohort = RECIPE_COHORTS[cohort.modality]
    entries = {name: locks.entry(locks.THRESHOLDS, name, 1) for name in (recipe_cohort, "busi")}
    entries = {name: entry for name, entry in entries.items() if entry is not None}
    for name, entry in entries.items():
        if entry["backbone"] == vit.name:
            here, plan = binding(setting), Plan.from_json(entry)
            own_data = {"data_fingerprint": here["data_fingerprint"]}  # other data is the point of a recipe
            locks.check_binding(entry | own_data, here, f"{name} gate 1, as the recipe of {cohort.name}")
            return replace(plan, reason=f"recipe and threshold of {name}: {plan.reason}", locked=True)
    if entries and not need_lock:  # a run that is not recorded
        name, entry = next(iter(entries.items()))
        plan = at_this_depth(Plan.from_json(entry), vit)
        why = f"recipe and threshold of {name} on {entry['backbone']}, not tuned on this backbone: {plan.reason}"
        return replace(plan, reason=why)
    instead = "Run without --record, use" if entries else "Use"
    raise CovtokenError(
        f"{cohort.name} has {len(cohort.units)} units, fewer than {SMALL_COHORT}: it takes the locked recipe of "
        f"{recipe_cohort!r}, and none is locked for backbone {vit.name!r}. {instead} "
        f"the backbone of a lock in configs/{locks.THRESHOLDS}, or run `covtoken gate 1 --cohort {recipe_cohort} "
        f"--backbone {vit.name}`, then `covtoken lock thresholds --cohort {recipe_cohort}`"
    )


def at_this_depth(plan: Plan, vit: FrozenViT) -> Plan:
    """Move a plan to the same shares of another backbone's depth, rounded down, without recipes whose head it lacks."""
    n_blocks = plan.recipes["attention_last"].block  # of the backbone that it was locked on

    def at(block):
        return at_depth(block, vit.n_blocks, n_blocks) if isinstance(block, int) else block

    def moved(recipe: Recipe) -> Recipe:
        settings = recipe.settings
        if isinstance(settings, PatchCoreSettings):
            settings = PatchCoreSettings(at(settings.second_block))
        return replace(recipe, block=at(recipe.block), settings=settings)

    recipes = {
        name: moved(recipe)
        for name, recipe in plan.recipes.items()
        if name not in FIXED and (vit.has_saliency_head or "saliency" not in SCORERS[recipe.scorer].needs)
    }
    return replace(plan, recipes=recipes | fixed_recipes(vit.n_blocks, vit.has_saliency_head), middle=at(plan.middle))
