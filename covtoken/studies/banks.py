"""The choice of the recommended recipe over banks of many sizes, on the selection splits of the recipe cohorts.

    content = run_banks("busi")     # selection split alone, scored with banks of a twentieth to all of the bank's units
    recipe, ranking = recommend()   # from the committed tables of the recipe cohorts

A single bank decides little: another half of the units moves a direction more than any setting, and a user's bank is
often small. So each variant is fitted to every bank of ``SHARES`` × ``KEYS``.

**The rule.** At the block that the rule of ``ablation`` gives, of inside × quantile × ridge × rounds × component × σ,
the highest mean over recipe cohorts, banks, and the two numbers that count (pooled token AUROC, AUROC inside one
image). Variants within 0.002 of that are tied; a tie goes to the smaller σ, then to all called tokens before one
component, then to the ridge nearest 1 in ratio, then to the quantile nearest 0.9, then to fewer rounds, then to the
smaller weight inside the picture. The weight inside the picture entered the grid after a look at the same selection
splits (``explored``). D calls all tokens above the quantile; C− is the rule's choice among all variants with rarity as
the source. The sources are not chosen: C and the two rivals of C− (``PLANNED``) are the rule's choice
with theirs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from covtoken.bank.features import Features
from covtoken.bank.pooling import pool3x3
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import SplitLabels
from covtoken.protocol.history import read_history
from covtoken.scores.memberships import source_map, token_maps
from covtoken.scores.recipe import Recipe
from covtoken.studies import ablation, study
from covtoken.studies.ablation import values_of
from covtoken.studies.study import NOTE, Study, recipe_cohorts
from covtoken.subspace import direction as directions
from covtoken.subspace.consensus import COMPONENTS, ConsensusSettings, agreed_sources, called
from covtoken.subspace.consensus import ranked as ranked_tokens
from covtoken.subspace.direction import DirectionSettings

STUDY = Study("banks", "covtoken-banks/2", "covtoken ablate --banks")
SOURCES = ("rarity", "head", "attention", "rarity+head", "rarity+attention", "attention+head", "rarity+attention+head")
PLANNED = {  # name of a recipe in a plan → component rules to choose from, sources
    "recommended": (COMPONENTS, "rarity"),
    "direction": (("none",), "rarity"),
    "with_head": (COMPONENTS, "rarity+head"),
    "attention_fit": (COMPONENTS, "attention"),
    "attention_head_fit": (COMPONENTS, "attention+head"),
}
FIELDS = ("sources", "inside", "quantile", "ridge", "rounds", "component", "sigma")
INSIDES = (0.0, 0.5, 0.75, 1.0)
QUANTILES = (0.9, 0.93, 0.95)
RIDGES = (1.0, 3.0)
ROUNDS = (0, 2)
SIGMAS = (0.0, 0.5)
MEASURES = ("auroc", "image_auroc")
SHARES = (0.05, 0.1, 0.2, 0.5, 1.0)
KEYS = ("covtoken-banks-0", "covtoken-banks-1")
EXPLORED = (
    "Before this table, other forms of the call ({forms}) were looked at on the same selection splits: soft targets, "
    "ranks inside pictures and units, references cut into 2 to 6 parts, several bank samples, tokens of two blocks or "
    "with their surroundings, sources joined in pairs, components of each picture. The rank inside the picture and one "
    "component a picture stood out."
)


def explored() -> str:
    """Tell what was looked at before the table, with the numbers of forms that the history has."""
    counts = [change.forms_tried for change in read_history() if change.forms_tried and "1" in change.gates]
    return EXPLORED.format(forms="; later ".join(counts) or "uncounted")


def run_banks(
    cohort: str, backbone: str = "embedded", *, data: str | None = None, cache: bool = True, progress: bool = True
) -> dict[str, Any]:
    """Try every variant with every bank on a cohort's selection split; return the content, ready to be written.

    Raises:
        CovtokenError: unknown names, or a cohort without the splits or lesions.
    """
    started = time.perf_counter()
    setting = study.open_study(cohort, backbone, data=data, cache=cache, progress=progress)
    vit, centre = setting.vit, ablation.default(setting.vit.n_blocks)
    place = {"block": centre.block, "target_block": centre.target_block, "attention_block": max(1, vit.n_blocks - 1)}
    read = sorted({centre.block, centre.target_block})
    splits = study.split_features(setting, read, vit.has_saliency_head, (place["attention_block"],))
    sources = [name for name in SOURCES if vit.has_saliency_head or "head" not in name]
    banks, tables = [], []
    for share, key, part in track(list(banks_of(splits[0])), f"banks, {setting.cohort.name}", disable=not progress):
        banks.append({"share": share, "key": key, "units": len(set(part.units))})
        tables.append(evaluate(part, *splits[1:], sources, **place))
    rows = [{name: rows[0][name] for name in FIELDS} | _over_banks(rows) for rows in zip(*tables, strict=True)]
    note = f"{NOTE}. {explored()}"
    return study.content_of(STUDY, setting, splits, started, note=note, **place, banks=banks, variants=rows)


def _over_banks(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    return {name: [round(row[name], 5) for row in rows] for name in MEASURES}


def banks_of(bank: Features) -> Iterator[tuple[float, str, Any]]:
    """Yield (share, key, bank): the units of the smallest keyed hashes; the whole bank once."""
    units = len(set(bank.units))
    for share, key in product(SHARES, KEYS):
        if share < 1:
            yield share, key, study.share_of(bank, max(2, round(share * units)), key)
        elif key == KEYS[0]:
            yield share, key, bank


def evaluate(
    bank: Features,
    selection: Features,
    labels: SplitLabels,
    sources: Sequence[str],
    block: int,
    target_block: int,
    attention_block: int,
) -> list[dict[str, Any]]:
    """Try every variant with a bank: rows {sources, inside … sigma, auroc, image_auroc}."""
    about = ConsensusSettings(target_block=target_block, attention_block=attention_block)
    wanted = dict.fromkeys("+".join(sources).split("+"))
    maps = {name: source_map(name, bank, about) for name in wanted if name != "rarity"}
    if "rarity" in wanted:
        maps["rarity"] = directions.bank_rarity(bank, directions.target_reference(bank, target_block))
    solver, rows = Solver.of(bank, block), []
    for names, inside in product(sources, INSIDES):
        agreement = agreed_sources([maps[name] for name in names.split("+")], inside)
        fits: list[tuple[tuple, torch.Tensor]] = []
        for quantile, component, ridge in product(QUANTILES, COMPONENTS, RIDGES):
            settings = replace(about, quantile=quantile, ridge=ridge, rounds=max(ROUNDS), component=component)
            for rounds, weight in enumerate(solver.fits(agreement, settings)):
                if rounds in ROUNDS:
                    fits.append(((names, inside, quantile, ridge, rounds, component), weight))
        weights = torch.stack([weight for _, weight in fits], dim=1).float()
        raw = token_maps(lambda z, part, weights=weights: z @ weights, block, True, selection)  # [N, T, variants]
        for (i, (made, _)), sigma in product(enumerate(fits), SIGMAS):
            rows.append(dict(zip(FIELDS, (*made, sigma))) | values_of(raw[..., i], sigma, selection, labels))
    return rows


@dataclass(frozen=True)
class Solver:
    """The bank's tokens in memory, so that hundreds of variants share one covariance."""

    tokens: torch.Tensor  # [N, T, D] float64, about their mean
    factors: dict[float, torch.Tensor]  # λ → the Cholesky factor of Σ + λ·tr(Σ)/D·I
    grid: tuple[int, int]

    @classmethod
    def of(cls, bank: Features, block: int, pooled: bool = True) -> Solver:
        """Read a bank whose tokens fit into memory."""
        read = (tokens for _, tokens in bank.chunks(block))
        tokens = torch.cat([pool3x3(each, bank.rows, bank.cols) if pooled else each for each in read]).double()
        tokens -= tokens.mean(dim=(0, 1))
        flat = tokens.flatten(0, 1)
        covariance = flat.T @ flat / len(flat)
        eye = covariance.trace() / len(covariance) * torch.eye(len(covariance), dtype=torch.float64)
        factors = {ridge: torch.linalg.cholesky(covariance + ridge * eye) for ridge in RIDGES}
        return cls(tokens, factors, (bank.rows, bank.cols))

    def fits(self, agreement: torch.Tensor, settings: ConsensusSettings) -> Iterator[torch.Tensor]:
        """Yield ω [D] of each round, as ``fit_consensus`` fits it (a test holds the two together)."""
        target = agreement
        for _ in range(settings.rounds + 1):
            kept, cut = called(target, settings.quantile, settings.component, *self.grid)
            calls = (kept > cut).double().flatten()
            cross = (calls - calls.mean()) @ self.tokens.flatten(0, 1) / len(calls)
            weight = torch.cholesky_solve(cross[:, None], self.factors[settings.ridge])[:, 0]
            yield weight
            target = ranked_tokens(agreement + ranked_tokens((self.tokens @ weight).float()))


