"""Compare two reports, and run a gate again to hold it against the locked headline numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from covtoken.cli.options import (
    DataOption,
    FailOnOption,
    JsonOption,
    QuietOption,
    console,
    fail_on,
    print_json,
    say,
    talk,
)
from covtoken.errors import CovtokenError

ReportArgument = Annotated[str, typer.Argument(help="A report: a .json file, or COHORT/GATE of the committed ones.")]
COMPARED = ("gate", "cohort", "split", "backbone", "decision")
MOST = 10  # lines of a kind
BOUND = ("data_fingerprint", "weights_sha256", "package_version", "source_digest")


def diff(
    first: ReportArgument,
    second: ReportArgument,
    tolerance: Annotated[float, typer.Option(min=0, help="Metrics that differ by no more are not shown.")] = 0.0,
    fail: Annotated[
        str | None, typer.Option("--fail-on", metavar="difference", help="difference: exit 1 if anything differs.")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare two reports of gates: decisions, checks, thresholds, metrics and provenance that differ."""
    from rich.markup import escape
    from rich.table import Table

    if fail not in (None, "difference"):
        raise CovtokenError(f"--fail-on {fail}: covtoken diff knows difference alone")
    reports = [_report(text) for text in (first, second)]
    found = differences(*reports, tolerance)
    if as_json:
        print_json({"first": first, "second": second, **found})
    else:
        for kind in ("about", "thresholds", "checks", "provenance"):
            for name, (old, new) in list(found[kind].items())[:MOST]:
                say(f"{kind}, {name}: {_words(old)} → {_words(new)}")
            if len(found[kind]) > MOST:
                say(f"{kind}: {len(found[kind]) - MOST} more, which --json gives")
        if found["metrics"]:
            table = Table(box=None, pad_edge=False)
            table.add_column("metric", overflow="fold")
            for column in ("first", "second", "difference", "intervals"):
                table.add_column(column, justify="right", no_wrap=True)
            for row in found["metrics"]:
                numbers = ["" if row[key] is None else f"{row[key]:+.4f}" for key in ("first", "second", "difference")]
                apart = {True: "apart", False: "overlap", None: ""}[row["apart"]]
                table.add_row(escape(row["metric"]), *numbers, apart)
            console.print(table)
        n = len(found["metrics"])
        talk(f"{n} of {found['compared']} metrics differ" + (f" by more than {tolerance:g}" if tolerance else ""))
    differs = any(found[kind] for kind in ("about", "thresholds", "checks", "metrics"))
    if fail and differs:
        raise typer.Exit(1)


def differences(first, second, tolerance: float = 0.0) -> dict[str, Any]:
    """Compare two GateReports: by kind, name → [first, second] of what differs; metrics as rows, the largest first."""
    old, new = ({kind: getattr(report, kind) for kind in ("thresholds", "checks")} for report in (first, second))
    about = [{name: getattr(report, name) for name in COMPARED} for report in (first, second)]
    made = [{name: report.provenance.get(name) for name in BOUND} for report in (first, second)]
    rows = []
    names = sorted({*first.metrics, *second.metrics})
    for name in names:
        entries = [report.metrics.get(name) or {"value": None, "ci95": None} for report in (first, second)]
        a, b = (entry["value"] for entry in entries)
        if a == b or (None not in (a, b) and abs(b - a) <= tolerance):
            continue
        bounds = [entry["ci95"] for entry in entries]
        apart = None if None in bounds else bounds[0][1] < bounds[1][0] or bounds[1][1] < bounds[0][0]
        gap = None if None in (a, b) else b - a
        rows.append({"metric": name, "first": a, "second": b, "difference": gap, "apart": apart})
    rows.sort(key=lambda row: (row["difference"] is not None, -abs(row["difference"] or 0)))
    return {
        "about": _differing(*about),
        "thresholds": _differing(old["thresholds"], new["thresholds"]),
        "checks": _differing(old["checks"], new["checks"]),
        "provenance": _differing(*made),
        "metrics": rows,
        "compared": len(names),
    }


