"""Thresholds of gates 2 and 3: what a simple baseline reached on the selection split, locked before a test split."""

from __future__ import annotations

from collections.abc import Callable

from covtoken.backbone.vit import FrozenViT
from covtoken.data.case import Cohort
from covtoken.data.cohorts import RECIPE_COHORTS, cohort_name, open_cohort
from covtoken.data.splits import SMALL_COHORT
from covtoken.errors import CovtokenError
from covtoken.gates import locks
from covtoken.gates.lesion_pictures import GateRun, LesionPictures
from covtoken.gates.report import read_report, report_path

LOCKED = ("2", "3")  # the gates that have such a threshold


def threshold_of(got: LesionPictures, gate: int, own: dict, selection: Callable[[], GateRun]) -> dict:
    """``{value, reason, locked}``: of the lock where there is one for this backbone, else of a selection run.

    Args:
        own: what this very run gives, which is the threshold if its split is selection. selection: makes that run.

    A small cohort takes the threshold of its modality's recipe cohort, as it takes the recipe.
    """
    if got.split == "selection":
        return own | {"locked": False}
    names = (
        [got.cohort.name] if got.split == "test" else list(dict.fromkeys((RECIPE_COHORTS[got.cohort.modality], "busi")))
    )
    for name in names:
        entry = locks.entry(locks.THRESHOLDS, name, gate)
        if entry is not None and entry["backbone"] == got.backbone:
            data = {"data_fingerprint": got.bound["data_fingerprint"]} if got.split == "crossfit" else {}
            locks.check_binding(entry | data, got.bound, f"{name} gate {gate}")
            source = "" if got.split == "test" else f" of {name}"
            return {"value": entry["threshold"], "reason": entry["threshold_reason"] + source, "locked": True}
    if got.split == "crossfit":
        raise CovtokenError(
            f"{got.cohort.name}: no threshold of gate {gate} is locked for {' or '.join(names)} and backbone "
            f"{got.backbone!r}; run `covtoken gate {gate} --cohort {names[0]}`, then `covtoken lock thresholds`"
        )
    found = selection().report.thresholds
    return {key: found[key] for key in ("value", "reason")} | {"locked": False}


def need_threshold(
    cohort: str | Cohort, gate: int | str, record: bool, backbone: str | FrozenViT = "embedded", data=None
) -> None:
    """Refuse a run that needs a locked threshold and has none, before minutes of work: to record, or to cross-fit."""
    opened = cohort if isinstance(cohort, Cohort) else open_cohort(cohort, **({"folder": data} if data else {}))
    backbone = backbone if isinstance(backbone, str) else backbone.name
    if not record and len(opened.units) >= SMALL_COHORT:
        return
    names = [opened.name]
    if len(opened.units) < SMALL_COHORT:
        names = list(dict.fromkeys((RECIPE_COHORTS[opened.modality], "busi")))
    entries = [locks.entry(locks.THRESHOLDS, name, gate) for name in names]
    if not any(entry and entry["backbone"].startswith(backbone) for entry in entries):
        raise CovtokenError(
            f"{opened.name}: no threshold of gate {gate} is locked for backbone {backbone!r}. Run "
            f"`covtoken gate {gate} --cohort {names[0]} --backbone {backbone}`, then "
            f"`covtoken lock thresholds --gate {gate} --cohort {names[0]}`"
        )


def lock_threshold(cohort: str, gate: int | str, reason: str = "") -> list[str]:
    """Lock the threshold of the last selection run of a gate; returns the lines old → new.

    Raises:
        CovtokenError: no run, or one of another split.
    """
    cohort = cohort_name(cohort)
    report = read_report(report_path(cohort, gate, recorded=False))
    if report.split == "crossfit":
        raise CovtokenError(
            f"{cohort} has fewer than {SMALL_COHORT} units: it takes the threshold of its recipe cohort, so there is "
            "nothing to lock"
        )
    if report.split != "selection":
        raise CovtokenError(
            f"the last run of {cohort} was on its {report.split} split: a threshold is made from selection alone; "
            f"run `covtoken gate {gate} --cohort {cohort} --split selection` first"
        )
    if not report.checks["plan_locked_before"]:
        raise CovtokenError(f"{cohort}: gate 1's plan was not locked when gate {gate} ran; lock it, then run again")
    new = {
        "threshold": report.thresholds["value"],
        "threshold_reason": report.thresholds["reason"],
        "backbone": report.backbone,
        **{key: report.parameters["bound"][key] for key in locks.BINDING},
        "source_digest": report.provenance["source_digest"],
    }
    return locks.write_entry(locks.THRESHOLDS, cohort, gate, new, reason=reason)
