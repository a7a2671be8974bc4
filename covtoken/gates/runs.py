"""Running a gate and putting its report where it belongs: ignored, or committed with a line in the test log."""

from __future__ import annotations

from pathlib import Path

from covtoken.backbone.weights import load_backbone
from covtoken.data.cohorts import COMMITTED, data_fingerprint, open_cohort
from covtoken.errors import CovtokenError, unknown
from covtoken.evaluation.recorded import save_scores
from covtoken.evaluation.records import records_path, save_records
from covtoken.gates import gate0, gate1, gate2, gate3, gate4, gate5, locks, negative_result, thresholds
from covtoken.gates.lesion_pictures import GateRun
from covtoken.gates.report import GateReport, read_report, report_path, source_digest, write_report
from covtoken.paths import project_root


def run_and_write(
    number: int, *, cohort: str, split: str, record: bool = False, **options
) -> tuple[gate1.Gate1Run, Path]:
    """Run gate ``number`` and write its report; returns the run and the report's path.

    Only ``record`` writes committed files. It needs a test (or crossfit) split under a lock, and counts as a look.

    Raises:
        CovtokenError: an unknown gate, or a recording that the honesty rules do not allow.
    """
    if number != 1:
        raise CovtokenError(f"gate {number} runs by run_and_write_budget, gate 0 by run_and_write_gate0")
    _may_record(record, split, options)
    lock = locks.lock_digest(locks.THRESHOLDS)[:16]  # an edited lock is refused before minutes of work
    options = _opened(1, record, cohort=cohort, **options)
    run = gate1.run_gate1(split=split, need_lock=record, **options)
    report = run.report
    if report.split != "selection":  # first: a look has happened even where a file cannot be written
        look = {"cohort": report.cohort, "gate": number, "split": report.split, "source_digest": source_digest()[:16]}
        locks.log_look(look | {"lock": lock}, recorded=record)
    if record:  # before the report: scores over their size limit leave the old pair as it was
        save_scores(run.recorded, run.recorded.path(project_root()))
    return run, write_report(report, report_path(report.cohort, number, recorded=record))


RUNS = {
    "2": gate2.run_gate2,
    "3": gate3.run_gate3,
    "4": gate4.run_gate4,
    "5": gate5.run_gate5,
    "negative_result": negative_result.run_negative_result,
}


def run_and_write_budget(
    gate: int | str, *, cohort: str, split: str, record: bool = False, **options
) -> tuple[GateRun, Path]:
    """Run gate 2, 3, 4, 5 or the negative result and write its report; returns the run and the report's path.

    Only ``record`` writes committed files, report and records. It needs a test (or crossfit) split under gate 1's lock,
    and for gates 2 and 3 their own; it counts as a look.
    """
    if str(gate) not in RUNS:
        raise unknown("gate", str(gate), ["0", "1", *RUNS])
    _may_record(record, split, options)
    lock = locks.lock_digest(locks.THRESHOLDS)[:16]
    options = _opened(gate, record, cohort=cohort, **options)
    if str(gate) in thresholds.LOCKED:
        where = {key: options[key] for key in ("backbone", "data") if key in options}
        thresholds.need_threshold(options["cohort"], gate, record, **where)
    run = RUNS[str(gate)](split=split, need_lock=record, **options)
    report = run.report
    if report.split != "selection":
        look = {"cohort": report.cohort, "gate": gate, "split": report.split, "source_digest": source_digest()[:16]}
        locks.log_look(look | {"lock": lock}, recorded=record)
    if record:
        save_records(run.records, records_path(project_root(), report.cohort, gate))
    return run, write_report(report, report_path(report.cohort, gate, recorded=record))


def _opened(gate: int | str, record: bool, *, name: str = "", weights: str | None = None, **options) -> dict:
    """Open what a gate cannot open by name: a folder of one's own, and weights that lie in a file.

    Args:
        name: under which a folder's report is written; its base name if empty. weights: a weights file, or None.
        options: of the gate.

    Raises:
        CovtokenError: a report of other pictures lies under that name already.
    """
    cohort = options["cohort"]
    if isinstance(cohort, str) and cohort not in COMMITTED:
        known = {"name": name, "folder": options.pop("data", None)}
        cohort = options["cohort"] = open_cohort(cohort, **{key: value for key, value in known.items() if value})
        path = report_path(cohort.name, gate, recorded=record)
        if path.exists() and read_report(path).provenance["data_fingerprint"] != data_fingerprint(cohort):
            raise CovtokenError(
                f"{path} is the report of other pictures than these {len(cohort.cases)}: give this folder another name "
                "(--name), or remove that file if the folder has changed"
            )
    elif name:
        raise CovtokenError(f"cohort {cohort!r} has its name already: --name {name} is for a folder of one's own")
    if weights:
        options["backbone"] = load_backbone(options.get("backbone", "embedded"), weights_file=weights)
    return options


def _may_record(record: bool, split: str, options: dict) -> None:
    if record and split == "selection":
        raise CovtokenError("--record needs --split test: selection runs are never committed")
    if record and options.get("precision", "fp32") != "fp32":
        raise CovtokenError(f"recorded numbers are fp32: run without --precision {options['precision']}")


def run_and_write_gate0(*, record: bool = False, **options) -> tuple[GateReport, Path]:
    """Run gate 0 and write its report. It chooses nothing and scores no label: no lock is needed, no look is logged."""
    report = gate0.run_gate0(**_opened(0, record, **options))
    return report, write_report(report, report_path(report.cohort, 0, recorded=record))
