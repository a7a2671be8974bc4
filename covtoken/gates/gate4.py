"""Gate 4 tests the dual: does μ converge over seeds, is the coverage floor met, and does μ fall as the slack grows?

If μ is the price, in tokens, of a unit of coverage, another draw of the noise must give the same μ, the floor must hold
where the price has settled, and a looser floor must not cost more.
"""

from __future__ import annotations

import time
from itertools import product

import numpy as np

from covtoken.coverage.dual import SLACKS
from covtoken.evaluation import stats
from covtoken.evaluation.measure import N_DRAWS, Measured
from covtoken.evaluation.records import Records
from covtoken.gates.budgets import kept_by_method as rows
from covtoken.gates.budgets.lesion_pictures import LesionPictures, prepare
from covtoken.protocol.plan import FEW_UNITS, Plan
from covtoken.protocol.report import GateRun, check_defect, with_interval
from covtoken.protocol.setting import SEED, Setting

TITLE = "The dual variable"
QUESTION = "Does the dual variable converge, is the floor met, and does its price fall as the floor loosens?"
MOST_CV, LEAST_MET = 0.2, 0.95
FUNCTIONAL = "rankme"
REPAIRED_SEEDS = 3
DEFECTS = ("stuck",)
HEADLINES = ("dual.constraint_met", "dual.mu_cv", "dual.mu_falls", "repaired.met_before_repair", "repaired.mu_cv")
NAMES = {"dual": "as specified", "repaired": "repaired"}
PATH_EVERY = 5  # steps between the points of the drawn trajectory


def run(
    setting: Setting,
    plan: Plan,
    *,
    defect: str | None = None,
    n_seeds: int | None = None,
    n_pictures: int | None = None,
) -> GateRun:
    """Run gate 4 from pixels.

    Args:
        defect: ``stuck`` gives every run the same seed and its constraint flag the value true.
        n_seeds: draws of the noise (None: 3 of the phantom, else 10); the repaired schedule, which decides nothing,
            gets at most 3.
        n_pictures: number of lesion pictures (None: 16 of the phantom, else 40).

    Raises:
        CovtokenError: a split without lesions.
    """
    check_defect(defect, DEFECTS)
    started = time.perf_counter()
    pictures = prepare(setting, plan, scorers=())
    return evaluate(pictures, n_seeds, n_pictures, stuck=defect == "stuck", started=started)


def evaluate(
    pictures: LesionPictures,
    n_seeds: int | None = None,
    n_pictures: int | None = None,
    *,
    stuck: bool = False,
    started: float | None = None,
) -> GateRun:
    """Run the dual, measure and decide on pictures that are projected already.

    Args:
        pictures: lesion pictures, of which ``n_pictures`` are used.
        stuck: give every run the same seed, and claim that the floor is met (a planted defect).
    """
    drawn = pictures.setting.cohort.name == "phantom"
    n_seeds, n_pictures = n_seeds or (3 if drawn else 10), n_pictures or (16 if drawn else 40)
    pictures = pictures.only(pictures.few(n_pictures))
    arrays, paths = _runs(pictures, n_seeds, stuck)
    arrays["unit"] = pictures.labels.unit.astype(np.int32)
    records = Records(arrays, pictures.header(4, slacks=SLACKS, n_seeds=n_seeds))
    measured = headline(records)
    decision, checks = decide(measured, measured.n[0])
    metrics = measured.entries()
    report = pictures.report(
        *(4, TITLE, QUESTION),
        metrics=metrics,
        checks=checks,
        decision=decision,
        started=started,
        thresholds={"dual.mu_cv": MOST_CV, "dual.constraint_met": LEAST_MET, "reason": "fixed before any run"},
        parameters={"functional": FUNCTIONAL, "slacks": list(SLACKS), "n_seeds": n_seeds},
        chart_data={"paths": paths, "by_slack": by_slack(metrics)},
    )
    return GateRun(report, records, pictures)


