"""Lesion pictures with score maps and projected tokens, on which gates 2 to 4 and the negative result work.

Budgets are spent inside a picture, so a picture without lesion says nothing about them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from covtoken.backbone.feature_set import FeatureSet
from covtoken.bank.token_bank import build_bank
from covtoken.coverage.functionals import project
from covtoken.data.case import Case
from covtoken.evaluation.labels import SplitLabels, label, mark_small, small_cuts
from covtoken.evaluation.records import to_float16
from covtoken.keys import hash_unit, picture_seeds
from covtoken.protocol.plan import FIXED, Plan, binding, records_header
from covtoken.protocol.report import GateReport
from covtoken.protocol.scoring import heed_alarms, need_lesions, shuffled_masks
from covtoken.protocol.setting import SEED, Setting
from covtoken.scores.recommended import direction_maps, direction_of, fixed_maps
from covtoken.scores.scorers import score_maps
from covtoken.subspace.density import RANK, DensitySubspace
from covtoken.subspace.direction import Direction


@dataclass(frozen=True)
class Reference:
    """Fits to a bank, kept for pictures that are scored later.

    Attributes:
        bank: features of the bank's pictures.
        subspace: membership A's, at the middle block.
        direction: the recommended score's, where no other fixed score was asked for.
    """

    bank: FeatureSet
    subspace: DensitySubspace
    direction: Direction | None


@dataclass(frozen=True)
class LesionPictures:
    """N lesion pictures of the evaluated split.

    Attributes:
        maps: score maps [N, T] by scorer, rounded to float16 as gate 1 records them.
        y: [N, T, r] float64, tokens of the middle block, centred by the bank mean, projected to the density subspace.
        centred: [N, T, D] float32, the same tokens unprojected.
        labels: of the N pictures.
        cases: N.
        alarms: the label-free alarm's answer for each bank, where a recommended map was asked for.
        references: for each bank, of the split or of a fold.
    """

    setting: Setting
    plan: Plan
    maps: dict[str, np.ndarray]
    y: torch.Tensor
    centred: torch.Tensor
    labels: SplitLabels
    cases: tuple[Case, ...]
    alarms: list[dict]
    references: tuple[Reference, ...] = ()

    @property
    def width(self) -> int:
        """Width D of a token."""
        return self.centred.shape[-1]

    @property
    def sizes(self) -> np.ndarray:
        """Number of tokens of each lesion, [L] int."""
        return np.array([len(lesion.tokens) for lesion in self.labels.lesions])

    @property
    def small(self) -> np.ndarray:
        """Flag of small lesions, [L] bool."""
        return np.array([lesion.small for lesion in self.labels.lesions])

    @property
    def lesion_picture(self) -> np.ndarray:
        """Index of each lesion's picture, [L] int."""
        return np.array([lesion.picture for lesion in self.labels.lesions])

    def few(self, n: int | None) -> np.ndarray:
        """Choose at most n pictures by the keyed hash of their names; return their indices, ascending."""
        if n is None or n >= len(self.cases):
            return np.arange(len(self.cases))
        keys = [hash_unit(case.name) for case in self.cases]
        return np.sort(np.argsort(keys, kind="stable")[:n])

    def few_with_small(self, n: int) -> np.ndarray:
        """Choose at most n pictures that hold a small lesion, one a unit before a second of any; indices, ascending.

        Without a small lesion, at most n of all pictures. Ties are broken by the keyed hash of the name.
        """
        held = np.unique(self.lesion_picture[self.small])
        if not len(held):
            return self.few(n)
        of_unit: Counter[int] = Counter()
        keys = []
        for picture in sorted(held, key=lambda picture: hash_unit(self.cases[picture].name)):
            unit = int(self.labels.unit[picture])
            keys.append((of_unit[unit], len(keys), picture))
            of_unit[unit] += 1
        return np.sort([picture for *_, picture in sorted(keys)[:n]])

    def seeds(self, seed: int) -> list[int]:
        """Make a seed for each picture from its name and ``seed``, independent of the other pictures."""
        return picture_seeds([case.name for case in self.cases], seed)

    def only(self, chosen: np.ndarray) -> LesionPictures:
        """Keep the pictures at the ascending indices ``chosen``, and their lesions."""
        here = torch.from_numpy(chosen)
        return replace(
            self,
            maps={name: scores[chosen] for name, scores in self.maps.items()},
            y=self.y[here],
            centred=self.centred[here],
            labels=only_pictures(self.labels, chosen),
            cases=tuple(self.cases[i] for i in chosen),
        )

    def lesion_arrays(self) -> dict[str, np.ndarray]:
        """List the records' arrays of the lesions and of the pictures' units."""
        return {
            "lesion/size": self.sizes.astype(np.int32),
            "lesion/small": self.small.astype(np.uint8),
            "lesion/picture": self.lesion_picture.astype(np.int32),
            "unit": self.labels.unit.astype(np.int32),
        }

    def report(self, gate, title: str, question: str, *, parameters: dict, **parts) -> GateReport:
        """Write a gate's report on these pictures; ``parts`` are thresholds, metrics, checks, decision, chart_data."""
        about = {"middle": self.plan.middle, "curated": self.setting.cohort.curated, "bound": binding(self.setting)}
        counts = {"n_lesions": len(self.small), "n_small_lesions": int(self.small.sum())}
        parameters = about | counts | {"n_lesion_images": len(self.cases)} | parameters
        parts["checks"] |= {"plan_locked_before": self.plan.locked}
        return self.setting.report(gate, title, question, parameters=parameters, **parts)

    def header(self, gate: int | str, **more) -> dict:
        """Write down how the records of ``gate`` were made."""
        shape = {"n_tokens": int(self.y.shape[1]), "middle": self.plan.middle}
        return records_header(self.setting, self.labels.unit_names, gate=gate, **shape, **more)


