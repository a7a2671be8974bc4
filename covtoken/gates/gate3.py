"""Gate 3, matched budgets: which small lesions are lost when every method keeps equally many tokens of a picture?

Membership (A, B and the recommended score), every baseline, merging, and coverage by the constrained pruner (as first
specified, and repaired), by a spanning choice and by strong greedy maximisation. Rows of fixed keep ratio rank a
pruner's tokens by its final logits; at a pruner's own k, every score is run at that picture's k.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np

from covtoken.economy.flops import matching_flops, prune_flops, search_flops, vit_flops
from covtoken.economy.keep import RATIOS, budget, retained
from covtoken.economy.merging import schedule
from covtoken.evaluation.measure import Measured
from covtoken.evaluation.ranks import holm
from covtoken.evaluation.records import Records
from covtoken.gates.budgets import kept_by_method as rows
from covtoken.gates.budgets.lesion_numbers import LesionNumbers
from covtoken.gates.budgets.lesion_pictures import LesionPictures, prepare
from covtoken.names import METHOD_NAMES
from covtoken.protocol.alarm_limits import alarm_sentence
from covtoken.protocol.plan import FEW_UNITS, METHOD_PARAMETERS, SEARCHING, Plan
from covtoken.protocol.report import GateReport, GateRun, check_defect
from covtoken.protocol.setting import Setting
from covtoken.protocol.thresholds import threshold_of

TITLE = "Matched budgets"
QUESTION = "At equal budgets, which method loses fewest small lesions?"
DECIDING = "keep0.25"
DECIDES = f"miss_gain.recommended_minus_attention_best.{DECIDING}"
DEFECTS = ("shuffled_masks", "leaked_label")
HEADLINES = (
    *(f"miss_small.{name}.{DECIDING}" for name in ("recommended", "density", "attention_best", "merging")),
    *(f"miss_small.{name}.{DECIDING}" for name in ("coverage_spanning", "coverage_repaired", "coverage_greedy")),
    DECIDES,
    f"recall_small.density.{DECIDING}",
)


def run(setting: Setting, plan: Plan, *, defect: str | None = None, n_greedy: int | None = None) -> GateRun:
    """Run gate 3 from pixels.

    Args:
        setting: cohort, split and backbone.
        plan: gate 1's.
        defect: plant one of ``DEFECTS``: ``shuffled_masks`` mixes masks up, ``leaked_label`` lets the recommended score
            see the lesions.
        n_greedy: pictures that the strong optimiser is run on (None: 24 of the phantom, else 60).

    Raises:
        CovtokenError: a split without lesions, a layer that cannot be counted, or cross-fitting without a locked
            threshold.
    """
    check_defect(defect, DEFECTS)
    started = time.perf_counter()
    pictures = prepare(setting, plan, shuffled=defect == "shuffled_masks")
    if setting.split == "crossfit" and "intensity" in pictures.maps:  # a small cohort chooses no sign: both are printed
        pictures.maps["intensity_flipped"] = -pictures.maps["intensity"]
    if defect == "leaked_label":
        pictures.maps["recommended"] = pictures.labels.lesion.astype(np.float64)
    flops = flops_of(pictures)  # before minutes of work: some layers cannot be counted

    def threshold(own: dict) -> dict:
        return threshold_of(setting, 3, own, lambda: run(replace(setting, split="selection"), plan, n_greedy=n_greedy))

    return evaluate(pictures, threshold, flops, n_greedy=n_greedy, started=started)


def evaluate(
    pictures: LesionPictures,
    threshold: Callable[[dict], dict],
    flops: dict[str, dict[str, float]],
    *,
    n_greedy: int | None = None,
    started: float = 0.0,
) -> GateRun:
    """Prune, measure and decide on pictures that are scored and projected already.

    Args:
        pictures: N lesion pictures.
        threshold: from what this run would lock to the threshold that holds, each ``{value, reason, …}``.
        flops: as ``flops_of`` gives.
        n_greedy: as in ``run``.
        started: ``time.perf_counter`` before the work.
    """
    n_greedy = n_greedy or rows.greedy_pictures(pictures.setting.cohort.name)
    columns, per_image = _columns(pictures, n_greedy)
    arrays = {f"kept/{name}": counts.astype(np.int16) for name, counts in columns.items()} | per_image
    records = Records(arrays | pictures.lesion_arrays(), pictures.header(3, flops=flops))
    measured = headline(records)
    locked = threshold(selection_threshold(measured, pictures))
    decision, checks = decide(measured, locked["value"])
    checks["plan_locked_before"] = pictures.plan.locked
    report = _report(pictures, records, measured, locked, decision, checks, n_greedy, started)
    return GateRun(report, records, pictures)


def _columns(pictures: LesionPictures, n_greedy: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Counts [L] by ``<method>.<place>``, and per-image arrays of both pruners."""
    pruned = {name: rows.pruned_by(pictures, "rankme", name) for name in rows.SCHEDULES}
    ks = {f"k{name}": found.k.numpy() for name, found in pruned.items()}
    columns = rows.columns_of_scores(pictures, ks) | rows.columns_of_choice(pictures)
    for name, found in pruned.items():
        columns |= rows.columns_of_pruned(pictures, f"coverage_{name}", found, f"k{name}")
    for functional, title in (("rankme", "coverage_greedy"), ("coding_rate", "coverage_greedy_coding_rate")):
        few, sets = rows.greedy_sets(pictures, functional, n_greedy)
        columns[f"{title}.{DECIDING}"] = rows.column_of_sets(pictures, few, sets)
    if not rows.why_not_merged(pictures):
        columns |= rows.columns_of_merging(pictures)
    per_image = {}
    for name, found in pruned.items():
        numbers = {"k": found.k, "mu": found.mu, "drop": found.drop, "full": found.full, "met": found.met.double()}
        per_image |= {f"{name}/{key}": value.double().numpy().astype(np.float32) for key, value in numbers.items()}
    return columns, per_image


