"""Run a gate and write its report: to the ignored folder, or committed with a line in the test log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from covtoken.data.case import Cohort
from covtoken.data.cohorts import COMMITTED
from covtoken.errors import CovtokenError, unknown
from covtoken.evaluation.records import RecordedScores, records_path, save_records, save_scores
from covtoken.gates import gate0, gate1, gate2, gate3, gate4, gate5, gate6, negative_result
from covtoken.paths import project_root
from covtoken.protocol import locks, thresholds
from covtoken.protocol.looks import log_look, refuse_uncommitted
from covtoken.protocol.planning import plan_for
from covtoken.protocol.report import GateRun, read_report, report_path, write_report
from covtoken.protocol.setting import Setting, open_setting

MODULES = {str(number): module for number, module in enumerate((gate0, gate1, gate2, gate3, gate4, gate5, gate6))}
MODULES["negative_result"] = negative_result
GATES: dict[str, Callable[..., GateRun]] = {gate: module.run for gate, module in MODULES.items()}
CHOOSING = ("1", "5")  # these choose a plan on the selection split; the other gates use gate 1's locked plan there too


def run_and_write(
    gate: int | str,
    cohort: str | Cohort = "phantom",
    split: str = "selection",
    *,
    record: bool = False,
    precision: str = "fp32",
    **inputs: Any,
) -> tuple[GateRun, Path]:
    """Run a gate and write its report; return the run and the report's path.

    Args:
        gate: 0 to 6, or ``negative_result``.
        cohort: a committed name, a folder with ``index.csv``, or a Cohort.
        split: ``selection``, ``test`` or, of a small cohort, ``crossfit`` or ``carried``; gate 0 looks at every split.
        record: write the committed files; needs a test split, or a small cohort's, under a lock, and counts as a look.
        precision: ``fp32`` or ``bf16``.
        inputs: ``backbone``, ``data``, ``weights``, ``name``, ``cache`` and ``progress`` of ``open_setting``.

    Raises:
        CovtokenError: an unknown gate, inputs that cannot be opened, a recording that the honesty rules do not allow,
            or a report of other pictures under the same name.
    """
    gate = str(gate)
    if gate not in GATES:
        raise unknown("gate", gate, list(GATES))
    if gate == "0":  # it chooses nothing and scores no label: no lock is needed, no look is logged
        if record:
            refuse_uncommitted()
        setting = open_setting(cohort, None, **inputs)
        _refuse_another_folder(setting, gate, record)
        run = GATES[gate](setting)
        return run, write_report(run.report, report_path(run.report.cohort, 0, recorded=record))
    if record and split == "selection":
        raise CovtokenError("--record needs --split test: selection runs are never committed")
    if record and precision != "fp32":
        raise CovtokenError(f"recorded numbers are fp32: run without --precision {precision}")
    if record:
        refuse_uncommitted()
    lock = locks.lock_digest(locks.THRESHOLDS)[:16]  # an edited lock is refused before minutes of work
    setting = open_setting(cohort, split, precision=precision, **inputs)
    _refuse_another_folder(setting, gate, record)
    if gate in thresholds.LOCKED:
        thresholds.need_threshold(setting, gate, record)
    if setting.split != "selection":
        setting.read_pictures()  # what cannot be read is found before a label is looked at
    plan = plan_for(setting, need_lock=record, may_choose=gate in CHOOSING)
    run = (partial(gate5.run, need_all=record) if gate == "5" else GATES[gate])(setting, plan)
    run = replace(run, report=log_look(run.report, lock, recorded=record))
    if record:  # before the report: records over their size limit leave the old pair as it was
        save(run)
    return run, write_report(run.report, report_path(run.report.cohort, gate, recorded=record))


def save(run: GateRun) -> Path:
    """Write a run's committed records; return their path."""
    if isinstance(run.records, RecordedScores):
        return save_scores(run.records, run.records.path(project_root()))
    return save_records(run.records, records_path(project_root(), run.report.cohort, run.report.gate))


def _refuse_another_folder(setting: Setting, gate: str, record: bool) -> None:
    """Refuse to overwrite a report of other pictures under the same folder name."""
    if setting.cohort.name in COMMITTED:
        return
    path = report_path(setting.cohort.name, gate, recorded=record)
    if path.exists() and read_report(path).provenance["data_fingerprint"] != setting.fingerprint:
        raise CovtokenError(
            f"{path} is the report of other pictures than these {len(setting.cohort.cases)}: give this folder another "
            "name (--name), or remove that file if the folder has changed"
        )
