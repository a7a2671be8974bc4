"""Splits: disjoint by unit, blind to order, near their shares, and never moved by growth."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from covtoken.data.case import Case, Cohort
from covtoken.data.splits import (
    SHARES,
    assign,
    extend_splits,
    folds,
    load_splits,
    settle_groups,
    shared_units,
)
from covtoken.errors import CovtokenError
from covtoken.paths import project_root


def cohort(units: list[str], name="toy") -> Cohort:
    cases = tuple(Case(f"{unit}-{k}", unit, "ultrasound", lambda: np.zeros((4, 4))) for unit in units for k in range(2))
    return Cohort(name, "ultrasound", cases, {})


def test_assignment_is_pinned():
    # Committed reports rest on these: the key and the hash never change.
    assert [assign(f"patient-{i}") for i in range(6)] == ["test", "selection", "test", "bank", "test", "calibration"]


def test_shares_are_near_their_targets():
    n = 20_000
    got = [assign(f"unit {i}") for i in range(n)]
    for split, share in SHARES.items():
        assert abs(got.count(split) / n - share) < 4 * (share * (1 - share) / n) ** 0.5


def test_order_and_growth_do_not_matter(tmp_path):
    units = [f"p{i}" for i in range(40)]
    first = extend_splits(cohort(units[:20]), tmp_path, write=True)
    before = json.loads((tmp_path / "toy.json").read_text())["units"]
    shuffled = random.Random(0).sample(units, 40)
    second = extend_splits(cohort(shuffled), tmp_path)
    after = json.loads((tmp_path / "toy.json").read_text())["units"]
    assert first.items() <= second.items() and before.items() <= after.items() and len(after) == 40
    assert load_splits(cohort(units)) == second
    extend_splits(cohort(units[:5]), tmp_path)  # a smaller copy of the data takes nothing away
    assert json.loads((tmp_path / "toy.json").read_text())["units"] == after


def test_users_folder_is_computed_and_not_written(tmp_path):
    assert extend_splits(cohort(["a", "b"]), tmp_path) == {"a": assign("a"), "b": assign("b")}
    assert not list(tmp_path.iterdir())


def test_edited_file_is_refused(tmp_path):
    extend_splits(cohort(["a", "b"]), tmp_path, write=True)
    path = tmp_path / "toy.json"
    record = json.loads(path.read_text())
    record["units"]["a"] = "bank" if record["units"]["a"] != "bank" else "test"
    path.write_text(json.dumps(record))
    with pytest.raises(CovtokenError, match="'a' stands in another split"):
        load_splits(cohort(["a", "b"]), tmp_path)
    path.write_text("{")
    with pytest.raises(CovtokenError, match="restore it from git"):
        load_splits(cohort(["a", "b"]), tmp_path)


def units_in(split: str, n: int) -> list[str]:
    return [name for name in (f"file {i}" for i in range(200)) if assign(name) == split][:n]


def test_new_file_between_two_splits_is_left_out(tmp_path):
    (bank,), (test,), (other,) = units_in("bank", 1), units_in("test", 1), units_in("selection", 1)
    files = [bank, test, other]
    cases = tuple(Case(name, name, "ultrasound", lambda: np.zeros((4, 4))) for name in sorted(files))
    extend_splits(Cohort("toy", "ultrasound", cases, {}), tmp_path, write=True)

    # "a bridge" looks like both, and would even be the first file of their common group.
    grouped = {bank: "a bridge", test: "a bridge", "a bridge": "a bridge", other: "a twin", "a twin": "a twin"}
    units, left_out = settle_groups("toy", grouped, tmp_path)
    assert units == {bank: bank, test: test, other: other, "a twin": other}
    assert [file for file, _ in left_out] == ["a bridge"] and "two splits" in left_out[0][1]

    # Once written, the twin keeps its unit even where its likeness is no longer found.
    grown = tuple(Case(name, unit, "ultrasound", lambda: np.zeros((4, 4))) for name, unit in sorted(units.items()))
    extend_splits(Cohort("toy", "ultrasound", grown, {}), tmp_path)
    assert settle_groups("toy", {name: name for name in units}, tmp_path) == (units, ())


def test_folds_are_balanced_whole_units_and_blind_to_order():
    units = [f"u{i}" for i in range(23)]
    got = folds(units * 3)
    assert got == folds(reversed(units))
    sizes = [list(got.values()).count(fold) for fold in range(5)]
    assert max(sizes) - min(sizes) <= 1 and len(got) == 23
    with pytest.raises(CovtokenError, match="5 folds of 3 units"):
        folds(units[:3])


def test_shared_units_are_named():
    assert shared_units(cohort(["a", "b"]), cohort(["b", "c"], "other")) == {"b"}


@pytest.mark.parametrize("path", sorted((project_root() / "configs" / "splits").glob("*.json")), ids=lambda p: p.stem)
def test_committed_files_hold_what_the_hash_says(path):
    record = json.loads(path.read_text())
    assert record["cohort"] == path.stem and record["key"] == "covtoken-v1"
    assert all(split == assign(unit) for unit, split in record["units"].items())
    assert set(record.get("joined", {}).values()) <= set(record["units"])