def headline(records: Records) -> Measured:
    """Headline metrics from records: the same function for a fresh run and for a committed file."""
    of = LesionNumbers(records)
    missed = {}
    for name in sorted(name for name in records.arrays if name.startswith("kept/")):
        counts, title = records[name], name.removeprefix("kept/")
        missed[title] = np.where(counts >= 0, ~retained(counts, of.size), np.nan)
        of.add(f"miss_small.{title}", np.where(of.small, missed[title], np.nan))
        of.add(f"miss.{title}", missed[title])
        of.add_recall(f"recall_small.{title}", counts)
    _add_gains(of, missed)
    for name in rows.SCHEDULES:
        of.add_images(f"constraint_met.{name}", records[f"{name}/met"].astype(np.float64))
        of.add_images(f"tokens_kept.{name}", records[f"{name}/k"].astype(np.float64))
    for kind, by_place in records.header["flops"].items():
        for place, gflops in by_place.items():
            of.measured.add(f"gflops.{kind}.{place}", gflops, np.full(2, np.nan))  # counted, so without an interval
    return of.measured


def _add_gains(of: LesionNumbers, missed: dict[str, np.ndarray]) -> None:
    """miss(other) − miss(membership) over the small lesions that both were evaluated on.

    Holm within one membership at one budget: a family is what one verdict table shows. A larger one could never reach
    significance, since a bootstrapped p is at least 2 / (draws + 1).
    """
    for ours in rows.MEMBERSHIPS:
        families: dict[str, dict[str, float]] = {}
        for title, theirs in missed.items():
            other, _, place = title.partition(".")
            if other == ours or f"{ours}.{place}" not in missed:
                continue
            name = f"miss_gain.{ours}_minus_{other}.{place}"
            draws = of.add(name, np.where(of.small, theirs - missed[f"{ours}.{place}"], np.nan))
            if np.isfinite(draws).all():
                families.setdefault(place, {})[name] = p_of(draws)
        for p_values in families.values():
            for name, adjusted in holm(p_values).items():
                of.measured.more[name] |= {"p": p_values[name], "p_holm": adjusted}


def p_of(draws: np.ndarray) -> float:
    """Two-sided p of a bootstrapped difference: twice the smaller tail, at least 2 / (draws + 1)."""
    tail = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
    return float(min(1.0, 2 * (tail + 1) / (len(draws) + 1)))


def decide(measured: Measured, threshold: float) -> tuple[str, dict]:
    """GO if the recommended score loses fewer small lesions than tuned attention at keep 0.25, interval beyond 0.

    What counts are units with small lesions.
    """
    checks = {
        "recommended_beats_attention": bool(measured.interval(DECIDES)[0] > 0),
        "recommended_beats_threshold": bool(measured.interval(f"miss_small.recommended.{DECIDING}")[1] < threshold),
        "constraint_met_by_repaired": bool(measured.values["constraint_met.repaired"] >= 0.95),
    }
    for name in (name for name in measured.values if name.startswith("miss_gain.") and name.endswith(DECIDING)):
        ours, _, other = name.removeprefix("miss_gain.").removesuffix(f".{DECIDING}").partition("_minus_")
        below, above = measured.interval(name)
        sure = measured.more[name].get("p_holm", 1) < 0.05
        word = "undecided" if not sure else "wins" if below > 0 else "loses" if above < 0 else "undecided"
        checks[f"miss.{ours}_against_{other}"] = word
    if measured.own_n[DECIDES][0] < FEW_UNITS or not np.isfinite(measured.values[DECIDES]):
        return "NO-VERDICT", checks
    return ("GO" if checks["recommended_beats_attention"] else "NO-GO"), checks


