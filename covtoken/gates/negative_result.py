"""The negative result: a coverage floor against membership at equal budgets, objective apart from optimiser.

A poor optimiser also looks like a poor objective. So each objective (RankMe, coding rate, energy) is optimised by the
dual as it was specified, by a repaired dual that meets its floor, and by a strong optimiser (greedy with swaps; energy
has a closed form), always against membership A at the same number of tokens. Then the mechanism: the spectrum of lesion
tokens, how much they repeat each other, when they are picked, and what happens as they get rarer.
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
from covtoken.economy.keep import budget, kept_counts, kept_tokens, retained
from covtoken.evaluation import stats
from covtoken.evaluation.measure import N_DRAWS, Measured
from covtoken.evaluation.records import Records
from covtoken.gates.budgets import kept_by_method as rows
from covtoken.gates.budgets.growing_lesion import METHODS, rarity_recall
from covtoken.gates.budgets.lesion_numbers import LesionNumbers
from covtoken.gates.budgets.lesion_pictures import LesionPictures, prepare
from covtoken.protocol.plan import FEW_UNITS, Plan
from covtoken.protocol.report import GateRun, check_defect
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
SPECTRUM_TOKENS, SPECTRUM_DRAWS = 3000, 100
HEADLINES = (
    *(f"recall_small.{name}" for name in (*NAMED, "membership")),
    *(f"recall_gain.membership_minus_{name}" for name in NAMED),
    *(f"constraint_met.{pair}" for pair in NAMED.values()),
    "spectrum.lesion",
    "spectrum.background",
)


def run(setting: Setting, plan: Plan, *, defect: str | None = None, n_greedy: int | None = None) -> GateRun:
    """Run the negative result from pixels.

    Args:
        setting: cohort, split and backbone.
        plan: gate 1's.
        defect: ``coverage_is_membership`` lets every coverage method keep what membership keeps.
        n_greedy: pictures that the strong optimiser is run on (None: 24 of the phantom, else 60).

    Raises:
        CovtokenError: a split without lesions.
    """
    check_defect(defect, DEFECTS)
    started = time.perf_counter()
    pictures = prepare(setting, plan, ("density", "recommended"))
    growing = {}
    if setting.cohort.name == "phantom" and not setting.most_units:  # where a spread is measured, nothing is drawn
        growing = {f"rarity/{name}": value for name, value in rarity_recall(pictures).items()}
    return evaluate(pictures, growing, n_greedy=n_greedy, fake=defect is not None, started=started)


def evaluate(
    pictures: LesionPictures,
    growing: dict[str, np.ndarray] | None = None,
    *,
    n_greedy: int | None = None,
    fake: bool = False,
    started: float = 0.0,
) -> GateRun:
    """Optimise, measure and decide on pictures that are scored and projected already.

    Args:
        pictures: N lesion pictures.
        growing: records of the lesion that grows, where it was drawn.
        n_greedy: as in ``run``.
        fake: let coverage keep what membership keeps (a planted defect).
        started: ``time.perf_counter`` before the work.
    """
    n_greedy = n_greedy or rows.greedy_pictures(pictures.setting.cohort.name)
    arrays = _matched(pictures, n_greedy, fake) | _order(pictures) | _likeness(pictures) | _spectrum(pictures)
    arrays |= growing or {}
    records = Records(arrays | pictures.lesion_arrays(), pictures.header("negative_result", slack=SLACK))
    measured = headline(records)
    decision, checks = decide(measured)
    checks["plan_locked_before"] = pictures.plan.locked
    metrics = measured.entries()
    report = pictures.report(
        *("negative_result", TITLE, QUESTION),
        metrics=metrics,
        checks=checks,
        decision=decision,
        started=started,
        thresholds={"recall_gain": 0, "constraint_met": 0.95, "reason": "fixed before any run"},
        parameters={"slack": SLACK, "small_cut": pictures.plan.small_cut, "n_greedy": n_greedy},
        chart_data={"pairs": pair_rows(metrics), "rarity": rarity_rows(records)},
    )
    return GateRun(report, records, pictures)


def _matched(pictures: LesionPictures, n_greedy: int, fake: bool) -> dict[str, np.ndarray]:
    """Counts [L], k [N] and constraint flag [N] of each objective and optimiser, and counts of membership at that k.

    −1 where a picture was left out.
    """
    n_tokens, everyone = pictures.y.shape[1], np.arange(len(pictures.cases))
    k = budget(n_tokens, rows.GREEDY_RATIO)
    found, spread = {}, spanning(pictures.y, k)
    duals = [pair for pair in PAIRS if pair[1] in rows.SCHEDULES]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the coding rate's dual keeps one core busy, others more
        pruned = dict(zip(duals, pool.map(lambda pair: rows.pruned_by(pictures, *pair), duals)))
    for functional, optimiser in PAIRS:
        few = everyone
        if optimiser in rows.SCHEDULES:
            mask = pruned[functional, optimiser].mask.numpy()
        elif optimiser == "greedy":
            few, sets = rows.greedy_sets(pictures, functional, n_greedy)
            mask = np.zeros((len(everyone), n_tokens), dtype=bool)
            mask[few] = rows.as_mask(sets, n_tokens)
        else:
            mask = rows.as_mask(spread if optimiser == "spanning" else largest_norms(pictures.y, k), n_tokens)
        kept = mask.sum(axis=1)
        if fake:
            mask = kept_tokens(pictures.maps["density"], k=kept)
        found |= _columns(pictures, f"{functional}.{optimiser}", functional, mask, few)
    fixed = kept_tokens(pictures.maps["density"], k=k)
    found["kept/membership"] = kept_counts(fixed, pictures.labels.lesions).astype(np.int16)
    return found


def _columns(pictures: LesionPictures, title: str, functional: str, mask: np.ndarray, few: np.ndarray) -> dict:
    """The recorded columns of one objective and optimiser."""
    seen = np.isin(pictures.lesion_picture, few)
    kept = mask.sum(axis=1)
    weight = torch.from_numpy(mask).double()
    full = coverage(functional, pictures.y, width=pictures.width)
    drop = full - coverage(functional, pictures.y, weight, width=pictures.width)
    met = (drop <= SLACK * full + 1e-9).numpy()
    out = np.ones(len(kept), dtype=bool)
    out[few] = False
    columns = {f"kept/{title}": kept_counts(mask, pictures.labels.lesions)}
    for name in ("density", "recommended"):
        same = kept_tokens(pictures.maps[name], k=kept)
        columns[f"{name}_at/{title}"] = kept_counts(same, pictures.labels.lesions)
    columns = {key: np.where(seen, value, rows.NOT_EVALUATED).astype(np.int16) for key, value in columns.items()}
    columns[f"k/{title}"] = np.where(out, rows.NOT_EVALUATED, kept).astype(np.int16)
    columns[f"met/{title}"] = np.where(out, rows.NOT_EVALUATED, met).astype(np.int8)
    columns[f"drop/{title}"] = np.where(out, np.nan, (drop / full).numpy()).astype(np.float32)
    return columns


def _order(pictures: LesionPictures) -> dict[str, np.ndarray]:
    """When a lesion is picked: rank, as share of all tokens, of its first token and of half of them, [L]."""
    n_tokens = pictures.y.shape[1]
    order = spanning(pictures.y, n_tokens).numpy()
    spread = np.empty_like(order)
    np.put_along_axis(spread, order, np.broadcast_to(np.arange(n_tokens), order.shape), axis=1)
    ours = np.argsort(np.argsort(-pictures.maps["density"], axis=1, kind="stable"), axis=1, kind="stable")
    found = {}
    for name, rank in (("spanning", spread), ("membership", ours)):
        ranks = [np.sort(rank[one.picture, one.tokens]) + 1 for one in pictures.labels.lesions]
        found[f"first/{name}"] = np.array([r[0] for r in ranks], dtype=np.float32) / n_tokens
        found[f"half/{name}"] = np.array([r[(len(r) - 1) // 2] for r in ranks], dtype=np.float32) / n_tokens
    return found


def _likeness(pictures: LesionPictures) -> dict[str, np.ndarray]:
    """How much tokens repeat each other in P_L: mean squared cosine of pairs inside a lesion, and inside the same shape
    moved to a random place of the picture that is free of lesion; and a lesion token's energy over the picture's mean.

    [L]; NaN for lesions of one token, and where the shape fits nowhere. The control is a patch, for any patch is alike.
    """
    inside, outside, energy = [], [], []
    for index, one in enumerate(pictures.labels.lesions):
        rng = np.random.default_rng([SEED, index])
        y = pictures.y[one.picture]
        moved = _moved(one.tokens, pictures.labels, one.picture, rng)
        energies = y.square().sum(1)
        energy.append(float(energies[one.tokens].mean() / energies.mean()))
        if len(one.tokens) < 2 or moved is None:
            inside.append(np.nan)
            outside.append(np.nan)
            continue
        inside.append(_mean_squared_cosine(y[one.tokens]))
        outside.append(_mean_squared_cosine(y[moved]))
    names = ("inside", "outside", "energy")
    return {f"likeness/{name}": np.array(v, np.float32) for name, v in zip(names, (inside, outside, energy))}


def _moved(tokens: np.ndarray, labels, picture: int, rng: np.random.Generator) -> np.ndarray | None:
    """The tokens' shape at a random place where no token is lesion or left out; None: it fits nowhere."""
    rows_, cols = tokens // labels.cols, tokens % labels.cols
    rows_, cols = rows_ - rows_.min(), cols - cols.min()
    free = ~(labels.lesion[picture] | labels.ignore[picture])
    places = [
        (row + rows_) * labels.cols + col + cols
        for row in range(labels.rows - rows_.max())
        for col in range(labels.cols - cols.max())
    ]
    places = [place for place in places if free[place].all()]
    return places[rng.integers(len(places))] if places else None


