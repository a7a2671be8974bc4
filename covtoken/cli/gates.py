"""Run a gate, lock what was decided, write the tables, sign a report off."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from covtoken.cli.options import (
    BackboneOption,
    CohortOption,
    DataOption,
    FailOnOption,
    JsonOption,
    ReasonOption,
    console,
    fail_on,
    print_json,
    say,
    talk,
)
from covtoken.errors import CovtokenError
from covtoken.paths import project_root


def gate(
    number: Annotated[
        str,
        typer.Argument(
            help="Which gate; 0: the substrate, 1: where lesions live, 2: coverage as a proxy, 3: matched budgets, "
            "4: the dual, 5: transfer; or negative_result."
        ),
    ],
    cohort: CohortOption = "phantom",
    split: Annotated[
        str,
        typer.Option(
            help="selection (choose) or test (needs the lock); a small cohort has crossfit or carried, gate 0 none."
        ),
    ] = "selection",
    backbone: BackboneOption = "embedded",
    data: DataOption = None,
    record: Annotated[
        bool, typer.Option("--record", help="Write the committed report and scores; logs the look.")
    ] = False,
    precision: Annotated[str, typer.Option(help="fp32 (reported numbers) or bf16.")] = "fp32",
    weights: Annotated[
        str | None, typer.Option(help="Weights file of the backbone, in place of the published ones.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name for the report of a folder, if not the folder's own.")] = "",
    full: Annotated[bool, typer.Option("--full", help="Print every metric and check, not the headline.")] = False,
    table: Annotated[str | None, typer.Option("--csv", help="Also write every metric to this CSV file.")] = None,
    fail: FailOnOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a gate on a cohort, from pixels."""
    from dataclasses import asdict

    from covtoken.cli import terminal
    from covtoken.gates import runs

    fail_on(fail, None)
    inputs = {"backbone": backbone, "data": data, "weights": weights, "name": name}
    run, path = runs.run_and_write(number, cohort, split, record=record, precision=precision, **inputs)
    report = run.report
    if as_json:
        if table is not None:
            terminal.write_csv(report, Path(table).expanduser())
        print_json(asdict(report))
        talk(f"report: {path}")
        fail_on(fail, report.decision)
        return
    if full:
        console.print(terminal.full_table(report))
        for check, outcome in sorted(report.checks.items()):
            say(f"  {check}: {outcome}")
    for line in (*terminal.every_way(report), *terminal.brief(report)):
        say(line)
    if table is not None:
        say(f"csv: {terminal.write_csv(report, Path(table).expanduser())}")
    say(f"report: {path}")
    fail_on(fail, report.decision)


def lock(
    what: Annotated[
        str, typer.Argument(help="thresholds (after a selection run), headline (after a recorded run) or confirmation.")
    ],
    cohort: Annotated[
        str | None,
        typer.Option(
            help="busi, … or a folder that holds index.csv; phantom if not given. Confirmation: busbra-external or "
            "lidc-external."
        ),
    ] = None,
    gate: Annotated[
        str | None,
        typer.Option(
            help="1 to 6, negative_result, or budgets: 2, 3, 4 and negative_result; 1 if not given. Thresholds: 1, 2, "
            "3, 6. Confirmation: none."
        ),
    ] = None,
    reason: ReasonOption = "",
) -> None:
    """Lock a gate's threshold (gate 1: and recipes), its headline numbers, or what an external cohort decides."""
    from covtoken.data.external import EXTERNAL
    from covtoken.gates import headlines
    from covtoken.protocol import thresholds

    if what == "confirmation" and cohort is None:
        raise CovtokenError(f"lock confirmation needs --cohort: {' or '.join(EXTERNAL)}")
    if what == "confirmation" and gate is not None:
        raise CovtokenError(f"lock confirmation has no gates: leave --gate {gate} out")
    cohort, gate = "phantom" if cohort is None else cohort, "1" if gate is None else gate
    if what == "thresholds":
        if gate not in ("1", *thresholds.LOCKED):
            raise CovtokenError(f"gate {gate}: gates 1, 2, 3 and 6 have thresholds to lock, others were fixed before")
        changes = thresholds.lock_threshold(cohort, gate, reason)
    elif what == "headline":
        changes = headlines.lock_headlines(cohort, gate, reason)
    elif what == "confirmation":
        changes = thresholds.lock_confirmation(cohort, reason)
    else:
        raise CovtokenError(f"lock {what!r}: expected thresholds, headline or confirmation")
    for line in changes or ["nothing changed"]:
        say(line)


def confirm(
    cohort: Annotated[str, typer.Option(help="busbra-external or lidc-external.")],
    record: Annotated[
        bool, typer.Option("--record", help="Open it, write the committed report and scores, log the look.")
    ] = False,
) -> None:
    """Run the locked confirmation on an external cohort, once; no other command opens one."""
    from covtoken.gates import confirmation
    from covtoken.paper.confirmation_rows import brief

    run, path = confirmation.confirm(cohort, record=record)
    for line in brief(run.report):
        say(line)
    say(f"report: {path}")


def report() -> None:
    """Write the tables that show committed reports: the README's, SUMMARY.md and NEGATIVE_RESULT.md."""
    from covtoken.paper import readme_table

    for path in readme_table.write_all():
        say(f"wrote {path}")


def number(
    where: Annotated[str, typer.Argument(help='As pages name it: "busi/gate1 auroc.recommended".')],
) -> None:
    """Print a number of the paper with its interval, n, split, date, weights, and the command that recorded it."""
    from covtoken.paper.doors import open_door

    for name, text in open_door(project_root(), where).rows().items():
        say(f"{name}: {text}")


def history(
    add: Annotated[str | None, typer.Option("--add", help="JSON file with one change to append.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print what was changed after a look at a test split, with the verdicts before and after."""
    import json
    from dataclasses import asdict

    from covtoken.paper.history_table import HEAD, history_rows
    from covtoken.protocol.history import append_change, change_from, read_history

    if add is not None:
        path = Path(add).expanduser()
        try:
            append_change(change_from(json.loads(path.read_text()), path))
        except (OSError, ValueError) as error:
            raise CovtokenError(
                f"{path}: not readable as a JSON file ({error}): give an object with the fields of a change"
            ) from error
    if as_json:
        print_json({"changes": [asdict(change) for change in read_history()]})
        return
    for when, *cells in history_rows(read_history()):
        say(when)
        for head, text in zip(HEAD[1:], cells, strict=True):
            say(f"  {head}: {text}")


def signoff(
    number: Annotated[str, typer.Argument(help="Which gate; 0 to 5, or negative_result.")],
    cohort: CohortOption,
    name: Annotated[str, typer.Option(help="Who signs.")],
    remark: Annotated[str, typer.Option(help="What the person wants kept with the report.")] = "",
) -> None:
    """Sign a committed report off: a person has read it."""
    from covtoken.data.cohorts import cohort_name
    from covtoken.protocol.report import read_report, report_path, write_report

    path = report_path(cohort_name(cohort), number, recorded=True)
    write_report(read_report(path).signed(name, datetime.now(UTC).strftime("%Y-%m-%d"), remark), path)
    say(f"{path}: signed by {name}")