def selection_threshold(measured: Measured, pictures: LesionPictures) -> dict:
    """What a selection run gives as threshold: the lowest small-lesion miss rate of what searches no bank."""
    simple = [name for name in pictures.maps if name not in SEARCHING and name != "random"]
    best = min(simple, key=lambda name: measured.values[f"miss_small.{name}.{DECIDING}"])
    return {
        "value": round(measured.values[f"miss_small.{best}.{DECIDING}"], 4),
        "reason": f"miss_small.{best}.{DECIDING} on the selection split, the lowest without a rarity search",
    }


def flops_of(pictures: LesionPictures) -> dict[str, dict[str, float]]:
    """GFLOP a picture by keep ratio: pruning after the middle block, merging with its matching, the whole model.

    Pruning is given without and with membership A's search of its bank; the recommended score needs none.
    """
    vit, n_tokens = pictures.setting.vit, pictures.y.shape[1]
    prefix = int(vit.model.num_prefix_tokens)
    whole = vit_flops(vit, (n_tokens + prefix,) * vit.n_blocks)
    found = {"whole": {"all": whole / 1e9}, "pruning": {}, "pruning_with_search": {}, "merging": {}}
    search = search_flops(n_tokens, METHOD_PARAMETERS["reference_size"], pictures.width)
    for ratio in RATIOS:
        k = budget(n_tokens, ratio)
        pruning = prune_flops(vit, pictures.plan.middle, k)
        found["pruning"][rows.label_of(ratio)] = pruning / 1e9
        found["pruning_with_search"][rows.label_of(ratio)] = (pruning + search) / 1e9
        if not rows.why_not_merged(pictures):
            merged = np.cumsum((0, *schedule(n_tokens, k, vit.n_blocks)[:-1]))
            counts = [n_tokens + prefix - int(gone) for gone in merged]
            matching = matching_flops(counts, vit.model.blocks[0].attn.head_dim, prefix)
            found["merging"][rows.label_of(ratio)] = (vit_flops(vit, counts) + matching) / 1e9
    return found


def _report(pictures, records, measured, threshold, decision, checks, n_greedy, started) -> GateReport:
    metrics = measured.entries()
    return pictures.report(
        *(3, TITLE, QUESTION),
        metrics=metrics,
        checks=checks,
        decision=decision,
        started=started,
        thresholds={f"miss_small.recommended.{DECIDING}": threshold["value"]} | threshold,
        parameters={
            "recipes": {name: recipe.to_json() for name, recipe in pictures.plan.recipes.items()},
            "small_cut": pictures.plan.small_cut,
            "n_greedy": n_greedy,
            "merging": rows.why_not_merged(pictures) or "through the model's own blocks",
            "alarm_says": alarm_sentence(pictures.alarms),
        },
        chart_data={"miss": miss_rows(metrics), "gains": gain_rows(metrics)},
    )


def miss_rows(metrics: dict[str, dict], kind: str = "miss_small") -> list[dict]:
    """Rows for the chart of miss rates: {method, keep, value, lo, hi}."""
    found = []
    for method, ratio in product(METHOD_NAMES, RATIOS):
        entry = metrics.get(f"{kind}.{method}.{rows.label_of(ratio)}")
        if entry and entry["value"] is not None:
            low, high = entry["ci95"] or (None, None)
            found.append(
                {"method": METHOD_NAMES[method], "keep": f"{ratio:g}", "value": entry["value"], "lo": low, "hi": high}
            )
    return found


def gain_rows(metrics: dict[str, dict], ours: str = "recommended", place: str = DECIDING) -> list[dict]:
    """Rows for the forest of differences: {label, value, lo, hi}; right of zero favours ``ours``."""
    found = []
    for method, label in METHOD_NAMES.items():
        entry = metrics.get(f"miss_gain.{ours}_minus_{method}.{place}")
        if entry and entry["ci95"]:
            found.append({"label": label, "value": entry["value"], "lo": entry["ci95"][0], "hi": entry["ci95"][1]})
    return sorted(found, key=lambda row: row["value"])
