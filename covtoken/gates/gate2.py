"""Gate 2 asks whether coverage is a proxy: does a kept set that covers more hold more of the lesion?

Each picture and keep ratio gets 60 kept sets of equal size (random, membership-tilted, spanning): Spearman's ρ between
coverage and lesion recall, averaged over pictures. Membership mass is the positive control: where it does not follow
recall, the question has no answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import torch

from covtoken.coverage.functionals import FUNCTIONALS, set_coverage
from covtoken.economy.keep import RATIOS, budget
from covtoken.evaluation import stats
from covtoken.evaluation.measure import N_DRAWS, Measured
from covtoken.evaluation.ranks import grouped_spearman, holm
from covtoken.evaluation.records import Records
from covtoken.gates.budgets.kept_sets import FAMILIES, PER_FAMILY, kept_sets
from covtoken.gates.budgets.lesion_pictures import LesionPictures, prepare
from covtoken.protocol.plan import FEW_UNITS, Plan
from covtoken.protocol.report import GateRun, check_defect, with_interval
from covtoken.protocol.setting import SEED, Setting
from covtoken.protocol.thresholds import threshold_of

TITLE = "Coverage as a proxy"
QUESTION = "Among kept sets of one size, does the set that covers more hold more of the lesion?"
MASSES = ("control", "attention_mass")
MEASURES = (*FUNCTIONALS, *MASSES)
PARTS = ("all", *FAMILIES)
DECIDING = "keep0.25"
N_PERMUTATIONS = 5000
DEFECTS = ("leaked_label", "shuffled_masks")
HEADLINES = (
    *(f"spearman.{name}.{DECIDING}" for name in MEASURES),
    "spearman.rankme.keep0.5",
    "spearman.rankme.keep0.1",
)


def run(setting: Setting, plan: Plan, *, defect: str | None = None) -> GateRun:
    """Run gate 2 from pixels.

    Args:
        defect: plant one of ``DEFECTS``: ``leaked_label`` adds recall to RankMe, ``shuffled_masks`` mixes masks up.

    Raises:
        CovtokenError: a split without lesions, or cross-fitting without a locked threshold.
    """
    check_defect(defect, DEFECTS)
    started = time.perf_counter()
    pictures = prepare(setting, plan, ("density", "attention_best"), shuffled=defect == "shuffled_masks")
    threshold = partial(threshold_of, setting, 2, selection=lambda: run(replace(setting, split="selection"), plan))
    return evaluate(pictures, threshold, leaked=defect == "leaked_label", started=started)


def evaluate(
    pictures: LesionPictures, threshold: Callable[[dict], dict], *, leaked: bool = False, started: float | None = None
) -> GateRun:
    """Correlate, measure and decide on pictures that are scored and projected already.

    Args:
        threshold: maps the threshold of this run to the one that holds, each ``{value, reason, …}``.
        leaked: add the lesion's recall to RankMe (a planted defect).
    """
    rho, p = correlations(pictures, leaked)
    records = Records(
        {"rho": rho.astype(np.float32), "p": p, "unit": pictures.labels.unit.astype(np.int32)},
        pictures.header(2, measures=MEASURES, ratios=RATIOS, parts=PARTS),
    )
    measured = headline(records)
    locked = threshold(selection_threshold(measured))
    decision, checks = decide(measured, locked["value"])
    metrics, rows = measured.entries(), []
    for name, ratio, part in product(MEASURES, RATIOS, PARTS):
        numbers = with_interval(metrics[_name(name, ratio, part)])
        rows.append({"measure": name, "keep": f"{ratio:g}", "family": part, **numbers})
    report = pictures.report(
        *(2, TITLE, QUESTION),
        metrics=metrics,
        checks=checks,
        decision=decision,
        started=started,
        thresholds={f"spearman.rankme.{DECIDING}": locked["value"]} | locked,
        parameters={
            "recipes": {n: pictures.plan.recipes[n].to_json() for n in ("density", "attention_best")},
            "sets_per_family": PER_FAMILY,
            "n_permutations": N_PERMUTATIONS,
        },
        chart_data={"rho": [row for row in rows if row["value"] is not None]},
    )
    return GateRun(report, records, pictures)


def correlations(pictures: LesionPictures, leaked: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Correlate each measure with recall inside each picture.

    Args:
        leaked: add the recall itself to RankMe, which no functional of tokens may know.

    Returns:
        ρ [measure, ratio, part, N], NaN where recall or the measure is constant; permutation p [measure, ratio].
    """
    n, n_sets = len(pictures.cases), PER_FAMILY * len(FAMILIES)
    values = np.empty((len(MEASURES), len(RATIOS), n, n_sets))
    recall = np.empty((len(RATIOS), n, n_sets))
    for (r, ratio), i in product(enumerate(RATIOS), range(n)):
        name, y = pictures.cases[i].name, pictures.y[i]
        sets = kept_sets(name, pictures.maps["density"][i], y, budget(y.shape[0], ratio))
        recall[r, i] = pictures.labels.lesion[i][sets].sum(axis=1) / pictures.labels.lesion[i].sum()
        for m, functional in enumerate(FUNCTIONALS):
            values[m, r, i] = set_coverage(functional, y, torch.from_numpy(sets), width=pictures.width).numpy()
        for m, scorer in enumerate(("density", "attention_best"), start=len(FUNCTIONALS)):
            values[m, r, i] = pictures.maps[scorer][i].astype(np.float64)[sets].sum(axis=1)
    if leaked:
        values[0] = recall * n_sets + values[0] / values[0].max()
    rho = np.full((len(MEASURES), len(RATIOS), len(PARTS), n), np.nan)
    p = np.full((len(MEASURES), len(RATIOS)), np.nan)
    for m, r, part in product(range(len(MEASURES)), range(len(RATIOS)), range(len(PARTS))):
        chosen = slice(None) if part == 0 else slice((part - 1) * PER_FAMILY, part * PER_FAMILY)
        x, target = values[m, r][:, chosen], recall[r][:, chosen]
        group = np.repeat(np.arange(n), x.shape[1])
        # Sums of the same tokens in another order must tie.
        options = {"n_permutations": 0 if part else N_PERMUTATIONS, "seed": SEED}
        spearman = grouped_spearman(np.round(x, 9).ravel(), target.ravel(), group, **options)
        rho[m, r, part] = spearman.by_group
        p[m, r] = p[m, r] if part else spearman.p
    return rho, p


