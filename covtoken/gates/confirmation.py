"""Confirm on an external cohort: pictures on which no setting was chosen, opened once, under a lock.

The same pictures are scored in two columns: *carried*, with the bank split of the recipe cohort of their modality, and
*crossfit*, with banks of the cohort's own other units. A single comparison in a single column decides; a lock names it.
The label-free alarm is asked for every bank and its answer recorded, but C− stays the recommended score whatever it
says: A in its place would confirm another score.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from covtoken.data.case import Case
from covtoken.data.cohorts import external_folder
from covtoken.data.external import EXTERNAL, check_index
from covtoken.economy.keep import kept_counts, kept_tokens, retained
from covtoken.errors import CovtokenError, unknown
from covtoken.evaluation.labels import SplitLabels, label, mark_small, small_cuts
from covtoken.evaluation.measure import FEWEST_FOR_INTERVAL, Measured, measure
from covtoken.evaluation.records import RecordedScores, Records, records_path, save_scores, to_float16
from covtoken.gates.budgets.lesion_numbers import LesionNumbers
from covtoken.names import COLUMNS, LABELS
from covtoken.paths import project_root
from covtoken.protocol import locks
from covtoken.protocol.history import now, read_history
from covtoken.protocol.looks import log_look, read_looks, refuse_uncommitted
from covtoken.protocol.plan import FEW_UNITS, Plan, binding, records_header
from covtoken.protocol.report import GateRun, check_defect, report_path, with_interval, write_report
from covtoken.protocol.scoring import all_maps, centre_maps, heed_alarms, need_lesions, shuffled_masks
from covtoken.protocol.setting import Setting, carried_bank, open_setting, resolve_split
from covtoken.protocol.thresholds import confirmation_entry

GATE, SPLIT = "confirmation", "external"
TITLE = "Confirmation"
QUESTION = "On pictures on which no setting was chosen, does C− beat the rival that selection splits named?"
KINDS = ("auroc", "image_auroc", "aupr", "froc.fp1")
OURS = ("recommended", "with_head")
RECORDED = (
    *("recommended", "with_head", "direction", "density", "attention_fit", "attention_head_fit", "attention_best"),
    *("saliency_head", "head_student", "patchcore", "musc", "intensity", "variance"),
)
KEEP = 0.25  # of the tokens, where small lesions are counted
DEFECTS = ("shuffled_masks",)


def confirm(cohort: str, *, record: bool = False, **inputs) -> tuple[GateRun, Path]:
    """Open an external cohort, run its locked confirmation, log the look and write report and records.

    Args:
        cohort: one of ``EXTERNAL``.
        record: must be true: a run that is not recorded would be a peek.
        inputs: ``cache`` and ``progress`` of ``open_setting``.

    Raises:
        CovtokenError: no external cohort, not recorded, no lock, an edited one, recipes or an index other than the
            locked, code that no commit holds, a second look without a reason in the history, or a cohort of another
            size.
    """
    if cohort not in EXTERNAL:
        raise unknown("external cohort", cohort, list(EXTERNAL))
    if not record:
        raise CovtokenError(
            f"{cohort} is opened once and nobody peeks: `covtoken confirm --cohort {cohort} --record` is that look"
        )
    entry = confirmation_entry(cohort)
    refuse_uncommitted()
    refuse_second_look(cohort)
    if check_index(cohort, external_folder(cohort)) != entry["index_sha256"]:
        raise CovtokenError(f"{cohort}: its index.csv is not the one that was locked; restore it, or lock anew")
    lock = locks.lock_digest(locks.CONFIRMATION)[:16]
    setting = open_setting(cohort, None, entry["backbone"], open_external=True, **inputs)
    setting = replace(setting, split=resolve_split(setting.cohort, "crossfit"))
    run = evaluate(setting, locked_plan(setting, entry), entry)
    run = replace(run, report=log_look(run.report, lock, recorded=True))
    save_scores(run.records, records_path(project_root(), cohort, GATE), n_columns=len(COLUMNS))
    return run, write_report(run.report, report_path(cohort, GATE, recorded=True))


def refuse_second_look(cohort: str) -> None:
    """Refuse to open an external cohort again, unless the history says why after the last look.

    A line of the history pays for one more look at a cohort: the look that it allowed is logged later than the line. A
    line dated in the future would be later than every look, so it pays for none.

    Raises:
        CovtokenError: a look is logged, and no later change up to now concerns the confirmation.
    """
    looks = [look["when"] for look in read_looks() if look["cohort"] == cohort]
    last, present = max(looks, default=""), now()
    if looks and not any(GATE in change.gates and last < change.when <= present for change in read_history()):
        raise CovtokenError(
            f"{cohort} was opened on {last}, and the first look is the one that counts. A second one needs a line "
            f"in configs/history.json whose gates contain {GATE!r} and that says why: `covtoken history --add FILE`"
        )


def locked_plan(setting: Setting, entry: dict[str, Any]) -> Plan:
    """Take the recipe cohort's locked plan, unchanged.

    Raises:
        CovtokenError: a cohort of another size, weights or parameters other than the locked.
    """
    name = setting.cohort.name
    if setting.split != "crossfit":
        raise CovtokenError(f"{name} has {len(setting.cohort.units)} units: only a small cohort takes another's recipe")
    here = binding(setting)
    locks.check_binding(entry | {"data_fingerprint": here["data_fingerprint"]}, here, f"the confirmation on {name}")
    plan = Plan.from_json(locks.entry(locks.THRESHOLDS, entry["recipe_cohort"], 1))
    return replace(plan, reason=f"recipe of {entry['recipe_cohort']}: {plan.reason}", locked=True)


def evaluate(setting: Setting, plan: Plan, entry: dict[str, Any], *, defect: str | None = None) -> GateRun:
    """Score the pictures in both columns, then read their labels, measure and decide.

    Args:
        entry: of the lock, with ``primary``, ``rival``, ``column``, ``selection`` and ``recipe_cohort``.
        defect: plant ``shuffled_masks``, to test that the verdict turns.

    Raises:
        CovtokenError: an unknown defect, no lesions.
    """
    check_defect(defect, DEFECTS)
    started = time.perf_counter()
    maps, cases, alarms = score(setting, plan, entry["recipe_cohort"])
    labels = label(cases, setting.cohort, *setting.grid)
    need_lesions(labels, setting.cohort, SPLIT)
    plan = replace(plan, small_cuts=small_cuts(labels, cases))
    labels = mark_small(labels, cases, plan.small_cuts)
    if defect:
        labels = shuffled_masks(labels)
    setting = replace(setting, split=SPLIT)
    comparison = {key: entry[key] for key in ("primary", "rival", "column")}
    more = {"gate": GATE, "rows": setting.grid[0], "cols": setting.grid[1], "plan": plan.to_json(), **comparison}
    header = records_header(setting, sorted({case.unit for case in cases}), **more)
    kept = {name: values for name, values in maps.items() if name.partition(".")[0] in RECORDED}
    recorded = RecordedScores(kept, labels, header)
    measured = headline(recorded)
    rest = {name: values for name, values in maps.items() if f"auroc.{name}" not in measured.values}
    others = measure(rest, labels, *setting.grid)
    _add_missed(others, labels, rest)
    _add_gains(measured, rest, others)
    decision, checks = decide(measured, entry["primary"])
    fired = {column: any(each["fired"] for each in alarms[column]) for column in COLUMNS}
    checks |= {f"alarm.{column}": "fired" if fired[column] else "silent" for column in COLUMNS}
    metrics = without_few(others.entries() | measured.entries())
    report = setting.report(
        *(GATE, TITLE, QUESTION),
        started=started,
        parameters={
            **header["method"],
            **plan.to_json(),
            "curated": setting.cohort.curated,
            "n_pictures": len(cases),
            "n_units": len(setting.cohort.units),
            "n_lesions": len(labels.lesions),
            "n_lesion_images": int(labels.lesion.any(axis=1).sum()),
            "keep": KEEP,
            "recipe_cohort": entry["recipe_cohort"],
            "rival": LABELS[entry["rival"]],
            "recommended_is": "C−",
            "alarm": alarms,
        },
        thresholds=comparison | {entry["primary"]: 0.0, "selection": entry["selection"], "locked": plan.locked},
        metrics=metrics,
        checks=checks | {"plan_locked_before": plan.locked},
        decision=decision,
        chart_data={f"gains_{column}": gain_rows(metrics, column) for column in COLUMNS},
    )
    return GateRun(report, recorded, cases)


def score(
    setting: Setting, plan: Plan, recipe_cohort: str
) -> tuple[dict[str, np.ndarray], tuple[Case, ...], dict[str, list[dict[str, Any]]]]:
    """Score by every recipe of the plan in both columns.

    Returns:
        maps [N, T] float16 by ``<score>.<column>``; the N cases in the maps' order; the alarm's answers by column.
    """
    pairs, cases = setting.pairs()
    by_column = {"carried": [(carried_bank(recipe_cohort, setting), setting.features(cases))], "crossfit": pairs}
    maps, alarms = {}, {}
    for column, column_pairs in by_column.items():
        parts = [all_maps(plan, bank, pictures, setting.vit) for bank, pictures in column_pairs]
        answers = heed_alarms([dict(part) for part in parts], column_pairs, plan, setting.vit)
        alarms[column] = [answer | {"score": "C−"} for answer in answers]  # it replaced the maps of the copies alone
        for name in plan.recipes:
            maps[f"{name}.{column}"] = to_float16(np.concatenate([part[name] for part in parts]))
    return maps, cases, alarms


def headline(recorded: RecordedScores) -> Measured:
    """Measure the primary comparison and the main metrics from recorded scores, fresh or committed."""
    labels, (rows, cols) = recorded.labels, recorded.grid
    maps = dict(recorded.scores)
    centre = centre_maps(Plan.from_json(recorded.header["plan"]), rows, cols, len(labels.unit))
    for column in COLUMNS:
        maps[f"centre_prior.{column}"] = centre
        maps[f"intensity_flipped.{column}"] = -maps[f"intensity.{column}"]  # no sign is chosen here: both are shown
    measured = measure(maps, labels, rows, cols)
    _add_missed(measured, labels, maps)
    _add_gains(measured, maps, measured)
    return measured


def decide(measured: Measured, primary: str) -> tuple[str, dict[str, Any]]:
    """Decide GO if the lower bound of the primary difference lies above 0; check every difference."""
    checks = {}
    for name in (name for name in measured.values if "_gain." in name):
        low, high = measured.interval(name)
        word = "wins" if low > 0 else "loses" if high < 0 else "undecided"
        checks[name.replace("_gain.", ".").replace("_minus_", "_against_")] = word
    low = measured.interval(primary)[0]
    if measured.own_n.get(primary, measured.n)[0] < FEW_UNITS or not np.isfinite(low):
        return "NO-VERDICT", checks
    return ("GO" if low > 0 else "NO-GO"), checks


def gain_rows(metrics: dict[str, dict], column: str, kind: str = "auroc", ours: str = "recommended") -> list[dict]:
    """List rows of the forest of differences in a column, {label, value, lo, hi}; right of zero favours ``ours``."""
    start, end = f"{kind}_gain.{ours}_minus_", f".{column}"
    found = {n[len(start) : -len(end)]: e for n, e in metrics.items() if n.startswith(start) and n.endswith(end)}
    rows = [{"label": LABELS[other], **with_interval(entry)} for other, entry in found.items() if entry["ci95"]]
    return sorted(rows, key=lambda row: row["value"])


def without_few(metrics: dict[str, dict]) -> dict[str, dict]:
    """Take the interval off every number that stands on fewer than five units."""
    few = {"ci95": None}
    return {
        name: {k: v for k, v in entry.items() if k != "exact95"} | few
        if entry["n_units"] < FEWEST_FOR_INTERVAL
        else entry
        for name, entry in metrics.items()
    }


def _add_gains(measured: Measured, maps: Iterable[str], others: Measured) -> None:
    """Add ours − other to ``measured`` for every kind, and every other map in its own column."""
    for name, ours, kind in product(maps, OURS, KINDS):
        other, _, column = name.rpartition(".")
        pair = (f"{kind}.{ours}.{column}", f"{kind}.{name}")
        if other != ours and pair[0] in measured.values and pair[1] in others.values:
            measured.difference(f"{kind}_gain.{ours}_minus_{name}", *pair, of=others)


def _add_missed(measured: Measured, labels: SplitLabels, maps: dict[str, np.ndarray]) -> None:
    """Add the share of small lesions missed at ``KEEP`` as ``miss_small.<score>.<column>``, on the same draws."""
    lesions = labels.lesions
    arrays = {
        "lesion/size": np.array([len(lesion.tokens) for lesion in lesions]),
        "lesion/small": np.array([lesion.small for lesion in lesions], dtype=np.uint8),
        "lesion/picture": np.array([lesion.picture for lesion in lesions]),
        "unit": labels.unit,
    }
    numbers = LesionNumbers(Records(arrays, {"units": labels.unit_names, "n_tokens": labels.lesion.shape[1]}))
    for name, values in maps.items():
        kept = retained(kept_counts(kept_tokens(values, ratio=KEEP), lesions), numbers.size)
        draws = numbers.add(metric := f"miss_small.{name}", np.where(numbers.small, ~kept, np.nan))
        found = numbers.measured
        measured.add(metric, found.values[metric], draws, found.own_n[metric])
        measured.more[metric] = found.more[metric]
