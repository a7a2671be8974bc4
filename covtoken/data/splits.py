"""Splits by keyed hash of the unit: disjoint by construction, the same everywhere, and never moved by growth.

Bank 30 %, selection 20 %, calibration 25 %, test 25 % (book/method.md). A unit's split depends on its name alone,
so a patient in two splits, or a split that depends on the order of files, cannot happen. The committed file of a cohort
adds what a hash cannot know: which files had joined which near-duplicate group when they were first seen.
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
FEWEST_UNITS = 12  # with fewer the other folds give no bank


def assign(unit: str) -> str:
    """The split of a unit, from its name alone.

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
    """Split of every unit of the cohort, sorted by unit. Units that no file lists yet are computed; nothing is written.

    Raises:
        CovtokenError: the committed file was edited: a unit stands in another split than its hash says.
    """
    _committed(cohort.name, folder)
    return {unit: assign(unit) for unit in cohort.units}


def extend_splits(cohort: Cohort, folder: Path | None = None, write: bool = False) -> dict[str, str]:
    """As ``load_splits``, and add the cohort's new units to its committed file. What is listed never changes.

    Args:
        write: make the file where there is none yet (else only cohorts that already have one are written).
    """
    path = _path(cohort.name, folder)
    splits = load_splits(cohort, folder)
    if not (write or path.exists()):
        return splits
    record = _committed(cohort.name, folder)
    units = {**splits, **record["units"]}
    names = {case.name for case in cohort.cases}
    joined = {case.name: case.unit for case in cohort.cases if case.unit in names and case.unit != case.name}
    joined = {**joined, **record.get("joined", {})}
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
    """Units of files in near-duplicate groups that stay what they were when the cohort grows.

    A listed file keeps its unit. A new file joins the listed unit that its group holds. Where the group now holds
    listed units of two splits, its new files would tie the splits together: they are left out.

    Args:
        groups: group of every file present, as ``near_duplicates.groups`` gives them.

    Returns:
        unit by file, and (file, reason) of what is left out.
    """
    listed = listed_files(name, folder)
    members: dict[str, list[str]] = {}
    for file, group in sorted(groups.items()):
        members.setdefault(group, []).append(file)
    units: dict[str, str] = {}
    left_out: list[tuple[str, str]] = []
    for group, files in sorted(members.items()):
        known = sorted({listed[file] for file in files if file in listed})
        units.update({file: listed[file] for file in files if file in listed})
        new = [file for file in files if file not in listed]
        if len({assign(unit) for unit in known}) > 1:
            left_out += [(file, f"near-duplicate of units in two splits: {', '.join(known)}") for file in new]
        else:
            units.update({file: known[0] if known else group for file in new})
    return units, tuple(left_out)


def listed_files(name: str, folder: Path | None = None) -> dict[str, str]:
    """Unit of every file that the cohort's committed splits know; a near-duplicate group has its first file's name."""
    record = _committed(name, folder)
    return {**{unit: unit for unit in record["units"]}, **record.get("joined", {})}


def shared_units(cohort: Cohort, other: Cohort) -> frozenset[str]:
    """Units that occur in both cohorts: they may feed no bank that scores the other cohort."""
    return frozenset(cohort.units) & frozenset(other.units)


def folds(units: Iterable[str], n: int = 5) -> dict[str, int]:
    """Fold 0…n-1 of every unit, sizes equal within one: for cross-fitting of small cohorts. Order does not matter."""
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
