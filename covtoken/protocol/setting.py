"""A setting: the cohort, the split and the backbone of a gate, opened and loaded in a single place."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from covtoken.backbone.cache import Digests, digest_key, digests_of, features
from covtoken.backbone.feature_set import FeatureSet
from covtoken.backbone.vit import Block, FrozenViT
from covtoken.backbone.weights import check_backbone_name, load_backbone
from covtoken.data.case import Case, Cohort
from covtoken.data.cohorts import COMMITTED, PICTURE_SIZE, RECIPE_COHORTS, fingerprint_of, open_cohort
from covtoken.data.external import refuse_external
from covtoken.data.masks import check_masks
from covtoken.data.readers.volume_cohorts import VOLUMES
from covtoken.data.splits import FEWEST_UNITS, N_FOLDS, SMALL_COHORT, SMALL_SPLITS, folds, load_splits
from covtoken.errors import CovtokenError, unknown
from covtoken.keys import smallest
from covtoken.leak_guard import construction
from covtoken.protocol.report import GateReport, provenance

SEED = 0
HU_BANK = "msd-task06"


@dataclass(frozen=True)
class Setting:
    """An open cohort, the split that is evaluated, and a loaded backbone.

    Attributes:
        cohort: the cases and where their masks lie.
        split: ``selection``, ``test``, ``crossfit``, ``carried`` (a cohort too small to feed a bank of its own), or
            ``all`` where a gate looks at no label.
        precision: ``fp32`` or ``bf16``.
        cache: whether features are kept on disk.
        progress: whether long work shows a bar.
        most_units: units left in each split (None: all); banks from other cohorts keep to it too.
        digests: digests of the pictures read so far; extraction fills it.
    """

    cohort: Cohort
    split: str
    vit: FrozenViT
    precision: str = "fp32"
    cache: bool = True
    progress: bool = True
    most_units: int | None = None
    digests: Digests = field(default_factory=dict, repr=False, compare=False)

    @property
    def grid(self) -> tuple[int, int]:
        """Grid rows and columns of the tokens."""
        return self.vit.rows, self.vit.cols

    @property
    def small(self) -> bool:
        """Whether the cohort is evaluated as a whole and chooses nothing."""
        return self.split in SMALL_SPLITS

    @property
    def bank_cohort(self) -> str:
        """Name of the cohort that feeds the bank: its modality's recipe cohort where its own units are too few.

        Recipe cohorts have 8 bit, which a backbone that takes Hounsfield units cannot read: it gets a volume cohort.

        Raises:
            CovtokenError: a modality without a recipe cohort.
        """
        if self.split != "carried":
            return self.cohort.name
        modality = self.cohort.modality
        if modality not in RECIPE_COHORTS:
            raise unknown(f"modality of {self.cohort.name} (it names the bank)", modality, list(RECIPE_COHORTS))
        return HU_BANK if self.vit.input == "hu" else RECIPE_COHORTS[modality]

    @cached_property
    def splits(self) -> dict[str, str]:
        """Unit → split of a large cohort."""
        return load_splits(self.cohort)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all pictures of the cohort; pictures that were extracted already are not read again."""
        self.read_pictures()
        keys = (digest_key(case, self.vit) for case in self.cohort.cases)
        return fingerprint_of({case.name: self.digests[key][0] for case, key in zip(self.cohort.cases, keys)})

    def read_pictures(self) -> None:
        """Read every picture that was not read yet: a damaged one is found before a label is looked at."""
        keys = {case: digest_key(case, self.vit) for case in self.cohort.cases}
        unread = [case for case, key in keys.items() if key not in self.digests]
        with construction("a data fingerprint"), ThreadPoolExecutor(os.cpu_count()) as pool:
            digests = pool.map(lambda case: digests_of(case, self.vit), unread)
            self.digests.update(zip((keys[case] for case in unread), digests, strict=True))

    def cases_of(self, split: str) -> tuple[Case, ...]:
        """Give the cases of a split.

        Raises:
            CovtokenError: the split has no case.
        """
        cases = tuple(case for case in self.cohort.cases if self.splits.get(case.unit) == split)
        if not cases:
            n = len(self.cohort.units)
            raise CovtokenError(f"{self.cohort.name}: no case in the {split} split; the cohort has {n} units")
        return cases

    def features(
        self,
        cases: Sequence[Case],
        blocks: Sequence[Block] | None = None,
        attention: Sequence[int] | None = None,
        saliency: bool | None = None,
    ) -> FeatureSet:
        """Extract features of cases, by default all that gate 1 reads.

        Args:
            cases: N, of this setting's cohort.
            blocks: give tokens (None: every block, and the final norm).
            attention: blocks that give CLS attention (None: every block).
            saliency: whether the saliency head gives logits (None: where there is a head).
        """
        every = range(1, self.vit.n_blocks + 1)
        return features(
            cases,
            self.vit,
            blocks=(*every, "norm") if blocks is None else blocks,
            attention=tuple(every) if attention is None else attention,
            saliency=self.vit.has_saliency_head if saliency is None else saliency,
            precision=self.precision,
            cache=self.cache,
            progress=self.progress,
            seen=self.digests,
        )

    def pairs(self) -> tuple[list[tuple[FeatureSet, FeatureSet]], tuple[Case, ...]]:
        """Extract pairs of bank and pictures, and give the evaluated cases in the order of all their pictures.

        A split of a large cohort has a single pair; a cross-fitted cohort has a pair for each fold; a cohort too small
        for that takes the bank of ``bank_cohort``.
        """
        if self.split == "carried":
            return [(carried_bank(self.bank_cohort, self), self.features(self.cohort.cases))], self.cohort.cases
        if self.split != "crossfit":
            cases = self.cases_of(self.split)
            return [(self.features(self.cases_of("bank")), self.features(cases))], cases
        cohort, fold_of = self.cohort, folds(self.cohort.units, N_FOLDS)
        everything = self.features(cohort.cases)
        fold = np.array([fold_of[case.unit] for case in cohort.cases])
        inside = [np.flatnonzero(fold == number) for number in range(N_FOLDS)]
        banks = (everything.subset(np.flatnonzero(fold != number)) for number in range(N_FOLDS))
        pairs = [(bank, everything.subset(rows)) for bank, rows in zip(banks, inside, strict=True)]
        return pairs, tuple(cohort.cases[i] for rows in inside for i in rows)

    def limited(self, n_units: int | None) -> Setting:
        """Keep at most ``n_units`` units of each split (None: all), chosen by keyed hash, so blind to everything else.

        A small cohort, which has no split but its folds, keeps so many in all, and enough to be cross-fitted.
        """
        if not n_units:
            return self
        cohort = self.cohort
        small = len(cohort.units) < SMALL_COHORT
        splits = dict.fromkeys(cohort.units, "all") if small else load_splits(cohort)
        most = max(n_units, FEWEST_UNITS) if small else n_units
        kept = []
        for split in sorted(set(splits.values())):
            units = (unit for unit in cohort.units if splits[unit] == split)
            kept += smallest(units, most)
        return replace(self, cohort=replace(cohort, cases=cohort.subset(kept)), most_units=n_units)

    def report(
        self, gate: int | str, title: str, question: str, *, started: float | None = None, **parts
    ) -> GateReport:
        """Write the report of a gate on this setting.

        Args:
            started: ``time.perf_counter`` before the work (None: not timed).
            parts: parameters, thresholds, metrics, checks, decision and chart_data.
        """
        if self.split == "carried":
            parts["parameters"] = parts["parameters"] | {"bank_of": self.bank_cohort}
        about = (gate, title, question, self.cohort.name, self.split, self.vit.name)
        return GateReport(*about, **parts, provenance=self.provenance(started))

    def provenance(self, started: float | None) -> dict[str, Any]:
        """Make the provenance block of a report or study; ``started`` is ``time.perf_counter`` before the work."""
        return provenance(
            data_fingerprint=self.fingerprint,
            weights_sha256=self.vit.weights_sha256,
            seed=SEED,
            wall_seconds=0.0 if started is None else time.perf_counter() - started,
            threads=torch.get_num_threads(),
        )


