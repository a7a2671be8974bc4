"""Thresholds and plans from selection runs: locked before a look at a test split, and looked up for a run.

So is the comparison that an external cohort decides: its rival is chosen on the recipe cohort's selection split.
"""

from __future__ import annotations

from collections.abc import Callable

from covtoken.data.cohorts import RECIPE_COHORTS, cohort_name, external_folder
from covtoken.data.external import EXTERNAL, check_index, refuse_external
from covtoken.data.splits import SMALL_COHORT, SMALL_SPLITS
from covtoken.errors import CovtokenError, unknown
from covtoken.evaluation.labels import label
from covtoken.evaluation.records import to_float16
from covtoken.evaluation.stats import auroc
from covtoken.protocol import locks
from covtoken.protocol.chain import digest_of
from covtoken.protocol.plan import METHOD_PARAMETERS, Plan, binding
from covtoken.protocol.planning import plan_for
from covtoken.protocol.report import GateReport, GateRun, read_report, report_path, source_digest
from covtoken.protocol.scoring import need_lesions
from covtoken.protocol.setting import SEED, Setting, open_setting
from covtoken.scores.scorers import score_maps

CONFIRMING = ("direction", "density", "attention_best", "saliency_head", "head_student")  # one becomes the rival
COLUMN_OF = {"busbra-external": "crossfit", "lidc-external": "carried"}  # the column that decides
LOCKED = ("2", "3", "6")  # the gates that have a threshold of their own; gate 1's is part of its plan


def threshold_of(setting: Setting, gate: int, own: dict, selection: Callable[[], GateRun]) -> dict:
    """Take the locked threshold for this backbone, ``{value, reason, locked}``, else compute it by a selection run.

    A small cohort takes the threshold of its modality's recipe cohort, as it takes the recipe.

    Args:
        gate: 2, 3 or 6.
        own: this run's own threshold, used if it is the selection run.
        selection: makes a selection run, only if needed.

    Raises:
        CovtokenError: a small cohort, and no threshold is locked for this backbone.
    """
    if setting.split == "selection":
        return own | {"locked": False}
    for name in sources(setting):
        entry = locks.entry(locks.THRESHOLDS, name, gate)
        if entry is not None and entry["backbone"] == setting.vit.name:
            bound = binding(setting)
            data = {"data_fingerprint": bound["data_fingerprint"]} if setting.small else {}
            locks.check_binding(entry | data, bound, f"{name} gate {gate}")
            source = "" if setting.split == "test" else f" of {name}"
            return {
                "value": entry["threshold"],
                "reason": entry["threshold_reason"] + source,
                "locked": True,
            } | _setting(entry)
    if setting.small:
        raise _nothing_locked(setting, gate)
    selected = selection().report.thresholds
    return {"value": selected["value"], "reason": selected["reason"], "locked": False} | _setting(selected)


def _setting(found: dict) -> dict:
    """Take the setting that was chosen with a threshold, where the gate chooses one."""
    return {"setting": found["setting"]} if "setting" in found else {}


def need_threshold(setting: Setting, gate: int | str, record: bool) -> None:
    """Refuse a run that needs a locked threshold and has none, before minutes of work: to record, or to cross-fit."""
    if not record and not setting.small:
        return
    entries = [locks.entry(locks.THRESHOLDS, name, gate) for name in sources(setting)]
    if not any(entry and entry["backbone"] == setting.vit.name for entry in entries):
        raise _nothing_locked(setting, gate)


def sources(setting: Setting) -> list[str]:
    """Name the cohorts whose threshold may hold, in order: the cohort itself, or recipe cohorts for a small cohort."""
    if not setting.small:
        return [setting.cohort.name]
    return list(dict.fromkeys((RECIPE_COHORTS.get(setting.cohort.modality, "busi"), "busi")))


def _nothing_locked(setting: Setting, gate: int | str) -> CovtokenError:
    names, backbone = sources(setting), setting.vit.name
    return CovtokenError(
        f"{setting.cohort.name}: no threshold of gate {gate} is locked for {' or '.join(names)} and backbone "
        f"{backbone!r}. Run `covtoken gate {gate} --cohort {names[0]} --backbone {backbone}`, then "
        f"`covtoken lock thresholds --gate {gate} --cohort {names[0]}`"
    )


def lock_threshold(cohort: str, gate: int | str, reason: str = "") -> list[str]:
    """Lock the plan (gate 1) or threshold (gates 2, 3 and 6) of the last selection run; return the lines old → new.

    Raises:
        CovtokenError: no run, a run on another split, a small cohort, which chooses nothing, or an external one.
    """
    refuse_external(cohort)
    cohort = cohort_name(cohort)
    report = read_report(report_path(cohort, gate, recorded=False))
    if report.split in SMALL_SPLITS:
        raise CovtokenError(
            f"{cohort} has fewer than {SMALL_COHORT} units: it chooses nothing and takes the locked recipe and "
            "threshold of a large cohort, so there is nothing to lock"
        )
    if report.split != "selection":
        raise CovtokenError(
            f"the last run of {cohort} was on its {report.split} split: a lock is made from selection alone; "
            f"run `covtoken gate {gate} --cohort {cohort} --split selection` first"
        )
    if str(gate) == "1":
        return locks.write_entry(locks.THRESHOLDS, cohort, gate, plan_entry(report), reason=reason)
    if not report.checks["plan_locked_before"]:
        raise CovtokenError(f"{cohort}: gate 1's plan was not locked when gate {gate} ran; lock it, then run again")
    threshold = {"threshold": report.thresholds["value"], "threshold_reason": report.thresholds["reason"]}
    about = {
        "selection": report.thresholds["table"],
        "backbone": report.backbone,
        "source_digest": report.provenance["source_digest"],
    }
    bound = {key: report.parameters["bound"][key] for key in locks.BINDING}
    setting = _setting(report.thresholds)
    return locks.write_entry(locks.THRESHOLDS, cohort, gate, threshold | about | setting | bound, reason=reason)


