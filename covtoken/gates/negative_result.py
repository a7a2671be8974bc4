"""The negative result compares a coverage floor with membership at equal budgets, objective apart from optimiser.

A poor optimiser also looks like a poor objective. So each objective (RankMe, coding rate, energy) is optimised by the
dual as specified, by a repaired dual that meets its floor, and by a strong optimiser (greedy with swaps; energy has a
closed form), always against membership A at the same number of tokens. The mechanism follows: the spectrum of lesion
tokens, their redundancy, when they are picked, and the recall of a growing lesion.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import torch

from covtoken.coverage.dual import SLACK
from covtoken.coverage.functionals import coverage, rankme_of_gram
from covtoken.coverage.greedy import largest_norms, spanning
from covtoken.economy.keep import budget, kept_counts, kept_tokens, recall, retained
from covtoken.evaluation import stats
from covtoken.evaluation.measure import N_DRAWS, Measured
from covtoken.evaluation.records import Records
from covtoken.gates.budgets import kept_by_method as rows
from covtoken.gates.budgets.growing_lesion import METHODS, recall_by_size
from covtoken.gates.budgets.lesion_numbers import LesionNumbers
from covtoken.gates.budgets.lesion_pictures import LesionPictures, prepare
from covtoken.protocol.plan import FEW_UNITS, Plan
from covtoken.protocol.report import GateRun, check_defect, with_interval
from covtoken.protocol.setting import SEED, Setting

TITLE = "The negative result"
QUESTION = "Does a coverage floor lose small lesions where membership keeps them, and is it the objective?"
OBJECTIVES = {"rankme": "RankMe", "coding_rate": "coding rate", "energy": "energy"}
OPTIMISERS = {
    "dual": "dual, as specified",
    "repaired": "dual, repaired",
    "spanning": "spanning choice",
    "greedy": "greedy",
    "closed_form": "closed form",
}
PAIRS = (
    *product(OBJECTIVES, ("dual", "repaired")),
    *product(("rankme", "coding_rate"), ("spanning", "greedy")),
    ("energy", "closed_form"),
)
NAMED = {"coverage_dual": "rankme.dual", "coverage_repaired": "rankme.repaired", "coverage_greedy": "rankme.greedy"}
DEFECTS = ("coverage_is_membership",)
MORE_SEEDS = 4  # further runs of the repaired dual, whose path depends on its noise and on a processor's rounding
SPECTRUM_TOKENS, SPECTRUM_DRAWS = 3000, 100
HEADLINES = (
    *(f"recall_small.{name}" for name in (*NAMED, "membership")),
    *(f"recall_gain.membership_minus_{name}" for name in NAMED),
    "constraint_met.rankme.dual",
    "met_before_repair.rankme.repaired",
    "spectrum.lesion",
    "spectrum.background",
)


def run(setting: Setting, plan: Plan, *, defect: str | None = None, n_greedy: int | None = None) -> GateRun:
    """Run the negative result from pixels.

    Args:
        defect: ``coverage_is_membership`` lets every coverage method keep membership's tokens.
        n_greedy: number of pictures for the strong optimiser (None: 24 of the phantom, else 60).

    Raises:
        CovtokenError: a split without lesions.
    """
    check_defect(defect, DEFECTS)
    started = time.perf_counter()
    pictures = prepare(setting, plan, ("density", "recommended"))
    growing = {}
    if setting.cohort.name == "phantom" and not setting.most_units:  # a run that measures a spread draws nothing
        growing = {f"rarity/{name}": value for name, value in recall_by_size(pictures).items()}
    return evaluate(pictures, growing, n_greedy=n_greedy, fake=defect is not None, started=started)


def evaluate(
    pictures: LesionPictures,
    growing: dict[str, np.ndarray] | None = None,
    *,
    n_greedy: int | None = None,
    fake: bool = False,
    started: float | None = None,
) -> GateRun:
    """Optimise, measure and decide on pictures that are scored and projected already.

    Args:
        growing: records of the growing lesion, where it was drawn.
        fake: let coverage keep membership's tokens (a planted defect).
    """
    n_greedy = n_greedy or rows.greedy_pictures(pictures.setting.cohort.name)
    arrays = _matched(pictures, n_greedy, fake) | _order(pictures) | _likeness(pictures) | _spectrum(pictures)
    arrays |= growing or {}
    records = Records(arrays | pictures.lesion_arrays(), pictures.header("negative_result", slack=SLACK))
    measured = headline(records)
    decision, checks = decide(measured)
    metrics = measured.entries()
    report = pictures.report(
        *("negative_result", TITLE, QUESTION),
        metrics=metrics,
        checks=checks,
        decision=decision,
        started=started,
        thresholds={"recall_gain": 0, "reason": "fixed before any run"},
        parameters={"slack": SLACK, "small_cuts": pictures.plan.small_cuts, "n_greedy": n_greedy},
        chart_data={"pairs": pair_rows(metrics), "rarity": growing_lesion_rows(records)},
    )
    return GateRun(report, records, pictures)


def _matched(pictures: LesionPictures, n_greedy: int, fake: bool) -> dict[str, np.ndarray]:
    """Count kept tokens [L], k [N] and flag [N] of each objective and optimiser, and of membership at that k."""
    n_tokens, everyone = pictures.y.shape[1], np.arange(len(pictures.cases))
    k = budget(n_tokens, rows.GREEDY_RATIO)
    columns, spread = {}, spanning(pictures.y, k)
    duals = [pair for pair in PAIRS if pair[1] in rows.SCHEDULES]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the coding rate's dual keeps one core busy, others more
        pruned = dict(zip(duals, pool.map(lambda pair: rows.pruned_by(pictures, *pair), duals)))
    for functional, optimiser in PAIRS:
        few = everyone
        if optimiser in rows.SCHEDULES:
            result = pruned[functional, optimiser]
            mask = result.mask.numpy()
            columns[f"before/{functional}.{optimiser}"] = result.met_before_repair.numpy().astype(np.int8)
        elif optimiser == "greedy":
            few, sets = rows.greedy_sets(pictures, functional, n_greedy)
            mask = np.zeros((len(everyone), n_tokens), dtype=bool)
            mask[few] = rows.as_mask(sets, n_tokens)
        else:
            mask = rows.as_mask(spread if optimiser == "spanning" else largest_norms(pictures.y, k), n_tokens)
        kept = mask.sum(axis=1)
        if fake:
            mask = kept_tokens(pictures.maps["density"], k=kept)
        columns |= _columns(pictures, f"{functional}.{optimiser}", functional, mask, few)
    n_more = MORE_SEEDS if pictures.setting.cohort.name != "phantom" else 1  # the phantom's notebook should stay quick
    masks = [
        rows.pruned_by(pictures, "rankme", "repaired", seed=SEED + 1 + seed).mask.numpy() for seed in range(n_more)
    ]
    beside = [kept_tokens(pictures.maps["density"], k=mask.sum(axis=1)) for mask in masks]
    for name, each in (("seeds", beside if fake else masks), ("seeds_density_at", beside)):
        counts = [kept_counts(mask, pictures.labels.lesions) for mask in each]
        columns[f"{name}/rankme.repaired"] = np.stack(counts).astype(np.int16)
    fixed = kept_tokens(pictures.maps["density"], k=k)
    columns["kept/membership"] = kept_counts(fixed, pictures.labels.lesions).astype(np.int16)
    return columns


def _columns(pictures: LesionPictures, title: str, functional: str, mask: np.ndarray, few: np.ndarray) -> dict:
    """Make the recorded columns of an objective and optimiser from the kept tokens; −1 for pictures not in ``few``."""
    seen = np.isin(pictures.lesion_picture, few)
    kept = mask.sum(axis=1)
    weight = torch.from_numpy(mask).double()
    full = coverage(functional, pictures.y, width=pictures.width)
    drop = full - coverage(functional, pictures.y, weight, width=pictures.width)
    met = (drop <= SLACK * full + 1e-9).numpy()
    out = ~np.isin(np.arange(len(kept)), few)
    masks = {f"{name}_at": kept_tokens(pictures.maps[name], k=kept) for name in ("density", "recommended")}
    columns = {}
    for key, tokens in {"kept": mask, **masks}.items():
        counts = kept_counts(tokens, pictures.labels.lesions)
        columns[f"{key}/{title}"] = np.where(seen, counts, rows.NOT_EVALUATED).astype(np.int16)
    columns[f"k/{title}"] = np.where(out, rows.NOT_EVALUATED, kept).astype(np.int16)
    columns[f"met/{title}"] = np.where(out, rows.NOT_EVALUATED, met).astype(np.int8)
    columns[f"drop/{title}"] = np.where(out, np.nan, (drop / full).numpy()).astype(np.float32)
    return columns


def _order(pictures: LesionPictures) -> dict[str, np.ndarray]:
    """Rank a lesion's first token and its median token among all picked, as share of all tokens, [L]."""
    n_tokens = pictures.y.shape[1]
    order = spanning(pictures.y, n_tokens).numpy()
    spread = np.empty_like(order)
    np.put_along_axis(spread, order, np.broadcast_to(np.arange(n_tokens), order.shape), axis=1)
    density = np.argsort(np.argsort(-pictures.maps["density"], axis=1, kind="stable"), axis=1, kind="stable")
    columns = {}
    for name, rank in (("spanning", spread), ("membership", density)):
        ranks = [np.sort(rank[lesion.picture, lesion.tokens]) + 1 for lesion in pictures.labels.lesions]
        columns[f"first/{name}"] = np.array([r[0] for r in ranks], dtype=np.float32) / n_tokens
        columns[f"half/{name}"] = np.array([r[(len(r) - 1) // 2] for r in ranks], dtype=np.float32) / n_tokens
    return columns


def _likeness(pictures: LesionPictures) -> dict[str, np.ndarray]:
    """Measure the redundancy of lesion tokens in P_L: mean squared cosine of the token pairs inside each lesion, [L].

    The control is the same shape at a random lesion-free place of the picture, since neighbours always resemble each
    other. Both are NaN for one-token lesions and where the shape fits nowhere. ``energy`` is the lesion's mean token
    energy over the picture's mean.
    """
    values = []
    for index, lesion in enumerate(pictures.labels.lesions):
        y = pictures.y[lesion.picture]
        moved = _moved(lesion.tokens, pictures.labels, lesion.picture, np.random.default_rng([SEED, index]))
        paired, energies = len(lesion.tokens) > 1 and moved is not None, y.square().sum(1)
        cosines = [_mean_squared_cosine(y[tokens]) if paired else np.nan for tokens in (lesion.tokens, moved)]
        values.append((*cosines, float(energies[lesion.tokens].mean() / energies.mean())))
    names = ("inside", "outside", "energy")
    return {f"likeness/{name}": np.array(column, np.float32) for name, column in zip(names, zip(*values))}


def _moved(tokens: np.ndarray, labels, picture: int, rng: np.random.Generator) -> np.ndarray | None:
    """Move the tokens' shape to a random place without lesion or ignored tokens; None: it fits nowhere."""
    down, right = tokens // labels.cols, tokens % labels.cols
    down, right = down - down.min(), right - right.min()
    free = ~(labels.lesion[picture] | labels.ignore[picture])
    corners = product(range(labels.rows - down.max()), range(labels.cols - right.max()))
    places = [(row + down) * labels.cols + col + right for row, col in corners]
    places = [place for place in places if free[place].all()]
    return places[rng.integers(len(places))] if places else None


def _mean_squared_cosine(y: torch.Tensor) -> float:
    unit = y / y.norm(dim=1, keepdim=True).clamp(min=1e-12)
    squared = (unit @ unit.T).square()
    n = len(y)
    return float((squared.sum() - squared.diagonal().sum()) / (n * (n - 1)))


def _spectrum(pictures: LesionPictures) -> dict[str, np.ndarray]:
    """Compute RankMe of pooled lesion tokens and as many background tokens of the same pictures, then of unit halves.

    Tokens are centred by the bank mean and not projected. A bootstrap would repeat tokens, which lowers a rank: halves
    without repetition spread as the whole does (the delete-half jackknife).
    """
    rng, labels = np.random.default_rng(SEED), pictures.labels
    sides: dict[str, list] = {"lesion": [], "background": []}
    unit = []
    for i in range(len(pictures.cases)):
        tokens = [np.flatnonzero(side & ~labels.ignore[i]) for side in (labels.lesion[i], ~labels.lesion[i])]
        n = min(map(len, tokens))
        for name, side in zip(sides, tokens):
            sides[name].append(pictures.centred[i][np.sort(rng.choice(side, n, replace=False))])
        unit += [labels.unit[i]] * n
    unit = np.array(unit)
    few = np.sort(rng.permutation(len(unit))[:SPECTRUM_TOKENS])
    n_units = len(labels.unit_names)
    draws = rng.random((SPECTRUM_DRAWS, n_units)).argsort(axis=1) < n_units / 2
    every = torch.from_numpy(np.concatenate([np.ones((1, n_units)), draws]))
    arrays = {"spectrum/n_tokens": np.array([len(few)], dtype=np.int32)}
    for name, side in sides.items():
        z = torch.cat(side).double()[few]
        of_units = (z[unit[few] == u] for u in range(n_units))
        grams = torch.stack([part.T @ part for part in of_units])
        flat = grams.reshape(n_units, -1)
        values = [rankme_of_gram((part @ flat).reshape(-1, *grams.shape[1:])) for part in every.split(16)]
        arrays[f"spectrum/{name}"] = torch.cat(values).numpy()
    return arrays


def headline(records: Records) -> Measured:
    """Measure the headline metrics from records, fresh or committed."""
    numbers = LesionNumbers(records)
    for title in (f"{functional}.{optimiser}" for functional, optimiser in PAIRS):
        for kind, place in (("kept", "coverage"), ("density_at", "membership"), ("recommended_at", "recommended")):
            counts = records[f"{kind}/{title}"]
            seen = numbers.small & (counts >= 0)
            numbers.add(f"miss_small.{title}.{place}", np.where(seen, ~retained(counts, numbers.size), np.nan))
            numbers.add_recall(f"recall_small.{title}.{place}", counts)
        for kind, name in (("met", "constraint_met"), ("k", "tokens_kept")):
            values = records[f"{kind}/{title}"].astype(np.float64)
            numbers.add_images(f"{name}.{title}", np.where(values < 0, np.nan, values))
        numbers.add_images(f"drop.{title}", records[f"drop/{title}"].astype(np.float64))
        if f"before/{title}" in records.arrays:
            numbers.add_images(f"met_before_repair.{title}", records[f"before/{title}"].astype(np.float64))
    measured = numbers.measured
    for name, title in NAMED.items():
        kept, beside = ([records[f"{kind}/{title}"]] for kind in ("kept", "density_at"))
        if f"seeds/{title}" in records.arrays:  # a path that depends on its noise counts by its mean over seeds
            kept, beside = [*kept, *records[f"seeds/{title}"]], [*beside, *records[f"seeds_density_at/{title}"]]
        pair = f"recall_small.membership_at_{name}", f"recall_small.{name}"
        for metric, counts in zip(pair, (beside, kept)):
            numbers.add_recall(metric, np.mean(counts, axis=0))
        measured.difference(f"recall_gain.membership_minus_{name}", *pair)
        if len(kept) > 1:
            recalls = [recall(counts[numbers.small], numbers.size[numbers.small]) for counts in kept]
            measured.more[f"recall_small.{name}"] |= {"by_seed": recalls}
    numbers.add_recall("recall_small.membership", records["kept/membership"])
    for name in ("first/spanning", "half/spanning", "first/membership", "half/membership"):
        numbers.add(f"rank.{name.replace('/', '.')}", np.where(numbers.small, records[name].astype(np.float64), np.nan))
    for name in ("inside", "outside", "energy"):
        numbers.add(f"likeness.{name}", records[f"likeness/{name}"].astype(np.float64))
        n_small = int((numbers.small & ~np.isnan(records[f"likeness/{name}"])).sum())
        measured.more[f"likeness.{name}"] |= {"n_small": n_small}
    measured.difference("likeness.inside_minus_outside", "likeness.inside", "likeness.outside")
    for name in ("lesion", "background"):
        whole, halves = records[f"spectrum/{name}"][0], records[f"spectrum/{name}"][1:]
        measured.add(f"spectrum.{name}", whole, whole + halves - halves.mean())
        measured.more[f"spectrum.{name}"] = {"n_pooled_tokens": int(records["spectrum/n_tokens"][0])}
    measured.difference("spectrum.lesion_minus_background", "spectrum.lesion", "spectrum.background")
    return measured


def decide(measured: Measured) -> tuple[str, dict]:
    """Decide GO if membership keeps more of small lesions than the repaired dual, and than greedy coverage.

    Of the repaired dual the mean over seeds counts, of both methods at each seed's number of tokens. That it meets its
    floor holds by construction, so that is no check. NO-GO: membership does not keep more, so the fault was the
    optimiser's or there is none.
    """
    checks = {
        f"membership_beats_{name}": bool(measured.interval(f"recall_gain.membership_minus_{name}")[0] > 0)
        for name in NAMED
    }
    checks["specified_meets_its_floor"] = bool(measured.values["constraint_met.rankme.dual"] >= 0.95)
    below, above = measured.interval("spectrum.lesion_minus_background")
    checks["lesion_spectrum"] = "richer" if below > 0 else "poorer" if above < 0 else "undecided"
    deciding = ("coverage_repaired", "coverage_greedy")
    gains = [f"recall_gain.membership_minus_{name}" for name in deciding]
    few = any(measured.own_n[gain][0] < FEW_UNITS for gain in gains)
    if few or not np.isfinite([measured.values[gain] for gain in gains]).all():
        return "NO-VERDICT", checks
    holds = all(checks[f"membership_beats_{name}"] for name in deciding)
    return ("GO" if holds else "NO-GO"), checks


def pair_rows(metrics: dict[str, dict]) -> list[dict]:
    """List rows of ``objective_optimiser``: {objective, optimiser, miss, lo, hi, membership_miss, met, k}."""
    drawn = []
    for functional, optimiser in PAIRS:
        title = f"{functional}.{optimiser}"
        numbers = with_interval(metrics[f"miss_small.{title}.coverage"])
        numbers["miss"] = numbers.pop("value")
        numbers["membership_miss"] = metrics[f"miss_small.{title}.membership"]["value"]
        numbers |= {"met": metrics[f"constraint_met.{title}"]["value"], "k": metrics[f"tokens_kept.{title}"]["value"]}
        if numbers["miss"] is not None:
            drawn.append({"objective": OBJECTIVES[functional], "optimiser": OPTIMISERS[optimiser], **numbers})
    return drawn


def growing_lesion_rows(records: Records) -> list[dict]:
    """List rows of the growing lesion's curve: {method, tokens, recall, lo, hi}; none for real cohorts."""
    drawn = []
    for name, label in METHODS.items() if "rarity/size" in records.arrays else ():
        for size, each in zip(records["rarity/size"].mean(axis=1), records[f"rarity/{name}"]):
            weights = stats.unit_draws(len(each), N_DRAWS, 0)
            low, high = stats.interval(stats.mean_draws(each, np.arange(len(each)), weights))
            numbers = {"recall": each.mean(), "lo": low, "hi": high}
            row = {"method": label, "tokens": round(float(size), 1)}
            drawn.append(row | {key: round(float(value), 4) for key, value in numbers.items()})
    return drawn
