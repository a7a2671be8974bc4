"""The ``covtoken`` command: run a gate, lock what was decided, write the tables, sign a report off."""

from __future__ import annotations

import codecs
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from covtoken.errors import CovtokenError

app = typer.Typer(
    help="Label-free lesion subspaces in frozen vision transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
CohortOption = Annotated[str, typer.Option(help="phantom, busi, … or a folder that holds index.csv.")]
ReasonOption = Annotated[str, typer.Option(help="Why a lock changes; kept in its changelog.")]


@app.command()
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
        str, typer.Option(help="selection (choose), test (needs the lock) or crossfit; gate 0 has none.")
    ] = "selection",
    backbone: Annotated[str, typer.Option(help="embedded, dinov2-base, … or any timm ViT.")] = "embedded",
    data: Annotated[
        str | None, typer.Option(help="Folder of a committed cohort that does not lie under COVTOKEN_DATA.")
    ] = None,
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
) -> None:
    """Run a gate on a cohort, from pixels."""
    from covtoken import terminal
    from covtoken.gates import runs

    inputs = {"backbone": backbone, "data": data, "weights": weights, "name": name}
    run, path = runs.run_and_write(number, cohort, split, record=record, precision=precision, **inputs)
    report = run.report
    if full:
        console.print(terminal.full_table(report))
        for check, outcome in sorted(report.checks.items()):
            _say(f"  {check}: {outcome}")
    for line in terminal.brief(report):
        _say(line)
    if table is not None:
        _say(f"csv: {terminal.write_csv(report, Path(table).expanduser())}")
    _say(f"report: {path}")


@app.command()
def lock(
    what: Annotated[str, typer.Argument(help="thresholds (after a selection run) or headline (after a recorded run).")],
    cohort: CohortOption = "phantom",
    gate: Annotated[
        str, typer.Option(help="1 to 5, negative_result, or budgets: 2, 3, 4 and negative_result. Thresholds: 1, 2, 3.")
    ] = "1",
    reason: ReasonOption = "",
) -> None:
    """Lock a gate's threshold (gate 1: and recipes), or its headline numbers with their measured tolerance."""
    from covtoken.gates import headlines
    from covtoken.protocol import thresholds

    if what == "thresholds":
        if gate not in ("1", *thresholds.LOCKED):
            raise CovtokenError(f"gate {gate}: gates 1, 2 and 3 have thresholds to lock, the others were fixed before")
        changes = thresholds.lock_threshold(cohort, gate, reason)
    elif what == "headline":
        changes = headlines.lock_headlines(cohort, gate, reason)
    else:
        raise CovtokenError(f"lock {what!r}: expected thresholds or headline")
    for line in changes or ["nothing changed"]:
        _say(line)


@app.command()
def ablate(
    cohort: CohortOption = "busi",
    backbone: Annotated[str, typer.Option(help="embedded, dinov2-base, … or any timm ViT.")] = "embedded",
    data: Annotated[
        str | None, typer.Option(help="Folder of a committed cohort that does not lie under COVTOKEN_DATA.")
    ] = None,
    record: Annotated[bool, typer.Option("--record", help="Write the committed table (selection alone).")] = False,
    choose: Annotated[
        bool, typer.Option("--choose", help="Run nothing: print the recipe that the committed tables give.")
    ] = False,
    in_organ: Annotated[
        bool, typer.Option("--in-organ", help="Of O, the score for inside an organ, not of D.")
    ] = False,
    banks: Annotated[
        bool, typer.Option("--banks", help="Each variant with banks of a twentieth to all of the units.")
    ] = False,
) -> None:
    """Vary D's settings on the selection split, or choose the recommended recipe from what is committed."""
    from covtoken.paper.tables import studies
    from covtoken.studies import ablation
    from covtoken.studies import banks as bank_choice
    from covtoken.studies import in_organ as in_organ_choice

    if banks and (in_organ or choose):
        raise CovtokenError("--banks runs D's table of banks: give it without --in-organ and --choose")
    if choose:
        if not in_organ:
            console.print(studies.ranking_table(ablation.recommend()[1]))
        rule, table = (
            (in_organ_choice.recommend_in_organ, in_organ_choice.in_organ_table)
            if in_organ
            else (bank_choice.recommend, bank_choice.banks_table)
        )
        recipe, ranking = rule()
        console.print(table(ranking))
        _say(str(recipe))
        return
    if banks:
        content = bank_choice.run_banks(cohort, backbone, data=data)
        console.print(bank_choice.banks_table(bank_choice.ranked({content["cohort"]: content})))
        _say(f"written: {bank_choice.write_banks(content, recorded=record)}")
        return
    if in_organ:
        content = in_organ_choice.run_in_organ(cohort, backbone, data=data)
        console.print(in_organ_choice.in_organ_table(content["variants"]))
        _say(f"written: {in_organ_choice.write_in_organ(content, recorded=record)}")
        return
    content = ablation.run_ablation(cohort, backbone, data=data)
    console.print(studies.single_table(content))
    console.print(studies.factorial_table(content))
    _say(f"ablation: {ablation.write_ablation(content, recorded=False)}")
    if record:
        _say(f"recorded: {ablation.write_ablation(content, recorded=True)}")