def prepare(
    setting: Setting, plan: Plan, scorers: Sequence[str] | None = None, shuffled: bool = False
) -> LesionPictures:
    """Score and project the pictures of a split, then keep those with lesions. Masks are opened after scores exist.

    Args:
        scorers: names in the plan's recipes (None: all).
        shuffled: give each lesion picture the labels of another picture (a planted defect).

    Raises:
        CovtokenError: a split without lesions.
    """
    cohort, split = setting.cohort, setting.split
    names = [n for n in (plan.recipes if scorers is None else scorers) if n in plan.recipes]
    pairs, cases = setting.pairs()
    references = tuple(_reference(plan, bank, names) for bank, _ in pairs)
    parts = [_maps(plan, reference, pictures, names) for reference, (_, pictures) in zip(references, pairs)]
    alarms = heed_alarms(parts, pairs, plan, setting.vit) if "recommended" in names else []
    maps = {name: to_float16(np.concatenate([part[name] for part in parts])) for name in names}  # as gate 1
    labels = label(cases, cohort, *setting.grid)
    need_lesions(labels, cohort, split)
    held = np.flatnonzero(labels.lesion.any(axis=1))
    y, centred = _projected(plan, pairs, references, held)
    labels, cases = only_pictures(labels, held), tuple(cases[i] for i in held)
    if setting.small:
        plan = replace(plan, small_cuts=small_cuts(labels, cases))
    labels = mark_small(labels, cases, plan.small_cuts)
    if shuffled:
        labels = shuffled_masks(labels)
    maps = {name: scores[held].astype(np.float32) for name, scores in maps.items()}
    return LesionPictures(setting, plan, maps, y, centred, labels, cases, alarms, references)


def _reference(plan: Plan, bank: FeatureSet, names: Sequence[str]) -> Reference:
    middle = build_bank(bank, plan.middle)
    subspace = DensitySubspace.fit(middle, rank=min(RANK, middle.tokens.shape[1]))
    # Alone, the recommended map needs no rarity of every picture, which costs a search.
    alone = [name for name in names if name in FIXED] == ["recommended"]
    return Reference(bank, subspace, direction_of(plan.recipes["recommended"], bank) if alone else None)


def _maps(plan: Plan, reference: Reference, pictures: FeatureSet, names: Sequence[str]) -> dict[str, np.ndarray]:
    bank, recipe = reference.bank, plan.recipes.get("recommended")
    maps = {n: score_maps(plan.recipes[n], bank, pictures, seed=SEED) for n in names if n not in FIXED}
    if reference.direction is not None:
        maps["recommended"] = direction_maps(recipe, reference.direction, pictures)
        return maps
    return maps | fixed_maps({name: plan.recipes[name] for name in names if name in FIXED}, bank, pictures)


def _projected(
    plan: Plan, pairs, references: Sequence[Reference], held: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Project the tokens of the lesion pictures, each by the subspace of its own bank; also centre them alone."""
    ys, all_centred, start = [], [], 0
    for (_, pictures), reference in zip(pairs, references, strict=True):
        here = held[(held >= start) & (held < start + len(pictures))] - start
        start += len(pictures)
        if len(here):
            tokens, subspace = pictures.subset(here.tolist()).tokens(plan.middle), reference.subspace
            ys.append(project(tokens, subspace.mean, subspace.directions))
            all_centred.append(tokens - subspace.mean)
    return torch.cat(ys), torch.cat(all_centred)


def only_pictures(labels: SplitLabels, held: np.ndarray) -> SplitLabels:
    """Keep the labels of the pictures ``held`` (ascending indices), units numbered anew."""
    place = {int(picture): row for row, picture in enumerate(held)}
    inside = [lesion for lesion in labels.lesions if lesion.picture in place]
    names, unit = np.unique(np.asarray(labels.unit_names)[labels.unit[held]], return_inverse=True)
    return replace(
        labels,
        lesion=labels.lesion[held],
        ignore=labels.ignore[held],
        organ=None if labels.organ is None else labels.organ[held],
        unit=unit,
        lesions=tuple(replace(lesion, picture=place[lesion.picture]) for lesion in inside),
        unit_names=tuple(names.tolist()),
        names=tuple(labels.names[i] for i in held),
    )
