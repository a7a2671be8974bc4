"""Gate 3 matches budgets: which small lesions are lost when every method keeps equally many tokens of a picture?

Compared are membership (A, B and the recommended score), every baseline, merging, and coverage: by the constrained
pruner (as specified, and repaired), a spanning choice and strong greedy maximisation. At a fixed keep ratio a pruner's
tokens are ranked by its final logits; at a pruner's own k, every score keeps that picture's k.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np

from covtoken.economy.flops import matching_flops, prune_flops, search_flops, vit_flops
from covtoken.economy.keep import RATIOS, budget, retained
from covtoken.economy.merging import schedule
from covtoken.evaluation.measure import Measured
from covtoken.evaluation.ranks import holm, sign_test
from covtoken.evaluation.records import Records
from covtoken.gates.budgets import kept_by_method as rows
from covtoken.gates.budgets.lesion_numbers import LesionNumbers
from covtoken.gates.budgets.lesion_pictures import LesionPictures, prepare
from covtoken.names import METHOD_NAMES
from covtoken.protocol.alarm_limits import alarm_sentence
from covtoken.protocol.plan import FEW_UNITS, METHOD_PARAMETERS, SEARCHING, Plan
from covtoken.protocol.report import GateRun, check_defect, with_interval
from covtoken.protocol.setting import Setting
from covtoken.protocol.thresholds import threshold_of

TITLE = "Matched budgets"
QUESTION = "At equal budgets, which method loses fewest small lesions?"
DECIDING = "keep0.25"
DECIDES = f"miss_gain.recommended_minus_attention_best.{DECIDING}"
LARGEST_P = 0.05  # of the exact sign test over units, beside an interval beyond 0
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
        defect: plant one of ``DEFECTS``: ``shuffled_masks`` mixes masks up, ``leaked_label`` lets the recommended score
            see the lesions.
        n_greedy: number of pictures for the strong optimiser (None: 24 of the phantom, else 60).

    Raises:
        CovtokenError: a split without lesions, a layer that cannot be counted, or cross-fitting without a locked
            threshold.
    """
    check_defect(defect, DEFECTS)
    started = time.perf_counter()
    pictures = prepare(setting, plan, shuffled=defect == "shuffled_masks")
    if defect == "leaked_label":
        pictures.maps["recommended"] = pictures.labels.lesion.astype(np.float64)
    flops = flops_of(pictures)  # before minutes of work: some layers cannot be counted
    select = partial(run, replace(setting, split="selection"), plan, n_greedy=n_greedy)
    threshold = partial(threshold_of, setting, 3, selection=select)
    return evaluate(pictures, threshold, flops, n_greedy=n_greedy, started=started)


def evaluate(
    pictures: LesionPictures,
    threshold: Callable[[dict], dict],
    flops: dict[str, dict[str, float]],
    *,
    n_greedy: int | None = None,
    started: float | None = None,
) -> GateRun:
    """Prune, measure and decide on pictures that are scored and projected already.

    Args:
        threshold: maps the threshold of this run to the one that holds, each ``{value, reason, …}``.
        flops: see ``flops_of``.
    """
    if pictures.setting.small and "intensity" in pictures.maps:  # it chose no sign
        pictures.maps["intensity_flipped"] = -pictures.maps["intensity"]
    n_greedy = n_greedy or rows.greedy_pictures(pictures.setting.cohort.name)
    arrays = _arrays(pictures, n_greedy) | pictures.lesion_arrays()
    records = Records(arrays, pictures.header(3, flops=flops))
    measured = headline(records)
    locked = threshold(selection_threshold(measured, pictures))
    decision, checks = decide(measured, locked["value"])
    metrics = measured.entries()
    report = pictures.report(
        *(3, TITLE, QUESTION),
        metrics=metrics,
        checks=checks,
        decision=decision,
        started=started,
        thresholds={f"miss_small.recommended.{DECIDING}": locked["value"]} | locked,
        parameters={
            "recipes": {name: recipe.to_json() for name, recipe in pictures.plan.recipes.items()},
            "small_cuts": pictures.plan.small_cuts,
            "n_greedy": n_greedy,
            "merging": rows.why_not_merged(pictures) or "through the model's own blocks",
            "alarm_says": alarm_sentence(pictures.alarms),
        },
        chart_data={"miss": miss_rows(metrics), "gains": gain_rows(metrics)},
    )
    return GateRun(report, records, pictures)


