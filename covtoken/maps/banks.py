"""Choose and fit what scores a run: the folder itself as bank, another folder, a file, or a shipped direction.

Where a folder is the bank, it is cross-fitted: its units are split into five folds, and each is scored by a direction
that the four others gave, so that no picture meets its own tokens. Neither the bank nor the threshold depends on which
pictures of the folder a run maps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from covtoken.backbone.cache import features
from covtoken.backbone.feature_set import FeatureSet
from covtoken.backbone.token_model import TokenModel
from covtoken.bank.token_bank import check_fits
from covtoken.data.case import Case
from covtoken.data.intensity import to_unit_range
from covtoken.data.near_duplicates import groups, thumbnail
from covtoken.data.splits import FEWEST_UNITS, N_FOLDS, folds
from covtoken.errors import CovtokenError
from covtoken.keys import smallest
from covtoken.protocol.alarm_limits import DENSITY, scaled_alarm
from covtoken.scores.alarm import Limits, check_bank
from covtoken.scores.recipe import Recipe, at_depth, recommended
from covtoken.scores.recommended import direction_maps, direction_of
from covtoken.scores.threshold import BankScores
from covtoken.subspace.direction import Direction

BANK_SLICES = 400  # slices of a bank at most: what is held in memory is about 0.8 MB a slice of ViT-S/14
BATCH = 8


@dataclass(frozen=True)
class Scorer:
    """Directions with the held-out scores of their bank.

    Attributes:
        recipe: of C−, for the backbone's depth.
        directions: by fold; ``None`` is the key of the direction of the whole bank.
        scores: held-out, of the bank.
        fold_of: unit → fold; a unit that fed nothing is scored by the whole bank's direction, or by any fold's.
        about: where it came from, for records.
        alarm: what the label-free alarm says of the bank.
        held: features of the bank's slices, where the bank is what is scored: not extracted again.
    """

    recipe: Recipe
    directions: Mapping[int | None, Direction]
    scores: BankScores
    about: dict[str, Any]
    fold_of: Mapping[str, int] = field(default_factory=dict)
    alarm: dict[str, Any] = field(default_factory=dict)
    held: FeatureSet | None = field(default=None, repr=False)

    def maps(self, cases: Sequence[Case], vit: TokenModel, precision: str = "fp32") -> np.ndarray:
        """Score slices of one unit: maps [n, T] float32, token grids row-major.

        Raises:
            CovtokenError: a slice cannot be read, or the directions do not fit the backbone.
        """
        fold = self.fold_of.get(cases[0].unit, None if None in self.directions else 0)
        direction = self.directions[fold]
        keys = [] if self.held is None else list(zip(self.held.units, self.held.names))
        counts = Counter(keys)  # a window of a.png and a picture "a@0,0.png" have one name
        rows = {key: row for row, key in enumerate(keys) if counts[key] == 1}
        if all((case.unit, case.name) in rows for case in cases):
            found = self.held.subset([rows[case.unit, case.name] for case in cases])
        else:
            found = _features(cases, vit, [self.recipe.block], precision, progress=False)
            # A run may score in another precision than the bank's, which directions would refuse; it records the price.
            found = replace(found, precision=direction.header.get("precision", precision))
        return direction_maps(self.recipe, direction, found)


def fit_bank(
    cases: Sequence[Case],
    vit: TokenModel,
    about: dict[str, Any],
    whole: bool = False,
    progress: bool = False,
    precision: str = "fp32",
) -> Scorer:
    """Fit directions to a bank, cross-fitted over its units.

    Args:
        cases: of the bank, constant slices left out (``bank_cases``).
        about: where they came from, for records.
        whole: also fit the direction of the whole bank, for pictures that are not in it.

    Raises:
        LabelLeak: a mask was opened meanwhile.
        CovtokenError: too few units, a picture that cannot be read, a bank without a rare token.
    """
    units = sorted({case.unit for case in cases})
    if len(units) < FEWEST_UNITS:
        raise CovtokenError(
            f"the bank has {len(units)} units that can be used, and {FEWEST_UNITS} are the fewest: add pictures, or "
            "take a shipped direction (--direction ultrasound, --direction ct)"
        )
    recipe, fold_of = recommended(vit.n_blocks), folds(units, N_FOLDS)
    limits, fallback, limits_of = _alarm_of(vit)
    blocks = list(dict.fromkeys([recipe.block, recipe.settings.target_block, fallback.block]))
    held = _features(cases, vit, blocks, precision, progress)
    fold = np.array([fold_of[unit] for unit in held.units])
    directions, heldout, alarms = {}, [], []
    for number in range(N_FOLDS):
        bank, left = (held.subset(np.flatnonzero(rows)) for rows in (fold != number, fold == number))
        directions[number] = direction_of(recipe, bank)
        maps = direction_maps(recipe, directions[number], left)
        heldout.append(maps)
        alarms.append(check_bank(bank, left, recipe, fallback, limits, maps))
    if whole:
        directions[None] = direction_of(recipe, held)
    fired = [alarm for alarm in alarms if alarm.fired]
    alarm = {
        "fired": bool(fired),
        "reasons": sorted({reason for each in fired for reason in each.reasons}),
        "banks": len(alarms),
        "banks_fired": len(fired),
        "limits_of": limits_of,
    }
    scores = BankScores.of(np.concatenate([maps.ravel() for maps in heldout]))
    about = about | {"units": len(units), "slices": len(cases), "folds": N_FOLDS}
    return Scorer(recipe, directions, scores, about, fold_of, alarm, held)


def of_direction(
    direction: Direction, vit: TokenModel, about: dict[str, Any], source: str, tile: int | None = None
) -> Scorer:
    """Score by a direction that was fitted before, with the held-out scores in its header.

    Raises:
        CovtokenError: it is of another backbone, weights, picture size, block or tile, or its header holds no scores.
            The shipped ones name no tile and go with any.
    """
    header = direction.header
    if (header.get("grey") or "tile" in header) and header.get("tile") != tile:
        was, now = (f"cut into windows of {px} pixels" if px else "whole" for px in (header.get("tile"), tile))
        raise CovtokenError(
            f"{source} was fitted to pictures that were {was}, and here they are {now}: expected the same; fit one for "
            "these (covtoken fit), or map with the --tile of the fit"
        )
    recipe = recommended(vit.n_blocks)
    try:
        check_fits(direction, vit, block=recipe.block, pooled=True)
    except CovtokenError as error:
        raise CovtokenError(f"{source}: {error}") from error
    return Scorer(recipe, {None: direction}, BankScores.from_json(direction.header.get("heldout"), source), about)


def with_scores(scorer: Scorer, **about) -> Direction:
    """Give the direction of a scorer's whole bank, with the held-out scores in its header, to be saved."""
    direction = scorer.directions[None]
    return direction.replaced(direction.weight, heldout=scorer.scores.to_json(), alarm=scorer.alarm, **about)


