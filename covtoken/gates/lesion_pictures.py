"""What gates 2 to 4 and the negative result work on: lesion pictures with score maps and projected tokens.

Budgets are spent inside one picture, so a picture without lesion says nothing about them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from covtoken.backbone.feature_set import FeatureSet
from covtoken.backbone.vit import FrozenViT
from covtoken.coverage.functionals import project
from covtoken.data.case import Case, Cohort
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import SplitLabels, label, small_cut
from covtoken.evaluation.recorded import hashed_units
from covtoken.evaluation.records import Records
from covtoken.gates.plan import FIXED, SEED, Plan, binding, resolve_split
from covtoken.gates.planning import plan_for
from covtoken.gates.report import GateReport, provenance
from covtoken.gates.scoring import Extractor, evaluated_pairs, heed_alarms, limited, need_lesions, open_inputs
from covtoken.subspace.bank import build_bank
from covtoken.subspace.density import DensitySubspace
from covtoken.subspace.direction import Direction
from covtoken.subspace.recommended import direction_maps, direction_of, recommended_maps
from covtoken.subspace.scorers import score_maps


@dataclass(frozen=True)
class Reference:
    """What one bank gave, kept for pictures that are scored later.

    Attributes:
        bank: its features. subspace: membership A's, at the middle block. direction: the recommended score's, where it
            alone was asked for.
    """

    bank: FeatureSet
    subspace: DensitySubspace
    direction: Direction | None


@dataclass(frozen=True)
class LesionPictures:
    """N lesion pictures of the evaluated split.

    Attributes:
        cohort, split, backbone: as in a report. vit: the loaded backbone. plan, locked: what was fixed, and whether it
            was locked before. bound: what a lock binds.
        maps: score maps [N, T] by scorer. y: [N, T, r] float64, tokens of the middle block, centred by the bank mean,
            in coordinates of the density subspace's directions. centred: [N, T, D] float32, the same unprojected.
        labels: of the N pictures; ``small``: [L] bool, which lesions are small. cases: N.
        alarms: what the label-free alarm said of each bank, where a recommended map was asked for.
        references: one a bank: of a fold, or of the split.
    """

    cohort: Cohort
    split: str
    backbone: str
    vit: object
    plan: Plan
    locked: bool
    bound: dict
    maps: dict[str, np.ndarray]
    y: torch.Tensor
    centred: torch.Tensor
    labels: SplitLabels
    cases: tuple[Case, ...]
    alarms: list[dict]
    references: tuple[Reference, ...] = ()

    @property
    def width(self) -> int:
        """D, the width of a token."""
        return self.centred.shape[-1]

    @property
    def sizes(self) -> np.ndarray:
        """[L] int, tokens of each lesion."""
        return np.array([len(lesion.tokens) for lesion in self.labels.lesions])

    @property
    def small(self) -> np.ndarray:
        """[L] bool, lesions up to the plan's small-lesion cut."""
        return np.array([lesion.area <= self.plan.small_cut for lesion in self.labels.lesions])

    @property
    def lesion_picture(self) -> np.ndarray:
        """[L] int, the picture of each lesion."""
        return np.array([lesion.picture for lesion in self.labels.lesions])

    def few(self, n: int | None) -> np.ndarray:
        """Indices of at most n pictures, chosen by the keyed hash of their names, ascending."""
        if n is None or n >= len(self.cases):
            return np.arange(len(self.cases))
        keys = hashed_units([case.name for case in self.cases])
        return np.sort(np.argsort(keys, kind="stable")[:n])

    def seeds(self, seed: int) -> list[int]:
        """A seed a picture, from its name and ``seed``, whichever others there are."""
        return picture_seeds([case.name for case in self.cases], seed)

    def only(self, chosen: np.ndarray) -> LesionPictures:
        """The pictures at the ascending indices ``chosen``, and their lesions."""
        maps = {name: found[chosen] for name, found in self.maps.items()}
        here = torch.from_numpy(chosen)
        return replace(
            self,
            maps=maps,
            y=self.y[here],
            centred=self.centred[here],
            labels=only_pictures(self.labels, chosen),
            cases=tuple(self.cases[i] for i in chosen),
        )

    def lesion_arrays(self) -> dict[str, np.ndarray]:
        """What records keep of the lesions and of the pictures' units."""
        return {
            "lesion/size": self.sizes.astype(np.int32),
            "lesion/small": self.small.astype(np.uint8),
            "lesion/picture": self.lesion_picture.astype(np.int32),
            "unit": self.labels.unit.astype(np.int32),
        }

    def report(self, gate, title: str, question: str, *, parameters: dict, started: float, **parts) -> GateReport:
        """A gate's report on these pictures; ``parts``: thresholds, metrics, checks, decision, chart_data."""
        shared = {
            "middle": self.plan.middle,
            "curated": self.cohort.curated,
            "bound": self.bound,
            "n_lesions": len(self.labels.lesions),
            "n_small_lesions": int(self.small.sum()),
            "n_lesion_images": len(self.cases),
        }
        return GateReport(
            *(gate, title, question, self.cohort.name, self.split, self.backbone),
            parameters=shared | parameters,
            provenance=provenance(
                data_fingerprint=self.bound["data_fingerprint"],
                weights_sha256=self.bound["weights_sha256"],
                seed=SEED,
                wall_seconds=time.perf_counter() - started,
                threads=torch.get_num_threads(),
            ),
            **parts,
        )

    def header(self, gate: int | str, **more) -> dict:
        """What records keep of how they were made."""
        return {
            "cohort": self.cohort.name,
            "gate": gate,
            "split": self.split,
            "backbone": self.backbone,
            "units": hashed_units(list(self.labels.unit_names)),
            "n_tokens": int(self.y.shape[1]),
            "middle": self.plan.middle,
            **self.bound,
            **more,
        }


