"""Ablations on the selection split: one thing changed at a time, and what that does to each score.

    content = run_ablations("busi")     # selection split alone: no test split is opened

Nothing is chosen here: recipes come from ``covtoken.studies.ablation`` and ``banks``. Each trial is compared with the
default of its score on the same draws of units, so that differences are paired. Scores are plain, without smoothing.

    k          neighbours that a sparsity averages
    alpha      share of tokens called rare
    rank       of the normal directions, or of the lesion subspace
    reference  tokens of the reference
    units      units of the bank
    purity     units without lesions, as they come, with lesions alone: chosen by a label, for evaluation alone
    block      whose tokens A and C− read (C−'s target stays)
    pooling    tokens as they are, or with their 3 × 3 neighbours
    picture    pixels a side, on the same few units
    aspect     squashed to a square, or padded to it
    planted    share of the bank's units with a planted lesion type
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from rich.progress import track

from covtoken.errors import unknown
from covtoken.evaluation.measure import measure
from covtoken.evaluation.stats import interval
from covtoken.studies.ablations import bank_trials, picture_trials, score_settings
from covtoken.studies.ablations.ground import Ground, Limits, Trial, few
from covtoken.studies.ablations.searched import Searched
from covtoken.studies.study import NOTE, Study, content_of, open_study, split_features

STUDY = Study("ablations", "covtoken-ablations/1", "covtoken ablate --all", rows="rows")

LIMITS = {"phantom": Limits(3_000, 5, 24, 3_000)}  # so that a notebook runs it from pixels in a minute and a half


def run_ablations(
    cohort: str,
    backbone: str = "embedded",
    *,
    data: str | None = None,
    limits: Limits | None = None,
    cache: bool = True,
    progress: bool = True,
    only: Collection[str] | None = None,
    most_units: int | None = None,
) -> dict[str, Any]:
    """Run every ablation of a cohort from pixels; return the content, ready to be written.

    Args:
        limits: None: ``LIMITS`` of the cohort.
        only: names of ``ABLATIONS`` (None: all).
        most_units: units left in each split (None: all).

    Raises:
        CovtokenError: unknown names, or a cohort without bank or selection split or without lesions in it.
    """
    started = time.perf_counter()
    chosen = {name: trials for name, trials in ABLATIONS.items() if only is None or name in only}
    for name in only or ():
        if name not in ABLATIONS:
            raise unknown("ablation", name, list(ABLATIONS))
    setting = open_study(cohort, backbone, data=data, cache=cache, progress=progress).limited(most_units)
    limits, vit = limits or LIMITS.get(setting.cohort.name, Limits()), setting.vit
    kept = few(setting, "selection", limits.scored_units)
    others = [case for case in setting.cohort.cases if setting.splits.get(case.unit) != "selection"]
    scored = replace(setting, cohort=replace(setting.cohort, cases=(*others, *kept)))
    splits = split_features(scored, range(1, vit.n_blocks + 1), vit.has_saliency_head)
    ground = Ground(scored, *splits, limits, Searched(splits[0], vit.n_blocks, limits.size, score_settings.MOST_OWN))
    rows = []
    for name, trials in track(chosen.items(), f"ablations, {setting.cohort.name}", disable=not progress):
        rows += [{"ablation": name} | row for row in measured(trials(ground))]
    more = {"reference": limits.size, "large_units": limits.large_units, "rows": rows}
    return content_of(STUDY, setting, splits, started, note=f"{NOTE}; nothing is chosen by it", **more)


def measured(trials: Iterable[Trial]) -> list[dict[str, Any]]:
    """Measure trials, a row each.

    Rows have value, score, default, group and note of the trial; auroc, image_auroc, minus_default and spread; and the
    numbers of bank_units, bank_images, units and images. ``auroc`` and ``minus_default`` are {value, ci95} with
    intervals over scored units; ``spread`` is the lowest and highest
    AUROC over the banks of a trial, None of one bank.
    """
    found = []
    for trial in trials:
        numbers = [
            measure({"it": maps}, trial.labels, trial.labels.rows, trial.labels.cols, full=(), image=("it",))
            for maps in trial.maps
        ]
        draws = np.mean([each.draws["auroc.it"] for each in numbers], axis=0)
        each = {kind: [m.values[f"{kind}.it"] for m in numbers] for kind in ("auroc", "image_auroc")}
        found.append((replace(trial, maps=[]), draws, each))  # the maps have said what they had to say
    defaults = {(t.score, t.group): (draws, np.mean(each["auroc"])) for t, draws, each in found if t.default}
    rows = []
    for trial, draws, each in found:
        value, minus = float(np.mean(each["auroc"])), None
        if not trial.default and (trial.score, trial.group) in defaults:
            usual, its_value = defaults[trial.score, trial.group]
            minus = _entry(value - its_value, draws - usual)
        several = [round(bound(each["auroc"]), 6) for bound in (min, max)] if len(each["auroc"]) > 1 else None
        rows.append(
            {name: getattr(trial, name) for name in ("value", "score", "default", "group", "note")}
            | {"auroc": _entry(value, draws), "image_auroc": round(float(np.mean(each["image_auroc"])), 6)}
            | {"minus_default": minus, "spread": several}
            | {"bank_units": len(set(trial.bank.units)), "bank_images": len(trial.bank)}
            | {"units": len(trial.labels.unit_names), "images": len(trial.labels.unit)}
        )
    return rows


def _entry(value: float, draws: np.ndarray) -> dict[str, Any]:
    return {"value": round(float(value), 6), "ci95": [round(bound, 6) for bound in interval(draws)]}


ABLATIONS: dict[str, Callable[[Ground], Iterator[Trial]]] = {
    "k": score_settings.k_trials,
    "alpha": score_settings.alpha_trials,
    "rank": score_settings.rank_trials,
    "reference": score_settings.reference_trials,
    "units": bank_trials.unit_trials,
    "purity": bank_trials.purity_trials,
    "block": score_settings.block_trials,
    "pooling": score_settings.pooling_trials,
    "picture": picture_trials.picture_trials,
    "aspect": picture_trials.aspect_trials,
    "planted": bank_trials.planted_trials,
}
