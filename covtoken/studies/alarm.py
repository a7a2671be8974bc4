"""The alarm's limits, fixed on selection splits and locked, and a trial of how often alarm and failure agree elsewhere.

``fix_limits`` looks at the selection splits of two cohorts, in conditions made from their own bank splits, and writes
``configs/alarm.lock.json``. ``try_limits`` reads the lock and tries conditions with other shares, keys, splits and
kinds (``covtoken.studies.alarm_conditions``).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from covtoken.backbone.weights import load_backbone
from covtoken.data.cohorts import COMMITTED, PICTURE_SIZE
from covtoken.data.external import refuse_external
from covtoken.errors import CovtokenError, unknown
from covtoken.protocol import locks
from covtoken.protocol.alarm_limits import DEFINED_ON, ENTRY, LOCK, Recipes, read_limits
from covtoken.protocol.looks import log_look, refuse_uncommitted
from covtoken.protocol.report import GateReport, metric, report_path, source_digest, write_report
from covtoken.protocol.setting import Setting, open_setting
from covtoken.scores.alarm import FEWEST_UNITS, Limits, judge
from covtoken.studies import alarm_conditions
from covtoken.studies.alarm_conditions import DEFINE_KEYS, DEFINE_SHARES, FAILURE, TEST_SPLIT, Condition, run_condition

TITLE = "A warning without labels"
QUESTION = "Does a label-free alarm fire where the distilled direction fails, and stay silent where it works?"
RIGHT_SHARE = 0.9
SEARCHED = ("units", "agreement", "backing")
EXPLORED = (
    "44 statistics and combinations were looked at on the selection splits of busi and lidc-crops, in banks of 2 to "
    "100 % of units under these and other keys, before this form was settled: Spearman and Pearson of D with A and PN "
    "(all tokens, inside pictures, top 5, 10 and 20 %), halves of the bank with each other and with A, the cosine of "
    "their directions, R², effective units among the positive tokens, drift, variance, skewness and smoothness of D's "
    "maps"
)
WORTH = 0.02  # of the mean share of right calls


def fix_limits(
    cohorts: Sequence[str] = DEFINED_ON,
    recipes: Recipes | None = None,
    backbone: str = "embedded",
    reason: str = "",
    progress: bool = True,
    rows: Sequence[dict] | None = None,
    root: Path | None = None,
) -> tuple[Limits, list[dict]]:
    """Fix the limits on selection splits and lock them; return limits and the conditions' rows.

    Args:
        recipes: of C− and A (None: the alarm's).
        rows: conditions that were run already, such as a lock's.

    Raises:
        CovtokenError: the lock would change and no reason was given.
    """
    locks.read_lock(LOCK, root)  # an edited lock is refused before minutes of work
    recipes = recipes or Recipes()
    vit = load_backbone(backbone, picture_size=PICTURE_SIZE)
    settings = {name: open_setting(name, None, vit, progress=progress) for name in cohorts}
    given, rows = rows, list(rows or ())
    for name, setting in settings.items() if given is None else ():
        conditions = list(alarm_conditions.define_conditions(setting, recipes))
        for condition in track(conditions, f"define, {name}", disable=not progress):
            rows.append({"cohort": name} | run_condition(condition, recipes, Limits(), with_jump=True))
    limits, looked_at = choose_limits(rows)
    new = {
        "limits": limits.to_json(),
        "recipes": recipes.to_json(),
        "failure": FAILURE,
        "defined_on": {"split": "selection", "shares": list(DEFINE_SHARES), "keys": list(DEFINE_KEYS)},
        "explored": EXPLORED,
        "looked_at": looked_at,
        "right": right_counts(rows, limits),
        "rows": [_rounded(row) for row in rows],
        "backbone": vit.name,
        "weights_sha256": vit.weights_sha256,
        "data_fingerprint": {name: setting.fingerprint for name, setting in settings.items()},
        "source_digest": source_digest(),
    }
    locks.write_entry(LOCK, *ENTRY, new, reason=reason, root=root)
    return limits, rows


def choose_limits(rows: Sequence[dict]) -> tuple[Limits, dict[str, Any]]:
    """Choose the limits with the highest balanced accuracy; also return that of every combination of statistics tried.

    Balanced accuracy is the mean share of failed conditions that fire and of working conditions that stay silent: most
    banks work, so an alarm that never fires would often be right. Units, agreement and backing are searched together,
    on the middles between observed values; each further statistic must be worth more than ``WORTH``, and the widest
    gaps break ties. Drift is printed and decides nothing: on CT and on the phantom a foreign bank hurts A, the
    fallback, more than C− (book/recommended.md), which is no reason to fall back.
    """
    failed = np.array([row["failed"] for row in rows])
    if failed.all() or not failed.any():
        raise CovtokenError("C− failed in every condition, or in none: there is nothing to set a limit by")
    values = {n: np.array([-np.inf if row[n] is None else row[n] for row in rows], dtype=float) for n in SEARCHED}
    looked_at = {}
    for names in (names for n in range(1, len(SEARCHED) + 1) for names in combinations(SEARCHED, n)):
        right, gap, limits = max(_searched([values[name] for name in names], failed))
        looked_at["+".join(names)] = {"right": right, "gap": gap, "limits": dict(zip(names, limits))}

    def rank(names: str) -> tuple[float, int, float]:
        further, tried = names.count("+"), looked_at[names]
        return tried["right"] - WORTH * further, -further, tried["gap"]

    best = max(looked_at, key=rank)
    for name, sign in (("jump, low fires", 1), ("jump, high fires", -1)):  # tried alone; Limits has no such statistic
        if all("jump" in row for row in rows):
            right, gap, (limit,) = max(_searched([sign * np.array([row["jump"] for row in rows])], failed))
            looked_at[name] = {"right": right, "gap": gap, "limits": {"jump": sign * limit}}
    chosen = {f"{name}_min": round(limit, 3) for name, limit in looked_at[best]["limits"].items()}
    if "units_min" in chosen:
        chosen["units_min"] = max(FEWEST_UNITS, int(np.ceil(chosen["units_min"])))
    return Limits(**chosen), looked_at


def _searched(values: Sequence[np.ndarray], failed: np.ndarray):
    """Yield (balanced accuracy, smallest gap, limits) for every choice of limits; a condition below any limit fires."""
    options = []
    for statistic in values:
        known = np.unique(statistic[np.isfinite(statistic)])
        if not len(known):
            raise CovtokenError("no condition has this statistic: give banks of more units")
        span = float(known[-1] - known[0]) or 1.0
        edges = np.concatenate([known[:1] - 0.01 * span, known, known[-1:] + 0.01 * span])
        options.append([(float((a + b) / 2), float(b - a) / span) for a, b in pairwise(edges)])
    for choice in product(*options):
        fired = np.any([statistic < limit for statistic, (limit, _) in zip(values, choice)], axis=0)
        right = (fired[failed].mean() + (~fired[~failed]).mean()) / 2
        yield round(float(right), 9), min(gap for _, gap in choice), tuple(limit for limit, _ in choice)


def right_counts(rows: Sequence[dict], limits: Limits | None = None) -> dict[str, int]:
    """Count how alarm and failure go together; with ``limits`` the alarm is judged anew from the statistics."""
    counts = dict.fromkeys(("fired_failed", "fired_worked", "silent_failed", "silent_worked"), 0)
    for row in rows:
        fired = row["fired"] if limits is None else judged(row, limits)["fired"]
        counts[f"{'fired' if fired else 'silent'}_{'failed' if row['failed'] else 'worked'}"] += 1
    return counts


def agreement_line(counts: dict[str, int]) -> str:
    """Write the sentence that says how often alarm and failure agree."""
    failed, worked = (counts[f"fired_{what}"] + counts[f"silent_{what}"] for what in ("failed", "worked"))
    right = counts["fired_failed"] + counts["silent_worked"]
    return (
        f"alarm and failure agree in {right} of {failed + worked} conditions: it fired in {counts['fired_failed']} of "
        f"{failed} that failed, and was silent in {counts['silent_worked']} of {worked} that worked"
    )


def try_limits(cohort: str, *, record: bool = False, progress: bool = True) -> tuple[GateReport, Path]:
    """Try the locked alarm on conditions it was not fixed on, and write the report (committed if ``record``).

    Raises:
        CovtokenError: no lock, a lock of other weights, an unknown cohort.
    """
    refuse_external(cohort)
    if cohort not in COMMITTED:
        raise unknown("cohort", cohort, list(COMMITTED))
    if record:
        refuse_uncommitted()
    started = time.perf_counter()
    limits, recipes, entry = read_limits()
    setting = open_setting(cohort, None, entry["backbone"], progress=progress)
    if setting.vit.weights_sha256 != entry["weights_sha256"]:
        raise CovtokenError(
            f"the alarm's limits were fixed with weights {entry['weights_sha256'][:12]}, these are "
            f"{setting.vit.weights_sha256[:12]}: use those, or `covtoken alarm --define --reason '…'`"
        )
    setting = replace(setting, split=TEST_SPLIT.get(cohort, "crossfit"))
    setting.read_pictures()  # what cannot be read is found before a label is looked at
    conditions = alarm_conditions.test_conditions(setting, recipes)
    report = try_conditions(setting, conditions, recipes, limits, started)
    report = log_look(report, locks.lock_digest(LOCK)[:16], recorded=record)
    return report, write_report(report, report_path(cohort, "alarm", recorded=record))


def judged(row: dict, limits: Limits) -> dict:
    """Judge a row's statistics under these limits: {fired, reasons, right, recommended}."""
    alarm = judge({name: row[name] for name in (*SEARCHED, "drift")}, limits)
    judgement = {"fired": alarm.fired, "reasons": list(alarm.reasons), "right": alarm.fired == row["failed"]}
    return judgement | {"recommended": alarm.recommended}


def try_conditions(
    setting: Setting, conditions: Iterable[Condition], recipes: Recipes, limits: Limits, started: float | None = None
) -> GateReport:
    """Score every condition, ask the alarm, and report how often alarm and failure agree."""
    shown = track(conditions, f"alarm, {setting.cohort.name}", disable=not setting.progress)
    rows = [run_condition(condition, recipes, limits) for condition in shown]
    counts = right_counts(rows)
    share = (counts["fired_failed"] + counts["silent_worked"]) / len(rows)
    metrics = {}
    counted = ("units_scored", "pictures", "tokens")
    for row, name in product(rows, ("auroc_d", "auroc_a")):
        metrics[f"{name}.{row['condition']}"] = metric(row[name], None, *(row[key] for key in counted))
    followed = [row["auroc_a" if row["recommended"] == "A" else "auroc_d"] for row in rows]
    means = {"d": [row["auroc_d"] for row in rows], "a": [row["auroc_a"] for row in rows], "recommended": followed}
    n = [max(row[key] for row in rows) for key in counted]
    for name, values in means.items():  # the worth of following the alarm, beside always C− and always A
        metrics[f"mean_auroc.{name}"] = metric(float(np.mean(values)), None, *n)
    metrics["alarm.right"] = metric(share, None, *n)
    return setting.report(
        *("alarm", TITLE, QUESTION),
        started=started,
        parameters={"recipes": recipes.to_json(), "failure": FAILURE, "curated": setting.cohort.curated},
        thresholds={**limits.to_json(), "right": RIGHT_SHARE},
        metrics=metrics,
        checks={**counts, "agreement": agreement_line(counts)},
        decision="GO" if share >= RIGHT_SHARE else "NO-GO",
        chart_data={"conditions": [_rounded(row) for row in rows]},
    )


def _rounded(row: dict) -> dict:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
