"""Compare one token budget for a whole volume with a budget per slice, with and without smoothing along z.

A study beside gate 6: scores come from a locked plan and a bank of other pictures, masks are opened after the scores
exist, and lesions count in three dimensions. Volumes are evaluated as a test, so every run is logged as a look.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from covtoken.backbone.feature_set import FeatureSet
from covtoken.data.case import SlicedVolume
from covtoken.data.cohorts import fingerprint_of
from covtoken.economy.keep import kept_counts, recall, retained
from covtoken.economy.volume import BUDGETS, SIGMAS_MM, LesionTokens, kept_in_volume, lesion_sizes, smooth_along_z
from covtoken.errors import CovtokenError
from covtoken.evaluation.ranks import sign_test
from covtoken.evaluation.stats import clopper_pearson
from covtoken.evaluation.volume_labels import volume_lesions
from covtoken.keys import hash_unit
from covtoken.protocol import locks
from covtoken.protocol.chain import digest_of
from covtoken.protocol.looks import log_content, refuse_uncommitted
from covtoken.protocol.plan import FEW_UNITS, Plan
from covtoken.protocol.planning import plan_for
from covtoken.protocol.setting import SEED, Setting, not_scored, open_setting
from covtoken.scores.recommended import direction_maps, direction_of
from covtoken.scores.scorers import score_maps
from covtoken.studies.study import Study
from covtoken.studies.volume_sources import Source, open_source

STUDY = Study("volumes", "covtoken-volumes/1", "covtoken volumes", rows="rows", split="test")
DIRECTIONS = ("recommended", "direction")
SCORES = (*DIRECTIONS, "density", "attention_best")
KEEPS = (0.5, 0.25, 0.1, 0.05)
PRIMARY = {"score": "recommended", "keep": 0.1, "sigma_mm": 0.0}  # named before the first run: global − uniform
LARGEST_P = 0.05
FEWEST_FOR_INTERVAL = 5  # units
SMALL = 1 / 3  # the lowest tercile by volume in mm³ is small
NOTE = (
    "recipes of the bank cohort's lock, bank without the scored units; masks were opened when all scores existed; "
    "exact intervals over lesions, those of one unit taken for independent, and none under five units; the decision "
    "needs twenty units"
)


@dataclass(frozen=True)
class Scored:
    """A volume's scores and lesions.

    Attributes:
        unit: the patient.
        z_mm: [S].
        maps: score → [S, T].
        lesions: of the volume.
    """

    unit: str
    z_mm: Sequence[float]
    maps: Mapping[str, np.ndarray]
    lesions: Sequence[LesionTokens]


def run_and_write(cohort: str = "phantom", *, record: bool = False, **inputs) -> tuple[dict[str, Any], Path]:
    """Run the study, log the look, and write the table; return it and its path.

    Args:
        record: write the committed table.
        inputs: as ``run_volumes``.

    Raises:
        CovtokenError: a recording with uncommitted code, or as ``run_volumes``.
    """
    if record:
        refuse_uncommitted()
    lock = locks.lock_digest(locks.THRESHOLDS)[:16]  # an edited lock is refused before minutes of work
    content = run_volumes(cohort, **inputs)
    digest = digest_of({key: value for key, value in content.items() if key != "provenance"})
    about = (content["cohort"], STUDY.stem, content["split"], content["decision"], digest[:16], lock)
    content["provenance"]["look"] = log_content(*about, recorded=record)
    return content, STUDY.write(content, recorded=record)


def run_volumes(
    cohort: str = "phantom", *, data: str | None = None, cache: bool = True, progress: bool = True
) -> dict[str, Any]:
    """Score the volumes of a cohort, then read their lesions, and compare both budgets.

    Args:
        cohort: ``phantom``, or a volume cohort of chest CT.
        data: folder of the cohort, if not under ``COVTOKEN_DATA``.
        cache, progress: of ``open_setting``.

    Raises:
        CovtokenError: another cohort, missing data, no lock of the bank cohort, or no lesion.
    """
    started = time.perf_counter()
    source = open_source(cohort, data)
    setting = open_setting(source.bank, None, "embedded", cache=cache, progress=progress)
    plan = plan_for(replace(setting, split="test"), need_lock=True)
    units = [volume.unit for volume in source.volumes]
    bank = setting.features(not_scored(setting, units), _blocks(plan, ("target_block",)), attention=(), saliency=False)
    maps, digests = score_volumes(source.volumes, bank, plan, setting)
    scored = [
        Scored(volume.unit, volume.z_mm, of_volume, volume_lesions(volume, *setting.grid, place))
        for place, (volume, of_volume) in enumerate(zip(source.volumes, maps, strict=True))
    ]
    return _content(cohort, source, setting, bank, scored) | {
        "recipes": {name: plan.recipes[name].to_json() for name in SCORES},
        "provenance": setting.provenance(started)
        | {"data_fingerprint": fingerprint_of(digests), "bank_fingerprint": setting.fingerprint},
    }


def score_volumes(
    volumes: Sequence[SlicedVolume], bank: FeatureSet, plan: Plan, setting: Setting
) -> tuple[list[dict[str, np.ndarray]], dict[str, str]]:
    """Score volumes one after the other, so that memory does not grow with them.

    Returns:
        for each volume, score → [S, T] with the windows of a slice side by side; the pictures' digests by name.
    """
    fitted = {name: direction_of(plan.recipes[name], bank) for name in DIRECTIONS}
    blocks, attention = _blocks(plan), (plan.recipes["attention_best"].block,)
    scored, digests = [], {}
    for volume in volumes:
        pictures = setting.features(volume.cases, blocks, attention=attention, saliency=False)
        digests |= dict(zip(pictures.names, pictures.digests, strict=True))
        maps = {name: direction_maps(plan.recipes[name], fitted[name], pictures) for name in DIRECTIONS}
        for name in ("density", "attention_best"):
            maps[name] = score_maps(plan.recipes[name], bank, pictures, seed=SEED)
        scored.append({name: values.reshape(len(volume.z_mm), -1) for name, values in maps.items()})
    return scored, digests


def _blocks(plan: Plan, settings: Sequence[str] = ()) -> list[int]:
    """List the blocks whose tokens the scores read, and those that the directions' ``settings`` name."""
    wanted = [plan.recipes[name].block for name in (*DIRECTIONS, "density")]
    wanted += [getattr(plan.recipes[name].settings, field) for name, field in product(DIRECTIONS, settings)]
    return sorted(set(wanted), key=str)