def _mean_squared_cosine(y: torch.Tensor) -> float:
    unit = y / y.norm(dim=1, keepdim=True).clamp(min=1e-12)
    squared = (unit @ unit.T).square()
    n = len(y)
    return float((squared.sum() - squared.diagonal().sum()) / (n * (n - 1)))


def _spectrum(pictures: LesionPictures) -> dict[str, np.ndarray]:
    """RankMe of pooled lesion tokens and of as many background tokens of the same pictures, then of halves of units.

    Tokens are centred by the bank mean and not projected. A bootstrap would repeat tokens, which lowers a rank: halves
    without repetition spread as the whole does (the delete-half jackknife).
    """
    rng = np.random.default_rng(SEED)
    labels = pictures.labels
    sides: dict[str, list] = {"lesion": [], "background": []}
    unit = []
    for i in range(len(pictures.cases)):
        ours = np.flatnonzero(labels.lesion[i] & ~labels.ignore[i])
        other = np.flatnonzero(~labels.lesion[i] & ~labels.ignore[i])
        n = min(len(ours), len(other))
        sides["lesion"].append(pictures.centred[i][np.sort(rng.choice(ours, n, replace=False))])
        sides["background"].append(pictures.centred[i][np.sort(rng.choice(other, n, replace=False))])
        unit += [labels.unit[i]] * n
    unit = np.array(unit)
    few = np.sort(rng.permutation(len(unit))[:SPECTRUM_TOKENS])
    n_units = len(labels.unit_names)
    draws = rng.random((SPECTRUM_DRAWS, n_units)).argsort(axis=1) < n_units / 2
    found = {"spectrum/n_tokens": np.array([len(few)], dtype=np.int32)}
    for name, tokens in sides.items():
        z = torch.cat(tokens).double()[few]
        grams = torch.stack([_gram_of(z[unit[few] == u]) for u in range(draws.shape[1])])
        flat = grams.reshape(len(grams), -1)
        every = torch.from_numpy(np.concatenate([np.ones((1, draws.shape[1])), draws]))
        values = torch.cat([rankme_of_gram((part @ flat).reshape(-1, *grams.shape[1:])) for part in every.split(16)])
        found[f"spectrum/{name}"] = values.numpy()
    return found


