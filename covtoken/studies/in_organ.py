"""The choice of O, the score for the inside of an organ, on the selection splits of the recipe cohorts.

    content = run_in_organ("busi")     # selection split alone; no organ mask exists there, and none is opened
    recipe, ranking = recommend()

**The rule.** Of A's block × the student's weight × σ, the highest mean over the recipe cohorts of pooled token AUROC.
Variants within 0.002 of that are tied; a tie goes to the earlier block, then to the smaller weight, then to the smaller
σ. That A and the student together are better inside a liver than either was noticed on LiTS (book/recommended.md): the
rule chooses inside the family, and LiTS is no fresh test of the family.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from covtoken.bank.features import Features
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import SplitLabels
from covtoken.scores.in_organ import in_organ_parts
from covtoken.scores.recipe import InOrganSettings, Recipe
from covtoken.scores.scorers import choices
from covtoken.studies.ablation import values_of
from covtoken.studies.study import Study, content_of, open_study, ranked, recipe_cohorts, split_features

STUDY = Study("in_organ", "covtoken-in-organ/1", "covtoken in-organ")
FIELDS = ("block", "weight", "sigma")


def run_in_organ(
    cohort: str, backbone: str = "embedded", *, data: str | None = None, cache: bool = True, progress: bool = True
) -> dict[str, Any]:
    """Try every variant of O on a cohort's selection split; return the content, ready to be written.

    Raises:
        CovtokenError: unknown names, a backbone without a saliency head, or a cohort without the splits or lesions.
    """
    started = time.perf_counter()
    setting = open_study(cohort, backbone, data=data, cache=cache, progress=progress)
    vit = setting.vit
    if not vit.has_saliency_head:
        raise CovtokenError(f"{vit.name} has no saliency head, and O needs its student: use the embedded backbone")
    blocks = sorted({block for r in choices("in_organ", vit.n_blocks) for block in (r.block, r.settings.student_block)})
    splits = split_features(setting, blocks, True)
    return content_of(STUDY, setting, splits, started, variants=evaluate(*splits, vit.n_blocks, progress))


def evaluate(
    bank: Features, selection: Features, labels: SplitLabels, n_blocks: int, progress: bool = False
) -> list[dict[str, Any]]:
    """Try every variant: rows {block, weight, sigma, student_block, auroc, image_auroc}; weight 0 is A alone."""
    groups: dict[tuple, list[Recipe]] = {}
    for recipe in choices("in_organ", n_blocks):
        groups.setdefault((recipe.block, recipe.settings.student_block, recipe.pooled), []).append(recipe)
    rows = []
    for (block, student_block, pooled), recipes in track(list(groups.items()), "in organ", disable=not progress):
        density, student = in_organ_parts(block, student_block, pooled, bank, selection)
        here = [(recipe.settings.weight, recipe.sigma) for recipe in recipes]
        alone = [(0.0, sigma) for sigma in dict.fromkeys(sigma for _, sigma in here)]
        for weight, sigma in (*alone, *here):
            maps = np.asarray(density + weight * student, dtype=np.float32)
            row = {"block": block, "weight": weight, "sigma": sigma, "student_block": student_block}
            rows.append(row | values_of(maps, sigma, selection, labels))
    return rows


def recommend(root: Path | None = None) -> tuple[Recipe, list[dict[str, Any]]]:
    """Choose a recipe by the rule above; return it with the ranking: {block, weight, sigma, mean, <cohort>…, tied}.

    Raises:
        CovtokenError: a table is not recorded, or the cohorts' are of other weights or variants.
    """
    contents = {cohort: STUDY.read(cohort, root) for cohort in recipe_cohorts()}
    tables = {cohort: {tuple(r[k] for k in FIELDS): r for r in c["variants"]} for cohort, c in contents.items()}
    kinds = set()
    for cohort, c in contents.items():
        students = {row["student_block"] for row in c["variants"]}
        kinds.add((c["provenance"]["weights_sha256"], tuple(sorted(tables[cohort])), *students))
    if len(kinds) > 1:
        raise CovtokenError(f"the tables of {', '.join(contents)} are of other weights or variants: record them alike")
    rows = []
    for key, first in next(iter(tables.values())).items():
        each = {cohort: table[key]["auroc"] for cohort, table in tables.items()}
        row = dict(zip(FIELDS, key)) | {"mean": float(np.mean(list(each.values())))} | each
        rows.append(row | {"student_block": first["student_block"]})
    rows = ranked(rows, lambda row: tuple(row[name] for name in FIELDS), lambda row: row["weight"] > 0)
    first = rows[0]
    settings = InOrganSettings(first["student_block"], first["weight"])
    return Recipe("in_organ", first["block"], False, first["sigma"], settings=settings), rows
