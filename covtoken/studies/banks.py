"""The choice of the recommended recipe over banks of many sizes, on the selection splits of the recipe cohorts.

    content = run_banks("busi")     # selection split alone, scored with banks of a twentieth to all of the bank's units
    recipe, ranking = recommend()   # from the committed tables of the recipe cohorts

One bank decides little: another half of the units moves D by more than any setting, and a user's bank is often small.
So each variant is fitted to every bank of ``SHARES`` × ``KEYS``.

**The rule.** At the block that the rule of ``ablation`` gives, of inside × quantile × ridge × rounds × σ, the highest
mean over recipe cohorts, banks, and the two numbers that count (pooled token AUROC, AUROC inside one image). Variants
within 0.002 of that are tied; a tie goes to the smaller σ, then to the ridge nearest 1 in ratio, then to the quantile
nearest 0.9, then to fewer rounds, then to the smaller weight inside the picture. The weight inside the picture entered
the grid after a look at the same selection splits (``EXPLORED``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from covtoken.bank.features import Features
from covtoken.bank.token_bank import origin
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import SplitLabels
from covtoken.scores.memberships import token_maps
from covtoken.scores.recipe import Recipe
from covtoken.studies import ablation, study
from covtoken.studies.ablation import values_of
from covtoken.studies.study import (
    NOTE,
    Study,
    content_of,
    from_the_usual,
    open_study,
    recipe_cohorts,
    share_of,
    split_features,
)
from covtoken.subspace.direction import (
    Direction,
    DirectionSettings,
    bank_rarity,
    moments_at_cuts,
    rarity_cut,
    refined,
    target_reference,
    two_views,
)

STUDY = Study("banks", "covtoken-banks/1", "covtoken banks")
FIELDS = ("inside", "quantile", "ridge", "rounds", "sigma")
INSIDES = (0.0, 0.5, 0.75, 1.0)
QUANTILES = (0.9, 0.93, 0.95)
RIDGES = (1.0, 3.0)
ROUNDS = (0, 2)
SIGMAS = (0.0, 0.5)
SHARES = (0.05, 0.1, 0.2, 0.5, 1.0)
KEYS = ("covtoken-banks-0", "covtoken-banks-1")
EXPLORED = (
    "Before this table, other forms of the call were looked at on the same selection splits, unrecorded: soft targets, "
    "ranks inside pictures and units, references cut into 2 to 6 parts, several bank samples, tokens of two blocks or "
    "with their surroundings. The rank inside the picture stood out: on LIDC windows it helped with small banks and "
    "inside one image, on BUSI it cost little."
)


def run_banks(
    cohort: str, backbone: str = "embedded", *, data: str | None = None, cache: bool = True, progress: bool = True
) -> dict[str, Any]:
    """Every variant with every bank on one cohort's selection split, from pixels, ready to be written.

    Raises:
        CovtokenError: unknown names, or a cohort without the splits or lesions.
    """
    started = time.perf_counter()
    setting = open_study(cohort, backbone, data=data, cache=cache, progress=progress)
    centre = ablation.default(setting.vit.n_blocks)
    blocks = sorted({centre.block, centre.target_block})
    splits = bank, selection, labels = split_features(setting, blocks, False)
    rows = []
    for share, key, part in track(list(banks_of(bank)), f"banks, {setting.cohort.name}", disable=not progress):
        about = {"share": share, "key": key, "bank_units": len(set(part.units))}
        rows += [about | row for row in evaluate(part, selection, labels, centre.block, centre.target_block)]
    more = {"block": centre.block, "target_block": centre.target_block, "variants": rows}
    return content_of(STUDY, setting, splits, started, note=f"{NOTE}. {EXPLORED}", **more)


def banks_of(bank: Features) -> Iterator[tuple[float, str, Any]]:
    """(share, key, FeatureSet) of every bank: units of the smallest keyed hashes; the whole bank once."""
    units = len(set(bank.units))
    for share, key in product(SHARES, KEYS):
        if share < 1:
            yield share, key, share_of(bank, max(2, round(share * units)), key)
        elif key == KEYS[0]:
            yield share, key, bank


def evaluate(
    bank: Features, selection: Features, labels: SplitLabels, block: int, target_block: int
) -> list[dict[str, Any]]:
    """Rows {inside, quantile, ridge, rounds, sigma, auroc, image_auroc} of every variant with one bank."""
    rarity = bank_rarity(bank, target_reference(bank, target_block))
    found: list[tuple[tuple, Direction]] = []
    for inside in INSIDES:
        target = two_views(rarity, inside)
        cuts = [rarity_cut(target, q) for q in QUANTILES]
        for quantile, moments in zip(QUANTILES, moments_at_cuts(bank, block, target, cuts), strict=True):
            for ridge in RIDGES:
                about = {"target": "rarity", "quantile": quantile}
                fitted = Direction.from_moments(moments, origin(bank), block, ridge, **about)
                for rounds in range(max(ROUNDS) + 1):
                    fitted = refined(fitted, bank, target) if rounds else fitted
                    if rounds in ROUNDS:
                        found.append(((inside, quantile, ridge, rounds), fitted))
    weights = torch.stack([direction.weight for _, direction in found], dim=1).float()
    raw = token_maps(lambda z, part: z @ weights, block, True, selection)  # [N, T, variants]
    return [
        dict(zip(FIELDS, (*place, sigma))) | values_of(raw[..., i], sigma, selection, labels)
        for i, (place, _) in enumerate(found)
        for sigma in SIGMAS
    ]


def mean_over_banks(content: dict[str, Any]) -> dict[tuple, dict[str, float]]:
    """{variant: its mean pooled and image AUROC, the lowest pooled one, over the banks} of one cohort's table."""
    by: dict[tuple, list[dict]] = {}
    for row in content["variants"]:
        by.setdefault(tuple(row[k] for k in FIELDS), []).append(row)
    kinds = ("auroc", "image_auroc")
    return {
        key: {k: float(np.mean([row[k] for row in rows])) for k in kinds} | {"lowest": min(r["auroc"] for r in rows)}
        for key, rows in by.items()
    }