def open_setting(
    cohort: str | Cohort = "phantom",
    split: str | None = None,
    backbone: str | FrozenViT = "embedded",
    *,
    data: str | None = None,
    weights: str | None = None,
    name: str = "",
    precision: str = "fp32",
    cache: bool = True,
    progress: bool = True,
    open_external: bool = False,
) -> Setting:
    """Open a cohort and load a backbone: the only place where a run does either.

    Args:
        cohort: a committed name, a folder with ``index.csv``, or a Cohort.
        split: ``selection``, ``test`` or ``crossfit``; None where no label is read.
        backbone: by name, or loaded.
        data: folder of a committed cohort outside ``COVTOKEN_DATA``.
        weights: file that replaces the backbone's published weights.
        name: of a folder's reports (empty: the folder's name).
        precision: this, ``cache`` and ``progress``: see ``Setting``.
        open_external: open an external cohort; the confirmation alone says so.

    Raises:
        CovtokenError: unknown names, missing data or weights, masks in which nothing can be measured, an external
            cohort.
    """
    if isinstance(cohort, Cohort) and not open_external:
        refuse_external(cohort.name)
    if not isinstance(backbone, FrozenViT):
        check_backbone_name(backbone)  # before data are missed or read
    if isinstance(cohort, Cohort) and (name or data):
        raise CovtokenError(f"cohort {cohort.name!r} is open already: it takes no name and no data folder")
    if not isinstance(cohort, Cohort):
        if name and cohort in COMMITTED:
            raise CovtokenError(f"cohort {cohort!r} has its name already: --name {name} is for a folder of one's own")
        view = VOLUMES[cohort].view if cohort in VOLUMES else None
        options = ({"name": name} if name else {}) | (view.options() if view else {})
        cohort = open_cohort(cohort, data, open_external=open_external, **options)
        cohort = view.of(cohort) if view else cohort
    if split is not None:
        split = resolve_split(cohort, split)
        check_masks(cohort)  # before minutes of extraction
    if isinstance(backbone, FrozenViT) and weights:
        raise CovtokenError(f"backbone {backbone.name!r} is loaded already: leave the weights file {weights} out")
    if not isinstance(backbone, FrozenViT):
        backbone = load_backbone(backbone, picture_size=PICTURE_SIZE, weights_file=weights)
    return Setting(cohort, split or "all", backbone, precision, cache, progress)