@dataclass(frozen=True)
class GateRun:
    """A gate's report, the records its headlines can be recomputed from, and the pictures it was made on."""

    report: GateReport
    records: Records
    pictures: Any = None


def prepare(
    cohort: str | Cohort,
    split: str,
    backbone: str | FrozenViT = "embedded",
    *,
    scorers: Sequence[str] | None = None,
    data: str | None = None,
    precision: str = "fp32",
    cache: bool = True,
    progress: bool = True,
    need_lock: bool = False,
    fixed_plan: Plan | None = None,
    limit_units: int | None = None,
    shuffled: bool = False,
) -> LesionPictures:
    """Score and project the pictures of a split, then keep those with lesions. Masks are opened after scores exist.

    Args:
        scorers: names in the plan's recipes (None: all). The other arguments are those of ``run_gate1``.
        shuffled: give each lesion picture the labels of another (a planted defect).
    """
    opened, vit = open_inputs(cohort, backbone, data)
    split = resolve_split(opened, split)
    extracting = Extractor(vit, precision, cache, progress)
    opened = limited(opened, limit_units) if limit_units else opened
    bound = binding(opened, vit)
    # Gate 1 chose the recipes; here its locked plan is used on the selection split too.
    under = "test" if split == "selection" else split
    plan, locked = (fixed_plan, True) if fixed_plan else plan_for(opened, under, extracting, bound, need_lock)
    names = [n for n in (plan.recipes if scorers is None else scorers) if n in plan.recipes]
    pairs, cases = evaluated_pairs(opened, split, extracting)
    references = tuple(_reference(plan, bank, names) for bank, _ in pairs)
    parts = [_maps(plan, one, pictures, names) for one, (_, pictures) in zip(references, pairs, strict=True)]
    alarms = heed_alarms(parts, pairs, plan, vit) if "recommended" in names else []
    maps = {name: np.concatenate([part[name] for part in parts]) for name in names}
    labels = label(cases, opened, *extracting.grid)
    need_lesions(labels, opened, split)
    held = np.flatnonzero(labels.lesion.any(axis=1))
    y, centred = _projected(plan, pairs, references, held)
    labels = only_pictures(labels, held)
    if split == "crossfit":
        plan = replace(plan, small_cut=small_cut(labels.lesions))
    if shuffled:
        labels = shuffled_masks(labels)
    return LesionPictures(
        *(opened, split, vit.name, vit, plan, locked, bound),
        *({name: found[held] for name, found in maps.items()}, y, centred, labels),
        *(tuple(cases[i] for i in held), alarms, references),
    )


