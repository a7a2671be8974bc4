"""Define what all ablations of a cohort share: trials, the ground they stand on, and every score at its defaults."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from covtoken.backbone.feature_set import FeatureSet
from covtoken.bank.token_bank import KEY, REFERENCE_SIZE
from covtoken.data.case import Case
from covtoken.evaluation.labels import SplitLabels
from covtoken.keys import smallest
from covtoken.protocol.setting import Setting
from covtoken.scores.recipe import recommended
from covtoken.studies.ablations.searched import Searched
from covtoken.subspace.density import K_NEIGHBOURS, RANK

A, B, SUBSPACE, PN, D, C_MINUS, C = "A", "B", "lesion subspace", "PN", "D", "C−", "C"


@dataclass(frozen=True)
class Limits:
    """How much a cohort is given.

    Attributes:
        size: tokens of the reference.
        large_units: units of each split at other picture sizes.
        scored_units: units of the selection split that are scored (None: all), by keyed hash.
        searched: tokens of the largest reference for C−, whose bank searches itself for it; A and B go further.
    """

    size: int = REFERENCE_SIZE
    large_units: int = 20
    scored_units: int | None = 60
    searched: int = REFERENCE_SIZE


@dataclass(frozen=True, eq=False)
class Trial:
    """A score with one thing changed: its maps with each bank that was tried.

    Attributes:
        value: of what is changed, as it stands in a table.
        maps: [N, T], one a bank; their AUROCs are averaged.
        default: whether nothing is changed: what the other values of this score are compared with.
        bank: of the maps, or the first of them.
        group: trials of different groups are not compared.
    """

    value: float | str
    score: str
    maps: list[np.ndarray] = field(repr=False)
    default: bool
    bank: FeatureSet = field(repr=False)
    labels: SplitLabels = field(repr=False)
    group: str = ""
    note: str = ""


@dataclass(frozen=True, eq=False)
class Ground:
    """What all ablations of a cohort share: splits, labels, and the default bank with its searches."""

    setting: Setting
    bank: FeatureSet
    selection: FeatureSet
    labels: SplitLabels
    limits: Limits
    whole: Searched

    @property
    def has_head(self) -> bool:
        return "saliency" in self.bank.available

    def searched(self, bank: FeatureSet, **changes: Any) -> Searched:
        """Search another bank, or the same with another reference."""
        return Searched(bank, **{"n_blocks": self.whole.n_blocks, "size": self.limits.size} | changes)

    def trial(self, value: float | str, score: str, maps: np.ndarray, default: bool, **about: Any) -> Trial:
        """Make a trial on the selection split with the bank split, unless ``about`` says otherwise."""
        return Trial(value, score, [maps], default, **{"bank": self.bank, "labels": self.labels} | about)


def every_score(searched: Searched, pictures: FeatureSet, with_head: bool) -> dict[str, np.ndarray]:
    """Score with all, at their defaults."""
    maps = {A: searched.density(pictures)[K_NEIGHBOURS], B: searched.residual(pictures)[RANK]}
    maps |= {PN: searched.rarity(pictures), D: searched.direction("D", pictures)}
    maps |= {C_MINUS: searched.direction("C−", pictures)}
    return maps | ({C: searched.direction("C", pictures)} if with_head else {})


def blocks_read(ground: Ground) -> list[int]:
    """List the blocks that the defaults read."""
    return sorted({recommended(ground.setting.vit.n_blocks).block, ground.whole.target})


def few(setting: Setting, split: str, n_units: int | None) -> list[Case]:
    """Take the pictures of at most ``n_units`` units of a split (None: all), by keyed hash."""
    cases = setting.cases_of(split)
    units = {case.unit for case in cases}
    units = set(smallest(units, n_units or len(units), KEY))
    return [case for case in cases if case.unit in units]


def three_scores(
    searched: Searched, value: float | str, pictures: FeatureSet, labels: SplitLabels, usual: bool
) -> Iterator[Trial]:
    """Try A, B and C− with pictures in another form."""
    bank = searched.features
    yield Trial(value, A, [searched.density(pictures)[K_NEIGHBOURS]], usual, bank, labels)
    yield Trial(value, B, [searched.residual(pictures)[RANK]], usual, bank, labels)
    yield Trial(value, C_MINUS, [searched.direction("C−", pictures)], usual, bank, labels)