def plan_entry(report: GateReport) -> dict:
    """Make the lock entry of gate 1's selection report: plan, backbone and binding."""
    fields = ("recipes", "middle", "threshold", "threshold_reason", "small_cuts")
    origin = ("data_fingerprint", "weights_sha256", "source_digest")
    method = {k: v for k, v in report.parameters.items() if k in {"picture_size", "seed", *METHOD_PARAMETERS}}
    return {
        **{name: report.parameters[name] for name in fields},
        **{name: report.provenance[name] for name in origin},
        **{"backbone": report.backbone, "method": method, "selection": best_variants(report.chart_data["selection"])},
    }


def best_variants(table: list[dict]) -> dict[str, dict]:
    """Reduce the selection table to what a threshold follows from: scorer → best AUROC and number of variants tried."""
    tried: dict[str, list[float]] = {}
    for row in table:
        tried.setdefault(row["scorer"], []).append(row["auroc"])
    return {name: {"auroc": round(max(each), 4), "variants": len(each)} for name, each in sorted(tried.items())}


def lock_confirmation(cohort: str, reason: str = "", **inputs) -> list[str]:
    """Lock the comparison that an external cohort decides: C− minus the best rival, in one column; return old → new.

    The rival is the best of ``CONFIRMING`` by pooled AUROC on the selection split of the recipe cohort, under its
    locked plan. Of the external cohort nothing is read but the bytes of its index.

    Args:
        inputs: ``cache`` and ``progress`` of ``open_setting``.

    Raises:
        CovtokenError: no external cohort, an index that is not the registered one, or no locked plan.
    """
    index = check_index(cohort, external_folder(cohort))
    recipe_cohort = EXTERNAL[cohort].recipe_cohort
    locked = recipe_entry(recipe_cohort)
    setting = open_setting(recipe_cohort, "selection", locked["backbone"], **inputs)
    values = selection_aurocs(setting, plan_for(setting, need_lock=True, may_choose=False))
    column, rival = COLUMN_OF[cohort], max(values, key=values.get)
    new = {
        "primary": f"auroc_gain.recommended_minus_{rival}.{column}",
        "rival": rival,
        "column": column,
        "selection": values,
        "recipe_cohort": recipe_cohort,
        "recipe_digest": digest_of(locked),
        "index_sha256": index,
        "backbone": locked["backbone"],
        "source_digest": source_digest(),
        **binding(setting),
    }
    return locks.write_entry(locks.CONFIRMATION, cohort, "confirmation", new, reason=reason)


def selection_aurocs(setting: Setting, plan: Plan) -> dict[str, float]:
    """Measure the pooled AUROC of each of ``CONFIRMING`` on a recipe cohort's selection split."""
    cases = setting.cases_of("selection")
    bank, pictures = setting.features(setting.cases_of("bank")), setting.features(cases)
    recipes = {name: plan.recipes[name] for name in CONFIRMING if name in plan.recipes}
    maps = {name: to_float16(score_maps(recipe, bank, pictures, seed=SEED)) for name, recipe in recipes.items()}
    labels = label(cases, setting.cohort, *setting.grid)
    need_lesions(labels, setting.cohort, "selection")
    return {name: round(auroc(each.astype(float), labels.lesion, ~labels.ignore), 4) for name, each in maps.items()}


def confirmation_entry(cohort: str) -> dict:
    """Read what is locked for the confirmation on an external cohort, under the recipes that it was locked with.

    Raises:
        CovtokenError: no external cohort, nothing locked, an edited lock, or recipes that were locked anew since.
    """
    if cohort not in EXTERNAL:
        raise unknown("external cohort", cohort, list(EXTERNAL))
    entry = locks.entry(locks.CONFIRMATION, cohort, "confirmation")
    if entry is None:
        raise CovtokenError(f"{cohort}: no comparison is locked; run `covtoken lock confirmation --cohort {cohort}`")
    if entry["recipe_digest"] != digest_of(recipe_entry(entry["recipe_cohort"])):
        raise CovtokenError(
            f"{cohort}: the plan of {entry['recipe_cohort']} was locked anew after this confirmation; lock it again "
            f"with `covtoken lock confirmation --cohort {cohort} --reason '…'`"
        )
    return entry


def recipe_entry(recipe_cohort: str) -> dict:
    """Read the locked plan of a recipe cohort. Raises CovtokenError if there is none."""
    entry = locks.entry(locks.THRESHOLDS, recipe_cohort, 1)
    if entry is None:
        raise CovtokenError(f"no plan of {recipe_cohort} is locked: run `covtoken lock thresholds` for it first")
    return entry