def _arrays(pictures: LesionPictures, n_greedy: int) -> dict[str, np.ndarray]:
    """Count kept tokens [L] as ``kept/<method>.<place>``, and list k, μ, drop, C* and flag [N] of both pruners."""
    pruned_by = {name: rows.pruned_by(pictures, "rankme", name) for name in rows.SCHEDULES}
    ks = {f"k{name}": pruned.k.numpy() for name, pruned in pruned_by.items()}
    columns = rows.columns_of_scores(pictures, ks) | rows.columns_of_choice(pictures)
    for name, pruned in pruned_by.items():
        columns |= rows.columns_of_pruned(pictures, f"coverage_{name}", pruned, f"k{name}")
    for functional, title in (("rankme", "coverage_greedy"), ("coding_rate", "coverage_greedy_coding_rate")):
        few, sets = rows.greedy_sets(pictures, functional, n_greedy)
        columns[f"{title}.{DECIDING}"] = rows.column_of_sets(pictures, few, sets)
    if not rows.why_not_merged(pictures):
        columns |= rows.columns_of_merging(pictures)
    arrays = {f"kept/{name}": counts.astype(np.int16) for name, counts in columns.items()}
    for (name, pruned), key in product(pruned_by.items(), ("k", "mu", "drop", "full", "met", "met_before_repair")):
        arrays[f"{name}/{key}"] = getattr(pruned, key).double().numpy().astype(np.float32)
    return arrays


def headline(records: Records) -> Measured:
    """Measure the headline metrics from records, fresh or committed."""
    numbers = LesionNumbers(records)
    missed = {}
    for name in sorted(name for name in records.arrays if name.startswith("kept/")):
        counts, title = records[name], name.removeprefix("kept/")
        missed[title] = np.where(counts >= 0, ~retained(counts, numbers.size), np.nan)
        numbers.add(f"miss_small.{title}", np.where(numbers.small, missed[title], np.nan))
        numbers.add(f"miss.{title}", missed[title])
        numbers.add_recall(f"recall_small.{title}", counts)
    _add_gains(numbers, missed)
    for name in rows.SCHEDULES:
        numbers.add_images(f"constraint_met.{name}", records[f"{name}/met"].astype(np.float64))
        numbers.add_images(f"met_before_repair.{name}", records[f"{name}/met_before_repair"].astype(np.float64))
        numbers.add_images(f"tokens_kept.{name}", records[f"{name}/k"].astype(np.float64))
    for kind, by_place in records.header["flops"].items():
        for place, gflops in by_place.items():
            numbers.measured.add(
                f"gflops.{kind}.{place}", gflops, np.full(2, np.nan)
            )  # counted, so without an interval
    return numbers.measured


def _add_gains(numbers: LesionNumbers, missed: dict[str, np.ndarray]) -> None:
    """Add miss(other) − miss(membership) over the small lesions that both were evaluated on.

    The deciding comparison was named before any look: it stands outside Holm's families, with its exact sign test over
    units. A family is a membership at a budget, as a verdict table shows it. A larger family could never reach
    significance, since a bootstrapped p is at least 2 / (draws + 1).
    """
    for membership in rows.MEMBERSHIPS:
        families: dict[str, dict[str, float]] = {}
        for title, by_other in missed.items():
            other, _, place = title.partition(".")
            if other == membership or f"{membership}.{place}" not in missed:
                continue
            name = f"miss_gain.{membership}_minus_{other}.{place}"
            gains = np.where(numbers.small, by_other - missed[f"{membership}.{place}"], np.nan)
            draws = numbers.add(name, gains)
            if name == DECIDES:
                won, lost, p = sign_test(gains, numbers.unit)
                numbers.measured.more[name] |= {"units_won": won, "units_lost": lost, "p_exact": p}
            elif np.isfinite([*draws, *numbers.measured.interval(name)]).all():
                families.setdefault(place, {})[name] = p_of(draws)
        for p_values in families.values():
            for name, adjusted in holm(p_values).items():
                numbers.measured.more[name] |= {"p": p_values[name], "p_holm": adjusted}


def p_of(draws: np.ndarray) -> float:
    """Compute the two-sided p of a bootstrapped difference: twice the smaller tail, at least 2 / (draws + 1)."""
    tail = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
    return float(min(1.0, 2 * (tail + 1) / (len(draws) + 1)))


