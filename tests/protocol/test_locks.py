"""Locks: edited files are refused, changes need a reason, other data is refused, a moved headline shows."""

import json
from inspect import signature

import pytest

from covtoken.coverage.dual import SLACKS, prune
from covtoken.coverage.greedy import greedy
from covtoken.errors import CovtokenError
from covtoken.gates import gate3, gate4, negative_result
from covtoken.gates.budgets import kept_by_method
from covtoken.protocol import locks
from covtoken.protocol.plan import FEW_UNITS, METHOD_PARAMETERS, SEARCHING
from covtoken.protocol.setting import SEED
from covtoken.subspace import rarity, residual
from covtoken.subspace.density import DensitySubspace


@pytest.fixture
def root(tmp_path):
    (tmp_path / "configs").mkdir()
    return tmp_path


def test_an_edited_lock_is_refused_by_name(root):
    locks.write_entry(locks.THRESHOLDS, "busi", 1, {"threshold": 0.8}, root=root)
    path = root / "configs" / locks.THRESHOLDS
    path.write_text(path.read_text().replace("0.8", "0.7"))
    for text in (path.read_text(), "[]", "{}"):
        path.write_text(text)
        with pytest.raises(CovtokenError, match=r"thresholds\.lock\.json: edited by hand .*git checkout"):
            locks.entry(locks.THRESHOLDS, "busi", 1, root)


def test_a_changed_lock_needs_a_reason_and_keeps_old_and_new(root):
    assert locks.write_entry(locks.THRESHOLDS, "busi", 1, {"threshold": 0.8}, root=root) == ["threshold: (none) → 0.8"]
    assert locks.write_entry(locks.THRESHOLDS, "busi", 1, {"threshold": 0.8}, root=root) == []
    with pytest.raises(CovtokenError, match="Say why with --reason"):
        locks.write_entry(locks.THRESHOLDS, "busi", 1, {"threshold": 0.9}, root=root)
    changes = locks.write_entry(locks.THRESHOLDS, "busi", 1, {"threshold": 0.9}, reason="new baseline", root=root)
    assert changes == ["threshold: 0.8 → 0.9"]
    log = locks.read_lock(locks.THRESHOLDS, root)["changelog"]
    assert [line["reason"] for line in log] == ["first lock", "new baseline"]
    assert log[1]["changes"] == changes


@pytest.mark.parametrize("key", locks.BINDING)
def test_a_lock_binds_data_weights_and_method(key):
    locked = {name: "a" for name in locks.BINDING}
    locks.check_binding(locked, dict(locked), "busi gate 1")
    with pytest.raises(CovtokenError, match=f"busi gate 1: the lock binds {key}"):
        locks.check_binding(locked, locked | {key: "b"}, "busi gate 1")


def test_reproduction_text_is_stable_within_and_speaks_up_beyond_the_tolerance(root):
    headline = {"headline": {"auroc.density": {"value": 0.8712, "tolerance": 0.002}}}
    locks.write_entry(locks.HEADLINE, "busi", 1, headline, root=root)

    def text(value):
        return locks.reproduction("busi", 1, {"auroc.density": {"value": value}}, root)

    assert text(0.8712) == text(0.8729) == text(0.8695)
    assert "reproduced" in text(0.8712) and "NOT REPRODUCED: this run gives 0.874" in text(0.874)
    assert "NOT REPRODUCED" in locks.reproduction("busi", 1, {}, root)


def test_a_changed_entry_is_refused_even_with_a_new_digest(root):
    locks.write_entry(locks.THRESHOLDS, "busi", 1, {"threshold": 0.8}, root=root)
    locks.write_entry(locks.THRESHOLDS, "busi", 1, {"threshold": 0.9}, reason="new baseline", root=root)
    path = root / "configs" / locks.THRESHOLDS

    def forged(change):
        content = json.loads(path.read_text())
        whole = path.read_text()
        change(content)
        content["digest"] = locks._digest(content)
        path.write_text(json.dumps(content))
        with pytest.raises(CovtokenError) as error:
            locks.entry(locks.THRESHOLDS, "busi", 1, root)
        path.write_text(whole)
        return str(error.value)

    assert "busi gate 1 is not the one" in forged(lambda c: c["entries"]["busi"]["gate1"].update(threshold=0.7))
    assert "busi gate 1 is not the one" in forged(lambda c: c["changelog"].pop())
    assert "line 1 does not follow" in forged(lambda c: c["changelog"].pop(0))
    assert "line 2 does not follow" in forged(lambda c: c["changelog"][1].update(reason="another"))
    assert "line 1 does not follow" in forged(lambda c: c["changelog"].reverse())
    assert "busi gate 1 is not the one" in forged(lambda c: c["entries"].pop("busi"))
    unlinked = {"when": "", "cohort": "busi", "gate": "1", "reason": "", "changes": []}
    assert "line 3 does not follow" in forged(lambda c: c["changelog"].append(unlinked))
    assert "lits gate 1 is not the one" in forged(lambda c: c["entries"].update(lits={"gate1": {"threshold": 0.1}}))