def grouped(cases: Mapping[str, Case]) -> dict[str, str]:
    """Group pictures by likeness: name → unit. ``cases``: a picture each; a picture that cannot be read is left out."""
    names, thumbnails = [], []
    for name, case in cases.items():
        try:
            thumbnails.append(thumbnail(case.pixels()))
        except CovtokenError:
            continue  # its own case says what is wrong with it
        names.append(name)
    return groups(names, thumbnails) if names else {}


def bank_cases(by_unit: Mapping[str, Sequence[Case]]) -> list[Case]:
    """Choose the slices of a bank: evenly from each unit, without slices that are constant or cannot be read.

    Args:
        by_unit: unit → its slices.

    Returns:
        at most ``BANK_SLICES``, whatever the order of the units.
    """
    kept = smallest(by_unit, BANK_SLICES)
    each = max(1, BANK_SLICES // len(kept)) if kept else 0
    chosen = []
    for unit in sorted(kept):
        slices = by_unit[unit]
        step = max(1, -(-len(slices) // each))
        chosen += [case for case in slices[step // 2 :: step] if _useful(case)]
    return chosen


def is_constant(pixels: np.ndarray) -> bool:
    """Tell whether a picture is the same everywhere."""
    return bool(pixels.min() == pixels.max())


def _useful(case: Case) -> bool:
    try:
        return not is_constant(to_unit_range(case.pixels(), case))
    except CovtokenError:
        return False


def _features(cases, vit, blocks, precision: str, progress: bool) -> FeatureSet:
    """Extract without a file in the cache, a batch at a time in an order that the caller fixed."""
    return features(cases, vit, blocks, precision=precision, batch=BATCH, progress=progress, cache=False)


def _alarm_of(vit: TokenModel) -> tuple[Limits, Recipe, str | None]:
    """Give the alarm's limits: the locked ones where there is a checkout, else the number of units alone."""
    try:
        limits, recipes, limits_of = scaled_alarm(vit)
    except CovtokenError:
        return Limits(), Recipe("density", at_depth(DENSITY.block, vit.n_blocks), False, DENSITY.sigma), None
    return limits, recipes.fallback, limits_of
