"""Are splits disjoint, is a bank intact, does the leak guard trip? Each check gives a dict of named booleans."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np

from covtoken.backbone.feature_set import FeatureSet
from covtoken.bank.token_bank import build_bank, load_bank
from covtoken.data.case import Cohort
from covtoken.data.near_duplicates import SAME_PICTURE, drawn, pairs_across_units
from covtoken.data.splits import SMALL_COHORT, assign, parts
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import label
from covtoken.keys import hash_unit
from covtoken.leak_guard import LabelLeak, construction, register_mask_files

BANK_TOKENS = 2000


def split_checks(cohort: Cohort, defect: str | None = None) -> tuple[dict[str, bool], list[tuple[str, str, float]]]:
    """Check that splits (folds of a small cohort) share no unit or near-duplicate, and that their file is unedited.

    Args:
        defect: ``unit_in_two_splits`` or ``duplicate_across_splits``, to plant it.

    Returns:
        checks; near-duplicate pairs across splits: (case, case, correlation).
    """
    if defect == "duplicate_across_splits":
        cohort = _with_duplicate(cohort)
    try:
        part_of_unit = parts(cohort)
    except CovtokenError:  # load_splits refuses an edited file: nothing below can be trusted
        return {"splits.file_unedited": False, "splits.disjoint_by_unit": False, "splits.no_near_duplicates": False}, []
    rows = [(case.name, case.unit, part_of_unit[case.unit]) for case in cohort.cases]
    if defect == "unit_in_two_splits":
        other = next(i for i, row in enumerate(rows) if row[2] != rows[0][2])
        rows[other] = (rows[other][0], rows[0][1], rows[other][2])
    n_parts = Counter(unit for unit, _ in {(unit, part) for _, unit, part in rows})
    part = {name: part for name, _, part in rows}
    pairs = [pair for pair in pairs_across_units(cohort, across_splits=False) if part[pair[0]] != part[pair[1]]]
    alike = [pair for pair in pairs if pair[2] > SAME_PICTURE] if drawn(cohort) else pairs
    return {
        "splits.file_unedited": True,
        "splits.disjoint_by_unit": max(n_parts.values()) == 1,
        "splits.no_near_duplicates": not alike,
    }, pairs


def bank_checks(features: FeatureSet, block: int, bank_units: set[str], corrupted: bool = False) -> dict[str, bool]:
    """Build, save, load and damage a small bank, and check each step.

    Args:
        features: of some of the bank's pictures.
        block: whose tokens feed the bank.
        bank_units: units that may feed it.
        corrupted: plant a defect: flip a byte of the saved file before it is loaded.
    """
    bank = build_bank(features, block, size=BANK_TOKENS)
    reversed_bank = build_bank(features.subset(range(len(features))[::-1]), block, size=BANK_TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.safetensors"
        bank.save(path)
        if corrupted:
            _flip(path, 0.5)
        try:
            loaded = load_bank(path)
            intact = loaded.header == bank.header and bool((loaded.tokens == bank.tokens).all())
        except CovtokenError:
            intact = False
        refused = []
        for place in (0.01, 0.5, 0.999):  # header, tokens, units
            bank.save(path)
            _flip(path, place)
            refused.append(_raises(CovtokenError, lambda: load_bank(path)))
    return {
        "bank.loads_intact": intact,
        "bank.flipped_byte_refused": all(refused),
        "bank.order_of_pictures_is_nothing": reversed_bank.header["content_sha256"] == bank.header["content_sha256"],
        "bank.units_of_the_bank_split": set(bank.header["units"]) <= {hash_unit(unit) for unit in bank_units},
    }


def guard_checks(cohort: Cohort, features: FeatureSet, block: int, guard_off: bool = False) -> dict[str, bool]:
    """Check that every door to a label is shut inside construction and open outside.

    Args:
        features: of some pictures, for a bank whose features try to read labels while it is built.
        block: whose tokens feed that bank.
        guard_off: plant a defect: construction marks nothing.
    """
    mark = (lambda what: nullcontext()) if guard_off else construction
    case = cohort.cases[:1]

    def inside(action: Callable[[], object]) -> bool:
        def attempt() -> None:
            with mark("a bank of gate 0"):
                action()

        return _raises(LabelLeak, attempt)

    def labels() -> object:
        return label(case, cohort, features.rows, features.cols)

    class Peeking(FeatureSet):
        """Features that read a label as soon as their tokens are asked for."""

        def chunks(self, block, size=64):
            labels()
            return super().chunks(block, size)

        def subset(self, indices):
            return self

    peeking = Peeking(**{name: getattr(features, name) for name in FeatureSet.__dataclass_fields__})
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "mask.bin"
        own.write_bytes(b"mask")
        files = [own, *(cohort.masks[case[0].name].files[:1] if case[0].name in cohort.masks else ())]
        register_mask_files(files)
        shut = [inside(lambda file=file: file.read_bytes()) for file in files]
        open_outside = all(file.read_bytes() for file in files)
    return {
        "guard.registered_mask_refused": all(shut),
        "guard.labels_refused": inside(labels),
        "guard.peeking_features_refused": _raises(LabelLeak, lambda: build_bank(peeking, block, size=10)),
        "guard.boolean_array_refused": _raises(LabelLeak, lambda: build_bank(np.zeros((2, 2), bool), block)),
        "guard.labels_open_outside": open_outside and not _raises(LabelLeak, labels),
    }


def _raises(kind: type[Exception], action: Callable[[], object]) -> bool:
    try:
        action()
    except kind:
        return True
    return False


def _flip(path: Path, place: float) -> None:
    """Flip all bits of the byte at ``place``, a share of the file's length."""
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0xFF
    path.write_bytes(bytes(content))


def _with_duplicate(cohort: Cohort) -> Cohort:
    """Plant a defect: repeat the first case as another unit, in another part."""
    first, small = cohort.cases[0], len(cohort.units) < SMALL_COHORT
    for number in count():
        unit = f"planted-{number}"
        copy = replace(first, name=unit, unit=unit)
        grown = replace(cohort, cases=(*cohort.cases, copy), masks={**cohort.masks, unit: cohort.masks[first.name]})
        part_of = parts(grown) if small else {first.unit: assign(first.unit), unit: assign(unit)}
        if part_of[unit] != part_of[first.unit]:
            return grown