def mean_over_banks(content: dict[str, Any]) -> dict[tuple, dict[str, float]]:
    """Average a cohort's table over banks: variant → {auroc, image_auroc, lowest}, the lowest pooled AUROC."""
    return {
        tuple(row[name] for name in FIELDS): {name: float(np.mean(row[name])) for name in MEASURES}
        | {"lowest": min(row["auroc"])}
        for row in content["variants"]
    }


def recommend(
    root: Path | None = None,
    cohorts: Sequence[str] = (),
    components: Sequence[str] = COMPONENTS,
    sources: str = "rarity",
) -> tuple[Recipe, list[dict[str, Any]]]:
    """Choose a recipe by the rule above; return it with its ranking, see ``ranked``.

    Args:
        cohorts: whose tables count; the recipe cohorts if empty.
        components: rules among which to choose: all of ``COMPONENTS`` give C−, ``none`` alone gives D.
        sources: of the target, out of ``SOURCES``.

    Raises:
        CovtokenError: a table is not recorded, the cohorts' are of other weights, banks or variants, or of another
            block than the ablation gives.
    """
    contents = {cohort: STUDY.read(cohort, root) for cohort in cohorts or recipe_cohorts()}
    content = next(iter(contents.values()))
    kinds = {
        (
            *(c["backbone"], c["provenance"]["weights_sha256"], c["block"], c["target_block"]),
            *(c["attention_block"], tuple((bank["share"], bank["key"]) for bank in c["banks"])),
            frozenset(mean_over_banks(c)),
        )
        for c in contents.values()
    }
    weights = {ablation.STUDY.read(cohort, root)["provenance"]["weights_sha256"] for cohort in contents}
    if len(kinds) > 1 or weights != {content["provenance"]["weights_sha256"]}:
        raise CovtokenError(
            f"the tables of {', '.join(contents)}, or the ablations that the block comes from, are of other weights, "
            "blocks, banks or variants: record them alike"
        )
    block = ablation.recommend(root, cohorts)[0]
    if content["block"] != block:
        raise CovtokenError(f"the ablation gives block {block}, the tables of banks are of block {content['block']}")
    rows = ranked(contents, components, sources)
    chosen = {name: rows[0][name] for name in FIELDS if name != "sigma"}
    places = {name: content[name] for name in ("target_block", "attention_block")}
    settings, scorer = ConsensusSettings(**chosen, **places), "consensus"
    if (tuple(components), sources) == (("none",), "rarity"):
        scorer = "direction"
        settings = DirectionSettings(*(getattr(settings, field.name) for field in fields(DirectionSettings)))
    return Recipe(scorer, block, True, rows[0]["sigma"], settings=settings), rows


def ranked(
    found: dict[str, dict[str, Any]], components: Sequence[str] = COMPONENTS, sources: str = "rarity"
) -> list[dict[str, Any]]:
    """Rank variants by the rule, from the tables {cohort: content}: tied variants in the rule's order, then by mean.

    Rows have {sources … sigma, mean, tied} and, for each cohort, {auroc, image_auroc, lowest}: means over the banks,
    and the lowest pooled AUROC with any bank.
    """
    means, rows = {cohort: mean_over_banks(c) for cohort, c in found.items()}, []
    place = FIELDS.index("component")
    for key in (key for key in next(iter(means.values())) if key[0] == sources and key[place] in components):
        each = {cohort: table[key] for cohort, table in means.items()}
        mean = float(np.mean([numbers[k] for numbers in each.values() for k in ("auroc", "image_auroc")]))
        rows.append(dict(zip(FIELDS, key)) | {"mean": mean} | each)

    def order(row: dict[str, Any]) -> tuple:
        rule = COMPONENTS.index(row["component"])
        return (row["sigma"], rule, *study.from_the_usual(row), row["rounds"], row["inside"])

    return study.ranked(rows, order)
