"""Split cohorts by a keyed hash of the unit: disjoint by construction, the same everywhere, never moved by growth.

A unit's split depends on its name alone (book/method.md), so no patient can be in two splits, and the order of files
does not matter. A cohort's committed file adds the near-duplicate group that each file joined when first seen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from covtoken.data.case import Cohort
from covtoken.errors import CovtokenError
from covtoken.paths import project_root, write_then_rename

KEY = "covtoken-v1"
SPLITS = ("bank", "selection", "calibration", "test")
SHARES = {"bank": 0.30, "selection": 0.20, "calibration": 0.25, "test": 0.25}
SMALL_COHORT = 100  # with fewer units a cohort chooses nothing and is cross-fitted over N_FOLDS
N_FOLDS = 5
FEWEST_UNITS = 12  # with fewer the other folds give no bank, so that of a recipe cohort is carried over
SMALL_SPLITS = ("crossfit", "carried")  # the one split of a cohort that chooses nothing; it counts as test


def assign(unit: str) -> str:
    """Assign a unit to a split, from its name alone.

    >>> assign("LIDC-IDRI-0001") == assign("LIDC-IDRI-0001")
    True
    """
    position, edge = _position(unit), 0.0
    for split in SPLITS:
        edge += SHARES[split]
        if position < edge:
            return split
    return SPLITS[-1]


def load_splits(cohort: Cohort, folder: Path | None = None) -> dict[str, str]:
    """Give the split of every unit of the cohort, sorted by unit; write nothing.

    >>> from covtoken import open_cohort
    >>> sorted(set(load_splits(open_cohort("phantom", n=40)).values()))
    ['bank', 'calibration', 'selection', 'test']

    Raises:
        CovtokenError: the committed file was edited: a unit stands in another split than its hash says.
    """
    _committed(cohort.name, folder)
    return {unit: assign(unit) for unit in cohort.units}


def extend_splits(cohort: Cohort, folder: Path | None = None, write: bool = False) -> dict[str, str]:
    """Add the cohort's new units to its committed file, where listed units never change; give all as ``load_splits``.

    Args:
        write: make the file where there is none yet.
    """
    path = _path(cohort.name, folder)
    splits = load_splits(cohort, folder)
    if not (write or path.exists()):
        return splits
    record = _committed(cohort.name, folder)
    units = {**splits, **record["units"]}
    names = {case.name for case in cohort.cases}
    joined = {case.name: case.unit for case in cohort.cases if case.unit in names and case.unit != case.name}
    joined |= record.get("joined", {})
    extended = {"cohort": cohort.name, "key": KEY, "units": dict(sorted(units.items()))}
    if joined:
        extended["joined"] = dict(sorted(joined.items()))
    if extended != record:
        with write_then_rename(path) as temporary:
            temporary.write_text(json.dumps(extended, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return splits


def settle_groups(
    name: str, groups: Mapping[str, str], folder: Path | None = None
) -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
    """Turn near-duplicate groups into units that stay when the cohort grows.

    Args:
        name: the cohort's.
        groups: group of every file present, as ``near_duplicates.groups`` gives them.

    Returns:
        unit by file, and (file, reason) for files left out.

    A listed file keeps its unit. A new file joins the listed unit that its group holds; it is left out where the group
    holds listed units of two splits, which it would tie together.
    """
    listed = listed_files(name, folder)
    members: dict[str, list[str]] = {}
    for file, group in sorted(groups.items()):
        members.setdefault(group, []).append(file)
    units = {file: listed[file] for file in groups if file in listed}
    left_out: list[tuple[str, str]] = []
    for group, files in sorted(members.items()):
        known = sorted({listed[file] for file in files if file in listed})
        new = [file for file in files if file not in listed]
        if len({assign(unit) for unit in known}) > 1:
            left_out += [(file, f"near-duplicate of units in two splits: {', '.join(known)}") for file in new]
        else:
            units.update({file: known[0] if known else group for file in new})
    return units, tuple(left_out)


def listed_files(name: str, folder: Path | None = None) -> dict[str, str]:
    """Give the unit of every file in the cohort's committed splits; a near-duplicate group is named by its first."""
    record = _committed(name, folder)
    return {unit: unit for unit in record["units"]} | record.get("joined", {})


def parts(cohort: Cohort) -> dict[str, str]:
    """Give every unit's split, or its fold where the cohort is small and cross-fitted."""
    splits = load_splits(cohort)
    if FEWEST_UNITS <= len(cohort.units) < SMALL_COHORT:
        return {unit: f"fold {fold}" for unit, fold in folds(cohort.units, N_FOLDS).items()}
    return splits


def shared_units(cohort: Cohort, other: Cohort) -> frozenset[str]:
    """Find units that occur in both cohorts: they may feed no bank that scores the other cohort."""
    return frozenset(cohort.units) & frozenset(other.units)


def folds(units: Iterable[str], n: int = 5) -> dict[str, int]:
    """Assign every unit a fold 0…n-1, sizes equal within one, whatever the order: for cross-fitting small cohorts."""
    distinct = sorted(set(units), key=lambda unit: (_position(unit), unit))
    if not 2 <= n <= len(distinct):
        raise CovtokenError(f"{n} folds of {len(distinct)} units: take between 2 and the number of units")
    return {unit: rank % n for rank, unit in enumerate(distinct)}


def _position(unit: str) -> float:
    digest = hashlib.blake2b(unit.encode("utf-8"), key=KEY.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _path(name: str, folder: Path | None) -> Path:
    return (folder or project_root() / "configs" / "splits") / f"{name}.json"


def _committed(name: str, folder: Path | None) -> dict:
    path = _path(name, folder)
    if not path.exists():
        return {"units": {}}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        moved = [unit for unit, split in record["units"].items() if split != assign(unit)]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CovtokenError(f"{path} is not a splits file ({error}): restore it from git") from error
    if record.get("key") != KEY or moved:
        what = f"unit {moved[0]!r} stands in another split than its hash says" if moved else "its key is not " + KEY
        raise CovtokenError(f"{path} was edited: {what}; splits are only ever extended, restore it from git")
    return record