def resolve_split(cohort: Cohort, split: str) -> str:
    """Check a split's name: a small cohort has one, ``crossfit`` or ``carried``, a large one selection and test."""
    if split not in ("selection", "test", *SMALL_SPLITS):
        raise CovtokenError(f"split {split!r}: expected selection, test, crossfit or carried")
    if len(cohort.units) < SMALL_COHORT:
        return "carried" if len(cohort.units) < FEWEST_UNITS else "crossfit"
    return "test" if split in SMALL_SPLITS else split


def carried_bank(name: str, setting: Setting) -> FeatureSet:
    """Extract the bank split of a recipe cohort, without the units that are about to be scored.

    Args:
        name: recipe cohort.
        setting: the evaluated cohort, and the backbone of the bank.

    Raises:
        CovtokenError: the recipe cohort's data are missing, or no unit is left.
    """
    how = {"precision": setting.precision, "cache": setting.cache, "progress": setting.progress}
    source = open_setting(name, None, setting.vit, **how).limited(setting.most_units)
    return source.features(not_scored(source, setting.cohort.units))


def not_scored(source: Setting, scored: Iterable[str]) -> list[Case]:
    """List the bank cases of a cohort whose units are not scored; one too small for splits gives all its cases."""
    scored = set(scored)
    offered = source.cases_of("bank") if len(source.cohort.units) >= FEWEST_UNITS else source.cohort.cases
    cases = [case for case in offered if case.unit not in scored]
    if not cases:
        name = source.cohort.name
        raise CovtokenError(f"every unit of the bank of {name} is also scored: there is no bank to carry over")
    return cases
