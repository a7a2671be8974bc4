"""Locks: edited files are refused, changes need a reason, other data is refused, a moved headline shows."""

import json

import pytest

from covtoken.errors import CovtokenError
from covtoken.protocol import locks


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


def test_looks_are_appended_to_the_right_log(root):
    locks.log_look({"cohort": "busi"}, recorded=True, root=root)
    locks.log_look({"cohort": "busi"}, recorded=True, root=root)
    locks.log_look({"cohort": "busi"}, recorded=False, root=root)
    lines = (root / "gate_reports" / "test_log.jsonl").read_text().splitlines()
    assert len(lines) == 2 and all(json.loads(line)["cohort"] == "busi" for line in lines)
    assert len((root / "gate_reports" / "_run" / "test_log.jsonl").read_text().splitlines()) == 1


def test_a_log_that_cannot_be_written_is_one_clear_error(root):
    (root / "gate_reports").write_text("in the way")
    with pytest.raises(CovtokenError, match=r"cannot append to .*test_log\.jsonl"):
        locks.log_look({"cohort": "busi"}, recorded=True, root=root)