def headline(records: Records) -> Measured:
    """Measure the headline metrics from records, fresh or committed."""
    rho, unit = records["rho"].astype(np.float64), records["unit"]
    n_units = len(records.header["units"])
    weights = stats.unit_draws(n_units, N_DRAWS, SEED)
    n_tokens = records.header["n_tokens"]
    measured = Measured((n_units, len(unit), len(unit) * n_tokens))
    for (m, name), (r, ratio), (f, part) in product(*map(enumerate, (MEASURES, RATIOS, PARTS))):
        each = rho[m, r, f]
        held = np.flatnonzero(~np.isnan(each))
        metric = _name(name, ratio, part)
        n = (len(np.unique(unit[held])), len(held), len(held) * n_tokens)
        value = float(np.mean(each[held])) if len(held) else float("nan")
        measured.add(metric, value, stats.mean_draws(each, unit, weights), n)
        measured.more[metric] = {"n_constant": int(len(each) - len(held))}
    pairs = product(enumerate(FUNCTIONALS), enumerate(RATIOS))
    tested = {_name(name, ratio): float(records["p"][m, r]) for (m, name), (r, ratio) in pairs}
    tested = {name: p for name, p in tested.items() if np.isfinite(p)}
    for name, adjusted in (holm(tested) if tested else {}).items():
        measured.more[name] |= {"p": tested[name], "p_holm": adjusted}
    return measured


def decide(measured: Measured, threshold: float) -> tuple[str, dict]:
    """Decide GO if RankMe follows recall as well as attention mass did on selection, NO-VERDICT without a control."""
    low = measured.interval(f"spearman.rankme.{DECIDING}")[0]
    checks = {
        "control_follows_recall": bool(measured.interval(f"spearman.control.{DECIDING}")[0] > 0),
        "rankme_reaches_attention_mass": bool(low >= threshold),
    }
    for name, ratio in product(FUNCTIONALS, RATIOS):
        metric = _name(name, ratio)
        below, above = measured.interval(metric)
        word = "follows recall" if below > 0 else "runs against recall" if above < 0 else "undecided"
        significant = measured.more[metric].get("p_holm", 1) < 0.05
        checks[f"{name}.keep{ratio:g}"] = word if significant else "undecided"
    if not checks["control_follows_recall"] or measured.own_n[f"spearman.rankme.{DECIDING}"][0] < FEW_UNITS:
        return "NO-VERDICT", checks
    return ("GO" if checks["rankme_reaches_attention_mass"] else "NO-GO"), checks


def selection_threshold(measured: Measured) -> dict:
    """Take ρ of kept attention mass at keep 0.25, measured by a selection run, as the threshold."""
    name = f"spearman.attention_mass.{DECIDING}"
    table = {m: round(measured.values[f"spearman.{m}.{DECIDING}"], 4) for m in MEASURES}
    return {"value": round(measured.values[name], 4), "reason": f"{name} on the selection split", "table": table}


def _name(measure: str, ratio: float, part: str = "all") -> str:
    return f"spearman.{measure}.keep{ratio:g}" + ("" if part == "all" else f".{part}")