def _content(
    cohort: str, source: Source, setting: Setting, bank: FeatureSet, scored: Sequence[Scored]
) -> dict[str, Any]:
    vit, n_units = setting.vit, len({each.unit for each in scored})
    rows, primary = compare(scored)
    slices = [len(each.z_mm) for each in scored]
    return {
        "schema": STUDY.schema,
        "cohort": cohort,
        "split": STUDY.split,
        "note": NOTE,
        "curated": source.curated,
        "region": source.region,
        "backbone": vit.name,
        "picture_size": vit.picture_size,
        "bank": {"cohort": setting.cohort.name, "units": len(set(bank.units)), "images": len(bank)},
        "n": {
            "units": n_units,
            "volumes": len(scored),
            "slices": sum(slices),
            "images": sum(len(volume.cases) for volume in source.volumes),
            "tokens": sum(each.maps[SCORES[0]].size for each in scored),
            "lesions": sum(len(each.lesions) for each in scored),
            "lesion_tokens": int(sum(lesion_sizes(each.lesions).sum() for each in scored)),
        },
        "volumes": [
            {
                "unit": hash_unit(volume.unit),
                "slices": len(volume.z_mm),
                "slice_mm": round(float(np.median(np.diff(volume.z_mm))), 3),
                "windows": volume.n_windows,
                "lesions_mm3": [round(lesion.volume_mm3) for lesion in each.lesions],
            }
            for volume, each in zip(source.volumes, scored, strict=True)
        ],
        "rows": rows,
        "primary": primary,
        "decision": decide(primary, n_units),
    }


def compare(scored: Sequence[Scored]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Count retained lesions and kept lesion tokens for every score, σ, keep ratio and way to spend the budget.

    Returns:
        rows, each with the lesions it gained and lost against the budget per slice without smoothing; the comparison
        that was named before, with its exact sign test over units.

    Raises:
        CovtokenError: no volume holds a lesion.
    """
    sizes = np.concatenate([lesion_sizes(each.lesions) for each in scored])
    if not len(sizes):
        raise CovtokenError(
            f"none of the {len(scored)} volumes holds a lesion: nothing can be measured; check the masks"
        )
    volumes = np.array([lesion.volume_mm3 for each in scored for lesion in each.lesions])
    small = volumes <= np.quantile(volumes, SMALL)
    _, unit_of = np.unique([each.unit for each in scored], return_inverse=True)
    unit = np.repeat(unit_of, [len(each.lesions) for each in scored])
    n_units, held = len(set(unit_of.tolist())), {}
    for score, sigma in product(SCORES, SIGMAS_MM):
        smoothed = [smooth_along_z(each.maps[score], each.z_mm, sigma) for each in scored]
        for keep, spend in product(KEEPS, BUDGETS):
            counts = [
                kept_counts(kept_in_volume(values, keep, spend), each.lesions)
                for values, each in zip(smoothed, scored, strict=True)
            ]
            held[score, sigma, keep, spend] = np.concatenate(counts).astype(np.int64)
    rows = []
    for (score, sigma, keep, spend), counts in held.items():
        stays, before = retained(counts, sizes), retained(held[score, 0.0, keep, "uniform"], sizes)
        few = n_units < FEWEST_FOR_INTERVAL
        rows.append(
            {
                "score": score,
                "sigma_mm": sigma,
                "keep": keep,
                "spend": spend,
                "retained": int(stays.sum()),
                "n_lesions": len(sizes),
                "ci95": None if few else [round(x, 4) for x in clopper_pearson(int(stays.sum()), len(sizes))],
                "retained_small": int(stays[small].sum()),
                "n_small": int(small.sum()),
                "recall": round(recall(counts, sizes), 4),
                "gained": int((stays & ~before).sum()),
                "lost": int((before & ~stays).sum()),
            }
        )
    even, whole = (
        retained(held[PRIMARY["score"], PRIMARY["sigma_mm"], PRIMARY["keep"], spend], sizes) for spend in BUDGETS
    )
    won, lost, p = sign_test(whole.astype(float) - even, unit)
    counts = {"uniform": int(even.sum()), "global": int(whole.sum()), "n_lesions": len(sizes), "n_units": n_units}
    return rows, PRIMARY | counts | {"units_won": won, "units_lost": lost, "p": round(p, 4)}


def decide(primary: Mapping[str, Any], n_units: int) -> str:
    """Say GO where the global budget keeps lesions in more units than it loses them in, by the exact sign test."""
    if n_units < FEW_UNITS:
        return "NO-VERDICT"
    return "GO" if primary["p"] <= LARGEST_P and primary["units_won"] > primary["units_lost"] else "NO-GO"
