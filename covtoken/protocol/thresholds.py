"""Thresholds and plans from selection runs: locked before a look at a test split, and looked up for a run."""

from __future__ import annotations

from collections.abc import Callable

from covtoken.data.cohorts import RECIPE_COHORTS, cohort_name
from covtoken.data.splits import SMALL_COHORT
from covtoken.errors import CovtokenError
from covtoken.protocol import locks
from covtoken.protocol.plan import METHOD_PARAMETERS, binding
from covtoken.protocol.report import GateReport, GateRun, read_report, report_path
from covtoken.protocol.setting import Setting

LOCKED = ("2", "3")  # the gates that have a threshold of their own; gate 1's is part of its plan


def threshold_of(setting: Setting, gate: int, own: dict, selection: Callable[[], GateRun]) -> dict:
    """Take the locked threshold for this backbone, ``{value, reason, locked}``, else compute it by a selection run.

    A small cohort takes the threshold of its modality's recipe cohort, as it takes the recipe.

    Args:
        gate: 2 or 3.
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
            data = {"data_fingerprint": bound["data_fingerprint"]} if setting.split == "crossfit" else {}
            locks.check_binding(entry | data, bound, f"{name} gate {gate}")
            source = "" if setting.split == "test" else f" of {name}"
            return {"value": entry["threshold"], "reason": entry["threshold_reason"] + source, "locked": True}
    if setting.split == "crossfit":
        raise _nothing_locked(setting, gate)
    selected = selection().report.thresholds
    return {"value": selected["value"], "reason": selected["reason"], "locked": False}


def need_threshold(setting: Setting, gate: int | str, record: bool) -> None:
    """Refuse a run that needs a locked threshold and has none, before minutes of work: to record, or to cross-fit."""
    if not record and setting.split != "crossfit":
        return
    entries = [locks.entry(locks.THRESHOLDS, name, gate) for name in sources(setting)]
    if not any(entry and entry["backbone"] == setting.vit.name for entry in entries):
        raise _nothing_locked(setting, gate)


def sources(setting: Setting) -> list[str]:
    """Name the cohorts whose threshold may hold, in order: the cohort itself, or recipe cohorts for a small cohort."""
    if setting.split != "crossfit":
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
    """Lock the plan (gate 1) or threshold (gates 2 and 3) of the last selection run; return the lines old → new.

    Raises:
        CovtokenError: no run, a run on another split, or a small cohort, which chooses nothing.
    """
    cohort = cohort_name(cohort)
    report = read_report(report_path(cohort, gate, recorded=False))
    if report.split == "crossfit":
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
    return locks.write_entry(locks.THRESHOLDS, cohort, gate, threshold | about | bound, reason=reason)


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
