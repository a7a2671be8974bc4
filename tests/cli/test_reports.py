"""``covtoken diff`` and ``covtoken verify``: what differs is named, and what does not come out again gives code 1."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from covtoken.cli.app import app
from covtoken.errors import CovtokenError
from covtoken.gates import headlines, runs
from covtoken.gates.economy import clock
from covtoken.paths import project_root
from covtoken.protocol.report import GateRun, read_report

REPORT = project_root() / "gate_reports" / "phantom" / "gate1.json"


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "100"})


def test_diff_names_what_differs_the_largest_first(tmp_path):
    assert json.loads(run("diff", "phantom/1", REPORT, "--json").stdout)["metrics"] == []
    assert run("diff", "phantom/1", REPORT, "--fail-on", "difference").exit_code == 0
    content = json.loads(REPORT.read_text())
    content["decision"] = "NO-GO"
    content["metrics"]["auroc.density"]["value"] -= 0.25
    content["metrics"]["auroc.recommended"]["value"] += 0.001
    content["metrics"].pop("auroc.intensity")
    content["thresholds"]["auroc.recommended"] = 0.5
    (tmp_path / "changed.json").write_text(json.dumps(content))
    found = json.loads(run("diff", REPORT, tmp_path / "changed.json", "--json").stdout)
    assert found["about"] == {"decision": ["GO", "NO-GO"]} and list(found["thresholds"]) == ["auroc.recommended"]
    names = [row["metric"] for row in found["metrics"]]
    assert names == ["auroc.intensity", "auroc.density", "auroc.recommended"]
    assert found["metrics"][1]["difference"] == pytest.approx(-0.25)
    done = run("diff", REPORT, tmp_path / "changed.json", "--tolerance", ".01", "--fail-on", "difference")
    assert done.exit_code == 1 and "about, decision: GO → NO-GO" in done.stdout and "-0.2500" in done.stdout
    assert "auroc.recommended " not in done.stdout and "2 of " in done.stderr
    assert isinstance(run("diff", REPORT, tmp_path / "nothing.json").exception, CovtokenError)


@pytest.fixture
def again(monkeypatch):
    """Let the phantom's gate 1 give its committed report, or one with a number moved."""
    report = read_report(REPORT)

    def plant(decision=None, **moved):
        for name, by in moved.items():
            report.metrics[f"auroc.{name}"]["value"] += by
        run = GateRun(report if decision is None else type(report)(**vars(report) | {"decision": decision}))
        monkeypatch.setattr(runs, "run_and_write", lambda *_, **__: (run, REPORT))

    return plant


def test_verify_holds_a_run_against_the_lock(again):
    again()
    done = run("verify", "--json")
    rows = json.loads(done.stdout)["gates"][0]["rows"]
    assert done.exit_code == 0 and len(rows) > 10 and all(row["fits"] for row in rows)
    again(recommended=0.02)
    done = run("verify", "phantom")
    assert done.exit_code == 1 and "NOT REPRODUCED" in done.stdout
    assert f"{len(rows) - 1} of {len(rows)} reproduced" in done.stdout


def test_verify_fails_on_no_go_where_it_is_asked_to(again):
    again(decision="NO-GO")
    assert run("verify").exit_code == 0 and run("verify", "--fail-on", "no-go").exit_code == 1
    assert "expected no-go" in str(run("verify", "--fail-on", "nogo").exception)


def test_verify_from_records_needs_no_run(monkeypatch):
    monkeypatch.setattr(runs, "run_and_write", lambda *_, **__: pytest.fail("a gate was run"))
    metrics = {"phantom": read_report(REPORT).metrics}
    monkeypatch.setattr(headlines, "recorded_metrics", lambda gate: metrics)
    assert run("verify", "phantom", "--records").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "cohorts with locked headlines: busi"),
        (("phantom", "--gate", "0"), "locked are its gates 1"),
        (("busbra-external",), "kept for one confirmation"),
    ],
)
def test_verify_says_what_is_locked(arguments, said):
    assert said in str(run("verify", *arguments).exception)


def test_gate_prints_json_and_fails_on_no_go(again):
    again(decision="NO-GO")
    done = run("gate", "1", "--json", "--fail-on", "no-go")
    assert done.exit_code == 1 and json.loads(done.stdout)["decision"] == "NO-GO"
    assert run("gate", "1", "--json").exit_code == 0


def test_a_study_prints_its_table_or_its_content(monkeypatch):
    content = {"passes": [], "machine": {}}
    monkeypatch.setattr(clock, "time_settings", lambda *_, **__: content)
    monkeypatch.setattr(type(clock.STUDY), "write", lambda *_, **__: "a file")
    done = run("clock", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout) == content and "written: a file" in done.stderr
    assert "leave --json out" in str(run("in-organ", "--choose", "--json").exception)