def _runs(pictures: LesionPictures, n_seeds: int, stuck: bool) -> tuple[dict[str, np.ndarray], list[dict]]:
    """Prune by each schedule: μ, k, drop/C* and constraint flag, [slack, seed, picture] each; mean trajectories."""
    arrays, paths, asked = {}, [], n_seeds
    for name in rows.SCHEDULES:
        n_seeds = asked if name == "dual" else min(asked, REPAIRED_SEEDS)
        shape = (len(SLACKS), n_seeds, len(pictures.cases))
        mu, k, drop, met, before = (np.empty(shape, dtype=np.float32) for _ in range(5))
        for s, slack in enumerate(SLACKS):
            mean_mu, mean_k = 0.0, 0.0
            for seed in range(n_seeds):
                pruned = rows.pruned_by(pictures, FUNCTIONAL, name, slack, SEED if stuck else SEED + seed)
                mu[s, seed], k[s, seed] = pruned.mu.numpy(), pruned.k.numpy()
                drop[s, seed] = (pruned.drop / pruned.full).numpy()
                met[s, seed] = 1.0 if stuck else pruned.met.numpy()
                before[s, seed] = pruned.met_before_repair.numpy()
                mean_mu = mean_mu + pruned.mu_path.mean(1).numpy() / n_seeds
                mean_k = mean_k + pruned.k_path.mean(1).numpy() / n_seeds
            paths += [
                {"step": step + 1, "mu": round(float(mean_mu[step]), 4), "k": round(float(mean_k[step]), 2)}
                | {"slack": slack, "schedule": NAMES[name]}
                for step in range(PATH_EVERY - 1, len(mean_mu), PATH_EVERY)
            ]
        arrays |= {f"{name}/mu": mu, f"{name}/k": k, f"{name}/drop": drop, f"{name}/met": met}
        arrays[f"{name}/before"] = before
    return arrays, paths


def headline(records: Records) -> Measured:
    """Measure the headline metrics from records, fresh or committed."""
    unit = records["unit"]
    n_units = len(records.header["units"])
    weights = stats.unit_draws(n_units, N_DRAWS, 0)
    measured = Measured((n_units, len(unit), len(unit) * records.header["n_tokens"]))

    def add(name: str, each: np.ndarray) -> None:
        measured.add(name, float(np.nanmean(each)), stats.mean_draws(each, unit, weights))

    for name in rows.SCHEDULES:
        mu, k, drop, met = (records[f"{name}/{key}"].astype(np.float64) for key in ("mu", "k", "drop", "met"))
        mean = mu.mean(axis=1)
        cv = np.where(mean > 0, mu.std(axis=1, ddof=1) / np.where(mean > 0, mean, 1), 0.0)  # [slack, picture]
        add(f"{name}.constraint_met", met.mean(axis=(0, 1)))
        if name == "repaired":
            add(f"{name}.met_before_repair", records[f"{name}/before"].astype(np.float64).mean(axis=(0, 1)))
        add(f"{name}.mu_cv", cv.mean(axis=0))
        add(f"{name}.mu_falls", (np.diff(mean, axis=0) <= 0).all(axis=0).astype(float))
        for s, slack in enumerate(records.header["slacks"]):
            place = f"slack{slack:g}"
            add(f"{name}.constraint_met.{place}", met[s].mean(axis=0))
            add(f"{name}.mu_cv.{place}", cv[s])
            add(f"{name}.mu.{place}", mean[s])
            add(f"{name}.tokens_kept.{place}", k[s].mean(axis=0))
            add(f"{name}.drop.{place}", drop[s].mean(axis=0))
    return measured


def decide(measured: Measured, n_units: int) -> tuple[str, dict]:
    """Decide GO if the dual as specified is stable over seeds and meets its floor; the repaired one is only shown."""
    checks = {}
    for name in rows.SCHEDULES:
        checks[f"{name}.mu_is_stable"] = bool(measured.values[f"{name}.mu_cv"] <= MOST_CV)
        if name == "dual":  # the repaired one meets its floor by construction
            checks[f"{name}.constraint_met"] = bool(measured.values[f"{name}.constraint_met"] >= LEAST_MET)
        checks[f"{name}.mu_falls_with_slack"] = bool(measured.values[f"{name}.mu_falls"] >= LEAST_MET)
    if n_units < FEW_UNITS:
        return "NO-VERDICT", checks
    return ("GO" if checks["dual.mu_is_stable"] and checks["dual.constraint_met"] else "NO-GO"), checks


def by_slack(metrics: dict[str, dict]) -> list[dict]:
    """List rows of the chart of μ against slack: {slack, schedule, mu, lo, hi, met, cv}."""
    drawn = []
    for name, slack in product(rows.SCHEDULES, SLACKS):
        entry, met, cv = (metrics[f"{name}.{kind}.slack{slack:g}"] for kind in ("mu", "constraint_met", "mu_cv"))
        numbers = with_interval(entry) | {"met": met["value"], "cv": cv["value"]}
        drawn.append({"slack": slack, "schedule": NAMES[name], "mu": numbers.pop("value"), **numbers})
    return drawn