def recommend(root: Path | None = None, cohorts: Sequence[str] = ()) -> tuple[Recipe, list[dict[str, Any]]]:
    """The recipe that the rule above gives, and the ranking behind it (``ranked``).

    Args:
        cohorts: over the tables of these alone (gate 5); the recipe cohorts if empty.

    Raises:
        CovtokenError: a table is not recorded, the cohorts' are of other weights, banks or variants, or the block is
            not the one that the ablation gives.
    """
    found = {cohort: STUDY.read(cohort, root) for cohort in cohorts or recipe_cohorts()}
    content = next(iter(found.values()))
    kinds = {
        (
            *(c["backbone"], c["provenance"]["weights_sha256"], c["block"], c["target_block"]),
            frozenset((row["share"], row["key"], *(row[k] for k in FIELDS)) for row in c["variants"]),
        )
        for c in found.values()
    }
    weights = {ablation.STUDY.read(cohort, root)["provenance"]["weights_sha256"] for cohort in found}
    if len(kinds) > 1 or weights != {content["provenance"]["weights_sha256"]}:
        raise CovtokenError(
            f"the tables of {', '.join(found)}, or the ablations that the block comes from, are of other weights, "
            "blocks, banks or variants: record them alike"
        )
    block = ablation.recommend(root, cohorts)[0].block
    if content["block"] != block:
        raise CovtokenError(f"the ablation gives block {block}, the tables of banks are of block {content['block']}")
    rows = ranked(found)
    first = rows[0]
    chosen = {name: first[name] for name in FIELDS if name != "sigma"}
    settings = DirectionSettings(content["target_block"], **chosen)
    return Recipe("direction", block, True, first["sigma"], settings=settings), rows


def ranked(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The ranking by the rule, from the tables of one or more cohorts: {cohort: its content}.

    Rows {inside … sigma, mean, tied} and, for each cohort, {auroc, image_auroc, lowest}: its means over the banks, and
    the lowest pooled AUROC with any bank. Tied variants come first, in the rule's order, then the rest by mean.
    """
    means, rows = {cohort: mean_over_banks(c) for cohort, c in found.items()}, []
    for key in next(iter(means.values())):
        each = {cohort: table[key] for cohort, table in means.items()}
        mean = float(np.mean([numbers[k] for numbers in each.values() for k in ("auroc", "image_auroc")]))
        rows.append(dict(zip(FIELDS, key)) | {"mean": mean} | each)
    return study.ranked(rows, lambda row: (row["sigma"], *from_the_usual(row), row["rounds"], row["inside"]))