@app.command()
def alarm(
    cohort: CohortOption = "phantom",
    define: Annotated[bool, typer.Option("--define", help="Fix and lock the limits, on selection splits.")] = False,
    record: Annotated[bool, typer.Option("--record", help="Write the committed report; logs the look.")] = False,
    reason: ReasonOption = "",
) -> None:
    """Does the label-free alarm fire where D fails? Tries conditions that its limits were not fixed on."""
    from covtoken.studies import alarm as gate

    if define:
        limits, rows = gate.define(reason=reason)
        rows = [row | gate.judged(row, limits) for row in rows]
        title, path = f"limits: {limits}", None
    else:
        report, path = gate.test(cohort, record=record)
        rows, title = report.chart_data["conditions"], f"alarm, {report.cohort}, {report.split}: {report.decision}"
    table = Table(title=escape(title))
    for column in ("condition", "units", "D", "A", "D failed", "backing", "drift", "alarm"):
        table.add_column(column, justify="left" if column == "condition" else "right")
    for row in rows:
        numbers = ("" if row[name] is None else f"{row[name]:.2f}" for name in ("backing", "drift"))
        scores = (f"{row[name]:.3f}" for name in ("auroc_d", "auroc_a"))
        name = " ".join(filter(None, (row.get("cohort"), row["condition"])))
        table.add_row(
            name, f"{row['units']:.0f}", *scores, "failed" if row["failed"] else "", *numbers, "ALARM" * row["fired"]
        )
    console.print(table)
    _say(gate.agreement_line(gate.right_counts(rows)))
    if path is not None:
        _say(f"report: {path}")


@app.command()
def report() -> None:
    """Write the tables that show committed reports: the README's, and the data cards' sizes."""
    from covtoken.paper import readme_table

    for path in readme_table.write_all():
        _say(f"wrote {path}")


@app.command()
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
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    write_report(read_report(path).signed(name, when, remark), path)
    _say(f"{path}: signed by {name}")


def main() -> None:
    """Entry point: a ``CovtokenError`` is one line on standard error and exit code 2, a warning one line.

    A terminal that lacks a character gets the nearest it has, so that no result is lost in printing it.
    """
    codecs.register_error("covtoken", _nearest)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="covtoken")
    warnings.formatwarning = lambda message, *_, **__: f"covtoken: warning: {' '.join(str(message).split())}\n"
    try:
        app()
    except CovtokenError as error:
        print(f"covtoken: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _say(line: str) -> None:
    """Print a line as it is: names of folders and files are no markup, and nothing is cut."""
    console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)


def _nearest(error: UnicodeError) -> tuple[str, int]:
    """Give the ASCII words for characters that a terminal cannot print."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in missing), error.end


_PLAIN = {"−": "-", "–": "-", "…": "...", "×": "x", "→": "->", "≤": "<=", "≥": ">=", "µ": "mu", "μ": "mu", "ρ": "rho"}