def decide(measured: Measured, threshold: float) -> tuple[str, dict]:
    """Decide GO if at keep 0.25 the recommended score loses fewer small lesions than attention.

    Its interval must lie beyond 0, and the exact sign test over units must reach ``LARGEST_P``: an interval alone calls
    five lesions of one direction sure.
    """
    checks: dict[str, bool | str] = {
        "recommended_beats_threshold": bool(measured.interval(f"miss_small.recommended.{DECIDING}")[1] < threshold)
    }
    for name in (name for name in measured.values if name.startswith("miss_gain.") and name.endswith(DECIDING)):
        score, _, other = name.removeprefix("miss_gain.").removesuffix(f".{DECIDING}").partition("_minus_")
        below, above = measured.interval(name)
        more = measured.more[name]
        sure = more["p_exact"] <= LARGEST_P if name == DECIDES else more.get("p_holm", 1) < 0.05
        word = "wins" if sure and below > 0 else "loses" if sure and above < 0 else "undecided"
        checks[f"miss.{score}_against_{other}"] = word
    checks["recommended_beats_attention"] = checks["miss.recommended_against_attention_best"] == "wins"
    n_units = measured.own_n[DECIDES][0]  # with small lesions
    if n_units < FEW_UNITS or not np.isfinite(measured.values[DECIDES]):
        return "NO-VERDICT", checks
    return ("GO" if checks["recommended_beats_attention"] else "NO-GO"), checks


def selection_threshold(measured: Measured, pictures: LesionPictures) -> dict:
    """Take the lowest small-lesion miss rate of the scores that search no bank, on a selection run, as threshold."""
    simple = [name for name in pictures.maps if name not in SEARCHING and name != "random"]
    best = min(simple, key=lambda name: measured.values[f"miss_small.{name}.{DECIDING}"])
    return {
        "value": round(measured.values[f"miss_small.{best}.{DECIDING}"], 4),
        "reason": f"miss_small.{best}.{DECIDING} on the selection split, the lowest without a rarity search",
        "table": {name: round(measured.values[f"miss_small.{name}.{DECIDING}"], 4) for name in sorted(simple)},
    }


def flops_of(pictures: LesionPictures) -> dict[str, dict[str, float]]:
    """Count GFLOP a picture by keep ratio: pruning after the middle block, merging with its matching, the whole model.

    Pruning is counted without and with membership A's search of its bank; the recommended score needs none.
    """
    vit, n_tokens = pictures.setting.vit, pictures.y.shape[1]
    prefix = int(vit.model.num_prefix_tokens)
    whole = vit_flops(vit, (n_tokens + prefix,) * vit.n_blocks)
    gflops = {"whole": {"all": whole / 1e9}, "pruning": {}, "pruning_with_search": {}, "merging": {}}
    search = search_flops(n_tokens, METHOD_PARAMETERS["reference_size"], pictures.width)
    for ratio in RATIOS:
        k, place = budget(n_tokens, ratio), rows.label_of(ratio)
        pruning = prune_flops(vit, pictures.plan.middle, k)
        gflops["pruning"][place] = pruning / 1e9
        gflops["pruning_with_search"][place] = (pruning + search) / 1e9
        if not rows.why_not_merged(pictures):
            merged = np.cumsum((0, *schedule(n_tokens, k, vit.n_blocks)[:-1]))
            counts = [n_tokens + prefix - int(gone) for gone in merged]
            matching = matching_flops(counts, vit.model.blocks[0].attn.head_dim, prefix)
            gflops["merging"][place] = (vit_flops(vit, counts) + matching) / 1e9
    return gflops


def miss_rows(metrics: dict[str, dict], kind: str = "miss_small") -> list[dict]:
    """List rows of the chart of miss rates: {method, keep, value, lo, hi}."""
    drawn = []
    for (method, label), ratio in product(METHOD_NAMES.items(), RATIOS):
        entry = metrics.get(f"{kind}.{method}.{rows.label_of(ratio)}")
        if entry and entry["value"] is not None:
            drawn.append({"method": label, "keep": f"{ratio:g}", **with_interval(entry)})
    return drawn


def gain_rows(metrics: dict[str, dict], ours: str = "recommended", place: str = DECIDING) -> list[dict]:
    """List rows of the forest of differences: {label, value, lo, hi}; right of zero favours ``ours``."""
    entries = {label: metrics.get(f"miss_gain.{ours}_minus_{method}.{place}") for method, label in METHOD_NAMES.items()}
    drawn = [{"label": label, **with_interval(entry)} for label, entry in entries.items() if entry and entry["ci95"]]
    return sorted(drawn, key=lambda row: row["value"])