def _gram_of(z: torch.Tensor) -> torch.Tensor:
    return z.T @ z


def headline(records: Records) -> Measured:
    """Headline metrics from records: the same function for a fresh run and for a committed file."""
    of = LesionNumbers(records)
    for title in (f"{functional}.{optimiser}" for functional, optimiser in PAIRS):
        for kind, place in (("kept", "coverage"), ("density_at", "membership"), ("recommended_at", "recommended")):
            counts = records[f"{kind}/{title}"]
            seen = of.small & (counts >= 0)
            of.add(f"miss_small.{title}.{place}", np.where(seen, ~retained(counts, of.size), np.nan))
            of.add_recall(f"recall_small.{title}.{place}", counts)
        for kind, name in (("met", "constraint_met"), ("k", "tokens_kept")):
            values = records[f"{kind}/{title}"].astype(np.float64)
            of.add_images(f"{name}.{title}", np.where(values < 0, np.nan, values))
        of.add_images(f"drop.{title}", records[f"drop/{title}"].astype(np.float64))
    measured = of.measured
    for name, title in NAMED.items():
        of.add_recall(f"recall_small.{name}", records[f"kept/{title}"])
        ours, theirs = f"recall_small.{title}.membership", f"recall_small.{title}.coverage"
        measured.difference(f"recall_gain.membership_minus_{name}", ours, theirs)
    of.add_recall("recall_small.membership", records["kept/membership"])
    for name in ("first/spanning", "half/spanning", "first/membership", "half/membership"):
        of.add(f"rank.{name.replace('/', '.')}", np.where(of.small, records[name].astype(np.float64), np.nan))
    for name in ("inside", "outside", "energy"):
        of.add(f"likeness.{name}", records[f"likeness/{name}"].astype(np.float64))
    measured.difference("likeness.inside_minus_outside", "likeness.inside", "likeness.outside")
    for name in ("lesion", "background"):
        whole, halves = records[f"spectrum/{name}"][0], records[f"spectrum/{name}"][1:]
        measured.add(f"spectrum.{name}", whole, whole + halves - halves.mean())
        measured.more[f"spectrum.{name}"] = {"n_pooled_tokens": int(records["spectrum/n_tokens"][0])}
    measured.difference("spectrum.lesion_minus_background", "spectrum.lesion", "spectrum.background")
    return measured