def test_every_locked_plan_and_threshold_binds_the_parameters_that_run():
    """A constant that drifts from what was locked fails here, whichever file it lives in."""
    content = locks.read_lock(locks.THRESHOLDS)
    for cohort, entries in content["entries"].items():
        for gate, entry in entries.items():
            assert {k: v for k, v in entry["method"].items() if k != "picture_size"} == (
                json.loads(json.dumps(METHOD_PARAMETERS | {"seed": SEED}))
            ), f"{cohort} {gate}"


def test_the_method_is_the_one_that_is_written_down():
    assert METHOD_PARAMETERS | {"fixed": 0, "dual": 0} == {
        "reference_size": 12_000,
        "k": 10,
        "coreset": 1000,
        "sigmas": [0.0, 0.5, 1.0],
        "label_threshold": 0.25,
        "n_draws": 2000,
        "fixed": 0,
        "musc": {"pictures": 64, "share": 0.3},
        "subspace": {"alpha": 0.1, "rank": 64},
        "coverage": {"epsilon": 1e-7, "coding_epsilon": 0.5, "slack": 0.05, "candidates": 64, "swaps": 256},
        "dual": 0,
    }
    assert (residual.RANK, rarity.NEIGHBOURS) == (64, 30)
    assert (gate3.LARGEST_P, gate3.DECIDING, gate4.MOST_CV, gate4.LEAST_MET, FEW_UNITS) == (
        0.05,
        "keep0.25",
        0.2,
        0.95,
        20,
    )
    assert gate3.DECIDES == "miss_gain.recommended_minus_attention_best.keep0.25" and SLACKS == (
        0.01,
        0.05,
        0.1,
        0.2,
        0.4,
    )
    assert (kept_by_method.GREEDY_PICTURES, kept_by_method.GREEDY_RATIO, negative_result.MORE_SEEDS) == (60, 0.25, 4)
    specified = METHOD_PARAMETERS["dual"]["specified"]
    named = ("steps", "logit", "rate", "momentum", "mu", "mu_rate", "mu_cap", "temperature", "last_temperature")
    assert [specified[name] for name in named] == [200, 2.0, 0.5, 0.9, 1.0, 0.2, 1e4, 0.5, 0.5]
    assert not specified["repair"] and METHOD_PARAMETERS["dual"]["repaired"]["repair"]


def test_the_defaults_of_gates_2_to_4_are_those_that_are_bound():
    def default(function, name):
        return signature(function).parameters[name].default

    found = {"alpha": default(DensitySubspace.fit, "alpha"), "rank": default(DensitySubspace.fit, "rank")}
    assert found == METHOD_PARAMETERS["subspace"]
    found = {name: default(greedy, name) for name in ("candidates", "swaps")} | {"slack": default(prune, "slack")}
    assert found.items() <= METHOD_PARAMETERS["coverage"].items()
    assert default(residual.ResidualSubspace.fit, "rank") == residual.RANK


def test_every_threshold_follows_from_its_committed_selection_table():
    content = locks.read_lock(locks.THRESHOLDS)["entries"]
    assert set(content) == {"phantom", "busi", "lidc-crops"}
    for cohort, entries in content.items():
        table = entries["gate1"]["selection"]
        simple = {name: row["auroc"] for name, row in table.items() if name not in (*SEARCHING, "direction")}
        assert len(simple) >= 8 and all(row["variants"] >= 1 for row in table.values())
        assert entries["gate1"]["threshold"] == max(simple.values()), cohort
        assert entries["gate2"]["threshold"] == entries["gate2"]["selection"]["attention_mass"]
        assert entries["gate3"]["threshold"] == min(entries["gate3"]["selection"].values())
        assert not set(entries["gate3"]["selection"]) & {*SEARCHING, "random"}
