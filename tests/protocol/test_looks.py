"""The log of looks is chained and says what was decided; nothing is recorded with code that no commit holds."""

import json
import subprocess
from dataclasses import replace

import pytest

from covtoken.errors import CovtokenError
from covtoken.protocol import looks
from covtoken.protocol.chain import digest_of
from covtoken.protocol.report import GateReport, committed_reports

REPORT = GateReport(3, "", "", "busi", "test", "embedded", {}, {}, {}, {}, "NO-GO", {}, {})
FIRST_LOOKS = 109  # made before the log was chained
FIRST_DIGEST = "441ae0e4e8ba65e24944ce7b42f9c685ae6a47003b96a32522e0d1116fdcfaf1"

WITHOUT_LOOK = {
    "phantom/0": "daa4d9331617c43d",
    "busi/0": "22518a137cf9d4f4",
    "kits19/0": "a40e6850599395f3",
    "lidc-crops/0": "a51ca875619a3c95",
    "lits/0": "2a371ec691e0a291",
    "busi/alarm": "eb3bce907c8b09ad",
    "lidc-crops/alarm": "38c620c22e896ea5",
    "phantom/backbones": "d125bc3f70b9bac5",
    "busi/backbones": "59c218e189797844",
    "lidc-crops/backbones": "c8b636ccf580c6dc",
}


@pytest.fixture
def root(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e", *arguments], cwd=tmp_path, check=True)

    for folder in ("covtoken", "configs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").write_text("1")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "one")
    return tmp_path


def test_looks_are_appended_to_the_right_log_with_their_decision(root):
    first = looks.log_look(REPORT, "lock", recorded=True, root=root)
    second = looks.log_look(replace(REPORT, decision="GO"), "lock", recorded=True, root=root)
    looks.log_look(REPORT, "lock", recorded=False, root=root)
    lines = looks.read_looks(root)
    assert [line["decision"] for line in lines] == ["NO-GO", "GO"] and {line["gate"] for line in lines} == {"3"}
    assert [line["chain"] for line in lines] == [first.provenance["look"], second.provenance["look"]]
    assert len(lines[0]["commit"]) == 12 and len(looks.read_looks(root, recorded=False)) == 1


@pytest.mark.parametrize("split", ["selection", "calibration"])
def test_a_selection_run_is_no_look(root, split):
    report = replace(REPORT, split=split)
    assert looks.log_look(report, "lock", recorded=False, root=root) is report
    assert not looks.read_looks(root, recorded=False)


def test_a_line_that_is_removed_changed_or_moved_is_noticed(root):
    for decision in ("GO", "NO-GO", "NO-VERDICT"):
        looks.log_look(replace(REPORT, decision=decision), "lock", recorded=True, root=root)
    path = looks.log_path(recorded=True, root=root)
    lines = path.read_text().splitlines()
    for changed in (lines[1:], [lines[0], lines[2]], lines[::-1], [lines[0].replace("GO", "NO-GO", 1), *lines[1:]]):
        path.write_text("\n".join(changed) + "\n")
        with pytest.raises(CovtokenError, match="does not follow from"):
            looks.read_looks(root)
    path.write_text("no json")
    with pytest.raises(CovtokenError, match="not readable as JSON lines"):
        looks.read_looks(root)


def test_lines_from_before_the_chain_are_held_by_the_first_that_has_it(root):
    path = looks.log_path(recorded=True, root=root)
    path.parent.mkdir()
    path.write_text('{"cohort": "busi"}\n{"cohort": "lits"}\n')
    looks.log_look(REPORT, "lock", recorded=True, root=root)
    assert len(looks.read_looks(root)) == 3
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(CovtokenError, match="line 2 does not follow"):
        looks.read_looks(root)


def test_a_log_that_cannot_be_written_is_one_clear_error(root):
    (root / "gate_reports").write_text("in the way")
    with pytest.raises(CovtokenError, match=r"cannot append to .*test_log\.jsonl"):
        looks.log_look(REPORT, "lock", recorded=True, root=root)


@pytest.mark.parametrize("folder", ["covtoken", "configs"])
def test_nothing_is_recorded_with_uncommitted_code_or_locks(root, folder):
    looks.refuse_uncommitted(root)
    (root / folder / "file").write_text("2")
    with pytest.raises(CovtokenError, match=f"--record needs committed code.*{folder}/file"):
        looks.refuse_uncommitted(root)
    (root / folder / "file").write_text("1")
    (root / folder / "new").write_text("2")
    with pytest.raises(CovtokenError, match=f"{folder}/new"):
        looks.refuse_uncommitted(root)


def test_without_git_nothing_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(CovtokenError, match="needs a git checkout"):
        looks.refuse_uncommitted(tmp_path)


def test_the_committed_log_is_whole():
    lines = looks.read_looks()
    first = [{key: value for key, value in line.items() if key != "chain"} for line in lines[:FIRST_LOOKS]]
    assert digest_of(first) == FIRST_DIGEST
    assert all("chain" in line and "decision" in line and "commit" in line for line in lines[FIRST_LOOKS:])
    last = {(line["cohort"], str(line["gate"])): line for line in lines}
    for report in committed_reports():
        if "look" in report.provenance:
            line = last[report.cohort, str(report.gate)]
            assert line["chain"] == report.provenance["look"] and line["decision"] == report.decision
            about = f"{report.cohort} gate {report.gate} was edited after it was recorded"
            assert line["report"] == looks.report_digest(report)[:16], about
    assert lines[-1]["chain"] in {report.provenance.get("look") for report in committed_reports()}
    assert json.dumps(lines)


def test_reports_without_a_look_are_as_they_were_recorded():
    """Gate 0 and runs on calibration or selection splits log no look: recording one again changes its digest here."""
    unlogged = [report for report in committed_reports() if "look" not in report.provenance]
    assert {str(report.gate) for report in unlogged} <= {"0", "alarm", "backbones"}
    found = {f"{report.cohort}/{report.gate}": looks.report_digest(report)[:16] for report in unlogged}
    assert found.items() <= WITHOUT_LOOK.items()