def decide(measured: Measured) -> tuple[str, dict]:
    """GO: membership keeps more of small lesions than coverage whose floor is met, and than well optimised coverage.

    NO-GO: it does not, so the fault was the optimiser's or there is none.
    """
    checks = {
        f"membership_beats_{name}": bool(measured.interval(f"recall_gain.membership_minus_{name}")[0] > 0)
        for name in NAMED
    }
    checks["repaired_meets_its_floor"] = bool(measured.values["constraint_met.rankme.repaired"] >= 0.95)
    checks["specified_meets_its_floor"] = bool(measured.values["constraint_met.rankme.dual"] >= 0.95)
    below, above = measured.interval("spectrum.lesion_minus_background")
    checks["lesion_spectrum"] = "richer" if below > 0 else "poorer" if above < 0 else "undecided"
    deciding = ("coverage_repaired", "coverage_greedy")
    gains = [f"recall_gain.membership_minus_{name}" for name in deciding]
    few = any(measured.own_n[gain][0] < FEW_UNITS for gain in gains)
    if few or not np.isfinite([measured.values[gain] for gain in gains]).all():
        return "NO-VERDICT", checks
    holds = all(checks[f"membership_beats_{name}"] for name in deciding)
    return ("GO" if holds and checks["repaired_meets_its_floor"] else "NO-GO"), checks


def pair_rows(metrics: dict[str, dict]) -> list[dict]:
    """Rows for ``objective_optimiser``: {objective, optimiser, miss, lo, hi, membership_miss, met, k}."""
    found = []
    for functional, optimiser in PAIRS:
        title = f"{functional}.{optimiser}"
        entry = metrics[f"miss_small.{title}.coverage"]
        if entry["value"] is None:
            continue
        low, high = entry["ci95"] or (None, None)
        found.append(
            {"objective": OBJECTIVES[functional], "optimiser": OPTIMISERS[optimiser], "miss": entry["value"]}
            | {"lo": low, "hi": high, "membership_miss": metrics[f"miss_small.{title}.membership"]["value"]}
            | {"met": metrics[f"constraint_met.{title}"]["value"], "k": metrics[f"tokens_kept.{title}"]["value"]}
        )
    return found


def rarity_rows(records: Records) -> list[dict]:
    """Rows for the rarity curve, {method, tokens, recall, lo, hi}; none where it was not drawn (real cohorts)."""
    found = []
    for name, label in METHODS.items():
        if f"rarity/{name}" not in records.arrays:
            continue
        for size, each in zip(records["rarity/size"].mean(axis=1), records[f"rarity/{name}"]):
            weights = stats.unit_draws(len(each), N_DRAWS, 0)
            low, high = stats.interval(stats.mean_draws(each, np.arange(len(each)), weights))
            row = {
                "method": label,
                "tokens": round(float(size), 1),
                "recall": float(each.mean()),
                "lo": float(low),
                "hi": float(high),
            }
            found.append({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()})
    return found