def verify(
    cohort: Annotated[str, typer.Argument(help="phantom (drawn here), busi, … with locked headlines.")] = "phantom",
    gate: Annotated[list[str] | None, typer.Option(help="1 to 6 or negative_result; again for each; 1.")] = None,
    records: Annotated[
        bool, typer.Option("--records", help="From the committed records, in seconds: no data, no weights.")
    ] = False,
    data: DataOption = None,
    fail: FailOnOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a gate again, from pixels, and hold it against the locked headline numbers and their tolerances.

    Exit code 1: a number does not come out again; with --fail-on no-go also where the decision is NO-GO.
    """
    from rich.markup import escape
    from rich.table import Table

    fail_on(fail, None)
    outcomes = [_verified(cohort, each, records, data) for each in dict.fromkeys(gate or ["1"])]
    if as_json:
        print_json({"cohort": cohort, "from": "records" if records else "pixels", "gates": outcomes})
    for outcome in outcomes:
        if as_json:
            break
        table = Table(box=None, pad_edge=False)
        table.add_column("metric", overflow="fold")
        for column in ("locked", "±", "found", ""):
            table.add_column(column, justify="right", no_wrap=True)
        for row in outcome["rows"]:
            found = "none" if row["found"] is None else f"{row['found']:+.4f}"
            fits = "ok" if row["fits"] else "NOT REPRODUCED"
            table.add_row(escape(row["metric"]), f"{row['locked']:+.4f}", f"{row['tolerance']:.4f}", found, fits)
        console.print(table)
        n = sum(row["fits"] for row in outcome["rows"])
        say(f"gate {outcome['gate']}, {cohort}: {n} of {len(outcome['rows'])} reproduced; {outcome['decision']}")
    if not all(row["fits"] for outcome in outcomes for row in outcome["rows"]):
        raise typer.Exit(1)
    for outcome in outcomes:
        fail_on(fail, outcome["decision"])


def _verified(cohort: str, gate: str, records: bool, data: str | None) -> dict[str, Any]:
    """Give a gate's metrics beside the locked ones: {gate, decision, rows}."""
    from covtoken.data.external import refuse_external
    from covtoken.gates import headlines, runs
    from covtoken.protocol import locks
    from covtoken.protocol.report import read_report, report_path

    refuse_external(cohort)
    locked = locks.entry(locks.HEADLINE, cohort, gate)
    if locked is None:
        known = locks.read_lock(locks.HEADLINE)["entries"]
        gates = ", ".join(name.removeprefix("gate") for name in known.get(cohort, {}))
        raise CovtokenError(
            f"{cohort}, gate {gate}: no headline is locked; "
            + (f"locked are its gates {gates}" if gates else f"cohorts with locked headlines: {', '.join(known)}")
        )
    if records:
        report = read_report(report_path(cohort, gate, recorded=True))
        metrics = headlines.recorded_metrics(gate)[cohort]
    else:
        run, path = runs.run_and_write(gate, cohort, locked["split"], data=data)
        report, metrics = run.report, run.report.metrics
        talk(f"report: {path}")
    for key in ("data_fingerprint", "weights_sha256"):
        if report.provenance[key] != locked[key]:
            raise CovtokenError(
                f"{cohort}, gate {gate}: the headline is locked for the {key} {locked[key][:12]}, this run has "
                f"{report.provenance[key][:12]}: use the pictures and weights of the lock"
            )
    rows = []
    for name, wanted in sorted(locked["headline"].items()):
        value = (metrics.get(name) or {}).get("value")
        fits = value is not None and abs(value - wanted["value"]) <= wanted["tolerance"]
        row = {"metric": name, "locked": wanted["value"], "tolerance": wanted["tolerance"]}
        rows.append(row | {"found": value, "fits": fits})
    return {"gate": gate, "decision": report.decision, "rows": rows}


def _report(text: str):
    from covtoken.protocol.report import read_report, report_path

    path = Path(text).expanduser()
    if path.suffix != ".json" and text.count("/") == 1 and not path.exists():
        cohort, _, gate = text.partition("/")
        path = report_path(cohort, gate.removeprefix("gate"), recorded=True)
    return read_report(path)


def _differing(old: dict[str, Any], new: dict[str, Any]) -> dict[str, list[Any]]:
    return {k: [old.get(k), new.get(k)] for k in sorted({*old, *new}) if old.get(k) != new.get(k)}


def _words(value: Any) -> str:
    text = "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:40]}…"
