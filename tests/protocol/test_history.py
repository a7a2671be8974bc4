"""The history is chained, told in order, and fits the log of looks and the reports."""

import json
from dataclasses import asdict, replace
from itertools import pairwise

import pytest

from covtoken.errors import CovtokenError
from covtoken.gates import gate1
from covtoken.paper.history_table import history_rows
from covtoken.protocol import history
from covtoken.protocol.history import Change, Verdict, append_change, change_from, history_path, read_history
from covtoken.protocol.looks import read_looks
from covtoken.protocol.report import committed_reports

ONE = Change(
    "2026-01-01T00:00:00Z", "abc", ("1",), "a rule", "because", (Verdict("busi", "1", "GO", "NO-GO"),), "x", "9"
)
HISTORY = read_history()
MOVED = [(change, verdict) for change in HISTORY for verdict in change.verdicts]


def test_a_change_comes_back_and_is_told(tmp_path):
    (tmp_path / "configs").mkdir()
    later = Change("2026-01-02T00:00:00Z", "", ("3",), "another", "why not")
    for change in (ONE, later):
        append_change(change, tmp_path)
    assert read_history(tmp_path) == [ONE, later]
    row = history_rows([ONE])[0]
    assert row[3].startswith("BUSI, gate 1: GO → NO-GO") and "Forms looked at before: 9" in row[2]
    with pytest.raises(CovtokenError, match="older than the last one"):
        append_change(ONE, tmp_path)


def test_a_change_of_the_future_is_refused_and_one_of_now_is_not(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    monkeypatch.setattr(history, "now", lambda: ONE.when)
    append_change(ONE, tmp_path)
    with pytest.raises(CovtokenError, match="2026-01-01T00:00:01Z lies in the future, it is 2026-01-01T00:00:00Z"):
        append_change(replace(ONE, when="2026-01-01T00:00:01Z"), tmp_path)
    assert read_history(tmp_path) == [ONE]


def test_no_committed_change_lies_in_the_future():
    assert all(change.when <= history.now() for change in HISTORY)


@pytest.mark.parametrize("when", ["2026-9-01T00:00:00Z", "2026-01-01T0:00:00Z", "2026-01-01 00:00:00", "now"])
def test_a_time_that_would_not_compare_as_text_is_refused(when, tmp_path):
    (tmp_path / "configs").mkdir()
    with pytest.raises(CovtokenError, match="a change holds when"):
        append_change(replace(ONE, when=when), tmp_path)
    assert not read_history(tmp_path)


def test_a_line_that_is_removed_or_changed_is_refused(tmp_path):
    (tmp_path / "configs").mkdir()
    for day in (1, 2, 3):
        append_change(Change(f"2026-01-0{day}T00:00:00Z", "", ("1",), f"change {day}", "why"), tmp_path)
    path = history_path(tmp_path)
    text = path.read_text()
    path.write_text(text.replace("change 2", "change 4"))
    with pytest.raises(CovtokenError, match="line 2 does not follow"):
        read_history(tmp_path)


def test_a_history_without_links_is_refused(tmp_path):
    (tmp_path / "configs").mkdir()
    append_change(ONE, tmp_path)
    path = history_path(tmp_path)
    lines = json.loads(path.read_text())
    del lines[0]["chain"]
    path.write_text(json.dumps(lines))
    with pytest.raises(CovtokenError, match="line 1 does not follow"):
        read_history(tmp_path)


def test_an_unknown_gate_or_no_date_is_refused(tmp_path):
    for wrong, message in (({"gates": "alarm"}, "unknown gate 'a'"), ({"when": "zzz"}, "a change holds when")):
        with pytest.raises(CovtokenError, match=message):
            change_from(asdict(ONE) | wrong, tmp_path)


@pytest.mark.parametrize(
    "content",
    [{}, [], {"when": 1}, {**asdict(ONE), "more": 1}, {**asdict(ONE), "verdicts": [{"cohort": "busi"}]}],
)
def test_what_is_no_change_is_refused(content, tmp_path):
    with pytest.raises(CovtokenError, match="a change holds when, commit"):
        change_from(content, tmp_path)


def test_an_unknown_decision_is_refused():
    with pytest.raises(CovtokenError, match="verdict 'MAYBE'"):
        Verdict("busi", "1", "GO", "MAYBE")


def test_the_heaviest_changes_are_told():
    moved = {(v.cohort, v.gate, v.before, v.after) for _, v in MOVED}
    assert moved >= {
        ("busi", "1", "NO-GO", "GO"),
        ("kits19", "1", "GO", "NO-GO"),
        ("lidc-crops", "3", "NO-GO", "GO"),
        ("lidc-crops", "3", "GO", "NO-GO"),
    }
    assert next(change.forms_tried for change in HISTORY if change.forms_tried).startswith("about 150")


def test_verdicts_follow_from_each_other_and_end_in_the_reports():
    now = {(report.cohort, str(report.gate)): report.decision for report in committed_reports()}
    for key in {(v.cohort, v.gate) for _, v in MOVED}:
        told = [v for _, v in MOVED if (v.cohort, v.gate) == key]
        assert all(a.after == b.before for a, b in pairwise(told))
        assert told[-1].after == now[key]


@pytest.mark.parametrize(("change", "verdict"), MOVED, ids=lambda x: x.cohort if isinstance(x, Verdict) else x.when)
def test_a_moved_verdict_had_looks_before_and_after_it(change, verdict):
    looks = [look for look in read_looks() if (look["cohort"], str(look["gate"])) == (verdict.cohort, verdict.gate)]
    (report,) = (r for r in committed_reports() if (r.cohort, str(r.gate)) == (verdict.cohort, verdict.gate))
    if report.split == "calibration":  # the alarm's trial on a large cohort looks at no test split
        return
    before, after = ([look for look in looks if (look["when"] > change.when) == later] for later in (False, True))
    assert before and after
    assert before[-1].get("decision", verdict.before) == verdict.before
    assert after[0].get("decision", verdict.after) == verdict.after


def test_a_decision_that_moved_between_two_looks_is_in_the_history():
    by_gate = {}
    for look in read_looks():
        by_gate.setdefault((look["cohort"], str(look["gate"])), []).append(look)
    for (cohort, gate), looks in by_gate.items():
        for a, b in pairwise(look for look in looks if "decision" in look):
            if a["decision"] != b["decision"]:
                assert any(
                    (v.cohort, v.gate, v.after) == (cohort, gate, b["decision"]) and a["when"] <= c.when <= b["when"]
                    for c, v in MOVED
                ), f"{cohort} gate {gate}: {a['decision']} → {b['decision']} stands in no line of the history"


def test_gate_1_has_a_verdict_for_each_claim():
    verdicts = {r.cohort: gate1.verdicts(r) for r in committed_reports() if r.gate == 1}
    assert verdicts["busi"] == {"recommended": "GO", "with_head": "GO", "density": "NO-GO"}
    assert verdicts["kits19"] == {"recommended": "NO-GO", "with_head": "NO-GO", "density": "GO"}
