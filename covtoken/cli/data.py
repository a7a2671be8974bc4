"""List the data sets, check a cohort's files, get a data set."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.console import Console

from covtoken.cli.options import DataOption, console, say

app = typer.Typer(
    help="List the data sets, check a cohort's files before a gate does, get a data set.", no_args_is_help=True
)
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, for programs.")]
_talk = Console(stderr=True)


@app.command(name="list")
def list_(as_json: JsonOption = False) -> None:
    """List every cohort and data set: is it here, what is it, whose licence, what to type next.

    A folder counts as found by its name under COVTOKEN_DATA; nothing in it is opened. External cohorts are listed and
    stay shut: the confirmation alone opens them.
    """
    from covtoken.cli.data_tables import list_table
    from covtoken.data.fetch.data_sets import DATA_SETS, place_of
    from covtoken.paths import data_root

    root, rows = data_root(), []
    for known in DATA_SETS.values():
        place = place_of(known, root)
        found = place is not None or not known.folder  # a drawn cohort is always there
        rows.append(
            {
                **{"name": known.name, "kind": known.kind, "found": found, "folder": known.folder or None},
                **{"modality": known.modality, "licence": known.licence, "next": known.next_command(found)},
            }
        )
    if as_json:
        typer.echo(json.dumps({"root": None if root is None else str(root), "data_sets": rows}, indent=1))
        return
    console.print(list_table(rows))
    if root is None:
        _tell("COVTOKEN_DATA is not set: set it to the folder that holds your data sets, or give one to fetch by --to")
    else:
        _tell(f"looked under COVTOKEN_DATA = {root}" + ("" if root.is_dir() else ", which is not a folder"))


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="phantom, busi, … (covtoken data list) or a folder with index.csv.")],
    data: DataOption = None,
    as_json: JsonOption = False,
    every: Annotated[bool, typer.Option("--all", help="Print every problem, not the first ten of a kind.")] = False,
) -> None:
    """Read all pictures and masks of a cohort; print what it holds and what is wrong with it, file by file.

    Exit code 0: a gate would take it; 1: it holds a problem that stops a gate; 2: it cannot be found. Nothing is
    written, and no problem ends the check.
    """
    from covtoken.cli.data_tables import numbers_table, problem_lines
    from covtoken.data.check.run import check as run_check

    checked = run_check(name, data, _bar)
    if as_json:
        typer.echo(json.dumps(checked.as_json(), indent=1, ensure_ascii=False))
    else:
        if checked.numbers is not None:
            console.print(numbers_table(checked))
        for line in problem_lines(checked, most=None if every else 10):
            say(line)
    if checked.stops:
        raise typer.Exit(1)


def _bar(items, total: int):
    """Show a bar on standard error where that is a terminal."""
    from rich.progress import track

    return track(items, "pictures", total=total, console=_talk, disable=not sys.stderr.isatty(), transient=True)


def _tell(line: str) -> None:
    """Print a line of talk on standard error, as it is."""
    _talk.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)