def _reference(plan: Plan, bank: FeatureSet, names: Sequence[str]) -> Reference:
    middle = build_bank(bank, plan.middle)
    subspace = DensitySubspace.fit(middle, rank=min(64, middle.tokens.shape[1]))
    # Alone, the recommended map needs no rarity of every picture, which costs a search.
    alone = [name for name in names if name in FIXED] == ["recommended"]
    return Reference(bank, subspace, direction_of(plan.recipes["recommended"], bank) if alone else None)


def _maps(plan: Plan, reference: Reference, pictures: FeatureSet, names: Sequence[str]) -> dict[str, np.ndarray]:
    bank, recipe = reference.bank, plan.recipes.get("recommended")
    maps = {n: score_maps(plan.recipes[n], bank, pictures, seed=SEED) for n in names if n not in FIXED}
    if reference.direction is not None:
        maps["recommended"] = direction_maps(recipe, reference.direction, pictures)
    elif fixed := [name for name in names if name in FIXED]:
        found = recommended_maps(recipe, bank, pictures, with_head="direction_without_head" in names)
        maps |= {name: found[name] for name in fixed}
    return maps


def _projected(
    plan: Plan, pairs, references: Sequence[Reference], held: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of the lesion pictures, each projected by the subspace of its own bank."""
    ys, all_centred, start = [], [], 0
    for (_, pictures), reference in zip(pairs, references, strict=True):
        here = held[(held >= start) & (held < start + len(pictures))] - start
        start += len(pictures)
        if not len(here):
            continue
        tokens, fitted = pictures.subset(here.tolist()).tokens(plan.middle), reference.subspace
        ys.append(project(tokens, fitted.mean, fitted.directions))
        all_centred.append(tokens - fitted.mean)
    return torch.cat(ys), torch.cat(all_centred)


def only_pictures(labels: SplitLabels, held: np.ndarray) -> SplitLabels:
    """The labels of the pictures ``held`` (ascending indices), units numbered anew."""
    place = {int(picture): row for row, picture in enumerate(held)}
    names, unit = np.unique(np.asarray(labels.unit_names)[labels.unit[held]], return_inverse=True)
    return replace(
        labels,
        lesion=labels.lesion[held],
        ignore=labels.ignore[held],
        organ=None if labels.organ is None else labels.organ[held],
        unit=unit,
        lesions=tuple(replace(one, picture=place[one.picture]) for one in labels.lesions if one.picture in place),
        unit_names=tuple(names.tolist()),
        names=tuple(labels.names[i] for i in held),
    )


def check_defect(defect: str | None, known: Sequence[str]) -> None:
    """Refuse a planted defect that a gate does not know."""
    if defect is not None and defect not in known:
        raise CovtokenError(f"unknown defect {defect!r}: expected one of {', '.join(known)}")


def picture_seeds(names: Sequence[str], seed: int) -> list[int]:
    """Keyed hashes of pictures' names and a seed, as seeds below 2⁶³."""
    digests = (hashlib.blake2b(f"{n}\0{seed}".encode(), digest_size=8, key=b"covtoken-v1").digest() for n in names)
    return [int.from_bytes(digest, "little") >> 1 for digest in digests]


def shuffled_masks(labels: SplitLabels) -> SplitLabels:
    """Each picture with the lesions of another: what a mix-up of files would do."""
    n = len(labels.unit)
    if n < 2:
        raise CovtokenError("one lesion picture: its masks cannot be shuffled")
    cycle = np.random.default_rng(SEED).permutation(n)
    order = np.empty(n, dtype=int)
    order[cycle] = np.roll(cycle, 1)  # no picture keeps its own
    place = np.argsort(order)
    return replace(
        labels,
        lesion=labels.lesion[order],
        ignore=labels.ignore[order],
        lesions=tuple(replace(one, picture=int(place[one.picture])) for one in labels.lesions),
    )
